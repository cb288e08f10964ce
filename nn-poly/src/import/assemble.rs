//! From the steps of an imported network to layers: affine maps are folded into linear layers.

use ndarray::{Array1, Array2, Array4};

use super::ImportError;
use crate::error::Result;
use crate::layer::{Activation, Conv2d, Dense, Layer, Padding, PoolKind};
use crate::network::Network;
use crate::tensor::Shape;

/// What an imported network does, in order.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "there are few steps, and each is moved once")]
pub(super) enum Step {
    Affine(Affine),
    Layer(Layer<f32>),
}

/// `scale · x + offset` with one entry per channel (last axis), or one for all.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Affine {
    pub(super) scale: Vec<f64>,
    pub(super) offset: Vec<f64>,
}

/// Entry `idx` of coefficients per channel or for all; channels are the fastest index.
pub(super) fn entry(values: &[f64], idx: usize) -> f64 {
    values.get(idx % values.len().max(1)).copied().unwrap_or(0.0)
}

impl Affine {
    pub(super) fn uniform(scale: f64, offset: f64) -> Self {
        Self { scale: vec![scale], offset: vec![offset] }
    }

    pub(super) fn is_identity(&self) -> bool {
        self.scale.iter().all(|&s| s == 1.0) && self.keeps_zero()
    }

    /// Whether zero padding before and after the map is the same.
    pub(super) fn keeps_zero(&self) -> bool {
        self.offset.iter().all(|&o| o == 0.0)
    }

    /// This map, then `next`.
    pub(super) fn then(&self, next: &Self) -> Self {
        let n = |a: &[f64], b: &[f64]| a.len().max(b.len());
        let scale = (0..n(&self.scale, &next.scale))
            .map(|i| entry(&self.scale, i) * entry(&next.scale, i))
            .collect();
        let n_offsets = n(&self.offset, &next.offset).max(next.scale.len());
        let offset = (0..n_offsets)
            .map(|i| entry(&self.offset, i) * entry(&next.scale, i) + entry(&next.offset, i))
            .collect();
        Self { scale, offset }
    }
}

/// Where a file has the features of a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// In the order of this crate.
    Same,
    /// Flattened from `channels × height × width`, where this crate has `height × width × channels`.
    ChannelsFirst {
        /// Channels.
        channels: usize,
        /// Height times width.
        plane: usize,
    },
}

impl Order {
    /// Of a flattened image.
    pub(super) const fn of_flattened(channels: usize, plane: usize) -> Self {
        if channels == 1 || plane == 1 {
            Self::Same
        } else {
            Self::ChannelsFirst { channels, plane }
        }
    }

    /// Position in the file's array of feature `idx` of this crate.
    pub(super) const fn position(self, idx: usize) -> usize {
        match self {
            Self::Same => idx,
            Self::ChannelsFirst { channels, plane } => idx % channels * plane + idx / channels,
        }
    }
}

/// Limit on the values all weights of an imported network take together.
///
/// A file can make a few bytes of weights into many: grouped convolutions become full ones, one array may
/// serve many nodes. What is taken here is bounded by the size of the file plus a fixed allowance.
#[derive(Debug)]
pub(super) struct Budget {
    left: usize,
    limit: usize,
}

impl Budget {
    /// Values any file may take: 2^24, which is 64 MiB of weights.
    const ALLOWANCE: usize = 1 << 24;

    /// For a network in files of `n_bytes` bytes together.
    pub(super) fn for_files_of(n_bytes: usize) -> Self {
        let limit = n_bytes.saturating_add(Self::ALLOWANCE);
        Self { left: limit, limit }
    }

    /// Claim room for `n_values`, or refuse in the name of `what`.
    pub(super) fn take(
        &mut self,
        what: impl FnOnce() -> String,
        n_values: usize,
    ) -> std::result::Result<(), ImportError> {
        let left = self.left.checked_sub(n_values);
        self.left =
            left.ok_or_else(|| ImportError::TooLarge { what: what(), limit: self.limit })?;
        Ok(())
    }

    /// Another file was read.
    #[cfg(feature = "onnx")]
    pub(super) fn add_file_of(&mut self, n_bytes: usize) {
        self.left = self.left.saturating_add(n_bytes);
        self.limit = self.limit.saturating_add(n_bytes);
    }
}

