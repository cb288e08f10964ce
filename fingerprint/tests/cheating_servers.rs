//! Monte-Carlo check of every soundness formula: simulated servers cheat on toy sizes, thousands of
//! times, and the measured rate of unnoticed cheating is compared with the figure.
//!
//! Each server goes through the real path (draw, fill, compare, judge). All seeds are fixed; the
//! intervals are Wilson's at 99.9999 %, so a formula that is wrong by a tenth fails.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "tests"
)]

use fingerprint::statistics::{Interval, Z_99_9999, wilson_interval};
use fingerprint::{
    BlockObservation, LayoutOptions, LayoutSpec, RandomPoints, SlotCheck, SlotLayout, Soundness,
    Verdict, WordCheck, judge,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

/// Toy plaintext modulus: small, so that chance agreement is frequent enough to measure.
const T: i64 = 31;
/// Input neurons of the toy segment.
const N_IN: usize = 2;

/// A polynomial of total degree 2 in two variables over `Z_31`:
/// `c0 + c1·x + c2·y + c3·x² + c4·xy + c5·y²`.
#[derive(Clone, Copy)]
struct Quadratic([i64; 6]);

impl Quadratic {
    fn random(rng: &mut ChaCha20Rng) -> Self {
        Self(core::array::from_fn(|_| rng.random_range(0..T)))
    }

    /// `(x − a)(x − b)`: vanishes on as large a share of the points as degree 2 allows, `2/t`.
    fn with_roots(a: i64, b: i64) -> Self {
        Self([a * b, -a - b, 0, 1, 0, 0])
    }

    fn at(&self, [x, y]: [i64; N_IN]) -> i64 {
        let Self([c0, c1, c2, c3, c4, c5]) = self;
        (c0 + c1 * x + c2 * y + c3 * x * x + c4 * x * y + c5 * y * y).rem_euclid(T)
    }
}

/// One batch as the server sees it: the plain content of every slot, and the honest reply.
struct Batch {
    inputs: Vec<[i64; N_IN]>,
    reply: Vec<i64>,
}

/// Runs one batch against a cheating server. Returns whether the cheat changed a sample's result
/// or, for maps, was made at all, *and* went unnoticed.
fn unnoticed(
    spec: &LayoutSpec,
    n_samples: usize,
    canary: [i64; N_IN],
    rng: &mut ChaCha20Rng,
    cheat: &mut dyn FnMut(&mut Batch, &mut ChaCha20Rng),
    counts_only_if_a_sample_changed: bool,
) -> bool {
    let layout = SlotLayout::draw(spec, n_samples, rng).unwrap();
    let counts = layout.counts();
    let honest = Quadratic::random(rng);
    let points = RandomPoints::draw(counts.random_points(), N_IN, T as u64, rng).unwrap();
    let mut inputs = vec![[0; N_IN]; counts.n_slots()];
    let mut point_values = vec![[0; N_IN]; counts.random_points()];
    for neuron in 0..N_IN {
        let samples: Vec<i32> = (0..n_samples).map(|_| rng.random_range(0..16)).collect();
        let mut of_points = vec![0; counts.random_points()];
        points.values_into(neuron, &mut of_points).unwrap();
        let canaries = vec![canary[neuron]; counts.network_canaries()];
        let mut row = vec![0; counts.n_slots()];
        layout.fill(&samples, &canaries, &of_points, &mut row).unwrap();
        inputs.iter_mut().zip(row).for_each(|(slot, value)| slot[neuron] = value);
        point_values.iter_mut().zip(of_points).for_each(|(point, value)| point[neuron] = value);
    }
    let truth: Vec<i64> = inputs.iter().map(|&slot| honest.at(slot)).collect();
    let mut batch = Batch { inputs, reply: truth.clone() };
    cheat(&mut batch, rng);

    let mut observation = BlockObservation::new(1);
    let mut released = vec![0; n_samples];
    layout
        .compare(
            0,
            &batch.reply,
            &vec![honest.at(canary); counts.network_canaries()],
            &point_values.iter().map(|&point| honest.at(point)).collect::<Vec<_>>(),
            &mut observation,
            &mut released,
        )
        .unwrap();
    let verdict = judge(0, &[observation], &Soundness::unchecked()).unwrap();
    let expected = layout.replica_slots(0).unwrap().iter().map(|&slot| truth[slot as usize]);
    let harmed = !expected.eq(released.iter().copied());
    verdict.is_intact() && (harmed || !counts_only_if_a_sample_changed)
}

/// Rate at which `trial` succeeds, as an interval.
fn measure(n_trials: u64, seed: u64, mut trial: impl FnMut(&mut ChaCha20Rng) -> bool) -> Interval {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let n_unnoticed = (0..n_trials).filter(|_| trial(&mut rng)).count();
    wilson_interval(n_unnoticed as u64, n_trials, Z_99_9999).unwrap()
}

fn spec(n_slots: usize, replicas: usize, canaries: usize, points: usize) -> LayoutSpec {
    LayoutSpec::new(
        n_slots,
        LayoutOptions {
            replicas,
            network_canaries: canaries,
            random_points: points,
            max_random_points: points,
        },
    )
    .unwrap()
}

fn slot_check(spec: &LayoutSpec, n_samples: usize) -> SlotCheck {
    SlotCheck::new(spec.counts(n_samples).unwrap(), T as u128, 2).unwrap()
}

/// Picks `m` of the slots, all sets being equally likely.
fn pick(n_slots: usize, m: usize, rng: &mut ChaCha20Rng) -> Vec<usize> {
    rand::seq::index::sample(rng, n_slots, m).into_vec()
}

/// Adds the same non-zero offset to `m` random slots.
fn offset_slots(m: usize) -> impl FnMut(&mut Batch, &mut ChaCha20Rng) {
    move |batch, rng| {
        let offset = rng.random_range(1..T);
        for slot in pick(batch.reply.len(), m, rng) {
            batch.reply[slot] = (batch.reply[slot] + offset) % T;
        }
    }
}

#[test]
fn a_worst_case_map_on_every_slot_is_missed_as_often_as_the_figure_says() {
    // The last block has room to spare: copies of its point do not count as points.
    for (points, n_samples, n_trials) in [(1, 7, 200_000), (2, 6, 600_000), (1, 3, 200_000)] {
        let spec = spec(8, 1, 0, points);
        let figure = (-slot_check(&spec, n_samples).every_slot_change_bits()).exp2();
        let rate = measure(n_trials, 1, |rng| {
            let a = rng.random_range(0..T);
            let b = (a + rng.random_range(1..T)) % T;
            let change = Quadratic::with_roots(a, b);
            unnoticed(
                &spec,
                n_samples,
                [0; 2],
                rng,
                &mut |batch, _| {
                    for (y, &x) in batch.reply.iter_mut().zip(&batch.inputs) {
                        *y = (*y + change.at(x)) % T;
                    }
                },
                false,
            )
        });
        assert!(rate.contains(figure), "{points} points: {figure} not in {rate:?}");
    }
}

#[test]
fn a_random_map_on_every_slot_is_missed_at_most_as_often_as_the_figure_says() {
    let spec = spec(8, 1, 0, 1);
    let figure = (-slot_check(&spec, 7).every_slot_change_bits()).exp2();
    let rate = measure(200_000, 2, |rng| {
        let change = loop {
            let candidate = Quadratic::random(rng);
            if candidate.0.iter().any(|&c| c != 0) {
                break candidate;
            }
        };
        unnoticed(
            &spec,
            7,
            [0; 2],
            rng,
            &mut |batch, _| {
                for (y, &x) in batch.reply.iter_mut().zip(&batch.inputs) {
                    *y = (*y + change.at(x)) % T;
                }
            },
            false,
        )
    });
    assert!(rate.low > 0.0 && rate.high < figure, "{rate:?} against {figure}");
}

#[test]
fn altered_slots_are_missed_as_often_as_the_figure_says() {
    // (slots, canaries, points, samples, altered slots): full blocks, and one with copies.
    for (n_slots, canaries, points, n_samples, m) in
        [(24, 4, 4, 16, 1), (24, 4, 4, 16, 4), (24, 0, 2, 22, 7), (24, 4, 4, 8, 2)]
    {
        let spec = spec(n_slots, 1, canaries, points);
        let figure = (-slot_check(&spec, n_samples).altered_samples_bits(m)).exp2();
        let rate = measure(200_000, 3, |rng| {
            unnoticed(&spec, n_samples, [1, 2], rng, &mut offset_slots(m), true)
        });
        assert!(rate.contains(figure), "{m} of {n_slots}: {figure} not in {rate:?}");
    }
}

#[test]
fn altered_replicas_are_missed_as_often_as_the_figure_says() {
    // (slots, replicas, canaries, points, samples, altered slots = replicas · altered samples)
    for (n_slots, replicas, canaries, points, n_samples, altered) in
        [(12, 2, 2, 2, 4, 1), (12, 2, 2, 2, 4, 2), (14, 3, 1, 4, 3, 1)]
    {
        let spec = spec(n_slots, replicas, canaries, points);
        let figure = (-slot_check(&spec, n_samples).altered_samples_bits(altered)).exp2();
        let rate = measure(600_000, 4, |rng| {
            unnoticed(&spec, n_samples, [1, 2], rng, &mut offset_slots(replicas * altered), true)
        });
        assert!(rate.contains(figure), "{altered} of {n_samples}: {figure} not in {rate:?}");
    }
}

#[test]
fn altering_one_replica_alone_never_goes_unnoticed() {
    let spec = spec(12, 2, 1, 1);
    let rate =
        measure(2_000, 5, |rng| unnoticed(&spec, 5, [1, 2], rng, &mut offset_slots(1), true));
    assert_eq!(rate.low, 0.0);
    assert!(rate.high < 0.02);
}

#[test]
fn sparing_one_slot_is_the_best_cheat_when_replicas_outnumber_checked_slots() {
    let spec = spec(7, 3, 0, 1);
    let figure = (-slot_check(&spec, 2).altered_samples_bits(1)).exp2();
    let rate =
        measure(200_000, 6, |rng| unnoticed(&spec, 2, [1, 2], rng, &mut offset_slots(6), true));
    assert!(rate.contains(figure), "{figure} not in {rate:?}");
}

#[test]
fn a_map_changed_on_some_slots_is_missed_at_most_as_often_as_the_figure_says() {
    // The changed map agrees with the honest one at the canaries' input: only points can notice.
    for (points, n_samples, m) in [(1, 11, 6), (2, 10, 6), (2, 10, 16), (3, 5, 3)] {
        let spec = spec(16, 1, 4, points);
        let bound = (-slot_check(&spec, n_samples).changed_map_bits(m)).exp2();
        let rate = measure(200_000, 7, |rng| {
            let a = rng.random_range(0..T);
            let b = (a + rng.random_range(1..T)) % T;
            let change = Quadratic::with_roots(a, b);
            unnoticed(
                &spec,
                n_samples,
                [a, 0],
                rng,
                &mut |batch, rng| {
                    for slot in pick(batch.reply.len(), m, rng) {
                        let difference = change.at(batch.inputs[slot]);
                        batch.reply[slot] = (batch.reply[slot] + difference) % T;
                    }
                },
                false,
            )
        });
        assert!(rate.low <= bound, "{m} slots, {points} points: {rate:?} above {bound}");
        // With a single point slot the bound is exact.
        if points == 1 {
            assert!(rate.contains(bound), "{bound} not in {rate:?}");
        }
    }
}

#[test]
fn another_model_on_every_slot_gets_its_name() {
    // Two outputs with different weights; the server changes the second one.
    let spec = spec(16, 2, 3, 2);
    let mut rng = ChaCha20Rng::seed_from_u64(8);
    let mut blocks = Vec::new();
    for _ in 0..3 {
        let layout = SlotLayout::draw(&spec, 5, &mut rng).unwrap();
        let mut row = vec![0; 16];
        layout.fill(&[1, 2, 3, 4, 5], &[6, 7, 8], &[9, 10], &mut row).unwrap();
        let mut observation = BlockObservation::new(2);
        for (neuron, (weight, applied)) in [(3, 3), (4, 5)].into_iter().enumerate() {
            let reply: Vec<i64> = row.iter().map(|x| x * applied).collect();
            let known = |values: &[i64]| values.iter().map(|x| x * weight).collect::<Vec<_>>();
            layout
                .compare(
                    neuron,
                    &reply,
                    &known(&[6, 7, 8]),
                    &known(&[9, 10]),
                    &mut observation,
                    &mut [0; 5],
                )
                .unwrap();
        }
        blocks.push(observation);
    }
    let verdict = judge(4, &blocks, &Soundness::unchecked()).unwrap();
    assert_eq!(verdict, Verdict::ModelModified { segment: 4, neurons: vec![1] });
}

/// Freivalds' check on a toy reply: `alter` changes some words of the honest 3 × 5 reply.
fn word_check_passes(
    rows: u32,
    rng: &mut ChaCha20Rng,
    alter: impl Fn(&mut [[i64; 5]; 3], &mut ChaCha20Rng),
) -> bool {
    const Q: i64 = 13;
    let random = |rng: &mut ChaCha20Rng| rng.random_range(0..Q);
    let weights: [[i64; 2]; 3] = core::array::from_fn(|_| [random(rng), random(rng)]);
    let input: [[i64; 5]; 2] = core::array::from_fn(|_| core::array::from_fn(|_| random(rng)));
    let mut reply: [[i64; 5]; 3] = core::array::from_fn(|out| {
        core::array::from_fn(|column| {
            (0..2).map(|i| weights[out][i] * input[i][column]).sum::<i64>() % Q
        })
    });
    alter(&mut reply, rng);
    (0..rows).fold(true, |passes, _| {
        let r: [i64; 3] = core::array::from_fn(|_| random(rng));
        let combined: [i64; 2] =
            core::array::from_fn(|i| (0..3).map(|out| r[out] * weights[out][i]).sum::<i64>() % Q);
        let agrees = (0..5).all(|column| {
            let z: i64 = (0..2).map(|i| combined[i] * input[i][column]).sum();
            let y: i64 = (0..3).map(|out| r[out] * reply[out][column]).sum();
            z % Q == y % Q
        });
        passes & agrees
    })
}

#[test]
fn an_altered_word_is_missed_as_often_as_the_figure_says() {
    for (rows, n_trials) in [(1, 200_000), (2, 600_000)] {
        let figure = (-WordCheck::new(rows, &[13f64.log2()]).unwrap().reply_word_bits()).exp2();
        let one_word = measure(n_trials, 9, |rng| {
            word_check_passes(rows, rng, |reply, rng| {
                let word = &mut reply[rng.random_range(0..3)][rng.random_range(0..5)];
                *word = (*word + rng.random_range(1..13)) % 13;
            })
        });
        assert!(one_word.contains(figure), "{rows} rows: {figure} not in {one_word:?}");
        // The best a server can do is the same difference in every column.
        let aligned = measure(n_trials, 10, |rng| {
            word_check_passes(rows, rng, |reply, _| {
                reply.iter_mut().flatten().for_each(|word| *word = (*word + 5) % 13);
            })
        });
        assert!(aligned.contains(figure), "{rows} rows: {figure} not in {aligned:?}");
        // Unrelated differences in all columns must agree in each of them.
        let scattered = measure(n_trials, 11, |rng| {
            word_check_passes(rows, rng, |reply, rng| {
                reply.iter_mut().flatten().for_each(|word| *word = rng.random_range(0..13));
            })
        });
        assert!(scattered.high < figure, "{rows} rows: {scattered:?} against {figure}");
    }
}

#[test]
fn an_honest_reply_always_passes_the_word_check() {
    let rate = measure(1_000, 12, |rng| word_check_passes(2, rng, |_, _| ()));
    assert_eq!(rate.high, 1.0);
    assert!(rate.low > 0.95);
}
