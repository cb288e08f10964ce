//! `securedl bench load`: a server process with many connections and more work than it has room for.
//!
//! ```text
//!  idle connections ──┐
//!  clients, batches ──┼─ TLS ─► `securedl serve` in a process of its own
//!  probes of /healthz ┘             resident memory, figures
//! ```
//! Ends by itself: clients begin nothing after the time given, and what is unfinished long after
//! that counts as a failure.

mod figures;
mod probe;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use protocol::client::{Connection, Endpoint, RemoteEvaluator, RetryPolicy};
use protocol::identifiers::Label;
use protocol::limits::ClientTimeouts;
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::figures::{Batches, LoadFigures};
use self::probe::Probe;
use super::Output;
use super::server_process::ServerProcess;
use super::subject::{Ended, Subject};
use crate::args::LoadArguments;
use crate::failure::{Hint, Outcome};
use crate::file_limit;
use crate::report::machine::Machine;

/// Handshakes at the same time while connections are opened.
const OPENING: usize = 16;

/// Files and sockets besides connections.
const OTHER_FILES: u64 = 256;

/// How patient the clients are with a server under load.
const PATIENT: ClientTimeouts = ClientTimeouts {
    connect: Duration::from_secs(60),
    silence: Duration::from_secs(120),
    cancel: Duration::from_secs(2),
};

/// Measure and print. Fails if anything that was promised does not hold.
pub(super) fn run(arguments: &LoadArguments) -> Result<Outcome> {
    let output = Output::new(&arguments.figures)?;
    file_limit::raise(u64::from(arguments.connections) + OTHER_FILES)
        .map_err(|problem| anyhow!(problem))
        .hint(|| "or measure with fewer --connections")?;
    let bar = output.console.progress.spinner("network, plan, server");
    let subject = Arc::new(Subject::new(
        arguments.batch.network.into(),
        arguments.activation.into(),
        arguments.batch.samples as usize,
        arguments.batch.seed,
    )?);
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let patience = Duration::from_secs(arguments.patience.into());
    let mut server = ServerProcess::start(&subject, any, &settings(arguments), patience)?;
    let resident_before = server.memory_bytes("VmRSS");
    drop(bar);
    let screen = &output.console.screen;
    screen.fact("Machine", Machine::here().summary());
    screen.fact("Network", &subject.description);

    let runtime = crate::commands::runtime()?;
    let probe = Probe::start(server.admin, Duration::from_millis(50));
    let measured = runtime.block_on(drive(&subject, &server, arguments, &output));
    let health = probe.stop();
    let (batches, connections, resident_idle) = measured?;
    let figures = LoadFigures {
        network: subject.description.clone(),
        plan: subject.plan.digest().to_string(),
        samples_per_batch: subject.n_samples(),
        connections,
        clients: arguments.clients.into(),
        batches,
        refused_busy: server.figure("securedl_refusals_total{code=\"busy\"}")?,
        health,
        health_limit_ms: arguments.health_ms.into(),
        memory_limit_bytes: figures::size(&arguments.memory)?,
        resident_before_bytes: resident_before,
        resident_idle_bytes: resident_idle,
        resident_peak_bytes: server.memory_bytes("VmHWM"),
        panics: server.panics(),
        server_survived: server.is_alive(),
    };
    figures.print(screen, output.style);
    let broken = figures.broken_promises();
    let outcome = output.finish(&figures)?;
    if broken.is_empty() {
        return Ok(outcome);
    }
    Err(anyhow!("under this load the server does not hold: {}", broken.join("; ")))
}

/// What the server is told.
fn settings(arguments: &LoadArguments) -> Vec<String> {
    vec![
        format!("limits.connections={}", u64::from(arguments.connections) + 64),
        // Everybody comes from one address here.
        format!("limits.connections_per_address={}", u64::from(arguments.connections) + 64),
        format!("limits.waiting_per_client={}", u64::from(arguments.clients)),
        format!("limits.memory={}", arguments.memory),
        // Idle connections are what is measured: they stay.
        "timeouts.idle=12h".to_owned(),
        "timeouts.handshake=60s".to_owned(),
        "log.level=warn".to_owned(),
    ]
}

