//! What endpoints answer, from bare labels to exact integers.

use core::cmp::Ordering;
use core::fmt;

use ndarray::{Array2, ArrayView1, Axis};
use serde::{Deserialize, Serialize};

/// Most decimals that are taken for rounding; see [`Answers::decimals`].
pub const MAX_INFERRED_DECIMALS: u32 = 6;

/// Relative error of a decimal number in 32 bits, twice.
const F32_ERROR: f64 = 1.2e-7;
/// Largest distance from a whole number that is put down to it: above, everything would look rounded.
const MAX_F32_ERROR: f64 = 0.02;

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

    /// To how many decimals scores are rounded: the smallest `n` up to [`MAX_INFERRED_DECIMALS`] for
    /// which all of them are multiples of `10^-n`, up to the error of 32-bit floats. `None` if there is
    /// no such `n`, and for answers that are not real numbers.
    ///
    /// Inferred from what was seen: few answers may have fewer decimals than the service gives.
    #[must_use]
    pub fn decimals(&self) -> Option<u32> {
        match self {
            Self::Labels(_) | Self::Ranked(_) | Self::Integers(_) => None,
            Self::Scores { values, .. } => (0..=MAX_INFERRED_DECIMALS).find(|&n| {
                let per_unit = 1.0 / decimal_unit(n);
                values.iter().all(|value| is_whole(value * per_unit))
            }),
        }
    }

    /// Whether the score of `class` is above every other one of that input; `None` if there are no
    /// scores, or no such class.
    #[must_use]
    pub fn is_alone_ahead(&self, sample: usize, class: u32) -> Option<bool> {
        fn alone<T: PartialOrd>(values: &Array2<T>, at: (usize, usize)) -> Option<bool> {
            let own = values.get(at)?;
            let others = values.row(at.0).into_iter().enumerate();
            Some(others.filter(|&(class, _)| class != at.1).all(|(_, other)| other < own))
        }
        let at = (sample, class as usize);
        match self {
            Self::Labels(_) | Self::Ranked(_) => None,
            Self::Scores { values, .. } => alone(values, at),
            Self::Integers(values) => alone(values, at),
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

/// `10^-n`.
pub(crate) fn decimal_unit(n: u32) -> f64 {
    0.1_f64.powi(n.try_into().unwrap_or(i32::MAX))
}

/// Whether a number is whole but for the error of a decimal kept in a 32-bit float.
fn is_whole(x: f64) -> bool {
    (x - x.round()).abs() <= 1e-9 + (F32_ERROR * x.abs()).min(MAX_F32_ERROR)
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
    fn the_number_of_decimals_is_inferred_also_from_single_precision() {
        let scores = |values: Array2<f64>| Answers::Scores { values, kind: ScoreKind::Logits };
        for n in 1..=MAX_INFERRED_DECIMALS {
            let per_unit = 10_f64.powi(i32::try_from(n).unwrap());
            let raw = array![[0.123_456_789, 0.770_000_1], [0.1, -3.333_333_3]];
            let rounded = raw.mapv(|x: f64| (x * per_unit).round() / per_unit);
            assert_eq!(scores(rounded.clone()).decimals(), Some(n));
            #[expect(clippy::cast_possible_truncation, reason = "single precision is the point")]
            let single = rounded.mapv(|x| f64::from(x as f32));
            assert_eq!(scores(single).decimals(), Some(n));
            assert_eq!(scores(raw).decimals(), None);
        }
        assert_eq!(scores(array![[3.0, -120.0]]).decimals(), Some(0));
        assert_eq!(scores(array![[12_345.678_912_3, 1.0]]).decimals(), None);
        assert_eq!(Answers::Integers(array![[3, 4]]).decimals(), None);
        assert_eq!(Answers::Labels(vec![1]).decimals(), None);
    }

    #[test]
    fn a_tie_has_nobody_alone_ahead() {
        let answers = Answers::Integers(array![[1, 5, 5], [1, 5, 4]]);
        let ahead = |sample, class| answers.is_alone_ahead(sample, class);
        assert_eq!([ahead(0, 1), ahead(1, 1), ahead(1, 2)], [Some(false), Some(true), Some(false)]);
        assert_eq!([ahead(2, 1), ahead(0, 3)], [None, None]);
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
