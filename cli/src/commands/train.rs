//! `securedl train`: from data to a model file.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use nn_poly::model::Model;
use nn_poly::network::Network;
use nn_poly::train::{Optimizer, TrainSpec};

use crate::args::{TrainArguments, TrainedModelArguments};
use crate::failure::Outcome;
use crate::kind::FileKind;
use crate::options::BitsChoice;
use crate::output::OutputFile;
use crate::pipeline::source::DataSource;
use crate::pipeline::training::{
    self, EpochSummary, Observer, Phase, Trained, TrainingData, TrainingRun, TrainingSettings,
};
use crate::report::terminal::{Ink, Screen};
use crate::report::{Console, layers, units};

/// Train and write the model.
pub(crate) fn run(arguments: &TrainArguments) -> Result<Outcome> {
    let Console { screen, progress } = Console::new(None);
    let settings = TrainingSettings {
        kind: arguments.network.into(),
        activation: arguments.activation.into(),
        bits: BitsChoice::new(arguments.bits)?,
        epochs: arguments.epochs,
        run: TrainingRun::new(&arguments.run)?,
    };
    let out = OutputFile::check(&arguments.run.out)?;
    let bar = progress.spinner("reading data");
    let source = DataSource::new(&arguments.data, &arguments.reading);
    let data = training::load(&source, arguments.run.seed)?;
    drop(bar);
    print_data(&screen, &data);
    let recipe = training::recipe(&settings, data.train.n_samples());
    let mut rows = Rows { screen: &screen };
    let trained = training::train(&data, &settings, &recipe, &mut rows, &progress)?;
    let n_bytes = write_model(out, &trained.model)?;
    print_results(&screen, &trained);
    print_trained(&screen, &trained.model, &arguments.run.out, n_bytes);
    screen.finish()?;
    Ok(Outcome::Success)
}

/// A trained model and what training goes on with.
pub(super) struct Retraining {
    /// The model to start from.
    pub(super) model: Model,
    /// Data of the same kind.
    pub(super) data: TrainingData,
    /// Where the next model goes.
    out: OutputFile,
}

impl Retraining {
    /// Read the model and its data, once the result is known to be writable.
    pub(super) fn open(
        trained: &TrainedModelArguments,
        out: &Path,
        Console { screen, progress }: &Console,
    ) -> Result<Self> {
        let out = OutputFile::check(out)?;
        FileKind::Model.expect_of(&trained.model)?;
        let model = Model::load(&trained.model)?;
        let bar = progress.spinner("reading data");
        let source = DataSource::new(&trained.data, &trained.reading);
        let data = training::load_like(&source, model.spec())?;
        drop(bar);
        print_data(screen, &data);
        Ok(Self { model, data, out })
    }

    /// Write the next model; gives its bytes.
    pub(super) fn write(self, model: &Model) -> Result<usize> {
        write_model(self.out, model)
    }
}

fn write_model(out: OutputFile, model: &Model) -> Result<usize> {
    let bytes = model.to_bytes()?;
    out.write(&bytes)?;
    Ok(bytes.len())
}

/// How long the training of a model took, and where the model is.
pub(super) fn print_trained(screen: &Screen, model: &Model, path: &Path, n_bytes: usize) {
    let seconds = model.spec().training.seconds.max(0.0);
    screen.fact("Time", units::duration(Duration::from_secs_f64(seconds)));
    screen.fact("Model", format!("{} ({})", path.display(), units::bytes(n_bytes as u64)));
}

fn print_data(screen: &Screen, data: &TrainingData) {
    screen.fact(
        "Data",
        format!(
            "{}: {} training and {} test samples, {}, {} classes",
            data.train.source(),
            units::count(data.train.n_samples()),
            units::count(data.test.n_samples()),
            data.train.shape(),
            data.train.n_classes(),
        ),
    );
}

fn print_results(screen: &Screen, trained: &Trained) {
    screen.gap();
    let n_samples = units::counted(trained.float.n_samples(), "test sample");
    screen.fact("Float", format!("{} of {n_samples}", units::percent(trained.float.accuracy())));
    match &trained.integer {
        Some((quantized, evaluation)) => {
            screen.fact(
                "Integer",
                format!(
                    "{} of {n_samples}, {} products per sample",
                    screen.paint(Ink::Bold, units::percent(evaluation.accuracy())),
                    units::count(quantized.network.n_products()),
                ),
            );
        }
        None => screen.fact("Integer", "not fine-tuned (--bits none)"),
    }
}

/// Rows of a phase at most, or two more: the rest is left out evenly.
const MAX_ROWS: u32 = 20;

/// Prints a row per epoch, or per few epochs if there are many.
pub(super) struct Rows<'a> {
    pub(super) screen: &'a Screen,
}

impl Observer for Rows<'_> {
    fn phase(&mut self, phase: Phase, spec: &TrainSpec, network: &Network<f32>) {
        let screen = self.screen;
        match phase {
            Phase::Float => {
                screen.fact("Network", layers::summary(network));
                screen.fact("Parameters", units::count(network.n_parameters()));
                screen.heading(format_args!("Training: {}", describe(spec)));
            }
            Phase::Blend => {
                screen.fact("Network", layers::summary(network));
                screen.heading(format_args!("From ReLU to polynomials: {}", describe(spec)));
            }
            Phase::FineTune(bits) => {
                screen.heading(format_args!("Fine-tuning at {bits} bits: {}", describe(spec)))
            }
        }
    }

    fn epoch(&mut self, _: Phase, summary: &EpochSummary) {
        let step = summary.n_epochs.div_ceil(MAX_ROWS);
        if !summary.epoch.is_multiple_of(step) && summary.epoch != summary.n_epochs {
            return;
        }
        let width = summary.n_epochs.to_string().len();
        let EpochSummary { epoch, n_epochs, loss, accuracy, n_samples, time } = *summary;
        self.screen.line(format_args!(
            "  epoch {epoch:>width$}/{n_epochs}   loss {loss:.4}   accuracy {} {}",
            units::percent(accuracy),
            self.screen.paint(
                Ink::Dim,
                format_args!(
                    "of {} · {}",
                    units::counted(n_samples, "test sample"),
                    units::duration(time)
                )
            ),
        ));
    }
}

fn describe(spec: &TrainSpec) -> String {
    let optimizer = match spec.optimizer {
        Optimizer::Sgd { .. } => "SGD",
        Optimizer::Adam => "Adam",
        Optimizer::AdamW { .. } => "AdamW",
    };
    format!(
        "{} of {optimizer}, batches of {}, peak rate {}, seed {}",
        units::counted(spec.epochs, "epoch"),
        spec.batch_size,
        spec.learning_rate,
        spec.seed
    )
}
