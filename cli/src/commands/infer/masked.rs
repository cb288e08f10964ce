//! `securedl infer` with the public part of a masked plan: by a data owner who has no weights.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use fingerprint::{MaskedVerdict, Sharpness};
use nn_poly::artifact;
use nn_poly::import::{Dataset, Split};
use nn_poly::integer::IntegerMatrix;
use nn_poly::plan::{MAX_PUBLIC_PLAN_BYTES, PublicPlan, Trust};
use protocol::masked::{MaskedOptions, MaskedPlan, MaskedResult, run as run_masked};
use protocol::runner::RunProgress;
use protocol::signature::Subject;
use serde::Serialize;

use super::Outputs;
use crate::args::InferArguments;
use crate::commands::reaching;
use crate::commands::sign::{self, Voucher};
use crate::failure::{Hint, Outcome};
use crate::options::Venue;
use crate::pipeline::servers::{self, Sought};
use crate::pipeline::source::DataSource;
use crate::report::predictions::{Predictions, PredictionsWriter};
use crate::report::terminal::{Ink, Screen};
use crate::report::{Console, units, verdict};

/// What a data owner is told to do about a missing server.
const NEEDS_SERVER: &str = "a masked plan is evaluated by a server that holds the weights: name it with --server and --tls";

/// Run and report.
pub(super) fn run(
    arguments: &InferArguments,
    console: &Console,
    outputs: &Outputs,
) -> Result<Outcome> {
    let Console { screen, progress } = console;
    let Venue::Server { addresses, tls } = Venue::of_run(arguments) else { bail!(NEEDS_SERVER) };
    refuse_flags(arguments)?;
    let public =
        PublicPlan::from_bytes(&artifact::read_file(&arguments.plan, MAX_PUBLIC_PLAN_BYTES)?)
            .with_context(|| format!("{} cannot be used", arguments.plan.display()))?;
    public.expect_trust(Trust::Masked, "a run from the public part alone").hint(|| {
        "the owner of a model runs its whole plan; data owners need a plan compiled with --trust masked"
    })?;
    let Some(pack) = &arguments.pack else {
        bail!("a masked plan needs the canaries of its owner: --pack PACK");
    };
    let owners = sign::owners(&arguments.connection.owners)?;
    let (pack_file, pack) = (pack, sign::load_pack(pack)?);
    let pack_voucher = Voucher::of(pack_file, Subject::of_pack(&pack)?, owners.clone())?;
    let source = DataSource::new(&arguments.data, &arguments.reading);
    let split = arguments.split.into();
    let workload = Workload::load(&public, &source, split, arguments.samples)?;
    let wanted = arguments.checks.canaries as usize;
    let (n_packed, n_canaries) = (pack.n_canaries(), wanted.min(pack.n_canaries()));
    let plan = MaskedPlan::new(public, pack, n_canaries)?;

    introduce(screen, &plan, &workload, &addresses.join(", "));
    let drawn = if wanted > n_packed {
        format!("all {n_packed} of its canaries in every block, not {wanted}")
    } else {
        format!("{n_canaries} of its {n_packed} canaries in every block")
    };
    screen.fact("Pack", format!("{drawn}; signed: {}", pack_voucher.check(None)?));
    let subject = Subject::of_public(plan.digest(), plan.public());
    let voucher = Voucher::of(&arguments.plan, subject, owners)?;
    let visitor = reaching::visitor(&arguments.connection)?;
    let endpoints = reaching::endpoints(&addresses, &tls, &arguments.connection)?;
    let sought = Sought::public(plan.digest(), subject, &plan.public().name);
    let bar = progress.spinner("running");
    let watch: Arc<dyn RunProgress> = Arc::new(protocol::runner::Silent);
    let started = Instant::now();
    let result = super::super::runtime()?.block_on(async {
        let found = servers::find(endpoints, &sought, &visitor).await?;
        for remark in &found.remarks {
            screen.fact("", screen.paint(Ink::Warn, remark));
        }
        screen.fact("Signature", voucher.check(found.signature.as_ref())?);
        let remote = visitor.client(found.servers, 1)?;
        let options = MaskedOptions::default();
        let result = run_masked(&plan, &workload.inputs, &remote, options, &watch).await;
        remote.close().await;
        anyhow::Ok(result?)
    })?;
    drop(bar);
    let time = started.elapsed();
    let case = Case { screen, plan: &plan, workload: &workload, outputs };
    case.conclude(&result, time, arguments.accept_unverified)
}

/// The samples of a run, all of them in memory.
struct Workload {
    data: Dataset,
    /// One row per input, one column per sample.
    inputs: IntegerMatrix,
}

impl Workload {
    fn load(
        public: &PublicPlan,
        source: &DataSource<'_>,
        split: Split,
        samples: Option<u64>,
    ) -> Result<Self> {
        let (path, data) = source.load(split, &public.split)?;
        if data.shape() != &public.input_shape {
            bail!(
                "samples in {} have shape {}, the plan `{}` reads {}: use the data the model was trained for",
                path.display(),
                data.shape(),
                public.name,
                public.input_shape
            );
        }
        let n_samples = samples.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
        let data = data.take(n_samples)?.with_classes(&public.class_names).with_context(|| {
            format!("{} does not fit the plan `{}`", path.display(), public.name)
        })?;
        let inputs = public.quantize(data.features())?;
        Ok(Self { data, inputs })
    }
}

