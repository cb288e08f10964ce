//! Clients that take more than their share: of answers, places, memory, connections, lookups.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use protocol::client::{Connection, PreparedRequest};
use protocol::frame::Frame;
use protocol::identifiers::Digest;
use protocol::identity::Identity;
use protocol::limits::ClientTimeouts;
use protocol::message::{
    ClientMessage, EvaluateHeader, ModelCard, Refusal, RefusalCode, ServerMessage,
};
use protocol::server::Server;
use protocol::server::service::{PlanHost, SegmentService};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::hand::Hand;
use crate::support::{
    FakeHost, FakeSegment, Gate, Loopback, Mood, PATIENCE, PLAN, eventually, figure, host, ignore,
    in_process, is_right, label, request_for, server_options, server_with,
};

/// A hand whose request is complete and that reads nothing from then on.
async fn uploaded(server: &Server, request: &PreparedRequest) -> Hand {
    let mut hand = Hand::greeted(server).await;
    hand.admitted(request).await;
    let n_bytes = usize::try_from(request.header().payload_bytes).unwrap();
    hand.upload(request, 0..n_bytes).await;
    hand
}

/// Read a whole reply; its payload bytes.
async fn take_reply(hand: &mut Hand) -> Vec<u8> {
    let mut payload = Vec::new();
    loop {
        match hand.reader.next().await.unwrap().unwrap() {
            Frame::Payload(frame) => payload.extend_from_slice(&frame.data),
            Frame::Control(bytes) => match ServerMessage::decode(&bytes).unwrap() {
                ServerMessage::Receipt(_) => return payload,
                ServerMessage::Progress(_) | ServerMessage::ReplyHeader(_) => {}
                other => panic!("{other:?}"),
            },
        }
    }
}

#[tokio::test]
async fn who_asks_and_does_not_listen_is_answered_no_further() {
    let segment = FakeSegment::new(2, 2, Mood::Honest);
    let server = server_with(std::slice::from_ref(&segment), server_options());
    let mut hand = Hand::greeted(&server).await;
    // Each is refused at once, and would be for ever: more than the pipes hold, either way.
    let empty = EvaluateHeader { n_ciphertexts: 0, ..*request_for(&segment, 0, 1).header() };
    let question = ClientMessage::Evaluate(empty).encode().unwrap();
    let n_questions = 40_000;
    (0..n_questions).for_each(|_| hand.writer.push(Frame::Control(question.clone())));
    let early = timeout(Duration::from_secs(3), hand.writer.flush()).await;
    assert!(early.is_err(), "the server reads on and keeps every answer");
    let answered = figure(&server, "securedl_refusals_total{code=\"wrong_shape\"}");
    assert!(answered < f64::from(n_questions) / 2.0, "{answered} answers wait");

    // Who listens is answered, in full.
    let Hand { reader, writer } = &mut hand;
    let listen = async {
        for _ in 0..n_questions {
            let Some(Frame::Control(bytes)) = reader.next().await.unwrap() else { panic!() };
            let refused = ServerMessage::Refused(Refusal::new(RefusalCode::WrongShape));
            assert_eq!(ServerMessage::decode(&bytes).unwrap(), refused);
        }
    };
    let (flushed, ()) = tokio::join!(writer.flush(), listen);
    flushed.unwrap();
}

