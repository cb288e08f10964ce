//! One admitted request: decode what comes, wait for the processors, evaluate.
//!
//! ```text
//!  driver ══ chunks ══► task ─ a piece at a time ─► decoders (a thread each, and one that hashes)
//!                        │ upload complete
//!                        ▼
//!                  processor gate ──► evaluation ══ pieces ══► scribe ══ chunks ══► outbox ──► driver
//!                                      (one thread)            (one thread)
//! ```
//! While it uploads or waits, a request is a task without a thread; and so it is once everything is
//! computed, however slowly its client takes the rest. A slow client holds back the evaluation only while
//! there is no memory for its reply ([`outbox`](super::outbox)). When the driver drops its end or calls [`JobHandle::stop`], the next
//! piece, the next look of a waiting evaluation, or the wait itself ends the job.

use std::future::pending;
use std::ops::ControlFlow;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::error;

use super::Shared;
use super::event::Finished;
use super::gate::{Party, Pass};
use super::metrics::RequestPhase;
use super::outbox::{Events, Outbox, outbox};
use super::scribe::{Scribe, pieces};
use super::service::{RequestReceiver, SegmentService, ServiceError};
use crate::access::Ticket;
use crate::identifiers::Digest;
use crate::message::EvaluateHeader;
use crate::transcript::{ReplyShape, RequestTranscript};

/// Chunks waiting between driver and task, in each direction.
const QUEUED_CHUNKS: usize = 2;

/// Chunks of one request that may be in memory outside its service: in the buffers of the two
/// directions, in the two queues to and from its task, and at hand in both.
const CHUNKS_PER_REQUEST: u64 = 10;

/// What a job reports.
#[derive(Debug)]
pub(super) enum JobEvent {
    /// The evaluation has begun.
    Began,
    Chunk(Bytes),
    Finished(Finished),
    Failed(ServiceError),
}

/// What the driver is ready for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// Room for the next payload bytes.
    pub(super) room: bool,
    /// The next event.
    pub(super) event: bool,
    /// The end of the job.
    pub(super) end: bool,
}

/// What the driver gets.
#[derive(Debug)]
pub(super) enum JobSignal {
    Room,
    /// `None`: the job ended without a last word, by a panic.
    Event(Option<JobEvent>),
    Ended,
}

/// What a request has been given.
#[derive(Debug)]
pub(super) struct Place {
    /// Memory of the server, until the last byte of the reply is with the operating system.
    pub(super) memory: Pass,
    /// A place of the client's own, until the evaluation has ended.
    pub(super) ticket: Ticket,
}

/// Memory that a request on its way declares outside its service, in bytes.
pub(super) const fn chunk_memory(chunk_bytes: usize) -> u64 {
    CHUNKS_PER_REQUEST * chunk_bytes as u64
}

/// How far a job is, shared with its threads.
#[derive(Debug, Default)]
struct Meter {
    done: AtomicU64,
    stop: AtomicBool,
    largest_piece: AtomicUsize,
}

impl Meter {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn add(&self, n_bytes: usize) {
        self.done.fetch_add(n_bytes as u64, Ordering::Relaxed);
    }

    fn add_piece(&self, n_bytes: usize) {
        self.add(n_bytes);
        self.largest_piece.fetch_max(n_bytes, Ordering::Relaxed);
    }
}

/// The driver's end of a job.
#[derive(Debug)]
pub(super) struct JobHandle {
    inbox: Option<mpsc::Sender<Bytes>>,
    events: Events,
    meter: Arc<Meter>,
    memory: Arc<Pass>,
    task: JoinHandle<()>,
}

impl JobHandle {
    /// Start the task of a request. Its memory is given back when nothing of it runs any more and
    /// nobody holds [`memory`](Self::memory).
    pub(super) fn start(
        shared: &Arc<Shared>,
        service: Arc<dyn SegmentService>,
        header: EvaluateHeader,
        party: Party,
        place: Place,
    ) -> Self {
        let Place { memory, ticket } = place;
        let memory = Arc::new(memory);
        let (inbox, chunks) = mpsc::channel(QUEUED_CHUNKS);
        let more = {
            let memory = Arc::clone(&memory);
            move |n_bytes| memory.try_grow(n_bytes)
        };
        let limit = (QUEUED_CHUNKS * shared.options.limits.chunk_bytes) as u64;
        let (outbox, events) = outbox(limit, Box::new(more));
        let meter = Arc::new(Meter::default());
        let job = Job {
            header,
            party,
            shape: reply_shape(&*service),
            service,
            shared: Arc::clone(shared),
            outbox,
            meter: Arc::clone(&meter),
            memory: Arc::clone(&memory),
        };
        let task = tokio::spawn(async move {
            let outbox = job.outbox.clone();
            let event = match job.run(chunks).await {
                Ok(finished) => Some(JobEvent::Finished(finished)),
                Err(JobFailure::Service(error)) => Some(JobEvent::Failed(error)),
                Err(JobFailure::Panicked) => None,
            };
            // Before the news: the client may send its next request at once.
            drop(ticket);
            event.into_iter().for_each(|event| outbox.tell(event));
        });
        Self { inbox: Some(inbox), events, meter, memory, task }
    }

