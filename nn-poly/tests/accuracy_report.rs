//! The accuracy report against the definition, one sample at a time, and the search of bits against
//! trying every choice.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]

use std::sync::OnceLock;

use ndarray::{Array2, Axis};
use nn_poly::encrypted::parameters;
use nn_poly::import::{PreprocessingKind, Split, SplitSpec};
use nn_poly::integer::{CrtWindow, IntegerNetwork, Interval, StageOutput, Window};
use nn_poly::layer::Layer;
use nn_poly::model::{Bits, Model, ModelSpec, TrainingRecord};
use nn_poly::network::{ActivationChoice, Architecture, NetworkKind};
use nn_poly::plan::planner::{self, Objective, PlanGoal, ReferenceRates, Subject};
use nn_poly::plan::{
    ActivationSide, Evidence, ModelFacts, Plan, PlanOptions, RunSize, SegmentDemand, compile,
    compile_with, forecast,
};
use nn_poly::quantize::{
    GridUse, SearchOutcome, SearchSpec, Trial, TrialResult, Waste, accuracy_report, calibrate,
    prepare_qat, quantize_model, search_bits, unrounded,
};
use nn_poly::train::{Evaluation, LabeledSamples, Outcome, TrainSpec, Trainer, evaluate};
use nn_poly::{Error, Network, Shape};
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const SIDE: usize = 8;

/// Images of one bright bar in noise: its orientation and half are the class.
fn bars(n_samples: usize, seed: u64) -> LabeledSamples {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut inputs = Array2::zeros((n_samples, SIDE * SIDE));
    let mut labels = Vec::new();
    for mut row in inputs.rows_mut() {
        let label = rng.random_range(0_u32..4);
        let place = rng.random_range(0..SIDE / 2) + if label % 2 == 1 { SIDE / 2 } else { 0 };
        for i in 0..SIDE {
            row[if label < 2 { place * SIDE + i } else { i * SIDE + place }] = 0.7;
        }
        row.mapv_inplace(|v: f32| (v + rng.random_range(-0.45..0.45_f32)).clamp(0.0, 1.0));
        labels.push(label);
    }
    LabeledSamples::new(Shape::image(SIDE, SIDE, 1).unwrap(), inputs, labels, 4).unwrap()
}

fn model_of(network: Network<f32>, samples: &LabeledSamples, bits: Option<Bits>) -> Model {
    Model::new(ModelSpec {
        name: "bars".into(),
        kind: NetworkKind::Mlp,
        activation: ActivationChoice::Polynomial,
        network,
        preprocessing: PreprocessingKind::UnitRange.fit(samples.inputs()).unwrap(),
        split: SplitSpec::default(),
        class_names: ["a", "b", "c", "d"].map(str::to_owned).to_vec(),
        bits,
        training: TrainingRecord::default(),
        data_source: "bars".into(),
    })
    .unwrap()
}

/// A float model that is good at it, and what it was trained on.
fn trained() -> &'static (Model, LabeledSamples) {
    static TRAINED: OnceLock<(Model, LabeledSamples)> = OnceLock::new();
    TRAINED.get_or_init(|| {
        let samples = bars(1200, 1);
        let architecture = Architecture::new(NetworkKind::Mlp, ActivationChoice::Polynomial);
        let network = architecture.build(samples.shape(), 4, 3).unwrap();
        let spec = TrainSpec { epochs: 8, batch_size: 50, ..TrainSpec::default() };
        let mut trainer = Trainer::new(network, spec.check().unwrap()).unwrap();
        assert_eq!(trainer.run(&samples, &mut ()).unwrap(), Outcome::Finished);
        let model = model_of(trainer.into_network(), &samples, None);
        (model, samples)
    })
}

fn fine_tuned(bits: Bits) -> (Model, &'static LabeledSamples) {
    let (model, samples) = trained();
    let preprocessing = &model.spec().preprocessing;
    let grids = calibrate(model.network(), preprocessing, samples.inputs(), bits).unwrap();
    let network = prepare_qat(model.network(), &grids).unwrap();
    let spec = TrainSpec { epochs: 2, batch_size: 50, learning_rate: 3e-4, ..TrainSpec::default() };
    let mut trainer = Trainer::new(network, spec.check().unwrap()).unwrap();
    assert_eq!(trainer.run(samples, &mut ()).unwrap(), Outcome::Finished);
    (model_of(trainer.into_network(), samples, Some(bits)), samples)
}

