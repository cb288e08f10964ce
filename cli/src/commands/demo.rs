//! `securedl demo`: the whole story on one machine, with nothing to configure.

mod cheating;
mod page;
mod tampering;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use fingerprint::{LayoutOptions, Verdict};
use nn_poly::compiler::Compiled;
use nn_poly::import::synthetic_digits::{N_CLASSES, SIDE, synthetic_digits};
use nn_poly::import::{Dataset, SplitSpec};
use nn_poly::network::{ActivationChoice, NetworkKind};
use nn_poly::plan::{Plan, PlanOptions};
use nn_poly::{Shape, integer::IntegerMatrix};
use protocol::client::{Endpoint, RetryPolicy};
use protocol::hosting::PlanShelf;
use protocol::identifiers::Digest;
use protocol::server::Server;
use protocol::server::service::PlanHost;
use protocol::tls::{self, ClientTls, ServerTls};
use serde::Serialize;
use tokio::sync::oneshot;

use crate::args::DemoArguments;
use crate::failure::Outcome;
use crate::logs;
use crate::options::BitsChoice;
use crate::output::Destination;
use crate::pipeline::compiling;
use crate::pipeline::inference::{self, Run, RunSettings};
use crate::pipeline::servers::{self, Visitor};
use crate::pipeline::training::{self, Trained, TrainingData, TrainingRun, TrainingSettings};
use crate::report::picture::{self, Exhibit, Picture};
use crate::report::predictions::Predictions;
use crate::report::run::{Findings, RunReport, print_costs};
use crate::report::terminal::{Ink, Screen};
use crate::report::{Console, layers, segments, units, verdict};
use tampering::Tampering;

/// Digits to learn from.
const TRAINING_SAMPLES: usize = 3000;
/// Digits to measure with.
const TEST_SAMPLES: usize = 1000;
/// Epochs of float training.
const EPOCHS: u32 = 6;
/// Predictions shown as pictures.
const SHOWN: usize = 10;
/// Width of a picture in terminal cells.
const PICTURE_WIDTH: usize = 14;

/// Tell the story.
pub(crate) fn run(arguments: &DemoArguments) -> Result<Outcome> {
    let started = Instant::now();
    let console = Console::new(arguments.json.as_ref());
    let Console { screen, progress } = &console;
    logs::start("error", logs::Style::Brief, progress);
    let report = arguments.json.as_ref().map(Destination::check).transpose()?;
    screen.line(screen.paint(
        Ink::Bold,
        "SecureDL: a server classifies what it cannot see, and cannot cheat unnoticed",
    ));

    let data = draw(arguments)?;
    let trained = train(&console, &data.training, arguments.seed)?;
    let compiled = compile(screen, &trained, &data.training, arguments)?;
    if arguments.ui {
        page::serve(screen, compiled.plan, data.batch, arguments.listen)?;
        return Ok(Outcome::Success);
    }
    let plan = &compiled.plan;
    let inputs = plan.public().quantize(data.batch.features())?;

    let stage = Stage::new()?;
    let honest = honest_run(&console, &stage, &compiled, &data.batch, &inputs)?;
    let (change, tampered) = tampered_run(&console, &stage, plan, &inputs)?;

    let as_expected = honest.verdict.is_intact()
        && matches!(tampered.verdict, Verdict::ModelModified { segment, .. } if segment == change.segment);
    let findings = findings(plan, &data.batch, &inputs, &honest)?;
    if let Some(report) = report {
        let demo = DemoReport {
            securedl: env!("CARGO_PKG_VERSION"),
            seed: arguments.seed,
            samples: arguments.samples,
            as_expected,
            training: TrainingReport::new(&trained),
            honest: RunReport::new(plan, "server", &honest, findings),
            tampering: change,
            tampered: RunReport::new(plan, "server", &tampered, Findings::default()),
            seconds: started.elapsed().as_secs_f64(),
        };
        report.write(&(serde_json::to_string_pretty(&demo)? + "\n"))?;
    }
    screen.gap();
    let time = units::duration(started.elapsed());
    let done = format!("Done in {time}. For your own data: securedl --help");
    screen.line(screen.paint(Ink::Dim, done));
    screen.finish()?;
    if !as_expected || findings.matches != Some(true) {
        bail!(
            "the demo did not go as it should: {} and {} instead of Intact and ModelModified; please report it",
            honest.verdict.name(),
            tampered.verdict.name()
        );
    }
    Ok(Outcome::Success)
}

