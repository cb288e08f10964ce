//! Fewer bits, layer by layer.

use super::{Judge, SearchOutcome, SearchSpec, TrialResult};
use crate::error::Result;
use crate::model::{Bits, LayerBits, Model};
use crate::plan::planner::CostSource;
use crate::quantize::blocks::Blocks;
use crate::quantize::unrounded;
use crate::train::LabeledSamples;

/// Most bits that one step takes from one layer: where a plan is not smaller by one bit less, it may be by
/// two.
const LONGEST_STEP: u32 = 2;

/// Bits of one kind in one stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Input,
    Weight(usize),
    Activation(usize),
}

/// What became of lowering one number.
enum Lowered {
    To(Choice),
    SavesNothing,
    CostsTooMuch,
}

/// One choice of bits that was tried.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerTrial {
    /// The bits.
    pub bits: LayerBits,
    /// What became of them.
    pub result: TrialResult,
}

/// The result of a search layer by layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSearchOutcome {
    /// The bits.
    pub bits: LayerBits,
    /// Payload bytes of the run at these bits, both directions.
    pub bytes: u64,
    /// Accuracy of the plan at these bits, on the held-out samples.
    pub accuracy: f64,
    /// Everything that was tried, in order.
    pub trials: Vec<LayerTrial>,
}

/// Take bits from single layers, from what [`search_bits`](super::search_bits) found for all of them, as
/// long as that saves bytes and the accuracy stays within `spec.target_drop` of the network's.
///
/// Judged by the same held-out samples, for plans with the outcome's activation side. `told` learns of
/// every trial.
///
/// **Method.** Coordinate descent: the numbers are lowered in turn by one, or by two where one saves nothing,
/// those of stages that move most bytes first, over and over until nothing changes. A number whose
/// lowering costs too much accuracy is left alone from then on. Once from the bits found for all layers, once from
/// one bit more of everything, which leaves accuracy to give away where it saves most; the cheaper result
/// counts. It is a local optimum: no single step improves it, up to chance.
///
/// Cost: as in [`search_bits`](super::search_bits); a handful of trials per layer.
///
/// # Errors
/// Those of [`search_bits`](super::search_bits), but [`NoBits`](crate::Error::NoBits).
pub fn search_layer_bits(
    model: &Model,
    samples: &LabeledSamples,
    spec: &SearchSpec,
    start: &SearchOutcome,
    costs: &mut dyn CostSource,
    told: &mut dyn FnMut(&LayerTrial),
) -> Result<LayerSearchOutcome> {
    spec.check()?;
    let mut judge = Judge::new(model, samples, spec, costs)?;
    judge.goal.activation_side = Some(start.activation_side);
    let folded = unrounded(model.network())?.fold_batch_norm()?;
    let n_stages = Blocks::new(&folded)?.blocks.len();
    let limits = Limits { n_stages, least_input: super::least_input(spec, model), spec };
    let mut trials = Vec::new();
    let mut note = |trial: LayerTrial| {
        told(&trial);
        trials.push(trial);
    };
    let uniform = Choice { bits: start.bits.into(), bytes: start.bytes, accuracy: start.accuracy };
    let mut best = judge.descend(uniform, &limits, &mut note)?;
    let raised = LayerBits::from(raised(start.bits, spec.most));
    let (result, _) = judge.trial(&raised, None)?;
    note(LayerTrial { bits: raised.clone(), result });
    if let TrialResult::Accepted { bytes, accuracy } = result {
        let start = Choice { bits: raised, bytes, accuracy };
        let other = judge.descend(start, &limits, &mut note)?;
        if other.bytes < best.bytes {
            best = other;
        }
    }
    let Choice { bits, bytes, accuracy } = best;
    Ok(LayerSearchOutcome { bits, bytes, accuracy, trials })
}

/// Bits that are accurate enough.
#[derive(Clone, Debug)]
struct Choice {
    bits: LayerBits,
    bytes: u64,
    accuracy: f64,
}

