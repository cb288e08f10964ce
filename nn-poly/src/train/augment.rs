//! Mini-batches: gathering rows, with random changes that keep the label.

use ndarray::Array2;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::LabeledSamples;

/// Random changes of each sample of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Augmentation {
    /// Images move by up to this many pixels in each direction; zeros move in. Default: 0.
    pub shift: u8,
    /// Mirror half of the images left to right. Default: no.
    pub flip: bool,
    /// Standard deviation of normal noise added to every input. Default: 0.
    pub noise: f64,
    /// Share of the samples that are mixed with another one of their batch, `λ x + (1 − λ) x′` with `λ`
    /// uniform ("mixup", Zhang et al. 2018). Only for a loss that needs neither labels nor given scores
    /// ([`FunctionMatching`](super::FunctionMatching)). Default: 0.
    pub mix: f64,
}

/// The change of one sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Change {
    down: isize,
    right: isize,
    is_flipped: bool,
}

/// Gather the samples at `positions` into a batch and change them at random.
pub(super) fn gather(
    samples: &LabeledSamples,
    positions: &[usize],
    augmentation: Augmentation,
    rng: &mut ChaCha8Rng,
) -> Array2<f32> {
    let len = samples.shape().len();
    let image = samples.shape().as_image();
    let changes: Vec<Change> = positions.iter().map(|_| draw(augmentation, rng)).collect();
    let mut batch = Array2::zeros((positions.len(), len));
    let rows = batch.as_slice_mut().expect("invariant: a new array is in standard layout");
    rows.par_chunks_mut(len).zip(positions).zip(&changes).for_each(
        |((target, &position), change)| {
            let source = samples.inputs().row(position);
            let source = source.to_slice().expect("invariant: samples are in standard layout");
            match image {
                Some(plane) if *change != Change::default() => {
                    move_image(plane, source, target, *change);
                }
                _ => target.copy_from_slice(source),
            }
        },
    );
    if augmentation.mix > 0.0 {
        mix(rows, len, augmentation.mix, rng);
    }
    if augmentation.noise > 0.0 {
        add_noise(rows, augmentation.noise, rng);
    }
    batch
}

fn draw(augmentation: Augmentation, rng: &mut ChaCha8Rng) -> Change {
    let shift = isize::from(augmentation.shift);
    let mut change = Change::default();
    if shift > 0 {
        change.down = draw_shift(shift, rng);
        change.right = draw_shift(shift, rng);
    }
    if augmentation.flip {
        change.is_flipped = rng.random();
    }
    change
}

fn draw_shift(shift: isize, rng: &mut ChaCha8Rng) -> isize {
    // A fixed-width draw: the range of `isize` itself would depend on the machine.
    let limit = i32::try_from(shift).unwrap_or(i32::MAX);
    rng.random_range(-limit..=limit) as isize
}

/// Copy an image moved and perhaps mirrored into `target`, which holds zeros.
fn move_image(
    (height, width, channels): (usize, usize, usize),
    source: &[f32],
    target: &mut [f32],
    change: Change,
) {
    let row_len = width * channels;
    for (row, target_row) in target.chunks_exact_mut(row_len).enumerate() {
        let Some(from) = row.checked_add_signed(-change.down).filter(|&from| from < height) else {
            continue;
        };
        let source_row = source.get(from * row_len..(from + 1) * row_len).unwrap_or_default();
        for (column, pixel) in target_row.chunks_exact_mut(channels).enumerate() {
            let from = column.checked_add_signed(-change.right).filter(|&from| from < width);
            let from = from.map(|from| if change.is_flipped { width - 1 - from } else { from });
            let from = from.and_then(|from| source_row.get(from * channels..(from + 1) * channels));
            if let Some(value) = from {
                pixel.copy_from_slice(value);
            }
        }
    }
}

/// Mix some of the rows with others, all as they were before.
fn mix(rows: &mut [f32], len: usize, share: f64, rng: &mut ChaCha8Rng) {
    let originals = rows.to_vec();
    let n_rows = u32::try_from(rows.len() / len.max(1)).unwrap_or(u32::MAX);
    for row in rows.chunks_exact_mut(len) {
        let (is_mixed, weight) = (rng.random::<f64>() < share, rng.random::<f32>());
        let other = rng.random_range(0..n_rows) as usize;
        let other = originals.chunks_exact(len).nth(other).unwrap_or_default();
        if is_mixed {
            for (value, other) in row.iter_mut().zip(other) {
                *value = weight * *value + (1.0 - weight) * other;
            }
        }
    }
}

