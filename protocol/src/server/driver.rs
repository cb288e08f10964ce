//! Runs one connection: moves frames, time, and work between the socket, the state machine, the
//! host, and the request's thread. It decides nothing; see [`super::connection`].

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::admission::Permit;
use super::connection::ServerConnection;
use super::event::{Answer, Greeting, Phase, Question, ServerAction, ServerEvent};
use super::job::{JobEvent, JobHandle, JobSignal, Wanted, reply_shape};
use super::service::SegmentService;
use super::{Lifecycle, Shared};
use crate::frame::Frame;
use crate::limits::{
    CONTROL_HEADER_BYTES, MAX_CLIENT_MESSAGE_BYTES, PAYLOAD_HEADER_BYTES, ServerTimeouts,
};
use crate::message::{EvaluateHeader, Refusal, RefusalCode, ServerMessage};
use crate::transport::{BoxedStream, FrameReader, FrameWriter, TransportError, split};

/// Frames queued for the client before the next piece of a reply is taken.
const QUEUED_FRAMES: usize = 2;

/// Chunks of one request that may be in memory outside its service: in the buffers of the two
/// directions, in the two queues to and from its thread, and at hand in both.
const CHUNKS_PER_REQUEST: u64 = 10;

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
pub(super) async fn drive(stream: BoxedStream, shared: Arc<Shared>, greeting: Greeting) {
    let (reader, writer) = split(stream, SMALL_FRAME, shared.options.timeouts.stall);
    let identity = Arc::clone(&shared.identity);
    let mut driver = Driver {
        machine: ServerConnection::new(greeting, identity),
        reader,
        writer,
        lifecycle: shared.lifecycle.subscribe(),
        clock: Clock::new(&shared.options.timeouts),
        shared,
        job: None,
        parked: None,
        inquiry: None,
        draining: false,
        open: true,
        refused: false,
    };
    driver.run().await;
}

/// What the host and the admission are asked to do in the background.
type Inquiry = Pin<Box<dyn Future<Output = Outcome> + Send>>;

enum Outcome {
    Answer(Answer),
    Admitted { header: EvaluateHeader, service: Arc<dyn SegmentService>, permit: Permit },
    Declined(Refusal),
}

