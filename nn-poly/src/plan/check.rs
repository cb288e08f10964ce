//! What must hold for the public part of a plan before anything uses it.

use super::public::{ActivationSide, PublicPlanSpec};
use super::segment::{Evidence, Packing, RingSpec, Segment};
use crate::error::{Error, Result};
use crate::integer::{
    ActivationKind, Arrivals, Interval, MAX_MAGNITUDE, Refresher, StageOutput, StageStructure,
    check_structure, require,
};

const MAX_NAME_BYTES: usize = 256;
const MAX_CLASSES: usize = 1 << 16;
const MAX_LIMBS: usize = 32;
const MAX_LOG2: f64 = 65_536.0;

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
    let n_stages = spec.stages.len();
    require("plan", 0, "number of segments", spec.segments.len(), n_stages, n_stages)?;
    for (idx, (segment, stage)) in spec.segments.iter().zip(&spec.stages).enumerate() {
        check_role(idx, segment, stage, spec.activation_side)?;
        check_ring(idx, &segment.ring)?;
        check_packing(idx, segment)?;
        check_window(idx, segment)?;
        check_noise(idx, segment)?;
        check_tail(idx, segment, stage)?;
    }
    Ok(())
}

/// The segment belongs to its stage and evaluates what the activation side says.
fn check_role(
    idx: usize,
    segment: &Segment,
    stage: &StageStructure,
    side: ActivationSide,
) -> Result<()> {
    require("segment", idx, "stage", i128::from(segment.stage), wide(idx), wide(idx))?;
    let is_quadratic = stage.activation == ActivationKind::Quadratic;
    let at_server = match side {
        ActivationSide::Server => {
            stage.check_polynomial(idx)?;
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
fn check_tail(idx: usize, segment: &Segment, stage: &StageStructure) -> Result<()> {
    if !segment.evaluates_activation && stage.activation == ActivationKind::Quadratic {
        return Ok(());
    }
    Refresher::check(idx, stage, None, arrivals(segment)).map(drop)
}

/// Where a segment ends.
pub(super) const fn segment_output(segment: &Segment) -> StageOutput {
    if segment.evaluates_activation { StageOutput::Pooled } else { StageOutput::Linear }
}

/// What the key holder receives from a segment.
pub(super) const fn arrivals(segment: &Segment) -> Arrivals {
    Arrivals {
        takes: segment_output(segment),
        domain: segment.window.interval(),
        expected: Interval { low: segment.range.low, high: segment.range.high },
    }
}

const fn bits(v: u128) -> u32 {
    128 - v.leading_zeros()
}

fn wide(n: usize) -> i128 {
    i128::try_from(n).unwrap_or(i128::MAX)
}
