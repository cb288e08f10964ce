//! Plans behind a server: from memory or from a folder of files.

mod lane;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nn_poly::encrypted::{self, SegmentEvaluator, StoragePool};
use nn_poly::plan::Plan;

use self::lane::Lane;
use crate::identifiers::{Digest, Label};
use crate::message::{ModelCard, Refusal, RefusalCode};
use crate::server::service::{
    Evaluated, PlanHost, ReplySink, RequestReceiver, SegmentService, ServiceError,
};

/// File name extension of plans in a folder.
pub const PLAN_EXTENSION: &str = "plan";

/// Why plans cannot be hosted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostingError {
    /// The folder cannot be read.
    #[error("cannot read the plan folder {path}: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The folder holds no plan.
    #[error("the folder {path} holds no *.plan file: compile a model with --out {path}/NAME.plan")]
    NoPlans {
        /// The folder.
        path: PathBuf,
    },
    /// One file is not a usable plan.
    #[error("{path} is not a usable plan")]
    Plan {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: nn_poly::Error,
    },
    /// A checked plan does not evaluate.
    #[error("the plan {name} cannot be evaluated")]
    Evaluator {
        /// Name of the model.
        name: String,
        /// What is wrong.
        source: encrypted::Error,
    },
}

/// A set of plans, addressed by digest.
///
/// Every request uses all cores for one piece of its payload or of its reply at a time and then lets
/// the others have them: an upload next, then the evaluation that began first, so that an upload
/// waits for one piece of another request and not for all of it, and a slow client holds up nobody.
#[derive(Debug, Default)]
pub struct PlanShelf {
    plans: HashMap<Digest, HostedPlan>,
    lane: Arc<Lane>,
    /// Memory of finished requests, for the next ones.
    storage: Arc<StoragePool>,
}

#[derive(Debug)]
struct HostedPlan {
    card: ModelCard,
    public: Arc<[u8]>,
    segments: Vec<Arc<HostedSegment>>,
}

/// One segment: the evaluator behind the protocol's interface.
#[derive(Debug)]
pub struct HostedSegment {
    evaluator: Arc<SegmentEvaluator>,
    lane: Arc<Lane>,
}

impl PlanShelf {
    /// An empty shelf.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Loads every `*.plan` file of a folder.
    ///
    /// # Errors
    /// - [`HostingError::Folder`], [`HostingError::NoPlans`] for the folder.
    /// - [`HostingError::Plan`], [`HostingError::Evaluator`] naming the file or model.
    pub fn open_directory(path: &Path) -> Result<Self, HostingError> {
        let failed = |source| HostingError::Folder { path: path.to_owned(), source };
        let mut files = Vec::new();
        for entry in std::fs::read_dir(path).map_err(failed)? {
            let file = entry.map_err(failed)?.path();
            if file.extension().is_some_and(|extension| extension == PLAN_EXTENSION) {
                files.push(file);
            }
        }
        if files.is_empty() {
            return Err(HostingError::NoPlans { path: path.to_owned() });
        }
        files.sort();
        let mut shelf = Self::new();
        for file in files {
            let plan = Plan::load(&file)
                .map_err(|source| HostingError::Plan { path: file.clone(), source })?;
            shelf.insert(&plan)?;
        }
        Ok(shelf)
    }

    /// Adds a plan under its digest; returns the digest.
    ///
    /// Cost: builds the gathered maps of every segment.
    ///
    /// # Errors
    /// [`HostingError::Evaluator`] when a segment's parameters are not usable.
    pub fn insert(&mut self, plan: &Plan) -> Result<Digest, HostingError> {
        let digest = Digest(plan.digest().0);
        self.insert_as(plan, digest)?;
        Ok(digest)
    }

    /// Adds a plan under another plan's digest: how the test kit and the demonstration play a server
    /// that runs a model it should not.
    ///
    /// # Errors
    /// As [`PlanShelf::insert`].
    pub fn insert_as(&mut self, plan: &Plan, digest: Digest) -> Result<(), HostingError> {
        let public = plan.public();
        let evaluator = |source| HostingError::Evaluator { name: public.name.clone(), source };
        let segments = public
            .segments
            .iter()
            .enumerate()
            .map(|(index, segment)| {
                let (structure, weights) =
                    plan.network().stage(segment.stage as usize).map_err(|source| {
                        HostingError::Plan { path: public.name.clone().into(), source }
                    })?;
                let evaluator = SegmentEvaluator::new(index, segment, structure, weights)
                    .map_err(evaluator)?
                    .with_pool(Arc::clone(&self.storage));
                Ok(Arc::new(HostedSegment {
                    evaluator: Arc::new(evaluator),
                    lane: Arc::clone(&self.lane),
                }))
            })
            .collect::<Result<Vec<_>, HostingError>>()?;
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
        };
        self.plans.insert(digest, HostedPlan { card, public: bytes.into(), segments });
        Ok(())
    }

    /// Number of plans.
    #[must_use]
    pub fn len(&self) -> usize {
        self.plans.len()
    }

    /// Whether the shelf is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.plans.is_empty()
    }
}

