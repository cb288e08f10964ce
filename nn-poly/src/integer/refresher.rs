//! The key holder's half of a stage: what was decrypted becomes the integers to encrypt next.

use ndarray::{Array2, ArrayViewMut2, Axis};
use rayon::prelude::*;

use super::check::require;
use super::interval::Interval;
use super::ranges::prove_tail;
use super::refresh::Refresh;
use super::structure::{ActivationKind, StageStructure};
use super::tail::Tail;
use super::weights::Quadratic;
use super::{IntegerMatrix, IntegerNetwork, ScoreMatrix, StageOutput};
use crate::error::{Error, Result};

/// Samples that one task works on: rows of 8 KiB stay in level-1 cache from activation to clamp.
const SHARD: usize = 1024;

/// Applies what remains of a stage to its outputs as they arrive, one neuron for many samples.
///
/// ```text
///  Linear: z ─► activation ─► pool ─► refresh ─► integers of the next grid
///  Pooled: v ───────────────────────► refresh ─► integers of the next grid
/// ```
///
/// Outputs may come in any order, each exactly once. Memory: the result, plus partly pooled windows
/// (with outputs in ascending order, a few rows of the pooled volume). The result does not depend on
/// the order, and equals [`IntegerNetwork::evaluate`].
///
/// # Security
/// Arithmetic and memory access depend on public shapes only, with two exceptions. A value outside the
/// domain (which decryption cannot produce) ends in an error. And a look-up table
/// ([`ActivationKind::Table`]) is searched: which of its entries are read depends on the decrypted value,
/// so that whoever can observe the key holder's caches or time single refreshes may learn about it.
/// ReLU and pools are maxima, not branches.
pub struct Refresher {
    takes: StageOutput,
    n_samples: usize,
    shards: Vec<Shard>,
    refresh: Option<Refresh>,
    n_channels: usize,
    domain: Interval,
    /// Where pooled values lie when the absorbed ones lie in `domain`.
    pooled_domain: Interval,
    expected: Interval,
    has_arrived: Vec<bool>,
    n_missing: usize,
    refreshed: IntegerMatrix,
    scores: ScoreMatrix,
}

/// The state of up to [`SHARD`] consecutive samples.
struct Shard {
    tail: Tail,
    n_clamped: u64,
    out_of_range: Vec<bool>,
}

/// What a [`Refresher`] is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrivals {
    /// The place of the stage whose values arrive.
    pub takes: StageOutput,
    /// Where they must lie: the window of a segment, or a proven range.
    pub domain: Interval,
    /// Where they are expected; samples with a value elsewhere are marked.
    pub expected: Interval,
}

/// What a finished [`Refresher`] of an inner stage yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refreshed {
    /// One row per neuron, one column per sample.
    pub values: IntegerMatrix,
    /// How many values the clamp of the refresh changed.
    pub n_clamped: u64,
    /// Per sample, whether a value left the expected range.
    pub out_of_range: Vec<bool>,
}

/// What a finished [`Refresher`] of the last stage yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefreshedScores {
    /// One row per class, one column per sample.
    pub scores: ScoreMatrix,
    /// Per sample, whether a value left the expected range.
    pub out_of_range: Vec<bool>,
}

impl Refresher {
    /// Prepare for the outputs of stage `stage_idx` for `n_samples` samples.
    ///
    /// `quadratic` is needed only where this applies a quadratic activation.
    ///
    /// # Errors
    /// - [`Error::OutOfRange`] if the structure is inconsistent or a needed `quadratic` is missing.
    /// - [`Error::Accumulator`] if activation or pool could overflow on the domain.
    pub fn new(
        stage_idx: usize,
        structure: &StageStructure,
        quadratic: Option<&Quadratic>,
        arrivals: Arrivals,
        n_samples: usize,
    ) -> Result<Self> {
        let (n_outputs, pooled_domain) = Self::check(stage_idx, structure, quadratic, arrivals)?;
        let Arrivals { takes, domain, expected } = arrivals;
        let n_final = structure.n_outputs();
        let (n_refreshed, n_scores) =
            if structure.refresh.is_some() { (n_final, 0) } else { (0, n_final) };
        let shards = (0..n_samples).step_by(SHARD).map(|start| {
            let len = SHARD.min(n_samples - start);
            let tail = Tail::new(structure, quadratic, len);
            Shard { tail, n_clamped: 0, out_of_range: vec![false; len] }
        });
        Ok(Self {
            takes,
            n_samples,
            shards: shards.collect(),
            refresh: structure.refresh.clone(),
            n_channels: structure.n_channels(),
            domain,
            pooled_domain,
            expected,
            has_arrived: vec![false; n_outputs],
            n_missing: n_outputs,
            refreshed: Array2::zeros((n_refreshed, n_samples)),
            scores: Array2::zeros((n_scores, n_samples)),
        })
    }

