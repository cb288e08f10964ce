//! `securedl infer`: classify samples, encrypted and verified.

mod masked;
mod page;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail};
use fingerprint::{LayoutOptions, UnverifiedReason, Verdict};
use nn_poly::import::SampleStream;
use nn_poly::plan::{Plan, Trust};
use protocol::runner::{BatchRun, BatchesOutcome, RunOptions, RunProgress, Totals, run_batches};
use protocol::signature::Subject;

use super::reaching;
use super::sign::{self, Voucher};
use crate::args::InferArguments;
use crate::failure::{self, Hint, Outcome};
use crate::kind::FileKind;
use crate::logs;
use crate::options::Venue;
use crate::output::{Destination, OutputFile};
use crate::pipeline::inference::{self, Costs, Run, RunSettings};
use crate::pipeline::recording::{Record, Recorder};
use crate::pipeline::servers::EvidenceFolder;
use crate::pipeline::source::DataSource;
use crate::pipeline::streaming::{self, Work};
use crate::pipeline::watching;
use crate::report::predictions::Format;
use crate::report::run::{Findings, RunReport, print_costs};
use crate::report::terminal::{Ink, Screen};
use crate::report::{Console, html, segments, units, verdict};

/// Samples of a simulation that are evaluated together.
const SIMULATED_TOGETHER: usize = 8192;

/// Where the results go.
struct Outputs {
    predictions: Option<(OutputFile, Format)>,
    report: Option<Destination>,
    page: Option<OutputFile>,
}

/// A run that came to its end.
struct Ended<'a> {
    run: Run,
    work: Work<'a>,
    /// What was recorded for a page, if one is asked for.
    record: Record,
}

/// Run and report.
pub(crate) fn run(arguments: &InferArguments) -> Result<Outcome> {
    let console = Console::new(arguments.json.as_ref());
    let Console { screen, progress } = &console;
    logs::start("warn", logs::Style::Brief, progress);
    let venue = Venue::of_run(arguments);
    let predictions = arguments
        .out
        .as_deref()
        .map(|path| Ok::<_, anyhow::Error>((OutputFile::check(path)?, Format::of(path)?)));
    let outputs = Outputs {
        predictions: predictions.transpose()?,
        report: arguments.json.as_ref().map(Destination::check).transpose()?,
        page: arguments.report.as_deref().map(OutputFile::check).transpose()?,
    };
    if FileKind::of(&arguments.plan)? == FileKind::PublicPlan {
        return masked::run(arguments, &console, &outputs);
    }
    FileKind::Plan.expect_of(&arguments.plan)?;
    if arguments.pack.is_some() {
        bail!(
            "--pack goes with the public part of a masked plan, and {} is a whole plan",
            arguments.plan.display()
        );
    }
    let plan = Plan::load(&arguments.plan)?;
    plan.public().expect_trust(Trust::Owner, "a run with the whole plan").hint(
        || "data owners run the public part with the pack: --plan PLAN.public --pack PLAN.pack",
    )?;
    let source = DataSource::new(&arguments.data, &arguments.reading);
    let samples = streaming::open(&plan, &source, arguments.split.into(), arguments.samples)?;
    introduce(screen, &plan, &samples, &venue, arguments);
    let voucher = Voucher::of(
        &arguments.plan,
        Subject::of_plan(&plan),
        sign::owners(&arguments.connection.owners)?,
    )?;
    let case = Case {
        arguments,
        venue: &venue,
        plan: &plan,
        voucher: &voucher,
        console: &console,
        outputs: &outputs,
    };
    let ended = case.evaluate(samples)?;
    case.conclude(ended)
}

fn introduce(
    screen: &Screen,
    plan: &Plan,
    samples: &SampleStream,
    venue: &Venue,
    arguments: &InferArguments,
) {
    let public = plan.public();
    screen.fact("Plan", format!("{} ({})", public.name, plan.digest().short()));
    screen.fact("Trust", format!("{}; activation at the {}", public.trust, public.activation_side));
    let n_samples = samples.n_samples();
    let split = nn_poly::import::Split::from(arguments.split);
    screen.fact(
        "Data",
        format!("{} of {} ({split} part)", units::counted(n_samples, "sample"), samples.source()),
    );
    if let Some(wanted) = arguments.samples.filter(|&wanted| wanted > n_samples as u64) {
        let text = format!(
            "the {split} part has {} only, not {}",
            units::counted(n_samples, "sample"),
            units::count(wanted)
        );
        screen.fact("", screen.paint(Ink::Warn, text));
    }
    screen.fact("Server", venue.in_words());
}

