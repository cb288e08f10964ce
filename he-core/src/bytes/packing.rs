//! Vertical packing of one limb, sixteen lanes at a time.

use crate::simd::vectorize;

/// Lanes handled together: one 512-bit vector of words.
const WIDTH: usize = 16;
/// Numbers of one lane.
const NUMBERS: usize = 32;
/// Numbers that lie in whole words when their low 32 bits are packed apart.
const WORD_BITS: u32 = 32;

/// Packs N residues of `bits` bits, `N·bits/8` bytes.
pub(crate) fn pack(values: &[u64], bits: u32, out: &mut [u8]) {
    let lanes = values.len() / NUMBERS;
    vectorize(
        #[inline(always)]
        || {
            if lanes.is_multiple_of(WIDTH) {
                (0..lanes)
                    .step_by(WIDTH)
                    .for_each(|l| pack_lanes::<WIDTH>(values, lanes, l, bits, out));
            } else {
                (0..lanes).for_each(|l| pack_lanes::<1>(values, lanes, l, bits, out));
            }
        },
    );
}

/// Unpacks N residues; returns whether all are below `modulus`, and if not leaves zeros.
pub(crate) fn unpack(bytes: &[u8], bits: u32, modulus: u64, out: &mut [u64]) -> bool {
    let lanes = out.len() / NUMBERS;
    let largest = vectorize(
        #[inline(always)]
        || {
            if lanes.is_multiple_of(WIDTH) {
                let lane = |l| unpack_lanes::<WIDTH>(bytes, lanes, l, bits, out);
                (0..lanes).step_by(WIDTH).map(lane).fold(0, u64::max)
            } else {
                let lane = |l| unpack_lanes::<1>(bytes, lanes, l, bits, out);
                (0..lanes).map(lane).fold(0, u64::max)
            }
        },
    );
    if largest >= modulus {
        out.fill(0);
    }
    largest < modulus
}

/// Packs lanes `first .. first + W`.
#[inline(always)]
fn pack_lanes<const W: usize>(
    values: &[u64],
    lanes: usize,
    first: usize,
    bits: u32,
    out: &mut [u8],
) {
    let (low_bits, high_bits) = (bits.min(WORD_BITS), bits.saturating_sub(WORD_BITS));
    let mut low = Packer::<W>::new(first, lanes, low_bits);
    let mut high = Packer::<W>::new(first, lanes, high_bits.max(1));
    let (low_out, high_out) = out.split_at_mut(lanes * 4 * low_bits as usize);
    for row in values.chunks_exact(lanes) {
        let Some(row) = row.get(first..first + W).and_then(|row| row.first_chunk::<W>()) else {
            return;
        };
        #[expect(clippy::cast_possible_truncation, reason = "the low and the high 32 bits")]
        {
            low.push(row.map(|x| x as u32), low_out);
            if high_bits > 0 {
                high.push(row.map(|x| (x >> WORD_BITS) as u32), high_out);
            }
        }
    }
}

/// Bit positions of W lanes while numbers are appended to them.
struct Packer<const W: usize> {
    bits: u32,
    /// Bits of the current word that are taken.
    filled: u32,
    word: [u32; W],
    /// Where the current word of these lanes goes, and the distance to the next one.
    position: usize,
    stride: usize,
}

impl<const W: usize> Packer<W> {
    #[inline(always)]
    fn new(first: usize, lanes: usize, bits: u32) -> Self {
        Self { bits, filled: 0, word: [0; W], position: 4 * first, stride: 4 * lanes }
    }

    /// Appends a number below `2^bits` to every lane.
    #[inline(always)]
    fn push(&mut self, numbers: [u32; W], out: &mut [u8]) {
        for (word, &x) in self.word.iter_mut().zip(&numbers) {
            *word |= x << self.filled;
        }
        self.filled += self.bits;
        if self.filled < WORD_BITS {
            return;
        }
        let bytes = out.get_mut(self.position..self.position + 4 * W).unwrap_or_default();
        for (bytes, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(self.word) {
            *bytes = word.to_le_bytes();
        }
        self.position += self.stride;
        self.filled -= WORD_BITS;
        // What did not fit; a shift by all 32 bits leaves nothing.
        let rest = self.bits - self.filled;
        self.word = numbers.map(|x| x.checked_shr(rest).unwrap_or_default());
    }
}

/// Unpacks lanes `first .. first + W`; returns a number at least as large as the largest residue.
#[inline(always)]
fn unpack_lanes<const W: usize>(
    bytes: &[u8],
    lanes: usize,
    first: usize,
    bits: u32,
    out: &mut [u64],
) -> u64 {
    let (low_bits, high_bits) = (bits.min(WORD_BITS), bits.saturating_sub(WORD_BITS));
    let (low, high) = bytes.split_at(lanes * 4 * low_bits as usize);
    let mut largest = [0_u64; W];
    for (number, row) in (0_u32..).zip(out.chunks_exact_mut(lanes)) {
        let numbers = numbers::<W>(low, lanes, first, number, low_bits);
        let mut row_values = numbers.map(u64::from);
        if high_bits > 0 {
            let high = self::numbers::<W>(high, lanes, first, number, high_bits);
            for (x, high) in row_values.iter_mut().zip(high) {
                *x |= u64::from(high) << WORD_BITS;
            }
        }
        for (largest, &x) in largest.iter_mut().zip(&row_values) {
            *largest = (*largest).max(x);
        }
        if let Some(row) = row.get_mut(first..first + W) {
            row.copy_from_slice(&row_values);
        }
    }
    largest.into_iter().fold(0, u64::max)
}

/// Number `number` of every lane, `bits <= 32` bits each.
#[inline(always)]
fn numbers<const W: usize>(
    bytes: &[u8],
    lanes: usize,
    first: usize,
    number: u32,
    bits: u32,
) -> [u32; W] {
    let words = |index: usize| -> [u32; W] {
        let start = 4 * (index * lanes + first);
        let bytes = bytes.get(start..start + 4 * W).unwrap_or_default();
        let mut words = [0; W];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        words
    };
    let (index, offset) = ((number * bits / WORD_BITS) as usize, number * bits % WORD_BITS);
    let mask = u32::MAX >> (WORD_BITS - bits);
    let low = words(index);
    if offset + bits <= WORD_BITS {
        return low.map(|x| (x >> offset) & mask);
    }
    let mut out = words(index + 1);
    for (high, low) in out.iter_mut().zip(low) {
        *high = ((low >> offset) | (*high << (WORD_BITS - offset))) & mask;
    }
    out
}
