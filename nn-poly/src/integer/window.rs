//! The representatives modulo `t` in which a segment's outputs are delivered.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::interval::Interval;

/// The interval of representatives into which every output of a segment is reduced.
///
/// `reduce(v)` is the value congruent to `v` modulo `modulus` in `[low, low + modulus)`. It is
/// part of the semantics: decryption does exactly this, so the encrypted run equals the
/// simulation even where a calibrated range is exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Window {
    /// Smallest representative; `|low| ≤ 2^62`.
    pub low: i64,
    /// Number of representatives, `1 ..= 2^62`.
    pub modulus: u64,
}

impl Window {
    /// The window `[0, modulus)`.
    #[must_use]
    pub const fn from_zero(modulus: u64) -> Self {
        Self { low: 0, modulus }
    }

    /// The window centred on zero: `[-floor(modulus/2), ceil(modulus/2))`; for an odd modulus
    /// `-(modulus-1)/2 ..= (modulus-1)/2`.
    #[must_use]
    pub const fn centered(modulus: u64) -> Self {
        Self { low: -((modulus / 2).cast_signed()), modulus }
    }

    /// Largest representative.
    #[must_use]
    pub const fn high(&self) -> i64 {
        self.low.wrapping_add_unsigned(self.modulus.wrapping_sub(1))
    }

    /// Whether `v` is one of the representatives.
    #[must_use]
    pub const fn contains(&self, v: i64) -> bool {
        v >= self.low && v <= self.high()
    }

    /// Whether every value of `low..=high` is a representative.
    #[must_use]
    pub const fn covers(&self, low: i64, high: i64) -> bool {
        self.contains(low) && self.contains(high)
    }

    /// The representatives as an interval.
    #[must_use]
    pub const fn interval(&self) -> Interval {
        Interval { low: self.low, high: self.high() }
    }

    /// Reduce `v` into the window. Exact for every `i64`.
    ///
    /// # Panics
    /// If the modulus is zero, which no checked plan contains.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the remainder lies in [0, modulus) and modulus ≤ 2^62"
    )]
    pub const fn reduce(&self, v: i64) -> i64 {
        let offset = (v as i128 - self.low as i128).rem_euclid(self.modulus as i128);
        self.low.wrapping_add_unsigned(offset as u64)
    }
}

impl Window {
    /// As [`Self::reduce`], of a value of more bits.
    ///
    /// # Panics
    /// If the modulus is zero, which no checked plan contains.
    #[must_use]
    pub const fn reduce_wide(&self, v: i128) -> i64 {
        // A multiple of the modulus less, so that the difference below fits.
        let rest = v.rem_euclid(self.modulus as i128);
        #[expect(clippy::cast_possible_truncation, reason = "below 2^62")]
        self.reduce(rest as i64)
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {}] modulo {}", self.low, self.high(), self.modulus)
    }
}
