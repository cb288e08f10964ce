//! Connections between layers, and building networks from them.

use serde::{Deserialize, Serialize};

use super::Network;
use crate::error::Result;
use crate::integer::require;
use crate::layer::Layer;
use crate::tensor::{Scalar, Shape};

/// A value that a layer reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Source {
    /// The input of the network.
    Input,
    /// The output of the layer at this position, counted from 0.
    Layer(usize),
}

impl Source {
    /// Position among all values: 0 for the input, `i + 1` for the output of layer `i`.
    #[must_use]
    pub const fn value_idx(self) -> usize {
        match self {
            Self::Input => 0,
            Self::Layer(layer_idx) => layer_idx.saturating_add(1),
        }
    }

    /// The value at a position: the inverse of [`Self::value_idx`].
    #[must_use]
    pub const fn of_value(value_idx: usize) -> Self {
        match value_idx.checked_sub(1) {
            None => Self::Input,
            Some(layer_idx) => Self::Layer(layer_idx),
        }
    }
}

/// A layer and what it reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Node<A> {
    /// The layer.
    pub layer: Layer<A>,
    /// One value for most layers, two or more for those that join.
    pub sources: Vec<Source>,
}

/// Builds a network layer by layer, naming what each reads.
///
/// ```
/// use ndarray::{Array1, Array2};
/// use nn_poly::layer::{Activation, Dense, Layer};
/// use nn_poly::network::{NetworkBuilder, Source};
/// use nn_poly::{Network, Shape};
///
/// # fn main() -> nn_poly::Result<()> {
/// // y = (W x)² + x
/// let dense = Dense::new(Array2::from_elem((3, 3), 0.5), Array1::zeros(3));
/// let mut builder = NetworkBuilder::new(Shape::vector(3)?);
/// let z = builder.push(Layer::Dense(dense), &[Source::Input])?;
/// let squared = builder.push(Layer::Activation(Activation::Square), &[z])?;
/// builder.push(Layer::Add, &[squared, Source::Input])?;
/// let network: Network<f32> = builder.finish()?;
/// assert!(!network.is_sequential());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct NetworkBuilder<A: Scalar> {
    pub(super) layers: Vec<Layer<A>>,
    pub(super) sources: Vec<Vec<Source>>,
    /// Shape of every value: the input's, then each layer's output.
    pub(super) shapes: Vec<Shape>,
}

impl<A: Scalar> NetworkBuilder<A> {
    /// A network without layers.
    #[must_use]
    pub fn new(input_shape: Shape) -> Self {
        Self { layers: Vec::new(), sources: Vec::new(), shapes: vec![input_shape] }
    }

    /// Append a layer that reads `sources`; its output, for later layers to read.
    ///
    /// # Errors
    /// - [`crate::Error::TooLarge`] beyond [`Network::MAX_LAYERS`] layers.
    /// - [`crate::Error::OutOfRange`] if a source comes later, or their number is not the layer's.
    /// - [`crate::Error::IncompatibleLayer`] or [`crate::Error::IncompatibleInputs`] if the layer
    ///   cannot take their shapes.
    /// - [`crate::Error::ParameterShape`] or [`crate::Error::ParameterValue`] for its parameters.
    pub fn push(&mut self, mut layer: Layer<A>, sources: &[Source]) -> Result<Source> {
        let layer_idx = self.layers.len();
        if layer_idx >= Network::<A>::MAX_LAYERS {
            return Err(super::too_many_layers(layer_idx + 1, Network::<A>::MAX_LAYERS));
        }
        layer.ensure_standard_layout();
        let (least, most) = layer.n_sources();
        require("layer", layer_idx, "number of values it reads", sources.len(), least, most)?;
        let mut inputs = Vec::with_capacity(sources.len());
        for source in sources {
            let position = source.value_idx();
            let latest = i128::try_from(layer_idx).unwrap_or(i128::MAX) - 1;
            match self.shapes.get(position) {
                Some(shape) => inputs.push(shape),
                None => {
                    let actual = i128::try_from(position).unwrap_or(i128::MAX) - 1;
                    require("layer", layer_idx, "layer it reads", actual, 0, latest)?;
                }
            }
        }
        let output = layer
            .output_shape(&inputs)
            .map_err(|fault| fault.at(layer_idx, layer.name(), &inputs))?;
        self.layers.push(layer);
        self.sources.push(sources.to_vec());
        self.shapes.push(output);
        Ok(Source::Layer(layer_idx))
    }

    /// Append a layer that reads the latest value.
    ///
    /// # Errors
    /// As for [`Self::push`].
    pub fn append(&mut self, layer: Layer<A>) -> Result<Source> {
        self.push(layer, &[self.latest()])
    }