fn plan_of(model: &Model, bits: Bits, calibration: &Array2<f32>) -> Plan {
    let quantized = quantize_model(model, bits, calibration).unwrap();
    let facts = ModelFacts::of(model, quantized.score_step);
    compile(&quantized.network, &[], facts, &PlanOptions::default()).unwrap()
}

/// As [`plan_of`], with ranges that hold a few samples and not all of them.
fn calibrated_plan(model: &Model, bits: Bits, calibration: &Array2<f32>) -> Plan {
    let quantized = quantize_model(model, bits, calibration).unwrap();
    let network = &quantized.network;
    let few = network.input().quantize(calibration.select(Axis(0), &[0, 1]).view()).unwrap();
    let mut observed = network.evaluate(&few).unwrap().observed;
    // The margin of calibration doubles what was seen.
    for seen in &mut observed {
        for range in [&mut seen.linear, &mut seen.pooled] {
            *range = Interval { low: range.low / 4, high: range.high / 4 };
        }
    }
    let facts = ModelFacts::of(model, quantized.score_step);
    let choose = |demand: &SegmentDemand| match demand.evidence {
        Evidence::Proven => Err(std::io::Error::other("too large")),
        Evidence::Calibrated => parameters::choose(demand).map_err(std::io::Error::other),
    };
    compile_with(network, &observed, facts, &PlanOptions::default(), choose).unwrap()
}

/// More samples than one chunk, and not a multiple of it, from another draw.
fn fresh() -> LabeledSamples {
    bars(700, 2)
}