/// Flags that mean nothing here are mistakes, not wishes.
fn refuse_flags(arguments: &InferArguments) -> Result<()> {
    for (is_set, flag, reason) in [
        (arguments.checks.replicas > 1, "--replicas", "replicas differ by their masks"),
        (arguments.checks.fingerprint.is_some(), "--fingerprint", "canaries come from the pack"),
        (arguments.evidence.is_some(), "--evidence", "a reply cannot be recomputed without masks"),
        (arguments.resume, "--resume", "it keeps no journal"),
        (arguments.in_flight.is_given(), "--in-flight", "it is one batch, whatever its size"),
        (arguments.report.is_some(), "--report", "its verdict is another one; use --json"),
    ] {
        if is_set {
            bail!("a masked run takes no {flag}: {reason}");
        }
    }
    Ok(())
}

fn introduce(screen: &Screen, plan: &MaskedPlan, workload: &Workload, address: &str) {
    let public = plan.public();
    screen.fact("Plan", format!("{} ({}), public part", public.name, plan.digest().short()));
    screen.fact(
        "Trust",
        format!("{}: you own the data and see masked values; no weights are here", public.trust),
    );
    let n_samples = units::counted(workload.data.n_samples(), "sample");
    screen.fact("Data", format!("{n_samples} of {}", workload.data.source()));
    screen.fact("Server", format!("{address} over TLS"));
}

/// The report of a masked run.
#[derive(Serialize)]
struct MaskedReport<'a> {
    securedl: &'static str,
    trust: String,
    plan: String,
    samples: usize,
    accuracy: Option<f64>,
    verdict: &'a MaskedVerdict,
    pack: Sharpness,
    blocks: u64,
    bytes_up: u64,
    bytes_down: u64,
    seconds: f64,
}

fn write_predictions(
    screen: &Screen,
    outputs: &Outputs,
    predictions: Option<&Predictions<'_>>,
    n_classes: usize,
) -> Result<()> {
    let Some((file, format)) = &outputs.predictions else { return Ok(()) };
    let Some(predictions) = predictions else {
        screen.fact("Predictions", screen.paint(Ink::Warn, "not written"));
        return Ok(());
    };
    let sizes = (predictions.scores.ncols(), n_classes);
    let mut text = Vec::new();
    let mut writer =
        PredictionsWriter::begin(&mut text, *format, sizes, predictions.labels.is_some())?;
    writer.write(predictions)?;
    file.write(&text)?;
    screen.fact("Predictions", file.shown().display());
    Ok(())
}

/// What a run is reported with.
struct Case<'a> {
    screen: &'a Screen,
    plan: &'a MaskedPlan,
    workload: &'a Workload,
    outputs: &'a Outputs,
}

impl Case<'_> {
    /// Print, write; decide how the command ends.
    fn conclude(
        &self,
        result: &MaskedResult,
        time: Duration,
        accept_unverified: bool,
    ) -> Result<Outcome> {
        let Self { screen, plan, workload, outputs } = self;
        let sharpness = plan.pack().sharpness();
        let n_samples = workload.data.n_samples();
        let flags = vec![false; n_samples];
        let predictions = result.scores.as_ref().map(|scores| Predictions {
            scores,
            out_of_calibration: &flags,
            labels: workload.data.labels(),
        });
        let (outcome, is_released) = match result.verdict {
            MaskedVerdict::Tolerated { .. } => (Outcome::Success, true),
            MaskedVerdict::Unverified { .. } if accept_unverified => (Outcome::Success, true),
            MaskedVerdict::Unverified { .. } => (Outcome::Unverified, false),
            MaskedVerdict::Refuted { .. } => (Outcome::Cheated, false),
        };
        // What is withheld is not told in a summary either.
        let released = predictions.filter(|_| is_released);
        let accuracy = released
            .as_ref()
            .and_then(Predictions::n_correct)
            .map(|n_correct| units::share(n_correct, n_samples));
        screen.gap();
        let costs = &result.costs;
        let blocks = units::counted(costs.blocks, "block");
        screen.fact("Time", format!("{}, {blocks}", units::duration(time)));
        let (up, down) = (units::bytes(costs.bytes_up), units::bytes(costs.bytes_down));
        screen.fact("Payload", format!("{up} up, {down} down"));
        if let Some(accuracy) = accuracy {
            screen.fact("Accuracy", screen.paint(Ink::Bold, units::percent(accuracy)));
        }
        verdict::print_masked(screen, &result.verdict, &sharpness);
        screen.gap();
        write_predictions(screen, outputs, released.as_ref(), plan.public().class_names.len())?;
        if let Some(destination) = &outputs.report {
            let report = MaskedReport {
                securedl: env!("CARGO_PKG_VERSION"),
                trust: plan.public().trust.to_string(),
                plan: plan.digest().to_string(),
                samples: n_samples,
                accuracy,
                verdict: &result.verdict,
                pack: sharpness,
                blocks: costs.blocks,
                bytes_up: costs.bytes_up,
                bytes_down: costs.bytes_down,
                seconds: time.as_secs_f64(),
            };
            destination.write(&(serde_json::to_string_pretty(&report)? + "\n"))?;
        }
        screen.finish()?;
        Ok(outcome)
    }
}
