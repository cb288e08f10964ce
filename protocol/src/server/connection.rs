//! The server's side of one connection as a state machine: events in, actions out, no I/O.
//!
//! ```text
//! AwaitingHello ──Hello──► Entering ──refused──► Closed
//!                           │ entered
//!                           ▼
//!                          Idle ──ListModels, FetchPlan──► Answering ──answer──► Idle
//!                           │
//!                        Evaluate
//!                           ▼
//!                       Admitting ──refused──► Idle
//!                           │ admitted
//!                           ▼
//!                       Receiving ──last byte──► Evaluating ──receipt──► Idle
//!                           └──────Cancel──────────┴──► Stopping ──stopped──► Idle
//! ```
//! A `Cancel` while `Admitting` leads to `Idle` at once. Whatever the peer does that is not in the
//! picture ends in one `Refused` and the end of the connection; running work is stopped.

use std::sync::Arc;

use bytes::Bytes;

use super::event::{Answer, Finished, Greeting, Phase, Question, ServerAction, ServerEvent};
use crate::access::Token;
use crate::error::{Error, Malformed};
use crate::frame::{Frame, PayloadFrame};
use crate::identifiers::RequestId;
use crate::identity::Identity;
use crate::message::{
    ClientMessage, EvaluateHeader, Progress, Receipt, Refusal, RefusalCode, ReplyHeader,
    ServerMessage, Welcome,
};
use crate::transcript::{ReplyShape, Statement};

#[derive(Debug)]
enum State {
    AwaitingHello,
    Entering(Box<Welcome>),
    Idle,
    Answering(Question),
    Admitting(EvaluateHeader),
    Receiving { header: EvaluateHeader, shape: ReplyShape, received: u64 },
    Evaluating { header: EvaluateHeader, shape: ReplyShape, sent: u64 },
    Stopping { request_id: RequestId },
    Closed,
}

/// The server's side of one connection.
#[derive(Debug)]
pub struct ServerConnection {
    state: State,
    greeting: Greeting,
    identity: Arc<Identity>,
    /// The last request that ended by itself: a late `Cancel` of it is no fault of the peer.
    last_request: Option<RequestId>,
    draining: bool,
}

type Actions = Vec<ServerAction>;

impl ServerConnection {
    /// A connection on which nothing has happened yet.
    #[must_use]
    pub const fn new(greeting: Greeting, identity: Arc<Identity>) -> Self {
        Self {
            state: State::AwaitingHello,
            greeting,
            identity,
            last_request: None,
            draining: false,
        }
    }

