//! Sensitivities against their definition, the published closed form, and finite differences.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use fingerprint::{Error, LayerSelection, Sensitivity, SensitivityOutputs};
use ndarray::{Array1, Axis, array};
use nn_poly::autodiff::{InputGradient, Mode, Tape};
use nn_poly::layer::{Activation, Dense, Layer, ParameterKind};
use nn_poly::network::{ActivationChoice, Architecture, NetworkKind};
use nn_poly::{Network, Shape, Tensor};
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const OUTPUTS: [SensitivityOutputs; 5] = [
    SensitivityOutputs::Logits,
    SensitivityOutputs::Probabilities,
    SensitivityOutputs::TopLogProbabilities(1),
    SensitivityOutputs::TopLogProbabilities(3),
    SensitivityOutputs::SumLogProbabilities(2),
];

/// A small network and an input. `spread` scales the scores and thereby saturates the softmax.
fn subject(seed: u64, kind: NetworkKind, spread: f64) -> (Network<f64>, Array1<f64>) {
    let shape = Shape::image(16, 16, 1).unwrap();
    let activation = ActivationChoice::ALL[usize::try_from(seed % 3).unwrap()];
    let network = Architecture::new(kind, activation).build::<f64>(&shape, 4, seed).unwrap();
    let mut layers = network.into_layers();
    if let Some(Layer::Dense(last)) = layers.last_mut() {
        last.weights *= spread;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5eed);
    let x = Array1::from_shape_simple_fn(shape.len(), || rng.random_range(0.0..1.0));
    (Network::new(shape, layers).unwrap(), x)
}

fn softmax(z: &[f64]) -> Vec<f64> {
    let largest = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let e: Vec<f64> = z.iter().map(|z| (z - largest).exp()).collect();
    let total: f64 = e.iter().sum();
    e.iter().map(|e| e / total).collect()
}

/// `∂φ_c/∂z` by the textbook formulas.
fn rows(outputs: SensitivityOutputs, z: &[f64]) -> Vec<Vec<f64>> {
    let (n, p) = (z.len(), softmax(z));
    let delta = |a: usize, b: usize| if a == b { 1.0 } else { 0.0 };
    let log_row = |c: usize| (0..n).map(|j| delta(c, j) - p[j]).collect::<Vec<f64>>();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| z[b].total_cmp(&z[a]));
    match outputs {
        SensitivityOutputs::Logits => {
            (0..n).map(|c| (0..n).map(|j| delta(c, j)).collect()).collect()
        }
        SensitivityOutputs::Probabilities => {
            (0..n).map(|c| log_row(c).into_iter().map(|g| p[c] * g).collect()).collect()
        }
        SensitivityOutputs::TopLogProbabilities(k) => {
            order.into_iter().take(k).map(log_row).collect()
        }
        SensitivityOutputs::SumLogProbabilities(k) => {
            let sum = |j: usize| (0..k.min(n)).map(|c| delta(c, j) - p[j]).sum();
            vec![(0..n).map(sum).collect()]
        }
        _ => unreachable!("all outputs are listed above"),
    }
}

/// `S` by its definition: one ordinary backward pass per function.
fn reference(
    network: &Network<f64>,
    x: &Array1<f64>,
    outputs: SensitivityOutputs,
    layers: &[usize],
    weights_only: bool,
) -> f64 {
    let batch = Tensor::new(network.input_shape().clone(), x.clone().insert_axis(Axis(0))).unwrap();
    let tape = Tape::forward(network, batch, Mode::Inference).unwrap();
    let z = tape.output().row(0).to_vec();
    let mut sum = 0.0;
    for row in rows(outputs, &z) {
        let row = Array1::from(row).insert_axis(Axis(0));
        let gradients = tape.backward(row, InputGradient::Skipped).unwrap();
        for &layer_idx in layers {
            let parameters = network.layers()[layer_idx].parameters();
            for (gradient, parameter) in gradients.layers[layer_idx].iter().zip(parameters) {
                if !weights_only || parameter.kind == ParameterKind::Weight {
                    sum += gradient.iter().map(|g| g * g).sum::<f64>();
                }
            }
        }
    }
    sum
}

