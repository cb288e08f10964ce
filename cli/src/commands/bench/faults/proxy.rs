//! Between client and server below TLS: passes bytes on, and damages some.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::KillSwitch;

/// Bytes passed on at once.
const PIECE: usize = 16 << 10;

/// How long a stalled connection stays: longer than anybody's patience with it.
const STALL: Duration = Duration::from_secs(30);

/// What happens to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Damage {
    /// The server process is killed, and started again.
    Kill,
    /// The connection is cut.
    Cut,
    /// It passes nothing on any more.
    Stall,
    /// One byte is altered.
    Corrupt,
}

impl Damage {
    pub(super) const ALL: [Self; 4] = [Self::Kill, Self::Cut, Self::Stall, Self::Corrupt];
}

/// A proxy on a port of its own.
pub(super) struct Proxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes passed since the last [`Proxy::expect`], both ways.
    passed: u64,
    /// What happens when so many bytes have passed, in order.
    expected: VecDeque<(u64, Damage)>,
}

impl Proxy {
    /// Pass on what comes to the server at `server`.
    ///
    /// # Errors
    /// No port.
    pub(super) async fn start(server: SocketAddr, kill: KillSwitch) -> Result<Self> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = TcpListener::bind(any).await.context("no port for the proxy")?;
        let address = listener.local_addr().context("the proxy's port is not known")?;
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, server, Arc::clone(&shared), kill.clone()));
            }
        });
        Ok(Self { address, state, task })
    }

    /// Where clients reach it.
    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes passed since the last [`expect`](Self::expect).
    pub(super) fn passed(&self) -> u64 {
        lock(&self.state).passed
    }

    /// Count from zero, and do this when so many bytes have passed.
    pub(super) fn expect(&self, damages: impl Iterator<Item = (u64, Damage)>) {
        *lock(&self.state) = State { passed: 0, expected: damages.collect() };
    }

    /// Whether everything expected has happened.
    pub(super) fn is_done(&self) -> bool {
        lock(&self.state).expected.is_empty()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One connection, until either side ends it or damage does.
async fn pass(client: TcpStream, server: SocketAddr, state: Arc<Mutex<State>>, kill: KillSwitch) {
    // A server that is down is a connection that ends at once.
    let Ok(server) = TcpStream::connect(server).await else { return };
    for socket in [&client, &server] {
        // Costs time only if it fails.
        let _ = socket.set_nodelay(true);
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = forward(from_client, to_server, &state, &kill) => {}
        () = forward(from_server, to_client, &state, &kill) => {}
    }
}

async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    state: &Mutex<State>,
    kill: &KillSwitch,
) {
    let mut buffer = vec![0; PIECE];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else { return };
        let Some(piece) = buffer.get_mut(..length) else { return };
        match due(state, length) {
            None => {}
            Some((Damage::Cut, _)) => return,
            Some((Damage::Kill, _)) => {
                // Nobody listens only after the trial.
                let _ = kill.send(());
            }
            Some((Damage::Stall, _)) => {
                sleep(STALL).await;
                return;
            }
            Some((Damage::Corrupt, at)) => {
                if let Some(byte) = piece.get_mut(at) {
                    *byte ^= 0x10;
                }
            }
        }
        if to.write_all(piece).await.is_err() {
            return;
        }
    }
}

/// Count bytes; what happens now, and at which of them.
fn due(state: &Mutex<State>, length: usize) -> Option<(Damage, usize)> {
    let mut state = lock(state);
    let before = state.passed;
    state.passed += length as u64;
    let (at, damage) = *state.expected.front().filter(|(at, _)| *at <= state.passed)?;
    state.expected.pop_front();
    let offset = usize::try_from(at.saturating_sub(before)).unwrap_or(0);
    Some((damage, offset.min(length - 1)))
}
