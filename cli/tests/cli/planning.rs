//! Compiling for a goal: the table, the limits, what a run then costs.

use std::fs;

use nn_poly::plan::{Plan, RunSize, forecast_run};
use serde_json::Value;

use crate::fixture::{fixture, folder, run, succeed, text};

/// Compile the fixture's model with these flags; the report.
fn compiled(name: &str, extra: &[&str]) -> (Value, std::path::PathBuf, String) {
    let folder = folder(name);
    let (plan, report) = (folder.join("a.plan"), folder.join("a.json"));
    let (data, model) = (text(&fixture().data), text(&fixture().model));
    let base = ["compile", model, "--calibrate", data, "--out", text(&plan)];
    let json = ["--json", text(&report)];
    let finished = succeed(&[&base[..], &json, extra].concat());
    let report = serde_json::from_str(&fs::read_to_string(report).unwrap()).unwrap();
    (report, plan, finished.stdout)
}

#[test]
fn alternatives_are_shown_and_the_best_is_written() {
    let (report, plan, said) = compiled("plan-table", &["--expected-samples", "24"]);
    for expected in ["Plans for 24 samples, over 1 Gbit/s", "chosen", "measured on this machine"] {
        assert!(said.contains(expected), "{expected}:\n{said}");
    }
    let planning = &report["planning"];
    assert_eq!(planning["measured"], true);
    let alternatives = planning["alternatives"].as_array().unwrap();
    assert!(alternatives.len() >= 2, "{planning}");
    let totals: Vec<f64> =
        alternatives.iter().map(|a| a["seconds"]["total"].as_f64().unwrap()).collect();
    assert!(totals.is_sorted() && totals[0] > 0.0, "{totals:?}");
    assert_eq!(alternatives[0]["chosen"], true);
    let sides: Vec<_> = alternatives.iter().map(|a| a["activation"].as_str().unwrap()).collect();
    assert!(sides.contains(&"server") && sides.contains(&"client"), "{sides:?}");

    let inspected = succeed(&["inspect", text(&plan), "--json"]).stdout;
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected["activation"], alternatives[0]["activation"]);
    let again = &inspected["planning"]["alternatives"][0];
    for field in ["rounds", "bytes_up", "bytes_down", "segments", "client_memory_bytes"] {
        assert_eq!(again[field], alternatives[0][field], "{field}");
    }
    assert!(succeed(&["inspect", text(&plan)]).stdout.contains("by stored rates"));
}

#[test]
fn bytes_and_rounds_of_a_run_are_those_of_the_forecast() {
    let large = text(&fixture().large);
    for (name, samples, extra) in [
        ("plan-exact-bytes", "1200", &["--objective", "bytes"] as &[&str]),
        ("plan-exact-server", "24", &["--activation", "server"]),
        ("plan-exact-memory", "1200", &["--memory", "30MB", "--activation", "client"]),
    ] {
        let quick = ["--no-self-test", "--link", "local", "--expected-samples", samples];
        let (report, plan, said) = compiled(name, &[&quick[..], extra].concat());
        assert!(said.contains("stored rates"), "{said}");
        let chosen = &report["planning"]["alternatives"][0];
        assert_eq!(chosen["seconds"]["link"], Value::Null);
        let out = ["--samples", samples, "--local", "--json", "-"];
        let infer = ["infer", "--plan", text(&plan), "--data", large];
        let ran = succeed(&[&infer[..], &out].concat());
        let ran: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(ran["samples"].to_string(), samples);
        assert_eq!(ran["matches_integer_network"], true);
        for field in ["rounds", "bytes_up", "bytes_down"] {
            assert_eq!(ran[field], chosen[field], "{name}: {field}");
        }
    }
}

#[test]
fn a_run_of_several_batches_is_forecast_too() {
    let large = text(&fixture().large);
    let size = RunSize { n_samples: 6000, canaries_per_block: 18, replicas: 1 };
    for path in [&fixture().linear, &fixture().squares] {
        let plan = Plan::load(path).unwrap();
        let cost = forecast_run(plan.public(), &size).unwrap();
        assert!(cost.rounds > 3, "several batches");
        let infer = ["infer", "--plan", text(path), "--data", large, "--split", "all"];
        let ran = succeed(&[&infer[..], &["--local", "--json", "-"]].concat());
        let ran: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(ran["rounds"], cost.rounds);
        assert_eq!(ran["bytes_up"], cost.bytes_up);
        assert_eq!(ran["bytes_down"], cost.bytes_down);
    }
}

