//! The floor of a run: what its counted operations would take if nothing else cost anything.
//!
//! Counted: residue multiply-accumulates of the linear maps (without taps on padding), transforms,
//! seed expansions at both ends, and every byte on the wire once written and once read. Not counted:
//! errors, packing, pointwise products, checks, refreshes. Multiply-accumulates go at the
//! instruction's ceiling, bytes at a copy of memory, transforms and expansions at the speed of ours,
//! all measured on one core in this run; the sum is divided by the threads.

use std::collections::BTreeMap;

use anyhow::Result;
use he_core::{Backend, CiphertextBlock, Params, ParamsSpec, PublicSeed, bytes};
use nn_poly::plan::{Packing, Plan, Segment};
use serde::Serialize;

use super::{ceilings, clock};

/// Largest prime whose residues take two digits.
const MAX_TWO_DIGITS: u64 = 0x7FFF_7FFF;
/// Time for each measured unit, seconds.
const UNIT_SECONDS: f64 = 0.02;
/// Ciphertexts of a measured expansion.
const N_EXPANDED: usize = 8;

/// What a run does at least.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Work {
    /// Residue multiply-accumulates by digits of a residue.
    pub(super) multiply_accumulates: BTreeMap<usize, u64>,
    /// Transforms of one polynomial modulo one prime.
    pub(super) transforms: u64,
    /// Ciphertexts whose half is expanded from a seed, at either end.
    pub(super) expansions: u64,
    /// Payload bytes in both directions.
    pub(super) wire_bytes: u64,
}

/// The least time, one core, seconds.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Floor {
    /// What was counted.
    pub(super) work: Work,
    /// Multiply-accumulates at the instruction's ceiling; `null` where that is not known.
    pub(super) multiply_accumulate_seconds: Option<f64>,
    /// Transforms.
    pub(super) transform_seconds: f64,
    /// Seed expansions.
    pub(super) expansion_seconds: f64,
    /// Bytes.
    pub(super) memory_seconds: f64,
    /// The sum, if all of it is known.
    pub(super) core_seconds: Option<f64>,
}

impl Floor {
    /// Count the work of a run with `blocks` blocks of each segment, and measure what it takes.
    ///
    /// # Errors
    /// Only broken invariants: the parameters are those of a checked plan.
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    pub(super) fn measure(plan: &Plan, blocks: &[u64]) -> Result<Self> {
        let copy = ceilings::copy_bytes_per_second();
        let mut floor = Self { multiply_accumulate_seconds: Some(0.0), ..Self::default() };
        for (segment, &blocks) in plan.public().segments.iter().zip(blocks) {
            let params = params(segment)?;
            let macs = multiply_accumulates(plan, segment)?;
            for (digits, count) in macs {
                let count = count * blocks;
                *floor.work.multiply_accumulates.entry(digits).or_default() += count;
                let rate = ceilings::multiply_accumulates_per_second(params.backend(), digits);
                floor.multiply_accumulate_seconds = floor
                    .multiply_accumulate_seconds
                    .zip(rate)
                    .map(|(sum, rate)| sum + count as f64 / rate);
            }
            for (modulus, count) in transforms(segment) {
                let count = count * blocks;
                floor.work.transforms += count;
                let each = time_transform(segment.ring.ring_degree, modulus)?;
                floor.transform_seconds += count as f64 * each;
            }
            let expansions = 2 * u64::from(segment.n_inputs) * blocks;
            floor.work.expansions += expansions;
            floor.expansion_seconds += expansions as f64 * time_expansion(&params)?;
            floor.work.wire_bytes += (segment.request_bytes() + segment.reply_bytes()) * blocks;
        }
        floor.memory_seconds = 2.0 * floor.work.wire_bytes as f64 / copy;
        floor.core_seconds = floor.multiply_accumulate_seconds.map(|seconds| {
            seconds + floor.transform_seconds + floor.expansion_seconds + floor.memory_seconds
        });
        Ok(floor)
    }

    /// The backend whose ceiling was taken.
    pub(super) fn backend(plan: &Plan) -> Result<Option<Backend>> {
        plan.public().segments.first().map(|segment| Ok(params(segment)?.backend())).transpose()
    }
}

fn params(segment: &Segment) -> Result<Params> {
    let ring = &segment.ring;
    Ok(Params::new(ParamsSpec {
        ring_degree: ring.ring_degree as usize,
        plaintext_modulus: ring.plaintext_modulus,
        moduli: ring.moduli.clone(),
    })?)
}