    /// Check what [`Self::new`] needs without allocating anything; give the number of outputs to come
    /// and where pooled values then lie.
    pub(crate) fn check(
        stage_idx: usize,
        structure: &StageStructure,
        quadratic: Option<&Quadratic>,
        arrivals: Arrivals,
    ) -> Result<(usize, Interval)> {
        structure.check(stage_idx)?;
        let is_quadratic = structure.activation == ActivationKind::Quadratic;
        let needed = usize::from(is_quadratic && arrivals.takes == StageOutput::Linear);
        let present = usize::from(quadratic.is_some());
        require("stage", stage_idx, "number of quadratics", present, needed, 1)?;
        match arrivals.takes {
            StageOutput::Linear => {
                let pooled = prove_tail(stage_idx, structure, quadratic, arrivals.domain)?;
                Ok((structure.linear.n_outputs(), pooled))
            }
            StageOutput::Pooled => Ok((structure.n_outputs(), arrivals.domain)),
        }
    }

    /// Outputs this takes in all.
    #[must_use]
    pub fn n_outputs(&self) -> usize {
        self.has_arrived.len()
    }

    /// Outputs still to come.
    #[must_use]
    pub const fn n_missing(&self) -> usize {
        self.n_missing
    }

    /// Take output `output_idx`, one value per sample.
    ///
    /// Cost: a few operations per value; no allocation but for new pool windows.
    ///
    /// # Errors
    /// - [`Error::OutOfRange`] if the index or the number of values is wrong.
    /// - [`Error::RepeatedOutput`] if this output came before.
    /// - [`Error::OutsideDomain`] if a value lies outside the domain; nothing was taken then.
    pub fn absorb(&mut self, output_idx: usize, values: &[i64]) -> Result<()> {
        require("refresh", 0, "output index", output_idx, 0, self.has_arrived.len() - 1)?;
        let n_samples = self.n_samples;
        require("output", output_idx, "number of samples", values.len(), n_samples, n_samples)?;
        self.take(&Rows { first: output_idx, count: 1, values, stride: n_samples, n_samples })
    }

    /// Take outputs `first, first + 1, …`: rows of `stride` values that begin with one value per
    /// sample. In parallel over samples; the result is that of [`Self::absorb`] for each.
    ///
    /// # Errors
    /// - [`Error::OutOfRange`] if there are more rows than outputs, a row has fewer values than there
    ///   are samples, or the last one is cut.
    /// - [`Error::RepeatedOutput`] if one of the outputs came before.
    /// - [`Error::OutsideDomain`] if a value lies outside the domain.
    ///
    /// Nothing was taken then.
    pub fn absorb_rows(&mut self, first: usize, values: &[i64], stride: usize) -> Result<()> {
        let n_samples = self.n_samples;
        require(
            "output",
            first,
            "values per row",
            stride,
            n_samples.max(1),
            stride.max(n_samples),
        )?;
        let count = values.len() / stride;
        require("output", first, "values in rows", values.len(), count * stride, count * stride)?;
        let left = self.has_arrived.len().saturating_sub(first);
        require("refresh", 0, "number of rows", count, 0, left)?;
        self.take(&Rows { first, count, values, stride, n_samples })
    }

