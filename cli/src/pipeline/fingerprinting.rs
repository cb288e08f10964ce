//! From models, plans and data to fingerprints, and fingerprints in files.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use fingerprint::fingerprint::{Sifted, model_digest, sift_for_integer, sift_for_model};
use fingerprint::generate::{MAX_UNFINISHED_BAG_BYTES, resume, resume_for_integer};
use fingerprint::select::{SelectionFeatures, select};
use fingerprint::{
    ComparisonRule, Constraint, Fingerprint, FingerprintParts, GenerateConfig, GenerateProgress,
    GenerateSpec, GeneratorKind, InputGrid, OptimizerKind, SampleBag, SampleInfo, SelectionRule,
    UnfinishedBag,
};
use ndarray::{Array2, Axis};
use nn_poly::artifact;
use nn_poly::import::{Preprocessing, Split, SplitSpec};
use nn_poly::model::Model;
use nn_poly::plan::{Digest, Plan};
use nn_poly::{Network, Shape};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::source::DataSource;
use crate::failure::Hint;
use crate::kind::FileKind;
use crate::output::OutputFile;
use crate::report::progress::Bar;

/// What a fingerprint is made of.
#[derive(Debug)]
pub(crate) enum Subject {
    /// A float model.
    Model(Box<Model>),
    /// A plan, and the float model it came from.
    Plan { plan: Box<Plan>, model: Box<Model> },
}

/// What a person decides about a fingerprint.
#[derive(Debug, Clone)]
pub(crate) struct FingerprintSettings {
    pub(crate) generator: GeneratorKind,
    pub(crate) optimizer: Option<OptimizerKind>,
    pub(crate) count: usize,
    pub(crate) bag: usize,
    pub(crate) selection: SelectionRule,
    pub(crate) rule: Option<ComparisonRule>,
    pub(crate) input_bits: Option<u32>,
    pub(crate) ball: Option<f64>,
    pub(crate) margin: Option<f64>,
    pub(crate) seed: u64,
    /// Where the samples found so far are kept.
    pub(crate) checkpoint: Option<PathBuf>,
    /// Whether to go on from there.
    pub(crate) resume: bool,
}

impl Subject {
    /// The float network gradients come from.
    pub(crate) fn network(&self) -> &Network<f32> {
        match self {
            Self::Model(model) | Self::Plan { model, .. } => model.network(),
        }
    }

    /// Name for people.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Model(model) => &model.spec().name,
            Self::Plan { plan, .. } => &plan.public().name,
        }
    }

    /// Digests of everything that decides about answers and gradients.
    fn digests(&self) -> Result<Vec<Digest>> {
        Ok(match self {
            Self::Model(model) => vec![model_digest(model)?],
            Self::Plan { plan, model } => vec![plan.digest(), model_digest(model)?],
        })
    }

    fn preprocessing(&self) -> &Preprocessing {
        match self {
            Self::Model(model) => &model.spec().preprocessing,
            Self::Plan { plan, .. } => &plan.public().preprocessing,
        }
    }

    fn split(&self) -> &SplitSpec {
        match self {
            Self::Model(model) => &model.spec().split,
            Self::Plan { plan, .. } => &plan.public().split,
        }
    }

    fn shape(&self) -> &Shape {
        self.network().input_shape()
    }

    /// Natural samples as the network sees them.
    ///
    /// # Errors
    /// Data that are missing, damaged or of another shape.
    pub(crate) fn starts(&self, source: &DataSource<'_>, split: Split) -> Result<Array2<f32>> {
        let (path, data) = source.load(split, self.split())?;
        if data.shape() != self.shape() {
            bail!(
                "samples in {} have shape {}, `{}` reads {}: start from the data it was trained on",
                path.display(),
                data.shape(),
                self.name(),
                self.shape(),
            );
        }
        Ok(self.preprocessing().apply(data.features())?)
    }

    /// What the endpoint can receive.
    fn grid(&self, bits: Option<u32>) -> Result<InputGrid> {
        Ok(match (self, bits) {
            (Self::Model(_), bits) => {
                InputGrid::of_preprocessing(self.preprocessing(), bits.unwrap_or(8))?
            }
            (Self::Plan { plan, .. }, None) => InputGrid::of_integer(&plan.public().input)?,
            (Self::Plan { .. }, Some(_)) => {
                bail!("--input-bits is for models: a plan has its own input grid")
            }
        })
    }
}

