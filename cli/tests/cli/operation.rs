//! A server as its operator sees it: configuration, figures, reload, drain, files of `deploy/`.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::fixture::{Served, fixture, folder, run, succeed, text};

fn deploy(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name);
    fs::read_to_string(&path).unwrap_or_else(|_| panic!("{} is missing", path.display()))
}

/// Status line and body of an answer of the admin listener.
fn ask(port: u16, path: &str) -> (String, String) {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(socket, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

fn figure(port: u16, name: &str) -> Option<f64> {
    let (_, body) = ask(port, "/metrics");
    let line = body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.parse().ok()
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(60), "{what} never happened");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A configuration with a folder of plans of its own.
fn configured(folder: &Path) -> (PathBuf, PathBuf) {
    let plans = folder.join("plans");
    fs::create_dir(&plans).unwrap();
    fs::copy(&fixture().linear, plans.join("linear.plan")).unwrap();
    let config = folder.join("server.toml");
    let tls = text(&fixture().tls);
    let settings = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nplans = \"plans\"\ntls = \"{tls}\"\n\
         reload = \"50ms\"\n[access]\nopen = true\n[admin]\nlisten = \"127.0.0.1:0\"\n"
    );
    fs::write(&config, settings).unwrap();
    (config, plans)
}

fn infer(address: &str, plan: &Path) -> super::fixture::Finished {
    run(&super::fixture::infer(plan, address, &[]))
}

#[test]
fn plans_come_and_go_while_the_server_runs() {
    let folder = folder("reload");
    let (config, plans) = configured(&folder);
    let server = Served::with(&["serve", "--config", text(&config)]);
    let port = server.admin.unwrap();
    assert_eq!(ask(port, "/readyz").1, "ready\n");
    assert_eq!(figure(port, "securedl_plans_loaded"), Some(1.0));
    assert_eq!(infer(&server.address, &fixture().linear).code, Some(0));

    fs::copy(&fixture().squares, plans.join("squares.plan")).unwrap();
    eventually("the new plan", || figure(port, "securedl_plans_loaded") == Some(2.0));
    assert_eq!(infer(&server.address, &fixture().squares).code, Some(0));

    fs::write(plans.join("squares.plan"), b"half a file").unwrap();
    eventually("the broken file", || figure(port, "securedl_plan_files_broken") == Some(1.0));
    assert_eq!(infer(&server.address, &fixture().squares).code, Some(0), "the old one stays");

    fs::remove_file(plans.join("squares.plan")).unwrap();
    eventually("the removal", || figure(port, "securedl_plans_loaded") == Some(1.0));
    let gone = infer(&server.address, &fixture().squares);
    assert!(gone.stderr.contains("does not hold the plan"), "{}", gone.stderr);

    // A file that never was a plan is forgotten with it.
    fs::write(plans.join("other.plan"), b"half a file").unwrap();
    eventually("the other one", || figure(port, "securedl_plan_files_broken") == Some(1.0));
    fs::remove_file(plans.join("other.plan")).unwrap();
    eventually("its end", || figure(port, "securedl_plan_files_broken") == Some(0.0));

    fs::remove_file(plans.join("linear.plan")).unwrap();
    eventually("the last removal", || figure(port, "securedl_plans_loaded") == Some(0.0));
    let (status, reason) = ask(port, "/readyz");
    assert!(status.contains("503") && reason.contains("no plan"), "{status} {reason}");
    assert!(ask(port, "/healthz").0.contains("200"));
}

#[test]
fn a_half_copied_plan_keeps_no_server_from_starting() {
    let folder = folder("half");
    let (config, plans) = configured(&folder);
    fs::write(plans.join("half.plan"), b"half a file").unwrap();
    let server = Served::with(&["serve", "--config", text(&config)]);
    let port = server.admin.unwrap();
    assert_eq!(figure(port, "securedl_plans_loaded"), Some(1.0));
    assert_eq!(figure(port, "securedl_plan_files_broken"), Some(1.0));
    assert_eq!(infer(&server.address, &fixture().linear).code, Some(0));
    drop(server);

    // With none that is good there is nothing to serve.
    fs::remove_file(plans.join("linear.plan")).unwrap();
    let finished = run(&["serve", "--config", text(&config)]);
    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("half.plan"), "{}", finished.stderr);
}

