//! The papers' tables of time and traffic at the smallest sizes. How long anything takes is no business
//! of a test: rows, bytes, rounds and what is said about them are.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::fixture::{Finished, folder, run, succeed, text};
use super::paper::{check_tables, data};

/// Samples of a batch with `--quick`.
const BATCH: u64 = 64;

/// One line of a CSV by the names of its columns.
type Row = BTreeMap<String, String>;

fn quick(experiment: &str, out: &Path, extra: &[&str]) -> Finished {
    let arguments = ["paper", experiment, "--data", text(data()), "--out", text(out), "--quick"];
    run(&[&arguments[..], extra].concat())
}

/// The rows of the CSV and the report of one table.
fn table(experiment: &str, out: &Path, extra: &[&str]) -> (Vec<Row>, String) {
    let arguments = ["paper", experiment, "--data", text(data()), "--out", text(out), "--quick"];
    succeed(&[&arguments[..], extra].concat());
    let read = |kind: &str| fs::read_to_string(out.join(format!("{experiment}.{kind}"))).unwrap();
    let report = read("md");
    check_tables(&report);
    let csv = read("csv");
    let mut lines = csv.lines().map(|line| line.split(',').map(str::to_owned));
    let head: Vec<String> = lines.next().unwrap().collect();
    let rows = lines.map(|cells| {
        let cells: Vec<String> = cells.collect();
        assert_eq!(cells.len(), head.len(), "{cells:?}");
        head.iter().cloned().zip(cells).collect()
    });
    (rows.collect(), report)
}

fn number(row: &Row, column: &str) -> f64 {
    row[column].parse().unwrap_or_else(|_| panic!("{column}: {row:?}"))
}

/// What holds for every encrypted batch.
fn check_batch(row: &Row, samples: u64) {
    assert_eq!(row["samples"], samples.to_string(), "{row:?}");
    assert_eq!(row["bytes"], row["forecast_bytes"], "{row:?}");
    let [up, down, all] = ["bytes_up", "bytes_down", "bytes"].map(|column| number(row, column));
    assert!(up > 0.0 && down > 0.0 && up + down == all, "{row:?}");
    for column in ["seconds", "client_seconds", "server_seconds"] {
        assert!(number(row, column) > 0.0, "{column}: {row:?}");
    }
    assert!(number(row, "refresh_seconds") <= number(row, "client_seconds"), "{row:?}");
    assert!((0.0..=1.0).contains(&number(row, "accuracy")), "{row:?}");
    let rounds = number(row, "rounds");
    assert_eq!(number(row, "refresh_messages"), 2.0 * (rounds - 1.0), "{row:?}");
    assert_eq!(number(row, "refresh_seconds") > 0.0, rounds > 1.0, "{row:?}");
}

/// `(network, mode, rounds)` of every row.
fn kinds(rows: &[Row]) -> Vec<(&str, &str, &str)> {
    rows.iter().map(|r| (r["network"].as_str(), r["mode"].as_str(), r["rounds"].as_str())).collect()
}

#[test]
fn table2_has_both_networks_and_sides_and_the_papers_figures() {
    let folder = folder("paper-table2");
    let (rows, report) = table("table2", &folder, &["--only", "wine"]);
    let expected = [
        ("securedl", "server", "4"),
        ("securedl", "client", "4"),
        ("mlp", "server", "3"),
        ("mlp", "client", "3"),
    ];
    assert_eq!(kinds(&rows), expected);
    for row in &rows {
        check_batch(row, BATCH);
        assert_eq!((row["data"].as_str(), row["method"].as_str()), ("wine", "SecureDL"));
    }
    let call = "securedl paper table2 --only wine --quick --seed 0";
    for expected in [call, "182.57", "116.26", " 14 ", "What differs from the paper"] {
        assert!(report.contains(expected), "`{expected}` in {report}");
    }
    assert!(!report.contains("181.23"), "only what was asked for");

    // What is kept is not measured again: the same times, to the last digit.
    let again = table("table2", &folder, &["--only", "wine"]);
    assert_eq!((&rows, &report), (&again.0, &again.1));
    // Kept results of another program are not taken for its own.
    let study = fs::read_dir(folder.join("study")).unwrap();
    let paths = study.map(|entry| entry.unwrap().path());
    let record = paths.filter(|path| text(path).ends_with(".json")).min().unwrap();
    let content = fs::read_to_string(&record).unwrap();
    fs::write(&record, content.replace("\"format\":1", "\"format\":77")).unwrap();
    let finished = quick("table2", &folder, &["--only", "wine"]);
    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("format 77"), "{}", finished.stderr);
    // Times of another machine are measured again.
    let elsewhere = content.replace("\"machine\":\"", "\"machine\":\"another ");
    assert_ne!(elsewhere, content);
    fs::write(&record, elsewhere).unwrap();
    let (rows, _) = table("table2", &folder, &["--only", "wine"]);
    assert_eq!(kinds(&rows), expected);
    assert!(!fs::read_to_string(&record).unwrap().contains("another"), "measured here");
}

