//! Attacks on exact integer networks: single steps and lowest bits.
//!
//! The smallest changes there are. A weight moves by 1, which a black box may never notice, and which
//! an encrypted run must.

use nn_poly::integer::{IntegerNetwork, MAX_BIAS, MAX_WEIGHT, StageWeights};
use rand::seq::index;
use rand::{Rng, RngCore};

use super::weights::count_of;
use crate::error::{Error, Result};

/// One number of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// Weight of this index, row-major.
    Weight(usize),
    /// Bias of this index.
    Bias(usize),
}

/// Which way a number moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// By +1.
    Up,
    /// By −1.
    Down,
}

impl Step {
    /// +1 or −1.
    #[must_use]
    pub const fn delta(self) -> i8 {
        match self {
            Self::Up => 1,
            Self::Down => -1,
        }
    }

    const fn reversed(self) -> Self {
        match self {
            Self::Up => Self::Down,
            Self::Down => Self::Up,
        }
    }
}

/// A change of one number by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Edit {
    /// Stage, from 0.
    pub stage: usize,
    /// Which number of the stage.
    pub place: Place,
    /// Which way.
    pub step: Step,
}

impl Edit {
    /// Draw a weight uniformly, from stage `stage` or from all of them, and a direction in which it may
    /// move.
    ///
    /// # Errors
    /// - [`Error::Network`] if there is no such stage.
    pub fn draw(
        network: &IntegerNetwork,
        stage: Option<usize>,
        rng: &mut dyn RngCore,
    ) -> Result<Self> {
        let (stage, index) = match stage {
            Some(stage) => {
                let (_, weights) = network.stage(stage)?;
                (stage, rng.random_range(0..weights.weights.len()))
            }
            None => {
                let counts = network.weights().iter().map(|stage| stage.weights.len());
                locate(counts, rng.random_range(0..n_weights(network)))
            }
        };
        let step = if rng.random() { Step::Up } else { Step::Down };
        let edit = Self { stage, place: Place::Weight(index), step };
        Ok(if edit.is_allowed(network) { edit } else { Self { step: step.reversed(), ..edit } })
    }

    /// Whether the number exists and stays within the limits of integer networks.
    #[must_use]
    pub fn is_allowed(&self, network: &IntegerNetwork) -> bool {
        let delta = self.step.delta();
        network.weights().get(self.stage).is_some_and(|weights| match self.place {
            Place::Weight(index) => weights
                .weights
                .get(index)
                .is_some_and(|&w| (i32::from(w) + i32::from(delta)).abs() <= MAX_WEIGHT),
            Place::Bias(index) => weights
                .bias
                .get(index)
                .is_some_and(|&b| (b.saturating_add(i64::from(delta))).abs() <= MAX_BIAS),
        })
    }

    /// The network with this change.
    ///
    /// Cost: one pass over the products of the stage; see [`IntegerNetwork::with_stage_weights`].
    ///
    /// # Errors
    /// - [`Error::IndexOutOfRange`] if the stage has no such number.
    /// - [`Error::Network`] if there is no such stage, or a sum of the stage could leave the range of
    ///   exact arithmetic.
    /// - [`Error::InvalidSetting`] if the number leaves the range of weights or biases.
    pub fn apply(&self, network: &IntegerNetwork) -> Result<IntegerNetwork> {
        let (_, weights) = network.stage(self.stage)?;
        let mut weights = weights.clone();
        let delta = self.step.delta();
        let is_allowed = self.is_allowed(network);
        match self.place {
            Place::Weight(index) => {
                let len = weights.weights.len();
                let missing = Error::IndexOutOfRange { what: "weight", index, len };
                let weight = weights.weights.get_mut(index).ok_or(missing)?;
                if !is_allowed {
                    let (setting, requirement) = ("a weight before the step", "inside ±32767");
                    let actual = f64::from(*weight);
                    return Err(Error::InvalidSetting { setting, value: actual, requirement });
                }
                *weight += i16::from(delta);
            }
            Place::Bias(index) => {
                let len = weights.bias.len();
                let missing = Error::IndexOutOfRange { what: "bias", index, len };
                let bias = weights.bias.get_mut(index).ok_or(missing)?;
                if !is_allowed {
                    let (setting, requirement) = ("a bias before the step", "inside ±2^56");
                    #[expect(clippy::cast_precision_loss, reason = "shown to people")]
                    let actual = *bias as f64;
                    return Err(Error::InvalidSetting { setting, value: actual, requirement });
                }
                *bias += i64::from(delta);
            }
        }
        Ok(network.with_stage_weights(self.stage, weights)?)
    }
}

/// A tampered integer network.
#[derive(Clone, Debug)]
pub struct Flipped {
    /// The network.
    pub network: IntegerNetwork,
    /// Stage and index of every weight that differs, in order.
    pub changed: Vec<(usize, usize)>,
}

