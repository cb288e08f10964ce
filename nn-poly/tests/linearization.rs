//! Sensitivities to the parameters, and their gradients, against first derivatives and differences.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use ndarray::{Array, Array1, Array2, Axis, Dimension, ShapeBuilder, array};
use nn_poly::approximate::Function;
use nn_poly::autodiff::{InputGradient, Linearization, Mode, ParameterSelection, Tape};
use nn_poly::layer::{
    Activation, BatchNorm, Blend, Clamp, Conv2d, Dense, Dropout, Layer, Padding, ParameterKind,
    Pool2d, PoolKind, Quantize, WeightQuantizer,
};
use nn_poly::network::{ActivationChoice, Architecture, NetworkKind};
use nn_poly::{Error, Network, Shape, Tensor};
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn random<D: Dimension, Sh: ShapeBuilder<Dim = D>>(
    rng: &mut ChaCha8Rng,
    shape: Sh,
) -> Array<f64, D> {
    Array::from_shape_simple_fn(shape, || rng.random_range(-1.0..1.0))
}

/// The functions `φ_c(z) = tanh(z_c) · Σ z` of the outputs: no two alike, all curved.
fn values(z: &Array1<f64>) -> Array1<f64> {
    z.mapv(f64::tanh) * z.sum()
}

fn rows(z: &Array1<f64>) -> Array2<f64> {
    let total = z.sum();
    Array2::from_shape_fn((z.len(), z.len()), |(c, j)| {
        let slope = 1.0 - z[c].tanh().powi(2);
        z[c].tanh() + if c == j { slope * total } else { 0.0 }
    })
}

/// `∂²φ_c/∂z² · ż_c`, by the product rule.
fn curvature(z: &Array1<f64>, tangents: &Array2<f64>) -> Array2<f64> {
    let total = z.sum();
    let mut bent = Array2::zeros(tangents.dim());
    for (c, tangent) in tangents.axis_iter(Axis(0)).enumerate() {
        let slope = 1.0 - z[c].tanh().powi(2);
        let bend = -2.0 * z[c].tanh() * slope;
        for j in 0..z.len() {
            bent[[c, j]] += slope * tangent[c];
        }
        bent[[c, c]] += slope * tangent.sum() + bend * total * tangent[c];
    }
    bent
}

fn norms(network: &Network<f64>, x: &Array1<f64>, selection: &ParameterSelection) -> Array1<f64> {
    let point = Linearization::new(network, x.view()).unwrap();
    point.squared_norms(rows(&point.output().to_owned()), selection).unwrap()
}

/// The definition: the gradient of one function at a time by the ordinary backward pass.
fn reference_norms(
    network: &Network<f64>,
    x: &Array1<f64>,
    selection: &ParameterSelection,
) -> Array1<f64> {
    let batch = x.clone().insert_axis(Axis(0));
    let batch = Tensor::new(network.input_shape().clone(), batch).unwrap();
    let tape = Tape::forward(network, batch, Mode::Inference).unwrap();
    let rows = rows(&tape.output().row(0).to_owned());
    let norm = |row: ndarray::ArrayView1<'_, f64>| {
        let row = row.to_owned().insert_axis(Axis(0));
        let gradients = tape.backward(row, InputGradient::Skipped).unwrap();
        let mut sum = 0.0;
        for layer_idx in selection.layers() {
            let parameters = network.layers()[layer_idx].parameters();
            for (gradient, parameter) in gradients.layers[layer_idx].iter().zip(parameters) {
                if selection.includes_offsets() || parameter.kind == ParameterKind::Weight {
                    sum += gradient.iter().map(|g| g * g).sum::<f64>();
                }
            }
        }
        sum
    };
    rows.rows().into_iter().map(norm).collect()
}

fn close(left: f64, right: f64, tolerance: f64) -> bool {
    (left - right).abs() <= tolerance * (1.0 + left.abs().max(right.abs()))
}

/// ReLU and clamp have kinks: a difference across one is a mixture, and a shorter step decides.
fn check_slope(place: &str, analytic: f64, value: impl Fn(f64) -> f64) {
    let mut tried = Vec::new();
    for (step, tolerance) in [(1e-5, 1e-6), (1e-6, 1e-5), (1e-7, 1e-4)] {
        let numeric = (value(step) - value(-step)) / (2.0 * step);
        if close(analytic, numeric, tolerance) {
            return;
        }
        tried.push(numeric);
    }
    panic!("{place}: {analytic} versus {tried:?}");
}

