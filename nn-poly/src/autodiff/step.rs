//! Forward and backward of one layer: dispatch to the kernels in [`crate::layer`].

use ndarray::{Array2, Array4, ArrayD, ArrayView2, CowArray, Ix2, Ix4};

use super::Mode;
use crate::layer::{BatchStatistics, Conv2d, ConvShape, Dense, Layer, convolution, join};
use crate::network::{Network, Source};
use crate::tensor::{Scalar, Shape};

/// What the backward pass of one layer needs besides its input.
#[derive(Debug)]
pub(crate) enum Cache<A> {
    /// Nothing.
    None,
    /// Mean and deviation that were used.
    Statistics(BatchStatistics<A>),
    /// Dropout factors; none outside training.
    Mask(Vec<A>),
    /// Weights of a dense layer or convolution after rounding, one row per output.
    Weights(Array2<A>),
}

/// The layer's operands, contiguous and of checked shape; `input_shape` is that of its first input.
pub(super) struct Site<'a, A> {
    pub(super) layer: &'a Layer<A>,
    pub(super) input_shape: &'a Shape,
    pub(super) output_len: usize,
}

pub(super) fn site<A: Scalar>(network: &Network<A>, layer_idx: usize) -> Site<'_, A> {
    let shapes = network.layer_shapes();
    let (Some(layer), Ok(input_shape), Some(output_shape)) = (
        network.layers().get(layer_idx),
        network.layer_input_shape(layer_idx),
        shapes.get(layer_idx + 1),
    ) else {
        unreachable!("invariant: a network has one more shape than layers")
    };
    Site { layer, input_shape, output_len: output_shape.len() }
}

