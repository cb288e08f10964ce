//! What a run will cost, before any key exists.

use serde::{Deserialize, Serialize};

use super::segment::{Evidence, Packing, Segment};
use super::{ActivationSide, PublicPlan};
use crate::error::Result;
use crate::integer::require;

/// Bytes of the public seed from which one half of every uploaded ciphertext is expanded.
pub const SEED_BYTES: u64 = 32;

/// Most samples of one batch.
pub const MAX_BATCH_SAMPLES: u64 = 1 << 20;

/// What a person asks of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunSize {
    /// Samples to classify.
    pub n_samples: u64,
    /// Slots of each block that carry canaries and random points; segments in slot packing only,
    /// since the others are checked word by word. Those of [`Segment::n_further_points`] come on top.
    pub canaries_per_block: u64,
    /// Secret slots each sample takes, all in one block; segments in slot packing only.
    pub replicas: u64,
}

/// Cost of one segment for a whole run. Segments of one stage run in the same round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SegmentForecast {
    /// Which segment, from 0.
    pub segment: u32,
    /// Whether the server evaluates the activation here.
    pub evaluates_activation: bool,
    /// How samples share plaintexts.
    pub packing: Packing,
    /// `N`.
    pub ring_degree: u32,
    /// `log2 t`.
    pub plaintext_modulus_bits: f64,
    /// `log2 Q`.
    pub ciphertext_modulus_bits: f64,
    /// Values per sample, uploaded.
    pub n_inputs: u32,
    /// Values per sample, downloaded.
    pub n_outputs: u32,
    /// Samples one block carries, canaries included.
    pub capacity: u64,
    /// Blocks.
    pub blocks: u64,
    /// Share of all capacity that carries samples, replicas or canaries.
    pub occupancy: f64,
    /// Request payloads of all blocks, bytes.
    pub bytes_up: u64,
    /// Seeds of all blocks, bytes.
    pub seed_bytes: u64,
    /// Reply payloads of all blocks, bytes.
    pub bytes_down: u64,
    /// Whether the range is proven.
    pub evidence: Evidence,
    /// Bits between the noise bound and the capacity.
    pub noise_margin_bits: f64,
}

/// Cost of a run, segment by segment.
///
/// Payload bytes are exact; frames, control messages and TLS come on top.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// Samples to classify.
    pub n_samples: u64,
    /// Who evaluates activations.
    pub activation_side: ActivationSide,
    /// Every segment in order.
    pub segments: Vec<SegmentForecast>,
    /// Round trips.
    pub rounds: u32,
    /// Request payloads and seeds, bytes.
    pub bytes_up: u64,
    /// Reply payloads, bytes.
    pub bytes_down: u64,
    /// Classical security of the weakest ring, bits.
    pub security_bits: u32,
    /// Whether every range is proven.
    pub all_proven: bool,
    /// The smallest noise margin of all segments, bits.
    pub noise_margin_bits: f64,
}

/// Forecast a run of `size` under `plan`, as one batch.
///
/// Exact for payload bytes: per block `n_inputs · N · Σ ceil(log2 q_i) / 8` up, plus a seed (and a key where
/// the server relinearizes), and
/// `n_outputs · (degree + 1) · N · Σ_kept ceil(log2 q_i) / 8` down.
///
/// # Errors
/// - [`crate::Error::OutOfRange`] if nothing is to be run, or canaries and replicas leave no room for
///   a sample in a block.
pub fn forecast(plan: &PublicPlan, size: &RunSize) -> Result<Forecast> {
    of_batches(&plan.segments, plan.activation_side, plan.security_bits, size, size.n_samples)
}

/// Forecast a run of `size` under `plan`, cut into batches as a client with default settings cuts
/// them: see [`batch_samples`]. Of one batch whenever `size` has no more samples than the plan
/// expects.
///
/// Rounds of all batches count.
///
/// # Errors
/// As for [`forecast`].
pub fn forecast_run(plan: &PublicPlan, size: &RunSize) -> Result<Forecast> {
    let (side, security) = (plan.activation_side, plan.security_bits);
    let per_batch = samples_per_batch(&plan.segments, plan.expected_samples, size)?;
    of_batches(&plan.segments, side, security, size, per_batch)
}

/// Samples of a batch of a client with default settings, when the plan expects `expected_samples` and
/// the smallest block of all segments holds `smallest_block`: at least the expected ones, in whole
/// blocks of that segment, since blocks cost the same however little is in them.
///
/// At most [`MAX_BATCH_SAMPLES`].
#[must_use]
pub fn batch_samples(expected_samples: u64, smallest_block: u64) -> u64 {
    let block = smallest_block.clamp(1, MAX_BATCH_SAMPLES);
    let limit = expected_samples.clamp(1, MAX_BATCH_SAMPLES);
    limit.div_ceil(block).min(MAX_BATCH_SAMPLES / block) * block
}

