//! Where a server is and how to get there.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Stage;
use crate::error::{ConfigError, LinkError, Result};
use crate::server::Server;
use crate::socket;
use crate::tls::ClientTls;
use crate::transport::BoxedStream;

/// How long a server may leave bytes without an acknowledgement, or take none, before the system ends the
/// connection: longer than a full server keeps an upload waiting. Silence ends a request much earlier.
const UNACKNOWLEDGED: Duration = Duration::from_secs(300);

/// A stream that is being set up.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = Result<BoxedStream>> + Send + 'a>>;

/// Any other way to reach a server, for tests that stand between client and server.
pub trait Connect: Send + Sync {
    /// Open one more connection. The stream must be authenticated and encrypted, or never leave
    /// the process.
    ///
    /// # Errors
    /// [`LinkError`] if another attempt may help; anything else ends the request.
    fn connect(&self) -> Connecting<'_>;
}

/// A server to talk to.
#[derive(Clone)]
pub struct Endpoint {
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Tls { address: String, trust: ClientTls, server_name: ServerName<'static> },
    InProcess(Server),
    Custom { connect: Arc<dyn Connect>, name: Arc<str> },
}

impl Endpoint {
    /// A server over TLS at `host:port`, whose certificate must be valid for `server_name`, or for
    /// `host` if that is `None`.
    ///
    /// # Errors
    /// - [`ConfigError::InvalidServerName`]: neither a host name nor an address.
    pub fn tls(address: &str, trust: ClientTls, server_name: Option<&str>) -> Result<Self> {
        let name = server_name.unwrap_or_else(|| host_of(address));
        let server_name = ServerName::try_from(name.to_owned())
            .map_err(|_| ConfigError::InvalidServerName { name: name.to_owned() })?;
        Ok(Self { kind: Kind::Tls { address: address.to_owned(), trust, server_name } })
    }

    /// A server inside this process, through the same messages.
    #[must_use]
    pub const fn in_process(server: Server) -> Self {
        Self { kind: Kind::InProcess(server) }
    }

    /// A server reached in another way.
    #[must_use]
    pub fn custom(connect: Arc<dyn Connect>) -> Self {
        Self::custom_named(connect, "another way")
    }

    /// As [`custom`](Self::custom), under a name for messages.
    #[must_use]
    pub fn custom_named(connect: Arc<dyn Connect>, name: impl Into<Arc<str>>) -> Self {
        Self { kind: Kind::Custom { connect, name: name.into() } }
    }

    /// Open a connection and, over TLS, make sure who is at the other end.
    ///
    /// # Errors
    /// - [`LinkError`]: unreachable, lost, or silent.
    /// - [`TrustError`](crate::error::TrustError): the server could not prove who it is.
    pub async fn connect(&self, limit: Duration) -> Result<BoxedStream> {
        let connect = async {
            match &self.kind {
                Kind::Tls { address, trust, server_name } => {
                    let socket = TcpStream::connect(address).await.map_err(|source| {
                        LinkError::Unreachable { address: address.clone(), source }
                    })?;
                    socket::prepare(&socket, UNACKNOWLEDGED);
                    trust.connect(server_name.clone(), socket).await
                }
                Kind::InProcess(server) => Ok(server.connect()),
                Kind::Custom { connect, .. } => connect.connect().await,
            }
        };
        let late = LinkError::TimedOut { stage: Stage::Connecting, after: limit };
        timeout(limit, connect).await.unwrap_or(Err(late.into()))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Tls { address, .. } => f.write_str(address),
            Kind::InProcess(_) => f.write_str("this process"),
            Kind::Custom { name, .. } => f.write_str(name),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

/// The host in `host:port` or `[address]:port`.
fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_what_stands_before_the_port() {
        let cases = [
            ("localhost:443", "localhost"),
            ("127.0.0.1:1", "127.0.0.1"),
            ("[::1]:7443", "::1"),
            ("example.org", "example.org"),
        ];
        for (address, host) in cases {
            assert_eq!(host_of(address), host);
        }
    }
}
