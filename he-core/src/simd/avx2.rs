//! Linear kernel on 256-bit vectors: `vpmaddwd` multiplies a digit of two inputs by two weights.

use core::arch::x86_64::{
    __m256i, _mm256_add_epi32, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_set1_epi32,
    _mm256_setzero_si256, _mm256_storeu_si256,
};

use super::{
    Packed, Reducer, SlabRows, Tile,
    digits::{self, Vector},
};

// SAFETY: the methods are single AVX2 instructions with the stated meaning.
unsafe impl Vector for __m256i {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the trait's contract: AVX2 is available.
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    unsafe fn load(source: *const u32) -> Self {
        // SAFETY: the trait's contract: AVX2 is available and 8 lanes are readable.
        unsafe { _mm256_loadu_si256(source.cast()) }
    }

    #[inline(always)]
    unsafe fn broadcast(lane: i32) -> Self {
        // SAFETY: the trait's contract: AVX2 is available.
        unsafe { _mm256_set1_epi32(lane) }
    }

    #[inline(always)]
    unsafe fn dot(sum: Self, a: Self, b: Self) -> Self {
        // SAFETY: the trait's contract: AVX2 is available.
        unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)) }
    }

    #[inline(always)]
    unsafe fn store(self, target: *mut i32) {
        // SAFETY: the trait's contract: AVX2 is available and 8 lanes are writable.
        unsafe { _mm256_storeu_si256(target.cast(), self) }
    }
}

/// As [`super::multiply`]: five rows of two vectors leave registers for two inputs and a weight.
///
/// # Safety
/// AVX2 must be available; pair indices, weights and chunks must fit their buffers.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn multiply(
    tile: &Tile<'_>,
    packed: &Packed,
    reducer: Reducer,
    out: &mut SlabRows<'_>,
) {
    // SAFETY: the caller's promise is passed on; AVX2 is enabled here.
    unsafe {
        match packed.digits {
            2 => digits::multiply::<__m256i, 2, 2>(tile, packed, reducer, out),
            _ => digits::multiply::<__m256i, 3, 2>(tile, packed, reducer, out),
        }
    }
}
