//! When to try again, and when to stop trying. No clock of its own: the caller says what time it is.

use std::time::{Duration, Instant};

use crate::error::{Error, PeerFault};
use crate::identifiers::RequestId;
use crate::message::RefusalCode;

/// How patient a client is with a request that fails.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// Longest wait after the first failure; doubled after each further one. The wait itself is
    /// uniform between nothing and that ("full jitter"): clients of a server that comes back do not
    /// arrive together. Default 100 ms.
    pub first_backoff: Duration,
    /// Where the doubling ends. Default 3 s.
    pub longest_backoff: Duration,
    /// How long a server may stay unreachable before the request fails: time for a server that was
    /// killed to come back. Default 60 s.
    pub outage: Duration,
    /// How long a server may stay busy before the request fails. Default 10 min.
    pub busy: Duration,
    /// How often an admitted request may be interrupted before it fails: a server that dies of the
    /// request itself must not be killed for ever. Default 8.
    pub max_interruptions: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            first_backoff: Duration::from_millis(100),
            longest_backoff: Duration::from_secs(3),
            outage: Duration::from_secs(60),
            busy: Duration::from_secs(10 * 60),
            max_interruptions: 8,
        }
    }
}

impl RetryPolicy {
    /// Never try again.
    #[must_use]
    pub fn never() -> Self {
        Self {
            outage: Duration::ZERO,
            busy: Duration::ZERO,
            max_interruptions: 0,
            ..Self::default()
        }
    }
}

/// What to do after a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Try again after this time.
    Wait(Duration),
    /// A budget is used up.
    GiveUp {
        /// Time since the first failure.
        elapsed: Duration,
    },
    /// Another attempt cannot help.
    Final,
}

/// The history of one request's failures.
#[derive(Debug)]
pub struct RetryClock {
    policy: RetryPolicy,
    /// Makes the waits of different requests differ.
    request_id: RequestId,
    failures: u32,
    interruptions: u32,
    /// Failures since the server was last heard of, for the back-off.
    streak: u32,
    first_failure: Option<Instant>,
    unreachable_since: Option<Instant>,
    busy_since: Option<Instant>,
}

impl RetryClock {
    /// A request that has not failed yet.
    #[must_use]
    pub const fn new(policy: RetryPolicy, request_id: RequestId) -> Self {
        Self {
            policy,
            request_id,
            failures: 0,
            interruptions: 0,
            streak: 0,
            first_failure: None,
            unreachable_since: None,
            busy_since: None,
        }
    }

    /// Attempts that failed so far.
    #[must_use]
    pub const fn n_failures(&self) -> u32 {
        self.failures
    }

    /// Decide after a failure. `admitted`: the request had a place on the server when it failed.
    pub fn decide(&mut self, now: Instant, error: &Error, admitted: bool) -> Decision {
        if !error.is_retryable() {
            return Decision::Final;
        }
        self.failures = self.failures.saturating_add(1);
        let elapsed = now.saturating_duration_since(*self.first_failure.get_or_insert(now));
        if admitted {
            self.interruptions += 1;
            self.streak = 0;
            self.unreachable_since = None;
            self.busy_since = None;
        }
        let (since, patience) = if is_busy(error) {
            self.unreachable_since = None;
            (self.busy_since.get_or_insert(now), self.policy.busy)
        } else {
            (self.unreachable_since.get_or_insert(now), self.policy.outage)
        };
        let waited = now.saturating_duration_since(*since);
        if waited >= patience || self.interruptions > self.policy.max_interruptions {
            return Decision::GiveUp { elapsed };
        }
        self.streak = self.streak.saturating_add(1);
        // Wake up once more before the patience ends.
        Decision::Wait(self.wait(error).min(patience.saturating_sub(waited)))
    }

    fn wait(&self, error: &Error) -> Duration {
        let doublings = self.streak.saturating_sub(1).min(20);
        let backoff = self
            .policy
            .first_backoff
            .saturating_mul(1 << doublings)
            .min(self.policy.longest_backoff);
        let jitter = self.jitter();
        let own = backoff.mul_f64(jitter);
        let advised =
            advice(error).map_or(Duration::ZERO, |time| time.mul_f64(1.0 + 0.25 * jitter));
        own.max(advised)
    }

    /// A number in `[0, 1)` that differs between requests and attempts. Request numbers are random,
    /// so this is as good as a generator.
    fn jitter(&self) -> f64 {
        let mut hasher = blake3::Hasher::new_derive_key("securedl protocol 1 retry jitter");
        hasher.update(&self.request_id.0);
        hasher.update(&self.failures.to_le_bytes());
        let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
        f64::from(u32::from_le_bytes([a, b, c, d])) / (f64::from(u32::MAX) + 1.0)
    }
}

