//! Scales of the weights of one stage.
//!
//! The scale with the least squared error suits a channel's weights, but not always its range: where
//! a large bias meets small weights, the integers of that one channel are several times larger than
//! all others, and with them the window, the ring and every byte of the segment. Such a channel gets
//! a coarser scale, which costs little: its output has far more integer steps than the grid after it.
//!
//! Where branches meet in an addition, all must count the same unit. A branch that is added as it is
//! has the unit of its grid; the scales of the others give way, to a whole multiple or a whole
//! fraction of it.

use ndarray::{ArrayView1, ArrayViewD};

use super::blocks::{Block, Opening, Part, Read};
use super::clip::{Levels, best_step};
use super::common_unit::common_unit;
use crate::layer::{Activation, Pool2d, PoolKind, round_half_up};

/// A channel may reach this many times as far as the median channel.
const REACH_OVER_MEDIAN: f64 = 1.5;

/// What the inputs of a layer are: unit, smallest and largest integer.
#[derive(Clone, Copy, Debug)]
pub(super) struct InputLevels {
    pub(super) step: f32,
    pub(super) min: i32,
    pub(super) max: i32,
}

/// For every part, one scale per output channel; a single one on the last layer, whose scores must be
/// comparable, and before a stage that is joined without a refresh; none for pools and branches that are added as they are. A channel of zeros gets
/// scale 1, before alignment.
///
/// `levels_of` gives the grid of a ready value.
pub(super) fn weight_scales(
    block: &Block<'_>,
    bits: u32,
    levels_of: &dyn Fn(&Read) -> InputLevels,
    is_single: bool,
) -> Vec<Vec<f32>> {
    let max = (1 << (bits - 1)) - 1;
    let levels = Levels { min: -max, max };
    let parts: Vec<Branch<'_>> =
        block.parts.iter().map(|part| Branch::new(part, levels, levels_of, is_single)).collect();
    let mut scales: Vec<Vec<f32>> = parts.iter().map(|part| part.scales.clone()).collect();
    let is_fixed = parts.iter().any(|part| part.weights.is_none());
    if parts.len() > 1 {
        align(&parts, &mut scales);
    }
    // A branch without weights of its own cannot give way.
    if !is_single && !is_fixed {
        let n_channels = block.linear.channels();
        let magnitudes: Vec<f64> =
            (0..n_channels).map(|channel| reach(block, &parts, &scales, channel)).collect();
        for scales in &mut scales {
            limit(scales, &magnitudes);
        }
    }
    scales
}

/// A part, its best scales on their own, and what it reads in one unit.
struct Branch<'a> {
    /// Rows of weights and biases; none without weights of its own.
    weights: Option<(Vec<f32>, ArrayView1<'a, f32>)>,
    scales: Vec<f32>,
    levels: Levels,
    /// Unit of its inputs, and their range in it.
    unit: f64,
    low: f64,
    high: f64,
}

impl<'a> Branch<'a> {
    fn new(
        part: &Part<'a>,
        levels: Levels,
        levels_of: &dyn Fn(&Read) -> InputLevels,
        is_single: bool,
    ) -> Self {
        let grids: Vec<InputLevels> = part.reads.iter().map(levels_of).collect();
        let steps: Vec<f64> = grids.iter().map(|grid| f64::from(grid.step)).collect();
        let finest = steps.iter().copied().fold(f64::INFINITY, f64::min);
        // Lowering refuses steps without a common unit; here any will do.
        let unit = common_unit(&steps).unwrap_or(finest);
        let end = |of: fn(&InputLevels) -> i32| {
            let ends =
                grids.iter().zip(&steps).map(move |(g, step)| f64::from(of(g)) * step / unit);
            ends.collect::<Vec<_>>()
        };
        let low = end(|grid| grid.min).into_iter().fold(0.0, f64::min);
        let high = end(|grid| grid.max).into_iter().fold(0.0, f64::max);
        let (weights, bias): (ArrayViewD<'_, f32>, _) = match part.opening {
            Opening::Dense(dense) => (dense.weights.view().into_dyn(), dense.bias.view()),
            Opening::Conv2d(conv) => (conv.weights.view().into_dyn(), conv.bias.view()),
            Opening::Pool2d(_) | Opening::Identity => {
                let unit = unit / divisor(part);
                return Self { weights: None, scales: Vec::new(), levels, unit, low, high };
            }
        };
        let weights = weights.iter().copied().collect::<Vec<_>>();
        let n_scales = if is_single { 1 } else { bias.len() };
        let rows = weights.chunks((weights.len() / n_scales.max(1)).max(1));
        let is_grouped = matches!(part.opening, Opening::Conv2d(conv) if conv.groups > 1);
        let best = |row: &[f32]| match row {
            // A pool as a depthwise convolution: weights of 1.
            [first, rest @ ..]
                if is_grouped && *first != 0.0 && rest.iter().all(|w| w == first) =>
            {
                first.abs()
            }
            _ => best_step(row, levels).map_or(1.0, |fit| fit.step),
        };
        let scales = rows.map(best).collect();
        Self { weights: Some((weights, bias)), scales, levels, unit, low, high }
    }

