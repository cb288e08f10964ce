//! A data owner who must not learn the model: compile, serve and infer with the trust setting masked.

use std::fs;
use std::path::{Path, PathBuf};

use super::fixture::{N_TEST, Served, fixture, folder, run, succeed, text};

/// The three files that `compile --trust masked` writes.
struct Masked {
    plans: PathBuf,
    public: PathBuf,
    pack: PathBuf,
}

fn compile(folder: &Path) -> Masked {
    let fixture = fixture();
    let plans = folder.join("plans");
    fs::create_dir(&plans).unwrap();
    let plan = plans.join("blobs.plan");
    let model = text(&fixture.model);
    let finished = succeed(&[
        "compile",
        model,
        "--calibrate",
        text(&fixture.data),
        "--trust",
        "masked",
        "--expected-samples",
        "24",
        "--pack-canaries",
        "20",
        "--out",
        text(&plan),
    ]);
    for expected in
        ["masked (the client owns the data", "40 beyond the proven range", "one unit high"]
    {
        assert!(finished.stdout.contains(expected), "{expected}: {}", finished.stdout);
    }
    let beside = |suffix: &str| plans.join(format!("blobs.plan{suffix}"));
    let masked = Masked { public: beside(".public"), pack: beside(".pack"), plans };
    assert!(masked.public.exists() && masked.pack.exists());
    masked
}

fn serve(masked: &Masked, key: &Path) -> Served {
    let more = ["--mask-key", text(key), "--open"];
    Served::with(&super::fixture::serve(&masked.plans, &fixture().tls, &more))
}

#[test]
fn a_data_owner_classifies_without_weights() {
    let fixture = fixture();
    let folder = folder("masked");
    let masked = compile(&folder);
    let key = folder.join("mask.key");
    let server = serve(&masked, &key);
    assert!(key.exists(), "made by the server");
    let (out, report) = (folder.join("predictions.csv"), folder.join("report.json"));
    let (public, pack, data) = (text(&masked.public), text(&masked.pack), text(&fixture.data));
    let remote = ["--server", &server.address, "--tls", text(&fixture.tls)];
    let results = ["--out", text(&out), "--json", text(&report)];
    let own = ["infer", "--plan", public, "--pack", pack, "--data", data];
    let finished = succeed(&[&own[..], &remote, &results].concat());
    for expected in ["masked: you own the data", "WithinTolerance", "Without the weights"] {
        assert!(finished.stdout.contains(expected), "{expected}: {}", finished.stdout);
    }
    let predictions = fs::read_to_string(&out).unwrap();
    assert_eq!(predictions.lines().count(), N_TEST + 1);
    let report: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&report).unwrap()).unwrap();
    assert_eq!(report["trust"], "masked");
    assert!(
        report["verdict"]["Tolerated"]["soundness"]["false_alarm_bits"].as_f64().unwrap() > 30.0
    );
    assert!(report["accuracy"].as_f64().unwrap() > 0.8, "{report}");

    // Whatever is missing or of the other setting is named.
    let plan = masked.plans.join("blobs.plan");
    for (arguments, expected) in [
        (vec!["--plan", public], "--pack"),
        (vec!["--plan", text(&plan)], "PLAN.public"),
        (vec!["--plan", text(&plan), "--pack", pack], "--pack goes with the public part"),
        (vec!["--plan", public, "--pack", public], "not a pack"),
        (vec!["--plan", public, "--pack", pack, "--replicas", "2"], "--replicas"),
    ] {
        let finished = run(&[&["infer", "--data", data], &arguments[..], &remote].concat());
        assert_eq!(finished.code, Some(2), "{arguments:?}");
        assert!(finished.stderr.contains(expected), "{expected}: {}", finished.stderr);
    }
    let local = run(&[&own[..], &["--local"]].concat());
    assert_eq!(local.code, Some(2));
    assert!(local.stderr.contains("--server"), "{}", local.stderr);
    let inspected = succeed(&["inspect", text(&plan)]);
    assert!(inspected.stdout.contains("masked"), "{}", inspected.stdout);
}

#[test]
fn masked_plans_need_a_key_and_take_no_other_settings() {
    let fixture = fixture();
    let folder = folder("masked-refused");
    let masked = compile(&folder);
    let finished = run(&super::fixture::serve(&masked.plans, &fixture.tls, &["--open"]));
    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("--mask-key"), "{}", finished.stderr);
    let (model, data) = (text(&fixture.model), text(&fixture.data));
    let out = folder.join("refused.plan");
    for flags in [&["--activation", "client"][..], &["--rounds", "0"], &["--calibrated"]] {
        let own = ["compile", model, "--calibrate", data, "--trust", "masked", "--out", text(&out)];
        let finished = run(&[&own[..], flags].concat());
        assert_eq!(finished.code, Some(2), "{flags:?}");
        assert!(finished.stderr.contains(flags[0]), "{}", finished.stderr);
        assert!(!out.exists());
    }
}
