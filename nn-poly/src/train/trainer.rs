//! The training loop.

use std::ops::ControlFlow;

use rand::{RngCore, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::checkpoint::{Checkpoint, State};
use super::optimizer::Moments;
use super::trainable::{Restriction, TrainableParameters};
use super::{CrossEntropy, LabeledSamples, Loss, LossBatch, TrainConfig, augment};
use crate::autodiff::{self, InputGradient, Mode, Tape};
use crate::error::{Error, Result};
use crate::layer::{Activation, Layer};
use crate::network::Network;
use crate::tensor::Tensor;

/// One finished step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchReport {
    /// Epoch, from 1.
    pub epoch: u32,
    /// Number of epochs of the run.
    pub n_epochs: u32,
    /// Step in the epoch, from 1.
    pub batch: u64,
    /// Number of steps per epoch.
    pub n_batches: u64,
    /// Mean loss of the batch, range loss included.
    pub loss: f64,
    /// Learning rate of the step.
    pub learning_rate: f64,
}

/// One finished epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EpochReport {
    /// Epoch, from 1.
    pub epoch: u32,
    /// Number of epochs of the run.
    pub n_epochs: u32,
    /// Mean loss over the epoch's batches.
    pub mean_loss: f64,
}

/// Watches a run; may stop it after any step.
///
/// `()` watches nothing. Every `FnMut(&BatchReport) -> ControlFlow<()>` watches batches.
pub trait Progress {
    /// A step has finished. [`ControlFlow::Break`] stops the run before the next step.
    fn batch(&mut self, _report: &BatchReport) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// An epoch has finished; called after its last [`Self::batch`].
    fn epoch(&mut self, _report: &EpochReport) {}
}

impl Progress for () {}

impl<F: FnMut(&BatchReport) -> ControlFlow<()>> Progress for F {
    fn batch(&mut self, report: &BatchReport) -> ControlFlow<()> {
        self(report)
    }
}

/// How [`Trainer::run`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// All epochs are done.
    Finished,
    /// The watcher stopped the run; it can be continued.
    Stopped,
}

/// Trains one network on one set of samples.
#[derive(Clone, Debug)]
pub struct Trainer {
    state: State,
    /// Not part of checkpoints: it follows from how the training was set up.
    restriction: Option<Restriction>,
}

/// What random numbers are for; each purpose and step has its own stream.
#[derive(Clone, Copy)]
enum Purpose {
    Order = 1,
    Augmentation = 2,
    Dropout = 3,
}

impl Trainer {
    /// Prepare to train `network`.
    ///
    /// # Errors
    /// - [`Error::InvalidSetting`] if the network has nothing to train.
    pub fn new(network: Network<f32>, config: TrainConfig) -> Result<Self> {
        if network.n_parameters() == 0 {
            return Err(Error::InvalidSetting {
                setting: "number of trainable parameters",
                value: 0.0,
                requirement: "at least 1",
            });
        }
        let moments = Moments::zeros(network.layers(), config.spec().optimizer);
        let (n_steps_done, epoch_loss, data_digest) = (0, (0.0, 0), None);
        let state = State { config, network, moments, n_steps_done, epoch_loss, data_digest };
        Ok(Self { state, restriction: None })
    }

    /// Let only some parameters change; the others keep the values they have now.
    ///
    /// A checkpoint does not hold the restriction: restrict a resumed trainer again.
    ///
    /// # Errors
    /// - [`Error::ShapeMismatch`] if `trainable` was made for a network with other parameters.
    pub fn restricted_to(mut self, trainable: TrainableParameters) -> Result<Self> {
        self.restriction = Some(Restriction::new(&self.state.network, trainable)?);
        Ok(self)
    }

    /// Continue a run where it was stopped.
    #[must_use]
    pub fn resume(checkpoint: Checkpoint) -> Self {
        Self { state: checkpoint.into_state(), restriction: None }
    }

