//! Who may be at the other end, and what is said when it is somebody else.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use protocol::client::{Endpoint, RemoteEvaluator};
use protocol::error::{ConfigError, Error, PeerFault, TrustError};
use protocol::identity::{Identity, PublicIdentity};
use protocol::server::Server;
use protocol::tls::{self, ClientTls, ServerTls};
use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tempfile::{TempDir, tempdir};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::support::{FakeSegment, Loopback, Mood, client_options, server_options, server_with};

fn server() -> Server {
    server_with(&[FakeSegment::new(2, 2, Mood::Honest)], server_options())
}

/// Years of validity.
type Years = (i32, i32);
const GOOD: Years = (2020, 4000);
const PAST: Years = (2020, 2021);
const FUTURE: Years = (3000, 4000);

fn params(names: &[&str], years: Years) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.not_before = date_time_ymd(years.0, 1, 1);
    params.not_after = date_time_ymd(years.1, 1, 1);
    params
}

/// A directory as `tls::init` makes it, but valid when we say so.
fn directory(authority_years: Years, server_years: Years) -> TempDir {
    let directory = tempdir().unwrap();
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = params(&[], authority_years);
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca = authority.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let server = params(&["localhost", "127.0.0.1"], server_years);
    let server = server.signed_by(&key, &issuer).unwrap();
    fs::write(directory.path().join("ca.pem"), ca.pem()).unwrap();
    fs::write(directory.path().join("server.pem"), server.pem()).unwrap();
    fs::write(directory.path().join("server.key"), key.serialize_pem()).unwrap();
    directory
}

/// A TLS server that does not look at its own certificate.
async fn careless_server(
    directory: &Path,
    versions: &[&'static SupportedProtocolVersion],
    protocol_name: &str,
) -> SocketAddr {
    let chain = CertificateDer::from_pem_file(directory.join("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(directory.join("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .unwrap();
    config.alpn_protocols = vec![protocol_name.into()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(socket).await {
                    server().serve_stream(Box::new(stream)).await;
                }
            });
        }
    });
    address
}

const TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
const TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];

async fn failure(address: SocketAddr, ca: &Path, name: Option<&str>) -> Error {
    let trust = ClientTls::load_directory(ca).unwrap();
    let endpoint = Endpoint::tls(&address.to_string(), trust, name).unwrap();
    let client = RemoteEvaluator::new(vec![endpoint], client_options()).unwrap();
    let error = client.list_models().await.unwrap_err();
    assert!(!error.is_retryable(), "{error}");
    error
}

#[tokio::test]
async fn the_authority_of_another_directory_is_not_trusted() {
    let loopback = Loopback::start(server()).await;
    let other = tempdir().unwrap();
    tls::init(other.path(), &[]).unwrap();
    let error = failure(loopback.address, other.path(), None).await;
    let Error::Trust(TrustError::UnknownAuthority { server, authority }) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(server, "127.0.0.1");
    assert_eq!(*authority, other.path().join("ca.pem"));
    // Also if it carries the same name.
    let (one, two) = (directory(GOOD, GOOD), directory(GOOD, GOOD));
    let address = careless_server(one.path(), TLS13, "securedl/1").await;
    let error = failure(address, two.path(), None).await;
    assert!(matches!(error, Error::Trust(TrustError::UnknownAuthority { .. })), "{error:?}");
}

#[tokio::test]
async fn a_certificate_for_other_names_is_not_accepted() {
    let loopback = Loopback::start(server()).await;
    let directory = loopback.directory.path();
    let error = failure(loopback.address, directory, Some("example.org")).await;
    let Error::Trust(TrustError::WrongName { expected, presented }) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(expected, "example.org");
    assert!(presented.contains("localhost") && presented.contains("127.0.0.1"), "{presented}");
}

#[tokio::test]
async fn certificates_out_of_their_time_are_not_accepted() {
    let expired = directory(GOOD, PAST);
    let address = careless_server(expired.path(), TLS13, "securedl/1").await;
    let error = failure(address, expired.path(), None).await;
    let Error::Trust(TrustError::CertificateExpired { expired: day, .. }) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(day, "2021-01-01");

    let early = directory(GOOD, FUTURE);
    let address = careless_server(early.path(), TLS13, "securedl/1").await;
    let error = failure(address, early.path(), None).await;
    let Error::Trust(TrustError::NotYetValid { valid_from, .. }) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(valid_from, "3000-01-01");
}

