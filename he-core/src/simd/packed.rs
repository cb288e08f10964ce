//! Inputs of one slab of columns, in the form the kernels multiply.

use super::{amx, vectorize};

/// Columns in a group: the 32-bit lanes of a 512-bit vector, one cache line.
pub(crate) const GROUP: usize = 16;

/// Inputs of one slab in digit form: `[column group][pair][digit][16 columns]`, two inputs to a lane.
///
/// Consecutive pairs of one group are consecutive in memory, so a kernel reads a dense row as a
/// stream.
#[derive(Debug, Default)]
pub(crate) struct Packed {
    pub(crate) lanes: Vec<u32>,
    pub(crate) digits: usize,
    pub(crate) n_pairs: usize,
    n_groups: usize,
    /// The inputs of [`super::Tile::wide`], four to a lane.
    pub(crate) bytes: amx::PackedBytes,
}

impl Packed {
    /// Number of 16-bit digits of a residue modulo `q`.
    pub(crate) const fn digits_of(modulus: u64) -> usize {
        if modulus <= 0x7FFF_7FFF { 2 } else { 3 }
    }

    /// Prepares for `n_pairs` pairs of `columns` columns modulo `modulus`.
    ///
    /// # Panics
    /// When `columns` is not a multiple of [`GROUP`].
    pub(crate) fn reset(&mut self, modulus: u64, n_pairs: usize, columns: usize) {
        assert!(columns.is_multiple_of(GROUP), "invariant: slabs are whole column groups");
        self.digits = Self::digits_of(modulus);
        self.n_pairs = n_pairs;
        self.n_groups = columns / GROUP;
        self.lanes.resize(n_pairs * self.digits * columns, 0);
    }

    /// Lanes of one pair in one group.
    pub(crate) const fn line(&self) -> usize {
        self.digits * GROUP
    }

    /// Lanes of one group.
    pub(crate) const fn group_len(&self) -> usize {
        self.n_pairs * self.line()
    }

    /// Number of column groups.
    pub(crate) const fn n_groups(&self) -> usize {
        self.n_groups
    }

    /// Splits two input rows into digits and stores them as pair `index`; a missing row is zero.
    pub(crate) fn pack(&mut self, index: usize, a: Option<&[u64]>, b: Option<&[u64]>) {
        let (digits, line, group_len) = (self.digits, self.line(), self.group_len());
        let Some(lanes) = self.lanes.get_mut(index * line..) else { return };
        let groups = lanes.chunks_mut(group_len);
        vectorize(
            #[inline(always)]
            || match digits {
                2 => pack_groups::<2>(groups, a, b),
                _ => pack_groups::<3>(groups, a, b),
            },
        );
    }
}

#[inline(always)]
fn pack_groups<const DIGITS: usize>(
    groups: core::slice::ChunksMut<'_, u32>,
    a: Option<&[u64]>,
    b: Option<&[u64]>,
) {
    for (group, lanes) in groups.enumerate() {
        pack_group::<DIGITS>(lanes, columns(a, group), columns(b, group));
    }
}

/// The columns of one group of an input row; a missing row is zero.
#[inline(always)]
pub(super) fn columns(row: Option<&[u64]>, group: usize) -> [u64; GROUP] {
    row.and_then(|row| row.get(group * GROUP..(group + 1) * GROUP))
        .and_then(|columns| columns.try_into().ok())
        .unwrap_or([0; GROUP])
}

/// Splits 16 columns of two inputs into balanced digits.
///
/// Adding `0x8000` to every digit but the top one makes them non-negative; flipping that bit back
/// makes them two's complement.
#[inline(always)]
fn pack_group<const DIGITS: usize>(lanes: &mut [u32], a: [u64; GROUP], b: [u64; GROUP]) {
    let balance = if DIGITS == 2 { 0x8000 } else { 0x8000_8000 };
    for (d, lanes) in lanes.chunks_exact_mut(GROUP).take(DIGITS).enumerate() {
        let sign = if d + 1 < DIGITS { 0x8000_8000 } else { 0 };
        for ((lane, x), y) in lanes.iter_mut().zip(a).zip(b) {
            let (x, y) = ((x + balance) >> (16 * d), (y + balance) >> (16 * d));
            #[expect(clippy::cast_possible_truncation, reason = "masked digits")]
            {
                *lane = ((x & 0xFFFF) as u32 | ((y as u32) << 16)) ^ sign;
            }
        }
    }
}
