//! The private numbers of a stage: weights, biases, activation coefficients.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::chain::StepWeights;
use super::check::require;
use super::geometry::LinearGeometry;
use super::structure::{ActivationKind, StageStructure};
use crate::error::Result;

/// Largest magnitude of a weight. The value −2^15 is excluded, so weights are symmetric.
pub const MAX_WEIGHT: i32 = (1 << 15) - 1;
/// Largest magnitude of a bias or a coefficient `b`, `c`.
pub const MAX_BIAS: i64 = 1 << 56;
/// Largest magnitude of a coefficient `a`.
pub const MAX_LEADING: i32 = 1 << 20;

/// Integer coefficients of `a z² + b z + c`.
///
/// Each vector holds one value per channel, or a single one for all channels. The plain square is
/// `a = [1], b = [0], c = [0]`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quadratic {
    /// Leading coefficients.
    pub a: Vec<i32>,
    /// Linear coefficients.
    pub b: Vec<i64>,
    /// Constants.
    pub c: Vec<i64>,
}

impl Quadratic {
    /// `z²` on every channel.
    #[must_use]
    pub fn square() -> Self {
        Self { a: vec![1], b: vec![0], c: vec![0] }
    }

    /// Whether this is `z²` on every channel.
    #[must_use]
    pub fn is_square(&self) -> bool {
        self.a.iter().all(|&a| a == 1)
            && self.b.iter().all(|&b| b == 0)
            && self.c.iter().all(|&c| c == 0)
    }

    /// `(a, b, c)` of channel `channel`.
    #[must_use]
    pub fn coefficients(&self, channel: usize) -> (i32, i64, i64) {
        (pick(&self.a, channel), pick(&self.b, channel), pick(&self.c, channel))
    }

    pub(super) fn check(&self, stage: usize, n_channels: usize) -> Result<()> {
        for (field, n) in [
            ("number of coefficients a", self.a.len()),
            ("number of coefficients b", self.b.len()),
            ("number of coefficients c", self.c.len()),
        ] {
            if n != 1 {
                require("stage", stage, field, n, n_channels, n_channels)?;
            }
        }
        for &a in &self.a {
            require("stage", stage, "coefficient a", a, -MAX_LEADING, MAX_LEADING)?;
        }
        for &v in self.b.iter().chain(&self.c) {
            require("stage", stage, "coefficient b or c", v, -MAX_BIAS, MAX_BIAS)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Quadratic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quadratic").field("n_channels", &self.a.len()).finish_non_exhaustive()
    }
}

/// The element for `channel` of a per-channel list that may hold one value for all.
fn pick<T: Copy + Default>(values: &[T], channel: usize) -> T {
    let position = if values.len() == 1 { 0 } else { channel };
    values.get(position).copied().unwrap_or_default()
}

/// Everything private about one stage.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageWeights {
    /// Row-major: dense `n_out × n_in`, convolution `(out_channels, kernel_h, kernel_w, in)`.
    pub weights: Vec<i16>,
    /// Per channel, or per output position (channel fastest).
    pub bias: Vec<i64>,
    /// Present exactly when the activation is [`ActivationKind::Quadratic`].
    pub quadratic: Option<Quadratic>,
    /// One entry per step of the stage's chain.
    pub chain: Vec<StepWeights>,
}

impl StageWeights {
    /// The bias of output `output_idx` of a linear map with `n_channels` channels.
    #[must_use]
    pub fn bias_of(&self, output_idx: usize, n_channels: usize) -> i64 {
        bias_of(&self.bias, output_idx, n_channels)
    }

    /// As [`Self::bias_of`], with the exponent of the stage's chain.
    pub(crate) fn wide_bias_of(&self, structure: &StageStructure, output_idx: usize) -> i128 {
        let exponent = structure.chain.as_ref().map_or(0, |chain| chain.exponents.bias);
        i128::from(self.bias_of(output_idx, structure.n_channels())) << exponent
    }

    /// `(a, b, c)` of channel `channel`, `c` with the exponent of the stage's chain; the identity
    /// without a quadratic.
    pub(crate) fn wide_coefficients(
        &self,
        structure: &StageStructure,
        channel: usize,
    ) -> (i32, i64, i128) {
        let exponent = structure.chain.as_ref().map_or(0, |chain| chain.exponents.constant);
        let (a, b, c) = self.quadratic.as_ref().map_or((0, 1, 0), |q| q.coefficients(channel));
        (a, b, i128::from(c) << exponent)
    }

    /// Check against the structure of stage `stage`, which itself was checked before.
    ///
    /// # Errors
    /// - [`crate::Error::OutOfRange`] naming the field and its limits.
    pub fn check(&self, stage: usize, structure: &StageStructure) -> Result<()> {
        let linear = &structure.linear;
        check_linear(stage, linear, &self.weights, &self.bias)?;
        let steps = structure.chain.as_ref().map_or(&[][..], |chain| &chain.steps);
        let n = steps.len();
        require("stage", stage, "number of weighted chain steps", self.chain.len(), n, n)?;
        for (step, numbers) in steps.iter().zip(&self.chain) {
            numbers.check(stage, step)?;
        }
        let wanted = usize::from(structure.activation == ActivationKind::Quadratic);
        let present = usize::from(self.quadratic.is_some());
        require("stage", stage, "number of quadratics", present, wanted, wanted)?;
        self.quadratic
            .as_ref()
            .map_or(Ok(()), |quadratic| quadratic.check(stage, linear.n_channels()))
    }
}

/// The bias of output `output_idx`, from one per channel or one per output position.
pub(super) fn bias_of(bias: &[i64], output_idx: usize, n_channels: usize) -> i64 {
    let position = if bias.len() == n_channels { output_idx % n_channels } else { output_idx };
    bias.get(position).copied().unwrap_or(0)
}

/// Check weights and biases against a linear map of stage `stage`.
pub(super) fn check_linear(
    stage: usize,
    linear: &LinearGeometry,
    weights: &[i16],
    bias: &[i64],
) -> Result<()> {
    let n = linear.n_weights();
    require("stage", stage, "number of weights", weights.len(), n, n)?;
    if bias.len() != linear.n_channels() {
        let n = linear.n_outputs();
        require("stage", stage, "number of biases", bias.len(), n, n)?;
    }
    for &w in weights {
        require("stage", stage, "weight", i32::from(w), -MAX_WEIGHT, MAX_WEIGHT)?;
    }
    for &b in bias {
        require("stage", stage, "bias", b, -MAX_BIAS, MAX_BIAS)?;
    }
    Ok(())
}

impl fmt::Debug for StageWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StageWeights")
            .field("n_weights", &self.weights.len())
            .field("n_biases", &self.bias.len())
            .field("quadratic", &self.quadratic)
            .finish()
    }
}
