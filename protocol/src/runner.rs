//! Drives sessions over a connection: batches, rounds, blocks in flight.
//!
//! ```text
//!  worker thread        encrypt ▒▒▒▒▒▒                    check, decrypt ▒▒▒▒▒▒
//!  connection            upload  ▒▒▒▒▒▒▒            download ▒▒▒▒▒▒▒▒
//!  server                 decode  ▒▒▒▒▒▒ evaluate ▒▒▒▒▒▒▒▒▒▒▒
//! ```
//! A block is sent while it is encrypted, and opened while its reply arrives; other blocks fill the
//! gaps. At most [`RunOptions::connections`] blocks are in flight, which bounds the memory. A lost
//! connection is the business of [`RemoteEvaluator`]: it sends the same bytes again, the block's
//! opening starts over, and finished rounds stay finished.

mod awaited;
mod batches;
mod records;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fingerprint::Verdict;
use nn_poly::integer::{IntegerMatrix, ScoreMatrix};
use nn_poly::plan::{MAX_BATCH_SAMPLES, batch_samples};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{JoinHandle, JoinSet};

use crate::client::{PreparedRequest, RemoteEvaluator, ReplySender, reply_queue};
use crate::error::{Error as ProtocolError, ResourceError};
use crate::session::{
    BatchResult, BatchSession, ClientPlan, Lane, OpenedBlock, PreparedBlock, Result, Round,
    SessionError, Tally,
};
use crate::transcript::VerifiedReceipt;

use self::awaited::Awaited;
use self::batches::WholeMatrix;
pub use self::batches::{BatchRun, Batches, BatchesOutcome, Totals, run_batches};
use self::records::{keep, records};

/// Largest number of samples of one batch.
const MAX_BATCH: usize = 1 << 20;
const _: () = assert!(MAX_BATCH as u64 == MAX_BATCH_SAMPLES, "what forecasts count on");
/// Largest number of blocks, and of batches, in flight.
const MAX_CONNECTIONS: usize = 64;

/// Pieces of a reply that wait for their block's turn to compute, besides the one at hand: a piece
/// is one frame.
const QUEUED_PIECES: usize = 4;

/// How a run is cut and how much of it is in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunOptions {
    /// Most samples of one batch (one key per segment, one verdict per round); batches are cut at
    /// whole blocks below it, see [`ClientPlan::samples_per_batch`]. Default 8,192.
    pub samples_per_batch: usize,
    /// Blocks in flight, over all batches. Default 2.
    pub connections: usize,
    /// Batches under way at the same time: one batch can only wait at the end of its rounds, another
    /// one computes meanwhile. Results, verdicts and the bytes of each batch do not depend on it.
    /// Default 1.
    pub batches_in_flight: usize,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self { samples_per_batch: 8192, connections: 2, batches_in_flight: 1 }
    }
}

impl RunOptions {
    /// Batches of as many samples as the plan was compiled for, rounded up to whole blocks of the
    /// smallest segment: blocks cost the same however little is in them. What
    /// [`forecast_run`](nn_poly::plan::forecast_run) counts on.
    #[must_use]
    pub fn for_plan(plan: &ClientPlan) -> Self {
        let block = plan.samples_per_block().into_iter().min().unwrap_or(1);
        let samples = batch_samples(plan.plan().public().expected_samples, block as u64);
        let samples_per_batch = usize::try_from(samples).unwrap_or(MAX_BATCH);
        Self { samples_per_batch, ..Self::default() }
    }
}

/// Told how a run goes on. Called from worker threads.
pub trait RunProgress: Send + Sync {
    /// A round begins.
    fn round_started(
        &self,
        batch: usize,
        n_batches: usize,
        stage: usize,
        n_stages: usize,
        n_blocks: usize,
    );
    /// A block of the round was sent, answered, checked and opened.
    fn block_finished(&self);
    /// The round was judged.
    fn round_finished(&self);
    /// The ciphertexts of a block begin to exist: its payload grows from now on. Whoever keeps a handle
    /// of the payload keeps all of its bytes in memory.
    fn request_begun(&self, request: &PreparedRequest) {
        let _ = request;
    }
    /// The reply to a request arrived, and the receipt is of both. Whether the reply is right is the
    /// round's verdict.
    fn request_answered(&self, request: &PreparedRequest, receipt: &VerifiedReceipt) {
        let _ = (request, receipt);
    }
    /// The round of a batch was judged; `rejected` is there unless it was intact. Comes right after
    /// [`round_finished`](Self::round_finished), and says which round that was.
    fn round_judged(&self, batch: usize, stage: usize, rejected: Option<&Verdict>) {
        let _ = (batch, stage, rejected);
    }
    /// The batch was intact, and its result was taken.
    fn batch_finished(&self, batch: usize, n_samples: usize) {
        let _ = (batch, n_samples);
    }
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
        /// Files of evidence that were kept, one for each failing block, at most
        /// [`MAX_EVIDENCE_FILES`].
        evidence: Vec<PathBuf>,
    },
}

