//! How a run is watched from Python.

use std::sync::{Mutex, MutexGuard, PoisonError};

use protocol::client::PreparedRequest;
use protocol::runner::RunProgress;
use protocol::transcript::VerifiedReceipt;
use pyo3::prelude::*;

use crate::results::Receipt;

/// How far a run is. With several batches under way, `batch` and `round` are those that began last.
#[pyclass(frozen, get_all, module = "securedl")]
#[derive(Clone, Default)]
pub(crate) struct Progress {
    /// Number of a batch, from 0.
    batch: usize,
    /// Batches of the run.
    n_batches: usize,
    /// Number of its round, from 0.
    round: usize,
    /// Rounds of a batch.
    n_rounds: usize,
    /// Blocks of the round.
    n_blocks: usize,
    /// Blocks answered, all batches together.
    blocks_finished: u64,
    /// Samples of batches that were intact to their end.
    samples_finished: usize,
}

#[pymethods]
impl Progress {
    fn __repr__(&self) -> String {
        let Self { batch, n_batches, round, n_rounds, blocks_finished, samples_finished, .. } =
            self;
        format!(
            "Progress(batch {} of {n_batches}, round {} of {n_rounds}, {blocks_finished} blocks and \
             {samples_finished} samples finished)",
            batch + 1,
            round + 1
        )
    }
}

/// Tells a Python function how a run goes on, and collects its receipts.
pub(crate) struct Watcher {
    callback: Option<Py<PyAny>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    progress: Progress,
    receipts: Vec<Receipt>,
    /// What the function raised; ends the run.
    raised: Option<PyErr>,
}

impl Watcher {
    pub(crate) fn new(callback: Option<Py<PyAny>>) -> Self {
        Self { callback, state: Mutex::default() }
    }

    /// A panic while it was held leaves it usable.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the function raised, if it did.
    pub(crate) fn check(&self) -> PyResult<()> {
        self.state().raised.take().map_or(Ok(()), Err)
    }

    pub(crate) fn take_receipts(&self) -> Vec<Receipt> {
        std::mem::take(&mut self.state().receipts)
    }

    fn note(&self, change: impl FnOnce(&mut Progress)) {
        let progress = {
            let mut state = self.state();
            change(&mut state.progress);
            state.progress.clone()
        };
        let Some(callback) = &self.callback else { return };
        let told = Python::attach(|py| callback.call1(py, (progress,)).map(drop));
        if let Err(error) = told {
            self.state().raised.get_or_insert(error);
        }
    }
}

impl RunProgress for Watcher {
    fn round_started(
        &self,
        batch: usize,
        n_batches: usize,
        stage: usize,
        n_stages: usize,
        n_blocks: usize,
    ) {
        self.note(|progress| {
            let Progress { blocks_finished, samples_finished, .. } = *progress;
            *progress = Progress {
                batch,
                n_batches,
                round: stage,
                n_rounds: n_stages,
                n_blocks,
                blocks_finished,
                samples_finished,
            };
        });
    }

    fn block_finished(&self) {
        self.note(|progress| progress.blocks_finished += 1);
    }

    fn round_finished(&self) {}

    fn request_answered(&self, _: &PreparedRequest, receipt: &VerifiedReceipt) {
        self.state().receipts.push(Receipt::of(receipt));
    }

    fn batch_finished(&self, _: usize, n_samples: usize) {
        self.note(|progress| progress.samples_finished += n_samples);
    }
}
