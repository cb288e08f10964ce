//! The scores that count: of the deployed network, at the inputs the endpoint receives.

use ndarray::{Array2, ArrayView1};
use nn_poly::Network;
use nn_poly::integer::IntegerNetwork;

use crate::error::Result;
use crate::sensitivity::top_classes;

/// Scores of network inputs, one row per input.
pub(super) trait Scorer: Sync {
    fn scores(&self, inputs: &Array2<f32>) -> Result<Array2<f64>>;
}

/// A float network in double precision.
pub(super) struct FloatScorer<'a>(pub(super) &'a Network<f64>);

impl Scorer for FloatScorer<'_> {
    fn scores(&self, inputs: &Array2<f32>) -> Result<Array2<f64>> {
        Ok(self.0.outputs(&inputs.mapv(f64::from))?)
    }
}

/// An integer network, exactly. Scores stay below 2^53 in practice; larger ones are rounded.
pub(super) struct IntegerScorer<'a>(pub(super) &'a IntegerNetwork);

impl Scorer for IntegerScorer<'_> {
    #[expect(clippy::cast_precision_loss, reason = "only compared, and rounding is monotone")]
    fn scores(&self, inputs: &Array2<f32>) -> Result<Array2<f64>> {
        let quantized = self.0.input().quantize(inputs.view())?;
        let evaluation = self.0.evaluate(&quantized)?;
        Ok(evaluation.scores.t().mapv(|score| score as f64))
    }
}

/// What the order of one row of scores says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ranking {
    /// The `k` classes of the largest scores, largest first, the lower of equals first.
    pub(super) classes: Vec<usize>,
    /// Their scores.
    pub(super) scores: Vec<f64>,
    /// `z₁ − z₂`.
    pub(super) margin: f64,
    /// `z₁ − z_k`.
    pub(super) spread: f64,
    /// `max|z|`.
    pub(super) largest: f64,
}

impl Ranking {
    pub(super) fn new(scores: ArrayView1<'_, f64>, k: usize) -> Self {
        let all = scores.to_vec();
        let classes = top_classes(&all, k.max(2));
        let top: Vec<f64> = classes.iter().filter_map(|&class| all.get(class)).copied().collect();
        let at = |position: usize| top.get(position).copied().unwrap_or(f64::NEG_INFINITY);
        let margin = at(0) - at(1);
        let spread = at(0) - top.last().copied().unwrap_or_default();
        let largest = all.iter().fold(0.0_f64, |largest, z| z.abs().max(largest));
        Self { classes, scores: top, margin, spread, largest }
    }

    /// How many of the classes, at least 2, are within `share · max|z|` of the largest score.
    pub(super) fn n_within(&self, share: f64) -> usize {
        let first = self.scores.first().copied().unwrap_or_default();
        self.scores.iter().filter(|&z| first - z <= share * self.largest).count().max(2)
    }

    /// `(z₁ − z₂)/max|z|`; 0 if all scores are 0.
    pub(super) fn relative_margin(&self) -> f64 {
        if self.largest > 0.0 { self.margin / self.largest } else { 0.0 }
    }

    /// Smaller is better: the spread, after the wanted margin is kept.
    pub(super) fn badness(&self, min_relative_margin: f64) -> f64 {
        let missing = min_relative_margin * self.largest - self.margin;
        if missing > 0.0 { self.spread + MISSING_MARGIN_WEIGHT * missing } else { self.spread }
    }
}

/// A missing margin outweighs any spread.
const MISSING_MARGIN_WEIGHT: f64 = 1e6;
