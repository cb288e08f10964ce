//! Primes, rings and levels of a stage with a chain.
//!
//! A chain runs once per plaintext prime; fewer, larger primes cost fewer runs but more noise. For every
//! number of primes and every ring degree the fewest ciphertext moduli are searched with which no step
//! drowns, and as many of them dropped after each square as the next one can spare: once for ciphertexts
//! that grow with every square, and once for ciphertexts that are relinearized after it, which cost a key
//! switch each, and a special modulus out of what the ring's security allows, but stay small.

use he_core::noise::{Phase, key_spread, rounding_deviation};
use he_core::{Params, ParamsSpec, security};

use super::{MARGIN_BITS, MAX_PRIME_BITS, MIN_PRIME_BITS, RESERVED_SLOTS, ring_spec};
use crate::encrypted::error::{Error, Result};
use crate::integer::MAX_CRT_MODULI;
use crate::plan::{
    ChainDemand, ChosenResidue, Evidence, MIN_POINT_BITS, NoiseForecast, Relinearization, RingSpec,
    StepDemand,
};

/// Ring degrees of chains.
const DEGREES: [usize; 3] = [8192, 16384, 32768];
/// Most ciphertext moduli of a chain.
const MAX_MODULI: usize = 16;
/// Most moduli of a reply: decryption drops all but two, whatever noise that adds.
const MAX_REPLY_MODULI: usize = 2;
/// Bits of the largest plaintext prime of a chain: beyond, one more prime costs less than its noise.
const MAX_PLAINTEXT_BITS: u32 = 44;

/// Chooses primes, ring and levels of a stage with a chain, and whether it relinearizes if that is left open:
/// what is expected to take least time, for computing and for a link of a gigabit per second.
///
/// Cost: some hundred thousand noise estimates; about a tenth of a second.
///
/// # Errors
/// [`Error::NoParameters`] when no supported ring holds the values with their noise.
pub fn choose_chain(demand: &ChainDemand) -> Result<Vec<ChosenResidue>> {
    let ways: &[bool] = match demand.relinearization {
        Relinearization::Cheapest => &[false, true],
        Relinearization::Never => &[false],
        Relinearization::Always => &[true],
    };
    let mut candidates: Vec<Candidate> = Vec::new();
    for degree in DEGREES {
        for n_primes in 1..=MAX_CRT_MODULI {
            let Some(primes) = plaintext_primes(demand, degree, n_primes) else { continue };
            for &relinearizes in ways {
                candidates.extend(cheapest(demand, degree, &primes, relinearizes));
            }
        }
    }
    candidates.sort_by(|a, b| a.cost.total_cmp(&b.cost));
    // Primes of the wanted sizes may be missing, or a little smaller than assumed.
    let found = candidates.iter().find_map(|candidate| candidate.residues(demand).transpose());
    found.unwrap_or_else(|| {
        let width = width(demand).max(1);
        Err(Error::NoParameters {
            value_bits: 128 - width.leading_zeros(),
            l2: demand.steps.iter().map(|step| step.max_l2).fold(0.0, f64::max),
            advice: match (demand.relinearization, demand.evidence) {
                (Relinearization::Always, _) => {
                    "use fewer bits or more rounds, or do not insist on relinearization"
                }
                (_, Evidence::Proven) => "use fewer bits, calibrated ranges, or more rounds",
                (_, Evidence::Calibrated) => "use fewer bits or more rounds",
            },
        })
    })
}

/// The noise of a chain in a ring with given levels, at its tightest point.
///
/// A negative margin means that an honest server's replies may not decrypt.
#[must_use]
pub fn forecast_chain_noise(
    demand: &ChainDemand,
    ring: &RingSpec,
    step_moduli: &[u32],
) -> NoiseForecast {
    let walk = Walk {
        steps: &demand.steps,
        degree: ring.ring_degree as usize,
        t: ring.plaintext_modulus as f64,
        moduli: ring.moduli.iter().map(|&q| q as f64).collect(),
        special: ring.special_modulus.map(|p| p as f64),
    };
    let levels: Vec<usize> = step_moduli.iter().map(|&left| left as usize).collect();
    walk.tightest(&levels, ring.reply_moduli as usize)
}

/// Numbers from the smallest to the largest value, zero included.
fn width(demand: &ChainDemand) -> u128 {
    let (low, high) = (demand.low.min(0), demand.high.max(0));
    high.saturating_sub(low).unsigned_abs().saturating_add(1)
}

