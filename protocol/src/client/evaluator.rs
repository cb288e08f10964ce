//! Requests to one server or several, over a pool of connections, with retries.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::TryRngCore;
use rand::rngs::OsRng;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::Stage;
use super::connection::{Connection, OnProgress};
use super::endpoint::Endpoint;
use super::exchange::{Delivery, PreparedRequest, Reply, RequestProgress};
use super::reply::{ReplySender, reply_queue};
use super::retry::{Decision, RetryClock, RetryPolicy};
use super::roster::Roster;
use crate::access::Token;
use crate::error::{ConfigError, Ended, Error, PeerFault, ResourceError, Result};
use crate::identifiers::{Digest, Label, RequestId};
use crate::identity::PublicIdentity;
use crate::limits::{ClientTimeouts, in_range};
use crate::message::{ModelCard, PublicPart};
use crate::transcript::VerifiedReceipt;

/// Pieces of a reply between its connection and a buffer that takes all of it.
const QUEUED_PIECES: usize = 2;

/// How a client presents itself and how patient it is.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Name for the server's log.
    pub name: Label,
    /// Connections held at the same time, each with one request under way. Default 4.
    pub max_connections: usize,
    /// Time limits of one attempt.
    pub timeouts: ClientTimeouts,
    /// Patience with failures.
    pub retry: RetryPolicy,
    /// Longest time for one request, all attempts and the wait for a connection included. Default
    /// 1 h.
    pub deadline: Duration,
    /// Accept only servers with one of these identities; a server with another is left out. Default:
    /// none are named, and any that the certificate vouches for is accepted.
    pub identities: Vec<PublicIdentity>,
    /// Shown to every server of the list. Default: none.
    pub token: Option<Token>,
}

impl ClientOptions {
    /// Defaults under this name.
    #[must_use]
    pub fn new(name: Label) -> Self {
        Self {
            name,
            max_connections: 4,
            timeouts: ClientTimeouts::default(),
            retry: RetryPolicy::default(),
            deadline: Duration::from_secs(60 * 60),
            identities: Vec::new(),
            token: None,
        }
    }
}

/// Bytes in whole frames, all connections and all attempts together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Bytes received.
    pub received_bytes: u64,
}

/// Why an attempt did not get through, and on which server.
struct Failed {
    error: Error,
    /// `None`: before a server was chosen, or all of them are left out.
    server: Option<usize>,
    /// Whether the request had a place on the server.
    admitted: bool,
}

/// Evaluates requests on remote servers. Share it by reference: requests run side by side on up to
/// [`ClientOptions::max_connections`] connections.
///
/// With several servers, a request that fails on one goes to another, with the same bytes: a segment
/// evaluation is a pure function, so it does not matter which of them answers. A server that cannot
/// answer whatever the time (another plan, identity or protocol version, no access, a breach of the
/// protocol) is left out from then on; one that failed otherwise is asked again after a back-off
/// (exponential, with full jitter, by a monotonic clock).
///
/// Dropping the future of a request closes its connection, and the server stops working on it.
pub struct RemoteEvaluator {
    roster: Roster,
    options: ClientOptions,
    seats: Semaphore,
    /// Open connections nobody uses, with their servers.
    idle: Mutex<Vec<(usize, Connection)>>,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
}

/// A connection on loan, with the traffic already counted for it.
struct Loan<'a> {
    connection: Connection,
    server: usize,
    reused: bool,
    counted: (u64, u64),
    _seat: SemaphorePermit<'a>,
}

impl RemoteEvaluator {
    /// A client of these servers, which must hold the same plans. Connects on demand.
    ///
    /// # Errors
    /// - [`ConfigError::NoEndpoint`]: no server was given.
    /// - [`ConfigError::LimitOutOfRange`]: no connection is allowed, or absurdly many.
    pub fn new(endpoints: Vec<Endpoint>, options: ClientOptions) -> Result<Self> {
        if endpoints.is_empty() {
            return Err(ConfigError::NoEndpoint.into());
        }
        in_range("max_connections", options.max_connections as u64, 1, 1024)?;
        Ok(Self {
            seats: Semaphore::new(options.max_connections),
            roster: Roster::new(endpoints),
            options,
            idle: Mutex::new(Vec::new()),
            sent_bytes: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
        })
    }

