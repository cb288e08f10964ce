//! Which of several servers a request goes to: what each has done lately, and which are left out.
//!
//! No clock of its own: the caller says what time it is.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::endpoint::Endpoint;
use crate::error::{Error, Misuse, PeerFault};
use crate::identifiers::Digest;
use crate::message::RefusalCode;

/// A server that failed is tried again after this time even while others work: it may be back.
const REINSTATED_AFTER: Duration = Duration::from_secs(30);

/// What a server last did wrong, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFailure {
    /// The server, as its endpoint is written.
    pub server: String,
    /// Its last failure; `None` if it was not tried.
    pub last: Option<String>,
    /// Whether it is left out: another plan, identity or build, or a breach of the protocol.
    pub is_excluded: bool,
}

impl fmt::Display for ServerFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, last, is_excluded } = self;
        let mark = if *is_excluded { " (left out)" } else { "" };
        write!(f, "{server}{mark}: {}", last.as_deref().unwrap_or("was not tried"))
    }
}

/// The servers of a client.
#[derive(Debug)]
pub(super) struct Roster {
    endpoints: Vec<Endpoint>,
    standings: Mutex<Standings>,
}

#[derive(Debug)]
struct Standings {
    servers: Vec<Standing>,
    /// Spreads requests over the servers that work.
    next: usize,
}

#[derive(Debug, Clone, Default)]
struct Standing {
    last_failure: Option<String>,
    /// Set while the server's last attempt was a failure: when it failed, and when it is worth
    /// another attempt.
    failing: Option<(Instant, Instant)>,
    /// For what it is left out.
    exclusions: Vec<Scope>,
}

/// How much a server is left out of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Everything,
    Plan(Digest),
}

/// What another server may answer differently, and for how long this one is not asked.
enum Blame {
    /// It may be able to tomorrow, or with the next attempt.
    Passing,
    /// This server, whatever is asked.
    Server,
    /// This server, for this plan.
    Plan,
    /// Nobody: another server would be told the same.
    Nobody,
}

impl Roster {
    /// At least one endpoint is wanted; without any, nothing is ever chosen.
    pub(super) fn new(endpoints: Vec<Endpoint>) -> Self {
        let servers = vec![Standing::default(); endpoints.len()];
        Self { endpoints, standings: Mutex::new(Standings { servers, next: 0 }) }
    }

    pub(super) fn endpoint(&self, server: usize) -> Option<&Endpoint> {
        self.endpoints.get(server)
    }

    pub(super) fn is_single(&self) -> bool {
        self.endpoints.len() < 2
    }

    /// Whether an open connection to this server may be used for a request that has not failed.
    pub(super) fn is_good(&self, server: usize, plan: Option<&Digest>) -> bool {
        let standings = self.standings();
        let standing = standings.servers.get(server);
        standing.is_some_and(|standing| standing.failing.is_none() && !standing.is_excluded(plan))
    }

    /// The server for the next attempt: one that works, in turn; else the one whose failure is worth
    /// another attempt first. A single server is never left out.
    pub(super) fn choose(&self, plan: Option<&Digest>, now: Instant) -> Option<usize> {
        if self.is_single() {
            return (!self.endpoints.is_empty()).then_some(0);
        }
        let mut standings = self.standings();
        let n = standings.servers.len();
        let first = standings.next;
        let in_turn = (0..n).map(|offset| (first + offset) % n);
        let chosen = in_turn
            .filter_map(|server| {
                let standing = standings.servers.get(server)?;
                (!standing.is_excluded(plan)).then_some((standing.rank(now), server))
            })
            .min_by_key(|&(rank, _)| rank)
            .map(|(_, server)| server)?;
        standings.next = (chosen + 1) % n;
        Some(chosen)
    }

    /// A server answered as it should.
    pub(super) fn note_success(&self, server: usize) {
        if let Some(standing) = self.standings().servers.get_mut(server) {
            standing.failing = None;
        }
    }

