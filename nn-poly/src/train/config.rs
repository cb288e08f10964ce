//! What a training run is to do.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use super::Augmentation;
use crate::error::{Error, Result};

/// How gradients become changes of the parameters.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Optimizer {
    /// Stochastic gradient descent: `v ← momentum·v + g`, `p ← p − rate·v`.
    Sgd {
        /// Share of the last step that is kept, at least 0 and below 1.
        momentum: f64,
        /// Added to the gradient of weights as `weight_decay · w`.
        weight_decay: f64,
    },
    /// Adam with bias correction (Kingma and Ba 2015), β₁ = 0.9, β₂ = 0.999, ε = 10⁻⁸.
    Adam,
    /// Adam with decoupled weight decay (Loshchilov and Hutter 2019): weights also shrink by
    /// `rate · weight_decay` of themselves.
    AdamW {
        /// Decay of weights; biases and normalization are exempt.
        weight_decay: f64,
    },
}

/// How the learning rate moves over a run, as a share of its peak.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Schedule {
    /// The peak throughout.
    Constant,
    /// Cosine from the peak to 0.
    Cosine,
    /// Cosine from 1/25 up to the peak during the warm-up, then cosine down to 1/250,000.
    ///
    /// # Source
    /// Smith and Topin 2018, with the defaults of its common implementations.
    OneCycle {
        /// Share of the steps that warms up, above 0 and below 1.
        warm_up: f64,
    },
}

impl Schedule {
    /// Share of the peak rate at `step` of `n_steps`.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "step counts are far below 2^53")]
    pub fn factor(self, step: u64, n_steps: u64) -> f64 {
        let last = n_steps.saturating_sub(1).max(1) as f64;
        let position = (step as f64 / last).min(1.0);
        let cosine = |from: f64, to: f64, t: f64| to + (from - to) * (1.0 + (PI * t).cos()) / 2.0;
        match self {
            Self::Constant => 1.0,
            Self::Cosine => cosine(1.0, 0.0, position),
            Self::OneCycle { warm_up } => {
                const START: f64 = 1.0 / 25.0;
                const END: f64 = START / 10_000.0;
                if position < warm_up {
                    cosine(START, 1.0, position / warm_up)
                } else {
                    cosine(1.0, END, (position - warm_up) / (1.0 - warm_up))
                }
            }
        }
    }
}

/// How blended activations become polynomials during a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlendSpec {
    /// Share of the steps over which the share of the polynomials grows, linearly from 0 to 1; above 0,
    /// at most 1. The other steps train with polynomials alone. Default: 0.5.
    pub ramp: f64,
    /// Weight of the range loss: per sample and blended layer, the sum of the squared distances of the
    /// inputs from the layer's interval, in units of its half width. Default: 0.1.
    pub range_weight: f64,
}

impl Default for BlendSpec {
    fn default() -> Self {
        Self { ramp: 0.5, range_weight: 0.1 }
    }
}

impl BlendSpec {
    /// Share of the polynomials at `step` of `n_steps`.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "step counts are far below 2^53")]
    pub fn share(self, step: u64, n_steps: u64) -> f64 {
        let last = n_steps.saturating_sub(1) as f64;
        if step as f64 >= self.ramp * last { 1.0 } else { step as f64 / (self.ramp * last) }
    }
}

/// A training run before its check.
///
/// Start from [`TrainRecipe`](super::TrainRecipe) or [`TrainSpec::default`] and change what differs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainSpec {
    /// Passes over the data, 1 to 100,000. Default: 8.
    pub epochs: u32,
    /// Samples per step, 2 to 65,536. Default: 100.
    pub batch_size: usize,
    /// Default: AdamW with weight decay 0.01.
    pub optimizer: Optimizer,
    /// Default: one cycle with a warm-up of 0.2.
    pub schedule: Schedule,
    /// Peak of the schedule, positive. Default: 3·10⁻³.
    pub learning_rate: f64,
    /// Largest norm of all gradients together; longer ones are shortened to it. Default: 1.
    pub clip_norm: Option<f64>,
    /// Share of the target probability spread over all classes, at least 0 and below 1. Default: 0.
    pub label_smoothing: f64,
    /// Default: none.
    pub augmentation: Augmentation,
    /// Blending of activations; only networks with blended activations are concerned.
    pub blend: BlendSpec,
    /// Seed of order, augmentation and dropout. Default: 0.
    pub seed: u64,
}

