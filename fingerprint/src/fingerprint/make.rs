//! From a bag and a model or plan to a fingerprint.

use ndarray::Array2;
use nn_poly::import::Preprocessing;
use nn_poly::model::Model;
use nn_poly::plan::{Digest, Plan};
use nn_poly::{Shape, artifact};

use super::content::{Content, Originals, Reference, check_dim};
use super::packed::Packed;
use super::{Fingerprint, MAX_NAME_BYTES, plan_inputs};
use crate::endpoint::{Answers, ScoreKind};
use crate::error::{Error, Result};
use crate::rule::ComparisonRule;
use crate::sample::{InputGrid, SampleBag};
use crate::select::SelectionRule;

const MODEL_CONTEXT: &str = "SecureDL fingerprint 1 model";

/// What a fingerprint is made from, besides the model.
#[derive(Debug, Clone)]
pub struct FingerprintParts<'a> {
    /// The samples, chosen already.
    pub bag: &'a SampleBag,
    /// The grid they lie on.
    pub grid: &'a InputGrid,
    /// `(samples, features)`: what they started from, in preprocessed units: the control of audits, and
    /// for people to look at. `None` if they started from nothing.
    pub originals: Option<&'a Array2<f32>>,
    /// How they were chosen.
    pub selection: SelectionRule,
    /// How answers are to be compared unless the auditor says otherwise.
    pub rule: ComparisonRule,
    /// Smallest `(z₁ − z₂)/max|z|` that every sample keeps, at least 0 and below 0.1; declared in the
    /// file.
    pub margin: f64,
}

impl Fingerprint {
    /// A fingerprint of a float model: the reference is its network's outputs in double precision,
    /// which no order of sums moves noticeably.
    ///
    /// # Errors
    /// - [`Error::LengthMismatch`] if samples, infos, originals or grid do not fit the model.
    /// - [`Error::CountOutOfRange`] without samples, or with more than
    ///   [`MAX_FINGERPRINT_SAMPLES`](super::MAX_FINGERPRINT_SAMPLES).
    /// - [`Error::OffGrid`] if a sample does not lie on the grid.
    /// - [`Error::WrongLabel`], [`Error::MarginMissed`] if a sample's label is not the network's, or is
    ///   not ahead by the margin: [`sift_for_model`](super::sift_for_model) leaves such samples out.
    /// - [`Error::RuleTooFine`] if floats cannot keep the rule.
    pub fn of_model(model: &Model, parts: &FingerprintParts<'_>) -> Result<Self> {
        let spec = model.spec();
        let network = spec.network.cast::<f64>()?;
        // Exactly what an endpoint receives: the grid's values, not the bag's.
        let outputs = |levels: &Array2<u32>| {
            network.outputs(&parts.grid.values(levels.view()).mapv(f64::from))
        };
        let content = |levels: &Array2<u32>, originals: Option<&Array2<u32>>| {
            Ok(Source {
                name: &spec.name,
                model: Some(model_digest(model)?),
                plan: None,
                shape: spec.network.input_shape(),
                class_names: &spec.class_names,
                preprocessing: &spec.preprocessing,
                reference: Reference::Logits(outputs(levels)?),
                original_labels: match originals {
                    Some(originals) => logits(outputs(originals)?).labels(),
                    None => Vec::new(),
                },
                segments: Vec::new(),
            })
        };
        Self::build(parts, spec.network.input_shape(), content)
    }

    /// A fingerprint of a plan: the reference is its exact scores, and what a client decrypts at every
    /// segment is stored as well.
    ///
    /// # Errors
    /// - As for [`Self::of_model`].
    /// - [`Error::ForeignFingerprint`] if the grid is not the plan's.
    pub fn of_plan(plan: &Plan, parts: &FingerprintParts<'_>) -> Result<Self> {
        let public = plan.public();
        check_plan_grid(plan, parts.grid)?;
        let content = |levels: &Array2<u32>, originals: Option<&Array2<u32>>| {
            let inputs = plan_inputs(plan, levels);
            let trace = plan.simulate_trace(&inputs)?;
            let mut segments = Vec::with_capacity(public.segments.len());
            for (index, segment) in public.segments.iter().enumerate() {
                let stage = segment.stage as usize;
                let arriving = plan.network().gather_inputs(stage, &inputs, &trace.refreshed)?;
                segments.push(Packed::new(&plan.evaluate_segment(index, &arriving)?)?);
            }
            let original_labels = match originals {
                Some(originals) => {
                    let scores = plan.simulate(&plan_inputs(plan, originals))?.scores;
                    Answers::Integers(scores.t().to_owned()).labels()
                }
                None => Vec::new(),
            };
            let scores = trace.scores.t().as_standard_layout().into_owned();
            Ok(Source {
                name: &public.name,
                model: None,
                plan: Some(plan.digest()),
                shape: &public.input_shape,
                class_names: &public.class_names,
                preprocessing: &public.preprocessing,
                reference: Reference::Integers(Packed::new(&scores)?),
                original_labels,
                segments,
            })
        };
        Self::build(parts, &public.input_shape, content)
    }

