//! Both state machines without I/O: every message out of order, repeated, altered, and cut short.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;
use protocol::client::exchange::Step;
use protocol::client::{Exchange, PreparedRequest, Reply, Stage};
use protocol::error::{Error, PeerFault, Result};
use protocol::frame::{Frame, FrameCodec, PayloadFrame};
use protocol::identifiers::{Digest, Label, RequestId};
use protocol::identity::Identity;
use protocol::limits::MAX_FRAME_BYTES;
use protocol::message::{
    AnnouncedLimits, ClientMessage, EvaluateHeader, Progress, Refusal, RefusalCode, ReplyHeader,
    ServerMessage, Welcome,
};
use protocol::server::connection::ServerConnection;
use protocol::server::event::{
    Answer, Finished, Greeting, Phase, Question, ServerAction, ServerEvent,
};
use protocol::transcript::{ReplyShape, ReplyTranscript, Statement};
use tokio_util::codec::Encoder;

const REQUEST_BYTES: usize = 1000;
const REPLY_BYTES: usize = 700;
const CHUNK: usize = 256;
const SHAPE: ReplyShape = ReplyShape { n_ciphertexts: 3, payload_bytes: REPLY_BYTES as u64 };
const ID: RequestId = RequestId([3; 16]);

fn identity() -> Arc<Identity> {
    Arc::new(Identity::from_seed(&[8; 32]))
}

fn header() -> EvaluateHeader {
    EvaluateHeader {
        plan: Digest([1; 32]),
        segment: 2,
        request_id: ID,
        seed: [4; 32],
        n_ciphertexts: 5,
        payload_bytes: REQUEST_BYTES as u64,
    }
}

fn request() -> PreparedRequest {
    let payload: Vec<u8> = (0..REQUEST_BYTES).map(|i| (i * 31) as u8).collect();
    PreparedRequest::new(header(), payload.into(), SHAPE).unwrap()
}

fn reply() -> Vec<u8> {
    (0..REPLY_BYTES).map(|i| (i * 7) as u8).collect()
}

fn finished() -> Finished {
    let request_hash = *request().hash();
    let mut transcript = ReplyTranscript::new(&request_hash, &SHAPE);
    transcript.update(&reply());
    Finished { request_hash, reply_hash: transcript.finish(), busy: Duration::from_micros(77) }
}

fn control(message: &ServerMessage) -> Frame {
    Frame::Control(message.encode().unwrap())
}

fn chunk(offset: usize, data: &[u8]) -> Frame {
    let data = Bytes::copy_from_slice(data);
    Frame::Payload(PayloadFrame { tag: ID.tag(), offset: offset as u64, data })
}

fn progress(done: usize) -> Frame {
    let total = (REQUEST_BYTES + REPLY_BYTES) as u64;
    control(&ServerMessage::Progress(Progress { request_id: ID, done: done as u64, total }))
}

fn receipt() -> ServerMessage {
    let finished = finished();
    let statement = Statement {
        request_id: ID,
        request_hash: finished.request_hash,
        reply_hash: finished.reply_hash,
        plan: header().plan,
        segment: header().segment,
        evaluate_micros: 77,
    };
    ServerMessage::Receipt(statement.sign(&identity()))
}

/// What an honest server sends for [`request`].
fn honest_reply() -> Vec<Frame> {
    let mut frames = vec![
        control(&ServerMessage::Admitted { request_id: ID }),
        progress(10),
        control(&ServerMessage::ReplyHeader(ReplyHeader {
            request_id: ID,
            n_ciphertexts: SHAPE.n_ciphertexts,
            payload_bytes: SHAPE.payload_bytes,
        })),
    ];
    let bytes = reply();
    frames.extend(bytes.chunks(CHUNK).enumerate().map(|(i, data)| chunk(i * CHUNK, data)));
    frames.push(progress(REQUEST_BYTES + REPLY_BYTES));
    frames.push(control(&receipt()));
    frames
}

fn is_progress(frame: &Frame) -> bool {
    matches!(frame, Frame::Control(bytes)
        if matches!(ServerMessage::decode(bytes), Ok(ServerMessage::Progress(_))))
}

