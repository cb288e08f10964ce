#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use super::*;

fn options(replicas: usize, canaries: usize, points: usize, max_points: usize) -> LayoutOptions {
    LayoutOptions {
        replicas,
        network_canaries: canaries,
        random_points: points,
        max_random_points: max_points,
    }
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let refused = |n_slots, o| LayoutSpec::new(n_slots, o).unwrap_err();
    for (n_slots, o, name) in [
        (0, options(1, 0, 1, 1), "n_slots"),
        (MAX_SLOTS + 1, options(1, 0, 1, 1), "n_slots"),
        (8, options(0, 0, 1, 1), "replicas"),
        (8, options(9, 0, 1, 1), "replicas"),
        (8, options(1, 9, 1, 1), "network_canaries"),
        (8, options(1, usize::MAX, 1, 1), "network_canaries"),
        (8, options(1, 0, 0, 1), "random_points"),
        (8, options(1, 0, 3, 2), "max_random_points"),
    ] {
        let error = refused(n_slots, o);
        assert!(matches!(error, Error::CountOutOfRange { name: n, .. } if n == name), "{error}");
    }
    assert!(matches!(refused(8, options(1, 6, 2, 2)), Error::NoRoomForSamples { .. }));
    assert!(matches!(refused(8, options(4, 3, 2, 2)), Error::NoRoomForSamples { .. }));
    assert!(matches!(refused(8, options(1, 8, 8, 8)), Error::NoRoomForSamples { .. }));
}

#[test]
fn spare_slots_become_points_up_to_the_limit_and_copies_after_that() {
    let spec = LayoutSpec::new(64, options(2, 5, 2, 8)).unwrap();
    assert_eq!(spec.samples_per_block(), (64 - 7) / 2);
    for (n_samples, random_points, point_slots) in [(28, 3, 3), (27, 5, 5), (25, 8, 9), (1, 8, 57)]
    {
        let counts = spec.counts(n_samples).unwrap();
        assert_eq!((counts.random_points(), counts.point_slots()), (random_points, point_slots));
        assert_eq!(counts.checked_slots() + 2 * n_samples, 64);
    }
    for n_samples in [0, 29] {
        let refused = spec.counts(n_samples).unwrap_err();
        assert_eq!(refused, Error::SamplesPerBlock { actual: n_samples, max: 28 });
    }
}

#[test]
fn the_same_generator_state_gives_the_same_layout() {
    let spec = LayoutSpec::new(128, LayoutOptions::default()).unwrap();
    let roles =
        |seed| SlotLayout::draw(&spec, 90, &mut ChaCha20Rng::seed_from_u64(seed)).unwrap().roles();
    assert_eq!(roles(1), roles(1));
    assert_ne!(roles(1), roles(2));
}

#[test]
fn every_role_is_equally_likely_in_every_slot() {
    // 6 slots: two samples in two slots, one canary, one point: 6!/(2!·2!) = 180 role sequences if
    // replicas were alike; they are told apart here, so all 720 orders must be equally likely.
    let spec = LayoutSpec::new(6, options(2, 1, 1, 1)).unwrap();
    let mut rng = ChaCha20Rng::seed_from_u64(11);
    let mut counts = std::collections::BTreeMap::new();
    for _ in 0..72_000 {
        let layout = SlotLayout::draw(&spec, 2, &mut rng).unwrap();
        *counts.entry(layout.roles()).or_insert(0_i64) += 1;
    }
    assert_eq!(counts.len(), 720);
    // Chi-square with 719 degrees of freedom: mean 719, deviation 38; 850 is beyond 3.4.
    let squares: i64 = counts.values().map(|c| (c - 100) * (c - 100)).sum();
    assert!((590..850).contains(&(squares / 100)), "chi-square {}", squares / 100);
}

#[test]
fn debug_output_shows_counts_and_no_positions() {
    let spec = LayoutSpec::new(64, LayoutOptions::default()).unwrap();
    let print = |seed| {
        let layout = SlotLayout::draw(&spec, 9, &mut ChaCha20Rng::seed_from_u64(seed)).unwrap();
        format!("{layout:?}")
    };
    assert_eq!(print(1), print(2), "two layouts of the same counts print alike");
    assert!(print(1).ends_with(".. }"));
}

#[test]
fn zeroizing_clears_every_position() {
    let spec = LayoutSpec::new(64, LayoutOptions::default()).unwrap();
    let mut layout = SlotLayout::draw(&spec, 9, &mut ChaCha20Rng::seed_from_u64(3)).unwrap();
    layout.zeroize();
    assert!(layout.sample_slots.is_empty());
    assert!(layout.canary_slots.is_empty());
    assert!(layout.point_slots.is_empty());
}

#[test]
fn replica_slots_name_the_slots_of_each_sample() {
    let spec = LayoutSpec::new(64, options(3, 4, 2, 8)).unwrap();
    let layout = SlotLayout::draw(&spec, 10, &mut ChaCha20Rng::seed_from_u64(4)).unwrap();
    let roles = layout.roles();
    for replica in 0..3 {
        for (sample, &slot) in layout.replica_slots(replica).unwrap().iter().enumerate() {
            assert_eq!(roles[slot as usize], SlotRole::Sample { sample, replica });
        }
    }
    assert!(matches!(layout.replica_slots(3), Err(Error::IndexOutOfRange { len: 3, .. })));
}

#[test]
fn slices_of_another_length_are_refused_before_anything_is_written() {
    let spec = LayoutSpec::new(16, options(1, 3, 2, 2)).unwrap();
    let layout = SlotLayout::draw(&spec, 11, &mut ChaCha20Rng::seed_from_u64(5)).unwrap();
    // (samples, canaries, points, slots); each case is off by one in one place.
    for (s, c, p, n) in [(10, 3, 2, 16), (11, 4, 2, 16), (11, 3, 1, 16), (11, 3, 2, 15)] {
        let mut out = vec![77; n];
        let filled = layout.fill(&vec![0; s], &vec![0; c], &vec![0; p], &mut out);
        assert!(matches!(filled, Err(Error::LengthMismatch { .. })));
        assert!(out.iter().all(|&value| value == 77));

        let mut observation = BlockObservation::new(1);
        let mut samples = vec![77; s];
        let compared = layout.compare(
            0,
            &vec![0; n],
            &vec![0; c],
            &vec![0; p],
            &mut observation,
            &mut samples,
        );
        assert!(matches!(compared, Err(Error::LengthMismatch { .. })));
        assert_eq!(observation.n_compared(), 0);
        assert!(samples.iter().all(|&value| value == 77));
    }
}

#[test]
fn a_neuron_is_compared_once_and_must_exist() {
    let spec = LayoutSpec::new(4, options(1, 0, 1, 1)).unwrap();
    let layout = SlotLayout::draw(&spec, 3, &mut ChaCha20Rng::seed_from_u64(6)).unwrap();
    let mut observation = BlockObservation::new(2);
    let mut compare =
        |neuron| layout.compare(neuron, &[0; 4], &[], &[0], &mut observation, &mut [0; 3]);
    compare(1).unwrap();
    assert_eq!(compare(1), Err(Error::ComparedTwice { neuron: 1 }));
    let missing = Error::IndexOutOfRange { what: "output neuron", index: 2, len: 2 };
    assert_eq!(compare(2), Err(missing));
    compare(0).unwrap();
    assert!(observation.is_complete() && observation.is_clean());
}
