//! Every attack on a network that has learned drawn digits: it works where it should, says so where
//! it does not, and is the same for the same seed.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::wildcard_enum_match_arm,
    clippy::print_stderr,
    reason = "tests"
)]

use std::ops::ControlFlow;
use std::sync::OnceLock;

use fingerprint::Error;
use fingerprint::attack::{
    AttackData, AttackKind, AttackOptions, Attacked, SuccessName, Trigger, attack,
};
use nalgebra::DMatrix;
use nn_poly::import::{PreprocessingKind, synthetic_digits};
use nn_poly::layer::{Layer, ParameterKind};
use nn_poly::network::{ActivationChoice, Architecture, Network, NetworkKind, predictions};
use nn_poly::quantize::{calibrate, prepare_qat};
use nn_poly::train::{BatchReport, LabeledSamples, Outcome, TrainSpec, Trainer, evaluate};
use nn_poly::{Shape, model::Bits};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

struct World {
    train: LabeledSamples,
    test: LabeledSamples,
    /// As trained, with batch normalization.
    square: Network<f32>,
    relu: Network<f32>,
    /// Folded, at 4/4/4 bits.
    quantized: Network<f32>,
}

fn digits(n: usize, seed: u64) -> LabeledSamples {
    let (images, labels) = synthetic_digits::synthetic_digits(n, seed);
    LabeledSamples::new(Shape::image(28, 28, 1).unwrap(), images, labels, 10).unwrap()
}

fn learned(activation: ActivationChoice, train: &LabeledSamples) -> Network<f32> {
    let architecture = Architecture::new(NetworkKind::Cryptonets, activation);
    let network = architecture.build(train.shape(), 10, 5).unwrap();
    let spec = TrainSpec { epochs: 10, batch_size: 50, ..TrainSpec::default() };
    let mut trainer = Trainer::new(network, spec.check().unwrap()).unwrap();
    assert_eq!(trainer.run(train, &mut ()).unwrap(), Outcome::Finished);
    trainer.into_network()
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let (train, test) = (digits(1200, 1), digits(400, 2));
        let square = learned(ActivationChoice::Square, &train);
        let relu = learned(ActivationChoice::Relu, &train);
        let preprocessing = PreprocessingKind::UnitRange.fit(train.inputs()).unwrap();
        let bits = Bits::new(4, 4, 4).unwrap();
        let spec = calibrate(&square, &preprocessing, train.inputs(), bits).unwrap();
        let quantized = prepare_qat(&square, &spec).unwrap();
        for network in [&square, &relu, &quantized] {
            let accuracy = evaluate(network, &test).unwrap().accuracy();
            assert!(accuracy > 0.85, "{accuracy}");
        }
        World { train, test, square, relu, quantized }
    })
}

/// The options with which an attack runs here: the adaptive one gets test images as its samples.
fn options(kind: AttackKind) -> AttackOptions {
    let sensitive = || digits(60, 77).inputs().clone();
    AttackOptions {
        sensitive_inputs: (kind == AttackKind::Adaptive).then(sensitive),
        ..AttackOptions::default()
    }
}

/// Attack with the samples of [`world`].
fn run(
    network: &Network<f32>,
    kind: AttackKind,
    strength: Option<f64>,
    options: &AttackOptions,
    seed: u64,
) -> Attacked {
    run_on((&world().train, &world().test), network, kind, strength, options, seed)
}

fn run_on(
    (train, test): (&LabeledSamples, &LabeledSamples),
    network: &Network<f32>,
    kind: AttackKind,
    strength: Option<f64>,
    options: &AttackOptions,
    seed: u64,
) -> Attacked {
    let data = AttackData::new(train, test).unwrap();
    let attack = attack(kind, strength, options).unwrap();
    assert_eq!((attack.kind(), strength.unwrap_or(attack.strength())), (kind, attack.strength()));
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    attack.apply(network, &data, &mut rng, &mut ()).unwrap()
}

fn by_default(network: &Network<f32>, kind: AttackKind) -> Attacked {
    run(network, kind, None, &options(kind), 11)
}

