//! Training: it learns, reproduces itself, resumes, and stops early when it cannot go on.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]

#[path = "support/real_data.rs"]
mod real_data;

use std::ops::ControlFlow;

use ndarray::{Array1, Array2, array};
use nn_poly::import::{Dataset, Split, SplitSpec};
use nn_poly::layer::{Layer, Quantize, WeightQuantizer};
use nn_poly::network::{ActivationChoice, Architecture, NetworkKind};
use nn_poly::train::{
    Augmentation, BatchReport, Checkpoint, Distillation, FunctionMatching, LabeledSamples,
    LabelsAndScores, Loss, Optimizer, Outcome, Schedule, TrainRecipe, TrainSpec,
    TrainableParameters, Trainer, evaluate,
};
use nn_poly::{Error, Network, Shape};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use real_data::real_data;

/// Images of one bright bar: its orientation is the class.
fn bars(n_samples: usize, seed: u64) -> LabeledSamples {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut inputs = Array2::zeros((n_samples, 144));
    let mut labels = Vec::new();
    for mut row in inputs.rows_mut() {
        let label = rng.random_range(0_u32..2);
        let place = rng.random_range(0_usize..12);
        for i in 0..12 {
            let position = if label == 0 { place * 12 + i } else { i * 12 + place };
            row[position] = 1.0;
        }
        row.mapv_inplace(|v: f32| (v + rng.random_range(-0.2..0.2_f32)).clamp(0.0, 1.0));
        labels.push(label);
    }
    LabeledSamples::new(Shape::image(12, 12, 1).unwrap(), inputs, labels, 2).unwrap()
}

fn spec() -> TrainSpec {
    TrainSpec {
        epochs: 4,
        batch_size: 32,
        augmentation: Augmentation { shift: 1, flip: true, noise: 0.01, mix: 0.0 },
        ..TrainSpec::default()
    }
}

fn trainer(spec: TrainSpec) -> Trainer {
    let architecture = Architecture::new(NetworkKind::Cryptonets, ActivationChoice::Square)
        .with_clamp(3.0)
        .with_dropout(0.1);
    let network = architecture.build(&Shape::image(12, 12, 1).unwrap(), 2, 9).unwrap();
    Trainer::new(network, spec.check().unwrap()).unwrap()
}

fn train(spec: TrainSpec, samples: &LabeledSamples) -> Network<f32> {
    let mut trainer = trainer(spec);
    assert_eq!(trainer.run(samples, &mut ()).unwrap(), Outcome::Finished);
    trainer.into_network()
}

#[test]
fn every_optimizer_and_schedule_learns_bars() {
    let (training, test) = (bars(400, 1), bars(200, 2));
    let optimizers = [
        (Optimizer::AdamW { weight_decay: 0.01 }, 3e-3),
        (Optimizer::Adam, 3e-3),
        (Optimizer::Sgd { momentum: 0.9, weight_decay: 1e-4 }, 0.05),
    ];
    let schedules = [Schedule::OneCycle { warm_up: 0.2 }, Schedule::Cosine, Schedule::Constant];
    for ((optimizer, learning_rate), schedule) in optimizers.into_iter().zip(schedules) {
        let spec = TrainSpec { optimizer, learning_rate, schedule, ..spec() };
        let accuracy = evaluate(&train(spec, &training), &test).unwrap().accuracy();
        assert!(accuracy > 0.95, "{optimizer:?} with {schedule:?}: {accuracy}");
    }
}

#[test]
fn the_seed_decides_everything_and_the_threads_nothing() {
    let samples = bars(150, 3);
    let on_threads = |n: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
        pool.install(|| train(spec(), &samples))
    };
    let one = on_threads(1);
    assert_eq!(one, on_threads(2));
    assert_eq!(one, on_threads(5));
    assert_ne!(one, train(spec().with_seed(1), &samples));
}