struct Driver {
    machine: ServerConnection,
    reader: FrameReader,
    writer: FrameWriter,
    lifecycle: watch::Receiver<Lifecycle>,
    clock: Clock,
    shared: Arc<Shared>,
    job: Option<JobHandle>,
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
        let wanted = Wanted {
            room: self.parked.is_some(),
            event: !stopping && self.writer.n_queued() < QUEUED_FRAMES,
            end: stopping,
        };
        tokio::select! {
            flushed = self.writer.flush(), if !self.writer.is_flushed() => {
                flushed.map(|()| None)
            }
            frame = self.reader.next(), if self.parked.is_none() => Ok(Some(match frame {
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
            outcome = inquiry_outcome(&mut self.inquiry) => {
                self.inquiry = None;
                Ok(Some(self.take_outcome(outcome)))
            }
            signal = job_signal(&mut self.job, wanted) => Ok(self.take_signal(signal)),
            () = sleep_until(self.clock.deadline(phase)) => {
                debug!(?phase, "time is over");
                Ok(Some(ServerEvent::TimedOut))
            }
            () = sleep_until(self.clock.next_progress), if evaluating => {
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

    fn step(&mut self, event: ServerEvent) {
        let before = self.machine.phase();
        for action in self.machine.handle(event) {
            self.perform(action);
        }
        let after = self.machine.phase();
        if before != after {
            self.clock.enter();
            self.reader.set_limit(match after {
                Phase::Receiving { .. } => {
                    PAYLOAD_HEADER_BYTES + self.shared.options.limits.chunk_bytes
                }
                Phase::Greeting
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
            ServerAction::SendChunk(chunk) => self.writer.push(Frame::Payload(chunk)),
            ServerAction::Look(question) => {
                let shared = Arc::clone(&self.shared);
                self.inquiry = Some(Box::pin(look(shared, question)));
            }
            ServerAction::Admit(header) => {
                let shared = Arc::clone(&self.shared);
                self.inquiry = Some(Box::pin(admit(shared, header)));
            }
            ServerAction::Absorb(chunk) => {
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
            ServerMessage::Refused(refusal) => info!(code = ?refusal.code, "refused"),
            ServerMessage::Receipt(receipt) => {
                info!(
                    plan = %receipt.plan.short(),
                    segment = receipt.segment,
                    busy_micros = receipt.evaluate_micros,
                    "evaluated"
                );
                self.job = None;
            }
            ServerMessage::Welcome(_)
            | ServerMessage::Models(_)
            | ServerMessage::Plan(_)
            | ServerMessage::Admitted { .. }
            | ServerMessage::Progress(_)
            | ServerMessage::ReplyHeader(_)
            | ServerMessage::Cancelled { .. } => {}
        }
        let encoded = message.encode().or_else(|error| {
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
            Outcome::Admitted { header, service, permit } => {
                let shape = reply_shape(&*service);
                self.job = Some(JobHandle::start(&self.shared, service, header, permit));
                ServerEvent::Admitted(shape)
            }
        }
    }

    fn take_signal(&mut self, signal: JobSignal) -> Option<ServerEvent> {
        match signal {
            JobSignal::Room => {
                // The wait was ours, not the peer's.
                self.clock.note_frame();
                self.absorb_parked();
                None
            }
            JobSignal::Event(event) => Some(job_news(event)),
            JobSignal::Ended => {
                self.job = None;
                Some(ServerEvent::Stopped)
            }
        }
    }

    fn absorb_parked(&mut self) {
        if let (Some(chunk), Some(job)) = (self.parked.take(), &self.job) {
            self.parked = job.try_absorb(chunk).err();
        }
    }

    /// Send what is queued; after a refusal listen until the peer has understood.
    async fn say_goodbye(&mut self) {
        self.job = None;
        if let Err(error) = self.writer.close(self.shared.options.timeouts.stall).await {
            debug!(%error, "the last messages were not taken");
            return;
        }
        if !self.refused {
            return;
        }
        self.reader.set_limit(usize::MAX);
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

async fn inquiry_outcome(inquiry: &mut Option<Inquiry>) -> Outcome {
    match inquiry {
        Some(inquiry) => inquiry.await,
        None => pending().await,
    }
}

async fn job_signal(job: &mut Option<JobHandle>, wanted: Wanted) -> JobSignal {
    match job {
        Some(job) => job.next(wanted).await,
        None => pending().await,
    }
}

fn job_news(event: Option<JobEvent>) -> ServerEvent {
    match event {
        Some(JobEvent::Chunk(chunk)) => ServerEvent::ReplyChunk(chunk),
        Some(JobEvent::Finished(finished)) => ServerEvent::Evaluated(finished),
        Some(JobEvent::Failed(error)) => {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            warn!(%error, source, "request failed");
            ServerEvent::Failed(error.code())
        }
        None => ServerEvent::Failed(RefusalCode::Internal),
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

async fn look(shared: Arc<Shared>, question: Question) -> Outcome {
    let answer = spawn_blocking(move || match question {
        Question::Models => Answer::Models(shared.host.models()),
        Question::PublicPlan(plan) => Answer::PublicPlan(
            shared.host.public_plan(&plan).map(|bytes| Bytes::copy_from_slice(&bytes)),
        ),
    });
    Outcome::Answer(answer.await.unwrap_or(Answer::Failed))
}

async fn admit(shared: Arc<Shared>, header: EvaluateHeader) -> Outcome {
    let host = Arc::clone(&shared.host);
    let service = spawn_blocking(move || host.segment(&header.plan, header.segment)).await;
    let service = match service {
        Ok(Ok(service)) => service,
        Ok(Err(refusal)) => return Outcome::Declined(refusal),
        Err(_) => return Outcome::Declined(Refusal::new(RefusalCode::Internal)),
    };
    if let Err(code) = check_shape(&shared, &header, &*service) {
        return Outcome::Declined(Refusal::new(code));
    }
    let chunks = CHUNKS_PER_REQUEST * shared.options.limits.chunk_bytes as u64;
    match shared.admission.admit(service.memory_bytes().saturating_add(chunks)).await {
        Ok(permit) => Outcome::Admitted { header, service, permit },
        Err(refusal) => Outcome::Declined(refusal),
    }
}

fn check_shape(
    shared: &Shared,
    header: &EvaluateHeader,
    service: &dyn SegmentService,
) -> Result<(), RefusalCode> {
    let limits = &shared.options.limits;
    if header.n_ciphertexts != service.n_inputs() || header.payload_bytes != service.request_bytes()
    {
        return Err(RefusalCode::WrongShape);
    }
    if header.payload_bytes > limits.max_request_bytes
        || service.reply_bytes() > limits.max_reply_bytes
    {
        return Err(RefusalCode::TooLarge);
    }
    Ok(())
}

/// When the patience with a peer ends.
struct Clock {
    timeouts: ServerTimeouts,
    entered: Instant,
    last_frame: Instant,
    next_progress: Instant,
}

impl Clock {
    fn new(timeouts: &ServerTimeouts) -> Self {
        let now = Instant::now();
        Self {
            timeouts: timeouts.clone(),
            entered: now,
            last_frame: now,
            next_progress: now + timeouts.progress,
        }
    }

    /// A new phase begins.
    fn enter(&mut self) {
        let now = Instant::now();
        self.entered = now;
        self.last_frame = now;
        self.next_progress = now + self.timeouts.progress;
    }

    fn note_frame(&mut self) {
        self.last_frame = Instant::now();
    }

    fn progress_sent(&mut self) {
        self.next_progress = Instant::now() + self.timeouts.progress;
    }

    fn deadline(&self, phase: Phase) -> Instant {
        let timeouts = &self.timeouts;
        match phase {
            Phase::Greeting => self.entered + timeouts.handshake,
            Phase::Idle => self.entered + timeouts.idle,
            Phase::Receiving { payload_bytes } => (self.last_frame + timeouts.stall)
                .min(self.entered + timeouts.upload(payload_bytes)),
            Phase::Evaluating => self.entered + timeouts.evaluation,
            Phase::Admitting => self.entered + INTERNAL_LIMIT + timeouts.admission,
            Phase::Answering | Phase::Stopping | Phase::Closed => self.entered + INTERNAL_LIMIT,
        }
    }
}
