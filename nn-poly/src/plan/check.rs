//! What must hold for the public part of a plan before anything uses it.

use super::masked::{check_masked, n_residues};
use super::public::{ActivationSide, PublicPlanSpec, Trust};
use super::segment::{Evidence, Packing, RingSpec, Segment, ValueRange};
use crate::error::{Error, Result};
use crate::integer::chain::Chain;
use crate::integer::{
    ActivationKind, Arrivals, CrtWindow, Interval, MAX_CRT_MODULI, MAX_MAGNITUDE, Refresher,
    StageOutput, StageStructure, WideInterval, check_structure, require,
};

const MAX_NAME_BYTES: usize = 256;
const MAX_CLASSES: usize = 1 << 16;
const MAX_LIMBS: usize = 32;
const MAX_LOG2: f64 = 65_536.0;
const MAX_FURTHER_POINTS: u64 = 64;

pub(super) fn check_public(spec: &PublicPlanSpec) -> Result<()> {
    require("plan", 0, "bytes of its name", spec.name.len(), 1, MAX_NAME_BYTES)?;
    let n_inputs = spec.input_shape.len();
    check_structure(&spec.input, n_inputs, &spec.stages)?;
    spec.preprocessing.check(n_inputs)?;
    spec.split.check()?;
    if !(spec.score_step.is_normal() && spec.score_step > 0.0) {
        return Err(Error::InvalidSetting {
            setting: "score step",
            value: f64::from(spec.score_step),
            requirement: "a positive normal number",
        });
    }
    let n_scores = spec.stages.last().map_or(0, StageStructure::n_outputs);
    require("plan", 0, "number of classes", n_scores, 1, MAX_CLASSES)?;
    require("plan", 0, "number of class names", spec.class_names.len(), n_scores, n_scores)?;
    for (class, name) in spec.class_names.iter().enumerate() {
        require("class", class, "bytes of its name", name.len(), 1, MAX_NAME_BYTES)?;
    }
    require("plan", 0, "expected samples", spec.expected_samples, 1, 1 << 40)?;
    require("plan", 0, "security bits", spec.security_bits, 0, 512)?;
    let mut first = 0;
    for (stage_idx, stage) in spec.stages.iter().enumerate() {
        let n = segments_of(stage, spec.segments.get(first));
        let segments = spec.segments.get(first..first + n).unwrap_or_default();
        let n_left = spec.segments.len() - first;
        require("stage", stage_idx, "number of segments", n_left, n, n_left.max(n))?;
        for (idx, segment) in (first..).zip(segments) {
            check_role(idx, stage_idx, segment, stage, spec.activation_side)?;
            check_ring(idx, &segment.ring)?;
            check_relinearization(idx, segment)?;
            check_packing(idx, segment)?;
            check_noise(idx, segment)?;
            let wanted = usize::from(spec.trust == Trust::Masked);
            let n_masks = usize::from(segment.mask.is_some());
            require("segment", idx, "number of mask parts", n_masks, wanted, wanted)?;
            match (spec.trust, &stage.chain) {
                (Trust::Masked, _) => {}
                (Trust::Owner, None) => check_window(idx, segment)?,
                (Trust::Owner, Some(chain)) => {
                    check_part(idx, idx - first, segment, chain, segments)?;
                }
            }
        }
        if spec.trust == Trust::Masked {
            check_masked(spec, stage_idx, first, segments)?;
        } else if let Some(segment) = segments.first() {
            check_tail(stage_idx, segment, stage, arrivals(stage, segments)?)?;
        }
        first += n;
    }
    require("plan", 0, "number of segments", spec.segments.len(), first, first)
}

/// Segments of a stage whose first one is given: one, or as many as that says residues.
fn segments_of(stage: &StageStructure, first: Option<&Segment>) -> usize {
    match (&stage.chain, first) {
        (Some(_), Some(segment)) => (segment.n_residues() as usize).clamp(1, MAX_CRT_MODULI),
        (None, Some(segment)) => n_residues(segment),
        (_, None) => 1,
    }
}

