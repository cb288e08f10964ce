//! Stages joined without a refresh in between: a [`Chain`](crate::integer::chain::Chain).
//!
//! Without a refresh nothing brings the channels of a stage to one grid, so that has to happen before:
//! [`equalized`] moves factors between layers until every channel counts the same unit, its values are of
//! the size of the others', and every leading coefficient is a small whole number. What the network
//! computes does not change, but for leading coefficients that hardly matter, which give way to their mean.
//! Clamps between joined stages are left out, as no server can compute them.

use ndarray::{Array1, Array2, Axis, Slice};

use super::blocks::{Block, Blocks, Opening, Part, Ready};
use super::clip::{Levels, best_step};
use super::{Quantized, calibrate, insert_quantizers, lower, unrounded};
use crate::error::Result;
use crate::import::Preprocessing;
use crate::integer::chain::MAX_CHAIN_STEPS;
use crate::integer::{StageOutput, require};
use crate::layer::{Activation, Conv2d, Layer, PoolKind};
use crate::model::LayerBits;
use crate::network::{Network, Source};
use crate::tensor::Tensor;

/// A square whose values are below this share of its quadratic's becomes the constant it is on average.
const NEGLIGIBLE: f32 = 1.0 / 4096.0;
/// Largest whole leading coefficient: channels whose squares weigh more than this many times less than
/// others' are rounded more coarsely.
const MAX_LEADING: f32 = 1024.0;
/// Samples on which the sizes of values are measured.
const MEASURED_SAMPLES: usize = 128;

/// Which stages of a network may run into the next one without a refresh: a linear layer, a polynomial
/// activation and a sum or average pool, if any, which only the next linear layer reads, and that
/// reads nothing else.
///
/// One entry per stage, the last one `false`.
///
/// # Errors
/// - [`crate::Error::CannotFold`] or [`crate::Error::CannotQuantize`] for a network without an integer
///   form.
pub fn joinable(network: &Network<f32>) -> Result<Vec<bool>> {
    let folded = unrounded(network)?.fold_batch_norm()?;
    let parsed = Blocks::new(&folded)?;
    Ok((0..parsed.blocks.len()).map(|idx| is_joinable(&parsed, idx)).collect())
}

fn is_joinable(parsed: &Blocks<'_>, idx: usize) -> bool {
    let (Some(block), Some(next)) = (parsed.blocks.get(idx), parsed.blocks.get(idx + 1)) else {
        return false;
    };
    let is_weighted =
        |part: &Part<'_>| matches!(part.opening, Opening::Dense(_) | Opening::Conv2d(_));
    let is_single =
        |block: &Block<'_>| matches!(block.parts.as_slice(), [part] if is_weighted(part));
    let is_polynomial =
        matches!(block.activation, Some(Activation::Square | Activation::Polynomial { .. }));
    let is_sum = block.pool.is_none_or(|pool| pool.kind != PoolKind::Max);
    let reads = |block: &Block<'_>| {
        let reads = block.parts.iter().flat_map(|part| &part.reads);
        reads.map(|read| read.ready).collect::<Vec<_>>()
    };
    let this = Ready::Block(idx);
    let others = parsed.blocks.iter().enumerate().filter(|(other, _)| *other != idx + 1);
    is_single(block)
        && is_single(next)
        && is_polynomial
        && is_sum
        && reads(next) == [this]
        && others.into_iter().all(|(_, other)| !reads(other).contains(&this))
}

/// The integer network of a network at `bits` in which no refresh follows the stages marked in `joins`
/// (one entry per stage): they become the chain of the first stage after them that is not marked.
///
/// `ends` says where segments end, so that values come back to 64 bits there: after the activation if
/// the server evaluates it, otherwise before. A plan for the other side is refused. Calibrated on
/// `inputs` (preprocessed, from the training part), without the rounding of any fine-tuning.
///
/// # Errors
/// - [`crate::Error::OutOfRange`] if a marked stage is not [`joinable`], or more than
///   [`MAX_CHAIN_STEPS`] follow each other.
/// - Those of [`calibrate()`](super::calibrate()) and [`quantize`](super::quantize()).
pub fn quantize_joined(
    network: &Network<f32>,
    preprocessing: &Preprocessing,
    inputs: &Array2<f32>,
    bits: impl Into<LayerBits>,
    joins: &[bool],
    ends: StageOutput,
) -> Result<Quantized> {
    let bits = bits.into();
    let folded = unrounded(network)?.fold_batch_norm()?;
    check_joins(&Blocks::new(&folded)?, joins)?;
    let network = equalized(&folded, &bits, joins, inputs)?;
    let spec = calibrate::calibrate_joined(&network, preprocessing, inputs, &bits, joins)?;
    let (prepared, _) = insert_quantizers(&network, &spec)?;
    lower::quantize_joined(&prepared, joins, ends)
}

