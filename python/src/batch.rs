//! One batch: requests out, replies in, round by round.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use nn_poly::integer::IntegerMatrix;
use numpy::{IntoPyArray, PyArray1};
use protocol::client::PreparedRequest;
use protocol::limits::MAX_CHUNK_BYTES;
use protocol::session::{BatchSession, ClientPlan, OpenedBlock, PreparedBlock, Round};
use pyo3::prelude::*;

use crate::arrays::Lent;
use crate::failure::{Outcome, Rejected, told};
use crate::key_holder::unpicklable;
use crate::process::Process;
use crate::results::{Ended, RunResult};
use crate::waiting::check_signals;

/// A batch of samples on its way through the network, with its keys.
///
/// ```text
///  for block in range(batch.n_blocks):            # in any order, on any thread
///      request = batch.request(block)             # to whoever evaluates batch.segment(block)
///      batch.reply(block, reply)
///  result = batch.finish_round()                  # None: another round; VerdictError: not intact
/// ```
/// A round is judged once, after every block was answered. The keys never leave this object; it prints none
/// of them and cannot be pickled.
#[pyclass(frozen, module = "securedl")]
pub(crate) struct Batch {
    state: Mutex<State>,
    n_samples: usize,
    n_rounds: usize,
    began: Instant,
    process: Process,
}

struct State {
    /// `None` once the batch is over.
    session: Option<Arc<BatchSession>>,
    prepared: HashMap<usize, PreparedBlock>,
    opened: Vec<OpenedBlock>,
    /// Blocks of this round whose replies were opened.
    answered: HashSet<usize>,
}

impl Batch {
    pub(crate) fn new(
        py: Python<'_>,
        plan: &Arc<ClientPlan>,
        inputs: IntegerMatrix,
    ) -> Outcome<Self> {
        let began = Instant::now();
        let session = py.detach(|| BatchSession::new(plan, inputs))?;
        Ok(Self {
            n_samples: session.n_samples(),
            n_rounds: plan.plan().public().stages.len(),
            state: Mutex::new(State {
                session: Some(Arc::new(session)),
                prepared: HashMap::new(),
                opened: Vec::new(),
                answered: HashSet::new(),
            }),
            began,
            process: Process::this(),
        })
    }

    /// A panic while it was held leaves it usable.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn session(&self) -> Outcome<Arc<BatchSession>> {
        self.process.check("a Batch")?;
        self.state().session.clone().ok_or_else(|| told("the batch is over"))
    }

    fn prepare(&self, block: usize) -> Outcome<PreparedRequest> {
        let session = self.session()?;
        let known = {
            let state = self.state();
            refuse_answered(&state, block)?;
            state.prepared.get(&block).map(|prepared| prepared.request().clone())
        };
        if let Some(request) = known {
            return Ok(request);
        }
        let mut growing = session.begin(block)?;
        while growing.encrypt_next()? {
            check_signals()?;
        }
        let prepared = growing.finish()?;
        let mut state = self.state();
        refuse_answered(&state, block)?;
        // Of two threads that ask for the same block the first one counts: one request is sent.
        Ok(state.prepared.entry(block).or_insert(prepared).request().clone())
    }

    fn open(&self, block: usize, reply: Bytes) -> Outcome<()> {
        let session = self.session()?;
        let prepared = {
            let mut state = self.state();
            refuse_answered(&state, block)?;
            let prepared = state.prepared.remove(&block);
            let prepared =
                prepared.ok_or_else(|| told(format!("block {block} was not asked for")))?;
            // Whatever the reply is: a request is answered once.
            state.answered.insert(block);
            prepared
        };
        let opened = session.open(prepared, reply)?;
        drop(session);
        self.state().opened.push(opened);
        Ok(())
    }

    fn judge(&self) -> Outcome<Round> {
        let mut state = self.state();
        let session = state.session.take().ok_or_else(|| told("the batch is over"))?;
        let missing = session.n_blocks().saturating_sub(state.opened.len());
        if missing > 0 {
            state.session = Some(session);
            return Err(told(format!("{missing} blocks of the round are not answered yet")));
        }
        let session = match Arc::try_unwrap(session) {
            Ok(session) => session,
            Err(shared) => {
                state.session = Some(shared);
                return Err(told("a block of the round is being encrypted or opened"));
            }
        };
        state.prepared.clear();
        state.answered.clear();
        let blocks = std::mem::take(&mut state.opened);
        Ok(session.finish_round(blocks)?)
    }
}

