//! Activations that are no polynomials and maximum pools: from floats to integers that a key holder looks
//! up and compares.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::print_stderr,
    clippy::wildcard_enum_match_arm,
    missing_docs,
    reason = "tests"
)]

#[path = "support/lowering.rs"]
mod lowering;

use lowering::{bits, check, quantized};
use ndarray::{Array1, Array2, Array4};
use nn_poly::approximate::{Function, SampledFunction};
use nn_poly::import::Preprocessing;
use nn_poly::import::synthetic_digits::synthetic_digits;
use nn_poly::integer::{
    ActivationKind, Arrivals, Interval, LinearGeometry, Pool, Reduction, Refresh, Refresher,
    StageOutput, StageStructure, ValueRef,
};
use nn_poly::integer::{LookupTable, StepFunction};
use nn_poly::layer::{Activation, Clamp, Conv2d, Dense, Layer, Padding, Pool2d, PoolKind};
use nn_poly::model::Bits;
use nn_poly::network::{NetworkBuilder, Source};
use nn_poly::quantize::{calibrate, prepare_qat, quantize};
use nn_poly::train::{Evaluation, LabeledSamples, Outcome, TrainSpec, Trainer, evaluate};
use nn_poly::{Error, Network, Shape};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

fn function(function: Function) -> Layer<f32> {
    Layer::Activation(Activation::Function(function))
}

fn maxima() -> Layer<f32> {
    Layer::Pool2d(Pool2d::tiles(PoolKind::Max, (2, 2)))
}

fn averages() -> Layer<f32> {
    Layer::Pool2d(Pool2d::tiles(PoolKind::Average, (2, 2)))
}

fn conv(maps: usize, channels: usize, seed: u64) -> Layer<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    let weights =
        Array4::from_shape_simple_fn((maps, 3, 3, channels), || rng.random_range(-0.5..0.5));
    let bias = Array1::from_shape_simple_fn(maps, || rng.random_range(-0.5..0.5));
    Layer::Conv2d(Conv2d::new(weights, bias, (1, 1), Padding::uniform(1)))
}

fn dense(n_out: usize, n_in: usize, seed: u64) -> Layer<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    let weights = Array2::from_shape_simple_fn((n_out, n_in), || rng.random_range(-0.5..0.5));
    Layer::Dense(Dense::new(weights, Array1::zeros(n_out)))
}

/// An image of 4×4 with two channels, the layers, and a dense layer.
fn network(layers: Vec<Layer<f32>>) -> Network<f32> {
    let image = Shape::image(4, 4, 2).unwrap();
    let mut layers = layers;
    layers.push(Layer::Flatten);
    let n = Network::new(image.clone(), layers.clone()).unwrap().output_shape().len();
    layers.push(dense(3, n, 9));
    Network::new(image, layers).unwrap()
}

fn functions() -> Vec<Function> {
    let points = vec![(-2.0, 0.5), (-0.5, -0.25), (0.25, 1.0), (1.5, 0.125)];
    let mut all = Function::NAMED.to_vec();
    all.retain(|function| *function != Function::Relu);
    all.push(Function::Sampled(SampledFunction::new(points).unwrap()));
    all
}

#[test]
fn every_function_has_an_integer_form_before_every_pool() {
    for f in functions() {
        for (name, pool) in [("none", None), ("max", Some(maxima())), ("average", Some(averages()))]
        {
            let name = format!("{f}, pool: {name}");
            let mut layers = vec![conv(3, 2, 1), function(f.clone())];
            layers.extend(pool.clone());
            let quantized = check(&name, &network(layers), bits(6)).unwrap();
            let [stage, last] = quantized.network.structure() else { panic!("{name}: two stages") };
            let ActivationKind::Table(table) = &stage.activation else { panic!("{name}: a table") };
            assert!(table.channels().len() == 3 && last.table().is_none());
            let refresh = stage.refresh.as_ref().unwrap();
            let is_sum = stage.pool.is_some_and(|pool| pool.reduction == Reduction::Sum);
            if !is_sum {
                // Nothing is rounded after the table.
                assert_eq!((refresh.multipliers.as_slice(), refresh.shift), (&[1_i64][..], 0));
            }
            let is_signed = refresh.min < 0;
            assert_eq!(is_signed, !f.is_non_negative() && refresh.min < 0, "{name}");
            let values = table.channels().iter().flat_map(StepFunction::values);
            let (low, high) = values.fold((0, 0), |(low, high), &v| (v.min(low), v.max(high)));
            assert!(is_sum || (low >= refresh.min - 1 && high <= refresh.max + 1), "{name}");
        }
    }
}