#[tokio::test]
async fn no_second_plan_is_fetched_while_the_first_waits() {
    let plan: Arc<[u8]> = vec![5; 1 << 20].into();
    let host = FakeHost { segments: Vec::new(), public_plan: Arc::clone(&plan) };
    let identity = Identity::from_seed(&[9; 32]);
    let server = Server::new(Arc::new(host), identity, server_options()).unwrap();
    let fetched = "securedl_requests_total{kind=\"fetch_plan\",outcome=\"fetched\"}";
    let mut hand = Hand::greeted(&server).await;
    let question = ClientMessage::FetchPlan { plan: PLAN };
    hand.say(&question).await;
    eventually(|| figure(&server, fetched) == 1.0).await;
    hand.say(&question).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(figure(&server, fetched), 1.0, "the first is larger than the pipe, and not taken");
    for _ in 0..2 {
        let Some(ServerMessage::Plan(part)) = hand.hear().await else { panic!("a plan") };
        assert_eq!(part.plan.0[..], plan[..]);
    }
    assert_eq!(figure(&server, fetched), 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_that_nobody_takes_holds_memory_and_no_place() {
    let large = FakeSegment::new(2, 4000, Mood::Honest);
    let small = FakeSegment::new(2, 2, Mood::Honest);
    let mut options = server_options();
    options.limits.max_evaluations = 1;
    let server = server_with(&[large.clone(), small.clone()], options);
    let request = request_for(&large, 0, 1);
    let mut hand = uploaded(&server, &request).await;
    eventually(|| large.produced.load(Ordering::SeqCst) as u64 == large.reply_bytes()).await;
    eventually(|| server.status().evaluations_running == 0).await;
    // All of it is computed; what the pipe does not hold is counted.
    let status = server.status();
    let waiting = large.reply_bytes() - (300 << 10);
    assert_eq!(status.requests_admitted, 1);
    assert!(status.memory_declared_bytes >= waiting, "{status:?}");

    let other = request_for(&small, 1, 2);
    let reply = in_process(&server).evaluate(&other, &mut ignore).await.unwrap();
    assert!(is_right(&other, &reply.bytes) && reply.attempts == 1);

    assert!(is_right(&request, &take_reply(&mut hand).await));
    eventually(|| server.status().memory_declared_bytes == 0).await;
}

#[tokio::test]
async fn memory_is_held_until_the_last_byte_is_taken() {
    // A little more than the pipe of 256 KiB takes: everything is on its way, and some of it waits. How
    // much the pipe has taken of messages about progress depends on the machine.
    let segment = FakeSegment::new(2, 177, Mood::Honest);
    let server = server_with(std::slice::from_ref(&segment), server_options());
    let request = request_for(&segment, 0, 1);
    let mut hand = uploaded(&server, &request).await;
    let computed = async |n_replies: u64| {
        let produced = || segment.produced.load(Ordering::SeqCst) as u64;
        eventually(|| produced() == n_replies * segment.reply_bytes()).await;
        eventually(|| server.status().evaluations_running == 0).await;
    };
    computed(1).await;
    let status = server.status();
    assert_eq!(status.requests_admitted, 1);
    assert!(status.memory_declared_bytes > 0);
    assert!(is_right(&request, &take_reply(&mut hand).await));
    eventually(|| server.status().memory_declared_bytes == 0).await;

    // Or until the connection is gone.
    let hand = uploaded(&server, &request).await;
    computed(2).await;
    assert_eq!(server.status().requests_admitted, 1);
    drop(hand);
    eventually(|| server.status().requests_admitted == 0).await;
}

#[tokio::test]
async fn one_address_has_only_so_many_connections() {
    let segment = FakeSegment::new(2, 2, Mood::Honest);
    let mut options = server_options();
    options.limits.max_connections_per_address = 2;
    let loopback =
        Loopback::start(server_with(std::slice::from_ref(&segment), options.clone())).await;
    let open = async || {
        let stream = loopback.endpoint().connect(PATIENCE).await?;
        Connection::open(stream, &label("client"), ClientTimeouts::default()).await
    };
    let first = open().await.unwrap();
    let _second = open().await.unwrap();
    // Before the handshake: no byte of it comes.
    let mut third = TcpStream::connect(loopback.address).await.unwrap();
    let ended = timeout(PATIENCE, third.read(&mut [0; 1])).await.unwrap();
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    first.close().await;
    let started = std::time::Instant::now();
    while open().await.is_err() {
        assert!(started.elapsed() < PATIENCE, "the place is not given back");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Looks plans up for as long as its gate is closed.
struct SlowLookups {
    host: Arc<FakeHost>,
    gate: Arc<Gate>,
    n_lookups: AtomicUsize,
}

impl PlanHost for SlowLookups {
    fn models(&self) -> Vec<ModelCard> {
        self.host.models()
    }

    fn public_plan(&self, plan: &Digest) -> Option<Arc<[u8]>> {
        self.host.public_plan(plan)
    }

    fn segment(&self, plan: &Digest, segment: u32) -> Result<Arc<dyn SegmentService>, Refusal> {
        self.n_lookups.fetch_add(1, Ordering::SeqCst);
        self.gate.wait();
        self.host.segment(plan, segment)
    }
}

#[tokio::test]
async fn a_plan_that_is_not_there_costs_no_lookup() {
    let segment = FakeSegment::new(2, 2, Mood::Honest);
    let gate = Arc::new(Gate::default());
    let host = Arc::new(SlowLookups {
        host: host(std::slice::from_ref(&segment)),
        gate: Arc::clone(&gate),
        n_lookups: AtomicUsize::new(0),
    });
    let identity = Identity::from_seed(&[9; 32]);
    let dynamic = Arc::clone(&host) as Arc<dyn PlanHost>;
    let server = Server::new(dynamic, identity, server_options()).unwrap();
    // More than look up at the same time.
    let mut waiting = Vec::new();
    for number in 0..8 {
        let request = request_for(&segment, 0, number);
        let mut hand = Hand::greeted(&server).await;
        hand.say(&ClientMessage::Evaluate(*request.header())).await;
        waiting.push(hand);
    }
    eventually(|| host.n_lookups.load(Ordering::SeqCst) >= 4).await;
    let unknown = EvaluateHeader { plan: Digest([1; 32]), ..*request_for(&segment, 0, 9).header() };
    let mut hand = Hand::greeted(&server).await;
    hand.say(&ClientMessage::Evaluate(unknown)).await;
    let refused = ServerMessage::Refused(Refusal::new(RefusalCode::UnknownPlan));
    assert_eq!(hand.hear().await, Some(refused.clone()));
    hand.say(&ClientMessage::FetchPlan { plan: unknown.plan }).await;
    assert_eq!(hand.hear().await, Some(refused));
    gate.open();
    for hand in &mut waiting {
        assert!(matches!(hand.hear().await, Some(ServerMessage::Admitted { .. })));
    }
}
