//! Closed intervals.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The closed interval on which a polynomial is to be good.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "(f64, f64)", into = "(f64, f64)")]
pub struct Interval {
    /// Invariant: finite and below `high`.
    low: f64,
    high: f64,
}

impl Interval {
    /// Largest magnitude of an end.
    pub const MAX_MAGNITUDE: f64 = 1e6;
    /// Smallest length.
    pub const MIN_LENGTH: f64 = 1e-6;

    /// `[low, high]`.
    ///
    /// # Errors
    /// - [`Error::InvalidSetting`] unless both are at most 10⁶ in magnitude and `low` is at least 10⁻⁶
    ///   below `high`.
    pub fn new(low: f64, high: f64) -> Result<Self> {
        for (setting, value) in
            [("low end of the interval", low), ("high end of the interval", high)]
        {
            // Also catches NaN.
            if !(-Self::MAX_MAGNITUDE..=Self::MAX_MAGNITUDE).contains(&value) {
                let requirement = "between -1000000 and 1000000";
                return Err(Error::InvalidSetting { setting, value, requirement });
            }
        }
        if high - low < Self::MIN_LENGTH {
            return Err(Error::InvalidSetting {
                setting: "length of the interval",
                value: high - low,
                requirement: "at least 0.000001",
            });
        }
        Ok(Self { low, high })
    }

    /// `[−l, l]`.
    ///
    /// # Errors
    /// - [`Error::InvalidSetting`] as for [`Self::new`].
    pub fn symmetric(l: f64) -> Result<Self> {
        Self::new(-l, l)
    }

    /// Lower end.
    #[must_use]
    pub fn low(&self) -> f64 {
        self.low
    }

    /// Upper end.
    #[must_use]
    pub fn high(&self) -> f64 {
        self.high
    }

    /// The point in the middle.
    #[must_use]
    pub fn center(&self) -> f64 {
        f64::midpoint(self.low, self.high)
    }

    /// Half the length.
    #[must_use]
    pub fn half_width(&self) -> f64 {
        (self.high - self.low) / 2.0
    }

    /// Whether `x` lies in it, ends included.
    #[must_use]
    pub fn contains(&self, x: f64) -> bool {
        (self.low..=self.high).contains(&x)
    }

    /// The point of the interval nearest to `x`.
    #[must_use]
    pub fn nearest(&self, x: f64) -> f64 {
        x.clamp(self.low, self.high)
    }

    /// The coordinate in which the interval is `[−1, 1]`.
    #[must_use]
    pub fn to_unit(&self, x: f64) -> f64 {
        (x - self.center()) / self.half_width()
    }

    /// Inverse of [`Self::to_unit`].
    #[must_use]
    pub fn from_unit(&self, z: f64) -> f64 {
        self.center() + self.half_width() * z
    }
}

impl TryFrom<(f64, f64)> for Interval {
    type Error = Error;

    fn try_from((low, high): (f64, f64)) -> Result<Self> {
        Self::new(low, high)
    }
}

impl From<Interval> for (f64, f64) {
    fn from(interval: Interval) -> Self {
        (interval.low, interval.high)
    }
}

/// `[-4, 4]`, in four significant digits.
impl fmt::Display for Interval {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rounded = |x: f64| format!("{x:.3e}").parse::<f64>().unwrap_or(x);
        write!(formatter, "[{}, {}]", rounded(self.low), rounded(self.high))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_out_of_order_or_range_are_named() {
        for (low, high, expected) in [
            (f64::NAN, 1.0, "low end"),
            (0.0, f64::INFINITY, "high end"),
            (-2e6, 1.0, "low end"),
            (1.0, 1.0, "length"),
            (1.0, -1.0, "length"),
        ] {
            let error = Interval::new(low, high).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(Interval::symmetric(-3.0).is_err());
        assert_eq!(Interval::new(-1.0, 3.23456).unwrap().to_string(), "[-1, 3.235]");
    }
}
