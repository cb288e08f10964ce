//! Hidden channels in another order: the same function, sums taken in another order.

use ndarray::{Array1, Axis};
use nn_poly::Network;
use nn_poly::layer::{Activation, BatchNorm, Layer, Quantize, WeightQuantizer};
use nn_poly::network::Source;
use rand::RngCore;
use rand::seq::SliceRandom;

use super::draws::stream;
use crate::error::Result;

/// The same function with hidden neurons and channels in a random order.
///
/// Channels of values that are added to each other move together. Those of inputs and scores stay, and
/// so do those that a convolution in groups reads or writes.
///
/// # Errors
/// - [`Error::Network`](crate::Error::Network) never for a checked network.
pub(super) fn permuted(network: &Network<f32>, seed: u64) -> Result<Network<f32>> {
    let mut bundles = Bundles::of(network);
    let mut rng = stream(seed, 0);
    // By value: place `i` of the last axis holds what was at `order[i]`.
    let mut orders: Vec<Vec<usize>> = vec![identity(network.input_shape().channels())];
    let mut layers = Vec::with_capacity(network.layers().len());
    for (idx, layer) in network.layers().iter().enumerate() {
        let read: Vec<&[usize]> =
            network.sources(idx).iter().map(|source| order_of(&orders, *source)).collect();
        #[expect(clippy::wildcard_enum_match_arm, reason = "foreign and growing")]
        let order = match layer {
            Layer::Dense(_) | Layer::Conv2d(_) => {
                let n = network.layer_shapes().get(idx + 1).map_or(0, nn_poly::Shape::channels);
                bundles.order_of_layer(idx, n, &mut rng)
            }
            Layer::Flatten => {
                let n_channels = read.first().map_or(1, |order| order.len().max(1));
                let n = network.layer_shapes().get(idx + 1).map_or(0, nn_poly::Shape::len);
                let places = (0..n / n_channels).map(|place| place * n_channels);
                let order = read.first().copied().unwrap_or_default();
                places.flat_map(|first| order.iter().map(move |i| first + i)).collect()
            }
            Layer::Concat => concatenated(&read),
            _ => read.first().copied().unwrap_or_default().to_vec(),
        };
        let input = read.first().copied().unwrap_or_default();
        layers.push(reordered(layer.clone(), input, &order));
        orders.push(order);
    }
    Ok(network.with_layers(layers)?)
}

fn identity(n: usize) -> Vec<usize> {
    (0..n).collect()
}

fn order_of(orders: &[Vec<usize>], source: Source) -> &[usize] {
    orders.get(source.value_idx()).map_or(&[], Vec::as_slice)
}

/// The order of joined channels, each value's behind those before.
fn concatenated(orders: &[&[usize]]) -> Vec<usize> {
    let mut all = Vec::new();
    for order in orders {
        let first = all.len();
        all.extend(order.iter().map(|i| first + i));
    }
    all
}

/// A layer whose inputs come in the order `input` and whose outputs leave in the order `output`.
fn reordered(mut layer: Layer<f32>, input: &[usize], output: &[usize]) -> Layer<f32> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "foreign and growing")]
    match &mut layer {
        Layer::Dense(dense) => {
            dense.weights = dense.weights.select(Axis(1), input).select(Axis(0), output);
            dense.bias = dense.bias.select(Axis(0), output);
            reorder_scales(&mut dense.weight_quantizer, output);
        }
        // Nothing moves beside a convolution in groups.
        Layer::Conv2d(conv) if conv.groups == 1 => {
            conv.weights = conv.weights.select(Axis(3), input).select(Axis(0), output);
            conv.bias = conv.bias.select(Axis(0), output);
            reorder_scales(&mut conv.weight_quantizer, output);
        }
        Layer::BatchNorm(BatchNorm { gamma, beta, running_mean, running_variance, .. }) => {
            for values in [gamma, beta, running_mean, running_variance] {
                reorder(values, output);
            }
        }
        Layer::Activation(Activation::Polynomial { a, b, c }) => {
            [a, b, c].into_iter().for_each(|values| reorder(values, output));
        }
        Layer::Activation(Activation::Blend(blend)) => {
            let all = [&mut blend.a, &mut blend.b, &mut blend.c];
            all.into_iter().for_each(|values| reorder(values, output));
        }
        Layer::Quantize(Quantize { steps, .. }) => reorder(steps, output),
        // The other layers treat all channels alike.
        _ => {}
    }
    layer
}