    /// Take rows whose numbers and lengths were checked.
    fn take(&mut self, rows: &Rows<'_>) -> Result<()> {
        let domain = self.domain;
        let is_outside = |row| has_outside(domain, row);
        let outside = if rows.is_small() {
            rows.iter().position(is_outside)
        } else {
            (0..rows.count).into_par_iter().position_first(|i| is_outside(rows.row(i)))
        };
        if let Some(i) = outside {
            return Err(Error::OutsideDomain { output_idx: rows.first + i });
        }
        let arrived = self.has_arrived.get_mut(rows.first..rows.first + rows.count);
        let arrived = arrived.unwrap_or_default();
        if let Some(i) = arrived.iter().position(|&arrived| arrived) {
            return Err(Error::RepeatedOutput { output_idx: rows.first + i });
        }
        arrived.fill(true);
        self.n_missing -= rows.count;

        let rest = Rest {
            takes: self.takes,
            refresh: self.refresh.as_ref(),
            n_channels: self.n_channels,
            domain: self.pooled_domain,
            expected: self.expected,
        };
        let refreshed = self.refreshed.axis_chunks_iter_mut(Axis(1), SHARD);
        let scores = self.scores.axis_chunks_iter_mut(Axis(1), SHARD);
        if rows.is_small() {
            let tasks = self.shards.iter_mut().zip(refreshed).zip(scores).enumerate();
            tasks.for_each(|(i, ((shard, refreshed), scores))| {
                shard.absorb(&rest, rows, i * SHARD, refreshed, scores);
            });
        } else {
            let targets = refreshed.into_par_iter().zip(scores.into_par_iter());
            let tasks = self.shards.par_iter_mut().zip(targets).enumerate();
            tasks.for_each(|(i, (shard, (refreshed, scores)))| {
                shard.absorb(&rest, rows, i * SHARD, refreshed, scores);
            });
        }
        Ok(())
    }

    /// The refreshed integers of an inner stage.
    ///
    /// # Errors
    /// - [`Error::MissingOutputs`] if outputs are still to come.
    /// - [`Error::OutOfRange`] if this is the last stage, which has scores instead.
    pub fn finish(self) -> Result<Refreshed> {
        self.check_complete(1)?;
        let n_clamped = self.shards.iter().map(|shard| shard.n_clamped).sum();
        let out_of_range = self.out_of_range();
        let Self { refreshed: values, .. } = self;
        Ok(Refreshed { values, n_clamped, out_of_range })
    }

    /// The scores of the last stage.
    ///
    /// # Errors
    /// - [`Error::MissingOutputs`] if outputs are still to come.
    /// - [`Error::OutOfRange`] if this is an inner stage.
    pub fn finish_scores(self) -> Result<RefreshedScores> {
        self.check_complete(0)?;
        let out_of_range = self.out_of_range();
        let Self { scores, .. } = self;
        Ok(RefreshedScores { scores, out_of_range })
    }

    fn out_of_range(&self) -> Vec<bool> {
        self.shards.iter().flat_map(|shard| shard.out_of_range.iter().copied()).collect()
    }

    fn check_complete(&self, n_refreshes: usize) -> Result<()> {
        let actual = usize::from(self.refresh.is_some());
        require("refresh", 0, "number of refreshes", actual, n_refreshes, n_refreshes)?;
        match self.n_missing {
            0 => Ok(()),
            n_missing => Err(Error::MissingOutputs { n_missing }),
        }
    }
}

impl std::fmt::Debug for Refresher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Refresher")
            .field("takes", &self.takes)
            .field("n_outputs", &self.has_arrived.len())
            .field("n_missing", &self.n_missing)
            .finish_non_exhaustive()
    }
}

/// Consecutive outputs: one value per sample at the start of each row of `stride` values.
struct Rows<'a> {
    first: usize,
    count: usize,
    values: &'a [i64],
    stride: usize,
    n_samples: usize,
}

impl Rows<'_> {
    fn row(&self, i: usize) -> &[i64] {
        self.values.get(i * self.stride..i * self.stride + self.n_samples).unwrap_or_default()
    }

    fn iter(&self) -> impl Iterator<Item = &[i64]> {
        (0..self.count).map(|i| self.row(i))
    }

    /// Whether handing parts to other threads would cost more than the work.
    fn is_small(&self) -> bool {
        self.count * self.n_samples <= 4 * SHARD
    }
}

