//! Plans behind a server: from memory or from a folder of files.

mod forwarded;
mod hosted;
mod lane;
mod library;
mod masked;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nn_poly::encrypted::masked::{MaskKey, MaskedEvaluator};
use nn_poly::encrypted::{self, SegmentEvaluator, StoragePool};
use nn_poly::plan::{Plan, Trust};

pub use self::forwarded::{Forward, ForwardedRequest};
use self::hosted::{HostedPlan, hosted};
use self::lane::Lane;
pub use self::library::{PlanChanges, PlanLibrary};
use self::masked::HostedStage;
use crate::identifiers::{Digest, Label};
use crate::message::{ModelCard, Refusal, RefusalCode};
use crate::server::service::{
    Evaluated, PlanHost, ReplySink, RequestReceiver, SegmentService, ServiceError,
};
use crate::signature::{self, OwnerPublic, OwnerSignature, SignatureProblem, Subject};

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
    /// One plan is not signed as it should be.
    #[error("{path} is not hosted: {source}")]
    Signature {
        /// The plan's file.
        path: PathBuf,
        /// What is wrong with its signature.
        source: SignatureProblem,
    },
    /// A signature file that is none.
    #[error("the signature of {path} cannot be used")]
    SignatureFile {
        /// The plan's file.
        path: PathBuf,
        /// What is wrong with it.
        source: crate::Error,
    },
    /// A masked plan without a key for its masks.
    #[error(
        "the plan {name} has the trust setting masked, but the server has no mask key: serve it with --mask-key FILE"
    )]
    NoMaskKey {
        /// Name of the model.
        name: String,
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
/// waits for one piece of another request and not for all of it; one that waits for a slow client uses no processor.
#[derive(Debug, Default)]
pub struct PlanShelf {
    plans: HashMap<Digest, HostedPlan>,
    lane: Arc<Lane>,
    /// Memory of finished requests, for the next ones.
    storage: Arc<StoragePool>,
    /// For plans of the trust setting masked.
    mask_key: Option<Arc<MaskKey>>,
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

    /// Hosts masked plans too, with masks from this key. Servers that stand in for one another need
    /// the same.
    #[must_use]
    pub fn with_mask_key(mut self, key: MaskKey) -> Self {
        self.mask_key = Some(Arc::new(key));
        self
    }

    /// Loads every `*.plan` file of a folder.
    ///
    /// # Errors
    /// - [`HostingError::Folder`], [`HostingError::NoPlans`] for the folder.
    /// - [`HostingError::Plan`], [`HostingError::Evaluator`] naming the file or model.
    pub fn open_directory(path: &Path) -> Result<Self, HostingError> {
        Self::open_directory_of(path, &[])
    }

    /// As [`open_directory`](Self::open_directory), for plans that one of these owners has signed
    /// (`NAME.plan.sig`). Without owners, plans need no signature, but one that is there must be
    /// right.
    ///
    /// # Errors
    /// - As [`open_directory`](Self::open_directory).
    /// - [`HostingError::Signature`], [`HostingError::SignatureFile`]: a plan that is not signed, or
    ///   not by these owners.
    pub fn open_directory_of(path: &Path, owners: &[OwnerPublic]) -> Result<Self, HostingError> {
        Self::new().with_directory_of(path, owners)
    }

    /// As [`open_directory_of`](Self::open_directory_of), added to what this shelf holds.
    ///
    /// # Errors
    /// - As [`open_directory_of`](Self::open_directory_of).
    /// - [`HostingError::NoMaskKey`]: a masked plan, and no key for it.
    pub fn with_directory_of(
        mut self,
        path: &Path,
        owners: &[OwnerPublic],
    ) -> Result<Self, HostingError> {
        let files = plan_files(path)?;
        if files.is_empty() {
            return Err(HostingError::NoPlans { path: path.to_owned() });
        }
        for file in files {
            let plan = self.prepare_file(&file, owners)?;
            self.place(plan);
        }
        Ok(self)
    }

    /// Announces this signature with a plan. It is for the caller to have checked it.
    pub fn sign(&mut self, plan: &Digest, signature: Option<OwnerSignature>) {
        if let Some(hosted) = self.plans.get_mut(plan) {
            hosted.card.signature = signature;
        }
    }

    /// Adds a plan under its digest; returns the digest.
    ///
    /// Cost: builds the gathered maps of every segment.
    ///
    /// # Errors
    /// - [`HostingError::Evaluator`] when a segment's parameters are not usable.
    /// - [`HostingError::NoMaskKey`]: a masked plan, and no key for it.
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
        let plan = self.prepare(plan, digest)?;
        self.place(plan);
        Ok(())
    }

    /// Takes a plan away. Requests under way keep what they need of it.
    ///
    /// Cost: memory is given back when the last of them ends.
    pub fn remove(&mut self, plan: &Digest) {
        self.plans.remove(plan);
    }

    fn place(&mut self, plan: HostedPlan) {
        self.plans.insert(plan.card.plan, plan);
    }

    /// Reads and checks a plan's file, signature included, without placing it.
    fn prepare_file(
        &self,
        file: &Path,
        owners: &[OwnerPublic],
    ) -> Result<HostedPlan, HostingError> {
        let plan = Plan::load(file)
            .map_err(|source| HostingError::Plan { path: file.to_owned(), source })?;
        let signature = checked_signature(file, &plan, owners)?;
        let mut hosted = self.prepare(&plan, Digest(plan.digest().0))?;
        hosted.card.signature = signature;
        Ok(hosted)
    }

    fn prepare(&self, plan: &Plan, digest: Digest) -> Result<HostedPlan, HostingError> {
        let public = plan.public();
        let segments = match public.trust {
            Trust::Owner => self.segments(plan)?,
            Trust::Masked | _ => self.masked_stages(plan, digest)?,
        };
        hosted(plan, digest, segments)
    }

    fn segments(&self, plan: &Plan) -> Result<Vec<Arc<dyn SegmentService>>, HostingError> {
        let public = plan.public();
        let evaluator = |source| HostingError::Evaluator { name: public.name.clone(), source };
        public
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
                let lane = Arc::clone(&self.lane);
                let hosted = HostedSegment { evaluator: Arc::new(evaluator), lane };
                Ok(Arc::new(hosted) as Arc<dyn SegmentService>)
            })
            .collect()
    }

    /// The stages of a masked plan: what a request asks for is one of them, with all its residues.
    fn masked_stages(
        &self,
        plan: &Plan,
        digest: Digest,
    ) -> Result<Vec<Arc<dyn SegmentService>>, HostingError> {
        let name = &plan.public().name;
        let Some(key) = &self.mask_key else {
            return Err(HostingError::NoMaskKey { name: name.clone() });
        };
        (0..plan.public().stages.len())
            .map(|stage| {
                let evaluator = MaskedEvaluator::new(plan, stage, Arc::clone(key))
                    .map_err(|source| HostingError::Plan { path: name.clone().into(), source })?
                    .with_pool(&self.storage)
                    .named(nn_poly::plan::Digest(digest.0));
                let lane = Arc::clone(&self.lane);
                let hosted = HostedStage { evaluator: Arc::new(evaluator), lane };
                Ok(Arc::new(hosted) as Arc<dyn SegmentService>)
            })
            .collect()
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

    fn n_plans(&self) -> usize {
        self.len()
    }

    fn public_plan(&self, plan: &Digest) -> Option<Arc<[u8]>> {
        self.plans.get(plan).map(|plan| Arc::clone(&plan.public))
    }

    fn plan_name(&self, plan: &Digest) -> Option<Label> {
        self.plans.get(plan).map(|plan| plan.card.name.clone())
    }

    fn signature(&self, plan: &Digest) -> Option<OwnerSignature> {
        self.plans.get(plan)?.card.signature
    }

    fn segment(&self, plan: &Digest, segment: u32) -> Result<Arc<dyn SegmentService>, Refusal> {
        let plan = self.plans.get(plan).ok_or(Refusal::new(RefusalCode::UnknownPlan))?;
        let hosted =
            plan.segments.get(segment as usize).ok_or(Refusal::new(RefusalCode::UnknownSegment))?;
        Ok(Arc::clone(hosted))
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
        let Self { evaluator, lane, receiver, busy } = *self;
        let block = receiver
            .finish()
            .map_err(|source| ServiceError::Malformed { source: Box::new(source) })?;
        let outcome =
            in_turns(&lane, busy, sink, |emit| evaluator.evaluate(&block, emit).map_err(failed));
        evaluator.recycle(block);
        outcome
    }
}

