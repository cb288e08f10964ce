//! The same network on other honest float stacks: what a false alarm would be made of.

use core::fmt;

use ndarray::{Array1, Array2, Axis};
use nn_poly::layer::{Activation, BatchNorm, Layer, Quantize, WeightQuantizer};
use nn_poly::{Network, Predictor};
use rand::seq::SliceRandom;

use super::draws::stream;
use crate::endpoint::{Answers, ScoreKind};
use crate::error::Result;

/// A way to compute the same network that rounds differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FloatVariant {
    /// Everything in 64 bits.
    DoublePrecision,
    /// One sample at a time: other shapes of matrix products.
    OneByOne,
    /// Batch normalization merged into the layers before it.
    FoldedBatchNorm,
    /// Hidden neurons and channels in another order: the same function, sums taken in another order.
    PermutedNeurons {
        /// Seed of the permutations.
        seed: u64,
    },
}

impl FloatVariant {
    /// The variants that false alarms are measured on: 64 bits, one by one, folded, three permutations.
    pub const ALL: [Self; 6] = [
        Self::DoublePrecision,
        Self::OneByOne,
        Self::FoldedBatchNorm,
        Self::PermutedNeurons { seed: 1 },
        Self::PermutedNeurons { seed: 2 },
        Self::PermutedNeurons { seed: 3 },
    ];
}

impl fmt::Display for FloatVariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DoublePrecision => f.write_str("64-bit floats"),
            Self::OneByOne => f.write_str("one sample at a time"),
            Self::FoldedBatchNorm => f.write_str("folded batch normalization"),
            Self::PermutedNeurons { seed } => write!(f, "permuted neurons ({seed})"),
        }
    }
}

/// What honest endpoints that compute in these ways answer to `inputs`, `(samples, features)`.
///
/// Cost: six evaluations of the network.
///
/// # Errors
/// - [`Error::Network`](crate::Error::Network) if the inputs do not fit the network.
pub fn float_variants(
    network: &Network<f32>,
    inputs: &Array2<f32>,
) -> Result<Vec<(FloatVariant, Answers)>> {
    FloatVariant::ALL
        .into_iter()
        .map(|variant| {
            let values = match variant {
                FloatVariant::DoublePrecision => {
                    network.cast::<f64>()?.outputs(&inputs.mapv(f64::from))?
                }
                FloatVariant::OneByOne => {
                    let mut scores = Array2::zeros((inputs.nrows(), network.n_classes()));
                    for (sample, mut row) in inputs
                        .axis_chunks_iter(Axis(0), 1)
                        .zip(scores.axis_chunks_iter_mut(Axis(0), 1))
                    {
                        row.assign(&network.scores(&sample.to_owned())?);
                    }
                    scores
                }
                FloatVariant::FoldedBatchNorm => network.fold_batch_norm()?.scores(inputs)?,
                FloatVariant::PermutedNeurons { seed } => {
                    permuted(network, seed)?.scores(inputs)?
                }
            };
            Ok((variant, Answers::Scores { values, kind: ScoreKind::Logits }))
        })
        .collect()
}

/// The same function with hidden neurons and channels in a random order. Where channels belong
/// together (branches that meet, groups) all keep their order.
///
/// # Errors
/// - [`Error::Network`](crate::Error::Network) never for a checked network.
pub(super) fn permuted(network: &Network<f32>, seed: u64) -> Result<Network<f32>> {
    let is_grouped = |layer: &Layer<f32>| matches!(layer, Layer::Conv2d(conv) if conv.groups > 1);
    if !network.is_sequential() || network.layers().iter().any(is_grouped) {
        return Ok(network.clone());
    }
    let is_linear = |layer: &Layer<f32>| matches!(layer, Layer::Dense(_) | Layer::Conv2d(_));
    let last = network.layers().iter().rposition(is_linear).unwrap_or(0);
    let mut rng = stream(seed, 0);
    // Place `i` of the last axis holds what was at `order[i]`.
    let mut order: Vec<usize> = (0..network.input_shape().channels()).collect();
    let mut layers = Vec::with_capacity(network.layers().len());
    for (idx, layer) in network.layers().iter().enumerate() {
        let mut fresh = |n: usize| {
            let mut order: Vec<usize> = (0..n).collect();
            if idx != last {
                order.shuffle(&mut rng);
            }
            order
        };
        let mut layer = layer.clone();
        #[expect(clippy::wildcard_enum_match_arm, reason = "foreign and growing")]
        match &mut layer {
            Layer::Dense(dense) => {
                let outputs = fresh(dense.bias.len());
                dense.weights = dense.weights.select(Axis(1), &order).select(Axis(0), &outputs);
                dense.bias = dense.bias.select(Axis(0), &outputs);
                reorder_scales(&mut dense.weight_quantizer, &outputs);
                order = outputs;
            }
            Layer::Conv2d(conv) => {
                let outputs = fresh(conv.bias.len());
                conv.weights = conv.weights.select(Axis(3), &order).select(Axis(0), &outputs);
                conv.bias = conv.bias.select(Axis(0), &outputs);
                reorder_scales(&mut conv.weight_quantizer, &outputs);
                order = outputs;
            }
            Layer::BatchNorm(BatchNorm { gamma, beta, running_mean, running_variance, .. }) => {
                for values in [gamma, beta, running_mean, running_variance] {
                    reorder(values, &order);
                }
            }
            Layer::Activation(Activation::Polynomial { a, b, c }) => {
                for values in [a, b, c] {
                    reorder(values, &order);
                }
            }
            Layer::Quantize(Quantize { steps, .. }) => reorder(steps, &order),
            Layer::Flatten => {
                let n = network.layer_shapes().get(idx).map_or(0, nn_poly::Shape::len);
                let n_channels = order.len().max(1);
                let places = (0..n / n_channels).map(|place| place * n_channels);
                order = places.flat_map(|first| order.iter().map(move |i| first + i)).collect();
            }
            // The other layers treat all channels alike.
            _ => {}
        }
        layers.push(layer);
    }
    Ok(Network::new(network.input_shape().clone(), layers)?)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use nn_poly::Shape;
    use nn_poly::network::{ActivationChoice, Architecture, NetworkKind};
    use rand::Rng;

    use super::*;

    #[test]
    fn every_variant_is_the_same_function_but_not_the_same_bits() {
        for (kind, shape) in [
            (NetworkKind::Cryptonets, Shape::image(12, 12, 1).unwrap()),
            (NetworkKind::Securedl, Shape::image(20, 20, 3).unwrap()),
            (NetworkKind::Mlp, Shape::vector(9).unwrap()),
        ] {
            for activation in ActivationChoice::ALL {
                let network: Network<f32> =
                    Architecture::new(kind, activation).build(&shape, 4, 5).unwrap();
                let mut rng = stream(3, 1);
                let inputs = Array2::from_shape_simple_fn((6, shape.len()), || rng.random::<f32>());
                let reference = network.scores(&inputs).unwrap();
                let largest = reference.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
                for (variant, answers) in float_variants(&network, &inputs).unwrap() {
                    let Answers::Scores { values, .. } = answers else { panic!("scores") };
                    for (a, b) in reference.iter().zip(&values) {
                        assert!((a - b).abs() <= 1e-4 * largest, "{kind} {activation} {variant}");
                    }
                    if matches!(variant, FloatVariant::DoublePrecision) {
                        assert_ne!(reference, values, "{kind} {activation}");
                    }
                }
                assert_ne!(permuted(&network, 1).unwrap(), network, "{kind} {activation}");
            }
        }
    }
}
