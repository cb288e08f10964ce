//! What the generators minimize, in coordinates where every feature runs from 0 to 1.

use std::sync::Mutex;

use argmin::core::{CostFunction, Error, Gradient};
use ndarray::{Array1, Array2, Axis};
use nn_poly::autodiff::Linearization;
use nn_poly::{Network, Scalar};

use super::gauss_newton::Equations;
use super::solver::Objective;
use crate::sample::InputGrid;
use crate::sensitivity::{Sensitivity, top_classes};

/// From unit coordinates to network inputs.
#[derive(Clone, Copy, Debug)]
pub(super) struct UnitCoordinates<'a> {
    pub(super) grid: &'a InputGrid,
}

impl UnitCoordinates<'_> {
    fn range(&self, feature_idx: usize) -> f64 {
        self.grid.high(feature_idx) - self.grid.low(feature_idx)
    }

    pub(super) fn input<A: Scalar>(&self, u: &[f64]) -> Array1<A> {
        let value = |(i, u): (usize, &f64)| A::from_f64(self.grid.low(i) + u * self.range(i));
        u.iter().enumerate().map(value).collect()
    }

    pub(super) fn unit(&self, input: impl Iterator<Item = f64>) -> Vec<f64> {
        let unit = |(i, x): (usize, f64)| ((x - self.grid.low(i)) / self.range(i)).clamp(0.0, 1.0);
        input.enumerate().map(unit).collect()
    }

    /// Derivatives with respect to unit coordinates from those with respect to inputs.
    fn scale<'g>(&self, gradient: impl Iterator<Item = &'g mut f64>) {
        for (feature_idx, g) in gradient.enumerate() {
            *g *= self.range(feature_idx);
        }
    }
}

/// `−log S`.
pub(super) struct NegativeLogSensitivity<'a, A: Scalar> {
    pub(super) sensitivity: Sensitivity<'a, A>,
    pub(super) coordinates: UnitCoordinates<'a>,
}

impl<A: Scalar> Objective for NegativeLogSensitivity<'_, A> {
    fn cost_and_gradient(&self, u: &[f64]) -> Result<(f64, Vec<f64>), Error> {
        let x = self.coordinates.input::<A>(u);
        let (value, mut gradient) = self.sensitivity.log_value_and_gradient(x.view())?;
        gradient.mapv_inplace(|g| -g);
        self.coordinates.scale(gradient.iter_mut());
        Ok((-value, gradient.to_vec()))
    }
}

/// Minus the entropy of the softmax over the `k` largest scores.
///
/// # Source
/// The objective of intrinsic boundary-sensitive fingerprinting (IBSF), ICML 2024, for top-`k`.
pub(super) struct NegativeEntropy<'a, A: Scalar> {
    pub(super) network: &'a Network<A>,
    pub(super) n_tied: usize,
    pub(super) coordinates: UnitCoordinates<'a>,
}

impl<A: Scalar> Objective for NegativeEntropy<'_, A> {
    fn cost_and_gradient(&self, u: &[f64]) -> Result<(f64, Vec<f64>), Error> {
        let x = self.coordinates.input::<A>(u);
        let point = Linearization::new(self.network, x.view())?;
        let scores: Vec<f64> = point.output().iter().map(|z| z.as_f64()).collect();
        let (entropy, slopes) = entropy(&scores, self.n_tied);
        // In single precision the slopes of saturated scores would vanish: normalize, then restore.
        let largest = slopes.iter().fold(f64::MIN_POSITIVE, |largest, s| s.abs().max(largest));
        let row: Array1<A> = slopes.iter().map(|s| A::from_f64(s / largest)).collect();
        let gradient = point.input_gradients(row.insert_axis(Axis(0)))?;
        let mut gradient: Vec<f64> = gradient.iter().map(|g| -g.as_f64() * largest).collect();
        self.coordinates.scale(gradient.iter_mut());
        Ok((-entropy, gradient))
    }
}

/// Entropy of the softmax over the `k` largest scores, and its derivatives by all scores:
/// `∂H/∂z_j = −p_j (log p_j + H)`.
fn entropy(scores: &[f64], k: usize) -> (f64, Vec<f64>) {
    let classes = top_classes(scores, k);
    let score = |class: &usize| scores.get(*class).copied().unwrap_or_default();
    let largest = classes.first().map_or(0.0, score);
    let total: f64 = classes.iter().map(|class| (score(class) - largest).exp()).sum();
    let log_p: Vec<f64> = classes.iter().map(|class| score(class) - largest - total.ln()).collect();
    let entropy = -log_p.iter().map(|log_p| log_p.exp() * log_p).sum::<f64>();
    let mut slopes = vec![0.0; scores.len()];
    for (&class, log_p) in classes.iter().zip(&log_p) {
        if let Some(slope) = slopes.get_mut(class) {
            *slope = -log_p.exp() * (log_p + entropy);
        }
    }
    (entropy, slopes)
}

