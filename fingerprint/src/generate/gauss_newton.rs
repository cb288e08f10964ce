//! Gauss–Newton steps of least norm for fewer equations than unknowns, inside a box or ball.

use argmin::core::{Error, IterState, KV, Problem, Solver, TerminationReason, TerminationStatus};
use nalgebra::{DMatrix, DVector};
use ndarray::Array2;
use serde::{Deserialize, Serialize};

use super::projection::Feasible;

/// Equations `r(u) = 0` with more unknowns than equations, in coordinates from 0 to 1.
pub trait Equations {
    /// How far the equations are from being solved; 0 at a solution.
    ///
    /// # Errors
    /// Whatever prevents the evaluation; it ends the search.
    fn cost(&self, u: &[f64]) -> Result<f64, Error>;

    /// Residuals `(m)` and Jacobian `(m, n)` at `u`.
    ///
    /// # Errors
    /// Whatever prevents the evaluation; it ends the search.
    fn linearize(&self, u: &[f64]) -> Result<(Vec<f64>, Array2<f64>), Error>;
}

/// The state of a Gauss–Newton search.
pub type GaussNewtonState = IterState<Vec<f64>, (), (), (), (), f64>;

/// Solve `r + J δ = 0` with the smallest `‖δ‖`, keep to the box, shorten the step until it helps.
///
/// Unknowns that the step would push out of the box are put on its boundary, and the rest solve what
/// remains. The search ends when no shorter step helps or the cost is at most `target`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeastNormGaussNewton {
    feasible: Feasible,
    target: f64,
    is_stuck: bool,
}

/// Rounds of fixing unknowns at the box.
const MAX_ACTIVE_ROUNDS: usize = 6;
/// Halvings of a step.
const MAX_HALVINGS: usize = 5;
/// Damping relative to the mean diagonal of `J Jᵀ`, and its growth if that is singular.
const DAMPING: f64 = 1e-10;
const DAMPING_GROWTH: f64 = 1e3;
const MAX_DAMPING: f64 = 1e3;

impl LeastNormGaussNewton {
    /// A solver that stops at cost `target`.
    #[must_use]
    pub fn new(feasible: Feasible, target: f64) -> Self {
        Self { feasible, target, is_stuck: false }
    }

    /// The best of the full step and its halvings, with its cost; `None` if none helps.
    fn shortened<O: Equations>(
        &self,
        problem: &mut Problem<O>,
        u: &[f64],
        step: &[f64],
        cost: f64,
    ) -> Result<Option<(Vec<f64>, f64)>, Error> {
        let mut length = 1.0;
        for _ in 0..=MAX_HALVINGS {
            let mut moved: Vec<f64> = u.iter().zip(step).map(|(u, s)| u + length * s).collect();
            self.feasible.project(&mut moved);
            let reached = problem.problem("cost_count", |o| o.cost(&moved))?;
            if reached < cost {
                return Ok(Some((moved, reached)));
            }
            length *= 0.5;
        }
        Ok(None)
    }
}

impl<O: Equations> Solver<O, GaussNewtonState> for LeastNormGaussNewton {
    fn name(&self) -> &'static str {
        "least-norm Gauss–Newton"
    }

    fn init(
        &mut self,
        problem: &mut Problem<O>,
        mut state: GaussNewtonState,
    ) -> Result<(GaussNewtonState, Option<KV>), Error> {
        let missing = || Error::msg("a search needs a starting point");
        let mut u = state.take_param().ok_or_else(missing)?;
        self.feasible.project(&mut u);
        let cost = problem.problem("cost_count", |o| o.cost(&u))?;
        Ok((state.param(u).cost(cost), None))
    }

    fn next_iter(
        &mut self,
        problem: &mut Problem<O>,
        mut state: GaussNewtonState,
    ) -> Result<(GaussNewtonState, Option<KV>), Error> {
        let missing = || Error::msg("a search was continued without its point");
        let u = state.take_param().ok_or_else(missing)?;
        let cost = state.get_cost();
        let (residuals, jacobian) = problem.problem("jacobian_count", |o| o.linearize(&u))?;
        let step = least_norm_step(&u, &residuals, &jacobian);
        match self.shortened(problem, &u, &step, cost)? {
            Some((moved, reached)) => Ok((state.param(moved).cost(reached), None)),
            None => {
                self.is_stuck = true;
                Ok((state.param(u).cost(cost), None))
            }
        }
    }

    fn terminate(&mut self, state: &GaussNewtonState) -> TerminationStatus {
        if self.is_stuck {
            TerminationStatus::Terminated(TerminationReason::SolverConverged)
        } else if state.get_best_cost() <= self.target {
            TerminationStatus::Terminated(TerminationReason::TargetCostReached)
        } else {
            TerminationStatus::NotTerminated
        }
    }
}

