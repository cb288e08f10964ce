//! Connections to the page: so many at a time, and none that stays for nothing.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

/// What whoever reaches the port may take of this process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Connections at the same time; further ones wait.
    pub(super) connections: usize,
    /// For the head of a request, the wait for it included.
    pub(super) head: Duration,
    /// Longest life of a connection: browsers make new ones.
    pub(super) connection: Duration,
}

/// A browser has six connections and asks every three seconds at least.
pub(super) const LIMITS: Limits =
    Limits { connections: 64, head: Duration::from_secs(10), connection: Duration::from_secs(600) };

/// Bytes of a request's head at most.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// Pause after a failed `accept`.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answer whoever comes. Never ready; connections end when it is dropped.
pub(super) async fn answer(listener: TcpListener, routes: Router, limits: Limits) {
    let seats = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    loop {
        let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((socket, _)) => {
                let routes = routes.clone();
                connections.spawn(async move {
                    answer_connection(socket, routes, limits).await;
                    drop(seat);
                });
            }
            Err(error) => {
                warn!(%error, "cannot accept a connection to the page");
                sleep(ACCEPT_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn answer_connection(socket: TcpStream, routes: Router, limits: Limits) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(socket), TowerToHyperService::new(routes));
    let mut connection = pin!(connection);
    match timeout(limits.connection, connection.as_mut()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a connection to the page failed"),
        Err(_) => {
            connection.as_mut().graceful_shutdown();
            let _ = timeout(limits.head, connection).await;
        }
    }
}