/// `z₁ = z₂ = … = z_k` for the `k` largest scores, whichever they are at the point.
pub(super) struct TieEquations<'a, A: Scalar> {
    pub(super) network: &'a Network<A>,
    pub(super) n_tied: usize,
    pub(super) coordinates: UnitCoordinates<'a>,
}

impl<A: Scalar> Equations for TieEquations<'_, A> {
    /// `z₁ − z_k`, relative to the largest score in magnitude.
    fn cost(&self, u: &[f64]) -> Result<f64, Error> {
        let x = self.coordinates.input::<A>(u).insert_axis(Axis(0));
        let scores = self.network.outputs(&x)?.iter().map(|z| z.as_f64()).collect::<Vec<_>>();
        Ok(relative_spread(&scores, self.n_tied))
    }

    fn linearize(&self, u: &[f64]) -> Result<(Vec<f64>, Array2<f64>), Error> {
        let x = self.coordinates.input::<A>(u);
        let point = Linearization::new(self.network, x.view())?;
        let scores: Vec<f64> = point.output().iter().map(|z| z.as_f64()).collect();
        let score = |class: &usize| scores.get(*class).copied().unwrap_or_default();
        let classes = top_classes(&scores, self.n_tied);
        let Some((first, others)) = classes.split_first() else {
            return Err(Error::msg("a network without scores"));
        };
        let residuals = others.iter().map(|other| score(first) - score(other)).collect();
        let mut rows = Array2::<A>::zeros((others.len(), scores.len()));
        for (mut row, &other) in rows.rows_mut().into_iter().zip(others) {
            for (class, entry) in row.iter_mut().enumerate() {
                *entry = if class == *first {
                    A::one()
                } else if class == other {
                    -A::one()
                } else {
                    A::zero()
                };
            }
        }
        let mut jacobian = point.input_gradients(rows)?.mapv(A::as_f64);
        for mut row in jacobian.rows_mut() {
            self.coordinates.scale(row.iter_mut());
        }
        Ok((residuals, jacobian))
    }
}

/// `(z₁ − z_k)/max|z|`, 0 if all scores are 0.
fn relative_spread(scores: &[f64], k: usize) -> f64 {
    let classes = top_classes(scores, k);
    let score = |class: Option<&usize>| {
        class.and_then(|&class| scores.get(class)).copied().unwrap_or_default()
    };
    let largest = scores.iter().fold(0.0_f64, |largest, z| z.abs().max(largest));
    let spread = score(classes.first()) - score(classes.last());
    if largest > 0.0 { spread / largest } else { 0.0 }
}

/// An objective over all reals: `u = (1 + sin θ)/2`, for solvers that know no box.
///
/// Remembers the latest evaluation, since line searches ask for value and gradient separately, and the
/// best one, which a failing line search would otherwise lose.
pub(super) struct Reparameterized<O> {
    objective: O,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    latest: Option<(Vec<f64>, f64, Vec<f64>)>,
    best: Option<(Vec<f64>, f64)>,
}

impl<O: Objective> Reparameterized<O> {
    pub(super) fn new(objective: O) -> Self {
        Self { objective, memory: Mutex::default() }
    }

    /// The parameters of a point of the box, moved off its boundary, where nothing would move.
    pub(super) fn parameters(u: &[f64]) -> Vec<f64> {
        const OFF: f64 = 0.02;
        u.iter().map(|u| (2.0 * u.clamp(OFF, 1.0 - OFF) - 1.0).asin()).collect()
    }

    fn point(parameters: &[f64]) -> Vec<f64> {
        parameters.iter().map(|theta| 0.5 * (1.0 + theta.sin())).collect()
    }

    /// The best point of the box seen so far.
    pub(super) fn best(&self) -> Option<Vec<f64>> {
        let memory = self.memory.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        memory.best.as_ref().map(|(u, _)| u.clone())
    }

