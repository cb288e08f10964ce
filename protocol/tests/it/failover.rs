//! Several servers: a request that fails on one goes to another, with the same bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use protocol::client::endpoint::{Connect, Connecting};
use protocol::client::{Endpoint, RemoteEvaluator, RetryPolicy};
use protocol::error::{Ended, Error, ResourceError};
use protocol::identity::Identity;
use protocol::server::Server;
use protocol::transport::pipe;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{
    FakeHost, FakeSegment, Gate, Loopback, Mood, client_options, host, ignore, is_right,
    request_for, server_options, server_with,
};

fn with_identity(segment: &FakeSegment, seed: u8) -> Server {
    let host = host(std::slice::from_ref(segment));
    Server::new(host, Identity::from_seed(&[seed; 32]), server_options()).unwrap()
}

/// A server of no segments at all: it does not hold the plan's first one.
fn without_plan() -> Server {
    let host = Arc::new(FakeHost { segments: Vec::new(), public_plan: vec![5; 30].into() });
    Server::new(host, Identity::from_seed(&[9; 32]), server_options()).unwrap()
}

/// Answers every greeting with these bytes, and counts connections.
struct Speaks {
    bytes: Vec<u8>,
    n_connections: AtomicUsize,
}

impl Speaks {
    fn endpoint(bytes: &[u8], name: &str) -> (Arc<Self>, Endpoint) {
        let peer = Arc::new(Self { bytes: bytes.to_vec(), n_connections: AtomicUsize::new(0) });
        let endpoint = Endpoint::custom_named(peer.clone(), name);
        (peer, endpoint)
    }
}

impl Connect for Speaks {
    fn connect(&self) -> Connecting<'_> {
        self.n_connections.fetch_add(1, Ordering::SeqCst);
        let bytes = self.bytes.clone();
        Box::pin(async move {
            let (theirs, mut ours) = pipe();
            tokio::spawn(async move {
                let mut greeting = [0; 16];
                let _ = ours.read(&mut greeting).await;
                let _ = ours.write_all(&bytes).await;
                let _ = ours.flush().await;
                // Held open until the client leaves: what was said is all there is.
                let _ = ours.read_to_end(&mut Vec::new()).await;
            });
            Ok(theirs)
        })
    }
}

/// A control frame of protocol version 9.
const ANOTHER_VERSION: [u8; 11] = [7, 0, 0, 0, 1, 9, 0, 0, 0, 0, 0];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_request_of_a_killed_server_is_answered_by_the_next_one() {
    let gate = Arc::new(Gate::default());
    let held = FakeSegment::new(30, 20, Mood::Held(Arc::clone(&gate)));
    let honest = FakeSegment::new(30, 20, Mood::Honest);
    let doomed = Loopback::start(server_with(std::slice::from_ref(&held), server_options())).await;
    let spare = Loopback::start(server_with(std::slice::from_ref(&honest), server_options())).await;
    let endpoints = vec![doomed.endpoint(), spare.endpoint()];
    let client = RemoteEvaluator::new(endpoints, client_options()).unwrap();
    let request = request_for(&held, 0, 7);
    let task = {
        let request = request.clone();
        tokio::spawn(async move { client.evaluate(&request, &mut ignore).await })
    };
    held.until_running(1).await;
    doomed.kill().await;
    gate.open();
    let reply = task.await.unwrap().unwrap();
    assert!(is_right(&request, &reply.bytes));
    assert_eq!(reply.attempts, 2, "no attempt was wasted on the dead one");
    assert_eq!(reply.receipt.request_hash(), &request.hash().unwrap(), "the bytes were the same");
    assert_eq!(honest.begun.load(Ordering::SeqCst), 1);
    spare.shut_down().await;
}

#[tokio::test]
async fn replicas_with_another_plan_identity_or_build_are_left_out() {
    let segment = FakeSegment::new(2, 2, Mood::Honest);
    let (version, other_build) = Speaks::endpoint(&ANOTHER_VERSION, "other build");
    let (nonsense, no_server) = Speaks::endpoint(b"HTTP/1.1 400 Bad Request\r\n\r\n", "no server");
    let endpoints = vec![
        Endpoint::in_process(without_plan()),
        other_build,
        no_server,
        Endpoint::in_process(with_identity(&segment, 1)),
        Endpoint::in_process(with_identity(&segment, 9)),
    ];
    let mut options = client_options();
    options.identities = vec![with_identity(&segment, 9).identity()];
    let client = RemoteEvaluator::new(endpoints, options).unwrap();
    for number in 0..8 {
        let request = request_for(&segment, 0, number);
        let reply = client.evaluate(&request, &mut ignore).await.unwrap();
        assert!(is_right(&request, &reply.bytes));
    }
    for peer in [version, nonsense] {
        assert_eq!(peer.n_connections.load(Ordering::SeqCst), 1, "asked once and never again");
    }
}