impl PlanHost for PlanShelf {
    fn models(&self) -> Vec<ModelCard> {
        let mut cards: Vec<_> = self.plans.values().map(|plan| plan.card.clone()).collect();
        cards.sort_by(|a, b| (a.name.as_str(), a.plan.0).cmp(&(b.name.as_str(), b.plan.0)));
        cards
    }

    fn public_plan(&self, plan: &Digest) -> Option<Arc<[u8]>> {
        self.plans.get(plan).map(|plan| Arc::clone(&plan.public))
    }

    fn segment(&self, plan: &Digest, segment: u32) -> Result<Arc<dyn SegmentService>, Refusal> {
        let plan = self.plans.get(plan).ok_or(Refusal::new(RefusalCode::UnknownPlan))?;
        let hosted =
            plan.segments.get(segment as usize).ok_or(Refusal::new(RefusalCode::UnknownSegment))?;
        Ok(Arc::clone(hosted) as Arc<dyn SegmentService>)
    }

    fn limit_spare_memory(&self, max_bytes: u64) -> u64 {
        self.storage.limit(usize::try_from(max_bytes).unwrap_or(usize::MAX));
        self.storage.max_bytes() as u64
    }
}

impl SegmentService for HostedSegment {
    fn request_bytes(&self) -> u64 {
        self.evaluator.context().request_bytes()
    }

    fn reply_bytes(&self) -> u64 {
        self.evaluator.context().reply_bytes()
    }

    fn n_inputs(&self) -> u32 {
        narrow(self.evaluator.context().n_inputs())
    }

    fn n_outputs(&self) -> u32 {
        narrow(self.evaluator.context().n_outputs())
    }

    fn memory_bytes(&self) -> u64 {
        self.evaluator.memory_bytes()
    }

    fn begin(&self, seed: [u8; 32]) -> Result<Box<dyn RequestReceiver>, ServiceError> {
        let receiver = self.evaluator.receive(seed).map_err(failed)?;
        let evaluator = Arc::clone(&self.evaluator);
        let lane = Arc::clone(&self.lane);
        Ok(Box::new(HostedRequest { evaluator, lane, receiver, busy: Duration::ZERO }))
    }
}

/// One request on its way through a segment.
struct HostedRequest {
    evaluator: Arc<SegmentEvaluator>,
    lane: Arc<Lane>,
    receiver: encrypted::RequestReceiver,
    busy: Duration,
}

impl RequestReceiver for HostedRequest {
    fn push(&mut self, bytes: &[u8]) -> Result<(), ServiceError> {
        let turn = self.lane.upload();
        let outcome = self.receiver.push(bytes);
        self.busy += turn.end();
        outcome.map_err(|source| ServiceError::Malformed { source: Box::new(source) })
    }

    fn evaluate(self: Box<Self>, sink: &mut ReplySink<'_>) -> Result<Evaluated, ServiceError> {
        let Self { evaluator, lane, receiver, mut busy } = *self;
        let block = receiver
            .finish()
            .map_err(|source| ServiceError::Malformed { source: Box::new(source) })?;
        let order = lane.evaluation();
        let mut turn = Some(order.turn());
        let flow = evaluator
            .evaluate(&block, &mut |piece| {
                busy += turn.take().map(lane::Turn::end).unwrap_or_default();
                let flow = sink(Bytes::from(piece));
                if flow.is_continue() {
                    turn = Some(order.turn());
                }
                flow
            })
            .map_err(failed)?;
        busy += turn.map(lane::Turn::end).unwrap_or_default();
        evaluator.recycle(block);
        match flow {
            ControlFlow::Continue(()) => Ok(Evaluated { busy }),
            ControlFlow::Break(()) => Err(ServiceError::Stopped),
        }
    }
}

fn failed(source: encrypted::Error) -> ServiceError {
    ServiceError::Failed { source: Box::new(source) }
}

/// A model's name as a label; names that are no label are announced without a name.
fn label(name: &str) -> Label {
    Label::new(name)
        .unwrap_or_else(|_| Label::new("unnamed model").expect("invariant: plain text is a label"))
}

fn narrow(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shelf_keeps_no_more_than_its_server_allows() {
        let shelf = PlanShelf::new();
        let by_itself = shelf.storage.max_bytes() as u64;
        assert_eq!(shelf.limit_spare_memory(u64::MAX), by_itself);
        assert_eq!(shelf.limit_spare_memory(5), 5);
        assert_eq!(shelf.limit_spare_memory(u64::MAX), 5, "two servers of one shelf");
    }
}
