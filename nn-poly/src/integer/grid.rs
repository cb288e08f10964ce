//! The grid on which inputs enter the network.

use ndarray::{Array2, ArrayView2};
use serde::{Deserialize, Serialize};

use super::IntegerMatrix;
use super::check::require;
use super::interval::Interval;
use crate::error::{Error, Result};

/// Bits, sign and step of quantized inputs: `x ↦ clamp(floor(x/step + 1/2), min, max)`.
///
/// Unsigned grids are `0 ..= 2^bits − 1`, signed ones `±(2^(bits−1) − 1)`; both are symmetric
/// enough that zero is always a grid point, which zero padding relies on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct InputGrid {
    /// Bits of an input, 1 ..= 16 (2 ..= 16 if signed).
    pub bits: u32,
    /// Whether negative inputs exist.
    pub signed: bool,
    /// What one unit stands for after preprocessing; finite and positive.
    pub step: f32,
}

impl InputGrid {
    /// Smallest integer.
    #[must_use]
    pub const fn min(&self) -> i32 {
        if self.signed { -self.max() } else { 0 }
    }

    /// Largest integer.
    #[must_use]
    pub const fn max(&self) -> i32 {
        let magnitude_bits = if self.signed { self.bits.saturating_sub(1) } else { self.bits };
        (1 << magnitude_bits) - 1
    }

    /// The interval of inputs.
    #[must_use]
    pub fn interval(&self) -> Interval {
        Interval { low: i64::from(self.min()), high: i64::from(self.max()) }
    }

    /// Quantize preprocessed features, `samples × features`, to `features × samples`.
    ///
    /// Computed in `f32` exactly as the network's quantization layer does, so training and the
    /// integer network see the same grid points.
    ///
    /// # Errors
    /// - [`Error::NonFiniteInput`] if a feature is NaN or infinite.
    pub fn quantize(&self, features: ArrayView2<'_, f32>) -> Result<IntegerMatrix> {
        if let Some(((sample_idx, feature_idx), &value)) =
            features.indexed_iter().find(|(_, value)| !value.is_finite())
        {
            let value = f64::from(value);
            let what = "input to quantize";
            return Err(Error::NonFiniteInput { what, sample_idx, feature_idx, value });
        }
        let (min, max) = (self.min(), self.max());
        #[expect(clippy::cast_possible_truncation, reason = "saturates, then clamped")]
        let quantized = |x: f32| ((x / self.step + 0.5).floor() as i32).clamp(min, max);
        let mut out = Array2::zeros((features.ncols(), features.nrows()));
        out.zip_mut_with(&features.t(), |out, &x| *out = quantized(x));
        Ok(out)
    }

    /// Check bits and step.
    ///
    /// # Errors
    /// - [`Error::OutOfRange`] for the bits.
    /// - [`Error::InvalidSetting`] for the step.
    pub fn check(&self) -> Result<()> {
        let least = if self.signed { 2 } else { 1 };
        require("input grid", 0, "bits", self.bits, least, 16)?;
        if self.step.is_normal() && self.step > 0.0 {
            Ok(())
        } else {
            Err(Error::InvalidSetting {
                setting: "step of the input grid",
                value: f64::from(self.step),
                requirement: "a positive normal number",
            })
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use ndarray::array;

    use super::*;

    #[test]
    fn halves_round_up_and_ends_clamp() {
        let grid = InputGrid { bits: 4, signed: true, step: 0.5 };
        let features = array![[0.25_f32, -0.25, -0.75], [9.0, -9.0, 1.0]];
        let expected = array![[1, 7], [0, -7], [-1, 2]];
        assert_eq!(grid.quantize(features.view()).unwrap(), expected);
    }

    #[test]
    fn every_eight_bit_pixel_has_its_nearest_grid_point() {
        let grid = InputGrid { bits: 4, signed: false, step: 1.0 / 15.0 };
        let pixels =
            Array2::from_shape_fn((256, 1), |(p, _)| f32::from(u8::try_from(p).unwrap()) / 255.0);
        let quantized = grid.quantize(pixels.view()).unwrap();
        for (p, &q) in quantized.iter().enumerate() {
            assert_eq!(q, i32::try_from((p + 8) / 17).unwrap(), "pixel {p}");
        }
    }

    #[test]
    fn a_missing_number_is_named() {
        let grid = InputGrid { bits: 4, signed: false, step: 1.0 };
        let error = grid.quantize(array![[0.0, f32::NAN]].view());
        assert!(matches!(error, Err(Error::NonFiniteInput { sample_idx: 0, feature_idx: 1, .. })));
        assert!(InputGrid { step: f32::NAN, ..grid }.check().is_err());
        assert!(InputGrid { bits: 17, ..grid }.check().is_err());
        assert!(InputGrid { bits: 1, signed: true, step: 1.0 }.check().is_err());
    }
}
