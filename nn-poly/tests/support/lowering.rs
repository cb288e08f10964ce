//! From float networks to integers, and what must agree on the way.

use ndarray::Array2;
use nn_poly::import::Preprocessing;
use nn_poly::model::Bits;
use nn_poly::quantize::{Quantized, calibrate, prepare_qat, quantize};
use nn_poly::{Network, Result, Shape};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub(crate) fn inputs(shape: &Shape, n: usize, seed: u64) -> Array2<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    Array2::from_shape_simple_fn((n, shape.len()), || rng.random_range(0.0..=1.0))
}

pub(crate) fn bits(n: u32) -> Bits {
    Bits::new(n, n, n).unwrap()
}

/// Calibrate, prepare and lower; also the network with quantizers.
pub(crate) fn quantized(network: &Network<f32>, bits: Bits) -> Result<(Network<f32>, Quantized)> {
    let data = inputs(network.input_shape(), 120, 1);
    let spec = calibrate(network, &Preprocessing::UnitRange, &data, bits)?;
    let prepared = prepare_qat(network, &spec)?;
    // Preparing again finds the same blocks and replaces their grids.
    assert_eq!(prepare_qat(&prepared, &spec)?, prepared);
    let quantized = quantize(&prepared)?;
    Ok((prepared, quantized))
}

/// Scores are those of the network with quantizers but for rounding; the definition agrees exactly.
pub(crate) fn check(name: &str, network: &Network<f32>, bits: Bits) -> Result<Quantized> {
    let (prepared, quantized) = quantized(network, bits)?;
    let data = inputs(network.input_shape(), 40, 2);
    let integers = quantized.network.input().quantize(data.view()).unwrap();
    let trace = quantized.network.trace(&integers).unwrap();
    let expected = prepared.outputs(&data).unwrap();
    let spread = expected.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
    let mut total = 0.0;
    for ((class, sample), &score) in trace.scores.indexed_iter() {
        let difference = (score as f32 * quantized.score_step - expected[[sample, class]]).abs();
        assert!(difference <= 0.1 * spread + 1e-6, "{name}: {difference} of {spread}");
        total += difference;
    }
    let mean = total / trace.scores.len() as f32;
    assert!(mean <= 0.02 * spread + 1e-6, "{name}: mean difference {mean} of {spread}");
    for sample in 0..integers.ncols() {
        let stages = quantized.network.reference(&integers.column(sample).to_vec(), &[]).unwrap();
        assert_eq!(stages.last().unwrap().pooled, trace.scores.column(sample).to_vec(), "{name}");
    }
    Ok(quantized)
}
