//! Turns on the processor's cores, and the time nobody used them.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Takes turns between the blocks of a run: whoever has a turn computes on every core.
///
/// Turns are short (a few megabytes of one block) and given in the order in which they were asked
/// for, so that no block waits for the whole of another, and buffers stay those of one.
#[derive(Debug)]
pub struct Lane {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    next_ticket: u64,
    serving: u64,
    is_taken: bool,
    /// Requests that are complete and not answered.
    n_awaiting: usize,
    idle: IdleTimes,
    /// When `idle` was last brought up to date.
    updated: Instant,
}

/// How long requests were awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IdleTimes {
    /// Wall time with at least one request complete and not answered.
    pub awaiting: Duration,
    /// The part of it in which no turn was taken: the client had nothing to compute.
    pub idle: Duration,
}

/// Permission to compute, given back on drop.
#[derive(Debug)]
pub struct Turn<'a> {
    lane: &'a Lane,
}

impl Default for Lane {
    fn default() -> Self {
        let state = State {
            next_ticket: 0,
            serving: 0,
            is_taken: false,
            n_awaiting: 0,
            idle: IdleTimes::default(),
            updated: Instant::now(),
        };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }
}

impl Lane {
    /// Wait for a turn. Blocks the thread.
    #[must_use]
    pub fn turn(&self) -> Turn<'_> {
        let mut state = self.state();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        let mut state = self
            .changed
            .wait_while(state, |state| state.is_taken || state.serving != ticket)
            .unwrap_or_else(PoisonError::into_inner);
        state.update();
        state.is_taken = true;
        state.serving += 1;
        Turn { lane: self }
    }

    /// A request is complete; its answer is awaited.
    pub fn note_request(&self) {
        let mut state = self.state();
        state.update();
        state.n_awaiting += 1;
    }

    /// An awaited request was answered, or will not be.
    pub fn note_answer(&self) {
        let mut state = self.state();
        state.update();
        state.n_awaiting = state.n_awaiting.saturating_sub(1);
    }

    /// Times up to now.
    #[must_use]
    pub fn idle_times(&self) -> IdleTimes {
        let mut state = self.state();
        state.update();
        state.idle
    }

    /// A panic while the state was held leaves it intact: it only counts.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn update(&mut self) {
        let now = Instant::now();
        let passed = now.saturating_duration_since(self.updated);
        self.updated = now;
        if self.n_awaiting > 0 {
            self.idle.awaiting += passed;
            if !self.is_taken {
                self.idle.idle += passed;
            }
        }
    }
}

impl IdleTimes {
    /// Estimate of the time that neither side computed, when the server says that it was busy for
    /// `server_busy` on all its threads together.
    ///
    /// ```text
    /// network = idle · (1 − min(1, server_busy / (n_threads · awaiting)))
    /// ```
    /// The server's busy time is taken as spread evenly over the time in which it could be busy with
    /// complete requests, and over `n_threads` threads: exact if the client never computes
    /// meanwhile and the server has that many.
    #[must_use]
    pub fn network(&self, server_busy: Duration, n_threads: usize) -> Duration {
        let possible = self.awaiting * u32::try_from(n_threads).unwrap_or(u32::MAX);
        if possible.is_zero() {
            return Duration::ZERO;
        }
        let share = (server_busy.as_secs_f64() / possible.as_secs_f64()).min(1.0);
        self.idle.mul_f64(1.0 - share)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.lane.state();
        state.update();
        state.is_taken = false;
        drop(state);
        self.lane.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn one_turn_at_a_time_in_the_order_of_asking() {
        let lane = Arc::new(Lane::default());
        let computing = Arc::new(AtomicUsize::new(0));
        let order = Arc::new(Mutex::new(Vec::new()));
        let held = lane.turn();
        let threads: Vec<_> = (0..4_u64)
            .map(|number| {
                let (lane2, computing, order) =
                    (Arc::clone(&lane), Arc::clone(&computing), Arc::clone(&order));
                let thread = std::thread::spawn(move || {
                    let _turn = lane2.turn();
                    assert_eq!(computing.fetch_add(1, Ordering::SeqCst), 0);
                    order.lock().unwrap_or_else(PoisonError::into_inner).push(number);
                    computing.fetch_sub(1, Ordering::SeqCst);
                });
                // The next one asks after this one.
                while lane.state().next_ticket < number + 2 {
                    std::thread::yield_now();
                }
                thread
            })
            .collect();
        drop(held);
        let finished = threads.into_iter().all(|thread| thread.join().is_ok());
        assert!(finished);
        assert_eq!(*order.lock().unwrap_or_else(PoisonError::into_inner), [0, 1, 2, 3]);
    }

    #[test]
    fn time_counts_as_idle_only_while_something_is_awaited_and_nobody_computes() {
        let lane = Lane::default();
        assert_eq!(lane.idle_times(), IdleTimes::default());
        lane.note_request();
        let turn = lane.turn();
        let before = lane.idle_times();
        while lane.idle_times().awaiting == before.awaiting {}
        let during = lane.idle_times();
        assert_eq!(during.idle, before.idle);
        drop(turn);
        while lane.idle_times().idle == during.idle {}
        lane.note_answer();
        let after = lane.idle_times();
        assert_eq!(lane.idle_times(), after);
        assert!(after.awaiting > after.idle);
    }

    #[test]
    fn network_is_what_the_servers_share_leaves() {
        let second = Duration::from_secs(1);
        let times = IdleTimes { awaiting: 4 * second, idle: 2 * second };
        assert_eq!(times.network(Duration::ZERO, 2), 2 * second);
        assert_eq!(times.network(2 * second, 1), second);
        assert_eq!(times.network(4 * second, 2), second);
        assert_eq!(times.network(100 * second, 2), Duration::ZERO);
        assert_eq!(IdleTimes::default().network(second, 1), Duration::ZERO);
    }
}
