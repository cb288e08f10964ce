//! Forward passes that remember, and backward passes that return gradients.
//!
//! A [`Tape`] holds what one forward pass leaves behind: the values between the layers, the batch
//! statistics, the dropout masks and the weights as used (rounded, where a quantizer says so).
//! [`Tape::backward`] turns the gradient of any function of the outputs into the gradient of every
//! parameter, and of the input if wanted.
//!
//! Cost: the backward pass takes about twice the forward pass. Memory: the values between the layers
//! of one batch.

mod linearization;
mod step;

use ndarray::{Array2, ArrayD, ArrayView2};

pub use linearization::{Linearization, ParameterSelection};
pub(crate) use step::Cache;

use crate::error::{Error, Result};
use crate::layer::{Activation, Blend, Layer};
use crate::network::Network;
use crate::tensor::{Scalar, Shape, Tensor};

/// How batch normalization and dropout behave in a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Batch statistics; dropout masks drawn from the seed. Gradients flow through the statistics.
    Training {
        /// Seed of this pass's dropout masks.
        dropout_seed: u64,
    },
    /// Running statistics, no dropout: the function a model computes once trained.
    Inference,
}

/// Whether a backward pass also computes the gradient of the network's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputGradient {
    /// Compute it.
    Wanted,
    /// Leave it out and save the work of the first layer.
    Skipped,
}

/// What one forward pass leaves behind for the backward pass.
#[derive(Debug)]
pub struct Tape<'a, A: Scalar> {
    network: &'a Network<A>,
    /// Values between layers; flattening shares the value of its input.
    values: Vec<Array2<A>>,
    /// Position in `values` of the input of layer `i`; one more entry for the output.
    positions: Vec<usize>,
    caches: Vec<Cache<A>>,
}

/// Gradients of one function with respect to every trainable array of a network.
///
/// `layers[i][k]` belongs to the `k`-th of [`Layer::parameters`] of layer `i` and has its shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradients<A> {
    /// Per layer, per parameter.
    pub layers: Vec<Vec<ArrayD<A>>>,
    /// Gradient of the input, if it was wanted: `(samples, input values)`.
    pub input: Option<Array2<A>>,
}

impl<A: Scalar> Gradients<A> {
    /// Euclidean norm of all parameter gradients together.
    #[must_use]
    pub fn norm(&self) -> f64 {
        let squares =
            |array: &ArrayD<A>| array.iter().map(|g| g.as_f64() * g.as_f64()).sum::<f64>();
        self.layers.iter().flatten().map(squares).sum::<f64>().sqrt()
    }

    /// Multiply all parameter gradients by `factor`.
    pub fn scale(&mut self, factor: f64) {
        let factor = A::from_f64(factor);
        for array in self.layers.iter_mut().flatten() {
            array.mapv_inplace(|g| g * factor);
        }
    }
}

impl<'a, A: Scalar> Tape<'a, A> {
    /// Run `network` forward on `batch` and remember what the backward pass needs.
    ///
    /// # Errors
    /// - [`Error::ShapeMismatch`] if the batch has another sample shape.
    /// - [`Error::NoSamples`] if the batch is empty.
    pub fn forward(network: &'a Network<A>, batch: Tensor<A>, mode: Mode) -> Result<Self> {
        network.check_input(batch.shape())?;
        if batch.n_samples() == 0 {
            return Err(Error::NoSamples { what: "the batch" });
        }
        let mut values = vec![batch.into_values()];
        let mut positions = vec![0];
        let mut caches = Vec::with_capacity(network.layers().len());
        for (layer_idx, layer) in network.layers().iter().enumerate() {
            if !matches!(layer, Layer::Flatten) {
                let (output, cache) = step::forward(network, layer_idx, last(&values).view(), mode);
                values.push(output);
                caches.push(cache);
            } else {
                caches.push(Cache::None);
            }
            positions.push(values.len() - 1);
        }
        Ok(Self { network, values, positions, caches })
    }