/// A fingerprint, and what was left out on the way.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) fingerprint: Fingerprint,
    /// Samples generated.
    pub(crate) n_generated: usize,
    /// Samples left out for their label or margin.
    pub(crate) n_narrow: usize,
    /// Samples left out because other honest float stacks answer them differently.
    pub(crate) n_unsteady: usize,
}

/// Generate, sift, choose, and bind to the model or plan.
///
/// # Errors
/// Settings out of range, a network without gradients, samples that keep no margin.
pub(crate) fn make(
    subject: &Subject,
    starts: &Array2<f32>,
    settings: &FingerprintSettings,
    progress: &dyn GenerateProgress,
) -> Result<Made> {
    let grid = subject.grid(settings.input_bits)?;
    let mut spec = GenerateSpec::new(settings.generator, settings.bag, settings.seed, grid.clone());
    if let Some(rms) = settings.ball {
        spec.constraint = Constraint::Ball { rms };
    }
    if let Some(optimizer) = settings.optimizer {
        if !settings.generator.uses_optimizer() {
            bail!(
                "--optimizer is for generators that climb an objective, `{}` does not",
                settings.generator
            );
        }
        spec.optimizer = optimizer;
    }
    let rule = settings.rule.unwrap_or(match subject {
        Subject::Model(_) => ComparisonRule::Top1,
        Subject::Plan { .. } => ComparisonRule::Exact,
    });
    spec.min_relative_margin = settings.margin.unwrap_or(match subject {
        Subject::Model(_) => spec.min_relative_margin,
        Subject::Plan { .. } => 0.0,
    });
    let margin = spec.min_relative_margin;
    let config = spec.check()?;
    let bag = generate_bag(subject, starts, &config, settings, progress)?;
    let sifted = match subject {
        Subject::Model(model) => sift_for_model(model.network(), &bag, &grid, margin)?,
        Subject::Plan { plan, .. } => sift_for_integer(plan.network(), &bag, margin)?,
    };
    let sifted = sifted.at_least(settings.count)?;
    let chosen = choose(subject.network(), &sifted.bag, settings)?;
    let originals = originals(&chosen, starts);
    let parts = FingerprintParts {
        bag: &chosen,
        grid: &grid,
        originals: originals.as_ref(),
        selection: settings.selection,
        rule,
        margin,
    };
    let fingerprint = match subject {
        Subject::Model(model) => Fingerprint::of_model(model, &parts)?,
        Subject::Plan { plan, .. } => Fingerprint::of_plan(plan, &parts)?,
    };
    let Sifted { n_narrow, n_unsteady, .. } = sifted;
    Ok(Made { fingerprint, n_generated: bag.len(), n_narrow, n_unsteady })
}

/// Generate a bag, with what there is of it kept in a file if wanted.
fn generate_bag(
    subject: &Subject,
    starts: &Array2<f32>,
    config: &GenerateConfig,
    settings: &FingerprintSettings,
    progress: &dyn GenerateProgress,
) -> Result<SampleBag> {
    let file = match &settings.checkpoint {
        Some(path) => {
            let (path, resume) = (path.clone(), settings.resume);
            Some(BagFile { path, subjects: subject.digests()?, resume })
        }
        None => None,
    };
    complete_bag(file.as_ref(), starts, config, progress, |bag, progress| {
        Ok(match subject {
            Subject::Model(model) => resume(bag, model.network(), starts, config, progress)?,
            Subject::Plan { plan, model } => {
                let (exact, float) = (plan.network(), model.network());
                resume_for_integer(bag, exact, float, starts, config, progress)?
            }
        })
    })
}

/// Samples begun between two writes of a checkpoint, at least.
const SAMPLES_PER_CHECKPOINT: usize = 64;

/// Where an unfinished bag is kept.
#[derive(Debug, Clone)]
pub(crate) struct BagFile {
    pub(crate) path: PathBuf,
    /// Digests of what the samples are made for.
    pub(crate) subjects: Vec<Digest>,
    /// Whether to go on from there.
    pub(crate) resume: bool,
}