    /// What one unit of its output stands for in a channel, with given scales.
    fn output_unit(&self, scales: &[f32], channel: usize) -> f64 {
        let scale = scales.get(channel).or_else(|| scales.first()).copied();
        self.unit * scale.map_or(1.0, f64::from)
    }
}

/// The window by which an average is divided.
pub(super) fn divisor(part: &Part<'_>) -> f64 {
    match part.opening {
        Opening::Pool2d(pool) => pool_divisor(&pool),
        Opening::Dense(_) | Opening::Conv2d(_) | Opening::Identity => 1.0,
    }
}

/// The window by which a pool divides its sum.
#[expect(clippy::cast_precision_loss, reason = "a window size")]
pub(super) fn pool_divisor(pool: &Pool2d) -> f64 {
    match pool.kind {
        PoolKind::Average => (pool.window.0 * pool.window.1) as f64,
        PoolKind::Sum | PoolKind::Max => 1.0,
    }
}

/// Give all branches units that are whole multiples of one, channel by channel.
fn align(parts: &[Branch<'_>], scales: &mut [Vec<f32>]) {
    let fixed: Vec<f64> = parts.iter().filter(|p| p.weights.is_none()).map(|p| p.unit).collect();
    let fixed = common_unit(&fixed);
    let n_scales = scales.iter().map(Vec::len).max().unwrap_or(0);
    for channel in 0..n_scales {
        let units = parts.iter().filter(|part| part.weights.is_some());
        let finest =
            units.map(|part| part.output_unit(&part.scales, channel)).fold(f64::INFINITY, f64::min);
        let unit = match fixed {
            Some(fixed) => fixed / (fixed / finest).round().max(1.0),
            None => finest,
        };
        for (part, scales) in parts.iter().zip(scales.iter_mut()) {
            let best = part.output_unit(&part.scales, channel);
            if let Some(scale) = scales.get_mut(channel) {
                let multiple = (best / unit).round().max(1.0);
                #[expect(clippy::cast_possible_truncation, reason = "rounds to nearest")]
                let aligned = (multiple * unit / part.unit) as f32;
                *scale = aligned;
            }
        }
    }
}

/// Largest magnitude in integers that a channel can reach over all inputs.
fn reach(block: &Block<'_>, parts: &[Branch<'_>], scales: &[Vec<f32>], channel: usize) -> f64 {
    let output_unit = |(part, scales): (&Branch<'_>, &Vec<f32>)| part.output_unit(scales, channel);
    let unit = parts.iter().zip(scales).map(output_unit).fold(f64::INFINITY, f64::min);
    let bias = |part: &Branch<'_>| {
        part.weights
            .as_ref()
            .and_then(|(_, bias)| bias.get(channel))
            .copied()
            .map_or(0.0, f64::from)
    };
    let offset = parts.iter().map(bias).sum::<f64>() + vertex(block, channel);
    let (mut low, mut high) = (offset / unit, offset / unit);
    for (part, scales) in parts.iter().zip(scales) {
        let Some((weights, bias)) = &part.weights else { continue };
        let multiple = (part.output_unit(scales, channel) / unit).round();
        let scale = scales.get(channel).or_else(|| scales.first()).copied().unwrap_or(1.0);
        let row_len = weights.len() / bias.len().max(1);
        let row = weights.get(channel * row_len..(channel + 1) * row_len).unwrap_or_default();
        let (below, above) = extent(row, scale, part);
        low += multiple * below;
        high += multiple * above;
    }
    low.abs().max(high.abs())
}

