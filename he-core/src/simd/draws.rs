//! Random draws of 6 bytes, eight at a time (`vpermb`).

use core::arch::x86_64::{
    _mm512_and_si512, _mm512_loadu_si512, _mm512_permutexvar_epi8, _mm512_set1_epi64,
    _mm512_storeu_si512,
};

/// Draws read together, and the bytes of a vector that holds them.
pub(super) const DRAWS: usize = 8;
pub(super) const VECTOR_BYTES: usize = 64;
/// Bytes of one draw.
const WIDTH: usize = 6;

/// Whether this machine has the instructions.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vbmi")
}

/// Byte `6·i + j` goes to byte `j` of word `i`; the two bytes above are masked away.
const PLACES: [u8; VECTOR_BYTES] = {
    let mut places = [0; VECTOR_BYTES];
    let mut byte = 0;
    while byte < VECTOR_BYTES {
        #[expect(clippy::cast_possible_truncation, reason = "below 64")]
        #[expect(clippy::indexing_slicing, reason = "a constant")]
        {
            places[byte] = (byte / DRAWS * WIDTH + byte % DRAWS) as u8;
        }
        byte += 1;
    }
    places
};

/// Reads little-endian draws and masks each; returns how many, a multiple of 8: what lies in whole
/// vectors of bytes.
///
/// # Safety
/// The features of [`is_available`] must be available.
#[target_feature(enable = "avx512f,avx512vbmi")]
pub(super) unsafe fn read(bytes: &[u8], mask: u64, out: &mut [u64]) -> usize {
    // SAFETY: 64 bytes are read from 64 bytes.
    let places = unsafe { _mm512_loadu_si512(PLACES.as_ptr().cast()) };
    let mask = _mm512_set1_epi64(mask.cast_signed());
    let vectors = bytes.windows(VECTOR_BYTES).step_by(DRAWS * WIDTH);
    let mut count = 0;
    for (words, bytes) in out.as_chunks_mut::<DRAWS>().0.iter_mut().zip(vectors) {
        // SAFETY: a window is 64 bytes long, and so are eight words.
        unsafe {
            let draws = _mm512_permutexvar_epi8(places, _mm512_loadu_si512(bytes.as_ptr().cast()));
            _mm512_storeu_si512(words.as_mut_ptr().cast(), _mm512_and_si512(draws, mask));
        }
        count += DRAWS;
    }
    count
}
