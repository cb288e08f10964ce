//! Peers that follow no protocol, or follow it too slowly. The server survives all of them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use protocol::client::Connection;
use protocol::error::{Error, LinkError, Malformed, PeerFault};
use protocol::frame::{Frame, PayloadFrame};
use protocol::limits::{ClientTimeouts, ServerTimeouts};
use protocol::message::{ClientMessage, EvaluateHeader, Refusal, RefusalCode, ServerMessage};
use protocol::server::service::SegmentService;
use protocol::server::{Server, ServerOptions};
use protocol::transport::pipe;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::hand::Hand;
use crate::support::{
    FakeSegment, Loopback, Mood, PATIENCE, eventually, ignore, in_process, is_right, label,
    request_for, server_options, server_with,
};

/// What an impatient server does not wait longer for.
const SHORT: Duration = Duration::from_millis(250);

/// Options of a server that is impatient in one respect.
fn impatient(change: impl FnOnce(&mut ServerTimeouts)) -> ServerOptions {
    let mut options = server_options();
    change(&mut options.timeouts);
    options
}

async fn still_serves(server: &Server, segment: &FakeSegment) {
    let request = request_for(segment, 0, 99);
    let reply = in_process(server).evaluate(&request, &mut ignore).await.unwrap();
    assert!(is_right(&request, &reply.bytes));
}

fn setup(options: ServerOptions) -> (Server, FakeSegment) {
    let segment = FakeSegment::new(5, 4, Mood::Honest);
    (server_with(std::slice::from_ref(&segment), options), segment)
}

#[tokio::test]
async fn bytes_that_are_no_frames_end_the_connection_with_a_reason() {
    let (server, segment) = setup(server_options());
    let cases: [(&str, Vec<u8>, RefusalCode); 6] = [
        ("oversize frame", u32::MAX.to_le_bytes().to_vec(), RefusalCode::MalformedMessage),
        ("payload-sized frame before admission", vec![0, 16, 0, 0], RefusalCode::MalformedMessage),
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n".to_vec(), RefusalCode::MalformedMessage),
        ("unknown kind", vec![1, 0, 0, 0, 7], RefusalCode::MalformedMessage),
        ("empty frame", vec![0, 0, 0, 0], RefusalCode::MalformedMessage),
        ("version 1", vec![7, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0], RefusalCode::UnsupportedVersion),
    ];
    for (name, bytes, code) in cases {
        println!("{name}");
        let mut stream = server.connect();
        stream.write_all(&bytes).await.unwrap();
        Hand::of(stream).expect_refusal(code).await;
    }
    still_serves(&server, &segment).await;
}

#[tokio::test]
async fn garbage_on_the_tls_port_harms_nobody() {
    let (server, segment) = setup(server_options());
    let loopback = Loopback::start(server.clone()).await;
    for garbage in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 0xff, 0xff, 1], &[], &[0xff; 5000]]
    {
        let mut socket = TcpStream::connect(loopback.address).await.unwrap();
        socket.write_all(garbage).await.unwrap();
        drop(socket);
    }
    let request = request_for(&segment, 0, 1);
    let reply = loopback.client().evaluate(&request, &mut ignore).await.unwrap();
    assert!(is_right(&request, &reply.bytes));
    loopback.shut_down().await;
}

#[tokio::test]
async fn silence_is_limited_in_every_phase() {
    let (server, _) = setup(impatient(|timeouts| timeouts.handshake = SHORT));
    Hand::of(server.connect()).expect_refusal(RefusalCode::TooSlow).await;

    let (server, _) = setup(impatient(|timeouts| timeouts.idle = SHORT));
    let mut idle = Hand::greeted(&server).await;
    assert_eq!(idle.hear().await, None, "an idle connection is closed without a word");

    let (server, segment) = setup(impatient(|timeouts| timeouts.stall = SHORT));
    let header = *request_for(&segment, 0, 1).header();
    let mut uploading = Hand::greeted(&server).await;
    uploading.say(&ClientMessage::Evaluate(header)).await;
    assert!(matches!(uploading.hear().await, Some(ServerMessage::Admitted { .. })));
    uploading.expect_refusal(RefusalCode::TooSlow).await;
    segment.until_running(0).await;
    still_serves(&server, &segment).await;
}

#[tokio::test]
async fn a_trickle_of_bytes_does_not_hold_a_place_for_long() {
    let (server, segment) = setup(impatient(|timeouts| {
        timeouts.stall = Duration::from_secs(2);
        timeouts.min_upload_bytes_per_second = 1 << 30;
    }));
    let header = *request_for(&segment, 0, 1).header();
    let mut hand = Hand::greeted(&server).await;
    hand.say(&ClientMessage::Evaluate(header)).await;
    assert!(matches!(hand.hear().await, Some(ServerMessage::Admitted { .. })));
    let mut offset = 0;
    // One byte every few milliseconds never stalls; the whole would take longer than a minute.
    let refused = loop {
        let tag = header.request_id.tag();
        hand.writer.push(Frame::Payload(PayloadFrame { tag, offset, data: vec![0].into() }));
        let _ = hand.writer.flush().await;
        offset += 1;
        assert!(offset < header.payload_bytes, "it was taken to its end");
        if let Ok(heard) = timeout(Duration::from_millis(15), hand.reader.next()).await {
            break heard.unwrap().unwrap();
        }
    };
    assert!(offset > 1, "or nothing trickled");
    let too_slow = ServerMessage::Refused(Refusal::new(RefusalCode::TooSlow));
    assert_eq!(refused, Frame::Control(too_slow.encode().unwrap()));
    segment.until_running(0).await;
    still_serves(&server, &segment).await;
}

