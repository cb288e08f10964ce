//! What does not work: each ends in one clear error, exit code 2, and no output.

use std::fs;
use std::path::{Path, PathBuf};

use super::fixture::{Fixture, Served, blobs, fixture, folder, infer, run, succeed, text};

/// A command that must fail, and what its error must say.
struct Case {
    arguments: Vec<String>,
    expected: &'static str,
}

fn case(arguments: &[&str], expected: &'static str) -> Case {
    Case { arguments: arguments.iter().map(|&a| a.to_owned()).collect(), expected }
}

/// Run `case` with outputs in a folder of its own, and check error, exit code and folder.
fn check(name: &str, case: &Case) {
    let folder = folder(&format!("bad-{name}"));
    let out = folder.join("out");
    let report = folder.join("report.json");
    let fill = |argument: &String| match argument.as_str() {
        "OUT" => text(&out).to_owned(),
        "REPORT" => text(&report).to_owned(),
        other => other.to_owned(),
    };
    let arguments: Vec<String> = case.arguments.iter().map(fill).collect();
    let finished = run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let said = &finished.stderr;
    assert_eq!(finished.code, Some(2), "{name}: {said}");
    assert!(said.contains(case.expected), "{name}: expected `{}` in\n{said}", case.expected);
    assert_eq!(said.matches("error: ").count(), 1, "{name}: one error\n{said}");
    for unwanted in ["panic", "internal error", "Error {", "Some(", "RUST_BACKTRACE"] {
        assert!(!said.contains(unwanted), "{name}: `{unwanted}` in\n{said}");
    }
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "{name}: nothing is left behind");
}

/// A copy of `path` with altered bytes.
fn altered(folder: &Path, path: &Path, name: &str, alter: impl Fn(&mut Vec<u8>)) -> PathBuf {
    let mut bytes = fs::read(path).unwrap();
    alter(&mut bytes);
    let copy = folder.join(name);
    fs::write(&copy, bytes).unwrap();
    copy
}

fn table(folder: &Path, name: &str, content: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, content).unwrap();
    path
}

#[test]
fn damaged_models_and_plans_are_refused() {
    let fixture = fixture();
    let folder = folder("damaged");
    let data = text(&fixture.data);
    let flip = |bytes: &mut Vec<u8>| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
    };
    let cut = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 2);
    let version = |bytes: &mut Vec<u8>| bytes[8] = 99;
    let longer = |bytes: &mut Vec<u8>| bytes.push(0);
    for (kind, path) in [("model", &fixture.model), ("plan", &fixture.squares)] {
        let files = [
            ("flipped", altered(&folder, path, "flipped", flip), "is damaged"),
            ("cut", altered(&folder, path, "cut", cut), "truncated"),
            ("version", altered(&folder, path, "version", version), "format version 99"),
            ("longer", altered(&folder, path, "longer", longer), "unexpected bytes"),
            ("missing", folder.join("missing"), "cannot read"),
            ("empty", table(&folder, "empty", ""), ""),
            ("other", fixture.data.clone(), ""),
        ];
        for (name, file, expected) in files {
            let file = text(&file);
            let arguments: &[&str] = match kind {
                "model" => &["compile", file, "--calibrate", data, "--out", "OUT"],
                _ => &[
                    "infer", "--plan", file, "--data", data, "--local", "--out", "OUT", "--json",
                    "REPORT",
                ],
            };
            check(&format!("{kind}-{name}"), &case(arguments, expected));
            check(&format!("inspect-{kind}-{name}"), &case(&["inspect", file], expected));
        }
    }
}

