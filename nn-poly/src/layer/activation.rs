//! Activations, value by value.

use std::f64::consts::PI;

use ndarray::Array1;
use serde::{Deserialize, Serialize};

use super::parallel::{for_each_chunk, map_chunks2, sum_chunks2};
use super::{Blend, FINITE, Fault, cast_array, check_parameter};
use crate::approximate::Function;
use crate::tensor::{Scalar, Shape};

/// A function applied to every value of a layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound = "A: Scalar")]
pub enum Activation<A> {
    /// `x²`. After batch normalization this is the vertex form `(z + β)²`.
    Square,
    /// `a x² + b x + c` with learnable coefficients per channel (last axis).
    Polynomial {
        /// Coefficients of `x²`.
        a: Array1<A>,
        /// Coefficients of `x`.
        b: Array1<A>,
        /// Constants.
        c: Array1<A>,
    },
    /// `max(x, 0)`; evaluated by the key holder in an encrypted run.
    Relu,
    /// Between another function and a polynomial, during training.
    Blend(Blend<A>),
    /// Any other function of one variable, in double precision; a look-up table of the key holder in
    /// an encrypted run. ReLU has its own variant.
    Function(Function),
}

/// The best degree-2 approximation `a x² + b x + c` of ReLU for standard normal `x`, by mean squared
/// error: `a = c = 1/(2√(2π)) ≈ 0.199`, `b = 1/2`. Its vertex form without the constant is
/// `(0.447 x + 0.560)²`.
///
/// # Source
/// Own derivation: `max(x, 0) = (x + |x|)/2`, and the projection of `|x|` on the even Hermite
/// polynomials up to degree 2 is `√(2/π) (1 + (x² − 1)/2)`.
#[must_use]
pub fn relu_fit() -> (f64, f64, f64) {
    let a = 1.0 / (2.0 * (2.0 * PI).sqrt());
    (a, 0.5, a)
}

impl<A: Scalar> Activation<A> {
    /// The polynomial that starts at the fit of ReLU, the same for every channel.
    ///
    /// Coefficients: see [`relu_fit`].
    #[must_use]
    pub fn polynomial_relu_fit(n_channels: usize) -> Self {
        let (a, b, c) = relu_fit();
        let constant = |value| Array1::from_elem(n_channels, A::from_f64(value));
        Self::Polynomial { a: constant(a), b: constant(b), c: constant(c) }
    }

