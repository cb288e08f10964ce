//! Slopes and curvatures of the layers that act value by value, and choices of those that choose.

use ndarray::Array1;

use super::rows::row;
use crate::autodiff::Tape;
use crate::autodiff::step::{self, Site};
use crate::layer::{Activation, BatchNorm, BatchStatistics, Layer};
use crate::network::Source;
use crate::tensor::Scalar;

/// What the derivatives of a layer without a matrix need, value by value.
#[derive(Debug)]
pub(super) enum Local<A> {
    /// Nothing: linear maps, pools, identities.
    None,
    /// The layer multiplies tangents and gradients by `slope`.
    Elementwise { slope: Vec<A>, curvature: Option<Vec<A>> },
    /// Output `i` is a copy of input `winners[i]`: maximum pooling.
    Selection { winners: Vec<usize> },
}

/// Slopes of the layers that act value by value, and choices of those that choose.
pub(super) fn local_slope<A: Scalar>(tape: &Tape<'_, A>, layer_idx: usize) -> Local<A> {
    let Site { layer, input_shape, .. } = step::site(tape.network, layer_idx);
    let source = tape.network.sources(layer_idx).first().copied().unwrap_or(Source::Input);
    let input = row(tape.value(source).view());
    let x = input.as_slice().expect("invariant: batches are in standard layout");
    let by_backward = |backward: &dyn Fn(&[A], &mut [A])| {
        let mut slope = vec![A::zero(); x.len()];
        backward(&vec![A::one(); x.len()], &mut slope);
        Local::Elementwise { slope, curvature: None }
    };
    match layer {
        Layer::Activation(activation) => {
            let (slope, curvature) = activation.derivatives(x);
            let is_bent = !matches!(activation, Activation::Relu);
            Local::Elementwise { slope, curvature: is_bent.then_some(curvature) }
        }
        Layer::BatchNorm(norm) => {
            let scale = inference_scale(norm);
            let slope = scale.iter().copied().cycle().take(x.len()).collect();
            Local::Elementwise { slope, curvature: None }
        }
        Layer::Clamp(clamp) => by_backward(&|one, slope| clamp.backward(x, one, slope, x.len())),
        Layer::Quantize(quantize) => {
            by_backward(&|one, slope| quantize.backward(x, one, slope, x.len()))
        }
        Layer::Pool2d(pool) => match pool.winners(input_shape, x) {
            Some(winners) => Local::Selection { winners },
            None => Local::None,
        },
        Layer::Dense(_)
        | Layer::Conv2d(_)
        | Layer::Flatten
        | Layer::Dropout(_)
        | Layer::Add
        | Layer::Concat => Local::None,
    }
}

/// `γ/√(σ² + ε)` per channel, rounded as the forward pass rounds it.
fn inference_scale<A: Scalar>(norm: &BatchNorm<A>) -> Array1<A> {
    &norm.gamma * BatchStatistics::running(norm).inverse_deviation()
}
