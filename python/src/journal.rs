//! What a long run has finished, in a file.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fingerprint::Verdict;
use protocol::journal::{self, FinishedBatch, Task};
use protocol::session::BatchResult;
use pyo3::prelude::*;

use crate::arrays;
use crate::failure::{Outcome, told};
use crate::plan::Plan;
use crate::results::{Ended, RunResult};

/// The finished batches of a run in a file, so that an interrupted run goes on where it was.
///
/// `description` says what results depend on; a journal of another run is refused. Every batch carries a
/// digest of its samples. The file holds scores in the clear, and no key. Without `resume` there must be no
/// such file.
#[pyclass(frozen, module = "securedl")]
pub(crate) struct Journal {
    plan: Arc<nn_poly::plan::Plan>,
    inner: Mutex<Option<journal::Journal>>,
    path: PathBuf,
}

impl Journal {
    /// A panic while it was held leaves it usable: every record stands alone.
    fn inner(&self) -> MutexGuard<'_, Option<journal::Journal>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, work: impl FnOnce(&mut journal::Journal) -> Outcome<T>) -> Outcome<T> {
        work(self.inner().as_mut().ok_or_else(|| told("the journal is closed"))?)
    }
}

#[pymethods]
impl Journal {
    #[new]
    #[pyo3(signature = (path, plan, *, samples_per_batch, description, resume=false))]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        plan: &Plan,
        samples_per_batch: u64,
        description: String,
        resume: bool,
    ) -> Outcome<Self> {
        let plan = Arc::clone(&plan.inner);
        let n_scores = u32::try_from(plan.network().n_scores())?;
        let task = Task { n_scores, samples_per_batch, description };
        let inner = py.detach(|| -> Outcome<_> {
            Ok(match resume && path.exists() {
                true => journal::Journal::open(&path, task)?.0,
                false => journal::Journal::create(&path, task)?,
            })
        })?;
        Ok(Self { plan, inner: Mutex::new(Some(inner)), path })
    }

    /// Append a finished batch of raw samples; it is on the disk when this returns.
    fn append(
        &self,
        py: Python<'_>,
        samples: &Bound<'_, PyAny>,
        result: &RunResult,
    ) -> Outcome<()> {
        let features = arrays::features(samples)?;
        let (scores, out_of_calibration) = result.values(py)?;
        let (verdict, tally) = result.kept.clone();
        let result = BatchResult { scores, out_of_calibration, verdict, tally };
        py.detach(|| {
            let inputs = self.plan.public().quantize(&features)?;
            self.with(|journal| Ok(journal.append(&inputs, &result)?))
        })
    }

    /// Make sure that a finished batch was of these raw samples.
    fn check(&self, py: Python<'_>, batch: usize, samples: &Bound<'_, PyAny>) -> Outcome<()> {
        let features = arrays::features(samples)?;
        py.detach(|| {
            let inputs = self.plan.public().quantize(&features)?;
            self.with(|journal| Ok(journal.check_inputs(batch, &inputs)?))
        })
    }

    /// The result of a finished batch, without times and receipts.
    fn read(&self, py: Python<'_>, batch: usize) -> Outcome<RunResult> {
        let FinishedBatch { scores, out_of_calibration, soundness, tally } =
            py.detach(|| self.with(|journal| Ok(journal.read(batch)?)))?;
        let ended = Ended {
            scores,
            out_of_calibration,
            verdict: Verdict::Intact { soundness },
            tally,
            receipts: Vec::new(),
            elapsed: Duration::ZERO,
            server: None,
        };
        Ok(RunResult::new(py, ended))
    }

    /// Remove the file: the run is complete and its results are elsewhere.
    fn remove(&self, py: Python<'_>) -> Outcome<()> {
        let journal = self.inner().take();
        match journal {
            Some(journal) => Ok(py.detach(|| journal.remove())?),
            None => Ok(()),
        }
    }

    /// Let others use the file.
    fn close(&self) {
        self.inner().take();
    }

    /// Batches that are finished.
    #[getter]
    fn n_batches(&self) -> Outcome<usize> {
        self.with(|journal| Ok(journal.n_batches()))
    }

    fn __repr__(&self) -> String {
        let n_batches = self.inner().as_ref().map_or(0, journal::Journal::n_batches);
        format!("Journal({}, {n_batches} batches)", self.path.display())
    }
}
