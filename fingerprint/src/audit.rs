//! One audit of a black box: ask, ask again, compare.
//!
//! ```text
//!  samples + originals ─► asked ─► asked again, reversed ─► unsteady?
//!                                                            │ no
//!                          most originals answered otherwise?├── yes ─► does not fit
//!                                                            │ no
//!                                      samples that differ? ─┼── none ─► same (or undecided)
//!                                                            │ some
//!               these again, five times, shuffled, in batches of other sizes ─► different or unsteady
//! ```
//! An endpoint whose answers depend on chance, on load or on their neighbors in a batch differs from
//! the reference however honest it is; that is [`AuditOutcome::Unsteady`] and not a verdict of
//! tampering. Neither is [`AuditOutcome::DoesNotFit`]: the natural samples that a fingerprint's
//! samples started from are the control. A service asked in wrong units, with permuted axes or class
//! numbers gets those wrong too; a tampered model seldom does.
//!
//! What agreement is worth depends on the modification and on the rule: a single weight may be
//! invisible in every label. `docs/fingerprint.md` has the measured missing rates.

use ndarray::{Axis, Slice, concatenate};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::endpoint::{Answers, Endpoint, EndpointError};
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::rule::ComparisonRule;

/// Further times that samples which differ are asked before that counts.
pub const CONFIRMATIONS: u32 = 5;

/// Samples that differ, up to which the last confirmation asks them one by one.
const ONE_BY_ONE: usize = 16;

/// How often the samples are asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Repetition {
    /// Once: an unsteady endpoint cannot be told from a modified model. For endpoints that are exact
    /// and prove it.
    Once,
    /// Twice, the second time in reverse order; samples that differ [`CONFIRMATIONS`] times more.
    #[default]
    Twice,
}

/// What came of an audit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum AuditOutcome {
    /// Every answer agrees with the true model's.
    Same,
    /// Some answers do not: another model answers.
    Different {
        /// Positions of the samples that differ, ascending.
        samples: Vec<usize>,
    },
    /// The endpoint answers the same input differently from one time to the next. Nothing follows
    /// about the model.
    Unsteady {
        /// Positions of the samples whose answers changed, ascending.
        samples: Vec<usize>,
    },
    /// Most of the natural samples are answered otherwise than by the true model: the endpoint is
    /// asked in another way than it expects (units, order of axes, numbers of classes), or its model
    /// has nothing to do with the true one. Nothing follows about tampering.
    DoesNotFit {
        /// Natural samples answered otherwise.
        n_disagreeing: usize,
        /// Natural samples asked.
        n_originals: usize,
    },
    /// No answer tells its classes apart at the precision the endpoint gives, so that every model
    /// would agree by this rule.
    Undecided,
}

impl AuditOutcome {
    /// Exit code of a program that ends with this outcome: 0 same, 1 different, 2 if nothing follows
    /// about the model.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Same => 0,
            Self::Different { .. } => 1,
            Self::Unsteady { .. } | Self::DoesNotFit { .. } | Self::Undecided => 2,
        }
    }
}

/// How the natural samples behind a fingerprint were answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// Natural samples asked.
    pub n_asked: usize,
    /// Those that got another label than the true model gives.
    pub n_disagreeing: usize,
}

impl Control {
    /// Whether most disagree.
    #[must_use]
    pub fn fails(&self) -> bool {
        self.n_disagreeing > self.n_asked / 2
    }
}

/// An audit and what it rests on.
#[derive(Debug, Clone, PartialEq)]
pub struct Audit {
    /// What came of it.
    pub outcome: AuditOutcome,
    /// How answers were compared.
    pub rule: ComparisonRule,
    /// Samples asked.
    pub n_samples: usize,
    /// Times each was asked; those that differed up to [`CONFIRMATIONS`] times more.
    pub times: u32,
    /// Positions of the samples whose first answers differ from the reference, ascending.
    pub differing: Vec<usize>,
    /// Samples whose labels the answers leave open: other classes have the same score or more. Such a
    /// sample agrees, but any model would; counted for `top-k` only.
    pub n_tied: usize,
    /// The control; `None` for fingerprints without natural samples.
    pub control: Option<Control>,
    /// The answers of the first time, without the control's.
    pub answers: Answers,
}

/// Why an audit came to no outcome.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The endpoint gave no usable answer.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// Fingerprint, endpoint and rule do not fit together.
    #[error(transparent)]
    Setup(#[from] Error),
}

