//! Masked refreshes residue by residue, as the encrypted path computes them, without the encryption:
//! masks of the real width from the server's key, plaintext moduli of a compiled plan, and the ends of
//! the proven ranges, where a wrap would show first.

use nn_poly::encrypted::masked::{BlockMasks, RequestHash};
use nn_poly::integer::{
    CrtWindow, IntegerMatrix, Interval, MaskSource, Reduction128, Refresh, StageOutput, ValueRef,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rayon::prelude::*;

use super::{PLAN, key};

/// Refreshed values whose masks come from one request.
const BLOCK: usize = 8192;

/// The plaintext moduli of a stage.
fn moduli(stage: usize) -> Vec<u64> {
    PLAN.public().masked_window(stage).unwrap().moduli().collect()
}

fn sum(modulus: u64, a: u64, b: u64) -> u64 {
    (a + b) % modulus
}

/// The way of a value from a stage through the client to the stage that reads it.
struct Crossing {
    refresh: Refresh,
    range: Interval,
    mask_bits: u32,
    window: CrtWindow,
    here: Vec<(u64, Reduction128)>,
    there: Vec<(u64, Reduction128)>,
}

impl Crossing {
    /// From stage `stage` to the next, with all of its moduli or the first ones only.
    fn new(stage: usize, n_moduli: usize) -> Self {
        let segment = PLAN.public().first_segment(stage).unwrap();
        let Interval { low, high } = Interval { low: segment.range.low, high: segment.range.high };
        let here = &moduli(stage)[..n_moduli];
        let with = |moduli: &[u64]| moduli.iter().map(|&t| (t, Reduction128::new(t))).collect();
        Self {
            refresh: PLAN.public().stages[stage].refresh.clone().unwrap(),
            range: Interval { low, high },
            mask_bits: segment.mask.unwrap().mask_bits,
            window: CrtWindow::new(low.into(), here).unwrap(),
            here: with(here),
            there: with(&moduli(stage + 1)),
        }
    }

    /// How many units the value that the next stage reads is above the plain one, if it is one of the
    /// two that it may be, modulo each of that stage's primes.
    fn units(&self, channel: usize, v: i64, mask: u128) -> Option<i128> {
        let (v, mask_value) = (i128::from(v), mask.cast_signed());
        // Server: the value and its mask, modulo every prime.
        let masked = self
            .here
            .iter()
            .map(|(t, reduction)| sum(*t, reduction.residue(v), reduction.residue(mask_value)));
        // Client: put together, scaled, modulo the primes of the next stage.
        let scaled = self.refresh.scale_masked(channel, self.window.combine(masked));
        // Server: less the scaled mask.
        let subtracted = self.refresh.scale_mask(channel, mask).wrapping_neg();
        let plain = self.refresh.scale_masked(channel, v);
        [0, 1].into_iter().find(|unit| {
            self.there.iter().all(|(t, reduction)| {
                let read = sum(*t, reduction.residue(scaled), reduction.residue(subtracted));
                read == reduction.residue(plain + unit)
            })
        })
    }
}

/// Refreshes so many blocks of values; gives how many were raised, and how many grossly wrong.
fn refresh_blocks(crossing: &Crossing, stage: usize, n_blocks: u64) -> (u64, u64) {
    let Interval { low, high } = crossing.range;
    let largest = (1_u128 << crossing.mask_bits) - 1;
    let n_channels = PLAN.public().stages[stage].n_channels();
    let of_block = |block: u64| {
        let mut rng = StdRng::seed_from_u64(block);
        let hashes = vec![RequestHash(rng.random()); stage + 1];
        let source = BlockMasks::new(&key(1), &PLAN, &hashes);
        let mut masks = vec![0; BLOCK];
        let channel = block as usize % n_channels;
        source.fill(stage, channel, &mut masks);
        let (mut n_raised, mut n_wrong) = (0, 0);
        for (i, &drawn) in masks.iter().enumerate() {
            let v = match i % 8 {
                0 => low,
                1 => high,
                2 => (low + 1).min(high),
                3 => (high - 1).max(low),
                _ => rng.random_range(low..=high),
            };
            let mask = match i / 8 % 8 {
                0 => 0,
                1 => largest,
                2 => largest - drawn % 1024,
                _ => drawn,
            };
            match crossing.units(channel, v, mask) {
                Some(unit) => n_raised += u64::from(unit == 1),
                None => n_wrong += 1,
            }
        }
        (n_raised, n_wrong)
    };
    (0..n_blocks).into_par_iter().map(of_block).reduce(|| (0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
}

/// Ten million values, or as many as `SECUREDL_MASKED_REFRESHES` says.
#[test]
fn no_refreshed_value_is_grossly_wrong_modulo_the_primes_of_a_plan() {
    let wanted = std::env::var("SECUREDL_MASKED_REFRESHES").ok().and_then(|n| n.parse().ok());
    let wanted: u64 = wanted.unwrap_or(10_000_000);
    let n_stages = PLAN.public().stages.len() - 1;
    let n_blocks = wanted.div_ceil((n_stages * BLOCK) as u64);
    for stage in 0..n_stages {
        let all = moduli(stage).len();
        let (n_raised, n_wrong) = refresh_blocks(&Crossing::new(stage, all), stage, n_blocks);
        assert_eq!(n_wrong, 0, "stage {stage}");
        let n_values = n_blocks * BLOCK as u64;
        // About half of them: masks at their ends raise almost none, or almost all.
        let usual = n_values / 5..n_values / 5 * 4;
        assert!(usual.contains(&n_raised), "{n_raised} of {n_values}");
        // One prime less: masked values wrap, and the test sees it.
        let (_, n_wrong) = refresh_blocks(&Crossing::new(stage, all - 1), stage, 1);
        assert!(n_wrong > BLOCK as u64 / 2, "stage {stage}: {n_wrong} of {BLOCK}");
    }
}

/// Masks at both ends of their range, and in between.
struct Extremes(Vec<u32>);

impl MaskSource for Extremes {
    fn fill(&self, stage: usize, output: usize, masks: &mut [u128]) {
        let mut rng = StdRng::seed_from_u64((stage * 1000 + output) as u64);
        let largest = (1_u128 << self.0[stage]) - 1;
        for (i, mask) in masks.iter_mut().enumerate() {
            let drawn = rng.random::<u128>() & largest;
            *mask = [0, largest, drawn][(i + output) % 3];
        }
    }
}

/// The network, prime by prime and stage by stage, with what the client puts together in between.
fn scores_by_residues(inputs: &IntegerMatrix, source: &Extremes) -> Vec<Vec<i128>> {
    let (network, public) = (PLAN.network(), PLAN.public());
    let mut held: Vec<Vec<Vec<i128>>> = Vec::new();
    for (stage, shape) in public.stages.iter().enumerate() {
        let window = public.masked_window(stage).unwrap();
        let mut residues = Vec::new();
        for t in window.moduli() {
            let reduction = Reduction128::new(t);
            let point = |sample: usize| -> Vec<u64> {
                let of_source = |source: &ValueRef| match *source {
                    ValueRef::Input => {
                        inputs.column(sample).iter().map(|&x| reduction.residue(x.into())).collect()
                    }
                    ValueRef::Stage(k) => {
                        let values = held[k as usize].iter();
                        values.map(|row| reduction.residue(row[sample])).collect::<Vec<_>>()
                    }
                };
                shape.sources.iter().flat_map(of_source).collect()
            };
            let points: Vec<_> = (0..inputs.ncols()).map(point).collect();
            residues.push(
                network.evaluate_stage_modular(stage, &points, t, StageOutput::Pooled).unwrap(),
            );
        }
        let put_together = |output: usize| {
            let mut masks = vec![0; inputs.ncols()];
            if shape.refresh.is_some() {
                source.fill(stage, output, &mut masks);
            }
            let channel = output % shape.n_channels();
            let of_sample = |(sample, &mask): (usize, &u128)| {
                let of_prime = |(values, t): (&Vec<Vec<u64>>, u64)| {
                    let mask = Reduction128::new(t).residue(mask.cast_signed());
                    sum(t, values[sample][output], mask)
                };
                let value = window.combine(residues.iter().zip(window.moduli()).map(of_prime));
                match &shape.refresh {
                    // What is sent, less what the server subtracts from it.
                    Some(refresh) => {
                        refresh.scale_masked(channel, value) - refresh.scale_mask(channel, mask)
                    }
                    None => value,
                }
            };
            masks.iter().enumerate().map(of_sample).collect()
        };
        held.push((0..shape.n_outputs()).map(put_together).collect());
    }
    held.pop().unwrap()
}

/// With masks at both ends and inputs at theirs: scores equal the exact network's with the same masks.
#[test]
fn residues_of_a_masked_run_are_those_of_the_exact_network() {
    let n_samples = 600;
    let mut rng = StdRng::seed_from_u64(8);
    let inputs = IntegerMatrix::from_shape_fn((16, n_samples), |(_, sample)| match sample {
        0..3 => 15,
        3..6 => 0,
        _ => rng.random_range(0..=15),
    });
    let stages = PLAN.network().masked_ranges().unwrap();
    let source = Extremes(stages.iter().map(|stage| stage.mask_bits()).collect());
    let exact = PLAN.simulate_masked(&inputs, &source).unwrap();
    assert!(exact.n_raised > 0);
    for (row, expected) in scores_by_residues(&inputs, &source).iter().zip(exact.scores.rows()) {
        assert!(row.iter().zip(expected).all(|(&got, &score)| got == i128::from(score)));
    }
}
