//! What every operation does to level, noise and correction: one set of rules for ciphertexts and
//! forecasts.

use crate::{
    Error, Params, Result,
    correction::{Balance, centred, multiply_modulo, next_correction},
    error::Tenths,
    noise::Phase,
};

/// Level, noise and correction of one value of degree 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Forecast {
    pub(super) n_moduli: usize,
    pub(super) correction: u128,
    pub(super) phase: Phase,
    /// Whether an image under `X → X^-1` may be part of it.
    pub(super) conjugated: bool,
    /// log2 of half the modulus at this level.
    pub(super) capacity: f64,
}

impl Forecast {
    /// Number of moduli left.
    #[must_use]
    pub fn n_moduli(&self) -> usize {
        self.n_moduli
    }

    /// Bound on the phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Bits between the bound on the phase and half the modulus: what is left for further operations.
    #[must_use]
    pub fn margin(&self) -> f64 {
        self.capacity - self.phase.log2_bound()
    }
}

/// The numbers that the rules need: available before there are transforms or keys.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    ring_degree: usize,
    t: u128,
    moduli: Vec<u64>,
    special: Vec<u64>,
}

impl Rules {
    /// # Errors
    /// - [`Error::Form`] without special moduli.
    /// - [`Error::PlaintextModulus`] unless t is below 2^47 and below the first modulus.
    pub(super) fn new(params: &Params) -> Result<Self> {
        crate::keys::check_special(params)?;
        let (t, first) = (params.plaintext_modulus(), params.moduli().first().copied());
        if t > u128::from(crate::MAX_MODULUS) || t >= u128::from(first.unwrap_or(0)) {
            return Err(Error::PlaintextModulus {
                modulus: t,
                requirement: "leveled computation needs one below the first modulus",
            });
        }
        let (moduli, special) = (params.moduli(), params.special_moduli());
        Ok(Self::from_numbers(params.ring_degree(), t, moduli.to_vec(), special.to_vec()))
    }

    pub(super) fn from_numbers(
        ring_degree: usize,
        t: u128,
        moduli: Vec<u64>,
        special: Vec<u64>,
    ) -> Self {
        Self { ring_degree, t, moduli, special }
    }

    #[expect(clippy::cast_precision_loss, reason = "a noise bound")]
    fn t(&self) -> f64 {
        self.t as f64
    }

    fn capacity(&self, n_moduli: usize) -> f64 {
        self.moduli.iter().take(n_moduli).map(|&q| to_f64(q).log2()).sum::<f64>() - 1.0
    }

    /// A fresh ciphertext of the key holder, or of somebody with the public key.
    pub(super) fn fresh(&self, public: bool) -> Forecast {
        let mut phase = Phase::fresh(self.t());
        if public {
            phase = Phase::public(self.t(), self.ring_degree);
            for &p in self.special.iter().rev() {
                phase = phase.switched(to_f64(p), self.ring_degree, 1);
            }
        }
        let n_moduli = self.moduli.len();
        Forecast {
            n_moduli,
            correction: 1,
            phase: phase.with_message(self.t() / 2.0),
            conjugated: false,
            capacity: self.capacity(n_moduli),
        }
    }

    /// The value with fewer moduli.
    pub(super) fn switched(&self, value: &Forecast, n_moduli: usize) -> Forecast {
        let mut out = *value;
        for &q in self.moduli.iter().take(value.n_moduli).skip(n_moduli).rev() {
            out.phase = out.phase.switched(to_f64(q), self.ring_degree, 1);
            out.correction = next_correction(out.correction, q, self.t);
        }
        out.n_moduli = n_moduli.min(value.n_moduli);
        out.capacity = self.capacity(out.n_moduli);
        out
    }

    /// The level at most `from` at which a result has the most room.
    ///
    /// # Errors
    /// [`Error::NoiseBudget`] when there is none.
    pub(super) fn best_level(
        &self,
        operation: &'static str,
        from: usize,
        result: impl Fn(usize) -> Forecast,
    ) -> Result<(usize, Forecast)> {
        let mut best = (from, result(from));
        for n_moduli in (1..from).rev() {
            let candidate = result(n_moduli);
            if candidate.margin() >= best.1.margin() {
                best = (n_moduli, candidate);
            }
        }
        check(operation, best.1).map(|result| (best.0, result))
    }

    /// Fewest moduli that hold a value.
    pub(super) fn compressed(&self, value: &Forecast) -> Forecast {
        (1..value.n_moduli)
            .map(|n_moduli| self.switched(value, n_moduli))
            .find(|switched| switched.margin() >= 0.0)
            .unwrap_or(*value)
    }

