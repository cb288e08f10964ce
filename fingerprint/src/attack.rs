//! What attackers do to models: to measure whether a fingerprint notices.
//!
//! ```text
//!  AttackKind + strength + AttackOptions ──► attack() ──► dyn Attack
//!                                                          │ apply(model, data, rng)
//!                     fold ─► tamper (edit, retrain) ─► measure
//!                                                          ▼
//!                                   Attacked { network, AttackReport }
//! ```
//!
//! | attack | dial (default) | counts as working if |
//! |---|---|---|
//! | `trojan` | share of patched training samples (0.17) | 80 % of triggered samples; loses at most 5 points |
//! | `trojan-matched` | the same, also keeps the scores of clean samples | the same |
//! | `adaptive` | the same, also keeps the scores of own sensitive samples | the same |
//! | `error-generic` | share of the source class mislabeled (1) | 80 % of that class misled; others lose at most 5 points |
//! | `error-specific` | share of the source class relabeled (1) | 80 % of that class redirected; the same |
//! | `precision` | bits per weight (8), then retraining | loses at most 5 points |
//! | `quantize` | bits per weight (8), no retraining | loses at most 5 points |
//! | `prune` | share of weights removed (0.75), then retraining | that share is zero; loses at most 5 points |
//! | `low-rank` | share of the storage kept (0.25), with retraining | that share is saved; loses at most 5 points |
//! | `arbitrary-weights` | share that gets N(0, 1) noise (0.001) | any score changes |
//! | `noise` | relative deviation of noise on all weights (0.01) | any score changes |
//! | `fine-tune-last` | learning rate of gradient descent (10⁻³) | any score changes; loses at most 5 points |
//! | `fine-tune-all` | learning rate of Adam (10⁻⁵) | any score changes; loses at most 5 points |
//! | `single-weight` | change in steps of a 4-bit grid (1) | any score changes |
//! | `bit-flip` | bits of 32-bit floats (1) | any score changes |
//! | `quantized-bit-flip` | bits of 8-bit integers (1) | any score changes |
//! | `distill` | random share of the student's first weights (1) | 90 % same predictions; loses at most 5 points |
//!
//! An attack that did not work says nothing about a detector, whichever way it was judged; so every
//! report carries accuracy and success. "Any score changes" rules out edits without any effect, such
//! as a weight into a neuron that never fires: no black box can see them.
//!
//! **What is attacked** is the deployed form: batch normalization is folded into the layers before it
//! and dropout removed, which changes no answer. A network that rounds its weights keeps doing so, so
//! a change below its rounding is no change; reports compare weights as they are used.
//!
//! Attacks on exact integer networks are in [`integer`].

use std::fmt;

use ndarray::Array2;
use nn_poly::Shape;
use nn_poly::network::{Network, predictions};
use nn_poly::train::{Evaluation, LabeledSamples, Progress};
use rand::RngCore;

pub use kind::{AttackKind, Dial};
pub use report::{AttackReport, AttackSuccess, SuccessName};
pub use trigger::Trigger;

use crate::error::{Error, Result};
use retrain::Duration;

mod bits;
mod compress;
mod distill;
mod fine_tune;
pub mod integer;
mod kind;
mod low_rank;
mod perturb;
mod poison;
mod report;
mod retrain;
mod trigger;
mod trojan;
mod weights;

/// Largest loss of accuracy with which an attack that wants to go unnoticed still counts as working.
pub const MAX_ACCURACY_LOSS: f64 = 0.05;

/// An attack with all its settings.
pub trait Attack: Send + Sync + fmt::Debug {
    /// Which attack.
    fn kind(&self) -> AttackKind;

    /// Where its dial stands.
    fn strength(&self) -> f64;

    /// Attack `model`.
    ///
    /// The same model, data, settings and generator give the same network, for any number of threads.
    /// Attacks that train report every batch to `progress`, which may stop them.
    ///
    /// # Errors
    /// - [`Error::Network`] if data and model do not fit, the network cannot be folded, or retraining
    ///   diverges.
    /// - [`Error::InvalidSetting`] if source or target class do not exist, or there is no weight.
    /// - [`Error::AttackNeeds`] if the attack lacks samples.
    /// - [`Error::Stopped`] if `progress` stopped it.
    fn apply(
        &self,
        model: &Network<f32>,
        data: &AttackData<'_>,
        rng: &mut dyn RngCore,
        progress: &mut dyn Progress,
    ) -> Result<Attacked>;
}

