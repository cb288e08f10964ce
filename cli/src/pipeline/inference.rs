//! Samples through a plan: encrypted on a server, or simulated.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use fingerprint::{CanarySet, Fingerprint, LayoutOptions, UnverifiedReason, Verdict};
use ndarray::Axis;
use nn_poly::import::{Dataset, Split};
use nn_poly::integer::{IntegerMatrix, ScoreMatrix};
use nn_poly::plan::Plan;
use protocol::client::{ClientOptions, Endpoint, RemoteEvaluator, RetryPolicy, Traffic};
use protocol::hosting::PlanShelf;
use protocol::identifiers::{Digest, Label};
use protocol::identity::Identity;
use protocol::runner::{self, RunOptions, RunOutcome, RunProgress};
use protocol::server::service::PlanHost;
use protocol::server::{Server, ServerOptions};
use protocol::session::{ClientPlan, SessionOptions, Tally};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

use super::source::DataSource;
use crate::failure::Hint;
use crate::report::progress::{Bar, Progress};
use crate::report::units;

/// How long a server may take to appear before a run; once it was seen, the retry policy counts.
const FIRST_CONTACT: Duration = Duration::from_secs(5);

/// Samples on the input grid of a plan.
#[derive(Debug)]
pub(crate) struct Workload {
    /// The samples as they were read.
    pub(crate) data: Dataset,
    /// One row per input, one column per sample.
    pub(crate) inputs: IntegerMatrix,
}

/// Read, check and quantize samples for a plan.
///
/// # Errors
/// Data that are missing, damaged, of another shape, or with labels the plan does not know.
pub(crate) fn load(
    plan: &Plan,
    source: &DataSource<'_>,
    split: Split,
    samples: Option<u64>,
) -> Result<Workload> {
    let public = plan.public();
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
    let data = data
        .take(n_samples)?
        .with_classes(&public.class_names)
        .with_context(|| format!("{} does not fit the plan `{}`", path.display(), public.name))?;
    let inputs = public.quantize(data.features())?;
    Ok(Workload { data, inputs })
}

/// What a person decides about an encrypted run.
#[derive(Debug, Clone)]
pub(crate) struct RunSettings {
    /// Canaries, random points and replicas.
    pub(crate) layout: LayoutOptions,
    /// Patience with the server.
    pub(crate) retry: RetryPolicy,
    /// Where canaries come from, if not from the data.
    pub(crate) fingerprint: Option<Fingerprint>,
}

/// What came of a run, encrypted or not.
#[derive(Debug)]
pub(crate) struct Run {
    /// What may be believed.
    pub(crate) verdict: Verdict,
    /// Scores and flags; only there if the verdict allows it.
    pub(crate) scores: Option<Scores>,
    /// Samples asked for.
    pub(crate) n_samples: usize,
    /// What it took, if anything was encrypted.
    pub(crate) costs: Option<Costs>,
    /// Wall time.
    pub(crate) total: Duration,
}

/// Released results.
#[derive(Debug)]
pub(crate) struct Scores {
    /// One row per class, one column per sample.
    pub(crate) scores: ScoreMatrix,
    /// Per sample, whether a value left the range its segment expects.
    pub(crate) out_of_calibration: Vec<bool>,
}

/// What an encrypted run took.
#[derive(Debug)]
pub(crate) struct Costs {
    /// Counts and busy times of the client.
    pub(crate) tally: Tally,
    /// Batches begun.
    pub(crate) n_batches: usize,
    /// Time in transport.
    pub(crate) network: Duration,
    /// Busy time of the server, as it says.
    pub(crate) evaluate: Duration,
    /// Bytes in whole frames.
    pub(crate) traffic: Traffic,
}