/// Everything the report says, counted again from the definition of the network.
fn check_report(model: &Model, bits: Bits, plan: &Plan) -> (u64, usize) {
    let samples = fresh();
    let report = accuracy_report(model, bits, plan, &samples).unwrap();
    let network = plan.network();
    let n_stages = network.structure().len();
    let rules: Vec<_> = (0..n_stages)
        .map(|idx| {
            let output = plan.public().segment_output(idx).unwrap();
            (output, plan.public().segment(idx).unwrap().window)
        })
        .collect();
    let inputs = network.input().quantize(samples.inputs().view()).unwrap();
    let mut observed = vec![(i64::MAX, i64::MIN); n_stages];
    let mut refreshed = vec![(i64::MAX, i64::MIN); n_stages];
    let (mut clamped, mut wrapped) = (vec![0_u64; n_stages], vec![0_u64; n_stages]);
    let mut n_right = [0; 2];
    let widen = |range: &mut (i64, i64), v: i64| *range = (range.0.min(v), range.1.max(v));
    let wide = |(output, window): (StageOutput, Window)| (output, CrtWindow::from(window));
    let windows: Vec<_> = rules.iter().copied().map(wide).collect();
    for (column, &label) in inputs.columns().into_iter().zip(samples.labels()) {
        let column = column.to_vec();
        for (form, windows) in [&[][..], &windows].into_iter().enumerate() {
            let stages = network.reference(&column, windows).unwrap();
            let scores = &stages.last().unwrap().pooled;
            let most = scores.iter().max().unwrap();
            let class = scores.iter().position(|score| score == most).unwrap();
            n_right[form] += usize::from(class == label as usize);
            if form == 1 {
                continue;
            }
            for (idx, stage) in stages.iter().enumerate() {
                let values =
                    if rules[idx].0 == StageOutput::Linear { &stage.linear } else { &stage.pooled };
                values.iter().for_each(|&v| widen(&mut observed[idx], v));
                stage.refreshed.iter().for_each(|&v| widen(&mut refreshed[idx], i64::from(v)));
                let structure = &network.structure()[idx];
                let Some(refresh) = &structure.refresh else { continue };
                for (output, &v) in stage.pooled.iter().enumerate() {
                    let multiplier = refresh.multiplier(output % structure.n_channels());
                    let half = (1_i128 << refresh.shift) >> 1;
                    let exact = (i128::from(v) * i128::from(multiplier) + half) >> refresh.shift;
                    let grid = i128::from(refresh.min)..=i128::from(refresh.max);
                    clamped[idx] += u64::from(!grid.contains(&exact));
                }
            }
        }
        // What each window changes, given what the windows before it let through.
        for idx in 0..n_stages {
            let open_here = windows[..idx].to_vec();
            let stage = &network.reference(&column, &open_here).unwrap()[idx];
            let (output, window) = rules[idx];
            let values = if output == StageOutput::Linear { &stage.linear } else { &stage.pooled };
            wrapped[idx] += values.iter().filter(|&&v| !window.contains(v)).count() as u64;
        }
    }
    let n_samples = samples.n_samples();
    assert_eq!(report.float, evaluate(&unrounded(model.network()).unwrap(), &samples).unwrap());
    assert_eq!((report.integer.n_correct(), report.plan.n_correct()), (n_right[0], n_right[1]));
    assert_eq!(report.integer.n_samples(), n_samples);
    let drop = (report.float.n_correct() as f64 - n_right[1] as f64) / n_samples as f64;
    assert!((report.drop() - drop).abs() < 1e-12);
    let ends = |range: Interval| (range.low, range.high);
    for (idx, of) in report.stages.iter().enumerate() {
        assert_eq!((of.stage, of.output, of.window), (idx, rules[idx].0, rules[idx].1));
        assert_eq!(ends(of.observed), observed[idx], "stage {idx}");
        assert_eq!(of.n_wrapped, wrapped[idx], "stage {idx}");
        assert!(of.proven.covers(&of.observed));
        assert_eq!(of.expected, plan.public().segment(idx).unwrap().range);
        let weights = of.weights.unwrap();
        let numbers = &network.weights()[idx].weights;
        assert_eq!(weights.n_zero, numbers.iter().filter(|&&w| w == 0).count());
        let largest = numbers.iter().map(|w| u32::from(w.unsigned_abs())).max().unwrap();
        assert_eq!(weights.largest, largest);
        let Some(grid) = of.refreshed else {
            assert_eq!(idx + 1, n_stages);
            continue;
        };
        assert_eq!(ends(grid.observed), refreshed[idx]);
        assert_eq!(grid.n_clamped, clamped[idx], "stage {idx}");
        assert_eq!(grid.n_values, (n_samples * network.structure()[idx].n_outputs()) as u64);
    }
    let outside = plan.simulate(&inputs).unwrap().out_of_range;
    assert_eq!(report.n_out_of_range, outside.iter().filter(|&&outside| outside).count());
    (wrapped.iter().sum(), report.n_out_of_range)
}

#[test]
fn the_report_says_what_the_definition_shows() {
    let (model, samples) = trained();
    for bits in
        [Bits { input: 4, weight: 4, activation: 4 }, Bits { input: 8, weight: 6, activation: 7 }]
    {
        let plan = plan_of(model, bits, samples.inputs());
        assert_eq!(check_report(model, bits, &plan), (0, 0), "proven ranges hold everything");
    }
    let bits = Bits { input: 5, weight: 5, activation: 5 };
    let (n_wrapped, n_outside) =
        check_report(model, bits, &calibrated_plan(model, bits, samples.inputs()));
    assert!(
        n_wrapped > 0 && n_outside > 0,
        "the ranges were made too small: {n_wrapped}, {n_outside}"
    );
}

