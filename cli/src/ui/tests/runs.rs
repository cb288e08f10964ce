//! Runs: classified, one at a time, cancelled, failed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use protocol::hosting::PlanShelf;
use protocol::server::service::PlanHost;
use securedl_tests::dishonest::{Cheat, DishonestHost, Victims};
use serde_json::Value;

use super::{LIMIT, N_PIXELS, blank, fixture, fixture_on, plan};
use crate::pipeline::altering::{AlteredHost, AlteredSegment};
use crate::pipeline::inference;

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
async fn a_server_that_is_gone_is_told_and_not_judged() {
    let fixture = fixture_on(Arc::new(PlanShelf::new()));
    fixture.desk.begin(blank()).unwrap();
    let status = fixture.ended().await;
    let headline = status["past"][0]["headline"].as_str().unwrap();
    assert!(headline.starts_with("Failed: "), "{headline}");
    assert_eq!(status["past"][0]["tone"], "doubtful");
}
