//! Linear kernel on 512-bit vectors: `vpdpwssd` multiplies a digit of two inputs by two weights and
//! adds both products to a 32-bit sum.

use core::arch::x86_64::{
    __m512i, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_si512, _mm512_storeu_si512,
};

use super::{
    Packed, Reducer, SlabRows, Tile,
    digits::{self, Vector},
};

// SAFETY: the methods are single AVX-512 instructions with the stated meaning.
unsafe impl Vector for __m512i {
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the trait's contract: AVX-512 F is available.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    unsafe fn load(source: *const u32) -> Self {
        // SAFETY: the trait's contract: AVX-512 F is available and 16 lanes are readable.
        unsafe { _mm512_loadu_si512(source.cast()) }
    }

    #[inline(always)]
    unsafe fn broadcast(lane: i32) -> Self {
        // SAFETY: the trait's contract: AVX-512 F is available.
        unsafe { _mm512_set1_epi32(lane) }
    }

    #[inline(always)]
    unsafe fn dot(sum: Self, a: Self, b: Self) -> Self {
        // SAFETY: the trait's contract: AVX-512 VNNI is available.
        unsafe { dot(sum, a, b) }
    }

    #[inline(always)]
    unsafe fn store(self, target: *mut i32) {
        // SAFETY: the trait's contract: AVX-512 F is available and 16 lanes are writable.
        unsafe { _mm512_storeu_si512(target.cast(), self) }
    }
}

/// As [`super::multiply`]: five rows of all digits, 15 sums at most.
///
/// # Safety
/// AVX-512 F, BW, DQ and VNNI must be available; pair indices, weights and chunks must fit their
/// buffers.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vnni")]
pub(super) unsafe fn multiply(
    tile: &Tile<'_>,
    packed: &Packed,
    reducer: Reducer,
    out: &mut SlabRows<'_>,
) {
    // SAFETY: the caller's promise is passed on; the features are enabled here.
    unsafe {
        match packed.digits {
            2 => digits::multiply::<__m512i, 2, 2>(tile, packed, reducer, out),
            _ => digits::multiply::<__m512i, 3, 3>(tile, packed, reducer, out),
        }
    }
}

/// `sum + a·b` of 16-bit pairs, as `vpdpwssd` itself: the compiler would split the intrinsic into
/// `vpmaddwd` and `vpaddd`, which takes a multiplier slot and an adder slot.
#[target_feature(enable = "avx512f,avx512vnni")]
#[inline]
pub(super) fn dot(sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
    let mut out = sum;
    // SAFETY: one instruction on registers, without side effects; the feature is enabled.
    unsafe {
        core::arch::asm!(
            "vpdpwssd {out}, {a}, {b}",
            out = inout(zmm_reg) out,
            a = in(zmm_reg) a,
            b = in(zmm_reg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    out
}
