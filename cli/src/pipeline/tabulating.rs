//! Batches for the papers' tables of time and traffic.
//!
//! ```text
//!  data ─► network, trained here ─► plan of a mode ─► encrypted batch, repeated ─► BatchRecord
//!               (kept)                                each equal to the integers    (kept)
//! ```
//!
//! A run that was interrupted goes on from what is kept; times of another machine or build are
//! measured again.

mod batch;
mod grid;
pub(crate) mod shares;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ndarray::{Array2, Axis};
use nn_poly::compiler::Joining;
use nn_poly::import::Dataset;
use nn_poly::model::{Bits, LayerBits, Model};
use nn_poly::network::{ActivationChoice, NetworkKind};
use nn_poly::plan::planner::{Link, PlanGoal};
use nn_poly::plan::{ActivationSide, Plan, PlanOptions};
use nn_poly::train::TrainRecipe;
use tokio::runtime::Runtime;

pub(crate) use batch::BatchRecord;

use super::compiling;
use super::inference;
use super::keeping;
use super::planning;
use super::source::DataSource;
use super::training::{self, TrainingData, TrainingRun, TrainingSettings};
use crate::args::ReadingArguments;
use crate::options::BitsChoice;
use crate::report::machine::Machine;
use crate::report::progress::Progress;

/// Memory that each end may take for a batch.
const MEMORY_BYTES: u64 = 8 << 30;

/// Pixels along one side of a coarse pixel.
const COARSE: usize = 4;

/// How a batch is evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// With a refresh after every layer, activations at the client.
    Client,
    /// With a refresh after every layer, squares at the server.
    Server,
    /// Leveled: one upload, one download, no refresh, weights at these bits.
    NonInteractive(Bits),
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::NonInteractive(_) => "non-interactive",
        })
    }
}

/// What a network is trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Samples {
    /// The data set `mnist`.
    Mnist,
    /// The same in coarse pixels, [`COARSE`] times as wide and high.
    CoarseMnist,
    /// A table of the folder `tabular`, as it is.
    Table(&'static str),
    /// Such a table with its features on a square grid of zeros of this side.
    Grid(&'static str, usize),
}

/// What is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Design {
    pub(crate) kind: NetworkKind,
    /// Convolutions beyond the benchmark's.
    pub(crate) more_convolutions: usize,
    pub(crate) samples: Samples,
}

impl Design {
    /// Name for people.
    pub(crate) fn network(&self) -> String {
        match self.more_convolutions {
            0 => self.kind.to_string(),
            n => format!("{} + {n}", self.kind),
        }
    }

    /// Name of the data.
    pub(crate) const fn data(&self) -> &'static str {
        match self.samples {
            Samples::Mnist | Samples::CoarseMnist => "mnist",
            Samples::Table(name) | Samples::Grid(name, _) => name,
        }
    }

    /// Settings known to work for the samples, on this network.
    fn recipe(&self, scale: &Scale, n_samples: usize) -> (TrainingSettings, TrainRecipe) {
        let settings = |kind| TrainingSettings {
            kind,
            activation: ActivationChoice::Square,
            bits: BitsChoice::Default,
            epochs: scale.epochs,
            run: TrainingRun::seeded(scale.seed),
        };
        let own = training::recipe(&settings(self.kind), n_samples);
        let is_vector_network = self.kind == NetworkKind::Mlp;
        let usual = match self.samples {
            Samples::Mnist | Samples::CoarseMnist if is_vector_network => NetworkKind::Cryptonets,
            Samples::Mnist | Samples::CoarseMnist => self.kind,
            Samples::Table(_) | Samples::Grid(..) => NetworkKind::Mlp,
        };
        let mut recipe = training::recipe(&settings(usual), n_samples);
        recipe.architecture = own.architecture.with_more_convolutions(self.more_convolutions);
        if usual == NetworkKind::Mlp && !is_vector_network {
            // Features need more steps than pixels; wide layers of squares do well with fewer.
            recipe.bits = Bits { input: recipe.bits.input, ..own.bits };
        }
        (settings(self.kind), recipe)
    }
}

