//! Quantization: grids, folding, and agreement of the integer network with the network it was
//! trained as.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::wildcard_enum_match_arm,
    missing_docs,
    reason = "tests"
)]

#[path = "support/real_data.rs"]
mod real_data;

use ndarray::{Array1, Array2, Array4, Axis, array};
use nn_poly::import::{Dataset, Preprocessing, Split, SplitSpec};
use nn_poly::integer::{ActivationKind, Grouping, LinearGeometry};
use nn_poly::layer::{
    Activation, BatchNorm, Clamp, Conv2d, Dense, Layer, Padding, Pool2d, PoolKind, Quantize,
};
use nn_poly::model::Bits;
use nn_poly::network::{ActivationChoice, Architecture, NetworkKind};
use nn_poly::quantize::{Quantized, calibrate, prepare_qat, quantize};
use nn_poly::train::{Evaluation, Outcome, TrainRecipe, TrainSpec, Trainer, evaluate};
use nn_poly::{Error, Network, Shape, Tensor};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use real_data::real_data;

fn random_inputs(shape: &Shape, n: usize, signed: bool, seed: u64) -> Array2<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    let low = if signed { -3.0 } else { 0.0 };
    let high = if signed { 3.0 } else { 1.0 };
    Array2::from_shape_simple_fn((n, shape.len()), || rng.random_range(low..=high))
}

fn standardized(n: usize) -> Preprocessing {
    Preprocessing::Standardize { mean: vec![0.0; n], deviation: vec![1.0; n], clip: 3.0 }
}

fn preprocessing(signed: bool, n: usize) -> Preprocessing {
    if signed { standardized(n) } else { Preprocessing::UnitRange }
}

/// Quantize without fine-tuning; also the float network with quantizers.
fn quantized(network: &Network<f32>, signed: bool, bits: Bits) -> (Network<f32>, Quantized) {
    let inputs = random_inputs(network.input_shape(), 200, signed, 1);
    let fitted = preprocessing(signed, network.input_shape().len());
    let spec = calibrate(network, &fitted, &inputs, bits).unwrap();
    let prepared = prepare_qat(network, &spec).unwrap();
    let quantized = quantize(&prepared).unwrap();
    (prepared, quantized)
}

/// The integer network sees what training saw: values between stages differ by at most one unit,
/// seldom, and scores by little.
fn check_agreement(network: &Network<f32>, signed: bool, bits: Bits) -> Quantized {
    let (prepared, quantized) = quantized(network, signed, bits);
    let inputs = random_inputs(network.input_shape(), 60, signed, 2);
    let grid = *quantized.network.input();
    let trace = quantized.network.trace(&grid.quantize(inputs.view()).unwrap()).unwrap();
    let batch = Tensor::new(network.input_shape().clone(), inputs).unwrap();
    let outputs = prepared.forward_all(&batch).unwrap();

    let grids = prepared.layers().iter().zip(&outputs).filter_map(|(layer, output)| match layer {
        Layer::Quantize(quantize) => Some((quantize.steps[0], output)),
        _ => None,
    });
    for ((stage, (step, output)), allowed) in grids.skip(1).enumerate().zip(1..) {
        let refreshed = &trace.refreshed[stage];
        let mut n_different = 0;
        for ((neuron, sample), &integer) in refreshed.indexed_iter() {
            let expected = (output.values()[[sample, neuron]] / step).round() as i32;
            assert!((integer - expected).abs() <= allowed, "stage {stage}");
            n_different += usize::from(integer != expected);
        }
        let share = n_different as f64 / refreshed.len() as f64;
        assert!(share < 0.04 * (stage as f64 + 1.0), "stage {stage}: {share} differ");
    }
    let scores = outputs.last().unwrap().values();
    let spread = scores.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
    for ((class, sample), &score) in trace.scores.indexed_iter() {
        let difference = (score as f32 * quantized.score_step - scores[[sample, class]]).abs();
        assert!(difference < 0.12 * spread, "{difference} of {spread}");
    }
    quantized
}

