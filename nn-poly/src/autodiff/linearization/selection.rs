//! The parameters a sensitivity is about.

use crate::error::{Error, Result};
use crate::layer::Layer;
use crate::network::Network;
use crate::tensor::Scalar;

/// Which parameters of a network a sensitivity is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterSelection {
    /// One entry per layer.
    layers: Vec<bool>,
    offsets: Offsets,
}

/// Whether biases, normalization and activation coefficients are meant too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offsets {
    Included,
    Excluded,
}

impl ParameterSelection {
    /// All parameters of all layers.
    #[must_use]
    pub fn all<A: Scalar>(network: &Network<A>) -> Self {
        let has = |layer: &Layer<A>| !layer.parameters().is_empty();
        let layers = network.layers().iter().map(has).collect();
        Self { layers, offsets: Offsets::Included }
    }

    /// All parameters of the last dense layer or convolution.
    ///
    /// # Errors
    /// - [`Error::NoParameters`] if there is neither.
    pub fn last<A: Scalar>(network: &Network<A>) -> Result<Self> {
        let linear = |layer: &Layer<A>| matches!(layer, Layer::Dense(_) | Layer::Conv2d(_));
        match network.layers().iter().rposition(linear) {
            Some(last) => Self::only(network, &[last]),
            None => Err(Error::NoParameters { what: "the network" }),
        }
    }

    /// All parameters of the layers at the given positions.
    ///
    /// # Errors
    /// - [`Error::NoParameters`] if a position does not exist or its layer has no parameters, or no
    ///   position is given.
    pub fn only<A: Scalar>(network: &Network<A>, positions: &[usize]) -> Result<Self> {
        let mut layers = vec![false; network.layers().len()];
        for &position in positions {
            match (layers.get_mut(position), network.layers().get(position)) {
                (Some(selected), Some(layer)) if !layer.parameters().is_empty() => *selected = true,
                _ => return Err(Error::NoParameters { what: "a selected layer" }),
            }
        }
        if positions.is_empty() {
            return Err(Error::NoParameters { what: "the selection" });
        }
        Ok(Self { layers, offsets: Offsets::Included })
    }

    /// The same layers without biases and other offsets.
    #[must_use]
    pub fn weights_only(mut self) -> Self {
        self.offsets = Offsets::Excluded;
        self
    }

    /// Positions of the selected layers, in ascending order.
    #[must_use]
    pub fn layers(&self) -> Vec<usize> {
        self.layers.iter().enumerate().filter(|(_, s)| **s).map(|(position, _)| position).collect()
    }

    /// Whether offsets of the selected layers are selected.
    #[must_use]
    pub fn includes_offsets(&self) -> bool {
        self.offsets == Offsets::Included
    }

    pub(super) fn contains(&self, layer_idx: usize) -> bool {
        self.layers.get(layer_idx).copied().unwrap_or(false)
    }

    pub(super) fn first(&self) -> usize {
        self.layers.iter().position(|&selected| selected).unwrap_or(self.layers.len())
    }
}
