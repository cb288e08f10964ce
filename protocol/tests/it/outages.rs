//! Servers that die, come back, or misbehave for a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use protocol::client::endpoint::{Connect, Connecting};
use protocol::client::{Endpoint, RemoteEvaluator, RetryPolicy};
use protocol::error::{ConfigError, Error, LinkError, PeerFault, ResourceError};
use protocol::message::RefusalCode;
use protocol::server::Server;
use protocol::transport::{BoxedStream, pipe};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{
    FakeSegment, Gate, Loopback, Mood, client_options, eventually, ignore, in_process, is_right,
    request_for, server_options, server_with,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_mid_request_and_restarted_lets_the_client_finish() {
    let gate = Arc::new(Gate::default());
    let held = FakeSegment::new(30, 20, Mood::Held(Arc::clone(&gate)));
    let loopback =
        Loopback::start(server_with(std::slice::from_ref(&held), server_options())).await;
    let client = loopback.client();
    let request = request_for(&held, 0, 7);
    let task = {
        let request = request.clone();
        tokio::spawn(async move { client.evaluate(&request, &mut ignore).await })
    };
    held.until_running(1).await;
    let (address, directory) = loopback.kill().await;
    gate.open();
    assert!(!task.is_finished(), "nobody is there to answer");

    let honest = FakeSegment::new(30, 20, Mood::Honest);
    let again = server_with(std::slice::from_ref(&honest), server_options());
    let loopback = Loopback::start_at(again, address, directory).await;
    let reply = task.await.unwrap().unwrap();
    assert!(is_right(&request, &reply.bytes));
    assert!(reply.attempts > 1);
    assert_eq!(reply.receipt.request_hash(), &request.hash().unwrap(), "the bytes were the same");
    loopback.shut_down().await;
}

#[tokio::test]
async fn an_idle_connection_closed_by_the_server_costs_no_attempt() {
    let segment = FakeSegment::new(2, 2, Mood::Honest);
    let mut options = server_options();
    // Enough for a request to come, on a busy machine as well.
    options.timeouts.idle = Duration::from_secs(1);
    let server = server_with(std::slice::from_ref(&segment), options);
    let client = in_process(&server);
    for number in 0..3 {
        let reply = client.evaluate(&request_for(&segment, 0, number), &mut ignore).await.unwrap();
        assert_eq!(reply.attempts, 1);
        eventually(|| server.status().connections == 0).await;
    }
}

#[tokio::test]
async fn an_unreachable_server_is_given_up_with_the_reason() {
    let segment = FakeSegment::new(2, 2, Mood::Honest);
    let loopback =
        Loopback::start(server_with(std::slice::from_ref(&segment), server_options())).await;
    let endpoint = loopback.endpoint();
    loopback.kill().await;
    let mut options = client_options();
    options.retry.outage = Duration::from_secs(2);
    let client = RemoteEvaluator::new(vec![endpoint], options).unwrap();
    let error = client.evaluate(&request_for(&segment, 0, 1), &mut ignore).await.unwrap_err();
    let Error::Resource(ResourceError::GaveUp { attempts, last, .. }) = error else {
        panic!("{error}");
    };
    assert!(attempts > 1);
    assert!(matches!(*last, Error::Link(LinkError::Unreachable { .. })), "{last}");
}

#[tokio::test]
async fn a_second_endpoint_takes_over() {
    let segment = FakeSegment::new(2, 2, Mood::Honest);
    let server = server_with(std::slice::from_ref(&segment), server_options());
    let dead = Loopback::start(server.clone()).await;
    let endpoints = vec![dead.endpoint(), Endpoint::in_process(server)];
    dead.kill().await;
    let client = RemoteEvaluator::new(endpoints, client_options()).unwrap();
    for number in 0..4 {
        let request = request_for(&segment, 0, number);
        let reply = client.evaluate(&request, &mut ignore).await.unwrap();
        assert!(is_right(&request, &reply.bytes));
    }
}

#[tokio::test]
async fn a_port_in_use_is_said_to_be() {
    let listener = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let error = Server::bind(address).await.unwrap_err();
    let Error::Config(ConfigError::AddressInUse { address: named }) = error else {
        panic!("{error}");
    };
    assert_eq!(named, address);
}

#[tokio::test]
async fn failures_inside_the_server_are_tried_again_but_not_for_ever() {
    for mood in [Mood::Panics, Mood::WrongLength(-1), Mood::WrongLength(1)] {
        let segment = FakeSegment::new(2, 2, mood);
        let server = server_with(std::slice::from_ref(&segment), server_options());
        let mut options = client_options();
        options.retry.max_interruptions = 2;
        let client = RemoteEvaluator::new(vec![Endpoint::in_process(server)], options).unwrap();
        let error = client.evaluate(&request_for(&segment, 0, 1), &mut ignore).await.unwrap_err();
        let Error::Resource(ResourceError::GaveUp { attempts: 3, last, .. }) = error else {
            panic!("{error}");
        };
        assert!(
            matches!(*last, Error::Peer(PeerFault::Refused { code: RefusalCode::Internal, .. })),
            "{last}"
        );
        assert_eq!(segment.n_running(), 0);
    }
}

#[tokio::test]
async fn final_refusals_are_not_tried_again() {
    let rejecting = FakeSegment::new(20, 2, Mood::RejectsAt(5000));
    let honest = FakeSegment::new(3, 2, Mood::Honest);
    let server = server_with(&[rejecting.clone(), honest.clone()], server_options());
    let client = in_process(&server);
    let wrong_plan = {
        let request = request_for(&honest, 1, 1);
        let mut header = *request.header();
        header.plan.0[0] ^= 1;
        let (payload, reply) = (request.payload().to_bytes().unwrap(), *request.reply_shape());
        protocol::client::PreparedRequest::new(header, payload, reply).unwrap()
    };
    let cases = [
        (wrong_plan, RefusalCode::UnknownPlan),
        (request_for(&honest, 9, 1), RefusalCode::UnknownSegment),
        (request_for(&rejecting, 1, 1), RefusalCode::WrongShape),
        (request_for(&rejecting, 0, 1), RefusalCode::MalformedPayload),
    ];
    for (request, expected) in cases {
        let error = client.evaluate(&request, &mut ignore).await.unwrap_err();
        let Error::Peer(PeerFault::Refused { code, .. }) = error else { panic!("{error}") };
        assert_eq!(code, expected);
    }
    assert_eq!(rejecting.begun.load(Ordering::SeqCst), 1);
    let request = request_for(&honest, 1, 2);
    assert!(client.evaluate(&request, &mut ignore).await.is_ok(), "and serves the next");
}

/// Stands between client and server and cuts the server's bytes off, for the first few connections.
pub struct Cutter {
    pub server: Server,
    pub n_connections: AtomicUsize,
    pub cuts: Vec<usize>,
}

impl Connect for Cutter {
    fn connect(&self) -> Connecting<'_> {
        let number = self.n_connections.fetch_add(1, Ordering::SeqCst);
        let limit = self.cuts.get(number).copied();
        let server = self.server.connect();
        Box::pin(async move {
            let (theirs, ours) = pipe();
            tokio::spawn(relay(ours, server, limit));
            Ok(theirs)
        })
    }
}

