//! Polynomial fits: known coefficients, and what makes each method's result the right one.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "tests"
)]

use std::f64::consts::{FRAC_1_PI, FRAC_2_PI, PI};

use nn_poly::approximate::{
    Approximation, FitProblem, Function, Interval, Measure, Method, Polynomial, SampledFunction,
};
use proptest::prelude::*;

fn solve(function: Function, l: f64, degree: usize, method: Method) -> Approximation {
    let problem = FitProblem::new(function, Interval::symmetric(l).unwrap(), degree).unwrap();
    problem.solve(method).unwrap()
}

/// Where a function's slope may jump.
fn kinks(function: &Function) -> Vec<f64> {
    if let Function::Sampled(sampled) = function {
        return sampled.points().iter().map(|&(x, _)| x).collect();
    }
    vec![0.0]
}

/// Points of the interval and their weight under the measure, by the rectangle rule in the angle of
/// `z = cos θ`: independent of the crate's own quadrature, and exact enough for comparisons.
fn weighted_points(interval: Interval, measure: Measure) -> Vec<(f64, f64)> {
    const N: usize = 20_000;
    (0..N)
        .map(|k| {
            let angle = PI * (k as f64 + 0.5) / N as f64;
            let z = angle.cos();
            let weight = match measure {
                Measure::Legendre => angle.sin(),
                Measure::Chebyshev => 1.0,
                Measure::CryptoDl => angle.sin() * (-1.0 / (1e-5 + z * z)).exp(),
                Measure::CryptoDlEighth => angle.sin() * (-1.0 / (1e-5 + z.powi(8))).exp(),
            };
            (interval.from_unit(z), weight * PI / N as f64)
        })
        .collect()
}

fn moved(polynomial: &Polynomial, position: usize, by: f64) -> Polynomial {
    let mut coefficients = polynomial.chebyshev().to_vec();
    coefficients[position] += by;
    Polynomial::from_chebyshev(polynomial.interval(), coefficients)
}

fn function() -> impl Strategy<Value = Function> {
    let table = SampledFunction::new(
        (0..=40).map(|k| (f64::from(k) * 2.5 - 50.0, f64::from(k * 7 % 11) / 3.0)).collect(),
    );
    prop_oneof![
        prop::sample::select(Function::NAMED.to_vec()),
        (-0.5..0.9_f64).prop_map(|slope| Function::LeakyRelu { slope }),
        Just(Function::Sampled(table.unwrap())),
    ]
}

fn interval() -> impl Strategy<Value = Interval> {
    prop_oneof![
        (0.5..25.0_f64).prop_map(|l| Interval::symmetric(l).unwrap()),
        (-12.0..5.0_f64, 0.5..15.0_f64).prop_map(|(a, w)| Interval::new(a, a + w).unwrap()),
    ]
}

fn measure() -> impl Strategy<Value = Measure> {
    prop::sample::select(vec![
        Measure::Legendre,
        Measure::Chebyshev,
        Measure::CryptoDl,
        Measure::CryptoDlEighth,
    ])
}

