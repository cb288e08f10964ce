//! The server: accepts connections, admits requests, evaluates them, replies.
//!
//! ```text
//!  socket ─TLS─► frames ─► ServerConnection (no I/O) ─► actions ─► frames ─► socket
//!                              ▲        │
//!               PlanHost ──────┤        ├─ payload chunks ─► request thread ─┐ SegmentService
//!              admission ──────┘        ◄─ reply chunks ◄─ scribe thread ◄────┘
//! ```
//! Nothing a peer sends can do more than end its own connection. Until a request is admitted a
//! connection holds a few kilobytes; from then on its memory is what the service declared and ten
//! chunks.
//!
//! Invariant: no state of a client outlives its connection, and no request needs an earlier one.

pub mod connection;
pub mod event;
pub mod service;

mod admission;
mod driver;
mod job;
mod scribe;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use self::admission::Admission;
use self::event::Greeting;
use self::service::PlanHost;
use crate::error::{ConfigError, Result};
use crate::identifiers::Label;
use crate::identity::{Identity, PublicIdentity};
use crate::limits::{ServerLimits, ServerTimeouts};
use crate::message::{AnnouncedLimits, Refusal, RefusalCode, Welcome};
use crate::tls::ServerTls;
use crate::transport::{BoxedStream, pipe};

/// Connections beyond the limit that are told so; further ones are dropped without a word.
const TURNED_AWAY: usize = 16;

/// What a turned away client is told to wait.
const FULL_RETRY: Duration = Duration::from_secs(1);

/// Pause after a failed `accept`, for instance when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The part of the memory, one in so many, that a host may keep between requests.
const SPARE_SHARE: u64 = 4;

/// How long request threads may take to notice that they must stop.
const THREAD_LIMIT: Duration = Duration::from_secs(5);

/// How a server presents and protects itself.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Name shown to clients.
    pub name: Label,
    /// What is admitted at the same time.
    pub limits: ServerLimits,
    /// Patience with clients.
    pub timeouts: ServerTimeouts,
}

impl ServerOptions {
    /// Default limits and time limits under this name.
    #[must_use]
    pub fn new(name: Label) -> Self {
        Self { name, limits: ServerLimits::default(), timeouts: ServerTimeouts::default() }
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
    identity: Arc<Identity>,
    options: ServerOptions,
    admission: Admission,
    connections: Arc<Semaphore>,
    turned_away: Arc<Semaphore>,
    lifecycle: watch::Sender<Lifecycle>,
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
        let admission =
            Admission::new(&options.limits, spare.min(max_memory), options.timeouts.admission);
        let shared = Shared {
            host,
            identity: Arc::new(identity),
            admission,
            connections: Arc::new(Semaphore::new(options.limits.max_connections)),
            turned_away: Arc::new(Semaphore::new(TURNED_AWAY)),
            lifecycle: watch::Sender::new(Lifecycle::Running),
            options,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The key that signs this server's receipts.
    #[must_use]
    pub fn identity(&self) -> PublicIdentity {
        self.shared.identity.public()
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
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                accepted = listener.accept() => match accepted {
                    Ok((socket, peer)) => {
                        if let Some(seat) = self.seat() {
                            tasks.spawn(self.clone().serve_socket(socket, peer, tls.clone(), seat));
                        } else {
                            warn!(%peer, "too many connections; dropped");
                        }
                    }
                    Err(error) => {
                        warn!(%error, "cannot accept a connection");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = tasks.join_next() => {}
            }
        }
        drop(listener);
        self.drain(tasks).await;
    }

    /// Serve one connection that is already authenticated and encrypted, or that never leaves the
    /// process. Returns at its end.
    pub async fn serve_stream(&self, stream: BoxedStream) {
        match self.seat() {
            Some(seat) => self.serve_seated(stream, seat).await,
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
        info!(connections = tasks.len(), "shutting down");
        shared.lifecycle.send_replace(Lifecycle::Draining);
        let everyone_left = async {
            while tasks.join_next().await.is_some() {}
            // Connections that other callers serve hold seats, too.
            let seats = u32::try_from(shared.options.limits.max_connections).unwrap_or(u32::MAX);
            let _ = shared.connections.acquire_many(seats).await;
        };
        if timeout(shared.options.timeouts.drain, everyone_left).await.is_err() {
            warn!("requests are still running; stopping them");
        }
        shared.lifecycle.send_replace(Lifecycle::Stopped);
        tasks.shutdown().await;
        shared.admission.close(THREAD_LIMIT).await;
    }

    async fn serve_socket(self, socket: TcpStream, peer: SocketAddr, tls: ServerTls, seat: Seat) {
        debug!(%peer, "connected");
        // Small messages should not wait for more; failure costs time only.
        let _ = socket.set_nodelay(true);
        match timeout(self.shared.options.timeouts.handshake, tls.accept(socket)).await {
            Ok(Ok(stream)) => self.serve_seated(Box::new(stream), seat).await,
            Ok(Err(error)) => info!(%peer, %error, "TLS handshake failed"),
            Err(_) => info!(%peer, "TLS handshake took too long"),
        }
    }

    async fn serve_seated(&self, stream: BoxedStream, seat: Seat) {
        let shutting_down = *self.shared.lifecycle.borrow() != Lifecycle::Running;
        let greeting = if shutting_down {
            Greeting::Refuse(Refusal::new(RefusalCode::ShuttingDown))
        } else if seat.turned_away {
            Greeting::Refuse(Refusal::later(RefusalCode::Busy, FULL_RETRY))
        } else {
            Greeting::Welcome(self.welcome())
        };
        driver::drive(stream, Arc::clone(&self.shared), greeting).await;
    }

    fn seat(&self) -> Option<Seat> {
        let take = |seats: &Arc<Semaphore>| Arc::clone(seats).try_acquire_owned().ok();
        if let Some(permit) = take(&self.shared.connections) {
            return Some(Seat { _permit: permit, turned_away: false });
        }
        take(&self.shared.turned_away).map(|permit| Seat { _permit: permit, turned_away: true })
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
    turned_away: bool,
}