#[test]
fn the_printed_configuration_starts_a_server_and_mistakes_are_told() {
    let folder = folder("configuration");
    let (config, _) = configured(&folder);
    let printed = succeed(&["serve", "--config", text(&config), "--print-config"]).stdout;
    fs::write(&config, &printed).unwrap();
    drop(Served::with(&["serve", "--config", text(&config)]));
    let again = succeed(&["serve", "--config", text(&config), "--print-config"]).stdout;
    assert_eq!(again, printed);

    let cases = [
        ("[limits]\nmemory = \"lots\"\n", "line 2: limits.memory = \"lots\" is not a size"),
        ("[limits]\nmemroy = 1\n", "line 2: [limits] has no key `memroy`"),
        ("[admin]\nlisten = \"0.0.0.0:0\"\n[access]\nopen = true\n", "is not loopback"),
        ("[access]\nopen = true\nfile = \"x\"\n", "contradict each other"),
        ("[limits]\nconnections = 1000\nmemory = \"1MiB\"\n", "max_memory_bytes"),
        ("", "nothing says who may enter"),
    ];
    for (text_of_file, expected) in cases {
        fs::write(&config, text_of_file).unwrap();
        let (plans, tls) = (text(&fixture().plans), text(&fixture().tls));
        let finished = run(&["serve", "--config", text(&config), "--plans", plans, "--tls", tls]);
        assert_eq!(finished.code, Some(2), "{text_of_file}");
        assert!(finished.stderr.contains(expected), "{text_of_file}\n{}", finished.stderr);
    }
    let missing = run(&["serve", "--config", "/nonexistent/server.toml"]);
    assert!(missing.stderr.contains("/nonexistent/server.toml"), "{}", missing.stderr);
    let unknown = run(&["serve", "--set", "limits.memroy=1"]);
    assert!(unknown.stderr.contains("limits.memroy=1"), "{}", unknown.stderr);
}

#[test]
fn files_for_deployment_name_existing_flags_and_parse() {
    let example = folder("deployed").join("server.toml");
    fs::write(&example, deploy("server.toml")).unwrap();
    let printed = succeed(&["serve", "--config", text(&example), "--print-config"]).stdout;
    for line in ["memory = \"12GiB\"", "format = \"json\"", "drain = \"90s\"", "connections = 1000"]
    {
        assert!(printed.lines().any(|found| found == line), "{line}\n{printed}");
    }

    // Whatever a file runs, this program knows.
    let unit = deploy("securedl.service");
    let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let container = deploy("Containerfile");
    let last = container.lines().find_map(|line| line.strip_prefix("CMD ")).unwrap();
    let last: Vec<String> = serde_json::from_str(last).unwrap();
    let unit: Vec<String> = command.split_whitespace().skip(1).map(str::to_owned).collect();
    for arguments in [unit, last] {
        assert_eq!(arguments[0], "serve");
        let mut known = arguments;
        let config = known.iter().position(|word| word == "--config").unwrap();
        assert_eq!(known[config + 1], "/etc/securedl/server.toml");
        text(&example).clone_into(&mut known[config + 1]);
        known.push("--print-config".to_owned());
        succeed(&known.iter().map(String::as_str).collect::<Vec<_>>());
    }

    // And whatever figure they read, it has.
    let folder = folder("figures");
    let (config, _) = configured(&folder);
    let server = Served::with(&["serve", "--config", text(&config)]);
    let port = server.admin.unwrap();
    assert_eq!(infer(&server.address, &fixture().linear).code, Some(0));
    let (_, figures) = ask(port, "/metrics");
    let rules = deploy("securedl.rules.yml");
    let mut named = rules.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let mut count = 0;
    while let Some(name) = named.find(|word| word.starts_with("securedl_")) {
        assert!(figures.contains(&format!("\n{name}")), "{name} is no figure\n{figures}");
        count += 1;
    }
    assert!(count >= 5, "{count} figures");
    assert!(deploy("prometheus.yml").contains("securedl.rules.yml"));
}

/// The value of a line `key = value` or `key=value`, without quotation marks.
fn value(text: &str, key: &str) -> String {
    let of_line = |line: &str| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == key).then(|| value.trim().trim_matches('"').to_owned())
    };
    text.lines().find_map(of_line).unwrap_or_else(|| panic!("{key} is missing in\n{text}"))
}

