//! How often a change of one weight by one escapes the checks of an encrypted batch, by trial.
//!
//! The smallest change there is, and the one a black box misses most often. Each trial draws a change
//! and evaluates what it changes, not the whole network: the results at the random points of a slot
//! segment, or the weighted sum of one column of a linear segment's reply.
//!
//! The trials favour the server. Network canaries, which are compared as well, are left out; and of
//! the thousands of columns of a reply, all of which must pass the word check, only one is looked at.

use nn_poly::integer::{IntegerNetwork, LinearGeometry, StageOutput, StageStructure, StageWeights};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::attack::integer::{Edit, Place};
use crate::error::{Error, Result};
use crate::soundness::SQUARE_DEGREE;
use crate::statistics::{Interval, Z_95, wilson_interval};

/// Moduli are below this, so that products fit 128 bits and sums of two residues 64.
const MAX_MODULUS: u64 = 1 << 62;

/// The check of one stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StageCheck {
    /// The reply is the linear map's; `rows` random rows modulo `modulus` check every word.
    Words {
        /// Stage of the network, from 0.
        stage: usize,
        /// Random rows, 1 at least.
        rows: u32,
        /// A prime of the ring.
        modulus: u64,
    },
    /// The reply is that of the whole stage; `points` random points of `Z_t` are compared.
    Points {
        /// Stage of the network, from 0.
        stage: usize,
        /// Random points, 1 at least.
        points: u32,
        /// Plaintext modulus `t`, prime.
        modulus: u64,
        /// Where the reply is taken.
        output: StageOutput,
    },
}

impl StageCheck {
    /// Stage of the network, from 0.
    #[must_use]
    pub const fn stage(&self) -> usize {
        match self {
            Self::Words { stage, .. } | Self::Points { stage, .. } => *stage,
        }
    }

    /// Most that theory allows a change to escape: `q^-rows`, or `(D/t)^points` with `D` the degree
    /// of the reply.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a probability")]
    pub fn bound(&self) -> f64 {
        let (per_check, exponent) = match *self {
            Self::Words { rows, modulus, .. } => (1.0 / modulus as f64, rows),
            Self::Points { points, modulus, output, .. } => {
                let degree = if output == StageOutput::Linear { 1 } else { SQUARE_DEGREE };
                (f64::from(degree) / modulus as f64, points)
            }
        };
        per_check.min(1.0).powf(f64::from(exponent))
    }
}

/// How many changes are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrialSpec {
    /// Changes per stage; 1 at least.
    pub changes_per_stage: u64,
    /// Changes tried at the same random points: drawing points costs an evaluation of the stage,
    /// trying a change next to nothing. 1 at least.
    pub changes_per_draw: u64,
    /// Seed; the result does not depend on the number of threads.
    pub seed: u64,
}

/// What the trials of one stage gave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StageTrials {
    /// The check.
    pub check: StageCheck,
    /// Changes tried.
    pub changes: u64,
    /// Changes the check did not notice.
    pub missed: u64,
    /// Wilson's 95 % interval of the missing rate.
    pub rate: Interval,
}

/// Tries random changes of one weight by ±1 in every checked stage.
///
/// `progress` is told how many changes were tried, from any thread. Cost: per change a few products
/// for points, the positions of a convolution for words; parallel.
///
/// # Errors
/// - [`Error::CountOutOfRange`] for counts or moduli of zero, or moduli of 2^62 and above.
/// - [`Error::Network`] if a stage does not exist or cannot be evaluated over `Z_t`.
pub fn single_weight_trials(
    network: &IntegerNetwork,
    checks: &[StageCheck],
    spec: TrialSpec,
    progress: &(impl Fn(u64) + Sync),
) -> Result<Vec<StageTrials>> {
    at_least_one("changes per stage", spec.changes_per_stage)?;
    at_least_one("changes per draw", spec.changes_per_draw)?;
    checks.iter().map(|&check| trials_of_stage(network, check, spec, progress)).collect()
}