fn reorder_scales(quantizer: &mut Option<WeightQuantizer<f32>>, order: &[usize]) {
    if let Some(quantizer) = quantizer {
        reorder(&mut quantizer.scales, order);
    }
}

/// One entry per channel is reordered, one for all stays.
fn reorder(values: &mut Array1<f32>, order: &[usize]) {
    if values.len() == order.len() {
        *values = values.select(Axis(0), order);
    }
}

/// Which layers must write their channels in one order.
struct Bundles {
    /// By value: a representative of its bundle, or itself. Value 0 stands for "in place".
    parents: Vec<usize>,
    /// By value: the bundle's order, once drawn; kept at the representative.
    drawn: Vec<Option<Vec<usize>>>,
}

/// Where the channels of a value were written.
#[derive(Clone)]
struct Origins {
    /// Values written by linear layers, or the input.
    values: Vec<usize>,
    /// Whether the channels are those of the one origin, neither flattened nor joined.
    is_plain: bool,
}

impl Bundles {
    fn of(network: &Network<f32>) -> Self {
        let n_values = network.layers().len() + 1;
        let mut bundles = Self { parents: identity(n_values), drawn: vec![None; n_values] };
        let mut origins = vec![Origins { values: vec![0], is_plain: true }];
        for (idx, layer) in network.layers().iter().enumerate() {
            let read: Vec<Origins> = network
                .sources(idx)
                .iter()
                .filter_map(|source| origins.get(source.value_idx()).cloned())
                .collect();
            let all = || read.iter().flat_map(|from| from.values.iter().copied()).collect();
            #[expect(clippy::wildcard_enum_match_arm, reason = "foreign and growing")]
            let origin = match layer {
                Layer::Dense(_) => Origins { values: vec![idx + 1], is_plain: true },
                Layer::Conv2d(conv) => {
                    if conv.groups > 1 {
                        bundles.unite_all(0, &read);
                        bundles.unite(0, idx + 1);
                    }
                    Origins { values: vec![idx + 1], is_plain: true }
                }
                Layer::Add => {
                    // Orders of joined or flattened channels are not drawn, so they stay in place.
                    let is_plain = read.iter().all(|from| from.is_plain);
                    let first = read.first().and_then(|from| from.values.first().copied());
                    bundles.unite_all(if is_plain { first.unwrap_or(0) } else { 0 }, &read);
                    Origins { values: all(), is_plain }
                }
                Layer::Flatten | Layer::Concat => Origins { values: all(), is_plain: false },
                _ => read.first().cloned().unwrap_or(Origins { values: vec![0], is_plain: true }),
            };
            origins.push(origin);
        }
        bundles.unite_all(0, origins.last().map_or(&[], std::slice::from_ref));
        bundles
    }

    fn unite_all(&mut self, with: usize, origins: &[Origins]) {
        for &value in origins.iter().flat_map(|from| &from.values) {
            self.unite(with, value);
        }
    }

    /// Put two values into one bundle; the smaller number represents it, so that 0 always does.
    fn unite(&mut self, a: usize, b: usize) {
        let (a, b) = (self.representative(a), self.representative(b));
        if let Some(parent) = self.parents.get_mut(a.max(b)) {
            *parent = a.min(b);
        }
    }

    fn representative(&self, mut value: usize) -> usize {
        while let Some(&parent) = self.parents.get(value) {
            if parent == value {
                break;
            }
            value = parent;
        }
        value
    }