/// The smallest `n` primes congruent to 1 modulo 2N whose product holds all values, as equal as
/// possible.
fn plaintext_primes(demand: &ChainDemand, degree: usize, n: usize) -> Option<Vec<u64>> {
    let least = demand.max_abs_input.saturating_mul(2).saturating_add(1);
    smallest_primes(width(demand), least, degree, n)
}

/// The smallest `n` primes congruent to 1 modulo 2N, each at least `least`, whose product is at least
/// `width`: as equal as possible.
pub(super) fn smallest_primes(
    width: u128,
    least: u64,
    degree: usize,
    n: usize,
) -> Option<Vec<u64>> {
    let root = (width as f64).powf(1.0 / n as f64);
    if root.log2() > f64::from(MAX_PLAINTEXT_BITS) {
        return None;
    }
    let mut from = (root as u64).max(least);
    loop {
        let mut primes = Vec::with_capacity(n);
        let mut next = from;
        for _ in 0..n {
            let prime = ParamsSpec::smallest_slot_modulus(degree, next).ok()?;
            primes.push(prime);
            next = prime + 1;
        }
        let product = primes.iter().try_fold(1_u128, |all, &t| all.checked_mul(t.into()))?;
        if product >= width {
            return (product < 1 << 121).then_some(primes);
        }
        from = primes.first().copied()? + 1;
    }
}

/// A choice whose noise was estimated with moduli of so many bits.
struct Candidate {
    degree: usize,
    primes: Vec<u64>,
    bits: Vec<u32>,
    special_bits: Option<u32>,
    levels: Vec<usize>,
    kept: usize,
    cost: f64,
}

/// The cheapest moduli for these primes.
fn cheapest(
    demand: &ChainDemand,
    degree: usize,
    primes: &[u64],
    relinearizes: bool,
) -> Option<Candidate> {
    let most = f64::from(security::max_log2_modulus(degree)?);
    let t = primes.iter().copied().max()? as f64;
    let mut best: Option<Candidate> = None;
    let smallest = MIN_PRIME_BITS.max(t.log2() as u32 + 1);
    for size in smallest..=MAX_PRIME_BITS {
        // Replies may need larger moduli than what is dropped before them.
        for first in [size, MAX_PRIME_BITS] {
            for n_moduli in 1..=MAX_MODULI {
                let bits: Vec<u32> = (0..n_moduli)
                    .map(|i| if i < MAX_REPLY_MODULI { first } else { size })
                    .collect();
                // As large as the largest digit, so that the noise of a switch is small.
                let special_bits = relinearizes.then_some(first.max(size));
                let all_bits = bits.iter().sum::<u32>() + special_bits.unwrap_or(0);
                if f64::from(all_bits) > most {
                    break;
                }
                // Some below the power of two: so that there are primes.
                let about = |bits: u32| f64::from(bits).exp2() * 0.99;
                let moduli = bits.iter().map(|&bits| about(bits)).collect();
                let special = special_bits.map(about);
                let walk = Walk { steps: &demand.steps, degree, t, moduli, special };
                let Some((levels, kept)) = walk.levels() else { continue };
                let shape = Shape { degree, bits: &bits, special_bits, levels: &levels, kept };
                let cost = cost(demand, primes.len(), &shape);
                if best.as_ref().is_none_or(|best| cost < best.cost) {
                    let primes = primes.to_vec();
                    best =
                        Some(Candidate { degree, primes, bits, special_bits, levels, kept, cost });
                }
                // More moduli of this size cost more.
                break;
            }
        }
    }
    best
}

impl Candidate {
    /// The parameters of every residue; nothing if the true primes do not hold the noise.
    fn residues(&self, demand: &ChainDemand) -> Result<Option<Vec<ChosenResidue>>> {
        let mut found = Vec::with_capacity(self.primes.len());
        for &t in &self.primes {
            let Ok(spec) = ParamsSpec::with_bits(self.degree, t.into(), &self.bits) else {
                return Ok(None);
            };
            let special_bits: Vec<u32> = self.special_bits.into_iter().collect();
            let Ok(special) = spec.further_primes(&special_bits) else { return Ok(None) };
            let params = Params::with_special_moduli(spec, special)?;
            let ring = ring_spec(&params, self.kept);
            let step_moduli: Vec<u32> = self.levels.iter().map(|&left| left as u32).collect();
            let noise = forecast_chain_noise(demand, &ring, &step_moduli);
            if noise.margin_bits() < 0.0 || !shows_enough(&ring) {
                return Ok(None);
            }
            let security_bits = params.security_bits();
            found.push(ChosenResidue { ring, step_moduli, noise, security_bits });
        }
        Ok(Some(found))
    }
}

