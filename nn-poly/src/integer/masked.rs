//! The integer network with masked refreshes: the key holder must not learn the values it refreshes.
//!
//! ```text
//!  server   v (range proven, 2^ℓ values) ─► v + r, r uniform below 2^(ℓ+40)
//!  client   c = ⌊((v + r)·m + 2^(s−1)) / 2^s⌋                      sees v + r only, refreshes it
//!  server   u = c − ⌊r·m / 2^s⌋                                    at the next segment
//! ```
//!
//! `⌊a + b⌋ − ⌊b⌋` is `⌊a⌋` or `⌊a⌋ + 1`, so `u` is the refreshed value or one more, whatever the mask:
//! never less and never grossly wrong, as long as nothing wraps. Nothing is clamped, since a comparison
//! would need the value; ranges are therefore proven from stage to stage without the clamps
//! ([`IntegerNetwork::masked_ranges`]), and grow.
//!
//! The average over masks is exact: `u` has the mean `(v·m + 2^(s−1))/2^s`, half a unit above the scaled
//! value ([`MaskedStage::is_unbiased`] says when).
//!
//! [`IntegerNetwork::evaluate_masked`] is the specification: with the same masks an encrypted run gives
//! the same integers, extra units included.

mod tolerance;

use ndarray::Array2;
use rayon::prelude::*;

use super::check::require;
use super::evaluate::check_inputs;
use super::interval::Interval;
use super::ranges::prove_stage;
use super::refresh::Refresh;
use super::structure::{ActivationKind, StageStructure, ValueRef};
use super::weights::StageWeights;
use super::{IntegerMatrix, IntegerNetwork, MAX_MAGNITUDE, ScoreMatrix};
use crate::error::{Error, Result};

pub use tolerance::{MaskedScores, TOLERANCE_BITS};

/// Bits by which a mask is longer than the value it hides: two values give masked values whose
/// distributions differ by at most `2^-40` (statistical distance).
pub const MASK_MARGIN_BITS: u32 = 40;
/// The product of a masked stage's plaintext moduli is at least `2^(ℓ + 42)`: twice what a masked value
/// can reach.
pub const MASK_MODULUS_BITS: u32 = 42;
/// Largest magnitude of a refreshed value: sixteen-bit weights times it stay inside 64 bits.
pub const MAX_MASKED_INPUT: i64 = 1 << 46;
/// Masked values times multipliers stay below `2^126`.
const MAX_SCALED_BITS: u32 = 126;

/// Where the masks of an evaluation come from.
pub trait MaskSource: Sync {
    /// Write the masks of output `output` of stage `stage`, one per sample: each below
    /// `2^mask_bits` ([`MaskedStage::mask_bits`]).
    fn fill(&self, stage: usize, output: usize, masks: &mut [u128]);
}

/// No masks: every refreshed value is the plain one, unclamped.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoMasks;

impl MaskSource for NoMasks {
    fn fill(&self, _: usize, _: usize, masks: &mut [u128]) {
        masks.fill(0);
    }
}

/// What can occur in one stage of a masked evaluation, for every input of the grid and every mask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaskedStage {
    /// The smallest interval that contains every output.
    pub values: Interval,
    /// What later stages read, per output: refreshed without a clamp, one unit more included. Empty
    /// for the last stage.
    pub refreshed: Vec<Interval>,
    /// `max_row Σ |w|·max|x|` of the linear map.
    pub max_products: u64,
}

impl MaskedStage {
    /// `ℓ`: there are at most `2^ℓ` values.
    #[must_use]
    pub const fn range_bits(&self) -> u32 {
        range_bits(self.values)
    }

    /// Bits of a mask: `ℓ + 40`.
    #[must_use]
    pub const fn mask_bits(&self) -> u32 {
        self.range_bits() + MASK_MARGIN_BITS
    }
}

