//! Samples in, verified scores out: the whole client behind one call.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ndarray::Array2;
use nn_poly::plan::Plan;
use tokio::runtime::{Builder, Runtime};

use super::endpoint::Endpoint;
use super::evaluator::{ClientOptions, RemoteEvaluator};
use crate::error::{Error as ProtocolError, InternalError};
use crate::runner::{
    BatchRun, Batches, BatchesOutcome, RunOptions, RunOutcome, RunProgress, Silent, run_batches,
    run_recorded,
};
use crate::session::{ClientPlan, Result, SessionOptions};

/// How long running network work may take to end when the client is dropped.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A plan, the servers that hold it, and how runs are cut. Share it by reference: runs side by side
/// share its connections.
///
/// ```no_run
/// # use std::path::Path;
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use nn_poly::import::{Dataset, Split};
/// use nn_poly::plan::Plan;
/// use protocol::client::{Classifier, ClientOptions, Endpoint};
/// use protocol::{identifiers::Label, runner::RunOutcome, tls::ClientTls};
///
/// let plan = Plan::load(Path::new("mnist.plan"))?;
/// let samples = Dataset::load(Path::new("mnist"), Split::Test, &plan.public().split)?;
/// let trust = ClientTls::load_directory(Path::new("tls"))?;
/// let servers = vec![Endpoint::tls("localhost:7443", trust, None)?];
/// let options = ClientOptions::new(Label::new("ward 7")?);
/// let classifier = Classifier::new(plan, samples.features(), servers, options)?;
/// match classifier.classify(samples.features()).await? {
///     RunOutcome::Verified(result) => println!("{}", result.scores),
///     RunOutcome::Rejected { verdict, .. } => println!("not used: {verdict}"),
/// }
/// # Ok(()) }
/// ```
pub struct Classifier {
    plan: Arc<ClientPlan>,
    remote: Arc<RemoteEvaluator>,
    options: RunOptions,
    progress: Arc<dyn RunProgress>,
    evidence: Option<PathBuf>,
}

impl Classifier {
    /// A client of these servers, each of which must hold the plan. Connects when it classifies.
    ///
    /// Canaries are drawn from `examples`, raw samples of the kind that will be classified (one row
    /// each), by the operating system's generator.
    ///
    /// # Errors
    /// - Those of [`ClientPlan::new`] and [`RemoteEvaluator::new`].
    /// - [`SessionError::Network`](crate::session::SessionError::Network): examples of another width.
    /// - [`SessionError::Randomness`](crate::session::SessionError::Randomness): the operating system gives no random bytes.
    pub fn new(
        plan: Plan,
        examples: &Array2<f32>,
        servers: Vec<Endpoint>,
        options: ClientOptions,
    ) -> Result<Self> {
        let examples = plan.public().quantize(examples)?;
        let plan = ClientPlan::drawing_canaries(plan, SessionOptions::default(), &examples)?;
        Self::with_plan(plan, servers, options)
    }

    /// As [`new`](Self::new), with a plan that was prepared in another way.
    ///
    /// # Errors
    /// Those of [`RemoteEvaluator::new`].
    pub fn with_plan(
        plan: Arc<ClientPlan>,
        servers: Vec<Endpoint>,
        options: ClientOptions,
    ) -> Result<Self> {
        Ok(Self {
            options: RunOptions::for_plan(&plan),
            plan,
            remote: Arc::new(RemoteEvaluator::new(servers, options)?),
            progress: Arc::new(Silent),
            evidence: None,
        })
    }

    /// The same client with other sizes of batches, or more of them in flight.
    #[must_use]
    pub fn with_run_options(mut self, options: RunOptions) -> Self {
        self.options = options;
        self
    }

    /// The same client, telling `progress` how its runs go on.
    #[must_use]
    pub fn with_progress(mut self, progress: Arc<dyn RunProgress>) -> Self {
        self.progress = progress;
        self
    }

    /// The same client, keeping [evidence](crate::evidence) of rejected rounds in a folder.
    #[must_use]
    pub fn with_evidence(mut self, folder: impl Into<PathBuf>) -> Self {
        self.evidence = Some(folder.into());
        self
    }

    /// The plan, with its checks.
    #[must_use]
    pub fn plan(&self) -> &Arc<ClientPlan> {
        &self.plan
    }

    /// The servers.
    #[must_use]
    pub fn remote(&self) -> &Arc<RemoteEvaluator> {
        &self.remote
    }

