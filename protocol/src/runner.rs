//! Drives sessions over a connection: batches, rounds, blocks in flight.
//!
//! Encryption of one block, transport of another and decryption of a third overlap; at most
//! [`RunOptions::connections`] blocks are in flight, which bounds the memory. A lost connection is
//! the business of [`RemoteEvaluator`]: it sends the same bytes again, and finished rounds stay
//! finished.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fingerprint::Verdict;
use ndarray::{Axis, Slice};
use nn_poly::integer::{IntegerMatrix, ScoreMatrix};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::client::RemoteEvaluator;
use crate::session::{
    BatchResult, BatchSession, ClientPlan, OpenedBlock, Result, Round, SessionError, Tally,
};

/// Largest number of samples of one batch.
const MAX_BATCH: usize = 1 << 20;
/// Largest number of blocks in flight.
const MAX_CONNECTIONS: usize = 64;

/// How a run is cut and how much of it is in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunOptions {
    /// Most samples of one batch (one key per segment, one verdict per round); batches are cut at
    /// whole blocks below it, see [`ClientPlan::samples_per_batch`]. Default 8,192.
    pub samples_per_batch: usize,
    /// Blocks in flight. Default 2.
    pub connections: usize,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self { samples_per_batch: 8192, connections: 2 }
    }
}

impl RunOptions {
    /// Batches of about as many samples as the plan was compiled for, but no less than a block of
    /// the smallest segment holds: blocks cost the same however little is in them.
    #[must_use]
    pub fn for_plan(plan: &ClientPlan) -> Self {
        let expected = usize::try_from(plan.plan().public().expected_samples).unwrap_or(MAX_BATCH);
        let block = plan.samples_per_block().into_iter().min().unwrap_or(1).max(1);
        Self { samples_per_batch: expected.max(block).min(MAX_BATCH), ..Self::default() }
    }
}

/// Told how a run goes on. Called from worker threads.
pub trait RunProgress: Send + Sync {
    /// A round begins.
    fn round_started(
        &self,
        batch: usize,
        n_batches: usize,
        segment: usize,
        n_segments: usize,
        n_blocks: usize,
    );
    /// A block of the round was sent, answered, checked and opened.
    fn block_finished(&self);
    /// The round was judged.
    fn round_finished(&self);
}

/// Watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl RunProgress for Silent {
    fn round_started(&self, _: usize, _: usize, _: usize, _: usize, _: usize) {}
    fn block_finished(&self) {}
    fn round_finished(&self) {}
}

/// What a run ended with.
#[derive(Debug)]
pub enum RunOutcome {
    /// Every round of every batch was intact.
    Verified(RunResult),
    /// A round was not; nothing is released.
    Rejected {
        /// What was found.
        verdict: Verdict,
        /// The batch in which it was found.
        batch: usize,
        /// Counts up to then.
        tally: Tally,
        /// Time in transport, see [`RunResult::network`].
        network: Duration,
        /// Busy time the server reported.
        evaluate: Duration,
    },
}

/// The scores of a verified run and what it took.
#[derive(Debug)]
pub struct RunResult {
    /// One row per class, one column per sample.
    pub scores: ScoreMatrix,
    /// Per sample, whether a value left the range its segment expects.
    pub out_of_calibration: Vec<bool>,
    /// `Intact`, with the weakest soundness of the batches.
    pub verdict: Verdict,
    /// Counts and client times.
    pub tally: Tally,
    /// Number of batches.
    pub batches: usize,
    /// Time blocks spent between sending and the last byte of their reply, without the server's own
    /// evaluation; blocks in flight together count each.
    pub network: Duration,
    /// Busy time of evaluation as the server reported it.
    pub evaluate: Duration,
}

/// Times of transport, summed over blocks.
#[derive(Debug, Default)]
struct Transport {
    network: Duration,
    evaluate: Duration,
}

