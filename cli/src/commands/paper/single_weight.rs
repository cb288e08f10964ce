//! Single weights changed by one behind an encrypted batch.

use std::fmt::Write as _;
use std::fs;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use fingerprint::attack::integer::{Edit, Place};
use fingerprint::single_weight::{StageCheck, StageTrials, TrialSpec, single_weight_trials};
use fingerprint::{LayoutOptions, Verdict};
use ndarray::Array2;
use nn_poly::integer::IntegerMatrix;
use nn_poly::network::NetworkKind;
use nn_poly::plan::{ActivationSide, Plan};
use protocol::client::{Endpoint, RetryPolicy};
use protocol::hosting::PlanShelf;
use protocol::identifiers::Digest;
use protocol::session::{ClientPlan, SessionOptions};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::Serialize;
use tokio::runtime::Runtime;

use crate::args::SingleWeightArguments;
use crate::commands::bench::workload::Workload;
use crate::failure::Outcome;
use crate::output::OutputFile;
use crate::pipeline::inference::{self, RunSettings};
use crate::report::figures::{Figures, TableStyle};
use crate::report::progress::Progress;
use crate::report::{Console, units};

/// Changes tried at the same random points.
const CHANGES_PER_DRAW: u64 = 1024;
/// Samples a plan of random weights is compiled for.
const EXPECTED_SAMPLES: u64 = 4096;
/// Draws of a change before it is given up that some weight can move within its proven range.
const MAX_DRAWS: usize = 10_000;

/// What one plan gave.
#[derive(Debug, Serialize)]
struct PlanFigures {
    plan: String,
    activation: String,
    segments: Vec<SegmentTrials>,
    runs: u32,
    runs_missed: u32,
    runs_blamed_elsewhere: u32,
}

#[derive(Debug, Serialize)]
struct SegmentTrials {
    segment: usize,
    check: String,
    n_weights: usize,
    changes: u64,
    missed: u64,
    /// Upper end of the 95 % interval.
    rate_at_most: f64,
    /// What theory allows, as −log2.
    bound_bits: f64,
}

/// Try changes on every plan, then play servers that run them.
pub(super) fn run(arguments: &SingleWeightArguments) -> Result<Outcome> {
    let console = Console::new(None);
    fs::create_dir_all(&arguments.out)
        .with_context(|| format!("cannot create {}", arguments.out.display()))?;
    let file = |extension: &str| {
        OutputFile::check(&arguments.out.join(format!("single-weight.{extension}")))
    };
    let (json, report) = (file("json")?, file("md")?);
    let runtime = crate::commands::runtime()?;
    let mut figures = Vec::new();
    for plan in plans(arguments)? {
        let found = measure(&plan, arguments, &runtime, &console.progress)?;
        console.screen.heading(found.title());
        found.table().print(&console.screen, TableStyle::Terminal);
        console.screen.line(found.runs_in_words());
        figures.push(found);
    }
    json.write((serde_json::to_string_pretty(&figures)? + "\n").as_bytes())?;
    report.write(markdown(arguments, &figures)?.as_bytes())?;
    for (what, file) in [("Figures", &json), ("Report", &report)] {
        console.screen.fact(what, file.shown().display());
    }
    console.screen.finish()?;
    Ok(Outcome::Success)
}

fn plans(arguments: &SingleWeightArguments) -> Result<Vec<Plan>> {
    if arguments.plan.is_empty() {
        let workload = Workload::random(NetworkKind::Cryptonets, 1, arguments.seed)?;
        let sides = [ActivationSide::Client, ActivationSide::Server];
        return sides.iter().map(|&side| workload.compile(side, EXPECTED_SAMPLES)).collect();
    }
    arguments.plan.iter().map(|path| Ok(Plan::load(path)?)).collect()
}

