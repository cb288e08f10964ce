//! Gradients of several functions with respect to one layer's parameters, as directions to move in.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis};

use super::ParameterSelection;
use crate::autodiff::step;
use crate::layer::{Activation, BatchStatistics, Conv2d, Layer, convolution};
use crate::tensor::{Scalar, Shape};

/// `∂φ_c/∂W` of one layer for every function `c`, in the form in which it is cheapest.
pub(super) enum Direction<'a, A: Scalar> {
    /// `ȳ_c xᵀ` and `ȳ_c`: implied by the gradient at the output and by the input.
    Dense { with_bias: bool },
    /// Kernel matrix `(out_channels, patch)` and bias (zeros if not selected) per function.
    Conv2d { conv: &'a Conv2d<A>, kernels: Vec<(Array2<A>, Array1<A>)> },
    /// `Σ ȳ x̂` and `Σ ȳ` per channel, one row per function.
    Norm { gamma: Array2<A>, beta: Array2<A>, normalized: Vec<A>, inverse_deviation: Vec<A> },
    /// `Σ ȳ x²`, `Σ ȳ x` and `Σ ȳ` per channel, one row per function, each times the polynomial's
    /// share of the activation (1 unless it is a blend).
    Polynomial { share: A, a: Array2<A>, b: Array2<A>, c: Array2<A> },
    /// The layer has parameters, but none of the selected kind.
    Nothing,
}

