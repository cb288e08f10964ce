//! Bits that differ from layer to layer: their text, grids, search, and exact encrypted plans.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

use ndarray::{Array2, Axis};
use nn_poly::import::{Preprocessing, PreprocessingKind, Split, SplitSpec};
use nn_poly::integer::StageOutput;
use nn_poly::layer::Layer;
use nn_poly::model::{Bits, LayerBits, Model, ModelSpec, TrainingRecord};
use nn_poly::network::{ActivationChoice, Architecture, NetworkKind};
use nn_poly::plan::planner::{Objective, PlanGoal, ReferenceRates, Subject, search};
use nn_poly::plan::{ActivationSide, ModelFacts, RunSize};
use nn_poly::quantize::{
    LayerTrial, SearchSpec, TrialResult, accuracy_report, calibrate, prepare_qat, quantize,
    quantize_joined, quantize_model, search_bits, search_layer_bits,
};
use nn_poly::train::{Evaluation, LabeledSamples, Outcome, TrainSpec, Trainer};
use nn_poly::{Error, Shape};
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const N_STAGES: usize = 3;

/// Points in five dimensions: which of four centers they are near is the class.
fn clouds(n_samples: usize, seed: u64) -> LabeledSamples {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut inputs = Array2::zeros((n_samples, 5));
    let mut labels = Vec::new();
    for mut row in inputs.rows_mut() {
        let label = rng.random_range(0_u32..4);
        for (i, value) in row.iter_mut().enumerate() {
            let center = if (label >> (i % 2)) & 1 == 1 { 0.7 } else { 0.3 };
            *value = (center + rng.random_range(-0.28..0.28_f32)).clamp(0.0, 1.0);
        }
        labels.push(label);
    }
    LabeledSamples::new(Shape::vector(5).unwrap(), inputs, labels, 4).unwrap()
}

fn trained() -> (Model, LabeledSamples) {
    let samples = clouds(1000, 1);
    let architecture = Architecture::new(NetworkKind::Mlp, ActivationChoice::Polynomial);
    let network = architecture.build(samples.shape(), 4, 3).unwrap();
    let spec = TrainSpec { epochs: 6, batch_size: 50, ..TrainSpec::default() };
    let mut trainer = Trainer::new(network, spec.check().unwrap()).unwrap();
    assert_eq!(trainer.run(&samples, &mut ()).unwrap(), Outcome::Finished);
    let spec = ModelSpec {
        name: "clouds".into(),
        kind: NetworkKind::Mlp,
        activation: ActivationChoice::Polynomial,
        network: trainer.into_network(),
        preprocessing: PreprocessingKind::UnitRange.fit(samples.inputs()).unwrap(),
        split: SplitSpec::default(),
        class_names: ["a", "b", "c", "d"].map(str::to_owned).to_vec(),
        bits: None,
        training: TrainingRecord::default(),
        data_source: "clouds".into(),
    };
    (Model::new(spec).unwrap(), samples)
}

fn bits(text: &str) -> LayerBits {
    text.parse().unwrap()
}

#[test]
fn bits_are_written_as_they_are_read() {
    for text in ["4/4/4", "4/6,4,4/5,4", "1/2/1", "16/15/16", "3/2,3/7", "8/5/4,3,2"] {
        assert_eq!(bits(text).to_string(), text);
    }
    // What is the same everywhere is said once.
    assert_eq!(bits("4/5,5,5/6,6"), LayerBits::from(Bits::new(4, 5, 6).unwrap()));
    assert_eq!(bits("4/5,5,5/6,6").uniform(), Some(Bits::new(4, 5, 6).unwrap()));
    assert_eq!(bits("4/5,4/6").uniform(), None);
    for wrong in ["", "4", "4/4", "4/4/4/4", "4/x/4", "-1/4/4", "4,4/4/4", "4/4,/4", "none"] {
        assert!(matches!(wrong.parse::<LayerBits>(), Err(Error::UnknownName { .. })), "{wrong}");
    }
    let long = format!("4/{}/4", "4,".repeat(5000));
    assert!(long.parse::<LayerBits>().is_err());
    for wrong in ["0/4/4", "17/4/4", "4/4,1/4", "4/16/4", "4/4/4,0", "4/4/17"] {
        let error = wrong.parse::<LayerBits>().unwrap_err();
        assert!(matches!(error, Error::InvalidSetting { .. }), "{wrong}: {error}");
    }
}

