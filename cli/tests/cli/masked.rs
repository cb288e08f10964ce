//! A data owner who must not learn the model: compile, serve and infer with the trust setting masked.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use fingerprint::CanaryPack;
use ndarray::Axis;
use nn_poly::integer::IntegerMatrix;
use nn_poly::plan::Plan;

use super::fixture::{N_TEST, Served, fixture, folder, run, succeed, text};

/// The three files that `compile --trust masked` writes. Made once; tests that write beside them use
/// copies.
struct Masked {
    plans: PathBuf,
    public: PathBuf,
    pack: PathBuf,
}

fn masked() -> &'static Masked {
    static MASKED: OnceLock<Masked> = OnceLock::new();
    MASKED.get_or_init(|| compile(&folder("masked-plans")))
}

/// Copies of the files.
fn copied(folder: &Path) -> Masked {
    let plans = folder.join("plans");
    fs::create_dir(&plans).unwrap();
    for file in fs::read_dir(&masked().plans).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), plans.join(file.file_name())).unwrap();
    }
    let beside = |suffix: &str| plans.join(format!("blobs.plan{suffix}"));
    Masked { public: beside(".public"), pack: beside(".pack"), plans }
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
    for expected in [
        "masked (the client owns the data",
        "40 beyond the proven range",
        "of 96 samples, spread over the 96 for calibration, keep their label",
        "one unit high",
    ] {
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
    let masked = masked();
    let key = folder.join("mask.key");
    let server = serve(masked, &key);
    assert!(key.exists(), "made by the server");
    let (out, report) = (folder.join("predictions.csv"), folder.join("report.json"));
    let (public, pack, data) = (text(&masked.public), text(&masked.pack), text(&fixture.data));
    let remote = ["--server", &server.address, "--tls", text(&fixture.tls)];
    let results = ["--out", text(&out), "--json", text(&report)];
    let own = ["infer", "--plan", public, "--pack", pack, "--data", data];
    let finished = succeed(&[&own[..], &remote, &results].concat());
    for expected in [
        "masked: you own the data",
        "16 of its 20 canaries in every block; signed",
        "WithinTolerance",
        "a wrong label to every sample",
        "scores that ignore the samples",
        "Without the weights",
    ] {
        assert!(finished.stdout.contains(expected), "{expected}: {}", finished.stdout);
    }
    let predictions = fs::read_to_string(&out).unwrap();
    assert_eq!(predictions.lines().count(), N_TEST + 1);
    let report: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&report).unwrap()).unwrap();
    assert_eq!(report["trust"], "masked");
    let soundness = &report["verdict"]["Tolerated"]["soundness"];
    for (figure, at_least) in
        [("false_alarm_bits", 30.0), ("every_label_bits", 10.0), ("ignored_inputs_bits", 1.0)]
    {
        assert!(soundness[figure].as_f64().unwrap() >= at_least, "{figure}: {soundness}");
    }
    assert_eq!(report["pack"]["n_canaries"], 20, "{report}");
    assert!(report["accuracy"].as_f64().unwrap() > 0.8, "{report}");

    // Whatever is missing or of the other setting is named.
    let plan = masked.plans.join("blobs.plan");
    for (arguments, expected) in [
        (vec!["--plan", public], "--pack"),
        (vec!["--plan", text(&plan)], "PLAN.public"),
        (vec!["--plan", text(&plan), "--pack", pack], "--pack goes with the public part"),
        (vec!["--plan", public, "--pack", public], "not a pack"),
        (vec!["--plan", public, "--pack", pack, "--replicas", "2"], "--replicas"),
        (vec!["--plan", public, "--pack", pack, "--in-flight", "2"], "--in-flight"),
    ] {
        let finished = run(&[&["infer", "--data", data], &arguments[..], &remote].concat());
        assert_eq!(finished.code, Some(2), "{arguments:?}");
        assert!(finished.stderr.contains(expected), "{expected}: {}", finished.stderr);
    }
    // More canaries than the pack has. With all of them in every block there may be too few to draw from.
    let more = ["--canaries", "30", "--accept-unverified"];
    let finished = succeed(&[&own[..], &more, &remote].concat());
    let expected = "all 20 of its canaries in every block, not 30; signed";
    assert!(finished.stdout.contains(expected), "{}", finished.stdout);
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
    let masked = masked();
    let finished = run(&super::fixture::serve(&masked.plans, &fixture.tls, &["--open"]));
    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("--mask-key"), "{}", finished.stderr);
    let (model, data) = (text(&fixture.model), text(&fixture.data));
    let out = folder.join("refused.plan");
    for flags in [
        &["--activation", "client"][..],
        &["--rounds", "0"],
        &["--relinearize", "never"],
        &["--calibrated"],
        &["--objective", "time"],
        &["--memory", "4GiB"],
        &["--link", "1Gbps"],
        &["--latency", "1ms"],
        &["--server-cores", "2"],
        &["--no-self-test"],
    ] {
        let own = ["compile", model, "--calibrate", data, "--trust", "masked", "--out", text(&out)];
        let finished = run(&[&own[..], flags].concat());
        assert_eq!(finished.code, Some(2), "{flags:?}");
        assert!(finished.stderr.contains(flags[0]), "{}", finished.stderr);
        assert!(!out.exists());
    }
    // And no pack goes with a plan of the owner's.
    let own = ["compile", model, "--calibrate", data, "--pack-canaries", "5", "--out", text(&out)];
    let finished = run(&own);
    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("--pack-canaries"), "{}", finished.stderr);
    assert!(!out.exists());
}

