//! Primes, rings and flooding of plans with masked refreshes.
//!
//! Every segment of such a plan has the same ring degree, since a sample keeps its slot from round to
//! round. A stage runs once per plaintext prime, and the product of its primes holds masked values. What
//! a reply keeps of its moduli holds the flood that drowns everything but the plaintext.

use he_core::noise::{MAX_FLOOD_BITS, Phase};
use he_core::{Params, ParamsSpec, security};

use super::chain::smallest_primes;
use super::{MARGIN_BITS, MAX_PRIME_BITS, ring_spec};
use crate::encrypted::error::{Error, Result};
use crate::integer::{MASK_MARGIN_BITS, MAX_CRT_MODULI};
use crate::plan::{ChosenMasked, MaskedDemand, NoiseForecast, RingSpec};

/// Ring degrees of masked plans: two moduli in replies and one above them need 8192.
const DEGREES: [usize; 3] = [8192, 16384, 32768];
/// Most ciphertext moduli.
const MAX_MODULI: usize = 6;
/// Most moduli of a reply: decryption drops all but two, whatever noise that adds.
const MAX_REPLY_MODULI: usize = 2;
/// Smallest ciphertext prime: primes congruent to 1 modulo 65,536 are plenty.
const MIN_PRIME_BITS: u32 = 30;

/// Chooses primes and rings for every stage of a masked plan, one entry per residue: those of one ring
/// degree that are expected to take least time together.
///
/// Cost: some ten thousand noise estimates; milliseconds.
///
/// # Errors
/// [`Error::NoParameters`] when no supported ring holds the masked values of a stage with the noise that
/// hides how they were computed.
pub fn choose_masked(demands: &[MaskedDemand]) -> Result<Vec<Vec<ChosenMasked>>> {
    let mut best: Option<(f64, Vec<Vec<ChosenMasked>>)> = None;
    let mut refused = None;
    for degree in DEGREES {
        let mut total = 0.0;
        let mut stages = Vec::with_capacity(demands.len());
        for demand in demands {
            match cheapest(demand, degree)? {
                Some((cost, chosen)) => {
                    total += cost;
                    stages.push(chosen);
                }
                None => {
                    refused = Some(*demand);
                    break;
                }
            }
        }
        let is_better = best.as_ref().is_none_or(|(least, _)| total < *least);
        if stages.len() == demands.len() && is_better {
            best = Some((total, stages));
        }
    }
    best.map(|(_, stages)| stages).ok_or_else(|| {
        let demand = refused.unwrap_or_default();
        Error::NoParameters {
            value_bits: 128 - demand.product.saturating_sub(1).leading_zeros(),
            l2: demand.max_l2,
            advice: "masks need 42 bits beyond the proven range: use fewer bits or fewer layers",
        }
    })
}

/// Noise of a masked segment at its tightest point, and the bits of flooding that its weights need.
///
/// A negative margin means that an honest server's replies may not decrypt.
#[must_use]
pub fn forecast_masked_noise(
    demand: &MaskedDemand,
    ring: &RingSpec,
    flood_bits: u32,
) -> (NoiseForecast, u32) {
    let moduli: Vec<f64> = ring.moduli.iter().map(|&q| q as f64).collect();
    let walk = Walk {
        demand,
        degree: ring.ring_degree as usize,
        t: ring.plaintext_modulus as f64,
        moduli: &moduli,
        kept: ring.reply_moduli as usize,
    };
    walk.forecast(Some(flood_bits))
}

/// The cheapest primes and moduli of a stage in one ring degree.
fn cheapest(demand: &MaskedDemand, degree: usize) -> Result<Option<(f64, Vec<ChosenMasked>)>> {
    let Some(most) = security::max_log2_modulus(degree) else { return Ok(None) };
    let mut candidates: Vec<(f64, Vec<u64>, Vec<u32>, usize)> = Vec::new();
    for n_primes in 1..=MAX_CRT_MODULI {
        let Some(primes) = smallest_primes(demand.product, 0, degree, n_primes) else { continue };
        let Some(t) = primes.iter().copied().max() else { continue };
        for kept in 1..=MAX_REPLY_MODULI {
            for size in MIN_PRIME_BITS..=MAX_PRIME_BITS {
                for n_moduli in kept..=MAX_MODULI {
                    let bits = vec![size; n_moduli];
                    if f64::from(size) * n_moduli as f64 > f64::from(most) {
                        break;
                    }
                    // Some below the power of two: so that there are primes.
                    let moduli = vec![f64::from(size).exp2() * 0.99; n_moduli];
                    let walk = Walk { demand, degree, t: t as f64, moduli: &moduli, kept };
                    if walk.forecast(None).0.margin_bits() < MARGIN_BITS {
                        continue;
                    }
                    let cost = cost(demand, degree, n_primes, size, n_moduli, kept);
                    candidates.push((cost, primes.clone(), bits, kept));
                    break;
                }
            }
        }
    }
    candidates.sort_by(|a, b| a.0.total_cmp(&b.0));
    for (cost, primes, bits, kept) in candidates {
        if let Some(chosen) = residues(demand, degree, &primes, &bits, kept)? {
            return Ok(Some((cost, chosen)));
        }
    }
    Ok(None)
}

