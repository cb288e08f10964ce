//! Vertical packing of one limb, sixteen lanes at a time.

use crate::simd::vectorize;

/// Lanes handled together: one 512-bit vector of words.
const WIDTH: usize = 16;
/// Numbers of one lane.
const NUMBERS: usize = 32;
/// Bits of a word; wider numbers have their low 32 bits packed apart.
const WORD_BITS: u32 = 32;

/// Packs N residues of `bits` bits, `N·bits/8` bytes.
pub(crate) fn pack(values: &[u64], bits: u32, out: &mut [u8]) {
    if (values.len() / NUMBERS).is_multiple_of(WIDTH) {
        vectorize(
            #[inline(always)]
            || pack_all::<WIDTH>(values, bits, out),
        );
    } else {
        pack_all::<1>(values, bits, out);
    }
}

/// Unpacks N residues; returns whether all are below `modulus`, and if not leaves zeros.
pub(crate) fn unpack(bytes: &[u8], bits: u32, modulus: u64, out: &mut [u64]) -> bool {
    let largest = if (out.len() / NUMBERS).is_multiple_of(WIDTH) {
        vectorize(
            #[inline(always)]
            || unpack_all::<WIDTH>(bytes, bits, out),
        )
    } else {
        unpack_all::<1>(bytes, bits, out)
    };
    if largest >= modulus {
        out.fill(0);
    }
    largest < modulus
}

// Loops here are `for` loops: closures passed to iterators would not be compiled for wide vectors.

#[inline(always)]
fn pack_all<const W: usize>(values: &[u64], bits: u32, out: &mut [u8]) {
    let lanes = values.len() / NUMBERS;
    for first in (0..lanes).step_by(W) {
        pack_lanes::<W>(values, lanes, first, bits, out);
    }
}

#[inline(always)]
fn unpack_all<const W: usize>(bytes: &[u8], bits: u32, out: &mut [u64]) -> u64 {
    let lanes = out.len() / NUMBERS;
    let mut largest = [0; W];
    for first in (0..lanes).step_by(W) {
        unpack_lanes::<W>(bytes, lanes, first, bits, out, &mut largest);
    }
    largest.into_iter().fold(0, u64::max)
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
    if bits <= WORD_BITS {
        pack_words::<W>(values, lanes, first, bits, 0, out);
    } else {
        let (low, high) = out.split_at_mut(lanes * 4 * WORD_BITS as usize);
        pack_words::<W>(values, lanes, first, WORD_BITS, 0, low);
        pack_words::<W>(values, lanes, first, bits - WORD_BITS, WORD_BITS, high);
    }
}

/// Packs bits `[shift, shift + bits)` of every number of W lanes, `bits <= 32`.
#[inline(always)]
fn pack_words<const W: usize>(
    values: &[u64],
    lanes: usize,
    first: usize,
    bits: u32,
    shift: u32,
    out: &mut [u8],
) {
    let mut words = out.chunks_exact_mut(4 * lanes);
    let mut word = [0_u32; W];
    let mut filled = 0;
    for row in values.chunks_exact(lanes) {
        let row: &[u64; W] = tile(row, first);
        let mut numbers = [0_u32; W];
        #[expect(clippy::cast_possible_truncation, reason = "the low or the high 32 bits")]
        for (number, &x) in numbers.iter_mut().zip(row) {
            *number = (x >> shift) as u32;
        }
        for (word, &x) in word.iter_mut().zip(&numbers) {
            *word |= x << filled;
        }
        filled += bits;
        if filled < WORD_BITS {
            continue;
        }
        let mut bytes = [[0; 4]; W];
        for (bytes, word) in bytes.iter_mut().zip(word) {
            *bytes = word.to_le_bytes();
        }
        let target = words.next().and_then(|words| words.get_mut(4 * first..4 * (first + W)));
        target.unwrap_or_default().copy_from_slice(bytes.as_flattened());
        filled -= WORD_BITS;
        // What did not fit: in 64 bits, since nothing is left of a number shifted by all 32.
        let (keep, rest) = if filled == 0 { (0, 0) } else { (u32::MAX, bits - filled) };
        for (word, x) in word.iter_mut().zip(numbers) {
            *word = (x >> rest) & keep;
        }
    }
}

/// Elements `first .. first + W`.
#[inline(always)]
fn tile<const W: usize>(row: &[u64], first: usize) -> &[u64; W] {
    const { assert!(W <= WIDTH) };
    row.get(first..first + W).and_then(|row| row.first_chunk()).expect("invariant: whole lanes")
}

/// Unpacks lanes `first .. first + W` and keeps the largest residues.
#[inline(always)]
fn unpack_lanes<const W: usize>(
    bytes: &[u8],
    lanes: usize,
    first: usize,
    bits: u32,
    out: &mut [u64],
    largest: &mut [u64; W],
) {
    let (low_bits, high_bits) = (bits.min(WORD_BITS), bits.saturating_sub(WORD_BITS));
    let (low, high) = bytes.split_at(lanes * 4 * low_bits as usize);
    for (number, row) in (0_u32..).zip(out.chunks_exact_mut(lanes)) {
        let mut values = [0_u64; W];
        let numbers = unpack_number::<W>(low, lanes, first, number, low_bits);
        for (x, low) in values.iter_mut().zip(numbers) {
            *x = u64::from(low);
        }
        if high_bits > 0 {
            let numbers = unpack_number::<W>(high, lanes, first, number, high_bits);
            for (x, high) in values.iter_mut().zip(numbers) {
                *x |= u64::from(high) << WORD_BITS;
            }
        }
        for (largest, &x) in largest.iter_mut().zip(&values) {
            *largest = (*largest).max(x);
        }
        row.get_mut(first..first + W).unwrap_or_default().copy_from_slice(&values);
    }
}

/// Number `number` of W lanes, `bits <= 32` bits each.
#[inline(always)]
fn unpack_number<const W: usize>(
    bytes: &[u8],
    lanes: usize,
    first: usize,
    number: u32,
    bits: u32,
) -> [u32; W] {
    let (index, offset) = ((number * bits / WORD_BITS) as usize, number * bits % WORD_BITS);
    let mask = u32::MAX >> (WORD_BITS - bits);
    let mut out = words::<W>(bytes, index * lanes + first);
    if offset + bits <= WORD_BITS {
        for x in &mut out {
            *x = (*x >> offset) & mask;
        }
    } else {
        let next = words::<W>(bytes, (index + 1) * lanes + first);
        for (x, next) in out.iter_mut().zip(next) {
            *x = ((*x >> offset) | (next << (WORD_BITS - offset))) & mask;
        }
    }
    out
}

/// The words `start .. start + W`.
#[inline(always)]
fn words<const W: usize>(bytes: &[u8], start: usize) -> [u32; W] {
    let mut raw = [[0; 4]; W];
    raw.as_flattened_mut()
        .copy_from_slice(bytes.get(4 * start..4 * (start + W)).unwrap_or_default());
    let mut words = [0; W];
    for (word, bytes) in words.iter_mut().zip(raw) {
        *word = u32::from_le_bytes(bytes);
    }
    words
}