    /// What the connection is waiting for.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        match &self.state {
            State::AwaitingHello => Phase::Greeting,
            State::Entering(_) => Phase::Entering,
            State::Idle => Phase::Idle,
            State::Answering(_) => Phase::Answering,
            State::Admitting(_) => Phase::Admitting,
            State::Receiving { header, .. } => {
                Phase::Receiving { payload_bytes: header.payload_bytes }
            }
            State::Evaluating { .. } => Phase::Evaluating,
            State::Stopping { .. } => Phase::Stopping,
            State::Closed => Phase::Closed,
        }
    }

    /// Take one event and say what to do, in order.
    ///
    /// Events of work that was stopped in the meantime are ignored; after
    /// [`ServerAction::Close`] everything is.
    #[must_use]
    pub fn handle(&mut self, event: ServerEvent) -> Actions {
        if matches!(self.state, State::Closed) {
            return Actions::new();
        }
        match event {
            ServerEvent::Frame(Frame::Control(bytes)) => match ClientMessage::decode(&bytes) {
                Ok(message) => self.message(message),
                Err(Error::Malformed(Malformed::Version { .. })) => {
                    self.refuse_and_close(RefusalCode::UnsupportedVersion)
                }
                Err(_) => self.refuse_and_close(RefusalCode::MalformedMessage),
            },
            ServerEvent::Frame(Frame::Payload(frame)) => self.payload(frame),
            ServerEvent::Unreadable => self.refuse_and_close(RefusalCode::MalformedMessage),
            ServerEvent::Disconnected => self.close(),
            ServerEvent::Entered => self.entered(),
            ServerEvent::Answer(answer) => self.answer(answer),
            ServerEvent::Admitted(shape) => self.admitted(shape),
            ServerEvent::Declined(refusal) => self.declined(refusal),
            ServerEvent::ReplyChunk(data) => self.reply_chunk(data),
            ServerEvent::Evaluated(finished) => self.evaluated(finished),
            ServerEvent::Failed(code) => self.failed(code),
            ServerEvent::Stopped => self.stopped(),
            ServerEvent::ProgressDue { done } => self.progress(done),
            ServerEvent::TimedOut => self.timed_out(),
            ServerEvent::Drain => self.drain(),
        }
    }

    fn message(&mut self, message: ClientMessage) -> Actions {
        match (&self.state, message) {
            (State::AwaitingHello, ClientMessage::Hello { token, .. }) => self.hello(token),
            (State::Idle, ClientMessage::ListModels) => self.look(Question::Models),
            (State::Idle, ClientMessage::FetchPlan { plan }) => {
                self.look(Question::PublicPlan(plan))
            }
            (State::Idle, ClientMessage::Evaluate(header)) => self.evaluate(header),
            (_, ClientMessage::Cancel { request_id }) => self.cancel(request_id),
            (_, ClientMessage::Goodbye) => self.close(),
            (
                State::AwaitingHello
                | State::Entering(_)
                | State::Idle
                | State::Answering(_)
                | State::Admitting(_)
                | State::Receiving { .. }
                | State::Evaluating { .. }
                | State::Stopping { .. }
                | State::Closed,
                ClientMessage::Hello { .. }
                | ClientMessage::ListModels
                | ClientMessage::FetchPlan { .. }
                | ClientMessage::Evaluate(_),
            ) => self.refuse_and_close(RefusalCode::UnexpectedMessage),
        }
    }

    fn hello(&mut self, token: Option<Token>) -> Actions {
        match self.greeting.clone() {
            Greeting::Welcome(welcome) => {
                self.state = State::Entering(Box::new(welcome));
                vec![ServerAction::Enter(token)]
            }
            Greeting::Refuse(refusal) => {
                let mut actions = vec![ServerAction::Send(ServerMessage::Refused(refusal))];
                actions.extend(self.close());
                actions
            }
        }
    }

    fn entered(&mut self) -> Actions {
        let State::Entering(welcome) = &self.state else { return Actions::new() };
        let welcome = ServerMessage::Welcome((**welcome).clone());
        self.state = State::Idle;
        let mut actions = vec![ServerAction::Send(welcome)];
        actions.extend(self.close_if_draining());
        actions
    }

    fn look(&mut self, question: Question) -> Actions {
        self.state = State::Answering(question);
        vec![ServerAction::Look(question)]
    }

    fn evaluate(&mut self, header: EvaluateHeader) -> Actions {
        if header.n_ciphertexts == 0 || header.payload_bytes == 0 {
            return vec![refused(Refusal::new(RefusalCode::WrongShape))];
        }
        self.state = State::Admitting(header);
        vec![ServerAction::Admit(header)]
    }

    fn cancel(&mut self, request_id: RequestId) -> Actions {
        match &self.state {
            State::Admitting(header) if header.request_id == request_id => {
                let mut actions = vec![
                    ServerAction::Stop,
                    ServerAction::Send(ServerMessage::Cancelled { request_id }),
                ];
                actions.extend(self.finish_request(request_id));
                actions
            }
            State::Receiving { header, .. } | State::Evaluating { header, .. }
                if header.request_id == request_id =>
            {
                self.state = State::Stopping { request_id };
                vec![ServerAction::Stop]
            }
            // It crossed the receipt on the way.
            State::Idle if self.last_request == Some(request_id) => Actions::new(),
            State::AwaitingHello
            | State::Entering(_)
            | State::Idle
            | State::Answering(_)
            | State::Admitting(_)
            | State::Receiving { .. }
            | State::Evaluating { .. }
            | State::Stopping { .. }
            | State::Closed => self.refuse_and_close(RefusalCode::UnexpectedMessage),
        }
    }

    fn payload(&mut self, frame: PayloadFrame) -> Actions {
        let State::Receiving { header, shape, received } = &mut self.state else {
            return self.refuse_and_close(RefusalCode::UnexpectedMessage);
        };
        let end = received.checked_add(frame.data.len() as u64);
        let fits = end.filter(|&end| end <= header.payload_bytes);
        let Some(end) = fits.filter(|_| {
            frame.tag == header.request_id.tag()
                && frame.offset == *received
                && !frame.data.is_empty()
        }) else {
            return self.refuse_and_close(RefusalCode::UnexpectedMessage);
        };
        if end == header.payload_bytes {
            self.state = State::Evaluating { header: *header, shape: *shape, sent: 0 };
        } else {
            *received = end;
        }
        vec![ServerAction::Absorb(frame.data)]
    }

    fn answer(&mut self, answer: Answer) -> Actions {
        let State::Answering(question) = self.state else { return Actions::new() };
        self.state = State::Idle;
        let message = match (question, answer) {
            (Question::Models, Answer::Models(cards)) => ServerMessage::Models(cards),
            (Question::PublicPlan(_), Answer::PublicPlan(Some(plan))) => ServerMessage::Plan(plan),
            (Question::PublicPlan(_), Answer::PublicPlan(None)) => {
                ServerMessage::Refused(Refusal::new(RefusalCode::UnknownPlan))
            }
            (Question::Models | Question::PublicPlan(_), _) => {
                ServerMessage::Refused(Refusal::new(RefusalCode::Internal))
            }
        };
        let mut actions = vec![ServerAction::Send(message)];
        actions.extend(self.close_if_draining());
        actions
    }

    fn admitted(&mut self, shape: ReplyShape) -> Actions {
        let State::Admitting(header) = self.state else { return Actions::new() };
        self.state = State::Receiving { header, shape, received: 0 };
        vec![ServerAction::Send(ServerMessage::Admitted { request_id: header.request_id })]
    }

    fn declined(&mut self, refusal: Refusal) -> Actions {
        let mut actions = vec![refused(refusal)];
        match self.state {
            State::Admitting(header) => actions.extend(self.finish_request(header.request_id)),
            State::Answering(_) => {
                self.state = State::Idle;
                actions.extend(self.close_if_draining());
            }
            State::Entering(_) => actions.extend(self.close()),
            State::AwaitingHello
            | State::Idle
            | State::Receiving { .. }
            | State::Evaluating { .. }
            | State::Stopping { .. }
            | State::Closed => return Actions::new(),
        }
        actions
    }

    fn reply_chunk(&mut self, data: Bytes) -> Actions {
        let State::Evaluating { header, shape, sent } = &mut self.state else {
            return Actions::new();
        };
        let offset = *sent;
        let end = offset.saturating_add(data.len() as u64);
        if data.is_empty() || end > shape.payload_bytes {
            return self.failed(RefusalCode::Internal);
        }
        *sent = end;
        let mut actions = Actions::new();
        if offset == 0 {
            actions.push(ServerAction::Send(ServerMessage::ReplyHeader(ReplyHeader {
                request_id: header.request_id,
                n_ciphertexts: shape.n_ciphertexts,
                payload_bytes: shape.payload_bytes,
            })));
        }
        let tag = header.request_id.tag();
        actions.push(ServerAction::SendChunk(PayloadFrame { tag, offset, data }));
        actions
    }

    fn evaluated(&mut self, finished: Finished) -> Actions {
        let State::Evaluating { header, shape, sent } = self.state else {
            return Actions::new();
        };
        if sent != shape.payload_bytes {
            return self.failed(RefusalCode::Internal);
        }
        let receipt = self.receipt(&header, &finished);
        let mut actions = vec![ServerAction::Send(ServerMessage::Receipt(receipt))];
        actions.extend(self.finish_request(header.request_id));
        actions
    }

    fn receipt(&self, header: &EvaluateHeader, finished: &Finished) -> Receipt {
        Statement {
            request_id: header.request_id,
            request_hash: finished.request_hash,
            reply_hash: finished.reply_hash,
            plan: header.plan,
            segment: header.segment,
            evaluate_micros: u64::try_from(finished.busy.as_micros()).unwrap_or(u64::MAX),
        }
        .sign(&self.identity)
    }

    /// A request failed after its admission. The client may be in the middle of its upload, so the
    /// connection cannot be used any more.
    fn failed(&mut self, code: RefusalCode) -> Actions {
        if matches!(self.state, State::Receiving { .. } | State::Evaluating { .. }) {
            self.refuse_and_close(code)
        } else {
            Actions::new()
        }
    }

    fn stopped(&mut self) -> Actions {
        let State::Stopping { request_id } = self.state else { return Actions::new() };
        let mut actions = vec![ServerAction::Send(ServerMessage::Cancelled { request_id })];
        actions.extend(self.finish_request(request_id));
        actions
    }

    fn progress(&self, done: u64) -> Actions {
        let State::Evaluating { header, shape, .. } = &self.state else { return Actions::new() };
        let total = header.payload_bytes.saturating_add(shape.payload_bytes);
        let progress = Progress { request_id: header.request_id, done: done.min(total), total };
        vec![ServerAction::Send(ServerMessage::Progress(progress))]
    }

    fn timed_out(&mut self) -> Actions {
        match self.state {
            State::Idle => self.close(),
            State::AwaitingHello | State::Receiving { .. } | State::Evaluating { .. } => {
                self.refuse_and_close(RefusalCode::TooSlow)
            }
            State::Entering(_)
            | State::Answering(_)
            | State::Admitting(_)
            | State::Stopping { .. }
            | State::Closed => self.refuse_and_close(RefusalCode::Internal),
        }
    }

    fn drain(&mut self) -> Actions {
        self.draining = true;
        match self.state {
            State::AwaitingHello => {
                self.greeting = Greeting::Refuse(Refusal::new(RefusalCode::ShuttingDown));
                Actions::new()
            }
            State::Entering(_) | State::Admitting(_) => {
                self.refuse_and_close(RefusalCode::ShuttingDown)
            }
            State::Idle => self.close(),
            State::Answering(_)
            | State::Receiving { .. }
            | State::Evaluating { .. }
            | State::Stopping { .. }
            | State::Closed => Actions::new(),
        }
    }

    fn finish_request(&mut self, request_id: RequestId) -> Actions {
        self.last_request = Some(request_id);
        self.state = State::Idle;
        self.close_if_draining()
    }

    fn close_if_draining(&mut self) -> Actions {
        if self.draining { self.close() } else { Actions::new() }
    }

    fn refuse_and_close(&mut self, code: RefusalCode) -> Actions {
        let mut actions = vec![refused(Refusal::new(code))];
        actions.extend(self.close());
        actions
    }

    fn close(&mut self) -> Actions {
        let busy = matches!(
            self.state,
            State::Answering(_)
                | State::Admitting(_)
                | State::Receiving { .. }
                | State::Evaluating { .. }
                | State::Stopping { .. }
        );
        self.state = State::Closed;
        let mut actions = Actions::new();
        if busy {
            actions.push(ServerAction::Stop);
        }
        actions.push(ServerAction::Close);
        actions
    }
}

const fn refused(refusal: Refusal) -> ServerAction {
    ServerAction::Send(ServerMessage::Refused(refusal))
}
