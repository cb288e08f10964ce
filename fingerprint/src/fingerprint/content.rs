//! What a fingerprint file holds, and when its parts fit together.

use ndarray::Array2;
use nn_poly::Shape;
use nn_poly::import::Preprocessing;
use nn_poly::plan::Digest;
use serde::{Deserialize, Serialize};

use super::packed::Packed;
use super::steady::{check_margin, standings};
use super::{MAX_FINGERPRINT_SAMPLES, MAX_NAME_BYTES};
use crate::endpoint::{Answers, ScoreKind};
use crate::error::{Error, Result};
use crate::generate::GeneratorKind;
use crate::rule::ComparisonRule;
use crate::sample::{InputGrid, SampleInfo};
use crate::select::SelectionRule;

/// A fingerprint as it is stored, without the count of uses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Content {
    pub(super) name: String,
    pub(super) model: Option<Digest>,
    pub(super) plan: Option<Digest>,
    pub(super) shape: Shape,
    pub(super) class_names: Vec<String>,
    pub(super) preprocessing: Preprocessing,
    pub(super) generator: GeneratorKind,
    pub(super) selection: SelectionRule,
    pub(super) seed: u64,
    pub(super) grid: InputGrid,
    pub(super) samples: Vec<SampleInfo>,
    /// `(samples, features)`: levels of the grid.
    pub(super) levels: Packed,
    pub(super) originals: Option<Originals>,
    pub(super) reference: Reference,
    pub(super) rule: ComparisonRule,
    /// Smallest `(z₁ − z₂)/max|z|` of the reference.
    pub(super) margin: f64,
    /// Per segment of the plan `(outputs, samples)`: what a client must decrypt.
    pub(super) segments: Vec<Packed>,
}

/// The natural samples that the others started from: the control of an audit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Originals {
    /// `(samples, features)`: levels of the grid.
    pub(super) levels: Packed,
    /// What the reference makes of each.
    pub(super) labels: Vec<u32>,
}

/// The true model's answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Reference {
    /// `(samples, classes)`: outputs of the float network.
    Logits(Array2<f64>),
    /// `(samples, classes)`: exact scores.
    Integers(Packed),
}

impl Content {
    pub(super) fn check(&self) -> Result<()> {
        let n = self.samples.len();
        if n == 0 || n > MAX_FINGERPRINT_SAMPLES {
            let (actual, max) = (n as u64, MAX_FINGERPRINT_SAMPLES as u64);
            return Err(Error::CountOutOfRange { name: "number of samples", actual, min: 1, max });
        }
        let malformed = |what| Err(Error::MalformedFingerprint { what });
        if self.name.len() > MAX_NAME_BYTES {
            return malformed("name");
        }
        let n_features = self.shape.len();
        let n_classes = self.class_names.len();
        self.preprocessing.check(n_features)?;
        self.grid.check(n_features)?;
        self.rule.check()?;
        if !is_single_precision(&self.grid, n_features) {
            return malformed("input grid");
        }
        let n_steps = i64::from(self.grid.n_steps());
        let originals = self.originals.as_ref();
        for packed in [Some(&self.levels), originals.map(|o| &o.levels)].into_iter().flatten() {
            check_dim("levels of the samples", (n, n_features), packed.dim())?;
            if packed.unpack().iter().any(|level| !(0..=n_steps).contains(level)) {
                return malformed("level of a sample");
            }
        }
        let dim = match &self.reference {
            Reference::Logits(values) => values.dim(),
            Reference::Integers(packed) => packed.dim(),
        };
        check_dim("scores of the samples", (n, n_classes), dim)?;
        match (&self.reference, self.model, self.plan) {
            (Reference::Logits(values), Some(_), None) if self.segments.is_empty() => {
                if values.iter().any(|value| !value.is_finite()) {
                    return malformed("score of a sample");
                }
            }
            (Reference::Integers(_), None, Some(_)) if !self.segments.is_empty() => {}
            _ => return malformed("binding to a model or plan"),
        }
        let info = |info: &SampleInfo| {
            let is_class = |&class: &u32| (class as usize) < n_classes;
            is_class(&info.label) && info.tied.iter().all(is_class) && !info.margin.is_nan()
        };
        if !self.samples.iter().all(info) {
            return malformed("label or margin of a sample");
        }
        if let Some(originals) = originals {
            check_dim("labels of the natural samples", (n, 1), (originals.labels.len(), 1))?;
            if originals.labels.iter().any(|&class| class as usize >= n_classes) {
                return malformed("label of a natural sample");
            }
        }
        self.check_reference()?;
        for packed in &self.segments {
            let (n_outputs, n_columns) = packed.dim();
            check_dim(
                "stored integers of a segment",
                (n_outputs.max(1), n),
                (n_outputs, n_columns),
            )?;
        }
        Ok(())
    }
}

impl Content {
    /// The labels are those of the reference, which keeps the margin and can serve the rule.
    fn check_reference(&self) -> Result<()> {
        check_margin(self.margin)?;
        let reference = self.reference.answers();
        self.rule.check_reference(&reference)?;
        for (sample, (info, standing)) in self.samples.iter().zip(standings(&reference)).enumerate()
        {
            standing.check(sample, info.label, self.margin)?;
        }
        Ok(())
    }
}

impl Reference {
    pub(super) fn answers(&self) -> Answers {
        match self {
            Self::Logits(values) => {
                Answers::Scores { values: values.clone(), kind: ScoreKind::Logits }
            }
            Self::Integers(packed) => Answers::Integers(packed.unpack()),
        }
    }
}

/// Whether all inputs on the grid are finite numbers of 32 bits.
fn is_single_precision(grid: &InputGrid, n_features: usize) -> bool {
    let limit = f64::from(f32::MAX);
    (0..n_features).all(|feature| grid.low(feature) >= -limit && grid.high(feature) <= limit)
}

pub(super) fn check_dim(
    what: &'static str,
    expected: (usize, usize),
    actual: (usize, usize),
) -> Result<()> {
    for (expected, actual) in [(expected.0, actual.0), (expected.1, actual.1)] {
        if expected != actual {
            return Err(Error::LengthMismatch { what, expected, actual });
        }
    }
    Ok(())
}
