//! The public shape of a stage: where its inputs come from and what is done to them.

use serde::{Deserialize, Serialize};

use super::check::require;
use super::refresh::Refresh;
use crate::error::Result;
use crate::layer::Padding;

/// Most stages of a network.
pub const MAX_STAGES: usize = 256;
/// Most values a stage reads or produces per sample.
pub const MAX_STAGE_VALUES: usize = 1 << 22;
/// Most weights of a stage.
pub const MAX_STAGE_WEIGHTS: usize = 1 << 28;
/// Most inputs gathered by all positions of a convolution: an evaluator lists each.
pub const MAX_STAGE_GATHERS: usize = 1 << 26;
/// Most values all stages together read and produce per sample.
pub const MAX_NETWORK_VALUES: usize = 1 << 25;
/// Most multiplications of all stages together per sample.
pub const MAX_NETWORK_PRODUCTS: usize = 1 << 34;

/// A vector of values a stage may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ValueRef {
    /// The quantized input of the network.
    Input,
    /// The refreshed values of an earlier stage, counted from 0.
    Stage(u32),
}

/// Height, width and channels of a channel-last plane; a vector has height and width 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Volume {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Channels; index fastest.
    pub channels: usize,
}

impl Volume {
    /// A vector of `n` values.
    #[must_use]
    pub const fn vector(n: usize) -> Self {
        Self { height: 1, width: 1, channels: n }
    }

    /// Number of values. Saturates, so that an absurd volume is refused rather than wrapped.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "an empty volume is refused by every check")]
    pub const fn len(&self) -> usize {
        self.height.saturating_mul(self.width).saturating_mul(self.channels)
    }

    /// Index of `(row, column, channel)`.
    #[must_use]
    pub const fn index(&self, row: usize, column: usize, channel: usize) -> usize {
        (row * self.width + column) * self.channels + channel
    }
}

/// Which input channels an output channel of a convolution reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Grouping {
    /// All of them; weights `(out_channels, kernel_h, kernel_w, in_channels)`.
    Full,
    /// Its own only; `out_channels` equals the input channels, weights
    /// `(channels, kernel_h, kernel_w, 1)`.
    Depthwise,
}

/// A two-dimensional convolution with zero padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ConvGeometry {
    /// What it reads.
    pub input: Volume,
    /// Kernel height and width.
    pub kernel: (usize, usize),
    /// Steps down and right.
    pub stride: (usize, usize),
    /// Zeros around the input.
    pub padding: Padding,
    /// Channels it produces.
    pub out_channels: usize,
    /// Which input channels an output channel reads.
    pub grouping: Grouping,
}

impl ConvGeometry {
    /// What it produces, `floor((extent + padding − kernel) / stride) + 1` along each axis.
    ///
    /// Meaningful after [`LinearGeometry::check`].
    #[must_use]
    pub fn output(&self) -> Volume {
        let extent = |n: usize, before: usize, after: usize, kernel: usize, stride: usize| {
            n.saturating_add(before)
                .saturating_add(after)
                .checked_sub(kernel)
                .map_or(0, |free| free.checked_div(stride).map_or(0, |steps| steps + 1))
        };
        let Padding { top, bottom, left, right } = self.padding;
        Volume {
            height: extent(self.input.height, top, bottom, self.kernel.0, self.stride.0),
            width: extent(self.input.width, left, right, self.kernel.1, self.stride.1),
            channels: self.out_channels,
        }
    }

    /// Input channels one output channel reads.
    #[must_use]
    pub const fn channels_per_group(&self) -> usize {
        match self.grouping {
            Grouping::Full => self.input.channels,
            Grouping::Depthwise => 1,
        }
    }

    /// Weights of one output channel: kernel height × kernel width × channels read.
    #[must_use]
    pub const fn taps(&self) -> usize {
        self.kernel.0.saturating_mul(self.kernel.1).saturating_mul(self.channels_per_group())
    }

