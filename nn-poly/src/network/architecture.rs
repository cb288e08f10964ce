//! The networks of the papers, for any input shape they fit.

use std::fmt;
use std::str::FromStr;

use ndarray::{Array, Array1, Dimension, ShapeBuilder};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::Network;
use crate::error::{Error, Result};
use crate::layer::{
    Activation, BatchNorm, Clamp, Conv2d, Dense, Dropout, Layer, Padding, Pool2d, PoolKind,
    relu_fit,
};
use crate::tensor::{Scalar, Shape};

/// Which network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NetworkKind {
    /// Convolution 5×5, stride 2, 5 maps (one row and column of zeros at the top and left) → activation
    /// → dense 100 → activation → dense.
    ///
    /// # Source
    /// Gilad-Bachrach et al., "CryptoNets", ICML 2016, with the pools between the first two activations
    /// merged into the dense layer.
    Cryptonets,
    /// Convolution 5×5, 20 maps → activation → average pool 2×2 → convolution 5×5, 50 maps →
    /// activation → average pool 2×2 → dense 256 → activation → dense.
    ///
    /// # Source
    /// Xu et al., "SecureDL", ACSAC 2020, benchmark network.
    Securedl,
    /// Dense 64 → activation → dense 32 → activation → dense, for tables.
    Mlp,
    /// Trained elsewhere: whatever its file describes. Not built here, and not in [`Self::ALL`].
    Imported,
}

impl NetworkKind {
    /// Every kind that can be built, in the order of the command line's help.
    pub const ALL: [Self; 3] = [Self::Cryptonets, Self::Securedl, Self::Mlp];
}

impl fmt::Display for NetworkKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Cryptonets => "cryptonets",
            Self::Securedl => "securedl",
            Self::Mlp => "mlp",
            Self::Imported => "imported",
        })
    }
}

impl FromStr for NetworkKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|kind| kind.to_string() == name).ok_or_else(|| {
            Error::UnknownName {
                what: "network",
                actual: name.into(),
                expected: "cryptonets, securedl or mlp",
            }
        })
    }
}

/// Which activation, each preceded by batch normalization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ActivationChoice {
    /// `(z + β)²` with `β` learned by the normalization before it, started at the fit of ReLU.
    Square,
    /// `max(z, 0)`, evaluated by the key holder.
    Relu,
    /// `a z² + b z + c` learned per channel, started at the fit of ReLU.
    Polynomial,
}

impl ActivationChoice {
    /// Every choice, in the order of the command line's help.
    pub const ALL: [Self; 3] = [Self::Square, Self::Relu, Self::Polynomial];
}

impl fmt::Display for ActivationChoice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Square => "square",
            Self::Relu => "relu",
            Self::Polynomial => "poly",
        })
    }
}

impl FromStr for ActivationChoice {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|choice| choice.to_string() == name).ok_or_else(|| {
            Error::UnknownName {
                what: "activation",
                actual: name.into(),
                expected: "square, relu or poly",
            }
        })
    }
}

/// Everything that fixes the layers of a network except input shape and number of classes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Architecture {
    /// Which network.
    pub kind: NetworkKind,
    /// Which activation.
    pub activation: ActivationChoice,
    /// Upper limit after each activation (after its pool, if one follows), in units of the normalized
    /// values. Default: none.
    pub clamp: Option<f64>,
    /// Dropout before the last layer but one. Default: 0, which adds no layer.
    pub dropout: f64,
    /// Convolutions 3×3 of 50 maps, each with one row and column of zeros on every side and an activation,
    /// after the second pool of [`NetworkKind::Securedl`]; other networks have none. Default: 0.
    pub more_convolutions: usize,
}

impl Architecture {
    /// A network without clamp and dropout.
    #[must_use]
    pub const fn new(kind: NetworkKind, activation: ActivationChoice) -> Self {
        Self { kind, activation, clamp: None, dropout: 0.0, more_convolutions: 0 }
    }

    /// With an upper limit after each activation.
    #[must_use]
    pub const fn with_clamp(mut self, limit: f64) -> Self {
        self.clamp = Some(limit);
        self
    }

    /// With dropout before the last layer but one.
    #[must_use]
    pub const fn with_dropout(mut self, rate: f64) -> Self {
        self.dropout = rate;
        self
    }

    /// With more convolutions in the benchmark network, as tables 10 to 12 of its paper have them.
    #[must_use]
    pub const fn with_more_convolutions(mut self, n: usize) -> Self {
        self.more_convolutions = n;
        self
    }

