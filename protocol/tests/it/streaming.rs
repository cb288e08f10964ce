//! Requests that grow while they are sent, replies that are taken while they arrive.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use protocol::client::endpoint::{Connect, Connecting};
use protocol::client::{
    Delivery, Endpoint, PayloadWriter, PreparedRequest, RemoteEvaluator, ReplyEvent, ReplySender,
    ReplyStream, RequestProgress, Stage, reply_queue,
};
use protocol::error::{Error, ResourceError, Result};
use protocol::limits::CONNECTION_BYTES;
use protocol::server::Server;
use protocol::transport::pipe;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::outages::Cutter;
use crate::support::{
    FakeSegment, Gate, Mood, client_options, eventually, expected_reply, ignore, in_process,
    is_right, request_for, server_options, server_with,
};

/// A request that will have the payload of `request_for`, its writer, and the payload.
fn growing(segment: &FakeSegment, number: u32) -> (PreparedRequest, PayloadWriter, Bytes) {
    let whole = request_for(segment, 0, number);
    let (request, writer) =
        PreparedRequest::growing(*whole.header(), *whole.reply_shape()).unwrap();
    (request, writer, whole.payload().to_bytes().unwrap())
}

/// The pieces since the last restart, the number of restarts, and whether the reply is verified.
async fn take_all(mut stream: ReplyStream) -> (Vec<u8>, usize, bool) {
    let (mut bytes, mut n_restarts) = (Vec::new(), 0);
    while let Some(event) = stream.next().await {
        match event {
            ReplyEvent::Piece(piece) => bytes.extend_from_slice(&piece),
            ReplyEvent::Restart => {
                bytes.clear();
                n_restarts += 1;
            }
            ReplyEvent::Verified(_) => {
                assert!(stream.next().await.is_none(), "nothing follows");
                return (bytes, n_restarts, true);
            }
        }
    }
    (bytes, n_restarts, false)
}

async fn exchange(
    client: &RemoteEvaluator,
    request: &PreparedRequest,
    sink: ReplySender,
) -> Result<Delivery> {
    client.evaluate_streaming(request, sink, &mut ignore).await
}

fn client_of(server: Server, connect: impl FnOnce(Server) -> Endpoint) -> RemoteEvaluator {
    let mut options = client_options();
    options.retry.max_interruptions = 100;
    RemoteEvaluator::new(vec![connect(server)], options).unwrap()
}

#[tokio::test]
async fn a_payload_may_grow_in_any_steps_while_it_is_sent() {
    let segment = FakeSegment::new(30, 20, Mood::Honest);
    let server = server_with(std::slice::from_ref(&segment), server_options());
    let client = in_process(&server);
    for (number, step) in [1, 4095, 4096, 4097, 10_000, 30_000].into_iter().enumerate() {
        let (request, mut writer, mut payload) = growing(&segment, number as u32);
        let (sink, stream) = reply_queue(2);
        let write = async {
            // The server has what exists before more of it does.
            eventually(|| server.status().requests_admitted == 1).await;
            while !payload.is_empty() {
                writer.append(payload.split_to(step.min(payload.len()))).unwrap();
                tokio::task::yield_now().await;
            }
            writer.finish().unwrap();
        };
        let (delivery, (bytes, n_restarts, is_verified), ()) =
            tokio::join!(exchange(&client, &request, sink), take_all(stream), write);
        assert_eq!(delivery.unwrap().receipt.request_hash(), &request.hash().unwrap());
        assert!(is_right(&request, &bytes) && is_verified && n_restarts == 0, "step {step}");
    }
}

#[tokio::test]
async fn a_payload_that_ends_early_ends_the_request_for_both_sides() {
    let segment = FakeSegment::new(30, 20, Mood::Honest);
    let server = server_with(std::slice::from_ref(&segment), server_options());
    let client = in_process(&server);
    for n_bytes in [0, 100, 4096, 20_000, 29_999] {
        let (request, mut writer, payload) = growing(&segment, 1);
        let (sink, stream) = reply_queue(2);
        let fail = async {
            eventually(|| server.status().requests_admitted == 1).await;
            writer.append(payload.slice(..n_bytes)).unwrap();
            drop(writer);
        };
        let (delivery, (bytes, _, is_verified), ()) =
            tokio::join!(exchange(&client, &request, sink), take_all(stream), fail);
        let error = delivery.unwrap_err();
        let Error::Resource(ResourceError::PayloadAbandoned { available, .. }) = error else {
            panic!("{error}");
        };
        assert_eq!(available, n_bytes as u64);
        assert!(bytes.is_empty() && !is_verified);
        eventually(|| server.status().requests_admitted == 0).await;
        assert_eq!(segment.n_running(), 0);
    }
    let request = request_for(&segment, 0, 2);
    assert!(client.evaluate(&request, &mut ignore).await.is_ok(), "the client goes on");
}

