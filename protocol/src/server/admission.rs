//! Admission: memory by declared bytes, processors by evaluations, each with a queue of its own.
//!
//! ```text
//!  Evaluate ─► memory gate ─► upload ─► processor gate ─► evaluation ─► last byte taken by the client
//!              declared bytes            max_evaluations   └ place given back          └ memory given back
//! ```
//! A request holds its memory from before its first payload byte until the last one of its reply is with
//! the operating system, and a place at the processors only from the end of its upload to the end of the
//! computation: a slow upload or download costs nobody else time. Threads are bounded by the processor
//! places and two small pools, whatever is admitted.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::gate::{Gate, GateLimits, Occupancy, Party, Pass, Turned};
use crate::limits::ServerLimits;
use crate::message::{Refusal, RefusalCode};

/// Pieces of uploads that are decoded at the same time: one computes, one is made ready. Each takes
/// two threads, to decode and to hash.
const DECODERS: usize = 2;

/// Questions to the host at the same time, a thread each.
const LOOKUPS: usize = 4;

/// The places of a server.
#[derive(Debug)]
pub(super) struct Admission {
    /// Units are bytes.
    memory: Gate,
    /// Units are evaluations.
    processors: Gate,
    decoders: Arc<Semaphore>,
    lookups: Arc<Semaphore>,
    patience: Duration,
}

impl Admission {
    /// The limits must have been checked. Of the memory, `reserved_bytes` are not for requests.
    pub(super) fn new(limits: &ServerLimits, reserved_bytes: u64, patience: Duration) -> Self {
        let memory = Gate::new(GateLimits {
            units: limits.max_memory_bytes.saturating_sub(reserved_bytes).max(1),
            holders: limits.max_requests,
            waiting: limits.max_waiting,
            waiting_per_party: limits.max_waiting_per_client,
        });
        let processors = Gate::new(GateLimits {
            units: limits.max_evaluations as u64,
            holders: limits.max_evaluations,
            // Only admitted requests come here; their parties take turns.
            waiting: limits.max_requests,
            waiting_per_party: limits.max_requests,
        });
        Self {
            memory,
            processors,
            decoders: Arc::new(Semaphore::new(DECODERS)),
            lookups: Arc::new(Semaphore::new(LOOKUPS)),
            patience,
        }
    }

    /// Wait for memory, but not for long.
    ///
    /// # Errors
    /// - `TooLarge`: no amount of waiting helps.
    /// - `Busy`: the queue is full, or the wait was in vain; with the time after which as much should
    ///   have been given back as this request and those in front of it lack.
    pub(super) async fn admit(&self, party: &Party, bytes: u64) -> Result<Pass, Refusal> {
        let busy = || Refusal::later(RefusalCode::Busy, self.memory.advice(bytes));
        match timeout(self.patience, self.memory.enter(party, bytes)).await {
            Ok(Ok(pass)) => Ok(pass),
            Ok(Err(Turned::Never)) => Err(Refusal::new(RefusalCode::TooLarge)),
            Ok(Err(Turned::Closed)) => Err(Refusal::new(RefusalCode::ShuttingDown)),
            Ok(Err(Turned::Full)) | Err(_) => Err(busy()),
        }
    }

    /// Wait for a place at the processors.
    ///
    /// # Errors
    /// The server has stopped.
    pub(super) async fn evaluation(&self, party: &Party) -> Result<Pass, Turned> {
        self.processors.enter(party, 1).await
    }

    /// Who may decode a piece of an upload.
    pub(super) fn decoders(&self) -> Arc<Semaphore> {
        Arc::clone(&self.decoders)
    }

    /// Who may ask the host.
    pub(super) fn lookups(&self) -> Arc<Semaphore> {
        Arc::clone(&self.lookups)
    }

    /// How full memory and processors are.
    pub(super) fn occupancy(&self) -> (Occupancy, Occupancy) {
        (self.memory.occupancy(), self.processors.occupancy())
    }

    /// Wait until no request holds a place, and hand out none any more.
    pub(super) async fn close(&self, limit: Duration) {
        tokio::join!(self.memory.close(limit), self.processors.close(limit));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn admission(max_requests: usize, max_waiting: usize, bytes: u64) -> Admission {
        let max_memory_bytes = bytes + 3;
        let limits =
            ServerLimits { max_requests, max_waiting, max_memory_bytes, ..ServerLimits::default() };
        Admission::new(&limits, 3, Duration::from_millis(20))
    }

    #[tokio::test]
    async fn who_waits_in_vain_is_told_when_to_come_back() {
        let admission = admission(2, 8, 10);
        let first = admission.admit(&Party::Inside, 6).await.unwrap();
        let refusal = admission.admit(&Party::Inside, 5).await.unwrap_err();
        assert_eq!(refusal.code, RefusalCode::Busy);
        assert!(refusal.retry_after().is_some());
        let second = admission.admit(&Party::Inside, 1).await.unwrap();
        let refusal = admission.admit(&Party::Inside, 1).await.unwrap_err();
        assert_eq!(refusal.code, RefusalCode::Busy, "two requests");
        drop((first, second));
        drop(admission.admit(&Party::Inside, 10).await.unwrap());
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once_and_what_never_fits_for_good() {
        let patient = Admission { patience: Duration::from_secs(600), ..admission(1, 0, 10) };
        let _held = patient.admit(&Party::Inside, 10).await.unwrap();
        let refusal = patient.admit(&Party::Inside, 1).await.unwrap_err();
        assert_eq!(refusal.code, RefusalCode::Busy);
        let refusal = patient.admit(&Party::Inside, u64::MAX).await.unwrap_err();
        assert_eq!((refusal.code, refusal.retry_after()), (RefusalCode::TooLarge, None));
    }

    #[tokio::test]
    async fn memory_and_processors_are_held_apart() {
        let limits = ServerLimits { max_evaluations: 1, ..ServerLimits::default() };
        let admission = Admission::new(&limits, 0, Duration::from_millis(20));
        let _evaluating = admission.evaluation(&Party::Inside).await.unwrap();
        let _uploading = admission.admit(&Party::Inside, 1).await.unwrap();
        let (memory, processors) = admission.occupancy();
        assert_eq!((memory.used, processors.used), (1, 1));
        admission.close(Duration::from_millis(1)).await;
        assert_eq!(admission.evaluation(&Party::Inside).await.unwrap_err(), Turned::Closed);
        let refusal = admission.admit(&Party::Inside, 1).await.unwrap_err();
        assert_eq!(refusal.code, RefusalCode::ShuttingDown);
    }
}
