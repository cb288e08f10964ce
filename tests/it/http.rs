//! Audits of a service over HTTP: honest, modified, unsteady, and in every kind of trouble.

mod answers;
mod transport;

use std::time::Duration;

use fingerprint::endpoint::{Endpoint, EndpointError};
use fingerprint::{
    AuditError, AuditOutcome, Fingerprint, FingerprintParts, GeneratorKind, InputGrid, Repetition,
    SampleBag, SampleInfo, SelectionRule, audit,
};
use ndarray::Array2;
use nn_poly::import::{Preprocessing, SplitSpec};
use nn_poly::model::{Model, ModelSpec, TrainingRecord};
use nn_poly::network::{ActivationChoice, Architecture, NetworkKind, predictions};
use nn_poly::{Network, Predictor, Shape};
use protocol::endpoint::{AnswerForm, HttpEndpoint, HttpSpec, InputUnits};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use securedl_tests::http::{HttpReply, HttpRequest, HttpServer};
use serde_json::{Value, json};

const N_SAMPLES: usize = 5;
const NAMES: [&str; 4] = ["ant", "bee", "cat", "dog"];

fn model(seed: u64) -> Model {
    let shape = Shape::image(2, 3, 1).unwrap();
    let flat = Shape::vector(shape.len()).unwrap();
    let network: Network<f32> =
        Architecture::new(NetworkKind::Mlp, ActivationChoice::Relu).build(&flat, 4, seed).unwrap();
    Model::new(ModelSpec {
        name: "small".into(),
        kind: NetworkKind::Mlp,
        activation: ActivationChoice::Relu,
        network,
        preprocessing: Preprocessing::UnitRange,
        split: SplitSpec::default(),
        class_names: NAMES.map(str::to_owned).to_vec(),
        bits: None,
        training: TrainingRecord::default(),
        data_source: "none".into(),
    })
    .unwrap()
}

fn fingerprint(model: &Model) -> Fingerprint {
    let grid = InputGrid::bytes();
    let mut rng = StdRng::seed_from_u64(4);
    let levels = Array2::from_shape_simple_fn((N_SAMPLES, 6), || rng.random_range(0..=255_u32));
    let inputs = grid.values(levels.view());
    let labels = predictions(&model.spec().network.scores(&inputs).unwrap());
    let info = |label: usize| SampleInfo {
        source: None,
        label: label as u32,
        margin: 0.1,
        log_sensitivity: 0.0,
        tied: vec![],
    };
    let samples = labels.into_iter().map(info).collect();
    let bag = SampleBag { inputs, generator: GeneratorKind::Random, seed: 4, samples };
    of_bag(model, &bag, None)
}

/// The fingerprint of all samples of a bag of byte images.
fn of_bag(model: &Model, bag: &SampleBag, originals: Option<&Array2<f32>>) -> Fingerprint {
    let parts = FingerprintParts {
        bag,
        grid: &InputGrid::bytes(),
        originals,
        selection: SelectionRule::Random,
        rule: "top-1".parse().unwrap(),
        margin: 1e-5,
    };
    Fingerprint::of_model(model, &parts).unwrap()
}

/// The samples of a fingerprint as a bag.
fn bag_of(fingerprint: &Fingerprint) -> SampleBag {
    SampleBag {
        inputs: fingerprint.inputs(),
        generator: GeneratorKind::Random,
        seed: 4,
        samples: fingerprint.samples().to_vec(),
    }
}

/// What a service that serves `network` answers to a list of byte images.
fn scores(network: &Network<f32>, request: &HttpRequest) -> Array2<f64> {
    network.scores(&request.rows("inputs").mapv(|level| level / 255.0)).unwrap()
}

fn service(model: &Model) -> impl Fn(&HttpRequest) -> HttpReply + Send + Sync + 'static {
    let network = model.spec().network.clone();
    move |request| {
        let scores = scores(&network, request);
        let rows: Vec<Vec<f64>> = scores.rows().into_iter().map(|row| row.to_vec()).collect();
        let names: Vec<&str> = predictions(&scores).into_iter().map(|class| NAMES[class]).collect();
        HttpReply::ok(json!({"outputs": rows, "names": names}).to_string())
    }
}

fn spec(url: String) -> HttpSpec {
    let mut spec = HttpSpec::new(url, AnswerForm::Logits);
    spec.timeout = Duration::from_secs(10);
    spec.first_backoff = Duration::from_millis(1);
    spec.longest_backoff = Duration::from_millis(20);
    spec
}

fn endpoint(spec: HttpSpec, fingerprint: &Fingerprint) -> HttpEndpoint {
    let (shape, grid) = (fingerprint.shape().clone(), fingerprint.grid().clone());
    HttpEndpoint::new(spec, shape, grid, fingerprint.class_names()).unwrap()
}