fn check_joins(parsed: &Blocks<'_>, joins: &[bool]) -> Result<()> {
    let n_stages = parsed.blocks.len();
    require("network", 0, "number of stages that may be joined", joins.len(), n_stages, n_stages)?;
    let mut in_a_row = 0;
    for (idx, &joined) in joins.iter().enumerate() {
        in_a_row = if joined { in_a_row + 1 } else { 0 };
        let field = "number of stages joined in a row";
        require("stage", idx, field, in_a_row, 0, MAX_CHAIN_STEPS)?;
        let refused = usize::from(joined && !is_joinable(parsed, idx));
        require("stage", idx, "number of joined stages that need a refresh", refused, 0, 0)?;
    }
    Ok(())
}

/// The same network with factors moved between the layers of joined stages: the weights of every
/// channel are best rounded in one unit, and every quadratic has a whole leading coefficient.
fn equalized(
    folded: &Network<f32>,
    bits: &LayerBits,
    joins: &[bool],
    inputs: &Array2<f32>,
) -> Result<Network<f32>> {
    let parsed = Blocks::new(folded)?;
    let n_samples = inputs.nrows().min(MEASURED_SAMPLES);
    let batch = inputs.slice_axis(Axis(0), Slice::from(..n_samples)).to_owned();
    let values = folded.forward_all(&Tensor::new(folded.input_shape().clone(), batch)?)?;
    let sizes_of = |activation_idx: usize| {
        let before = folded.sources(activation_idx).first();
        let value = |source: Option<&Source>| source.and_then(|s| values.get(s.value_idx()));
        Sizes::of(value(before), value(Some(&Source::Layer(activation_idx))))
    };
    let mut layers = folded.layers().to_vec();
    let pairs = parsed.blocks.iter().zip(parsed.blocks.iter().skip(1)).enumerate();
    for (idx, (block, next)) in pairs.filter(|(idx, _)| joins.get(*idx) == Some(&true)) {
        let (Some(part), Some(reader)) = (block.parts.first(), next.parts.first()) else {
            continue;
        };
        let Some(layer) = layers.get_mut(part.layer_idx) else { continue };
        let factors = row_factors(layer, bits.weight(idx));
        scale_rows(layer, |channel| at(&factors, channel).recip());
        let mut outputs: Vec<f32> = factors.iter().map(|g| g * g).collect();
        if let Some(idx) = activation_idx(folded, part.layer_idx, block.value_idx)
            && let Some(Layer::Activation(activation)) = layers.get_mut(idx)
        {
            let sizes = sizes_of(idx);
            normalize(activation, &sizes, &factors, &mut outputs);
        }
        if let Some(layer) = layers.get_mut(reader.layer_idx) {
            scale_columns(layer, &outputs);
        }
        // What is joined too has its turn next.
        if joins.get(idx + 1) != Some(&true)
            && let Some(idx) = activation_idx(folded, reader.layer_idx, next.value_idx)
            && let Some(Layer::Activation(activation)) = layers.get_mut(idx)
        {
            drop_negligible(activation, &sizes_of(idx));
        }
    }
    folded.with_layers(layers)
}

/// By what each channel's best step exceeds the largest one's.
fn row_factors(layer: &Layer<f32>, bits: u32) -> Vec<f32> {
    let max = (1 << (bits - 1)) - 1;
    let levels = Levels { min: -max, max };
    let rows: Vec<Vec<f32>> = if let Layer::Dense(dense) = layer {
        dense.weights.outer_iter().map(|row| row.to_vec()).collect()
    } else if let Layer::Conv2d(conv) = layer {
        conv.weights.outer_iter().map(|row| row.iter().copied().collect()).collect()
    } else {
        Vec::new()
    };
    let steps: Vec<Option<f32>> =
        rows.iter().map(|row| best_step(row, levels).map(|fit| fit.step)).collect();
    let largest = steps.iter().flatten().copied().fold(0.0, f32::max);
    // A channel of zeros has no step of its own.
    steps.into_iter().map(|step| step.map_or(1.0, |step| step / largest)).collect()
}

fn scale_rows(layer: &mut Layer<f32>, factor: impl Fn(usize) -> f32) {
    let biases = |bias: &mut Array1<f32>| {
        bias.indexed_iter_mut().for_each(|(channel, bias)| *bias *= factor(channel));
    };
    if let Layer::Dense(dense) = layer {
        for (channel, mut row) in dense.weights.outer_iter_mut().enumerate() {
            row *= factor(channel);
        }
        biases(&mut dense.bias);
    } else if let Layer::Conv2d(conv) = layer {
        for (channel, mut row) in conv.weights.outer_iter_mut().enumerate() {
            row *= factor(channel);
        }
        biases(&mut conv.bias);
    }
}

