//! From natural samples to bags of generated ones.

use std::sync::atomic::{AtomicUsize, Ordering};

use ndarray::{Array2, Axis};
use nn_poly::Network;
use nn_poly::integer::IntegerNetwork;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::objective::UnitCoordinates;
use super::polish::{Polisher, Prediction, Until};
use super::prepare::Prepared;
use super::projection::Feasible;
use super::scoring::{FloatScorer, IntegerScorer, Ranking, Scorer};
use super::search::search;
use super::search_grid::SearchGrid;
use super::{Constraint, GenerateConfig, GenerateProgress, GeneratorKind};
use crate::error::{Error, Result};
use crate::sample::{SampleBag, SampleInfo};
use crate::sensitivity::{LayerSelection, Sensitivity, SensitivityOutputs};

/// Samples begun between two looks at a request to stop.
const BLOCK_SAMPLES: usize = 32;
/// Starting points tried for one sample.
const MAX_ATTEMPTS: u32 = 8;
/// Rounds of polishing.
const POLISH_ROUNDS: u32 = 24;
/// Largest random move of a starting point that is used again, as a share of the range.
const JITTER: f64 = 0.05;

/// Generate samples of a float network.
///
/// `starts (n, features)` are natural samples as the network sees them; they may be empty for
/// [`GeneratorKind::Random`]. Labels, margins and sensitivities are those of the network in double
/// precision at the grid point, rounded to `f32` as the endpoint would. Batch normalization is folded
/// first; rounding between layers is left out while searching, but not when scoring.
///
/// Sample `i` depends on the seed, on `i`, the network and `starts` alone: the bag is the same for any
/// number of threads, and a bag cut short by [`GenerateProgress::is_cancelled`] is a beginning of the
/// whole one that [`resume`] completes.
///
/// # Errors
/// - [`Error::UnsuitableNetwork`] if the network has fewer than two scores or no parameters.
/// - [`Error::LengthMismatch`] if `starts` or the grid have another number of features.
/// - [`Error::TooFewCandidates`] if there is no start, or more natural samples are wanted than given.
/// - [`Error::MarginNotReached`] if no attempt kept the smallest margin.
/// - [`Error::Network`] if a start is not finite.
pub fn generate(
    network: &Network<f32>,
    starts: &Array2<f32>,
    config: &GenerateConfig,
    progress: &dyn GenerateProgress,
) -> Result<SampleBag> {
    resume(config.empty_bag(starts.ncols()), network, starts, config, progress)
}

/// Complete a bag that was cut short: with the same arguments as [`generate`], the same result.
///
/// # Errors
/// - [`Error::LengthMismatch`] if the bag has more samples than wanted or other features.
/// - [`Error::InvalidSetting`] if it came from another generator or seed.
/// - [`Error::MalformedBag`] if a sample is off the grid, or a label is no class.
/// - Those of [`generate`].
pub fn resume(
    bag: SampleBag,
    network: &Network<f32>,
    starts: &Array2<f32>,
    config: &GenerateConfig,
    progress: &dyn GenerateProgress,
) -> Result<SampleBag> {
    let prepared = Prepared::new(network)?;
    let scorer = FloatScorer(&prepared.exact);
    let prediction = prepared.prediction();
    let run = Run::new(&prepared, &scorer, (1.0, prediction), starts, config)?;
    run.check_begun(&bag)?;
    run.collect(bag, progress)
}

/// Generate samples of an integer network: searched on the float network it came from, polished and
/// labeled with the exact one.
///
/// The grid should be the network's own ([`InputGrid::of_integer`](crate::InputGrid::of_integer)): on
/// a finer one most single steps change nothing. Margins are in units of the integer scores. With a smallest relative margin of 0 exact ties are
/// allowed; the lowest class wins them.
///
/// # Errors
/// - [`Error::LengthMismatch`] if the two networks have not the same inputs and classes.
/// - Those of [`generate`].
pub fn generate_for_integer(
    network: &IntegerNetwork,
    surrogate: &Network<f32>,
    starts: &Array2<f32>,
    config: &GenerateConfig,
    progress: &dyn GenerateProgress,
) -> Result<SampleBag> {
    resume_for_integer(
        config.empty_bag(starts.ncols()),
        network,
        surrogate,
        starts,
        config,
        progress,
    )
}

