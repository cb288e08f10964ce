//! The public shape of a stage: where its inputs come from and what is done to them.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::StageOutput;
use super::chain::Chain;
use super::check::require;
use super::geometry::{LinearGeometry, Volume};
use super::refresh::Refresh;
use super::table::LookupTable;
use crate::error::{Error, Result};
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

/// What happens to each output of the linear map.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ActivationKind {
    /// Nothing.
    Identity,
    /// `max(z, 0)`; at the key holder only.
    Relu,
    /// `a z² + b z + c` per channel, coefficients in the private part.
    Quadratic,
    /// The value of a table, which is public; at the key holder only.
    Table(LookupTable),
}

/// A step of a stage that is no polynomial of degree 2: only the key holder can take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NonPolynomial {
    /// [`ActivationKind::Relu`].
    Relu,
    /// [`ActivationKind::Table`].
    Table,
    /// [`Reduction::Max`].
    MaxPool,
}

impl NonPolynomial {
    /// What else than the activation at the client would help.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Relu | Self::Table => "replace it by a polynomial with `securedl polynomialize`",
            Self::MaxPool => "train with average pools instead",
        }
    }
}

/// `a ReLU`, `a look-up table`, `a maximum pool`.
impl fmt::Display for NonPolynomial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Relu => "a ReLU",
            Self::Table => "a look-up table",
            Self::MaxPool => "a maximum pool",
        })
    }
}

/// What a pooling window is reduced to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reduction {
    /// Its sum. The divisor of an average pool is part of the refresh that follows.
    Sum,
    /// Its largest value; at the key holder only.
    Max,
}

/// Sums or maxima of rectangular windows of each channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pool {
    /// Sum or maximum.
    pub reduction: Reduction,
    /// What it reads: the output of the linear map.
    pub input: Volume,
    /// Window height and width.
    pub window: (usize, usize),
    /// Steps down and right.
    pub stride: (usize, usize),
    /// By how much windows of maxima reach beyond the volume, on each side less than a window; sums
    /// have none. What is outside is no term.
    pub padding: Padding,
}

impl Pool {
    /// What it produces; meaningful after the stage was checked.
    #[must_use]
    pub fn output(&self) -> Volume {
        let extent = |n: usize, window: usize, stride: usize| {
            n.checked_sub(window).and_then(|free| free.checked_div(stride)).map_or(0, |s| s + 1)
        };
        let (height, width) = self.padded();
        Volume {
            height: extent(height, self.window.0, self.stride.0),
            width: extent(width, self.window.1, self.stride.1),
            channels: self.input.channels,
        }
    }

    /// Height and width of the input with its padding.
    const fn padded(&self) -> (usize, usize) {
        let Padding { top, bottom, left, right } = self.padding;
        let height = self.input.height.saturating_add(top).saturating_add(bottom);
        (height, self.input.width.saturating_add(left).saturating_add(right))
    }

    /// Values reduced to one output, those outside the volume included.
    #[must_use]
    pub const fn n_terms(&self) -> usize {
        self.window.0.saturating_mul(self.window.1)
    }

    /// Values reduced to output `output_idx`: fewer than [`Self::n_terms`] where it meets padding.
    #[must_use]
    pub fn n_terms_of(&self, output_idx: usize) -> usize {
        let (rows, columns) = self.terms(output_idx);
        rows.len() * columns.len()
    }

    /// Call `visit(input_idx)` for every term of output `output_idx`.
    pub fn for_each_term(&self, output_idx: usize, mut visit: impl FnMut(usize)) {
        let channel = output_idx % self.input.channels;
        let (rows, columns) = self.terms(output_idx);
        for y in rows {
            columns.clone().for_each(|x| visit(self.input.index(y, x, channel)));
        }
    }

    /// Rows and columns of the input that a window covers.
    fn terms(&self, output_idx: usize) -> (Range<usize>, Range<usize>) {
        let out = self.output();
        let position = output_idx / out.channels;
        let clipped = |first: usize, window: usize, before: usize, n: usize| {
            first.saturating_sub(before)..(first + window).saturating_sub(before).min(n)
        };
        let (row, column) = (position / out.width, position % out.width);
        let (top, left) = (self.padding.top, self.padding.left);
        (
            clipped(row * self.stride.0, self.window.0, top, self.input.height),
            clipped(column * self.stride.1, self.window.1, left, self.input.width),
        )
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
        let (y, x) = (y + self.padding.top, x + self.padding.left);
        for row in windows(y, self.window.0, self.stride.0, out.height) {
            for column in windows(x, self.window.1, self.stride.1, out.width) {
                visit(out.index(row, column, channel));
            }
        }
    }

