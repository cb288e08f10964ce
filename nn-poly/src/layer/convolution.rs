//! The two-dimensional convolution, as a matrix product over gathered patches.
//!
//! For one sample the patches form a matrix `P` of `out_h·out_w` rows and `kh·kw·in_channels`
//! columns; with the weights as a matrix `W` of one row per output channel,
//!
//! ```text
//!  Y = P Wᵀ + b        dW = Σ dYᵀ P        dX = scatter(dY W)
//! ```
//!
//! In channel-last order a patch row is `kh` contiguous runs of the image, so gathering is `kh`
//! copies per output position. `P` is gathered again for the backward pass instead of being kept: it
//! is `kh·kw` times larger than the image.

mod grouped;

use ndarray::{Array1, Array2, Array4, ArrayView2, ArrayViewMut2, Axis, linalg::general_mat_mul};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::parallel::CHUNK_SAMPLES;
use super::{FINITE, Fault, WeightQuantizer, cast_array, check_parameter};
use crate::tensor::{Scalar, Shape};

/// Rows and columns of zeros added around an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Padding {
    /// Rows above.
    pub top: usize,
    /// Rows below.
    pub bottom: usize,
    /// Columns to the left.
    pub left: usize,
    /// Columns to the right.
    pub right: usize,
}

impl Padding {
    /// No padding.
    pub const NONE: Self = Self { top: 0, bottom: 0, left: 0, right: 0 };

    /// The same number of rows and columns on every side.
    #[must_use]
    pub const fn uniform(n: usize) -> Self {
        Self { top: n, bottom: n, left: n, right: n }
    }

    /// Whether any side is padded.
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Self::NONE
    }
}

/// Correlation of an image with one kernel per output channel, plus bias.
///
/// `y[i, j, o] = b[o] + Σ w[o, u, v, c] · x[i·s₀ + u − top, j·s₁ + v − left, c]`, with `x = 0` outside
/// the image. With `groups` above 1, input and output channels are cut into that many runs of equal
/// length, and an output channel reads the inputs of its own run only; as many groups as channels make
/// a depthwise convolution.
/// Shapes: input `[h, w, c]`; output `[⌊(h + top + bottom − kh)/s₀⌋ + 1, ⌊(w + left + right − kw)/s₁⌋ + 1,
/// out_channels]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound = "A: Scalar")]
pub struct Conv2d<A> {
    /// Kernels, `(out_channels, kernel_h, kernel_w, in_channels / groups)`.
    pub weights: Array4<A>,
    /// One entry per output channel.
    pub bias: Array1<A>,
    /// Step `(rows, columns)` between output positions, each at least 1.
    pub stride: (usize, usize),
    /// Zeros around the image, on each side fewer than the kernel's extent.
    pub padding: Padding,
    /// Groups of channels, at least 1; divides the channels on both sides.
    pub groups: usize,
    /// Grid to which the forward pass rounds the weights, for quantization-aware training.
    pub weight_quantizer: Option<WeightQuantizer<A>>,
}

impl<A: Scalar> Conv2d<A> {
    /// A layer in one group with the given parameters and unrestricted weights.
    #[must_use]
    pub fn new(
        weights: Array4<A>,
        bias: Array1<A>,
        stride: (usize, usize),
        padding: Padding,
    ) -> Self {
        Self { weights, bias, stride, padding, groups: 1, weight_quantizer: None }
    }

    /// The same parameters in `groups` groups.
    #[must_use]
    pub fn with_groups(mut self, groups: usize) -> Self {
        self.groups = groups;
        self
    }

    /// The average over windows of a padded image, channel by channel, zeros of the padding included:
    /// a depthwise convolution with equal weights.
    #[must_use]
    pub fn average_pool(
        n_channels: usize,
        window: (usize, usize),
        stride: (usize, usize),
        padding: Padding,
    ) -> Self {
        let share = A::from_count((window.0 * window.1).max(1)).recip();
        let weights = Array4::from_elem((n_channels, window.0, window.1, 1), share);
        Self::new(weights, Array1::zeros(n_channels), stride, padding).with_groups(n_channels)
    }

    /// Number of output channels.
    #[must_use]
    pub fn out_channels(&self) -> usize {
        self.weights.dim().0
    }

