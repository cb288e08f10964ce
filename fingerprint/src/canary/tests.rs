#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use super::*;

/// A canary whose values are told by their place: `offset + 100·segment + neuron`.
fn canary(offset: i32, shapes: &[(usize, usize)]) -> NetworkCanary {
    let segments = (0..).zip(shapes).map(|(segment, &(n_in, n_out))| SegmentValues {
        inputs: (0..).take(n_in).map(|neuron: i32| offset + 100 * segment + neuron).collect(),
        outputs: (0..)
            .take(n_out)
            .map(|neuron| -i64::from(offset + 100 * segment) - neuron)
            .collect(),
    });
    NetworkCanary { segments: segments.collect() }
}

#[test]
fn a_set_turns_traces_so_that_each_neurons_values_lie_side_by_side() {
    let shapes = [(3, 2), (2, 4)];
    let set = CanarySet::new(&[canary(1_000, &shapes), canary(2_000, &shapes)]).unwrap();
    assert_eq!(set.len(), 2);
    assert_eq!(set.inputs(0, 2).unwrap(), [1_002, 2_002]);
    assert_eq!(set.inputs(1, 1).unwrap(), [1_101, 2_101]);
    assert_eq!(set.outputs(1, 3).unwrap(), [-1_103, -2_103]);
    assert_eq!(set.outputs(1, 4), Err(Error::IndexOutOfRange { what: "neuron", index: 4, len: 4 }));
    assert_eq!(set.inputs(2, 0), Err(Error::IndexOutOfRange { what: "segment", index: 2, len: 2 }));
}

#[test]
fn canaries_of_different_shapes_are_refused() {
    for other in [vec![(3, 2)], vec![(3, 2), (2, 3)], vec![(4, 2), (2, 4)]] {
        let set = CanarySet::new(&[canary(0, &[(3, 2), (2, 4)]), canary(0, &other)]);
        assert!(matches!(set, Err(Error::LengthMismatch { .. })), "{other:?}");
    }
}

#[test]
fn an_empty_set_answers_every_index_with_an_empty_row() {
    let set = CanarySet::new(&[]).unwrap();
    assert!(set.is_empty());
    assert_eq!(set.inputs(9, 9).unwrap(), [0_i64; 0]);
    assert_eq!(set.outputs(9, 9).unwrap(), [0_i64; 0]);
}

#[test]
fn debug_output_shows_shapes_and_no_values() {
    let set = CanarySet::new(&[canary(1_000, &[(3, 2)])]).unwrap();
    let canary = canary(1_000, &[(3, 2)]);
    let points = RandomPoints::draw(2, 3, 97, &mut ChaCha20Rng::seed_from_u64(1)).unwrap();
    assert_eq!(format!("{set:?}"), "CanarySet { n_canaries: 1, segment_shapes: [(3, 2)], .. }");
    assert_eq!(
        format!("{canary:?}"),
        "NetworkCanary { segments: [SegmentValues { n_inputs: 3, n_outputs: 2, .. }], .. }"
    );
    assert_eq!(format!("{points:?}"), "RandomPoints { n_points: 2, n_inputs: 3, modulus: 97, .. }");
}

#[test]
fn candidates_are_drawn_without_repetition_and_evenly() {
    let mut rng = ChaCha20Rng::seed_from_u64(2);
    let mut times = [0_i64; 10];
    for _ in 0..10_000 {
        let drawn = CanarySet::draw_from(10, 3, &mut rng).unwrap();
        let mut sorted = drawn.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), 3);
        for index in drawn {
            times[index] += 1;
        }
    }
    // Expected 3000 each with deviation 46.
    assert!(times.iter().all(|n| (2_750..3_250).contains(n)), "{times:?}");
    assert_eq!(CanarySet::draw_from(4, 4, &mut rng).unwrap().len(), 4);
    assert_eq!(
        CanarySet::draw_from(4, 5, &mut rng),
        Err(Error::TooFewCandidates { wanted: 5, available: 4 })
    );
}

#[test]
fn random_points_fill_the_field_evenly_and_come_out_centred() {
    let mut rng = ChaCha20Rng::seed_from_u64(3);
    for modulus in [2_u64, 5, 97] {
        let points = RandomPoints::draw(400, 50, modulus, &mut rng).unwrap();
        assert!(points.points().iter().flatten().all(|&residue| residue < modulus));
        let half = i64::try_from(modulus / 2).unwrap();
        let lowest = half + 1 - i64::try_from(modulus).unwrap();
        let mut row = vec![0; 400];
        let mut sum = 0;
        for neuron in 0..50 {
            points.values_into(neuron, &mut row).unwrap();
            for (&value, point) in row.iter().zip(points.points()) {
                assert!((lowest..=half).contains(&value), "{value} modulo {modulus}");
                assert_eq!(
                    value.rem_euclid(i64::try_from(modulus).unwrap()),
                    i64::try_from(point[neuron]).unwrap()
                );
                sum += value - lowest;
            }
        }
        // Mean (modulus − 1)/2 over 20,000 draws, deviation about modulus/√12/141.
        let mean = 20_000 * i64::try_from(modulus - 1).unwrap() / 2;
        assert!((sum - mean).abs() < 220 * i64::try_from(modulus).unwrap(), "{modulus}: {sum}");
    }
    assert_eq!(centre(MAX_POINT_MODULUS - 1, MAX_POINT_MODULUS), -1);
}

#[test]
fn points_of_another_shape_or_modulus_are_refused() {
    let mut rng = ChaCha20Rng::seed_from_u64(4);
    for modulus in [0, 1, MAX_POINT_MODULUS + 1] {
        let drawn = RandomPoints::draw(1, 1, modulus, &mut rng);
        assert!(matches!(drawn, Err(Error::CountOutOfRange { .. })), "{modulus}");
    }
    let points = RandomPoints::draw(2, 3, 97, &mut rng).unwrap();
    assert!(matches!(points.values_into(0, &mut [0; 3]), Err(Error::LengthMismatch { .. })));
    assert!(matches!(points.values_into(3, &mut [0; 2]), Err(Error::IndexOutOfRange { .. })));
}
