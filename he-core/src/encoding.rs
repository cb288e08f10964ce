//! Integers to plaintexts and back: one sample per slot, or several per coefficient.

use zeroize::Zeroizing;

use crate::{
    Error, Message, Params, Result,
    block::multiply_modulo,
    encryption::Phase,
    params::MIN_SLOT_MODULUS,
    ring::Ring,
    simd::{Reducer, vectorize},
};

/// Magnitudes below `2^COMBINED_BITS` are reduced modulo every supported prime in one step.
const COMBINED_BITS: u32 = 60;

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

    fn from_coefficients(params: &Params, coefficients: &[i64]) -> Self {
        let mut residues = Zeroizing::new(vec![0; coefficients.len() * params.moduli().len()]);
        for (ring, limb) in params.rings().iter().zip(residues.chunks_exact_mut(coefficients.len()))
        {
            let reducer = ring.reducer();
            vectorize(|| {
                for (x, &c) in limb.iter_mut().zip(coefficients) {
                    *x = reducer.reduce(c);
                }
            });
        }
        Self { params: params.clone(), residues }
    }

    /// `self·2^shift + coefficients`.
    fn shift_and_add(&mut self, shift: usize, coefficients: &[i64]) {
        let limbs = self.residues.chunks_exact_mut(coefficients.len());
        for (ring, limb) in self.params.rings().iter().zip(limbs) {
            let reducer = ring.reducer();
            let factor = reducer.factor(ring.residue_vartime(1 << shift));
            vectorize(|| {
                for (x, &c) in limb.iter_mut().zip(coefficients) {
                    let shifted = reducer.multiply(x.cast_signed(), factor);
                    *x = reducer.add(shifted, reducer.reduce(c));
                }
            });
        }
    }
}

impl core::fmt::Debug for Plaintext {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Plaintext").field("params", &self.params).finish_non_exhaustive()
    }
}

/// Encodes N integers modulo a prime t into N slots: sums and products act slot by slot.
///
/// Slot `i` is evaluation point `i` modulo t in the canonical order. Needs `t ≡ 1 (mod 2N)`.
#[derive(Debug, Clone)]
pub struct SlotEncoder {
    params: Params,
    ring: Ring,
}

impl SlotEncoder {
    /// Builds the encoder.
    ///
    /// # Errors
    /// [`Error::PlaintextModulus`] unless t is a prime congruent to 1 modulo 2N, at least 2^13 (so
    /// that any `i64` is reduced in one step) and at most [`crate::MAX_MODULUS`].
    pub fn new(params: &Params) -> Result<Self> {
        match params.slot_ring() {
            Some(ring) if (MIN_SLOT_MODULUS..=crate::MAX_MODULUS).contains(&ring.value()) => {
                Ok(Self { params: params.clone(), ring: ring.clone() })
            }
            _ => Err(Error::PlaintextModulus {
                modulus: params.plaintext_modulus(),
                requirement: "slots need a prime congruent to 1 modulo 2N between 2^13 and 2^47",
            }),
        }
    }

    /// Number of slots: N.
    #[must_use]
    pub fn slot_count(&self) -> usize {
        self.params.ring_degree()
    }

    /// Encodes one integer per slot, each reduced modulo t.
    ///
    /// # Errors
    /// [`Error::Length`] unless there are exactly N values.
    pub fn encode(&self, values: &[i64]) -> Result<Plaintext> {
        check_length("slot values", self.slot_count(), values.len())?;
        let reducer = self.ring.reducer();
        let mut slots = Zeroizing::new(vec![0_u64; values.len()]);
        vectorize(|| {
            for (slot, &value) in slots.iter_mut().zip(values) {
                *slot = reducer.reduce(value);
            }
        });
        self.ring.inverse(&mut slots);
        let mut centred = Zeroizing::new(vec![0_i64; slots.len()]);
        vectorize(|| {
            for (c, &x) in centred.iter_mut().zip(slots.iter()) {
                *c = reducer.centre(x);
            }
        });
        Ok(Plaintext::from_coefficients(&self.params, &centred))
    }

    /// Decodes to centred integers in `(-t/2, t/2)`.
    ///
    /// # Errors
    /// As [`SlotEncoder::decode_from`].
    pub fn decode(&self, message: &Message) -> Result<Zeroizing<Vec<i64>>> {
        self.decode_from(message, -(self.ring.value().cast_signed() / 2))
    }

