//! Linear kernel in plain Rust, arranged for a vectorising compiler: what machines without another
//! kernel run.
//!
//! Products are exact in `f64`. A residue is one or two signed pieces, `d_0 + d_1·2^16` and `d_2`;
//! a chunk's `Σ|w|` is below 2^16, so every partial sum is an integer below `(2^31 + 2^15)·2^16 < 2^48`.
//! (Sums of 16-bit products measured slower on 128-bit vectors: compilers widen them badly.)

use super::{
    GROUP, Packed, Reducer, SlabRows, Tile,
    reduction::round,
    tile::{ROW_BLOCK, row_blocks},
};

/// Pairs multiplied together: eight inputs for one read and write of a sum.
const STEP: usize = 4;
/// Row blocks that share the conversion of their inputs.
const BLOCKS: usize = 4;

/// One piece of the inputs of a step.
type Inputs = [[f64; GROUP]; 2 * STEP];
/// Sums of one row, by piece.
type Sums = [[f64; GROUP]; 2];

/// As [`super::multiply`].
#[expect(clippy::indexing_slicing, reason = "lengths are checked by the dispatcher")]
pub(super) fn multiply(tile: &Tile<'_>, packed: &Packed, reducer: Reducer, out: &mut SlabRows<'_>) {
    let blocks: Vec<_> = row_blocks(tile.n_rows).collect();
    for blocks in blocks.chunks(BLOCKS) {
        for group in 0..packed.n_groups() {
            for (chunk, &range) in tile.chunks.iter().enumerate() {
                let mut sums = [[[[0.0; GROUP]; 2]; ROW_BLOCK]; BLOCKS];
                sum_chunk(tile, packed, group, range, blocks, &mut sums);
                for (block, sums) in blocks.iter().zip(&sums) {
                    for (row, sums) in block.clone().zip(sums) {
                        let row = out.row_mut(tile.first_output + row * tile.output_stride);
                        let target = &mut row[group * GROUP..(group + 1) * GROUP];
                        recombine(sums, reducer, chunk == 0, target);
                    }
                }
            }
        }
    }
}

/// Adds the products of a chunk of pairs to the sums of some row blocks.
#[expect(clippy::indexing_slicing, reason = "lengths are checked by the dispatcher")]
fn sum_chunk(
    tile: &Tile<'_>,
    packed: &Packed,
    group: usize,
    (first, last): (usize, usize),
    blocks: &[core::ops::Range<usize>],
    sums: &mut [[Sums; ROW_BLOCK]; BLOCKS],
) {
    let lanes = &packed.lanes[group * packed.group_len()..];
    let mut inputs: [Inputs; 2] = [[[0.0; GROUP]; 2 * STEP]; 2];
    for start in (first..last).step_by(STEP) {
        let pairs = start..(start + STEP).min(last);
        for (j, &pair) in tile.pairs[pairs.clone()].iter().enumerate() {
            convert(&lanes[pair as usize * packed.line()..][..packed.line()], j, &mut inputs);
        }
        for (block, sums) in blocks.iter().zip(&mut *sums) {
            let weights = &tile.weights[block.start * tile.pairs.len()..];
            let weights = &weights[pairs.start * block.len()..pairs.end * block.len()];
            for (row, [low, high]) in sums.iter_mut().enumerate().take(block.len()) {
                let weights = convert_weights(weights[row..].iter().step_by(block.len()));
                add_products(low, &inputs[0], &weights);
                if packed.digits == 3 {
                    add_products(high, &inputs[1], &weights);
                }
            }
        }
    }
}

/// Puts the digits of a pair together as pieces of inputs `2j` and `2j + 1`.
#[expect(clippy::indexing_slicing, reason = "a line has two or three digits of 16 lanes")]
fn convert(line: &[u32], j: usize, inputs: &mut [Inputs; 2]) {
    let (first, line) = line.split_at(GROUP);
    let (second, third) = line.split_at(GROUP);
    for c in 0..GROUP {
        let (d0, d1) = (first[c].cast_signed(), second[c].cast_signed());
        let piece = |d0: i32, d1: i32| f64::from(d0) + f64::from(d1) * 65_536.0;
        inputs[0][2 * j][c] = piece((d0 << 16) >> 16, (d1 << 16) >> 16);
        inputs[0][2 * j + 1][c] = piece(d0 >> 16, d1 >> 16);
    }
    for (c, lane) in third.iter().enumerate() {
        let d2 = lane.cast_signed();
        inputs[1][2 * j][c] = f64::from((d2 << 16) >> 16);
        inputs[1][2 * j + 1][c] = f64::from(d2 >> 16);
    }
}

/// Splits weight pairs; a step beyond the last pair has weights of zero, whatever its inputs.
fn convert_weights<'a>(pairs: impl Iterator<Item = &'a i32>) -> [f64; 2 * STEP] {
    let mut weights = [0.0; 2 * STEP];
    for (weights, &pair) in weights.chunks_exact_mut(2).zip(pairs) {
        weights.copy_from_slice(&[f64::from((pair << 16) >> 16), f64::from(pair >> 16)]);
    }
    weights
}

/// Adds the products of eight inputs to 16 columns of a row.
#[inline(never)]
fn add_products(sums: &mut [f64; GROUP], inputs: &Inputs, weights: &[f64; 2 * STEP]) {
    // A copy: the compiler need not fear that sums and inputs overlap.
    let mut local = *sums;
    for (inputs, &weight) in inputs.iter().zip(weights) {
        for (sum, &input) in local.iter_mut().zip(inputs) {
            *sum += input * weight;
        }
    }
    *sums = local;
}

/// Puts the pieces of one row together, reduces modulo q and stores 16 residues, or adds them to those
/// of the chunks before.
fn recombine(sums: &Sums, reducer: Reducer, first: bool, target: &mut [u64]) {
    let [low, high] = sums;
    for ((cell, &low), &high) in target.iter_mut().zip(low).zip(high) {
        // The exact sum is below 2^63, its parts may wrap.
        let value = reducer.reduce(round(low).wrapping_add(round(high) << 32));
        *cell = if first { value } else { reducer.add(*cell, value) };
    }
}