/// Drawn digits.
struct Digits {
    training: TrainingData,
    /// What will be sent; never seen in training.
    batch: Dataset,
}

/// Draw everything at once: samples are independent, so the batch is new to the network.
fn draw(arguments: &DemoArguments) -> Result<Digits> {
    let n_batch = arguments.samples as usize;
    let n_train = TRAINING_SAMPLES;
    let n_test = TEST_SAMPLES;
    let (images, labels) = synthetic_digits(n_train + n_test + n_batch, arguments.seed);
    let names = (0..N_CLASSES).map(|digit| digit.to_string()).collect();
    let shape = Shape::image(SIDE, SIDE, 1)?;
    let all = Dataset::new(shape, images, Some(labels), names, "drawn digits".to_owned())?;
    let part = |from: usize, n: usize| all.select(&(from..from + n).collect::<Vec<_>>());
    let split = SplitSpec { seed: arguments.seed, ..SplitSpec::default() };
    let training = TrainingData { train: part(0, n_train)?, test: part(n_train, n_test)?, split };
    Ok(Digits { training, batch: part(n_train + n_test, n_batch)? })
}

fn train(console: &Console, data: &TrainingData, seed: u64) -> Result<Trained> {
    let Console { screen, progress } = console;
    screen.heading("1  A polynomial network");
    let settings = TrainingSettings {
        kind: NetworkKind::Cryptonets,
        activation: ActivationChoice::Square,
        bits: BitsChoice::Default,
        epochs: Some(EPOCHS),
        run: TrainingRun::seeded(seed),
    };
    let recipe = training::recipe(&settings, data.train.n_samples());
    let started = Instant::now();
    let trained = training::train(data, &settings, &recipe, &mut (), progress)?;
    screen.fact(
        "Data",
        format!(
            "{} digits drawn by our own renderer (seed {seed}), {SIDE}×{SIDE} pixels",
            units::count(data.train.n_samples()),
        ),
    );
    screen.fact("Network", layers::summary(trained.model.network()));
    let accuracy = trained.integer.as_ref().map_or(trained.float.accuracy(), |(_, e)| e.accuracy());
    screen.fact(
        "Trained",
        format!(
            "in {}: {} of {} right in floating point, {} in {} bits",
            units::duration(started.elapsed()),
            units::percent(trained.float.accuracy()),
            units::counted(trained.float.n_samples(), "new digit"),
            units::percent(accuracy),
            recipe.bits,
        ),
    );
    Ok(trained)
}

fn compile(
    screen: &Screen,
    trained: &Trained,
    data: &TrainingData,
    arguments: &DemoArguments,
) -> Result<Compiled> {
    let options = PlanOptions {
        activation_side: arguments.activation.into(),
        expected_samples: arguments.samples.into(),
        ..PlanOptions::default()
    };
    let bits = compiling::bits(&trained.model, BitsChoice::Default);
    let compiled = compiling::compile_model(&trained.model, bits, data.train.features(), &options)?;
    let public = compiled.plan.public();
    screen.heading("2  Its plan");
    screen.fact("Trust", format!("{} (the client owns the model)", public.trust));
    screen.fact(
        "Activation",
        match arguments.activation {
            crate::args::SideName::Server => "at the server, which squares encrypted numbers",
            crate::args::SideName::Client => "at the client, while it refreshes",
        },
    );
    screen.fact("Security", format!("{} bits", public.security_bits));
    for (idx, segment) in public.segments.iter().enumerate() {
        let stage = public.stages.get(segment.stage as usize);
        screen.fact(
            &format!("Segment {idx}"),
            format!(
                "{}: {} → {} values of {} bits, ring degree {}, modulus {:.0} bits",
                stage.map_or_else(String::new, |stage| segments::describe(stage, segment)),
                segment.n_inputs,
                segment.n_outputs,
                segments::value_bits(segment, stage),
                segment.ring.ring_degree,
                segment.ring.log2_ciphertext_modulus(),
            ),
        );
    }
    Ok(compiled)
}

