//! A trained model in a file: network, preprocessing, classes, and where it all came from.

mod bits;
mod version_1;

use std::path::Path;

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use crate::artifact::{self, Magic};
use crate::error::{Error, Result};
use crate::import::{MAX_CLASSES, Preprocessing, SplitSpec};
use crate::layer::{Activation, Layer};
use crate::network::{ActivationChoice, Network, NetworkKind, Predictor};
use crate::tensor::Shape;

pub use bits::{Bits, LayerBits};

/// How a model came about and how well it did. Accuracies are shares from 0 to 1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainingRecord {
    /// Epochs of float training.
    pub epochs: u32,
    /// Epochs of quantization-aware fine-tuning.
    pub fine_tune_epochs: u32,
    /// Seed of everything random.
    pub seed: u64,
    /// Number of training samples.
    pub n_training_samples: u64,
    /// Accuracy of the float network on the test part.
    pub float_accuracy: Option<f64>,
    /// Accuracy of the stored network on the test part (after fine-tuning, if there was any).
    pub accuracy: Option<f64>,
    /// Wall time of all training.
    pub seconds: f64,
}

/// The parts of a model before their check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// Name for people, such as `cryptonets-mnist`; at most 200 bytes.
    pub name: String,
    /// Which architecture.
    pub kind: NetworkKind,
    /// Which activation it was trained with.
    pub activation: ActivationChoice,
    /// The network, with quantizers if it was fine-tuned.
    pub network: Network<f32>,
    /// From raw features to network inputs.
    pub preprocessing: Preprocessing,
    /// How the training source was cut.
    pub split: SplitSpec,
    /// One name per output; each at most 200 bytes.
    pub class_names: Vec<String>,
    /// Bits it was fine-tuned for, if any.
    pub bits: Option<Bits>,
    /// How it was trained.
    pub training: TrainingRecord,
    /// Name of the data it was trained on; at most 200 bytes.
    pub data_source: String,
}

/// A checked model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "ModelSpec", into = "ModelSpec")]
pub struct Model(ModelSpec);

impl TryFrom<ModelSpec> for Model {
    type Error = Error;

    fn try_from(spec: ModelSpec) -> Result<Self> {
        Self::new(spec)
    }
}

impl From<Model> for ModelSpec {
    fn from(model: Model) -> Self {
        model.0
    }
}

impl Model {
    /// First bytes of a model file.
    pub const MAGIC: Magic = *b"SDLMODEL";
    /// Format version written by this build; version 1 is read too.
    pub const FORMAT_VERSION: u32 = 2;
    /// Largest model file that is read: 256 MiB.
    pub const MAX_BYTES: usize = 1 << 28;

    const MAX_NAME_BYTES: usize = 200;

    /// Check that the parts fit together.
    ///
    /// # Errors
    /// - [`Error::ShapeMismatch`] if there is not one class name per output, or the preprocessing has
    ///   another number of features than the network.
    /// - [`Error::InvalidSetting`] if split, bits, preprocessing or an accuracy is out of range, there
    ///   are fewer than 2 classes, or an activation is still a [`crate::layer::Blend`].
    /// - [`Error::TooLarge`] if a name or the number of classes is.
    pub fn new(spec: ModelSpec) -> Result<Self> {
        let n_outputs = spec.network.output_shape().len();
        if spec.class_names.len() != n_outputs {
            return Err(Error::ShapeMismatch {
                what: "class names",
                expected: vec![n_outputs],
                actual: vec![spec.class_names.len()],
            });
        }
        if n_outputs < 2 {
            return Err(Error::InvalidSetting {
                setting: "number of classes",
                value: 1.0,
                requirement: "at least 2",
            });
        }
        let too_large = |what, actual: usize, limit: usize| Error::TooLarge {
            what,
            actual: actual as u64,
            limit: limit as u64,
        };
        if n_outputs > MAX_CLASSES {
            return Err(too_large("number of classes", n_outputs, MAX_CLASSES));
        }
        let names = spec.class_names.iter().chain([&spec.name, &spec.data_source]);
        if let Some(len) = names.map(String::len).find(|&len| len > Self::MAX_NAME_BYTES) {
            return Err(too_large("length of a name in bytes", len, Self::MAX_NAME_BYTES));
        }
        for layer in spec.network.layers() {
            if let Layer::Activation(Activation::Blend(blend)) = layer {
                return Err(Error::InvalidSetting {
                    setting: "share of the polynomial in a blended activation",
                    value: f64::from(blend.share),
                    requirement: "finished: replace the blends by their polynomials first",
                });
            }
        }
        spec.preprocessing.check(spec.network.input_shape().len())?;
        spec.split.check()?;
        spec.bits.as_ref().map_or(Ok(()), Bits::check)?;
        for accuracy in [spec.training.accuracy, spec.training.float_accuracy].into_iter().flatten()
        {
            if !(0.0..=1.0).contains(&accuracy) {
                let requirement = "between 0 and 1";
                return Err(Error::InvalidSetting {
                    setting: "accuracy",
                    value: accuracy,
                    requirement,
                });
            }
        }
        Ok(Self(spec))
    }

    /// The parts.
    #[must_use]
    pub fn spec(&self) -> &ModelSpec {
        &self.0
    }

    /// The parts, for building another model.
    #[must_use]
    pub fn into_spec(self) -> ModelSpec {
        self.0
    }

    /// The network.
    #[must_use]
    pub fn network(&self) -> &Network<f32> {
        &self.0.network
    }

    /// Encode for a file.
    ///
    /// # Errors
    /// - [`Error::Encode`] never happens for a checked model; it is passed on from the encoder.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        artifact::encode(Self::MAGIC, Self::FORMAT_VERSION, self)
    }

    /// Decode and check.
    ///
    /// # Errors
    /// - Those of [`artifact::decode`]; the checks of [`Self::new`] arrive as [`Error::Decode`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        if artifact::peek_version(bytes) == Some(version_1::VERSION) {
            return version_1::decode(bytes);
        }
        artifact::decode(Self::MAGIC, Self::FORMAT_VERSION, bytes, Self::MAX_BYTES)
    }

    /// Write to a file, completely or not at all.
    ///
    /// # Errors
    /// - [`Error::Io`] if the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        artifact::write_file(path, &self.to_bytes()?)
    }

    /// Read from a file.
    ///
    /// # Errors
    /// - [`Error::Io`] if the file cannot be read.
    /// - [`Error::InFile`] around what is wrong with its content.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = artifact::read_file(path, Self::MAX_BYTES)?;
        Self::from_bytes(&bytes).map_err(|error| error.in_file(path))
    }
}

/// Scores of raw features: preprocessing, then the network.
impl Predictor for Model {
    fn input_shape(&self) -> &Shape {
        self.0.network.input_shape()
    }

    fn n_classes(&self) -> usize {
        self.0.class_names.len()
    }

    fn scores(&self, features: &Array2<f32>) -> Result<Array2<f64>> {
        self.0.network.scores(&self.0.preprocessing.apply(features)?)
    }
}

#[cfg(test)]
mod tests;
