//! Servers in the process and on a loopback port, and clients of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nn_poly::encrypted::masked::MaskKey;
use nn_poly::plan::Plan;
use protocol::access::AccessControl;
use protocol::client::{ClientOptions, Endpoint, RemoteEvaluator, RetryPolicy};
use protocol::hosting::PlanShelf;
use protocol::identifiers::Label;
use protocol::identity::Identity;
use protocol::limits::ServerLimits;
use protocol::server::service::PlanHost;
use protocol::server::{Server, ServerOptions};
use protocol::tls::{self, ClientTls, ServerTls};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Payload bytes per frame: small, so that even tiny payloads take several.
const CHUNK_BYTES: usize = 48 << 10;

/// An honest host of one plan.
#[must_use]
pub fn shelf(plan: &Plan) -> Arc<PlanShelf> {
    let mut shelf = PlanShelf::new();
    shelf.insert(plan).expect("a checked plan can be hosted");
    Arc::new(shelf)
}

/// An honest host of one masked plan, with masks from a key of this byte.
#[must_use]
pub fn masked_shelf(plan: &Plan, key: u8) -> Arc<PlanShelf> {
    let mut shelf = PlanShelf::new().with_mask_key(MaskKey::from_bytes(&[key; 32]));
    shelf.insert(plan).expect("a checked plan can be hosted");
    Arc::new(shelf)
}

/// A server of any host, with a fixed identity.
#[must_use]
pub fn server(host: Arc<dyn PlanHost>) -> Server {
    let limits = ServerLimits { chunk_bytes: CHUNK_BYTES, ..ServerLimits::default() };
    let access = AccessControl::open();
    let options = ServerOptions { limits, access, ..ServerOptions::new(label("test server")) };
    Server::new(host, Identity::from_seed(&[9; 32]), options).expect("valid options")
}

/// Options of a client that never tries again, and waits for a silent server five seconds.
#[must_use]
pub fn impatient() -> ClientOptions {
    let mut options = ClientOptions::new(label("test client"));
    options.retry = RetryPolicy::never();
    options.timeouts.silence = Duration::from_secs(5);
    options
}

/// Options of a client that waits for a server to come back, and looks often.
#[must_use]
pub fn patient() -> ClientOptions {
    let mut options = ClientOptions::new(label("test client"));
    options.retry.first_backoff = Duration::from_millis(5);
    options.retry.longest_backoff = Duration::from_millis(50);
    options.retry.max_interruptions = 1000;
    options
}

/// An impatient client of a server in this process.
#[must_use]
pub fn in_process(server: Server) -> Arc<RemoteEvaluator> {
    client(Endpoint::in_process(server), impatient())
}

/// A client of one endpoint.
#[must_use]
pub fn client(endpoint: Endpoint, options: ClientOptions) -> Arc<RemoteEvaluator> {
    Arc::new(RemoteEvaluator::new(vec![endpoint], options).expect("valid options"))
}

/// A runtime for one test.
#[must_use]
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("threads can be started")
}

fn label(text: &str) -> Label {
    Label::new(text).expect("plain text")
}

/// A server over TLS on a loopback port, with an authority of its own in a temporary folder.
#[derive(Debug)]
pub struct Loopback {
    address: SocketAddr,
    directory: Arc<TempDir>,
    task: JoinHandle<()>,
    shutdown: Option<oneshot::Sender<()>>,
}

impl Loopback {
    /// Serve on any free port.
    pub async fn start(server: Server) -> Self {
        let directory = tempfile::tempdir().expect("a temporary folder");
        tls::init(directory.path(), &[]).expect("an authority");
        Self::start_at(server, SocketAddr::from(([127, 0, 0, 1], 0)), Arc::new(directory)).await
    }

    /// Serve on this port with these certificates.
    pub async fn start_at(server: Server, address: SocketAddr, directory: Arc<TempDir>) -> Self {
        let listener = Server::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let tls = ServerTls::load(directory.path()).expect("fresh certificates");
        let (shutdown, wait) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let stop = async {
                let _ = wait.await;
            };
            server.serve(listener, tls, stop).await;
        });
        Self { address, directory, task, shutdown: Some(shutdown) }
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The endpoint of a client that trusts this server's authority.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        let trust = ClientTls::load_directory(self.directory.path()).expect("a fresh authority");
        Endpoint::tls(&self.address.to_string(), trust, None).expect("an address")
    }

    /// End every connection without a word, as a killed process does; returns what a restart needs.
    pub async fn kill(self) -> (SocketAddr, Arc<TempDir>) {
        // Kept until the task is gone, so that the server does not take it for a shutdown.
        let _shutdown = self.shutdown;
        self.task.abort();
        let _ = self.task.await;
        (self.address, self.directory)
    }

    /// Shut down as on a signal, and wait for the end.
    pub async fn shut_down(mut self) {
        if let Some(shutdown) = self.shutdown.take() {
            let _ = shutdown.send(());
        }
        self.task.await.expect("the server does not panic");
    }
}