/// `ℓ` of an interval: the least with at most `2^ℓ` members.
#[must_use]
pub(crate) const fn range_bits(range: Interval) -> u32 {
    64 - range.width().saturating_sub(1).leading_zeros()
}

/// The result of a masked evaluation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaskedEvaluation {
    /// One row per class, one column per sample.
    pub scores: ScoreMatrix,
    /// The refreshed values of every stage but the last.
    pub refreshed: Vec<ScoreMatrix>,
    /// How many refreshed values are one unit higher than without a mask.
    pub n_raised: u64,
}

impl Refresh {
    /// What the key holder makes of a masked value `w`: `⌊(w·m + 2^(s−1))/2^s⌋`, without a clamp.
    ///
    /// `|w|` below `2^86`, as checked plans guarantee; others wrap.
    #[must_use]
    pub fn scale_masked(&self, channel: usize, w: i128) -> i128 {
        let half = (1_i128 << self.shift) >> 1;
        w.wrapping_mul(i128::from(self.multiplier(channel))).wrapping_add(half) >> self.shift
    }

    /// What the server subtracts from it for the mask `r`: `⌊r·m/2^s⌋`.
    #[must_use]
    pub fn scale_mask(&self, channel: usize, r: u128) -> i128 {
        r.cast_signed().wrapping_mul(i128::from(self.multiplier(channel))) >> self.shift
    }

    /// Every refreshed value of `range` under any mask.
    fn masked_interval(&self, channel: usize, range: Interval) -> (i128, i128) {
        let ends = [range.low, range.high].map(|v| self.scale_masked(channel, v.into()));
        (ends[0].min(ends[1]), ends[0].max(ends[1]) + 1)
    }

    /// Whether the key holder's arithmetic holds masked values of `mask_bits + 1` bits.
    pub(crate) fn check_masked(&self, stage: usize, mask_bits: u32) -> Result<()> {
        let largest = self.multipliers.iter().map(|m| m.unsigned_abs()).max().unwrap_or(0);
        let bits = mask_bits.saturating_add(2).saturating_add(64 - largest.leading_zeros());
        require(
            "stage",
            stage,
            "bits of a masked value times its multiplier",
            bits,
            0,
            MAX_SCALED_BITS,
        )
    }
}

/// Refuse a stage that cannot be evaluated with masked refreshes.
///
/// # Errors
/// - [`Error::NotAtServer`] for steps that are no polynomials.
/// - [`Error::NotMaskable`] for chains, and for pools without an activation.
pub(crate) fn check_maskable(stage: usize, structure: &StageStructure) -> Result<()> {
    structure.check_polynomial(stage)?;
    let refuse = |reason| Err(Error::NotMaskable { stage, reason });
    if structure.chain.is_some() {
        return refuse("it joins several layers: leave out --rounds");
    }
    if structure.pool.is_some() && structure.activation == ActivationKind::Identity {
        return refuse("it pools what no activation precedes");
    }
    Ok(())
}

impl IntegerNetwork {
    /// Prove what a masked evaluation can reach: as the constructor does, without clamps, with one
    /// unit more per refreshed value.
    ///
    /// Cost: one pass over the products of one sample.
    ///
    /// # Errors
    /// - [`Error::NotAtServer`], [`Error::NotMaskable`] naming the stage that masks cannot serve.
    /// - [`Error::Accumulator`] if a value could reach `±2^62`, or a refreshed one
    ///   [`MAX_MASKED_INPUT`].
    /// - [`Error::OutOfRange`] if masked values do not fit 128 bits.
    pub fn masked_ranges(&self) -> Result<Vec<MaskedStage>> {
        let mut proven: Vec<MaskedStage> = Vec::with_capacity(self.structure().len());
        for (stage, (shape, numbers)) in self.structure().iter().zip(self.weights()).enumerate() {
            check_maskable(stage, shape)?;
            let inputs = self.masked_inputs(shape, &proven);
            let ranges = prove_stage(stage, shape, numbers, &inputs)?;
            let values = ranges.pooled.iter().fold(Interval::EMPTY, |all, &one| all.hull(one));
            let mut found =
                MaskedStage { values, refreshed: Vec::new(), max_products: ranges.max_products };
            if let Some(refresh) = &shape.refresh {
                refresh.check_masked(stage, found.mask_bits())?;
                let refreshed = ranges.pooled.iter().enumerate().map(|(output, &range)| {
                    bounded_refresh(stage, refresh, output % shape.n_channels(), range)
                });
                found.refreshed = refreshed.collect::<Result<_>>()?;
            }
            proven.push(found);
        }
        Ok(proven)
    }

