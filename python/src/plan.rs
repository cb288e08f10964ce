//! Plans: compiled models.

use std::path::PathBuf;
use std::sync::Arc;

use fingerprint::LayoutOptions;
use nn_poly::encrypted::SegmentContext;
use nn_poly::plan::{RunSize, SEED_BYTES, forecast_run};
use numpy::PyArray2;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::arrays;
use crate::failure::Outcome;
use crate::results::Simulation;
use crate::waiting::interruptible;

/// A compiled model: what the server needs (with the weights) and what the key holder needs.
///
/// Equal digests mean equal results.
#[pyclass(frozen, module = "securedl")]
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) inner: Arc<nn_poly::plan::Plan>,
}

impl Plan {
    pub(crate) fn of(plan: nn_poly::plan::Plan) -> Self {
        Self { inner: Arc::new(plan) }
    }
}

#[pymethods]
impl Plan {
    /// Read and check a plan file.
    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf) -> Outcome<Self> {
        Ok(Self::of(py.detach(|| nn_poly::plan::Plan::load(&path))?))
    }

    /// Read and check the bytes of a plan file.
    #[staticmethod]
    fn from_bytes(py: Python<'_>, data: &Bound<'_, PyAny>) -> Outcome<Self> {
        let lent = arrays::Lent::new(data)?;
        let bytes = lent.as_slice()?;
        Ok(Self::of(py.detach(|| nn_poly::plan::Plan::from_bytes(bytes))?))
    }

    /// Write the plan to a file, completely or not at all. It holds the weights.
    fn save(&self, py: Python<'_>, path: PathBuf) -> Outcome<()> {
        Ok(py.detach(|| self.inner.save(&path))?)
    }

    /// The bytes of a plan file.
    fn to_bytes<'py>(&self, py: Python<'py>) -> Outcome<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &py.detach(|| self.inner.to_bytes())?))
    }

    /// Preprocess raw samples and round them to the plan's input grid: `(samples, features)`.
    fn quantize(&self, py: Python<'_>, samples: &Bound<'_, PyAny>) -> Outcome<Py<PyArray2<i32>>> {
        let features = arrays::features(samples)?;
        let inputs = py.detach(|| self.inner.public().quantize(&features))?;
        Ok(arrays::by_sample(py, inputs))
    }

    /// What every encrypted run of these raw samples gives, bit for bit, computed without encryption.
    fn simulate(&self, py: Python<'_>, samples: &Bound<'_, PyAny>) -> Outcome<Simulation> {
        let features = arrays::features(samples)?;
        let plan = Arc::clone(&self.inner);
        let evaluation = interruptible(py, move || {
            let inputs = plan.public().quantize(&features)?;
            Ok(plan.simulate(&inputs)?)
        })?;
        Ok(Simulation::new(py, evaluation.scores, evaluation.out_of_range))
    }

    /// Bytes and rounds of a run of `n_samples` (as many as the plan was compiled for, unless given) with
    /// the usual checks, cut into batches as a client cuts it.
    #[pyo3(signature = (n_samples=None, *, canaries=None, replicas=1))]
    fn forecast(
        &self,
        n_samples: Option<u64>,
        canaries: Option<u64>,
        replicas: u64,
    ) -> Outcome<Forecast> {
        let public = self.inner.public();
        let layout = LayoutOptions::default();
        let canaries = canaries.unwrap_or(layout.network_canaries as u64);
        let size = RunSize {
            n_samples: n_samples.unwrap_or(public.expected_samples),
            canaries_per_block: canaries + layout.random_points as u64,
            replicas,
        };
        let forecast = forecast_run(public, &size)?;
        Ok(Forecast {
            n_samples: forecast.n_samples,
            rounds: forecast.rounds,
            blocks: forecast.segments.iter().map(|segment| segment.blocks).collect(),
            bytes_up: forecast.bytes_up,
            bytes_down: forecast.bytes_down,
        })
    }

    /// What a server evaluates, in order.
    #[getter]
    fn segments(&self) -> Outcome<Vec<Segment>> {
        let segments = self.inner.public().segments.iter().enumerate();
        segments.map(|(number, segment)| Segment::new(number, segment)).collect()
    }

    /// The name of the plan: a digest of all of it, in hexadecimal.
    #[getter]
    fn digest(&self) -> String {
        self.inner.digest().to_string()
    }

    /// The name of the model.
    #[getter]
    fn name(&self) -> &str {
        &self.inner.public().name
    }

    /// Shape of one sample: images with their channels last.
    #[getter]
    fn input_shape(&self) -> Vec<usize> {
        self.inner.public().input_shape.dims().to_vec()
    }

    /// One name per class.
    #[getter]
    fn class_names(&self) -> Vec<String> {
        self.inner.public().class_names.clone()
    }

    /// Who evaluates the activations: `server` or `client`.
    #[getter]
    fn activation(&self) -> String {
        self.inner.public().activation_side.to_string()
    }

    /// Who may see intermediate values: `owner` or `masked`.
    #[getter]
    fn trust(&self) -> String {
        self.inner.public().trust.to_string()
    }

    /// Classical security of the weakest ring, bits.
    #[getter]
    fn security_bits(&self) -> u32 {
        self.inner.public().security_bits
    }

    /// Samples of a typical run.
    #[getter]
    fn expected_samples(&self) -> u64 {
        self.inner.public().expected_samples
    }

    /// Round trips of a batch.
    #[getter]
    fn rounds(&self) -> usize {
        self.inner.public().stages.len()
    }

    /// What one step of the integer scores is in the units of the trained network.
    #[getter]
    fn score_step(&self) -> f32 {
        self.inner.public().score_step
    }

    fn __eq__(&self, other: &Self) -> bool {
        self.inner.digest() == other.inner.digest()
    }

    fn __hash__(&self) -> u64 {
        let bytes = self.inner.digest().0;
        bytes.first_chunk::<8>().map_or(0, |first| u64::from_le_bytes(*first))
    }

    /// Plans may be pickled: they hold weights, but no key.
    fn __reduce__<'py>(&self, py: Python<'py>) -> Outcome<Bound<'py, PyTuple>> {
        let rebuild = py.get_type::<Self>().getattr("from_bytes")?;
        let arguments = PyTuple::new(py, [self.to_bytes(py)?])?;
        Ok(PyTuple::new(py, [rebuild, arguments.into_any()])?)
    }

    fn __repr__(&self) -> String {
        let public = self.inner.public();
        let (digest, rounds) = (self.inner.digest().short(), public.stages.len());
        format!("Plan({:?}, {digest}, {rounds} rounds, {} trust)", public.name, public.trust)
    }
}

