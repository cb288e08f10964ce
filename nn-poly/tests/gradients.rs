//! Every gradient against central finite differences in double precision.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]

use ndarray::{Array, Array1, Array2, Dimension, ShapeBuilder, array};
use nn_poly::approximate::{Function, SampledFunction};
use nn_poly::autodiff::{Gradients, InputGradient, Mode, Tape};
use nn_poly::layer::{
    Activation, BatchNorm, Blend, Clamp, Conv2d, Dense, Dropout, Layer, Padding, Pool2d, PoolKind,
    Quantize, WeightQuantizer,
};
use nn_poly::network::{ActivationChoice, Architecture, NetworkBuilder, NetworkKind, Source};
use nn_poly::{Network, Shape, Tensor};
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const TRAINING: Mode = Mode::Training { dropout_seed: 11 };

fn random<D: Dimension, Sh: ShapeBuilder<Dim = D>>(
    rng: &mut ChaCha8Rng,
    shape: Sh,
) -> Array<f64, D> {
    Array::from_shape_simple_fn(shape, || rng.random_range(-1.0..1.0))
}

/// A batch, a network, and the fixed weights of the outputs in the scalar `f = Σ c·output`.
struct Subject {
    network: Network<f64>,
    inputs: Array2<f64>,
    coefficients: Array2<f64>,
    mode: Mode,
}

impl Subject {
    fn new(input: &Shape, layers: Vec<Layer<f64>>, n_samples: usize, mode: Mode) -> Self {
        Self::of(Network::new(input.clone(), layers).unwrap(), n_samples, mode)
    }

    fn of(network: Network<f64>, n_samples: usize, mode: Mode) -> Self {
        let input = network.input_shape().clone();
        let mut rng = ChaCha8Rng::seed_from_u64(99);
        let inputs = random(&mut rng, (n_samples, input.len()));
        let coefficients = random(&mut rng, (n_samples, network.output_shape().len()));
        Self { network, inputs, coefficients, mode }
    }

    fn tape<'a>(&self, network: &'a Network<f64>, inputs: &Array2<f64>) -> Tape<'a, f64> {
        let batch = Tensor::new(network.input_shape().clone(), inputs.clone()).unwrap();
        Tape::forward(network, batch, self.mode).unwrap()
    }

    fn value(&self, network: &Network<f64>, inputs: &Array2<f64>) -> f64 {
        (&self.tape(network, inputs).output() * &self.coefficients).sum()
    }

    fn gradients(&self) -> Gradients<f64> {
        let tape = self.tape(&self.network, &self.inputs);
        tape.backward(self.coefficients.clone(), InputGradient::Wanted).unwrap()
    }

    /// The network with one parameter moved.
    fn moved(
        &self,
        layer_idx: usize,
        parameter_idx: usize,
        position: usize,
        by: f64,
    ) -> Network<f64> {
        let mut layers = self.network.layers().to_vec();
        let mut parameters = layers[layer_idx].parameters_mut();
        *parameters[parameter_idx].iter_mut().nth(position).unwrap() += by;
        self.network.with_layers(layers).unwrap()
    }
}

/// Compare a derivative with the central difference of `value`, which takes a displacement.
///
/// ReLU and clamp have kinks: where a value of some layer is within one step of a kink, the central
/// difference is a mixture of both slopes. Shorter steps then decide; a wrong derivative agrees with
/// none of them.
fn check_slope(place: &str, analytic: f64, value: impl Fn(f64) -> f64) {
    let mut tried = Vec::new();
    for (step, tolerance) in [(1e-5, 1e-6), (1e-6, 3e-6), (1e-7, 3e-5)] {
        let numeric = (value(step) - value(-step)) / (2.0 * step);
        let scale = 1.0 + analytic.abs().max(numeric.abs());
        if (analytic - numeric).abs() <= tolerance * scale {
            return;
        }
        tried.push(numeric);
    }
    panic!("{place}: {analytic} versus {tried:?}");
}