/// Feed frames to a client that sends whenever it may. `None`: it still waits.
fn converse(frames: impl IntoIterator<Item = Frame>) -> Result<Option<Reply>> {
    let mut exchange = Exchange::new(request(), identity().public(), CHUNK);
    for frame in frames {
        while exchange.next_frame().unwrap().is_some() {}
        match exchange.receive(frame)? {
            Step::Continue => {}
            Step::Finished(reply) => return Ok(Some(*reply)),
            Step::Refused(refusal) => {
                let retry_after = refusal.retry_after();
                return Err(PeerFault::Refused { code: refusal.code, retry_after }.into());
            }
            Step::Cancelled => panic!("nothing was cancelled"),
        }
    }
    Ok(None)
}

fn body(frame: &Frame) -> BytesMut {
    let mut bytes = BytesMut::new();
    FrameCodec::new(MAX_FRAME_BYTES).encode(frame.clone(), &mut bytes).unwrap();
    bytes.split_off(4)
}

#[test]
fn an_honest_reply_is_accepted() {
    let accepted = converse(honest_reply()).unwrap().unwrap();
    assert_eq!(accepted.bytes, reply());
    assert_eq!(accepted.receipt.receipt().evaluate_micros, 77);
}

#[test]
fn the_client_names_what_is_wrong() {
    type Alter = fn(&mut Vec<Frame>);
    type Expect = fn(&PeerFault) -> bool;
    let cases: [(&str, Alter, Expect); 12] = [
        ("no admission", |f| drop(f.remove(0)), |e| matches!(e, PeerFault::Unexpected { .. })),
        (
            "admitted twice",
            |f| f.insert(1, f[0].clone()),
            |e| matches!(e, PeerFault::Unexpected { message: "Admitted", .. }),
        ),
        (
            "no header",
            |f| drop(f.remove(2)),
            |e| matches!(e, PeerFault::Unexpected { message: "payload", .. }),
        ),
        (
            "another size",
            |f| {
                f[2] = control(&ServerMessage::ReplyHeader(ReplyHeader {
                    request_id: ID,
                    n_ciphertexts: 3,
                    payload_bytes: 699,
                }));
            },
            |e| matches!(e, PeerFault::WrongReplySize { actual_bytes: 699, .. }),
        ),
        (
            "another request",
            |f| {
                f[0] = control(&ServerMessage::Admitted { request_id: RequestId([9; 16]) });
            },
            |e| matches!(e, PeerFault::WrongRequest { .. }),
        ),
        (
            "another tag",
            |f| {
                let data = Bytes::from_static(b"x");
                f[3] =
                    Frame::Payload(PayloadFrame { tag: RequestId([9; 16]).tag(), offset: 0, data });
            },
            |e| matches!(e, PeerFault::WrongTag { .. }),
        ),
        (
            "chunk lost",
            |f| drop(f.remove(3)),
            |e| matches!(e, PeerFault::WrongOffset { expected: 0, actual: 256 }),
        ),
        (
            "chunk repeated",
            |f| f.insert(4, f[3].clone()),
            |e| matches!(e, PeerFault::WrongOffset { expected: 256, actual: 0 }),
        ),
        (
            "too long",
            |f| f[5] = chunk(512, &[0; 189]),
            |e| matches!(e, PeerFault::PayloadTooLong { announced: 700 }),
        ),
        (
            "payload after the end",
            |f| f.insert(6, chunk(700, &[0])),
            |e| matches!(e, PeerFault::Unexpected { message: "payload", .. }),
        ),
        (
            "progress backwards",
            |f| f[6] = progress(9),
            |e| matches!(e, PeerFault::ImpossibleProgress { done: 9, .. }),
        ),
        (
            "altered payload",
            |f| f[5] = chunk(512, &[0; 188]),
            |e| matches!(e, PeerFault::ReceiptMismatch { field: "reply hash" }),
        ),
    ];
    for (name, alter, expected) in cases {
        let mut frames = honest_reply();
        alter(&mut frames);
        match converse(frames) {
            Err(Error::Peer(fault)) => assert!(expected(&fault), "{name}: {fault}"),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn every_bit_of_a_receipt_matters() {
    let honest = honest_reply();
    let (last, before) = honest.split_last().unwrap();
    let bytes = body(last);
    for bit in 0..bytes.len() * 8 {
        let mut altered = bytes.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        let Ok(frame) = Frame::from_body(altered.freeze()) else { continue };
        let outcome = converse(before.iter().cloned().chain([frame]));
        assert!(outcome.is_err(), "bit {bit}: {outcome:?}");
    }
}

/// One thing a dishonest or broken server may do to its stream of frames.
#[derive(Debug, Clone)]
enum Alteration {
    Drop(prop::sample::Index),
    Repeat(prop::sample::Index, prop::sample::Index),
    Swap(prop::sample::Index, prop::sample::Index),
    Flip(prop::sample::Index, prop::sample::Index, u8),
    Cut(prop::sample::Index, prop::sample::Index),
    End(prop::sample::Index),
}

fn alteration() -> impl Strategy<Value = Alteration> {
    use prop::sample::Index;
    prop_oneof![
        any::<Index>().prop_map(Alteration::Drop),
        any::<(Index, Index)>().prop_map(|(i, j)| Alteration::Repeat(i, j)),
        any::<(Index, Index)>().prop_map(|(i, j)| Alteration::Swap(i, j)),
        (any::<Index>(), any::<Index>(), 0..8u8).prop_map(|(i, j, b)| Alteration::Flip(i, j, b)),
        any::<(Index, Index)>().prop_map(|(i, j)| Alteration::Cut(i, j)),
        any::<Index>().prop_map(Alteration::End),
    ]
}

/// The altered frames; `None` if the alteration makes something that is no frame.
fn alter(mut frames: Vec<Frame>, alteration: &Alteration) -> Option<Vec<Frame>> {
    let n = frames.len();
    match alteration {
        Alteration::Drop(i) => drop(frames.remove(i.index(n))),
        Alteration::Repeat(i, at) => frames.insert(at.index(n), frames[i.index(n)].clone()),
        Alteration::Swap(i, j) => frames.swap(i.index(n), j.index(n)),
        Alteration::Flip(i, at, bit) => {
            let mut bytes = body(&frames[i.index(n)]);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            frames[i.index(n)] = Frame::from_body(bytes.freeze()).ok()?;
        }
        Alteration::Cut(i, at) => {
            let bytes = body(&frames[i.index(n)]).freeze();
            let bytes = bytes.slice(..at.index(bytes.len()));
            frames[i.index(n)] = Frame::from_body(bytes).ok()?;
        }
        Alteration::End(i) => frames.truncate(i.index(n)),
    }
    Some(frames)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever is done to the frames: the client ends with the honest reply or with none.
    #[test]
    fn no_altered_stream_gives_another_reply(alterations in prop::collection::vec(alteration(), 1..4)) {
        let mut frames = honest_reply();
        for alteration in &alterations {
            let Some(altered) = alter(frames, alteration) else { return Ok(()) };
            frames = altered;
            if frames.is_empty() {
                return Ok(());
            }
        }
        let essential = |frames: &[Frame]| -> Vec<Frame> {
            frames.iter().filter(|frame| !is_progress(frame)).cloned().collect()
        };
        let outcome = converse(frames.iter().cloned());
        if let Ok(Some(accepted)) = &outcome {
            prop_assert_eq!(&accepted.bytes, &reply());
            // What was accepted begins with the honest frames, signs of life aside.
            let (honest, altered) = (essential(&honest_reply()), essential(&frames));
            prop_assert!(altered.starts_with(&honest));
        }
    }

    /// Bytes that are no messages at all.
    #[test]
    fn garbage_is_survived(
        garbage in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..5),
        versioned in any::<bool>(),
        after in 0..9usize,
    ) {
        let mut exchange = Exchange::new(request(), identity().public(), CHUNK);
        let mut server = server();
        for frame in honest_reply().into_iter().take(after) {
            while exchange.next_frame().unwrap().is_some() {}
            let _ = exchange.receive(frame);
        }
        for bytes in garbage {
            let mut body = BytesMut::new();
            if versioned {
                body.put_slice(&[1, 1, 0]);
            }
            body.put_slice(&bytes);
            if let Ok(frame) = Frame::from_body(body.freeze()) {
                let _ = exchange.receive(frame.clone());
                let _ = server.handle(ServerEvent::Frame(frame));
            }
        }
    }
}

fn welcome() -> Welcome {
    Welcome {
        server_name: Label::new("test").unwrap(),
        identity: identity().public(),
        limits: AnnouncedLimits {
            max_chunk_bytes: CHUNK as u32,
            max_request_bytes: 1 << 20,
            max_reply_bytes: 1 << 20,
        },
    }
}

fn server() -> ServerConnection {
    ServerConnection::new(Greeting::Welcome(welcome()), identity())
}

fn says(message: &ClientMessage) -> ServerEvent {
    ServerEvent::Frame(Frame::Control(message.encode().unwrap()))
}

fn hello() -> ClientMessage {
    ClientMessage::Hello { client_name: Label::new("test").unwrap() }
}

/// The request's payload from `offset` on, in a frame.
fn upload(offset: usize, length: usize) -> ServerEvent {
    let data = request().payload().slice(offset..offset + length);
    ServerEvent::Frame(Frame::Payload(PayloadFrame { tag: ID.tag(), offset: offset as u64, data }))
}

/// A server connection in the given phase, reached by honest events.
fn server_in(phase: Phase) -> ServerConnection {
    let path = match phase {
        Phase::Greeting => vec![],
        Phase::Idle => vec![says(&hello())],
        Phase::Answering => vec![says(&hello()), says(&ClientMessage::ListModels)],
        Phase::Admitting => vec![says(&hello()), says(&ClientMessage::Evaluate(header()))],
        Phase::Receiving { .. } => vec![
            says(&hello()),
            says(&ClientMessage::Evaluate(header())),
            ServerEvent::Admitted(SHAPE),
            upload(0, 400),
        ],
        Phase::Evaluating => vec![
            says(&hello()),
            says(&ClientMessage::Evaluate(header())),
            ServerEvent::Admitted(SHAPE),
            upload(0, REQUEST_BYTES),
        ],
        Phase::Stopping => vec![
            says(&hello()),
            says(&ClientMessage::Evaluate(header())),
            ServerEvent::Admitted(SHAPE),
            says(&ClientMessage::Cancel { request_id: ID }),
        ],
        Phase::Closed => vec![says(&ClientMessage::Goodbye)],
    };
    let mut server = server();
    for event in path {
        let _ = server.handle(event);
    }
    assert_eq!(server.phase(), phase);
    server
}

const RECEIVING: Phase = Phase::Receiving { payload_bytes: REQUEST_BYTES as u64 };

const PHASES: [Phase; 7] = [
    Phase::Greeting,
    Phase::Idle,
    Phase::Answering,
    Phase::Admitting,
    RECEIVING,
    Phase::Evaluating,
    Phase::Stopping,
];

fn refusal(actions: &[ServerAction]) -> Option<RefusalCode> {
    actions.iter().find_map(|action| match action {
        ServerAction::Send(ServerMessage::Refused(refusal)) => Some(refusal.code),
        _ => None,
    })
}

#[test]
fn every_message_in_every_wrong_phase_ends_the_connection() {
    let messages: [(ServerEvent, &[Phase]); 7] = [
        (says(&hello()), &[Phase::Greeting]),
        (says(&ClientMessage::ListModels), &[Phase::Idle]),
        (says(&ClientMessage::FetchPlan { plan: Digest([0; 32]) }), &[Phase::Idle]),
        (says(&ClientMessage::Evaluate(header())), &[Phase::Idle]),
        (
            says(&ClientMessage::Cancel { request_id: ID }),
            &[Phase::Admitting, RECEIVING, Phase::Evaluating],
        ),
        (says(&ClientMessage::Cancel { request_id: RequestId([9; 16]) }), &[]),
        (upload(400, 100), &[RECEIVING]),
    ];
    for phase in PHASES {
        for (event, allowed) in &messages {
            let mut server = server_in(phase);
            let actions = server.handle(event.clone());
            if allowed.contains(&phase) {
                assert_eq!(refusal(&actions), None, "{phase:?} {event:?}");
                continue;
            }
            assert_eq!(
                refusal(&actions),
                Some(RefusalCode::UnexpectedMessage),
                "{phase:?} {event:?}"
            );
            assert_eq!(actions.last(), Some(&ServerAction::Close));
            assert_eq!(server.phase(), Phase::Closed);
            let worked = !matches!(phase, Phase::Greeting | Phase::Idle);
            assert_eq!(actions.contains(&ServerAction::Stop), worked, "{phase:?}");
        }
    }
}

#[test]
fn payload_must_be_gapless_and_of_the_announced_length() {
    let wrong: [(usize, usize, RequestId); 5] =
        [(0, 400, ID), (500, 10, ID), (399, 10, ID), (400, 601, ID), (400, 10, RequestId([9; 16]))];
    for (offset, length, id) in wrong {
        let mut server = server_in(RECEIVING);
        let data = Bytes::from(vec![0; length]);
        let frame = PayloadFrame { tag: id.tag(), offset: offset as u64, data };
        let actions = server.handle(ServerEvent::Frame(Frame::Payload(frame)));
        assert_eq!(refusal(&actions), Some(RefusalCode::UnexpectedMessage), "{offset} {length}");
    }
    assert_eq!(server_in(RECEIVING).handle(upload(400, 600)).len(), 1);
}

#[test]
fn each_other_event_has_its_answer() {
    let case = |phase, event| server_in(phase).handle(event);
    let closes = |code| {
        vec![ServerAction::Send(ServerMessage::Refused(Refusal::new(code))), ServerAction::Close]
    };
    let stops = |code| {
        let mut actions = closes(code);
        actions.insert(1, ServerAction::Stop);
        actions
    };
    let version = Frame::Control(Bytes::from_static(&[9, 0, 0, 0, 0, 0]));
    let mut other_version = closes(RefusalCode::UnsupportedVersion);
    assert_eq!(case(Phase::Greeting, ServerEvent::Frame(version.clone())), other_version);
    other_version.insert(1, ServerAction::Stop);
    assert_eq!(case(Phase::Evaluating, ServerEvent::Frame(version)), other_version);
    assert_eq!(case(Phase::Idle, ServerEvent::Unreadable), closes(RefusalCode::MalformedMessage));
    assert_eq!(case(Phase::Idle, ServerEvent::TimedOut), [ServerAction::Close]);
    assert_eq!(case(Phase::Greeting, ServerEvent::TimedOut), closes(RefusalCode::TooSlow));
    assert_eq!(case(RECEIVING, ServerEvent::TimedOut), stops(RefusalCode::TooSlow));
    assert_eq!(case(Phase::Evaluating, ServerEvent::TimedOut), stops(RefusalCode::TooSlow));
    assert_eq!(case(Phase::Stopping, ServerEvent::TimedOut), stops(RefusalCode::Internal));
    let failed = ServerEvent::Failed(RefusalCode::MalformedPayload);
    assert_eq!(case(RECEIVING, failed), stops(RefusalCode::MalformedPayload));
    let short = ServerEvent::Evaluated(finished());
    assert_eq!(case(Phase::Evaluating, short), stops(RefusalCode::Internal));
    let long = ServerEvent::ReplyChunk(Bytes::from(vec![0; REPLY_BYTES + 1]));
    assert_eq!(case(Phase::Evaluating, long), stops(RefusalCode::Internal));
    for phase in [RECEIVING, Phase::Evaluating, Phase::Admitting] {
        let gone = [ServerAction::Stop, ServerAction::Close];
        assert_eq!(case(phase, ServerEvent::Disconnected), gone);
    }
    let busy = Refusal::later(RefusalCode::Busy, Duration::from_millis(5));
    let mut server = server_in(Phase::Admitting);
    let declined = server.handle(ServerEvent::Declined(busy));
    assert_eq!(declined, [ServerAction::Send(ServerMessage::Refused(busy))]);
    assert_eq!(server.phase(), Phase::Idle, "a refused client may ask again");
}

#[test]
fn draining_finishes_what_runs_and_nothing_else() {
    assert_eq!(server_in(Phase::Idle).handle(ServerEvent::Drain), [ServerAction::Close]);
    let mut server = server_in(Phase::Admitting);
    assert_eq!(refusal(&server.handle(ServerEvent::Drain)), Some(RefusalCode::ShuttingDown));
    let mut server = server_in(Phase::Greeting);
    assert_eq!(server.handle(ServerEvent::Drain), []);
    assert_eq!(refusal(&server.handle(says(&hello()))), Some(RefusalCode::ShuttingDown));
    let mut server = server_in(RECEIVING);
    assert_eq!(server.handle(ServerEvent::Drain), []);
    assert_eq!(server.handle(upload(400, 600)).len(), 1);
    assert_eq!(server.handle(ServerEvent::ReplyChunk(reply().into())).len(), 2);
    let actions = server.handle(ServerEvent::Evaluated(finished()));
    assert_eq!(actions, [ServerAction::Send(receipt()), ServerAction::Close]);
}

#[test]
fn a_late_cancel_is_no_fault_but_a_wrong_one_is() {
    let mut server = server_in(Phase::Evaluating);
    let _ = server.handle(ServerEvent::ReplyChunk(reply().into()));
    let _ = server.handle(ServerEvent::Evaluated(finished()));
    assert_eq!(server.handle(says(&ClientMessage::Cancel { request_id: ID })), []);
    assert_eq!(server.phase(), Phase::Idle);
    let other = ClientMessage::Cancel { request_id: RequestId([9; 16]) };
    assert_eq!(refusal(&server.handle(says(&other))), Some(RefusalCode::UnexpectedMessage));
}

fn any_event() -> impl Strategy<Value = ServerEvent> {
    let id = prop_oneof![4 => Just(ID), 1 => Just(RequestId([9; 16]))];
    let fixed = prop::sample::select(vec![
        says(&hello()),
        says(&ClientMessage::ListModels),
        says(&ClientMessage::FetchPlan { plan: Digest([0; 32]) }),
        ServerEvent::Declined(Refusal::new(RefusalCode::Busy)),
        ServerEvent::Failed(RefusalCode::Internal),
        ServerEvent::Stopped,
        ServerEvent::TimedOut,
        ServerEvent::Answer(Answer::Models(Vec::new())),
        ServerEvent::Answer(Answer::PublicPlan(None)),
    ]);
    let useful = prop::sample::select(vec![
        says(&ClientMessage::Evaluate(header())),
        ServerEvent::Admitted(SHAPE),
        upload(0, 400),
        upload(400, 600),
        upload(0, REQUEST_BYTES),
        ServerEvent::ReplyChunk(reply().into()),
        ServerEvent::Evaluated(finished()),
    ]);
    prop_oneof![
        6 => useful,
        2 => fixed,
        1 => id.prop_map(|request_id| says(&ClientMessage::Cancel { request_id })),
        1 => (1..=REPLY_BYTES).prop_map(|n| ServerEvent::ReplyChunk(Bytes::from(vec![0; n]))),
        1 => any::<u64>().prop_map(|done| ServerEvent::ProgressDue { done }),
    ]
}

/// What must hold of a server's actions, whatever the events.
#[derive(Default)]
struct Observer {
    absorbed: Option<u64>,
    produced: u64,
    questions: usize,
    closed: bool,
}

impl Observer {
    fn see(&mut self, action: &ServerAction) {
        assert!(!self.closed, "{action:?} after the end");
        match action {
            ServerAction::Send(ServerMessage::Admitted { .. }) => {
                self.absorbed = Some(0);
                self.produced = 0;
            }
            ServerAction::Absorb(data) => {
                let absorbed = self.absorbed.as_mut().expect("payload without admission");
                *absorbed += data.len() as u64;
                assert!(*absorbed <= REQUEST_BYTES as u64);
            }
            ServerAction::SendChunk(chunk) => {
                assert_eq!(self.absorbed, Some(REQUEST_BYTES as u64), "reply before the request");
                assert_eq!(chunk.offset, self.produced);
                self.produced += chunk.data.len() as u64;
                assert!(self.produced <= REPLY_BYTES as u64);
            }
            ServerAction::Send(ServerMessage::Receipt(_)) => {
                assert_eq!(self.absorbed.take(), Some(REQUEST_BYTES as u64));
                assert_eq!(self.produced, REPLY_BYTES as u64);
            }
            ServerAction::Send(ServerMessage::Progress(progress)) => {
                assert!(progress.done <= progress.total);
            }
            ServerAction::Look(Question::Models | Question::PublicPlan(_)) => self.questions += 1,
            ServerAction::Stop => self.absorbed = None,
            ServerAction::Close => self.closed = true,
            ServerAction::Send(_) | ServerAction::Admit(_) => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// Any events in any order, from a greeting on.
    #[test]
    fn the_server_keeps_its_promises(events in prop::collection::vec(any_event(), 0..40)) {
        let mut server = server();
        let mut observer = Observer::default();
        for event in std::iter::once(says(&hello())).chain(events) {
            for action in server.handle(event) {
                observer.see(&action);
            }
            prop_assert_eq!(server.phase() == Phase::Closed, observer.closed);
        }
    }

    /// Both machines together, with the frames of each side delivered in any interleaving, and
    /// perhaps a cancellation: both end in step, with the honest reply or with none.
    #[test]
    fn client_and_server_agree(
        order in prop::collection::vec(any::<bool>(), 200),
        chunk_bytes in 1..2000usize,
        cancel_at in prop::option::of(0..20usize),
    ) {
        let mut pair = Pair::new(chunk_bytes);
        let mut steps = 0;
        // After the random part both sides are served in turn until nothing moves.
        for to_server in order.into_iter().chain((0..10_000).map(|i| i % 2 == 0)) {
            if cancel_at == Some(steps) && pair.outcome.is_none() {
                pair.exchange.cancel().unwrap();
            }
            steps += 1;
            pair.deliver(to_server);
            if pair.outcome.is_some() && pair.is_quiet() {
                break;
            }
        }
        match pair.outcome {
            Some(Step::Finished(accepted)) => prop_assert_eq!(accepted.bytes, reply()),
            Some(Step::Cancelled) => prop_assert!(cancel_at.is_some()),
            other => prop_assert!(false, "{:?} while {}", other, pair.exchange.stage()),
        }
        prop_assert_eq!(pair.server.phase(), Phase::Idle);
        prop_assert_eq!(pair.exchange.stage(), Stage::Done);
    }
}

/// A client, a server, and the frames between them.
struct Pair {
    exchange: Exchange,
    server: ServerConnection,
    to_server: VecDeque<Frame>,
    to_client: VecDeque<Frame>,
    outcome: Option<Step>,
}

impl Pair {
    fn new(chunk_bytes: usize) -> Self {
        let mut exchange = Exchange::new(request(), identity().public(), chunk_bytes);
        let to_server = exchange.next_frame().unwrap().into_iter().collect();
        let (server, to_client) = (server_in(Phase::Idle), VecDeque::new());
        Self { exchange, server, to_server, to_client, outcome: None }
    }

    fn is_quiet(&self) -> bool {
        self.to_server.is_empty() && self.to_client.is_empty()
    }

    fn deliver(&mut self, to_server: bool) {
        if to_server {
            if let Some(frame) = self.to_server.pop_front() {
                self.serve(ServerEvent::Frame(frame));
            }
        } else if let Some(frame) = self.to_client.pop_front() {
            let step = self.exchange.receive(frame).unwrap();
            if !matches!(step, Step::Continue) {
                self.outcome = Some(step);
            }
        }
        if let Some(frame) = self.exchange.next_frame().unwrap() {
            self.to_server.push_back(frame);
        }
    }

    /// Stand in for the driver: admit at once, evaluate when everything is there.
    fn serve(&mut self, event: ServerEvent) {
        let was = self.server.phase();
        for action in self.server.handle(event) {
            match action {
                ServerAction::Send(message) => self.to_client.push_back(control(&message)),
                ServerAction::SendChunk(frame) => self.to_client.push_back(Frame::Payload(frame)),
                ServerAction::Admit(_) => self.serve(ServerEvent::Admitted(SHAPE)),
                ServerAction::Stop => self.serve(ServerEvent::Stopped),
                ServerAction::Absorb(_) => {}
                ServerAction::Look(_) | ServerAction::Close => panic!("{action:?}"),
            }
        }
        if was != Phase::Evaluating && self.server.phase() == Phase::Evaluating {
            self.serve(ServerEvent::ProgressDue { done: 5 });
            for data in reply().chunks(CHUNK) {
                self.serve(ServerEvent::ReplyChunk(Bytes::copy_from_slice(data)));
            }
            self.serve(ServerEvent::Evaluated(finished()));
        }
    }
}
