//! Integers to plaintexts and back: one sample per slot, or several per coefficient.

use zeroize::Zeroizing;

use crate::{Error, Message, Params, Result, decryption::Phase, ring::Ring, simd::vectorize};

mod coefficients;
mod rows;
mod slots;

pub use coefficients::CoefficientEncoder;
pub use rows::RowEncoder;
pub use slots::SlotEncoder;

/// An encoded polynomial: residues of its centred coefficients, zeroized on drop.
pub struct Plaintext {
    params: Params,
    /// `[limb][N]`, coefficient form.
    residues: Zeroizing<Vec<u64>>,
}

impl Plaintext {
    /// The parameters it belongs to.
    #[must_use]
    pub fn params(&self) -> &Params {
        &self.params
    }

    pub(crate) fn limb(&self, limb: usize) -> &[u64] {
        let n = self.params.ring_degree();
        self.residues.get(limb * n..(limb + 1) * n).unwrap_or_default()
    }

    /// Reduces centred coefficients modulo every prime.
    fn from_digits(params: &Params, digits: &[u64], shift: usize) -> Self {
        let n = params.ring_degree();
        let mut residues = Zeroizing::new(vec![0; n * params.moduli().len()]);
        let no_errors = Errors { values: &vec![0; n], factor: 0 };
        for (ring, limb) in params.rings().iter().zip(residues.chunks_exact_mut(n)) {
            write_residues(ring, digits, shift, &no_errors, limb);
        }
        Self { params: params.clone(), residues }
    }
}

impl core::fmt::Debug for Plaintext {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Plaintext").field("params", &self.params).finish_non_exhaustive()
    }
}

/// One of the two encoders, for code that works with either.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "few, long-lived and never in collections")]
pub enum Encoder {
    /// One sample per slot.
    Slots(SlotEncoder),
    /// One or more samples per coefficient.
    Coefficients(CoefficientEncoder),
}

impl Encoder {
    /// Values per plaintext: N, or N times the samples per coefficient.
    #[must_use]
    pub fn value_count(&self) -> usize {
        match self {
            Self::Slots(encoder) => encoder.slot_count(),
            Self::Coefficients(encoder) => encoder.value_count(),
        }
    }

    /// Encodes [`Encoder::value_count`] integers.
    ///
    /// # Errors
    /// As [`SlotEncoder::encode`] or [`CoefficientEncoder::encode`].
    pub fn encode(&self, values: &[i64]) -> Result<Plaintext> {
        match self {
            Self::Slots(encoder) => encoder.encode(values),
            Self::Coefficients(encoder) => encoder.encode(values),
        }
    }

    /// Decodes to integers in `[low, low + t)`, or `[low, low + B)` for several per coefficient.
    ///
    /// # Errors
    /// As [`SlotEncoder::decode_from`] or [`CoefficientEncoder::decode_from`].
    pub fn decode_from(&self, message: &Message, low: i64) -> Result<Zeroizing<Vec<i64>>> {
        match self {
            Self::Slots(encoder) => encoder.decode_from(message, low),
            Self::Coefficients(encoder) => encoder.decode_from(message, low),
        }
    }

    pub(crate) fn params(&self) -> &Params {
        match self {
            Self::Slots(encoder) => encoder.params(),
            Self::Coefficients(encoder) => encoder.params(),
        }
    }

    /// Words that [`Encoder::digits_into`] writes.
    pub(crate) fn digits_len(&self) -> usize {
        match self {
            Self::Slots(encoder) => encoder.slot_count(),
            Self::Coefficients(encoder) => encoder.digits_len(),
        }
    }

    /// Writes the polynomial `Σ_g 2^(shift·g)·digits[g]` of centred coefficients, each `digits[g]` N
    /// words in two's complement, below 2^60 in magnitude; returns `shift`.
    pub(crate) fn digits_into(&self, values: &[i64], digits: &mut [u64]) -> Result<usize> {
        match self {
            Self::Slots(encoder) => encoder.digits_into(values, digits).map(|()| 0),
            Self::Coefficients(encoder) => encoder.digits_into(values, digits),
        }
    }

