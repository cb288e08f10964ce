//! From a model to the plan that serves a goal best.
//!
//! ```text
//!  Model, bits, features ─► prepare ─► Prepared ─┐
//!                 └───────► Joining ─────────────┴─► choose ─► Compiled, Vec<Alternative>
//!                           fewer rounds, if the goal asks for them    best first
//! ```
//! The steps below can be taken one by one: quantization in [`quantize`](crate::quantize), the search in
//! [`planner`](crate::plan::planner). Here is how whoever compiles a model puts them together.

mod joining;

use ndarray::Array2;

pub use joining::Joining;

use crate::error::{Error, Result};
use crate::integer::{Evaluation, IntegerNetwork};
use crate::model::{Bits, LayerBits, Model};
use crate::plan::planner::{Alternative, CostSource, Objective, PlanGoal, Subject, search};
use crate::plan::{ModelFacts, Plan};
use crate::quantize::quantize_model;
use crate::train::TrainRecipe;

/// A plan and what it was made from.
#[derive(Debug)]
pub struct Compiled {
    /// The plan.
    pub plan: Plan,
    /// What was seen on the calibration data.
    pub observed: Evaluation,
    /// Of a network with joined stages: on which share of the samples it was watched on its answer is
    /// that of the network before rounding.
    pub agreement: Option<f64>,
}

/// A network in integers, and what was seen of it.
#[derive(Debug)]
pub struct Prepared {
    /// The network.
    pub network: IntegerNetwork,
    /// What was seen on the calibration data.
    pub observed: Evaluation,
    /// What its plan says about the model.
    pub facts: ModelFacts,
    /// As [`Compiled::agreement`].
    pub agreement: Option<f64>,
}

/// The bits a model is compiled with unless somebody chooses others: those of its fine-tuning, else the
/// recipe's.
#[must_use]
pub fn default_bits(model: &Model) -> Bits {
    let spec = model.spec();
    spec.bits.unwrap_or_else(|| TrainRecipe::for_network(spec.kind, spec.activation, 1).bits)
}

/// Quantize a model and watch it on raw `features`, `samples × features`.
///
/// # Errors
/// - [`Error::ShapeMismatch`] for features of another shape.
/// - Those of [`quantize_model`]: a network without an integer form, or whose integers grow too large.
pub fn prepare(model: &Model, bits: &LayerBits, features: &Array2<f32>) -> Result<Prepared> {
    let inputs = model.spec().preprocessing.apply(features)?;
    let quantized = quantize_model(model, bits, &inputs)?;
    let inputs = quantized.network.input().quantize(inputs.view())?;
    let observed = quantized.network.evaluate(&inputs)?;
    let facts = ModelFacts::of(model, quantized.score_step);
    Ok(Prepared { network: quantized.network, observed, facts, agreement: None })
}

/// Rank the plans of a network by a goal, and compile the best one.
///
/// `joining` gives networks that take fewer rounds. They are looked at only if the goal allows fewer
/// rounds than the network takes, or asks for the fewest; `told` then learns for how many rounds. No batch
/// takes no round at all: a limit of 0 rounds is one of 1, one upload and one download.
///
/// # Errors
/// - Those of [`search`]: a network for which no plan exists, or none within the goal's limits.
/// - [`Error::TooFewRounds`] if the numbers of a network that takes so few rounds grow too large.
/// - Those of `joining` and `costs`, whatever the objective.
pub fn choose(
    prepared: Prepared,
    joining: &Joining<'_>,
    goal: &PlanGoal,
    costs: &mut dyn CostSource,
    told: &mut dyn FnMut(usize),
) -> Result<(Compiled, Vec<Alternative>)> {
    let mut subjects = Subjects { prepared: vec![prepared], joining, told };
    let goal = PlanGoal { max_rounds: goal.max_rounds.map(|most| most.max(1)), ..*goal };
    let alternatives = subjects.ranked(&goal, costs)?;
    let best = alternatives.first().ok_or(Error::NoSamples { what: "the list of plans" })?;
    let chosen = subjects.prepared.into_iter().nth(best.subject);
    let Prepared { network, observed, facts, agreement } =
        chosen.ok_or(Error::NoSamples { what: "the list of networks" })?;
    let plan = best.compile(&network, facts)?;
    Ok((Compiled { plan, observed, agreement }, alternatives))
}

/// The networks that compete.
struct Subjects<'a> {
    /// The one with a refresh after every stage first.
    prepared: Vec<Prepared>,
    joining: &'a Joining<'a>,
    told: &'a mut dyn FnMut(usize),
}

impl Subjects<'_> {
    fn ranked(&mut self, goal: &PlanGoal, costs: &mut dyn CostSource) -> Result<Vec<Alternative>> {
        let (fewest, most) = (self.joining.fewest_rounds(), self.joining.most_rounds());
        let allowed = goal.max_rounds.map_or(most, |rounds| rounds as usize).min(most);
        let mut refused = None;
        if goal.objective == Objective::Rounds {
            for rounds in fewest..allowed.min(most - 1) + 1 {
                match self.joined(rounds, goal, costs) {
                    Err(error) if is_no_plan(&error) => refused = Some(error),
                    found_or_failed => return found_or_failed,
                }
            }
        }
        if allowed < most {
            // What was refused last took as many rounds as are allowed.
            return match refused {
                Some(error) => Err(error),
                None => self.joined(allowed.max(fewest), goal, costs),
            };
        }
        // Those that take fewer rounds had their turn.
        self.prepared.truncate(1);
        ranked(&self.prepared, goal, costs)
    }

    /// The plans in so many rounds.
    fn joined(
        &mut self,
        rounds: usize,
        goal: &PlanGoal,
        costs: &mut dyn CostSource,
    ) -> Result<Vec<Alternative>> {
        (self.told)(rounds);
        let joined = self.joining.prepare(rounds)?;
        if joined.is_empty() {
            return Err(Error::TooFewRounds { rounds });
        }
        self.prepared.truncate(1);
        self.prepared.extend(joined);
        let within = u32::try_from(rounds).unwrap_or(u32::MAX);
        let goal =
            PlanGoal { max_rounds: Some(goal.max_rounds.unwrap_or(within).min(within)), ..*goal };
        ranked(&self.prepared, &goal, costs)
    }
}

/// Whether more rounds may help: there is no plan in so few, or none within the goal's limits.
const fn is_no_plan(error: &Error) -> bool {
    matches!(
        error,
        Error::TooFewRounds { .. }
            | Error::NoSegmentParameters { .. }
            | Error::NotAtServer { .. }
            | Error::Accumulator { .. }
            | Error::NoSuitableSide { .. }
            | Error::RoundLimit { .. }
            | Error::MemoryLimit { .. }
    )
}

fn ranked(
    prepared: &[Prepared],
    goal: &PlanGoal,
    costs: &mut dyn CostSource,
) -> Result<Vec<Alternative>> {
    let subjects: Vec<Subject<'_>> = prepared
        .iter()
        .map(|Prepared { network, observed, .. }| Subject { network, observed: &observed.observed })
        .collect();
    search(&subjects, goal, costs)
}

#[cfg(test)]
mod tests;
