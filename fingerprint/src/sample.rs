//! Valid inputs of an endpoint, and bags of samples on them.
//!
//! An endpoint does not take real numbers: an image service takes bytes, an encrypted batch takes
//! small integers. Samples therefore live on an [`InputGrid`], and everything that is said of them
//! (labels, margins) is said after rounding to it. Scoring unrounded samples overstates what subtle
//! tampering they reveal, because rounding moves the input by more than the tampering moves scores.

use ndarray::{Array2, ArrayView2};
use nn_poly::import::Preprocessing;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::generate::GeneratorKind;

/// The inputs an endpoint can receive, in the units the network sees (after preprocessing).
///
/// Feature `i` takes the values `low(i) + j · step(i)` with `step(i) = (high(i) − low(i))/n_steps`
/// and *level* `j` in `0 ..= n_steps`; 255 steps for 8 bits.
///
/// Invariant: one pair of limits for all features or one per feature, all finite, `low < high`,
/// `1 <= n_steps <= 65,535`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "GridSpec", into = "GridSpec")]
pub struct InputGrid {
    low: Vec<f64>,
    high: Vec<f64>,
    n_steps: u32,
}

/// A grid before its checks: what files hold.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct GridSpec {
    low: Vec<f64>,
    high: Vec<f64>,
    n_steps: u32,
}

impl TryFrom<GridSpec> for InputGrid {
    type Error = Error;

    fn try_from(spec: GridSpec) -> Result<Self> {
        Self::per_feature(spec.low, spec.high, spec.n_steps)
    }
}

impl From<InputGrid> for GridSpec {
    fn from(grid: InputGrid) -> Self {
        Self { low: grid.low, high: grid.high, n_steps: grid.n_steps }
    }
}

impl InputGrid {
    /// Largest number of steps: 16 bits.
    pub const MAX_STEPS: u32 = 65_535;

    /// The same limits for every feature.
    ///
    /// # Errors
    /// - [`Error::InvalidSetting`] unless `low < high` are finite and `n_steps` is 1 to
    ///   [`Self::MAX_STEPS`].
    pub fn new(low: f64, high: f64, n_steps: u32) -> Result<Self> {
        Self::per_feature(vec![low], vec![high], n_steps)
    }

    /// Limits of every feature; vectors of length 1 hold for all features.
    ///
    /// # Errors
    /// - [`Error::LengthMismatch`] if there are not as many upper as lower limits.
    /// - [`Error::InvalidSetting`] as for [`Self::new`].
    pub fn per_feature(low: Vec<f64>, high: Vec<f64>, n_steps: u32) -> Result<Self> {
        if low.len() != high.len() || low.is_empty() {
            let (expected, actual) = (low.len().max(1), high.len());
            return Err(Error::LengthMismatch { what: "upper input limits", expected, actual });
        }
        let invalid = |setting, value, requirement| {
            Err(Error::InvalidSetting { setting, value, requirement })
        };
        if let Some(&value) = low.iter().chain(&high).find(|value| !value.is_finite()) {
            return invalid("input limit", value, "finite");
        }
        if let Some((_, &value)) = low.iter().zip(&high).find(|(low, high)| low >= high) {
            return invalid("upper input limit", value, "above the lower limit");
        }
        if !(1..=Self::MAX_STEPS).contains(&n_steps) {
            return invalid("number of input steps", f64::from(n_steps), "1 to 65535");
        }
        Ok(Self { low, high, n_steps })
    }

    /// Pixels of one byte, seen by the network as `0 ..= 1`.
    #[must_use]
    pub fn bytes() -> Self {
        Self { low: vec![0.0], high: vec![1.0], n_steps: 255 }
    }

    /// `2^bits` levels over the range that `preprocessing` can produce: `0 ..= 1` or `±clip`.
    ///
    /// # Errors
    /// - [`Error::InvalidSetting`] unless `bits` is 1 to 16.
    pub fn of_preprocessing(preprocessing: &Preprocessing, bits: u32) -> Result<Self> {
        let high = f64::from(preprocessing.max_magnitude());
        let low = if preprocessing.is_signed() { -high } else { 0.0 };
        let n_levels = 1_u32.checked_shl(bits).filter(|_| (1..=16).contains(&bits));
        let requirement = "1 to 16";
        let n_levels = n_levels.ok_or(Error::InvalidSetting {
            setting: "bits of an input",
            value: f64::from(bits),
            requirement,
        })?;
        Self::new(low, high, n_levels - 1)
    }

