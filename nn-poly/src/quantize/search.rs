//! The bits that move the fewest bytes at a given loss of accuracy.

mod layers;

use ndarray::{Array2, Axis};

pub use layers::{LayerSearchOutcome, LayerTrial, search_layer_bits};

use super::{Quantized, quantize_model, unrounded};
use crate::error::{Error, Result};
use crate::import::{Split, SplitSpec};
use crate::integer::StageObservation;
use crate::model::{Bits, LayerBits, Model};
use crate::plan::planner::{Alternative, CostSource, PlanGoal, Subject, search};
use crate::plan::{ActivationSide, ModelFacts, Plan, RangePolicy};
use crate::train::{Evaluation, LabeledSamples, evaluate};

/// Samples held out at most, but for the rounding of each class's share.
pub const HELD_OUT_SAMPLES: usize = 10_000;

/// Share of the samples that is held out.
const HELD_OUT_SHARE: f64 = 0.2;
/// Slack of the comparison of accuracies, which are quotients of counts.
const TOLERANCE: f64 = 1e-9;

/// What is searched, and what counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SearchSpec {
    /// Accuracy that may be lost, as a share of the samples: `0.003` for 0.3 points.
    pub target_drop: f64,
    /// Fewest bits tried. Default: 1/2/1 (signed inputs start at 2).
    pub least: Bits,
    /// Most bits tried. Default: 8/8/8.
    pub most: Bits,
    /// What the plan is for: of every choice of bits, the plan that the planner chooses for it counts.
    pub goal: PlanGoal,
}

impl SearchSpec {
    /// Search all bits from 1/2/1 to 8/8/8.
    #[must_use]
    pub const fn new(target_drop: f64, goal: PlanGoal) -> Self {
        let least = Bits { input: 1, weight: 2, activation: 1 };
        let most = Bits { input: 8, weight: 8, activation: 8 };
        Self { target_drop, least, most, goal }
    }

    /// Check the settings.
    ///
    /// # Errors
    /// - [`Error::InvalidSetting`] unless `0 ≤ target_drop < 1`, and for bits out of range or in the
    ///   wrong order.
    pub fn check(&self) -> Result<()> {
        if !(0.0..1.0).contains(&self.target_drop) {
            return Err(Error::InvalidSetting {
                setting: "accuracy that may be lost",
                value: self.target_drop,
                requirement: "a share of the samples, from 0 to below 1",
            });
        }
        self.least.check()?;
        self.most.check()?;
        if !is_below(self.least, self.most) {
            return Err(Error::InvalidSetting {
                setting: "fewest bits",
                value: f64::from(self.least.weight),
                requirement: "at most the most bits, for inputs, weights and activations each",
            });
        }
        Ok(())
    }
}

/// What became of one choice of bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TrialResult {
    /// Accurate enough, and the cheapest so far.
    Accepted {
        /// Payload bytes of the run, both directions.
        bytes: u64,
        /// Accuracy on the held-out samples.
        accuracy: f64,
    },
    /// Cheaper than the best so far, but not accurate enough.
    Inaccurate {
        /// Payload bytes of the run, both directions.
        bytes: u64,
        /// Accuracy on the held-out samples.
        accuracy: f64,
    },
    /// Not cheaper than the best so far; its accuracy does not matter.
    Dearer {
        /// Payload bytes of the run, both directions.
        bytes: u64,
    },
    /// No encryption parameters hold its numbers, or none within the memory of the goal.
    TooLarge,
}

/// One choice of bits that was tried.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trial {
    /// The bits.
    pub bits: Bits,
    /// What became of them.
    pub result: TrialResult,
    /// Choices that are still open.
    pub n_open: usize,
}

/// The result of a search.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchOutcome {
    /// The cheapest bits that are accurate enough.
    pub bits: Bits,
    /// Payload bytes of the run at these bits, both directions.
    pub bytes: u64,
    /// Who evaluates the activations of that plan.
    pub activation_side: ActivationSide,
    /// Accuracy of the plan at these bits, on the held-out samples.
    pub accuracy: f64,
    /// The network without rounding, on the held-out samples.
    pub float: Evaluation,
    /// Everything that was tried, in order.
    pub trials: Vec<Trial>,
    /// Choices there were.
    pub n_candidates: usize,
}

