//! One admitted request on its blocking thread: decode what comes, evaluate; a second thread hashes
//! and hands out the reply in chunks ([`super::scribe`]).
//!
//! The connection's driver feeds the first through a bounded channel and takes the reply from the
//! second through another, so a slow client holds back the evaluation, not the memory. When the driver drops its
//! end or calls [`JobHandle::stop`], the next push or the next reply byte ends the job.

use std::future::pending;
use std::ops::ControlFlow;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

use super::Shared;
use super::admission::Permit;
use super::event::Finished;
use super::scribe::{Hashes, Page, Scribe, pages};
use super::service::{SegmentService, ServiceError};
use crate::message::EvaluateHeader;
use crate::transcript::ReplyShape;

/// Chunks waiting between driver and thread, in each direction.
const QUEUED_CHUNKS: usize = 2;

/// What a job reports.
#[derive(Debug)]
pub(super) enum JobEvent {
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
    /// The end of the thread.
    pub(super) end: bool,
}

/// What the driver gets.
#[derive(Debug)]
pub(super) enum JobSignal {
    Room,
    /// `None`: the thread ended without a last word, by a panic.
    Event(Option<JobEvent>),
    Ended,
}

/// How far a job is, shared with its thread.
#[derive(Debug, Default)]
struct Meter {
    done: AtomicU64,
    stop: AtomicBool,
}

/// The driver's end of a job.
#[derive(Debug)]
pub(super) struct JobHandle {
    inbox: Option<mpsc::Sender<Bytes>>,
    events: mpsc::Receiver<JobEvent>,
    meter: Arc<Meter>,
    thread: JoinHandle<()>,
}

impl JobHandle {
    /// Start the thread of a request. Its place is given back when the thread ends.
    pub(super) fn start(
        shared: &Arc<Shared>,
        service: Arc<dyn SegmentService>,
        header: EvaluateHeader,
        permit: Permit,
    ) -> Self {
        let (inbox, chunks) = mpsc::channel(QUEUED_CHUNKS);
        let (outbox, events) = mpsc::channel(QUEUED_CHUNKS);
        let meter = Arc::new(Meter::default());
        let job = Job {
            header,
            shape: reply_shape(&*service),
            service,
            chunk_bytes: shared.options.limits.chunk_bytes,
            chunks,
            outbox,
            meter: Arc::clone(&meter),
        };
        let shared = Arc::clone(shared);
        let thread = spawn_blocking(move || {
            let started = Instant::now();
            let outbox = job.outbox.clone();
            let event = match job.run() {
                Ok(finished) => JobEvent::Finished(finished),
                Err(error) => JobEvent::Failed(error),
            };
            shared.admission.note_duration(started.elapsed());
            // Before the news: the client may send its next request at once.
            drop(permit);
            let _ = outbox.blocking_send(event);
        });
        Self { inbox: Some(inbox), events, meter, thread }
    }

    /// Hand over payload bytes without waiting; gives them back while the thread is behind.
    pub(super) fn try_absorb(&self, chunk: Bytes) -> Result<(), Bytes> {
        let Some(inbox) = &self.inbox else { return Ok(()) };
        match inbox.try_send(chunk) {
            // Closed: the thread has failed and says so in an event.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Full(chunk)) => Err(chunk),
        }
    }

    /// Wait for the first of the wanted signals; for ever if none is. May be dropped and called
    /// again, but not after [`JobSignal::Ended`].
    pub(super) async fn next(&mut self, wanted: Wanted) -> JobSignal {
        let Self { inbox, events, thread, .. } = self;
        tokio::select! {
            () = room(inbox.as_ref()), if wanted.room => JobSignal::Room,
            event = events.recv(), if wanted.event => JobSignal::Event(event),
            // A panic of the thread has been reported by the panic hook.
            _ = thread, if wanted.end => JobSignal::Ended,
            else => pending().await,
        }
    }

    /// Payload bytes decoded plus payload bytes produced.
    pub(super) fn done(&self) -> u64 {
        self.meter.done.load(Ordering::Relaxed)
    }

    /// Tell the thread to stop as soon as it can.
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
        // Closed counts as room: the thread has failed and says so in an event.
        let _ = inbox.reserve().await;
    }
}

/// The size of a service's reply.
pub(super) fn reply_shape(service: &dyn SegmentService) -> ReplyShape {
    ReplyShape { n_ciphertexts: service.n_outputs(), payload_bytes: service.reply_bytes() }
}

struct Job {
    header: EvaluateHeader,
    shape: ReplyShape,
    service: Arc<dyn SegmentService>,
    chunk_bytes: usize,
    chunks: mpsc::Receiver<Bytes>,
    outbox: mpsc::Sender<JobEvent>,
    meter: Arc<Meter>,
}

impl Job {
    fn run(self) -> Result<Finished, ServiceError> {
        let Self { header, shape, service, chunk_bytes, chunks, outbox, meter } = self;
        let (pages, inbox) = pages();
        let scribe = Scribe { header: &header, shape: &shape, chunk_bytes, outbox: &outbox };
        std::thread::scope(|scope| {
            let scribe = scope.spawn(move || scribe.run(inbox));
            let work = Work { pages, meter: &meter, declared: shape.payload_bytes, produced: 0 };
            // Ends the pages in any case, and with them the scribe.
            let busy = work.run(&*service, &header, chunks);
            let hashes = scribe.join().unwrap_or_else(|panic| resume_unwind(panic));
            let busy = busy?;
            let Hashes { request, reply } = hashes.ok_or(ServiceError::Stopped)?;
            Ok(Finished { request_hash: request, reply_hash: reply, busy })
        })
    }
}

/// The request's thread: decodes and evaluates, and leaves everything else to the scribe.
struct Work<'a> {
    pages: SyncSender<Page>,
    meter: &'a Meter,
    declared: u64,
    produced: u64,
}

impl Work<'_> {
    /// Busy time of the evaluation.
    fn run(
        mut self,
        service: &dyn SegmentService,
        header: &EvaluateHeader,
        mut chunks: mpsc::Receiver<Bytes>,
    ) -> Result<Duration, ServiceError> {
        let mut receiver = service.begin(header.seed)?;
        let mut missing = header.payload_bytes;
        while missing > 0 {
            // Closed: the client is gone.
            let chunk = chunks.blocking_recv().ok_or(ServiceError::Stopped)?;
            let length = chunk.len() as u64;
            let page = Page::Received(chunk.clone());
            self.pages.send(page).map_err(|_| ServiceError::Stopped)?;
            receiver.push(&chunk)?;
            missing = missing.saturating_sub(length);
            self.meter.done.fetch_add(length, Ordering::Relaxed);
        }
        let evaluated = receiver.evaluate(&mut |piece| self.produce(piece));
        // A service stopped for producing too much says only that it was stopped; one that went on
        // after `Break`, or that ended early, must not pass for finished.
        if self.produced > self.declared || (evaluated.is_ok() && self.produced < self.declared) {
            let Self { declared, produced, .. } = self;
            return Err(ServiceError::WrongReplyLength { declared, produced });
        }
        Ok(evaluated?.busy)
    }

    fn produce(&mut self, piece: Bytes) -> ControlFlow<()> {
        self.produced = self.produced.saturating_add(piece.len() as u64);
        if self.produced > self.declared || self.meter.stop.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        self.meter.done.fetch_add(piece.len() as u64, Ordering::Relaxed);
        match self.pages.send(Page::Produced(piece)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}
