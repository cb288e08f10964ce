#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]
use ndarray::{Array1, Array2, Array4, array};
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::layer::{Activation, BatchNorm, Conv2d, Dense, Padding, Quantize, WeightQuantizer};

fn build(kind: NetworkKind, shape: &Shape) -> Result<Network<f64>> {
    Architecture::new(kind, ActivationChoice::Square).build(shape, 10, 1)
}

#[test]
fn the_architectures_have_the_shapes_of_the_papers() {
    let digits = Shape::image(28, 28, 1).unwrap();
    let shapes = |network: Network<f64>| -> Vec<String> {
        network.layer_shapes().iter().map(ToString::to_string).collect()
    };
    let actual = shapes(build(NetworkKind::Cryptonets, &digits).unwrap());
    let expected = ["28×28×1", "13×13×5", "13×13×5", "13×13×5", "845", "100", "100", "100", "10"];
    assert_eq!(actual, expected);
    let actual = shapes(build(NetworkKind::Securedl, &digits).unwrap());
    let expected = [
        "28×28×1",
        "24×24×20",
        "24×24×20",
        "24×24×20",
        "12×12×20",
        "8×8×50",
        "8×8×50",
        "8×8×50",
        "4×4×50",
        "800",
        "256",
        "256",
        "256",
        "10",
    ];
    assert_eq!(actual, expected);
    let deeper = |n| {
        Architecture::new(NetworkKind::Securedl, ActivationChoice::Square)
            .with_more_convolutions(n)
            .build(&digits, 10, 1)
            .unwrap()
    };
    assert_eq!(shapes(deeper(0)), expected);
    let actual = shapes(deeper(2));
    assert_eq!(actual[..9], expected[..9]);
    assert_eq!(actual[9..15], ["4×4×50"; 6], "two convolutions with norm and activation");
    assert_eq!(actual[15..], expected[9..]);
    let network = build(NetworkKind::Securedl, &Shape::image(32, 32, 3).unwrap()).unwrap();
    assert_eq!(network.layer_shapes()[9].dims(), [1250]);
    let network = build(NetworkKind::Mlp, &Shape::vector(13).unwrap()).unwrap();
    // Three dense layers and two normalizations.
    assert_eq!(network.n_parameters(), 13 * 64 + 64 + 128 + 64 * 32 + 32 + 64 + 320 + 10);
    let error = build(NetworkKind::Securedl, &Shape::vector(13).unwrap()).unwrap_err();
    assert!(matches!(error, Error::IncompatibleLayer { layer_idx: 0, layer: "conv2d", .. }));
    let error = build(NetworkKind::Securedl, &Shape::image(8, 8, 1).unwrap()).unwrap_err();
    assert!(error.to_string().ends_with("the kernel is larger than the padded image"), "{error}");
}

#[test]
fn names_parse_back() {
    for kind in NetworkKind::ALL {
        assert_eq!(kind.to_string().parse::<NetworkKind>().unwrap(), kind);
    }
    for choice in ActivationChoice::ALL {
        assert_eq!(choice.to_string().parse::<ActivationChoice>().unwrap(), choice);
    }
    let error = "lenet".parse::<NetworkKind>().unwrap_err().to_string();
    assert_eq!(error, "unknown network `lenet`, expected cryptonets, securedl or mlp");
}

fn error_of(input: Shape, layer: Layer<f64>) -> String {
    Network::new(input, vec![layer]).unwrap_err().to_string()
}