fn measure(
    plan: &Plan,
    arguments: &SingleWeightArguments,
    runtime: &Runtime,
    progress: &Progress,
) -> Result<PlanFigures> {
    let inputs = random_inputs(plan, arguments.samples as usize, arguments.seed);
    let settings = RunSettings {
        layout: LayoutOptions::default(),
        retry: RetryPolicy::default(),
        fingerprint: None,
    };
    let options = SessionOptions { layout: settings.layout, ..SessionOptions::default() };
    let canaries = random_inputs(plan, settings.layout.network_canaries, !arguments.seed);
    let checks = ClientPlan::new(plan.clone(), options, &canaries)?.stage_checks()?;
    let segments = trials(plan, &checks, arguments, progress)?;
    let (runs_missed, runs_blamed_elsewhere) =
        encrypted_runs(plan, &inputs, &settings, arguments, runtime, progress)?;
    Ok(PlanFigures {
        plan: plan.public().name.clone(),
        activation: plan.public().activation_side.to_string(),
        segments,
        runs: arguments.runs,
        runs_missed,
        runs_blamed_elsewhere,
    })
}

fn trials(
    plan: &Plan,
    checks: &[StageCheck],
    arguments: &SingleWeightArguments,
    progress: &Progress,
) -> Result<Vec<SegmentTrials>> {
    let changes_per_stage = arguments.changes.div_ceil(checks.len().max(1) as u64);
    let spec =
        TrialSpec { changes_per_stage, changes_per_draw: CHANGES_PER_DRAW, seed: arguments.seed };
    let bar = progress.bar("changes tried", changes_per_stage * checks.len() as u64);
    let found = single_weight_trials(plan.network(), checks, spec, &|n| bar.advance(n))?;
    bar.finish(format!("{} changes tried", units::count(arguments.changes)));
    let segments = found.iter().enumerate();
    segments.map(|(segment, trials)| SegmentTrials::new(plan, segment, trials)).collect()
}

/// Encrypted batches on servers with one changed weight each, the segments in turn. Returns how many
/// were found intact, and how many modified elsewhere.
fn encrypted_runs(
    plan: &Plan,
    inputs: &IntegerMatrix,
    settings: &RunSettings,
    arguments: &SingleWeightArguments,
    runtime: &Runtime,
    progress: &Progress,
) -> Result<(u32, u32)> {
    let mut rng = ChaCha8Rng::seed_from_u64(arguments.seed);
    let bar = progress.bar("encrypted batches", arguments.runs.into());
    let (mut missed, mut elsewhere) = (0, 0);
    for run in 0..arguments.runs {
        let segment = run as usize % plan.public().segments.len();
        let stage = plan.public().segment(segment)?.stage as usize;
        let mut shelf = PlanShelf::new();
        // The server claims to run the plan it was given.
        shelf.insert_as(&changed(plan, stage, &mut rng)?, Digest(plan.digest().0))?;
        let server = inference::server(Arc::new(shelf))?;
        let verdict = runtime.block_on(async {
            let remote = inference::client(Endpoint::in_process(server), settings.retry.clone())?;
            let silent = Progress::silent();
            let run = inference::run(plan, inputs, &remote, settings, &silent).await;
            remote.close().await;
            anyhow::Ok(run?.verdict)
        })?;
        match verdict {
            Verdict::ModelModified { segment: at, .. }
            | Verdict::ComputationTampered { segment: at, .. } => {
                elsewhere += u32::from(at as usize != segment);
            }
            Verdict::Intact { .. } | Verdict::Unverified { .. } => missed += 1,
        }
        bar.advance(1);
    }
    bar.finish(format!("{} encrypted batches", arguments.runs));
    Ok((missed, elsewhere))
}

