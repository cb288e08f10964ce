//! Who may enter over TLS, what they then see, and what is written down.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use protocol::access::{AccessControl, AccessList, Token, TokenHash};
use protocol::audit::{AuditLimits, AuditLog};
use protocol::client::{Endpoint, RemoteEvaluator, RetryPolicy};
use protocol::error::{Error, PeerFault, Result, TrustError};
use protocol::message::RefusalCode;
use protocol::server::{Server, ServerOptions};
use protocol::tls::{self, CertificateFingerprint, ClientCertificates, ClientTls, ServerTls};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::support::{
    FakeSegment, Mood, PLAN, client_options, ignore, is_right, request_for, server_options,
    server_with,
};

fn token(byte: u8) -> Token {
    Token::from_bytes(&[byte; 32])
}

fn hash(byte: u8) -> TokenHash {
    TokenHash::new(&token(byte), &mut ChaCha20Rng::seed_from_u64(byte.into()))
}

/// A client `a` with a token, that may use `plans`, and more lines for it.
fn list(byte: u8, plans: &str, more: &str) -> AccessList {
    let text = format!(
        "version = 1\n[[client]]\nname = \"a\"\nplans = [{plans}]\n{more}\n\
         [[token]]\nclient = \"a\"\nhash = \"{}\"\n",
        hash(byte)
    );
    AccessList::parse(&text).unwrap()
}

struct Guarded {
    server: Server,
    address: String,
    tls: ServerTls,
    directory: TempDir,
    _shutdown: oneshot::Sender<()>,
}

async fn guarded(
    clients: ClientCertificates,
    options: ServerOptions,
    segment: &FakeSegment,
) -> Guarded {
    let directory = tempfile::tempdir().unwrap();
    tls::init(directory.path(), &[]).unwrap();
    tls::client(directory.path(), "a", &directory.path().join("a")).unwrap();
    let tls = ServerTls::load_with(directory.path(), clients).unwrap();
    let server = server_with(std::slice::from_ref(segment), options);
    let listener = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (shutdown, wait) = oneshot::channel();
    let (serving, serving_tls) = (server.clone(), tls.clone());
    tokio::spawn(async move {
        let stop = async { drop(wait.await) };
        serving.serve(listener, serving_tls, stop).await;
    });
    Guarded { server, address, tls, directory, _shutdown: shutdown }
}

impl Guarded {
    fn client(&self, token: Option<Token>, certificate: Option<&Path>) -> RemoteEvaluator {
        let ca = self.directory.path().join("ca.pem");
        let trust = match certificate {
            Some(client) => ClientTls::load_with_certificate(&ca, client).unwrap(),
            None => ClientTls::load(&ca).unwrap(),
        };
        let mut options = client_options();
        options.token = token;
        options.retry = RetryPolicy::never();
        let endpoint = Endpoint::tls(&self.address, trust, None).unwrap();
        RemoteEvaluator::new(vec![endpoint], options).unwrap()
    }
}

fn honest() -> FakeSegment {
    FakeSegment::new(2, 2, Mood::Honest)
}

pub fn refusal<T>(outcome: Result<T>) -> Option<RefusalCode> {
    match outcome {
        Err(Error::Peer(PeerFault::Refused { code, .. })) => Some(code),
        Err(Error::Resource(protocol::error::ResourceError::GaveUp { last, .. })) => match *last {
            Error::Peer(PeerFault::Refused { code, .. }) => Some(code),
            error => panic!("{error}"),
        },
        Err(error) => panic!("{error}"),
        Ok(_) => None,
    }
}

#[tokio::test]
async fn a_token_lets_in_and_a_wrong_or_missing_one_does_not() {
    let access = AccessControl::listed(list(1, "\"*\"", ""));
    let segment = honest();
    let options = ServerOptions { access, ..server_options() };
    let guarded = guarded(ClientCertificates::NotAsked, options, &segment).await;
    assert_eq!(guarded.client(Some(token(1)), None).list_models().await.unwrap().len(), 1);
    for wrong in [None, Some(token(2))] {
        let outcome = guarded.client(wrong, None).list_models().await;
        assert_eq!(refusal(outcome), Some(RefusalCode::Unauthorized));
    }
    // Inside the process nobody is asked.
    assert!(crate::support::in_process(&guarded.server).list_models().await.is_ok());
}

