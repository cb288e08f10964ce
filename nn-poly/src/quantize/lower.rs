//! From a network with quantizers to integers.

mod channel;
mod sum;

use ndarray::Array1;

use self::channel::{
    ACTIVATED_BITS, Channel, DIVIDED_BITS, excess_bits, lower_channel, numbers,
    refine_linear_channels,
};
use self::sum::{align, geometry};
use super::blocks::{Block, Blocks, Ready};
use super::quadratic::{IntegerQuadratic, chained_quadratic};
use super::refuse;
use super::tabulate::{Preactivation, Tabulated, Target, Window, tabulate};
use super::terms::terms;
use super::weight_scales::pool_divisor;
use crate::approximate::Function;
use crate::error::Result;
use crate::integer::chain::{Chain, ChainStep, StepWeights};
use crate::integer::{
    ActivationKind, InputGrid, IntegerNetwork, LinearGeometry, MAX_MULTIPLIER, MAX_REFRESHED,
    MAX_SHIFT, Pool, Reduction, Refresh, StageOutput, StageStructure, StageWeights, ValueRef,
};
use crate::layer::{Activation, Pool2d, PoolKind, Quantize, round_half_up};
use crate::network::Network;

/// Significant bits of the largest multiplier of a refresh, at least.
const LARGEST_MULTIPLIER_BITS: u32 = 16;
/// Significant bits of the smallest multiplier, unless the largest would exceed its limit.
const SMALLEST_MULTIPLIER_BITS: u32 = 11;
/// `log2` of the largest multiplier this module chooses: products with 30-bit values fit 64 bits.
const MAX_MULTIPLIER_LOG2: f64 = 32.0;

/// Why a function has no integer form.
pub(super) const SCORED: &str = "scores are taken before it: leave the last activation out (one that never falls \
                      does not change which score is largest)";
const TOO_LONG: &str = "its look-up tables would have more than 2^20 runs; use fewer activation bits, or \
                        fewer channels";
/// Why coefficients per channel at the end have no integer form.
pub(super) const APART: &str = "scores need one unit: no polynomial activation, one weight scale";
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
    quantize_joined(network, &[], StageOutput::Linear)
}

/// As [`quantize`], with the stages marked in `joins` as steps of the next one's chain. Their channels
/// count one unit, and the leading coefficients of their quadratics are ±1 or 0.
///
/// `ends` says where stages with a chain end their segments; without an activation that is after the linear
/// map, whoever evaluates activations.
pub(super) fn quantize_joined(
    network: &Network<f32>,
    joins: &[bool],
    ends: StageOutput,
) -> Result<Quantized> {
    let parsed = Blocks::new(network)?;
    let input = input_grid(&parsed)?;
    let mut grids = vec![Grid::new(f64::from(input.step), input.min(), input.max(), 0)];
    let (mut structure, mut weights) = (Vec::new(), Vec::new());
    let n_blocks = parsed.blocks.len();
    let mut score_step = 1.0;
    let mut steps: Vec<Step> = Vec::new();
    for (idx, block) in parsed.blocks.iter().enumerate() {
        if joins.get(idx) == Some(&true) {
            let step = step(block, &grids, structure.len())?;
            grids.push(step.grid);
            steps.push(step);
            continue;
        }
        let is_last = idx + 1 == n_blocks;
        let output = if is_last { None } else { Some(output_grid(block)?) };
        let ends = if block.activation.is_some() { ends } else { StageOutput::Linear };
        let chain = (!steps.is_empty()).then_some(ends);
        let mut stage =
            lower(block, &grids, output, is_last, chain.map(|ends| (ends, structure.len())))?;
        if let Some(chain) = &mut stage.structure.chain {
            for step in steps.drain(..) {
                if chain.steps.is_empty() {
                    stage.structure.sources = step.sources;
                }
                chain.steps.push(step.structure);
                stage.weights.chain.push(step.weights);
            }
        }
        let refresh = output.map(|grid| refresh(&stage.units, grid.step, grid.min, grid.max));
        structure.push(StageStructure { refresh, ..stage.structure });
        weights.push(stage.weights);
        match output {
            Some(grid) => grids.push(Grid { stage: structure.len() - 1, ..grid }),
            None => score_step = stage.units.first().copied().unwrap_or(1.0),
        }
    }
    let network = IntegerNetwork::new(input, network.input_shape().len(), structure, weights)?;
    #[expect(clippy::cast_possible_truncation, reason = "rounds to nearest")]
    let score_step = score_step as f32;
    Ok(Quantized { network, score_step })
}

