//! From samples to the JSON a service expects, and from its reply to answers.

use std::collections::HashMap;

use fingerprint::InputGrid;
use fingerprint::endpoint::{Answers, EndpointError, ScoreKind};
use ndarray::{Array2, ArrayView1, ArrayView2};
use nn_poly::Shape;
use nn_poly::import::Preprocessing;
use serde_json::Value;

/// Most levels of nesting of a sample.
const MAX_RANK: usize = 8;

/// What a service's reply holds for each sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerForm {
    /// One class: its number or its name.
    Labels,
    /// A list of classes, best first.
    Ranked,
    /// One score per class, in the order of the classes.
    Logits,
    /// One probability per class, possibly rounded.
    Probabilities,
    /// One whole number per class.
    Integers,
}

/// What a service's inputs are.
#[derive(Debug, Clone, PartialEq)]
pub enum InputUnits {
    /// Levels of the fingerprint's grid: `0 ..= 255` for pixels of one byte.
    Levels,
    /// What the network sees, after preprocessing.
    Preprocessed,
    /// What the service preprocesses itself.
    Raw(Preprocessing),
}

/// What a placeholder stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Placeholder {
    name: &'static str,
    is_batch: bool,
    is_nested: bool,
}

const PLACEHOLDERS: [Placeholder; 4] = [
    Placeholder { name: "{{inputs}}", is_batch: true, is_nested: false },
    Placeholder { name: "{{images}}", is_batch: true, is_nested: true },
    Placeholder { name: "{{input}}", is_batch: false, is_nested: false },
    Placeholder { name: "{{image}}", is_batch: false, is_nested: true },
];

/// A JSON text in which one string is replaced by samples.
#[derive(Debug, Clone)]
pub(super) struct RequestTemplate {
    json: Value,
    placeholder: Placeholder,
}

fn setting(setting: &'static str, problem: impl Into<String>) -> EndpointError {
    EndpointError::Setting { setting, problem: problem.into() }
}

pub(super) fn malformed(problem: impl Into<String>) -> EndpointError {
    EndpointError::Malformed { problem: problem.into() }
}

impl RequestTemplate {
    /// Parse a template.
    pub(super) fn new(text: &str) -> Result<Self, EndpointError> {
        const NAME: &str = "the request template";
        let json: Value = serde_json::from_str(text)
            .map_err(|error| setting(NAME, format!("is not JSON: {error}")))?;
        let mut found = Vec::new();
        collect_placeholders(&json, &mut found);
        match *found.as_slice() {
            [placeholder] => Ok(Self { json, placeholder }),
            [] => Err(setting(
                NAME,
                "has no placeholder: write one of the strings \"{{inputs}}\", \"{{images}}\" (all \
                 samples, flat or nested by shape), \"{{input}}\", \"{{image}}\" (one per request)",
            )),
            _ => Err(setting(NAME, "has more than one placeholder")),
        }
    }

    /// Whether one request carries many samples.
    pub(super) fn is_batch(&self) -> bool {
        self.placeholder.is_batch
    }

    /// The body of a request for `samples`; exactly one sample if this is no batch template.
    pub(super) fn fill(
        &self,
        samples: ArrayView2<'_, f32>,
        shape: &Shape,
        grid: &InputGrid,
        units: &InputUnits,
    ) -> Value {
        let dims = if self.placeholder.is_nested { shape.dims() } else { &[] };
        let mut encoded =
            samples.rows().into_iter().map(|row| nested(&numbers(row, grid, units), dims));
        let content = if self.placeholder.is_batch {
            Value::Array(encoded.collect())
        } else {
            encoded.next().unwrap_or(Value::Null)
        };
        substituted(&self.json, self.placeholder.name, &content)
    }
}

