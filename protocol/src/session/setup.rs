//! What a client prepares once per plan: contexts, maps, layouts, canaries.

use std::ops::Range;
use std::sync::Arc;

use fingerprint::single_weight::StageCheck;
use fingerprint::soundness::{SegmentCheck, SlotCheck};
use fingerprint::word_check::{WordCheck, WordCheckPolicy};
use fingerprint::{
    CanarySet, Fingerprint, LayoutOptions, LayoutSpec, NetworkCanary, SegmentValues, Soundness,
};
use ndarray::{Axis, Slice};
use nn_poly::encrypted::{LinearMap, SegmentContext, SegmentKey, linear_map};
use nn_poly::integer::{IntegerMatrix, IntegerNetwork, StageOutput};
use nn_poly::plan::{Plan, Segment, Trust};
use rand::{CryptoRng, SeedableRng};
use rand_chacha::ChaCha20Rng;

use super::error::{Result, SessionError};
use crate::identifiers::Digest;

/// Soundness wanted from the word check of one block, bits.
const WORD_CHECK_BITS: f64 = 40.0;

/// What a user may choose about the evidence of a run.
#[derive(Debug, Clone, Copy)]
pub struct SessionOptions {
    /// Slots of segments with a square: canaries, random points, replicas.
    pub layout: LayoutOptions,
    /// Wanted `-log2` of the chance that any altered word of a linear reply passes.
    pub word_check_bits: f64,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self { layout: LayoutOptions::default(), word_check_bits: WORD_CHECK_BITS }
    }
}

/// A plan as its owner uses it: everything that sessions share. Immutable and `Sync`.
#[derive(Debug)]
pub struct ClientPlan {
    plan: Plan,
    digest: Digest,
    segments: Vec<ClientSegment>,
    canaries: CanarySet,
}

/// One segment at the client.
#[derive(Debug)]
pub(super) struct ClientSegment {
    pub(super) context: SegmentContext,
    /// The map of linear segments, for the word check.
    pub(super) map: Option<LinearMap>,
    pub(super) check: CheckPlan,
    pub(super) stage: usize,
    /// Total degree of what a server can compute: [`Segment::log2_reachable_degree`].
    degree: u32,
    /// Whether its values are residues of a chain's.
    pub(super) is_residue: bool,
}

/// How replies of a segment are checked.
#[derive(Debug)]
pub(super) enum CheckPlan {
    /// A random linear check with this many rows per modulus.
    Words(WordCheck),
    /// Canaries and random points in secret slots.
    Slots(LayoutSpec),
}

impl ClientPlan {
    /// Prepares a plan: rebuilds parameters (and checks their security), maps and layouts, and
    /// evaluates the network canaries.
    ///
    /// `canaries` are samples on the plan's input grid, one column each: as many as
    /// `options.layout.network_canaries` are used in every segment with a square. They may be drawn
    /// from data; [`CanarySet::draw_from`] picks at random.
    ///
    /// # Errors
    /// - [`SessionError::Network`] when the plan's trust setting is another than `owner`.
    /// - [`SessionError::Encrypted`] when the plan's parameters are not secure or inconsistent.
    /// - [`SessionError::Fingerprint`] when options leave no room for samples.
    /// - [`SessionError::CanaryCount`] when there are fewer canaries than asked for.
    pub fn new(plan: Plan, options: SessionOptions, canaries: &IntegerMatrix) -> Result<Arc<Self>> {
        Self::prepare(plan, options, |plan, expected| {
            if canaries.ncols() < expected {
                return Err(SessionError::CanaryCount { expected, actual: canaries.ncols() });
            }
            let chosen = canaries.slice_axis(Axis(1), Slice::from(..expected)).to_owned();
            trace_canaries(plan, &chosen)
        })
    }

    /// As [`Self::new`], with canaries drawn from `examples` by the operating system's generator; they
    /// repeat only if there are fewer examples than canaries.
    ///
    /// # Errors
    /// - As [`Self::new`].
    /// - [`SessionError::EmptyBatch`] without examples.
    /// - [`SessionError::Randomness`] when the operating system gives no random bytes.
    pub fn drawing_canaries(
        plan: Plan,
        options: SessionOptions,
        examples: &IntegerMatrix,
    ) -> Result<Arc<Self>> {
        let count = options.layout.network_canaries;
        if examples.ncols() == 0 {
            return Err(SessionError::EmptyBatch);
        }
        let n_distinct = count.min(examples.ncols());
        let drawn = CanarySet::draw_from(examples.ncols(), n_distinct, &mut generator()?)?;
        let chosen: Vec<usize> = drawn.into_iter().cycle().take(count).collect();
        Self::new(plan, options, &examples.select(Axis(1), &chosen))
    }

