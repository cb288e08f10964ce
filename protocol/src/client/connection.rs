//! One connection to a server, used for one thing at a time.

use std::fmt;
use std::ops::ControlFlow;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::{Instant, sleep_until, timeout};

use super::Stage;
use super::exchange::{Delivery, Exchange, PreparedRequest, Reply, RequestProgress, Step};
use super::payload::RequestPayload;
use super::reply::{ReplySender, reply_queue};
use crate::access::Token;
use crate::error::{Error, LinkError, Misuse, PeerFault, ResourceError, Result};
use crate::frame::Frame;
use crate::identifiers::{Digest, Label};
use crate::limits::{CHUNK_BYTES, ClientTimeouts, MAX_FRAME_BYTES};
use crate::message::{ClientMessage, ModelCard, PublicPart, Refusal, ServerMessage, Welcome};
use crate::transcript::VerifiedReceipt;
use crate::transport::{BoxedStream, FrameReader, FrameWriter, TransportError, split};

/// Called whenever a request gets on; `Break` cancels it.
pub type OnProgress<'a> = dyn FnMut(&RequestProgress) -> ControlFlow<()> + Send + 'a;

/// Chunks queued for the server before more are cut from the payload.
const QUEUED_FRAMES: usize = 2;

/// How long to look for the server's reason after it stopped reading.
const REASON_LIMIT: Duration = Duration::from_secs(1);

/// An open connection, past its greeting.
pub struct Connection {
    reader: FrameReader,
    writer: FrameWriter,
    welcome: Welcome,
    timeouts: ClientTimeouts,
    /// False from the moment something is asked until it is completely answered.
    in_step: bool,
    admitted: bool,
}

impl Connection {
    /// Greet the server at the other end of a stream that is already trusted.
    ///
    /// # Errors
    /// - [`LinkError`]: lost or silent.
    /// - [`PeerFault::Refused`]: the server is full, stopping, or of another version.
    /// - [`Malformed`](crate::error::Malformed), [`PeerFault`]: not a server of this protocol.
    pub async fn open(
        stream: BoxedStream,
        client_name: &Label,
        timeouts: ClientTimeouts,
    ) -> Result<Self> {
        Self::open_with_token(stream, client_name, None, timeouts).await
    }

    /// As [`open`](Self::open), showing a token.
    ///
    /// # Errors
    /// - As [`open`](Self::open).
    /// - [`PeerFault::Refused`] with [`Unauthorized`](crate::message::RefusalCode::Unauthorized): the
    ///   server does not let this client in.
    pub async fn open_with_token(
        stream: BoxedStream,
        client_name: &Label,
        token: Option<&Token>,
        timeouts: ClientTimeouts,
    ) -> Result<Self> {
        let (mut reader, mut writer) = split(stream, MAX_FRAME_BYTES, timeouts.silence);
        let hello =
            ClientMessage::Hello { client_name: client_name.clone(), token: token.cloned() };
        let silence = timeouts.silence;
        let answer = ask(&mut reader, &mut writer, &hello, Stage::Greeting, silence).await?;
        let ServerMessage::Welcome(welcome) = answer else {
            return Err(not_an_answer(&answer, Stage::Greeting));
        };
        welcome.identity.verifying_key()?;
        Ok(Self { reader, writer, welcome, timeouts, in_step: true, admitted: false })
    }

    /// What the server said about itself.
    #[must_use]
    pub const fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// Whether the connection can be used again. A server closes idle connections; this notices if
    /// it already has.
    pub fn is_usable(&mut self) -> bool {
        self.in_step && self.reader.next().now_or_never().is_none()
    }

    /// Whether the last request was given a place by the server.
    pub(crate) const fn was_admitted(&self) -> bool {
        self.admitted
    }

    /// Bytes sent and received in frames.
    pub(crate) const fn traffic(&self) -> (u64, u64) {
        (self.writer.sent_bytes(), self.reader.received_bytes())
    }

