//! Exactly uniform numbers below a bound.

use rand::CryptoRng;

/// Draws a number uniformly from `0..bound`, without any bias.
///
/// Lemire's multiply-and-reject: the high word of `x·bound` for uniform 64-bit `x`, where the
/// `2^64 mod bound` values of `x` that would favor some results are drawn again. (The generic
/// range sampling of `rand` accepts a small bias unless a crate feature is set somewhere in the
/// build; slot secrecy should not depend on that.)
///
/// `bound` must not be zero; every caller passes a length or a modulus it has checked.
///
/// # Source
/// D. Lemire, "Fast random integer generation in an interval", ACM TOMACS 29 (2019), algorithm 5.
#[expect(
    clippy::cast_possible_truncation,
    reason = "taking the high and the low word of a product is the algorithm"
)]
pub(crate) fn uniform_below(bound: u64, rng: &mut (impl CryptoRng + ?Sized)) -> u64 {
    debug_assert!(bound > 0, "invariant: callers pass a positive bound");
    let threshold = bound.wrapping_neg() % bound;
    loop {
        let product = u128::from(rng.next_u64()) * u128::from(bound);
        if product as u64 >= threshold {
            return (product >> 64) as u64;
        }
    }
}

/// Shuffles `values` so that every order is equally likely (Fisher–Yates, Durstenfeld's form).
pub(crate) fn shuffle(values: &mut [u32], rng: &mut (impl CryptoRng + ?Sized)) {
    for last in (1..values.len()).rev() {
        values.swap(last, uniform_index(last + 1, rng));
    }
}

/// Draws an index uniformly from `0..len` (`len > 0`).
#[expect(clippy::cast_possible_truncation, reason = "the result is below `len`, which is a usize")]
pub(crate) fn uniform_index(len: usize, rng: &mut (impl CryptoRng + ?Sized)) -> usize {
    uniform_below(len as u64, rng) as usize
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "tests")]

    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    use super::{shuffle, uniform_below};

    #[test]
    fn results_stay_below_the_bound_at_the_edges() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        for bound in [1, 2, 3, (1 << 32) + 1, (1 << 63) + 1, u64::MAX] {
            for _ in 0..100 {
                assert!(uniform_below(bound, &mut rng) < bound, "bound {bound}");
            }
        }
        assert_eq!(uniform_below(1, &mut rng), 0);
    }

    #[test]
    fn a_bound_that_maximizes_naive_bias_is_balanced() {
        // With bound 3·2^62 the product alone maps two of every four `x` to a multiple of 3.
        let bound = 3 << 62;
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let n_draws = 30_000;
        let n_multiples =
            (0..n_draws).filter(|_| uniform_below(bound, &mut rng).is_multiple_of(3)).count();
        // Expected n/3 = 10,000 with deviation 82.
        assert!((9_600..10_400).contains(&n_multiples), "{n_multiples}");
    }

    #[test]
    fn all_orders_of_four_values_are_equally_likely() {
        let mut rng = ChaCha20Rng::seed_from_u64(3);
        let mut counts = std::collections::BTreeMap::new();
        let n_draws = 24_000;
        for _ in 0..n_draws {
            let mut values = [0, 1, 2, 3];
            shuffle(&mut values, &mut rng);
            *counts.entry(values).or_insert(0_i64) += 1;
        }
        assert_eq!(counts.len(), 24);
        // Chi-square with 23 degrees of freedom: 49.7 is the 0.1 % point.
        let squares: i64 = counts.values().map(|c| (c - 1_000) * (c - 1_000)).sum();
        assert!(squares < 49_700, "chi-square {}/1000", squares);
    }
}
