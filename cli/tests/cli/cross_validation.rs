//! Cross-validation of small tables.

use std::fs;

use serde_json::Value;

use super::fixture::{blobs, folder, run, succeed, text};

#[test]
fn every_sample_is_held_out_once_and_classified_encrypted() {
    let data = folder("cross-validation").join("blobs.csv");
    fs::write(&data, blobs(60)).unwrap();
    let arguments = ["cross-validate", "--data", text(&data), "--network", "mlp", "--folds", "4"];
    for (activation, side) in [("square", "server"), ("relu", "client")] {
        let more = ["--epochs", "20", "--activation", activation, "--json", "-"];
        let said = succeed(&[&arguments[..], &more].concat());
        let report: Value = serde_json::from_str(&said.stdout).unwrap();
        let folds = report["folds"].as_array().unwrap();
        let of = |field: &str| folds.iter().map(|fold| fold[field].as_u64().unwrap()).sum::<u64>();
        assert_eq!((folds.len(), of("n_test"), of("n_train")), (4, 60, 180));
        assert_eq!(report["all_exact"], true);
        assert!(report["encrypted"]["mean"].as_f64().unwrap() > 0.9, "{report}");
        assert!(folds.iter().all(|fold| fold["activation"] == side), "{report}");
        assert!(said.stderr.contains("every run intact"), "{}", said.stderr);
    }
}

#[test]
fn folds_without_samples_are_one_error() {
    let data = folder("too-many-folds").join("blobs.csv");
    fs::write(&data, blobs(6)).unwrap();
    let refused =
        run(&["cross-validate", "--data", text(&data), "--network", "mlp", "--folds", "7"]);
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("number of folds"), "{}", refused.stderr);
}