#[tokio::test]
async fn nobody_enters_by_default() {
    let segment = honest();
    let options = ServerOptions::new(crate::support::label("default"));
    let guarded = guarded(ClientCertificates::NotAsked, options, &segment).await;
    let outcome = guarded.client(Some(token(1)), None).list_models().await;
    assert_eq!(refusal(outcome), Some(RefusalCode::Unauthorized));
}

#[tokio::test]
async fn a_plan_that_is_not_allowed_looks_as_if_it_did_not_exist() {
    let segment = honest();
    for (plans, allowed) in [
        (format!("\"{PLAN}\""), true),
        ("\"fake\"".to_owned(), true),
        ("\"other\"".to_owned(), false),
        (String::new(), false),
    ] {
        let access = AccessControl::listed(list(1, &plans, ""));
        let options = ServerOptions { access, ..server_options() };
        let guarded = guarded(ClientCertificates::NotAsked, options, &segment).await;
        let client = guarded.client(Some(token(1)), None);
        let request = request_for(&segment, 0, 1);
        let unknown = (!allowed).then_some(RefusalCode::UnknownPlan);
        assert_eq!(client.list_models().await.unwrap().len(), usize::from(allowed));
        assert_eq!(refusal(client.fetch_plan(&PLAN).await), unknown);
        assert_eq!(refusal(client.evaluate(&request, &mut ignore).await), unknown);
        // A segment that does not exist gives nothing away, either.
        let code = refusal(client.evaluate(&request_for(&segment, 9, 2), &mut ignore).await);
        assert_eq!(
            code,
            Some(if allowed { RefusalCode::UnknownSegment } else { RefusalCode::UnknownPlan })
        );
    }
}

#[tokio::test]
async fn a_removed_client_finishes_its_request_and_loses_the_next() {
    let gate = Arc::new(crate::support::Gate::default());
    let segment = FakeSegment::new(2, 2, Mood::Held(Arc::clone(&gate)));
    let access = AccessControl::listed(list(1, "\"*\"", ""));
    let options = ServerOptions { access: access.clone(), ..server_options() };
    let guarded = guarded(ClientCertificates::NotAsked, options, &segment).await;
    let client = guarded.client(Some(token(1)), None);
    let request = request_for(&segment, 0, 1);
    let running = async {
        segment.until_running(1).await;
        // Rotated: the client's next token is 2.
        access.replace(list(2, "\"*\"", ""));
        gate.open();
    };
    let mut on_progress = ignore;
    let (reply, ()) = tokio::join!(client.evaluate(&request, &mut on_progress), running);
    assert!(is_right(&request, &reply.unwrap().bytes));
    assert_eq!(refusal(client.list_models().await), Some(RefusalCode::Unauthorized));
    assert!(guarded.client(Some(token(2)), None).list_models().await.is_ok());
}

#[tokio::test]
async fn limits_are_told_with_a_time_to_wait() {
    let segment = honest();
    for (more, allowed) in [("requests_per_minute = 2", 2), ("bytes_per_hour = 9000", 1)] {
        let access = AccessControl::listed(list(1, "\"*\"", more));
        let options = ServerOptions { access, ..server_options() };
        let guarded = guarded(ClientCertificates::NotAsked, options, &segment).await;
        let client = guarded.client(Some(token(1)), None);
        for number in 0..allowed {
            client.evaluate(&request_for(&segment, 0, number), &mut ignore).await.unwrap();
        }
        let outcome = client.evaluate(&request_for(&segment, 0, 9), &mut ignore).await;
        assert_eq!(refusal(outcome), Some(RefusalCode::RateLimited), "{more}");
    }
}