/// Whether random points show something even of what a server with the key can reach.
fn shows_enough(ring: &RingSpec) -> bool {
    let reachable = f64::from(ring.multiplicative_depth());
    ring.special_modulus.is_none() || ring.log2_plaintext_modulus() - reachable >= MIN_POINT_BITS
}

/// Noise along a chain, with the first modulus kept longest.
struct Walk<'a> {
    steps: &'a [StepDemand],
    degree: usize,
    t: f64,
    moduli: Vec<f64>,
    /// With it every step but the last ends with a relinearization.
    special: Option<f64>,
}

/// The phase of the values between two steps.
#[derive(Clone, Copy)]
struct State {
    phase: Phase,
    /// Deviation of the part that is independent from one ciphertext to the next.
    independent: f64,
    /// Degree in the secret key.
    degree: usize,
    /// Whether plaintexts still have no factor.
    is_fresh: bool,
}

impl Walk<'_> {
    fn fresh(&self) -> State {
        let phase = Phase::fresh_with_uniform_message(self.t);
        State { phase, independent: phase.deviation, degree: 1, is_fresh: true }
    }

    /// A linear map, and the quadratic and pool that follow it.
    ///
    /// Only the rounding of a modulus switch (and fresh errors) are independent from one ciphertext to
    /// the next; what is left of earlier noise may be correlated in any way, and is added up as if it
    /// were.
    fn step(&self, state: State, step: &StepDemand) -> State {
        let State { phase, independent, degree, is_fresh } = state;
        let carried = (phase.deviation.powi(2) - independent.powi(2)).max(0.0).sqrt();
        let deviation = (independent * step.max_l2).hypot(carried * step.max_l1);
        // Biases are reduced modulo t, whatever factor they are divided by.
        let offset = phase.offset * step.max_l1 + self.t;
        let linear = Phase { deviation, offset, ..phase };
        let Some(square) = step.square else {
            return State { phase: linear, independent: 0.0, degree, is_fresh };
        };
        let a = f64::from(square.max_abs_a);
        let b = match square.max_abs_b {
            0 => 0.0,
            b if is_fresh => b as f64,
            _ => self.t / 2.0,
        };
        let phase = linear.quadratic(self.degree, a, b, self.t).sum(square.pool_terms);
        State { phase, independent: 0.0, degree: 2 * degree, is_fresh }
    }

    /// Back to two polynomials, if there is a key for it, with digits of one modulus each.
    ///
    /// What the switch adds is independent from one ciphertext to the next, but small beside what is carried;
    /// it counts as carried.
    fn relinearized(&self, state: State, level: usize) -> State {
        let Some(special) = self.special else { return state };
        let largest = self.moduli.iter().take(level).copied().fold(0.0, f64::max);
        let digit = largest / 12_f64.sqrt();
        let phase = state.phase.key_switched(self.degree, level as u32, digit, special);
        State { phase, degree: 1, ..state }
    }

    fn switched(&self, state: State, from: usize, to: usize) -> State {
        let mut state = state;
        for &q in self.moduli.iter().take(from).skip(to).rev() {
            let State { degree, .. } = state;
            let phase = state.phase.switched(q, self.degree, degree);
            let independent =
                self.t * rounding_deviation(self.degree, degree) * key_spread(self.degree, degree);
            state = State {
                phase,
                independent: independent.min(phase.deviation),
                degree,
                is_fresh: false,
            };
        }
        state
    }

    fn capacity(&self, level: usize) -> f64 {
        self.moduli.iter().take(level).map(|q| q.log2()).sum::<f64>() - 1.0
    }

    fn fits(&self, state: &State, level: usize) -> bool {
        state.phase.log2_bound() + MARGIN_BITS <= self.capacity(level)
    }

    /// As few moduli after every step, and in replies, as will do; `None` if these moduli are too few.
    fn levels(&self) -> Option<(Vec<usize>, usize)> {
        let mut levels = Vec::with_capacity(self.steps.len());
        let kept = self.descend(self.fresh(), self.moduli.len(), self.steps, &mut levels)?;
        Some((levels, kept))
    }

    fn descend(
        &self,
        state: State,
        level: usize,
        steps: &[StepDemand],
        levels: &mut Vec<usize>,
    ) -> Option<usize> {
        let (step, rest) = steps.split_first()?;
        let state = self.step(state, step);
        if !self.fits(&state, level) {
            return None;
        }
        let ended = if rest.is_empty() { state } else { self.relinearized(state, level) };
        for next in 1..=level {
            let switched = self.switched(ended, level, next);
            if !self.fits(&switched, next) {
                continue;
            }
            if rest.is_empty() {
                return (next <= MAX_REPLY_MODULI).then_some(next);
            }
            levels.push(next);
            if let Some(kept) = self.descend(switched, next, rest, levels) {
                return Some(kept);
            }
            levels.pop();
        }
        None
    }

    /// The smallest margin on the way.
    fn tightest(&self, levels: &[usize], kept: usize) -> NoiseForecast {
        let mut worst: Option<NoiseForecast> = None;
        let mut note = |state: &State, level: usize| {
            let here = NoiseForecast {
                log2_noise_bound: state.phase.log2_bound(),
                log2_capacity: self.capacity(level),
            };
            if worst.is_none_or(|worst| here.margin_bits() < worst.margin_bits()) {
                worst = Some(here);
            }
        };
        let (mut state, mut level) = (self.fresh(), self.moduli.len());
        for (idx, step) in self.steps.iter().enumerate() {
            state = self.step(state, step);
            note(&state, level);
            let next = levels.get(idx).copied().unwrap_or(kept);
            if idx + 1 < self.steps.len() {
                state = self.relinearized(state, level);
                note(&state, level);
            }
            state = self.switched(state, level, next);
            level = next;
            note(&state, level);
        }
        worst.unwrap_or(NoiseForecast { log2_noise_bound: f64::MAX, log2_capacity: 0.0 })
    }
}

