//! What an operator asks a server over HTTP, on an address of its own: `/metrics`, `/healthz`,
//! `/readyz`.
//!
//! | path | answer |
//! |---|---|
//! | `/metrics` | 200, the figures in the text format of Prometheus |
//! | `/healthz` | 200 while the process runs |
//! | `/readyz` | 200 if requests should be sent here; 503 with the reason while the server drains or has no plans |
//!
//! Everything is read-only and without passwords, so it listens on loopback unless the operator says
//! otherwise. It says nothing about inputs or verdicts; it does say how busy the server is, and with
//! which plans.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::Server;
use crate::error::{ConfigError, Result};

/// Connections at the same time; further ones wait.
const MAX_CONNECTIONS: usize = 32;

/// Bytes of a request's head at most.
const MAX_HEAD_BYTES: usize = 8 << 10;

/// For the head of a request.
const HEAD_LIMIT: Duration = Duration::from_secs(5);

/// Longest life of a connection: whoever scrapes makes a new one.
const CONNECTION_LIMIT: Duration = Duration::from_secs(60);

/// Pause after a failed `accept`.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Whom the figures may be shown to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposure {
    /// This machine only: any other address is refused.
    Loopback,
    /// Whoever reaches the address.
    Network,
}

/// Listen for operators.
///
/// # Errors
/// - [`ConfigError::AdminExposed`]: the address is not loopback, and `exposure` does not allow that.
/// - [`ConfigError::AddressInUse`], [`ConfigError::CannotListen`].
pub async fn bind(address: SocketAddr, exposure: Exposure) -> Result<TcpListener> {
    if exposure == Exposure::Loopback && !address.ip().is_loopback() {
        return Err(ConfigError::AdminExposed { address }.into());
    }
    Server::bind(address).await
}

/// Answer operators. Never ready.
///
/// Give it a runtime of its own, so that probes are answered however busy the server is.
pub async fn serve(listener: TcpListener, server: Server) {
    let seats = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((socket, peer)) => {
                let server = server.clone();
                tokio::spawn(async move {
                    answer_connection(socket, server).await;
                    debug!(%peer, "an operator's connection ended");
                    drop(seat);
                });
            }
            Err(error) => {
                warn!(%error, "cannot accept an operator's connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer_connection(socket: TcpStream, server: Server) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(request.method(), request.uri().path(), &server);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(socket), service);
    let mut connection = pin!(connection);
    match timeout(CONNECTION_LIMIT, connection.as_mut()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "an operator's connection failed"),
        Err(_) => {
            connection.as_mut().graceful_shutdown();
            let _ = timeout(HEAD_LIMIT, connection).await;
        }
    }
}

fn answer(method: &Method, path: &str, server: &Server) -> Response<Full<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".to_owned());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/metrics" => {
            let figures = server.metrics().render(&server.status());
            let mut response = text(StatusCode::OK, figures);
            let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        "/healthz" => text(StatusCode::OK, "ok\n".to_owned()),
        "/readyz" => match server.status().check_ready() {
            Ok(()) => text(StatusCode::OK, "ready\n".to_owned()),
            Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
        },
        _ => text(StatusCode::NOT_FOUND, "/metrics, /healthz, /readyz\n".to_owned()),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
