//! Residues modulo several primes, put together.
//!
//! Values of a chain may need more bits than one plaintext modulus has. The segment then runs once for
//! each of several primes `t_i`, and its outputs are known modulo their product `T` by the Chinese
//! remainder theorem.

use super::check::require;
use super::interval::WideInterval;
use super::window::Window;
use crate::error::Result;

/// Most primes of one segment.
pub const MAX_CRT_MODULI: usize = 8;

/// The representatives modulo `T = Π t_i` in which outputs of a chain are delivered:
/// `[low, low + T)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrtWindow {
    low: i128,
    product: i128,
    steps: Vec<GarnerStep>,
}

/// What Garner's algorithm needs of one modulus.
#[derive(Clone, Debug, PartialEq, Eq)]
struct GarnerStep {
    modulus: u64,
    /// Product of the moduli before this one.
    weight: i128,
    /// Those products for all moduli before this one, modulo this one.
    weights_modulo: Vec<Factor>,
    /// Inverse of `weight` modulo this one.
    inverse: Factor,
}

impl CrtWindow {
    /// The window that begins at `low`, for distinct primes.
    ///
    /// # Errors
    /// - [`crate::Error::OutOfRange`] unless there are 1 to [`MAX_CRT_MODULI`] distinct primes (or
    ///   pairwise coprime numbers) of `1 ..= 2^62`, their product is below `2^121`, and `low` inside
    ///   `±2^120`.
    pub fn new(low: i128, moduli: &[u64]) -> Result<Self> {
        const LIMIT: i128 = 1 << 120;
        require("window", 0, "number of moduli", moduli.len(), 1, MAX_CRT_MODULI)?;
        require("window", 0, "low end", low, -LIMIT, LIMIT)?;
        let (mut steps, mut product) = (Vec::<GarnerStep>::new(), 1_i128);
        for (idx, &modulus) in moduli.iter().enumerate() {
            require("modulus", idx, "value", modulus, 1, 1 << 62)?;
            let weights_modulo =
                steps.iter().map(|step| Factor::new(residue(step.weight, modulus), modulus));
            let weights_modulo = weights_modulo.collect();
            let (gcd, inverse) = inverse(residue(product, modulus), modulus);
            require("modulus", idx, "common divisor with the moduli before it", gcd, 1, 1)?;
            let inverse = Factor::new(inverse, modulus);
            steps.push(GarnerStep { modulus, weight: product, weights_modulo, inverse });
            product = product.saturating_mul(i128::from(modulus));
            require("modulus", idx, "product of the moduli", product, 1, 2 * LIMIT - 1)?;
        }
        Ok(Self { low, product, steps })
    }

    /// The moduli in order.
    pub fn moduli(&self) -> impl Iterator<Item = u64> + '_ {
        self.steps.iter().map(|step| step.modulus)
    }

    /// The representatives as an interval.
    #[must_use]
    pub const fn interval(&self) -> WideInterval {
        WideInterval { low: self.low, high: self.low + (self.product - 1) }
    }

    /// The representative of `v`.
    #[must_use]
    pub const fn reduce(&self, v: i128) -> i128 {
        self.low + (v - self.low).rem_euclid(self.product)
    }

    /// The representative with these residues, `residues[i]` in `[0, t_i)`.
    ///
    /// Wrong residues give wrong values, never a panic. No branch or address depends on them.
    ///
    /// # Source
    /// Garner 1959, "The residue number system".
    #[must_use]
    pub fn combine(&self, residues: impl IntoIterator<Item = u64>) -> i128 {
        let mut digits = [0_u64; MAX_CRT_MODULI];
        let mut value = 0_i128;
        for (idx, (step, residue)) in self.steps.iter().zip(residues).enumerate() {
            let modulus = step.modulus;
            // What the digits so far amount to, modulo this modulus.
            let known = digits.iter().zip(&step.weights_modulo).fold(0, |sum, (&digit, weight)| {
                subtract_once(sum + weight.multiply(digit, modulus), modulus)
            });
            let missing = step.inverse.multiply(residue.wrapping_add(modulus - known), modulus);
            value = value.wrapping_add(step.weight.wrapping_mul(i128::from(missing)));
            if let Some(digit) = digits.get_mut(idx) {
                *digit = missing;
            }
        }
        // In [0, T) now; brought to [low, low + T).
        let offset = value.wrapping_sub(self.low.rem_euclid(self.product));
        self.low.wrapping_add(offset.wrapping_add(self.product & (offset >> 127)))
    }
}

impl From<Window> for CrtWindow {
    fn from(Window { low, modulus }: Window) -> Self {
        let step = GarnerStep {
            modulus,
            weight: 1,
            weights_modulo: Vec::new(),
            inverse: Factor::new(1 % modulus.max(1), modulus.max(1)),
        };
        Self { low: low.into(), product: modulus.into(), steps: vec![step] }
    }
}

/// Residues of 128-bit integers modulo one number, without a branch or a division.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reduction128 {
    modulus: u64,
    one: Factor,
    /// `2^64` modulo it.
    word: Factor,
    /// What a sign of `-2^127 · 2` takes away: `modulus − (2^128 mod modulus)`.
    sign: u64,
}

impl Reduction128 {
    /// For a modulus of `2 ..= 2^62`; others are taken as the nearest of these.
    #[must_use]
    pub fn new(modulus: u64) -> Self {
        let modulus = modulus.clamp(2, 1 << 62);
        let word = residue(1 << 64, modulus);
        let square = u128::from(word) * u128::from(word) % u128::from(modulus);
        let sign = modulus - u64::try_from(square).unwrap_or(0);
        Self { modulus, one: Factor::new(1, modulus), word: Factor::new(word, modulus), sign }
    }

