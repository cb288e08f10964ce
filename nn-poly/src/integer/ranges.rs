//! Proofs: which integers can occur anywhere in a network, for every input of its grid.
//!
//! Inputs of a stage are bounded by the input grid or by the clamp of the refresh that produced
//! them, whatever happened before. So every stage is proven on its own, and a stage whose range is
//! only calibrated cannot spoil the proof of a later one.

#![expect(clippy::indexing_slicing, reason = "indices come from checked geometry")]

use super::chain::{Chain, ChainRanges, descale_interval, prove_chain};
use super::check::require;
use super::geometry::LinearGeometry;
use super::interval::{Interval, WideInterval};
use super::structure::{ActivationKind, Reduction, StageStructure};
use super::weights::{Quadratic, StageWeights};
use super::{IntegerNetwork, MAX_MAGNITUDE, StageOutput};
use crate::error::{Error, Result};

/// Largest norms over the rows of a stage's linear map (zero padding included in a row).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowNorms {
    /// `max_row Σ |w|`.
    pub max_l1: u64,
    /// `max_row sqrt(Σ w²)`.
    pub max_l2: f64,
}

/// The proven ranges of one stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageRanges {
    /// One interval per output of the linear map.
    pub linear: Vec<Interval>,
    /// One interval per value after activation and pool.
    pub pooled: Vec<Interval>,
    /// `max_row Σ |w|·max|x|`: bounds every partial sum of products, in any order.
    pub max_products: u64,
    /// With a chain: every value where its segment ends, before the division. `linear` and `pooled`
    /// are ranges after it, and `linear` is empty if the segment ends later.
    pub undivided: Option<WideInterval>,
    /// With a chain: as `max_products`, for each of its linear maps, biases included.
    pub chain_products: Vec<i128>,
}

impl StageRanges {
    /// The smallest interval that contains every value at `output`.
    #[must_use]
    pub fn bounds(&self, output: StageOutput) -> Interval {
        let ranges = match output {
            StageOutput::Linear => &self.linear,
            StageOutput::Pooled => &self.pooled,
        };
        ranges.iter().fold(Interval::EMPTY, |hull, &range| hull.hull(range))
    }
}

/// Prove one stage from the intervals of its sources.
///
/// # Errors
/// - [`Error::Accumulator`] if a value could reach `±2^62`.
pub(super) fn prove_stage(
    stage: usize,
    structure: &StageStructure,
    weights: &StageWeights,
    inputs: &[Interval],
) -> Result<StageRanges> {
    if let Some(chain) = &structure.chain {
        return prove_chained(stage, chain, structure, weights, inputs);
    }
    let linear = &structure.linear;
    let n_channels = structure.n_channels();
    let mut ranges = Vec::with_capacity(linear.n_outputs());
    let mut activated = Vec::with_capacity(linear.n_outputs());
    let mut max_products = 0_u64;
    for output in 0..linear.n_outputs() {
        let (range, products) = linear_interval(structure, weights, inputs, output);
        let bias = i128::from(weights.bias_of(output, n_channels));
        bounded(stage, "linear map", products + bias.abs())?;
        max_products = max_products.max(u64::try_from(products).unwrap_or(u64::MAX));
        let after = activate(
            stage,
            &structure.activation,
            weights.quadratic.as_ref(),
            output % n_channels,
            range,
        )?;
        ranges.push(Interval::from_wide(range));
        activated.push(after);
    }
    let pooled = pool(stage, structure, &activated)?;
    let (undivided, chain_products) = (None, Vec::new());
    Ok(StageRanges { linear: ranges, pooled, max_products, undivided, chain_products })
}

/// As [`prove_stage`], for a stage with a chain.
fn prove_chained(
    stage: usize,
    chain: &Chain,
    structure: &StageStructure,
    weights: &StageWeights,
    inputs: &[Interval],
) -> Result<StageRanges> {
    let ChainRanges { values: undivided, reaches } =
        prove_chain(stage, chain, structure, weights, inputs)?;
    let empty = WideInterval { low: i128::MAX, high: i128::MIN };
    let hull = undivided.iter().fold(empty, |hull, &range| hull.hull(range));
    let divided: Vec<Interval> =
        undivided.iter().map(|&range| descale_interval(range, chain.descale)).collect();
    for range in &divided {
        bounded(stage, "division that ends its chain", i128::from(range.magnitude()))?;
    }
    let (linear, pooled) = match chain.ends {
        StageOutput::Pooled => (Vec::new(), divided),
        StageOutput::Linear => {
            let n_channels = structure.n_channels();
            let quadratic = weights.quadratic.as_ref();
            let activated = divided
                .iter()
                .enumerate()
                .map(|(output, &range)| {
                    let channel = output % n_channels;
                    activate(stage, &structure.activation, quadratic, channel, range.into())
                })
                .collect::<Result<Vec<_>>>()?;
            let pooled = pool(stage, structure, &activated)?;
            (divided, pooled)
        }
    };
    let undivided = Some(hull);
    Ok(StageRanges { linear, pooled, max_products: 0, undivided, chain_products: reaches })
}

/// `[Σ w⁺·low + w⁻·high + b, Σ w⁺·high + w⁻·low + b]` and `Σ |w|·max|x|`.
fn linear_interval(
    structure: &StageStructure,
    weights: &StageWeights,
    inputs: &[Interval],
    output: usize,
) -> (WideInterval, i128) {
    let bias = i128::from(weights.bias_of(output, structure.n_channels()));
    let (mut low, mut high, mut products) = (bias, bias, 0_i128);
    structure.linear.for_each_tap(output, |input, weight| {
        let w = i64::from(weights.weights[weight]);
        let x = inputs[input];
        // |w| < 2^15 and |x| ≤ 2^16, so these products are far from the ends of i64.
        let (at_low, at_high) = (w * x.low, w * x.high);
        low += i128::from(at_low.min(at_high));
        high += i128::from(at_low.max(at_high));
        products += i128::from(at_low.abs().max(at_high.abs()));
    });
    (WideInterval { low, high }, products)
}

