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
use pyo3::prelude::*;
use tokio::sync::oneshot;

use crate::arrays::Lent;
use crate::failure::{Outcome, told};
use crate::plan::Plan;
use crate::waiting::Network;

/// Make certificates and an identity for a server, as `securedl tls init` does: in a new folder, valid for these
/// names and addresses. Clients need its `ca.pem` only. Returns the files.
#[pyfunction]
#[pyo3(signature = (folder, names))]
pub(crate) fn init_tls(folder: PathBuf, names: Vec<String>) -> Outcome<Vec<PathBuf>> {
    Ok(protocol::tls::init(&folder, &names)?.files)
}

/// A server over TLS that hands every request to `evaluate(segment, request)` and signs what it returns.
///
/// `tls` is a folder of `securedl tls init`, `access` the file that says who may enter. Without one the
/// gateway is open to whoever reaches the port, which is allowed on loopback addresses only.
#[pyclass(frozen, module = "securedl")]
pub(crate) struct Gateway {
    network: Network,
    address: SocketAddr,
    identity: String,
    stop: Mutex<Option<oneshot::Sender<()>>>,
}

/// Requests of a client, evaluated by a Python function.
struct Function(Py<PyAny>);

impl Forward for Function {
    fn evaluate(&self, request: ForwardedRequest) -> Result<Bytes, Source> {
        let ForwardedRequest { segment, bytes } = request;
        let reply = Python::try_attach(|py| -> PyResult<Bytes> {
            let reply = self.0.bind(py).call1((segment, bytes.into_pyarray(py)))?;
            Ok(Bytes::copy_from_slice(Lent::new(&reply)?.as_slice()?))
        });
        match reply {
            Some(reply) => Ok(reply?),
            None => Err("the interpreter ends".into()),
        }
    }
}

#[pymethods]
impl Gateway {
    #[new]
    #[pyo3(signature = (plan, evaluate, *, tls, listen="127.0.0.1:0", access=None))]
    fn new(
        py: Python<'_>,
        plan: &Plan,
        evaluate: Py<PyAny>,
        tls: PathBuf,
        listen: &str,
        access: Option<PathBuf>,
    ) -> Outcome<Self> {
        let address: SocketAddr = listen.parse()?;
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
        let options = ServerOptions { access, ..ServerOptions::new(name) };
        let identity = Identity::load(&tls.join(IDENTITY_FILE))?;
        let server = Server::new(Arc::new(shelf), identity, options)?;
        let tls = ServerTls::load(&tls)?;
        let network = Network::new()?;
        let listener = network.wait(py, async { Ok(Server::bind(address).await?) }, || Ok(()))?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let identity = server.identity().to_string();
        network.spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            server.serve(listener, tls, stopped).await;
        });
        Ok(Self { network, address, identity, stop: Mutex::new(Some(stop)) })
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

    /// Accept no further connections; what runs may finish.
    fn close(&self) {
        self.stop().take();
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