/// As [`batch_samples`], of these segments.
pub(super) fn samples_per_batch(
    segments: &[Segment],
    expected_samples: u64,
    size: &RunSize,
) -> Result<u64> {
    let mut smallest = MAX_BATCH_SAMPLES;
    for (idx, segment) in segments.iter().enumerate() {
        smallest = smallest.min(samples_per_block(idx, segment, size)?);
    }
    Ok(batch_samples(expected_samples, smallest))
}

/// The forecast of a run in batches of `per_batch` samples.
pub(super) fn of_batches(
    plan_segments: &[Segment],
    activation_side: ActivationSide,
    security_bits: u32,
    size: &RunSize,
    per_batch: u64,
) -> Result<Forecast> {
    require("run", 0, "number of samples", size.n_samples, 1, 1 << 48)?;
    require("run", 0, "number of replicas", size.replicas, 1, 1 << 12)?;
    let n_batches = size.n_samples.div_ceil(per_batch.max(1));
    let segments = plan_segments
        .iter()
        .enumerate()
        .map(|(idx, segment)| forecast_segment(idx, segment, size, per_batch.max(1)))
        .collect::<Result<Vec<_>>>()?;
    let per_batch = plan_segments.iter().filter(|segment| segment.begins_round()).count();
    let rounds = n_batches.saturating_mul(per_batch as u64);
    Ok(Forecast {
        n_samples: size.n_samples,
        activation_side,
        rounds: u32::try_from(rounds).unwrap_or(u32::MAX),
        bytes_up: segments.iter().map(|s| s.bytes_up + s.seed_bytes).sum(),
        bytes_down: segments.iter().map(|s| s.bytes_down).sum(),
        security_bits,
        all_proven: segments.iter().all(|s| s.evidence == Evidence::Proven),
        noise_margin_bits: segments.iter().map(|s| s.noise_margin_bits).fold(f64::MAX, f64::min),
        segments,
    })
}

/// Slots of a block that no sample gets, and slots each sample gets.
fn reserved(segment: &Segment, size: &RunSize) -> (u64, u64) {
    match segment.packing {
        Packing::Slots => {
            (size.canaries_per_block.saturating_add(segment.n_further_points()), size.replicas)
        }
        Packing::Coefficients { .. } => (0, 1),
    }
}

/// Samples one block of a segment carries; all replicas of a sample lie in one block.
pub(super) fn samples_per_block(idx: usize, segment: &Segment, size: &RunSize) -> Result<u64> {
    let capacity = segment.capacity();
    let (canaries, replicas) = reserved(segment, size);
    require("segment", idx, "canary slots of a block", canaries, 0, capacity.saturating_sub(1))?;
    let usable = capacity - canaries;
    require("segment", idx, "replicas of a sample in a block", replicas, 1, usable)?;
    Ok(usable / replicas)
}

fn forecast_segment(
    idx: usize,
    segment: &Segment,
    size: &RunSize,
    per_batch: u64,
) -> Result<SegmentForecast> {
    let capacity = segment.capacity();
    let (canaries, replicas) = reserved(segment, size);
    let per_block = samples_per_block(idx, segment, size)?;
    let carried = size.n_samples.saturating_mul(replicas);
    let (full, rest) = (size.n_samples / per_batch, size.n_samples % per_batch);
    let blocks = full * per_batch.div_ceil(per_block) + rest.div_ceil(per_block);
    let used = carried.saturating_add(canaries.saturating_mul(blocks));
    Ok(SegmentForecast {
        segment: segment.stage,
        evaluates_activation: segment.evaluates_activation,
        packing: segment.packing,
        ring_degree: segment.ring.ring_degree,
        plaintext_modulus_bits: segment.ring.log2_plaintext_modulus(),
        ciphertext_modulus_bits: segment.ring.log2_ciphertext_modulus(),
        n_inputs: segment.n_inputs,
        n_outputs: segment.n_outputs,
        capacity,
        blocks,
        occupancy: ratio(used, blocks.saturating_mul(capacity)),
        bytes_up: blocks.saturating_mul(segment.request_bytes()),
        // Residues of a masked stage share a request, whose payload holds the other seeds.
        seed_bytes: if segment.mask.is_none() || segment.begins_round() {
            blocks.saturating_mul(SEED_BYTES)
        } else {
            0
        },
        bytes_down: blocks.saturating_mul(segment.reply_bytes()),
        evidence: segment.range.evidence,
        noise_margin_bits: segment.noise.margin_bits(),
    })
}

#[expect(clippy::cast_precision_loss, reason = "a share for people")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}