#[tokio::test]
async fn certificates_let_in_those_whose_fingerprint_is_listed() {
    let segment = honest();
    let guarded = guarded(ClientCertificates::Required, server_options(), &segment).await;
    let directory = guarded.directory.path();
    let own = directory.join("a");
    let fingerprint = CertificateFingerprint::of_file(&own.join("client.pem")).unwrap();
    assert!(guarded.client(None, Some(&own)).list_models().await.is_ok());
    // No certificate, and one of another authority.
    let other = tempfile::tempdir().unwrap();
    tls::init(other.path(), &[]).unwrap();
    tls::client(other.path(), "a", &other.path().join("a")).unwrap();
    for certificate in [None, Some(other.path().join("a"))] {
        let error = guarded.client(None, certificate.as_deref()).list_models().await.unwrap_err();
        assert!(matches!(error, Error::Trust(TrustError::ClientRefused { .. })), "{error:?}");
    }
    // Listed, disabled, removed: over the same server.
    let listed = |more: &str| {
        let text = format!(
            "version = 1\n[[client]]\nname = \"a\"\nplans = [\"*\"]\ncertificates = [\"{fingerprint}\"]\n{more}"
        );
        AccessList::parse(&text).unwrap()
    };
    let access = guarded.server.access();
    for (list, expected) in [
        (listed(""), None),
        (listed("enabled = false"), Some(RefusalCode::Unauthorized)),
        (AccessList::default(), Some(RefusalCode::Unauthorized)),
    ] {
        access.replace(list);
        assert_eq!(refusal(guarded.client(None, Some(&own)).list_models().await), expected);
    }
    // A further client of the same authority has another fingerprint.
    access.replace(listed(""));
    let second = tls::client(directory, "b", &directory.join("b")).unwrap();
    assert_ne!(second.fingerprint, fingerprint);
    let outcome = guarded.client(None, Some(&directory.join("b"))).list_models().await;
    assert_eq!(refusal(outcome), Some(RefusalCode::Unauthorized));
}

#[tokio::test]
async fn new_certificates_are_for_new_connections() {
    let segment = honest();
    let guarded = guarded(ClientCertificates::Optional, server_options(), &segment).await;
    let old = guarded.client(None, None);
    old.list_models().await.unwrap();
    let directory = guarded.directory.path();
    let next = tempfile::tempdir().unwrap();
    tls::init(next.path(), &[]).unwrap();
    for file in ["ca.pem", "server.pem", "server.key"] {
        fs::copy(next.path().join(file), directory.join(file)).unwrap();
    }
    guarded.tls.reload(directory).unwrap();
    old.list_models().await.unwrap();
    guarded.client(None, None).list_models().await.unwrap();
    // A broken file changes nothing.
    fs::write(directory.join("server.key"), "no key").unwrap();
    assert!(guarded.tls.reload(directory).is_err());
    guarded.client(None, None).list_models().await.unwrap();
}

#[tokio::test]
async fn the_audit_log_says_who_asked_for_what() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let segment = honest();
    let request = request_for(&segment, 0, 1);
    {
        let audit = Some(AuditLog::open(&path, AuditLimits::default()).unwrap());
        let access = AccessControl::listed(list(1, "\"*\"", ""));
        let options = ServerOptions { access, audit, ..server_options() };
        let guarded = guarded(ClientCertificates::NotAsked, options, &segment).await;
        let client = guarded.client(Some(token(1)), None);
        client.list_models().await.unwrap();
        client.fetch_plan(&PLAN).await.unwrap();
        client.evaluate(&request, &mut ignore).await.unwrap();
        let _ = guarded.client(Some(token(2)), None).list_models().await;
    }
    // The writer ends with the server.
    let lines = || fs::read_to_string(&path).unwrap_or_default();
    crate::support::eventually(|| lines().lines().count() == 4).await;
    let text = lines();
    let records: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let fields = |name: &str| records.iter().map(|r| r[name].clone()).collect::<Vec<_>>();
    assert_eq!(fields("event"), ["list_models", "fetch_plan", "evaluate", "enter"]);
    assert_eq!(fields("outcome"), ["listed", "fetched", "evaluated", "refused: unauthorized"]);
    assert_eq!(fields("client"), [Value::from("a"), "a".into(), "a".into(), Value::Null]);
    let evaluated = &records[2];
    assert_eq!(evaluated["bytes_in"], request.header().payload_bytes);
    assert_eq!(evaluated["bytes_out"], request.reply_shape().payload_bytes);
    assert_eq!(evaluated["plan"], PLAN.to_string());
    assert_eq!(evaluated["request"], request.header().request_id.to_string());
    assert!(!text.contains(&"01".repeat(32)) && !text.contains(&"02".repeat(32)), "no token");
}
