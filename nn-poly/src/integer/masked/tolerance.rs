//! Which scores an honest masked evaluation of a known input may give.
//!
//! A refreshed value is `E + ε` with `E = (v·m + 2^(s−1))/2^s` and an error `ε` of mean zero that lies in
//! an interval of width one, given everything before it: the masks of different values are
//! independent. So `Σ w·ε` is a sum of martingale differences, and (Hoeffding 1963, Azuma 1967)
//!
//! ```text
//! |Σ w·ε| ≤ sqrt(½·ln(2/p)·Σ w²)      except with probability p.
//! ```
//!
//! Beside it intervals are propagated that hold for every mask; each bound is the narrower of both. Sums
//! of what is not independent (`E` of the values of a layer depends on the masks before it) are added as
//! intervals.

use ndarray::{Array2, ArrayView1};
use rayon::prelude::*;

use super::MaskedStage;
use crate::error::Result;
use crate::integer::evaluate::check_inputs;
use crate::integer::structure::{StageStructure, ValueRef};
use crate::integer::weights::StageWeights;
use crate::integer::{IntegerMatrix, IntegerNetwork, Interval, Refresh};

/// `−log2` of the probability with which one bound on one linear output does not hold.
pub const TOLERANCE_BITS: u32 = 64;

/// Relative allowance for the rounding of sums in `f64` with up to 2^28 terms.
const ROUNDING: f64 = 1e-7;

/// Bounds on the scores of known inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaskedScores {
    /// One row per class, one column per input.
    pub ranges: Array2<Interval>,
    /// How many probable bounds they rest on: all hold except with probability
    /// `n_bounds · 2^-64`.
    pub n_bounds: u64,
}

/// A closed interval of real numbers.
#[derive(Clone, Copy)]
struct Range {
    low: f64,
    high: f64,
}

/// What is known of one value.
#[derive(Clone, Copy)]
struct Known {
    /// Which value it is: a stage may read one several times, and its error then counts once, with the
    /// sum of its weights.
    identity: usize,
    /// Where its mean lies, given everything before its mask.
    mean: Range,
    /// Where it lies, whatever its mask.
    hard: Range,
    /// Width of the interval its own mask moves it in.
    spread: f64,
}

impl IntegerNetwork {
    /// The scores that masked evaluations of these inputs (one per column) may give.
    ///
    /// Cost: the products of the network for each input, in `f64`; parallel over inputs.
    ///
    /// # Errors
    /// As [`IntegerNetwork::evaluate_masked`].
    ///
    /// # Source
    /// Own derivation, docs/soundness.md, from W. Hoeffding, "Probability inequalities for sums of
    /// bounded random variables", 1963, and K. Azuma, "Weighted sums of certain dependent random
    /// variables", 1967.
    pub fn masked_scores(&self, inputs: &IntegerMatrix) -> Result<MaskedScores> {
        let proven = self.masked_ranges()?;
        check_inputs(inputs, &vec![self.input().interval(); self.n_inputs()])?;
        let columns: Vec<Vec<Interval>> = (0..inputs.ncols())
            .into_par_iter()
            .map(|sample| self.scores_of(&proven, inputs.column(sample)))
            .collect();
        let mut ranges = Array2::from_elem((self.n_scores(), inputs.ncols()), Interval::point(0));
        for (mut column, found) in ranges.columns_mut().into_iter().zip(columns) {
            column.iter_mut().zip(found).for_each(|(place, range)| *place = range);
        }
        let per_input: usize = self.structure().iter().map(|stage| stage.linear.n_outputs()).sum();
        Ok(MaskedScores { ranges, n_bounds: per_input as u64 * inputs.ncols() as u64 })
    }

    fn scores_of(&self, proven: &[MaskedStage], input: ArrayView1<'_, i32>) -> Vec<Interval> {
        let numbered = input.iter().enumerate();
        let inputs: Vec<Known> = numbered.map(|(i, &x)| Known::exact(i, x.into())).collect();
        let mut n_known = inputs.len();
        let mut refreshed: Vec<Vec<Known>> = Vec::new();
        let mut scores = Vec::new();
        let stages = self.structure().iter().zip(self.weights()).zip(proven);
        for ((shape, numbers), found) in stages {
            let mut read = Vec::with_capacity(shape.n_inputs());
            for source in &shape.sources {
                read.extend_from_slice(match *source {
                    ValueRef::Input => &inputs,
                    ValueRef::Stage(stage) => {
                        refreshed.get(stage as usize).map_or(&[][..], Vec::as_slice)
                    }
                });
            }
            let values = stage_ranges(shape, numbers, &read);
            match &shape.refresh {
                None => scores = values.into_iter().map(Range::integers).collect(),
                Some(refresh) => {
                    let n_channels = shape.n_channels();
                    let known = values.into_iter().enumerate().map(|(output, range)| {
                        let identity = n_known + output;
                        Known::refreshed(identity, refresh, output % n_channels, range, found)
                    });
                    let known: Vec<Known> = known.collect();
                    n_known += known.len();
                    refreshed.push(known);
                }
            }
        }
        scores
    }
}

