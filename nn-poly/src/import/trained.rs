//! A network trained elsewhere: what was read, and how it becomes a model.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::assemble::{Affine, Budget, with_input_affine};
use super::fault::{ImportError, NodeSite};
use super::input_scale::{InputScale, preprocessing};
use super::{MAX_CLASSES, SplitSpec};
use crate::error::{Error, Result};
use crate::layer::{Activation, Layer};
use crate::model::{Model, ModelSpec, TrainingRecord};
use crate::network::{ActivationChoice, Network, NetworkKind, Rewriter};
use crate::tensor::Shape;

/// A network as it was read.
#[derive(Clone, Debug)]
pub struct ImportedNetwork {
    /// Its layers, without the normalization of the inputs and without what ends it.
    pub network: Network<f32>,
    /// What the file does to its inputs before the first layer.
    pub input: InputAffine,
    /// The function after the last layer, which was left out.
    pub ending: Option<Ending>,
    /// Whether the file has a single score `z`, which became the scores `(−z, z)` of two classes.
    pub is_binary: bool,
    /// What became of each operation, in order.
    pub nodes: Vec<ImportedNode>,
    /// Operations of the file on which the scores do not depend.
    pub n_unused_nodes: usize,
    /// The program that wrote the file, as it names itself; may be empty.
    pub producer: String,
    /// Version of the operator set of an ONNX file.
    pub opset: Option<i64>,
}

/// One operation of a file and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedNode {
    /// The operation.
    pub site: NodeSite,
    /// What became of it.
    pub treatment: Treatment,
}

/// What became of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Treatment {
    /// A layer of this kind.
    Layer(&'static str),
    /// An activation of this kind, or a part of one.
    Activation(&'static str),
    /// A part of the layers around it.
    Folded,
    /// Another view of the same values.
    Layout,
    /// A constant.
    Constant,
    /// Left out: it changes no prediction.
    Dropped,
}

impl fmt::Display for Treatment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Layer(name) | Self::Activation(name) => name,
            Self::Folded => "folded into its neighbors",
            Self::Layout => "layout",
            Self::Constant => "constant",
            Self::Dropped => "left out",
        })
    }
}

/// A function that keeps the order of scores, at the end of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// `exp(z_i) / Σ exp(z_j)`.
    Softmax,
    /// The logarithm of it.
    LogSoftmax,
    /// `1 / (1 + exp(−z))`.
    Sigmoid,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Softmax => "softmax",
            Self::LogSoftmax => "log-softmax",
            Self::Sigmoid => "sigmoid",
        })
    }
}

/// `scale · x + offset`, one entry per channel of the input (last axis) or one for all.
#[derive(Clone, Debug, PartialEq)]
pub struct InputAffine {
    /// Factors.
    pub scale: Vec<f64>,
    /// What is added.
    pub offset: Vec<f64>,
}

impl InputAffine {
    #[cfg(any(feature = "onnx", feature = "weight-files"))]
    pub(super) fn of(affine: &Affine) -> Self {
        Self { scale: affine.scale.clone(), offset: affine.offset.clone() }
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        self.as_affine().is_identity()
    }

    pub(super) fn as_affine(&self) -> Affine {
        Affine { scale: self.scale.clone(), offset: self.offset.clone() }
    }
}

/// What a model needs besides the network.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelOptions {
    /// Name of the model.
    pub name: String,
    /// One name per class; `None` numbers them from 0.
    pub labels: Option<Vec<String>>,
    /// How features become what the network was trained on; `None` if the file says it, or images
    /// have values from 0 to 1.
    pub input_scale: Option<InputScale>,
    /// Limit of standardized features of tables, in standard deviations.
    pub clip: f32,
    /// Shape of the data's samples, if the network reads them as a vector: an image with one channel. Where
    /// the channels of images are is settled while reading: see [`ReadOptions`].
    pub input_shape: Option<Shape>,
}

/// What helps to read a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// Name of the scores of an ONNX graph that has several outputs.
    pub output: Option<String>,
    /// Shape of the samples (height × width × channels): it tells whether a graph reads images with their
    /// channels last, where the graph itself leaves that open.
    pub input_shape: Option<Shape>,
}