    /// The kernel rows that fall inside the input for output row `row`, and the input row the first
    /// of them reads: `(first, past the last, input row of the first)`.
    #[must_use]
    pub const fn rows_inside(&self, row: usize) -> (usize, usize, usize) {
        inside(row * self.stride.0, self.padding.top, self.kernel.0, self.input.height)
    }

    /// As [`Self::rows_inside`] for output column `column`.
    #[must_use]
    pub const fn columns_inside(&self, column: usize) -> (usize, usize, usize) {
        inside(column * self.stride.1, self.padding.left, self.kernel.1, self.input.width)
    }
}

/// Kernel positions `first..last` whose input `start + k − before` lies in `0..extent`.
const fn inside(
    start: usize,
    before: usize,
    kernel: usize,
    extent: usize,
) -> (usize, usize, usize) {
    let first = before.saturating_sub(start);
    let limit = (extent + before).saturating_sub(start);
    let last = if limit < kernel { limit } else { kernel };
    if first >= last { (0, 0, 0) } else { (first, last, start + first - before) }
}

/// The linear map of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LinearGeometry {
    /// A full matrix, weights row-major `n_out × n_in`.
    Dense {
        /// Values read.
        n_in: usize,
        /// Values produced.
        n_out: usize,
    },
    /// A convolution.
    Conv2d(ConvGeometry),
}

impl LinearGeometry {
    /// Values read.
    #[must_use]
    pub const fn n_inputs(&self) -> usize {
        match self {
            Self::Dense { n_in, .. } => *n_in,
            Self::Conv2d(conv) => conv.input.len(),
        }
    }

    /// Values produced.
    #[must_use]
    pub fn n_outputs(&self) -> usize {
        self.output().len()
    }

    /// The volume produced; a vector for a dense map.
    #[must_use]
    pub fn output(&self) -> Volume {
        match self {
            Self::Dense { n_out, .. } => Volume::vector(*n_out),
            Self::Conv2d(conv) => conv.output(),
        }
    }

    /// Channels of the output (its last axis): the rows of the weight matrix.
    #[must_use]
    pub const fn n_channels(&self) -> usize {
        match self {
            Self::Dense { n_out, .. } => *n_out,
            Self::Conv2d(conv) => conv.out_channels,
        }
    }

    /// Weights of one channel: the columns of the weight matrix.
    #[must_use]
    pub const fn taps(&self) -> usize {
        match self {
            Self::Dense { n_in, .. } => *n_in,
            Self::Conv2d(conv) => conv.taps(),
        }
    }

    /// Number of weights.
    #[must_use]
    pub const fn n_weights(&self) -> usize {
        self.n_channels().saturating_mul(self.taps())
    }

    /// Multiplications per sample, those with padding included.
    #[must_use]
    pub fn n_products(&self) -> usize {
        self.n_outputs().saturating_mul(self.taps())
    }

    /// Call `visit(input_idx, weight_idx)` for every product of output `output_idx`, padding
    /// excluded. Output `output_idx` is the sum of `weights[weight_idx] · x[input_idx]`, plus bias.
    pub fn for_each_tap(&self, output_idx: usize, mut visit: impl FnMut(usize, usize)) {
        match self {
            Self::Dense { n_in, .. } => {
                (0..*n_in).for_each(|input| visit(input, output_idx * n_in + input));
            }
            Self::Conv2d(conv) => {
                let out = conv.output();
                let channel = output_idx % out.channels;
                let position = output_idx / out.channels;
                let (ky0, ky1, y0) = conv.rows_inside(position / out.width);
                let (kx0, kx1, x0) = conv.columns_inside(position % out.width);
                let per_group = conv.channels_per_group();
                let (base, n) = match conv.grouping {
                    Grouping::Full => (0, conv.input.channels),
                    Grouping::Depthwise => (channel, 1),
                };
                for (y, ky) in (y0..).zip(ky0..ky1) {
                    for (x, kx) in (x0..).zip(kx0..kx1) {
                        let weight =
                            ((channel * conv.kernel.0 + ky) * conv.kernel.1 + kx) * per_group;
                        let input = conv.input.index(y, x, base);
                        (0..n).for_each(|c| visit(input + c, weight + c));
                    }
                }
            }
        }
    }

