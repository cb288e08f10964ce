//! The search of each generator, from one starting point.

use argmin::core::{Executor, Solver, State};
use argmin::solver::linesearch::MoreThuenteLineSearch;
use argmin::solver::quasinewton::LBFGS;

use super::gauss_newton::LeastNormGaussNewton;
use super::objective::{
    NegativeEntropy, NegativeLogSensitivity, Reparameterized, TieEquations, UnitCoordinates,
};
use super::prepare::Prepared;
use super::projection::Feasible;
use super::solver::{FirstOrderState, Objective, ProjectedAdam, ProjectedGradient, StepSchedule};
use super::{GenerateConfig, GeneratorKind, OptimizerKind};
use crate::error::{Error, Result};
use crate::sensitivity::{LayerSelection, Sensitivity, SensitivityOutputs};

/// Classes over which the published code of He, Zhang and Lee sums log-probabilities.
const REFERENCE_CLASSES: usize = 40;
/// `(z₁ − z_k)/max|z|` below which rounding to any grid undoes what is gained.
const TIE_TARGET: f64 = 1e-5;
/// Updates that L-BFGS remembers.
const LBFGS_MEMORY: usize = 7;

/// The best point found from `start`, in unit coordinates.
pub(super) fn search(
    prepared: &Prepared,
    config: &GenerateConfig,
    start: Vec<f64>,
    feasible: &Feasible,
) -> Result<Vec<f64>> {
    let coordinates = UnitCoordinates { grid: &config.spec().grid };
    let n_tied = config.n_tied(prepared.exact.output_shape().len());
    let probabilities = SensitivityOutputs::Probabilities;
    match config.spec().kind {
        GeneratorKind::NonSensitive | GeneratorKind::Random => Ok(start),
        GeneratorKind::Ssf => {
            let sensitivity =
                Sensitivity::new(&prepared.smooth, &LayerSelection::Last, probabilities)?;
            let objective = NegativeLogSensitivity { sensitivity, coordinates };
            minimize(objective, config, start, feasible)
        }
        GeneratorKind::SsfReference => {
            let outputs = SensitivityOutputs::SumLogProbabilities(REFERENCE_CLASSES);
            let sensitivity =
                Sensitivity::new(&prepared.smooth, &LayerSelection::LastWeights, outputs)?;
            let objective = NegativeLogSensitivity { sensitivity, coordinates };
            minimize(objective, config, start, feasible)
        }
        GeneratorKind::SecureDl => {
            let network = &prepared.smooth_single;
            let sensitivity = Sensitivity::new(network, &LayerSelection::All, probabilities)?;
            let objective = NegativeLogSensitivity { sensitivity, coordinates };
            minimize(objective, config, start, feasible)
        }
        GeneratorKind::BoundaryEntropy => {
            let network = &prepared.smooth_single;
            let objective = NegativeEntropy { network, n_tied, coordinates };
            minimize(objective, config, start, feasible)
        }
        GeneratorKind::Tie => {
            let network = &prepared.smooth_single;
            let equations = TieEquations { network, n_tied, coordinates };
            let solver = LeastNormGaussNewton::new(feasible.clone(), TIE_TARGET);
            let result = Executor::new(equations, solver)
                .configure(|state| state.param(start).max_iters(config.iterations().into()))
                .run()
                .map_err(optimizer_error)?;
            result.state().get_best_param().cloned().ok_or_else(no_point)
        }
    }
}

/// Minimize a smooth objective with the optimizer of the settings.
fn minimize<O: Objective>(
    objective: O,
    config: &GenerateConfig,
    start: Vec<f64>,
    feasible: &Feasible,
) -> Result<Vec<f64>> {
    let iterations = config.iterations();
    let schedule = StepSchedule::falling(config.learning_rate(), iterations);
    match config.spec().optimizer {
        OptimizerKind::ProjectedAdam => {
            let solver = ProjectedAdam::new(feasible.clone(), schedule);
            first_order(objective, solver, start, iterations)
        }
        OptimizerKind::ProjectedGradient => {
            let solver = ProjectedGradient::new(feasible.clone(), schedule);
            first_order(objective, solver, start, iterations)
        }
        OptimizerKind::Lbfgs => quasi_newton(objective, &start, iterations),
    }
}

fn first_order<O: Objective, S: Solver<O, FirstOrderState>>(
    objective: O,
    solver: S,
    start: Vec<f64>,
    iterations: u32,
) -> Result<Vec<f64>> {
    let result = Executor::new(objective, solver)
        .configure(|state| state.param(start).max_iters(iterations.into()))
        .run()
        .map_err(optimizer_error)?;
    result.state().get_best_param().cloned().ok_or_else(no_point)
}

/// L-BFGS of argmin on the reparameterized box.
///
/// A line search that finds no further step ends the search with an error; what was found stands.
fn quasi_newton<O: Objective>(objective: O, start: &[f64], iterations: u32) -> Result<Vec<f64>> {
    let objective = Reparameterized::new(objective);
    let parameters = Reparameterized::<O>::parameters(start);
    let solver = LBFGS::new(MoreThuenteLineSearch::new(), LBFGS_MEMORY);
    let ended = Executor::new(&objective, solver)
        .configure(|state| state.param(parameters).max_iters(iterations.into()))
        .run()
        .map(|_| ());
    match (objective.best(), ended) {
        (Some(best), _) => Ok(best),
        (None, Err(error)) => Err(optimizer_error(error)),
        (None, Ok(())) => Err(no_point()),
    }
}

/// The network's refusals pass through; everything else is the optimizer's.
fn optimizer_error(error: argmin::core::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => match error.downcast::<nn_poly::Error>() {
            Ok(error) => error.into(),
            Err(error) => Error::Optimizer { reason: error.to_string() },
        },
    }
}

fn no_point() -> Error {
    Error::Optimizer { reason: "it returned no point".to_owned() }
}
