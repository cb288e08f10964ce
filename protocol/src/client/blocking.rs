//! The same client for code that is not asynchronous.

use std::fmt;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use super::connection::OnProgress;
use super::endpoint::Endpoint;
use super::evaluator::{ClientOptions, RemoteEvaluator, Traffic};
use super::exchange::{Delivery, PreparedRequest, Reply};
use super::reply::ReplySender;
use crate::error::{InternalError, Result};
use crate::identifiers::Digest;
use crate::message::{ModelCard, PublicPart};

/// How long running network work may take to end when the client is dropped.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A [`RemoteEvaluator`] with threads of its own. Call it from as many threads as there should be
/// requests under way.
///
/// # Panics
/// Every method panics when called from inside an asynchronous runtime; use [`RemoteEvaluator`]
/// there.
pub struct BlockingEvaluator {
    evaluator: RemoteEvaluator,
    /// `None` only while it is being dropped.
    runtime: Option<Runtime>,
}

impl BlockingEvaluator {
    /// As [`RemoteEvaluator::new`].
    ///
    /// # Errors
    /// - As [`RemoteEvaluator::new`].
    /// - [`InternalError::Runtime`]: the threads cannot be started.
    pub fn new(endpoints: Vec<Endpoint>, options: ClientOptions) -> Result<Self> {
        let evaluator = RemoteEvaluator::new(endpoints, options)?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("securedl-network")
            .enable_all()
            .build()
            .map_err(|source| InternalError::Runtime { source })?;
        Ok(Self { evaluator, runtime: Some(runtime) })
    }

    /// As [`RemoteEvaluator::evaluate`].
    ///
    /// # Errors
    /// As [`RemoteEvaluator::evaluate`].
    pub fn evaluate(
        &self,
        request: &PreparedRequest,
        on_progress: &mut OnProgress<'_>,
    ) -> Result<Reply> {
        self.wait_for(self.evaluator.evaluate(request, on_progress))
    }

    /// As [`RemoteEvaluator::evaluate_streaming`]; payload and reply belong to other threads.
    ///
    /// # Errors
    /// As [`RemoteEvaluator::evaluate_streaming`].
    pub fn evaluate_streaming(
        &self,
        request: &PreparedRequest,
        sink: ReplySender,
        on_progress: &mut OnProgress<'_>,
    ) -> Result<Delivery> {
        self.wait_for(self.evaluator.evaluate_streaming(request, sink, on_progress))
    }

    /// As [`RemoteEvaluator::list_models`].
    ///
    /// # Errors
    /// As [`RemoteEvaluator::list_models`].
    pub fn list_models(&self) -> Result<Vec<ModelCard>> {
        self.wait_for(self.evaluator.list_models())
    }

    /// As [`RemoteEvaluator::fetch_plan`].
    ///
    /// # Errors
    /// As [`RemoteEvaluator::fetch_plan`].
    pub fn fetch_plan(&self, plan: &Digest) -> Result<PublicPart> {
        self.wait_for(self.evaluator.fetch_plan(plan))
    }

    /// As [`RemoteEvaluator::traffic`].
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.evaluator.traffic()
    }

    fn wait_for<T>(&self, work: impl Future<Output = T>) -> T {
        let runtime = self.runtime.as_ref().expect("invariant: present until dropped");
        runtime.block_on(work)
    }
}

impl Drop for BlockingEvaluator {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(LAST_WORDS);
        }
    }
}

impl fmt::Debug for BlockingEvaluator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockingEvaluator")
            .field("evaluator", &self.evaluator)
            .finish_non_exhaustive()
    }
}
