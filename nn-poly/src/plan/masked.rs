//! Segments of plans with masked refreshes: what their stages ask for, and what must hold.
//!
//! All segments of a plan have one ring degree, all of a stage differ in their plaintext prime only. The
//! range of every stage is proven without clamps; the product of a stage's primes exceeds what masked
//! values can reach.

use super::compile::{ModelFacts, PlanOptions, count, finish, pooled_square};
use super::public::{ActivationSide, PublicPlan, PublicPlanSpec, Trust};
use super::segment::{
    ChosenMasked, Evidence, MaskPart, MaskedDemand, NoiseForecast, Packing, Segment, ValueRange,
};
use super::{Plan, Window};
use crate::encrypted::parameters;
use crate::error::{Error, Result};
use crate::integer::{
    CrtWindow, IntegerNetwork, Interval, MASK_MODULUS_BITS, MAX_CRT_MODULI, MAX_MAGNITUDE,
    MaskSource, MaskedEvaluation, MaskedStage, StageStructure, ValueRef, WideInterval,
    check_maskable, range_bits, require,
};

/// Most bits of flooding noise: what one word of it holds.
const MAX_FLOOD_BITS: u32 = 61;

/// Compile a network into a masked plan.
///
/// # Errors
/// - [`Error::OutOfRange`] unless activations are at the server.
/// - Those of [`IntegerNetwork::masked_ranges`] and [`parameters::choose_masked`].
pub(super) fn compile_masked(
    network: &IntegerNetwork,
    facts: ModelFacts,
    options: &PlanOptions,
) -> Result<Plan> {
    let at_client = usize::from(options.activation_side == ActivationSide::Client);
    require("masked plan", 0, "number of activations at the client", at_client, 0, 0)?;
    let proven = network.masked_ranges()?;
    let demands = (0..proven.len())
        .map(|idx| demand(network, idx, &proven, options.expected_samples))
        .collect::<Result<Vec<_>>>()?;
    let chosen = parameters::choose_masked(&demands).map_err(|error| {
        let evidence = Evidence::Proven;
        Error::NoSegmentParameters { segment: 0, evidence, cause: Box::new(error) }
    })?;
    let mut segments = Vec::new();
    let mut security_bits = u32::MAX;
    for (idx, (found, residues)) in proven.iter().zip(chosen).enumerate() {
        security_bits =
            residues.iter().map(|residue| residue.security_bits).fold(security_bits, u32::min);
        segments.extend(assemble(network, idx, found, residues)?);
    }
    finish(network, facts, options, segments, security_bits)
}

/// What stage `idx` asks for.
fn demand(
    network: &IntegerNetwork,
    idx: usize,
    proven: &[MaskedStage],
    expected_samples: u64,
) -> Result<MaskedDemand> {
    let (stage, weights) = network.stage(idx)?;
    let norms = network.row_norms(idx)?;
    let range = proven.get(idx).map_or(Interval::point(0), |found| found.values);
    Ok(MaskedDemand {
        square: weights.quadratic.as_ref().map(|quadratic| pooled_square(stage, quadratic)),
        max_l2: norms.max_l2,
        n_products: stage.n_products() as u64,
        product: least_product(stage, range),
        n_inputs: count(stage.n_inputs()),
        n_outputs: count(stage.n_outputs()),
        expected_samples,
    })
}

/// The least product of the plaintext moduli of a stage: `2^(ℓ + 42)`, or for the last one as many as it
/// has values.
fn least_product(stage: &StageStructure, range: Interval) -> u128 {
    match stage.refresh {
        Some(_) => 1 << (range_bits(range) + MASK_MODULUS_BITS),
        None => range.width().into(),
    }
}

