//! Which samples of a bag to use.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::generate::parse_name;

/// How a few samples are chosen from a bag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum SelectionRule {
    /// Maximum active neuron cover: greedily cover the neurons of the last hidden layer with samples
    /// on which they are positive (He, Zhang and Lee 2019, algorithm 2).
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
