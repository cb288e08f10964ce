//! Samples through a plan: encrypted on a server, or simulated.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fingerprint::{CanarySet, Fingerprint, LayoutOptions, Verdict};
use ndarray::Axis;
use nn_poly::integer::{IntegerMatrix, ScoreMatrix};
use nn_poly::plan::{Plan, RunSize};
use protocol::client::{ClientOptions, Endpoint, RemoteEvaluator, RetryPolicy, Traffic};
use protocol::hosting::PlanShelf;
use protocol::identifiers::Label;
use protocol::runner::{self, RunOptions, RunOutcome, RunProgress};
use protocol::server::Server;
use protocol::server::service::PlanHost;
use protocol::session::{ClientPlan, SessionOptions, Tally};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

use super::watching::progress_of_rounds;
use crate::report::progress::Progress;

/// What a person decides about an encrypted run.
#[derive(Debug, Clone, Default)]
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
    /// Files of evidence that were kept.
    pub(crate) evidence: Vec<PathBuf>,
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
    /// Samples that all of this was for; unknown if the run ended with some of them under way.
    pub(crate) n_sent: Option<usize>,
    /// Time in transport.
    pub(crate) network: Duration,
    /// Busy time of the server, as it says.
    pub(crate) evaluate: Duration,
    /// Bytes in whole frames.
    pub(crate) traffic: Traffic,
}

impl Costs {
    /// Bytes of payload sent and received for each sample, if that is known.
    pub(crate) fn bytes_per_sample(&self) -> Option<u64> {
        (self.tally.bytes_up + self.tally.bytes_down).checked_div(self.n_sent? as u64)
    }
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
    Ok(Server::for_own_clients(host)?)
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
    let client_plan = prepare(plan, settings, |count| draw_canaries(inputs, count))?;
    run_prepared(&client_plan, inputs, remote, &progress_of_rounds(progress), None).await
}

/// Run samples with a plan whose checks are prepared, watched and with evidence kept in a folder, if
/// one is named.
///
/// # Errors
/// As [`run`].
pub(crate) async fn run_prepared(
    client_plan: &Arc<ClientPlan>,
    inputs: &IntegerMatrix,
    remote: &Arc<RemoteEvaluator>,
    watcher: &Arc<dyn RunProgress>,
    evidence: Option<&Path>,
) -> Result<Run> {
    let started = Instant::now();
    let options = RunOptions::for_plan(client_plan);
    let outcome =
        runner::run_recorded(client_plan, inputs, remote, &options, watcher, evidence).await?;
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
                n_sent: Some(n_samples),
                network: result.network,
                evaluate: result.evaluate,
                traffic,
            }),
            total: started.elapsed(),
            evidence: Vec::new(),
        },
        RunOutcome::Rejected { verdict, batch, tally, network, evaluate, evidence } => Run {
            verdict,
            scores: None,
            n_samples,
            costs: Some(Costs {
                tally,
                n_batches: batch + 1,
                n_sent: None,
                network,
                evaluate,
                traffic,
            }),
            total: started.elapsed(),
            evidence,
        },
    })
}

/// Run one batch as [`run`] does, over connections of its own and without a sign of life.
///
/// # Errors
/// As [`run`].
pub(crate) async fn run_alone(
    plan: &Plan,
    inputs: &IntegerMatrix,
    serving: &Endpoint,
    settings: &RunSettings,
) -> Result<Run> {
    let remote = client(serving.clone(), settings.retry.clone())?;
    let run = run(plan, inputs, &remote, settings, &Progress::silent()).await;
    remote.close().await;
    run
}

/// What a forecast must know of a run of `n_samples` with this layout.
pub(crate) fn run_size(n_samples: u64, layout: &LayoutOptions) -> RunSize {
    RunSize {
        n_samples,
        canaries_per_block: (layout.network_canaries + layout.random_points) as u64,
        replicas: layout.replicas as u64,
    }
}

/// The plan with its checks: canaries from the fingerprint or, without one, as many samples as
/// `draw` is asked for.
///
/// # Errors
/// Options that leave no room for samples, a fingerprint of another plan, what `draw` fails with.
pub(crate) fn prepare(
    plan: &Plan,
    settings: &RunSettings,
    draw: impl FnOnce(usize) -> Result<IntegerMatrix>,
) -> Result<Arc<ClientPlan>> {
    let options = SessionOptions { layout: settings.layout, ..SessionOptions::default() };
    Ok(match &settings.fingerprint {
        Some(fingerprint) => fingerprinted(plan, options, fingerprint)?,
        None => {
            let canaries = draw(settings.layout.network_canaries)?;
            ClientPlan::new(plan.clone(), options, &canaries)?
        }
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
    Ok(ClientPlan::drawing_from(plan.clone(), options, fingerprint)?)
}

/// `count` columns of `inputs`, every selection equally likely; repeated if there are fewer.
///
/// # Errors
/// The operating system gives no random numbers.
pub(crate) fn draw_canaries(inputs: &IntegerMatrix, count: usize) -> Result<IntegerMatrix> {
    Ok(inputs.select(Axis(1), &draw_numbers(inputs.ncols(), count)?))
}

/// `count` numbers below `n`, every selection equally likely; repeated if there are fewer.
///
/// # Errors
/// The operating system gives no random numbers.
pub(crate) fn draw_numbers(n: usize, count: usize) -> Result<Vec<usize>> {
    let chosen = CanarySet::draw_from(n, count.min(n), &mut secret_generator()?)?;
    Ok(chosen.into_iter().cycle().take(count).collect())
}

/// A generator for what a server must not guess, seeded by the operating system.
fn secret_generator() -> Result<ChaCha20Rng> {
    ChaCha20Rng::try_from_os_rng().context("the operating system gives no random numbers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shared_among_the_samples_that_were_sent() {
        let costs = |n_sent| Costs {
            tally: Tally { bytes_up: 700, bytes_down: 100, ..Tally::default() },
            n_batches: 1,
            n_sent,
            network: Duration::ZERO,
            evaluate: Duration::ZERO,
            traffic: Traffic::default(),
        };
        for (n_sent, expected) in [(Some(4), Some(200)), (Some(0), None), (None, None)] {
            assert_eq!(costs(n_sent).bytes_per_sample(), expected);
        }
    }
}
