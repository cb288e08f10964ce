//! What a client has used: token buckets and places.
//!
//! A bucket of `limit` units per period refills evenly and holds `limit` units. Levels are integers
//! in units times nanoseconds of the period, so that nothing is lost to rounding however often a
//! bucket is looked at.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::client::ClientLimits;
use super::clock::Clock;
use crate::message::{Refusal, RefusalCode};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Advice to a client that has as many requests under way as it may.
const PLACE_RETRY: Duration = Duration::from_millis(500);
/// Shortest advice: less than a round trip helps nobody.
const SHORTEST_RETRY: Duration = Duration::from_millis(50);

/// What one client has used.
#[derive(Debug, Default)]
pub(super) struct Meter {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    requests: Option<Bucket>,
    bytes: Option<Bucket>,
    max_places: Option<u32>,
    places: u32,
}

impl Meter {
    /// Limits that stay keep their levels.
    pub(super) fn set_limits(&self, limits: &ClientLimits, now: Duration) {
        let mut state = self.state();
        let requests = limits.requests_per_minute.map(u64::from);
        state.requests = Bucket::renewed(state.requests.take(), requests, MINUTE, now);
        state.bytes = Bucket::renewed(state.bytes.take(), limits.bytes_per_hour, HOUR, now);
        state.max_places = limits.concurrent_requests;
    }

    /// Count a request and take a place.
    pub(super) fn begin(self: &Arc<Self>, clock: &Arc<dyn Clock>) -> Result<Ticket, Refusal> {
        let mut state = self.state();
        if let Some(bucket) = &mut state.requests {
            bucket.take(1, clock.monotonic()).map_err(Shortage::refusal)?;
        }
        if state.max_places.is_some_and(|max| state.places >= max) {
            return Err(Refusal::later(RefusalCode::RateLimited, PLACE_RETRY));
        }
        state.places = state.places.saturating_add(1);
        drop(state);
        Ok(Ticket { meter: Some((Arc::clone(self), Arc::clone(clock))), spent_bytes: 0 })
    }

    /// A panic while the state was held leaves it intact: it only counts.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client's place for one request, given back when dropped.
pub struct Ticket {
    meter: Option<(Arc<Meter>, Arc<dyn Clock>)>,
    spent_bytes: u64,
}

impl Ticket {
    pub(super) const fn unlimited() -> Self {
        Self { meter: None, spent_bytes: 0 }
    }

    /// Count payload bytes, up and down together, before they move.
    ///
    /// # Errors
    /// - `RateLimited`: too many in an hour.
    /// - `TooLarge`: more than the client may move in an hour at all.
    pub fn spend(&mut self, n_bytes: u64) -> Result<(), Refusal> {
        if let Some((meter, clock)) = &self.meter
            && let Some(bucket) = &mut meter.state().bytes
        {
            bucket.take(n_bytes, clock.monotonic()).map_err(Shortage::refusal)?;
            self.spent_bytes = self.spent_bytes.saturating_add(n_bytes);
        }
        Ok(())
    }

