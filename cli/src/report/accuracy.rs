//! What a plan makes of a model, as tables and as JSON.

use nn_poly::plan::{Plan, PublicPlan};
use nn_poly::quantize::{GridUse, StageUse, Waste};
use nn_poly::train::Evaluation;
use serde::Serialize;

use super::bit_search::SearchFigures;
use super::planning::PlanningReport;
use super::segments;
use super::table::{Grid, Lean};
use super::terminal::{Ink, Screen};
use super::units;
use crate::pipeline::assessing::{Assessment, BitSearch};
use crate::pipeline::planning::Planning;

/// Print accuracy, ranges, grids and wasted bits. `unrounded` names the form without rounding.
pub(crate) fn print(screen: &Screen, plan: &PublicPlan, assessment: &Assessment, unrounded: &str) {
    print_accuracy(screen, assessment, unrounded);
    print_ranges(screen, plan, &assessment.report.stages);
    print_grids(screen, assessment);
    print_wastes(screen, assessment);
}

fn print_accuracy(screen: &Screen, assessment: &Assessment, unrounded: &str) {
    let report = &assessment.report;
    let n_samples = report.float.n_samples();
    screen.heading(format_args!("Accuracy on {}", units::counted(n_samples, "test sample")));
    let columns = [("", Lean::Left), ("accuracy", Lean::Right), ("correct", Lean::Right)];
    let mut grid = Grid::new(screen, &columns);
    let mut row = |name: String, evaluation: &Evaluation| {
        let correct = units::count(evaluation.n_correct());
        grid.row([name, units::percent(evaluation.accuracy()), correct]);
    };
    if let Some((name, evaluation)) = &assessment.reference {
        row(format!("reference ({name})"), evaluation);
    }
    row(format!("{unrounded}, not rounded"), &report.float);
    row(format!("integer, {}", report.bits), &report.integer);
    row("plan, as encrypted".to_owned(), &report.plan);
    grid.print(screen);
    let points = 100.0 * report.drop();
    let told = format!(
        "the plan {} {:.2} points and agrees with the network before rounding on {} of {}",
        if points < 0.0 { "gains" } else { "loses" },
        points.abs(),
        units::count(report.n_agreeing),
        units::count(n_samples),
    );
    screen.paragraph(2, screen.paint(Ink::Dim, told));
    if report.n_out_of_range > 0 {
        let n_outside = units::counted(report.n_out_of_range, "sample");
        let text = format!("{n_outside} with a value outside a calibrated range");
        screen.paragraph(2, screen.paint(Ink::Warn, text));
    }
}

fn print_ranges(screen: &Screen, plan: &PublicPlan, stages: &[StageUse]) {
    screen.heading("Ranges");
    let columns = [
        ("", Lean::Right),
        ("computes", Lean::Left),
        ("window", Lean::Right),
        ("proven", Lean::Right),
        ("expected", Lean::Right),
        ("observed", Lean::Right),
        ("used", Lean::Right),
        ("spare", Lean::Right),
        ("wrapped", Lean::Right),
    ];
    let mut grid = Grid::new(screen, &columns);
    for of in stages {
        let segment = plan.segments.get(of.stage);
        let described = segment.and_then(|segment| {
            let stage = plan.stages.get(segment.stage as usize)?;
            Some(segments::describe(stage, segment))
        });
        grid.row([
            of.stage.to_string(),
            described.unwrap_or_default(),
            format!("{:.1}", of.window_bits()),
            format!("{:.1}", of.proven_bits()),
            format!("{:.1}", of.expected_bits()),
            format!("{:.1}", of.observed_bits()),
            share(of.window_share()),
            of.spare_bits().to_string(),
            units::count(of.n_wrapped),
        ]);
    }
    grid.print(screen);
    let legend = "bits: of the window (t, or a digit of it), of the range that is proven, of the range the \
                  plan expects, of what occurred; used: share of the window; spare: whole bits";
    screen.paragraph(2, screen.paint(Ink::Dim, legend));
}

