//! The page, asked without a socket but where connections are the matter.

mod access;
mod assets;
mod cheating;
mod connections;
mod intake;
mod runs;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use axum::http::{Request, StatusCode};
use fingerprint::LayoutOptions;
use ndarray::Array2;
use nn_poly::import::Dataset;
use nn_poly::plan::{ActivationSide, Plan};
use protocol::client::{Endpoint, RetryPolicy};
use protocol::server::service::PlanHost;
use securedl_tests::models::TinyModel;
use serde_json::Value;
use tower::ServiceExt;

use super::gate::Gate;
use super::intake::Samples;
use super::{Desk, EvidencePlace, Reach, Tampering, routes};
use crate::pipeline::inference::{self, RunSettings};
use crate::pipeline::servers::Visitor;

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

/// One sample of zeros.
fn blank() -> Samples {
    let features = Array2::zeros((1, N_PIXELS));
    Samples { features, labels: None, source: "nothing".to_owned() }
}
