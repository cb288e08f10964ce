//! Trials of single-weight changes against whole evaluations, and their rates against theory.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "tests"
)]

use std::sync::atomic::{AtomicU64, Ordering};

use fingerprint::Error;
use fingerprint::attack::integer::Edit;
use fingerprint::single_weight::{StageCheck, StageTrials, TrialSpec, single_weight_trials};
use nn_poly::integer::{
    ActivationKind, ConvGeometry, Grouping, InputGrid, IntegerNetwork, LinearGeometry, Pool,
    Quadratic, Reduction, Refresh, StageOutput, StageStructure, StageWeights, ValueRef, Volume,
};
use nn_poly::layer::Padding;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Small, so that escapes are frequent enough to measure.
const T: u64 = 31;

/// A padded convolution with quadratic activation and overlapping pool, then a dense map.
fn network(seed: u64) -> IntegerNetwork {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let input = Volume { height: 5, width: 4, channels: 2 };
    let conv = ConvGeometry {
        input,
        kernel: (3, 2),
        stride: (1, 1),
        padding: Padding { top: 1, bottom: 0, left: 0, right: 1 },
        out_channels: 3,
        grouping: Grouping::Full,
    };
    let (window, stride) = ((2, 2), (1, 2));
    let pool = Pool {
        reduction: Reduction::Sum,
        input: conv.output(),
        window,
        stride,
        padding: Padding::NONE,
    };
    let n_pooled = pool.output().len();
    let linear = [LinearGeometry::Conv2d(conv), LinearGeometry::Dense { n_in: n_pooled, n_out: 4 }];
    let refresh = Refresh { multipliers: vec![1], shift: 6, min: 0, max: 15 };
    let structure = vec![
        StageStructure {
            sources: vec![ValueRef::Input],
            linear: linear[0].clone(),
            activation: ActivationKind::Quadratic,
            pool: Some(pool),
            refresh: Some(refresh),
            chain: None,
        },
        StageStructure {
            sources: vec![ValueRef::Stage(0)],
            linear: linear[1].clone(),
            activation: ActivationKind::Identity,
            pool: None,
            refresh: None,
            chain: None,
        },
    ];
    let mut weights = |n: usize| (0..n).map(|_| rng.random_range(-7..=7)).collect::<Vec<i16>>();
    let weights = vec![
        StageWeights {
            weights: weights(linear[0].n_weights()),
            bias: vec![1, -2, 3],
            quadratic: Some(Quadratic { a: vec![1, 2, 1], b: vec![0, 5, -3], c: vec![4, 0, 1] }),
            chain: Vec::new(),
        },
        StageWeights {
            weights: weights(linear[1].n_weights()),
            bias: vec![0, 1, 2, 3],
            quadratic: None,
            chain: Vec::new(),
        },
    ];
    let grid = InputGrid { bits: 4, signed: false, step: 1.0 };
    IntegerNetwork::new(grid, input.len(), structure, weights).unwrap()
}

fn points(stage: usize, points: u32, modulus: u64) -> StageCheck {
    let output = if stage == 0 { StageOutput::Pooled } else { StageOutput::Linear };
    StageCheck::Points { stage, points, modulus, output }
}

fn tried(check: StageCheck, spec: TrialSpec) -> StageTrials {
    let count = AtomicU64::new(0);
    let progress = |n| {
        count.fetch_add(n, Ordering::Relaxed);
    };
    let trials = single_weight_trials(&network(5), &[check], spec, &progress).unwrap();
    assert_eq!(count.into_inner(), spec.changes_per_stage);
    assert_eq!(trials[0].changes, spec.changes_per_stage);
    trials[0]
}

