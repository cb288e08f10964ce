//! Laws that hold for every layout, every reply and every count.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "tests"
)]

use std::collections::BTreeMap;

use fingerprint::statistics::{
    Hypergeometric, Z_95, Z_99_9, ln_binomial, ln_factorial, wilson_interval,
};
use fingerprint::{
    BlockObservation, CanarySet, LayoutOptions, LayoutSpec, RandomPoints, SegmentCheck, SlotCheck,
    SlotLayout, SlotRole, Soundness, Verdict, WordCheck, WordCheckPolicy, judge,
};
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

/// Valid settings together with a number of samples that fits.
fn specs() -> impl Strategy<Value = (LayoutSpec, usize)> {
    (1_usize..5, 0_usize..12, 1_usize..6, 0_usize..8, 1_usize..40, 0_usize..40).prop_map(
        |(replicas, network_canaries, random_points, more_points, samples, spare)| {
            let options = LayoutOptions {
                replicas,
                network_canaries,
                random_points,
                max_random_points: random_points + more_points,
            };
            let n_slots = network_canaries + random_points + samples * replicas + spare;
            (LayoutSpec::new(n_slots, options).unwrap(), samples)
        },
    )
}

/// A layout with one row filled with distinct values, and what each part of it holds.
struct Filled {
    layout: SlotLayout,
    samples: Vec<i32>,
    canaries: Vec<i64>,
    points: Vec<i64>,
    row: Vec<i64>,
}

fn filled(spec: &LayoutSpec, n_samples: usize, seed: u64) -> Filled {
    let layout = SlotLayout::draw(spec, n_samples, &mut ChaCha20Rng::seed_from_u64(seed)).unwrap();
    let counts = layout.counts();
    let samples: Vec<i32> = (0..).take(n_samples).collect();
    let canaries: Vec<i64> = (10_000..).take(counts.network_canaries()).collect();
    let points: Vec<i64> = (20_000..).take(counts.random_points()).collect();
    let mut row = vec![i64::MIN; counts.n_slots()];
    layout.fill(&samples, &canaries, &points, &mut row).unwrap();
    Filled { layout, samples, canaries, points, row }
}

/// The verdict on one block of one neuron whose decrypted slots are `reply`, and the samples.
fn check(filled: &Filled, reply: &[i64]) -> (Verdict, Vec<i64>) {
    let mut observation = BlockObservation::new(1);
    let mut released = vec![0; filled.samples.len()];
    let Filled { layout, canaries, points, .. } = filled;
    layout.compare(0, reply, canaries, points, &mut observation, &mut released).unwrap();
    (judge(0, &[observation], &Soundness::unchecked()).unwrap(), released)
}

