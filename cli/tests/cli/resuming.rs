//! Long runs: formats, failover, interruption, and going on where it was.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::fixture::{N_TEST, Served, fixture, folder, run, succeed, text, wait};
use super::server::{first_batch, long_run};

fn infer_large(extra: &[&str]) -> Vec<String> {
    let fixture = fixture();
    let (plan, data) = (text(&fixture.squares), text(&fixture.large));
    let common =
        ["infer", "--plan", plan, "--data", data, "--split", "all", "--replicas", "8", "--local"];
    common.iter().chain(extra).map(|&text| text.to_owned()).collect()
}

fn run_large(extra: &[&str]) -> super::fixture::Finished {
    let arguments = infer_large(extra);
    run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

/// What an undisturbed run writes, by way of the integer network.
fn expected_csv(folder: &Path) -> String {
    let fixture = fixture();
    let out = folder.join("expected.csv");
    let (plan, data) = (text(&fixture.squares), text(&fixture.large));
    let run = ["infer", "--plan", plan, "--data", data, "--split", "all", "--simulate"];
    succeed(&[&run[..], &["--accept-unverified", "--out", text(&out)]].concat());
    let csv = fs::read_to_string(&out).unwrap();
    fs::remove_file(out).unwrap();
    csv
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn every_format_holds_the_same_scores() {
    let fixture = fixture();
    let folder = folder("formats");
    let write = |name: &str| -> PathBuf {
        let out = folder.join(name);
        let (plan, data) = (text(&fixture.linear), text(&fixture.data));
        succeed(&["infer", "--plan", plan, "--data", data, "--local", "--out", text(&out)]);
        out
    };
    let csv = fs::read_to_string(write("p.csv")).unwrap();
    let rows: Vec<Vec<i64>> = csv
        .lines()
        .skip(1)
        .map(|line| line.split(',').map(|cell| cell.parse().unwrap()).collect())
        .collect();
    assert_eq!(rows.len(), N_TEST);
    let lines = fs::read_to_string(write("p.jsonl")).unwrap();
    for (line, row) in lines.lines().zip(&rows) {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["index"], row[0]);
        assert_eq!(line["prediction"], row[1]);
        assert_eq!(line["scores"], Value::from(row[2..5].to_vec()));
        assert_eq!(line["out_of_calibration"], row[5] == 1);
        assert_eq!(line["label"], row[6]);
    }
    assert_eq!(lines.lines().count(), N_TEST);
    let npy = fs::read(write("p.npy")).unwrap();
    assert!(npy.starts_with(b"\x93NUMPY\x01\0") && npy.len() == 128 + N_TEST * 3 * 8);
    let scores: Vec<i64> =
        npy[128..].chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!(scores, rows.iter().flat_map(|row| row[2..5].to_vec()).collect::<Vec<_>>());
    assert_eq!(names(&folder), ["p.csv", "p.jsonl", "p.npy"], "no journal is left");
    let refused = run_large(&["--out", text(&folder.join("p.json"))]);
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("ends in .csv, .npy or .jsonl"), "{}", refused.stderr);
}

#[test]
#[cfg(unix)]
fn an_interrupted_run_leaves_nothing_half_written_and_goes_on_where_it_was() {
    let fixture = fixture();
    let folder = folder("interrupted");
    let out = folder.join("p.csv");
    let server = Served::start(&fixture.plans, &fixture.tls, "127.0.0.1:0");
    let mut client = long_run(&server.address, "60", &out, &[]);
    let rest = first_batch(&mut client);
    let pid = client.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    assert_eq!(client.wait().unwrap().code(), Some(2));
    drop(rest);
    assert_eq!(names(&folder), ["p.csv.journal"], "no part of a file, no evidence");
    let journal = out.with_file_name("p.csv.journal");
    let kept = fs::read(&journal).unwrap();

    // Not by accident, and not for another run.
    let cases: [(&[&str], &str); 4] = [
        (&[], "add --resume to go on with it"),
        (&["--resume", "--samples", "5999"], "`samples: 6000`, now `samples: 5999`"),
        (&["--resume", "--canaries", "17"], "`canaries: 16`, now `canaries: 17`"),
        (&["--resume", "--data", text(&fixture.data)], "`samples: 6000`, now `samples: 120`"),
    ];
    for (extra, expected) in cases {
        let refused = if extra.contains(&"--data") {
            let (plan, out) = (text(&fixture.squares), text(&out));
            let common = ["infer", "--plan", plan, "--split", "all", "--replicas", "8", "--local"];
            run(&[&common[..], extra, &["--out", out]].concat())
        } else {
            run_large(&[extra, &["--out", text(&out)]].concat())
        };
        assert_eq!(refused.code, Some(2), "{extra:?}");
        assert!(refused.stderr.contains(expected), "{extra:?}: {}", refused.stderr);
        assert_eq!(fs::read(&journal).unwrap(), kept, "{extra:?}: nothing was touched");
    }

    // A record that was cut off in the middle is run again.
    fs::write(&journal, &kept[..kept.len() - 5]).unwrap();
    let report = folder.join("report.json");
    let resumed = run_large(&["--resume", "--out", text(&out), "--json", text(&report)]);
    assert_eq!(resumed.code, Some(0), "{}", resumed.stderr);
    assert!(resumed.stdout.contains("the end of the journal was incomplete"), "{}", resumed.stdout);
    let report: Value = serde_json::from_str(&fs::read_to_string(&report).unwrap()).unwrap();
    assert_eq!(report["verdict"], "Intact");
    assert_eq!(report["matches_integer_network"], true);
    assert_eq!(report["samples"], 6000);
    assert_eq!(names(&folder), ["p.csv", "report.json"]);
    assert_eq!(fs::read_to_string(&out).unwrap(), expected_csv(&folder));
}