/// What never falls may stand on either side of maxima, at the cost of one stage; what does is a stage of
/// its own behind them.
#[test]
fn maxima_stand_on_either_side_of_activations() {
    let relu = || Layer::Activation(Activation::Relu);
    let square = || Layer::Activation(Activation::Square);
    let clamp = || Layer::Clamp(Clamp { limit: 0.75 });
    let cases: Vec<(&str, usize, Vec<Layer<f32>>)> = vec![
        ("relu, max", 2, vec![conv(3, 2, 1), relu(), maxima()]),
        ("max, relu", 2, vec![conv(3, 2, 1), maxima(), relu()]),
        ("max, tanh", 2, vec![conv(3, 2, 1), maxima(), function(Function::Tanh)]),
        ("max", 2, vec![conv(3, 2, 1), maxima()]),
        ("square, max", 2, vec![conv(3, 2, 1), square(), maxima()]),
        ("relu, clamp, max", 2, vec![conv(3, 2, 1), relu(), clamp(), maxima()]),
        ("max, relu, clamp", 2, vec![conv(3, 2, 1), maxima(), relu(), clamp()]),
        ("max, gelu", 3, vec![conv(3, 2, 1), maxima(), function(Function::Gelu)]),
        ("max, square", 3, vec![conv(3, 2, 1), maxima(), square()]),
        ("max of inputs", 3, vec![maxima(), conv(3, 2, 1), relu()]),
        ("average, max", 3, vec![conv(3, 2, 1), relu(), averages(), maxima()]),
        ("max, average", 3, vec![conv(3, 2, 1), relu(), maxima(), averages()]),
    ];
    for (name, n_stages, layers) in cases {
        let quantized = check(name, &network(layers), bits(6)).unwrap();
        assert_eq!(quantized.network.structure().len(), n_stages, "{name}");
    }
    let ends =
        |layers: Vec<Layer<f32>>| Network::new(Shape::image(4, 4, 2).unwrap(), layers).unwrap();
    let global = Layer::Pool2d(Pool2d::tiles(PoolKind::Max, (4, 4)));
    let scores = ends(vec![conv(3, 2, 1), global, Layer::Flatten]);
    assert_eq!(
        check("global maxima as scores", &scores, bits(6)).unwrap().network.structure().len(),
        1
    );
}

/// Maxima of a sum that other layers read, and tables on residual connections.
#[test]
fn branches_may_hold_tables_and_maxima() {
    let mut builder = NetworkBuilder::new(Shape::image(4, 4, 2).unwrap());
    let z = builder.push(conv(2, 2, 1), &[Source::Input]).unwrap();
    let sum = builder.push(Layer::Add, &[z, Source::Input]).unwrap();
    let gate = builder.push(function(Function::Silu), &[sum]).unwrap();
    let large = builder.push(maxima(), &[sum]).unwrap();
    let other = builder.push(maxima(), &[gate]).unwrap();
    builder.push(Layer::Add, &[large, other]).unwrap();
    builder.append(function(Function::LeakyRelu { slope: 0.1 })).unwrap();
    builder.append(Layer::Flatten).unwrap();
    builder.append(dense(2, 8, 3)).unwrap();
    let quantized = check("branches", &builder.finish().unwrap(), bits(8)).unwrap();
    let is_max =
        |stage: &&StageStructure| stage.pool.is_some_and(|pool| pool.reduction == Reduction::Max);
    assert_eq!(quantized.network.structure().iter().filter(is_max).count(), 2);
    assert_eq!(quantized.network.structure().iter().filter_map(StageStructure::table).count(), 2);
}

