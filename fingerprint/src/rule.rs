//! When two answers to the same input count as different.
//!
//! | rule | needs | differs if |
//! |---|---|---|
//! | `top-1` | labels | the best class is another one |
//! | `top-k` | `k` ranks | the ordered list of the best `k` classes is another one |
//! | `decimals-n` | probabilities | a probability, rounded to `n` decimals, is another one |
//! | `exact` | scores | any score has another value |
//! | `tolerance-r` | scores | a score is further off than `r` times the largest of the reference |
//!
//! The more an endpoint tells, the more a single sample detects: exact scores of ordinary inputs
//! beat every rule on labels. Exact rules suit endpoints that compute in integers; where sums may be
//! taken in another order, the last bits of a score are no evidence.

use core::fmt;
use core::str::FromStr;

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use crate::endpoint::{Answers, ScoreKind};
use crate::error::{Error, Result};

/// Most decimals of [`ComparisonRule::Decimals`]: beyond that floats of 32 bits hold noise.
pub const MAX_DECIMALS: u32 = 6;

/// Most ranks of [`ComparisonRule::TopK`].
pub const MAX_RANKS: usize = 4096;

/// Error of a probability computed by an honest endpoint in 32-bit floats, with room to spare.
const FLOAT_ERROR: f64 = 1e-6;

/// How answers are compared; see the [module](self).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum ComparisonRule {
    /// The best class.
    Top1,
    /// The best so many classes, in order.
    TopK(usize),
    /// All probabilities, rounded to so many decimals.
    ///
    /// An answer agrees if it can come from rounding the reference, off by at most `1e-6` (at most
    /// a twentieth of the last decimal): an honest float endpoint whose probability lies at the edge
    /// of two roundings does not differ.
    Decimals(u32),
    /// All scores, equal in every bit (floats: equal in value).
    Exact,
    /// All scores within so much of the reference, relative to the largest magnitude of its scores.
    Tolerance(f64),
}

impl fmt::Display for ComparisonRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Top1 => f.write_str("top-1"),
            Self::TopK(k) => write!(f, "top-{k}"),
            Self::Decimals(n) => write!(f, "decimals-{n}"),
            Self::Exact => f.write_str("exact"),
            Self::Tolerance(r) => write!(f, "tolerance-{r:e}"),
        }
    }
}

impl FromStr for ComparisonRule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let unknown = || Error::UnknownName {
            what: "comparison rule",
            actual: text.chars().take(40).collect(),
            expected: "top-K, decimals-N, exact or tolerance-R, such as top-1 or tolerance-1e-4",
        };
        let rule = match text.split_once('-') {
            None if text == "exact" => Self::Exact,
            Some(("top", "1")) => Self::Top1,
            Some(("top", k)) => Self::TopK(k.parse().map_err(|_| unknown())?),
            Some(("decimals", n)) => Self::Decimals(n.parse().map_err(|_| unknown())?),
            Some(("tolerance", r)) => Self::Tolerance(r.parse().map_err(|_| unknown())?),
            Some(_) | None => return Err(unknown()),
        };
        rule.check()
    }
}

impl ComparisonRule {
    /// The rule, if its number is in range.
    ///
    /// # Errors
    /// - [`Error::CountOutOfRange`]: no rank, more than [`MAX_RANKS`], or more than
    ///   [`MAX_DECIMALS`] decimals.
    /// - [`Error::NumberOutOfRange`]: a tolerance that is negative or not finite.
    pub fn check(self) -> Result<Self> {
        let range = |name, actual: u64, min, max| {
            if (min..=max).contains(&actual) {
                Ok(())
            } else {
                Err(Error::CountOutOfRange { name, actual, min, max })
            }
        };
        match self {
            Self::Top1 | Self::Exact => {}
            Self::TopK(k) => range("number of ranks", k as u64, 1, MAX_RANKS as u64)?,
            Self::Decimals(n) => {
                range("number of decimals", n.into(), 0, MAX_DECIMALS.into())?;
            }
            Self::Tolerance(r) => crate::word_check::check_number("the tolerance", r, 0.0)?,
        }
        Ok(self)
    }

    /// The strictest rule that `answers` allow on an endpoint that computes in floats:
    /// probabilities or scores within `1e-4`, else as many ranks as there are. On integers: exact.
    #[must_use]
    pub fn strictest_for(answers: &Answers) -> Self {
        match answers {
            Answers::Labels(_) => Self::Top1,
            Answers::Ranked(ranks) if ranks.ncols() <= 1 => Self::Top1,
            Answers::Ranked(ranks) => Self::TopK(ranks.ncols()),
            Answers::Scores { .. } => Self::Tolerance(1e-4),
            Answers::Integers(_) => Self::Exact,
        }
    }