/// The plan with one weight of a stage moved by one. A plan holds no weight that breaks a proven
/// range, so changes are drawn until one does not.
fn changed(plan: &Plan, stage: usize, rng: &mut ChaCha8Rng) -> Result<Plan> {
    for _ in 0..MAX_DRAWS {
        let edit = Edit::draw(plan.network(), Some(stage), rng)?;
        let mut weights = plan.network().weights().to_vec();
        let weight = match edit.place {
            Place::Weight(index) => {
                weights.get_mut(stage).and_then(|stage| stage.weights.get_mut(index))
            }
            Place::Bias(_) => None,
        };
        let Some(weight) = weight else { continue };
        *weight += i16::from(edit.step.delta());
        if let Ok(changed) = Plan::new(plan.public().clone(), weights) {
            return Ok(changed);
        }
    }
    bail!("no weight of stage {stage} can move by one within its proven range")
}

/// Samples anywhere on the input grid.
fn random_inputs(plan: &Plan, n_samples: usize, seed: u64) -> IntegerMatrix {
    let interval = plan.public().input.interval();
    let width = (interval.high - interval.low + 1).unsigned_abs();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    Array2::from_shape_simple_fn((plan.network().n_inputs(), n_samples), || {
        // Grids have at most 16 bits: the remainder's bias does not matter, and the sum fits.
        let offset = i64::try_from(rng.next_u64() % width).unwrap_or(0);
        i32::try_from(interval.low + offset).unwrap_or(0)
    })
}

impl SegmentTrials {
    fn new(plan: &Plan, segment: usize, trials: &StageTrials) -> Result<Self> {
        let check = match trials.check {
            StageCheck::Words { rows, modulus, .. } => {
                format!(
                    "words: {} modulo a {}-bit prime",
                    units::counted(rows, "row"),
                    bits(modulus)
                )
            }
            StageCheck::Points { points, modulus, .. } => format!(
                "{} modulo a {}-bit prime",
                units::counted(points, "random point"),
                bits(modulus)
            ),
        };
        Ok(Self {
            segment,
            check,
            n_weights: plan.network().stage(trials.check.stage())?.1.weights.len(),
            changes: trials.changes,
            missed: trials.missed,
            rate_at_most: trials.rate.high,
            bound_bits: -trials.check.bound().log2(),
        })
    }
}

fn bits(modulus: u64) -> u32 {
    u64::BITS - modulus.leading_zeros()
}

impl PlanFigures {
    fn title(&self) -> String {
        format!("{}, activation at the {}", self.plan, self.activation)
    }

    fn table(&self) -> Figures {
        let columns =
            ["segment", "check", "weights", "changes tried", "missed", "rate at most", "theory"];
        let mut table = Figures::new(&columns, 2);
        for trials in &self.segments {
            table.row([
                trials.segment.to_string(),
                trials.check.clone(),
                units::count(trials.n_weights as u64),
                units::count(trials.changes),
                trials.missed.to_string(),
                format!("{:.1e}", trials.rate_at_most),
                format!("2^-{:.1}", trials.bound_bits),
            ]);
        }
        table
    }

    fn runs_in_words(&self) -> String {
        format!(
            "  {} encrypted batches with one changed weight: {} missed, {} blamed on another segment",
            self.runs, self.runs_missed, self.runs_blamed_elsewhere
        )
    }
}

fn markdown(arguments: &SingleWeightArguments, figures: &[PlanFigures]) -> Result<String> {
    let mut text = String::from("# One weight changed by one, behind an encrypted batch\n\n");
    let plans: String =
        arguments.plan.iter().map(|plan| format!(" --plan {}", plan.display())).collect();
    writeln!(
        text,
        "`securedl paper single-weight{plans} --changes {} --runs {} --samples {} --seed {}`\n",
        arguments.changes, arguments.runs, arguments.samples, arguments.seed
    )?;
    text.push_str(
        "Trials favour the server: network canaries are left out, and of a reply that is checked \
         word by word one column is looked at. `rate at most` is the upper end of Wilson's 95 % \
         interval; `theory` bounds what the check misses.\n",
    );
    for plan in figures {
        writeln!(text, "\n## {}\n", plan.title())?;
        for line in plan.table().markdown() {
            writeln!(text, "{line}")?;
        }
        writeln!(text, "\n{}.", plan.runs_in_words().trim())?;
    }
    Ok(text)
}
