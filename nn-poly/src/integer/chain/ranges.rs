//! Proofs of ranges along a chain: interval arithmetic in 128 bits.

#![expect(clippy::indexing_slicing, reason = "indices come from checked geometry")]

use super::{Chain, MAX_WIDE_MAGNITUDE};
use crate::error::{Error, Result};
use crate::integer::StageOutput;
use crate::integer::geometry::LinearGeometry;
use crate::integer::interval::{Interval, WideInterval};
use crate::integer::structure::{Pool, StageStructure};
use crate::integer::weights::StageWeights;

/// What is proven of a chain.
pub(in crate::integer) struct ChainRanges {
    /// Where every value at the end of the segment lies, before the division.
    pub(in crate::integer) values: Vec<WideInterval>,
    /// Of every linear map the largest `Σ |w|·max|x|` with its bias: bounds every partial sum.
    pub(in crate::integer) reaches: Vec<i128>,
}

/// Prove a chain from the intervals of its inputs.
///
/// # Errors
/// - [`Error::ChainTooWide`] if a value could reach `±2^120`.
pub(in crate::integer) fn prove_chain(
    stage: usize,
    chain: &Chain,
    structure: &StageStructure,
    weights: &StageWeights,
    inputs: &[Interval],
) -> Result<ChainRanges> {
    let mut values: Vec<WideInterval> = inputs.iter().map(|&range| range.into()).collect();
    let mut reaches = Vec::with_capacity(chain.steps.len() + 1);
    for (step, numbers) in chain.steps.iter().zip(&weights.chain) {
        let linear = &step.linear;
        let bias = |output| numbers.bias_of(step, output);
        let (z, reach) = linear_ranges(stage, linear, &numbers.weights, &values, bias)?;
        reaches.push(reach);
        let n_channels = linear.n_channels();
        let y = quadratics(stage, z, |output| numbers.coefficients(step, output % n_channels))?;
        values = pooled(stage, step.pool.as_ref(), y)?;
    }
    let linear = &structure.linear;
    let bias = |output| weights.wide_bias_of(structure, output);
    let (z, reach) = linear_ranges(stage, linear, &weights.weights, &values, bias)?;
    reaches.push(reach);
    if chain.ends == StageOutput::Linear {
        return Ok(ChainRanges { values: z, reaches });
    }
    let y = match &weights.quadratic {
        None => z,
        Some(_) => {
            let n_channels = structure.n_channels();
            quadratics(stage, z, |output| {
                weights.wide_coefficients(structure, output % n_channels)
            })?
        }
    };
    let values = pooled(stage, structure.pool.as_ref(), y)?;
    Ok(ChainRanges { values, reaches })
}

/// The range of every output, and the largest partial sum of any.
fn linear_ranges(
    stage: usize,
    linear: &LinearGeometry,
    weights: &[i16],
    inputs: &[WideInterval],
    bias_of: impl Fn(usize) -> i128,
) -> Result<(Vec<WideInterval>, i128)> {
    let mut largest = 0;
    let ranges = (0..linear.n_outputs())
        .map(|output| {
            let bias = bias_of(output);
            let (mut low, mut high, mut reach) = (bias, bias, bias.saturating_abs());
            linear.for_each_tap(output, |input, weight| {
                // Inputs stay inside ±2^120 and weights inside ±2^15: only products leave 127 bits.
                let (w, x) = (i128::from(weights[weight]), inputs[input]);
                let (at_low, at_high) = (w.saturating_mul(x.low), w.saturating_mul(x.high));
                low = low.saturating_add(at_low.min(at_high));
                high = high.saturating_add(at_low.max(at_high));
                let largest = at_low.saturating_abs().max(at_high.saturating_abs());
                reach = reach.saturating_add(largest);
            });
            bounded(stage, "linear map of a chain", reach)?;
            largest = largest.max(reach);
            Ok(WideInterval { low, high })
        })
        .collect::<Result<_>>()?;
    Ok((ranges, largest))
}

fn quadratics(
    stage: usize,
    values: Vec<WideInterval>,
    coefficients: impl Fn(usize) -> (i32, i64, i128),
) -> Result<Vec<WideInterval>> {
    let one = |(output, range): (usize, WideInterval)| {
        let (a, b, c) = coefficients(output);
        let z = range.magnitude();
        let leading = i128::from(a).abs().max(1).saturating_mul(z).saturating_mul(z);
        let middle = i128::from(b).abs().saturating_mul(z);
        let reach = leading.saturating_add(middle).saturating_add(c.saturating_abs());
        bounded(stage, "activation of a chain", reach)?;
        Ok(range.quadratic(a, b, c))
    };
    values.into_iter().enumerate().map(one).collect()
}

fn pooled(
    stage: usize,
    pool: Option<&Pool>,
    values: Vec<WideInterval>,
) -> Result<Vec<WideInterval>> {
    let Some(pool) = pool else { return Ok(values) };
    (0..pool.output().len())
        .map(|output| {
            let (mut low, mut high, mut reach) = (0_i128, 0_i128, 0_i128);
            pool.for_each_term(output, |term| {
                let range = values[term];
                low = low.saturating_add(range.low);
                high = high.saturating_add(range.high);
                reach = reach.saturating_add(range.magnitude());
            });
            bounded(stage, "pool of a chain", reach)?;
            Ok(WideInterval { low, high })
        })
        .collect()
}

/// Refuse a step whose partial results could reach `2^120`.
fn bounded(stage: usize, step: &'static str, magnitude: i128) -> Result<()> {
    if magnitude < MAX_WIDE_MAGNITUDE {
        Ok(())
    } else {
        Err(Error::ChainTooWide { stage, step, magnitude })
    }
}
