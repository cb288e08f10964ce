//! What works: the demo, and a model's way from data to verified predictions.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::fixture::{N_TEST, Served, fixture, folder, run, securedl, succeed, text};

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Fields every report must have.
const REPORT_FIELDS: [&str; 23] = [
    "/samples",
    "/blocks",
    "/accuracy",
    "/matches_integer_network",
    "/verdict",
    "/soundness/every_slot_change_bits",
    "/soundness/one_percent_bits",
    "/soundness/one_sample_bits",
    "/soundness/reply_word_bits",
    "/rounds",
    "/bytes_up",
    "/bytes_down",
    "/peak_memory_bytes",
    "/seconds/total",
    "/seconds/encode",
    "/seconds/encrypt",
    "/seconds/network",
    "/seconds/evaluate",
    "/seconds/check",
    "/seconds/decrypt",
    "/params/ring_degree",
    "/params/plaintext_modulus_bits",
    "/params/ciphertext_modulus_bits",
];

#[test]
fn the_demo_shows_an_intact_and_a_modified_server() {
    let folder = folder("demo");
    let report = folder.join("demo.json");
    let finished = succeed(&["demo", "--samples", "3", "--json", text(&report)]);
    for expected in ["✓ Intact", "✗ ModelModified", "segment 1", "No predictions"] {
        assert!(finished.stdout.contains(expected), "{expected}:\n{}", finished.stdout);
    }
    let report = json(&report);
    assert_eq!(report["honest"]["verdict"], "Intact");
    assert_eq!(report["honest"]["matches_integer_network"], true);
    assert_eq!(report["tampered"]["verdict"], "ModelModified");
    assert_eq!(report["tampered"]["verdict_details"]["segment"], report["tampering"]["segment"]);
    let neuron = &report["tampering"]["neuron"];
    assert_eq!(&report["tampered"]["verdict_details"]["neurons"][0], neuron);
    assert_eq!(report["as_expected"], true);
}

#[test]
fn a_batch_on_a_server_equals_the_simulation_and_is_intact() {
    let fixture = fixture();
    let folder = folder("server-run");
    let server = Served::start(&fixture.plans, &fixture.tls, "127.0.0.1:0");
    for (plan, replicas) in [(&fixture.squares, "2"), (&fixture.linear, "1")] {
        let [predictions, simulated, report, page] =
            ["predictions.csv", "simulated.csv", "report.json", "report.html"]
                .map(|name| folder.join(name));
        let common = ["infer", "--plan", text(plan), "--data", text(&fixture.data)];
        let encrypted = [
            "--server",
            &server.address,
            "--tls",
            text(&fixture.tls),
            "--replicas",
            replicas,
            "--out",
            text(&predictions),
            "--json",
            text(&report),
            "--report",
            text(&page),
        ];
        succeed(&[&common[..], &encrypted].concat());
        let simulate = ["--simulate", "--accept-unverified", "--out", text(&simulated)];
        succeed(&[&common[..], &simulate].concat());
        let predictions = fs::read_to_string(&predictions).unwrap();
        assert_eq!(predictions, fs::read_to_string(&simulated).unwrap());
        assert_eq!(predictions.lines().count(), 1 + N_TEST);
        let header = "index,prediction,score_0,score_1,score_2,out_of_calibration,label";
        assert_eq!(predictions.lines().next(), Some(header));

        let page = fs::read_to_string(&page).unwrap();
        let right = format!("of {N_TEST} right");
        for expected in
            ["data-verdict=\"Intact\"", "blobs.csv", "Receipts", "✓</span> passed", &right]
        {
            assert!(page.contains(expected), "{expected}");
        }
        let report = json(&report);
        for field in REPORT_FIELDS {
            let value = report.pointer(field).unwrap_or_else(|| panic!("no {field}"));
            let may_be_null = ["/soundness/reply_word_bits", "/peak_memory_bytes"].contains(&field);
            assert!(may_be_null || !value.is_null(), "{field} is null");
        }
        assert_eq!(report["samples"], N_TEST);
        assert_eq!(report["verdict"], "Intact");
        assert_eq!(report["matches_integer_network"], true);
        assert!(report["accuracy"].as_f64().unwrap() > 0.8);
        assert!(report["params"]["security_bits"].as_u64().unwrap() >= 128);
        assert_eq!(report["soundness"]["reply_word_bits"].is_null(), plan == &fixture.squares);
    }
}

