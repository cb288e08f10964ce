//! Several samples per coefficient, in a power-of-two radix.

use zeroize::Zeroizing;

use super::{Plaintext, check_length, check_low, check_message, low_word};
use crate::{
    Error, Message, Params, Result, decryption::Phase, scratch::written_zeros, simd::vectorize,
};

/// Magnitudes below `2^COMBINED_BITS` are reduced modulo every supported prime in one step.
const COMBINED_BITS: u32 = 60;

/// Encodes several samples per coefficient in a power-of-two radix: for linear maps only.
///
/// With radix `B = 2^radix_bits` and `k` samples per coefficient, `t = B^k` and coefficient `i`
/// holds `Σ_j B^j · value[j·N + i]`. Integer linear maps act on every digit at once and exactly, as
/// long as every digit of the result stays in its window `[low, low + B)`; with `k = 1` results
/// wrap modulo B instead. No transform modulo t is needed.
///
/// # Source
/// Own derivation, `docs/noise.md`.
#[derive(Debug, Clone)]
pub struct CoefficientEncoder {
    params: Params,
    radix_bits: u32,
    samples_per_coefficient: usize,
}

impl CoefficientEncoder {
    /// Builds the encoder.
    ///
    /// # Errors
    /// [`Error::PlaintextModulus`] unless `t = 2^(radix_bits·samples_per_coefficient)` with 1 to 46
    /// radix bits and at least one sample.
    pub fn new(params: &Params, radix_bits: u32, samples_per_coefficient: usize) -> Result<Self> {
        let total = u64::from(radix_bits).checked_mul(samples_per_coefficient as u64);
        let fits =
            total.is_some_and(|bits| bits < 100 && params.plaintext_modulus() == 1_u128 << bits);
        if !fits || !(1..=46).contains(&radix_bits) || samples_per_coefficient == 0 {
            return Err(Error::PlaintextModulus {
                modulus: params.plaintext_modulus(),
                requirement: "coefficient packing needs t = 2^(radix bits x samples per coefficient)",
            });
        }
        Ok(Self { params: params.clone(), radix_bits, samples_per_coefficient })
    }

    /// Values per plaintext: `N · k`.
    #[must_use]
    pub fn value_count(&self) -> usize {
        self.params.ring_degree() * self.samples_per_coefficient
    }

    pub(super) fn params(&self) -> &Params {
        &self.params
    }

    /// Encodes `N·k` integers, each of magnitude below B.
    ///
    /// # Errors
    /// - [`Error::Length`] unless there are exactly `N·k` values.
    /// - [`Error::PlaintextRange`] when a value's magnitude reaches B.
    pub fn encode(&self, values: &[i64]) -> Result<Plaintext> {
        let mut digits = Zeroizing::new(written_zeros(self.digits_len()));
        let shift = self.digits_into(values, &mut digits)?;
        Ok(Plaintext::from_digits(&self.params, &digits, shift))
    }

    /// The encoding of 1 in every sample: what a bias multiplies
    /// ([`crate::LinearMap::with_unit`]).
    #[must_use]
    pub fn ones(&self) -> Plaintext {
        let bits = self.radix_bits as usize;
        let one = (0..self.samples_per_coefficient).fold(0_i128, |sum, j| sum | 1 << (bits * j));
        let n = self.params.ring_degree();
        let mut residues = Zeroizing::new(Vec::with_capacity(n * self.params.moduli().len()));
        for ring in self.params.rings() {
            let end = residues.len() + n;
            residues.resize(end, ring.residue_vartime(one));
        }
        Plaintext { params: self.params.clone(), residues }
    }

    /// Samples that are combined in one word.
    fn samples_per_group(&self) -> usize {
        (COMBINED_BITS / self.radix_bits) as usize
    }

    pub(super) fn digits_len(&self) -> usize {
        let groups = self.samples_per_coefficient.div_ceil(self.samples_per_group());
        groups * self.params.ring_degree()
    }