    /// Ask for the list of models.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn list_models(&mut self) -> Result<Vec<ModelCard>> {
        let answer = self.ask(&ClientMessage::ListModels).await?;
        let ServerMessage::Models(cards) = answer else { return Err(self.no_answer(&answer)) };
        self.in_step = true;
        Ok(cards)
    }

    /// Ask for the public part of a plan.
    ///
    /// # Errors
    /// - [`PeerFault::Refused`] with
    ///   [`UnknownPlan`](crate::message::RefusalCode::UnknownPlan): the server does not hold it.
    /// - As [`open`](Self::open).
    ///
    /// # Security
    /// The bytes are the server's claim: the caller must compare their digest.
    pub async fn fetch_plan(&mut self, plan: &Digest) -> Result<PublicPart> {
        let answer = self.ask(&ClientMessage::FetchPlan { plan: *plan }).await?;
        let ServerMessage::Plan(part) = answer else { return Err(self.no_answer(&answer)) };
        self.in_step = true;
        Ok(part)
    }

    /// Send one request and receive its reply, once.
    ///
    /// # Errors
    /// - [`ResourceError::Memory`]: the reply does not fit.
    /// - As [`evaluate_streaming`](Self::evaluate_streaming).
    pub async fn evaluate(
        &mut self,
        request: &PreparedRequest,
        on_progress: &mut OnProgress<'_>,
    ) -> Result<Reply> {
        let (sink, stream) = reply_queue(QUEUED_FRAMES);
        let exchange = async {
            // Moved in, so that the end of the exchange ends the stream.
            let mut sink = sink;
            self.evaluate_streaming(request, &mut sink, on_progress).await
        };
        let reply = stream.collect(request.reply_shape().payload_bytes);
        let (receipt, bytes) = tokio::join!(exchange, reply);
        Reply::new(Delivery { receipt: receipt?, attempts: 1 }, bytes?)
    }

    /// Send one request, as far as its payload exists and then as it grows, and hand the reply's
    /// pieces to `sink` as they arrive; once.
    ///
    /// The sink gets [`Verified`](super::ReplyEvent::Verified) when the receipt is good.
    ///
    /// # Errors
    /// - [`Misuse::AboveServerLimit`]: the server takes no request or reply of this size.
    /// - [`PeerFault`], [`Malformed`](crate::error::Malformed): see [`Exchange::receive`].
    /// - [`LinkError`]: lost or silent.
    /// - [`ResourceError::PayloadAbandoned`]: the payload's writer gave up.
    /// - [`ResourceError::Cancelled`]: `on_progress` said `Break`.
    pub async fn evaluate_streaming(
        &mut self,
        request: &PreparedRequest,
        sink: &mut ReplySender,
        on_progress: &mut OnProgress<'_>,
    ) -> Result<VerifiedReceipt> {
        self.admitted = false;
        self.check_size(request)?;
        self.begin("evaluate")?;
        sink.begin_attempt();
        let announced = usize::try_from(self.welcome.limits.max_chunk_bytes).unwrap_or(CHUNK_BYTES);
        let identity = self.welcome.identity;
        let mut exchange =
            Exchange::new(request.clone(), identity, CHUNK_BYTES.min(announced.max(1)));
        let receipt = self.run(&mut exchange, request.payload(), sink, on_progress).await?;
        sink.finish(receipt.clone()).await;
        Ok(receipt)
    }

    /// Say goodbye. Errors do not matter any more.
    pub async fn close(mut self) {
        if let Ok(bytes) = ClientMessage::Goodbye.encode() {
            self.writer.push(Frame::Control(bytes));
            let _ = self.writer.close(self.timeouts.cancel).await;
        }
    }

    async fn run(
        &mut self,
        exchange: &mut Exchange,
        payload: &RequestPayload,
        sink: &mut ReplySender,
        on_progress: &mut OnProgress<'_>,
    ) -> Result<VerifiedReceipt> {
        let mut last_sign = Instant::now();
        let mut give_up = None;
        loop {
            while self.writer.n_queued() < QUEUED_FRAMES {
                let Some(frame) = exchange.next_frame()? else { break };
                self.writer.push(frame);
            }
            let stage = exchange.stage();
            self.admitted |= stage.is_admitted();
            // Only with room in the queue: else the bytes may be there and merely wait their turn.
            let has_room = self.writer.n_queued() < QUEUED_FRAMES;
            let awaited = exchange.awaited_payload().filter(|_| has_room);
            let deadline = give_up.unwrap_or(last_sign + self.timeouts.silence);
            // While something is being sent, the writer has its own limit; while the client itself
            // computes, nothing is expected of the server.
            let is_servers_turn = self.writer.is_flushed() && !sink.is_full() && awaited.is_none();
            tokio::select! {
                flushed = self.writer.flush(), if !self.writer.is_flushed() => match flushed {
                    Ok(()) => {}
                    Err(error) => return Err(self.reason(exchange, error.during(stage)).await),
                },
                frame = self.reader.next(), if !sink.is_full() => {
                    match exchange.receive(expect_frame(frame, stage)?)? {
                        Step::Continue => {}
                        Step::Piece(bytes) => sink.piece(bytes),
                        Step::Finished(receipt) => {
                            self.in_step = true;
                            return Ok(*receipt);
                        }
                        Step::Refused(refusal) => {
                            // Payload may be on its way to a server that has stopped reading.
                            self.in_step = !self.admitted;
                            return Err(refused(refusal));
                        }
                        Step::Cancelled => {
                            self.in_step = true;
                            return Err(ResourceError::Cancelled.into());
                        }
                    }
                }
                () = sink.room(), if sink.is_full() => {}
                () = payload.when_available(awaited.unwrap_or(0)), if awaited.is_some() => {}
                () = sleep_until(deadline), if give_up.is_some() || is_servers_turn => {
                    if give_up.is_some() {
                        return Err(ResourceError::Cancelled.into());
                    }
                    let after = self.timeouts.silence;
                    return Err(LinkError::TimedOut { stage, after }.into());
                }
            }
            last_sign = Instant::now();
            if on_progress(&exchange.progress()).is_break() && give_up.is_none() {
                exchange.cancel()?;
                sink.discard();
                give_up = Some(Instant::now() + self.timeouts.cancel);
            }
        }
    }

    /// A server that refuses in the middle of an upload stops reading; its reason is then still on
    /// the way.
    async fn reason(&mut self, exchange: &mut Exchange, error: Error) -> Error {
        let look = async {
            loop {
                match self.reader.next().await {
                    Ok(Some(frame)) => match exchange.receive(frame) {
                        Ok(Step::Refused(refusal)) => return Some(refused(refusal)),
                        Ok(Step::Continue | Step::Piece(_)) => {}
                        Ok(Step::Finished(_) | Step::Cancelled) | Err(_) => return None,
                    },
                    Ok(None) | Err(_) => return None,
                }
            }
        };
        timeout(REASON_LIMIT, look).await.ok().flatten().unwrap_or(error)
    }

    fn check_size(&self, request: &PreparedRequest) -> Result<()> {
        let limits = &self.welcome.limits;
        let sizes = [
            ("payload bytes", request.header().payload_bytes, limits.max_request_bytes),
            ("reply bytes", request.reply_shape().payload_bytes, limits.max_reply_bytes),
        ];
        for (what, actual, limit) in sizes {
            if actual > limit {
                return Err(Misuse::AboveServerLimit { what, actual, limit }.into());
            }
        }
        Ok(())
    }

    fn begin(&mut self, call: &'static str) -> Result<()> {
        if !self.in_step {
            return Err(Misuse::WrongState { call, state: "the connection is out of step" }.into());
        }
        self.in_step = false;
        Ok(())
    }

    async fn ask(&mut self, message: &ClientMessage) -> Result<ServerMessage> {
        self.begin(message.name())?;
        let silence = self.timeouts.silence;
        ask(&mut self.reader, &mut self.writer, message, Stage::Asking, silence).await
    }

    fn no_answer(&mut self, message: &ServerMessage) -> Error {
        self.in_step = matches!(message, ServerMessage::Refused(_));
        not_an_answer(message, Stage::Asking)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("welcome", &self.welcome)
            .field("in_step", &self.in_step)
            .finish_non_exhaustive()
    }
}

