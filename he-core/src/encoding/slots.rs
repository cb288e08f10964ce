//! One sample per slot.

use zeroize::Zeroizing;

use super::{Plaintext, check_length, check_low, check_message, low_word};
use crate::{
    Error, Message, Params, Result, decryption::Phase, params::MIN_SLOT_MODULUS, ring::Ring,
    scratch::written_zeros, simd::vectorize,
};

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

    pub(super) fn params(&self) -> &Params {
        &self.params
    }

    /// Encodes one integer per slot, each reduced modulo t.
    ///
    /// # Errors
    /// [`Error::Length`] unless there are exactly N values.
    pub fn encode(&self, values: &[i64]) -> Result<Plaintext> {
        let mut digits = Zeroizing::new(written_zeros(self.slot_count()));
        self.digits_into(values, &mut digits)?;
        Ok(Plaintext::from_digits(&self.params, &digits, 0))
    }

    /// Writes the centred coefficients, in two's complement.
    pub(super) fn digits_into(&self, values: &[i64], digits: &mut [u64]) -> Result<()> {
        check_length("slot values", self.slot_count(), values.len())?;
        let (reducer, scale) = (self.ring.reducer(), self.ring.scale());
        vectorize(
            #[inline(always)]
            || {
                for (slot, &value) in digits.iter_mut().zip(values) {
                    *slot = reducer.reduce(value);
                }
            },
        );
        self.ring.inverse_unscaled(digits);
        vectorize(
            #[inline(always)]
            || {
                for x in digits {
                    let scaled = reducer.multiply(x.cast_signed(), scale);
                    *x = reducer.centre(scaled).cast_unsigned();
                }
            },
        );
        Ok(())
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
        check_message(&self.params, message)?;
        self.check_low(low)?;
        let mut work = Zeroizing::new(written_zeros(self.slot_count()));
        let mut out = Zeroizing::new(written_zeros(self.slot_count()));
        self.decode_into(&message.phase(), message.correction(), low, &mut work, &mut out);
        Ok(out)
    }

    pub(super) fn check_low(&self, low: i64) -> Result<()> {
        check_low(low, u128::from(self.ring.value()))
    }

    /// As [`super::Encoder::decode_into`].
    pub(super) fn decode_into(
        &self,
        phase: &Phase<'_>,
        correction: u128,
        low: i64,
        work: &mut [u64],
        out: &mut [i64],
    ) {
        self.reduce(phase, correction, work);
        self.ring.forward(work);
        let t = self.ring.value().cast_signed();
        vectorize(
            #[inline(always)]
            || {
                for (y, &x) in out.iter_mut().zip(work.iter()) {
                    // x is in [0, t) and -t <= low <= t: one step down or one step up at most.
                    let x = x.cast_signed();
                    let x = x - (((low + t - 1 - x) >> 63) & t);
                    *y = x + (((x - low) >> 63) & t);
                }
            },
        );
    }

    /// `out = phase·correction mod t`, without branching on it.
    fn reduce(&self, phase: &Phase<'_>, correction: u128, out: &mut [u64]) {
        let reducer = self.ring.reducer();
        match *phase {
            Phase::Narrow(x) => vectorize(
                #[inline(always)]
                || {
                    for (y, &x) in out.iter_mut().zip(x) {
                        *y = reducer.reduce(x.cast_signed());
                    }
                },
            ),
            Phase::Wide { low, high, base } => {
                let base = reducer.factor(base % self.ring.value());
                vectorize(
                    #[inline(always)]
                    || {
                        for ((y, &a), &b) in out.iter_mut().zip(low).zip(high) {
                            let high = reducer.multiply(b.cast_signed(), base);
                            *y = reducer.add(reducer.reduce(a.cast_signed()), high);
                        }
                    },
                );
            }
        }
        if correction != 1 {
            let correction = low_word(correction % u128::from(self.ring.value()));
            let correction = reducer.factor(correction);
            vectorize(
                #[inline(always)]
                || {
                    for x in out {
                        *x = reducer.multiply(x.cast_signed(), correction);
                    }
                },
            );
        }
    }
}
