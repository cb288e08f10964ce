//! The layers a float network is made of.
//!
//! | layer | forward | trainable |
//! |---|---|---|
//! | [`Dense`] | `y = W x + b` | `weights`, `bias` |
//! | [`Conv2d`] | correlation with zero padding, plus bias | `weights`, `bias` |
//! | [`BatchNorm`] | `γ (x − μ)/√(σ² + ε) + β` per channel | `gamma`, `beta` |
//! | [`Activation`] | square, `a x² + b x + c`, ReLU, a blend of the last two, or another function | `a`, `b`, `c` |
//! | [`Pool2d`] | average, sum or maximum of a window | |
//! | [`Clamp`] | `min(x, limit)` | |
//! | [`Quantize`] | nearest point of an integer grid | |
//! | [`Dropout`] | random zeros in training, identity otherwise | |
//! | `Flatten` | reshape to a vector (moves nothing) | |
//! | `Add` | sum of two or more values of one shape | |
//! | `Concat` | channels of two or more values, one after the other | |
//!
//! Layers are plain data with public fields; [`Network::new`](crate::Network::new) checks them. Their
//! numeric kernels take checked operands and live beside the types.

mod activation;
mod batch_norm;
mod blend;
pub(crate) mod convolution;
mod dense;
pub(crate) mod join;
mod parallel;
mod pool;
mod quantizer;
mod restrict;

use ndarray::{ArrayViewD, ArrayViewMutD};
use serde::{Deserialize, Serialize};

pub use activation::{Activation, relu_fit};
pub use batch_norm::BatchNorm;
pub(crate) use batch_norm::BatchStatistics;
pub use blend::Blend;
pub(crate) use convolution::ConvShape;
pub use convolution::{Conv2d, Padding};
pub use dense::Dense;
pub use pool::{Pool2d, PoolKind};
pub(crate) use quantizer::round_half_up;
pub use quantizer::{Quantize, WeightQuantizer};
pub use restrict::{Clamp, Dropout};

use crate::error::Error;
use crate::tensor::{Scalar, Shape};

/// One layer of a [`Network`](crate::Network).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound = "A: Scalar")]
#[non_exhaustive]
pub enum Layer<A> {
    /// Fully connected layer on a vector.
    Dense(Dense<A>),
    /// Two-dimensional convolution on an image.
    Conv2d(Conv2d<A>),
    /// Batch normalization per channel.
    BatchNorm(BatchNorm<A>),
    /// Activation, value by value.
    Activation(Activation<A>),
    /// Average, sum or maximum pooling on an image.
    Pool2d(Pool2d),
    /// Reshape to a vector.
    Flatten,
    /// Upper limit, as applied by the refresh of an encrypted run.
    Clamp(Clamp<A>),
    /// Rounding to the grid on which an encrypted run computes.
    Quantize(Quantize<A>),
    /// Random zeros while training.
    Dropout(Dropout),
    /// Sum of two or more values of one shape: residual connections.
    Add,
    /// The channels of two or more values one after the other; height and width agree.
    Concat,
}

/// What a trainable array is for; regularization treats weights and the rest differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ParameterKind {
    /// Multiplies inputs of a dense or convolution layer; weight decay applies.
    Weight,
    /// Bias, normalization, or activation coefficient; weight decay does not apply.
    Offset,
}

/// One trainable array of a layer.
#[derive(Clone, Debug)]
pub struct Parameter<'a, A> {
    /// Field name, such as `weights`.
    pub name: &'static str,
    /// What it is for.
    pub kind: ParameterKind,
    /// Its values.
    pub values: ArrayViewD<'a, A>,
}

