#![allow(clippy::unwrap_used, reason = "tests")]

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use proptest::prelude::*;

use super::*;

type Entering<'a> = Pin<Box<dyn Future<Output = Result<Pass, Turned>> + 'a>>;

fn gate(units: u64, holders: usize, waiting: usize) -> Gate {
    Gate::new(GateLimits { units, holders, waiting, waiting_per_party: waiting })
}

/// What a future has to say now.
fn now<T>(future: Pin<&mut (impl Future<Output = T> + ?Sized)>) -> Option<T> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

fn enter_now(gate: &Gate, units: u64) -> Result<Pass, Turned> {
    now(pin!(gate.enter(&Party::Inside, units))).unwrap_or(Err(Turned::Full))
}

fn party(name: &str) -> Party {
    Party::Client(name.into())
}

#[test]
fn units_and_holders_are_both_limited_and_given_back() {
    let gate = gate(10, 2, 0);
    let first = enter_now(&gate, 6).unwrap();
    assert_eq!(enter_now(&gate, 5).unwrap_err(), Turned::Full);
    let second = enter_now(&gate, 4).unwrap();
    drop(first);
    let third = enter_now(&gate, 1).unwrap();
    assert_eq!(enter_now(&gate, 1).unwrap_err(), Turned::Full, "two hold passes");
    drop((second, third));
    drop(enter_now(&gate, 10).unwrap());
    assert_eq!(enter_now(&gate, 11).unwrap_err(), Turned::Never);
    assert_eq!(gate.occupancy(), Occupancy { used: 0, holders: 0, waiting: 0 });
}