/// Audits `endpoint`: asks all samples of `fingerprint` and the natural samples behind them, and
/// compares by `rule`, or by the fingerprint's own.
///
/// Cost: two times the samples and originals, and five times the samples that differ.
///
/// # Errors
/// - [`AuditError::Endpoint`]: no usable answer. Not a verdict.
/// - [`AuditError::Setup`]: the endpoint has other features or classes than the fingerprint, takes
///   other inputs, or tells less than the rule compares; a rule finer than the reference's arithmetic.
pub fn audit(
    endpoint: &mut dyn Endpoint,
    fingerprint: &Fingerprint,
    rule: Option<ComparisonRule>,
    repetition: Repetition,
) -> core::result::Result<Audit, AuditError> {
    check_fit(endpoint, fingerprint)?;
    let rule = rule.unwrap_or_else(|| fingerprint.rule()).check()?;
    let reference = fingerprint.reference();
    // A rule that the reference cannot serve is found before anything is shown to the endpoint.
    rule.check_reference(&reference)?;
    rule.differs(&reference, &reference)?;
    let mut questions = Questions::new(endpoint, fingerprint, rule, reference);
    let first = questions.ask_all()?;
    let differing = positions(&questions.differing(&first)?);
    let control = questions.control(&first)?;
    let mut times = 1;
    let mut changed = Vec::new();
    if repetition == Repetition::Twice {
        times = 2;
        changed = questions.changed_when_reversed(&first)?;
    }
    let n_tied = questions.n_tied(&first);
    let outcome = if !changed.is_empty() {
        AuditOutcome::Unsteady { samples: changed }
    } else if let Some(control) = control.filter(Control::fails) {
        let Control { n_disagreeing, n_asked: n_originals } = control;
        AuditOutcome::DoesNotFit { n_disagreeing, n_originals }
    } else if differing.is_empty() {
        let is_open = n_tied == questions.n_samples;
        if is_open { AuditOutcome::Undecided } else { AuditOutcome::Same }
    } else {
        let changed = match repetition {
            Repetition::Once => Vec::new(),
            Repetition::Twice => questions.changed_when_confirmed(&first, &differing)?,
        };
        if changed.is_empty() {
            AuditOutcome::Different { samples: differing.clone() }
        } else {
            AuditOutcome::Unsteady { samples: changed }
        }
    };
    let n_samples = questions.n_samples;
    let answers = first.select(&(0..n_samples).collect::<Vec<_>>());
    Ok(Audit { outcome, rule, n_samples, times, differing, n_tied, control, answers })
}

/// What is asked, and what the true model answers.
struct Questions<'a> {
    endpoint: &'a mut dyn Endpoint,
    rule: ComparisonRule,
    /// The samples, and after them the natural samples.
    inputs: ndarray::Array2<f32>,
    n_samples: usize,
    reference: Answers,
    /// Labels of the natural samples.
    control: Option<Answers>,
    /// To how many decimals the endpoint rounds, from all it answered the first time.
    decimals: Option<u32>,
    seed: u64,
}

impl<'a> Questions<'a> {
    fn new(
        endpoint: &'a mut dyn Endpoint,
        fingerprint: &Fingerprint,
        rule: ComparisonRule,
        reference: Answers,
    ) -> Self {
        let samples = fingerprint.inputs();
        let n_samples = samples.nrows();
        let (inputs, control) = match (fingerprint.originals(), fingerprint.original_labels()) {
            (Some(originals), Some(labels)) => (
                concatenate(Axis(0), &[samples.view(), originals.view()])
                    .expect("invariant: originals have as many features as samples"),
                Some(Answers::Labels(labels.to_vec())),
            ),
            _ => (samples, None),
        };
        let (decimals, seed) = (None, fingerprint.seed());
        Self { endpoint, rule, inputs, n_samples, reference, control, decimals, seed }
    }

    /// Everything, in order.
    fn ask_all(&mut self) -> core::result::Result<Answers, AuditError> {
        let inputs = self.inputs.clone();
        let answers = self.ask(&inputs)?;
        self.decimals = answers.decimals();
        Ok(answers)
    }

    fn ask(&mut self, inputs: &ndarray::Array2<f32>) -> core::result::Result<Answers, AuditError> {
        let answers = self.endpoint.query(inputs)?;
        let (expected, actual) = (inputs.nrows(), answers.n_samples());
        if expected != actual {
            let error = Error::LengthMismatch { what: "the list of answers", expected, actual };
            return Err(error.into());
        }
        Ok(answers)
    }

    /// Per sample, whether the answers to everything differ from the reference.
    fn differing(&self, all: &Answers) -> Result<Vec<bool>> {
        let samples: Vec<usize> = (0..self.n_samples).collect();
        self.rule.differs_at(&self.reference, &all.select(&samples), self.decimals)
    }

