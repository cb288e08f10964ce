//! What the names of a graph stand for while it is read.

use std::rc::Rc;

use ndarray::{Array2, ArrayD};

use super::super::NodeSite;
pub(super) use super::super::assemble::Order;
use super::super::assemble::{Affine, entry};
use crate::layer::Padding;
use crate::tensor::Shape;

/// The meaning of a name.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// Values that depend on the input.
    Flow(Flow),
    /// Probabilities at the end of the network.
    Scores(Scores),
    /// Constants: weights and coefficients.
    Array(Rc<ArrayD<f32>>),
    /// Whole numbers that describe a shape; `None` stands for the length of the batch.
    Integers(Rc<Vec<Option<i64>>>),
    /// Whole numbers in rows: what exporters make of paddings before they flatten it again.
    Matrix(Rc<Array2<i64>>),
    /// An error function, on its way to a GELU.
    Gate(Gate),
}

/// The base of flows that see an input which the file gives as a vector as an image.
pub(super) const VIEWED_INPUT: usize = usize::MAX;

/// Values that depend on the input: a polynomial, per channel, of what a step produces.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    /// The step that produces the base, counted from 1; 0 is the network's input, [`VIEWED_INPUT`] the
    /// same as an image.
    pub(super) base: usize,
    /// Shape in this crate's order: channels last.
    pub(super) shape: Shape,
    /// How the graph sees these values.
    pub(super) view: View,
    /// What happens to the base, value by value. Shared: many names may stand for one flow.
    pub(super) polynomial: Rc<Polynomial>,
    /// Zeros around the image that the next convolution will read.
    pub(super) padding: Padding,
}

/// The axes of a graph's array after the batch axis, in terms of a channel-last shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    /// `[channels, height, width]`.
    ChannelsFirst,
    /// `[height, width, channels]`.
    ChannelsLast,
    /// `[height, width]` of an image with one channel.
    Plane,
    /// `[n]`.
    Features(Order),
}

impl Flow {
    /// The axes after the batch axis, as the graph sees them.
    pub(super) fn dims(&self) -> Vec<usize> {
        match (self.view, self.shape.as_image()) {
            (View::ChannelsFirst, Some((h, w, c))) => vec![c, h, w],
            (View::ChannelsLast, Some((h, w, c))) => vec![h, w, c],
            (View::Plane, Some((h, w, _))) => vec![h, w],
            _ => vec![self.shape.len()],
        }
    }

    /// Whether both are the same values, seen alike.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.base == other.base
            && self.view == other.view
            && self.shape == other.shape
            && self.polynomial == other.polynomial
    }

    /// Height, width and channels, if the graph sees an image with channels first.
    pub(super) fn as_channels_first(&self) -> Option<(usize, usize, usize)> {
        self.shape.as_image().filter(|_| self.view == View::ChannelsFirst)
    }
}

/// `a x² + b x + c`, one coefficient per channel (last axis) or one for all.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Polynomial {
    pub(super) a: Vec<f64>,
    pub(super) b: Vec<f64>,
    pub(super) c: Vec<f64>,
}

impl Polynomial {
    /// `x`.
    pub(super) fn identity() -> Self {
        Self { a: vec![0.0], b: vec![1.0], c: vec![0.0] }
    }

    /// `scale · x + offset`.
    pub(super) fn affine(scale: Vec<f64>, offset: Vec<f64>) -> Self {
        Self { a: vec![0.0], b: scale, c: offset }
    }

    pub(super) fn is_identity(&self) -> bool {
        self.as_affine().is_some_and(|affine| affine.is_identity())
    }

    /// Whether it is the same for all channels.
    pub(super) fn is_uniform(&self) -> bool {
        [&self.a, &self.b, &self.c].iter().all(|values| values.len() == 1)
    }

