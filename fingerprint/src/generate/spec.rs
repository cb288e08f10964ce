//! What to generate: settings, their defaults and their checks.

use std::fmt;
use std::str::FromStr;

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::sample::{InputGrid, SampleBag};

/// A way to find samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum GeneratorKind {
    /// The objective of He, Zhang and Lee 2019, equation 6: `‖∂p/∂W‖²` over the last layer's weights
    /// and biases, as `log S`. Finds two-way ties.
    Ssf,
    /// What their published code maximizes: the squared norm of the gradient of the *sum* of the
    /// log-probabilities over the first 40 classes, weights of the last layer without biases.
    SsfReference,
    /// `‖∂p/∂W‖²` over the weights of all layers, by exact differentiation, as `log S`.
    SecureDl,
    /// Entropy of the softmax over the `k` largest scores.
    BoundaryEntropy,
    /// A `k`-way tie of the largest scores by Gauss–Newton steps of least norm, then moves on the
    /// input grid. Detects a change of the weights with probability about `(k − 1)/k`.
    #[default]
    Tie,
    /// Natural samples as they are.
    NonSensitive,
    /// Uniformly random points of the grid.
    Random,
}

impl GeneratorKind {
    /// All generators.
    pub const ALL: [Self; 7] = [
        Self::Ssf,
        Self::SsfReference,
        Self::SecureDl,
        Self::BoundaryEntropy,
        Self::Tie,
        Self::NonSensitive,
        Self::Random,
    ];

    /// The name on the command line, in kebab case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ssf => "ssf",
            Self::SsfReference => "ssf-reference",
            Self::SecureDl => "securedl",
            Self::BoundaryEntropy => "boundary-entropy",
            Self::Tie => "tie",
            Self::NonSensitive => "non-sensitive",
            Self::Random => "random",
        }
    }

    /// Whether it searches, as opposed to the baselines.
    #[must_use]
    pub fn is_sensitive(self) -> bool {
        !matches!(self, Self::NonSensitive | Self::Random)
    }

    /// Whether it climbs a smooth objective, by the optimizer of the settings.
    #[must_use]
    pub fn uses_optimizer(self) -> bool {
        self.is_sensitive() && self != Self::Tie
    }

    /// Whether samples start from natural ones.
    #[must_use]
    pub fn needs_starts(self) -> bool {
        self != Self::Random
    }
}

impl fmt::Display for GeneratorKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for GeneratorKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let expected =
            "ssf, ssf-reference, securedl, boundary-entropy, tie, non-sensitive or random";
        parse_name("generator", text, &Self::ALL, Self::name, expected)
    }
}

/// Find the value of the given name.
pub(crate) fn parse_name<T: Copy>(
    what: &'static str,
    text: &str,
    all: &[T],
    name: impl Fn(T) -> &'static str,
    expected: &'static str,
) -> Result<T> {
    all.iter().copied().find(|&value| name(value) == text).ok_or_else(|| Error::UnknownName {
        what,
        actual: text.chars().take(40).collect(),
        expected,
    })
}

/// Where samples may lie besides the box of valid inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Constraint {
    /// Anywhere in the box of valid inputs: for encrypted queries, which nobody sees.
    #[default]
    Box,
    /// Close to the natural sample, so that it looks natural.
    Ball {
        /// Largest root mean square distance from the natural sample over all features, in grey
        /// levels: 255 is the whole range of a feature. Positive. Rounding may add half a step.
        rms: f64,
    },
}

/// How a smooth objective is climbed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum OptimizerKind {
    /// Adam with projection on the constraints after every step.
    #[default]
    ProjectedAdam,
    /// Gradient ascent with normalized steps and projection.
    ProjectedGradient,
    /// Limited-memory BFGS; the box by reparameterization. Not with [`Constraint::Ball`].
    Lbfgs,
}

impl OptimizerKind {
    /// All optimizers.
    pub const ALL: [Self; 3] = [Self::ProjectedAdam, Self::ProjectedGradient, Self::Lbfgs];

    /// The name on the command line, in kebab case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ProjectedAdam => "adam",
            Self::ProjectedGradient => "projected-gradient",
            Self::Lbfgs => "l-bfgs",
        }
    }
}

impl fmt::Display for OptimizerKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for OptimizerKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let expected = "adam, projected-gradient or l-bfgs";
        parse_name("optimizer", text, &Self::ALL, Self::name, expected)
    }
}

/// Settings before their check. [`Self::new`] gives the recommended ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenerateSpec {
    /// Which generator.
    pub kind: GeneratorKind,
    /// Number of samples, 1 to [`Self::MAX_COUNT`].
    pub count: usize,
    /// Seed of everything random.
    pub seed: u64,
    /// Where samples may lie.
    pub constraint: Constraint,
    /// What the endpoint can receive.
    pub grid: InputGrid,
    /// Whether samples are moved on the grid after rounding, to undo what rounding did to them.
    pub polish: bool,
    /// Smallest `(z₁ − z₂)/max|z|` of a sample, at least 0 and below 0.1. 0 for exact endpoints; 1e-5
    /// for endpoints that compute in single precision.
    pub min_relative_margin: f64,
    /// Scores brought together by `tie` and `boundary-entropy`, at least 2; no more than there are
    /// classes are used. `None`: 10 and 5.
    pub n_tied: Option<usize>,
    /// Iterations of the search, 1 to [`Self::MAX_ITERATIONS`]. `None`: the generator's default.
    pub iterations: Option<u32>,
    /// First step of the search as a share of the range of a feature, positive and at most 1; it falls
    /// to a twentieth. `None`: 0.02 in the box, 0.01 in a ball. Unused by `tie` and L-BFGS.
    pub learning_rate: Option<f64>,
    /// How smooth objectives are climbed; unused by `tie` and the baselines.
    pub optimizer: OptimizerKind,
}