    /// As [`super::Encoder::digits_into`]: samples are combined into groups below 2^60.
    pub(super) fn digits_into(&self, values: &[i64], digits: &mut [u64]) -> Result<usize> {
        check_length("coefficient values", self.value_count(), values.len())?;
        let max = (1_i64 << self.radix_bits) - 1;
        // Out-of-range values are found without branching on which one it is; one of the two
        // differences of such a value is negative or wraps to a negative number.
        let outside = vectorize(
            #[inline(always)]
            || values.iter().fold(0, |bad, &x| bad | max.wrapping_sub(x) | x.wrapping_add(max)),
        );
        if outside < 0 {
            return Err(Error::PlaintextRange { what: "coefficient value", min: -max, max });
        }
        let n = self.params.ring_degree();
        let per_group = self.samples_per_group();
        for (samples, group) in values.chunks(per_group * n).zip(digits.chunks_exact_mut(n)) {
            // Horner's rule in B, highest sample first.
            let mut samples = samples.chunks_exact(n).rev();
            let highest = samples.next().unwrap_or_default();
            vectorize(
                #[inline(always)]
                || {
                    for (sum, &x) in group.iter_mut().zip(highest) {
                        *sum = x.cast_unsigned();
                    }
                    for samples in samples {
                        for (sum, &x) in group.iter_mut().zip(samples) {
                            *sum = (*sum << self.radix_bits).wrapping_add(x.cast_unsigned());
                        }
                    }
                },
            );
        }
        Ok(self.radix_bits as usize * per_group)
    }

    /// Decodes to `N·k` integers, each in `[low, low + B)`.
    ///
    /// # Errors
    /// - [`Error::PlaintextModulus`] when the message has another plaintext modulus,
    ///   [`Error::Length`] when it has another N.
    /// - [`Error::Value`] unless `|low| <= B`.
    pub fn decode_from(&self, message: &Message, low: i64) -> Result<Zeroizing<Vec<i64>>> {
        check_message(&self.params, message)?;
        self.check_low(low)?;
        let mut out = Zeroizing::new(written_zeros(self.value_count()));
        self.decode_into(&message.phase(), message.correction(), low, &mut out);
        Ok(out)
    }

    pub(super) fn check_low(&self, low: i64) -> Result<()> {
        check_low(low, 1_u128 << self.radix_bits)
    }

    /// As [`super::Encoder::decode_into`].
    pub(super) fn decode_into(
        &self,
        phase: &Phase<'_>,
        correction: u128,
        low: i64,
        out: &mut [i64],
    ) {
        let bits = self.radix_bits;
        let k = u32::try_from(self.samples_per_coefficient).unwrap_or_default();
        // low·(1 + B + …), so that every digit counts from the lower end of its window.
        let offset = (0..k).map(|j| i128::from(low) << (bits * j)).sum::<i128>();
        let digits = Digits { n: self.params.ring_degree(), bits, low, out };
        if bits * k <= u64::BITS {
            let (factor, offset) = (low_word(correction), low_word(offset.cast_unsigned()));
            vectorize(
                #[inline(always)]
                || {
                    digits.extract(phase, |a, b, base| {
                        let x = a.wrapping_add(b.wrapping_mul(base)).wrapping_mul(factor);
                        split_word(x.wrapping_sub(offset))
                    })
                },
            );
        } else if correction == 1 {
            let offset = split(offset);
            vectorize(
                #[inline(always)]
                || digits.extract(phase, |a, b, base| split_product(a, b, base, offset)),
            );
        } else {
            let correction = correction.cast_signed();
            digits.extract(phase, |a, b, base| {
                let x =
                    i128::from(a.cast_signed()) + i128::from(b.cast_signed()) * i128::from(base);
                split(x.wrapping_mul(correction).wrapping_sub(offset))
            });
        }
    }
}

/// Where decoded digits go: digit `j` of coefficient `i`, plus `low`, to `out[j·n + i]`.
struct Digits<'a> {
    n: usize,
    bits: u32,
    low: i64,
    out: &'a mut [i64],
}

