//! Laws of the smallest changes: exactly the numbers that are named change, by exactly that much.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "tests"
)]

use fingerprint::Error;
use fingerprint::attack::integer::{Edit, Place, Step, flip_bits, flip_lowest_bits};
use nn_poly::integer::{
    ActivationKind, InputGrid, IntegerNetwork, LinearGeometry, MAX_WEIGHT, Quadratic, Refresh,
    StageStructure, StageWeights, ValueRef,
};
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const WIDTHS: [usize; 3] = [5, 4, 3];

/// Two dense stages with weights of at most `max`, a quarter of them at the ends.
fn network(seed: u64, max: i16) -> IntegerNetwork {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut structure = Vec::new();
    let mut weights = Vec::new();
    for (stage, widths) in WIDTHS.windows(2).enumerate() {
        let (n_in, n_out) = (widths[0], widths[1]);
        let is_last = stage + 2 == WIDTHS.len();
        structure.push(StageStructure {
            sources: vec![if stage == 0 { ValueRef::Input } else { ValueRef::Stage(0) }],
            linear: LinearGeometry::Dense { n_in, n_out },
            activation: if is_last { ActivationKind::Identity } else { ActivationKind::Quadratic },
            pool: None,
            refresh: (!is_last).then(|| Refresh {
                multipliers: vec![1],
                shift: 3,
                min: 0,
                max: 15,
            }),
            chain: None,
        });
        let mut draw = || match rng.random_range(0..8) {
            0 => max,
            1 => -max,
            _ => rng.random_range(-max..=max),
        };
        weights.push(StageWeights {
            weights: (0..n_in * n_out).map(|_| draw()).collect(),
            bias: vec![3; n_out],
            quadratic: (!is_last).then(Quadratic::square),
            chain: Vec::new(),
        });
    }
    let grid = InputGrid { bits: 4, signed: false, step: 1.0 };
    IntegerNetwork::new(grid, WIDTHS[0], structure, weights).unwrap()
}

fn weights(network: &IntegerNetwork) -> Vec<i32> {
    let stages = network.weights().iter();
    stages.flat_map(|stage| stage.weights.iter().map(|&w| i32::from(w))).collect()
}

fn differences(before: &IntegerNetwork, after: &IntegerNetwork) -> Vec<(usize, i32)> {
    let pairs = weights(before).into_iter().zip(weights(after)).enumerate();
    pairs.filter(|(_, (b, a))| b != a).map(|(index, (b, a))| (index, a - b)).collect()
}

proptest! {
    #[test]
    fn an_edit_moves_one_weight_by_one(
        seed: u64, max in prop::sample::select(vec![1_i16, 7, i16::MAX]), stage in 0_usize..3,
    ) {
        let network = network(seed, max);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let chosen = (stage < 2).then_some(stage);
        let edit = Edit::draw(&network, chosen, &mut rng).unwrap();
        prop_assert!(edit.is_allowed(&network));
        prop_assert!(chosen.is_none_or(|stage| edit.stage == stage));
        let edited = edit.apply(&network).unwrap();
        let Place::Weight(index) = edit.place else { panic!("weights only") };
        let offset = if edit.stage == 0 { 0 } else { WIDTHS[0] * WIDTHS[1] };
        let expected = [(offset + index, i32::from(edit.step.delta()))];
        prop_assert_eq!(differences(&network, &edited), expected);
        let back = match edit.step { Step::Up => Step::Down, Step::Down => Step::Up };
        let restored = Edit { step: back, ..edit }.apply(&edited).unwrap();
        prop_assert_eq!(restored.weights(), network.weights());
        prop_assert_eq!(edited.structure(), network.structure());
    }

    #[test]
    fn lowest_bits_flip_in_exactly_that_share(seed: u64, share in 0.001..=1.0_f64) {
        let network = network(seed, 7);
        let n = weights(&network).len();
        let flip = |seed: u64| {
            flip_lowest_bits(&network, share, &mut ChaCha8Rng::seed_from_u64(seed)).unwrap()
        };
        let flipped = flip(seed);
        let expected = ((share * n as f64).round() as usize).max(1);
        prop_assert_eq!(flipped.changed.len(), expected);
        let found = differences(&network, &flipped.network);
        prop_assert_eq!(found.len(), expected);
        prop_assert!(found.iter().all(|(_, difference)| difference.abs() == 1));
        let again = flip(seed).network;
        prop_assert_eq!(again.weights(), flipped.network.weights());
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let twice = flip_lowest_bits(&flipped.network, share, &mut rng).unwrap();
        prop_assert_eq!(twice.network.weights(), network.weights(), "a flip undoes itself");
    }

    #[test]
    fn flipped_bits_are_counted(seed: u64, n_bits in 1_usize..30, bits in 4_u32..=16) {
        let network = network(seed, 7);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let flipped = flip_bits(&network, n_bits, bits, &mut rng).unwrap();
        let pairs = weights(&network).into_iter().zip(weights(&flipped.network));
        let limit = 1 << (bits - 1);
        let mut n_flipped = 0;
        for (before, after) in pairs {
            let mask = (before ^ after) as u32 & ((1 << bits) - 1);
            prop_assert!((-limit..limit).contains(&after), "{} of {} bits", after, bits);
            prop_assert!(after.abs() <= MAX_WEIGHT);
            n_flipped += mask.count_ones() as usize;
        }
        // Of 16 bits the sign of a zero stays: its flip would be the excluded weight.
        prop_assert!(n_flipped <= n_bits);
        prop_assert!(n_flipped == n_bits || bits == 16);
    }
}

