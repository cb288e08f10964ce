//! Requests to one server or several, over a pool of connections, with retries.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::Stage;
use super::connection::{Connection, OnProgress};
use super::endpoint::Endpoint;
use super::exchange::{Delivery, PreparedRequest, Reply, RequestProgress};
use super::reply::{ReplySender, reply_queue};
use super::retry::{Decision, RetryClock, RetryPolicy};
use crate::error::{ConfigError, Error, PeerFault, ResourceError, Result};
use crate::identifiers::{Digest, Label, RequestId};
use crate::identity::PublicIdentity;
use crate::limits::{ClientTimeouts, in_range};
use crate::message::ModelCard;
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
    /// Accept only a server with this identity. Default: any that the certificate vouches for.
    pub identity: Option<PublicIdentity>,
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
            identity: None,
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

/// Evaluates requests on remote servers. Share it by reference: requests run side by side on up to
/// [`ClientOptions::max_connections`] connections.
///
/// Dropping the future of a request closes its connection, and the server stops working on it.
pub struct RemoteEvaluator {
    endpoints: Vec<Endpoint>,
    options: ClientOptions,
    seats: Semaphore,
    idle: Mutex<Vec<Connection>>,
    /// Spreads requests over the endpoints.
    next_endpoint: AtomicUsize,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
}

