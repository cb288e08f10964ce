//! Rounding to integer grids inside a float network, for quantization-aware training.
//!
//! Both kinds round half up, `⌊x + 1/2⌋`, exactly as the integer network does.

use ndarray::{Array, Array1, ArrayView1, Axis, Dimension, RemoveAxis};
use serde::{Deserialize, Serialize};

use super::parallel::{for_each_chunk, map_chunks2};
use super::{Fault, POSITIVE, cast_array, check_parameter};
use crate::tensor::{Scalar, Shape};

/// Weights of a layer restricted to `s · {−(2^(bits−1)−1), …, 2^(bits−1)−1}`.
///
/// The forward pass uses `clamp(⌊w/s + 1/2⌋) · s`; the gradient passes straight through to the stored
/// weights, also where the clamp is active, so that a clamped weight can come back.
///
/// # Source
/// Straight-through estimation: Bengio, Léonard and Courville 2013.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound = "A: Scalar")]
pub struct WeightQuantizer<A> {
    /// Grid step per output channel, or one step for the whole layer (length 1). Positive.
    pub scales: Array1<A>,
    /// Bits of a signed weight, 2 to 15.
    pub bits: u32,
}

impl<A: Scalar> WeightQuantizer<A> {
    /// Largest integer weight: `2^(bits−1) − 1`.
    #[must_use]
    pub fn max_integer(&self) -> i32 {
        (1_i32 << (self.bits.clamp(2, 15) - 1)) - 1
    }

    /// Step of output channel `channel`.
    pub(crate) fn scale(&self, channel: usize) -> A {
        per_channel(self.scales.view(), channel)
    }

    /// The weights as the forward pass uses them; the first axis is the output channel.
    #[must_use]
    pub fn quantize<D: Dimension + RemoveAxis>(&self, weights: &Array<A, D>) -> Array<A, D> {
        let max = A::from_f64(f64::from(self.max_integer()));
        let mut quantized = weights.clone();
        for (channel, mut row) in quantized.axis_iter_mut(Axis(0)).enumerate() {
            let scale = self.scale(channel);
            row.mapv_inplace(|w| round_half_up(w / scale).max(-max).min(max) * scale);
        }
        quantized
    }

    pub(super) fn check(&self, n_outputs: usize) -> Result<(), Fault> {
        if !(2..=15).contains(&self.bits) {
            return Err(Fault::ParameterValue {
                field: "weight_quantizer.bits",
                position: 0,
                value: f64::from(self.bits),
                requirement: "between 2 and 15",
            });
        }
        check_scales("weight_quantizer.scales", &self.scales, n_outputs)
    }

    pub(super) fn cast<B: Scalar>(&self) -> WeightQuantizer<B> {
        WeightQuantizer { scales: cast_array(&self.scales), bits: self.bits }
    }
}

/// Values rounded to `step · {min, …, max}`: `clamp(⌊x/step + 1/2⌋, min, max) · step`.
///
/// The gradient passes straight through where the rounded value is inside the grid and is zero where
/// the clamp is active.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound = "A: Scalar")]
pub struct Quantize<A> {
    /// Grid step per channel (last axis), or one step for all (length 1). Positive.
    pub steps: Array1<A>,
    /// Smallest integer.
    pub min: i32,
    /// Largest integer; above `min`.
    pub max: i32,
}

impl<A: Scalar> Quantize<A> {
    pub(super) fn check(&self, input: &Shape) -> Result<(), Fault> {
        if self.min >= self.max {
            return Err(Fault::ParameterValue {
                field: "max",
                position: 0,
                value: f64::from(self.max),
                requirement: "greater than min",
            });
        }
        check_scales("steps", &self.steps, input.channels())
    }

    pub(super) fn cast<B: Scalar>(&self) -> Quantize<B> {
        Quantize { steps: cast_array(&self.steps), min: self.min, max: self.max }
    }

