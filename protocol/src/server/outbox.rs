//! What a job tells its driver, and how much of a reply may wait in between.
//!
//! ```text
//!  scribe ══ chunks ══► room ══► driver ─► client
//!                        │ full for a while: more memory, if there is some to spare
//!                        └ the computation is over: all that is left
//! ```
//! A client that is slow to take its reply holds back the evaluation as long as there is no memory for
//! the rest of the reply. Once there is, or once everything is computed, the rest waits here without a
//! thread and without a place at the processors.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::job::JobEvent;

/// How long a reply is held up by its client, all in all, before memory for the rest of it is asked for;
/// and again after as long.
const PATIENCE: Duration = Duration::from_millis(250);

/// Says whether so many more bytes of memory may be used.
pub(super) type MoreMemory = Box<dyn Fn(u64) -> bool + Send + Sync>;

/// The job's end.
#[derive(Clone)]
pub(super) struct Outbox {
    events: UnboundedSender<JobEvent>,
    room: Arc<Room>,
}

/// The driver's end.
pub(super) struct Events {
    events: UnboundedReceiver<JobEvent>,
    room: Arc<Room>,
}

struct Room {
    state: Mutex<State>,
    changed: Condvar,
    /// Bytes that may wait at first. One chunk always may.
    limit_bytes: u64,
    more: MoreMemory,
}

#[derive(Debug, Default)]
struct State {
    waiting_bytes: u64,
    /// Whether the limit is lifted.
    is_open: bool,
    /// Whether nobody takes anything any more.
    is_closed: bool,
    /// How long chunks have waited in front of the room since memory was last asked for.
    held_up: Duration,
}

/// Both ends; `limit_bytes` of chunks may wait in between until `more` allows the rest.
pub(super) fn outbox(limit_bytes: u64, more: MoreMemory) -> (Outbox, Events) {
    let (sender, receiver) = unbounded_channel();
    let room = Room { state: Mutex::default(), changed: Condvar::new(), limit_bytes, more };
    let room = Arc::new(room);
    (Outbox { events: sender, room: Arc::clone(&room) }, Events { events: receiver, room })
}

impl Outbox {
    /// Hand over the next bytes of the reply, after which `missing` are to come. Blocks the thread
    /// while there is no room. Whether anybody takes them.
    pub(super) fn send(&self, chunk: Bytes, missing: u64) -> bool {
        let n_bytes = chunk.len() as u64;
        self.room.enter(n_bytes, missing) && self.events.send(JobEvent::Chunk(chunk)).is_ok()
    }

    /// Tell something that takes no room.
    pub(super) fn tell(&self, event: JobEvent) {
        // Nobody listens: nobody need know.
        let _ = self.events.send(event);
    }

    /// Ready when nobody takes anything any more.
    pub(super) async fn closed(&self) {
        self.events.closed().await;
    }

    /// Whatever comes from now on may wait: it exists already.
    pub(super) fn open(&self) {
        self.room.state().is_open = true;
        self.room.changed.notify_all();
    }

    /// Bytes of the reply that wait.
    pub(super) fn waiting_bytes(&self) -> u64 {
        self.room.state().waiting_bytes
    }
}

impl Events {
    /// The next event; `None` after the last. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Option<JobEvent> {
        let event = self.events.recv().await?;
        if let JobEvent::Chunk(chunk) = &event {
            let mut state = self.room.state();
            state.waiting_bytes = state.waiting_bytes.saturating_sub(chunk.len() as u64);
            drop(state);
            self.room.changed.notify_all();
        }
        Some(event)
    }

    /// Take nothing any more.
    pub(super) fn close(&mut self) {
        self.events.close();
        self.room.state().is_closed = true;
        self.room.changed.notify_all();
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.close();
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("room", &*self.room.state()).finish_non_exhaustive()
    }
}

impl Room {
    /// Wait for room. Whether anybody takes anything.
    fn enter(&self, n_bytes: u64, missing: u64) -> bool {
        let mut state = self.state();
        loop {
            if state.is_closed {
                return false;
            }
            let fits = state.waiting_bytes.saturating_add(n_bytes) <= self.limit_bytes;
            if state.is_open || fits || state.waiting_bytes == 0 {
                state.waiting_bytes = state.waiting_bytes.saturating_add(n_bytes);
                return true;
            }
            if state.held_up >= PATIENCE {
                state.held_up = Duration::ZERO;
                state.is_open = (self.more)(n_bytes.saturating_add(missing));
                continue;
            }
            let since = Instant::now();
            let left = PATIENCE - state.held_up;
            state =
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            state.held_up += since.elapsed();
        }
    }

    /// A panic while the state was held leaves it intact: it only counts.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;

    use super::*;

    fn chunk(n: usize) -> Bytes {
        Bytes::from(vec![1; n])
    }

    /// Ends that never get more memory.
    fn small(limit_bytes: u64) -> (Outbox, Events) {
        outbox(limit_bytes, Box::new(|_| false))
    }

    #[test]
    fn a_chunk_waits_for_room_and_a_lone_one_always_fits() {
        let (outbox, mut events) = small(10);
        assert!(outbox.send(chunk(30), 5));
        thread::scope(|scope| {
            let second = scope.spawn(|| outbox.send(chunk(5), 0));
            assert_eq!(outbox.waiting_bytes(), 30, "the second has to wait");
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            assert!(matches!(runtime.block_on(events.next()), Some(JobEvent::Chunk(_))));
            assert!(second.join().unwrap());
        });
        assert_eq!(outbox.waiting_bytes(), 5);
    }

    #[test]
    fn who_is_held_up_goes_on_with_memory_for_the_rest() {
        let asked = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&asked);
        let more = move |n_bytes| seen.fetch_add(n_bytes, Ordering::SeqCst) > 0;
        let (outbox, _events) = outbox(10, Box::new(more));
        // The first question is denied, the second is not; then nothing more is asked for.
        assert!([8, 7, 6, 5].into_iter().all(|n| outbox.send(chunk(n), 100)));
        assert_eq!(asked.load(Ordering::SeqCst), 2 * 107);
        assert_eq!(outbox.waiting_bytes(), 26);
    }

    #[test]
    fn what_exists_already_needs_no_room() {
        let (outbox, _events) = small(10);
        assert!(outbox.send(chunk(8), 20));
        thread::scope(|scope| {
            let rest = scope.spawn(|| outbox.send(chunk(9), 11) && outbox.send(chunk(11), 0));
            outbox.open();
            assert!(rest.join().unwrap());
        });
        assert_eq!(outbox.waiting_bytes(), 28);
    }

    #[test]
    fn nobody_waits_for_a_driver_that_is_gone() {
        let (outbox, mut events) = small(10);
        assert!(outbox.send(chunk(8), 20));
        thread::scope(|scope| {
            let waits = scope.spawn(|| outbox.send(chunk(9), 11));
            events.close();
            assert!(!waits.join().unwrap());
        });
        drop(events);
        assert!(!outbox.send(chunk(1), 0));
    }
}
