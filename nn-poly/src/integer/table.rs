//! Look-up tables: activations that are no polynomials, as step functions on the integers.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::check::require;
use super::interval::Interval;
use super::{MAX_MAGNITUDE, MAX_STAGE_VALUES};
use crate::error::{Error, Result};

/// Most runs of one table, all channels together: 12 MiB.
pub const MAX_TABLE_RUNS: usize = 1 << 20;
/// Most runs of all tables of a network: 48 MiB.
pub const MAX_NETWORK_TABLE_RUNS: usize = 1 << 22;
/// Largest magnitude of a value in a table.
pub const MAX_TABLE_VALUE: i32 = 1 << 30;

/// A piecewise constant function of the integers.
///
/// `values[0]` below `starts[0]`, `values[i]` from `starts[i − 1]` on, until the next start. Defined for
/// every `z`. Neighboring values differ, so that equal functions are equal bytes.
///
/// Example: starts `[−2, 5]` and values `[0, 1, 7]` take −3 to 0, −2 to 1, 4 to 1 and 5 to 7.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "(Vec<i64>, Vec<i32>)", into = "(Vec<i64>, Vec<i32>)")]
pub struct StepFunction {
    /// Invariant: strictly ascending, inside `±2^62`.
    starts: Vec<i64>,
    /// Invariant: one more than starts, neighbors differ.
    values: Vec<i32>,
}

impl StepFunction {
    /// Check starts and values.
    ///
    /// # Errors
    /// - [`Error::OutOfRange`] unless starts ascend strictly inside `±2^62`, there is one more value than
    ///   starts and at most [`MAX_TABLE_RUNS`], values are at most [`MAX_TABLE_VALUE`] in magnitude, and
    ///   neighbors differ.
    pub fn new(starts: Vec<i64>, values: Vec<i32>) -> Result<Self> {
        const TABLE: &str = "look-up table";
        require(TABLE, 0, "number of runs", values.len(), 1, MAX_TABLE_RUNS)?;
        let n = values.len() - 1;
        require(TABLE, 0, "number of starts", starts.len(), n, n)?;
        let mut least = -MAX_MAGNITUDE + 1;
        for (idx, &start) in starts.iter().enumerate() {
            require(TABLE, idx, "start of a run", start, least, MAX_MAGNITUDE - 1)?;
            least = start + 1;
        }
        for (idx, &value) in values.iter().enumerate() {
            require(TABLE, idx, "value of a run", value, -MAX_TABLE_VALUE, MAX_TABLE_VALUE)?;
        }
        let equal = values.iter().zip(values.iter().skip(1)).position(|(a, b)| a == b);
        require(TABLE, equal.unwrap_or(0), "equal neighbors", usize::from(equal.is_some()), 0, 0)?;
        Ok(Self { starts, values })
    }

    /// Runs of equal values.
    #[must_use]
    pub fn n_runs(&self) -> usize {
        self.values.len()
    }

    /// Where each run but the first begins, ascending.
    #[must_use]
    pub fn starts(&self) -> &[i64] {
        &self.starts
    }

    /// The value of each run.
    #[must_use]
    pub fn values(&self) -> &[i32] {
        &self.values
    }

    /// The value at `z`, by binary search.
    ///
    /// # Security
    /// Which entries are read depends on `z`.
    #[must_use]
    pub fn at(&self, z: i64) -> i32 {
        self.values.get(self.run_of(z)).copied().unwrap_or(0)
    }

    /// Exact smallest and largest value on an interval that is not empty.
    ///
    /// Cost: the runs that meet the interval.
    #[must_use]
    pub fn range(&self, z: Interval) -> Interval {
        let runs = self.run_of(z.low)..=self.run_of(z.high);
        let values = self.values.get(runs).unwrap_or_default();
        let point = |&v: &i32| Interval::point(i64::from(v));
        values.iter().map(point).fold(Interval::EMPTY, Interval::hull)
    }

    fn run_of(&self, z: i64) -> usize {
        self.starts.partition_point(|&start| start <= z)
    }
}

impl TryFrom<(Vec<i64>, Vec<i32>)> for StepFunction {
    type Error = Error;

    fn try_from((starts, values): (Vec<i64>, Vec<i32>)) -> Result<Self> {
        Self::new(starts, values)
    }
}

impl From<StepFunction> for (Vec<i64>, Vec<i32>) {
    fn from(function: StepFunction) -> Self {
        (function.starts, function.values)
    }
}

impl fmt::Debug for StepFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepFunction").field("n_runs", &self.n_runs()).finish_non_exhaustive()
    }
}

/// One step function per channel, or a single one for all channels. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<StepFunction>", into = "Vec<StepFunction>")]
pub struct LookupTable {
    /// Invariant: at least one, and together at most [`MAX_TABLE_RUNS`] runs.
    channels: Arc<[StepFunction]>,
}

