//! From a network with quantizers to integers.

use ndarray::{Array1, ArrayView1};

use super::blocks::{Block, Blocks, Opening};
use super::quadratic::integer_quadratic;
use super::refuse;
use crate::error::Result;
use crate::integer::{
    ActivationKind, ConvGeometry, Grouping, InputGrid, IntegerNetwork, LinearGeometry, MAX_BIAS,
    MAX_MULTIPLIER, MAX_REFRESHED, MAX_SHIFT, Quadratic, Refresh, StageStructure, StageWeights,
    SumPool, ValueRef, Volume,
};
use crate::layer::{Activation, Pool2d, PoolKind, Quantize, WeightQuantizer, round_half_up};
use crate::network::Network;
use crate::tensor::Shape;

/// Significant bits of the largest multiplier of a refresh, at least.
const LARGEST_MULTIPLIER_BITS: u32 = 16;
/// Significant bits of the smallest multiplier, unless the largest would exceed its limit.
const SMALLEST_MULTIPLIER_BITS: u32 = 11;
/// `log2` of the largest multiplier this module chooses: products with 30-bit values fit 64 bits.
const MAX_MULTIPLIER_LOG2: f64 = 32.0;

/// Why a blend has no integer form.
const BLENDED: &str = "it is still being blended; finish the blending first";

/// An integer network and what its scores mean.
#[derive(Clone, Debug)]
pub struct Quantized {
    /// The specification.
    pub network: IntegerNetwork,
    /// What one unit of a score stands for in the float network's outputs.
    pub score_step: f32,
}

/// The integer network of a network with quantizers on inputs, weights and between stages, as
/// [`super::prepare_qat`] builds it, fine-tuned or not.
///
/// # Errors
/// - [`crate::Error::CannotQuantize`] if a quantizer is missing, or a layer has no integer form.
/// - [`crate::Error::Accumulator`] or [`crate::Error::OutOfRange`] if the integers grow too large.
pub fn quantize(network: &Network<f32>) -> Result<Quantized> {
    let parsed = Blocks::new(network)?;
    let input = input_grid(&parsed)?;
    let mut step = f64::from(input.step);
    let mut levels = (input.min(), input.max());
    let (mut structure, mut weights) = (Vec::new(), Vec::new());
    let n_blocks = parsed.blocks.len();
    for (idx, block) in parsed.blocks.iter().enumerate() {
        let is_last = idx + 1 == n_blocks;
        let output = if is_last { None } else { Some(output_grid(block)?) };
        let reach = f64::from(levels.0.abs().max(levels.1.abs()));
        let resolution = output.map_or(step, |(step, ..)| step);
        let stage = lower(block, Surroundings { step, reach, resolution, is_last })?;
        let refresh = output.map(|(next, min, max)| refresh(&stage.units, next, min, max));
        let source = match idx.checked_sub(1) {
            Some(previous) => ValueRef::Stage(u32::try_from(previous).unwrap_or(u32::MAX)),
            None => ValueRef::Input,
        };
        structure.push(StageStructure { sources: vec![source], refresh, ..stage.structure });
        weights.push(stage.weights);
        match output {
            Some((next, min, max)) => (step, levels) = (next, (min, max)),
            None => step = stage.units.first().copied().unwrap_or(1.0),
        }
    }
    let network = IntegerNetwork::new(input, network.input_shape().len(), structure, weights)?;
    #[expect(clippy::cast_possible_truncation, reason = "rounds to nearest")]
    let score_step = step as f32;
    Ok(Quantized { network, score_step })
}

/// What a block must know of its neighbors.
#[derive(Clone, Copy)]
struct Surroundings {
    /// What one unit of its inputs stands for.
    step: f64,
    /// Largest magnitude of its inputs.
    reach: f64,
    /// Step of the grid after it.
    resolution: f64,
    is_last: bool,
}

/// A stage, and per channel what one unit after activation and sum pool stands for.
struct Lowered {
    structure: StageStructure,
    weights: StageWeights,
    units: Vec<f64>,
}

fn input_grid(parsed: &Blocks<'_>) -> Result<InputGrid> {
    const MISSING: &str = "the input has no quantization; calibrate and prepare the network first";
    let quantize = parsed.input_quantize.ok_or_else(|| refuse(0, "network", MISSING))?;
    let signed = quantize.min < 0;
    let span = i64::from(quantize.max) + 1;
    let bits = 64 - (span - 1).leading_zeros() + u32::from(signed);
    let grid = InputGrid { bits, signed, step: single_step(0, quantize)? };
    if (grid.min(), grid.max()) != (quantize.min, quantize.max) {
        return Err(refuse(0, "quantize", "inputs lie on 0..2^bits or symmetric about zero"));
    }
    grid.check()?;
    Ok(grid)
}

