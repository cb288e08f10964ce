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

/// Most bits of flooding noise.
pub const MAX_FLOOD_BITS: u32 = 61;

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
    /// Number of nearly Gaussian factors of the random part: 1 when fresh, 2 for a square. The more,
    /// the more the size varies from one root of unity to the next, see `docs/noise.md`.
    pub order: u32,
    /// Deviations that [`Phase::bound`] allows for: [`TAIL`] up to order 2.
    pub tail: f64,
}

impl Phase {
    /// A fresh ciphertext without its message: deviation `t·σ`.
    #[must_use]
    pub fn fresh(plaintext_modulus: f64) -> Self {
        let deviation = plaintext_modulus * ERROR_DEVIATION;
        Self { plaintext_modulus, deviation, offset: 0.0, order: 1, tail: TAIL }
    }

    /// A fresh slot-packed ciphertext with its message, whose coefficients are uniform modulo t:
    /// deviation `t·sqrt(σ² + 1/12)`.
    #[must_use]
    pub fn fresh_with_uniform_message(plaintext_modulus: f64) -> Self {
        let deviation = plaintext_modulus * (ERROR_DEVIATION.powi(2) + 1.0 / 12.0).sqrt();
        Self { plaintext_modulus, deviation, offset: 0.0, order: 1, tail: TAIL }
    }

    /// After a linear map with row norm `‖w‖₂`, when the resulting message (with bias) is at most
    /// `message` in magnitude per coefficient and not already part of the deviation.
    #[must_use]
    pub fn linear(self, l2: f64, message: f64) -> Self {
        Self { deviation: self.deviation * l2, offset: self.offset * l2 + message, ..self }
    }

    /// Encryption under a public key, without special moduli, before the message is added:
    /// `t·(e·u + e_0 + e_1·s)`, deviation `t·σ·sqrt(1 + 4N/3)`.
    #[must_use]
    pub fn public(plaintext_modulus: f64, ring_degree: usize) -> Self {
        let growth = (1.0 + 4.0 * to_f64(ring_degree) / 3.0).sqrt();
        let fresh = Self::fresh(plaintext_modulus);
        Self { deviation: fresh.deviation * growth, order: 2, ..fresh }
    }

    /// With a message of at most `message` in magnitude per coefficient added.
    #[must_use]
    pub fn with_message(self, message: f64) -> Self {
        Self { offset: self.offset + message, ..self }
    }

    /// After `a·z² + b·z + c` in ring degree `n`.
    ///
    /// With `s` the deviation and `o` the deterministic part of `z`, a coefficient of `z²` has
    /// deviation `sqrt(2N·s⁴ + 4N·s²o²)` and a deterministic part of at most `N·o²`; for a `z` of
    /// higher order the 2 becomes [`correlation`]. Deviations of the terms of the quadratic are taken
    /// as fully correlated.
    #[must_use]
    pub fn quadratic(self, ring_degree: usize, a: f64, b: f64, c: f64) -> Self {
        let n = to_f64(ring_degree);
        let (s, o) = (self.deviation, self.offset);
        let random = (correlation(self.order, self.order) * n).sqrt() * s * s;
        let square = random.hypot(2.0 * n.sqrt() * s * o);
        let order = 2 * self.order;
        Self {
            deviation: a.abs() * square + b.abs() * s,
            offset: a.abs() * n * o * o + b.abs() * o + c.abs(),
            order,
            tail: self.tail.max(TAIL * spread(ring_degree, order)),
            ..self
        }
    }

    /// After a product with another ciphertext, which may depend on this one in any way but through
    /// the automorphism `X → X^-1` (see [`Phase::conjugate_product`]).
    ///
    /// With deviations `s_1, s_2` and deterministic parts `o_1, o_2`, the deviation of a coefficient
    /// is `sqrt(C·N·s_1²s_2² + N·(s_1 o_2 + s_2 o_1)²)` with `C` = [`correlation`] of the orders (2
    /// for fresh ciphertexts: one of them twice), and the deterministic part at most `N·o_1·o_2`.
    #[must_use]
    pub fn product(self, other: Self, ring_degree: usize) -> Self {
        let n = to_f64(ring_degree);
        let (s1, o1, s2, o2) = (self.deviation, self.offset, other.deviation, other.offset);
        let random = (correlation(self.order, other.order) * n).sqrt() * s1 * s2;
        let order = self.order + other.order;
        let tail = self.tail.max(other.tail).max(TAIL * spread(ring_degree, order));
        Self {
            deviation: random.hypot(n.sqrt() * (s1 * o2 + s2 * o1)),
            offset: n * o1 * o2,
            order,
            tail,
            ..self
        }
    }

