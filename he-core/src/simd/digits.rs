//! What the vector kernels on 16-bit digits share: the order of work, the sums of a row block in
//! registers, and the recombination of digits.
//!
//! A kernel is a [`Vector`] and the width of its register block: `VECTORS` vectors of a packed line by
//! the rows of a row block. A line longer than `VECTORS` vectors takes several passes.

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

/// As [`super::multiply`], with `VECTORS` vectors of a line at a time.
///
/// # Safety
/// The vector's instruction set must be enabled in the caller, pair indices, weights and chunks must
/// fit their buffers, and `packed` must hold `DIGITS` digits.
#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "a panic here is a broken invariant of the caller")]
pub(super) unsafe fn multiply<V: Vector, const DIGITS: usize, const VECTORS: usize>(
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
                    unsafe { part.sum_into::<V, DIGITS, VECTORS>(&mut sums) }
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
    unsafe fn sum_into<V: Vector, const DIGITS: usize, const VECTORS: usize>(
        &self,
        sums: &mut BlockSums,
    ) {
        for offset in (0..DIGITS * GROUP).step_by(VECTORS * V::LANES) {
            // SAFETY: the caller's promise is passed on; a pass reads `VECTORS·LANES` lanes of every
            // line at `offset` and writes as many sums to each row.
            unsafe {
                match self.n_rows {
                    1 => self.pass::<V, DIGITS, VECTORS, 1>(offset, sums),
                    2 => self.pass::<V, DIGITS, VECTORS, 2>(offset, sums),
                    3 => self.pass::<V, DIGITS, VECTORS, 3>(offset, sums),
                    4 => self.pass::<V, DIGITS, VECTORS, 4>(offset, sums),
                    _ => self.pass::<V, DIGITS, VECTORS, ROW_BLOCK>(offset, sums),
                }
            }
        }
    }

    /// Multiplies part of every line by the `ROWS` rows of the block.
    ///
    /// # Safety
    /// As [`Part::sum_into`]; `ROWS` is `n_rows`, and `VECTORS` vectors lie in a line from `offset`
    /// on.
    #[inline(always)]
    unsafe fn pass<V: Vector, const DIGITS: usize, const VECTORS: usize, const ROWS: usize>(
        &self,
        offset: usize,
        sums: &mut BlockSums,
    ) {
        // SAFETY: as the caller promises, every pair has a line of `DIGITS·GROUP` lanes in `lanes`,
        // which holds `VECTORS` vectors from `offset` on, and `ROWS` weights; a row of sums is as long
        // as the longest line.
        unsafe {
            let mut acc = [[V::zero(); VECTORS]; ROWS];
            let lanes = self.lanes.as_ptr().add(offset);
            let mut weights = self.weights.as_ptr();
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
                weights = weights.add(ROWS);
            }
            for (target, acc) in sums.0.iter_mut().zip(acc) {
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