    /// Interval of every input of a stage, without clamps.
    fn masked_inputs(&self, shape: &StageStructure, proven: &[MaskedStage]) -> Vec<Interval> {
        let mut inputs = Vec::with_capacity(shape.n_inputs());
        for source in &shape.sources {
            match *source {
                ValueRef::Input => {
                    inputs.extend(std::iter::repeat_n(self.input().interval(), self.n_inputs()));
                }
                ValueRef::Stage(stage) => {
                    let of_stage =
                        proven.get(stage as usize).map(|found| found.refreshed.as_slice());
                    inputs.extend_from_slice(of_stage.unwrap_or_default());
                }
            }
        }
        inputs
    }

    /// Evaluate all samples (columns of `inputs`) with these masks: the specification of masked
    /// encrypted runs.
    ///
    /// Cost: the products of the network, in 64 bits; parallel over outputs. Memory: the values of all
    /// stages.
    ///
    /// # Errors
    /// - As [`Self::masked_ranges`].
    /// - [`Error::ShapeMismatch`] if `inputs` has not one row per input.
    /// - [`Error::OutOfRange`] if an input is outside the grid.
    pub fn evaluate_masked(
        &self,
        inputs: &IntegerMatrix,
        masks: &impl MaskSource,
    ) -> Result<MaskedEvaluation> {
        self.masked_ranges()?;
        check_inputs(inputs, &vec![self.input().interval(); self.n_inputs()])?;
        let inputs = inputs.mapv(i64::from);
        let mut refreshed: Vec<ScoreMatrix> = Vec::new();
        let mut n_raised = 0;
        let mut scores = Array2::zeros((0, inputs.ncols()));
        for (stage, (shape, numbers)) in self.structure().iter().zip(self.weights()).enumerate() {
            let values = stage_values(shape, numbers, &gather(shape, &inputs, &refreshed));
            let Some(refresh) = &shape.refresh else {
                scores = values;
                continue;
            };
            let (next, raised) = refresh_masked(stage, shape, refresh, &values, masks);
            n_raised += raised;
            refreshed.push(next);
        }
        Ok(MaskedEvaluation { scores, refreshed, n_raised })
    }
}

fn bounded_refresh(
    stage: usize,
    refresh: &Refresh,
    channel: usize,
    range: Interval,
) -> Result<Interval> {
    let (low, high) = refresh.masked_interval(channel, range);
    let magnitude = low.abs().max(high.abs());
    if magnitude >= i128::from(MAX_MASKED_INPUT) {
        return Err(Error::Accumulator { stage, step: "refresh without a clamp", magnitude });
    }
    let narrow = |v: i128| i64::try_from(v).unwrap_or(MAX_MAGNITUDE);
    Ok(Interval { low: narrow(low), high: narrow(high) })
}

/// What a stage reads: one row per value.
fn gather<'a>(
    shape: &StageStructure,
    inputs: &'a ScoreMatrix,
    refreshed: &'a [ScoreMatrix],
) -> Vec<ndarray::ArrayView1<'a, i64>> {
    let mut rows = Vec::with_capacity(shape.n_inputs());
    for source in &shape.sources {
        let values = match *source {
            ValueRef::Input => Some(inputs),
            ValueRef::Stage(stage) => refreshed.get(stage as usize),
        };
        rows.extend(values.into_iter().flat_map(|values| values.rows()));
    }
    rows
}

