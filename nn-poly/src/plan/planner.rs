//! The planner: which plans a network can have, what each costs, and which one serves a goal best.
//!
//! ```text
//!  IntegerNetwork ─► sides × batch sizes ─► per segment: candidates ─► picks ─► alternatives
//!                                            (ring, packing, range)      │         ranked by the
//!  CostSource: measured or stored ─► seconds of a block ─────────────────┘         objective
//! ```
//!
//! Segments cost independently of each other once side and batch size are fixed: bytes and times of
//! rounds add up, and memory is that of the largest. So the best plan of a side picks for every
//! segment the candidate that is best by itself; nothing is lost by not trying their products.
//!
//! | File | Content |
//! |---|---|
//! | `goal` | what a plan is for |
//! | `side` | the search with activations at one side |
//! | `candidate` | what one segment may be, and how one is picked |
//! | `alternative` | a whole plan with its cost, and how plans are ranked |
//! | `cost` | the model of time; `memory` and `reference`: that of memory, stored rates |
//!
//! Bytes and rounds are exact; seconds and memory are forecasts, see `docs/planner.md`.

mod alternative;
mod candidate;
mod cost;
mod goal;
mod memory;
mod reference;
mod side;

pub use alternative::Alternative;
pub use cost::{BlockSeconds, ByteSeconds, CostSource, Link, TimeForecast};
pub use goal::{Objective, PlanGoal};
pub use reference::ReferenceRates;
pub(crate) use reference::evaluate_nanoseconds;

use super::{ActivationSide, Plan, Relinearization};
use crate::error::{Error, Result};
use crate::integer::{ActivationKind, IntegerNetwork, StageObservation, StageOutput};

use side::SideSearch;

/// A network to plan for. Several of them, such as one model in different bits, compete.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The network.
    pub network: &'a IntegerNetwork,
    /// What was seen on calibration data, as for [`super::compile()`].
    pub observed: &'a [StageObservation],
}

