#![allow(clippy::unwrap_used, reason = "tests")]

use ndarray::{Array2, array};
use nn_poly::Network;
use nn_poly::layer::Layer;

use super::*;
use crate::endpoint::{LocalEndpoint, ScoreKind};
use crate::fingerprint::tests::{fingerprint, fingerprint_without_originals, grid, model};
use crate::sample::InputGrid;

/// What to answer to the inputs of a query, and the number of queries before.
type Script = Box<dyn Fn(usize, &Array2<f32>) -> Option<Answers>>;

/// Answers as scripted.
struct Scripted {
    script: Script,
    asked: Vec<usize>,
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

    fn query(&mut self, inputs: &Array2<f32>) -> core::result::Result<Answers, EndpointError> {
        self.asked.push(inputs.nrows());
        let problem = "nothing to say".to_owned();
        let malformed = EndpointError::Malformed { problem };
        (self.script)(self.asked.len() - 1, inputs).ok_or(malformed)
    }
}

fn scripted(script: impl Fn(usize, &Array2<f32>) -> Option<Answers> + 'static) -> Scripted {
    Scripted { script: Box::new(script), asked: Vec::new(), grid: None, dim: (3, 2) }
}

/// An endpoint of labels: those of the true model, flipped where `is_wrong(query, rows, input)`.
fn labels(is_wrong: impl Fn(usize, usize, &[f32]) -> bool + 'static) -> Scripted {
    let network = model(2.0).spec().network.clone();
    scripted(move |query, inputs| {
        let mut endpoint = LocalEndpoint::new(&network, None).unwrap();
        let labels = endpoint.query(inputs).unwrap().labels();
        let rows = inputs.rows();
        let flipped = labels.iter().zip(rows).map(|(&label, row)| {
            if is_wrong(query, inputs.nrows(), &row.to_vec()) { 1 - label } else { label }
        });
        Some(Answers::Labels(flipped.collect()))
    })
}

/// An endpoint that gives the same scores to everything.
fn constant(row: [f64; 2], kind: ScoreKind) -> Scripted {
    scripted(move |_, inputs| {
        let values = Array2::from_shape_fn((inputs.nrows(), 2), |(_, class)| row[class]);
        Some(Answers::Scores { values, kind })
    })
}

fn outcome(mut endpoint: Scripted, fingerprint: &Fingerprint) -> AuditOutcome {
    audit(&mut endpoint, fingerprint, None, Repetition::Twice).unwrap().outcome
}

#[test]
fn the_true_model_is_the_same_under_every_rule_and_another_is_not() {
    let fingerprint = fingerprint_without_originals();
    for rule in ["top-1", "top-2", "decimals-3", "tolerance-1e-5"] {
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
            assert_eq!(audit.differing.is_empty(), is_same);
            let logits = matches!(audit.answers, Answers::Scores { kind: ScoreKind::Logits, .. });
            assert!(logits && audit.times == 2 && audit.control.is_none());
            assert_eq!(audit.answers.n_samples(), 2);
        }
    }
}

#[test]
fn answers_that_change_are_no_verdict() {
    let fingerprint = fingerprint_without_originals();
    let all = AuditOutcome::Unsteady { samples: vec![0, 1] };
    assert_eq!(outcome(labels(|_, _, _| false), &fingerprint), AuditOutcome::Same);
    assert_eq!(outcome(labels(|query, _, _| query == 1), &fingerprint), all);
    assert_eq!(outcome(labels(|query, _, _| query == 0), &fingerprint), all);
    let mut once = labels(|query, _, _| query == 0);
    let audit = audit(&mut once, &fingerprint, None, Repetition::Once).unwrap();
    assert_eq!(audit.outcome, AuditOutcome::Different { samples: vec![0, 1] });
    assert_eq!(once.asked, [2]);
    assert_eq!(all.exit_code(), 2);
}

/// Wrong twice is what one in four fair coins does.
#[test]
fn samples_that_differ_are_asked_again_before_that_counts() {
    let fingerprint = fingerprint_without_originals();
    let mut wrong = labels(|_, _, _| true);
    let found = audit(&mut wrong, &fingerprint, None, Repetition::Twice).unwrap();
    assert_eq!(found.outcome, AuditOutcome::Different { samples: vec![0, 1] });
    assert_eq!((found.differing, found.n_samples), (vec![0, 1], 2));
    assert_eq!(wrong.asked[..4], [2, 2, 2, 1], "other batch sizes");
    assert_eq!(wrong.asked.iter().sum::<usize>(), 2 * (2 + CONFIRMATIONS as usize));

    let all = AuditOutcome::Unsteady { samples: vec![0, 1] };
    for last in 2..=6 {
        let late = move |query: usize, _: usize, _: &[f32]| query < last;
        let outcome = outcome(labels(late), &fingerprint);
        assert!(matches!(outcome, AuditOutcome::Unsteady { .. }), "{last}: {outcome:?}");
    }
    // A service that normalizes over its batch answers otherwise when asked alone.
    assert_eq!(outcome(labels(|_, rows, _| rows > 1), &fingerprint), all);
    // One sample that differs for good does not vouch for another that does not.
    let first = |row: &[f32]| row[0] == 0.0;
    let mixed = labels(move |query, _, row| first(row) || query < 2);
    assert_eq!(outcome(mixed, &fingerprint), AuditOutcome::Unsteady { samples: vec![1] });
    let one = labels(move |_, _, row| first(row));
    assert_eq!(outcome(one, &fingerprint), AuditOutcome::Different { samples: vec![0] });
}

