//! Runs against servers.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use protocol::access::Token;
use protocol::client::{ClientOptions, Endpoint, RemoteEvaluator, RetryPolicy};
use protocol::hosting::PlanShelf;
use protocol::identifiers::Label;
use protocol::runner::{RunOptions, RunOutcome, RunProgress, run_recorded};
use protocol::server::Server;
use protocol::session::ClientPlan;
use protocol::tls::{CA_FILE, ClientTls};
use pyo3::prelude::*;

use crate::arrays;
use crate::failure::{Failure, Outcome, Rejected};
use crate::key_holder::{Checks, unpicklable};
use crate::plan::Plan;
use crate::process::Process;
use crate::results::{Ended, RunResult};
use crate::verification::Fingerprint;
use crate::waiting::{Network, interruptible};
use crate::watching::Watcher;

/// Seconds to wait for a server that went away.
const PATIENCE: u64 = 60;

/// A plan and the servers that hold it. Keys are made for every batch, never leave the process, and are
/// wiped.
///
/// `address` is `host:port`, or a list of servers that hold the same plan. `ca` is the server's `ca.pem` or the
/// folder it lies in; nothing else is trusted. `identities` are the keys that may sign receipts, any if there
/// are none. Canaries are drawn from `examples` (raw samples), from a fingerprint, or else from the first
/// samples that are classified. Blocks that betray a server are kept in the folder `evidence`.
#[pyclass(frozen, module = "securedl")]
pub(crate) struct Client {
    plan: Arc<nn_poly::plan::Plan>,
    checks: Checks,
    fingerprint: Option<Arc<fingerprint::Fingerprint>>,
    /// The plan with its checks, once there are canaries.
    prepared: Mutex<Option<Arc<ClientPlan>>>,
    remote: Arc<RemoteEvaluator>,
    network: Network,
    in_flight: usize,
    evidence: Option<PathBuf>,
    place: String,
    process: Process,
}

/// One server or several.
#[derive(FromPyObject)]
pub(crate) enum Addresses {
    One(String),
    Several(Vec<String>),
}

/// What the keyword arguments say besides how to get there.
struct Settings {
    checks: Checks,
    examples: Option<ndarray::Array2<f32>>,
    fingerprint: Option<fingerprint::Fingerprint>,
    in_flight: usize,
    evidence: Option<PathBuf>,
}

impl Client {
    fn connected(
        py: Python<'_>,
        plan: &Plan,
        servers: Vec<Endpoint>,
        options: ClientOptions,
        settings: Settings,
    ) -> Outcome<Self> {
        let Settings { checks, examples, fingerprint, in_flight, evidence } = settings;
        let place = servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let options =
            ClientOptions { max_connections: options.max_connections.max(in_flight), ..options };
        let client = Self {
            plan: Arc::clone(&plan.inner),
            checks,
            fingerprint: fingerprint.map(Arc::new),
            prepared: Mutex::default(),
            remote: Arc::new(RemoteEvaluator::new(servers, options)?),
            network: Network::new()?,
            in_flight,
            evidence,
            place,
            process: Process::this(),
        };
        if let Some(examples) = examples {
            let inputs = py.detach(|| client.plan.public().quantize(&examples))?;
            client.prepare(py, &Arc::new(inputs))?;
        }
        Ok(client)
    }

    /// The plan with its checks, made at first use.
    fn prepare(
        &self,
        py: Python<'_>,
        inputs: &Arc<nn_poly::integer::IntegerMatrix>,
    ) -> Outcome<Arc<ClientPlan>> {
        let known = self.prepared.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(plan) = known {
            return Ok(plan);
        }
        let (plan, checks) = (Arc::clone(&self.plan), self.checks);
        let (fingerprint, inputs) = (self.fingerprint.clone(), Arc::clone(inputs));
        let made = interruptible(py, move || {
            checks.prepare(&plan, fingerprint.as_deref(), Some(&inputs))
        })?;
        let mut known = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(known.get_or_insert(made)))
    }
}

/// How this package presents itself to servers.
fn client_options(patience: u64) -> Outcome<ClientOptions> {
    let retry = match patience {
        0 => RetryPolicy::never(),
        seconds => RetryPolicy { outage: Duration::from_secs(seconds), ..RetryPolicy::default() },
    };
    let name = Label::new(concat!("securedl python ", env!("CARGO_PKG_VERSION")))?;
    Ok(ClientOptions { retry, ..ClientOptions::new(name) })
}

fn trust(ca: &Path, certificate: Option<&Path>) -> Outcome<ClientTls> {
    let file = if ca.is_dir() { ca.join(CA_FILE) } else { ca.to_owned() };
    Ok(match certificate {
        Some(certificate) => ClientTls::load_with_certificate(&file, certificate)?,
        None => ClientTls::load(&file)?,
    })
}

