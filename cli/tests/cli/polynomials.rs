//! `approximate` and `polynomialize`: what they print, write and refuse.

use std::fs;

use serde_json::Value;

use super::fixture::{fixture, folder, run, succeed, text};

#[test]
fn fits_are_printed_written_and_drawn() {
    let folder = folder("approximate");
    let (report, picture) = (folder.join("fits.json"), folder.join("fits.svg"));
    let finished = succeed(&[
        "approximate",
        "--function",
        "relu",
        "--degree",
        "2",
        "--interval",
        "4",
        "--json",
        text(&report),
        "--svg",
        text(&picture),
    ]);
    for expected in [
        "legendre",
        "0.1172 x² + 0.5 x + 0.375",
        "minimax",
        "0.125 x² + 0.5 x + 0.25",
        "taylor cannot",
    ] {
        assert!(finished.stdout.contains(expected), "{expected}:\n{}", finished.stdout);
    }
    let report: Value = serde_json::from_str(&fs::read_to_string(&report).unwrap()).unwrap();
    let fits = report["subjects"][0]["fits"].as_array().unwrap();
    let fit = |name: &str| fits.iter().find(|fit| fit["method"] == name).unwrap();
    // ReLU under the weight 1 on [-4, 4]: 15/128 x² + x/2 + 3/8.
    assert!((fit("legendre")["monomials"][2].as_f64().unwrap() - 0.1171875).abs() < 1e-9);
    assert!((fit("minimax")["quality"]["max_error"].as_f64().unwrap() - 0.25).abs() < 1e-9);
    assert!(fit("taylor")["error"].as_str().unwrap().contains("corner"));
    assert_eq!(fits.len(), 12, "`observed` needs a model");
    assert!(fs::read_to_string(&picture).unwrap().starts_with("<svg"));
}

#[test]
fn a_model_and_a_table_give_interval_and_function() {
    let fixture = fixture();
    let folder = folder("approximate-model");
    let table = folder.join("f.csv");
    fs::write(&table, "x,y\n-100,0\n0,0\n100,100\n").unwrap();
    let finished = succeed(&[
        "approximate",
        "--function",
        "sampled",
        "--table",
        text(&table),
        "--interval",
        "auto",
        "--model",
        text(&fixture.model),
        "--data",
        text(&fixture.data),
        "--json",
    ]);
    let report: Value = serde_json::from_str(&finished.stdout).unwrap();
    let subjects = report["subjects"].as_array().unwrap();
    assert_eq!(subjects.len(), 2, "one per activation of the network");
    for subject in subjects {
        let l = subject["interval"][1].as_f64().unwrap();
        let reach = |field: &str| subject["observed"][field].as_f64().unwrap().abs();
        assert!(l > 0.0 && l <= reach("min").max(reach("max")));
        assert!(subject["fits"].as_array().unwrap().iter().any(|fit| fit["method"] == "observed"));
    }
}

#[test]
fn a_relu_model_becomes_one_that_a_server_can_evaluate() {
    let fixture = fixture();
    let folder = folder("polynomialize");
    let (relu, poly, plan) =
        (folder.join("relu.model"), folder.join("poly.model"), folder.join("poly.plan"));
    let (relu, poly, plan) = (text(&relu), text(&poly), text(&plan));
    let data = text(&fixture.data);
    let train = ["--network", "mlp", "--activation", "relu", "--epochs", "8", "--bits", "none"];
    succeed(&[&["train", "--data", data, "--out", relu], &train[..]].concat());
    let finished =
        succeed(&["polynomialize", relu, "--data", data, "--epochs", "6", "--out", poly]);
    for expected in ["Polynomials to start from", "Toward polynomials", "Replaced", "Integer"] {
        assert!(finished.stdout.contains(expected), "{expected}:\n{}", finished.stdout);
    }
    let side = ["--activation", "server", "--expected-samples", "24"];
    succeed(&[&["compile", poly, "--calibrate", data, "--out", plan], &side[..]].concat());
    let report = folder.join("report.json");
    let infer =
        ["infer", "--plan", plan, "--data", data, "--samples", "6", "--json", text(&report)];
    succeed(&infer);
    let report: Value = serde_json::from_str(&fs::read_to_string(&report).unwrap()).unwrap();
    assert_eq!(report["verdict"], "Intact");
    assert_eq!(report["matches_integer_network"], true);

    // There is nothing left to replace, and a second degree is the highest.
    let out = folder.join("none.model");
    for (arguments, expected) in [
        (
            &["polynomialize", poly, "--data", data, "--out", text(&out)] as &[&str],
            "has no activation but polynomials",
        ),
        (
            &["polynomialize", relu, "--data", data, "--out", text(&out), "--degree", "4"],
            "leave the activations to the client",
        ),
        (
            &["polynomialize", relu, "--data", data, "--out", text(&out), "--fit", "all"],
            "--fit takes one method",
        ),
    ] {
        let finished = run(arguments);
        assert_eq!(finished.code, Some(2));
        assert!(finished.stderr.contains(expected), "{expected}:\n{}", finished.stderr);
        assert!(!out.exists());
    }
}

