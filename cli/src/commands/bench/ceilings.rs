//! The fastest this machine could be: one core's instructions and memory, measured in this run.

use he_core::{Backend, ceilings};

/// Bytes of a stream: beyond every cache.
const STREAM_BYTES: usize = 64 << 20;

/// Residue multiply-accumulates per second that the multiply instruction of a backend allows on one
/// core, operands in registers, with `digits` digits per residue. `None` where the compiler chooses
/// the instructions.
pub(super) fn multiply_accumulates_per_second(backend: Backend, digits: usize) -> Option<f64> {
    ceilings::multiply_accumulates_per_second(backend, digits)
}

/// Bytes per second that one core reads from memory in order.
pub(super) fn read_bytes_per_second() -> f64 {
    ceilings::read_bytes_per_second(STREAM_BYTES)
}

/// Bytes per second that one core copies in memory; every byte counts once read and once written.
pub(super) fn copy_bytes_per_second() -> f64 {
    2.0 * ceilings::copy_bytes_per_second(STREAM_BYTES)
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