#[pymethods]
impl Client {
    #[new]
    #[pyo3(signature = (
        plan, address, *, ca, client_certificate=None, token=None, identities=Vec::new(), examples=None,
        fingerprint=None, canaries=None, replicas=1, batches_in_flight=1, patience=PATIENCE, evidence=None,
    ))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn new(
        py: Python<'_>,
        plan: &Plan,
        address: Addresses,
        ca: PathBuf,
        client_certificate: Option<PathBuf>,
        token: Option<&str>,
        identities: Vec<String>,
        examples: Option<&Bound<'_, PyAny>>,
        fingerprint: Option<&Fingerprint>,
        canaries: Option<usize>,
        replicas: usize,
        batches_in_flight: usize,
        patience: u64,
        evidence: Option<PathBuf>,
    ) -> Outcome<Self> {
        let addresses = match address {
            Addresses::One(address) => vec![address],
            Addresses::Several(addresses) => addresses,
        };
        let trust = trust(&ca, client_certificate.as_deref())?;
        let servers = addresses
            .iter()
            .map(|address| Endpoint::tls(address, trust.clone(), None))
            .collect::<Result<_, _>>()?;
        let identities = identities.iter().map(|text| text.parse());
        let options = ClientOptions {
            token: token.map(str::parse::<Token>).transpose()?,
            identities: identities.collect::<Result<_, _>>()?,
            ..client_options(patience)?
        };
        let settings = Settings {
            checks: Checks::new(canaries, replicas),
            examples: examples.map(arrays::features).transpose()?,
            fingerprint: fingerprint.map(Fingerprint::copy),
            in_flight: batches_in_flight,
            evidence,
        };
        Self::connected(py, plan, servers, options, settings)
    }

    /// A client of a server in this process, through the same messages as over the network.
    #[staticmethod]
    #[pyo3(signature = (plan, *, examples=None, fingerprint=None, canaries=None, replicas=1, batches_in_flight=1))]
    fn in_process(
        py: Python<'_>,
        plan: &Plan,
        examples: Option<&Bound<'_, PyAny>>,
        fingerprint: Option<&Fingerprint>,
        canaries: Option<usize>,
        replicas: usize,
        batches_in_flight: usize,
    ) -> Outcome<Self> {
        let settings = Settings {
            checks: Checks::new(canaries, replicas),
            examples: examples.map(arrays::features).transpose()?,
            fingerprint: fingerprint.map(Fingerprint::copy),
            in_flight: batches_in_flight,
            evidence: None,
        };
        let mut shelf = PlanShelf::new();
        py.detach(|| shelf.insert(&plan.inner).map_err(Failure::from))?;
        let servers = vec![Endpoint::in_process(Server::for_own_clients(Arc::new(shelf))?)];
        Self::connected(py, plan, servers, client_options(0)?, settings)
    }

    /// Classify raw samples, one row each: encrypted, and verified.
    ///
    /// `progress` is called with a `Progress` from other threads as the run goes on; what it raises ends the
    /// run. Raises `VerdictError` if the run was not intact.
    #[pyo3(signature = (samples, *, progress=None))]
    fn classify(
        &self,
        py: Python<'_>,
        samples: &Bound<'_, PyAny>,
        progress: Option<Py<PyAny>>,
    ) -> Outcome<RunResult> {
        self.process.check("a Client")?;
        let features = arrays::features(samples)?;
        let began = Instant::now();
        let inputs = Arc::new(py.detach(|| self.plan.public().quantize(&features))?);
        let plan = self.prepare(py, &inputs)?;
        let options = RunOptions::for_plan(&plan);
        let options = RunOptions {
            connections: options.connections.max(self.in_flight),
            batches_in_flight: self.in_flight,
            ..options
        };
        let watcher = Arc::new(Watcher::new(progress));
        let watched: Arc<dyn RunProgress> = Arc::clone(&watcher) as Arc<dyn RunProgress>;
        let evidence = self.evidence.as_deref();
        let run = async {
            Ok(run_recorded(&plan, &inputs, &self.remote, &options, &watched, evidence).await?)
        };
        let outcome = self.network.wait(py, run, || watcher.check())?;
        watcher.check()?;
        match outcome {
            RunOutcome::Rejected { verdict, evidence, .. } => {
                Err(Rejected { verdict, evidence }.into())
            }
            RunOutcome::Verified(result) => {
                let ended = Ended {
                    scores: result.scores,
                    out_of_calibration: result.out_of_calibration,
                    verdict: result.verdict,
                    tally: result.tally,
                    receipts: watcher.take_receipts(),
                    elapsed: began.elapsed(),
                    server: Some(result.evaluate),
                };
                Ok(RunResult::new(py, ended))
            }
        }
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(unpicklable("a Client", "keys and checks"))
    }

    fn __repr__(&self) -> String {
        format!("Client({}, {})", self.plan.digest().short(), self.place)
    }
}