/// Norms against their definition, and a sample of the gradient's entries against differences.
fn check(name: &str, network: &Network<f64>, selection: &ParameterSelection, seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let x: Array1<f64> = random(&mut rng, network.input_shape().len());
    let point = Linearization::new(network, x.view()).unwrap();
    let z = point.output().to_owned();
    let (norms_of, gradient) = point
        .squared_norms_and_gradient(rows(&z), selection, |tangents| curvature(&z, tangents))
        .unwrap();
    for (value, expected) in norms_of.iter().zip(&reference_norms(network, &x, selection)) {
        assert!(close(*value, *expected, 1e-10), "{name}: {value} versus {expected}");
    }
    let by_unit: f64 =
        point.unit_norms(rows(&z), selection).unwrap().iter().map(|unit| unit.sum()).sum();
    assert!(close(by_unit, norms_of.sum(), 1e-10), "{name}: units");
    for position in (0..x.len()).step_by(x.len().div_ceil(20)) {
        check_slope(&format!("{name}: input[{position}]"), gradient[position], |by| {
            let mut x = x.clone();
            x[position] += by;
            norms(network, &x, selection).sum()
        });
    }
    let gradients = point.input_gradients(rows(&z)).unwrap();
    let middle = network.layers().len() / 2;
    if network.is_sequential() {
        let above = point.layer_gradients(middle, rows(&z)).unwrap();
        assert_eq!(point.input_gradients_from(middle, above).unwrap(), gradients, "{name}");
    } else {
        // The first layer reads the input, and no way leads around it.
        assert_eq!(point.layer_gradients(0, rows(&z)).unwrap(), gradients, "{name}");
    }
    for position in (0..x.len()).step_by(x.len().div_ceil(5)) {
        for function in 0..z.len() {
            let analytic = gradients[[function, position]];
            check_slope(&format!("{name}: φ_{function}, input[{position}]"), analytic, |by| {
                let mut x = x.clone();
                x[position] += by;
                let point = Linearization::new(network, x.view()).unwrap();
                values(&point.output().to_owned())[function]
            });
        }
    }
}

fn dense(rng: &mut ChaCha8Rng, n_out: usize, n_in: usize) -> Layer<f64> {
    Layer::Dense(Dense::new(random(rng, (n_out, n_in)), random(rng, n_out)))
}

fn batch_norm(rng: &mut ChaCha8Rng, n_channels: usize) -> Layer<f64> {
    let mut norm = BatchNorm::new(n_channels, 1.0, 0.0);
    norm.gamma = random(rng, n_channels);
    norm.beta = random(rng, n_channels);
    norm.running_mean = random(rng, n_channels);
    norm.running_variance = random::<ndarray::Ix1, _>(rng, n_channels).mapv(|v| v + 1.5);
    Layer::BatchNorm(norm)
}

fn polynomial(rng: &mut ChaCha8Rng, n_channels: usize) -> Layer<f64> {
    let (a, b, c) = (random(rng, n_channels), random(rng, n_channels), random(rng, n_channels));
    Layer::Activation(Activation::Polynomial { a, b, c })
}

fn blend(rng: &mut ChaCha8Rng, n_channels: usize, function: Function) -> Layer<f64> {
    let (a, b, c) = (random(rng, n_channels), random(rng, n_channels), random(rng, n_channels));
    Layer::Activation(Activation::Blend(Blend {
        share: 0.3,
        low: -1.0,
        high: 1.0,
        a,
        b,
        c,
        function,
    }))
}

fn convolution(
    rng: &mut ChaCha8Rng,
    dims: [usize; 4],
    stride: (usize, usize),
    padding: Padding,
) -> Layer<f64> {
    let weights = random(rng, (dims[0], dims[1], dims[2], dims[3]));
    Layer::Conv2d(Conv2d::new(weights, random(rng, dims[0]), stride, padding))
}