/// How much is trained and measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    /// Training samples at most.
    pub(crate) training_samples: usize,
    /// Epochs, if not the recipe's.
    pub(crate) epochs: Option<u32>,
    /// Runs of each batch; times are medians.
    pub(crate) repeat: usize,
    /// Seed of training.
    pub(crate) seed: u64,
}

impl Scale {
    /// The recipes' trainings and medians of three, or sizes for seconds.
    pub(crate) fn new(is_quick: bool, seed: u64) -> Self {
        if is_quick {
            Self { training_samples: 2000, epochs: Some(3), repeat: 1, seed }
        } else {
            Self { training_samples: usize::MAX, epochs: None, repeat: 3, seed }
        }
    }
}

/// Where and with what measurements are made.
pub(crate) struct Laboratory<'a> {
    /// The data sets.
    pub(crate) data: &'a Path,
    /// Where networks and results are kept.
    pub(crate) kept: &'a Path,
    pub(crate) scale: Scale,
    /// Threads for the network.
    pub(crate) runtime: &'a Runtime,
    pub(crate) progress: &'a Progress,
}

impl Laboratory<'_> {
    /// Train a network, or read the one that was trained before.
    ///
    /// # Errors
    /// Data that are missing or do not fit, a training that diverges, kept files that cannot be read or
    /// written.
    pub(crate) fn subject(&self, design: Design) -> Result<Subject<'_>> {
        let data = self.load(design.samples)?;
        let n_train = data.train.n_samples();
        let (settings, recipe) = design.recipe(&self.scale, n_train);
        let stem = format!(
            "{}-{}-{}-seed{}-train{n_train}x{}",
            design.data(),
            data.train.shape().to_string().replace('×', "x"),
            design.network().replace(" + ", "-"),
            self.scale.seed,
            recipe.float.epochs,
        );
        std::fs::create_dir_all(self.kept)
            .with_context(|| format!("cannot create {}", self.kept.display()))?;
        let file = self.kept.join(format!("{stem}.model"));
        let model = if file.exists() {
            Model::load(&file)?
        } else {
            let name = format!("{} on {}", design.network(), design.data());
            let bar = self.progress.spinner(format!("training {name}"));
            let silent = Progress::silent();
            let trained = training::train(&data, &settings, &recipe, &mut (), &silent)?;
            trained.model.save(&file)?;
            bar.finish(format!("trained {name}"));
            trained.model
        };
        Ok(Subject { laboratory: self, design, stem, model, data })
    }

    fn load(&self, samples: Samples) -> Result<TrainingData> {
        let path = match samples {
            Samples::Mnist | Samples::CoarseMnist => self.data.join("mnist"),
            Samples::Table(name) | Samples::Grid(name, _) => {
                self.data.join("tabular").join(format!("{name}.csv"))
            }
        };
        let seed = self.scale.seed;
        let text = path.to_str().context("the path of the data is no text")?;
        let data = training::load(&DataSource::new(text, &ReadingArguments::default()), seed)
            .with_context(|| format!("the table needs the data set {}", path.display()))?;
        let TrainingData { train, test, split } = data;
        let train = train.thinned(self.scale.training_samples)?;
        let shaped = |part: Dataset| match samples {
            Samples::Mnist | Samples::Table(_) => Ok(part),
            Samples::CoarseMnist => grid::coarse(&part, COARSE),
            Samples::Grid(_, side) => grid::on_grid(&part, side),
        };
        Ok(TrainingData { train: shaped(train)?, test: shaped(test)?, split })
    }
}

/// A trained network and its data.
pub(crate) struct Subject<'a> {
    laboratory: &'a Laboratory<'a>,
    pub(crate) design: Design,
    /// Says everything that decides about the network.
    stem: String,
    model: Model,
    data: TrainingData,
}

