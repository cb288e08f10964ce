//! Kernels: the only place with `unsafe`.
//!
//! - [`vectorize`] compiles a safe loop for the widest instruction set the machine has.
//! - [`for_each_slab`] hands disjoint column ranges of a row-major matrix to parallel tasks.
//! - [`multiply`] multiplies an integer matrix by residues, in one file per backend. `scalar.rs` is
//!   the specification; all backends give the same bits.
//! - [`Reducer`] is the arithmetic modulo one prime that those loops use.
//!
//! The digit kernels work on packed lines: a residue below 2^47 is three balanced 16-bit digits
//! (two below 2^31), and a 32-bit lane holds the same digit of two inputs, as `vpdpwssd` and
//! `pmaddwd` multiply them. See `docs/kernels.md`.

#![allow(
    unsafe_code,
    reason = "std::arch intrinsics and disjoint slabs; every block has a SAFETY note"
)]

#[cfg(target_arch = "x86_64")]
mod aes;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod draws;
mod reduction;
mod scalar;
mod slabs;

pub(crate) use reduction::{Factor, Reducer};
pub(crate) use slabs::{SlabRows, for_each_slab};

use crate::{Error, Result};

/// A set of kernels. All give the same bits; they differ in speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Backend {
    /// Plain Rust, everywhere: the specification.
    Scalar,
    /// `vpmaddwd` on 256-bit vectors (x86-64 with AVX2).
    Avx2,
    /// `vpdpwssd` on 512-bit vectors (x86-64 with AVX-512 F, BW, DQ and VNNI).
    Avx512,
}

impl Backend {
    /// Every backend, slowest first.
    pub const ALL: [Self; 3] = [Self::Scalar, Self::Avx2, Self::Avx512];

    /// Name as `HE_BACKEND` spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    /// Whether this machine can run it.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 => false,
        }
    }

    /// The backends this machine can run, slowest first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        Self::ALL.into_iter().filter(|b| b.is_available()).collect()
    }

    /// The fastest available backend, or the one `HE_BACKEND` names.
    pub(crate) fn detect() -> Result<Self> {
        let fastest = Self::available().last().copied().unwrap_or(Self::Scalar);
        let Ok(name) = std::env::var("HE_BACKEND") else {
            return Ok(fastest);
        };
        if name.is_empty() || name == "auto" {
            return Ok(fastest);
        }
        Self::available()
            .into_iter()
            .find(|b| b.name() == name)
            .ok_or_else(|| Self::unavailable(&name))
    }

    pub(crate) fn check_available(self) -> Result<()> {
        if self.is_available() { Ok(()) } else { Err(Self::unavailable(self.name())) }
    }

    fn unavailable(name: &str) -> Error {
        let names: Vec<_> = Self::available().into_iter().map(Self::name).collect();
        Error::Backend { name: name.to_owned(), available: names.join(", ") }
    }
}

