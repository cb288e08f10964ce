//! Signals that ask a server to stop.

use anyhow::{Context, Result};
use tokio::sync::watch;

const FAILED: &str = "signals cannot be watched";

/// Counts requests to stop.
#[derive(Clone)]
pub(super) struct StopSignals {
    count: watch::Receiver<u32>,
}

impl StopSignals {
    /// Count Ctrl-C and SIGTERM from now on.
    ///
    /// # Errors
    /// Signals cannot be watched.
    pub(super) fn watch() -> Result<Self> {
        let (sender, count) = watch::channel(0);
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let mut terminate = signal(SignalKind::terminate()).context(FAILED)?;
            let mut interrupt = signal(SignalKind::interrupt()).context(FAILED)?;
            tokio::spawn(async move {
                loop {
                    tokio::select! {
                        _ = terminate.recv() => {}
                        _ = interrupt.recv() => {}
                    }
                    sender.send_modify(|count| *count += 1);
                }
            });
        }
        #[cfg(not(unix))]
        {
            let mut interrupt = tokio::signal::windows::ctrl_c().context(FAILED)?;
            tokio::spawn(async move {
                loop {
                    interrupt.recv().await;
                    sender.send_modify(|count| *count += 1);
                }
            });
        }
        Ok(Self { count })
    }

    /// Ready once this process was asked so many times.
    pub(super) async fn received(mut self, times: u32) {
        if self.count.wait_for(|count| *count >= times).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
