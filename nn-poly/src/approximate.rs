//! Polynomials that stand for activations: fits by twelve methods and to observed values, and how good
//! they are.
//!
//! ```text
//!  Function ──┐
//!  Interval ──┼──► FitProblem ── solve(Method) ─────► Approximation { Polynomial, Quality }
//!  degree   ──┘         └─────── solve_observed(pre-activations)
//!                                        ▲
//!  Network, inputs ──► observe ──────────┘
//! ```
//!
//! | method | minimizes or matches |
//! |---|---|
//! | [`Method::LeastSquares`] | `∫ (f − p)² w` for one of the [`Measure`]s |
//! | [`Method::Derivative`] | the same for `f′`, then integrates |
//! | [`Method::Interpolation`] | `f` at the Chebyshev points |
//! | [`Method::Minimax`] | `max |f − p|` |
//! | [`Method::Bernstein`] | nothing; keeps monotonicity and convexity |
//! | [`Method::Taylor`] | the derivatives of `f` in the middle |
//! | [`FitProblem::solve_observed`] | the squared error on values that a network produced |
//!
//! All of them compute in Chebyshev or Legendre polynomials, never with powers; powers
//! ([`Polynomial::monomials`]) are only a way to write the result.
//!
//! ```
//! use nn_poly::approximate::{FitProblem, Function, Interval, Measure, Method};
//!
//! # fn main() -> nn_poly::Result<()> {
//! let problem = FitProblem::new(Function::Relu, Interval::symmetric(4.0)?, 2)?;
//! let fit = problem.solve(Method::LeastSquares(Measure::Legendre))?;
//! let [c, b, a] = fit.polynomial.monomials()[..] else { unreachable!() };
//! assert!((a - 15.0 / 128.0).abs() < 1e-12 && (b - 0.5).abs() < 1e-12 && (c - 0.375).abs() < 1e-12);
//! assert!(fit.quality.max_error < 0.38);
//! # Ok(())
//! # }
//! ```

mod error_function;
mod function;
mod interval;
mod least_squares;
mod measure;
mod minimax;
mod names;
mod observe;
mod pointwise;
mod polynomial;
mod quality;
mod taylor;

use serde::Serialize;

pub use function::{Function, SampledFunction};
pub use interval::Interval;
pub use measure::Measure;
pub use observe::{ObservedLayer, observe};
pub use polynomial::Polynomial;
pub use quality::{OutsideError, Quality};

use crate::error::{Error, Result};

/// How a polynomial is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// Least squares under a measure.
    LeastSquares(Measure),
    /// Least squares of the derivative under a measure, integrated. The constant makes the polynomial
    /// exact at 0, or at the end of the interval next to 0.
    ///
    /// # Source
    /// Hesamifard, Takabi and Ghasemi, "CryptoDL", 2017.
    Derivative(Measure),
    /// Interpolation at the zeros of the Chebyshev polynomial of the next degree.
    Interpolation,
    /// The smallest largest error: the exchange algorithm of Remez.
    Minimax,
    /// Bernstein polynomial of the degree.
    Bernstein,
    /// Taylor polynomial around the middle of the interval.
    Taylor,
}

impl Method {
    /// Every method that needs no data, in the order of the command line's table.
    pub const ALL: [Self; 12] = [
        Self::LeastSquares(Measure::Legendre),
        Self::LeastSquares(Measure::Chebyshev),
        Self::LeastSquares(Measure::CryptoDl),
        Self::LeastSquares(Measure::CryptoDlEighth),
        Self::Derivative(Measure::Legendre),
        Self::Derivative(Measure::Chebyshev),
        Self::Derivative(Measure::CryptoDl),
        Self::Derivative(Measure::CryptoDlEighth),
        Self::Interpolation,
        Self::Minimax,
        Self::Bernstein,
        Self::Taylor,
    ];
}

/// A function, an interval and a degree.
#[derive(Clone, Debug, PartialEq)]
pub struct FitProblem {
    function: Function,
    interval: Interval,
    degree: usize,
}

/// A polynomial and how well it does.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Approximation {
    /// The polynomial.
    pub polynomial: Polynomial,
    /// Its errors inside and outside the interval.
    pub quality: Quality,
}