    /// Evaluate one request: send it, and send the identical bytes again for as long as the
    /// failures are of the kind that passes and the [`RetryPolicy`] allows.
    ///
    /// # Errors
    /// - Of one server: the first error for which [`Error::is_retryable`] is false;
    ///   [`ResourceError::GaveUp`], when the patience of the policy is used up;
    ///   [`ResourceError::DeadlineExceeded`], when the request took too long.
    /// - Of several: [`ResourceError::NoServerLeft`] with each server's last failure, for any of these
    ///   reasons.
    /// - [`ResourceError::Cancelled`]: `on_progress` said `Break`.
    /// - [`ResourceError::Memory`]: the reply does not fit.
    pub async fn evaluate(
        &self,
        request: &PreparedRequest,
        on_progress: &mut OnProgress<'_>,
    ) -> Result<Reply> {
        let (sink, stream) = reply_queue(QUEUED_PIECES);
        let exchange = self.evaluate_streaming(request, sink, on_progress);
        let reply = stream.collect(request.reply_shape().payload_bytes);
        let (delivery, bytes) = tokio::join!(exchange, reply);
        Reply::new(delivery?, bytes?)
    }

    /// As [`evaluate`](Self::evaluate), for a request whose payload may still be growing and a
    /// reply that is opened while it arrives.
    ///
    /// The pieces of the reply go to `sink` in order; a full sink holds back the connection. An
    /// attempt that follows one which has delivered pieces begins with
    /// [`Restart`](super::ReplyEvent::Restart); the last event of a good reply is
    /// [`Verified`](super::ReplyEvent::Verified), and without it nothing of the reply counts. A
    /// stream that was dropped changes nothing for the server: the rest of the reply is received
    /// and dropped.
    ///
    /// # Errors
    /// - [`ResourceError::PayloadAbandoned`]: the payload's writer gave up.
    /// - As [`evaluate`](Self::evaluate).
    pub async fn evaluate_streaming(
        &self,
        request: &PreparedRequest,
        mut sink: ReplySender,
        on_progress: &mut OnProgress<'_>,
    ) -> Result<Delivery> {
        let mut clock = self.clock(request.header().request_id);
        let plan = request.header().plan;
        let attempts = async {
            let mut attempt = 1_u32;
            loop {
                match self.attempt(request, attempt, &mut sink, on_progress).await {
                    Ok(receipt) => return Ok(Delivery { receipt, attempts: attempt }),
                    Err(failed) => self.pause(&mut clock, Some(&plan), failed).await?,
                }
                if on_progress(&waiting(request, attempt)).is_break() {
                    return Err(ResourceError::Cancelled.into());
                }
                attempt = attempt.saturating_add(1);
            }
        };
        self.within_deadline(Some(&plan), attempts).await
    }

    /// Ask for the list of models, with retries.
    ///
    /// # Errors
    /// As [`evaluate`](Self::evaluate).
    pub async fn list_models(&self) -> Result<Vec<ModelCard>> {
        self.ask(None, async |connection| connection.list_models().await).await
    }

    /// Ask for the public part of a plan, with retries.
    ///
    /// # Errors
    /// As [`evaluate`](Self::evaluate).
    ///
    /// # Security
    /// The bytes are the server's claim: the caller must compare their digest.
    pub async fn fetch_plan(&self, plan: &Digest) -> Result<PublicPart> {
        self.ask(Some(plan), async |connection| connection.fetch_plan(plan).await).await
    }