/// Every kind of layer between two convolutions, so that tangents pass through it both ways.
#[test]
fn every_layer_between_others() {
    let rng = &mut ChaCha8Rng::seed_from_u64(1);
    let image = Shape::image(6, 5, 2).unwrap();
    let pad = Padding { top: 1, bottom: 0, left: 1, right: 1 };
    let overlapping = Pool2d { stride: (1, 2), ..Pool2d::tiles(PoolKind::Average, (3, 2)) };
    let cases: Vec<(&str, Layer<f64>)> = vec![
        ("conv", convolution(rng, [3, 2, 3, 3], (2, 1), pad)),
        ("norm", batch_norm(rng, 3)),
        ("square", Layer::Activation(Activation::Square)),
        ("relu", Layer::Activation(Activation::Relu)),
        ("polynomial", polynomial(rng, 3)),
        ("blend", blend(rng, 3, Function::Relu)),
        ("blend from gelu", blend(rng, 3, Function::Gelu)),
        ("sum pool", Layer::Pool2d(Pool2d::tiles(PoolKind::Sum, (2, 2)))),
        ("average pool", Layer::Pool2d(overlapping)),
        ("max pool", Layer::Pool2d(Pool2d { kind: PoolKind::Max, ..overlapping })),
        ("clamp", Layer::Clamp(Clamp { limit: 0.3 })),
        ("dropout", Layer::Dropout(Dropout { rate: 0.4 })),
    ];
    let functions = Function::NAMED.into_iter().filter(|function| *function != Function::Relu);
    let functions = functions.map(|function| {
        let activation = Activation::Function(function);
        (activation.name(), Layer::Activation(activation))
    });
    for (name, layer) in cases.into_iter().chain(functions) {
        let mut layers = vec![convolution(rng, [3, 2, 2, 2], (1, 1), pad), layer];
        layers.push(convolution(rng, [2, 1, 1, 3], (1, 1), Padding::NONE));
        layers.extend([Layer::Activation(Activation::Square), Layer::Flatten]);
        let n = Network::new(image.clone(), layers.clone()).unwrap().output_shape().len();
        layers.push(dense(rng, 3, n));
        let network = Network::new(image.clone(), layers).unwrap();
        check(name, &network, &ParameterSelection::all(&network), 2);
        check(name, &network, &ParameterSelection::all(&network).weights_only(), 3);
        check(name, &network, &ParameterSelection::last(&network).unwrap(), 4);
        check(name, &network, &ParameterSelection::only(&network, &[2]).unwrap(), 5);
        check(name, &network, &ParameterSelection::only(&network, &[0, 5]).unwrap(), 6);
    }
}

#[path = "generators/random_graph.rs"]
mod random_graph;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn random_graphs(seed in any::<u64>(), choice in any::<prop::sample::Index>()) {
        let network = random_graph::random_graph(seed, random_graph::Choices::ALL);
        check("random graph", &network, &ParameterSelection::all(&network), seed);
        let with_parameters = ParameterSelection::all(&network).layers();
        let one = [*choice.get(&with_parameters)];
        check("one layer", &network, &ParameterSelection::only(&network, &one).unwrap(), seed);
    }
}

#[test]
fn whole_networks() {
    let shape = Shape::image(16, 16, 2).unwrap();
    for kind in NetworkKind::ALL {
        for activation in ActivationChoice::ALL {
            let architecture = Architecture::new(kind, activation).with_clamp(3.0);
            let network = architecture.build::<f64>(&shape, 3, 5).unwrap();
            check(&format!("{kind} {activation}"), &network, &ParameterSelection::all(&network), 7);
            let folded = network.fold_batch_norm().unwrap();
            let all = ParameterSelection::all(&folded);
            check(&format!("folded {kind} {activation}"), &folded, &all, 8);
        }
    }
}

/// The network whose weights are the rounded ones has the same derivatives.
#[test]
fn rounded_weights_are_the_ones_differentiated() {
    let rng = &mut ChaCha8Rng::seed_from_u64(9);
    let quantizer = WeightQuantizer { scales: array![0.25], bits: 4 };
    let mut rounded = Dense::new(random(rng, (3, 4)), random(rng, 3));
    let mut plain = rounded.clone();
    plain.weights = quantizer.quantize(&plain.weights);
    rounded.weight_quantizer = Some(quantizer);
    let square = || Layer::Activation(Activation::Square);
    let last = dense(rng, 2, 3);
    let network = |first: Dense<f64>| {
        let layers = vec![Layer::Dense(first), square(), last.clone()];
        Network::new(Shape::vector(4).unwrap(), layers).unwrap()
    };
    let x = random(rng, 4);
    let of = |network: &Network<f64>| {
        let point = Linearization::new(network, x.view()).unwrap();
        let z = point.output().to_owned();
        let all = ParameterSelection::all(network);
        point.squared_norms_and_gradient(rows(&z), &all, |t| curvature(&z, t)).unwrap()
    };
    assert_eq!(of(&network(rounded)), of(&network(plain)));
}