    /// The latest value: the output of the last layer, or the input.
    #[must_use]
    pub fn latest(&self) -> Source {
        Source::of_value(self.layers.len())
    }

    /// Shape of a value, if it exists already.
    #[must_use]
    pub fn shape(&self, source: Source) -> Option<&Shape> {
        self.shapes.get(source.value_idx())
    }

    /// The layers so far, for changes in place that keep shapes (checked again at the end).
    pub(crate) fn layers_mut(&mut self) -> &mut [Layer<A>] {
        &mut self.layers
    }

    /// The network; its output is the latest value.
    ///
    /// # Errors
    /// - [`crate::Error::OutOfRange`] if no layer reads the output of a layer that is not the last.
    pub fn finish(self) -> Result<Network<A>> {
        Network::from_builder(self)
    }
}

/// Where the values of a network end up while layers are removed, replaced or inserted.
pub(crate) struct Rewriter<A: Scalar> {
    pub(crate) builder: NetworkBuilder<A>,
    /// New place of every old value so far.
    places: Vec<Source>,
}

impl<A: Scalar> Rewriter<A> {
    pub(crate) fn new(input_shape: Shape) -> Self {
        Self { builder: NetworkBuilder::new(input_shape), places: vec![Source::Input] }
    }

    /// The new place of an old value.
    pub(crate) fn place(&self, old: Source) -> Source {
        *self.places.get(old.value_idx()).expect("invariant: values are visited in order")
    }

    /// Take over the next old layer, reading the new places of what it read.
    pub(crate) fn keep(&mut self, layer: Layer<A>, old_sources: &[Source]) -> Result<()> {
        let sources: Vec<Source> = old_sources.iter().map(|&old| self.place(old)).collect();
        let place = self.builder.push(layer, &sources)?;
        self.places.push(place);
        Ok(())
    }

    /// Drop the next old layer: whoever read it reads `old_source` instead.
    pub(crate) fn skip(&mut self, old_source: Source) {
        let place = self.place(old_source);
        self.places.push(place);
    }

    /// Append a layer to the newest old value (the input before the first): whoever read that value
    /// reads the new layer.
    pub(crate) fn insert(&mut self, layer: Layer<A>) -> Result<()> {
        self.insert_at(Source::of_value(self.places.len() - 1), layer)
    }

    /// Append a layer to an old value: whoever reads that value from now on reads the new layer.
    pub(crate) fn insert_at(&mut self, old: Source, layer: Layer<A>) -> Result<()> {
        let place = self.builder.push(layer, &[self.place(old)])?;
        if let Some(slot) = self.places.get_mut(old.value_idx()) {
            *slot = place;
        }
        Ok(())
    }

    /// Layers so far.
    pub(crate) fn n_layers(&self) -> usize {
        self.builder.layers.len()
    }

    /// The part that computes an old value, as it is so far.
    pub(crate) fn upto(&self, old: Source) -> Result<Network<A>> {
        let NetworkBuilder { layers, sources, shapes } = &self.builder;
        part(shapes, layers, sources, self.place(old))
    }

    /// The network whose output is the newest old value.
    pub(crate) fn finish(self) -> Result<Network<A>> {
        self.builder.finish()
    }
}

/// The layers on the ways to one value of a graph, which becomes the output.
pub(super) fn part<A: Scalar>(
    shapes: &[Shape],
    layers: &[Layer<A>],
    sources: &[Vec<Source>],
    value: Source,
) -> Result<Network<A>> {
    let mut is_needed = vec![false; shapes.len()];
    let mark = |source: Source, marks: &mut Vec<bool>| {
        if let Some(mark) = marks.get_mut(source.value_idx()) {
            *mark = true;
        }
    };
    mark(value, &mut is_needed);
    for (layer_idx, sources) in sources.iter().enumerate().rev() {
        if is_needed.get(layer_idx + 1).is_some_and(|&needed| needed) {
            sources.iter().for_each(|&source| mark(source, &mut is_needed));
        }
    }
    let input_shape = shapes.first().expect("invariant: a graph has an input");
    let mut rewriter = Rewriter::new(input_shape.clone());
    let nodes = layers.iter().zip(sources).take(value.value_idx());
    for ((layer, sources), &is_needed) in nodes.zip(is_needed.iter().skip(1)) {
        if is_needed {
            rewriter.keep(layer.clone(), sources)?;
        } else {
            // Nothing that is kept reads it.
            rewriter.skip(Source::Input);
        }
    }
    rewriter.finish()
}
