//! Reading model files of format version 1: sequences, and convolutions without groups.

use ndarray::{Array1, Array4};
use serde::Deserialize;

use super::{Bits, Model, ModelSpec, TrainingRecord};
use crate::artifact;
use crate::error::Result;
use crate::import::{Preprocessing, SplitSpec};
use crate::layer::{
    Activation, BatchNorm, Clamp, Conv2d, Dense, Dropout, Layer, Padding, Pool2d, Quantize,
    WeightQuantizer,
};
use crate::network::{ActivationChoice, Network, NetworkKind};
use crate::tensor::Shape;

/// The version this module reads.
pub(super) const VERSION: u32 = 1;

/// [`ModelSpec`] as version 1 wrote it.
#[derive(Deserialize)]
struct Spec {
    name: String,
    kind: NetworkKind,
    activation: ActivationChoice,
    network: Sequence,
    preprocessing: Preprocessing,
    split: SplitSpec,
    class_names: Vec<String>,
    bits: Option<Bits>,
    training: TrainingRecord,
    data_source: String,
}

#[derive(Deserialize)]
struct Sequence {
    input_shape: Shape,
    layers: Vec<OldLayer>,
}

/// [`Layer`] with the variants of version 1, in their order.
#[derive(Deserialize)]
enum OldLayer {
    Dense(Dense<f32>),
    Conv2d(OldConv2d),
    BatchNorm(BatchNorm<f32>),
    Activation(Activation<f32>),
    Pool2d(Pool2d),
    Flatten,
    Clamp(Clamp<f32>),
    Quantize(Quantize<f32>),
    Dropout(Dropout),
}

#[derive(Deserialize)]
struct OldConv2d {
    weights: Array4<f32>,
    bias: Array1<f32>,
    stride: (usize, usize),
    padding: Padding,
    weight_quantizer: Option<WeightQuantizer<f32>>,
}

impl From<OldLayer> for Layer<f32> {
    fn from(layer: OldLayer) -> Self {
        match layer {
            OldLayer::Dense(dense) => Self::Dense(dense),
            OldLayer::Conv2d(OldConv2d { weights, bias, stride, padding, weight_quantizer }) => {
                let conv = Conv2d::new(weights, bias, stride, padding);
                Self::Conv2d(Conv2d { weight_quantizer, ..conv })
            }
            OldLayer::BatchNorm(norm) => Self::BatchNorm(norm),
            OldLayer::Activation(activation) => Self::Activation(activation),
            OldLayer::Pool2d(pool) => Self::Pool2d(pool),
            OldLayer::Flatten => Self::Flatten,
            OldLayer::Clamp(clamp) => Self::Clamp(clamp),
            OldLayer::Quantize(quantize) => Self::Quantize(quantize),
            OldLayer::Dropout(dropout) => Self::Dropout(dropout),
        }
    }
}

/// Decode and check a file of version 1.
///
/// # Errors
/// As for [`Model::from_bytes`].
pub(super) fn decode(bytes: &[u8]) -> Result<Model> {
    let old: Spec = artifact::decode(Model::MAGIC, VERSION, bytes, Model::MAX_BYTES)?;
    let layers = old.network.layers.into_iter().map(Layer::from).collect();
    Model::new(ModelSpec {
        name: old.name,
        kind: old.kind,
        activation: old.activation,
        network: Network::new(old.network.input_shape, layers)?,
        preprocessing: old.preprocessing,
        split: old.split,
        class_names: old.class_names,
        bits: old.bits,
        training: old.training,
        data_source: old.data_source,
    })
}
