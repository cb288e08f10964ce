//! Time per sample of every generator, and of what it is made of, on networks of the sizes in use.
//!
//! `cargo bench -p securedl-fingerprint --bench generate`. Weights are random: time per step does not
//! depend on them, but the number of steps until a tie does.

#![allow(missing_docs, clippy::unwrap_used, reason = "benchmarks")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use fingerprint::{
    GenerateSpec, GeneratorKind, InputGrid, LayerSelection, NoProgress, SelectionFeatures,
    SelectionRule, Sensitivity, SensitivityOutputs, generate, select,
};
use ndarray::Array2;
use nn_poly::network::{ActivationChoice, Architecture, NetworkKind};
use nn_poly::{Network, Shape};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// `securedl` networks for digits and for small color images, and inputs of theirs.
fn subjects() -> Vec<(&'static str, Network<f32>, Array2<f32>)> {
    let rng = &mut ChaCha8Rng::seed_from_u64(1);
    [("28x28x1", Shape::image(28, 28, 1).unwrap()), ("32x32x3", Shape::image(32, 32, 3).unwrap())]
        .into_iter()
        .map(|(name, shape)| {
            let architecture = Architecture::new(NetworkKind::Securedl, ActivationChoice::Square);
            let network = architecture.build::<f32>(&shape, 10, 3).unwrap();
            let network = network.fold_batch_norm().unwrap_or(network);
            let starts =
                Array2::from_shape_simple_fn((64, shape.len()), || rng.random_range(0.0..1.0));
            (name, network, starts)
        })
        .collect()
}

fn derivatives(c: &mut Criterion) {
    for (name, network, starts) in subjects() {
        let network = network.cast::<f64>().unwrap();
        let x = starts.row(0).mapv(f64::from);
        for (what, layers) in [("last", LayerSelection::Last), ("all", LayerSelection::All)] {
            let outputs = SensitivityOutputs::Probabilities;
            let sensitivity = Sensitivity::new(&network, &layers, outputs).unwrap();
            c.bench_function(&format!("sensitivity/{what}/{name}"), |b| {
                b.iter(|| sensitivity.log_value_and_gradient(black_box(x.view())).unwrap());
            });
        }
    }
}

fn generators(c: &mut Criterion) {
    let mut group = c.benchmark_group("generate");
    group.sample_size(10).measurement_time(Duration::from_secs(3));
    for (name, network, starts) in subjects() {
        for kind in GeneratorKind::ALL.into_iter().filter(|kind| kind.is_sensitive()) {
            let config = GenerateSpec::new(kind, 1, 1, InputGrid::bytes()).check().unwrap();
            group.bench_function(format!("{kind}/{name}"), |b| {
                b.iter(|| generate(&network, &starts, black_box(&config), &NoProgress).unwrap());
            });
        }
    }
    group.finish();
}

fn selection(c: &mut Criterion) {
    let (_, network, starts) = subjects().swap_remove(0);
    let spec = GenerateSpec::new(GeneratorKind::Random, 500, 1, InputGrid::bytes());
    let bag = generate(&network, &starts, &spec.check().unwrap(), &NoProgress).unwrap();
    let features = SelectionFeatures::new(&network, &bag).unwrap();
    for rule in SelectionRule::ALL {
        let rng = &mut ChaCha8Rng::seed_from_u64(2);
        c.bench_function(&format!("select/{rule}/8 of 500"), |b| {
            b.iter(|| select(rule, black_box(&features), 8, None, rng));
        });
    }
}

criterion_group!(benches, derivatives, generators, selection);
criterion_main!(benches);
