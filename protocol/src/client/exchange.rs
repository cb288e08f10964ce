//! One request's life as a state machine: frames in, frames and pieces of the reply out, no I/O.
//!
//! ```text
//! Start ──Evaluate──► AwaitingAdmission ──Admitted──► Sending ──last chunk──► AwaitingReply
//!                                                                                  │ ReplyHeader
//!                                           Over ◄──Receipt── AwaitingReceipt ◄── Receiving
//! ```
//! `Refused` may come in any state and ends the request. After [`Exchange::cancel`] everything but
//! `Cancelled`, `Receipt`, and `Refused` is skipped. Anything else the server does that is not in
//! the picture is an error that names it.

use bytes::Bytes;

use super::Stage;
use super::payload::{PayloadWriter, RequestPayload};
use crate::error::{InternalError, Misuse, PeerFault, Result};
use crate::frame::{Frame, PayloadFrame};
use crate::identifiers::{Digest, RequestId};
use crate::identity::PublicIdentity;
use crate::limits::MAX_CHUNK_BYTES;
use crate::message::{
    ClientMessage, EvaluateHeader, Progress, Receipt, Refusal, ReplyHeader, ServerMessage,
};
use crate::transcript::{ReplyShape, ReplyTranscript, VerifiedReceipt};

/// A request with everything a retry needs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PreparedRequest {
    header: EvaluateHeader,
    payload: RequestPayload,
    reply: ReplyShape,
}

impl PreparedRequest {
    /// A request with its payload, and the size its reply must have by the plan.
    ///
    /// Hashes the payload, which takes about a millisecond per few megabytes.
    ///
    /// # Errors
    /// - [`Misuse::PayloadLength`]: the header announces another length.
    /// - [`Misuse::EmptyBlock`]: no ciphertexts or no bytes, in the request or the reply.
    pub fn new(header: EvaluateHeader, payload: Bytes, reply: ReplyShape) -> Result<Self> {
        let (request, mut writer) = Self::growing(header, reply)?;
        writer.append(payload)?;
        writer.finish()?;
        Ok(request)
    }

    /// A request whose payload is still to be written, by the writer that comes with it. It can be
    /// sent at once: a connection sends what there is and waits for the rest.
    ///
    /// # Errors
    /// - [`Misuse::EmptyBlock`]: no ciphertexts or no bytes, in the request or the reply.
    pub fn growing(header: EvaluateHeader, reply: ReplyShape) -> Result<(Self, PayloadWriter)> {
        if [header.n_ciphertexts, reply.n_ciphertexts].contains(&0)
            || [header.payload_bytes, reply.payload_bytes].contains(&0)
        {
            return Err(Misuse::EmptyBlock.into());
        }
        let (payload, writer) = RequestPayload::growing(&header);
        Ok((Self { header, payload, reply }, writer))
    }

    /// The header.
    #[must_use]
    pub const fn header(&self) -> &EvaluateHeader {
        &self.header
    }

    /// The payload.
    #[must_use]
    pub const fn payload(&self) -> &RequestPayload {
        &self.payload
    }

    /// The size of the reply by the plan.
    #[must_use]
    pub const fn reply_shape(&self) -> &ReplyShape {
        &self.reply
    }

    /// Hash of header and payload; `None` until the payload is complete.
    #[must_use]
    pub fn hash(&self) -> Option<Digest> {
        self.payload.hash()
    }
}

/// A complete reply with its verified receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The payload.
    pub bytes: Vec<u8>,
    /// The server's signed statement about it.
    pub receipt: VerifiedReceipt,
    /// Attempts it took.
    pub attempts: u32,
}

impl Reply {
    /// A delivered reply with its bytes, which a delivered reply has.
    pub(crate) fn new(delivery: Delivery, bytes: Option<Vec<u8>>) -> Result<Self> {
        let Delivery { receipt, attempts } = delivery;
        let bytes = bytes.ok_or(InternalError::Lost { what: "a reply" })?;
        Ok(Self { bytes, receipt, attempts })
    }
}

/// A reply that was handed over completely, with its verified receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The server's signed statement about the reply.
    pub receipt: VerifiedReceipt,
    /// Attempts it took.
    pub attempts: u32,
}

/// How far a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestProgress {
    /// What the client is doing.
    pub stage: Stage,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Payload bytes handed to the connection.
    pub sent_bytes: u64,
    /// Payload bytes of the request.
    pub request_bytes: u64,
    /// Payload bytes the server says it has decoded and produced.
    pub server_done_bytes: u64,
    /// Payload bytes received.
    pub received_bytes: u64,
    /// Payload bytes of the reply.
    pub reply_bytes: u64,
}