fn run(spec: HttpSpec, fingerprint: &Fingerprint) -> Result<AuditOutcome, AuditError> {
    let rule = (spec.answers == AnswerForm::Logits).then(|| "tolerance-1e-5".parse().unwrap());
    let mut endpoint = endpoint(spec, fingerprint);
    audit(&mut endpoint, fingerprint, rule, Repetition::Twice).map(|audit| audit.outcome)
}

#[test]
fn the_true_model_passes_and_another_does_not() {
    let (honest, other) = (model(1), model(2));
    let fingerprint = fingerprint(&honest);
    for (served, is_same) in [(&honest, true), (&other, false)] {
        let server = HttpServer::start(service(served));
        let outcome = run(spec(server.url("/v1/classify")), &fingerprint).unwrap();
        assert_eq!(outcome == AuditOutcome::Same, is_same, "{outcome:?}");
        let requests = server.requests();
        assert_eq!(requests.len() == 2, is_same, "asked twice, what differs several times more");
        assert_eq!(requests[0].target, "POST /v1/classify");
        let json = ("content-type".to_owned(), "application/json".to_owned());
        assert!(requests[0].headers.contains(&json), "{:?}", requests[0].headers);
    }
}

#[test]
fn credentials_are_not_shown_and_not_sent_in_the_clear() {
    let fingerprint = fingerprint(&model(1));
    let mut spec = spec("https://example.org/?key=S3CRET".to_owned());
    spec.headers = vec![("Authorization".to_owned(), "Bearer S3CRET".to_owned())];
    spec.proxy = Some("http://me:S3CRET@127.0.0.1:9".to_owned());
    for shown in [format!("{spec:?}"), format!("{:?}", endpoint(spec.clone(), &fingerprint))] {
        assert!(!shown.contains("S3CRET"), "{shown}");
        assert!(shown.contains("Authorization") && shown.contains("https://example.org/"));
    }
    let check = |alter: &dyn Fn(&mut HttpSpec), expected: Option<&str>| {
        let mut spec = spec.clone();
        spec.proxy = None;
        alter(&mut spec);
        let (shape, grid) = (fingerprint.shape().clone(), fingerprint.grid().clone());
        let made = HttpEndpoint::new(spec, shape, grid, fingerprint.class_names());
        match (made, expected) {
            (Ok(_), None) => {}
            (Err(error), Some(expected)) => {
                let error = error.to_string();
                assert!(error.contains(expected) && !error.contains("S3CRET"), "{error}");
            }
            (made, expected) => panic!("{:?} is not {expected:?}", made.map(|_| ())),
        }
    };
    let plain = |spec: &mut HttpSpec| spec.url = "http://example.org/".to_owned();
    check(&plain, Some("--insecure-headers-over-http"));
    let allowed = |spec: &mut HttpSpec| (plain(spec), spec.insecure_headers_over_http = true).0;
    check(&allowed, None);
    let bare = |spec: &mut HttpSpec| (plain(spec), spec.headers.clear()).0;
    check(&bare, None);
    let local = |spec: &mut HttpSpec| spec.url = "http://127.0.0.1:9/".to_owned();
    check(&local, None);
    let proxied =
        |spec: &mut HttpSpec| (local(spec), spec.proxy = Some("http://127.0.0.1:9".to_owned())).0;
    check(&proxied, Some("--insecure-headers-over-http"));
    check(&|spec| spec.url = "https://me:S3CRET@host/".to_owned(), Some("--header @FILE"));
    check(&|spec| spec.proxy = Some("ftp://me:S3CRET@host:1".to_owned()), Some("proxy"));
    check(&|spec| spec.proxy = Some("http://me:S3CRET@ho st".to_owned()), Some("proxy"));
}

#[test]
fn a_proxy_is_used_if_it_is_named() {
    let fingerprint = fingerprint(&model(1));
    let proxy = HttpServer::start(|_| HttpReply::status(403, "not for you"));
    let service = HttpServer::start(|_| HttpReply::ok("{}"));
    let mut spec = spec(service.url("/"));
    spec.proxy = Some(proxy.url(""));
    let error = run(spec, &fingerprint).unwrap_err();
    assert!(matches!(error, AuditError::Endpoint(_)), "{error}");
    let asked = proxy.requests();
    assert!(asked[0].target.starts_with("CONNECT 127.0.0.1:"), "{}", asked[0].target);
    assert!(service.requests().is_empty());
}

#[test]
fn labels_by_name_small_requests_and_headers() {
    let honest = model(1);
    let fingerprint = fingerprint(&honest);
    let server = HttpServer::start(service(&honest));
    let mut spec = spec(server.url("/"));
    spec.answers = AnswerForm::Labels;
    spec.response = "/names".to_owned();
    spec.samples_per_request = 2;
    spec.headers = vec![("Authorization".to_owned(), "Bearer secret".to_owned())];
    assert!(!format!("{:?}", endpoint(spec.clone(), &fingerprint)).contains("secret"));
    assert_eq!(run(spec, &fingerprint).unwrap(), AuditOutcome::Same);
    let requests = server.requests();
    assert_eq!(requests.len(), 2 * N_SAMPLES.div_ceil(2));
    let header = ("authorization".to_owned(), "Bearer secret".to_owned());
    assert!(requests.iter().all(|request| request.headers.contains(&header)));
}