#[test]
fn the_known_networks_survive_quantization() {
    let image = Shape::image(16, 16, 2).unwrap();
    let table = Shape::vector(9).unwrap();
    for activation in ActivationChoice::ALL {
        for (kind, shape, signed, bits) in [
            (NetworkKind::Cryptonets, &image, false, Bits::new(4, 4, 4).unwrap()),
            (NetworkKind::Securedl, &image, false, Bits::new(4, 5, 6).unwrap()),
            (NetworkKind::Mlp, &table, true, Bits::new(6, 6, 6).unwrap()),
        ] {
            let architecture =
                Architecture::new(kind, activation).with_clamp(3.0).with_dropout(0.2);
            let network = architecture.build(shape, 4, 5).unwrap();
            let network = check_agreement(&network, signed, bits).network;
            for (structure, weights) in network.structure().iter().zip(network.weights()) {
                let max = (1 << (bits.weight - 1)) - 1;
                assert!(weights.weights.iter().all(|w| w.abs() <= max));
                if activation == ActivationChoice::Square
                    && structure.activation == ActivationKind::Quadratic
                {
                    assert!(weights.quadratic.as_ref().unwrap().is_square());
                }
            }
        }
    }
}

/// A dense network with one hidden layer of three channels.
fn small(activation: Activation<f32>) -> Network<f32> {
    let first = Dense::new(
        array![[0.9, -0.4, 0.2, 0.7], [0.05, 0.02, -0.06, 0.01], [-3.0, 2.0, 5.0, -1.0]],
        array![0.3, -0.02, 1.0],
    );
    let last = Dense::new(array![[1.0, -0.5, 0.3], [-0.2, 0.8, 0.1]], array![0.1, -0.1]);
    let layers = vec![Layer::Dense(first), Layer::Activation(activation), Layer::Dense(last)];
    Network::new(Shape::vector(4).unwrap(), layers).unwrap()
}

#[test]
fn polynomials_of_every_kind_become_integers() {
    let bits = Bits::new(8, 8, 8).unwrap();
    let polynomial = |a: [f32; 3], b: [f32; 3], c: [f32; 3]| Activation::Polynomial {
        a: Array1::from(a.to_vec()),
        b: Array1::from(b.to_vec()),
        c: Array1::from(c.to_vec()),
    };
    for activation in [
        polynomial([0.2, 0.2, 0.2], [0.5, 0.5, 0.5], [0.2, 0.2, 0.2]),
        polynomial([1.0, -0.5, 0.1], [0.0, 3.0, -0.2], [-1.0, 0.0, 0.4]),
        // A linear, a constant and a nearly linear channel.
        polynomial([0.0, 0.0, 1e-9], [-1.5, 0.0, 0.7], [0.2, 0.8, -0.3]),
        // A vertex far outside the range of the layer.
        polynomial([0.01, 0.01, 0.001], [4.0, -4.0, 2.0], [0.0, 0.0, 0.0]),
    ] {
        let quantized = check_agreement(&small(activation), true, bits);
        let quadratic = quantized.network.weights()[0].quadratic.as_ref().unwrap();
        assert!(quadratic.a.iter().all(|a| a.abs() <= 1));
    }
}

#[test]
fn scales_are_per_channel_except_for_scores() {
    let network = small(Activation::Square);
    let inputs = random_inputs(network.input_shape(), 100, true, 1);
    let bits = Bits::new(6, 4, 4).unwrap();
    let spec = calibrate(&network, &standardized(4), &inputs, bits).unwrap();
    assert_eq!(
        spec.stages.iter().map(|stage| stage.weight_scales[0].len()).collect::<Vec<_>>(),
        [3, 1]
    );
    assert_eq!((spec.input.min(), spec.input.max()), (-31, 31));
    assert!((spec.input.step - 3.0 / 31.0).abs() < 1e-7);
    let output = spec.stages[0].output.unwrap();
    assert_eq!((output.min, output.max), (0, 15));
    assert_eq!(spec.stages[1].output, None);
    // The second channel is 50 times smaller than the third; each uses its own grid fully.
    let integers = quantize(&prepare_qat(&network, &spec).unwrap()).unwrap().network;
    for row in integers.weights()[0].weights.chunks(4) {
        assert!(row.iter().any(|w| w.abs() >= 6), "{row:?}");
    }
    let multipliers = &integers.structure()[0].refresh.as_ref().unwrap().multipliers;
    assert_eq!(multipliers.len(), 3);
    assert!(multipliers.iter().all(|&m| m >= 1 << 10), "{multipliers:?}");
    assert!(multipliers.iter().any(|&m| m >= 1 << 15), "{multipliers:?}");
    // The same data give the same grids.
    assert_eq!(calibrate(&network, &standardized(4), &inputs, bits).unwrap(), spec);
}