#[test]
fn data_that_changed_are_noticed_before_anything_is_resumed() {
    let fixture = fixture();
    let folder = folder("changed");
    let (out, data) = (folder.join("p.csv"), folder.join("data.csv"));
    fs::copy(&fixture.large, &data).unwrap();
    let server = Served::start(&fixture.plans, &fixture.tls, "127.0.0.1:0");
    let mut client = long_run(&server.address, "1", &out, &["--evidence", text(&folder.join("e"))]);
    let rest = first_batch(&mut client);
    server.kill();
    let code = client.wait().unwrap().code();
    drop(rest);
    assert_eq!(code, Some(2));
    let table = fs::read_to_string(&data).unwrap();
    // Another value in the first row.
    let (header, rows) = table.split_once('\n').unwrap();
    fs::write(&data, format!("{header}\n-0.9{}", &rows[rows.find(',').unwrap()..])).unwrap();
    let plan = text(&fixture.squares);
    let common = ["infer", "--plan", plan, "--data", text(&data), "--split", "all"];
    let resume = ["--replicas", "8", "--local", "--resume", "--out", text(&out)];
    let refused = run(&[&common[..], &resume].concat());
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("batch 1 of the journal"), "{}", refused.stderr);
    assert!(refused.stderr.contains("the data have changed"), "{}", refused.stderr);
}

#[test]
fn another_server_takes_over_from_one_that_dies() {
    let fixture = fixture();
    let folder = folder("failover");
    let out = folder.join("p.csv");
    let first = Served::start(&fixture.plans, &fixture.tls, "127.0.0.1:0");
    let second = Served::start(&fixture.plans, &fixture.tls, "127.0.0.1:0");
    let empty = folder.join("empty");
    fs::create_dir(&empty).unwrap();
    let other = folder.join("other-tls");
    succeed(&["tls", "init", text(&other)]);
    let stranger = Served::start(&fixture.plans, &other, "127.0.0.1:0");
    let addresses = format!("{},{},{}", first.address, stranger.address, second.address);
    let mut client = long_run(&addresses, "60", &out, &["--in-flight", "3"]);
    let rest = first_batch(&mut client);
    first.kill();
    let finished = client.wait_with_output().unwrap();
    drop(rest);
    let stdout = String::from_utf8(finished.stdout).unwrap();
    assert_eq!(finished.status.code(), Some(0), "{stdout}");
    assert!(stdout.contains(&format!("{} is left out", stranger.address)), "{stdout}");
    fs::remove_dir(empty).unwrap();
    assert_eq!(fs::read_to_string(&out).unwrap(), expected_csv(&folder));
}

#[test]
fn when_no_server_can_be_used_each_one_is_named() {
    let fixture = fixture();
    let folder = folder("nobody");
    let other = folder.join("other-tls");
    succeed(&["tls", "init", text(&other)]);
    let stranger = Served::start(&fixture.plans, &other, "127.0.0.1:0");
    let dead = Served::start(&fixture.plans, &fixture.tls, "127.0.0.1:0");
    let addresses = format!("{},{}", stranger.address, dead.address);
    let dead_address = dead.address.clone();
    dead.kill();
    let finished = wait(long_run(&addresses, "1", &folder.join("p.csv"), &[]));
    assert_eq!(finished.code, Some(2));
    for expected in ["no server can be used", &stranger.address, &dead_address, "cannot reach"] {
        assert!(finished.stderr.contains(expected), "{expected}: {}", finished.stderr);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_ends_the_run_with_a_clear_error_and_it_can_go_on() {
    let folder = folder("full-disk");
    let out = folder.join("p.csv");
    // Files of at most 32 KiB, with an error instead of a signal.
    let arguments = infer_large(&["--out", text(&out)]);
    let script = "trap '' XFSZ; ulimit -f 32; exec \"$@\"";
    let finished = wait(
        Command::new("bash")
            .args(["-c", script, "bash", env!("CARGO_BIN_EXE_securedl")])
            .args(&arguments)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap(),
    );
    assert_eq!(finished.code, Some(2), "{}", finished.stderr);
    for expected in ["cannot be stored", "p.csv.journal cannot be", "--resume to go on"] {
        assert!(finished.stderr.contains(expected), "{expected}: {}", finished.stderr);
    }
    assert_eq!(names(&folder), ["p.csv.journal"]);
    let resumed = run_large(&["--resume", "--out", text(&out)]);
    assert_eq!(resumed.code, Some(0), "{}", resumed.stderr);
    assert!(resumed.stdout.contains("batches are finished already"), "{}", resumed.stdout);
    assert_eq!(fs::read_to_string(&out).unwrap(), expected_csv(&folder));
}