/// Complete a bag of [`generate_for_integer`] that was cut short: with the same arguments, the same
/// result.
///
/// # Errors
/// - Those of [`resume`] and [`generate_for_integer`].
pub fn resume_for_integer(
    bag: SampleBag,
    network: &IntegerNetwork,
    surrogate: &Network<f32>,
    starts: &Array2<f32>,
    config: &GenerateConfig,
    progress: &dyn GenerateProgress,
) -> Result<SampleBag> {
    let prepared = Prepared::new(surrogate)?;
    for (what, expected, actual) in [
        ("inputs of the surrogate", network.n_inputs(), surrogate.input_shape().len()),
        ("scores of the surrogate", network.n_scores(), surrogate.output_shape().len()),
    ] {
        if expected != actual {
            return Err(Error::LengthMismatch { what, expected, actual });
        }
    }
    let scorer = IntegerScorer(network);
    let scale = score_scale(&scorer, &prepared.smooth_single, starts)?;
    let run = Run::new(&prepared, &scorer, (scale, Prediction::Coarse), starts, config)?;
    run.check_begun(&bag)?;
    run.collect(bag, progress)
}

/// Units of `scorer` per unit of the surrogate's scores: least squares over differences of scores.
fn score_scale(scorer: &dyn Scorer, surrogate: &Network<f32>, starts: &Array2<f32>) -> Result<f64> {
    const MAX_SAMPLES: usize = 32;
    let few = starts.slice_axis(Axis(0), (..starts.nrows().min(MAX_SAMPLES)).into()).to_owned();
    if few.is_empty() {
        return Ok(1.0);
    }
    let exact = scorer.scores(&few)?;
    let smooth = surrogate.outputs(&few)?.mapv(f64::from);
    let (mut products, mut squares) = (0.0, 0.0);
    for (exact, smooth) in exact.rows().into_iter().zip(smooth.rows()) {
        let (exact_mean, smooth_mean) =
            (exact.mean().unwrap_or_default(), smooth.mean().unwrap_or_default());
        for (e, s) in exact.iter().zip(smooth) {
            products += (e - exact_mean) * (s - smooth_mean);
            squares += (s - smooth_mean) * (s - smooth_mean);
        }
    }
    let scale = products / squares;
    Ok(if scale.is_normal() && scale > 0.0 { scale } else { 1.0 })
}

/// Everything the generation of one sample reads.
struct Run<'a> {
    config: &'a GenerateConfig,
    starts: &'a Array2<f32>,
    prepared: &'a Prepared,
    scorer: &'a dyn Scorer,
    /// Units of the scorer per unit of the network's scores, and how well that predicts them.
    scale: f64,
    prediction: Prediction,
    search_grid: SearchGrid<'a>,
    n_features: usize,
    /// Rows of `starts` in the order in which samples use them.
    order: Vec<usize>,
    log_sensitivity: Sensitivity<'a, f64>,
}