    /// The server has no room after all: nothing was moved, and nothing counts.
    pub fn forgive(self) {
        if let Some((meter, _)) = &self.meter {
            let mut state = meter.state();
            if let Some(bucket) = &mut state.bytes {
                bucket.give_back(self.spent_bytes);
            }
            if let Some(bucket) = &mut state.requests {
                bucket.give_back(1);
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some((meter, _)) = &self.meter {
            let mut state = meter.state();
            state.places = state.places.saturating_sub(1);
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("spent_bytes", &self.spent_bytes).finish_non_exhaustive()
    }
}

/// Why a bucket did not give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shortage {
    For(Duration),
    Forever,
}

impl Shortage {
    fn refusal(self) -> Refusal {
        match self {
            Self::For(time) => Refusal::later(RefusalCode::RateLimited, time.max(SHORTEST_RETRY)),
            Self::Forever => Refusal::new(RefusalCode::TooLarge),
        }
    }
}

#[derive(Debug, Clone)]
struct Bucket {
    /// At least 1.
    limit: u64,
    period: Duration,
    /// Units left, times nanoseconds of the period.
    level: u128,
    updated: Duration,
}

impl Bucket {
    fn renewed(
        old: Option<Self>,
        limit: Option<u64>,
        period: Duration,
        now: Duration,
    ) -> Option<Self> {
        let limit = limit?;
        if let Some(old) = old.filter(|old| old.limit == limit) {
            return Some(old);
        }
        let level = u128::from(limit) * period.as_nanos();
        Some(Self { limit, period, level, updated: now })
    }

    fn capacity(&self) -> u128 {
        u128::from(self.limit) * self.period.as_nanos()
    }

    fn take(&mut self, amount: u64, now: Duration) -> Result<(), Shortage> {
        if amount > self.limit {
            return Err(Shortage::Forever);
        }
        let passed = now.saturating_sub(self.updated);
        self.updated = self.updated.max(now);
        let refill = u128::from(self.limit).saturating_mul(passed.as_nanos());
        self.level = self.level.saturating_add(refill).min(self.capacity());
        let cost = u128::from(amount) * self.period.as_nanos();
        match self.level.checked_sub(cost) {
            Some(rest) => {
                self.level = rest;
                Ok(())
            }
            None => {
                let nanos = (cost - self.level).div_ceil(u128::from(self.limit.max(1)));
                let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
                Err(Shortage::For(Duration::from_nanos(nanos)))
            }
        }
    }

    fn give_back(&mut self, amount: u64) {
        let amount = u128::from(amount) * self.period.as_nanos();
        self.level = self.level.saturating_add(amount).min(self.capacity());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    fn bucket(limit: u64) -> Bucket {
        Bucket::renewed(None, Some(limit), MINUTE, Duration::ZERO).unwrap()
    }

    #[test]
    fn a_bucket_gives_its_limit_at_once_and_then_evenly() {
        let mut bucket = bucket(3);
        for _ in 0..3 {
            assert_eq!(bucket.take(1, Duration::ZERO), Ok(()));
        }
        let wait = Duration::from_secs(20);
        assert_eq!(bucket.take(1, Duration::ZERO), Err(Shortage::For(wait)));
        let almost = wait - Duration::from_nanos(1);
        assert_eq!(bucket.take(1, almost), Err(Shortage::For(Duration::from_nanos(1))));
        assert_eq!(bucket.take(1, wait), Ok(()));
        assert_eq!(bucket.take(4, wait), Err(Shortage::Forever));
        assert_eq!(bucket.take(3, wait + MINUTE), Ok(()), "it does not overflow");
        assert!(bucket.take(1, wait + MINUTE).is_err(), "nor hold more than its limit");
    }

    #[test]
    fn time_that_runs_backwards_gives_nothing() {
        let mut bucket = bucket(1);
        assert_eq!(bucket.take(1, Duration::from_secs(100)), Ok(()));
        assert!(bucket.take(1, Duration::ZERO).is_err());
        assert!(bucket.take(1, Duration::from_secs(159)).is_err());
        assert_eq!(bucket.take(1, Duration::from_secs(160)), Ok(()));
    }

    proptest! {
        /// However it is asked: never more than the limit and what the time has brought, and the
        /// advised wait is enough.
        #[test]
        fn a_bucket_never_gives_more_than_its_share(
            limit in 1..1_000_000_u64,
            asks in prop::collection::vec((0..2_000_000_u64, 0..100_000_u64), 1..40),
        ) {
            let mut bucket = bucket(limit);
            let (mut now, mut given) = (Duration::ZERO, 0_u128);
            for (amount, millis) in asks {
                now += Duration::from_millis(millis);
                match bucket.take(amount, now) {
                    Ok(()) => given += u128::from(amount),
                    Err(Shortage::Forever) => prop_assert!(amount > limit),
                    Err(Shortage::For(wait)) => {
                        prop_assert_eq!(bucket.clone().take(amount, now + wait), Ok(()));
                        prop_assert!(wait > Duration::ZERO);
                    }
                }
                let share = u128::from(limit) * (MINUTE + now).as_nanos();
                prop_assert!(given * MINUTE.as_nanos() <= share);
            }
        }
    }
}