#[test]
fn one_sample_per_request_where_the_service_takes_no_more() {
    let honest = model(1);
    let fingerprint = fingerprint(&honest);
    let network = honest.spec().network.clone();
    let server = HttpServer::start(move |request| {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        let values: Vec<f32> =
            body["x"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
        let scores = network.scores(&Array2::from_shape_vec((1, 6), values).unwrap()).unwrap();
        HttpReply::ok(json!({"class": predictions(&scores)[0]}).to_string())
    });
    let mut spec = spec(server.url("/"));
    spec.request = r#"{"x": "{{input}}"}"#.to_owned();
    spec.units = InputUnits::Preprocessed;
    (spec.answers, spec.response) = (AnswerForm::Labels, "/class".to_owned());
    assert_eq!(run(spec, &fingerprint).unwrap(), AuditOutcome::Same);
    assert_eq!(server.requests().len(), 2 * N_SAMPLES);
}

#[test]
fn an_endpoint_that_changes_its_mind_is_unsteady_not_modified() {
    let honest = model(1);
    let fingerprint = fingerprint(&honest);
    let (steady, network) = (service(&honest), honest.spec().network.clone());
    let server = HttpServer::start(move |request| {
        if request.number == 0 {
            return steady(request);
        }
        // As a service that adds noise, or switches between models.
        let noisy = scores(&network, request).mapv(|score| score + 0.25 * score.abs() + 0.1);
        HttpReply::rows("outputs", &noisy)
    });
    let outcome = run(spec(server.url("/")), &fingerprint).unwrap();
    assert!(matches!(outcome, AuditOutcome::Unsteady { .. }), "{outcome:?}");
    assert_eq!(outcome.exit_code(), 2);
}

#[test]
fn a_busy_service_is_asked_again_and_given_up_in_the_end() {
    let honest = model(1);
    let fingerprint = fingerprint(&honest);
    let steady = service(&honest);
    let server = HttpServer::start(move |request| match request.number {
        0 => HttpReply::status(429, "slow down"),
        1 => {
            let mut reply = HttpReply::status(503, "");
            // Longer than the client is willing to wait: it comes back earlier.
            reply.headers.push(("Retry-After", "3600".to_owned()));
            reply
        }
        _ => steady(request),
    });
    assert_eq!(run(spec(server.url("/")), &fingerprint).unwrap(), AuditOutcome::Same);
    assert_eq!(server.requests().len(), 4);
    let bodies: Vec<_> = server.requests().into_iter().map(|request| request.body).collect();
    assert_eq!(bodies[0], bodies[2], "the same request again");

    let always = HttpServer::start(|_| HttpReply::status(429, ""));
    let mut stubborn = spec(always.url("/"));
    stubborn.attempts = 3;
    let error = run(stubborn, &fingerprint).unwrap_err();
    let limited = EndpointError::RateLimited { status: 429, attempts: 3 };
    assert_eq!(error.to_string(), limited.to_string());
    assert_eq!(always.requests().len(), 3);
}

#[test]
fn trouble_is_an_error_and_never_a_verdict() {
    let fingerprint = fingerprint(&model(1));
    let fail = |answer: fn(&HttpRequest) -> HttpReply, timeout: Duration, expected: &str| {
        let server = HttpServer::start(answer);
        let mut spec = spec(server.url("/"));
        spec.timeout = timeout;
        let error = run(spec, &fingerprint).unwrap_err();
        assert!(matches!(error, AuditError::Endpoint(_)), "{error}");
        assert!(error.to_string().contains(expected), "`{error}` lacks `{expected}`");
    };
    let long = Duration::from_secs(10);
    let slow = |_: &HttpRequest| HttpReply { delay: Duration::from_secs(5), ..HttpReply::ok("") };
    fail(slow, Duration::from_millis(300), "did not answer within 0.3 s");
    fail(|_| HttpReply::ok("<html>"), long, "is not JSON");
    fail(|_| HttpReply::ok("{}"), long, "nothing at `/outputs`");
    fail(|_| HttpReply::ok(r#"{"outputs": [[1,2,3,4]]}"#), long, "1 answers to 5 samples");
    fail(|_| HttpReply::status(401, "who are\nyou?"), long, "status 401: who are you?");
    fail(|_| HttpReply::status(302, ""), long, "status 302");
    fail(|_| HttpReply::ok(vec![b' '; 4 << 20]), long, "longer than");
    let cut = |_: &HttpRequest| HttpReply { announced: Some(1000), ..HttpReply::ok("[") };
    fail(cut, long, "malformed");
    let rows = |_: &HttpRequest| {
        HttpReply::ok(json!({"outputs": vec![vec!["nan"; 4]; N_SAMPLES]}).to_string())
    };
    fail(rows, long, "is no number");
}
