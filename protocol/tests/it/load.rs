//! Many clients, full servers, cancellation, shutdown.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use protocol::client::{RemoteEvaluator, RetryPolicy, Stage};
use protocol::error::{Error, PeerFault, ResourceError};
use protocol::identifiers::Digest;
use protocol::identity::Identity;
use protocol::limits::ServerLimits;
use protocol::message::{ModelCard, Refusal, RefusalCode};
use protocol::server::service::{PlanHost, SegmentService};
use protocol::server::{Server, ServerOptions};
use tokio::task::JoinSet;

use crate::support::{
    FakeHost, FakeSegment, Gate, Loopback, Mood, client_options, connection, eventually, figure,
    host, ignore, in_process, is_right, request_for, server_options, server_with,
};

fn one_job() -> ServerOptions {
    let mut options = server_options();
    options.limits.max_requests = 1;
    options
}

fn code_of(error: &Error) -> Option<RefusalCode> {
    match error {
        Error::Peer(PeerFault::Refused { code, .. }) => Some(*code),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_clients_at_once_are_all_served() {
    let segment = FakeSegment::new(60, 40, Mood::Honest);
    let server = server_with(std::slice::from_ref(&segment), server_options());
    let loopback = Loopback::start(server).await;
    let mut tasks = JoinSet::new();
    for number in 0..50 {
        let (client, segment) = (loopback.client(), segment.clone());
        tasks.spawn(async move {
            let request = request_for(&segment, 0, number);
            let reply = client.evaluate(&request, &mut ignore).await.unwrap();
            is_right(&request, &reply.bytes)
        });
    }
    while let Some(right) = tasks.join_next().await {
        assert!(right.unwrap());
    }
    assert_eq!(segment.n_running(), 0);
    loopback.shut_down().await;
}

#[tokio::test]
async fn a_full_server_refuses_and_serves_later() {
    let gate = Arc::new(Gate::default());
    let segment = FakeSegment::new(2, 2, Mood::Held(Arc::clone(&gate)));
    let server = server_with(std::slice::from_ref(&segment), one_job());
    let first = {
        let (client, request) = (in_process(&server), request_for(&segment, 0, 1));
        tokio::spawn(async move { client.evaluate(&request, &mut ignore).await })
    };
    segment.until_running(1).await;

    // Once without patience: the refusal itself. The connection stays usable.
    let mut raw = connection(&server).await;
    let request = request_for(&segment, 0, 2);
    let error = raw.evaluate(&request, &mut ignore).await.unwrap_err();
    let Error::Peer(PeerFault::Refused { code: RefusalCode::Busy, retry_after: Some(_) }) = error
    else {
        panic!("{error}");
    };
    assert!(raw.is_usable());

    // And once with: it waits until there is room.
    let second = {
        let (client, request) = (in_process(&server), request.clone());
        tokio::spawn(async move { client.evaluate(&request, &mut ignore).await })
    };
    let busy = "securedl_refusals_total{code=\"busy\"}";
    eventually(|| figure(&server, busy) >= 2.0).await;
    gate.open();
    first.await.unwrap().unwrap();
    let reply = second.await.unwrap().unwrap();
    assert!(is_right(&request, &reply.bytes));
    assert!(reply.attempts > 1, "it was refused at least once");
    assert!(raw.evaluate(&request, &mut ignore).await.is_ok());
}

#[tokio::test]
async fn memory_is_admitted_by_what_is_declared() {
    let segment = FakeSegment::new(2, 2, Mood::Needs(3 << 20));
    let limits =
        ServerLimits { max_connections: 4, max_memory_bytes: 2 << 20, ..ServerLimits::default() };
    let options = ServerOptions { limits, ..server_options() };
    let server = server_with(std::slice::from_ref(&segment), options);
    let error =
        in_process(&server).evaluate(&request_for(&segment, 0, 1), &mut ignore).await.unwrap_err();
    assert_eq!(code_of(&error), Some(RefusalCode::TooLarge), "{error}");
    assert_eq!(segment.begun.load(Ordering::SeqCst), 0);
}

/// Keeps all it may.
struct Hoarding(Arc<FakeHost>);

impl PlanHost for Hoarding {
    fn models(&self) -> Vec<ModelCard> {
        self.0.models()
    }

    fn public_plan(&self, plan: &Digest) -> Option<Arc<[u8]>> {
        self.0.public_plan(plan)
    }

    fn segment(&self, plan: &Digest, segment: u32) -> Result<Arc<dyn SegmentService>, Refusal> {
        self.0.segment(plan, segment)
    }

    fn limit_spare_memory(&self, max_bytes: u64) -> u64 {
        max_bytes
    }
}

#[tokio::test]
async fn what_a_host_keeps_is_not_given_to_requests_as_well() {
    for (megabytes, fits) in [(5, true), (7, false)] {
        let segment = FakeSegment::new(2, 2, Mood::Needs(megabytes << 20));
        let host = Arc::new(Hoarding(host(std::slice::from_ref(&segment))));
        let limits = ServerLimits {
            max_connections: 4,
            max_memory_bytes: 8 << 20,
            ..server_options().limits
        };
        let options = ServerOptions { limits, ..server_options() };
        let server = Server::new(host, Identity::from_seed(&[9; 32]), options).unwrap();
        let outcome = in_process(&server).evaluate(&request_for(&segment, 0, 1), &mut ignore).await;
        let code = outcome.as_ref().err().and_then(code_of);
        assert_eq!(code, (!fits).then_some(RefusalCode::TooLarge), "{megabytes} MiB");
    }
}

#[tokio::test]
async fn cancelling_stops_the_evaluation_and_keeps_the_connection() {
    // Would run for minutes.
    let slow =
        FakeSegment { piece: 1, ..FakeSegment::new(2, 50, Mood::Slow(Duration::from_millis(2))) };
    let quick = FakeSegment::new(2, 2, Mood::Honest);
    let server = server_with(&[slow.clone(), quick.clone()], one_job());
    let mut raw = connection(&server).await;
    let mut signs = 0;
    let error = raw
        .evaluate(&request_for(&slow, 0, 1), &mut |progress| {
            signs += u32::from(progress.stage == Stage::Evaluating);
            if signs > 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Resource(ResourceError::Cancelled)), "{error}");
    assert_eq!(slow.n_running(), 0, "the server answers once nothing runs");
    assert!(raw.is_usable());
    let request = request_for(&quick, 1, 2);
    let reply = raw.evaluate(&request, &mut ignore).await.unwrap();
    assert!(is_right(&request, &reply.bytes));
}

#[tokio::test]
async fn a_client_that_leaves_stops_its_evaluation() {
    let slow =
        FakeSegment { piece: 1, ..FakeSegment::new(2, 50, Mood::Slow(Duration::from_millis(2))) };
    let server = server_with(std::slice::from_ref(&slow), one_job());
    let loopback = Loopback::start(server).await;
    let task = {
        let (client, request) = (loopback.client(), request_for(&slow, 0, 1));
        tokio::spawn(async move { client.evaluate(&request, &mut ignore).await })
    };
    slow.until_running(1).await;
    task.abort();
    slow.until_running(0).await;
}

#[tokio::test]
async fn the_deadline_ends_a_request() {
    let slow =
        FakeSegment { piece: 1, ..FakeSegment::new(2, 50, Mood::Slow(Duration::from_millis(2))) };
    let server = server_with(std::slice::from_ref(&slow), server_options());
    let mut options = client_options();
    options.deadline = Duration::from_millis(100);
    let endpoint = protocol::client::Endpoint::in_process(server);
    let client = RemoteEvaluator::new(vec![endpoint], options).unwrap();
    let error = client.evaluate(&request_for(&slow, 0, 1), &mut ignore).await.unwrap_err();
    assert!(matches!(error, Error::Resource(ResourceError::DeadlineExceeded { .. })), "{error}");
    slow.until_running(0).await;
}

#[tokio::test]
async fn a_slow_evaluation_shows_signs_of_life() {
    let gate = Arc::new(Gate::default());
    let segment = FakeSegment::new(2, 2, Mood::Held(Arc::clone(&gate)));
    let server = server_with(std::slice::from_ref(&segment), server_options());
    let mut options = client_options();
    options.retry = RetryPolicy::never();
    let endpoint = protocol::client::Endpoint::in_process(server);
    let client = RemoteEvaluator::new(vec![endpoint], options).unwrap();
    let request = request_for(&segment, 0, 1);
    let (mut server_done, mut signs) = (0, 0);
    let reply = client
        .evaluate(&request, &mut |progress| {
            server_done = progress.server_done_bytes;
            signs += u32::from(progress.stage == Stage::Evaluating);
            // The evaluation lasts until it has shown some.
            if signs == 10 {
                gate.open();
            }
            ControlFlow::Continue(())
        })
        .await;
    // Without them it must still end.
    gate.open();
    assert!(is_right(&request, &reply.unwrap().bytes));
    assert!(server_done >= request.header().payload_bytes);
    assert!(signs >= 10, "{signs} signs");
}

#[tokio::test]
async fn a_shutdown_lets_running_requests_finish() {
    let gate = Arc::new(Gate::default());
    let segment = FakeSegment::new(2, 2, Mood::Held(Arc::clone(&gate)));
    let server = server_with(std::slice::from_ref(&segment), server_options());
    let loopback = Loopback::start(server).await;
    let (address, endpoint) = (loopback.address, loopback.endpoint());
    let request = request_for(&segment, 0, 1);
    let running = {
        let (client, request) = (loopback.client(), request.clone());
        tokio::spawn(async move { client.evaluate(&request, &mut ignore).await })
    };
    let idle = loopback.client();
    idle.list_models().await.unwrap();
    segment.until_running(1).await;
    let shutdown = tokio::spawn(loopback.shut_down());
    eventually(|| std::net::TcpStream::connect(address).is_err()).await;
    assert!(!shutdown.is_finished());
    gate.open();
    let reply = running.await.unwrap().unwrap();
    assert!(is_right(&request, &reply.bytes));
    shutdown.await.unwrap();
    let mut options = client_options();
    options.retry = RetryPolicy::never();
    let client = RemoteEvaluator::new(vec![endpoint], options).unwrap();
    let error = client.list_models().await.unwrap_err();
    assert!(matches!(error, Error::Resource(ResourceError::GaveUp { attempts: 1, .. })), "{error}");
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_ever() {
    let slow =
        FakeSegment { piece: 1, ..FakeSegment::new(2, 50, Mood::Slow(Duration::from_millis(2))) };
    let mut options = server_options();
    options.timeouts.drain = Duration::from_millis(50);
    let server = server_with(std::slice::from_ref(&slow), options);
    let mut client_options = client_options();
    client_options.retry = RetryPolicy::never();
    let endpoint = protocol::client::Endpoint::in_process(server.clone());
    let client = RemoteEvaluator::new(vec![endpoint], client_options).unwrap();
    let request = request_for(&slow, 0, 1);
    let running = tokio::spawn(async move { client.evaluate(&request, &mut ignore).await });
    slow.until_running(1).await;
    server.shut_down().await;
    assert_eq!(slow.n_running(), 0);
    let produced = slow.produced.load(Ordering::SeqCst) as u64;
    assert!(produced < slow.reply_bytes(), "it was cut and did not finish");
    assert!(running.await.unwrap().is_err());
}

#[tokio::test]
async fn connections_beyond_the_limit_are_told_to_come_back() {
    let segment = FakeSegment::new(2, 2, Mood::Honest);
    let mut options = server_options();
    options.limits.max_connections = 1;
    let server = server_with(std::slice::from_ref(&segment), options);
    let first = connection(&server).await;
    let client = in_process(&server);
    let request = request_for(&segment, 0, 1);
    let waiting = tokio::spawn(async move { client.evaluate(&request, &mut ignore).await });
    let turned_away = "securedl_connections_total{outcome=\"turned away\"}";
    eventually(|| figure(&server, turned_away) >= 1.0).await;
    assert!(!waiting.is_finished());
    first.close().await;
    assert!(waiting.await.unwrap().unwrap().attempts > 1);
}
