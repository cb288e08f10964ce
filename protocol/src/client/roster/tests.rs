#![allow(clippy::unwrap_used, reason = "tests")]
use std::sync::Arc;

use super::super::endpoint::{Connect, Connecting};
use super::*;
use crate::client::Stage;
use crate::error::LinkError;

struct Nowhere;

impl Connect for Nowhere {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async { Err(lost()) })
    }
}

fn lost() -> Error {
    LinkError::Lost { stage: Stage::Connecting, source: None }.into()
}

fn refused(code: RefusalCode) -> Error {
    PeerFault::Refused { code, retry_after: None }.into()
}

fn roster(n: usize) -> Roster {
    let endpoint = |i: usize| Endpoint::custom_named(Arc::new(Nowhere), format!("server {i}"));
    Roster::new((0..n).map(endpoint).collect())
}

const PLAN: Digest = Digest([1; 32]);
const OTHER: Digest = Digest([2; 32]);

#[test]
fn requests_are_spread_over_servers_that_work() {
    let (roster, now) = (roster(3), Instant::now());
    let chosen: Vec<_> = (0..6).map(|_| roster.choose(Some(&PLAN), now).unwrap()).collect();
    assert_eq!(chosen, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn a_server_that_failed_comes_last_until_it_is_due_and_time_has_passed() {
    let (roster, now) = (roster(3), Instant::now());
    let again = now + Duration::from_millis(200);
    let due = roster.note_failure(1, Some(&PLAN), &lost(), now, again).unwrap();
    assert_eq!(due, now, "the others are due at once");
    let chosen: Vec<_> = (0..4).map(|_| roster.choose(Some(&PLAN), now).unwrap()).collect();
    assert!(!chosen.contains(&1), "{chosen:?}");
    let later = now + REINSTATED_AFTER;
    let chosen: Vec<_> = (0..3).map(|_| roster.choose(Some(&PLAN), later).unwrap()).collect();
    assert!(chosen.contains(&1), "it gets another chance");
    roster.note_success(1);
    assert!(roster.is_good(1, Some(&PLAN)));
}

#[test]
fn when_all_have_failed_the_first_that_is_due_is_waited_for() {
    let (roster, now) = (roster(2), Instant::now());
    let at = |ms| now + Duration::from_millis(ms);
    roster.note_failure(0, None, &lost(), now, at(300));
    let due = roster.note_failure(1, None, &lost(), now, at(100)).unwrap();
    assert_eq!(due, at(100));
    assert_eq!(roster.choose(None, at(100)), Some(1));
}

#[test]
fn other_plans_identities_and_builds_are_left_out_for_as_much_as_they_concern() {
    let roster = roster(3);
    let now = Instant::now();
    assert!(roster.exclude(0, Some(&PLAN), &refused(RefusalCode::UnknownPlan)));
    assert!(roster.exclude(1, Some(&PLAN), &refused(RefusalCode::UnsupportedVersion)));
    for _ in 0..4 {
        assert_eq!(roster.choose(Some(&PLAN), now), Some(2));
        assert_ne!(roster.choose(Some(&OTHER), now), Some(1));
    }
    let failures = roster.failures(Some(&PLAN));
    let excluded: Vec<_> = failures.iter().map(|failure| failure.is_excluded).collect();
    assert_eq!(excluded, [true, true, false]);
    assert!(failures[0].to_string().starts_with("server 0 (left out): the server refused"));
    assert_eq!(failures[2].to_string(), "server 2: was not tried");
    assert!(roster.exclude(2, None, &PeerFault::ReceiptSignature.into()));
    assert!(!roster.is_anybody_left(Some(&PLAN)));
    assert_eq!(roster.choose(Some(&PLAN), now), None);
}

#[test]
fn what_passes_or_is_nobodys_fault_leaves_nobody_out() {
    let roster = roster(2);
    let cancelled = Error::from(crate::error::ResourceError::Cancelled);
    for error in [lost(), refused(RefusalCode::Busy), cancelled] {
        assert!(!roster.exclude(0, None, &error), "{error}");
    }
    for code in RefusalCode::ALL.into_iter().filter(|code| !code.is_passing()) {
        assert!(roster.exclude(0, Some(&PLAN), &refused(code)), "{code:?}");
    }
}

#[test]
fn a_single_server_is_always_chosen() {
    let roster = roster(1);
    roster.exclude(0, None, &refused(RefusalCode::Unauthorized));
    assert_eq!(roster.choose(None, Instant::now()), Some(0));
    assert!(roster.is_anybody_left(None));
}