/// Evaluates in turns with others, a piece of the reply at a time; `busy` is what the request took before.
fn in_turns(
    lane: &Lane,
    mut busy: Duration,
    sink: &mut ReplySink<'_>,
    evaluate: impl FnOnce(
        &mut dyn FnMut(Vec<u8>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, ServiceError>,
) -> Result<Evaluated, ServiceError> {
    let order = lane.evaluation();
    // An empty piece asks whether anybody still wants the rest.
    let Some(turn) = order.turn(|| sink(Bytes::new()).is_continue()) else {
        return Err(ServiceError::Stopped);
    };
    let mut turn = Some(turn);
    let flow = evaluate(&mut |piece| {
        busy += turn.take().map(lane::Turn::end).unwrap_or_default();
        sink(Bytes::from(piece))?;
        turn = order.turn(|| sink(Bytes::new()).is_continue());
        if turn.is_some() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    busy += turn.map(lane::Turn::end).unwrap_or_default();
    match flow {
        ControlFlow::Continue(()) => Ok(Evaluated { busy }),
        ControlFlow::Break(()) => Err(ServiceError::Stopped),
    }
}

/// The plan files of a folder, in the order of their names.
fn plan_files(path: &Path) -> Result<Vec<PathBuf>, HostingError> {
    let failed = |source| HostingError::Folder { path: path.to_owned(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        if file.extension().is_some_and(|extension| extension == PLAN_EXTENSION) {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// The signature beside a plan's file, if it counts.
///
/// # Errors
/// [`HostingError::Signature`], [`HostingError::SignatureFile`].
pub fn checked_signature(
    file: &Path,
    plan: &Plan,
    owners: &[OwnerPublic],
) -> Result<Option<OwnerSignature>, HostingError> {
    let path = file.to_owned();
    let signature = signature::load_signature(file)
        .map_err(|source| HostingError::SignatureFile { path: path.clone(), source })?;
    signature::check(signature.as_ref(), &Subject::of_plan(plan), owners)
        .map_err(|source| HostingError::Signature { path, source })?;
    Ok(signature)
}

fn failed(source: encrypted::Error) -> ServiceError {
    ServiceError::Failed { source: Box::new(source) }
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
