//! The networks a generation works with.

use nn_poly::layer::{Clamp, Layer};
use nn_poly::{Network, Scalar};

use super::polish::Prediction;
use crate::error::{Error, Result};

/// One network in the forms the steps of a generation need.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    /// Computes what the network computes, in double precision.
    pub(super) exact: Network<f64>,
    /// Without rounding between layers, so that differences mean something.
    pub(super) smooth: Network<f64>,
    /// The same in single precision.
    pub(super) smooth_single: Network<f32>,
}

impl Prepared {
    /// Fold normalization into the weights, as deployment does, and round the weights for good.
    ///
    /// # Errors
    /// - [`Error::UnsuitableNetwork`] if there are fewer than two scores, or no parameters.
    pub(crate) fn new(network: &Network<f32>) -> Result<Self> {
        if network.output_shape().len() < 2 {
            return Err(Error::UnsuitableNetwork { reason: "it has fewer than two scores" });
        }
        if network.n_parameters() == 0 {
            return Err(Error::UnsuitableNetwork { reason: "it has no parameters" });
        }
        let rounded =
            network.with_layers(network.layers().iter().map(with_rounded_weights).collect())?;
        // A normalization that follows no linear layer stays where it is.
        let folded = rounded.fold_batch_norm().unwrap_or(rounded);
        let exact = folded.cast::<f64>()?;
        let smooth = exact.filter_map_layers(|_, layer| without_rounding(layer))?;
        let smooth_single = smooth.cast::<f32>()?;
        Ok(Self { exact, smooth, smooth_single })
    }

    /// The network without rounding between layers, in single precision.
    pub(crate) fn smooth_single(&self) -> &Network<f32> {
        &self.smooth_single
    }

    /// How well the network without rounding predicts the one with it.
    pub(super) fn prediction(&self) -> Prediction {
        let rounds = self.exact.layers().iter().any(|layer| matches!(layer, Layer::Quantize(_)));
        if rounds { Prediction::Coarse } else { Prediction::Good }
    }
}

/// The same layer with its rounded weights as its weights.
fn with_rounded_weights(layer: &Layer<f32>) -> Layer<f32> {
    let mut layer = layer.clone();
    if let Layer::Dense(dense) = &mut layer
        && let Some(quantizer) = dense.weight_quantizer.take()
    {
        dense.weights = quantizer.quantize(&dense.weights);
    }
    if let Layer::Conv2d(conv) = &mut layer
        && let Some(quantizer) = conv.weight_quantizer.take()
    {
        conv.weights = quantizer.quantize(&conv.weights);
    }
    layer
}

/// Rounding becomes its upper limit; the lower one is 0 or out of reach.
fn without_rounding<A: Scalar>(layer: &Layer<A>) -> Option<Layer<A>> {
    if matches!(layer, Layer::Dropout(_)) {
        return None;
    }
    let Layer::Quantize(quantize) = layer else { return Some(layer.clone()) };
    let widest = quantize.steps.iter().fold(A::zero(), |widest, &step| widest.max(step));
    Some(Layer::Clamp(Clamp { limit: widest * A::from_f64(f64::from(quantize.max)) }))
}
