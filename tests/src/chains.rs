//! A plan with a chain: steps without a refresh in between, in several residues.

use nn_poly::Shape;
use nn_poly::import::{Preprocessing, SplitSpec};
use nn_poly::integer::chain::{Chain, ChainStep, Exponents, StepWeights};
use nn_poly::integer::{
    ActivationKind, InputGrid, IntegerNetwork, LinearGeometry, Quadratic, Refresh, StageOutput,
    StageStructure, StageWeights, ValueRef,
};
use nn_poly::plan::{ActivationSide, ModelFacts, Plan, PlanOptions, Relinearization, compile};
use rand::{Rng, SeedableRng, rngs::StdRng};

const N_INPUTS: usize = 6;
const N_HIDDEN: usize = 4;

/// `dense, square, dense, square` without a refresh in between, then a stage of its own. Wide enough
/// for several residues, whose ciphertexts grow.
#[must_use]
pub fn plan() -> Plan {
    plan_with(Relinearization::Never)
}

/// As [`plan`], but its ciphertexts are relinearized.
#[must_use]
pub fn relinearized_plan() -> Plan {
    plan_with(Relinearization::Always)
}

fn plan_with(relinearization: Relinearization) -> Plan {
    let mut rng = StdRng::seed_from_u64(3);
    let mut draw = |n: usize| (0..n).map(|_| rng.random_range(-127..=127)).collect::<Vec<i16>>();
    let first = LinearGeometry::Dense { n_in: N_INPUTS, n_out: N_HIDDEN };
    let step = StepWeights {
        weights: draw(N_INPUTS * N_HIDDEN),
        bias: vec![5, -7, 0, 9],
        quadratic: Quadratic::square(),
    };
    let stage = StageStructure {
        sources: vec![ValueRef::Input],
        linear: LinearGeometry::Dense { n_in: N_HIDDEN, n_out: N_HIDDEN },
        activation: ActivationKind::Quadratic,
        pool: None,
        refresh: Some(Refresh { multipliers: vec![1], shift: 20, min: 0, max: 63 }),
        chain: Some(Chain {
            steps: vec![ChainStep { linear: first, pool: None, exponents: Exponents::default() }],
            exponents: Exponents { bias: 3, constant: 0 },
            ends: StageOutput::Pooled,
            descale: 36,
        }),
    };
    let weights = StageWeights {
        weights: draw(N_HIDDEN * N_HIDDEN),
        bias: vec![1, 2, -3, 4],
        quadratic: Some(Quadratic::square()),
        chain: vec![step],
    };
    let last = StageStructure {
        sources: vec![ValueRef::Stage(0)],
        linear: LinearGeometry::Dense { n_in: N_HIDDEN, n_out: 3 },
        activation: ActivationKind::Identity,
        pool: None,
        refresh: None,
        chain: None,
    };
    let scores = StageWeights {
        weights: draw(3 * N_HIDDEN),
        bias: vec![0; 3],
        quadratic: None,
        chain: Vec::new(),
    };
    let grid = InputGrid { bits: 4, signed: false, step: 1.0 / 15.0 };
    let network =
        IntegerNetwork::new(grid, N_INPUTS, vec![stage, last], vec![weights, scores]).unwrap();
    let facts = ModelFacts {
        name: "chain".into(),
        input_shape: Shape::vector(N_INPUTS).unwrap(),
        preprocessing: Preprocessing::UnitRange,
        split: SplitSpec::default(),
        class_names: (0..3).map(|c| c.to_string()).collect(),
        score_step: 1.0,
    };
    let options = PlanOptions {
        activation_side: ActivationSide::Server,
        expected_samples: 100,
        relinearization,
        ..PlanOptions::default()
    };
    let plan = compile(&network, &[], facts, &options).unwrap();
    assert!(plan.public().segments_of(0).unwrap().len() > 1, "several residues");
    plan
}