    /// The memory of the request; for whoever still has bytes of its reply.
    pub(super) fn memory(&self) -> Arc<Pass> {
        Arc::clone(&self.memory)
    }

    /// Hand over payload bytes without waiting; gives them back while the task is behind.
    pub(super) fn try_absorb(&self, chunk: Bytes) -> Result<(), Bytes> {
        let Some(inbox) = &self.inbox else { return Ok(()) };
        match inbox.try_send(chunk) {
            // Closed: the job has failed and says so in an event.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Full(chunk)) => Err(chunk),
        }
    }

    /// Wait for the first of the wanted signals; for ever if none is. May be dropped and called
    /// again, but not after [`JobSignal::Ended`].
    pub(super) async fn next(&mut self, wanted: Wanted) -> JobSignal {
        let Self { inbox, events, task, .. } = self;
        tokio::select! {
            () = room(inbox.as_ref()), if wanted.room => JobSignal::Room,
            event = events.next(), if wanted.event => JobSignal::Event(event),
            // A panic has been reported by the panic hook.
            _ = task, if wanted.end => JobSignal::Ended,
            else => pending().await,
        }
    }

    /// Payload bytes decoded plus payload bytes produced.
    pub(super) fn done(&self) -> u64 {
        self.meter.done.load(Ordering::Relaxed)
    }

    /// Tell the job to stop as soon as it can.
    pub(super) fn stop(&mut self) {
        self.meter.stop.store(true, Ordering::Relaxed);
        self.inbox = None;
        self.events.close();
    }
}

impl Drop for JobHandle {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn room(inbox: Option<&mpsc::Sender<Bytes>>) {
    if let Some(inbox) = inbox {
        // Closed counts as room: the job has failed and says so in an event.
        let _ = inbox.reserve().await;
    }
}

/// The size of a service's reply.
pub(super) fn reply_shape(service: &dyn SegmentService) -> ReplyShape {
    ReplyShape { n_ciphertexts: service.n_outputs(), payload_bytes: service.reply_bytes() }
}

/// Why a job has no reply.
enum JobFailure {
    Service(ServiceError),
    /// The service panicked; the panic hook has told.
    Panicked,
}

impl From<ServiceError> for JobFailure {
    fn from(error: ServiceError) -> Self {
        Self::Service(error)
    }
}

type Outcome<T> = Result<T, JobFailure>;

struct Job {
    header: EvaluateHeader,
    party: Party,
    shape: ReplyShape,
    service: Arc<dyn SegmentService>,
    shared: Arc<Shared>,
    outbox: Outbox,
    meter: Arc<Meter>,
    memory: Arc<Pass>,
}

impl Job {
    async fn run(self, chunks: mpsc::Receiver<Bytes>) -> Outcome<Finished> {
        let began = Instant::now();
        let (receiver, request_hash) = self.receive(chunks).await?;
        self.note(RequestPhase::Upload, began.elapsed());
        let uploaded = Instant::now();
        let place = tokio::select! {
            place = self.shared.admission.evaluation(&self.party) => {
                place.map_err(|_| ServiceError::Stopped)?
            }
            () = self.outbox.closed() => return Err(ServiceError::Stopped.into()),
        };
        self.note(RequestPhase::Wait, uploaded.elapsed());
        self.outbox.tell(JobEvent::Began);
        let evaluation = Evaluation {
            request: request_hash,
            shape: self.shape,
            chunk_bytes: self.shared.options.limits.chunk_bytes,
            outbox: self.outbox.clone(),
            meter: Arc::clone(&self.meter),
            memory: Arc::clone(&self.memory),
            place,
        };
        let placed = Instant::now();
        let finished = self.blocking(move || evaluation.run(receiver)).await??;
        self.note(RequestPhase::Evaluation, placed.elapsed());
        self.note(RequestPhase::Busy, finished.busy);
        Ok(finished)
    }