    /// The state of the run, for continuing it later.
    #[must_use]
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint::new(self.state.clone())
    }

    /// What the run is to do; of a resumed run, what it was started with.
    #[must_use]
    pub fn config(&self) -> &TrainConfig {
        &self.state.config
    }

    /// The network as trained so far.
    #[must_use]
    pub fn network(&self) -> &Network<f32> {
        &self.state.network
    }

    /// The network as trained so far.
    #[must_use]
    pub fn into_network(self) -> Network<f32> {
        self.state.network
    }

    /// Train until all epochs are done or `progress` stops.
    ///
    /// The same network, configuration and samples give the same result for any number of threads,
    /// whether or not the run was stopped and resumed in between.
    ///
    /// # Errors
    /// - [`Error::ShapeMismatch`] if samples and network differ in shape or number of classes.
    /// - [`Error::CheckpointMismatch`] if the run began with other samples.
    /// - [`Error::Diverged`] if loss or gradients leave the finite numbers; the network is then as it was
    ///   before that step.
    pub fn run(
        &mut self,
        samples: &LabeledSamples,
        progress: &mut dyn Progress,
    ) -> Result<Outcome> {
        let smoothing = self.state.config.spec().label_smoothing;
        self.run_with(samples, &CrossEntropy { smoothing }, progress)
    }

    /// As [`Self::run`], with another loss than cross-entropy.
    ///
    /// A checkpoint does not hold the loss: give a resumed trainer the same again.
    ///
    /// # Errors
    /// - Those of [`Self::run`] and of [`Loss::check`].
    /// - [`Error::InvalidSetting`] if samples are mixed and the loss does not allow it.
    pub fn run_with(
        &mut self,
        samples: &LabeledSamples,
        loss: &dyn Loss,
        progress: &mut dyn Progress,
    ) -> Result<Outcome> {
        loss.check(samples, self.state.network.output_shape().len())?;
        let mix = self.state.config.spec().augmentation.mix;
        if mix > 0.0 && !loss.allows_mixtures() {
            return Err(Error::InvalidSetting {
                setting: "share of mixed samples",
                value: mix,
                requirement: "0, unless a teacher looks at the mixtures (FunctionMatching)",
            });
        }
        self.check_samples(samples)?;
        let config = self.state.config;
        let n_batches = config.steps_per_epoch(samples.n_samples());
        let n_epochs = config.spec().epochs;
        let n_steps = n_batches * u64::from(n_epochs);
        let mut order = Vec::new();
        let mut ordered_epoch = None;
        while self.state.n_steps_done < n_steps {
            let epoch_idx = self.state.n_steps_done / n_batches;
            if ordered_epoch != Some(epoch_idx) {
                order = self.order(epoch_idx, samples.n_samples());
                ordered_epoch = Some(epoch_idx);
            }
            let batch_idx = self.state.n_steps_done % n_batches;
            let epoch = u32::try_from(epoch_idx + 1).unwrap_or(u32::MAX);
            let share = config.spec().blend.share(self.state.n_steps_done, n_steps);
            set_share(self.state.network.layers_mut(), share);
            let factor = config.spec().schedule.factor(self.state.n_steps_done, n_steps);
            let mut report = BatchReport {
                epoch,
                n_epochs,
                batch: batch_idx + 1,
                n_batches,
                loss: 0.0,
                learning_rate: config.spec().learning_rate * factor,
            };
            let positions = batch_of(&order, batch_idx, config.spec().batch_size);
            self.step(samples, positions, loss, &mut report)?;
            let flow = progress.batch(&report);
            if report.batch == n_batches {
                let mean_loss = self.finish_epoch();
                progress.epoch(&EpochReport { epoch, n_epochs, mean_loss });
            }
            if flow.is_break() && self.state.n_steps_done < n_steps {
                return Ok(Outcome::Stopped);
            }
        }
        // The running statistics are not part of the loss, so they are checked once more here.
        let network = &self.state.network;
        network.with_layers(network.layers().to_vec())?;
        Ok(Outcome::Finished)
    }

    fn check_samples(&mut self, samples: &LabeledSamples) -> Result<()> {
        let network = &self.state.network;
        network.check_input(samples.shape())?;
        let n_outputs = network.output_shape().len();
        if samples.n_classes() > n_outputs {
            let (expected, actual) = (vec![n_outputs], vec![samples.n_classes()]);
            return Err(Error::ShapeMismatch { what: "classes of the samples", expected, actual });
        }
        let digest = samples.digest();
        match self.state.data_digest.replace(digest) {
            Some(earlier) if earlier != digest => {
                self.state.data_digest = Some(earlier);
                Err(Error::CheckpointMismatch { field: "training data" })
            }
            _ => Ok(()),
        }
    }

    /// One step on the samples at `positions`; fills in the loss.
    fn step(
        &mut self,
        samples: &LabeledSamples,
        positions: &[usize],
        loss: &dyn Loss,
        report: &mut BatchReport,
    ) -> Result<()> {
        let state = &mut self.state;
        let spec = *state.config.spec();
        let step_idx = state.n_steps_done;
        let mut rng = generator(spec.seed, Purpose::Augmentation, step_idx);
        let batch = augment::gather(samples, positions, spec.augmentation, &mut rng);
        let labels: Vec<u32> =
            positions.iter().filter_map(|&p| samples.labels().get(p).copied()).collect();

        let dropout_seed = generator(spec.seed, Purpose::Dropout, step_idx).next_u64();
        let inputs = Tensor::new(samples.shape().clone(), batch.clone())?;
        let tape = Tape::forward(&state.network, inputs, Mode::Training { dropout_seed })?;
        let about = LossBatch { positions, labels: &labels, inputs: &batch };
        let (loss, slope) = loss.value_and_gradient(tape.output(), about);
        let range_weight = spec.blend.range_weight;
        let loss = loss + range_weight * tape.range_loss();
        report.loss = loss;
        let mut gradients =
            tape.backward_with_range_loss(slope, InputGradient::Skipped, range_weight)?;
        if let Some(restriction) = &self.restriction {
            restriction.silence(&mut gradients);
        }
        let norm = gradients.norm();
        if !loss.is_finite() || !norm.is_finite() {
            return Err(diverged(report, norm));
        }
        if let Some(limit) = spec.clip_norm.filter(|&limit| norm > limit) {
            gradients.scale(limit / norm);
        }
        let caches = tape.into_caches();
        let restriction = self.restriction.as_ref();
        autodiff::absorb_statistics(&mut state.network, &caches, |layer_idx| {
            restriction.is_none_or(|restriction| !restriction.is_frozen(layer_idx))
        });
        let pace = (report.learning_rate, step_idx);
        let layers: &mut [Layer<f32>] = state.network.layers_mut();
        state.moments.step(layers, &gradients, spec.optimizer, pace);
        if let Some(restriction) = restriction {
            restriction.restore(layers);
        }
        state.n_steps_done += 1;
        state.epoch_loss.0 += loss;
        state.epoch_loss.1 += 1;
        Ok(())
    }

    /// Mean loss of the epoch; starts the next.
    #[expect(clippy::cast_precision_loss, reason = "step counts are far below 2^53")]
    fn finish_epoch(&mut self) -> f64 {
        let (sum, count) = std::mem::take(&mut self.state.epoch_loss);
        sum / (count.max(1) as f64)
    }

    /// The order of the samples in one epoch.
    fn order(&self, epoch_idx: u64, n_samples: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n_samples).collect();
        order.shuffle(&mut generator(self.state.config.spec().seed, Purpose::Order, epoch_idx));
        order
    }
}

/// Set the share of the polynomial in every blended activation.
fn set_share(layers: &mut [Layer<f32>], share: f64) {
    for layer in layers {
        if let Layer::Activation(Activation::Blend(blend)) = layer {
            #[expect(clippy::cast_possible_truncation, reason = "rounds to nearest")]
            let share = share as f32;
            blend.share = share;
        }
    }
}

fn batch_of(order: &[usize], batch_idx: u64, batch_size: usize) -> &[usize] {
    let batch_idx = usize::try_from(batch_idx).unwrap_or(usize::MAX);
    order.chunks(batch_size).nth(batch_idx).unwrap_or_default()
}

/// The generator of one purpose and index: independent streams of one seed.
fn generator(seed: u64, purpose: Purpose, index: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(((purpose as u64) << 56) | (index & ((1 << 56) - 1)));
    rng
}

fn diverged(report: &BatchReport, gradient_norm: f64) -> Error {
    Error::Diverged {
        epoch: report.epoch as usize,
        batch: usize::try_from(report.batch).unwrap_or(usize::MAX),
        loss: report.loss,
        gradient_norm,
        learning_rate: report.learning_rate,
    }
}