/// The grid of a ready value.
#[derive(Clone, Copy)]
struct Grid {
    /// What one unit stands for.
    step: f64,
    min: i32,
    max: i32,
    /// Largest magnitude in units.
    largest: f64,
    /// The stage that yields it.
    stage: usize,
}

impl Grid {
    fn new(step: f64, min: i32, max: i32, stage: usize) -> Self {
        Self { step, min, max, largest: f64::from(min.abs().max(max.abs())), stage }
    }
}

/// A stage, and per channel what one unit after activation and pool stands for.
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
fn output_grid(block: &Block<'_>) -> Result<Grid> {
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
    Ok(Grid::new(f64::from(step), quantize.min, max, 0))
}

/// The only step of a quantization: linear layers need one step for all their inputs.
fn single_step(layer_idx: usize, quantize: &Quantize<f32>) -> Result<f32> {
    match quantize.steps.as_slice() {
        Some([step]) => Ok(*step),
        _ => Err(refuse(layer_idx, "quantize", "values between stages share one step")),
    }
}

/// The linear map of a block, in integers.
struct LoweredLinear {
    sources: Vec<ValueRef>,
    linear: LinearGeometry,
    weights: Vec<i16>,
    /// One per output channel.
    channels: Vec<LinearChannel>,
}

/// One output channel of a linear map.
#[derive(Clone, Copy)]
struct LinearChannel {
    /// What one unit stands for.
    unit: f64,
    /// The bias, in units.
    bias: f64,
    /// Largest magnitude of the sum of products, in units.
    reach: f64,
}

fn lower_linear(block: &Block<'_>, grids: &[Grid]) -> Result<LoweredLinear> {
    let grid_of = |ready: Ready| grid_of(grids, ready);
    let (terms, biases) = terms(block, &|ready| grid_of(ready).step)?;
    let aligned = align(block, &terms)?;
    let (sources, linear) = geometry(&terms, grids);
    let channels = aligned
        .iter()
        .zip(&biases)
        .enumerate()
        .map(|(channel, (row, &bias))| {
            let reach = terms.iter().zip(&row.multiples).map(|(term, &multiple)| {
                let own = term.rows.get(channel).map_or(&[][..], Vec::as_slice);
                let l1 = own.iter().map(|&w| f64::from(w).abs()).sum::<f64>();
                l1 * f64::from(multiple) * grid_of(term.ready).largest
            });
            LinearChannel { unit: row.unit, bias: bias / row.unit, reach: reach.sum() }
        })
        .collect();
    let weights = aligned.into_iter().flat_map(|row| row.weights).collect();
    Ok(LoweredLinear { sources, linear, weights, channels })
}

fn grid_of(grids: &[Grid], ready: Ready) -> Grid {
    let grid = grids.get(ready.position()).copied();
    grid.expect("invariant: blocks read earlier ones only")
}

/// A step of a chain, and the unit of its values.
struct Step {
    sources: Vec<ValueRef>,
    structure: ChainStep,
    weights: StepWeights,
    grid: Grid,
}

