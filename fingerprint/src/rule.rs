//! When two answers to the same input count as different.
//!
//! | rule | needs | differs if |
//! |---|---|---|
//! | `top-1` | labels | another class is ahead of the best one |
//! | `top-k` | `k` ranks | a class is ahead of one that is ranked before it |
//! | `decimals-n` | probabilities | a probability cannot come from rounding the reference to `n` decimals |
//! | `exact` | scores | any score has another value |
//! | `tolerance-r` | scores | a score is further off than `r` times the largest of the reference |
//!
//! The more an endpoint tells, the more a single sample detects: exact scores of ordinary inputs
//! beat every rule on labels. Exact rules suit endpoints that compute in integers; where sums may be
//! taken in another order, the last bits of a score are no evidence.
//!
//! # What is no evidence
//! No rule may accuse an honest service. So these never make an answer differ:
//! - **Ties.** Rounded to two decimals, ten classes near 0.1 are equal, and the first of them wins
//!   whatever the model. `top-1` and `top-k` therefore compare *scores* where the answers have them: a
//!   class must be ahead by more than the unit of the last decimal ([`Answers::decimals`]), or, where
//!   scores are not rounded, at all.
//! - **Float errors.** A logit computed in 32 bits is off by up to `5e-6 · max|z|`, depending on the
//!   order of sums. Classes whose true scores are closer than that have no order, and probabilities get
//!   the slack that follows from it. Rules finer than [`MAX_FLOAT_DECIMALS`] and
//!   [`MIN_FLOAT_TOLERANCE`] are refused for references that are not integers
//!   ([`ComparisonRule::check_reference`]).
//! - **Rounding** that is coarser than the rule: if it explains every difference, the rule asks for more
//!   than the answers tell, which is an error and no verdict.

use core::fmt;
use core::str::FromStr;

use ndarray::{Array2, ArrayView1};
use serde::{Deserialize, Serialize};

use self::order::{Order, ranks_contradict, scores_contradict};
use crate::endpoint::{Answers, ScoreKind, decimal_unit};
use crate::error::{Error, Result};

mod order;

/// Most decimals of [`ComparisonRule::Decimals`]: beyond that floats of 32 bits hold noise.
pub const MAX_DECIMALS: u32 = 6;

/// Most ranks of [`ComparisonRule::TopK`].
pub const MAX_RANKS: usize = 4096;

/// Most decimals compared with a reference computed in floats.
pub const MAX_FLOAT_DECIMALS: u32 = 4;

/// Smallest tolerance against a reference computed in floats.
pub const MIN_FLOAT_TOLERANCE: f64 = 1e-5;

/// Error of a logit computed by an honest endpoint in 32-bit floats, as a share of the largest
/// magnitude among the logits: about 1.5e-6 over orders of summation and batch sizes, 5e-6 at ties,
/// where all logits are small beside what they are sums of. Two logits: the margin that samples keep by
/// default.
const LOGIT_ERROR: f64 = 5e-6;
/// Error of softmax itself, and of a probability on its way through a decimal number.
const PROBABILITY_ERROR: f64 = 1e-6;
/// Error of this comparison, as a share of a unit.
const OWN_ERROR: f64 = 1e-9;