fn collect_placeholders(json: &Value, found: &mut Vec<Placeholder>) {
    match json {
        Value::String(text) => {
            found.extend(PLACEHOLDERS.iter().find(|placeholder| placeholder.name == text));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_placeholders(item, found)),
        Value::Object(map) => map.values().for_each(|item| collect_placeholders(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn substituted(json: &Value, name: &str, content: &Value) -> Value {
    match json {
        Value::String(text) if text == name => content.clone(),
        Value::Array(items) => items.iter().map(|item| substituted(item, name, content)).collect(),
        Value::Object(map) => {
            map.iter().map(|(key, item)| (key.clone(), substituted(item, name, content))).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => json.clone(),
    }
}

/// One sample in the units of the service.
fn numbers(row: ArrayView1<'_, f32>, grid: &InputGrid, units: &InputUnits) -> Vec<Value> {
    row.iter()
        .enumerate()
        .map(|(feature, &value)| match units {
            InputUnits::Levels => grid.level(feature, f64::from(value)).into(),
            InputUnits::Preprocessed | InputUnits::Raw(Preprocessing::UnitRange) => value.into(),
            InputUnits::Raw(Preprocessing::Standardize { mean, deviation, .. }) => {
                let entry = |values: &[f32], default: f32| {
                    f64::from(values.get(feature).copied().unwrap_or(default))
                };
                (entry(mean, 0.0) + entry(deviation, 1.0) * f64::from(value)).into()
            }
        })
        .collect()
}

/// Numbers as nested lists of the given extents; a flat list without.
fn nested(numbers: &[Value], dims: &[usize]) -> Value {
    match dims.split_first() {
        Some((&first, rest)) if !rest.is_empty() && rest.len() < MAX_RANK && first > 0 => numbers
            .chunks((numbers.len() / first).max(1))
            .map(|chunk| nested(chunk, rest))
            .collect(),
        _ => Value::Array(numbers.to_vec()),
    }
}

/// Where a reply holds the answers, and in which form.
#[derive(Debug, Clone)]
pub(super) struct ResponsePattern {
    /// To the list of samples, or to the answer of the single sample.
    before: String,
    /// From an item of that list to its answer.
    after: String,
    form: AnswerForm,
    n_classes: usize,
    by_name: HashMap<String, u32>,
}

impl ResponsePattern {
    /// Parse a JSON pointer (RFC 6901) in which one token may be `*`: the index of the sample.
    pub(super) fn new(
        pointer: &str,
        form: AnswerForm,
        class_names: &[String],
        is_batch: bool,
    ) -> Result<Self, EndpointError> {
        const NAME: &str = "the response pointer";
        if !pointer.is_empty() && !pointer.starts_with('/') {
            return Err(setting(NAME, "must be empty or start with `/`, such as /predictions"));
        }
        let tokens: Vec<&str> = pointer.split('/').skip(1).collect();
        let stars: Vec<usize> =
            tokens.iter().enumerate().filter_map(|(i, &t)| (t == "*").then_some(i)).collect();
        let joined =
            |tokens: &[&str]| tokens.iter().map(|token| format!("/{token}")).collect::<String>();
        let (before, after) = match *stars.as_slice() {
            [] => (joined(&tokens), String::new()),
            [star] if is_batch => {
                let (before, after) = tokens.split_at(star);
                (joined(before), joined(after.get(1..).unwrap_or_default()))
            }
            [_] => return Err(setting(NAME, "has a `*` although requests carry one sample each")),
            _ => return Err(setting(NAME, "has more than one `*`")),
        };
        let by_name =
            (0_u32..).zip(class_names).map(|(class, name)| (name.clone(), class)).collect();
        Ok(Self { before, after, form, n_classes: class_names.len(), by_name })
    }

    /// The answer of each of `n_samples` samples.
    pub(super) fn items<'a>(
        &self,
        reply: &'a Value,
        n_samples: usize,
        is_batch: bool,
    ) -> Result<Vec<&'a Value>, EndpointError> {
        let found = reply
            .pointer(&self.before)
            .ok_or_else(|| malformed(format!("there is nothing at `{}`", self.before)))?;
        if !is_batch {
            return Ok(vec![found]);
        }
        let Value::Array(list) = found else {
            return Err(malformed(format!("there is no list at `{}`", self.before)));
        };
        if list.len() != n_samples {
            return Err(malformed(format!(
                "{} answers to {n_samples} samples at `{}`",
                list.len(),
                self.before
            )));
        }
        list.iter()
            .enumerate()
            .map(|(sample, item)| {
                item.pointer(&self.after).ok_or_else(|| {
                    malformed(format!("sample {sample} has nothing at `{}`", self.after))
                })
            })
            .collect()
    }

    /// Answers from one value per sample.
    pub(super) fn answers(&self, items: &[Value]) -> Result<Answers, EndpointError> {
        match self.form {
            AnswerForm::Labels => {
                let labels = items.iter().enumerate().map(|(i, item)| self.class(i, item));
                Ok(Answers::Labels(labels.collect::<Result<_, _>>()?))
            }
            AnswerForm::Ranked => {
                let width = match items.first() {
                    Some(Value::Array(first)) if !first.is_empty() => first.len(),
                    _ => return Err(malformed("the answer of sample 0 is no list of classes")),
                };
                let matrix = self.matrix(items, width, |sample, item| self.class(sample, item))?;
                for (sample, row) in matrix.rows().into_iter().enumerate() {
                    let mut seen: Vec<u32> = row.to_vec();
                    seen.sort_unstable();
                    seen.dedup();
                    if seen.len() != width {
                        return Err(malformed(format!("sample {sample} ranks a class twice")));
                    }
                }
                Ok(Answers::Ranked(matrix))
            }
            AnswerForm::Logits => Ok(Answers::Scores {
                values: self.matrix(items, self.n_classes, number)?,
                kind: ScoreKind::Logits,
            }),
            AnswerForm::Probabilities => {
                let values = self.matrix(items, self.n_classes, |sample, item| {
                    number(sample, item).and_then(|p| {
                        // Rounding in single precision may leave the interval by a little.
                        if (-1e-6..=1.0 + 1e-6).contains(&p) {
                            Ok(p)
                        } else {
                            Err(malformed(format!("{p} of sample {sample} is no probability")))
                        }
                    })
                })?;
                Ok(Answers::Scores { values, kind: ScoreKind::Probabilities })
            }
            AnswerForm::Integers => {
                let values = self.matrix(items, self.n_classes, |sample, item| {
                    item.as_i64().ok_or_else(|| {
                        malformed(format!("{} of sample {sample} is no whole number", cut(item)))
                    })
                })?;
                Ok(Answers::Integers(values))
            }
        }
    }

    fn class(&self, sample: usize, item: &Value) -> Result<u32, EndpointError> {
        let known =
            |class: u64| u32::try_from(class).ok().filter(|&c| (c as usize) < self.n_classes);
        let class = match item {
            Value::Number(number) => number.as_u64().and_then(known),
            Value::String(name) => self.by_name.get(name).copied(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        };
        class.ok_or_else(|| {
            let n = self.n_classes;
            malformed(format!("{} of sample {sample} is none of the {n} classes", cut(item)))
        })
    }

    fn matrix<T: Default + Clone>(
        &self,
        items: &[Value],
        width: usize,
        read: impl Fn(usize, &Value) -> Result<T, EndpointError>,
    ) -> Result<Array2<T>, EndpointError> {
        let mut matrix = Array2::default((items.len(), width));
        for (sample, (item, mut row)) in items.iter().zip(matrix.rows_mut()).enumerate() {
            let Value::Array(list) = item else {
                return Err(malformed(format!("the answer of sample {sample} is no list")));
            };
            if list.len() != width {
                return Err(malformed(format!(
                    "sample {sample} has {} numbers, expected {width}",
                    list.len()
                )));
            }
            for (target, item) in row.iter_mut().zip(list) {
                *target = read(sample, item)?;
            }
        }
        Ok(matrix)
    }
}

fn number(sample: usize, item: &Value) -> Result<f64, EndpointError> {
    item.as_f64()
        .filter(|value| value.is_finite())
        .ok_or_else(|| malformed(format!("{} of sample {sample} is no number", cut(item))))
}

/// A foreign value in a message.
fn cut(item: &Value) -> String {
    let text = item.to_string();
    text.chars().take(40).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests;
