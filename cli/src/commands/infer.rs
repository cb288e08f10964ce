//! `securedl infer`: classify samples, encrypted and verified.

use anyhow::Result;
use fingerprint::{LayoutOptions, Verdict};
use nn_poly::integer::ScoreMatrix;
use nn_poly::plan::Plan;
use protocol::client::Endpoint;
use protocol::tls::ClientTls;

use crate::args::InferArguments;
use crate::failure::{Hint, Outcome};
use crate::kind::FileKind;
use crate::logs;
use crate::options::{Venue, retry_policy};
use crate::output::{Destination, OutputFile};
use crate::pipeline::fingerprinting;
use crate::pipeline::inference::{self, Run, RunSettings, Workload};
use crate::pipeline::source::DataSource;
use crate::report::predictions::Predictions;
use crate::report::run::{Findings, RunReport, print_costs};
use crate::report::terminal::{Ink, Screen};
use crate::report::{Console, segments, units, verdict};

/// Where the results go.
struct Outputs {
    predictions: Option<OutputFile>,
    report: Option<Destination>,
}

/// Run and report.
pub(crate) fn run(arguments: &InferArguments) -> Result<Outcome> {
    let console = Console::new(arguments.json.as_ref());
    let Console { screen, progress } = &console;
    logs::start("warn", logs::Style::Brief, progress);
    let venue = Venue::new(arguments);
    let outputs = Outputs {
        predictions: arguments.out.as_deref().map(OutputFile::check).transpose()?,
        report: arguments.json.as_ref().map(Destination::check).transpose()?,
    };
    FileKind::Plan.expect_of(&arguments.plan)?;
    let plan = Plan::load(&arguments.plan)?;
    let workload = inference::load(
        &plan,
        &DataSource::new(&arguments.data, &arguments.reading),
        arguments.split.into(),
        arguments.samples,
    )?;
    introduce(screen, &plan, &workload, &venue, arguments);

    let run = evaluate(arguments, &venue, &plan, &workload, &console)?;
    let released = run.verdict.is_intact()
        || (arguments.accept_unverified && matches!(run.verdict, Verdict::Unverified { .. }));
    conclude(screen, &plan, &venue, &workload, &run, released, &outputs)
}

fn introduce(
    screen: &Screen,
    plan: &Plan,
    workload: &Workload,
    venue: &Venue,
    arguments: &InferArguments,
) {
    let public = plan.public();
    screen.fact("Plan", format!("{} ({})", public.name, plan.digest().short()));
    screen.fact("Trust", format!("{}; activation at the {}", public.trust, public.activation_side));
    let n_samples = workload.data.n_samples();
    let split = nn_poly::import::Split::from(arguments.split);
    screen.fact(
        "Data",
        format!(
            "{} of {} ({split} part)",
            units::counted(n_samples, "sample"),
            workload.data.source()
        ),
    );
    if let Some(wanted) = arguments.samples.filter(|&wanted| wanted > n_samples as u64) {
        let text = format!(
            "the {split} part has {} only, not {}",
            units::counted(n_samples, "sample"),
            units::count(wanted)
        );
        screen.fact("", screen.paint(Ink::Warn, text));
    }
    let place = match venue {
        Venue::Server { address, .. } => format!("{address} over TLS"),
        Venue::Local => "this process, through the same messages".to_owned(),
        Venue::Simulation => "none: the integer network alone".to_owned(),
    };
    screen.fact("Server", place);
}

/// The run itself.
fn evaluate(
    arguments: &InferArguments,
    venue: &Venue,
    plan: &Plan,
    workload: &Workload,
    console: &Console,
) -> Result<Run> {
    let settings = RunSettings {
        layout: LayoutOptions {
            network_canaries: arguments.canaries as usize,
            replicas: arguments.replicas as usize,
            ..LayoutOptions::default()
        },
        retry: retry_policy(arguments.patience),
        fingerprint: arguments.fingerprint.as_deref().map(fingerprinting::load).transpose()?,
    };
    if let Some(fingerprint) = &settings.fingerprint {
        fingerprint
            .check_plan(plan)
            .hint(|| "make one: `securedl fingerprint generate PLAN --model MODEL …`")?;
        let has_slots = plan.public().segments.iter().any(|segment| segment.evaluates_activation);
        let text = if has_slots {
            format!(
                "drawn from {} of a fingerprint",
                units::counted(fingerprint.n_samples(), "sample")
            )
        } else {
            "none: this plan carries none, the fingerprint adds nothing; every word of every reply is \
             checked instead, and with it every weight"
                .to_owned()
        };
        console.screen.fact("Canaries", text);
    }
    if *venue == Venue::Simulation {
        return inference::simulate(plan, &workload.inputs);
    }
    super::runtime()?.block_on(async {
        let endpoint = match venue {
            Venue::Server { address, tls } => {
                let trust = ClientTls::load_directory(tls)
                    .hint(|| "--tls names the folder with the server's ca.pem")?;
                let endpoint = Endpoint::tls(address, trust, None)?;
                inference::check_server(&endpoint, plan, &settings.retry).await?;
                endpoint
            }
            Venue::Local | Venue::Simulation => inference::in_process(plan)?,
        };
        let remote = inference::client(endpoint, settings.retry.clone())?;
        let run =
            inference::run(plan, &workload.inputs, &remote, &settings, &console.progress).await;
        remote.close().await;
        run
    })
}

