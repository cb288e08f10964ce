//! From a trained model to one that computes in small integers.

use std::time::Instant;

use anyhow::Result;
use nn_poly::model::{Bits, Model, ModelSpec, TrainingRecord};
use nn_poly::quantize::{Quantized, quantize_model, unrounded};
use nn_poly::train::{Evaluation, TrainRecipe, TrainSpec, evaluate};

use super::compiling;
use super::training::{self, Observer, Parts, PhaseRun, TrainingData, TrainingRun};
use crate::options::BitsChoice;
use crate::report::progress::Progress;

/// What a person decides about it.
#[derive(Debug, Clone)]
pub(crate) struct FineTuneSettings {
    /// Bits of the integer network.
    pub(crate) bits: BitsChoice,
    /// Temperature of the unrounded network's scores, which are taught; 0 for labels.
    pub(crate) distill: f32,
    /// Epochs, if not the recipe's.
    pub(crate) epochs: Option<u32>,
    /// Learning rate at the start.
    pub(crate) learning_rate: f64,
    /// Seed, changes of samples and checkpoints.
    pub(crate) run: TrainingRun,
}

/// A fine-tuned model, and how good its forms are on the test part.
#[derive(Debug)]
pub(crate) struct FineTuned {
    /// The model.
    pub(crate) model: Model,
    /// Before rounding and training.
    pub(crate) float: Evaluation,
    /// Rounded, and not trained.
    pub(crate) rounded: Evaluation,
    /// The integer network.
    pub(crate) integer: (Quantized, Evaluation),
}

/// Calibrate, insert quantizers and train with them.
///
/// # Errors
/// Unusable data or settings, a network without an integer form, divergence, or a checkpoint that
/// cannot be read or written.
pub(crate) fn fine_tune(
    model: &Model,
    data: &TrainingData,
    settings: &FineTuneSettings,
    observer: &mut dyn Observer,
    progress: &Progress,
) -> Result<FineTuned> {
    let started = Instant::now();
    let spec = model.spec();
    let bits: Bits = compiling::bits(model, settings.bits);
    let parts = Parts::new(data, &spec.preprocessing)?;
    let network = unrounded(&spec.network)?;
    let float = evaluate(&network, &parts.test)?;
    let rounded = quantize_model(model, bits, parts.train.inputs())?;
    let rounded = training::integer_evaluation(&rounded, &parts.test)?;

    let recipe = TrainRecipe::for_network(spec.kind, spec.activation, data.train.n_samples());
    let recipe = settings.run.apply(recipe);
    let tuning = TrainSpec {
        epochs: settings.epochs.unwrap_or(recipe.fine_tune.epochs),
        learning_rate: settings.learning_rate,
        ..recipe.fine_tune
    };
    let resume = settings.run.resume;
    let teacher = training::teacher(&network, settings.distill)?;
    let mut run = PhaseRun { parts: &parts, teacher, resume, observer, progress };
    let plan = (bits, &tuning, settings.run.checkpoint.clone());
    let (network, integer) = run.fine_tune(&network, &spec.preprocessing, plan)?;
    let training = TrainingRecord {
        fine_tune_epochs: tuning.epochs,
        seed: settings.run.seed,
        n_training_samples: data.train.n_samples() as u64,
        float_accuracy: Some(float.accuracy()),
        accuracy: Some(integer.1.accuracy()),
        seconds: started.elapsed().as_secs_f64(),
        ..spec.training
    };
    let model = Model::new(ModelSpec { network, bits: Some(bits), training, ..spec.clone() })?;
    Ok(FineTuned { model, float, rounded, integer })
}
