//! A server that runs another model than it says: exit code 1, and no predictions.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use nn_poly::plan::Plan;
use protocol::access::AccessControl;
use protocol::evidence::{self, EvidenceError, Finding};
use protocol::hosting::PlanShelf;
use protocol::identifiers::{Digest, Label};
use protocol::identity::Identity;
use protocol::server::{Server, ServerOptions};
use protocol::tls::ServerTls;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::fixture::{fixture, folder, infer, run, text};

/// `plan` with one weight of its second segment one unit nearer to zero.
pub(crate) fn tampered(plan: &Plan) -> Plan {
    let mut weights = plan.network().weights().to_vec();
    let weight = weights[1].weights.iter_mut().find(|weight| **weight != 0).unwrap();
    *weight -= weight.signum();
    Plan::new(plan.public().clone(), weights).unwrap()
}

/// Serve `actual` as if it were `claimed`, for as long as the runtime lives.
pub(crate) fn serve(runtime: &Runtime, claimed: &Plan, actual: &Plan, tls: &Path) -> SocketAddr {
    let mut shelf = PlanShelf::new();
    shelf.insert_as(actual, Digest(claimed.digest().0)).unwrap();
    let access = AccessControl::open();
    let options = ServerOptions { access, ..ServerOptions::new(Label::new("cheat").unwrap()) };
    let server = Server::new(Arc::new(shelf), Identity::from_seed(&[7; 32]), options).unwrap();
    let tls = ServerTls::load(tls).unwrap();
    runtime.block_on(async {
        let listener = Server::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { server.serve(listener, tls, std::future::pending()).await });
        address
    })
}

/// The evidence convicts the server that signed it, offline, and nobody once it is altered.
fn the_fault_is_proven(folder: &Path, plan_path: &Path, plan: &Plan) {
    let files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "one block failed, nothing else is left: {files:?}");
    let file = &files[0];
    let identity = Identity::from_seed(&[7; 32]).public();
    let report = evidence::verify(file, plan).unwrap();
    assert!(matches!(report.finding, Finding::ProvenFault { .. }), "{report:?}");
    assert_eq!((report.identity, report.segment), (identity, 1));
    let finished = run(&[
        "evidence",
        "verify",
        text(file),
        "--plan",
        text(plan_path),
        "--identity",
        &identity.to_string(),
        "--json",
    ]);
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    let json: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(json["finding"], "proven_fault");
    assert_eq!((json["exit_code"].as_u64(), json["segment"].as_u64()), (Some(1), Some(1)));
    assert!(json["differing_ciphertexts"].as_u64().is_some_and(|n| n > 0), "{json}");
    // The server it ran is right by its own plan, which is another one.
    assert!(matches!(
        evidence::verify(file, &tampered(plan)),
        Err(EvidenceError::OtherPlan { .. })
    ));
    let bytes = fs::read(file).unwrap();
    let altered = folder.join("altered");
    for position in (0..200).chain((200..bytes.len()).step_by(bytes.len() / 40)) {
        // As it is, and by somebody who knows the format and repairs the digest.
        for repaired in [false, true] {
            let mut changed = bytes.clone();
            changed[position] ^= 1;
            if repaired {
                let end = changed.len() - 32;
                let digest = blake3::derive_key("securedl evidence 1", &changed[..end]);
                changed[end..].copy_from_slice(&digest);
            }
            fs::write(&altered, &changed).unwrap();
            if let Ok(report) = evidence::verify(&altered, plan) {
                let still = matches!(report.finding, Finding::ProvenFault { .. });
                let digest_only = repaired && position >= bytes.len() - 32;
                assert!(!still || digest_only, "{position} {repaired}: {report:?}");
            }
        }
    }
    for length in [0, 7, 12, 119, 120, bytes.len() - 1] {
        fs::write(&altered, &bytes[..length]).unwrap();
        let outcome = evidence::verify(&altered, plan);
        assert!(
            !matches!(outcome, Ok(report) if report.finding != Finding::Altered),
            "{length} bytes"
        );
    }
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn one_weight_off_by_one_is_named_and_releases_nothing() {
    let fixture = fixture();
    let folder = folder("cheating");
    let runtime = Runtime::new().unwrap();
    for (name, path) in [("squares", &fixture.squares), ("linear", &fixture.linear)] {
        let plan = Plan::load(path).unwrap();
        let address = serve(&runtime, &plan, &tampered(&plan), &fixture.tls).to_string();
        let [out, report, page] =
            ["csv", "json", "html"].map(|kind| folder.join(format!("{name}.{kind}")));
        let results = ["--accept-unverified", "--out", text(&out), "--json", text(&report)];
        let results = [&results[..], &["--report", text(&page)]].concat();
        let finished = run(&infer(path, &address, &results));
        assert_eq!(finished.code, Some(1), "{name}: {}", finished.stderr);
        for expected in ["✗ ModelModified", "segment 1", "not written"] {
            assert!(finished.stdout.contains(expected), "{name}: {}", finished.stdout);
        }
        assert!(!finished.stdout.contains("per sample"), "{name}: {}", finished.stdout);
        assert!(!out.exists(), "{name}: no predictions");
        let page = fs::read_to_string(&page).unwrap();
        for expected in ["Caught: ", "What gave it away", "Segment 1: ", "No predictions were"] {
            assert!(page.contains(expected), "{name}: {expected}");
        }
        assert!(!page.contains("class=\"sample\""), "{name}: no predictions here either");
        the_fault_is_proven(&folder.join("evidence"), path, &plan);
        let report: Value = serde_json::from_str(&fs::read_to_string(&report).unwrap()).unwrap();
        assert_eq!(report["verdict"], "ModelModified");
        let kept = report["evidence"][0].as_str().unwrap();
        assert!(kept.ends_with(".evidence") && kept.contains("-segment1-"), "{kept}");
        assert_eq!(report["verdict_details"]["segment"], 1);
        assert_eq!(report["verdict_details"]["neurons"].as_array().unwrap().len(), 1);
        for unknown in ["accuracy", "matches_integer_network", "out_of_calibration"] {
            assert!(report[unknown].is_null(), "{name}: {unknown}");
        }
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_cheat_stays_one_when_its_page_cannot_be_written() {
    let fixture = fixture();
    let folder = folder("cheating-full-disk");
    let runtime = Runtime::new().unwrap();
    let plan = Plan::load(&fixture.squares).unwrap();
    let address = serve(&runtime, &plan, &tampered(&plan), &fixture.tls).to_string();
    let (report, evidence) = (folder.join("report.json"), folder.join("evidence"));
    let results = ["--json", text(&report), "--evidence", text(&evidence), "--report", "/dev/full"];
    let finished = run(&infer(&fixture.squares, &address, &results));
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    assert!(finished.stderr.contains("cannot write /dev/full"), "{}", finished.stderr);
    let report: Value = serde_json::from_str(&fs::read_to_string(&report).unwrap()).unwrap();
    assert_eq!(report["verdict"], "ModelModified");
}