/// Flip the lowest bit of a share of all weights, above 0 and up to 1; at least one.
///
/// The weights are drawn uniformly without repetition. −32767 keeps its value, because flipping it
/// would give the excluded −32768.
///
/// # Errors
/// - [`Error::InvalidSetting`] for a share out of its range.
/// - [`Error::Network`] if the change leaves the range of exact arithmetic.
pub fn flip_lowest_bits(
    network: &IntegerNetwork,
    share: f64,
    rng: &mut dyn RngCore,
) -> Result<Flipped> {
    if !(share > 0.0 && share <= 1.0) {
        let (setting, requirement) = ("share of the weights", "above 0 and at most 1");
        return Err(Error::InvalidSetting { setting, value: share, requirement });
    }
    let n_weights = n_weights(network);
    let chosen = index::sample(rng, n_weights, count_of(share, n_weights));
    flip(network, i16::BITS, chosen.into_iter().map(|index| (index, 0)).collect())
}

/// Flip `n_bits` random bits of weights seen as two's complement integers of `bits` bits.
///
/// Weight and bit are drawn uniformly and without repetition. A flip that would give a weight outside
/// ±32767 is left out.
///
/// # Errors
/// - [`Error::InvalidSetting`] for bits outside 1 to 16, too few to hold every weight, or more flips
///   than there are bits.
/// - [`Error::Network`] if the change leaves the range of exact arithmetic.
pub fn flip_bits(
    network: &IntegerNetwork,
    n_bits: usize,
    bits: u32,
    rng: &mut dyn RngCore,
) -> Result<Flipped> {
    if !(1..=16).contains(&bits) {
        let (setting, requirement) = ("bits of a weight", "1 to 16");
        return Err(Error::InvalidSetting { setting, value: f64::from(bits), requirement });
    }
    let is_held = |&weight: &i16| sign_extended(weight, bits) == weight;
    if !network.weights().iter().flat_map(|stage| &stage.weights).all(is_held) {
        let (setting, requirement) = ("bits of a weight", "enough to hold every weight");
        return Err(Error::InvalidSetting { setting, value: f64::from(bits), requirement });
    }
    let width = bits as usize;
    let n_places = n_weights(network).saturating_mul(width);
    if !(1..=n_places).contains(&n_bits) {
        let (setting, requirement) =
            ("number of flipped bits", "1 to the number of bits there are");
        let actual = f64::from(u32::try_from(n_bits).unwrap_or(u32::MAX));
        return Err(Error::InvalidSetting { setting, value: actual, requirement });
    }
    let chosen = index::sample(rng, n_places, n_bits);
    flip(network, bits, chosen.into_iter().map(|place| (place / width, place % width)).collect())
}

/// The two's complement integer that the lowest `bits` bits are.
const fn sign_extended(value: i16, bits: u32) -> i16 {
    let shift = i16::BITS - bits;
    (value << shift) >> shift
}

/// Flip bits given as index among all weights and bit; every stage is checked once.
fn flip(network: &IntegerNetwork, bits: u32, mut places: Vec<(usize, usize)>) -> Result<Flipped> {
    places.sort_unstable();
    let mut stages: Vec<StageWeights> = network.weights().to_vec();
    for (index, bit) in places {
        let counts = stages.iter().map(|stage| stage.weights.len());
        let (stage, index) = locate(counts, index);
        let weight = stages.get_mut(stage).and_then(|stage| stage.weights.get_mut(index));
        if let Some(weight) = weight {
            let flipped = sign_extended(*weight ^ (1 << bit), bits);
            if flipped != i16::MIN {
                *weight = flipped;
            }
        }
    }
    let mut tampered = network.clone();
    let mut changed = Vec::new();
    for (stage, (before, after)) in network.weights().iter().zip(stages).enumerate() {
        let pairs = before.weights.iter().zip(&after.weights).enumerate();
        let of_stage = pairs.filter(|(_, (before, after))| before != after);
        let n_earlier = changed.len();
        changed.extend(of_stage.map(|(index, _)| (stage, index)));
        if changed.len() > n_earlier {
            tampered = tampered.with_stage_weights(stage, after)?;
        }
    }
    Ok(Flipped { network: tampered, changed })
}

fn n_weights(network: &IntegerNetwork) -> usize {
    network.weights().iter().map(|stage| stage.weights.len()).sum()
}

/// Stage and index in it of the weight at `index` among all.
fn locate(counts: impl Iterator<Item = usize>, index: usize) -> (usize, usize) {
    let mut rest = index;
    for (stage, count) in counts.enumerate() {
        match rest.checked_sub(count) {
            Some(less) => rest = less,
            None => return (stage, rest),
        }
    }
    unreachable!("invariant: the index is below the number of weights")
}