/// Rows: method, then the coefficients of `x²/l`, `x`, `l`, and of `x⁴/l³`, `x²/l`, `x`, `l`, of ReLU.
///
/// Source: the closed forms for Legendre and Chebyshev (`4/3π`, `1/3π`, `15/32`, `3/32`, …), and the
/// constants of CryptoDL's published polynomials for its own measure.
#[test]
fn relu_has_the_published_coefficients() {
    use Measure::{Chebyshev, CryptoDl, CryptoDlEighth, Legendre};
    use Method::{Derivative, LeastSquares};
    let rows = [
        (LeastSquares(Legendre), [0.46875, 0.5, 0.09375], [-0.410156, 0.820312, 0.5, 0.058594]),
        (LeastSquares(Chebyshev), [0.424413, 0.5, 0.106103], [-0.339531, 0.763944, 0.5, 0.063662]),
        (LeastSquares(CryptoDl), [0.315471, 0.5, 0.192787], [-0.138407, 0.499323, 0.5, 0.137266]),
        (Derivative(Legendre), [0.375, 0.5, 0.0], [-0.273438, 0.703125, 0.5, 0.0]),
        (Derivative(Chebyshev), [FRAC_1_PI, 0.5, 0.0], [-0.212207, FRAC_2_PI, 0.5, 0.0]),
        (Derivative(CryptoDl), [0.293498, 0.5, 0.0], [-0.120149, 0.476934, 0.5, 0.0]),
        (Derivative(CryptoDlEighth), [0.263112, 0.5, 0.0], [-0.0774136, 0.403600, 0.5, 0.0]),
    ];
    for (method, [a, b, c], [fourth, second, first, constant]) in rows {
        for l in [1.0, 4.0, 255.0] {
            let close = |actual: f64, expected: f64, what: &str| {
                assert!((actual - expected).abs() < 6e-7, "{method} {what}: {actual} {expected}");
            };
            for degree in [2, 3] {
                let found = solve(Function::Relu, l, degree, method).polynomial.monomials();
                close(found[2] * l, a, "x²");
                close(found[1], b, "x");
                close(found[0] / l, c, "1");
                if let Some(cube) = found.get(3) {
                    close(cube * l * l, 0.0, "x³");
                }
            }
            let found = solve(Function::Relu, l, 4, method).polynomial.monomials();
            close(found[4] * l.powi(3), fourth, "x⁴");
            close(found[3] * l.powi(2), 0.0, "x³");
            close(found[2] * l, second, "x²");
            close(found[1], first, "x");
            close(found[0] / l, constant, "1");
        }
    }
}

/// The published default and the large one of degree 2, to the accuracy of their numerical integration.
#[test]
fn cryptodl_polynomials_are_reproduced() {
    for (l, published) in [(255.0, 0.001_150_971_456_516_16), (300.0, 0.000_978_325_738)] {
        let method = Method::Derivative(Measure::CryptoDl);
        let found = solve(Function::Relu, l, 2, method).polynomial.monomials();
        assert!((found[2] / published - 1.0).abs() < 5e-6, "{} {published}", found[2]);
    }
}

