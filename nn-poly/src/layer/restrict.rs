//! Layers without parameters that restrict their input: an upper limit, and dropout.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::parallel::{for_each_chunk, map_chunks2};
use super::{FINITE, Fault, check_parameter};
use crate::tensor::Scalar;

/// `min(x, limit)`: the clamp that the refresh of an encrypted run applies anyway.
///
/// A deep network of squares trains well only if it meets this clamp in training too; a limit of 3
/// (in units of the normalized values) is a good choice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound = "A: Scalar")]
pub struct Clamp<A> {
    /// Largest value that passes.
    pub limit: A,
}

impl<A: Scalar> Clamp<A> {
    pub(super) fn check(&self) -> Result<(), Fault> {
        check_parameter("limit", (&[], &[]), [&self.limit], FINITE)
    }

    pub(super) fn cast<B: Scalar>(&self) -> Clamp<B> {
        Clamp { limit: B::from_f64(self.limit.as_f64()) }
    }

    pub(crate) fn forward(&self, input: &[A], output: &mut [A], sample_len: usize) {
        for_each_chunk((input, sample_len), (output, sample_len), |input, output| {
            for (&x, y) in input.iter().zip(output) {
                *y = if x > self.limit { self.limit } else { x };
            }
        });
    }

    /// Write the gradient of the input: zero where the limit is active.
    pub(crate) fn backward(
        &self,
        input: &[A],
        output_gradient: &[A],
        input_gradient: &mut [A],
        sample_len: usize,
    ) {
        let len = sample_len;
        let target = (input_gradient, len);
        map_chunks2((input, len), (output_gradient, len), target, |input, upstream, gradient| {
            for ((&x, &dy), dx) in input.iter().zip(upstream).zip(gradient) {
                *dx = if x > self.limit { A::zero() } else { dy };
            }
        });
    }
}

/// While training, set each value to zero with probability `rate` and divide the others by
/// `1 − rate`; the identity otherwise.
///
/// # Source
/// Srivastava et al. 2014.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dropout {
    /// Probability of a zero, at least 0 and below 1.
    pub rate: f64,
}

impl Dropout {
    pub(super) fn check(&self) -> Result<(), Fault> {
        let allowed: (&str, fn(f64) -> bool) =
            ("at least 0 and below 1", |rate| (0.0..1.0).contains(&rate));
        check_parameter("rate", (&[], &[]), [&self.rate], allowed)
    }

    /// The factor of every value of a batch: 0 or `1/(1 − rate)`. The same seed, layer and length
    /// give the same mask.
    pub(crate) fn mask<A: Scalar>(self, seed: u64, layer_idx: usize, len: usize) -> Vec<A> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(layer_idx as u64);
        let keep = A::from_f64(1.0 / (1.0 - self.rate));
        (0..len)
            .map(|_| if rng.random::<f32>() < self.threshold() { A::zero() } else { keep })
            .collect()
    }

    #[expect(clippy::cast_possible_truncation, reason = "the rate to single precision")]
    fn threshold(self) -> f32 {
        self.rate as f32
    }
}
