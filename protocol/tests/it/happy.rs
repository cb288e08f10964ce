//! Requests that work.

use std::ops::ControlFlow;

use protocol::client::{BlockingEvaluator, Endpoint, Stage};
use protocol::error::{Error, PeerFault};
use protocol::identifiers::Digest;
use protocol::message::RefusalCode;

use crate::support::{
    FakeSegment, Loopback, Mood, PLAN, client_options, ignore, in_process, is_right, request_for,
    server_options, server_with,
};

fn two_segments() -> [FakeSegment; 2] {
    [FakeSegment::new(40, 30, Mood::Honest), FakeSegment::new(3, 1, Mood::Honest)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_over_tls_are_answered_with_a_signed_receipt() {
    let segments = two_segments();
    let server = server_with(&segments, server_options());
    let identity = server.identity();
    let loopback = Loopback::start(server).await;
    let client = loopback.client();
    let (mut stages, mut last_sent, mut last_received) = (Vec::new(), 0, 0);
    for number in 0..4 {
        let index = number % 2;
        let request = request_for(&segments[index as usize], index, number);
        let reply = client
            .evaluate(&request, &mut |progress| {
                stages.push(progress.stage);
                (last_sent, last_received) = (progress.sent_bytes, progress.received_bytes);
                ControlFlow::Continue(())
            })
            .await
            .unwrap();
        assert!(is_right(&request, &reply.bytes), "request {number}");
        assert_eq!(reply.attempts, 1);
        let receipt = reply.receipt.receipt();
        assert_eq!(receipt.evaluate_micros, 1234);
        assert_eq!(receipt.request_hash, request.hash().unwrap());
        assert_eq!(*reply.receipt.identity(), identity);
        assert_eq!(last_sent, request.header().payload_bytes);
        assert_eq!(last_received, request.reply_shape().payload_bytes);
    }
    for stage in [Stage::Uploading, Stage::Evaluating, Stage::AwaitingReceipt] {
        assert!(stages.contains(&stage), "{stage}");
    }
    let traffic = client.traffic();
    assert!(traffic.sent_bytes > 2 * 43_000 && traffic.sent_bytes < 2 * 43_000 + 4_000);
    assert!(traffic.received_bytes > 2 * 46_500 && traffic.received_bytes < 2 * 46_500 + 8_000);
    client.close().await;
    loopback.shut_down().await;
}

#[tokio::test]
async fn identical_requests_get_identical_replies_in_process_and_over_tls() {
    let segments = two_segments();
    let server = server_with(&segments, server_options());
    let loopback = Loopback::start(server.clone()).await;
    let request = request_for(&segments[0], 0, 5);
    let over_pipe = in_process(&server).evaluate(&request, &mut ignore).await.unwrap();
    let over_tls = loopback.client().evaluate(&request, &mut ignore).await.unwrap();
    assert_eq!(over_pipe, over_tls, "receipt and signature included");
}

#[tokio::test]
async fn every_chunk_size_carries_the_same_reply() {
    let segment = FakeSegment::new(7, 5, Mood::Honest);
    for chunk_bytes in [1, 7, 999, 1000, 7500, 1 << 20] {
        for piece in [1, 1500, 1 << 20] {
            let segment = FakeSegment { piece, ..segment.clone() };
            let mut options = server_options();
            options.limits.chunk_bytes = chunk_bytes;
            let client = in_process(&server_with(std::slice::from_ref(&segment), options));
            let request = request_for(&segment, 0, 1);
            let reply = client.evaluate(&request, &mut ignore).await.unwrap();
            assert!(is_right(&request, &reply.bytes), "chunk {chunk_bytes}, piece {piece}");
        }
    }
}

#[tokio::test]
async fn models_and_plans_can_be_asked_for() {
    let client = in_process(&server_with(&two_segments(), server_options()));
    let models = client.list_models().await.unwrap();
    assert_eq!(models.len(), 1);
    assert_eq!(models[0].plan, PLAN);
    assert_eq!(models[0].n_segments, 2);
    let plan = client.fetch_plan(&PLAN).await.unwrap();
    assert_eq!(plan.plan.0.len(), models[0].public_plan_bytes as usize);
    let error = client.fetch_plan(&Digest([0; 32])).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::Peer(PeerFault::Refused { code: RefusalCode::UnknownPlan, retry_after: None })
        ),
        "{error}"
    );
    // The connection is still good.
    assert_eq!(client.fetch_plan(&PLAN).await.unwrap(), plan);
}

#[test]
fn the_blocking_client_works_from_several_threads() {
    let segments = two_segments();
    let server = server_with(&segments, server_options());
    let client =
        BlockingEvaluator::new(vec![Endpoint::in_process(server)], client_options()).unwrap();
    assert_eq!(client.list_models().unwrap().len(), 1);
    assert_eq!(client.fetch_plan(&PLAN).unwrap().plan.0.len(), 3000);
    std::thread::scope(|scope| {
        for number in 0..6 {
            let (client, segment) = (&client, &segments[0]);
            scope.spawn(move || {
                let request = request_for(segment, 0, number);
                let reply = client.evaluate(&request, &mut ignore).unwrap();
                assert!(is_right(&request, &reply.bytes));
            });
        }
    });
    assert!(client.traffic().sent_bytes > 6 * 40_000);
}