impl FitProblem {
    /// Highest degree.
    pub const MAX_DEGREE: usize = 8;

    /// Pose a problem.
    ///
    /// # Errors
    /// - [`Error::InvalidSetting`] unless the degree is 1 to 8 and the function's own numbers are in
    ///   range.
    /// - [`Error::CannotApproximate`] if a sampled function does not cover the interval.
    pub fn new(function: Function, interval: Interval, degree: usize) -> Result<Self> {
        if !(1..=Self::MAX_DEGREE).contains(&degree) {
            #[expect(clippy::cast_precision_loss, reason = "only shown in a message")]
            let value = degree as f64;
            return Err(Error::InvalidSetting { setting: "degree", value, requirement: "1 to 8" });
        }
        function.check(interval)?;
        Ok(Self { function, interval, degree })
    }

    /// The function to approximate.
    #[must_use]
    pub fn function(&self) -> &Function {
        &self.function
    }

    /// Where it is approximated.
    #[must_use]
    pub fn interval(&self) -> Interval {
        self.interval
    }

    /// Degree of the polynomial, at most.
    #[must_use]
    pub fn degree(&self) -> usize {
        self.degree
    }

    /// Find the polynomial by `method`. Deterministic.
    ///
    /// Cost: milliseconds; with a sampled function, up to a second.
    ///
    /// # Errors
    /// - [`Error::CannotApproximate`] if the method does not apply: Taylor where the function has a
    ///   corner, or a table.
    pub fn solve(&self, method: Method) -> Result<Approximation> {
        let refuse = |reason| self.refuse(method, reason);
        let polynomial = match method {
            Method::LeastSquares(measure) => {
                least_squares::fit(self, measure, &|x| self.function.value(x), self.degree)
            }
            Method::Derivative(measure) => {
                let slope = |x: f64| self.function.derivative(x);
                least_squares::fit(self, measure, &slope, self.degree - 1).map(|slope| {
                    let anchor = self.interval.nearest(0.0);
                    slope.integral(anchor, self.function.value(anchor))
                })
            }
            Method::Interpolation => Ok(pointwise::interpolation(self)),
            Method::Minimax => minimax::fit(self),
            Method::Bernstein => Ok(pointwise::bernstein(self)),
            Method::Taylor => taylor::polynomial(self),
        }
        .map_err(refuse)?;
        let measure = match method {
            Method::LeastSquares(measure) | Method::Derivative(measure) => Some(measure),
            Method::Interpolation | Method::Minimax | Method::Bernstein | Method::Taylor => None,
        };
        let weighted = measure.map(|measure| quality::weighted_rms(self, &polynomial, measure));
        let quality = Quality::of(self, &polynomial, weighted);
        Ok(Approximation { polynomial, quality })
    }

    /// The polynomial with the least squared error on `values`, such as pre-activations seen by
    /// [`observe()`]. Values outside the interval are left out; its weighted error is the
    /// root-mean-square error over the others.
    ///
    /// Cost: one orthogonal factorization of `values.len() × (degree + 1)` numbers.
    ///
    /// # Errors
    /// - [`Error::CannotApproximate`] if the values inside do not determine a polynomial: fewer
    ///   distinct ones than coefficients.
    pub fn solve_observed(&self, values: &[f32]) -> Result<Approximation> {
        let points: Vec<f64> =
            values.iter().map(|&x| f64::from(x)).filter(|&x| self.interval.contains(x)).collect();
        let polynomial = least_squares::fit_points(self, &points).map_err(|reason| {
            Error::CannotApproximate {
                function: self.function.to_string(),
                method: Method::OBSERVED.to_owned(),
                reason,
            }
        })?;
        let squares: f64 =
            points.iter().map(|&x| (polynomial.evaluate(x) - self.function.value(x)).powi(2)).sum();
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
        let rms = (squares / points.len() as f64).sqrt();
        let quality = Quality::of(self, &polynomial, Some(rms));
        Ok(Approximation { polynomial, quality })
    }

    fn refuse(&self, method: Method, reason: &'static str) -> Error {
        let (function, method) = (self.function.to_string(), method.to_string());
        Error::CannotApproximate { function, method, reason }
    }
}
