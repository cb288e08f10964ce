//! From a quantized model to the plan that serves a goal best.

use std::time::Duration;

use anyhow::{Result, bail};
use nn_poly::Error;
use nn_poly::compiler::{Compiled, Joining, Prepared, choose};
use nn_poly::encrypted::SelfTest;
use nn_poly::plan::planner::{Alternative, Link, Objective, PlanGoal, ReferenceRates, assess};
use nn_poly::plan::{ActivationSide, Plan, RangePolicy, Relinearization, RunSize, Trust};

use crate::args::{LinkArgument, ObjectiveName, PlanningArguments, RelinearizeName};
use crate::failure::Hint;
use crate::report::progress::Progress;
use crate::report::units::counted;

/// Time after which measurements are no longer repeated.
const SELF_TEST: Duration = Duration::from_secs(2);
/// The link unless flags describe another one, as [`PlanGoal::new`] has it.
const DEFAULT_LINK: LinkArgument = LinkArgument::Rate(1e9);
/// Its round trip, seconds.
const DEFAULT_ROUND_TRIP: f64 = 1e-3;

/// The plans a model can have, best first, and where their times come from.
#[derive(Debug)]
pub(crate) struct Planning {
    /// Ranked; the first one was chosen.
    pub(crate) alternatives: Vec<Alternative>,
    /// What they are for.
    pub(crate) goal: PlanGoal,
    /// How long the self-test took; `None` for stored rates.
    pub(crate) self_test: Option<Duration>,
}

/// The goal that flags describe, for a run of `size`.
///
/// # Errors
/// Flags that contradict each other.
pub(crate) fn goal(
    arguments: &PlanningArguments,
    activation_side: Option<ActivationSide>,
    trust: Trust,
    size: RunSize,
) -> Result<PlanGoal> {
    if arguments.link == Some(LinkArgument::Local) && arguments.server_cores.is_some() {
        bail!("`--link local` means that the server is this machine: leave out --server-cores");
    }
    let joins = arguments.rounds.is_some() || arguments.objective == Some(ObjectiveName::Rounds);
    if arguments.relinearize.is_some() && !joins {
        bail!("--relinearize is about joined layers: say --rounds, or --objective rounds");
    }
    Ok(PlanGoal {
        objective: match arguments.objective {
            None | Some(ObjectiveName::Time) => Objective::Time,
            Some(ObjectiveName::Bytes) => Objective::Bytes,
            Some(ObjectiveName::Rounds) => Objective::Rounds,
        },
        link: match arguments.link.unwrap_or(DEFAULT_LINK) {
            LinkArgument::Local => Link::SameMachine,
            LinkArgument::Rate(bits_per_second) => {
                let round_trip_seconds = arguments.latency.unwrap_or(DEFAULT_ROUND_TRIP);
                Link::Network { bits_per_second, round_trip_seconds }
            }
        },
        server_speed: server_speed(arguments.server_cores),
        memory_bytes: arguments.memory,
        max_rounds: arguments.rounds,
        relinearization: match arguments.relinearize {
            None | Some(RelinearizeName::Auto) => Relinearization::Cheapest,
            Some(RelinearizeName::Never) => Relinearization::Never,
            Some(RelinearizeName::Always) => Relinearization::Always,
        },
        ranges: match (arguments.proven, arguments.calibrated) {
            (true, _) => RangePolicy::RequireProven,
            (false, true) => RangePolicy::Cheapest,
            (false, false) => RangePolicy::PreferProven,
        },
        activation_side,
        trust,
        size,
    })
}

#[expect(clippy::cast_precision_loss, reason = "a few cores")]
fn server_speed(cores: Option<u32>) -> f64 {
    cores.map_or(1.0, |cores| f64::from(cores) / n_cores() as f64)
}

/// Cores that the arithmetic uses here.
fn n_cores() -> usize {
    rayon::current_num_threads().max(1)
}

/// Rank the plans of a network, measuring this machine unless `is_measured` is false.
///
/// `joining` gives networks that take fewer rounds. They are looked at only if the goal allows fewer
/// rounds than the network takes, or asks for the fewest.
///
/// # Errors
/// A network for which no plan exists, or none within the goal's limits.
pub(crate) fn plan(
    prepared: Prepared,
    joining: &Joining<'_>,
    goal: PlanGoal,
    is_measured: bool,
    progress: &Progress,
) -> Result<(Compiled, Planning)> {
    let bar = progress.spinner("planning");
    let mut told = |rounds: usize| {
        bar.message(format!("joining layers for {}", counted(rounds as u64, "round")));
    };
    let (chosen, self_test) = if is_measured {
        let mut test = SelfTest::with_progress(SELF_TEST, |n_measured| {
            bar.message(format!("measuring this machine: {n_measured} measurements"));
        });
        let chosen = choose(prepared, joining, &goal, &mut test, &mut told);
        (chosen, Some(test.spent()))
    } else {
        let mut rates = ReferenceRates::new(n_cores());
        (choose(prepared, joining, &goal, &mut rates, &mut told), None)
    };
    let advice = chosen.as_ref().err().and_then(|error| advice(error, &goal));
    let (compiled, alternatives) = match advice {
        Some(advice) => chosen.hint(|| advice)?,
        None => chosen?,
    };
    Ok((compiled, Planning { alternatives, goal, self_test }))
}

/// What the person may change about a goal that nothing serves, where the error does not say it.
fn advice(error: &Error, goal: &PlanGoal) -> Option<&'static str> {
    match (error, goal.ranges) {
        (Error::TooFewRounds { .. }, _) => {
            Some("fewer bits (--bits) make the numbers smaller, and so do more rounds")
        }
        (Error::NoSegmentParameters { .. } | Error::Accumulator { .. }, ranges) => {
            Some(match (goal.activation_side, ranges) {
                (_, RangePolicy::RequireProven) => {
                    "fewer bits (--bits) make the numbers smaller, and so do calibrated ranges (without --proven)"
                }
                (Some(ActivationSide::Server), _) => {
                    "fewer bits (--bits) or --activation client make the numbers smaller"
                }
                _ => "fewer bits (--bits) make the numbers smaller",
            })
        }
        (Error::MemoryLimit { .. }, RangePolicy::PreferProven) => {
            Some("allow more (--memory), or calibrated ranges for smaller numbers (--calibrated)")
        }
        (Error::MemoryLimit { .. }, _) => Some("allow more (--memory)"),
        _ => None,
    }
}

/// What a run under a finished plan costs by stored rates, over a link of the default speed.
///
/// # Errors
/// Only broken invariants.
pub(crate) fn assessed(plan: &Plan, size: RunSize) -> Result<Planning> {
    let goal = PlanGoal::new(size);
    let alternative = assess(plan, &goal, &mut ReferenceRates::new(n_cores()))?;
    Ok(Planning { alternatives: vec![alternative], goal, self_test: None })
}

#[cfg(test)]
mod tests;
