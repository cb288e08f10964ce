//! The weights of a network one by one, whatever layer they are in.

use ndarray::{Array, Array2, Dimension, RemoveAxis};
use nn_poly::layer::{Layer, Parameter, ParameterKind, WeightQuantizer};
use nn_poly::network::Network;
use rand::{Rng, RngCore};

use crate::error::{Error, Result};

/// The weights of one dense or convolution layer, biases excluded.
#[derive(Debug)]
pub(super) struct WeightTensor<'a> {
    /// Row-major, one row per output channel.
    pub(super) values: &'a mut [f32],
    /// Number of output channels.
    pub(super) n_rows: usize,
    /// The grid the layer rounds its weights to, if any.
    pub(super) quantizer: Option<WeightQuantizer<f32>>,
}

impl WeightTensor<'_> {
    /// Weights of one output channel.
    pub(super) fn row_len(&self) -> usize {
        self.values.len() / self.n_rows.max(1)
    }

    /// Largest magnitude.
    pub(super) fn max_abs(&self) -> f32 {
        self.values.iter().fold(0.0, |max, w| max.max(w.abs()))
    }

    /// Standard deviation.
    pub(super) fn deviation(&self) -> f64 {
        deviation(self.values)
    }

    /// Step of the grid of the weight at `offset`: the layer's own, or that of `bits` bits over the
    /// largest weight.
    pub(super) fn step(&self, offset: usize, bits: u32) -> f32 {
        match &self.quantizer {
            Some(quantizer) => {
                let channel = offset / self.row_len().max(1);
                let scales = &quantizer.scales;
                let position = if scales.len() == 1 { 0 } else { channel };
                scales.get(position).copied().unwrap_or(1.0)
            }
            None => grid_step(self.max_abs(), bits),
        }
    }
}

/// The step of a symmetric grid of `bits` bits that reaches `max_abs`; 1 for all zeros.
pub(super) fn grid_step(max_abs: f32, bits: u32) -> f32 {
    let step = max_abs / max_integer(bits);
    if step.is_normal() { step } else { 1.0 }
}

/// Largest integer of a symmetric grid: `2^(bits−1) − 1`.
pub(super) fn max_integer(bits: u32) -> f32 {
    f32::from((1_i16 << (bits.clamp(2, 15) - 1)) - 1)
}

/// Standard deviation of some weights.
pub(super) fn deviation(values: &[f32]) -> f64 {
    let mean = |sum: f64| super::share(1, values.len()).unwrap_or(0.0) * sum;
    let center = mean(values.iter().map(|&w| f64::from(w)).sum());
    mean(values.iter().map(|&w| (f64::from(w) - center).powi(2)).sum()).sqrt()
}

/// Every weight tensor of a network, in order.
#[expect(clippy::wildcard_enum_match_arm, reason = "only layers with weights matter")]
pub(super) fn tensors(layers: &mut [Layer<f32>]) -> Vec<WeightTensor<'_>> {
    fn tensor<'a, D: Dimension>(
        values: &'a mut Array<f32, D>,
        quantizer: Option<&WeightQuantizer<f32>>,
    ) -> Option<WeightTensor<'a>> {
        let n_rows = values.shape().first().copied().unwrap_or(0);
        let values = values.as_slice_mut()?;
        Some(WeightTensor { values, n_rows, quantizer: quantizer.cloned() })
    }
    layers
        .iter_mut()
        .filter_map(|layer| match layer {
            Layer::Dense(dense) => tensor(&mut dense.weights, dense.weight_quantizer.as_ref()),
            Layer::Conv2d(conv) => tensor(&mut conv.weights, conv.weight_quantizer.as_ref()),
            _ => None,
        })
        .collect()
}

