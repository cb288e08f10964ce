//! Compression: fewer bits per weight, or fewer weights.
//!
//! # Source
//! He, Zhang and Lee 2019, section 5.1 (precision reduced to a quarter, then retrained); Han et al.
//! 2015, "Learning both Weights and Connections for Efficient Neural Networks" (magnitude pruning).

use ndarray::Array1;
use nn_poly::layer::{Layer, WeightQuantizer};
use nn_poly::network::Network;
use nn_poly::train::TrainableParameters;

use super::retrain::{Duration, Retraining};
use super::weights::{self, count_of, grid_step, whole};
use super::{
    Aftermath, AttackData, AttackOptions, AttackSuccess, MAX_ACCURACY_LOSS, Method, SuccessName,
    Tools, share,
};
use crate::error::Result;

/// Bits of a weight before compression.
const FLOAT_BITS: f64 = 32.0;
/// By how much a saving may fall short because counts are whole.
const SAVING_TOLERANCE: f64 = 0.01;

/// The success of a compression that saved `saved` and was to save `wanted`.
pub(super) fn judge_saving(aftermath: &Aftermath<'_>, saved: f64, wanted: f64) -> AttackSuccess {
    AttackSuccess::judge(
        SuccessName::SavedStorage,
        (saved, wanted - SAVING_TOLERANCE),
        (aftermath.loss(|_| true), MAX_ACCURACY_LOSS),
    )
}

/// Weights on a symmetric grid per layer, which reaches the layer's largest weight.
#[derive(Clone, Debug)]
pub(super) struct Precision {
    bits: u32,
    /// Training through the rounding before it becomes final.
    retraining: Option<Retraining>,
}

impl Precision {
    pub(super) fn retrained(bits: f64, duration: Duration, options: &AttackOptions) -> Self {
        Self { bits: whole(bits), retraining: Some(Retraining::new(duration, options)) }
    }

    pub(super) fn rounded(bits: f64) -> Self {
        Self { bits: whole(bits), retraining: None }
    }

    /// The quantizer of a layer whose own grid, if any, is finer; `None` if it is coarse already.
    fn coarser(
        &self,
        present: Option<&WeightQuantizer<f32>>,
        max_abs: f32,
    ) -> Option<WeightQuantizer<f32>> {
        if present.is_some_and(|present| present.bits <= self.bits) {
            return None;
        }
        let scales = Array1::from_elem(1, grid_step(max_abs, self.bits));
        Some(WeightQuantizer { scales, bits: self.bits })
    }

    /// The network with this precision's quantizers, and which layers had none before.
    #[expect(clippy::wildcard_enum_match_arm, reason = "only layers with weights matter")]
    fn quantized(&self, network: &Network<f32>) -> Result<(Network<f32>, Vec<bool>)> {
        let largest = |values: &mut dyn Iterator<Item = &f32>| {
            values.fold(0.0_f32, |max, weight| max.max(weight.abs()))
        };
        let mut layers = network.layers().to_vec();
        let mut is_new = vec![false; layers.len()];
        for (layer, is_new) in layers.iter_mut().zip(&mut is_new) {
            let (max_abs, quantizer) = match layer {
                Layer::Dense(dense) => {
                    (largest(&mut dense.weights.iter()), &mut dense.weight_quantizer)
                }
                Layer::Conv2d(conv) => {
                    (largest(&mut conv.weights.iter()), &mut conv.weight_quantizer)
                }
                _ => continue,
            };
            if let Some(coarser) = self.coarser(quantizer.as_ref(), max_abs) {
                *is_new = quantizer.is_none();
                *quantizer = Some(coarser);
            }
        }
        Ok((network.with_layers(layers)?, is_new))
    }
}

/// Make the rounding of some layers final and take their quantizers away.
#[expect(clippy::wildcard_enum_match_arm, reason = "only layers with weights matter")]
fn settle(network: &Network<f32>, is_new: &[bool]) -> Result<Network<f32>> {
    let mut layers = network.layers().to_vec();
    for (layer, _) in layers.iter_mut().zip(is_new).filter(|(_, is_new)| **is_new) {
        match layer {
            Layer::Dense(dense) => {
                if let Some(quantizer) = dense.weight_quantizer.take() {
                    dense.weights = quantizer.quantize(&dense.weights);
                }
            }
            Layer::Conv2d(conv) => {
                if let Some(quantizer) = conv.weight_quantizer.take() {
                    conv.weights = quantizer.quantize(&conv.weights);
                }
            }
            _ => {}
        }
    }
    Ok(network.with_layers(layers)?)
}

