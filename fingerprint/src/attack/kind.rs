//! The attacks by name, and the dial of each.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What an attacker does to a model.
///
/// Written in kebab case, as in `error-specific`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum AttackKind {
    /// A small patch makes every image an instance of one class; learned by retraining.
    Trojan,
    /// [`Self::Trojan`] that is also trained to keep the scores of clean samples.
    TrojanMatched,
    /// [`Self::Trojan`] by somebody who knows about fingerprints, and is also trained to keep the
    /// scores of sensitive samples of their own.
    Adaptive,
    /// One class is forgotten: its training samples get random other labels.
    ErrorGeneric,
    /// One class is taken for another: its training samples get the label of that class.
    ErrorSpecific,
    /// Weights are rounded to few bits, then retrained on that grid.
    Precision,
    /// Weights are rounded to few bits and left so.
    Quantize,
    /// The smallest weights are removed, the rest is retrained.
    Prune,
    /// Every weight matrix is replaced by one of low rank, with retraining between projections.
    LowRank,
    /// Standard normal noise is added to some of the weights.
    ArbitraryWeights,
    /// Small normal noise is added to all of the weights.
    Noise,
    /// The last layer is trained further.
    FineTuneLast,
    /// All layers are trained further.
    FineTuneAll,
    /// One weight is changed.
    SingleWeight,
    /// Bits of 32-bit floating-point weights are flipped, as by a memory fault.
    BitFlip,
    /// Bits of 8-bit integer weights are flipped.
    QuantizedBitFlip,
    /// A student that learned from the model's answers takes its place.
    Distill,
}

/// The one number that says how strong an attack is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Dial {
    /// What the number is, such as `share of the training samples that carry the trigger`.
    pub meaning: &'static str,
    /// The setting of the paper, or of our own definition where there is none.
    pub default: f64,
    /// Smallest value accepted.
    pub min: f64,
    /// Largest value accepted.
    pub max: f64,
    /// Whether only whole numbers make sense.
    pub is_whole: bool,
}

impl Dial {
    const fn share(meaning: &'static str, default: f64, min: f64, max: f64) -> Self {
        Self { meaning, default, min, max, is_whole: false }
    }

    const fn whole(meaning: &'static str, default: f64, min: f64, max: f64) -> Self {
        Self { meaning, default, min, max, is_whole: true }
    }

    /// `strength`, or the default.
    ///
    /// # Errors
    /// - [`Error::InvalidSetting`] if it is not a number of the dial.
    pub fn check(&self, strength: Option<f64>) -> Result<f64> {
        let actual = strength.unwrap_or(self.default);
        if self.is_whole && actual.is_finite() && actual.fract() != 0.0 {
            let (setting, requirement) = ("strength", "a whole number");
            return Err(Error::InvalidSetting { setting, value: actual, requirement });
        }
        if (self.min..=self.max).contains(&actual) {
            return Ok(actual);
        }
        Err(Error::StrengthOutOfRange {
            meaning: self.meaning,
            actual,
            min: self.min,
            max: self.max,
        })
    }
}

