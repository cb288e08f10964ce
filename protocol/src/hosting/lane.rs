//! Turns on the server's cores, a piece of one request at a time.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often an evaluation that waits for a turn looks whether it is still wanted.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// Turns of uploads, one after the other, after which an evaluation that waits has one. Uploads are the
/// shorter turns by far.
const UPLOADS_PER_EVALUATION: u32 = 8;

/// Takes turns between the requests of a server: whoever has a turn computes on every core.
///
/// Uploads go first, in the order in which they came: their turns are short, and a client that waits for
/// one may run into its time limit. Among evaluations the one that began first goes first: its reply can
/// then be decrypted while the next one is computed. One that waits for its client asks for no turn and
/// holds up nobody.
///
/// Nobody starves: an upload waits for those before it and for one evaluation in
/// [`UPLOADS_PER_EVALUATION`] turns; an evaluation that waits for the evaluations before it and for as
/// many uploads each.
#[derive(Debug, Default)]
pub(super) struct Lane {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_taken: bool,
    /// Numbers of the uploads that wait for a turn.
    uploads: BTreeSet<u64>,
    /// Numbers of the evaluations that wait for a turn.
    evaluations: BTreeSet<u64>,
    n_begun: u64,
    /// Turns of uploads since the last one of an evaluation, while one waits.
    n_passed_over: u32,
}

impl State {
    /// Whether an evaluation has been passed over often enough.
    fn is_evaluations_turn(&self) -> bool {
        let is_due = self.n_passed_over >= UPLOADS_PER_EVALUATION;
        !self.evaluations.is_empty() && (self.uploads.is_empty() || is_due)
    }

    fn may_upload(&self, number: u64) -> bool {
        let is_first = self.uploads.first() == Some(&number);
        !self.is_taken && is_first && !self.is_evaluations_turn()
    }

    fn may_evaluate(&self, number: u64) -> bool {
        let is_first = self.evaluations.first() == Some(&number);
        !self.is_taken && is_first && self.is_evaluations_turn()
    }

    fn number(&mut self) -> u64 {
        self.n_begun += 1;
        self.n_begun
    }
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
        let number = state.number();
        state.uploads.insert(number);
        let mut state = self
            .changed
            .wait_while(state, |state| !state.may_upload(number))
            .unwrap_or_else(PoisonError::into_inner);
        state.uploads.remove(&number);
        state.n_passed_over = match state.evaluations.is_empty() {
            true => 0,
            false => state.n_passed_over.saturating_add(1),
        };
        self.take(&mut state)
    }

    /// An evaluation begins: it goes before all that begin later.
    pub(super) fn evaluation(&self) -> Evaluation<'_> {
        Evaluation { lane: self, number: self.state().number() }
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
            let must_wait = |state: &mut State| !state.may_evaluate(number);
            let (found, waited) = lane
                .changed
                .wait_timeout_while(state, LOOK_PAUSE, must_wait)
                .unwrap_or_else(PoisonError::into_inner);
            state = found;
            if !waited.timed_out() {
                state.evaluations.remove(&number);
                state.n_passed_over = 0;
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

    /// Who had a turn, in order.
    #[derive(Default)]
    struct Order(Mutex<Vec<&'static str>>);

    impl Order {
        fn note(&self, name: &'static str, turn: Turn<'_>) {
            self.0.lock().unwrap().push(name);
            drop(turn);
        }
    }

    fn until_waiting(lane: &Lane, n: usize) {
        let n_waiting = |state: &State| state.uploads.len() + state.evaluations.len();
        while n_waiting(&lane.state()) < n {
            std::thread::yield_now();
        }
    }

    #[test]
    fn uploads_go_first_then_the_oldest_evaluation() {
        let lane = Lane::default();
        let (first, second) = (lane.evaluation(), lane.evaluation());
        let order = Order::default();
        let held = first.turn(|| true).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| order.note("second", second.turn(|| true).unwrap()));
            until_waiting(&lane, 1);
            scope.spawn(|| order.note("first", first.turn(|| true).unwrap()));
            until_waiting(&lane, 2);
            scope.spawn(|| order.note("upload", lane.upload()));
            until_waiting(&lane, 3);
            scope.spawn(|| order.note("later upload", lane.upload()));
            until_waiting(&lane, 4);
            drop(held);
        });
        let order = order.0.into_inner().unwrap();
        assert_eq!(order, ["upload", "later upload", "first", "second"]);
    }

    #[test]
    fn neither_an_upload_nor_an_evaluation_starves() {
        let lane = Lane::default();
        let (first, second) = (lane.evaluation(), lane.evaluation());
        let order = Order::default();
        let held = lane.upload();
        let per_evaluation = UPLOADS_PER_EVALUATION as usize;
        std::thread::scope(|scope| {
            scope.spawn(|| order.note("evaluation", first.turn(|| true).unwrap()));
            until_waiting(&lane, 1);
            scope.spawn(|| order.note("evaluation", second.turn(|| true).unwrap()));
            until_waiting(&lane, 2);
            for n in 0..=2 * per_evaluation {
                scope.spawn(|| order.note("upload", lane.upload()));
                until_waiting(&lane, 3 + n);
            }
            drop(held);
        });
        let order = order.0.into_inner().unwrap();
        let found = |from: usize| order.iter().skip(from).position(|name| *name == "evaluation");
        assert_eq!(found(0), Some(per_evaluation), "{order:?}");
        assert_eq!(found(per_evaluation + 1), Some(per_evaluation), "{order:?}");
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