#[tokio::test]
async fn a_payload_whose_writer_never_began_is_an_error_at_once() {
    let segment = FakeSegment::new(3, 2, Mood::Honest);
    let client = in_process(&server_with(std::slice::from_ref(&segment), server_options()));
    let (request, writer, _) = growing(&segment, 1);
    drop(writer);
    let error = client.evaluate(&request, &mut ignore).await.unwrap_err();
    assert!(matches!(error, Error::Resource(ResourceError::PayloadAbandoned { .. })), "{error}");
}

/// Cuts the client's bytes off, for the first few connections.
struct UploadCutter {
    server: Server,
    n_connections: Arc<AtomicUsize>,
    cuts: Vec<usize>,
}

impl Connect for UploadCutter {
    fn connect(&self) -> Connecting<'_> {
        let number = self.n_connections.fetch_add(1, Ordering::SeqCst);
        let limit = self.cuts.get(number).copied().unwrap_or(usize::MAX);
        let server = self.server.connect();
        Box::pin(async move {
            let (theirs, ours) = pipe();
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = tokio::io::split(ours);
                let (mut from_server, mut to_server) = tokio::io::split(server);
                let mut limited = (&mut from_client).take(limit as u64);
                tokio::select! {
                    _ = tokio::io::copy(&mut limited, &mut to_server) => {}
                    _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
                }
                let _ = to_client.shutdown().await;
            });
            Ok(theirs)
        })
    }
}

#[tokio::test]
async fn an_upload_cut_anywhere_starts_over_with_the_same_bytes() {
    let segment = FakeSegment::new(30, 20, Mood::Honest);
    let server = server_with(std::slice::from_ref(&segment), server_options());
    let n_connections = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&n_connections);
    // In the greeting, in the header, in the first chunk, at its end, later, at the very end.
    let cuts = vec![10, 100, 1_000, 4_300, 17_000, 30_200];
    let n_cuts = cuts.len();
    let client = client_of(server, |server| {
        Endpoint::custom(Arc::new(UploadCutter { server, n_connections, cuts }))
    });
    let (request, mut writer, mut payload) = growing(&segment, 5);
    let (sink, stream) = reply_queue(2);
    let write = async {
        // A few chunks per attempt, so that attempts begin with a payload that still grows.
        for attempt in 1..=n_cuts {
            eventually(|| counter.load(Ordering::SeqCst) >= attempt).await;
            writer.append(payload.split_to(4_900)).unwrap();
        }
        eventually(|| counter.load(Ordering::SeqCst) > 3).await;
        writer.append(payload).unwrap();
    };
    let (delivery, (bytes, n_restarts, is_verified), ()) =
        tokio::join!(exchange(&client, &request, sink), take_all(stream), write);
    assert_eq!(delivery.unwrap().attempts as usize, n_cuts + 1);
    assert!(is_right(&request, &bytes) && is_verified);
    assert_eq!(n_restarts, 0, "no attempt before the last delivered anything");
}

#[tokio::test]
async fn a_download_cut_anywhere_tells_the_sink_to_start_over() {
    let segment = FakeSegment::new(3, 8, Mood::Honest);
    let server = server_with(std::slice::from_ref(&segment), server_options());
    // Before the first chunk, after it, after the second, before the receipt.
    let cuts = vec![200, 4_500, 9_000, 12_350];
    let client = client_of(server, |server| {
        let n_connections = AtomicUsize::new(0);
        Endpoint::custom(Arc::new(Cutter { server, n_connections, cuts }))
    });
    let request = request_for(&segment, 0, 3);
    let (sink, stream) = reply_queue(1);
    let (delivery, (bytes, n_restarts, is_verified)) =
        tokio::join!(exchange(&client, &request, sink), take_all(stream));
    assert_eq!(delivery.unwrap().attempts, 5);
    assert!(is_right(&request, &bytes) && is_verified);
    assert_eq!(n_restarts, 3, "one for each attempt that delivered something");
}