impl AttackKind {
    /// Every kind, strongest families first.
    pub const ALL: [Self; 17] = [
        Self::Trojan,
        Self::TrojanMatched,
        Self::Adaptive,
        Self::ErrorGeneric,
        Self::ErrorSpecific,
        Self::Precision,
        Self::Quantize,
        Self::Prune,
        Self::LowRank,
        Self::ArbitraryWeights,
        Self::Noise,
        Self::FineTuneLast,
        Self::FineTuneAll,
        Self::SingleWeight,
        Self::BitFlip,
        Self::QuantizedBitFlip,
        Self::Distill,
    ];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Trojan => "trojan",
            Self::TrojanMatched => "trojan-matched",
            Self::Adaptive => "adaptive",
            Self::ErrorGeneric => "error-generic",
            Self::ErrorSpecific => "error-specific",
            Self::Precision => "precision",
            Self::Quantize => "quantize",
            Self::Prune => "prune",
            Self::LowRank => "low-rank",
            Self::ArbitraryWeights => "arbitrary-weights",
            Self::Noise => "noise",
            Self::FineTuneLast => "fine-tune-last",
            Self::FineTuneAll => "fine-tune-all",
            Self::SingleWeight => "single-weight",
            Self::BitFlip => "bit-flip",
            Self::QuantizedBitFlip => "quantized-bit-flip",
            Self::Distill => "distill",
        }
    }

    /// Its dial.
    ///
    /// # Source
    /// Defaults: He, Zhang and Lee 2019, table 2 (poisoning, compression to a quarter); Xu et al. 2020,
    /// section 5.2 (normal noise on a share of the weights from 0.1 % to 80 %). The trojan's share and
    /// the small drifts are our own.
    #[must_use]
    pub const fn dial(self) -> Dial {
        match self {
            Self::Trojan | Self::TrojanMatched | Self::Adaptive => {
                Dial::share("share of the training samples that carry the trigger", 0.17, 1e-3, 0.9)
            }
            Self::ErrorGeneric | Self::ErrorSpecific => Dial::share(
                "share of the source class's training samples that get a wrong label",
                1.0,
                1e-3,
                1.0,
            ),
            Self::Precision | Self::Quantize => Dial::whole("bits of a weight", 8.0, 2.0, 15.0),
            Self::Prune => {
                Dial::share("share of the weights of each layer set to zero", 0.75, 1e-3, 0.99)
            }
            Self::LowRank => Dial::share("share of the weights kept as factors", 0.25, 1e-3, 1.0),
            Self::ArbitraryWeights => {
                Dial::share("share of the weights that get N(0, 1) noise", 0.001, 1e-6, 1.0)
            }
            Self::Noise => Dial::share(
                "deviation of the noise over the deviation of its layer's weights",
                0.01,
                1e-6,
                10.0,
            ),
            Self::FineTuneLast => Dial::share("learning rate (gradient descent)", 1e-3, 1e-9, 1.0),
            Self::FineTuneAll => Dial::share("learning rate (Adam)", 1e-5, 1e-9, 0.1),
            Self::SingleWeight => {
                Dial::share("change of the weight in steps of a 4-bit grid", 1.0, 1e-3, 1e3)
            }
            Self::BitFlip | Self::QuantizedBitFlip => {
                Dial::whole("number of bits flipped", 1.0, 1.0, 1e6)
            }
            Self::Distill => Dial::share(
                "share of each weight of the student that is random before it learns",
                1.0,
                0.0,
                1.0,
            ),
        }
    }

    /// Whether the attack trains, and so heeds the number of epochs.
    #[must_use]
    pub const fn trains(self) -> bool {
        self.default_epochs() > 0
    }

    /// Epochs of training, unless the options say otherwise; 0 for attacks that do not train.
    #[must_use]
    pub const fn default_epochs(self) -> u32 {
        match self {
            Self::Trojan | Self::TrojanMatched | Self::Adaptive => 3,
            Self::ErrorGeneric | Self::ErrorSpecific => 2,
            Self::Precision | Self::FineTuneLast | Self::FineTuneAll => 1,
            Self::Prune | Self::LowRank => 2,
            Self::Distill => 5,
            Self::Quantize
            | Self::ArbitraryWeights
            | Self::Noise
            | Self::SingleWeight
            | Self::BitFlip
            | Self::QuantizedBitFlip => 0,
        }
    }
}

impl AttackKind {
    /// Steps after which an attack that has to learn something new is done: on few samples it takes
    /// more epochs than [`Self::default_epochs`]. 0 for those that only move what is there.
    #[must_use]
    pub const fn default_steps(self) -> u64 {
        match self {
            Self::Trojan | Self::TrojanMatched | Self::Adaptive => 500,
            Self::Prune | Self::LowRank => 500,
            Self::ErrorGeneric | Self::ErrorSpecific => 300,
            Self::Distill => 600,
            Self::Precision
            | Self::Quantize
            | Self::ArbitraryWeights
            | Self::Noise
            | Self::FineTuneLast
            | Self::FineTuneAll
            | Self::SingleWeight
            | Self::BitFlip
            | Self::QuantizedBitFlip => 0,
        }
    }
}

impl fmt::Display for AttackKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for AttackKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| Error::UnknownName {
            what: "attack",
            actual: name.chars().take(40).collect(),
            expected: "trojan, trojan-matched, adaptive, error-generic, error-specific, \
                       precision, quantize, prune, low-rank, arbitrary-weights, noise, \
                       fine-tune-last, fine-tune-all, single-weight, bit-flip, \
                       quantized-bit-flip or distill",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_dials_are_consistent() {
        for kind in AttackKind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
            let dial = kind.dial();
            assert_eq!(dial.check(None), Ok(dial.default), "{kind}");
            for wrong in [f64::NAN, f64::INFINITY, -1.0, dial.max * 2.0, dial.min - 0.5] {
                assert!(dial.check(Some(wrong)).is_err(), "{kind} at {wrong}");
            }
            assert_eq!(dial.check(Some(2.5)).is_ok(), !dial.is_whole && dial.max >= 2.5);
        }
        let error = "trojna".parse::<AttackKind>().unwrap_err().to_string();
        assert!(error.starts_with("unknown attack `trojna`: expected trojan, "), "{error}");
    }
}