    /// Leave a server out, if its failure is one that stays while another server may do better;
    /// says whether it did.
    pub(super) fn exclude(&self, server: usize, plan: Option<&Digest>, error: &Error) -> bool {
        let scope = match blame(error) {
            Blame::Passing | Blame::Nobody => return false,
            Blame::Server => Scope::Everything,
            Blame::Plan => plan.map_or(Scope::Everything, |plan| Scope::Plan(*plan)),
        };
        if let Some(standing) = self.standings().servers.get_mut(server) {
            standing.last_failure = Some(told(error));
            if !standing.exclusions.contains(&scope) {
                standing.exclusions.push(scope);
            }
        }
        true
    }

    /// A server failed in a way that passes and is worth another attempt at `again`. Returns when the
    /// next attempt is due, on whichever server; `None` if all are left out.
    pub(super) fn note_failure(
        &self,
        server: usize,
        plan: Option<&Digest>,
        error: &Error,
        now: Instant,
        again: Instant,
    ) -> Option<Instant> {
        let mut standings = self.standings();
        if let Some(standing) = standings.servers.get_mut(server) {
            standing.last_failure = Some(told(error));
            standing.failing = Some((now, again));
        }
        let due = |standing: &Standing| standing.failing.map_or(now, |(_, again)| again);
        let usable = standings.servers.iter().filter(|standing| !standing.is_excluded(plan));
        usable.map(due).min()
    }

    /// Whether a server is left for requests of this plan.
    pub(super) fn is_anybody_left(&self, plan: Option<&Digest>) -> bool {
        let standings = self.standings();
        self.is_single() || standings.servers.iter().any(|standing| !standing.is_excluded(plan))
    }

    /// The last failure of each server.
    pub(super) fn failures(&self, plan: Option<&Digest>) -> Vec<ServerFailure> {
        let standings = self.standings();
        let servers = self.endpoints.iter().zip(&standings.servers);
        servers
            .map(|(endpoint, standing)| ServerFailure {
                server: endpoint.to_string(),
                last: standing.last_failure.clone(),
                is_excluded: standing.is_excluded(plan),
            })
            .collect()
    }

    /// A panic while the standings were held leaves them usable: each change is one assignment.
    fn standings(&self) -> MutexGuard<'_, Standings> {
        self.standings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Standing {
    fn is_excluded(&self, plan: Option<&Digest>) -> bool {
        self.exclusions.iter().any(|scope| match scope {
            Scope::Everything => true,
            Scope::Plan(excluded) => plan == Some(excluded),
        })
    }

    /// Servers that work first, then those that failed, by when they are due.
    fn rank(&self, now: Instant) -> (bool, Option<Instant>) {
        match self.failing {
            Some((since, again))
                if now < again || now.saturating_duration_since(since) < REINSTATED_AFTER =>
            {
                (true, Some(again))
            }
            Some(_) | None => (false, None),
        }
    }
}

fn blame(error: &Error) -> Blame {
    if error.is_retryable() {
        return Blame::Passing;
    }
    match error {
        Error::Peer(PeerFault::Refused { code, .. }) => match code {
            RefusalCode::UnknownPlan
            | RefusalCode::UnknownSegment
            | RefusalCode::WrongShape
            | RefusalCode::MalformedPayload
            | RefusalCode::TooLarge => Blame::Plan,
            RefusalCode::UnsupportedVersion
            | RefusalCode::MalformedMessage
            | RefusalCode::UnexpectedMessage
            | RefusalCode::Unauthorized
            | RefusalCode::Busy
            | RefusalCode::ShuttingDown
            | RefusalCode::TooSlow
            | RefusalCode::Internal
            | RefusalCode::RateLimited => Blame::Server,
        },
        Error::Misuse(Misuse::AboveServerLimit { .. }) => Blame::Plan,
        Error::Peer(_) | Error::Malformed(_) | Error::Trust(_) => Blame::Server,
        Error::Config(_)
        | Error::Misuse(_)
        | Error::Link(_)
        | Error::Resource(_)
        | Error::Internal(_) => Blame::Nobody,
    }
}

/// An error and its causes in one line.
fn told(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(reason) = cause {
        let reason_text = reason.to_string();
        if !text.contains(&reason_text) {
            text = format!("{text}: {reason_text}");
        }
        cause = reason.source();
    }
    text
}

#[cfg(test)]
#[path = "roster/tests.rs"]
mod tests;
