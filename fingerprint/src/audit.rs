//! One audit of a black box: ask, ask again, compare.
//!
//! The same inputs are asked twice, the second time in reverse order, so that an endpoint whose
//! answers depend on chance, on load or on their neighbors in a batch gives itself away. Such an
//! endpoint differs from the reference however honest it is; that is [`AuditOutcome::Unsteady`] and
//! not a verdict of tampering.
//!
//! What agreement is worth depends on the modification and on the rule: a single weight may be
//! invisible in every label. `docs/fingerprint.md` has the measured missing rates.

use ndarray::{Axis, Slice};
use serde::{Deserialize, Serialize};

use crate::endpoint::{Answers, Endpoint, EndpointError};
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::rule::ComparisonRule;

/// How often the samples are asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Repetition {
    /// Once: an unsteady endpoint cannot be told from a modified model.
    Once,
    /// Twice, the second time in reverse order.
    #[default]
    Twice,
}

/// What came of an audit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
        /// Positions of the samples that differ between the two times, ascending.
        samples: Vec<usize>,
    },
}

impl AuditOutcome {
    /// Exit code of a program that ends with this outcome: 0 same, 1 different, 2 unsteady.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Same => 0,
            Self::Different { .. } => 1,
            Self::Unsteady { .. } => 2,
        }
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
    /// Times each was asked.
    pub times: u32,
    /// The answers of the first time.
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

/// Audits `endpoint`: asks all samples of `fingerprint` and compares by `rule`, or by the
/// fingerprint's own.
///
/// # Errors
/// - [`AuditError::Endpoint`]: no usable answer. Not a verdict.
/// - [`AuditError::Setup`]: the endpoint has other features or classes than the fingerprint, takes
///   other inputs, or tells less than the rule compares.
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
    rule.differs(&reference, &reference)?;
    let inputs = fingerprint.inputs();
    let answers = endpoint.query(&inputs)?;
    let differing = positions(&rule.differs(&reference, &answers)?);
    let (outcome, times) = match repetition {
        Repetition::Once => (judged(differing), 1),
        Repetition::Twice => {
            let backwards = inputs.slice_axis(Axis(0), Slice::new(0, None, -1)).to_owned();
            let again = endpoint.query(&backwards)?;
            let order: Vec<usize> = (0..again.n_samples()).rev().collect();
            let samples = positions(&rule.differs(&answers, &again.select(&order))?);
            let outcome = if samples.is_empty() {
                judged(differing)
            } else {
                AuditOutcome::Unsteady { samples }
            };
            (outcome, 2)
        }
    };
    Ok(Audit { outcome, rule, n_samples: inputs.nrows(), times, answers })
}

