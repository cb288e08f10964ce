//! Linear kernel on 256-bit vectors: `vpmaddwd` multiplies a digit of two inputs by two weights.

use core::arch::x86_64::{
    __m256i, _mm256_add_epi32, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_set1_epi32,
    _mm256_setzero_si256, _mm256_storeu_si256,
};

use super::{GROUP, Packed, ROW_BLOCK, Reducer, SlabRows, Tile};

/// Sums of one digit: five rows of two vectors leave registers for two inputs and a weight.
type Sums = [[__m256i; 2]; ROW_BLOCK];
/// Digit sums of one row block, in memory.
type Digits = [[[i32; GROUP]; ROW_BLOCK]; 3];

/// As [`super::multiply`].
///
/// # Safety
/// AVX2 must be available; pair indices, weights and chunks must fit their buffers.
#[target_feature(enable = "avx2")]
#[expect(clippy::indexing_slicing, reason = "a panic here is a broken invariant of the caller")]
pub(super) unsafe fn multiply(
    tile: &Tile<'_>,
    packed: &Packed,
    reducer: Reducer,
    out: &mut SlabRows<'_>,
) {
    for block in 0..tile.n_rows.div_ceil(ROW_BLOCK) {
        for group in 0..packed.n_groups() {
            for (chunk, &range) in tile.chunks.iter().enumerate() {
                let mut digits: Digits = [[[0; GROUP]; ROW_BLOCK]; 3];
                for (digit, sums) in digits.iter_mut().enumerate().take(packed.digits) {
                    // SAFETY: the caller's promise is passed on; `digit < packed.digits` and
                    // `group < packed.n_groups()`.
                    unsafe { sum_digit(tile, packed, block, group, digit, range, sums) }
                }
                let n_rows = (tile.n_rows - block * ROW_BLOCK).min(ROW_BLOCK);
                for row in 0..n_rows {
                    let index = tile.first_output + (block * ROW_BLOCK + row) * tile.output_stride;
                    let target = &mut out.row_mut(index)[group * GROUP..(group + 1) * GROUP];
                    store(&digits, row, reducer, chunk == 0, target);
                }
            }
        }
    }
}

/// Multiplies one digit of all pairs of a range by a block of rows.
///
/// # Safety
/// As [`multiply`], and `digit` and `group` must exist in `packed`.
#[target_feature(enable = "avx2")]
unsafe fn sum_digit(
    tile: &Tile<'_>,
    packed: &Packed,
    block: usize,
    group: usize,
    digit: usize,
    range: (usize, usize),
    out: &mut [[i32; GROUP]; ROW_BLOCK],
) {
    let mut sums: Sums = [[_mm256_setzero_si256(); 2]; ROW_BLOCK];
    let line = packed.line();
    // SAFETY: the dispatcher checked that weights hold `n_blocks · n_pairs · ROW_BLOCK` values and
    // that every pair index has a line of `digits · GROUP` lanes in every group.
    unsafe {
        let weights = tile.weights.as_ptr().add(block * tile.pairs.len() * ROW_BLOCK);
        let lanes = packed.lanes.as_ptr().add(group * packed.group_len() + digit * GROUP);
        for pair in range.0..range.1 {
            let source = lanes.add(*tile.pairs.get_unchecked(pair) as usize * line);
            let low = _mm256_loadu_si256(source.cast());
            let high = _mm256_loadu_si256(source.add(GROUP / 2).cast());
            for (row, sums) in sums.iter_mut().enumerate() {
                let weight = _mm256_set1_epi32(*weights.add(pair * ROW_BLOCK + row));
                sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(low, weight));
                sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(high, weight));
            }
        }
    }
    for (out, [low, high]) in out.iter_mut().zip(sums) {
        let (first, second) = out.split_at_mut(GROUP / 2);
        // SAFETY: each half holds eight 32-bit lanes.
        unsafe {
            _mm256_storeu_si256(first.as_mut_ptr().cast(), low);
            _mm256_storeu_si256(second.as_mut_ptr().cast(), high);
        }
    }
}

/// Recombines the digits of one row, reduces modulo q and stores 16 residues.
#[target_feature(enable = "avx2")]
#[expect(clippy::indexing_slicing, reason = "a row of the block")]
fn store(digits: &Digits, row: usize, reducer: Reducer, first: bool, target: &mut [u64]) {
    let [d0, d1, d2] = digits.each_ref().map(|rows| rows[row]);
    for (((cell, d0), d1), d2) in target.iter_mut().zip(d0).zip(d1).zip(d2) {
        let total = i64::from(d0) + (i64::from(d1) << 16);
        // The exact sum is below 2^63, its parts may wrap.
        let value = reducer.reduce(total.wrapping_add(i64::from(d2) << 32));
        *cell = if first { value } else { reducer.add(*cell, value) };
    }
}
