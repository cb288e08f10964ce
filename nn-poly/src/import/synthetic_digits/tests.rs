#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "tests"
)]

use ndarray::{Array1, Array2, Axis};

use super::{N_CLASSES, SIDE, synthetic_digits};

#[test]
fn shapes_values_and_labels_are_in_range() {
    let (images, labels) = synthetic_digits(1_003, 1);
    assert_eq!(images.dim(), (1_003, SIDE * SIDE));
    assert_eq!(labels.len(), 1_003);
    assert!(images.iter().all(|value| (0.0..=1.0).contains(value)));
    for (sample, image) in images.outer_iter().enumerate() {
        // Every digit has dark ink, plenty of paper, and a clean margin but for the grain.
        let n_ink = image.iter().filter(|&&value| value > 0.5).count();
        assert!((25..350).contains(&n_ink), "sample {sample}: {n_ink} dark pixels");
        assert!(image.iter().any(|&value| value > 0.7), "sample {sample} is pale");
        let n_corner_ink =
            [0, SIDE - 1, SIDE * (SIDE - 1), SIDE * SIDE - 1].iter().filter(|&&p| image[p] > 0.5);
        assert_eq!(n_corner_ink.count(), 0, "sample {sample} runs out of the picture");
    }
    assert_eq!(synthetic_digits(0, 1).0.dim(), (0, SIDE * SIDE));
}

#[test]
fn every_ten_samples_hold_each_digit_once_in_changing_order() {
    let (_, labels) = synthetic_digits(1_000, 3);
    let mut groups: Vec<Vec<u32>> = labels.chunks(N_CLASSES).map(<[u32]>::to_vec).collect();
    let n_groups = groups.len();
    for group in &groups {
        let mut sorted = group.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..10).collect::<Vec<u32>>());
    }
    groups.sort();
    groups.dedup();
    assert!(groups.len() > n_groups - 3, "100 of 3,628,800 orders hardly repeat");
}

#[test]
fn a_sample_depends_on_seed_and_index_alone() {
    let (images, labels) = synthetic_digits(60, 5);
    let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let (fewer, fewer_labels) = one_thread.install(|| synthetic_digits(37, 5));
    assert_eq!(fewer_labels, labels[..37]);
    let (first, _) = images.view().split_at(Axis(0), 37);
    assert_eq!(fewer, first);

    let (others, other_labels) = synthetic_digits(60, 6);
    assert_ne!(others, images);
    assert_ne!(other_labels, labels);
}

#[test]
fn no_two_images_are_alike() {
    let (images, _) = synthetic_digits(300, 8);
    let mut bits: Vec<Vec<u32>> =
        images.outer_iter().map(|image| image.iter().map(|v| v.to_bits()).collect()).collect();
    bits.sort();
    bits.dedup();
    assert_eq!(bits.len(), 300);
}

/// The digest changes with any bit of any pixel: the renderer is the same on every platform.
#[test]
fn the_first_hundred_digits_of_seed_one_never_change() {
    let (images, labels) = synthetic_digits(100, 1);
    let mut hasher = blake3::Hasher::new();
    images.iter().for_each(|value| {
        hasher.update(&value.to_bits().to_le_bytes());
    });
    labels.iter().for_each(|label| {
        hasher.update(&label.to_le_bytes());
    });
    let digest = hasher.finalize().to_hex();
    assert_eq!(digest.as_str(), "2cb04a14fc62980629bbc1f93e1ce252a10bb81ba6e16fbc1cadcfea09e4aa8d");
}

#[test]
fn class_means_tell_most_digits_apart_but_not_all() {
    let (images, labels) = synthetic_digits(3_000, 1);
    let means = Array2::from_shape_fn((N_CLASSES, SIDE * SIDE), |(digit, pixel)| {
        let of_class = images
            .index_axis(Axis(1), pixel)
            .iter()
            .zip(&labels)
            .filter(|&(_, &label)| label as usize == digit)
            .map(|(value, _)| value)
            .sum::<f32>();
        of_class / 300.0
    });
    let (unseen, truth) = synthetic_digits(1_000, 2);
    // |x − m|² = |x|² − 2·x·m + |m|²; the first term is the same for every class.
    let squares: Array1<f32> = means.map_axis(Axis(1), |mean| mean.dot(&mean));
    let scores = unseen.dot(&means.t()) * 2.0 - &squares;
    let n_right = scores
        .outer_iter()
        .zip(&truth)
        .filter(|(row, label)| {
            let best = (0..N_CLASSES).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
            best == **label as usize
        })
        .count();
    let share = n_right as f64 / 1_000.0;
    assert!((0.70..0.92).contains(&share), "nearest class mean is right in {share} of all cases");
}