impl GenerateSpec {
    /// Most samples in a bag.
    pub const MAX_COUNT: usize = 1_000_000;
    /// Most iterations per sample.
    pub const MAX_ITERATIONS: u32 = 100_000;
    /// Margin at which no float stack flipped a label, relative to the largest score.
    pub const FLOAT_MARGIN: f64 = 1e-5;

    /// The recommended settings: box only, polished (`tie`) and with the margin for float endpoints.
    #[must_use]
    pub fn new(kind: GeneratorKind, count: usize, seed: u64, grid: InputGrid) -> Self {
        Self {
            kind,
            count,
            seed,
            constraint: Constraint::Box,
            grid,
            polish: kind == GeneratorKind::Tie,
            min_relative_margin: Self::FLOAT_MARGIN,
            n_tied: None,
            iterations: None,
            learning_rate: None,
            optimizer: OptimizerKind::ProjectedAdam,
        }
    }

    /// Check the settings.
    ///
    /// # Errors
    /// - [`Error::CountOutOfRange`] for `count`, `n_tied` and `iterations`.
    /// - [`Error::InvalidSetting`] for the ball, the margin, the learning rate, and a ball with L-BFGS.
    pub fn check(self) -> Result<GenerateConfig> {
        let counts = [
            ("number of samples", self.count as u64, 1, Self::MAX_COUNT as u64),
            ("number of tied scores", self.n_tied.map_or(2, |n| n as u64), 2, u64::from(u32::MAX)),
            (
                "number of iterations",
                self.iterations.map_or(1, u64::from),
                1,
                u64::from(Self::MAX_ITERATIONS),
            ),
        ];
        for (name, actual, min, max) in counts {
            if !(min..=max).contains(&actual) {
                return Err(Error::CountOutOfRange { name, actual, min, max });
            }
        }
        let invalid = |setting, value, requirement| {
            Err(Error::InvalidSetting { setting, value, requirement })
        };
        if let Constraint::Ball { rms } = self.constraint {
            if !(rms.is_finite() && rms > 0.0) {
                return invalid("radius of the ball", rms, "finite and positive");
            }
            if self.optimizer == OptimizerKind::Lbfgs {
                return invalid("radius of the ball", rms, "left out with L-BFGS");
            }
        }
        let margin = self.min_relative_margin;
        if !(0.0..0.1).contains(&margin) {
            return invalid("smallest relative margin", margin, "at least 0 and below 0.1");
        }
        match self.learning_rate {
            Some(rate) if !(rate > 0.0 && rate <= 1.0) => {
                invalid("learning rate", rate, "above 0 and at most 1")
            }
            Some(_) | None => Ok(GenerateConfig(self)),
        }
    }
}

/// Checked settings.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateConfig(GenerateSpec);

impl GenerateConfig {
    /// The settings.
    #[must_use]
    pub fn spec(&self) -> &GenerateSpec {
        &self.0
    }

    /// What generation begins with: no samples of `n_features` values yet.
    #[must_use]
    pub fn empty_bag(&self, n_features: usize) -> SampleBag {
        SampleBag {
            inputs: Array2::zeros((0, n_features)),
            generator: self.0.kind,
            seed: self.0.seed,
            samples: Vec::new(),
        }
    }

    /// Scores to bring together in a network of `n_classes`.
    #[must_use]
    pub fn n_tied(&self, n_classes: usize) -> usize {
        let default = match self.0.kind {
            GeneratorKind::Tie => 10,
            GeneratorKind::BoundaryEntropy => 5,
            GeneratorKind::Ssf
            | GeneratorKind::SsfReference
            | GeneratorKind::SecureDl
            | GeneratorKind::NonSensitive
            | GeneratorKind::Random => 2,
        };
        self.0.n_tied.unwrap_or(default).min(n_classes)
    }

    /// Iterations of the search per sample.
    #[must_use]
    pub fn iterations(&self) -> u32 {
        self.0.iterations.unwrap_or(match self.0.kind {
            GeneratorKind::Tie => 30,
            GeneratorKind::SecureDl => 60,
            GeneratorKind::Ssf | GeneratorKind::SsfReference | GeneratorKind::BoundaryEntropy => {
                150
            }
            GeneratorKind::NonSensitive | GeneratorKind::Random => 0,
        })
    }

    /// First step of the search, as a share of the range of a feature.
    #[must_use]
    pub fn learning_rate(&self) -> f64 {
        self.0.learning_rate.unwrap_or(match self.0.constraint {
            Constraint::Box => 0.02,
            Constraint::Ball { .. } => 0.01,
        })
    }
}

/// Watches and can stop a generation. Called from several threads.
pub trait GenerateProgress: Sync {
    /// `done` of `total` samples are ready.
    fn advanced(&self, done: usize, total: usize);

    /// Whether to stop: samples not yet begun are left out of the bag.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// Watches nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl GenerateProgress for NoProgress {
    fn advanced(&self, _done: usize, _total: usize) {}
}