    /// Bytes moved so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        Traffic {
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
            received_bytes: self.received_bytes.load(Ordering::Relaxed),
        }
    }

    /// Say goodbye on the idle connections.
    pub async fn close(&self) {
        let idle = std::mem::take(&mut *self.idle());
        for (_, connection) in idle {
            connection.close().await;
        }
    }

    /// Ask one question, with retries.
    async fn ask<T>(
        &self,
        plan: Option<&Digest>,
        question: impl AsyncFn(&mut Connection) -> Result<T>,
    ) -> Result<T> {
        let mut clock = self.clock(any_request_id());
        let attempts = async {
            loop {
                let answer = async {
                    let mut loan = self.borrow_connection(plan, clock.n_failures() > 0).await?;
                    let server = Some(loan.server);
                    let answer = question(&mut loan.connection).await;
                    self.give_back(loan);
                    answer.map_err(|error| Failed { error, server, admitted: false })
                };
                match answer.await {
                    Ok(answer) => return Ok(answer),
                    Err(failed) => self.pause(&mut clock, plan, failed).await?,
                }
            }
        };
        self.within_deadline(plan, attempts).await
    }

    async fn attempt(
        &self,
        request: &PreparedRequest,
        attempt: u32,
        sink: &mut ReplySender,
        on_progress: &mut OnProgress<'_>,
    ) -> Result<VerifiedReceipt, Failed> {
        loop {
            let mut loan =
                self.borrow_connection(Some(&request.header().plan), attempt > 1).await?;
            let numbered = &mut |progress: &RequestProgress| -> ControlFlow<()> {
                on_progress(&RequestProgress { attempt, ..*progress })
            };
            let outcome = loan.connection.evaluate_streaming(request, sink, numbered).await;
            let admitted = loan.connection.was_admitted();
            let (server, reused) = (loan.server, loan.reused);
            self.give_back(loan);
            match outcome {
                Ok(receipt) => {
                    self.roster.note_success(server);
                    return Ok(receipt);
                }
                // The server may have closed an idle connection just now: no failure of the server.
                Err(Error::Link(_)) if reused && !admitted => {
                    debug!("an idle connection was closed; using another");
                }
                Err(error) => return Err(Failed { error, server: Some(server), admitted }),
            }
        }
    }

    /// Decide what follows a failure, and wait until the next attempt is due.
    async fn pause(
        &self,
        clock: &mut RetryClock,
        plan: Option<&Digest>,
        failed: Failed,
    ) -> Result<()> {
        let Failed { error, server, admitted } = failed;
        let Some(server) = server else { return Err(error) };
        if !self.roster.is_single() && self.roster.exclude(server, plan, &error) {
            let name = self.roster.endpoint(server).map(ToString::to_string);
            warn!(server = name, %error, "this server is left out");
            self.drop_idle(server);
            return if self.roster.is_anybody_left(plan) {
                Ok(())
            } else {
                Err(self.no_server_left(Ended::AllLeftOut, plan))
            };
        }
        let now = Instant::now();
        match clock.decide(now, &error, admitted) {
            Decision::Wait(wait) => {
                let due = self.roster.note_failure(server, plan, &error, now, now + wait);
                let wait = due.map_or(wait, |due| due.saturating_duration_since(now));
                warn!(%error, ?wait, "trying again");
                sleep(wait).await;
                Ok(())
            }
            Decision::Final => Err(error),
            Decision::GiveUp { elapsed } => {
                let attempts = clock.n_failures();
                if self.roster.is_single() {
                    let last = Box::new(error);
                    return Err(ResourceError::GaveUp { attempts, elapsed, last }.into());
                }
                self.roster.note_failure(server, plan, &error, now, now);
                Err(self.no_server_left(Ended::GaveUp { attempts, elapsed }, plan))
            }
        }
    }

    fn no_server_left(&self, ended: Ended, plan: Option<&Digest>) -> Error {
        ResourceError::NoServerLeft { ended, failures: self.roster.failures(plan) }.into()
    }

    async fn within_deadline<T>(
        &self,
        plan: Option<&Digest>,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let deadline = self.options.deadline;
        timeout(deadline, work).await.unwrap_or_else(|_| {
            Err(if self.roster.is_single() {
                ResourceError::DeadlineExceeded { deadline }.into()
            } else {
                self.no_server_left(Ended::DeadlineExceeded { deadline }, plan)
            })
        })
    }

    /// A connection to a server that works; `again`: another attempt, for which it is not enough that
    /// a connection is open.
    async fn borrow_connection(
        &self,
        plan: Option<&Digest>,
        again: bool,
    ) -> Result<Loan<'_>, Failed> {
        let nobody = |error: Error| Failed { error, server: None, admitted: false };
        let seat =
            self.seats.acquire().await.map_err(|_| nobody(ResourceError::Cancelled.into()))?;
        let chosen = || {
            self.roster
                .choose(plan, Instant::now())
                .ok_or_else(|| nobody(self.no_server_left(Ended::AllLeftOut, plan)))
        };
        let fixed = if again { Some(chosen()?) } else { None };
        while let Some((server, mut connection)) = self.take_idle(plan, fixed) {
            if connection.is_usable() {
                let counted = connection.traffic();
                return Ok(Loan { connection, server, reused: true, counted, _seat: seat });
            }
        }
        let server = fixed.map_or_else(chosen, Ok)?;
        let connection = self.open_connection(server).await.map_err(|error| Failed {
            error,
            server: Some(server),
            admitted: false,
        })?;
        Ok(Loan { connection, server, reused: false, counted: (0, 0), _seat: seat })
    }

    async fn open_connection(&self, server: usize) -> Result<Connection> {
        let endpoint = self.roster.endpoint(server).ok_or(ConfigError::NoEndpoint)?;
        let timeouts = &self.options.timeouts;
        let stream = endpoint.connect(timeouts.connect).await?;
        let connection = Connection::open_with_token(
            stream,
            &self.options.name,
            self.options.token.as_ref(),
            timeouts.clone(),
        )
        .await?;
        self.check_identity(connection.welcome().identity)?;
        Ok(connection)
    }

    fn check_identity(&self, actual: PublicIdentity) -> Result<()> {
        let accepted = &self.options.identities;
        match accepted.first() {
            Some(expected) if !accepted.contains(&actual) => Err(PeerFault::IdentityChanged {
                expected: Digest(expected.0),
                actual: Digest(actual.0),
            }
            .into()),
            Some(_) | None => Ok(()),
        }
    }

    fn give_back(&self, mut loan: Loan<'_>) {
        let (sent, received) = loan.connection.traffic();
        let (old_sent, old_received) = loan.counted;
        self.sent_bytes.fetch_add(sent.saturating_sub(old_sent), Ordering::Relaxed);
        self.received_bytes.fetch_add(received.saturating_sub(old_received), Ordering::Relaxed);
        if loan.connection.is_usable() {
            let mut idle = self.idle();
            // Connections of servers that come and go must not pile up.
            if idle.len() >= self.options.max_connections {
                idle.remove(0);
            }
            idle.push((loan.server, loan.connection));
        }
    }

    /// An open connection to this server or, if none is named, to any that works.
    fn take_idle(
        &self,
        plan: Option<&Digest>,
        server: Option<usize>,
    ) -> Option<(usize, Connection)> {
        let mut idle = self.idle();
        let fits = |candidate: usize| match server {
            Some(server) => candidate == server,
            None => self.roster.is_single() || self.roster.is_good(candidate, plan),
        };
        let position = idle.iter().rposition(|(candidate, _)| fits(*candidate))?;
        Some(idle.remove(position))
    }

    fn drop_idle(&self, server: usize) {
        self.idle().retain(|(candidate, _)| *candidate != server);
    }

    /// A panic while the list was held leaves it intact: it is only pushed to and taken from.
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<(usize, Connection)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clock(&self, request_id: RequestId) -> RetryClock {
        RetryClock::new(self.options.retry.clone(), request_id)
    }
}

impl fmt::Debug for RemoteEvaluator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteEvaluator")
            .field("servers", &self.roster)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// A number that makes the waits of questions differ between clients. Nothing secret depends on it.
fn any_request_id() -> RequestId {
    let mut id = [0; 16];
    // Without random numbers clients merely wait alike.
    let _ = OsRng.try_fill_bytes(&mut id);
    RequestId(id)
}

fn waiting(request: &PreparedRequest, attempt: u32) -> RequestProgress {
    RequestProgress {
        stage: Stage::Connecting,
        attempt: attempt.saturating_add(1),
        sent_bytes: 0,
        request_bytes: request.header().payload_bytes,
        server_done_bytes: 0,
        received_bytes: 0,
        reply_bytes: request.reply_shape().payload_bytes,
    }
}
