//! The planner: from an integer network to segments with parameters.

use super::Plan;
use super::chained::plan_chain;
use super::check::segment_output;
use super::masked::{self, compile_masked};
use super::public::{ActivationSide, PublicPlan, PublicPlanSpec, Trust};
use super::segment::{
    ChosenParameters, Evidence, NoiseForecast, PooledSquare, Relinearization, Segment,
    SegmentDemand, ValueRange,
};
use crate::encrypted::parameters;
use crate::error::{Error, Result};
use crate::import::{Preprocessing, SplitSpec};
use crate::integer::{
    IntegerNetwork, Interval, Quadratic, StageObservation, StageOutput, StageStructure,
};
use crate::model::Model;
use crate::tensor::Shape;

/// Factor on the observed magnitudes of a calibrated range: one more bit.
pub const CALIBRATION_MARGIN: u32 = 2;

/// What a plan says about its model besides the integers.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelFacts {
    /// Name of the model.
    pub name: String,
    /// Shape of one sample.
    pub input_shape: Shape,
    /// What is done to raw features before quantization.
    pub preprocessing: Preprocessing,
    /// How the training data were split.
    pub split: SplitSpec,
    /// One name per class.
    pub class_names: Vec<String>,
    /// What one unit of a score stands for in the float network's outputs.
    pub score_step: f32,
}

impl ModelFacts {
    /// The facts of a trained model; `score_step` comes with its integer network.
    #[must_use]
    pub fn of(model: &Model, score_step: f32) -> Self {
        let spec = model.spec();
        Self {
            name: spec.name.clone(),
            input_shape: spec.network.input_shape().clone(),
            preprocessing: spec.preprocessing.clone(),
            split: spec.split,
            class_names: spec.class_names.clone(),
            score_step,
        }
    }
}

/// Which ranges a plan may rest on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RangePolicy {
    /// Proven ranges wherever parameters hold them, calibrated ones elsewhere.
    #[default]
    PreferProven,
    /// Proven ranges only.
    RequireProven,
    /// Whichever moves fewer bytes, segment by segment.
    Cheapest,
}

/// What a person decides about a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanOptions {
    /// Who evaluates activations.
    pub activation_side: ActivationSide,
    /// Who may see intermediate values.
    pub trust: Trust,
    /// Samples of a typical batch: many share coefficients, few keep the latency low.
    pub expected_samples: u64,
    /// Which ranges the plan may rest on.
    pub ranges: RangePolicy,
    /// Whether ciphertexts of chains are relinearized.
    pub relinearization: Relinearization,
}

impl Default for PlanOptions {
    /// Activations at the server, the owner's trust, 8,192 samples, proven ranges preferred.
    fn default() -> Self {
        Self {
            activation_side: ActivationSide::Server,
            trust: Trust::Owner,
            expected_samples: 8192,
            ranges: RangePolicy::PreferProven,
            relinearization: Relinearization::Cheapest,
        }
    }
}

/// Compile a network into a plan with parameters of 128-bit security.
///
/// With [`Trust::Masked`] every range is proven, whatever the options say, and the parameters are those
/// of [`parameters::choose_masked`].
///
/// `observed` are the values seen on calibration data ([`IntegerNetwork::evaluate`] reports them);
/// they are used only for segments whose proven range no parameters hold, doubled, and never beyond
/// the proven range. With an empty slice every range must be proven.
///
/// # Errors
/// - [`Error::NotAtServer`] if the server would have to evaluate a ReLU, a table or a maximum.
/// - [`Error::NoSegmentParameters`] if no parameters hold a segment.
/// - [`Error::NotMaskable`] if a stage does not fit a masked plan.
/// - Those of [`PublicPlan::new`] and [`Plan::new`] for facts that do not fit the network.
pub fn compile(
    network: &IntegerNetwork,
    observed: &[StageObservation],
    facts: ModelFacts,
    options: &PlanOptions,
) -> Result<Plan> {
    compile_with(network, observed, facts, options, parameters::choose)
}

/// As [`compile`], with another source of parameters for stages without a chain.
///
/// # Errors
/// As for [`compile`].
pub fn compile_with<E: std::error::Error + Send + Sync + 'static>(
    network: &IntegerNetwork,
    observed: &[StageObservation],
    facts: ModelFacts,
    options: &PlanOptions,
    choose: impl Fn(&SegmentDemand) -> std::result::Result<ChosenParameters, E>,
) -> Result<Plan> {
    if options.trust == Trust::Masked {
        return compile_masked(network, facts, options);
    }
    let mut segments = Vec::with_capacity(network.structure().len());
    let mut security_bits = u32::MAX;
    for (idx, stage) in network.structure().iter().enumerate() {
        let observed = observed.get(idx);
        let (of_stage, security) = if stage.chain.is_some() {
            plan_chain(network, idx, observed, options)?
        } else {
            plan_segment(network, idx, observed, options, &choose)?
        };
        segments.extend(of_stage);
        security_bits = security_bits.min(security);
    }
    finish(network, facts, options, segments, security_bits)
}