/// One change at a time against an evaluation of the whole changed stage at the same points: the same
/// generator draws the same points and the same change.
#[test]
fn a_trial_sees_exactly_what_the_whole_stage_shows() {
    let network = network(5);
    let mut n_missed = 0;
    for (stage, output) in
        [(0, StageOutput::Pooled), (0, StageOutput::Linear), (1, StageOutput::Linear)]
    {
        for seed in 0..400 {
            let check = StageCheck::Points { stage, points: 1, modulus: T, output };
            let spec = TrialSpec { changes_per_stage: 1, changes_per_draw: 1, seed };
            let trial = single_weight_trials(&network, &[check], spec, &|_| {}).unwrap()[0];

            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream((stage as u64) << 40);
            let n_inputs = network.stage(stage).unwrap().0.n_inputs();
            let point: Vec<u64> = (0..n_inputs).map(|_| rng.random_range(0..T)).collect();
            let edit = Edit::draw(&network, Some(stage), &mut rng).unwrap();
            let changed = edit.apply(&network).unwrap();
            let result = |network: &IntegerNetwork| {
                network
                    .evaluate_stage_modular(stage, std::slice::from_ref(&point), T, output)
                    .unwrap()
            };
            let escapes = result(&network) == result(&changed);
            assert_eq!(trial.missed, u64::from(escapes), "stage {stage}, seed {seed}: {edit:?}");
            n_missed += trial.missed;
        }
    }
    assert!(n_missed > 0, "no escape was compared");
}

#[test]
fn changes_escape_points_no_more_often_than_theory_allows() {
    for stage in [0, 1] {
        for n_points in [1, 2] {
            let check = points(stage, n_points, T);
            let spec = TrialSpec { changes_per_stage: 40_000, changes_per_draw: 1, seed: 1 };
            let trials = tried(check, spec);
            assert!(trials.rate.low <= check.bound(), "{trials:?}, bound {}", check.bound());
            if stage == 1 {
                // A dense weight shows unless its own coordinate is zero at every point.
                let exact = (1.0 / T as f64).powi(n_points.cast_signed());
                assert!(trials.rate.contains(exact), "{trials:?}, {exact}");
            }
        }
    }
}

#[test]
fn changes_escape_random_rows_as_often_as_one_column_allows() {
    for (rows, stage) in [(1, 0), (2, 0), (1, 1), (2, 1)] {
        let check = StageCheck::Words { stage, rows, modulus: 7 };
        let spec = TrialSpec { changes_per_stage: 60_000, changes_per_draw: 100, seed: 3 };
        let trials = tried(check, spec);
        // Above the bound: here one column stands for the thousands that must all pass.
        let all_zero = 1.0 / 7.0;
        assert!(trials.missed > 0 && trials.rate.high >= check.bound(), "{trials:?}");
        assert!(trials.rate.low <= check.bound() + all_zero, "{trials:?}");
        let real = StageCheck::Words { stage, rows: 2, modulus: (1 << 46) - 21 };
        assert_eq!(tried(real, TrialSpec { changes_per_stage: 2_000, ..spec }).missed, 0);
    }
}

#[test]
fn results_do_not_depend_on_threads() {
    let spec = TrialSpec { changes_per_stage: 3_000, changes_per_draw: 7, seed: 9 };
    let checks = [points(0, 1, T), points(1, 1, T)];
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| single_weight_trials(&network(2), &checks, spec, &|_| {}).unwrap())
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn impossible_settings_are_errors() {
    let spec = TrialSpec { changes_per_stage: 1, changes_per_draw: 1, seed: 0 };
    let run = |check, spec| single_weight_trials(&network(1), &[check], spec, &|_| {});
    for (check, spec) in [
        (points(0, 0, T), spec),
        (points(0, 1, 1), spec),
        (points(0, 1, 1 << 62), spec),
        (StageCheck::Words { stage: 0, rows: 0, modulus: T }, spec),
        (points(0, 1, T), TrialSpec { changes_per_stage: 0, ..spec }),
        (points(0, 1, T), TrialSpec { changes_per_draw: 0, ..spec }),
    ] {
        assert!(matches!(run(check, spec), Err(Error::CountOutOfRange { .. })), "{check:?}");
    }
    assert!(matches!(run(points(9, 1, T), spec), Err(Error::Network(_))));
}
