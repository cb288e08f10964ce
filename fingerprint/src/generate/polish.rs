//! Moves on the input grid that bring tied scores closer together after rounding.
//!
//! Rounding to 8 bits moves scores apart by more than subtle tampering does. One step of one input
//! moves the tied scores by the corresponding column of their Jacobian, which is known; what is wanted
//! is a small set of steps whose columns add up to minus the present differences. That is a closest
//! vector problem; a randomized greedy search over many candidate sets, judged by the linear
//! prediction, and an exact evaluation of the few most promising ones solve it well enough.

use ndarray::{Array2, Axis};
use nn_poly::Network;
use nn_poly::autodiff::Linearization;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::scoring::{Ranking, Scorer};
use crate::error::Result;
use crate::sample::InputGrid;

/// Candidate sets per round.
const N_CANDIDATES: usize = 96;
/// Most steps in one set.
const MAX_MOVES: usize = 10;
/// Rounds without gain before giving up.
const MAX_IDLE_ROUNDS: u32 = 3;

/// A polisher of samples of one network.
pub(super) struct Polisher<'a> {
    /// What decides.
    pub(super) scorer: &'a dyn Scorer,
    /// A smooth network close to it, for predictions.
    pub(super) surrogate: &'a Network<f32>,
    /// Units of the scorer per unit of the surrogate's scores.
    pub(super) scale: f64,
    /// What single steps are taken on.
    pub(super) grid: &'a InputGrid,
    pub(super) n_tied: usize,
    pub(super) min_relative_margin: f64,
    /// How well the surrogate predicts.
    pub(super) prediction: Prediction,
}

/// How well a smooth network predicts the scores that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prediction {
    /// To second order: nothing is rounded in between.
    Good,
    /// Up to rounding between layers, which moves scores by more than one step of one input.
    Coarse,
}

impl Prediction {
    /// Scores further than this share of `max|z|` below the largest are not tied with it: bringing
    /// them closer on the grid would cost the ties there are.
    fn reach(self) -> f64 {
        match self {
            Self::Good => 0.05,
            Self::Coarse => 0.3,
        }
    }

    /// Candidates evaluated exactly in a round.
    fn n_verified(self) -> usize {
        match self {
            Self::Good => 6,
            Self::Coarse => 48,
        }
    }
}

/// When a polisher stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// After so many rounds, or when nothing more is gained.
    Rounds(u32),
    /// As soon as the margin is large enough, or after so many rounds.
    Margin(u32),
}

impl Polisher<'_> {
    /// Scores of one sample, with as many tied classes as are within reach of one another.
    pub(super) fn rank(&self, grid: &InputGrid, levels: &[u32]) -> Result<Ranking> {
        let batch = Array2::from_shape_vec((1, levels.len()), levels.to_vec());
        let batch = batch.expect("invariant: one row of all levels");
        let scores = self.scorer.scores(&grid.values(batch.view()))?;
        let scores = scores.index_axis(Axis(0), 0);
        Ok(Ranking::new(
            scores,
            Ranking::new(scores, self.n_tied).n_within(self.prediction.reach()),
        ))
    }

    /// Move `levels` by single steps while that lowers `z₁ − z_k` without losing the margin.
    pub(super) fn polish(
        &self,
        levels: &mut Vec<u32>,
        until: Until,
        is_allowed: impl Fn(&[u32]) -> bool,
        rng: &mut ChaCha8Rng,
    ) -> Result<Ranking> {
        let mut ranking = self.rank(self.grid, levels)?;
        let mut idle = 0;
        let (Until::Rounds(max_rounds) | Until::Margin(max_rounds)) = until;
        for _ in 0..max_rounds {
            let need = self.min_relative_margin * ranking.largest;
            let is_done = match until {
                Until::Rounds(_) => ranking.margin >= need && ranking.spread <= 2.0 * need,
                Until::Margin(_) => ranking.margin >= need,
            };
            if is_done || idle >= MAX_IDLE_ROUNDS {
                break;
            }
            let columns = self.columns(levels, &ranking)?;
            let mut candidates = self.candidates(&columns, levels, &ranking, rng);
            candidates.retain(|(_, moved)| is_allowed(moved));
            candidates.sort_by(|(a, _), (b, _)| a.total_cmp(b));
            candidates.truncate(self.prediction.n_verified());
            match self.best_of(candidates, &ranking)? {
                Some((moved, reached)) => {
                    (*levels, ranking, idle) = (moved, reached, 0);
                }
                None => idle += 1,
            }
        }
        Ok(ranking)
    }

    /// Columns of the tied scores' Jacobian, one row per input: the change by one step up.
    fn columns(&self, levels: &[u32], ranking: &Ranking) -> Result<Array2<f64>> {
        let x = levels.iter().enumerate().map(|(i, &level)| single(self.grid.value(i, level)));
        let x: ndarray::Array1<f32> = x.collect();
        let point = Linearization::new(self.surrogate, x.view())?;
        let mut rows = Array2::zeros((ranking.classes.len(), point.output().len()));
        for (mut row, &class) in rows.rows_mut().into_iter().zip(&ranking.classes) {
            if let Some(entry) = row.get_mut(class) {
                *entry = 1.0;
            }
        }
        let jacobian = point.input_gradients(rows)?;
        let mut columns = jacobian.t().mapv(f64::from).as_standard_layout().into_owned();
        for (i, mut column) in columns.rows_mut().into_iter().enumerate() {
            column *= self.grid.step(i) * self.scale;
        }
        Ok(columns)
    }

    /// Sets of steps with the badness predicted for each.
    fn candidates(
        &self,
        columns: &Array2<f64>,
        levels: &[u32],
        ranking: &Ranking,
        rng: &mut ChaCha8Rng,
    ) -> Vec<(f64, Vec<u32>)> {
        let centered = centered(columns);
        let norms: Vec<f64> =
            centered.rows().into_iter().map(|column| column.dot(&column)).collect();
        let mut found = Vec::with_capacity(N_CANDIDATES);
        for _ in 0..N_CANDIDATES {
            let n_moves = rng.random_range(1..=MAX_MOVES);
            let mut search = GreedySearch {
                grid: self.grid,
                centered: &centered,
                norms: &norms,
                levels: levels.to_vec(),
                is_moved: vec![false; levels.len()],
                scores: ranking.scores.clone(),
            };
            for _ in 0..n_moves {
                if !search.step(columns, rng) {
                    break;
                }
            }
            let badness = predicted_badness(&search.scores, self.min_relative_margin, ranking);
            found.push((badness, search.levels));
        }
        found
    }

    /// The best candidate by exact scores, if it is better than what there is.
    fn best_of(
        &self,
        candidates: Vec<(f64, Vec<u32>)>,
        ranking: &Ranking,
    ) -> Result<Option<(Vec<u32>, Ranking)>> {
        let n_inputs = candidates.first().map_or(0, |(_, levels)| levels.len());
        if candidates.is_empty() {
            return Ok(None);
        }
        let flat: Vec<u32> = candidates.iter().flat_map(|(_, levels)| levels).copied().collect();
        let batch = Array2::from_shape_vec((candidates.len(), n_inputs), flat);
        let batch = batch.expect("invariant: all candidates have one level per input");
        let scores = self.scorer.scores(&self.grid.values(batch.view()))?;
        let mut best = ranking.badness(self.min_relative_margin);
        let mut found = None;
        for ((_, levels), scores) in candidates.into_iter().zip(scores.rows()) {
            let reached = Ranking::new(scores, ranking.classes.len());
            let badness = reached.badness(self.min_relative_margin);
            if badness < best {
                best = badness;
                found = Some((levels, reached));
            }
        }
        Ok(found)
    }
}