/// Why a layer is rejected; [`Error`] once the position in the network is known.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fault {
    Input(&'static str),
    Inputs { first: usize, other: usize, reason: &'static str },
    ParameterShape { field: &'static str, expected: Vec<usize>, actual: Vec<usize> },
    ParameterValue { field: &'static str, position: usize, value: f64, requirement: &'static str },
}

impl Fault {
    /// `inputs` are the shapes that reach the layer, at least one.
    pub(crate) fn at(self, layer_idx: usize, layer: &'static str, inputs: &[&Shape]) -> Error {
        let shape = |position: usize| {
            let shape = inputs.get(position).or_else(|| inputs.first());
            Shape::clone(shape.expect("invariant: every layer reads something"))
        };
        match self {
            Self::Input(reason) => {
                Error::IncompatibleLayer { layer_idx, layer, input: shape(0), reason }
            }
            Self::Inputs { first, other, reason } => {
                let (first, other) = (shape(first), shape(other));
                Error::IncompatibleInputs { layer_idx, layer, first, other, reason }
            }
            Self::ParameterShape { field, expected, actual } => {
                Error::ParameterShape { layer_idx, layer, field, expected, actual }
            }
            Self::ParameterValue { field, position, value, requirement } => {
                Error::ParameterValue { layer_idx, layer, field, position, value, requirement }
            }
        }
    }
}

/// Check that an array has the shape its layer needs and that all values satisfy `is_allowed`.
pub(crate) fn check_parameter<'a, A: Scalar>(
    field: &'static str,
    (expected, actual): (&[usize], &[usize]),
    values: impl IntoIterator<Item = &'a A>,
    (requirement, is_allowed): (&'static str, fn(f64) -> bool),
) -> Result<(), Fault> {
    if expected != actual {
        let (expected, actual) = (expected.to_vec(), actual.to_vec());
        return Err(Fault::ParameterShape { field, expected, actual });
    }
    match values.into_iter().map(|v| v.as_f64()).enumerate().find(|&(_, v)| !is_allowed(v)) {
        Some((position, value)) => {
            Err(Fault::ParameterValue { field, position, value, requirement })
        }
        None => Ok(()),
    }
}

/// Requirement of ordinary parameters.
pub(crate) const FINITE: (&str, fn(f64) -> bool) = ("finite", f64::is_finite);
/// Requirement of scales, steps and epsilons.
pub(crate) const POSITIVE: (&str, fn(f64) -> bool) =
    ("finite and positive", |v| v.is_finite() && v > 0.0);
/// Requirement of variances.
pub(crate) const NON_NEGATIVE: (&str, fn(f64) -> bool) =
    ("finite and not negative", |v| v.is_finite() && v >= 0.0);

impl<A: Scalar> Layer<A> {
    /// Short lower-case name of the kind of layer, such as `conv2d`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Dense(_) => "dense",
            Self::Conv2d(_) => "conv2d",
            Self::BatchNorm(_) => "batch_norm",
            Self::Activation(activation) => activation.name(),
            Self::Pool2d(pool) => pool.name(),
            Self::Flatten => "flatten",
            Self::Clamp(_) => "clamp",
            Self::Quantize(_) => "quantize",
            Self::Dropout(_) => "dropout",
            Self::Add => "add",
            Self::Concat => "concat",
        }
    }

    /// Fewest and most values this kind of layer reads.
    #[must_use]
    pub const fn n_sources(&self) -> (usize, usize) {
        match self {
            Self::Add | Self::Concat => (2, join::MAX_SOURCES),
            Self::Dense(_)
            | Self::Conv2d(_)
            | Self::BatchNorm(_)
            | Self::Activation(_)
            | Self::Pool2d(_)
            | Self::Flatten
            | Self::Clamp(_)
            | Self::Quantize(_)
            | Self::Dropout(_) => (1, 1),
        }
    }

    /// Check this layer's parameters against the shapes it reads (as many as [`Self::n_sources`]
    /// says) and compute its output shape.
    pub(crate) fn output_shape(&self, inputs: &[&Shape]) -> Result<Shape, Fault> {
        let input = *inputs.first().expect("invariant: every layer reads something");
        match self {
            Self::Add => join::added_shape(inputs),
            Self::Concat => join::concatenated_shape(inputs),
            Self::Dense(dense) => dense.output_shape(input),
            Self::Conv2d(conv) => conv.output_shape(input),
            Self::Pool2d(pool) => pool.output_shape(input),
            Self::Flatten => Ok(input.flattened()),
            Self::BatchNorm(norm) => norm.check(input).map(|()| input.clone()),
            Self::Activation(activation) => activation.check(input).map(|()| input.clone()),
            Self::Clamp(clamp) => clamp.check().map(|()| input.clone()),
            Self::Quantize(quantize) => quantize.check(input).map(|()| input.clone()),
            Self::Dropout(dropout) => dropout.check().map(|()| input.clone()),
        }
    }

    /// The trainable arrays, in a fixed order shared with [`Self::parameters_mut`] and with
    /// [`Gradients`](crate::autodiff::Gradients).
    #[must_use]
    pub fn parameters(&self) -> Vec<Parameter<'_, A>> {
        fn parameter<'a, A, D: ndarray::Dimension>(
            name: &'static str,
            kind: ParameterKind,
            values: &'a ndarray::Array<A, D>,
        ) -> Parameter<'a, A> {
            Parameter { name, kind, values: values.view().into_dyn() }
        }
        use ParameterKind::{Offset, Weight};
        match self {
            Self::Dense(dense) => vec![
                parameter("weights", Weight, &dense.weights),
                parameter("bias", Offset, &dense.bias),
            ],
            Self::Conv2d(conv) => vec![
                parameter("weights", Weight, &conv.weights),
                parameter("bias", Offset, &conv.bias),
            ],
            Self::BatchNorm(norm) => {
                vec![parameter("gamma", Offset, &norm.gamma), parameter("beta", Offset, &norm.beta)]
            }
            Self::Activation(
                Activation::Polynomial { a, b, c } | Activation::Blend(Blend { a, b, c, .. }),
            ) => vec![
                parameter("a", Offset, a),
                parameter("b", Offset, b),
                parameter("c", Offset, c),
            ],
            Self::Activation(Activation::Square | Activation::Relu | Activation::Function(_))
            | Self::Pool2d(_)
            | Self::Flatten
            | Self::Clamp(_)
            | Self::Quantize(_)
            | Self::Dropout(_)
            | Self::Add
            | Self::Concat => Vec::new(),
        }
    }

    /// The trainable arrays for change in place, in the order of [`Self::parameters`].
    pub fn parameters_mut(&mut self) -> Vec<ArrayViewMutD<'_, A>> {
        match self {
            Self::Dense(dense) => {
                vec![dense.weights.view_mut().into_dyn(), dense.bias.view_mut().into_dyn()]
            }
            Self::Conv2d(conv) => {
                vec![conv.weights.view_mut().into_dyn(), conv.bias.view_mut().into_dyn()]
            }
            Self::BatchNorm(norm) => {
                vec![norm.gamma.view_mut().into_dyn(), norm.beta.view_mut().into_dyn()]
            }
            Self::Activation(
                Activation::Polynomial { a, b, c } | Activation::Blend(Blend { a, b, c, .. }),
            ) => {
                vec![a.view_mut().into_dyn(), b.view_mut().into_dyn(), c.view_mut().into_dyn()]
            }
            Self::Activation(Activation::Square | Activation::Relu | Activation::Function(_))
            | Self::Pool2d(_)
            | Self::Flatten
            | Self::Clamp(_)
            | Self::Quantize(_)
            | Self::Dropout(_)
            | Self::Add
            | Self::Concat => Vec::new(),
        }
    }

    /// Bring the weights into row-major order, on which the kernels rely.
    pub(crate) fn ensure_standard_layout(&mut self) {
        fn ensure<A: Scalar, D: ndarray::Dimension>(values: &mut ndarray::Array<A, D>) {
            if !values.is_standard_layout() {
                *values = values.as_standard_layout().into_owned();
            }
        }
        match self {
            Self::Dense(dense) => ensure(&mut dense.weights),
            Self::Conv2d(conv) => ensure(&mut conv.weights),
            Self::BatchNorm(_)
            | Self::Activation(_)
            | Self::Pool2d(_)
            | Self::Flatten
            | Self::Clamp(_)
            | Self::Quantize(_)
            | Self::Dropout(_)
            | Self::Add
            | Self::Concat => {}
        }
    }

    /// The same layer with every number converted to another precision.
    #[must_use]
    pub fn cast<B: Scalar>(&self) -> Layer<B> {
        match self {
            Self::Dense(dense) => Layer::Dense(dense.cast()),
            Self::Conv2d(conv) => Layer::Conv2d(conv.cast()),
            Self::BatchNorm(norm) => Layer::BatchNorm(norm.cast()),
            Self::Activation(activation) => Layer::Activation(activation.cast()),
            Self::Pool2d(pool) => Layer::Pool2d(*pool),
            Self::Flatten => Layer::Flatten,
            Self::Clamp(clamp) => Layer::Clamp(clamp.cast()),
            Self::Quantize(quantize) => Layer::Quantize(quantize.cast()),
            Self::Dropout(dropout) => Layer::Dropout(*dropout),
            Self::Add => Layer::Add,
            Self::Concat => Layer::Concat,
        }
    }
}

/// Convert every number of an array to another precision.
pub(crate) fn cast_array<A: Scalar, B: Scalar, D: ndarray::Dimension>(
    values: &ndarray::Array<A, D>,
) -> ndarray::Array<B, D> {
    values.mapv(|value| B::from_f64(value.as_f64()))
}
