//! From raw features to what a network sees.

use ndarray::{Array1, Array2, Axis};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::tensor::check_finite;

/// Which preprocessing to fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PreprocessingKind {
    /// Features are in `[0, 1]` already (images).
    UnitRange,
    /// Subtract the mean, divide by the standard deviation, clip (tables).
    Standardize,
}

/// A fitted map from raw features to network inputs; stored with the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Preprocessing {
    /// Values in `[0, 1]`, clamped there, so that inputs stay on the unsigned grid.
    UnitRange,
    /// `clamp((x − mean)/deviation, −clip, clip)` for each feature.
    Standardize {
        /// Mean of each feature over the training part.
        mean: Vec<f32>,
        /// Standard deviation of each feature over the training part; 1 for constant features.
        deviation: Vec<f32>,
        /// Limit in standard deviations, positive.
        clip: f32,
    },
}

/// Limit of standardized values. Outliers beyond it carry little information and would widen the
/// integer grid for everyone else.
const CLIP: f32 = 3.0;

impl PreprocessingKind {
    /// Fit to the features of the training part, one row per sample.
    ///
    /// # Errors
    /// - [`Error::NoSamples`] if there is no row to fit to.
    /// - [`Error::InvalidSetting`] if features that should be in `[0, 1]` are not: clamping them there
    ///   would lose the images.
    pub fn fit(self, training_features: &Array2<f32>) -> Result<Preprocessing> {
        match self {
            Self::UnitRange => {
                let outside = training_features.iter().find(|x| !(0.0..=1.0).contains(*x));
                match outside {
                    None => Ok(Preprocessing::UnitRange),
                    Some(&value) => Err(Error::InvalidSetting {
                        setting: "a feature",
                        value: f64::from(value),
                        requirement: "from 0 to 1 for image networks; store bytes, or scale the values",
                    }),
                }
            }
            Self::Standardize => {
                let features = training_features.mapv(f64::from);
                let mean = features
                    .mean_axis(Axis(0))
                    .ok_or(Error::NoSamples { what: "the training part" })?;
                let deviation = features.std_axis(Axis(0), 0.0);
                let mean = mean.iter().map(|&m| single(m)).collect();
                let deviation = deviation
                    .iter()
                    .map(|&d| single(d))
                    .map(|d| if d.is_normal() { d } else { 1.0 })
                    .collect();
                Ok(Preprocessing::Standardize { mean, deviation, clip: CLIP })
            }
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "rounds to nearest")]
fn single(value: f64) -> f32 {
    value as f32
}

impl Preprocessing {
    /// Check a value read from a file: lengths, finite means, positive deviations and clip.
    ///
    /// # Errors
    /// - [`Error::ShapeMismatch`] if there is not one mean and deviation per feature.
    /// - [`Error::InvalidSetting`] if a number is out of range.
    pub fn check(&self, n_features: usize) -> Result<()> {
        let Self::Standardize { mean, deviation, clip } = self else { return Ok(()) };
        for (what, values) in [("feature means", mean), ("feature deviations", deviation)] {
            if values.len() != n_features {
                let (expected, actual) = (vec![n_features], vec![values.len()]);
                return Err(Error::ShapeMismatch { what, expected, actual });
            }
        }
        let invalid = |setting, value: f32, requirement| Error::InvalidSetting {
            setting,
            value: f64::from(value),
            requirement,
        };
        if let Some(&value) = mean.iter().find(|v| !v.is_finite()) {
            return Err(invalid("feature mean", value, "finite"));
        }
        let positive = |v: f32| v.is_finite() && v > 0.0;
        if let Some(&value) = deviation.iter().chain([clip]).find(|&&v| !positive(v)) {
            return Err(invalid("feature deviation or clip", value, "finite and positive"));
        }
        Ok(())
    }

    /// Map raw features, one row per sample, to network inputs.
    ///
    /// # Errors
    /// - [`Error::ShapeMismatch`] if the number of features differs from the fitted one.
    /// - [`Error::NonFiniteInput`] if a feature is NaN or infinite.
    pub fn apply(&self, features: &Array2<f32>) -> Result<Array2<f32>> {
        check_finite("features", features.view())?;
        match self {
            Self::UnitRange => Ok(features.mapv(|x| x.clamp(0.0, 1.0))),
            Self::Standardize { mean, deviation, clip } => {
                self.check(features.ncols())?;
                let mean = Array1::from(mean.clone());
                let deviation = Array1::from(deviation.clone());
                let mut inputs = features - &mean;
                inputs /= &deviation;
                inputs.mapv_inplace(|x| x.clamp(-clip, *clip));
                Ok(inputs)
            }
        }
    }

