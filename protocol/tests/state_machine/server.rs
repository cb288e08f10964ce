//! The server against clients, and against its own driver, in any order of events.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use protocol::access::Token;
use protocol::frame::{Frame, PayloadFrame};
use protocol::identifiers::{Digest, Label, RequestId};
use protocol::message::{ClientMessage, Refusal, RefusalCode, ServerMessage};
use protocol::server::event::{Answer, Phase, Question, ServerAction, ServerEvent};

use crate::fixture::{
    ID, PHASES, RECEIVING, REPLY_BYTES, REQUEST_BYTES, SHAPE, finished, header, hello, receipt,
    refusal, reply, says, server, server_in, upload,
};

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
            let worked = !matches!(phase, Phase::Greeting | Phase::Entering | Phase::Idle);
            assert_eq!(actions.contains(&ServerAction::Stop), worked, "{phase:?}");
        }
    }
}

#[test]
fn every_message_altered_or_cut_in_every_phase_is_refused_or_another_message() {
    let messages = [
        hello(),
        ClientMessage::ListModels,
        ClientMessage::FetchPlan { plan: Digest([0; 32]) },
        ClientMessage::Evaluate(header()),
        ClientMessage::Cancel { request_id: ID },
        ClientMessage::Goodbye,
    ];
    for phase in PHASES {
        for message in &messages {
            let bytes = message.encode().unwrap();
            for end in 0..bytes.len() {
                let mut server = server_in(phase);
                let frame = Frame::Control(bytes.slice(..end));
                let actions = server.handle(ServerEvent::Frame(frame));
                let is_over =
                    phase == Phase::Closed || actions.last() == Some(&ServerAction::Close);
                assert!(is_over, "{phase:?}: {message:?} cut at {end}: {actions:?}");
            }
            for bit in 0..bytes.len() * 8 {
                let mut altered = bytes.to_vec();
                altered[bit / 8] ^= 1 << (bit % 8);
                let decoded = ClientMessage::decode(&altered);
                let frame = || ServerEvent::Frame(Frame::Control(Bytes::from(altered.clone())));
                let actions = server_in(phase).handle(frame());
                match decoded {
                    // What still is a message is treated as the message that it is.
                    Ok(other) => assert_eq!(actions, server_in(phase).handle(says(&other))),
                    Err(_) => {
                        let is_over =
                            phase == Phase::Closed || actions.last() == Some(&ServerAction::Close);
                        assert!(is_over, "{phase:?}: {message:?}, bit {bit}: {actions:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn nobody_is_welcomed_before_the_decision_or_against_it() {
    let token = Token::from_bytes(&[7; 32]);
    let hello = ClientMessage::Hello {
        client_name: Label::new("test").unwrap(),
        token: Some(token.clone()),
    };
    let mut machine = server();
    assert_eq!(machine.handle(says(&hello)), [ServerAction::Enter(Some(token))]);
    assert_eq!(machine.phase(), Phase::Entering);
    let refusal = Refusal::new(RefusalCode::Unauthorized);
    let actions = machine.handle(ServerEvent::Declined(refusal));
    let expected = [ServerAction::Send(ServerMessage::Refused(refusal)), ServerAction::Close];
    assert_eq!(actions, expected);
    assert!(machine.handle(ServerEvent::Entered).is_empty(), "too late");
    assert_eq!(machine.phase(), Phase::Closed);
    // A decision that nobody asked for changes nothing.
    for phase in PHASES.into_iter().filter(|&phase| phase != Phase::Entering) {
        let mut machine = server_in(phase);
        assert!(machine.handle(ServerEvent::Entered).is_empty(), "{phase:?}");
        assert_eq!(machine.phase(), phase);
    }
    let mut machine = server_in(Phase::Entering);
    assert!(machine.handle(ServerEvent::Drain).contains(&ServerAction::Close));
    // A question that is refused leaves the connection as it was.
    let mut machine = server_in(Phase::Answering);
    let limited = Refusal::later(RefusalCode::RateLimited, Duration::from_secs(1));
    let actions = machine.handle(ServerEvent::Declined(limited));
    assert_eq!(actions, [ServerAction::Send(ServerMessage::Refused(limited))]);
    assert_eq!(machine.phase(), Phase::Idle);
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
            ServerAction::Send(_) | ServerAction::Admit(_) | ServerAction::Enter(_) => {}
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
        for event in [says(&hello()), ServerEvent::Entered].into_iter().chain(events) {
            for action in server.handle(event) {
                observer.see(&action);
            }
            prop_assert_eq!(server.phase() == Phase::Closed, observer.closed);
        }
    }

    /// Any events in any order, greetings with tokens among them: before a client was let in it gets
    /// a refusal, and nothing is looked up, admitted or taken for it.
    #[test]
    fn nobody_gets_anything_before_entering(
        events in prop::collection::vec(
            prop_oneof![
                4 => any_event(),
                1 => any::<Option<[u8; 32]>>().prop_map(|token| says(&ClientMessage::Hello {
                    client_name: Label::new("test").unwrap(),
                    token: token.map(|bytes| Token::from_bytes(&bytes)),
                })),
            ],
            0..20,
        ),
    ) {
        let mut server = server();
        for event in events {
            for action in server.handle(event) {
                let is_harmless = matches!(
                    action,
                    ServerAction::Enter(_)
                        | ServerAction::Close
                        | ServerAction::Stop
                        | ServerAction::Send(ServerMessage::Refused(_))
                );
                prop_assert!(is_harmless, "{action:?}");
            }
        }
        prop_assert!(matches!(server.phase(), Phase::Greeting | Phase::Entering | Phase::Closed));
    }
}
