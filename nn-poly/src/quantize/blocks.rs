//! A folded network as blocks, each of which becomes one integer stage.
//!
//! ```text
//!  [Quantize]   part + part + …   [Activation]  [Pool2d]  [Clamp]  [Quantize]
//!               part = Dense | Conv2d | Pool2d | the value itself
//! ```
//!
//! What a part reads is *ready*: the input, or the end of an earlier block, which is refreshed. A
//! linear layer that only an addition reads is a part of the block of that addition; any other value
//! that is added is read as it is. A layer that reads joined channels reads each value on its own.
//!
//! Maxima of windows belong to the block whose values they read; a clamp, or an activation that never falls,
//! may stand on either side of them: `max f(x) = f(max x)`. Before any other activation, or of values that
//! are ready, they are a block of their own. A clamp before an average ends its block: the refresh limits the
//! values, and the average is a block of its own.
//!
//! Flatten may stand anywhere: with channels last it moves nothing.

use crate::error::{Error, Result};
use crate::layer::{Activation, Conv2d, Dense, Layer, Pool2d, PoolKind, Quantize};
use crate::network::{Network, Source};
use crate::tensor::Shape;

/// What a part does with the values it reads.
#[derive(Clone, Copy, Debug)]
pub(super) enum Opening<'a> {
    Dense(&'a Dense<f32>),
    Conv2d(&'a Conv2d<f32>),
    /// A pool that does not follow an activation: a depthwise convolution with weights 1.
    Pool2d(Pool2d),
    /// Nothing: a branch that is added as it is, or the channels of several values.
    Identity,
}

/// A value that exists between stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ready {
    /// The quantized input of the network.
    Input,
    /// What a block, counted from 0, produces.
    Block(usize),
}

impl Ready {
    /// 0 for the input, `i + 1` for block `i`.
    pub(super) const fn position(self) -> usize {
        match self {
            Self::Input => 0,
            Self::Block(idx) => idx + 1,
        }
    }
}

/// A whole value as a run of the channels that a part reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Read {
    pub(super) ready: Ready,
    pub(super) n_channels: usize,
}

/// A summand before the activation.
#[derive(Clone, Debug)]
pub(super) struct Part<'a> {
    pub(super) opening: Opening<'a>,
    /// Shape of what it reads, all channels together.
    pub(super) input: Shape,
    pub(super) reads: Vec<Read>,
    /// Position of the layer that opens it.
    pub(super) layer_idx: usize,
}

/// The layers of one stage.
#[derive(Clone, Debug)]
pub(super) struct Block<'a> {
    /// At least one.
    pub(super) parts: Vec<Part<'a>>,
    /// Shape of the sum of the parts.
    pub(super) linear: Shape,
    pub(super) activation: Option<&'a Activation<f32>>,
    pub(super) pool: Option<Pool2d>,
    /// Smallest limit of the clamps at the end.
    pub(super) clamp: Option<f32>,
    pub(super) quantize: Option<&'a Quantize<f32>>,
    /// Position of the layer that opens the first part.
    pub(super) first_idx: usize,
    /// Position of the last layer before clamps and quantization: where its values appear.
    pub(super) value_idx: usize,
}

/// All blocks, and the quantization of the input if there is one.
#[derive(Clone, Debug)]
pub(super) struct Blocks<'a> {
    pub(super) input_quantize: Option<&'a Quantize<f32>>,
    /// In an order in which each reads earlier ones only.
    pub(super) blocks: Vec<Block<'a>>,
}

impl<'a> Blocks<'a> {
    /// Read a network without batch normalization and dropout.
    pub(super) fn new(network: &'a Network<f32>) -> Result<Self> {
        let mut parser = Parser::new(network);
        for (layer_idx, layer) in network.layers().iter().enumerate() {
            let refuse = |reason| Error::CannotQuantize { layer_idx, layer: layer.name(), reason };
            let value = parser.layer(layer_idx, layer).map_err(refuse)?;
            parser.values.push(value);
        }
        parser.finish()
    }
}

impl Block<'_> {
    fn is_open(&self) -> bool {
        self.clamp.is_none() && self.quantize.is_none()
    }

    /// Nothing but a sum so far, which a larger sum may take over.
    fn is_bare(&self) -> bool {
        self.is_open() && self.activation.is_none() && self.pool.is_none()
    }

    fn is_pool(&self) -> bool {
        matches!(self.parts.as_slice(), [Part { opening: Opening::Pool2d(_), .. }])
    }

    /// Whether values after activation and pool cannot be negative.
    pub(super) fn is_non_negative(&self) -> bool {
        match self.activation {
            Some(Activation::Square | Activation::Relu) => true,
            Some(Activation::Function(function)) => function.is_non_negative(),
            Some(Activation::Polynomial { .. } | Activation::Blend(_)) | None => false,
        }
    }

    /// Maxima of sums, without an activation so far.
    fn ends_in_maxima(&self) -> bool {
        self.activation.is_none() && self.pool.is_some_and(|pool| pool.kind == PoolKind::Max)
    }
}

