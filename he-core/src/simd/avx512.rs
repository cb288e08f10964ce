//! Linear kernel on 512-bit vectors: `vpdpwssd` multiplies a digit of two inputs by two weights and
//! adds both products to a 32-bit sum.

use core::arch::x86_64::{
    __m512i, _mm512_add_epi64, _mm512_castsi512_si256, _mm512_cvtepi32_epi64, _mm512_cvtepi64_pd,
    _mm512_cvtpd_epi64, _mm512_extracti64x4_epi64, _mm512_loadu_si512, _mm512_min_epu64,
    _mm512_mul_pd, _mm512_mullo_epi64, _mm512_set1_epi32, _mm512_set1_epi64, _mm512_set1_pd,
    _mm512_setzero_si512, _mm512_slli_epi64, _mm512_storeu_si512, _mm512_sub_epi64,
};

use super::{GROUP, Packed, ROW_BLOCK, Reducer, SlabRows, Tile};

/// As [`super::multiply`].
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
    for block in 0..tile.n_rows.div_ceil(ROW_BLOCK) {
        for group in 0..packed.n_groups() {
            for (chunk, &range) in tile.chunks.iter().enumerate() {
                let job = Job { tile, packed, reducer, block, group, range, first: chunk == 0 };
                // SAFETY: the caller's promise is passed on.
                unsafe {
                    match packed.digits {
                        2 => job.run::<2>(out),
                        _ => job.run::<3>(out),
                    }
                }
            }
        }
    }
}

struct Job<'a> {
    tile: &'a Tile<'a>,
    packed: &'a Packed,
    reducer: Reducer,
    block: usize,
    group: usize,
    range: (usize, usize),
    first: bool,
}

impl Job<'_> {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vnni")]
    #[expect(clippy::indexing_slicing, reason = "constant bounds")]
    unsafe fn run<const DIGITS: usize>(&self, out: &mut SlabRows<'_>) {
        let mut sums = [[_mm512_setzero_si512(); DIGITS]; ROW_BLOCK];
        let line = DIGITS * GROUP;
        let n_pairs = self.tile.pairs.len();
        // SAFETY: `multiply` checked that weights hold `n_blocks · n_pairs · ROW_BLOCK` values and
        // that every pair index has a line of `DIGITS · GROUP` lanes in every group.
        unsafe {
            let weights = self.tile.weights.as_ptr().add(self.block * n_pairs * ROW_BLOCK);
            let lanes = self.packed.lanes.as_ptr().add(self.group * self.packed.group_len());
            for pair in self.range.0..self.range.1 {
                let source = lanes.add(*self.tile.pairs.get_unchecked(pair) as usize * line);
                let mut inputs = [_mm512_setzero_si512(); DIGITS];
                for (d, input) in inputs.iter_mut().enumerate() {
                    *input = _mm512_loadu_si512(source.add(d * GROUP).cast());
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    let weight = _mm512_set1_epi32(*weights.add(pair * ROW_BLOCK + row));
                    for (sum, &input) in sums.iter_mut().zip(&inputs) {
                        *sum = dot(*sum, input, weight);
                    }
                }
            }
        }
        let n_rows = (self.tile.n_rows - self.block * ROW_BLOCK).min(ROW_BLOCK);
        for (row, sums) in sums.iter().enumerate().take(n_rows) {
            let index = self.block * ROW_BLOCK + row;
            let target = out.row_mut(self.tile.first_output + index * self.tile.output_stride);
            let target = &mut target[self.group * GROUP..(self.group + 1) * GROUP];
            // SAFETY: `target` holds 16 words.
            unsafe { self.store(sums, target) }
        }
    }

    /// Recombines the digits, reduces modulo q and stores 16 residues.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vnni")]
    #[expect(clippy::indexing_slicing, reason = "two halves of eight words")]
    unsafe fn store<const DIGITS: usize>(&self, sums: &[__m512i; DIGITS], target: &mut [u64]) {
        for half in 0..2 {
            let mut total = _mm512_setzero_si512();
            for (d, &sum) in sums.iter().enumerate() {
                let part = if half == 0 {
                    _mm512_castsi512_si256(sum)
                } else {
                    _mm512_extracti64x4_epi64::<1>(sum)
                };
                let wide = _mm512_cvtepi32_epi64(part);
                let shifted = match d {
                    0 => wide,
                    1 => _mm512_slli_epi64::<16>(wide),
                    _ => _mm512_slli_epi64::<32>(wide),
                };
                total = _mm512_add_epi64(total, shifted);
            }
            let words = &mut target[half * 8..half * 8 + 8];
            // SAFETY: `words` holds eight words.
            unsafe {
                let mut value = self.reduce(total);
                if !self.first {
                    let old = _mm512_loadu_si512(words.as_ptr().cast());
                    let modulus = _mm512_set1_epi64(self.reducer.modulus.cast_signed());
                    let sum = _mm512_add_epi64(old, value);
                    value = _mm512_min_epu64(sum, _mm512_sub_epi64(sum, modulus));
                }
                _mm512_storeu_si512(words.as_mut_ptr().cast(), value);
            }
        }
    }

    /// As [`Reducer::reduce`], eight at a time.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vnni")]
    fn reduce(&self, y: __m512i) -> __m512i {
        let modulus = _mm512_set1_epi64(self.reducer.modulus.cast_signed());
        let inverse = _mm512_set1_pd(self.reducer.inverse);
        let quotient = _mm512_cvtpd_epi64(_mm512_mul_pd(_mm512_cvtepi64_pd(y), inverse));
        let r = _mm512_sub_epi64(y, _mm512_mullo_epi64(quotient, modulus));
        // A negative remainder is huge as an unsigned number, so the smaller one is the reduced one.
        _mm512_min_epu64(r, _mm512_add_epi64(r, modulus))
    }
}

/// `sum + a·b` of 16-bit pairs, as `vpdpwssd` itself: the compiler would split the intrinsic into
/// `vpmaddwd` and `vpaddd`, which takes a multiplier slot and an adder slot.
#[target_feature(enable = "avx512f,avx512vnni")]
#[inline]
fn dot(sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
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
