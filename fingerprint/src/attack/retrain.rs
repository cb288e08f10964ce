//! Training further, as attackers do.

use std::ops::ControlFlow;

use nn_poly::network::Network;
use nn_poly::train::{
    BatchReport, CrossEntropy, EpochReport, LabeledSamples, Loss, Optimizer, Outcome, Progress,
    Schedule, TrainSpec, TrainableParameters, Trainer,
};

use super::{AttackOptions, Tools};
use crate::error::{Error, Result};

/// Learning rate of Adam with which attackers retrain.
const LEARNING_RATE: f64 = 3e-4;

/// How to train further.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Retraining {
    pub(super) epochs: u32,
    pub(super) optimizer: Optimizer,
    pub(super) schedule: Schedule,
    pub(super) learning_rate: f64,
}

impl Retraining {
    /// Adam along a cosine.
    pub(super) fn new(epochs: u32, options: &AttackOptions) -> Self {
        Self {
            epochs,
            optimizer: Optimizer::Adam,
            schedule: Schedule::Cosine,
            learning_rate: options.learning_rate.unwrap_or(LEARNING_RATE),
        }
    }

    fn spec(&self, n_samples: usize, seed: u64) -> TrainSpec {
        TrainSpec {
            epochs: self.epochs,
            // At least about twenty steps per epoch, also on tables of a hundred rows.
            batch_size: (n_samples / 20).clamp(8, 100),
            optimizer: self.optimizer,
            schedule: self.schedule,
            learning_rate: self.learning_rate,
            seed,
            ..TrainSpec::default()
        }
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
        let config = self.spec(samples.n_samples(), tools.rng.next_u64()).check()?;
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
        let one = Self { epochs: 1, ..*self };
        for epoch in 1..=self.epochs {
            let n_epochs = self.epochs;
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