#[test]
fn unusable_data_are_refused() {
    let fixture = fixture();
    let folder = folder("unusable-data");
    let header = "x,y,z,label\n";
    let good = blobs(30);
    let files = [
        ("missing", "no-such-data".into(), "no data at `no-such-data`"),
        ("empty", table(&folder, "empty.csv", ""), ""),
        ("header-only", table(&folder, "header.csv", header), ""),
        ("nan", table(&folder, "nan.csv", &format!("{good}1,NaN,3,0\n")), "line 32, column `y`"),
        ("text", table(&folder, "text.csv", &format!("{good}1,two,3,0\n")), "`two`"),
        ("ragged", table(&folder, "ragged.csv", &format!("{good}1,2,0\n")), "line 32"),
        ("label", table(&folder, "label.csv", &format!("{good}1,2,3,-1\n")), "`-1`"),
    ];
    for (name, file, expected) in &files {
        let data = text(file);
        let train = ["train", "--data", data, "--network", "mlp", "--out", "OUT"];
        check(&format!("train-{name}"), &case(&train, expected));
        let plan = text(&fixture.squares);
        let infer = ["infer", "--plan", plan, "--data", data, "--local", "--out", "OUT"];
        check(&format!("infer-{name}"), &case(&infer, expected));
    }
    let narrow = table(&folder, "narrow.csv", "x,label\n1,0\n2,1\n3,0\n4,1\n5,0\n");
    let classes = table(&folder, "classes.csv", &format!("{good}1,2,3,7\n1,2,3,7\n"));
    let one_class = table(&folder, "one.csv", "x,y,z,label\n1,2,3,0\n4,5,6,0\n7,8,9,0\n");
    let (plan, model) = (text(&fixture.squares), text(&fixture.model));
    let [narrow, classes, one_class] = [&narrow, &classes, &one_class].map(|path| text(path));
    for (name, arguments, expected) in [
        (
            "infer-shape",
            &["infer", "--plan", plan, "--data", narrow, "--local", "--out", "OUT"] as &[&str],
            "have shape 1, the plan `mlp-blobs` reads 3",
        ),
        (
            "compile-shape",
            &["compile", model, "--calibrate", narrow, "--out", "OUT"],
            "have shape 1, the model `mlp-blobs` reads 3",
        ),
        (
            "infer-classes",
            &["infer", "--plan", plan, "--data", classes, "--split", "all", "--out", "OUT"],
            "`7`, expected a whole number from 0 to 2",
        ),
        (
            "train-one-class",
            &["train", "--data", one_class, "--network", "mlp", "--out", "OUT"],
            "one class only",
        ),
        (
            "train-not-an-image",
            &["train", "--data", text(&fixture.data), "--network", "cryptonets", "--out", "OUT"],
            "conv2d",
        ),
    ] {
        check(name, &case(arguments, expected));
    }
}

#[test]
fn outputs_that_cannot_be_written_are_refused_before_the_work() {
    let fixture = fixture();
    let (data, model) = (text(&fixture.data), text(&fixture.model));
    let plan = text(&fixture.squares);
    for (name, arguments, expected) in [
        (
            "train-out",
            &["train", "--data", data, "--network", "mlp", "--out", "/no/such/folder/m"]
                as &[&str],
            "there is no folder /no/such/folder",
        ),
        (
            "train-checkpoint",
            &["train", "--data", data, "--network", "mlp", "--out", "OUT", "--checkpoint", "/no/c"],
            "there is no folder /no",
        ),
        ("compile-out", &["compile", model, "--calibrate", data, "--out", "/"], "it is a folder"),
        (
            "infer-out",
            &["infer", "--plan", plan, "--data", data, "--out", "/no/such/folder/p.csv"],
            "there is no folder /no/such/folder",
        ),
        (
            "infer-json",
            &["infer", "--plan", plan, "--data", data, "--out", "OUT", "--json", "/proc/r.json"],
            "cannot write /proc/r.json",
        ),
        ("demo-json", &["demo", "--json", "/no/such/folder/d.json"], "there is no folder"),
    ] {
        check(name, &case(arguments, expected));
    }
}

#[test]
fn attacks_that_make_no_sense_are_refused() {
    let fixture = fixture();
    let folder = folder("attack-data");
    let (data, model) = (text(&fixture.data), text(&fixture.model));
    let narrow = table(&folder, "narrow.csv", "x,label\n1,0\n2,1\n3,0\n4,1\n5,0\n");
    let classes = table(&folder, "classes.csv", &format!("{}1,2,3,7\n1,2,3,7\n", blobs(30)));
    let [narrow, classes] = [&narrow, &classes].map(|path| text(path));
    let plan = text(&fixture.squares);
    let cases: [(&str, &[&str], &str); 14] = [
        ("kind", &["rowhammer", model, "--data", data], "rowhammer"),
        ("plan", &["noise", plan, "--data", data], "not a model"),
        ("missing", &["noise", "no-such-model", "--data", data], "cannot read no-such-model"),
        ("no-data", &["noise", model, "--data", "nowhere"], "no data at `nowhere`"),
        (
            "shape",
            &["noise", model, "--data", narrow],
            "have shape 1, the model `mlp-blobs` reads 3",
        ),
        (
            "classes",
            &["noise", model, "--data", classes],
            "`7`, expected a whole number from 0 to 2",
        ),
        (
            "strength",
            &["prune", model, "--data", data, "--strength", "2"],
            "allowed are 0.001 to 0.99",
        ),
        ("bits", &["quantize", model, "--data", data, "--strength", "4.5"], "a whole number"),
        ("epochs", &["noise", model, "--data", data, "--epochs", "3"], "--epochs means nothing"),
        ("source", &["trojan", model, "--data", data, "--source", "1"], "--source means nothing"),
        ("class", &["trojan", model, "--data", data, "--target", "stop"], "no class `stop`"),
        ("number", &["trojan", model, "--data", data, "--target", "3"], "no class `3`"),
        (
            "generator",
            &["adaptive", model, "--data", data, "--generator", "magic"],
            "unknown generator `magic`",
        ),
        (
            "sensitive-shape",
            &["adaptive", model, "--data", data, "--sensitive", narrow],
            "sensitive samples in",
        ),
    ];
    for (name, arguments, expected) in cases {
        let arguments = [&["attack"], arguments, &["--out", "OUT", "--json", "REPORT"]].concat();
        check(&format!("attack-{name}"), &case(&arguments, expected));
    }
    let out = ["attack", "noise", model, "--data", data, "--out", "/no/such/folder/m"];
    check("attack-out", &case(&out, "there is no folder /no/such/folder"));
}