#[test]
fn parties_take_turns_and_nobody_overtakes_within_one() {
    let gate = gate(1, 1, 10);
    let held = enter_now(&gate, 1).unwrap();
    let (a, b) = (party("a"), party("b"));
    let order = [("a1", &a), ("a2", &a), ("a3", &a), ("b1", &b), ("b2", &b)];
    let mut queue: Vec<(&str, Entering<'_>)> = order
        .into_iter()
        .map(|(name, who)| {
            let mut entering: Entering<'_> = Box::pin(gate.enter(who, 1));
            assert!(now(entering.as_mut()).is_none());
            (name, entering)
        })
        .collect();
    drop(held);
    let mut served = Vec::new();
    while !queue.is_empty() {
        let found = queue.iter_mut().enumerate().find_map(|(index, (_, entering))| {
            now(entering.as_mut()).map(|pass| (index, pass.unwrap()))
        });
        let (index, pass) = found.unwrap();
        served.push(queue.remove(index).0);
        drop(pass);
    }
    assert_eq!(served, ["a1", "b1", "a2", "b2", "a3"]);
}

#[test]
fn a_large_request_is_not_starved_by_small_ones() {
    let gate = gate(10, 10, 10);
    let held = enter_now(&gate, 6).unwrap();
    let (large, small) = (party("large"), party("small"));
    let mut large = pin!(gate.enter(&large, 9));
    assert!(now(large.as_mut()).is_none());
    let mut small = pin!(gate.enter(&small, 1));
    assert!(now(small.as_mut()).is_none(), "it would fit, and it came later");
    drop(held);
    let large = now(large).unwrap().unwrap();
    let small = now(small).unwrap().unwrap();
    assert_eq!(gate.occupancy().used, 10);
    drop((large, small));
}

#[test]
fn who_gives_up_leaves_no_trace_and_lets_the_next_in() {
    let gate = gate(10, 10, 2);
    let held = enter_now(&gate, 6).unwrap();
    let (large, small) = (party("large"), party("small"));
    let mut waiting: Entering<'_> = Box::pin(gate.enter(&large, 9));
    assert!(now(waiting.as_mut()).is_none());
    let mut next = pin!(gate.enter(&small, 1));
    assert!(now(next.as_mut()).is_none());
    assert_eq!(enter_now(&gate, 1).unwrap_err(), Turned::Full, "two wait already");
    drop(waiting);
    drop(now(next).unwrap().unwrap());
    // One that was let in and never looked.
    let mut unseen: Entering<'_> = Box::pin(gate.enter(&large, 10));
    assert!(now(unseen.as_mut()).is_none());
    drop(held);
    assert_eq!(gate.occupancy().used, 10);
    drop(unseen);
    assert_eq!(gate.occupancy(), Occupancy { used: 0, holders: 0, waiting: 0 });
}

#[test]
fn advice_follows_what_is_lacking_and_how_long_passes_are_held() {
    let gate = gate(10, 100, 100);
    let set_hold = |seconds| {
        gate.inner.state().hold = Some(Duration::from_secs(seconds));
    };
    set_hold(10);
    let _held = enter_now(&gate, 10).unwrap();
    assert_eq!(gate.advice(1), Duration::from_secs(1), "a tenth of it comes back in a second");
    assert_eq!(gate.advice(5), Duration::from_secs(5));
    let somebody = party("somebody");
    let mut waiting = pin!(gate.enter(&somebody, 10));
    assert!(now(waiting.as_mut()).is_none());
    assert_eq!(gate.advice(1), Duration::from_secs(11), "the queue goes first");
    set_hold(1000);
    assert_eq!(gate.advice(10), LONGEST_ADVICE);
    set_hold(0);
    assert_eq!(gate.advice(10), SHORTEST_ADVICE);
}

#[tokio::test]
async fn a_closed_gate_sends_everybody_away_and_waits_for_the_rest() {
    let gate = gate(1, 1, 10);
    let held = enter_now(&gate, 1).unwrap();
    let waiting = {
        let gate = gate.clone();
        tokio::spawn(async move { gate.enter(&Party::Inside, 1).await.map(drop) })
    };
    while gate.occupancy().waiting == 0 {
        tokio::task::yield_now().await;
    }
    let mut closing = pin!(gate.close(Duration::from_secs(60)));
    assert!(now(closing.as_mut()).is_none());
    assert_eq!(waiting.await.unwrap(), Err(Turned::Closed));
    assert_eq!(enter_now(&gate, 1).unwrap_err(), Turned::Closed);
    drop(held);
    closing.await;
    assert_eq!(gate.occupancy().holders, 0);
}

#[test]
fn neighbours_in_one_network_are_one_party() {
    let at = |text: &str| Party::at(text.parse().unwrap());
    assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:1"));
    assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
    assert_ne!(at("10.0.0.1"), at("10.0.0.2"));
    assert_eq!(at("::ffff:10.0.0.1"), at("10.0.0.1"), "as a listener on [::] tells it");
    assert_ne!(at("::ffff:10.0.0.1"), at("::ffff:10.0.0.2"));
}

#[test]
fn a_party_takes_no_more_than_its_share_of_the_queue() {
    let limits = GateLimits { units: 1, holders: 1, waiting: 3, waiting_per_party: 2 };
    let gate = Gate::new(limits);
    let held = enter_now(&gate, 1).unwrap();
    let (greedy, other) = (party("greedy"), party("other"));
    let mut waiting: Vec<Entering<'_>> = Vec::new();
    for _ in 0..2 {
        let mut entering: Entering<'_> = Box::pin(gate.enter(&greedy, 1));
        assert!(now(entering.as_mut()).is_none());
        waiting.push(entering);
    }
    assert_eq!(now(pin!(gate.enter(&greedy, 1))).unwrap().unwrap_err(), Turned::Full);
    let mut entering: Entering<'_> = Box::pin(gate.enter(&other, 1));
    assert!(now(entering.as_mut()).is_none(), "there is room for others");
    // A place that was left counts no more.
    drop(waiting.pop());
    let mut again = pin!(gate.enter(&greedy, 1));
    assert!(now(again.as_mut()).is_none());
    drop(held);
}

#[test]
fn a_pass_grows_into_free_room_only_and_gives_back_what_it_does_not_need() {
    let gate = gate(10, 3, 3);
    let pass = enter_now(&gate, 4).unwrap();
    assert!(!pass.try_grow(7) && !pass.try_grow(u64::MAX));
    assert!(pass.try_grow(6));
    assert_eq!(gate.occupancy().used, 10);
    let somebody = party("somebody");
    let mut waiting: Entering<'_> = Box::pin(gate.enter(&somebody, 9));
    assert!(now(waiting.as_mut()).is_none());
    pass.shrink_to(2);
    assert!(now(waiting.as_mut()).is_none());
    assert!(!pass.try_grow(1), "somebody waits for it");
    pass.shrink_to(1);
    pass.shrink_to(5);
    assert_eq!(gate.occupancy().used, 10, "whoever waited has the rest");
    drop(pass);
    assert_eq!(gate.occupancy().used, 9);
    drop(now(waiting.as_mut()).unwrap().unwrap());
    assert_eq!(gate.occupancy().used, 0);
}

/// What may happen to a gate.
#[derive(Debug, Clone)]
enum Step {
    Enter {
        party: u8,
        units: u64,
    },
    /// Look at one that waits; take the pass if there is one.
    Look(usize),
    GiveUp(usize),
    GiveBack(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..4_u8, 0..12_u64).prop_map(|(party, units)| Step::Enter { party, units }),
        (0..20_usize).prop_map(Step::Look),
        (0..20_usize).prop_map(Step::GiveUp),
        (0..20_usize).prop_map(Step::GiveBack),
    ];
    prop::collection::vec(step, 1..80)
}

