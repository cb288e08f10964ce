//! Batches one after the other, however many: samples come in, and results go out, as the run goes on.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fingerprint::Verdict;
use ndarray::{Axis, Slice};
use nn_poly::integer::{IntegerMatrix, ScoreMatrix};
use tokio::sync::{Semaphore, mpsc};

use super::{
    BatchOutcome, MAX_BATCH, MAX_CONNECTIONS, RunOptions, RunProgress, Shared, Task, check_setting,
    weaker,
};
use crate::client::RemoteEvaluator;
use crate::error::Source;
use crate::session::{BatchResult, ClientPlan, Lane, Result, SessionError, Tally};

/// Where the samples of a run come from, and where its results go.
///
/// Both happen on the task that drives the run. While they last no further batch begins; those in
/// flight go on.
pub trait Batches: Send {
    /// The samples of the next batch on the plan's input grid, one column each, at most
    /// `max_samples`; `None` at the end. All batches but the last should be full: they cost the same.
    ///
    /// # Errors
    /// Whatever keeps the samples from being read; ends the run.
    fn next_batch(&mut self, max_samples: usize) -> Result<Option<IntegerMatrix>, Source>;

    /// Take the result of an intact batch. Batches come in their order.
    ///
    /// # Errors
    /// Whatever keeps the result from being stored; ends the run.
    fn batch_finished(&mut self, batch: usize, result: BatchResult) -> Result<(), Source>;

    /// Number of batches of the run, as far as it is known: for progress only.
    fn n_batches(&self) -> usize;
}

/// What [`run_batches`] works with.
#[derive(Clone, Copy)]
pub struct BatchRun<'a> {
    /// The plan.
    pub plan: &'a Arc<ClientPlan>,
    /// The servers.
    pub remote: &'a Arc<RemoteEvaluator>,
    /// How the run is cut.
    pub options: &'a RunOptions,
    /// Told how it goes on.
    pub progress: &'a Arc<dyn RunProgress>,
    /// Folder for evidence, as for [`run_recorded`](super::run_recorded).
    pub evidence: Option<&'a Path>,
    /// Number of the first batch: those before it were finished by an earlier run.
    pub first_batch: usize,
}

impl fmt::Debug for BatchRun<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchRun")
            .field("plan", &self.plan.digest())
            .field("remote", &self.remote)
            .field("options", &self.options)
            .field("first_batch", &self.first_batch)
            .finish_non_exhaustive()
    }
}

/// Counts and times of a run.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// Counts and client times.
    pub tally: Tally,
    /// Batches begun, without those of an earlier run.
    pub batches: usize,
    /// Time in transport, see [`RunResult::network`](super::RunResult::network).
    pub network: Duration,
    /// Busy time of evaluation as the server reported it.
    pub evaluate: Duration,
}

/// What [`run_batches`] ended with.
#[derive(Debug)]
pub enum BatchesOutcome {
    /// Every round of every batch was intact.
    Verified {
        /// `Intact`, with the weakest soundness of the batches.
        verdict: Verdict,
        /// Counts and times.
        totals: Totals,
    },
    /// A round was not. Results of batches before it that were finished by then have been handed over;
    /// none of it is, nor of those behind it.
    Rejected {
        /// What was found.
        verdict: Verdict,
        /// The batch in which it was found.
        batch: usize,
        /// Counts and times up to then.
        totals: Totals,
        /// Files of evidence that were kept.
        evidence: Vec<PathBuf>,
    },
}

