//! A gate that lets in as much as fits, with a fair and bounded queue in front of it.
//!
//! ```text
//!  party A ──► a₁ a₂ a₃ ─┐
//!  party B ──► b₁ ───────┼─ one each in turn ──► used ≤ units, holders ≤ max_holders
//!  party C ──► c₁ c₂ ────┘                       (given back when the pass is dropped)
//! ```
//! Whoever is next waits until there is room for it; nobody smaller overtakes, so that large requests
//! are not starved. Parties take turns, so that one with many requests delays the others by one each.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

/// Advice is kept within these bounds.
pub(super) const SHORTEST_ADVICE: Duration = Duration::from_millis(100);
pub(super) const LONGEST_ADVICE: Duration = Duration::from_secs(30);

/// How long a pass is taken to be held before any was given back.
const FIRST_GUESS: Duration = Duration::from_secs(1);

/// Weight of the newest sample in the average time that a pass is held: one in so many.
const AVERAGE_OVER: u32 = 8;

/// Who waits: parties take turns.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Party {
    /// Somebody inside the process.
    Inside,
    /// A client of the access list.
    Client(Arc<str>),
    /// An anonymous client, by its address.
    Address(IpAddr),
}

impl Party {
    /// An anonymous client.
    pub(super) fn at(address: IpAddr) -> Self {
        Self::Address(network_of(address))
    }
}

/// The address that stands for all those of one client. Of an IPv6 address the first 64 bits count: the
/// others are one machine's. An IPv4 address in the shape of an IPv6 one is the IPv4 address.
pub(super) fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let network = u128::from(v6) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(network))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// What a gate lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GateLimits {
    /// Units that all holders may have together. At least 1.
    pub(super) units: u64,
    /// Holders at the same time. At least 1.
    pub(super) holders: usize,
    /// Who may wait at the same time.
    pub(super) waiting: usize,
    /// How many of them may be of one party.
    pub(super) waiting_per_party: usize,
}

/// Why somebody does not get a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turned {
    /// It asks for more units than there are.
    Never,
    /// The queue is full, or the party's share of it.
    Full,
    /// The gate is closed for good.
    Closed,
}

/// How full a gate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Occupancy {
    pub(super) used: u64,
    pub(super) holders: usize,
    pub(super) waiting: usize,
}

/// A gate. Cheap to clone; clones are one.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    limits: GateLimits,
    state: Mutex<State>,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct State {
    used: u64,
    holders: usize,
    queue: Queue,
    closed: bool,
    /// Average time that a pass is held; `None` before the first was given back.
    hold: Option<Duration>,
    n_entered: u64,
}

/// Who waits, by party.
#[derive(Debug, Default)]
struct Queue {
    /// Never empty.
    lines: HashMap<Party, VecDeque<Waiter>>,
    /// The parties with a line, in the order of their turns.
    turns: VecDeque<Party>,
    waiting: usize,
    units: u64,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    units: u64,
    grant: oneshot::Sender<Pass>,
}

/// Room behind a gate, given back when dropped.
#[derive(Debug)]
pub(super) struct Pass {
    inner: Arc<Inner>,
    /// Changed under the lock of the gate's state only.
    units: AtomicU64,
    since: Instant,
}

impl Gate {
    pub(super) fn new(limits: GateLimits) -> Self {
        Self {
            inner: Arc::new(Inner {
                limits,
                state: Mutex::new(State::default()),
                emptied: Notify::new(),
            }),
        }
    }

    /// Wait for room, for as long as it takes. A future that is dropped leaves the queue.
    ///
    /// # Errors
    /// [`Turned`]: there is no point in waiting, or no place to wait.
    pub(super) async fn enter(&self, party: &Party, units: u64) -> Result<Pass, Turned> {
        let inner = &self.inner;
        let (waiting, granted) = {
            let mut state = inner.state();
            if state.closed {
                return Err(Turned::Closed);
            }
            if units > inner.limits.units {
                return Err(Turned::Never);
            }
            if state.queue.waiting == 0 && state.fits(&inner.limits, units) {
                return Ok(state.take(inner, units));
            }
            let GateLimits { waiting, waiting_per_party, .. } = inner.limits;
            if state.queue.waiting >= waiting || state.queue.n_of(party) >= waiting_per_party {
                return Err(Turned::Full);
            }
            let (grant, granted) = oneshot::channel();
            state.n_entered += 1;
            let id = state.n_entered;
            state.queue.push(party, Waiter { id, units, grant });
            (Waiting { inner, party, id }, granted)
        };
        let pass = granted.await.map_err(|_| Turned::Closed);
        drop(waiting);
        pass
    }

    /// How long somebody who asks for so many units should stay away: the time in which as much is
    /// given back as it and everybody in front of it lack, if passes are held as long as of late.
    pub(super) fn advice(&self, units: u64) -> Duration {
        let limits = &self.inner.limits;
        let state = self.inner.state();
        let hold = state.hold.unwrap_or(FIRST_GUESS).as_micros();
        let share = |used: u64, queued: u64, asked: u64, capacity: u64| {
            let wanted = used.saturating_add(queued).saturating_add(asked);
            let lacking = u128::from(wanted.saturating_sub(capacity));
            hold.saturating_mul(lacking) / u128::from(capacity.max(1))
        };
        let by_units = share(state.used, state.queue.units, units, limits.units);
        let (holders, waiting) = (state.holders as u64, state.queue.waiting as u64);
        let by_holders = share(holders, waiting, 1, limits.holders as u64);
        let micros = u64::try_from(by_units.max(by_holders)).unwrap_or(u64::MAX);
        Duration::from_micros(micros).clamp(SHORTEST_ADVICE, LONGEST_ADVICE)
    }

