//! Work without the interpreter's lock, which Ctrl-C ends.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use protocol::error::InternalError;
use pyo3::prelude::*;
use tokio::runtime::{Builder, Runtime};

use crate::failure::{Failure, Outcome, told};

/// How often a waiting call looks for signals.
const LOOK: Duration = Duration::from_millis(100);
/// Threads for the network; arithmetic has its own.
const NETWORK_THREADS: usize = 2;

/// Whether a signal has come whose handler raises, such as Ctrl-C; only on the main thread.
pub(crate) fn check_signals() -> PyResult<()> {
    Python::attach(|py| py.check_signals())
}

/// Do work that cannot be cut into pieces, on another thread. After a signal the call ends at once; the
/// thread runs out by itself, and its result is dropped.
pub(crate) fn interruptible<T: Send + 'static>(
    py: Python<'_>,
    work: impl FnOnce() -> Outcome<T> + Send + 'static,
) -> Outcome<T> {
    let (sender, receiver) = sync_channel(1);
    std::thread::Builder::new().name("securedl-work".to_owned()).spawn(move || {
        // Nobody listens after a signal.
        let _ = sender.send(work());
    })?;
    py.detach(move || {
        loop {
            match receiver.recv_timeout(LOOK) {
                Ok(outcome) => return outcome,
                Err(RecvTimeoutError::Timeout) => check_signals()?,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(told("internal error, please report: a worker thread panicked"));
                }
            }
        }
    })
}

/// Threads for the network.
pub(crate) struct Network(Option<Runtime>);

impl Network {
    pub(crate) fn new() -> Outcome<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(NETWORK_THREADS)
            .thread_name("securedl-network")
            .enable_all()
            .build()
            .map_err(|source| InternalError::Runtime { source })?;
        Ok(Self(Some(runtime)))
    }

    /// Wait for asynchronous work; a signal, or what `look` finds, drops it.
    pub(crate) fn wait<T: Send>(
        &self,
        py: Python<'_>,
        work: impl Future<Output = Outcome<T>> + Send,
        look: impl Fn() -> PyResult<()> + Send + Sync,
    ) -> Outcome<T> {
        let Some(runtime) = &self.0 else { return Err(told("the client is closed")) };
        py.detach(|| {
            runtime.block_on(async {
                tokio::pin!(work);
                loop {
                    match tokio::time::timeout(LOOK, &mut work).await {
                        Ok(outcome) => return outcome,
                        Err(_) => check_signals().and_then(|()| look()).map_err(Failure::from)?,
                    }
                }
            })
        })
    }

    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = &self.0 {
            runtime.spawn(work);
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Whoever drops this may hold the interpreter's lock, for which a thread may wait.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