/// Everything a run is made of.
struct Case<'a> {
    arguments: &'a InferArguments,
    venue: &'a Venue,
    plan: &'a Plan,
    voucher: &'a Voucher,
    console: &'a Console,
    outputs: &'a Outputs,
}

impl<'a> Case<'a> {
    /// The run itself.
    fn evaluate(&self, samples: SampleStream) -> Result<Ended<'a>> {
        let Self { arguments, venue, voucher, console, .. } = self;
        // Without a signature beside the plan, the server's word is asked for.
        if voucher.is_beside_file() || !matches!(venue, Venue::Server { .. }) {
            console.screen.fact("Signature", voucher.check(None)?);
        }
        let settings = reaching::settings(&arguments.connection, &arguments.checks)?;
        if let (Some(fingerprint), Some(path)) =
            (&settings.fingerprint, &arguments.checks.fingerprint)
        {
            let named = (fingerprint, path.as_path());
            reaching::introduce_fingerprint(&console.screen, self.plan, named, voucher)?;
        }
        if **venue == Venue::Simulation {
            return self.simulate(samples);
        }
        let beside = arguments.out.as_deref().and_then(Path::parent);
        let is_wanted = !arguments.no_evidence && !arguments.connection.server.is_empty();
        let folder = EvidenceFolder::new(is_wanted, arguments.evidence.as_deref(), beside);
        // Ends when nothing is written to the folder any more.
        super::runtime()?.block_on(self.encrypted(samples, &settings, folder.path()))
    }

    fn simulate(&self, samples: SampleStream) -> Result<Ended<'a>> {
        let started = Instant::now();
        let mut work = Work::new(self.plan, samples, SIMULATED_TOGETHER);
        if self.outputs.predictions.is_some() {
            work.keep_until_written()?;
        }
        work.simulate()?;
        let run = Run {
            verdict: Verdict::Unverified { reason: UnverifiedReason::NoServer },
            scores: None,
            n_samples: work.n_samples(),
            costs: None,
            total: started.elapsed(),
            evidence: Vec::new(),
        };
        Ok(Ended { run, work, record: Record::default() })
    }

    /// On servers, or on one inside this process.
    async fn encrypted(
        &self,
        samples: SampleStream,
        settings: &RunSettings,
        evidence: Option<&Path>,
    ) -> Result<Ended<'a>> {
        let Self { arguments, venue, plan, voucher, console, .. } = self;
        let connection = &arguments.connection;
        let visitor = reaching::visitor(connection)?;
        let servers =
            reaching::servers(venue, plan, connection, &visitor, voucher, &console.screen).await?;
        let mut work = Work::new(plan, samples, 1);
        let client_plan = inference::prepare(plan, settings, |count| work.draw_canaries(count))?;
        let in_flight = usize::from(arguments.in_flight);
        let options = RunOptions::for_plan(&client_plan);
        let connections = options.connections.max(in_flight);
        let options = RunOptions { connections, batches_in_flight: in_flight, ..options };
        work = work.in_batches(client_plan.samples_per_batch(options.samples_per_batch));
        if let Some((output, _)) = &self.outputs.predictions {
            let description = self.description(settings, &work)?;
            if let Some(text) = work.keep_for(output, description, arguments.resume)? {
                console.screen.fact("Resumed", text);
            }
        }
        let remote = visitor.client(servers, connections)?;
        let shown = self.progress(&work);
        let is_recorded = self.outputs.page.is_some();
        let recorder = is_recorded.then(|| Recorder::new(plan, Arc::clone(&shown)));
        let progress = match &recorder {
            Some(recorder) => Arc::clone(recorder) as Arc<dyn RunProgress>,
            None => shown,
        };
        let run = BatchRun {
            plan: &client_plan,
            remote: &remote,
            options: &options,
            progress: &progress,
            evidence,
            first_batch: work.counts.n_earlier,
        };
        let started = Instant::now();
        let outcome = if work.counts.n_earlier == work.n_batches() {
            let verdict = Verdict::Intact { soundness: fingerprint::Soundness::unchecked() };
            Ok(BatchesOutcome::Verified { verdict, totals: Totals::default() })
        } else {
            tokio::select! {
                outcome = run_batches(&run, &mut work) => outcome.map_err(anyhow::Error::from),
                () = interrupted() => Err(anyhow::anyhow!("interrupted")),
            }
        };
        let traffic = remote.traffic();
        remote.close().await;
        let record = recorder.as_ref().map(|recorder| recorder.record()).unwrap_or_default();
        drop((progress, recorder));
        let n_sent = work.n_samples() - work.counts.n_earlier_samples;
        let (verdict, totals, evidence, n_sent) = match outcome {
            Ok(BatchesOutcome::Verified { verdict, totals }) => {
                (verdict, totals, Vec::new(), Some(n_sent))
            }
            Ok(BatchesOutcome::Rejected { verdict, totals, evidence, .. }) => {
                (verdict, totals, evidence, None)
            }
            Err(error) => return Err(self.with_advice(error, &work)),
        };
        let Totals { tally, batches, network, evaluate } = totals;
        let run = Run {
            verdict: combined(verdict, &work),
            scores: None,
            n_samples: work.n_samples(),
            costs: Some(Costs { tally, n_batches: batches, n_sent, network, evaluate, traffic }),
            total: started.elapsed(),
            evidence,
        };
        Ok(Ended { run, work, record })
    }

    /// What results depend on, for the journal; the samples themselves are compared batch by batch.
    fn description(&self, settings: &RunSettings, work: &Work<'_>) -> Result<String> {
        let split = nn_poly::import::Split::from(self.arguments.split);
        let fingerprint = match &settings.fingerprint {
            Some(fingerprint) => fingerprint.identity()?.to_string(),
            None => "none".to_owned(),
        };
        let LayoutOptions { replicas, network_canaries, random_points, max_random_points } =
            settings.layout;
        Ok(format!(
            "plan: {}\npart: {split}\nsamples: {}\ncanaries: {network_canaries}\n\
             replicas: {replicas}\nrandom points: {random_points} to {max_random_points}\n\
             fingerprint: {fingerprint}\n",
            self.plan.digest(),
            work.n_samples(),
        ))
    }

    fn progress(&self, work: &Work<'_>) -> Arc<dyn RunProgress> {
        let progress = &self.console.progress;
        if work.n_batches() > 1 {
            let sizes = (work.n_batches(), work.n_samples());
            watching::progress_of_batches(progress, sizes, work.counts.n_samples)
        } else {
            watching::progress_of_rounds(progress)
        }
    }

    /// Say what is kept of a run that did not end, and how to go on.
    fn with_advice(&self, error: anyhow::Error, work: &Work<'_>) -> anyhow::Error {
        let Some(path) = work.kept() else { return error };
        let text = format!(
            "{} of {} are finished and kept in {}; repeat the command with --resume to go on",
            units::count(work.counts.n_samples),
            units::counted(work.n_samples(), "sample"),
            path.display()
        );
        Err::<(), _>(error).hint(|| text).expect_err("an error with advice is an error")
    }

    /// Print, write; decide how the command ends.
    fn conclude(&self, ended: Ended<'_>) -> Result<Outcome> {
        let Ended { ref run, mut work, record } = ended;
        let Self { arguments, venue, plan, console, outputs, .. } = self;
        let screen = &console.screen;
        let is_complete = work.counts.n_samples == work.n_samples();
        let accuracy = work.accuracy().filter(|_| is_complete);
        // A server that altered samples without a canary passes the checks, but not this comparison.
        let is_contradicted = work.counts.n_different > 0;
        let is_compared = is_complete && **venue != Venue::Simulation;
        let findings = Findings {
            accuracy,
            matches: is_compared.then_some(!is_contradicted),
            out_of_calibration: is_complete.then_some(work.counts.n_out),
            resumed_batches: Some(work.counts.n_earlier).filter(|&n| n > 0),
        };
        screen.gap();
        print_costs(screen, run);
        let n_clamped = run.costs.as_ref().map_or(0, |costs| costs.tally.n_clamped);
        if n_clamped > 0 {
            let share = segments::clamped_share(plan.public(), run.n_samples, n_clamped);
            screen.fact("Clamped", format!("{} of the refreshed values", units::percent(share)));
        }
        if let Some(accuracy) = accuracy {
            screen.fact("Accuracy", screen.paint(Ink::Bold, units::percent(accuracy)));
        }
        if is_compared && !is_contradicted {
            screen.fact("Exactness", "every score equals the integer network's");
        }
        if is_complete && work.counts.n_out > 0 {
            let text =
                format!("{} out of calibration", units::counted(work.counts.n_out, "sample"));
            screen.fact("", screen.paint(Ink::Warn, text));
        }
        verdict::print(screen, &run.verdict);
        for file in &run.evidence {
            screen.fact("Evidence", file.display());
        }
        screen.gap();
        if is_contradicted {
            let text = format!("✗ {}", verdict::CONTRADICTED);
            screen.line(format_args!("  {}", screen.paint(Ink::Bad, text)));
        }
        let is_accepted =
            arguments.accept_unverified && matches!(run.verdict, Verdict::Unverified { .. });
        let released = (run.verdict.is_intact() || is_accepted) && !is_contradicted;
        let outcome = if is_contradicted {
            Outcome::Cheated
        } else if released {
            Outcome::Success
        } else {
            Outcome::of(&run.verdict)
        };
        let released = released && is_complete;
        if let Some((file, format)) = &outputs.predictions {
            write_predictions(screen, file, *format, &mut work, released)?;
        }
        let claims = page::Claims { is_compared, is_contradicted, released };
        let written = self.write_report(run, findings);
        let written = written.and_then(|()| self.write_page(run, &work, &record, claims));
        screen.finish()?;
        match written {
            // A cheat must not pass for a full disk.
            Err(error) if outcome == Outcome::Cheated => failure::tell(&error),
            written => written?,
        }
        Ok(outcome)
    }

    /// Everything a program may want to know.
    fn write_report(&self, run: &Run, findings: Findings) -> Result<()> {
        let Some(destination) = &self.outputs.report else { return Ok(()) };
        let report = RunReport::new(self.plan, self.venue.name(), run, findings);
        destination.write(&report.to_json()?)?;
        if let Destination::File(file) = destination {
            self.console.screen.fact("Report", file.shown().display());
        }
        Ok(())
    }

    /// Something to look at.
    fn write_page(
        &self,
        run: &Run,
        work: &Work<'_>,
        record: &Record,
        claims: page::Claims,
    ) -> Result<()> {
        let Some(file) = &self.outputs.page else { return Ok(()) };
        let view = self.view(run, work, record, claims)?;
        file.write(html::report(&view).as_bytes())?;
        self.console.screen.fact("Page", file.shown().display());
        Ok(())
    }
}

