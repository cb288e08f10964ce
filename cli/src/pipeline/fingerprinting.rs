//! From models, plans and data to fingerprints, and fingerprints in files.

use std::path::Path;

use anyhow::{Context, Result, bail};
use fingerprint::generate::{generate, generate_for_integer};
use fingerprint::select::{SelectionFeatures, select};
use fingerprint::{
    ComparisonRule, Constraint, Fingerprint, FingerprintParts, GenerateProgress, GenerateSpec,
    GeneratorKind, InputGrid, SampleBag, SelectionRule,
};
use ndarray::{Array2, Axis};
use nn_poly::artifact;
use nn_poly::import::{Dataset, Preprocessing, Split, SplitSpec, resolve_data_path};
use nn_poly::model::Model;
use nn_poly::plan::Plan;
use nn_poly::{Network, Shape};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::kind::FileKind;
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
    pub(crate) count: usize,
    pub(crate) bag: usize,
    pub(crate) selection: SelectionRule,
    pub(crate) rule: Option<ComparisonRule>,
    pub(crate) input_bits: Option<u32>,
    pub(crate) ball: Option<f64>,
    pub(crate) margin: Option<f64>,
    pub(crate) seed: u64,
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
    pub(crate) fn starts(&self, argument: &str, split: Split) -> Result<Array2<f32>> {
        let path = resolve_data_path(argument)?;
        let data = Dataset::load(&path, split, self.split())?;
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

/// Generate, choose, and bind to the model or plan.
///
/// # Errors
/// Settings out of range, a network without gradients, samples that keep no margin.
pub(crate) fn make(
    subject: &Subject,
    starts: &Array2<f32>,
    settings: &FingerprintSettings,
    progress: &dyn GenerateProgress,
) -> Result<Fingerprint> {
    let grid = subject.grid(settings.input_bits)?;
    let mut spec = GenerateSpec::new(settings.generator, settings.bag, settings.seed, grid.clone());
    if let Some(rms) = settings.ball {
        spec.constraint = Constraint::Ball { rms };
    }
    spec.min_relative_margin = settings.margin.unwrap_or(match subject {
        Subject::Model(_) => spec.min_relative_margin,
        Subject::Plan { .. } => 0.0,
    });
    let config = spec.check()?;
    let bag = match subject {
        Subject::Model(model) => generate(model.network(), starts, &config, progress)?,
        Subject::Plan { plan, model } => {
            generate_for_integer(plan.network(), model.network(), starts, &config, progress)?
        }
    };
    let chosen = choose(subject.network(), &bag, settings)?;
    let originals = originals(&chosen, starts);
    let parts = FingerprintParts {
        bag: &chosen,
        grid: &grid,
        originals: Some(&originals),
        selection: settings.selection,
        rule: settings.rule.unwrap_or(match subject {
            Subject::Model(_) => ComparisonRule::Top1,
            Subject::Plan { .. } => ComparisonRule::Exact,
        }),
    };
    Ok(match subject {
        Subject::Model(model) => Fingerprint::of_model(model, &parts)?,
        Subject::Plan { plan, .. } => Fingerprint::of_plan(plan, &parts)?,
    })
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

/// The natural samples behind a bag; the samples themselves where there are none.
fn originals(bag: &SampleBag, starts: &Array2<f32>) -> Array2<f32> {
    let mut originals = bag.inputs.clone();
    for (info, mut row) in bag.samples.iter().zip(originals.rows_mut()) {
        let source = info.source.map(|source| source as usize);
        if let Some(source) = source.filter(|&source| source < starts.nrows()) {
            row.assign(&starts.index_axis(Axis(0), source));
        }
    }
    originals
}

/// Read a fingerprint file.
///
/// # Errors
/// A file that cannot be read, of another kind, or damaged.
pub(crate) fn load(path: &Path) -> Result<Fingerprint> {
    FileKind::Fingerprint.expect_of(path)?;
    let limit = fingerprint::fingerprint::MAX_FINGERPRINT_BYTES;
    let bytes = artifact::read_file(path, limit)?;
    Fingerprint::from_bytes(&bytes).with_context(|| format!("cannot use {}", path.display()))
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