#[test]
fn settings_that_cannot_be_met_are_refused() {
    let fixture = fixture();
    let (data, model) = (text(&fixture.data), text(&fixture.model));
    let plan = text(&fixture.squares);
    for (name, arguments, expected) in [
        (
            "bits",
            &["train", "--data", data, "--network", "mlp", "--bits", "4/1/4", "--out", "OUT"]
                as &[&str],
            "weight bits is 1",
        ),
        (
            "canaries",
            &["infer", "--plan", plan, "--data", data, "--canaries", "1000000", "--out", "OUT"],
            "canaries",
        ),
        (
            "replicas",
            &["infer", "--plan", plan, "--data", data, "--replicas", "1000000", "--out", "OUT"],
            "replicas",
        ),
        (
            "bits-too-many",
            &["compile", model, "--calibrate", data, "--bits", "16/15/16", "--out", "OUT"],
            "use fewer bits",
        ),
    ] {
        check(name, &case(arguments, expected));
    }
}

#[test]
fn servers_that_cannot_be_trusted_are_refused_and_survive() {
    let fixture = fixture();
    let folder = folder("untrusted");
    let [stranger, other] = ["stranger", "other.plan"].map(|name| folder.join(name));
    succeed(&["tls", "init", text(&stranger)]);
    let expired = expired_authority(&folder);
    let model = text(&fixture.model);
    let data = text(&fixture.data);
    let bits = ["--bits", "5/5/5"];
    succeed(&[&["compile", model, "--calibrate", data, "--out", text(&other)], &bits[..]].concat());
    let server = Served::start(&fixture.plans, &fixture.tls, "127.0.0.1:0");
    let address = server.address.as_str();
    let (_, port) = address.rsplit_once(':').unwrap();
    let no_tls = format!("127.0.0.2:{port}");
    let tls = text(&fixture.tls);
    let plan = text(&fixture.squares);
    let infer = |plan: &str, address: &str, tls: &str, expected: &'static str| {
        case(
            &[
                "infer",
                "--plan",
                plan,
                "--data",
                data,
                "--server",
                address,
                "--tls",
                tls,
                "--patience",
                "1",
                "--out",
                "OUT",
                "--json",
                "REPORT",
            ],
            expected,
        )
    };
    for (name, case) in [
        ("wrong-ca", infer(plan, address, text(&stranger), "was not issued by the authority")),
        ("expired-ca", infer(plan, address, text(&expired), "expired on")),
        ("no-ca", infer(plan, address, data, "ca.pem")),
        ("unknown-plan", infer(text(&other), address, tls, "does not hold the plan `mlp-blobs`")),
        ("no-server", infer(plan, "127.0.0.1:1", tls, "cannot reach 127.0.0.1:1")),
        ("no-listener", infer(plan, &no_tls, tls, "cannot reach")),
        ("bad-address", infer(plan, "not an address", tls, "")),
    ] {
        check(name, &case);
    }
    good_run(fixture, address);
}

/// The same server serves the next client.
fn good_run(fixture: &Fixture, address: &str) {
    succeed(&infer(&fixture.linear, address, &[]));
}

/// A folder with the certificate of an authority whose time is over.
fn expired_authority(folder: &Path) -> PathBuf {
    let folder = folder.join("expired");
    fs::create_dir(&folder).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.not_before = rcgen::date_time_ymd(2001, 1, 1);
    params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    let certificate = params.self_signed(&key).unwrap();
    fs::write(folder.join("ca.pem"), certificate.pem()).unwrap();
    folder
}

#[test]
fn servers_that_cannot_start_say_why() {
    let fixture = fixture();
    let folder = folder("cannot-start");
    let [empty, damaged] = ["empty", "damaged"].map(|name| folder.join(name));
    for path in [&empty, &damaged] {
        fs::create_dir(path).unwrap();
    }
    altered(&damaged, &fixture.squares, "a.plan", |bytes| bytes.truncate(99));
    let (plans, tls) = (text(&fixture.plans), text(&fixture.tls));
    for (name, plans, tls, expected) in [
        ("no-folder", "/no/such/plans", tls, "cannot read the plan folder /no/such/plans"),
        ("no-plans", text(&empty), tls, "holds no *.plan file"),
        ("damaged-plan", text(&damaged), tls, "a.plan"),
        ("no-tls", plans, text(&empty), "securedl tls init"),
    ] {
        let serve = ["serve", "--plans", plans, "--listen", "127.0.0.1:0", "--tls", tls, "--open"];
        check(name, &case(&serve, expected));
    }
    let again = ["tls", "init", tls];
    check("tls-again", &case(&again, "is not overwritten"));
}