fn print_grids(screen: &Screen, assessment: &Assessment) {
    screen.heading("Grids");
    let columns = [
        ("", Lean::Right),
        ("weights", Lean::Right),
        ("largest", Lean::Right),
        ("zero", Lean::Right),
        ("narrow", Lean::Right),
        ("refreshed to", Lean::Right),
        ("observed", Lean::Right),
        ("clamped", Lean::Right),
    ];
    let mut grid = Grid::new(screen, &columns);
    let tail = |values: &GridUse| {
        [
            format!("{} … {}", values.grid.low, values.grid.high),
            format!("{} … {}", values.observed.low, values.observed.high),
            share(values.clamped_share()),
        ]
    };
    let none = || "–".to_owned();
    let inputs = ["inputs".to_owned(), none(), none(), none(), none()];
    grid.row(inputs.into_iter().chain(tail(&assessment.report.input)));
    for of in &assessment.report.stages {
        let weights = of.weights.map_or_else(
            || [none(), none(), none(), none()],
            |weights| {
                [
                    format!("{} bits", weights.bits),
                    weights.largest.to_string(),
                    share(units::share(weights.n_zero, weights.n_weights)),
                    format!("{} of {}", weights.n_narrow_channels, weights.n_channels),
                ]
            },
        );
        let refreshed = of.refreshed.as_ref().map_or_else(|| [none(), none(), none()], tail);
        grid.row(std::iter::once(of.stage.to_string()).chain(weights).chain(refreshed));
    }
    grid.print(screen);
    let legend = "zero: share of the weights; narrow: output channels whose weights fit one bit less; \
                  clamped: share of the values moved to an end of the grid";
    screen.paragraph(2, screen.paint(Ink::Dim, legend));
}

fn print_wastes(screen: &Screen, assessment: &Assessment) {
    screen.heading("Bits that nothing used");
    let wastes = assessment.report.wastes();
    if wastes.is_empty() {
        screen.paragraph(2, "none: every window, grid and weight is needed to its last bit");
    }
    for waste in &wastes {
        screen.paragraph(2, explained(waste, &assessment.report.stages));
    }
}

/// One waste in words.
fn explained(waste: &Waste, stages: &[StageUse]) -> String {
    let n_bits = units::counted(waste.bits(), "bit");
    match *waste {
        Waste::Inputs { .. } => {
            format!("inputs: {n_bits} of the grid; fewer input bits would do")
        }
        Waste::Window { stage, .. } => {
            let parts = stages
                .get(stage)
                .map_or((0.0, 0.0), |of| (of.caution_bits().max(0.0), of.rounding_bits().max(0.0)));
            format!(
                "stage {stage}: {n_bits} of the window ({:.1} for inputs that did not occur, {:.1} from \
                 rounding t up)",
                parts.0, parts.1,
            )
        }
        Waste::Weights { stage, .. } => {
            format!("stage {stage}: {n_bits} of the weights; none of them is large enough")
        }
        Waste::Activations { stage, .. } => {
            format!("stage {stage}: {n_bits} of the grid after it; larger values never occurred")
        }
    }
}

fn share(share: f64) -> String {
    match 100.0 * share {
        0.0 => "0 %".to_owned(),
        percent if percent < 0.01 => "< 0.01 %".to_owned(),
        percent => format!("{percent:.2} %"),
    }
}