#[test]
fn a_service_that_gets_natural_samples_wrong_does_not_fit() {
    let fingerprint = fingerprint();
    let originals = fingerprint.originals().unwrap();
    let is_original = move |row: &[f32]| originals.rows().into_iter().any(|o| o.to_vec() == row);
    let expected = AuditOutcome::DoesNotFit { n_disagreeing: 2, n_originals: 2 };
    // Permuted classes, as by labels that count from 1.
    let mut permuted = labels(|_, _, _| true);
    let found = audit(&mut permuted, &fingerprint, None, Repetition::Twice).unwrap();
    assert_eq!((&found.outcome, found.outcome.exit_code()), (&expected, 2));
    assert_eq!(permuted.asked, [4, 4], "the control rides along");
    // A tampered model gets them right.
    let natural = is_original.clone();
    let tampered = labels(move |_, _, row| !natural(row));
    let different = AuditOutcome::Different { samples: vec![0, 1] };
    assert_eq!(outcome(tampered, &fingerprint), different);
    // Half of them is not most.
    let natural = is_original.clone();
    let half = labels(move |_, _, row| !natural(row) || row[0] == 0.0);
    assert_eq!(outcome(half, &fingerprint), different);
    // Chance comes first, and agreement on the samples alone is suspicious.
    let unsteady = labels(|query, _, _| query == 0);
    assert!(matches!(outcome(unsteady, &fingerprint), AuditOutcome::Unsteady { .. }));
    assert_eq!(outcome(labels(move |_, _, row| is_original(row)), &fingerprint), expected);
}

#[test]
fn answers_that_tell_nothing_are_no_agreement() {
    let fingerprint = fingerprint_without_originals();
    let mut vague = constant([0.5, 0.5], ScoreKind::Probabilities);
    let found = audit(&mut vague, &fingerprint, None, Repetition::Twice).unwrap();
    assert_eq!((found.outcome, found.n_tied), (AuditOutcome::Undecided, 2));
    assert_eq!(AuditOutcome::Undecided.exit_code(), 2);
    let clear = constant([0.2, 0.8], ScoreKind::Probabilities);
    assert_eq!(outcome(clear, &fingerprint), AuditOutcome::Same);
}

#[test]
fn nothing_is_asked_when_nothing_could_be_concluded() {
    let fingerprint = fingerprint();
    let silent = || scripted(|_, _| None);
    let check = |mut endpoint: Scripted, rule: &str| {
        let rule = Some(rule.parse().unwrap());
        let error = audit(&mut endpoint, &fingerprint, rule, Repetition::Once).unwrap_err();
        assert!(matches!(error, AuditError::Setup(_)), "{error}");
        assert!(endpoint.asked.is_empty(), "{error}");
    };
    check(Scripted { dim: (4, 2), ..silent() }, "top-1");
    check(Scripted { dim: (3, 5), ..silent() }, "top-1");
    check(Scripted { grid: Some(InputGrid::bytes()), ..silent() }, "top-1");
    for rule in ["top-3", "exact", "decimals-5", "tolerance-1e-6"] {
        check(silent(), rule);
    }
    let error = audit(&mut silent(), &fingerprint, None, Repetition::Once).unwrap_err();
    assert!(matches!(error, AuditError::Endpoint(EndpointError::Malformed { .. })));
    let coarse = &mut labels(|_, _, _| false);
    let rule = Some(ComparisonRule::Decimals(2));
    let error = audit(coarse, &fingerprint, rule, Repetition::Once).unwrap_err();
    assert!(matches!(error, AuditError::Setup(Error::RuleNeedsMore { .. })));
    let short = &mut scripted(|_, _| Some(Answers::Integers(array![[1, 2]])));
    let error = audit(short, &fingerprint, None, Repetition::Once).unwrap_err();
    assert!(matches!(error, AuditError::Setup(Error::LengthMismatch { .. })));
}
