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
    let moved = logits(array![[3.123_456_78, 2.0, 1.0]]);
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
fn classes_that_rounding_makes_equal_are_no_difference() {
    // Ten classes near 0.1, as the samples of `tie` have them; the last one is ahead.
    let p: Vec<f64> = (0..10).map(|i| 0.1 + (f64::from(i) - 4.5) * 9.7654e-6).collect();
    let z = Array2::from_shape_vec((1, 10), p.iter().map(|p| p.ln()).collect()).unwrap();
    let p = Array2::from_shape_vec((1, 10), p).unwrap();
    for decimals in [1, 2, 4] {
        let per_unit = 10_f64.powi(decimals);
        let rounded = probabilities(p.mapv(|p| (p * per_unit).round() / per_unit));
        assert_ne!(rounded.labels(), logits(z.clone()).labels(), "the first of equals");
        for rule in ["top-1", "top-3", "top-10", &format!("decimals-{decimals}")] {
            check(rule, &logits(z.clone()), &rounded, false);
        }
    }
    let unit = 0.01;
    let mut other = Array2::from_elem((1, 10), 0.1);
    other[[0, 8]] = 0.1 + unit;
    check("top-1", &logits(z.clone()), &probabilities(other.clone()), false);
    other[[0, 8]] = 0.1 + 2.0 * unit;
    for rule in ["top-1", "top-3"] {
        check(rule, &logits(z.clone()), &probabilities(other.clone()), true);
    }
    // Scores that are not rounded have to be ahead at all, no more.
    let mut ahead = p;
    ahead[[0, 2]] = ahead[[0, 9]] + 1e-9;
    check("top-1", &logits(z.clone()), &probabilities(ahead), true);
    // Whole numbers, such as an answer of one and zeros, are labels in disguise.
    let mut one_hot = Array2::zeros((1, 10));
    one_hot[[0, 3]] = 1.0;
    check("top-1", &logits(z), &probabilities(one_hot), true);
}

#[test]
fn ranks_that_floats_cannot_tell_apart_are_no_difference() {
    let reference = logits(array![[50.0, 40.000_01, 40.0, 1.0]]);
    let ranked = |ranks: [u32; 3]| Answers::Ranked(array![ranks]);
    check("top-3", &reference, &ranked([0, 2, 1]), false);
    check("top-3", &reference, &ranked([1, 0, 2]), true);
    check("top-3", &reference, &ranked([0, 1, 3]), true);
    check("top-1", &reference, &Answers::Labels(vec![7]), true);
    // Equal exact scores have no order; the next integer has.
    let exact = Answers::Integers(array![[5, 5, 4]]);
    check("top-1", &exact, &Answers::Labels(vec![1]), false);
    check("top-1", &exact, &Answers::Labels(vec![2]), true);
}

#[test]
fn large_logits_get_the_slack_their_floats_need() {
    // 1.5e-6 of 4000 moves the odds of a near tie by a percent.
    let reference = logits(array![[4000.0, 4000.0, -1000.0]]);
    let honest = logits(array![[4000.006, 3999.994, -1000.0]]).probabilities().unwrap();
    for rule in ["decimals-4", "decimals-3", "tolerance-1e-5"] {
        check(rule, &reference, &probabilities(honest.clone()), false);
        check(rule, &reference, &probabilities(array![[0.55, 0.44, 0.01]]), true);
    }
    let small = logits(array![[4.0, 4.0, -1.0]]);
    check("decimals-4", &small, &probabilities(honest), true);
}

#[test]
fn rules_finer_than_floats_are_refused_for_floats_only() {
    let floats = logits(array![[1.0, 2.0]]);
    let integers = Answers::Integers(array![[1, 2]]);
    for rule in ["decimals-5", "decimals-6", "tolerance-9e-6", "tolerance-0", "exact"] {
        let rule: ComparisonRule = rule.parse().unwrap();
        let error = rule.check_reference(&floats).unwrap_err().to_string();
        assert!(error.contains("tolerance-1e-5 or decimals-4"), "{error}");
        assert!(rule.check_reference(&integers).is_ok());
    }
    for rule in ["top-1", "top-2", "decimals-4", "tolerance-1e-5"] {
        assert!(rule.parse::<ComparisonRule>().unwrap().check_reference(&floats).is_ok());
    }
}

#[test]
fn answers_coarser_than_the_rule_are_an_error_unless_they_differ_all_the_same() {
    let reference = probabilities(array![[0.124, 0.876], [0.3, 0.7]]);
    let rounded = probabilities(array![[0.1, 0.9], [0.3, 0.7]]);
    for rule in ["decimals-3", "tolerance-1e-4"] {
        let rule: ComparisonRule = rule.parse().unwrap();
        let error = rule.differs(&reference, &rounded).unwrap_err();
        assert!(matches!(error, Error::CoarseAnswers { decimals: 1, .. }), "{error}");
        let other = probabilities(array![[0.1, 0.9], [0.5, 0.5]]);
        assert_eq!(rule.differs(&reference, &other).unwrap(), [false, true]);
    }
    check(
        "decimals-1",
        &probabilities(array![[0.124, 0.876]]),
        &probabilities(array![[0.1, 0.9]]),
        false,
    );
}

#[test]
fn advice_follows_the_decimals_of_the_answers() {
    let strictest = |answers: Answers| ComparisonRule::strictest_for(&answers);
    let p = array![[0.25, 0.75], [0.5, 0.5]];
    assert_eq!(strictest(probabilities(p.clone())), ComparisonRule::Decimals(2));
    assert_eq!(strictest(probabilities(p.mapv(|p: f64| p / 3.0))), ComparisonRule::Tolerance(1e-4));
    assert_eq!(
        strictest(probabilities(array![[0.123_456, 0.876_544]])),
        ComparisonRule::Decimals(MAX_FLOAT_DECIMALS)
    );
    let rounded = array![[12.5, -3.1], [0.5, 0.4]];
    let rule = strictest(logits(rounded.clone()));
    assert_eq!(rule, ComparisonRule::Tolerance(0.2));
    let honest = logits(rounded.mapv(|z| z + 0.049));
    assert_eq!(rule.differs(&honest, &logits(rounded)).unwrap(), [false, false]);
    assert_eq!(strictest(Answers::Ranked(array![[1, 0]])), ComparisonRule::TopK(2));
    assert_eq!(strictest(Answers::Integers(array![[1, 0]])), ComparisonRule::Exact);
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
    /// An honest endpoint that rounds never differs by rank or decimals, however close the classes.
    #[test]
    fn rounding_keeps_every_rank(
        z in prop::collection::vec(-1.0_f64..1.0, 2..8),
        width in -6_i32..2, decimals in 0_u32..=6, k in 1_usize..8,
    ) {
        let n = z.len();
        let z = Array2::from_shape_vec((1, n), z).unwrap() * 10_f64.powi(width);
        let reference = logits(z);
        let per_unit = 10_f64.powi(i32::try_from(decimals).unwrap());
        let p = reference.probabilities().unwrap();
        let rounded = probabilities(p.mapv(|p| (p * per_unit).round() / per_unit));
        prop_assert!(!ComparisonRule::TopK(k.min(n)).differs(&reference, &rounded).unwrap()[0]);
        let rule = ComparisonRule::strictest_for(&rounded);
        prop_assert!(!rule.differs(&reference, &rounded).unwrap()[0], "{}", rule);
    }
}