    /// `square`, `polynomial`, `relu`, `blend`, or the kind of function, such as `leaky_relu`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Square => "square",
            Self::Polynomial { .. } => "polynomial",
            Self::Relu => "relu",
            Self::Blend(_) => "blend",
            Self::Function(function) => function.kind(),
        }
    }

    pub(super) fn check(&self, input: &Shape) -> Result<(), Fault> {
        match self {
            Self::Square | Self::Relu => Ok(()),
            Self::Polynomial { a, b, c } => {
                let expected = [input.channels()];
                for (field, values) in [("a", a), ("b", b), ("c", c)] {
                    check_parameter(field, (&expected, values.shape()), values, FINITE)?;
                }
                Ok(())
            }
            Self::Blend(blend) => blend.check(input),
            Self::Function(Function::Relu) => {
                Err(Fault::Input("as an activation, ReLU is a kind of its own"))
            }
            Self::Function(function) => check_function(function),
        }
    }

    /// The function, if this is no polynomial, nor on the way to one.
    pub(crate) fn as_function(&self) -> Option<Function> {
        match self {
            Self::Relu => Some(Function::Relu),
            Self::Function(function) => Some(function.clone()),
            Self::Square | Self::Polynomial { .. } | Self::Blend(_) => None,
        }
    }

    pub(super) fn cast<B: Scalar>(&self) -> Activation<B> {
        match self {
            Self::Square => Activation::Square,
            Self::Relu => Activation::Relu,
            Self::Blend(blend) => Activation::Blend(blend.cast()),
            Self::Function(function) => Activation::Function(function.clone()),
            Self::Polynomial { a, b, c } => {
                Activation::Polynomial { a: cast_array(a), b: cast_array(b), c: cast_array(c) }
            }
        }
    }

    pub(crate) fn forward(&self, input: &[A], output: &mut [A], sample_len: usize) {
        if let Self::Blend(blend) = self {
            return blend.forward(input, output, sample_len);
        }
        let (input, output) = ((input, sample_len), (output, sample_len));
        match self {
            Self::Blend(_) => unreachable!("invariant: handled above"),
            Self::Square => for_each_chunk(input, output, |input, output| {
                for (&x, y) in input.iter().zip(output) {
                    *y = x * x;
                }
            }),
            Self::Relu => for_each_chunk(input, output, |input, output| {
                for (&x, y) in input.iter().zip(output) {
                    *y = if x > A::zero() { x } else { A::zero() };
                }
            }),
            Self::Function(function) => for_each_chunk(input, output, |input, output| {
                for (&x, y) in input.iter().zip(output) {
                    *y = A::from_f64(function.value(x.as_f64()));
                }
            }),
            Self::Polynomial { a, b, c } => {
                let coefficients = triples(a, b, c);
                for_each_chunk(input, output, |input, output| {
                    let n = coefficients.len();
                    for (input, output) in input.chunks_exact(n).zip(output.chunks_exact_mut(n)) {
                        for ((&x, y), &[a, b, c]) in input.iter().zip(output).zip(&coefficients) {
                            *y = (a * x + b) * x + c;
                        }
                    }
                });
            }
        }
    }

    /// First and second derivative at every value of one sample. ReLU has slope 0 at its kink, other
    /// functions the mean of both slopes.
    pub(crate) fn derivatives(&self, input: &[A]) -> (Vec<A>, Vec<A>) {
        let two = A::one() + A::one();
        match self {
            Self::Square => (input.iter().map(|&x| two * x).collect(), vec![two; input.len()]),
            Self::Relu => {
                let slope = |&x: &A| if x > A::zero() { A::one() } else { A::zero() };
                (input.iter().map(slope).collect(), vec![A::zero(); input.len()])
            }
            Self::Polynomial { a, b, .. } => {
                let coefficients = a.iter().zip(b).cycle();
                input
                    .iter()
                    .zip(coefficients)
                    .map(|(&x, (&a, &b))| (two * a * x + b, two * a))
                    .unzip()
            }
            Self::Blend(blend) => blend.derivatives(input),
            Self::Function(function) => {
                let at = |&x: &A| {
                    let x = x.as_f64();
                    let (slope, bend) = (function.derivative(x), function.second_derivative(x));
                    (A::from_f64(slope), A::from_f64(bend))
                };
                input.iter().map(at).unzip()
            }
        }
    }

    /// Write the gradient of the input; return the gradients of `a`, `b`, `c` (none otherwise).
    pub(crate) fn backward(
        &self,
        input: &[A],
        output_gradient: &[A],
        input_gradient: &mut [A],
        sample_len: usize,
    ) -> Vec<Array1<A>> {
        if let Self::Blend(blend) = self {
            blend.input_gradient(input, output_gradient, input_gradient, sample_len);
            let n_channels = blend.a.len();
            let mut sums = coefficient_gradients(n_channels, input, output_gradient, sample_len);
            for sum in &mut sums {
                sum.mapv_inplace(|gradient| gradient * blend.share);
            }
            return sums;
        }
        let operands = (input, sample_len);
        let upstream = (output_gradient, sample_len);
        let target = (input_gradient, sample_len);
        match self {
            Self::Blend(_) => unreachable!("invariant: handled above"),
            Self::Square => {
                let two = A::one() + A::one();
                map_chunks2(operands, upstream, target, |input, upstream, gradient| {
                    for ((&x, &dy), dx) in input.iter().zip(upstream).zip(gradient) {
                        *dx = two * x * dy;
                    }
                });
                Vec::new()
            }
            Self::Relu => {
                map_chunks2(operands, upstream, target, |input, upstream, gradient| {
                    for ((&x, &dy), dx) in input.iter().zip(upstream).zip(gradient) {
                        *dx = if x > A::zero() { dy } else { A::zero() };
                    }
                });
                Vec::new()
            }
            Self::Function(function) => {
                map_chunks2(operands, upstream, target, |input, upstream, gradient| {
                    for ((&x, &dy), dx) in input.iter().zip(upstream).zip(gradient) {
                        *dx = A::from_f64(function.derivative(x.as_f64())) * dy;
                    }
                });
                Vec::new()
            }
            Self::Polynomial { a, b, c } => {
                let coefficients = triples(a, b, c);
                map_chunks2(operands, upstream, target, |input, upstream, gradient| {
                    let values = input.iter().zip(upstream).zip(gradient);
                    for (((&x, &dy), dx), &[a, b, _]) in values.zip(coefficients.iter().cycle()) {
                        *dx = (a * x + a * x + b) * dy;
                    }
                });
                coefficient_gradients(coefficients.len(), input, output_gradient, sample_len)
            }
        }
    }
}