#[test]
fn tables_10_to_12_have_one_more_round_per_convolution() {
    let (rows, report) = table("table10-12", &folder("paper-table10"), &["--only", "wine"]);
    let expected = [
        ("securedl + 1", "server", "5"),
        ("securedl + 1", "client", "5"),
        ("securedl + 2", "server", "6"),
        ("securedl + 2", "client", "6"),
        ("securedl + 3", "server", "7"),
        ("securedl + 3", "client", "7"),
    ];
    assert_eq!(kinds(&rows), expected);
    rows.iter().for_each(|row| check_batch(row, BATCH));
    for expected in ["Table 10: `securedl + 1`", "Table 12: `securedl + 3`", "not be recovered"] {
        assert!(report.contains(expected), "`{expected}` in {report}");
    }
}

#[test]
fn fig5_draws_both_sides_over_the_size_of_the_batch() {
    let folder = folder("paper-fig5");
    let (rows, report) = table("fig5", &folder, &[]);
    let sizes = [16, BATCH, 16, BATCH];
    assert_eq!(rows.len(), sizes.len());
    rows.iter().zip(sizes).for_each(|(row, size)| check_batch(row, size));
    let svg = fs::read_to_string(folder.join("fig5.svg")).unwrap();
    for expected in ["<svg", "activation at the client", "activation at the server", "seconds"] {
        assert!(svg.contains(expected), "{expected}");
    }
    assert!(report.contains("![Time over the size of the batch](fig5.svg)"), "{report}");
}

#[test]
fn table3_compares_three_methods_and_judges_the_targets() {
    let baseline = cfg!(feature = "secureml");
    let extra: &[&str] = if baseline { &[] } else { &["--without-secureml"] };
    let (rows, report) = table("table3", &folder("paper-table3"), extra);
    let (batches, shares) = rows.split_at(4);
    let expected = [
        ("mlp", "client", "3"),
        ("mlp", "server", "3"),
        ("mlp", "non-interactive", "1"),
        ("mlp", "non-interactive", "1"),
    ];
    assert_eq!(kinds(batches), expected);
    batches.iter().for_each(|row| check_batch(row, BATCH));
    for row in &batches[2..] {
        assert_eq!(row["method"], "CryptoNets");
        assert!((2.0..=5.0).contains(&number(row, "moduli")), "{row:?}");
    }
    let what = if baseline { 3 } else { 0 };
    assert_eq!(shares.len(), what);
    if let [weights, offline, online] = shares {
        // 16 bytes for every weight; for every value that enters a layer or a square, of every sample.
        let n_weights: u32 = 49 * 64 + 64 * 32 + 32 * 10;
        assert_eq!(number(weights, "bytes"), f64::from(16 * n_weights));
        let values: u32 = 49 + 64 + 64 + 32 + 32;
        assert_eq!(number(online, "bytes"), f64::from(16 * values * 64));
        assert!(number(offline, "bytes") > number(online, "bytes"), "{offline:?}");
        for row in shares {
            assert_eq!(row["bytes"], row["forecast_bytes"]);
            assert_eq!(row["samples"], BATCH.to_string());
        }
    }
    for expected in ["*SecureDL, published*", "*10648*", "*330.7*", "## Targets", "means nothing"] {
        assert!(report.contains(expected), "`{expected}` in {report}");
    }
    let judged = |what: &str| {
        let line = report.lines().find(|line| line.contains(what)).unwrap_or_default();
        line.ends_with("| met |") || line.ends_with("| **missed** |")
    };
    assert!(judged("MB of SecureDL, activation at the client"), "{report}");
    assert_eq!(judged("online phase / its formula"), baseline, "{report}");
}

#[test]
fn missing_data_and_a_missing_baseline_are_told() {
    let out = folder("paper-tables-bad");
    let finished = quick("table2", &out, &["--only", "crabs"]);
    assert_eq!(finished.code, Some(2));
    let told = ["the table needs the data set", "crabs.csv"];
    assert!(told.iter().all(|t| finished.stderr.contains(t)), "{}", finished.stderr);
    let finished = quick("table2", &out, &["--only", "iris"]);
    assert!(finished.stderr.contains("breast_tissue, crabs, ovarian"), "{}", finished.stderr);
    if !cfg!(feature = "secureml") {
        let finished = quick("table3", &out, &[]);
        assert_eq!(finished.code, Some(2));
        assert!(finished.stderr.contains("--features secureml"), "{}", finished.stderr);
    }
}
