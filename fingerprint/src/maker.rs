//! From a model or plan and natural samples to a fingerprint, in one place for every program.
//!
//! ```text
//!  natural samples ─► generate ─► sift ─► select ─► bind to model or plan ─► Fingerprint
//!                      bag of n    what honest services answer alike          k samples
//! ```

use ndarray::{Array2, Axis};
use nn_poly::Shape;
use nn_poly::import::{Preprocessing, SplitSpec};
use nn_poly::model::Model;
use nn_poly::plan::{Digest, Plan};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::error::{Error, Result};
use crate::fingerprint::{
    Fingerprint, FingerprintParts, Sifted, model_digest, sift_for_integer, sift_for_model,
};
use crate::generate::{
    Constraint, GenerateConfig, GenerateProgress, GenerateSpec, GeneratorKind, OptimizerKind,
    resume, resume_for_integer,
};
use crate::rule::ComparisonRule;
use crate::sample::{InputGrid, SampleBag, SampleInfo};
use crate::select::{SelectionFeatures, SelectionRule, select};

/// Bits of the inputs of endpoints of models, unless said otherwise: pixels of one byte.
const INPUT_BITS: u32 = 8;
/// Most samples generated.
const MAX_BAG_SAMPLES: u64 = 1_000_000;
/// Samples generated for a fingerprint, unless it has more.
const BAG_SAMPLES: usize = 100;

/// What a fingerprint is made of: a model, or a plan and the model it was compiled from.
///
/// Gradients come from the model; answers from the plan, if there is one.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The float model.
    pub model: &'a Model,
    /// The plan, if it is the plan's fingerprint.
    pub plan: Option<&'a Plan>,
}

impl<'a> Subject<'a> {
    /// Name for people.
    #[must_use]
    pub fn name(&self) -> &'a str {
        self.plan.map_or(&self.model.spec().name, |plan| &plan.public().name)
    }

    /// Shape of a sample.
    #[must_use]
    pub fn shape(&self) -> &'a Shape {
        self.model.network().input_shape()
    }

    /// What turns raw samples into those the network sees.
    #[must_use]
    pub fn preprocessing(&self) -> &'a Preprocessing {
        self.plan.map_or(&self.model.spec().preprocessing, |plan| &plan.public().preprocessing)
    }

    /// Which samples of the data it was trained on are training samples.
    #[must_use]
    pub fn split(&self) -> &'a SplitSpec {
        self.plan.map_or(&self.model.spec().split, |plan| &plan.public().split)
    }

    /// Digests of everything that decides about answers and gradients.
    ///
    /// # Errors
    /// - [`Error::Network`] never for a checked model.
    pub fn digests(&self) -> Result<Vec<Digest>> {
        let plan = self.plan.map(|plan| Ok(plan.digest()));
        plan.into_iter().chain([model_digest(self.model)]).collect()
    }

    /// What the endpoint can receive.
    fn grid(&self, bits: Option<u32>) -> Result<InputGrid> {
        match (self.plan, bits) {
            (None, bits) => {
                InputGrid::of_preprocessing(self.preprocessing(), bits.unwrap_or(INPUT_BITS))
            }
            (Some(plan), None) => InputGrid::of_integer(&plan.public().input),
            (Some(_), Some(bits)) => Err(Error::InvalidSetting {
                setting: "the number of input bits",
                value: bits.into(),
                requirement: "left out for a plan, which has its own input grid",
            }),
        }
    }
}

/// What a person decides about a fingerprint.
#[derive(Debug, Clone)]
pub struct MakerSettings {
    /// How samples are found.
    pub generator: GeneratorKind,
    /// How smooth objectives are climbed; Adam unless given.
    pub optimizer: Option<OptimizerKind>,
    /// Samples of the fingerprint.
    pub count: usize,
    /// Samples generated, of which the fingerprint's are chosen; 100, or `count` if that is more, unless
    /// given.
    pub bag: Option<usize>,
    /// How they are chosen.
    pub selection: SelectionRule,
    /// How answers are compared: by their labels for models, exactly for plans, unless given.
    pub rule: Option<ComparisonRule>,
    /// Bits of the endpoint's inputs, 8 unless given. Models only: plans have their own.
    pub input_bits: Option<u32>,
    /// Stay within so many grey levels (root mean square) of the natural sample.
    pub ball: Option<f64>,
    /// Smallest distance of the two largest scores, relative to the largest: 1e-5 for models, 0 for plans,
    /// unless given.
    pub margin: Option<f64>,
    /// Seed of everything random.
    pub seed: u64,
}

impl Default for MakerSettings {
    /// Eight samples by the default generator and selection.
    fn default() -> Self {
        Self {
            generator: GeneratorKind::default(),
            optimizer: None,
            count: 8,
            bag: None,
            selection: SelectionRule::default(),
            rule: None,
            input_bits: None,
            ball: None,
            margin: None,
            seed: 0,
        }
    }
}

/// Makes one fingerprint: [`Self::make`], or [`Self::extend`] until the bag is whole, then
/// [`Self::finish`].
#[derive(Debug)]
pub struct Maker<'a> {
    subject: Subject<'a>,
    settings: MakerSettings,
    grid: InputGrid,
    config: GenerateConfig,
}

/// A fingerprint, and what was left out on the way.
#[derive(Debug)]
pub struct Made {
    /// The fingerprint.
    pub fingerprint: Fingerprint,
    /// Samples generated.
    pub n_generated: usize,
    /// Samples left out for their label or margin.
    pub n_narrow: usize,
    /// Samples left out because other honest float stacks answer them differently.
    pub n_unsteady: usize,
}