    /// Extent of the kernel, `(rows, columns)`.
    #[must_use]
    pub fn kernel(&self) -> (usize, usize) {
        let (_, rows, columns, _) = self.weights.dim();
        (rows, columns)
    }

    pub(super) fn output_shape(&self, input: &Shape) -> Result<Shape, Fault> {
        let Some((_, _, channels)) = input.as_image() else {
            return Err(Fault::Input("a convolution takes an image of height, width and channels"));
        };
        let (out_channels, kernel_h, kernel_w, _) = self.weights.dim();
        let groups = self.groups;
        if groups == 0 || channels % groups != 0 || out_channels % groups != 0 {
            return Err(Fault::Input("the groups must divide the channels on both sides"));
        }
        let expected = [out_channels, kernel_h, kernel_w, channels / groups];
        check_parameter("weights", (&expected, self.weights.shape()), &self.weights, FINITE)?;
        check_parameter("bias", (&[out_channels], self.bias.shape()), &self.bias, FINITE)?;
        if let Some(quantizer) = &self.weight_quantizer {
            quantizer.check(out_channels)?;
        }
        let shape = ConvShape::new(input, self)?;
        Shape::image(shape.out_h, shape.out_w, out_channels)
            .map_err(|_| Fault::Input("the output image is empty or too large"))
    }

    pub(super) fn cast<B: Scalar>(&self) -> Conv2d<B> {
        Conv2d {
            weights: cast_array(&self.weights),
            bias: cast_array(&self.bias),
            stride: self.stride,
            padding: self.padding,
            groups: self.groups,
            weight_quantizer: self.weight_quantizer.as_ref().map(WeightQuantizer::cast),
        }
    }
}

/// Largest number of output positions times patch length of one sample: 2^26.
const MAX_PATCH_VALUES: usize = 1 << 26;
/// Patch values gathered at a time (by one thread), unless one sample has more.
const CHUNK_PATCH_VALUES: usize = 1 << 22;

/// All extents of one convolution, checked; the kernels below rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConvShape {
    in_h: usize,
    in_w: usize,
    in_c: usize,
    kernel_h: usize,
    kernel_w: usize,
    stride: (usize, usize),
    groups: usize,
    top: usize,
    left: usize,
    out_h: usize,
    out_w: usize,
    out_c: usize,
}

impl ConvShape {
    pub(crate) fn new<A: Scalar>(input: &Shape, conv: &Conv2d<A>) -> Result<Self, Fault> {
        let (out_c, kernel_h, kernel_w, _) = conv.weights.dim();
        let Some((in_h, in_w, in_c)) = input.as_image() else {
            return Err(Fault::Input("a convolution takes an image of height, width and channels"));
        };
        let Padding { top, bottom, left, right } = conv.padding;
        if kernel_h == 0 || kernel_w == 0 {
            return Err(Fault::Input("the kernel is empty"));
        }
        if conv.stride.0 == 0 || conv.stride.1 == 0 {
            return Err(Fault::Input("the stride must be at least 1"));
        }
        if top >= kernel_h || bottom >= kernel_h || left >= kernel_w || right >= kernel_w {
            return Err(Fault::Input("the padding must be smaller than the kernel"));
        }
        let extent = |size: usize, before: usize, after: usize, kernel: usize, stride: usize| {
            (size + before + after).checked_sub(kernel).map(|span| span / stride + 1)
        };
        let out_h = extent(in_h, top, bottom, kernel_h, conv.stride.0);
        let out_w = extent(in_w, left, right, kernel_w, conv.stride.1);
        let (Some(out_h), Some(out_w)) = (out_h, out_w) else {
            return Err(Fault::Input("the kernel is larger than the padded image"));
        };
        let shape = Self {
            in_h,
            in_w,
            in_c,
            kernel_h,
            kernel_w,
            stride: conv.stride,
            groups: conv.groups,
            top,
            left,
            out_h,
            out_w,
            out_c,
        };
        let patch_values = out_h.checked_mul(out_w).and_then(|n| n.checked_mul(shape.patch_len()));
        if patch_values.is_none_or(|n| n > MAX_PATCH_VALUES) {
            return Err(Fault::Input("the convolution has more than 67108864 products per map"));
        }
        Ok(shape)
    }

