//! From labeled samples to a fine-tuned model.
//!
//! ```text
//!  float training ──► calibrate, insert quantizers ──► fine-tuning ──► Model
//!        └── checkpoint FILE                                └── checkpoint FILE.fine-tune
//! ```

mod settings;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nn_poly::import::{Dataset, Preprocessing, Split, SplitSpec};
use nn_poly::layer::Layer;
use nn_poly::model::{Bits, Model, ModelSpec, TrainingRecord};
use nn_poly::network::{Network, Source};
use nn_poly::quantize::{Quantized, calibrate, prepare_qat, quantize};
use nn_poly::train::{
    BatchReport, Checkpoint, EpochReport, Evaluation, FunctionMatching, LabeledSamples, Outcome,
    Progress as Watcher, TrainRecipe, TrainSpec, Trainer, evaluate,
};

pub(crate) use settings::{TrainingRun, TrainingSettings, recipe};

use super::source::DataSource;
use crate::failure::Hint;
use crate::options::BitsChoice;
use crate::report::progress::{Bar, Progress};

/// Test samples looked at after each epoch: enough for a trend, quick for every network.
const GLANCE_SAMPLES: usize = 2000;

/// Samples to learn from and to measure with.
#[derive(Debug)]
pub(crate) struct TrainingData {
    /// The training part.
    pub(crate) train: Dataset,
    /// The test part, with the classes of the training part.
    pub(crate) test: Dataset,
    /// How the two were cut, if they were.
    pub(crate) split: SplitSpec,
}

/// A trained model and how good it is.
#[derive(Debug)]
pub(crate) struct Trained {
    /// The model.
    pub(crate) model: Model,
    /// Test accuracy of the float network.
    pub(crate) float: Evaluation,
    /// The integer network and its test accuracy, if there was fine-tuning.
    pub(crate) integer: Option<(Quantized, Evaluation)>,
}

/// The parts of a training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Ordinary training.
    Float,
    /// From other functions to polynomials.
    Blend,
    /// Fine-tuning with quantizers at these bits.
    FineTune(Bits),
}

/// One epoch that is over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EpochSummary {
    /// Epoch, from 1.
    pub(crate) epoch: u32,
    /// Epochs of the phase.
    pub(crate) n_epochs: u32,
    /// Mean loss.
    pub(crate) loss: f64,
    /// Share of the first test samples classified right.
    pub(crate) accuracy: f64,
    /// How many test samples that were.
    pub(crate) n_samples: usize,
    /// Time of the epoch.
    pub(crate) time: Duration,
}

/// Told how a training goes on.
pub(crate) trait Observer {
    /// A phase begins; some of its epochs may have been done by an earlier run.
    fn phase(&mut self, _phase: Phase, _spec: &TrainSpec, _network: &Network<f32>) {}
    /// An epoch is over.
    fn epoch(&mut self, _phase: Phase, _summary: &EpochSummary) {}
}

/// Watches nothing.
impl Observer for () {}

/// Train as `recipe` says and make a model of it.
///
/// # Errors
/// Unusable data or settings, divergence, or a checkpoint that cannot be read or written.
pub(crate) fn train(
    data: &TrainingData,
    settings: &TrainingSettings,
    recipe: &TrainRecipe,
    observer: &mut dyn Observer,
    progress: &Progress,
) -> Result<Trained> {
    let started = Instant::now();
    // First, because it is the shape that tells most about data of another kind.
    let initial =
        recipe.architecture.build(data.train.shape(), data.train.n_classes(), settings.run.seed)?;
    let preprocessing = recipe.preprocessing.fit(data.train.features())?;
    let parts = Parts::new(data, &preprocessing)?;
    let (resume, teacher) = (settings.run.resume, None);
    let mut run = PhaseRun { parts: &parts, teacher, resume, observer, progress };

    let file = settings.run.checkpoint.clone();
    let float = run.run(Phase::Float, initial, &recipe.float, file)?;
    let float_accuracy = evaluate(&float, &parts.test)?;

    let (network, integer) = if settings.bits == BitsChoice::None {
        (float, None)
    } else {
        let plan = (recipe.bits, &recipe.fine_tune, settings.run.fine_tune_file());
        let (network, integer) = run.fine_tune(&float, &preprocessing, plan)?;
        (network, Some(integer))
    };
    let accuracy = match &integer {
        Some((_, evaluation)) => evaluation.accuracy(),
        None => float_accuracy.accuracy(),
    };
    let record = TrainingRecord {
        epochs: recipe.float.epochs,
        fine_tune_epochs: if integer.is_some() { recipe.fine_tune.epochs } else { 0 },
        seed: settings.run.seed,
        n_training_samples: data.train.n_samples() as u64,
        float_accuracy: Some(float_accuracy.accuracy()),
        accuracy: Some(accuracy),
        seconds: started.elapsed().as_secs_f64(),
    };
    let bits = integer.is_some().then_some(recipe.bits);
    let model = Model::new(model_spec(data, settings, network, preprocessing, bits, record))?;
    Ok(Trained { model, float: float_accuracy, integer })
}

