//! What goes into the state machine of a connection, and what comes out.

use std::time::Duration;

use bytes::Bytes;

use crate::access::Token;
use crate::frame::{Frame, PayloadFrame};
use crate::identifiers::Digest;
use crate::message::{
    EvaluateHeader, ModelCard, PublicPart, Refusal, RefusalCode, ServerMessage, Welcome,
};
use crate::transcript::ReplyShape;

/// What happened, as the connection's driver tells its state machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerEvent {
    /// A frame arrived.
    Frame(Frame),
    /// Bytes arrived that are not a frame.
    Unreadable,
    /// The peer is gone.
    Disconnected,
    /// The client of [`ServerAction::Enter`] may come in.
    Entered,
    /// The host answered the question of [`ServerAction::Look`].
    Answer(Answer),
    /// The request of [`ServerAction::Admit`] has a place; its reply will have this size.
    Admitted(ReplyShape),
    /// The request of [`ServerAction::Admit`] has no place, the question of [`ServerAction::Look`]
    /// no answer, or the client of [`ServerAction::Enter`] stays outside.
    Declined(Refusal),
    /// The next bytes of the reply.
    ReplyChunk(Bytes),
    /// The reply is complete.
    Evaluated(Finished),
    /// The request failed.
    Failed(RefusalCode),
    /// Nothing of the request of [`ServerAction::Stop`] runs any more.
    Stopped,
    /// It is time for a sign of life: payload bytes decoded and produced so far.
    ProgressDue {
        /// Bytes decoded plus bytes produced.
        done: u64,
    },
    /// The time allowed for the present [`Phase`] is over.
    TimedOut,
    /// Finish what runs, then close.
    Drain,
}

/// What the driver has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerAction {
    /// Send a message.
    Send(ServerMessage),
    /// Send a piece of the reply.
    SendChunk(PayloadFrame),
    /// Find out whether the client may come in, then report [`ServerEvent::Entered`] or
    /// [`ServerEvent::Declined`].
    Enter(Option<Token>),
    /// Ask the host, then report [`ServerEvent::Answer`] or [`ServerEvent::Declined`].
    Look(Question),
    /// Find the segment and a place for the request, then report [`ServerEvent::Admitted`] or
    /// [`ServerEvent::Declined`].
    Admit(EvaluateHeader),
    /// Hand the next payload bytes to the request.
    Absorb(Bytes),
    /// Stop what is being looked up, admitted, or evaluated. When a request was admitted, report
    /// [`ServerEvent::Stopped`] once nothing of it runs.
    Stop,
    /// Send what is queued and close.
    Close,
}

/// A question to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Which models are there?
    Models,
    /// What is the public part of this plan?
    PublicPlan(Digest),
}

/// The host's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The models.
    Models(Vec<ModelCard>),
    /// The public part, if the host has the plan.
    PublicPlan(Option<PublicPart>),
    /// The host failed.
    Failed,
}

/// The account of a finished request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// Hash of the request as received.
    pub request_hash: Digest,
    /// Hash of the reply as produced.
    pub reply_hash: Digest,
    /// Busy CPU time.
    pub busy: Duration,
}

/// What a connection is waiting for; the driver picks its time limit by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// For the first message.
    Greeting,
    /// For the decision at the entrance.
    Entering,
    /// For the next request.
    Idle,
    /// For the host.
    Answering,
    /// For a place.
    Admitting,
    /// For payload bytes.
    Receiving {
        /// Payload bytes announced.
        payload_bytes: u64,
    },
    /// For the evaluation.
    Evaluating,
    /// For the evaluation to stop.
    Stopping,
    /// For nothing: the connection is over.
    Closed,
}

/// How a connection is greeted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Greeting {
    /// With a welcome.
    Welcome(Welcome),
    /// With a refusal: the server is full or about to stop.
    Refuse(Refusal),
}
