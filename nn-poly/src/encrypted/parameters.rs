//! Ring, moduli and packing of a segment, chosen from its ranges and its noise.
//!
//! Every candidate is a 128-bit secure ring in which the noise bound of `docs/noise.md` leaves a
//! margin; among them the one that moves the fewest bytes for the expected number of samples wins
//! (bytes and processor time grow alike), smaller blocks first when equal.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "noise estimates and bit counts: magnitudes below 2^120, far inside f64"
)]

mod chain;
mod masked;

use he_core::{Params, ParamsSpec, noise::Phase, security};

pub(crate) use chain::key_switch_transforms;
pub use chain::{choose_chain, forecast_chain_noise};
pub use masked::{choose_masked, forecast_masked_noise};

use super::error::{Error, Result};
use crate::plan::{
    ChosenParameters, Evidence, NoiseForecast, Packing, PooledSquare, RingSpec, SegmentDemand,
    Window,
};

/// Bits kept free above the noise bound.
const MARGIN_BITS: f64 = 0.25;
/// Bits of the largest ciphertext prime (below `he_core::MAX_MODULUS`).
const MAX_PRIME_BITS: u32 = 46;
/// Bits of the smallest ciphertext prime: below, primes congruent to 1 modulo 2N run out.
const MIN_PRIME_BITS: u32 = 20;
/// Ring degrees of segments without a product.
const LINEAR_DEGREES: [usize; 3] = [2048, 4096, 8192];
/// Ring degrees of segments with a square.
const SQUARE_DEGREES: [usize; 3] = [4096, 8192, 16384];
/// Most parameters of one segment that are compared by what they cost.
pub const MAX_CANDIDATES: usize = 4;
/// Slots of a block that canaries and random points take, at least.
const RESERVED_SLOTS: u64 = 18;

/// Chooses parameters for one segment.
///
/// Cost: some thousand noise estimates; a few milliseconds.
///
/// # Errors
/// [`Error::NoParameters`] when no supported ring holds the values with their noise.
pub fn choose(demand: &SegmentDemand) -> Result<ChosenParameters> {
    let best = all(demand).min_by(cost);
    finish(best.ok_or_else(|| none(demand))?)
}

/// The parameters among which a segment's cost may be decided: no other ones move fewer bytes *and*
/// compute on fewer residues *and* take less memory per block. At most [`MAX_CANDIDATES`], the one
/// that [`choose`] takes first.
///
/// Cost: as [`choose`], and about a millisecond for each.
///
/// # Errors
/// As [`choose`].
pub fn candidates(demand: &SegmentDemand) -> Result<Vec<ChosenParameters>> {
    let mut front = front(all(demand).collect());
    if front.is_empty() {
        return Err(none(demand));
    }
    if front.len() > MAX_CANDIDATES {
        // The best of each kind, then those that are good at all.
        let least = |figure: fn(&Candidate) -> u128| {
            front.iter().enumerate().min_by_key(|(_, c)| figure(c)).map_or(0, |(i, _)| i)
        };
        let best = [least(|c| c.bytes), least(|c| c.work), least(Candidate::block_residues)];
        let mut order: Vec<usize> = (0..front.len()).collect();
        order.sort_by_key(|i| {
            let product = front.get(*i).map(|c| c.bytes.saturating_mul(c.work));
            (!best.contains(i), product)
        });
        order.truncate(MAX_CANDIDATES);
        let mut position = 0;
        front.retain(|_| {
            position += 1;
            order.contains(&(position - 1))
        });
    }
    front.into_iter().map(finish).collect()
}

/// The candidates that no other one beats in every respect, fewest bytes first.
fn front(mut all: Vec<Candidate>) -> Vec<Candidate> {
    all.sort_by(cost);
    let mut front: Vec<Candidate> = Vec::new();
    for candidate in all {
        // Those before it move no more bytes.
        let is_beaten = front.iter().any(|other| {
            other.work <= candidate.work && other.block_residues() <= candidate.block_residues()
        });
        if !is_beaten {
            front.push(candidate);
        }
    }
    front
}

/// Every candidate.
fn all(demand: &SegmentDemand) -> Box<dyn Iterator<Item = Candidate> + '_> {
    let low = demand.low.min(0);
    let width = width(demand);
    match demand.activation {
        Some(square) => Box::new(
            SQUARE_DEGREES.iter().filter_map(move |&n| slots(demand, square, n, low, width)),
        ),
        None => Box::new(linear_candidates(demand, low, width)),
    }
}

