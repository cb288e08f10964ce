//! First-order solvers with projection, for argmin's [`Executor`](argmin::core::Executor).
//!
//! They work on any [`Objective`] over the unit box, so observers and checkpoints of argmin apply: a
//! solver is its own complete state together with the [`IterState`] and continues bit for bit from a
//! checkpoint.

use argmin::core::{Error, IterState, KV, Problem, Solver};
use serde::{Deserialize, Serialize};

use super::projection::Feasible;

/// A differentiable function to be minimized, in coordinates where every feature runs from 0 to 1.
pub trait Objective {
    /// Value and gradient at `u`.
    ///
    /// # Errors
    /// Whatever prevents the evaluation; it ends the search.
    fn cost_and_gradient(&self, u: &[f64]) -> Result<(f64, Vec<f64>), Error>;
}

/// The state of first-order solvers.
pub type FirstOrderState = IterState<Vec<f64>, Vec<f64>, (), (), (), f64>;

/// A step length that falls geometrically over a search.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepSchedule {
    /// Step of the first iteration, as a share of the range of a feature.
    pub first: f64,
    /// Step of the last iteration.
    pub last: f64,
    /// Number of iterations between them.
    pub iterations: u32,
}

impl StepSchedule {
    /// From `first` down to a twentieth.
    #[must_use]
    pub fn falling(first: f64, iterations: u32) -> Self {
        Self { first, last: first / 20.0, iterations }
    }

    fn at(&self, iteration: u32) -> f64 {
        let span = f64::from(self.iterations.saturating_sub(1).max(1));
        let share = (f64::from(iteration) / span).min(1.0);
        self.first * (self.last / self.first).powf(share)
    }
}

/// Adam with projection after every step.
///
/// # Source
/// Kingma and Ba 2015, with β₁ = 0.9 and β₂ = 0.999.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProjectedAdam {
    feasible: Feasible,
    schedule: StepSchedule,
    iteration: u32,
    mean: Vec<f64>,
    square: Vec<f64>,
}

impl ProjectedAdam {
    const BETA1: f64 = 0.9;
    const BETA2: f64 = 0.999;
    /// Small against the gradients of logarithms, which are of order 1.
    const EPSILON: f64 = 1e-12;

    /// A solver at its beginning.
    #[must_use]
    pub fn new(feasible: Feasible, schedule: StepSchedule) -> Self {
        Self { feasible, schedule, iteration: 0, mean: Vec::new(), square: Vec::new() }
    }

    fn step(&mut self, u: &mut [f64], gradient: &[f64]) {
        self.mean.resize(u.len(), 0.0);
        self.square.resize(u.len(), 0.0);
        let rate = self.schedule.at(self.iteration);
        self.iteration += 1;
        let age = f64::from(self.iteration);
        let unbias1 = 1.0 - Self::BETA1.powf(age);
        let unbias2 = 1.0 - Self::BETA2.powf(age);
        let moments = self.mean.iter_mut().zip(&mut self.square);
        for ((u, &g), (mean, square)) in u.iter_mut().zip(gradient).zip(moments) {
            *mean = Self::BETA1 * *mean + (1.0 - Self::BETA1) * g;
            *square = Self::BETA2 * *square + (1.0 - Self::BETA2) * g * g;
            *u -= rate * (*mean / unbias1) / ((*square / unbias2).sqrt() + Self::EPSILON);
        }
        self.feasible.project(u);
    }
}

/// Gradient descent with steps of fixed root mean square and projection after every step.
///
/// Features at a bound that the step would push further out are left out, of the norm too: they would
/// otherwise slow down the rest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProjectedGradient {
    feasible: Feasible,
    schedule: StepSchedule,
    iteration: u32,
}

impl ProjectedGradient {
    /// A solver at its beginning.
    #[must_use]
    pub fn new(feasible: Feasible, schedule: StepSchedule) -> Self {
        Self { feasible, schedule, iteration: 0 }
    }

    fn step(&mut self, u: &mut [f64], gradient: &[f64]) {
        let rate = self.schedule.at(self.iteration);
        self.iteration += 1;
        let n: f64 = gradient.iter().map(|_| 1.0).sum();
        let free = |(&u, &g): (&f64, &f64)| {
            if (u <= 0.0 && g > 0.0) || (u >= 1.0 && g < 0.0) { 0.0 } else { g }
        };
        let step: Vec<f64> = u.iter().zip(gradient).map(free).collect();
        let norm = (step.iter().map(|g| g * g).sum::<f64>() / n).sqrt();
        if norm > 0.0 {
            for (u, g) in u.iter_mut().zip(&step) {
                *u -= rate * g / norm;
            }
        }
        self.feasible.project(u);
    }
}

/// Evaluate the projected start.
fn begin<O: Objective>(
    feasible: &Feasible,
    problem: &mut Problem<O>,
    mut state: FirstOrderState,
) -> Result<(FirstOrderState, Option<KV>), Error> {
    let mut u = state.take_param().ok_or_else(|| Error::msg("a search needs a starting point"))?;
    feasible.project(&mut u);
    evaluate(problem, state, u)
}

fn evaluate<O: Objective>(
    problem: &mut Problem<O>,
    state: FirstOrderState,
    u: Vec<f64>,
) -> Result<(FirstOrderState, Option<KV>), Error> {
    let (cost, gradient) = problem.problem("gradient_count", |o| o.cost_and_gradient(&u))?;
    Ok((state.param(u).cost(cost).gradient(gradient), None))
}

/// Take a step with `step` and evaluate where it leads.
fn advance<O: Objective>(
    problem: &mut Problem<O>,
    mut state: FirstOrderState,
    step: impl FnOnce(&mut [f64], &[f64]),
) -> Result<(FirstOrderState, Option<KV>), Error> {
    let (Some(mut u), Some(gradient)) = (state.take_param(), state.take_gradient()) else {
        return Err(Error::msg("a search was continued without point and gradient"));
    };
    step(&mut u, &gradient);
    evaluate(problem, state, u)
}

impl<O: Objective> Solver<O, FirstOrderState> for ProjectedAdam {
    fn name(&self) -> &'static str {
        "projected Adam"
    }

    fn init(
        &mut self,
        problem: &mut Problem<O>,
        state: FirstOrderState,
    ) -> Result<(FirstOrderState, Option<KV>), Error> {
        begin(&self.feasible, problem, state)
    }

    fn next_iter(
        &mut self,
        problem: &mut Problem<O>,
        state: FirstOrderState,
    ) -> Result<(FirstOrderState, Option<KV>), Error> {
        advance(problem, state, |u, gradient| self.step(u, gradient))
    }
}

impl<O: Objective> Solver<O, FirstOrderState> for ProjectedGradient {
    fn name(&self) -> &'static str {
        "projected gradient"
    }

    fn init(
        &mut self,
        problem: &mut Problem<O>,
        state: FirstOrderState,
    ) -> Result<(FirstOrderState, Option<KV>), Error> {
        begin(&self.feasible, problem, state)
    }

    fn next_iter(
        &mut self,
        problem: &mut Problem<O>,
        state: FirstOrderState,
    ) -> Result<(FirstOrderState, Option<KV>), Error> {
        advance(problem, state, |u, gradient| self.step(u, gradient))
    }
}

#[cfg(test)]
mod tests;
