#![allow(clippy::unwrap_used, reason = "tests")]

use ndarray::Array1;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;
use crate::import::{Preprocessing, SplitSpec};
use crate::layer::{Activation, Dense, Layer};
use crate::model::{ModelSpec, TrainingRecord};
use crate::network::{ActivationChoice, Network, NetworkKind};
use crate::plan::planner::{BlockSeconds, ByteSeconds, ReferenceRates};
use crate::plan::{ActivationSide, RunSize, Segment};
use crate::tensor::Shape;

/// Three dense layers with squares in between, and samples: three rounds, or fewer.
fn model() -> (Model, Array2<f32>) {
    model_with([Activation::Square, Activation::Square])
}

/// Three dense layers with these activations in between, and samples.
fn model_with(activations: [Activation<f32>; 2]) -> (Model, Array2<f32>) {
    let mut rng = StdRng::seed_from_u64(3);
    let mut activations = activations.into_iter();
    let mut layers = Vec::new();
    for (n_in, n_out) in [(4, 3), (3, 3), (3, 2)] {
        if !layers.is_empty() {
            layers.extend(activations.next().map(Layer::Activation));
        }
        let weights =
            Array2::from_shape_simple_fn((n_out, n_in), || rng.random_range(-0.8..0.8_f32));
        let bias = Array1::from_shape_simple_fn(n_out, || rng.random_range(-0.2..0.2_f32));
        layers.push(Layer::Dense(Dense::new(weights, bias)));
    }
    let features = Array2::from_shape_simple_fn((60, 4), || rng.random_range(0.0..1.0_f32));
    let model = Model::new(ModelSpec {
        name: "joined".into(),
        kind: NetworkKind::Mlp,
        activation: ActivationChoice::Square,
        network: Network::new(Shape::vector(4).unwrap(), layers).unwrap(),
        preprocessing: Preprocessing::UnitRange,
        split: SplitSpec::default(),
        class_names: vec!["0".into(), "1".into()],
        bits: None,
        training: TrainingRecord::default(),
        data_source: "drawn".into(),
    });
    (model.unwrap(), features)
}

/// Choose a plan of the model; also for how many rounds networks were joined, in order.
fn chosen(
    change: impl FnOnce(&mut PlanGoal),
    costs: &mut dyn CostSource,
) -> (Result<Compiled>, Vec<usize>) {
    let (model, features) = model();
    let bits = LayerBits::from(Bits::new(3, 3, 3).unwrap());
    let side = Some(ActivationSide::Server);
    let joining = Joining::new(&model, &bits, &features, side).unwrap();
    assert_eq!((joining.fewest_rounds(), joining.most_rounds()), (1, 3));
    let size = RunSize { n_samples: 100, canaries_per_block: 18, replicas: 1 };
    let mut goal = PlanGoal { activation_side: side, ..PlanGoal::new(size) };
    change(&mut goal);
    let mut told = Vec::new();
    let prepared = prepare(&model, &bits, &features).unwrap();
    let found = choose(prepared, &joining, &goal, costs, &mut |rounds| told.push(rounds));
    (found.map(|(compiled, _)| compiled), told)
}

/// Rates that are not there the first time.
struct FailsOnce {
    has_failed: bool,
    rates: ReferenceRates,
}

impl CostSource for FailsOnce {
    fn block_seconds(
        &mut self,
        network: &IntegerNetwork,
        segment: &Segment,
    ) -> Result<BlockSeconds> {
        if !std::mem::replace(&mut self.has_failed, true) {
            return Err(Error::NoSamples { what: "the stopwatch" });
        }
        self.rates.block_seconds(network, segment)
    }

    fn byte_seconds(&mut self) -> Result<ByteSeconds> {
        self.rates.byte_seconds()
    }
}

#[test]
fn the_fewest_rounds_are_looked_for_from_one_up() {
    let (found, told) =
        chosen(|goal| goal.objective = Objective::Rounds, &mut ReferenceRates::new(2));
    assert_eq!(found.unwrap().plan.public().stages.len(), 1);
    assert_eq!(told, [1]);
}

#[test]
fn what_is_no_lack_of_a_plan_ends_the_search_for_the_fewest_rounds() {
    let mut costs = FailsOnce { has_failed: false, rates: ReferenceRates::new(2) };
    let (found, told) = chosen(|goal| goal.objective = Objective::Rounds, &mut costs);
    assert!(matches!(found, Err(Error::NoSamples { what: "the stopwatch" })), "{found:?}");
    assert_eq!(told, [1]);
}

#[test]
fn no_number_of_rounds_is_looked_at_twice() {
    for (max_rounds, expected) in [(Some(2), &[1, 2][..]), (Some(1), &[1]), (None, &[1, 2])] {
        let too_little = |goal: &mut PlanGoal| {
            goal.objective = Objective::Rounds;
            goal.max_rounds = max_rounds;
            goal.memory_bytes = Some(1);
        };
        let (found, told) = chosen(too_little, &mut ReferenceRates::new(2));
        assert!(matches!(found, Err(Error::MemoryLimit { allowed: 1, .. })), "{found:?}");
        assert_eq!(told, expected, "{max_rounds:?}");
    }
}

#[test]
fn no_round_at_all_means_one() {
    for objective in [Objective::Time, Objective::Rounds] {
        let [none, one] = [0, 1].map(|most| {
            let limited = |goal: &mut PlanGoal| {
                goal.objective = objective;
                goal.max_rounds = Some(most);
            };
            chosen(limited, &mut ReferenceRates::new(2)).0.unwrap().plan
        });
        assert_eq!(none.public().stages.len(), 1);
        assert_eq!(none.digest(), one.digest());
    }
}

/// It is not for their size that the numbers of such a network cannot be joined.
#[test]
fn what_the_server_cannot_evaluate_is_named_in_any_number_of_rounds() {
    let (model, features) = model_with([Activation::Square, Activation::Relu]);
    let bits = LayerBits::from(Bits::new(3, 3, 3).unwrap());
    let side = Some(ActivationSide::Server);
    let joining = Joining::new(&model, &bits, &features, side).unwrap();
    assert_eq!((joining.fewest_rounds(), joining.most_rounds()), (2, 3));
    let size = RunSize { n_samples: 100, canaries_per_block: 18, replicas: 1 };
    for (objective, max_rounds) in
        [(Objective::Time, Some(2)), (Objective::Time, None), (Objective::Rounds, None)]
    {
        let goal = PlanGoal { activation_side: side, objective, max_rounds, ..PlanGoal::new(size) };
        let prepared = prepare(&model, &bits, &features).unwrap();
        let found = choose(prepared, &joining, &goal, &mut ReferenceRates::new(2), &mut |_| ());
        assert!(matches!(found, Err(Error::NotAtServer { .. })), "{:?}", found.map(|_| ()));
    }
}