/// Data may be in the order of their classes: the first samples would show one of them.
#[test]
fn labels_are_compared_on_samples_of_the_whole_calibration_data() {
    let fixture = fixture();
    let out = folder("masked-large").join("large.plan");
    let own = ["compile", text(&fixture.model), "--calibrate", text(&fixture.large)];
    let finished = succeed(&[&own[..], &["--trust", "masked", "--out", text(&out)]].concat());
    let expected = "of 256 samples, spread over the 4,800 for calibration, keep their label";
    assert!(finished.stdout.contains(expected), "{}", finished.stdout);
}

/// Canaries that are one sample, twenty times: a server that gives every sample this sample's scores
/// would pass, and so nothing is verified however honest it is.
#[test]
fn a_pack_that_notices_nothing_ends_as_not_verified() {
    let fixture = fixture();
    let folder = folder("masked-unverified");
    let masked = copied(&folder);
    let plan = Plan::load(&masked.plans.join("blobs.plan")).unwrap();
    let grid = plan.public().input;
    let n_inputs = plan.network().n_inputs();
    let sample = IntegerMatrix::from_shape_fn((n_inputs, 1), |(input, _)| {
        if input % 2 == 0 { grid.min() } else { grid.max() }
    });
    let pack = CanaryPack::make(&plan, &sample.select(Axis(1), &[0; 20])).unwrap();
    fs::write(&masked.pack, pack.to_bytes().unwrap()).unwrap();
    let server = serve(&masked, &folder.join("mask.key"));
    let (out, report) = (folder.join("predictions.csv"), folder.join("report.json"));
    let remote = ["--server", &server.address, "--tls", text(&fixture.tls)];
    let own = ["infer", "--plan", text(&masked.public), "--pack", text(&masked.pack)];
    let data = ["--data", text(&fixture.data), "--samples", "3"];
    let results = ["--out", text(&out), "--json", text(&report)];
    let infer = [&own[..], &data, &remote, &results].concat();
    let finished = run(&infer);
    assert_eq!(finished.code, Some(2), "{}", finished.stderr);
    let said = finished.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    for expected in ["? Unverified", "not verified", "ignores the inputs", "not written"] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    assert!(!said.contains("WithinTolerance") && !out.exists(), "{said}");
    // What is withheld is not told in a summary either.
    assert!(!said.contains("Accuracy"), "{said}");
    let text_of = fs::read_to_string(&report).unwrap();
    let written: serde_json::Value = serde_json::from_str(&text_of).unwrap();
    let soundness = &written["verdict"]["Unverified"]["soundness"];
    assert_eq!(soundness["ignored_inputs_bits"], 0.0, "{written}");
    assert_eq!(written["pack"]["n_alike"], 20, "{written}");
    assert!(written["accuracy"].is_null(), "{written}");
    // Whoever asks for them gets the predictions all the same.
    let finished = succeed(&[&infer[..], &["--accept-unverified"]].concat());
    for expected in ["? Unverified", "Accuracy"] {
        assert!(finished.stdout.contains(expected), "{}", finished.stdout);
    }
    assert_eq!(fs::read_to_string(&out).unwrap().lines().count(), 3 + 1);
}