#[pymethods]
impl Batch {
    /// Encrypt a block: seed and ciphertexts, as `SegmentEvaluator.evaluate` takes them. Asked again before it
    /// is answered, it gives the same bytes.
    fn request(&self, py: Python<'_>, block: usize) -> Outcome<Py<PyArray1<u8>>> {
        let bytes = py.detach(|| whole(&self.prepare(block)?))?;
        Ok(bytes.into_pyarray(py).unbind())
    }

    /// Check and decrypt the reply to a block, once. Whether the checks passed shows when the round is judged;
    /// a reply that is malformed is an error at once, and ends the batch.
    fn reply(&self, py: Python<'_>, block: usize, reply: &Bound<'_, PyAny>) -> Outcome<()> {
        let lent = Lent::new(reply)?;
        let reply = lent.as_slice()?;
        py.detach(|| self.open(block, Bytes::copy_from_slice(reply)))
    }

    /// Judge the round once every block is answered: None if another one follows, the result after the last.
    fn finish_round(&self, py: Python<'_>) -> Outcome<Option<RunResult>> {
        match py.detach(|| self.judge())? {
            Round::Continue(next) => {
                self.state().session = Some(Arc::from(next));
                Ok(None)
            }
            Round::Rejected { verdict, .. } => {
                Err(Rejected { verdict, evidence: Vec::new() }.into())
            }
            Round::Finished(result) => {
                let ended = Ended {
                    scores: result.scores,
                    out_of_calibration: result.out_of_calibration,
                    verdict: result.verdict,
                    tally: result.tally,
                    receipts: Vec::new(),
                    elapsed: self.began.elapsed(),
                    server: None,
                };
                Ok(Some(RunResult::new(py, ended)))
            }
        }
    }

    /// The segment that evaluates a block of this round.
    fn segment(&self, block: usize) -> Outcome<usize> {
        Ok(self.session()?.segment_of(block))
    }

    /// Blocks of this round; 0 once the batch is over.
    #[getter]
    fn n_blocks(&self) -> usize {
        self.state().session.as_ref().map_or(0, |session| session.n_blocks())
    }

    /// Number of the round, from 0.
    #[getter]
    fn round(&self) -> usize {
        self.state().session.as_ref().map_or(self.n_rounds, |session| session.stage())
    }

    /// Rounds in all.
    #[getter]
    fn n_rounds(&self) -> usize {
        self.n_rounds
    }

    /// Samples.
    #[getter]
    fn n_samples(&self) -> usize {
        self.n_samples
    }

    /// Whether every block of this round is answered.
    #[getter]
    fn is_answered(&self) -> bool {
        let state = self.state();
        state.session.as_ref().is_some_and(|session| state.opened.len() == session.n_blocks())
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(unpicklable("a Batch", "secret keys"))
    }

    fn __repr__(&self) -> String {
        let Self { n_samples, n_rounds, .. } = self;
        format!("Batch({n_samples} samples, round {} of {n_rounds})", self.round() + 1)
    }
}

fn refuse_answered(state: &State, block: usize) -> Outcome<()> {
    if state.answered.contains(&block) {
        return Err(told(format!("block {block} of this round is answered already")));
    }
    Ok(())
}

/// Seed and payload of a complete request in one piece.
fn whole(request: &PreparedRequest) -> Outcome<Vec<u8>> {
    let (header, payload) = (request.header(), request.payload());
    let total = usize::try_from(payload.total_bytes()).unwrap_or(usize::MAX);
    let mut bytes = Vec::with_capacity(header.seed.len().saturating_add(total));
    bytes.extend_from_slice(&header.seed);
    let mut start = 0;
    while start < total {
        let length = MAX_CHUNK_BYTES.min(total - start);
        let piece = payload.piece(start as u64, length)?;
        bytes.extend_from_slice(&piece.ok_or_else(|| told("the request is incomplete"))?);
        start += length;
    }
    Ok(bytes)
}