    /// The grid on which an integer network takes its inputs.
    ///
    /// # Errors
    /// - [`Error::Network`] if the integer grid is itself invalid.
    pub fn of_integer(grid: &nn_poly::integer::InputGrid) -> Result<Self> {
        grid.check()?;
        let step = f64::from(grid.step);
        let (min, max) = (f64::from(grid.min()), f64::from(grid.max()));
        Self::new(min * step, max * step, grid.max().abs_diff(grid.min()))
    }

    /// Check that the grid fits samples of `n_features` values.
    ///
    /// # Errors
    /// - [`Error::LengthMismatch`] if it has limits for another number of features.
    pub fn check(&self, n_features: usize) -> Result<()> {
        match self.low.len() {
            1 => Ok(()),
            actual if actual == n_features => Ok(()),
            actual => {
                Err(Error::LengthMismatch { what: "input limits", expected: n_features, actual })
            }
        }
    }

    /// Smallest value of feature `feature_idx`.
    #[must_use]
    pub fn low(&self, feature_idx: usize) -> f64 {
        entry(&self.low, feature_idx)
    }

    /// Largest value of feature `feature_idx`.
    #[must_use]
    pub fn high(&self, feature_idx: usize) -> f64 {
        entry(&self.high, feature_idx)
    }

    /// Number of steps between the smallest and the largest value.
    #[must_use]
    pub fn n_steps(&self) -> u32 {
        self.n_steps
    }

    /// Distance of neighboring values of feature `feature_idx`.
    #[must_use]
    pub fn step(&self, feature_idx: usize) -> f64 {
        (self.high(feature_idx) - self.low(feature_idx)) / f64::from(self.n_steps)
    }

    /// The value of feature `feature_idx` at `level`, at most the largest.
    #[must_use]
    pub fn value(&self, feature_idx: usize, level: u32) -> f64 {
        if level >= self.n_steps {
            return self.high(feature_idx);
        }
        let share = f64::from(level) / f64::from(self.n_steps);
        self.low(feature_idx) + share * (self.high(feature_idx) - self.low(feature_idx))
    }

    /// The level nearest to `value`; halves round up, values outside the range take its ends, NaN the
    /// lower.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to 0 ..= n_steps, and a cast of NaN is 0"
    )]
    pub fn level(&self, feature_idx: usize, value: f64) -> u32 {
        let position = (value - self.low(feature_idx)) / self.step(feature_idx);
        (position + 0.5).floor().clamp(0.0, f64::from(self.n_steps)) as u32
    }

    /// Bring every value of one sample into the range of its feature.
    pub fn clamp(&self, sample: &mut [f64]) {
        for (feature_idx, value) in sample.iter_mut().enumerate() {
            *value = value.clamp(self.low(feature_idx), self.high(feature_idx));
        }
    }

    /// Move every value of one sample to the nearest value of the grid.
    pub fn round(&self, sample: &mut [f64]) {
        for (feature_idx, value) in sample.iter_mut().enumerate() {
            *value = self.value(feature_idx, self.level(feature_idx, *value));
        }
    }

    /// The levels of samples on the grid, one row per sample.
    #[must_use]
    pub fn levels(&self, samples: ArrayView2<'_, f32>) -> Array2<u32> {
        Array2::from_shape_fn(samples.dim(), |(row, feature_idx)| {
            let value = samples.get((row, feature_idx)).copied().unwrap_or_default();
            self.level(feature_idx, f64::from(value))
        })
    }

    /// The network inputs at `levels`, one row per sample, rounded to `f32`.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "rounds to nearest")]
    pub fn values(&self, levels: ArrayView2<'_, u32>) -> Array2<f32> {
        Array2::from_shape_fn(levels.dim(), |(row, feature_idx)| {
            let level = levels.get((row, feature_idx)).copied().unwrap_or_default();
            self.value(feature_idx, level) as f32
        })
    }
}

/// Entry `idx` of limits that hold one value per feature, or one for all.
fn entry(limits: &[f64], idx: usize) -> f64 {
    limits.get(idx).or_else(|| limits.first()).copied().unwrap_or_default()
}

/// Samples from one generator, rounded to the grid and scored there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleBag {
    /// The samples on the grid as the network sees them, one row each.
    pub inputs: Array2<f32>,
    /// What generated them.
    pub generator: GeneratorKind,
    /// The seed of the generator; sample `i` depends on the seed and on `i` alone.
    pub seed: u64,
    /// What is known of every sample, in the order of the rows.
    pub samples: Vec<SampleInfo>,
}

