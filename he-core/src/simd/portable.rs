//! Linear kernel in plain Rust that compilers vectorise: what machines without another kernel run.
//!
//! The digit sums of a few rows and 16 columns are whole arrays of 32-bit integers, one digit at a
//! time, so that they stay in vector registers; digits are recombined once per chunk.

use core::ops::Range;

use super::{GROUP, Packed, Reducer, SlabRows, Tile, tile::row_blocks};

/// Rows summed together: two rows of 16 sums leave registers for the inputs on 128-bit vectors.
const ROWS: usize = 2;

/// Sums of one digit.
type Sums = [[i32; GROUP]; ROWS];

/// As [`super::multiply`].
#[expect(clippy::indexing_slicing, reason = "lengths are checked by the dispatcher")]
pub(super) fn multiply(tile: &Tile<'_>, packed: &Packed, reducer: Reducer, out: &mut SlabRows<'_>) {
    for block in row_blocks(tile.n_rows) {
        for first_row in block.clone().step_by(ROWS) {
            let rows = first_row..(first_row + ROWS).min(block.end);
            for group in 0..packed.n_groups() {
                for (chunk, &range) in tile.chunks.iter().enumerate() {
                    let totals = sum_digits(tile, packed, &block, first_row, group, range);
                    for (row, totals) in rows.clone().zip(&totals) {
                        let target = out.row_mut(tile.first_output + row * tile.output_stride);
                        let target = &mut target[group * GROUP..(group + 1) * GROUP];
                        for (cell, &total) in target.iter_mut().zip(totals) {
                            let value = reducer.reduce(total);
                            *cell = if chunk == 0 { value } else { reducer.add(*cell, value) };
                        }
                    }
                }
            }
        }
    }
}

/// `Σ_d 2^(16d) · Σ_k w_k·digit_d(x_k)` of the pairs of a chunk; exact, since every digit sum of a
/// chunk is below 2^31.
fn sum_digits(
    tile: &Tile<'_>,
    packed: &Packed,
    block: &Range<usize>,
    first_row: usize,
    group: usize,
    range: (usize, usize),
) -> [[i64; GROUP]; ROWS] {
    let mut totals = [[0_i64; GROUP]; ROWS];
    for digit in 0..packed.digits {
        let sums = sum_digit(tile, packed, block, first_row, group, range, digit);
        for (totals, sums) in totals.iter_mut().zip(&sums) {
            for (total, &sum) in totals.iter_mut().zip(sums) {
                // The whole total is below 2^16·q < 2^63; partial totals may wrap.
                *total = total.wrapping_add(i64::from(sum) << (16 * digit));
            }
        }
    }
    totals
}

#[expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "lengths are checked by the dispatcher; halves of 32-bit lanes"
)]
fn sum_digit(
    tile: &Tile<'_>,
    packed: &Packed,
    block: &Range<usize>,
    first_row: usize,
    group: usize,
    range: (usize, usize),
    digit: usize,
) -> Sums {
    let line = packed.line();
    let lanes = &packed.lanes[group * packed.group_len() + digit * GROUP..];
    let weights = &tile.weights[block.start * tile.pairs.len()..];
    let mut sums: Sums = [[0; GROUP]; ROWS];
    for pair in range.0..range.1 {
        let start = tile.pairs[pair] as usize * line;
        let inputs = &lanes[start..start + GROUP];
        for (row, sums) in (first_row..block.end).zip(&mut sums) {
            let weight = weights[pair * block.len() + row - block.start];
            let (low, high) = (i32::from(weight as i16), weight >> 16);
            for (sum, &lane) in sums.iter_mut().zip(inputs) {
                let lane = lane.cast_signed();
                let product = low.wrapping_mul(i32::from(lane as i16));
                *sum = sum.wrapping_add(product).wrapping_add(high.wrapping_mul(lane >> 16));
            }
        }
    }
    sums
}
