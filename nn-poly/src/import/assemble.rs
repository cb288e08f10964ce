//! From the steps of an imported network to layers: affine maps are folded into linear layers.

use ndarray::{Array1, Array2, Array4};

use super::ImportError;
use crate::error::Result;
use crate::layer::{Activation, Conv2d, Dense, Layer, Padding, PoolKind};
use crate::network::{Network, Node, Rewriter, Source};
use crate::tensor::Shape;

/// What an imported network does, in order.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "there are few steps, and each is moved once")]
pub(super) enum Step {
    Affine(Affine),
    Layer(Layer<f32>),
}

/// A step and the values it reads: 0 is the input, `i + 1` the result of step `i`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Link {
    /// Earlier values; one, unless the step joins several.
    pub(super) sources: Vec<usize>,
    pub(super) step: Step,
}

/// Steps that each read the one before.
fn sequence(steps: impl IntoIterator<Item = Step>) -> Vec<Link> {
    let link = |(source, step)| Link { sources: vec![source], step };
    steps.into_iter().enumerate().map(link).collect()
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
/// A file can make a few bytes of weights into many: dilated kernels become large ones, one array may
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

/// Make layers of steps that each read the one before, as [`assemble_graph`] does.
#[cfg(any(feature = "weight-files", test))]
pub(super) fn assemble(
    input_shape: &Shape,
    steps: Vec<Step>,
    budget: &mut Budget,
) -> Result<Assembled> {
    assemble_graph(input_shape, sequence(steps), budget)
}

/// Make layers of `links`, in the order of evaluation, all of which lead to the last.
///
/// An affine map before everything else is kept apart: it belongs to the preprocessing. Every other is
/// folded into the linear layer before it if nothing else reads that (average pools may stand between),
/// else into the linear layers after it, else becomes a depthwise 1×1 convolution or a diagonal dense
/// layer.
pub(super) fn assemble_graph(
    input_shape: &Shape,
    mut links: Vec<Link>,
    budget: &mut Budget,
) -> Result<Assembled> {
    let n_readers = reader_counts(&links);
    let mut input = Affine::uniform(1.0, 0.0);
    let mut at = 0;
    for (idx, link) in links.iter_mut().enumerate() {
        if !link.sources.contains(&at) {
            continue;
        }
        match &mut link.step {
            Step::Affine(affine) if n_readers.get(at) == Some(&1) => {
                input = input.then(affine);
                *affine = Affine::uniform(1.0, 0.0);
                at = idx + 1;
            }
            Step::Affine(_) | Step::Layer(_) => break,
        }
    }
    let network = Assembler::new(input_shape, n_readers, budget).run(links)?;
    Ok(Assembled { network, input })
}

/// The network `network(affine(x))`.
pub(super) fn with_input_affine(
    network: &Network<f32>,
    affine: Affine,
    budget: &mut Budget,
) -> Result<Network<f32>> {
    let mut links = sequence([Step::Affine(affine)]);
    for (layer_idx, layer) in network.layers().iter().enumerate() {
        let sources = network.sources(layer_idx).iter().map(|source| source.value_idx() + 1);
        links.push(Link { sources: sources.collect(), step: Step::Layer(layer.clone()) });
    }
    let n_readers = reader_counts(&links);
    Assembler::new(network.input_shape(), n_readers, budget).run(links)
}

/// How often every value is read.
fn reader_counts(links: &[Link]) -> Vec<usize> {
    let mut counts = vec![0; links.len() + 1];
    for &source in links.iter().flat_map(|link| &link.sources) {
        if let Some(count) = counts.get_mut(source) {
            *count += 1;
        }
    }
    counts
}

/// A value of the steps in the network that grows.
#[derive(Clone)]
struct Placed {
    /// What the network computes so far.
    source: Source,
    /// A map still to be applied to it.
    pending: Option<Affine>,
    /// Whether all that reads `source` reads this value.
    is_exclusive: bool,
}

struct Assembler<'a> {
    input_shape: Shape,
    nodes: Vec<Node<f32>>,
    /// Shape of the input, then of what each node computes.
    shapes: Vec<Shape>,
    /// For every node that averages: what it alone reads.
    averaged: Vec<Option<Source>>,
    /// The values of the steps so far.
    values: Vec<Placed>,
    n_readers: Vec<usize>,
    budget: &'a mut Budget,
}

