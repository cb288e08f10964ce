//! TLS 1.3 on both sides: ring as the only provider, one protocol name, one trust rule.
//!
//! A server presents `DIR/server.pem`; a client trusts exactly the authorities in its `ca.pem` and
//! nothing else: neither the system's list nor an override. There is no way to switch verification
//! off. The protocol name `securedl/1` is negotiated (ALPN), so that a connection to any other TLS
//! service fails in the handshake.
//!
//! A server may ask clients for certificates in turn, issued by an authority of its own
//! (`DIR/client-ca.pem`). The two authorities are apart on purpose: whoever can admit clients cannot
//! impersonate the server.

mod init;
mod trust;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, server};
use zeroize::Zeroizing;

use crate::error::{ConfigError, Error, InternalError, Result, TrustError};
use crate::identifiers::{parse_hex, write_hex};
use crate::transport::{BoxedStream, ByteStream};

pub use self::init::{Created, CreatedClient, client, init};
pub(crate) use self::init::{Readers, write_all};
pub(crate) use self::trust::{client_was_refused, warn_if_readable_by_others};

/// The certificate authority a client trusts.
pub const CA_FILE: &str = "ca.pem";
/// The server's certificate.
pub const CERTIFICATE_FILE: &str = "server.pem";
/// The server's TLS key.
pub const KEY_FILE: &str = "server.key";
/// The server's receipt-signing key; see [`Identity`](crate::identity::Identity).
pub const IDENTITY_FILE: &str = "identity.key";

/// The authority whose certificates let clients in.
pub const CLIENT_CA_FILE: &str = "client-ca.pem";
/// The key of that authority: makes further client certificates.
pub const CLIENT_CA_KEY_FILE: &str = "client-ca.key";
/// A client's certificate.
pub const CLIENT_CERTIFICATE_FILE: &str = "client.pem";
/// The key of a client's certificate.
pub const CLIENT_KEY_FILE: &str = "client.key";

const PROTOCOL_NAME: &[u8] = b"securedl/1";

/// Largest certificate or key file read.
const MAX_PEM_BYTES: u64 = 1 << 20;

/// SHA-256 of a certificate (DER): names a client's certificate in the access list. Shown and parsed
/// as 64 hexadecimal digits; colons between them are ignored, as other tools write them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CertificateFingerprint(pub [u8; 32]);

impl CertificateFingerprint {
    /// The fingerprint of a certificate.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        let mut bytes = [0; 32];
        if let Some(suite) = ring::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13() {
            bytes.copy_from_slice(suite.common.hash_provider.hash(certificate).as_ref());
        }
        Self(bytes)
    }

    /// The fingerprint of the first certificate in a PEM file.
    ///
    /// # Errors
    /// [`ConfigError::UnreadableFile`], [`ConfigError::UnusableFile`]: no such file or certificate.
    pub fn of_file(path: &Path) -> Result<Self> {
        let first = read_certificates(path)?.into_iter().next();
        let (path, expected, source) = (path.to_owned(), "certificate (PEM)", None);
        first
            .map(|certificate| Self::of(&certificate))
            .ok_or_else(|| ConfigError::UnusableFile { path, expected, source }.into())
    }
}

impl fmt::Display for CertificateFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for CertificateFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateFingerprint({self})")
    }
}

impl FromStr for CertificateFingerprint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse_hex(&text.replace(':', "")).map(Self)
    }
}

/// Whether a server asks clients for certificates of the authorities in `client-ca.pem`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientCertificates {
    /// It does not ask.
    #[default]
    NotAsked,
    /// It asks; a client without one may still show a token.
    Optional,
    /// Nobody comes past the handshake without one.
    Required,
}

/// A server's certificate and key, ready to accept connections. Cheap to clone; clones are one.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<RwLock<Arc<ServerConfig>>>,
    clients: ClientCertificates,
}

impl ServerTls {
    /// Read `server.pem` and `server.key` from a directory. Clients are not asked for certificates.
    ///
    /// # Errors
    /// - [`ConfigError::UnreadableFile`], [`ConfigError::UnusableFile`]: a file is missing or holds
    ///   something else.
    /// - [`ConfigError::KeyMismatch`]: the key is of another certificate.
    /// - [`ConfigError::CertificateExpired`]: no client would accept the certificate.
    pub fn load(directory: &Path) -> Result<Self> {
        Self::load_with(directory, ClientCertificates::NotAsked)
    }