/// The verdict over this run and what an earlier one had finished.
fn combined(verdict: Verdict, work: &Work<'_>) -> Verdict {
    match (verdict, work.counts.earlier) {
        (Verdict::Intact { .. }, Some(earlier)) if work.counts.n_earlier == work.n_batches() => {
            Verdict::Intact { soundness: earlier }
        }
        (Verdict::Intact { soundness }, Some(earlier)) => {
            Verdict::Intact { soundness: soundness.weaker(earlier) }
        }
        (verdict, _) => verdict,
    }
}

fn write_predictions(
    screen: &Screen,
    file: &OutputFile,
    format: Format,
    work: &mut Work<'_>,
    released: bool,
) -> Result<()> {
    if released {
        work.write(file, format)?;
        screen.fact("Predictions", file.shown().display());
        return Ok(());
    }
    let text = if file.exists() {
        format!("not written; {} is from an earlier run", file.shown().display())
    } else {
        "not written".to_owned()
    };
    screen.fact("Predictions", screen.paint(Ink::Warn, text));
    if let Some(path) = work.kept() {
        let text = format!(
            "{} before that are kept in {}; --resume runs the others again",
            units::counted(work.counts.n_samples, "sample"),
            path.display()
        );
        screen.fact("", screen.paint(Ink::Dim, text));
    }
    Ok(())
}

/// Ends when the user or the system asks this process to stop.
pub(super) async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                result = tokio::signal::ctrl_c() => if result.is_ok() { return },
                _ = terminate.recv() => return,
            }
        }
    }
    if tokio::signal::ctrl_c().await.is_err() {
        // Without handlers the system ends the process by itself.
        std::future::pending::<()>().await;
    }
}
