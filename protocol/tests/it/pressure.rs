//! More than fits: memory, processors, threads and queues each hold only their own.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use protocol::error::{Error, PeerFault};
use protocol::limits::ServerLimits;
use protocol::message::{ClientMessage, RefusalCode, ServerMessage};
use protocol::server::ServerOptions;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::hand::Hand;
use crate::support::{
    FakeSegment, Gate, Mood, connection, eventually, ignore, in_process, is_right, request_for,
    server_options, server_with,
};

/// How soon whatever a cancelled request held must be free: a second, on a machine that does nothing else.
const SOON: Duration = Duration::from_secs(20);

fn options(change: impl FnOnce(&mut ServerLimits)) -> ServerOptions {
    let mut options = server_options();
    change(&mut options.limits);
    options
}

#[tokio::test]
async fn slow_uploads_hold_memory_and_nothing_else() {
    let segment = FakeSegment::new(9, 2, Mood::Honest);
    // One place at the processors, and more uploads than any pool has threads.
    let server = server_with(
        std::slice::from_ref(&segment),
        options(|limits| {
            limits.max_evaluations = 1;
            limits.max_connections = 700;
        }),
    );
    let mut hands = Vec::new();
    for number in 0..600 {
        let mut hand = Hand::greeted(&server).await;
        let request = request_for(&segment, 0, number);
        hand.admitted(&request).await;
        hand.upload(&request, 0..4096).await;
        hands.push(hand);
    }
    segment.until_running(600).await;
    let status = server.status();
    assert_eq!((status.requests_admitted, status.evaluations_running), (600, 0));
    assert_eq!(status.memory_declared_bytes, 600 * ((1 << 20) + 10 * 4096));
    let request = request_for(&segment, 0, 1000);
    let reply = in_process(&server).evaluate(&request, &mut ignore).await.unwrap();
    assert!(is_right(&request, &reply.bytes));
    assert_eq!(reply.attempts, 1);
    drop(hands);
    timeout(SOON, segment.until_running(0)).await.expect("freed soon");
    eventually(|| server.status().memory_declared_bytes == 0).await;
}

