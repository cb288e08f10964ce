//! Any number of rounds for one network: encrypted results are the integers of the network it became.

use ndarray::{Array1, Array2};
use nn_poly::import::{Preprocessing, SplitSpec};
use nn_poly::integer::StageOutput;
use nn_poly::layer::{Activation, Dense, Layer};
use nn_poly::model::Bits;
use nn_poly::plan::{ActivationSide, ModelFacts, Plan, PlanOptions, compile};
use nn_poly::quantize::{joinable, quantize_joined};
use nn_poly::{Network, Shape};
use protocol::runner::RunOutcome;
use rand::{Rng, SeedableRng, rngs::StdRng};
use securedl_tests::loopback::shelf;
use securedl_tests::models::samples;

use crate::chains::outcome;

const WIDTHS: [usize; 5] = [4, 3, 3, 2, 2];
const N_SEGMENTS: usize = WIDTHS.len() - 1;
const N_SAMPLES: usize = 25;

/// Four dense layers with squares in between.
fn network(rng: &mut StdRng) -> Network<f32> {
    let mut layers = Vec::new();
    for pair in WIDTHS.windows(2) {
        if !layers.is_empty() {
            layers.push(Layer::Activation(Activation::Square));
        }
        layers.push(Layer::Dense(Dense::new(
            Array2::from_shape_simple_fn((pair[1], pair[0]), || rng.random_range(-0.8..0.8)),
            Array1::from_shape_simple_fn(pair[1], || rng.random_range(-0.2..0.2)),
        )));
    }
    Network::new(Shape::vector(WIDTHS[0]).unwrap(), layers).unwrap()
}

/// A plan in so many rounds: the first refreshes are left out.
fn plan(rounds: usize, side: ActivationSide) -> Plan {
    let mut rng = StdRng::seed_from_u64(9);
    let network = network(&mut rng);
    let may = joinable(&network).unwrap();
    assert_eq!(may, [true, true, true, false]);
    let joins: Vec<bool> = (0..N_SEGMENTS).map(|stage| stage + rounds < N_SEGMENTS).collect();
    let inputs = Array2::from_shape_simple_fn((80, WIDTHS[0]), || rng.random_range(0.0..=1.0));
    let ends = match side {
        ActivationSide::Server => StageOutput::Pooled,
        ActivationSide::Client => StageOutput::Linear,
    };
    let (bits, preprocessing) = (Bits::new(2, 2, 3).unwrap(), Preprocessing::UnitRange);
    let quantized = quantize_joined(&network, &preprocessing, &inputs, bits, &joins, ends).unwrap();
    let facts = ModelFacts {
        name: format!("{rounds} rounds"),
        input_shape: network.input_shape().clone(),
        preprocessing,
        split: SplitSpec::default(),
        class_names: (0..WIDTHS[N_SEGMENTS]).map(|class| class.to_string()).collect(),
        score_step: quantized.score_step,
    };
    let options = PlanOptions {
        activation_side: side,
        expected_samples: N_SAMPLES as u64,
        ..PlanOptions::default()
    };
    compile(&quantized.network, &[], facts, &options).unwrap()
}

#[test]
fn every_number_of_rounds_gives_exactly_the_integers_of_its_network() {
    for side in [ActivationSide::Server, ActivationSide::Client] {
        // In one round there is no activation left to be at the client: one plan for both sides.
        let fewest = if side == ActivationSide::Server { 1 } else { 2 };
        for rounds in fewest..=N_SEGMENTS {
            let plan = plan(rounds, side);
            assert_eq!(plan.public().stages.len(), rounds);
            let RunOutcome::Verified(result) = outcome(&plan, shelf(&plan), N_SAMPLES) else {
                panic!("{rounds} rounds, {side}: rejected")
            };
            assert!(result.verdict.is_intact(), "{rounds} rounds, {side}: {:?}", result.verdict);
            assert_eq!(result.tally.rounds as usize, rounds, "{side}");
            let inputs = samples(&plan, N_SAMPLES, 7);
            for (sample, column) in inputs.columns().into_iter().enumerate() {
                let stages = plan.network().reference(&column.to_vec(), &[]).unwrap();
                let (found, exact) =
                    (result.scores.column(sample).to_vec(), &stages.last().unwrap().pooled);
                assert_eq!(&found, exact, "{rounds} rounds, {side}, sample {sample}");
            }
        }
    }
}