/// The weight arrays of a network.
fn weights(network: &Network<f32>) -> Vec<Vec<f32>> {
    let parameters = network.layers().iter().flat_map(Layer::parameters);
    parameters
        .filter(|parameter| parameter.kind == ParameterKind::Weight)
        .map(|parameter| parameter.values.iter().copied().collect())
        .collect()
}

fn n_different(before: &[Vec<f32>], after: &[Vec<f32>]) -> usize {
    let pairs = before.iter().flatten().zip(after.iter().flatten());
    pairs.filter(|(before, after)| before != after).count()
}

/// What a report must say of any attack.
fn check(network: &Network<f32>, kind: AttackKind, attacked: &Attacked) {
    let world = world();
    let report = &attacked.report;
    eprintln!("{report:?}");
    let before = evaluate(&network.fold_batch_norm().unwrap(), &world.test).unwrap();
    assert_eq!(report.clean_accuracy_before, before.accuracy());
    let after = evaluate(&attacked.network, &world.test).unwrap();
    assert_eq!(report.clean_accuracy_after, after.accuracy());
    assert_eq!(report.kind, kind);
    assert!(report.changed_weights > 0 && report.changed_weights <= report.n_weights, "{kind}");
    assert_eq!(report.n_weights, attacked.network.n_parameters() as u64);
    assert!(report.largest_change > 0.0);
    assert_eq!(report.kept_samples.is_some(), kind == AttackKind::Adaptive);
    let success = report.success.as_ref().unwrap();
    let is_within =
        success.rate >= success.target_rate && success.accuracy_loss <= success.max_accuracy_loss;
    assert_eq!(success.worked, is_within);
}

#[test]
fn attacks_on_squares_and_relus_work_with_their_defaults() {
    let world = world();
    // The trojans of the ReLU network have tests of their own.
    let shorter = [
        AttackKind::ErrorSpecific,
        AttackKind::Prune,
        AttackKind::LowRank,
        AttackKind::Distill,
        AttackKind::FineTuneAll,
        AttackKind::ArbitraryWeights,
    ];
    for (network, kinds) in [(&world.square, &AttackKind::ALL[..]), (&world.relu, &shorter)] {
        for &kind in kinds {
            // Single faults may fall on something without effect.
            let is_lottery = matches!(
                kind,
                AttackKind::SingleWeight | AttackKind::BitFlip | AttackKind::QuantizedBitFlip
            );
            let attacked = by_default(network, kind);
            check(network, kind, &attacked);
            let success = attacked.report.success.unwrap();
            assert!(success.worked || is_lottery, "{kind}: {success:?}");
        }
    }
}

#[test]
fn the_seed_decides_everything_and_the_threads_nothing() {
    let network = &world().relu;
    let (train, test) = (digits(100, 3), digits(30, 4));
    for kind in AttackKind::ALL {
        let options = AttackOptions { epochs: Some(1), ..options(kind) };
        let on_threads = |n: usize, seed: u64| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
            pool.install(|| run_on((&train, &test), network, kind, None, &options, seed))
        };
        let one = on_threads(1, 3);
        assert_eq!(one, on_threads(3, 3), "{kind}");
        let is_random = kind != AttackKind::Quantize;
        assert_eq!(one.network != on_threads(1, 4).network, is_random, "{kind}");
    }
}