/// Evaluate the integer network alone.
///
/// # Errors
/// Inputs that are not the plan's.
pub(crate) fn simulate(plan: &Plan, inputs: &IntegerMatrix) -> Result<Run> {
    let started = Instant::now();
    let evaluation = plan.simulate(inputs)?;
    let scores = Scores { scores: evaluation.scores, out_of_calibration: evaluation.out_of_range };
    Ok(Run {
        verdict: Verdict::Unverified { reason: UnverifiedReason::NoServer },
        scores: Some(scores),
        n_samples: inputs.ncols(),
        costs: None,
        total: started.elapsed(),
    })
}

/// A client of `endpoint`.
///
/// # Errors
/// Only broken invariants.
pub(crate) fn client(endpoint: Endpoint, retry: RetryPolicy) -> Result<Arc<RemoteEvaluator>> {
    Ok(Arc::new(RemoteEvaluator::new(vec![endpoint], client_options(retry)?)?))
}

/// How this program presents itself to servers, and how patient it is.
///
/// # Errors
/// Only broken invariants.
pub(crate) fn client_options(retry: RetryPolicy) -> Result<ClientOptions> {
    let name = Label::new(concat!("securedl ", env!("CARGO_PKG_VERSION")))?;
    Ok(ClientOptions { retry, ..ClientOptions::new(name) })
}

/// A server inside this process with a new identity.
///
/// # Errors
/// The operating system gives no random numbers.
pub(crate) fn server(host: Arc<dyn PlanHost>) -> Result<Server> {
    let mut generator = secret_generator()?;
    let options = ServerOptions::new(Label::new("securedl, in process")?);
    Ok(Server::new(host, Identity::generate(&mut generator), options)?)
}

/// A server inside this process that holds a plan.
///
/// # Errors
/// A plan whose parameters cannot be used; no random numbers.
pub(crate) fn in_process(plan: &Plan) -> Result<Endpoint> {
    Ok(Endpoint::in_process(server(shelf(plan)?)?))
}

/// A shelf with one plan.
///
/// # Errors
/// A plan whose parameters cannot be used.
pub(crate) fn shelf(plan: &Plan) -> Result<Arc<dyn PlanHost>> {
    let mut shelf = PlanShelf::new();
    shelf.insert(plan)?;
    Ok(Arc::new(shelf))
}

/// Make sure, before anything is encrypted, that the server can be reached and holds the plan.
///
/// # Errors
/// A server that cannot be reached, cannot prove who it is, or lacks the plan.
pub(crate) async fn check_server(
    endpoint: &Endpoint,
    plan: &Plan,
    retry: &RetryPolicy,
) -> Result<()> {
    let outage = retry.outage.min(FIRST_CONTACT);
    let first = RetryPolicy { outage, ..retry.clone() };
    let remote = client(endpoint.clone(), first)?;
    let models = remote.list_models().await?;
    remote.close().await;
    let wanted = Digest(plan.digest().0);
    if models.iter().any(|card| card.plan == wanted) {
        return Ok(());
    }
    let held: Vec<String> =
        models.iter().map(|card| format!("{} ({})", card.name, card.plan.short())).collect();
    let held = if held.is_empty() { "none".to_owned() } else { held.join(", ") };
    let error = anyhow::anyhow!(
        "the server at {endpoint} does not hold the plan `{}` ({}); its plans: {held}",
        plan.public().name,
        wanted.short(),
    );
    Err(error).hint(|| "copy the plan file into the folder the server was started with (--plans) and restart it")
}

