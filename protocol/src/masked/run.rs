//! Any number of samples through a masked plan.

use std::sync::Arc;
use std::time::Duration;

use fingerprint::{MaskedVerdict, judge_masked};
use ndarray::{Axis, Slice};
use nn_poly::encrypted::ClientTimes;
use nn_poly::integer::{IntegerMatrix, ScoreMatrix};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::block::{BlockOutcome, MaskedRound, MaskedSession};
use super::plan::MaskedPlan;
use crate::client::RemoteEvaluator;
use crate::runner::RunProgress;
use crate::session::{Result, SessionError};

/// Most blocks in flight.
const MAX_CONNECTIONS: usize = 64;

/// How much of a run is in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaskedOptions {
    /// Blocks under way at the same time. Default 1: a block holds all residues of a stage, and its
    /// values between rounds.
    pub connections: usize,
}

impl Default for MaskedOptions {
    fn default() -> Self {
        Self { connections: 1 }
    }
}

/// The result of a run.
#[derive(Debug)]
pub struct MaskedResult {
    /// One row per class, one column per sample; none if the verdict is
    /// [`MaskedVerdict::Refuted`]. Under [`MaskedVerdict::Unverified`] nothing vouches for them.
    pub scores: Option<ScoreMatrix>,
    /// Taken once, over all blocks.
    pub verdict: MaskedVerdict,
    /// What it took.
    pub costs: MaskedCosts,
}

/// Public counts and times of a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct MaskedCosts {
    /// Blocks, each with a request per stage.
    pub blocks: u64,
    /// Payload and seed bytes of all requests.
    pub bytes_up: u64,
    /// Payload bytes of all replies.
    pub bytes_down: u64,
    /// Busy time of the client.
    pub client: ClientTimes,
    /// Busy time of evaluation as the server reported it.
    pub server: Duration,
}

/// Runs `inputs`, one row per input neuron and one column per sample, on servers with the plan.
///
/// A block takes its rounds one after the other; blocks do not wait for each other. The verdict is taken
/// when the last one has ended, and a [`MaskedVerdict::Refuted`] one releases no scores.
///
/// # Errors
/// - [`SessionError::Setting`] for a number of connections out of range.
/// - [`SessionError::Protocol`] when the server cannot be reached, refuses, or breaks the protocol.
/// - Those of [`MaskedSession`].
pub async fn run(
    plan: &Arc<MaskedPlan>,
    inputs: &IntegerMatrix,
    remote: &Arc<RemoteEvaluator>,
    options: MaskedOptions,
    progress: &Arc<dyn RunProgress>,
) -> Result<MaskedResult> {
    if !(1..=MAX_CONNECTIONS).contains(&options.connections) {
        let (name, max) = ("number of connections", MAX_CONNECTIONS);
        return Err(SessionError::Setting { name, actual: options.connections, min: 1, max });
    }
    plan.check_inputs(inputs)?;
    let (n_samples, step) = (inputs.ncols(), plan.samples_per_block());
    let n_blocks = n_samples.div_ceil(step);
    let places = Arc::new(Semaphore::new(options.connections));
    let mut tasks = JoinSet::new();
    // Every block passes every round: told as one round with that many steps.
    progress.round_started(0, 1, 0, 1, n_blocks * plan.n_stages());
    for block in 0..n_blocks {
        let range = block * step..((block + 1) * step).min(n_samples);
        let samples = inputs.slice_axis(Axis(1), Slice::from(range)).to_owned();
        let work = Block {
            plan: Arc::clone(plan),
            remote: Arc::clone(remote),
            progress: Arc::clone(progress),
        };
        let places = Arc::clone(&places);
        tasks.spawn(async move {
            let _place = places.acquire().await.map_err(|_| panicked())?;
            work.run(samples).await.map(|(outcome, costs)| (block, outcome, costs))
        });
    }
    let mut scores = ScoreMatrix::zeros((plan.public().class_names.len(), n_samples));
    let (mut costs, mut found) = (MaskedCosts::default(), vec![(0, 0); n_blocks]);
    while let Some(joined) = tasks.join_next().await {
        let (block, outcome, spent) = joined.map_err(|_| panicked())??;
        let range = block * step..((block + 1) * step).min(n_samples);
        scores.slice_axis_mut(Axis(1), Slice::from(range)).assign(&outcome.scores);
        if let Some(place) = found.get_mut(block) {
            *place = (outcome.n_canaries, outcome.n_failed);
        }
        costs.add(&spent, &outcome.times);
    }
    progress.round_finished();
    let verdict = judge_masked(&found, plan.soundness(n_samples));
    let is_refuted = matches!(verdict, MaskedVerdict::Refuted { .. });
    Ok(MaskedResult { scores: (!is_refuted).then_some(scores), verdict, costs })
}

impl MaskedCosts {
    fn add(&mut self, other: &Self, times: &ClientTimes) {
        self.blocks += 1;
        self.bytes_up += other.bytes_up;
        self.bytes_down += other.bytes_down;
        self.server += other.server;
        self.client.add(times);
    }
}

/// What one block needs to run.
struct Block {
    plan: Arc<MaskedPlan>,
    remote: Arc<RemoteEvaluator>,
    progress: Arc<dyn RunProgress>,
}

impl Block {
    /// All rounds of one block.
    async fn run(self, samples: IntegerMatrix) -> Result<(BlockOutcome, MaskedCosts)> {
        let plan = Arc::clone(&self.plan);
        let mut session = blocking(move || MaskedSession::new(&plan, &samples)).await?;
        let mut costs = MaskedCosts::default();
        loop {
            let (waiting, request) = blocking(move || {
                let request = session.prepare()?;
                Ok((session, request))
            })
            .await?;
            let mut on_progress = |_: &_| std::ops::ControlFlow::Continue(());
            let reply = self.remote.evaluate(&request, &mut on_progress).await?;
            costs.bytes_up += request.payload().total_bytes() + request.header().seed.len() as u64;
            costs.bytes_down += reply.bytes.len() as u64;
            costs.server += Duration::from_micros(reply.receipt.receipt().evaluate_micros);
            drop(request);
            let (opened, round) = blocking(move || {
                let mut session = waiting;
                let round = session.open(&reply.bytes)?;
                Ok((session, round))
            })
            .await?;
            self.progress.block_finished();
            session = opened;
            if let MaskedRound::Finished(outcome) = round {
                return Ok((outcome, costs));
            }
        }
    }
}

/// Runs work that keeps a processor busy off the asynchronous threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| panicked())?
}

fn panicked() -> SessionError {
    SessionError::Internal { what: "a worker thread panicked" }
}