#[tokio::test]
async fn who_waits_for_the_processors_is_freed_at_once() {
    let gate = Arc::new(Gate::default());
    let segment = FakeSegment::new(2, 2, Mood::Held(Arc::clone(&gate)));
    let server =
        server_with(std::slice::from_ref(&segment), options(|limits| limits.max_evaluations = 1));
    let first = {
        let (client, request) = (in_process(&server), request_for(&segment, 0, 1));
        tokio::spawn(async move { client.evaluate(&request, &mut ignore).await })
    };
    eventually(|| server.status().evaluations_running == 1).await;
    let mut hand = Hand::greeted(&server).await;
    let request = request_for(&segment, 0, 2);
    hand.admitted(&request).await;
    hand.upload(&request, 0..2000).await;
    eventually(|| server.status().evaluations_waiting == 1).await;
    // The first one does not end before the gate opens: only the wait can.
    hand.say(&ClientMessage::Cancel { request_id: request.header().request_id }).await;
    let cancelled = async {
        loop {
            match hand.hear().await {
                Some(ServerMessage::Progress(_)) => {}
                other => return other,
            }
        }
    };
    let heard = timeout(SOON, cancelled).await.expect("soon");
    assert!(matches!(heard, Some(ServerMessage::Cancelled { .. })), "{heard:?}");
    let status = server.status();
    assert_eq!((status.evaluations_waiting, status.requests_admitted), (0, 1));
    assert_eq!(segment.n_running(), 1);
    gate.open();
    first.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_says_when_to_come_back() {
    let gate = Arc::new(Gate::default());
    let segment = FakeSegment::new(2, 2, Mood::Held(Arc::clone(&gate)));
    let mut options = options(|limits| {
        limits.max_requests = 1;
        limits.max_waiting = 1;
    });
    options.timeouts.admission = Duration::from_secs(600);
    let server = server_with(std::slice::from_ref(&segment), options);
    let mut waiting = JoinSet::new();
    for number in 0..2 {
        let (client, request) = (in_process(&server), request_for(&segment, 0, number));
        waiting.spawn(async move { client.evaluate(&request, &mut ignore).await.is_ok() });
    }
    eventually(|| server.status().requests_waiting == 1).await;
    let request = request_for(&segment, 0, 3);
    let error = connection(&server).await.evaluate(&request, &mut ignore).await.unwrap_err();
    let Error::Peer(PeerFault::Refused { code: RefusalCode::Busy, retry_after: Some(_) }) = error
    else {
        panic!("{error}");
    };
    gate.open();
    while let Some(served) = waiting.join_next().await {
        assert!(served.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_never_declares_more_than_the_limit() {
    const NEEDS: u64 = 3 << 20;
    let segment = FakeSegment::new(20, 20, Mood::Needs(NEEDS));
    let server = server_with(
        std::slice::from_ref(&segment),
        options(|limits| {
            limits.max_memory_bytes = limits.max_connections as u64 * (64 << 10) + (10 << 20);
        }),
    );
    let mut tasks = JoinSet::new();
    for number in 0..40 {
        let (client, segment) = (in_process(&server), segment.clone());
        tasks.spawn(async move {
            let request = request_for(&segment, 0, number);
            let reply = client.evaluate(&request, &mut ignore).await.unwrap();
            is_right(&request, &reply.bytes)
        });
    }
    let most = async {
        let mut most = 0;
        loop {
            let status = server.status();
            assert!(status.memory_declared_bytes <= status.memory_limit_bytes);
            most = most.max(segment.running.load(Ordering::SeqCst));
            if status.requests_admitted == 0 && segment.begun.load(Ordering::SeqCst) >= 40 {
                return most;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let most = timeout(Duration::from_secs(60), most).await.expect("all are served");
    assert!((1..=3).contains(&most), "{most} at the same time");
    while let Some(right) = tasks.join_next().await {
        assert!(right.unwrap());
    }
}

#[tokio::test]
async fn a_request_ends_at_its_deadline_whoever_is_waited_for() {
    let gate = Arc::new(Gate::default());
    let segment = FakeSegment::new(2, 2, Mood::Held(Arc::clone(&gate)));
    let mut options = options(|limits| limits.max_evaluations = 1);
    options.timeouts.request = Duration::from_millis(300);
    let server = server_with(std::slice::from_ref(&segment), options);
    let mut hands = Vec::new();
    for number in 0..2 {
        let mut hand = Hand::greeted(&server).await;
        let request = request_for(&segment, 0, number);
        hand.admitted(&request).await;
        hand.upload(&request, 0..2000).await;
        hands.push(hand);
    }
    for hand in &mut hands {
        let refusal = loop {
            match hand.hear().await {
                Some(ServerMessage::Progress(_)) => {}
                other => break other,
            }
        };
        let Some(ServerMessage::Refused(refusal)) = refusal else { panic!("{refusal:?}") };
        assert_eq!(refusal.code, RefusalCode::TooSlow);
    }
    gate.open();
    segment.until_running(0).await;
}

#[tokio::test]
async fn a_reply_that_nobody_takes_ends_by_the_average() {
    // 6 MB of reply into a pipe that holds 256 KiB; every frame is taken in time, and no more.
    let segment = FakeSegment::new(2, 4000, Mood::Honest);
    let mut options = server_options();
    options.timeouts.stall = Duration::from_millis(500);
    options.timeouts.min_download_bytes_per_second = 1 << 40;
    let server = server_with(std::slice::from_ref(&segment), options);
    let mut hand = Hand::greeted(&server).await;
    let request = request_for(&segment, 0, 1);
    hand.admitted(&request).await;
    hand.upload(&request, 0..2000).await;
    let mut frames = 0;
    while let Ok(Some(_)) = hand.reader.next().await {
        frames += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(frames < 1400, "{frames} frames");
    segment.until_running(0).await;
}
