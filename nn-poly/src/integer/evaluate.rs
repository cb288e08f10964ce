//! The fast path: many samples, cut into column chunks that run in parallel.
//!
//! Each chunk goes through the whole network while its values are warm: linear map by exact matrix
//! products ([`super::linear`]), then row by row bias, window, activation, pool and refresh. Chunks
//! have a fixed width, so the result is the same for any number of threads (it would be anyway: every
//! step is exact).

#![expect(clippy::indexing_slicing, reason = "indices come from checked geometry")]

mod meter;

use ndarray::{Array2, ArrayView2, Axis, CowArray};
use rayon::prelude::*;

use self::meter::Meter;
use super::chain::Chain;
use super::check::require;
use super::crt::CrtWindow;
use super::interval::Interval;
use super::linear::{Exact, PreparedWeights, apply};
use super::refresher::{Arrivals, Finish};
use super::structure::ValueRef;
use super::tail::Tail;
use super::window::Window;
use super::{IntegerMatrix, IntegerNetwork, ScoreMatrix, StageOutput};
use crate::error::{Error, Result};

/// Samples per chunk: rows of 512 bytes in `f32`.
const CHUNK: usize = 128;

/// What a plan prescribes for the outputs of a stage.
#[derive(Clone, Debug)]
pub(crate) struct StageRule {
    /// Where the segment ends, and which values are expected there.
    pub(crate) arrivals: Arrivals,
    /// Into which window its values are reduced; with a chain, after the division.
    pub(crate) window: Window,
    /// Into which window values of a chain are reduced before the division.
    pub(crate) undivided: Option<CrtWindow>,
}

/// What happened in one stage, counted over neurons and samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageCounts {
    /// Values the clamp of the refresh changed.
    pub n_clamped: u64,
    /// Values that the window changed: the true value did not fit.
    pub n_wrapped: u64,
}

/// Smallest and largest values seen in one stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageObservation {
    /// Outputs of the linear map.
    pub linear: Interval,
    /// Values after activation and pool.
    pub pooled: Interval,
}

impl StageObservation {
    /// The interval seen at `output`.
    #[must_use]
    pub const fn at(&self, output: StageOutput) -> Interval {
        match output {
            StageOutput::Linear => self.linear,
            StageOutput::Pooled => self.pooled,
        }
    }
}

/// The result of running many samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evaluation {
    /// One row per class, one column per sample.
    pub scores: ScoreMatrix,
    /// Per sample, whether a value left the range its segment expects (never, without a plan).
    pub out_of_range: Vec<bool>,
    /// One entry per stage.
    pub counts: Vec<StageCounts>,
    /// One entry per stage: what was seen, after any reduction.
    pub observed: Vec<StageObservation>,
    /// The refreshed values of every stage but the last, if they were asked for.
    pub refreshed: Vec<IntegerMatrix>,
}

impl Evaluation {
    /// The class with the largest score per sample; the first of equals.
    #[must_use]
    pub fn predictions(&self) -> Vec<usize> {
        let best = |column: ndarray::ArrayView1<'_, i64>| {
            let mut best = (0, i64::MIN);
            for (class, &score) in column.iter().enumerate() {
                if score > best.1 {
                    best = (class, score);
                }
            }
            best.0
        };
        self.scores.axis_iter(Axis(1)).map(best).collect()
    }
}

/// Whether an evaluation keeps the values between stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    Scores,
    Everything,
}

impl IntegerNetwork {
    /// Evaluate all samples (columns of `inputs`) without any reduction.
    ///
    /// Cost: about the products of the network at the speed of a matrix product in `f32`.
    /// Memory: the scores, plus the values of a chunk of samples per thread.
    ///
    /// # Errors
    /// - [`Error::ShapeMismatch`] if `inputs` has not one row per input.
    /// - [`Error::OutOfRange`] if an input is outside the grid.
    pub fn evaluate(&self, inputs: &IntegerMatrix) -> Result<Evaluation> {
        self.run(inputs, &[], Keep::Scores)
    }