#[test]
fn a_fine_tuned_model_is_compared_with_itself_before_rounding() {
    let bits = Bits { input: 3, weight: 3, activation: 3 };
    let (model, samples) = fine_tuned(bits);
    check_report(&model, bits, &plan_of(&model, bits, samples.inputs()));

    let network = model.network();
    let free = unrounded(network).unwrap();
    assert_eq!(unrounded(&free).unwrap(), free, "there is nothing left to remove");
    let mut expected = Vec::new();
    for (idx, layer) in network.layers().iter().enumerate() {
        match layer {
            Layer::Quantize(_) if idx == 0 => {}
            Layer::Quantize(grid) => {
                expected.push(("clamp", grid.steps[0] * grid.max as f32));
            }
            other => expected.push((other.name(), 0.0)),
        }
    }
    let found = free.layers().iter().map(|layer| match layer {
        Layer::Clamp(clamp) => ("clamp", clamp.limit),
        Layer::Dense(dense) => {
            assert!(dense.weight_quantizer.is_none());
            ("dense", 0.0)
        }
        other => (other.name(), 0.0),
    });
    assert_eq!(found.collect::<Vec<_>>(), expected);
    let (float, _) = trained();
    assert_eq!(&unrounded(float.network()).unwrap(), float.network(), "no quantizers: no change");
}

/// Inputs that use half of their grid, and a window that a single narrow output leaves empty.
#[test]
fn unused_bits_are_found_where_they_are() {
    let (model, samples) = trained();
    let bits = Bits { input: 6, weight: 5, activation: 5 };
    let plan = plan_of(model, bits, samples.inputs());
    let dark = LabeledSamples::new(
        samples.shape().clone(),
        samples.inputs().mapv(|v| v * 0.2),
        samples.labels().to_vec(),
        4,
    )
    .unwrap();
    let bright = accuracy_report(model, bits, &plan, samples).unwrap();
    assert!(!bright.wastes().iter().any(|waste| matches!(waste, Waste::Inputs { .. })));
    let report = accuracy_report(model, bits, &plan, &dark).unwrap();
    // 0.2 of 63 steps is below 16.
    assert!(report.wastes().contains(&Waste::Inputs { bits: 2 }), "{:?}", report.wastes());
    let wastes = report.wastes();
    assert!(wastes.windows(2).all(|pair| pair[0].bits() >= pair[1].bits()));
    for waste in wastes {
        if let Waste::Window { stage, bits } = waste {
            let of = &report.stages[stage];
            assert!(of.observed.width() << bits <= of.window.modulus);
            assert!(of.observed.width() << (bits + 1) > of.window.modulus);
        }
    }
    for of in &report.stages {
        let total = of.observed_bits() + of.caution_bits() + of.rounding_bits();
        assert!((total - of.window_bits()).abs() < 1e-9);
        assert!(of.caution_bits() >= 0.0 && of.rounding_bits() >= 0.0);
    }
}

proptest! {
    #[test]
    fn a_grid_with_its_unused_bits_gone_still_holds_everything(
        bits in 1_u32..16,
        zero in 0.0..1.0_f64,
        low in 0.0..=1.0_f64,
        high in 0.0..=1.0_f64,
    ) {
        let span = f64::from((1_u32 << bits) - 1);
        let at = |share: f64| (share * span) as i64;
        let below = at(zero);
        let grid = Interval { low: -below, high: at(1.0) - below };
        let observed = Interval {
            low: (low * grid.low as f64).round() as i64,
            high: (high * grid.high as f64).round() as i64,
        };
        let of = GridUse { grid, observed, n_values: 10, n_clamped: 5 };
        let unused = of.unused_bits();
        prop_assert!(unused < bits);
        let narrowed = |bits: u32| Interval { low: grid.low >> bits, high: grid.high >> bits };
        prop_assert!(narrowed(unused).covers(&observed));
        prop_assert!(unused + 1 == bits || !narrowed(unused + 1).covers(&observed));
        prop_assert!((of.clamped_share() - 0.5).abs() < 1e-12);
    }
}

fn search_spec(target_drop: f64, most: Bits) -> SearchSpec {
    let run = RunSize { n_samples: 500, canaries_per_block: 18, replicas: 1 };
    let goal = PlanGoal { objective: Objective::Bytes, ..PlanGoal::new(run) };
    SearchSpec { most, ..SearchSpec::new(target_drop, goal) }
}

/// Search with stored rates.
fn searched(
    model: &Model,
    samples: &LabeledSamples,
    spec: &SearchSpec,
    told: &mut dyn FnMut(&Trial),
) -> nn_poly::Result<SearchOutcome> {
    search_bits(model, samples, spec, &mut ReferenceRates::new(1), told)
}