    fn evaluate(&self, parameters: &[f64]) -> Result<(f64, Vec<f64>), Error> {
        let mut memory = self.memory.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((at, cost, gradient)) = &memory.latest
            && at == parameters
        {
            return Ok((*cost, gradient.clone()));
        }
        let u = Self::point(parameters);
        let (cost, mut gradient) = self.objective.cost_and_gradient(&u)?;
        for (g, theta) in gradient.iter_mut().zip(parameters) {
            *g *= 0.5 * theta.cos();
        }
        if memory.best.as_ref().is_none_or(|(_, best)| cost < *best) {
            memory.best = Some((u, cost));
        }
        memory.latest = Some((parameters.to_vec(), cost, gradient.clone()));
        Ok((cost, gradient))
    }
}

impl<O: Objective> CostFunction for &Reparameterized<O> {
    type Param = Vec<f64>;
    type Output = f64;

    fn cost(&self, parameters: &Vec<f64>) -> Result<f64, Error> {
        Ok(self.evaluate(parameters)?.0)
    }
}

impl<O: Objective> Gradient for &Reparameterized<O> {
    type Param = Vec<f64>;
    type Gradient = Vec<f64>;

    fn gradient(&self, parameters: &Vec<f64>) -> Result<Vec<f64>, Error> {
        Ok(self.evaluate(parameters)?.1)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use nn_poly::Shape;
    use nn_poly::network::{ActivationChoice, Architecture, NetworkKind};
    use proptest::prelude::*;

    use super::*;
    use crate::sensitivity::{LayerSelection, SensitivityOutputs};

    fn network() -> Network<f64> {
        let shape = Shape::image(16, 16, 1).unwrap();
        let choice = ActivationChoice::ALL[0];
        Architecture::new(NetworkKind::ALL[0], choice).build(&shape, 6, 3).unwrap()
    }

    fn check_slopes(objective: &impl Objective, u: &[f64]) {
        let (_, gradient) = objective.cost_and_gradient(u).unwrap();
        let scale = gradient.iter().fold(1e-9_f64, |largest, g| g.abs().max(largest));
        for i in (0..u.len()).step_by(37) {
            let at = |by: f64| {
                let mut u = u.to_vec();
                u[i] += by;
                objective.cost_and_gradient(&u).unwrap().0
            };
            let slope = (at(1e-6) - at(-1e-6)) / 2e-6;
            assert!((slope - gradient[i]).abs() < 1e-4 * scale, "{slope} versus {}", gradient[i]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn objectives_are_differentiated_in_unit_coordinates(
            u in proptest::collection::vec(0.01_f64..0.99, 256), k in 2_usize..6,
        ) {
            let network = network();
            let grid = InputGrid::new(-1.0, 2.0, 255).unwrap();
            let coordinates = UnitCoordinates { grid: &grid };
            check_slopes(&NegativeEntropy { network: &network, n_tied: k, coordinates }, &u);
            let outputs = SensitivityOutputs::Probabilities;
            let sensitivity = Sensitivity::new(&network, &LayerSelection::Last, outputs).unwrap();
            let objective = NegativeLogSensitivity { sensitivity, coordinates };
            check_slopes(&objective, &u);
            // The same through the sine.
            let wrapped = Reparameterized::new(objective);
            let theta = Reparameterized::<NegativeLogSensitivity<'_, f64>>::parameters(&u);
            let gradient = (&wrapped).gradient(&theta).unwrap();
            let at = |by: f64| {
                let mut theta = theta.clone();
                theta[100] += by;
                (&wrapped).cost(&theta).unwrap()
            };
            let slope = (at(1e-6) - at(-1e-6)) / 2e-6;
            prop_assert!((slope - gradient[100]).abs() < 1e-4 * (1.0 + slope.abs()));
            let tie = TieEquations { network: &network, n_tied: k, coordinates };
            let (r, jacobian) = tie.linearize(&u).unwrap();
            let mut moved = u.clone();
            moved[50] += 1e-6;
            let (after, _) = tie.linearize(&moved).unwrap();
            for (row, (after, r)) in jacobian.rows().into_iter().zip(after.iter().zip(&r)) {
                prop_assert!(((after - r) / 1e-6 - row[50]).abs() < 1e-3 * (1.0 + row[50].abs()));
            }
        }
    }

    #[test]
    fn entropy_is_largest_at_a_tie() {
        let (value, slopes) = entropy(&[2.0, 2.0, -50.0, 2.0], 3);
        assert!((value - 3.0_f64.ln()).abs() < 1e-12);
        assert!(slopes.iter().all(|s| s.abs() < 1e-12));
        assert!((relative_spread(&[4.0, -1.0, 3.0], 2) - 0.25).abs() < 1e-15);
        assert!(relative_spread(&[0.0; 3], 3).abs() < 1e-15);
    }
}