proptest! {
    #[test]
    fn every_slot_has_exactly_one_role_and_every_role_its_slots(
        (spec, n_samples) in specs(), seed: u64,
    ) {
        let layout =
            SlotLayout::draw(&spec, n_samples, &mut ChaCha20Rng::seed_from_u64(seed)).unwrap();
        let counts = layout.counts();
        let mut slots_of: BTreeMap<SlotRole, usize> = BTreeMap::new();
        for role in layout.roles() {
            *slots_of.entry(role).or_default() += 1;
        }
        for sample in 0..n_samples {
            for replica in 0..counts.replicas() {
                prop_assert_eq!(slots_of.remove(&SlotRole::Sample { sample, replica }), Some(1));
            }
        }
        for canary in 0..counts.network_canaries() {
            prop_assert_eq!(slots_of.remove(&SlotRole::NetworkCanary(canary)), Some(1));
        }
        let copies: Vec<usize> = (0..counts.random_points())
            .map(|point| slots_of.remove(&SlotRole::RandomPoint(point)).unwrap_or(0))
            .collect();
        prop_assert!(slots_of.is_empty());
        prop_assert_eq!(copies.iter().sum::<usize>(), counts.point_slots());
        let fewest = copies.iter().min().copied().unwrap();
        prop_assert!(fewest >= 1);
        prop_assert!(copies.iter().all(|&n| n <= fewest + 1), "copies are spread evenly");
        prop_assert!(counts.random_points() >= spec.options().random_points);
        prop_assert!(counts.random_points() <= spec.options().max_random_points);
        prop_assert_eq!(layout.roles().len(), spec.n_slots());
    }

    #[test]
    fn blocks_hold_as_many_samples_as_they_say_and_not_one_more((spec, _) in specs()) {
        let most = spec.samples_per_block();
        prop_assert!(spec.counts(most).is_ok());
        prop_assert!(spec.counts(most + 1).is_err());
        prop_assert!(spec.counts(0).is_err());
    }

    #[test]
    fn fill_puts_every_value_where_the_layout_says((spec, n_samples) in specs(), seed: u64) {
        let filled = filled(&spec, n_samples, seed);
        for (role, &value) in filled.layout.roles().into_iter().zip(&filled.row) {
            let expected = match role {
                SlotRole::Sample { sample, .. } => i64::from(filled.samples[sample]),
                SlotRole::NetworkCanary(canary) => filled.canaries[canary],
                SlotRole::RandomPoint(point) => filled.points[point],
            };
            prop_assert_eq!(value, expected);
        }
    }

    #[test]
    fn an_honest_reply_is_intact_and_gives_the_samples_back(
        (spec, n_samples) in specs(), seed: u64,
    ) {
        let filled = filled(&spec, n_samples, seed);
        let (verdict, released) = check(&filled, &filled.row);
        prop_assert!(verdict.is_intact());
        let samples: Vec<i64> = filled.samples.iter().map(|&x| i64::from(x)).collect();
        prop_assert_eq!(released, samples);
    }

    #[test]
    fn one_altered_slot_is_noticed_unless_it_holds_an_unreplicated_sample(
        (spec, n_samples) in specs(), seed: u64, at: prop::sample::Index,
        offset in prop_oneof![Just(1_i64), Just(-1), Just(i64::from(i32::MAX)), Just(1 << 60)],
    ) {
        let filled = filled(&spec, n_samples, seed);
        let slot = at.index(filled.row.len());
        let mut reply = filled.row.clone();
        reply[slot] += offset;
        let role = filled.layout.roles()[slot];
        let hidden =
            matches!(role, SlotRole::Sample { .. }) && filled.layout.counts().replicas() == 1;
        let (verdict, _) = check(&filled, &reply);
        prop_assert_eq!(verdict.is_intact(), hidden, "{:?}", role);
    }

    #[test]
    fn the_same_offset_everywhere_is_a_modified_model(
        (spec, n_samples) in specs(), seed: u64, offset in 1_i64..1_000_000,
    ) {
        let filled = filled(&spec, n_samples, seed);
        let reply: Vec<i64> = filled.row.iter().map(|value| value + offset).collect();
        let (verdict, _) = check(&filled, &reply);
        prop_assert_eq!(verdict, Verdict::ModelModified { segment: 0, neurons: vec![0] });
    }

    #[test]
    fn a_rotated_reply_is_never_intact(
        (spec, n_samples) in specs(), seed: u64, at: prop::sample::Index,
    ) {
        // Without copies, the value of a random point occurs in its own slot only.
        let options = LayoutOptions { max_random_points: 1_000, ..spec.options() };
        let spec = LayoutSpec::new(spec.n_slots(), options).unwrap();
        let filled = filled(&spec, n_samples, seed);
        let mut reply = filled.row.clone();
        let steps = at.index(reply.len());
        reply.rotate_left(steps);
        prop_assert_eq!(check(&filled, &reply).0.is_intact(), steps == 0);
    }

    #[test]
    fn merging_observations_gives_what_one_observation_gives(
        (spec, n_samples) in specs(), seed: u64, wrong in prop::collection::vec(any::<bool>(), 1..20),
        left in prop::collection::vec(any::<bool>(), 20),
    ) {
        let filled = filled(&spec, n_samples, seed);
        let Filled { layout, canaries, points, row, .. } = &filled;
        let n_neurons = wrong.len();
        let mut whole = BlockObservation::new(n_neurons);
        let mut parts = [BlockObservation::new(n_neurons), BlockObservation::new(n_neurons)];
        for (neuron, &wrong) in wrong.iter().enumerate() {
            let reply: Vec<i64> = row.iter().map(|value| value + i64::from(wrong)).collect();
            let mut released = vec![0; n_samples];
            for observation in [&mut whole, &mut parts[usize::from(left[neuron])]] {
                layout
                    .compare(neuron, &reply, canaries, points, observation, &mut released)
                    .unwrap();
            }
        }
        let [mut merged, other] = parts;
        merged.merge(&other).unwrap();
        let verdict = |observation| judge(0, &[observation], &Soundness::unchecked()).unwrap();
        prop_assert_eq!(verdict(merged), verdict(whole));
    }

    #[test]
    fn random_points_are_residues_and_rows_are_their_representatives(
        n_points in 0_usize..5, n_inputs in 0_usize..6,
        modulus in prop_oneof![Just(2_u64), Just(3), Just(1 << 62), 2..1_u64 << 62], seed: u64,
    ) {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let points = RandomPoints::draw(n_points, n_inputs, modulus, &mut rng).unwrap();
        let mut row = vec![0; n_points];
        for neuron in 0..n_inputs {
            points.values_into(neuron, &mut row).unwrap();
            for (point, &value) in points.points().iter().zip(&row) {
                let modulus = i128::from(modulus);
                prop_assert_eq!(i128::from(value).rem_euclid(modulus), i128::from(point[neuron]));
                prop_assert!(2 * i128::from(value) <= modulus && 2 * i128::from(value) > -modulus);
            }
        }
    }

    #[test]
    fn drawn_canaries_are_distinct_candidates(n in 0_usize..60, share in 0.0..=1.0_f64, seed: u64) {
        let k = ((n as f64) * share) as usize;
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let mut drawn = CanarySet::draw_from(n, k, &mut rng).unwrap();
        drawn.sort_unstable();
        drawn.dedup();
        prop_assert_eq!(drawn.len(), k);
        prop_assert!(drawn.iter().all(|&index| index < n));
    }

    #[test]
    fn more_checked_slots_and_more_altered_samples_never_weaken_a_figure(
        n_slots in 30_usize..600, canaries in 0_usize..10, n_altered in 1_usize..17, t in 5_u128..1 << 62,
    ) {
        let figure = |canaries, n_altered| {
            let options = LayoutOptions { network_canaries: canaries, ..LayoutOptions::default() };
            let spec = LayoutSpec::new(n_slots, options).unwrap();
            let counts = spec.counts(spec.samples_per_block()).unwrap();
            SlotCheck::new(counts, t, 2).unwrap().altered_samples_bits(n_altered)
        };
        let base = figure(canaries, n_altered);
        prop_assert!((0.0..=128.0).contains(&base));
        prop_assert!(figure(canaries + 1, n_altered) >= base - 1e-12);
        prop_assert!(figure(canaries, n_altered + 1) >= base - 1e-12);
    }

    #[test]
    fn one_replica_formula_is_the_general_formula(
        n_slots in 16_u64..400, canaries in 0_usize..9, altered in 1_u64..60,
    ) {
        let options = LayoutOptions { network_canaries: canaries, ..LayoutOptions::default() };
        let spec = LayoutSpec::new(n_slots as usize, options).unwrap();
        let n_samples = spec.samples_per_block() as u64;
        let counts = spec.counts(n_samples as usize).unwrap();
        let bits = SlotCheck::new(counts, 97, 2).unwrap().altered_samples_bits(altered as usize);
        let altered = altered.min(n_samples);
        let ln_miss = ln_binomial(n_samples, altered) - ln_binomial(n_slots, altered);
        let expected = (-ln_miss / core::f64::consts::LN_2).clamp(0.0, 128.0);
        prop_assert!((bits - expected).abs() < 1e-9, "{bits} against {expected}");
    }

    #[test]
    fn the_weakest_of_several_checks_is_below_each(
        rows in prop::collection::vec((1_u32..5, 10.0..60.0_f64), 1..6), t in 5_u128..1 << 40,
    ) {
        let counts = LayoutSpec::new(256, LayoutOptions::default()).unwrap().counts(100).unwrap();
        let mut checks: Vec<SegmentCheck> = rows
            .iter()
            .map(|&(rows, bits)| SegmentCheck::Words(WordCheck::new(rows, &[bits]).unwrap()))
            .collect();
        checks.push(SegmentCheck::Slots(SlotCheck::new(counts, t, 2).unwrap()));
        let all = Soundness::weakest(&checks).unwrap();
        prop_assert_eq!(all.reply_word_bits, None);
        prop_assert!(all.one_sample_bits <= all.one_percent_bits);
        for check in &checks {
            let one = Soundness::weakest(std::slice::from_ref(check)).unwrap();
            prop_assert!(all.every_slot_change_bits <= one.every_slot_change_bits);
            prop_assert!(all.one_percent_bits <= one.one_percent_bits);
            prop_assert!(all.one_sample_bits <= one.one_sample_bits);
        }
        // serde_json reads numbers back to within one unit in the last place.
        let json = serde_json::to_string(&all).unwrap();
        let again: Soundness = serde_json::from_str(&json).unwrap();
        let difference = again.one_sample_bits.unwrap() - all.one_sample_bits.unwrap();
        prop_assert!(difference.abs() < 1e-12);
        prop_assert_eq!(again.reply_word_bits, None);
    }

    #[test]
    fn the_policy_takes_the_fewest_rows_that_reach_its_target(
        target in 1.0..100.0_f64, moduli in prop::collection::vec(10.0..60.0_f64, 1..4),
        n_checks in 1_u64..1_000_000,
    ) {
        let check =
            WordCheckPolicy::new(target).unwrap().choose(&moduli, n_checks).unwrap();
        prop_assert!(check.run_bits(n_checks) >= target);
        prop_assert!(check.run_bits(n_checks) <= check.reply_word_bits());
        if check.rows() > 1 {
            let fewer = WordCheck::new(check.rows() - 1, &moduli).unwrap();
            prop_assert!(fewer.run_bits(n_checks) < target);
        }
    }

    #[test]
    fn binomials_equal_exact_integers(n in 0_u64..120, k in 0_u64..130) {
        // Pascal's triangle in u128; C(120, 60) < 2^117.
        let mut row = vec![1_u128];
        for _ in 0..n {
            let mut next = vec![1_u128];
            next.extend(row.windows(2).map(|pair| pair[0] + pair[1]));
            next.push(1);
            row = next;
        }
        let ln = ln_binomial(n, k);
        match row.get(k as usize) {
            Some(&exact) => {
                let expected = (exact as f64).ln();
                prop_assert!((ln - expected).abs() <= 1e-12 * expected.max(1.0), "{ln} {expected}");
            }
            None => prop_assert_eq!(ln, f64::NEG_INFINITY),
        }
    }

    #[test]
    fn binomials_obey_symmetry_and_pascal(n in 1_u64..100_000, share in 0.0..=1.0_f64) {
        let k = ((n as f64) * share) as u64;
        let ln = ln_binomial(n, k);
        let scale = ln.abs().max(1.0);
        prop_assert!((ln - ln_binomial(n, n - k)).abs() <= 1e-11 * scale);
        prop_assert!((ln_factorial(n) - ln_factorial(n - 1) - (n as f64).ln()).abs()
            <= 1e-11 * ln_factorial(n).max(1.0));
        if k >= 1 {
            let above = (ln_binomial(n - 1, k - 1) - ln).exp() + (ln_binomial(n - 1, k) - ln).exp();
            prop_assert!((above - 1.0).abs() < 1e-7, "{above}");
        }
    }

    #[test]
    fn hypergeometric_probabilities_sum_to_one_and_fit_the_tail(
        population in 1_u64..400, marked_share in 0.0..=1.0_f64, drawn_share in 0.0..=1.0_f64,
        at_least in 0_u64..20,
    ) {
        let marked = (population as f64 * marked_share) as u64;
        let drawn = (population as f64 * drawn_share) as u64;
        let draw = Hypergeometric::new(population, marked, drawn).unwrap();
        let probability = |hits: u64| draw.ln_probability(hits).exp();
        let sum: f64 = (0..=marked.min(drawn)).map(probability).sum();
        prop_assert!((sum - 1.0).abs() < 1e-10, "{sum}");
        let below: f64 = (0..at_least.min(population + 1)).map(probability).sum();
        prop_assert!((draw.tail(at_least) - (1.0 - below)).abs() < 1e-10);
        prop_assert!((draw.ln_none().exp() - probability(0)).abs() < 1e-10);
        // Drawing and marking may be exchanged.
        let swapped = Hypergeometric::new(population, drawn, marked).unwrap();
        prop_assert!((draw.ln_none().exp() - swapped.ln_none().exp()).abs() < 1e-12);
        prop_assert!(draw.tail(at_least) >= draw.tail(at_least + 1) - 1e-12);
    }

    #[test]
    fn wilson_intervals_hold_the_share_and_widen_with_confidence(
        trials in 1_u64..1_000_000, share in 0.0..=1.0_f64,
    ) {
        let successes = (trials as f64 * share) as u64;
        let observed = successes as f64 / trials as f64;
        let narrow = wilson_interval(successes, trials, Z_95).unwrap();
        let wide = wilson_interval(successes, trials, Z_99_9).unwrap();
        prop_assert!(narrow.contains(observed));
        prop_assert!(0.0 <= wide.low && wide.low <= narrow.low);
        prop_assert!(narrow.high <= wide.high && wide.high <= 1.0);
        // Exchanging success and failure mirrors the interval.
        let mirror = wilson_interval(trials - successes, trials, Z_95).unwrap();
        prop_assert!((mirror.low - (1.0 - narrow.high)).abs() < 1e-12);
        prop_assert!((mirror.high - (1.0 - narrow.low)).abs() < 1e-12);
    }
}
