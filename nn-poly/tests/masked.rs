//! Masked refreshes at the level of integers: never low, one unit high at most, independent of the
//! values they hide.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    missing_docs,
    reason = "tests"
)]

#[allow(dead_code, reason = "shared with tests that use all of it")]
#[path = "generators/random_network.rs"]
mod random_network;

use ndarray::Array2;
use nn_poly::Error;
use nn_poly::integer::{
    ActivationKind, IntegerMatrix, IntegerNetwork, Interval, MASK_MARGIN_BITS, MaskSource,
    MaskedEvaluation, MaskedStage, NoMasks, Pool, Refresh, ValueRef,
};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use random_network::{Choices, random_inputs, random_network};

/// Masks drawn afresh for every output from a seed.
struct Drawn {
    seed: u64,
    bits: Vec<u32>,
    extreme: bool,
}

impl Drawn {
    fn new(network: &IntegerNetwork, seed: u64, extreme: bool) -> Self {
        let stages = network.masked_ranges().unwrap();
        Self { seed, bits: stages.iter().map(MaskedStage::mask_bits).collect(), extreme }
    }
}

impl MaskSource for Drawn {
    fn fill(&self, stage: usize, output: usize, masks: &mut [u128]) {
        let mut rng =
            StdRng::seed_from_u64(self.seed ^ (stage as u64) << 40 ^ (output as u64) << 8);
        let largest = (1_u128 << self.bits[stage]) - 1;
        for mask in masks {
            let drawn = rng.random::<u128>() & largest;
            *mask = match rng.random_range(0..4) {
                0 if self.extreme => 0,
                1 if self.extreme => largest,
                _ => drawn,
            };
        }
    }
}

/// A network that masks can serve: polynomial, without pools of what has no activation.
fn maskable(seed: u64) -> Option<(IntegerNetwork, IntegerMatrix)> {
    let choices = Choices { client: false, graph: true, max_weight: 7, stages: (1, 4) };
    let (network, inputs) = random_network(seed, choices);
    network.masked_ranges().is_ok().then_some((network, inputs))
}

/// One stage by its definition, in 128 bits: what is refreshed, for one sample.
fn stage_by_definition(network: &IntegerNetwork, stage: usize, read: &[i64]) -> Vec<i128> {
    let (shape, numbers) = network.stage(stage).unwrap();
    let n_channels = shape.n_channels();
    let linear: Vec<i128> = (0..shape.linear.n_outputs())
        .map(|output| {
            let mut sum = i128::from(numbers.bias_of(output, n_channels));
            shape.linear.for_each_tap(output, |input, weight| {
                sum += i128::from(read[input]) * i128::from(numbers.weights[weight]);
            });
            match (&shape.activation, &numbers.quadratic) {
                (ActivationKind::Quadratic, Some(quadratic)) => {
                    let (a, b, c) = quadratic.coefficients(output % n_channels);
                    i128::from(a) * sum * sum + i128::from(b) * sum + i128::from(c)
                }
                _ => sum,
            }
        })
        .collect();
    let Some(pool): Option<Pool> = shape.pool else { return linear };
    (0..shape.n_outputs())
        .map(|output| {
            let mut sum = 0;
            pool.for_each_term(output, |term| sum += linear[term]);
            sum
        })
        .collect()
}

