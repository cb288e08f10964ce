//! The page, asked without a socket.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN};
use axum::http::{Request, StatusCode};
use fingerprint::{LayoutOptions, Verdict};
use ndarray::Array2;
use nn_poly::import::Dataset;
use nn_poly::plan::{ActivationSide, Plan};
use proptest::prelude::*;
use protocol::client::{Endpoint, RetryPolicy};
use protocol::runner::Silent;
use protocol::server::service::PlanHost;
use securedl_tests::dishonest::{Cheat, DishonestHost, Victims};
use securedl_tests::models::TinyModel;
use securedl_tests::mutation::mutant_of;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tower::ServiceExt;

use super::assets::ASSETS;
use super::door::Limits;
use super::intake::{MAX_BODY_BYTES, Samples};
use super::*;
use crate::pipeline::altering::{AlteredHost, AlteredSegment};
use crate::pipeline::inference::{self, Run, RunSettings};
use crate::pipeline::recording::Recorder;
use crate::pipeline::servers::Visitor;
use crate::report::view::Tone;

const HERE: &str = "127.0.0.1:8088";
/// A run here takes milliseconds; a busy machine may take its time.
const LIMIT: Duration = Duration::from_secs(100);
/// Pixels of a sample.
const N_PIXELS: usize = 36;

struct Fixture {
    desk: Arc<Desk>,
    routes: Router,
    token: String,
}

fn plan() -> Plan {
    TinyModel::conv_pool_square().plan(ActivationSide::Server, 8)
}

fn fixture_on(host: Arc<dyn PlanHost>) -> Fixture {
    fixture_with(host, None)
}

fn fixture_with(host: Arc<dyn PlanHost>, tampering: Option<Arc<dyn Tampering>>) -> Fixture {
    let plan = plan();
    let shape = plan.public().input_shape.clone();
    let examples = Dataset::new(
        shape,
        Array2::from_elem((5, N_PIXELS), 0.5),
        Some(vec![0, 1, 2, 3, 0]),
        plan.public().class_names.clone(),
        "gray <squares>".to_owned(),
    );
    let reach = Reach {
        visitor: Visitor::plain(&RetryPolicy::never()),
        servers: vec![Endpoint::in_process(inference::server(host).unwrap())],
        place: "a test".to_owned(),
        is_elsewhere: false,
    };
    let settings = RunSettings {
        layout: LayoutOptions { network_canaries: 4, ..LayoutOptions::default() },
        retry: RetryPolicy::never(),
        fingerprint: None,
    };
    let evidence = EvidencePlace::Moment(tempfile::tempdir().unwrap());
    let examples = Some(examples.unwrap());
    let desk = Desk::new(plan, reach, settings, examples, evidence, tampering).unwrap();
    let gate = Gate::new(HERE.parse().unwrap()).unwrap();
    let token = gate.token().to_owned();
    Fixture { routes: routes::routes(Arc::clone(&desk), gate), desk, token }
}

fn fixture() -> Fixture {
    fixture_on(inference::shelf(&plan()).unwrap())
}