/// Find the bits whose plan moves the fewest bytes and loses at most `spec.target_drop` of the accuracy.
///
/// `samples` are preprocessed training samples. A fifth of each class is held out (seed 0; less where
/// that were more than [`HELD_OUT_SAMPLES`]): plans are calibrated on the others and judged by the
/// held-out ones. (The weights were trained on all of them; the test part stays unseen, so that it can
/// judge the result.) `told` learns of every trial.
///
/// The plan of a choice is the one that [`search`] puts first for the goal: its side, its limits, its
/// ranges and its objective decide, with times from `costs`. Where the goal leaves the side open, bits may
/// differ in it; set it to the outcome's when compiling.
///
/// **Method.** More bits never cost less and, up to chance, never lose accuracy. So bits that suffice, or
/// cost too much, decide about all choices with at least as many bits in each place, and bits that do
/// not suffice decide about all with at most as many. The choice that decides about most others, whatever
/// happens, is tried next: some fifty trials for 448 choices. The bits a model was fine-tuned for
/// come first, since they break that rule to their advantage. The result was measured; that nothing
/// cheaper suffices rests on the rule.
///
/// Cost: a calibration, a search for plans and at most one integer evaluation per trial.
///
/// # Errors
/// - Those of [`SearchSpec::check`].
/// - [`Error::NoBits`] if nothing in the range of bits is accurate enough.
/// - [`Error::NoSamples`] if there are fewer than two samples.
/// - Those of [`quantize_model`] and [`search`] for a network without an integer form, an activation
///   that the server cannot evaluate, or more rounds than the goal allows.
pub fn search_bits(
    model: &Model,
    samples: &LabeledSamples,
    spec: &SearchSpec,
    costs: &mut dyn CostSource,
    told: &mut dyn FnMut(&Trial),
) -> Result<SearchOutcome> {
    spec.check()?;
    let mut judge = Judge::new(model, samples, spec, costs)?;
    let mut open = candidates(spec, model);
    let n_candidates = open.len();
    let mut best: Option<(Bits, u64, f64, ActivationSide)> = None;
    let mut closest: Option<(Bits, f64)> = None;
    let mut trials = Vec::new();
    let own = model.spec().bits.filter(|bits| open.contains(bits));
    while let Some(bits) = own.filter(|_| trials.is_empty()).or_else(|| most_telling(&open)) {
        let (result, side) = judge.trial(&bits.into(), best.map(|(_, bytes, ..)| bytes))?;
        match result {
            TrialResult::Accepted { bytes, accuracy } => {
                best = Some((bits, bytes, accuracy, side));
                open.retain(|&other| !is_below(bits, other));
            }
            TrialResult::Dearer { .. } | TrialResult::TooLarge => {
                open.retain(|&other| !is_below(bits, other));
            }
            TrialResult::Inaccurate { accuracy, .. } => {
                if closest.is_none_or(|(_, most)| accuracy > most) {
                    closest = Some((bits, accuracy));
                }
                open.retain(|&other| !is_below(other, bits));
            }
        }
        let trial = Trial { bits, result, n_open: open.len() };
        told(&trial);
        trials.push(trial);
    }
    let float = judge.float;
    match best {
        Some((bits, bytes, accuracy, activation_side)) => Ok(SearchOutcome {
            bits,
            bytes,
            activation_side,
            accuracy,
            float,
            trials,
            n_candidates,
        }),
        None => Err(Error::NoBits {
            target_drop: 100.0 * spec.target_drop,
            closest: closest.map(|(bits, accuracy)| (bits, 100.0 * (float.accuracy() - accuracy))),
        }),
    }
}

/// Calibrates and judges choices of bits.
struct Judge<'a> {
    model: &'a Model,
    target_drop: f64,
    goal: PlanGoal,
    costs: &'a mut dyn CostSource,
    calibration: Array2<f32>,
    held_out: LabeledSamples,
    float: Evaluation,
}

impl<'a> Judge<'a> {
    fn new(
        model: &'a Model,
        samples: &LabeledSamples,
        spec: &SearchSpec,
        costs: &'a mut dyn CostSource,
    ) -> Result<Self> {
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
        let most = HELD_OUT_SAMPLES as f64 / samples.n_samples() as f64;
        let split = SplitSpec { seed: 0, test_fraction: HELD_OUT_SHARE.min(most) };
        let rows = |part| split.positions(samples.labels(), part);
        let held_out = rows(Split::Test)?;
        let labels = held_out.iter().filter_map(|&p| samples.labels().get(p).copied()).collect();
        let inputs = samples.inputs().select(Axis(0), &held_out);
        let shape = samples.shape().clone();
        let held_out = LabeledSamples::new(shape, inputs, labels, samples.n_classes())?;
        let calibration = samples.inputs().select(Axis(0), &rows(Split::Train)?);
        let float = evaluate(&unrounded(model.network())?, &held_out)?;
        let SearchSpec { target_drop, goal, .. } = *spec;
        Ok(Self { model, target_drop, goal, costs, calibration, held_out, float })
    }