#[test]
fn functions_without_an_integer_form_are_named() {
    let refusal = |layers| {
        let image = Shape::image(4, 4, 2).unwrap();
        let network = Network::new(image, layers).unwrap();
        quantized(&network, bits(6)).unwrap_err().to_string()
    };
    let end = vec![conv(3, 2, 1), Layer::Flatten, dense(2, 48, 2), function(Function::Tanh)];
    assert!(refusal(end).contains("leave the last activation out"));
    let twice = vec![conv(3, 2, 1), function(Function::Tanh), function(Function::Gelu)];
    assert!(refusal(twice).contains("it must follow a linear layer directly"));
    // 16 bits on many channels.
    let maps = 20;
    let long = network(vec![conv(maps, 2, 1), function(Function::Tanh)]);
    let error = quantized(&long, Bits::new(8, 8, 16).unwrap()).unwrap_err();
    assert!(matches!(error, Error::CannotQuantize { layer: "tanh", .. }), "{error}");
    assert!(error.to_string().contains("fewer activation bits"), "{error}");
    // As activations, ReLU and slopes that are not finite have no place here.
    for bad in [Function::Relu, Function::LeakyRelu { slope: f64::NAN }] {
        assert!(Network::new(Shape::vector(2).unwrap(), vec![function(bad)]).is_err());
    }
}

/// A key holder looks up every value of its window, the ends of runs and of the window included.
#[test]
fn tables_hold_on_the_whole_window() {
    let table = StepFunction::new(vec![-50, -2, 0, 7, 49], vec![9, -3, 4, 0, 15, 2]).unwrap();
    let structure = StageStructure {
        sources: vec![ValueRef::Input],
        linear: LinearGeometry::Dense { n_in: 1, n_out: 1 },
        activation: ActivationKind::Table(LookupTable::new(vec![table]).unwrap()),
        pool: None,
        refresh: Some(Refresh { multipliers: vec![1], shift: 0, min: -2, max: 12 }),
        chain: None,
    };
    let arrivals = Arrivals {
        takes: StageOutput::Linear,
        domain: Interval { low: -64, high: 63 },
        expected: Interval { low: -20, high: 20 },
    };
    let z = [-64, -51, -50, -3, -2, -1, 0, 6, 7, 48, 49, 63];
    let mut refresher = Refresher::new(0, &structure, None, arrivals, z.len()).unwrap();
    refresher.absorb(0, &z).unwrap();
    let refreshed = refresher.finish().unwrap();
    let expected = [9, 9, -2, -2, 4, 4, 0, 0, 12, 12, 2, 2];
    assert_eq!(refreshed.values.row(0).to_vec(), expected);
    assert_eq!(refreshed.n_clamped, 4, "values one beyond the grid are counted");
    // Maxima of a window that holds them.
    let plane = nn_poly::integer::Volume { height: 1, width: 2, channels: 1 };
    let (window, stride) = ((1, 2), (1, 2));
    let pooled = StageStructure {
        linear: LinearGeometry::Conv2d(nn_poly::integer::ConvGeometry {
            input: plane,
            kernel: (1, 1),
            stride: (1, 1),
            padding: Padding::NONE,
            out_channels: 1,
            grouping: nn_poly::integer::Grouping::Full,
        }),
        pool: Some(Pool {
            reduction: Reduction::Max,
            input: plane,
            window,
            stride,
            padding: Padding::NONE,
        }),
        ..structure.clone()
    };
    let mut refresher = Refresher::new(0, &pooled, None, arrivals, 3).unwrap();
    refresher.absorb(1, &[-64, -3, 63]).unwrap();
    refresher.absorb(0, &[-2, -50, 7]).unwrap();
    assert_eq!(refresher.finish().unwrap().values.row(0).to_vec(), [9, -2, 12]);
    // A table for another number of channels.
    let two = vec![StepFunction::new(vec![], vec![1]).unwrap(); 2];
    let misfit = StageStructure {
        activation: ActivationKind::Table(LookupTable::new(two).unwrap()),
        ..structure
    };
    let error = Refresher::new(0, &misfit, None, arrivals, 1).unwrap_err().to_string();
    assert!(error.contains("number of channels of its table is 2, it must be 1"), "{error}");
}

