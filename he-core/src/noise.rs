//! Noise bounds: will a computation decrypt correctly?
//!
//! What grows is the phase `m + t·e` of a ciphertext; decryption is right while every coefficient
//! stays below `Q/2` in magnitude. Bounds are average-case: a deviation times [`TAIL`], plus the
//! message itself. They are derived in `docs/noise.md` and compared with measurements in
//! `tests/noise.rs`. All quantities are plain numbers (coefficients of the phase), not bits, unless a
//! name says `log2`.

use crate::security::ERROR_DEVIATION;

/// Deviations allowed for: a Gaussian coefficient exceeds 11 deviations with probability
/// `erfc(11/√2) < 2^-90`, so a batch of 2^24 coefficients fails with probability below 2^-64.
pub const TAIL: f64 = 11.0;

/// Allowance for keys whose powers are larger than average: 0.1 bit, see `docs/noise.md`.
pub const KEY_SPREAD: f64 = 1.072;

/// The size of a phase: a random part, given by its deviation, and a deterministic part.
///
/// # Example
///
/// ```
/// use he_core::noise::Phase;
///
/// // 800 inputs, 4-bit weights with ‖w‖₂ = 115, t = 65537, one 30-bit prime at N = 2048.
/// let phase = Phase::fresh(65537.0).linear(115.0, 20_000.0);
/// assert!(phase.log2_bound() < 29.0);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Phase {
    /// Plaintext modulus.
    pub plaintext_modulus: f64,
    /// Deviation of one coefficient.
    pub deviation: f64,
    /// Bound on the deterministic part of one coefficient.
    pub offset: f64,
}

impl Phase {
    /// A fresh ciphertext without its message: deviation `t·σ`.
    #[must_use]
    pub fn fresh(plaintext_modulus: f64) -> Self {
        Self { plaintext_modulus, deviation: plaintext_modulus * ERROR_DEVIATION, offset: 0.0 }
    }

    /// A fresh slot-packed ciphertext with its message, whose coefficients are uniform modulo t:
    /// deviation `t·sqrt(σ² + 1/12)`.
    #[must_use]
    pub fn fresh_with_uniform_message(plaintext_modulus: f64) -> Self {
        let deviation = plaintext_modulus * (ERROR_DEVIATION.powi(2) + 1.0 / 12.0).sqrt();
        Self { plaintext_modulus, deviation, offset: 0.0 }
    }

    /// After a linear map with row norm `‖w‖₂`, when the resulting message (with bias) is at most
    /// `message` in magnitude per coefficient and not already part of the deviation.
    #[must_use]
    pub fn linear(self, l2: f64, message: f64) -> Self {
        Self { deviation: self.deviation * l2, offset: self.offset * l2 + message, ..self }
    }

    /// After `a·z² + b·z + c` in ring degree `n`.
    ///
    /// With `s` the deviation and `o` the deterministic part of `z`, a coefficient of `z²` has
    /// deviation `sqrt(2N·s⁴ + 4N·s²o²)` and a deterministic part of at most `N·o²`. Deviations of
    /// the terms of the quadratic are taken as fully correlated.
    #[must_use]
    pub fn quadratic(self, ring_degree: usize, a: f64, b: f64, c: f64) -> Self {
        let n = to_f64(ring_degree);
        let (s, o) = (self.deviation, self.offset);
        let square = ((2.0 * n).sqrt() * s * s).hypot(2.0 * n.sqrt() * s * o);
        Self {
            deviation: a.abs() * square + b.abs() * s,
            offset: a.abs() * n * o * o + b.abs() * o + c.abs(),
            ..self
        }
    }

    /// After a sum of `terms` ciphertexts, taken as fully correlated.
    #[must_use]
    pub fn sum(self, terms: u32) -> Self {
        let terms = f64::from(terms);
        Self { deviation: self.deviation * terms, offset: self.offset * terms, ..self }
    }

    /// After dropping a modulus: divided by it, plus the rounding of every polynomial of a
    /// ciphertext of the given degree under a ternary secret.
    ///
    /// From degree 2 on the rounding depends noticeably on the key; [`KEY_SPREAD`] allows for it.
    #[must_use]
    pub fn switched(self, dropped: f64, ring_degree: usize, degree: usize) -> Self {
        let spread = if degree < 2 { 1.0 } else { KEY_SPREAD };
        let rounding = self.plaintext_modulus * rounding_deviation(ring_degree, degree) * spread;
        Self {
            deviation: (self.deviation / dropped).hypot(rounding),
            offset: self.offset / dropped,
            ..self
        }
    }

    /// Bound on every coefficient: [`TAIL`] deviations plus the deterministic part.
    #[must_use]
    pub fn bound(self) -> f64 {
        TAIL * self.deviation + self.offset
    }

    /// log2 of [`Phase::bound`].
    #[must_use]
    pub fn log2_bound(self) -> f64 {
        self.bound().log2()
    }
}

/// Deviation of `Σ_j u_j·s^j` with `u_j` uniform in `(-1/2, 1/2)` and `s` uniform ternary:
/// `sqrt((1 + 2N/3 + 8N²/9 + 16N³/9 + …)/12)`, one term `j!·(2N/3)^j` per power of the secret.
#[must_use]
pub fn rounding_deviation(ring_degree: usize, degree: usize) -> f64 {
    let n = to_f64(ring_degree);
    let (mut term, mut total, mut power) = (1.0, 1.0, 0.0);
    for _ in 0..degree {
        power += 1.0;
        term *= power * 2.0 * n / 3.0;
        total += term;
    }
    (total / 12.0).sqrt()
}

fn to_f64(ring_degree: usize) -> f64 {
    u32::try_from(ring_degree).map_or(f64::INFINITY, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_matches_the_closed_forms() {
        let n = 4096.0_f64;
        let one = ((1.0 + 2.0 * n / 3.0) / 12.0).sqrt();
        let two = ((1.0 + 2.0 * n / 3.0 + 8.0 * n * n / 9.0) / 12.0).sqrt();
        assert!((rounding_deviation(4096, 1) - one).abs() < 1e-9);
        let three = (two.powi(2) + 16.0 * n.powi(3) / 9.0 / 12.0).sqrt();
        assert!((rounding_deviation(4096, 2) - two).abs() < 1e-6);
        assert!((rounding_deviation(4096, 3) - three).abs() < 1e-3);
    }

    #[test]
    fn published_operating_points_are_reproduced() {
        // t = 2^30, 845 taps, ‖w‖₂ = 94, N = 4096: deviations 2^38.25, 2^83.0 and 2^40.12.
        let t = 1_073_692_673.0_f64;
        let linear = Phase::fresh_with_uniform_message(t).linear(94.0, 0.0);
        assert!((linear.deviation.log2() - 38.25).abs() < 0.05);
        let square = linear.quadratic(4096, 1.0, 0.0, 0.0);
        assert!((square.deviation.log2() - 83.0).abs() < 0.1);
        let switched = square.switched(f64::from(2_u32.pow(23)).powi(2), 4096, 2);
        assert!((switched.deviation.log2() - 40.12 - KEY_SPREAD.log2()).abs() < 0.02);
    }
}