    /// Samples whose patches are gathered at a time. A function of the shape alone, so that results
    /// do not depend on the machine.
    fn chunk_samples(&self) -> usize {
        let patch_values = self.positions() * self.patch_len();
        (CHUNK_PATCH_VALUES / patch_values.max(1)).clamp(1, CHUNK_SAMPLES)
    }

    fn in_len(&self) -> usize {
        self.in_h * self.in_w * self.in_c
    }

    fn positions(&self) -> usize {
        self.out_h * self.out_w
    }

    fn out_len(&self) -> usize {
        self.positions() * self.out_c
    }

    /// Weights of one output channel.
    fn patch_len(&self) -> usize {
        self.kernel_h * self.kernel_w * (self.in_c / self.groups)
    }

    /// For one output row, kernel row and output column: the part of the patch run inside the image,
    /// as (offset in the image, offset in the run, length), or `None` if all of it is padding.
    fn run(
        &self,
        out_row: usize,
        kernel_row: usize,
        out_col: usize,
    ) -> Option<(usize, usize, usize)> {
        let row = (out_row * self.stride.0 + kernel_row).checked_sub(self.top)?;
        if row >= self.in_h {
            return None;
        }
        let start = out_col * self.stride.1;
        let end = (start + self.kernel_w).saturating_sub(self.left).min(self.in_w);
        let skipped = self.left.saturating_sub(start);
        let first = (start + skipped).checked_sub(self.left)?;
        let n_columns = end.checked_sub(first).filter(|&n| n > 0)?;
        let image_offset = (row * self.in_w + first) * self.in_c;
        Some((image_offset, skipped * self.in_c, n_columns * self.in_c))
    }

    /// Visit every run of every patch of one sample as (image offset, patch-matrix offset, length).
    fn for_each_run(&self, mut visit: impl FnMut(usize, usize, usize)) {
        let run_len = self.kernel_w * self.in_c;
        let mut patch_offset = 0;
        for out_row in 0..self.out_h {
            for out_col in 0..self.out_w {
                for kernel_row in 0..self.kernel_h {
                    if let Some((image, skipped, len)) = self.run(out_row, kernel_row, out_col) {
                        visit(image, patch_offset + skipped, len);
                    }
                    patch_offset += run_len;
                }
            }
        }
    }

    /// Gather the patch matrices of several samples. Padding positions of `patches` must be zero and
    /// stay untouched.
    #[expect(clippy::indexing_slicing, reason = "runs lie inside both slices by construction")]
    fn gather<A: Scalar>(&self, images: &[A], patches: &mut [A]) {
        let patches_len = self.positions() * self.patch_len();
        for (image, patches) in
            images.chunks_exact(self.in_len()).zip(patches.chunks_exact_mut(patches_len))
        {
            self.for_each_run(|from, to, len| {
                patches[to..to + len].copy_from_slice(&image[from..from + len]);
            });
        }
    }

    /// Add patch matrices back onto the images they were gathered from.
    #[expect(clippy::indexing_slicing, reason = "runs lie inside both slices by construction")]
    fn scatter_add<A: Scalar>(&self, patches: &[A], images: &mut [A]) {
        let patches_len = self.positions() * self.patch_len();
        for (image, patches) in
            images.chunks_exact_mut(self.in_len()).zip(patches.chunks_exact(patches_len))
        {
            self.for_each_run(|to, from, len| {
                let target = image[to..to + len].iter_mut();
                for (target, &value) in target.zip(&patches[from..from + len]) {
                    *target += value;
                }
            });
        }
    }
}

/// A zeroed patch matrix per worker, for one chunk of `n_outputs` output values in all; small batches
/// do not pay for a whole chunk.
fn patch_buffer<A: Scalar>(shape: &ConvShape, n_outputs: usize) -> Vec<A> {
    let n_samples = shape.chunk_samples().min(n_outputs / shape.out_len().max(1));
    vec![A::zero(); n_samples * shape.positions() * shape.patch_len()]
}

fn matrix<A>(rows: usize, columns: usize, values: &[A]) -> ArrayView2<'_, A> {
    ArrayView2::from_shape((rows, columns), values)
        .expect("invariant: lengths follow from ConvShape")
}