impl<'a> Run<'a> {
    fn new(
        prepared: &'a Prepared,
        scorer: &'a dyn Scorer,
        (scale, prediction): (f64, Prediction),
        starts: &'a Array2<f32>,
        config: &'a GenerateConfig,
    ) -> Result<Self> {
        let spec = config.spec();
        let n_features = prepared.exact.input_shape().len();
        spec.grid.check(n_features)?;
        if starts.ncols() != n_features && (starts.nrows() > 0 || spec.kind.needs_starts()) {
            let (what, actual) = ("a starting sample", starts.ncols());
            return Err(Error::LengthMismatch { what, expected: n_features, actual });
        }
        let is_natural = spec.kind == GeneratorKind::NonSensitive;
        let wanted = if is_natural { spec.count } else { usize::from(spec.kind.needs_starts()) };
        if starts.nrows() < wanted {
            return Err(Error::TooFewCandidates { wanted, available: starts.nrows() });
        }
        if let Some(((sample_idx, feature_idx), &value)) =
            starts.indexed_iter().find(|(_, value)| !value.is_finite())
        {
            let (what, value) = ("starting samples", f64::from(value));
            let error = nn_poly::Error::NonFiniteInput { what, sample_idx, feature_idx, value };
            return Err(error.into());
        }
        // A ball promises to stay close on the endpoint's grid; natural samples stay as they are.
        let search_grid = if spec.kind.is_sensitive() && spec.constraint == Constraint::Box {
            SearchGrid::new(&prepared.exact, &spec.grid)
        } else {
            SearchGrid::of_endpoint(&spec.grid)
        };
        let mut order: Vec<usize> = (0..starts.nrows()).collect();
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(spec.seed));
        let log_sensitivity = Sensitivity::new(
            &prepared.exact,
            &LayerSelection::Last,
            SensitivityOutputs::Probabilities,
        )?;
        Ok(Self {
            config,
            starts,
            prepared,
            scorer,
            scale,
            prediction,
            search_grid,
            n_features,
            order,
            log_sensitivity,
        })
    }

    fn polisher(&self) -> Polisher<'_> {
        Polisher {
            scorer: self.scorer,
            surrogate: &self.prepared.smooth_single,
            scale: self.scale,
            grid: self.search_grid.grid(),
            n_tied: self.config.n_tied(self.prepared.exact.output_shape().len()),
            min_relative_margin: self.config.spec().min_relative_margin,
            prediction: self.prediction,
        }
    }

    /// Refuse a bag that this run cannot have begun.
    fn check_begun(&self, bag: &SampleBag) -> Result<()> {
        let spec = self.config.spec();
        for (what, expected, actual) in [
            ("the begun bag", spec.count.min(bag.len()), bag.len()),
            ("the begun bag's inputs", bag.len(), bag.inputs.nrows()),
        ] {
            if expected != actual {
                return Err(Error::LengthMismatch { what, expected, actual });
            }
        }
        if !bag.is_empty() && bag.inputs.ncols() != self.n_features {
            let (expected, actual) = (self.n_features, bag.inputs.ncols());
            return Err(Error::LengthMismatch { what: "a sample of the bag", expected, actual });
        }
        let n_classes = self.prepared.exact.output_shape().len();
        let is_class = |&class: &u32| (class as usize) < n_classes;
        let is_info = |info: &SampleInfo| is_class(&info.label) && info.tied.iter().all(is_class);
        if !bag.samples.iter().all(is_info) {
            return Err(Error::MalformedBag { what: "label of a sample" });
        }
        // Samples came from the same grid, value by value.
        if spec.grid.values(spec.grid.levels(bag.inputs.view()).view()) != bag.inputs {
            return Err(Error::MalformedBag { what: "sample off the input grid" });
        }
        if bag.generator != spec.kind || bag.seed != spec.seed {
            #[expect(clippy::cast_precision_loss, reason = "for a message")]
            let value = bag.seed as f64;
            let requirement = "that of the begun bag, as its generator";
            return Err(Error::InvalidSetting { setting: "seed", value, requirement });
        }
        Ok(())
    }

    /// Generate what `begun` lacks.
    fn collect(&self, begun: SampleBag, progress: &dyn GenerateProgress) -> Result<SampleBag> {
        let total = self.config.spec().count;
        let done = AtomicUsize::new(begun.len());
        let mut samples = begun.samples;
        let mut values: Vec<f32> = begun.inputs.into_iter().collect();
        progress.advanced(samples.len(), total);
        while samples.len() < total && !progress.is_cancelled() {
            let block = samples.len()..total.min(samples.len() + BLOCK_SAMPLES);
            let made: Vec<(Vec<u32>, SampleInfo)> = block
                .into_par_iter()
                .map(|sample_idx| {
                    let made = self.sample(sample_idx)?;
                    progress.advanced(done.fetch_add(1, Ordering::Relaxed) + 1, total);
                    Ok(made)
                })
                .collect::<Result<_>>()?;
            for (levels, info) in made {
                values.extend(self.inputs(&levels));
                samples.push(info);
            }
        }
        let inputs = Array2::from_shape_vec((samples.len(), self.n_features), values)
            .expect("invariant: every sample has one value per feature");
        let spec = self.config.spec();
        Ok(SampleBag { inputs, generator: spec.kind, seed: spec.seed, samples })
    }

    fn coordinates(&self) -> UnitCoordinates<'_> {
        UnitCoordinates { grid: &self.config.spec().grid }
    }

    #[expect(clippy::cast_possible_truncation, reason = "rounds to nearest, as the grid does")]
    fn inputs<'s>(&'s self, levels: &'s [u32]) -> impl Iterator<Item = f32> + 's {
        let grid = &self.config.spec().grid;
        levels.iter().enumerate().map(|(i, &level)| grid.value(i, level) as f32)
    }

    /// One sample, from as many starts as its margin needs.
    fn sample(&self, sample_idx: usize) -> Result<(Vec<u32>, SampleInfo)> {
        let spec = self.config.spec();
        let mut rng = ChaCha8Rng::seed_from_u64(spec.seed);
        rng.set_stream(sample_idx as u64 + 1);
        let mut best = 0.0_f64;
        for attempt in 0..MAX_ATTEMPTS {
            let (source, start) = self.start(sample_idx, attempt, &mut rng);
            let feasible = self.feasible(&start);
            let found = search(self.prepared, self.config, start, &feasible)?;
            let (levels, ranking) = self.settle(&found, &feasible, &mut rng)?;
            if ranking.relative_margin() >= spec.min_relative_margin {
                return Ok((levels.clone(), self.describe(source, &levels, &ranking)?));
            }
            best = best.max(ranking.relative_margin());
        }
        let (wanted, attempts) = (spec.min_relative_margin, MAX_ATTEMPTS);
        Err(Error::MarginNotReached { sample: sample_idx, best, wanted, attempts })
    }

    /// The starting point in unit coordinates, and the row of `starts` it is or comes from.
    fn start(
        &self,
        sample_idx: usize,
        attempt: u32,
        rng: &mut ChaCha8Rng,
    ) -> (Option<usize>, Vec<f64>) {
        let spec = self.config.spec();
        if !spec.kind.needs_starts() {
            return (None, (0..self.n_features).map(|_| rng.random_range(0.0..=1.0)).collect());
        }
        let n = self.order.len();
        // Natural samples are not altered: a second attempt takes one that no other sample uses.
        let is_natural = spec.kind == GeneratorKind::NonSensitive;
        let skipped = if is_natural { (attempt as usize) * spec.count } else { 0 };
        let position = sample_idx + skipped;
        let row = self.order.get(position % n.max(1)).copied().unwrap_or_default();
        let values = self.starts.index_axis(Axis(0), row);
        let mut u = self.coordinates().unit(values.iter().map(|&x| f64::from(x)));
        let is_reused = sample_idx >= n || attempt > 0;
        if is_reused && spec.kind.is_sensitive() {
            for u in &mut u {
                *u = (*u + rng.random_range(-JITTER..=JITTER)).clamp(0.0, 1.0);
            }
        }
        (Some(row), u)
    }

    fn feasible(&self, start: &[f64]) -> Feasible {
        match self.config.spec().constraint {
            Constraint::Ball { rms } if self.config.spec().kind.is_sensitive() => {
                let radius = rms / GREY_LEVELS * root(start.len());
                Feasible::ball(start.to_vec(), radius)
            }
            Constraint::Ball { .. } | Constraint::Box => Feasible::unit_box(),
        }
    }

    /// Round, polish if wanted, and repair a margin that is too small.
    fn settle(
        &self,
        found: &[f64],
        feasible: &Feasible,
        rng: &mut ChaCha8Rng,
    ) -> Result<(Vec<u32>, Ranking)> {
        let spec = self.config.spec();
        let coordinates = self.coordinates();
        let grid = self.search_grid.grid();
        let input = coordinates.input::<f64>(found);
        let mut levels: Vec<u32> =
            input.iter().enumerate().map(|(i, &x)| grid.level(i, x)).collect();
        // Rounding may leave a ball by half a step; polishing must not go further.
        let slack = 0.5 / f64::from(grid.n_steps()) * root(found.len());
        let is_allowed = |levels: &[u32]| {
            let values = levels.iter().enumerate().map(|(i, &level)| grid.value(i, level));
            feasible.contains(&coordinates.unit(values), slack)
        };
        let until = match (spec.kind.is_sensitive(), spec.polish) {
            (false, _) => Until::Margin(0),
            (true, false) => Until::Margin(POLISH_ROUNDS),
            (true, true) => Until::Rounds(POLISH_ROUNDS),
        };
        let polisher = self.polisher();
        polisher.polish(&mut levels, until, is_allowed, rng)?;
        let levels = self.search_grid.endpoint_levels(levels);
        let ranking = polisher.rank(&spec.grid, &levels)?;
        Ok((levels, ranking))
    }

    fn describe(
        &self,
        source: Option<usize>,
        levels: &[u32],
        ranking: &Ranking,
    ) -> Result<SampleInfo> {
        let x: ndarray::Array1<f64> = self.inputs(levels).map(f64::from).collect();
        let tied: Vec<u32> = ranking.classes.iter().map(|&class| narrow(class)).collect();
        Ok(SampleInfo {
            source: source.map(narrow),
            label: tied.first().copied().unwrap_or_default(),
            margin: ranking.margin,
            log_sensitivity: self.log_sensitivity.log_value(x.view())?,
            tied,
        })
    }
}

/// Grey levels in the range of a feature.
const GREY_LEVELS: f64 = 255.0;

#[expect(clippy::cast_precision_loss, reason = "counts of features stay far below 2^53")]
fn root(count: usize) -> f64 {
    (count as f64).sqrt()
}

/// Classes and rows are counted in 32 bits.
fn narrow(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
