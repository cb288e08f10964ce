//! What the vector kernels on 16-bit digits share: the order of work, the sums of a row block in
//! registers, and the recombination of digits.
//!
//! A kernel is a [`Vector`] and the shape of its register block: `ROWS` rows of `VECTORS` vectors of
//! a packed line. When a line is longer than `VECTORS` vectors, it takes several passes.

use super::{
    GROUP, Packed, Reducer, SlabRows, Tile,
    tile::{ROW_BLOCK, row_blocks},
};

/// Bytes of packed lines that stay in a level-2 cache while all row blocks pass over them.
const RESIDENT_BYTES: usize = 384 << 10;

/// Digit sums of one row: `[digit][16 columns]`, three digits at most.
pub(super) type RowSums = [i32; 3 * GROUP];

/// Digit sums of one row block in one column group.
#[repr(align(64))]
struct BlockSums([RowSums; ROW_BLOCK]);

/// Vectors of 32-bit lanes of an instruction set.
///
/// # Safety
/// Every method may be called only where the instruction set is available, and inlined into a
/// function that enables it.
pub(super) unsafe trait Vector: Copy {
    /// 32-bit lanes.
    const LANES: usize;

    /// All lanes zero.
    ///
    /// # Safety
    /// As the trait says.
    unsafe fn zero() -> Self;

    /// Reads lanes from memory.
    ///
    /// # Safety
    /// As the trait says, and `LANES` lanes must be readable.
    unsafe fn load(source: *const u32) -> Self;

    /// The same lane everywhere.
    ///
    /// # Safety
    /// As the trait says.
    unsafe fn broadcast(lane: i32) -> Self;

    /// `sum + a_low·b_low + a_high·b_high` of the 16-bit halves of every lane.
    ///
    /// # Safety
    /// As the trait says.
    unsafe fn dot(sum: Self, a: Self, b: Self) -> Self;

    /// Writes lanes to memory.
    ///
    /// # Safety
    /// As the trait says, and `LANES` lanes must be writable.
    unsafe fn store(self, target: *mut i32);
}

/// As [`super::multiply`], with register blocks of `ROWS × VECTORS` sums.
///
/// # Safety
/// The vector's instruction set must be enabled in the caller, pair indices, weights and chunks must
/// fit their buffers, and `packed` must hold `DIGITS` digits.
#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "a panic here is a broken invariant of the caller")]
pub(super) unsafe fn multiply<
    V: Vector,
    const DIGITS: usize,
    const VECTORS: usize,
    const ROWS: usize,
>(
    tile: &Tile<'_>,
    packed: &Packed,
    reducer: Reducer,
    out: &mut SlabRows<'_>,
) {
    let mut sums = BlockSums([[0; 3 * GROUP]; ROW_BLOCK]);
    let n_pairs = tile.pairs.len();
    let resident = (RESIDENT_BYTES / (n_pairs * packed.line() * 4).max(1)).max(1);
    for first_group in (0..packed.n_groups()).step_by(resident) {
        let groups = first_group..(first_group + resident).min(packed.n_groups());
        for rows in row_blocks(tile.n_rows) {
            let weights = &tile.weights[rows.start * n_pairs..rows.end * n_pairs];
            for group in groups.clone() {
                let lanes = &packed.lanes[group * packed.group_len()..][..packed.group_len()];
                for (chunk, &(first, last)) in tile.chunks.iter().enumerate() {
                    let part = Part {
                        lanes,
                        pairs: &tile.pairs[first..last],
                        weights: &weights[first * rows.len()..last * rows.len()],
                        n_rows: rows.len(),
                    };
                    // SAFETY: the caller's promise is passed on; `part` holds every line that its
                    // pairs name and a weight for each pair and row.
                    unsafe { part.sum_into::<V, DIGITS, VECTORS, ROWS>(&mut sums) }
                    for (row, sums) in rows.clone().zip(&sums.0) {
                        let row = out.row_mut(tile.first_output + row * tile.output_stride);
                        let target = &mut row[group * GROUP..(group + 1) * GROUP];
                        recombine::<DIGITS>(sums, reducer, chunk == 0, target);
                    }
                }
            }
        }
    }
}

/// One chunk of pairs of one row block on one column group.
struct Part<'a> {
    /// Packed lines of the group.
    lanes: &'a [u32],
    pairs: &'a [u32],
    /// `[pair][row of the block]`.
    weights: &'a [i32],
    n_rows: usize,
}