    /// Build the network with random weights; the same seed gives the same weights.
    ///
    /// Weights are uniform in `±1/√fan_in`, biases 0. An image is flattened where a vector is needed.
    ///
    /// # Errors
    /// - [`Error::IncompatibleLayer`] if the input is not an image, or too small for the kernels.
    /// - [`Error::InvalidSetting`] if `n_classes` is below 2.
    /// - [`Error::UnknownName`] for [`NetworkKind::Imported`], which comes from a file.
    /// - [`Error::ParameterValue`] if the clamp or the dropout rate is out of range.
    pub fn build<A: Scalar>(
        &self,
        input_shape: &Shape,
        n_classes: usize,
        seed: u64,
    ) -> Result<Network<A>> {
        if n_classes < 2 {
            return Err(Error::InvalidSetting {
                setting: "number of classes",
                value: if n_classes == 0 { 0.0 } else { 1.0 },
                requirement: "at least 2",
            });
        }
        let mut builder = Builder {
            architecture: self,
            network: Network::new(input_shape.clone(), Vec::new())?,
            rng: ChaCha8Rng::seed_from_u64(seed),
        };
        match self.kind {
            NetworkKind::Imported => {
                return Err(Error::UnknownName {
                    what: "network",
                    actual: self.kind.to_string(),
                    expected: "cryptonets, securedl or mlp",
                });
            }
            NetworkKind::Cryptonets => {
                let padding = Padding { top: 1, left: 1, ..Padding::NONE };
                builder.convolution(5, 5, 2, padding)?;
                builder.activation(None)?;
                builder.dense(100)?;
                builder.activation(None)?;
            }
            NetworkKind::Securedl => {
                let pool = Pool2d::tiles(PoolKind::Average, (2, 2));
                builder.convolution(20, 5, 1, Padding::NONE)?;
                builder.activation(Some(pool))?;
                builder.convolution(50, 5, 1, Padding::NONE)?;
                builder.activation(Some(pool))?;
                for _ in 0..self.more_convolutions {
                    builder.convolution(50, 3, 1, Padding::uniform(1))?;
                    builder.activation(None)?;
                }
                builder.dropout()?;
                builder.dense(256)?;
                builder.activation(None)?;
            }
            NetworkKind::Mlp => {
                builder.dense(64)?;
                builder.activation(None)?;
                builder.dropout()?;
                builder.dense(32)?;
                builder.activation(None)?;
            }
        }
        builder.dense(n_classes)?;
        Ok(builder.network)
    }
}

/// Appends layers that fit the output of the layers so far.
struct Builder<'a, A: Scalar> {
    architecture: &'a Architecture,
    network: Network<A>,
    rng: ChaCha8Rng,
}

impl<A: Scalar> Builder<'_, A> {
    fn push(&mut self, layer: Layer<A>) -> Result<()> {
        let network = &self.network;
        let mut layers = network.layers().to_vec();
        layers.push(layer);
        self.network = Network::new(network.input_shape().clone(), layers)?;
        Ok(())
    }

    fn convolution(
        &mut self,
        maps: usize,
        extent: usize,
        stride: usize,
        padding: Padding,
    ) -> Result<()> {
        let channels = self.network.output_shape().channels();
        let fan_in = extent * extent * channels;
        let weights = self.weights((maps, extent, extent, channels), fan_in);
        let stride = (stride, stride);
        self.push(Layer::Conv2d(Conv2d::new(weights, Array1::zeros(maps), stride, padding)))
    }

    fn dense(&mut self, n_out: usize) -> Result<()> {
        if self.network.output_shape().dims().len() > 1 {
            self.push(Layer::Flatten)?;
        }
        let n_in = self.network.output_shape().len();
        let weights = self.weights((n_out, n_in), n_in);
        self.push(Layer::Dense(Dense::new(weights, Array1::zeros(n_out))))
    }

    fn activation(&mut self, pool: Option<Pool2d>) -> Result<()> {
        let n_channels = self.network.output_shape().channels();
        let (norm, activation) = match self.architecture.activation {
            ActivationChoice::Square => {
                let (a, b, _) = relu_fit();
                let norm = BatchNorm::new(n_channels, a.sqrt(), b / (2.0 * a.sqrt()));
                (norm, Activation::Square)
            }
            ActivationChoice::Relu => (BatchNorm::new(n_channels, 1.0, 0.0), Activation::Relu),
            ActivationChoice::Polynomial => {
                (BatchNorm::new(n_channels, 1.0, 0.0), Activation::polynomial_relu_fit(n_channels))
            }
        };
        self.push(Layer::BatchNorm(norm))?;
        self.push(Layer::Activation(activation))?;
        if let Some(pool) = pool {
            self.push(Layer::Pool2d(pool))?;
        }
        if let Some(limit) = self.architecture.clamp {
            self.push(Layer::Clamp(Clamp { limit: A::from_f64(limit) }))?;
        }
        Ok(())
    }

    fn dropout(&mut self) -> Result<()> {
        let rate = self.architecture.dropout;
        if rate == 0.0 { Ok(()) } else { self.push(Layer::Dropout(Dropout { rate })) }
    }

    fn weights<D: Dimension, Sh: ShapeBuilder<Dim = D>>(
        &mut self,
        shape: Sh,
        fan_in: usize,
    ) -> Array<A, D> {
        let bound = A::from_count(fan_in).as_f64().sqrt().recip();
        let rng = &mut self.rng;
        Array::from_shape_simple_fn(shape, || A::from_f64(rng.random_range(-bound..=bound)))
    }
}