    /// Classify raw samples, one row each.
    ///
    /// # Errors
    /// - [`SessionError::Network`](crate::session::SessionError::Network): samples of another width.
    /// - As [`runner::run`](crate::runner::run).
    pub async fn classify(&self, samples: &Array2<f32>) -> Result<RunOutcome> {
        let inputs = self.plan.plan().public().quantize(samples)?;
        let Self { plan, remote, options, progress, evidence } = self;
        run_recorded(plan, &inputs, remote, options, progress, evidence.as_deref()).await
    }

    /// Classify as many samples as there are, batch by batch, in bounded memory.
    ///
    /// # Errors
    /// As [`run_batches`].
    pub async fn classify_batches(&self, batches: &mut dyn Batches) -> Result<BatchesOutcome> {
        let Self { plan, remote, options, progress, evidence } = self;
        let evidence = evidence.as_deref();
        let run = BatchRun { plan, remote, options, progress, evidence, first_batch: 0 };
        run_batches(&run, batches).await
    }

    /// Say goodbye on the idle connections.
    pub async fn close(&self) {
        self.remote.close().await;
    }
}

impl fmt::Debug for Classifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Classifier")
            .field("plan", &self.plan.digest())
            .field("remote", &self.remote)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// A [`Classifier`] with threads of its own, for code that is not asynchronous.
///
/// ```no_run
/// # use std::path::Path;
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// # use nn_poly::{import::{Dataset, Split}, plan::Plan};
/// # use protocol::client::{BlockingClassifier, ClientOptions, Endpoint};
/// # use protocol::{identifiers::Label, runner::RunOutcome, tls::ClientTls};
/// let plan = Plan::load(Path::new("mnist.plan"))?;
/// let samples = Dataset::load(Path::new("mnist"), Split::Test, &plan.public().split)?;
/// let trust = ClientTls::load_directory(Path::new("tls"))?;
/// let servers = vec![Endpoint::tls("localhost:7443", trust, None)?];
/// let options = ClientOptions::new(Label::new("ward 7")?);
/// let classifier = BlockingClassifier::new(plan, samples.features(), servers, options)?;
/// match classifier.classify(samples.features())? {
///     RunOutcome::Verified(result) => println!("{}", result.scores),
///     RunOutcome::Rejected { verdict, .. } => println!("not used: {verdict}"),
/// }
/// # Ok(()) }
/// ```
///
/// # Panics
/// Every method panics when called from inside an asynchronous runtime; use [`Classifier`] there.
pub struct BlockingClassifier {
    inner: Classifier,
    /// `None` only while it is being dropped.
    runtime: Option<Runtime>,
}

impl BlockingClassifier {
    /// As [`Classifier::new`].
    ///
    /// # Errors
    /// - As [`Classifier::new`].
    /// - [`InternalError::Runtime`]: the threads cannot be started.
    pub fn new(
        plan: Plan,
        examples: &Array2<f32>,
        servers: Vec<Endpoint>,
        options: ClientOptions,
    ) -> Result<Self> {
        Self::of(Classifier::new(plan, examples, servers, options)?)
    }

    /// This client with threads of its own.
    ///
    /// # Errors
    /// [`InternalError::Runtime`]: the threads cannot be started.
    pub fn of(inner: Classifier) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("securedl-network")
            .enable_all()
            .build()
            .map_err(|source| ProtocolError::from(InternalError::Runtime { source }))?;
        Ok(Self { inner, runtime: Some(runtime) })
    }

    /// As [`Classifier::classify`].
    ///
    /// # Errors
    /// As [`Classifier::classify`].
    pub fn classify(&self, samples: &Array2<f32>) -> Result<RunOutcome> {
        self.wait_for(self.inner.classify(samples))
    }

    /// As [`Classifier::classify_batches`].
    ///
    /// # Errors
    /// As [`Classifier::classify_batches`].
    pub fn classify_batches(&self, batches: &mut dyn Batches) -> Result<BatchesOutcome> {
        self.wait_for(self.inner.classify_batches(batches))
    }

    fn wait_for<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.as_ref().expect("invariant: present until dropped").block_on(work)
    }
}

impl Drop for BlockingClassifier {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(LAST_WORDS);
        }
    }
}

impl fmt::Debug for BlockingClassifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockingClassifier").field("inner", &self.inner).finish_non_exhaustive()
    }
}