/// Residue multiply-accumulates of one block, by digits of a residue.
fn multiply_accumulates(plan: &Plan, segment: &Segment) -> Result<BTreeMap<usize, u64>> {
    let (structure, _) = plan.network().stage(segment.stage as usize)?;
    let mut products = 0_u64;
    for output in 0..structure.linear.n_outputs() {
        structure.linear.for_each_tap(output, |_, _| products += 1);
    }
    let mut found = BTreeMap::new();
    for &modulus in &segment.ring.moduli {
        let digits = if modulus <= MAX_TWO_DIGITS { 2 } else { 3 };
        *found.entry(digits).or_default() += products * 2 * u64::from(segment.ring.ring_degree);
    }
    Ok(found)
}

/// Transforms of one block, by modulus: encryption, switching, decryption, slots.
fn transforms(segment: &Segment) -> BTreeMap<u64, u64> {
    let (inputs, outputs) = (u64::from(segment.n_inputs), u64::from(segment.n_outputs));
    let ring = &segment.ring;
    let mut found: BTreeMap<u64, u64> = BTreeMap::new();
    let mut add = |modulus, count| *found.entry(modulus).or_default() += count;
    ring.moduli.iter().for_each(|&modulus| add(modulus, inputs));
    let (kept, dropped) = ring.moduli.split_at(ring.reply_moduli as usize);
    kept.iter().for_each(|&modulus| add(modulus, outputs));
    // Each dropped prime: back to coefficients there, and forward under every prime still left.
    let polynomials = outputs * u64::from(segment.reply_degree() + 1);
    for (position, &modulus) in dropped.iter().enumerate() {
        add(modulus, polynomials);
        kept.iter().chain(dropped.iter().take(position)).for_each(|&left| add(left, polynomials));
    }
    if segment.packing == Packing::Slots
        && let Ok(t) = u64::try_from(ring.plaintext_modulus)
    {
        add(t, inputs + outputs);
    }
    found
}

/// Seconds of one transform.
fn time_transform(ring_degree: u32, modulus: u64) -> Result<f64> {
    let ring_degree = ring_degree as usize;
    // A ring to transform in, not to encrypt in: its security does not matter.
    let params = Params::insecure_new(ParamsSpec {
        ring_degree,
        plaintext_modulus: 2,
        moduli: vec![modulus],
    })?;
    let mut words = vec![1; ring_degree];
    Ok(clock::measure(UNIT_SECONDS, || params.forward_transform(0, &mut words))?.seconds)
}

/// Seconds of expanding one half of a ciphertext over all primes: what reading a request takes
/// beyond unpacking it.
fn time_expansion(params: &Params) -> Result<f64> {
    super::one_core()?.install(|| {
        let n_moduli = params.moduli().len();
        let mut block = CiphertextBlock::zeros(params, N_EXPANDED, 1, n_moduli)?;
        let request = vec![0; N_EXPANDED * bytes::request_bytes(params)];
        let reply = vec![0; N_EXPANDED * bytes::reply_bytes(params, 1, n_moduli)];
        let seed = PublicSeed([1; 32]);
        let both = clock::measure(UNIT_SECONDS, || {
            bytes::read_request_into(&mut block, 0, seed, &request)
        })?;
        let unpacking =
            clock::measure(UNIT_SECONDS, || bytes::read_reply_into(&mut block, 0, &reply))?;
        #[expect(clippy::cast_precision_loss, reason = "a small count")]
        let each = (both.seconds - unpacking.seconds / 2.0).max(0.0) / N_EXPANDED as f64;
        Ok(each)
    })
}

#[cfg(test)]
mod tests {
    use nn_poly::network::NetworkKind;
    use nn_poly::plan::ActivationSide;

    use super::super::workload::Workload;
    use super::*;

    #[test]
    fn the_work_of_cryptonets_is_what_its_shape_says() {
        let workload = Workload::random(NetworkKind::Cryptonets, 1, 0).unwrap();
        for side in [ActivationSide::Client, ActivationSide::Server] {
            let plan = workload.compile(side, 4096).unwrap();
            let floor = Floor::measure(&plan, &[1, 2, 3]).unwrap();
            let mut macs = 0;
            let products = [5 * 25 * 169 - 5 * (2 * 13 * 5 - 1), 845 * 100, 1000];
            for ((segment, products), blocks) in
                plan.public().segments.iter().zip(products).zip([1, 2, 3])
            {
                let words = 2 * u64::from(segment.ring.ring_degree);
                macs += products * words * segment.ring.moduli.len() as u64 * blocks;
            }
            assert_eq!(floor.work.multiply_accumulates.values().sum::<u64>(), macs);
            assert_eq!(floor.work.expansions, 2 * (784 + 2 * 845 + 3 * 100));
            assert!(floor.transform_seconds > 0.0 && floor.memory_seconds > 0.0);
            let slots = plan.public().segments.iter().map(|s| s.packing == Packing::Slots);
            assert_eq!(slots.into_iter().any(|s| s), side == ActivationSide::Server);
        }
    }
}
