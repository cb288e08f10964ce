//! From samples to the JSON a service expects, and from its reply to answers.

use std::collections::HashMap;

use fingerprint::InputGrid;
use fingerprint::endpoint::{Answers, EndpointError, ScoreKind};
use ndarray::{Array2, ArrayView1, ArrayView2};
use nn_poly::Shape;
use nn_poly::import::Preprocessing;
use serde_json::Value;

use super::http::HttpSpec;

/// Most levels of nesting of a sample.
const MAX_RANK: usize = 8;

/// What a service's reply holds for each sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerForm {
    /// One class: its number, counted from [`HttpSpec::first_label`](super::HttpSpec), or its name. A
    /// string is a name always: `"7"` is the class called 7, wherever it stands, and never number 7.
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

/// The order of the axes of an image in requests. Samples without three axes have one order only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ImageLayout {
    /// Height, width, channels (HWC), as networks here take it.
    #[default]
    ChannelsLast,
    /// Channels, height, width (CHW).
    ChannelsFirst,
}

impl ImageLayout {
    /// Refuse a layout for samples that are no images.
    pub(super) fn check(self, shape: &Shape) -> Result<(), EndpointError> {
        if self == Self::ChannelsLast || shape.dims().len() == 3 {
            return Ok(());
        }
        let problem = format!("is for images, samples have shape {shape}: leave it out");
        Err(setting("channels first", problem))
    }

    /// One sample's numbers and extents in this order.
    fn arranged(self, numbers: Vec<Value>, shape: &Shape) -> (Vec<Value>, Vec<usize>) {
        match (self, shape.dims()) {
            (Self::ChannelsFirst, &[height, width, channels]) => {
                let planes = (0..channels)
                    .flat_map(|channel| numbers.iter().skip(channel).step_by(channels).cloned());
                (planes.collect(), vec![channels, height, width])
            }
            (Self::ChannelsFirst | Self::ChannelsLast, dims) => (numbers, dims.to_vec()),
        }
    }
}

/// How a service calls its classes.
#[derive(Debug, Clone)]
pub(super) struct ClassNumbers {
    n_classes: usize,
    first: u32,
    /// `None` if two classes have the same name.
    by_name: Option<HashMap<String, u32>>,
}

impl ClassNumbers {
    /// Classes of these names, counted from `first`.
    pub(super) fn new(names: &[String], first: u32) -> Result<Self, EndpointError> {
        if first > 1 {
            return Err(setting("the number of the first class", "must be 0 or 1"));
        }
        let by_name: HashMap<String, u32> =
            (0_u32..).zip(names).map(|(class, name)| (name.clone(), class)).collect();
        let by_name = (by_name.len() == names.len()).then_some(by_name);
        Ok(Self { n_classes: names.len(), first, by_name })
    }

    /// The class that a number or name stands for. Numbers count from the first class; strings are
    /// names, also those that look like numbers.
    fn class(&self, item: &Value) -> Option<u32> {
        match item {
            Value::Number(number) => {
                let number = u32::try_from(number.as_u64()?).ok()?;
                number.checked_sub(self.first).filter(|&class| (class as usize) < self.n_classes)
            }
            Value::String(name) => self.by_name.as_ref()?.get(name).copied(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        }
    }
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
        spec: &HttpSpec,
    ) -> Value {
        let mut encoded = samples.rows().into_iter().map(|row| {
            let numbers = numbers(row, grid, &spec.units);
            let (numbers, dims) = spec.layout.arranged(numbers, shape);
            nested(&numbers, if self.placeholder.is_nested { &dims } else { &[] })
        });
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
            // As it is: in double precision it would be written with more digits.
            InputUnits::Preprocessed | InputUnits::Raw(Preprocessing::UnitRange) => value.into(),
            InputUnits::Raw(preprocessing) => preprocessing.raw(feature, value).into(),
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
    classes: ClassNumbers,
}

impl ResponsePattern {
    /// Parse a JSON pointer (RFC 6901) in which one token may be `*`: the index of the sample.
    pub(super) fn new(
        pointer: &str,
        form: AnswerForm,
        classes: ClassNumbers,
        is_batch: bool,
    ) -> Result<Self, EndpointError> {
        const NAME: &str = "the response pointer";
        if matches!(form, AnswerForm::Labels | AnswerForm::Ranked) && classes.by_name.is_none() {
            let problem = "are not unique, so that an answer by name could mean either class: give \
                           each class of the model its own name, or ask for scores (--answers)";
            return Err(setting("the names of the classes", problem));
        }
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
        Ok(Self { before, after, form, classes })
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
                values: self.matrix(items, self.classes.n_classes, number)?,
                kind: ScoreKind::Logits,
            }),
            AnswerForm::Probabilities => {
                let values = self.matrix(items, self.classes.n_classes, |sample, item| {
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
                let values = self.matrix(items, self.classes.n_classes, |sample, item| {
                    item.as_i64().ok_or_else(|| {
                        malformed(format!("{} of sample {sample} is no whole number", cut(item)))
                    })
                })?;
                Ok(Answers::Integers(values))
            }
        }
    }

    fn class(&self, sample: usize, item: &Value) -> Result<u32, EndpointError> {
        self.classes.class(item).ok_or_else(|| {
            let ClassNumbers { n_classes, first, .. } = self.classes;
            malformed(format!(
                "{} of sample {sample} is none of the {n_classes} classes, counted from {first}",
                cut(item)
            ))
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