    /// What becomes of `bits`, and who evaluates the activations of their plan (of no account if there is none).
    fn trial(
        &mut self,
        bits: &LayerBits,
        least_bytes: Option<u64>,
    ) -> Result<(TrialResult, ActivationSide)> {
        let (best, plan) = match self.plan(bits) {
            Ok(planned) => planned,
            Err(
                Error::Accumulator { .. }
                | Error::OutOfRange { .. }
                | Error::NoSegmentParameters { .. }
                | Error::MemoryLimit { .. },
            ) => return Ok((TrialResult::TooLarge, ActivationSide::Client)),
            Err(error) => return Err(error),
        };
        let (bytes, side) = (best.bytes(), best.activation_side);
        if least_bytes.is_some_and(|least| bytes >= least) {
            return Ok((TrialResult::Dearer { bytes }, side));
        }
        let inputs = plan.network().input().quantize(self.held_out.inputs().view())?;
        let predicted = plan.simulate(&inputs)?.predictions();
        let n_classes = plan.network().n_scores();
        let accuracy = Evaluation::of(&predicted, self.held_out.labels(), n_classes).accuracy();
        let lost = self.float.accuracy() - accuracy;
        let result = if lost <= self.target_drop + TOLERANCE {
            TrialResult::Accepted { bytes, accuracy }
        } else {
            TrialResult::Inaccurate { bytes, accuracy }
        };
        Ok((result, side))
    }

    /// Exactly as a model owner plans, but for the data.
    fn plan(&mut self, bits: &LayerBits) -> Result<(Alternative, Plan)> {
        let Quantized { network, score_step } =
            quantize_model(self.model, bits, &self.calibration)?;
        let goal = &self.goal;
        let mut ranked = |observed: &[StageObservation]| {
            search(&[Subject { network: &network, observed }], goal, self.costs)
        };
        let observe = || -> Result<Vec<StageObservation>> {
            let seen = network.input().quantize(self.calibration.view())?;
            Ok(network.evaluate(&seen)?.observed)
        };
        // Observations serve only where no parameters hold a proven range, or where both compete.
        let ranked = match goal.ranges {
            RangePolicy::RequireProven => ranked(&[]),
            RangePolicy::Cheapest => ranked(&observe()?),
            RangePolicy::PreferProven => match ranked(&[]) {
                Err(Error::NoSegmentParameters { .. }) => ranked(&observe()?),
                found => found,
            },
        };
        let best = ranked?.into_iter().next();
        let best = best.expect("invariant: a search without an error finds something");
        let plan = best.compile(&network, ModelFacts::of(self.model, score_step))?;
        Ok((best, plan))
    }
}

/// All bits of the range that a model can have.
fn candidates(spec: &SearchSpec, model: &Model) -> Vec<Bits> {
    let (least, most) = (spec.least, spec.most);
    let first_input = least_input(spec, model);
    let mut all = Vec::new();
    for input in first_input..=most.input {
        for weight in least.weight..=most.weight {
            for activation in least.activation..=most.activation {
                all.push(Bits { input, weight, activation });
            }
        }
    }
    all
}

/// Fewest bits of an input: one of them may be a sign.
fn least_input(spec: &SearchSpec, model: &Model) -> u32 {
    let least = spec.least.input;
    if model.spec().preprocessing.is_signed() { least.max(2) } else { least }
}

/// Whether `a` has at most as many bits as `b` in every place.
const fn is_below(a: Bits, b: Bits) -> bool {
    a.input <= b.input && a.weight <= b.weight && a.activation <= b.activation
}

/// The choice that decides about most others even in the less telling case; the cheaper of equals.
fn most_telling(open: &[Bits]) -> Option<Bits> {
    let told = |bits: &Bits| {
        let below = open.iter().filter(|&&other| is_below(other, *bits)).count();
        let above = open.iter().filter(|&&other| is_below(*bits, other)).count();
        let size = bits.input + bits.weight + bits.activation;
        (below.min(above), std::cmp::Reverse(size))
    };
    open.iter().copied().max_by_key(told)
}