/// Read a network from a file: ONNX (`.onnx`), or a description (`.toml`) beside a weight file.
///
/// # Errors
/// - [`ImportError::UnknownFormat`] or [`ImportError::NotBuilt`] for a file no reader takes.
/// - Those of the reader: `read_onnx`, `read_description`.
pub fn read_network(path: &Path, options: &ReadOptions) -> Result<ImportedNetwork> {
    let extension = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
    match extension.as_deref() {
        Some("toml") => description(path),
        Some("onnx") => onnx(path, options),
        _ => Err(Error::from(ImportError::UnknownFormat).in_file(path)),
    }
}

#[cfg(feature = "onnx")]
fn onnx(path: &Path, options: &ReadOptions) -> Result<ImportedNetwork> {
    super::onnx::read_onnx(path, options)
}

#[cfg(not(feature = "onnx"))]
fn onnx(path: &Path, _: &ReadOptions) -> Result<ImportedNetwork> {
    Err(Error::from(ImportError::NotBuilt { format: "ONNX", feature: "onnx" }).in_file(path))
}

#[cfg(feature = "weight-files")]
fn description(path: &Path) -> Result<ImportedNetwork> {
    super::description::read_description(path)
}

#[cfg(not(feature = "weight-files"))]
fn description(path: &Path) -> Result<ImportedNetwork> {
    let error = ImportError::NotBuilt { format: "descriptions", feature: "weight-files" };
    Err(Error::from(error).in_file(path))
}

impl ImportedNetwork {
    /// Make a model of it, without bits: `securedl compile` chooses them.
    ///
    /// The affine map of the inputs is folded into the first layer where that is exact (no offset, or no
    /// padding), so that inputs keep their unsigned grid; otherwise it becomes the preprocessing.
    ///
    /// # Errors
    /// - [`ImportError::InputScale`] if it does not fit the network, or a vector has no known scale.
    /// - [`ImportError::Labels`] unless there is one label per score.
    /// - [`Error::ShapeMismatch`] if `input_shape` has another number of values than the network reads.
    /// - Those of [`Model::new`].
    pub fn into_model(self, options: ModelOptions) -> Result<Model> {
        let network = match &options.input_shape {
            Some(shape) => reshaped(self.network, shape)?,
            None => self.network,
        };
        let (affine, preprocessing) = preprocessing(
            &network,
            &self.input.as_affine(),
            options.input_scale.as_ref(),
            options.clip,
        )?;
        let mut budget = Budget::for_files_of(network.n_parameters());
        let network = with_input_affine(&network, affine, &mut budget)?;
        let n_scores = network.output_shape().len();
        let labels = match options.labels {
            Some(labels) if labels.len() != n_scores => {
                return Err(ImportError::Labels { n_labels: labels.len(), n_scores }.into());
            }
            Some(labels) => labels,
            None => (0..n_scores.min(MAX_CLASSES + 1)).map(|class| class.to_string()).collect(),
        };
        Model::new(ModelSpec {
            name: options.name,
            kind: NetworkKind::Imported,
            activation: activation(&network),
            network,
            preprocessing,
            split: SplitSpec::default(),
            class_names: labels,
            bits: None,
            training: TrainingRecord::default(),
            data_source: if self.producer.is_empty() {
                "an imported network".into()
            } else {
                format!("an imported network, written by {}", self.producer)
            },
        })
    }
}

/// The same network for samples of another shape with as many values.
fn reshaped(network: Network<f32>, shape: &Shape) -> Result<Network<f32>> {
    let expected = network.input_shape();
    if expected == shape {
        return Ok(network);
    }
    // With more channels, the order of values in the vector would be a guess.
    if shape.channels() != 1 || shape.len() != expected.len() || expected.as_image().is_some() {
        return Err(Error::ShapeMismatch {
            what: "the chosen input shape (that of the images the network reads, or one channel for a vector)",
            expected: expected.dims().to_vec(),
            actual: shape.dims().to_vec(),
        });
    }
    let mut rewriter = Rewriter::new(shape.clone());
    rewriter.insert(Layer::Flatten)?;
    for (idx, layer) in network.layers().iter().enumerate() {
        rewriter.keep(layer.clone(), network.sources(idx))?;
    }
    rewriter.finish()
}

/// The kind of activation that decides who evaluates it.
fn activation(network: &Network<f32>) -> ActivationChoice {
    let has = |wanted: fn(&Layer<f32>) -> bool| network.layers().iter().any(wanted);
    if network.needs_client() {
        ActivationChoice::Relu
    } else if has(|layer| matches!(layer, Layer::Activation(Activation::Polynomial { .. }))) {
        ActivationChoice::Polynomial
    } else {
        ActivationChoice::Square
    }
}