impl<'a> Assembler<'a> {
    fn new(input_shape: &Shape, n_readers: Vec<usize>, budget: &'a mut Budget) -> Self {
        let input = Placed { source: Source::Input, pending: None, is_exclusive: true };
        Self {
            input_shape: input_shape.clone(),
            nodes: Vec::new(),
            shapes: vec![input_shape.clone()],
            averaged: Vec::new(),
            values: vec![input],
            n_readers,
            budget,
        }
    }

    fn run(mut self, links: Vec<Link>) -> Result<Network<f32>> {
        for Link { sources, step } in links {
            let value = match (step, sources.as_slice()) {
                (Step::Affine(affine), &[source]) => self.affine(source, &affine)?,
                (Step::Layer(layer), sources) => self.layer(sources, layer)?,
                (Step::Affine(_), _) => unreachable!("invariant: a map reads one value"),
            };
            self.values.push(value);
        }
        self.settled(self.values.len() - 1)?;
        Network::from_nodes(self.input_shape, self.nodes)
    }

    fn value(&self, idx: usize) -> Placed {
        self.values.get(idx).expect("invariant: steps read earlier values").clone()
    }

    fn is_shared(&self, idx: usize) -> bool {
        self.n_readers.get(idx).is_none_or(|&n| n > 1)
    }

    fn affine(&mut self, source: usize, affine: &Affine) -> Result<Placed> {
        let mut value = self.value(source);
        value.is_exclusive &= !self.is_shared(source);
        if affine.is_identity() {
            return Ok(value);
        }
        value.pending = match value.pending.take() {
            Some(pending) => {
                let n_numbers = pending.scale.len() + pending.offset.len();
                self.budget.take(|| "a normalization between layers".into(), n_numbers)?;
                Some(pending.then(affine))
            }
            None if value.is_exclusive && self.fold_back(value.source, affine) => None,
            None => Some(affine.clone()),
        };
        Ok(value)
    }

    /// Let the layer that computes `source`, or the one whose averages it is, apply `affine`.
    fn fold_back(&mut self, mut source: Source, affine: &Affine) -> bool {
        while let Source::Layer(idx) = source {
            match self.averaged.get(idx) {
                Some(&Some(before)) => source = before,
                _ => {
                    let node = self.nodes.get_mut(idx);
                    return node.is_some_and(|node| fold_back(&mut node.layer, affine));
                }
            }
        }
        false
    }

    fn layer(&mut self, sources: &[usize], mut layer: Layer<f32>) -> Result<Placed> {
        let &[source] = sources else {
            let read = sources.iter().map(|&idx| self.settled(idx)).collect::<Result<Vec<_>>>()?;
            return self.push(layer, read);
        };
        let mut value = self.value(source);
        if value.pending.take_if(|affine| fold_forward(&mut layer, affine)).is_some() {
            return self.push(layer, vec![value.source]);
        }
        if !is_average(&layer) && !matches!(layer, Layer::Flatten) {
            let read = self.settled(source)?;
            return self.push(layer, vec![read]);
        }
        let is_sole = is_average(&layer) && value.is_exclusive && !self.is_shared(source);
        let placed = self.push(layer, vec![value.source])?;
        if let Some(averaged) = self.averaged.last_mut() {
            *averaged = is_sole.then_some(value.source);
        }
        Ok(Placed { pending: value.pending, ..placed })
    }

    fn push(&mut self, layer: Layer<f32>, sources: Vec<Source>) -> Result<Placed> {
        let layer_idx = self.nodes.len();
        let shapes = sources.iter().filter_map(|source| self.shapes.get(source.value_idx()));
        let inputs: Vec<&Shape> = shapes.collect();
        let shape = layer
            .output_shape(&inputs)
            .map_err(|fault| fault.at(layer_idx, layer.name(), &inputs))?;
        self.shapes.push(shape);
        self.averaged.push(None);
        self.nodes.push(Node { layer, sources });
        Ok(Placed { source: Source::Layer(layer_idx), pending: None, is_exclusive: true })
    }