/// Most files of evidence kept of a rejected round.
pub const MAX_EVIDENCE_FILES: usize = 4;

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
    /// Wall time in which a complete request was on its way or its reply was, and neither side
    /// computed: an estimate from the client's clock and the server's busy time, see
    /// [`IdleTimes::network`](crate::session::IdleTimes::network), with as many threads at the
    /// server as here. Blocks in flight together count once.
    pub network: Duration,
    /// Busy time of evaluation as the server reported it.
    pub evaluate: Duration,
}

/// Runs any number of samples: `inputs` has one row per input neuron, one column per sample.
///
/// With several batches in flight the calls of `progress` for one batch mix with those for others.
///
/// Memory: the values of the batches in flight; per block in flight its request, which is kept for
/// another attempt, and of its reply either all (linear segments, until the word check and the
/// receipt allow to decrypt it) or five frames (segments with a square).
///
/// # Errors
/// - [`SessionError::Setting`] for a batch size, or numbers of connections or batches, out of range.
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
    run_recorded(plan, inputs, remote, options, progress, None).await
}

/// As [`run`], keeping evidence of a rejected round in a folder, which is made when the first block
/// is answered. See [`evidence`](crate::evidence).
///
/// Every block's request and reply is written there until its round is judged, which takes as many
/// bytes as the blocks of a round have.
///
/// # Errors
/// As [`run`].
pub async fn run_recorded(
    plan: &Arc<ClientPlan>,
    inputs: &IntegerMatrix,
    remote: &Arc<RemoteEvaluator>,
    options: &RunOptions,
    progress: &Arc<dyn RunProgress>,
    evidence: Option<&Path>,
) -> Result<RunOutcome> {
    let mut batches = WholeMatrix::new(plan, inputs, options);
    let run = BatchRun { plan, remote, options, progress, evidence, first_batch: 0 };
    Ok(match run_batches(&run, &mut batches).await? {
        BatchesOutcome::Verified { verdict, totals } => RunOutcome::Verified(RunResult {
            scores: batches.scores,
            out_of_calibration: batches.out_of_calibration,
            verdict,
            tally: totals.tally,
            batches: totals.batches,
            network: totals.network,
            evaluate: totals.evaluate,
        }),
        BatchesOutcome::Rejected { verdict, batch, totals, evidence } => RunOutcome::Rejected {
            verdict,
            batch,
            tally: totals.tally,
            network: totals.network,
            evaluate: totals.evaluate,
            evidence,
        },
    })
}

enum BatchOutcome {
    Finished(Box<BatchResult>),
    Rejected { verdict: Verdict, tally: Tally, evidence: Vec<PathBuf> },
}

/// What the tasks of a run share. Cheap to clone.
#[derive(Clone)]
struct Shared {
    plan: Arc<ClientPlan>,
    remote: Arc<RemoteEvaluator>,
    in_flight: Arc<Semaphore>,
    /// One block is encrypted at a time: the server can start with a whole one sooner than with
    /// halves of two.
    encrypting: Arc<Semaphore>,
    lane: Arc<Lane>,
    server_busy: Arc<Mutex<Duration>>,
    progress: Arc<dyn RunProgress>,
    n_batches: usize,
    /// Where blocks are recorded.
    evidence: Option<Arc<Path>>,
}

impl Shared {
    async fn run_batch(self, batch: usize, samples: IntegerMatrix) -> Result<BatchOutcome> {
        let plan = Arc::clone(&self.plan);
        let mut session = blocking(move || BatchSession::new(&plan, samples)).await?;
        let n_stages = self.plan.plan().public().stages.len();
        loop {
            let (stage, n_blocks) = (session.stage(), session.n_blocks());
            self.progress.round_started(batch, self.n_batches, stage, n_stages, n_blocks);
            let (back, mut blocks) = self.run_round(session).await?;
            let records = records(&mut blocks);
            let lane = Arc::clone(&self.lane);
            let round = blocking(move || {
                let _turn = lane.turn();
                back.finish_round(blocks)
            })
            .await?;
            self.progress.round_finished();
            let rejected = match &round {
                Round::Rejected { verdict, .. } => Some(verdict),
                Round::Continue(_) | Round::Finished(_) => None,
            };
            self.progress.round_judged(batch, stage, rejected);
            match round {
                Round::Continue(next) => session = *next,
                Round::Finished(result) => return Ok(BatchOutcome::Finished(Box::new(result))),
                Round::Rejected { verdict, tally } => {
                    let evidence = keep(records, &verdict);
                    return Ok(BatchOutcome::Rejected { verdict, tally, evidence });
                }
            }
        }
    }

    /// Sends every block of a round and opens every reply; gives the session back for judgement.
    async fn run_round(&self, session: BatchSession) -> Result<(BatchSession, Vec<OpenedBlock>)> {
        let session = Arc::new(session);
        let mut tasks = JoinSet::new();
        for index in 0..session.n_blocks() {
            tasks.spawn(self.clone().run_block(Arc::clone(&session), index));
        }
        let mut blocks = Vec::with_capacity(session.n_blocks());
        while let Some(joined) = tasks.join_next().await {
            blocks.push(joined.map_err(|_| panicked())??);
        }
        let session = Arc::into_inner(session).ok_or_else(panicked)?;
        Ok((session, blocks))
    }

