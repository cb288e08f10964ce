#![allow(clippy::unwrap_used, reason = "tests")]

use ndarray::{Array1, Array2};
use nn_poly::compiler::prepare;
use nn_poly::import::{Preprocessing, SplitSpec};
use nn_poly::layer::{Activation, Dense, Layer};
use nn_poly::model::{Bits, LayerBits, Model, ModelSpec, TrainingRecord};
use nn_poly::network::{ActivationChoice, NetworkKind};
use nn_poly::plan::Evidence;
use nn_poly::{Network, Shape};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::*;

/// Four dense layers with squares in between, and samples.
fn model(widths: &[usize], seed: u64) -> (Model, Array2<f32>) {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let mut unit = || f32::from(u16::try_from(rng.next_u32() >> 16).unwrap()) / 65_535.0;
    let mut layers = Vec::new();
    for pair in widths.windows(2) {
        let [n_in, n_out] = pair else { continue };
        if !layers.is_empty() {
            layers.push(Layer::Activation(Activation::Square));
        }
        let weights = Array2::from_shape_simple_fn((*n_out, *n_in), || 1.6 * unit() - 0.8);
        let bias = Array1::from_shape_simple_fn(*n_out, || 0.4 * unit() - 0.2);
        layers.push(Layer::Dense(Dense::new(weights, bias)));
    }
    let (first, last) = (widths.first().unwrap(), widths.last().unwrap());
    let spec = ModelSpec {
        name: "joined".into(),
        kind: NetworkKind::Mlp,
        activation: ActivationChoice::Square,
        network: Network::new(Shape::vector(*first).unwrap(), layers).unwrap(),
        preprocessing: Preprocessing::UnitRange,
        split: SplitSpec::default(),
        class_names: (0..*last).map(|class| class.to_string()).collect(),
        bits: None,
        training: TrainingRecord::default(),
        data_source: "drawn".into(),
    };
    let features = Array2::from_shape_simple_fn((60, *first), unit);
    (Model::new(spec).unwrap(), features)
}

/// Whatever number of rounds is allowed: a plan that takes no more of them and computes exactly the
/// integers of its network.
#[test]
fn any_number_of_rounds_is_kept() {
    let bits = LayerBits::from(Bits::new(3, 3, 3).unwrap());
    let n_segments = 4;
    let (model, features) = model(&[4, 3, 3, 3, 2], 5);
    for side in [ActivationSide::Server, ActivationSide::Client] {
        let joining = Joining::new(&model, &bits, &features, Some(side)).unwrap();
        assert_eq!((joining.fewest_rounds(), joining.most_rounds()), (1, n_segments));
        for rounds in [0, 2, 3, 9] {
            let prepared = prepare(&model, &bits, &features).unwrap();
            let most = u32::try_from(rounds).unwrap();
            let goal = goal_of(side, most);
            let (compiled, planning) =
                plan(prepared, &joining, goal, false, &Progress::silent()).unwrap();
            let best = planning.alternatives.first().unwrap();
            assert!(best.forecast.rounds <= most.max(1), "{rounds} rounds, {side}");
            let stages = compiled.plan.public().stages.len();
            assert_eq!(stages, rounds.clamp(1, n_segments), "as many as are allowed");
            is_exact(&compiled.plan, &features);
        }
    }
}

/// A goal with activations at this side and so many rounds.
fn goal_of(side: ActivationSide, max_rounds: u32) -> PlanGoal {
    let size = RunSize { n_samples: 100, canaries_per_block: 18, replicas: 1 };
    PlanGoal { activation_side: Some(side), max_rounds: Some(max_rounds), ..PlanGoal::new(size) }
}

#[test]
fn rounds_that_are_too_few_are_refused_with_advice() {
    let bits = LayerBits::from(Bits::new(8, 8, 8).unwrap());
    let (model, features) = model(&[4, 3, 3, 3, 2], 5);
    for side in [ActivationSide::Server, ActivationSide::Client] {
        let joining = Joining::new(&model, &bits, &features, Some(side)).unwrap();
        let prepared = prepare(&model, &bits, &features).unwrap();
        let error = plan(prepared, &joining, goal_of(side, 1), false, &Progress::silent());
        let error = error.unwrap_err();
        assert_eq!(error.to_string(), "in 1 round the numbers need more than 120 bits");
        // With the hint, which people are shown below.
        let hinted = format!("{error:#?}");
        assert!(
            hinted.contains("fewer bits (--bits)") && hinted.contains("more rounds"),
            "{hinted}"
        );
    }
}

/// The plan's integers are those of the definition, sample by sample.
fn is_exact(plan: &Plan, features: &Array2<f32>) {
    let inputs = plan.public().quantize(features).unwrap();
    let found = plan.simulate(&inputs).unwrap();
    let is_proven = |evidence| evidence == Evidence::Proven;
    let all_proven = plan.public().segments.iter().all(|s| is_proven(s.range.evidence));
    for (sample, column) in inputs.columns().into_iter().enumerate() {
        let wraps = found.out_of_range.get(sample).copied().unwrap_or(true);
        assert!(!(all_proven && wraps), "nothing leaves a proven range");
        if wraps {
            continue;
        }
        let stages = plan.network().reference(&column.to_vec(), &[]).unwrap();
        let scores = &stages.last().unwrap().pooled;
        assert_eq!(&found.scores.column(sample).to_vec(), scores, "sample {sample}");
    }
}