#[test]
fn rounding_of_values_passes_straight_through() {
    let quantize = Quantize { steps: array![0.25], min: 0, max: 3 };
    let layers = vec![Layer::Quantize(quantize)];
    let network = Network::new(Shape::vector(3).unwrap(), layers).unwrap();
    let point = Linearization::new(&network, array![0.3, 7.0, -2.0].view()).unwrap();
    assert_eq!(point.output(), array![0.25, 0.75, 0.0]);
    assert_eq!(point.input_gradients(Array2::eye(3)).unwrap().diag(), array![1.0, 0.0, 0.0]);
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let rng = &mut ChaCha8Rng::seed_from_u64(3);
    let layers = vec![dense(rng, 3, 2), Layer::Activation(Activation::Relu)];
    let network = Network::new(Shape::vector(2).unwrap(), layers).unwrap();
    let last = ParameterSelection::last(&network).unwrap();
    assert_eq!(last.layers(), [0]);
    let point = Linearization::new(&network, array![1.0, 2.0].view()).unwrap();
    let bent = |_: &Array2<f64>| Array2::zeros((1, 1));
    for refused in [
        Linearization::new(&network, array![1.0].view()).map(|_| ()),
        point.input_gradients(Array2::zeros((1, 2))).map(|_| ()),
        point.squared_norms(Array2::zeros((1, 2)), &last).map(|_| ()),
        point.squared_norms_and_gradient(Array2::zeros((1, 3)), &last, bent).map(|_| ()),
    ] {
        assert!(matches!(refused, Err(Error::ShapeMismatch { .. })));
    }
    assert!(Linearization::new(&network, array![1.0, f64::NAN].view()).is_err());
    assert!(point.layer_input(3).is_err());
    for positions in [&[1_usize][..], &[2], &[]] {
        let refused = ParameterSelection::only(&network, positions);
        assert!(matches!(refused, Err(Error::NoParameters { .. })));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn random_networks(
        seed: u64, height in 2_usize..6, width in 2_usize..6, channels in 1_usize..3,
        kinds in proptest::collection::vec(0_usize..7, 1..5), classes in 1_usize..5,
    ) {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let shape = Shape::image(height, width, channels).unwrap();
        let mut layers = Vec::new();
        let mut n_channels = channels;
        for kind in kinds {
            layers.push(match kind {
                0 | 1 => {
                    let dims = [rng.random_range(1..4), 2, 2, n_channels];
                    n_channels = dims[0];
                    let pad = Padding { top: 1, bottom: 0, left: 0, right: 1 };
                    convolution(rng, dims, (1, 1), pad)
                }
                2 => batch_norm(rng, n_channels),
                3 => polynomial(rng, n_channels),
                4 => Layer::Activation(Activation::Square),
                5 => Layer::Activation(Activation::Relu),
                _ => {
                    let pool = Pool2d { stride: (1, 1), ..Pool2d::tiles(PoolKind::Sum, (2, 1)) };
                    match layers.iter().filter(|l| matches!(l, Layer::Pool2d(_))).count() {
                        0 => Layer::Pool2d(pool),
                        _ => Layer::Clamp(Clamp { limit: 0.5 }),
                    }
                }
            });
        }
        layers.push(Layer::Flatten);
        let n = Network::new(shape.clone(), layers.clone()).unwrap().output_shape().len();
        layers.push(dense(rng, classes, n));
        // Scores of a few units, so that a fixed tolerance means the same for every network.
        let network = scaled(&shape, layers, rng);
        check("random", &network, &ParameterSelection::all(&network), seed);
    }
}

/// Divide the last layer so that scores at a random input are at most 1.
fn scaled(shape: &Shape, mut layers: Vec<Layer<f64>>, rng: &mut ChaCha8Rng) -> Network<f64> {
    let network = Network::new(shape.clone(), layers.clone()).unwrap();
    let x: Array1<f64> = random(rng, shape.len());
    let point = Linearization::new(&network, x.view()).unwrap();
    let largest = point.output().fold(1.0_f64, |largest, z| largest.max(z.abs()));
    let inputs = point.layer_input(network.layers().len() - 1).unwrap();
    let norm = inputs.fold(1.0_f64, |sum, h| sum + h * h).sqrt();
    if let Some(Layer::Dense(last)) = layers.last_mut() {
        last.weights /= largest.max(norm);
        last.bias /= largest.max(norm);
    }
    Network::new(shape.clone(), layers).unwrap()
}