    /// Decodes to the integers congruent modulo t in `[low, low + t)`.
    ///
    /// # Errors
    /// - [`Error::PlaintextModulus`] when the message has another t, [`Error::Length`] when it has
    ///   another N.
    /// - [`Error::Value`] unless `|low| <= t`.
    pub fn decode_from(&self, message: &Message, low: i64) -> Result<Zeroizing<Vec<i64>>> {
        let t = self.ring.value();
        check_message(&self.params, message)?;
        check_low(low, u128::from(t))?;
        let mut slots = Zeroizing::new(vec![0_u64; self.slot_count()]);
        reduce_phase(&self.ring, message, &mut slots);
        self.ring.forward(&mut slots);
        let mut out = Zeroizing::new(vec![0_i64; slots.len()]);
        let t = t.cast_signed();
        vectorize(|| {
            for (y, &x) in out.iter_mut().zip(slots.iter()) {
                // x is in [0, t) and -t <= low <= t: one step down or one step up at most.
                let x = x.cast_signed();
                let x = x - (((low + t - 1 - x) >> 63) & t);
                *y = x + (((x - low) >> 63) & t);
            }
        });
        Ok(out)
    }
}

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

    /// Encodes `N·k` integers, each of magnitude below B.
    ///
    /// # Errors
    /// - [`Error::Length`] unless there are exactly `N·k` values.
    /// - [`Error::PlaintextRange`] when a value's magnitude reaches B.
    pub fn encode(&self, values: &[i64]) -> Result<Plaintext> {
        check_length("coefficient values", self.value_count(), values.len())?;
        let max = (1_i64 << self.radix_bits) - 1;
        // Out-of-range values are found without branching on which one it is; one of the two
        // differences of such a value is negative or wraps to a negative number.
        let outside =
            values.iter().fold(0, |bad, &x| bad | max.wrapping_sub(x) | x.wrapping_add(max));
        if outside < 0 {
            return Err(Error::PlaintextRange { what: "coefficient value", min: -max, max });
        }
        // Groups of digits that fit one word, highest first: Horner's rule in B^digits.
        let digits = (COMBINED_BITS / self.radix_bits) as usize;
        let mut groups = (0..self.samples_per_coefficient.div_ceil(digits)).rev();
        let highest = self.combine(values, groups.next().unwrap_or_default() * digits, digits);
        let mut plaintext = Plaintext::from_coefficients(&self.params, &highest);
        for group in groups {
            let shift = self.radix_bits as usize * digits;
            plaintext.shift_and_add(shift, &self.combine(values, group * digits, digits));
        }
        Ok(plaintext)
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

    /// `Σ_j B^j · value[(first + j)·N + i]` for up to `digits` digits.
    fn combine(&self, values: &[i64], first: usize, digits: usize) -> Zeroizing<Vec<i64>> {
        let n = self.params.ring_degree();
        let mut sums = Zeroizing::new(vec![0_i64; n]);
        for (j, digit) in values.chunks_exact(n).skip(first).take(digits).enumerate() {
            let shift = self.radix_bits as usize * j;
            vectorize(|| {
                for (sum, &x) in sums.iter_mut().zip(digit) {
                    *sum += x << shift;
                }
            });
        }
        sums
    }

    /// Decodes to `N·k` integers, each in `[low, low + B)`.
    ///
    /// # Errors
    /// - [`Error::PlaintextModulus`] when the message has another plaintext modulus,
    ///   [`Error::Length`] when it has another N.
    /// - [`Error::Value`] unless `|low| <= B`.
    pub fn decode_from(&self, message: &Message, low: i64) -> Result<Zeroizing<Vec<i64>>> {
        check_message(&self.params, message)?;
        check_low(low, 1_u128 << self.radix_bits)?;
        let n = self.params.ring_degree();
        let bits = self.radix_bits;
        // low·(1 + B + …), so that every digit counts from the lower end of its window.
        let k = u32::try_from(self.samples_per_coefficient).unwrap_or_default();
        let offset = (0..k).map(|j| i128::from(low) << (bits * j)).sum::<i128>();
        let words = Words::new(message, offset, bits * k);
        let mut out = Zeroizing::new(vec![0_i64; n * self.samples_per_coefficient]);
        for (j, digits) in (0..).zip(out.chunks_exact_mut(n)) {
            words.extract(bits * j, bits, low, digits);
        }
        Ok(out)
    }
}