/// Stop after `n_steps` steps.
fn stopper(n_steps: u64) -> impl FnMut(&BatchReport) -> ControlFlow<()> {
    let mut count = 0;
    move |_| {
        count += 1;
        if count == n_steps { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one() {
    let samples = bars(150, 4);
    let expected = train(spec(), &samples);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.checkpoint");
    // In the middle of an epoch, at its end, and before the first step.
    for n_steps in [0, 3, 5, 12] {
        let mut first = trainer(spec());
        if n_steps > 0 {
            assert_eq!(first.run(&samples, &mut stopper(n_steps)).unwrap(), Outcome::Stopped);
        }
        first.checkpoint().save(&path).unwrap();
        let checkpoint = Checkpoint::load(&path).unwrap();
        assert_eq!(checkpoint.n_steps_done(), n_steps);
        let mut second = Trainer::resume(checkpoint);
        assert_eq!(second.run(&samples, &mut ()).unwrap(), Outcome::Finished);
        assert_eq!(second.network(), &expected, "stopped after {n_steps} steps");
    }
}

#[test]
fn a_checkpoint_refuses_other_data_and_damage() {
    let samples = bars(150, 4);
    let mut first = trainer(spec());
    assert_eq!(first.run(&samples, &mut stopper(2)).unwrap(), Outcome::Stopped);
    let mut second = Trainer::resume(first.checkpoint());
    let error = second.run(&bars(150, 5), &mut ()).unwrap_err();
    assert!(matches!(error, Error::CheckpointMismatch { field: "training data" }));
    assert_eq!(
        second.run(&samples, &mut ()).unwrap(),
        Outcome::Finished,
        "the right data still work"
    );

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.checkpoint");
    first.checkpoint().save(&path).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let error = Checkpoint::load(&path).unwrap_err().to_string();
    assert!(error.contains("run.checkpoint") && error.contains("damaged"), "{error}");
}

#[test]
fn divergence_ends_the_run_with_its_place() {
    let samples = bars(150, 6);
    let spec = TrainSpec {
        learning_rate: 1e30,
        clip_norm: None,
        schedule: Schedule::Constant,
        optimizer: Optimizer::Sgd { momentum: 0.0, weight_decay: 0.0 },
        ..spec()
    };
    let mut trainer = trainer(spec);
    let error = trainer.run(&samples, &mut ()).unwrap_err();
    assert!(matches!(error, Error::Diverged { epoch: 1, batch: 2.., .. }), "{error}");
    assert!(error.to_string().contains("lower the learning rate"));
}

#[test]
fn progress_reports_every_batch_and_epoch() {
    #[derive(Default)]
    struct Log {
        batches: Vec<(u32, u64, f64)>,
        epochs: Vec<f64>,
    }
    impl nn_poly::train::Progress for Log {
        fn batch(&mut self, report: &BatchReport) -> ControlFlow<()> {
            assert_eq!((report.n_epochs, report.n_batches), (4, 5));
            self.batches.push((report.epoch, report.batch, report.loss));
            ControlFlow::Continue(())
        }

        fn epoch(&mut self, report: &nn_poly::train::EpochReport) {
            self.epochs.push(report.mean_loss);
        }
    }
    let mut log = Log::default();
    assert_eq!(trainer(spec()).run(&bars(150, 7), &mut log).unwrap(), Outcome::Finished);
    assert_eq!(log.batches.len(), 20);
    assert_eq!((log.batches[5].0, log.batches[5].1), (2, 1));
    let mean = log.batches[..5].iter().map(|batch| batch.2).sum::<f64>() / 5.0;
    assert!((log.epochs[0] - mean).abs() < 1e-12);
    assert!(log.epochs[3] < log.epochs[0], "the loss falls");
}

#[test]
fn mismatched_samples_are_refused() {
    let mut trainer = trainer(spec());
    let shape = Shape::vector(144).unwrap();
    let flat = LabeledSamples::new(shape.clone(), Array2::zeros((3, 144)), vec![0; 3], 2).unwrap();
    assert!(matches!(trainer.run(&flat, &mut ()), Err(Error::ShapeMismatch { .. })));
    assert!(matches!(evaluate(trainer.network(), &flat), Err(Error::ShapeMismatch { .. })));
    let image = Shape::image(12, 12, 1).unwrap();
    let third = LabeledSamples::new(image, Array2::zeros((3, 144)), vec![2; 3], 3).unwrap();
    assert!(matches!(trainer.run(&third, &mut ()), Err(Error::ShapeMismatch { .. })));
    let none = LabeledSamples::new(shape.clone(), Array2::zeros((0, 144)), vec![], 2);
    assert!(matches!(none, Err(Error::NoSamples { .. })));
    let nan = LabeledSamples::new(Shape::vector(1).unwrap(), array![[f32::NAN]], vec![0], 2);
    assert!(matches!(nan, Err(Error::NonFiniteInput { .. })));
    let label = LabeledSamples::new(Shape::vector(1).unwrap(), array![[0.0]], vec![2], 2);
    assert!(matches!(label, Err(Error::InvalidLabel { position: 0, .. })));
}

/// Rounding a trained network to 3 bits hurts; fine-tuning through the rounding repairs most of it.
#[test]
fn fine_tuning_through_quantizers_improves_the_rounded_network() {
    let (training, test) = (bars(400, 1), bars(400, 2));
    let float = train(spec(), &training).fold_batch_norm().unwrap();
    let mut layers = vec![Layer::Quantize(Quantize { steps: array![1.0 / 3.0], min: 0, max: 3 })];
    for mut layer in float.into_layers() {
        let quantizer = |weights: ndarray::ArrayViewD<'_, f32>| {
            let largest = weights.iter().fold(0.0_f32, |m, w| m.max(w.abs()));
            Some(WeightQuantizer { scales: Array1::from_elem(1, largest / 1.0), bits: 2 })
        };
        match &mut layer {
            Layer::Dense(dense) => {
                dense.weight_quantizer = quantizer(dense.weights.view().into_dyn())
            }
            Layer::Conv2d(conv) => {
                conv.weight_quantizer = quantizer(conv.weights.view().into_dyn())
            }
            _ => {}
        }
        let is_clamp = matches!(layer, Layer::Clamp(_));
        layers.push(layer);
        if is_clamp {
            layers.push(Layer::Quantize(Quantize { steps: array![0.5], min: 0, max: 6 }));
        }
    }
    let network = Network::new(training.shape().clone(), layers).unwrap();
    let loss = |network: &Network<f32>| {
        let scores = network.outputs(test.inputs()).unwrap();
        nn_poly::train::softmax_cross_entropy(scores.view(), test.labels(), 0.0).0
    };
    let before = loss(&network);
    let recipe = TrainRecipe::for_network(NetworkKind::Cryptonets, ActivationChoice::Square, 400);
    let fine_tune = TrainSpec {
        augmentation: Augmentation::default(),
        batch_size: 32,
        learning_rate: 3e-3,
        ..recipe.fine_tune.with_epochs(6)
    };
    let mut trainer = Trainer::new(network, fine_tune.check().unwrap()).unwrap();
    assert_eq!(trainer.run(&training, &mut ()).unwrap(), Outcome::Finished);
    let after = loss(trainer.network());
    assert!(after < 0.8 * before, "loss {before} before and {after} after");
}

#[test]
fn real_tables_are_learned() {
    for (name, floor) in [("tabular/wine.csv", 0.90), ("tabular/crabs.csv", 0.85)] {
        let Some(path) = real_data(name) else { return };
        let split = SplitSpec { seed: 1, test_fraction: 0.3 };
        let training = Dataset::load(&path, Split::Train, &split).unwrap();
        let test = Dataset::load(&path, Split::Test, &split).unwrap();
        let recipe = TrainRecipe::for_network(
            NetworkKind::Mlp,
            ActivationChoice::Square,
            training.n_samples(),
        );
        let preprocessing = recipe.preprocessing.fit(training.features()).unwrap();
        let samples = training.labeled(&preprocessing).unwrap();
        let network = recipe.architecture.build(training.shape(), training.n_classes(), 1).unwrap();
        let mut trainer = Trainer::new(network, recipe.float.check().unwrap()).unwrap();
        assert_eq!(trainer.run(&samples, &mut ()).unwrap(), Outcome::Finished);
        let test = test.labeled(&preprocessing).unwrap();
        let accuracy = evaluate(trainer.network(), &test).unwrap().accuracy();
        eprintln!("{name}: test accuracy {accuracy:.4}");
        assert!(accuracy >= floor, "{name}: {accuracy}");
    }
}

/// Frozen values keep every bit although weight decay and momentum pull at all of them.
#[test]
fn only_what_may_change_changes() {
    let samples = bars(150, 8);
    let spec = TrainSpec { optimizer: Optimizer::AdamW { weight_decay: 0.1 }, ..spec() };
    let start = trainer(spec).into_network();
    let run = |network: &Network<f32>, trainable: TrainableParameters| {
        let trainer = Trainer::new(network.clone(), spec.check().unwrap()).unwrap();
        let mut trainer = trainer.restricted_to(trainable).unwrap();
        assert_eq!(trainer.run(&samples, &mut ()).unwrap(), Outcome::Finished);
        trainer.into_network()
    };
    let last = start.layers().len() - 1;
    let trained = run(&start, TrainableParameters::layers(&start, |layer_idx| layer_idx == last));
    for (layer_idx, (before, after)) in start.layers().iter().zip(trained.layers()).enumerate() {
        assert_eq!(before != after, layer_idx == last, "layer {layer_idx}, statistics included");
    }

    let mut layers = start.clone().into_layers();
    for layer in &mut layers {
        if let Layer::Dense(dense) = layer {
            dense.weights.mapv_inplace(|w| if w.abs() < 0.05 { 0.0 } else { w });
        }
    }
    let sparse = Network::new(start.input_shape().clone(), layers).unwrap();
    let trained = run(&sparse, TrainableParameters::non_zero_weights(&sparse));
    let weights = |network: &Network<f32>| -> Vec<f32> {
        let parameters = network.layers().iter().flat_map(Layer::parameters);
        parameters.filter(|p| p.name == "weights").flat_map(|p| p.values.to_owned()).collect()
    };
    let (before, after) = (weights(&sparse), weights(&trained));
    assert!(before.iter().filter(|w| **w == 0.0).count() > 100);
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(*before == 0.0, *after == 0.0);
    }
    assert_eq!(run(&start, TrainableParameters::all(&start)), train(spec, &samples));
    let other = trainer(spec).restricted_to(TrainableParameters::all(
        &Architecture::new(NetworkKind::Mlp, ActivationChoice::Relu)
            .build(&Shape::image(12, 12, 1).unwrap(), 2, 9)
            .unwrap(),
    ));
    assert!(matches!(other, Err(Error::ShapeMismatch { .. })));
}

/// A student of mixtures learns the teacher's function; nothing else can be taught by mixtures.
#[test]
fn a_student_learns_a_function_from_mixtures() {
    let (training, test) = (bars(400, 1), bars(200, 2));
    let teacher = train(spec(), &training);
    let shape = training.shape().clone();
    let blind = LabeledSamples::new(shape, training.inputs().clone(), vec![0; 400], 2).unwrap();
    let augmentation = Augmentation { mix: 0.5, ..Augmentation::default() };
    let mixing = TrainSpec { augmentation, ..spec() };
    let mut student = trainer(mixing);
    let loss = FunctionMatching::new(teacher.clone(), 2.0).unwrap();
    assert_eq!(student.run_with(&blind, &loss, &mut ()).unwrap(), Outcome::Finished);
    let accuracy = evaluate(student.network(), &test).unwrap().accuracy();
    assert!(accuracy > 0.95, "{accuracy}");
    let answers = Distillation::new(&teacher.outputs(training.inputs()).unwrap(), 2.0).unwrap();
    let error = trainer(mixing).run_with(&blind, &answers, &mut ()).unwrap_err();
    assert!(matches!(error, Error::InvalidSetting { setting: "share of mixed samples", .. }));
    assert!(trainer(mixing).run(&training, &mut ()).is_err());
    for mix in [-0.1, 1.1, f64::NAN] {
        let augmentation = Augmentation { mix, ..Augmentation::default() };
        assert!(TrainSpec { augmentation, ..spec() }.check().is_err());
    }
}

/// A student that sees a teacher's scores and wrong labels agrees with the teacher.
#[test]
fn a_student_learns_from_scores_alone() {
    let (training, test) = (bars(400, 1), bars(200, 2));
    let teacher = train(spec(), &training);
    let scores = teacher.outputs(training.inputs()).unwrap();
    let shape = training.shape().clone();
    let blind = LabeledSamples::new(shape, training.inputs().clone(), vec![0; 400], 2).unwrap();
    let n = blind.n_samples();
    let losses: [Box<dyn Loss>; 2] = [
        Box::new(Distillation::new(&scores, 2.0).unwrap()),
        Box::new(LabelsAndScores::new(scores, vec![0.0; n], vec![1.0; n]).unwrap()),
    ];
    for loss in losses {
        let mut student = trainer(TrainSpec { augmentation: Augmentation::default(), ..spec() });
        assert_eq!(student.run_with(&blind, &*loss, &mut ()).unwrap(), Outcome::Finished);
        let accuracy = evaluate(student.network(), &test).unwrap().accuracy();
        assert!(accuracy > 0.95, "{accuracy}");
    }
}
