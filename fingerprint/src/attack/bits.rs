//! Flipped bits, as by a fault in memory.
//!
//! # Source
//! Rakin, He and Fan 2019, "Bit-Flip Attack", flips bits of 8-bit integer weights; here they are drawn
//! at random instead of searched for, which is the harder case for a detector.

use nn_poly::network::Network;
use rand::{Rng, RngCore};

use super::weights::{self, WeightTensor, draw_place, grid_step, whole};
use super::{Aftermath, AttackData, AttackSuccess, Method, Tools};
use crate::error::Result;

/// Bits of an integer weight, unless the layer has a grid of its own.
const INTEGER_BITS: u32 = 8;
/// Draws of a bit whose flip leaves the weight finite, before a weight is given up. At most 8 of 32
/// bits can do otherwise.
const MAX_DRAWS: u32 = 64;

#[derive(Clone, Copy, Debug)]
enum Encoding {
    Float,
    Integer,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct BitFlip {
    encoding: Encoding,
    n_bits: u32,
}

impl BitFlip {
    pub(super) fn float(n_bits: f64) -> Self {
        Self { encoding: Encoding::Float, n_bits: whole(n_bits) }
    }

    pub(super) fn integer(n_bits: f64) -> Self {
        Self { encoding: Encoding::Integer, n_bits: whole(n_bits) }
    }
}

fn flip_float(tensors: &mut [WeightTensor<'_>], rng: &mut dyn RngCore) {
    for _ in 0..MAX_DRAWS {
        let (tensor_idx, offset) = draw_place(tensors, rng);
        let bit = rng.random_range(0..32_u32);
        let weight = tensors.get_mut(tensor_idx).and_then(|t| t.values.get_mut(offset));
        if let Some(weight) = weight {
            let flipped = f32::from_bits(weight.to_bits() ^ (1 << bit));
            if flipped.is_finite() {
                *weight = flipped;
                return;
            }
        }
    }
}

/// Flip a bit of a two's complement integer of `bits` bits.
fn flip_integer(value: i32, bits: u32, bit: u32) -> i32 {
    let shift = 32 - bits;
    ((value ^ (1 << bit)) << shift) >> shift
}

/// Flip one bit of the integer form of one weight; `scales` are the steps of the tensors' grids
/// before any flip.
fn flip_one(tensors: &mut [WeightTensor<'_>], scales: &[f32], rng: &mut dyn RngCore) {
    let (tensor_idx, offset) = draw_place(tensors, rng);
    let Some(tensor) = tensors.get_mut(tensor_idx) else { return };
    let bits = tensor.quantizer.as_ref().map_or(INTEGER_BITS, |quantizer| quantizer.bits);
    let bit = rng.random_range(0..bits);
    let step = match &tensor.quantizer {
        Some(_) => tensor.step(offset, bits),
        None => scales.get(tensor_idx).copied().unwrap_or(1.0),
    };
    let is_quantized = tensor.quantizer.is_some();
    let Some(weight) = tensor.values.get_mut(offset) else { return };
    let limit = weights::max_integer(bits);
    #[expect(clippy::cast_possible_truncation, reason = "an integer of at most 15 bits")]
    let code = (*weight / step + 0.5).floor().clamp(-limit - 1.0, limit) as i32;
    let flipped = flip_integer(code, bits, bit);
    #[expect(clippy::cast_precision_loss, reason = "integers of at most 16 bits")]
    let (flipped, difference) = (flipped as f32, (flipped - code) as f32);
    // Only the flip changes: a weight off the grid keeps its distance to it.
    *weight = if is_quantized { flipped * step } else { *weight + difference * step };
}

impl Method for BitFlip {
    fn tamper(
        &self,
        deployed: &Network<f32>,
        _: &AttackData<'_>,
        tools: &mut Tools<'_>,
    ) -> Result<Network<f32>> {
        weights::edit(deployed, |tensors| {
            let scales: Vec<f32> =
                tensors.iter().map(|t| grid_step(t.max_abs(), INTEGER_BITS)).collect();
            for _ in 0..self.n_bits {
                match self.encoding {
                    Encoding::Float => flip_float(tensors, tools.rng),
                    Encoding::Integer => flip_one(tensors, &scales, tools.rng),
                }
            }
        })
    }

    fn success(&self, aftermath: &Aftermath<'_>) -> Result<Option<AttackSuccess>> {
        Ok(Some(aftermath.changed_scores(1.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_flip_in_twos_complement() {
        for (value, bits, bit, expected) in [
            (0, 8, 7, -128),
            (-128, 8, 7, 0),
            (127, 8, 0, 126),
            (-1, 8, 0, -2),
            (7, 4, 3, -1),
            (-7, 4, 3, 1),
            (5, 4, 1, 7),
        ] {
            assert_eq!(flip_integer(value, bits, bit), expected);
            assert_eq!(flip_integer(expected, bits, bit), value);
        }
    }
}