/// What is known of a value of the network.
enum Value<'a> {
    /// Whole values, one after the other along the channels.
    Ready(Vec<Read>),
    /// The newest value of a block that may go on.
    Open(Box<Block<'a>>),
}

type Parsed<T> = std::result::Result<T, &'static str>;

struct Parser<'a> {
    network: &'a Network<f32>,
    n_readers: Vec<usize>,
    values: Vec<Value<'a>>,
    blocks: Vec<Block<'a>>,
    input_quantize: Option<&'a Quantize<f32>>,
}

impl<'a> Parser<'a> {
    fn new(network: &'a Network<f32>) -> Self {
        let n_channels = network.input_shape().channels();
        Self {
            network,
            n_readers: network.reader_counts(),
            values: vec![Value::Ready(vec![Read { ready: Ready::Input, n_channels }])],
            blocks: Vec::new(),
            input_quantize: None,
        }
    }

    fn finish(mut self) -> Result<Blocks<'a>> {
        let layers = self.network.layers();
        let refusal =
            |layer_idx, layer, reason| Err(Error::CannotQuantize { layer_idx, layer, reason });
        let output = Source::of_value(layers.len());
        match self.values.pop() {
            Some(Value::Open(block)) => {
                if block.clamp.is_some() || block.quantize.is_some() {
                    let layer = layers.last().map_or("network", Layer::name);
                    const ENDED: &str =
                        "scores are neither clamped nor quantized; end with a linear layer";
                    return refusal(layers.len() - 1, layer, ENDED);
                }
                self.blocks.push(*block);
            }
            Some(Value::Ready(reads)) if reads.iter().all(|r| r.ready != Ready::Input) => {
                let block = self.identity(layers.len() - 1, self.shape(output), reads);
                self.blocks.push(block);
            }
            _ => return refusal(0, "network", "it has no linear layer"),
        }
        Ok(Blocks { input_quantize: self.input_quantize, blocks: self.blocks })
    }

    /// The value that a layer produces.
    fn layer(&mut self, idx: usize, layer: &'a Layer<f32>) -> Parsed<Value<'a>> {
        let source = self.source(idx);
        match layer {
            Layer::Dense(dense) => Ok(self.open(Opening::Dense(dense), source, idx)),
            Layer::Conv2d(conv) => Ok(self.open(Opening::Conv2d(conv), source, idx)),
            Layer::Pool2d(pool) if pool.kind == PoolKind::Max => {
                Ok(self.maximum(*pool, source, idx))
            }
            Layer::Pool2d(pool) => Ok(self.pool(*pool, source, idx)),
            Layer::Activation(activation) => self.activation(activation, source, idx),
            Layer::Clamp(clamp) => self.clamp(clamp.limit, source, idx),
            Layer::Quantize(quantize) => self.quantize(quantize, source),
            Layer::Flatten => Ok(match self.take_sole(source) {
                Some(block) => Value::Open(block),
                None => Value::Ready(self.flattened(source)),
            }),
            Layer::Add => Ok(self.add(idx)),
            Layer::Concat => Ok(self.concatenate(idx)),
            Layer::BatchNorm(_) | Layer::Dropout(_) => Err("fold the network before quantizing"),
        }
    }

    fn open(&mut self, opening: Opening<'a>, source: Source, layer_idx: usize) -> Value<'a> {
        let (input, reads) = (self.shape(source), self.ready(source));
        let linear = self.shape(Source::Layer(layer_idx));
        let part = Part { opening, input, reads, layer_idx };
        Value::Open(Box::new(Block::of(vec![part], linear, layer_idx)))
    }

    /// A block that hands values on.
    fn identity(&self, layer_idx: usize, shape: Shape, reads: Vec<Read>) -> Block<'a> {
        let part = Part { opening: Opening::Identity, input: shape.clone(), reads, layer_idx };
        Block::of(vec![part], shape, layer_idx)
    }

    fn pool(&mut self, pool: Pool2d, source: Source, idx: usize) -> Value<'a> {
        let is_activation = |layer: &Layer<f32>| matches!(layer, Layer::Activation(_));
        let fits = |block: &Block<'_>| block.is_open() && block.pool.is_none() && !block.is_pool();
        if !self.is_read_by(idx, is_activation)
            && let Some(mut block) = self.take_sole_if(source, fits)
        {
            (block.pool, block.value_idx) = (Some(pool), idx);
            return Value::Open(block);
        }
        self.open(Opening::Pool2d(pool), source, idx)
    }

    /// Maxima of the values of the block before, or of values that are handed on.
    fn maximum(&mut self, pool: Pool2d, source: Source, idx: usize) -> Value<'a> {
        let fits = |block: &Block<'_>| block.quantize.is_none() && block.pool.is_none();
        let mut block = match self.take_sole_if(source, fits) {
            Some(block) => block,
            None => {
                let reads = self.ready(source);
                Box::new(self.identity(idx, self.shape(source), reads))
            }
        };
        (block.pool, block.value_idx) = (Some(pool), idx);
        Value::Open(block)
    }

    fn activation(
        &mut self,
        activation: &'a Activation<f32>,
        source: Source,
        idx: usize,
    ) -> Parsed<Value<'a>> {
        const MISPLACED: &str = "it must follow a linear layer directly";
        let never_falls = match activation {
            Activation::Relu => true,
            Activation::Function(function) => function.is_non_decreasing(),
            Activation::Square | Activation::Polynomial { .. } | Activation::Blend(_) => false,
        };
        let fits = |block: &Block<'_>| {
            block.is_bare() || (never_falls && block.is_open() && block.ends_in_maxima())
        };
        let mut block = match self.take_sole_if(source, fits) {
            Some(block) => block,
            None => {
                let reads = self.ready(source);
                let &[Read { ready, .. }] = reads.as_slice() else { return Err(MISPLACED) };
                let Ready::Block(before) = ready else {
                    return Err("no linear layer comes before it");
                };
                let before = self.blocks.get(before).ok_or(MISPLACED)?;
                // A sum that others read too is refreshed first, and so are maxima.
                let is_sum = before.activation.is_none() && before.pool.is_none();
                let is_shared_sum = is_sum && self.is_shared(source);
                if before.clamp.is_some() || !(is_shared_sum || before.ends_in_maxima()) {
                    return Err(MISPLACED);
                }
                Box::new(self.identity(idx, self.shape(source), reads))
            }
        };
        let is_per_channel = matches!(activation, Activation::Polynomial { .. });
        if is_per_channel && self.shape(source).channels() != block.linear.channels() {
            return Err("coefficients per channel must come before the channels are flattened");
        }
        (block.activation, block.value_idx) = (Some(activation), idx);
        Ok(Value::Open(block))
    }

    fn clamp(&mut self, limit: f32, source: Source, idx: usize) -> Parsed<Value<'a>> {
        let mut block = self
            .take_sole(source)
            .ok_or("it must directly follow a layer that nothing else reads")?;
        if block.quantize.is_some() {
            return Err("a clamp must come before the quantization");
        }
        // The limit of the largest value is the largest limited value; sums of limited values are a
        // stage of their own.
        if self.is_read_by(idx, |layer| matches!(layer, Layer::Activation(_))) {
            return Err("a clamp must come after the activation, where the refresh is");
        }
        if limit.is_nan() || limit <= 0.0 {
            return Err("the limit of a clamp must be positive");
        }
        block.clamp = Some(block.clamp.map_or(limit, |other| other.min(limit)));
        Ok(Value::Open(block))
    }

    fn quantize(&mut self, quantize: &'a Quantize<f32>, source: Source) -> Parsed<Value<'a>> {
        const SHARED: &str = "other layers read the values before they are quantized";
        const AGAIN: &str = "values are quantized already";
        if let Some(mut block) = self.take_sole(source) {
            if block.quantize.is_some() {
                return Err(AGAIN);
            }
            block.quantize = Some(quantize);
            return Ok(Value::Open(block));
        }
        let reads = self.ready(source);
        let is_input = matches!(reads.as_slice(), [Read { ready: Ready::Input, .. }]);
        if !is_input || self.input_quantize.is_some() {
            return Err(if is_input { AGAIN } else { SHARED });
        }
        if self.is_shared(source) || self.is_shared(Source::Input) {
            return Err(SHARED);
        }
        self.input_quantize = Some(quantize);
        Ok(Value::Ready(reads))
    }

    fn add(&mut self, idx: usize) -> Value<'a> {
        let network = self.network;
        let shape = self.shape(Source::Layer(idx));
        let mut parts = Vec::new();
        for &source in network.sources(idx) {
            let is_vector = |shape: &Shape| shape.len() == shape.channels();
            let fits = |block: &Block<'_>| {
                block.is_bare() && (block.linear == shape || is_vector(&block.linear))
            };
            match self.take_sole_if(source, fits) {
                Some(block) => parts.extend(block.parts),
                None => {
                    let (input, reads) = (shape.clone(), self.ready(source));
                    let opening = Opening::Identity;
                    parts.push(Part { opening, input, reads, layer_idx: idx });
                }
            }
        }
        Value::Open(Box::new(Block::of(parts, shape, idx)))
    }

    fn concatenate(&mut self, idx: usize) -> Value<'a> {
        let network = self.network;
        let mut reads = Vec::new();
        for &source in network.sources(idx) {
            reads.extend(self.ready(source));
        }
        let value = Source::Layer(idx);
        if self.joins_directly(value) {
            Value::Ready(reads)
        } else {
            Value::Open(Box::new(self.identity(idx, self.shape(value), reads)))
        }
    }

    /// Whether every layer that reads joined channels can read each value on its own.
    fn joins_directly(&self, value: Source) -> bool {
        let shape = self.shape(value);
        let is_vector = shape.len() == shape.channels();
        let mut readers = self.readers(value).peekable();
        readers.peek().is_some()
            && readers.all(|(idx, layer)| match layer {
                Layer::Dense(_) => true,
                Layer::Conv2d(conv) => conv.groups == 1,
                Layer::Concat => self.joins_directly(Source::Layer(idx)),
                Layer::Flatten => is_vector && self.joins_directly(Source::Layer(idx)),
                Layer::BatchNorm(_)
                | Layer::Activation(_)
                | Layer::Pool2d(_)
                | Layer::Clamp(_)
                | Layer::Quantize(_)
                | Layer::Dropout(_)
                | Layer::Add => false,
            })
    }

    /// The reads of a value, which ends its block if it is one.
    fn ready(&mut self, source: Source) -> Vec<Read> {
        let n_channels = self.shape(source).channels();
        let next = Ready::Block(self.blocks.len());
        match self.values.get_mut(source.value_idx()) {
            None => Vec::new(),
            Some(Value::Ready(reads)) => reads.clone(),
            Some(value @ Value::Open(_)) => {
                let reads = vec![Read { ready: next, n_channels }];
                if let Value::Open(block) = std::mem::replace(value, Value::Ready(reads.clone())) {
                    self.blocks.push(*block);
                }
                reads
            }
        }
    }

    /// The reads of a value as those of a vector; of one value, or of vectors.
    fn flattened(&mut self, source: Source) -> Vec<Read> {
        let n_values = self.shape(source).len();
        let reads = self.ready(source);
        match reads.as_slice() {
            &[Read { ready, .. }] => vec![Read { ready, n_channels: n_values }],
            _ => reads,
        }
    }

    /// The open block of a value that only one layer reads.
    fn take_sole(&mut self, source: Source) -> Option<Box<Block<'a>>> {
        self.take_sole_if(source, |_| true)
    }

    fn take_sole_if(
        &mut self,
        source: Source,
        fits: impl Fn(&Block<'a>) -> bool,
    ) -> Option<Box<Block<'a>>> {
        if self.is_shared(source) {
            return None;
        }
        let value = self.values.get_mut(source.value_idx())?;
        if !matches!(value, Value::Open(block) if fits(block)) {
            return None;
        }
        match std::mem::replace(value, Value::Ready(Vec::new())) {
            Value::Open(block) => Some(block),
            Value::Ready(_) => None,
        }
    }

    fn is_shared(&self, source: Source) -> bool {
        self.n_readers.get(source.value_idx()).is_some_and(|&n| n > 1)
    }

    fn is_read_by(&self, layer_idx: usize, is: impl Fn(&Layer<f32>) -> bool) -> bool {
        self.readers(Source::Layer(layer_idx)).any(|(_, layer)| is(layer))
    }

    /// The layers that read a value, with their positions.
    fn readers(&self, value: Source) -> impl Iterator<Item = (usize, &'a Layer<f32>)> {
        let network = self.network;
        let layers = network.layers().iter().enumerate();
        layers.filter(move |(idx, _)| network.sources(*idx).contains(&value))
    }

    fn source(&self, layer_idx: usize) -> Source {
        self.network.sources(layer_idx).first().copied().unwrap_or(Source::Input)
    }

    fn shape(&self, source: Source) -> Shape {
        let shape = self.network.layer_shapes().get(source.value_idx());
        shape.unwrap_or_else(|| self.network.output_shape()).clone()
    }
}

impl<'a> Block<'a> {
    fn of(parts: Vec<Part<'a>>, linear: Shape, layer_idx: usize) -> Self {
        let first_idx = parts.first().map_or(layer_idx, |part| part.layer_idx);
        Self {
            parts,
            linear,
            activation: None,
            pool: None,
            clamp: None,
            quantize: None,
            first_idx,
            value_idx: layer_idx,
        }
    }
}