async fn relay(client: BoxedStream, server: BoxedStream, limit: Option<usize>) {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let up = async {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
        let _ = to_server.shutdown().await;
    };
    let down = async {
        match limit {
            Some(limit) => {
                let mut limited = (&mut from_server).take(limit as u64);
                let _ = tokio::io::copy(&mut limited, &mut to_client).await;
            }
            None => {
                let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
            }
        }
        let _ = to_client.shutdown().await;
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

#[tokio::test]
async fn a_reply_cut_short_anywhere_is_fetched_again() {
    let segment = FakeSegment::new(3, 8, Mood::Honest);
    let server = server_with(std::slice::from_ref(&segment), server_options());
    // In the greeting, in the admission, in a chunk, before the receipt, in the receipt.
    let cuts = vec![0, 3, 60, 120, 200, 5_000, 12_300, 12_400];
    let n_cuts = cuts.len();
    let cutter = Cutter { server, n_connections: AtomicUsize::new(0), cuts };
    let mut options = client_options();
    options.retry.max_interruptions = 100;
    let client = RemoteEvaluator::new(vec![Endpoint::custom(Arc::new(cutter))], options).unwrap();
    let request = request_for(&segment, 0, 3);
    let reply = client.evaluate(&request, &mut ignore).await.unwrap();
    assert!(is_right(&request, &reply.bytes));
    assert_eq!(reply.attempts as usize, n_cuts + 1);
}

#[tokio::test]
async fn without_patience_the_loss_itself_is_reported() {
    let segment = FakeSegment::new(3, 8, Mood::Honest);
    let server = server_with(std::slice::from_ref(&segment), server_options());
    let cutter = Cutter { server, n_connections: AtomicUsize::new(0), cuts: vec![5_000] };
    let mut options = client_options();
    options.retry = RetryPolicy::never();
    let client = RemoteEvaluator::new(vec![Endpoint::custom(Arc::new(cutter))], options).unwrap();
    let error = client.evaluate(&request_for(&segment, 0, 3), &mut ignore).await.unwrap_err();
    let Error::Resource(ResourceError::GaveUp { attempts: 1, last, .. }) = error else {
        panic!("{error}");
    };
    assert_eq!(last.to_string(), "the connection was lost while downloading the reply");
}