/// Certificates in a folder that vanishes afterwards, and threads for both ends.
struct Stage {
    runtime: tokio::runtime::Runtime,
    folder: tempfile::TempDir,
}

impl Stage {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir().context("no temporary folder for certificates")?;
        tls::init(&folder.path().join("tls"), &[])?;
        Ok(Self { runtime: super::runtime()?, folder })
    }

    /// Start a server with `host`, send it an encrypted batch, and stop it.
    fn run(
        &self,
        host: Arc<dyn PlanHost>,
        plan: &Plan,
        inputs: &IntegerMatrix,
        console: &Console,
    ) -> Result<Run> {
        let certificates = self.folder.path().join("tls");
        let server = inference::server(host)?;
        let settings = RunSettings {
            layout: LayoutOptions::default(),
            retry: RetryPolicy::default(),
            fingerprint: None,
        };
        self.runtime.block_on(async {
            let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let listener = Server::bind(any_port).await?;
            let address = listener.local_addr().context("the port is not known")?.to_string();
            let trust = "certified by an authority made just now";
            console.screen.fact("Server", format!("{address} over TLS 1.3, {trust}"));
            let (stop, stopped) = oneshot::channel::<()>();
            let tls = ServerTls::load(&certificates)?;
            let serving = tokio::spawn(async move {
                let stopped = async {
                    let _ = stopped.await;
                };
                server.serve(listener, tls, stopped).await;
            });
            let endpoint =
                Endpoint::tls(&address, ClientTls::load_directory(&certificates)?, None)?;
            servers::check(&endpoint, plan, &Visitor::plain(&settings.retry)).await?;
            let remote = inference::client(endpoint, settings.retry.clone())?;
            let run = inference::run(plan, inputs, &remote, &settings, &console.progress).await;
            remote.close().await;
            let _ = stop.send(());
            serving.await.context("the server failed")?;
            run
        })
    }
}

fn honest_run(
    console: &Console,
    stage: &Stage,
    compiled: &Compiled,
    batch: &Dataset,
    inputs: &IntegerMatrix,
) -> Result<Run> {
    let screen = &console.screen;
    let plan = &compiled.plan;
    screen.heading("3  An encrypted batch");
    let run = stage.run(inference::shelf(plan)?, plan, inputs, console)?;
    print_costs(screen, &run);
    if let Some(scores) = &run.scores {
        let predictions = Predictions {
            scores: &scores.scores,
            out_of_calibration: &scores.out_of_calibration,
            labels: batch.labels(),
        };
        let n_correct = predictions.n_correct().unwrap_or(0);
        let n_samples = units::counted(run.n_samples, "digit");
        let shown =
            if run.n_samples > SHOWN { "; below the first ones and the least certain" } else { "" };
        screen.fact("Right", format!("{} of {n_samples}{shown}", units::count(n_correct)));
        screen.gap();
        picture::gallery(screen, &exhibits(batch, &predictions, plan.public().score_step));
    }
    verdict::print(screen, &run.verdict);
    Ok(run)
}

