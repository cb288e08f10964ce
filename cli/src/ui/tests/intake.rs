//! What is sent to be classified: read with care, or refused.

use axum::http::StatusCode;
use proptest::prelude::*;
use securedl_tests::mutation::mutant_of;
use serde_json::Value;

use super::{N_PIXELS, blank, fixture};
use crate::ui::intake::MAX_BODY_BYTES;

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
