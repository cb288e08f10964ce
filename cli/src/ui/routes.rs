//! What the page asks for.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::assets::{ASSETS, HTML};
use super::desk::Desk;
use super::gate::{Gate, authorize, guard};
use super::intake::{self, MAX_BODY_BYTES, Refusal};
use crate::report::html;

/// The page and its questions, behind the gate.
pub(super) fn routes(desk: Arc<Desk>, gate: Gate) -> Router {
    let gate = Arc::new(gate);
    let questions = Router::new()
        .route("/facts", get(facts))
        .route("/status", get(status))
        .route("/runs", post(begin))
        .route("/cancel", post(cancel))
        .route("/runs/{id}/html", get(fragment))
        .route("/runs/{id}/report", get(report))
        .route("/tampering", post(tamper))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(desk)
        .fallback(nothing)
        .layer(from_fn_with_state(Arc::clone(&gate), authorize));
    let mut routes = Router::new().nest("/api", questions);
    for (path, kind, content) in ASSETS {
        routes = routes.route(path, get(move || async move { ([(CONTENT_TYPE, kind)], content) }));
    }
    routes.fallback(nothing).layer(from_fn_with_state(gate, guard))
}

async fn nothing() -> StatusCode {
    StatusCode::NOT_FOUND
}

async fn facts(State(desk): State<Arc<Desk>>) -> Response {
    answer(StatusCode::OK, &desk.facts())
}

async fn status(State(desk): State<Arc<Desk>>) -> Result<Response, Refusal> {
    // Draws a picture.
    let status = tokio::task::spawn_blocking(move || desk.status()).await;
    let status = status.map_err(|_| broken())?.map_err(|_| broken())?;
    Ok(answer(StatusCode::OK, &status))
}

async fn begin(
    State(desk): State<Arc<Desk>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let kind = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let plan = desk.plan.public();
    let samples = match kind {
        b"application/octet-stream" => intake::pixels(plan, &body)?,
        b"text/csv" => {
            let desk = Arc::clone(&desk);
            // Reads and writes a file.
            let read = move || intake::table(desk.plan.public(), &body, None);
            tokio::task::spawn_blocking(read).await.map_err(|_| broken())??
        }
        b"application/json" => intake::examples(desk.examples.as_ref(), &body)?,
        _ => {
            let text = "bring pixels (application/octet-stream), a table (text/csv) or a wish for examples (application/json)";
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
        }
    };
    let id = desk.begin(samples)?;
    Ok(answer(StatusCode::ACCEPTED, &json!({ "id": id })))
}

async fn cancel(State(desk): State<Arc<Desk>>) -> Response {
    desk.cancel();
    StatusCode::NO_CONTENT.into_response()
}

async fn fragment(State(desk): State<Arc<Desk>>, Path(id): Path<u64>) -> Result<Response, Refusal> {
    let view = desk.view(id).ok_or_else(unknown)?;
    Ok(([(CONTENT_TYPE, HTML)], html::fragment(&view)).into_response())
}

async fn report(State(desk): State<Arc<Desk>>, Path(id): Path<u64>) -> Result<Response, Refusal> {
    let view = desk.view(id).ok_or_else(unknown)?;
    Ok(([(CONTENT_TYPE, HTML)], html::report(&view)).into_response())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Choice {
    kind: String,
    segment: usize,
}

async fn tamper(State(desk): State<Arc<Desk>>, body: Bytes) -> Result<Response, Refusal> {
    let Some(server) = desk.tampering.clone() else {
        let text = "only the server of the demonstration can be made to cheat";
        return Err(Refusal::new(StatusCode::NOT_FOUND, text));
    };
    let choice: Choice = serde_json::from_slice(&body).map_err(anyhow::Error::from)?;
    let turn = Arc::clone(&desk.choosing).lock_owned().await;
    let choose = move || {
        // Held to the end, even if nobody waits for the answer any more.
        let _turn = turn;
        server.choose(&choice.kind, choice.segment)
    };
    tokio::task::spawn_blocking(choose).await.map_err(|_| broken())??;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn unknown() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "there is no such run with a verdict")
}

fn broken() -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error, please report")
}

fn answer(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(text) => {
            let kind = HeaderValue::from_static("application/json");
            (status, [(CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => broken().into_response(),
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        answer(self.status, &json!({ "error": self.text }))
    }
}