    /// `v mod modulus`, in `[0, modulus)`.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of 128 bits")]
    pub fn residue(&self, v: i128) -> u64 {
        let p = self.modulus;
        let bits = v.cast_unsigned();
        let (low, high) = (bits as u64, (bits >> 64) as u64);
        let sum = self.one.multiply(low, p) + self.word.multiply(high, p);
        // The upper half was read as unsigned: 2^128 too much if it is negative.
        let is_negative = ((v >> 127).cast_unsigned() as u64) & self.sign;
        subtract_once(subtract_once(sum, p) + subtract_once(is_negative, p), p)
    }
}

/// A constant factor modulo `p ≤ 2^62`, with the quotient estimate of Shoup's multiplication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Factor {
    value: u64,
    quotient: u64,
}

impl Factor {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "value < modulus: the quotient is below 2^64"
    )]
    fn new(value: u64, modulus: u64) -> Self {
        let quotient = ((u128::from(value) << 64) / u128::from(modulus)) as u64;
        Self { value, quotient }
    }

    /// `x · value mod p` for any `x`, without a division.
    fn multiply(self, x: u64, modulus: u64) -> u64 {
        let estimate = ((u128::from(x) * u128::from(self.quotient)) >> 64) as u64;
        let rest = x.wrapping_mul(self.value).wrapping_sub(estimate.wrapping_mul(modulus));
        subtract_once(rest, modulus)
    }
}

/// `x mod p` for `x < 2p`, `p ≤ 2^62`.
const fn subtract_once(x: u64, modulus: u64) -> u64 {
    let reduced = x.wrapping_sub(modulus);
    // The sign bit of the difference, as a mask.
    reduced.wrapping_add(modulus & (reduced.cast_signed() >> 63).cast_unsigned())
}

#[expect(clippy::cast_possible_truncation, reason = "the remainder lies in [0, modulus)")]
const fn residue(v: i128, modulus: u64) -> u64 {
    v.rem_euclid(modulus as i128) as u64
}

/// Greatest common divisor of `x` and `modulus`, and the inverse of `x` if that is 1.
fn inverse(x: u64, modulus: u64) -> (u64, u64) {
    let (mut r, mut s) = ((i128::from(modulus), i128::from(x)), (0_i128, 1_i128));
    while r.1 != 0 {
        let quotient = r.0 / r.1;
        r = (r.1, r.0 - quotient * r.1);
        s = (s.1, s.0 - quotient * s.1);
    }
    (u64::try_from(r.0).unwrap_or(0), residue(s.0, modulus))
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "tests"
    )]
    use proptest::prelude::*;

    use super::*;

    const PRIMES: [u64; 6] =
        [3, 65_537, 786_433, 1_073_692_673, (1 << 61) - 1, 2_305_843_009_213_693_921];

    proptest! {
        #[test]
        fn residues_give_back_every_value_of_the_window(
            first in 0_usize..6, n in 1_usize..4, low in -(1_i128 << 100)..1 << 100, at in 0.0..=1.0_f64,
        ) {
            let moduli: Vec<u64> = PRIMES.iter().copied().cycle().skip(first).take(n).collect();
            let Ok(window) = CrtWindow::new(low, &moduli) else {
                let product: f64 = moduli.iter().map(|&t| (t as f64).log2()).sum();
                prop_assert!(product > 120.9);
                return Ok(());
            };
            let WideInterval { low, high } = window.interval();
            let inside = low + (((high - low) as f64 * at) as i128).clamp(0, high - low);
            for v in [low, low + 1, inside, high - 1, high].into_iter().filter(|&v| v >= low) {
                let residues = moduli.iter().map(|&t| residue(v, t));
                prop_assert_eq!(window.combine(residues), v);
                prop_assert_eq!(window.reduce(v), v);
                let outside = v + (high - low + 1);
                prop_assert_eq!(window.reduce(outside), v);
            }
        }

        #[test]
        fn a_factor_multiplies(x in any::<u64>(), value in any::<u64>(), p in 2_u64..1 << 62) {
            let value = value % p;
            let exact = u128::from(x) * u128::from(value) % u128::from(p);
            prop_assert_eq!(u128::from(Factor::new(value, p).multiply(x, p)), exact);
        }
    }

    #[test]
    fn wide_residues_equal_their_definition() {
        let mut values = vec![0, 1, -1, i128::MAX, i128::MIN, i128::MIN + 1, 1 << 64, -(1 << 64)];
        values.extend(
            (0..127).flat_map(|bits| [(1 << bits) - 1, -(1_i128 << bits), 3 << (bits / 2)]),
        );
        for p in [2, 3, 12_289, 65_537, 1_073_692_673, (1 << 46) + 21 * (1 << 14) + 1, 1 << 62] {
            let reduction = Reduction128::new(p);
            for &v in &values {
                let multiples = i128::from(p).saturating_mul(v >> 70);
                for v in [v, multiples, multiples.saturating_sub(1), multiples.saturating_add(1)] {
                    assert_eq!(i128::from(reduction.residue(v)), v.rem_euclid(p.into()), "{v} {p}");
                }
            }
        }
    }

    #[test]
    fn moduli_with_a_common_divisor_are_refused() {
        assert!(CrtWindow::new(0, &[15, 21]).is_err());
        assert!(CrtWindow::new(0, &[17, 17]).is_err());
        assert!(CrtWindow::new(0, &[]).is_err());
        assert!(CrtWindow::new(0, &[(1 << 61) - 1, (1 << 61) - 3]).is_err());
        assert!(CrtWindow::new(1 << 121, &[17]).is_err());
        assert_eq!(CrtWindow::new(-3, &[7]).unwrap().combine([5]), -2);
    }
}