#[tokio::test]
async fn a_client_that_takes_no_reply_is_dropped() {
    let segment = FakeSegment::new(5, 2000, Mood::Honest);
    let options = impatient(|timeouts| timeouts.stall = Duration::from_secs(1));
    let server = server_with(std::slice::from_ref(&segment), options);
    let request = request_for(&segment, 0, 1);
    let mut hand = Hand::greeted(&server).await;
    hand.say(&ClientMessage::Evaluate(*request.header())).await;
    assert!(matches!(hand.hear().await, Some(ServerMessage::Admitted { .. })));
    hand.upload(&request, 0..5000).await;
    // The reply is larger than every buffer on the way; nobody reads it. The hand stays.
    eventually(|| segment.begun.load(Ordering::SeqCst) == 1).await;
    eventually(|| server.status().connections == 0).await;
    let status = server.status();
    assert_eq!((status.requests_admitted, status.memory_declared_bytes), (0, 0));
    assert_eq!(segment.n_running(), 0);
    let mut payload_bytes = 0;
    while let Ok(Some(frame)) = hand.reader.next().await {
        payload_bytes += frame.wire_bytes();
    }
    assert!(payload_bytes < segment.reply_bytes(), "the rest was not sent");
}

#[tokio::test]
async fn a_refusal_in_mid_upload_reaches_the_client() {
    let segment = FakeSegment::new(3000, 4, Mood::RejectsAt(100_000));
    let server = server_with(std::slice::from_ref(&segment), server_options());
    let loopback = Loopback::start(server).await;
    let request = request_for(&segment, 0, 1);
    for _ in 0..5 {
        let error = loopback.client().evaluate(&request, &mut ignore).await.unwrap_err();
        let Error::Peer(PeerFault::Refused { code: RefusalCode::MalformedPayload, .. }) = error
        else {
            panic!("{error}");
        };
    }
    assert_eq!(segment.begun.load(Ordering::SeqCst), 5, "one attempt each");
    loopback.shut_down().await;
}

#[tokio::test]
async fn requests_without_content_are_refused() {
    let (server, segment) = setup(server_options());
    let honest = *request_for(&segment, 0, 1).header();
    let wrong = [
        EvaluateHeader { n_ciphertexts: 0, ..honest },
        EvaluateHeader { payload_bytes: 0, ..honest },
        EvaluateHeader { payload_bytes: u64::MAX, ..honest },
        EvaluateHeader { n_ciphertexts: 6, ..honest },
    ];
    let mut hand = Hand::greeted(&server).await;
    for header in wrong {
        hand.say(&ClientMessage::Evaluate(header)).await;
        let heard = hand.hear().await;
        let expected = ServerMessage::Refused(Refusal::new(RefusalCode::WrongShape));
        assert_eq!(heard, Some(expected), "{header:?}");
    }
    still_serves(&server, &segment).await;
}

/// What a client makes of a server that answers its greeting with these bytes.
async fn greeted_with(bytes: Vec<u8>) -> Error {
    let (theirs, mut ours) = pipe();
    let server = tokio::spawn(async move {
        let mut hello = [0; 64];
        let _ = ours.read(&mut hello).await;
        ours.write_all(&bytes).await.unwrap();
    });
    let timeouts = ClientTimeouts { silence: PATIENCE, ..ClientTimeouts::default() };
    let error = Connection::open(theirs, &label("client"), timeouts).await.unwrap_err();
    server.await.unwrap();
    error
}

#[tokio::test]
async fn the_client_names_what_a_strange_server_says() {
    type Expect = fn(&Error) -> bool;
    let cases: [(&str, Vec<u8>, Expect); 6] = [
        ("nothing", vec![], |e| matches!(e, Error::Link(LinkError::Lost { .. }))),
        ("half a frame", vec![9, 0, 0, 0, 1], |e| matches!(e, Error::Link(LinkError::Lost { .. }))),
        ("oversize frame", u32::MAX.to_le_bytes().to_vec(), |e| {
            matches!(e, Error::Malformed(Malformed::FrameTooLong { .. }))
        }),
        ("version 9", vec![7, 0, 0, 0, 1, 9, 0, 0, 0, 0, 0], |e| {
            matches!(e, Error::Malformed(Malformed::Version { ours: 2, theirs: 9 }))
        }),
        ("payload", [vec![18, 0, 0, 0, 2], vec![0; 17]].concat(), |e| {
            matches!(e, Error::Peer(PeerFault::Unexpected { message: "payload", .. }))
        }),
        (
            "an answer to nothing",
            vec![15, 0, 0, 0, 1, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            |e| matches!(e, Error::Peer(PeerFault::Unexpected { message: "Models", .. })),
        ),
    ];
    for (name, bytes, expected) in cases {
        let error = greeted_with(bytes).await;
        assert!(expected(&error), "{name}: {error:?}");
    }
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let (theirs, _ours) = pipe();
    let timeouts =
        ClientTimeouts { silence: Duration::from_millis(30), ..ClientTimeouts::default() };
    let error = Connection::open(theirs, &label("client"), timeouts).await.unwrap_err();
    assert!(matches!(error, Error::Link(LinkError::TimedOut { .. })), "{error}");
    assert!(error.is_retryable());
}