/// The parameters of every residue; nothing if the true primes do not hold the noise.
fn residues(
    demand: &MaskedDemand,
    degree: usize,
    primes: &[u64],
    bits: &[u32],
    kept: usize,
) -> Result<Option<Vec<ChosenMasked>>> {
    let mut found = Vec::with_capacity(primes.len());
    for &t in primes {
        let Ok(spec) = ParamsSpec::with_bits(degree, t.into(), bits) else { return Ok(None) };
        let params = Params::new(spec)?;
        let ring = ring_spec(&params, kept);
        let (_, flood_bits) = forecast_masked_noise(demand, &ring, 0);
        let (noise, _) = forecast_masked_noise(demand, &ring, flood_bits);
        if noise.margin_bits() < 0.0 || flood_bits > MAX_FLOOD_BITS {
            return Ok(None);
        }
        let security_bits = params.security_bits();
        found.push(ChosenMasked { ring, flood_bits, noise, security_bits });
    }
    Ok(Some(found))
}

/// Noise of one residue.
struct Walk<'a> {
    demand: &'a MaskedDemand,
    degree: usize,
    t: f64,
    moduli: &'a [f64],
    kept: usize,
}

impl Walk<'_> {
    /// The tightest point with so many bits of flooding, or with those it needs; and those.
    fn forecast(&self, flood_bits: Option<u32>) -> (NoiseForecast, u32) {
        let fresh = Phase::fresh_with_uniform_message(self.t);
        // The mask that is subtracted is as uniform as the message.
        let deviation = fresh.deviation.hypot(self.t / 12.0_f64.sqrt());
        let linear = Phase { deviation, ..fresh }.linear(self.demand.max_l2, self.t);
        let (mut phase, degree) = match self.demand.square {
            Some(square) => {
                let (a, b) = (f64::from(square.max_abs_a), square.max_abs_b as f64);
                // Coefficients act modulo t.
                let b = b.min(self.t / 2.0);
                (linear.quadratic(self.degree, a, b, self.t).sum(square.pool_terms), 2)
            }
            None => (linear, 1),
        };
        let computed = self.at(phase, self.moduli.len());
        for &q in self.moduli.iter().skip(self.kept).rev() {
            phase = phase.switched(q, self.degree, degree);
        }
        let phase = phase.with_message(self.t / 2.0);
        let needed = phase.flood_bits(self.degree, degree, MASK_MARGIN_BITS);
        let flooded = phase.rerandomized(self.degree, degree, flood_bits.unwrap_or(needed));
        let replied = self.at(flooded, self.kept);
        let tightest =
            if replied.margin_bits() < computed.margin_bits() { replied } else { computed };
        (tightest, needed)
    }

    fn at(&self, phase: Phase, n_moduli: usize) -> NoiseForecast {
        let bits: f64 = self.moduli.iter().take(n_moduli).map(|q| q.log2()).sum();
        NoiseForecast { log2_noise_bound: phase.log2_bound(), log2_capacity: bits - 1.0 }
    }
}

/// Nanoseconds of two cores, about: see the rates of the planner.
fn cost(
    demand: &MaskedDemand,
    degree: usize,
    n_primes: usize,
    size: u32,
    n_moduli: usize,
    kept: usize,
) -> f64 {
    /// A byte on a link of a gigabit per second.
    const BYTE: f64 = 8.0;
    /// Encryption, packing, expansion, and the mask that is subtracted.
    const RECEIVE: f64 = 8.0;
    /// Multiplication of a residue by a weight, per digit of it.
    const MULTIPLY: f64 = 0.006;
    /// Square, switch, rerandomization and packing of a residue.
    const FINISH: f64 = 20.0;
    let n = degree as f64;
    let digits = if size <= 31 { 2.0 } else { 3.0 };
    let polynomials = if demand.square.is_some() { 3.0 } else { 2.0 };
    let (n_in, n_out) = (f64::from(demand.n_inputs), f64::from(demand.n_outputs));
    let (all, few) = (n * n_moduli as f64, n * kept as f64);
    let work = n_in * all * RECEIVE
        + demand.n_products as f64 * 2.0 * all * digits * MULTIPLY
        + n_out * polynomials * all * FINISH;
    let bytes = (n_in * all + n_out * polynomials * few) * f64::from(size) / 8.0;
    let blocks = demand.expected_samples.max(1).div_ceil(degree as u64) as f64;
    blocks * n_primes as f64 * (work + bytes * BYTE)
}
