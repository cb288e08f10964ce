//! A plan with what serves its requests.

use std::fmt;
use std::sync::Arc;

use nn_poly::plan::Plan;

use super::{HostingError, narrow};
use crate::identifiers::{Digest, Label};
use crate::message::ModelCard;
use crate::server::service::SegmentService;

/// A plan on a shelf.
pub(super) struct HostedPlan {
    pub(super) card: ModelCard,
    pub(super) public: Arc<[u8]>,
    /// What requests ask for: segments, or the stages of a masked plan.
    pub(super) segments: Vec<Arc<dyn SegmentService>>,
}

impl fmt::Debug for HostedPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostedPlan").field("card", &self.card).finish_non_exhaustive()
    }
}

/// A plan with what serves its requests.
pub(super) fn hosted(
    plan: &Plan,
    digest: Digest,
    segments: Vec<Arc<dyn SegmentService>>,
) -> Result<HostedPlan, HostingError> {
    let public = plan.public();
    let bytes = public
        .to_bytes()
        .map_err(|source| HostingError::Plan { path: public.name.clone().into(), source })?;
    let card = ModelCard {
        plan: digest,
        name: label(&public.name),
        n_inputs: narrow(plan.network().n_inputs()),
        n_classes: narrow(plan.network().n_scores()),
        n_segments: narrow(segments.len()),
        public_plan_bytes: narrow(bytes.len()),
        signature: None,
    };
    Ok(HostedPlan { card, public: bytes.into(), segments })
}

/// A model's name as a label; names that are no label are announced without a name.
fn label(name: &str) -> Label {
    Label::new(name)
        .unwrap_or_else(|_| Label::new("unnamed model").expect("invariant: plain text is a label"))
}
