//! The two times that access depends on.

use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A source of time, so that tests need not wait.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Time since some fixed moment; never runs backwards. Limits count by it.
    fn monotonic(&self) -> Duration;

    /// Seconds since 1970-01-01 (UTC) by the wall clock. Expiry days count by it.
    fn unix_seconds(&self) -> u64;
}

/// The clocks of this machine.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    /// Monotonic time counts from now on.
    #[must_use]
    pub fn new() -> Self {
        Self { started: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }

    fn unix_seconds(&self) -> u64 {
        unix_time().as_secs()
    }
}

/// Time since 1970-01-01 (UTC); zero before.
#[expect(clippy::disallowed_methods, reason = "expiry days and audit records are wall-clock times")]
pub(crate) fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