/// What a segment says of a chain belongs to its stage, and agrees with the stage's other segments
/// in everything but ring and noise.
fn check_part(
    idx: usize,
    residue: usize,
    segment: &Segment,
    chain: &Chain,
    segments: &[Segment],
) -> Result<()> {
    let n_parts = usize::from(segment.chain.is_some());
    require("segment", idx, "number of chain parts", n_parts, 1, 1)?;
    let (Some(part), Some(first)) = (&segment.chain, segments.first()) else { return Ok(()) };
    let n_residues = wide(segments.len());
    require("segment", idx, "number of residues", part.n_residues.into(), n_residues, n_residues)?;
    require("segment", idx, "residue", part.residue.into(), wide(residue), wide(residue))?;
    let is_slots = usize::from(segment.packing == Packing::Slots);
    require("segment", idx, "number of slot packings of a chain", is_slots, 1, 1)?;
    let n = first.ring.ring_degree;
    require("segment", idx, "ring degree", segment.ring.ring_degree, n, n)?;
    let low = first.chain.as_ref().map_or(0, |part| part.low);
    require("segment", idx, "low end of its chain's window", part.low, low, low)?;
    let n = first.n_further_points();
    require("segment", idx, "further random points", segment.n_further_points(), n, n)?;
    let ValueRange { low, high, evidence } = first.range;
    require("segment", idx, "low end of its range", segment.range.low, low, low)?;
    require("segment", idx, "high end of its range", segment.range.high, high, high)?;
    let (proven, wanted) =
        (segment.range.evidence == Evidence::Proven, evidence == Evidence::Proven);
    let (proven, wanted) = (u32::from(proven), u32::from(wanted));
    require("segment", idx, "number of proven ranges", proven, wanted, wanted)?;
    require("segment", idx, "low end of its window", segment.window.low, 0, 0)?;
    let n = chain.steps.len();
    require("segment", idx, "number of steps with moduli", part.step_moduli.len(), n, n)?;
    // Decryption drops all but two, whatever noise that adds.
    require("segment", idx, "number of moduli in replies", segment.ring.reply_moduli, 1, 2)?;
    let mut most = u32::try_from(segment.ring.moduli.len()).unwrap_or(u32::MAX);
    for &left in &part.step_moduli {
        require("segment", idx, "moduli after a step", left, segment.ring.reply_moduli, most)?;
        most = left;
    }
    let (ends, wanted) = (chain.ends == StageOutput::Pooled, segment.evaluates_activation);
    let (ends, wanted) = (u32::from(ends), u32::from(wanted));
    require("segment", idx, "number of activations its chain ends after", ends, wanted, wanted)
}

/// The segment belongs to its stage and evaluates what the activation side says.
fn check_role(
    idx: usize,
    stage_idx: usize,
    segment: &Segment,
    stage: &StageStructure,
    side: ActivationSide,
) -> Result<()> {
    let stage_of = i128::from(segment.stage);
    require("segment", idx, "stage", stage_of, wide(stage_idx), wide(stage_idx))?;
    let (parts, wanted) =
        (usize::from(segment.chain.is_some()), usize::from(stage.chain.is_some()));
    require("segment", idx, "number of chain parts", parts, wanted, wanted)?;
    let is_quadratic = stage.activation == ActivationKind::Quadratic;
    let at_server = match side {
        ActivationSide::Server => {
            stage.check_polynomial(stage_idx)?;
            is_quadratic
        }
        ActivationSide::Client => false,
    };
    let (actual, wanted) = (u32::from(segment.evaluates_activation), u32::from(at_server));
    require("segment", idx, "number of activations at the server", actual, wanted, wanted)?;
    let n_outputs = if at_server { stage.n_outputs() } else { stage.linear.n_outputs() };
    let n = wide(stage.n_inputs());
    require("segment", idx, "number of inputs", i128::from(segment.n_inputs), n, n)?;
    let n = wide(n_outputs);
    require("segment", idx, "number of outputs", i128::from(segment.n_outputs), n, n)
}