/// Linear map, quadratic and pool.
fn stage_ranges(shape: &StageStructure, numbers: &StageWeights, inputs: &[Known]) -> Vec<Range> {
    let n_channels = shape.n_channels();
    let n_identities = inputs.iter().map(|known| known.identity + 1).max().unwrap_or(0);
    let mut sums = vec![0.0; n_identities];
    let linear: Vec<Range> = (0..shape.linear.n_outputs())
        .map(|output| {
            let range = linear_range(shape, numbers, inputs, &mut sums, output);
            match &numbers.quadratic {
                Some(quadratic) => {
                    let (a, b, c) = quadratic.coefficients(output % n_channels);
                    range.quadratic(f64::from(a), to_f64(b), to_f64(c))
                }
                None => range,
            }
        })
        .collect();
    let Some(pool) = &shape.pool else { return linear };
    (0..shape.n_outputs())
        .map(|output| {
            let mut sum = Range { low: 0.0, high: 0.0 };
            pool.for_each_term(output, |term| {
                let Some(range) = linear.get(term) else { return };
                sum = Range { low: sum.low + range.low, high: sum.high + range.high };
            });
            sum.rounded(sum.low.abs().max(sum.high.abs()))
        })
        .collect()
}

fn linear_range(
    shape: &StageStructure,
    numbers: &StageWeights,
    inputs: &[Known],
    sums: &mut [f64],
    output: usize,
) -> Range {
    let bias = to_f64(numbers.bias_of(output, shape.n_channels()));
    let (mut mean, mut hard) = (Range { low: bias, high: bias }, Range { low: bias, high: bias });
    let (mut squares, mut total) = (0.0, bias.abs());
    shape.linear.for_each_tap(output, |input, weight| {
        let (Some(known), Some(&w)) = (inputs.get(input), numbers.weights.get(weight)) else {
            return;
        };
        let w = f64::from(w);
        mean.add_scaled(known.mean, w);
        hard.add_scaled(known.hard, w);
        if let Some(sum) = sums.get_mut(known.identity) {
            let before = *sum;
            *sum += w * known.spread;
            squares += sum.powi(2) - before.powi(2);
        }
        total += w.abs() * known.hard.low.abs().max(known.hard.high.abs());
    });
    // The same taps again: every sum back to zero.
    shape.linear.for_each_tap(output, |input, _| {
        let place = inputs.get(input).and_then(|known| sums.get_mut(known.identity));
        place.into_iter().for_each(|sum| *sum = 0.0);
    });
    let probable = (f64::from(TOLERANCE_BITS + 1) * std::f64::consts::LN_2 / 2.0 * squares).sqrt();
    let probable = Range { low: mean.low - probable, high: mean.high + probable };
    let both = Range { low: probable.low.max(hard.low), high: probable.high.min(hard.high) };
    both.rounded(total)
}

impl Known {
    fn exact(identity: usize, x: i64) -> Self {
        let x = to_f64(x);
        let point = Range { low: x, high: x };
        Self { identity, mean: point, hard: point, spread: 0.0 }
    }

    fn refreshed(
        identity: usize,
        refresh: &Refresh,
        channel: usize,
        range: Range,
        found: &MaskedStage,
    ) -> Self {
        let factor = to_f64(refresh.multiplier(channel)) / f64::from(refresh.shift).exp2();
        let ends = [range.low * factor, range.high * factor];
        let (low, high) = (ends[0].min(ends[1]), ends[0].max(ends[1]));
        // Rounding half up takes x to at least x − ½ and at most x + ½; the mask may add one.
        let size = low.abs().max(high.abs());
        let hard = Range { low: low - 0.5, high: high + 1.5 }.rounded(size);
        if found.is_unbiased(refresh, channel) {
            let mean = Range { low: low + 0.5, high: high + 0.5 }.rounded(size);
            Self { identity, mean, hard, spread: 1.0 }
        } else {
            Self { identity, mean: hard, hard, spread: 0.0 }
        }
    }
}

impl Range {
    fn add_scaled(&mut self, other: Self, w: f64) {
        let (low, high) = (w * other.low, w * other.high);
        self.low += low.min(high);
        self.high += low.max(high);
    }

    /// `a z² + b z + c` over the real numbers of the interval.
    fn quadratic(self, a: f64, b: f64, c: f64) -> Self {
        let at = |z: f64| (a * z + b) * z + c;
        let vertex = if a == 0.0 { self.low } else { (-b / (2.0 * a)).clamp(self.low, self.high) };
        let values = [at(self.low), at(self.high), at(vertex)];
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let z = self.low.abs().max(self.high.abs());
        Self { low, high }.rounded(a.abs() * z * z + b.abs() * z + c.abs())
    }

    /// Widened by what sums of this size may lose by rounding.
    fn rounded(self, size: f64) -> Self {
        let slack = ROUNDING * size;
        Self { low: self.low - slack, high: self.high + slack }
    }

    /// The integers of the interval, cut to `±2^62`.
    #[expect(clippy::cast_possible_truncation, reason = "casts of floats saturate")]
    fn integers(self) -> Interval {
        const LIMIT: i64 = crate::integer::MAX_MAGNITUDE;
        let narrow = |x: f64| (x as i64).clamp(-LIMIT, LIMIT);
        Interval { low: narrow(self.low.floor()), high: narrow(self.high.ceil()) }
    }
}

#[expect(clippy::cast_precision_loss, reason = "every use is widened by more than it loses")]
fn to_f64(v: i64) -> f64 {
    v as f64
}
