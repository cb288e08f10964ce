//! The private numbers of a stage: weights, biases, activation coefficients.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::check::require;
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

    fn check(&self, stage: usize, n_channels: usize) -> Result<()> {
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
}

impl StageWeights {
    /// The bias of output `output_idx` of a linear map with `n_channels` channels.
    #[must_use]
    pub fn bias_of(&self, output_idx: usize, n_channels: usize) -> i64 {
        let position =
            if self.bias.len() == n_channels { output_idx % n_channels } else { output_idx };
        self.bias.get(position).copied().unwrap_or(0)
    }

    /// Check against the structure of stage `stage`, which itself was checked before.
    ///
    /// # Errors
    /// - [`crate::Error::OutOfRange`] naming the field and its limits.
    pub fn check(&self, stage: usize, structure: &StageStructure) -> Result<()> {
        let linear = &structure.linear;
        let n = linear.n_weights();
        require("stage", stage, "number of weights", self.weights.len(), n, n)?;
        if self.bias.len() != linear.n_channels() {
            let n = linear.n_outputs();
            require("stage", stage, "number of biases", self.bias.len(), n, n)?;
        }
        for &w in &self.weights {
            require("stage", stage, "weight", i32::from(w), -MAX_WEIGHT, MAX_WEIGHT)?;
        }
        for &b in &self.bias {
            require("stage", stage, "bias", b, -MAX_BIAS, MAX_BIAS)?;
        }
        let wanted = usize::from(structure.activation == ActivationKind::Quadratic);
        let present = usize::from(self.quadratic.is_some());
        require("stage", stage, "number of quadratics", present, wanted, wanted)?;
        self.quadratic
            .as_ref()
            .map_or(Ok(()), |quadratic| quadratic.check(stage, linear.n_channels()))
    }
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
