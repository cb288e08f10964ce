//! Both machines: against garbage, and against each other.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;
use protocol::client::exchange::Step;
use protocol::client::{Exchange, Stage};
use protocol::frame::Frame;
use protocol::server::connection::ServerConnection;
use protocol::server::event::{Phase, ServerAction, ServerEvent};

use crate::fixture::{
    CHUNK, SHAPE, control, finished, honest_reply, identity, reply, request, server, server_in,
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// Both machines together, with the frames of each side delivered in any interleaving, and
    /// perhaps a cancellation: both end in step, with the honest reply or with none.
    #[test]
    fn client_and_server_agree(
        order in prop::collection::vec(any::<bool>(), 200),
        chunk_bytes in 1..2000usize,
        cancel_at in prop::option::of(0..20usize),
    ) {
        let mut pair = Pair::new(chunk_bytes);
        // After the random part both sides are served in turn until nothing moves.
        let turns = order.into_iter().chain((0..10_000).map(|i| i % 2 == 0));
        for (steps, to_server) in turns.enumerate() {
            if cancel_at == Some(steps) && pair.outcome.is_none() {
                pair.exchange.cancel().unwrap();
            }
            pair.deliver(to_server);
            if pair.outcome.is_some() && pair.is_quiet() {
                break;
            }
        }
        match pair.outcome {
            Some(Step::Finished(_)) => prop_assert_eq!(pair.received, reply()),
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
    received: Vec<u8>,
    outcome: Option<Step>,
}

impl Pair {
    fn new(chunk_bytes: usize) -> Self {
        let mut exchange = Exchange::new(request(), identity().public(), chunk_bytes);
        let to_server = exchange.next_frame().unwrap().into_iter().collect();
        let (server, to_client) = (server_in(Phase::Idle), VecDeque::new());
        Self { exchange, server, to_server, to_client, received: Vec::new(), outcome: None }
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
            match self.exchange.receive(frame).unwrap() {
                Step::Continue => {}
                Step::Piece(piece) => self.received.extend_from_slice(&piece),
                step @ (Step::Finished(_) | Step::Refused(_) | Step::Cancelled) => {
                    self.outcome = Some(step);
                }
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
                ServerAction::Enter(_) => self.serve(ServerEvent::Entered),
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