/// One greedy choice of steps.
struct GreedySearch<'a> {
    grid: &'a InputGrid,
    /// Columns without their mean over the tied scores: a common shift changes no difference.
    centered: &'a Array2<f64>,
    norms: &'a [f64],
    levels: Vec<u32>,
    is_moved: Vec<bool>,
    /// Predicted scores of the tied classes.
    scores: Vec<f64>,
}

impl GreedySearch<'_> {
    /// Take the step, among a third of the inputs drawn at random, after which the tied scores differ least.
    fn step(&mut self, columns: &Array2<f64>, rng: &mut ChaCha8Rng) -> bool {
        let n: f64 = self.scores.iter().map(|_| 1.0).sum();
        let mean = self.scores.iter().sum::<f64>() / n;
        let differences: ndarray::Array1<f64> = self.scores.iter().map(|z| z - mean).collect();
        let mut best = (0.0, None);
        for _ in 0..self.levels.len().div_ceil(3) {
            let i = rng.random_range(0..self.levels.len());
            if self.is_moved.get(i) != Some(&false) {
                continue;
            }
            let (Some(&level), Some(&norm)) = (self.levels.get(i), self.norms.get(i)) else {
                continue;
            };
            let slope = 2.0 * differences.dot(&self.centered.index_axis(Axis(0), i));
            let (gain, up) = (norm - slope.abs(), slope < 0.0);
            let is_possible = if up { level < self.grid.n_steps() } else { level > 0 };
            if is_possible && gain < best.0 {
                best = (gain, Some((i, up)));
            }
        }
        let Some((i, up)) = best.1 else { return false };
        let sign = if up { 1.0 } else { -1.0 };
        for (score, change) in self.scores.iter_mut().zip(columns.index_axis(Axis(0), i)) {
            *score += sign * change;
        }
        if let (Some(level), Some(is_moved)) = (self.levels.get_mut(i), self.is_moved.get_mut(i)) {
            *level = if up { *level + 1 } else { *level - 1 };
            *is_moved = true;
        }
        true
    }
}

fn centered(columns: &Array2<f64>) -> Array2<f64> {
    let mut centered = columns.clone();
    for mut column in centered.rows_mut() {
        let mean = column.mean().unwrap_or_default();
        column -= mean;
    }
    centered
}

/// The badness of tied scores that were predicted; the rest is as it was.
fn predicted_badness(scores: &[f64], min_relative_margin: f64, before: &Ranking) -> f64 {
    let mut sorted = scores.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let at = |position: usize| sorted.get(position).copied().unwrap_or_default();
    let predicted = Ranking {
        classes: Vec::new(),
        margin: at(0) - at(1),
        spread: at(0) - at(sorted.len().saturating_sub(1)),
        largest: before.largest,
        scores: Vec::new(),
    };
    predicted.badness(min_relative_margin)
}

#[expect(clippy::cast_possible_truncation, reason = "rounds to nearest")]
fn single(value: f64) -> f32 {
    value as f32
}