/// The plan of chosen segments.
///
/// # Errors
/// - Those of [`PublicPlan::new`] and [`Plan::new`].
pub(super) fn finish(
    network: &IntegerNetwork,
    facts: ModelFacts,
    options: &PlanOptions,
    segments: Vec<Segment>,
    security_bits: u32,
) -> Result<Plan> {
    let ModelFacts { name, input_shape, preprocessing, split, class_names, score_step } = facts;
    let public = PublicPlan::new(PublicPlanSpec {
        name,
        input_shape,
        preprocessing,
        split,
        class_names,
        input: *network.input(),
        score_step,
        trust: options.trust,
        activation_side: options.activation_side,
        stages: network.structure().to_vec(),
        segments,
        expected_samples: options.expected_samples,
        security_bits,
    })?;
    Plan::new(public, network.weights().to_vec())
}

/// Choose the parameters of a stage that is one segment, see [`cheapest`].
fn plan_segment<E: std::error::Error + Send + Sync + 'static>(
    network: &IntegerNetwork,
    idx: usize,
    observed: Option<&StageObservation>,
    options: &PlanOptions,
    choose: &impl Fn(&SegmentDemand) -> std::result::Result<ChosenParameters, E>,
) -> Result<StageSegments> {
    cheapest(demands(network, idx, observed, options)?, options, |demand| {
        let chosen = choose(&demand).map_err(|error| no_parameters(idx, demand.evidence, error))?;
        let (segment, security) = assemble(network, idx, &demand, chosen)?;
        Ok((vec![segment], security))
    })
}

/// Segments of one stage, and the security of their weakest ring, bits.
pub(super) type StageSegments = (Vec<Segment>, u32);

/// What becomes of a stage's demands: the first that parameters hold (the proven range comes first), or
/// the one with the fewest bytes if the policy is [`RangePolicy::Cheapest`].
///
/// # Errors
/// - [`Error::NoSegmentParameters`], the last one that `plan` gave, if no parameters hold any.
/// - Any other error of `plan`.
pub(super) fn cheapest<D>(
    demands: Vec<D>,
    options: &PlanOptions,
    mut plan: impl FnMut(D) -> Result<StageSegments>,
) -> Result<StageSegments> {
    let mut found: Vec<StageSegments> = Vec::new();
    let mut refused = None;
    for demand in demands {
        match plan(demand) {
            Ok(segments) => found.push(segments),
            Err(error @ Error::NoSegmentParameters { .. }) => refused = Some(error),
            Err(error) => return Err(error),
        }
        if !found.is_empty() && options.ranges != RangePolicy::Cheapest {
            break;
        }
    }
    let bytes = |(segments, _): &StageSegments| {
        let of_one = |segment: &Segment| {
            let blocks = options.expected_samples.max(1).div_ceil(segment.capacity().max(1));
            blocks.saturating_mul(segment.request_bytes() + segment.reply_bytes())
        };
        segments.iter().map(of_one).sum::<u64>()
    };
    match found.into_iter().min_by_key(bytes) {
        Some(found) => Ok(found),
        None => Err(refused.expect("invariant: the proven range was tried")),
    }
}

/// No parameters hold a stage with this claim about its range.
pub(super) fn no_parameters(
    segment: usize,
    evidence: Evidence,
    cause: impl std::error::Error + Send + Sync + 'static,
) -> Error {
    Error::NoSegmentParameters { segment, evidence, cause: Box::new(cause) }
}