#[test]
fn pools_become_sums_and_stages_of_their_own() {
    let shape = Shape::image(6, 6, 2).unwrap();
    let mut rng = StdRng::seed_from_u64(3);
    let weights = Array4::from_shape_simple_fn((3, 3, 3, 2), || rng.random_range(-1.0..1.0_f32));
    let padding = Padding { top: 1, bottom: 0, left: 1, right: 2 };
    let conv = Conv2d::new(weights, Array1::from(vec![0.1, -0.4, 0.3]), (1, 1), padding);
    let dense = Dense::new(
        Array2::from_shape_simple_fn((2, 2 * 3 * 3), || rng.random_range(-1.0..1.0_f32)),
        Array1::zeros(2),
    );
    let layers = vec![
        Layer::Pool2d(Pool2d { stride: (1, 1), ..Pool2d::tiles(PoolKind::Average, (2, 2)) }),
        Layer::Conv2d(conv),
        Layer::BatchNorm(BatchNorm::new(3, 0.5, 0.2)),
        Layer::Activation(Activation::Relu),
        Layer::Pool2d(Pool2d::tiles(PoolKind::Average, (2, 2))),
        Layer::Clamp(Clamp { limit: 0.4 }),
        Layer::Flatten,
        Layer::Dense(dense),
    ];
    let network = Network::new(shape, layers).unwrap();
    let bits = Bits::new(5, 6, 6).unwrap();
    let network = check_agreement(&network, false, bits).network;
    let [pool, conv, last] = network.structure() else { panic!("three stages") };
    let LinearGeometry::Conv2d(geometry) = &pool.linear else { panic!("a convolution") };
    assert_eq!(geometry.grouping, Grouping::Depthwise);
    assert!(network.weights()[0].weights.iter().all(|&w| w == 1));
    assert_eq!(conv.pool.unwrap().output().len(), 18);
    assert_eq!(conv.activation, ActivationKind::Relu);
    assert!(last.refresh.is_none());
}