fn judged(samples: Vec<usize>) -> AuditOutcome {
    if samples.is_empty() { AuditOutcome::Same } else { AuditOutcome::Different { samples } }
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
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use ndarray::Array2;
    use nn_poly::Network;
    use nn_poly::layer::Layer;

    use super::*;
    use crate::endpoint::{LocalEndpoint, ScoreKind};
    use crate::fingerprint::tests::{fingerprint, grid, model};
    use crate::sample::InputGrid;

    /// Answers as scripted, whatever it is asked.
    struct Scripted {
        answers: Vec<Answers>,
        asked: usize,
        grid: Option<InputGrid>,
        dim: (usize, usize),
    }

    impl Endpoint for Scripted {
        fn n_classes(&self) -> usize {
            self.dim.1
        }

        fn n_features(&self) -> usize {
            self.dim.0
        }

        fn grid(&self) -> Option<&InputGrid> {
            self.grid.as_ref()
        }

        fn query(&mut self, _: &Array2<f32>) -> core::result::Result<Answers, EndpointError> {
            self.asked += 1;
            let problem = "nothing to say".to_owned();
            self.answers.get(self.asked - 1).cloned().ok_or(EndpointError::Malformed { problem })
        }
    }

    fn scripted(answers: &[Vec<u32>]) -> Scripted {
        let answers = answers.iter().cloned().map(Answers::Labels).collect();
        Scripted { answers, asked: 0, grid: None, dim: (3, 2) }
    }

    fn labels() -> Vec<u32> {
        fingerprint().reference().labels()
    }

    #[test]
    fn the_true_model_is_the_same_under_every_rule_and_another_is_not() {
        let fingerprint = fingerprint();
        for rule in ["top-1", "top-2", "decimals-3", "tolerance-1e-6", "exact"] {
            let rule = Some(rule.parse().unwrap());
            let honest = model(2.0).spec().network.clone();
            let mut layers = honest.clone().into_layers();
            let Some(Layer::Dense(last)) = layers.last_mut() else { panic!("a dense layer") };
            last.bias[1] = -1000.0;
            let modified = Network::new(honest.input_shape().clone(), layers).unwrap();
            for (network, is_same) in [(&honest, true), (&modified, false)] {
                let mut endpoint = LocalEndpoint::new(network, Some(grid())).unwrap();
                let audit = audit(&mut endpoint, &fingerprint, rule, Repetition::Twice).unwrap();
                assert_eq!(audit.outcome == AuditOutcome::Same, is_same, "{rule:?}");
                assert_eq!(audit.outcome.exit_code(), u8::from(!is_same));
                let logits =
                    matches!(audit.answers, Answers::Scores { kind: ScoreKind::Logits, .. });
                assert!(logits && audit.times == 2);
            }
        }
    }

    #[test]
    fn answers_that_change_are_no_verdict() {
        let right = labels();
        let wrong: Vec<u32> = right.iter().map(|label| 1 - label).collect();
        let reversed = |labels: &[u32]| labels.iter().rev().copied().collect::<Vec<_>>();
        let run = |first: &[u32], second: &[u32], repetition| {
            let mut endpoint = scripted(&[first.to_vec(), second.to_vec()]);
            audit(&mut endpoint, &fingerprint(), None, repetition).unwrap().outcome
        };
        let all = AuditOutcome::Unsteady { samples: vec![0, 1] };
        assert_eq!(run(&right, &reversed(&right), Repetition::Twice), AuditOutcome::Same);
        assert_eq!(run(&right, &reversed(&wrong), Repetition::Twice), all);
        assert_eq!(run(&wrong, &reversed(&right), Repetition::Twice), all);
        let different = AuditOutcome::Different { samples: vec![0, 1] };
        assert_eq!(run(&wrong, &reversed(&wrong), Repetition::Twice), different);
        assert_eq!(run(&wrong, &[], Repetition::Once), different);
        assert_eq!(all.exit_code(), 2);
    }

    #[test]
    fn nothing_is_asked_when_nothing_could_be_concluded() {
        let fingerprint = fingerprint();
        let check = |mut endpoint: Scripted, rule: &str| {
            let rule = Some(rule.parse().unwrap());
            let error = audit(&mut endpoint, &fingerprint, rule, Repetition::Once).unwrap_err();
            assert!(matches!(error, AuditError::Setup(_)), "{error}");
            assert_eq!(endpoint.asked, 0, "{error}");
        };
        check(Scripted { dim: (4, 2), ..scripted(&[]) }, "top-1");
        check(Scripted { dim: (3, 5), ..scripted(&[]) }, "top-1");
        check(Scripted { grid: Some(InputGrid::bytes()), ..scripted(&[]) }, "top-1");
        check(scripted(&[]), "top-3");
        let error = audit(&mut scripted(&[]), &fingerprint, None, Repetition::Once).unwrap_err();
        assert!(matches!(error, AuditError::Endpoint(EndpointError::Malformed { .. })));
        let coarse = &mut scripted(&[labels()]);
        let rule = Some(ComparisonRule::Exact);
        let error = audit(coarse, &fingerprint, rule, Repetition::Once).unwrap_err();
        assert!(matches!(error, AuditError::Setup(Error::RuleNeedsMore { .. })));
    }
}