/// Complete a bag by `go_on`, in portions that are kept in a file if there is one.
///
/// # Errors
/// Those of `go_on`, a file of another generation, a folder that cannot be written.
pub(crate) fn complete_bag(
    file: Option<&BagFile>,
    starts: &Array2<f32>,
    config: &GenerateConfig,
    progress: &dyn GenerateProgress,
    mut go_on: impl FnMut(SampleBag, &dyn GenerateProgress) -> Result<SampleBag>,
) -> Result<SampleBag> {
    let spec = config.spec();
    let empty = SampleBag {
        inputs: Array2::zeros((0, starts.ncols())),
        generator: spec.kind,
        seed: spec.seed,
        samples: Vec::new(),
    };
    let Some(BagFile { path, subjects, resume }) = file else { return go_on(empty, progress) };
    let output = OutputFile::check(path)?;
    let mut bag = if *resume && path.exists() {
        let bytes = artifact::read_file(path, MAX_UNFINISHED_BAG_BYTES)?;
        UnfinishedBag::from_bytes(&bytes)
            .and_then(|unfinished| unfinished.into_bag(subjects, starts, config))
            .with_context(|| format!("cannot go on from {}", path.display()))
            .hint(|| "repeat the settings of that run, or start anew without --resume")?
    } else {
        empty
    };
    // A bag that is whole already is checked all the same.
    loop {
        // Longer and longer, so that writing never takes more than a share of the time.
        let until = bag.len() + SAMPLES_PER_CHECKPOINT.max(bag.len() / 4);
        bag = go_on(bag, &Portion { progress, until, done: AtomicUsize::new(0) })?;
        output.write(&UnfinishedBag::new(subjects, starts, config, bag.clone())?.to_bytes()?)?;
        if bag.len() >= spec.count {
            return Ok(bag);
        }
    }
}

/// Remove the checkpoint of a fingerprint that is written: its samples are a secret.
///
/// # Errors
/// A file that cannot be removed.
pub(crate) fn discard_checkpoint(settings: &FingerprintSettings) -> Result<()> {
    match &settings.checkpoint {
        Some(path) if path.exists() => std::fs::remove_file(path)
            .with_context(|| format!("cannot remove the checkpoint {}", path.display())),
        Some(_) | None => Ok(()),
    }
}

/// Stops a generation when there are so many samples.
struct Portion<'a> {
    progress: &'a dyn GenerateProgress,
    until: usize,
    done: AtomicUsize,
}

impl GenerateProgress for Portion<'_> {
    fn advanced(&self, done: usize, total: usize) {
        self.done.fetch_max(done, Ordering::Relaxed);
        self.progress.advanced(done, total);
    }

    fn is_cancelled(&self) -> bool {
        self.done.load(Ordering::Relaxed) >= self.until || self.progress.is_cancelled()
    }
}

fn choose(
    network: &Network<f32>,
    bag: &SampleBag,
    settings: &FingerprintSettings,
) -> Result<SampleBag> {
    let features = SelectionFeatures::new(network, bag)?;
    let mut rng = ChaCha8Rng::seed_from_u64(settings.seed);
    let positions = select(settings.selection, &features, settings.count, None, &mut rng);
    Ok(bag.select(&positions)?)
}

/// The natural samples behind a bag; none if a sample has none.
fn originals(bag: &SampleBag, starts: &Array2<f32>) -> Option<Array2<f32>> {
    let source = |info: &SampleInfo| {
        info.source.map(|source| source as usize).filter(|&source| source < starts.nrows())
    };
    let rows: Option<Vec<usize>> = bag.samples.iter().map(source).collect();
    Some(starts.select(Axis(0), &rows?))
}

/// Read a fingerprint file.
///
/// # Errors
/// A file that cannot be read, of another kind, or damaged.
pub(crate) fn load(path: &Path) -> Result<Fingerprint> {
    FileKind::Fingerprint.expect_of(path)?;
    let limit = fingerprint::fingerprint::MAX_FINGERPRINT_BYTES;
    let bytes = artifact::read_file(path, limit)?;
    Fingerprint::from_bytes(&bytes)
        .with_context(|| format!("cannot use {}", path.display()))
        .hint(|| "make it again with this program: `securedl fingerprint generate …`")
}

/// Shows how many samples are ready.
#[derive(Debug)]
pub(crate) struct SampleBar(pub(crate) Bar);

impl GenerateProgress for SampleBar {
    fn advanced(&self, done: usize, total: usize) {
        self.0.at(done as u64);
        self.0.message(format!("{done}/{total}"));
    }
}
