//! Lazy sums of products of residues: what a square followed by a sum pool adds up.
//!
//! A product of two residues below 2^47 has up to 94 bits. Its low 52 bits and the rest are added to
//! two 64-bit sums, so that nothing is reduced before the last term: that is what the two IFMA
//! instructions do, and what the plain loop does with 128-bit products.

/// Terms that may be added before [`carry`]: the sums of the lower parts stay below 2^63.
pub(crate) const TERMS_BEFORE_CARRY: usize = 1 << 10;

/// Arrays of sums: low and high parts of `c0²`, `c0·c1`, `c1²`.
pub(crate) const ARRAYS: usize = 6;

const LOW: u64 = (1 << 52) - 1;

/// Adds `c0²`, `c0·c1` and `c1²`, column by column, to `sums`, laid out `[ARRAYS][columns]`.
///
/// # Panics
/// When `sums` does not hold [`ARRAYS`] times as many words as `c0` and `c1`.
pub(crate) fn add_squares(sums: &mut [u64], c0: &[u64], c1: &[u64]) {
    assert!(c0.len() == c1.len() && sums.len() == ARRAYS * c0.len(), "invariant: one shape");
    #[cfg(target_arch = "x86_64")]
    if c0.len().is_multiple_of(ifma::LANES)
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512ifma")
    {
        // SAFETY: the features were detected and the lengths checked above.
        unsafe { ifma::add_squares(sums, c0, c1) }
        return;
    }
    add_squares_scalar(sums, c0, c1);
}

/// Moves what has gathered above bit 52 of the lower parts to the upper parts; the sums stay the same.
pub(crate) fn carry(sums: &mut [u64], columns: usize) {
    for sums in sums.chunks_exact_mut(2 * columns) {
        let (low, high) = sums.split_at_mut(columns);
        for (low, high) in low.iter_mut().zip(high) {
            *high += *low >> 52;
            *low &= LOW;
        }
    }
}

/// The specification of [`add_squares`].
fn add_squares_scalar(sums: &mut [u64], c0: &[u64], c1: &[u64]) {
    let mut products = sums.chunks_exact_mut(2 * c0.len().max(1));
    for (a, b) in [(c0, c0), (c0, c1), (c1, c1)] {
        let (low, high) = products.next().unwrap_or_default().split_at_mut(c0.len());
        for (((low, high), &a), &b) in low.iter_mut().zip(high).zip(a).zip(b) {
            let product = u128::from(a) * u128::from(b);
            #[expect(clippy::cast_possible_truncation, reason = "94 bits in two parts")]
            {
                *low += product as u64 & LOW;
                *high += (product >> 52) as u64;
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod ifma {
    use core::arch::x86_64::{
        __m512i, _mm512_loadu_si512, _mm512_madd52hi_epu64, _mm512_madd52lo_epu64,
        _mm512_storeu_si512,
    };

    pub(super) const LANES: usize = 8;

    /// As [`super::add_squares`].
    ///
    /// # Safety
    /// AVX-512 F and IFMA must be available; `c0` and `c1` must have one length, a multiple of
    /// [`LANES`], and `sums` [`super::ARRAYS`] times that.
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(super) unsafe fn add_squares(sums: &mut [u64], c0: &[u64], c1: &[u64]) {
        let columns = c0.len();
        for i in (0..columns).step_by(LANES) {
            // SAFETY: `i + LANES <= columns`, so the loads lie inside the slices, and array `k` of
            // the sums, `k < ARRAYS`, has its words at `k·columns + i`.
            unsafe {
                let a = _mm512_loadu_si512(c0.as_ptr().add(i).cast());
                let b = _mm512_loadu_si512(c1.as_ptr().add(i).cast());
                let first = sums.as_mut_ptr().add(i);
                for (array, x, y) in [(0, a, a), (2, a, b), (4, b, b)] {
                    add_product(first.add(array * columns), columns, x, y);
                }
            }
        }
    }

    /// Adds the parts of eight products to the sums at `low` and, `columns` words on, at the high
    /// part.
    ///
    /// # Safety
    /// AVX-512 F and IFMA must be available; both places must hold [`LANES`] words.
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    unsafe fn add_product(low: *mut u64, columns: usize, x: __m512i, y: __m512i) {
        // SAFETY: the caller's promise.
        unsafe {
            let high = low.add(columns);
            let l = _mm512_madd52lo_epu64(_mm512_loadu_si512(low.cast()), x, y);
            _mm512_storeu_si512(low.cast(), l);
            let h = _mm512_madd52hi_epu64(_mm512_loadu_si512(high.cast()), x, y);
            _mm512_storeu_si512(high.cast(), h);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "tests")]
    use super::*;

    #[test]
    fn vectors_add_what_the_specification_adds() {
        for columns in [0, 8, 16, 24] {
            let top = crate::MAX_MODULUS - 1;
            let word = |i: usize| [0, 1, top, top - 1, top / 2, (1 << 26) + 1][i % 6];
            let c0: Vec<u64> = (0..columns).map(word).collect();
            let c1: Vec<u64> = (0..columns).map(|i| word(i / 6 + i)).collect();
            let (mut fast, mut slow) = (vec![7; ARRAYS * columns], vec![7; ARRAYS * columns]);
            for _ in 0..TERMS_BEFORE_CARRY {
                add_squares(&mut fast, &c0, &c1);
                add_squares_scalar(&mut slow, &c0, &c1);
            }
            assert_eq!(fast, slow);
            assert!(slow.iter().all(|&sum| sum < 1 << 63));
            if columns > 0 {
                carry(&mut slow, columns);
            }
            for i in 0..columns {
                for (array, x, y) in [(0, c0[i], c0[i]), (2, c0[i], c1[i]), (4, c1[i], c1[i])] {
                    let [low, high] = [0, 1].map(|part| slow[(array + part) * columns + i]);
                    let sum = u128::from(low) + (u128::from(high) << 52);
                    let started = 7 + (7 << 52);
                    let product = u128::from(x) * u128::from(y);
                    assert_eq!(sum, started + product * TERMS_BEFORE_CARRY as u128);
                    assert!(low <= LOW);
                }
            }
        }
    }
}
