//! Runs one connection: moves frames, time, and work between the socket, the state machine, the
//! host, and the request's thread. It decides nothing; see [`super::connection`].

mod clock;
mod inquiry;

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout};
use tracing::{debug, info, warn};

use self::clock::Clock;
use self::inquiry::{Admitted, Inquiry, Outcome, admit, look};
use super::connection::ServerConnection;
use super::event::{Greeting, Phase, ServerAction, ServerEvent};
use super::gate::Pass;
use super::job::{JobEvent, JobHandle, JobSignal, Wanted, reply_shape};
use super::visit::{Origin, Visit};
use super::{Lifecycle, Shared};
use crate::frame::Frame;
use crate::limits::{CONTROL_HEADER_BYTES, MAX_CLIENT_MESSAGE_BYTES, PAYLOAD_HEADER_BYTES};
use crate::message::{Refusal, RefusalCode, ServerMessage};
use crate::transport::{BoxedStream, FrameReader, FrameWriter, TransportError, split};

/// Frames queued for the client before the next piece of a reply is taken.
const QUEUED_FRAMES: usize = 2;

/// Replies, and bytes of them, that may wait for a client. With more, nothing is read from it: whoever asks
/// and does not listen is answered no further. A request under way is listened to in any case, since
/// nothing but its end can come of that.
const UNHEARD_REPLIES: usize = 16;
const UNHEARD_BYTES: u64 = 64 << 10;

/// How long a question to the host, an admission beyond its own patience, or the end of a stopped
/// job may take before something must be broken.
const INTERNAL_LIMIT: Duration = Duration::from_secs(60);

/// How long, and for how many bytes, a refused peer is listened to, so that the refusal arrives
/// before the connection is reset.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: u64 = 64 << 20;

/// Longest frame accepted while no payload is expected.
const SMALL_FRAME: usize = CONTROL_HEADER_BYTES + MAX_CLIENT_MESSAGE_BYTES;

/// Serve one connection to its end.
pub(super) async fn drive(
    stream: BoxedStream,
    shared: Arc<Shared>,
    greeting: Greeting,
    origin: Origin,
) {
    let (reader, writer) = split(stream, SMALL_FRAME, shared.options.timeouts.stall);
    let identity = shared.identity();
    let mut driver = Driver {
        machine: ServerConnection::new(greeting, identity),
        reader,
        writer,
        lifecycle: shared.lifecycle.subscribe(),
        clock: Clock::new(&shared.options.timeouts),
        visit: Visit::new(&shared, origin),
        shared,
        job: None,
        leaving: Vec::new(),
        parked: None,
        inquiry: None,
        draining: false,
        open: true,
        refused: false,
    };
    driver.run().await;
}

struct Driver {
    machine: ServerConnection,
    reader: FrameReader,
    writer: FrameWriter,
    lifecycle: watch::Receiver<Lifecycle>,
    clock: Clock,
    visit: Visit,
    shared: Arc<Shared>,
    job: Option<JobHandle>,
    /// Memory of requests that have ended, until the last byte of their replies is sent.
    leaving: Vec<Arc<Pass>>,
    /// Payload the job had no room for; nothing is read meanwhile.
    parked: Option<Bytes>,
    inquiry: Option<Inquiry>,
    draining: bool,
    /// Whether the state machine has not closed yet.
    open: bool,
    /// Whether the last message was a refusal, which the peer may not expect.
    refused: bool,
}

impl Driver {
    async fn run(&mut self) {
        while self.open {
            match self.next_event().await {
                Ok(Some(event)) => self.step(event),
                Ok(None) => {}
                Err(error) => {
                    debug!(%error, "connection ended");
                    return;
                }
            }
        }
        self.say_goodbye().await;
    }