impl SampleBag {
    /// Number of samples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether the bag holds no sample.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// The samples at `positions`, in that order.
    ///
    /// # Errors
    /// - [`Error::IndexOutOfRange`] if a position does not exist.
    pub fn select(&self, positions: &[usize]) -> Result<Self> {
        let len = self.samples.len();
        let info = |&index: &usize| {
            let missing = Error::IndexOutOfRange { what: "sample", index, len };
            self.samples.get(index).cloned().ok_or(missing)
        };
        let samples = positions.iter().map(info).collect::<Result<Vec<_>>>()?;
        let inputs = self.inputs.select(ndarray::Axis(0), positions);
        Ok(Self { inputs, samples, generator: self.generator, seed: self.seed })
    }
}

/// What is known of one sample, at its place on the grid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleInfo {
    /// Row of the natural sample it started from; none for random starts.
    pub source: Option<u32>,
    /// Class of the largest score; the lowest of equals.
    pub label: u32,
    /// Largest minus second largest score `z₁ − z₂`, in units of the scores.
    pub margin: f64,
    /// `log S` for the last layer and probabilities, see [`crate::sensitivity`].
    pub log_sensitivity: f64,
    /// The classes near the largest score, largest first: those within 5 % of `max|z|` of it (30 % for
    /// networks that round between layers), at least two, and at most as many as the generator
    /// brings together.
    pub tied: Vec<u32>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::float_cmp, reason = "tests")]
    use ndarray::array;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rounding_is_nearest_idempotent_and_inverse_to_levels(
            low in -10.0_f64..10.0, span in 1e-3_f64..100.0, n_steps in 1_u32..70_000,
            share in -0.5_f64..1.5,
        ) {
            prop_assume!(n_steps <= InputGrid::MAX_STEPS);
            let grid = InputGrid::new(low, low + span, n_steps).unwrap();
            let value = low + share * span;
            let mut once = [value];
            grid.round(&mut once);
            let mut twice = once;
            grid.round(&mut twice);
            prop_assert_eq!(once, twice);
            let nearest = value.clamp(grid.low(0), grid.high(0));
            prop_assert!((once[0] - nearest).abs() <= grid.step(0) * (0.5 + 1e-9));
            prop_assert_eq!(grid.value(0, grid.level(0, value)), once[0]);
        }
    }

    #[test]
    fn levels_survive_single_precision() {
        let grid = InputGrid::bytes();
        let levels = Array2::from_shape_fn((2, 256), |(_, j)| u32::try_from(j).unwrap());
        assert_eq!(grid.levels(grid.values(levels.view()).view()), levels);
        let pixels = grid.values(levels.view());
        for (j, &pixel) in (0_u8..=255).zip(pixels.row(0)) {
            assert_eq!(pixel, f32::from(j) / 255.0);
        }
    }

    #[test]
    fn features_have_limits_of_their_own() {
        let grid = InputGrid::per_feature(vec![0.0, -1.0], vec![1.0, 3.0], 4).unwrap();
        assert_eq!(grid.values(array![[1_u32, 3], [9, 4]].view()), array![[0.25, 2.0], [1.0, 3.0]]);
        assert!(grid.check(2).is_ok() && grid.check(3).is_err());
        let mut sample = [7.0, f64::NEG_INFINITY];
        grid.clamp(&mut sample);
        assert_eq!(sample, [1.0, -1.0]);
    }

    #[test]
    fn impossible_grids_are_refused() {
        assert!(InputGrid::new(1.0, 1.0, 255).is_err());
        assert!(InputGrid::new(0.0, f64::NAN, 255).is_err());
        assert!(InputGrid::new(0.0, 1.0, 0).is_err());
        assert!(InputGrid::new(0.0, 1.0, 65_536).is_err());
        assert!(InputGrid::per_feature(vec![], vec![], 255).is_err());
        assert!(InputGrid::per_feature(vec![0.0], vec![1.0, 2.0], 255).is_err());
        assert!(InputGrid::of_preprocessing(&Preprocessing::UnitRange, 17).is_err());
        let json = r#"{"low":[0.0],"high":[-1.0],"n_steps":3}"#;
        assert!(serde_json::from_str::<InputGrid>(json).is_err());
    }

    #[test]
    fn the_grid_of_an_integer_network_has_its_points() {
        let integer = nn_poly::integer::InputGrid { bits: 4, signed: true, step: 0.5 };
        let grid = InputGrid::of_integer(&integer).unwrap();
        assert_eq!((grid.low(0), grid.high(0), grid.n_steps()), (-3.5, 3.5, 14));
        assert_eq!(grid.step(0), 0.5);
    }
}