#[test]
fn every_stage_has_its_own_bits() {
    let of = bits("5/6,3,4/7,2");
    assert_eq!((of.input(), of.weight(0), of.weight(1), of.weight(2)), (5, 6, 3, 4));
    assert_eq!((of.activation(0), of.activation(1)), (7, 2));
    let uniform = bits("5/4/3");
    assert_eq!(uniform.with_weight(1, 6, 3), bits("5/4,6,4/3"));
    assert_eq!(uniform.with_activation(0, 6, 3), bits("5/4/6,3"));
    assert_eq!(uniform.with_activation(2, 6, 3), uniform, "after the last stage come scores");
    assert_eq!(bits("5/4,6,4/3").with_weight(1, 4, 3), uniform);
    for (text, n_stages) in [("4/4,5/4", 3), ("4/4/4,5", 2), ("4/4,5,6,7/4", 3)] {
        let error = bits(text).check(n_stages).unwrap_err();
        assert!(error.to_string().contains("linear layer"), "{error}");
    }
}

#[test]
fn grids_and_weights_keep_to_the_bits_of_their_stage() {
    let (model, samples) = trained();
    let of = bits("5/7,3,4/6,2");
    let preprocessing = &model.spec().preprocessing;
    let grids = calibrate(model.network(), preprocessing, samples.inputs(), &of).unwrap();
    assert_eq!(grids.input.bits, 5);
    let spans: Vec<i64> = grids
        .stages
        .iter()
        .filter_map(|stage| stage.output.map(|grid| i64::from(grid.max) - i64::from(grid.min)))
        .collect();
    assert!(spans[0] <= 63 && spans[0] > 31 && spans[1] <= 3, "{spans:?}");
    let prepared = prepare_qat(model.network(), &grids).unwrap();
    let widths: Vec<u32> = prepared
        .layers()
        .iter()
        .filter_map(|layer| if let Layer::Dense(dense) = layer { Some(dense) } else { None })
        .filter_map(|dense| dense.weight_quantizer.as_ref().map(|quantizer| quantizer.bits))
        .collect();
    assert_eq!(widths, [7, 3, 4]);
    let network = quantize(&prepared).unwrap().network;
    for stage in 0..N_STAGES {
        let (_, weights) = network.stage(stage).unwrap();
        let largest = weights.weights.iter().map(|w| w.unsigned_abs()).max().unwrap();
        assert!(u32::from(largest) < 1 << (of.weight(stage) - 1), "{stage}: {largest}");
    }
    // The same list for all is the same as one number for all.
    let same = quantize_model(&model, bits("4/5,5,5/6,6"), samples.inputs()).unwrap();
    let uniform = Bits::new(4, 5, 6).unwrap();
    let other = quantize_model(&model, uniform, samples.inputs()).unwrap();
    for stage in 0..N_STAGES {
        assert_eq!(same.network.stage(stage).unwrap(), other.network.stage(stage).unwrap());
    }
    for wrong in ["4/4,5/4", "4/4/4,5,6"] {
        let error = quantize_model(&model, bits(wrong), samples.inputs()).unwrap_err();
        assert!(matches!(error, Error::InvalidSetting { .. }), "{error}");
    }
    // From code, numbers may be anything.
    let error =
        quantize_model(&model, Bits { input: 4, weight: 1, activation: 4 }, samples.inputs());
    assert!(matches!(error.unwrap_err(), Error::InvalidSetting { .. }));
}

#[test]
fn joined_stages_have_their_own_bits_too() {
    let (model, samples) = trained();
    let joins = [true, false, false];
    let network = quantize_joined(
        model.network(),
        &Preprocessing::UnitRange,
        samples.inputs(),
        bits("4/3,7,4/5"),
        &joins,
        StageOutput::Pooled,
    );
    let network = network.unwrap().network;
    assert_eq!(network.structure().len(), N_STAGES - 1);
    let (_, joined) = network.stage(0).unwrap();
    let largest = |weights: &[i16]| weights.iter().map(|w| w.unsigned_abs()).max().unwrap();
    let first = largest(&joined.chain[0].weights);
    assert!(first < 4, "three bits: {first}");
    assert!((16..64).contains(&largest(&joined.weights)), "seven bits");
}

