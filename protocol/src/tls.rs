//! TLS 1.3 on both sides: ring as the only provider, one protocol name, one trust rule.
//!
//! A server presents `DIR/server.pem`; a client trusts exactly the authorities in its `ca.pem` and
//! nothing else: neither the system's list nor an override. There is no way to switch verification
//! off. The protocol name `securedl/1` is negotiated (ALPN), so that a connection to any other TLS
//! service fails in the handshake.

mod init;
mod trust;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, server};
use zeroize::Zeroizing;

use crate::error::{ConfigError, InternalError, Result, TrustError};
use crate::transport::{BoxedStream, ByteStream};

pub use self::init::{Created, init};

/// The certificate authority a client trusts.
pub const CA_FILE: &str = "ca.pem";
/// The server's certificate.
pub const CERTIFICATE_FILE: &str = "server.pem";
/// The server's TLS key.
pub const KEY_FILE: &str = "server.key";
/// The server's receipt-signing key; see [`Identity`](crate::identity::Identity).
pub const IDENTITY_FILE: &str = "identity.key";

const PROTOCOL_NAME: &[u8] = b"securedl/1";

/// Largest certificate or key file read.
const MAX_PEM_BYTES: u64 = 1 << 20;

/// A server's certificate and key, ready to accept connections. Cheap to clone.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
}

impl ServerTls {
    /// Read `server.pem` and `server.key` from a directory.
    ///
    /// # Errors
    /// - [`ConfigError::UnreadableFile`], [`ConfigError::UnusableFile`]: a file is missing or holds
    ///   something else.
    /// - [`ConfigError::KeyMismatch`]: the key is of another certificate.
    /// - [`ConfigError::CertificateExpired`]: no client would accept the certificate.
    pub fn load(directory: &Path) -> Result<Self> {
        let (certificate, key) = (directory.join(CERTIFICATE_FILE), directory.join(KEY_FILE));
        let chain = read_certificates(&certificate)?;
        for link in &chain {
            if let Some(expired) = trust::expiry_if_over(link)? {
                return Err(ConfigError::CertificateExpired { path: certificate, expired }.into());
            }
        }
        trust::warn_if_readable_by_others(&key);
        let secret = read_key(&key)?;
        Self::with_chain(chain, secret).map_err(|source| {
            if matches!(source, rustls::Error::InconsistentKeys(_)) {
                return ConfigError::KeyMismatch { certificate, key }.into();
            }
            let (expected, source) = ("TLS private key", Some(source.into()));
            ConfigError::UnusableFile { path: key, expected, source }.into()
        })
    }

    fn with_chain(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![PROTOCOL_NAME.to_vec()];
        Ok(Self { config: Arc::new(config) })
    }

    /// Do the server's side of the handshake.
    pub(crate) async fn accept(
        &self,
        socket: TcpStream,
    ) -> io::Result<server::TlsStream<TcpStream>> {
        TlsAcceptor::from(Arc::clone(&self.config)).accept(socket).await
    }
}

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}

/// The authorities a client trusts. Cheap to clone.
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    authority: PathBuf,
}

impl ClientTls {
    /// Trust exactly the authorities in this PEM file that are still valid.
    ///
    /// # Errors
    /// - [`ConfigError::UnreadableFile`], [`ConfigError::UnusableFile`]: the file is missing or
    ///   holds no certificate authority.
    /// - [`TrustError::AuthorityExpired`]: all of them are past their time.
    pub fn load(ca_file: &Path) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        let mut expired_on = None;
        for authority in read_certificates(ca_file)? {
            // The TLS library takes trust anchors for eternal.
            if let Some(expired) = trust::expiry_if_over(&authority)? {
                expired_on = Some(expired);
                continue;
            }
            roots.add(authority).map_err(|source| unusable_authority(ca_file, source))?;
        }
        if let (true, Some(expired)) = (roots.is_empty(), expired_on) {
            return Err(TrustError::AuthorityExpired { path: ca_file.to_owned(), expired }.into());
        }
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|source| InternalError::Tls { source: source.into() })?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![PROTOCOL_NAME.to_vec()];
        Ok(Self { config: Arc::new(config), authority: ca_file.to_owned() })
    }

    /// Trust the authority in `DIR/ca.pem`.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_directory(directory: &Path) -> Result<Self> {
        Self::load(&directory.join(CA_FILE))
    }

    /// Do the client's side of the handshake over any stream, and check the server's certificate.
    ///
    /// # Errors
    /// - [`TrustError`]: the server could not prove who it is.
    /// - [`LinkError`](crate::error::LinkError): the connection failed.
    pub async fn connect(
        &self,
        server_name: ServerName<'static>,
        stream: impl ByteStream,
    ) -> Result<BoxedStream> {
        let name = server_name.to_str().into_owned();
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let stream = connector
            .connect(server_name, stream)
            .await
            .map_err(|error| trust::explain(error, name.clone(), &self.authority))?;
        if stream.get_ref().1.alpn_protocol() != Some(PROTOCOL_NAME) {
            let source = "the server did not agree on the protocol securedl/1".into();
            return Err(TrustError::NotSecureDl { server: name, source }.into());
        }
        Ok(Box::new(stream))
    }
}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientTls").field("authority", &self.authority).finish_non_exhaustive()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn unusable_authority(path: &Path, source: rustls::Error) -> ConfigError {
    ConfigError::UnusableFile {
        path: path.to_owned(),
        expected: "certificate authority (PEM)",
        source: Some(source.into()),
    }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let unusable = |source| ConfigError::UnusableFile {
        path: path.to_owned(),
        expected: "certificate (PEM)",
        source,
    };
    let bytes = read_file(path, MAX_PEM_BYTES)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|source| unusable(Some(source.into())))?;
    if certificates.is_empty() { Err(unusable(None).into()) } else { Ok(certificates) }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    let bytes = Zeroizing::new(read_file(path, MAX_PEM_BYTES)?);
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|source| {
        let (expected, source) = ("private key (PEM)", Some(source.into()));
        ConfigError::UnusableFile { path: path.to_owned(), expected, source }.into()
    })
}

/// Read a small file. Whatever lies beyond `limit` bytes is not read: what is there does not parse.
pub(crate) fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let read = || {
        let file = File::open(path)?;
        // Reserved in full, so that growing leaves no copy of a secret behind.
        let length = file.metadata()?.len().min(limit);
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1);
        file.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|source| ConfigError::UnreadableFile { path: path.to_owned(), source }.into())
}
