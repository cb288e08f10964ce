//! `securedl serve`: host plans over TLS.

use std::sync::Arc;

use anyhow::{Context, Result};
use protocol::hosting::PlanShelf;
use protocol::identifiers::Label;
use protocol::identity::Identity;
use protocol::server::service::PlanHost;
use protocol::server::{Server, ServerOptions};
use protocol::tls::{self, ServerTls};
use tracing::info;

use crate::args::ServeArguments;
use crate::failure::Outcome;
use crate::logs;
use crate::report::Console;
use crate::report::table::{Grid, Lean};
use crate::report::terminal::{Ink, Screen};
use crate::report::units;

/// Serve until Ctrl-C or SIGTERM.
pub(crate) fn run(arguments: &ServeArguments) -> Result<Outcome> {
    let Console { screen, progress } = Console::new(None);
    logs::start("info", logs::Style::Full, &progress);
    let tls = ServerTls::load(&arguments.tls)?;
    let identity = Identity::load(&arguments.tls.join(tls::IDENTITY_FILE))?;
    let bar = progress.spinner("loading plans");
    let shelf = PlanShelf::open_directory(&arguments.plans)?;
    drop(bar);
    let options = ServerOptions::new(Label::new(concat!("securedl ", env!("CARGO_PKG_VERSION")))?);
    let host: Arc<dyn PlanHost> = Arc::new(shelf);
    let server = Server::new(Arc::clone(&host), identity, options)?;

    super::runtime()?.block_on(async {
        // Before the address is announced: whoever reads it may send a signal.
        let stop = stop_signal()?;
        let listener = Server::bind(arguments.listen).await?;
        let address = listener.local_addr().context("the listening address is not known")?;
        announce(&screen, &address.to_string(), &server, host.as_ref());
        server.serve(listener, tls, stop).await;
        anyhow::Ok(())
    })?;
    info!("stopped");
    screen.finish()?;
    Ok(Outcome::Success)
}

fn announce(screen: &Screen, address: &str, server: &Server, host: &dyn PlanHost) {
    screen.fact("Listening", screen.paint(Ink::Bold, address));
    screen.fact("Identity", server.identity());
    screen.gap();
    let columns = [
        ("plan", Lean::Left),
        ("digest", Lean::Left),
        ("inputs", Lean::Right),
        ("classes", Lean::Right),
        ("rounds", Lean::Right),
    ];
    let mut grid = Grid::new(screen, &columns);
    for card in host.models() {
        grid.row([
            card.name.to_string(),
            card.plan.short(),
            units::count(card.n_inputs),
            units::count(card.n_classes),
            card.n_segments.to_string(),
        ]);
    }
    grid.print(screen);
    screen.gap();
    screen.line(screen.paint(Ink::Dim, "  Ctrl-C or SIGTERM finishes running requests and stops."));
}

/// Ready once this process is asked to stop.
fn stop_signal() -> Result<impl Future<Output = ()> + Send> {
    const FAILED: &str = "signals cannot be watched";
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).context(FAILED)?;
        let mut interrupt = signal(SignalKind::interrupt()).context(FAILED)?;
        Ok(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
    }
    #[cfg(not(unix))]
    {
        let mut interrupt = tokio::signal::windows::ctrl_c().context(FAILED)?;
        Ok(async move {
            interrupt.recv().await;
        })
    }
}
