//! Linear kernel on 256-bit vectors: `vpmaddwd` multiplies a digit of two inputs by two weights.

use core::arch::x86_64::{
    _mm256_add_epi32, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_set1_epi32,
    _mm256_setzero_si256, _mm256_storeu_si256,
};

use super::{Packed, ROW_BLOCK, Reducer, SlabRows, Tile};

const LANES: usize = 8;

/// As [`super::multiply`].
///
/// # Safety
/// AVX2 must be available; `packed.columns` must be a multiple of 8; pair indices, weights and
/// chunks must fit their buffers.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn multiply(
    tile: &Tile<'_>,
    packed: &Packed,
    reducer: Reducer,
    out: &mut SlabRows<'_>,
) {
    for block in 0..tile.n_rows.div_ceil(ROW_BLOCK) {
        for column in (0..packed.columns).step_by(LANES) {
            for (chunk, &range) in tile.chunks.iter().enumerate() {
                let job = Job { tile, packed, reducer, block, column, range, first: chunk == 0 };
                // SAFETY: the caller's promise is passed on.
                unsafe {
                    match packed.digits {
                        2 => job.run::<2>(out),
                        _ => job.run::<3>(out),
                    }
                }
            }
        }
    }
}

struct Job<'a> {
    tile: &'a Tile<'a>,
    packed: &'a Packed,
    reducer: Reducer,
    block: usize,
    column: usize,
    range: (usize, usize),
    first: bool,
}

impl Job<'_> {
    #[target_feature(enable = "avx2")]
    #[expect(clippy::indexing_slicing, reason = "constant bounds")]
    unsafe fn run<const DIGITS: usize>(&self, out: &mut SlabRows<'_>) {
        let mut sums = [[_mm256_setzero_si256(); DIGITS]; ROW_BLOCK];
        let line = DIGITS * self.packed.columns;
        let n_pairs = self.tile.pairs.len();
        // SAFETY: `multiply` checked that weights hold `n_blocks · n_pairs · ROW_BLOCK` values and
        // that every pair index has a whole line in `lanes`; `column + 8 <= columns`.
        unsafe {
            let weights = self.tile.weights.as_ptr().add(self.block * n_pairs * ROW_BLOCK);
            let lanes = self.packed.lanes.as_ptr().add(self.column);
            for pair in self.range.0..self.range.1 {
                let source = lanes.add(*self.tile.pairs.get_unchecked(pair) as usize * line);
                for d in 0..DIGITS {
                    let input = _mm256_loadu_si256(source.add(d * self.packed.columns).cast());
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let weight = _mm256_set1_epi32(*weights.add(pair * ROW_BLOCK + row));
                        sums[d] = _mm256_add_epi32(sums[d], _mm256_madd_epi16(input, weight));
                    }
                }
            }
        }
        let n_rows = (self.tile.n_rows - self.block * ROW_BLOCK).min(ROW_BLOCK);
        for (row, sums) in sums.iter().enumerate().take(n_rows) {
            let mut digits = [[0_i32; LANES]; DIGITS];
            for (digit, &sum) in digits.iter_mut().zip(sums) {
                // SAFETY: `digit` holds eight 32-bit lanes.
                unsafe { _mm256_storeu_si256(digit.as_mut_ptr().cast(), sum) }
            }
            let index = self.block * ROW_BLOCK + row;
            let target = out.row_mut(self.tile.first_output + index * self.tile.output_stride);
            self.store(&digits, &mut target[self.column..self.column + LANES]);
        }
    }

    /// Recombines the digits, reduces modulo q and stores eight residues.
    #[inline]
    #[expect(clippy::indexing_slicing, reason = "constant bounds")]
    fn store<const DIGITS: usize>(&self, digits: &[[i32; LANES]; DIGITS], target: &mut [u64]) {
        for (lane, cell) in target.iter_mut().enumerate() {
            let mut total = 0_i64;
            for (d, digit) in digits.iter().enumerate() {
                total = total.wrapping_add(i64::from(digit[lane]) << (16 * d));
            }
            let value = self.reducer.reduce(total);
            *cell = if self.first { value } else { self.reducer.add(*cell, value) };
        }
    }
}