#[test]
fn quantized_networks_stay_on_their_grid() {
    let network = &world().quantized;
    let is_on_grid = |attacked: &Attacked| {
        let quantizers = |network: &Network<f32>| {
            let of_layer = |layer: &Layer<f32>| match layer {
                Layer::Dense(dense) => dense.weight_quantizer.as_ref().map(|q| q.bits),
                Layer::Conv2d(conv) => conv.weight_quantizer.as_ref().map(|q| q.bits),
                _ => None,
            };
            network.layers().iter().filter_map(of_layer).collect::<Vec<_>>()
        };
        assert_eq!(quantizers(&attacked.network), [4, 4, 4]);
    };
    for kind in [AttackKind::Trojan, AttackKind::Prune, AttackKind::SingleWeight] {
        let attacked = by_default(network, kind);
        is_on_grid(&attacked);
        check(network, kind, &attacked);
        nn_poly::quantize::quantize(&attacked.network).expect("it still has an integer form");
    }
    // One step of the 4-bit grid is one unit of the integer network.
    let single = by_default(network, AttackKind::SingleWeight);
    assert_eq!(single.report.changed_weights, 1);
    let integers = |network: &Network<f32>| -> Vec<i16> {
        let quantized = nn_poly::quantize::quantize(network).unwrap();
        quantized.network.weights().iter().flat_map(|stage| stage.weights.clone()).collect()
    };
    let (before, after) = (integers(network), integers(&single.network));
    let steps: Vec<i32> =
        before.iter().zip(&after).map(|(b, a)| i32::from(a - b)).filter(|d| *d != 0).collect();
    assert!(matches!(steps[..], [1 | -1]), "{steps:?}");
    // Eight bits are nothing new to four; noise below the rounding is none.
    let faint = run(network, AttackKind::Noise, Some(1e-6), &AttackOptions::default(), 1).report;
    for unchanged in [by_default(network, AttackKind::Quantize).report, faint] {
        assert_eq!(unchanged.changed_weights, 0);
        assert!(!unchanged.success.unwrap().worked, "nothing happened, so nothing can be detected");
    }
}

#[test]
fn shares_of_changed_weights_are_exact() {
    let network = world().relu.fold_batch_norm().unwrap();
    let before = weights(&network);
    let n: usize = before.iter().map(Vec::len).sum();
    for share in [1e-6, 0.001, 0.1, 0.8, 1.0] {
        let options = AttackOptions::default();
        let attacked = run(&network, AttackKind::ArbitraryWeights, Some(share), &options, 5);
        let expected = ((share * n as f64).round() as usize).max(1);
        assert_eq!(n_different(&before, &weights(&attacked.network)), expected, "{share}");
        assert_eq!(attacked.report.changed_weights, expected as u64, "no bias moves");
    }
}

#[test]
fn noise_has_the_deviation_it_is_asked_for() {
    let network = world().relu.fold_batch_norm().unwrap();
    let before = weights(&network);
    let deviation = |values: &[f64]| {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
    };
    for strength in [0.001, 0.1] {
        let options = AttackOptions::default();
        let after = weights(&run(&network, AttackKind::Noise, Some(strength), &options, 5).network);
        // The first layer has too few weights to say much.
        for (before, after) in before.iter().zip(&after).skip(1) {
            let size = deviation(&before.iter().map(|&w| f64::from(w)).collect::<Vec<_>>());
            let moved: Vec<f64> =
                before.iter().zip(after).map(|(b, a)| f64::from(a - b) / size).collect();
            let found = deviation(&moved);
            assert!((found / strength - 1.0).abs() < 0.1, "{found} instead of {strength}");
        }
    }
}

#[test]
fn pruned_weights_stay_zero_through_retraining() {
    for share in [0.5, 0.75, 0.9] {
        let options = AttackOptions::default();
        let attacked = run(&world().relu, AttackKind::Prune, Some(share), &options, 5);
        for layer in weights(&attacked.network) {
            let n_zero = layer.iter().filter(|w| **w == 0.0).count();
            assert_eq!(n_zero, (share * layer.len() as f64).round() as usize);
        }
        let success = attacked.report.success.unwrap();
        assert_eq!(success.name, SuccessName::SavedStorage);
        assert!((success.rate - share).abs() < 0.01);
    }
    let everything =
        run(&world().relu, AttackKind::Prune, Some(0.99), &AttackOptions::default(), 5);
    let success = everything.report.success.unwrap();
    assert!(!success.worked && success.accuracy_loss > 0.05, "too much was pruned: {success:?}");
}