#[test]
fn an_expired_authority_is_rejected_when_it_is_loaded() {
    let expired = directory(PAST, GOOD);
    let error = ClientTls::load_directory(expired.path()).unwrap_err();
    let Error::Trust(TrustError::AuthorityExpired { expired: day, .. }) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(day, "2021-01-01");
    // Together with its successor it may stay in the file.
    let good = directory(GOOD, GOOD);
    let both = [expired.path(), good.path()].map(|d| fs::read(d.join("ca.pem")).unwrap()).concat();
    fs::write(expired.path().join("ca.pem"), both).unwrap();
    ClientTls::load_directory(expired.path()).unwrap();
}

#[tokio::test]
async fn other_services_are_recognised() {
    let good = directory(GOOD, GOOD);
    let not_ours = [
        careless_server(good.path(), TLS13, "h2").await,
        careless_server(good.path(), TLS12, "securedl/1").await,
        plain_text_server().await,
    ];
    for address in not_ours {
        let error = failure(address, good.path(), None).await;
        assert!(matches!(error, Error::Trust(TrustError::NotSecureDl { .. })), "{error:?}");
    }
}

async fn plain_text_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut socket, b"220 ready\r\n").await;
            let mut sink = Vec::new();
            let _ = tokio::io::AsyncReadExt::read_to_end(&mut socket, &mut sink).await;
        }
    });
    address
}

#[tokio::test]
async fn the_server_speaks_tls_1_3_only_and_only_this_protocol() {
    let loopback = Loopback::start(server()).await;
    let ca = CertificateDer::from_pem_file(loopback.directory.path().join("ca.pem")).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(ca).unwrap();
    let roots = Arc::new(roots);
    for (versions, name, accepted) in
        [(TLS13, "securedl/1", true), (TLS12, "securedl/1", false), (TLS13, "h2", false)]
    {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(Arc::clone(&roots))
            .with_no_client_auth();
        config.alpn_protocols = vec![name.into()];
        let socket = TcpStream::connect(loopback.address).await.unwrap();
        let server_name = ServerName::try_from("localhost").unwrap();
        let outcome = TlsConnector::from(Arc::new(config)).connect(server_name, socket).await;
        assert_eq!(outcome.is_ok(), accepted, "{versions:?} {name}: {:?}", outcome.err());
    }
    loopback.shut_down().await;
}

#[tokio::test]
async fn a_pinned_identity_must_be_the_servers() {
    let loopback = Loopback::start(server()).await;
    let mut options = client_options();
    options.identities = vec![server().identity()];
    let client = RemoteEvaluator::new(vec![loopback.endpoint()], options.clone()).unwrap();
    client.list_models().await.unwrap();
    options.identities = vec![PublicIdentity([1; 32])];
    let client = RemoteEvaluator::new(vec![loopback.endpoint()], options).unwrap();
    let error = client.list_models().await.unwrap_err();
    assert!(matches!(error, Error::Peer(PeerFault::IdentityChanged { .. })), "{error}");
    drop(client);
    loopback.shut_down().await;
}

#[test]
fn init_makes_four_files_and_overwrites_nothing() {
    let parent = tempdir().unwrap();
    let directory = parent.path().join("new").join("tls");
    let names = ["server.example".to_owned(), "10.0.0.7".to_owned(), "localhost".to_owned()];
    let created = tls::init(&directory, &names).unwrap();
    assert_eq!(created.names, ["localhost", "127.0.0.1", "::1", "server.example", "10.0.0.7"]);
    let mut found: Vec<_> =
        fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    let mut files = created.files.clone();
    files.sort();
    assert_eq!(found, files, "no temporary file is left");
    ServerTls::load(&directory).unwrap();
    ClientTls::load_directory(&directory).unwrap();
    let identity = Identity::load(&directory.join("identity.key")).unwrap();
    assert_eq!(identity.public(), created.identity);
    #[cfg(unix)]
    for (file, mode) in [("server.key", 0o600), ("identity.key", 0o600), ("ca.pem", 0o644)] {
        use std::os::unix::fs::PermissionsExt;
        let metadata = fs::metadata(directory.join(file)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777 & !0o022, mode, "{file}");
    }

    let before: Vec<_> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    for file in &files {
        let error = tls::init(&directory, &[]).unwrap_err();
        assert!(matches!(error, Error::Config(ConfigError::WouldOverwrite { .. })), "{error}");
        // Any single one of them is enough.
        let single = tempdir().unwrap();
        fs::copy(file, single.path().join(file.file_name().unwrap())).unwrap();
        let error = tls::init(single.path(), &[]).unwrap_err();
        assert!(matches!(error, Error::Config(ConfigError::WouldOverwrite { .. })), "{error}");
        assert_eq!(fs::read_dir(single.path()).unwrap().count(), 1);
    }
    let after: Vec<_> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    assert_eq!(before, after);
}