    /// The factor `k` for which this is `k · other` to within single precision, in every channel; a
    /// number of few binary digits, so that constants which cancel do so exactly.
    pub(super) fn ratio_to(&self, other: &Self) -> Option<f64> {
        /// Relative error of what a few operations in single precision compute.
        const TOLERANCE: f64 = 1e-5;
        const DIGITS: f64 = 1_048_576.0;
        let n = [self, other].iter().flat_map(|p| [p.a.len(), p.b.len(), p.c.len()]).max()?;
        let terms = |p: &Self, i: usize| [entry(&p.a, i), entry(&p.b, i), entry(&p.c, i)];
        let pairs: Vec<([f64; 3], [f64; 3])> =
            (0..n).map(|i| (terms(self, i), terms(other, i))).collect();
        let all = pairs.iter().flat_map(|(ours, theirs)| ours.iter().zip(theirs));
        let (ours, theirs) = all.max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()))?;
        let ratio = ours / theirs;
        let rounded = (ratio * DIGITS).round() / DIGITS;
        let ratio =
            if (rounded - ratio).abs() <= TOLERANCE * ratio.abs() { rounded } else { ratio };
        let is_same = pairs.iter().all(|(ours, theirs)| {
            let largest = ours.iter().fold(0.0_f64, |most, v| most.max(v.abs()));
            let close = |(a, b): (&f64, &f64)| (a - ratio * b).abs() <= TOLERANCE * largest;
            ours.iter().zip(theirs).all(close)
        });
        (ratio != 0.0 && ratio.is_finite() && is_same).then_some(ratio)
    }

    /// The map, if it has no square.
    pub(super) fn as_affine(&self) -> Option<Affine> {
        self.a
            .iter()
            .all(|&a| a == 0.0)
            .then(|| Affine { scale: self.b.clone(), offset: self.c.clone() })
    }

    pub(super) fn sum(&self, other: &Self) -> Self {
        Self {
            a: combine(&self.a, &other.a, |x, y| x + y),
            b: combine(&self.b, &other.b, |x, y| x + y),
            c: combine(&self.c, &other.c, |x, y| x + y),
        }
    }

    /// The product, or `None` if it has a higher degree than 2.
    pub(super) fn product(&self, other: &Self) -> Option<Self> {
        let product = |x: &[f64], y: &[f64]| combine(x, y, |x, y| x * y);
        let sum = |x: &[f64], y: &[f64]| combine(x, y, |x, y| x + y);
        let is_zero = |values: Vec<f64>| values.iter().all(|&v| v == 0.0);
        let cubic = sum(&product(&self.a, &other.b), &product(&self.b, &other.a));
        if !is_zero(cubic) || !is_zero(product(&self.a, &other.a)) {
            return None;
        }
        let outer = sum(&product(&self.a, &other.c), &product(&self.c, &other.a));
        Some(Self {
            a: sum(&outer, &product(&self.b, &other.b)),
            b: sum(&product(&self.b, &other.c), &product(&self.c, &other.b)),
            c: product(&self.c, &other.c),
        })
    }

    /// The affine map whose square this is, up to rounding: `a (x + b/2a)²` with positive `a`.
    ///
    /// Networks with a normalization before a square arrive as general polynomials; the square is
    /// the cheaper form.
    pub(super) fn square_root(&self) -> Option<Affine> {
        const TOLERANCE: f64 = 1e-6;
        let n = self.a.len().max(self.b.len()).max(self.c.len());
        let mut root = Affine { scale: Vec::with_capacity(n), offset: Vec::with_capacity(n) };
        for i in 0..n {
            let (a, b, c) = (entry(&self.a, i), entry(&self.b, i), entry(&self.c, i));
            if a <= 0.0 {
                return None;
            }
            let least = c - b * b / (4.0 * a);
            if least.abs() > TOLERANCE * (c.abs() + b * b / (4.0 * a)) {
                return None;
            }
            root.scale.push(a.sqrt());
            root.offset.push(b / (2.0 * a.sqrt()));
        }
        Some(root)
    }

    /// Coefficients held.
    pub(super) fn len(&self) -> usize {
        self.a.len() + self.b.len() + self.c.len()
    }
}

fn combine(x: &[f64], y: &[f64], f: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    (0..x.len().max(y.len())).map(|i| f(entry(x, i), entry(y, i))).collect()
}

/// Probabilities made of scores by a function that keeps their order.
#[derive(Clone, Debug)]
pub(super) struct Scores {
    /// The scores.
    pub(super) flow: Flow,
    /// The function.
    pub(super) ending: super::super::Ending,
    /// The node that applies it.
    pub(super) site: NodeSite,
    /// Whether this is one minus the probability.
    pub(super) is_complement: bool,
    /// Whether these are two columns, one minus the probability and the probability, of one score.
    pub(super) is_pair: bool,
}

/// `scale · erf(z) + offset`.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    /// The values `z`.
    pub(super) flow: Flow,
    /// Factor.
    pub(super) scale: f64,
    /// What is added.
    pub(super) offset: f64,
    /// The node that computes the error function.
    pub(super) site: NodeSite,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(polynomial: &Polynomial, channel: usize, x: f64) -> f64 {
        let at = |values: &[f64]| entry(values, channel);
        (at(&polynomial.a) * x + at(&polynomial.b)) * x + at(&polynomial.c)
    }

    #[test]
    fn sums_products_and_roots_agree_with_evaluation() {
        let p = Polynomial::affine(vec![2.0, -3.0], vec![0.5]);
        let q = Polynomial::affine(vec![0.25], vec![1.0, 2.0]);
        let (sum, product) = (p.sum(&q), p.product(&q).unwrap());
        let square = p.product(&p).unwrap();
        let root = square.square_root().unwrap();
        for channel in 0..2 {
            for x in [-2.0, 0.0, 1.5] {
                let (u, v) = (value(&p, channel, x), value(&q, channel, x));
                assert_eq!(value(&sum, channel, x), u + v);
                assert!((value(&product, channel, x) - u * v).abs() < 1e-12);
                let r = entry(&root.scale, channel) * x + entry(&root.offset, channel);
                assert!((r * r - u * u).abs() < 1e-12);
            }
        }
        assert!(square.product(&p).is_none());
        assert!(square.product(&square).is_none());
        assert!(square.sum(&q).square_root().is_none());
        assert!(square.product(&Polynomial::affine(vec![0.0], vec![2.0])).is_some());
    }
}