/// What a received frame meant.
#[derive(Debug)]
pub enum Step {
    /// The request goes on.
    Continue,
    /// The next bytes of the reply. They mean nothing before the receipt.
    Piece(Bytes),
    /// The pieces were the whole reply and its receipt is good.
    Finished(Box<VerifiedReceipt>),
    /// The server refused.
    Refused(Refusal),
    /// The server has stopped, as asked.
    Cancelled,
}

#[derive(Debug)]
enum State {
    Start,
    AwaitingAdmission,
    Sending { sent: u64 },
    AwaitingReply,
    Receiving(Inbound),
    AwaitingReceipt(Inbound),
    CancelDue,
    Cancelling,
    Over,
}

#[derive(Debug)]
struct Inbound {
    received: u64,
    transcript: ReplyTranscript,
}

/// One attempt of one request.
#[derive(Debug)]
pub struct Exchange {
    request: PreparedRequest,
    identity: PublicIdentity,
    chunk_bytes: usize,
    state: State,
    server_done: u64,
}

impl Exchange {
    /// An attempt on a connection to the server with this identity, with at most `chunk_bytes` of
    /// payload per frame (at least 1, at most [`MAX_CHUNK_BYTES`]; other values are clamped).
    #[must_use]
    pub fn new(request: PreparedRequest, identity: PublicIdentity, chunk_bytes: usize) -> Self {
        Self {
            request,
            identity,
            chunk_bytes: chunk_bytes.clamp(1, MAX_CHUNK_BYTES),
            state: State::Start,
            server_done: 0,
        }
    }

    /// What the exchange is doing.
    #[must_use]
    pub const fn stage(&self) -> Stage {
        match &self.state {
            State::Start | State::AwaitingAdmission => Stage::AwaitingAdmission,
            State::Sending { .. } => Stage::Uploading,
            State::AwaitingReply => Stage::Evaluating,
            State::Receiving(_) => Stage::Downloading,
            State::AwaitingReceipt(_) => Stage::AwaitingReceipt,
            State::CancelDue | State::Cancelling => Stage::Cancelling,
            State::Over => Stage::Done,
        }
    }

    /// How far the request is.
    #[must_use]
    pub fn progress(&self) -> RequestProgress {
        let request_bytes = self.request.header.payload_bytes;
        let (sent_bytes, received_bytes) = match &self.state {
            State::Start | State::AwaitingAdmission | State::CancelDue | State::Cancelling => {
                (0, 0)
            }
            State::Sending { sent } => (*sent, 0),
            State::AwaitingReply => (request_bytes, 0),
            State::Receiving(inbound) | State::AwaitingReceipt(inbound) => {
                (request_bytes, inbound.received)
            }
            State::Over => (request_bytes, self.request.reply.payload_bytes),
        };
        RequestProgress {
            stage: self.stage(),
            attempt: 1,
            sent_bytes,
            request_bytes,
            server_done_bytes: self.server_done,
            received_bytes,
            reply_bytes: self.request.reply.payload_bytes,
        }
    }

    /// The next frame to send; `None` while it is the server's turn, or while the payload lacks
    /// bytes of its next chunk (see [`awaited_payload`](Self::awaited_payload)).
    ///
    /// # Errors
    /// - A message that does not encode ([`InternalError`]).
    /// - [`ResourceError::PayloadAbandoned`](crate::error::ResourceError::PayloadAbandoned): the
    ///   payload will never be complete.
    pub fn next_frame(&mut self) -> Result<Option<Frame>> {
        match self.state {
            State::Start => {
                self.state = State::AwaitingAdmission;
                let message = ClientMessage::Evaluate(self.request.header);
                Ok(Some(Frame::Control(message.encode()?)))
            }
            State::Sending { sent } => self.next_chunk(sent),
            State::CancelDue => {
                self.state = State::Cancelling;
                let message = ClientMessage::Cancel { request_id: self.id() };
                Ok(Some(Frame::Control(message.encode()?)))
            }
            State::AwaitingAdmission
            | State::AwaitingReply
            | State::Receiving(_)
            | State::AwaitingReceipt(_)
            | State::Cancelling
            | State::Over => Ok(None),
        }
    }