#[tokio::test]
async fn a_taker_that_leaves_changes_nothing_for_the_server() {
    let segment = FakeSegment::new(3, 400, Mood::Honest);
    let client = in_process(&server_with(std::slice::from_ref(&segment), server_options()));
    let request = request_for(&segment, 0, 3);
    let (sink, mut stream) = reply_queue(1);
    let leave = async move {
        assert!(matches!(stream.next().await, Some(ReplyEvent::Piece(_))));
    };
    let (delivery, ()) = tokio::join!(exchange(&client, &request, sink), leave);
    assert_eq!(delivery.unwrap().attempts, 1);
    assert_eq!(segment.produced.load(Ordering::SeqCst) as u64, u64::from(segment.n_outputs) * 1500);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_taker_holds_back_the_server_while_there_is_no_memory_for_its_reply() {
    let segment = FakeSegment::new(3, 3000, Mood::Honest);
    // Room for one request as it declares itself, and none for more of its reply.
    let mut options = server_options();
    options.limits.max_memory_bytes =
        options.limits.max_connections as u64 * CONNECTION_BYTES + (1 << 20) + 12 * 4096;
    let client = in_process(&server_with(std::slice::from_ref(&segment), options));
    let request = request_for(&segment, 0, 3);
    // Two pipes of the process hold 256 KiB each way, one counts; then chunks of 4 KiB in queues.
    let bound = (256 << 10) + 32 * 4096;
    let (sink, mut stream) = reply_queue(2);
    let segment_of_taker = segment.clone();
    let take = async move {
        let produced = || segment_of_taker.produced.load(Ordering::SeqCst);
        let mut taken = Vec::new();
        while let Some(event) = stream.next().await {
            if let ReplyEvent::Piece(piece) = event {
                // Let the server run ahead as far as it can get.
                let mut before = usize::MAX;
                while produced() != before {
                    before = produced();
                    for _ in 0..50 {
                        tokio::task::yield_now().await;
                    }
                }
                let ahead = produced() - taken.len();
                assert!(ahead <= bound, "{ahead} bytes ahead");
                taken.extend_from_slice(&piece);
            }
        }
        taken
    };
    let (delivery, taken) = tokio::join!(exchange(&client, &request, sink), take);
    delivery.unwrap();
    let payload = request.payload().to_bytes().unwrap();
    assert_eq!(taken, expected_reply(&payload, &request.header().seed, 3000));
    assert!(taken.len() > 4 * bound, "or the bound proves nothing");
}

#[tokio::test]
async fn a_request_can_be_cancelled_while_nobody_takes_its_reply() {
    let segment = FakeSegment::new(3, 3000, Mood::Honest);
    let client = in_process(&server_with(std::slice::from_ref(&segment), server_options()));
    let request = request_for(&segment, 0, 3);
    let (sink, stream) = reply_queue(1);
    let mut stop = |progress: &RequestProgress| match progress.received_bytes {
        0..8192 => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    };
    let error = client.evaluate_streaming(&request, sink, &mut stop).await.unwrap_err();
    assert!(matches!(error, Error::Resource(ResourceError::Cancelled)), "{error}");
    segment.until_running(0).await;
    drop(stream);
}

#[tokio::test]
async fn a_request_can_be_cancelled_while_its_payload_grows() {
    let gate = Arc::new(Gate::default());
    let segment = FakeSegment::new(30, 3, Mood::Held(gate));
    let client = in_process(&server_with(std::slice::from_ref(&segment), server_options()));
    let (request, mut writer, payload) = growing(&segment, 3);
    writer.append(payload.slice(..10_000)).unwrap();
    let mut stop = |progress: &RequestProgress| match progress.stage {
        Stage::Uploading if progress.sent_bytes == 8192 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let error = client.evaluate(&request, &mut stop).await.unwrap_err();
    assert!(matches!(error, Error::Resource(ResourceError::Cancelled)), "{error}");
    segment.until_running(0).await;
    drop(writer);
}