/// Output of one layer for the values it reads, each `(samples, values)`.
pub(super) fn forward<A: Scalar>(
    network: &Network<A>,
    layer_idx: usize,
    inputs: &[ArrayView2<'_, A>],
    mode: Mode,
) -> (Array2<A>, Cache<A>) {
    let Site { layer, input_shape, output_len } = site(network, layer_idx);
    let input = *inputs.first().expect("invariant: every layer reads something");
    match layer {
        Layer::Add => return (join::add(inputs), Cache::None),
        Layer::Concat => {
            return (join::concatenate(inputs, &joined_channels(network, layer_idx)), Cache::None);
        }
        Layer::Dense(_)
        | Layer::Conv2d(_)
        | Layer::BatchNorm(_)
        | Layer::Activation(_)
        | Layer::Pool2d(_)
        | Layer::Flatten
        | Layer::Clamp(_)
        | Layer::Quantize(_)
        | Layer::Dropout(_) => {}
    }
    if let Layer::Dense(dense) = layer {
        let weights = dense_weights(dense);
        let output = dense.forward(weights.view(), input);
        return (output, keep_if_rounded(weights));
    }
    let len = input_shape.len();
    let mut output = Array2::zeros((input.nrows(), output_len));
    let x = input.as_slice().expect("invariant: batches are in standard layout");
    let y = output.as_slice_mut().expect("invariant: a new array is in standard layout");
    let cache = match layer {
        Layer::Conv2d(conv) => {
            let shape = conv_shape(input_shape, conv);
            let weights = conv_weights(conv);
            convolution::forward(&shape, weights.view(), &conv.bias, x, y);
            keep_if_rounded(weights)
        }
        Layer::BatchNorm(norm) => {
            let statistics = match mode {
                Mode::Training { .. } => BatchStatistics::of_batch(norm, x, len),
                Mode::Inference => BatchStatistics::running(norm),
            };
            norm.forward(&statistics, x, y, len);
            Cache::Statistics(statistics)
        }
        Layer::Activation(activation) => {
            activation.forward(x, y, len);
            Cache::None
        }
        Layer::Pool2d(pool) => {
            pool.forward(input_shape, x, y);
            Cache::None
        }
        Layer::Clamp(clamp) => {
            clamp.forward(x, y, len);
            Cache::None
        }
        Layer::Quantize(quantize) => {
            quantize.forward(x, y, len);
            Cache::None
        }
        Layer::Dropout(dropout) => {
            y.copy_from_slice(x);
            match mode {
                Mode::Inference => Cache::None,
                Mode::Training { dropout_seed } => {
                    let mask = dropout.mask(dropout_seed, layer_idx, x.len());
                    multiply_assign(y, &mask);
                    Cache::Mask(mask)
                }
            }
        }
        Layer::Dense(_) | Layer::Flatten | Layer::Add | Layer::Concat => {
            unreachable!("invariant: handled above or by the caller")
        }
    };
    (output, cache)
}

/// For a layer that joins values, the part of `rows` at its output that falls on each of them: rows
/// of gradients, taken apart as the layer put values together. `None` for other layers.
pub(super) fn split<A: Scalar>(
    network: &Network<A>,
    layer_idx: usize,
    rows: &Array2<A>,
) -> Option<Vec<Array2<A>>> {
    match network.layers().get(layer_idx)? {
        Layer::Add => Some(vec![rows.clone(); network.sources(layer_idx).len()]),
        Layer::Concat => Some(join::split(rows.view(), &joined_channels(network, layer_idx))),
        Layer::Dense(_)
        | Layer::Conv2d(_)
        | Layer::BatchNorm(_)
        | Layer::Activation(_)
        | Layer::Pool2d(_)
        | Layer::Flatten
        | Layer::Clamp(_)
        | Layer::Quantize(_)
        | Layer::Dropout(_) => None,
    }
}

/// For a layer that joins values, the join of rows at its inputs; `None` for other layers.
pub(super) fn merge<A: Scalar>(
    network: &Network<A>,
    layer_idx: usize,
    rows: &[ArrayView2<'_, A>],
) -> Option<Array2<A>> {
    matches!(network.layers().get(layer_idx)?, Layer::Add | Layer::Concat)
        .then(|| forward(network, layer_idx, rows, Mode::Inference).0)
}

/// Channels of every value a layer reads.
fn joined_channels<A: Scalar>(network: &Network<A>, layer_idx: usize) -> Vec<usize> {
    let shapes = network.layer_shapes();
    let channels = |s: &Source| shapes.get(s.value_idx()).map_or(0, Shape::channels);
    network.sources(layer_idx).iter().map(channels).collect()
}

/// Gradients of one layer's parameters, and of its input (unspecified values unless `want_input`).
pub(super) fn backward<A: Scalar>(
    network: &Network<A>,
    layer_idx: usize,
    cache: &Cache<A>,
    input: ArrayView2<'_, A>,
    mut upstream: Array2<A>,
    want_input: bool,
) -> (Vec<ArrayD<A>>, Array2<A>) {
    let Site { layer, input_shape, .. } = site(network, layer_idx);
    let len = input_shape.len();
    if let Layer::Dense(dense) = layer {
        let (weights, bias) = Dense::parameter_gradient(input, upstream.view());
        let below = if want_input {
            let used = match cache {
                Cache::Weights(rounded) => rounded.view(),
                Cache::None | Cache::Statistics(_) | Cache::Mask(_) => dense.weights.view(),
            };
            Dense::input_gradient(used, upstream.view())
        } else {
            upstream
        };
        return (vec![weights.into_dyn(), bias.into_dyn()], below);
    }
    if matches!(layer, Layer::Flatten) {
        return (Vec::new(), upstream);
    }
    if let Layer::Dropout(_) = layer {
        if let Cache::Mask(mask) = cache {
            multiply_assign(slice_mut(&mut upstream), mask);
        }
        return (Vec::new(), upstream);
    }
    let x = input.as_slice().expect("invariant: batches are in standard layout");
    if let Layer::Conv2d(conv) = layer {
        return backward_convolution(conv, cache, input_shape, x, upstream, want_input);
    }
    let mut below = Array2::zeros(input.raw_dim());
    let dx = slice_mut(&mut below);
    let dy = upstream.as_slice().expect("invariant: gradients are in standard layout");
    let mut gradients = Vec::new();
    match layer {
        Layer::BatchNorm(norm) => {
            let Cache::Statistics(statistics) = cache else {
                unreachable!("invariant: the forward pass keeps the statistics")
            };
            let (gamma, beta) = norm.backward(statistics, x, dy, dx, len);
            gradients.extend([gamma.into_dyn(), beta.into_dyn()]);
        }
        Layer::Activation(activation) => {
            let coefficients = activation.backward(x, dy, dx, len);
            gradients.extend(coefficients.into_iter().map(ndarray::Array1::into_dyn));
        }
        Layer::Pool2d(pool) => pool.backward(input_shape, x, dy, dx),
        Layer::Clamp(clamp) => clamp.backward(x, dy, dx, len),
        Layer::Quantize(quantize) => quantize.backward(x, dy, dx, len),
        Layer::Dense(_)
        | Layer::Conv2d(_)
        | Layer::Flatten
        | Layer::Dropout(_)
        | Layer::Add
        | Layer::Concat => unreachable!("invariant: handled above or by the caller"),
    }
    (gradients, below)
}

fn backward_convolution<A: Scalar>(
    conv: &Conv2d<A>,
    cache: &Cache<A>,
    input_shape: &Shape,
    x: &[A],
    upstream: Array2<A>,
    want_input: bool,
) -> (Vec<ArrayD<A>>, Array2<A>) {
    let shape = conv_shape(input_shape, conv);
    let dy = upstream.as_slice().expect("invariant: gradients are in standard layout");
    let (weights, bias) = convolution::parameter_gradient(&shape, x, dy);
    let weights = weights
        .into_shape_with_order(conv.weights.raw_dim())
        .expect("invariant: a weight matrix is a reshaped kernel");
    let gradients = vec![weights.into_dyn(), bias.into_dyn()];
    if !want_input {
        return (gradients, upstream);
    }
    let mut below = Array2::zeros((upstream.nrows(), input_shape.len()));
    let dx = slice_mut(&mut below);
    match cache {
        Cache::Weights(rounded) => convolution::input_gradient(&shape, rounded.view(), dy, dx),
        Cache::None | Cache::Statistics(_) | Cache::Mask(_) => {
            convolution::input_gradient(&shape, kernel_matrix(&conv.weights), dy, dx);
        }
    }
    (gradients, below)
}

fn dense_weights<A: Scalar>(dense: &Dense<A>) -> CowArray<'_, A, Ix2> {
    match &dense.weight_quantizer {
        Some(quantizer) => quantizer.quantize(&dense.weights).into(),
        None => dense.weights.view().into(),
    }
}

fn conv_weights<A: Scalar>(conv: &Conv2d<A>) -> CowArray<'_, A, Ix2> {
    match &conv.weight_quantizer {
        Some(quantizer) => {
            let rounded: Array4<A> = quantizer.quantize(&conv.weights);
            kernel_matrix(&rounded).to_owned().into()
        }
        None => kernel_matrix(&conv.weights).into(),
    }
}

/// Kernels as a matrix of one row per output channel.
pub(super) fn kernel_matrix<A: Scalar>(weights: &Array4<A>) -> ArrayView2<'_, A> {
    let dim: Ix4 = weights.raw_dim();
    let rows = dim[0];
    weights
        .view()
        .into_shape_with_order((rows, weights.len() / rows.max(1)))
        .expect("invariant: networks hold kernels in standard layout")
}

fn keep_if_rounded<A: Scalar>(weights: CowArray<'_, A, Ix2>) -> Cache<A> {
    if weights.is_owned() { Cache::Weights(weights.into_owned()) } else { Cache::None }
}

pub(super) fn conv_shape<A: Scalar>(input_shape: &Shape, conv: &Conv2d<A>) -> ConvShape {
    ConvShape::new(input_shape, conv).expect("invariant: the network checked this layer")
}

pub(super) fn slice_mut<A>(array: &mut Array2<A>) -> &mut [A] {
    array.as_slice_mut().expect("invariant: gradients are in standard layout")
}

pub(super) fn multiply_assign<A: Scalar>(values: &mut [A], factors: &[A]) {
    for (value, &factor) in values.iter_mut().zip(factors) {
        *value *= factor;
    }
}