/// Numbers between the ends of the demanded range, zero included.
fn width(demand: &SegmentDemand) -> u64 {
    let (low, high) = (demand.low.min(0), demand.high.max(0));
    u64::try_from(i128::from(high) - i128::from(low) + 1).unwrap_or(u64::MAX)
}

fn none(demand: &SegmentDemand) -> Error {
    Error::NoParameters {
        value_bits: u64::BITS - width(demand).leading_zeros(),
        l2: demand.max_l2,
        advice: match (demand.activation, demand.evidence) {
            (Some(_), Evidence::Proven) => {
                "use fewer bits, calibrated ranges, or the activation at the client"
            }
            (Some(_), Evidence::Calibrated) => "use fewer bits or the activation at the client",
            (None, _) => "use fewer bits or split the layer",
        },
    }
}

/// One way to run a segment.
struct Candidate {
    spec: ParamsSpec,
    reply_moduli: usize,
    packing: Packing,
    window: Window,
    noise: NoiseForecast,
    /// Bytes of a whole batch, both directions.
    bytes: u128,
    /// Residues of one polynomial in all blocks of a batch, weighted by the digits the kernels cut
    /// them into: what computing times follow.
    work: u128,
}

impl Candidate {
    /// Residues of one polynomial: what the memory of a block follows.
    fn block_residues(&self) -> u128 {
        (self.spec.ring_degree * self.spec.moduli.len()) as u128
    }
}

/// Blocks × residues of a polynomial × digits of a residue.
fn work(blocks: u64, degree: usize, moduli: impl IntoIterator<Item = u32>) -> u128 {
    let digits: u128 = moduli.into_iter().map(|bits| if bits <= 31 { 2 } else { 3 }).sum();
    u128::from(blocks) * degree as u128 * digits
}

fn cost(a: &Candidate, b: &Candidate) -> core::cmp::Ordering {
    (a.bytes, a.spec.ring_degree).cmp(&(b.bytes, b.spec.ring_degree))
}

fn finish(candidate: Candidate) -> Result<ChosenParameters> {
    let Candidate { spec, reply_moduli, packing, window, noise, .. } = candidate;
    let params = Params::new(spec)?;
    let ring = ring_spec(&params, reply_moduli);
    let security_bits = params.security_bits();
    Ok(ChosenParameters { ring, packing, window, noise, security_bits })
}

/// How plans write down a ring whose replies have so many moduli.
fn ring_spec(params: &Params, reply_moduli: usize) -> RingSpec {
    RingSpec {
        ring_degree: params.ring_degree() as u32,
        moduli: params.moduli().to_vec(),
        plaintext_modulus: params.plaintext_modulus(),
        reply_moduli: reply_moduli as u32,
        special_modulus: params.special_moduli().first().copied(),
        params_digest: params.digest(),
    }
}

/// Linear segments: `k` samples per coefficient in a power-of-two radix.
fn linear_candidates(
    demand: &SegmentDemand,
    low: i64,
    width: u64,
) -> impl Iterator<Item = Candidate> {
    let widest = width.max(demand.max_abs_input + 1);
    let radix_bits = u64::BITS - (widest - 1).leading_zeros();
    let most = if demand.evidence == Evidence::Proven { 90 / radix_bits.max(1) } else { 1 };
    LINEAR_DEGREES.into_iter().flat_map(move |degree| {
        (1..=most.max(1))
            .filter_map(move |k| coefficients(demand, degree, low, radix_bits.max(1), k))
    })
}

fn coefficients(
    demand: &SegmentDemand,
    degree: usize,
    low: i64,
    radix_bits: u32,
    k: u32,
) -> Option<Candidate> {
    if radix_bits > 46 {
        return None;
    }
    let phase = linear_phase(demand, (f64::from(radix_bits) * f64::from(k)).exp2());
    let needed = phase.log2_bound() + 1.0 + MARGIN_BITS;
    let moduli = smallest_moduli(degree, needed, 1_u128 << (radix_bits * k))?;
    let log2_capacity = log2_product(&moduli) - 1.0;
    let values = degree as u64 * u64::from(k);
    let blocks = demand.expected_samples.max(1).div_ceil(values);
    let bits: u128 = moduli.iter().map(|&q| u128::from(u64::BITS - q.leading_zeros())).sum();
    let polynomials = u128::from(demand.n_inputs) + 2 * u128::from(demand.n_outputs);
    let n_moduli = moduli.len();
    let work = work(blocks, degree, moduli.iter().map(|&q| u64::BITS - q.leading_zeros()));
    Some(Candidate {
        spec: ParamsSpec { ring_degree: degree, plaintext_modulus: 1 << (radix_bits * k), moduli },
        reply_moduli: n_moduli,
        packing: Packing::Coefficients { radix_bits, samples_per_coefficient: k },
        window: Window { low, modulus: 1 << radix_bits },
        noise: NoiseForecast { log2_noise_bound: phase.log2_bound(), log2_capacity },
        bytes: u128::from(blocks) * polynomials * bits * degree as u128 / 8,
        work,
    })
}