/// A block that is joined to the next one.
fn step(block: &Block<'_>, grids: &[Grid], stage: usize) -> Result<Step> {
    let LoweredLinear { sources, linear, weights, channels } = lower_linear(block, grids)?;
    // One scale for all channels: see `weight_scales`.
    let unit = channels.first().map_or(1.0, |channel| channel.unit);
    let mut largest = 0.0_f64;
    let channels = channels
        .iter()
        .enumerate()
        .map(|(idx, &LinearChannel { bias, reach, .. })| {
            let (a, b, c) = coefficients(block, idx);
            let IntegerQuadratic { offset, a, b, c, unit } =
                chained_quadratic((a, b, c), unit, reach + bias.abs() + 1.0);
            let channel = Channel { bias: bias + offset, a, b, c, unit };
            largest = largest.max(channel.reach(reach));
            channel
        })
        .collect::<Vec<_>>();
    let pool = block.pool.map(|pool| sum_pool(&pool, &linear));
    largest *=
        pool.map_or(1.0, |pool| f64::from(u32::try_from(pool.n_terms()).unwrap_or(u32::MAX)));
    excess_bits(stage, largest, DIVIDED_BITS)?;
    let (exponents, numbers) = numbers(block, &channels, true)?;
    let divisor = block.pool.map_or(1.0, |pool| pool_divisor(&pool));
    let grid = Grid { step: unit * unit / divisor, min: 0, max: i32::MAX, largest, stage: 0 };
    Ok(Step {
        sources,
        structure: ChainStep { linear, pool, exponents },
        weights: StepWeights { weights, bias: numbers.bias, quadratic: numbers.quadratic },
        grid,
    })
}

/// Coefficients of a polynomial activation.
fn coefficients(block: &Block<'_>, channel: usize) -> (f64, f64, f64) {
    let at = |values: &Array1<f32>| values.get(channel).copied().map_or(0.0, f64::from);
    match block.activation {
        Some(Activation::Square) => (1.0, 0.0, 0.0),
        Some(Activation::Polynomial { a, b, c }) => (at(a), at(b), at(c)),
        _ => (0.0, 1.0, 0.0),
    }
}

fn sum_pool(pool: &Pool2d, linear: &LinearGeometry) -> Pool {
    Pool {
        reduction: if pool.kind == PoolKind::Max { Reduction::Max } else { Reduction::Sum },
        input: linear.output(),
        window: pool.window,
        stride: pool.stride,
        padding: pool.padding,
    }
}

