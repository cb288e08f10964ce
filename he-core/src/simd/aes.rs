//! AES-128 in counter mode, 32 blocks at a time (`vaesenc` on 512-bit vectors).
//!
//! Only a faster way to the bytes of the `ctr` crate: [`crate::sampling`] falls back to it.

use core::arch::x86_64::{
    __m128i, __m512i, _mm_aeskeygenassist_si128, _mm_loadu_si128, _mm_shuffle_epi32,
    _mm_slli_si128, _mm_xor_si128, _mm512_add_epi64, _mm512_aesenc_epi128,
    _mm512_aesenclast_epi128, _mm512_broadcast_i32x4, _mm512_set_epi8, _mm512_set_epi64,
    _mm512_setzero_si512, _mm512_shuffle_epi8, _mm512_storeu_si512, _mm512_xor_si512,
};

/// Bytes written together.
pub(super) const CHUNK_BYTES: usize = 512;
const BLOCK_BYTES: usize = 16;
const VECTORS: usize = 8;
const BLOCKS_PER_VECTOR: i64 = 4;
const ROUNDS: usize = 10;

/// Whether this machine has the instructions.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("aes")
        && is_x86_feature_detected!("vaes")
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
}

/// Writes the key stream of the blocks `counter, counter + 1, …` (big-endian) to whole chunks.
///
/// The counters' low 64 bits must not overflow. No branch or address depends on the key.
///
/// # Safety
/// The features of [`is_available`] must be available.
#[target_feature(enable = "aes,vaes,avx512f,avx512bw")]
pub(super) unsafe fn key_stream(
    key: &[u8; BLOCK_BYTES],
    counter: u128,
    chunks: &mut [[u8; CHUNK_BYTES]],
) {
    let mut keys = round_keys(key);
    let swap = byte_swap();
    #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
    let (low, high) = (counter as u64, ((counter >> 64) as u64).cast_signed());
    let low = |n| low.wrapping_add(n).cast_signed();
    let first = _mm512_set_epi64(high, low(3), high, low(2), high, low(1), high, low(0));
    let step = |n: i64| _mm512_set_epi64(0, n, 0, n, 0, n, 0, n);
    let mut counters = [first; VECTORS];
    for (i, counters) in (0_i64..).zip(&mut counters) {
        *counters = _mm512_add_epi64(first, step(BLOCKS_PER_VECTOR * i));
    }
    #[expect(clippy::cast_possible_wrap, reason = "a small constant")]
    let advance = step(BLOCKS_PER_VECTOR * VECTORS as i64);
    for chunk in chunks {
        let [first_key, middle_keys @ .., last_key] = &keys;
        let mut blocks = counters;
        for (block, counters) in blocks.iter_mut().zip(&mut counters) {
            *block = _mm512_xor_si512(_mm512_shuffle_epi8(*counters, swap), *first_key);
            *counters = _mm512_add_epi64(*counters, advance);
        }
        for key in middle_keys {
            for block in &mut blocks {
                *block = _mm512_aesenc_epi128(*block, *key);
            }
        }
        for (block, out) in blocks.iter().zip(chunk.as_chunks_mut::<64>().0) {
            let block = _mm512_aesenclast_epi128(*block, *last_key);
            // SAFETY: `out` holds 64 bytes.
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), block) }
        }
    }
    for key in &mut keys {
        // SAFETY: a valid, aligned place; volatile so that the secret does not outlive its use.
        unsafe { core::ptr::write_volatile(key, _mm512_setzero_si512()) }
    }
}

/// Reverses the bytes of every block: counters are big-endian.
#[target_feature(enable = "avx512f,avx512bw")]
fn byte_swap() -> __m512i {
    _mm512_set_epi8(
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11,
        12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6,
        7, 8, 9, 10, 11, 12, 13, 14, 15,
    )
}

/// The key schedule of FIPS 197, each round key in every block of a vector.
#[target_feature(enable = "aes,avx512f")]
fn round_keys(key: &[u8; BLOCK_BYTES]) -> [__m512i; ROUNDS + 1] {
    // SAFETY: `key` holds 16 bytes.
    let mut current = unsafe { _mm_loadu_si128(key.as_ptr().cast()) };
    let mut keys = [_mm512_broadcast_i32x4(current); ROUNDS + 1];
    macro_rules! round {
        ($($index:literal: $constant:literal),*) => {$(
            current = expand(current, _mm_aeskeygenassist_si128::<$constant>(current));
            keys[$index] = _mm512_broadcast_i32x4(current);
        )*};
    }
    round!(1: 0x01, 2: 0x02, 3: 0x04, 4: 0x08, 5: 0x10, 6: 0x20, 7: 0x40, 8: 0x80);
    round!(9: 0x1B, 10: 0x36);
    keys
}

#[target_feature(enable = "sse2")]
fn expand(key: __m128i, assist: __m128i) -> __m128i {
    let assist = _mm_shuffle_epi32::<0xFF>(assist);
    let key = _mm_xor_si128(key, _mm_slli_si128::<4>(key));
    let key = _mm_xor_si128(key, _mm_slli_si128::<8>(key));
    _mm_xor_si128(key, assist)
}