    /// How many bytes the payload must have before [`next_frame`](Self::next_frame) can go on;
    /// `None` if it does not wait for the payload.
    #[must_use]
    pub fn awaited_payload(&self) -> Option<u64> {
        match self.state {
            State::Sending { sent } => Some(self.chunk_end(sent)),
            State::Start
            | State::AwaitingAdmission
            | State::AwaitingReply
            | State::Receiving(_)
            | State::AwaitingReceipt(_)
            | State::CancelDue
            | State::Cancelling
            | State::Over => None,
        }
    }

    /// Ask the server to stop. The partial reply is dropped.
    ///
    /// # Errors
    /// - [`Misuse::WrongState`]: the request has not been sent, or is over.
    pub fn cancel(&mut self) -> Result<()> {
        match self.state {
            State::Start | State::Over => {
                Err(Misuse::WrongState { call: "cancel", state: self.stage().as_str() }.into())
            }
            State::AwaitingAdmission
            | State::Sending { .. }
            | State::AwaitingReply
            | State::Receiving(_)
            | State::AwaitingReceipt(_) => {
                self.state = State::CancelDue;
                Ok(())
            }
            State::CancelDue | State::Cancelling => Ok(()),
        }
    }

    /// Take a frame from the server.
    ///
    /// After an error the exchange is over and the connection must be dropped.
    ///
    /// # Errors
    /// - [`Malformed`](crate::error::Malformed): not a message of this protocol.
    /// - [`PeerFault`]: a message at the wrong time, of another request, of another length, out of
    ///   order, or a receipt that does not fit.
    pub fn receive(&mut self, frame: Frame) -> Result<Step> {
        let step = match frame {
            Frame::Control(bytes) => {
                ServerMessage::decode(&bytes).and_then(|message| self.message(message))
            }
            Frame::Payload(frame) => self.payload(frame),
        };
        if !matches!(step, Ok(Step::Continue | Step::Piece(_))) {
            self.state = State::Over;
        }
        step
    }

    fn id(&self) -> RequestId {
        self.request.header.request_id
    }

    /// The chunk at this position of the payload, if all of it exists: the division into frames does
    /// not depend on how the payload grows.
    fn next_chunk(&mut self, sent: u64) -> Result<Option<Frame>> {
        let end = self.chunk_end(sent);
        // At most the longest chunk, so it fits.
        let length = usize::try_from(end - sent).unwrap_or(self.chunk_bytes);
        let Some(data) = self.request.payload.piece(sent, length)? else { return Ok(None) };
        self.state = if end == self.request.header.payload_bytes {
            State::AwaitingReply
        } else {
            State::Sending { sent: end }
        };
        Ok(Some(Frame::Payload(PayloadFrame { tag: self.id().tag(), offset: sent, data })))
    }

    fn chunk_end(&self, sent: u64) -> u64 {
        sent.saturating_add(self.chunk_bytes as u64).min(self.request.header.payload_bytes)
    }

    fn message(&mut self, message: ServerMessage) -> Result<Step> {
        let name = message.name();
        match message {
            ServerMessage::Admitted { request_id } => self.admitted(request_id),
            ServerMessage::Progress(progress) => self.server_progress(&progress),
            ServerMessage::ReplyHeader(header) => self.reply_header(&header),
            ServerMessage::Receipt(receipt) => self.receipt(&receipt),
            ServerMessage::Cancelled { request_id } => self.cancelled(request_id),
            ServerMessage::Refused(refusal) if !matches!(self.state, State::Over) => {
                Ok(Step::Refused(refusal))
            }
            ServerMessage::Welcome(_)
            | ServerMessage::Models(_)
            | ServerMessage::Plan(_)
            | ServerMessage::Refused(_) => Err(self.unexpected(name)),
        }
    }

    fn admitted(&mut self, request_id: RequestId) -> Result<Step> {
        self.check_id(request_id)?;
        match self.state {
            State::AwaitingAdmission => {
                self.state = State::Sending { sent: 0 };
                Ok(Step::Continue)
            }
            State::CancelDue | State::Cancelling => Ok(Step::Continue),
            State::Start
            | State::Sending { .. }
            | State::AwaitingReply
            | State::Receiving(_)
            | State::AwaitingReceipt(_)
            | State::Over => Err(self.unexpected("Admitted")),
        }
    }

    fn server_progress(&mut self, progress: &Progress) -> Result<Step> {
        self.check_id(progress.request_id)?;
        match self.state {
            State::AwaitingReply
            | State::Receiving(_)
            | State::AwaitingReceipt(_)
            | State::CancelDue
            | State::Cancelling => {
                let (header, reply) = (&self.request.header, &self.request.reply);
                let total = header.payload_bytes.saturating_add(reply.payload_bytes);
                let Progress { done, total: claimed, .. } = *progress;
                if claimed != total || done > total || done < self.server_done {
                    return Err(PeerFault::ImpossibleProgress { done, total: claimed }.into());
                }
                self.server_done = done;
                Ok(Step::Continue)
            }
            State::Start | State::AwaitingAdmission | State::Sending { .. } | State::Over => {
                Err(self.unexpected("Progress"))
            }
        }
    }

