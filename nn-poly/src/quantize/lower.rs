//! From a network with quantizers to integers.

use ndarray::Array1;

use super::blocks::{Block, Blocks, Ready};
use super::common_unit::common_unit;
use super::quadratic::integer_quadratic;
use super::refuse;
use super::tabulate::{Preactivation, Tabulated, Target, Window, tabulate};
use super::terms::{Term, terms};
use super::weight_scales::pool_divisor;
use crate::approximate::Function;
use crate::error::Result;
use crate::integer::{
    ActivationKind, InputGrid, IntegerNetwork, LinearGeometry, MAX_BIAS, MAX_MULTIPLIER,
    MAX_REFRESHED, MAX_SHIFT, MAX_WEIGHT, Pool, Quadratic, Reduction, Refresh, StageStructure,
    StageWeights, SumGeometry, SumTerm, ValueRef,
};
use crate::layer::{Activation, PoolKind, Quantize, round_half_up};
use crate::network::Network;

/// Significant bits of the largest multiplier of a refresh, at least.
const LARGEST_MULTIPLIER_BITS: u32 = 16;
/// Significant bits of the smallest multiplier, unless the largest would exceed its limit.
const SMALLEST_MULTIPLIER_BITS: u32 = 11;
/// `log2` of the largest multiplier this module chooses: products with 30-bit values fit 64 bits.
const MAX_MULTIPLIER_LOG2: f64 = 32.0;

/// Why a function has no integer form.
const SCORED: &str = "scores are taken before it: leave the last activation out (one that never falls \
                      does not change which score is largest)";
