//! From a model with ReLU and the like to a polynomial one.
//!
//! ```text
//!  strip quantizers, fit ──► blend ──► polynomials alone ──► calibrate, fine-tune ──► Model
//!                              └── checkpoint FILE                └── checkpoint FILE.fine-tune
//! ```

use std::time::Instant;

use anyhow::Result;
use nn_poly::model::{Bits, Model, ModelSpec, TrainingRecord};
use nn_poly::network::ActivationChoice;
use nn_poly::quantize::Quantized;
use nn_poly::train::{
    BlendSpec, Evaluation, Polynomialization, ReplacedLayer, TrainRecipe, TrainSpec, evaluate,
    finish_blending, polynomialize,
};

use super::compiling;
use super::training::{self, Observer, Parts, Phase, PhaseRun, TrainingData, TrainingRun};
use crate::failure::Hint;
use crate::options::BitsChoice;
use crate::report::progress::Progress;

/// What a person decides about it.
#[derive(Debug, Clone)]
pub(crate) struct PolynomializeSettings {
    /// What replaces the activations.
    pub(crate) choice: Polynomialization,
    /// How they are blended.
    pub(crate) blend: BlendSpec,
    /// Epochs of blending, if not the recipe's.
    pub(crate) epochs: Option<u32>,
    /// Epochs of fine-tuning, if not the recipe's.
    pub(crate) fine_tune_epochs: Option<u32>,
    /// Peak learning rate.
    pub(crate) learning_rate: f64,
    /// Temperature of the original network's scores, which are taught; 0 for labels.
    pub(crate) distill: f32,
    /// Bits of the integer network.
    pub(crate) bits: BitsChoice,
    /// Seed, changes of samples and checkpoints.
    pub(crate) run: TrainingRun,
}

/// A polynomial model, and how good its forms are on the test part.
#[derive(Debug)]
pub(crate) struct PolynomialModel {
    /// The model.
    pub(crate) model: Model,
    /// The network it came from.
    pub(crate) original: Evaluation,
    /// The same with polynomials in place of activations and nothing trained.
    pub(crate) replaced: Evaluation,
    /// The polynomial network after training.
    pub(crate) polynomial: Evaluation,
    /// The integer network, if there was fine-tuning.
    pub(crate) integer: Option<(Quantized, Evaluation)>,
}

/// Replace, blend and fine-tune.
///
/// `told` learns of the fits before the training starts.
///
/// # Errors
/// A model of polynomials alone, unusable data or settings, divergence, or a checkpoint that cannot be read
/// or written.
pub(crate) fn make_polynomial(
    model: &Model,
    data: &TrainingData,
    settings: &PolynomializeSettings,
    told: &mut dyn FnMut(&[ReplacedLayer]),
    observer: &mut dyn Observer,
    progress: &Progress,
) -> Result<PolynomialModel> {
    let started = Instant::now();
    let spec = model.spec();
    let parts = Parts::new(data, &spec.preprocessing)?;
    let original = evaluate(&spec.network, &parts.test)?;
    let replaced = polynomialize(&spec.network, parts.train.inputs(), &settings.choice)
        .hint(|| "models with ReLU come from `securedl train --activation relu`")?;
    told(&replaced.layers);
    let untrained = evaluate(&finish_blending(&replaced.network)?, &parts.test)?;

    let recipe = TrainRecipe::for_network(spec.kind, spec.activation, data.train.n_samples());
    let recipe = settings.run.apply(recipe);
    let blending = TrainSpec {
        epochs: settings.epochs.unwrap_or(recipe.float.epochs),
        learning_rate: settings.learning_rate,
        blend: settings.blend,
        ..recipe.float
    };
    let teacher = training::teacher(&spec.network, settings.distill)?;
    let tuning = TrainSpec {
        epochs: settings.fine_tune_epochs.unwrap_or(recipe.fine_tune.epochs),
        ..recipe.fine_tune
    };
    let resume = settings.run.resume;
    let mut run = PhaseRun { parts: &parts, teacher, resume, observer, progress };
    let file = settings.run.checkpoint.clone();
    let blended = run.run(Phase::Blend, replaced.network, &blending, file)?;
    let float = finish_blending(&blended)?;
    let polynomial = evaluate(&float, &parts.test)?;
    let bits = (settings.bits != BitsChoice::None).then(|| compiling::bits(model, settings.bits));
    let (network, integer) = match bits {
        None => (float, None),
        Some(bits) => {
            let plan = (bits, &tuning, settings.run.fine_tune_file());
            let (network, integer) = run.fine_tune(&float, &spec.preprocessing, plan)?;
            (network, Some(integer))
        }
    };
    let training = TrainingRecord {
        epochs: blending.epochs,
        fine_tune_epochs: if integer.is_some() { tuning.epochs } else { 0 },
        seed: settings.run.seed,
        n_training_samples: data.train.n_samples() as u64,
        float_accuracy: Some(polynomial.accuracy()),
        accuracy: Some(integer.as_ref().map_or(&polynomial, |(_, integer)| integer).accuracy()),
        seconds: started.elapsed().as_secs_f64(),
    };
    let model = Model::new(ModelSpec {
        network,
        activation: ActivationChoice::Polynomial,
        bits: bits.filter(|_: &Bits| integer.is_some()),
        training,
        ..spec.clone()
    })?;
    Ok(PolynomialModel { model, original, replaced: untrained, polynomial, integer })
}