/// The plan that the planner chooses for a network, and its bytes.
fn planned(network: &IntegerNetwork, facts: ModelFacts, goal: &PlanGoal) -> (Plan, u64) {
    let subject = Subject { network, observed: &[] };
    let found = planner::search(&[subject], goal, &mut ReferenceRates::new(1)).unwrap();
    (found[0].compile(network, facts).unwrap(), found[0].bytes())
}

/// Bytes and held-out accuracy of every choice, by the public parts.
fn all_choices(
    model: &Model,
    samples: &LabeledSamples,
    spec: &SearchSpec,
) -> Vec<(Bits, u64, f64)> {
    let split = SplitSpec { seed: 0, test_fraction: 0.2 };
    let rows = |part| split.positions(samples.labels(), part).unwrap();
    let calibration = samples.inputs().select(Axis(0), &rows(Split::Train));
    let held_out = rows(Split::Test);
    let inputs = samples.inputs().select(Axis(0), &held_out);
    let labels: Vec<u32> = held_out.iter().map(|&p| samples.labels()[p]).collect();
    let mut all = Vec::new();
    for input in spec.least.input..=spec.most.input {
        for weight in spec.least.weight..=spec.most.weight {
            for activation in spec.least.activation..=spec.most.activation {
                let bits = Bits { input, weight, activation };
                let quantized = quantize_model(model, bits, &calibration).unwrap();
                let facts = ModelFacts::of(model, quantized.score_step);
                let (plan, bytes) = planned(&quantized.network, facts, &spec.goal);
                let inputs = plan.network().input().quantize(inputs.view()).unwrap();
                let predicted = plan.simulate(&inputs).unwrap().predictions();
                let accuracy = Evaluation::of(&predicted, &labels, 4).accuracy();
                all.push((bits, bytes, accuracy));
            }
        }
    }
    all
}

#[test]
fn the_search_finds_what_trying_everything_finds() {
    let (model, samples) = trained();
    let most = Bits { input: 3, weight: 4, activation: 4 };
    let all = all_choices(model, samples, &search_spec(0.0, most));
    for target_drop in [0.01, 0.05] {
        let spec = search_spec(target_drop, most);
        let mut told: Vec<Trial> = Vec::new();
        let found = searched(model, samples, &spec, &mut |trial| told.push(*trial)).unwrap();
        assert_eq!(found.trials, told);
        assert_eq!(found.n_candidates, all.len());
        assert!(found.trials.len() < all.len() / 2, "{} trials", found.trials.len());
        assert_eq!(found.trials.last().unwrap().n_open, 0);
        let limit = found.float.accuracy() - target_drop - 1e-9;
        let feasible = all.iter().filter(|(_, _, accuracy)| *accuracy >= limit);
        let least = feasible.map(|&(_, bytes, _)| bytes).min().unwrap();
        assert_eq!(found.bytes, least, "{target_drop}: {}", found.bits);
        assert!(all.contains(&(found.bits, found.bytes, found.accuracy)));
        assert!(found.accuracy >= limit);
        for trial in &found.trials {
            let &(_, bytes, accuracy) = all.iter().find(|(bits, ..)| *bits == trial.bits).unwrap();
            match trial.result {
                TrialResult::Accepted { bytes: b, accuracy: a } => {
                    assert!((b, a) == (bytes, accuracy) && a >= limit);
                }
                TrialResult::Inaccurate { bytes: b, accuracy: a } => {
                    assert!((b, a) == (bytes, accuracy) && a < limit);
                }
                TrialResult::Dearer { bytes: b } => assert!(b == bytes && b >= found.bytes),
                TrialResult::TooLarge => panic!("a few bits always fit"),
            }
        }
    }
}

