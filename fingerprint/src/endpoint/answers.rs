//! What endpoints answer, from bare labels to exact integers.

use core::cmp::Ordering;
use core::fmt;

use ndarray::{Array2, ArrayView1, Axis};
use serde::{Deserialize, Serialize};

/// What the numbers of [`Answers::Scores`] are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ScoreKind {
    /// Outputs of the last linear map; softmax makes probabilities of them.
    Logits,
    /// Non-negative numbers that sum to about 1.
    Probabilities,
}

/// The answers to some inputs, one row (or entry) per input, in the order of the inputs.
///
/// Variants are ordered by what they tell: every one can be reduced to the ones above it, but
/// integers, whose scale is not known, have no probabilities.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Answers {
    /// The best class.
    Labels(Vec<u32>),
    /// `(samples, k)`: the best `k` classes, best first.
    Ranked(Array2<u32>),
    /// `(samples, classes)`: one score per class.
    Scores {
        /// The scores.
        values: Array2<f64>,
        /// What they are.
        kind: ScoreKind,
    },
    /// `(samples, classes)`: exact integer scores.
    Integers(Array2<i64>),
}

/// Names for messages.
impl fmt::Display for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Labels(_) => f.write_str("labels"),
            Self::Ranked(ranks) => write!(f, "the best {} classes", ranks.ncols()),
            Self::Scores { kind: ScoreKind::Logits, .. } => f.write_str("scores"),
            Self::Scores { kind: ScoreKind::Probabilities, .. } => f.write_str("probabilities"),
            Self::Integers(_) => f.write_str("exact integers"),
        }
    }
}

impl Answers {
    /// Number of inputs answered.
    #[must_use]
    pub fn n_samples(&self) -> usize {
        match self {
            Self::Labels(labels) => labels.len(),
            Self::Ranked(ranks) => ranks.nrows(),
            Self::Scores { values, .. } => values.nrows(),
            Self::Integers(values) => values.nrows(),
        }
    }

    /// The best class of every input; the first of equals.
    #[must_use]
    pub fn labels(&self) -> Vec<u32> {
        match self {
            Self::Labels(labels) => labels.clone(),
            Self::Ranked(_) | Self::Scores { .. } | Self::Integers(_) => {
                self.ranked(1).map(|ranks| ranks.iter().copied().collect()).unwrap_or_default()
            }
        }
    }

    /// `(samples, k)`: the best `k` classes of every input, best first, the first of equals before
    /// the others. `None` if the answers do not tell that many.
    #[must_use]
    pub fn ranked(&self, k: usize) -> Option<Array2<u32>> {
        match self {
            Self::Labels(labels) if k == 1 => {
                Array2::from_shape_vec((labels.len(), 1), labels.clone()).ok()
            }
            Self::Labels(_) => None,
            Self::Ranked(ranks) => {
                (k <= ranks.ncols()).then(|| ranks.slice_axis(Axis(1), (..k).into()).to_owned())
            }
            Self::Scores { values, .. } => rank(values, k, f64::total_cmp),
            Self::Integers(values) => rank(values, k, i64::cmp),
        }
    }

    /// `(samples, classes)`: the probability of every class, by softmax where scores are logits.
    /// `None` if the answers do not tell.
    #[must_use]
    pub fn probabilities(&self) -> Option<Array2<f64>> {
        match self {
            Self::Labels(_) | Self::Ranked(_) | Self::Integers(_) => None,
            Self::Scores { values, kind: ScoreKind::Probabilities } => Some(values.clone()),
            Self::Scores { values, kind: ScoreKind::Logits } => Some(softmax(values)),
        }
    }

    /// The first input with a score that is NaN or infinite.
    #[must_use]
    pub fn first_not_finite(&self) -> Option<usize> {
        match self {
            Self::Labels(_) | Self::Ranked(_) | Self::Integers(_) => None,
            Self::Scores { values, .. } => {
                values.rows().into_iter().position(|row| row.iter().any(|x| !x.is_finite()))
            }
        }
    }

