//! What an operator sees: health, readiness, figures.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use protocol::error::{ConfigError, Error};
use protocol::server::admin::{self, Exposure};
use protocol::server::{NotReady, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{
    FakeSegment, Gate, Mood, eventually, ignore, in_process, is_right, request_for, server_options,
    server_with,
};

struct Admin {
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Admin {
    async fn of(server: &Server) -> Self {
        let any = "127.0.0.1:0".parse().unwrap();
        let listener = admin::bind(any, Exposure::Loopback).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(admin::serve(listener, server.clone()));
        Self { address, task }
    }

    /// Status line and body of an answer.
    async fn ask(&self, request: &str) -> (String, String) {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        let head = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn figure(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} is missing in\n{text}")).parse().unwrap()
}

#[tokio::test]
async fn health_and_figures_follow_the_server() {
    let gate = Arc::new(Gate::default());
    let segment = FakeSegment::new(2, 2, Mood::Held(Arc::clone(&gate)));
    let server = server_with(std::slice::from_ref(&segment), server_options());
    let operator = Admin::of(&server).await;
    assert_eq!(operator.ask("GET /healthz").await, ("HTTP/1.1 200 OK".into(), "ok\n".into()));
    assert_eq!(operator.ask("GET /readyz").await.1, "ready\n");
    assert!(operator.ask("GET /").await.0.contains("404"));
    assert!(operator.ask("POST /metrics").await.0.contains("405"));

    let request = request_for(&segment, 0, 1);
    let running = {
        let (client, request) = (in_process(&server), request.clone());
        tokio::spawn(async move { client.evaluate(&request, &mut ignore).await })
    };
    eventually(|| server.status().evaluations_running == 1).await;
    let (_, text) = operator.ask("GET /metrics").await;
    assert_eq!(figure(&text, "securedl_evaluations_running"), 1.0);
    assert_eq!(figure(&text, "securedl_connections"), 1.0);
    assert!(figure(&text, "securedl_memory_declared_bytes") >= 1_048_576.0);
    assert!(text.contains("securedl_build_info{version="), "{text}");
    gate.open();
    assert!(is_right(&request, &running.await.unwrap().unwrap().bytes));

    let (_, text) = operator.ask("GET /metrics").await;
    assert_eq!(figure(&text, "securedl_requests_admitted"), 0.0);
    let done = "securedl_requests_total{kind=\"evaluate\",outcome=\"evaluated\"}";
    assert_eq!(figure(&text, done), 1.0);
    assert!(text.contains("securedl_payload_bytes_total{direction=\"in\",plan=\""), "{text}");
    for phase in ["admission", "upload", "wait", "evaluation", "busy"] {
        assert!(
            text.contains(&format!("securedl_request_seconds_count{{phase=\"{phase}\"")),
            "{phase}"
        );
    }
    for forbidden in ["verdict", "intact", "tampered", "token"] {
        assert!(!text.to_lowercase().contains(forbidden), "{forbidden}");
    }
}

#[tokio::test]
async fn a_server_that_drains_is_healthy_and_not_ready() {
    let gate = Arc::new(Gate::default());
    let segment = FakeSegment::new(2, 2, Mood::Held(Arc::clone(&gate)));
    let server = server_with(std::slice::from_ref(&segment), server_options());
    let operator = Admin::of(&server).await;
    let running = {
        let (client, request) = (in_process(&server), request_for(&segment, 0, 1));
        tokio::spawn(async move { client.evaluate(&request, &mut ignore).await })
    };
    eventually(|| server.status().evaluations_running == 1).await;
    let draining = {
        let server = server.clone();
        tokio::spawn(async move { server.shut_down().await })
    };
    eventually(|| server.status().draining).await;
    assert_eq!(server.status().check_ready(), Err(NotReady::Draining));
    let (status, reason) = operator.ask("GET /readyz").await;
    assert!(status.contains("503"), "{status}");
    assert_eq!(reason, "the server is about to stop\n");
    assert!(operator.ask("GET /healthz").await.0.contains("200"));
    gate.open();
    running.await.unwrap().unwrap();
    draining.await.unwrap();
}

#[tokio::test]
async fn figures_are_not_shown_to_the_network_by_accident() {
    let everywhere: SocketAddr = "0.0.0.0:0".parse().unwrap();
    let error = admin::bind(everywhere, Exposure::Loopback).await.unwrap_err();
    assert!(matches!(error, Error::Config(ConfigError::AdminExposed { .. })), "{error}");
    assert!(error.to_string().contains("0.0.0.0:0"), "{error}");
    admin::bind(everywhere, Exposure::Network).await.unwrap();
}

#[tokio::test]
async fn garbage_and_silence_at_the_admin_port_harm_nobody() {
    let server = server_with(&[FakeSegment::new(2, 2, Mood::Honest)], server_options());
    let operator = Admin::of(&server).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(operator.address).await.unwrap());
    }
    for garbage in [&b"\0\0\0"[..], &[b'A'; 100_000], b"GET\r\n\r\n"] {
        let mut socket = TcpStream::connect(operator.address).await.unwrap();
        let _ = socket.write_all(garbage).await;
        let _ = socket.shutdown().await;
        let mut answer = Vec::new();
        let _ =
            tokio::time::timeout(Duration::from_secs(20), socket.read_to_end(&mut answer)).await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }
    assert!(operator.ask("GET /healthz").await.0.contains("200"));
    drop(silent);
}
