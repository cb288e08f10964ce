//! What a person decides about a training.

use std::path::PathBuf;

use anyhow::Result;
use nn_poly::network::{ActivationChoice, NetworkKind};
use nn_poly::train::TrainRecipe;

use crate::args::{ArchitectureArguments, TrainedModelArguments, TrainingRunArguments};
use crate::options::BitsChoice;
use crate::output::OutputFile;

/// What a person decides about a training.
#[derive(Debug, Clone)]
pub(crate) struct TrainingSettings {
    /// Which network.
    pub(crate) kind: NetworkKind,
    /// Which activation.
    pub(crate) activation: ActivationChoice,
    /// Bits of the integer network.
    pub(crate) bits: BitsChoice,
    /// Epochs of float training, if not the recipe's.
    pub(crate) epochs: Option<u32>,
    /// Seed, changes of samples and checkpoints.
    pub(crate) run: TrainingRun,
}

impl TrainingSettings {
    /// What the flags say.
    ///
    /// # Errors
    /// Bits out of range.
    pub(crate) fn new(architecture: &ArchitectureArguments, run: TrainingRun) -> Result<Self> {
        let ArchitectureArguments { network, activation, bits, epochs } = *architecture;
        let (kind, activation) = (network.into(), activation.into());
        Ok(Self { kind, activation, bits: BitsChoice::new(bits)?, epochs, run })
    }
}

/// What a person decides about any training.
#[derive(Debug, Clone, Default)]
pub(crate) struct TrainingRun {
    /// Seed of weights and order.
    pub(crate) seed: u64,
    /// Pixels by which images move at most, if not the recipe's.
    pub(crate) shift: Option<u8>,
    /// Whether half of the images are mirrored.
    pub(crate) flip: bool,
    /// Share of the samples that are mixed with another one.
    pub(crate) mix: f64,
    /// Where to save the state after every epoch.
    pub(crate) checkpoint: Option<PathBuf>,
    /// Whether to go on from there.
    pub(crate) resume: bool,
}

impl TrainingRun {
    /// What the flags say, once the checkpoint is known to be writable.
    ///
    /// # Errors
    /// A checkpoint that cannot be written.
    pub(crate) fn new(run: &TrainingRunArguments) -> Result<Self> {
        if let Some(checkpoint) = &run.checkpoint {
            OutputFile::check(checkpoint)?;
        }
        let TrainingRunArguments { shift, flip, seed, resume, .. } = *run;
        let checkpoint = run.checkpoint.clone();
        Ok(Self { seed, shift, flip, mix: 0.0, checkpoint, resume })
    }

    /// The same on mixtures of samples, if a teacher says what they are.
    pub(crate) fn taught(self, trained: &TrainedModelArguments) -> Self {
        const MIX: f64 = 0.5;
        let mix = if trained.distill == 0.0 { 0.0 } else { MIX };
        Self { mix: trained.mix.unwrap_or(mix), ..self }
    }

    /// A run with this seed and nothing else.
    pub(crate) fn seeded(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    /// A recipe with this seed and these changes of samples.
    pub(crate) fn apply(&self, recipe: TrainRecipe) -> TrainRecipe {
        let mut recipe = recipe.with_seed(self.seed);
        for spec in [&mut recipe.float, &mut recipe.fine_tune] {
            spec.augmentation.shift = self.shift.unwrap_or(spec.augmentation.shift);
            spec.augmentation.flip |= self.flip;
            spec.augmentation.mix = self.mix;
        }
        recipe
    }

    /// Where the state of fine-tuning goes.
    pub(in crate::pipeline) fn fine_tune_file(&self) -> Option<PathBuf> {
        let mut name = self.checkpoint.as_ref()?.as_os_str().to_owned();
        name.push(".fine-tune");
        Some(PathBuf::from(name))
    }
}

/// The recipe that settings ask for.
pub(crate) fn recipe(settings: &TrainingSettings, n_samples: usize) -> TrainRecipe {
    let recipe = TrainRecipe::for_network(settings.kind, settings.activation, n_samples);
    let mut recipe = settings.run.apply(recipe);
    if let Some(epochs) = settings.epochs {
        recipe.float = recipe.float.with_epochs(epochs);
    }
    if let BitsChoice::Of(bits) = settings.bits {
        recipe.bits = bits;
    }
    recipe
}
