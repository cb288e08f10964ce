//! The key holder's half of a stage: what was decrypted becomes the integers to encrypt next.

use ndarray::Array2;

use super::check::require;
use super::interval::Interval;
use super::ranges::prove_tail;
use super::refresh::Refresh;
use super::structure::{ActivationKind, StageStructure};
use super::tail::Tail;
use super::weights::Quadratic;
use super::{IntegerMatrix, IntegerNetwork, ScoreMatrix, StageOutput};
use crate::error::{Error, Result};

/// Applies what remains of a stage to its outputs as they arrive, one neuron for many samples.
///
/// ```text
///  Linear: z ─► activation ─► sum pool ─► refresh ─► integers of the next grid
///  Pooled: v ────────────────────────────► refresh ─► integers of the next grid
/// ```
///
/// Outputs may come in any order, each exactly once. Memory: the result, plus partial pool sums
/// (with outputs in ascending order, a few rows of the pooled volume). The result does not depend on
/// the order, and equals [`IntegerNetwork::evaluate`].
///
/// # Security
/// Arithmetic and memory access depend on public shapes only, except that a value outside the domain
/// (which decryption cannot produce) ends in an error. ReLU is a maximum, not a branch.
pub struct Refresher {
    takes: StageOutput,
    tail: Tail,
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
        Ok(Self {
            takes,
            tail: Tail::new(structure, quadratic, n_samples),
            refresh: structure.refresh.clone(),
            n_channels: structure.n_channels(),
            domain,
            pooled_domain,
            expected,
            has_arrived: vec![false; n_outputs],
            n_missing: n_outputs,
            refreshed: Array2::zeros((n_refreshed, n_samples)),
            scores: Array2::zeros((n_scores, n_samples)),
            n_clamped: 0,
            out_of_range: vec![false; n_samples],
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
        let n_samples = self.out_of_range.len();
        require("output", output_idx, "number of samples", values.len(), n_samples, n_samples)?;
        let range = Interval::of(values);
        if n_samples > 0 && !self.domain.covers(&range) {
            return Err(Error::OutsideDomain { output_idx });
        }
        let arrived = self.has_arrived.get_mut(output_idx);
        if arrived.is_none_or(|arrived| std::mem::replace(arrived, true)) {
            return Err(Error::RepeatedOutput { output_idx });
        }
        self.n_missing -= 1;
        flag_outside(self.expected, values, &mut self.out_of_range);
        let mut finish = Finish {
            refresh: self.refresh.as_ref(),
            n_channels: self.n_channels,
            domain: self.pooled_domain,
            refreshed: &mut self.refreshed,
            scores: &mut self.scores,
            n_clamped: 0,
        };
        match self.takes {
            StageOutput::Linear => {
                self.tail.absorb(output_idx, values, &mut |idx, row| finish.row(idx, row));
            }
            StageOutput::Pooled => finish.row(output_idx, values),
        }
        self.n_clamped += finish.n_clamped;
        Ok(())
    }

    /// The refreshed integers of an inner stage.
    ///
    /// # Errors
    /// - [`Error::MissingOutputs`] if outputs are still to come.
    /// - [`Error::OutOfRange`] if this is the last stage, which has scores instead.
    pub fn finish(self) -> Result<Refreshed> {
        self.check_complete(1)?;
        let Self { refreshed: values, n_clamped, out_of_range, .. } = self;
        Ok(Refreshed { values, n_clamped, out_of_range })
    }

    /// The scores of the last stage.
    ///
    /// # Errors
    /// - [`Error::MissingOutputs`] if outputs are still to come.
    /// - [`Error::OutOfRange`] if this is an inner stage.
    pub fn finish_scores(self) -> Result<RefreshedScores> {
        self.check_complete(0)?;
        let Self { scores, out_of_range, .. } = self;
        Ok(RefreshedScores { scores, out_of_range })
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
    pub(super) refreshed: &'a mut IntegerMatrix,
    pub(super) scores: &'a mut ScoreMatrix,
    pub(super) n_clamped: u64,
}

impl Finish<'_> {
    /// Finish pooled output `idx`. Its rows are contiguous: the matrices are in standard layout.
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