    /// The order in which layer `layer_idx` writes its `n` channels.
    fn order_of_layer(&mut self, layer_idx: usize, n: usize, rng: &mut impl RngCore) -> Vec<usize> {
        let bundle = self.representative(layer_idx + 1);
        let Some(drawn) = self.drawn.get_mut(bundle).filter(|_| bundle > 0) else {
            return identity(n);
        };
        let order = drawn.get_or_insert_with(|| {
            let mut order = identity(n);
            order.shuffle(rng);
            order
        });
        order.clone()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use ndarray::Array2;
    use nn_poly::layer::{Conv2d, Dense, Padding, Pool2d, PoolKind};
    use nn_poly::network::NetworkBuilder;
    use nn_poly::{Predictor, Shape};
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    struct Draft {
        builder: NetworkBuilder<f32>,
        rng: ChaCha8Rng,
    }

    impl Draft {
        fn conv(&mut self, n: usize, groups: usize, source: Source) -> Source {
            let n_in = self.builder.shape(source).unwrap().channels();
            let weights = ndarray::Array4::from_shape_simple_fn((n, 3, 3, n_in / groups), || {
                self.rng.random_range(-0.5..0.5)
            });
            let bias = Array1::from_shape_simple_fn(n, || self.rng.random_range(-0.5..0.5));
            let conv = Conv2d::new(weights, bias, (1, 1), Padding::uniform(1)).with_groups(groups);
            let norm = BatchNorm {
                running_mean: Array1::from_shape_simple_fn(n, || self.rng.random_range(-0.5..0.5)),
                ..BatchNorm::new(n, 1.5, 0.25)
            };
            let value = self.builder.push(Layer::Conv2d(conv), &[source]).unwrap();
            let value = self.builder.push(Layer::BatchNorm(norm), &[value]).unwrap();
            self.builder.push(Layer::Activation(Activation::Relu), &[value]).unwrap()
        }
    }

    /// A residual block, grouped channels, joined channels that are added to a plain value.
    fn branched() -> Network<f32> {
        let builder = NetworkBuilder::new(Shape::image(6, 5, 3).unwrap());
        let mut draft = Draft { builder, rng: ChaCha8Rng::seed_from_u64(4) };
        let stem = draft.conv(6, 1, Source::Input);
        let inner = draft.conv(6, 1, stem);
        let sum = draft.builder.push(Layer::Add, &[inner, stem]).unwrap();
        let grouped = draft.conv(4, 2, sum);
        let free = draft.conv(5, 1, grouped);
        let (left, right) = (draft.conv(2, 1, free), draft.conv(3, 1, free));
        let joined = draft.builder.push(Layer::Concat, &[left, right]).unwrap();
        let both = draft.conv(5, 1, free);
        let sum = draft.builder.push(Layer::Add, &[joined, both]).unwrap();
        let late = draft.conv(4, 1, sum);
        let pool = Layer::Pool2d(Pool2d::tiles(PoolKind::Average, (2, 2)));
        let pooled = draft.builder.push(pool, &[late]).unwrap();
        let flat = draft.builder.push(Layer::Flatten, &[pooled]).unwrap();
        let n = draft.builder.shape(flat).unwrap().len();
        let weights = Array2::from_shape_simple_fn((3, n), || draft.rng.random_range(-0.5..0.5));
        draft.builder.push(Layer::Dense(Dense::new(weights, Array1::zeros(3))), &[flat]).unwrap();
        draft.builder.finish().unwrap()
    }

    #[test]
    fn branches_stay_the_same_function() {
        let network = branched();
        let mut rng = stream(2, 7);
        let inputs = Array2::from_shape_simple_fn((8, 90), || rng.random::<f32>());
        let expected = network.scores(&inputs).unwrap();
        let largest = expected.iter().fold(0.0_f64, |most, z| most.max(z.abs()));
        for seed in 0..8 {
            let other = permuted(&network, seed).unwrap();
            let moved: Vec<usize> = network
                .layers()
                .iter()
                .zip(other.layers())
                .enumerate()
                .filter(|(_, (before, after))| before != after)
                .map(|(idx, _)| idx)
                .collect();
            assert!(moved.len() >= 4, "channels move: {moved:?}");
            for (a, b) in expected.iter().zip(&other.scores(&inputs).unwrap()) {
                assert!((a - b).abs() <= 1e-4 * largest, "{seed}: {a} {b}");
            }
        }
    }

    #[test]
    fn channels_that_meet_move_together() {
        let network = branched();
        let bundles = Bundles::of(&network);
        let linear: Vec<usize> = network
            .layers()
            .iter()
            .enumerate()
            .filter(|(_, layer)| matches!(layer, Layer::Conv2d(_) | Layer::Dense(_)))
            .map(|(idx, _)| bundles.representative(idx + 1))
            .collect();
        // Stem and block feed the groups; the joined channels and their sum stay; two are free.
        let stays = |position: usize| linear.get(position) == Some(&0);
        let expected = [true, true, true, false, true, true, true, false, true];
        assert_eq!((0..linear.len()).map(stays).collect::<Vec<_>>(), expected);
    }
}