/// Runs any number of samples: `inputs` has one row per input neuron, one column per sample.
///
/// # Errors
/// - [`SessionError::Setting`] for a batch size or number of connections out of range.
/// - [`SessionError::EmptyBatch`] without samples.
/// - [`SessionError::Protocol`] when the server cannot be reached, refuses, or breaks the protocol.
/// - those of [`BatchSession`].
pub async fn run(
    plan: &Arc<ClientPlan>,
    inputs: &IntegerMatrix,
    remote: &Arc<RemoteEvaluator>,
    options: &RunOptions,
    progress: &Arc<dyn RunProgress>,
) -> Result<RunOutcome> {
    check_setting("samples per batch", options.samples_per_batch, MAX_BATCH)?;
    check_setting("number of connections", options.connections, MAX_CONNECTIONS)?;
    let n_samples = inputs.ncols();
    if n_samples == 0 {
        return Err(SessionError::EmptyBatch);
    }
    let per_batch = plan.samples_per_batch(options.samples_per_batch);
    let n_batches = n_samples.div_ceil(per_batch);
    let transport = Arc::new(Mutex::new(Transport::default()));
    let mut total = Tally::default();
    let mut scores = ScoreMatrix::zeros((plan.network().n_scores(), n_samples));
    let mut out_of_calibration = Vec::with_capacity(n_samples);
    let mut verdict: Option<Verdict> = None;
    for batch in 0..n_batches {
        let first = batch * per_batch;
        let columns = first..(first + per_batch).min(n_samples);
        let samples = inputs.slice_axis(Axis(1), Slice::from(columns.clone())).to_owned();
        let mut session = BatchSession::new(plan, samples)?;
        let result = loop {
            let n_segments = plan.plan().public().segments.len();
            let (segment, n_blocks) = (session.segment(), session.n_blocks());
            progress.round_started(batch, n_batches, segment, n_segments, n_blocks);
            let (back, blocks) =
                run_round(session, remote, options.connections, &transport, progress).await?;
            let round = blocking(move || back.finish_round(blocks)).await?;
            progress.round_finished();
            match round {
                Round::Continue(next) => session = *next,
                Round::Finished(result) => break result,
                Round::Rejected { verdict, tally } => {
                    total.add(&tally);
                    let transport = transport.lock().unwrap_or_else(PoisonError::into_inner);
                    return Ok(RunOutcome::Rejected {
                        verdict,
                        batch,
                        tally: total,
                        network: transport.network,
                        evaluate: transport.evaluate,
                    });
                }
            }
        };
        let BatchResult { scores: of_batch, out_of_calibration: flags, verdict: found, tally } =
            result;
        scores.slice_axis_mut(Axis(1), Slice::from(columns)).assign(&of_batch);
        out_of_calibration.extend(flags);
        total.add(&tally);
        verdict = Some(match verdict {
            Some(earlier) => weaker(earlier, found),
            None => found,
        });
    }
    let transport = transport.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(RunOutcome::Verified(RunResult {
        scores,
        out_of_calibration,
        verdict: verdict.ok_or(SessionError::EmptyBatch)?,
        tally: total,
        batches: n_batches,
        network: transport.network,
        evaluate: transport.evaluate,
    }))
}

/// Sends every block of a round and opens every reply; gives the session back for judgement.
async fn run_round(
    session: BatchSession,
    remote: &Arc<RemoteEvaluator>,
    connections: usize,
    transport: &Arc<Mutex<Transport>>,
    progress: &Arc<dyn RunProgress>,
) -> Result<(BatchSession, Vec<OpenedBlock>)> {
    let session = Arc::new(session);
    let in_flight = Arc::new(Semaphore::new(connections));
    // Cryptography uses every core by itself: one block at a time keeps memory and times honest.
    let lane = Arc::new(Semaphore::new(1));
    let mut tasks = JoinSet::new();
    for index in 0..session.n_blocks() {
        let task = BlockTask {
            session: Arc::clone(&session),
            remote: Arc::clone(remote),
            in_flight: Arc::clone(&in_flight),
            lane: Arc::clone(&lane),
            transport: Arc::clone(transport),
            progress: Arc::clone(progress),
        };
        tasks.spawn(task.run(index));
    }
    let mut blocks = Vec::with_capacity(session.n_blocks());
    while let Some(joined) = tasks.join_next().await {
        blocks.push(joined.map_err(|_| panicked())??);
    }
    let session = Arc::into_inner(session).ok_or_else(panicked)?;
    Ok((session, blocks))
}

struct BlockTask {
    session: Arc<BatchSession>,
    remote: Arc<RemoteEvaluator>,
    in_flight: Arc<Semaphore>,
    lane: Arc<Semaphore>,
    transport: Arc<Mutex<Transport>>,
    progress: Arc<dyn RunProgress>,
}

impl BlockTask {
    async fn run(self, index: usize) -> Result<OpenedBlock> {
        let _place = self.in_flight.acquire().await.map_err(|_| panicked())?;
        let session = Arc::clone(&self.session);
        let lane = self.lane.acquire().await.map_err(|_| panicked())?;
        let block = blocking(move || session.prepare(index)).await?;
        drop(lane);

        let started = Instant::now();
        let mut on_progress = |_: &_| std::ops::ControlFlow::Continue(());
        let reply = self.remote.evaluate(block.request(), &mut on_progress).await?;
        let evaluate = Duration::from_micros(reply.receipt.receipt().evaluate_micros);
        {
            let mut transport = self.transport.lock().unwrap_or_else(PoisonError::into_inner);
            transport.evaluate += evaluate;
            transport.network += started.elapsed().saturating_sub(evaluate);
        }

        let session = Arc::clone(&self.session);
        let lane = self.lane.acquire().await.map_err(|_| panicked())?;
        let opened = blocking(move || {
            let opened = session.open(block, &reply.bytes);
            drop(session);
            opened
        })
        .await?;
        drop(lane);
        self.progress.block_finished();
        Ok(opened)
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

/// The verdict that promises less.
fn weaker(a: Verdict, b: Verdict) -> Verdict {
    let (Verdict::Intact { soundness: x }, Verdict::Intact { soundness: y }) = (&a, &b) else {
        return a;
    };
    let least = |x: Option<f64>, y: Option<f64>| Some(x?.min(y?));
    Verdict::Intact {
        soundness: fingerprint::Soundness {
            every_slot_change_bits: least(x.every_slot_change_bits, y.every_slot_change_bits),
            one_percent_bits: least(x.one_percent_bits, y.one_percent_bits),
            one_sample_bits: least(x.one_sample_bits, y.one_sample_bits),
            reply_word_bits: least(x.reply_word_bits, y.reply_word_bits),
        },
    }
}

fn check_setting(name: &'static str, actual: usize, max: usize) -> Result<()> {
    if (1..=max).contains(&actual) {
        return Ok(());
    }
    Err(SessionError::Setting { name, actual, min: 1, max })
}
