//! The local page: a server on a loopback address, for whoever has the token of this start.
//!
//! ```text
//!  browser ── door ── Host, token, sizes ──► gate ──► routes ──► intake: bytes ─► samples
//!     ▲                                                 │              │
//!     └── assets, status, HTML of a run ◄───────────────┴──── desk: one run at a time ──► protocol::runner
//! ```
//! Keys, checks and decryption stay in this process; the page gets what a person may see: pictures,
//! counts, verdicts, scores that were released, receipts.
//!
//! # Security
//! Other programs of this machine can reach the port, and so can pages in the same browser. They lack the
//! token, which stands in the fragment of the printed address (browsers do not send fragments) and then
//! in a header that no other page may set. Names that merely resolve to this machine are refused, so
//! that no other page can pass for this one.

mod assets;
mod desk;
mod door;
mod gate;
mod intake;
mod routes;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use tokio::net::TcpListener;

pub(crate) use self::desk::{Desk, EvidencePlace, Reach, Tampering};
use self::gate::Gate;

/// A page that is about to be served.
#[derive(Debug)]
pub(crate) struct Page {
    listener: TcpListener,
    gate: Gate,
    address: SocketAddr,
}

impl Page {
    /// Take an address of this machine.
    ///
    /// # Errors
    /// - An address that is not loopback: the page has no encryption, and what it shows is secret.
    /// - An address that is taken; no random numbers for a token.
    pub(crate) async fn bind(address: SocketAddr) -> Result<Self> {
        if !address.ip().is_loopback() {
            bail!(
                "{address} is not a loopback address: the page shows samples and predictions in the clear, \
                 so it is served to this machine only (from elsewhere, use a tunnel: ssh -L 8088:127.0.0.1:8088)"
            );
        }
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address}"))?;
        let address = listener.local_addr().context("the port is not known")?;
        Ok(Self { listener, gate: Gate::new(address)?, address })
    }

    /// The address with its token. Whoever has it can use the page.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/#token={}", self.address, self.gate.token())
    }

    /// Serve until `stop` is ready. Connections end then, whatever they wait for.
    pub(crate) async fn serve(self, desk: Arc<Desk>, stop: impl Future<Output = ()>) {
        let routes = routes::routes(desk, self.gate);
        tokio::select! {
            () = door::answer(self.listener, routes, door::LIMITS) => {}
            () = stop => {}
        }
    }
}

#[cfg(test)]
mod tests;
