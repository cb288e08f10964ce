//! Linear kernel on 128-bit vectors: `pmaddwd` multiplies a digit of two inputs by two weights.
//!
//! SSE2 belongs to every x86-64, so nothing is detected.

use core::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_loadu_si128, _mm_madd_epi16, _mm_set1_epi32, _mm_setzero_si128,
    _mm_storeu_si128,
};

use super::{
    Packed, Reducer, SlabRows, Tile,
    digits::{self, Vector},
};

// SAFETY: the methods are single SSE2 instructions with the stated meaning.
unsafe impl Vector for __m128i {
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the trait's contract: SSE2 is available.
        unsafe { _mm_setzero_si128() }
    }

    #[inline(always)]
    unsafe fn load(source: *const u32) -> Self {
        // SAFETY: the trait's contract: SSE2 is available and 4 lanes are readable.
        unsafe { _mm_loadu_si128(source.cast()) }
    }

    #[inline(always)]
    unsafe fn broadcast(lane: i32) -> Self {
        // SAFETY: the trait's contract: SSE2 is available.
        unsafe { _mm_set1_epi32(lane) }
    }

    #[inline(always)]
    unsafe fn dot(sum: Self, a: Self, b: Self) -> Self {
        // SAFETY: the trait's contract: SSE2 is available.
        unsafe { _mm_add_epi32(sum, _mm_madd_epi16(a, b)) }
    }

    #[inline(always)]
    unsafe fn store(self, target: *mut i32) {
        // SAFETY: the trait's contract: SSE2 is available and 4 lanes are writable.
        unsafe { _mm_storeu_si128(target.cast(), self) }
    }
}

/// As [`super::multiply`]: five rows of two vectors leave registers for two inputs and a weight.
///
/// # Safety
/// Pair indices, weights and chunks must fit their buffers.
#[target_feature(enable = "sse2")]
pub(super) unsafe fn multiply(
    tile: &Tile<'_>,
    packed: &Packed,
    reducer: Reducer,
    out: &mut SlabRows<'_>,
) {
    // SAFETY: the caller's promise is passed on; SSE2 is enabled here.
    unsafe {
        match packed.digits {
            2 => digits::multiply::<__m128i, 2, 2>(tile, packed, reducer, out),
            _ => digits::multiply::<__m128i, 3, 2>(tile, packed, reducer, out),
        }
    }
}