/// The low 64 or 128 bits of every `phase·correction - offset`, in two's complement: all that the
/// digits of a power-of-two plaintext modulus depend on.
struct Words {
    low: Zeroizing<Vec<u64>>,
    /// Empty when 64 bits are enough.
    high: Zeroizing<Vec<u64>>,
}

impl Words {
    fn new(message: &Message, offset: i128, bits: u32) -> Self {
        let mut low = Zeroizing::new(vec![0_u64; message.phase.len()]);
        let mut high = Zeroizing::new(Vec::new());
        if bits <= 64 {
            let (factor, offset) = (low_word(message.correction), low_word(offset.cast_unsigned()));
            let finish = |x: u64| x.wrapping_mul(factor).wrapping_sub(offset);
            match &message.phase {
                Phase::Narrow(x) => vectorize(|| {
                    for (y, &x) in low.iter_mut().zip(x.iter()) {
                        *y = finish(x.cast_unsigned());
                    }
                }),
                Phase::Wide { low: a, high: b, base } => vectorize(|| {
                    for ((y, &a), &b) in low.iter_mut().zip(a.iter()).zip(b.iter()) {
                        *y = finish(a.wrapping_add(b.cast_unsigned().wrapping_mul(*base)));
                    }
                }),
            }
        } else {
            high = Zeroizing::new(vec![0_u64; low.len()]);
            let correction = message.correction.cast_signed();
            for (i, (l, h)) in low.iter_mut().zip(high.iter_mut()).enumerate() {
                let x = message.phase.coefficient(i).wrapping_mul(correction).wrapping_sub(offset);
                (*l, *h) = (low_word(x.cast_unsigned()), low_word((x >> 64).cast_unsigned()));
            }
        }
        Self { low, high }
    }

    /// Writes the digit of `bits` bits at `shift`, plus `low`.
    fn extract(&self, shift: u32, bits: u32, low: i64, out: &mut [i64]) {
        let mask = (1_u64 << bits) - 1;
        let digit = |x: u64| (x & mask).cast_signed() + low;
        if shift >= 64 {
            let shift = shift - 64;
            vectorize(|| {
                for (y, &h) in out.iter_mut().zip(self.high.iter()) {
                    *y = digit(h >> shift);
                }
            });
        } else if shift + bits <= 64 {
            vectorize(|| {
                for (y, &l) in out.iter_mut().zip(self.low.iter()) {
                    *y = digit(l >> shift);
                }
            });
        } else {
            vectorize(|| {
                for ((y, &l), &h) in out.iter_mut().zip(self.low.iter()).zip(self.high.iter()) {
                    *y = digit(l >> shift | h << (64 - shift));
                }
            });
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low word is wanted")]
const fn low_word(x: u128) -> u64 {
    x as u64
}

/// `out = phase·correction mod t`, without branching on it.
fn reduce_phase(ring: &Ring, message: &Message, out: &mut [u64]) {
    let reducer = ring.reducer();
    match &message.phase {
        Phase::Narrow(x) => vectorize(|| {
            for (y, &x) in out.iter_mut().zip(x.iter()) {
                *y = reducer.reduce(x);
            }
        }),
        Phase::Wide { low, high, base } => {
            let base = reducer.factor(base % ring.value());
            vectorize(|| {
                for ((y, &a), &b) in out.iter_mut().zip(low.iter()).zip(high.iter()) {
                    *y = reducer.add(reducer.reduce(a.cast_signed()), reducer.multiply(b, base));
                }
            });
        }
    }
    if message.correction != 1 {
        let correction = low_word(message.correction % u128::from(ring.value()));
        scale(reducer, correction, out);
    }
}

/// `x = x·factor` for every residue.
fn scale(reducer: Reducer, factor: u64, residues: &mut [u64]) {
    let factor = reducer.factor(factor);
    vectorize(|| {
        for x in residues {
            *x = reducer.multiply(x.cast_signed(), factor);
        }
    });
}

fn check_message(params: &Params, message: &Message) -> Result<()> {
    if message.plaintext_modulus != params.plaintext_modulus() {
        return Err(Error::PlaintextModulus {
            modulus: message.plaintext_modulus,
            requirement: "the message must have the encoder's plaintext modulus",
        });
    }
    check_length("coefficients of the message", params.ring_degree(), message.phase.len())
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

/// The correction a message must be multiplied by after dropping `modulus`.
pub(crate) fn next_correction(correction: u128, modulus: u64, t: u128) -> u128 {
    multiply_modulo(correction, u128::from(modulus), t)
}