/// A convolution, GELU and maxima learn digits, fine-tuning passes straight through the grids, and
/// integers of 5 bits lose little of it.
#[test]
fn a_network_with_gelu_and_maxima_keeps_its_accuracy_in_integers() {
    let digits = |n, seed| {
        let (features, labels) = synthetic_digits(n, seed);
        LabeledSamples::new(Shape::image(28, 28, 1).unwrap(), features, labels, 10).unwrap()
    };
    let (training, test) = (digits(700, 1), digits(400, 2));
    let mut rng = StdRng::seed_from_u64(3);
    let mut draw = |fan_in: f32| rng.random_range(-1.0..1.0_f32) / fan_in.sqrt();
    let kernels = Array4::from_shape_simple_fn((6, 5, 5, 1), || draw(25.0));
    let first = Conv2d::new(kernels, Array1::zeros(6), (2, 2), Padding::NONE);
    let weights = Array2::from_shape_simple_fn((10, 216), || draw(216.0));
    let layers = vec![
        Layer::Conv2d(first),
        function(Function::Gelu),
        maxima(),
        Layer::Flatten,
        Layer::Dense(Dense::new(weights, Array1::zeros(10))),
    ];
    let network = Network::new(Shape::image(28, 28, 1).unwrap(), layers).unwrap();
    let trained = |network, epochs, learning_rate| {
        let spec = TrainSpec { epochs, batch_size: 25, learning_rate, ..TrainSpec::default() };
        let mut trainer = Trainer::new(network, spec.check().unwrap()).unwrap();
        assert_eq!(trainer.run(&training, &mut ()).unwrap(), Outcome::Finished);
        trainer.into_network()
    };
    let float = trained(network, 6, 0.01);
    let preprocessing = Preprocessing::UnitRange;
    let spec = calibrate(&float, &preprocessing, training.inputs(), bits(5)).unwrap();
    let tuned = trained(prepare_qat(&float, &spec).unwrap(), 1, 0.001);
    let integers = |network: &Network<f32>| {
        let integers = quantize(network).unwrap().network;
        let inputs = integers.input().quantize(test.inputs().view()).unwrap();
        let predictions = integers.evaluate(&inputs).unwrap().predictions();
        Evaluation::of(&predictions, test.labels(), test.n_classes()).accuracy()
    };
    let accuracy = evaluate(&float, &test).unwrap().accuracy();
    let (as_trained, fine_tuned) =
        (integers(&prepare_qat(&float, &spec).unwrap()), integers(&tuned));
    eprintln!("float {accuracy}, integers {as_trained} as trained, {fine_tuned} fine-tuned");
    assert!(accuracy > 0.8, "{accuracy}");
    assert!(as_trained > accuracy - 0.03 && fine_tuned > accuracy - 0.03, "{fine_tuned}");
}

#[test]
fn padding_that_could_win_or_overflow_is_refused() {
    let plane = nn_poly::integer::Volume { height: 3, width: 4, channels: 2 };
    let stage = |reduction, window, padding| StageStructure {
        sources: vec![ValueRef::Input],
        linear: LinearGeometry::Conv2d(nn_poly::integer::ConvGeometry {
            input: plane,
            kernel: (1, 1),
            stride: (1, 1),
            padding: Padding::NONE,
            out_channels: 2,
            grouping: nn_poly::integer::Grouping::Full,
        }),
        activation: ActivationKind::Identity,
        pool: Some(Pool { reduction, input: plane, window, stride: (1, 1), padding }),
        refresh: None,
        chain: None,
    };
    let top = |top| Padding { top, ..Padding::NONE };
    let right = |right| Padding { right, ..Padding::NONE };
    assert!(stage(Reduction::Max, (3, 2), top(2)).check(0).is_ok());
    // A window may be larger than the volume, if padding makes room for it.
    assert!(stage(Reduction::Max, (4, 2), top(1)).check(0).is_ok());
    for (expected, reduction, window, padding) in [
        ("rows of pool padding is 1, it must be 0", Reduction::Sum, (2, 2), top(1)),
        ("rows of pool padding is 2, it must be between 0 and 1", Reduction::Max, (2, 2), top(2)),
        ("columns of pool padding is 2", Reduction::Max, (2, 2), right(2)),
        ("columns of pool padding", Reduction::Max, (2, usize::MAX), right(usize::MAX - 1)),
        ("pool window height is 5", Reduction::Max, (5, 2), top(1)),
        ("pool window height is 0", Reduction::Max, (0, 2), Padding::NONE),
        ("outputs of a pool is", Reduction::Max, (2048, 2048), Padding::uniform(2047)),
    ] {
        let error = stage(reduction, window, padding).check(3).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}
