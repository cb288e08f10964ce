//! Audits of a service over HTTP: honest, modified, unsteady, and in every kind of trouble.

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
use tempfile::{TempDir, tempdir};

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
    let bag = SampleBag {
        inputs,
        generator: GeneratorKind::Random,
        seed: 4,
        samples: labels.into_iter().map(info).collect(),
    };
    let parts = FingerprintParts {
        bag: &bag,
        grid: &grid,
        originals: None,
        selection: SelectionRule::Random,
        rule: "top-1".parse().unwrap(),
    };
    Fingerprint::of_model(model, &parts).unwrap()
}

/// What a service that serves `network` answers to a list of byte images.
fn scores(network: &Network<f32>, request: &HttpRequest) -> Array2<f64> {
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    let rows = body["inputs"].as_array().unwrap();
    let values: Vec<f32> = rows
        .iter()
        .flat_map(|row| row.as_array().unwrap())
        .map(|level| level.as_u64().unwrap() as f32 / 255.0)
        .collect();
    network.scores(&Array2::from_shape_vec((rows.len(), 6), values).unwrap()).unwrap()
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
        assert_eq!(requests.len(), 2, "asked twice, all samples at once");
        assert_eq!(requests[0].target, "POST /v1/classify");
        let json = ("content-type".to_owned(), "application/json".to_owned());
        assert!(requests[0].headers.contains(&json), "{:?}", requests[0].headers);
    }
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
        let rows: Vec<Vec<f64>> = scores(&network, request)
            .rows()
            .into_iter()
            .map(|row| row.iter().map(|score| score + 0.25 * score.abs() + 0.1).collect())
            .collect();
        HttpReply::ok(json!({"outputs": rows}).to_string())
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

/// Files of a development authority and a server it vouches for.
fn authority() -> (TempDir, Vec<u8>) {
    let directory = tempdir().unwrap();
    protocol::tls::init(directory.path(), &[]).unwrap();
    let pem = std::fs::read(directory.path().join("ca.pem")).unwrap();
    (directory, pem)
}

#[test]
fn a_service_over_tls_is_asked_only_if_its_authority_is_trusted() {
    let honest = model(1);
    let fingerprint = fingerprint(&honest);
    let (directory, pem) = authority();
    let (_elsewhere, foreign) = authority();
    let server = HttpServer::start_tls(directory.path(), service(&honest));
    let with = |ca_pem: Option<Vec<u8>>, url: String| {
        let mut spec = spec(url);
        spec.ca_pem = ca_pem;
        run(spec, &fingerprint)
    };
    let url = || server.url("/v1/classify");
    assert_eq!(with(Some(pem.clone()), url()).unwrap(), AuditOutcome::Same);
    let both = [foreign.as_slice(), pem.as_slice()].concat();
    assert_eq!(with(Some(both), url()).unwrap(), AuditOutcome::Same, "every one in the file");
    let n_asked = server.requests().len();
    assert_eq!(n_asked, 4);

    for not_its_own in [Some(foreign), None] {
        let error = with(not_its_own, url()).unwrap_err();
        let untrusted = matches!(error, AuditError::Endpoint(EndpointError::Untrusted { .. }));
        assert!(untrusted, "{error}");
    }
    assert_eq!(server.requests().len(), n_asked, "no sample is shown to a stranger");
}

#[test]
fn plain_http_behind_an_https_address_is_no_verdict() {
    let fingerprint = fingerprint(&model(1));
    let server = HttpServer::start(|_| HttpReply::ok("{}"));
    let error = run(spec(server.url("/").replace("http:", "https:")), &fingerprint).unwrap_err();
    assert!(matches!(error, AuditError::Endpoint(_)), "{error}");
    assert!(server.requests().iter().all(|request| request.body.is_empty()));
}