    /// The network's outputs, one row per sample.
    #[must_use]
    pub fn output(&self) -> ArrayView2<'_, A> {
        last(&self.values).view()
    }

    /// Shape of one output.
    #[must_use]
    pub fn output_shape(&self) -> &Shape {
        self.network.output_shape()
    }

    /// Gradients of a function `f` of the outputs, given `∂f/∂output` as one row per sample.
    ///
    /// # Errors
    /// - [`Error::ShapeMismatch`] if `output_gradient` has not the shape of [`Self::output`].
    pub fn backward(
        &self,
        output_gradient: Array2<A>,
        input_gradient: InputGradient,
    ) -> Result<Gradients<A>> {
        self.backward_with_range_loss(output_gradient, input_gradient, 0.0)
    }

    /// The range loss of all blended activations together: how far their inputs leave the intervals.
    pub(crate) fn range_loss(&self) -> f64 {
        let layers = self.network.layers().iter().zip(&self.positions);
        layers
            .filter_map(|(layer, &position)| {
                let blend = blend(layer)?;
                Some(blend.range_loss(slice(self.value(position)), self.n_samples()))
            })
            .sum()
    }

    /// As [`Self::backward`], for `f` plus `range_weight` times [`Self::range_loss`].
    pub(crate) fn backward_with_range_loss(
        &self,
        output_gradient: Array2<A>,
        input_gradient: InputGradient,
        range_weight: f64,
    ) -> Result<Gradients<A>> {
        let output = self.output();
        if output_gradient.shape() != output.shape() {
            return Err(Error::ShapeMismatch {
                what: "the gradient of the outputs",
                expected: output.shape().to_vec(),
                actual: output_gradient.shape().to_vec(),
            });
        }
        let mut upstream = output_gradient.as_standard_layout().into_owned();
        let n_layers = self.network.layers().len();
        let mut layers = vec![Vec::new(); n_layers];
        // Below the first layer with parameters only the input's own gradient is left to find.
        let first_needed = match input_gradient {
            InputGradient::Wanted => 0,
            InputGradient::Skipped => self.first_trainable().unwrap_or(n_layers),
        };
        let records = self.caches.iter().zip(&self.positions).zip(&mut layers).enumerate();
        for (layer_idx, ((cache, &position), parameters)) in records.rev() {
            if layer_idx < first_needed {
                break;
            }
            let want = layer_idx > first_needed || input_gradient == InputGradient::Wanted;
            let input = self.value(position).view();
            let (gradient, mut below) =
                step::backward(self.network, layer_idx, cache, input, upstream, want);
            *parameters = gradient;
            let blend = self.network.layers().get(layer_idx).and_then(blend);
            if let Some(blend) = blend.filter(|_| want && range_weight > 0.0) {
                let gradient =
                    below.as_slice_mut().expect("invariant: gradients are in standard layout");
                let input = slice(self.value(position));
                blend.add_range_gradient(input, self.n_samples(), range_weight, gradient);
            }
            upstream = below;
        }
        let input = (input_gradient == InputGradient::Wanted).then_some(upstream);
        Ok(Gradients { layers, input })
    }

    fn value(&self, position: usize) -> &Array2<A> {
        self.values.get(position).expect("invariant: positions point into values")
    }

    fn n_samples(&self) -> usize {
        self.output().nrows()
    }

    fn first_trainable(&self) -> Option<usize> {
        self.network.layers().iter().position(|layer| !layer.parameters().is_empty())
    }

    /// Give up the values and keep what training needs for the running statistics.
    pub(crate) fn into_caches(self) -> Vec<Cache<A>> {
        self.caches
    }
}

fn blend<A>(layer: &Layer<A>) -> Option<&Blend<A>> {
    if let Layer::Activation(Activation::Blend(blend)) = layer { Some(blend) } else { None }
}

fn slice<A>(values: &Array2<A>) -> &[A] {
    values.as_slice().expect("invariant: batches are in standard layout")
}

fn last<A>(values: &[Array2<A>]) -> &Array2<A> {
    values.last().expect("invariant: the input is the first value")
}

/// Move the running statistics of every batch normalization toward those of one training pass, at
/// the layers for which `may_change(layer_idx)` holds.
pub(crate) fn absorb_statistics<A: Scalar>(
    network: &mut Network<A>,
    caches: &[Cache<A>],
    may_change: impl Fn(usize) -> bool,
) {
    let layers = network.layers_mut().iter_mut().zip(caches).enumerate();
    for (_, (layer, cache)) in layers.filter(|(layer_idx, _)| may_change(*layer_idx)) {
        if let (Layer::BatchNorm(norm), Cache::Statistics(statistics)) = (layer, cache) {
            norm.absorb(statistics);
        }
    }
}

/// Evaluate all layers and keep only the last values. The shapes were checked by the caller.
pub(crate) fn evaluate<A: Scalar>(
    network: &Network<A>,
    input: ArrayView2<'_, A>,
    mode: Mode,
) -> Array2<A> {
    let mut values: Option<Array2<A>> = None;
    for (layer_idx, layer) in network.layers().iter().enumerate() {
        if !matches!(layer, Layer::Flatten) {
            let current = values.as_ref().map_or(input, |values| values.view());
            values = Some(step::forward(network, layer_idx, current, mode).0);
        }
    }
    values.unwrap_or_else(|| input.to_owned())
}

/// Evaluate one layer outside training. The shapes were checked by the caller.
pub(crate) fn evaluate_layer<A: Scalar>(
    network: &Network<A>,
    layer_idx: usize,
    input: Array2<A>,
) -> Array2<A> {
    match network.layers().get(layer_idx) {
        None | Some(Layer::Flatten) => input,
        Some(_) => step::forward(network, layer_idx, input.view(), Mode::Inference).0,
    }
}