    /// The answers at `positions`, in that order. Positions past the end are left out.
    #[must_use]
    pub fn select(&self, positions: &[usize]) -> Self {
        let known: Vec<usize> =
            positions.iter().copied().filter(|&p| p < self.n_samples()).collect();
        match self {
            Self::Labels(labels) => {
                Self::Labels(known.iter().filter_map(|&p| labels.get(p).copied()).collect())
            }
            Self::Ranked(ranks) => Self::Ranked(ranks.select(Axis(0), &known)),
            Self::Scores { values, kind } => {
                Self::Scores { values: values.select(Axis(0), &known), kind: *kind }
            }
            Self::Integers(values) => Self::Integers(values.select(Axis(0), &known)),
        }
    }
}

/// Row by row `exp(z − max) / Σ exp(z − max)`.
fn softmax(logits: &Array2<f64>) -> Array2<f64> {
    let mut out = logits.clone();
    for mut row in out.rows_mut() {
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        row.mapv_inplace(|z| (z - largest).exp());
        let sum = row.sum();
        row.mapv_inplace(|e| e / sum);
    }
    out
}

fn rank<T: Copy>(
    values: &Array2<T>,
    k: usize,
    order: impl Fn(&T, &T) -> Ordering,
) -> Option<Array2<u32>> {
    if k > values.ncols() {
        return None;
    }
    let mut ranks = Array2::zeros((values.nrows(), k));
    for (row, mut out) in values.rows().into_iter().zip(ranks.rows_mut()) {
        for (target, class) in out.iter_mut().zip(best_first(row, &order)) {
            *target = class;
        }
    }
    Some(ranks)
}

/// Classes by falling score; equal scores by rising class.
fn best_first<T: Copy>(row: ArrayView1<'_, T>, order: impl Fn(&T, &T) -> Ordering) -> Vec<u32> {
    let mut classes: Vec<(u32, T)> = (0_u32..).zip(row.iter().copied()).collect();
    classes.sort_by(|(_, a), (_, b)| order(b, a));
    classes.into_iter().map(|(class, _)| class).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use ndarray::array;

    use super::*;

    #[test]
    fn ties_go_to_the_first_class_in_every_form() {
        let floats =
            Answers::Scores { values: array![[1.0, 3.0, 3.0, -0.0]], kind: ScoreKind::Logits };
        let integers = Answers::Integers(array![[1, 3, 3, 0]]);
        for answers in [floats, integers] {
            assert_eq!(answers.labels(), [1]);
            assert_eq!(answers.ranked(4).unwrap(), array![[1, 2, 0, 3]]);
            assert_eq!(answers.ranked(5), None);
        }
    }

    #[test]
    fn labels_and_ranks_tell_no_more_than_they_hold() {
        let labels = Answers::Labels(vec![4, 2]);
        assert_eq!(labels.ranked(1).unwrap(), array![[4], [2]]);
        assert_eq!(labels.ranked(2), None);
        assert_eq!(labels.probabilities(), None);
        let ranks = Answers::Ranked(array![[4, 1], [2, 0]]);
        assert_eq!(ranks.labels(), [4, 2]);
        assert_eq!(ranks.ranked(3), None);
    }

    #[test]
    fn probabilities_of_large_logits_are_finite() {
        let p = softmax(&array![[1e4, 1e4, -1e4]]);
        assert_eq!(p, array![[0.5, 0.5, 0.0]]);
    }

    #[test]
    fn selection_keeps_order_and_skips_what_is_not_there() {
        let answers = Answers::Labels(vec![7, 8, 9]);
        assert_eq!(answers.select(&[2, 0, 5]), Answers::Labels(vec![9, 7]));
    }

    #[test]
    fn missing_numbers_are_found() {
        let answers = Answers::Scores {
            values: array![[0.0, 1.0], [f64::NAN, 0.0]],
            kind: ScoreKind::Probabilities,
        };
        assert_eq!(answers.first_not_finite(), Some(1));
    }
}
