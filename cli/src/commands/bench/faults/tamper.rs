//! A server that follows the protocol, signs its replies, and alters one word of each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use protocol::hosting::PlanShelf;
use protocol::identifiers::Digest;
use protocol::message::{ModelCard, Refusal};
use protocol::server::service::{PlanHost, SegmentService};

use crate::pipeline::altering::{AlteredSegment, change, ciphertext_bytes};

/// An honest host, and what is done to its replies.
pub(super) struct Tampering {
    honest: PlanShelf,
    /// Which ciphertext, modulo their number.
    at: u32,
    happened: Arc<AtomicBool>,
}

impl Tampering {
    /// Alter the lowest bit of the first word of ciphertext number `at`, modulo their number.
    pub(super) fn new(honest: PlanShelf, at: u32) -> Self {
        Self { honest, at, happened: Arc::default() }
    }

    /// Whether it was done.
    pub(super) fn happened(&self) -> bool {
        self.happened.load(Ordering::Relaxed)
    }
}

impl PlanHost for Tampering {
    fn models(&self) -> Vec<ModelCard> {
        self.honest.models()
    }

    fn public_plan(&self, plan: &Digest) -> Option<Arc<[u8]>> {
        self.honest.public_plan(plan)
    }

    fn segment(&self, plan: &Digest, segment: u32) -> Result<Arc<dyn SegmentService>, Refusal> {
        let honest = self.honest.segment(plan, segment)?;
        let ciphertext = u64::from(self.at % honest.n_outputs().max(1));
        let position = ciphertext * ciphertext_bytes(&*honest);
        let happened = Arc::clone(&self.happened);
        let alter = move |start: u64, piece: &mut [u8]| {
            if change(start, piece, position..position + 1, |byte| *byte ^= 1) > 0 {
                happened.store(true, Ordering::Relaxed);
            }
        };
        Ok(AlteredSegment::new(honest, Arc::new(alter)))
    }
}
