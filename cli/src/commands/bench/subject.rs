//! What a service is tried with: a plan in a folder, certificates, one batch and its right answer.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use ndarray::Axis;
use nn_poly::error::causes;
use nn_poly::integer::{IntegerMatrix, ScoreMatrix};
use nn_poly::network::NetworkKind;
use nn_poly::plan::{ActivationSide, Plan};
use protocol::client::{ClientOptions, Endpoint, RemoteEvaluator, RetryPolicy};
use protocol::identifiers::Label;
use protocol::runner::{self, RunOptions, RunOutcome, RunProgress, Silent};
use protocol::session::{ClientPlan, SessionError, SessionOptions};
use protocol::tls::{self, ClientTls};

use super::workload::Workload;

/// A plan with random weights and one batch for it.
pub(super) struct Subject {
    pub(super) plan: Plan,
    pub(super) description: String,
    client: Arc<ClientPlan>,
    inputs: IntegerMatrix,
    expected: ScoreMatrix,
    folder: tempfile::TempDir,
}

/// How one batch ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    /// Verified, with the scores of the integer network.
    Right,
    /// Verified, with other scores. This must never happen.
    Wrong,
    /// A verdict against the server; no scores.
    Rejected,
    /// An error; no scores.
    Failed(String),
}

impl Subject {
    /// A network with weights from `seed` and a batch of drawn digits, compiled and written down.
    ///
    /// # Errors
    /// No room for temporary files; otherwise only broken invariants.
    pub(super) fn new(
        kind: NetworkKind,
        side: ActivationSide,
        n: usize,
        seed: u64,
    ) -> Result<Self> {
        let workload = Workload::random(kind, n, seed)?;
        let plan = workload.compile(side, n as u64)?;
        let inputs = plan.public().quantize(&workload.samples)?;
        let expected = plan.simulate(&inputs)?.scores;
        let options = SessionOptions::default();
        let canaries: Vec<usize> =
            (0..inputs.ncols()).cycle().take(options.layout.network_canaries).collect();
        let canaries = inputs.select(Axis(1), &canaries);
        let client = ClientPlan::new(plan.clone(), options, &canaries)?;
        let folder = tempfile::tempdir().context("no temporary folder for plans")?;
        let subject =
            Self { description: workload.description, client, inputs, expected, plan, folder };
        std::fs::create_dir(subject.plans()).context("no folder for plans")?;
        subject.plan.save(&subject.plans().join("load.plan"))?;
        tls::init(&subject.tls(), &[])?;
        Ok(subject)
    }

    /// The folder of the server's plans.
    pub(super) fn plans(&self) -> PathBuf {
        self.folder.path().join("plans")
    }

    /// The folder of its certificates.
    pub(super) fn tls(&self) -> PathBuf {
        self.folder.path().join("tls")
    }

    /// A folder for whatever else is written.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Samples of the batch.
    pub(super) fn n_samples(&self) -> usize {
        self.inputs.ncols()
    }

    /// A server at `address` under the certificates of [`tls`](Self::tls).
    ///
    /// # Errors
    /// Only broken invariants.
    pub(super) fn endpoint(&self, address: &str) -> Result<Endpoint> {
        let trust = ClientTls::load_directory(&self.tls())?;
        Ok(Endpoint::tls(address, trust, Some("localhost"))?)
    }

    /// Options of a client that holds one connection.
    ///
    /// # Errors
    /// Only broken invariants.
    pub(super) fn client_options(retry: RetryPolicy) -> Result<ClientOptions> {
        let name = Label::new("securedl bench")?;
        Ok(ClientOptions { max_connections: 1, retry, ..ClientOptions::new(name) })
    }

    /// Send the batch once and compare what comes back.
    pub(super) async fn run(&self, remote: &Arc<RemoteEvaluator>) -> Ended {
        let options = RunOptions { connections: 1, ..RunOptions::for_plan(&self.client) };
        let progress: Arc<dyn RunProgress> = Arc::new(Silent);
        match runner::run(&self.client, &self.inputs, remote, &options, &progress).await {
            Ok(RunOutcome::Verified(result)) if result.scores == self.expected => Ended::Right,
            Ok(RunOutcome::Verified(_)) => Ended::Wrong,
            Ok(RunOutcome::Rejected { .. }) => Ended::Rejected,
            Err(error) => Ended::Failed(told(&error)),
        }
    }
}

/// An error with its causes.
fn told(error: &SessionError) -> String {
    std::iter::once(error.to_string()).chain(causes(error)).collect::<Vec<_>>().join(": ")
}