fn trials_of_stage(
    network: &IntegerNetwork,
    check: StageCheck,
    spec: TrialSpec,
    progress: &(impl Fn(u64) + Sync),
) -> Result<StageTrials> {
    let (StageCheck::Words { modulus, rows: count, .. }
    | StageCheck::Points { modulus, points: count, .. }) = check;
    in_range("modulus", modulus, 2, MAX_MODULUS - 1)?;
    at_least_one("rows or points of a check", u64::from(count))?;
    let trial = Trial::new(network, check)?;
    let changes = spec.changes_per_stage;
    let missed = (0..changes.div_ceil(spec.changes_per_draw))
        .into_par_iter()
        .map(|draw| {
            let mut rng = ChaCha8Rng::seed_from_u64(spec.seed);
            rng.set_stream((check.stage() as u64) << 40 | draw);
            let n = spec.changes_per_draw.min(changes - draw * spec.changes_per_draw);
            let missed = trial.run(n, &mut rng)?;
            progress(n);
            Ok(missed)
        })
        .sum::<Result<u64>>()?;
    let rate = wilson_interval(missed, changes, Z_95)?;
    Ok(StageTrials { check, changes, missed, rate })
}

/// One stage under trial.
struct Trial<'a> {
    network: &'a IntegerNetwork,
    structure: &'a StageStructure,
    weights: &'a StageWeights,
    check: StageCheck,
}

/// A change as the stage sees it: `delta` is added to weight `index` of `channel`.
struct Change {
    index: usize,
    channel: usize,
    delta: i8,
}

impl<'a> Trial<'a> {
    fn new(network: &'a IntegerNetwork, check: StageCheck) -> Result<Self> {
        let (structure, weights) = network.stage(check.stage())?;
        Ok(Self { network, structure, weights, check })
    }

    /// Tries `n` changes on one draw of points; returns how many escape.
    fn run(&self, n: u64, rng: &mut ChaCha8Rng) -> Result<u64> {
        let mut missed = 0;
        match self.check {
            StageCheck::Words { rows, modulus, .. } => {
                for _ in 0..n {
                    missed += u64::from(self.escapes_words(&self.draw(rng)?, rows, modulus, rng));
                }
            }
            StageCheck::Points { stage, points, modulus, output } => {
                let points = random_points(self.structure.n_inputs(), points, modulus, rng);
                let before = self.network.evaluate_stage_modular(
                    stage,
                    &points,
                    modulus,
                    StageOutput::Linear,
                )?;
                if output == StageOutput::Pooled && self.structure.non_polynomial().is_some() {
                    // Says which stage and why.
                    self.network.evaluate_stage_modular(stage, &points, modulus, output)?;
                }
                for _ in 0..n {
                    let change = self.draw(rng)?;
                    let escapes = points.iter().zip(&before).all(|(point, before)| {
                        !self.changes_result(&change, point, before, modulus, output)
                    });
                    missed += u64::from(escapes);
                }
            }
        }
        Ok(missed)
    }

    fn draw(&self, rng: &mut ChaCha8Rng) -> Result<Change> {
        let edit = Edit::draw(self.network, Some(self.check.stage()), rng)?;
        // Only weights are drawn.
        let (Place::Weight(index) | Place::Bias(index)) = edit.place;
        let channel = index / self.structure.linear.taps();
        Ok(Change { index, channel, delta: edit.step.delta() })
    }

    /// Whether the random rows agree although one weight differs: `Σ_p r_p·δ·x_p = 0` in one column,
    /// for every row, `p` over the outputs that read the weight.
    fn escapes_words(
        &self,
        change: &Change,
        rows: u32,
        modulus: u64,
        rng: &mut ChaCha8Rng,
    ) -> bool {
        let mut sums = vec![0; rows as usize];
        for output in self.outputs(change.channel) {
            if input_of(&self.structure.linear, output, change.index).is_some() {
                // Inputs of different outputs are different ones: words of a ciphertext, uniform.
                let difference = scaled(change.delta, rng.random_range(0..modulus), modulus);
                for sum in &mut sums {
                    let product = multiply(rng.random_range(0..modulus), difference, modulus);
                    *sum = add(*sum, product, modulus);
                }
            }
        }
        sums.iter().all(|&sum| sum == 0)
    }