/// Add normal noise, two values per pair of uniform draws.
///
/// # Source
/// Box and Muller 1958.
fn add_noise(values: &mut [f32], deviation: f64, rng: &mut ChaCha8Rng) {
    #[expect(clippy::cast_possible_truncation, reason = "rounds to nearest")]
    let single = |value: f64| value as f32;
    for pair in values.chunks_mut(2) {
        let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt() * deviation;
        let angle = std::f64::consts::TAU * rng.random::<f64>();
        for (value, noise) in pair.iter_mut().zip([radius * angle.cos(), radius * angle.sin()]) {
            *value += single(noise);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use ndarray::array;
    use rand::SeedableRng;

    use super::*;
    use crate::tensor::Shape;

    #[test]
    fn images_move_and_mirror_as_a_whole() {
        let image = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let moved = |down, right, is_flipped| {
            let mut target = [0.0; 6];
            move_image((2, 3, 1), &image, &mut target, Change { down, right, is_flipped });
            target
        };
        assert_eq!(moved(1, 0, false), [0.0, 0.0, 0.0, 1.0, 2.0, 3.0]);
        assert_eq!(moved(0, -1, false), [2.0, 3.0, 0.0, 5.0, 6.0, 0.0]);
        assert_eq!(moved(0, 0, true), [3.0, 2.0, 1.0, 6.0, 5.0, 4.0]);
        assert_eq!(moved(0, 1, true), [0.0, 3.0, 2.0, 0.0, 6.0, 5.0]);
        assert_eq!(moved(5, 0, false), [0.0; 6]);
    }

    #[test]
    fn noise_has_the_asked_deviation() {
        let mut values = vec![0.0; 20_001];
        add_noise(&mut values, 0.1, &mut ChaCha8Rng::seed_from_u64(5));
        let values = ndarray::Array1::from(values);
        assert!(values.mean().unwrap().abs() < 0.003);
        assert!((values.std(0.0) - 0.1).abs() < 0.002);
    }

    #[test]
    fn mixtures_lie_between_two_originals() {
        let originals = array![[0.0_f32, 0.0], [1.0, 0.0], [0.0, 1.0]];
        let mut n_mixed = 0;
        for seed in 0..200 {
            let mut rows = originals.clone();
            mix(rows.as_slice_mut().unwrap(), 2, 0.5, &mut ChaCha8Rng::seed_from_u64(seed));
            for (row, original) in rows.rows().into_iter().zip(originals.rows()) {
                let on_line = originals.rows().into_iter().any(|other| {
                    let (to_other, to_row) = (&other - &original, &row - &original);
                    let cross = to_other[0] * to_row[1] - to_other[1] * to_row[0];
                    let along = to_other.dot(&to_row) / to_other.dot(&to_other).max(1e-9);
                    cross.abs() < 1e-6 && (-1e-6..=1.0 + 1e-6).contains(&along)
                });
                assert!(on_line, "{row} from {original}");
                n_mixed += usize::from(row != original);
            }
        }
        // Half of 600, a third of them with themselves.
        assert!((150..250).contains(&n_mixed), "{n_mixed}");
        let mut rows = originals.clone();
        mix(rows.as_slice_mut().unwrap(), 2, 1e-9, &mut ChaCha8Rng::seed_from_u64(1));
        assert_eq!(rows, originals);
    }

    #[test]
    fn vectors_are_gathered_unchanged() {
        let samples = LabeledSamples::new(
            Shape::vector(2).unwrap(),
            array![[1.0, 2.0], [3.0, 4.0]],
            vec![0, 1],
            2,
        )
        .unwrap();
        let augmentation = Augmentation { shift: 2, flip: true, ..Augmentation::default() };
        let batch = gather(&samples, &[1, 0, 1], augmentation, &mut ChaCha8Rng::seed_from_u64(1));
        assert_eq!(batch, array![[3.0, 4.0], [1.0, 2.0], [3.0, 4.0]]);
    }
}
