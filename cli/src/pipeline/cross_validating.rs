//! Train, compile and run encrypted once per fold, on samples the training has not seen.

use std::time::Duration;

use anyhow::{Result, bail};
use nn_poly::import::{Dataset, Split, SplitSpec, stratified_folds};
use nn_poly::plan::{ActivationSide, PlanOptions};
use nn_poly::train::Evaluation;
use tokio::runtime::Runtime;

use super::compiling;
use super::inference::{self, RunSettings, Scores};
use super::source::DataSource;
use super::training::{self, TrainingData, TrainingSettings};
use crate::report::predictions::Predictions;
use crate::report::progress::Progress;

/// What a person decides about a cross-validation.
#[derive(Debug, Clone)]
pub(crate) struct CrossValidation {
    /// What is trained in every fold; its seed cuts the folds, too.
    pub(crate) training: TrainingSettings,
    /// Parts of the data, each of which is the test part once.
    pub(crate) n_folds: usize,
    /// Who evaluates activations, if not whoever can.
    pub(crate) side: Option<ActivationSide>,
}

/// One fold.
#[derive(Debug)]
pub(crate) struct Fold {
    /// Samples trained on.
    pub(crate) n_train: usize,
    /// Of the float network.
    pub(crate) float: Evaluation,
    /// Of the encrypted run.
    pub(crate) encrypted: Evaluation,
    /// Whether every score is the integer network's.
    pub(crate) matches: bool,
    /// Whether the verdict is intact.
    pub(crate) is_intact: bool,
    /// Who evaluated activations.
    pub(crate) side: ActivationSide,
    /// Rounds.
    pub(crate) n_rounds: usize,
    /// Bytes of payload, both directions.
    pub(crate) n_bytes: u64,
    /// Wall time of the encrypted run.
    pub(crate) time: Duration,
}

/// All samples of a source, with labels.
///
/// # Errors
/// Data that are missing or damaged, without labels, or with samples of one class.
pub(crate) fn load(source: &DataSource<'_>) -> Result<Dataset> {
    let (path, data) = source.load(Split::All, &SplitSpec::default())?;
    if data.labels().is_none() || data.n_classes() < 2 {
        bail!("{} has no labels of two classes or more to validate with", path.display());
    }
    Ok(data)
}

/// Validate on every fold in turn; `done` hears of each.
///
/// # Errors
/// Too few samples; whatever training, compilation or the encrypted run refuse.
pub(crate) fn cross_validate(
    data: &Dataset,
    settings: &CrossValidation,
    runtime: &Runtime,
    progress: &Progress,
    done: &mut dyn FnMut(usize, &Fold),
) -> Result<Vec<Fold>> {
    let labels = data.labels().unwrap_or_default();
    let folds = stratified_folds(labels, settings.n_folds, settings.training.run.seed)?;
    let bar = progress.bar("folds", folds.len() as u64);
    let mut validated = Vec::with_capacity(folds.len());
    for (fold_idx, test) in folds.iter().enumerate() {
        bar.message(format!("fold {} of {}", fold_idx + 1, folds.len()));
        let mut train: Vec<usize> =
            folds.iter().filter(|&other| other != test).flatten().copied().collect();
        train.sort_unstable();
        let split = SplitSpec { seed: settings.training.run.seed, ..SplitSpec::default() };
        let parts = TrainingData { train: data.select(&train)?, test: data.select(test)?, split };
        let fold = validate(&parts, settings, runtime)?;
        bar.advance(1);
        done(fold_idx, &fold);
        validated.push(fold);
    }
    Ok(validated)
}

fn validate(parts: &TrainingData, settings: &CrossValidation, runtime: &Runtime) -> Result<Fold> {
    let CrossValidation { training, side, .. } = settings;
    let recipe = training::recipe(training, parts.train.n_samples());
    let trained = training::train(parts, training, &recipe, &mut (), &Progress::silent())?;
    let side = side.unwrap_or_else(|| compiling::default_side(&trained.model));
    let options = PlanOptions {
        activation_side: side,
        expected_samples: parts.test.n_samples() as u64,
        ..PlanOptions::default()
    };
    let bits = compiling::bits(&trained.model, training.bits);
    let features = parts.train.features();
    let plan = compiling::compile_model(&trained.model, bits, features, &options)?.plan;
    let inputs = plan.public().quantize(parts.test.features())?;
    let (serving, settings) = (inference::in_process(&plan)?, RunSettings::default());
    let run = runtime.block_on(inference::run_alone(&plan, &inputs, &serving, &settings))?;
    let Some(released) = &run.scores else {
        bail!("a server inside this process was found to cheat; please report it");
    };
    let n_bytes =
        run.costs.as_ref().map_or(0, |costs| costs.tally.bytes_up + costs.tally.bytes_down);
    Ok(Fold {
        n_train: parts.train.n_samples(),
        float: trained.float,
        encrypted: evaluation(released, &parts.test),
        matches: released.scores == plan.simulate(&inputs)?.scores,
        is_intact: run.verdict.is_intact(),
        side,
        n_rounds: plan.public().segments.len(),
        n_bytes,
        time: run.total,
    })
}

fn evaluation(released: &Scores, test: &Dataset) -> Evaluation {
    let Scores { scores, out_of_calibration } = released;
    let labels = test.labels();
    let predictions = Predictions { scores, out_of_calibration, labels };
    Evaluation::of(&predictions.classes(), labels.unwrap_or_default(), test.n_classes())
}