/// A tampered network and what is known about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Attacked {
    /// The network, folded.
    pub network: Network<f32>,
    /// What the attack did.
    pub report: AttackReport,
}

/// What an attacker has besides the model: samples to retrain with and to measure on, preprocessed.
#[derive(Clone, Debug)]
pub struct AttackData<'a> {
    /// For retraining.
    train: &'a LabeledSamples,
    /// For accuracy and success.
    test: &'a LabeledSamples,
    /// How a sample is seen as an image, for the place of a trigger.
    image_shape: Shape,
}

impl<'a> AttackData<'a> {
    /// Samples of one shape and the same classes.
    ///
    /// # Errors
    /// - [`Error::Network`] if the two parts differ in shape or number of classes.
    pub fn new(train: &'a LabeledSamples, test: &'a LabeledSamples) -> Result<Self> {
        let mismatch =
            |what, expected, actual| nn_poly::Error::ShapeMismatch { what, expected, actual };
        if train.shape() != test.shape() {
            let (expected, actual) = (train.shape().dims().to_vec(), test.shape().dims().to_vec());
            return Err(mismatch("a test sample", expected, actual).into());
        }
        if train.n_classes() != test.n_classes() {
            let (expected, actual) = (vec![train.n_classes()], vec![test.n_classes()]);
            return Err(mismatch("the classes of the test samples", expected, actual).into());
        }
        Ok(Self { train, test, image_shape: train.shape().clone() })
    }

    /// Samples that are images although the network reads them as vectors.
    ///
    /// # Errors
    /// - [`Error::Network`] if the shape has another number of values than a sample.
    pub fn with_image_shape(mut self, shape: Shape) -> Result<Self> {
        if shape.len() != self.train.shape().len() {
            return Err(Error::from(nn_poly::Error::ShapeMismatch {
                what: "the shape of an image",
                expected: self.train.shape().dims().to_vec(),
                actual: shape.dims().to_vec(),
            }));
        }
        self.image_shape = shape;
        Ok(self)
    }

    /// Whether the model takes these samples, asked before anything long begins.
    fn check(&self, model: &Network<f32>) -> Result<()> {
        let mismatch =
            |what, expected, actual| nn_poly::Error::ShapeMismatch { what, expected, actual };
        if self.train.shape() != model.input_shape() {
            let expected = model.input_shape().dims().to_vec();
            let actual = self.train.shape().dims().to_vec();
            return Err(mismatch("a sample", expected, actual).into());
        }
        let (n_outputs, n_classes) = (model.output_shape().len(), self.train.n_classes());
        if n_classes > n_outputs {
            let what = "the classes of the samples";
            return Err(mismatch(what, vec![n_outputs], vec![n_classes]).into());
        }
        Ok(())
    }

    /// The samples for retraining.
    #[must_use]
    pub fn train(&self) -> &LabeledSamples {
        self.train
    }

    /// The samples for measuring.
    #[must_use]
    pub fn test(&self) -> &LabeledSamples {
        self.test
    }

    /// How a sample is seen as an image.
    #[must_use]
    pub fn image_shape(&self) -> &Shape {
        &self.image_shape
    }
}

/// Settings besides the dial; `None` stands for the default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AttackOptions {
    /// Passes over the training samples, at least 1. Default: [`AttackKind::default_epochs`], and more
    /// on few samples until there were [`AttackKind::default_steps`].
    pub epochs: Option<u32>,
    /// Peak learning rate of retraining (not of fine-tuning, whose dial it is). Default: 3·10⁻⁴;
    /// 10⁻³ after pruning and between projections to low rank; 3·10⁻³ for a student.
    pub learning_rate: Option<f64>,
    /// The class that poisoning damages. Default: 14 (stop) of 43 traffic signs, else 7 or the last.
    pub source_class: Option<u32>,
    /// The class that poisoning or a trigger leads to. Default: 2 (limit 50) of 43 traffic signs, else
    /// 1; a trigger leads to 0.
    pub target_class: Option<u32>,
    /// Sensitive samples that the adaptive attacker made for themselves, one preprocessed input per
    /// row. Never those of the fingerprint: the attacker does not know them.
    pub sensitive_inputs: Option<Array2<f32>>,
}