#[test]
fn a_pack_is_used_only_if_its_owner_has_signed_it() {
    let fixture = fixture();
    let folder = folder("masked-signed");
    let masked = copied(&folder);
    for name in ["keys", "other"] {
        succeed(&["keys", "init", text(&folder.join(name))]);
    }
    let path = |name: &str| folder.join(name);
    let (key, owner) = (path("keys/owner.key"), path("keys/owner.pub"));
    let plan = masked.plans.join("blobs.plan");
    succeed(&["sign", text(&plan), "--key", text(&key)]);
    let server = serve(&masked, &folder.join("mask.key"));
    let remote = ["--server", &server.address, "--tls", text(&fixture.tls)];
    let data = ["--data", text(&fixture.data), "--samples", "3"];
    let infer = |pack: &Path, owners: &[&Path]| {
        let own = ["infer", "--plan", text(&masked.public), "--pack", text(pack)];
        let owners: Vec<&str> = owners.iter().flat_map(|file| ["--owner", text(file)]).collect();
        run(&[&own[..], &data, &remote, &owners].concat())
    };
    let refused = |pack: &Path, owners: &[&Path], words: &str| {
        let finished = infer(pack, owners);
        assert_eq!(finished.code, Some(2), "{}", finished.stdout);
        assert!(finished.stderr.contains(words), "{words}: {}", finished.stderr);
        assert!(finished.stderr.contains(text(pack)) || words.contains("another plan"));
    };
    // The plan is signed, and announced by the server; the pack is not.
    refused(&masked.pack, &[&owner], "there is no signature");
    let signed = succeed(&["sign", text(&masked.pack), "--key", text(&key)]);
    assert!(signed.stdout.contains("of plan"), "{}", signed.stdout);
    let finished = infer(&masked.pack, &[&owner]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert_eq!(finished.stdout.matches("as --owner demands").count(), 2, "{}", finished.stdout);
    refused(&masked.pack, &[&path("other/owner.pub")], "none of the owners");
    // Another pack of the same plan under the signature: wrong, whoever is trusted or nobody.
    let loaded = Plan::load(&plan).unwrap();
    let inputs = IntegerMatrix::zeros((loaded.network().n_inputs(), 4));
    let exchanged = CanaryPack::make(&loaded, &inputs).unwrap();
    let original = fs::read(&masked.pack).unwrap();
    fs::write(&masked.pack, exchanged.to_bytes().unwrap()).unwrap();
    for owners in [&[&*owner][..], &[]] {
        refused(&masked.pack, owners, "not of this pack");
    }
    fs::write(&masked.pack, original).unwrap();
    // The signature of the plan is none of the pack, though it is the same owner's.
    let beside = |file: &Path| PathBuf::from(format!("{}.sig", text(file)));
    fs::copy(beside(&plan), beside(&masked.pack)).unwrap();
    refused(&masked.pack, &[], "not of this pack");
    // A pack of another plan, signed by the right owner.
    let other = folder.join("other.plan");
    let base = ["compile", text(&fixture.model), "--calibrate", text(&fixture.data)];
    let more = ["--trust", "masked", "--bits", "5/5/5", "--out", text(&other)];
    succeed(&[&base[..], &more].concat());
    let foreign = folder.join("other.plan.pack");
    succeed(&["sign", text(&foreign), "--key", text(&key)]);
    refused(&foreign, &[&owner], "another plan");
}
