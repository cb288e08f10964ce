//! Which samples of a bag to use.
//!
//! A weight that feeds a neuron which is off cannot be seen to change; samples that together switch on
//! every neuron see every weight. That is maximum coverage, solved greedily. With `k`-way ties nearly
//! any choice works; covering classes helps a little and never hurts.

use std::fmt;
use std::str::FromStr;

use ndarray::{Array1, Axis};
use nn_poly::Network;
use nn_poly::autodiff::{Linearization, ParameterSelection};
use rand::Rng;
use rand::seq::SliceRandom;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::generate::{Prepared, parse_name};
use crate::sample::SampleBag;
use crate::sensitivity::{LayerSelection, Sensitivity, SensitivityOutputs};

mod cover;

use cover::{BitSet, greedy_cover};

/// How a few samples are chosen from a bag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum SelectionRule {
    /// Maximum active neuron cover: greedily cover the neurons of the last hidden layer with samples
    /// on which they are positive (He, Zhang and Lee 2019, algorithm 2). The first choice is the
    /// sample with most active neurons: from one bag nearly always the same one, so that rates for a
    /// single sample say more about that sample than about the rule.
    Manc,
    /// The same cover where a neuron counts as active if its weights carry sensitivity; for
    /// polynomial activations, whose neurons are never exactly off.
    ActiveSensitivity,
    /// Greedily cover the classes of the two largest scores, again and again.
    #[default]
    ClassCover,
    /// The most sensitive samples first.
    Greedy,
    /// Uniformly at random, without repetition.
    Random,
}

impl SelectionRule {
    /// All rules.
    pub const ALL: [Self; 5] =
        [Self::Manc, Self::ActiveSensitivity, Self::ClassCover, Self::Greedy, Self::Random];

    /// The name on the command line, in kebab case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Manc => "manc",
            Self::ActiveSensitivity => "active-sensitivity",
            Self::ClassCover => "class-cover",
            Self::Greedy => "greedy",
            Self::Random => "random",
        }
    }
}

impl fmt::Display for SelectionRule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for SelectionRule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let expected = "manc, active-sensitivity, class-cover, greedy or random";
        parse_name("selection rule", text, &Self::ALL, Self::name, expected)
    }
}

/// A unit counts as active if its parameters carry at least this share of the mean over its layer.
const ACTIVE_SHARE: f64 = 0.1;
/// Classes of a sample that count as covered by it.
const COVERED_CLASSES: usize = 2;

/// What the selection rules look at, for every sample of one bag.
#[derive(Clone, Debug)]
pub struct SelectionFeatures {
    /// Neurons of the last hidden layer with positive value.
    active: Vec<BitSet>,
    /// Units of all layers whose parameters carry sensitivity.
    sensitive: Vec<BitSet>,
    /// Classes of the two largest scores.
    classes: Vec<BitSet>,
    log_sensitivity: Vec<f64>,
    margin: Vec<f64>,
}

