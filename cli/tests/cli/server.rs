//! Servers that stop, die, and come back.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use super::fixture::{Served, fixture, folder, run, securedl, text, wait};

/// An encrypted run long enough to be interrupted: many batches of three rounds.
pub(crate) fn long_run(address: &str, patience: &str, out: &Path, more: &[&str]) -> Child {
    let fixture = fixture();
    let arguments = [
        "infer",
        "--plan",
        text(&fixture.squares),
        "--data",
        text(&fixture.large),
        "--split",
        "all",
        "--replicas",
        "8",
        "--server",
        address,
        "--tls",
        text(&fixture.tls),
        "--patience",
        patience,
        "--out",
        text(out),
    ];
    securedl(&[&arguments[..], more].concat()).spawn().unwrap()
}

/// Wait for the end of the first batch; others are still to come.
pub(crate) fn first_batch(client: &mut Child) -> impl Drop + use<> {
    struct Rest(Option<std::thread::JoinHandle<()>>);
    impl Drop for Rest {
        fn drop(&mut self) {
            self.0.take().unwrap().join().unwrap();
        }
    }
    let mut lines = BufReader::new(client.stderr.take().unwrap()).lines();
    let found = lines.find(|line| line.as_ref().unwrap().contains("batch 1 of "));
    assert!(found.is_some(), "the first batch ends");
    Rest(Some(std::thread::spawn(move || lines.for_each(drop))))
}

#[test]
fn a_server_that_dies_for_good_ends_the_run_without_output() {
    let fixture = fixture();
    let folder = folder("killed");
    let out = folder.join("predictions.csv");
    let server = Served::start(&fixture.plans, &fixture.tls, "127.0.0.1:0");
    let client = long_run(&server.address, "1", &out, &[]);
    // Anywhere in the run.
    std::thread::sleep(Duration::from_millis(700));
    server.kill();
    let finished = wait(client);
    assert_eq!(finished.code, Some(2), "{}", finished.stderr);
    assert!(finished.stderr.contains("error: "), "{}", finished.stderr);
    assert!(!finished.stderr.contains("panic"), "{}", finished.stderr);
    for entry in fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name();
        assert_eq!(name, "predictions.csv.journal", "finished batches at most are left behind");
    }
}

#[test]
fn a_server_that_comes_back_lets_the_run_finish() {
    let fixture = fixture();
    let folder = folder("restarted");
    let out = folder.join("predictions.csv");
    let server = Served::start(&fixture.plans, &fixture.tls, "127.0.0.1:0");
    let address = server.address.clone();
    let mut client = long_run(&address, "60", &out, &[]);
    let rest = first_batch(&mut client);
    server.kill();
    std::thread::sleep(Duration::from_millis(300));
    let _server = Served::start(&fixture.plans, &fixture.tls, &address);
    let status = client.wait().unwrap();
    drop(rest);
    assert_eq!(status.code(), Some(0));
    assert_eq!(fs::read_to_string(&out).unwrap().lines().count(), 6001);
}

#[test]
#[cfg(unix)]
fn a_server_that_is_asked_to_stop_ends_well() {
    let fixture = fixture();
    let server = Served::start(&fixture.plans, &fixture.tls, "127.0.0.1:0");
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn a_port_in_use_is_named() {
    let fixture = fixture();
    let server = Served::start(&fixture.plans, &fixture.tls, "127.0.0.1:0");
    let plans = text(&fixture.plans);
    let arguments = [
        "serve",
        "--plans",
        plans,
        "--listen",
        &server.address,
        "--tls",
        text(&fixture.tls),
        "--open",
    ];
    let finished = run(&arguments);
    assert_eq!(finished.code, Some(2));
    let expected = format!("cannot listen on {}: the port is in use", server.address);
    assert!(finished.stderr.contains(&expected), "{}", finished.stderr);
}