/// One segment of a plan: what a server evaluates on a block of ciphertexts.
#[pyclass(frozen, get_all, module = "securedl")]
pub(crate) struct Segment {
    /// Its number.
    number: usize,
    /// The round in which it is evaluated.
    round: u32,
    /// Whether the server squares; then some slots of a block are for checks.
    squares: bool,
    /// Whether requests begin with a relinearization key.
    relinearizes: bool,
    /// Ciphertexts of a request.
    n_inputs: usize,
    /// Ciphertexts of a reply.
    n_outputs: usize,
    /// Degree of its ring.
    ring_degree: u32,
    /// Values a ciphertext holds: samples, and checks where the server squares.
    capacity: usize,
    /// Bytes of a request for one block.
    request_bytes: u64,
    /// Bytes of the reply to it.
    reply_bytes: u64,
}

impl Segment {
    fn new(number: usize, segment: &nn_poly::plan::Segment) -> Outcome<Self> {
        let context = SegmentContext::new(number, segment)?;
        Ok(Self {
            number,
            round: segment.stage,
            squares: !context.is_linear(),
            relinearizes: segment.relinearizes(),
            n_inputs: context.n_inputs(),
            n_outputs: context.n_outputs(),
            ring_degree: segment.ring.ring_degree,
            capacity: context.capacity(),
            request_bytes: context.request_bytes() + SEED_BYTES,
            reply_bytes: context.reply_bytes(),
        })
    }
}

#[pymethods]
impl Segment {
    fn __repr__(&self) -> String {
        let Self { number, n_inputs, n_outputs, ring_degree, .. } = self;
        format!("Segment({number}: {n_inputs} to {n_outputs} ciphertexts of degree {ring_degree})")
    }
}

/// What a run costs.
#[pyclass(frozen, get_all, module = "securedl")]
pub(crate) struct Forecast {
    /// Samples to classify.
    n_samples: u64,
    /// Round trips, all batches together.
    rounds: u32,
    /// Blocks of every segment.
    blocks: Vec<u64>,
    /// Bytes of all requests.
    bytes_up: u64,
    /// Bytes of all replies.
    bytes_down: u64,
}

#[pymethods]
impl Forecast {
    /// Bytes in both directions.
    #[getter]
    fn bytes(&self) -> u64 {
        self.bytes_up + self.bytes_down
    }

    fn __repr__(&self) -> String {
        let Self { n_samples, rounds, bytes_up, bytes_down, .. } = self;
        format!(
            "Forecast({n_samples} samples, {rounds} rounds, {bytes_up} bytes up, {bytes_down} down)"
        )
    }
}