/// How answers are compared; see the [module](self).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum ComparisonRule {
    /// The best class.
    Top1,
    /// The best so many classes, in order.
    TopK(usize),
    /// All probabilities, rounded to so many decimals.
    ///
    /// An answer agrees if it can come from rounding the reference, which may be off by the error of
    /// floats: an honest endpoint whose probability lies at the edge of two roundings does not differ.
    /// A service that cuts digits off instead of rounding agrees with one decimal less.
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

    /// Refuse a rule finer than the error of the arithmetic behind `reference`.
    ///
    /// # Errors
    /// - [`Error::RuleTooFine`]: `exact`, a tolerance below [`MIN_FLOAT_TOLERANCE`] or more than
    ///   [`MAX_FLOAT_DECIMALS`] decimals, unless the reference is exact integers.
    pub fn check_reference(self, reference: &Answers) -> Result<()> {
        let is_fine = match self {
            Self::Top1 | Self::TopK(_) => false,
            Self::Decimals(n) => n > MAX_FLOAT_DECIMALS,
            Self::Exact => true,
            Self::Tolerance(r) => r < MIN_FLOAT_TOLERANCE,
        };
        match reference {
            Answers::Scores { .. } if is_fine => Err(Error::RuleTooFine { rule: self.to_string() }),
            Answers::Scores { .. }
            | Answers::Labels(_)
            | Answers::Ranked(_)
            | Answers::Integers(_) => Ok(()),
        }
    }

    /// The strictest rule that `answers` allow on an endpoint that computes in floats: as many decimals
    /// as probabilities have (at most [`MAX_FLOAT_DECIMALS`]); for scores that are not rounded a
    /// tolerance of `1e-4`; else as many ranks as there are. On integers: exact.
    #[must_use]
    pub fn strictest_for(answers: &Answers) -> Self {
        match answers {
            Answers::Labels(_) => Self::Top1,
            Answers::Ranked(ranks) if ranks.ncols() <= 1 => Self::Top1,
            Answers::Ranked(ranks) => Self::TopK(ranks.ncols()),
            Answers::Scores { values, kind } => match (kind, answers.decimals()) {
                (_, None) => Self::Tolerance(SCORE_TOLERANCE),
                (ScoreKind::Probabilities, Some(n)) => Self::Decimals(n.min(MAX_FLOAT_DECIMALS)),
                (ScoreKind::Logits, Some(n)) => rounded_logits_rule(values, n),
            },
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
    /// - [`Error::CoarseAnswers`]: answers differ, but no more than by their own rounding, which is
    ///   coarser than the rule.
    /// - [`Error::AnswerNotFinite`]: a score is NaN or infinite.
    pub fn differs(self, reference: &Answers, answers: &Answers) -> Result<Vec<bool>> {
        self.differs_at(reference, answers, answers.decimals())
    }

    /// [`Self::differs`] for answers that are known to be rounded to so many decimals.
    pub(crate) fn differs_at(
        self,
        reference: &Answers,
        answers: &Answers,
        decimals: Option<u32>,
    ) -> Result<Vec<bool>> {
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
            Self::Top1 => self.order_differs(reference, answers, 1, decimals),
            Self::TopK(k) => self.order_differs(reference, answers, k, decimals),
            Self::Decimals(n) => {
                // The rounding of logits is in the slack of their probabilities.
                let is_probability =
                    matches!(answers, Answers::Scores { kind: ScoreKind::Probabilities, .. });
                let coarser = decimals.filter(|&decimals| decimals < n && is_probability);
                let flags = self.rounded_differs(reference, answers, n, decimals)?;
                self.unless_rounded(flags, coarser, |m| {
                    self.rounded_differs(reference, answers, m, decimals)
                })
            }
            Self::Exact => self.exact(reference, answers),
            Self::Tolerance(r) => {
                let flags = self.within(reference, answers, r, 0.0)?;
                self.unless_rounded(flags, decimals, |m| {
                    self.within(reference, answers, r, 0.5 * decimal_unit(m))
                })
            }
        }
    }

    /// The flags, unless the answers are rounded to fewer decimals than the rule needs: then those of
    /// the coarser comparison, if it sees a difference.
    fn unless_rounded(
        self,
        flags: Vec<bool>,
        coarser: Option<u32>,
        compare: impl Fn(u32) -> Result<Vec<bool>>,
    ) -> Result<Vec<bool>> {
        let Some(decimals) = coarser.filter(|_| flags.contains(&true)) else { return Ok(flags) };
        let coarse = compare(decimals)?;
        if coarse.contains(&true) {
            Ok(coarse)
        } else {
            Err(Error::CoarseAnswers { rule: self.to_string(), decimals })
        }
    }

    fn order_differs(
        self,
        reference: &Answers,
        answers: &Answers,
        k: usize,
        decimals: Option<u32>,
    ) -> Result<Vec<bool>> {
        let expected = self.needed(reference, reference.ranked(k))?;
        let given = self.needed(answers, answers.ranked(k))?;
        let truth = Order::of_reference(reference);
        let scores = Order::of_answers(answers, decimals);
        if let (Some(truth), Some(scores)) = (&truth, &scores) {
            check_count(truth.n_classes(), scores.n_classes())?;
        }
        let rows = expected.rows().into_iter().zip(given.rows());
        let differs = |(sample, (expected, given))| match (&scores, &truth) {
            (Some(scores), truth) => scores_contradict(expected, sample, scores, truth.as_ref()),
            (None, Some(truth)) => ranks_contradict(given, sample, truth),
            (None, None) => expected != given,
        };
        Ok(rows.enumerate().map(differs).collect())
    }

    /// Whether a probability cannot come from rounding to `n` decimals.
    fn rounded_differs(
        self,
        reference: &Answers,
        answers: &Answers,
        n: u32,
        decimals: Option<u32>,
    ) -> Result<Vec<bool>> {
        let unit = decimal_unit(n);
        let a = self.needed(reference, reference.probabilities())?;
        let b = self.needed(answers, answers.probabilities())?;
        check_width(&a, &b)?;
        // Answers with more decimals than the rule are rounded twice.
        let twice = decimals.filter(|&decimals| decimals > n);
        let twice = 0.5 * resolution(twice);
        let slack = ProbabilitySlack::new(reference, answers, decimals);
        Ok(rows_with(&a, &b, |sample, a, b| {
            let allowed = 0.5 * unit + slack.of(sample, a) + twice + OWN_ERROR * unit;
            ((b / unit).round() * unit - a).abs() > allowed
        }))
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

    /// `rounding` is what the answers may be off by besides.
    fn within(
        self,
        reference: &Answers,
        answers: &Answers,
        tolerance: f64,
        rounding: f64,
    ) -> Result<Vec<bool>> {
        let (a, b) = self.common_scores(reference, answers)?;
        check_width(&a, &b)?;
        let largest: Vec<f64> = a.rows().into_iter().map(largest_magnitude).collect();
        let is_of_logits = matches!(reference, Answers::Scores { kind: ScoreKind::Logits, .. });
        let is_of_probabilities =
            matches!(answers, Answers::Scores { kind: ScoreKind::Probabilities, .. });
        // Softmax turns errors of large logits into errors that the tolerance does not know.
        let slack = (is_of_logits && is_of_probabilities)
            .then(|| ProbabilitySlack::new(reference, answers, None));
        Ok(rows_with(&a, &b, |sample, a, b| {
            let largest = largest.get(sample).copied().unwrap_or_default();
            let slack = slack.as_ref().map_or(0.0, |slack| slack.of(sample, a));
            (a - b).abs() > tolerance * largest + slack + rounding * (1.0 + OWN_ERROR)
        }))
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

/// What a probability may be off by because logits are.
struct ProbabilitySlack {
    /// Per sample `exp(2δ) − 1`, where the logits are off by `δ`.
    growth: Vec<f64>,
}

impl ProbabilitySlack {
    /// Logits of the reference are off by the error of floats, those of answers by their rounding.
    fn new(reference: &Answers, answers: &Answers, decimals: Option<u32>) -> Self {
        let rounding = match answers {
            Answers::Scores { kind: ScoreKind::Logits, .. } => 0.5 * resolution(decimals),
            Answers::Scores { kind: ScoreKind::Probabilities, .. }
            | Answers::Labels(_)
            | Answers::Ranked(_)
            | Answers::Integers(_) => 0.0,
        };
        let growth = match reference {
            Answers::Scores { values, kind: ScoreKind::Logits } => {
                let off = |row| f64::exp_m1(2.0 * (float_error(row) + rounding));
                values.rows().into_iter().map(off).collect()
            }
            Answers::Scores { .. }
            | Answers::Labels(_)
            | Answers::Ranked(_)
            | Answers::Integers(_) => vec![f64::exp_m1(2.0 * rounding); reference.n_samples()],
        };
        Self { growth }
    }

    /// With logits off by `δ`, odds change by a factor of at most `exp(2δ)`, and `p` by at most
    /// `p (1 − p) (exp(2δ) − 1)`.
    fn of(&self, sample: usize, p: f64) -> f64 {
        let growth = self.growth.get(sample).copied().unwrap_or_default();
        PROBABILITY_ERROR + (p * (1.0 - p)).max(0.0) * growth
    }
}

/// Tolerance on scores that are not rounded, relative to the largest.
const SCORE_TOLERANCE: f64 = 1e-4;

/// A tolerance that covers the rounding of every row of logits; `top-1` where a row is all zeros.
fn rounded_logits_rule(values: &Array2<f64>, decimals: u32) -> ComparisonRule {
    let smallest = values.rows().into_iter().map(largest_magnitude).fold(f64::INFINITY, f64::min);
    let tolerance = decimal_unit(decimals) / smallest;
    if tolerance.is_finite() {
        ComparisonRule::Tolerance(tolerance.max(SCORE_TOLERANCE))
    } else {
        ComparisonRule::Top1
    }
}

/// Unit of the last decimal of scores that are rounded to some decimals, else 0.
///
/// Whole numbers count as not rounded: they are more often labels, counts or saturated scores, and
/// rounding to whole numbers keeps the order but for ties.
fn resolution(decimals: Option<u32>) -> f64 {
    decimals.filter(|&n| n > 0).map_or(0.0, decimal_unit)
}

/// What logits computed in 32-bit floats may be off by.
fn float_error(logits: ArrayView1<'_, f64>) -> f64 {
    LOGIT_ERROR * largest_magnitude(logits)
}

fn largest_magnitude(row: ArrayView1<'_, f64>) -> f64 {
    row.iter().fold(0.0_f64, |largest, x| largest.max(x.abs()))
}

fn check_count(expected: usize, actual: usize) -> Result<()> {
    if expected == actual {
        Ok(())
    } else {
        Err(Error::LengthMismatch { what: "a row of scores", expected, actual })
    }
}

fn check_width<T>(a: &Array2<T>, b: &Array2<T>) -> Result<()> {
    check_count(a.ncols(), b.ncols())
}

fn rows_differ<T: Copy>(
    a: &Array2<T>,
    b: &Array2<T>,
    differs: impl Fn(T, T) -> bool,
) -> Result<Vec<bool>> {
    check_width(a, b)?;
    Ok(rows_with(a, b, |_, a, b| differs(a, b)))
}

/// Whether any pair of each row differs; rows are of one length.
fn rows_with<T: Copy>(
    a: &Array2<T>,
    b: &Array2<T>,
    differs: impl Fn(usize, T, T) -> bool,
) -> Vec<bool> {
    let rows = a.rows().into_iter().zip(b.rows()).enumerate();
    rows.map(|(sample, (a, b))| a.iter().zip(b).any(|(&a, &b)| differs(sample, a, b))).collect()
}

#[cfg(test)]
mod tests;