/// Open the connections, run the clients; what came of the batches, how many connections there were,
/// and the server's memory with all of them idle.
async fn drive(
    subject: &Arc<Subject>,
    server: &ServerProcess,
    arguments: &LoadArguments,
    output: &Output,
) -> Result<(Batches, usize, Option<u64>)> {
    let endpoint = subject.endpoint(&server.address.to_string())?;
    let n_idle = usize::from(arguments.connections.saturating_sub(arguments.clients));
    let patience = Duration::from_secs(arguments.patience.into());
    let idle = within(patience, "the connections were not open", open(&endpoint, n_idle, output));
    let idle = idle.await??;
    let resident_idle = server.memory_bytes("VmRSS");
    let began = Instant::now();
    let until = began + Duration::from_secs(arguments.seconds.into());
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for _ in 0..arguments.clients {
        let retry = RetryPolicy { busy: patience, ..RetryPolicy::default() };
        let mut options = Subject::client_options(retry)?;
        options.timeouts = PATIENT;
        let remote = Arc::new(RemoteEvaluator::new(vec![endpoint.clone()], options)?);
        let (subject, stop) = (Arc::clone(subject), Arc::clone(&stop));
        clients.spawn(async move {
            let mut ended = Vec::new();
            // At least one each, whatever the time.
            while ended.is_empty() || (Instant::now() < until && !stop.load(Ordering::Relaxed)) {
                let started = Instant::now();
                let outcome = subject.run(&remote).await;
                ended.push((outcome, started.elapsed()));
            }
            remote.close().await;
            ended
        });
    }
    let bar = output.console.progress.spinner("batches");
    let mut batches = Batches::default();
    let collect = async {
        while let Some(client) = clients.join_next().await {
            let ended = client.context("a client failed")?;
            for (outcome, time) in ended {
                if outcome != Ended::Right {
                    stop.store(true, Ordering::Relaxed);
                }
                batches.add(&outcome, time);
            }
        }
        anyhow::Ok(())
    };
    let limit = Duration::from_secs(arguments.seconds.into()) + patience;
    match timeout(limit, collect).await {
        Ok(collected) => collected?,
        Err(_) => {
            batches.unfinished = clients.len();
            let late =
                format!("clients had not finished {patience:?} after the last batch (--patience)");
            batches.errors.insert(0, late);
        }
    }
    batches.seconds = began.elapsed().as_secs_f64();
    drop(bar);
    let alive = within(patience, "the idle connections had not answered", still_open(idle)).await?;
    Ok((batches, alive + usize::from(arguments.clients), resident_idle))
}

/// What a future gives within the patience of the harness.
///
/// # Errors
/// `late`, if it takes longer.
async fn within<T>(
    patience: Duration,
    late: &'static str,
    work: impl Future<Output = T>,
) -> Result<T> {
    timeout(patience, work).await.with_context(|| format!("{late} after {patience:?} (--patience)"))
}

/// Open so many connections and greet on each.
async fn open(endpoint: &Endpoint, n: usize, output: &Output) -> Result<Vec<Connection>> {
    let bar = output.console.progress.bar("connections", n as u64);
    let name = Label::new("securedl bench, idle")?;
    let mut opening = JoinSet::new();
    let mut open = Vec::with_capacity(n);
    let mut begun = 0;
    while open.len() < n {
        while begun < n && opening.len() < OPENING {
            let (endpoint, name) = (endpoint.clone(), name.clone());
            begun += 1;
            opening.spawn(async move {
                let stream = endpoint.connect(PATIENT.connect).await?;
                Connection::open(stream, &name, PATIENT).await
            });
        }
        let Some(connection) = opening.join_next().await else { break };
        let connection = connection.context("a connection's task failed")?;
        open.push(connection.with_context(|| format!("connection {} of {n}", open.len() + 1))?);
        bar.advance(1);
    }
    Ok(open)
}

/// How many of the idle connections still answer.
async fn still_open(connections: Vec<Connection>) -> usize {
    let mut alive = 0;
    for mut connection in connections {
        alive += usize::from(connection.list_models().await.is_ok());
        connection.close().await;
    }
    alive
}