impl Part<'_> {
    /// Writes the digit sums of all rows of the block.
    ///
    /// # Safety
    /// As [`multiply`]; every pair has a line in `lanes` and `n_rows` weights.
    #[inline(always)]
    unsafe fn sum_into<V: Vector, const DIGITS: usize, const VECTORS: usize, const ROWS: usize>(
        &self,
        sums: &mut BlockSums,
    ) {
        // Equal parts: eight rows in passes of five are two passes of four.
        let per_pass = self.n_rows.div_ceil(self.n_rows.div_ceil(ROWS));
        for first in (0..self.n_rows).step_by(per_pass) {
            let n_rows = per_pass.min(self.n_rows - first);
            for offset in (0..DIGITS * GROUP).step_by(VECTORS * V::LANES) {
                // SAFETY: the caller's promise is passed on; a pass reads `VECTORS·LANES` lanes of
                // every line at `offset` and writes as many sums to each of its rows.
                unsafe {
                    match n_rows {
                        1 => self.pass::<V, DIGITS, VECTORS, 1>(first, offset, sums),
                        2 => self.pass::<V, DIGITS, VECTORS, 2>(first, offset, sums),
                        3 => self.pass::<V, DIGITS, VECTORS, 3>(first, offset, sums),
                        4 => self.pass::<V, DIGITS, VECTORS, 4>(first, offset, sums),
                        5 => self.pass::<V, DIGITS, VECTORS, 5>(first, offset, sums),
                        6 if ROWS > 5 => self.pass::<V, DIGITS, VECTORS, 6>(first, offset, sums),
                        7 if ROWS > 5 => self.pass::<V, DIGITS, VECTORS, 7>(first, offset, sums),
                        _ => self.pass::<V, DIGITS, VECTORS, ROWS>(first, offset, sums),
                    }
                }
            }
        }
    }

    /// Multiplies part of every line by `ROWS` rows, from row `first` of the block.
    ///
    /// # Safety
    /// As [`Part::sum_into`]; `first + ROWS <= n_rows` and `VECTORS` vectors lie in a line from
    /// `offset` on.
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "rows of a block, checked before the sums")]
    unsafe fn pass<V: Vector, const DIGITS: usize, const VECTORS: usize, const ROWS: usize>(
        &self,
        first: usize,
        offset: usize,
        sums: &mut BlockSums,
    ) {
        let targets = &mut sums.0[first..first + ROWS];
        // SAFETY: as the caller promises, every pair has a line of `DIGITS·GROUP` lanes in `lanes`,
        // which holds `VECTORS` vectors from `offset` on, and `n_rows` weights, of which `ROWS` from
        // `first` on are read; a row of sums is as long as the longest line.
        unsafe {
            let mut acc = [[V::zero(); VECTORS]; ROWS];
            let lanes = self.lanes.as_ptr().add(offset);
            let mut weights = self.weights.as_ptr().add(first);
            for &pair in self.pairs {
                let source = lanes.add(pair as usize * (DIGITS * GROUP));
                let mut inputs = [V::zero(); VECTORS];
                for (v, input) in inputs.iter_mut().enumerate() {
                    *input = V::load(source.add(v * V::LANES));
                }
                for (row, acc) in acc.iter_mut().enumerate() {
                    let weight = V::broadcast(*weights.add(row));
                    for (sum, &input) in acc.iter_mut().zip(&inputs) {
                        *sum = V::dot(*sum, input, weight);
                    }
                }
                weights = weights.wrapping_add(self.n_rows);
            }
            for (target, acc) in targets.iter_mut().zip(acc) {
                let target = target.as_mut_ptr().add(offset);
                for (v, sum) in acc.into_iter().enumerate() {
                    sum.store(target.add(v * V::LANES));
                }
            }
        }
    }
}

/// Recombines the digits of one row, reduces modulo q and stores 16 residues, or adds them to those
/// of the chunks before.
#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "constant bounds")]
pub(super) fn recombine<const DIGITS: usize>(
    sums: &RowSums,
    reducer: Reducer,
    first: bool,
    target: &mut [u64],
) {
    for (column, cell) in target.iter_mut().enumerate().take(GROUP) {
        let mut total = 0_i64;
        for digit in 0..DIGITS {
            // The exact sum is below 2^63, its parts may wrap.
            total = total.wrapping_add(i64::from(sums[digit * GROUP + column]) << (16 * digit));
        }
        let value = reducer.reduce(total);
        *cell = if first { value } else { reducer.add(*cell, value) };
    }
}