impl<'a, A: Scalar> Direction<'a, A> {
    /// Gradients for input `x` and gradients `upstream (functions, outputs)` at the output.
    pub(super) fn new(
        layer: &'a Layer<A>,
        input_shape: &Shape,
        x: ArrayView1<'_, A>,
        upstream: ArrayView2<'_, A>,
        selection: &ParameterSelection,
    ) -> Self {
        let with_offsets = selection.includes_offsets();
        match layer {
            Layer::Dense(_) => Self::Dense { with_bias: with_offsets },
            Layer::Conv2d(conv) => {
                let shape = step::conv_shape(input_shape, conv);
                let kernel = |upstream: ArrayView1<'_, A>| {
                    let (weights, mut bias) =
                        convolution::parameter_gradient(&shape, slice(&x), slice(&upstream));
                    if !with_offsets {
                        bias.fill(A::zero());
                    }
                    (weights, bias)
                };
                let kernels = upstream.rows().into_iter().map(kernel).collect();
                Self::Conv2d { conv, kernels }
            }
            Layer::BatchNorm(norm) if with_offsets => {
                let statistics = BatchStatistics::running(norm);
                let normalized = statistics.normalized(slice(&x));
                let n_channels = norm.gamma.len();
                let gamma = channel_sums(upstream, n_channels, |position| {
                    normalized.get(position).copied().unwrap_or_else(A::zero)
                });
                let beta = channel_sums(upstream, n_channels, |_| A::one());
                let inverse_deviation = statistics.inverse_deviation().to_vec();
                Self::Norm { gamma, beta, normalized, inverse_deviation }
            }
            Layer::Activation(Activation::Polynomial { a, .. }) if with_offsets => {
                Self::polynomial(A::one(), a.len(), x, upstream)
            }
            Layer::Activation(Activation::Blend(blend)) if with_offsets => {
                Self::polynomial(blend.share, blend.a.len(), x, upstream)
            }
            Layer::BatchNorm(_)
            | Layer::Activation(_)
            | Layer::Pool2d(_)
            | Layer::Flatten
            | Layer::Clamp(_)
            | Layer::Quantize(_)
            | Layer::Dropout(_)
            | Layer::Add
            | Layer::Concat => Self::Nothing,
        }
    }

    fn polynomial(
        share: A,
        n_channels: usize,
        x: ArrayView1<'_, A>,
        upstream: ArrayView2<'_, A>,
    ) -> Self {
        let at = |position: usize| x.get(position).copied().unwrap_or_else(A::zero);
        let sums = |term: &dyn Fn(usize) -> A| {
            channel_sums(upstream, n_channels, |position| share * term(position))
        };
        Self::Polynomial {
            share,
            a: sums(&|position| at(position) * at(position)),
            b: sums(&at),
            c: sums(&|_| A::one()),
        }
    }

    /// Add every function's squared norm.
    pub(super) fn add_squared_norms(
        &self,
        x: ArrayView1<'_, A>,
        upstream: ArrayView2<'_, A>,
        selection: &ParameterSelection,
        norms: &mut Array1<f64>,
    ) {
        for (function, norm) in norms.iter_mut().enumerate() {
            let rows = upstream.slice_axis(Axis(0), (function..=function).into());
            let part = self.of_functions(function);
            *norm += part.unit_norms(x, rows, selection).sum();
        }
    }

    /// Squared norm of each output unit's or channel's parameters, summed over the functions.
    pub(super) fn unit_norms(
        &self,
        x: ArrayView1<'_, A>,
        upstream: ArrayView2<'_, A>,
        selection: &ParameterSelection,
    ) -> Array1<f64> {
        Part { direction: self, only: None }.unit_norms(x, upstream, selection)
    }

    fn of_functions(&self, only: usize) -> Part<'_, A> {
        Part { direction: self, only: Some(only) }
    }

    /// Add `Ẇx + ḃ` (and its like) to the tangents at the output.
    pub(super) fn push(
        &self,
        input_shape: &Shape,
        x: ArrayView1<'_, A>,
        upstream: ArrayView2<'_, A>,
        above: &mut Array2<A>,
    ) {
        match self {
            Self::Dense { with_bias } => {
                let factor = A::from_f64(squares(x.iter()) + f64::from(u8::from(*with_bias)));
                above.scaled_add(factor, &upstream);
            }
            Self::Conv2d { conv, kernels } => {
                let shape = step::conv_shape(input_shape, conv);
                let mut moved = vec![A::zero(); above.ncols()];
                for (mut above, (weights, bias)) in above.rows_mut().into_iter().zip(kernels) {
                    convolution::forward(&shape, weights.view(), bias, slice(&x), &mut moved);
                    above += &ArrayView1::from(&moved);
                }
            }
            Self::Norm { gamma, beta, normalized, .. } => {
                for_each_value(above, |function, channel_of, row| {
                    let (gamma, beta) = (gamma.row(function), beta.row(function));
                    let n_channels = gamma.len();
                    for (position, (y, &x)) in row.iter_mut().zip(normalized).enumerate() {
                        let channel = channel_of(position, n_channels);
                        *y += at(&gamma, channel) * x + at(&beta, channel);
                    }
                });
            }
            Self::Polynomial { share, a, b, c } => {
                for_each_value(above, |function, channel_of, row| {
                    let (a, b, c) = (a.row(function), b.row(function), c.row(function));
                    for (position, (y, &x)) in row.iter_mut().zip(&x).enumerate() {
                        let channel = channel_of(position, a.len());
                        let moved = (at(&a, channel) * x + at(&b, channel)) * x + at(&c, channel);
                        *y += *share * moved;
                    }
                });
            }
            Self::Nothing => {}
        }
    }

    /// Add `Ẇᵀ ȳ` (and its like) to the tangents of the gradient at the input.
    pub(super) fn pull(
        &self,
        input_shape: &Shape,
        x: ArrayView1<'_, A>,
        upstream: ArrayView2<'_, A>,
        below: &mut Array2<A>,
    ) {
        match self {
            Self::Dense { .. } => {
                for (mut below, upstream) in below.rows_mut().into_iter().zip(upstream.rows()) {
                    below.scaled_add(A::from_f64(squares(upstream.iter())), &x);
                }
            }
            Self::Conv2d { conv, kernels } => {
                let shape = step::conv_shape(input_shape, conv);
                let rows = below.rows_mut().into_iter().zip(upstream.rows()).zip(kernels);
                for ((mut below, upstream), (weights, _)) in rows {
                    let mut moved = vec![A::zero(); below.len()];
                    let (weights, upstream) = (weights.view(), slice(&upstream));
                    convolution::input_gradient(&shape, weights, upstream, &mut moved);
                    below += &ArrayView1::from(&moved);
                }
            }
            Self::Norm { gamma, inverse_deviation, .. } => {
                for_each_value(below, |function, channel_of, row| {
                    let gamma = gamma.row(function);
                    let values = row.iter_mut().zip(upstream.row(function)).enumerate();
                    for (position, (value, &y)) in values {
                        let channel = channel_of(position, gamma.len());
                        let inverse = inverse_deviation.get(channel).copied();
                        *value += at(&gamma, channel) * inverse.unwrap_or_else(A::zero) * y;
                    }
                });
            }
            Self::Polynomial { share, a, b, .. } => {
                let two = A::one() + A::one();
                for_each_value(below, |function, channel_of, row| {
                    let (a, b) = (a.row(function), b.row(function));
                    let values = row.iter_mut().zip(&x).zip(upstream.row(function)).enumerate();
                    for (position, ((value, &x), &y)) in values {
                        let channel = channel_of(position, a.len());
                        let slope = two * at(&a, channel) * x + at(&b, channel);
                        *value += *share * slope * y;
                    }
                });
            }
            Self::Nothing => {}
        }
    }
}

