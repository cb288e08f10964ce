//! A SecureDL server as an endpoint.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fingerprint::endpoint::{Answers, Cause, Endpoint, EndpointError, check_width};
use fingerprint::{InputGrid, Verdict};
use ndarray::Array2;
use tokio::runtime::{Builder, Runtime};

use crate::client::{ClientOptions, RemoteEvaluator};
use crate::runner::{self, RunOptions, RunOutcome, RunProgress, Silent};
use crate::session::ClientPlan;

/// How long running network work may take to end when the endpoint is dropped.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A server of encrypted batches: each query is one verified run of the plan.
///
/// The answers are exact integers. A query whose run ends in a verdict against the server fails with
/// [`EndpointError::Rejected`]: that *is* evidence, unlike the other failures.
///
/// # Panics
/// [`Endpoint::query`] panics when called from inside an asynchronous runtime.
pub struct EncryptedEndpoint {
    plan: Arc<ClientPlan>,
    remote: Arc<RemoteEvaluator>,
    options: RunOptions,
    progress: Arc<dyn RunProgress>,
    grid: InputGrid,
    verdict: Option<Verdict>,
    /// Folder for evidence, and what is in it of the last run.
    evidence: (Option<PathBuf>, Vec<PathBuf>),
    /// `None` only while it is being dropped.
    runtime: Option<Runtime>,
}

impl fmt::Debug for EncryptedEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncryptedEndpoint")
            .field("plan", &self.plan.digest())
            .field("verdict", &self.verdict)
            .finish_non_exhaustive()
    }
}

impl EncryptedEndpoint {
    /// An endpoint of `plan` at one of `servers`.
    ///
    /// # Errors
    /// [`EndpointError::Other`]: options that contradict each other, or threads that cannot be
    /// started.
    pub fn new(
        plan: Arc<ClientPlan>,
        servers: Vec<crate::client::Endpoint>,
        options: ClientOptions,
    ) -> Result<Self, EndpointError> {
        let grid = InputGrid::of_integer(plan.network().input()).map_err(other)?;
        let remote = Arc::new(RemoteEvaluator::new(servers, options).map_err(other)?);
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("securedl-network")
            .enable_all()
            .build()
            .map_err(other)?;
        Ok(Self {
            options: RunOptions::for_plan(&plan),
            plan,
            remote,
            progress: Arc::new(Silent),
            grid,
            verdict: None,
            evidence: (None, Vec::new()),
            runtime: Some(runtime),
        })
    }

    /// The same endpoint, telling `progress` how its runs go on.
    #[must_use]
    pub fn with_progress(mut self, progress: Arc<dyn RunProgress>) -> Self {
        self.progress = progress;
        self
    }

    /// The same endpoint, keeping [evidence](crate::evidence) of rejected rounds in a folder.
    #[must_use]
    pub fn with_evidence(mut self, folder: Option<PathBuf>) -> Self {
        self.evidence = (folder, Vec::new());
        self
    }

    /// Files of evidence that the last run left.
    #[must_use]
    pub fn evidence(&self) -> &[PathBuf] {
        &self.evidence.1
    }

    /// What the last run that was finished ended with.
    #[must_use]
    pub fn verdict(&self) -> Option<&Verdict> {
        self.verdict.as_ref()
    }
}

impl Endpoint for EncryptedEndpoint {
    fn n_classes(&self) -> usize {
        self.plan.network().n_scores()
    }

    fn n_features(&self) -> usize {
        self.plan.network().n_inputs()
    }

    fn grid(&self) -> Option<&InputGrid> {
        Some(&self.grid)
    }

    fn query(&mut self, inputs: &Array2<f32>) -> Result<Answers, EndpointError> {
        check_width(inputs, self.n_features())?;
        let integers = self.plan.network().input().quantize(inputs.view()).map_err(other)?;
        self.verdict = None;
        self.evidence.1.clear();
        let Some(runtime) = &self.runtime else {
            return Err(other("the endpoint is being dropped"));
        };
        let Self { plan, remote, options, progress, evidence, .. } = &*self;
        let folder = evidence.0.as_deref();
        let run = runner::run_recorded(plan, &integers, remote, options, progress, folder);
        match runtime.block_on(run).map_err(other)? {
            RunOutcome::Verified(result) => {
                self.verdict = Some(result.verdict);
                let scores = result.scores.t().as_standard_layout().into_owned();
                Ok(Answers::Integers(scores))
            }
            RunOutcome::Rejected { verdict, evidence, .. } => {
                self.verdict = Some(verdict.clone());
                self.evidence.1 = evidence;
                Err(EndpointError::Rejected { verdict })
            }
        }
    }
}

impl Drop for EncryptedEndpoint {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(LAST_WORDS);
        }
    }
}

fn other(cause: impl Into<Cause>) -> EndpointError {
    EndpointError::Other(cause.into())
}