    /// Decode the upload as it comes; gives the hash of the request as well.
    async fn receive(
        &self,
        mut chunks: mpsc::Receiver<Bytes>,
    ) -> Outcome<(Box<dyn RequestReceiver>, Digest)> {
        let mut receiver: Option<Box<dyn RequestReceiver>> = None;
        let mut transcript = RequestTranscript::new(&self.header);
        let mut missing = self.header.payload_bytes;
        while missing > 0 {
            // Closed: the client is gone.
            let chunk = chunks.recv().await.ok_or(ServiceError::Stopped)?;
            let decoders = self.shared.admission.decoders();
            let _turn = decoders.acquire().await.map_err(|_| ServiceError::Stopped)?;
            if self.meter.is_stopped() {
                return Err(ServiceError::Stopped.into());
            }
            missing = missing.saturating_sub(chunk.len() as u64);
            let (copy, service, seed) =
                (chunk.clone(), Arc::clone(&self.service), self.header.seed);
            let taken = receiver.take();
            let decoding = self.blocking(move || {
                let mut receiver = match taken {
                    Some(receiver) => receiver,
                    None => service.begin(seed)?,
                };
                receiver.push(&copy).map(|()| receiver)
            });
            self.meter.add(chunk.len());
            let hashing = self.blocking(move || {
                transcript.update(&chunk);
                transcript
            });
            let (decoded, hashed) = tokio::join!(decoding, hashing);
            receiver = Some(decoded??);
            transcript = hashed?;
        }
        // Requests without payload are refused before they come here.
        Ok((receiver.ok_or(ServiceError::Stopped)?, transcript.finish()))
    }

    /// Run on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Outcome<T> {
        spawn_blocking(work).await.map_err(|error| {
            if error.is_panic() {
                error!(request = %self.header.request_id, "a request made this server panic");
                self.shared.options.metrics.panicked();
            }
            JobFailure::Panicked
        })
    }

    fn note(&self, phase: RequestPhase, time: Duration) {
        let EvaluateHeader { plan, segment, .. } = &self.header;
        self.shared.options.metrics.phase(phase, plan, *segment, time);
    }
}

/// The evaluation of a complete request, on a thread of its own.
struct Evaluation {
    request: Digest,
    shape: ReplyShape,
    chunk_bytes: usize,
    outbox: Outbox,
    meter: Arc<Meter>,
    memory: Arc<Pass>,
    /// At the processors.
    place: Pass,
}

impl Evaluation {
    fn run(self, receiver: Box<dyn RequestReceiver>) -> Result<Finished, ServiceError> {
        let Self { request, shape, chunk_bytes, outbox, meter, memory, place } = self;
        let (sender, inbox) = pieces();
        let scribe = Scribe { request: &request, shape: &shape, chunk_bytes, outbox: &outbox };
        std::thread::scope(|scope| {
            let scribe = scope.spawn(move || scribe.run(inbox));
            let declared = shape.payload_bytes;
            let production = Production { pieces: sender, meter: &meter, declared, produced: 0 };
            // Ends the pieces in any case, and with them the scribe.
            let busy = production.run(receiver);
            // What is computed waits for its client without a thread and without a place.
            outbox.open();
            drop(place);
            let reply_hash = scribe.join().unwrap_or_else(|panic| resume_unwind(panic));
            let busy = busy?;
            let reply_hash = reply_hash.ok_or(ServiceError::Stopped)?;
            // The service has nothing any more. Of a piece, the whole is kept until its last chunk is gone.
            let piece = meter.largest_piece.load(Ordering::Relaxed) as u64;
            memory.shrink_to(outbox.waiting_bytes() + piece + chunk_memory(chunk_bytes));
            Ok(Finished { request_hash: request, reply_hash, busy })
        })
    }
}

/// What an evaluation has produced so far.
struct Production<'a> {
    pieces: SyncSender<Bytes>,
    meter: &'a Meter,
    declared: u64,
    produced: u64,
}

impl Production<'_> {
    /// Busy time of the evaluation.
    fn run(mut self, receiver: Box<dyn RequestReceiver>) -> Result<Duration, ServiceError> {
        let evaluated = receiver.evaluate(&mut |piece| self.take(piece));
        // A service stopped for producing too much says only that it was stopped; one that went on
        // after `Break`, or that ended early, must not pass for finished.
        if self.produced > self.declared || (evaluated.is_ok() && self.produced < self.declared) {
            let Self { declared, produced, .. } = self;
            return Err(ServiceError::WrongReplyLength { declared, produced });
        }
        Ok(evaluated?.busy)
    }

    fn take(&mut self, piece: Bytes) -> ControlFlow<()> {
        self.produced = self.produced.saturating_add(piece.len() as u64);
        if self.produced > self.declared || self.meter.is_stopped() {
            return ControlFlow::Break(());
        }
        if piece.is_empty() {
            return ControlFlow::Continue(());
        }
        self.meter.add_piece(piece.len());
        match self.pieces.send(piece) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}