fn model_spec(
    data: &TrainingData,
    settings: &TrainingSettings,
    network: Network<f32>,
    preprocessing: Preprocessing,
    bits: Option<Bits>,
    training: TrainingRecord,
) -> ModelSpec {
    let source = data.train.source();
    let stem = source.split('.').next().unwrap_or(source);
    ModelSpec {
        name: format!("{}-{stem}", settings.kind),
        kind: settings.kind,
        activation: settings.activation,
        network,
        preprocessing,
        split: data.split,
        class_names: data.train.class_names().to_vec(),
        bits,
        training,
        data_source: source.to_owned(),
    }
}

/// How an integer network does on samples.
pub(super) fn integer_evaluation(
    quantized: &Quantized,
    samples: &LabeledSamples,
) -> Result<Evaluation> {
    let inputs = quantized.network.input().quantize(samples.inputs().view())?;
    let predicted = quantized.network.evaluate(&inputs)?.predictions();
    Ok(Evaluation::of(&predicted, samples.labels(), samples.n_classes()))
}

/// Samples as networks read them.
pub(super) struct Parts {
    pub(super) train: LabeledSamples,
    pub(super) test: LabeledSamples,
    glance: LabeledSamples,
}

impl Parts {
    pub(super) fn new(data: &TrainingData, preprocessing: &Preprocessing) -> Result<Self> {
        Ok(Self {
            train: data.train.labeled(preprocessing)?,
            test: data.test.labeled(preprocessing)?,
            glance: data.test.thinned(GLANCE_SAMPLES)?.labeled(preprocessing)?,
        })
    }
}

/// `network` as a teacher at this temperature; none at 0.
pub(super) fn teacher(
    network: &Network<f32>,
    temperature: f32,
) -> Result<Option<FunctionMatching>> {
    let is_taught = temperature != 0.0;
    Ok(is_taught.then(|| FunctionMatching::new(network.clone(), temperature)).transpose()?)
}

/// Runs the phases of one training.
pub(super) struct PhaseRun<'a> {
    pub(super) parts: &'a Parts,
    /// What training makes small, if not the cross-entropy with the labels.
    pub(super) teacher: Option<FunctionMatching>,
    pub(super) resume: bool,
    pub(super) observer: &'a mut dyn Observer,
    pub(super) progress: &'a Progress,
}

impl PhaseRun<'_> {
    /// Calibrate, insert quantizers and train with them; the network and its integer form.
    pub(super) fn fine_tune(
        &mut self,
        float: &Network<f32>,
        preprocessing: &Preprocessing,
        (bits, spec, file): (Bits, &TrainSpec, Option<PathBuf>),
    ) -> Result<(Network<f32>, (Quantized, Evaluation))> {
        let grids = calibrate(float, preprocessing, self.parts.train.inputs(), bits)?;
        let quantized = prepare_qat(float, &grids)?;
        let network = self.run(Phase::FineTune(bits), quantized, spec, file)?;
        let integer = quantize(&network)?;
        let evaluation = integer_evaluation(&integer, &self.parts.test)?;
        Ok((network, (integer, evaluation)))
    }

    /// One phase, epoch by epoch.
    pub(super) fn run(
        &mut self,
        phase: Phase,
        initial: Network<f32>,
        spec: &TrainSpec,
        file: Option<PathBuf>,
    ) -> Result<Network<f32>> {
        self.observer.phase(phase, spec, &initial);
        let mut trainer = self.trainer(initial, spec, file.as_deref())?;
        loop {
            let mut watcher = EpochWatcher::new(phase, self.progress);
            let outcome = match &self.teacher {
                None => trainer.run(&self.parts.train, &mut watcher)?,
                Some(teacher) => trainer.run_with(&self.parts.train, teacher, &mut watcher)?,
            };
            let Some((report, time)) = watcher.finished.take() else {
                return Ok(trainer.into_network());
            };
            if let Some(file) = &file {
                trainer.checkpoint().save(file).context("cannot save the checkpoint")?;
            }
            let glance = evaluate(trainer.network(), &self.parts.glance)?;
            let summary = EpochSummary {
                epoch: report.epoch,
                n_epochs: report.n_epochs,
                loss: report.mean_loss,
                accuracy: glance.accuracy(),
                n_samples: glance.n_samples(),
                time,
            };
            self.observer.epoch(phase, &summary);
            if outcome == Outcome::Finished {
                return Ok(trainer.into_network());
            }
        }
    }

    /// A trainer at the start of the phase, or where an earlier run stopped.
    fn trainer(
        &self,
        initial: Network<f32>,
        spec: &TrainSpec,
        file: Option<&Path>,
    ) -> Result<Trainer> {
        let config = spec.check()?;
        let Some(file) = file.filter(|file| self.resume && file.exists()) else {
            return Ok(Trainer::new(initial, config)?);
        };
        let trainer = Trainer::resume(Checkpoint::load(file)?);
        let is_same = trainer.config() == &config
            && trainer.network().layer_shapes() == initial.layer_shapes()
            && connections(trainer.network()) == connections(&initial);
        if !is_same {
            let error = anyhow::anyhow!(
                "the checkpoint {} belongs to a run with other settings (network, epochs, bits or seed)",
                file.display()
            );
            return Err(error)
                .hint(|| "repeat the settings of that run, or start anew without --resume");
        }
        Ok(trainer)
    }
}