const fn is_busy(error: &Error) -> bool {
    matches!(
        error,
        Error::Peer(PeerFault::Refused { code: RefusalCode::Busy | RefusalCode::RateLimited, .. })
    )
}

const fn advice(error: &Error) -> Option<Duration> {
    if let Error::Peer(PeerFault::Refused { retry_after, .. }) = error {
        *retry_after
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "tests"
    )]
    use super::*;
    use crate::client::Stage;
    use crate::error::{LinkError, Malformed};

    fn lost() -> Error {
        LinkError::Lost { stage: Stage::Connecting, source: None }.into()
    }

    fn refused(code: RefusalCode, retry_after: Option<Duration>) -> Error {
        PeerFault::Refused { code, retry_after }.into()
    }

    fn clock() -> RetryClock {
        RetryClock::new(RetryPolicy::default(), RequestId([7; 16]))
    }

    /// Let every attempt fail at once and say how long the client went on.
    fn persistence(clock: &mut RetryClock, error: impl Fn() -> Error, admitted: bool) -> Duration {
        let start = Instant::now();
        let mut now = start;
        loop {
            match clock.decide(now, &error(), admitted) {
                Decision::Wait(wait) => now += wait.max(Duration::from_nanos(1)),
                Decision::GiveUp { elapsed } => {
                    assert_eq!(elapsed, now - start);
                    return elapsed;
                }
                Decision::Final => panic!("not retryable"),
            }
        }
    }

    #[test]
    fn an_outage_is_bridged_for_its_whole_budget_and_no_longer() {
        assert_eq!(persistence(&mut clock(), lost, false), Duration::from_secs(60));
        let shutting_down = || refused(RefusalCode::ShuttingDown, None);
        assert_eq!(persistence(&mut clock(), shutting_down, false), Duration::from_secs(60));
    }

    #[test]
    fn a_busy_server_gets_more_time_and_its_advice_is_kept() {
        let advice = Duration::from_secs(7);
        let busy = || refused(RefusalCode::Busy, Some(advice));
        let Decision::Wait(wait) = clock().decide(Instant::now(), &busy(), false) else {
            panic!("gave up");
        };
        assert!(wait >= advice && wait <= advice.mul_f64(1.25), "{wait:?}");
        assert_eq!(persistence(&mut clock(), busy, false), Duration::from_secs(600));
    }

    #[test]
    fn interruptions_are_counted_however_long_they_take() {
        let mut clock = clock();
        let mut now = Instant::now();
        for _ in 0..RetryPolicy::default().max_interruptions {
            assert!(matches!(clock.decide(now, &lost(), true), Decision::Wait(_)));
            now += Duration::from_secs(3600);
        }
        assert!(matches!(clock.decide(now, &lost(), true), Decision::GiveUp { .. }));
    }

    #[test]
    fn waits_double_up_to_the_longest_and_differ_between_requests() {
        let policy = RetryPolicy::default();
        let mut waits = Vec::new();
        for id in [1, 2] {
            let mut clock = RetryClock::new(policy.clone(), RequestId([id; 16]));
            let now = Instant::now();
            for step in 0..8 {
                let Decision::Wait(wait) = clock.decide(now, &lost(), false) else {
                    panic!("gave up");
                };
                let full = (policy.first_backoff * (1 << step)).min(policy.longest_backoff);
                assert!(wait <= full, "step {step}: {wait:?}");
                waits.push(wait.as_secs_f64() / full.as_secs_f64());
            }
        }
        assert_ne!(waits.first(), waits.get(8));
    }

    #[test]
    fn waits_are_spread_over_all_of_their_range() {
        let share = |id: u32| {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&id.to_le_bytes());
            let mut clock = RetryClock::new(RetryPolicy::default(), RequestId(bytes));
            let Decision::Wait(wait) = clock.decide(Instant::now(), &lost(), false) else {
                panic!("gave up");
            };
            wait.as_secs_f64() / RetryPolicy::default().first_backoff.as_secs_f64()
        };
        let mut counts = [0_u32; 10];
        for id in 0..2000 {
            counts[(share(id) * 10.0) as usize] += 1;
        }
        // 200 expected in each, deviation 13.4.
        assert!(counts.iter().all(|n| (130..270).contains(n)), "{counts:?}");
    }

    #[test]
    fn what_cannot_pass_is_final() {
        let now = Instant::now();
        let malformed = Error::from(Malformed::EmptyChunk);
        assert_eq!(clock().decide(now, &malformed, false), Decision::Final);
        for code in RefusalCode::ALL {
            let decision = clock().decide(now, &refused(code, None), false);
            assert_eq!(matches!(decision, Decision::Final), !code.is_passing(), "{code:?}");
        }
        let mut never = RetryClock::new(RetryPolicy::never(), RequestId([0; 16]));
        assert!(matches!(never.decide(now, &lost(), false), Decision::GiveUp { .. }));
    }
}