/// Closed forms: Bernstein of ReLU is `(x + l)²/4l` and `2l t³ − l t⁴`; the best quadratic of `|x|` is
/// `x²/l + l/8`; `T₂` and `T₃` are nearest to the next power; Taylor of the sigmoid at 0.
#[test]
fn closed_forms() {
    let check = |function: Function, degree, method, expected: &[f64]| {
        let l = 3.0;
        let polynomial = solve(function, l, degree, method).polynomial;
        for x in [-4.0, -3.0, -1.2, 0.0, 0.7, 3.0, 5.0] {
            let value = expected.iter().rev().fold(0.0, |y, c| y * x + c);
            let found = polynomial.evaluate(x);
            assert!((found - value).abs() < 1e-9, "{method} of degree {degree}: {found} {value}");
        }
    };
    let l: f64 = 3.0;
    for degree in [2, 3] {
        check(Function::Relu, degree, Method::Bernstein, &[l / 4.0, 0.5, 0.25 / l]);
        check(Function::Abs, degree, Method::Minimax, &[l / 8.0, 0.0, 1.0 / l]);
        check(Function::Relu, degree, Method::Minimax, &[l / 16.0, 0.5, 0.5 / l]);
    }
    // 2l t³ − l t⁴ with t = (x + l)/2l, expanded.
    let (t3, t4) = (2.0 * l / 8.0, l / 16.0);
    check(
        Function::Relu,
        4,
        Method::Bernstein,
        &[
            t3 - t4,
            (3.0 * t3 - 4.0 * t4) / l,
            (3.0 * t3 - 6.0 * t4) / (l * l),
            (t3 - 4.0 * t4) / l.powi(3),
            -t4 / l.powi(4),
        ],
    );
    check(Function::Sigmoid, 5, Method::Taylor, &[0.5, 0.25, 0.0, -1.0 / 48.0, 0.0, 1.0 / 480.0]);
    check(Function::Tanh, 3, Method::Taylor, &[0.0, 1.0, 0.0, -1.0 / 3.0]);
    check(Function::Softplus, 2, Method::Taylor, &[2.0_f64.ln(), 0.5, 0.125]);
    check(Function::Gelu, 2, Method::Taylor, &[0.0, 0.5, 1.0 / (2.0 * PI).sqrt()]);
    check(Function::Silu, 4, Method::Taylor, &[0.0, 0.5, 0.25, 0.0, -1.0 / 48.0]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// The weighted squared error grows in every direction. (Its minimum is a stationary point, so that
    /// a small step of either sign must cost.)
    #[test]
    fn least_squares_cannot_be_improved(
        function in function(), interval in interval(), degree in 1..=8_usize, measure in measure(),
        position in 0..9_usize, exponent in -3..0_i32,
    ) {
        let problem = FitProblem::new(function, interval, degree).unwrap();
        let best = problem.solve(Method::LeastSquares(measure)).unwrap();
        let points = weighted_points(interval, measure);
        let cost = |polynomial: &Polynomial| -> f64 {
            points.iter().map(|&(x, w)| w * (polynomial.evaluate(x) - problem.function().value(x)).powi(2)).sum()
        };
        let total: f64 = points.iter().map(|&(_, w)| w).sum();
        let least = cost(&best.polynomial);
        let size = best.polynomial.chebyshev().iter().fold(1e-3_f64, |m, c| m.max(c.abs()));
        let by = size * 10_f64.powi(exponent);
        for sign in [-1.0, 1.0] {
            let other = cost(&moved(&best.polynomial, position % (degree + 1), sign * by));
            prop_assert!(other > least, "{other} {least}");
        }
        let reported = best.quality.weighted_rms_error.unwrap();
        prop_assert!((reported - (least / total).sqrt()).abs() <= 1e-4 * size, "{reported}");
    }

    /// Normal equations: the residual is orthogonal to every polynomial of the degree.
    #[test]
    fn least_squares_residuals_are_orthogonal(
        function in function(), interval in interval(), degree in 1..=8_usize, measure in measure(),
    ) {
        let problem = FitProblem::new(function, interval, degree).unwrap();
        let best = problem.solve(Method::LeastSquares(measure)).unwrap();
        let points = weighted_points(interval, measure);
        let norm = |g: &dyn Fn(f64) -> f64| -> f64 { points.iter().map(|&(x, w)| w * g(x)).sum() };
        let scale = norm(&|x| problem.function().value(x).abs()) + norm(&|_| 1.0) * 1e-3;
        for k in 0..=degree {
            let test = moved(&Polynomial::from_chebyshev(interval, vec![0.0; degree + 1]), k, 1.0);
            let inner = norm(&|x| {
                (problem.function().value(x) - best.polynomial.evaluate(x)) * test.evaluate(x)
            });
            prop_assert!(inner.abs() < 2e-5 * scale, "{k}: {inner:e} {scale:e}");
        }
    }

    /// The error of the minimax polynomial takes its largest magnitude with alternating signs at
    /// `degree + 2` points or more; by de la Vallée-Poussin's theorem nothing can then beat it, and
    /// perturbed coefficients do not.
    #[test]
    fn minimax_errors_alternate(
        function in function(), interval in interval(), degree in 1..=8_usize,
        position in 0..9_usize, exponent in -4..0_i32,
    ) {
        let problem = FitProblem::new(function, interval, degree).unwrap();
        let best = problem.solve(Method::Minimax).unwrap();
        let points: Vec<f64> = (0..=40_000)
            .map(|k| interval.from_unit(-(PI * f64::from(k) / 40_000.0).cos()))
            .chain(kinks(problem.function()).into_iter().map(|x| interval.nearest(x)))
            .collect();
        let error = |polynomial: &Polynomial, x: f64| problem.function().value(x) - polynomial.evaluate(x);
        let largest = |polynomial: &Polynomial| {
            points.iter().map(|&x| error(polynomial, x).abs()).fold(0.0, f64::max)
        };
        let least = largest(&best.polynomial);
        let magnitude = points.iter().map(|&x| problem.function().value(x).abs()).fold(1e-3, f64::max);
        prop_assert!(best.quality.max_error >= least - 1e-12 * magnitude);
        prop_assert!(best.quality.max_error <= least * (1.0 + 1e-3) + 1e-12 * magnitude);
        // Where the function is a line the error is nothing but rounding.
        prop_assume!(least > 1e-11 * magnitude);
        let mut sorted = points.clone();
        sorted.sort_by(f64::total_cmp);
        let mut signs: Vec<f64> = sorted
            .iter()
            .map(|&x| error(&best.polynomial, x))
            .filter(|e| e.abs() >= least * (1.0 - 1e-3))
            .map(f64::signum)
            .collect();
        signs.dedup();
        prop_assert!(signs.len() >= degree + 2, "{} alternations at degree {degree}", signs.len());
        let by = magnitude * 10_f64.powi(exponent);
        for sign in [-1.0, 1.0] {
            let other = moved(&best.polynomial, position % (degree + 1), sign * by);
            prop_assert!(largest(&other) >= least * (1.0 - 1e-6));
        }
        // No other method has a smaller largest error.
        for method in Method::ALL {
            if let Ok(other) = problem.solve(method) {
                prop_assert!(other.quality.max_error >= best.quality.max_error * (1.0 - 1e-6), "{method}");
            }
        }
    }

    #[test]
    fn interpolation_hits_its_points(
        function in function(), interval in interval(), degree in 1..=8_usize,
    ) {
        let problem = FitProblem::new(function, interval, degree).unwrap();
        let polynomial = problem.solve(Method::Interpolation).unwrap().polynomial;
        let n = (degree + 1) as f64;
        for k in 0..=degree {
            let x = interval.from_unit(((2 * k + 1) as f64 * PI / (2.0 * n)).cos());
            let value = problem.function().value(x);
            prop_assert!((polynomial.evaluate(x) - value).abs() < 1e-11 * (1.0 + value.abs()));
        }
    }

    /// Bernstein polynomials agree with the function at both ends and stay between its extrema.
    #[test]
    fn bernstein_polynomials_stay_between_the_values(
        function in function(), interval in interval(), degree in 1..=8_usize, share in 0.0..1.0_f64,
    ) {
        let problem = FitProblem::new(function, interval, degree).unwrap();
        let polynomial = problem.solve(Method::Bernstein).unwrap().polynomial;
        let controls: Vec<f64> = (0..=degree)
            .map(|k| problem.function().value(interval.from_unit(2.0 * k as f64 / degree as f64 - 1.0)))
            .collect();
        let low = controls.iter().copied().fold(f64::INFINITY, f64::min);
        let high = controls.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let slack = 1e-11 * (1.0 + high.abs().max(low.abs()));
        let value = polynomial.evaluate(interval.from_unit(2.0 * share - 1.0));
        prop_assert!(low - slack <= value && value <= high + slack);
        for (end, control) in [(interval.low(), controls[0]), (interval.high(), controls[degree])] {
            prop_assert!((polynomial.evaluate(end) - control).abs() < slack);
        }
    }

    /// On a symmetric interval the polynomial has the symmetry of the function.
    #[test]
    fn symmetry_is_kept(l in 0.5..20.0_f64, degree in 1..=8_usize, share in 0.0..1.0_f64) {
        for method in Method::ALL {
            for (function, sign) in [(Function::Abs, 1.0), (Function::Tanh, -1.0)] {
                let problem =
                    FitProblem::new(function, Interval::symmetric(l).unwrap(), degree).unwrap();
                let Ok(fit) = problem.solve(method) else { continue };
                let (right, left) = (fit.polynomial.evaluate(share * l), fit.polynomial.evaluate(-share * l));
                // The exchange of points ends within 1e-11 of the best error, its polynomial within the root.
                let slack = if method == Method::Minimax { 1e-5 } else { 1e-11 };
                prop_assert!((right - sign * left).abs() < slack * (1.0 + l), "{method} {right} {left}");
            }
        }
    }

    /// A polynomial is its own approximation, whatever the method (but Bernstein's).
    #[test]
    fn lines_are_reproduced(slope in -2.0..2.0_f64, a in 0.1..3.0_f64, degree in 1..=8_usize) {
        // To the left of 0 the leaky ReLU is a line.
        let interval = Interval::new(-a - 4.0, -a).unwrap();
        let problem = FitProblem::new(Function::LeakyRelu { slope }, interval, degree).unwrap();
        for method in Method::ALL {
            let fit = problem.solve(method).unwrap();
            prop_assert!(fit.quality.max_error < 1e-10, "{method}: {:e}", fit.quality.max_error);
        }
    }

    /// On values that follow a measure, the discrete fit approaches the continuous one; on any values,
    /// perturbed coefficients are worse.
    #[test]
    fn observed_fits_are_least_squares(
        function in function(), l in 1.0..10.0_f64, degree in 1..=8_usize,
        position in 0..9_usize, exponent in -3..0_i32,
    ) {
        let interval = Interval::symmetric(l).unwrap();
        let problem = FitProblem::new(function, interval, degree).unwrap();
        let mut values: Vec<f32> = (0..4000)
            .map(|k| interval.from_unit((f64::from(k) + 0.5) / 2000.0 - 1.0) as f32)
            .collect();
        let inside = values.clone();
        values.extend([40.0, -1e6, 1e6]);
        let fit = problem.solve_observed(&values).unwrap();
        let uniform = problem.solve(Method::LeastSquares(Measure::Legendre)).unwrap();
        let gap = (fit.quality.rms_error - uniform.quality.rms_error).abs();
        prop_assert!(gap < 1e-3 * (1.0 + uniform.quality.max_error), "values outside are left out");
        let cost = |polynomial: &Polynomial| -> f64 {
            inside.iter().map(|&x| f64::from(x)).map(|x| (polynomial.evaluate(x) - problem.function().value(x)).powi(2)).sum()
        };
        let least = cost(&fit.polynomial);
        let rms = fit.quality.weighted_rms_error.unwrap();
        prop_assert!((rms - (least / 4000.0).sqrt()).abs() < 1e-9 * (1.0 + rms));
        for sign in [-1.0, 1.0] {
            let by = sign * 10_f64.powi(exponent);
            prop_assert!(cost(&moved(&fit.polynomial, position % (degree + 1), by)) > least);
        }
    }
}

#[test]
fn quality_tells_what_happens_outside() {
    let fit = solve(Function::Relu, 4.0, 2, Method::LeastSquares(Measure::Legendre));
    let factors: Vec<f64> = fit.quality.outside.iter().map(|point| point.factor).collect();
    assert_eq!(factors, [-2.0, -1.5, 1.5, 2.0]);
    let last = fit.quality.outside[3];
    assert_eq!((last.x, last.function), (8.0, 8.0));
    // 15/128 x² + x/2 + 3/8 at 8 and, the largest inside, at 4.
    assert!((last.value - 11.875).abs() < 1e-10 && (last.error - 3.875).abs() < 1e-10);
    assert!((last.growth - 11.875 / 4.25).abs() < 1e-10);
    assert!((fit.quality.worst_outside(2.0).unwrap().error - 3.875).abs() < 1e-10);
    assert!(fit.quality.worst_outside(3.0).is_none());
    // Error of 15/128 x² − x/2 + 3/8 (x ≥ 0) at 0 and at 32/15: 3/8.
    assert!((fit.quality.max_error - 0.375).abs() < 1e-12, "{}", fit.quality.max_error);
}

#[test]
fn what_cannot_be_approximated_is_said() {
    let interval = Interval::symmetric(2.0).unwrap();
    let error = |result: nn_poly::Result<FitProblem>| result.unwrap_err().to_string();
    for degree in [0, 9] {
        let message = error(FitProblem::new(Function::Relu, interval, degree));
        assert_eq!(message, format!("degree is {degree}, it must be 1 to 8"));
    }
    let leaky = Function::LeakyRelu { slope: f64::NAN };
    assert!(error(FitProblem::new(leaky, interval, 2)).contains("slope of the leaky ReLU"));
    let table = SampledFunction::new(vec![(-2.0, 0.0), (1.0, 1.0)]).unwrap();
    let message = error(FitProblem::new(Function::Sampled(table), interval, 2));
    assert!(message.contains("do not cover the interval"), "{message}");

    let problem = FitProblem::new(Function::Relu, interval, 2).unwrap();
    let message = problem.solve(Method::Taylor).unwrap_err().to_string();
    assert!(
        message.contains("taylor cannot approximate relu: the function has a corner"),
        "{message}"
    );
    for values in [&[0.5_f32, 0.5, 0.5, 0.25] as &[f32], &[], &[1.0, 2.0, 9.0, -9.0]] {
        let message = problem.solve_observed(values).unwrap_err().to_string();
        assert!(message.contains("too few distinct ones"), "{message}");
    }
    assert!(problem.solve_observed(&[0.5, -0.5, 0.25]).is_ok());
}