    /// Wait for the next thing to happen. `None`: something moved, but the state machine need not
    /// know. `Err`: the connection cannot be used any more.
    async fn next_event(&mut self) -> Result<Option<ServerEvent>, TransportError> {
        let phase = self.machine.phase();
        let evaluating = phase == Phase::Evaluating;
        let stopping = phase == Phase::Stopping;
        let is_flushed = self.writer.is_flushed();
        self.clock.note_unsent(!is_flushed);
        if is_flushed {
            self.leaving.clear();
        }
        let listening = self.parked.is_none() && self.is_heard(phase);
        let wanted = Wanted {
            room: self.parked.is_some(),
            event: !stopping && self.writer.n_queued() < QUEUED_FRAMES,
            end: stopping,
        };
        tokio::select! {
            flushed = self.writer.flush(), if !is_flushed => {
                flushed.map(|()| None)
            }
            frame = self.reader.next(), if listening => Ok(Some(match frame {
                Ok(Some(frame)) => {
                    self.clock.note_frame();
                    ServerEvent::Frame(frame)
                }
                Ok(None) | Err(TransportError::Lost { .. } | TransportError::Stalled { .. }) => {
                    ServerEvent::Disconnected
                }
                Err(TransportError::Malformed(error)) => {
                    warn!(%error, "unreadable frame");
                    ServerEvent::Unreadable
                }
            })),
            outcome = inquiry::outcome(&mut self.inquiry) => {
                self.inquiry = None;
                Ok(Some(self.take_outcome(outcome)))
            }
            signal = job_signal(&mut self.job, wanted) => Ok(self.take_signal(signal)),
            () = sleep_until(self.clock.deadline(phase)) => {
                info!(request = self.visit.request(), ?phase, "time is over");
                Ok(Some(ServerEvent::TimedOut))
            }
            // What waits to be sent is sign of life enough.
            () = sleep_until(self.clock.next_progress), if evaluating && is_flushed => {
                self.clock.progress_sent();
                Ok(self.job.as_ref().map(|job| ServerEvent::ProgressDue { done: job.done() }))
            }
            change = wait_for_shutdown(&mut self.lifecycle, self.draining) => match change {
                Lifecycle::Running | Lifecycle::Draining => {
                    self.draining = true;
                    Ok(Some(ServerEvent::Drain))
                }
                Lifecycle::Stopped => Ok(Some(ServerEvent::Disconnected)),
            },
        }
    }

    /// Whether the client takes its replies, so that it may ask for more of them.
    fn is_heard(&self, phase: Phase) -> bool {
        match phase {
            Phase::Receiving { .. } | Phase::Evaluating | Phase::Stopping => true,
            Phase::Greeting
            | Phase::Entering
            | Phase::Idle
            | Phase::Answering
            | Phase::Admitting
            | Phase::Closed => {
                let writer = &self.writer;
                writer.n_queued() < UNHEARD_REPLIES && writer.queued_bytes() < UNHEARD_BYTES
            }
        }
    }

    fn step(&mut self, event: ServerEvent) {
        let before = self.machine.phase();
        for action in self.machine.handle(event) {
            if let ServerAction::Enter(token) = action {
                let decision = match self.visit.enter(token) {
                    Ok(()) => ServerEvent::Entered,
                    Err(refusal) => ServerEvent::Declined(refusal),
                };
                self.machine.handle(decision).into_iter().for_each(|next| self.perform(next));
            } else {
                self.perform(action);
            }
        }
        let after = self.machine.phase();
        if before != after {
            self.clock.enter(after);
            self.reader.set_limit(match after {
                Phase::Receiving { .. } => {
                    PAYLOAD_HEADER_BYTES + self.shared.options.limits.chunk_bytes
                }
                Phase::Greeting
                | Phase::Entering
                | Phase::Idle
                | Phase::Answering
                | Phase::Admitting
                | Phase::Evaluating
                | Phase::Stopping
                | Phase::Closed => SMALL_FRAME,
            });
        }
    }

    fn perform(&mut self, action: ServerAction) {
        match action {
            ServerAction::Send(message) => self.send(&message),
            ServerAction::SendChunk(chunk) => {
                self.visit.sent(chunk.data.len());
                self.clock.note_sent(chunk.data.len());
                self.writer.push(Frame::Payload(chunk));
            }
            // Decided in `step`.
            ServerAction::Enter(_) => {}
            ServerAction::Look(question) => {
                let (shared, asking) = (Arc::clone(&self.shared), self.visit.ask(question));
                self.inquiry = Some(Box::pin(look(shared, question, asking)));
            }
            ServerAction::Admit(header) => {
                let (shared, asking) = (Arc::clone(&self.shared), self.visit.evaluate(&header));
                self.inquiry = Some(Box::pin(admit(shared, header, asking)));
            }
            ServerAction::Absorb(chunk) => {
                self.visit.received(chunk.len());
                self.parked = Some(chunk);
                self.absorb_parked();
            }
            ServerAction::Stop => {
                self.inquiry = None;
                self.parked = None;
                if let Some(job) = &mut self.job {
                    job.stop();
                }
            }
            ServerAction::Close => self.open = false,
        }
    }

