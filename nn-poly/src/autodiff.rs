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

use ndarray::{Array2, ArrayD, ArrayView2, CowArray, Ix2};

pub use linearization::{Linearization, ParameterSelection};
pub(crate) use step::Cache;

use crate::error::{Error, Result};
use crate::layer::{Activation, Blend, Layer};
use crate::network::{Network, Source};
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
    /// Position in `values` of the input (entry 0) and of the output of layer `i` (entry `i + 1`).
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
            let read: Vec<usize> =
                network.sources(layer_idx).iter().map(|&s| position(&positions, s)).collect();
            if let (Layer::Flatten, &[shared]) = (layer, read.as_slice()) {
                caches.push(Cache::None);
                positions.push(shared);
                continue;
            }
            let inputs: Vec<_> =
                read.iter().filter_map(|&p| values.get(p)).map(|v| v.view()).collect();
            let (output, cache) = step::forward(network, layer_idx, &inputs, mode);
            values.push(output);
            caches.push(cache);
            positions.push(values.len() - 1);
        }
        Ok(Self { network, values, positions, caches })
    }

    /// The network's outputs, one row per sample.
    #[must_use]
    pub fn output(&self) -> ArrayView2<'_, A> {
        self.value(Source::of_value(self.network.layers().len())).view()
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
        let layers = self.network.layers().iter().enumerate();
        layers
            .filter_map(|(layer_idx, layer)| {
                let (blend, &source) = (blend(layer)?, self.network.sources(layer_idx).first()?);
                Some(blend.range_loss(slice(self.value(source)), self.n_samples()))
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
        let upstream = output_gradient.as_standard_layout().into_owned();
        let n_layers = self.network.layers().len();
        let mut layers = vec![Vec::new(); n_layers];
        let is_needed = self.needed_gradients(input_gradient);
        let mut pending = Pending::at_output(n_layers, upstream);
        for (layer_idx, (cache, parameters)) in
            self.caches.iter().zip(&mut layers).enumerate().rev()
        {
            let Some(upstream) = pending.take(Source::Layer(layer_idx)) else { continue };
            let sources = self.network.sources(layer_idx);
            let wanted = |source: Source| is_needed.get(source.value_idx()).is_some_and(|n| *n);
            if let Some(parts) = step::split(self.network, layer_idx, &upstream) {
                for (&source, part) in sources.iter().zip(parts).filter(|(s, _)| wanted(**s)) {
                    pending.add(source, part);
                }
                continue;
            }
            let source = sources.first().copied().unwrap_or(Source::Input);
            let input = self.value(source);
            let want = wanted(source);
            let (gradient, mut below) =
                step::backward(self.network, layer_idx, cache, input.view(), upstream, want);
            *parameters = gradient;
            if !want {
                continue;
            }
            let blend = self.network.layers().get(layer_idx).and_then(blend);
            if let Some(blend) = blend.filter(|_| range_weight > 0.0) {
                let gradient = step::slice_mut(&mut below);
                blend.add_range_gradient(slice(input), self.n_samples(), range_weight, gradient);
            }
            pending.add(source, below);
        }
        let input = match input_gradient {
            InputGradient::Wanted => pending.take(Source::Input),
            InputGradient::Skipped => None,
        };
        Ok(Gradients { layers, input })
    }

    /// The values whose gradient is needed: those computed from parameters, and the input if wanted.
    fn needed_gradients(&self, input_gradient: InputGradient) -> Vec<bool> {
        let mut is_needed = vec![input_gradient == InputGradient::Wanted];
        for (layer_idx, layer) in self.network.layers().iter().enumerate() {
            let of = |s: &Source| is_needed.get(s.value_idx()).is_some_and(|needed| *needed);
            let reaches = self.network.sources(layer_idx).iter().any(of);
            is_needed.push(reaches || !layer.parameters().is_empty());
        }
        is_needed
    }

    fn value(&self, source: Source) -> &Array2<A> {
        let value = self.values.get(position(&self.positions, source));
        value.expect("invariant: positions point into values")
    }

    fn n_samples(&self) -> usize {
        self.output().nrows()
    }

    /// Give up the values and keep what training needs for the running statistics.
    pub(crate) fn into_caches(self) -> Vec<Cache<A>> {
        self.caches
    }
}

