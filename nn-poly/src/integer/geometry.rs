//! The shapes of linear maps: fully connected, convolutions, and sums of them.

use serde::{Deserialize, Serialize};

use super::check::require;
use super::structure::{
    MAX_NETWORK_PRODUCTS, MAX_STAGE_GATHERS, MAX_STAGE_VALUES, MAX_STAGE_WEIGHTS, MAX_STAGES,
};
use crate::error::Result;
use crate::layer::Padding;

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
    /// Those of its group: channels on both sides are cut into this many runs of equal length;
    /// weights `(out_channels, kernel_h, kernel_w, in_channels / groups)`.
    Groups(usize),
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
            Grouping::Groups(n) => match self.input.channels.checked_div(n) {
                Some(channels) => channels,
                None => 0,
            },
        }
    }

    /// Runs into which the channels are cut: 1 if every output channel reads all.
    #[must_use]
    pub const fn n_groups(&self) -> usize {
        match self.grouping {
            Grouping::Full => 1,
            Grouping::Depthwise => self.input.channels,
            Grouping::Groups(n) => n,
        }
    }

    /// The first input channel that output channel `channel` reads.
    #[must_use]
    pub const fn first_channel(&self, channel: usize) -> usize {
        match self.out_channels.checked_div(self.n_groups()) {
            Some(per_group) if per_group > 0 => channel / per_group * self.channels_per_group(),
            _ => 0,
        }
    }

    /// Call `visit(input_idx, tap_idx)` for every product of output `output_idx`, padding excluded;
    /// taps count through one output channel's weights, kernel row by row, channels fastest.
    pub fn for_each_tap(&self, output_idx: usize, mut visit: impl FnMut(usize, usize)) {
        let out = self.output();
        let (position, channel) = (output_idx / out.channels, output_idx % out.channels);
        let (ky0, ky1, y0) = self.rows_inside(position / out.width);
        let (kx0, kx1, x0) = self.columns_inside(position % out.width);
        let (base, n) = (self.first_channel(channel), self.channels_per_group());
        for (y, ky) in (y0..).zip(ky0..ky1) {
            for (x, kx) in (x0..).zip(kx0..kx1) {
                let tap = (ky * self.kernel.1 + kx) * n;
                let input = self.input.index(y, x, base);
                (0..n).for_each(|c| visit(input + c, tap + c));
            }
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

impl ConvGeometry {
    /// Inputs gathered by all positions and groups: an evaluator lists each.
    fn n_gathers(&self) -> usize {
        let out = self.output();
        let positions = out.height.saturating_mul(out.width);
        positions.saturating_mul(self.taps().saturating_mul(self.n_groups()))
    }

    fn check(&self, stage: usize) -> Result<()> {
        let dim = |field, n| require("stage", stage, field, n, 1, MAX_STAGE_VALUES);
        dim("input height", self.input.height)?;
        dim("input width", self.input.width)?;
        dim("input channels", self.input.channels)?;
        dim("number of inputs", self.input.len())?;
        dim("output channels", self.out_channels)?;
        dim("vertical stride", self.stride.0)?;
        dim("horizontal stride", self.stride.1)?;
        let Padding { top, bottom, left, right } = self.padding;
        for (kernel, padding) in [(self.kernel.0, [top, bottom]), (self.kernel.1, [left, right])] {
            dim("kernel extent", kernel)?;
            for zeros in padding {
                require("stage", stage, "padding", zeros, 0, kernel - 1)?;
            }
        }
        match self.grouping {
            Grouping::Full => {}
            Grouping::Depthwise => {
                let n = self.input.channels;
                require("stage", stage, "depthwise output channels", self.out_channels, n, n)?;
            }
            Grouping::Groups(n) => {
                dim("number of groups", n)?;
                let rests = [self.input.channels % n, self.out_channels % n];
                for rest in rests {
                    require("stage", stage, "channels left over by the groups", rest, 0, 0)?;
                }
            }
        }
        dim("number of outputs", self.output().len())?;
        require("stage", stage, "gathered inputs", self.n_gathers(), 1, MAX_STAGE_GATHERS)
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

/// One summand of a [`SumGeometry`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SumTerm {
    /// Where the values it reads begin among those of the stage.
    pub first_input: usize,
    /// What it does with them. A full matrix is a convolution of a plane of one position.
    pub conv: ConvGeometry,
}

/// Several convolutions of one output shape, added: residual connections, and layers that read the
/// channels of several values.
///
/// The weights of an output channel are those of its terms, one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SumGeometry {
    /// Values read. Terms may read the same ones, and need not read all.
    pub n_in: usize,
    /// At least one.
    pub terms: Vec<SumTerm>,
}

impl SumGeometry {
    /// The volume every term produces.
    #[must_use]
    pub fn output(&self) -> Volume {
        self.terms.first().map_or(Volume::vector(0), |term| term.conv.output())
    }

    /// Channels every term produces.
    #[must_use]
    pub fn n_channels(&self) -> usize {
        self.terms.first().map_or(0, |term| term.conv.out_channels)
    }

    /// Weights of one output channel, in all terms.
    #[must_use]
    pub fn taps(&self) -> usize {
        self.terms.iter().fold(0, |sum, term| sum.saturating_add(term.conv.taps()))
    }

    /// The number of groups of every term, if it is the same.
    #[must_use]
    pub fn common_groups(&self) -> Option<usize> {
        let n = self.terms.first()?.conv.n_groups();
        self.terms.iter().all(|term| term.conv.n_groups() == n).then_some(n)
    }

    fn check(&self, stage: usize) -> Result<()> {
        require("stage", stage, "number of inputs", self.n_in, 1, MAX_STAGE_VALUES)?;
        require("stage", stage, "number of terms", self.terms.len(), 1, MAX_STAGES)?;
        let (mut n_read, mut n_gathers, mut n_expanded) = (0_usize, 0_usize, 0_usize);
        for SumTerm { first_input, conv } in &self.terms {
            conv.check(stage)?;
            let room = self.n_in.saturating_sub(conv.input.len());
            require("stage", stage, "inputs before a term", *first_input, 0, room)?;
            require("stage", stage, "number of inputs of a term", conv.input.len(), 1, self.n_in)?;
            let (out, expected) = (conv.output(), self.output());
            for (field, actual, expected) in [
                ("output height of a term", out.height, expected.height),
                ("output width of a term", out.width, expected.width),
                ("output channels of a term", out.channels, expected.channels),
            ] {
                require("stage", stage, field, actual, expected, expected)?;
            }
            n_read = n_read.saturating_add(conv.input.len());
            n_gathers = n_gathers.saturating_add(conv.n_gathers());
            // Terms of different groups are evaluated as if every channel read all.
            let all = Grouping::Full;
            let full = ConvGeometry { grouping: all, ..*conv };
            n_expanded = n_expanded.saturating_add(full.taps());
        }
        // Bounds every sum of products, which the fast path relies on.
        require("stage", stage, "values read by all terms", n_read, 1, MAX_STAGE_VALUES)?;
        require("stage", stage, "gathered inputs", n_gathers, 1, MAX_STAGE_GATHERS)?;
        if self.common_groups().is_none() {
            let n_weights = n_expanded.saturating_mul(self.n_channels());
            require("stage", stage, "number of weights", n_weights, 1, MAX_STAGE_WEIGHTS)?;
            let out = self.output();
            let n_gathers = n_expanded.saturating_mul(out.height.saturating_mul(out.width));
            require("stage", stage, "gathered inputs", n_gathers, 1, MAX_STAGE_GATHERS)?;
            let n_products = n_expanded.saturating_mul(out.len());
            require("stage", stage, "number of products", n_products, 1, MAX_NETWORK_PRODUCTS)?;
        }
        Ok(())
    }
}

/// The linear map of a stage.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
    /// Several convolutions, added.
    Sum(SumGeometry),
}

impl LinearGeometry {
    /// Values read.
    #[must_use]
    pub fn n_inputs(&self) -> usize {
        match self {
            Self::Dense { n_in, .. } => *n_in,
            Self::Conv2d(conv) => conv.input.len(),
            Self::Sum(sum) => sum.n_in,
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
            Self::Sum(sum) => sum.output(),
        }
    }

    /// Channels of the output (its last axis): the rows of the weight matrix.
    #[must_use]
    pub fn n_channels(&self) -> usize {
        match self {
            Self::Dense { n_out, .. } => *n_out,
            Self::Conv2d(conv) => conv.out_channels,
            Self::Sum(sum) => sum.n_channels(),
        }
    }

    /// Weights of one channel: the columns of the weight matrix.
    #[must_use]
    pub fn taps(&self) -> usize {
        match self {
            Self::Dense { n_in, .. } => *n_in,
            Self::Conv2d(conv) => conv.taps(),
            Self::Sum(sum) => sum.taps(),
        }
    }

    /// Number of weights.
    #[must_use]
    pub fn n_weights(&self) -> usize {
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
                let first = output_idx % conv.out_channels * conv.taps();
                conv.for_each_tap(output_idx, |input, tap| visit(input, first + tap));
            }
            Self::Sum(sum) => {
                let mut first = output_idx % sum.n_channels() * sum.taps();
                for SumTerm { first_input, conv } in &sum.terms {
                    conv.for_each_tap(output_idx, |input, tap| {
                        visit(first_input + input, first + tap);
                    });
                    first += conv.taps();
                }
            }
        }
    }

    /// Check every dimension of stage `stage`.
    ///
    /// # Errors
    /// - [`crate::Error::OutOfRange`] if a dimension is zero or too large, padding is as wide as the
    ///   kernel, the kernel exceeds the padded input, a depthwise map changes the channels, groups do
    ///   not divide them, or terms of a sum read beyond the inputs or differ in their output.
    pub fn check(&self, stage: usize) -> Result<()> {
        let dim = |field, n| require("stage", stage, field, n, 1, MAX_STAGE_VALUES);
        match self {
            Self::Dense { n_in, n_out } => {
                dim("number of inputs", *n_in)?;
                dim("number of outputs", *n_out)?;
            }
            Self::Conv2d(conv) => conv.check(stage)?,
            Self::Sum(sum) => sum.check(stage)?,
        }
        require("stage", stage, "number of weights", self.n_weights(), 1, MAX_STAGE_WEIGHTS)?;
        require("stage", stage, "number of products", self.n_products(), 1, MAX_NETWORK_PRODUCTS)
    }
}