/// A network, and the affine map of its inputs that came before every layer.
#[derive(Debug)]
pub(super) struct Assembled {
    pub(super) network: Network<f32>,
    pub(super) input: Affine,
}

/// Make layers of `steps`.
///
/// An affine map before the first layer is kept apart: it belongs to the preprocessing. Every other is
/// folded into the linear layer before it (average pools may stand between), else into the linear layer
/// after it, else becomes a 1×1 convolution or a diagonal dense layer.
pub(super) fn assemble(
    input_shape: &Shape,
    steps: Vec<Step>,
    budget: &mut Budget,
) -> Result<Assembled> {
    let mut input = Affine::uniform(1.0, 0.0);
    let mut steps = steps.into_iter().peekable();
    while let Some(Step::Affine(affine)) = steps.next_if(|step| matches!(step, Step::Affine(_))) {
        input = input.then(&affine);
    }
    let network = Assembler::new(input_shape, budget).run(steps)?;
    Ok(Assembled { network, input })
}

/// The network `network(affine(x))`.
pub(super) fn with_input_affine(
    network: &Network<f32>,
    affine: Affine,
    budget: &mut Budget,
) -> Result<Network<f32>> {
    let layers = network.layers().iter().cloned().map(Step::Layer);
    let steps = std::iter::once(Step::Affine(affine)).chain(layers);
    Assembler::new(network.input_shape(), budget).run(steps)
}

struct Assembler<'a> {
    input_shape: Shape,
    /// Shape that leaves the last layer.
    shape: Shape,
    layers: Vec<Layer<f32>>,
    /// A map still to be applied to the output of the last layer.
    pending: Option<Affine>,
    budget: &'a mut Budget,
}

impl<'a> Assembler<'a> {
    fn new(input_shape: &Shape, budget: &'a mut Budget) -> Self {
        let (input_shape, shape) = (input_shape.clone(), input_shape.clone());
        Self { input_shape, shape, layers: Vec::new(), pending: None, budget }
    }

    fn run(mut self, steps: impl Iterator<Item = Step>) -> Result<Network<f32>> {
        for step in steps {
            match step {
                Step::Affine(affine) => self.affine(affine),
                Step::Layer(layer) => self.layer(layer)?,
            }
        }
        self.materialize()?;
        Network::new(self.input_shape, self.layers)
    }

    fn affine(&mut self, affine: Affine) {
        if affine.is_identity() {
            return;
        }
        let affine = match self.pending.take() {
            Some(pending) => pending.then(&affine),
            None => affine,
        };
        let target = self.layers.iter_mut().rev().find(|layer| !is_average(layer));
        if !target.is_some_and(|layer| fold_back(layer, &affine)) {
            self.pending = Some(affine);
        }
    }

    fn layer(&mut self, mut layer: Layer<f32>) -> Result<()> {
        let is_folded = self.pending.take_if(|affine| fold_forward(&mut layer, affine)).is_some();
        if !is_folded && !is_average(&layer) && !matches!(layer, Layer::Flatten) {
            self.materialize()?;
        }
        self.push(layer)
    }

    fn push(&mut self, layer: Layer<f32>) -> Result<()> {
        let layer_idx = self.layers.len();
        self.shape = layer
            .output_shape(&[&self.shape])
            .map_err(|fault| fault.at(layer_idx, layer.name(), &[&self.shape]))?;
        self.layers.push(layer);
        Ok(())
    }

    /// Give a pending map a layer of its own.
    fn materialize(&mut self) -> Result<()> {
        let Some(affine) = self.pending.take() else { return Ok(()) };
        let n = self.shape.channels();
        self.budget.take(|| "a normalization between layers".into(), n.saturating_mul(n))?;
        let bias = (0..n).map(|i| single(entry(&affine.offset, i))).collect::<Array1<f32>>();
        let diagonal = |i: usize, j: usize| {
            if i == j { single(entry(&affine.scale, i)) } else { 0.0 }
        };
        let layer = if self.shape.as_image().is_some() {
            let weights = Array4::from_shape_fn((n, 1, 1, n), |(i, _, _, j)| diagonal(i, j));
            Layer::Conv2d(Conv2d::new(weights, bias, (1, 1), Padding::NONE))
        } else {
            Layer::Dense(Dense::new(Array2::from_shape_fn((n, n), |(i, j)| diagonal(i, j)), bias))
        };
        self.push(layer)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "rounds to nearest")]
