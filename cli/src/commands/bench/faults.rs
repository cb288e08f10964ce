//! `securedl bench faults`: whatever can go wrong between client and server, and a server that cheats.
//!
//! ```text
//!            above TLS                     below TLS
//!  client ── Meddler ── TLS ─┐
//!  client ── TLS ────────────┴── Proxy ── `securedl serve`, killed and restarted
//!  client ── in process ── a server that signs altered replies
//! ```
//! Every batch is first sent with one fault above TLS, and then with its faults below TLS, through
//! which it must complete with the right scores. Above TLS, replies that the server alters and signs
//! must end in a verdict; a frame that is meddled with ends in the error that names what is wrong with it
//! or, on its way to the server and if the connection breaks before the server can say so, in a repetition
//! that completes. Each kind of fault has its own list of ends (`figures`); any other fails the harness.

mod figures;
mod meddler;
mod proxy;
mod tamper;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use protocol::client::{Endpoint, RemoteEvaluator, RetryPolicy};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;
use tokio::time::timeout;

use self::figures::{Fault, FaultFigures};
use self::meddler::{Meddler, Meddling, Toward};
use self::proxy::{Damage, Proxy};
use self::tamper::Tampering;
use super::Output;
use super::server_process::ServerProcess;
use super::subject::{Ended, Subject};
use crate::args::FaultsArguments;
use crate::failure::Outcome;
use crate::pipeline::inference;
use crate::report::machine::Machine;

/// Payload bytes in a frame: few, so that there are many frames to meddle with.
const CHUNK: usize = 4096;

/// Silence after which the client takes a connection for dead.
const SILENCE: Duration = Duration::from_secs(3);

/// Measure and print. Fails if anything wrong came out.
pub(super) fn run(arguments: &FaultsArguments) -> Result<Outcome> {
    let output = Output::new(&arguments.figures)?;
    let bar = output.console.progress.spinner("network, plan, server");
    let samples = arguments.batch.samples as usize;
    // Activation at the client: every word of a reply is checked, so that altering one is found.
    let side = nn_poly::plan::ActivationSide::Client;
    let subject = Arc::new(Subject::new(
        arguments.batch.network.into(),
        side,
        samples,
        arguments.batch.seed,
    )?);
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let patience = Duration::from_secs(arguments.patience.into());
    let server = ServerProcess::start(&subject, any, &settings(), patience)?;
    drop(bar);
    let screen = &output.console.screen;
    screen.fact("Machine", Machine::here().summary());
    screen.fact("Network", &subject.description);
    let runtime = crate::commands::runtime()?;
    let began = Instant::now();
    let address = server.address;
    let (kill, orders) = channel();
    let keeper = Keeper::start(server, Arc::clone(&subject), orders, patience);
    let figures = runtime.block_on(async {
        let proxy = Proxy::start(address, kill.clone()).await?;
        let mut trial = Trial {
            subject: &subject,
            proxy: &proxy,
            direct: subject.endpoint(&address.to_string())?,
            patience,
            rng: ChaCha20Rng::seed_from_u64(arguments.batch.seed),
            figures: FaultFigures::new(&subject.description, subject.n_samples()),
        };
        trial.run(arguments, &output).await?;
        anyhow::Ok(trial.figures)
    });
    drop(kill);
    let (panics, restarts) = keeper.stop()?;
    let figures =
        FaultFigures { panics, restarts, seconds: began.elapsed().as_secs_f64(), ..figures? };
    figures.print(screen, output.style);
    let broken = figures.broken_promises();
    let outcome = output.finish(&figures)?;
    if broken.is_empty() {
        return Ok(outcome);
    }
    Err(anyhow!("with these faults it does not hold: {}", broken.join("; ")))
}

fn settings() -> Vec<String> {
    vec![
        format!("limits.chunk={CHUNK}"),
        "timeouts.stall=10s".to_owned(),
        "log.level=warn".to_owned(),
    ]
}

/// Keeps the server running: kills and restarts it when it is told to.
struct Keeper {
    thread: JoinHandle<Result<(usize, usize)>>,
}

impl Keeper {
    fn start(
        mut server: ServerProcess,
        subject: Arc<Subject>,
        orders: Receiver<()>,
        patience: Duration,
    ) -> Self {
        let thread = std::thread::spawn(move || {
            let mut restarts = 0;
            for () in orders {
                server.kill_and_restart(&subject, &settings(), patience)?;
                restarts += 1;
            }
            ensure!(server.is_alive(), "the server ended by itself");
            Ok((server.panics(), restarts))
        });
        Self { thread }
    }

