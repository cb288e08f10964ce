//! The server: accepts connections, admits requests, evaluates them, replies.
//!
//! ```text
//!  socket ─TLS─► frames ─► ServerConnection (no I/O) ─► actions ─► frames ─► socket
//!                              ▲        │
//!               PlanHost ──────┤        ├─ payload chunks ─► job ─┐ SegmentService
//!      memory, processors ─────┘        ◄─ reply chunks ◄─ scribe ┘
//! ```
//! Nothing a peer sends can do more than end its own connection. Until a request is admitted a
//! connection holds at most [`CONNECTION_BYTES`](crate::limits::CONNECTION_BYTES) and one answer that its
//! client has not taken (a public plan is shared by all that fetch it); from then on its memory is what
//! the service declared and ten chunks, until the client has taken the last byte. A request that uploads
//! or waits, or whose reply waits for its client, has no thread.
//!
//! Invariant: no state of a client outlives its connection, and no request needs an earlier one.

pub mod admin;
pub mod connection;
pub mod event;
pub mod metrics;
pub mod service;

mod addresses;
mod admission;
mod driver;
mod gate;
mod job;
mod outbox;
mod plan_messages;
mod scribe;
mod status;
mod visit;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};
use tracing::{Instrument, debug, info, info_span, warn};

use self::addresses::{Addresses, FromAddress};
use self::admission::Admission;
use self::event::Greeting;
use self::metrics::Metrics;
use self::plan_messages::PlanMessages;
use self::service::PlanHost;
pub use self::status::{NotReady, ServerStatus};
use self::visit::Origin;
use crate::access::AccessControl;
use crate::audit::AuditLog;
use crate::error::{ConfigError, InternalError, Result};
use crate::identifiers::Label;
use crate::identity::{Identity, PublicIdentity};
use crate::limits::{ServerLimits, ServerTimeouts};
use crate::message::{AnnouncedLimits, Refusal, RefusalCode, Welcome};
use crate::socket;
use crate::tls::{CertificateFingerprint, ServerTls};
use crate::transport::{BoxedStream, pipe};

/// Connections beyond the limit that are told so; further ones are dropped without a word.
const TURNED_AWAY: usize = 16;

/// What a turned away client is told to wait.
const FULL_RETRY: Duration = Duration::from_secs(1);

/// Pause after a failed `accept`, for instance when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The part of the memory, one in so many, that a host may keep between requests.
const SPARE_SHARE: u64 = 4;

/// How long requests may take to notice that they must stop.
const THREAD_LIMIT: Duration = Duration::from_secs(5);

/// How often samples of times are folded into their buckets.
const UPKEEP: Duration = Duration::from_secs(5);

/// How often the log tells what a server that is about to stop still waits for.
const DRAIN_REPORT: Duration = Duration::from_secs(1);

/// How a server presents and protects itself.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Name shown to clients.
    pub name: Label,
    /// What is admitted at the same time.
    pub limits: ServerLimits,
    /// Patience with clients.
    pub timeouts: ServerTimeouts,
    /// Who may enter over the network. Connections from inside the process are not asked.
    pub access: AccessControl,
    /// Where requests are recorded, if anywhere.
    pub audit: Option<AuditLog>,
    /// What is counted and measured.
    pub metrics: Metrics,
}

impl ServerOptions {
    /// Default limits and time limits under this name. Nobody may enter over the network until
    /// [`access`](Self::access) says who.
    #[must_use]
    pub fn new(name: Label) -> Self {
        Self {
            name,
            limits: ServerLimits::default(),
            timeouts: ServerTimeouts::default(),
            access: AccessControl::closed(),
            audit: None,
            metrics: Metrics::new(),
        }
    }
}

/// Serves a [`PlanHost`] to any number of clients. Cheap to clone; clones are one server.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lifecycle {
    Running,
    Draining,
    Stopped,
}