impl<'a> Maker<'a> {
    /// Checks the settings.
    ///
    /// # Errors
    /// - [`Error::CountOutOfRange`] for fewer samples generated than chosen, or more than a million.
    /// - [`Error::InvalidSetting`] for settings out of range, or that do not go with a plan.
    /// - [`Error::UnusedOptimizer`] for an optimizer that the generator does not use.
    pub fn new(subject: Subject<'a>, settings: MakerSettings) -> Result<Self> {
        let grid = subject.grid(settings.input_bits)?;
        let n_bag = settings.bag.unwrap_or(BAG_SAMPLES.max(settings.count));
        // At least one that can be chosen for each sample wanted.
        let (actual, min, max) = (n_bag as u64, settings.count as u64, MAX_BAG_SAMPLES);
        if actual < min || actual > max {
            let name = "the number of samples generated";
            return Err(Error::CountOutOfRange { name, actual, min, max });
        }
        let mut spec = GenerateSpec::new(settings.generator, n_bag, settings.seed, grid.clone());
        if let Some(rms) = settings.ball {
            spec.constraint = Constraint::Ball { rms };
        }
        if let Some(optimizer) = settings.optimizer {
            if !settings.generator.uses_optimizer() {
                return Err(Error::UnusedOptimizer { generator: settings.generator });
            }
            spec.optimizer = optimizer;
        }
        if let Some(margin) = settings.margin.or(subject.plan.map(|_| 0.0)) {
            spec.min_relative_margin = margin;
        }
        Ok(Self { subject, settings, grid, config: spec.check()? })
    }

    /// How samples are generated.
    #[must_use]
    pub fn config(&self) -> &GenerateConfig {
        &self.config
    }

    /// Generates samples until the bag is whole or `progress` asks for an end; begins with
    /// [`GenerateConfig::empty_bag`]. `starts (n, features)` are natural samples as the network sees them.
    ///
    /// # Errors
    /// - Those of [`resume`] and [`resume_for_integer`].
    pub fn extend(
        &self,
        bag: SampleBag,
        starts: &Array2<f32>,
        progress: &dyn GenerateProgress,
    ) -> Result<SampleBag> {
        let float = self.subject.model.network();
        match self.subject.plan {
            None => resume(bag, float, starts, &self.config, progress),
            Some(plan) => {
                resume_for_integer(bag, plan.network(), float, starts, &self.config, progress)
            }
        }
    }

    /// Sifts a whole bag, chooses from it, and binds what is chosen to the model or plan.
    ///
    /// # Errors
    /// - [`Error::Stopped`] if the bag is not whole.
    /// - [`Error::TooFewSteady`] if too few samples can be used.
    /// - Those of [`Fingerprint::of_model`] and [`Fingerprint::of_plan`].
    pub fn finish(&self, bag: &SampleBag, starts: &Array2<f32>) -> Result<Made> {
        if bag.len() < self.config.spec().count {
            return Err(Error::Stopped);
        }
        let margin = self.config.spec().min_relative_margin;
        let (subject, settings) = (&self.subject, &self.settings);
        let sifted = match subject.plan {
            None => sift_for_model(subject.model.network(), bag, &self.grid, margin)?,
            Some(plan) => sift_for_integer(plan.network(), bag, margin)?,
        };
        let Sifted { bag: sifted, n_narrow, n_unsteady } = sifted.at_least(settings.count)?;
        let features = SelectionFeatures::new(subject.model.network(), &sifted)?;
        let mut rng = ChaCha8Rng::seed_from_u64(settings.seed);
        let positions = select(settings.selection, &features, settings.count, None, &mut rng);
        let chosen = sifted.select(&positions)?;
        let originals = originals(&chosen, starts);
        let rule = match subject.plan {
            None => ComparisonRule::Top1,
            Some(_) => ComparisonRule::Exact,
        };
        let parts = FingerprintParts {
            bag: &chosen,
            grid: &self.grid,
            originals: originals.as_ref(),
            selection: settings.selection,
            rule: settings.rule.unwrap_or(rule),
            margin,
        };
        let fingerprint = match subject.plan {
            None => Fingerprint::of_model(subject.model, &parts)?,
            Some(plan) => Fingerprint::of_plan(plan, &parts)?,
        };
        Ok(Made { fingerprint, n_generated: bag.len(), n_narrow, n_unsteady })
    }

    /// Generates, sifts, chooses and binds.
    ///
    /// # Errors
    /// - [`Error::Stopped`] if `progress` asked for an end.
    /// - Those of [`Self::extend`] and [`Self::finish`].
    pub fn make(&self, starts: &Array2<f32>, progress: &dyn GenerateProgress) -> Result<Made> {
        let bag = self.extend(self.config.empty_bag(starts.ncols()), starts, progress)?;
        self.finish(&bag, starts)
    }
}

/// The natural samples behind a bag; none if a sample has none.
fn originals(bag: &SampleBag, starts: &Array2<f32>) -> Option<Array2<f32>> {
    let source = |info: &SampleInfo| {
        info.source.map(|source| source as usize).filter(|&source| source < starts.nrows())
    };
    let rows: Option<Vec<usize>> = bag.samples.iter().map(source).collect();
    Some(starts.select(Axis(0), &rows?))
}
