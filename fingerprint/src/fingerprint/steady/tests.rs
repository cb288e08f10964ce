#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

use ndarray::{Array2, array};
use nn_poly::Shape;
use nn_poly::layer::{Activation, Dense, Layer, Quantize};
use proptest::prelude::*;

use super::*;
use crate::fingerprint::tests::{grid, model};
use crate::generate::GeneratorKind;
use crate::sample::SampleInfo;

fn bag(inputs: Array2<f32>, labels: &[u32]) -> SampleBag {
    let info = |&label: &u32| SampleInfo {
        source: None,
        label,
        margin: 0.0,
        log_sensitivity: 0.0,
        tied: vec![],
    };
    let samples = labels.iter().map(info).collect();
    SampleBag { inputs, generator: GeneratorKind::Random, seed: 0, samples }
}

#[test]
fn samples_with_another_label_or_a_narrow_margin_are_left_out() {
    let network = model(2.0).spec().network.clone();
    let inputs = array![[0.0, 0.5, 1.0], [0.25, 0.75, 0.5], [0.5, 0.5, 0.5]];
    let sifted = sift_for_model(&network, &bag(inputs, &[1, 0, 1]), &grid(), 1e-5).unwrap();
    assert_eq!((sifted.bag.len(), sifted.n_narrow, sifted.n_unsteady), (2, 1, 0));
    assert_eq!(sifted.clone().at_least(2).unwrap(), sifted);
    let error = sifted.clone().at_least(3).unwrap_err();
    assert!(matches!(error, Error::TooFewSteady { left: 2, generated: 3, wanted: 3, .. }));
    assert_eq!(sifted.bag.inputs, array![[0.0, 0.5, 1.0], [0.5, 0.5, 0.5]]);
    assert!(sift_for_model(&network, &bag(array![[0.0, 0.5, 1.0]], &[1]), &grid(), 0.1).is_err());
}

/// A network that rounds its hidden neurons, tenths of the sum of its inputs, to whole tenths.
fn rounding_network() -> Network<f32> {
    let shape = Shape::vector(40).unwrap();
    let weights = Array2::from_elem((6, 40), 0.1);
    let quantize = Quantize { steps: array![0.1], min: -20, max: 20 };
    let last = Array2::from_shape_fn((3, 6), |(i, j)| ((5 * i + j) % 7) as f32 - 3.0);
    let layers = vec![
        Layer::Dense(Dense::new(weights, ndarray::Array1::zeros(6))),
        Layer::Quantize(quantize),
        Layer::Activation(Activation::Square),
        Layer::Dense(Dense::new(last, array![0.0, 0.25, 0.5])),
    ];
    Network::new(shape, layers).unwrap()
}

/// Ten pairs that sum to 1 each, and 0.5 (every other sample) or 0.75: at the edge of two roundings
/// between layers, or not.
fn edge_levels(sample: usize, feature: usize) -> u32 {
    let first = ((sample * sample + 17 * sample * (feature / 2) + 5 * feature) % 21) as u32;
    let partner = || edge_levels(sample, feature - 1);
    match feature {
        20 => {
            if sample.is_multiple_of(2) {
                10
            } else {
                15
            }
        }
        21.. => 0,
        _ if feature.is_multiple_of(2) => first,
        _ => 20 - partner(),
    }
}

/// Samples at the edge of a rounding between layers come out differently by the errors of floats
/// alone; those that are left do not.
#[test]
fn samples_at_the_edge_of_a_rounding_between_layers_are_left_out() {
    let network = rounding_network();
    let grid = InputGrid::new(0.0, 1.0, 20).unwrap();
    let levels = Array2::from_shape_fn((300, 40), |(i, j)| edge_levels(i, j));
    let inputs = grid.values(levels.view());
    let truth = network.cast::<f64>().unwrap().outputs(&inputs.mapv(f64::from)).unwrap();
    let labels = Answers::Scores { values: truth, kind: ScoreKind::Logits }.labels();
    let sifted = sift_for_model(&network, &bag(inputs, &labels), &grid, 0.0).unwrap();
    let (kept, n_unsteady) = (sifted.bag.len(), sifted.n_unsteady);
    assert_eq!(sifted.n_narrow, 0);
    assert!((20..=150).contains(&n_unsteady) && kept >= 150, "{n_unsteady}");
    let kept: Vec<u32> = sifted.bag.samples.iter().map(|info| info.label).collect();
    for (variant, answers) in float_variants(&network, &sifted.bag.inputs).unwrap() {
        assert_eq!(answers.labels(), kept, "{variant}");
    }
}

proptest! {
    #[test]
    fn exact_and_float_margins_are_the_same(row in prop::collection::vec(-1000_i64..1000, 0..6)) {
        let integers = Array2::from_shape_vec((1, row.len()), row).unwrap();
        let floats = integers.mapv(|z| z as f64);
        prop_assert_eq!(integer_margin(integers.row(0)), float_margin(floats.row(0)));
    }
}
