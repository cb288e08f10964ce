//! Convolutions in groups: each output channel reads the input channels of its group only.
//!
//! Kernels are small and the channels of a group few, so there is no matrix product to win; plain
//! loops over kernel positions, channels fastest, keep everything in order.

use ndarray::{Array1, Array2, ArrayView2};
use rayon::prelude::*;

use super::super::parallel::CHUNK_SAMPLES;
use super::ConvShape;
use crate::tensor::Scalar;

/// Channels of one group.
#[derive(Clone, Copy)]
struct Groups {
    /// Inputs one output channel reads.
    n_in: usize,
    /// Output channels.
    n_out: usize,
}

impl ConvShape {
    fn of_groups(&self) -> Groups {
        Groups { n_in: self.in_c / self.groups, n_out: self.out_c / self.groups }
    }

    /// Visit every pair of an output position and a kernel position inside the image, as (output
    /// position, kernel position, input position).
    fn for_each_tap(&self, mut visit: impl FnMut(usize, usize, usize)) {
        for out_row in 0..self.out_h {
            for out_col in 0..self.out_w {
                let position = out_row * self.out_w + out_col;
                for tap in 0..self.kernel_h * self.kernel_w {
                    let (down, right) = (tap / self.kernel_w, tap % self.kernel_w);
                    let row = (out_row * self.stride.0 + down).checked_sub(self.top);
                    let column = (out_col * self.stride.1 + right).checked_sub(self.left);
                    if let (Some(row), Some(column)) = (row, column)
                        && row < self.in_h
                        && column < self.in_w
                    {
                        visit(position, tap, row * self.in_w + column);
                    }
                }
            }
        }
    }

    /// Kernels `(out_channels, taps · n_in)` with the kernel position first: `[tap][out][in]`.
    fn by_tap<A: Scalar>(&self, weights: ArrayView2<'_, A>) -> Vec<A> {
        let n_in = self.of_groups().n_in;
        let mut turned = Vec::with_capacity(weights.len());
        for tap in 0..self.kernel_h * self.kernel_w {
            for row in weights.rows() {
                turned.extend(row.iter().skip(tap * n_in).take(n_in));
            }
        }
        turned
    }
}

/// Call `visit(output channel, its kernel, its inputs)` for every output channel at one position.
fn for_each_channel<'a, A>(groups: Groups, inputs: &'a [A], mut visit: impl FnMut(usize, &'a [A])) {
    for (group, inputs) in inputs.chunks_exact(groups.n_in).enumerate() {
        for channel in group * groups.n_out..(group + 1) * groups.n_out {
            visit(channel, inputs);
        }
    }
}

/// As [`super::forward`].
#[expect(clippy::indexing_slicing, reason = "offsets follow from the checked shape")]
pub(super) fn forward<A: Scalar>(
    shape: &ConvShape,
    weights: ArrayView2<'_, A>,
    bias: &Array1<A>,
    input: &[A],
    output: &mut [A],
) {
    let (groups, kernels) = (shape.of_groups(), shape.by_tap(weights));
    let (in_c, out_c, n) = (shape.in_c, shape.out_c, groups.n_in);
    let samples = output.par_chunks_mut(shape.out_len()).zip(input.par_chunks(shape.in_len()));
    samples.for_each(|(output, input)| {
        for row in output.chunks_exact_mut(out_c) {
            row.iter_mut().zip(bias).for_each(|(y, &b)| *y = b);
        }
        shape.for_each_tap(|to, tap, from| {
            let kernels = &kernels[tap * out_c * n..(tap + 1) * out_c * n];
            let output = &mut output[to * out_c..(to + 1) * out_c];
            for_each_channel(groups, &input[from * in_c..(from + 1) * in_c], |channel, x| {
                for (&w, &x) in kernels[channel * n..(channel + 1) * n].iter().zip(x) {
                    output[channel] += w * x;
                }
            });
        });
    });
}

/// As [`super::parameter_gradient`].
#[expect(clippy::indexing_slicing, reason = "offsets follow from the checked shape")]
pub(super) fn parameter_gradient<A: Scalar>(
    shape: &ConvShape,
    input: &[A],
    output_gradient: &[A],
) -> (Array2<A>, Array1<A>) {
    let groups = shape.of_groups();
    let (in_c, out_c, n, row_len) = (shape.in_c, shape.out_c, groups.n_in, shape.patch_len());
    let partial: Vec<(Array2<A>, Array1<A>)> = output_gradient
        .par_chunks(CHUNK_SAMPLES * shape.out_len())
        .zip(input.par_chunks(CHUNK_SAMPLES * shape.in_len()))
        .map(|(gradient, input)| {
            let mut weights = Array2::zeros((out_c, row_len));
            let mut bias = Array1::zeros(out_c);
            let samples = gradient.chunks_exact(shape.out_len());
            for (gradient, input) in samples.zip(input.chunks_exact(shape.in_len())) {
                for row in gradient.chunks_exact(out_c) {
                    bias.iter_mut().zip(row).for_each(|(b, &dy)| *b += dy);
                }
                shape.for_each_tap(|to, tap, from| {
                    let upstream = &gradient[to * out_c..(to + 1) * out_c];
                    for_each_channel(groups, &input[from * in_c..(from + 1) * in_c], |o, x| {
                        for (k, &x) in x.iter().enumerate() {
                            weights[[o, tap * n + k]] += upstream[o] * x;
                        }
                    });
                });
            }
            (weights, bias)
        })
        .collect();
    let zero = (Array2::zeros((out_c, row_len)), Array1::zeros(out_c));
    partial.into_iter().fold(zero, |(weights, bias), part| (weights + part.0, bias + part.1))
}

/// As [`super::input_gradient`].
#[expect(clippy::indexing_slicing, reason = "offsets follow from the checked shape")]
pub(super) fn input_gradient<A: Scalar>(
    shape: &ConvShape,
    weights: ArrayView2<'_, A>,
    output_gradient: &[A],
    input_gradient: &mut [A],
) {
    let (groups, kernels) = (shape.of_groups(), shape.by_tap(weights));
    let (in_c, out_c, n) = (shape.in_c, shape.out_c, groups.n_in);
    let samples = input_gradient.par_chunks_mut(shape.in_len());
    samples.zip(output_gradient.par_chunks(shape.out_len())).for_each(|(target, gradient)| {
        shape.for_each_tap(|to, tap, from| {
            let kernels = &kernels[tap * out_c * n..(tap + 1) * out_c * n];
            let upstream = &gradient[to * out_c..(to + 1) * out_c];
            let target = &mut target[from * in_c..(from + 1) * in_c];
            for (group, target) in target.chunks_exact_mut(n).enumerate() {
                for channel in group * groups.n_out..(group + 1) * groups.n_out {
                    for (k, dx) in target.iter_mut().enumerate() {
                        *dx += kernels[channel * n + k] * upstream[channel];
                    }
                }
            }
        });
    });
}
