//! Rescaling between stages: `clamp(floor((v·m + 2^(s−1)) / 2^s), min, max)`.

use serde::{Deserialize, Serialize};

use super::check::require;
use super::interval::Interval;
use crate::error::Result;

/// Largest `|multiplier|`.
pub const MAX_MULTIPLIER: i64 = 1 << 40;
/// Largest shift.
pub const MAX_SHIFT: u32 = 62;
/// Largest magnitude of a refreshed value.
pub const MAX_REFRESHED: i32 = 1 << 16;

/// How the outputs of a stage become the integers of the next grid.
///
/// For an output `v` of channel `c`: `clamp(floor((v · multipliers[c] + 2^(shift−1)) / 2^shift),
/// min, max)`, round half up, the product exact; with `shift = 0` nothing is added.
///
/// Example: multiplier 3, shift 2 takes 5 to `floor((15 + 2) / 4) = 4` and −5 to
/// `floor((−15 + 2) / 4) = −4`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Refresh {
    /// One per channel (last axis), or a single one for all channels.
    pub multipliers: Vec<i64>,
    /// Binary places dropped.
    pub shift: u32,
    /// Smallest result.
    pub min: i32,
    /// Largest result.
    pub max: i32,
}

impl Refresh {
    /// The multiplier of channel `channel`.
    #[must_use]
    pub fn multiplier(&self, channel: usize) -> i64 {
        let position = if self.multipliers.len() == 1 { 0 } else { channel };
        self.multipliers.get(position).copied().unwrap_or(0)
    }

    /// The interval of results.
    #[must_use]
    pub fn interval(&self) -> Interval {
        Interval { low: i64::from(self.min), high: i64::from(self.max) }
    }

    /// Refresh one value: the definition.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "clamped between two i32")]
    pub fn apply(&self, channel: usize, v: i64) -> i32 {
        let product = i128::from(v) * i128::from(self.multiplier(channel));
        let scaled = (product + self.half()) >> self.shift;
        scaled.clamp(i128::from(self.min), i128::from(self.max)) as i32
    }

    const fn half(&self) -> i128 {
        (1_i128 << self.shift) >> 1
    }

    /// Refresh the values of one neuron for many samples; return how many the clamp changed.
    ///
    /// Equal to [`Self::apply`] on every value; `domain` must contain the values.
    /// Free of branches on values; 64-bit arithmetic where the domain allows it.
    pub(super) fn apply_row(
        &self,
        channel: usize,
        domain: Interval,
        values: &[i64],
        out: &mut [i32],
    ) -> u64 {
        let multiplier = self.multiplier(channel);
        let reach = i128::from(domain.magnitude()) * i128::from(multiplier).abs() + self.half();
        match i64::try_from(reach) {
            Ok(_) => self.apply_row_narrow(multiplier, values, out),
            Err(_) => self.apply_row_wide(multiplier, values, out),
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "clamped between two i32; half < 2^62")]
    fn apply_row_narrow(&self, multiplier: i64, values: &[i64], out: &mut [i32]) -> u64 {
        let (half, shift) = (self.half() as i64, self.shift);
        let (min, max) = (i64::from(self.min), i64::from(self.max));
        let mut n_clamped = 0;
        for (out, &v) in out.iter_mut().zip(values) {
            let scaled = (v * multiplier + half) >> shift;
            let clamped = scaled.max(min).min(max);
            n_clamped += u64::from(clamped != scaled);
            *out = clamped as i32;
        }
        n_clamped
    }

    #[expect(clippy::cast_possible_truncation, reason = "clamped between two i32")]
    fn apply_row_wide(&self, multiplier: i64, values: &[i64], out: &mut [i32]) -> u64 {
        let (min, max) = (i128::from(self.min), i128::from(self.max));
        let mut n_clamped = 0;
        for (out, &v) in out.iter_mut().zip(values) {
            let scaled = (i128::from(v) * i128::from(multiplier) + self.half()) >> self.shift;
            let clamped = scaled.max(min).min(max);
            n_clamped += u64::from(clamped != scaled);
            *out = clamped as i32;
        }
        n_clamped
    }

    /// Check against the number of channels of stage `stage`.
    pub(super) fn check(&self, stage: usize, n_channels: usize) -> Result<()> {
        let n = self.multipliers.len();
        if n != 1 {
            require("stage", stage, "number of refresh multipliers", n, n_channels, n_channels)?;
        }
        for &m in &self.multipliers {
            require("stage", stage, "refresh multiplier", m, -MAX_MULTIPLIER, MAX_MULTIPLIER)?;
        }
        require("stage", stage, "refresh shift", self.shift, 0, MAX_SHIFT)?;
        require("stage", stage, "refresh minimum", self.min, -MAX_REFRESHED, MAX_REFRESHED)?;
        require("stage", stage, "refresh maximum", self.max, self.min, MAX_REFRESHED)
    }
}
