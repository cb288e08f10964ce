//! Training further, as attackers do.

use std::ops::ControlFlow;

use nn_poly::network::Network;
use nn_poly::train::{
    BatchReport, CrossEntropy, EpochReport, LabeledSamples, Loss, Optimizer, Outcome, Progress,
    Schedule, TrainConfig, TrainSpec, TrainableParameters, Trainer,
};

use super::{AttackKind, AttackOptions, Tools};
use crate::error::{Error, Result};

/// Learning rate of Adam with which attackers retrain.
const LEARNING_RATE: f64 = 3e-4;
/// The same after damage that has to be repaired.
const REPAIR_RATE: f64 = 1e-3;

/// How long to train further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Duration {
    /// So many passes over the samples.
    Epochs(u32),
    /// At least so many passes, and on few samples more, until there were so many steps.
    AtLeast { epochs: u32, steps: u64 },
}

impl Duration {
    /// What the options say, else what the attack usually takes.
    ///
    /// # Errors
    /// - [`Error::InvalidSetting`] for no epochs at all.
    pub(super) fn new(kind: AttackKind, options: &AttackOptions) -> Result<Self> {
        match options.epochs {
            Some(0) => {
                let (setting, requirement) = ("number of epochs", "at least 1");
                Err(Error::InvalidSetting { setting, value: 0.0, requirement })
            }
            Some(epochs) => Ok(Self::Epochs(epochs)),
            None => {
                let (epochs, steps) = (kind.default_epochs(), kind.default_steps());
                Ok(Self::AtLeast { epochs, steps })
            }
        }
    }

    fn epochs(self, steps_per_epoch: u64) -> u32 {
        match self {
            Self::Epochs(epochs) => epochs,
            Self::AtLeast { epochs, steps } => {
                let for_steps = steps.div_ceil(steps_per_epoch.max(1));
                epochs.max(u32::try_from(for_steps).unwrap_or(u32::MAX))
            }
        }
    }
}

/// How to train further.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Retraining {
    pub(super) duration: Duration,
    pub(super) optimizer: Optimizer,
    pub(super) schedule: Schedule,
    pub(super) learning_rate: f64,
}

impl Retraining {
    /// Adam along a cosine.
    pub(super) fn new(duration: Duration, options: &AttackOptions) -> Self {
        Self {
            duration,
            optimizer: Optimizer::Adam,
            schedule: Schedule::Cosine,
            learning_rate: options.learning_rate.unwrap_or(LEARNING_RATE),
        }
    }

    /// The same with a higher rate, to repair what compression broke.
    pub(super) fn repairing(duration: Duration, options: &AttackOptions) -> Self {
        let learning_rate = options.learning_rate.unwrap_or(REPAIR_RATE);
        Self { learning_rate, ..Self::new(duration, options) }
    }

    fn config(&self, n_samples: usize, seed: u64) -> Result<TrainConfig> {
        let spec = TrainSpec {
            // At least about twenty steps per epoch, also on tables of a hundred rows.
            batch_size: (n_samples / 20).clamp(8, 100),
            optimizer: self.optimizer,
            schedule: self.schedule,
            learning_rate: self.learning_rate,
            seed,
            ..TrainSpec::default()
        };
        let steps_per_epoch = spec.check()?.steps_per_epoch(n_samples);
        Ok(spec.with_epochs(self.duration.epochs(steps_per_epoch)).check()?)
    }

    /// Train on labels.
    pub(super) fn run(
        &self,
        network: Network<f32>,
        samples: &LabeledSamples,
        trainable: Option<TrainableParameters>,
        tools: &mut Tools<'_>,
    ) -> Result<Network<f32>> {
        self.run_with(network, samples, &CrossEntropy::default(), trainable, tools)
    }

    /// Train with any loss.
    ///
    /// # Errors
    /// - [`Error::Network`] if samples do not fit, or the training diverges.
    /// - [`Error::Stopped`] if the watcher stops it.
    pub(super) fn run_with(
        &self,
        network: Network<f32>,
        samples: &LabeledSamples,
        loss: &dyn Loss,
        trainable: Option<TrainableParameters>,
        tools: &mut Tools<'_>,
    ) -> Result<Network<f32>> {
        let config = self.config(samples.n_samples(), tools.rng.next_u64())?;
        let mut trainer = Trainer::new(network, config)?;
        if let Some(trainable) = trainable {
            trainer = trainer.restricted_to(trainable)?;
        }
        match trainer.run_with(samples, loss, tools.progress)? {
            Outcome::Finished => Ok(trainer.into_network()),
            Outcome::Stopped => Err(Error::Stopped),
        }
    }

    /// Train on labels one epoch at a time, and let `adjust` change the network after each.
    pub(super) fn run_epochs(
        &self,
        mut network: Network<f32>,
        samples: &LabeledSamples,
        tools: &mut Tools<'_>,
        mut adjust: impl FnMut(&Network<f32>) -> Result<Network<f32>>,
    ) -> Result<Network<f32>> {
        let one = Self { duration: Duration::Epochs(1), ..*self };
        let n_epochs = self.config(samples.n_samples(), 0)?.spec().epochs;
        for epoch in 1..=n_epochs {
            let mut renumbered = Renumbered { inner: &mut *tools.progress, epoch, n_epochs };
            let mut tools = Tools { rng: &mut *tools.rng, progress: &mut renumbered };
            network = adjust(&one.run(network, samples, None, &mut tools)?)?;
        }
        Ok(network)
    }
}

/// Shows a run of one epoch as one of many.
struct Renumbered<'a> {
    inner: &'a mut dyn Progress,
    epoch: u32,
    n_epochs: u32,
}

impl Progress for Renumbered<'_> {
    fn batch(&mut self, report: &BatchReport) -> ControlFlow<()> {
        let (epoch, n_epochs) = (self.epoch, self.n_epochs);
        self.inner.batch(&BatchReport { epoch, n_epochs, ..*report })
    }

    fn epoch(&mut self, report: &EpochReport) {
        let (epoch, n_epochs) = (self.epoch, self.n_epochs);
        self.inner.epoch(&EpochReport { epoch, n_epochs, ..*report });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_samples_are_seen_more_often() {
        let usual = Duration::AtLeast { epochs: 3, steps: 500 };
        for (n_samples, expected) in [(60_000, 3), (2_000, 25), (400, 25), (40, 100)] {
            let retraining = Retraining::new(usual, &AttackOptions::default());
            let config = retraining.config(n_samples, 0).unwrap();
            assert_eq!(config.spec().epochs, expected, "{n_samples} samples");
            let fixed = Retraining { duration: Duration::Epochs(7), ..retraining };
            assert_eq!(fixed.config(n_samples, 0).unwrap().spec().epochs, 7);
        }
    }
}