#[test]
fn a_relu_model_is_fine_tuned_in_small_integers() {
    let fixture = fixture();
    let folder = folder("fine-tune");
    let (relu, tuned, plan) =
        (folder.join("relu.model"), folder.join("tuned.model"), folder.join("tuned.plan"));
    let (relu, tuned, plan) = (text(&relu), text(&tuned), text(&plan));
    let data = text(&fixture.data);
    let train = ["--network", "mlp", "--activation", "relu", "--epochs", "8", "--bits", "none"];
    succeed(&[&["train", "--data", data, "--out", relu], &train[..]].concat());
    let settings = ["--bits", "5/4/4", "--epochs", "3", "--out", tuned];
    let finished = succeed(&[&["fine-tune", relu, "--data", data], &settings[..]].concat());
    for expected in ["Fine-tuning at 5/4/4 bits: 3 epochs", "Float", "Rounded", "Integer"] {
        assert!(finished.stdout.contains(expected), "{expected}:\n{}", finished.stdout);
    }
    let finished = succeed(&["inspect", tuned, "--json"]);
    let model: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(model["bits"], "5/4/4");
    let compile = ["--expected-samples", "24", "--out", plan];
    let finished = succeed(&[&["compile", tuned, "--calibrate", data], &compile[..]].concat());
    assert!(finished.stdout.contains("at the client"), "{}", finished.stdout);

    let out = folder.join("none.model");
    let finished = run(&["fine-tune", relu, "--data", data, "--bits", "none", "--out", text(&out)]);
    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("--bits as input/weight/activation"), "{}", finished.stderr);
    assert!(!out.exists());
}

#[test]
fn a_compilation_is_reported() {
    let fixture = fixture();
    let folder = folder("compile-report");
    let (plan, report) = (folder.join("a.plan"), folder.join("a.json"));
    let (data, model) = (text(&fixture.data), text(&fixture.model));
    let base = ["compile", model, "--calibrate", data, "--expected-samples", "24"];
    let out = ["--out", text(&plan)];
    let more = ["--report", "--reference", model, "--json", text(&report)];
    let finished = succeed(&[&base[..], &out, &more].concat());
    for expected in [
        "Accuracy on 24 test samples",
        "reference (mlp-blobs, square activation)",
        "square, not rounded",
        "plan, as encrypted",
        "Ranges",
        "Grids",
        "Bits that nothing used",
    ] {
        assert!(finished.stdout.contains(expected), "{expected}:\n{}", finished.stdout);
    }
    let report: Value = serde_json::from_str(&fs::read_to_string(&report).unwrap()).unwrap();
    let accuracy = |form: &str| report["accuracy"][form].as_f64().unwrap();
    assert!(accuracy("plan") > 0.8 && accuracy("unrounded") > 0.8, "{report}");
    assert_eq!(accuracy("plan"), accuracy("integer"), "proven ranges change nothing");
    assert_eq!(report["search"], Value::Null);
    let stages = report["stages"].as_array().unwrap();
    assert_eq!(stages.len(), 3);
    for stage in stages {
        assert_eq!((&stage["evidence"], &stage["wrapped"]), (&"proven".into(), &0.into()));
        let share = stage["window_share"].as_f64().unwrap();
        assert!(share > 0.0 && share <= 1.0, "{stage}");
    }
    assert_eq!(stages[2]["refreshed"], Value::Null);
    assert!(fs::read(&plan).unwrap().starts_with(b"SDLPLAN"));
}