/// Step and levels of the quantization that ends a block, after its clamp.
fn output_grid(block: &Block<'_>) -> Result<(f64, i32, i32)> {
    const MISSING: &str = "no quantization follows; calibrate and prepare the network first";
    let quantize = block.quantize.ok_or_else(|| refuse(block.value_idx, "network", MISSING))?;
    let step = single_step(block.value_idx + 1, quantize)?;
    let max = match block.clamp {
        #[expect(clippy::cast_possible_truncation, reason = "saturates, and a minimum follows")]
        Some(limit) => (round_half_up(limit / step) as i32).clamp(quantize.min, quantize.max),
        None => quantize.max,
    };
    if quantize.min < -MAX_REFRESHED || max > MAX_REFRESHED {
        return Err(refuse(block.value_idx + 1, "quantize", "at most 16 bits between stages"));
    }
    Ok((f64::from(step), quantize.min, max))
}

/// The only step of a quantization: linear layers need one step for all their inputs.
fn single_step(layer_idx: usize, quantize: &Quantize<f32>) -> Result<f32> {
    match quantize.steps.as_slice() {
        Some([step]) => Ok(*step),
        _ => Err(refuse(layer_idx, "quantize", "values between stages share one step")),
    }
}

fn lower(block: &Block<'_>, around: Surroundings) -> Result<Lowered> {
    let (linear, rows) = match block.opening {
        Opening::Dense(dense) => {
            let (n_out, n_in) = dense.weights.dim();
            let rows = quantized_rows(
                block,
                dense.weight_quantizer.as_ref(),
                dense.bias.view(),
                |quantizer| quantizer.quantize(&dense.weights).into_iter().collect(),
            )?;
            (LinearGeometry::Dense { n_in, n_out }, rows)
        }
        Opening::Conv2d(conv) => {
            let rows = quantized_rows(
                block,
                conv.weight_quantizer.as_ref(),
                conv.bias.view(),
                |quantizer| quantizer.quantize(&conv.weights).into_iter().collect(),
            )?;
            let geometry = ConvGeometry {
                input: volume(block.input),
                kernel: conv.kernel(),
                stride: conv.stride,
                padding: conv.padding,
                out_channels: conv.out_channels(),
                grouping: Grouping::Full,
            };
            (LinearGeometry::Conv2d(geometry), rows)
        }
        Opening::Pool2d(pool) => pool_stage(block.input, &pool),
    };
    let channels = rows
        .iter()
        .enumerate()
        .map(|(channel, row)| lower_channel(block, channel, row, around))
        .collect::<Result<Vec<_>>>()?;
    let structure = StageStructure {
        sources: Vec::new(),
        linear,
        activation: match block.activation {
            None => ActivationKind::Identity,
            Some(Activation::Relu) => ActivationKind::Relu,
            Some(Activation::Square | Activation::Polynomial { .. }) => ActivationKind::Quadratic,
            Some(Activation::Blend(_)) => return Err(refuse(block.value_idx, "blend", BLENDED)),
        },
        pool: block.pool.map(|pool| SumPool {
            input: linear.output(),
            window: pool.window,
            stride: pool.stride,
        }),
        refresh: None,
    };
    let divisor = block.pool.map_or(1.0, |pool| divisor(&pool));
    let quadratic = (structure.activation == ActivationKind::Quadratic).then(|| Quadratic {
        a: channels.iter().map(|channel| channel.a).collect(),
        b: channels.iter().map(|channel| channel.b).collect(),
        c: channels.iter().map(|channel| channel.c).collect(),
    });
    let weights = StageWeights {
        weights: rows.iter().flat_map(|row| row.weights.iter().copied()).collect(),
        bias: channels.iter().map(|channel| channel.bias).collect(),
        quadratic: quadratic.map(|all| if all.is_square() { Quadratic::square() } else { all }),
    };
    let units = channels.iter().map(|channel| channel.unit / divisor).collect::<Vec<_>>();
    if around.is_last && units.iter().any(|&unit| Some(&unit) != units.first()) {
        const APART: &str = "scores need one unit: no polynomial activation, one weight scale";
        return Err(refuse(block.value_idx, "last layer", APART));
    }
    Ok(Lowered { structure, weights, units })
}

/// The integer weights of one channel, their scale and the float bias.
struct Row {
    weights: Vec<i16>,
    scale: f64,
    bias: f64,
}

/// Divide the rounded weights by their scales again: the integers that training used.
fn quantized_rows(
    block: &Block<'_>,
    quantizer: Option<&WeightQuantizer<f32>>,
    biases: ArrayView1<'_, f32>,
    rounded: impl Fn(&WeightQuantizer<f32>) -> Vec<f32>,
) -> Result<Vec<Row>> {
    const MISSING: &str = "its weights have no quantizer; calibrate and prepare the network first";
    let quantizer = quantizer.ok_or_else(|| refuse(block.first_idx, "network", MISSING))?;
    let rounded = rounded(quantizer);
    let taps = rounded.len() / biases.len().max(1);
    Ok(rounded
        .chunks(taps.max(1))
        .zip(biases)
        .enumerate()
        .map(|(channel, (row, &bias))| {
            let scale = quantizer.scale(channel);
            #[expect(clippy::cast_possible_truncation, reason = "at most 15 bits")]
            let weights = row.iter().map(|w| (w / scale).round() as i16).collect();
            Row { weights, scale: f64::from(scale), bias: f64::from(bias) }
        })
        .collect())
}