/// Compare a sample of all gradient entries with central differences.
fn check(name: &str, subject: &Subject) {
    let gradients = subject.gradients();
    for (layer_idx, layer) in gradients.layers.iter().enumerate() {
        let parameters = subject.network.layers()[layer_idx].parameters();
        assert_eq!(layer.len(), parameters.len(), "{name}: layer {layer_idx}");
        for (parameter_idx, (gradient, parameter)) in layer.iter().zip(&parameters).enumerate() {
            assert_eq!(gradient.shape(), parameter.values.shape());
            for position in (0..gradient.len()).step_by(gradient.len().div_ceil(12)) {
                let place = format!("{name}: layer {layer_idx} {}[{position}]", parameter.name);
                check_slope(&place, *gradient.iter().nth(position).unwrap(), |by| {
                    let network = subject.moved(layer_idx, parameter_idx, position, by);
                    subject.value(&network, &subject.inputs)
                });
            }
        }
    }
    let input_gradient = gradients.input.unwrap();
    for position in (0..input_gradient.len()).step_by(input_gradient.len().div_ceil(24)) {
        let analytic = *input_gradient.iter().nth(position).unwrap();
        check_slope(&format!("{name}: input[{position}]"), analytic, |by| {
            let mut inputs = subject.inputs.clone();
            *inputs.iter_mut().nth(position).unwrap() += by;
            subject.value(&subject.network, &inputs)
        });
    }
}

fn conv(
    rng: &mut ChaCha8Rng,
    dims: [usize; 4],
    stride: (usize, usize),
    padding: Padding,
) -> Layer<f64> {
    let weights = random(rng, (dims[0], dims[1], dims[2], dims[3]));
    Layer::Conv2d(Conv2d::new(weights, random(rng, dims[0]), stride, padding))
}

