//! One admitted request on its blocking thread: hash and decode what comes, evaluate, hand out the
//! reply in chunks.
//!
//! The connection's driver feeds the thread through a bounded channel and takes the reply from
//! another, so a slow client holds back the evaluation, not the memory. When the driver drops its
//! end or calls [`JobHandle::stop`], the next push or the next reply byte ends the job.

use std::future::pending;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

use super::Shared;
use super::admission::Permit;
use super::event::Finished;
use super::service::{SegmentService, ServiceError};
use crate::identifiers::Digest;
use crate::message::EvaluateHeader;
use crate::transcript::{ReplyShape, ReplyTranscript, RequestTranscript};

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
    fn run(mut self) -> Result<Finished, ServiceError> {
        let mut receiver = self.service.begin(self.header.seed)?;
        let mut request = RequestTranscript::new(&self.header);
        let mut missing = self.header.payload_bytes;
        while missing > 0 {
            // Closed: the client is gone.
            let chunk = self.chunks.blocking_recv().ok_or(ServiceError::Stopped)?;
            request.update(&chunk);
            receiver.push(&chunk)?;
            let length = chunk.len() as u64;
            missing = missing.saturating_sub(length);
            self.meter.done.fetch_add(length, Ordering::Relaxed);
        }
        let request_hash = request.finish();
        let mut out = ReplyChunks {
            transcript: ReplyTranscript::new(&request_hash, &self.shape),
            buffer: Vec::new(),
            chunk_bytes: self.chunk_bytes,
            produced: 0,
            declared: self.shape.payload_bytes,
            outbox: &self.outbox,
            meter: &self.meter,
        };
        let evaluated = receiver.evaluate(&mut |bytes| out.write(bytes));
        let busy = evaluated.map_err(|error| out.explain(error))?.busy;
        // A service that went on after `Break`, or that ended early, must not pass for finished.
        let reply_hash = out.finish()?;
        Ok(Finished { request_hash, reply_hash, busy })
    }
}

/// Cuts the reply into chunks of equal size, whatever pieces it comes in.
struct ReplyChunks<'a> {
    transcript: ReplyTranscript,
    buffer: Vec<u8>,
    chunk_bytes: usize,
    produced: u64,
    declared: u64,
    outbox: &'a mpsc::Sender<JobEvent>,
    meter: &'a Meter,
}

impl ReplyChunks<'_> {
    fn write(&mut self, mut bytes: &[u8]) -> ControlFlow<()> {
        self.produced = self.produced.saturating_add(bytes.len() as u64);
        if self.produced > self.declared || self.stopped() {
            return ControlFlow::Break(());
        }
        self.transcript.update(bytes);
        self.meter.done.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        while !bytes.is_empty() {
            if self.buffer.is_empty() {
                self.buffer.reserve_exact(self.chunk_bytes.min(self.missing(bytes.len())));
            }
            let room = self.chunk_bytes - self.buffer.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == self.chunk_bytes {
                self.send()?;
            }
        }
        ControlFlow::Continue(())
    }

    /// Bytes still to come, with the `present` ones just counted as produced.
    fn missing(&self, present: usize) -> usize {
        let after = self.declared.saturating_sub(self.produced);
        usize::try_from(after).unwrap_or(usize::MAX).saturating_add(present)
    }

    fn stopped(&self) -> bool {
        self.meter.stop.load(Ordering::Relaxed)
    }

    fn send(&mut self) -> ControlFlow<()> {
        let chunk = Bytes::from(std::mem::take(&mut self.buffer));
        match self.outbox.blocking_send(JobEvent::Chunk(chunk)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }

    /// A service stopped for producing too much says only that it was stopped.
    fn explain(&self, error: ServiceError) -> ServiceError {
        if self.produced > self.declared { self.wrong_length() } else { error }
    }

    const fn wrong_length(&self) -> ServiceError {
        ServiceError::WrongReplyLength { declared: self.declared, produced: self.produced }
    }

    fn finish(mut self) -> Result<Digest, ServiceError> {
        if self.stopped() {
            return Err(ServiceError::Stopped);
        }
        if self.produced != self.declared {
            return Err(self.wrong_length());
        }
        if !self.buffer.is_empty() && self.send().is_break() {
            return Err(ServiceError::Stopped);
        }
        Ok(self.transcript.finish())
    }
}
