#![allow(clippy::unwrap_used, reason = "tests")]

use ndarray::{Array2, array};
use proptest::prelude::*;

use super::*;

fn logits(values: Array2<f64>) -> Answers {
    Answers::Scores { values, kind: ScoreKind::Logits }
}

fn probabilities(values: Array2<f64>) -> Answers {
    Answers::Scores { values, kind: ScoreKind::Probabilities }
}

fn check(rule: &str, reference: &Answers, answers: &Answers, expected: bool) {
    let rule: ComparisonRule = rule.parse().unwrap();
    assert_eq!(rule.differs(reference, answers).unwrap(), [expected], "{rule}");
}

#[test]
fn each_rule_sees_what_it_should_and_nothing_finer() {
    let reference = logits(array![[3.0, 2.0, 1.0]]);
    let swapped_tail = logits(array![[3.0, 1.0, 2.0]]);
    let nudged = logits(array![[3.000_001, 2.0, 1.0]]);
    let moved = logits(array![[3.1, 2.0, 1.0]]);
    let flipped = logits(array![[2.0, 3.0, 1.0]]);
    for (rule, seen) in [
        ("top-1", [false, false, false, true]),
        ("top-2", [true, false, false, true]),
        ("top-3", [true, false, false, true]),
        ("decimals-1", [true, false, false, true]),
        ("decimals-2", [true, false, true, true]),
        ("tolerance-1e-3", [true, false, true, true]),
        ("exact", [true, true, true, true]),
    ] {
        check(rule, &reference, &reference, false);
        for (answers, seen) in [&swapped_tail, &nudged, &moved, &flipped].into_iter().zip(seen) {
            check(rule, &reference, answers, seen);
        }
    }
}

#[test]
fn a_rounded_answer_of_an_honest_endpoint_agrees() {
    let reference = probabilities(array![[0.125, 0.875]]);
    for honest in [array![[0.12, 0.88]], array![[0.13, 0.87]], array![[0.125_000_4, 0.874_999_6]]] {
        check("decimals-2", &reference, &probabilities(honest), false);
    }
    check("decimals-2", &reference, &probabilities(array![[0.14, 0.86]]), true);
}

#[test]
fn logits_meet_probabilities_halfway() {
    let reference = logits(array![[0.0, 0.0]]);
    check("tolerance-1e-9", &reference, &probabilities(array![[0.5, 0.5]]), false);
    check("tolerance-1e-2", &reference, &probabilities(array![[0.6, 0.4]]), true);
    check("decimals-3", &probabilities(array![[0.5, 0.5]]), &reference, false);
}

#[test]
fn integers_are_compared_exactly_whatever_their_size() {
    let reference = Answers::Integers(array![[i64::MAX, i64::MIN]]);
    check("exact", &reference, &reference, false);
    check("exact", &reference, &Answers::Integers(array![[i64::MAX - 1, i64::MIN]]), true);
}

#[test]
fn what_an_endpoint_does_not_tell_cannot_be_compared() {
    let labels = Answers::Labels(vec![1]);
    let integers = Answers::Integers(array![[1, 2]]);
    let floats = logits(array![[1.0, 2.0]]);
    for (rule, reference, answers) in [
        ("top-2", &floats, &labels),
        ("exact", &floats, &labels),
        ("decimals-1", &integers, &integers),
        ("tolerance-1e-3", &integers, &floats),
        ("top-3", &floats, &floats),
    ] {
        let rule: ComparisonRule = rule.parse().unwrap();
        let error = rule.differs(reference, answers).unwrap_err();
        assert!(matches!(error, Error::RuleNeedsMore { .. }), "{rule}: {error}");
    }
    let error = ComparisonRule::Top1.differs(&labels, &Answers::Labels(vec![])).unwrap_err();
    assert!(matches!(error, Error::LengthMismatch { .. }));
    let broken = logits(array![[f64::NAN, 0.0]]);
    let error = ComparisonRule::Top1.differs(&floats, &broken).unwrap_err();
    assert_eq!(error, Error::AnswerNotFinite { sample: 0 });
    let wide = logits(array![[1.0, 2.0, 3.0]]);
    let error = ComparisonRule::Exact.differs(&floats, &wide).unwrap_err();
    assert!(matches!(error, Error::LengthMismatch { .. }));
}

#[test]
fn names_survive_the_round_trip_and_nonsense_is_refused() {
    for rule in [
        ComparisonRule::Top1,
        ComparisonRule::TopK(5),
        ComparisonRule::Decimals(0),
        ComparisonRule::Decimals(6),
        ComparisonRule::Exact,
        ComparisonRule::Tolerance(0.0),
        ComparisonRule::Tolerance(1.5e-7),
    ] {
        assert_eq!(rule.to_string().parse::<ComparisonRule>().unwrap(), rule);
    }
    for text in [
        "",
        "top",
        "top-0",
        "top-",
        "top-x",
        "decimals-7",
        "tolerance--1",
        "tolerance-nan",
        "equal",
    ] {
        assert!(text.parse::<ComparisonRule>().is_err(), "{text}");
    }
}

proptest! {
    /// Whatever a coarse rule notices, every finer one notices too.
    #[test]
    fn rules_are_ordered(
        a in prop::collection::vec(-3.0_f64..3.0, 6),
        b in prop::collection::vec(-3.0_f64..3.0, 6),
    ) {
        let a = logits(Array2::from_shape_vec((1, 6), a).unwrap());
        let b = logits(Array2::from_shape_vec((1, 6), b).unwrap());
        let seen = |rule: ComparisonRule| rule.differs(&a, &b).unwrap()[0];
        let chain = [ComparisonRule::Top1, ComparisonRule::TopK(3), ComparisonRule::TopK(6), ComparisonRule::Exact];
        for pair in chain.windows(2) {
            prop_assert!(!seen(pair[0]) || seen(pair[1]), "{} but not {}", pair[0], pair[1]);
        }
    }

    /// Rounding a probability never makes an honest answer differ, at any number of decimals.
    #[test]
    fn honest_rounding_agrees(p in 0.0_f64..1.0, error in -9e-8_f64..9e-8, n in 0_u32..=5) {
        let scale = 10_f64.powi(i32::try_from(n).unwrap());
        let reference = probabilities(array![[p]]);
        let answer = probabilities(array![[((p + error) * scale).round() / scale]]);
        prop_assert!(!ComparisonRule::Decimals(n).differs(&reference, &answer).unwrap()[0]);
    }
}
