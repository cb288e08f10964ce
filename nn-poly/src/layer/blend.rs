//! An activation on its way to a polynomial.

use ndarray::Array1;
use serde::{Deserialize, Serialize};

use super::activation::check_function;
use super::parallel::{for_each_chunk, map_chunks2};
use super::{FINITE, Fault, cast_array, check_parameter};
use crate::approximate::Function;
use crate::tensor::{Scalar, Shape};

/// `(1 − share) f(x) + share (a x² + b x + c)`, with coefficients per channel (last axis).
///
/// Training raises `share` from 0 to 1, so that the weights can follow; it also charges for inputs
/// outside `[low, high]`, where the polynomial is not meant to be used
/// ([`BlendSpec`](crate::train::BlendSpec)). A network for use has no such layer:
/// [`finish_blending`](crate::train::finish_blending) replaces it by its polynomial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound = "A: Scalar")]
pub struct Blend<A> {
    /// Share of the polynomial, 0 to 1.
    pub share: A,
    /// Low end of the interval that inputs should keep to.
    pub low: A,
    /// High end; above `low`.
    pub high: A,
    /// Coefficients of `x²`.
    pub a: Array1<A>,
    /// Coefficients of `x`.
    pub b: Array1<A>,
    /// Constants.
    pub c: Array1<A>,
    /// Where the way begins: `f`.
    pub function: Function,
}

impl<A: Scalar> Blend<A> {
    pub(super) fn check(&self, input: &Shape) -> Result<(), Fault> {
        let expected = [input.channels()];
        for (field, values) in [("a", &self.a), ("b", &self.b), ("c", &self.c)] {
            check_parameter(field, (&expected, values.shape()), values, FINITE)?;
        }
        check_function(&self.function)?;
        let unit: (&str, fn(f64) -> bool) = ("between 0 and 1", |s| (0.0..=1.0).contains(&s));
        check_parameter("share", (&[], &[]), [&self.share], unit)?;
        check_parameter("interval", (&[], &[]), [&self.low, &self.high], FINITE)?;
        if self.low >= self.high {
            return Err(Fault::ParameterValue {
                field: "high",
                position: 0,
                value: self.high.as_f64(),
                requirement: "above low",
            });
        }
        Ok(())
    }

    pub(super) fn cast<B: Scalar>(&self) -> Blend<B> {
        let number = |value: A| B::from_f64(value.as_f64());
        Blend {
            share: number(self.share),
            low: number(self.low),
            high: number(self.high),
            a: cast_array(&self.a),
            b: cast_array(&self.b),
            c: cast_array(&self.c),
            function: self.function.clone(),
        }
    }

    pub(super) fn forward(&self, input: &[A], output: &mut [A], sample_len: usize) {
        let coefficients = self.triples();
        let (share, rest) = (self.share, A::one() - self.share);
        let is_relu = self.function == Function::Relu;
        for_each_chunk((input, sample_len), (output, sample_len), |input, output| {
            let values = input.iter().zip(output).zip(coefficients.iter().cycle());
            for ((&x, y), &[a, b, c]) in values {
                let start = if is_relu {
                    x.max(A::zero())
                } else {
                    A::from_f64(self.function.value(x.as_f64()))
                };
                *y = rest * start + share * ((a * x + b) * x + c);
            }
        });
    }

    /// First and second derivative at every value of one sample.
    pub(super) fn derivatives(&self, input: &[A]) -> (Vec<A>, Vec<A>) {
        let two = A::one() + A::one();
        let (share, rest) = (self.share, A::one() - self.share);
        let coefficients = self.a.iter().zip(&self.b).cycle();
        let is_relu = self.function == Function::Relu;
        let at = |(&x, (&a, &b)): (&A, (&A, &A))| {
            let bend = if is_relu { 0.0 } else { self.function.second_derivative(x.as_f64()) };
            let slope = rest * self.start_slope(is_relu, x);
            (slope + share * (two * a * x + b), rest * A::from_f64(bend) + share * two * a)
        };
        input.iter().zip(coefficients).map(at).unzip()
    }

    /// Write the gradient of the input.
    pub(super) fn input_gradient(
        &self,
        input: &[A],
        output_gradient: &[A],
        input_gradient: &mut [A],
        sample_len: usize,
    ) {
        let coefficients = self.triples();
        let (share, rest) = (self.share, A::one() - self.share);
        let is_relu = self.function == Function::Relu;
        let len = sample_len;
        map_chunks2(
            (input, len),
            (output_gradient, len),
            (input_gradient, len),
            |input, upstream, gradient| {
                let values = input.iter().zip(upstream).zip(gradient);
                for (((&x, &dy), dx), &[a, b, _]) in values.zip(coefficients.iter().cycle()) {
                    let slope = rest * self.start_slope(is_relu, x);
                    *dx = (slope + share * (a * x + a * x + b)) * dy;
                }
            },
        );
    }

