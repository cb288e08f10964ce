//! Taylor polynomials through the arithmetic of power series.

use super::error_function::{normal_cdf, normal_density};
use super::function::GeluGate;
use super::{FitProblem, Function, Polynomial};

/// The Taylor polynomial around the middle of the interval.
pub(super) fn polynomial(problem: &FitProblem) -> Result<Polynomial, &'static str> {
    let center = problem.interval.center();
    let coefficients = coefficients(&problem.function, center, problem.degree)?;
    let value = |x: f64| coefficients.iter().rev().fold(0.0, |y, c| y * (x - center) + c);
    Ok(Polynomial::interpolating(problem.interval, problem.degree, value).without_noise())
}

/// `f⁽ᵏ⁾(center)/k!` for `k = 0 ..= degree`.
///
/// # Source
/// The recurrences follow from the differential equations `s′ = s(1 − s)` of the sigmoid,
/// `t′ = 1 − t²` of tanh, `s′ = s(1 − s)p′` of the sigmoid of a cubic `p`, and `φ′ = −xφ` of the normal density.
fn coefficients(function: &Function, center: f64, degree: usize) -> Result<Vec<f64>, &'static str> {
    if function.has_corner_at(center) {
        return Err("the function has a corner in the middle of the interval");
    }
    let n = degree + 1;
    let sigmoid = || {
        let first = Function::Sigmoid.value(center);
        recurrence(n, first, |s, k| at(s, k) - product(s, s, k))
    };
    let x = [center, 1.0];
    match function {
        Function::Relu | Function::LeakyRelu { .. } | Function::Abs => {
            Ok(vec![function.value(center), function.derivative(center)])
        }
        Function::Sigmoid => Ok(sigmoid()),
        Function::Tanh => {
            Ok(recurrence(n, center.tanh(), |t, k| f64::from(u8::from(k == 0)) - product(t, t, k)))
        }
        Function::Softplus => Ok(integrate(
            function.value(center),
            &sigmoid().into_iter().take(degree).collect::<Vec<_>>(),
        )),
        Function::Silu => {
            let s = sigmoid();
            Ok((0..n).map(|k| product(&x, &s, k)).collect())
        }
        Function::Gelu => {
            let density = recurrence(n, normal_density(center), |phi, k| -product(&x, phi, k));
            let cdf = integrate(normal_cdf(center), &density);
            Ok((0..n).map(|k| product(&x, &cdf, k)).collect())
        }
        Function::GeluTanh => {
            let gate = GeluGate::at(center);
            let slope = [gate.slope, gate.bend, GeluGate::TWIST / 2.0];
            let first = Function::Sigmoid.value(gate.argument);
            let s = recurrence(n, first, |s, k| {
                let rise: Vec<f64> = (0..=k).map(|i| at(s, i) - product(s, s, i)).collect();
                product(&rise, &slope, k)
            });
            Ok((0..n).map(|k| product(&x, &s, k)).collect())
        }
        Function::Sampled(_) => Err("a table has no higher derivatives"),
    }
}

fn at(series: &[f64], k: usize) -> f64 {
    series.get(k).copied().unwrap_or(0.0)
}

/// Coefficient `k` of the product of two series.
fn product(left: &[f64], right: &[f64], k: usize) -> f64 {
    (0..=k).map(|i| at(left, i) * at(right, k - i)).sum()
}

/// The series `y` of `n` terms with `y₀ = first` and `y′ = slope(y)`, coefficient by coefficient.
#[expect(clippy::cast_precision_loss, reason = "at most 9")]
fn recurrence(n: usize, first: f64, slope: impl Fn(&[f64], usize) -> f64) -> Vec<f64> {
    let mut series = vec![first];
    for k in 0..n - 1 {
        let next = slope(&series, k) / (k + 1) as f64;
        series.push(next);
    }
    series
}

/// The series with these derivatives.
#[expect(clippy::cast_precision_loss, reason = "at most 10")]
fn integrate(first: f64, slope: &[f64]) -> Vec<f64> {
    let rest = slope.iter().enumerate().map(|(k, s)| s / (k + 1) as f64);
    std::iter::once(first).chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Derivative `k` at `x` by central differences of the exact first derivative's series one order
    /// lower: each coefficient is checked against the one before it.
    #[test]
    fn each_derivative_is_the_slope_of_the_one_before() {
        let functions = [
            Function::Sigmoid,
            Function::Tanh,
            Function::Softplus,
            Function::Gelu,
            Function::Silu,
            Function::GeluTanh,
        ];
        for function in functions {
            for center in [-1.7, 0.0, 0.6, 3.0] {
                let series = |x| coefficients(&function, x, 8).unwrap();
                let here = series(center);
                assert_eq!(here.len(), 9);
                assert!((here[0] - function.value(center)).abs() < 1e-15);
                let step = 1e-4;
                let (above, below) = (series(center + step), series(center - step));
                for k in 0..8 {
                    let slope = (above[k] - below[k]) / (2.0 * step);
                    let expected = slope / f64::from(u8::try_from(k + 1).unwrap());
                    let error = (here[k + 1] - expected).abs();
                    assert!(error < 1e-6, "{function} at {center}, order {k}: {error:e}");
                }
            }
        }
    }
}
