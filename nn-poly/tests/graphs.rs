//! Networks with branches, from floats to integers: residual connections, joined channels, groups.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::wildcard_enum_match_arm,
    missing_docs,
    reason = "tests"
)]

#[path = "support/lowering.rs"]
mod lowering;
#[path = "generators/random_graph.rs"]
mod random_graph;

use lowering::{bits, check, inputs, quantized};
use ndarray::{Array1, Array2, Array4};
use nn_poly::integer::{ActivationKind, ConvGeometry, Grouping, LinearGeometry, SumTerm, ValueRef};
use nn_poly::layer::{
    Activation, Clamp, Conv2d, Dense, Layer, Padding, Pool2d, PoolKind, Quantize,
};
use nn_poly::network::{NetworkBuilder, Source};
use nn_poly::quantize::quantize;
use nn_poly::{Error, Network, Shape, Tensor};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn random_graphs_have_an_integer_form(seed in any::<u64>()) {
        let network = random_graph::random_graph(seed, random_graph::Choices::ALL);
        match check("random graph", &network, bits(8)) {
            Ok(_) => {}
            // Values of very different size that meet: refused, not rounded.
            Err(Error::CannotQuantize { layer: "addition", .. } | Error::CannotFold { .. }) => {
                return Err(TestCaseError::reject("no common unit"));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn conv(dims: [usize; 4], seed: u64) -> Conv2d<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    let weights = Array4::from_shape_simple_fn(dims, || rng.random_range(-0.5..0.5));
    let bias = Array1::from_shape_simple_fn(dims[0], || rng.random_range(-0.2..0.2));
    let pad = |kernel: usize| kernel / 2;
    let padding = Padding {
        top: pad(dims[1]),
        bottom: pad(dims[1]),
        left: pad(dims[2]),
        right: pad(dims[2]),
    };
    Conv2d::new(weights, bias, (1, 1), padding)
}

fn dense(n_out: usize, n_in: usize, seed: u64) -> Layer<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    let weights = Array2::from_shape_simple_fn((n_out, n_in), || rng.random_range(-0.5..0.5));
    Layer::Dense(Dense::new(weights, Array1::zeros(n_out)))
}

/// relu(conv₂(h) + h) with h = conv₁(x)², and a projection of the input in the next addition.
#[test]
fn a_residual_block_is_one_stage_that_reads_its_branches() {
    let mut builder = NetworkBuilder::new(Shape::image(5, 5, 2).unwrap());
    let z = builder.push(Layer::Conv2d(conv([3, 3, 3, 2], 1)), &[Source::Input]).unwrap();
    let h = builder.push(Layer::Activation(Activation::Square), &[z]).unwrap();
    let second = builder.push(Layer::Conv2d(conv([3, 3, 3, 3], 2)), &[h]).unwrap();
    let sum = builder.push(Layer::Add, &[second, h]).unwrap();
    let block = builder.push(Layer::Activation(Activation::Relu), &[sum]).unwrap();
    let third = builder.push(Layer::Conv2d(conv([3, 1, 1, 3], 3)), &[block]).unwrap();
    let shortcut = builder.push(Layer::Conv2d(conv([3, 1, 1, 2], 4)), &[Source::Input]).unwrap();
    builder.push(Layer::Add, &[third, shortcut, block]).unwrap();
    builder.append(Layer::Activation(Activation::Square)).unwrap();
    builder.append(Layer::Pool2d(Pool2d::tiles(PoolKind::Average, (5, 5)))).unwrap();
    builder.append(Layer::Flatten).unwrap();
    builder.append(dense(2, 3, 5)).unwrap();
    let quantized = check("graph", &builder.finish().unwrap(), bits(6)).unwrap();
    let [first, second, third, last] = quantized.network.structure() else { panic!("four stages") };
    assert_eq!(first.sources, [ValueRef::Input]);
    assert_eq!(second.sources, [ValueRef::Stage(0)], "both branches read one value");
    assert_eq!(second.activation, ActivationKind::Relu);
    let LinearGeometry::Sum(sum) = &second.linear else { panic!("a sum") };
    let [SumTerm { first_input: 0, conv }, SumTerm { first_input: 0, conv: identity }] =
        sum.terms.as_slice()
    else {
        panic!("{sum:?}")
    };
    assert_eq!((conv.kernel, conv.grouping), ((3, 3), Grouping::Full));
    assert_eq!((identity.kernel, identity.grouping), ((1, 1), Grouping::Depthwise));
    assert_eq!(third.sources, [ValueRef::Stage(1), ValueRef::Input]);
    let LinearGeometry::Sum(sum) = &third.linear else { panic!("a sum") };
    let offsets: Vec<usize> = sum.terms.iter().map(|term| term.first_input).collect();
    assert_eq!((offsets, sum.n_in), (vec![0, 75, 0], 125));
    assert!(third.pool.is_some() && matches!(last.linear, LinearGeometry::Dense { .. }));
    // The branch that is added as it is has one positive multiplier per channel.
    let identity = &quantized.network.weights()[1].weights;
    for row in identity.chunks(28) {
        assert!(row[27] >= 1, "{row:?}");
    }
}

/// Channels of several values are read one by one; where a layer needs them together, they become a
/// stage of their own.
#[test]
fn joined_channels_are_read_where_they_lie() {
    let image = Shape::image(4, 4, 2).unwrap();
    let mut builder = NetworkBuilder::new(image);
    let a = builder.push(Layer::Conv2d(conv([3, 3, 3, 2], 1)), &[Source::Input]).unwrap();
    let a = builder.push(Layer::Activation(Activation::Square), &[a]).unwrap();
    let both = builder.push(Layer::Concat, &[a, Source::Input]).unwrap();
    builder.push(Layer::Conv2d(conv([2, 3, 3, 5], 2)), &[both]).unwrap();
    let b = builder.append(Layer::Activation(Activation::Relu)).unwrap();
    // A pool reads all channels at one time.
    let joined = builder.push(Layer::Concat, &[b, a]).unwrap();
    builder.push(Layer::Pool2d(Pool2d::tiles(PoolKind::Average, (2, 2))), &[joined]).unwrap();
    builder.append(Layer::Flatten).unwrap();
    builder.append(dense(3, 20, 3)).unwrap();
    let quantized = check("graph", &builder.finish().unwrap(), bits(6)).unwrap();
    let [_, second, third, last] = quantized.network.structure() else { panic!("four stages") };
    assert_eq!(second.sources, [ValueRef::Stage(0), ValueRef::Input]);
    let LinearGeometry::Sum(sum) = &second.linear else { panic!("a sum") };
    assert_eq!(sum.terms.iter().map(|t| t.conv.input.channels).collect::<Vec<_>>(), [3, 2]);
    assert_eq!(third.sources, [ValueRef::Stage(1), ValueRef::Stage(0)]);
    assert!(third.pool.is_some(), "the pool follows the joined channels");
    assert_eq!(last.n_inputs(), 20);
}

/// A sum that two branches read, one through an activation, is refreshed once and then activated.
#[test]
fn activations_of_a_shared_sum_are_stages_of_their_own() {
    let mut builder = NetworkBuilder::new(Shape::vector(4).unwrap());
    let z = builder.push(dense(4, 4, 1), &[Source::Input]).unwrap();
    let activated = builder.push(Layer::Activation(Activation::Square), &[z]).unwrap();
    let inner = builder.push(dense(4, 4, 2), &[activated]).unwrap();
    let sum = builder.push(Layer::Add, &[z, inner]).unwrap();
    builder.push(Layer::Activation(Activation::Relu), &[sum]).unwrap();
    builder.append(dense(2, 4, 3)).unwrap();
    let quantized = check("graph", &builder.finish().unwrap(), bits(8)).unwrap();
    let kinds: Vec<_> =
        quantized.network.structure().iter().map(|s| s.activation.clone()).collect();
    use ActivationKind::{Identity, Quadratic, Relu};
    assert_eq!(kinds, [Identity, Quadratic, Relu, Identity]);
    assert_eq!(quantized.network.structure()[2].sources, [ValueRef::Stage(0), ValueRef::Stage(1)]);
}

/// Groups, a padded average pool, odd strides and asymmetric padding have exact integer forms.
#[test]
fn groups_padded_pools_and_odd_windows_survive() {
    let mut grouped = conv([4, 3, 2, 2], 1).with_groups(2);
    grouped.stride = (3, 2);
    grouped.padding = Padding { top: 2, bottom: 0, left: 0, right: 1 };
    let pool = Conv2d::average_pool(4, (3, 3), (1, 2), Padding::uniform(1));
    let layers = vec![
        Layer::Conv2d(grouped),
        Layer::Activation(Activation::Square),
        Layer::Conv2d(pool),
        Layer::Clamp(Clamp { limit: 2.0 }),
        Layer::Flatten,
    ];
    let image = Shape::image(9, 7, 4).unwrap();
    let n = Network::new(image.clone(), layers.clone()).unwrap().output_shape().len();
    let network =
        Network::new(image, layers.into_iter().chain([dense(3, n, 2)]).collect()).unwrap();
    let quantized = check("graph", &network, bits(6)).unwrap();
    let [first, second, _] = quantized.network.structure() else { panic!("three stages") };
    let LinearGeometry::Conv2d(ConvGeometry { grouping, stride, padding, .. }) = &first.linear
    else {
        panic!("a convolution")
    };
    assert_eq!((*grouping, *stride), (Grouping::Groups(2), (3, 2)));
    assert_eq!(*padding, Padding { top: 2, bottom: 0, left: 0, right: 1 });
    let LinearGeometry::Conv2d(pool) = &second.linear else { panic!("a convolution") };
    assert_eq!(pool.grouping, Grouping::Depthwise);
    assert!(quantized.network.weights()[1].weights.iter().all(|&w| w == 1), "a pool sums");
}

/// Values that are added as they are lie on grids with a common unit: the sum is exact.
#[test]
fn grids_that_meet_have_a_common_unit() {
    let mut builder = NetworkBuilder::new(Shape::vector(3).unwrap());
    let mut branches = vec![Source::Input];
    for seed in 0..3 {
        builder.push(dense(3, 3, seed), &[Source::Input]).unwrap();
        branches.push(builder.append(Layer::Activation(Activation::Square)).unwrap());
    }
    builder.push(Layer::Add, &branches).unwrap();
    builder.append(Layer::Activation(Activation::Square)).unwrap();
    builder.append(dense(2, 3, 9)).unwrap();
    let network = builder.finish().unwrap();
    let (prepared, quantized) = quantized(&network, bits(8)).unwrap();
    let stage = &quantized.network.structure()[3];
    assert_eq!(stage.sources.len(), 4);
    // Integer times multiplier is the same amount in all branches.
    let steps: Vec<f64> = prepared
        .layers()
        .iter()
        .filter_map(|layer| match layer {
            Layer::Quantize(Quantize { steps, .. }) => Some(f64::from(steps[0])),
            _ => None,
        })
        .take(4)
        .collect();
    let multiples = &quantized.network.weights()[3].weights[..4];
    let units: Vec<f64> = multiples
        .iter()
        .zip(&stage.sources)
        .map(|(&k, source)| {
            let step = match *source {
                ValueRef::Input => steps[0],
                ValueRef::Stage(stage) => steps[stage as usize + 1],
            };
            step / f64::from(k)
        })
        .collect();
    for unit in &units {
        assert!((unit / units[0] - 1.0).abs() < 1e-5, "{units:?}");
    }
    // Exactly so: before the square, the float network's sums are whole multiples of the unit.
    let data = inputs(network.input_shape(), 20, 5);
    let batch = Tensor::new(network.input_shape().clone(), data).unwrap();
    let position = prepared.layers().iter().position(|l| matches!(l, Layer::Add)).unwrap();
    for &value in &prepared.forward_all(&batch).unwrap()[position].values() {
        let whole = f64::from(value) / units[0];
        assert!((whole - whole.round()).abs() < 1e-2, "{whole}");
    }
}

#[test]
fn graphs_without_an_integer_form_are_named() {
    let refusal = |builder: NetworkBuilder<f32>| {
        quantized(&builder.finish().unwrap(), bits(6)).unwrap_err().to_string()
    };
    let start = || NetworkBuilder::new(Shape::vector(3).unwrap());
    // Only some readers see the limited values.
    let mut builder = start();
    let z = builder.push(dense(3, 3, 1), &[Source::Input]).unwrap();
    let limited = builder.push(Layer::Clamp(Clamp { limit: 1.0 }), &[z]).unwrap();
    builder.push(Layer::Add, &[z, limited]).unwrap();
    builder.append(dense(2, 3, 2)).unwrap();
    let message = refusal(builder);
    assert!(
        message.contains("layer 1 (clamp)") && message.contains("nothing else reads"),
        "{message}"
    );
    // Activated twice.
    let mut builder = start();
    builder.push(dense(3, 3, 1), &[Source::Input]).unwrap();
    let once = builder.append(Layer::Activation(Activation::Square)).unwrap();
    let twice = builder.push(Layer::Activation(Activation::Relu), &[once]).unwrap();
    builder.push(Layer::Add, &[once, twice]).unwrap();
    builder.append(dense(2, 3, 2)).unwrap();
    assert!(refusal(builder).contains("it must follow a linear layer directly"));
    // The unquantized input is added to something on a grid.
    let mut builder = start();
    let grid = Quantize { steps: ndarray::array![0.1], min: 0, max: 15 };
    let on_grid = builder.push(Layer::Quantize(grid), &[Source::Input]).unwrap();
    let z = builder.push(dense(3, 3, 1), &[on_grid]).unwrap();
    builder.push(Layer::Add, &[z, Source::Input]).unwrap();
    let message = quantize(&builder.finish().unwrap()).unwrap_err().to_string();
    assert!(message.contains("other layers read the values before"), "{message}");
    // Nothing but the input reaches the output.
    let mut builder = start();
    builder.push(Layer::Add, &[Source::Input, Source::Input]).unwrap();
    assert!(quantized(&builder.finish().unwrap(), bits(6)).is_ok(), "2·x is a linear stage");
}