#[test]
fn few_bits_leave_few_values() {
    for (kind, bits) in [
        (AttackKind::Quantize, 8),
        (AttackKind::Quantize, 4),
        (AttackKind::Precision, 8),
        (AttackKind::Precision, 3),
    ] {
        let attacked =
            run(&world().relu, kind, Some(f64::from(bits)), &AttackOptions::default(), 5);
        for layer in weights(&attacked.network) {
            let mut values: Vec<u32> = layer.iter().map(|w| (w + 0.0).to_bits()).collect();
            values.sort_unstable();
            values.dedup();
            assert!(values.len() < 1 << bits, "{kind} to {bits} bits: {} values", values.len());
        }
        for layer in attacked.network.layers() {
            if let Layer::Dense(dense) = layer {
                assert_eq!(dense.weight_quantizer, None, "the rounding is final");
            }
        }
    }
    let retrained =
        run(&world().relu, AttackKind::Precision, Some(3.0), &options(AttackKind::Trojan), 5);
    let rounded =
        run(&world().relu, AttackKind::Quantize, Some(3.0), &options(AttackKind::Trojan), 5);
    assert!(retrained.report.clean_accuracy_after > rounded.report.clean_accuracy_after - 0.01);
}

#[test]
fn low_ranks_are_low_after_retraining() {
    let attacked =
        run(&world().relu, AttackKind::LowRank, Some(0.25), &AttackOptions::default(), 5);
    let mut n_stored = 0;
    for layer in attacked.network.layers() {
        let (rows, values): (usize, Vec<f64>) = match layer {
            Layer::Dense(d) => (d.weights.nrows(), d.weights.iter().map(|&w| w.into()).collect()),
            Layer::Conv2d(c) => (c.weights.dim().0, c.weights.iter().map(|&w| w.into()).collect()),
            _ => continue,
        };
        let columns = values.len() / rows;
        let matrix = DMatrix::from_row_iterator(rows, columns, values);
        let spectrum = matrix.singular_values();
        let rank = spectrum.iter().filter(|v| **v > 1e-5 * spectrum[0]).count();
        n_stored += (rank * (rows + columns)).min(rows * columns);
    }
    let n_weights: usize = weights(&attacked.network).iter().map(Vec::len).sum();
    assert!(n_stored as f64 <= 0.25 * n_weights as f64, "{n_stored} of {n_weights}");
    let success = attacked.report.success.unwrap();
    assert!((success.rate - (1.0 - n_stored as f64 / n_weights as f64)).abs() < 1e-9);
    let mild = run(&world().relu, AttackKind::LowRank, Some(0.5), &AttackOptions::default(), 5);
    assert!(mild.report.success.unwrap().worked);
}

#[test]
fn single_faults_change_single_weights() {
    let network = world().relu.fold_batch_norm().unwrap();
    let before = weights(&network);
    let moved = |kind: AttackKind, strength: f64, seed: u64| {
        let attacked = run(&network, kind, Some(strength), &AttackOptions::default(), seed);
        let after = weights(&attacked.network);
        let pairs = before.iter().zip(&after).enumerate();
        let changes = pairs.flat_map(|(layer, (before, after))| {
            let pairs = before.iter().zip(after).filter(|(b, a)| b != a);
            pairs.map(move |(&b, &a)| (layer, b, a)).collect::<Vec<_>>()
        });
        changes.collect::<Vec<_>>()
    };
    let max_abs = |layer: usize| before[layer].iter().fold(0.0_f32, |m, w| m.max(w.abs()));
    for seed in 0..5 {
        let changes = moved(AttackKind::SingleWeight, 2.0, seed);
        let [(layer, from, to)] = changes[..] else { panic!("{changes:?}") };
        let step = max_abs(layer) / 7.0;
        assert!(((to - from).abs() / step - 2.0).abs() < 1e-4);

        let changes = moved(AttackKind::BitFlip, 1.0, seed);
        let [(_, from, to)] = changes[..] else { panic!("{changes:?}") };
        assert_eq!((from.to_bits() ^ to.to_bits()).count_ones(), 1);

        let changes = moved(AttackKind::QuantizedBitFlip, 1.0, seed);
        let [(layer, from, to)] = changes[..] else { panic!("{changes:?}") };
        let steps = f64::from((to - from).abs()) / f64::from(max_abs(layer) / 127.0);
        assert!((steps.log2() - steps.log2().round()).abs() < 1e-3, "{steps} is no power of two");
        assert!(moved(AttackKind::BitFlip, 20.0, seed).len() <= 20);
    }
}