fn lower(
    block: &Block<'_>,
    grids: &[Grid],
    output: Option<Grid>,
    is_last: bool,
    chain: Option<(StageOutput, usize)>,
) -> Result<Lowered> {
    let stage = chain.map_or(0, |(_, stage)| stage);
    let chain = chain.map(|(ends, _)| ends);
    let LoweredLinear { sources, linear, weights, channels: lines } = lower_linear(block, grids)?;
    let first = block.parts.iter().flat_map(|part| &part.reads).next();
    let input_step = first.map_or(1.0, |read| grid_of(grids, read.ready).step);
    let resolution = output.map_or(input_step, |grid| grid.step);
    // What a chain drops after the linear map, where its segment ends there.
    let largest = lines.iter().map(|line| line.reach + line.bias.abs()).fold(1.0, f64::max);
    let kept = if block.activation.is_some() { ACTIVATED_BITS } else { DIVIDED_BITS };
    let is_early = chain == Some(StageOutput::Linear);
    let early = if is_early { excess_bits(stage, largest, kept)? } else { 0 };
    let scale = f64::from(early).exp2();
    let mut channels = lines
        .iter()
        .enumerate()
        .map(|(idx, &LinearChannel { unit, bias, reach })| {
            let z_max = (reach + bias.abs()) / scale;
            let form = lower_channel(block, idx, unit * scale, (z_max, resolution))?;
            Ok(Channel { bias: bias + form.bias * scale, ..form })
        })
        .collect::<Result<Vec<Channel>>>()?;
    let reaches: Vec<f64> =
        lines.iter().map(|line| (line.reach + line.bias.abs()) / scale + 1.0).collect();
    let terms_of_pool = block.pool.map_or(1, |pool| pool.window.0 * pool.window.1);
    if chain == Some(StageOutput::Pooled) {
        refine_linear_channels(&mut channels);
    }
    let late = if chain == Some(StageOutput::Pooled) {
        let largest = channels.iter().zip(&lines).map(|(channel, line)| channel.reach(line.reach));
        let n_terms = f64::from(u32::try_from(terms_of_pool).unwrap_or(u32::MAX));
        excess_bits(stage, largest.fold(1.0, f64::max) * n_terms, DIVIDED_BITS)?
    } else {
        0
    };
    for channel in &mut channels {
        channel.unit *= f64::from(late).exp2();
    }
    let (exponents, numbers) = numbers(block, &channels, chain.is_some())?;
    let chain =
        chain.map(|ends| Chain { steps: Vec::new(), exponents, ends, descale: early + late });
    let divisor = block.pool.map_or(1.0, |pool| pool_divisor(&pool));
    let mut units: Vec<f64> = channels.iter().map(|channel| channel.unit).collect();
    let structure = StageStructure {
        sources,
        activation: match block.activation {
            None => ActivationKind::Identity,
            Some(Activation::Relu) => ActivationKind::Relu,
            Some(Activation::Square | Activation::Polynomial { .. }) => ActivationKind::Quadratic,
            Some(Activation::Blend(_)) => return Err(refuse(block.value_idx, "blend", BLENDED)),
            Some(Activation::Function(function)) => {
                let refused = |reason| refuse(block.value_idx, function.kind(), reason);
                let grid = output.ok_or_else(|| refused(SCORED))?;
                let table = table(block, function, (&units, &reaches), grid);
                let Tabulated { table, step } = table.ok_or_else(|| refused(TOO_LONG))?;
                units.fill(step);
                ActivationKind::Table(table)
            }
        },
        pool: block.pool.map(|pool| sum_pool(&pool, &linear)),
        linear,
        refresh: None,
        chain,
    };
    let is_quadratic = structure.activation == ActivationKind::Quadratic;
    let weights = StageWeights {
        weights,
        bias: numbers.bias,
        quadratic: is_quadratic.then_some(numbers.quadratic),
        chain: Vec::new(),
    };
    units.iter_mut().for_each(|unit| *unit /= divisor);
    if is_last && units.iter().any(|&unit| Some(&unit) != units.first()) {
        return Err(refuse(block.value_idx, "last layer", APART));
    }
    Ok(Lowered { structure, weights, units })
}

/// The table of a function on integers of these units, none beyond its reach.
#[expect(clippy::cast_precision_loss, reason = "a window size")]
fn table(
    block: &Block<'_>,
    function: &Function,
    (units, reaches): (&[f64], &[f64]),
    grid: Grid,
) -> Option<Tabulated> {
    let channels = units.iter().zip(reaches).map(|(&unit, &reach)| Preactivation { unit, reach });
    let sum = block.pool.filter(|pool| pool.kind != PoolKind::Max).map(|pool| Window {
        n_terms: (pool.window.0 * pool.window.1) as f64,
        divisor: pool_divisor(&pool),
    });
    let target = Target { step: grid.step, min: grid.min, max: grid.max, sum };
    tabulate(function, &channels.collect::<Vec<_>>(), &target)
}

/// The refresh that divides values in `units` by `step`, with one multiplier per channel.
fn refresh(units: &[f64], step: f64, min: i32, max: i32) -> Refresh {
    let ratios = units.iter().map(|unit| unit / step).collect::<Vec<_>>();
    if ratios.iter().all(|&ratio| ratio == 1.0) {
        // A table that ends on the grid itself.
        return Refresh { multipliers: vec![1], shift: 0, min, max };
    }
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