/// The directions of one function, or of all.
struct Part<'a, A: Scalar> {
    direction: &'a Direction<'a, A>,
    only: Option<usize>,
}

impl<A: Scalar> Part<'_, A> {
    fn unit_norms(
        &self,
        x: ArrayView1<'_, A>,
        upstream: ArrayView2<'_, A>,
        selection: &ParameterSelection,
    ) -> Array1<f64> {
        match self.direction {
            Direction::Dense { .. } => {
                let offset = f64::from(u8::from(selection.includes_offsets()));
                let factor = squares(x.iter()) + offset;
                upstream.columns().into_iter().map(|unit| factor * squares(unit.iter())).collect()
            }
            Direction::Conv2d { conv, kernels } => {
                let mut norms = Array1::zeros(conv.out_channels());
                for (function, (weights, bias)) in kernels.iter().enumerate() {
                    if self.includes(function) {
                        for ((norm, row), &b) in norms.iter_mut().zip(weights.rows()).zip(bias) {
                            *norm += squares(row.iter()) + b.as_f64() * b.as_f64();
                        }
                    }
                }
                norms
            }
            Direction::Norm { gamma, beta, .. } => self.sum_rows(&[gamma, beta]),
            Direction::Polynomial { a, b, c, .. } => self.sum_rows(&[a, b, c]),
            Direction::Nothing => Array1::zeros(0),
        }
    }

    fn includes(&self, function: usize) -> bool {
        self.only.is_none_or(|only| only == function)
    }

    /// Squares of every channel's entries in the included rows.
    fn sum_rows(&self, arrays: &[&Array2<A>]) -> Array1<f64> {
        let n_channels = arrays.first().map_or(0, |array| array.ncols());
        let mut norms = Array1::zeros(n_channels);
        for array in arrays {
            for (function, row) in array.axis_iter(Axis(0)).enumerate() {
                if self.includes(function) {
                    norms.zip_mut_with(&row, |norm, &g| *norm += g.as_f64() * g.as_f64());
                }
            }
        }
        norms
    }
}

/// `Σ ȳ·factor` over the positions of each channel, one row per function.
fn channel_sums<A: Scalar>(
    upstream: ArrayView2<'_, A>,
    n_channels: usize,
    factor: impl Fn(usize) -> A,
) -> Array2<A> {
    let mut sums = Array2::zeros((upstream.nrows(), n_channels));
    for (mut sums, row) in sums.rows_mut().into_iter().zip(upstream.rows()) {
        for (position, &y) in row.iter().enumerate() {
            if let Some(sum) = sums.get_mut(position % n_channels.max(1)) {
                *sum += y * factor(position);
            }
        }
    }
    sums
}

/// Visit every row with its function and the map from positions to channels.
fn for_each_value<A: Scalar>(
    rows: &mut Array2<A>,
    mut visit: impl FnMut(usize, fn(usize, usize) -> usize, &mut [A]),
) {
    fn channel_of(position: usize, n_channels: usize) -> usize {
        position % n_channels.max(1)
    }
    for (function, mut row) in rows.rows_mut().into_iter().enumerate() {
        let row = row.as_slice_mut().expect("invariant: rows are in standard layout");
        visit(function, channel_of, row);
    }
}

fn at<A: Scalar>(values: &ArrayView1<'_, A>, channel: usize) -> A {
    values.get(channel).copied().unwrap_or_else(A::zero)
}

fn slice<'a, A>(values: &'a ArrayView1<'_, A>) -> &'a [A] {
    values.as_slice().expect("invariant: rows are in standard layout")
}

/// Sum of squares, in double precision.
fn squares<'a, A: Scalar>(values: impl Iterator<Item = &'a A>) -> f64 {
    values.map(|&v| v.as_f64() * v.as_f64()).sum()
}
