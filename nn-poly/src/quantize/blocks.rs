//! A folded network as blocks, each of which becomes one integer stage.
//!
//! ```text
//!  [Quantize] ( Dense | Conv2d | Pool2d   [Activation]  [Pool2d]  [Clamp]  [Quantize] )+
//! ```
//!
//! Flatten may stand anywhere: with channels last it moves nothing.

use crate::error::{Error, Result};
use crate::layer::{Activation, Conv2d, Dense, Layer, Pool2d, PoolKind, Quantize};
use crate::network::Network;
use crate::tensor::Shape;

/// What opens a block.
#[derive(Clone, Copy, Debug)]
pub(super) enum Opening<'a> {
    Dense(&'a Dense<f32>),
    Conv2d(&'a Conv2d<f32>),
    /// A pool that does not follow an activation: a depthwise convolution with weights 1.
    Pool2d(Pool2d),
}

/// The layers of one stage.
#[derive(Clone, Debug)]
pub(super) struct Block<'a> {
    pub(super) opening: Opening<'a>,
    pub(super) input: &'a Shape,
    pub(super) activation: Option<&'a Activation<f32>>,
    pub(super) pool: Option<Pool2d>,
    /// Smallest limit of the clamps at the end.
    pub(super) clamp: Option<f32>,
    pub(super) quantize: Option<&'a Quantize<f32>>,
    /// Position of the opening layer.
    pub(super) first_idx: usize,
    /// Position of the last layer before clamps and quantization: where its values appear.
    pub(super) value_idx: usize,
}

/// All blocks, and the quantization of the input if there is one.
#[derive(Clone, Debug)]
pub(super) struct Blocks<'a> {
    pub(super) input_quantize: Option<&'a Quantize<f32>>,
    pub(super) blocks: Vec<Block<'a>>,
}

impl<'a> Blocks<'a> {
    /// Read a network without batch normalization and dropout.
    pub(super) fn new(network: &'a Network<f32>) -> Result<Self> {
        let mut parsed = Self { input_quantize: None, blocks: Vec::new() };
        for (layer_idx, layer) in network.layers().iter().enumerate() {
            let refuse = |reason| Error::CannotQuantize { layer_idx, layer: layer.name(), reason };
            let input = network
                .layer_shapes()
                .get(layer_idx)
                .ok_or_else(|| refuse("it has no input shape"))?;
            let next = network.layers().get(layer_idx + 1);
            parsed.push(layer_idx, layer, next, input).map_err(refuse)?;
        }
        match parsed.blocks.last() {
            Some(last) if last.clamp.is_some() || last.quantize.is_some() => {
                Err(Error::CannotQuantize {
                    layer_idx: network.layers().len() - 1,
                    layer: network.layers().last().map_or("network", Layer::name),
                    reason: "scores are neither clamped nor quantized; end with a linear layer",
                })
            }
            Some(_) => Ok(parsed),
            None => Err(Error::CannotQuantize {
                layer_idx: 0,
                layer: "network",
                reason: "it has no linear layer",
            }),
        }
    }

    fn push(
        &mut self,
        idx: usize,
        layer: &'a Layer<f32>,
        next: Option<&Layer<f32>>,
        input: &'a Shape,
    ) -> std::result::Result<(), &'static str> {
        match layer {
            Layer::Dense(dense) => self.open(Opening::Dense(dense), input, idx),
            Layer::Conv2d(conv) => self.open(Opening::Conv2d(conv), input, idx),
            Layer::Pool2d(Pool2d { kind: PoolKind::Max, .. }) => {
                return Err("maxima of windows have no integer form; train with average pools");
            }
            Layer::Pool2d(pool) => match self.blocks.last_mut() {
                Some(block)
                    if block.is_open()
                        && block.pool.is_none()
                        && !is_pool(block)
                        && !matches!(next, Some(Layer::Activation(_))) =>
                {
                    (block.pool, block.value_idx) = (Some(*pool), idx);
                }
                _ => self.open(Opening::Pool2d(*pool), input, idx),
            },
            Layer::Activation(activation) => {
                let block = self.blocks.last_mut().ok_or("no linear layer comes before it")?;
                if block.activation.is_some() || block.pool.is_some() || !block.is_open() {
                    return Err("it must follow a linear layer directly");
                }
                (block.activation, block.value_idx) = (Some(activation), idx);
            }
            Layer::Clamp(clamp) => {
                let block = self.blocks.last_mut().ok_or("no linear layer comes before it")?;
                if block.quantize.is_some() {
                    return Err("a clamp must come before the quantization");
                }
                if matches!(next, Some(Layer::Activation(_) | Layer::Pool2d(_))) {
                    return Err(
                        "a clamp must come after activation and pool, where the refresh is",
                    );
                }
                if clamp.limit.is_nan() || clamp.limit <= 0.0 {
                    return Err("the limit of a clamp must be positive");
                }
                let limit = block.clamp.map_or(clamp.limit, |other| other.min(clamp.limit));
                block.clamp = Some(limit);
            }
            Layer::Quantize(quantize) => match self.blocks.last_mut() {
                None if self.input_quantize.is_none() => self.input_quantize = Some(quantize),
                Some(block) if block.quantize.is_none() => block.quantize = Some(quantize),
                _ => return Err("values are quantized already"),
            },
            Layer::Flatten => {}
            Layer::BatchNorm(_) | Layer::Dropout(_) => {
                return Err("fold the network before quantizing");
            }
        }
        Ok(())
    }

    fn open(&mut self, opening: Opening<'a>, input: &'a Shape, idx: usize) {
        self.blocks.push(Block {
            opening,
            input,
            activation: None,
            pool: None,
            clamp: None,
            quantize: None,
            first_idx: idx,
            value_idx: idx,
        });
    }
}

impl Block<'_> {
    fn is_open(&self) -> bool {
        self.clamp.is_none() && self.quantize.is_none()
    }

    /// Whether values after activation and pool cannot be negative.
    pub(super) fn is_non_negative(&self) -> bool {
        matches!(self.activation, Some(Activation::Square | Activation::Relu))
    }
}

fn is_pool(block: &Block<'_>) -> bool {
    matches!(block.opening, Opening::Pool2d(_))
}
