//! Folding of batch normalization into the linear layer before it, or into one of its own.

use ndarray::{Array, Array1, Array2, Array4, Axis, Dimension, RemoveAxis};

use super::{Network, Rewriter, Source};
use crate::error::{Error, Result};
use crate::layer::{BatchNorm, Conv2d, Dense, Layer, Padding};
use crate::tensor::{Scalar, Shape};

/// Most weights of a dense layer that takes the place of a batch normalization.
const MAX_DIAGONAL: usize = 1 << 24;

impl<A: Scalar> Network<A> {
    /// The same function outside training, without batch normalization and dropout.
    ///
    /// With the running statistics, `γ (W x + b − μ)/√(σ² + ε) + β` is again linear: row `i` of `W` is
    /// multiplied by `g = γ/√(σ² + ε)` and its bias becomes `g (b − μ) + β`. Exact up to rounding, with
    /// zero padding too. After an addition of linear layers, each of them is multiplied by `g`. After
    /// anything else, or a linear layer that feeds others too, it becomes a depthwise 1×1 convolution
    /// (of vectors: a dense layer with a diagonal matrix), which is a stage of its own in integers.
    ///
    /// # Errors
    /// - [`Error::CannotFold`] if the weights before a batch normalization are quantized (fold first,
    ///   then quantize), or it would take a dense layer of more than 2^24 weights.
    pub fn fold_batch_norm(&self) -> Result<Self> {
        let n_readers = self.reader_counts();
        let mut rewriter = Rewriter::new(self.input_shape.clone());
        for (layer_idx, (layer, sources)) in self.layers.iter().zip(&self.sources).enumerate() {
            match (layer, sources.as_slice()) {
                (Layer::BatchNorm(norm), &[source]) => {
                    let cannot = |reason| {
                        let layer = layer.name();
                        Error::CannotFold { layer_idx, layer, reason }
                    };
                    let mut linear = Vec::new();
                    if self.linear_layers(source, &n_readers, &mut linear).is_err() {
                        let shape = self.shapes.get(source.value_idx());
                        let shape = shape.unwrap_or(&self.input_shape);
                        rewriter.keep(own_layer(norm, shape).map_err(cannot)?, sources)?;
                        continue;
                    }
                    let places: Vec<_> = linear.into_iter().map(|s| rewriter.place(s)).collect();
                    fold_into(rewriter.builder.layers_mut(), &places, norm).map_err(cannot)?;
                    rewriter.skip(source);
                }
                (Layer::Dropout(_), &[source]) => rewriter.skip(source),
                (layer, sources) => rewriter.keep(layer.clone(), sources)?,
            }
        }
        // Folding multiplied weights in place: check them again.
        let folded = rewriter.finish()?;
        folded.with_layers(folded.layers.clone())
    }

    /// Whether a value is that of a dense layer or convolution, or a sum of such, and nothing reads them
    /// in between: a batch normalization of it can be folded.
    pub(crate) fn is_sum_of_linear(&self, value: Source) -> bool {
        self.linear_layers(value, &self.reader_counts(), &mut Vec::new()).is_ok()
    }

    /// The dense and convolution layers whose sum a value is, if nothing else reads them.
    fn linear_layers(
        &self,
        value: Source,
        n_readers: &[usize],
        found: &mut Vec<Source>,
    ) -> std::result::Result<(), &'static str> {
        const UNPRECEDED: &str = "it must directly follow a dense or convolution layer";
        const SHARED: &str = "the linear layer before it feeds other layers too";
        let Source::Layer(layer_idx) = value else { return Err(UNPRECEDED) };
        match self.layers.get(layer_idx) {
            Some(Layer::Dense(_) | Layer::Conv2d(_)) => found.push(value),
            Some(Layer::Dropout(_) | Layer::Add) => {
                for &source in self.sources(layer_idx) {
                    self.linear_layers(source, n_readers, found)?;
                }
            }
            _ => return Err(UNPRECEDED),
        }
        match n_readers.get(value.value_idx()) {
            Some(1) => Ok(()),
            _ => Err(SHARED),
        }
    }
}

/// The linear layer that computes a batch normalization of values of `shape`.
fn own_layer<A: Scalar>(
    norm: &BatchNorm<A>,
    shape: &Shape,
) -> std::result::Result<Layer<A>, &'static str> {
    const WIDE: &str =
        "it would take a dense layer of too many weights; normalize after linear layers";
    let (scale, offset) = norm.affine();
    let n = offset.len();
    let factor = |channel: usize| scale.get(channel).copied().unwrap_or_else(A::one);
    if shape.as_image().is_some() {
        let weights = Array4::from_shape_fn((n, 1, 1, 1), |(channel, ..)| factor(channel));
        let conv = Conv2d::new(weights, offset, (1, 1), Padding::NONE);
        return Ok(Layer::Conv2d(conv.with_groups(n)));
    }
    if n.saturating_mul(n) > MAX_DIAGONAL {
        return Err(WIDE);
    }
    let entry = |(i, j)| if i == j { factor(i) } else { A::zero() };
    Ok(Layer::Dense(Dense::new(Array2::from_shape_fn((n, n), entry), offset)))
}

/// Multiply the rows of linear layers whose sum is normalized; the first takes the offset.
fn fold_into<A: Scalar>(
    layers: &mut [Layer<A>],
    places: &[Source],
    norm: &BatchNorm<A>,
) -> std::result::Result<(), &'static str> {
    const QUANTIZED: &str = "the weights before it are quantized; fold before quantizing";
    let (scale, mut offset) = norm.affine();
    for place in places {
        let layer = place.value_idx().checked_sub(1).and_then(|idx| layers.get_mut(idx));
        match layer {
            Some(Layer::Dense(dense)) if dense.weight_quantizer.is_none() => {
                scale_rows(&mut dense.weights, &mut dense.bias, &scale, &offset);
            }
            Some(Layer::Conv2d(conv)) if conv.weight_quantizer.is_none() => {
                scale_rows(&mut conv.weights, &mut conv.bias, &scale, &offset);
            }
            _ => return Err(QUANTIZED),
        }
        offset.fill(A::zero());
    }
    Ok(())
}

fn scale_rows<A: Scalar, D: Dimension + RemoveAxis>(
    weights: &mut Array<A, D>,
    bias: &mut Array1<A>,
    scale: &Array1<A>,
    offset: &Array1<A>,
) {
    for (mut row, &scale) in weights.axis_iter_mut(Axis(0)).zip(scale) {
        row.mapv_inplace(|weight| weight * scale);
    }
    *bias *= scale;
    *bias += offset;
}