    /// As [`load`](Self::load), and if clients are asked for certificates also `client-ca.pem`.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_with(directory: &Path, clients: ClientCertificates) -> Result<Self> {
        let config = Arc::new(server_config(directory, clients)?);
        Ok(Self { config: Arc::new(RwLock::new(config)), clients })
    }

    /// Read the directory again, for connections from now on; those that are open go on.
    ///
    /// # Errors
    /// As [`load`](Self::load); the files in force then stay in force.
    pub fn reload(&self, directory: &Path) -> Result<()> {
        let config = Arc::new(server_config(directory, self.clients)?);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// Do the server's side of the handshake.
    pub(crate) async fn accept(
        &self,
        socket: TcpStream,
    ) -> io::Result<server::TlsStream<TcpStream>> {
        let config = Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner));
        TlsAcceptor::from(config).accept(socket).await
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("clients", &self.clients).finish_non_exhaustive()
    }
}

fn server_config(directory: &Path, clients: ClientCertificates) -> Result<ServerConfig> {
    let (certificate, key) = (directory.join(CERTIFICATE_FILE), directory.join(KEY_FILE));
    let chain = read_certificates(&certificate)?;
    for link in &chain {
        if let Some(expired) = trust::expiry_if_over(link)? {
            return Err(ConfigError::CertificateExpired { path: certificate, expired }.into());
        }
    }
    warn_if_readable_by_others(&key);
    let secret = read_key(&key)?;
    let verifier = client_verifier(directory, clients)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|source| InternalError::Tls { source: source.into() })?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, secret)
        .map_err(|source| -> Error {
            if matches!(source, rustls::Error::InconsistentKeys(_)) {
                return ConfigError::KeyMismatch { certificate, key }.into();
            }
            let (expected, source) = ("TLS private key", Some(source.into()));
            ConfigError::UnusableFile { path: key, expected, source }.into()
        })?;
    config.alpn_protocols = vec![PROTOCOL_NAME.to_vec()];
    Ok(config)
}

fn client_verifier(
    directory: &Path,
    clients: ClientCertificates,
) -> Result<Arc<dyn ClientCertVerifier>> {
    if clients == ClientCertificates::NotAsked {
        return Ok(WebPkiClientVerifier::no_client_auth());
    }
    let roots = Arc::new(roots(&directory.join(CLIENT_CA_FILE))?);
    let builder = WebPkiClientVerifier::builder_with_provider(roots, provider());
    let builder = match clients {
        ClientCertificates::Optional => builder.allow_unauthenticated(),
        ClientCertificates::NotAsked | ClientCertificates::Required => builder,
    };
    Ok(builder.build().map_err(|source| InternalError::Tls { source: source.into() })?)
}

/// The authorities in a PEM file that are still valid; at least one.
fn roots(path: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let mut expired_on = None;
    for authority in read_certificates(path)? {
        // The TLS library takes trust anchors for eternal.
        if let Some(expired) = trust::expiry_if_over(&authority)? {
            expired_on = Some(expired);
            continue;
        }
        roots.add(authority).map_err(|source| unusable_authority(path, source))?;
    }
    if let (true, Some(expired)) = (roots.is_empty(), expired_on) {
        return Err(TrustError::AuthorityExpired { path: path.to_owned(), expired }.into());
    }
    Ok(roots)
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
        Self::build(ca_file, None)
    }

    /// As [`load`](Self::load), and show the certificate in this directory (`client.pem` and
    /// `client.key`, made by `securedl tls client`) to servers that ask for one.
    ///
    /// # Errors
    /// - As [`load`](Self::load).
    /// - [`ConfigError::CertificateExpired`]: no server would accept the certificate.
    /// - [`ConfigError::UnusableFile`]: the key is none, or of another certificate.
    pub fn load_with_certificate(ca_file: &Path, client: &Path) -> Result<Self> {
        Self::build(ca_file, Some(client))
    }

    fn build(ca_file: &Path, client: Option<&Path>) -> Result<Self> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|source| InternalError::Tls { source: source.into() })?
            .with_root_certificates(roots(ca_file)?);
        let mut config = match client {
            None => builder.with_no_client_auth(),
            Some(client) => {
                let certificate = client.join(CLIENT_CERTIFICATE_FILE);
                let path = client.join(CLIENT_KEY_FILE);
                let chain = read_certificates(&certificate)?;
                for link in &chain {
                    if let Some(expired) = trust::expiry_if_over(link)? {
                        let path = certificate;
                        return Err(ConfigError::CertificateExpired { path, expired }.into());
                    }
                }
                warn_if_readable_by_others(&path);
                let key = read_key(&path)?;
                builder.with_client_auth_cert(chain, key).map_err(|source| {
                    let (expected, source) = ("key of client.pem", Some(source.into()));
                    ConfigError::UnusableFile { path, expected, source }
                })?
            }
        };
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

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
    read_small(path, limit)
        .map_err(|source| ConfigError::UnreadableFile { path: path.to_owned(), source }.into())
}

/// As [`read_file`], with the system's reason.
pub(crate) fn read_small(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    // Reserved in full, so that growing leaves no copy of a secret behind.
    let length = file.metadata()?.len().min(limit);
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1);
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}
