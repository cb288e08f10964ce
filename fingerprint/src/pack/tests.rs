#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "tests"
)]

use proptest::prelude::*;
use rand::seq::index::sample;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

use super::*;
use crate::statistics::{Z_99_9999, wilson_interval};

/// A pack with these ranges, canary after canary.
fn pack(n_scores: u32, ranges: Vec<(i64, i64)>) -> CanaryPack {
    let n_canaries = ranges.len() / n_scores as usize;
    let (n_inputs, inputs) = (1, vec![0; n_canaries]);
    let digest = Digest([1; 32]);
    let (plan, public, private) = (digest, digest, digest);
    let content =
        Content { plan, public, private, n_inputs, n_scores, n_bounds: 9, inputs, ranges };
    content.check().unwrap();
    CanaryPack(content)
}

/// Canaries of several classes, each far from the others and exact up to `width`.
fn classes(n_canaries: i64, n_classes: i64, width: i64) -> CanaryPack {
    let score = |canary: i64, class: i64| if canary % n_classes == class { 1000 } else { 0 };
    let canaries = (0..n_canaries).flat_map(|i| (0..n_classes).map(move |class| score(i, class)));
    pack(u32::try_from(n_classes).unwrap(), canaries.map(|s| (s, s + width)).collect())
}

fn verdict(pack: &CanaryPack, n_drawn: usize) -> MaskedVerdict {
    let soundness = MaskedSoundness::new(100, n_drawn, pack.sharpness(), 50.0);
    judge_masked(&[(n_drawn as u64, 0)], soundness)
}

#[test]
fn tolerances_that_notice_nothing_end_unverified() {
    let sharp = classes(12, 3, 10);
    let Sharpness { n_canaries, n_decided, n_alike, width_share } = sharp.sharpness();
    assert_eq!((n_canaries, n_decided, n_alike), (12, 12, 4));
    assert!(width_share < 0.02);
    assert!(matches!(verdict(&sharp, 6), MaskedVerdict::Tolerated { .. }));
    // With many classes most canaries agree in any one score, and none in all of them.
    assert_eq!(classes(60, 10, 10).sharpness().n_alike, 6);
    // As wide as the scores lie apart: any label, any scores.
    let wide = classes(12, 3, 2000);
    assert_eq!((wide.sharpness().n_decided, wide.sharpness().n_alike), (0, 12));
    let MaskedVerdict::Unverified { soundness } = verdict(&wide, 6) else {
        panic!("nothing is noticed, and nothing said about it")
    };
    assert_eq!((soundness.every_label_bits, soundness.ignored_inputs_bits), (0.0, 0.0));
    assert_eq!((soundness.one_percent_bits, soundness.one_sample_bits), (0.0, 0.0));
    // Canaries of one class only: every label is decided, and a constant answer passes.
    let same = classes(12, 3, 10);
    let same = pack(3, same.0.ranges[..3].repeat(12));
    assert_eq!((same.sharpness().n_decided, same.sharpness().n_alike), (12, 12));
    assert!(matches!(verdict(&same, 6), MaskedVerdict::Unverified { .. }));
    // What is refuted stays refuted, however wide.
    let soundness = MaskedSoundness::new(100, 6, wide.sharpness(), 50.0);
    let refuted = judge_masked(&[(6, 0), (6, 1)], soundness);
    let expected = MaskedVerdict::Refuted { blocks: vec![1], n_failed: 1, n_canaries: 12 };
    assert_eq!(refuted, expected);
    // One score has no labels to be wrong.
    assert_eq!(pack(1, vec![(0, 1), (5, 9)]).sharpness().n_decided, 0);
    // More canaries than there are promise nothing.
    assert!(!MaskedSoundness::new(100, 13, sharp.sharpness(), 50.0).vouches());
}

