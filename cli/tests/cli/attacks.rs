//! `securedl attack`: every kind leaves a model that other commands take, and an honest report.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::fixture::{fixture, folder, run, succeed, text};

const KINDS: [&str; 17] = [
    "trojan",
    "trojan-matched",
    "adaptive",
    "error-generic",
    "error-specific",
    "precision",
    "quantize",
    "prune",
    "low-rank",
    "arbitrary-weights",
    "noise",
    "fine-tune-last",
    "fine-tune-all",
    "single-weight",
    "bit-flip",
    "quantized-bit-flip",
    "distill",
];

/// Fields every report has.
const FIELDS: [&str; 16] = [
    "/model",
    "/data",
    "/training_samples",
    "/test_samples",
    "/seed",
    "/kind",
    "/strength",
    "/strength_meaning",
    "/clean_accuracy_before",
    "/clean_accuracy_after",
    "/changed_weights",
    "/n_weights",
    "/largest_change",
    "/success/rate",
    "/success/target_rate",
    "/success/worked",
];

fn attack(kind: &str, out: &Path, extra: &[&str]) -> (Value, String) {
    let fixture = fixture();
    let (model, data) = (text(&fixture.model), text(&fixture.data));
    let report = out.with_extension("json");
    let arguments =
        ["attack", kind, model, "--data", data, "--out", text(out), "--json", text(&report)];
    let finished = succeed(&[&arguments[..], extra].concat());
    (serde_json::from_str(&fs::read_to_string(report).unwrap()).unwrap(), finished.stdout)
}

#[test]
fn every_kind_leaves_a_model_and_a_report() {
    let folder = folder("attack-kinds");
    let data = text(&fixture().data);
    for kind in KINDS {
        let out = folder.join(format!("{kind}.model"));
        let extra: &[&str] = match kind {
            "adaptive" => &["--target", "1", "--epochs", "5"],
            "trojan" | "trojan-matched" => &["--epochs", "5", "--samples", "60"],
            "single-weight" => &["--seed", "9"],
            _ => &[],
        };
        let (report, said) = attack(kind, &out, extra);
        for field in FIELDS {
            assert!(report.pointer(field).is_some_and(|v| !v.is_null()), "{kind}: {field}");
        }
        assert_eq!(report["kind"], kind);
        assert!(said.contains("accuracy on clean samples") && said.contains("Worked"), "{said}");
        let worked = report["success"]["worked"].as_bool().unwrap();
        assert_eq!(said.contains("neither as detected nor as missed"), !worked, "{said}");
        assert_eq!(report["kept_samples"].is_number(), kind == "adaptive");
        assert_eq!(report["sensitive_samples"].as_u64(), (kind == "adaptive").then_some(200));
        assert!(succeed(&["inspect", text(&out)]).stdout.contains("mlp-blobs"));
    }
    // What an attacker leaves can take the model's place in a plan.
    let (model, plan) = (folder.join("prune.model"), folder.join("pruned.plan"));
    succeed(&["compile", text(&model), "--calibrate", data, "--out", text(&plan)]);
}

#[test]
fn the_seed_decides_and_the_original_stays() {
    let folder = folder("attack-seed");
    let before = fs::read(&fixture().model).unwrap();
    let bytes = |name: &str, seed: &str| {
        let out = folder.join(name);
        attack("error-specific", &out, &["--seed", seed, "--source", "2", "--target", "0"]);
        fs::read(out).unwrap()
    };
    let first = bytes("first", "4");
    assert_eq!(first, bytes("again", "4"));
    assert_ne!(first, bytes("other", "5"));
    assert_eq!(before, fs::read(&fixture().model).unwrap());
}

#[test]
fn the_adaptive_attacker_makes_samples_or_takes_given_ones() {
    let folder = folder("attack-adaptive");
    let data = text(&fixture().data);
    let model = |name: &str, extra: &[&str]| {
        let out = folder.join(name);
        let (report, _) = attack("adaptive", &out, &[&["--epochs", "2"], extra].concat());
        (fs::read(out).unwrap(), report["sensitive_samples"].as_u64())
    };
    let (default, n_own) = model("tie", &[]);
    let (given, n_given) = model("given", &["--sensitive", data]);
    assert_eq!((n_own, n_given), (Some(200), Some(120)));
    assert_eq!(default, model("named", &["--generator", "tie"]).0);
    let other = model("other", &["--generator", "boundary-entropy"]).0;
    assert!(default != other && default != given && other != given, "the samples matter");

    let refused = |kind: &str, extra: &[&str], expected: &str| {
        let (model, out) = (text(&fixture().model), folder.join("refused"));
        let arguments = ["attack", kind, model, "--data", data, "--out", text(&out)];
        let finished = run(&[&arguments[..], extra].concat());
        assert_eq!(finished.code, Some(2), "{}", finished.stdout);
        assert!(finished.stderr.contains(expected), "`{expected}` in {}", finished.stderr);
        assert!(!out.exists());
    };
    refused("trojan", &["--generator", "tie"], "--generator means nothing");
    refused("adaptive", &["--generator", "tie", "--sensitive", data], "cannot be used with");
    refused("adaptive", &["--strength", "7"], "0.001 to 0.9");
}

#[test]
fn poisoning_hits_the_class_it_aims_at() {
    let folder = folder("attack-poison");
    let extra = ["--source", "2", "--target", "0", "--epochs", "40"];
    let (report, _) = attack("error-specific", &folder.join("m"), &extra);
    assert_eq!(report["success"]["name"], "redirected-samples");
    assert_eq!(report["success"]["worked"], true, "{report}");
    assert_eq!(report["success"]["rate"], 1.0);
    assert!(report["clean_accuracy_after"].as_f64().unwrap() < 0.7, "a third of the samples");
}
