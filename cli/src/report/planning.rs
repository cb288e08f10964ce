//! The plans a model can have, as a table and for programs.

use std::time::Duration;

use nn_poly::plan::planner::{Alternative, Link, Objective, PlanGoal};
use serde::Serialize;

use super::run::SegmentReport;
use super::table::{Grid, Lean};
use super::terminal::{Ink, Screen};
use super::units;
use crate::pipeline::planning::Planning;

/// Print the alternatives, best first.
pub(crate) fn print(screen: &Screen, planning: &Planning) {
    let goal = &planning.goal;
    let n_samples = units::counted(goal.size.n_samples, "sample");
    screen.heading(format_args!("Plans for {n_samples}, {}", place(goal)));
    let columns = [
        ("", Lean::Right),
        ("activation", Lean::Right),
        ("batch", Lean::Right),
        ("rounds", Lean::Right),
        ("up", Lean::Right),
        ("down", Lean::Right),
        ("client", Lean::Right),
        ("server", Lean::Right),
        ("link", Lean::Right),
        ("total", Lean::Right),
        ("memory", Lean::Right),
        ("security", Lean::Right),
        ("ranges", Lean::Right),
        ("margin", Lean::Right),
    ];
    let mut grid = Grid::new(screen, &columns);
    for (number, alternative) in planning.alternatives.iter().enumerate() {
        let Alternative { forecast, time, .. } = alternative;
        let mark = match (number, alternative.exceeds_memory) {
            (0, _) => "chosen",
            (_, true) => "too large",
            (_, false) => "",
        };
        let key = if alternative.relinearizes() { ", key" } else { "" };
        grid.row([
            mark.to_owned(),
            format!("{}{key}", alternative.activation_side),
            units::count(alternative.batch_samples.min(goal.size.n_samples)),
            forecast.rounds.to_string(),
            units::bytes(forecast.bytes_up),
            units::bytes(forecast.bytes_down),
            seconds(time.client),
            seconds(time.server),
            if goal.link == Link::SameMachine { "–".to_owned() } else { seconds(time.link) },
            seconds(time.total),
            units::bytes(alternative.memory_bytes()),
            forecast.security_bits.to_string(),
            if forecast.all_proven { "proven" } else { "calibrated" }.to_owned(),
            format!("{:.1}", forecast.noise_margin_bits),
        ]);
    }
    grid.print(screen);
    let source = match planning.self_test {
        Some(time) => format!("measured on this machine in {}", units::duration(time)),
        None => "by stored rates of another machine: only their order means something".to_owned(),
    };
    let has_keys = planning.alternatives.iter().any(Alternative::relinearizes);
    let keys = if has_keys { "; key: the server relinearizes" } else { "" };
    let legend = format!(
        "best first by {}; bytes and rounds are exact, times {source}; memory of the larger side{keys}",
        match goal.objective {
            Objective::Time => "time",
            Objective::Bytes => "bytes",
            Objective::Rounds => "rounds",
        }
    );
    screen.paragraph(2, screen.paint(Ink::Dim, legend));
}

/// Print the forecast of time of a finished plan.
pub(crate) fn print_time(screen: &Screen, planning: &Planning) {
    let Some(alternative) = planning.alternatives.first() else { return };
    let time = &alternative.time;
    let text = format!(
        "{} {} (client {}, server {}, link {}; by stored rates of another machine)",
        seconds(time.total),
        place(&planning.goal),
        seconds(time.client),
        seconds(time.server),
        seconds(time.link),
    );
    screen.fact("Time", text);
    screen
        .fact("Memory", format!("{} at the larger side", units::bytes(alternative.memory_bytes())));
}

/// Where client and server are.
fn place(goal: &PlanGoal) -> String {
    match goal.link {
        Link::SameMachine => "client and server on this machine".to_owned(),
        Link::Network { bits_per_second, round_trip_seconds } => {
            format!("over {}, round trip {}", rate(bits_per_second), seconds(round_trip_seconds))
        }
    }
}

