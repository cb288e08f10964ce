#![allow(clippy::unwrap_used, clippy::float_cmp, clippy::indexing_slicing, reason = "tests")]

use std::sync::{Arc, Mutex};

use argmin::core::checkpointing::{Checkpoint, CheckpointingFrequency};
use argmin::core::observers::{Observe, ObserverMode};
use argmin::core::{Executor, State};

use super::*;

/// `Σ wᵢ (uᵢ − cᵢ)²` with a minimum outside the box.
#[derive(Clone)]
struct Bowl;

const CENTER: [f64; 3] = [0.3, 1.7, -0.4];
const WEIGHTS: [f64; 3] = [1.0, 10.0, 0.1];

impl Objective for Bowl {
    fn cost_and_gradient(&self, u: &[f64]) -> Result<(f64, Vec<f64>), Error> {
        let terms = u.iter().zip(&CENTER).zip(&WEIGHTS);
        let cost = terms.clone().map(|((u, c), w)| w * (u - c) * (u - c)).sum();
        Ok((cost, terms.map(|((u, c), w)| 2.0 * w * (u - c)).collect()))
    }
}

fn run<S: Solver<Bowl, FirstOrderState>>(solver: S, iterations: u64) -> Vec<f64> {
    let start = vec![0.9, 0.1, 0.8];
    Executor::new(Bowl, solver)
        .configure(|state| state.param(start).max_iters(iterations))
        .run()
        .unwrap()
        .state()
        .get_best_param()
        .unwrap()
        .clone()
}

fn assert_near(found: &[f64], expected: &[f64], tolerance: f64) {
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < tolerance, "{found} is not {expected}");
    }
}

#[test]
fn both_solvers_reach_the_constrained_minimum() {
    let schedule = StepSchedule { first: 0.05, last: 1e-4, iterations: 400 };
    let in_box = [0.3, 1.0, 0.0];
    assert_near(&run(ProjectedAdam::new(Feasible::unit_box(), schedule), 400), &in_box, 1e-3);
    assert_near(&run(ProjectedGradient::new(Feasible::unit_box(), schedule), 400), &in_box, 1e-2);
    // In a ball whose radius is too small to reach the box's minimum, only the heavy weight matters.
    let ball = Feasible::ball(vec![0.3, 0.5, 0.0], 0.2);
    assert_near(&run(ProjectedAdam::new(ball, schedule), 400), &[0.3, 0.7, 0.0], 2e-2);
}

/// Keeps the latest solver and state in memory.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Option<(ProjectedAdam, FirstOrderState)>>>);

impl Checkpoint<ProjectedAdam, FirstOrderState> for Memory {
    fn save(&self, solver: &ProjectedAdam, state: &FirstOrderState) -> Result<(), Error> {
        *self.0.lock().unwrap() = Some((solver.clone(), state.clone()));
        Ok(())
    }

    fn load(&self) -> Result<Option<(ProjectedAdam, FirstOrderState)>, Error> {
        Ok(self.0.lock().unwrap().clone().map(|(solver, state)| (solver, state.max_iters(40))))
    }

    fn frequency(&self) -> CheckpointingFrequency {
        CheckpointingFrequency::Every(7)
    }
}

#[test]
fn a_search_continues_from_its_checkpoint() {
    let solver = || ProjectedAdam::new(Feasible::unit_box(), StepSchedule::falling(0.05, 40));
    let uninterrupted = run(solver(), 40);
    let memory = Memory::default();
    let start = vec![0.9, 0.1, 0.8];
    for max_iters in [23, 40] {
        let executor = Executor::new(Bowl, solver())
            .configure(|state| state.param(start.clone()).max_iters(max_iters))
            .checkpointing(memory.clone());
        let best = executor.run().unwrap().state().get_best_param().unwrap().clone();
        assert_eq!(best == uninterrupted, max_iters == 40);
    }
}

#[derive(Clone, Default)]
struct Costs(Arc<Mutex<Vec<f64>>>);

impl Observe<FirstOrderState> for Costs {
    fn observe_iter(&mut self, state: &FirstOrderState, _: &KV) -> Result<(), Error> {
        self.0.lock().unwrap().push(state.get_cost());
        Ok(())
    }
}

#[test]
fn observers_see_every_iteration() {
    let costs = Costs::default();
    let solver = ProjectedAdam::new(Feasible::unit_box(), StepSchedule::falling(0.05, 12));
    Executor::new(Bowl, solver)
        .configure(|state| state.param(vec![0.9, 0.1, 0.8]).max_iters(12))
        .add_observer(costs.clone(), ObserverMode::Always)
        .run()
        .unwrap();
    let costs = costs.0.lock().unwrap();
    assert_eq!(costs.len(), 12);
    assert!(costs[11] < costs[0]);
}

#[test]
fn a_search_without_a_start_is_refused() {
    let solver = ProjectedGradient::new(Feasible::unit_box(), StepSchedule::falling(0.05, 12));
    assert!(Executor::new(Bowl, solver).run().is_err());
}
