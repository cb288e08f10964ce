//! A server to measure against, in this process: through memory or over TLS on loopback.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use protocol::client::Endpoint;
use protocol::identifiers::Digest;
use protocol::server::Server;
use protocol::server::service::{PlanHost, SegmentService};
use protocol::tls::{self, ClientTls, ServerTls};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::args::TransportName;
use crate::pipeline::inference;

/// Pieces in which a request arrives when a service is measured alone.
const PIECE_BYTES: usize = 1 << 20;

/// A running server.
pub(super) struct Serving {
    /// How to reach it.
    pub(super) endpoint: Endpoint,
    listening: Option<Listening>,
}

/// A server on a port, with certificates of its own.
struct Listening {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    _certificates: tempfile::TempDir,
}

impl Serving {
    /// Serve `host`.
    pub(super) async fn start(host: Arc<dyn PlanHost>, transport: TransportName) -> Result<Self> {
        let server = inference::server(host)?;
        match transport {
            TransportName::Pipe => {
                Ok(Self { endpoint: Endpoint::in_process(server), listening: None })
            }
            TransportName::Tls => Self::listen(server).await,
        }
    }

    async fn listen(server: Server) -> Result<Self> {
        let certificates = tempfile::tempdir().context("no temporary folder for certificates")?;
        let folder = certificates.path().join("tls");
        tls::init(&folder, &[])?;
        let listener = Server::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
        let address = listener.local_addr().context("the port is not known")?.to_string();
        let (stop, stopped) = oneshot::channel::<()>();
        let tls = ServerTls::load(&folder)?;
        let task = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            server.serve(listener, tls, stopped).await;
        });
        let endpoint = Endpoint::tls(&address, ClientTls::load_directory(&folder)?, None)?;
        Ok(Self {
            endpoint,
            listening: Some(Listening { stop, task, _certificates: certificates }),
        })
    }

    /// Stop it.
    pub(super) async fn stop(self) -> Result<()> {
        let Some(Listening { stop, task, _certificates }) = self.listening else { return Ok(()) };
        let _ = stop.send(());
        task.await.context("the server failed")
    }
}

/// How long a server works on one block of a segment, alone on all threads.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(super) struct BlockTimes {
    /// Unpacking and expanding the request, wall seconds.
    pub(super) receive: f64,
    /// From the linear map to the packed reply, wall seconds.
    pub(super) evaluate: f64,
}

/// Feed one segment a request and throw the reply away.
///
/// The request is all zeros, which is a well-formed block; no step's time depends on the residues.
pub(super) fn time_block(host: &dyn PlanHost, plan: Digest, segment: u32) -> Result<BlockTimes> {
    let service: Arc<dyn SegmentService> = host
        .segment(&plan, segment)
        .map_err(|refusal| anyhow!("the server refuses segment {segment}: {refusal:?}"))?;
    let size = usize::try_from(service.request_bytes()).context("a request beyond memory")?;
    let request = vec![0; size];
    let mut receiver = service.begin([1; 32])?;
    let started = Instant::now();
    for piece in request.chunks(PIECE_BYTES) {
        receiver.push(piece)?;
    }
    let receive = started.elapsed().as_secs_f64();
    let started = Instant::now();
    receiver.evaluate(&mut |_| std::ops::ControlFlow::Continue(()))?;
    Ok(BlockTimes { receive, evaluate: started.elapsed().as_secs_f64() })
}
