//! Automorphisms `X → X^g` of the ring: rotations of the two rows of slots.
//!
//! Slots form two rows of N/2: column `j` of row 0 is the value at `ψ^(3^j)`, of row 1 at
//! `ψ^(-3^j)`. `X → X^(3^k)` moves every row `k` columns to the left, `X → X^(2N - 1)` swaps the rows.

use crate::{Params, simd::vectorize};

/// Generator of the columns: 3 has order N/2 modulo 2N, and never gives -1.
const GENERATOR: usize = 3;

/// The exponent `g` that rotates rows by `steps` columns to the left; 1 for none.
pub(crate) fn rotation_element(ring_degree: usize, steps: i64) -> u32 {
    let columns = i64::try_from(ring_degree / 2).unwrap_or(i64::MAX);
    let steps = steps.rem_euclid(columns);
    element((0..steps).fold(1, |g, _| g * GENERATOR % (2 * ring_degree)))
}

/// The exponent that swaps the rows.
pub(crate) fn swap_element(ring_degree: usize) -> u32 {
    element(2 * ring_degree - 1)
}

fn element(g: usize) -> u32 {
    u32::try_from(g).unwrap_or_default()
}

/// Evaluation point of every slot, rows one after the other: a permutation of `0..N`.
pub(crate) fn row_points(ring_degree: usize) -> Vec<u32> {
    let order = 2 * ring_degree;
    let mut points = Vec::with_capacity(ring_degree);
    for start in [1, order - 1] {
        let mut exponent = start;
        for _ in 0..ring_degree / 2 {
            points.push(point_of(ring_degree, exponent));
            exponent = exponent * GENERATOR % order;
        }
    }
    points
}

/// Where each evaluation point of `c(X^g)` comes from among those of `c(X)`.
pub(crate) fn permutation(ring_degree: usize, g: u32) -> Vec<u32> {
    let order = 2 * ring_degree;
    let source = |i| point_of(ring_degree, exponent_of(ring_degree, i) * (g as usize) % order);
    (0..ring_degree).map(source).collect()
}

/// Applies a [`permutation`] to the words of one polynomial.
pub(crate) fn permute(permutation: &[u32], words: &[u64], out: &mut [u64]) {
    vectorize(
        #[inline(always)]
        || {
            for (x, &source) in out.iter_mut().zip(permutation) {
                *x = words.get(source as usize).copied().unwrap_or_default();
            }
        },
    );
}

/// Point `i` of the canonical order is `ψ^(2·bitrev(i) + 1)`.
fn exponent_of(ring_degree: usize, i: usize) -> usize {
    2 * reversed(ring_degree, i) + 1
}

fn point_of(ring_degree: usize, exponent: usize) -> u32 {
    element(reversed(ring_degree, exponent / 2))
}

fn reversed(ring_degree: usize, i: usize) -> usize {
    i.reverse_bits() >> (usize::BITS - ring_degree.trailing_zeros())
}

/// The name of an automorphism, for errors: the rotation it is, or the swap.
pub(crate) fn describe(params: &Params, g: u32) -> String {
    let n = params.ring_degree();
    if g == swap_element(n) {
        return "the swap of rows".to_owned();
    }
    let mut exponent = 1;
    for steps in 0..n / 2 {
        if element(exponent) == g {
            let back = n / 2 - steps;
            return format!("the rotation of rows by {steps} (or -{back})");
        }
        exponent = exponent * GENERATOR % (2 * n);
    }
    format!("the automorphism X → X^{g}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::ring::{Ring, largest_prime};

    /// `c(X^g)` in coefficients, the definition.
    fn substitute(c: &[u64], g: usize, q: u64) -> Vec<u64> {
        let n = c.len();
        let mut out = vec![0; n];
        for (i, &x) in c.iter().enumerate() {
            let exponent = i * g % (2 * n);
            let negated = if x == 0 { 0 } else { q - x };
            out[exponent % n] = if exponent < n { x } else { negated };
        }
        out
    }

    #[test]
    fn permuted_evaluations_are_those_of_the_substituted_polynomial() {
        let n = 64;
        let q = largest_prime(n, 40, 1 << 40).unwrap();
        let ring = Ring::new(n, q).unwrap();
        let c: Vec<u64> = (0..n as u64).map(|i| (q - 1) / (i + 1)).collect();
        let mut words = c.clone();
        ring.forward(&mut words);
        for g in (1..2 * n).step_by(2) {
            let mut expected = substitute(&c, g, q);
            ring.forward(&mut expected);
            let mut out = vec![0; n];
            permute(&permutation(n, element(g)), &words, &mut out);
            assert_eq!(out, expected, "X^{g}");
        }
    }

    #[test]
    fn rows_are_a_permutation_that_rotations_shift() {
        for n in [32, 256] {
            let points = row_points(n);
            let mut sorted = points.clone();
            sorted.sort_unstable();
            assert!(sorted.iter().enumerate().all(|(i, &p)| i == p as usize));
            for steps in [0, 1, 5, n / 2 - 1] {
                let g = rotation_element(n, i64::try_from(steps).unwrap());
                let sources = permutation(n, g);
                for (row, points) in points.chunks(n / 2).enumerate() {
                    for column in 0..n / 2 {
                        let from = points[(column + steps) % (n / 2)];
                        assert_eq!(sources[points[column] as usize], from, "row {row}");
                    }
                }
            }
            let sources = permutation(n, swap_element(n));
            assert!((0..n / 2).all(|c| sources[points[c] as usize] == points[n / 2 + c]));
        }
    }

    #[test]
    fn rotations_wrap_and_count_backwards() {
        assert_eq!(rotation_element(64, 0), 1);
        assert_eq!(rotation_element(64, 32), 1);
        assert_eq!(rotation_element(64, -1), rotation_element(64, 31));
        assert_eq!(rotation_element(64, i64::MIN), rotation_element(64, 0));
    }
}