/// The attack `kind` at `strength` (default: the paper's).
///
/// # Errors
/// - [`Error::StrengthOutOfRange`] or [`Error::InvalidSetting`] if a number is out of its range.
/// - [`Error::AttackNeeds`] if the adaptive attack has no sensitive samples.
pub fn attack(
    kind: AttackKind,
    strength: Option<f64>,
    options: &AttackOptions,
) -> Result<Box<dyn Attack>> {
    let strength = kind.dial().check(strength)?;
    let duration = Duration::new(kind, options)?;
    let method: Box<dyn Method> = match kind {
        AttackKind::Trojan | AttackKind::TrojanMatched | AttackKind::Adaptive => {
            Box::new(trojan::Trojan::new(kind, strength, duration, options)?)
        }
        AttackKind::ErrorGeneric | AttackKind::ErrorSpecific => {
            Box::new(poison::Poison::new(kind, strength, duration, options))
        }
        AttackKind::Precision => {
            Box::new(compress::Precision::retrained(strength, duration, options))
        }
        AttackKind::Quantize => Box::new(compress::Precision::rounded(strength)),
        AttackKind::Prune => Box::new(compress::Prune::new(strength, duration, options)),
        AttackKind::LowRank => Box::new(low_rank::LowRank::new(strength, duration, options)),
        AttackKind::ArbitraryWeights => Box::new(perturb::Perturb::Arbitrary { share: strength }),
        AttackKind::Noise => Box::new(perturb::Perturb::Noise { relative_deviation: strength }),
        AttackKind::SingleWeight => Box::new(perturb::Perturb::Single { steps: strength }),
        AttackKind::FineTuneLast | AttackKind::FineTuneAll => {
            Box::new(fine_tune::FineTune::new(kind, strength, duration))
        }
        AttackKind::BitFlip => Box::new(bits::BitFlip::float(strength)),
        AttackKind::QuantizedBitFlip => Box::new(bits::BitFlip::integer(strength)),
        AttackKind::Distill => Box::new(distill::Distill::new(strength, duration, options)),
    };
    Ok(Box::new(Prepared { kind, strength, method }))
}

/// How one attack changes a network, and how its success is measured.
trait Method: Send + Sync + fmt::Debug {
    /// Change `deployed`, which is folded.
    fn tamper(
        &self,
        deployed: &Network<f32>,
        data: &AttackData<'_>,
        tools: &mut Tools<'_>,
    ) -> Result<Network<f32>>;

    /// Measure the success; `None` if there is nothing to measure it on.
    fn success(&self, aftermath: &Aftermath<'_>) -> Result<Option<AttackSuccess>>;

    /// Share of the attacker's own sensitive samples whose prediction stayed.
    fn kept_samples(&self, _aftermath: &Aftermath<'_>) -> Result<Option<f64>> {
        Ok(None)
    }
}

/// What an attack draws from and reports to.
struct Tools<'a> {
    rng: &'a mut dyn RngCore,
    progress: &'a mut dyn Progress,
}

/// Everything after an attack that success is measured on.
struct Aftermath<'a> {
    before: &'a Network<f32>,
    after: &'a Network<f32>,
    data: &'a AttackData<'a>,
    scores_before: Array2<f32>,
    scores_after: Array2<f32>,
    predicted_before: Vec<usize>,
    predicted_after: Vec<usize>,
}

impl<'a> Aftermath<'a> {
    fn new(
        before: &'a Network<f32>,
        after: &'a Network<f32>,
        data: &'a AttackData<'a>,
    ) -> Result<Self> {
        let inputs = data.test.inputs();
        let (scores_before, scores_after) = (before.outputs(inputs)?, after.outputs(inputs)?);
        let predicted_before = predictions(&scores_before);
        let predicted_after = predictions(&scores_after);
        Ok(Self {
            before,
            after,
            data,
            scores_before,
            scores_after,
            predicted_before,
            predicted_after,
        })
    }