fn grouped(
    rng: &mut ChaCha8Rng,
    dims: [usize; 4],
    groups: usize,
    stride: (usize, usize),
    padding: Padding,
) -> Layer<f64> {
    match conv(rng, dims, stride, padding) {
        Layer::Conv2d(conv) => Layer::Conv2d(conv.with_groups(groups)),
        other => other,
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

/// Every function that is no polynomial; the table has its knots off the grid of the inputs.
fn functions() -> Vec<Function> {
    let points = vec![(-0.71, 0.3), (-0.13, -0.4), (0.39, 0.8), (0.83, 0.2)];
    let mut all = Function::NAMED.to_vec();
    all.retain(|function| *function != Function::Relu);
    all.push(Function::LeakyRelu { slope: -0.3 });
    all.push(Function::Sampled(SampledFunction::new(points).unwrap()));
    all
}

fn blend(rng: &mut ChaCha8Rng, n_channels: usize, function: Function) -> Layer<f64> {
    let (a, b, c) = (random(rng, n_channels), random(rng, n_channels), random(rng, n_channels));
    Layer::Activation(Activation::Blend(Blend {
        share: 0.3,
        low: -0.5,
        high: 0.75,
        a,
        b,
        c,
        function,
    }))
}

#[test]
fn every_layer_alone() {
    let rng = &mut ChaCha8Rng::seed_from_u64(1);
    let image = Shape::image(5, 4, 3).unwrap();
    let vector = Shape::vector(6).unwrap();
    let pad = Padding { top: 1, bottom: 0, left: 2, right: 1 };
    let overlapping = Pool2d { stride: (1, 2), ..Pool2d::tiles(PoolKind::Average, (3, 2)) };
    let cases: Vec<(&str, &Shape, Layer<f64>)> = vec![
        ("dense", &vector, dense(rng, 4, 6)),
        ("conv", &image, conv(rng, [2, 3, 3, 3], (1, 1), Padding::NONE)),
        ("strided padded conv", &image, conv(rng, [4, 2, 3, 3], (2, 1), pad)),
        ("depthwise conv", &image, grouped(rng, [3, 3, 3, 1], 3, (1, 2), pad)),
        ("widening depthwise conv", &image, grouped(rng, [6, 2, 2, 1], 3, (2, 1), Padding::NONE)),
        ("norm of images", &image, batch_norm(rng, 3)),
        ("norm of vectors", &vector, batch_norm(rng, 6)),
        ("square", &image, Layer::Activation(Activation::Square)),
        ("relu", &image, Layer::Activation(Activation::Relu)),
        ("polynomial on images", &image, polynomial(rng, 3)),
        ("polynomial on vectors", &vector, polynomial(rng, 6)),
        ("blend on images", &image, blend(rng, 3, Function::Relu)),
        ("blend on vectors", &vector, blend(rng, 6, Function::Relu)),
        ("blend from gelu", &image, blend(rng, 3, Function::Gelu)),
        ("sum pool", &image, Layer::Pool2d(Pool2d::tiles(PoolKind::Sum, (2, 2)))),
        ("overlapping average pool", &image, Layer::Pool2d(overlapping)),
        ("global pool", &image, Layer::Pool2d(Pool2d::global(PoolKind::Average, &image).unwrap())),
        ("flatten", &image, Layer::Flatten),
        ("clamp", &image, Layer::Clamp(Clamp { limit: 0.3 })),
        ("dropout", &vector, Layer::Dropout(Dropout { rate: 0.4 })),
    ];
    let of_function = |function: Function| {
        let activation = Activation::Function(function);
        (activation.name(), &image, Layer::Activation(activation))
    };
    let functions = functions().into_iter().map(of_function);
    for (name, shape, layer) in cases.into_iter().chain(functions) {
        for mode in [TRAINING, Mode::Inference] {
            // More samples than one chunk of the data-parallel kernels, and not a multiple of it.
            check(name, &Subject::new(shape, vec![layer.clone()], 13, mode));
        }
    }
}

#[test]
fn whole_networks() {
    let shape = Shape::image(16, 16, 2).unwrap();
    for kind in NetworkKind::ALL {
        for activation in ActivationChoice::ALL {
            let architecture =
                Architecture::new(kind, activation).with_clamp(3.0).with_dropout(0.2);
            let layers = architecture.build::<f64>(&shape, 3, 5).unwrap().into_layers();
            let name = format!("{kind} {activation}");
            for mode in [TRAINING, Mode::Inference] {
                check(&name, &Subject::new(&shape, layers.clone(), 4, mode));
            }
        }
    }
}

/// Straight-through: the gradient is that of the network which computes with the rounded weights, and
/// it vanishes exactly for inputs beyond the grid.
#[test]
fn quantizers_pass_gradients_straight_through() {
    let rng = &mut ChaCha8Rng::seed_from_u64(3);
    let shape = Shape::image(4, 4, 2).unwrap();
    let mut layers =
        vec![conv(rng, [3, 2, 2, 2], (1, 1), Padding::NONE), Layer::Flatten, dense(rng, 2, 27)];
    let mut rounded = layers.clone();
    for (layer, rounded) in layers.iter_mut().zip(&mut rounded) {
        match (layer, rounded) {
            (Layer::Conv2d(layer), Layer::Conv2d(rounded)) => {
                let quantizer = WeightQuantizer { scales: array![0.2, 0.3, 0.4], bits: 3 };
                rounded.weights = quantizer.quantize(&layer.weights);
                layer.weight_quantizer = Some(quantizer);
            }
            (Layer::Dense(layer), Layer::Dense(rounded)) => {
                let quantizer = WeightQuantizer { scales: array![0.25], bits: 4 };
                rounded.weights = quantizer.quantize(&layer.weights);
                layer.weight_quantizer = Some(quantizer);
            }
            _ => {}
        }
    }
    let gradients = |layers| Subject::new(&shape, layers, 12, TRAINING).gradients();
    assert_eq!(gradients(layers), gradients(rounded));

    let quantize = Quantize { steps: array![0.1], min: -3, max: 3 };
    let subject = Subject::new(&shape, vec![Layer::Quantize(quantize)], 12, TRAINING);
    let gradient = subject.gradients().input.unwrap();
    for ((&input, &gradient), &upstream) in
        subject.inputs.iter().zip(&gradient).zip(&subject.coefficients)
    {
        let is_inside = (-0.35..0.35).contains(&input);
        assert_eq!(gradient, if is_inside { upstream } else { 0.0 }, "at {input}");
    }
}

#[test]
fn skipping_the_input_gradient_changes_nothing_else() {
    let shape = Shape::image(12, 12, 1).unwrap();
    let architecture = Architecture::new(NetworkKind::Cryptonets, ActivationChoice::Polynomial);
    let layers = architecture.build::<f64>(&shape, 3, 5).unwrap().into_layers();
    let subject = Subject::new(&shape, layers, 11, TRAINING);
    let tape = subject.tape(&subject.network, &subject.inputs);
    let wanted = tape.backward(subject.coefficients.clone(), InputGradient::Wanted).unwrap();
    let skipped = tape.backward(subject.coefficients.clone(), InputGradient::Skipped).unwrap();
    assert_eq!(wanted.layers, skipped.layers);
    assert!(skipped.input.is_none());
    assert!(tape.backward(Array2::zeros((11, 4)), InputGradient::Skipped).is_err());
}

fn any_stack() -> impl Strategy<Value = (Shape, Vec<Layer<f64>>)> {
    let geometry = (4_usize..8, 4_usize..8, 1_usize..4, 1_usize..4, 1_usize..4, 1_usize..3);
    (geometry, any::<u64>(), 0_usize..3, any::<bool>()).prop_map(
        |((height, width, channels, maps, kernel, stride), seed, pad, pools)| {
            let rng = &mut ChaCha8Rng::seed_from_u64(seed);
            let input = Shape::image(height, width, channels).unwrap();
            let padding = Padding::uniform(pad.min(kernel - 1));
            let mut layers = vec![
                conv(rng, [maps, kernel, kernel, channels], (stride, stride), padding),
                batch_norm(rng, maps),
                polynomial(rng, maps),
            ];
            if pools {
                let pool = Pool2d::tiles(PoolKind::Average, (2, 1));
                layers.push(Layer::Pool2d(Pool2d { stride: (1, 1), ..pool }));
            }
            layers.push(Layer::Flatten);
            let Ok(network) = Network::new(input.clone(), layers.clone()) else {
                return (input.clone(), vec![Layer::Flatten, dense(rng, 2, input.len())]);
            };
            layers.push(dense(rng, 2, network.output_shape().len()));
            layers.push(Layer::Activation(Activation::Square));
            (input, layers)
        },
    )
}

#[path = "generators/random_graph.rs"]
mod random_graph;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn random_graphs(seed in any::<u64>(), n_samples in 2_usize..14) {
        let network = random_graph::random_graph(seed, random_graph::Choices::ALL);
        for mode in [TRAINING, Mode::Inference] {
            check("random graph", &Subject::of(network.clone(), n_samples, mode));
        }
    }
}

/// A value that is read twice gets both gradients, a value read through a reshape too.
#[test]
fn gradients_of_all_readers_add_up() {
    let rng = &mut ChaCha8Rng::seed_from_u64(5);
    let mut builder = NetworkBuilder::new(Shape::image(2, 2, 2).unwrap());
    let flat = builder.push(Layer::Flatten, &[Source::Input]).unwrap();
    let z = builder.push(dense(rng, 8, 8), &[flat]).unwrap();
    let twice = builder.push(Layer::Add, &[z, z, flat]).unwrap();
    builder.push(Layer::Concat, &[twice, z, twice]).unwrap();
    let network = builder.finish().unwrap();
    check("several readers", &Subject::of(network, 3, TRAINING));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn random_smooth_stacks((shape, layers) in any_stack(), n_samples in 2_usize..14) {
        for mode in [TRAINING, Mode::Inference] {
            check("random stack", &Subject::new(&shape, layers.clone(), n_samples, mode));
        }
    }
}

/// Training statistics really are those of the batch.
#[test]
fn training_normalizes_with_the_batch() {
    let shape = Shape::vector(2).unwrap();
    let layers = vec![Layer::BatchNorm(BatchNorm::new(2, 1.0, 0.0))];
    let subject = Subject::new(&shape, layers, 40, TRAINING);
    let output = subject.tape(&subject.network, &subject.inputs).output().to_owned();
    let mean: Array1<f64> = output.mean_axis(ndarray::Axis(0)).unwrap();
    let deviation = output.std_axis(ndarray::Axis(0), 0.0);
    assert!(mean.iter().all(|m| m.abs() < 1e-12));
    assert!(deviation.iter().all(|d| (d - 1.0).abs() < 1e-4));
}