fn assemble(
    network: &IntegerNetwork,
    idx: usize,
    found: &MaskedStage,
    residues: Vec<ChosenMasked>,
) -> Result<Vec<Segment>> {
    let (stage, weights) = network.stage(idx)?;
    let n_residues = count(residues.len());
    let mask_bits = if stage.refresh.is_some() { found.mask_bits() } else { 0 };
    let Interval { low, high } = found.values;
    let segments = (0..).zip(residues).map(|(residue, chosen)| {
        let ChosenMasked { ring, flood_bits, noise, .. } = chosen;
        let modulus = u64::try_from(ring.plaintext_modulus).unwrap_or(u64::MAX);
        let n_tokens = if residue == 0 { count(token_stages(stage).len()) } else { 0 };
        Segment {
            stage: count(idx),
            evaluates_activation: weights.quadratic.is_some(),
            ring,
            packing: Packing::Slots,
            window: Window { low: 0, modulus },
            range: ValueRange { low, high, evidence: Evidence::Proven },
            noise,
            n_inputs: count(stage.n_inputs()),
            n_outputs: count(stage.n_outputs()),
            chain: None,
            mask: Some(MaskPart { residue, n_residues, mask_bits, flood_bits, n_tokens }),
        }
    });
    Ok(segments.collect())
}

/// The earlier stages that a stage reads, each once, in the order of its sources: their masks are
/// subtracted, and a request names them in this order.
#[must_use]
pub fn token_stages(stage: &StageStructure) -> Vec<usize> {
    let mut stages = Vec::new();
    for source in &stage.sources {
        if let ValueRef::Stage(earlier) = *source
            && !stages.contains(&(earlier as usize))
        {
            stages.push(earlier as usize);
        }
    }
    stages
}

/// What must hold for the segments of a stage of a masked plan, beside what holds for every segment.
pub(super) fn check_masked(
    spec: &PublicPlanSpec,
    stage_idx: usize,
    first: usize,
    segments: &[Segment],
) -> Result<()> {
    let Some(stage) = spec.stages.get(stage_idx) else { return Ok(()) };
    check_maskable(stage_idx, stage)?;
    let (Some(of_plan), Some(of_stage)) = (spec.segments.first(), segments.first()) else {
        return Ok(());
    };
    let range = of_stage.range;
    for (idx, segment) in (first..).zip(segments) {
        let Some(part) = segment.mask else { continue };
        let (residue, n) = (count(idx - first), count(segments.len()));
        require("segment", idx, "residue", part.residue, residue, residue)?;
        require("segment", idx, "number of residues", part.n_residues, n, n)?;
        let degree = of_plan.ring.ring_degree;
        require("segment", idx, "ring degree", segment.ring.ring_degree, degree, degree)?;
        let is_slots = usize::from(segment.packing == Packing::Slots);
        require("segment", idx, "number of slot packings", is_slots, 1, 1)?;
        require("segment", idx, "low end of its window", segment.window.low, 0, 0)?;
        require("segment", idx, "number of moduli in replies", segment.ring.reply_moduli, 1, 2)?;
        let ValueRange { low, high, evidence } = segment.range;
        require("segment", idx, "low end of its range", low, range.low, range.low)?;
        require("segment", idx, "high end of its range", high, range.high, range.high)?;
        require("segment", idx, "low end of its range", low, -MAX_MAGNITUDE, MAX_MAGNITUDE)?;
        require("segment", idx, "high end of its range", high, low, MAX_MAGNITUDE)?;
        let is_proven = u32::from(evidence == Evidence::Proven);
        require("segment", idx, "number of proven ranges", is_proven, 1, 1)?;
        let bits = stage.refresh.as_ref().map_or(0, |_| mask_bits(segment));
        require("segment", idx, "bits of its masks", part.mask_bits, bits, bits)?;
        require("segment", idx, "bits of flooding noise", part.flood_bits, 1, MAX_FLOOD_BITS)?;
        let n_tokens = if residue == 0 { count(token_stages(stage).len()) } else { 0 };
        require("segment", idx, "number of tokens", part.n_tokens, n_tokens, n_tokens)?;
        if let Some(refresh) = &stage.refresh {
            refresh.check_masked(stage_idx, bits)?;
        }
    }
    let WideInterval { low, high } = window_of(segments)?.interval();
    let interval = Interval { low: range.low, high: range.high };
    let least = least_product(stage, interval).cast_signed();
    require("stage", stage_idx, "product of its plaintext moduli", high - low + 1, least, i128::MAX)
}

