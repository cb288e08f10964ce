//! Polynomial steps that run into each other without a refresh in between.
//!
//! ```text
//!  x ─► W₁·x + b₁ ─► quadratic ─► pool ─► … ─► W·x + b ─┬────────────────────────► ⌊v/2^d⌉ ─► activation, pool, refresh
//!       └────────── ChainStep ──────────┘               └─► quadratic ─► pool ───► ⌊v/2^d⌉ ─► refresh
//! ```
//!
//! A stage with a [`Chain`] takes its steps first, then its own linear map. Nothing is rounded on the
//! way, so values grow: every step about doubles their bits. They are 128-bit integers, proven to stay
//! inside `±2^120`. Where the segment ends, [`Chain::descale`] drops the lowest bits and everything
//! after it is as in any other stage.
//!
//! Under encryption a chain is one segment: a round trip less for every step, paid for with larger
//! moduli and ciphertexts of higher degree (one square each doubles it).

mod evaluate;
mod ranges;

use serde::{Deserialize, Serialize};

use super::StageOutput;
use super::check::require;
use super::geometry::LinearGeometry;
use super::interval::WideInterval;
use super::structure::{Pool, Reduction, StageStructure};
use super::weights::{Quadratic, check_linear};
use crate::error::{Error, Result};

pub(super) use evaluate::ChainValues;
pub(super) use ranges::{ChainRanges, prove_chain};

/// Most steps before the last linear map: a ciphertext's degree doubles with each square, and ends
/// at 16.
pub const MAX_CHAIN_STEPS: usize = 3;
/// Every value of a chain stays strictly inside `±2^120`.
pub const MAX_WIDE_MAGNITUDE: i128 = 1 << 120;
/// Largest exponent of biases, constants and of the final division.
pub const MAX_EXPONENT: u32 = 112;

/// The public part of one step: `pool(quadratic(W·x + b·2^e))`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainStep {
    /// The linear map.
    pub linear: LinearGeometry,
    /// The sum pool after the quadratic.
    pub pool: Option<Pool>,
    /// By which powers of two the step's constants are multiplied.
    pub exponents: Exponents,
}

/// Binary exponents of constants: they are added to values of more bits than they are given with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exponents {
    /// Biases count `2^bias`.
    pub bias: u32,
    /// Constants `c` of quadratics count `2^constant`.
    pub constant: u32,
}

/// What a stage does before its own linear map, and how it comes back to 64 bits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// The steps in order, at least one.
    pub steps: Vec<ChainStep>,
    /// Exponents of the stage's own bias and constants.
    pub exponents: Exponents,
    /// Where the segment ends, and values are divided: after the stage's linear map, or after its
    /// activation and pool too, which must then be polynomial.
    pub ends: StageOutput,
    /// `d`: a value `v` becomes `floor((v + 2^(d−1)) / 2^d)`, unchanged for `d = 0`.
    pub descale: u32,
}

/// The private part of one step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepWeights {
    /// Row-major, as [`super::StageWeights::weights`].
    pub weights: Vec<i16>,
    /// Per channel, or per output position (channel fastest), without its exponent.
    pub bias: Vec<i64>,
    /// The quadratic, `c` without its exponent.
    pub quadratic: Quadratic,
}

impl ChainStep {
    /// Values after quadratic and pool, per sample.
    #[must_use]
    pub fn n_outputs(&self) -> usize {
        self.pool.map_or_else(|| self.linear.output(), |pool| pool.output()).len()
    }

    /// Values one pool window sums, 1 without a pool.
    #[must_use]
    pub fn pool_terms(&self) -> usize {
        self.pool.map_or(1, |pool| pool.n_terms())
    }

    fn check(&self, stage: usize) -> Result<()> {
        self.linear.check(stage)?;
        self.exponents.check(stage)?;
        let Some(pool) = &self.pool else { return Ok(()) };
        let n_maxima = usize::from(pool.reduction == Reduction::Max);
        require("stage", stage, "number of maximum pools in its chain", n_maxima, 0, 0)?;
        pool.check(stage, self.linear.output())
    }
}

impl StepWeights {
    /// The bias of output `output_idx` with its exponent.
    pub(crate) fn bias_of(&self, step: &ChainStep, output_idx: usize) -> i128 {
        let n_channels = step.linear.n_channels();
        i128::from(super::weights::bias_of(&self.bias, output_idx, n_channels))
            << step.exponents.bias
    }

