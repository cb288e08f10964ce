//! `securedl serve`: host plans over TLS.
//!
//! ```text
//!  defaults ─► file ─► flags ─► Settings ─► Server, admin listener
//!                                             ▲
//!  folder of plans, access list, SIGHUP ─ Watch   SIGTERM: drain; twice: end
//! ```

mod guards;
mod settings;
mod stop;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use protocol::hosting::{PlanLibrary, PlanShelf};
use protocol::identifiers::Label;
use protocol::identity::Identity;
use protocol::masked::load_or_create_mask_key;
use protocol::server::admin::{self, Exposure};
use protocol::server::service::PlanHost;
use protocol::server::{Server, ServerOptions};
use protocol::tls;
use tokio::runtime::{Builder, Runtime};
use tracing::{info, warn};

use self::guards::Guards;
use self::settings::Settings;
use self::stop::StopSignals;
use self::watch::Watch;
use crate::args::ServeArguments;
use crate::failure::Outcome;
use crate::report::Console;
use crate::report::table::{Grid, Lean};
use crate::report::terminal::{Ink, Screen};
use crate::report::units;
use crate::{file_limit, logs};

/// Files and sockets besides those of clients.
const OTHER_FILES: u64 = 128;

/// How long threads may take to end after the last request.
const THREAD_LIMIT: Duration = Duration::from_secs(1);

/// Serve until Ctrl-C or SIGTERM.
pub(crate) fn run(arguments: &ServeArguments) -> Result<Outcome> {
    let Console { screen, progress } = Console::new(None);
    if arguments.print_config {
        screen.line(Settings::unchecked(arguments)?.print().trim_end());
        screen.finish()?;
        return Ok(Outcome::Success);
    }
    let settings = Settings::of(arguments)?;
    let style = if settings.log_format == "json" { logs::Style::Json } else { logs::Style::Full };
    logs::start(&settings.log_level, style, &progress);
    let sockets = settings.limits.max_connections as u64 + OTHER_FILES;
    if let Err(problem) = file_limit::raise(sockets) {
        warn!("{problem}");
    }
    let guards = Guards::open(&settings)?;
    let identity = Identity::load(&settings.tls.join(tls::IDENTITY_FILE))?;
    let bar = progress.spinner("loading plans");
    let mut shelf = PlanShelf::new();
    if let Some(path) = &settings.mask_key {
        shelf = shelf.with_mask_key(load_or_create_mask_key(path)?);
    }
    let (library, found) = PlanLibrary::open_on(shelf, &settings.plans, &guards.owners)?;
    let library = Arc::new(library);
    drop(bar);
    let options = ServerOptions {
        limits: settings.limits.clone(),
        timeouts: settings.timeouts.clone(),
        ..ServerOptions::new(Label::new(concat!("securedl ", env!("CARGO_PKG_VERSION")))?)
    };
    let host: Arc<dyn PlanHost> = Arc::clone(&library) as Arc<dyn PlanHost>;
    let server = Server::new(host, identity, guards.guard(options))?;
    watch::tell_first(&found, &server);
    let operators = operators(&settings, &server, &screen)?;
    let runtime = super::runtime()?;
    let watch = Watch { guards, library, server: server.clone(), pause: settings.reload };
    let stopped = runtime.block_on(serve(&settings, server, watch, &screen));
    // An evaluation that is cut ends by itself; nobody waits for it.
    runtime.shutdown_timeout(THREAD_LIMIT);
    if let Some(operators) = operators {
        operators.shutdown_background();
    }
    stopped?;
    info!("stopped");
    screen.finish()?;
    Ok(Outcome::Success)
}

/// A size as options take it, such as `4GiB`, in bytes.
pub(crate) fn size(text: &str) -> Option<u64> {
    settings::size(text)
}

/// Answer operators on threads of their own, however busy the server is.
fn operators(settings: &Settings, server: &Server, screen: &Screen) -> Result<Option<Runtime>> {
    let Some(address) = settings.admin else { return Ok(None) };
    let exposure = if settings.expose_admin { Exposure::Network } else { Exposure::Loopback };
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("securedl-admin")
        .enable_all()
        .build()
        .context("the thread for operators cannot be started")?;
    let listener = runtime.block_on(admin::bind(address, exposure))?;
    let address = listener.local_addr().context("the listening address is not known")?;
    screen.fact("Operators", format!("http://{address}/metrics"));
    runtime.spawn(admin::serve(listener, server.clone()));
    Ok(Some(runtime))
}

async fn serve(settings: &Settings, server: Server, watch: Watch, screen: &Screen) -> Result<()> {
    // Before the address is announced: whoever reads it may send a signal.
    let signals = StopSignals::watch()?;
    let listener = Server::bind(settings.listen).await?;
    let address = listener.local_addr().context("the listening address is not known")?;
    announce(screen, &address.to_string(), &server, watch.library.as_ref());
    let tls = watch.guards.tls.clone();
    let watching = watch.start()?;
    tokio::select! {
        () = server.serve(listener, tls, signals.clone().received(1)) => Ok(()),
        () = watching => Ok(()),
        () = signals.received(2) => bail!("stopped at once, as asked twice; requests were cut"),
    }
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
    screen.line(screen.paint(
        Ink::Dim,
        "  Ctrl-C or SIGTERM finishes running requests and stops; twice stops at once.",
    ));
}