/// Transforms of one key switch at a level, with one special modulus.
pub(crate) fn key_switch_transforms(level: usize) -> f64 {
    let level = level as f64;
    level * level + 3.0 * level + 2.0
}

/// What the cost of a chain depends on.
struct Shape<'a> {
    degree: usize,
    bits: &'a [u32],
    special_bits: Option<u32>,
    levels: &'a [usize],
    kept: usize,
}

/// Nanoseconds of two cores, about: see the rates of the planner.
fn cost(demand: &ChainDemand, n_primes: usize, shape: &Shape<'_>) -> f64 {
    /// A byte on a link of a gigabit per second.
    const BYTE: f64 = 8.0;
    /// Encryption, packing and expansion of a residue.
    const RECEIVE: f64 = 4.0;
    /// Multiplication of a residue by a weight, per digit of it.
    const MULTIPLY: f64 = 0.006;
    /// Square, switch and packing of a residue.
    const FINISH: f64 = 6.0;
    /// A number theoretic transform of a key switch, and what goes with it, per residue.
    const TRANSFORM: f64 = 1.9;
    let n = shape.degree as f64;
    let digits_of = |&bits: &u32| if bits <= 31 { 2.0 } else { 3.0 };
    let digits = |level: usize| shape.bits.iter().take(level).map(digits_of).sum::<f64>();
    let total_bits = |level: usize| f64::from(shape.bits.iter().take(level).sum::<u32>());
    let capacity = (shape.degree as u64).saturating_sub(RESERVED_SLOTS).max(1);
    let blocks = demand.expected_samples.max(1).div_ceil(capacity) as f64;
    let n_in = f64::from(demand.n_inputs);
    let n_moduli = shape.bits.len();
    let request = n_in * n * n_moduli as f64;
    let (mut work, mut degree, mut level) = (request * RECEIVE, 1.0, n_moduli);
    let mut n_out = 0.0;
    for (idx, step) in demand.steps.iter().enumerate() {
        let residues = n * level as f64;
        work += step.n_products as f64 * (degree + 1.0) * n * digits(level) * MULTIPLY;
        if step.square.is_some() {
            degree *= 2.0;
        }
        n_out = f64::from(step.n_outputs);
        if shape.special_bits.is_some() && idx + 1 < demand.steps.len() {
            work += n_out * n * key_switch_transforms(level) * TRANSFORM;
            degree = 1.0;
        }
        work += n_out * (degree + 1.0) * residues * FINISH;
        level = shape.levels.get(idx).copied().unwrap_or(shape.kept);
    }
    let reply = n_out * (degree + 1.0) * n * total_bits(shape.kept);
    let key = shape
        .special_bits
        .map_or(0.0, |special| n_moduli as f64 * n * (total_bits(n_moduli) + f64::from(special)));
    let bytes = (n_in * n * total_bits(n_moduli) + key + reply) / 8.0;
    blocks * n_primes as f64 * (work + bytes * BYTE)
}