/// Linear map, activation and pool: no step can overflow, as the ranges prove.
fn stage_values(
    shape: &StageStructure,
    numbers: &StageWeights,
    inputs: &[ndarray::ArrayView1<'_, i64>],
) -> ScoreMatrix {
    let n_samples = inputs.first().map_or(0, ndarray::ArrayBase::len);
    let n_channels = shape.n_channels();
    let linear = |output: usize| {
        let mut row = vec![numbers.bias_of(output, n_channels); n_samples];
        shape.linear.for_each_tap(output, |input, weight| {
            let (Some(x), Some(&w)) = (inputs.get(input), numbers.weights.get(weight)) else {
                return;
            };
            row.iter_mut().zip(x).for_each(|(sum, &x)| *sum += i64::from(w) * x);
        });
        if let Some(quadratic) = &numbers.quadratic {
            let (a, b, c) = quadratic.coefficients(output % n_channels);
            row.iter_mut().for_each(|z| *z = (i64::from(a) * *z + b) * *z + c);
        }
        row
    };
    let rows: Vec<Vec<i64>> = (0..shape.linear.n_outputs()).into_par_iter().map(linear).collect();
    let mut values = Array2::zeros((shape.n_outputs(), n_samples));
    for (output, mut sum) in values.rows_mut().into_iter().enumerate() {
        let mut add = |term: usize| {
            let row = rows.get(term).map_or(&[][..], Vec::as_slice);
            sum.iter_mut().zip(row).for_each(|(sum, &v)| *sum += v);
        };
        match &shape.pool {
            Some(pool) => pool.for_each_term(output, add),
            None => add(output),
        }
    }
    values
}

/// Both sides of a masked refresh; also how many values are one unit higher for their masks.
fn refresh_masked(
    stage: usize,
    shape: &StageStructure,
    refresh: &Refresh,
    values: &ScoreMatrix,
    masks: &impl MaskSource,
) -> (ScoreMatrix, u64) {
    let n_channels = shape.n_channels();
    let rows: Vec<(Vec<i64>, u64)> = (0..values.nrows())
        .into_par_iter()
        .map(|output| {
            let mut of_output = vec![0; values.ncols()];
            masks.fill(stage, output, &mut of_output);
            let channel = output % n_channels;
            let mut n_raised = 0;
            let refreshed = values.row(output).into_iter().zip(of_output).map(|(&v, mask)| {
                let masked = i128::from(v) + mask.cast_signed();
                let refreshed =
                    refresh.scale_masked(channel, masked) - refresh.scale_mask(channel, mask);
                n_raised += u64::from(refreshed != refresh.scale_masked(channel, v.into()));
                i64::try_from(refreshed).unwrap_or(MAX_MAGNITUDE)
            });
            (refreshed.collect(), n_raised)
        })
        .collect();
    let mut refreshed = Array2::zeros(values.dim());
    let mut n_raised = 0;
    for (mut target, (row, raised)) in refreshed.rows_mut().into_iter().zip(rows) {
        target.assign(&ndarray::aview1(&row));
        n_raised += raised;
    }
    (refreshed, n_raised)
}

impl MaskedStage {
    /// Whether refreshed values of channel `channel` have the mean `(v·m + 2^(s−1))/2^s` over all masks.
    ///
    /// `r·m mod 2^s` must be uniform on the multiples of the largest power of two in `m`: masks have
    /// enough bits, and rounding is not the identity.
    #[must_use]
    pub fn is_unbiased(&self, refresh: &Refresh, channel: usize) -> bool {
        let twos = refresh.multiplier(channel).trailing_zeros();
        twos < refresh.shift && refresh.shift - twos <= self.mask_bits()
    }
}
