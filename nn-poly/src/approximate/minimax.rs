//! The polynomial with the smallest largest error.

use std::f64::consts::PI;

use nalgebra::{DMatrix, DVector};

use super::measure::{self, Measure};
use super::{FitProblem, Polynomial};

/// Rounds of exchange at most; convergence is quadratic, so that ten are many.
const MAX_ROUNDS: usize = 60;
/// Relative distance of the largest error from its lower bound at which the exchange ends.
const TOLERANCE: f64 = 1e-11;

/// A point where the error is larger in magnitude than at every neighbor of the same sign.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extremum {
    pub(super) x: f64,
    pub(super) error: f64,
}

/// The best polynomial of the problem's degree in the maximum norm.
///
/// The levelled error of `degree + 2` points is a lower bound of the best error (de la Vallée-Poussin);
/// all points are exchanged for the extrema of the error until the bound is met.
///
/// # Source
/// Remez 1934; Trefethen, "Approximation Theory and Approximation Practice", chapter 10.
pub(super) fn fit(problem: &FitProblem) -> Result<Polynomial, &'static str> {
    const DIVERGED: &str = "the exchange of points did not converge";
    let grid = measure::grid(problem);
    let n_points = problem.degree + 2;
    let mut reference = start(problem, n_points);
    let magnitude =
        grid.iter().fold(0.0_f64, |largest, &x| largest.max(problem.function.value(x).abs()));
    let mut best: Option<(f64, Polynomial)> = None;
    for _ in 0..MAX_ROUNDS {
        let Some((polynomial, level)) = leveled(problem, &reference) else { break };
        let mut extrema = extrema(problem, &polynomial, &grid);
        let largest = extrema.iter().fold(0.0_f64, |largest, e| largest.max(e.error.abs()));
        let gap = largest - level.abs();
        if best.as_ref().is_none_or(|&(least, _)| gap < least) {
            best = Some((gap, polynomial));
        }
        // Rounding errors have no alternation: the function is a polynomial itself.
        if gap <= TOLERANCE * largest + 1e-14 * magnitude || extrema.len() < n_points {
            break;
        }
        thin_out(&mut extrema, n_points);
        reference = extrema.into_iter().map(|extremum| extremum.x).collect();
    }
    let (gap, polynomial) = best.ok_or(DIVERGED)?;
    if gap > 1e-6 * magnitude {
        return Err(DIVERGED);
    }
    Ok(polynomial.without_noise())
}

/// The extrema of a Chebyshev polynomial, moved a little: on a symmetric reference an even or odd
/// function can have a levelled error of 0, which tells nothing.
fn start(problem: &FitProblem, n_points: usize) -> Vec<f64> {
    #[expect(clippy::cast_precision_loss, reason = "at most 10")]
    let unit = |k: usize| -(PI * k as f64 / (n_points - 1) as f64).cos();
    (0..n_points)
        .map(|k| problem.interval.from_unit(unit(k) + 0.1 * (1.0 - unit(k) * unit(k))))
        .map(|x| problem.interval.nearest(x))
        .collect()
}

/// The polynomial whose errors on `reference` are equal in magnitude and alternate in sign, and the
/// first of them; `None` if two points coincide.
fn leveled(problem: &FitProblem, reference: &[f64]) -> Option<(Polynomial, f64)> {
    let n = reference.len();
    let interval = problem.interval;
    let mut rows = Vec::with_capacity(n * n);
    for (idx, &x) in reference.iter().enumerate() {
        rows.extend(measure::basis(Measure::Chebyshev, problem.degree, interval.to_unit(x)));
        rows.push(if idx % 2 == 0 { 1.0 } else { -1.0 });
    }
    let values = reference.iter().map(|&x| problem.function.value(x));
    let right = DVector::from_iterator(n, values);
    let solution = DMatrix::from_row_slice(n, n, &rows).full_piv_lu().solve(&right)?;
    let mut coefficients: Vec<f64> = solution.iter().copied().collect();
    let level = coefficients.pop()?;
    Some((Polynomial::from_chebyshev(interval, coefficients), level))
}

/// The largest error between each two changes of its sign.
pub(super) fn extrema(
    problem: &FitProblem,
    polynomial: &Polynomial,
    grid: &[f64],
) -> Vec<Extremum> {
    let error = |x: f64| problem.function.value(x) - polynomial.evaluate(x);
    let mut extrema: Vec<(Extremum, usize)> = Vec::new();
    for (idx, &x) in grid.iter().enumerate() {
        let found = Extremum { x, error: error(x) };
        match extrema.last_mut() {
            Some((last, last_idx)) if last.error * found.error >= 0.0 => {
                if found.error.abs() > last.error.abs() {
                    (*last, *last_idx) = (found, idx);
                }
            }
            _ => extrema.push((found, idx)),
        }
    }
    let neighbor = |idx: usize, x: f64| grid.get(idx).copied().unwrap_or(x);
    extrema
        .into_iter()
        .map(|(found, idx)| {
            let bracket = (neighbor(idx.saturating_sub(1), found.x), neighbor(idx + 1, found.x));
            let sign = found.error.signum();
            let x = largest_in(bracket, |x| sign * error(x));
            let refined = Extremum { x, error: error(x) };
            if refined.error.abs() > found.error.abs() { refined } else { found }
        })
        .collect()
}

/// Where `value` is largest in a short interval with one maximum, by golden-section search.
fn largest_in((mut low, mut high): (f64, f64), value: impl Fn(f64) -> f64) -> f64 {
    const GOLDEN: f64 = 0.618_033_988_749_894_9;
    let inner = |low: f64, high: f64| (high - GOLDEN * (high - low), low + GOLDEN * (high - low));
    let (mut left, mut right) = inner(low, high);
    let (mut at_left, mut at_right) = (value(left), value(right));
    for _ in 0..60 {
        if at_left >= at_right {
            (high, right, at_right) = (right, left, at_left);
            left = inner(low, high).0;
            at_left = value(left);
        } else {
            (low, left, at_left) = (left, right, at_right);
            right = inner(low, high).1;
            at_right = value(right);
        }
    }
    f64::midpoint(low, high)
}

/// Leave `n` of more extrema, the largest among them, with alternating signs and as large as they come:
/// the smallest goes, and of its two neighbors, which now have one sign, the smaller.
fn thin_out(extrema: &mut Vec<Extremum>, n: usize) {
    let size = |extrema: &[Extremum], idx: usize| extrema.get(idx).map_or(0.0, |e| e.error.abs());
    while extrema.len() > n {
        let last = extrema.len() - 1;
        let all = 0..=last;
        let smallest =
            all.min_by(|&i, &j| size(extrema, i).total_cmp(&size(extrema, j))).unwrap_or(last);
        if extrema.len() == n + 1 {
            // Only one may go, so it must be an end.
            let end = if size(extrema, 0) < size(extrema, last) { 0 } else { last };
            extrema.remove(end);
        } else if smallest == 0 || smallest == last {
            extrema.remove(smallest);
        } else {
            let keeps_left = size(extrema, smallest - 1) >= size(extrema, smallest + 1);
            let first = if keeps_left { smallest } else { smallest - 1 };
            extrema.drain(first..=first + 1);
        }
    }
}