    pub(super) fn check(&self, stage: usize, linear: Volume) -> Result<()> {
        let same = |field, actual: usize, expected: usize| {
            require("stage", stage, field, actual, expected, expected)
        };
        same("pool input height", self.input.height, linear.height)?;
        same("pool input width", self.input.width, linear.width)?;
        same("pool input channels", self.input.channels, linear.channels)?;
        // Less than a window, so that no window lies outside; sums have none.
        let most = |window: usize| match self.reduction {
            Reduction::Sum => 0,
            Reduction::Max => window.saturating_sub(1).min(MAX_STAGE_VALUES),
        };
        let Padding { top, bottom, left, right } = self.padding;
        let (most_rows, most_columns) = (most(self.window.0), most(self.window.1));
        require("stage", stage, "rows of pool padding", top.max(bottom), 0, most_rows)?;
        require("stage", stage, "columns of pool padding", left.max(right), 0, most_columns)?;
        let (height, width) = self.padded();
        require("stage", stage, "pool window height", self.window.0, 1, height)?;
        require("stage", stage, "pool window width", self.window.1, 1, width)?;
        require("stage", stage, "vertical pool stride", self.stride.0, 1, MAX_STAGE_VALUES)?;
        require("stage", stage, "horizontal pool stride", self.stride.1, 1, MAX_STAGE_VALUES)?;
        // Padding can make more windows than there are values.
        let Volume { height, width, channels } = self.output();
        let n_outputs = height.saturating_mul(width).saturating_mul(channels);
        require("stage", stage, "outputs of a pool", n_outputs, 1, MAX_STAGE_VALUES)
    }
}

/// Everything public about one stage: `linear → activation → pool → refresh`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageStructure {
    /// What it reads, concatenated in this order.
    pub sources: Vec<ValueRef>,
    /// The linear map.
    pub linear: LinearGeometry,
    /// The activation.
    pub activation: ActivationKind,
    /// The pool after the activation.
    pub pool: Option<Pool>,
    /// How its outputs become the integers later stages read; `None` on the last stage only.
    pub refresh: Option<Refresh>,
    /// Polynomial steps taken before the linear map, without a refresh in between.
    pub chain: Option<Chain>,
}

impl StageStructure {
    /// Values read per sample: by the first step of its chain, or by its linear map.
    #[must_use]
    pub fn n_inputs(&self) -> usize {
        self.chain.as_ref().map_or_else(|| self.linear.n_inputs(), Chain::n_inputs)
    }

    /// Multiplications per sample, those of its chain included.
    #[must_use]
    pub fn n_products(&self) -> usize {
        let before = self.chain.as_ref().map_or(0, Chain::n_products);
        self.linear.n_products().saturating_add(before)
    }

    /// Values per sample where a segment that ends at `output` ends.
    #[must_use]
    pub fn n_outputs_at(&self, output: StageOutput) -> usize {
        match output {
            StageOutput::Linear => self.linear.n_outputs(),
            StageOutput::Pooled => self.n_outputs(),
        }
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
    pub fn n_channels(&self) -> usize {
        self.linear.n_channels()
    }

    /// Values one pool window sums, 1 without a sum pool.
    #[must_use]
    pub fn pool_terms(&self) -> usize {
        self.pool.filter(|pool| pool.reduction == Reduction::Sum).map_or(1, |pool| pool.n_terms())
    }

    /// The table of the activation, if it is one.
    #[must_use]
    pub const fn table(&self) -> Option<&LookupTable> {
        match &self.activation {
            ActivationKind::Table(table) => Some(table),
            ActivationKind::Identity | ActivationKind::Relu | ActivationKind::Quadratic => None,
        }
    }

    /// The first step after the linear map that only the key holder can take.
    #[must_use]
    pub fn non_polynomial(&self) -> Option<NonPolynomial> {
        let is_max = self.pool.is_some_and(|pool| pool.reduction == Reduction::Max);
        match self.activation {
            ActivationKind::Relu => Some(NonPolynomial::Relu),
            ActivationKind::Table(_) => Some(NonPolynomial::Table),
            ActivationKind::Identity | ActivationKind::Quadratic => {
                is_max.then_some(NonPolynomial::MaxPool)
            }
        }
    }

    /// Refuse a stage of which a server could not evaluate everything.
    pub(crate) fn check_polynomial(&self, stage: usize) -> Result<()> {
        match self.non_polynomial() {
            Some(step) => Err(Error::NotAtServer { stage, step }),
            None => Ok(()),
        }
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
        if let Some(table) = self.table() {
            table.check(stage, self.n_channels())?;
            // Bounds the work of range proofs, which read a table once per output.
            let positions = self.linear.n_outputs() / self.n_channels().max(1);
            let n_reads = positions.saturating_mul(table.n_runs());
            require("stage", stage, "runs times positions", n_reads, 1, MAX_NETWORK_PRODUCTS)?;
        }
        require("stage", stage, "number of sources", self.sources.len(), 1, MAX_STAGES)?;
        if let Some(chain) = &self.chain {
            chain.check(stage, self)?;
        }
        self.refresh.as_ref().map_or(Ok(()), |refresh| refresh.check(stage, self.n_channels()))
    }
}