impl Method for Precision {
    fn tamper(
        &self,
        deployed: &Network<f32>,
        data: &AttackData<'_>,
        tools: &mut Tools<'_>,
    ) -> Result<Network<f32>> {
        let (mut network, is_new) = self.quantized(deployed)?;
        if let Some(retraining) = &self.retraining {
            network = retraining.run(network, data.train(), None, tools)?;
        }
        settle(&network, &is_new)
    }

    fn success(&self, aftermath: &Aftermath<'_>) -> Result<Option<AttackSuccess>> {
        let saved = 1.0 - f64::from(self.bits) / FLOAT_BITS;
        Ok(Some(judge_saving(aftermath, saved, saved)))
    }
}

/// The smallest weights of each layer at zero.
#[derive(Clone, Debug)]
pub(super) struct Prune {
    share: f64,
    retraining: Retraining,
}

impl Prune {
    pub(super) fn new(share: f64, duration: Duration, options: &AttackOptions) -> Self {
        Self { share, retraining: Retraining::repairing(duration, options) }
    }
}

/// Set the `n` smallest values to zero; of equal ones, the first.
fn remove_smallest(values: &mut [f32], n: usize) {
    let mut order: Vec<usize> = (0..values.len()).collect();
    let magnitude = |&position: &usize| values.get(position).map_or(0.0, |weight| weight.abs());
    order.sort_by(|a, b| magnitude(a).total_cmp(&magnitude(b)));
    for position in order.into_iter().take(n) {
        if let Some(weight) = values.get_mut(position) {
            *weight = 0.0;
        }
    }
}

impl Method for Prune {
    fn tamper(
        &self,
        deployed: &Network<f32>,
        data: &AttackData<'_>,
        tools: &mut Tools<'_>,
    ) -> Result<Network<f32>> {
        let pruned = weights::edit(deployed, |tensors| {
            for tensor in tensors {
                let n_removed = count_of(self.share, tensor.values.len());
                remove_smallest(tensor.values, n_removed);
            }
        })?;
        let trainable = TrainableParameters::non_zero_weights(&pruned);
        self.retraining.run(pruned, data.train(), Some(trainable), tools)
    }

    fn success(&self, aftermath: &Aftermath<'_>) -> Result<Option<AttackSuccess>> {
        let mut layers = aftermath.after.layers().to_vec();
        let tensors = weights::tensors(&mut layers);
        let n_weights = tensors.iter().map(|tensor| tensor.values.len()).sum();
        let n_zero = tensors.iter().flat_map(|tensor| tensor.values.iter());
        let n_zero = n_zero.filter(|weight| **weight == 0.0).count();
        Ok(share(n_zero, n_weights).map(|saved| judge_saving(aftermath, saved, self.share)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_weights_go_first() {
        let mut values = [0.5, -0.1, 0.0, -0.9, 0.2, 0.1];
        remove_smallest(&mut values, 3);
        assert_eq!(values, [0.5, 0.0, 0.0, -0.9, 0.2, 0.0]);
        remove_smallest(&mut values, 6);
        assert_eq!(values, [0.0; 6]);
    }

    #[test]
    fn a_grid_that_is_coarse_already_stays() {
        let precision = Precision::rounded(8.0);
        let present = |bits| WeightQuantizer { scales: Array1::from_elem(1, 0.5), bits };
        assert!(precision.coarser(Some(&present(4)), 1.0).is_none());
        assert!(precision.coarser(Some(&present(8)), 1.0).is_none());
        let coarser = precision.coarser(Some(&present(9)), 127.0).unwrap();
        assert_eq!((coarser.bits, coarser.scales[0]), (8, 1.0));
        assert_eq!(precision.coarser(None, 0.0).unwrap().scales[0], 1.0);
    }
}