/// Runs batch after batch, [`RunOptions::batches_in_flight`] of them at a time.
///
/// Memory: the samples and values of the batches in flight, and per block in flight what
/// [`run`](super::run) says; it does not grow with the number of batches.
///
/// Dropping the future ends the run: connections are closed, and what was not handed over is lost. A
/// batch that is run again has new keys, seeds and positions.
///
/// # Errors
/// - [`SessionError::Samples`], [`SessionError::Keep`]: `batches` failed.
/// - [`SessionError::EmptyBatch`] if there is no batch at all.
/// - As [`run`](super::run).
pub async fn run_batches(run: &BatchRun<'_>, batches: &mut dyn Batches) -> Result<BatchesOutcome> {
    let options = run.options;
    check_setting("samples per batch", options.samples_per_batch, MAX_BATCH)?;
    check_setting("number of connections", options.connections, MAX_CONNECTIONS)?;
    check_setting("number of batches in flight", options.batches_in_flight, MAX_CONNECTIONS)?;
    let per_batch = run.plan.samples_per_batch(options.samples_per_batch);
    let shared = Shared {
        plan: Arc::clone(run.plan),
        remote: Arc::clone(run.remote),
        in_flight: Arc::new(Semaphore::new(options.connections)),
        encrypting: Arc::new(Semaphore::new(1)),
        lane: Arc::new(Lane::default()),
        server_busy: Arc::<Mutex<Duration>>::default(),
        progress: Arc::clone(run.progress),
        n_batches: batches.n_batches(),
        evidence: run.evidence.map(Arc::from),
    };
    let mut tally = Tally::default();
    let mut verdict: Option<Verdict> = None;
    // Results are taken in order; what is still under way when the run ends early ends with the queue.
    let mut under_way = UnderWay::new(run.first_batch);
    let mut is_over = false;
    while let Some(ended) = {
        // A batch that was not intact ends the run before another one begins or finds its verdict.
        while !is_over && under_way.len() < options.batches_in_flight && !under_way.has_failed() {
            let next = under_way.next_batch();
            let samples = batches
                .next_batch(per_batch)
                .map_err(|source| SessionError::Samples { batch: next, source })?;
            match samples {
                Some(samples) => under_way.begin(shared.clone().run_batch(next, samples)),
                None => is_over = true,
            }
        }
        under_way.next_ended().await
    } {
        let (batch, outcome) = ended;
        match outcome? {
            BatchOutcome::Finished(result) => {
                tally.add(&result.tally);
                let found = result.verdict.clone();
                verdict = Some(match verdict {
                    Some(earlier) => weaker(earlier, found),
                    None => found,
                });
                let n_samples = result.out_of_calibration.len();
                batches
                    .batch_finished(batch, *result)
                    .map_err(|source| SessionError::Keep { batch, source })?;
                shared.progress.batch_finished(batch, n_samples);
            }
            BatchOutcome::Rejected { verdict, tally: of_batch, evidence } => {
                tally.add(&of_batch);
                let totals = shared.totals(tally, under_way.next_batch() - run.first_batch);
                return Ok(BatchesOutcome::Rejected { verdict, batch, totals, evidence });
            }
        }
    }
    let verdict = verdict.ok_or(SessionError::EmptyBatch)?;
    let totals = shared.totals(tally, under_way.next_batch() - run.first_batch);
    Ok(BatchesOutcome::Verified { verdict, totals })
}

/// The batches in flight: the finished ones in order, but the first that is not intact before all
/// others, so that a server sees one failure per run, wherever it is.
struct UnderWay {
    /// Number of the first of `tasks`.
    first: usize,
    /// Ended, too, as long as their results wait for their turn.
    tasks: VecDeque<Task<()>>,
    reports: (mpsc::UnboundedSender<Ended>, mpsc::UnboundedReceiver<Ended>),
    /// Finished before their turn.
    finished: BTreeMap<usize, Ended>,
    failed: Option<Ended>,
}

/// A batch that ended, by its number.
type Ended = (usize, Result<BatchOutcome>);

impl UnderWay {
    fn new(first: usize) -> Self {
        let (tasks, finished) = (VecDeque::new(), BTreeMap::new());
        Self { first, tasks, reports: mpsc::unbounded_channel(), finished, failed: None }
    }

    fn len(&self) -> usize {
        self.tasks.len()
    }

    fn next_batch(&self) -> usize {
        self.first + self.tasks.len()
    }

    fn begin(&mut self, batch: impl Future<Output = Result<BatchOutcome>> + Send + 'static) {
        let (number, reports) = (self.next_batch(), self.reports.0.clone());
        self.tasks.push_back(Task::spawn(async move {
            // A task of its own, so that a panic is reported, too.
            let outcome = Task::spawn(batch).join().await;
            // Nobody listens once the run has ended.
            let _ = reports.send((number, outcome));
            Ok(())
        }));
    }

    /// Whether a batch is known to be rejected, or not to be run.
    fn has_failed(&mut self) -> bool {
        while let Ok(ended) = self.reports.1.try_recv() {
            self.note(ended);
        }
        self.failed.is_some()
    }

    fn note(&mut self, ended: Ended) {
        if matches!(ended.1, Ok(BatchOutcome::Finished(_))) {
            self.finished.insert(ended.0, ended);
        } else if self.failed.is_none() {
            self.failed = Some(ended);
        }
    }

    /// The next batch that ended; `None` if none is in flight.
    async fn next_ended(&mut self) -> Option<Ended> {
        loop {
            if self.has_failed() {
                return self.failed.take();
            }
            if let Some(ended) = self.finished.remove(&self.first) {
                self.first += 1;
                self.tasks.pop_front();
                return Some(ended);
            }
            if self.tasks.is_empty() {
                return None;
            }
            let ended = self.reports.1.recv().await?;
            self.note(ended);
        }
    }
}

