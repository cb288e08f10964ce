//! Segments of stages with a chain: what they ask of the parameters, and what they become.

use super::compile::{
    CALIBRATION_MARGIN, PlanOptions, RangePolicy, StageSegments, cheapest, count, no_parameters,
    pooled_square,
};
use super::segment::{
    ChainDemand, ChainPart, ChosenResidue, Evidence, NoiseForecast, Packing, PooledSquare, Segment,
    StepDemand, ValueRange,
};
use crate::encrypted::parameters;
use crate::error::{Error, Result};
use crate::integer::chain::{Chain, ChainStep, StepWeights};
use crate::integer::{
    IntegerNetwork, Interval, StageObservation, StageOutput, StageStructure, WideInterval, Window,
    max_l1,
};

/// The segments of a stage with a chain, see [`cheapest`].
///
/// # Errors
/// - [`Error::NoSegmentParameters`] if no parameters hold the chain.
pub(super) fn plan_chain(
    network: &IntegerNetwork,
    idx: usize,
    observed: Option<&StageObservation>,
    options: &PlanOptions,
) -> Result<StageSegments> {
    cheapest(demands(network, idx, observed, options)?, options, |(range, demand)| {
        let chosen = parameters::choose_chain(&demand)
            .map_err(|error| no_parameters(idx, demand.evidence, error))?;
        assemble(network, idx, range, &demand, chosen)
    })
}

/// The ranges a stage with a chain may claim, after the division, and what each asks for.
///
/// # Errors
/// - [`Error::OutOfRange`] without a chain, or if the chain ends where the activation side does not.
pub(super) fn demands(
    network: &IntegerNetwork,
    idx: usize,
    observed: Option<&StageObservation>,
    options: &PlanOptions,
) -> Result<Vec<(ValueRange, ChainDemand)>> {
    let (chain, _) = parts(network, idx)?;
    let proven = network.stage_ranges(idx)?.bounds(chain.ends);
    let calibrated = observed
        .filter(|_| options.ranges != RangePolicy::RequireProven)
        .map(|seen| seen.at(chain.ends).widened(CALIBRATION_MARGIN).intersection(proven))
        .filter(|range| range.width() < proven.width());
    let claims = [(Some(proven), Evidence::Proven), (calibrated, Evidence::Calibrated)];
    claims
        .into_iter()
        .filter_map(|(range, evidence)| Some((range?, evidence)))
        .map(|(Interval { low, high }, evidence)| {
            let range = ValueRange { low, high, evidence };
            let demand = demand(network, idx, range, options)?;
            Ok((range, demand))
        })
        .collect()
}

/// What the segments of a stage ask for when they claim `range`.
fn demand(
    network: &IntegerNetwork,
    idx: usize,
    range: ValueRange,
    options: &PlanOptions,
) -> Result<ChainDemand> {
    let (chain, stage) = parts(network, idx)?;
    let (_, weights) = network.stage(idx)?;
    let undivided =
        network.stage_ranges(idx)?.undivided.filter(|_| range.evidence == Evidence::Proven);
    let unit = 1_i128 << chain.descale;
    let WideInterval { low, high } = undivided.unwrap_or(WideInterval {
        low: i128::from(range.low) * unit - unit / 2,
        high: i128::from(range.high) * unit + unit / 2,
    });
    // A window begins at a multiple of the division's unit.
    let low = low.min(0) >> chain.descale << chain.descale;
    let mut steps: Vec<StepDemand> = chain
        .steps
        .iter()
        .zip(&weights.chain)
        .map(|(step, numbers)| step_demand(step, numbers))
        .collect();
    let norms = network.row_norms(idx)?;
    let square = (chain.ends == StageOutput::Pooled)
        .then(|| weights.quadratic.as_ref().map(|quadratic| pooled_square(stage, quadratic)))
        .flatten();
    steps.push(StepDemand {
        square,
        max_l1: to_f64(norms.max_l1),
        max_l2: norms.max_l2,
        n_products: stage.linear.n_products() as u64,
        n_outputs: count(stage.n_outputs_at(chain.ends)),
    });
    let inputs = network.input_intervals(idx)?;
    Ok(ChainDemand {
        steps,
        low,
        high,
        evidence: range.evidence,
        max_abs_input: inputs.iter().map(Interval::magnitude).max().unwrap_or(0),
        n_inputs: count(stage.n_inputs()),
        expected_samples: options.expected_samples,
        relinearization: options.relinearization,
    })
}