#[test]
fn fewer_rounds_than_layers_run_encrypted() {
    let (data, model) = (text(&fixture().data), text(&fixture().model));
    for (name, rounds, arguments) in [
        ("two", 2, &["--rounds", "2", "--activation", "server"] as &[&str]),
        ("client", 2, &["--rounds", "2", "--activation", "client"]),
        ("one", 1, &["--rounds", "0", "--activation", "server"]),
        ("fewest", 1, &["--objective", "rounds"]),
        ("growing", 1, &["--rounds", "0", "--relinearize", "never"]),
        ("key", 1, &["--rounds", "0", "--relinearize", "always"]),
    ] {
        let plan = folder(&format!("plan-rounds-{name}")).join("joined.plan");
        let base = ["compile", model, "--calibrate", data, "--no-self-test", "--bits", "4/5/5"];
        let out = ["--expected-samples", "24", "--out", text(&plan), "--json", "-"];
        let compiled = succeed(&[&base[..], arguments, &out].concat());
        let report: Value = serde_json::from_str(&compiled.stdout).unwrap();
        assert!(compiled.stderr.contains("answers as the network before"), "{}", compiled.stderr);
        let ways = report["planning"]["alternatives"].as_array().unwrap();
        if rounds == 1 {
            // Both sides have the same plans, which are shown once.
            let kind = |way: &Value| (way["relinearized"].clone(), way["batch_samples"].clone());
            let n_equal = ways.iter().filter(|way| kind(way) == kind(&ways[0])).count();
            assert_eq!(n_equal, 1, "{name}: {ways:?}");
        }
        let chosen = &ways[0];
        assert_eq!(chosen["rounds"], rounds, "{name}");
        if ["growing", "key"].contains(&name) {
            assert_eq!(chosen["relinearized"], name == "key");
            // Whoever gets a key is told, and how to do without.
            assert_eq!(compiled.stderr.contains("--relinearize never"), name == "key");
        }
        let infer = ["infer", "--plan", text(&plan), "--data", data, "--local", "--json", "-"];
        let ran: Value = serde_json::from_str(&succeed(&infer).stdout).unwrap();
        assert_eq!(ran["matches_integer_network"], true, "{name}");
        for field in ["rounds", "bytes_up", "bytes_down"] {
            assert_eq!(ran[field], chosen[field], "{name}: {field}");
        }
        let accuracy = ran["accuracy"].as_f64().unwrap();
        assert!(accuracy > 0.8, "{name}: {accuracy}");
    }
}

#[test]
fn a_relu_cannot_be_joined() {
    let folder = folder("plan-relu");
    let (data, model) = (text(&fixture().data), folder.join("relu.model"));
    let (model, out) = (text(&model), folder.join("none.plan"));
    let train = ["train", "--data", data, "--network", "mlp", "--activation", "relu"];
    succeed(&[&train[..], &["--epochs", "1", "--out", model]].concat());
    let base = ["compile", model, "--calibrate", data, "--no-self-test", "--rounds", "2"];
    let finished = run(&[&base[..], &["--out", text(&out)]].concat());
    assert_eq!(finished.code, Some(2), "{}", finished.stdout);
    let said = finished.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains("takes 3 rounds"), "{said}");
}

#[test]
fn limits_that_nothing_keeps_are_named() {
    let (data, model) = (text(&fixture().data), text(&fixture().model));
    let out = folder("plan-refused").join("none.plan");
    for (arguments, expected) in [
        (&["--memory", "10kB"] as &[&str], "no plan keeps within 10000 bytes"),
        (&["--link", "1GBps"], "rates are in bits"),
        (&["--link", "1000"], "has no unit"),
        (&["--latency", "5"], "has no unit"),
        (&["--memory", "4G"], "has the unit `G`"),
        (&["--rounds=-1"], "invalid value '-1'"),
        (&["--rounds", "0", "--bits", "12/12/12"], "more than 120 bits"),
        (&["--link", "local", "--server-cores", "8"], "leave out --server-cores"),
        (&["--proven", "--calibrated"], "cannot be used with"),
        (&["--objective", "money"], "possible values"),
        (&["--relinearize", "always"], "say --rounds"),
    ] {
        let base = ["compile", model, "--calibrate", data, "--no-self-test", "--out", text(&out)];
        let finished = run(&[&base[..], arguments].concat());
        assert_eq!(finished.code, Some(2), "{arguments:?}: {}", finished.stdout);
        let said = finished.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains(expected), "`{expected}` in {said}");
        assert!(!out.exists());
    }
}