impl Fixture {
    fn request(
        &self,
        method: &str,
        path: &str,
        kind: &str,
        body: impl Into<Body>,
    ) -> Request<Body> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, HERE);
        request = request.header(AUTHORIZATION, format!("Bearer {}", self.token));
        if !kind.is_empty() {
            request = request.header(CONTENT_TYPE, kind);
        }
        request.body(body.into()).unwrap()
    }

    async fn send(&self, request: Request<Body>) -> (StatusCode, String) {
        let answer = self.routes.clone().oneshot(request).await.unwrap();
        let status = answer.status();
        let body = to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        self.send(self.request("GET", path, "", Body::empty())).await
    }

    async fn begin(&self, kind: &str, body: impl Into<Body>) -> (StatusCode, String) {
        self.send(self.request("POST", "/api/runs", kind, body)).await
    }

    /// The status after the run under way.
    async fn ended(&self) -> Value {
        let begun = Instant::now();
        loop {
            let status: Value = serde_json::from_str(&self.get("/api/status").await.1).unwrap();
            if status["running"].is_null() {
                return status;
            }
            assert!(begun.elapsed() < LIMIT, "{status}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

const QUESTIONS: [(&str, &str); 8] = [
    ("GET", "/api/facts"),
    ("GET", "/api/status"),
    ("POST", "/api/runs"),
    ("POST", "/api/cancel"),
    ("GET", "/api/runs/1/html"),
    ("GET", "/api/runs/1/report"),
    ("POST", "/api/tampering"),
    ("GET", "/api/nothing"),
];

#[tokio::test]
async fn nobody_without_the_token_learns_or_changes_anything() {
    let fixture = fixture();
    let other = Gate::new(HERE.parse().unwrap()).unwrap();
    assert_ne!(other.token(), fixture.token, "a token is of one start");
    let wrong = [
        None,
        Some(format!("Bearer {}", other.token())),
        Some("Bearer ".to_owned()),
        Some(fixture.token.clone()),
        Some(format!("Bearer {}", fixture.token.get(..20).unwrap())),
        Some(format!("Bearer {}x", fixture.token)),
    ];
    for (method, path) in QUESTIONS {
        for shown in &wrong {
            let body = Body::from(vec![0; N_PIXELS]);
            let mut request = fixture.request(method, path, "application/octet-stream", body);
            request.headers_mut().remove(AUTHORIZATION);
            if let Some(shown) = shown {
                request.headers_mut().insert(AUTHORIZATION, shown.parse().unwrap());
            }
            let (status, text) = fixture.send(request).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {path}");
            assert!(!text.contains(&fixture.token));
        }
    }
    let status = fixture.ended().await;
    assert_eq!(status["past"].as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn only_the_address_of_the_page_is_answered() {
    let fixture = fixture();
    let answer_to = async |hosts: &[&str], origin: Option<&str>, path: &str| {
        let mut request = fixture.request("GET", path, "", Body::empty());
        request.headers_mut().remove(HOST);
        for host in hosts {
            request.headers_mut().append(HOST, host.parse().unwrap());
        }
        if let Some(origin) = origin {
            request.headers_mut().insert(ORIGIN, origin.parse().unwrap());
        }
        fixture.send(request).await.0
    };
    for path in ["/", "/app.js", "/api/facts"] {
        assert_eq!(answer_to(&[HERE], None, path).await, StatusCode::OK);
        assert_eq!(answer_to(&["localhost:8088"], None, path).await, StatusCode::OK);
        let own = answer_to(&[HERE], Some("http://127.0.0.1:8088"), path).await;
        assert_eq!(own, StatusCode::OK);
        let refused = StatusCode::MISDIRECTED_REQUEST;
        for hosts in [
            &["evil.example:8088"][..],
            &["127.0.0.1:8089"],
            &["127.0.0.1"],
            &["127.0.0.1:8088.evil.example"],
            &[],
            &[HERE, "evil.example"],
        ] {
            assert_eq!(answer_to(hosts, None, path).await, refused, "{hosts:?}");
        }
        for origin in ["http://evil.example", "null", "https://127.0.0.1:8088"] {
            assert_eq!(answer_to(&[HERE], Some(origin), path).await, refused, "{origin}");
        }
    }
}

#[tokio::test]
async fn browsers_leave_out_the_usual_port() {
    let fixture = fixture();
    for (address, hosts) in [
        ("127.0.0.1:80", ["127.0.0.1", "127.0.0.1:80", "localhost", "localhost:80"]),
        ("[::1]:80", ["[::1]", "[::1]:80", "localhost", "localhost:80"]),
    ] {
        let gate = Gate::new(address.parse().unwrap()).unwrap();
        let routes = routes::routes(Arc::clone(&fixture.desk), gate);
        for (host, expected) in hosts
            .map(|host| (host, StatusCode::OK))
            .into_iter()
            .chain([("evil.example", StatusCode::MISDIRECTED_REQUEST)])
        {
            let request = Request::builder().uri("/").header(HOST, host);
            let request = request.header(ORIGIN, format!("http://{host}"));
            let answer = routes.clone().oneshot(request.body(Body::empty()).unwrap()).await;
            assert_eq!(answer.unwrap().status(), expected, "{address} {host}");
        }
    }
}

#[tokio::test]
async fn every_answer_tells_browsers_to_be_careful() {
    let fixture = fixture();
    let mut foreign = fixture.request("GET", "/", "", Body::empty());
    foreign.headers_mut().insert(HOST, "evil.example".parse().unwrap());
    let mut unauthorized = fixture.request("GET", "/api/facts", "", Body::empty());
    unauthorized.headers_mut().remove(AUTHORIZATION);
    let requests = [
        fixture.request("GET", "/", "", Body::empty()),
        fixture.request("GET", "/nothing", "", Body::empty()),
        fixture.request("GET", "/api/facts", "", Body::empty()),
        fixture.request("DELETE", "/api/runs", "", Body::empty()),
        foreign,
        unauthorized,
    ];
    for request in requests {
        let answer = fixture.routes.clone().oneshot(request).await.unwrap();
        let headers = answer.headers();
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["referrer-policy"], "no-referrer");
        assert_eq!(headers["cache-control"], "no-store");
    }
}

#[tokio::test]
async fn bodies_are_limited_and_read_with_care() {
    let fixture = fixture();
    let (pixels, table, json) = ("application/octet-stream", "text/csv", "application/json");
    let too_long = vec![0; MAX_BODY_BYTES + 1];
    assert_eq!(fixture.begin(pixels, too_long).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    let row = ["0.5"; N_PIXELS].join(",");
    let header: Vec<String> = (0..N_PIXELS).map(|i| format!("p{i}")).collect();
    let header = header.join(",");
    let too_many = format!("{header}\n{}", format!("{row}\n").repeat(20_001));
    for (kind, body, expected) in [
        (pixels, vec![], "no whole number"),
        (pixels, vec![0; N_PIXELS - 1], "36 bytes; 35"),
        (pixels, vec![0; N_PIXELS + 1], "no whole number"),
        (pixels, vec![0; N_PIXELS * 20_001], "too many"),
        (table, vec![], ""),
        (table, b"\x00\xff\xfe,,\n".to_vec(), ""),
        (table, b"a,b\n1,2\n".to_vec(), ""),
        (table, format!("{header}\n{row},1\n").into_bytes(), ""),
        (table, format!("{header}\n{row}\n").replace("0.5", "x").into_bytes(), ""),
        (table, format!("{header},label\n{row},77\n").into_bytes(), ""),
        (table, vec![0x1f, 0x8b], "the table is compressed: unpack it first"),
        (table, [&[0x1f, 0x8b, 8], header.as_bytes()].concat(), "compressed"),
        (table, too_many.into_bytes(), "too many"),
        (json, b"{}".to_vec(), "examples"),
        (json, b"{\"examples\": 0}".to_vec(), "no example"),
        (json, b"{\"examples\": -1}".to_vec(), "examples"),
        (json, b"{\"examples\": 1, \"more\": 2}".to_vec(), "examples"),
        (json, vec![0x1f, 0x8b, 8], "examples"),
    ] {
        let (status, text) = fixture.begin(kind, body.clone()).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{kind} {text}");
        let error: Value = serde_json::from_str(&text).unwrap();
        let error = error["error"].as_str().unwrap();
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains("/tmp"), "where files lie is nobody's business: {error}");
    }
    for kind in ["", "text/html", "multipart/form-data"] {
        assert_eq!(fixture.begin(kind, "x").await.0, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    assert_eq!(fixture.ended().await["past"].as_array().unwrap().len(), 0);
    let (status, _) = fixture.send(fixture.request("POST", "/api/tampering", json, "{}")).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "only the demonstration has a server that cheats");
}

#[tokio::test]
async fn a_batch_is_classified_and_told() {
    let fixture = fixture();
    let mut table: Vec<String> = (0..N_PIXELS).map(|i| format!("p{i}")).collect();
    table.push("label\n".to_owned());
    let table =
        format!("{}{}2\n{}1\n", table.join(","), "0.5,".repeat(N_PIXELS), "255,".repeat(N_PIXELS));
    for (kind, body, n_samples, source) in [
        ("application/octet-stream", vec![200; 3 * N_PIXELS], 3, "drawings and images"),
        ("text/csv", table.into_bytes(), 2, "a table"),
        ("application/json", b"{\"examples\": 4}".to_vec(), 4, "gray &lt;squares&gt;"),
    ] {
        let (status, text) = fixture.begin(kind, body).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{text}");
        let id = serde_json::from_str::<Value>(&text).unwrap()["id"].as_u64().unwrap();
        let status = fixture.ended().await;
        assert_eq!(status["past"][0]["tone"], "good", "{status}");
        let view = fixture.desk.view(id).unwrap();
        assert_eq!(view.verdict.name, "Intact");
        assert_eq!(view.n_samples, n_samples);
        assert_eq!(view.rounds.len(), 2);
        assert_eq!(view.receipts.n_receipts, 2);
        assert!(view.ciphertext.as_ref().unwrap().source.starts_with("data:image/png"));
        let predictions = view.predictions.as_ref().unwrap();
        assert_eq!(predictions.shown.len(), n_samples);
        assert_eq!(predictions.right.is_some(), kind != "application/octet-stream");
        for path in [format!("/api/runs/{id}/html"), format!("/api/runs/{id}/report")] {
            let (status, page) = fixture.get(&path).await;
            assert_eq!(status, StatusCode::OK);
            assert!(page.contains("data-verdict=\"Intact\"") && page.contains(source), "{page}");
        }
    }
    assert_eq!(fixture.get("/api/runs/9/html").await.0, StatusCode::NOT_FOUND);
}

fn blank() -> Samples {
    let features = Array2::zeros((1, N_PIXELS));
    Samples { features, labels: None, source: "nothing".to_owned() }
}

#[tokio::test]
async fn one_batch_at_a_time_and_it_can_be_cancelled() {
    let fixture = fixture();
    // Without a pause in between the first one cannot have ended.
    fixture.desk.begin(blank()).unwrap();
    let refused = fixture.desk.begin(blank()).unwrap_err();
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert!(refused.text.contains("under way"), "{}", refused.text);
    fixture.desk.cancel();
    let status = fixture.ended().await;
    assert_eq!(status["past"][0]["headline"], "Cancelled");
    assert_eq!(status["past"][0]["is_judged"], false);
    assert_eq!(fixture.get("/api/runs/1/html").await.0, StatusCode::NOT_FOUND);
    fixture.desk.begin(blank()).unwrap();
    assert_eq!(fixture.ended().await["past"][0]["headline"], "Intact");
}

/// A host that replies only when it is no longer held.
fn held_host(is_held: &Arc<AtomicBool>) -> Arc<dyn PlanHost> {
    let is_held = Arc::clone(is_held);
    AlteredHost::new(inference::shelf(&plan()).unwrap(), move |_, _, honest| {
        let is_held = Arc::clone(&is_held);
        let wait = move |_: u64, _: &mut [u8]| {
            let begun = Instant::now();
            while is_held.load(Ordering::SeqCst) && begun.elapsed() < LIMIT {
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        Ok(AlteredSegment::new(honest, Arc::new(wait)))
    })
}

#[tokio::test]
async fn a_run_under_way_can_be_cancelled_and_the_next_one_is_whole() {
    let is_held = Arc::new(AtomicBool::new(true));
    let fixture = fixture_on(held_host(&is_held));
    fixture.desk.begin(blank()).unwrap();
    let begun = Instant::now();
    loop {
        let status: Value = serde_json::from_str(&fixture.get("/api/status").await.1).unwrap();
        let round = &status["running"]["rounds"][0];
        if round["state"] == "running" && round["n_begun"].as_u64() >= Some(1) {
            break;
        }
        assert!(begun.elapsed() < LIMIT, "{status}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (status, _) = fixture.send(fixture.request("POST", "/api/cancel", "", "")).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    assert_eq!(fixture.ended().await["past"][0]["headline"], "Cancelled");
    is_held.store(false, Ordering::SeqCst);
    fixture.desk.begin(blank()).unwrap();
    assert_eq!(fixture.ended().await["past"][0]["headline"], "Intact");
}

#[tokio::test]
async fn a_run_that_is_rejected_cannot_be_cancelled_any_more() {
    let cheat = Cheat::Weight { index: 3, by: 1 };
    let fixture = fixture_on(DishonestHost::new(&plan(), 0, cheat, Victims::All));
    fixture.desk.begin(blank()).unwrap();
    let begun = Instant::now();
    loop {
        let status = serde_json::to_value(fixture.desk.status().unwrap()).unwrap();
        if status["running"].is_null() {
            break;
        }
        // Evidence is written and judged after that.
        if status["running"]["rounds"][0]["state"] == "rejected" {
            fixture.desk.cancel();
        }
        assert!(begun.elapsed() < LIMIT, "{status}");
        tokio::task::yield_now().await;
    }
    assert_eq!(fixture.ended().await["past"][0]["tone"], "bad");
}

#[tokio::test]
async fn a_verdict_stands_without_its_evidence() {
    let fixture = fixture();
    let samples = blank();
    let inputs = fixture.desk.plan.public().quantize(&samples.features).unwrap();
    let run = Run {
        verdict: Verdict::ModelModified { segment: 1, neurons: vec![2] },
        scores: None,
        n_samples: 1,
        costs: None,
        total: Duration::ZERO,
        evidence: vec![PathBuf::from("gone.evidence")],
    };
    let recorder = Recorder::new(&fixture.desk.plan, Arc::new(Silent));
    let view = fixture.desk.describe(&samples, &inputs, &run, &recorder).unwrap();
    assert_eq!((view.verdict.tone, view.verdict.name), (Tone::Bad, "ModelModified"));
    assert_eq!((view.faults.len(), view.predictions.is_none()), (0, true));
}

/// Takes longer to learn what it is told first.
#[derive(Default)]
struct SlowLearner(Mutex<Vec<usize>>);

impl SlowLearner {
    fn learned(&self) -> Vec<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Tampering for SlowLearner {
    fn kinds(&self) -> Vec<(&'static str, &'static str)> {
        vec![("slowly", "Learn slowly")]
    }

    fn current(&self) -> (&'static str, usize) {
        ("slowly", self.learned().last().copied().unwrap_or(0))
    }

    fn choose(&self, _: &str, segment: usize) -> Result<()> {
        std::thread::sleep(Duration::from_millis(100 / (segment as u64 + 1)));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(segment);
        Ok(())
    }
}

#[tokio::test]
async fn the_last_choice_stays_however_long_others_take() {
    let server = Arc::new(SlowLearner::default());
    let honest = inference::shelf(&plan()).unwrap();
    let fixture = fixture_with(honest, Some(Arc::clone(&server) as Arc<dyn Tampering>));
    let choose = async |segment: usize| {
        let body = format!("{{\"kind\": \"slowly\", \"segment\": {segment}}}");
        let request = fixture.request("POST", "/api/tampering", "application/json", body);
        assert_eq!(fixture.send(request).await.0, StatusCode::NO_CONTENT);
    };
    tokio::join!(choose(0), choose(1), choose(9));
    assert_eq!(server.learned(), [0, 1, 9]);
}

#[tokio::test]
async fn a_cheat_is_shown_with_what_gave_it_away_and_without_predictions() {
    for (segment, cheat) in
        [(0, Cheat::Weight { index: 3, by: 1 }), (1, Cheat::DroppedNeuron { output: 2 })]
    {
        let fixture = fixture_on(DishonestHost::new(&plan(), segment, cheat, Victims::All));
        fixture.desk.begin(blank()).unwrap();
        let status = fixture.ended().await;
        assert_eq!(status["past"][0]["tone"], "bad", "{status}");
        let view = fixture.desk.view(1).unwrap();
        assert!(view.verdict.text.contains(&format!("segment {segment}")), "{:?}", view.verdict);
        assert_eq!(view.predictions, None);
        let fault = &view.faults[0];
        assert!(fault.text.starts_with(&format!("Segment {segment}: ")), "{fault:?}");
        assert!(fault.n_different >= 1 && fault.file.is_none(), "{fault:?}");
        if segment == 1 {
            assert!(fault.text.contains("output neuron 2,"), "{fault:?}");
            assert_eq!(fault.n_different, 1);
        }
        let EvidencePlace::Moment(folder) = &fixture.desk.evidence else { panic!("a folder") };
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing stays");
        let page = fixture.get("/api/runs/1/html").await.1;
        assert!(page.contains("No predictions were released"), "{page}");
        assert!(page.contains("What gave it away"), "{page}");
    }
}

#[tokio::test]
async fn a_server_that_is_gone_is_told_and_not_judged() {
    let fixture = fixture_on(Arc::new(protocol::hosting::PlanShelf::new()));
    fixture.desk.begin(blank()).unwrap();
    let status = fixture.ended().await;
    let headline = status["past"][0]["headline"].as_str().unwrap();
    assert!(headline.starts_with("Failed: "), "{headline}");
    assert_eq!(status["past"][0]["tone"], "doubtful");
}

#[test]
fn the_page_is_whole_and_asks_nobody_else() {
    let paths: Vec<&str> = ASSETS.iter().map(|(path, ..)| *path).collect();
    for (path, _, content) in &ASSETS {
        for foreign in ["http://", "https://", "//cdn", "@import", "url(", "innerHTML", "eval("] {
            assert!(!content.contains(foreign), "{path} has {foreign}");
        }
        for (_, rest) in
            content.match_indices(" from \"./").map(|(at, m)| (at, &content[at + m.len()..]))
        {
            let module = format!("/{}", rest.split('"').next().unwrap());
            assert!(paths.contains(&module.as_str()), "{path} wants {module}");
        }
    }
    let page = ASSETS[0].2;
    // What the policy would refuse anyway.
    for inline in [" style=", " onclick=", " onload=", "<style", "javascript:"] {
        assert!(!page.contains(inline), "{inline}");
    }
    for source in page.split("src=\"").skip(1).chain(page.split("href=\"/").skip(1)) {
        let named = source.split('"').next().unwrap().trim_start_matches('/');
        assert!(paths.contains(&format!("/{named}").as_str()), "{named}");
    }
}

#[tokio::test]
async fn pages_are_for_this_machine_only() {
    for address in ["0.0.0.0:0", "192.0.2.1:8088", "[::]:0"] {
        let refused = Page::bind(address.parse().unwrap()).await.unwrap_err();
        assert!(refused.to_string().contains("not a loopback address"), "{refused}");
    }
    let page = Page::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let (address, token) = (page.address, page.gate.token().to_owned());
    assert_eq!(page.url(), format!("http://{address}/#token={token}"));
    assert!(address.port() != 0 && token.len() == 43);
    assert!(!format!("{page:?}").contains(&token));
}

/// A request that does not end.
async fn half_a_request(address: SocketAddr) -> TcpStream {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nHost: ").await.unwrap();
    socket
}

/// The first line of the answer to a request for the page.
async fn asked(address: SocketAddr) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(LIMIT, socket.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer.lines().next().unwrap().to_owned()
}

#[tokio::test]
async fn half_a_request_does_not_keep_the_page_alive() {
    let desk = fixture().desk;
    let page = Page::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = page.address;
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(page.serve(desk, async { drop(stopped.await) }));
    let mut half = half_a_request(address).await;
    // By now the first one was taken, too.
    assert_eq!(asked(address).await, "HTTP/1.1 200 OK");
    stop.send(()).unwrap();
    timeout(Duration::from_secs(5), serving).await.expect("the page ends").unwrap();
    let closed = timeout(LIMIT, half.read(&mut [0; 64])).await.unwrap();
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
}

#[tokio::test]
async fn half_a_request_gives_its_seat_back() {
    let desk = fixture().desk;
    let page = Page::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = page.address;
    let (head, connection) = (Duration::from_millis(50), LIMIT);
    let limits = Limits { connections: 1, head, connection };
    let routes = routes::routes(desk, page.gate);
    let serving = tokio::spawn(door::answer(page.listener, routes, limits));
    let half = half_a_request(address).await;
    let silent = TcpStream::connect(address).await.unwrap();
    assert_eq!(asked(address).await, "HTTP/1.1 200 OK");
    drop((half, silent));
    serving.abort();
}

#[test]
fn bytes_nobody_honest_sent_are_refused_or_classified() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let fixture = runtime.block_on(async { fixture() });
    let header: Vec<String> = (0..N_PIXELS).map(|i| format!("p{i}")).collect();
    let table = format!("{},label\n{}1\n", header.join(","), "0.25,".repeat(N_PIXELS));
    let kinds = ["application/octet-stream", "text/csv", "application/json", "text/plain"];
    let honest =
        [vec![7; 2 * N_PIXELS], table.into_bytes(), b"{\"examples\": 3}".to_vec(), b"?".to_vec()];
    let indices = 0..kinds.len();
    let seeds = (indices.clone(), indices, 0..5_u8, any::<u64>());
    proptest!(ProptestConfig::with_cases(96), |((body, kind, path, seed) in seeds)| {
        // Mostly under its own name.
        let kind = if seed % 4 == 0 { kinds[kind] } else { kinds[body] };
        let path = if path == 0 { "/api/tampering" } else { "/api/runs" };
        let body = mutant_of(&honest[body..=body], seed);
        let (status, _) =
            runtime.block_on(fixture.send(fixture.request("POST", path, kind, body)));
        prop_assert!(status == StatusCode::ACCEPTED || status.is_client_error(), "{status}");
        let ended = runtime.block_on(fixture.ended());
        if status == StatusCode::ACCEPTED {
            prop_assert_eq!(&ended["past"][0]["headline"], "Intact");
        }
    });
    runtime.block_on(async {
        fixture.desk.begin(blank()).unwrap();
        assert_eq!(fixture.ended().await["past"][0]["headline"], "Intact");
    });
}