#[test]
fn unfit_layers_are_refused_with_their_place() {
    let vector = Shape::vector(3).unwrap();
    let image = Shape::image(4, 4, 2).unwrap();
    let dense = Dense::new(Array2::zeros((2, 4)), Array1::zeros(2));
    assert_eq!(
        error_of(vector.clone(), Layer::Dense(dense.clone())),
        "layer 0 (dense): weights has shape [2, 4], expected [2, 3]"
    );
    assert_eq!(
        error_of(image.clone(), Layer::Dense(dense)),
        "layer 0 (dense) does not accept inputs of shape 4×4×2: a dense layer takes a vector; put a \
         flatten layer before it"
    );
    let conv = Conv2d::new(Array4::zeros((1, 3, 3, 1)), Array1::zeros(1), (1, 1), Padding::NONE);
    assert_eq!(
        error_of(image.clone(), Layer::Conv2d(conv)),
        "layer 0 (conv2d): weights has shape [1, 3, 3, 1], expected [1, 3, 3, 2]"
    );
    let mut norm = BatchNorm::new(2, 1.0, 0.0);
    norm.running_variance[1] = -1.0;
    assert_eq!(
        error_of(image.clone(), Layer::BatchNorm(norm)),
        "layer 0 (batch_norm): running_variance[1] is -1, it must be finite and not negative"
    );
    let mut dense = Dense::new(Array2::zeros((2, 3)), array![0.0, f64::INFINITY]);
    assert_eq!(
        error_of(vector.clone(), Layer::Dense(dense.clone())),
        "layer 0 (dense): bias[1] is inf, it must be finite"
    );
    dense.bias.fill(0.0);
    dense.weight_quantizer = Some(WeightQuantizer { scales: array![1.0, 1.0, 1.0], bits: 4 });
    assert!(error_of(vector.clone(), Layer::Dense(dense)).contains("expected [2]"));
    let quantize = Quantize { steps: array![0.0], min: 0, max: 1 };
    assert!(error_of(image, Layer::Quantize(quantize)).contains("finite and positive"));
    let too_many = vec![Layer::<f64>::Flatten; Network::<f64>::MAX_LAYERS + 1];
    assert!(matches!(Network::new(vector, too_many), Err(Error::TooLarge { .. })));
}

#[test]
fn weights_in_another_memory_order_work_too() {
    let weights = array![[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]];
    let reversed = weights.t().as_standard_layout().into_owned().reversed_axes();
    assert!(!reversed.is_standard_layout());
    let network = Network::new(
        Shape::vector(3).unwrap(),
        vec![Layer::Dense(Dense::new(reversed, array![0.0, 1.0]))],
    )
    .unwrap();
    assert_eq!(network.outputs(&array![[1.0, 0.0, 1.0]]).unwrap(), array![[4.0, 11.0]]);
}