/// The smallest one or two primes whose product exceeds `2^needed` at 128-bit security.
fn smallest_moduli(degree: usize, needed: f64, t: u128) -> Option<Vec<u64>> {
    let max = f64::from(security::max_log2_modulus(degree)?);
    let needed = needed.max(f64::from(MIN_PRIME_BITS) - 1.0);
    for n_moduli in 1..=2 {
        // The largest prime of b bits lies just below 2^b.
        let total = (needed + 0.001).ceil();
        let each = (total as u32).div_ceil(n_moduli);
        if each > MAX_PRIME_BITS || total > max {
            continue;
        }
        let bits: Vec<u32> = if n_moduli == 1 {
            vec![each]
        } else {
            vec![each, (total as u32 - each).max(MIN_PRIME_BITS)]
        };
        for extra in 0..=1 {
            let wanted: Vec<u32> = bits.iter().map(|b| b + extra).collect();
            let Ok(spec) = ParamsSpec::with_bits(degree, t, &wanted) else { continue };
            let log2: f64 = spec.moduli.iter().map(|&q| (q as f64).log2()).sum();
            if log2 >= needed && log2 <= max {
                return Some(spec.moduli);
            }
        }
    }
    None
}

/// Segments with a square: slots, a kept part and a dropped part of the modulus.
fn slots(
    demand: &SegmentDemand,
    square: PooledSquare,
    degree: usize,
    low: i64,
    width: u64,
) -> Option<Candidate> {
    let t = ParamsSpec::smallest_slot_modulus(degree, width).ok()?;
    let max = f64::from(security::max_log2_modulus(degree)?);
    let phase = square_phase(demand, square, degree, t as f64);
    let needed = phase.log2_bound() + 1.0 + MARGIN_BITS;
    let layouts = [(1_u32, 1_u32), (1, 2), (2, 1), (2, 2)];
    let mut shapes = Vec::new();
    for (n_kept, n_dropped) in layouts {
        for kept in MIN_PRIME_BITS.max(t.ilog2())..=MAX_PRIME_BITS {
            let kept_bits = f64::from(kept * n_kept);
            let dropped = ((needed - kept_bits) / f64::from(n_dropped)).ceil().max(20.0) as u32;
            if dropped > MAX_PRIME_BITS || f64::from(kept * n_kept + dropped * n_dropped) > max {
                continue;
            }
            let switched = phase.switched(f64::from(dropped * n_dropped).exp2() * 0.99, degree, 2);
            if switched.log2_bound() + 1.0 + MARGIN_BITS > kept_bits - 0.01 {
                continue;
            }
            let bits: Vec<u32> = core::iter::repeat_n(kept, n_kept as usize)
                .chain(core::iter::repeat_n(dropped, n_dropped as usize))
                .collect();
            shapes.push((slot_bytes(demand, degree, &bits, n_kept), bits, n_kept));
        }
    }
    // Primes are searched (the slow part) from the cheapest shape on, until one works.
    shapes.sort_by_key(|&(bytes, ..)| bytes);
    shapes.iter().find_map(|(bytes, bits, n_kept)| {
        let work = work(slot_blocks(demand, degree), degree, bits.iter().copied());
        slot_candidate(degree, t, low, (bits, *n_kept), (*bytes, work), phase)
    })
}

/// Bytes of a whole batch with primes of these bits, the first `n_kept` of which a reply carries.
fn slot_bytes(demand: &SegmentDemand, degree: usize, bits: &[u32], n_kept: u32) -> u128 {
    let width = |bits: &[u32]| u128::from(bits.iter().sum::<u32>());
    let kept = bits.get(..n_kept as usize).unwrap_or_default();
    let blocks = slot_blocks(demand, degree);
    let per_slot =
        u128::from(demand.n_inputs) * width(bits) + 3 * u128::from(demand.n_outputs) * width(kept);
    u128::from(blocks) * per_slot * degree as u128 / 8
}

