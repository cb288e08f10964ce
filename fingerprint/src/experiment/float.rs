//! The same network on other honest float stacks: what a false alarm would be made of.

use core::fmt;

use ndarray::{Array2, Axis};
use nn_poly::{Network, Predictor};

use super::permutation::permuted;
use crate::endpoint::{Answers, ScoreKind};
use crate::error::Result;

/// A way to compute the same network that rounds differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FloatVariant {
    /// Everything in 64 bits.
    DoublePrecision,
    /// One sample at a time: other shapes of matrix products.
    OneByOne,
    /// Batch normalization merged into the layers before it.
    FoldedBatchNorm,
    /// Hidden neurons and channels in another order: the same function, sums taken in another order.
    PermutedNeurons {
        /// Seed of the permutations.
        seed: u64,
    },
}

impl FloatVariant {
    /// The variants that false alarms are measured on: 64 bits, one by one, folded, three permutations.
    pub const ALL: [Self; 6] = [
        Self::DoublePrecision,
        Self::OneByOne,
        Self::FoldedBatchNorm,
        Self::PermutedNeurons { seed: 1 },
        Self::PermutedNeurons { seed: 2 },
        Self::PermutedNeurons { seed: 3 },
    ];
}

impl fmt::Display for FloatVariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DoublePrecision => f.write_str("64-bit floats"),
            Self::OneByOne => f.write_str("one sample at a time"),
            Self::FoldedBatchNorm => f.write_str("folded batch normalization"),
            Self::PermutedNeurons { seed } => write!(f, "permuted neurons ({seed})"),
        }
    }
}

/// What honest endpoints that compute in these ways answer to `inputs`, `(samples, features)`.
///
/// Cost: six evaluations of the network.
///
/// # Errors
/// - [`Error::Network`](crate::Error::Network) if the inputs do not fit the network.
pub fn float_variants(
    network: &Network<f32>,
    inputs: &Array2<f32>,
) -> Result<Vec<(FloatVariant, Answers)>> {
    FloatVariant::ALL
        .into_iter()
        .map(|variant| {
            let values = match variant {
                FloatVariant::DoublePrecision => {
                    network.cast::<f64>()?.outputs(&inputs.mapv(f64::from))?
                }
                FloatVariant::OneByOne => {
                    let mut scores = Array2::zeros((inputs.nrows(), network.n_classes()));
                    for (sample, mut row) in inputs
                        .axis_chunks_iter(Axis(0), 1)
                        .zip(scores.axis_chunks_iter_mut(Axis(0), 1))
                    {
                        row.assign(&network.scores(&sample.to_owned())?);
                    }
                    scores
                }
                FloatVariant::FoldedBatchNorm => network.fold_batch_norm()?.scores(inputs)?,
                FloatVariant::PermutedNeurons { seed } => {
                    permuted(network, seed)?.scores(inputs)?
                }
            };
            Ok((variant, Answers::Scores { values, kind: ScoreKind::Logits }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use nn_poly::Shape;
    use nn_poly::network::{ActivationChoice, Architecture, NetworkKind};
    use rand::Rng;

    use super::super::draws::stream;
    use super::*;

    #[test]
    fn every_variant_is_the_same_function_but_not_the_same_bits() {
        for (kind, shape) in [
            (NetworkKind::Cryptonets, Shape::image(12, 12, 1).unwrap()),
            (NetworkKind::Securedl, Shape::image(20, 20, 3).unwrap()),
            (NetworkKind::Mlp, Shape::vector(9).unwrap()),
        ] {
            for activation in ActivationChoice::ALL {
                let network: Network<f32> =
                    Architecture::new(kind, activation).build(&shape, 4, 5).unwrap();
                let mut rng = stream(3, 1);
                let inputs = Array2::from_shape_simple_fn((6, shape.len()), || rng.random::<f32>());
                let reference = network.scores(&inputs).unwrap();
                let largest = reference.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
                for (variant, answers) in float_variants(&network, &inputs).unwrap() {
                    let Answers::Scores { values, .. } = answers else { panic!("scores") };
                    for (a, b) in reference.iter().zip(&values) {
                        assert!((a - b).abs() <= 1e-4 * largest, "{kind} {activation} {variant}");
                    }
                    if matches!(variant, FloatVariant::DoublePrecision) {
                        assert_ne!(reference, values, "{kind} {activation}");
                    }
                }
                assert_ne!(permuted(&network, 1).unwrap(), network, "{kind} {activation}");
            }
        }
    }
}