impl SelectionFeatures {
    /// Evaluate `network` on the samples of `bag`; for an integer network, the float network it came
    /// from.
    ///
    /// Neurons of the last hidden layer are the values that enter the last dense layer or convolution.
    /// Sensitivity is that of the probabilities to all parameters, per output neuron or channel.
    /// Cost: about as many backward passes per sample as classes that matter at it; in parallel.
    ///
    /// # Errors
    /// - [`Error::UnsuitableNetwork`] if the network has fewer than two scores or no parameters.
    /// - [`Error::Network`] if the samples do not fit the network.
    /// - [`Error::LengthMismatch`] if the bag has not one description per sample.
    pub fn new(network: &Network<f32>, bag: &SampleBag) -> Result<Self> {
        if bag.inputs.nrows() != bag.len() {
            let (what, expected) = ("descriptions of samples", bag.inputs.nrows());
            return Err(Error::LengthMismatch { what, expected, actual: bag.len() });
        }
        let prepared = Prepared::new(network)?;
        let network = prepared.smooth_single();
        let probabilities = SensitivityOutputs::Probabilities;
        let sensitivity = Sensitivity::new(network, &LayerSelection::All, probabilities)?;
        let last = ParameterSelection::last(network)?.layers().last().copied().unwrap_or(0);
        let n_classes = network.output_shape().len();
        let rows: Vec<_> = bag.inputs.axis_iter(Axis(0)).collect();
        let found: Vec<[BitSet; 2]> = rows
            .into_par_iter()
            .map(|x| {
                let point = Linearization::new(network, x)?;
                let active = point.layer_input(last)?.iter().map(|&h| h > 0.0).collect::<Vec<_>>();
                let shares = sensitivity.unit_shares(x)?;
                Ok([BitSet::new(active), BitSet::new(shares.iter().flat_map(carries_sensitivity))])
            })
            .collect::<Result<_>>()?;
        let (mut active, mut sensitive) = (Vec::new(), Vec::new());
        for [by_value, by_share] in found {
            active.push(by_value);
            sensitive.push(by_share);
        }
        let top = |tied: &[u32]| {
            let covered: Vec<u32> = tied.iter().take(COVERED_CLASSES).copied().collect();
            BitSet::new((0_u32..).take(n_classes).map(|class| covered.contains(&class)))
        };
        Ok(Self {
            active,
            sensitive,
            classes: bag.samples.iter().map(|sample| top(&sample.tied)).collect(),
            log_sensitivity: bag.samples.iter().map(|sample| sample.log_sensitivity).collect(),
            margin: bag.samples.iter().map(|sample| sample.margin).collect(),
        })
    }

    /// Number of samples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.margin.len()
    }

    /// Whether there are no samples.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.margin.is_empty()
    }
}

/// For every unit of a layer, whether it carries a noticeable part of the layer's sensitivity.
fn carries_sensitivity(shares: &Array1<f64>) -> Vec<bool> {
    let mean = shares.mean().unwrap_or_default();
    shares.iter().map(|&share| share > 0.0 && share >= ACTIVE_SHARE * mean).collect()
}

/// Choose `count` distinct samples, or all if there are fewer; positions in the bag, in the order of
/// choice.
///
/// `pool` restricts the choice to some positions (all of them without it); positions that do not exist
/// are ignored. Candidates are shuffled first, so that equals are drawn at random; the same generator
/// state gives the same choice.
pub fn select(
    rule: SelectionRule,
    features: &SelectionFeatures,
    count: usize,
    pool: Option<&[usize]>,
    rng: &mut (impl Rng + ?Sized),
) -> Vec<usize> {
    let len = features.len();
    let mut candidates: Vec<usize> = match pool {
        Some(pool) => pool.iter().copied().filter(|&position| position < len).collect(),
        None => (0..len).collect(),
    };
    candidates.sort_unstable();
    candidates.dedup();
    candidates.shuffle(rng);
    let cover = |sets: &[BitSet]| {
        let chosen: Vec<&BitSet> = candidates.iter().filter_map(|&c| sets.get(c)).collect();
        let picked = greedy_cover(&chosen, count);
        picked.into_iter().filter_map(|position| candidates.get(position).copied()).collect()
    };
    match rule {
        SelectionRule::Manc => cover(&features.active),
        SelectionRule::ActiveSensitivity => cover(&features.sensitive),
        SelectionRule::ClassCover => cover(&features.classes),
        SelectionRule::Greedy => {
            let key = |values: &[f64], position: usize| values.get(position).copied();
            candidates.sort_by(|&a, &b| {
                let by_sensitivity = key(&features.log_sensitivity, b)
                    .partial_cmp(&key(&features.log_sensitivity, a))
                    .unwrap_or(std::cmp::Ordering::Equal);
                let by_margin = key(&features.margin, a).partial_cmp(&key(&features.margin, b));
                by_sensitivity.then(by_margin.unwrap_or(std::cmp::Ordering::Equal))
            });
            candidates.truncate(count);
            candidates
        }
        SelectionRule::Random => {
            candidates.truncate(count);
            candidates
        }
    }
}
