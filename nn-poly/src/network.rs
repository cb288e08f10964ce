//! A checked graph of layers, and what the rest of the workspace needs to know of any model.
//!
//! Most networks are sequences: each layer reads the one before ([`Network::new`]). Residual
//! connections and branches name what each layer reads ([`NetworkBuilder`]); two layers join values,
//! [`Layer::Add`] and [`Layer::Concat`]. Layers stand in the order of evaluation, so a cycle cannot be
//! written down.

mod architecture;
mod fold;
mod graph;

use ndarray::{Array2, Axis};
use serde::{Deserialize, Serialize};

pub use architecture::{ActivationChoice, Architecture, NetworkKind};
pub(crate) use graph::Rewriter;
pub use graph::{NetworkBuilder, Node, Source};

use crate::autodiff::{self, Mode};
use crate::error::{Error, Result};
use crate::integer::require;
use crate::layer::{Activation, Layer, PoolKind};
use crate::tensor::{Scalar, Shape, Tensor};

/// Anything that maps inputs to class scores, seen only through its answers.
pub trait Predictor {
    /// Shape of one input.
    fn input_shape(&self) -> &Shape;

    /// Number of scores per input.
    fn n_classes(&self) -> usize;

    /// Scores of every input.
    ///
    /// Shapes: `inputs (samples, input_shape().len())`, result `(samples, n_classes())`. The largest
    /// score is the prediction.
    ///
    /// # Errors
    /// - [`Error::ShapeMismatch`] if the rows of `inputs` do not fit.
    /// - [`Error::NonFiniteInput`] if a value is NaN or infinite.
    fn scores(&self, inputs: &Array2<f32>) -> Result<Array2<f64>>;
}

/// A graph of layers with matching shapes and finite parameters.
///
/// Values are numbered: 0 is the input, `i + 1` the output of layer `i`. A layer reads values with
/// smaller numbers only; every value but the last is read by some layer; the last is the output.
///
/// Immutable except through [`Trainer`](crate::train::Trainer); to change a network, use
/// [`Self::with_layers`] or [`Self::filter_map_layers`], or build a new one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound = "A: Scalar", try_from = "NetworkSpec<A>", into = "NetworkSpec<A>")]
pub struct Network<A: Scalar> {
    layers: Vec<Layer<A>>,
    /// Invariant: one entry per layer, naming earlier values only.
    sources: Vec<Vec<Source>>,
    /// Invariant: one entry per value; never empty.
    shapes: Vec<Shape>,
    output_shape: Shape,
    input_shape: Shape,
}

/// A network before its checks: what files hold.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(bound = "A: Scalar")]
struct NetworkSpec<A> {
    input_shape: Shape,
    layers: Vec<Layer<A>>,
    /// What each layer reads; empty for a sequence.
    sources: Vec<Vec<Source>>,
}

impl<A: Scalar> TryFrom<NetworkSpec<A>> for Network<A> {
    type Error = Error;

    fn try_from(spec: NetworkSpec<A>) -> Result<Self> {
        let NetworkSpec { input_shape, layers, sources } = spec;
        if sources.is_empty() {
            return Self::new(input_shape, layers);
        }
        Self::with_sources(input_shape, layers, &sources)
    }
}

impl<A: Scalar> From<Network<A>> for NetworkSpec<A> {
    fn from(network: Network<A>) -> Self {
        let sources = if network.is_sequential() { Vec::new() } else { network.sources };
        Self { input_shape: network.input_shape, layers: network.layers, sources }
    }
}

/// Most values of one sample that layers with branches may hold at one time.
const MAX_WAITING_VALUES: usize = 1 << 27;
/// Most samples evaluated at a time outside training.
const EVALUATION_SAMPLES: usize = 500;
/// Most values between two layers at a time outside training, unless one sample has more.
const EVALUATION_VALUES: usize = 1 << 24;

impl<A: Scalar> Network<A> {
    /// Most layers a network may have.
    pub const MAX_LAYERS: usize = 1024;

    /// A sequence: check every layer against the shape that reaches it.
    ///
    /// # Errors
    /// - [`Error::IncompatibleLayer`] if a layer cannot take its input (rank, kernel, window).
    /// - [`Error::ParameterShape`] if a parameter array has the wrong shape.
    /// - [`Error::ParameterValue`] if a parameter is NaN, infinite or out of its range.
    /// - [`Error::TooLarge`] if there are more than [`Self::MAX_LAYERS`] layers.
    /// - [`Error::OutOfRange`] for a layer that joins several values.
    pub fn new(input_shape: Shape, layers: Vec<Layer<A>>) -> Result<Self> {
        if layers.len() > Self::MAX_LAYERS {
            return Err(too_many_layers(layers.len(), Self::MAX_LAYERS));
        }
        let mut builder = NetworkBuilder::new(input_shape);
        for layer in layers {
            builder.append(layer)?;
        }
        builder.finish()
    }