impl Default for TrainSpec {
    fn default() -> Self {
        Self {
            epochs: 8,
            batch_size: 100,
            optimizer: Optimizer::AdamW { weight_decay: 0.01 },
            schedule: Schedule::OneCycle { warm_up: 0.2 },
            learning_rate: 3e-3,
            clip_norm: Some(1.0),
            label_smoothing: 0.0,
            augmentation: Augmentation::default(),
            blend: BlendSpec::default(),
            seed: 0,
        }
    }
}

impl TrainSpec {
    /// With another seed.
    #[must_use]
    pub const fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// With another number of epochs.
    #[must_use]
    pub const fn with_epochs(mut self, epochs: u32) -> Self {
        self.epochs = epochs;
        self
    }

    /// Check every number.
    ///
    /// # Errors
    /// - [`Error::InvalidSetting`] naming the first number out of range.
    pub fn check(self) -> Result<TrainConfig> {
        const NOT_NEGATIVE: &str = "finite and not negative";
        #[expect(clippy::cast_precision_loss, reason = "only shown in a message")]
        let batch_size = self.batch_size as f64;
        let decay = match self.optimizer {
            Optimizer::Sgd { weight_decay, .. } | Optimizer::AdamW { weight_decay } => weight_decay,
            Optimizer::Adam => 0.0,
        };
        let momentum = match self.optimizer {
            Optimizer::Sgd { momentum, .. } => momentum,
            Optimizer::Adam | Optimizer::AdamW { .. } => 0.0,
        };
        let warm_up = match self.schedule {
            Schedule::OneCycle { warm_up } => warm_up,
            Schedule::Constant | Schedule::Cosine => 0.5,
        };
        let clip = self.clip_norm.unwrap_or(1.0);
        let positive = |x: f64| x.is_finite() && x > 0.0;
        let share = |x: f64| (0.0..1.0).contains(&x);
        let (noise, mix) = (self.augmentation.noise, self.augmentation.mix);
        let BlendSpec { ramp, range_weight: range } = self.blend;
        let share_text = "at least 0 and below 1";
        let rules = [
            ("epochs", f64::from(self.epochs), (1..=100_000).contains(&self.epochs), "1 to 100000"),
            ("batch size", batch_size, (2..=65_536).contains(&self.batch_size), "2 to 65536"),
            ("learning rate", self.learning_rate, positive(self.learning_rate), "positive"),
            ("gradient-norm limit", clip, positive(clip), "positive"),
            ("label smoothing", self.label_smoothing, share(self.label_smoothing), share_text),
            ("weight decay", decay, share(decay), share_text),
            ("momentum", momentum, share(momentum), share_text),
            ("warm-up", warm_up, warm_up > 0.0 && warm_up < 1.0, "above 0 and below 1"),
            ("input noise", noise, noise.is_finite() && noise >= 0.0, NOT_NEGATIVE),
            ("share of mixed samples", mix, (0.0..=1.0).contains(&mix), "0 to 1"),
            ("ramp of the blending", ramp, ramp > 0.0 && ramp <= 1.0, "above 0 and at most 1"),
            ("weight of the range loss", range, range.is_finite() && range >= 0.0, NOT_NEGATIVE),
        ];
        match rules.into_iter().find(|(_, _, is_valid, _)| !is_valid) {
            Some((setting, value, _, requirement)) => {
                Err(Error::InvalidSetting { setting, value, requirement })
            }
            None => Ok(TrainConfig(self)),
        }
    }
}

/// A checked training run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "TrainSpec", into = "TrainSpec")]
pub struct TrainConfig(TrainSpec);

impl TrainConfig {
    /// The checked numbers.
    #[must_use]
    pub fn spec(&self) -> &TrainSpec {
        &self.0
    }

