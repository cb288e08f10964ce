//! Small random float networks with branches: residual connections, concatenations, values read by
//! several layers.
//!
//! A network is a function of one 64-bit seed, so a failing case shrinks to a seed and reproduces.

#![allow(unreachable_pub, reason = "included as a module by several tests")]

use ndarray::{Array, Array1, Dimension, ShapeBuilder};
use nn_poly::approximate::Function;
use nn_poly::layer::{
    Activation, BatchNorm, Clamp, Conv2d, Dense, Dropout, Layer, Padding, Pool2d, PoolKind,
};
use nn_poly::network::{NetworkBuilder, Source};
use nn_poly::{Network, Scalar, Shape};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What a generated network may contain.
#[derive(Clone, Copy, Debug)]
pub struct Choices {
    /// ReLU and clamps next to polynomials.
    pub kinks: bool,
    /// Batch normalization after linear layers.
    pub norms: bool,
    /// Learned polynomials next to squares.
    pub polynomials: bool,
    /// Functions that are no polynomials, and maximum pools, on both sides of activations.
    pub tables: bool,
}

impl Choices {
    /// Everything.
    pub const ALL: Self = Self { kinks: true, norms: true, polynomials: true, tables: true };
}

struct Draft<A: Scalar> {
    builder: NetworkBuilder<A>,
    /// Values that later layers may read: the input, and the ends of blocks.
    open: Vec<Source>,
    read: Vec<bool>,
    rng: ChaCha8Rng,
    choices: Choices,
}

/// A network of 2 to 5 blocks on an image, and a dense layer that reads everything nothing else read.
pub fn random_graph<A: Scalar>(seed: u64, choices: Choices) -> Network<A> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let dims = [rng.random_range(3..=5), rng.random_range(3..=5), rng.random_range(1..=3)];
    let builder = NetworkBuilder::new(Shape::image(dims[0], dims[1], dims[2]).unwrap());
    let mut draft = Draft { builder, open: vec![Source::Input], read: vec![false], rng, choices };
    for _ in 0..draft.rng.random_range(2..=5) {
        draft.block();
    }
    let mut unread: Vec<Source> = draft.unread();
    if unread.is_empty() {
        unread.push(*draft.open.last().unwrap());
    }
    let flat: Vec<Source> = unread.iter().map(|&s| draft.push(Layer::Flatten, &[s])).collect();
    let all = if flat.len() == 1 { flat[0] } else { draft.push(Layer::Concat, &flat) };
    let n_in = draft.shape(all).len();
    let n_out = draft.rng.random_range(2..=3);
    let dense = draft.dense(n_out, n_in);
    draft.push(dense, &[all]);
    draft.builder.finish().unwrap()
}

impl<A: Scalar> Draft<A> {
    fn random<D: Dimension, Sh: ShapeBuilder<Dim = D>>(&mut self, shape: Sh) -> Array<A, D> {
        let rng = &mut self.rng;
        Array::from_shape_simple_fn(shape, || A::from_f64(rng.random_range(-0.7..0.7)))
    }

    fn dense(&mut self, n_out: usize, n_in: usize) -> Layer<A> {
        let (weights, bias) = (self.random((n_out, n_in)), self.random(n_out));
        Layer::Dense(Dense::new(weights, bias))
    }

    fn push(&mut self, layer: Layer<A>, sources: &[Source]) -> Source {
        self.builder.push(layer, sources).unwrap()
    }

    fn shape(&self, source: Source) -> Shape {
        self.builder.shape(source).unwrap().clone()
    }

    fn unread(&self) -> Vec<Source> {
        self.open.iter().zip(&self.read).filter(|(_, read)| !**read).map(|(s, _)| *s).collect()
    }

    /// One of the open values, the newest more often; it counts as read.
    fn pick(&mut self) -> Source {
        let n = self.open.len();
        let chosen = if self.rng.random() { n - 1 } else { self.rng.random_range(0..n) };
        self.read[chosen] = true;
        self.open[chosen]
    }

    /// Another open value of the given shape, if there is one.
    fn partner(&mut self, shape: &Shape, fits: fn(&Shape, &Shape) -> bool) -> Option<Source> {
        let fitting: Vec<usize> =
            (0..self.open.len()).filter(|&i| fits(&self.shape(self.open[i]), shape)).collect();
        let chosen = *fitting.get(self.rng.random_range(0..fitting.len().max(1)))?;
        self.read[chosen] = true;
        Some(self.open[chosen])
    }