#[test]
fn the_highest_bit_is_the_sign() {
    let network = network(5, 7);
    // All bits of all weights: the complement, −1 − w.
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let flipped = flip_bits(&network, 128, 4, &mut rng).unwrap();
    for (before, after) in weights(&network).into_iter().zip(weights(&flipped.network)) {
        assert_eq!(after, -1 - before);
    }
}

#[test]
fn the_excluded_weight_never_appears() {
    let all_low = |seed| {
        let network = network(seed, i16::MAX);
        let stage = network.weights()[0].clone();
        let low = StageWeights { weights: vec![-i16::MAX; stage.weights.len()], ..stage };
        network.with_stage_weights(0, low).unwrap()
    };
    let network = all_low(3);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let flipped = flip_lowest_bits(&network, 1.0, &mut rng).unwrap();
    assert!(flipped.changed.iter().all(|(stage, _)| *stage == 1));
    for seed in 0..20 {
        let edit = Edit::draw(&network, Some(0), &mut ChaCha8Rng::seed_from_u64(seed)).unwrap();
        assert_eq!(edit.step, Step::Up, "the only way there is");
    }
}

#[test]
fn edits_that_do_not_exist_are_refused() {
    let network = network(1, 7);
    let edit = |stage, place| Edit { stage, place, step: Step::Up };
    let missing = edit(0, Place::Weight(20));
    assert!(!missing.is_allowed(&network));
    let expected = Error::IndexOutOfRange { what: "weight", index: 20, len: 20 };
    assert_eq!(missing.apply(&network).unwrap_err(), expected);
    let expected = Error::IndexOutOfRange { what: "bias", index: 4, len: 4 };
    assert_eq!(edit(0, Place::Bias(4)).apply(&network).unwrap_err(), expected);
    assert!(matches!(edit(2, Place::Bias(0)).apply(&network), Err(Error::Network(_))));
    let moved = edit(1, Place::Bias(2)).apply(&network).unwrap();
    assert_eq!(moved.weights()[1].bias, [3, 3, 4]);

    let top = StageWeights { weights: vec![i16::MAX; 20], ..network.weights()[0].clone() };
    let top = network.with_stage_weights(0, top).unwrap();
    let error = edit(0, Place::Weight(0)).apply(&top).unwrap_err().to_string();
    assert_eq!(error, "a weight before the step is 32767, but must be inside ±32767");

    let mut rng = ChaCha8Rng::seed_from_u64(1);
    assert!(matches!(Edit::draw(&network, Some(2), &mut rng), Err(Error::Network(_))));
    for share in [0.0, -0.1, 1.1, f64::NAN] {
        assert!(flip_lowest_bits(&network, share, &mut rng).is_err(), "{share}");
    }
    for (n_bits, bits) in [(0, 4), (1, 0), (1, 17), (129, 4), (1, 3)] {
        assert!(flip_bits(&network, n_bits, bits, &mut rng).is_err(), "{n_bits} of {bits}");
    }
    assert_eq!(flip_bits(&network, 128, 4, &mut rng).unwrap().changed.len(), 32);
}

/// Some change of every stage reaches the scores of some input: edits are not decoration.
#[test]
fn edits_change_what_the_network_says() {
    let network = network(5, 7);
    let inputs = ndarray::Array2::from_shape_fn((5, 64), |(row, column)| {
        i32::try_from((row * 7 + column * 5 + row * column) % 16).unwrap()
    });
    let before = network.evaluate(&inputs).unwrap().scores;
    for stage in 0..2 {
        let mut n_seen = 0;
        for seed in 0..20 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let edit = Edit::draw(&network, Some(stage), &mut rng).unwrap();
            let after = edit.apply(&network).unwrap().evaluate(&inputs).unwrap().scores;
            n_seen += usize::from(before != after);
        }
        assert!(n_seen >= 10, "stage {stage}: {n_seen} of 20");
    }
}