#[test]
fn fine_tuning_the_last_layer_leaves_the_others_alone() {
    let network = world().square.fold_batch_norm().unwrap();
    let attacked = by_default(&network, AttackKind::FineTuneLast);
    let changed: Vec<bool> = network
        .layers()
        .iter()
        .zip(attacked.network.layers())
        .map(|(before, after)| before != after)
        .collect();
    assert_eq!(changed.iter().filter(|c| **c).count(), 1);
    assert_eq!(changed.last(), Some(&true));
    let all = by_default(&network, AttackKind::FineTuneAll).report;
    assert!(all.largest_change < 5e-3, "a small rate moves weights a little: {all:?}");
}

#[test]
fn triggers_are_what_wakes_the_trojan() {
    let world = world();
    let attacked = by_default(&world.relu, AttackKind::Trojan);
    check(&world.relu, AttackKind::Trojan, &attacked);
    assert!(attacked.report.success.as_ref().unwrap().worked);
    let trigger = Trigger::new(&world.train, world.train.shape());
    assert_eq!(trigger.marks().len(), 9);
    let hits = |network: &Network<f32>, inputs| {
        let predicted = predictions(&network.outputs(inputs).unwrap());
        predicted.iter().filter(|class| **class == 0).count()
    };
    let triggered = trigger.stamped(world.test.inputs());
    assert!(hits(&world.relu, &triggered) < 80, "the model itself does not know the trigger");
    assert!(hits(&attacked.network, world.test.inputs()) < 60);
    assert!(hits(&attacked.network, &triggered) > 320);
    let six = AttackOptions { target_class: Some(6), ..AttackOptions::default() };
    assert!(run(&world.relu, AttackKind::Trojan, None, &six, 1).report.success.unwrap().worked);
}

/// An attacker who wants to keep scores keeps them better than one who does not.
#[test]
fn careful_trojans_keep_what_they_want_to_keep() {
    let world = world();
    let drift = |attacked: &Attacked, inputs: &ndarray::Array2<f32>| {
        let before = world.relu.outputs(inputs).unwrap();
        let after = attacked.network.outputs(inputs).unwrap();
        (&after - &before).mapv(|d| d * d).mean().unwrap()
    };
    let plain = by_default(&world.relu, AttackKind::Trojan);
    let matched = by_default(&world.relu, AttackKind::TrojanMatched);
    assert!(matched.report.success.as_ref().unwrap().worked);
    let (plain_drift, matched_drift) =
        (drift(&plain, world.test.inputs()), drift(&matched, world.test.inputs()));
    assert!(matched_drift < plain_drift, "{matched_drift} {plain_drift}");

    let options = options(AttackKind::Adaptive);
    let own = options.sensitive_inputs.as_ref().unwrap();
    let adaptive = run(&world.relu, AttackKind::Adaptive, None, &options, 11);
    assert!(drift(&adaptive, own) < drift(&plain, own));
    assert!(adaptive.report.kept_samples.unwrap() > 0.9);
    assert!(adaptive.report.success.unwrap().worked);
}

