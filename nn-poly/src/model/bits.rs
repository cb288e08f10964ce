//! How many bits the numbers of an integer network have.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Bits of inputs, weights and activations in the integer network.
///
/// Written `input/weight/activation`, as in `4/4/4`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Bits {
    /// Bits of an input, 1 to 16; signed if the preprocessing is.
    pub input: u32,
    /// Bits of a signed weight, 2 to 15.
    pub weight: u32,
    /// Bits of an activation between layers, 1 to 16.
    pub activation: u32,
}

impl Bits {
    /// Bits within the supported ranges.
    ///
    /// # Errors
    /// - [`Error::InvalidSetting`] naming the number out of range.
    pub fn new(input: u32, weight: u32, activation: u32) -> Result<Self> {
        let bits = Self { input, weight, activation };
        bits.check()?;
        Ok(bits)
    }

    /// Check the ranges, for values from files.
    ///
    /// # Errors
    /// - [`Error::InvalidSetting`] naming the number out of range.
    pub fn check(&self) -> Result<()> {
        for (setting, value, range, requirement) in [
            ("input bits", self.input, 1..=16, "1 to 16"),
            ("weight bits", self.weight, 2..=15, "2 to 15"),
            ("activation bits", self.activation, 1..=16, "1 to 16"),
        ] {
            if !range.contains(&value) {
                return Err(Error::InvalidSetting {
                    setting,
                    value: f64::from(value),
                    requirement,
                });
            }
        }
        Ok(())
    }
}

impl fmt::Display for Bits {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}/{}", self.input, self.weight, self.activation)
    }
}

impl FromStr for Bits {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let numbers: Vec<u32> = text.split('/').map_while(|number| number.parse().ok()).collect();
        match (numbers.as_slice(), text.matches('/').count()) {
            (&[input, weight, activation], 2) => Self::new(input, weight, activation),
            _ => Err(Error::UnknownName {
                what: "bits",
                actual: text.chars().take(40).collect(),
                expected: "input/weight/activation, such as 4/4/4",
            }),
        }
    }
}

/// Bits of inputs and, layer by layer, of weights and activations ("mixed precision").
///
/// Written as [`Bits`] where all layers have the same, otherwise with one number per linear layer for
/// the weights and one less for the values between layers: `4/6,4,4/5,4`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LayerBits {
    input: u32,
    /// Per stage; a single number goes for all.
    weights: Vec<u32>,
    /// Per stage but the last; a single number goes for all.
    activations: Vec<u32>,
}

impl LayerBits {
    /// Bits for a network of `weights.len()` stages.
    ///
    /// `weights` has an entry per stage in order (linear layers, and what is added together counts as one),
    /// `activations` one for the values after each of them but the last. A single entry goes for all.
    ///
    /// # Errors
    /// - [`Error::InvalidSetting`] naming a number out of the ranges of [`Bits`], or no weights.
    pub fn new(input: u32, weights: Vec<u32>, activations: Vec<u32>) -> Result<Self> {
        if weights.is_empty() {
            const SOME: &str = "one, or one for each linear layer";
            let setting = "numbers of weight bits";
            return Err(Error::InvalidSetting { setting, value: 0.0, requirement: SOME });
        }
        // A network of one stage has no values between stages; any number does.
        let activations = if activations.is_empty() { vec![1] } else { activations };
        let bits = Self { input, weights: shortened(weights), activations: shortened(activations) };
        bits.check_ranges()?;
        Ok(bits)
    }

    /// Bits of an input.
    #[must_use]
    pub const fn input(&self) -> u32 {
        self.input
    }

    /// Bits of the weights of a stage.
    #[must_use]
    pub fn weight(&self, stage: usize) -> u32 {
        of_stage(&self.weights, stage)
    }

    /// Bits of the values after a stage.
    #[must_use]
    pub fn activation(&self, stage: usize) -> u32 {
        of_stage(&self.activations, stage)
    }

    /// The bits of all layers, if they are the same.
    #[must_use]
    pub fn uniform(&self) -> Option<Bits> {
        match (self.weights.as_slice(), self.activations.as_slice()) {
            (&[weight], &[activation]) => Some(Bits { input: self.input, weight, activation }),
            _ => None,
        }
    }

