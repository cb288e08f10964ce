#![allow(clippy::unwrap_used, reason = "tests")]

use ndarray::array;
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn names() -> Vec<String> {
    ["cat", "dog", "eel"].map(str::to_owned).to_vec()
}

fn fill(template: &str, units: &InputUnits) -> Value {
    let samples = array![[0.0_f32, 1.0, 0.25, 0.5], [1.0, 0.0, 0.75, 0.5]];
    let template = RequestTemplate::new(template).unwrap();
    let n = if template.is_batch() { 2 } else { 1 };
    let samples = samples.slice_axis(ndarray::Axis(0), (..n).into());
    let shape = Shape::image(2, 2, 1).unwrap();
    template.fill(samples, &shape, &InputGrid::new(0.0, 1.0, 4).unwrap(), units)
}

#[test]
fn samples_take_the_place_of_the_placeholder_alone() {
    let levels = InputUnits::Levels;
    let flat = fill(r#"{"model":"m","x":{"data":"{{inputs}}"},"n":[1,"{{"]}"#, &levels);
    assert_eq!(
        flat,
        json!({"model": "m", "x": {"data": [[0, 4, 1, 2], [4, 0, 3, 2]]}, "n": [1, "{{"]})
    );
    let nested = fill(r#"{"instances":"{{images}}"}"#, &InputUnits::Preprocessed);
    let first = json!([[[0.0], [1.0]], [[0.25], [0.5]]]);
    assert_eq!(nested["instances"][0], first);
    assert_eq!(fill(r#""{{input}}""#, &levels), json!([0, 4, 1, 2]));
    assert_eq!(fill(r#"["{{image}}"]"#, &levels), json!([[[[0], [4]], [[1], [2]]]]));
}

#[test]
fn raw_units_undo_the_preprocessing() {
    let preprocessing =
        Preprocessing::Standardize { mean: vec![10.0; 4], deviation: vec![2.0; 4], clip: 3.0 };
    let raw = fill(r#""{{input}}""#, &InputUnits::Raw(preprocessing));
    assert_eq!(raw, json!([10.0, 12.0, 10.5, 11.0]));
}

#[test]
fn unusable_descriptions_are_refused() {
    for (template, expected) in [
        ("{", "not JSON"),
        (r#"{"x":"inputs"}"#, "no placeholder"),
        (r#"["{{inputs}}","{{image}}"]"#, "more than one placeholder"),
    ] {
        let error = RequestTemplate::new(template).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    for (pointer, is_batch, expected) in [
        ("labels", true, "start with `/`"),
        ("/*/a/*", true, "more than one"),
        ("/*/a", false, "one sample each"),
    ] {
        let pattern = ResponsePattern::new(pointer, AnswerForm::Labels, &names(), is_batch);
        let error = pattern.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

fn read(
    pointer: &str,
    form: AnswerForm,
    reply: &Value,
    n: usize,
) -> Result<Answers, EndpointError> {
    let pattern = ResponsePattern::new(pointer, form, &names(), true).unwrap();
    let items: Vec<Value> = pattern.items(reply, n, true)?.into_iter().cloned().collect();
    pattern.answers(&items)
}

#[test]
fn answers_are_found_in_every_form() {
    let labels = Answers::Labels(vec![1, 2]);
    for (pointer, reply) in [
        ("/labels", json!({"labels": [1, 2]})),
        ("", json!(["dog", "eel"])),
        ("/out/*/best", json!({"out": [{"best": "dog"}, {"best": 2}]})),
        ("/*/0/label", json!([[{"label": "dog"}], [{"label": "eel"}]])),
    ] {
        assert_eq!(read(pointer, AnswerForm::Labels, &reply, 2).unwrap(), labels, "{pointer}");
    }
    let ranked = read("", AnswerForm::Ranked, &json!([["eel", 0], [1, 2]]), 2).unwrap();
    assert_eq!(ranked, Answers::Ranked(array![[2, 0], [1, 2]]));
    let scores = json!([[0.5, 0.25, 0.25], [1, 0, 0]]);
    let values = array![[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]];
    for (form, kind) in [
        (AnswerForm::Logits, ScoreKind::Logits),
        (AnswerForm::Probabilities, ScoreKind::Probabilities),
    ] {
        let expected = Answers::Scores { values: values.clone(), kind };
        assert_eq!(read("", form, &scores, 2).unwrap(), expected);
    }
    let integers = read("", AnswerForm::Integers, &json!([[9007199254740993_i64, -1, 0]]), 1);
    assert_eq!(integers.unwrap(), Answers::Integers(array![[9_007_199_254_740_993, -1, 0]]));
}

#[test]
fn malformed_replies_are_named() {
    use AnswerForm::{Integers, Labels, Logits, Probabilities, Ranked};
    for (form, reply, expected) in [
        (Labels, json!([1]), "1 answers to 2 samples"),
        (Labels, json!({"a": 1}), "no list"),
        (Labels, json!([1, 3]), "none of the 3 classes"),
        (Labels, json!([1, -1]), "none of the 3 classes"),
        (Labels, json!([1, 1.5]), "none of the 3 classes"),
        (Labels, json!(["dog", "cow"]), "\"cow\" of sample 1"),
        (Ranked, json!([1, 2]), "no list of classes"),
        (Ranked, json!([[1, 1], [1, 2]]), "ranks a class twice"),
        (Ranked, json!([[1, 2], [1]]), "sample 1 has 1 numbers, expected 2"),
        (Logits, json!([[1, 2], [1, 2]]), "expected 3"),
        (Logits, json!([[1, 2, null], [1, 2, 3]]), "null of sample 0 is no number"),
        (Logits, json!([[1, 2, "NaN"], [1, 2, 3]]), "is no number"),
        (Probabilities, json!([[1.5, 0, 0], [1, 0, 0]]), "no probability"),
        (Integers, json!([[1, 2, 3.5], [1, 2, 3]]), "no whole number"),
    ] {
        let error = read("", form, &reply, 2).unwrap_err();
        assert!(matches!(error, EndpointError::Malformed { .. }), "{error}");
        assert!(error.to_string().contains(expected), "`{error}` lacks `{expected}`");
    }
    let missing = read("/out/*/best", Labels, &json!({"out": [{"best": 1}, {}]}), 2).unwrap_err();
    assert!(missing.to_string().contains("sample 1 has nothing at `/best`"), "{missing}");
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z]{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| prop::collection::vec(inner, 0..4).prop_map(Value::from))
}

proptest! {
    #[test]
    fn no_reply_panics(reply in any_json(), n in 0_usize..3) {
        use AnswerForm::{Integers, Labels, Logits, Probabilities, Ranked};
        for form in [Labels, Ranked, Logits, Probabilities, Integers] {
            let _ = read("", form, &reply, n);
            let _ = read("/*/0", form, &reply, n);
        }
    }
}
