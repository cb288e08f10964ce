#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "tests")]

use ndarray::array;
use proptest::prelude::*;

use super::*;
use crate::layer::{BatchNorm, Pool2d};
use crate::tensor::Tensor;

const N_CHANNELS: usize = 2;

fn shape() -> Shape {
    Shape::image(4, 4, N_CHANNELS).unwrap()
}

fn convolution(values: &[f32], padding: usize) -> Layer<f32> {
    let weights = Array4::from_shape_fn((N_CHANNELS, 3, 3, N_CHANNELS), |(o, u, v, c)| {
        values[(7 * o + 5 * u + 3 * v + c) % values.len()]
    });
    Layer::Conv2d(Conv2d::new(weights, array![0.5, -0.25], (1, 1), Padding::uniform(padding)))
}

/// The layer that computes an affine map as it is written.
fn normalization(affine: &Affine) -> Layer<f32> {
    let mut norm = BatchNorm::new(N_CHANNELS, 1.0, 0.0);
    norm.running_variance.fill(0.0);
    norm.epsilon = 1.0;
    norm.gamma = (0..N_CHANNELS).map(|i| single(entry(&affine.scale, i))).collect();
    norm.beta = (0..N_CHANNELS).map(|i| single(entry(&affine.offset, i))).collect();
    Layer::BatchNorm(norm)
}

fn outputs(network: &Network<f32>, seed: u32) -> Vec<f32> {
    let mut tensor = Tensor::zeros(network.input_shape().clone(), 2);
    let values = tensor.values_mut();
    for (i, value) in values.into_iter().enumerate() {
        *value = ((i as u32 * 37 + seed) % 19) as f32 / 9.0 - 1.0;
    }
    network.forward(&tensor).unwrap().into_values().into_iter().collect()
}

/// Folded or not, the function is that of the steps taken one by one.
fn check(affines: &[Affine], weights: &[f32], padding: usize, middle: &Layer<f32>, seed: u32) {
    let affine = |i: usize| affines[i % affines.len()].clone();
    let layers = [
        convolution(weights, padding),
        Layer::Pool2d(Pool2d::tiles(PoolKind::Average, (2, 2))),
        middle.clone(),
        convolution(weights, 1),
    ];
    let mut steps = Vec::new();
    let mut reference = Vec::new();
    for (i, layer) in layers.iter().enumerate() {
        steps.extend([Step::Layer(layer.clone()), Step::Affine(affine(i))]);
        reference.extend([layer.clone(), normalization(&affine(i))]);
    }
    let shape = shape();
    let assembled = assemble(&shape, steps, &mut Budget::for_files_of(0)).unwrap();
    assert!(assembled.input.is_identity());
    let reference = Network::new(shape, reference).unwrap();
    let (actual, expected) = (outputs(&assembled.network, seed), outputs(&reference, seed));
    for (actual, expected) in actual.iter().zip(&expected) {
        assert!((actual - expected).abs() <= 1e-4 * (1.0 + expected.abs()), "{actual} {expected}");
    }
}

proptest! {
    #[test]
    fn folding_changes_nothing(
        scales in prop::collection::vec(-2.0..2.0_f64, 2..6),
        offsets in prop::collection::vec(-1.0..1.0_f64, 2..6),
        weights in prop::collection::vec(-1.0..1.0_f32, 3..20),
        padding in 0_usize..2,
        seed in any::<u32>(),
    ) {
        let affines: Vec<Affine> = scales
            .iter()
            .zip(&offsets)
            .map(|(&s, &o)| Affine { scale: vec![s, -s], offset: vec![o] })
            .collect();
        let c = array![0.5, 0.25];
        let polynomial = Activation::Polynomial { a: array![0.5, -1.0], b: array![1.0, 0.0], c };
        for middle in [Activation::Relu, Activation::Square, polynomial] {
            check(&affines, &weights, padding, &Layer::Activation(middle), seed % 1000);
        }
    }
}

#[test]
fn a_map_of_the_input_is_kept_apart() {
    let first = Affine { scale: vec![2.0, 3.0], offset: vec![1.0] };
    let second = Affine { scale: vec![5.0], offset: vec![0.5, -0.5] };
    let steps = vec![Step::Affine(first), Step::Affine(second), Step::Layer(Layer::Flatten)];
    let assembled = assemble(&shape(), steps, &mut Budget::for_files_of(0)).unwrap();
    assert_eq!(assembled.network.layers().len(), 1);
    let expected = Affine { scale: vec![10.0, 15.0], offset: vec![5.5, 4.5] };
    assert_eq!(assembled.input, expected);
}

/// Zero padding must stay zero: only maps that keep zero may move into a padded convolution.
#[test]
fn offsets_do_not_move_into_padded_convolutions() {
    let network = Network::new(shape(), vec![convolution(&[0.5, -1.0, 0.25], 1)]).unwrap();
    let affine = Affine { scale: vec![2.0, 0.5], offset: vec![1.0, -1.0] };
    let mut budget = Budget::for_files_of(0);
    let folded = with_input_affine(&network, affine.clone(), &mut budget).unwrap();
    assert_eq!(folded.layers().len(), 2);
    let layers = [vec![normalization(&affine)], network.layers().to_vec()].concat();
    let reference = Network::new(shape(), layers).unwrap();
    for (actual, expected) in outputs(&folded, 3).iter().zip(outputs(&reference, 3)) {
        assert!((actual - expected).abs() < 1e-5);
    }
    let scale_only = Affine { scale: vec![2.0, 0.5], offset: vec![0.0] };
    assert_eq!(with_input_affine(&network, scale_only, &mut budget).unwrap().layers().len(), 1);
}

#[test]
fn one_score_becomes_two_of_opposite_sign() {
    let dense = Layer::Dense(Dense::new(array![[1.0, -2.0]], array![0.5]));
    for layers in [vec![dense.clone()], vec![dense, Layer::Activation(Activation::Square)]] {
        let network = Network::new(Shape::vector(2).unwrap(), layers).unwrap();
        let single = outputs(&network, 1);
        let n_layers = network.layers().len();
        let pairs = mirrored(&network).unwrap();
        assert_eq!(pairs.layers().len(), if n_layers == 1 { 1 } else { 3 });
        for (pair, z) in outputs(&pairs, 1).chunks(2).zip(single) {
            assert_eq!(pair, [-z, z]);
        }
    }
}

#[test]
fn weights_beyond_the_budget_are_refused() {
    let mut budget = Budget::for_files_of(100);
    assert!(budget.take(String::new, 1 << 24).is_ok());
    assert!(matches!(
        budget.take(|| "it".into(), 101),
        Err(ImportError::TooLarge { limit, .. }) if limit == (1 << 24) + 100
    ));
    assert!(budget.take(String::new, 100).is_ok());
}

#[test]
fn flattened_images_are_permuted() {
    let order = Order::of_flattened(2, 3);
    let positions: Vec<usize> = (0..6).map(|idx| order.position(idx)).collect();
    assert_eq!(positions, [0, 3, 1, 4, 2, 5]);
    assert_eq!(Order::of_flattened(1, 9), Order::Same);
    assert_eq!(Order::of_flattened(9, 1), Order::Same);
}