/// A connection on loan, with the traffic already counted for it.
struct Loan<'a> {
    connection: Connection,
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
            endpoints,
            options,
            idle: Mutex::new(Vec::new()),
            next_endpoint: AtomicUsize::new(0),
            sent_bytes: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
        })
    }

    /// Evaluate one request: send it, and send the identical bytes again for as long as the
    /// failures are of the kind that passes and the [`RetryPolicy`] allows.
    ///
    /// # Errors
    /// - The first error for which [`Error::is_retryable`] is false.
    /// - [`ResourceError::GaveUp`]: the patience of the policy is used up.
    /// - [`ResourceError::DeadlineExceeded`]: the request took too long.
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
        let attempts = async {
            loop {
                let attempt = clock.n_failures().saturating_add(1);
                let (outcome, admitted) =
                    self.attempt(request, attempt, &mut sink, on_progress).await;
                match outcome {
                    Ok(receipt) => return Ok(Delivery { receipt, attempts: attempt }),
                    Err(error) => self.pause(&mut clock, error, admitted).await?,
                }
                if on_progress(&waiting(request, attempt)).is_break() {
                    return Err(ResourceError::Cancelled.into());
                }
            }
        };
        self.within_deadline(attempts).await
    }

    /// Ask for the list of models, with retries.
    ///
    /// # Errors
    /// As [`evaluate`](Self::evaluate).
    pub async fn list_models(&self) -> Result<Vec<ModelCard>> {
        let mut clock = self.clock(RequestId([0; 16]));
        let attempts = async {
            loop {
                let answer = async {
                    let mut loan = self.borrow_connection(clock.n_failures()).await?;
                    let cards = loan.connection.list_models().await;
                    self.give_back(loan);
                    cards
                };
                match answer.await {
                    Ok(cards) => return Ok(cards),
                    Err(error) => self.pause(&mut clock, error, false).await?,
                }
            }
        };
        self.within_deadline(attempts).await
    }

    /// Ask for the public part of a plan, with retries.
    ///
    /// # Errors
    /// As [`evaluate`](Self::evaluate).
    ///
    /// # Security
    /// The bytes are the server's claim: the caller must compare their digest.
    pub async fn fetch_plan(&self, plan: &Digest) -> Result<Bytes> {
        let mut clock = self.clock(RequestId([0; 16]));
        let attempts = async {
            loop {
                let answer = async {
                    let mut loan = self.borrow_connection(clock.n_failures()).await?;
                    let bytes = loan.connection.fetch_plan(plan).await;
                    self.give_back(loan);
                    bytes
                };
                match answer.await {
                    Ok(bytes) => return Ok(bytes),
                    Err(error) => self.pause(&mut clock, error, false).await?,
                }
            }
        };
        self.within_deadline(attempts).await
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
        for connection in idle {
            connection.close().await;
        }
    }

    async fn attempt(
        &self,
        request: &PreparedRequest,
        attempt: u32,
        sink: &mut ReplySender,
        on_progress: &mut OnProgress<'_>,
    ) -> (Result<VerifiedReceipt>, bool) {
        loop {
            let mut loan = match self.borrow_connection(attempt - 1).await {
                Ok(loan) => loan,
                Err(error) => return (Err(error), false),
            };
            let numbered = &mut |progress: &RequestProgress| -> ControlFlow<()> {
                on_progress(&RequestProgress { attempt, ..*progress })
            };
            let outcome = loan.connection.evaluate_streaming(request, sink, numbered).await;
            let admitted = loan.connection.was_admitted();
            let reused = loan.reused;
            self.give_back(loan);
            // The server may have closed an idle connection just now: no failure of the server.
            let stale = reused && !admitted && matches!(outcome, Err(Error::Link(_)));
            if !stale {
                return (outcome, admitted);
            }
            debug!("an idle connection was closed; using another");
        }
    }

    async fn pause(&self, clock: &mut RetryClock, error: Error, admitted: bool) -> Result<()> {
        match clock.decide(Instant::now(), &error, admitted) {
            Decision::Wait(wait) => {
                warn!(%error, ?wait, "trying again");
                sleep(wait).await;
                Ok(())
            }
            Decision::Final => Err(error),
            Decision::GiveUp { elapsed } => {
                let (attempts, last) = (clock.n_failures(), Box::new(error));
                Err(ResourceError::GaveUp { attempts, elapsed, last }.into())
            }
        }
    }

    async fn within_deadline<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let deadline = self.options.deadline;
        let late = ResourceError::DeadlineExceeded { deadline };
        timeout(deadline, work).await.unwrap_or(Err(late.into()))
    }

    async fn borrow_connection(&self, failures: u32) -> Result<Loan<'_>> {
        let seat = self.seats.acquire().await.map_err(|_| ResourceError::Cancelled)?;
        while let Some(mut connection) = self.take_idle() {
            if connection.is_usable() {
                let counted = connection.traffic();
                return Ok(Loan { connection, reused: true, counted, _seat: seat });
            }
        }
        let connection = self.open_connection(failures).await?;
        Ok(Loan { connection, reused: false, counted: (0, 0), _seat: seat })
    }

    async fn open_connection(&self, failures: u32) -> Result<Connection> {
        let start = match failures {
            0 => self.next_endpoint.fetch_add(1, Ordering::Relaxed),
            _ => self.next_endpoint.load(Ordering::Relaxed).wrapping_add(failures as usize),
        };
        let endpoint = self
            .endpoints
            .get(start % self.endpoints.len().max(1))
            .ok_or(ConfigError::NoEndpoint)?;
        let timeouts = &self.options.timeouts;
        let stream = endpoint.connect(timeouts.connect).await?;
        let connection = Connection::open(stream, &self.options.name, timeouts.clone()).await?;
        self.check_identity(connection.welcome().identity)?;
        Ok(connection)
    }

    fn check_identity(&self, actual: PublicIdentity) -> Result<()> {
        match self.options.identity {
            Some(expected) if expected != actual => Err(PeerFault::IdentityChanged {
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
            self.idle().push(loan.connection);
        }
    }

    fn take_idle(&self) -> Option<Connection> {
        self.idle().pop()
    }

    /// A panic while the list was held leaves it intact: it is only pushed to and popped from.
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clock(&self, request_id: RequestId) -> RetryClock {
        RetryClock::new(self.options.retry.clone(), request_id)
    }
}

impl fmt::Debug for RemoteEvaluator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteEvaluator")
            .field("endpoints", &self.endpoints)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
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
