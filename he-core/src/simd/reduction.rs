//! Reduction modulo a small prime without division: the arithmetic of every vectorised loop.
//!
//! Quotients are estimated in `f64` and rounded to nearest by adding `1.5·2^52`; the remainder is
//! then exact in wrapping 64-bit arithmetic and off by at most one modulus. No operation branches,
//! divides or looks up a table.

/// Added to an `f64` of magnitude below 2^51, leaves its rounded value in the low mantissa bits.
const MAGIC: f64 = 6_755_399_441_055_744.0;

/// Constants for reduction modulo `q < 2^50`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reducer {
    pub(crate) modulus: u64,
    pub(crate) inverse: f64,
}

/// A fixed factor below `q`, prepared for [`Reducer::multiply`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Factor {
    value: u64,
    ratio: f64,
}

impl Factor {
    /// The factor itself.
    pub(crate) fn value(self) -> u64 {
        self.value
    }
}

impl Reducer {
    /// Prepares reduction modulo `modulus`.
    #[expect(clippy::cast_precision_loss, reason = "moduli are below 2^50")]
    pub(crate) fn new(modulus: u64) -> Self {
        debug_assert!(modulus > 1 && modulus >> 50 == 0, "reduction modulo {modulus}");
        Self { modulus, inverse: 1.0 / modulus as f64 }
    }

    /// The modulus q.
    pub(crate) fn modulus(self) -> u64 {
        self.modulus
    }

    /// Prepares multiplication by `value < q`.
    #[expect(clippy::cast_precision_loss, reason = "residues are below 2^50")]
    pub(crate) fn factor(self, value: u64) -> Factor {
        debug_assert!(value < self.modulus);
        Factor { value, ratio: value as f64 * self.inverse }
    }

    /// `y mod q` in `[0, q)`, for `|y| <= 2^50·q` (any `i64` when `q >= 2^13`).
    ///
    /// Three roundings of at most 2^-53 each put the estimate within `3/8` of `y/q`, rounding adds
    /// `1/2`: the remainder lies strictly between `-q` and `q`, and one conditional addition
    /// finishes.
    #[inline(always)]
    #[expect(clippy::cast_precision_loss, reason = "a quotient estimate, corrected below")]
    pub(crate) fn reduce(self, y: i64) -> u64 {
        let quotient = round(y as f64 * self.inverse);
        self.finish(y.wrapping_sub(quotient.wrapping_mul(self.modulus.cast_signed())))
    }

    /// `y·factor mod q` in `[0, q)`, for `|y| <= 2^50`.
    ///
    /// As [`Reducer::reduce`]: the quotient is below `|y|`, its estimate within `3/8`; the product
    /// wraps but the remainder does not.
    #[inline(always)]
    #[expect(clippy::cast_precision_loss, reason = "a quotient estimate, corrected below")]
    pub(crate) fn multiply(self, y: i64, factor: Factor) -> u64 {
        let quotient = round(y as f64 * factor.ratio);
        let product = y.wrapping_mul(factor.value.cast_signed());
        self.finish(product.wrapping_sub(quotient.wrapping_mul(self.modulus.cast_signed())))
    }

    /// `a + b mod q` for `a, b < q`.
    #[inline(always)]
    pub(crate) fn add(self, a: u64, b: u64) -> u64 {
        let s = a + b;
        s.min(s.wrapping_sub(self.modulus))
    }

    /// The integer congruent to `x < q` in `[-(q-1)/2, q/2]`.
    #[inline(always)]
    pub(crate) fn centre(self, x: u64) -> i64 {
        let (x, q) = (x.cast_signed(), self.modulus.cast_signed());
        x - (((q / 2 - x) >> 63) & q)
    }

    #[inline(always)]
    fn finish(self, r: i64) -> u64 {
        (r + ((r >> 63) & self.modulus.cast_signed())).cast_unsigned()
    }
}

/// The integer nearest to `x`, for `|x| < 2^51`.
#[inline(always)]
pub(super) fn round(x: f64) -> i64 {
    ((x + MAGIC).to_bits() << 12 >> 12).cast_signed() - (1 << 51)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::ring::largest_prime;

    fn moduli() -> impl Iterator<Item = u64> {
        [11, 13, 14, 25, 30, 31, 46, 47].into_iter().map(|bits| {
            let below = (1_u64 << bits).min(crate::MAX_MODULUS + 1);
            largest_prime(32, bits, below).unwrap()
        })
    }

    fn check(y: i64, modulus: u64, actual: u64, factor: u64) {
        let expected = (i128::from(y) * i128::from(factor)).rem_euclid(i128::from(modulus));
        assert_eq!(i128::from(actual), expected, "{y}·{factor} mod {modulus}");
    }

    #[test]
    fn reduction_is_exact_up_to_its_bound() {
        for q in moduli() {
            let reducer = Reducer::new(q);
            let bound = i64::try_from(i128::from(q) << 50).unwrap_or(i64::MAX);
            let q_signed = q.cast_signed();
            let mut values = vec![0, 1, -1, q_signed, -q_signed, q_signed - 1, q_signed / 2];
            values.extend([q_signed / 2 + 1, bound, -bound, bound - 1, 1 - bound]);
            // Multiples of q and their neighbours, where a wrong quotient shows.
            values.extend((0..200).map(|i| bound / q_signed / 200 * i * q_signed));
            values.extend((0..200).map(|i| -(bound / q_signed / 200 * i) * q_signed - 1));
            values.extend(
                (0..10_000_i64)
                    .map(|i| i.wrapping_mul(0x1234_5678_9ABC_DEF1).wrapping_add(i << 40) % bound),
            );
            for y in values {
                check(y, q, reducer.reduce(y), 1);
            }
        }
    }

    #[test]
    fn products_are_exact_up_to_the_bound() {
        for q in moduli() {
            let reducer = Reducer::new(q);
            let bound = 1_i64 << 50;
            for factor in [0, 1, 2, q / 2, q / 2 + 1, q - 2, q - 1] {
                let prepared = reducer.factor(factor);
                for y in [0, 1, -1, bound, -bound, bound - 1, q.cast_signed() - 1] {
                    check(y, q, reducer.multiply(y, prepared), factor);
                }
                for i in 0..2_000_i64 {
                    let y = i.wrapping_mul(0x1234_5678_9ABC_DEF1) % bound;
                    check(y, q, reducer.multiply(y, prepared), factor);
                }
            }
        }
    }

    #[test]
    fn centring_splits_in_the_middle() {
        let reducer = Reducer::new(12_289);
        assert_eq!([0, 6144, 6145, 12_288].map(|x| reducer.centre(x)), [0, 6144, -6144, -1]);
        assert_eq!([12_288, 1].map(|x| reducer.add(x, 12_288)), [12_287, 0]);
    }
}