    pub(crate) fn forward(&self, input: &[A], output: &mut [A], sample_len: usize) {
        let (min, max) = self.limits();
        let channel_steps = ChannelSteps::new(&self.steps);
        for_each_chunk((input, sample_len), (output, sample_len), |input, output| {
            channel_steps.for_each_row(input, output, |x, step, y| {
                *y = round_half_up(x / step).max(min).min(max) * step;
            });
        });
    }

    /// Replace the gradient at the output by the gradient at the input.
    pub(crate) fn backward(
        &self,
        input: &[A],
        output_gradient: &[A],
        input_gradient: &mut [A],
        sample_len: usize,
    ) {
        let (min, max) = self.limits();
        let channel_steps = ChannelSteps::new(&self.steps);
        let len = sample_len;
        map_chunks2(
            (input, len),
            (output_gradient, len),
            (input_gradient, len),
            |input, upstream, gradient| {
                gradient.copy_from_slice(upstream);
                channel_steps.for_each_row(input, gradient, |x, step, g| {
                    let integer = round_half_up(x / step);
                    if integer < min || integer > max {
                        *g = A::zero();
                    }
                });
            },
        );
    }

    fn limits(&self) -> (A, A) {
        (A::from_f64(f64::from(self.min)), A::from_f64(f64::from(self.max)))
    }
}

/// Pairs every value of channel-last rows with its channel's step.
struct ChannelSteps<A>(Vec<A>);

impl<A: Scalar> ChannelSteps<A> {
    /// Rows shorter than this would spend their time on loop overhead.
    const MIN_ROW: usize = 64;

    fn new(steps: &Array1<A>) -> Self {
        let steps = steps.to_vec();
        let repeats = Self::MIN_ROW.div_ceil(steps.len().max(1));
        // A longer row of repeated steps is only valid if chunks still start at channel 0, which they
        // do: a chunk holds whole samples and a sample holds whole rows.
        Self(steps.repeat(repeats))
    }

    fn for_each_row(&self, left: &[A], right: &mut [A], kernel: impl Fn(A, A, &mut A)) {
        let row_len = self.0.len();
        for (left, right) in left.chunks(row_len).zip(right.chunks_mut(row_len)) {
            for ((&x, y), &step) in left.iter().zip(right).zip(&self.0) {
                kernel(x, step, y);
            }
        }
    }
}

/// `⌊x + 1/2⌋`, the rounding rule of the integer network.
pub(crate) fn round_half_up<A: Scalar>(x: A) -> A {
    (x + A::from_f64(0.5)).floor()
}

/// Entry `channel` of an array that has one entry per channel, or one for all.
pub(crate) fn per_channel<A: Scalar>(values: ArrayView1<'_, A>, channel: usize) -> A {
    values.get(channel).or_else(|| values.first()).copied().unwrap_or_else(A::one)
}

fn check_scales<A: Scalar>(
    field: &'static str,
    scales: &Array1<A>,
    n_channels: usize,
) -> Result<(), Fault> {
    let expected = if scales.len() == 1 { 1 } else { n_channels };
    check_parameter(field, (&[expected], scales.shape()), scales, POSITIVE)
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn weights_round_half_up_and_clamp_symmetrically() {
        let quantizer = WeightQuantizer { scales: array![0.5, 1.0], bits: 3 };
        let weights = array![[0.25, -0.25, 9.0], [-0.5, 0.49, -9.0]];
        let expected = array![[0.5, 0.0, 1.5], [0.0, 0.0, -3.0]];
        assert_eq!(quantizer.quantize(&weights), expected);
    }

    #[test]
    fn values_round_per_channel_and_stop_the_gradient_outside() {
        let quantize = Quantize { steps: array![0.5, 2.0], min: 0, max: 3 };
        let input = [0.74, 0.9, -1.0, 5.0, 1.7, 7.5];
        let mut output = [0.0; 6];
        quantize.forward(&input, &mut output, 6);
        assert_eq!(output, [0.5, 0.0, 0.0, 6.0, 1.5, 6.0]);
        let mut gradient = [0.0; 6];
        quantize.backward(&input, &[1.0; 6], &mut gradient, 6);
        assert_eq!(gradient, [1.0, 1.0, 0.0, 1.0, 1.0, 0.0]);
    }
}
