//! What a search for few bits found, for people and for programs.

use nn_poly::quantize::TrialResult;
use serde::Serialize;

use super::table::{Grid, Lean};
use super::terminal::{Ink, Screen};
use super::units;
use crate::pipeline::assessing::BitSearch;

/// Print what a search found.
pub(crate) fn print(screen: &Screen, search: &BitSearch) {
    let (outcome, layers, points) = (&search.uniform, &search.layers, search.points);
    let n_samples = units::counted(outcome.float.n_samples(), "held-out training sample");
    screen.heading(format_args!("Bits that lose at most {points} points on {n_samples}"));
    let columns = [
        ("bits", Lean::Right),
        ("bytes", Lean::Right),
        ("accuracy", Lean::Right),
        ("", Lean::Left),
    ];
    let mut grid = Grid::new(screen, &columns);
    let float = units::percent(outcome.float.accuracy());
    grid.row(["–".to_owned(), "–".to_owned(), float, "not rounded".to_owned()]);
    let mut counts = Counts::default();
    let chosen = layers.bits.to_string();
    let mut row = |bits: String, result: &TrialResult, only_accepted: bool| {
        let verdict = match result {
            TrialResult::Accepted { .. } if bits == chosen => "chosen",
            TrialResult::Accepted { .. } => "suffices",
            TrialResult::Inaccurate { .. } => "not accurate enough",
            TrialResult::Dearer { .. } | TrialResult::TooLarge => "",
        };
        let figures = TrialFigures::of(result);
        if let (Some(bytes), Some(accuracy)) = (figures.bytes, figures.accuracy)
            && !(only_accepted && matches!(result, TrialResult::Inaccurate { .. }))
        {
            grid.row([bits, units::bytes(bytes), units::percent(accuracy), verdict.to_owned()]);
        }
    };
    for trial in &outcome.trials {
        row(trial.bits.to_string(), &trial.result, false);
        counts.add(&trial.result);
    }
    for trial in &layers.trials {
        row(trial.bits.to_string(), &trial.result, true);
    }
    grid.print(screen);
    let told = format!(
        "{} more were not cheaper, and no parameters hold {}; these {} decide about all {} choices \
         for all layers, if more bits never cost less nor lose accuracy",
        counts.n_dearer,
        counts.n_too_large,
        units::counted(outcome.trials.len(), "trial"),
        units::count(outcome.n_candidates),
    );
    screen.paragraph(2, screen.paint(Ink::Dim, told));
    let told = format!(
        "layer by layer (weights of each, values after each but the last): {}, {} fewer bytes",
        units::counted(layers.trials.len(), "further trial"),
        units::percent(saved(outcome.bytes, layers.bytes)),
    );
    screen.paragraph(2, screen.paint(Ink::Dim, told));
    let n_held_out = outcome.float.n_samples();
    #[expect(clippy::cast_precision_loss, reason = "a share for people")]
    let of_one = 100.0 / n_held_out.max(1) as f64;
    if of_one > points {
        let text = format!(
            "one of {n_held_out} samples is {of_one:.1} points, more than may be lost: so few samples \
             tell little about the accuracy"
        );
        screen.paragraph(2, screen.paint(Ink::Warn, text));
    }
}

/// Share of the bytes that went.
#[expect(clippy::cast_precision_loss, reason = "a share for people")]
fn saved(before: u64, after: u64) -> f64 {
    before.saturating_sub(after) as f64 / before.max(1) as f64
}

/// Trials of which only the number is told.
#[derive(Default)]
struct Counts {
    n_dearer: usize,
    n_too_large: usize,
}

impl Counts {
    fn add(&mut self, result: &TrialResult) {
        match result {
            TrialResult::Dearer { .. } => self.n_dearer += 1,
            TrialResult::TooLarge => self.n_too_large += 1,
            TrialResult::Accepted { .. } | TrialResult::Inaccurate { .. } => {}
        }
    }
}

/// What is known of a trial.
#[derive(Debug, Clone, Copy, PartialEq)]
struct TrialFigures {
    bytes: Option<u64>,
    accuracy: Option<f64>,
}

impl TrialFigures {
    fn of(result: &TrialResult) -> Self {
        let (bytes, accuracy) = match *result {
            TrialResult::Accepted { bytes, accuracy }
            | TrialResult::Inaccurate { bytes, accuracy } => (Some(bytes), Some(accuracy)),
            TrialResult::Dearer { bytes } => (Some(bytes), None),
            TrialResult::TooLarge => (None, None),
        };
        Self { bytes, accuracy }
    }
}

/// The search for programs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct SearchFigures {
    target_drop_points: f64,
    held_out_samples: usize,
    unrounded_accuracy: f64,
    accuracy: f64,
    bytes: u64,
    candidates: usize,
    /// The cheapest bits that all layers may have.
    uniform_bits: String,
    uniform_bytes: u64,
    trials: Vec<TrialReport>,
    /// Of single layers.
    layer_trials: Vec<TrialReport>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct TrialReport {
    bits: String,
    result: &'static str,
    bytes: Option<u64>,
    accuracy: Option<f64>,
}

impl TrialReport {
    fn new(bits: String, result: &TrialResult) -> Self {
        let TrialFigures { bytes, accuracy } = TrialFigures::of(result);
        let result = match result {
            TrialResult::Accepted { .. } => "accepted",
            TrialResult::Inaccurate { .. } => "inaccurate",
            TrialResult::Dearer { .. } => "dearer",
            TrialResult::TooLarge => "too_large",
        };
        Self { bits, result, bytes, accuracy }
    }
}

impl From<&BitSearch> for SearchFigures {
    fn from(search: &BitSearch) -> Self {
        let (outcome, layers) = (&search.uniform, &search.layers);
        let trials = outcome.trials.iter();
        let layer_trials = layers.trials.iter();
        Self {
            target_drop_points: search.points,
            held_out_samples: outcome.float.n_samples(),
            unrounded_accuracy: outcome.float.accuracy(),
            accuracy: layers.accuracy,
            bytes: layers.bytes,
            candidates: outcome.n_candidates,
            uniform_bits: outcome.bits.to_string(),
            uniform_bytes: outcome.bytes,
            trials: trials.map(|t| TrialReport::new(t.bits.to_string(), &t.result)).collect(),
            layer_trials: layer_trials
                .map(|t| TrialReport::new(t.bits.to_string(), &t.result))
                .collect(),
        }
    }
}