    /// Where value `idx` is; a pending map gets a layer of its own.
    fn settled(&mut self, idx: usize) -> Result<Source> {
        let Placed { source, pending, .. } = self.value(idx);
        let Some(affine) = pending else { return Ok(source) };
        let shape = self.shapes.get(source.value_idx()).unwrap_or(&self.input_shape);
        let (n, is_image) = (shape.channels(), shape.as_image().is_some());
        let n_weights = if is_image { n } else { n.saturating_mul(n) };
        self.budget.take(|| "a normalization between layers".into(), n_weights)?;
        let number = |values: &[f64], i: usize| single(entry(values, i));
        let bias: Array1<f32> = (0..n).map(|i| number(&affine.offset, i)).collect();
        let layer = if is_image {
            let weight = |(i, _, _, _)| number(&affine.scale, i);
            let weights = Array4::from_shape_fn((n, 1, 1, 1), weight);
            Layer::Conv2d(Conv2d::new(weights, bias, (1, 1), Padding::NONE).with_groups(n))
        } else {
            let weight = |(i, j)| if i == j { number(&affine.scale, i) } else { 0.0 };
            Layer::Dense(Dense::new(Array2::from_shape_fn((n, n), weight), bias))
        };
        let placed = self.push(layer, vec![source])?;
        let source = placed.source;
        if let Some(value) = self.values.get_mut(idx) {
            *value = placed;
        }
        Ok(source)
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
    /// The channels that a row reads begin at `first`; the channel is the fastest index of the row.
    fn fold<'a>(
        affine: &Affine,
        (first, n_channels): (usize, usize),
        weights: impl Iterator<Item = &'a mut f32>,
        bias: &mut f32,
    ) {
        let mut sum = f64::from(*bias);
        for (j, w) in weights.enumerate() {
            let channel = first + j % n_channels.max(1);
            sum += f64::from(*w) * entry(&affine.offset, channel);
            *w = single(f64::from(*w) * entry(&affine.scale, channel));
        }
        *bias = single(sum);
    }
    if let Layer::Dense(dense) = layer {
        let n_in = dense.weights.ncols();
        for (mut row, bias) in dense.weights.outer_iter_mut().zip(&mut dense.bias) {
            fold(affine, (0, n_in), row.iter_mut(), bias);
        }
        true
    } else if let Layer::Conv2d(conv) = layer {
        // Outside the image the convolution reads 0, not the image of 0.
        if !conv.padding.is_none() && !affine.keeps_zero() {
            return false;
        }
        let per_group = conv.weights.dim().3;
        let maps_per_group = (conv.bias.len() / conv.groups.max(1)).max(1);
        let rows = conv.weights.outer_iter_mut().zip(&mut conv.bias).enumerate();
        for (map, (mut kernel, bias)) in rows {
            let first = map / maps_per_group * per_group;
            fold(affine, (first, per_group), kernel.iter_mut(), bias);
        }
        true
    } else {
        false
    }
}

/// The network with its single score `z` replaced by the scores `(−z, z)` of two classes.
pub(super) fn mirrored(network: &Network<f32>) -> Result<Network<f32>> {
    let rows = |rows: &Array2<f32>| {
        let n_in = rows.ncols();
        Array2::from_shape_fn((2, n_in), |(i, j)| {
            let weight = rows.get((0, j)).copied().unwrap_or(0.0);
            if i == 0 { -weight } else { weight }
        })
    };
    let last = network.layers().len().saturating_sub(1);
    let mut rewriter = Rewriter::new(network.input_shape().clone());
    let mut is_done = false;
    for (idx, layer) in network.layers().iter().enumerate() {
        let mut layer = layer.clone();
        if let Layer::Dense(dense) = &mut layer
            && idx == last
        {
            is_done = true;
            let bias = dense.bias.first().copied().unwrap_or(0.0);
            *dense = Dense::new(rows(&dense.weights), Array1::from(vec![-bias, bias]));
        }
        rewriter.keep(layer, network.sources(idx))?;
    }
    if !is_done {
        let weights = rows(&Array2::ones((1, 1)));
        rewriter.insert(Layer::Dense(Dense::new(weights, Array1::zeros(2))))?;
    }
    rewriter.finish()
}

#[cfg(test)]
mod tests;
