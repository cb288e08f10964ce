//! Kernels: the only place with `unsafe`.
//!
//! - [`vectorize`] compiles a safe loop for the widest instruction set the machine has.
//! - [`for_each_slab`] hands disjoint column ranges of a row-major matrix to parallel tasks.
//! - [`multiply`] multiplies an integer matrix by residues, in one file per backend. `scalar.rs` is
//!   the specification; all backends give the same bits. `digits.rs` is what the vector kernels share.
//! - [`Reducer`] is the arithmetic modulo one prime that those loops use.
//!
//! The digit kernels work on packed lines: a residue below 2^47 is three balanced 16-bit digits
//! (two below 2^31), and a 32-bit lane holds the same digit of two inputs, as `vpdpwssd` and
//! `pmaddwd` multiply them. Tiles (`amx.rs`) work on bytes. See `docs/kernels.md`.

#![allow(
    unsafe_code,
    reason = "std::arch intrinsics and disjoint slabs; every block has a SAFETY note"
)]

#[cfg_attr(
    not(any(target_arch = "x86_64", test)),
    allow(
        dead_code,
        reason = "tiles exist on x86-64 only; what fills them is the same everywhere"
    )
)]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod backend;
#[cfg(feature = "ceilings")]
mod ceilings;
#[cfg(target_arch = "x86_64")]
mod digits;
#[cfg(target_arch = "x86_64")]
mod draws;
mod packed;
mod portable;
mod products;
mod reduction;
mod scalar;
mod slabs;
mod squares;
#[cfg(target_arch = "x86_64")]
mod sse2;
mod tile;

pub use backend::Backend;
#[cfg(feature = "ceilings")]
pub(crate) use ceilings::{products_per_round, run_products};
pub(crate) use packed::{GROUP, Packed};
pub(crate) use products::sum_products;
pub(crate) use reduction::{Factor, Reducer};
pub(crate) use slabs::{SlabRows, for_each_slab, for_each_slab_while};
pub(crate) use squares::{ARRAYS as SQUARE_SUMS, TERMS_BEFORE_CARRY, add_squares, carry};
pub(crate) use tile::{Tile, pack_weights, row_blocks};

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
    #[cfg(target_arch = "x86_64")]
    if let Some(wide) = &tile.wide {
        return amx::multiply::<amx::Hardware>(tile, wide, &packed.bytes, reducer, out);
    }
    assert!(tile.pairs.iter().all(|&p| (p as usize) < packed.n_pairs), "invariant: packed pairs");
    assert_eq!(packed.lanes.len(), packed.n_groups() * packed.group_len());
    assert_eq!(tile.weights.len(), tile.n_rows * tile.pairs.len());
    assert!(tile.chunks.iter().all(|&(a, b)| a <= b && b <= tile.pairs.len()));
    match backend {
        #[cfg(target_arch = "x86_64")]
        Backend::Avx512 | Backend::Amx if backend.is_available() => {
            // SAFETY: the features were detected; pair indices, weights and chunks were checked
            // above against the lengths of the buffers they index.
            unsafe { avx512::multiply(tile, packed, reducer, out) }
        }
        #[cfg(target_arch = "x86_64")]
        Backend::Avx2 if backend.is_available() => {
            // SAFETY: as above.
            unsafe { avx2::multiply(tile, packed, reducer, out) }
        }
        #[cfg(target_arch = "x86_64")]
        Backend::Sse2 => {
            // SAFETY: as above; SSE2 belongs to x86-64.
            unsafe { sse2::multiply(tile, packed, reducer, out) }
        }
        Backend::Portable => portable::multiply(tile, packed, reducer, out),
        _ => scalar::multiply(tile, packed, reducer, out),
    }
}

#[cfg(test)]
mod tests;