#[test]
fn networks_without_an_integer_form_are_named() {
    let shape = Shape::vector(4).unwrap();
    let inputs = random_inputs(&shape, 10, true, 1);
    let dense = || Layer::Dense(Dense::new(Array2::eye(4), Array1::zeros(4)));
    let clamp = || Layer::Clamp(Clamp { limit: 1.0 });
    let grid = || Layer::Quantize(Quantize { steps: array![0.1], min: 0, max: 3 });
    let square = || Layer::Activation(Activation::Square);
    let (a, b) = (array![1.0, 2.0, 1.0, 1.0], Array1::zeros(4));
    let polynomial = Layer::Activation(Activation::Polynomial { a, b: b.clone(), c: b });
    let bits = Bits::new(6, 6, 6).unwrap();
    for (what, layers) in [
        ("nothing", vec![]),
        ("activation first", vec![square(), dense()]),
        ("two activations", vec![dense(), square(), square(), dense()]),
        ("clamp before the activation", vec![dense(), clamp(), square(), dense()]),
        ("clamped scores", vec![dense(), clamp()]),
        ("quantized scores", vec![dense(), grid()]),
        ("quantized twice", vec![dense(), grid(), grid(), dense()]),
        ("scores in several units", vec![dense(), polynomial]),
        ("clamp at zero", vec![dense(), Layer::Clamp(Clamp { limit: 0.0 }), dense()]),
    ] {
        let network = Network::new(shape.clone(), layers).unwrap();
        let result = calibrate(&network, &standardized(4), &inputs, bits)
            .and_then(|spec| prepare_qat(&network, &spec))
            .and_then(|prepared| quantize(&prepared));
        assert!(matches!(result, Err(Error::CannotQuantize { .. })), "{what}: {result:?}");
    }
    let network = Network::new(shape.clone(), vec![dense(), square(), dense()]).unwrap();
    assert!(matches!(quantize(&network), Err(Error::CannotQuantize { .. })), "no quantizers");
    let calibrated =
        |inputs: &Array2<f32>, bits| calibrate(&network, &standardized(4), inputs, bits);
    let none = calibrated(&Array2::zeros((0, 4)), bits);
    assert!(matches!(none, Err(Error::NoSamples { .. })));
    let wrong = calibrated(&Array2::zeros((3, 5)), bits);
    assert!(matches!(wrong, Err(Error::ShapeMismatch { .. })));
    let nan = calibrated(&Array2::from_elem((3, 4), f32::NAN), bits);
    assert!(matches!(nan, Err(Error::NonFiniteInput { .. })));
    let unsigned = calibrated(&inputs, Bits { input: 1, weight: 6, activation: 6 });
    assert!(matches!(unsigned, Err(Error::OutOfRange { .. })), "one bit has no sign");
}

/// The end of a MobileNet: limited ReLU, then the average of each channel.
#[test]
fn limits_may_come_before_an_average() {
    let network = Network::new(
        Shape::image(6, 6, 1).unwrap(),
        vec![
            Layer::Conv2d(Conv2d::new(
                Array4::from_shape_fn((3, 3, 3, 1), |(m, u, v, _)| {
                    ((m * 5 + u * 3 + v) % 7) as f32 / 4.0 - 0.6
                }),
                Array1::from(vec![0.3, -0.1, 0.2]),
                (1, 1),
                Padding::NONE,
            )),
            Layer::Activation(Activation::Relu),
            Layer::Clamp(Clamp { limit: 0.5 }),
            Layer::Pool2d(Pool2d::tiles(PoolKind::Average, (4, 4))),
            Layer::Flatten,
            Layer::Dense(Dense::new(
                Array2::from_shape_fn((2, 3), |(i, j)| 0.5 - ((i + 2 * j) % 3) as f32),
                Array1::zeros(2),
            )),
        ],
    )
    .unwrap();
    let bits = Bits { input: 8, weight: 8, activation: 8 };
    let (_, quantized) = quantized(&network, false, bits);
    assert_eq!(quantized.network.structure().len(), 3, "sums of limited values are a stage");
    let inputs = random_inputs(network.input_shape(), 50, false, 7);
    let expected = network.outputs(&inputs).unwrap();
    let grid = *quantized.network.input();
    let scores = quantized.network.evaluate(&grid.quantize(inputs.view()).unwrap()).unwrap().scores;
    for ((sample, class), z) in expected.indexed_iter() {
        let actual = scores[(class, sample)] as f32 * quantized.score_step;
        assert!((actual - z).abs() < 0.02, "{sample}/{class}: {actual} {z}");
    }
}

/// Six thousand samples of six classes, in order of their class; every class is brighter than the one
/// before.
fn sorted_by_class(n_features: usize) -> Array2<f32> {
    let mut rng = StdRng::seed_from_u64(3);
    Array2::from_shape_fn((6000, n_features), |(i, _)| {
        let brightness = (i / 1000 + 1) as f32 / 6.0;
        brightness * rng.random_range(0.5..=1.0_f32)
    })
}