/// Enumerates the plans of the subjects and ranks them by the goal's objective: the first one is the
/// planner's choice. Those that take too much memory come last.
///
/// Candidates are: the side of the activations (both, where the network and the goal leave it open); whether
/// the ciphertexts of joined stages grow or are relinearized (both, where the goal leaves it open);
/// per segment the parameters of [`parameters::candidates`], with the ranges the goal allows; batches
/// of the whole run or, where memory excludes candidates, of half the samples and so on. A batch takes
/// as many round trips as the network has stages; networks whose stages are joined
/// ([`crate::quantize::quantize_joined`]) take fewer.
///
/// [`parameters::candidates`]: crate::encrypted::parameters::candidates
///
/// Cost: some milliseconds per segment and side, and what `costs` takes to measure.
///
/// # Errors
/// - [`Error::InvalidSetting`], [`Error::OutOfRange`] for a goal that makes no sense.
/// - [`Error::NoSamples`] without subjects.
/// - [`Error::NoSuitableSide`] if every network has joined stages, and they end where no side that may
///   evaluate the activations needs them to.
/// - [`Error::RoundLimit`] if no other network gets by with so few rounds.
/// - [`Error::MemoryLimit`] if no plan keeps within the memory.
/// - [`Error::NotAtServer`], [`Error::NoSegmentParameters`], [`Error::Accumulator`] if no side has
///   parameters: that of the last side tried.
/// - Those of `costs`.
pub fn search(
    subjects: &[Subject<'_>],
    goal: &PlanGoal,
    costs: &mut dyn CostSource,
) -> Result<Vec<Alternative>> {
    goal.check()?;
    if subjects.is_empty() {
        return Err(Error::NoSamples { what: "the list of networks" });
    }
    let mut found = Vec::new();
    let mut refused = None;
    // Of the networks that suit a side.
    let mut fewest_rounds: Option<u32> = None;
    for (number, subject) in subjects.iter().enumerate() {
        let sides = sides(subject.network, goal.activation_side);
        if sides.is_empty() {
            continue;
        }
        let rounds = u32::try_from(subject.network.structure().len()).unwrap_or(u32::MAX);
        fewest_rounds = Some(fewest_rounds.map_or(rounds, |fewest| fewest.min(rounds)));
        if goal.max_rounds.is_some_and(|most| rounds > most) {
            continue;
        }
        let ways = relinearizations(subject.network, goal.relinearization);
        for (side, relinearization) in
            sides.into_iter().flat_map(|side| ways.iter().map(move |&way| (side, way)))
        {
            let search = SideSearch { number, subject, goal, side, relinearization };
            match search.alternatives(costs) {
                // Without activations both sides have the same plans.
                Ok(alternatives) => {
                    for alternative in alternatives {
                        if !found.iter().any(|other| alternative.equals(other)) {
                            found.push(alternative);
                        }
                    }
                }
                Err(
                    error @ (Error::NoSegmentParameters { .. }
                    | Error::NotAtServer { .. }
                    | Error::Accumulator { .. }),
                ) => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
    }
    found.sort_by(|a, b| a.compare(b, goal.objective));
    match found.first() {
        None => Err(refused.unwrap_or(match fewest_rounds {
            Some(needed) => Error::RoundLimit { needed, allowed: goal.max_rounds.unwrap_or(0) },
            None => Error::NoSuitableSide { settled: goal.activation_side },
        })),
        Some(best) if best.exceeds_memory => Err(Error::MemoryLimit {
            needed: found.iter().map(Alternative::memory_bytes).min().unwrap_or(0),
            allowed: goal.memory_bytes.unwrap_or(0),
        }),
        Some(_) => Ok(found),
    }
}

/// What a run under a finished plan costs, as an alternative.
///
/// Side, trust, ranges and batches are the plan's; the goal says the size of the run, the link, and
/// the memory.
///
/// # Errors
/// - [`Error::InvalidSetting`], [`Error::OutOfRange`] for a goal that makes no sense.
/// - Those of `costs`.
pub fn assess(plan: &Plan, goal: &PlanGoal, costs: &mut dyn CostSource) -> Result<Alternative> {
    goal.check()?;
    let public = plan.public();
    let subject = Subject { network: plan.network(), observed: &[] };
    let side = public.activation_side;
    let relinearization = goal.relinearization;
    let search = SideSearch { number: 0, subject: &subject, goal, side, relinearization };
    let batch = public.expected_samples;
    let mut chosen = Vec::with_capacity(public.segments.len());
    for segment in &public.segments {
        let mut costed = search.weighed(segment.clone(), public.security_bits, batch)?;
        costed.seconds = search.block_seconds(segment, costs)?;
        chosen.push(costed);
    }
    search.alternative(batch, &chosen.iter().collect::<Vec<_>>(), costs)
}

/// Whether every chain of the network ends where a segment does when that side evaluates activations.
fn suits_side(network: &IntegerNetwork, side: ActivationSide) -> bool {
    network.structure().iter().all(|stage| {
        let at_server =
            side == ActivationSide::Server && stage.activation == ActivationKind::Quadratic;
        let ends = if at_server { StageOutput::Pooled } else { StageOutput::Linear };
        stage.chain.as_ref().is_none_or(|chain| chain.ends == ends)
    })
}

/// What is tried of ciphertexts in chains: all chains of a plan are alike.
fn relinearizations(network: &IntegerNetwork, wanted: Relinearization) -> Vec<Relinearization> {
    let is_joined = network.structure().iter().any(|stage| stage.chain.is_some());
    if is_joined && wanted == Relinearization::Cheapest {
        return vec![Relinearization::Never, Relinearization::Always];
    }
    vec![wanted]
}

/// The sides that may evaluate the network's activations: the settled one or both, if they suit it.
fn sides(network: &IntegerNetwork, settled: Option<ActivationSide>) -> Vec<ActivationSide> {
    let mut sides = settled
        .map_or_else(|| vec![ActivationSide::Server, ActivationSide::Client], |side| vec![side]);
    sides.retain(|&side| suits_side(network, side));
    sides
}