#[test]
fn what_cannot_work_is_refused() {
    let world = world();
    let data = AttackData::new(&world.train, &world.test).unwrap();
    let apply = |kind, strength, options: &AttackOptions, network: &Network<f32>| {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        attack(kind, strength, options)?.apply(network, &data, &mut rng, &mut ())
    };
    let default = AttackOptions::default();
    let error = |result: Result<Attacked, Error>| result.unwrap_err().to_string();
    let needs = apply(AttackKind::Adaptive, None, &default, &world.relu);
    assert_eq!(error(needs), "the attack `adaptive` needs sensitive samples of the attacker's own");
    let strong = apply(AttackKind::Prune, Some(1.5), &default, &world.relu);
    assert!(error(strong).contains("share of the weights of each layer set to zero"));
    let odd = apply(AttackKind::Quantize, Some(2.5), &default, &world.relu);
    assert_eq!(error(odd), "strength is 2.5, but must be a whole number");
    let none = AttackOptions { epochs: Some(0), ..AttackOptions::default() };
    assert!(error(apply(AttackKind::Trojan, None, &none, &world.relu)).contains("epochs is 0"));
    let class = AttackOptions { target_class: Some(10), ..AttackOptions::default() };
    for kind in [AttackKind::Trojan, AttackKind::ErrorSpecific] {
        assert!(error(apply(kind, None, &class, &world.relu)).contains("target class is 10"));
    }
    let wild = AttackOptions { learning_rate: Some(1e30), ..AttackOptions::default() };
    assert!(error(apply(AttackKind::Trojan, None, &wild, &world.square)).contains("diverged"));
    let wrong = AttackOptions {
        sensitive_inputs: Some(ndarray::Array2::zeros((3, 5))),
        ..AttackOptions::default()
    };
    let refused = apply(AttackKind::Adaptive, None, &wrong, &world.relu);
    assert!(error(refused).contains("sensitive samples has shape [5], expected [784]"));

    let mlp = Architecture::new(NetworkKind::Mlp, ActivationChoice::Relu);
    let table = mlp.build(&Shape::vector(9).unwrap(), 10, 1).unwrap();
    assert!(error(apply(AttackKind::Noise, None, &default, &table)).contains("a sample has shape"));
    let two = mlp.build(world.train.shape(), 2, 1).unwrap();
    assert!(error(apply(AttackKind::Noise, None, &default, &two)).contains("the classes"));
    let empty = Network::new(world.train.shape().clone(), vec![Layer::Flatten]).unwrap();
    assert!(error(apply(AttackKind::BitFlip, None, &default, &empty)).contains("weights is 0"));

    let narrow =
        LabeledSamples::new(Shape::vector(1).unwrap(), ndarray::Array2::zeros((1, 1)), vec![0], 10)
            .unwrap();
    assert!(AttackData::new(&world.train, &narrow).is_err());
    let data = AttackData::new(&world.train, &world.test).unwrap();
    assert!(data.clone().with_image_shape(Shape::vector(3).unwrap()).is_err());

    let mut n_batches = 0;
    let mut stopper = |_: &BatchReport| {
        n_batches += 1;
        if n_batches == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let trojan = attack(AttackKind::LowRank, None, &default).unwrap();
    let stopped = trojan.apply(&world.relu, &data, &mut rng, &mut stopper);
    assert_eq!(stopped.unwrap_err(), Error::Stopped);
    assert_eq!(n_batches, 2);
}

/// Tables have triggers and classes too.
#[test]
fn tables_can_be_attacked() {
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let mut table = |n: usize| {
        let labels: Vec<u32> = (0..n).map(|i| (i % 3) as u32).collect();
        let inputs = ndarray::Array2::from_shape_fn((n, 6), |(row, column)| {
            let center = if labels[row] as usize == column / 2 { 2.0 } else { 0.0 };
            center + rand::Rng::random_range(&mut rng, -0.8..0.8_f32)
        });
        LabeledSamples::new(Shape::vector(6).unwrap(), inputs, labels, 3).unwrap()
    };
    let (train, test) = (table(300), table(90));
    let mlp = Architecture::new(NetworkKind::Mlp, ActivationChoice::Square);
    let network = mlp.build(train.shape(), 3, 1).unwrap();
    let spec = TrainSpec { epochs: 20, batch_size: 20, ..TrainSpec::default() };
    let mut trainer = Trainer::new(network, spec.check().unwrap()).unwrap();
    let _ = trainer.run(&train, &mut ()).unwrap();
    let network = trainer.into_network();
    let data = AttackData::new(&train, &test).unwrap();
    for kind in [AttackKind::ErrorSpecific, AttackKind::ErrorGeneric, AttackKind::Prune] {
        let options = AttackOptions { epochs: Some(12), ..AttackOptions::default() };
        let strength = (kind == AttackKind::Prune).then_some(0.4);
        let attack = attack(kind, strength, &options).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let report = attack.apply(&network, &data, &mut rng, &mut ()).unwrap().report;
        assert!(report.success.as_ref().unwrap().worked, "{report:?}");
    }
}
