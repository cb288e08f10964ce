//! What one core of this machine can do at most: the rates that benchmarks are a share of.
//!
//! Each function runs a loop of nothing but the instruction or the access it measures for about 50 ms
//! on the calling thread and returns the best rate seen, so that interruptions do not lower it. Run
//! them in the same process as what they are compared with: clock rates change with load.

use core::hint::black_box;
use std::time::{Duration, Instant};

use crate::{Backend, simd};

/// How long a rate is measured.
const DURATION: Duration = Duration::from_millis(50);

/// Multiply-accumulates of whole residues per second if the kernel of `backend` did nothing but
/// multiply: residues of two or three 16-bit digits (four or six bytes on [`Backend::Amx`]).
///
/// `None` when the machine lacks the backend, when the backend has no multiplying instruction of its
/// own (plain Rust), and for other numbers of digits.
///
/// # Example
///
/// ```
/// use he_core::{Backend, ceilings};
///
/// for backend in Backend::available() {
///     if let Some(rate) = ceilings::multiply_accumulates_per_second(backend, 3) {
///         println!("{}: {:.1} G/s", backend.name(), rate / 1e9);
///     }
/// }
/// ```
#[must_use]
pub fn multiply_accumulates_per_second(backend: Backend, digits: usize) -> Option<f64> {
    if !(2..=3).contains(&digits) {
        return None;
    }
    const ROUNDS: usize = 20_000;
    let products = simd::products_per_round(backend)?;
    let parts = if backend == Backend::Amx { 2 * digits } else { digits };
    let rounds = if backend == Backend::Amx { ROUNDS / 20 } else { ROUNDS };
    let seconds = best_seconds(|| simd::run_products(backend, rounds));
    #[expect(clippy::cast_precision_loss, reason = "a few million")]
    Some((products * rounds) as f64 / parts as f64 / seconds)
}

/// Bytes per second read from a buffer of `len_bytes`, once per pass, in order.
///
/// Give several times the size of the last-level cache to measure memory. Panics when that much
/// cannot be allocated.
#[must_use]
pub fn read_bytes_per_second(len_bytes: usize) -> f64 {
    let words = vec![1_u64; words_of(len_bytes)];
    per_second(words.len(), || {
        let sum = simd::vectorize(
            #[inline(always)]
            || black_box(&words).iter().fold(0_u64, |sum, &word| sum.wrapping_add(word)),
        );
        black_box(sum);
    })
}

/// Bytes per second written to a buffer of `len_bytes`, once per pass, in order. As
/// [`read_bytes_per_second`].
#[must_use]
pub fn write_bytes_per_second(len_bytes: usize) -> f64 {
    let mut words = vec![1_u64; words_of(len_bytes)];
    let mut value = 0;
    let len = words.len();
    per_second(len, || {
        value += 1;
        simd::vectorize(
            #[inline(always)]
            || black_box(&mut words).iter_mut().for_each(|word| *word = value),
        );
    })
}

/// Bytes per second copied from one buffer of `len_bytes` to another: each is read once and written
/// once. As [`read_bytes_per_second`].
#[must_use]
pub fn copy_bytes_per_second(len_bytes: usize) -> f64 {
    let source = vec![1_u64; words_of(len_bytes)];
    let mut target = vec![2_u64; source.len()];
    per_second(source.len(), || black_box(&mut target).copy_from_slice(black_box(&source)))
}

/// Whole words, one at least.
fn words_of(len_bytes: usize) -> usize {
    (len_bytes / 8).max(1)
}

fn per_second(n_words: usize, pass: impl FnMut()) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "memory sizes")]
    let bytes = (n_words * 8) as f64;
    bytes / best_seconds(pass)
}

/// The fastest of the runs of about [`DURATION`], two at least: the first warms up.
fn best_seconds(mut run: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    let start = Instant::now();
    for index in 0.. {
        if index >= 2 && start.elapsed() >= DURATION {
            break;
        }
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best.max(1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_exist_exactly_where_instructions_do() {
        for backend in Backend::ALL {
            let has_instruction =
                backend.is_available() && !matches!(backend, Backend::Scalar | Backend::Portable);
            for digits in 0..5 {
                let rate = multiply_accumulates_per_second(backend, digits);
                let expected = has_instruction && matches!(digits, 2 | 3);
                assert_eq!(rate.is_some(), expected, "{} {digits}", backend.name());
                assert!(rate.is_none_or(|rate| rate.is_finite() && rate > 0.0));
            }
        }
    }

    #[test]
    fn memory_rates_are_finite_for_every_size() {
        for len_bytes in [0, 1, 256, 100_000] {
            for rate in [read_bytes_per_second, write_bytes_per_second, copy_bytes_per_second] {
                let rate = rate(len_bytes);
                assert!(rate.is_finite() && rate > 0.0, "{len_bytes} bytes: {rate}");
            }
        }
    }
}