#[test]
fn sorted_samples_calibrate_like_shuffled_ones() {
    let network = small(Activation::Relu);
    let sorted = sorted_by_class(network.input_shape().len());
    let mut positions: Vec<usize> = (0..sorted.nrows()).collect();
    positions.shuffle(&mut StdRng::seed_from_u64(4));
    let shuffled = sorted.select(Axis(0), &positions);
    let bits = Bits { input: 8, weight: 8, activation: 8 };
    let of = |inputs| calibrate(&network, &Preprocessing::UnitRange, inputs, bits).unwrap();
    let (of_sorted, of_shuffled) = (of(&sorted), of(&shuffled));
    let mut n_grids = 0;
    for (a, b) in of_sorted.stages.iter().zip(&of_shuffled.stages) {
        let (Some(a), Some(b)) = (a.output, b.output) else { continue };
        assert!((a.step / b.step - 1.0).abs() < 0.05, "steps {} and {}", a.step, b.step);
        n_grids += 1;
    }
    assert!(n_grids > 0);
}

#[test]
fn preparing_twice_replaces_the_grids() {
    let network = small(Activation::Relu);
    let inputs = random_inputs(network.input_shape(), 100, true, 1);
    let bits = Bits::new(6, 6, 6).unwrap();
    let spec = calibrate(&network, &standardized(4), &inputs, bits).unwrap();
    let once = prepare_qat(&network, &spec).unwrap();
    assert_eq!(prepare_qat(&once, &spec).unwrap(), once);
}

/// The real aim: MNIST at 4/4/4 bits. Run with
/// `cargo test --release -p securedl-nn-poly --test quantize -- --ignored --nocapture`.
fn check_mnist(kind: NetworkKind, activation: ActivationChoice, aim: f64) {
    let Some(path) = real_data("mnist") else { return };
    let split = SplitSpec::default();
    let load = |part| Dataset::load(&path, part, &split).unwrap();
    let (train, test) = (load(Split::Train), load(Split::Test));
    let recipe = TrainRecipe::for_network(kind, activation, train.n_samples()).with_seed(1);
    let fitted = recipe.preprocessing.fit(train.features()).unwrap();
    let (train, test) = (train.labeled(&fitted).unwrap(), test.labeled(&fitted).unwrap());
    let trained = |network, spec: TrainSpec| {
        let mut trainer = Trainer::new(network, spec.check().unwrap()).unwrap();
        assert_eq!(trainer.run(&train, &mut ()).unwrap(), Outcome::Finished);
        trainer.into_network()
    };
    let built = recipe.architecture.build(train.shape(), train.n_classes(), 1).unwrap();
    let float = trained(built, recipe.float);
    let spec = calibrate(&float, &fitted, train.inputs(), recipe.bits).unwrap();
    let prepared = prepare_qat(&float, &spec).unwrap();
    let integer_accuracy = |network: &Network<f32>| {
        let integers = quantize(network).unwrap().network;
        let inputs = integers.input().quantize(test.inputs().view()).unwrap();
        let predictions = integers.evaluate(&inputs).unwrap().predictions();
        Evaluation::of(&predictions, test.labels(), test.n_classes()).accuracy()
    };
    let float_accuracy = evaluate(&float, &test).unwrap().accuracy();
    let post_training = integer_accuracy(&prepared);
    let tuned = integer_accuracy(&trained(prepared, recipe.fine_tune));
    eprintln!(
        "{kind} {activation}: float {float_accuracy:.4}, integers {post_training:.4} as trained, \
         {tuned:.4} fine-tuned"
    );
    assert!(tuned >= aim && tuned >= float_accuracy - 0.003);
}

#[test]
#[ignore = "trains on MNIST: half a minute in release"]
fn cryptonets_with_squares_reaches_its_aim() {
    check_mnist(NetworkKind::Cryptonets, ActivationChoice::Square, 0.989);
}

#[test]
#[ignore = "trains on MNIST: half a minute in release"]
fn cryptonets_with_relu_reaches_its_aim() {
    check_mnist(NetworkKind::Cryptonets, ActivationChoice::Relu, 0.988);
}

#[test]
#[ignore = "trains on MNIST: two minutes in release"]
fn securedl_with_squares_reaches_its_aim() {
    check_mnist(NetworkKind::Securedl, ActivationChoice::Square, 0.993);
}