    /// One block from its first ciphertext to the values in its reply: encryption, upload,
    /// evaluation, download and opening overlap.
    async fn run_block(self, session: Arc<BatchSession>, index: usize) -> Result<OpenedBlock> {
        let _place = self.in_flight.acquire().await.map_err(|_| panicked())?;
        let turn = Arc::clone(&self.encrypting).acquire_owned().await.map_err(|_| panicked())?;
        let (announce, announced) = oneshot::channel();
        let awaited = Awaited::new(&self.lane);
        let encryption = {
            let (session, lane) = (Arc::clone(&session), Arc::clone(&self.lane));
            let awaited = awaited.clone();
            Task::spawn_blocking(move || {
                let block = encrypt(&session, index, &lane, announce);
                awaited.begin();
                drop((session, turn));
                block
            })
        };
        // Without an announcement the encryption has failed and says why.
        let Ok(request) = announced.await else { return Err(encryption.failure().await) };
        self.progress.request_begun(&request);
        let (sink, stream) = reply_queue(QUEUED_PIECES);
        let exchange = self.exchange(&request, sink, &awaited);
        let opening = async {
            let block = encryption.join().await?;
            let (lane, folder) = (Arc::clone(&self.lane), self.evidence.clone());
            blocking(move || {
                let opened = session.open_recorded(block, stream, &lane, folder.as_deref());
                drop(session);
                opened
            })
            .await
        };
        tokio::pin!(exchange, opening);
        let opened = tokio::select! {
            sent = &mut exchange => match sent {
                Ok(()) => opening.await?,
                // What ended the payload is the cause.
                Err(ProtocolError::Resource(ResourceError::PayloadAbandoned { .. })) => {
                    opening.await?
                }
                Err(error) => return Err(error.into()),
            },
            opened = &mut opening => {
                let opened = opened?;
                exchange.await?;
                opened
            }
        };
        let opened = opened.ok_or_else(panicked)?;
        self.progress.block_finished();
        Ok(opened)
    }

    async fn exchange(
        &self,
        request: &PreparedRequest,
        sink: ReplySender,
        awaited: &Awaited,
    ) -> Result<(), ProtocolError> {
        let mut on_progress = |_: &_| std::ops::ControlFlow::Continue(());
        let outcome = self.remote.evaluate_streaming(request, sink, &mut on_progress).await;
        awaited.end();
        let receipt = outcome?.receipt;
        self.progress.request_answered(request, &receipt);
        let busy = Duration::from_micros(receipt.receipt().evaluate_micros);
        *self.server_busy.lock().unwrap_or_else(PoisonError::into_inner) += busy;
        Ok(())
    }

    /// Network time and the server's busy time so far.
    fn times(&self) -> (Duration, Duration) {
        let busy = *self.server_busy.lock().unwrap_or_else(PoisonError::into_inner);
        (self.lane.idle_times().network(busy, rayon::current_num_threads()), busy)
    }
}

/// Encrypts a block in turns of the lane; announces its request before the first one.
fn encrypt(
    session: &BatchSession,
    index: usize,
    lane: &Lane,
    announce: oneshot::Sender<PreparedRequest>,
) -> Result<PreparedBlock> {
    let mut block = session.begin(index)?;
    // Nobody listens any more: the run has ended.
    announce.send(block.request().clone()).map_err(|_| panicked())?;
    loop {
        let _turn = lane.turn();
        if !block.encrypt_next()? {
            return block.finish();
        }
    }
}

/// A task that ends when nobody waits for it any more; work on a thread cannot be ended and runs out.
struct Task<T>(JoinHandle<Result<T>>);

impl<T: Send + 'static> Task<T> {
    fn spawn(work: impl Future<Output = Result<T>> + Send + 'static) -> Self {
        Self(tokio::spawn(work))
    }

    fn spawn_blocking(work: impl FnOnce() -> Result<T> + Send + 'static) -> Self {
        Self(tokio::task::spawn_blocking(work))
    }

    async fn join(mut self) -> Result<T> {
        (&mut self.0).await.map_err(|_| panicked())?
    }

    /// Why it failed.
    async fn failure(self) -> SessionError {
        self.join().await.err().unwrap_or_else(panicked)
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
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
    match (a, b) {
        (Verdict::Intact { soundness: a }, Verdict::Intact { soundness: b }) => {
            Verdict::Intact { soundness: a.weaker(b) }
        }
        (a, _) => a,
    }
}

fn check_setting(name: &'static str, actual: usize, max: usize) -> Result<()> {
    if (1..=max).contains(&actual) {
        return Ok(());
    }
    Err(SessionError::Setting { name, actual, min: 1, max })
}