#[test]
fn cheaper_bits_are_searched_and_used() {
    let fixture = fixture();
    let folder = folder("compile-search");
    let plan = folder.join("a.plan");
    let (data, model) = (text(&fixture.data), text(&fixture.model));
    let base = ["compile", model, "--calibrate", data, "--expected-samples", "24"];
    let search = ["--target-drop", "2", "--json", "-", "--out", text(&plan)];
    let finished = succeed(&[&base[..], &search].concat());
    assert!(finished.stderr.contains("Bits that lose at most 2 points"), "{}", finished.stderr);
    let report: Value = serde_json::from_str(&finished.stdout).unwrap();
    let found = &report["search"];
    let lost = found["unrounded_accuracy"].as_f64().unwrap() - found["accuracy"].as_f64().unwrap();
    assert!(lost <= 0.02 + 1e-9, "{found}");
    let trials = found["trials"].as_array().unwrap();
    // The model is fine-tuned for 6/6/6 bits.
    assert_eq!(trials[0]["bits"], "6/6/6");
    assert!(trials.len() < found["candidates"].as_u64().unwrap() as usize / 4);
    let uniform = trials.iter().find(|trial| trial["bits"] == found["uniform_bits"]).unwrap();
    assert_eq!(
        (&uniform["result"], &uniform["bytes"]),
        (&"accepted".into(), &found["uniform_bytes"])
    );
    let single = found["layer_trials"].as_array().unwrap();
    assert!(!single.is_empty());
    let all = || trials.iter().chain(single);
    let chosen = all().find(|trial| trial["bits"] == report["bits"]).unwrap();
    assert_eq!((&chosen["result"], &chosen["bytes"]), (&"accepted".into(), &found["bytes"]));
    assert!(all().all(|trial| {
        trial["result"] != "accepted" || trial["bytes"].as_u64() >= found["bytes"].as_u64()
    }));
    assert!(found["bytes"].as_u64() <= trials[0]["bytes"].as_u64());

    let bits = ["--bits", "6/6,5,4/6,5", "--json", "-", "--out", text(&plan)];
    let finished = succeed(&[&base[..], &bits].concat());
    let report: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(report["bits"], "6/6,5,4/6,5");
    let widths = report["stages"].as_array().unwrap().iter().map(|of| &of["weights"]["bits"]);
    assert!(widths.eq([6, 5, 4].iter()));
    let infer = ["infer", "--plan", text(&plan), "--data", data, "--out"];
    succeed(&[&infer[..], &[text(&folder.join("a.csv"))]].concat());

    let unlabeled = folder.join("unlabeled.csv");
    fs::write(&unlabeled, "x,y,z\n0,2,0\n2,-1,0\n-2,-1,0\n1,1,1\n0,0,0\n").unwrap();
    for (arguments, expected) in [
        (&["--target-drop", "0.3", "--bits", "4/4/4"] as &[&str], "cannot be used with"),
        (&["--bits", "4/5,4/4"], "one for each linear layer"),
        (&["--bits", "4/4"], "one number per layer"),
        (&["--target-drop=-1"], "from 0 to below 100"),
        (&["--target-drop", "nan"], "from 0 to below 100"),
        (&["--report", "--calibrate", text(&unlabeled)], "no labels"),
        (&["--target-drop", "1", "--calibrate", text(&unlabeled)], "no labels"),
        (&["--reference", data], "not a model"),
        (&["--json", "/no/such/folder/a.json"], "there is no folder"),
    ] {
        let out = folder.join("none.plan");
        let calibrate: &[&str] =
            if arguments.contains(&"--calibrate") { &[] } else { &["--calibrate", data] };
        let finished =
            run(&[&["compile", model, "--out", text(&out)], calibrate, arguments].concat());
        assert_eq!(finished.code, Some(2), "{arguments:?}");
        assert!(finished.stderr.contains(expected), "{arguments:?}:\n{}", finished.stderr);
        assert!(!out.exists());
    }
}

#[test]
fn impossible_fits_are_one_error() {
    let folder = folder("approximate-bad");
    let table = folder.join("short.csv");
    fs::write(&table, "0,0\n1,1\n").unwrap();
    for (arguments, expected) in [
        (&["--interval", "auto"] as &[&str], "needs values to observe"),
        (&["--method", "observed"], "needs values to observe"),
        (&["--method", "taylor"], "a corner"),
        (&["--method", "remez"], "unknown method"),
        (&["--function", "sin"], "unknown function"),
        (&["--function", "sampled"], "needs the table"),
        (&["--table", text(&table)], "relu needs no table"),
        (&["--function", "sampled", "--table", text(&table)], "do not cover the interval"),
        (&["--function", "leaky-relu:inf"], "slope of the leaky ReLU"),
        (&["--interval", "-4"], "length of the interval"),
        (&["--interval", "nan"], "low end of the interval"),
        (&["--interval", "1,2,3"], "3 numbers"),
        (&["--degree", "9"], "9"),
        (&["--model", "m"], "--data"),
        (&["--svg", "/no/such/folder/a.svg"], "there is no folder"),
    ] {
        let finished = run(&[&["approximate"], arguments].concat());
        assert_eq!(finished.code, Some(2), "{arguments:?}");
        assert!(finished.stderr.contains(expected), "{arguments:?}:\n{}", finished.stderr);
        assert!(finished.stdout.is_empty(), "{arguments:?}");
    }
}