fn assert_close(place: &str, left: f64, right: f64, tolerance: f64) {
    let scale = left.abs().max(right.abs()).max(1e-300);
    assert!((left - right).abs() <= tolerance * scale, "{place}: {left} versus {right}");
}

#[test]
fn values_follow_the_definition() {
    for kind in NetworkKind::ALL {
        for seed in 0..3 {
            let (network, x) = subject(seed, kind, 0.5);
            let n = network.layers().len();
            let first = network.layers().iter().position(|l| !l.parameters().is_empty()).unwrap();
            let all: Vec<usize> = (0..n).collect();
            let cases = [
                (LayerSelection::Last, vec![n - 1], false),
                (LayerSelection::LastWeights, vec![n - 1], true),
                (LayerSelection::All, all, false),
                (LayerSelection::Only(vec![first]), vec![first], false),
            ];
            for outputs in OUTPUTS {
                for (layers, positions, weights_only) in &cases {
                    let sensitivity = Sensitivity::new(&network, layers, outputs).unwrap();
                    let value = sensitivity.value(x.view()).unwrap();
                    let expected = reference(&network, &x, outputs, positions, *weights_only);
                    assert_close(&format!("{kind} {layers:?} {outputs:?}"), value, expected, 1e-9);
                }
            }
        }
    }
}