fn check_ring(idx: usize, ring: &RingSpec) -> Result<()> {
    let n = ring.ring_degree;
    require("segment", idx, "ring degree", n, 32, 1 << 16)?;
    let ones = n.count_ones();
    require("segment", idx, "number of ones in the binary ring degree", ones, 1, 1)?;
    require("segment", idx, "number of moduli", ring.moduli.len(), 1, MAX_LIMBS)?;
    let n_moduli = wide(ring.moduli.len());
    let kept = i128::from(ring.reply_moduli);
    require("segment", idx, "number of moduli in replies", kept, 1, n_moduli)?;
    for (position, &q) in ring.moduli.iter().enumerate() {
        require("segment", idx, "modulus", q, 3, (1 << 62) - 1)?;
        let step = 2 * u64::from(n);
        require("segment", idx, "modulus modulo twice the ring degree", q % step, 1, 1)?;
        let n_equal = ring.moduli.iter().take(position).filter(|&&other| other == q).count();
        require("segment", idx, "number of repetitions of a modulus", n_equal, 0, 0)?;
    }
    let t_bits = 128 - ring.plaintext_modulus.leading_zeros();
    require("segment", idx, "bits of the plaintext modulus", t_bits, 2, 127)
}

/// A special modulus is one more modulus, for chains only, and random points still show something.
fn check_relinearization(idx: usize, segment: &Segment) -> Result<()> {
    let ring = &segment.ring;
    let n_points = segment.n_further_points();
    let Some(special) = ring.special_modulus else {
        return require("segment", idx, "further random points without a key", n_points, 0, 0);
    };
    let n_steps = segment.chain.as_ref().map_or(0, |part| part.step_moduli.len());
    require("segment", idx, "steps that a relinearization key is for", n_steps, 1, usize::MAX)?;
    require("segment", idx, "special modulus", special, 3, (1 << 62) - 1)?;
    let step = 2 * u64::from(ring.ring_degree);
    require("segment", idx, "special modulus modulo twice the ring degree", special % step, 1, 1)?;
    let n_equal = ring.moduli.iter().filter(|&&q| q == special).count();
    require("segment", idx, "number of moduli like the special one", n_equal, 0, 0)?;
    let depth = f64::from(segment.log2_reachable_degree());
    let Some(fewest) = segment.fewest_further_points() else {
        return Err(Error::InvalidSetting {
            setting: "bits that a random point of a relinearized segment shows",
            value: ring.log2_plaintext_modulus() - depth,
            requirement: "at least 4",
        });
    };
    require("segment", idx, "further random points", n_points, fewest.into(), MAX_FURTHER_POINTS)
}

fn check_packing(idx: usize, segment: &Segment) -> Result<()> {
    let t = segment.ring.plaintext_modulus;
    let modulus = segment.window.modulus;
    match segment.packing {
        Packing::Slots => {
            require("segment", idx, "bits of the plaintext modulus", bits(t), 2, 62)?;
            let t = u64::try_from(t).unwrap_or(u64::MAX);
            require("segment", idx, "modulus of its window", modulus, t, t)
        }
        Packing::Coefficients { radix_bits, samples_per_coefficient } => {
            let at_server = u32::from(segment.evaluates_activation);
            require("segment", idx, "number of squares in coefficient packing", at_server, 0, 0)?;
            require("segment", idx, "radix bits", radix_bits, 1, 62)?;
            require("segment", idx, "samples per coefficient", samples_per_coefficient, 1, 126)?;
            let used = u64::from(radix_bits) * u64::from(samples_per_coefficient);
            let room = u64::from(bits(t) - 1);
            require("segment", idx, "bits of all digits of a coefficient", used, 1, room)?;
            if samples_per_coefficient > 1 {
                let calibrated = u32::from(segment.range.evidence != Evidence::Proven);
                let field = "number of unproven ranges in shared coefficients";
                require("segment", idx, field, calibrated, 0, 0)?;
            }
            let radix = 1_u64 << radix_bits;
            require("segment", idx, "modulus of its window", modulus, radix, radix)
        }
    }
}