/// Every refreshed value is what its stage gives for the values before it, or one more; scores are
/// exact functions of what they read, and everything lies where it is proven.
fn check_definition(network: &IntegerNetwork, inputs: &IntegerMatrix, found: &MaskedEvaluation) {
    let proven = network.masked_ranges().unwrap();
    let mut n_raised = 0;
    for sample in 0..inputs.ncols() {
        for (stage, shape) in network.structure().iter().enumerate() {
            let mut read = Vec::new();
            for source in &shape.sources {
                match *source {
                    ValueRef::Input => {
                        read.extend(inputs.column(sample).iter().map(|&x| i64::from(x)));
                    }
                    ValueRef::Stage(k) => read.extend(found.refreshed[k as usize].column(sample)),
                }
            }
            for (output, v) in stage_by_definition(network, stage, &read).into_iter().enumerate() {
                let Interval { low, high } = proven[stage].values;
                assert!((i128::from(low)..=i128::from(high)).contains(&v), "proven values");
                let Some(refresh) = &shape.refresh else {
                    assert_eq!(v, i128::from(found.scores[[output, sample]]));
                    continue;
                };
                let channel = output % shape.n_channels();
                let m = i128::from(refresh.multiplier(channel));
                let half = (1_i128 << refresh.shift) / 2;
                let plain = (v * m + half).div_euclid(1 << refresh.shift);
                let refreshed = found.refreshed[stage][[output, sample]];
                let unit = i128::from(refreshed) - plain;
                assert!(unit == 0 || unit == 1, "stage {stage}: {unit} units from the plain value");
                assert!(proven[stage].refreshed[output].contains(refreshed), "proven refreshes");
                n_raised += u64::try_from(unit).unwrap();
            }
        }
    }
    assert_eq!(found.n_raised, n_raised);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn masked_is_plain_up_to_one_unit(seed in any::<u64>(), extreme in any::<bool>()) {
        let Some((network, inputs)) = maskable(seed) else { return Ok(()) };
        let found = network.evaluate_masked(&inputs, &Drawn::new(&network, seed, extreme)).unwrap();
        check_definition(&network, &inputs, &found);
        let plain = network.evaluate_masked(&inputs, &NoMasks).unwrap();
        check_definition(&network, &inputs, &plain);
        prop_assert_eq!(plain.n_raised, 0);
        let clamped = network.trace(&inputs).unwrap();
        if clamped.counts.iter().all(|counts| counts.n_clamped == 0) {
            prop_assert_eq!(plain.scores, clamped.scores);
        }
    }

    #[test]
    fn honest_scores_lie_within_the_tolerance(seed in any::<u64>()) {
        let Some((network, _)) = maskable(seed) else { return Ok(()) };
        let inputs = random_inputs(&mut StdRng::seed_from_u64(seed), &network, 3);
        let tolerated = network.masked_scores(&inputs).unwrap();
        for draw in 0..8 {
            let masks = Drawn::new(&network, seed.wrapping_add(draw), draw % 2 == 1);
            let found = network.evaluate_masked(&inputs, &masks).unwrap();
            if draw % 2 == 1 {
                // Masks at their ends are no fair draws; without any the hard bounds still hold.
                continue;
            }
            for (score, range) in found.scores.iter().zip(&tolerated.ranges) {
                prop_assert!(range.contains(*score), "{score} outside {range:?}");
            }
        }
    }
}

/// Without a stage to refresh the tolerance is nothing.
#[test]
fn exact_networks_have_exact_tolerances() {
    let choices = Choices { client: false, graph: false, max_weight: 7, stages: (1, 1) };
    for seed in 0..40 {
        let (network, inputs) = random_network(seed, choices);
        let Ok(tolerated) = network.masked_scores(&inputs) else { continue };
        let exact = network.evaluate_masked(&inputs, &NoMasks).unwrap().scores;
        for (&score, range) in exact.iter().zip(&tolerated.ranges) {
            assert!(range.contains(score) && range.width() <= 3, "{score} {range:?}");
        }
    }
}

fn refresh(multiplier: i64, shift: u32) -> Refresh {
    Refresh { multipliers: vec![multiplier], shift, min: 0, max: 15 }
}

/// In plain integers, with multipliers of every kind; ten million values modulo the primes of a plan are
/// in `masked_encrypted/residues.rs`. `SECUREDL_MASKED_REFRESHES` sets how many.
#[test]
fn no_refreshed_value_is_grossly_wrong() {
    let count = std::env::var("SECUREDL_MASKED_REFRESHES").ok().and_then(|n| n.parse().ok());
    let count: u64 = count.unwrap_or(1_000_000);
    let mut rng = StdRng::seed_from_u64(7);
    let refreshes = [
        refresh(1, 12),
        refresh(1_999, 30),
        refresh(-731, 20),
        refresh(1 << 20, 40),
        refresh(5, 0),
    ];
    let (mut n_raised, bits) = (0_u64, 34);
    let largest_mask = (1_u128 << (bits + MASK_MARGIN_BITS)) - 1;
    for i in 0..count {
        let refresh = &refreshes[(i % refreshes.len() as u64) as usize];
        let v = match i % 7 {
            0 => -(1_i64 << 33),
            1 => (1 << 33) - 1,
            _ => rng.random_range(-(1_i64 << 33)..1 << 33),
        };
        let r = match i % 11 {
            0 => 0,
            1 => largest_mask,
            _ => rng.random::<u128>() & largest_mask,
        };
        let plain = refresh.scale_masked(0, v.into());
        let unit = refresh.scale_masked(0, i128::from(v) + r.cast_signed())
            - refresh.scale_mask(0, r)
            - plain;
        assert!(unit == 0 || unit == 1, "{v} with mask {r}: {unit} units");
        n_raised += u64::from(unit == 1);
    }
    // About half of the values whose refresh rounds at all.
    assert!(n_raised > count / 5 && n_raised < count / 2, "{n_raised} of {count} are raised");
}