#[test]
fn unit_container_and_configuration_agree() {
    let example = folder("agreed").join("server.toml");
    fs::write(&example, deploy("server.toml")).unwrap();
    let config = succeed(&["serve", "--config", text(&example), "--print-config"]).stdout;
    let (unit, container) = (deploy("securedl.service"), deploy("Containerfile"));

    // Whoever stops it waits longer than it drains.
    let drain: u64 = value(&config, "drain").strip_suffix('s').unwrap().parse().unwrap();
    let unit_stop: u64 = value(&unit, "TimeoutStopSec").parse().unwrap();
    let (_, container_stop) = container.split_once("--stop-timeout=").unwrap();
    let container_stop: u64 = container_stop.split_whitespace().next().unwrap().parse().unwrap();
    for stop in [unit_stop, container_stop] {
        assert!(stop >= drain + 10, "{stop} s for a drain of {drain} s");
    }
    assert!(container.contains("\nSTOPSIGNAL SIGTERM\n"));
    assert_eq!(value(&unit, "KillSignal"), "SIGTERM");

    // What it writes may be written, and what it reads may not.
    let audit = value(&config, "audit");
    assert_eq!(Path::new(&audit).parent(), Some(Path::new("/var/log/securedl")));
    assert_eq!(value(&unit, "LogsDirectory"), "securedl");
    assert_eq!(value(&unit, "StateDirectory"), "securedl");
    assert_eq!(value(&unit, "ReadOnlyPaths"), "/etc/securedl");
    for volume in ["/etc/securedl:ro", "/var/log/securedl:U", "/var/lib/securedl:U"] {
        assert!(container.contains(&format!(":{volume}")), "{volume}");
    }
    let commented = deploy("server.toml");
    assert!(commented.contains("mask_key = \"/var/lib/securedl/"), "made where it may be written");

    // Memory, files and ports fit.
    let gigabytes =
        |text: &str, unit: &str| -> u64 { text.strip_suffix(unit).unwrap().parse().unwrap() };
    let memory = gigabytes(&value(&config, "memory"), "GiB");
    assert!(gigabytes(&value(&unit, "MemoryMax"), "G") > memory);
    assert!(container.contains(&format!("--memory={}g", memory + 2)));
    let files: u64 = value(&unit, "LimitNOFILE").parse().unwrap();
    assert!(files > value(&config, "connections").parse::<u64>().unwrap() + 128);
    assert!(container.contains(&format!("nofile={files}")));
    assert!(container.contains("\nEXPOSE 7443 9464\n"));
    for listen in ["listen = \"0.0.0.0:7443\"", "listen = \"127.0.0.1:9464\""] {
        assert!(config.lines().any(|line| line == listen), "{listen}\n{config}");
    }
    assert!(deploy("prometheus.yml").contains("127.0.0.1:9464"));
    assert_eq!(
        (value(&unit, "User"), value(&unit, "Group")),
        ("securedl".into(), "securedl".into())
    );
    assert!(container.contains("\nUSER 65532:65532\n") && container.contains("user 65532"));
}

#[test]
#[cfg(unix)]
fn logs_can_be_objects_with_the_ids_of_requests() {
    let folder = folder("json-logs");
    let (config, _) = configured(&folder);
    let log = folder.join("log");
    let file = fs::File::create(&log).unwrap();
    let arguments = ["serve", "--config", text(&config), "--log-format", "json"];
    let server = Served::logging(&arguments, file.into());
    assert_eq!(infer(&server.address, &fixture().linear).code, Some(0));
    assert_eq!(server.terminate(), Some(0));
    let log = fs::read_to_string(&log).unwrap();
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
        .collect();
    let evaluated = lines.iter().find(|line| line["message"] == "evaluated").expect("a request");
    assert_eq!(evaluated["request"].as_str().map(str::len), Some(32), "{evaluated}");
    assert!(
        evaluated["span"]["id"].is_u64() && evaluated["span"]["peer"].is_string(),
        "{evaluated}"
    );
    assert!(lines.iter().any(|line| line["message"] == "shutting down"), "{log}");
}

#[test]
#[cfg(unix)]
fn the_load_harness_holds_at_small_scale() {
    let finished = succeed(&[
        "bench",
        "load",
        "--connections",
        "40",
        "--clients",
        "6",
        "--seconds",
        "2",
        "--samples",
        "8",
        "--memory",
        "1GiB",
        // Other tests run beside it.
        "--health-ms",
        "5000",
        "--json",
        "-",
    ]);
    let report: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(report["connections"], 40);
    assert!(report["batches"]["right"].as_u64().unwrap() >= 6, "{report}");
    for count in ["wrong", "rejected", "failed", "unfinished"] {
        assert_eq!(report["batches"][count], 0, "{report}");
    }
    assert_eq!(report["panics"], 0);
    assert!(report["health"]["answers"].as_u64().unwrap() > 0);
}

#[test]
#[cfg(unix)]
fn the_fault_harness_finds_nothing_wrong_at_small_scale() {
    let finished = succeed(&[
        "bench",
        "faults",
        "--batches",
        "6",
        "--faults",
        "18",
        "--samples",
        "8",
        "--json",
        "-",
    ]);
    let report: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!((&report["batches_right"], &report["batches_lost"]), (&6.into(), &0.into()));
    let faults = report["faults"].as_object().unwrap();
    let sum = |field: &str| faults.values().map(|ends| ends[field].as_u64().unwrap()).sum::<u64>();
    assert_eq!((sum("injected"), sum("wrong")), (18, 0), "{report}");
    assert_eq!(faults["word altered and signed by the server"]["verdicts"], 1);
}