impl LookupTable {
    /// Check the number of functions and of their runs.
    ///
    /// # Errors
    /// - [`Error::OutOfRange`] for no function, or more than [`MAX_TABLE_RUNS`] runs together.
    pub fn new(channels: Vec<StepFunction>) -> Result<Self> {
        const TABLE: &str = "look-up table";
        require(TABLE, 0, "number of channels", channels.len(), 1, MAX_STAGE_VALUES)?;
        let n_runs: usize = channels.iter().map(StepFunction::n_runs).sum();
        require(TABLE, 0, "number of runs", n_runs, 1, MAX_TABLE_RUNS)?;
        Ok(Self { channels: channels.into() })
    }

    /// One function per channel, or a single one.
    #[must_use]
    pub fn channels(&self) -> &[StepFunction] {
        &self.channels
    }

    /// The function of channel `channel`; the first for a channel that does not exist.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "there is a first channel")]
    pub fn channel(&self, channel: usize) -> &StepFunction {
        let position = if self.channels.len() == 1 { 0 } else { channel };
        let function = self.channels.get(position).or_else(|| self.channels.first());
        function.expect("invariant: a table has a channel")
    }

    /// Runs of all channels together.
    #[must_use]
    pub fn n_runs(&self) -> usize {
        self.channels.iter().map(StepFunction::n_runs).sum()
    }

    /// Check against the number of channels of stage `stage`.
    pub(super) fn check(&self, stage: usize, n_channels: usize) -> Result<()> {
        let n = self.channels.len();
        if n == 1 {
            return Ok(());
        }
        require("stage", stage, "number of channels of its table", n, n_channels, n_channels)
    }
}

impl TryFrom<Vec<StepFunction>> for LookupTable {
    type Error = Error;

    fn try_from(channels: Vec<StepFunction>) -> Result<Self> {
        Self::new(channels)
    }
}

impl From<LookupTable> for Vec<StepFunction> {
    fn from(table: LookupTable) -> Self {
        table.channels.to_vec()
    }
}

impl fmt::Debug for LookupTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LookupTable")
            .field("n_channels", &self.channels.len())
            .field("n_runs", &self.n_runs())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_change_exactly_at_the_starts() {
        let function = StepFunction::new(vec![-2, 5], vec![0, 1, 7]).unwrap();
        for (z, value) in [(i64::MIN, 0), (-3, 0), (-2, 1), (4, 1), (5, 7), (i64::MAX, 7)] {
            assert_eq!(function.at(z), value, "{z}");
        }
        let constant = StepFunction::new(vec![], vec![-4]).unwrap();
        assert_eq!((constant.at(i64::MIN), constant.at(9)), (-4, -4));
    }

    #[test]
    fn tables_that_are_none_are_refused() {
        let most = MAX_TABLE_VALUE;
        for (expected, starts, values) in [
            ("number of runs is 0", vec![], vec![]),
            ("number of starts is 1, it must be 0", vec![1], vec![1]),
            ("number of starts is 0, it must be 1", vec![], vec![1, 2]),
            ("1: start of a run is 3, it must be between 4", vec![3, 3], vec![1, 2, 3]),
            ("1: start of a run is 2, it must be between 4", vec![3, 2], vec![1, 2, 3]),
            ("start of a run is -4611686018427387904", vec![-MAX_MAGNITUDE], vec![1, 2]),
            ("start of a run is 4611686018427387904", vec![MAX_MAGNITUDE], vec![1, 2]),
            ("value of a run is 1073741825", vec![0], vec![1, most + 1]),
            ("value of a run is -2147483648", vec![0], vec![1, i32::MIN]),
            ("1: equal neighbors is 1, it must be 0", vec![0, 5], vec![1, 2, 2]),
        ] {
            let error = StepFunction::new(starts, values).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
        let long = |n: i32| StepFunction::new((1..n.into()).collect(), (0..n).collect());
        let n = i32::try_from(MAX_TABLE_RUNS).unwrap();
        let longest = long(n).unwrap();
        assert!(long(n + 1).is_err());
        assert!(LookupTable::new(vec![longest.clone()]).is_ok());
        let more = vec![longest, StepFunction::new(vec![], vec![0]).unwrap()];
        let error = LookupTable::new(more).unwrap_err().to_string();
        assert!(error.contains("number of runs is 1048577"), "{error}");
        assert!(LookupTable::new(vec![]).is_err());
    }

    proptest! {
        #[test]
        fn ranges_are_exact(
            steps in prop::collection::vec((1_i64..20, 1_i32..9, any::<bool>()), 0..12),
            low in -120_i64..120, n in 0_i64..60,
        ) {
            let (mut starts, mut values) = (Vec::new(), vec![0]);
            let (mut start, mut value) = (-100, 0);
            for (gap, step, up) in steps {
                start += gap;
                value += if up { step } else { -step };
                starts.push(start);
                values.push(value);
            }
            let function = StepFunction::new(starts, values).unwrap();
            let range = function.range(Interval { low, high: low + n });
            let all: Vec<i64> = (low..=low + n).map(|z| function.at(z).into()).collect();
            prop_assert_eq!(Some(&range.low), all.iter().min());
            prop_assert_eq!(Some(&range.high), all.iter().max());
        }
    }
}
