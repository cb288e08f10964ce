#![allow(clippy::unwrap_used, reason = "tests")]

use ndarray::array;
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn names() -> Vec<String> {
    ["cat", "dog", "eel"].map(str::to_owned).to_vec()
}

fn classes() -> ClassNumbers {
    ClassNumbers::new(&names(), 0).unwrap()
}

fn fill(template: &str, units: &InputUnits) -> Value {
    fill_in(template, units, ImageLayout::ChannelsLast)
}

fn fill_in(template: &str, units: &InputUnits, layout: ImageLayout) -> Value {
    let spec = HttpSpec { units: units.clone(), layout, ..HttpSpec::new("", AnswerForm::Labels) };
    let samples = array![[0.0_f32, 1.0, 0.25, 0.5], [1.0, 0.0, 0.75, 0.5]];
    let template = RequestTemplate::new(template).unwrap();
    let n = if template.is_batch() { 2 } else { 1 };
    let samples = samples.slice_axis(ndarray::Axis(0), (..n).into());
    let shape = Shape::image(2, 2, 1).unwrap();
    template.fill(samples, &shape, &InputGrid::new(0.0, 1.0, 4).unwrap(), &spec)
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
fn axes_of_images_come_in_the_order_of_the_service() {
    let shape = Shape::image(2, 3, 2).unwrap();
    let grid = InputGrid::new(0.0, 11.0, 11).unwrap();
    // In HWC order value = 6 y + 2 x + channel.
    let samples = array![[0.0_f32, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]];
    let fill = |template: &str, layout| {
        let spec = HttpSpec { layout, ..HttpSpec::new("", AnswerForm::Labels) };
        RequestTemplate::new(template).unwrap().fill(samples.view(), &shape, &grid, &spec)
    };
    use ImageLayout::{ChannelsFirst, ChannelsLast};
    let hwc = json!([[[0, 1], [2, 3], [4, 5]], [[6, 7], [8, 9], [10, 11]]]);
    assert_eq!(fill(r#""{{image}}""#, ChannelsLast), hwc);
    let chw = json!([[[0, 2, 4], [6, 8, 10]], [[1, 3, 5], [7, 9, 11]]]);
    assert_eq!(fill(r#""{{image}}""#, ChannelsFirst), chw);
    let flat = json!([[0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11]]);
    assert_eq!(fill(r#""{{inputs}}""#, ChannelsFirst), flat);
    assert!(ChannelsFirst.check(&shape).is_ok());
    let vector = Shape::vector(12).unwrap();
    assert!(ChannelsLast.check(&vector).is_ok());
    let error = ChannelsFirst.check(&vector).unwrap_err().to_string();
    assert!(error.contains("channels first is for images"), "{error}");
}

#[test]
fn classes_are_counted_from_the_first_label_and_strings_are_names() {
    let names = ["1", "0", "ten"].map(str::to_owned);
    let read = |first, reply: Value| {
        let classes = ClassNumbers::new(&names, first).unwrap();
        let pattern = ResponsePattern::new("", AnswerForm::Labels, classes, true).unwrap();
        pattern.answers(reply.as_array().unwrap()).ok()
    };
    let labels = |labels: [u32; 2]| Some(Answers::Labels(labels.to_vec()));
    assert_eq!(read(0, json!([0, 2])), labels([0, 2]));
    assert_eq!(read(1, json!([1, 3])), labels([0, 2]));
    assert_eq!(read(0, json!(["1", "0"])), labels([0, 1]), "names, whatever they look like");
    assert_eq!(read(1, json!(["1", "0"])), labels([0, 1]));
    for (first, reply) in [(1, json!([0])), (0, json!([3])), (1, json!([4])), (0, json!(["2"]))] {
        assert_eq!(read(first, reply), None);
    }
    assert!(ClassNumbers::new(&names, 2).is_err());
}

#[test]
fn names_that_two_classes_share_are_refused_where_answers_may_be_names() {
    let names = ["cat", "dog", "cat"].map(str::to_owned);
    let classes = ClassNumbers::new(&names, 0).unwrap();
    for form in [AnswerForm::Labels, AnswerForm::Ranked] {
        let error = ResponsePattern::new("", form, classes.clone(), true).unwrap_err();
        assert!(matches!(error, EndpointError::Setting { .. }), "{error}");
        assert!(error.to_string().contains("not unique"), "{error}");
    }
    assert!(ResponsePattern::new("", AnswerForm::Logits, classes, true).is_ok());
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
        let pattern = ResponsePattern::new(pointer, AnswerForm::Labels, classes(), is_batch);
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
    let pattern = ResponsePattern::new(pointer, form, classes(), true).unwrap();
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

    /// Replies with some bytes changed are refused, or answer every sample within its classes.
    #[test]
    fn changed_bytes_of_a_reply_give_an_error_or_usable_answers(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        use AnswerForm::{Integers, Labels, Logits, Probabilities, Ranked};
        let replies = [
            (Labels, r#"{"o":[{"a":1},{"a":"eel"}]}"#),
            (Ranked, r#"{"o":[{"a":[1,"cat"]},{"a":[2,0]}]}"#),
            (Logits, r#"{"o":[{"a":[1.5,-2e3,0]},{"a":[1,2,3]}]}"#),
            (Probabilities, r#"{"o":[{"a":[0.5,0.25,0.25]},{"a":[1,0,0]}]}"#),
            (Integers, r#"{"o":[{"a":[5,-7,0]},{"a":[1,2,3]}]}"#),
        ];
        for (form, reply) in replies {
            let mut bytes = reply.as_bytes().to_vec();
            for (position, value) in &changes {
                let position = position.index(bytes.len());
                bytes[position] = *value;
            }
            let Ok(reply) = serde_json::from_slice::<Value>(&bytes) else { continue };
            let Ok(answers) = read("/o/*/a", form, &reply, 2) else { continue };
            prop_assert_eq!(answers.n_samples(), 2);
            prop_assert_eq!(answers.first_not_finite(), None);
            prop_assert!(answers.labels().iter().all(|&label| label < 3));
        }
    }
}
