//! A checked sequence of layers, and what the rest of the workspace needs to know of any model.

mod architecture;
mod fold;

use ndarray::{Array2, Axis};
use serde::{Deserialize, Serialize};

pub use architecture::{ActivationChoice, Architecture, NetworkKind};

use crate::autodiff::{self, Mode};
use crate::error::{Error, Result};
use crate::layer::Layer;
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

/// A sequence of layers with matching shapes and finite parameters.
///
/// Immutable except through [`Trainer`](crate::train::Trainer); to change a network, take its layers
/// with [`Self::into_layers`] and build a new one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound = "A: Scalar", try_from = "NetworkSpec<A>", into = "NetworkSpec<A>")]
pub struct Network<A: Scalar> {
    layers: Vec<Layer<A>>,
    /// Invariant: `shapes[i]` enters `layers[i]` and `shapes[i + 1]` leaves it; never empty.
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
}

impl<A: Scalar> TryFrom<NetworkSpec<A>> for Network<A> {
    type Error = Error;

    fn try_from(spec: NetworkSpec<A>) -> Result<Self> {
        Self::new(spec.input_shape, spec.layers)
    }
}

impl<A: Scalar> From<Network<A>> for NetworkSpec<A> {
    fn from(network: Network<A>) -> Self {
        Self { input_shape: network.input_shape, layers: network.layers }
    }
}

/// Most samples evaluated at a time outside training.
const EVALUATION_SAMPLES: usize = 500;
/// Most values between two layers at a time outside training, unless one sample has more.
const EVALUATION_VALUES: usize = 1 << 24;

impl<A: Scalar> Network<A> {
    /// Most layers a network may have.
    pub const MAX_LAYERS: usize = 1024;

    /// Check every layer against the shape that reaches it.
    ///
    /// # Errors
    /// - [`Error::IncompatibleLayer`] if a layer cannot take its input (rank, kernel, window).
    /// - [`Error::ParameterShape`] if a parameter array has the wrong shape.
    /// - [`Error::ParameterValue`] if a parameter is NaN, infinite or out of its range.
    /// - [`Error::TooLarge`] if there are more than [`Self::MAX_LAYERS`] layers.
    pub fn new(input_shape: Shape, mut layers: Vec<Layer<A>>) -> Result<Self> {
        if layers.len() > Self::MAX_LAYERS {
            return Err(Error::TooLarge {
                what: "number of layers",
                actual: layers.len() as u64,
                limit: Self::MAX_LAYERS as u64,
            });
        }
        layers.iter_mut().for_each(Layer::ensure_standard_layout);
        let mut shapes = vec![input_shape.clone()];
        let mut current = input_shape.clone();
        for (layer_idx, layer) in layers.iter().enumerate() {
            current = layer
                .output_shape(&current)
                .map_err(|fault| fault.at(layer_idx, layer.name(), &current))?;
            shapes.push(current.clone());
        }
        Ok(Self { layers, shapes, output_shape: current, input_shape })
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

    /// The layers in order, for building another network.
    #[must_use]
    pub fn into_layers(self) -> Vec<Layer<A>> {
        self.layers
    }

    /// The shape that enters the first layer, then the shape that leaves each layer.
    ///
    /// Entry `i` enters layer `i`; there is one more entry than layers.
    #[must_use]
    pub fn layer_shapes(&self) -> &[Shape] {
        &self.shapes
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
        let mut values = batch.values().to_owned();
        let mut outputs = Vec::with_capacity(self.layers.len());
        for (layer_idx, shape) in self.shapes.iter().skip(1).enumerate() {
            values = autodiff::evaluate_layer(self, layer_idx, values);
            outputs.push(Tensor::new(shape.clone(), values.clone())?);
        }
        Ok(outputs)
    }

    /// The outputs for rows of any number, evaluated in pieces of bounded memory.
    ///
    /// # Errors
    /// - [`Error::ShapeMismatch`] if a row has not `input_shape().len()` values.
    /// - [`Error::NonFiniteInput`] if a value is NaN or infinite.
    pub fn outputs(&self, inputs: &Array2<A>) -> Result<Array2<A>> {
        let widest = self.shapes.iter().map(Shape::len).max().unwrap_or(1);
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
        Network::new(self.input_shape.clone(), self.layers.iter().map(Layer::cast).collect())
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