    /// A graph: layers in the order of evaluation, each with what it reads.
    ///
    /// # Errors
    /// - [`Error::OutOfRange`] if a layer reads a later one (as any cycle must), reads too few or too
    ///   many values, or is read by none and not the last; or if more than 2^27 values wait at one time.
    /// - [`Error::IncompatibleInputs`] if a joining layer cannot take the shapes it reads together.
    /// - The others of [`Self::new`].
    pub fn from_nodes(input_shape: Shape, nodes: Vec<Node<A>>) -> Result<Self> {
        if nodes.len() > Self::MAX_LAYERS {
            return Err(too_many_layers(nodes.len(), Self::MAX_LAYERS));
        }
        let mut builder = NetworkBuilder::new(input_shape);
        for node in nodes {
            builder.push(node.layer, &node.sources)?;
        }
        builder.finish()
    }

    fn from_builder(builder: NetworkBuilder<A>) -> Result<Self> {
        let NetworkBuilder { layers, sources, shapes } = builder;
        let (Some(input_shape), Some(output_shape)) = (shapes.first(), shapes.last()) else {
            unreachable!("invariant: a builder knows the input's shape")
        };
        let (input_shape, output_shape) = (input_shape.clone(), output_shape.clone());
        let network = Self { layers, sources, shapes, output_shape, input_shape };
        let n_readers = network.reader_counts();
        for (layer_idx, &n) in n_readers.iter().skip(1).enumerate() {
            let least = usize::from(layer_idx + 1 < network.layers.len());
            require("layer", layer_idx, "number of layers that read it", n, least, usize::MAX)?;
        }
        if !network.is_sequential() {
            // A few bytes of a file can join values to ever larger ones and keep them all waiting.
            let (field, widest) = ("values of one sample held at one time", network.widest());
            require("network", 0, field, widest, 1, MAX_WAITING_VALUES)?;
        }
        Ok(network)
    }

    fn with_sources(
        input_shape: Shape,
        layers: Vec<Layer<A>>,
        sources: &[Vec<Source>],
    ) -> Result<Self> {
        let n = layers.len();
        require("network", 0, "number of layers with connections", sources.len(), n, n)?;
        let nodes = layers
            .into_iter()
            .zip(sources)
            .map(|(layer, sources)| Node { layer, sources: sources.clone() });
        Self::from_nodes(input_shape, nodes.collect())
    }

    /// The same graph with other layers, checked anew.
    ///
    /// # Errors
    /// - [`Error::OutOfRange`] if there is not one layer for each of this network's.
    /// - Those of [`Self::from_nodes`].
    pub fn with_layers(&self, layers: Vec<Layer<A>>) -> Result<Self> {
        Self::with_sources(self.input_shape.clone(), layers, &self.sources)
    }

    /// The same graph with each layer replaced, or removed where `change` gives `None`: whoever read
    /// a removed layer reads what it read.
    ///
    /// # Errors
    /// - [`Error::OutOfRange`] if a layer that joins several values is removed.
    /// - Those of [`Self::from_nodes`].
    pub fn filter_map_layers(
        &self,
        mut change: impl FnMut(usize, &Layer<A>) -> Option<Layer<A>>,
    ) -> Result<Self> {
        let mut rewriter = Rewriter::new(self.input_shape.clone());
        for (layer_idx, (layer, sources)) in self.layers.iter().zip(&self.sources).enumerate() {
            match (change(layer_idx, layer), sources.as_slice()) {
                (Some(layer), sources) => rewriter.keep(layer, sources)?,
                (None, &[source]) => rewriter.skip(source),
                (None, several) => {
                    require("layer", layer_idx, "values read if removed", several.len(), 1, 1)?;
                }
            }
        }
        rewriter.finish()
    }

    /// The part of the network that computes one value, which becomes the output.
    ///
    /// # Errors
    /// - [`Error::OutOfRange`] if there is no such value.
    pub fn upto(&self, value: Source) -> Result<Self> {
        let n = i128::try_from(self.layers.len()).unwrap_or(i128::MAX);
        let last = i128::try_from(value.value_idx()).unwrap_or(i128::MAX);
        require("network", 0, "number of layers up to a value", last, 0, n)?;
        graph::part(&self.shapes, &self.layers, &self.sources, value)
    }

