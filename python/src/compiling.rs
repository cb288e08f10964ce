//! From a model to a plan.

use std::sync::Arc;

use fingerprint::LayoutOptions;
use nn_poly::compiler::{Joining, choose, default_bits, prepare};
use nn_poly::encrypted::SelfTest;
use nn_poly::model::LayerBits;
use nn_poly::plan::planner::{CostSource, Link, Objective, PlanGoal, ReferenceRates};
use nn_poly::plan::{ActivationSide, RangePolicy, Relinearization, RunSize};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::arrays;
use crate::failure::Outcome;
use crate::model::Model;
use crate::plan::Plan;
use crate::waiting::interruptible;

/// Time after which measurements are no longer repeated.
const SELF_TEST: std::time::Duration = std::time::Duration::from_secs(2);

/// Compile a model to a plan.
///
/// `calibrate` holds raw samples like those to be classified, as an array or as a pair with their labels
/// (which are not needed). `bits` are those of inputs, weights and activations, such as `4/4/4` or
/// `4/6,4,4/5,4`; those the model was trained for, unless given. `activation` says who evaluates the
/// activations (`server` or `client`; the better one, unless given), `objective` what is to be small
/// (`time`, `bytes` or `rounds`), `ranges` on what the plan may rest (`prefer-proven`, `proven`,
/// `cheapest`), `relinearize` whether the server of joined layers gets a relinearization key (`auto`, `never`,
/// `always`). `link_bits_per_second` of None means that client and server are on this machine. With
/// `self_test=False` stored rates are compared instead of this machine's, so that the same plan comes out
/// everywhere.
#[pyfunction]
#[pyo3(signature = (
    model, calibrate, *, bits=None, activation=None, objective="time", expected_samples=8192,
    link_bits_per_second=Some(1e9), latency=1e-3, memory_bytes=None, max_rounds=None,
    ranges="prefer-proven", relinearize="auto", self_test=true,
))]
#[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
pub(crate) fn compile(
    py: Python<'_>,
    model: &Model,
    calibrate: &Bound<'_, PyAny>,
    bits: Option<&str>,
    activation: Option<&str>,
    objective: &str,
    expected_samples: u64,
    link_bits_per_second: Option<f64>,
    latency: f64,
    memory_bytes: Option<u64>,
    max_rounds: Option<u32>,
    ranges: &str,
    relinearize: &str,
    self_test: bool,
) -> Outcome<Plan> {
    let features = calibration(calibrate)?;
    let bits = match bits {
        Some(text) => text.parse::<LayerBits>()?,
        None => LayerBits::from(default_bits(&model.inner)),
    };
    let layout = LayoutOptions::default();
    if relinearize != "auto" && max_rounds.is_none() && objective != "rounds" {
        let text = "relinearize is about joined layers: give max_rounds, or objective=\"rounds\"";
        return Err(PyValueError::new_err(text).into());
    }
    let goal = PlanGoal {
        objective: named("objective", objective, OBJECTIVES)?,
        link: link_bits_per_second.map_or(Link::SameMachine, |bits_per_second| Link::Network {
            bits_per_second,
            round_trip_seconds: latency,
        }),
        memory_bytes,
        max_rounds,
        ranges: named("ranges", ranges, RANGES)?,
        relinearization: named("relinearize", relinearize, RELINEARIZATIONS)?,
        activation_side: activation.map(|side| named("activation", side, SIDES)).transpose()?,
        ..PlanGoal::new(RunSize {
            n_samples: expected_samples,
            canaries_per_block: (layout.network_canaries + layout.random_points) as u64,
            replicas: 1,
        })
    };
    let model = Arc::clone(&model.inner);
    let plan = interruptible(py, move || {
        let prepared = prepare(&model, &bits, &features)?;
        let joining = Joining::new(&model, &bits, &features, goal.activation_side)?;
        let mut measured;
        let mut stored;
        let costs: &mut dyn CostSource = if self_test {
            measured = SelfTest::new(SELF_TEST);
            &mut measured
        } else {
            stored = ReferenceRates::new(rayon::current_num_threads().max(1));
            &mut stored
        };
        Ok(choose(prepared, &joining, &goal, costs, &mut |_| ())?.0.plan)
    })?;
    Ok(Plan::of(plan))
}

const OBJECTIVES: [(&str, Objective); 3] =
    [("time", Objective::Time), ("bytes", Objective::Bytes), ("rounds", Objective::Rounds)];
const SIDES: [(&str, ActivationSide); 2] =
    [("server", ActivationSide::Server), ("client", ActivationSide::Client)];
const RANGES: [(&str, RangePolicy); 3] = [
    ("prefer-proven", RangePolicy::PreferProven),
    ("proven", RangePolicy::RequireProven),
    ("cheapest", RangePolicy::Cheapest),
];

const RELINEARIZATIONS: [(&str, Relinearization); 3] = [
    ("auto", Relinearization::Cheapest),
    ("never", Relinearization::Never),
    ("always", Relinearization::Always),
];

/// The value of a name.
fn named<T: Copy, const N: usize>(what: &str, name: &str, choices: [(&str, T); N]) -> PyResult<T> {
    let found = choices.iter().find(|(known, _)| *known == name).map(|&(_, value)| value);
    found.ok_or_else(|| {
        let known: Vec<&str> = choices.iter().map(|(known, _)| *known).collect();
        PyValueError::new_err(format!("{what} is {name:?}, expected one of {}", known.join(", ")))
    })
}

fn calibration(calibrate: &Bound<'_, PyAny>) -> PyResult<ndarray::Array2<f32>> {
    match calibrate.cast::<PyTuple>() {
        Ok(pair) => arrays::features(&pair.get_item(0)?),
        Err(_) => arrays::features(calibrate),
    }
}
