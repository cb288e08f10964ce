//! Who may enter, what each client may ask for, and how much.
//!
//! ```text
//!  Hello{token} ─┐
//!  certificate ──┴► AccessControl::enter ─► Visitor ─ begin ─► Ticket ─ spend(bytes)
//!                        ▲                    └─ may_use(plan)
//!  access.toml ─► AccessList (replaced while the server runs)
//! ```
//! A client proves who it is by a bearer token or by a certificate of an authority the server
//! trusts ([`ServerTls`](crate::tls::ServerTls)); what its program calls itself means nothing. A
//! [`Visitor`] is looked up again at every request, so that a client that was removed loses its next
//! request, and a request under way goes on.
//!
//! # Security
//! Refusals at the entrance are one constant message, whatever was wrong. Every token in the list is
//! compared at every entrance, present or not, known or not, in constant time each, so that times
//! say nothing about the list but its length.

mod client;
pub(crate) mod clock;
mod file;
mod list;
mod meter;
mod token;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

pub use self::client::{Client, ClientLimits, PlanRule};
pub use self::clock::{Clock, SystemClock};
pub use self::file::{AccessFile, Look};
pub use self::list::{
    AccessList, AccessProblem, MAX_ACCESS_CLIENTS, MAX_ACCESS_FILE_BYTES, MAX_ACCESS_TOKENS,
};
pub use self::meter::Ticket;
pub use self::token::{TOKEN_PREFIX, Token, TokenHash};

use self::meter::Meter;
use crate::identifiers::Digest;
use crate::message::{Refusal, RefusalCode};
use crate::tls::CertificateFingerprint;

/// What a client shows at the entrance.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// The token in its first message.
    pub token: Option<Token>,
    /// The certificate of its TLS connection, which TLS has verified.
    pub certificate: Option<CertificateFingerprint>,
}

/// The rules in force. Cheap to clone; clones are one.
#[derive(Clone)]
pub struct AccessControl {
    inner: Arc<Inner>,
}

struct Inner {
    state: RwLock<State>,
    clock: Arc<dyn Clock>,
}

struct State {
    rule: Rule,
    /// What each client has used, by name; survives a new list.
    meters: HashMap<String, Arc<Meter>>,
}

enum Rule {
    /// Everybody, without a name and without limits.
    Open,
    Listed(AccessList),
}

impl AccessControl {
    /// Lets everybody in, to every plan and without limits per client. For development, and for
    /// servers behind something else that decides.
    #[must_use]
    pub fn open() -> Self {
        Self::new(Rule::Open, Arc::new(SystemClock::new()))
    }

    /// Lets nobody in over the network.
    #[must_use]
    pub fn closed() -> Self {
        Self::listed(AccessList::default())
    }

    /// Lets the clients of a list in.
    #[must_use]
    pub fn listed(list: AccessList) -> Self {
        Self::with_clock(list, Arc::new(SystemClock::new()))
    }

    /// As [`listed`](Self::listed), by another clock.
    #[must_use]
    pub fn with_clock(list: AccessList, clock: Arc<dyn Clock>) -> Self {
        Self::new(Rule::Listed(list), clock)
    }

    fn new(rule: Rule, clock: Arc<dyn Clock>) -> Self {
        let control = Self {
            inner: Arc::new(Inner {
                state: RwLock::new(State { rule: Rule::Open, meters: HashMap::new() }),
                clock,
            }),
        };
        control.set(rule);
        control
    }

    /// Put another list in force. Requests under way go on; what clients have used so far still
    /// counts against limits that did not change.
    pub fn replace(&self, list: AccessList) {
        self.set(Rule::Listed(list));
    }

    fn set(&self, rule: Rule) {
        let now = self.inner.clock.monotonic();
        let mut state = self.inner.state.write().unwrap_or_else(PoisonError::into_inner);
        let mut old = std::mem::take(&mut state.meters);
        if let Rule::Listed(list) = &rule {
            state.meters = list
                .clients()
                .iter()
                .map(|client| {
                    let meter = old.remove(&client.name).unwrap_or_default();
                    meter.set_limits(&client.limits, now);
                    (client.name.clone(), meter)
                })
                .collect();
        }
        state.rule = rule;
    }