    /// As [`Phase::product`], for factors that may contain each other's image under `X → X^-1`: then
    /// one coefficient of the product may be the sum of all squares, up to
    /// `N·s_1·s_2·(1 + 11·sqrt(C/N))`.
    #[must_use]
    pub fn conjugate_product(self, other: Self, ring_degree: usize) -> Self {
        let n = to_f64(ring_degree);
        let random = self.product(other, ring_degree);
        let fluctuation = random.tail * (correlation(self.order, other.order) / n).sqrt();
        let squares = n * self.deviation * other.deviation * (1.0 + fluctuation);
        Self { offset: random.offset + squares, ..random }
    }

    /// After multiplication by a polynomial with coefficients of at most `largest` in magnitude.
    #[must_use]
    pub fn plaintext_product(self, largest: f64, ring_degree: usize) -> Self {
        let n = to_f64(ring_degree);
        Self {
            deviation: self.deviation * largest * n.sqrt(),
            offset: self.offset * largest * n,
            ..self
        }
    }

    /// After multiplication by an integer of at most `factor` in magnitude.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        Self { deviation: self.deviation * factor, offset: self.offset * factor, ..self }
    }

    /// After the sum with another ciphertext, taken as fully correlated.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            deviation: self.deviation + other.deviation,
            offset: self.offset + other.offset,
            order: self.order.max(other.order),
            tail: self.tail.max(other.tail),
            ..self
        }
    }

    /// After switching one polynomial to another key with `n_digits` digits.
    ///
    /// A digit is uniform, centred, with deviation `digit`; each meets an error of the key, and the
    /// sum is divided by the product `special` of the special moduli:
    /// `t·σ·digit·sqrt(n_digits·N)/special`, beside the rounding of a degree-1 ciphertext (once per
    /// special modulus, all but the last one divided again).
    #[must_use]
    pub fn key_switched(self, ring_degree: usize, n_digits: u32, digit: f64, special: f64) -> Self {
        let n = to_f64(ring_degree);
        let errors = ERROR_DEVIATION * digit * (f64::from(n_digits) * n).sqrt() / special;
        let rounding = rounding_deviation(ring_degree, 1);
        let added = self.plaintext_modulus * errors.hypot(rounding);
        Self { deviation: self.deviation.hypot(added), order: self.order.max(2), ..self }
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
    /// From degree 2 on the rounding depends noticeably on the key; [`key_spread`] allows for it.
    #[must_use]
    pub fn switched(self, dropped: f64, ring_degree: usize, degree: usize) -> Self {
        let rounding = self.plaintext_modulus
            * rounding_deviation(ring_degree, degree)
            * key_spread(ring_degree, degree);
        let kept = self.deviation / dropped;
        // What is left of a heavy tail is allowed for in the deviation, unless it still dominates.
        let allowed = kept * (self.tail / TAIL);
        let order = u32::try_from(degree + 1).unwrap_or(u32::MAX);
        let (kept, order, tail) = if allowed <= rounding / 2.0 {
            (allowed, order, TAIL)
        } else {
            (kept, order.max(self.order), self.tail)
        };
        let deviation = kept.hypot(rounding);
        Self { deviation, offset: self.offset / dropped, order, tail, ..self }
    }

    /// After [`crate::CiphertextBlock::rerandomize`] at ring degree `n` and this degree in the secret.
    ///
    /// The encryption of zero has deviation `t·σ·sqrt(2N/3·Σ_{i<d} i!·(2N/3)^i + Σ_{i<=d} i!·(2N/3)^i)`;
    /// the flood counts as deterministic, `t·2^flood_bits`. With `flood_bits` 0 without it.
    #[must_use]
    pub fn rerandomized(self, ring_degree: usize, degree: usize, flood_bits: u32) -> Self {
        let n = to_f64(ring_degree);
        let (mut power, mut below, mut count) = (1.0, 0.0, 0.0);
        for _ in 0..degree {
            below += power;
            count += 1.0;
            power *= count * 2.0 * n / 3.0;
        }
        let growth = (2.0 * n / 3.0 * below + below + power).sqrt();
        let zero = self.plaintext_modulus * ERROR_DEVIATION * growth;
        let zero = zero * key_spread(ring_degree, degree);
        let flood = if flood_bits == 0 { 0.0 } else { f64::from(flood_bits).exp2() };
        let order = self.order.max(u32::try_from(degree + 1).unwrap_or(u32::MAX));
        let tail = self.tail.max(TAIL * spread(ring_degree, order));
        Self {
            deviation: self.deviation.hypot(zero),
            offset: self.offset + self.plaintext_modulus * flood,
            order,
            tail,
            ..self
        }
    }

    /// Bits of flooding after which a rerandomized ciphertext of this degree hides its noise: its
    /// coefficients' distribution then depends on it by a statistical distance of at most
    /// `2^-margin_bits`.
    ///
    /// Uniform noise in `[-F, F)` moved by `x` differs from itself by the share `|x|/2F`; two noises of
    /// at most `B/t + 1` in magnitude lie at most twice that apart.
    #[must_use]
    pub fn flood_bits(self, ring_degree: usize, degree: usize, margin_bits: u32) -> u32 {
        let hidden =
            self.rerandomized(ring_degree, degree, 0).bound() / self.plaintext_modulus + 1.0;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a logarithm of a number above 1; casts of floats saturate"
        )]
        let bits = hidden.log2().ceil() as u32;
        bits.saturating_add(margin_bits)
    }

    /// Bound on every coefficient: [`Phase::tail`] deviations plus the deterministic part.
    #[must_use]
    pub fn bound(self) -> f64 {
        self.tail * self.deviation + self.offset
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

/// Factor by which the variance of a product of two ciphertexts exceeds that of independent ones, at
/// most: `(p+q)!/(p!·q!)` for phases of orders `p` and `q`.
///
/// At a root of unity a phase of order `p` is a product of `p` complex Gaussian numbers, at worst one
/// of them to the power `p`: `E|g|^2p = p!`.
#[must_use]
pub fn correlation(p: u32, q: u32) -> f64 {
    (1..=q).fold(1.0, |c, i| c * f64::from(p + i) / f64::from(i))
}

/// Allowance for keys whose powers are larger than average, on the deviation of a rounding.
#[must_use]
pub fn key_spread(ring_degree: usize, degree: usize) -> f64 {
    match degree {
        0 | 1 => 1.0,
        2 => KEY_SPREAD,
        _ => spread(ring_degree, u32::try_from(degree).unwrap_or(u32::MAX)).max(KEY_SPREAD),
    }
}

/// Allowance, as a factor on [`TAIL`] deviations, for a phase of the given order; 1 up to order 2.
///
/// A coefficient is nearly Gaussian given the sizes at the N/2 pairs of roots of unity, whose squares
/// are powers of exponential variables. One of them, `x`, may be large enough to raise the variance
/// to `1 + x^d/(d!·N/2)` times the average, with probability `N/2·e^-x`. The allowance makes the
/// chance of both together as small as that of 11 deviations alone, for every `x`.
#[must_use]
pub fn spread(ring_degree: usize, order: u32) -> f64 {
    if order <= 2 {
        return 1.0;
    }
    let points = to_f64(ring_degree) / 2.0;
    let factorial = (1..=order).fold(1.0, |f, i| f * f64::from(i));
    let budget = TAIL * TAIL / 2.0;
    let mut largest = 1.0_f64;
    for x in 1..=70 {
        let x = f64::from(x);
        let rarity = (x - points.ln()).clamp(0.0, budget);
        let variance = 1.0 + x.powi(order.cast_signed()) / (points * factorial);
        largest = largest.max(variance * (budget - rarity) / budget);
    }
    largest.sqrt()
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
    fn allowances_begin_at_order_three() {
        for n in [2048, 8192, 32768] {
            assert!((1..=2).all(|order| (spread(n, order) - 1.0).abs() < 1e-12));
            let spreads: Vec<f64> = (3..=16).map(|order| spread(n, order)).collect();
            assert!(spreads.is_sorted() && spreads.iter().all(|&s| s > 1.0), "{spreads:?}");
            assert!((key_spread(n, 1) - 1.0).abs() < 1e-12);
            assert!((key_spread(n, 2) - KEY_SPREAD).abs() < 1e-12);
        }
        assert!((correlation(1, 1) - 2.0).abs() < 1e-12);
        assert!((correlation(2, 2) - 6.0).abs() < 1e-12);
        assert!((correlation(3, 1) - 4.0).abs() < 1e-12);
    }

    #[test]
    fn a_product_with_itself_is_a_square() {
        let z = Phase::fresh(65_537.0).with_message(32_768.0);
        let (square, product) = (z.quadratic(4096, 1.0, 0.0, 0.0), z.product(z, 4096));
        assert!((square.deviation / product.deviation - 1.0).abs() < 1e-12);
        assert!((square.offset / product.offset - 1.0).abs() < 1e-12);
        let conjugate = z.conjugate_product(z, 4096);
        assert!(conjugate.offset > 4096.0 * z.deviation * z.deviation);
        assert_eq!((square.order, product.order), (2, 2));
        assert_eq!(product.product(product, 4096).order, 4);
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