fn position(positions: &[usize], source: Source) -> usize {
    let position = positions.get(source.value_idx());
    *position.expect("invariant: layers read values that exist")
}

/// Gradients that wait at values for the layers that computed them.
pub(crate) struct Pending<A>(Vec<Option<Array2<A>>>);

impl<A: Scalar> Pending<A> {
    /// Nothing waits at any value of a network of `n_layers` layers.
    pub(crate) fn none(n_layers: usize) -> Self {
        Self((0..=n_layers).map(|_| None).collect())
    }

    pub(crate) fn at_output(n_layers: usize, upstream: Array2<A>) -> Self {
        let mut pending = Self::none(n_layers);
        pending.add(Source::of_value(n_layers), upstream);
        pending
    }

    /// Add to what waits at a value.
    pub(crate) fn add(&mut self, at: Source, gradient: Array2<A>) {
        let Some(slot) = self.0.get_mut(at.value_idx()) else { return };
        match slot {
            Some(sum) => *sum += &gradient,
            None => *slot = Some(gradient),
        }
    }

    /// Take what waits at a value, if anything does.
    pub(crate) fn take(&mut self, at: Source) -> Option<Array2<A>> {
        self.0.get_mut(at.value_idx()).and_then(Option::take)
    }
}

fn blend<A>(layer: &Layer<A>) -> Option<&Blend<A>> {
    if let Layer::Activation(Activation::Blend(blend)) = layer { Some(blend) } else { None }
}

fn slice<A>(values: &Array2<A>) -> &[A] {
    values.as_slice().expect("invariant: batches are in standard layout")
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
///
/// A value is dropped after the last layer that reads it.
pub(crate) fn evaluate<A: Scalar>(
    network: &Network<A>,
    input: ArrayView2<'_, A>,
    mode: Mode,
) -> Array2<A> {
    evaluate_watched(network, input, mode, |_, _| {})
}

/// As [`evaluate`]; `watch` sees what every layer but a flattening reads first, with the position of
/// the layer.
pub(crate) fn evaluate_watched<A: Scalar>(
    network: &Network<A>,
    input: ArrayView2<'_, A>,
    mode: Mode,
    mut watch: impl FnMut(usize, ArrayView2<'_, A>),
) -> Array2<A> {
    const READ: &str = "invariant: a value stays until its last reader";
    let last_readers = network.last_readers();
    let mut values: Vec<Option<CowArray<'_, A, Ix2>>> = vec![Some(input.into())];
    for (layer_idx, layer) in network.layers().iter().enumerate() {
        let sources = network.sources(layer_idx);
        let is_last =
            |source: Source| last_readers.get(source.value_idx()).is_some_and(|l| *l == layer_idx);
        let output = match (layer, sources) {
            (Layer::Flatten, &[source]) => {
                let slot = values.get_mut(source.value_idx()).expect(READ);
                if is_last(source) { slot.take() } else { slot.clone() }
            }
            _ => {
                let at = |s: &Source| values.get(s.value_idx()).and_then(Option::as_ref);
                let inputs: Vec<_> = sources.iter().map(|s| at(s).expect(READ).view()).collect();
                inputs.iter().take(1).for_each(|first| watch(layer_idx, *first));
                Some(step::forward(network, layer_idx, &inputs, mode).0.into())
            }
        };
        for &source in sources.iter().filter(|source| is_last(**source)) {
            if let Some(slot) = values.get_mut(source.value_idx()) {
                *slot = None;
            }
        }
        values.push(output);
    }
    values.pop().flatten().expect(READ).into_owned()
}

/// Evaluate one layer outside training. The shapes were checked by the caller.
pub(crate) fn evaluate_layer<A: Scalar>(
    network: &Network<A>,
    layer_idx: usize,
    inputs: &[ArrayView2<'_, A>],
) -> Array2<A> {
    match (network.layers().get(layer_idx), inputs) {
        (Some(Layer::Flatten), &[input]) => input.to_owned(),
        _ => step::forward(network, layer_idx, inputs, Mode::Inference).0,
    }
}