    /// Internal errors and restarts, once nobody orders any more.
    fn stop(self) -> Result<(usize, usize)> {
        self.thread.join().map_err(|_| anyhow!("the keeper of the server failed"))?
    }
}

/// The batches of one run.
struct Trial<'a> {
    subject: &'a Subject,
    proxy: &'a Proxy,
    /// The server without the proxy, for meddling above TLS.
    direct: Endpoint,
    /// Longest time of one batch with its faults.
    patience: Duration,
    rng: ChaCha20Rng,
    figures: FaultFigures,
}

impl Trial<'_> {
    async fn run(&mut self, arguments: &FaultsArguments, output: &Output) -> Result<()> {
        let bytes = self.undisturbed().await?;
        let (batches, faults) = (usize::from(arguments.batches), usize::from(arguments.faults));
        let bar = output.console.progress.bar("batches", batches as u64);
        for batch in 0..batches {
            // As even as whole numbers allow.
            let mut left = faults * (batch + 1) / batches - faults * batch / batches;
            if left > 0 {
                left -= 1;
                self.above(batch).await?;
            }
            self.below(left, bytes).await?;
            bar.advance(1);
        }
        bar.finish(format_args!("{batches} batches, {faults} faults"));
        Ok(())
    }

    fn client(endpoint: Endpoint) -> Result<Arc<RemoteEvaluator>> {
        let retry = RetryPolicy { max_interruptions: 1000, ..RetryPolicy::default() };
        let mut options = Subject::client_options(retry)?;
        options.timeouts.silence = SILENCE;
        Ok(Arc::new(RemoteEvaluator::new(vec![endpoint], options)?))
    }

    async fn send(&self, endpoint: Endpoint) -> Result<Ended> {
        let remote = Self::client(endpoint)?;
        let ended = timeout(self.patience, self.subject.run(&remote)).await;
        remote.close().await;
        Ok(ended.unwrap_or_else(|_| {
            Ended::Failed(format!("the batch had not ended after {:?} (--patience)", self.patience))
        }))
    }

    /// Send the batch twice without faults; the bytes that pass the proxy.
    async fn undisturbed(&self) -> Result<u64> {
        let endpoint = self.subject.endpoint(&self.proxy.address().to_string())?;
        for endpoint in [endpoint, self.direct.clone()] {
            let ended = self.send(endpoint).await?;
            ensure!(ended == Ended::Right, "the undisturbed run ends otherwise: {ended:?}");
        }
        Ok(self.proxy.passed())
    }

    /// One fault above TLS.
    async fn above(&mut self, batch: usize) -> Result<()> {
        let kinds = Meddling::ALL.len() + 1;
        let (fault, ended, happened) = match Meddling::ALL.get(batch % kinds) {
            Some(&kind) => {
                // Whatever a client's bytes become on the way, they are what the server signs for.
                let both_ways = kind != Meddling::Alter && self.rng.random();
                let toward = if both_ways { Toward::Server } else { Toward::Client };
                let at = self.rng.random_range(0..4);
                let meddler = Meddler::new(self.direct.clone(), kind, toward, at, CHUNK);
                let ended = self.send(Endpoint::custom(Arc::new(meddler.clone()))).await?;
                (Fault::Above(kind, toward), ended, meddler.happened())
            }
            None => {
                let tampering = Tampering::new(self.rng.random());
                let host = tampering.host(inference::shelf(&self.subject.plan)?);
                let ended = self.send(Endpoint::in_process(inference::server(host)?)).await?;
                (Fault::Tampered, ended, tampering.happened())
            }
        };
        ensure!(happened, "{} was not injected", fault.name());
        self.figures.above(fault, &ended);
        Ok(())
    }

    /// So many faults below TLS.
    async fn below(&mut self, faults: usize, bytes: u64) -> Result<()> {
        let mut places: Vec<u64> =
            (0..faults).map(|_| self.rng.random_range(1..bytes.max(2))).collect();
        places.sort_unstable();
        let damages: Vec<Damage> = places
            .iter()
            .map(|_| Damage::ALL.choose(&mut self.rng).copied().context("some damage"))
            .collect::<Result<_>>()?;
        self.proxy.expect(places.into_iter().zip(damages.iter().copied()));
        let ended = self.send(self.subject.endpoint(&self.proxy.address().to_string())?).await?;
        ensure!(self.proxy.is_done(), "not every fault was injected; the batch ended: {ended:?}");
        self.figures.below(&damages, &ended);
        Ok(())
    }
}

/// How orders to kill the server are given.
type KillSwitch = Sender<()>;