/// Multiply what a layer does with each channel it reads; channels are fastest.
fn scale_columns(layer: &mut Layer<f32>, factors: &[f32]) {
    let n_channels = factors.len().max(1);
    if let Layer::Dense(dense) = layer {
        for (input, mut column) in dense.weights.columns_mut().into_iter().enumerate() {
            column *= at(factors, input % n_channels);
        }
    } else if let Layer::Conv2d(conv) = layer {
        scale_inputs(conv, factors);
    }
}

fn scale_inputs(conv: &mut Conv2d<f32>, factors: &[f32]) {
    let per_group = factors.len() / conv.groups.max(1);
    let rows_per_group = (conv.out_channels() / conv.groups.max(1)).max(1);
    for (row, mut weights) in conv.weights.outer_iter_mut().enumerate() {
        let first = row / rows_per_group * per_group;
        for (position, weight) in weights.iter_mut().enumerate() {
            *weight *= at(factors, first + position % per_group.max(1));
        }
    }
}

/// How large the values around an activation are, channel by channel.
struct Sizes {
    /// Mean of the squares of what it reads.
    squares: Vec<f32>,
    /// Root mean square of what it gives.
    outputs: Vec<f32>,
}

impl Sizes {
    fn of(before: Option<&Tensor<f32>>, after: Option<&Tensor<f32>>) -> Self {
        let outputs = after.map_or_else(Vec::new, mean_squares);
        Self {
            squares: before.map_or_else(Vec::new, mean_squares),
            outputs: outputs.into_iter().map(f32::sqrt).collect(),
        }
    }
}

/// Mean of the squares of every channel; channels are fastest.
#[expect(clippy::cast_precision_loss, reason = "a count")]
fn mean_squares(values: &Tensor<f32>) -> Vec<f32> {
    let n_channels = values.shape().channels().max(1);
    let mut sums = vec![0.0_f64; n_channels];
    for row in values.values().outer_iter() {
        for (position, &v) in row.iter().enumerate() {
            if let Some(sum) = sums.get_mut(position % n_channels) {
                *sum += f64::from(v).powi(2);
            }
        }
    }
    let n = (values.values().len() / n_channels).max(1) as f64;
    #[expect(clippy::cast_possible_truncation, reason = "rounds to nearest")]
    let mean = |sum: f64| (sum / n) as f32;
    sums.into_iter().map(mean).collect()
}

/// Bring leading coefficients to whole numbers when inputs are divided by `factors`, and values to one
/// size; `outputs` gets what they are divided by.
fn normalize(
    activation: &mut Activation<f32>,
    sizes: &Sizes,
    factors: &[f32],
    outputs: &mut [f32],
) {
    drop_negligible(activation, sizes);
    let Activation::Polynomial { a, b, c } = activation else { return };
    let size = |channel| at(&sizes.outputs, channel).max(f32::MIN_POSITIVE);
    // The leading coefficients of values of size 1.
    let leading: Vec<f32> = a
        .iter()
        .enumerate()
        .map(|(channel, a)| a.abs() * at(factors, channel).powi(2) / size(channel))
        .collect();
    let largest = leading.iter().copied().fold(0.0, f32::max);
    let least = leading.iter().copied().filter(|&a| a > 0.0).fold(largest, f32::min);
    let unit = least.max(largest / MAX_LEADING);
    for (channel, output) in outputs.iter_mut().enumerate() {
        let g = at(factors, channel);
        let (Some(a), Some(b), Some(c)) =
            (a.get_mut(channel), b.get_mut(channel), c.get_mut(channel))
        else {
            continue;
        };
        let whole = (at(&leading, channel) / unit).round().max(1.0);
        *output = if *a == 0.0 { size(channel) * unit } else { a.abs() * g * g / whole };
        *a = if *a == 0.0 { 0.0 } else { whole.copysign(*a) };
        *b *= g / *output;
        *c /= *output;
    }
}

/// Put the average in place of squares that hardly matter. The proven ranges of what follows are so far
/// beyond what occurs that they would seem to.
fn drop_negligible(activation: &mut Activation<f32>, sizes: &Sizes) {
    let Activation::Polynomial { a, c, .. } = activation else { return };
    for (channel, (a, c)) in a.iter_mut().zip(c.iter_mut()).enumerate() {
        let square = *a * at(&sizes.squares, channel);
        if square.abs() <= NEGLIGIBLE * at(&sizes.outputs, channel) {
            *c += square;
            *a = 0.0;
        }
    }
}