pub(super) fn single(value: f64) -> f32 {
    value as f32
}

/// Whether a layer commutes with affine maps per channel.
fn is_average(layer: &Layer<f32>) -> bool {
    matches!(layer, Layer::Pool2d(pool) if pool.kind == PoolKind::Average)
}

/// Make `layer` compute `affine(layer(x))`, if it can.
fn fold_back(layer: &mut Layer<f32>, affine: &Affine) -> bool {
    let scale = |i: usize, values: &mut dyn Iterator<Item = &mut f32>| {
        let factor = entry(&affine.scale, i);
        values.for_each(|w| *w = single(f64::from(*w) * factor));
    };
    let map_bias = |bias: &mut Array1<f32>| {
        for (i, b) in bias.iter_mut().enumerate() {
            *b = single(f64::from(*b) * entry(&affine.scale, i) + entry(&affine.offset, i));
        }
    };
    if let Layer::Dense(dense) = layer {
        for (i, mut row) in dense.weights.outer_iter_mut().enumerate() {
            scale(i, &mut row.iter_mut());
        }
        map_bias(&mut dense.bias);
        true
    } else if let Layer::Conv2d(conv) = layer {
        for (i, mut kernel) in conv.weights.outer_iter_mut().enumerate() {
            scale(i, &mut kernel.iter_mut());
        }
        map_bias(&mut conv.bias);
        true
    } else if let Layer::Activation(Activation::Polynomial { a, b, c }) = layer {
        for coefficients in [a, b] {
            for (i, coefficient) in coefficients.iter_mut().enumerate() {
                scale(i, &mut std::iter::once(coefficient));
            }
        }
        map_bias(c);
        true
    } else {
        false
    }
}

/// Make `layer` compute `layer(affine(x))`, if it can.
fn fold_forward(layer: &mut Layer<f32>, affine: &Affine) -> bool {
    fn fold<'a>(affine: &Affine, weights: impl Iterator<Item = &'a mut f32>, bias: &mut f32) {
        let mut sum = f64::from(*bias);
        // The channel is the fastest index of every row.
        for (j, w) in weights.enumerate() {
            sum += f64::from(*w) * entry(&affine.offset, j);
            *w = single(f64::from(*w) * entry(&affine.scale, j));
        }
        *bias = single(sum);
    }
    if let Layer::Dense(dense) = layer {
        for (mut row, bias) in dense.weights.outer_iter_mut().zip(&mut dense.bias) {
            fold(affine, row.iter_mut(), bias);
        }
        true
    } else if let Layer::Conv2d(conv) = layer {
        // Outside the image the convolution reads 0, not the image of 0.
        if !conv.padding.is_none() && !affine.keeps_zero() {
            return false;
        }
        for (mut kernel, bias) in conv.weights.outer_iter_mut().zip(&mut conv.bias) {
            fold(affine, kernel.iter_mut(), bias);
        }
        true
    } else {
        false
    }
}

/// The network with its single score `z` replaced by the scores `(−z, z)` of two classes.
pub(super) fn mirrored(network: Network<f32>) -> Result<Network<f32>> {
    let input_shape = network.input_shape().clone();
    let mut layers = network.into_layers();
    let rows = |rows: &Array2<f32>| {
        let n_in = rows.ncols();
        Array2::from_shape_fn((2, n_in), |(i, j)| {
            let weight = rows.get((0, j)).copied().unwrap_or(0.0);
            if i == 0 { -weight } else { weight }
        })
    };
    if let Some(Layer::Dense(dense)) = layers.last_mut() {
        let bias = dense.bias.first().copied().unwrap_or(0.0);
        *dense = Dense::new(rows(&dense.weights), Array1::from(vec![-bias, bias]));
    } else {
        let weights = rows(&Array2::ones((1, 1)));
        layers.push(Layer::Dense(Dense::new(weights, Array1::zeros(2))));
    }
    Network::new(input_shape, layers)
}

#[cfg(test)]
mod tests;