    /// As [`Self::evaluate`], keeping the refreshed values of every stage.
    ///
    /// # Errors
    /// As for [`Self::evaluate`].
    pub fn trace(&self, inputs: &IntegerMatrix) -> Result<Evaluation> {
        self.run(inputs, &[], Keep::Everything)
    }

    /// The outputs of one stage, unreduced: `inputs` are its concatenated sources.
    ///
    /// # Errors
    /// - [`Error::ShapeMismatch`] if `inputs` has not one row per value the stage reads.
    /// - [`Error::OutOfRange`] if there is no such stage, or a value is outside its source's interval.
    pub fn evaluate_stage(
        &self,
        stage_idx: usize,
        inputs: &IntegerMatrix,
        output: StageOutput,
    ) -> Result<ScoreMatrix> {
        let intervals = self.input_intervals(stage_idx)?;
        check_inputs(inputs, &intervals)?;
        let (structure, weights) = self.stage(stage_idx)?;
        let n_outputs = structure.n_outputs_at(output);
        let chain_ends = structure.chain.as_ref().map(|chain| chain.ends);
        if chain_ends == Some(StageOutput::Pooled) {
            let n_undivided = usize::from(output == StageOutput::Linear);
            require("stage", stage_idx, "number of outputs inside its chain", n_undivided, 0, 0)?;
        }
        let chunks = column_chunks(inputs)
            .into_par_iter()
            .map(|chunk| {
                let mut out = Array2::zeros((n_outputs, chunk.ncols()));
                let mut tail = Tail::new(structure, weights.quadratic.as_ref(), chunk.ncols());
                let mut store = |idx: usize, row: &[i64]| {
                    out.row_mut(idx).assign(&ndarray::aview1(row));
                };
                self.rows(stage_idx, chunk, None, &mut |idx, row| match (output, chain_ends) {
                    (StageOutput::Linear, _) | (_, Some(StageOutput::Pooled)) => store(idx, row),
                    (StageOutput::Pooled, _) => tail.absorb(idx, row, &mut store),
                });
                out
            })
            .collect::<Vec<_>>();
        Ok(concatenate_columns(n_outputs, inputs.ncols(), chunks.iter().map(|chunk| chunk.view())))
    }

    /// The values of stage `stage_idx` where its chain ends, before the division and unreduced:
    /// `inputs` are its concatenated sources.
    ///
    /// # Errors
    /// - As for [`Self::evaluate_stage`].
    /// - [`Error::OutOfRange`] if the stage has no chain.
    pub fn evaluate_chain(&self, stage_idx: usize, inputs: &IntegerMatrix) -> Result<Array2<i128>> {
        check_inputs(inputs, &self.input_intervals(stage_idx)?)?;
        let (structure, weights) = self.stage(stage_idx)?;
        let (Some(chain), Some(PreparedWeights::Chain(prepared))) =
            (&structure.chain, self.prepared.get(stage_idx))
        else {
            return require("stage", stage_idx, "number of chains", 0, 1, 1)
                .map(|()| Array2::zeros((0, 0)));
        };
        let chunks = column_chunks(inputs)
            .into_par_iter()
            .map(|chunk| prepared.values(chain, structure, weights, chunk))
            .collect::<Vec<_>>();
        let n_outputs = structure.n_outputs_at(chain.ends);
        Ok(concatenate_columns(n_outputs, inputs.ncols(), chunks.iter().map(|chunk| chunk.view())))
    }