    fn reply_header(&mut self, header: &ReplyHeader) -> Result<Step> {
        self.check_id(header.request_id)?;
        let expected = self.request.reply;
        if header.shape() != expected {
            return Err(PeerFault::WrongReplySize {
                expected_ciphertexts: expected.n_ciphertexts,
                actual_ciphertexts: header.n_ciphertexts,
                expected_bytes: expected.payload_bytes,
                actual_bytes: header.payload_bytes,
            }
            .into());
        }
        match self.state {
            State::AwaitingReply => {
                // The last chunk was sent, so the payload is complete and has its hash.
                let hash = self.request.hash().ok_or_else(|| self.unexpected("ReplyHeader"))?;
                let transcript = ReplyTranscript::new(&hash, &expected);
                self.state = State::Receiving(Inbound { received: 0, transcript });
                Ok(Step::Continue)
            }
            State::CancelDue | State::Cancelling => Ok(Step::Continue),
            State::Start
            | State::AwaitingAdmission
            | State::Sending { .. }
            | State::Receiving(_)
            | State::AwaitingReceipt(_)
            | State::Over => Err(self.unexpected("ReplyHeader")),
        }
    }

    fn payload(&mut self, frame: PayloadFrame) -> Result<Step> {
        let request_id = self.id();
        if frame.tag != request_id.tag() {
            return Err(PeerFault::WrongTag { expected: request_id }.into());
        }
        let mut inbound = match std::mem::replace(&mut self.state, State::Over) {
            State::Receiving(inbound) => inbound,
            cancelled @ (State::CancelDue | State::Cancelling) => {
                self.state = cancelled;
                return Ok(Step::Continue);
            }
            other @ (State::Start
            | State::AwaitingAdmission
            | State::Sending { .. }
            | State::AwaitingReply
            | State::AwaitingReceipt(_)
            | State::Over) => {
                self.state = other;
                return Err(self.unexpected("payload"));
            }
        };
        let announced = self.request.reply.payload_bytes;
        let expected = inbound.received;
        if frame.offset != expected {
            return Err(PeerFault::WrongOffset { expected, actual: frame.offset }.into());
        }
        let end = expected.saturating_add(frame.data.len() as u64);
        if end > announced {
            return Err(PeerFault::PayloadTooLong { announced }.into());
        }
        inbound.transcript.update(&frame.data);
        inbound.received = end;
        self.state = if end == announced {
            State::AwaitingReceipt(inbound)
        } else {
            State::Receiving(inbound)
        };
        Ok(Step::Piece(frame.data))
    }

    fn receipt(&mut self, receipt: &Receipt) -> Result<Step> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::AwaitingReceipt(inbound) => {
                let reply_hash = inbound.transcript.finish();
                let header = &self.request.header;
                let hash = self.request.hash().ok_or_else(|| self.unexpected("Receipt"))?;
                let receipt = receipt.verify(header, &hash, &reply_hash, &self.identity)?;
                Ok(Step::Finished(Box::new(receipt)))
            }
            // It crossed our `Cancel` on the way.
            State::CancelDue | State::Cancelling => {
                self.check_id(receipt.request_id)?;
                Ok(Step::Cancelled)
            }
            other @ (State::Start
            | State::AwaitingAdmission
            | State::Sending { .. }
            | State::AwaitingReply
            | State::Receiving(_)
            | State::Over) => {
                self.state = other;
                Err(self.unexpected("Receipt"))
            }
        }
    }

    fn cancelled(&self, request_id: RequestId) -> Result<Step> {
        self.check_id(request_id)?;
        if matches!(self.state, State::Cancelling) {
            Ok(Step::Cancelled)
        } else {
            Err(self.unexpected("Cancelled"))
        }
    }

    fn check_id(&self, actual: RequestId) -> Result<()> {
        let expected = self.id();
        if actual == expected {
            Ok(())
        } else {
            Err(PeerFault::WrongRequest { expected, actual }.into())
        }
    }

    fn unexpected(&self, message: &'static str) -> crate::error::Error {
        PeerFault::Unexpected { message, state: self.stage().as_str() }.into()
    }
}