    /// The raw value of feature `feature_idx` behind a network input: [`Self::apply`] without its limits,
    /// backwards.
    #[must_use]
    pub fn raw(&self, feature_idx: usize, input: f32) -> f64 {
        match self {
            Self::UnitRange => f64::from(input),
            Self::Standardize { mean, deviation, .. } => {
                let entry = |values: &[f32], default: f32| {
                    f64::from(values.get(feature_idx).copied().unwrap_or(default))
                };
                entry(mean, 0.0) + entry(deviation, 1.0) * f64::from(input)
            }
        }
    }

    /// Whether inputs can be negative, so that their integer grid must be signed.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        matches!(self, Self::Standardize { .. })
    }

    /// The largest magnitude of an input after preprocessing: 1, or the clip.
    #[must_use]
    pub fn max_magnitude(&self) -> f32 {
        match self {
            Self::UnitRange => 1.0,
            Self::Standardize { clip, .. } => *clip,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use ndarray::array;

    use super::*;

    #[test]
    fn standardized_training_data_have_mean_0_and_deviation_1() {
        let features = array![[1.0, 5.0], [2.0, 5.0], [3.0, 5.0], [6.0, 5.0]];
        let fitted = PreprocessingKind::Standardize.fit(&features).unwrap();
        let inputs = fitted.apply(&features).unwrap();
        let mean = inputs.mean_axis(Axis(0)).unwrap();
        let deviation = inputs.std_axis(Axis(0), 0.0);
        assert!(mean.iter().all(|m| m.abs() < 1e-6));
        assert!((deviation[0] - 1.0).abs() < 1e-6);
        assert_eq!(inputs.column(1), array![0.0, 0.0, 0.0, 0.0], "a constant feature becomes 0");
        let outlier = fitted.apply(&array![[1e9, 5.0], [-1e9, 5.0]]).unwrap();
        assert_eq!(outlier, array![[3.0, 0.0], [-3.0, 0.0]]);
    }

    #[test]
    fn raw_values_are_what_inputs_were_made_of() {
        let features = array![[0.25, 0.5], [0.75, 0.125]];
        for kind in [PreprocessingKind::Standardize, PreprocessingKind::UnitRange] {
            let fitted = kind.fit(&features).unwrap();
            let inputs = fitted.apply(&features).unwrap();
            for ((row, feature), &raw) in features.indexed_iter() {
                let again = fitted.raw(feature, inputs[(row, feature)]);
                assert!((again - f64::from(raw)).abs() < 1e-6, "{kind:?}: {again} for {raw}");
            }
        }
    }

    #[test]
    fn wrong_widths_and_values_are_named() {
        let fitted = PreprocessingKind::Standardize.fit(&array![[1.0], [2.0]]).unwrap();
        let error = fitted.apply(&array![[1.0, 2.0]]).unwrap_err();
        assert!(matches!(error, Error::ShapeMismatch { .. }));
        let error = Preprocessing::UnitRange.apply(&array![[0.0], [f32::NAN]]).unwrap_err();
        assert!(matches!(error, Error::NonFiniteInput { sample_idx: 1, feature_idx: 0, .. }));
        let broken =
            Preprocessing::Standardize { mean: vec![0.0], deviation: vec![0.0], clip: 3.0 };
        assert!(matches!(broken.check(1), Err(Error::InvalidSetting { .. })));
        for outside in [-0.1, 1.1, 255.0] {
            let fitted = PreprocessingKind::UnitRange.fit(&array![[0.0, 1.0], [0.5, outside]]);
            assert!(matches!(fitted, Err(Error::InvalidSetting { .. })), "{outside}");
        }
        let empty = PreprocessingKind::Standardize.fit(&Array2::zeros((0, 3)));
        assert!(matches!(empty, Err(Error::NoSamples { .. })));
    }
}
