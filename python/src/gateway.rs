//! A server whose segments are evaluated elsewhere, by a Python function.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use numpy::IntoPyArray;
use protocol::access::{AccessControl, AccessFile};
use protocol::error::Source;
use protocol::hosting::{Forward, ForwardedRequest, PlanShelf};
use protocol::identifiers::Label;
use protocol::identity::Identity;
use protocol::server::{Server, ServerOptions};
use protocol::tls::{IDENTITY_FILE, ServerTls};
use pyo3::exceptions::PyTimeoutError;
use pyo3::intern;
use pyo3::prelude::*;
use tokio::sync::{oneshot, watch};

use crate::arrays::Lent;
use crate::failure::{Outcome, told};
use crate::plan::Plan;
use crate::waiting::Network;

/// Seconds between two looks at whether a reply is still wanted.
const LOOK_SECONDS: f64 = 0.25;

/// Make certificates and an identity for a server, as `securedl tls init` does: in a new folder, valid for these
/// names and addresses. Clients need its `ca.pem` only. Returns the files.
#[pyfunction]
#[pyo3(signature = (folder, names))]
pub(crate) fn init_tls(folder: PathBuf, names: Vec<String>) -> Outcome<Vec<PathBuf>> {
    Ok(protocol::tls::init(&folder, &names)?.files)
}

/// A server over TLS that hands every request to `evaluate(segment, request)` and signs what it returns: the
/// reply, or something that will have it, with `result(timeout)` and `cancel()` as a
/// `concurrent.futures.Future` has them. That is cancelled when the client leaves. Failures are told to the
/// logger `securedl.gateway`; clients are only told that there is no reply.
///
/// At most `evaluations` requests are with the function at a time (16 unless given, on threads of their own),
/// and all requests together declare at most `memory_bytes` (4 GiB unless given).
///
/// `tls` is a folder of `securedl tls init`, `access` the file that says who may enter. Without one the
/// gateway is open to whoever reaches the port, which is allowed on loopback addresses only.
#[pyclass(frozen, module = "securedl")]
pub(crate) struct Gateway {
    network: Network,
    address: SocketAddr,
    identity: String,
    stop: Mutex<Option<oneshot::Sender<()>>>,
    /// Whether nothing runs any more.
    ended: watch::Receiver<bool>,
}

/// Requests of a client, evaluated by a Python function.
struct Function(Py<PyAny>);

impl Forward for Function {
    fn evaluate(
        &self,
        request: ForwardedRequest,
        wanted: &mut dyn FnMut() -> bool,
    ) -> Result<Bytes, Source> {
        let ForwardedRequest { segment, bytes } = request;
        let asked = attached(|py| {
            let answer = self.0.bind(py).call1((segment, bytes.into_pyarray(py)))?;
            if answer.hasattr(intern!(py, "result"))? && answer.hasattr(intern!(py, "cancel"))? {
                return Ok(Answer::Pending(answer.unbind()));
            }
            Ok(Answer::Reply(copied(&answer)?))
        })?;
        let pending = match asked {
            Answer::Reply(reply) => return Ok(reply),
            Answer::Pending(pending) => pending,
        };
        loop {
            if !wanted() {
                attached(|py| pending.call_method0(py, intern!(py, "cancel")).map(drop))?;
                return Err("nobody waits for the reply".into());
            }
            let reply = attached(|py| {
                match pending.bind(py).call_method1(intern!(py, "result"), (LOOK_SECONDS,)) {
                    Ok(reply) => copied(&reply).map(Some),
                    Err(error) if error.is_instance_of::<PyTimeoutError>(py) => Ok(None),
                    Err(error) => Err(error),
                }
            })?;
            if let Some(reply) = reply {
                return Ok(reply);
            }
        }
    }
}

/// What a function gave.
enum Answer {
    Reply(Bytes),
    Pending(Py<PyAny>),
}