/// Runs a safe loop compiled for the widest vectors available.
///
/// The closure must be small and inlinable; its result does not depend on the instruction set.
/// `HE_BACKEND` does not reach here: it chooses a linear kernel.
#[inline]
pub(crate) fn vectorize<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vpopcntdq")
            && is_x86_feature_detected!("popcnt")
        {
            // SAFETY: every feature the function enables was detected in the lines above.
            return unsafe { with_avx512(work) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("popcnt") {
            // SAFETY: every feature the function enables was detected in the line above.
            return unsafe { with_avx2(work) };
        }
    }
    work()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq,popcnt")]
#[inline]
fn with_avx512<R>(work: impl FnOnce() -> R) -> R {
    work()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,popcnt")]
#[inline]
fn with_avx2<R>(work: impl FnOnce() -> R) -> R {
    work()
}

/// Writes AES-128 key stream (counter mode, big-endian 128-bit counter) to the start of `out`, as far
/// as this machine has fast instructions for it; returns how many bytes, a multiple of 16.
pub(crate) fn aes_key_stream(key: &[u8; 16], counter: u128, out: &mut [u8]) -> usize {
    #[cfg(target_arch = "x86_64")]
    if aes::is_available() {
        let (chunks, _) = out.as_chunks_mut::<{ aes::CHUNK_BYTES }>();
        let n_bytes = chunks.as_flattened().len();
        #[expect(clippy::cast_possible_truncation, reason = "the low half")]
        let low = counter as u64;
        // Odds of a wrap are 2^-50; the vectors have no carry.
        if low.checked_add(n_bytes as u64).is_some() {
            // SAFETY: every feature the function enables was detected above.
            unsafe { aes::key_stream(key, counter, chunks) }
            return n_bytes;
        }
    }
    let _ = (key, counter, out);
    0
}

/// Reads masked little-endian draws of 6 bytes, as far as this machine has fast instructions for it
/// and 16 bytes follow; returns how many.
pub(crate) fn read_wide_draws(bytes: &[u8], mask: u64, out: &mut [u64]) -> usize {
    #[cfg(target_arch = "x86_64")]
    if draws::is_available() {
        // SAFETY: every feature the function enables was detected above.
        return unsafe { draws::read(bytes, mask, out) };
    }
    let _ = (bytes, mask, out);
    0
}

/// One weight matrix applied to one gather of inputs, on one slab of columns of one limb.
///
/// `Σ_k weights[row][k] · input[k]` for `n_rows` rows; inputs come in pairs.
#[derive(Debug, Clone)]
pub(crate) struct Tile<'a> {
    /// Packed line of each input pair (index into [`Packed`]).
    pub(crate) pairs: Vec<u32>,
    /// Weight pairs, `[row block][pair][ROW_BLOCK rows]`, low half first: see [`pack_weights`].
    pub(crate) weights: &'a [i32],
    /// Number of rows (outputs).
    pub(crate) n_rows: usize,
    /// Output row of the first row, and the distance between rows.
    pub(crate) first_output: usize,
    pub(crate) output_stride: usize,
    /// Pair ranges in which no row's `Σ|w|` reaches 2^16, so that 32-bit sums cannot overflow.
    pub(crate) chunks: &'a [(usize, usize)],
}

/// Rows multiplied together; weights are stored in blocks of this many rows.
pub(crate) const ROW_BLOCK: usize = 5;

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
    pub(crate) fn n_groups(&self) -> usize {
        self.lanes.len() / self.group_len().max(1)
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
    const ZERO: [u64; GROUP] = [0; GROUP];
    for (group, lanes) in groups.enumerate() {
        let columns = |row: Option<&[u64]>| -> [u64; GROUP] {
            row.and_then(|row| row.get(group * GROUP..(group + 1) * GROUP))
                .and_then(|columns| columns.try_into().ok())
                .unwrap_or(ZERO)
        };
        pack_group::<DIGITS>(lanes, columns(a), columns(b));
    }
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

/// Interleaves weights (row-major `n_rows × k`) as [`Tile::weights`] expects; odd `k` and a partial
/// last row block are padded with zeros.
pub(crate) fn pack_weights(weights: &[i16], n_rows: usize, k: usize) -> Vec<i32> {
    let n_pairs = k.div_ceil(2);
    let weight = |row: usize, col: usize| -> u16 {
        let value =
            if row < n_rows && col < k { weights.get(row * k + col).copied() } else { None };
        value.unwrap_or(0).cast_unsigned()
    };
    let mut packed = Vec::with_capacity(n_rows.div_ceil(ROW_BLOCK) * n_pairs * ROW_BLOCK);
    for block in 0..n_rows.div_ceil(ROW_BLOCK) {
        for pair in 0..n_pairs {
            for row in block * ROW_BLOCK..(block + 1) * ROW_BLOCK {
                let lane =
                    u32::from(weight(row, 2 * pair)) | u32::from(weight(row, 2 * pair + 1)) << 16;
                packed.push(lane.cast_signed());
            }
        }
    }
    packed
}

/// Multiplies one tile on one slab: writes `Σ w·x mod q` to every output row of the tile.
///
/// # Panics
/// When a pair index or output row lies outside `packed` or `out`: the caller builds both.
pub(crate) fn multiply(
    backend: Backend,
    tile: &Tile<'_>,
    packed: &Packed,
    reducer: Reducer,
    out: &mut SlabRows<'_>,
) {
    assert!(tile.pairs.iter().all(|&p| (p as usize) < packed.n_pairs), "invariant: packed pairs");
    assert_eq!(packed.lanes.len(), packed.n_groups() * packed.group_len());
    let n_blocks = tile.n_rows.div_ceil(ROW_BLOCK);
    assert_eq!(tile.weights.len(), n_blocks * tile.pairs.len() * ROW_BLOCK);
    assert!(tile.chunks.iter().all(|&(a, b)| a <= b && b <= tile.pairs.len()));
    match backend {
        #[cfg(target_arch = "x86_64")]
        Backend::Avx512 if backend.is_available() => {
            // SAFETY: the features were detected; pair indices, weights and chunks were checked
            // above against the lengths of the buffers they index.
            unsafe { avx512::multiply(tile, packed, reducer, out) }
        }
        #[cfg(target_arch = "x86_64")]
        Backend::Avx2 if backend.is_available() => {
            // SAFETY: as above.
            unsafe { avx2::multiply(tile, packed, reducer, out) }
        }
        Backend::Scalar | Backend::Avx2 | Backend::Avx512 => {
            scalar::multiply(tile, packed, reducer, out);
        }
    }
}

#[cfg(test)]
mod tests;
