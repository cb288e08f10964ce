//! Sums of products of residues, point by point: ciphertext products and key switching.
//!
//! As in `squares.rs`, the low 52 bits and the rest of each product go to two 64-bit sums, so that a
//! sum of many products is reduced once.

use super::{Factor, Reducer, vectorize};

/// Columns worked on at a time: both sums stay in a level-1 cache.
const COLUMNS: usize = 512;

/// Terms of a sum: the lower sums stay below 2^58, which every supported prime reduces in one step.
pub(crate) const MAX_TERMS: usize = 64;

const LOW: u64 = (1 << 52) - 1;

/// `out = Σ a∘b mod q`, point by point; factors below q.
///
/// # Panics
/// When a factor has another length than `out`, or there are more than [`MAX_TERMS`] terms.
pub(crate) fn sum_products(
    reducer: Reducer,
    radix: Factor,
    terms: &[(&[u64], &[u64])],
    out: &mut [u64],
) {
    assert!(terms.len() <= MAX_TERMS, "invariant: few terms");
    assert!(
        terms.iter().all(|(a, b)| a.len() == out.len() && b.len() == out.len()),
        "invariant: one length"
    );
    let (mut low, mut high) = ([0; COLUMNS], [0; COLUMNS]);
    for (chunk, out) in out.chunks_mut(COLUMNS).enumerate() {
        let (start, columns) = (chunk * COLUMNS, out.len());
        let low = low.get_mut(..columns).unwrap_or_default();
        let high = high.get_mut(..columns).unwrap_or_default();
        low.fill(0);
        high.fill(0);
        for (a, b) in terms {
            let a = a.get(start..start + columns).unwrap_or_default();
            let b = b.get(start..start + columns).unwrap_or_default();
            add_products(low, high, a, b);
        }
        vectorize(
            #[inline(always)]
            || {
                for ((x, &low), &high) in out.iter_mut().zip(low.iter()).zip(high.iter()) {
                    // low <= 64·2^52 <= 2^50·q, and high <= 64·2^42 <= 2^50.
                    let high = reducer.multiply(high.cast_signed(), radix);
                    *x = reducer.add(reducer.reduce(low.cast_signed()), high);
                }
            },
        );
    }
}

/// Adds both parts of `a∘b` to the sums.
fn add_products(low: &mut [u64], high: &mut [u64], a: &[u64], b: &[u64]) {
    assert!(low.len() == high.len() && low.len() == a.len() && low.len() == b.len());
    #[cfg(target_arch = "x86_64")]
    if low.len().is_multiple_of(ifma::LANES)
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512ifma")
    {
        // SAFETY: the features were detected and the lengths checked above.
        unsafe { ifma::add_products(low, high, a, b) }
        return;
    }
    add_products_scalar(low, high, a, b);
}

/// The specification of [`add_products`].
fn add_products_scalar(low: &mut [u64], high: &mut [u64], a: &[u64], b: &[u64]) {
    for (((low, high), &a), &b) in low.iter_mut().zip(high).zip(a).zip(b) {
        let product = u128::from(a) * u128::from(b);
        #[expect(clippy::cast_possible_truncation, reason = "94 bits in two parts")]
        {
            *low += product as u64 & LOW;
            *high += (product >> 52) as u64;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod ifma {
    use core::arch::x86_64::{
        _mm512_loadu_si512, _mm512_madd52hi_epu64, _mm512_madd52lo_epu64, _mm512_storeu_si512,
    };

    pub(super) const LANES: usize = 8;

    /// As [`super::add_products`].
    ///
    /// # Safety
    /// AVX-512 F and IFMA must be available; all slices must have one length, a multiple of
    /// [`LANES`].
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(super) unsafe fn add_products(low: &mut [u64], high: &mut [u64], a: &[u64], b: &[u64]) {
        for i in (0..low.len()).step_by(LANES) {
            // SAFETY: `i + LANES <= len` for every slice, which all have one length.
            unsafe {
                let x = _mm512_loadu_si512(a.as_ptr().add(i).cast());
                let y = _mm512_loadu_si512(b.as_ptr().add(i).cast());
                let low = low.as_mut_ptr().add(i);
                let high = high.as_mut_ptr().add(i);
                let l = _mm512_madd52lo_epu64(_mm512_loadu_si512(low.cast()), x, y);
                let h = _mm512_madd52hi_epu64(_mm512_loadu_si512(high.cast()), x, y);
                _mm512_storeu_si512(low.cast(), l);
                _mm512_storeu_si512(high.cast(), h);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::ring::{Ring, largest_prime};

    /// Saturated residues in as many terms as are allowed, for the smallest and the largest primes,
    /// lengths with and without whole vectors.
    #[test]
    fn sums_of_saturated_products_are_exact() {
        for bits in [11, 14, 30, 41, 47] {
            let below = (1_u64 << bits).min(crate::MAX_MODULUS + 1);
            let q = largest_prime(32, bits, below).unwrap();
            let ring = Ring::new(32, q).unwrap();
            for (len, n_terms) in [(0, 1), (7, 3), (512, MAX_TERMS), (520, 5), (1041, 2), (64, 0)] {
                let word = |i: usize, j: usize| match (i + j) % 4 {
                    0 | 1 => q - 1,
                    2 => q / 2,
                    _ => (i as u64 * 0x9E37_79B9 + j as u64) % q,
                };
                let a: Vec<Vec<u64>> =
                    (0..n_terms).map(|j| (0..len).map(|i| word(i, j)).collect()).collect();
                let b: Vec<Vec<u64>> =
                    (0..n_terms).map(|j| (0..len).map(|i| word(i / 4, j)).collect()).collect();
                let terms: Vec<(&[u64], &[u64])> =
                    a.iter().zip(&b).map(|(a, b)| (&a[..], &b[..])).collect();
                let mut out = vec![99; len];
                ring.sum_products(&terms, &mut out);
                for i in 0..len {
                    let sum: u128 =
                        terms.iter().map(|(a, b)| u128::from(a[i]) * u128::from(b[i])).sum();
                    assert_eq!(u128::from(out[i]), sum % u128::from(q), "{bits} bits");
                }
            }
        }
    }

    #[test]
    fn vectors_add_what_the_specification_adds() {
        let top = crate::MAX_MODULUS - 1;
        let a: Vec<u64> = (0..64).map(|i| [0, 1, top, top / 3, (1 << 26) + 1][i % 5]).collect();
        let b: Vec<u64> = a.iter().rev().copied().collect();
        let mut fast = [vec![3; 64], vec![4; 64]];
        let mut slow = fast.clone();
        for _ in 0..MAX_TERMS {
            let [low, high] = &mut fast;
            add_products(low, high, &a, &b);
            let [low, high] = &mut slow;
            add_products_scalar(low, high, &a, &b);
        }
        assert_eq!(fast, slow);
    }
}