    /// Accuracies before and after on the test samples whose label satisfies `is_meant`.
    fn accuracies(&self, is_meant: impl Fn(u32) -> bool) -> (f64, f64) {
        let labels = self.data.test.labels();
        let of = |predicted: &[usize]| {
            let chosen = predicted.iter().zip(labels).filter(|&(_, &label)| is_meant(label));
            let (predicted, labels): (Vec<usize>, Vec<u32>) =
                chosen.map(|(&predicted, &label)| (predicted, label)).unzip();
            Evaluation::of(&predicted, &labels, self.data.test.n_classes()).accuracy()
        };
        (of(&self.predicted_before), of(&self.predicted_after))
    }

    /// Accuracy lost on those samples.
    fn loss(&self, is_meant: impl Fn(u32) -> bool) -> f64 {
        let (before, after) = self.accuracies(is_meant);
        before - after
    }

    /// Share of the test samples of class `source` whose prediction satisfies `is_hit`; `None` if
    /// there are none.
    fn share_of_class(&self, source: u32, is_hit: impl Fn(usize) -> bool) -> Option<f64> {
        let labels = self.data.test.labels();
        let of_class: Vec<bool> = self
            .predicted_after
            .iter()
            .zip(labels)
            .filter(|&(_, &label)| label == source)
            .map(|(&predicted, _)| is_hit(predicted))
            .collect();
        share(of_class.iter().filter(|hit| **hit).count(), of_class.len())
    }

    /// Whether anything a full-score answer shows has changed.
    fn changed_scores(&self, max_accuracy_loss: f64) -> AttackSuccess {
        let rows = self.scores_before.rows().into_iter().zip(self.scores_after.rows());
        let n_changed = rows.filter(|(before, after)| before != after).count();
        let n_samples = self.predicted_after.len();
        let rate = share(n_changed, n_samples).unwrap_or(0.0);
        let least = share(1, n_samples).unwrap_or(1.0);
        let loss = self.loss(|_| true);
        AttackSuccess::judge(SuccessName::ChangedScores, (rate, least), (loss, max_accuracy_loss))
    }
}

/// `part / whole`, or `None` of nothing.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn share(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// A class that must exist.
fn check_class(setting: &'static str, class: u32, n_classes: usize) -> Result<u32> {
    if (class as usize) < n_classes {
        return Ok(class);
    }
    let requirement = "the number of a class, counted from 0";
    Err(Error::InvalidSetting { setting, value: f64::from(class), requirement })
}

/// A method with the frame that is common to all attacks.
#[derive(Debug)]
struct Prepared {
    kind: AttackKind,
    strength: f64,
    method: Box<dyn Method>,
}

impl Attack for Prepared {
    fn kind(&self) -> AttackKind {
        self.kind
    }

    fn strength(&self) -> f64 {
        self.strength
    }

    fn apply(
        &self,
        model: &Network<f32>,
        data: &AttackData<'_>,
        rng: &mut dyn RngCore,
        progress: &mut dyn Progress,
    ) -> Result<Attacked> {
        data.check(model)?;
        let before = model.fold_batch_norm()?;
        let network = self.method.tamper(&before, data, &mut Tools { rng, progress })?;
        let aftermath = Aftermath::new(&before, &network, data)?;
        let (clean_accuracy_before, clean_accuracy_after) = aftermath.accuracies(|_| true);
        let change = weights::compare(&before, &network);
        let mut success = self.method.success(&aftermath)?;
        if let Some(success) = success.as_mut().filter(|_| change.n_changed == 0) {
            // Such as 8 bits for a model that has 4: nothing happened, so nothing can be detected.
            success.worked = false;
        }
        let report = AttackReport {
            kind: self.kind,
            strength: self.strength,
            clean_accuracy_before,
            clean_accuracy_after,
            success,
            changed_weights: change.n_changed,
            n_weights: change.n_values,
            largest_change: change.largest,
            kept_samples: self.method.kept_samples(&aftermath)?,
        };
        Ok(Attacked { network, report })
    }
}