/// A pool that is its own stage: one tap of weight 1 per member of the window.
fn pool_stage(input: &Shape, pool: &Pool2d) -> (LinearGeometry, Vec<Row>) {
    let input = volume(input);
    let geometry = ConvGeometry {
        input,
        kernel: pool.window,
        stride: pool.stride,
        padding: crate::layer::Padding::NONE,
        out_channels: input.channels,
        grouping: Grouping::Depthwise,
    };
    let n = pool.window.0 * pool.window.1;
    let row = || Row { weights: vec![1; n], scale: divisor(pool).recip(), bias: 0.0 };
    (LinearGeometry::Conv2d(geometry), (0..input.channels).map(|_| row()).collect())
}

#[expect(clippy::cast_precision_loss, reason = "a window size")]
fn divisor(pool: &Pool2d) -> f64 {
    match pool.kind {
        PoolKind::Average => (pool.window.0 * pool.window.1) as f64,
        // Blocks refuse maxima before they come here.
        PoolKind::Sum | PoolKind::Max => 1.0,
    }
}

fn volume(shape: &Shape) -> Volume {
    match *shape.dims() {
        [height, width, channels] => Volume { height, width, channels },
        _ => Volume::vector(shape.len()),
    }
}

/// Bias, activation coefficients and unit of one channel.
struct Channel {
    bias: i64,
    a: i32,
    b: i64,
    c: i64,
    unit: f64,
}

fn lower_channel(
    block: &Block<'_>,
    channel: usize,
    row: &Row,
    around: Surroundings,
) -> Result<Channel> {
    const TOO_LARGE: &str = "a bias or coefficient is too large for the scale of its weights";
    let whole = |v| whole(v).ok_or_else(|| refuse(block.first_idx, "linear layer", TOO_LARGE));
    let unit = around.step * row.scale;
    let bias = row.bias / unit;
    match block.activation {
        Some(Activation::Square) => {
            Ok(Channel { bias: whole(bias)?, a: 1, b: 0, c: 0, unit: unit * unit })
        }
        Some(Activation::Polynomial { a, b, c }) => {
            let at = |values: &Array1<f32>| values.get(channel).copied().map_or(0.0, f64::from);
            let l1 = row.weights.iter().map(|&w| f64::from(w).abs()).sum::<f64>();
            let z_max = l1 * around.reach + bias.abs();
            let form = integer_quadratic((at(a), at(b), at(c)), unit, z_max, around.resolution);
            let (b, c) = (whole(form.b)?, whole(form.c)?);
            let bias = whole(bias + form.offset)?;
            Ok(Channel { bias, a: form.a, b, c, unit: form.unit })
        }
        Some(Activation::Blend(_)) => Err(refuse(block.value_idx, "blend", BLENDED)),
        Some(Activation::Relu) | None => Ok(Channel { bias: whole(bias)?, a: 0, b: 0, c: 0, unit }),
    }
}

/// The nearest whole number, halves upward, if it is an allowed bias.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "the magnitude is checked against 2^56 first"
)]
fn whole(v: f64) -> Option<i64> {
    let nearest = (v + 0.5).floor();
    (nearest.abs() <= MAX_BIAS as f64).then_some(nearest as i64)
}

/// The refresh that divides values in `units` by `step`, with one multiplier per channel.
fn refresh(units: &[f64], step: f64, min: i32, max: i32) -> Refresh {
    let ratios = units.iter().map(|unit| unit / step).collect::<Vec<_>>();
    let largest = ratios.iter().copied().fold(0.0, f64::max);
    let smallest = ratios.iter().copied().filter(|&r| r > 0.0).fold(f64::MAX, f64::min);
    // m = ratio · 2^shift has b bits or more when it is at least 2^(b−1).
    let needed = |ratio: f64, bits: u32| f64::from(bits) - 1.0 - ratio.log2().floor();
    let wanted = needed(largest, LARGEST_MULTIPLIER_BITS)
        .max(needed(smallest, SMALLEST_MULTIPLIER_BITS))
        .min(MAX_MULTIPLIER_LOG2 - largest.log2().ceil());
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 ..= 62")]
    let shift = wanted.clamp(0.0, f64::from(MAX_SHIFT)) as u32;
    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "limited")]
    let multiplier =
        |ratio: f64| (ratio * f64::from(shift).exp2()).round().min(MAX_MULTIPLIER as f64) as i64;
    let mut multipliers = ratios.into_iter().map(multiplier).collect::<Vec<_>>();
    if multipliers.iter().all(|&m| Some(&m) == multipliers.first()) {
        multipliers.truncate(1);
    }
    Refresh { multipliers, shift, min, max }
}
