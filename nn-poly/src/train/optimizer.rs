//! The state of an optimizer and its step.

use ndarray::ArrayD;
use serde::{Deserialize, Serialize};

use super::Optimizer;
use crate::autodiff::Gradients;
use crate::layer::{Layer, ParameterKind};

const BETA1: f32 = 0.9;
const BETA2: f32 = 0.999;
const EPSILON: f32 = 1e-8;

/// Moments of every parameter, in the order of the network's parameters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Moments {
    /// Running mean of gradients (momentum of SGD).
    first: Vec<ArrayD<f32>>,
    /// Running mean of squared gradients (empty for SGD).
    second: Vec<ArrayD<f32>>,
}

impl Moments {
    /// All zero.
    pub(super) fn zeros(layers: &[Layer<f32>], optimizer: Optimizer) -> Self {
        let zeros = || -> Vec<ArrayD<f32>> {
            let parameters = layers.iter().flat_map(Layer::parameters);
            parameters.map(|parameter| ArrayD::zeros(parameter.values.raw_dim())).collect()
        };
        let second = match optimizer {
            Optimizer::Sgd { .. } => Vec::new(),
            Optimizer::Adam | Optimizer::AdamW { .. } => zeros(),
        };
        Self { first: zeros(), second }
    }

    /// Whether the moments have the shapes of these layers' parameters and are finite.
    pub(super) fn fits(&self, layers: &[Layer<f32>], optimizer: Optimizer) -> bool {
        let shapes_of = |arrays: &[ArrayD<f32>]| -> Vec<Vec<usize>> {
            arrays.iter().map(|array| array.shape().to_vec()).collect()
        };
        let expected = Self::zeros(layers, optimizer);
        let finite = |array: &ArrayD<f32>| array.iter().all(|value| value.is_finite());
        shapes_of(&self.first) == shapes_of(&expected.first)
            && shapes_of(&self.second) == shapes_of(&expected.second)
            && self.first.iter().chain(&self.second).all(finite)
    }

    /// Apply one step with learning rate `rate`; `step_idx` counts from 0.
    pub(super) fn step(
        &mut self,
        layers: &mut [Layer<f32>],
        gradients: &Gradients<f32>,
        optimizer: Optimizer,
        (rate, step_idx): (f64, u64),
    ) {
        let kinds: Vec<ParameterKind> =
            layers.iter().flat_map(Layer::parameters).map(|parameter| parameter.kind).collect();
        let parameters = layers.iter_mut().flat_map(Layer::parameters_mut);
        let gradients = gradients.layers.iter().flatten();
        let mut second = self.second.iter_mut();
        let rows = parameters.zip(gradients).zip(&mut self.first).zip(kinds);
        for (((mut parameter, gradient), first), kind) in rows {
            let decays = kind == ParameterKind::Weight;
            let (Some(parameter), Some(gradient), Some(first)) =
                (parameter.as_slice_mut(), gradient.as_slice(), first.as_slice_mut())
            else {
                unreachable!("invariant: parameters, gradients and moments are in standard layout")
            };
            match optimizer {
                Optimizer::Sgd { momentum, weight_decay } => {
                    let decay = if decays { single(weight_decay) } else { 0.0 };
                    sgd(parameter, gradient, first, [single(rate), single(momentum), decay]);
                }
                Optimizer::Adam | Optimizer::AdamW { .. } => {
                    let decay = match optimizer {
                        Optimizer::AdamW { weight_decay } if decays => weight_decay,
                        Optimizer::AdamW { .. } | Optimizer::Adam | Optimizer::Sgd { .. } => 0.0,
                    };
                    let second = second.next().and_then(|array| array.as_slice_mut());
                    let second = second.expect("invariant: Adam has two moments per parameter");
                    let factors = AdamFactors::new(rate, decay, step_idx);
                    adam(parameter, gradient, (first, second), &factors);
                }
            }
        }
    }
}

fn sgd(
    parameter: &mut [f32],
    gradient: &[f32],
    velocity: &mut [f32],
    [rate, momentum, decay]: [f32; 3],
) {
    for ((p, &g), v) in parameter.iter_mut().zip(gradient).zip(velocity) {
        *v = momentum * *v + g + decay * *p;
        *p -= rate * *v;
    }
}

/// The numbers of one Adam step that are the same for all parameters.
struct AdamFactors {
    /// `rate / (1 − β₁ᵗ)`.
    rate: f32,
    /// `1 / (1 − β₂ᵗ)`.
    second_correction: f32,
    /// `1 − rate · decay`.
    shrink: f32,
}

impl AdamFactors {
    fn new(rate: f64, decay: f64, step_idx: u64) -> Self {
        let t = i32::try_from(step_idx.saturating_add(1)).unwrap_or(i32::MAX);
        let correction = |beta: f32| 1.0 - f64::from(beta).powi(t);
        Self {
            rate: single(rate / correction(BETA1)),
            second_correction: single(1.0 / correction(BETA2)),
            shrink: single(1.0 - rate * decay),
        }
    }
}

fn adam(
    parameter: &mut [f32],
    gradient: &[f32],
    (first, second): (&mut [f32], &mut [f32]),
    factors: &AdamFactors,
) {
    let moments = first.iter_mut().zip(second);
    for ((p, &g), (m, v)) in parameter.iter_mut().zip(gradient).zip(moments) {
        *m = BETA1 * *m + (1.0 - BETA1) * g;
        *v = BETA2 * *v + (1.0 - BETA2) * g * g;
        let deviation = (*v * factors.second_correction).sqrt() + EPSILON;
        *p = *p * factors.shrink - factors.rate * *m / deviation;
    }
}

#[expect(clippy::cast_possible_truncation, reason = "rounds to nearest")]
fn single(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "tests")]
    use super::*;

    #[test]
    fn the_first_adam_step_has_the_length_of_the_rate() {
        let (mut p, mut m, mut v) = ([1.0, 1.0], [0.0; 2], [0.0; 2]);
        adam(&mut p, &[1e-3, -50.0], (&mut m, &mut v), &AdamFactors::new(0.01, 0.0, 0));
        assert!((p[0] - 0.99).abs() < 1e-5 && (p[1] - 1.01).abs() < 1e-5);
        adam(&mut p, &[0.0; 2], (&mut m, &mut v), &AdamFactors::new(0.01, 0.5, 1));
        assert!(p[0] < 0.99 * 0.995, "decay and momentum pull the same way");
    }

    #[test]
    fn sgd_accumulates_momentum_and_decay() {
        let (mut p, mut v) = ([1.0], [0.0]);
        sgd(&mut p, &[0.5], &mut v, [0.1, 0.9, 0.2]);
        assert!((p[0] - 0.93).abs() < 1e-6);
        sgd(&mut p, &[0.0], &mut v, [0.1, 0.9, 0.0]);
        assert!((p[0] - (0.93 - 0.063)).abs() < 1e-6);
    }
}