/// The shortest step that solves the linearized equations and keeps `u + δ` in the unit box, as far as
/// fixing unknowns at the box finds one.
fn least_norm_step(u: &[f64], residuals: &[f64], jacobian: &Array2<f64>) -> Vec<f64> {
    let mut step = vec![0.0; u.len()];
    let mut is_free = vec![true; u.len()];
    for _ in 0..MAX_ACTIVE_ROUNDS {
        let free: Vec<usize> = (0..u.len()).filter(|&i| is_free.get(i) == Some(&true)).collect();
        let reduced = jacobian.select(ndarray::Axis(1), &free);
        let fixed_part = |row: ndarray::ArrayView1<'_, f64>| -> f64 {
            let fixed = step.iter().zip(&is_free).map(|(&s, &f)| if f { 0.0 } else { s });
            row.iter().zip(fixed).map(|(j, s)| j * s).sum()
        };
        let target: Vec<f64> =
            residuals.iter().zip(jacobian.rows()).map(|(r, row)| r + fixed_part(row)).collect();
        let Some(multipliers) = solve_normal(&reduced, &target) else { return step };
        let mut hit = false;
        for (&i, column) in free.iter().zip(reduced.columns()) {
            let wanted: f64 = -column.iter().zip(&multipliers).map(|(j, m)| j * m).sum::<f64>();
            let (Some(step), Some(&u), Some(is_free)) =
                (step.get_mut(i), u.get(i), is_free.get_mut(i))
            else {
                continue;
            };
            *step = wanted.clamp(-u, 1.0 - u);
            if *step != wanted {
                *is_free = false;
                hit = true;
            }
        }
        if !hit {
            break;
        }
    }
    step
}

/// Solve `(J Jᵀ + λ I) m = r` by Cholesky, with as little damping as it takes.
fn solve_normal(jacobian: &Array2<f64>, residuals: &[f64]) -> Option<Vec<f64>> {
    let normal = jacobian.dot(&jacobian.t());
    let n = normal.nrows();
    let matrix = DMatrix::from_iterator(n, n, normal.iter().copied());
    let scale = matrix.diagonal().mean();
    if !(scale.is_finite() && scale > 0.0) {
        return None;
    }
    let mut damping = DAMPING;
    while damping <= MAX_DAMPING {
        let damped = &matrix + DMatrix::identity(n, n) * (damping * scale);
        if let Some(factors) = damped.cholesky() {
            let solution = factors.solve(&DVector::from_column_slice(residuals));
            if solution.iter().all(|m| m.is_finite()) {
                return Some(solution.iter().copied().collect());
            }
        }
        damping *= DAMPING_GROWTH;
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use argmin::core::{Executor, State};
    use ndarray::array;
    use proptest::prelude::*;

    use super::*;

    /// `u₀² + u₁ = 0.5` and `u₁ − u₂ u₃ = 0.1`.
    struct Curves;

    impl Equations for Curves {
        fn cost(&self, u: &[f64]) -> Result<f64, Error> {
            let (r, _) = self.linearize(u)?;
            Ok(r.iter().fold(0.0, |largest, r| r.abs().max(largest)))
        }

        fn linearize(&self, u: &[f64]) -> Result<(Vec<f64>, Array2<f64>), Error> {
            let r = vec![u[0] * u[0] + u[1] - 0.5, u[1] - u[2] * u[3] - 0.1];
            Ok((r, array![[2.0 * u[0], 1.0, 0.0, 0.0], [0.0, 1.0, -u[3], -u[2]]]))
        }
    }

    proptest! {
        #[test]
        fn equations_are_solved_inside_the_box(start in proptest::collection::vec(0.0_f64..1.0, 4)) {
            let solver = LeastNormGaussNewton::new(Feasible::unit_box(), 1e-10);
            let result = Executor::new(Curves, solver)
                .configure(|state| state.param(start).max_iters(40))
                .run()
                .unwrap();
            let u = result.state().get_best_param().unwrap();
            prop_assert!(u.iter().all(|u| (0.0..=1.0).contains(u)));
            prop_assert!(result.state().get_best_cost() < 1e-8, "{:?}", u);
        }

        #[test]
        fn free_steps_are_least_norm(
            j in proptest::collection::vec(-1.0_f64..1.0, 10), r in proptest::collection::vec(-1e-3_f64..1e-3, 2),
        ) {
            // With all unknowns in the middle of the box and small residuals no bound is active.
            let jacobian = Array2::from_shape_vec((2, 5), j).unwrap();
            let normal = jacobian.dot(&jacobian.t());
            prop_assume!(normal[[0, 0]] * normal[[1, 1]] - normal[[0, 1]].powi(2) > 1e-2);
            let step = ndarray::Array1::from(least_norm_step(&[0.5; 5], &r, &jacobian));
            let left = jacobian.dot(&step);
            prop_assert!((left[0] + r[0]).abs() < 1e-9 && (left[1] + r[1]).abs() < 1e-9);
            let pinv = DMatrix::from_row_slice(2, 5, jacobian.as_slice().unwrap())
                .pseudo_inverse(1e-12)
                .unwrap();
            let expected = pinv * DVector::from_column_slice(&r) * -1.0;
            for (step, expected) in step.iter().zip(expected.iter()) {
                prop_assert!((step - expected).abs() < 1e-8);
            }
        }
    }

    #[test]
    fn bounds_are_respected_and_the_rest_makes_up_for_them() {
        let jacobian = array![[1.0, 1.0, 0.1]];
        let step = least_norm_step(&[0.1, 0.9, 0.9], &[0.5], &jacobian);
        assert!((step[0] + 0.1).abs() < 1e-12, "{step:?}");
        assert!((step[0] + step[1] + 0.1 * step[2] + 0.5).abs() < 1e-8, "{step:?}");
    }

    #[test]
    fn equations_without_slope_leave_the_point_alone() {
        assert_eq!(least_norm_step(&[0.5; 2], &[1.0], &array![[0.0, 0.0]]), [0.0, 0.0]);
        assert_eq!(least_norm_step(&[0.5; 2], &[1.0], &array![[f64::NAN, 0.0]]), [0.0, 0.0]);
    }
}
