//! Who may ask the page, and what every answer tells browsers.

use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::{Request, StatusCode};
use tower::ServiceExt;

use super::{HERE, N_PIXELS, fixture};
use crate::ui::gate::Gate;
use crate::ui::{Page, routes};

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