/// What a segment may ask for: with its proven range, then with its calibrated one if that is allowed
/// and narrower.
///
/// # Errors
/// - [`Error::NotAtServer`] if the server would have to evaluate what is no polynomial.
pub(super) fn demands(
    network: &IntegerNetwork,
    idx: usize,
    observed: Option<&StageObservation>,
    options: &PlanOptions,
) -> Result<Vec<SegmentDemand>> {
    let (stage, weights) = network.stage(idx)?;
    let activation = match options.activation_side {
        ActivationSide::Server => {
            stage.check_polynomial(idx)?;
            weights.quadratic.as_ref().map(|quadratic| pooled_square(stage, quadratic))
        }
        ActivationSide::Client => None,
    };
    let output = if activation.is_some() { StageOutput::Pooled } else { StageOutput::Linear };
    let proven = network.stage_ranges(idx)?.bounds(output);
    let calibrated = observed
        .filter(|_| options.ranges != RangePolicy::RequireProven)
        .map(|seen| seen.at(output).widened(CALIBRATION_MARGIN).intersection(proven))
        .filter(|range| range.width() < proven.width());
    let demand = demand(network, idx, activation, options.expected_samples)?;
    let with = |range: Interval, evidence| SegmentDemand {
        low: range.low,
        high: range.high,
        evidence,
        ..demand
    };
    let mut found = vec![with(proven, Evidence::Proven)];
    found.extend(calibrated.map(|range| with(range, Evidence::Calibrated)));
    Ok(found)
}

/// What the segment asks for, apart from its range.
#[expect(clippy::cast_precision_loss, reason = "norms feed noise estimates")]
fn demand(
    network: &IntegerNetwork,
    idx: usize,
    activation: Option<PooledSquare>,
    expected_samples: u64,
) -> Result<SegmentDemand> {
    let (stage, weights) = network.stage(idx)?;
    let norms = network.row_norms(idx)?;
    let inputs = network.input_intervals(idx)?;
    let n_outputs = if activation.is_some() { stage.n_outputs() } else { stage.linear.n_outputs() };
    Ok(SegmentDemand {
        activation,
        max_abs_bias: weights.bias.iter().map(|b| b.unsigned_abs()).max().unwrap_or(0),
        max_l1: norms.max_l1 as f64,
        max_l2: norms.max_l2,
        max_abs_input: inputs.iter().map(Interval::magnitude).max().unwrap_or(0),
        low: 0,
        high: 0,
        evidence: Evidence::Proven,
        n_inputs: count(stage.n_inputs()),
        n_outputs: count(n_outputs),
        expected_samples,
    })
}

/// The pooled square of a stage whose quadratic the server applies.
pub(super) fn pooled_square(stage: &StageStructure, quadratic: &Quadratic) -> PooledSquare {
    PooledSquare {
        pool_terms: count(stage.pool_terms()),
        max_abs_a: quadratic.a.iter().map(|a| a.unsigned_abs()).max().unwrap_or(0),
        max_abs_b: quadratic.b.iter().map(|b| b.unsigned_abs()).max().unwrap_or(0),
    }
}

/// The noise of a segment of a finished plan, computed anew from weights, ring and packing: what a
/// plan claims is not believed.
///
/// # Errors
/// - [`Error::OutOfRange`] if there is no such stage.
pub(super) fn recompute_noise(
    network: &IntegerNetwork,
    segment: &Segment,
) -> Result<NoiseForecast> {
    if segment.mask.is_some() {
        return masked::recompute_noise(network, segment);
    }
    if let Some(part) = &segment.chain {
        return super::chained::recompute_noise(network, segment, part);
    }
    let idx = segment.stage as usize;
    let (stage, weights) = network.stage(idx)?;
    let activation = weights
        .quadratic
        .as_ref()
        .filter(|_| segment.evaluates_activation)
        .map(|quadratic| pooled_square(stage, quadratic));
    let ValueRange { low, high, evidence } = segment.range;
    let demand = SegmentDemand { low, high, evidence, ..demand(network, idx, activation, 1)? };
    Ok(parameters::forecast_noise(&demand, &segment.ring, segment.packing))
}

/// The segment that a demand and the answer to it make, and the security of its ring, bits.
///
/// # Errors
/// - [`Error::OutOfRange`] if there is no such stage.
pub(super) fn assemble(
    network: &IntegerNetwork,
    idx: usize,
    demand: &SegmentDemand,
    chosen: ChosenParameters,
) -> Result<(Segment, u32)> {
    let (stage, _) = network.stage(idx)?;
    let ChosenParameters { ring, packing, window, noise, security_bits } = chosen;
    let &SegmentDemand { low, high, evidence, .. } = demand;
    let mut segment = Segment {
        stage: count(idx),
        evaluates_activation: demand.activation.is_some(),
        ring,
        packing,
        window,
        range: ValueRange { low, high, evidence },
        noise,
        n_inputs: count(stage.n_inputs()),
        n_outputs: 0,
        chain: None,
        mask: None,
    };
    segment.n_outputs = count(match segment_output(&segment) {
        StageOutput::Linear => stage.linear.n_outputs(),
        StageOutput::Pooled => stage.n_outputs(),
    });
    Ok((segment, security_bits))
}

/// Counts of a checked network are below 2^22.
pub(super) fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