/// Compare, print, write; decide how the command ends.
fn conclude(
    screen: &Screen,
    plan: &Plan,
    venue: &Venue,
    workload: &Workload,
    run: &Run,
    released: bool,
    outputs: &Outputs,
) -> Result<Outcome> {
    let labels = workload.data.labels();
    let predictions = run.scores.as_ref().map(|scores| Predictions {
        scores: &scores.scores,
        out_of_calibration: &scores.out_of_calibration,
        labels,
    });
    let n_samples = workload.data.n_samples();
    let accuracy = predictions
        .as_ref()
        .and_then(Predictions::n_correct)
        .map(|n_correct| units::share(n_correct, n_samples));
    let n_different = match (&run.scores, venue) {
        (Some(scores), Venue::Server { .. } | Venue::Local) => {
            let expected = plan.simulate(&workload.inputs)?.scores;
            Some(n_different_samples(&scores.scores, &expected))
        }
        (Some(_), Venue::Simulation) | (None, _) => None,
    };
    let findings = Findings { accuracy, matches: n_different.map(|n| n == 0) };

    screen.gap();
    print_costs(screen, run);
    let n_clamped = run.costs.as_ref().map_or(0, |costs| costs.tally.n_clamped);
    if n_clamped > 0 {
        let share = segments::clamped_share(plan.public(), n_samples, n_clamped);
        screen.fact("Clamped", format!("{} of the refreshed values", units::percent(share)));
    }
    if let Some(accuracy) = accuracy {
        screen.fact("Accuracy", screen.paint(Ink::Bold, units::percent(accuracy)));
    }
    if n_different == Some(0) {
        screen.fact("Exactness", "every score equals the integer network's");
    }
    let n_out = run
        .scores
        .as_ref()
        .map_or(0, |scores| scores.out_of_calibration.iter().filter(|&&flag| flag).count());
    if n_out > 0 {
        let text = format!("{} out of calibration", units::counted(n_out, "sample"));
        screen.fact("", screen.paint(Ink::Warn, text));
    }
    verdict::print(screen, &run.verdict);
    screen.gap();

    // A server that altered samples without a canary passes the checks, but not this comparison.
    let is_contradicted = n_different.is_some_and(|n| n > 0);
    if is_contradicted {
        let text = "✗ Some scores are not the integer network's: the server altered samples that carried no canary";
        screen.line(format_args!("  {}", screen.paint(Ink::Bad, text)));
    }
    let released = released && !is_contradicted;
    write(
        screen,
        outputs,
        released,
        predictions.as_ref(),
        &RunReport::new(plan, venue.name(), run, findings),
    )?;
    screen.finish()?;
    Ok(if is_contradicted {
        Outcome::Cheated
    } else if released {
        Outcome::Success
    } else {
        Outcome::of(&run.verdict)
    })
}

/// Samples with a score that differs.
fn n_different_samples(actual: &ScoreMatrix, expected: &ScoreMatrix) -> usize {
    if actual.dim() != expected.dim() {
        return actual.ncols().max(expected.ncols());
    }
    actual.columns().into_iter().zip(expected.columns()).filter(|(a, b)| a != b).count()
}

fn write(
    screen: &Screen,
    outputs: &Outputs,
    released: bool,
    predictions: Option<&Predictions<'_>>,
    report: &RunReport,
) -> Result<()> {
    if let Some(file) = &outputs.predictions {
        match predictions.filter(|_| released) {
            Some(predictions) => {
                file.write(predictions.to_csv().as_bytes())?;
                screen.fact("Predictions", file.shown().display());
            }
            None if file.exists() => screen.fact(
                "Predictions",
                screen.paint(
                    Ink::Warn,
                    format_args!("not written; {} is from an earlier run", file.shown().display()),
                ),
            ),
            None => screen.fact("Predictions", screen.paint(Ink::Warn, "not written")),
        }
    }
    if let Some(destination) = &outputs.report {
        destination.write(&report.to_json()?)?;
        if let Destination::File(file) = destination {
            screen.fact("Report", file.shown().display());
        }
    }
    Ok(())
}