    fn send(&mut self, message: &ServerMessage) {
        self.refused = matches!(message, ServerMessage::Refused(_));
        match message {
            ServerMessage::Refused(refusal) => {
                let retry_ms = refusal.retry_after().map(|time| time.as_millis());
                info!(request = self.visit.request(), code = ?refusal.code, retry_ms, "refused");
                self.shared.options.metrics.refusal(refusal.code);
            }
            ServerMessage::Receipt(receipt) => {
                info!(
                    request = %receipt.request_id,
                    client = self.visit.client(),
                    plan = %receipt.plan.short(),
                    segment = receipt.segment,
                    busy_micros = receipt.evaluate_micros,
                    "evaluated"
                );
                self.end_job();
            }
            ServerMessage::Welcome(_)
            | ServerMessage::Models(_)
            | ServerMessage::Plan(_)
            | ServerMessage::Admitted { .. }
            | ServerMessage::Progress(_)
            | ServerMessage::ReplyHeader(_)
            | ServerMessage::Cancelled { .. } => {}
        }
        self.visit.answered(message);
        let encoded = if let ServerMessage::Plan(part) = message {
            self.shared.plan_messages.encode(part)
        } else {
            message.encode()
        };
        let encoded = encoded.or_else(|error| {
            warn!(%error, "a message could not be sent");
            ServerMessage::Refused(Refusal::new(RefusalCode::Internal)).encode()
        });
        match encoded {
            Ok(bytes) => self.writer.push(Frame::Control(bytes)),
            Err(_) => self.open = false,
        }
    }

    fn take_outcome(&mut self, outcome: Outcome) -> ServerEvent {
        match outcome {
            Outcome::Answer(answer) => ServerEvent::Answer(answer),
            Outcome::Declined(refusal) => ServerEvent::Declined(refusal),
            Outcome::Admitted(Admitted { header, service, party, place }) => {
                let shape = reply_shape(&*service);
                self.job = Some(JobHandle::start(&self.shared, service, header, party, place));
                ServerEvent::Admitted(shape)
            }
        }
    }

    fn take_signal(&mut self, signal: JobSignal) -> Option<ServerEvent> {
        match signal {
            JobSignal::Room => {
                self.absorb_parked();
                None
            }
            JobSignal::Event(Some(JobEvent::Began)) => {
                self.clock.begin_evaluation();
                None
            }
            JobSignal::Event(event) => Some(self.job_news(event)),
            JobSignal::Ended => {
                self.end_job();
                Some(ServerEvent::Stopped)
            }
        }
    }

    fn job_news(&self, event: Option<JobEvent>) -> ServerEvent {
        match event {
            Some(JobEvent::Chunk(chunk)) => ServerEvent::ReplyChunk(chunk),
            Some(JobEvent::Finished(finished)) => ServerEvent::Evaluated(finished),
            Some(JobEvent::Failed(error)) => {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                warn!(request = self.visit.request(), %error, source, "request failed");
                ServerEvent::Failed(error.code())
            }
            // A panic, which has been reported, or an event that is handled before.
            Some(JobEvent::Began) | None => ServerEvent::Failed(RefusalCode::Internal),
        }
    }

    /// Nothing of the job runs any more; what is left of its reply keeps its memory.
    fn end_job(&mut self) {
        self.leaving.extend(self.job.take().map(|job| job.memory()));
    }

    fn absorb_parked(&mut self) {
        if let (Some(chunk), Some(job)) = (self.parked.take(), &self.job) {
            self.parked = job.try_absorb(chunk).err();
        }
        // While nothing is read, the wait is ours and not the peer's.
        match self.parked {
            Some(_) => self.clock.hold(),
            None => self.clock.release(),
        }
    }

    /// Send what is queued; after a refusal listen until the peer has understood.
    async fn say_goodbye(&mut self) {
        self.end_job();
        if let Err(error) = self.writer.close(self.shared.options.timeouts.stall).await {
            debug!(%error, "the last messages were not taken");
            return;
        }
        if !self.refused {
            return;
        }
        // Only who was let in may have a payload on its way: a stranger's length prefix reserves
        // nothing.
        if self.visit.has_entered() {
            self.reader.set_limit(usize::MAX);
        }
        let end = self.reader.received_bytes().saturating_add(LINGER_BYTES);
        let listen = async {
            while self.reader.received_bytes() < end {
                if !matches!(self.reader.next().await, Ok(Some(_))) {
                    return;
                }
            }
        };
        let _ = timeout(LINGER, listen).await;
    }
}

async fn job_signal(job: &mut Option<JobHandle>, wanted: Wanted) -> JobSignal {
    match job {
        Some(job) => job.next(wanted).await,
        None => pending().await,
    }
}

async fn wait_for_shutdown(
    lifecycle: &mut watch::Receiver<Lifecycle>,
    draining: bool,
) -> Lifecycle {
    let wanted = |state: &Lifecycle| match state {
        Lifecycle::Running => false,
        Lifecycle::Draining => !draining,
        Lifecycle::Stopped => true,
    };
    match lifecycle.wait_for(wanted).await {
        Ok(state) => *state,
        Err(_) => Lifecycle::Stopped,
    }
}