/// What the search says is what plans of those bits move and reach; no single step down is better.
#[test]
fn the_search_ends_where_no_single_step_helps() {
    let (model, samples) = trained();
    let run = RunSize { n_samples: 500, canaries_per_block: 18, replicas: 1 };
    let goal = PlanGoal {
        objective: Objective::Bytes,
        activation_side: Some(ActivationSide::Client),
        ..PlanGoal::new(run)
    };
    let most = Bits { input: 5, weight: 6, activation: 6 };
    let spec = SearchSpec { most, ..SearchSpec::new(0.02, goal) };
    let mut costs = ReferenceRates::new(1);
    let uniform = search_bits(&model, &samples, &spec, &mut costs, &mut |_| ()).unwrap();
    let mut told: Vec<LayerTrial> = Vec::new();
    let found = search_layer_bits(&model, &samples, &spec, &uniform, &mut costs, &mut |trial| {
        told.push(trial.clone());
    })
    .unwrap();
    assert_eq!(found.trials, told);
    assert!(found.bytes <= uniform.bytes);

    let rows =
        |part| SplitSpec { seed: 0, test_fraction: 0.2 }.positions(samples.labels(), part).unwrap();
    let calibration = samples.inputs().select(Axis(0), &rows(Split::Train));
    let held_out = rows(Split::Test);
    let labels: Vec<u32> = held_out.iter().map(|&p| samples.labels()[p]).collect();
    let held_out = samples.inputs().select(Axis(0), &held_out);
    let judge = |of: &LayerBits| {
        let quantized = quantize_model(&model, of, &calibration).unwrap();
        let subject = Subject { network: &quantized.network, observed: &[] };
        let best = search(&[subject], &goal, &mut ReferenceRates::new(1)).unwrap().remove(0);
        let plan =
            best.compile(&quantized.network, ModelFacts::of(&model, quantized.score_step)).unwrap();
        let inputs = plan.network().input().quantize(held_out.view()).unwrap();
        let predicted = plan.simulate(&inputs).unwrap().predictions();
        (best.bytes(), Evaluation::of(&predicted, &labels, 4).accuracy())
    };
    assert_eq!(judge(&found.bits), (found.bytes, found.accuracy));
    let limit = uniform.float.accuracy() - spec.target_drop - 1e-9;
    assert!(found.accuracy >= limit);
    for trial in &found.trials {
        let (bytes, accuracy) = judge(&trial.bits);
        match trial.result {
            TrialResult::Accepted { bytes: b, accuracy: a } => {
                assert!((b, a) == (bytes, accuracy) && a >= limit);
            }
            TrialResult::Inaccurate { bytes: b, accuracy: a } => {
                assert!((b, a) == (bytes, accuracy) && a < limit);
            }
            TrialResult::Dearer { bytes: b } => assert_eq!(b, bytes),
            TrialResult::TooLarge => panic!("a few bits always fit"),
        }
    }
    let fewer = |of: u32, least: u32| (of > least).then(|| of - 1);
    let mut steps: Vec<LayerBits> = Vec::new();
    let of = &found.bits;
    steps.extend(fewer(of.input(), 1).map(|input| of.with_input(input)));
    for stage in 0..N_STAGES {
        let weight = fewer(of.weight(stage), 2);
        steps.extend(weight.map(|weight| of.with_weight(stage, weight, N_STAGES)));
        if stage + 1 < N_STAGES {
            let activation = fewer(of.activation(stage), 1);
            steps.extend(activation.map(|a| of.with_activation(stage, a, N_STAGES)));
        }
    }
    // Steps that were too much once are not tried again, so chance may let some through.
    let better = steps.iter().filter(|step| {
        let was_tried = found.trials.iter().any(|trial| trial.bits == **step);
        let (bytes, accuracy) = judge(step);
        was_tried && bytes < found.bytes && accuracy >= limit
    });
    assert_eq!(better.count(), 0);

    // The report knows the bits of every stage.
    let quantized = quantize_model(&model, of, &calibration).unwrap();
    let subject = Subject { network: &quantized.network, observed: &[] };
    let best = search(&[subject], &goal, &mut ReferenceRates::new(1)).unwrap().remove(0);
    let plan =
        best.compile(&quantized.network, ModelFacts::of(&model, quantized.score_step)).unwrap();
    let report = accuracy_report(&model, of, &plan, &samples).unwrap();
    let widths = report.stages.iter().map(|stage| stage.weights.as_ref().unwrap().bits);
    assert!(widths.eq((0..N_STAGES).map(|stage| of.weight(stage))));
}

proptest! {
    #[test]
    fn any_text_is_bits_or_an_error(text in "[0-9,/x ]{0,24}") {
        if let Ok(of) = text.parse::<LayerBits>() {
            prop_assert_eq!(of.to_string().parse::<LayerBits>().unwrap(), of);
        }
    }
}