    /// The slope of `f`. ReLU has slope 0 at its kink, as
    /// [`Activation::Relu`](super::Activation::Relu) does.
    fn start_slope(&self, is_relu: bool, x: A) -> A {
        if !is_relu {
            return A::from_f64(self.function.derivative(x.as_f64()));
        }
        if x > A::zero() { A::one() } else { A::zero() }
    }

    /// Mean over the samples of `Σ (d/h)²`, where `d` is how far a value lies outside the interval and
    /// `h` is half the interval's length.
    pub(crate) fn range_loss(&self, input: &[A], n_samples: usize) -> f64 {
        let squares: f64 = input.iter().map(|&x| self.excess(x).as_f64().powi(2)).sum();
        squares / A::from_count(n_samples.max(1)).as_f64()
    }

    /// Add `weight` times the gradient of [`Self::range_loss`].
    pub(crate) fn add_range_gradient(
        &self,
        input: &[A],
        n_samples: usize,
        weight: f64,
        input_gradient: &mut [A],
    ) {
        let half = (self.high - self.low).as_f64() / 2.0;
        let factor = A::from_f64(2.0 * weight / half) / A::from_count(n_samples.max(1));
        for (&x, dx) in input.iter().zip(input_gradient) {
            *dx += factor * self.excess(x);
        }
    }

    /// `d/h`, negative below the interval.
    fn excess(&self, x: A) -> A {
        let half = (self.high - self.low) / (A::one() + A::one());
        (x - x.max(self.low).min(self.high)) / half
    }

    fn triples(&self) -> Vec<[A; 3]> {
        super::activation::triples(&self.a, &self.b, &self.c)
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    fn blend(share: f64) -> Blend<f64> {
        let (a, b, c) = (array![0.5, -1.0], array![0.25, 0.0], array![1.0, 2.0]);
        Blend { share, low: -1.0, high: 3.0, a, b, c, function: Function::Relu }
    }

    #[test]
    fn the_share_leads_from_the_function_to_the_polynomial() {
        let input = [-2.0, -2.0, 3.0, 3.0];
        for (share, expected) in [
            (0.0, [0.0, 0.0, 3.0, 3.0]),
            (1.0, [2.5, -2.0, 6.25, -7.0]),
            (0.5, [1.25, -1.0, 4.625, -2.0]),
        ] {
            let mut output = [0.0; 4];
            blend(share).forward(&input, &mut output, 4);
            assert_eq!(output, expected, "{share}");
        }
        let tanh = Blend { function: Function::Tanh, ..blend(0.5) };
        let mut output = [0.0; 4];
        tanh.forward(&input, &mut output, 4);
        let half = |x: f64, polynomial: f64| 0.5 * x.tanh() + 0.5 * polynomial;
        assert_eq!(output, [half(-2.0, 2.5), half(-2.0, -2.0), half(3.0, 6.25), half(3.0, -7.0)]);
    }

    #[test]
    fn the_range_loss_counts_what_is_outside_and_has_the_right_slope() {
        let blend = blend(0.5);
        // Half width 2: distances of 1 and 4 are 0.5 and 2.
        let input = [-2.0, -1.0, 0.0, 3.0, 7.0, 1.0];
        assert_eq!(blend.range_loss(&input, 3), (0.25 + 4.0) / 3.0);
        let mut gradient = [1.0; 6];
        blend.add_range_gradient(&input, 3, 0.1, &mut gradient);
        for (position, gradient) in gradient.into_iter().enumerate() {
            let moved = |by: f64| {
                let mut moved = input;
                moved[position] += by;
                blend.range_loss(&moved, 3)
            };
            let slope = (moved(1e-6) - moved(-1e-6)) / 2e-6;
            assert!((gradient - 1.0 - 0.1 * slope).abs() < 1e-6, "{position}: {gradient} {slope}");
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        let shape = Shape::vector(2).unwrap();
        assert!(blend(0.5).check(&shape).is_ok());
        assert!(blend(0.5).check(&Shape::vector(3).unwrap()).is_err());
        for wrong in [
            blend(1.5),
            blend(f64::NAN),
            Blend { low: 3.0, ..blend(0.5) },
            Blend { high: f64::INFINITY, ..blend(0.5) },
            Blend { c: array![f64::NAN, 0.0], ..blend(0.5) },
            Blend { function: Function::LeakyRelu { slope: f64::NAN }, ..blend(0.5) },
        ] {
            assert!(wrong.check(&shape).is_err(), "{wrong:?}");
        }
    }
}
