//! The side that holds the keys, without a server: requests out, replies in.

use std::sync::Arc;

use fingerprint::LayoutOptions;
use nn_poly::integer::IntegerMatrix;
use protocol::runner::RunOptions;
use protocol::session::{ClientPlan, SessionOptions};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::arrays;
use crate::batch::Batch;
use crate::failure::Outcome;
use crate::plan::Plan;
use crate::verification::Fingerprint;
use crate::waiting::interruptible;

/// What a person decides about the checks of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Checks(SessionOptions);

impl Checks {
    pub(crate) fn new(canaries: Option<usize>, replicas: usize) -> Self {
        let layout = LayoutOptions::default();
        let network_canaries = canaries.unwrap_or(layout.network_canaries);
        let layout = LayoutOptions { network_canaries, replicas, ..layout };
        Self(SessionOptions { layout, ..SessionOptions::default() })
    }

    /// The plan with its checks. Canaries come from the fingerprint, or else from the inputs; plans without a
    /// square at the server need neither.
    pub(crate) fn prepare(
        self,
        plan: &nn_poly::plan::Plan,
        fingerprint: Option<&fingerprint::Fingerprint>,
        examples: Option<&IntegerMatrix>,
    ) -> Outcome<Arc<ClientPlan>> {
        let plan = plan.clone();
        Ok(match (fingerprint, examples) {
            (Some(fingerprint), _) => ClientPlan::drawing_from(plan, self.0, fingerprint)?,
            (None, Some(examples)) => ClientPlan::drawing_canaries(plan, self.0, examples)?,
            (None, None) => {
                let none = IntegerMatrix::zeros((plan.network().n_inputs(), 0));
                ClientPlan::new(plan, self.0, &none)?
            }
        })
    }

    /// What results depend on besides plan and samples, as lines for a journal.
    fn description(self, fingerprint: &str) -> String {
        let LayoutOptions { replicas, network_canaries, random_points, max_random_points } =
            self.0.layout;
        format!(
            "canaries: {network_canaries}\nreplicas: {replicas}\n\
             random points: {random_points} to {max_random_points}\nfingerprint: {fingerprint}\n"
        )
    }
}

/// A plan with its checks, for whoever moves requests and replies itself.
///
/// Canaries are drawn from `examples` (raw samples of the kind that will be classified) or from a
/// fingerprint; plans whose server squares nothing need neither. It holds what a server must not know, prints
/// none of it and cannot be pickled.
#[pyclass(frozen, module = "securedl")]
pub(crate) struct KeyHolder {
    plan: Arc<ClientPlan>,
    description: String,
}

#[pymethods]
impl KeyHolder {
    #[new]
    #[pyo3(signature = (plan, examples=None, *, fingerprint=None, canaries=None, replicas=1))]
    fn new(
        py: Python<'_>,
        plan: &Plan,
        examples: Option<&Bound<'_, PyAny>>,
        fingerprint: Option<&Fingerprint>,
        canaries: Option<usize>,
        replicas: usize,
    ) -> Outcome<Self> {
        let examples = examples.map(arrays::features).transpose()?;
        let plan = Arc::clone(&plan.inner);
        let fingerprint = fingerprint.map(Fingerprint::copy);
        interruptible(py, move || {
            let examples = examples.map(|rows| plan.public().quantize(&rows)).transpose()?;
            let checks = Checks::new(canaries, replicas);
            let identity = match &fingerprint {
                Some(fingerprint) => fingerprint.identity()?.to_string(),
                None => "none".to_owned(),
            };
            let description = format!("plan: {}\n{}", plan.digest(), checks.description(&identity));
            let plan = checks.prepare(&plan, fingerprint.as_ref(), examples.as_ref())?;
            Ok(Self { plan, description })
        })
    }

    /// Begin a batch of raw samples under new keys.
    fn batch(&self, py: Python<'_>, samples: &Bound<'_, PyAny>) -> Outcome<Batch> {
        let features = arrays::features(samples)?;
        let inputs = py.detach(|| self.plan.plan().public().quantize(&features))?;
        Batch::new(py, &self.plan, inputs)
    }

    /// Begin a batch of samples on the plan's input grid, as `Plan.quantize` gives them.
    fn batch_of_inputs(&self, py: Python<'_>, inputs: &Bound<'_, PyAny>) -> Outcome<Batch> {
        Batch::new(py, &self.plan, arrays::inputs(inputs)?)
    }

    /// Samples of one batch: whole blocks, at most `limit`; as many as the plan was compiled for, unless
    /// given.
    #[pyo3(signature = (limit=None))]
    fn samples_per_batch(&self, limit: Option<usize>) -> usize {
        let limit = limit.unwrap_or_else(|| RunOptions::for_plan(&self.plan).samples_per_batch);
        self.plan.samples_per_batch(limit)
    }

    /// Samples of one block of each segment.
    #[getter]
    fn samples_per_block(&self) -> Vec<usize> {
        self.plan.samples_per_block()
    }

    /// What results depend on besides the samples, as lines for a journal.
    #[getter]
    fn description(&self) -> &str {
        &self.description
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(unpicklable("a KeyHolder", "positions and values of checks"))
    }

    fn __repr__(&self) -> String {
        format!("KeyHolder({})", self.plan.digest().short())
    }
}

/// Why an object cannot leave its process.
pub(crate) fn unpicklable(what: &str, secret: &str) -> PyErr {
    PyTypeError::new_err(format!(
        "{what} cannot be pickled: it holds {secret}, which must not leave this process"
    ))
}