/// The bytes are those of the plan that is written for the same goal, whichever side it has.
#[test]
fn the_search_counts_the_plan_that_the_goal_gets() {
    let (model, samples) = trained();
    let open = search_spec(0.05, Bits { input: 3, weight: 3, activation: 3 });
    let of = |side| {
        let goal = PlanGoal { activation_side: side, ..open.goal };
        let spec = SearchSpec { goal, ..open };
        let found = searched(model, samples, &spec, &mut |_| ()).unwrap();
        let split = SplitSpec { seed: 0, test_fraction: 0.2 };
        let rows = split.positions(samples.labels(), Split::Train).unwrap();
        let calibration = samples.inputs().select(Axis(0), &rows);
        let quantized = quantize_model(model, found.bits, &calibration).unwrap();
        let facts = ModelFacts::of(model, quantized.score_step);
        let (plan, bytes) = planned(&quantized.network, facts, &goal);
        assert_eq!(found.bytes, bytes);
        assert_eq!(found.activation_side, plan.public().activation_side);
        let run = forecast(plan.public(), &goal.size).unwrap();
        assert_eq!(found.bytes, run.bytes_up + run.bytes_down);
        found
    };
    let [client, server] = [ActivationSide::Client, ActivationSide::Server].map(|s| of(Some(s)));
    assert_ne!(client.bytes, server.bytes, "a network of squares has plans of both sides");
    assert_eq!(of(None).bytes, client.bytes.min(server.bytes));
    // Limits hold for every trial: one byte of memory suffices for none, a round for no network.
    let goal = PlanGoal { memory_bytes: Some(1), ..open.goal };
    let error = searched(model, samples, &SearchSpec { goal, ..open }, &mut |_| ()).unwrap_err();
    assert!(matches!(error, Error::NoBits { closest: None, .. }), "{error}");
    let goal = PlanGoal { max_rounds: Some(1), ..open.goal };
    let error = searched(model, samples, &SearchSpec { goal, ..open }, &mut |_| ()).unwrap_err();
    assert!(matches!(error, Error::RoundLimit { .. }), "{error}");
}

#[test]
fn the_bits_of_a_fine_tuned_model_come_first() {
    let own = Bits { input: 3, weight: 3, activation: 3 };
    let (model, samples) = fine_tuned(own);
    let spec = search_spec(0.02, Bits { input: 4, weight: 4, activation: 4 });
    let found = searched(&model, samples, &spec, &mut |_| ()).unwrap();
    assert_eq!(found.trials[0].bits, own);
    let TrialResult::Accepted { bytes, .. } = found.trials[0].result else {
        panic!("fine-tuned for it: {:?}", found.trials[0]);
    };
    assert!(found.bytes <= bytes);
}

#[test]
fn what_cannot_be_searched_is_said() {
    let (model, samples) = trained();
    let search = |spec: &SearchSpec| searched(model, samples, spec, &mut |_| ()).unwrap_err();
    let coarse = Bits { input: 1, weight: 2, activation: 1 };
    let error = search(&search_spec(0.0, coarse));
    assert!(
        matches!(error, Error::NoBits { closest: Some((bits, lost)), .. } if bits == coarse && lost > 0.0),
        "{error}"
    );
    assert!(error.to_string().contains("1/2/1"), "{error}");
    for drop in [-0.1, 1.0, f64::NAN] {
        let error = search(&search_spec(drop, coarse));
        assert!(matches!(error, Error::InvalidSetting { .. }), "{error}");
    }
    let spec = SearchSpec {
        least: Bits { input: 2, weight: 2, activation: 1 },
        ..search_spec(0.1, coarse)
    };
    assert!(matches!(search(&spec), Error::InvalidSetting { setting: "fewest bits", .. }));
    let spec = search_spec(0.1, Bits { input: 4, weight: 16, activation: 4 });
    assert!(search(&spec).to_string().contains("16"));
}

#[test]
fn samples_of_another_kind_are_refused() {
    let (model, samples) = trained();
    let bits = Bits { input: 4, weight: 4, activation: 4 };
    let plan = plan_of(model, bits, samples.inputs());
    let shape = Shape::vector(5).unwrap();
    let other = LabeledSamples::new(shape, Array2::zeros((3, 5)), vec![0; 3], 4).unwrap();
    let error = accuracy_report(model, bits, &plan, &other).unwrap_err();
    assert!(matches!(error, Error::ShapeMismatch { .. }), "{error}");
}