    pub(super) fn occupancy(&self) -> Occupancy {
        let state = self.inner.state();
        Occupancy { used: state.used, holders: state.holders, waiting: state.queue.waiting }
    }

    /// Send everybody in the queue away, let nobody in any more, and wait until the last pass has been
    /// given back, but not longer than `limit`.
    pub(super) async fn close(&self, limit: Duration) {
        let queue = {
            let mut state = self.inner.state();
            state.closed = true;
            std::mem::take(&mut state.queue)
        };
        // Tells those who wait; not under the lock, which they take when they leave.
        drop(queue);
        let everybody_left = async {
            loop {
                let emptied = self.inner.emptied.notified();
                if self.inner.state().holders == 0 {
                    return;
                }
                emptied.await;
            }
        };
        let _ = timeout(limit, everybody_left).await;
    }
}

impl Inner {
    /// A panic while the state was held leaves it intact: it only counts.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Let in whoever is next, as long as there is room.
    fn hand_out(self: &Arc<Self>) {
        loop {
            let (grant, pass) = {
                let mut state = self.state();
                let Some(units) = state.queue.next_units() else { return };
                if !state.fits(&self.limits, units) {
                    return;
                }
                let Some(waiter) = state.queue.pop() else { return };
                (waiter.grant, state.take(self, waiter.units))
            };
            // Who has left meanwhile does not take it, and dropping it hands it on.
            drop(grant.send(pass));
        }
    }
}

impl State {
    fn fits(&self, limits: &GateLimits, units: u64) -> bool {
        let used = self.used.checked_add(units);
        self.holders < limits.holders && used.is_some_and(|used| used <= limits.units)
    }

    fn take(&mut self, inner: &Arc<Inner>, units: u64) -> Pass {
        self.used += units;
        self.holders += 1;
        Pass { inner: Arc::clone(inner), units: AtomicU64::new(units), since: Instant::now() }
    }

    fn note_hold(&mut self, held: Duration) {
        self.hold = Some(match self.hold {
            None => held,
            Some(mean) => (mean * (AVERAGE_OVER - 1) + held) / AVERAGE_OVER,
        });
    }
}

impl Queue {
    fn push(&mut self, party: &Party, waiter: Waiter) {
        self.waiting += 1;
        self.units = self.units.saturating_add(waiter.units);
        let line = self.lines.entry(party.clone()).or_default();
        if line.is_empty() {
            self.turns.push_back(party.clone());
        }
        line.push_back(waiter);
    }

    /// How many of a party wait.
    fn n_of(&self, party: &Party) -> usize {
        self.lines.get(party).map_or(0, VecDeque::len)
    }

    /// What the next in turn asks for.
    fn next_units(&self) -> Option<u64> {
        self.lines.get(self.turns.front()?)?.front().map(|waiter| waiter.units)
    }

    /// Take the next in turn out; its party's next turn is after all others'.
    fn pop(&mut self) -> Option<Waiter> {
        let party = self.turns.pop_front()?;
        let line = self.lines.get_mut(&party)?;
        let waiter = line.pop_front()?;
        if line.is_empty() {
            self.lines.remove(&party);
        } else {
            self.turns.push_back(party);
        }
        self.forget(&waiter);
        Some(waiter)
    }

    /// Take somebody out who gave up.
    fn remove(&mut self, party: &Party, id: u64) {
        let Some(line) = self.lines.get_mut(party) else { return };
        let Some(index) = line.iter().position(|waiter| waiter.id == id) else { return };
        let removed = line.remove(index);
        if line.is_empty() {
            self.lines.remove(party);
            self.turns.retain(|other| other != party);
        }
        if let Some(waiter) = removed {
            self.forget(&waiter);
        }
    }

    fn forget(&mut self, waiter: &Waiter) {
        self.waiting -= 1;
        self.units = self.units.saturating_sub(waiter.units);
    }
}

impl Pass {
    /// Take so many units more, if they are there and nobody waits for any. Whether it did.
    pub(super) fn try_grow(&self, units: u64) -> bool {
        let mut state = self.inner.state();
        let used = state.used.checked_add(units).filter(|used| *used <= self.inner.limits.units);
        let Some(used) = used.filter(|_| state.queue.waiting == 0) else { return false };
        state.used = used;
        self.units.fetch_add(units, Ordering::Relaxed);
        true
    }

    /// Give back what is held beyond so many units.
    pub(super) fn shrink_to(&self, units: u64) {
        {
            let mut state = self.inner.state();
            let given = self.units.load(Ordering::Relaxed).saturating_sub(units);
            self.units.fetch_sub(given, Ordering::Relaxed);
            state.used -= given;
        }
        self.inner.hand_out();
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        {
            let mut state = self.inner.state();
            state.used -= self.units.load(Ordering::Relaxed);
            state.holders -= 1;
            state.note_hold(self.since.elapsed());
            if state.holders == 0 {
                self.inner.emptied.notify_waiters();
            }
        }
        self.inner.hand_out();
    }
}

/// A place in the queue, left when dropped.
struct Waiting<'a> {
    inner: &'a Arc<Inner>,
    party: &'a Party,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.inner.state().queue.remove(self.party, self.id);
        // It may have been the one who did not fit.
        self.inner.hand_out();
    }
}

#[cfg(test)]
mod tests;