impl Shared {
    fn totals(&self, tally: Tally, batches: usize) -> Totals {
        let (network, evaluate) = self.times();
        Totals { tally, batches, network, evaluate }
    }
}

/// The batches of a matrix, with room for their results.
pub(super) struct WholeMatrix<'a> {
    inputs: &'a IntegerMatrix,
    per_batch: usize,
    /// Samples handed out.
    taken: usize,
    pub(super) scores: ScoreMatrix,
    pub(super) out_of_calibration: Vec<bool>,
}

impl<'a> WholeMatrix<'a> {
    pub(super) fn new(plan: &ClientPlan, inputs: &'a IntegerMatrix, options: &RunOptions) -> Self {
        Self {
            inputs,
            per_batch: plan.samples_per_batch(options.samples_per_batch),
            taken: 0,
            scores: ScoreMatrix::zeros((plan.network().n_scores(), inputs.ncols())),
            out_of_calibration: Vec::with_capacity(inputs.ncols()),
        }
    }
}

impl Batches for WholeMatrix<'_> {
    fn next_batch(&mut self, max_samples: usize) -> Result<Option<IntegerMatrix>, Source> {
        let end = self.inputs.ncols().min(self.taken.saturating_add(max_samples));
        let columns = self.taken..end;
        self.taken = end;
        let slice = Slice::from(columns.clone());
        Ok((!columns.is_empty()).then(|| self.inputs.slice_axis(Axis(1), slice).to_owned()))
    }

    fn batch_finished(&mut self, _: usize, result: BatchResult) -> Result<(), Source> {
        let start = self.out_of_calibration.len();
        let columns = start..start + result.out_of_calibration.len();
        self.scores.slice_axis_mut(Axis(1), Slice::from(columns)).assign(&result.scores);
        self.out_of_calibration.extend(result.out_of_calibration);
        Ok(())
    }

    fn n_batches(&self) -> usize {
        self.inputs.ncols().div_ceil(self.per_batch.max(1))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use fingerprint::{Soundness, UnverifiedReason};
    use tokio::sync::oneshot;

    use super::*;

    fn finished() -> Result<BatchOutcome> {
        Ok(BatchOutcome::Finished(Box::new(BatchResult {
            verdict: Verdict::Intact { soundness: Soundness::unchecked() },
            scores: ScoreMatrix::zeros((1, 0)),
            out_of_calibration: Vec::new(),
            tally: Tally::default(),
        })))
    }

    fn rejected() -> Result<BatchOutcome> {
        let verdict = Verdict::Unverified { reason: UnverifiedReason::NoServer };
        Ok(BatchOutcome::Rejected { verdict, tally: Tally::default(), evidence: Vec::new() })
    }

    #[tokio::test]
    async fn finished_batches_come_in_order() {
        let mut under_way = UnderWay::new(3);
        let (release, released) = oneshot::channel::<()>();
        under_way.begin(async move {
            let _ = released.await;
            finished()
        });
        under_way.begin(async { finished() });
        assert_eq!((under_way.len(), under_way.next_batch()), (2, 5));
        while under_way.finished.is_empty() {
            assert!(!under_way.has_failed());
            tokio::task::yield_now().await;
        }
        release.send(()).unwrap();
        assert_eq!(under_way.next_ended().await.unwrap().0, 3);
        assert_eq!(under_way.next_ended().await.unwrap().0, 4);
        assert!(under_way.next_ended().await.is_none());
    }

    /// Wherever it is: batches before it end without a verdict, and none begins after it.
    #[tokio::test]
    async fn the_first_failure_comes_before_all_others() {
        type Failure = fn() -> Result<BatchOutcome>;
        let panicking: Failure = || panic!("a batch that panics");
        for failure in [rejected as Failure, || Err(SessionError::EmptyBatch), panicking] {
            let mut under_way = UnderWay::new(0);
            let (hold, held) = oneshot::channel::<()>();
            under_way.begin(async move {
                let _ = held.await;
                finished()
            });
            under_way.begin(async move { failure() });
            while !under_way.has_failed() {
                tokio::task::yield_now().await;
            }
            let (number, outcome) = under_way.next_ended().await.unwrap();
            assert_eq!(number, 1);
            assert!(!matches!(outcome, Ok(BatchOutcome::Finished(_))));
            // With the queue the batch in front ends as well.
            drop(under_way);
            while !hold.is_closed() {
                tokio::task::yield_now().await;
            }
        }
    }
}