/// Every layer's name and what it reads.
fn connections(network: &Network<f32>) -> Vec<(&'static str, &[Source])> {
    let layer = |(idx, layer): (usize, &Layer<f32>)| (layer.name(), network.sources(idx));
    network.layers().iter().enumerate().map(layer).collect()
}

/// Shows the steps of one epoch as a bar, and stops the trainer at its end.
struct EpochWatcher<'a> {
    phase: Phase,
    progress: &'a Progress,
    bar: Option<Bar>,
    started: Instant,
    finished: Option<(EpochReport, Duration)>,
}

impl<'a> EpochWatcher<'a> {
    fn new(phase: Phase, progress: &'a Progress) -> Self {
        Self { phase, progress, bar: None, started: Instant::now(), finished: None }
    }
}

impl Watcher for EpochWatcher<'_> {
    fn batch(&mut self, report: &BatchReport) -> ControlFlow<()> {
        let bar = self.bar.get_or_insert_with(|| {
            let what = match self.phase {
                Phase::Float => "training",
                Phase::Blend => "blending",
                Phase::FineTune(_) => "fine-tuning",
            };
            let name = format!("{what}, epoch {}/{}", report.epoch, report.n_epochs);
            self.progress.bar(name, report.n_batches)
        });
        bar.advance(1);
        bar.message(format!("loss {:.4}", report.loss));
        if report.batch == report.n_batches {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    fn epoch(&mut self, report: &EpochReport) {
        self.bar = None;
        self.finished = Some((*report, self.started.elapsed()));
    }
}

/// Load both parts of a data set for training.
///
/// # Errors
/// Data that are missing, damaged, without labels or with fewer than two classes.
pub(crate) fn load(source: &DataSource<'_>, seed: u64) -> Result<TrainingData> {
    load_split(source, SplitSpec { seed, ..SplitSpec::default() })
}

/// Load both parts of a data set that is cut, if it must be cut, as it was before.
///
/// # Errors
/// As [`load`].
pub(crate) fn load_split(source: &DataSource<'_>, split: SplitSpec) -> Result<TrainingData> {
    let (path, train) = source.load(Split::Train, &split)?;
    if train.labels().is_none() {
        bail!(
            "{} has no labels; training needs labeled data (of a table, --label-column names the \
             column of classes)",
            path.display()
        );
    }
    if train.n_classes() < 2 {
        bail!("{} has samples of one class only; there is nothing to tell apart", path.display());
    }
    let test = load_test_part(source, &train, &split)?;
    Ok(TrainingData { train, test, split })
}

/// Load both parts of the data that a model was trained on.
///
/// # Errors
/// As [`load`], or data of another shape or of other classes.
pub(crate) fn load_like(source: &DataSource<'_>, model: &ModelSpec) -> Result<TrainingData> {
    let data = load_split(source, model.split)?;
    let (shape, expected) = (data.train.shape(), model.network.input_shape());
    if shape != expected {
        bail!(
            "the samples in {} are of shape {shape}, those of the model `{}` of shape {expected}: use the \
             data it was trained on",
            data.train.source(),
            model.name
        );
    }
    check_classes(&data.train, model)?;
    Ok(data)
}

/// Check that classes of the same number have the same name.
///
/// # Errors
/// Data with other classes than the model's; names the first one.
pub(crate) fn check_classes(data: &Dataset, model: &ModelSpec) -> Result<()> {
    let (names, expected) = (data.class_names(), model.class_names.as_slice());
    let (source, model) = (data.source(), &model.name);
    if names.len() != expected.len() {
        let (n, n_expected) = (names.len(), expected.len());
        bail!("{source} has {n} classes, and the model `{model}` tells {n_expected} apart");
    }
    match names.iter().zip(expected).position(|(name, expected)| name != expected) {
        None => Ok(()),
        Some(class) => {
            let of = |names: &[String]| names.get(class).cloned().unwrap_or_default();
            Err(anyhow!(
                "class {class} is `{}` in {source} and `{}` in the model `{model}`",
                of(names),
                of(expected)
            ))
            .hint(|| {
                "an imported network gets the names of its classes by `securedl import --labels FILE`"
            })
        }
    }
}

/// The test part beside the training part `train` of a source, with its classes.
///
/// # Errors
/// Data without a test part, or one of other classes or of another shape.
pub(crate) fn load_test_part(
    source: &DataSource<'_>,
    train: &Dataset,
    split: &SplitSpec,
) -> Result<Dataset> {
    let (_, test) = source.load(Split::Test, split)?;
    let test = test
        .with_classes(train.class_names())
        .context("the test part does not fit the training part")?;
    if test.shape() != train.shape() {
        bail!(
            "test samples have shape {}, training samples {}: these are parts of two data sets",
            test.shape(),
            train.shape()
        );
    }
    Ok(test)
}
