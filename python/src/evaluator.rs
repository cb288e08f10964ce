//! The server's side of one request, as a pure function.

use nn_poly::encrypted;
use nn_poly::plan::Trust;
use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;

use crate::arrays::Lent;
use crate::failure::{Failure, Outcome, told};
use crate::plan::Plan;
use crate::waiting::check_signals;

/// Bytes of a request that are decoded between two looks for signals.
const PIECE_BYTES: usize = 4 << 20;

/// Evaluates the segments of a plan on blocks of ciphertexts. It has no key, and no state between requests:
/// any evaluator of the same plan gives the same bytes.
#[pyclass(frozen, module = "securedl")]
pub(crate) struct SegmentEvaluator {
    segments: Vec<encrypted::SegmentEvaluator>,
    digest: String,
}

#[pymethods]
impl SegmentEvaluator {
    #[new]
    fn new(py: Python<'_>, plan: &Plan) -> Outcome<Self> {
        let plan = &plan.inner;
        let segments = py.detach(|| {
            plan.public().expect_trust(Trust::Owner, "evaluating segments one by one")?;
            let segments = plan.public().segments.iter().enumerate();
            let evaluators = segments.map(|(number, segment)| {
                let (structure, weights) = plan.network().stage(segment.stage as usize)?;
                Ok(encrypted::SegmentEvaluator::new(number, segment, structure, weights)?)
            });
            evaluators.collect::<Outcome<Vec<_>>>()
        })?;
        Ok(Self { segments, digest: plan.digest().to_string() })
    }

    /// The reply to a request for a segment, both as `Batch` has them. `request` is not copied and must not
    /// be changed meanwhile.
    fn evaluate(
        &self,
        py: Python<'_>,
        segment: usize,
        request: &Bound<'_, PyAny>,
    ) -> Outcome<Py<PyArray1<u8>>> {
        let lent = Lent::new(request)?;
        let request = lent.as_slice()?;
        let reply = py.detach(|| self.reply(segment, request))?;
        Ok(reply.into_pyarray(py).unbind())
    }

    /// Upper bound of the memory a request for a segment takes, request and reply included, bytes.
    fn memory_bytes(&self, segment: usize) -> Outcome<u64> {
        Ok(self.segment(segment)?.memory_bytes())
    }

    /// Segments of the plan.
    #[getter]
    fn n_segments(&self) -> usize {
        self.segments.len()
    }

    /// Digest of the plan.
    #[getter]
    fn digest(&self) -> &str {
        &self.digest
    }

    fn __reduce__(&self) -> PyResult<()> {
        let text =
            "a SegmentEvaluator cannot be pickled: send its plan, and make another one there";
        Err(pyo3::exceptions::PyTypeError::new_err(text))
    }

    fn __repr__(&self) -> String {
        let digest: String = self.digest.chars().take(12).collect();
        format!("SegmentEvaluator({digest}, {} segments)", self.segments.len())
    }
}

impl SegmentEvaluator {
    fn segment(&self, number: usize) -> Outcome<&encrypted::SegmentEvaluator> {
        let count = self.segments.len();
        self.segments
            .get(number)
            .ok_or_else(|| told(format!("there is no segment {number}: the plan has {count}")))
    }

    fn reply(&self, number: usize, request: &[u8]) -> Outcome<Vec<u8>> {
        let evaluator = self.segment(number)?;
        let (seed, payload) = request
            .split_first_chunk::<32>()
            .ok_or_else(|| told("a request begins with a seed of 32 bytes: this one is shorter"))?;
        let mut receiver = evaluator.receive(*seed)?;
        for piece in payload.chunks(PIECE_BYTES) {
            receiver.push(piece)?;
            check_signals()?;
        }
        let block = receiver.finish()?;
        let n_bytes = evaluator.context().reply_bytes();
        let mut reply = Vec::with_capacity(usize::try_from(n_bytes).unwrap_or(0));
        let mut signal = None;
        let flow = evaluator.evaluate(&block, &mut |piece| {
            reply.extend_from_slice(&piece);
            match check_signals() {
                Ok(()) => std::ops::ControlFlow::Continue(()),
                Err(raised) => {
                    signal = Some(raised);
                    std::ops::ControlFlow::Break(())
                }
            }
        })?;
        evaluator.recycle(block);
        match signal {
            Some(raised) => Err(Failure::from(raised)),
            None if flow.is_break() => Err(told("the evaluation was stopped")),
            None => Ok(reply),
        }
    }
}