/// Smallest and largest `Σ w x` in integers.
fn extent(row: &[f32], scale: f32, part: &Branch<'_>) -> (f64, f64) {
    let (mut low, mut high) = (0.0, 0.0);
    let (min, max) = (f64::from(part.levels.min), f64::from(part.levels.max));
    for &w in row {
        let w = f64::from(round_half_up(w / scale)).clamp(min, max);
        let (at_low, at_high) = (w * part.low, w * part.high);
        low += at_low.min(at_high);
        high += at_low.max(at_high);
    }
    (low, high)
}

/// `b/2a` of a polynomial activation, which is folded into the bias where it is small.
fn vertex(block: &Block<'_>, channel: usize) -> f64 {
    let Some(Activation::Polynomial { a, b, .. }) = block.activation else { return 0.0 };
    match (a.get(channel), b.get(channel)) {
        (Some(&a), Some(&b)) if a.abs() > 1e-3 * b.abs() => f64::from(b) / (2.0 * f64::from(a)),
        _ => 0.0,
    }
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
    #![allow(clippy::indexing_slicing, clippy::float_cmp, reason = "tests")]
    use super::*;

    #[test]
    fn only_outlying_channels_are_coarsened() {
        let mut scales = [1.0, 2.0, 3.0, 4.0];
        limit(&mut scales, &[10.0, 12.0, 60.0, 0.0]);
        assert_eq!(scales, [1.0, 2.0, 3.0 * 60.0 / 18.0, 4.0]);
        limit(&mut [], &[]);
    }

    #[test]
    fn extents_follow_the_signs() {
        let levels = Levels { min: -7, max: 7 };
        let branch =
            |low| Branch { weights: None, scales: Vec::new(), levels, unit: 0.1, low, high: 15.0 };
        // Integers 3, −2 and 7 (clipped from 9).
        let row = [0.3, -0.2, 0.9];
        assert_eq!(extent(&row, 0.1, &branch(0.0)), (-30.0, 150.0));
        assert_eq!(extent(&row, 0.1, &branch(-15.0)), (-180.0, 180.0));
    }

    #[test]
    fn branches_that_meet_count_one_unit() {
        let levels = Levels { min: -7, max: 7 };
        let bias = ndarray::array![0.0_f32];
        let weighted = |scale: f32, unit| Branch {
            weights: Some((vec![1.0], bias.view())),
            scales: vec![scale],
            levels,
            unit,
            low: 0.0,
            high: 15.0,
        };
        let fixed =
            || Branch { weights: None, scales: Vec::new(), levels, unit: 0.1, low: 0.0, high: 1.0 };
        // Finer than the fixed branch: a whole fraction of it. Coarser: a whole multiple.
        for (scale, expected) in [(0.03, 0.1 / 3.0), (0.27, 0.3), (0.09, 0.1)] {
            let parts = [weighted(scale, 1.0), fixed()];
            let mut scales = vec![vec![scale], Vec::new()];
            align(&parts, &mut scales);
            assert!((f64::from(scales[0][0]) - expected).abs() < 1e-7, "{scale}: {scales:?}");
        }
        // Without one, the coarser becomes a multiple of the finer.
        let parts = [weighted(0.03, 1.0), weighted(0.2, 0.5)];
        let mut scales = vec![vec![0.03], vec![0.2]];
        align(&parts, &mut scales);
        assert!((scales[0][0] - 0.03).abs() < 1e-7 && (scales[1][0] - 0.18).abs() < 1e-7);
    }
}