    /// The concatenated sources of stage `stage_idx`, given the input and the refreshed values of
    /// the earlier stages.
    ///
    /// # Errors
    /// - [`Error::OutOfRange`] if there is no such stage or an earlier one is missing.
    pub fn gather_inputs(
        &self,
        stage_idx: usize,
        inputs: &IntegerMatrix,
        refreshed: &[IntegerMatrix],
    ) -> Result<IntegerMatrix> {
        let (structure, _) = self.stage(stage_idx)?;
        require(
            "network",
            0,
            "number of refreshed stages",
            refreshed.len(),
            stage_idx,
            usize::MAX,
        )?;
        let n = structure.n_inputs();
        let mut gathered = Array2::zeros((n, inputs.ncols()));
        let mut first = 0;
        for source in &structure.sources {
            let values = match *source {
                ValueRef::Input => inputs,
                ValueRef::Stage(stage) => &refreshed[stage as usize],
            };
            let rows = first..first + values.nrows();
            require("stage", stage_idx, "number of values in its sources", rows.end, 0, n)?;
            require(
                "stage",
                stage_idx,
                "number of samples",
                values.ncols(),
                inputs.ncols(),
                inputs.ncols(),
            )?;
            first = rows.end;
            gathered.slice_axis_mut(Axis(0), rows.into()).assign(values);
        }
        require("stage", stage_idx, "number of values in its sources", first, n, n)?;
        Ok(gathered)
    }

    /// Run all samples under `rules`, one per stage (none: no reduction).
    pub(crate) fn run(
        &self,
        inputs: &IntegerMatrix,
        rules: &[StageRule],
        keep: Keep,
    ) -> Result<Evaluation> {
        check_inputs(inputs, &vec![self.input.interval(); self.n_inputs])?;
        let domains = self.tail_domains(rules)?;
        let chunks = column_chunks(inputs)
            .into_par_iter()
            .map(|chunk| self.run_chunk(chunk, rules, &domains, keep))
            .collect::<Vec<_>>();
        let n_samples = inputs.ncols();
        let n_stages = self.structure.len();
        let mut counts = vec![StageCounts::default(); n_stages];
        let mut observed =
            vec![StageObservation { linear: Interval::EMPTY, pooled: Interval::EMPTY }; n_stages];
        for chunk in &chunks {
            for (total, part) in counts.iter_mut().zip(&chunk.counts) {
                total.n_clamped += part.n_clamped;
                total.n_wrapped += part.n_wrapped;
            }
            for (total, part) in observed.iter_mut().zip(&chunk.observed) {
                total.linear = total.linear.hull(part.linear);
                total.pooled = total.pooled.hull(part.pooled);
            }
        }
        let kept = if keep == Keep::Everything { n_stages - 1 } else { 0 };
        let refreshed = (0..kept)
            .map(|stage| {
                let parts = chunks.iter().map(|chunk| chunk.refreshed[stage].view());
                concatenate_columns(self.structure[stage].n_outputs(), n_samples, parts)
            })
            .collect();
        let scores = chunks.iter().map(|chunk| chunk.scores.view());
        Ok(Evaluation {
            scores: concatenate_columns(self.n_scores(), n_samples, scores),
            out_of_range: chunks
                .iter()
                .flat_map(|chunk| chunk.out_of_range.iter().copied())
                .collect(),
            counts,
            observed,
            refreshed,
        })
    }

    /// Where the pooled values of each stage may lie: proven, or whatever its window lets through.
    fn tail_domains(&self, rules: &[StageRule]) -> Result<Vec<Interval>> {
        let n = self.structure.len();
        if !rules.is_empty() {
            require("plan", 0, "number of segments", rules.len(), n, n)?;
        }
        (0..n)
            .map(|stage| {
                let proven = self.ranges[stage].bounds(StageOutput::Pooled);
                let Some(rule) = rules.get(stage) else { return Ok(proven) };
                let window = rule.window.interval();
                match rule.arrivals.takes {
                    StageOutput::Pooled => Ok(window),
                    StageOutput::Linear => {
                        let quadratic = self.weights[stage].quadratic.as_ref();
                        super::ranges::prove_tail(stage, &self.structure[stage], quadratic, window)
                    }
                }
            })
            .collect()
    }

