//! How good a polynomial is.

use serde::Serialize;

use super::measure::{self, Measure, Node};
use super::{FitProblem, Polynomial, minimax};

/// Errors of a polynomial inside its interval, and its behavior outside.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Quality {
    /// Largest error in the interval.
    pub max_error: f64,
    /// Where it occurs.
    pub max_error_at: f64,
    /// Root of the mean squared error over the interval, every point alike.
    pub rms_error: f64,
    /// The same under the measure that the method minimizes, if it minimizes one.
    pub weighted_rms_error: Option<f64>,
    /// At 1.5 and 2 times the distance of either end from the middle.
    pub outside: Vec<OutsideError>,
}

/// A point outside the interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct OutsideError {
    /// Distance from the middle of the interval, the end of the interval being at −1 or 1.
    pub factor: f64,
    /// The point.
    pub x: f64,
    /// The polynomial there.
    pub value: f64,
    /// The function there.
    pub function: f64,
    /// `|value − function|`.
    pub error: f64,
    /// `|value|` divided by the largest magnitude of the polynomial in the interval.
    pub growth: f64,
}

impl Quality {
    /// Measure `polynomial`.
    pub(super) fn of(
        problem: &FitProblem,
        polynomial: &Polynomial,
        weighted_rms_error: Option<f64>,
    ) -> Self {
        let grid = measure::grid(problem);
        let (max_error_at, max_error) = minimax::extrema(problem, polynomial, &grid)
            .iter()
            .map(|extremum| (extremum.x, extremum.error.abs()))
            .fold((problem.interval.center(), 0.0), |a, b| if b.1 > a.1 { b } else { a });
        let reach = grid.iter().fold(0.0_f64, |reach, &x| reach.max(polynomial.evaluate(x).abs()));
        let outside = [-2.0, -1.5, 1.5, 2.0].map(|factor: f64| {
            let x = problem.interval.from_unit(factor);
            let (value, function) = (polynomial.evaluate(x), problem.function.value(x));
            let growth = if reach > 0.0 { value.abs() / reach } else { 0.0 };
            OutsideError { factor, x, value, function, error: (value - function).abs(), growth }
        });
        Self {
            max_error,
            max_error_at,
            rms_error: weighted_rms(problem, polynomial, Measure::Legendre),
            weighted_rms_error,
            outside: outside.to_vec(),
        }
    }

    /// Largest error at 1.5 times the half width, on either side.
    #[must_use]
    pub fn worst_outside(&self, factor: f64) -> Option<&OutsideError> {
        let there = self.outside.iter().filter(|point| point.factor.abs() == factor);
        there.max_by(|a, b| a.error.total_cmp(&b.error))
    }
}

/// `√(∫ (f − p)² w / ∫ w)`.
pub(super) fn weighted_rms(problem: &FitProblem, polynomial: &Polynomial, measure: Measure) -> f64 {
    let (squares, total) = measure::nodes(problem, measure).iter().fold(
        (0.0, 0.0),
        |(squares, total), &Node { x, weight }| {
            let error = problem.function.value(x) - polynomial.evaluate(x);
            (squares + weight * error * error, total + weight)
        },
    );
    (squares / total).sqrt()
}
