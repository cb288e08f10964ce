//! Closed integer intervals and the arithmetic of range proofs.

use super::MAX_MAGNITUDE;

/// The integers `low ..= high`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Interval {
    /// Smallest member.
    pub low: i64,
    /// Largest member.
    pub high: i64,
}

impl Interval {
    /// The interval that holds one value.
    #[must_use]
    pub const fn point(v: i64) -> Self {
        Self { low: v, high: v }
    }

    /// The empty interval, neutral for [`Self::hull`].
    pub(crate) const EMPTY: Self = Self { low: i64::MAX, high: i64::MIN };

    /// Whether `v` is a member.
    #[must_use]
    pub const fn contains(&self, v: i64) -> bool {
        self.low <= v && v <= self.high
    }

    /// The smallest interval that contains both.
    #[must_use]
    pub fn hull(self, other: Self) -> Self {
        Self { low: self.low.min(other.low), high: self.high.max(other.high) }
    }

    /// The members of both.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self { low: self.low.max(other.low), high: self.high.min(other.high) }
    }

    /// Whether every member of `other` is a member.
    #[must_use]
    pub const fn covers(&self, other: &Self) -> bool {
        self.low <= other.low && other.high <= self.high
    }

    /// Largest absolute value of a member.
    #[must_use]
    pub const fn magnitude(&self) -> u64 {
        let (low, high) = (self.low.unsigned_abs(), self.high.unsigned_abs());
        if low > high { low } else { high }
    }

    /// Number of members; 0 if `high < low`.
    #[must_use]
    pub const fn width(&self) -> u64 {
        if self.high < self.low { 0 } else { self.high.abs_diff(self.low).saturating_add(1) }
    }

    /// Both ends moved away from zero by `factor`, saturating at `±2^62`: the calibration margin.
    #[must_use]
    pub fn widened(self, factor: u32) -> Self {
        let by = |v: i64| (i128::from(v) * i128::from(factor)).clamp(-LIMIT, LIMIT);
        Self { low: narrow(by(self.low)).min(0), high: narrow(by(self.high)).max(0) }
    }

    /// Smallest and largest of a row of values.
    pub(super) fn of(values: &[i64]) -> Self {
        values
            .iter()
            .fold(Self::EMPTY, |range, &v| Self { low: range.low.min(v), high: range.high.max(v) })
    }

    /// Narrow from the wide arithmetic of proofs.
    pub(super) fn from_wide(wide: WideInterval) -> Self {
        Self { low: narrow(wide.low), high: narrow(wide.high) }
    }
}

const LIMIT: i128 = MAX_MAGNITUDE as i128;

#[expect(clippy::cast_possible_truncation, reason = "clamped to ±2^62")]
fn narrow(v: i128) -> i64 {
    v.clamp(-LIMIT, LIMIT) as i64
}

/// A closed interval in 128 bits: for the values of chains, and wide enough for every step of a proof.
///
/// Inputs of each step of a proof are bounded so that no step leaves `i128`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WideInterval {
    /// Smallest member.
    pub low: i128,
    /// Largest member.
    pub high: i128,
}

impl From<Interval> for WideInterval {
    fn from(range: Interval) -> Self {
        Self { low: i128::from(range.low), high: i128::from(range.high) }
    }
}

impl WideInterval {
    /// Largest absolute value.
    #[must_use]
    pub fn magnitude(self) -> i128 {
        self.low.saturating_abs().max(self.high.saturating_abs())
    }

    /// Exact range of `a z² + b z + c` over the integers of `self`.
    ///
    /// A parabola is monotone on each side of its vertex, so its extremes over the integers of an
    /// interval are at the two ends or at the two integers around `−b/2a`.
    pub(super) fn quadratic(self, a: i32, b: i64, c: i128) -> Self {
        let (a, b) = (i128::from(a), i128::from(b));
        let at = |z: i128| (a * z + b) * z + c;
        let vertex = if a == 0 { self.low } else { (-b).div_euclid(2 * a) };
        let inside = |z: i128| z.clamp(self.low, self.high);
        let candidates =
            [self.low, self.high, inside(vertex), inside(vertex + 1), inside(vertex - 1)].map(at);
        candidates.iter().fold(Self { low: i128::MAX, high: i128::MIN }, |range, &v| Self {
            low: range.low.min(v),
            high: range.high.max(v),
        })
    }

    /// The smallest interval that contains both.
    pub(super) fn hull(self, other: Self) -> Self {
        Self { low: self.low.min(other.low), high: self.high.max(other.high) }
    }

    pub(super) fn relu(self) -> Self {
        Self { low: self.low.max(0), high: self.high.max(0) }
    }

    /// Range of the larger of two values.
    pub(super) fn largest(self, other: Self) -> Self {
        Self { low: self.low.max(other.low), high: self.high.max(other.high) }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self { low: self.low + other.low, high: self.high + other.high }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_quadratic_range_is_exact(
            a in -4_i32..=4, b in -40_i64..=40, c in -9_i64..=9, low in -30_i64..=30, n in 0_i64..=40,
        ) {
            let values = (low..=low + n)
                .map(|z| i128::from(a) * i128::from(z * z) + i128::from(b * z + c))
                .collect::<Vec<_>>();
            let range = WideInterval::from(Interval { low, high: low + n }).quadratic(a, b, c.into());
            prop_assert_eq!(Some(&range.low), values.iter().min());
            prop_assert_eq!(Some(&range.high), values.iter().max());
        }
    }

    #[test]
    fn widening_keeps_zero_inside() {
        let range = Interval { low: 3, high: 5 }.widened(2);
        assert_eq!(range, Interval { low: 0, high: 10 });
        assert_eq!(Interval { low: i64::MIN, high: 1 }.widened(2).low, -MAX_MAGNITUDE);
    }
}