/// Send one message and wait for one.
async fn ask(
    reader: &mut FrameReader,
    writer: &mut FrameWriter,
    message: &ClientMessage,
    stage: Stage,
    silence: Duration,
) -> Result<ServerMessage> {
    writer.push(Frame::Control(message.encode()?));
    // A server that refuses before it reads closes early: look for its reason first.
    let flushed = writer.flush().await;
    let frame = timeout(silence, reader.next())
        .await
        .map_err(|_| LinkError::TimedOut { stage, after: silence })?;
    match expect_frame(frame, stage) {
        Ok(Frame::Control(bytes)) => ServerMessage::decode(&bytes),
        Ok(Frame::Payload(_)) => {
            Err(PeerFault::Unexpected { message: "payload", state: stage.as_str() }.into())
        }
        Err(error) => Err(flushed.err().map_or(error, |error| error.during(stage))),
    }
}

fn expect_frame(frame: Result<Option<Frame>, TransportError>, stage: Stage) -> Result<Frame> {
    match frame {
        Ok(Some(frame)) => Ok(frame),
        Ok(None) => Err(LinkError::Lost { stage, source: None }.into()),
        Err(error) => Err(error.during(stage)),
    }
}

fn not_an_answer(message: &ServerMessage, stage: Stage) -> Error {
    match message {
        ServerMessage::Refused(refusal) => refused(*refusal),
        ServerMessage::Welcome(_)
        | ServerMessage::Models(_)
        | ServerMessage::Plan(_)
        | ServerMessage::Admitted { .. }
        | ServerMessage::Progress(_)
        | ServerMessage::ReplyHeader(_)
        | ServerMessage::Receipt(_)
        | ServerMessage::Cancelled { .. } => {
            PeerFault::Unexpected { message: message.name(), state: stage.as_str() }.into()
        }
    }
}

fn refused(refusal: Refusal) -> Error {
    PeerFault::Refused { code: refusal.code, retry_after: refusal.retry_after() }.into()
}
