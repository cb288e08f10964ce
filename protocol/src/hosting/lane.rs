//! Turns on the server's cores, a piece of one request at a time.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often an evaluation that waits for a turn looks whether it is still wanted.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// Takes turns between the requests of a server: whoever has a turn computes on every core.
///
/// Uploads go first: their turns are short, and a client that waits for one may run into its time
/// limit. Among evaluations the one that began first goes first: its reply can then be decrypted
/// while the next one is computed. One that waits for its client asks for no turn and holds up nobody.
#[derive(Debug, Default)]
pub(super) struct Lane {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_taken: bool,
    /// Uploads that wait for a turn.
    n_uploads: usize,
    /// Numbers of the evaluations that wait for a turn.
    evaluations: BTreeSet<u64>,
    n_begun: u64,
}

/// An evaluation's place in the order.
#[derive(Debug)]
pub(super) struct Evaluation<'a> {
    lane: &'a Lane,
    number: u64,
}

/// Permission to compute, given back on drop.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    lane: &'a Lane,
    started: Instant,
}

impl Lane {
    /// Wait for a turn to decode a piece of an upload. Blocks the thread.
    pub(super) fn upload(&self) -> Turn<'_> {
        let mut state = self.state();
        state.n_uploads += 1;
        let mut state = self
            .changed
            .wait_while(state, |state| state.is_taken)
            .unwrap_or_else(PoisonError::into_inner);
        state.n_uploads -= 1;
        self.take(&mut state)
    }

    /// An evaluation begins: it goes before all that begin later.
    pub(super) fn evaluation(&self) -> Evaluation<'_> {
        let mut state = self.state();
        state.n_begun += 1;
        Evaluation { lane: self, number: state.n_begun }
    }

    fn take(&self, state: &mut State) -> Turn<'_> {
        state.is_taken = true;
        Turn { lane: self, started: Instant::now() }
    }

    /// A panic while the state was held leaves it intact: it only counts.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> Evaluation<'a> {
    /// Wait for a turn to evaluate a piece of the reply, for as long as somebody wants it. Blocks the
    /// thread. `None`: nobody does any more.
    pub(super) fn turn(&self, mut is_wanted: impl FnMut() -> bool) -> Option<Turn<'a>> {
        let Self { lane, number } = *self;
        let mut state = lane.state();
        state.evaluations.insert(number);
        loop {
            let must_wait = |state: &mut State| {
                let is_first = state.evaluations.first() == Some(&number);
                state.is_taken || state.n_uploads > 0 || !is_first
            };
            let (found, waited) = lane
                .changed
                .wait_timeout_while(state, LOOK_PAUSE, must_wait)
                .unwrap_or_else(PoisonError::into_inner);
            state = found;
            if !waited.timed_out() {
                state.evaluations.remove(&number);
                return Some(lane.take(&mut state));
            }
            drop(state);
            let wanted = is_wanted();
            state = lane.state();
            if !wanted {
                state.evaluations.remove(&number);
                // It may have stood in front of others.
                lane.changed.notify_all();
                return None;
            }
        }
    }
}

impl Turn<'_> {
    /// Gives the cores back; returns the time on all of them.
    pub(super) fn end(self) -> Duration {
        self.started.elapsed() * u32::try_from(rayon::current_num_threads()).unwrap_or(1)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.lane.state().is_taken = false;
        self.lane.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn uploads_go_first_then_the_oldest_evaluation() {
        let lane = Lane::default();
        let (first, second) = (lane.evaluation(), lane.evaluation());
        let order = Mutex::new(Vec::new());
        let note = |name: &'static str, turn: Turn<'_>| {
            order.lock().unwrap_or_else(PoisonError::into_inner).push(name);
            drop(turn);
        };
        let until_waiting = |n: usize| {
            let n_waiting = |state: &State| state.n_uploads + state.evaluations.len();
            while n_waiting(&lane.state()) < n {
                std::thread::yield_now();
            }
        };
        let held = first.turn(|| true).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| note("second", second.turn(|| true).unwrap()));
            until_waiting(1);
            scope.spawn(|| note("first", first.turn(|| true).unwrap()));
            until_waiting(2);
            scope.spawn(|| note("upload", lane.upload()));
            until_waiting(3);
            drop(held);
        });
        let order = order.into_inner().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(order, ["upload", "first", "second"]);
    }

    #[test]
    fn one_that_is_not_wanted_any_more_stops_waiting_and_holds_up_nobody() {
        let lane = Lane::default();
        let (first, second) = (lane.evaluation(), lane.evaluation());
        let held = second.turn(|| true).unwrap();
        assert!(first.turn(|| false).is_none());
        drop(held);
        drop(second.turn(|| true).unwrap());
        assert!(lane.state().evaluations.is_empty());
    }

    #[test]
    fn an_evaluation_that_does_not_ask_holds_up_nobody() {
        let lane = Lane::default();
        let (_waits_for_its_client, other) = (lane.evaluation(), lane.evaluation());
        drop(other.turn(|| true).unwrap());
        drop(lane.upload());
    }
}