#[test]
fn init_that_fails_leaves_nothing() {
    let parent = tempdir().unwrap();
    let directory = parent.path().join("tls");
    let error = tls::init(&directory, &["naïve name".to_owned()]).unwrap_err();
    assert!(matches!(error, Error::Config(ConfigError::InvalidCertificateName { .. })), "{error}");
    assert!(!directory.exists());
    fs::write(&directory, b"a file where a directory should be").unwrap();
    let error = tls::init(&directory, &[]).unwrap_err();
    assert!(matches!(error, Error::Config(ConfigError::UnwritableFile { .. })), "{error}");
}

#[test]
fn each_unusable_file_is_named() {
    type Break = fn(&Path);
    type Expect = fn(&Error) -> bool;
    let cases: [(&str, Break, Expect); 6] = [
        (
            "no certificate",
            |d| fs::remove_file(d.join("server.pem")).unwrap(),
            |e| {
                matches!(e, Error::Config(ConfigError::UnreadableFile { path, .. })
                if path.ends_with("server.pem"))
            },
        ),
        (
            "empty certificate",
            |d| fs::write(d.join("server.pem"), b"").unwrap(),
            |e| {
                matches!(e, Error::Config(ConfigError::UnusableFile { path, .. })
                if path.ends_with("server.pem"))
            },
        ),
        (
            "garbage key",
            |d| fs::write(d.join("server.key"), b"secret").unwrap(),
            |e| {
                matches!(e, Error::Config(ConfigError::UnusableFile { path, .. })
                if path.ends_with("server.key"))
            },
        ),
        (
            "key of another certificate",
            |d| {
                fs::write(d.join("server.key"), KeyPair::generate().unwrap().serialize_pem())
                    .unwrap();
            },
            |e| matches!(e, Error::Config(ConfigError::KeyMismatch { .. })),
        ),
        (
            "certificate cut short",
            |d| {
                let text = fs::read(d.join("server.pem")).unwrap();
                fs::write(d.join("server.pem"), &text[..text.len() / 2]).unwrap();
            },
            |e| matches!(e, Error::Config(ConfigError::UnusableFile { .. })),
        ),
        (
            "expired",
            |d| {
                let expired = directory(GOOD, PAST);
                for file in ["server.pem", "server.key"] {
                    fs::copy(expired.path().join(file), d.join(file)).unwrap();
                }
            },
            |e| {
                matches!(e, Error::Config(ConfigError::CertificateExpired { expired, .. })
            if expired == "2021-01-01")
            },
        ),
    ];
    for (name, spoil, expected) in cases {
        let good = directory(GOOD, GOOD);
        ServerTls::load(good.path()).unwrap();
        spoil(good.path());
        let error = ServerTls::load(good.path()).unwrap_err();
        assert!(expected(&error), "{name}: {error:?}");
    }
    let good = directory(GOOD, GOOD);
    for contents in [&b""[..], b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        fs::write(good.path().join("ca.pem"), contents).unwrap();
        let error = ClientTls::load_directory(good.path()).unwrap_err();
        assert!(matches!(error, Error::Config(ConfigError::UnusableFile { .. })), "{error:?}");
    }
    let trust = ClientTls::load_directory(directory(GOOD, GOOD).path()).unwrap();
    let error = Endpoint::tls("not a host:1", trust, None).unwrap_err();
    assert!(matches!(error, Error::Config(ConfigError::InvalidServerName { .. })), "{error}");
}

#[test]
fn no_secret_is_printed() {
    let directory = tempdir().unwrap();
    let created = tls::init(directory.path(), &[]).unwrap();
    let seed = fs::read_to_string(directory.path().join("identity.key")).unwrap();
    let key = fs::read_to_string(directory.path().join("server.key")).unwrap();
    let identity = Identity::load(&directory.path().join("identity.key")).unwrap();
    let tls = ServerTls::load(directory.path()).unwrap();
    let shown = format!("{created:?} {identity:?} {tls:?} {:?}", server());
    let (_, digits) = seed.trim().rsplit_once('-').unwrap();
    assert_eq!(digits.len(), 64);
    assert!(!shown.contains(digits));
    assert!(key.lines().all(|line| !shown.contains(line)));
}