    /// Steps in one epoch over `n_samples`: whole batches, and a last partial batch if it is at least
    /// half a batch or the only one (the statistics of a tiny batch would do harm).
    #[must_use]
    pub fn steps_per_epoch(&self, n_samples: usize) -> u64 {
        let size = self.0.batch_size;
        let whole = n_samples / size;
        let rest = n_samples % size;
        let has_partial = rest > 0 && (whole == 0 || 2 * rest >= size);
        (whole + usize::from(has_partial)) as u64
    }
}

impl TryFrom<TrainSpec> for TrainConfig {
    type Error = Error;

    fn try_from(spec: TrainSpec) -> Result<Self> {
        spec.check()
    }
}

impl From<TrainConfig> for TrainSpec {
    fn from(config: TrainConfig) -> Self {
        config.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn schedules_start_peak_and_end_where_they_should() {
        let cycle = Schedule::OneCycle { warm_up: 0.2 };
        assert!((cycle.factor(0, 101) - 0.04).abs() < 1e-12);
        assert!((cycle.factor(20, 101) - 1.0).abs() < 1e-12);
        assert!(cycle.factor(100, 101) < 1e-5);
        assert!((Schedule::Cosine.factor(0, 11) - 1.0).abs() < 1e-12);
        assert!((Schedule::Cosine.factor(5, 11) - 0.5).abs() < 1e-12);
        assert!(Schedule::Cosine.factor(10, 11).abs() < 1e-12);
        assert!((Schedule::Constant.factor(3, 11) - 1.0).abs() < 1e-12);
        assert!(cycle.factor(0, 1).is_finite());
    }

    #[test]
    fn blending_goes_from_relu_to_the_polynomial() {
        let spec = BlendSpec { ramp: 0.5, ..BlendSpec::default() };
        let shares = [0, 25, 50, 51, 100].map(|step| spec.share(step, 101));
        assert_eq!(shares, [0.0, 0.5, 1.0, 1.0, 1.0]);
        assert_eq!(BlendSpec { ramp: 1.0, ..spec }.share(0, 1), 1.0, "a single step is the last");
    }

    #[test]
    fn small_remainders_are_left_out() {
        let config = TrainSpec { batch_size: 10, ..TrainSpec::default() }.check().unwrap();
        let cases = [(4, 1), (10, 1), (14, 1), (15, 2), (20, 2), (100, 10)];
        for (n_samples, expected) in cases {
            assert_eq!(config.steps_per_epoch(n_samples), expected, "{n_samples} samples");
        }
    }

    #[test]
    fn numbers_out_of_range_are_named() {
        type Change = fn(&mut TrainSpec);
        let cases: [(&str, Change); 11] = [
            ("epochs is 0, it must be 1 to 100000", |s| s.epochs = 0),
            ("batch size is 1, it must be 2 to 65536", |s| s.batch_size = 1),
            ("learning rate is NaN, it must be positive", |s| s.learning_rate = f64::NAN),
            ("gradient-norm limit is 0, it must be positive", |s| s.clip_norm = Some(0.0)),
            ("label smoothing is 1, it must be at least 0 and below 1", |s| {
                s.label_smoothing = 1.0
            }),
            ("weight decay is -1, it must be at least 0 and below 1", |s| {
                s.optimizer = Optimizer::AdamW { weight_decay: -1.0 };
            }),
            ("momentum is 1, it must be at least 0 and below 1", |s| {
                s.optimizer = Optimizer::Sgd { momentum: 1.0, weight_decay: 0.0 };
            }),
            ("warm-up is 0, it must be above 0 and below 1", |s| {
                s.schedule = Schedule::OneCycle { warm_up: 0.0 };
            }),
            ("input noise is inf, it must be finite and not negative", |s| {
                s.augmentation.noise = f64::INFINITY;
            }),
            ("ramp of the blending is 0, it must be above 0 and at most 1", |s| s.blend.ramp = 0.0),
            ("weight of the range loss is -1, it must be finite and not negative", |s| {
                s.blend.range_weight = -1.0;
            }),
        ];
        for (expected, change) in cases {
            let mut spec = TrainSpec::default();
            change(&mut spec);
            assert_eq!(spec.check().unwrap_err().to_string(), expected);
        }
    }
}
