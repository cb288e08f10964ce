//! The direction of dependencies, read from `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What each crate of the workspace may depend on (besides third-party crates), development
/// dependencies excluded.
const ALLOWED: [(&str, &[&str]); 8] = [
    ("securedl-he-core", &[]),
    ("securedl-nn-poly", &["securedl-he-core"]),
    ("securedl-fingerprint", &["securedl-nn-poly"]),
    ("securedl-protocol", &["securedl-he-core", "securedl-nn-poly", "securedl-fingerprint"]),
    (
        "securedl-cli",
        &[
            "securedl-he-core",
            "securedl-nn-poly",
            "securedl-fingerprint",
            "securedl-protocol",
            // In builds with the feature of that name only: see below.
            "securedl-secureml",
        ],
    ),
    // Reaches ciphertexts through nn-poly only.
    ("securedl-python", &["securedl-nn-poly", "securedl-fingerprint", "securedl-protocol"]),
    (
        "securedl-tests",
        &["securedl-he-core", "securedl-nn-poly", "securedl-fingerprint", "securedl-protocol"],
    ),
    // A baseline to compare with: it stands beside the product, not in it.
    ("securedl-secureml", &["securedl-he-core"]),
];

/// Third-party crates that only one crate may name, besides the test kit, which plays the other side.
const RESERVED: [(&str, &str); 7] = [
    ("fhe-math", "securedl-he-core"),
    ("tfhe-ntt", "securedl-he-core"),
    ("rustls", "securedl-protocol"),
    ("clap", "securedl-cli"),
    ("axum", "securedl-cli"),
    ("pyo3", "securedl-python"),
    ("numpy", "securedl-python"),
];

/// Third-party crates a crate must not name: no network, files or formats below their layer.
const FORBIDDEN: [(&str, &[&str]); 5] = [
    ("securedl-he-core", &["serde", "bincode", "tokio", "ndarray", "clap"]),
    ("securedl-nn-poly", &["tokio", "rustls", "clap", "fhe-math"]),
    ("securedl-fingerprint", &["tokio", "rustls", "clap", "securedl-he-core"]),
    ("securedl-secureml", &["tokio", "rustls", "clap", "serde", "bincode"]),
    // Glue: nothing of it is encoded, encrypted or drawn there.
    ("securedl-python", &["rustls", "clap", "serde", "bincode", "rand", "rand_chacha", "zeroize"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// The packages of the workspace, as cargo describes them.
fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo metadata runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    metadata["packages"].as_array().expect("packages").clone()
}

/// Normal and build dependencies by package.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    packages()
        .iter()
        .map(|package| {
            let names = package["dependencies"]
                .as_array()
                .expect("dependencies")
                .iter()
                .filter(|d| d["kind"].as_str() != Some("dev"))
                .map(|d| text(&d["name"]))
                .collect();
            (text(&package["name"]), names)
        })
        .collect()
}

#[test]
fn crates_depend_downwards_only() {
    let found = dependencies();
    assert_eq!(found.len(), ALLOWED.len(), "a crate was added: {:?}", found.keys());
    for (name, allowed) in ALLOWED {
        for dependency in found[name].iter().filter(|d| d.starts_with("securedl-")) {
            assert!(allowed.contains(&dependency.as_str()), "{name} must not use {dependency}");
        }
    }
}

#[test]
fn the_baseline_is_in_no_build_that_does_not_ask_for_it() {
    let packages = packages();
    let cli = packages.iter().find(|p| p["name"] == "securedl-cli").expect("the command line");
    let dependencies = cli["dependencies"].as_array().expect("dependencies");
    let baseline = dependencies.iter().find(|d| d["name"] == "securedl-secureml");
    assert_eq!(baseline.expect("the baseline")["optional"], true);
    let default = cli["features"]["default"].as_array().expect("default features");
    assert!(!default.iter().any(|feature| feature == "secureml"), "{default:?}");
}

#[test]
fn reserved_crates_have_one_user() {
    for (name, names) in dependencies() {
        for (reserved, owner) in RESERVED {
            let may_name = name == owner || name == "securedl-tests";
            assert!(!names.contains(reserved) || may_name, "{name} must not use {reserved}");
        }
        for (_, forbidden) in FORBIDDEN.iter().filter(|(crate_name, _)| *crate_name == name) {
            for dependency in *forbidden {
                assert!(!names.contains(*dependency), "{name} must not use {dependency}");
            }
        }
    }
}

/// Every Rust source file below a folder of the workspace.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("readable folder") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn foreign_names_stay_in_their_rooms() {
    let root = root();
    let rooms = [
        ("he-core/src", &["fhe_math", "tfhe_ntt"][..], &["ring.rs"][..]),
        ("nn-poly/src", &["he_core"][..], &["encrypted.rs", "encrypted/"][..]),
        ("nn-poly/src", &["bincode::"][..], &["artifact.rs"][..]),
        ("protocol/src", &["bincode::"][..], &["message.rs", "message/"][..]),
        ("he-core/src", &["std::arch", "core::arch"][..], &["simd.rs", "simd/"][..]),
    ];
    for (folder, names, allowed) in rooms {
        let folder = root.join(folder);
        for path in sources(&folder) {
            let inside = path.strip_prefix(&folder).expect("below").to_string_lossy().into_owned();
            if allowed.iter().any(|a| inside == *a || (a.ends_with('/') && inside.starts_with(a))) {
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("UTF-8");
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            for (number, line) in code.enumerate() {
                for name in names {
                    assert!(!line.contains(name), "{}:~{number} names {name}", path.display());
                }
            }
        }
    }
}

#[test]
fn the_python_package_is_built_and_tested_without_a_python() {
    let packages = packages();
    let python = packages.iter().find(|p| p["name"] == "securedl-python").expect("the package");
    let targets = python["targets"].as_array().expect("targets");
    assert_eq!(targets.len(), 1, "a test or binary of it would be linked to Python: {targets:?}");
    let kinds = targets[0]["crate_types"].as_array().expect("crate types");
    assert_eq!(kinds, &["cdylib"], "as a library it would be linked into others");
    assert_eq!((&targets[0]["test"], &targets[0]["doctest"]), (&false.into(), &false.into()));
    let dependencies = python["dependencies"].as_array().expect("dependencies");
    let pyo3 = dependencies.iter().find(|d| d["name"] == "pyo3").expect("the bindings");
    for feature in ["abi3-py311", "extension-module"] {
        let features = pyo3["features"].as_array().expect("features");
        assert!(features.iter().any(|f| f == feature), "{feature} is what needs no Python");
    }
}

/// Crates with sources of their own in `src/`.
const CRATES: [&str; 7] =
    ["he-core", "nn-poly", "fingerprint", "protocol", "cli", "python", "tests/secureml"];

#[test]
fn unsafe_code_lives_in_one_folder() {
    for crate_name in CRATES {
        let folder = root().join(crate_name).join("src");
        for path in sources(&folder) {
            let inside = path.strip_prefix(&folder).expect("below").to_string_lossy().into_owned();
            let allowed =
                crate_name == "he-core" && (inside == "simd.rs" || inside.starts_with("simd/"));
            let text = std::fs::read_to_string(&path).expect("UTF-8");
            let uses = text.lines().any(|line| {
                let line = line.trim_start();
                !line.starts_with("//")
                    && ["unsafe {", "unsafe fn", "unsafe impl"].iter().any(|u| line.contains(u))
            });
            assert!(allowed || !uses, "{} uses unsafe", path.display());
        }
    }
}
