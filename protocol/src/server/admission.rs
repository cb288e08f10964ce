//! Admission: how many requests run at the same time, by number and by declared memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::limits::ServerLimits;
use crate::message::{Refusal, RefusalCode};

/// Memory is counted in units of this many bytes.
const UNIT_BYTES: u64 = 64 << 10;

/// Advice to a refused client is kept within these bounds.
const SHORTEST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// The places of a server.
#[derive(Debug)]
pub(super) struct Admission {
    jobs: Arc<Semaphore>,
    max_jobs: u32,
    memory: Arc<Semaphore>,
    max_units: u32,
    patience: Duration,
    /// Moving average of how long a request keeps its place, in microseconds; 0 = not known.
    mean_micros: AtomicU64,
}

/// A place, given back when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    _job: OwnedSemaphorePermit,
    _memory: OwnedSemaphorePermit,
}

impl Admission {
    /// The limits must have been checked. Of the memory, `spare_bytes` are not for requests.
    pub(super) fn new(limits: &ServerLimits, spare_bytes: u64, patience: Duration) -> Self {
        let max_jobs = u32::try_from(limits.max_jobs).unwrap_or(u32::MAX);
        let max_units = units(limits.max_memory_bytes.saturating_sub(spare_bytes));
        Self {
            jobs: Arc::new(Semaphore::new(max_jobs as usize)),
            max_jobs,
            memory: Arc::new(Semaphore::new(max_units as usize)),
            max_units,
            patience,
            mean_micros: AtomicU64::new(0),
        }
    }

    /// Wait for a place, but not for long. First come, first served.
    ///
    /// # Errors
    /// `TooLarge`, if no amount of waiting helps; `Busy`, if the wait was in vain.
    pub(super) async fn admit(&self, memory_bytes: u64) -> Result<Permit, Refusal> {
        let units = units(memory_bytes);
        if units > self.max_units {
            return Err(Refusal::new(RefusalCode::TooLarge));
        }
        let places = async {
            let memory = Arc::clone(&self.memory).acquire_many_owned(units).await;
            let job = Arc::clone(&self.jobs).acquire_owned().await;
            memory.and_then(|memory| job.map(|job| Permit { _job: job, _memory: memory }))
        };
        match timeout(self.patience, places).await {
            Ok(Ok(permit)) => Ok(permit),
            // The semaphores are closed when the server has stopped.
            Ok(Err(_)) => Err(Refusal::new(RefusalCode::ShuttingDown)),
            Err(_) => Err(Refusal::later(RefusalCode::Busy, self.retry_after())),
        }
    }

    /// Note how long a request kept its place.
    pub(super) fn note_duration(&self, duration: Duration) {
        let sample = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).max(1);
        let old = self.mean_micros.load(Ordering::Relaxed);
        let mean = if old == 0 { sample } else { old - old / 8 + sample / 8 };
        // Two requests that end together may lose one sample: it is an average.
        self.mean_micros.store(mean, Ordering::Relaxed);
    }

    /// Wait until no request holds a place, and hand out none any more.
    pub(super) async fn close(&self, limit: Duration) {
        let all = Arc::clone(&self.jobs).acquire_many_owned(self.max_jobs);
        let _ = timeout(limit, all).await;
        self.jobs.close();
        self.memory.close();
    }

    fn retry_after(&self) -> Duration {
        Duration::from_micros(self.mean_micros.load(Ordering::Relaxed))
            .clamp(SHORTEST_RETRY, LONGEST_RETRY)
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES).max(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn admission(max_jobs: usize, max_memory_bytes: u64) -> Admission {
        let max_memory_bytes = max_memory_bytes + 3 * UNIT_BYTES;
        let limits = ServerLimits { max_jobs, max_memory_bytes, ..ServerLimits::default() };
        Admission::new(&limits, 3 * UNIT_BYTES, Duration::from_millis(20))
    }

    #[tokio::test]
    async fn jobs_and_memory_are_both_limited_and_given_back() {
        let admission = admission(2, 10 * UNIT_BYTES);
        let first = admission.admit(6 * UNIT_BYTES).await.unwrap();
        let refusal = admission.admit(5 * UNIT_BYTES).await.unwrap_err();
        assert_eq!(refusal.code, RefusalCode::Busy);
        assert_eq!(refusal.retry_after(), Some(SHORTEST_RETRY));
        let second = admission.admit(1).await.unwrap();
        assert_eq!(admission.admit(1).await.unwrap_err().code, RefusalCode::Busy);
        drop(first);
        admission.admit(9 * UNIT_BYTES).await.unwrap();
        drop(second);
        admission.admit(10 * UNIT_BYTES).await.unwrap();
    }

    #[tokio::test]
    async fn what_never_fits_is_refused_for_good() {
        let refusal = admission(1, UNIT_BYTES).admit(u64::MAX).await.unwrap_err();
        assert_eq!(refusal.code, RefusalCode::TooLarge);
    }

    #[tokio::test]
    async fn advice_follows_the_time_requests_take() {
        let admission = admission(1, 1);
        admission.note_duration(Duration::from_secs(2));
        let _permit = admission.admit(1).await.unwrap();
        let refusal = admission.admit(1).await.unwrap_err();
        assert_eq!(refusal.retry_after(), Some(Duration::from_secs(2)));
        for _ in 0..100 {
            admission.note_duration(Duration::from_secs(1000));
        }
        assert_eq!(admission.retry_after(), LONGEST_RETRY);
    }
}