/// What remains to be done with an output.
struct Rest<'a> {
    takes: StageOutput,
    refresh: Option<&'a Refresh>,
    n_channels: usize,
    domain: Interval,
    expected: Interval,
}

impl Shard {
    /// Take this shard's samples, `start, start + 1, …`, of every row.
    fn absorb(
        &mut self,
        rest: &Rest<'_>,
        rows: &Rows<'_>,
        start: usize,
        refreshed: ArrayViewMut2<'_, i32>,
        scores: ArrayViewMut2<'_, i64>,
    ) {
        let Self { tail, n_clamped, out_of_range } = self;
        let mut finish = Finish {
            refresh: rest.refresh,
            n_channels: rest.n_channels,
            domain: rest.domain,
            refreshed,
            scores,
            n_clamped: 0,
        };
        for (output_idx, row) in (rows.first..).zip(rows.iter()) {
            let values = row.get(start..start + out_of_range.len()).unwrap_or_default();
            flag_outside(rest.expected, values, out_of_range);
            match rest.takes {
                StageOutput::Linear => {
                    tail.absorb(output_idx, values, &mut |idx, row| finish.row(idx, row));
                }
                StageOutput::Pooled => finish.row(output_idx, values),
            }
        }
        *n_clamped += finish.n_clamped;
    }
}

/// Whether any value lies outside `domain`, without a branch on any of them.
///
/// Of the two differences one is negative, or wraps to a negative number.
fn has_outside(domain: Interval, values: &[i64]) -> bool {
    let Interval { low, high } = domain;
    let outside = values.iter().fold(0, |bad, &v| bad | v.wrapping_sub(low) | high.wrapping_sub(v));
    outside < 0
}

/// Mark the samples whose value lies outside `expected`, without a branch on any value.
pub(super) fn flag_outside(expected: Interval, values: &[i64], flags: &mut [bool]) {
    for (flag, &v) in flags.iter_mut().zip(values) {
        *flag |= (v < expected.low) | (v > expected.high);
    }
}

/// Where pooled rows end: in the refreshed matrix, or for the last stage in the scores.
pub(super) struct Finish<'a> {
    pub(super) refresh: Option<&'a Refresh>,
    pub(super) n_channels: usize,
    pub(super) domain: Interval,
    pub(super) refreshed: ArrayViewMut2<'a, i32>,
    pub(super) scores: ArrayViewMut2<'a, i64>,
    pub(super) n_clamped: u64,
}

impl Finish<'_> {
    /// Finish pooled output `idx`. Its rows are contiguous: the matrices are in standard layout, or
    /// columns of one that is.
    pub(super) fn row(&mut self, idx: usize, values: &[i64]) {
        match self.refresh {
            Some(refresh) => {
                let mut row = self.refreshed.row_mut(idx);
                let row = row.as_slice_mut().expect("invariant: rows of a standard layout");
                let channel = idx % self.n_channels;
                self.n_clamped += refresh.apply_row(channel, self.domain, values, row);
            }
            None => {
                let mut row = self.scores.row_mut(idx);
                let row = row.as_slice_mut().expect("invariant: rows of a standard layout");
                row.copy_from_slice(values);
            }
        }
    }
}

impl IntegerNetwork {
    /// A [`Refresher`] for stage `stage_idx` that takes the values at `takes`, unreduced: its domain
    /// and expected range are the proven ones.
    ///
    /// # Errors
    /// - [`Error::OutOfRange`] if there is no such stage.
    pub fn refresher(
        &self,
        stage_idx: usize,
        takes: StageOutput,
        n_samples: usize,
    ) -> Result<Refresher> {
        let bounds = self.stage_ranges(stage_idx)?.bounds(takes);
        let (structure, weights) = self.stage(stage_idx)?;
        let arrivals = Arrivals { takes, domain: bounds, expected: bounds };
        Refresher::new(stage_idx, structure, weights.quadratic.as_ref(), arrivals, n_samples)
    }
}
