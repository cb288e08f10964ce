//! Plaintext factors: what a decrypted message must be multiplied by, modulo t.
//!
//! Dropping a modulus `q` multiplies a message by `q^-1 mod t`; a block remembers the factor that
//! undoes it. Products multiply factors; sums need equal ones. Everything here is public and runs in
//! variable time.

/// `a·b mod t` for a modulus up to 2^64 or a power of two: what [`crate::Params`] allows.
pub(crate) fn multiply_modulo(a: u128, b: u128, t: u128) -> u128 {
    if t.is_power_of_two() {
        return a.wrapping_mul(b) & (t - 1);
    }
    // Both factors are reduced below 2^64 first, so the product fits.
    (a % t) * (b % t) % t
}

/// The correction a message must be multiplied by after dropping `modulus`.
pub(crate) fn next_correction(correction: u128, modulus: u64, t: u128) -> u128 {
    multiply_modulo(correction, u128::from(modulus), t)
}

/// `x^-1 mod t`.
///
/// # Panics
/// When there is none. Corrections are products of moduli, which are prime to t.
pub(crate) fn invert_modulo(x: u128, t: u128) -> u128 {
    let modulus = signed(t);
    let (mut r, mut s) = ((modulus, signed(x % t)), (0_i128, 1_i128));
    while r.1 != 0 {
        let quotient = r.0 / r.1;
        r = (r.1, r.0 - quotient * r.1);
        s = (s.1, s.0 - quotient * s.1);
    }
    assert!(r.0 == 1, "invariant: a correction is prime to the plaintext modulus");
    s.0.rem_euclid(modulus).cast_unsigned()
}

/// The integer congruent to `x` modulo `t` in `(-t/2, t/2]`.
pub(crate) fn centred(x: u128, t: u128) -> i128 {
    let x = signed(x % t);
    if x > signed(t) / 2 { x - signed(t) } else { x }
}

/// `value / correction mod t`, centred: what must be added to a message so that `value` is added to
/// the plaintext.
pub(crate) fn divide_centred(value: i64, correction: u128, t: u128) -> i128 {
    if correction == 1 {
        // Small constants stay as they are, and so does the noise.
        return value.into();
    }
    let value = i128::from(value).rem_euclid(signed(t)).cast_unsigned();
    centred(multiply_modulo(value, invert_modulo(correction, t), t), t)
}

/// Factors that bring two corrections together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Balance {
    /// What the messages must be multiplied by; small in magnitude.
    pub(crate) first: i128,
    pub(crate) second: i128,
    /// The correction of both afterwards.
    pub(crate) correction: u128,
}

impl Balance {
    /// Finds small factors: about `sqrt(t)` each when the corrections are unrelated, `(1, 1)` when
    /// they are equal.
    ///
    /// A message times `a` has the correction `f/a`, so `a·f_2 = b·f_1 (mod t)` is wanted: every
    /// step of Euclid's algorithm on `t` and `f_2/f_1` gives one pair. A factor must be invertible
    /// modulo t; that of `(f_2/f_1)·1` always is, so there is one.
    pub(crate) fn new(first: u128, second: u128, t: u128) -> Self {
        let ratio = multiply_modulo(second, invert_modulo(first, t), t);
        let (mut r, mut s) = ((signed(t), signed(ratio)), (0_i128, 1_i128));
        let mut best: Option<(i128, i128)> = None;
        // Invariant: s·ratio = r (mod t).
        while r.1 != 0 {
            // Neighbours are coprime, but modulo a power of two both the last and this one's sum may
            // be needed to get an odd factor.
            for (a, b) in [(s.1, r.1), (s.1 + s.0, r.1 + r.0), (s.1 - s.0, r.1 - r.0)] {
                let size = a.abs().max(b.abs());
                if coprime(a, t) && best.is_none_or(|(a, b)| size < a.abs().max(b.abs())) {
                    best = Some((a, b));
                }
            }
            let quotient = r.0 / r.1;
            r = (r.1, r.0 - quotient * r.1);
            s = (s.1, s.0 - quotient * s.1);
        }
        let (a, b) = best.unwrap_or((1, 1));
        let inverse = invert_modulo(a.rem_euclid(signed(t)).cast_unsigned(), t);
        Self { first: a, second: b, correction: multiply_modulo(first, inverse, t) }
    }
}

fn coprime(a: i128, t: u128) -> bool {
    let (mut x, mut y) = (signed(t), a.rem_euclid(signed(t)));
    while y != 0 {
        (x, y) = (y, x % y);
    }
    x == 1
}

/// Plaintext moduli are below 2^100.
const fn signed(x: u128) -> i128 {
    x.cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULI: [u128; 6] = [2, 3, 65_537, 40_961 * 3, (1 << 63) + 29, 1 << 99];

    #[test]
    fn inverses_undo_factors() {
        for t in MODULI {
            for x in [1, 5, 7, (1 << 46) + 1, t - 1] {
                if coprime(signed(x % t), t) {
                    assert_eq!(multiply_modulo(x, invert_modulo(x, t), t), 1, "{x} modulo {t}");
                }
            }
        }
    }

    #[test]
    fn constants_are_divided_by_the_correction() {
        for t in MODULI {
            for (value, f) in [(i64::MIN, 7), (-1, 11), (i64::MAX, 1), (5, 13)] {
                let divided = divide_centred(value, f, t).rem_euclid(signed(t));
                let back = multiply_modulo(divided.cast_unsigned(), f, t);
                assert_eq!(signed(back), i128::from(value).rem_euclid(signed(t)), "{value}/{f}");
                assert!(f == 1 || divide_centred(value, f, t).unsigned_abs() <= t / 2);
            }
        }
    }

    #[test]
    fn balanced_factors_are_small_and_meet() {
        for t in [65_537, 786_433, 1 << 20, 1 << 40, (1 << 46) + 21 * (1 << 14) + 1] {
            for (f, g) in [(1, 1), (3, 5), (17, 17), (1, 9_999), (12_345, 54_321), (1, t - 1)] {
                let Balance { first, second, correction } = Balance::new(f, g, t);
                // m·a decrypts with f/a, m'·b with g/b: both must be the one correction.
                for (factor, old) in [(first, f), (second, g)] {
                    let factor = factor.rem_euclid(signed(t)).cast_unsigned();
                    assert_eq!(multiply_modulo(correction, factor, t), old % t, "{f} {g} {t}");
                }
                let largest = first.unsigned_abs().max(second.unsigned_abs());
                let bound = if t.is_power_of_two() { 16 * t } else { 4 * t };
                assert!(largest * largest <= bound, "{f} {g} modulo {t}: {first} {second}");
                assert!(f != g || (first, second) == (1, 1));
            }
        }
    }
}