/// Coefficients decoded together.
const TILE: usize = 16;
/// Bits of the lower half of a [`Halves`].
const HALF_BITS: u32 = 48;
const HALF: u64 = (1 << HALF_BITS) - 1;

/// An integer `low + 2^48·high` with `0 <= low < 2^48`.
#[derive(Clone, Copy)]
struct Halves {
    low: u64,
    high: i64,
}

#[inline(always)]
fn split_word(x: u64) -> Halves {
    Halves { low: x & HALF, high: x.cast_signed() >> HALF_BITS }
}

/// The lower 112 bits.
#[expect(clippy::cast_possible_truncation, reason = "digits end below bit 100")]
fn split(x: i128) -> Halves {
    Halves { low: low_word(x.cast_unsigned()) & HALF, high: (x >> HALF_BITS) as i64 }
}

/// `a + b·base - offset` for `0 <= base < 2^47`, `|b| < 2^46` and `|a| < 2^47`: products of 24-bit
/// parts, none of which leaves 64 bits.
#[inline(always)]
fn split_product(a: u64, b: u64, base: u64, offset: Halves) -> Halves {
    const PART_BITS: u32 = 24;
    const PART: i64 = (1 << PART_BITS) - 1;
    let (b, base) = (b.cast_signed(), base.cast_signed());
    let (b0, b1) = (b & PART, b >> PART_BITS);
    let (base0, base1) = (base & PART, base >> PART_BITS);
    let middle = base1 * b0 + base0 * b1;
    let low =
        a.cast_signed() + base0 * b0 + ((middle & PART) << PART_BITS) - offset.low.cast_signed();
    let high = base1 * b1 + (middle >> PART_BITS) + (low >> HALF_BITS) - offset.high;
    Halves { low: low.cast_unsigned() & HALF, high }
}

impl Digits<'_> {
    /// Writes the digits of `value(a, b, base)` for every coefficient `a + b·base` of the phase.
    #[inline(always)]
    fn extract(self, phase: &Phase<'_>, value: impl Fn(u64, u64, u64) -> Halves) {
        const ZERO: &[u64; TILE] = &[0; TILE];
        let (low, high, base) = match *phase {
            Phase::Narrow(x) => (x, &[][..], 0),
            Phase::Wide { low, high, base } => (low, high, base),
        };
        let high = high.as_chunks::<TILE>().0;
        for (tile, a) in low.as_chunks::<TILE>().0.iter().enumerate() {
            let b = high.get(tile).unwrap_or(ZERO);
            let mut lows = [0_u64; TILE];
            let mut highs = [0_u64; TILE];
            for (((l, h), &a), &b) in lows.iter_mut().zip(&mut highs).zip(a).zip(b) {
                let halves = value(a, b, base);
                (*l, *h) = (halves.low, halves.high.cast_unsigned());
            }
            for (j, out) in (0_u32..).zip(self.out.chunks_exact_mut(self.n)) {
                let out = out.as_chunks_mut::<TILE>().0.get_mut(tile);
                let Some(out) = out else { return };
                digit(&lows, &highs, self.bits * j, self.bits, self.low, out);
            }
        }
    }
}

/// The digits of `bits` bits at `shift`, plus `low`.
#[inline(always)]
fn digit(
    lows: &[u64; TILE],
    highs: &[u64; TILE],
    shift: u32,
    bits: u32,
    low: i64,
    out: &mut [i64; TILE],
) {
    let mask = (1_u64 << bits) - 1;
    if shift >= HALF_BITS {
        let shift = shift - HALF_BITS;
        for (y, &h) in out.iter_mut().zip(highs) {
            *y = ((h >> shift) & mask).cast_signed() + low;
        }
    } else if shift + bits <= HALF_BITS {
        for (y, &l) in out.iter_mut().zip(lows) {
            *y = ((l >> shift) & mask).cast_signed() + low;
        }
    } else {
        for ((y, &l), &h) in out.iter_mut().zip(lows).zip(highs) {
            *y = (((l >> shift) | (h << (HALF_BITS - shift))) & mask).cast_signed() + low;
        }
    }
}
