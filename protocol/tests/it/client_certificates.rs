//! What a server makes of certificates that clients show, whatever the client's program checks.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use protocol::access::{AccessControl, AccessList};
use protocol::client::Connection;
use protocol::error::{ConfigError, Error, TrustError};
use protocol::limits::ClientTimeouts;
use protocol::message::RefusalCode;
use protocol::server::{Server, ServerOptions};
use protocol::tls::{self, CertificateFingerprint, ClientCertificates, ClientTls, ServerTls};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;

use crate::access::refusal;
use crate::support::{FakeSegment, Mood, label, server_options, server_with};

/// Years of validity.
type Years = (i32, i32);
const GOOD: Years = (2020, 4000);

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = params(GOOD);
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// Writes `client.pem` and `client.key` into a folder.
    fn issue(&self, folder: &Path, years: Years, usage: ExtendedKeyUsagePurpose) {
        let key = KeyPair::generate().unwrap();
        let mut params = params(years);
        params.distinguished_name.push(DnType::CommonName, "a client");
        params.extended_key_usages = vec![usage];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("client.pem"), certificate.pem()).unwrap();
        fs::write(folder.join("client.key"), key.serialize_pem()).unwrap();
    }
}

fn params(years: Years) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.not_before = date_time_ymd(years.0, 1, 1);
    params.not_after = date_time_ymd(years.1, 1, 1);
    params
}

/// A server that demands certificates of an authority we hold.
struct Demanding {
    address: String,
    directory: TempDir,
    authority: Authority,
    access: AccessControl,
    _shutdown: oneshot::Sender<()>,
}

impl Demanding {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        tls::init(directory.path(), &[]).unwrap();
        let authority = Authority::new("clients");
        fs::write(directory.path().join("client-ca.pem"), &authority.pem).unwrap();
        let tls = ServerTls::load_with(directory.path(), ClientCertificates::Required).unwrap();
        let access = AccessControl::open();
        let options = ServerOptions { access: access.clone(), ..server_options() };
        let server = server_with(&[FakeSegment::new(2, 2, Mood::Honest)], options);
        let listener = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (shutdown, wait) = oneshot::channel();
        tokio::spawn(async move {
            server.serve(listener, tls, async { drop(wait.await) }).await;
        });
        Self { address, directory, authority, access, _shutdown: shutdown }
    }

    fn ca(&self) -> std::path::PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// Whether a client that shows this without looking at it gets an answer from the server.
    async fn answers_a_careless_client(&self, client: &Path) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.ca()).unwrap()).unwrap();
        let chain = CertificateDer::from_pem_file(client.join("client.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(client.join("client.key")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![chain], key)
            .unwrap();
        config.alpn_protocols = vec!["securedl/1".into()];
        let socket = TcpStream::connect(&self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let Ok(stream) = connector.connect(name, socket).await else { return false };
        // The server judges after the client's side of the handshake is done.
        let opened =
            Connection::open(Box::new(stream), &label("careless"), ClientTimeouts::default()).await;
        opened.is_ok()
    }
}

#[tokio::test]
async fn only_a_clients_certificate_in_its_time_passes_the_handshake() {
    let server = Demanding::start().await;
    let folder = server.directory.path().join("client");
    let other = Authority::new("others");
    // Of the same name as the authority that is trusted, but another key.
    let namesake = Authority::new("clients");
    let client = || ExtendedKeyUsagePurpose::ClientAuth;
    for (what, authority, years, usage, passes) in [
        ("good", &server.authority, GOOD, client(), true),
        ("expired", &server.authority, (2020, 2021), client(), false),
        ("early", &server.authority, (3000, 4000), client(), false),
        ("a server's", &server.authority, GOOD, ExtendedKeyUsagePurpose::ServerAuth, false),
        ("of another authority", &other, GOOD, client(), false),
        ("of a namesake", &namesake, GOOD, client(), false),
    ] {
        authority.issue(&folder, years, usage);
        assert_eq!(server.answers_a_careless_client(&folder).await, passes, "{what}");
    }
}

#[tokio::test]
async fn an_expired_certificate_is_named_before_anybody_is_asked() {
    let server = Demanding::start().await;
    let folder = server.directory.path().join("client");
    server.authority.issue(&folder, (2020, 2021), ExtendedKeyUsagePurpose::ClientAuth);
    let error = ClientTls::load_with_certificate(&server.ca(), &folder).unwrap_err();
    let Error::Config(ConfigError::CertificateExpired { path, expired }) = &error else {
        panic!("{error:?}")
    };
    assert!(path.ends_with("client.pem") && expired == "2021-01-01", "{error}");
}

#[tokio::test]
async fn whoever_admits_clients_cannot_play_the_server() {
    let server = Demanding::start().await;
    // A server's certificate of the authority for clients.
    let key = KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let mut params = CertificateParams::new(names).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params.signed_by(&key, &server.authority.issuer).unwrap();
    let false_one = tempfile::tempdir().unwrap();
    fs::write(false_one.path().join("server.pem"), certificate.pem()).unwrap();
    fs::write(false_one.path().join("server.key"), key.serialize_pem()).unwrap();
    let tls = ServerTls::load(false_one.path()).unwrap();
    let listener = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = server_with(&[FakeSegment::new(2, 2, Mood::Honest)], server_options());
    tokio::spawn(async move {
        serving.serve(listener, tls, std::future::pending()).await;
    });
    let trust = ClientTls::load(&server.ca()).unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let outcome = trust.connect(name, stream).await;
    assert!(matches!(outcome.err(), Some(Error::Trust(TrustError::UnknownAuthority { .. }))));
}

#[tokio::test]
async fn a_client_loses_its_next_request_with_its_certificate() {
    let server = Demanding::start().await;
    let folder = server.directory.path().join("client");
    server.authority.issue(&folder, GOOD, ExtendedKeyUsagePurpose::ClientAuth);
    let fingerprint = CertificateFingerprint::of_file(&folder.join("client.pem")).unwrap();
    let text = format!(
        "version = 1\n[[client]]\nname = \"a\"\nplans = [\"*\"]\ncertificates = [\"{fingerprint}\"]\n"
    );
    server.access.replace(AccessList::parse(&text).unwrap());
    let trust = ClientTls::load_with_certificate(&server.ca(), &folder).unwrap();
    let stream = TcpStream::connect(&server.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = trust.connect(name, stream).await.unwrap();
    let mut connection =
        Connection::open(stream, &label("connected"), ClientTimeouts::default()).await.unwrap();
    assert_eq!(connection.list_models().await.unwrap().len(), 1);
    // The connection stays, and so does the certificate; the entry is gone.
    server.access.replace(AccessList::default());
    assert_eq!(refusal(connection.list_models().await), Some(RefusalCode::Unauthorized));
    // Listed again, the same connection is let on.
    server.access.replace(AccessList::parse(&text).unwrap());
    assert_eq!(connection.list_models().await.unwrap().len(), 1);
}