    /// `(a, b, c)` of channel `channel`, `c` with its exponent.
    pub(crate) fn coefficients(&self, step: &ChainStep, channel: usize) -> (i32, i64, i128) {
        let (a, b, c) = self.quadratic.coefficients(channel);
        (a, b, i128::from(c) << step.exponents.constant)
    }

    pub(super) fn check(&self, stage: usize, step: &ChainStep) -> Result<()> {
        check_linear(stage, &step.linear, &self.weights, &self.bias)?;
        self.quadratic.check(stage, step.linear.n_channels())
    }
}

impl Exponents {
    fn check(self, stage: usize) -> Result<()> {
        // A constant of 57 bits stays inside 128 bits, and far outside what any proof allows.
        require("stage", stage, "exponent of its biases", self.bias, 0, MAX_BIAS_EXPONENT)?;
        require("stage", stage, "exponent of its constants", self.constant, 0, MAX_BIAS_EXPONENT)
    }
}

/// `2^56 · 2^64 = 2^120`.
const MAX_BIAS_EXPONENT: u32 = 64;

impl Chain {
    /// Values read per sample.
    #[must_use]
    pub fn n_inputs(&self) -> usize {
        self.steps.first().map_or(0, |step| step.linear.n_inputs())
    }

    /// Divide a value where the segment ends.
    ///
    /// Values of a checked network inside its proven or planned ranges fit 64 bits; others saturate.
    #[must_use]
    pub fn descaled(&self, v: i128) -> i64 {
        descale(v, self.descale)
    }

    /// Squares a server evaluates in a row: one per step, and one for the stage's own quadratic.
    #[must_use]
    pub fn n_squares(&self, evaluates_activation: bool) -> usize {
        self.steps.len() + usize::from(evaluates_activation)
    }

    pub(super) fn n_values(&self) -> usize {
        let values =
            |step: &ChainStep| step.linear.n_inputs().saturating_add(step.linear.n_outputs());
        self.steps.iter().fold(0, |sum, step| sum.saturating_add(values(step)))
    }

    pub(super) fn n_products(&self) -> usize {
        self.steps.iter().fold(0, |sum, step| sum.saturating_add(step.linear.n_products()))
    }

    /// Check against the stage it belongs to.
    pub(super) fn check(&self, stage: usize, structure: &StageStructure) -> Result<()> {
        let n_steps = self.steps.len();
        require("stage", stage, "number of steps of its chain", n_steps, 1, MAX_CHAIN_STEPS)?;
        require("stage", stage, "exponent of its division", self.descale, 0, MAX_EXPONENT)?;
        self.exponents.check(stage)?;
        for step in &self.steps {
            step.check(stage)?;
        }
        let readers = self.steps.iter().skip(1).map(|step| &step.linear);
        let readers = readers.chain(std::iter::once(&structure.linear));
        for (step, reader) in self.steps.iter().zip(readers) {
            let n = step.n_outputs();
            let field = "number of values a step of its chain reads";
            require("stage", stage, field, reader.n_inputs(), n, n)?;
        }
        match (self.ends, structure.non_polynomial()) {
            (StageOutput::Pooled, Some(step)) => Err(Error::NotAtServer { stage, step }),
            _ => Ok(()),
        }
    }
}

/// `floor((v + 2^(d−1)) / 2^d)`, saturating at the ends of `i64`. No branch depends on `v`.
#[expect(clippy::cast_possible_truncation, reason = "clamped to i64")]
pub(super) fn descale(v: i128, exponent: u32) -> i64 {
    let half = (1_i128 << exponent) >> 1;
    let scaled = v.saturating_add(half) >> exponent;
    scaled.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

/// Both ends divided.
pub(super) fn descale_interval(range: WideInterval, exponent: u32) -> super::Interval {
    super::Interval { low: descale(range.low, exponent), high: descale(range.high, exponent) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn division_rounds_half_up() {
        let of = |v| descale(v, 2);
        assert_eq!([5, 6, -5, -6, -7].map(of), [1, 2, -1, -1, -2]);
        assert_eq!(descale(-7, 0), -7);
        assert_eq!(descale(i128::MAX, 1), i64::MAX);
        assert_eq!(descale(1 << 119, 112), 128);
    }
}