    /// Whether everybody may enter.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.inner.state().rule, Rule::Open)
    }

    /// Decide at the entrance.
    ///
    /// # Errors
    /// `Unauthorized`: nothing that was shown belongs to an enabled client, or two clients' were
    /// shown. The refusal is the same in every case.
    pub fn enter(&self, shown: &Credentials) -> Result<Visitor, Refusal> {
        let state = self.inner.state();
        let Rule::Listed(list) = &state.rule else {
            return Ok(Visitor { inner: Arc::clone(&self.inner), pass: Pass::Anyone });
        };
        let now = self.inner.clock.unix_seconds();
        // Always both, so that the work does not depend on what was shown.
        let by_token = list.find_token(shown.token.as_ref(), now);
        let by_certificate = shown.certificate.and_then(|shown| list.find_certificate(&shown));
        let (client, proof) = match (by_token, by_certificate) {
            (Some((one, _)), Some(other)) if one.name != other.name => return Err(UNAUTHORIZED),
            (Some((client, hash)), _) => (client, Proof::Token(hash.clone())),
            // A token that is not in the list is not outweighed by a certificate.
            (None, Some(client)) if shown.token.is_none() => match shown.certificate {
                Some(certificate) => (client, Proof::Certificate(certificate)),
                None => return Err(UNAUTHORIZED),
            },
            (None, _) => return Err(UNAUTHORIZED),
        };
        if !client.enabled {
            return Err(UNAUTHORIZED);
        }
        let pass = Pass::Client { name: client.name.as_str().into(), proof };
        Ok(Visitor { inner: Arc::clone(&self.inner), pass })
    }

    /// A visitor that never came over the network.
    #[must_use]
    pub(crate) fn inside(&self) -> Visitor {
        Visitor { inner: Arc::clone(&self.inner), pass: Pass::Inside }
    }
}

impl fmt::Debug for AccessControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n_clients = match &self.inner.state().rule {
            Rule::Open => None,
            Rule::Listed(list) => Some(list.clients().len()),
        };
        f.debug_struct("AccessControl").field("n_clients", &n_clients).finish_non_exhaustive()
    }
}

impl Inner {
    /// A panic while the rules were held leaves them whole: they are replaced in one step.
    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one answer at a closed door.
const UNAUTHORIZED: Refusal = Refusal::new(RefusalCode::Unauthorized);

/// Somebody who was let in. Cheap to clone.
#[derive(Clone)]
pub struct Visitor {
    inner: Arc<Inner>,
    pass: Pass,
}

#[derive(Debug, Clone)]
enum Pass {
    /// From inside the process.
    Inside,
    /// Entered while the door was open to everybody.
    Anyone,
    Client {
        name: Arc<str>,
        proof: Proof,
    },
}

/// What let a client in: without it in the list, it is out again.
#[derive(Debug, Clone)]
enum Proof {
    Token(TokenHash),
    Certificate(CertificateFingerprint),
}

impl Visitor {
    /// The client's name in the list; `None` for anonymous ones.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match &self.pass {
            Pass::Client { name, .. } => Some(name),
            Pass::Inside | Pass::Anyone => None,
        }
    }

    /// Begin a request: count it, and take one of the client's places.
    ///
    /// # Errors
    /// - `Unauthorized`: the client is not, or no longer, in the list.
    /// - `RateLimited`: too many requests a minute, or at the same time.
    pub fn begin(&self) -> Result<Ticket, Refusal> {
        let state = self.inner.state();
        match self.standing(&state)? {
            None => Ok(Ticket::unlimited()),
            Some(client) => {
                let meter = state.meters.get(&client.name).ok_or(UNAUTHORIZED)?;
                Meter::begin(meter, &self.inner.clock)
            }
        }
    }

    /// Whether this client may know of a plan.
    #[must_use]
    pub fn may_use(&self, plan: &Digest, name: Option<&str>) -> bool {
        let state = self.inner.state();
        match self.standing(&state) {
            Ok(None) => true,
            Ok(Some(client)) => client.may_use(plan, name),
            Err(_) => false,
        }
    }

    /// The client in the list of now; `None` if no rules apply.
    fn standing<'a>(&self, state: &'a State) -> Result<Option<&'a Client>, Refusal> {
        match (&self.pass, &state.rule) {
            (Pass::Inside, _) | (Pass::Anyone, Rule::Open) => Ok(None),
            // The door was closed meanwhile, or opened to everybody: they come in again.
            (Pass::Anyone, Rule::Listed(_)) => Err(UNAUTHORIZED),
            (Pass::Client { .. }, Rule::Open) => Ok(None),
            (Pass::Client { name, proof }, Rule::Listed(list)) => {
                let client = match proof {
                    Proof::Token(hash) => list.holder_of(hash, self.inner.clock.unix_seconds()),
                    Proof::Certificate(certificate) => list.find_certificate(certificate),
                };
                client
                    .filter(|client| client.enabled && *client.name == **name)
                    .map(Some)
                    .ok_or(UNAUTHORIZED)
            }
        }
    }
}

impl fmt::Debug for Visitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Visitor").field("name", &self.name()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