/// The range after the activation, with every intermediate value bounded.
fn activate(
    stage: usize,
    activation: &ActivationKind,
    quadratic: Option<&Quadratic>,
    channel: usize,
    range: WideInterval,
) -> Result<WideInterval> {
    Ok(match (activation, quadratic) {
        (ActivationKind::Relu, _) => range.relu(),
        // Narrowing keeps the run of every `z`: all runs begin inside ±2^62.
        (ActivationKind::Table(table), _) => {
            table.channel(channel).range(Interval::from_wide(range)).into()
        }
        (ActivationKind::Quadratic, Some(quadratic)) => {
            let (a, b, c) = quadratic.coefficients(channel);
            let z = range.magnitude();
            // z < 2^63, |a| ≤ 2^20 and |b|, |c| ≤ 2^56: only the square can leave i128.
            let terms = (i128::from(a).abs().max(1) * z)
                .saturating_mul(z)
                .saturating_add(i128::from(b).abs() * z + i128::from(c).abs());
            bounded(stage, "activation", terms)?;
            range.quadratic(a, b, c.into())
        }
        (ActivationKind::Identity | ActivationKind::Quadratic, _) => range,
    })
}

fn pool(
    stage: usize,
    structure: &StageStructure,
    activated: &[WideInterval],
) -> Result<Vec<Interval>> {
    let Some(pool) = &structure.pool else {
        return Ok(activated.iter().map(|&range| Interval::from_wide(range)).collect());
    };
    (0..structure.n_outputs())
        .map(|output| match pool.reduction {
            Reduction::Sum => {
                let mut sum = WideInterval { low: 0, high: 0 };
                let mut magnitude = 0;
                pool.for_each_term(output, |term| {
                    sum = sum.plus(activated[term]);
                    magnitude += activated[term].magnitude();
                });
                bounded(stage, "pool", magnitude)?;
                Ok(Interval::from_wide(sum))
            }
            Reduction::Max => {
                let mut most = WideInterval { low: i128::MIN, high: i128::MIN };
                pool.for_each_term(output, |term| most = most.largest(activated[term]));
                Ok(Interval::from_wide(most))
            }
        })
        .collect()
}

/// Refuse a step whose partial results could reach `2^62`.
fn bounded(stage: usize, step: &'static str, magnitude: i128) -> Result<()> {
    if magnitude < i128::from(MAX_MAGNITUDE) {
        Ok(())
    } else {
        Err(Error::Accumulator { stage, step, magnitude })
    }
}

/// Check that activation and pool of a stage are exact on *any* value of `domain`, as they must be
/// for the values a decryption may yield, and give the range they end in.
///
/// # Errors
/// - [`Error::Accumulator`] if a value could reach `±2^62`.
pub(super) fn prove_tail(
    stage: usize,
    structure: &StageStructure,
    quadratic: Option<&Quadratic>,
    domain: Interval,
) -> Result<Interval> {
    bounded(stage, "window", i128::from(domain.magnitude()) - 1)?;
    let mut hull = Interval::EMPTY;
    let terms = i128::try_from(structure.pool_terms()).unwrap_or(i128::MAX);
    // Without coefficients all channels are alike.
    let n_functions = structure.table().map_or(1, |table| table.channels().len());
    let n_channels = if quadratic.is_some() { structure.n_channels() } else { n_functions };
    for channel in 0..n_channels {
        let range = activate(stage, &structure.activation, quadratic, channel, domain.into())?;
        let sum = WideInterval { low: range.low * terms, high: range.high * terms };
        bounded(stage, "pool", range.magnitude() * terms - 1)?;
        hull = hull.hull(Interval::from_wide(sum));
    }
    Ok(hull)
}

/// Largest `Σ |w|` over the rows of a linear map.
pub(crate) fn max_l1(linear: &LinearGeometry, weights: &[i16]) -> u64 {
    let of_row = |row: &[i16]| row.iter().map(|w| u64::from(w.unsigned_abs())).sum();
    weights.chunks_exact(linear.taps()).map(of_row).max().unwrap_or(0)
}

impl IntegerNetwork {
    /// The proven ranges of stage `stage_idx`; they hold for every input of the grid.
    ///
    /// # Errors
    /// - [`Error::OutOfRange`] if there is no such stage.
    pub fn stage_ranges(&self, stage_idx: usize) -> Result<&StageRanges> {
        require("network", 0, "stage index", stage_idx, 0, self.ranges.len() - 1)?;
        Ok(&self.ranges[stage_idx])
    }

    /// The largest row norms of stage `stage_idx`.
    ///
    /// # Errors
    /// - [`Error::OutOfRange`] if there is no such stage.
    #[expect(clippy::cast_precision_loss, reason = "rounded to nearest")]
    pub fn row_norms(&self, stage_idx: usize) -> Result<RowNorms> {
        let (structure, weights) = self.stage(stage_idx)?;
        let (mut max_l1, mut max_squares) = (0, 0);
        for row in weights.weights.chunks_exact(structure.linear.taps()) {
            let l1 = row.iter().map(|w| u64::from(w.unsigned_abs())).sum::<u64>();
            let squares = row.iter().map(|w| u64::from(w.unsigned_abs()).pow(2)).sum::<u64>();
            (max_l1, max_squares) = (max_l1.max(l1), max_squares.max(squares));
        }
        Ok(RowNorms { max_l1, max_l2: (max_squares as f64).sqrt() })
    }
}