fn rate(bits_per_second: f64) -> String {
    let units = [(1e12, "Tbit/s"), (1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s")];
    let fitting = units.iter().find(|(factor, _)| bits_per_second >= *factor);
    let &(factor, name) = fitting.unwrap_or(&(1.0, "bit/s"));
    let digits = format!("{:.1}", bits_per_second / factor);
    format!("{} {name}", digits.strip_suffix(".0").unwrap_or(&digits))
}

fn seconds(seconds: f64) -> String {
    units::duration(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

/// The alternatives for programs. Seconds are forecasts, `null` for a link that is not there.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct PlanningReport {
    objective: &'static str,
    samples: u64,
    link_bits_per_second: Option<f64>,
    link_round_trip_seconds: Option<f64>,
    memory_limit_bytes: Option<u64>,
    measured: bool,
    self_test_seconds: Option<f64>,
    alternatives: Vec<AlternativeReport>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct AlternativeReport {
    chosen: bool,
    activation: String,
    relinearized: bool,
    batch_samples: u64,
    rounds: u32,
    bytes_up: u64,
    bytes_down: u64,
    seconds: SecondsReport,
    client_memory_bytes: u64,
    server_memory_bytes: u64,
    exceeds_memory: bool,
    security_bits: u32,
    all_proven: bool,
    noise_margin_bits: f64,
    segments: Vec<SegmentReport>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct SecondsReport {
    client: f64,
    server: f64,
    link: Option<f64>,
    total: f64,
}

impl PlanningReport {
    /// Of these alternatives.
    pub(crate) fn new(planning: &Planning) -> Self {
        let goal = &planning.goal;
        let link = match goal.link {
            Link::SameMachine => None,
            Link::Network { bits_per_second, round_trip_seconds } => {
                Some((bits_per_second, round_trip_seconds))
            }
        };
        Self {
            objective: match goal.objective {
                Objective::Time => "time",
                Objective::Bytes => "bytes",
                Objective::Rounds => "rounds",
            },
            samples: goal.size.n_samples,
            link_bits_per_second: link.map(|(rate, _)| rate),
            link_round_trip_seconds: link.map(|(_, latency)| latency),
            memory_limit_bytes: goal.memory_bytes,
            measured: planning.self_test.is_some(),
            self_test_seconds: planning.self_test.map(|time| time.as_secs_f64()),
            alternatives: (0..)
                .zip(&planning.alternatives)
                .map(|(number, alternative)| {
                    AlternativeReport::new(number == 0, alternative, link.is_some())
                })
                .collect(),
        }
    }
}

impl AlternativeReport {
    fn new(chosen: bool, alternative: &Alternative, has_link: bool) -> Self {
        let Alternative { forecast, time, .. } = alternative;
        Self {
            chosen,
            activation: alternative.activation_side.to_string(),
            relinearized: alternative.relinearizes(),
            batch_samples: alternative.batch_samples,
            rounds: forecast.rounds,
            bytes_up: forecast.bytes_up,
            bytes_down: forecast.bytes_down,
            seconds: SecondsReport {
                client: time.client,
                server: time.server,
                link: has_link.then_some(time.link),
                total: time.total,
            },
            client_memory_bytes: alternative.client_memory_bytes,
            server_memory_bytes: alternative.server_memory_bytes,
            exceeds_memory: alternative.exceeds_memory,
            security_bits: forecast.security_bits,
            all_proven: forecast.all_proven,
            noise_margin_bits: forecast.noise_margin_bits,
            segments: alternative.segments().iter().map(SegmentReport::new).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_shown_in_their_unit() {
        for (bits_per_second, text) in
            [(1e9, "1 Gbit/s"), (5e7, "50 Mbit/s"), (2.5e9, "2.5 Gbit/s"), (300.0, "300 bit/s")]
        {
            assert_eq!(rate(bits_per_second), text);
        }
    }
}