    /// Whether each answer differs from the reference. Length: the number of samples.
    ///
    /// Logits and probabilities are brought to the kind that both can be.
    ///
    /// # Errors
    /// - [`Error::LengthMismatch`]: another number of samples or classes.
    /// - [`Error::RuleNeedsMore`]: reference or answers do not tell what the rule compares.
    /// - [`Error::AnswerNotFinite`]: a score is NaN or infinite.
    pub fn differs(self, reference: &Answers, answers: &Answers) -> Result<Vec<bool>> {
        let (expected, actual) = (reference.n_samples(), answers.n_samples());
        if expected != actual {
            return Err(Error::LengthMismatch { what: "the list of answers", expected, actual });
        }
        for side in [reference, answers] {
            if let Some(sample) = side.first_not_finite() {
                return Err(Error::AnswerNotFinite { sample });
            }
        }
        match self {
            Self::Top1 => {
                let (left, right) = (reference.labels(), answers.labels());
                Ok(left.iter().zip(&right).map(|(a, b)| a != b).collect())
            }
            Self::TopK(k) => rows_differ(
                &self.needed(reference, reference.ranked(k))?,
                &self.needed(answers, answers.ranked(k))?,
                |a, b| a != b,
            ),
            Self::Decimals(n) => {
                let unit = 0.1_f64.powi(n.try_into().unwrap_or(i32::MAX));
                let slack = FLOAT_ERROR.min(unit / 20.0);
                let rounded = |p: f64| (p / unit).round();
                rows_differ(
                    &self.needed(reference, reference.probabilities())?,
                    &self.needed(answers, answers.probabilities())?,
                    |a, b| {
                        let b = rounded(b);
                        rounded(a - slack) != b && rounded(a) != b && rounded(a + slack) != b
                    },
                )
            }
            Self::Exact => self.exact(reference, answers),
            Self::Tolerance(r) => self.within(reference, answers, r),
        }
    }

    fn needed<T>(self, answers: &Answers, found: Option<T>) -> Result<T> {
        found.ok_or_else(|| Error::RuleNeedsMore {
            rule: self.to_string(),
            answers: answers.to_string(),
        })
    }

    fn exact(self, reference: &Answers, answers: &Answers) -> Result<Vec<bool>> {
        if let (Answers::Integers(a), Answers::Integers(b)) = (reference, answers) {
            return rows_differ(a, b, |a, b| a != b);
        }
        let (a, b) = self.common_scores(reference, answers)?;
        #[expect(clippy::float_cmp, reason = "this rule is equality")]
        rows_differ(&a, &b, |a, b| a != b)
    }

    fn within(self, reference: &Answers, answers: &Answers, tolerance: f64) -> Result<Vec<bool>> {
        let (a, b) = self.common_scores(reference, answers)?;
        check_width(&a, &b)?;
        Ok(a.rows()
            .into_iter()
            .zip(b.rows())
            .map(|(a, b)| {
                let largest = a.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
                a.iter().zip(b).any(|(a, b)| (a - b).abs() > tolerance * largest)
            })
            .collect())
    }

    /// Scores of one kind on both sides.
    fn common_scores(
        self,
        reference: &Answers,
        answers: &Answers,
    ) -> Result<(Array2<f64>, Array2<f64>)> {
        let kind_of = |answers: &Answers| match answers {
            Answers::Labels(_) | Answers::Ranked(_) => None,
            Answers::Scores { kind, .. } => Some(Some(*kind)),
            Answers::Integers(_) => Some(None),
        };
        let left = self.needed(reference, kind_of(reference))?;
        let right = self.needed(answers, kind_of(answers))?;
        let side = |answers: &Answers| -> Result<Array2<f64>> {
            if left != right {
                return self.needed(answers, answers.probabilities());
            }
            match answers {
                Answers::Scores { values, kind: ScoreKind::Logits | ScoreKind::Probabilities } => {
                    Ok(values.clone())
                }
                #[expect(clippy::cast_precision_loss, reason = "differences are relative here")]
                Answers::Integers(values) => Ok(values.mapv(|v| v as f64)),
                Answers::Labels(_) | Answers::Ranked(_) => self.needed(answers, None),
            }
        };
        Ok((side(reference)?, side(answers)?))
    }
}

fn check_width<T>(a: &Array2<T>, b: &Array2<T>) -> Result<()> {
    let (expected, actual) = (a.ncols(), b.ncols());
    if expected == actual {
        Ok(())
    } else {
        Err(Error::LengthMismatch { what: "a row of scores", expected, actual })
    }
}

fn rows_differ<T: Copy>(
    a: &Array2<T>,
    b: &Array2<T>,
    differs: impl Fn(T, T) -> bool,
) -> Result<Vec<bool>> {
    check_width(a, b)?;
    Ok(a.rows()
        .into_iter()
        .zip(b.rows())
        .map(|(a, b)| a.iter().zip(b).any(|(&a, &b)| differs(a, b)))
        .collect())
}

#[cfg(test)]
mod tests;