/// The first samples, and the one the network is least sure of.
fn exhibits(batch: &Dataset, predictions: &Predictions<'_>, score_step: f32) -> Vec<Exhibit> {
    let confidences = predictions.confidences(f64::from(score_step));
    let classes = predictions.classes();
    let mut shown: Vec<usize> = (0..confidences.len().min(SHOWN - 1)).collect();
    let rest = confidences.iter().enumerate().skip(shown.len());
    shown.extend(rest.min_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(sample, _)| sample));
    let name = |class: usize| batch.class_names().get(class).cloned().unwrap_or_default();
    let exhibit = |sample: usize| {
        let pixels = batch.features().row(sample).to_vec();
        let picture = Picture::of_sample(batch.shape().dims(), &pixels, PICTURE_WIDTH)?;
        let (&class, confidence) = (classes.get(sample)?, confidences.get(sample)?);
        let label = *batch.labels()?.get(sample)? as usize;
        // Rounded towards 0: nothing is quite certain.
        let percent = (1000.0 * confidence).floor() / 10.0;
        let truth = if class == label {
            ("✓ right".to_owned(), Ink::Good)
        } else {
            (format!("✗ is {}", name(label)), Ink::Bad)
        };
        let captions = vec![(format!("{}  {percent:.1} %", name(class)), Ink::Bold), truth];
        Some(Exhibit { picture, captions })
    };
    shown.into_iter().filter_map(exhibit).collect()
}

fn tampered_run(
    console: &Console,
    stage: &Stage,
    plan: &Plan,
    inputs: &IntegerMatrix,
) -> Result<(Tampering, Run)> {
    let screen = &console.screen;
    screen.heading("4  The same batch, on a server that cheats a little");
    let middle = plan.public().segments.len() / 2;
    let (change, tampered) = tampering::change_one_weight(plan, middle)?;
    screen.fact(
        "Change",
        format!(
            "one of {} weights: segment {}, output neuron {}, input {}: {} becomes {}",
            units::count(change.n_weights),
            change.segment,
            change.neuron,
            change.input,
            change.before,
            change.after,
        ),
    );
    let mut shelf = PlanShelf::new();
    // The server claims to run the plan it was given.
    shelf.insert_as(&tampered, Digest(plan.digest().0))?;
    let run = stage.run(Arc::new(shelf), plan, inputs, console)?;
    verdict::print(screen, &run.verdict);
    if run.scores.is_none() {
        screen.line(format_args!("  {}", screen.paint(Ink::Dim, "No predictions were released.")));
    }
    Ok((change, run))
}

/// How good the predictions are, and whether they are exact.
fn findings(plan: &Plan, batch: &Dataset, inputs: &IntegerMatrix, run: &Run) -> Result<Findings> {
    let Some(scores) = &run.scores else { return Ok(Findings::default()) };
    let expected = plan.simulate(inputs)?.scores;
    let predictions = Predictions {
        scores: &scores.scores,
        out_of_calibration: &scores.out_of_calibration,
        labels: batch.labels(),
    };
    let accuracy = predictions.n_correct().map(|n| units::share(n, run.n_samples));
    let matches = Some(scores.scores == expected);
    Ok(Findings { accuracy, matches, ..Findings::default() })
}

#[derive(Serialize)]
struct DemoReport {
    securedl: &'static str,
    seed: u64,
    samples: u32,
    as_expected: bool,
    training: TrainingReport,
    honest: RunReport,
    tampering: Tampering,
    tampered: RunReport,
    seconds: f64,
}

#[derive(Serialize)]
struct TrainingReport {
    samples: u64,
    test_samples: usize,
    float_accuracy: f64,
    integer_accuracy: Option<f64>,
    seconds: f64,
}

impl TrainingReport {
    fn new(trained: &Trained) -> Self {
        let record = &trained.model.spec().training;
        Self {
            samples: record.n_training_samples,
            test_samples: trained.float.n_samples(),
            float_accuracy: trained.float.accuracy(),
            integer_accuracy: trained.integer.as_ref().map(|(_, e)| e.accuracy()),
            seconds: Duration::from_secs_f64(record.seconds.max(0.0)).as_secs_f64(),
        }
    }
}