    /// Checks what decoding from a window needs.
    pub(crate) fn check_low(&self, low: i64) -> Result<()> {
        match self {
            Self::Slots(encoder) => encoder.check_low(low),
            Self::Coefficients(encoder) => encoder.check_low(low),
        }
    }

    /// Decodes a phase of this encoder's parameters; `work` is N words of scratch.
    pub(crate) fn decode_into(
        &self,
        phase: &Phase<'_>,
        correction: u128,
        low: i64,
        work: &mut [u64],
        out: &mut [i64],
    ) {
        match self {
            Self::Slots(encoder) => encoder.decode_into(phase, correction, low, work, out),
            Self::Coefficients(encoder) => encoder.decode_into(phase, correction, low, out),
        }
    }
}

/// Errors to add to a polynomial: `factor·values`, with `factor = t mod q`.
pub(crate) struct Errors<'a> {
    pub(crate) values: &'a [i8],
    pub(crate) factor: i64,
}

/// `out = Σ_g 2^(shift·g)·digits[g] + factor·errors mod q`, without branching on any of them.
///
/// Digits are below 2^60 and `factor·errors` below 22·q, or below 2^52: every supported prime reduces
/// their sum in one step.
pub(crate) fn write_residues(
    ring: &Ring,
    digits: &[u64],
    shift: usize,
    errors: &Errors<'_>,
    out: &mut [u64],
) {
    let reducer = ring.reducer();
    let mut groups = digits.chunks_exact(out.len()).rev();
    let lowest = groups.next_back().unwrap_or_default();
    let Errors { values: errors, factor } = *errors;
    let Some(highest) = groups.next() else {
        vectorize(
            #[inline(always)]
            || {
                for ((x, &digit), &e) in out.iter_mut().zip(lowest).zip(errors) {
                    *x = reducer.reduce(digit.cast_signed() + factor * i64::from(e));
                }
            },
        );
        return;
    };
    // Horner's rule, highest group first.
    let step = reducer.factor(ring.residue_vartime(1 << shift));
    vectorize(
        #[inline(always)]
        || {
            for (x, &digit) in out.iter_mut().zip(highest) {
                *x = reducer.reduce(digit.cast_signed());
            }
            for group in groups {
                for (x, &digit) in out.iter_mut().zip(group) {
                    let shifted = reducer.multiply(x.cast_signed(), step);
                    *x = reducer.add(shifted, reducer.reduce(digit.cast_signed()));
                }
            }
            for ((x, &digit), &e) in out.iter_mut().zip(lowest).zip(errors) {
                let shifted = reducer.multiply(x.cast_signed(), step);
                let rest = reducer.reduce(digit.cast_signed() + factor * i64::from(e));
                *x = reducer.add(shifted, rest);
            }
        },
    );
}

fn check_message(params: &Params, message: &Message) -> Result<()> {
    if message.plaintext_modulus() != params.plaintext_modulus() {
        return Err(Error::PlaintextModulus {
            modulus: message.plaintext_modulus(),
            requirement: "the message must have the encoder's plaintext modulus",
        });
    }
    check_length("coefficients of the message", params.ring_degree(), message.phase().len())
}

fn check_low(low: i64, modulus: u128) -> Result<()> {
    if u128::from(low.unsigned_abs()) <= modulus {
        return Ok(());
    }
    let bound = i128::try_from(modulus).unwrap_or(i128::MAX);
    Err(Error::Value { what: "window start", value: low.into(), min: -bound, max: bound })
}

fn check_length(what: &'static str, expected: usize, actual: usize) -> Result<()> {
    if expected == actual { Ok(()) } else { Err(Error::Length { what, expected, actual }) }
}

#[expect(clippy::cast_possible_truncation, reason = "the low word is wanted")]
const fn low_word(x: u128) -> u64 {
    x as u64
}
