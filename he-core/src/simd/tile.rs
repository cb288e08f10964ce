//! A weight matrix, in the order in which the kernels on 16-bit digits read it.

use core::ops::Range;

use super::amx;

/// Most rows multiplied together: five rows of two vectors are what 16 vector registers hold, and with
/// five rows of three 512-bit vectors loads are no longer the limit (eight rows measured no faster).
pub(crate) const ROW_BLOCK: usize = 5;

/// One weight matrix applied to one gather of inputs, on one slab of columns of one limb.
///
/// `Σ_k weights[row][k] · input[k]` for `n_rows` rows; inputs come in pairs.
#[derive(Debug, Clone)]
pub(crate) struct Tile<'a> {
    /// Packed line of each input pair (index into [`super::Packed`]); empty when `wide` is used.
    pub(crate) pairs: Vec<u32>,
    /// Weight pairs, `[row block][pair][rows of the block]`, low half first: see [`pack_weights`].
    pub(crate) weights: &'a [i32],
    /// Number of rows (outputs).
    pub(crate) n_rows: usize,
    /// Output row of the first row, and the distance between rows.
    pub(crate) first_output: usize,
    pub(crate) output_stride: usize,
    /// Pair ranges in which no row's `Σ|w|` reaches 2^16, so that 32-bit sums cannot overflow.
    pub(crate) chunks: &'a [(usize, usize)],
    /// The same product on bytes, for [`super::Backend::Amx`]; the digits are then not packed.
    pub(crate) wide: Option<amx::WideTile<'a>>,
}

/// The row ranges multiplied together: as few blocks of at most [`ROW_BLOCK`] rows as possible, of
/// sizes that differ by at most one.
pub(crate) fn row_blocks(n_rows: usize) -> impl Iterator<Item = Range<usize>> {
    let n_blocks = n_rows.div_ceil(ROW_BLOCK);
    (0..n_blocks).map(move |i| i * n_rows / n_blocks..(i + 1) * n_rows / n_blocks)
}

/// Interleaves weights (row-major `n_rows × k`) as [`Tile::weights`] expects; an odd `k` is padded
/// with zeros.
///
/// The weights of rows `a..b` (a block) start at `a·n_pairs`, those of a pair at `pair·(b - a)`.
pub(crate) fn pack_weights(weights: &[i16], n_rows: usize, k: usize) -> Vec<i32> {
    let n_pairs = k.div_ceil(2);
    let weight = |row: usize, col: usize| -> u16 {
        let value = if col < k { weights.get(row * k + col).copied() } else { None };
        value.unwrap_or(0).cast_unsigned()
    };
    let mut packed = Vec::with_capacity(n_rows * n_pairs);
    for block in row_blocks(n_rows) {
        for pair in 0..n_pairs {
            for row in block.clone() {
                let lane =
                    u32::from(weight(row, 2 * pair)) | u32::from(weight(row, 2 * pair + 1)) << 16;
                packed.push(lane.cast_signed());
            }
        }
    }
    packed
}
