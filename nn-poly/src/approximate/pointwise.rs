//! Polynomials from values at fixed points.

use super::{FitProblem, Polynomial};

/// Interpolation at the Chebyshev points of the first kind.
pub(super) fn interpolation(problem: &FitProblem) -> Polynomial {
    let value = |x: f64| problem.function.value(x);
    Polynomial::interpolating(problem.interval, problem.degree, value).without_noise()
}

/// `Σ f(a + k h) C(n, k) tᵏ (1 − t)ⁿ⁻ᵏ` with `h = (b − a)/n` and `t = (x − a)/(b − a)`.
///
/// # Source
/// Bernstein 1912.
pub(super) fn bernstein(problem: &FitProblem) -> Polynomial {
    let interval = problem.interval;
    let n = problem.degree;
    #[expect(clippy::cast_precision_loss, reason = "at most 8")]
    let controls: Vec<f64> = (0..=n)
        .map(|k| problem.function.value(interval.from_unit(2.0 * k as f64 / n as f64 - 1.0)))
        .collect();
    // De Casteljau's scheme: only averages, so as stable as it gets.
    let value = |x: f64| {
        let t = f64::midpoint(interval.to_unit(x), 1.0);
        let mut row = controls.clone();
        while row.len() > 1 {
            let pairs = row.iter().zip(row.iter().skip(1));
            row = pairs.map(|(left, right)| left + t * (right - left)).collect();
        }
        row.first().copied().unwrap_or(0.0)
    };
    Polynomial::interpolating(interval, n, value).without_noise()
}
