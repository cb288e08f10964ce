//! `Σ factor·row` over a few ciphertexts at a time, by columns, with the sums in registers.

use crate::{
    ring::Ring,
    simd::{Reducer, vectorize},
};

/// Most ciphertexts added together.
pub(crate) const MAX_GROUP: usize = 8;

/// Words of the ciphertexts added together: 256 KiB, so that they and the sums stay in level-2 cache.
const GROUP_WORDS: usize = 1 << 15;

/// Columns whose sums are held in registers.
const TILE: usize = 32;

/// Terms a sum takes between reductions: `2^13·q < 2^60`.
pub(super) const MAX_TERMS: usize = 1 << 13;
const _: () = assert!((MAX_TERMS as u64) * crate::MAX_MODULUS < 1 << 60);

/// Products of residues of at most this many bits are summed without reduction:
/// `8·(2^30 - 1)² + 2^30 < 2^63`.
const NARROW_BITS: u32 = 30;
const _: () = assert!((MAX_GROUP as u64) << (2 * NARROW_BITS) == 1 << 63);

/// Added to an `f64` of magnitude below 2^51, leaves the nearest integer in the low mantissa bits:
/// the bit pattern of `MAGIC + k` is that of `MAGIC` plus `k`.
const MAGIC: f64 = 6_755_399_441_055_744.0;

/// Ciphertexts of `row_len` words to add together.
pub(crate) fn group_len(row_len: usize) -> usize {
    (GROUP_WORDS / row_len.max(1)).clamp(1, MAX_GROUP)
}

/// `sums += Σ_i factors[i]·words[i]`, column by column, for at most [`MAX_GROUP`] rows of words.
///
/// Needs `sums` of magnitude at most `(MAX_TERMS - 1)·q`, and residues below q for narrow primes;
/// each factor adds less than q. Sums modulo narrow primes end reduced.
pub(super) fn add_products(ring: &Ring, words: &[u64], factors: &[u64], sums: &mut [i64]) {
    debug_assert!(factors.len() <= MAX_GROUP && words.len() == factors.len() * sums.len());
    let reducer = ring.reducer();
    if ring.bits() <= NARROW_BITS {
        vectorize(
            #[inline(always)]
            || add_narrow(reducer, words, factors, sums),
        );
    } else {
        vectorize(
            #[inline(always)]
            || add_wide(reducer, words, factors, sums),
        );
    }
}

/// The columns `[32·tile, 32·tile + 32)` of one row.
#[inline(always)]
fn columns(row: &[u64], tile: usize) -> &[u64; TILE] {
    const NONE: &[u64; TILE] = &[0; TILE];
    row.get(tile * TILE..(tile + 1) * TILE).and_then(|x| x.try_into().ok()).unwrap_or(NONE)
}

/// Whole products are summed, then reduced together.
#[inline(always)]
fn add_narrow(reducer: Reducer, words: &[u64], factors: &[u64], sums: &mut [i64]) {
    const WORD: u64 = 0xFFFF_FFFF;
    let row_len = sums.len();
    for (tile, sums) in sums.as_chunks_mut::<TILE>().0.iter_mut().enumerate() {
        let mut total = sums.map(i64::cast_unsigned);
        for (row, &factor) in words.chunks_exact(row_len).zip(factors) {
            let factor = factor & WORD;
            for (total, &x) in total.iter_mut().zip(columns(row, tile)) {
                *total = total.wrapping_add((x & WORD) * factor);
            }
        }
        for (sum, total) in sums.iter_mut().zip(total) {
            *sum = reducer.reduce(total.cast_signed()).cast_signed();
        }
    }
}

/// Products and their rounded quotients by q are summed; `Σ product - q·Σ quotient` is small, so its
/// 64 low bits are exact.
///
/// With `x, factor < q < 2^47` a quotient estimate is within `1/2 + 2^-4` of the quotient: each term
/// adds less than q in magnitude.
#[inline(always)]
#[expect(clippy::cast_precision_loss, reason = "quotient estimates of residues below 2^47")]
fn add_wide(reducer: Reducer, words: &[u64], factors: &[u64], sums: &mut [i64]) {
    let row_len = sums.len();
    let modulus = reducer.modulus;
    let offset = MAGIC.to_bits().wrapping_mul(factors.len() as u64);
    for (tile, sums) in sums.as_chunks_mut::<TILE>().0.iter_mut().enumerate() {
        let mut products = [0_u64; TILE];
        let mut quotients = [0_u64; TILE];
        for (row, &factor) in words.chunks_exact(row_len).zip(factors) {
            let ratio = factor as f64 * reducer.inverse;
            let x = columns(row, tile);
            for ((product, quotient), &x) in products.iter_mut().zip(&mut quotients).zip(x) {
                *product = product.wrapping_add(x.wrapping_mul(factor));
                let estimate = x.cast_signed() as f64 * ratio + MAGIC;
                *quotient = quotient.wrapping_add(estimate.to_bits());
            }
        }
        for ((sum, product), quotient) in sums.iter_mut().zip(products).zip(quotients) {
            let quotient = quotient.wrapping_sub(offset);
            let rest = product.wrapping_sub(quotient.wrapping_mul(modulus));
            *sum = sum.wrapping_add(rest.cast_signed());
        }
    }
}

/// Brings every sum below q.
pub(super) fn reduce(ring: &Ring, sums: &mut [i64]) {
    let reducer = ring.reducer();
    vectorize(
        #[inline(always)]
        || {
            for sum in sums {
                *sum = reducer.reduce(*sum).cast_signed();
            }
        },
    );
}

/// Adds reduced sums to reduced sums.
pub(super) fn merge(ring: &Ring, sums: &mut [i64], others: &[i64]) {
    let reducer = ring.reducer();
    vectorize(
        #[inline(always)]
        || {
            for (sum, &other) in sums.iter_mut().zip(others) {
                *sum = reducer.add(sum.cast_unsigned(), other.cast_unsigned()).cast_signed();
            }
        },
    );
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::ring::largest_prime;

    /// Saturated and boundary words at every size of prime, against 128-bit arithmetic.
    #[test]
    fn sums_of_products_are_exact_for_every_size() {
        for bits in 11..=47 {
            let below = (1_u64 << bits).min(crate::MAX_MODULUS + 1);
            let Some(q) = largest_prime(32, bits, below) else { continue };
            let ring = Ring::new(32, q).unwrap();
            for count in 1..=MAX_GROUP {
                let word = |i: u64| match i % 7 {
                    0 | 1 => q - 1,
                    2 => 0,
                    3 => q / 2,
                    4 => q / 2 + 1,
                    _ => i.wrapping_mul(0x9E37_79B9_7F4A_7C15) % q,
                };
                let words: Vec<u64> = (0..count as u64 * 64).map(|i| word(i / 3)).collect();
                let factors: Vec<u64> = (0..count as u64).map(|i| word(i + q % 5)).collect();
                let mut sums = vec![q.cast_signed() - 1; 64];
                for _ in 0..3 {
                    add_products(&ring, &words, &factors, &mut sums);
                }
                reduce(&ring, &mut sums);
                for (column, &sum) in sums.iter().enumerate() {
                    let term =
                        |i: usize| u128::from(words[64 * i + column]) * u128::from(factors[i]);
                    let total = u128::from(q) - 1 + 3 * (0..count).map(term).sum::<u128>();
                    assert_eq!(
                        u128::from(sum.cast_unsigned()),
                        total % u128::from(q),
                        "{bits} bits"
                    );
                }
            }
        }
    }
}