/// Chi-square of two samples over the same cells.
fn chi_square(first: &[u64], second: &[u64]) -> f64 {
    let cells = first.iter().zip(second).filter(|(a, b)| **a + **b > 0);
    cells.map(|(&a, &b)| (a as f64 - b as f64).powi(2) / (a + b) as f64).sum()
}

/// What a client sees of `v`, in cells by its highest and its lowest bits.
fn seen(refresh: &Refresh, v: i64, mask_bits: u32, n: usize, rng: &mut StdRng) -> Vec<u64> {
    let mut cells = vec![0; 32 * 32];
    let scaled = |w: i128| refresh.scale_masked(0, w);
    let top = scaled(1 << mask_bits).max(1);
    for _ in 0..n {
        let r = rng.random::<u128>() & ((1 << mask_bits) - 1);
        let c = scaled(i128::from(v) + r.cast_signed());
        let high = (c * 32 / top).clamp(0, 31);
        cells[(high * 32 + c.rem_euclid(32)) as usize] += 1;
    }
    cells
}

/// The values a client sees for the two ends of a range have one distribution; with masks as short as
/// the range they have not.
#[test]
fn what_the_client_sees_is_independent_of_the_values() {
    const BITS: u32 = 26;
    let mut rng = StdRng::seed_from_u64(11);
    let (n, cells) = (400_000, 1_023.0_f64);
    for refresh in [refresh(1, 18), refresh(1_021, 26), refresh(3, 10)] {
        let values = [0, 1, (1 << BITS) / 3, (1 << BITS) - 1];
        let first = seen(&refresh, values[0], BITS + MASK_MARGIN_BITS, n, &mut rng);
        for v in values {
            let other = seen(&refresh, v, BITS + MASK_MARGIN_BITS, n, &mut rng);
            let statistic = chi_square(&first, &other);
            // Six deviations of a chi-square distribution with 1,023 degrees of freedom.
            assert!(statistic < cells + 6.0 * (2.0 * cells).sqrt(), "{statistic} for {v}");
        }
        let [low, high] = [values[0], values[3]].map(|v| seen(&refresh, v, BITS, n, &mut rng));
        assert!(chi_square(&low, &high) > 10.0 * cells, "short masks show the value");
    }
}

/// Whether the extra unit occurs depends on the mask alone as soon as the value's own fraction is fixed:
/// it averages to that fraction.
#[test]
fn the_extra_unit_makes_the_average_exact() {
    let refresh = refresh(1_021, 20);
    let mut rng = StdRng::seed_from_u64(3);
    let n = 200_000;
    for v in [0_i64, 1, 700, 123_456, -98_765] {
        let exact = (v as f64).mul_add(1_021.0, (1 << 19) as f64) / (1 << 20) as f64;
        let total: i128 = (0..n)
            .map(|_| {
                let r = rng.random::<u128>() & ((1 << 60) - 1);
                refresh.scale_masked(0, i128::from(v) + r.cast_signed()) - refresh.scale_mask(0, r)
            })
            .sum();
        let mean = total as f64 / f64::from(n);
        assert!((mean - exact).abs() < 6.0 * 0.5 / f64::from(n).sqrt(), "{mean} {exact}");
    }
}

#[test]
fn what_no_mask_can_serve_is_refused() {
    let choices = Choices { client: true, graph: false, max_weight: 7, stages: (2, 3) };
    let (mut n_steps, mut n_pools) = (0, 0);
    for seed in 0..200 {
        let (network, inputs) = random_network(seed, choices);
        match network.evaluate_masked(&inputs, &NoMasks) {
            Err(Error::NotAtServer { .. }) => n_steps += 1,
            Err(Error::NotMaskable { .. }) => n_pools += 1,
            Err(Error::Accumulator { .. }) | Ok(_) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert!(n_steps > 10 && n_pools > 1, "{n_steps} {n_pools}");
    let (network, inputs) = (0..).find_map(maskable).unwrap();
    let off: Array2<i32> = inputs.mapv(|_| 1 << 20);
    assert!(matches!(network.evaluate_masked(&off, &NoMasks), Err(Error::OutOfRange { .. })));
}
