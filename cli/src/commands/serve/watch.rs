//! What is read again while the server runs: plans, access list, certificates, identity.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use protocol::access::Look;
use protocol::hosting::{PlanChanges, PlanLibrary};
use protocol::server::Server;
use tokio::task::spawn_blocking;
use tracing::{error, info, warn};

use super::guards::Guards;

/// What is watched.
pub(super) struct Watch {
    pub(super) guards: Guards,
    pub(super) library: Arc<PlanLibrary>,
    pub(super) server: Server,
    /// Between two looks.
    pub(super) pause: Duration,
}

impl Watch {
    /// Look now and then, and at everything on SIGHUP. Never ready.
    ///
    /// # Errors
    /// Signals cannot be watched.
    pub(super) fn start(mut self) -> Result<impl Future<Output = ()> + Send> {
        #[cfg(unix)]
        let mut hangup = {
            use tokio::signal::unix::{SignalKind, signal};
            signal(SignalKind::hangup()).context("signals cannot be watched")?
        };
        Ok(async move {
            loop {
                #[cfg(unix)]
                let look = tokio::select! {
                    _ = hangup.recv() => Look::Always,
                    () = tokio::time::sleep(self.pause) => Look::IfTouched,
                };
                #[cfg(not(unix))]
                let look = {
                    tokio::time::sleep(self.pause).await;
                    Look::IfTouched
                };
                self.guards.refresh(look, &self.server);
                self.look_at_plans(look).await;
            }
        })
    }

    async fn look_at_plans(&self, look: Look) {
        let library = Arc::clone(&self.library);
        let metrics = self.server.metrics();
        match spawn_blocking(move || library.refresh(look).map_err(Box::new)).await {
            Ok(Ok(changes)) => {
                // Also when nothing changed: a broken file may just be gone.
                metrics.broken_plan_files(changes.broken_files);
                if !changes.is_empty() {
                    metrics.plans_read(changes.problems.is_empty());
                    tell(&changes);
                }
            }
            Ok(Err(problem)) => {
                metrics.plans_read(false);
                error!(error = %anyhow::Error::new(*problem), "plans stay as they are");
            }
            Err(_) => error!("looking at the plans failed; they stay as they are"),
        }
    }
}

/// Tell what the first look has found wrong; the plans that are served are announced anyway.
pub(super) fn tell_first(found: &PlanChanges, server: &Server) {
    server.metrics().broken_plan_files(found.broken_files);
    tell_problems(found);
}

fn tell(changes: &PlanChanges) {
    for card in &changes.added {
        info!(plan = %card.plan.short(), name = %card.name, "plan added");
    }
    for card in &changes.removed {
        info!(plan = %card.plan.short(), name = %card.name, "plan removed");
    }
    tell_problems(changes);
}

fn tell_problems(changes: &PlanChanges) {
    for problem in &changes.problems {
        let cause = std::error::Error::source(problem).map(ToString::to_string);
        warn!(%problem, cause, "a plan file cannot be used");
    }
}