struct Shared {
    host: Arc<dyn PlanHost>,
    identity: RwLock<Arc<Identity>>,
    options: ServerOptions,
    admission: Admission,
    addresses: Addresses,
    plan_messages: PlanMessages,
    connections: Arc<Semaphore>,
    turned_away: Arc<Semaphore>,
    lifecycle: watch::Sender<Lifecycle>,
    /// Memory for connections and between requests.
    reserved_bytes: u64,
    n_connected: AtomicU64,
}

impl Shared {
    /// A panic while it was held leaves it whole: it is replaced in one step.
    fn identity(&self) -> Arc<Identity> {
        Arc::clone(&self.identity.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Server {
    /// A server for these plans.
    ///
    /// # Errors
    /// - [`ConfigError::LimitOutOfRange`]: a limit is zero or absurd.
    pub fn new(
        host: Arc<dyn PlanHost>,
        identity: Identity,
        options: ServerOptions,
    ) -> Result<Self> {
        options.limits.check()?;
        let max_memory = options.limits.max_memory_bytes;
        let spare = host.limit_spare_memory(max_memory / SPARE_SHARE);
        let reserved_bytes = options.limits.connection_bytes().saturating_add(spare);
        let admission = Admission::new(&options.limits, reserved_bytes, options.timeouts.admission);
        let shared = Shared {
            host,
            identity: RwLock::new(Arc::new(identity)),
            admission,
            addresses: Addresses::new(options.limits.max_connections_per_address),
            plan_messages: PlanMessages::default(),
            connections: Arc::new(Semaphore::new(options.limits.max_connections)),
            turned_away: Arc::new(Semaphore::new(TURNED_AWAY)),
            lifecycle: watch::Sender::new(Lifecycle::Running),
            reserved_bytes,
            n_connected: AtomicU64::new(0),
            options,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// A server under a new identity for clients that its own process starts: nobody else should reach
    /// it, so nobody is asked for a token or certificate.
    ///
    /// # Errors
    /// - [`InternalError::Randomness`]: the operating system
    ///   gives no random bytes.
    pub fn for_own_clients(host: Arc<dyn PlanHost>) -> Result<Self> {
        let mut rng = ChaCha20Rng::try_from_os_rng()
            .map_err(|source| InternalError::Randomness { source: Box::new(source) })?;
        let name = Label::new("securedl, in process")?;
        let options = ServerOptions { access: AccessControl::open(), ..ServerOptions::new(name) };
        Self::new(host, Identity::generate(&mut rng), options)
    }

    /// The key that signs this server's receipts.
    #[must_use]
    pub fn identity(&self) -> PublicIdentity {
        self.shared.identity().public()
    }

    /// Sign receipts with another key on connections from now on; those that are open keep theirs.
    pub fn replace_identity(&self, identity: Identity) {
        let mut current = self.shared.identity.write().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(identity);
    }

    /// How the server is at this moment.
    #[must_use]
    pub fn status(&self) -> ServerStatus {
        let shared = &self.shared;
        let limits = &shared.options.limits;
        let (memory, processors) = shared.admission.occupancy();
        ServerStatus {
            connections: self.n_connections(),
            max_connections: limits.max_connections,
            requests_admitted: memory.holders,
            requests_waiting: memory.waiting,
            evaluations_running: processors.holders,
            evaluations_waiting: processors.waiting,
            memory_declared_bytes: memory.used,
            memory_limit_bytes: limits.max_memory_bytes.saturating_sub(shared.reserved_bytes),
            resident_bytes: status::resident_bytes(),
            plans: shared.host.n_plans(),
            draining: *shared.lifecycle.borrow() != Lifecycle::Running,
        }
    }

    /// What the server counts and measures.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.shared.options.metrics
    }

    fn n_connections(&self) -> usize {
        let shared = &self.shared;
        shared.options.limits.max_connections.saturating_sub(shared.connections.available_permits())
    }

    /// The rules at the entrance.
    #[must_use]
    pub fn access(&self) -> &AccessControl {
        &self.shared.options.access
    }

    /// Listen on an address (port 0 = any free port).
    ///
    /// # Errors
    /// - [`ConfigError::AddressInUse`]: another process listens there.
    /// - [`ConfigError::CannotListen`]: the system refuses for another reason.
    pub async fn bind(address: SocketAddr) -> Result<TcpListener> {
        TcpListener::bind(address).await.map_err(|source| {
            if source.kind() == std::io::ErrorKind::AddrInUse {
                ConfigError::AddressInUse { address }.into()
            } else {
                ConfigError::CannotListen { address, source }.into()
            }
        })
    }

    /// Serve connections over TLS until `shutdown` is ready, then finish what runs.
    ///
    /// After `shutdown` no connection is accepted, idle ones are closed, and running requests have
    /// [`ServerTimeouts::drain`] to finish; this server then serves nothing any more. Dropping the
    /// future ends every connection at once.
    pub async fn serve(
        &self,
        listener: TcpListener,
        tls: ServerTls,
        shutdown: impl Future<Output = ()> + Send,
    ) {
        let mut tasks = JoinSet::new();
        let mut upkeep = interval(UPKEEP);
        let metrics = self.metrics();
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                accepted = listener.accept() => match accepted {
                    Ok((socket, peer)) => {
                        if let Some(seat) = self.seat_of(peer) {
                            let span = info_span!("connection", id = self.next_id(), %peer);
                            let serve = self.clone().serve_socket(socket, peer, tls.clone(), seat);
                            tasks.spawn(serve.instrument(span));
                        }
                    }
                    Err(error) => {
                        warn!(%error, "cannot accept a connection");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = tasks.join_next() => {}
                _ = upkeep.tick() => metrics.upkeep(),
            }
        }
        drop(listener);
        self.drain(tasks).await;
    }

    /// Serve one connection that is already authenticated and encrypted, or that never leaves the
    /// process. Returns at its end.
    ///
    /// # Security
    /// The client is not asked for a token or certificate, and may use every plan.
    pub async fn serve_stream(&self, stream: BoxedStream) {
        match self.seat() {
            Some(seat) => {
                let span = info_span!("connection", id = self.next_id());
                self.serve_seated(stream, seat, Origin::Inside).instrument(span).await;
            }
            None => warn!("too many connections; dropped"),
        }
    }

    /// Connect from inside the process, through the same messages as over the network.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn connect(&self) -> BoxedStream {
        let (theirs, ours) = pipe();
        let server = self.clone();
        tokio::spawn(async move { server.serve_stream(ours).await });
        theirs
    }

    /// Finish what runs, then serve nothing any more; for servers without a listener. As at the
    /// end of [`serve`](Self::serve).
    pub async fn shut_down(&self) {
        self.drain(JoinSet::new()).await;
    }

    async fn drain(&self, mut tasks: JoinSet<()>) {
        let shared = &self.shared;
        shared.lifecycle.send_replace(Lifecycle::Draining);
        let limit_seconds = shared.options.timeouts.drain.as_secs_f64();
        let requests = self.status().requests_admitted;
        info!(connections = self.n_connections(), requests, limit_seconds, "shutting down");
        let everyone_left = async {
            while tasks.join_next().await.is_some() {}
            // Connections that other callers serve hold seats, too.
            let seats = u32::try_from(shared.options.limits.max_connections).unwrap_or(u32::MAX);
            let _ = shared.connections.acquire_many(seats).await;
        };
        let report = async {
            loop {
                sleep(DRAIN_REPORT).await;
                let requests = self.status().requests_admitted;
                info!(connections = self.n_connections(), requests, "finishing");
            }
        };
        let finished = async {
            tokio::select! {
                () = everyone_left => {}
                () = report => {}
            }
        };
        if timeout(shared.options.timeouts.drain, finished).await.is_err() {
            let requests = self.status().requests_admitted;
            warn!(connections = self.n_connections(), requests, "time is over; stopping them");
        }
        shared.lifecycle.send_replace(Lifecycle::Stopped);
        tasks.shutdown().await;
        shared.admission.close(THREAD_LIMIT).await;
    }

    async fn serve_socket(self, socket: TcpStream, peer: SocketAddr, tls: ServerTls, seat: Seat) {
        debug!("connected");
        let timeouts = &self.shared.options.timeouts;
        // Not before the deadlines of the protocol, which tell the client.
        socket::prepare(&socket, timeouts.stall.saturating_mul(2).max(timeouts.handshake));
        match timeout(timeouts.handshake, tls.accept(socket)).await {
            Ok(Ok(stream)) => {
                let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
                let certificate = certificates.first().map(CertificateFingerprint::of);
                let origin = Origin::Network { address: peer, certificate };
                self.serve_seated(Box::new(stream), seat, origin).await;
            }
            Ok(Err(error)) => {
                self.metrics().connection("handshake failed");
                info!(%error, "TLS handshake failed");
            }
            Err(_) => {
                self.metrics().connection("handshake failed");
                info!("TLS handshake took too long");
            }
        }
    }

    async fn serve_seated(&self, stream: BoxedStream, seat: Seat, origin: Origin) {
        let shutting_down = *self.shared.lifecycle.borrow() != Lifecycle::Running;
        let greeting = if shutting_down {
            Greeting::Refuse(Refusal::new(RefusalCode::ShuttingDown))
        } else if seat.turned_away {
            Greeting::Refuse(Refusal::later(RefusalCode::Busy, FULL_RETRY))
        } else {
            Greeting::Welcome(self.welcome())
        };
        self.metrics().connection(if seat.turned_away { "turned away" } else { "accepted" });
        driver::drive(stream, Arc::clone(&self.shared), greeting, origin).await;
    }

    /// The number of the next connection, as logs name it.
    fn next_id(&self) -> u64 {
        self.shared.n_connected.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A seat for a connection over the network, unless there are too many of all or of this address.
    fn seat_of(&self, peer: SocketAddr) -> Option<Seat> {
        let Some(from) = self.shared.addresses.enter(peer.ip()) else {
            self.metrics().connection("dropped by address");
            // Counted, and not logged by default: whoever does this does it often.
            debug!(%peer, "too many connections from this address; dropped");
            return None;
        };
        let seat = self.seat();
        if seat.is_none() {
            self.metrics().connection("dropped");
            warn!(%peer, "too many connections; dropped");
        }
        Some(Seat { _from: Some(from), ..seat? })
    }

    fn seat(&self) -> Option<Seat> {
        let take = |seats: &Arc<Semaphore>| Arc::clone(seats).try_acquire_owned().ok();
        let seat = |permit, turned_away| Seat { _permit: permit, _from: None, turned_away };
        if let Some(permit) = take(&self.shared.connections) {
            return Some(seat(permit, false));
        }
        take(&self.shared.turned_away).map(|permit| seat(permit, true))
    }

    fn welcome(&self) -> Welcome {
        let limits = &self.shared.options.limits;
        Welcome {
            server_name: self.shared.options.name.clone(),
            identity: self.identity(),
            limits: AnnouncedLimits {
                max_chunk_bytes: u32::try_from(limits.chunk_bytes).unwrap_or(u32::MAX),
                max_request_bytes: limits.max_request_bytes,
                max_reply_bytes: limits.max_reply_bytes,
            },
        }
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("identity", &self.identity())
            .field("options", &self.shared.options)
            .finish_non_exhaustive()
    }
}

/// A connection's place among the connections.
struct Seat {
    _permit: OwnedSemaphorePermit,
    /// Its place among those of its address, if it has one.
    _from: Option<FromAddress>,
    turned_away: bool,
}