    /// Check every dimension of stage `stage`.
    ///
    /// # Errors
    /// - [`crate::Error::OutOfRange`] if a dimension is zero or too large, padding is as wide as the
    ///   kernel, the kernel exceeds the padded input, or a depthwise map changes the channels.
    pub fn check(&self, stage: usize) -> Result<()> {
        let dim = |field, n| require("stage", stage, field, n, 1, MAX_STAGE_VALUES);
        match self {
            Self::Dense { n_in, n_out } => {
                dim("number of inputs", *n_in)?;
                dim("number of outputs", *n_out)?;
            }
            Self::Conv2d(conv) => {
                dim("input height", conv.input.height)?;
                dim("input width", conv.input.width)?;
                dim("input channels", conv.input.channels)?;
                dim("number of inputs", conv.input.len())?;
                dim("output channels", conv.out_channels)?;
                dim("vertical stride", conv.stride.0)?;
                dim("horizontal stride", conv.stride.1)?;
                let Padding { top, bottom, left, right } = conv.padding;
                for (kernel, padding) in
                    [(conv.kernel.0, [top, bottom]), (conv.kernel.1, [left, right])]
                {
                    dim("kernel extent", kernel)?;
                    for zeros in padding {
                        require("stage", stage, "padding", zeros, 0, kernel - 1)?;
                    }
                }
                if conv.grouping == Grouping::Depthwise {
                    let n = conv.input.channels;
                    require("stage", stage, "depthwise output channels", conv.out_channels, n, n)?;
                }
                dim("number of outputs", conv.output().len())?;
                let out = conv.output();
                let maps = match conv.grouping {
                    Grouping::Full => 1,
                    Grouping::Depthwise => out.channels,
                };
                let gathers =
                    out.height.saturating_mul(out.width).saturating_mul(conv.taps() * maps);
                require("stage", stage, "gathered inputs", gathers, 1, MAX_STAGE_GATHERS)?;
            }
        }
        require("stage", stage, "number of weights", self.n_weights(), 1, MAX_STAGE_WEIGHTS)?;
        require("stage", stage, "number of products", self.n_products(), 1, MAX_NETWORK_PRODUCTS)
    }
}

/// What happens to each output of the linear map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ActivationKind {
    /// Nothing.
    Identity,
    /// `max(z, 0)`; at the key holder only.
    Relu,
    /// `a z² + b z + c` per channel, coefficients in the private part.
    Quadratic,
}

/// Sums over rectangular windows of each channel, without padding.
///
/// The divisor of an average pool is part of the refresh that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SumPool {
    /// What it reads: the output of the linear map.
    pub input: Volume,
    /// Window height and width.
    pub window: (usize, usize),
    /// Steps down and right.
    pub stride: (usize, usize),
}

impl SumPool {
    /// What it produces; meaningful after the stage was checked.
    #[must_use]
    pub fn output(&self) -> Volume {
        let extent = |n: usize, window: usize, stride: usize| {
            n.checked_sub(window).and_then(|free| free.checked_div(stride)).map_or(0, |s| s + 1)
        };
        Volume {
            height: extent(self.input.height, self.window.0, self.stride.0),
            width: extent(self.input.width, self.window.1, self.stride.1),
            channels: self.input.channels,
        }
    }

    /// Values summed into one output.
    #[must_use]
    pub const fn n_terms(&self) -> usize {
        self.window.0.saturating_mul(self.window.1)
    }