    /// The sum or difference of two values of one level.
    pub(super) fn sum(&self, a: &Forecast, b: &Forecast) -> Forecast {
        let balance = Balance::new(a.correction, b.correction, self.t);
        let (first, second) = (magnitude(balance.first), magnitude(balance.second));
        Forecast {
            correction: balance.correction,
            phase: a.phase.scaled(first).plus(b.phase.scaled(second)),
            conjugated: a.conjugated || b.conjugated,
            ..*a
        }
    }

    /// The product of two values of one level, before relinearisation.
    pub(super) fn product(&self, a: &Forecast, b: &Forecast) -> Forecast {
        let conjugated = a.conjugated || b.conjugated;
        let phase = if conjugated {
            a.phase.conjugate_product(b.phase, self.ring_degree)
        } else {
            a.phase.product(b.phase, self.ring_degree)
        };
        let correction = multiply_modulo(a.correction, b.correction, self.t);
        Forecast { correction, phase, conjugated, ..*a }
    }

    /// `Σ a_i·b_i` at one level, relinearised.
    pub(super) fn inner_product(&self, a: &[Forecast], b: &[Forecast], level: usize) -> Forecast {
        let products = a
            .iter()
            .zip(b)
            .map(|(a, b)| self.product(&self.switched(a, level), &self.switched(b, level)));
        let sum = products.reduce(|sum, product| self.sum(&sum, &product));
        self.key_switched(&sum.unwrap_or_else(|| self.fresh(false)))
    }

    /// After relinearisation or an automorphism.
    pub(super) fn key_switched(&self, value: &Forecast) -> Forecast {
        let digit_len = self.special.len().max(1);
        let moduli = self.moduli.get(..value.n_moduli).unwrap_or_default();
        let digits = moduli.chunks(digit_len).map(|digit| {
            let size: f64 = digit.iter().map(|&q| to_f64(q)).product();
            size * (len_f64(digit.len()) / 12.0).sqrt()
        });
        let largest = digits.fold(0.0, f64::max);
        let special: f64 = self.special.iter().map(|&p| to_f64(p)).product();
        let n_digits = u32::try_from(value.n_moduli.div_ceil(digit_len)).unwrap_or(u32::MAX);
        let phase = value.phase.key_switched(self.ring_degree, n_digits, largest, special);
        Forecast { phase, ..*value }
    }

    /// After a rotation, or a swap of rows.
    pub(super) fn rotated(&self, value: &Forecast, swap: bool) -> Forecast {
        let rotated = self.key_switched(value);
        Forecast { conjugated: value.conjugated || swap, ..rotated }
    }

    /// After a sum over all slots: a rotation and an addition per step.
    ///
    /// # Errors
    /// [`Error::NoiseBudget`] when it does not decrypt.
    pub(super) fn slot_sum(&self, value: &Forecast) -> Result<Forecast> {
        let steps = self.ring_degree.trailing_zeros();
        let sum = (1..=steps).fold(*value, |sum, step| {
            let rotated = self.rotated(&sum, step == steps);
            self.sum(&sum, &rotated)
        });
        check("a sum over all slots", sum)
    }

    pub(super) fn plain_sum(&self, value: &Forecast) -> Forecast {
        Forecast { phase: value.phase.with_message(self.t() / 2.0), ..*value }
    }

    pub(super) fn plain_product(&self, value: &Forecast) -> Forecast {
        let phase = value.phase.plaintext_product(self.t() / 2.0, self.ring_degree);
        Forecast { phase, ..*value }
    }

    /// A constant reduced modulo t, centred.
    pub(super) fn constant(&self, value: i64) -> i64 {
        let t = self.t.cast_signed();
        let residue = i128::from(value).rem_euclid(t).cast_unsigned();
        i64::try_from(centred(residue, self.t)).unwrap_or_default()
    }

    #[expect(clippy::cast_precision_loss, reason = "a noise bound")]
    pub(super) fn constant_product(&self, value: &Forecast, factor: i64) -> Forecast {
        Forecast { phase: value.phase.scaled((factor as f64).abs()), ..*value }
    }
}

/// Refuses what would not decrypt.
pub(super) fn check(operation: &'static str, value: Forecast) -> Result<Forecast> {
    if value.margin() >= 0.0 {
        return Ok(value);
    }
    Err(Error::NoiseBudget {
        operation,
        bound: tenths(value.phase.log2_bound()),
        capacity: tenths(value.capacity),
        n_moduli: value.n_moduli,
    })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "conversion saturates, and a bit count is small and positive"
)]
fn tenths(bits: f64) -> Tenths {
    Tenths((bits * 10.0).ceil() as u32)
}

#[expect(clippy::cast_precision_loss, reason = "a noise bound")]
fn to_f64(q: u64) -> f64 {
    q as f64
}

#[expect(clippy::cast_precision_loss, reason = "a noise bound")]
fn magnitude(factor: i128) -> f64 {
    factor.unsigned_abs() as f64
}

fn len_f64(len: usize) -> f64 {
    u32::try_from(len).map_or(f64::INFINITY, f64::from)
}