    fn build<'a>(
        parts: &FingerprintParts<'_>,
        shape: &Shape,
        source: impl FnOnce(&Array2<u32>, Option<&Array2<u32>>) -> Result<Source<'a>>,
    ) -> Result<Self> {
        let FingerprintParts { bag, grid, originals, selection, rule, margin } = parts;
        let dim = (bag.samples.len(), shape.len());
        check_dim("the samples of the bag", dim, bag.inputs.dim())?;
        grid.check(shape.len())?;
        let levels = grid.levels(bag.inputs.view());
        check_on_grid(grid, &bag.inputs, &levels)?;
        let originals = match originals {
            Some(originals) => {
                check_dim("the original samples", dim, originals.dim())?;
                Some(grid.levels(originals.view()))
            }
            None => None,
        };
        let source = source(&levels, originals.as_ref())?;
        let originals = match originals {
            Some(levels) => {
                let (levels, labels) = (pack_levels(&levels)?, source.original_labels);
                Some(Originals { levels, labels })
            }
            None => None,
        };
        let content = Content {
            name: source.name.chars().take(MAX_NAME_BYTES / 4).collect(),
            model: source.model,
            plan: source.plan,
            shape: source.shape.clone(),
            class_names: source.class_names.to_vec(),
            preprocessing: source.preprocessing.clone(),
            generator: bag.generator,
            selection: *selection,
            seed: bag.seed,
            grid: (*grid).clone(),
            samples: bag.samples.clone(),
            levels: pack_levels(&levels)?,
            originals,
            reference: source.reference,
            rule: *rule,
            margin: *margin,
            segments: source.segments,
        };
        content.check()?;
        Ok(Self { content, uses: 0 })
    }
}

/// What a model or plan contributes.
struct Source<'a> {
    name: &'a str,
    model: Option<Digest>,
    plan: Option<Digest>,
    shape: &'a Shape,
    class_names: &'a [String],
    preprocessing: &'a Preprocessing,
    reference: Reference,
    original_labels: Vec<u32>,
    segments: Vec<Packed>,
}

fn logits(values: Array2<f64>) -> Answers {
    Answers::Scores { values, kind: ScoreKind::Logits }
}

fn pack_levels(levels: &Array2<u32>) -> Result<Packed> {
    Packed::new(&levels.mapv(i64::from))
}

/// Digest of what decides a model's answers: its network and its preprocessing, not its name or
/// history.
///
/// # Errors
/// - [`Error::Network`] never for a checked model.
pub fn model_digest(model: &Model) -> Result<Digest> {
    let spec = model.spec();
    let parts = (&spec.network, &spec.preprocessing);
    let bytes = artifact::encode(Model::MAGIC, Model::FORMAT_VERSION, &parts)?;
    Ok(Digest(blake3::derive_key(MODEL_CONTEXT, &bytes)))
}

fn check_plan_grid(plan: &Plan, grid: &InputGrid) -> Result<()> {
    let expected = InputGrid::of_integer(&plan.public().input)?;
    if *grid == expected {
        return Ok(());
    }
    Err(Error::ForeignFingerprint {
        what: "input grid",
        expected: Some(format!("{} steps", expected.n_steps())),
        actual: format!("{} steps", grid.n_steps()),
    })
}

fn check_on_grid(grid: &InputGrid, inputs: &Array2<f32>, levels: &Array2<u32>) -> Result<()> {
    let on_grid = grid.values(levels.view());
    let moved = inputs.rows().into_iter().zip(on_grid.rows()).position(|(given, rounded)| {
        given.iter().zip(rounded).enumerate().any(|(feature, (&given, &rounded))| {
            let distance = f64::from((given - rounded).abs());
            // A value may have been computed by another formula; it may not be another level.
            distance.is_nan() || distance > 1e-3 * grid.step(feature)
        })
    });
    match moved {
        Some(sample) => Err(Error::OffGrid { sample }),
        None => Ok(()),
    }
}
