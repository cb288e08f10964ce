//! How good a plan is beside the model it came from, and which bits would do.

use std::path::Path;

use anyhow::{Result, bail};
use nn_poly::Error;
use nn_poly::import::Dataset;
use nn_poly::model::{LayerBits, Model};
use nn_poly::network::Predictor;
use nn_poly::plan::Plan;
use nn_poly::plan::planner::{PlanGoal, ReferenceRates};
use nn_poly::quantize::{
    AccuracyReport, LayerSearchOutcome, SearchOutcome, SearchSpec, accuracy_report, search_bits,
    search_layer_bits,
};
use nn_poly::train::Evaluation;

use crate::failure::Hint;
use crate::kind::FileKind;
use crate::pipeline::compiling::OTHER_LAYERS;
use crate::pipeline::source::DataSource;
use crate::pipeline::training::{check_classes, load_test_part};

/// The forms of a model on its test part.
#[derive(Debug)]
pub(crate) struct Assessment {
    /// The model, its integer network and its plan.
    pub(crate) report: AccuracyReport,
    /// Another model on the same samples, by name.
    pub(crate) reference: Option<(String, Evaluation)>,
}

/// The labeled test part beside the training part `train` of a source.
///
/// # Errors
/// Data without labels or test part, or of another kind than the model's.
pub(crate) fn load_test(
    source: &DataSource<'_>,
    train: &Dataset,
    model: &Model,
) -> Result<Dataset> {
    check_labeled(source, train, model)?;
    load_test_part(source, train, &model.spec().split)
}

/// Labels with the classes of the model.
///
/// # Errors
/// Data without labels, or with other classes.
pub(crate) fn check_labeled(source: &DataSource<'_>, data: &Dataset, model: &Model) -> Result<()> {
    if data.labels().is_none() {
        bail!(
            "{source} has no labels, and accuracy cannot be told without (of a table, --label-column \
             names the column of classes)"
        );
    }
    check_classes(data, model.spec())
}

/// Read the model to compare with.
///
/// # Errors
/// A file that is no model, or a model of other samples.
pub(crate) fn load_reference(path: &Path, model: &Model) -> Result<Model> {
    FileKind::Model.expect_of(path)?;
    let reference = Model::load(path)?;
    let (theirs, ours) = (reference.spec(), model.spec());
    if theirs.network.input_shape() != ours.network.input_shape()
        || theirs.class_names != ours.class_names
    {
        bail!(
            "the model `{}` in {} classifies other samples than `{}`",
            theirs.name,
            path.display(),
            ours.name
        );
    }
    Ok(reference)
}

/// Evaluate everything on the test part.
///
/// # Errors
/// Samples that do not fit; they were checked before.
pub(crate) fn assess(
    model: &Model,
    bits: &LayerBits,
    plan: &Plan,
    test: &Dataset,
    reference: Option<&Model>,
) -> Result<Assessment> {
    let samples = test.labeled(&model.spec().preprocessing)?;
    let report = accuracy_report(model, bits, plan, &samples)?;
    let reference = reference.map(|reference| -> Result<_> {
        let scores = reference.scores(test.features())?;
        let predicted = nn_poly::network::predictions(&scores);
        let n_classes = reference.spec().class_names.len();
        let spec = reference.spec();
        let name = format!("{}, {} activation", spec.name, spec.activation);
        Ok((name, Evaluation::of(&predicted, samples.labels(), n_classes)))
    });
    Ok(Assessment { report, reference: reference.transpose()? })
}

/// The bits that a search found.
#[derive(Debug)]
pub(crate) struct BitSearch {
    /// Points of accuracy that may be lost.
    pub(crate) points: f64,
    /// The same for all layers.
    pub(crate) uniform: SearchOutcome,
    /// Layer by layer.
    pub(crate) layers: LayerSearchOutcome,
}

/// Search the cheapest bits that lose at most `points` of accuracy, for all layers and then for single
/// ones. `told` learns what was tried.
///
/// # Errors
/// Points out of range, or no bits that are accurate enough.
pub(crate) fn search(
    model: &Model,
    train: &Dataset,
    points: f64,
    goal: &PlanGoal,
    told: &mut dyn FnMut(String),
) -> Result<BitSearch> {
    if !(0.0..100.0).contains(&points) {
        bail!("--target-drop is {points}, expected points of accuracy from 0 to below 100");
    }
    let samples = train.labeled(&model.spec().preprocessing)?;
    let spec = SearchSpec::new(points / 100.0, *goal);
    // Stored rates: measurements would make two searches differ.
    let mut costs = ReferenceRates::new(rayon::current_num_threads().max(1));
    let found = search_bits(model, &samples, &spec, &mut costs, &mut |trial| {
        told(format!("{} tried, {} choices open", trial.bits, trial.n_open));
    });
    let uniform = match found {
        Err(Error::NoBits { .. }) => found.hint(|| {
            "allow a larger --target-drop, or fine-tune for few bits: `securedl train --bits 4/4/4`"
        }),
        Err(Error::CannotQuantize { .. } | Error::CannotFold { .. }) => {
            found.hint(|| OTHER_LAYERS)
        }
        found => Ok(found?),
    }?;
    let mut n_trials = 0;
    let layers = search_layer_bits(model, &samples, &spec, &uniform, &mut costs, &mut |trial| {
        n_trials += 1;
        told(format!("{} tried, layer by layer: trial {n_trials}", trial.bits));
    })?;
    Ok(BitSearch { points, uniform, layers })
}
