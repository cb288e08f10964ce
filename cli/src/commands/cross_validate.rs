//! `securedl cross-validate`: how good a network is on little data, encrypted and verified.

use std::time::Duration;

use anyhow::Result;
use nn_poly::train::Evaluation;
use serde::Serialize;

use crate::args::CrossValidateArguments;
use crate::failure::Outcome;
use crate::output::Destination;
use crate::pipeline::cross_validating::{self, CrossValidation, Fold};
use crate::pipeline::source::DataSource;
use crate::pipeline::training::{TrainingRun, TrainingSettings};
use crate::report::table::{Grid, Lean};
use crate::report::terminal::{Ink, Screen};
use crate::report::{Console, units};

/// Validate and report.
pub(crate) fn run(arguments: &CrossValidateArguments) -> Result<Outcome> {
    let console = Console::new(arguments.json.as_ref());
    let Console { screen, progress } = &console;
    let report = arguments.json.as_ref().map(Destination::check).transpose()?;
    let data = cross_validating::load(&DataSource::new(&arguments.data, &arguments.reading))?;
    screen.fact(
        "Data",
        format!(
            "{}: {}, {}, {} classes",
            data.source(),
            units::counted(data.n_samples(), "sample"),
            data.shape(),
            data.n_classes()
        ),
    );
    let runtime = super::runtime()?;
    let mut folds = Vec::new();
    for repetition in 0..arguments.repeats {
        let seed = arguments.seed.wrapping_add(repetition.into());
        let settings = CrossValidation {
            training: TrainingSettings::new(&arguments.architecture, TrainingRun::seeded(seed))?,
            n_folds: arguments.folds.into(),
            side: arguments.side.map(Into::into),
        };
        let mut told = |fold: usize, validated: &Fold| {
            let accuracy = units::percent(validated.encrypted.accuracy());
            progress.line(format_args!("  seed {seed}, fold {}: {accuracy}", fold + 1));
        };
        let validated =
            cross_validating::cross_validate(&data, &settings, &runtime, progress, &mut told)?;
        folds.extend(validated.into_iter().enumerate().map(|(idx, fold)| (seed, idx, fold)));
    }
    let rows: Vec<FoldReport> =
        folds.iter().map(|(seed, idx, fold)| FoldReport::new(*seed, *idx, fold)).collect();
    let summary = Report::new(data.source(), rows);
    print(screen, &summary);
    if let Some(report) = report {
        report.write(&(serde_json::to_string_pretty(&summary)? + "\n"))?;
    }
    screen.finish()?;
    Ok(if summary.all_exact { Outcome::Success } else { Outcome::Unverified })
}

/// Accuracies of one evaluation.
#[derive(Debug, Clone, Copy, Serialize)]
struct Accuracy {
    correct: usize,
    accuracy: f64,
    balanced: f64,
}

impl Accuracy {
    fn of(evaluation: &Evaluation) -> Self {
        Self {
            correct: evaluation.n_correct(),
            accuracy: evaluation.accuracy(),
            balanced: evaluation.balanced_accuracy(),
        }
    }
}

#[derive(Debug, Serialize)]
struct FoldReport {
    seed: u64,
    fold: usize,
    n_train: usize,
    n_test: usize,
    float: Accuracy,
    encrypted: Accuracy,
    activation: String,
    intact: bool,
    matches_integer_network: bool,
    rounds: usize,
    bytes: u64,
    seconds: f64,
}

impl FoldReport {
    fn new(seed: u64, fold_idx: usize, fold: &Fold) -> Self {
        Self {
            seed,
            fold: fold_idx + 1,
            n_train: fold.n_train,
            n_test: fold.encrypted.n_samples(),
            float: Accuracy::of(&fold.float),
            encrypted: Accuracy::of(&fold.encrypted),
            activation: fold.side.to_string(),
            intact: fold.is_intact,
            matches_integer_network: fold.matches,
            rounds: fold.n_rounds,
            bytes: fold.n_bytes,
            seconds: fold.time.as_secs_f64(),
        }
    }
}

/// Mean and sample standard deviation over folds.
#[derive(Debug, Clone, Copy, Serialize)]
struct Spread {
    mean: f64,
    deviation: f64,
}

impl Spread {
    #[expect(clippy::cast_precision_loss, reason = "a number of folds")]
    fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        let n = values.clone().count() as f64;
        let mean = values.clone().sum::<f64>() / n;
        let variance = values.map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
        Self { mean, deviation: variance.sqrt() }
    }

    fn told(self) -> String {
        format!("{} ± {:.2}", units::percent(self.mean), 100.0 * self.deviation)
    }
}

#[derive(Debug, Serialize)]
struct Report {
    data: String,
    float: Spread,
    encrypted: Spread,
    balanced_float: Spread,
    balanced_encrypted: Spread,
    all_exact: bool,
    folds: Vec<FoldReport>,
}

impl Report {
    fn new(source: &str, folds: Vec<FoldReport>) -> Self {
        let over = |figure: fn(&FoldReport) -> f64| Spread::of(folds.iter().map(figure));
        Self {
            data: source.to_owned(),
            float: over(|fold| fold.float.accuracy),
            encrypted: over(|fold| fold.encrypted.accuracy),
            balanced_float: over(|fold| fold.float.balanced),
            balanced_encrypted: over(|fold| fold.encrypted.balanced),
            all_exact: folds.iter().all(|fold| fold.intact && fold.matches_integer_network),
            folds,
        }
    }
}

fn print(screen: &Screen, report: &Report) {
    screen.heading("Folds");
    let columns = [
        ("seed", Lean::Right),
        ("fold", Lean::Right),
        ("train", Lean::Right),
        ("test", Lean::Right),
        ("float", Lean::Right),
        ("encrypted", Lean::Right),
        ("exact", Lean::Left),
        ("activation", Lean::Left),
        ("rounds", Lean::Right),
        ("bytes", Lean::Right),
        ("time", Lean::Right),
    ];
    let mut grid = Grid::new(screen, &columns);
    for fold in &report.folds {
        let is_exact = fold.intact && fold.matches_integer_network;
        grid.row([
            fold.seed.to_string(),
            fold.fold.to_string(),
            units::count(fold.n_train),
            units::count(fold.n_test),
            units::percent(fold.float.accuracy),
            units::percent(fold.encrypted.accuracy),
            if is_exact { "yes" } else { "NO" }.to_owned(),
            fold.activation.clone(),
            fold.rounds.to_string(),
            units::bytes(fold.bytes),
            units::duration(Duration::from_secs_f64(fold.seconds)),
        ]);
    }
    grid.print(screen);
    screen.gap();
    let balanced = |spread: Spread| format!("balanced over classes {}", spread.told());
    screen.fact("Float", format!("{}; {}", report.float.told(), balanced(report.balanced_float)));
    screen.fact(
        "Encrypted",
        format!(
            "{}; {}",
            screen.paint(Ink::Bold, report.encrypted.told()),
            balanced(report.balanced_encrypted)
        ),
    );
    screen.fact(
        "Exactness",
        if report.all_exact {
            "every run intact, every score the integer network's"
        } else {
            "NOT every run was intact and exact; please report it"
        },
    );
    screen.line(screen.paint(Ink::Dim, "  mean ± standard deviation over folds"));
}
