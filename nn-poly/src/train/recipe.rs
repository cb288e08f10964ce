//! Settings that are known to work for each network.

use super::{Augmentation, Optimizer, Schedule, TrainSpec};
use crate::import::PreprocessingKind;
use crate::model::Bits;
use crate::network::{ActivationChoice, Architecture, NetworkKind};

/// Everything needed to train one of the known networks, from raw features to the fine-tuned model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainRecipe {
    /// Layers, with clamp where it helps.
    pub architecture: Architecture,
    /// How raw features become inputs.
    pub preprocessing: PreprocessingKind,
    /// Float training.
    pub float: TrainSpec,
    /// Quantization-aware fine-tuning of the quantized network.
    pub fine_tune: TrainSpec,
    /// Bits of the integer network.
    pub bits: Bits,
}

impl TrainRecipe {
    /// The recipe for a network on `n_samples` training samples.
    ///
    /// - Image networks: batch 100, AdamW, one cycle with 20 % warm-up up to 3·10⁻³, gradient norm at
    ///   most 1, shifts by up to 2 pixels; 8 epochs (`cryptonets`) or 5 (`securedl`), then 2 or 1 epochs of
    ///   fine-tuning at 4/4/4 bits.
    /// - `mlp`: standardized inputs with noise 0.1, batch 32, as many epochs as give about 43,000 sample
    ///   visits, 10 to 200; fine-tuning a quarter of that, at 6/6/6 bits.
    /// - `securedl` without ReLU: values are clamped at 3 after each activation and pool, as the refresh
    ///   of an encrypted run does anyway, because three squares in a row train unsteadily without.
    ///
    /// Fine-tuning is Adam from 3·10⁻⁴ along a cosine.
    #[must_use]
    pub fn for_network(kind: NetworkKind, activation: ActivationChoice, n_samples: usize) -> Self {
        let mut architecture = Architecture::new(kind, activation);
        if kind == NetworkKind::Securedl && activation != ActivationChoice::Relu {
            architecture = architecture.with_clamp(3.0);
        }
        let (preprocessing, bits) = match kind {
            NetworkKind::Cryptonets | NetworkKind::Securedl => {
                (PreprocessingKind::UnitRange, Bits { input: 4, weight: 4, activation: 4 })
            }
            // An imported network brings its preprocessing.
            NetworkKind::Mlp | NetworkKind::Imported => {
                (PreprocessingKind::Standardize, Bits { input: 6, weight: 6, activation: 6 })
            }
        };
        let float = float_spec(kind, n_samples);
        let fine_tune_epochs = match kind {
            NetworkKind::Cryptonets => 2,
            NetworkKind::Securedl | NetworkKind::Imported => 1,
            NetworkKind::Mlp => float.epochs.div_ceil(4),
        };
        let fine_tune = TrainSpec {
            epochs: fine_tune_epochs,
            optimizer: Optimizer::Adam,
            schedule: Schedule::Cosine,
            learning_rate: 3e-4,
            ..float
        };
        Self { architecture, preprocessing, float, fine_tune, bits }
    }

    /// With another seed for both runs.
    #[must_use]
    pub const fn with_seed(mut self, seed: u64) -> Self {
        self.float.seed = seed;
        self.fine_tune.seed = seed;
        self
    }
}

fn float_spec(kind: NetworkKind, n_samples: usize) -> TrainSpec {
    let images = Augmentation { shift: 2, ..Augmentation::default() };
    match kind {
        NetworkKind::Imported => TrainSpec { epochs: 5, ..TrainSpec::default() },
        NetworkKind::Cryptonets => {
            TrainSpec { epochs: 8, augmentation: images, ..TrainSpec::default() }
        }
        NetworkKind::Securedl => {
            TrainSpec { epochs: 5, augmentation: images, ..TrainSpec::default() }
        }
        NetworkKind::Mlp => TrainSpec {
            epochs: u32::try_from(43_000 / n_samples.max(1)).unwrap_or(200).clamp(10, 200),
            batch_size: 32,
            augmentation: Augmentation { noise: 0.1, ..Augmentation::default() },
            ..TrainSpec::default()
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::tensor::Shape;

    #[test]
    fn every_recipe_is_valid_and_builds_its_network() {
        for kind in NetworkKind::ALL {
            for activation in ActivationChoice::ALL {
                for n_samples in [0, 100, 60_000] {
                    let recipe = TrainRecipe::for_network(kind, activation, n_samples).with_seed(3);
                    assert_eq!(recipe.float.check().unwrap().spec().seed, 3);
                    assert!(recipe.fine_tune.check().is_ok());
                    assert!(recipe.bits.check().is_ok());
                    let shape = Shape::image(28, 28, 1).unwrap();
                    assert!(recipe.architecture.build::<f32>(&shape, 10, 1).is_ok());
                }
            }
        }
    }
}