impl Subject<'_> {
    /// Measure one batch of the test part, repeated until it has `n_samples`, or read what was measured
    /// before.
    ///
    /// # Errors
    /// A mode without a plan; a run that is not intact, whose scores are not the integer network's, or
    /// that moves other bytes than forecast; kept files that cannot be read or written.
    pub(crate) fn measure(&self, mode: Mode, n_samples: u64) -> Result<BatchRecord> {
        self.kept(&self.record_name(mode, n_samples), || {
            self.measure_plan(&self.plan(mode, n_samples)?, mode, n_samples)
        })
    }

    /// As [`measure`](Self::measure); why there is no plan, if there is none.
    ///
    /// # Errors
    /// As [`measure`](Self::measure), but for a mode without a plan.
    pub(crate) fn measure_if_possible(
        &self,
        mode: Mode,
        n_samples: u64,
    ) -> Result<Result<BatchRecord, String>> {
        let mut impossible = None;
        let record = self.kept(&self.record_name(mode, n_samples), || {
            let plan = self.plan(mode, n_samples).inspect_err(|error| {
                impossible = Some(error.to_string());
            })?;
            self.measure_plan(&plan, mode, n_samples)
        });
        match (record, impossible) {
            (_, Some(reason)) => Ok(Err(reason)),
            (record, None) => record.map(Ok),
        }
    }

    /// What is kept under this name and was measured on this machine, or else what `measure` finds.
    fn kept<T: keeping::Kept + Measured>(
        &self,
        name: &str,
        measure: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let path = self.file(name);
        let known = keeping::load::<T>(&path)?;
        if let Some(known) = known.filter(|known| known.machine() == Machine::here().summary()) {
            return Ok(known);
        }
        let record = measure()?;
        keeping::save(&record, &path)?;
        Ok(record)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.laboratory.kept.join(format!("{}-{name}.json", self.stem))
    }

    fn record_name(&self, mode: Mode, n_samples: u64) -> String {
        let bits = self.bits(mode).to_string().replace('/', "");
        format!("{mode}{bits}-batch{n_samples}x{}", self.laboratory.scale.repeat)
    }

    fn bits(&self, mode: Mode) -> Bits {
        match mode {
            Mode::Client | Mode::Server => compiling::bits(&self.model, BitsChoice::Default),
            Mode::NonInteractive(bits) => bits,
        }
    }

    /// The plan of a mode for batches of `n_samples`.
    ///
    /// # Errors
    /// A mode without a plan within the memory.
    fn plan(&self, mode: Mode, n_samples: u64) -> Result<Plan> {
        let (model, bits, features) = (&self.model, self.bits(mode), self.data.train.features());
        let activation_side = match mode {
            Mode::Client => Some(ActivationSide::Client),
            Mode::Server => Some(ActivationSide::Server),
            Mode::NonInteractive(_) => None,
        };
        if let Some(activation_side) = activation_side {
            let expected_samples = n_samples;
            let options =
                PlanOptions { activation_side, expected_samples, ..PlanOptions::default() };
            return Ok(compiling::compile_model(model, bits, features, &options)?.plan);
        }
        let prepared = compiling::prepare(model, &bits.into(), features)?;
        let bits = LayerBits::from(bits);
        let joining = Joining::new(model, &bits, features, None)?;
        let size = inference::run_size(n_samples, &inference::RunSettings::default().layout);
        let goal = PlanGoal {
            link: Link::SameMachine,
            max_rounds: Some(1),
            memory_bytes: Some(MEMORY_BYTES),
            ..PlanGoal::new(size)
        };
        let silent = Progress::silent();
        Ok(planning::plan(prepared, &joining, goal, false, &silent)?.0.plan)
    }

    /// Raw features and labels of a batch: the test part, repeated.
    fn batch(&self, n_samples: u64) -> Result<(Array2<f32>, Vec<u32>)> {
        let test: &Dataset = &self.data.test;
        let n = usize::try_from(n_samples)?;
        let rows: Vec<usize> = (0..test.n_samples()).cycle().take(n).collect();
        let labels = test.labels().unwrap_or_default();
        let labels = rows.iter().filter_map(|&row| labels.get(row).copied()).collect();
        Ok((test.features().select(Axis(0), &rows), labels))
    }

    /// Test accuracy before any rounding.
    fn float_accuracy(&self) -> f64 {
        self.model.spec().training.float_accuracy.unwrap_or_default()
    }
}

/// Figures that depend on the machine.
trait Measured {
    /// The machine they were measured on.
    fn machine(&self) -> &str;
}
