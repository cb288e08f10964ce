//! Weights changed directly, without any training.
//!
//! # Source
//! Xu et al. 2020, section 5.2.4: standard normal noise on 0.1 % to 80 % of the weights. Small noise on
//! all weights and single weights are our own.

use nn_poly::network::Network;
use rand::seq::index;
use rand::{Rng, RngCore};

use super::weights::{self, WeightTensor, count_of, single, standard_normal};
use super::{Aftermath, AttackData, AttackSuccess, Method, Tools};
use crate::error::Result;

/// Bits of the grid whose step is the unit of a single weight's change.
const SINGLE_BITS: u32 = 4;

#[derive(Clone, Debug)]
pub(super) enum Perturb {
    /// `w + N(0, 1)` for a share of all weights.
    Arbitrary { share: f64 },
    /// `w + N(0, (s σ)²)` for all weights, with `σ` the deviation of the layer's weights.
    Noise { relative_deviation: f64 },
    /// One weight moved by so many steps up or down.
    Single { steps: f64 },
}

fn add_arbitrary(tensors: &mut [WeightTensor<'_>], share: f64, rng: &mut dyn RngCore) {
    let n_weights: usize = tensors.iter().map(|tensor| tensor.values.len()).sum();
    let mut chosen = index::sample(rng, n_weights, count_of(share, n_weights)).into_vec();
    chosen.sort_unstable();
    for index in chosen {
        let (tensor_idx, offset) = weights::place(tensors, index);
        let weight = tensors.get_mut(tensor_idx).and_then(|t| t.values.get_mut(offset));
        if let Some(weight) = weight {
            *weight = single(f64::from(*weight) + standard_normal(rng));
        }
    }
}

fn add_noise(tensors: &mut [WeightTensor<'_>], relative_deviation: f64, rng: &mut dyn RngCore) {
    for tensor in tensors {
        let deviation = relative_deviation * tensor.deviation();
        for weight in tensor.values.iter_mut() {
            *weight = single(f64::from(*weight) + deviation * standard_normal(rng));
        }
    }
}

/// Move one weight by `steps` steps of its grid, in the direction in which there is room.
fn move_one(tensors: &mut [WeightTensor<'_>], steps: f64, rng: &mut dyn RngCore) {
    let (tensor_idx, offset) = weights::draw_place(tensors, rng);
    let goes_up: bool = rng.random();
    let Some(tensor) = tensors.get_mut(tensor_idx) else { return };
    let step = f64::from(tensor.step(offset, SINGLE_BITS));
    let quantizer = tensor.quantizer.clone();
    let Some(weight) = tensor.values.get_mut(offset) else { return };
    let start = f64::from(*weight);
    let sign = if goes_up { 1.0 } else { -1.0 };
    *weight = single(match quantizer {
        None => start + sign * step * steps,
        // From grid point to grid point: the stored weight may lie anywhere between.
        Some(quantizer) => {
            let limit = f64::from(quantizer.max_integer());
            let point = (start / step + 0.5).floor().clamp(-limit, limit);
            let moved = point + sign * steps;
            let moved = if moved.abs() > limit { point - sign * steps } else { moved };
            moved * step
        }
    });
}

impl Method for Perturb {
    fn tamper(
        &self,
        deployed: &Network<f32>,
        _: &AttackData<'_>,
        tools: &mut Tools<'_>,
    ) -> Result<Network<f32>> {
        weights::edit(deployed, |tensors| match *self {
            Self::Arbitrary { share } => add_arbitrary(tensors, share, tools.rng),
            Self::Noise { relative_deviation } => add_noise(tensors, relative_deviation, tools.rng),
            Self::Single { steps } => move_one(tensors, steps, tools.rng),
        })
    }

    fn success(&self, aftermath: &Aftermath<'_>) -> Result<Option<AttackSuccess>> {
        // These attacks want to do damage, or are noise: any loss of accuracy will do.
        Ok(Some(aftermath.changed_scores(1.0)))
    }
}
