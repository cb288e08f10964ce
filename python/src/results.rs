//! What comes of runs.

use std::time::Duration;

use fingerprint::Verdict as Found;
use nn_poly::integer::ScoreMatrix;
use numpy::{PyArray1, PyArray2, PyArrayMethods};
use protocol::session::Tally;
use protocol::transcript::VerifiedReceipt;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::arrays;

/// What may be believed about a run.
#[pyclass(frozen, get_all, module = "securedl")]
#[derive(Clone)]
pub(crate) struct Verdict {
    /// `Intact`, `ModelModified`, `ComputationTampered` or `Unverified`.
    name: &'static str,
    /// Whether predictions may be used.
    is_intact: bool,
    /// The segment whose replies differ, if any do.
    segment: Option<u32>,
    /// Its outputs that differ, if another model was evaluated.
    neurons: Vec<u32>,
    /// The blocks whose replies differ, if it was no model at all.
    blocks: Vec<u32>,
    /// What it means, in a sentence.
    text: String,
}

impl Verdict {
    pub(crate) fn of(verdict: &Found) -> Self {
        let (segment, neurons, blocks) = match verdict {
            Found::Intact { .. } | Found::Unverified { .. } => (None, Vec::new(), Vec::new()),
            Found::ModelModified { segment, neurons } => {
                (Some(*segment), neurons.clone(), Vec::new())
            }
            Found::ComputationTampered { segment, blocks } => {
                (Some(*segment), Vec::new(), blocks.clone())
            }
        };
        let (name, is_intact) = (verdict.name(), verdict.is_intact());
        Self { name, is_intact, segment, neurons, blocks, text: verdict.to_string() }
    }
}

#[pymethods]
impl Verdict {
    fn __str__(&self) -> &str {
        &self.text
    }

    fn __repr__(&self) -> String {
        format!("Verdict({})", self.name)
    }
}

/// `-log2` of the chance that cheating of a kind stays unnoticed; None where nothing of the kind is checked.
#[pyclass(frozen, get_all, from_py_object, module = "securedl")]
#[derive(Clone, Copy)]
pub(crate) struct Soundness {
    /// Another model, for all samples.
    every_slot_change_bits: Option<f64>,
    /// At least one percent of the samples of a block are altered.
    one_percent_bits: Option<f64>,
    /// A single sample is altered.
    one_sample_bits: Option<f64>,
    /// A single word of a reply is altered.
    reply_word_bits: Option<f64>,
}

impl Soundness {
    pub(crate) fn of(found: &fingerprint::Soundness) -> Self {
        Self {
            every_slot_change_bits: found.every_slot_change_bits,
            one_percent_bits: found.one_percent_bits,
            one_sample_bits: found.one_sample_bits,
            reply_word_bits: found.reply_word_bits,
        }
    }
}

#[pymethods]
impl Soundness {
    /// What holds for every one of several batches: of each figure the smallest, `None` if a batch has none.
    #[staticmethod]
    fn weakest(batches: Vec<Self>) -> PyResult<Self> {
        let least = |of: fn(&Self) -> Option<f64>| {
            batches.iter().map(of).reduce(|a, b| Some(a?.min(b?))).flatten()
        };
        if batches.is_empty() {
            return Err(PyValueError::new_err("there is no batch"));
        }
        Ok(Self {
            every_slot_change_bits: least(|bits| bits.every_slot_change_bits),
            one_percent_bits: least(|bits| bits.one_percent_bits),
            one_sample_bits: least(|bits| bits.one_sample_bits),
            reply_word_bits: least(|bits| bits.reply_word_bits),
        })
    }

    fn __repr__(&self) -> String {
        let told = |bits: Option<f64>| bits.map_or("unchecked".to_owned(), |b| format!("{b:.1}"));
        format!(
            "Soundness(bits: model {}, one percent {}, one sample {}, one word {})",
            told(self.every_slot_change_bits),
            told(self.one_percent_bits),
            told(self.one_sample_bits),
            told(self.reply_word_bits)
        )
    }
}

/// A server's signed statement about the reply to one block. It says what was answered, not that it is right.
#[pyclass(frozen, get_all, module = "securedl")]
#[derive(Clone)]
pub(crate) struct Receipt {
    /// Digest of the plan.
    plan: String,
    /// The segment.
    segment: u32,
    /// Hash of the request.
    request_hash: String,
    /// Hash of the reply, bound to the request.
    reply_hash: String,
    /// The key it is signed with.
    identity: String,
    /// Busy time of the evaluation, as the server claims it.
    seconds: f64,
}

impl Receipt {
    pub(crate) fn of(receipt: &VerifiedReceipt) -> Self {
        let signed = receipt.receipt();
        Self {
            plan: signed.plan.to_string(),
            segment: signed.segment,
            request_hash: signed.request_hash.to_string(),
            reply_hash: signed.reply_hash.to_string(),
            identity: receipt.identity().to_string(),
            seconds: Duration::from_micros(signed.evaluate_micros).as_secs_f64(),
        }
    }
}

#[pymethods]
impl Receipt {
    fn __repr__(&self) -> String {
        let short = |hash: &str| hash.chars().take(12).collect::<String>();
        let (request, reply) = (short(&self.request_hash), short(&self.reply_hash));
        format!("Receipt(segment {}, request {request}, reply {reply})", self.segment)
    }
}