    /// Whether any result of the stage at a point differs.
    fn changes_result(
        &self,
        change: &Change,
        point: &[u64],
        before: &[u64],
        modulus: u64,
        output: StageOutput,
    ) -> bool {
        let difference = |linear: usize| {
            let input = input_of(&self.structure.linear, linear, change.index)?;
            let step = scaled(change.delta, *point.get(input)?, modulus);
            Some(match output {
                StageOutput::Linear => step,
                StageOutput::Pooled => {
                    self.activated(change.channel, *before.get(linear)?, step, modulus)
                }
            })
        };
        match (&self.structure.pool, output) {
            (Some(pool), StageOutput::Pooled) => {
                let n_channels = pool.output().channels;
                (change.channel..pool.output().len()).step_by(n_channels).any(|pooled| {
                    let mut sum = 0;
                    pool.for_each_term(pooled, |linear| {
                        sum = add(sum, difference(linear).unwrap_or(0), modulus);
                    });
                    sum != 0
                })
            }
            _ => self
                .outputs(change.channel)
                .any(|linear| difference(linear).is_some_and(|difference| difference != 0)),
        }
    }

    /// `a·((z + s)² − z²) + b·s`: what the activation makes of a step `s` at `z`.
    fn activated(&self, channel: usize, z: u64, step: u64, modulus: u64) -> u64 {
        let Some(quadratic) = &self.weights.quadratic else { return step };
        let (a, b, _) = quadratic.coefficients(channel);
        let slope = add(add(z, z, modulus), step, modulus);
        let square = multiply(reduce(i64::from(a), modulus), slope, modulus);
        multiply(add(square, reduce(b, modulus), modulus), step, modulus)
    }

    /// Linear outputs of one channel; outputs are channel-fastest.
    fn outputs(&self, channel: usize) -> impl Iterator<Item = usize> {
        let linear = &self.structure.linear;
        (channel..linear.n_outputs()).step_by(linear.n_channels())
    }
}

/// The input that weight `index` multiplies in an output, if the output reads it.
fn input_of(linear: &LinearGeometry, output: usize, index: usize) -> Option<usize> {
    let mut found = None;
    linear.for_each_tap(output, |input, weight| {
        if weight == index {
            found = Some(input);
        }
    });
    found
}

fn random_points(n_inputs: usize, count: u32, modulus: u64, rng: &mut ChaCha8Rng) -> Vec<Vec<u64>> {
    let mut point = || (0..n_inputs).map(|_| rng.random_range(0..modulus)).collect();
    (0..count).map(|_| point()).collect()
}

fn scaled(delta: i8, value: u64, modulus: u64) -> u64 {
    multiply(reduce(i64::from(delta), modulus), value, modulus)
}

#[expect(clippy::cast_possible_truncation, reason = "a residue")]
fn reduce(value: i64, modulus: u64) -> u64 {
    i128::from(value).rem_euclid(i128::from(modulus)) as u64
}

fn add(a: u64, b: u64, modulus: u64) -> u64 {
    (a + b) % modulus
}

#[expect(clippy::cast_possible_truncation, reason = "below the modulus")]
fn multiply(a: u64, b: u64, modulus: u64) -> u64 {
    (u128::from(a) * u128::from(b) % u128::from(modulus)) as u64
}

fn at_least_one(name: &'static str, actual: u64) -> Result<()> {
    in_range(name, actual, 1, u64::MAX)
}

fn in_range(name: &'static str, actual: u64, min: u64, max: u64) -> Result<()> {
    if (min..=max).contains(&actual) {
        return Ok(());
    }
    Err(Error::CountOutOfRange { name, actual, min, max })
}