#[test]
fn the_closed_form_agrees_with_differentiation() {
    for seed in 0..6 {
        for spread in [0.3, 3.0, 30.0] {
            let (network, x) = subject(seed, NetworkKind::ALL[0], spread);
            for outputs in OUTPUTS {
                for layers in [LayerSelection::Last, LayerSelection::LastWeights] {
                    let fast = Sensitivity::new(&network, &layers, outputs).unwrap();
                    let slow = fast.clone().without_closed_form();
                    let place = format!("seed {seed}, spread {spread}, {outputs:?}");
                    let (fast, fast_gradient) = fast.log_value_and_gradient(x.view()).unwrap();
                    let (slow, slow_gradient) = slow.log_value_and_gradient(x.view()).unwrap();
                    assert!((fast - slow).abs() < 1e-9, "{place}: {fast} versus {slow}");
                    let difference = (&fast_gradient - &slow_gradient).mapv(|d| d * d).sum().sqrt();
                    let norm = fast_gradient.mapv(|g| g * g).sum().sqrt();
                    assert!(difference <= 1e-8 * (norm + 1e-6), "{place}: {difference} of {norm}");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_published_closed_form(z in proptest::collection::vec(-4.0_f64..4.0, 2..12)) {
        // A network that is one dense layer: h = x.
        let n = z.len();
        let weights = ndarray::Array2::zeros((n, 3));
        let layer = Layer::Dense(Dense::new(weights, Array1::from(z.clone())));
        let network = Network::new(Shape::vector(3).unwrap(), vec![layer]).unwrap();
        let x = array![0.5, -1.0, 2.0];
        let probabilities = SensitivityOutputs::Probabilities;
        let sensitivity =
            Sensitivity::new(&network, &LayerSelection::Last, probabilities).unwrap();
        let p = softmax(&z);
        let power = |k: i32| p.iter().map(|p| p.powi(k)).sum::<f64>();
        let expected = 6.25 * (power(2) - 2.0 * power(3) + power(2) * power(2));
        let value = sensitivity.value(x.view()).unwrap();
        prop_assert!((value - expected).abs() <= 1e-12 + 1e-9 * expected, "{value} {expected}");
    }

    #[test]
    fn gradients_are_those_of_differences(
        seed in 0_u64..1000, kind in 0_usize..4, outputs in 0_usize..5, spread in 0.2_f64..3.0,
        layers in 0_usize..3,
    ) {
        let kind = NetworkKind::ALL[kind % NetworkKind::ALL.len()];
        let (network, x) = subject(seed, kind, spread);
        let layers =
            [LayerSelection::Last, LayerSelection::LastWeights, LayerSelection::All][layers].clone();
        let sensitivity = Sensitivity::new(&network, &layers, OUTPUTS[outputs]).unwrap();
        let (_, gradient) = sensitivity.log_value_and_gradient(x.view()).unwrap();
        let scale = gradient.fold(1e-3_f64, |largest, g| largest.max(g.abs()));
        for position in (0..x.len()).step_by(29) {
            // A kink of ReLU inside the step mixes two slopes: a shorter step then decides.
            let slope = |step: f64| {
                let at = |by: f64| {
                    let mut x = x.clone();
                    x[position] += by;
                    sensitivity.log_value(x.view()).unwrap()
                };
                (at(step) - at(-step)) / (2.0 * step)
            };
            let agrees = [(1e-5, 1e-5), (1e-6, 1e-4), (1e-7, 1e-3)].into_iter().any(
                |(step, tolerance)| (slope(step) - gradient[position]).abs() <= tolerance * scale,
            );
            prop_assert!(agrees, "{} versus {}", gradient[position], slope(1e-6));
        }
    }
}

/// With a margin of 500 the sensitivity itself is below the smallest double; its logarithm falls by
/// twice the margin, and the gradient still points at the boundary.
#[test]
fn saturated_scores_keep_their_gradient() {
    let weights = array![[1000.0, 0.0], [0.0, 0.0], [0.0, -300.0]];
    let layer = Layer::Dense(Dense::new(weights, Array1::zeros(3)));
    let network = Network::new(Shape::vector(2).unwrap(), vec![layer]).unwrap();
    let sensitivity =
        Sensitivity::new(&network, &LayerSelection::Last, SensitivityOutputs::Probabilities)
            .unwrap();
    let x = array![0.5, 1.0];
    let (value, gradient) = sensitivity.log_value_and_gradient(x.view()).unwrap();
    // S = (‖h‖² + 1)·4·p₂² with log p₂ = −500, to first order.
    assert_close("log S", value, 2.25_f64.ln() + 4.0_f64.ln() - 1000.0, 1e-12);
    assert_close("∂/∂x₀", gradient[0], -2000.0 + 1.0 / 2.25, 1e-12);
    assert_eq!(sensitivity.value(x.view()).unwrap(), 0.0);
    let slow = sensitivity.without_closed_form().log_value_and_gradient(x.view()).unwrap();
    assert_close("by differentiation", slow.0, value, 1e-12);
    assert_close("by differentiation", slow.1[0], gradient[0], 1e-9);
}

#[test]
fn impossible_sensitivities_are_refused() {
    let relu = || Layer::Activation(Activation::Relu);
    let plain = Network::<f64>::new(Shape::vector(3).unwrap(), vec![relu()]).unwrap();
    let logits = SensitivityOutputs::Logits;
    assert!(matches!(
        Sensitivity::new(&plain, &LayerSelection::All, logits),
        Err(Error::UnsuitableNetwork { .. })
    ));
    assert!(matches!(
        Sensitivity::new(&plain, &LayerSelection::Last, logits),
        Err(Error::Network(_))
    ));
    let (network, x) = subject(0, NetworkKind::ALL[0], 1.0);
    for (layers, outputs) in [
        (LayerSelection::Only(vec![999]), logits),
        (LayerSelection::Last, SensitivityOutputs::TopLogProbabilities(0)),
    ] {
        assert!(Sensitivity::new(&network, &layers, outputs).is_err());
    }
    let sensitivity = Sensitivity::new(&network, &LayerSelection::Last, logits).unwrap();
    assert!(sensitivity.value(x.slice_axis(Axis(0), (..5).into())).is_err());
    let single = Layer::Dense(Dense::new(ndarray::Array2::zeros((1, 3)), Array1::zeros(1)));
    let single = Network::<f64>::new(Shape::vector(3).unwrap(), vec![single]).unwrap();
    assert!(Sensitivity::new(&single, &LayerSelection::Last, logits).is_err());
}