    fn control(&self, all: &Answers) -> Result<Option<Control>> {
        let Some(labels) = &self.control else { return Ok(None) };
        let originals: Vec<usize> = (self.n_samples..self.inputs.nrows()).collect();
        let answers = all.select(&originals);
        let flags = ComparisonRule::Top1.differs_at(labels, &answers, self.decimals)?;
        Ok(Some(Control { n_asked: flags.len(), n_disagreeing: positions(&flags).len() }))
    }

    /// Samples that scores rank no class of first, if ranks are what is compared.
    fn n_tied(&self, all: &Answers) -> usize {
        if !matches!(self.rule, ComparisonRule::Top1 | ComparisonRule::TopK(_)) {
            return 0;
        }
        let is_tied = |&(sample, label): &(usize, u32)| {
            matches!(all, Answers::Scores { .. })
                && all.is_alone_ahead(sample, label) == Some(false)
        };
        self.reference.labels().into_iter().enumerate().filter(is_tied).count()
    }

    /// Ask everything in reverse order. Samples count as changed if they agree with the reference one
    /// time only, or differ from it in two ways.
    fn changed_when_reversed(
        &mut self,
        first: &Answers,
    ) -> core::result::Result<Vec<usize>, AuditError> {
        let backwards = self.inputs.slice_axis(Axis(0), Slice::new(0, None, -1)).to_owned();
        let again = self.ask(&backwards)?;
        let order: Vec<usize> = (0..again.n_samples()).rev().collect();
        let samples: Vec<usize> = (0..self.n_samples).collect();
        let changed = self.changed(first, &again.select(&order).select(&samples), &samples)?;
        Ok(changed)
    }

    /// Ask `differing` again, shuffled and in batches of falling size.
    fn changed_when_confirmed(
        &mut self,
        first: &Answers,
        differing: &[usize],
    ) -> core::result::Result<Vec<usize>, AuditError> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let n = differing.len();
        let mut changed = Vec::new();
        for time in 1..=CONFIRMATIONS {
            let mut order = differing.to_vec();
            order.shuffle(&mut rng);
            let is_last = time == CONFIRMATIONS;
            let size =
                if is_last && n <= ONE_BY_ONE { 1 } else { n.div_ceil(time as usize).max(1) };
            for batch in order.chunks(size) {
                let inputs = self.inputs.select(Axis(0), batch);
                let again = self.ask(&inputs)?;
                changed.extend(self.changed(first, &again, batch)?);
            }
        }
        changed.sort_unstable();
        changed.dedup();
        Ok(changed)
    }

    /// Those of `samples` for which `again` says something else than `first`: it agrees with the
    /// reference where `first` does not, or the other way round, or both differ from it and from each
    /// other.
    fn changed(&self, first: &Answers, again: &Answers, samples: &[usize]) -> Result<Vec<usize>> {
        let first = first.select(samples);
        let reference = self.reference.select(samples);
        let before = self.flags(&reference, &first)?;
        let after = self.flags(&reference, again)?;
        let between = self.flags(&first, again)?;
        let flags = before.iter().zip(&after).zip(&between);
        let changed =
            flags.map(|((before, after), between)| before != after || *before && *between);
        Ok(samples.iter().zip(changed).filter_map(|(&sample, is)| is.then_some(sample)).collect())
    }

    /// Differences, where rounding that explains all of them means that there is none.
    fn flags(&self, reference: &Answers, answers: &Answers) -> Result<Vec<bool>> {
        match self.rule.differs_at(reference, answers, self.decimals) {
            Err(Error::CoarseAnswers { .. }) => Ok(vec![false; reference.n_samples()]),
            flags => flags,
        }
    }
}

fn positions(flags: &[bool]) -> Vec<usize> {
    flags.iter().enumerate().filter_map(|(position, &flag)| flag.then_some(position)).collect()
}

fn check_fit(endpoint: &dyn Endpoint, fingerprint: &Fingerprint) -> Result<()> {
    for (what, expected, actual) in [
        ("an input of the endpoint", fingerprint.shape().len(), endpoint.n_features()),
        ("the endpoint's list of classes", fingerprint.class_names().len(), endpoint.n_classes()),
    ] {
        if expected != actual {
            return Err(Error::LengthMismatch { what, expected, actual });
        }
    }
    match endpoint.grid() {
        Some(grid) if grid != fingerprint.grid() => Err(Error::ForeignFingerprint {
            what: "input grid",
            expected: Some(format!("{} steps", fingerprint.grid().n_steps())),
            actual: format!("{} steps", grid.n_steps()),
        }),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
