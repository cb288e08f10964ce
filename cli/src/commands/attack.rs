//! `securedl attack`: a model as an attacker would leave it.

use anyhow::{Result, bail};
use fingerprint::attack::{Attack, AttackKind, AttackOptions, AttackReport, AttackSuccess, attack};
use ndarray::Array2;
use nn_poly::model::Model;
use serde::Serialize;

use crate::args::AttackArguments;
use crate::failure::Outcome;
use crate::kind::FileKind;
use crate::output::{Destination, OutputFile};
use crate::pipeline::attacking::{self, AttackSamples};
use crate::pipeline::source::DataSource;
use crate::report::table::{Grid, Lean};
use crate::report::terminal::{Ink, Screen};
use crate::report::{Console, units};

/// Attack a model and write what came of it.
pub(crate) fn run(arguments: &AttackArguments) -> Result<Outcome> {
    let Console { screen, progress } = Console::new(arguments.json.as_ref());
    check_flags(arguments)?;
    let out = OutputFile::check(&arguments.out)?;
    let report = arguments.json.as_ref().map(Destination::check).transpose()?;
    FileKind::Model.expect_of(&arguments.model)?;
    let model = Model::load(&arguments.model)?;
    let mut options = options(arguments, &model)?;
    arguments.kind.dial().check(arguments.strength)?;

    let bar = progress.spinner("reading data");
    let samples = attacking::load(
        &model,
        &DataSource::new(&arguments.data, &arguments.reading),
        arguments.samples,
    )?;
    drop(bar);
    if arguments.kind == AttackKind::Adaptive && options.sensitive_inputs.is_none() {
        let inputs = attacking::own_sensitive(
            &model,
            &samples,
            arguments.generator.unwrap_or_default(),
            arguments.seed,
            &progress,
        )?;
        options.sensitive_inputs = Some(inputs);
    }
    let attack = attack(arguments.kind, arguments.strength, &options)?;
    print_task(&screen, &*attack, &model, &samples);
    let attacked = attacking::apply(&*attack, &model, &samples, arguments.seed, &progress)?;
    let json = JsonReport {
        model: &model.spec().name,
        data: &samples.source,
        training_samples: samples.train.n_samples(),
        test_samples: samples.test.n_samples(),
        seed: arguments.seed,
        strength_meaning: arguments.kind.dial().meaning,
        sensitive_samples: options.sensitive_inputs.as_ref().map(Array2::nrows),
        report: attacked.report.clone(),
    };
    let tampered = attacking::tampered_model(&model, attacked)?;
    let bytes = tampered.to_bytes()?;
    out.write(&bytes)?;
    if let Some(destination) = report {
        destination.write(&(serde_json::to_string_pretty(&json)? + "\n"))?;
    }
    print_report(&screen, &json.report);
    screen.gap();
    let size = units::bytes(bytes.len() as u64);
    screen.fact("Model", format!("{} ({size})", arguments.out.display()));
    screen.finish()?;
    Ok(Outcome::Success)
}

/// What `--json` writes.
#[derive(Serialize)]
struct JsonReport<'a> {
    model: &'a str,
    data: &'a str,
    training_samples: usize,
    test_samples: usize,
    seed: u64,
    strength_meaning: &'static str,
    /// Samples of the attacker's own whose scores were to stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    sensitive_samples: Option<usize>,
    #[serde(flatten)]
    report: AttackReport,
}

/// Refuse flags that would be ignored.
fn check_flags(arguments: &AttackArguments) -> Result<()> {
    use AttackKind::{Adaptive, ErrorGeneric, ErrorSpecific, Trojan, TrojanMatched};
    let kind = arguments.kind;
    let poisons = matches!(kind, ErrorGeneric | ErrorSpecific);
    let aims = matches!(kind, ErrorSpecific | Trojan | TrojanMatched | Adaptive);
    for (flag, is_given, is_used) in [
        ("--epochs", arguments.epochs.is_some(), kind.trains()),
        ("--source", arguments.source.is_some(), poisons),
        ("--target", arguments.target.is_some(), aims),
        ("--sensitive", arguments.sensitive.is_some(), kind == Adaptive),
        ("--generator", arguments.generator.is_some(), kind == Adaptive),
    ] {
        if is_given && !is_used {
            bail!("{flag} means nothing to the attack `{kind}`: leave it out");
        }
    }
    Ok(())
}

fn options(arguments: &AttackArguments, model: &Model) -> Result<AttackOptions> {
    let class = |word: &Option<String>| {
        word.as_deref().map(|word| attacking::class(model, word)).transpose()
    };
    let sensitive = arguments.sensitive.as_deref();
    Ok(AttackOptions {
        epochs: arguments.epochs,
        learning_rate: None,
        source_class: class(&arguments.source)?,
        target_class: class(&arguments.target)?,
        sensitive_inputs: sensitive
            .map(|path| attacking::load_sensitive(model, path))
            .transpose()?,
    })
}

fn print_task(screen: &Screen, attack: &dyn Attack, model: &Model, samples: &AttackSamples) {
    let kind = attack.kind();
    screen.fact("Model", &model.spec().name);
    screen.fact("Attack", format!("{kind}: {} = {}", kind.dial().meaning, attack.strength()));
    screen.fact(
        "Data",
        format!(
            "{}: {} and {}",
            samples.source,
            units::counted(samples.train.n_samples(), "training sample"),
            units::counted(samples.test.n_samples(), "test sample"),
        ),
    );
}

fn print_report(screen: &Screen, report: &AttackReport) {
    screen.gap();
    let columns =
        [("", Lean::Left), ("before", Lean::Right), ("after", Lean::Right), ("limit", Lean::Right)];
    let mut grid = Grid::new(screen, &columns);
    grid.row([
        "accuracy on clean samples".to_owned(),
        units::percent(report.clean_accuracy_before),
        units::percent(report.clean_accuracy_after),
        String::new(),
    ]);
    if let Some(success) = &report.success {
        let rows = [
            (
                success.name.describe(),
                success.rate,
                format!("≥ {}", units::percent(success.target_rate)),
            ),
            (
                "accuracy lost where the attack does not aim",
                success.accuracy_loss,
                format!("≤ {}", units::percent(success.max_accuracy_loss)),
            ),
        ];
        for (name, value, limit) in rows {
            grid.row([name.to_owned(), String::new(), units::percent(value), limit]);
        }
    }
    if let Some(kept) = report.kept_samples {
        let name = "own sensitive samples that kept their class".to_owned();
        grid.row([name, String::new(), units::percent(kept), String::new()]);
    }
    grid.print(screen);
    screen.gap();
    screen.fact(
        "Changed",
        format!(
            "{} of {} parameters, by {:.3e} at most",
            units::count(report.changed_weights),
            units::count(report.n_weights),
            report.largest_change,
        ),
    );
    screen.fact("Worked", verdict(screen, report.success.as_ref()));
}

fn verdict(screen: &Screen, success: Option<&AttackSuccess>) -> String {
    match success {
        Some(success) if success.worked => screen.paint(Ink::Good, "yes").to_string(),
        Some(_) => {
            screen.paint(Ink::Warn, "no: it counts neither as detected nor as missed").to_string()
        }
        None => screen
            .paint(Ink::Warn, "unknown: the test part has no sample to measure it on")
            .to_string(),
    }
}