    /// Linear layers, joins, activation, pool, clamp.
    fn block(&mut self) {
        let read = self.pick();
        let mut value = read;
        let same_plane = |a: &Shape, b: &Shape| a.dims().get(..2) == b.dims().get(..2);
        if self.rng.random_bool(0.3)
            && let Some(other) = self.partner(&self.shape(value), same_plane)
        {
            value = self.push(Layer::Concat, &[value, other]);
        }
        value = self.convolution(value);
        if self.choices.norms && self.rng.random_bool(0.4) {
            let norm = self.norm(self.shape(value).channels());
            value = self.push(norm, &[value]);
        }
        if self.rng.random_bool(0.6)
            && let Some(other) = self.partner(&self.shape(value), |a, b| a == b)
        {
            value = self.push(Layer::Add, &[value, other]);
        }
        value = self.activate(value);
        self.open.push(value);
        self.read.push(false);
    }

    fn convolution(&mut self, value: Source) -> Source {
        let shape = self.shape(value);
        let (height, width, channels) = shape.as_image().unwrap();
        // Mostly shape-keeping, so that values can meet.
        let keeps = self.rng.random_bool(0.7);
        let kernel = if keeps {
            (3, 3)
        } else {
            (self.rng.random_range(1..=height.min(3)), self.rng.random_range(1..=width.min(2)))
        };
        let (stride, padding) = if keeps {
            ((1, 1), Padding::uniform(1))
        } else {
            let top = self.rng.random_range(0..kernel.0);
            let right = self.rng.random_range(0..kernel.1);
            ((self.rng.random_range(1..=2), 1), Padding { top, right, ..Padding::NONE })
        };
        let (maps, groups) = if self.rng.random_bool(0.3) {
            (channels, channels)
        } else {
            (self.rng.random_range(1..=3), 1)
        };
        let weights = self.random((maps, kernel.0, kernel.1, channels / groups));
        let bias = self.random(maps);
        let conv = Conv2d::new(weights, bias, stride, padding).with_groups(groups);
        self.push(Layer::Conv2d(conv), &[value])
    }

    /// Maxima of small windows, if the image is large enough for others after it.
    fn maximum(&mut self, value: Source) -> Source {
        let Some((height, width, _)) = self.shape(value).as_image() else { return value };
        if height < 3 || width < 3 {
            return value;
        }
        let window = (self.rng.random_range(1..=2), 2);
        let right = self.rng.random_range(0..=1);
        let padding = Padding { right, ..Padding::NONE };
        let pool = Pool2d { kind: PoolKind::Max, window, stride: (1, 1), padding };
        self.push(Layer::Pool2d(pool), &[value])
    }

    fn norm(&mut self, n_channels: usize) -> Layer<A> {
        let mut norm = BatchNorm::new(n_channels, 1.0, 0.0);
        norm.gamma = self.random(n_channels);
        norm.beta = self.random(n_channels);
        norm.running_mean = self.random(n_channels);
        let variance: Array1<A> = self.random(n_channels);
        norm.running_variance = variance.mapv(|v| v + A::one());
        Layer::BatchNorm(norm)
    }

    fn activate(&mut self, mut value: Source) -> Source {
        let n_channels = self.shape(value).channels();
        let activation = match self.rng.random_range(0..4) {
            0 if self.choices.kinks => Some(Activation::Relu),
            1 if self.choices.polynomials => {
                let (a, b) = (self.random(n_channels), self.random(n_channels));
                Some(Activation::Polynomial { a, b, c: self.random(n_channels) })
            }
            2 => None,
            3 if self.choices.tables && self.rng.random() => {
                let functions = [
                    Function::LeakyRelu { slope: 0.25 },
                    Function::Sigmoid,
                    Function::Tanh,
                    Function::Softplus,
                    Function::Gelu,
                    Function::Silu,
                    Function::Abs,
                ];
                let chosen = self.rng.random_range(0..functions.len());
                functions.get(chosen).cloned().map(Activation::Function)
            }
            _ => Some(Activation::Square),
        };
        if self.choices.tables && self.rng.random_bool(0.15) {
            value = self.maximum(value);
        }
        if let Some(activation) = activation {
            value = self.push(Layer::Activation(activation), &[value]);
        }
        let shape = self.shape(value);
        let (height, width, _) = shape.as_image().unwrap();
        if height > 3 && width > 3 && self.rng.random_bool(0.2) {
            let pool = Pool2d { stride: (1, 1), ..Pool2d::tiles(PoolKind::Average, (2, 2)) };
            value = self.push(Layer::Pool2d(pool), &[value]);
        }
        if self.choices.tables && self.rng.random_bool(0.15) {
            value = self.maximum(value);
        }
        if self.choices.kinks && self.rng.random_bool(0.2) {
            let limit = A::from_f64(0.8);
            value = self.push(Layer::Clamp(Clamp { limit }), &[value]);
        }
        if self.choices.norms && self.rng.random_bool(0.1) {
            value = self.push(Layer::Dropout(Dropout { rate: 0.25 }), &[value]);
        }
        value
    }
}