/// Scores of a simulation. Nothing was encrypted, and nobody is to be trusted.
#[pyclass(frozen, get_all, module = "securedl")]
pub(crate) struct Simulation {
    /// The class of every sample.
    labels: Py<PyArray1<i64>>,
    /// `(samples, classes)`: exact integers.
    scores: Py<PyArray2<i64>>,
    /// Per sample, whether a value left the range its segment expects.
    out_of_calibration: Py<PyArray1<bool>>,
}

impl Simulation {
    pub(crate) fn new(py: Python<'_>, scores: ScoreMatrix, out_of_calibration: Vec<bool>) -> Self {
        Self {
            labels: arrays::column(py, arrays::best_classes(&scores)),
            scores: arrays::by_sample(py, scores),
            out_of_calibration: arrays::column(py, out_of_calibration),
        }
    }
}

/// The result of an intact run.
#[pyclass(frozen, name = "Result", module = "securedl")]
pub(crate) struct RunResult {
    /// The class of every sample.
    #[pyo3(get)]
    labels: Py<PyArray1<i64>>,
    /// `(samples, classes)`: exact integers, one step of which is `Plan.score_step`.
    #[pyo3(get)]
    scores: Py<PyArray2<i64>>,
    /// Per sample, whether a value left the range its segment expects.
    #[pyo3(get)]
    out_of_calibration: Py<PyArray1<bool>>,
    /// What was found: always intact.
    #[pyo3(get)]
    verdict: Verdict,
    /// What that is worth.
    #[pyo3(get)]
    soundness: Soundness,
    /// What the servers signed, in the order it came; empty where there is no server.
    #[pyo3(get)]
    receipts: Vec<Receipt>,
    /// Rounds, all batches together.
    #[pyo3(get)]
    rounds: u32,
    /// Blocks.
    #[pyo3(get)]
    blocks: u64,
    /// Bytes of all requests.
    #[pyo3(get)]
    bytes_up: u64,
    /// Bytes of all replies.
    #[pyo3(get)]
    bytes_down: u64,
    /// Time from the first sample to the last score.
    #[pyo3(get)]
    seconds: f64,
    /// Busy time of the client's arithmetic.
    #[pyo3(get)]
    client_seconds: f64,
    /// Busy time of the servers, as they say; None where there is none.
    #[pyo3(get)]
    server_seconds: Option<f64>,
    /// What a journal keeps of it.
    pub(crate) kept: (Found, Tally),
}

/// What a [`RunResult`] is made of.
pub(crate) struct Ended {
    pub(crate) scores: ScoreMatrix,
    pub(crate) out_of_calibration: Vec<bool>,
    pub(crate) verdict: Found,
    pub(crate) tally: Tally,
    pub(crate) receipts: Vec<Receipt>,
    pub(crate) elapsed: Duration,
    pub(crate) server: Option<Duration>,
}

impl RunResult {
    pub(crate) fn new(py: Python<'_>, ended: Ended) -> Self {
        let Ended { scores, out_of_calibration, verdict, tally, receipts, elapsed, server } = ended;
        let soundness = match &verdict {
            Found::Intact { soundness } => *soundness,
            Found::ModelModified { .. }
            | Found::ComputationTampered { .. }
            | Found::Unverified { .. } => fingerprint::Soundness::unchecked(),
        };
        let times = &tally.times;
        let client = times.encode + times.encrypt + times.check + times.decrypt;
        Self {
            labels: arrays::column(py, arrays::best_classes(&scores)),
            scores: arrays::by_sample(py, scores),
            out_of_calibration: arrays::column(py, out_of_calibration),
            verdict: Verdict::of(&verdict),
            soundness: Soundness::of(&soundness),
            receipts,
            rounds: tally.rounds,
            blocks: tally.blocks,
            bytes_up: tally.bytes_up,
            bytes_down: tally.bytes_down,
            seconds: elapsed.as_secs_f64(),
            client_seconds: client.as_secs_f64(),
            server_seconds: server.map(|busy| busy.as_secs_f64()),
            kept: (verdict, tally),
        }
    }
}

impl RunResult {
    /// Scores, one column per sample, and flags, as the crates below have them.
    pub(crate) fn values(&self, py: Python<'_>) -> PyResult<(ScoreMatrix, Vec<bool>)> {
        let scores = self.scores.bind(py).try_readonly()?;
        let flags = self.out_of_calibration.bind(py).try_readonly()?;
        let scores = scores.as_array().reversed_axes().as_standard_layout().into_owned();
        Ok((scores, flags.as_array().to_vec()))
    }
}

#[pymethods]
impl RunResult {
    /// Bytes in both directions.
    #[getter]
    fn bytes(&self) -> u64 {
        self.bytes_up + self.bytes_down
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let n_samples = self.labels.bind(py).as_any().len()?;
        let Self { verdict, rounds, bytes_up, bytes_down, seconds, .. } = self;
        let bytes = bytes_up + bytes_down;
        Ok(format!(
            "Result({n_samples} samples, {}, {rounds} rounds, {bytes} bytes, {seconds:.2} s)",
            verdict.name
        ))
    }
}