fn step_demand(step: &ChainStep, numbers: &StepWeights) -> StepDemand {
    let quadratic = &numbers.quadratic;
    StepDemand {
        square: Some(PooledSquare {
            pool_terms: count(step.pool_terms()),
            max_abs_a: quadratic.a.iter().map(|a| a.unsigned_abs()).max().unwrap_or(0),
            max_abs_b: quadratic.b.iter().map(|b| b.unsigned_abs()).max().unwrap_or(0),
        }),
        max_l1: to_f64(max_l1(&step.linear, &numbers.weights)),
        max_l2: numbers.max_l2(step.linear.taps()),
        n_products: step.linear.n_products() as u64,
        n_outputs: count(step.n_outputs()),
    }
}

/// The segments of a stage that claim `range` and got these parameters.
pub(super) fn assemble(
    network: &IntegerNetwork,
    idx: usize,
    range: ValueRange,
    demand: &ChainDemand,
    chosen: Vec<ChosenResidue>,
) -> Result<StageSegments> {
    let (chain, stage) = parts(network, idx)?;
    let low = chain.descaled(demand.low);
    let security_bits = chosen.iter().map(|residue| residue.security_bits).min().unwrap_or(0);
    let n_residues = count(chosen.len());
    let mut segments: Vec<Segment> = chosen
        .into_iter()
        .enumerate()
        .map(|(residue, ChosenResidue { ring, step_moduli, noise, .. })| Segment {
            stage: count(idx),
            evaluates_activation: chain.ends == StageOutput::Pooled,
            packing: Packing::Slots,
            window: Window::from_zero(u64::try_from(ring.plaintext_modulus).unwrap_or(u64::MAX)),
            ring,
            range,
            noise,
            n_inputs: count(stage.n_inputs()),
            n_outputs: count(stage.n_outputs_at(chain.ends)),
            chain: Some(ChainPart {
                residue: count(residue),
                n_residues,
                low,
                step_moduli,
                further_points: 0,
            }),
            mask: None,
        })
        .collect();
    // The blocks of all residues carry the same samples.
    let fewest = segments.iter().filter_map(Segment::fewest_further_points).max().unwrap_or(0);
    for part in segments.iter_mut().filter_map(|segment| segment.chain.as_mut()) {
        part.further_points = fewest;
    }
    Ok((segments, security_bits))
}

/// As [`super::compile::recompute_noise`], of a segment of a stage with a chain.
pub(super) fn recompute_noise(
    network: &IntegerNetwork,
    segment: &Segment,
    part: &ChainPart,
) -> Result<NoiseForecast> {
    let demand = demand(network, segment.stage as usize, segment.range, &PlanOptions::default())?;
    Ok(parameters::forecast_chain_noise(&demand, &segment.ring, &part.step_moduli))
}

fn parts(network: &IntegerNetwork, idx: usize) -> Result<(&Chain, &StageStructure)> {
    let (stage, _) = network.stage(idx)?;
    match &stage.chain {
        Some(chain) => Ok((chain, stage)),
        None => Err(Error::OutOfRange {
            subject: "stage",
            index: idx,
            field: "number of chains",
            actual: 0,
            min: 1,
            max: 1,
        }),
    }
}

#[expect(clippy::cast_precision_loss, reason = "norms feed noise estimates")]
fn to_f64(norm: u64) -> f64 {
    norm as f64
}