#[test]
fn any_number_of_samples_runs_locally() {
    let fixture = fixture();
    for n in ["1", "23"] {
        let common = ["infer", "--plan", text(&fixture.squares), "--data", text(&fixture.data)];
        let finished = succeed(&[&common[..], &["--samples", n, "--local"]].concat());
        assert!(finished.stdout.contains("✓ Intact"), "{}", finished.stdout);
        assert!(finished.stdout.contains("every score equals"), "{}", finished.stdout);
    }
    // More than a batch, more than there are.
    let common = ["infer", "--plan", text(&fixture.linear), "--data", text(&fixture.large)];
    let finished = succeed(&[&common[..], &["--samples", "999999", "--split", "all"]].concat());
    assert!(finished.stdout.contains("has 6,000 samples only"), "{}", finished.stdout);
}

#[test]
fn a_simulation_is_unverified_unless_that_is_accepted() {
    let fixture = fixture();
    let folder = folder("simulation");
    let out = folder.join("predictions.csv");
    let arguments = [
        "infer",
        "--plan",
        text(&fixture.squares),
        "--data",
        text(&fixture.data),
        "--simulate",
        "--out",
        text(&out),
    ];
    let finished = run(&arguments);
    assert_eq!(finished.code, Some(2));
    assert!(finished.stdout.contains("? Unverified"), "{}", finished.stdout);
    assert!(!out.exists());
    succeed(&[&arguments[..], &["--accept-unverified"]].concat());
    assert!(out.exists());
}

#[test]
fn training_resumes_from_its_checkpoint_with_the_same_result() {
    let fixture = fixture();
    let folder = folder("resume");
    let [whole, resumed, checkpoint] =
        ["whole.model", "resumed.model", "run.ckpt"].map(|name| folder.join(name));
    let train = |out: &Path, extra: &[&str]| {
        let common = ["train", "--data", text(&fixture.data), "--network", "mlp"];
        let settings = ["--epochs", "4", "--seed", "9", "--out", text(out)];
        run(&[&common[..], &settings, extra].concat())
    };
    assert_eq!(train(&whole, &["--checkpoint", text(&checkpoint)]).code, Some(0));
    let finished = train(&resumed, &["--checkpoint", text(&checkpoint), "--resume"]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let facts = |path: &Path| {
        let finished = succeed(&["inspect", text(path), "--json"]);
        let mut facts: Value = serde_json::from_str(&finished.stdout).unwrap();
        facts["training"]["seconds"] = Value::Null;
        facts
    };
    assert_eq!(facts(&whole), facts(&resumed));
    let other = ["--checkpoint", text(&checkpoint), "--resume", "--epochs", "5"];
    let common = ["train", "--data", text(&fixture.data), "--network", "mlp", "--seed", "9"];
    let finished = run(&[&common[..], &other, &["--out", text(&resumed)]].concat());
    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("other settings"), "{}", finished.stderr);
}

#[test]
fn inspect_recognizes_models_and_plans() {
    let fixture = fixture();
    for (path, kind) in [(&fixture.model, "model"), (&fixture.linear, "plan")] {
        let finished = succeed(&["inspect", text(path), "--json"]);
        let report: Value = serde_json::from_str(&finished.stdout).unwrap();
        assert_eq!(report["kind"], kind);
        assert_eq!(report["classes"].as_array().unwrap().len(), 3);
        let finished = succeed(&["inspect", text(path)]);
        assert!(finished.stdout.contains("mlp-blobs"), "{}", finished.stdout);
        assert!(!finished.stdout.contains('\u{1b}'), "no colors outside a terminal");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = securedl(&["inspect", text(&fixture().squares)]).spawn().unwrap();
    drop(child.stdout.take());
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(0));
}