/// `ℓ + 40` of a segment's range.
fn mask_bits(segment: &Segment) -> u32 {
    let ValueRange { low, high, .. } = segment.range;
    range_bits(Interval { low, high }) + crate::integer::MASK_MARGIN_BITS
}

/// Segments of a stage of a masked plan whose first one is given.
pub(super) fn n_residues(first: &Segment) -> usize {
    first.mask.map_or(1, |part| (part.n_residues as usize).clamp(1, MAX_CRT_MODULI))
}

fn window_of(segments: &[Segment]) -> Result<CrtWindow> {
    let low = segments.first().map_or(0, |segment| segment.range.low);
    let moduli: Vec<u64> = segments.iter().map(|segment| segment.window.modulus).collect();
    CrtWindow::new(low.into(), &moduli)
}

/// The weights prove what a masked plan claims: ranges, noise, and the flood that hides it.
pub(super) fn check_claims(public: &PublicPlan, network: &IntegerNetwork) -> Result<()> {
    let proven = network.masked_ranges()?;
    for (idx, segment) in public.segments.iter().enumerate() {
        let ValueRange { low, high, .. } = segment.range;
        let claimed = Interval { low, high };
        let stage = segment.stage as usize;
        let range = proven.get(stage).map_or(Interval::EMPTY, |found| found.values);
        if !claimed.covers(&range) {
            return Err(Error::RangeNotProven {
                segment: idx,
                claimed_low: low,
                claimed_high: high,
                low: range.low,
                high: range.high,
            });
        }
        let (noise, needed) = recompute(network, segment)?;
        let flood_bits = segment.mask.map_or(0, |part| part.flood_bits);
        require("segment", idx, "bits of flooding noise", flood_bits, needed, MAX_FLOOD_BITS)?;
        if noise.margin_bits() < 0.0 {
            return Err(Error::NoiseMargin { segment: idx, margin_bits: noise.margin_bits() });
        }
    }
    Ok(())
}

/// The noise of a masked segment from weights and ring, and the flooding it needs.
fn recompute(network: &IntegerNetwork, segment: &Segment) -> Result<(NoiseForecast, u32)> {
    let demand = demand(network, segment.stage as usize, &[], 1)?;
    let flood_bits = segment.mask.map_or(0, |part| part.flood_bits);
    Ok(parameters::forecast_masked_noise(&demand, &segment.ring, flood_bits))
}

/// As [`super::compile::recompute_noise`], of a masked segment.
pub(super) fn recompute_noise(
    network: &IntegerNetwork,
    segment: &Segment,
) -> Result<NoiseForecast> {
    recompute(network, segment).map(|(noise, _)| noise)
}

impl PublicPlan {
    /// Refuse a plan of another trust setting than `expected`.
    ///
    /// # Errors
    /// - [`Error::TrustSetting`], with what was wanted in it.
    pub fn expect_trust(&self, expected: Trust, action: &'static str) -> Result<()> {
        let actual = self.trust;
        if actual == expected {
            return Ok(());
        }
        Err(Error::TrustSetting { action, expected, actual })
    }

    /// How the residues of stage `stage_idx` of a masked plan are put together: masked values, or
    /// scores.
    ///
    /// # Errors
    /// - [`Error::OutOfRange`] if there is no such stage.
    /// - [`Error::TrustSetting`] unless the plan is masked.
    pub fn masked_window(&self, stage_idx: usize) -> Result<CrtWindow> {
        self.expect_trust(Trust::Masked, "putting masked residues together")?;
        let range = self.segments_of(stage_idx)?;
        window_of(self.segments.get(range).unwrap_or_default())
    }
}

impl Plan {
    /// Run all samples (columns of `inputs`) as a masked encrypted run with these masks does.
    ///
    /// # Errors
    /// - [`Error::TrustSetting`] unless the plan is masked.
    /// - As [`IntegerNetwork::evaluate_masked`].
    pub fn simulate_masked(
        &self,
        inputs: &crate::integer::IntegerMatrix,
        masks: &impl MaskSource,
    ) -> Result<MaskedEvaluation> {
        self.public().expect_trust(Trust::Masked, "a masked simulation")?;
        self.network().evaluate_masked(inputs, masks)
    }
}
