//! Which class is ahead of which, and when an answer contradicts the order of the reference.

use ndarray::{Array2, ArrayView1};

use super::{PROBABILITY_ERROR, float_error, resolution};
use crate::endpoint::{Answers, ScoreKind};

/// Rounded scores are compared in units of their last decimal; 1.5 stands between one unit, which
/// rounding to a sum of 1 may move a score by, and two.
const UNITS_OF_ROUNDING: f64 = 1.5;

/// The order of the classes of each sample, up to differences that are no evidence.
pub(super) enum Order<'a> {
    /// Scores and, per sample, the largest difference that is none.
    Floats { values: &'a Array2<f64>, slack: Vec<f64> },
    /// Exact scores.
    Integers(&'a Array2<i64>),
}

impl<'a> Order<'a> {
    /// The order of the true model's scores: differences count above the error of 32-bit floats.
    pub(super) fn of_reference(reference: &'a Answers) -> Option<Self> {
        match reference {
            Answers::Labels(_) | Answers::Ranked(_) => None,
            Answers::Scores { values, kind } => {
                let slack = |row: ArrayView1<'_, f64>| match kind {
                    ScoreKind::Logits => 2.0 * float_error(row),
                    ScoreKind::Probabilities => PROBABILITY_ERROR,
                };
                Some(Self::Floats { values, slack: values.rows().into_iter().map(slack).collect() })
            }
            Answers::Integers(values) => Some(Self::Integers(values)),
        }
    }

    /// The order of an endpoint's scores, rounded to so many decimals.
    pub(super) fn of_answers(answers: &'a Answers, decimals: Option<u32>) -> Option<Self> {
        match answers {
            Answers::Labels(_) | Answers::Ranked(_) => None,
            Answers::Scores { values, .. } => {
                let slack = vec![UNITS_OF_ROUNDING * resolution(decimals); values.nrows()];
                Some(Self::Floats { values, slack })
            }
            Answers::Integers(values) => Some(Self::Integers(values)),
        }
    }

    pub(super) fn n_classes(&self) -> usize {
        match self {
            Self::Floats { values, .. } => values.ncols(),
            Self::Integers(values) => values.ncols(),
        }
    }

    /// Whether `class` is ahead of `other` for good. No for classes that do not exist.
    fn is_ahead(&self, sample: usize, class: usize, other: usize) -> bool {
        fn pair<T: Copy>(
            values: &Array2<T>,
            a: (usize, usize),
            b: (usize, usize),
        ) -> Option<[T; 2]> {
            Some([*values.get(a)?, *values.get(b)?])
        }
        let (class, other) = ((sample, class), (sample, other));
        match self {
            Self::Floats { values, slack } => {
                let slack = slack.get(sample).copied().unwrap_or(f64::INFINITY);
                pair(values, class, other).is_some_and(|[a, b]| a - b > slack)
            }
            Self::Integers(values) => pair(values, class, other).is_some_and(|[a, b]| a > b),
        }
    }
}

/// Whether any class that `ranked` puts behind another one (or leaves out) is ahead of it.
///
/// `is_ahead(class, other)` is asked for classes below `n_classes`. Cost: `k · n_classes`.
pub(super) fn is_contradicted(
    ranked: ArrayView1<'_, u32>,
    n_classes: usize,
    is_ahead: impl Fn(usize, usize) -> bool,
) -> bool {
    let mut place = vec![usize::MAX; n_classes];
    for (rank, &class) in ranked.iter().enumerate() {
        if let Some(place) = place.get_mut(class as usize) {
            *place = rank;
        }
    }
    ranked.iter().enumerate().any(|(rank, &class)| {
        let behind = place.iter().enumerate().filter(|&(_, &place)| place > rank);
        behind.into_iter().any(|(other, _)| is_ahead(other, class as usize))
    })
}

/// Whether scores contradict the ranks that the true model gives to a sample.
///
/// A class ahead of one ranked before it counts only if the true scores, where known, tell the two
/// apart.
pub(super) fn scores_contradict(
    ranked: ArrayView1<'_, u32>,
    sample: usize,
    scores: &Order<'_>,
    reference: Option<&Order<'_>>,
) -> bool {
    is_contradicted(ranked, scores.n_classes(), |class, other| {
        scores.is_ahead(sample, class, other)
            && reference.is_none_or(|reference| reference.is_ahead(sample, other, class))
    })
}

/// Whether the true scores contradict the ranks an endpoint gives.
pub(super) fn ranks_contradict(
    ranked: ArrayView1<'_, u32>,
    sample: usize,
    reference: &Order<'_>,
) -> bool {
    let n_classes = reference.n_classes();
    ranked.iter().any(|&class| class as usize >= n_classes)
        || is_contradicted(ranked, n_classes, |class, other| {
            reference.is_ahead(sample, class, other)
        })
}
