//! `securedl evidence verify`: exit codes, words and JSON for everything a file may turn out to be.
//! Proven faults are in `cheating.rs`, where they come from.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nn_poly::plan::Plan;
use protocol::client::reply_queue;
use protocol::identity::Identity;
use protocol::session::Lane;
use securedl_tests::batch::seeded_session;
use securedl_tests::loopback::{in_process, runtime, server, shelf};
use securedl_tests::models::{client_plan, samples, session_options};
use serde_json::Value;

use super::fixture::{fixture, folder, run, text};

/// The identity of the kit's server.
fn identity() -> String {
    Identity::from_seed(&[9; 32]).public().to_string()
}

/// What a client has recorded of an honest server.
fn honest(plan: &Plan, folder: &Path) -> PathBuf {
    let owner = client_plan(plan, session_options(4, 1));
    let session = seeded_session(&owner, &samples(plan, 3, 1), 2).unwrap();
    let session = Arc::new(session);
    let remote = in_process(server(shelf(plan)));
    let block = session.prepare(0).unwrap();
    let request = block.request().clone();
    let (sink, stream) = reply_queue(1);
    let target = folder.to_owned();
    runtime().block_on(async {
        let opening = tokio::task::spawn_blocking(move || {
            session.open_recorded(block, stream, &Lane::default(), Some(&target))
        });
        let mut ignore = |_: &_| ControlFlow::Continue(());
        remote.evaluate_streaming(&request, sink, &mut ignore).await.unwrap();
        let mut opened = opening.await.unwrap().unwrap().unwrap();
        opened.take_record().unwrap().keep().unwrap()
    })
}

/// Runs the command; gives the exit code, the finding in the report, and what was said.
fn judge(file: &Path, plan: &Path, more: &[&str]) -> (Option<i32>, Value, String) {
    let report = file.with_extension("json");
    let arguments = ["evidence", "verify", text(file), "--plan", text(plan)];
    let finished = run(&[&arguments[..], &["--json", text(&report)], more].concat());
    let json = fs::read_to_string(&report)
        .map_or(Value::Null, |json| serde_json::from_str::<Value>(&json).unwrap());
    let _ = fs::remove_file(&report);
    if !json.is_null() {
        assert_eq!(json["exit_code"].as_i64(), finished.code.map(i64::from));
    }
    (finished.code, json, finished.stdout + &finished.stderr)
}

#[test]
fn each_finding_has_its_exit_code() {
    let (fixture, folder) = (fixture(), folder("evidence"));
    let plan = Plan::load(&fixture.linear).unwrap();
    let file = honest(&plan, &folder);
    let own = identity();

    let (code, json, said) = judge(&file, &fixture.linear, &["--identity", &own]);
    assert_eq!((code, json["finding"].as_str()), (Some(0), Some("server_was_right")), "{said}");
    assert_eq!(json["identity"], own);
    assert_eq!(json["plan"], plan.digest().to_string());
    assert_eq!(
        (json["segment"].as_u64(), json["identity_checked"].as_bool()),
        (Some(0), Some(true))
    );
    assert!(json["first_differing_byte"].is_null());

    // Nobody is named: the reader is told to compare.
    let (code, json, said) = judge(&file, &fixture.linear, &[]);
    assert_eq!((code, json["identity_checked"].as_bool()), (Some(0), Some(false)));
    assert!(said.contains("compare it with the operator's"), "{said}");

    let other = Identity::from_seed(&[1; 32]).public().to_string();
    let (code, json, _) = judge(&file, &fixture.linear, &["--identity", &other]);
    assert_eq!((code, json["finding"].as_str()), (Some(2), Some("other_identity")));

    let honest = fs::read(&file).unwrap();
    let mut altered = honest.clone();
    altered[500] ^= 1;
    let changed = folder.join("changed");
    fs::write(&changed, &altered).unwrap();
    let (code, json, _) = judge(&changed, &fixture.linear, &["--identity", &own]);
    assert_eq!((code, json["finding"].as_str()), (Some(2), Some("altered")));

    // By somebody who knows the format.
    let end = altered.len() - 32;
    let digest = blake3::derive_key("securedl evidence 1", &altered[..end]);
    altered[end..].copy_from_slice(&digest);
    fs::write(&changed, &altered).unwrap();
    let (code, json, said) = judge(&changed, &fixture.linear, &[]);
    assert_eq!((code, json["finding"].as_str()), (Some(2), Some("receipt_mismatch")), "{said}");
}

#[test]
fn what_cannot_be_judged_is_an_error_that_says_why() {
    let (fixture, folder) = (fixture(), folder("evidence-errors"));
    let file = honest(&Plan::load(&fixture.linear).unwrap(), &folder);
    let mut newer = fs::read(&file).unwrap();
    newer[8] = 9;
    let (future, none) = (folder.join("future"), folder.join("none"));
    fs::write(&future, newer).unwrap();
    fs::write(&none, "no evidence at all").unwrap();
    let cases: [(&Path, &Path, &[&str], &str); 6] = [
        (&file, &fixture.squares, &[], "not about"),
        (&file, &fixture.model, &[], "is a model"),
        (&none, &fixture.linear, &[], "is no evidence"),
        (&future, &fixture.linear, &[], "format 9"),
        (&folder.join("missing"), &fixture.linear, &[], "cannot read"),
        (&file, &fixture.linear, &["--identity", "abc"], "64"),
    ];
    for (file, plan, more, words) in cases {
        let (code, json, said) = judge(file, plan, more);
        assert_eq!(code, Some(2), "{words}: {said}");
        assert!(json.is_null() && said.contains(words), "{words}: {said}");
    }
}