    /// Shape of one input.
    #[must_use]
    pub fn input_shape(&self) -> &Shape {
        &self.input_shape
    }

    /// Shape of one output.
    #[must_use]
    pub fn output_shape(&self) -> &Shape {
        &self.output_shape
    }

    /// The layers in order.
    #[must_use]
    pub fn layers(&self) -> &[Layer<A>] {
        &self.layers
    }

    /// The layers in order, for building another sequence.
    #[must_use]
    pub fn into_layers(self) -> Vec<Layer<A>> {
        self.layers
    }

    /// What layer `layer_idx` reads; nothing for a layer that does not exist.
    #[must_use]
    pub fn sources(&self, layer_idx: usize) -> &[Source] {
        self.sources.get(layer_idx).map_or(&[], Vec::as_slice)
    }

    /// Whether every layer reads the one before it, and that one only.
    #[must_use]
    pub fn is_sequential(&self) -> bool {
        self.sources
            .iter()
            .enumerate()
            .all(|(layer_idx, sources)| *sources == [Source::of_value(layer_idx)])
    }

    /// Whether a layer is no polynomial (ReLU and other functions, maximum pools): in an encrypted run,
    /// such layers are for the client.
    #[must_use]
    pub fn needs_client(&self) -> bool {
        self.layers.iter().any(|layer| match layer {
            Layer::Activation(
                Activation::Relu | Activation::Function(_) | Activation::Blend(_),
            ) => true,
            Layer::Pool2d(pool) => pool.kind == PoolKind::Max,
            Layer::Activation(Activation::Square | Activation::Polynomial { .. })
            | Layer::Dense(_)
            | Layer::Conv2d(_)
            | Layer::BatchNorm(_)
            | Layer::Flatten
            | Layer::Clamp(_)
            | Layer::Quantize(_)
            | Layer::Dropout(_)
            | Layer::Add
            | Layer::Concat => false,
        })
    }

    /// The shape of every value: the input, then the output of each layer.
    ///
    /// Entry `i + 1` leaves layer `i`; there is one more entry than layers.
    #[must_use]
    pub fn layer_shapes(&self) -> &[Shape] {
        &self.shapes
    }

    /// The shape of what layer `layer_idx` reads; of the first value, if there are several.
    ///
    /// # Errors
    /// - [`Error::OutOfRange`] if there is no such layer.
    pub fn layer_input_shape(&self, layer_idx: usize) -> Result<&Shape> {
        let n_layers = self.layers.len();
        require("network", 0, "number of layers up to a layer", layer_idx + 1, 1, n_layers)?;
        let source = self.sources(layer_idx).first().copied().unwrap_or(Source::Input);
        Ok(self.shapes.get(source.value_idx()).unwrap_or(&self.input_shape))
    }

    /// The layer that reads a value, if only one does, and only once.
    pub(crate) fn sole_reader(&self, value: Source) -> Option<&Layer<A>> {
        let readers = self.layers.iter().zip(&self.sources);
        let mut readers = readers.flat_map(|(layer, sources)| {
            sources.iter().filter(|source| **source == value).map(move |_| layer)
        });
        readers.next().filter(|_| readers.next().is_none())
    }