    /// Call `visit(input_idx)` for every term of output `output_idx`.
    pub fn for_each_term(&self, output_idx: usize, mut visit: impl FnMut(usize)) {
        let out = self.output();
        let (position, channel) = (output_idx / out.channels, output_idx % out.channels);
        let (row, column) = (position / out.width, position % out.width);
        for dy in 0..self.window.0 {
            for dx in 0..self.window.1 {
                let (y, x) = (row * self.stride.0 + dy, column * self.stride.1 + dx);
                visit(self.input.index(y, x, channel));
            }
        }
    }

    /// Call `visit(output_idx)` for every window that contains input `input_idx`.
    pub fn for_each_window(&self, input_idx: usize, mut visit: impl FnMut(usize)) {
        let out = self.output();
        let (position, channel) =
            (input_idx / self.input.channels, input_idx % self.input.channels);
        let (y, x) = (position / self.input.width, position % self.input.width);
        let windows = |at: usize, window: usize, stride: usize, n: usize| {
            (at + 1).saturating_sub(window).div_ceil(stride)..n.min(at / stride + 1)
        };
        for row in windows(y, self.window.0, self.stride.0, out.height) {
            for column in windows(x, self.window.1, self.stride.1, out.width) {
                visit(out.index(row, column, channel));
            }
        }
    }

    fn check(&self, stage: usize, linear: Volume) -> Result<()> {
        let same = |field, actual: usize, expected: usize| {
            require("stage", stage, field, actual, expected, expected)
        };
        same("pool input height", self.input.height, linear.height)?;
        same("pool input width", self.input.width, linear.width)?;
        same("pool input channels", self.input.channels, linear.channels)?;
        require("stage", stage, "pool window height", self.window.0, 1, linear.height)?;
        require("stage", stage, "pool window width", self.window.1, 1, linear.width)?;
        require("stage", stage, "vertical pool stride", self.stride.0, 1, MAX_STAGE_VALUES)?;
        require("stage", stage, "horizontal pool stride", self.stride.1, 1, MAX_STAGE_VALUES)
    }
}

/// Everything public about one stage: `linear → activation → sum pool → refresh`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageStructure {
    /// What it reads, concatenated in this order.
    pub sources: Vec<ValueRef>,
    /// The linear map.
    pub linear: LinearGeometry,
    /// The activation.
    pub activation: ActivationKind,
    /// The sum pool after the activation.
    pub pool: Option<SumPool>,
    /// How its outputs become the integers later stages read; `None` on the last stage only.
    pub refresh: Option<Refresh>,
}

impl StageStructure {
    /// Values read per sample.
    #[must_use]
    pub const fn n_inputs(&self) -> usize {
        self.linear.n_inputs()
    }

    /// The volume after activation and pool.
    #[must_use]
    pub fn output(&self) -> Volume {
        self.pool.map_or_else(|| self.linear.output(), |pool| pool.output())
    }

    /// Values after activation and pool, per sample.
    #[must_use]
    pub fn n_outputs(&self) -> usize {
        self.output().len()
    }

    /// Channels of linear map, pool and refresh alike.
    #[must_use]
    pub const fn n_channels(&self) -> usize {
        self.linear.n_channels()
    }

    /// Values one pool window sums, 1 without a pool.
    #[must_use]
    pub fn pool_terms(&self) -> usize {
        self.pool.map_or(1, |pool| pool.n_terms())
    }

    /// Check the stage on its own (sources need the others).
    ///
    /// # Errors
    /// - [`crate::Error::OutOfRange`] naming the field and its limits.
    pub fn check(&self, stage: usize) -> Result<()> {
        self.linear.check(stage)?;
        if let Some(pool) = &self.pool {
            pool.check(stage, self.linear.output())?;
        }
        require("stage", stage, "number of sources", self.sources.len(), 1, MAX_STAGES)?;
        self.refresh.as_ref().map_or(Ok(()), |refresh| refresh.check(stage, self.n_channels()))
    }
}
