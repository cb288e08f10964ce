//! Folding of batch normalization into the linear layer before it.

use ndarray::{Array, Array1, Axis, Dimension, RemoveAxis};

use super::Network;
use crate::error::{Error, Result};
use crate::layer::{BatchNorm, Layer};
use crate::tensor::Scalar;

impl<A: Scalar> Network<A> {
    /// The same function outside training, without batch normalization and dropout.
    ///
    /// With the running statistics, `γ (W x + b − μ)/√(σ² + ε) + β` is again linear: row `i` of `W` is
    /// multiplied by `g = γ/√(σ² + ε)` and its bias becomes `g (b − μ) + β`. Exact up to rounding, with
    /// zero padding too.
    ///
    /// # Errors
    /// - [`Error::CannotFold`] if a batch normalization does not follow a dense or convolution layer
    ///   directly, or that layer's weights are quantized (fold first, then quantize).
    pub fn fold_batch_norm(&self) -> Result<Self> {
        let mut folded: Vec<Layer<A>> = Vec::with_capacity(self.layers.len());
        for (layer_idx, layer) in self.layers.iter().enumerate() {
            match layer {
                Layer::BatchNorm(norm) => fold_into(folded.last_mut(), norm).map_err(|reason| {
                    Error::CannotFold { layer_idx, layer: layer.name(), reason }
                })?,
                Layer::Dropout(_) => {}
                Layer::Dense(_)
                | Layer::Conv2d(_)
                | Layer::Activation(_)
                | Layer::Pool2d(_)
                | Layer::Flatten
                | Layer::Clamp(_)
                | Layer::Quantize(_) => folded.push(layer.clone()),
            }
        }
        Self::new(self.input_shape.clone(), folded)
    }
}

fn fold_into<A: Scalar>(
    previous: Option<&mut Layer<A>>,
    norm: &BatchNorm<A>,
) -> std::result::Result<(), &'static str> {
    const QUANTIZED: &str = "the weights before it are quantized; fold before quantizing";
    const UNPRECEDED: &str = "it must directly follow a dense or convolution layer";
    match previous {
        Some(Layer::Dense(dense)) => {
            if dense.weight_quantizer.is_some() {
                return Err(QUANTIZED);
            }
            scale_rows(&mut dense.weights, &mut dense.bias, norm);
            Ok(())
        }
        Some(Layer::Conv2d(conv)) => {
            if conv.weight_quantizer.is_some() {
                return Err(QUANTIZED);
            }
            scale_rows(&mut conv.weights, &mut conv.bias, norm);
            Ok(())
        }
        Some(
            Layer::BatchNorm(_)
            | Layer::Activation(_)
            | Layer::Pool2d(_)
            | Layer::Flatten
            | Layer::Clamp(_)
            | Layer::Quantize(_)
            | Layer::Dropout(_),
        )
        | None => Err(UNPRECEDED),
    }
}

fn scale_rows<A: Scalar, D: Dimension + RemoveAxis>(
    weights: &mut Array<A, D>,
    bias: &mut Array1<A>,
    norm: &BatchNorm<A>,
) {
    let (scale, offset) = norm.affine();
    for (mut row, &scale) in weights.axis_iter_mut(Axis(0)).zip(&scale) {
        row.mapv_inplace(|weight| weight * scale);
    }
    *bias *= &scale;
    *bias += &offset;
}