#[tokio::test]
async fn when_all_are_left_out_each_one_is_named_with_its_reason() {
    let segment = FakeSegment::new(2, 2, Mood::Honest);
    let (_, other_build) = Speaks::endpoint(&ANOTHER_VERSION, "b:7443");
    let endpoints = vec![
        Endpoint::in_process(without_plan()),
        other_build,
        Endpoint::in_process(with_identity(&segment, 1)),
    ];
    let mut options = client_options();
    options.identities = vec![with_identity(&segment, 9).identity()];
    let client = RemoteEvaluator::new(endpoints, options).unwrap();
    let error = client.evaluate(&request_for(&segment, 0, 1), &mut ignore).await.unwrap_err();
    let text = error.to_string();
    let Error::Resource(ResourceError::NoServerLeft { ended: Ended::AllLeftOut, failures }) = error
    else {
        panic!("{text}");
    };
    assert!(failures.iter().all(|failure| failure.is_excluded));
    for part in [
        "no server can answer",
        "this process (left out): the server refused: the plan has no such segment",
        "b:7443 (left out): the peer speaks protocol version 9, this program version 2",
        "this process (left out): the server identifies itself as",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test]
async fn when_patience_or_time_is_over_each_servers_last_failure_is_named() {
    let segment = FakeSegment::new(2, 2, Mood::Honest);
    let dead = Loopback::start(server_with(std::slice::from_ref(&segment), server_options())).await;
    let (address, endpoint) = (dead.address, dead.endpoint());
    dead.kill().await;
    let endpoints = || vec![endpoint.clone(), Endpoint::in_process(without_plan())];
    let mut options = client_options();
    options.retry.outage = Duration::from_secs(1);
    let client = RemoteEvaluator::new(endpoints(), options.clone()).unwrap();
    let request = request_for(&segment, 0, 1);
    let error = client.evaluate(&request, &mut ignore).await.unwrap_err();
    let text = error.to_string();
    let gave_up = matches!(
        error,
        Error::Resource(ResourceError::NoServerLeft { ended: Ended::GaveUp { .. }, .. })
    );
    assert!(gave_up, "{text}");
    assert!(text.contains(&format!("{address}: cannot reach {address}")), "{text}");
    assert!(text.contains("this process (left out): the server refused"), "{text}");

    options.retry.outage = Duration::from_secs(600);
    options.deadline = Duration::from_secs(2);
    let client = RemoteEvaluator::new(endpoints(), options).unwrap();
    let text = client.evaluate(&request, &mut ignore).await.unwrap_err().to_string();
    assert!(text.contains("not answered within its deadline of 2s"), "{text}");
    assert!(text.contains(&format!("{address}: cannot reach")), "{text}");
}

#[tokio::test]
async fn a_server_that_advises_to_wait_does_not_hold_up_another() {
    let gate = Arc::new(Gate::default());
    let held = FakeSegment::new(2, 2, Mood::Held(Arc::clone(&gate)));
    let honest = FakeSegment::new(2, 2, Mood::Honest);
    let mut options = server_options();
    options.limits.max_requests = 1;
    options.limits.max_waiting = 0;
    let full = server_with(std::slice::from_ref(&held), options);
    let occupant = crate::support::in_process(&full);
    let request = request_for(&held, 0, 1);
    let occupied = tokio::spawn(async move { occupant.evaluate(&request, &mut ignore).await });
    held.until_running(1).await;

    let spare = server_with(std::slice::from_ref(&honest), server_options());
    let endpoints = vec![Endpoint::in_process(full), Endpoint::in_process(spare)];
    let mut options = client_options();
    options.retry = RetryPolicy { busy: Duration::from_secs(3600), ..options.retry };
    let client = RemoteEvaluator::new(endpoints, options).unwrap();
    for number in 0..6 {
        let request = request_for(&honest, 0, number);
        assert!(is_right(&request, &client.evaluate(&request, &mut ignore).await.unwrap().bytes));
    }
    assert_eq!(honest.begun.load(Ordering::SeqCst), 6);
    gate.open();
    occupied.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_server_that_breaks_off_is_spared_while_another_works() {
    // Of two servers one stops in the middle of every reply: its requests end on the other.
    let segment = FakeSegment::new(3, 8, Mood::Honest);
    let broken = FakeSegment::new(3, 8, Mood::WrongLength(-1));
    let endpoints = vec![
        Endpoint::in_process(with_identity(&broken, 1)),
        Endpoint::in_process(with_identity(&segment, 2)),
    ];
    let client = RemoteEvaluator::new(endpoints, client_options()).unwrap();
    for number in 0..5 {
        let request = request_for(&segment, 0, number);
        let reply = client.evaluate(&request, &mut ignore).await.unwrap();
        assert!(is_right(&request, &reply.bytes));
        assert!(reply.attempts <= 2);
    }
    assert!(broken.begun.load(Ordering::SeqCst) <= 2, "a failing server is spared");
}
