//! The specification of the linear kernel, in plain Rust.

use super::{GROUP, Packed, Reducer, SlabRows, Tile, tile::row_blocks};

/// As [`super::multiply`].
#[expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "lengths are checked by the dispatcher; digits are masked 16-bit values"
)]
pub(super) fn multiply(tile: &Tile<'_>, packed: &Packed, reducer: Reducer, out: &mut SlabRows<'_>) {
    let line = packed.line();
    for rows in row_blocks(tile.n_rows) {
        let weights = &tile.weights[rows.start * tile.pairs.len()..];
        for row in rows.clone() {
            let target = out.row_mut(tile.first_output + row * tile.output_stride);
            for (group, target) in target.chunks_exact_mut(GROUP).enumerate() {
                let lanes = &packed.lanes[group * packed.group_len()..];
                for (chunk, &(first, last)) in tile.chunks.iter().enumerate() {
                    let mut sums = [0_i64; GROUP];
                    for pair in first..last {
                        let weight = weights[pair * rows.len() + row - rows.start];
                        let (low, high) = (i64::from(weight as i16), i64::from(weight >> 16));
                        let lines = &lanes[tile.pairs[pair] as usize * line..][..line];
                        for (d, digits) in lines.chunks_exact(GROUP).enumerate() {
                            for (sum, &lane) in sums.iter_mut().zip(digits) {
                                let lane = lane.cast_signed();
                                let (a, b) = (i64::from(lane as i16), i64::from(lane >> 16));
                                // The whole sum is below 2^16·q < 2^63; partial sums may wrap.
                                *sum = sum.wrapping_add((low * a + high * b) << (16 * d));
                            }
                        }
                    }
                    for (cell, &sum) in target.iter_mut().zip(&sums) {
                        let value = reducer.reduce(sum);
                        *cell = if chunk == 0 { value } else { reducer.add(*cell, value) };
                    }
                }
            }
        }
    }
}
