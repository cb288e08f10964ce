//! Weighted and discrete least squares by orthogonal factorization.

use nalgebra::{DMatrix, DVector};

use super::measure::{self, Measure, Node};
use super::{FitProblem, Polynomial};

/// Smallest ratio of singular values of a problem that is considered solvable.
const MIN_CONDITION: f64 = 1e-11;

/// The polynomial of at most `degree` nearest to `target` under `measure` on the problem's interval.
pub(super) fn fit(
    problem: &FitProblem,
    measure: Measure,
    target: &dyn Fn(f64) -> f64,
    degree: usize,
) -> Result<Polynomial, &'static str> {
    let nodes = measure::nodes(problem, measure);
    solve(problem, measure, &nodes, target, degree)
}

/// The polynomial nearest to the function on `points`, all of them alike.
pub(super) fn fit_points(problem: &FitProblem, points: &[f64]) -> Result<Polynomial, &'static str> {
    let nodes: Vec<Node> = points.iter().map(|&x| Node { x, weight: 1.0 }).collect();
    let target = |x: f64| problem.function.value(x);
    solve(problem, Measure::Legendre, &nodes, &target, problem.degree)
}

/// Minimize `Σ weight (p(x) − target(x))²`: QR factorization of `√weight · basis`, whose triangle is
/// solved through its singular values.
fn solve(
    problem: &FitProblem,
    measure: Measure,
    nodes: &[Node],
    target: &dyn Fn(f64) -> f64,
    degree: usize,
) -> Result<Polynomial, &'static str> {
    const UNDETERMINED: &str = "the values inside the interval do not determine the polynomial: \
                                too few distinct ones for the degree";
    let interval = problem.interval;
    let n = degree + 1;
    if nodes.len() < n {
        return Err(UNDETERMINED);
    }
    let mut rows = Vec::with_capacity(nodes.len() * n);
    let mut right = Vec::with_capacity(nodes.len());
    for node in nodes {
        let root = node.weight.sqrt();
        let z = interval.to_unit(node.x);
        rows.extend(measure::basis(measure, degree, z).into_iter().map(|b| b * root));
        right.push(target(node.x) * root);
    }
    let factors = DMatrix::from_row_slice(nodes.len(), n, &rows).qr();
    let mut right = DVector::from_vec(right);
    factors.q_tr_mul(&mut right);
    let triangle = factors.unpack_r();
    let right = right.rows(0, n).into_owned();
    let singular = triangle.svd(true, true);
    let largest = singular.singular_values.max();
    if singular.singular_values.min() <= MIN_CONDITION * largest {
        return Err(UNDETERMINED);
    }
    let coefficients = singular.solve(&right, 0.0)?;
    let value = |x: f64| measure::series(measure, interval, coefficients.as_slice(), x);
    Ok(Polynomial::interpolating(interval, degree, value).without_noise())
}