proptest! {
    /// Whatever happens: never more inside than the limits, never more waiting than may, nothing is
    /// lost, and everybody who stays comes in.
    #[test]
    fn a_gate_keeps_its_limits_and_forgets_nobody(steps in steps()) {
        let (units, holders, waiting) = (10, 4, 6);
        let gate = gate(units, holders, waiting);
        let parties: Vec<Party> = (0..4).map(|i| party(&i.to_string())).collect();
        let mut queue: Vec<Entering<'_>> = Vec::new();
        let mut passes: Vec<Pass> = Vec::new();
        for step in steps {
            match step {
                Step::Enter { party, units: asked } => {
                    let before = gate.occupancy();
                    let mut entering: Entering<'_> =
                        Box::pin(gate.enter(&parties[usize::from(party)], asked));
                    match now(entering.as_mut()) {
                        Some(Ok(pass)) => passes.push(pass),
                        Some(Err(Turned::Never)) => prop_assert!(asked > units),
                        Some(Err(turned)) => {
                            prop_assert_eq!(turned, Turned::Full);
                            prop_assert_eq!(before.waiting, waiting);
                        }
                        None => queue.push(entering),
                    }
                }
                Step::Look(index) if index < queue.len() => {
                    if let Some(pass) = now(queue[index].as_mut()) {
                        drop(queue.remove(index));
                        passes.push(pass.unwrap());
                    }
                }
                Step::GiveUp(index) if index < queue.len() => drop(queue.remove(index)),
                Step::GiveBack(index) if index < passes.len() => drop(passes.remove(index)),
                Step::Look(_) | Step::GiveUp(_) | Step::GiveBack(_) => {}
            }
            let state = gate.occupancy();
            prop_assert!(state.used <= units && state.holders <= holders);
            prop_assert!(state.waiting <= waiting && state.waiting <= queue.len());
            let kept: u64 = passes.iter().map(|pass| pass.units.load(Ordering::Relaxed)).sum();
            prop_assert!(state.used >= kept);
        }
        while !queue.is_empty() {
            passes.clear();
            let before = queue.len();
            queue.retain_mut(|entering| now(entering.as_mut()).is_none());
            prop_assert!(queue.len() < before, "somebody waits in front of an open gate");
        }
        passes.clear();
        let empty = Occupancy { used: 0, holders: 0, waiting: 0 };
        prop_assert_eq!(gate.occupancy(), empty);
    }
}
