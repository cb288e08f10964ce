//! Weights of least squares, and numerical integration against them.

use std::f64::consts::PI;

use super::{FitProblem, Interval};

/// How much an error counts at the coordinate `z ∈ [−1, 1]` of the interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Measure {
    /// `w = 1`: every point alike.
    Legendre,
    /// `w = 1/√(1 − z²)`: the ends count most, so that the largest error stays small.
    Chebyshev,
    /// `w = exp(−1/(10⁻⁵ + z²))`: the middle hardly counts.
    ///
    /// # Source
    /// Hesamifard, Takabi and Ghasemi, "CryptoDL", 2017, the modified measure. (The polynomials published
    /// with its code exchange the names of the two measures above.)
    CryptoDl,
    /// `w = exp(−1/(10⁻⁵ + z⁸))`: only the ends count. Used by the same code for large intervals.
    CryptoDlEighth,
}

/// A point of a quadrature, in the coordinate of the function, and its weight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    pub(super) x: f64,
    pub(super) weight: f64,
}

impl Measure {
    /// Weight per unit of the parameter by which [`nodes`] integrates: `z`, or the angle of
    /// `z = cos θ`, in which the Chebyshev measure is uniform.
    fn density(self, z: f64) -> f64 {
        match self {
            Self::Legendre | Self::Chebyshev => 1.0,
            Self::CryptoDl => (-1.0 / (1e-5 + z.powi(2))).exp(),
            Self::CryptoDlEighth => (-1.0 / (1e-5 + z.powi(8))).exp(),
        }
    }
}

/// Panels of the composite rule, before it is cut at corners.
const PANELS: u32 = 64;

/// Points and weights with `Σ weight · g(x) ≈ ∫ g w dz`, the weights summing to `∫ w`.
///
/// Composite Gauss–Legendre rule of 16 points, cut where the problem's function or its slope is not
/// smooth, so that it is exact to rounding for every function here.
pub(super) fn nodes(problem: &FitProblem, measure: Measure) -> Vec<Node> {
    let interval = problem.interval;
    let cuts = problem.function.cuts(interval);
    let is_angle = measure == Measure::Chebyshev;
    let (low, high) = if is_angle { (0.0, PI) } else { (-1.0, 1.0) };
    let mut ends: Vec<f64> =
        (0..=PANELS).map(|k| low + (high - low) * f64::from(k) / f64::from(PANELS)).collect();
    ends.extend(cuts.iter().map(|&x| {
        let z = interval.to_unit(x).clamp(-1.0, 1.0);
        if is_angle { z.acos() } else { z }
    }));
    ends.sort_by(f64::total_cmp);
    ends.dedup();
    let rule = gauss_legendre();
    let mut nodes = Vec::with_capacity(ends.len() * rule.len());
    for (&start, &end) in ends.iter().zip(ends.iter().skip(1)) {
        let (center, half) = (f64::midpoint(start, end), (end - start) / 2.0);
        nodes.extend(rule.iter().map(|&(point, weight)| {
            let parameter = center + half * point;
            let z = if is_angle { parameter.cos() } else { parameter };
            Node { x: interval.from_unit(z), weight: weight * half * measure.density(z) }
        }));
    }
    nodes
}

/// Points dense enough to bracket every extremum of an error, in ascending order, with both ends and
/// all corners.
pub(super) fn grid(problem: &FitProblem) -> Vec<f64> {
    let interval = problem.interval;
    let inside = |x: f64| interval.nearest(x);
    // The Chebyshev rule crowds toward the ends, as the extrema of polynomials do.
    let mut grid: Vec<f64> =
        nodes(problem, Measure::Chebyshev).iter().map(|node| inside(node.x)).collect();
    grid.extend(problem.function.cuts(interval));
    grid.extend([interval.low(), interval.high()]);
    grid.sort_by(f64::total_cmp);
    grid.dedup();
    grid
}

/// The Gauss–Legendre rule of 16 points on `[−1, 1]`: zeros of the Legendre polynomial by Newton's
/// method, and their weights `2/((1 − z²) P′(z)²)`.
fn gauss_legendre() -> Vec<(f64, f64)> {
    const N: u32 = 16;
    (0..N)
        .map(|k| {
            let mut z = (PI * (f64::from(k) + 0.75) / (f64::from(N) + 0.5)).cos();
            let mut slope = 1.0;
            for _ in 0..8 {
                let (value, below) = legendre_pair(N, z);
                slope = f64::from(N) * (below - z * value) / (1.0 - z * z);
                z -= value / slope;
            }
            (z, 2.0 / ((1.0 - z * z) * slope * slope))
        })
        .collect()
}

/// `Pₙ(z)` and `P₍ₙ₋₁₎(z)`.
fn legendre_pair(n: u32, z: f64) -> (f64, f64) {
    let (mut below, mut value) = (1.0, z);
    for k in 2..=n {
        let k = f64::from(k);
        (below, value) = (value, ((2.0 * k - 1.0) * z * value - (k - 1.0) * below) / k);
    }
    (value, below)
}

/// `P₀(z) … P_degree(z)`, or `T₀(z) … T_degree(z)` for the Chebyshev measure: polynomials that are
/// orthogonal under the measure, or nearly.
pub(super) fn basis(measure: Measure, degree: usize, z: f64) -> Vec<f64> {
    let mut values = vec![1.0, z];
    #[expect(clippy::cast_precision_loss, reason = "a degree")]
    for k in (2..=degree).map(|k| k as f64) {
        let [.., below, last] = values[..] else { break };
        values.push(match measure {
            Measure::Chebyshev => 2.0 * z * last - below,
            Measure::Legendre | Measure::CryptoDl | Measure::CryptoDlEighth => {
                ((2.0 * k - 1.0) * z * last - (k - 1.0) * below) / k
            }
        });
    }
    values.truncate(degree + 1);
    values
}

/// Evaluate a series in [`basis`] at `x`.
pub(super) fn series(measure: Measure, interval: Interval, coefficients: &[f64], x: f64) -> f64 {
    let degree = coefficients.len().saturating_sub(1);
    basis(measure, degree, interval.to_unit(x)).iter().zip(coefficients).map(|(b, c)| b * c).sum()
}
