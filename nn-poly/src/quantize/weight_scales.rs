//! Scales of the weights of one layer.
//!
//! The scale with the least squared error suits a channel's weights, but not always its range: where
//! a large bias meets small weights, the integers of that one channel are several times larger than
//! all others, and with them the window, the ring and every byte of the segment. Such a channel gets
//! a coarser scale, which costs little: its output has far more integer steps than the grid after it.

use super::blocks::{Block, Opening};
use super::clip::{Levels, best_step};
use crate::layer::{Activation, round_half_up};

/// A channel may reach this many times as far as the median channel.
const REACH_OVER_MEDIAN: f64 = 1.5;

/// What the inputs of a layer are: unit, smallest and largest integer.
#[derive(Clone, Copy, Debug)]
pub(super) struct InputLevels {
    pub(super) step: f32,
    pub(super) min: i32,
    pub(super) max: i32,
}

/// One scale per output channel; a single one on the last layer, whose scores must be comparable;
/// none for a pool that is its own stage. A channel of zeros gets scale 1.
pub(super) fn weight_scales(
    block: &Block<'_>,
    bits: u32,
    inputs: InputLevels,
    is_last: bool,
) -> Vec<f32> {
    let (weights, biases) = match block.opening {
        Opening::Dense(dense) => (dense.weights.view().into_dyn(), dense.bias.view()),
        Opening::Conv2d(conv) => (conv.weights.view().into_dyn(), conv.bias.view()),
        Opening::Pool2d(_) => return Vec::new(),
    };
    let weights = weights.iter().copied().collect::<Vec<_>>();
    let max = (1 << (bits - 1)) - 1;
    let levels = Levels { min: -max, max };
    let n_scales = if is_last { 1 } else { biases.len() };
    let rows = weights.chunks((weights.len() / n_scales.max(1)).max(1));
    let best = |row: &[f32]| best_step(row, levels).map_or(1.0, |fit| fit.step);
    let mut scales = rows.clone().map(best).collect::<Vec<_>>();
    if !is_last {
        let magnitudes = rows
            .zip(&scales)
            .zip(biases)
            .enumerate()
            .map(|(channel, ((row, &scale), &bias))| {
                let offset = f64::from(bias) + vertex(block, channel);
                let unit = f64::from(inputs.step) * f64::from(scale);
                magnitude(row, scale, levels, inputs, offset / unit)
            })
            .collect::<Vec<_>>();
        limit(&mut scales, &magnitudes);
    }
    scales
}

/// `b/2a` of a polynomial activation, which is folded into the bias where it is small.
fn vertex(block: &Block<'_>, channel: usize) -> f64 {
    let Some(Activation::Polynomial { a, b, .. }) = block.activation else { return 0.0 };
    match (a.get(channel), b.get(channel)) {
        (Some(&a), Some(&b)) if a.abs() > 1e-3 * b.abs() => f64::from(b) / (2.0 * f64::from(a)),
        _ => 0.0,
    }
}

/// Largest magnitude of `Σ w x + offset` in integers, over all inputs.
fn magnitude(row: &[f32], scale: f32, levels: Levels, inputs: InputLevels, offset: f64) -> f64 {
    let (mut low, mut high) = (offset, offset);
    for &w in row {
        let w =
            f64::from(round_half_up(w / scale)).clamp(f64::from(levels.min), f64::from(levels.max));
        let (at_min, at_max) = (w * f64::from(inputs.min), w * f64::from(inputs.max));
        low += at_min.min(at_max);
        high += at_min.max(at_max);
    }
    low.abs().max(high.abs())
}

/// Coarsen the scales of channels that reach far beyond the median.
#[expect(clippy::cast_possible_truncation, reason = "rounds to nearest")]
fn limit(scales: &mut [f32], magnitudes: &[f64]) {
    let mut sorted = magnitudes.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(median) = sorted.get(sorted.len() / 2) else { return };
    let allowed = REACH_OVER_MEDIAN * median;
    for (scale, &magnitude) in scales.iter_mut().zip(magnitudes) {
        if magnitude > allowed && allowed > 0.0 {
            *scale = (f64::from(*scale) * magnitude / allowed) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_outlying_channels_are_coarsened() {
        let mut scales = [1.0, 2.0, 3.0, 4.0];
        limit(&mut scales, &[10.0, 12.0, 60.0, 0.0]);
        assert_eq!(scales, [1.0, 2.0, 3.0 * 60.0 / 18.0, 4.0]);
        limit(&mut [], &[]);
    }

    #[test]
    fn magnitudes_follow_the_signs() {
        let levels = Levels { min: -7, max: 7 };
        let inputs = InputLevels { step: 0.1, min: 0, max: 15 };
        // Integers 3, −2 and 7 (clipped from 9): from −30 to 150, plus the offset.
        assert!((magnitude(&[0.3, -0.2, 0.9], 0.1, levels, inputs, 4.0) - 154.0).abs() < 1e-9);
        let signed = InputLevels { min: -15, ..inputs };
        assert!((magnitude(&[0.3, -0.2, 0.9], 0.1, levels, signed, -4.0) - 184.0).abs() < 1e-9);
    }
}