/// Blocks of a batch.
fn slot_blocks(demand: &SegmentDemand, degree: usize) -> u64 {
    let capacity = (degree as u64).saturating_sub(RESERVED_SLOTS).max(1);
    demand.expected_samples.max(1).div_ceil(capacity)
}

/// The candidate with primes of the given bits, if there are such primes and the noise fits.
fn slot_candidate(
    degree: usize,
    t: u64,
    low: i64,
    (bits, n_kept): (&[u32], u32),
    (bytes, work): (u128, u128),
    phase: Phase,
) -> Option<Candidate> {
    let spec = ParamsSpec::with_bits(degree, u128::from(t), bits).ok()?;
    let noise = slot_noise(phase, degree, &spec.moduli, n_kept as usize);
    (noise.margin_bits() >= 0.0).then_some(Candidate {
        reply_moduli: n_kept as usize,
        packing: Packing::Slots,
        window: Window { low, modulus: t },
        noise,
        bytes,
        work,
        spec,
    })
}

/// The noise of a segment with the given ring and packing, at its tightest point.
///
/// A negative margin means that an honest server's replies may not decrypt.
#[must_use]
pub fn forecast_noise(demand: &SegmentDemand, ring: &RingSpec, packing: Packing) -> NoiseForecast {
    let t = ring.plaintext_modulus as f64;
    match (packing, demand.activation) {
        (Packing::Slots, Some(square)) => {
            let degree = ring.ring_degree as usize;
            let phase = square_phase(demand, square, degree, t);
            slot_noise(phase, degree, &ring.moduli, ring.reply_moduli as usize)
        }
        (Packing::Slots, None) => {
            let phase = Phase::fresh_with_uniform_message(t).linear(demand.max_l2, t);
            NoiseForecast {
                log2_noise_bound: phase.log2_bound(),
                log2_capacity: log2_product(&ring.moduli) - 1.0,
            }
        }
        (Packing::Coefficients { .. }, _) => NoiseForecast {
            log2_noise_bound: linear_phase(demand, t).log2_bound(),
            log2_capacity: log2_product(&ring.moduli) - 1.0,
        },
    }
}

/// A linear map on packed coefficients.
///
/// Digits of a proven range lie in their window, so the message of the result is below t plus the
/// window's offset. A calibrated range may be exceeded (by one sample per coefficient): then the
/// message is the true integer, which must fit too for the result to be right modulo the radix.
fn linear_phase(demand: &SegmentDemand, t: f64) -> Phase {
    let in_window = t * 1.01;
    let message = match demand.evidence {
        Evidence::Proven => in_window,
        Evidence::Calibrated => {
            let largest = demand.max_l1 * demand.max_abs_input as f64 + demand.max_abs_bias as f64;
            in_window.max(largest)
        }
    };
    Phase::fresh(t).linear(demand.max_l2, message)
}

/// A linear map, a quadratic and a pool in slots; biases and constants are reduced modulo t.
///
/// Messages count as uniform modulo t: every row carries at least one independent uniform point in
/// a slot (`random_points >= 1`), which makes each coefficient uniform whatever the samples are.
fn square_phase(demand: &SegmentDemand, square: PooledSquare, degree: usize, t: f64) -> Phase {
    let (a, b) = (f64::from(square.max_abs_a), square.max_abs_b as f64);
    Phase::fresh_with_uniform_message(t)
        .linear(demand.max_l2, t)
        .quadratic(degree, a, b, t)
        .sum(square.pool_terms)
}

/// The tighter of the two points of a segment with a square: before and after switching.
fn slot_noise(phase: Phase, degree: usize, moduli: &[u64], n_kept: usize) -> NoiseForecast {
    let (kept, dropped) = moduli.split_at(n_kept.min(moduli.len()));
    let before = NoiseForecast {
        log2_noise_bound: phase.log2_bound(),
        log2_capacity: log2_product(moduli) - 1.0,
    };
    let switched =
        dropped.iter().rev().fold(phase, |phase, &q| phase.switched(q as f64, degree, 2));
    let after = NoiseForecast {
        log2_noise_bound: switched.log2_bound(),
        log2_capacity: log2_product(kept) - 1.0,
    };
    if before.margin_bits() < after.margin_bits() { before } else { after }
}

fn log2_product(moduli: &[u64]) -> f64 {
    moduli.iter().map(|&q| (q as f64).log2()).sum()
}
