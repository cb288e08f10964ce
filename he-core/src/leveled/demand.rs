//! Parameters from what a circuit demands.

use super::rules::{Forecast, Rules};
use crate::{Error, Params, ParamsSpec, Result, ring, security};

/// What a circuit demands of parameters.
///
/// # Example
///
/// ```
/// use he_core::leveled::Demand;
///
/// # fn main() -> Result<(), he_core::Error> {
/// // Two products in a row, each a sum of up to 100 products, on integers of 17 bits.
/// let params = Demand { log2_plaintext: 17, depth: 2, width: 100 }.parameters()?;
/// assert_eq!(params.security_bits(), 128);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// The plaintext modulus is the smallest prime with slots of at least `2^log2_plaintext`.
    pub log2_plaintext: u32,
    /// Products of ciphertexts one after the other.
    pub depth: u32,
    /// Terms of each sum of products; for sums over slots, their number.
    pub width: u32,
}

/// Bits of the special modulus.
const SPECIAL_BITS: u32 = 47;

/// Room kept for additions and rotations that the demand does not name, in bits.
const RESERVE: f64 = 4.0;

impl Demand {
    /// Finds the parameters with the smallest ring, then the fewest and smallest moduli, at 128 bits
    /// of security; the special modulus counts.
    ///
    /// Primes congruent to 1 modulo t are taken where there are enough of a size that fits, even if
    /// smaller ones would do: switching moduli then leaves plaintexts alone, and sums of values with
    /// different histories cost no noise.
    ///
    /// # Errors
    /// [`Error::NoParameters`] when no supported ring is large enough.
    pub fn parameters(&self) -> Result<Params> {
        for log2_degree in 11..=15 {
            let degree = 1_usize << log2_degree;
            let Some(max) = security::max_log2_modulus(degree) else { continue };
            let at_least = 1_u64.checked_shl(self.log2_plaintext).unwrap_or(u64::MAX);
            let Ok(t) = ParamsSpec::smallest_slot_modulus(degree, at_least) else { continue };
            for (bits, count) in self.sizes(degree, t, max) {
                if let Some(params) = build(degree, t, bits, count, max) {
                    return Ok(params);
                }
            }
        }
        Err(Error::NoParameters {
            demand: format!(
                "depth {}, width {} and {} bits",
                self.depth, self.width, self.log2_plaintext
            ),
            reason: "the largest ring does not hold enough moduli at 128 bits of security",
        })
    }

    /// Sizes and numbers of moduli that suffice, fewest first.
    fn sizes(&self, degree: usize, t: u64, max: u32) -> impl Iterator<Item = (u32, usize)> {
        let demand = *self;
        let bits_of_t = u64::BITS - t.leading_zeros();
        let room = max.saturating_sub(SPECIAL_BITS);
        (1..=15_u32).flat_map(move |count| {
            // The first modulus holds t and the rounding of a switch.
            (bits_of_t + 1..=SPECIAL_BITS)
                .find(move |bits| bits * count <= room && demand.fits(degree, t, *bits, count))
                .map(|bits| (bits, count as usize))
        })
    }

    /// Whether a chain of `depth` sums of products decrypts with moduli of this size.
    fn fits(&self, degree: usize, t: u64, bits: u32, count: u32) -> bool {
        let moduli = vec![(1_u64 << bits) - 1; count as usize];
        let special = vec![(1_u64 << SPECIAL_BITS) - 1];
        let rules = Rules::from_numbers(degree, t.into(), moduli, special);
        let mut value = rules.fresh(true);
        for _ in 0..self.depth {
            let Ok((_, product)) = rules.best_level("a product", value.n_moduli(), |level| {
                let at_level = rules.switched(&value, level);
                let product = rules.product(&at_level, &at_level);
                let sum = product.phase.scaled(f64::from(self.width));
                rules.key_switched(&Forecast { phase: sum, ..product })
            }) else {
                return false;
            };
            value = product;
        }
        value.margin() >= RESERVE
    }
}

/// Parameters of `count` moduli of at least `bits` bits: the smallest size with enough primes congruent
/// to 1 modulo t, or exactly `bits` when no size has.
fn build(degree: usize, t: u64, bits: u32, count: usize, max: u32) -> Option<Params> {
    let room = (max.saturating_sub(SPECIAL_BITS) as usize) / count;
    let sizes = bits..=SPECIAL_BITS.min(u32::try_from(room).unwrap_or(u32::MAX));
    let moduli = sizes.into_iter().find_map(|bits| aligned(degree, t, bits, count));
    let spec = match moduli {
        Some(moduli) => ParamsSpec { ring_degree: degree, plaintext_modulus: t.into(), moduli },
        None => ParamsSpec::with_bits(degree, t.into(), &vec![bits; count]).ok()?,
    };
    let special = spec.further_primes(&[SPECIAL_BITS]).ok()?;
    Params::with_special_moduli(spec, special).ok()
}

/// The largest primes congruent to 1 modulo `2N·t`.
fn aligned(degree: usize, t: u64, bits: u32, count: usize) -> Option<Vec<u64>> {
    let step = t.checked_mul(2 * degree as u64).filter(|step| step >> 46 == 0)?;
    let mut below = (1_u64 << bits).min(crate::MAX_MODULUS + 1);
    let mut moduli = Vec::with_capacity(count);
    for _ in 0..count {
        below = ring::largest_prime_congruent(degree, step, bits, below)?;
        moduli.push(below);
    }
    Some(moduli)
}