    /// The same with other bits of inputs.
    #[must_use]
    pub fn with_input(&self, input: u32) -> Self {
        Self { input, ..self.clone() }
    }

    /// The same with other weight bits at one stage of a network of `n_stages`.
    #[must_use]
    pub fn with_weight(&self, stage: usize, bits: u32, n_stages: usize) -> Self {
        Self { weights: replaced(&self.weights, stage, bits, n_stages), ..self.clone() }
    }

    /// The same with other bits for the values after one stage of a network of `n_stages`; nothing
    /// changes for the last stage, whose values are the scores.
    #[must_use]
    pub fn with_activation(&self, stage: usize, bits: u32, n_stages: usize) -> Self {
        let n_activations = n_stages.saturating_sub(1);
        let activations = replaced(&self.activations, stage, bits, n_activations);
        Self { activations, ..self.clone() }
    }

    /// Check ranges, and that these bits are for a network of so many stages.
    ///
    /// # Errors
    /// - [`Error::InvalidSetting`] naming a number out of the ranges of [`Bits`], or a list for another
    ///   number of stages.
    pub fn check(&self, n_stages: usize) -> Result<()> {
        self.check_ranges()?;
        for (setting, listed, expected, requirement) in [
            ("numbers of weight bits", self.weights.len(), n_stages, PER_LAYER),
            (
                "numbers of activation bits",
                self.activations.len(),
                n_stages.saturating_sub(1),
                "one, or one for each but the last linear layer of the network (`--report` lists them)",
            ),
        ] {
            if listed != 1 && listed != expected {
                return Err(Error::InvalidSetting { setting, value: count(listed), requirement });
            }
        }
        Ok(())
    }

    fn check_ranges(&self) -> Result<()> {
        let Self { input, weights, activations } = self;
        for &weight in weights {
            Bits { input: *input, weight, activation: 1 }.check()?;
        }
        for &activation in activations {
            Bits { input: *input, weight: 2, activation }.check()?;
        }
        Ok(())
    }
}

const PER_LAYER: &str = "one, or one for each linear layer of the network (`--report` lists them)";

#[expect(clippy::cast_precision_loss, reason = "a count of layers")]
const fn count(n: usize) -> f64 {
    n as f64
}

/// The list written out for `n` places, one of them replaced; short where all are the same.
fn replaced(bits: &[u32], place: usize, new: u32, n: usize) -> Vec<u32> {
    let of = |idx| if idx == place { new } else { of_stage(bits, idx) };
    shortened((0..n.max(1)).map(of).collect())
}

/// A single number for all, where they are the same.
fn shortened(bits: Vec<u32>) -> Vec<u32> {
    match bits.as_slice() {
        [first, rest @ ..] if rest.iter().all(|other| other == first) => vec![*first],
        _ => bits,
    }
}

fn of_stage(bits: &[u32], stage: usize) -> u32 {
    bits.get(stage).or(bits.last()).copied().unwrap_or(1)
}

impl From<Bits> for LayerBits {
    fn from(Bits { input, weight, activation }: Bits) -> Self {
        Self { input, weights: vec![weight], activations: vec![activation] }
    }
}

impl From<&Self> for LayerBits {
    fn from(bits: &Self) -> Self {
        bits.clone()
    }
}

impl fmt::Display for LayerBits {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |of: &[u32]| of.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        write!(formatter, "{}/{}/{}", self.input, list(&self.weights), list(&self.activations))
    }
}

impl FromStr for LayerBits {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // A network has far fewer layers; files and flags are read with this.
        const MOST_LAYERS: usize = 1000;
        let list = |text: &str| -> Option<Vec<u32>> {
            text.split(',').take(MOST_LAYERS + 1).map(|number| number.parse().ok()).collect()
        };
        let parts: Option<Vec<Vec<u32>>> = text.split('/').take(4).map(list).collect();
        match parts.as_deref() {
            Some([input, weights, activations])
                if input.len() == 1 && weights.len().max(activations.len()) <= MOST_LAYERS =>
            {
                Self::new(of_stage(input, 0), weights.clone(), activations.clone())
            }
            _ => Err(Error::UnknownName {
                what: "bits",
                actual: text.chars().take(40).collect(),
                expected: "input/weight/activation, such as 4/4/4, or with one number per layer, such as 4/6,4,4/5,4",
            }),
        }
    }
}