#[test]
fn pieces_and_single_layers_give_the_same_outputs() {
    let shape = Shape::image(14, 14, 1).unwrap();
    let network = build(NetworkKind::Cryptonets, &shape).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let inputs = Array2::from_shape_simple_fn((1203, shape.len()), || rng.random::<f64>());
    let outputs = network.outputs(&inputs).unwrap();
    let batch = Tensor::new(shape, inputs).unwrap();
    assert_eq!(network.forward(&batch).unwrap().values(), outputs);
    let all = network.forward_all(&batch).unwrap();
    assert_eq!(all.len(), network.layers().len());
    assert_eq!(all.last().unwrap().values(), outputs);
    let wrong = Tensor::zeros(Shape::vector(196).unwrap(), 1);
    assert!(matches!(network.forward(&wrong), Err(Error::ShapeMismatch { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn folding_keeps_the_function(seed in any::<u64>(), pad in 0_usize..2, is_polynomial in any::<bool>()) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let shape = Shape::image(6, 6, 2).unwrap();
        let choice = if is_polynomial { ActivationChoice::Polynomial } else { ActivationChoice::Square };
        let kind = NetworkKind::Cryptonets;
        let architecture = Architecture::new(kind, choice).with_clamp(3.0).with_dropout(0.5);
        let mut layers = architecture.build::<f64>(&shape, 3, seed).unwrap().into_layers();
        for layer in &mut layers {
            match layer {
                Layer::BatchNorm(norm) => {
                    norm.running_mean.mapv_inplace(|_| rng.random_range(-2.0..2.0));
                    norm.running_variance.mapv_inplace(|_| rng.random_range(0.1..4.0));
                    norm.gamma.mapv_inplace(|_| rng.random_range(-2.0..2.0));
                }
                Layer::Conv2d(conv) => conv.padding.top += pad,
                _ => {}
            }
        }
        let Ok(network) = Network::new(shape.clone(), layers) else { return Ok(()) };
        let folded = network.fold_batch_norm().unwrap();
        let is_folded = |layer: &Layer<f64>| !matches!(layer, Layer::BatchNorm(_) | Layer::Dropout(_));
        prop_assert!(folded.layers().iter().all(is_folded));
        let inputs = Array2::from_shape_simple_fn((5, shape.len()), || rng.random::<f64>());
        let (expected, actual) = (network.outputs(&inputs).unwrap(), folded.outputs(&inputs).unwrap());
        for (expected, actual) in expected.iter().zip(&actual) {
            prop_assert!((expected - actual).abs() < 1e-9 * (1.0 + expected.abs()));
        }
    }
}

#[test]
fn normalizations_without_a_linear_layer_before_become_one() {
    let norm = |shape: &Shape| {
        let mut norm = BatchNorm::<f64>::new(shape.channels(), 1.5, -0.25);
        norm.running_mean.iter_mut().zip(0_u16..).for_each(|(mean, i)| *mean = 0.5 * f64::from(i));
        norm.running_variance.fill(0.3);
        Layer::BatchNorm(norm)
    };
    let square = || Layer::Activation(Activation::Square);
    for shape in [Shape::vector(3).unwrap(), Shape::image(2, 3, 4).unwrap()] {
        let sequences = [vec![norm(&shape)], vec![square(), norm(&shape), square(), norm(&shape)]];
        for layers in sequences {
            let network = Network::new(shape.clone(), layers).unwrap();
            let folded = network.fold_batch_norm().unwrap();
            for (before, after) in network.layers().iter().zip(folded.layers()) {
                let expected = if shape.as_image().is_some() { "conv2d" } else { "dense" };
                let is_norm = matches!(before, Layer::BatchNorm(_));
                assert_eq!(after.name(), if is_norm { expected } else { "square" });
            }
            #[expect(clippy::cast_precision_loss, reason = "small indices")]
            let inputs = Array2::from_shape_fn((3, shape.len()), |(i, j)| (i + 2 * j) as f64 / 7.0);
            let expected = network.outputs(&inputs).unwrap();
            for (expected, actual) in expected.iter().zip(&folded.outputs(&inputs).unwrap()) {
                assert!((expected - actual).abs() < 1e-12 * (1.0 + expected.abs()));
            }
        }
    }
    let wide = Shape::vector(5000).unwrap();
    let network = Network::new(wide.clone(), vec![norm(&wide)]).unwrap();
    assert!(matches!(network.fold_batch_norm(), Err(Error::CannotFold { layer_idx: 0, .. })));
}

#[test]
fn folding_needs_unquantized_weights() {
    let shape = Shape::vector(2).unwrap();
    let norm = || Layer::BatchNorm(BatchNorm::<f64>::new(2, 1.0, 0.0));
    let mut dense = Dense::new(Array2::eye(2), Array1::zeros(2));
    dense.weight_quantizer = Some(WeightQuantizer { scales: array![0.5], bits: 4 });
    let network = Network::new(shape, vec![Layer::Dense(dense), norm()]).unwrap();
    assert!(network.fold_batch_norm().unwrap_err().to_string().contains("quantized"));
}

#[test]
fn casting_keeps_the_function_and_catches_overflow() {
    let network = build(NetworkKind::Mlp, &Shape::vector(3).unwrap()).unwrap();
    let single: Network<f32> = network.cast().unwrap();
    let outputs = single.scores(&array![[0.1, 0.2, 0.3]]).unwrap();
    let exact = network.outputs(&array![[0.1, 0.2, 0.3]]).unwrap();
    assert!(outputs.iter().zip(&exact).all(|(a, b)| (a - b).abs() < 1e-5));
    let dense = Dense::new(array![[1e300]], array![0.0]);
    let large = Network::new(Shape::vector(1).unwrap(), vec![Layer::Dense(dense)]).unwrap();
    assert!(matches!(large.cast::<f32>(), Err(Error::ParameterValue { .. })));
}

#[test]
fn predictions_are_the_first_largest_scores() {
    let scores = array![[1.0, 3.0, 3.0], [-1.0, -2.0, -3.0], [f64::NAN, f64::NAN, f64::NAN]];
    assert_eq!(predictions(&scores), [1, 0, 0]);
}

#[test]
fn inputs_that_are_not_finite_are_refused() {
    let network: Network<f32> =
        build(NetworkKind::Mlp, &Shape::vector(2).unwrap()).unwrap().cast().unwrap();
    let error = network.scores(&array![[0.0, f32::INFINITY]]).unwrap_err();
    assert_eq!(error.to_string(), "network input: sample 0, feature 1 is inf, it must be finite");
}

fn eye(n: usize) -> Layer<f64> {
    Layer::Dense(Dense::new(Array2::eye(n), Array1::ones(n)))
}

#[test]
fn a_residual_network_adds_and_joins_what_its_layers_read() {
    let mut builder = NetworkBuilder::new(Shape::vector(2).unwrap());
    let first = builder.push(eye(2), &[Source::Input]).unwrap();
    let square = builder.append(Layer::Activation(Activation::Square)).unwrap();
    let sum = builder.push(Layer::Add, &[square, Source::Input, first]).unwrap();
    builder.push(Layer::Concat, &[first, sum]).unwrap();
    assert_eq!(builder.shape(sum), Some(&Shape::vector(2).unwrap()));
    let network = builder.finish().unwrap();
    assert!(!network.is_sequential());
    assert_eq!(network.sources(2), [square, Source::Input, first]);
    // x = (1, −2): x + 1 = (2, −1), squared (4, 1), plus x plus (x + 1): (7, −2).
    let x = array![[1.0, -2.0]];
    assert_eq!(network.outputs(&x).unwrap(), array![[2.0, -1.0, 7.0, -2.0]]);
    let batch = Tensor::new(Shape::vector(2).unwrap(), x.clone()).unwrap();
    let all = network.forward_all(&batch).unwrap();
    assert_eq!(all[2].values(), array![[7.0, -2.0]]);
    // Parts, replacements, removals.
    assert_eq!(network.upto(sum).unwrap().outputs(&x).unwrap(), array![[7.0, -2.0]]);
    assert_eq!(network.upto(square).unwrap().layers().len(), 2);
    assert_eq!(network.upto(Source::Input).unwrap().outputs(&x).unwrap(), x);
    assert!(network.upto(Source::Layer(4)).is_err());
    let is_square = |layer: &Layer<f64>| matches!(layer, Layer::Activation(_));
    let linear = |_, layer: &Layer<f64>| (!is_square(layer)).then(|| layer.clone());
    let without = network.filter_map_layers(linear).unwrap();
    assert_eq!(without.outputs(&x).unwrap(), array![[2.0, -1.0, 5.0, -4.0]]);
    assert!(network.filter_map_layers(|i, layer| (i != 2).then(|| layer.clone())).is_err());
    assert_eq!(network.with_layers(network.layers().to_vec()).unwrap(), network);
    assert_eq!(network.cast::<f32>().unwrap().cast::<f64>().unwrap(), network);
}

#[test]
fn connections_that_are_no_graph_are_refused_with_their_place() {
    let refusal = |nodes: Vec<(Layer<f64>, Vec<Source>)>| {
        let nodes = nodes.into_iter().map(|(layer, sources)| Node { layer, sources }).collect();
        Network::from_nodes(Shape::image(2, 2, 1).unwrap(), nodes).unwrap_err().to_string()
    };
    let flatten = (Layer::Flatten, vec![Source::Input]);
    let cases = [
        // Any cycle has a layer that reads a later one, or itself.
        (
            vec![flatten.clone(), (Layer::Add, vec![Source::Layer(0), Source::Layer(1)])],
            "layer 1: layer it reads is 1, it must be 0",
        ),
        (
            vec![(Layer::Flatten, vec![Source::Layer(usize::MAX)])],
            "layer 0: layer it reads is 18446744073709551614, it must be between 0 and -1",
        ),
        (vec![(Layer::Flatten, vec![])], "layer 0: number of values it reads is 0, it must be 1"),
        (
            vec![(Layer::Flatten, vec![Source::Input; 2])],
            "layer 0: number of values it reads is 2, it must be 1",
        ),
        (
            vec![(Layer::Concat, vec![Source::Input])],
            "layer 0: number of values it reads is 1, it must be between 2 and 256",
        ),
        (
            vec![flatten.clone(), (Layer::Add, vec![Source::Layer(0), Source::Input])],
            "layer 1 (add) cannot join 4 and 2×2×1: an addition takes values of one shape",
        ),
        (
            vec![flatten.clone(), (Layer::Concat, vec![Source::Input, Source::Layer(0)])],
            "layer 1 (concat) cannot join 2×2×1 and 4: a concatenation takes vectors, or images of one \
             height and width",
        ),
    ];
    for (nodes, expected) in cases {
        assert_eq!(refusal(nodes), expected);
    }
    let unread = refusal(vec![flatten.clone(), flatten]);
    assert!(unread.starts_with("layer 0: number of layers that read it is 0"), "{unread}");
    // Every layer joins 16 copies: 2^24 values after six, then nine copies of them wait for a sum.
    let joined =
        |idx| Node { layer: Layer::<f64>::Concat, sources: vec![Source::of_value(idx); 16] };
    let add = |sources| Node { layer: Layer::Add, sources };
    let mut nodes: Vec<_> = (0..6).map(joined).collect();
    nodes.extend((0..9).map(|_| add(vec![Source::Layer(5); 2])));
    nodes.push(add((6..15).map(Source::Layer).collect()));
    let error = Network::from_nodes(Shape::vector(1).unwrap(), nodes).unwrap_err().to_string();
    assert!(error.contains("values of one sample held at one time is 150994944"), "{error}");
    let sequence = Network::new(Shape::vector(2).unwrap(), vec![Layer::<f64>::Add]);
    assert!(sequence.unwrap_err().to_string().contains("number of values it reads is 1"));
}

#[test]
fn normalization_folds_through_additions_but_not_through_shared_layers() {
    let norm = || {
        let mut norm = BatchNorm::new(2, 2.0, 0.5);
        norm.running_mean = array![0.25, -1.0];
        Layer::BatchNorm(norm)
    };
    let mut builder = NetworkBuilder::new(Shape::vector(2).unwrap());
    let first = builder.push(eye(2), &[Source::Input]).unwrap();
    let second = builder.push(eye(2), &[Source::Input]).unwrap();
    builder.push(Layer::Add, &[first, second]).unwrap();
    builder.append(norm()).unwrap();
    let network = builder.clone().finish().unwrap();
    let folded = network.fold_batch_norm().unwrap();
    assert_eq!(folded.layers().len(), 3);
    let x = array![[0.5, -3.0]];
    let pairs = (network.outputs(&x).unwrap(), folded.outputs(&x).unwrap());
    assert!(pairs.0.iter().zip(&pairs.1).all(|(a, b)| (a - b).abs() < 1e-12), "{pairs:?}");
    // The first layer is read by an addition and by the output.
    builder.push(Layer::Concat, &[builder.latest(), first]).unwrap();
    let network = builder.finish().unwrap();
    let folded = network.fold_batch_norm().unwrap();
    let names: Vec<&str> = folded.layers().iter().map(Layer::name).collect();
    assert_eq!(names, ["dense", "dense", "add", "dense", "concat"]);
    let pairs = (network.outputs(&x).unwrap(), folded.outputs(&x).unwrap());
    assert!(pairs.0.iter().zip(&pairs.1).all(|(a, b)| (a - b).abs() < 1e-12), "{pairs:?}");
}