/// The activation between a linear layer and the end of its stage.
fn activation_idx(network: &Network<f32>, first: usize, last: usize) -> Option<usize> {
    let mut idx = last;
    while idx > first {
        if matches!(network.layers().get(idx), Some(Layer::Activation(_))) {
            return Some(idx);
        }
        match network.sources(idx).first() {
            Some(&Source::Layer(before)) => idx = before,
            _ => return None,
        }
    }
    None
}

fn at(factors: &[f32], channel: usize) -> f32 {
    factors.get(channel).copied().unwrap_or(1.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use ndarray::Array4;
    use proptest::prelude::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;
    use crate::layer::{Dense, Padding};
    use crate::model::Bits;
    use crate::tensor::Shape;

    /// Two convolutions and a dense layer with quadratics, one channel of which is linear.
    fn network(seed: u64, groups: usize) -> Network<f32> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut weights = |n_in: usize| {
            Array4::from_shape_fn((4, 3, 3, n_in), |(row, ..)| {
                rng.random_range(-0.4..0.4) * [1.0, 0.1, 5.0, 1.0].get(row).copied().unwrap_or(1.0)
            })
        };
        let (first, second) = (weights(2), weights(4 / groups));
        let mut vector = |n: usize, reach: f32| {
            Array1::from_shape_simple_fn(n, || rng.random_range(-reach..reach))
        };
        let conv = |weights, bias| Conv2d::new(weights, bias, (1, 1), Padding::NONE);
        let grouped = Conv2d { groups, ..conv(second, vector(4, 0.2)) };
        let mut polynomial = || {
            // Few so small that they are left out.
            let mut a = vector(4, 0.4).mapv(|a| a + 0.2_f32.copysign(a));
            if let Some(first) = a.first_mut() {
                *first = 0.0;
            }
            Layer::Activation(Activation::Polynomial { a, b: vector(4, 1.0), c: vector(4, 0.2) })
        };
        let (once, again) = (polynomial(), polynomial());
        let dense = Array2::from_shape_simple_fn((3, 16), || vector(1, 0.3)[0]);
        let layers = vec![
            Layer::Conv2d(conv(first, vector(4, 0.2))),
            once,
            Layer::Conv2d(grouped),
            again,
            Layer::Flatten,
            Layer::Dense(Dense::new(dense, vector(3, 0.2))),
        ];
        Network::new(Shape::image(6, 6, 2).unwrap(), layers).unwrap()
    }

    /// Whether a square of `before` is a constant in `after`.
    fn gives_way(before: &Network<f32>, after: &Network<f32>) -> bool {
        let leading = |network: &Network<f32>| -> Vec<f32> {
            let mut leading = Vec::new();
            for layer in network.layers() {
                if let Layer::Activation(Activation::Polynomial { a, .. }) = layer {
                    leading.extend(a);
                }
            }
            leading
        };
        let (before, after) = (leading(before), leading(after));
        assert_eq!(before.len(), after.len());
        before.iter().zip(&after).any(|(before, after)| *before != 0.0 && *after == 0.0)
    }

    proptest! {
        #[test]
        fn moving_factors_changes_hardly_anything(seed: u64, grouped: bool) {
            let network = network(seed, if grouped { 2 } else { 1 });
            let bits = Bits::new(4, 6, 6).unwrap();
            let mut rng = StdRng::seed_from_u64(seed);
            let inputs = Array2::from_shape_simple_fn((9, 72), || rng.random_range(0.0..1.0_f32));
            let equal = equalized(&network, &bits.into(), &[true, true, false], &inputs).unwrap();
            let (before, after) =
                (network.outputs(&inputs).unwrap(), equal.outputs(&inputs).unwrap());
            let spread = before.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
            // Half of the scores at least: squares that give way to their mean show where a single sample
            // is far from it, and what follows may make them ten times larger. Otherwise only rounding in
            // single precision differs. A wrong factor moves scores by as much as they are.
            let most = if gives_way(&network, &equal) { 0.1 } else { 0.02 };
            let mut off: Vec<f32> = before.iter().zip(&after).map(|(x, y)| (x - y).abs()).collect();
            off.sort_by(f32::total_cmp);
            let median = off[off.len() / 2];
            prop_assert!(median <= most * spread, "{median} of {spread}, at most {most}");
            for layer in equal.layers() {
                if let Layer::Activation(Activation::Polynomial { a, .. }) = layer {
                    prop_assert!(a.iter().all(|a| a.fract() == 0.0 && a.abs() <= MAX_LEADING));
                }
            }
        }
    }
}
