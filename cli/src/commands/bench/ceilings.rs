//! The fastest this machine could be: memory streams, and one instruction over and over.

use std::hint::black_box;
use std::time::Duration;

use he_core::Backend;

use super::clock;

/// Words of a stream: 64 MiB, beyond every cache.
const STREAM_WORDS: usize = 8 << 20;
/// Time each stream is measured for.
const STREAM_TIME: Duration = Duration::from_millis(200);

/// Residue multiply-accumulates per second that the multiply instruction of a backend allows on one
/// core, operands in registers, with `digits` digits per residue. `None` where it cannot be measured:
/// without intrinsics there is no way to issue the instruction alone.
pub(super) fn multiply_accumulates_per_second(_: Backend, _: usize) -> Option<f64> {
    None
}

/// Bytes per second that one core reads from memory in order.
pub(super) fn read_bytes_per_second() -> f64 {
    let words: Vec<u64> = (0..STREAM_WORDS as u64).collect();
    let sum = || words.iter().fold(0_u64, |sum, &word| sum.wrapping_add(word));
    rate(8 * STREAM_WORDS, || {
        black_box(sum());
    })
}

/// Bytes per second that one core copies in memory; every byte counts once read and once written.
pub(super) fn copy_bytes_per_second() -> f64 {
    let source = vec![1_u64; STREAM_WORDS];
    let mut target = vec![2_u64; STREAM_WORDS];
    rate(16 * STREAM_WORDS, || black_box(&mut target).copy_from_slice(black_box(&source)))
}

#[expect(clippy::cast_precision_loss, reason = "a stream is far below 2^53 bytes")]
fn rate(n_bytes: usize, mut work: impl FnMut()) -> f64 {
    let timing = clock::measure(STREAM_TIME.as_secs_f64(), || {
        work();
        Ok::<(), std::convert::Infallible>(())
    });
    match timing {
        Ok(timing) => n_bytes as f64 / timing.seconds,
        Err(never) => match never {},
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_streams_have_a_rate() {
        for rate in [read_bytes_per_second(), copy_bytes_per_second()] {
            assert!((1e7..1e13).contains(&rate), "{rate}");
        }
    }
}