/// Run with the interpreter, unless it ends; what is raised goes to its log, too.
fn attached<T>(work: impl FnOnce(Python<'_>) -> PyResult<T>) -> Result<T, Source> {
    let done = Python::try_attach(|py| {
        work(py).inspect_err(|error| {
            // There is nobody else to tell if the log fails.
            let _ = log(py, error);
        })
    });
    match done {
        Some(done) => Ok(done?),
        None => Err("the interpreter ends".into()),
    }
}

fn log(py: Python<'_>, error: &PyErr) -> PyResult<()> {
    let logger = py.import("logging")?.call_method1("getLogger", ("securedl.gateway",))?;
    let text = "no reply: %s: %s";
    let name = error.get_type(py).name()?;
    logger.call_method1("error", (text, name, error.value(py).to_string())).map(drop)
}

fn copied(reply: &Bound<'_, PyAny>) -> PyResult<Bytes> {
    Ok(Bytes::copy_from_slice(Lent::new(reply)?.as_slice()?))
}

#[pymethods]
impl Gateway {
    #[new]
    #[pyo3(signature = (
        plan, evaluate, *, tls, listen="127.0.0.1:0", access=None, evaluations=None, memory_bytes=None,
    ))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn new(
        py: Python<'_>,
        plan: &Plan,
        evaluate: Py<PyAny>,
        tls: PathBuf,
        listen: &str,
        access: Option<PathBuf>,
        evaluations: Option<usize>,
        memory_bytes: Option<u64>,
    ) -> Outcome<Self> {
        let address: SocketAddr = listen.parse().map_err(|_| {
            told(format!(
                "cannot listen on {listen:?}: give an IP address and a port, such as 127.0.0.1:7443"
            ))
        })?;
        if access.is_none() && !address.ip().is_loopback() {
            return Err(told(format!(
                "{address} can be reached from other machines: name the file that says who may enter \
                 (access=…)"
            )));
        }
        let forward: Arc<dyn Forward> = Arc::new(Function(evaluate));
        let mut shelf = PlanShelf::new();
        shelf.insert_forwarded(&plan.inner, &forward)?;
        let access = match access {
            Some(path) => AccessControl::listed(AccessFile::open(&path)?.1),
            None => AccessControl::open(),
        };
        let name = Label::new(concat!("securedl gateway ", env!("CARGO_PKG_VERSION")))?;
        let mut options = ServerOptions { access, ..ServerOptions::new(name) };
        if let Some(evaluations) = evaluations {
            let limits = &mut options.limits;
            limits.max_evaluations = evaluations;
            limits.max_requests = limits.max_requests.max(evaluations);
        }
        if let Some(bytes) = memory_bytes {
            options.limits.max_memory_bytes = bytes;
        }
        let identity = Identity::load(&tls.join(IDENTITY_FILE))?;
        let server = Server::new(Arc::new(shelf), identity, options)?;
        let tls = ServerTls::load(&tls)?;
        let network = Network::new()?;
        let listener = network.wait(py, async { Ok(Server::bind(address).await?) }, || Ok(()))?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let (over, ended) = watch::channel(false);
        let identity = server.identity().to_string();
        network.spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            server.serve(listener, tls, stopped).await;
            over.send_replace(true);
        });
        Ok(Self { network, address, identity, stop: Mutex::new(Some(stop)), ended })
    }

    /// Where it listens, `host:port`.
    #[getter]
    fn address(&self) -> String {
        self.address.to_string()
    }

    /// The key that signs its receipts, for clients that insist on it.
    #[getter]
    fn identity(&self) -> &str {
        &self.identity
    }

    /// Serve until a signal comes.
    fn serve_forever(&self, py: Python<'_>) -> Outcome<()> {
        self.network.wait(py, std::future::pending(), || Ok(()))
    }

    /// Accept no further connections, and wait until what runs is finished: at most half a minute.
    fn close(&self, py: Python<'_>) -> Outcome<()> {
        self.stop().take();
        let mut ended = self.ended.clone();
        let over = async {
            // An error means that the server is gone.
            let _ = ended.wait_for(|&over| over).await;
            Ok(())
        };
        self.network.wait(py, over, || Ok(()))
    }

    fn __repr__(&self) -> String {
        format!("Gateway({})", self.address)
    }
}

impl Gateway {
    /// A panic while it was held leaves it usable.
    fn stop(&self) -> MutexGuard<'_, Option<oneshot::Sender<()>>> {
        self.stop.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