/// How far numbers may go down.
struct Limits<'a> {
    n_stages: usize,
    least_input: u32,
    spec: &'a SearchSpec,
}

impl Limits<'_> {
    /// The bits with one number lowered, if it may be.
    fn lowered(&self, bits: &LayerBits, place: Place, step: u32) -> Option<LayerBits> {
        let fewer = |of: u32, least: u32| of.checked_sub(step).filter(|&fewer| fewer >= least);
        let least = self.spec.least;
        match place {
            Place::Input => Some(bits.with_input(fewer(bits.input(), self.least_input)?)),
            Place::Weight(stage) => {
                let fewer = fewer(bits.weight(stage), least.weight)?;
                Some(bits.with_weight(stage, fewer, self.n_stages))
            }
            Place::Activation(stage) => {
                let fewer = fewer(bits.activation(stage), least.activation)?;
                Some(bits.with_activation(stage, fewer, self.n_stages))
            }
        }
    }
}

/// One bit more of everything, as far as allowed.
fn raised(bits: Bits, most: Bits) -> Bits {
    Bits {
        input: (bits.input + 1).min(most.input),
        weight: (bits.weight + 1).min(most.weight),
        activation: (bits.activation + 1).min(most.activation),
    }
}

impl Judge<'_> {
    /// Lower numbers in turn until none can be lowered.
    fn descend(
        &mut self,
        start: Choice,
        limits: &Limits<'_>,
        note: &mut dyn FnMut(LayerTrial),
    ) -> Result<Choice> {
        let mut best = start;
        let mut open = self.places(&best.bits, limits.n_stages)?;
        let mut improved = true;
        while improved {
            improved = false;
            let mut still_open = Vec::with_capacity(open.len());
            for place in open {
                match self.lower(&best, place, limits, note)? {
                    Lowered::To(choice) => {
                        best = choice;
                        improved = true;
                        still_open.push(place);
                    }
                    Lowered::SavesNothing => still_open.push(place),
                    Lowered::CostsTooMuch => {}
                }
            }
            open = still_open;
        }
        Ok(best)
    }

    fn lower(
        &mut self,
        best: &Choice,
        place: Place,
        limits: &Limits<'_>,
        note: &mut dyn FnMut(LayerTrial),
    ) -> Result<Lowered> {
        for step in 1..=LONGEST_STEP {
            let Some(bits) = limits.lowered(&best.bits, place, step) else { break };
            let (result, _) = self.trial(&bits, Some(best.bytes))?;
            note(LayerTrial { bits: bits.clone(), result });
            match result {
                TrialResult::Accepted { bytes, accuracy } => {
                    return Ok(Lowered::To(Choice { bits, bytes, accuracy }));
                }
                TrialResult::Inaccurate { .. } => return Ok(Lowered::CostsTooMuch),
                TrialResult::Dearer { .. } | TrialResult::TooLarge => {}
            }
        }
        Ok(Lowered::SavesNothing)
    }

    /// Every number of the bits, those of the segments that move most bytes first.
    fn places(&mut self, bits: &LayerBits, n_stages: usize) -> Result<Vec<Place>> {
        let (best, _) = self.plan(bits)?;
        let mut bytes = vec![0_u64; n_stages];
        for (segment, forecast) in best.segments().iter().zip(&best.forecast.segments) {
            if let Some(sum) = bytes.get_mut(segment.stage as usize) {
                *sum += forecast.bytes_up + forecast.bytes_down;
            }
        }
        let of = |stage: usize| bytes.get(stage).copied().unwrap_or(0);
        let mut places = vec![(of(0), Place::Input)];
        places.extend((0..n_stages).map(|stage| (of(stage), Place::Weight(stage))));
        // What one stage refreshes, a later one reads.
        let refreshed = 0..n_stages.saturating_sub(1);
        places.extend(refreshed.map(|stage| (of(stage + 1), Place::Activation(stage))));
        places.sort_by_key(|&(bytes, _)| std::cmp::Reverse(bytes));
        Ok(places.into_iter().map(|(_, place)| place).collect())
    }
}