/// Refuse a function whose own numbers are not finite.
pub(super) fn check_function(function: &Function) -> Result<(), Fault> {
    if let Function::LeakyRelu { slope } = function {
        return check_parameter("slope", (&[], &[]), [slope], FINITE);
    }
    Ok(())
}

pub(super) fn triples<A: Scalar>(a: &Array1<A>, b: &Array1<A>, c: &Array1<A>) -> Vec<[A; 3]> {
    a.iter().zip(b).zip(c).map(|((&a, &b), &c)| [a, b, c]).collect()
}

/// `Σ dy·x²`, `Σ dy·x`, `Σ dy` per channel.
fn coefficient_gradients<A: Scalar>(
    n_channels: usize,
    input: &[A],
    output_gradient: &[A],
    sample_len: usize,
) -> Vec<Array1<A>> {
    let sums =
        sum_chunks2(input, output_gradient, sample_len, 3 * n_channels, |input, upstream, sums| {
            let (squares, rest) = sums.split_at_mut(n_channels);
            let (linear, constant) = rest.split_at_mut(n_channels);
            let rows = input.chunks_exact(n_channels).zip(upstream.chunks_exact(n_channels));
            for (input, upstream) in rows {
                let targets = squares.iter_mut().zip(linear.iter_mut()).zip(constant.iter_mut());
                for ((&x, &dy), ((square, line), constant)) in
                    input.iter().zip(upstream).zip(targets)
                {
                    let (x, dy) = (x.as_f64(), dy.as_f64());
                    *square += dy * x * x;
                    *line += dy * x;
                    *constant += dy;
                }
            }
        });
    sums.chunks_exact(n_channels)
        .map(|sums| sums.iter().map(|&sum| A::from_f64(sum)).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fit_of_relu_beats_its_neighbors_under_the_normal_density() {
        let error = |(a, b, c): (f64, f64, f64)| -> f64 {
            (-800..=800)
                .map(|i| f64::from(i) / 100.0)
                .map(|x| {
                    let difference = (a * x + b) * x + c - x.max(0.0);
                    difference * difference * (-x * x / 2.0).exp()
                })
                .sum()
        };
        let (a, b, c) = relu_fit();
        let best = error((a, b, c));
        for delta in [-1e-3, 1e-3] {
            assert!(best < error((a + delta, b, c)));
            assert!(best < error((a, b + delta, c)));
            assert!(best < error((a, b, c + delta)));
        }
        assert!((a.sqrt() - 0.447).abs() < 5e-4);
        assert!((b / (2.0 * a.sqrt()) - 0.560).abs() < 5e-4);
    }
}