    /// As [`Self::new`], with the samples of a fingerprint as canaries and its stored integers as
    /// what must come back: the network is not evaluated.
    ///
    /// The canaries are drawn from the fingerprint by `rng`; they repeat only if it has fewer samples
    /// than `options.layout.network_canaries`.
    ///
    /// # Errors
    /// - As [`Self::new`].
    /// - [`SessionError::Fingerprint`] when the fingerprint is of another plan, or holds integers that
    ///   no honest run of the plan can give.
    ///
    /// # Security
    /// `rng` must be keyed by the operating system: a server that knows the fingerprint must not know
    /// which of its samples are in use.
    pub fn with_fingerprint(
        plan: Plan,
        options: SessionOptions,
        fingerprint: &Fingerprint,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<Arc<Self>> {
        fingerprint.check_plan(&plan)?;
        Self::prepare(plan, options, |plan, count| {
            let n_distinct = count.min(fingerprint.n_samples());
            let drawn = CanarySet::draw_from(fingerprint.n_samples(), n_distinct, rng)?;
            let positions: Vec<usize> = drawn.into_iter().cycle().take(count).collect();
            Ok(fingerprint.canaries(plan, &positions)?)
        })
    }

    /// As [`Self::with_fingerprint`], drawn by the operating system's generator.
    ///
    /// # Errors
    /// - As [`Self::with_fingerprint`].
    /// - [`SessionError::Randomness`] when the operating system gives no random bytes.
    pub fn drawing_from(
        plan: Plan,
        options: SessionOptions,
        fingerprint: &Fingerprint,
    ) -> Result<Arc<Self>> {
        Self::with_fingerprint(plan, options, fingerprint, &mut generator()?)
    }

    fn prepare(
        plan: Plan,
        options: SessionOptions,
        canaries: impl FnOnce(&Plan, usize) -> Result<CanarySet>,
    ) -> Result<Arc<Self>> {
        plan.public().expect_trust(Trust::Owner, "a run of the model's owner")?;
        let policy = WordCheckPolicy::new(options.word_check_bits)?;
        let segments = (0..plan.public().segments.len())
            .map(|index| ClientSegment::new(&plan, index, &options, &policy))
            .collect::<Result<Vec<_>>>()?;
        let needs_canaries = segments.iter().any(|s| matches!(s.check, CheckPlan::Slots(_)));
        let canaries = if needs_canaries {
            canaries(&plan, options.layout.network_canaries)?
        } else {
            CanarySet::new(&[])?
        };
        let digest = Digest(plan.digest().0);
        Ok(Arc::new(Self { plan, digest, segments, canaries }))
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The exact network.
    #[must_use]
    pub fn network(&self) -> &IntegerNetwork {
        self.plan.network()
    }

    /// Digest of the whole plan, as requests name it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Samples one block of each segment carries.
    #[must_use]
    pub fn samples_per_block(&self) -> Vec<usize> {
        self.segments.iter().map(ClientSegment::samples_per_block).collect()
    }

    /// Samples of one batch when at most `limit` are allowed: whole blocks of the segment with the
    /// smallest ones where a block fits, so that no batch ends in an almost empty block.
    #[must_use]
    pub fn samples_per_batch(&self, limit: usize) -> usize {
        let block = self.samples_per_block().into_iter().min().unwrap_or(1).max(1);
        if limit < block { limit.max(1) } else { limit / block * block }
    }

    /// What an intact batch of `n_samples` samples is worth.
    ///
    /// # Errors
    /// [`SessionError::EmptyBatch`] without samples.
    pub fn soundness(&self, n_samples: usize) -> Result<Soundness> {
        if n_samples == 0 {
            return Err(SessionError::EmptyBatch);
        }
        let mut checks = Vec::new();
        for segment in &self.segments {
            match &segment.check {
                CheckPlan::Words(check) => checks.push(SegmentCheck::Words(*check)),
                CheckPlan::Slots(layout) => {
                    let full = layout.samples_per_block();
                    let rest = n_samples % full;
                    let sizes = [(n_samples >= full).then_some(full), (rest > 0).then_some(rest)];
                    for n in sizes.into_iter().flatten() {
                        let t = u128::from(segment.context.window().modulus);
                        let degree = segment.degree;
                        let check = SlotCheck::new(layout.counts(n)?, t, degree)?;
                        checks.push(SegmentCheck::Slots(check));
                    }
                }
            }
        }
        Ok(Soundness::weakest(&checks)?)
    }

    /// The check of every segment, at its weakest (blocks full of samples), for
    /// [`single_weight_trials`](fingerprint::single_weight::single_weight_trials); none of segments
    /// of several steps, whose weights those trials do not change.
    ///
    /// # Errors
    /// Only broken invariants.
    pub fn stage_checks(&self) -> Result<Vec<StageCheck>> {
        let check = |(segment, public): (&ClientSegment, &Segment)| {
            let stage = segment.stage;
            Ok(match &segment.check {
                CheckPlan::Words(check) => {
                    let modulus = public.ring.moduli.iter().copied().min().unwrap_or(0);
                    StageCheck::Words { stage, rows: check.rows(), modulus }
                }
                CheckPlan::Slots(layout) => StageCheck::Points {
                    stage,
                    points: narrow(layout.counts(layout.samples_per_block())?.random_points()),
                    modulus: segment.context.window().modulus,
                    output: StageOutput::Pooled,
                },
            })
        };
        let segments = self.segments.iter().zip(&self.plan.public().segments);
        segments.filter(|(segment, _)| !segment.is_residue).map(check).collect()
    }

    /// The segments of a stage, and a fresh key for each.
    pub(super) fn generate_keys(
        &self,
        stage: usize,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<(Range<usize>, Vec<SegmentKey>)> {
        let segments = self.plan.public().segments_of(stage)?;
        // No larger than needed: spare room of a list of keys would be given back as it is.
        let mut keys = Vec::with_capacity(segments.len());
        for segment in segments.clone() {
            keys.push(self.segment(segment)?.context.generate_key(rng)?);
        }
        Ok((segments, keys))
    }

    pub(super) fn segment(&self, index: usize) -> Result<&ClientSegment> {
        let count = self.segments.len();
        self.segments.get(index).ok_or(SessionError::NoSuchSegment { index, count })
    }

    pub(super) fn canaries(&self) -> &CanarySet {
        &self.canaries
    }

    pub(super) fn check_inputs(&self, inputs: &IntegerMatrix) -> Result<()> {
        let grid = self.plan.public().input.interval();
        match inputs.iter().find(|&&x| !grid.contains(i64::from(x))) {
            None => Ok(()),
            Some(&value) => Err(SessionError::InputRange { value, low: grid.low, high: grid.high }),
        }
    }
}

impl ClientSegment {
    fn new(
        plan: &Plan,
        index: usize,
        options: &SessionOptions,
        policy: &WordCheckPolicy,
    ) -> Result<Self> {
        let public = plan.public();
        let count = public.segments.len();
        let segment: &Segment =
            public.segments.get(index).ok_or(SessionError::NoSuchSegment { index, count })?;
        let context = SegmentContext::new(index, segment)?;
        let stage = segment.stage as usize;
        let margin = plan.recompute_noise(index)?.margin_bits();
        if margin < 0.0 {
            return Err(SessionError::Noise { segment: index, missing_bits: -margin });
        }
        let (structure, weights) = plan.network().stage(stage)?;
        let (map, check) = if context.is_linear() {
            let blocks = public.expected_samples.max(1).div_ceil(context.capacity() as u64);
            let n_checks = blocks.saturating_mul(count as u64);
            let check = policy.choose(&context.log2_moduli(), n_checks)?;
            (Some(linear_map(&context, structure, weights)?), CheckPlan::Words(check))
        } else {
            let layout = layout(segment, options.layout);
            (None, CheckPlan::Slots(LayoutSpec::new(context.capacity(), layout)?))
        };
        let degree = 1_u32.checked_shl(segment.log2_reachable_degree()).unwrap_or(u32::MAX);
        let is_residue = segment.chain.is_some();
        Ok(Self { context, map, check, stage, degree, is_residue })
    }

    /// Samples one block carries.
    pub(super) fn samples_per_block(&self) -> usize {
        match &self.check {
            CheckPlan::Words(_) => self.context.capacity(),
            CheckPlan::Slots(layout) => layout.samples_per_block(),
        }
    }
}

/// The slots of a segment's blocks: with more random points where a server with a relinearization key can
/// reach higher degrees.
fn layout(segment: &Segment, options: LayoutOptions) -> LayoutOptions {
    let further = usize::try_from(segment.n_further_points()).unwrap_or(usize::MAX);
    let random_points = options.random_points.saturating_add(further);
    let max_random_points = options.max_random_points.max(random_points);
    LayoutOptions { random_points, max_random_points, ..options }
}

/// A generator for what a server must not guess.
fn generator() -> Result<ChaCha20Rng> {
    ChaCha20Rng::try_from_os_rng().map_err(|_| SessionError::Randomness)
}

/// What every canary carries into each segment, and what must come back.
fn trace_canaries(plan: &Plan, inputs: &IntegerMatrix) -> Result<CanarySet> {
    let trace = plan.simulate_trace(inputs)?;
    let mut canaries = vec![NetworkCanary { segments: Vec::new() }; inputs.ncols()];
    for (index, segment) in plan.public().segments.iter().enumerate() {
        let stage = segment.stage as usize;
        let stage_inputs = plan.network().gather_inputs(stage, inputs, &trace.refreshed)?;
        let outputs = plan.evaluate_segment(index, &stage_inputs)?;
        let columns = stage_inputs.columns().into_iter().zip(outputs.columns());
        for (canary, (inputs, outputs)) in canaries.iter_mut().zip(columns) {
            canary
                .segments
                .push(SegmentValues { inputs: inputs.to_vec(), outputs: outputs.to_vec() });
        }
    }
    Ok(CanarySet::new(&canaries)?)
}

/// Slots of a block are below 2^17.
fn narrow(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