/// The report of a compilation for programs. Accuracies are shares; `null` is unknown.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct CompilationReport {
    securedl: &'static str,
    plan: String,
    digest: String,
    bits: String,
    samples: usize,
    accuracy: AccuracyFigures,
    agreeing: usize,
    out_of_calibration: usize,
    inputs: GridFigures,
    stages: Vec<StageFigures>,
    wasted: Vec<WasteFigures>,
    search: Option<SearchFigures>,
    planning: PlanningReport,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct AccuracyFigures {
    reference: Option<f64>,
    unrounded: f64,
    integer: f64,
    plan: f64,
    drop: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct GridFigures {
    grid: [i64; 2],
    observed: [i64; 2],
    values: u64,
    clamped: u64,
    unused_bits: u32,
}

impl GridFigures {
    fn of(values: &GridUse) -> Self {
        Self {
            grid: [values.grid.low, values.grid.high],
            observed: [values.observed.low, values.observed.high],
            values: values.n_values,
            clamped: values.n_clamped,
            unused_bits: values.unused_bits(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct StageFigures {
    stage: usize,
    evidence: String,
    window_modulus: u64,
    proven: [i64; 2],
    expected: [i64; 2],
    observed: [i64; 2],
    window_share: f64,
    window_bits: f64,
    spare_bits: u32,
    caution_bits: f64,
    rounding_bits: f64,
    wrapped: u64,
    weights: Option<WeightFigures>,
    refreshed: Option<GridFigures>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct WeightFigures {
    bits: u32,
    needed_bits: u32,
    largest: u32,
    weights: usize,
    zero: usize,
    channels: usize,
    narrow_channels: usize,
}

impl StageFigures {
    fn of(stage: &StageUse) -> Self {
        Self {
            stage: stage.stage,
            evidence: stage.expected.evidence.to_string(),
            window_modulus: stage.window.modulus,
            proven: [stage.proven.low, stage.proven.high],
            expected: [stage.expected.low, stage.expected.high],
            observed: [stage.observed.low, stage.observed.high],
            window_share: stage.window_share(),
            window_bits: stage.window_bits(),
            spare_bits: stage.spare_bits(),
            caution_bits: stage.caution_bits(),
            rounding_bits: stage.rounding_bits(),
            wrapped: stage.n_wrapped,
            weights: stage.weights.map(|weights| WeightFigures {
                bits: weights.bits,
                needed_bits: weights.needed_bits(),
                largest: weights.largest,
                weights: weights.n_weights,
                zero: weights.n_zero,
                channels: weights.n_channels,
                narrow_channels: weights.n_narrow_channels,
            }),
            refreshed: stage.refreshed.as_ref().map(GridFigures::of),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct WasteFigures {
    what: &'static str,
    stage: Option<usize>,
    bits: u32,
}

impl WasteFigures {
    fn of(waste: &Waste) -> Self {
        let (what, stage) = match *waste {
            Waste::Inputs { .. } => ("inputs", None),
            Waste::Window { stage, .. } => ("window", Some(stage)),
            Waste::Weights { stage, .. } => ("weights", Some(stage)),
            Waste::Activations { stage, .. } => ("activations", Some(stage)),
        };
        Self { what, stage, bits: waste.bits() }
    }
}

impl CompilationReport {
    /// Everything about a plan; `search` with the points that could be lost.
    pub(crate) fn new(
        plan: &Plan,
        assessment: &Assessment,
        search: Option<&BitSearch>,
        planning: &Planning,
    ) -> Self {
        let report = &assessment.report;
        let reference = assessment.reference.as_ref();
        Self {
            securedl: env!("CARGO_PKG_VERSION"),
            plan: plan.public().name.clone(),
            digest: plan.digest().to_string(),
            bits: report.bits.to_string(),
            samples: report.float.n_samples(),
            accuracy: AccuracyFigures {
                reference: reference.map(|(_, evaluation)| evaluation.accuracy()),
                unrounded: report.float.accuracy(),
                integer: report.integer.accuracy(),
                plan: report.plan.accuracy(),
                drop: report.drop(),
            },
            agreeing: report.n_agreeing,
            out_of_calibration: report.n_out_of_range,
            inputs: GridFigures::of(&report.input),
            stages: report.stages.iter().map(StageFigures::of).collect(),
            wasted: report.wastes().iter().map(WasteFigures::of).collect(),
            search: search.map(SearchFigures::from),
            planning: PlanningReport::new(planning),
        }
    }
}