/// Every figure against what random draws of slots and canaries give. That of answers without the inputs
/// is a bound: the same scores for all, or drawn for every slot among the best, stay below it.
#[test]
fn cheating_is_missed_as_often_as_the_figures_say() {
    let mut rng = ChaCha20Rng::seed_from_u64(4);
    // Of 10 canaries 4 tolerate any label; 7 of them tolerate one answer.
    let mut ranges = classes(10, 2, 10).0.ranges;
    for canary in 0..4 {
        ranges[2 * canary] = (0, 2000);
        ranges[2 * canary + 1] = (0, 2000);
    }
    let pack = pack(2, ranges);
    let sharpness = pack.sharpness();
    assert_eq!((sharpness.n_decided, sharpness.n_alike), (6, 7));
    let (n_samples, n_drawn, n_trials) = (40, 3, 200_000);
    let soundness = MaskedSoundness::new(n_samples, n_drawn, sharpness, 50.0);
    let (mut missed, mut ignorant) = ([0_u64; 2], [0_u64; 2]);
    let answers = [[1000, 0], [0, 1000]];
    for _ in 0..n_trials {
        let drawn: Vec<usize> = sample(&mut rng, 10, n_drawn).into_vec();
        let wrong = |canary: usize| {
            // The label that is not the canary's.
            let scores = if canary.is_multiple_of(2) { [0, 1000] } else { [1000, 0] };
            pack.is_tolerated(canary, &scores)
        };
        missed[0] += u64::from(drawn.iter().all(|&canary| wrong(canary)));
        let passes = |answer: &mut dyn FnMut() -> usize| {
            drawn.iter().all(|&canary| pack.is_tolerated(canary, &answers[answer()]))
        };
        ignorant[0] += u64::from(passes(&mut || 0));
        ignorant[1] += u64::from(passes(&mut || rng.random_range(0..2)));
        // One slot of samples and canaries gets a wrong label: the last ones are the canaries'.
        let altered = rng.random_range(0..n_samples + n_drawn);
        let hit = altered.checked_sub(n_samples).map(|index| drawn[index]);
        missed[1] += u64::from(hit.is_none_or(wrong));
    }
    let figures = [soundness.every_label_bits, soundness.one_sample_bits];
    for (bits, missed) in figures.into_iter().zip(missed) {
        let measured = wilson_interval(missed, n_trials, Z_99_9999).unwrap();
        let expected = (-bits).exp2();
        assert!(measured.contains(expected), "{expected} outside {measured:?}");
    }
    let bound = (-soundness.ignored_inputs_bits).exp2();
    assert!(bound < 0.5, "7³/(10·9·8)");
    for passed in ignorant {
        let measured = wilson_interval(passed, n_trials, Z_99_9999).unwrap();
        assert!(measured.high <= bound && measured.low > 0.2, "{measured:?} {bound}");
    }
    // One percent of 40 samples is one of them.
    assert!((soundness.one_percent_bits - soundness.one_sample_bits).abs() < 1e-12);
}

proptest! {
    /// No vector of scores is tolerated by more canaries than the bound says, and labels of decided
    /// canaries cannot be changed.
    #[test]
    fn sharpness_bounds_every_answer(
        ranges in prop::collection::vec((0_i64..30, 0_i64..12), 3..24),
        answers in prop::collection::vec((0_i128..45, 0_i128..45, 0_i128..45), 20),
    ) {
        let n = ranges.len() / 3 * 3;
        let pack = pack(3, ranges[..n].iter().map(|&(low, width)| (low, low + width)).collect());
        let sharpness = pack.sharpness();
        for (a, b, c) in answers {
            let scores = [a, b, c];
            let tolerant = (0..n / 3).filter(|&canary| pack.is_tolerated(canary, &scores));
            prop_assert!(tolerant.count() <= sharpness.n_alike);
            for canary in (0..n / 3).filter(|&canary| pack.is_decided(canary)) {
                let low: Vec<i64> = pack.ranges(canary).map(|range| range.low).collect();
                let label = (0..3).max_by_key(|&class| low[class]).unwrap();
                let is_wrong = (0..3).any(|class| class != label && scores[class] >= scores[label]);
                prop_assert!(!is_wrong || !pack.is_tolerated(canary, &scores));
            }
        }
    }
}