fn matrix_mut<A>(rows: usize, columns: usize, values: &mut [A]) -> ArrayViewMut2<'_, A> {
    ArrayViewMut2::from_shape((rows, columns), values)
        .expect("invariant: lengths follow from ConvShape")
}

/// Convolve a batch. `weights (out_channels, patch)`; `input` holds whole samples.
#[expect(clippy::indexing_slicing, reason = "buffers are sized for a full chunk")]
pub(crate) fn forward<A: Scalar>(
    shape: &ConvShape,
    weights: ArrayView2<'_, A>,
    bias: &Array1<A>,
    input: &[A],
    output: &mut [A],
) {
    if shape.groups > 1 {
        return grouped::forward(shape, weights, bias, input, output);
    }
    let n_outputs = output.len();
    output
        .par_chunks_mut(shape.chunk_samples() * shape.out_len())
        .zip(input.par_chunks(shape.chunk_samples() * shape.in_len()))
        .for_each_init(
            || patch_buffer(shape, n_outputs),
            |patches, (output, input)| {
                let rows = output.len() / shape.out_c;
                let patches = &mut patches[..rows * shape.patch_len()];
                shape.gather(input, patches);
                for row in output.chunks_exact_mut(shape.out_c) {
                    for (y, &b) in row.iter_mut().zip(bias) {
                        *y = b;
                    }
                }
                let patches = matrix(rows, shape.patch_len(), patches);
                let mut output = matrix_mut(rows, shape.out_c, output);
                general_mat_mul(A::one(), &patches, &weights.t(), A::one(), &mut output);
            },
        );
}

/// Gradients of weights `(out_channels, patch)` and bias.
#[expect(clippy::indexing_slicing, reason = "buffers are sized for a full chunk")]
pub(crate) fn parameter_gradient<A: Scalar>(
    shape: &ConvShape,
    input: &[A],
    output_gradient: &[A],
) -> (Array2<A>, Array1<A>) {
    if shape.groups > 1 {
        return grouped::parameter_gradient(shape, input, output_gradient);
    }
    let partial: Vec<(Array2<A>, Array1<A>)> = output_gradient
        .par_chunks(shape.chunk_samples() * shape.out_len())
        .zip(input.par_chunks(shape.chunk_samples() * shape.in_len()))
        .map_init(
            || patch_buffer(shape, output_gradient.len()),
            |patches, (gradient, input)| {
                let rows = gradient.len() / shape.out_c;
                let patches = &mut patches[..rows * shape.patch_len()];
                shape.gather(input, patches);
                let patches = matrix(rows, shape.patch_len(), patches);
                let gradient = matrix(rows, shape.out_c, gradient);
                (gradient.t().dot(&patches), gradient.sum_axis(Axis(0)))
            },
        )
        .collect();
    let zero = (Array2::zeros((shape.out_c, shape.patch_len())), Array1::zeros(shape.out_c));
    partial.into_iter().fold(zero, |(mut weights, mut bias), (chunk_weights, chunk_bias)| {
        weights += &chunk_weights;
        bias += &chunk_bias;
        (weights, bias)
    })
}

/// Gradient of the input, written into the zeroed `input_gradient`.
#[expect(clippy::indexing_slicing, reason = "buffers are sized for a full chunk")]
pub(crate) fn input_gradient<A: Scalar>(
    shape: &ConvShape,
    weights: ArrayView2<'_, A>,
    output_gradient: &[A],
    input_gradient: &mut [A],
) {
    if shape.groups > 1 {
        return grouped::input_gradient(shape, weights, output_gradient, input_gradient);
    }
    input_gradient
        .par_chunks_mut(shape.chunk_samples() * shape.in_len())
        .zip(output_gradient.par_chunks(shape.chunk_samples() * shape.out_len()))
        .for_each_init(
            || patch_buffer(shape, output_gradient.len()),
            |patches, (target, gradient)| {
                let rows = gradient.len() / shape.out_c;
                let patches = &mut patches[..rows * shape.patch_len()];
                let gradient = matrix(rows, shape.out_c, gradient);
                let mut view = matrix_mut(rows, shape.patch_len(), patches);
                general_mat_mul(A::one(), &gradient, &weights, A::zero(), &mut view);
                shape.scatter_add(patches, target);
            },
        );
}

#[cfg(test)]
mod tests;