    fn run_chunk(
        &self,
        inputs: ArrayView2<'_, i32>,
        rules: &[StageRule],
        domains: &[Interval],
        keep: Keep,
    ) -> Chunk {
        let n_samples = inputs.ncols();
        let mut chunk = Chunk {
            refreshed: Vec::new(),
            scores: Array2::zeros((self.n_scores(), n_samples)),
            out_of_range: vec![false; n_samples],
            counts: Vec::new(),
            observed: Vec::new(),
        };
        for (stage, (structure, &domain)) in self.structure.iter().zip(domains).enumerate() {
            let views = structure
                .sources
                .iter()
                .map(|source| match *source {
                    ValueRef::Input => inputs,
                    ValueRef::Stage(earlier) => chunk.refreshed[earlier as usize].view(),
                })
                .collect::<Vec<_>>();
            let gathered = match views.as_slice() {
                [single] => CowArray::from(*single),
                several => CowArray::from(
                    ndarray::concatenate(Axis(0), several).expect("invariant: equal columns"),
                ),
            };
            let outcome = self.run_stage(stage, gathered.view(), rules.get(stage), domain);
            chunk.take(outcome);
        }
        if keep == Keep::Scores {
            chunk.refreshed.clear();
        }
        chunk
    }

    fn run_stage(
        &self,
        stage: usize,
        inputs: ArrayView2<'_, i32>,
        rule: Option<&StageRule>,
        domain: Interval,
    ) -> StageOutcome {
        let (structure, weights) = (&self.structure[stage], &self.weights[stage]);
        let n_samples = inputs.ncols();
        let n_outputs = structure.n_outputs();
        let (n_refreshed, n_scores) =
            if structure.refresh.is_some() { (n_outputs, 0) } else { (0, n_outputs) };
        let mut refreshed = Array2::zeros((n_refreshed, n_samples));
        let mut scores = Array2::zeros((n_scores, n_samples));
        let mut out_of_range = vec![false; n_samples];
        let mut linear = Meter::new(rule, StageOutput::Linear, n_samples);
        let mut pooled = Meter::new(rule, StageOutput::Pooled, n_samples);
        let mut tail = Tail::new(structure, weights.quadratic.as_ref(), n_samples);
        let mut finish = Finish {
            refresh: structure.refresh.as_ref(),
            n_channels: structure.n_channels(),
            domain,
            refreshed: refreshed.view_mut(),
            scores: scores.view_mut(),
            n_clamped: 0,
        };
        let undivided = rule.and_then(|rule| rule.undivided.as_ref());
        let ends_pooled =
            structure.chain.as_ref().is_some_and(|chain| chain.ends == StageOutput::Pooled);
        let n_wrapped = self.rows(stage, inputs, undivided, &mut |idx, row| {
            if ends_pooled {
                finish.row(idx, pooled.pass(row, &mut out_of_range));
                return;
            }
            let row = linear.pass(row, &mut out_of_range);
            tail.absorb(idx, row, &mut |idx, row| {
                finish.row(idx, pooled.pass(row, &mut out_of_range));
            });
        });
        let n_clamped = finish.n_clamped;
        let n_wrapped = n_wrapped + linear.n_wrapped + pooled.n_wrapped;
        let counts = StageCounts { n_clamped, n_wrapped };
        let observed = StageObservation { linear: linear.seen, pooled: pooled.seen };
        StageOutcome { refreshed, scores, out_of_range, counts, observed }
    }

    /// Call `sink(output_idx, values)` for every output of the linear map, in order; of a chain, for
    /// every value where its segment ends, reduced into `undivided` and divided. Give how many values
    /// that reduction changed.
    fn rows(
        &self,
        stage: usize,
        inputs: ArrayView2<'_, i32>,
        undivided: Option<&CrtWindow>,
        sink: &mut dyn FnMut(usize, &[i64]),
    ) -> u64 {
        let structure = &self.structure[stage];
        match (&self.prepared[stage], &structure.chain) {
            (PreparedWeights::Single(weights), _) => {
                self.linear_rows_in(stage, weights, inputs, sink);
            }
            (PreparedWeights::Double(weights), _) => {
                self.linear_rows_in(stage, weights, inputs, sink);
            }
            (PreparedWeights::Chain(prepared), Some(chain)) => {
                let weights = &self.weights[stage];
                let values = prepared.values(chain, structure, weights, inputs);
                return divided_rows(chain, &values, undivided, sink);
            }
            (PreparedWeights::Chain(_), None) => {}
        }
        0
    }