    /// How often each value is read by layers.
    pub(crate) fn reader_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.shapes.len()];
        for source in self.sources.iter().flatten() {
            if let Some(count) = counts.get_mut(source.value_idx()) {
                *count += 1;
            }
        }
        counts
    }

    /// Number of trainable values.
    #[must_use]
    pub fn n_parameters(&self) -> usize {
        self.layers.iter().flat_map(Layer::parameters).map(|parameter| parameter.values.len()).sum()
    }

    /// The outputs of a batch, outside training: running statistics, no dropout.
    ///
    /// # Errors
    /// - [`Error::ShapeMismatch`] if the batch has another sample shape.
    pub fn forward(&self, batch: &Tensor<A>) -> Result<Tensor<A>> {
        self.check_input(batch.shape())?;
        let output = autodiff::evaluate(self, batch.values(), Mode::Inference);
        Tensor::new(self.output_shape.clone(), output)
    }

    /// The outputs of every layer for a batch, outside training; entry `i` leaves layer `i`.
    ///
    /// # Errors
    /// - [`Error::ShapeMismatch`] if the batch has another sample shape.
    pub fn forward_all(&self, batch: &Tensor<A>) -> Result<Vec<Tensor<A>>> {
        self.check_input(batch.shape())?;
        let mut outputs: Vec<Tensor<A>> = Vec::with_capacity(self.layers.len());
        for (layer_idx, shape) in self.shapes.iter().skip(1).enumerate() {
            let value = |source: &Source| match *source {
                Source::Input => Some(batch.values()),
                Source::Layer(earlier) => outputs.get(earlier).map(Tensor::values),
            };
            let inputs: Vec<_> = self.sources(layer_idx).iter().filter_map(value).collect();
            let output = autodiff::evaluate_layer(self, layer_idx, &inputs);
            outputs.push(Tensor::new(shape.clone(), output)?);
        }
        Ok(outputs)
    }

    /// The outputs for rows of any number, evaluated in pieces of bounded memory.
    ///
    /// # Errors
    /// - [`Error::ShapeMismatch`] if a row has not `input_shape().len()` values.
    /// - [`Error::NonFiniteInput`] if a value is NaN or infinite.
    pub fn outputs(&self, inputs: &Array2<A>) -> Result<Array2<A>> {
        let widest = self.widest();
        let piece_samples = (EVALUATION_VALUES / widest).clamp(1, EVALUATION_SAMPLES);
        let mut outputs = Array2::zeros((inputs.nrows(), self.output_shape.len()));
        let pieces = inputs.axis_chunks_iter(Axis(0), piece_samples);
        let targets = outputs.axis_chunks_iter_mut(Axis(0), piece_samples);
        for (piece, mut target) in pieces.zip(targets) {
            let batch = Tensor::new(self.input_shape.clone(), piece.to_owned())?;
            batch.check_finite("network input")?;
            target.assign(&autodiff::evaluate(self, batch.values(), Mode::Inference));
        }
        Ok(outputs)
    }

    /// The same network with every number converted to another precision.
    ///
    /// # Errors
    /// - [`Error::ParameterValue`] if a number does not fit the other precision.
    pub fn cast<B: Scalar>(&self) -> Result<Network<B>> {
        let layers = self.layers.iter().map(Layer::cast).collect();
        Network::with_sources(self.input_shape.clone(), layers, &self.sources)
    }

    /// Values of the widest place of one sample: the widest value, and what waits beside it for a later
    /// layer.
    fn widest(&self) -> usize {
        let last_readers = self.last_readers();
        let waiting = |layer_idx: usize| -> usize {
            let values = last_readers.iter().zip(&self.shapes).take(layer_idx + 1);
            values.filter(|(last, _)| **last > layer_idx).map(|(_, shape)| shape.len()).sum()
        };
        let widest = self.shapes.iter().map(Shape::len).max().unwrap_or(1);
        widest + (0..self.layers.len()).map(waiting).max().unwrap_or(0)
    }

    /// The last layer that reads each value; for the output, the number of layers.
    pub(crate) fn last_readers(&self) -> Vec<usize> {
        let mut last = vec![self.layers.len(); self.shapes.len()];
        for (layer_idx, sources) in self.sources.iter().enumerate() {
            for source in sources {
                if let Some(reader) = last.get_mut(source.value_idx()) {
                    *reader = layer_idx;
                }
            }
        }
        last
    }

    pub(crate) fn check_input(&self, shape: &Shape) -> Result<()> {
        if *shape == self.input_shape {
            return Ok(());
        }
        Err(Error::ShapeMismatch {
            what: "network input",
            expected: self.input_shape.dims().to_vec(),
            actual: shape.dims().to_vec(),
        })
    }

    /// For the trainer, which keeps shapes and checks values by watching the loss.
    pub(crate) fn layers_mut(&mut self) -> &mut [Layer<A>] {
        &mut self.layers
    }
}

fn too_many_layers(actual: usize, limit: usize) -> Error {
    Error::TooLarge { what: "number of layers", actual: actual as u64, limit: limit as u64 }
}

/// Scores are the network's outputs for inputs that are already preprocessed.
impl Predictor for Network<f32> {
    fn input_shape(&self) -> &Shape {
        &self.input_shape
    }

    fn n_classes(&self) -> usize {
        self.output_shape.len()
    }

    fn scores(&self, inputs: &Array2<f32>) -> Result<Array2<f64>> {
        Ok(self.outputs(inputs)?.mapv(f64::from))
    }
}

/// Index of the largest score of each row; the first of equals. Rows of NaN give 0.
#[must_use]
pub fn predictions<A: Scalar>(scores: &Array2<A>) -> Vec<usize> {
    scores
        .rows()
        .into_iter()
        .map(|row| {
            let mut best = (0, A::neg_infinity());
            for (class, &score) in row.iter().enumerate() {
                if score > best.1 {
                    best = (class, score);
                }
            }
            best.0
        })
        .collect()
}

#[cfg(test)]
mod tests;