/// Run samples encrypted through `remote`.
///
/// Network canaries are drawn at random from the fingerprint or, without one, from `inputs`
/// themselves, by the operating system's generator.
///
/// # Errors
/// Anything but a verdict: options that leave no room for samples, a server that is lost, refuses,
/// or breaks the protocol.
pub(crate) async fn run(
    plan: &Plan,
    inputs: &IntegerMatrix,
    remote: &Arc<RemoteEvaluator>,
    settings: &RunSettings,
    progress: &Progress,
) -> Result<Run> {
    let started = Instant::now();
    let options = SessionOptions { layout: settings.layout, ..SessionOptions::default() };
    let client_plan = match &settings.fingerprint {
        Some(fingerprint) => fingerprinted(plan, options, fingerprint)?,
        None => {
            let canaries = draw_canaries(inputs, settings.layout.network_canaries)?;
            ClientPlan::new(plan.clone(), options, &canaries)?
        }
    };
    let options = RunOptions::for_plan(&client_plan);
    let rounds: Arc<dyn RunProgress> = Arc::new(Rounds::new(progress.clone()));
    let outcome = runner::run(&client_plan, inputs, remote, &options, &rounds).await?;
    let n_samples = inputs.ncols();
    let traffic = remote.traffic();
    Ok(match outcome {
        RunOutcome::Verified(result) => Run {
            verdict: result.verdict,
            scores: Some(Scores {
                scores: result.scores,
                out_of_calibration: result.out_of_calibration,
            }),
            n_samples,
            costs: Some(Costs {
                tally: result.tally,
                n_batches: result.batches,
                network: result.network,
                evaluate: result.evaluate,
                traffic,
            }),
            total: started.elapsed(),
        },
        RunOutcome::Rejected { verdict, batch, tally, network, evaluate } => Run {
            verdict,
            scores: None,
            n_samples,
            costs: Some(Costs { tally, n_batches: batch + 1, network, evaluate, traffic }),
            total: started.elapsed(),
        },
    })
}

/// The plan with canaries from a fingerprint, drawn by the operating system's generator.
///
/// # Errors
/// A fingerprint of another plan, options that leave no room for samples.
pub(crate) fn fingerprinted(
    plan: &Plan,
    options: SessionOptions,
    fingerprint: &Fingerprint,
) -> Result<Arc<ClientPlan>> {
    let mut generator = secret_generator()?;
    Ok(ClientPlan::with_fingerprint(plan.clone(), options, fingerprint, &mut generator)?)
}

/// `count` columns of `inputs`, every selection equally likely; repeated if there are fewer.
fn draw_canaries(inputs: &IntegerMatrix, count: usize) -> Result<IntegerMatrix> {
    let n_distinct = count.min(inputs.ncols());
    let chosen = CanarySet::draw_from(inputs.ncols(), n_distinct, &mut secret_generator()?)?;
    let chosen: Vec<usize> = chosen.into_iter().cycle().take(count).collect();
    Ok(inputs.select(Axis(1), &chosen))
}

/// A generator for what a server must not guess, seeded by the operating system.
fn secret_generator() -> Result<ChaCha20Rng> {
    ChaCha20Rng::try_from_os_rng().context("the operating system gives no random numbers")
}

/// Shows the rounds of a run.
struct Rounds {
    progress: Progress,
    current: Mutex<Option<(String, Bar)>>,
}

impl Rounds {
    fn new(progress: Progress) -> Self {
        Self { progress, current: Mutex::new(None) }
    }

    /// A panic while the bar was held leaves it usable.
    fn current(&self) -> std::sync::MutexGuard<'_, Option<(String, Bar)>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RunProgress for Rounds {
    fn round_started(
        &self,
        batch: usize,
        n_batches: usize,
        segment: usize,
        n_segments: usize,
        n_blocks: usize,
    ) {
        let mut name = format!("round {}/{n_segments}, segment {segment}", segment + 1);
        if n_batches > 1 {
            name = format!("batch {}/{n_batches}, {name}", batch + 1);
        }
        let blocks = units::counted(n_blocks, "block");
        let bar = self.progress.bar(format!("{name}, {blocks}"), n_blocks as u64);
        *self.current() = Some((format!("{name}: {blocks}"), bar));
    }

    fn block_finished(&self) {
        if let Some((_, bar)) = self.current().as_ref() {
            bar.advance(1);
        }
    }

    fn round_finished(&self) {
        if let Some((summary, bar)) = self.current().take() {
            bar.finish(summary);
        }
    }
}