    fn linear_rows_in<A: Exact>(
        &self,
        stage: usize,
        weights: &Array2<A>,
        inputs: ArrayView2<'_, i32>,
        sink: &mut dyn FnMut(usize, &[i64]),
    ) {
        let linear = &self.structure[stage].linear;
        let products = apply(linear, weights, inputs.mapv(A::from_small).view());
        let mut values = vec![0; inputs.ncols()];
        for (output, row) in products.outer_iter().enumerate() {
            let bias = self.weights[stage].bias_of(output, linear.n_channels());
            for (value, &product) in values.iter_mut().zip(row) {
                *value = product.to_integer() + bias;
            }
            sink(output, &values);
        }
    }
}

/// Reduce and divide the values of a chain, row by row.
fn divided_rows(
    chain: &Chain,
    values: &Array2<i128>,
    window: Option<&CrtWindow>,
    sink: &mut dyn FnMut(usize, &[i64]),
) -> u64 {
    let mut n_wrapped = 0;
    let mut divided = vec![0; values.ncols()];
    for (output, row) in values.outer_iter().enumerate() {
        for (divided, &v) in divided.iter_mut().zip(row) {
            let reduced = window.map_or(v, |window| window.reduce(v));
            n_wrapped += u64::from(reduced != v);
            *divided = chain.descaled(reduced);
        }
        sink(output, &divided);
    }
    n_wrapped
}

/// What one chunk of samples produced in one stage.
struct StageOutcome {
    refreshed: IntegerMatrix,
    /// Without rows but in the last stage.
    scores: ScoreMatrix,
    out_of_range: Vec<bool>,
    counts: StageCounts,
    observed: StageObservation,
}

/// What one chunk of samples produced so far.
struct Chunk {
    refreshed: Vec<IntegerMatrix>,
    scores: ScoreMatrix,
    out_of_range: Vec<bool>,
    counts: Vec<StageCounts>,
    observed: Vec<StageObservation>,
}

impl Chunk {
    fn take(&mut self, outcome: StageOutcome) {
        for (flag, now) in self.out_of_range.iter_mut().zip(&outcome.out_of_range) {
            *flag |= now;
        }
        self.refreshed.push(outcome.refreshed);
        self.scores = outcome.scores;
        self.counts.push(outcome.counts);
        self.observed.push(outcome.observed);
    }
}

/// Refuse a matrix of the wrong height, or with a value outside the interval of its row.
pub(super) fn check_inputs(inputs: &IntegerMatrix, intervals: &[Interval]) -> Result<()> {
    if inputs.nrows() != intervals.len() {
        return Err(Error::ShapeMismatch {
            what: "a column of integer inputs",
            expected: vec![intervals.len()],
            actual: vec![inputs.nrows()],
        });
    }
    for (idx, (row, interval)) in inputs.outer_iter().zip(intervals).enumerate() {
        let (low, high) =
            row.iter().fold((i32::MAX, i32::MIN), |(low, high), &x| (low.min(x), high.max(x)));
        for value in if row.is_empty() { None } else { Some([low, high]) }.iter().flatten() {
            require("input", idx, "value", i64::from(*value), interval.low, interval.high)?;
        }
    }
    Ok(())
}

fn column_chunks(inputs: &IntegerMatrix) -> Vec<ArrayView2<'_, i32>> {
    inputs.axis_chunks_iter(Axis(1), CHUNK).collect()
}

fn concatenate_columns<'a, T: Copy + Default + 'a>(
    n_rows: usize,
    n_columns: usize,
    parts: impl Iterator<Item = ArrayView2<'a, T>>,
) -> Array2<T> {
    let mut out = Array2::from_elem((n_rows, n_columns), T::default());
    let mut first = 0;
    for part in parts {
        let end = first + part.ncols();
        out.slice_axis_mut(Axis(1), (first..end).into()).assign(&part);
        first = end;
    }
    out
}