#[test]
fn redirects_are_not_followed_and_samples_and_headers_go_nowhere_else() {
    let honest = model(1);
    let fingerprint = fingerprint(&honest);
    let other = HttpServer::start(service(&honest));
    for status in [301, 302, 303, 307, 308] {
        let target = other.url("/v1/classify");
        let server = HttpServer::start(move |_| {
            let mut reply = HttpReply::status(status, "elsewhere");
            reply.headers.push(("Location", target.clone()));
            reply
        });
        let mut spec = spec(server.url("/"));
        spec.headers = vec![("Authorization".to_owned(), "Bearer secret".to_owned())];
        let error = run(spec, &fingerprint).unwrap_err();
        let refused = format!("status {status}: elsewhere");
        assert!(error.to_string().contains(&refused), "`{error}` lacks `{refused}`");
        assert_eq!(server.requests().len(), 1);
    }
    assert!(other.requests().is_empty());
}

#[test]
fn replies_are_read_up_to_a_limit_also_over_tls_and_in_refusals() {
    let fingerprint = fingerprint(&model(1));
    let (directory, pem) = authority();
    for status in [200, 500] {
        let server = HttpServer::start_tls(directory.path(), move |_| {
            HttpReply::status(status, vec![b' '; 8 << 20])
        });
        let mut spec = spec(server.url("/"));
        spec.ca_pem = Some(pem.clone());
        let error = run(spec, &fingerprint).unwrap_err().to_string();
        assert!(error.contains("longer than"), "{error}");
    }
}

#[test]
fn a_service_that_is_down_is_unreachable_at_once() {
    let fingerprint = fingerprint(&model(1));
    let server = HttpServer::start(|_| HttpReply::ok(""));
    let url = server.url("/");
    drop(server);
    let error = run(spec(url), &fingerprint).unwrap_err();
    let unreachable = matches!(error, AuditError::Endpoint(EndpointError::Unreachable { .. }));
    assert!(unreachable, "{error}");
}

#[test]
fn descriptions_that_cannot_work_are_refused_before_anything_is_sent() {
    let fingerprint = fingerprint(&model(1));
    let refused = |alter: &dyn Fn(&mut HttpSpec), expected: &str| {
        let mut spec = spec("http://127.0.0.1:9/".to_owned());
        alter(&mut spec);
        let (shape, grid) = (fingerprint.shape().clone(), fingerprint.grid().clone());
        let error = HttpEndpoint::new(spec, shape, grid, fingerprint.class_names()).unwrap_err();
        assert!(matches!(error, EndpointError::Setting { .. }), "{error}");
        assert!(error.to_string().contains(expected), "`{error}` lacks `{expected}`");
    };
    refused(&|spec: &mut HttpSpec| spec.url = "ftp://host/".to_owned(), "https://");
    refused(&|spec: &mut HttpSpec| spec.url = "not a url".to_owned(), "no URL");
    refused(
        &|spec: &mut HttpSpec| spec.headers = vec![("a b".to_owned(), String::new())],
        "header",
    );
    refused(
        &|spec: &mut HttpSpec| spec.headers = vec![("a".to_owned(), "b\nc".to_owned())],
        "header",
    );
    refused(&|spec: &mut HttpSpec| spec.attempts = 0, "above zero");
    refused(&|spec: &mut HttpSpec| spec.ca_pem = Some(b"nonsense".to_vec()), "no certificate");
    let broken = "-----BEGIN CERTIFICATE-----\n%%%%\n-----END CERTIFICATE-----\n";
    let broken = move |spec: &mut HttpSpec| spec.ca_pem = Some(broken.as_bytes().to_vec());
    refused(&broken, "certificate authority");
    refused(&|spec: &mut HttpSpec| spec.request = "{}".to_owned(), "placeholder");
    let grid = InputGrid::per_feature(vec![0.0; 7], vec![1.0; 7], 3).unwrap();
    let spec = spec("http://127.0.0.1:9/".to_owned());
    let wide =
        HttpEndpoint::new(spec, fingerprint.shape().clone(), grid, fingerprint.class_names());
    assert!(wide.is_err());
    let server = HttpServer::start(|_| HttpReply::ok(""));
    let mut endpoint = endpoint(HttpSpec::new(server.url("/"), AnswerForm::Labels), &fingerprint);
    let error = endpoint.query(&Array2::zeros((1, 5))).unwrap_err();
    assert!(matches!(error, EndpointError::InputWidth { expected: 6, actual: 5 }));
    assert!(server.requests().is_empty());
}
