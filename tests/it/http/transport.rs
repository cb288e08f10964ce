//! Connections: certificates, redirects, limits and services that are down.

use tempfile::{TempDir, tempdir};

use super::*;

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