const TOO_LONG: &str = "its look-up tables would have more than 2^20 runs; use fewer activation bits, or \
                        fewer channels";
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
    let mut grids = vec![Grid { step: f64::from(input.step), min: input.min(), max: input.max() }];
    let (mut structure, mut weights) = (Vec::new(), Vec::new());
    let n_blocks = parsed.blocks.len();
    let mut score_step = 1.0;
    for (idx, block) in parsed.blocks.iter().enumerate() {
        let is_last = idx + 1 == n_blocks;
        let output = if is_last { None } else { Some(output_grid(block)?) };
        let stage = lower(block, &grids, output, is_last)?;
        let refresh = output.map(|grid| refresh(&stage.units, grid.step, grid.min, grid.max));
        structure.push(StageStructure { refresh, ..stage.structure });
        weights.push(stage.weights);
        match output {
            Some(grid) => grids.push(grid),
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
    Ok(Grid { step: f64::from(step), min: quantize.min, max })
}

/// The only step of a quantization: linear layers need one step for all their inputs.
fn single_step(layer_idx: usize, quantize: &Quantize<f32>) -> Result<f32> {
    match quantize.steps.as_slice() {
        Some([step]) => Ok(*step),
        _ => Err(refuse(layer_idx, "quantize", "values between stages share one step")),
    }
}

fn lower(
    block: &Block<'_>,
    grids: &[Grid],
    output: Option<Grid>,
    is_last: bool,
) -> Result<Lowered> {
    let grid_of = |ready: Ready| {
        let grid = grids.get(ready.position()).copied();
        grid.expect("invariant: blocks read earlier ones only")
    };
    let (terms, biases) = terms(block, &|ready| grid_of(ready).step)?;
    let aligned = align(block, &terms)?;
    let (sources, linear) = geometry(&terms);
    let (channels, reaches): (Vec<Channel>, Vec<f64>) = aligned
        .iter()
        .zip(&biases)
        .enumerate()
        .map(|(channel, (row, &bias))| {
            let reach = terms.iter().zip(&row.multiples).map(|(term, &multiple)| {
                let Grid { min, max, .. } = grid_of(term.ready);
                let largest = f64::from(min.abs().max(max.abs()));
                let own = term.rows.get(channel).map_or(&[][..], Vec::as_slice);
                let l1 = own.iter().map(|&w| f64::from(w).abs()).sum::<f64>();
                l1 * f64::from(multiple) * largest
            });
            let input_step = terms.first().map_or(1.0, |term| grid_of(term.ready).step);
            let resolution = output.map_or(input_step, |grid| grid.step);
            let reach = reach.sum();
            let lowered = lower_channel(block, channel, (row.unit, bias), (reach, resolution))?;
            Ok((lowered, reach + bias.abs() / row.unit + 1.0))
        })
        .collect::<Result<_>>()?;
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
        pool: block.pool.map(|pool| Pool {
            reduction: if pool.kind == PoolKind::Max { Reduction::Max } else { Reduction::Sum },
            input: linear.output(),
            window: pool.window,
            stride: pool.stride,
            padding: pool.padding,
        }),
        linear,
        refresh: None,
    };
    let quadratic = (structure.activation == ActivationKind::Quadratic).then(|| Quadratic {
        a: channels.iter().map(|channel| channel.a).collect(),
        b: channels.iter().map(|channel| channel.b).collect(),
        c: channels.iter().map(|channel| channel.c).collect(),
    });
    let weights = StageWeights {
        weights: aligned.into_iter().flat_map(|row| row.weights).collect(),
        bias: channels.iter().map(|channel| channel.bias).collect(),
        quadratic: quadratic.map(|all| if all.is_square() { Quadratic::square() } else { all }),
    };
    units.iter_mut().for_each(|unit| *unit /= divisor);
    if is_last && units.iter().any(|&unit| Some(&unit) != units.first()) {
        const APART: &str = "scores need one unit: no polynomial activation, one weight scale";
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

/// One channel of a stage: all terms in one unit.
struct AlignedRow {
    weights: Vec<i16>,
    /// What one unit of the sum stands for.
    unit: f64,
    /// By what the weights of each term were multiplied.
    multiples: Vec<i32>,
}

/// Multiply the integers of every term by what its unit is of the common one, channel by channel.
fn align(block: &Block<'_>, terms: &[Term]) -> Result<Vec<AlignedRow>> {
    const APART: &str =
        "the values that meet here have no common unit; calibrate and prepare the network again";
    const WIDE: &str = "the values that meet here differ too much in size for 16-bit multipliers";
    let refused = |reason| refuse(block.first_idx, "addition", reason);
    let n_channels = terms.first().map_or(0, |term| term.rows.len());
    (0..n_channels)
        .map(|channel| {
            let units: Vec<f64> = terms.iter().map(|term| term.unit(channel)).collect();
            let unit = match units.as_slice() {
                &[single] => single,
                several => common_unit(several).ok_or_else(|| refused(APART))?,
            };
            let mut row = AlignedRow { weights: Vec::new(), unit, multiples: Vec::new() };
            for (term, own) in terms.iter().zip(&units) {
                let multiple = (own / unit).round();
                if multiple > f64::from(MAX_WEIGHT) {
                    return Err(refused(WIDE));
                }
                #[expect(clippy::cast_possible_truncation, reason = "1 ..= 2^15")]
                let multiple = multiple as i32;
                for &w in term.rows.get(channel).map_or(&[][..], Vec::as_slice) {
                    let product = i32::from(w) * multiple;
                    let weight = i16::try_from(product).ok().filter(|w| *w != i16::MIN);
                    row.weights.push(weight.ok_or_else(|| refused(WIDE))?);
                }
                row.multiples.push(multiple);
            }
            Ok(row)
        })
        .collect()
}

/// What a stage of these terms reads, and its linear map.
fn geometry(terms: &[Term]) -> (Vec<ValueRef>, LinearGeometry) {
    let mut read: Vec<(Ready, usize)> = Vec::new();
    let mut n_in = 0;
    let mut placed = Vec::with_capacity(terms.len());
    for term in terms {
        let first_input = match read.iter().find(|(ready, _)| *ready == term.ready) {
            Some(&(_, first)) => first,
            None => {
                read.push((term.ready, n_in));
                n_in += term.conv.input.len();
                n_in - term.conv.input.len()
            }
        };
        placed.push(SumTerm { first_input, conv: term.conv });
    }
    let source = |(ready, _): &(Ready, usize)| match *ready {
        Ready::Input => ValueRef::Input,
        Ready::Block(idx) => ValueRef::Stage(u32::try_from(idx).unwrap_or(u32::MAX)),
    };
    let linear = match placed.as_slice() {
        [SumTerm { conv, .. }] if terms.iter().any(|term| term.is_dense) => {
            LinearGeometry::Dense { n_in, n_out: conv.out_channels }
        }
        [SumTerm { conv, .. }] => LinearGeometry::Conv2d(*conv),
        _ => LinearGeometry::Sum(SumGeometry { n_in, terms: placed }),
    };
    (read.iter().map(source).collect(), linear)
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
    (unit, bias): (f64, f64),
    (reach, resolution): (f64, f64),
) -> Result<Channel> {
    const TOO_LARGE: &str = "a bias or coefficient is too large for the scale of its weights";
    let whole = |v| whole(v).ok_or_else(|| refuse(block.first_idx, "linear layer", TOO_LARGE));
    let bias = bias / unit;
    match block.activation {
        Some(Activation::Square) => {
            Ok(Channel { bias: whole(bias)?, a: 1, b: 0, c: 0, unit: unit * unit })
        }
        Some(Activation::Polynomial { a, b, c }) => {
            let at = |values: &Array1<f32>| values.get(channel).copied().map_or(0.0, f64::from);
            let z_max = reach + bias.abs();
            let form = integer_quadratic((at(a), at(b), at(c)), unit, z_max, resolution);
            let (b, c) = (whole(form.b)?, whole(form.c)?);
            let bias = whole(bias + form.offset)?;
            Ok(Channel { bias, a: form.a, b, c, unit: form.unit })
        }
        Some(Activation::Blend(_)) => Err(refuse(block.value_idx, "blend", BLENDED)),
        Some(Activation::Relu | Activation::Function(_)) | None => {
            Ok(Channel { bias: whole(bias)?, a: 0, b: 0, c: 0, unit })
        }
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