fn check_window(idx: usize, segment: &Segment) -> Result<()> {
    let window = &segment.window;
    require("segment", idx, "modulus of its window", window.modulus, 1, 1 << 62)?;
    require("segment", idx, "low end of its window", window.low, -MAX_MAGNITUDE, MAX_MAGNITUDE)?;
    require("segment", idx, "high end of its window", window.high(), window.low, MAX_MAGNITUDE)?;
    let range = &segment.range;
    require("segment", idx, "low end of its range", range.low, window.low, window.high())?;
    require("segment", idx, "high end of its range", range.high, range.low, window.high())
}

fn check_noise(idx: usize, segment: &Segment) -> Result<()> {
    let noise = &segment.noise;
    for (setting, value) in [
        ("log2 of the noise bound of a segment", noise.log2_noise_bound),
        ("log2 of the noise capacity of a segment", noise.log2_capacity),
    ] {
        if !value.is_finite() || value.abs() > MAX_LOG2 {
            return Err(Error::InvalidSetting { setting, value, requirement: "finite" });
        }
    }
    let margin = noise.margin_bits();
    if margin < 0.0 {
        return Err(Error::NoiseMargin { segment: idx, margin_bits: margin });
    }
    Ok(())
}

/// The key holder's arithmetic is exact on every value of the window.
///
/// A quadratic at the key holder needs the private part and is checked with it.
fn check_tail(
    idx: usize,
    segment: &Segment,
    stage: &StageStructure,
    arrivals: Arrivals,
) -> Result<()> {
    if !segment.evaluates_activation && stage.activation == ActivationKind::Quadratic {
        return Ok(());
    }
    Refresher::check(idx, stage, None, arrivals).map(drop)
}

/// Where a segment ends.
pub(super) const fn segment_output(segment: &Segment) -> StageOutput {
    if segment.evaluates_activation { StageOutput::Pooled } else { StageOutput::Linear }
}

/// What the key holder receives from the segments of a stage, put together and divided.
///
/// # Errors
/// - [`Error::OutOfRange`] if there is no segment, or residues that cannot be put together.
pub(super) fn arrivals(stage: &StageStructure, segments: &[Segment]) -> Result<Arrivals> {
    require("plan", 0, "number of segments of a stage", segments.len(), 1, usize::MAX)?;
    #[expect(clippy::indexing_slicing, reason = "there is one")]
    let segment = &segments[0];
    let domain = match (&stage.chain, crt_window(stage, segments)?) {
        (Some(chain), Some(window)) => {
            let WideInterval { low, high } = window.interval();
            let domain = Interval { low: chain.descaled(low), high: chain.descaled(high) };
            let subject = "stage with a chain";
            let idx = segment.stage as usize;
            require(subject, idx, "low end of its window", domain.low, -MAX_MAGNITUDE, 0)?;
            require(subject, idx, "high end of its window", domain.high, 0, MAX_MAGNITUDE)?;
            let range = segment.range;
            require(subject, idx, "low end of its range", range.low, domain.low, domain.high)?;
            require(subject, idx, "high end of its range", range.high, range.low, domain.high)?;
            domain
        }
        _ => segment.window.interval(),
    };
    let expected = Interval { low: segment.range.low, high: segment.range.high };
    Ok(Arrivals { takes: segment_output(segment), domain, expected })
}

/// How values of a stage with a chain are put together, before the division.
///
/// # Errors
/// - [`Error::OutOfRange`] if the moduli are not coprime, or too large together.
pub(super) fn crt_window(
    stage: &StageStructure,
    segments: &[Segment],
) -> Result<Option<CrtWindow>> {
    let Some(chain) = &stage.chain else { return Ok(None) };
    let low = segments.first().and_then(|segment| segment.chain.as_ref()).map_or(0, |p| p.low);
    let low = i128::from(low).saturating_mul(1 << chain.descale);
    let moduli: Vec<u64> = segments.iter().map(|segment| segment.window.modulus).collect();
    CrtWindow::new(low, &moduli).map(Some)
}

const fn bits(v: u128) -> u32 {
    128 - v.leading_zeros()
}

fn wide(n: usize) -> i128 {
    i128::try_from(n).unwrap_or(i128::MAX)
}
