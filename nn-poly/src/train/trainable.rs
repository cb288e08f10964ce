//! Which parameters a training may change.

use ndarray::ArrayD;

use crate::autodiff::Gradients;
use crate::error::{Error, Result};
use crate::layer::{Layer, ParameterKind};
use crate::network::Network;

/// What may change in one array of parameters.
#[derive(Clone, Debug, PartialEq)]
pub enum Trainable {
    /// Every value.
    All,
    /// No value.
    Nothing,
    /// The values where this array, of the parameters' shape, is true.
    Where(ArrayD<bool>),
}

/// What may change in every array of a network.
///
/// The rest keeps its value bit for bit: it takes no part in gradients, their norm, weight decay or
/// momentum. A batch normalization none of whose parameters may change keeps its running statistics
/// too.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainableParameters {
    /// Per layer, per parameter, in the order of [`Layer::parameters`].
    layers: Vec<Vec<Trainable>>,
}

impl TrainableParameters {
    /// Everything may change, which is how a trainer starts.
    #[must_use]
    pub fn all(network: &Network<f32>) -> Self {
        Self::by(network, |_, _| Trainable::All)
    }

    /// Only the layers for which `is_trainable(layer_idx)` holds may change.
    #[must_use]
    pub fn layers(network: &Network<f32>, is_trainable: impl Fn(usize) -> bool) -> Self {
        Self::by(
            network,
            |layer_idx, _| {
                if is_trainable(layer_idx) { Trainable::All } else { Trainable::Nothing }
            },
        )
    }

    /// Weights that are zero stay zero, as after pruning; everything else may change.
    #[must_use]
    pub fn non_zero_weights(network: &Network<f32>) -> Self {
        Self::by(network, |_, parameter| match parameter.kind {
            ParameterKind::Weight => {
                Trainable::Where(parameter.values.mapv(|weight| weight != 0.0))
            }
            ParameterKind::Offset => Trainable::All,
        })
    }

    fn by(
        network: &Network<f32>,
        choose: impl Fn(usize, &crate::layer::Parameter<'_, f32>) -> Trainable,
    ) -> Self {
        let layer = |(layer_idx, layer): (usize, &Layer<f32>)| {
            layer.parameters().iter().map(|parameter| choose(layer_idx, parameter)).collect()
        };
        Self { layers: network.layers().iter().enumerate().map(layer).collect() }
    }

    fn is_frozen(&self, layer_idx: usize) -> bool {
        self.layers.get(layer_idx).is_some_and(|parameters| {
            parameters.iter().all(|trainable| *trainable == Trainable::Nothing)
        })
    }
}

/// A restriction with the values it protects.
#[derive(Clone, Debug)]
pub(super) struct Restriction {
    trainable: TrainableParameters,
    held: Vec<Vec<ArrayD<f32>>>,
}

impl Restriction {
    /// Protect the present values of `network`.
    ///
    /// # Errors
    /// - [`Error::ShapeMismatch`] if `trainable` was made for another network.
    pub(super) fn new(network: &Network<f32>, trainable: TrainableParameters) -> Result<Self> {
        let held: Vec<Vec<ArrayD<f32>>> = network
            .layers()
            .iter()
            .map(|layer| layer.parameters().iter().map(|p| p.values.to_owned()).collect())
            .collect();
        let expected: Vec<usize> = held.iter().map(Vec::len).collect();
        let actual: Vec<usize> = trainable.layers.iter().map(Vec::len).collect();
        if expected != actual {
            let what = "trainable arrays per layer";
            return Err(Error::ShapeMismatch { what, expected, actual });
        }
        for (trainable, values) in trainable.layers.iter().flatten().zip(held.iter().flatten()) {
            if let Trainable::Where(mask) = trainable
                && mask.shape() != values.shape()
            {
                let (expected, actual) = (values.shape().to_vec(), mask.shape().to_vec());
                let what = "array of trainable values";
                return Err(Error::ShapeMismatch { what, expected, actual });
            }
        }
        Ok(Self { trainable, held })
    }

    /// Whether nothing in a layer may change.
    pub(super) fn is_frozen(&self, layer_idx: usize) -> bool {
        self.trainable.is_frozen(layer_idx)
    }

    /// Remove the gradients of protected values.
    pub(super) fn silence(&self, gradients: &mut Gradients<f32>) {
        for (trainable, gradients) in self.trainable.layers.iter().zip(&mut gradients.layers) {
            // Layers below the first trainable one have no gradients at all.
            for (trainable, gradient) in trainable.iter().zip(gradients) {
                match trainable {
                    Trainable::All => {}
                    Trainable::Nothing => gradient.fill(0.0),
                    Trainable::Where(mask) => gradient.zip_mut_with(mask, |value, &may_change| {
                        if !may_change {
                            *value = 0.0;
                        }
                    }),
                }
            }
        }
    }

    /// Give protected values back what weight decay took from them.
    pub(super) fn restore(&self, layers: &mut [Layer<f32>]) {
        let parameters = layers.iter_mut().flat_map(Layer::parameters_mut);
        let held = self.held.iter().flatten();
        for ((trainable, held), mut values) in
            self.trainable.layers.iter().flatten().zip(held).zip(parameters)
        {
            match trainable {
                Trainable::All => {}
                Trainable::Nothing => values.assign(held),
                Trainable::Where(mask) => {
                    ndarray::Zip::from(&mut values).and(mask).and(held).for_each(
                        |value, &may_change, &held| {
                            if !may_change {
                                *value = held;
                            }
                        },
                    );
                }
            }
        }
    }
}