/// Change the weights of a network and check the result.
///
/// # Errors
/// - [`Error::InvalidSetting`] if the network has no weight.
/// - [`Error::Network`] if a weight is no longer finite.
pub(super) fn edit(
    network: &Network<f32>,
    change: impl FnOnce(&mut [WeightTensor<'_>]),
) -> Result<Network<f32>> {
    let mut layers = network.layers().to_vec();
    let mut tensors = tensors(&mut layers);
    if tensors.iter().all(|tensor| tensor.values.is_empty()) {
        let (setting, requirement) = ("number of weights", "at least 1");
        return Err(Error::InvalidSetting { setting, value: 0.0, requirement });
    }
    change(&mut tensors);
    Ok(network.with_layers(layers)?)
}

/// A weight drawn uniformly from all of them: tensor and offset.
pub(super) fn draw_place(tensors: &[WeightTensor<'_>], rng: &mut dyn RngCore) -> (usize, usize) {
    let n_weights: usize = tensors.iter().map(|tensor| tensor.values.len()).sum();
    place(tensors, rng.random_range(0..n_weights.max(1)))
}

/// Tensor and offset of weight `index`, counted through all tensors.
pub(super) fn place(tensors: &[WeightTensor<'_>], index: usize) -> (usize, usize) {
    let mut offset = index;
    for (tensor_idx, tensor) in tensors.iter().enumerate() {
        match offset.checked_sub(tensor.values.len()) {
            Some(rest) => offset = rest,
            None => return (tensor_idx, offset),
        }
    }
    unreachable!("invariant: the index is below the number of weights")
}

/// A standard normal number.
///
/// # Source
/// Box and Muller 1958.
pub(super) fn standard_normal(rng: &mut dyn RngCore) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

/// The nearest single-precision number.
#[expect(clippy::cast_possible_truncation, reason = "rounds to nearest")]
pub(super) fn single(value: f64) -> f32 {
    value as f32
}

/// How far two networks of the same layers are apart.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Change {
    pub(super) n_changed: u64,
    pub(super) n_values: u64,
    pub(super) largest: f64,
}

/// Compare all parameters as the networks use them.
pub(super) fn compare(before: &Network<f32>, after: &Network<f32>) -> Change {
    let mut change = Change::default();
    for (before, after) in before.layers().iter().zip(after.layers()) {
        for (before, after) in used_parameters(before).iter().zip(&used_parameters(after)) {
            for (&before, &after) in before.iter().zip(after) {
                change.n_values += 1;
                change.n_changed += u64::from(before != after);
                change.largest = change.largest.max((f64::from(after) - f64::from(before)).abs());
            }
        }
    }
    change
}

/// The parameters of a layer after the rounding it applies to them.
#[expect(clippy::wildcard_enum_match_arm, reason = "only layers with weights matter")]
fn used_parameters(layer: &Layer<f32>) -> Vec<Vec<f32>> {
    fn rounded<D: Dimension + RemoveAxis>(
        weights: &Array<f32, D>,
        quantizer: &WeightQuantizer<f32>,
    ) -> Vec<f32> {
        quantizer.quantize(weights).iter().copied().collect()
    }
    let mut weights = match layer {
        Layer::Dense(dense) => {
            dense.weight_quantizer.as_ref().map(|quantizer| rounded(&dense.weights, quantizer))
        }
        Layer::Conv2d(conv) => {
            conv.weight_quantizer.as_ref().map(|quantizer| rounded(&conv.weights, quantizer))
        }
        _ => None,
    };
    let as_stored = |parameter: &Parameter<'_, f32>| parameter.values.iter().copied().collect();
    let parameters = layer.parameters();
    parameters
        .iter()
        .map(|parameter| match parameter.kind {
            ParameterKind::Weight => weights.take().unwrap_or_else(|| as_stored(parameter)),
            ParameterKind::Offset => as_stored(parameter),
        })
        .collect()
}

/// The weights of a tensor as a matrix of one row per output channel.
pub(super) fn matrix(tensor: &WeightTensor<'_>) -> Array2<f64> {
    let row_len = tensor.row_len();
    Array2::from_shape_fn((tensor.n_rows, row_len), |(row, column)| {
        tensor.values.get(row * row_len + column).copied().map_or(0.0, f64::from)
    })
}

/// That share of `whole`, rounded, but at least one and at most all.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a count far below 2^53"
)]
pub(super) fn count_of(share: f64, whole: usize) -> usize {
    ((share * whole as f64).round() as usize).max(1).min(whole)
}

/// A whole-numbered dial.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "dials are checked and at most a million"
)]
pub(super) fn whole(strength: f64) -> u32 {
    strength as u32
}
