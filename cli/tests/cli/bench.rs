//! What is measured: every command on tiny settings, and its report. Figures are only looked at for
//! being there: how fast this machine is right now is no business of a test.

use serde_json::Value;

use super::fixture::{fixture, folder, run, succeed, text};

fn report(finished: &super::fixture::Finished) -> Value {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|_| panic!("{}", finished.stdout))
}

fn positive(value: &Value, path: &str) {
    let found = value.pointer(path).unwrap_or_else(|| panic!("{path} is missing"));
    assert!(found.as_f64().is_some_and(|figure| figure > 0.0), "{path}: {found}");
}

#[test]
fn kernels_of_every_backend_are_measured_on_every_layer() {
    let finished = succeed(&["bench", "kernels", "--seconds-per-case", "0.001", "--json", "-"]);
    let report = report(&finished);
    positive(&report, "/copy_bytes_per_second");
    positive(&report, "/read_bytes_per_second");
    let backends = report["machine"]["backends"].as_array().unwrap();
    let kernels = report["kernels"].as_array().unwrap();
    assert_eq!(kernels.len(), backends.len() * 2 * 6, "backends × primes × layers");
    for kernel in kernels {
        for path in ["/multiply_accumulates_per_second", "/bytes_per_second", "/outputs_measured"] {
            positive(kernel, path);
        }
        assert!(kernel["outputs_measured"].as_u64() <= kernel["outputs"].as_u64());
    }
    let operations = report["operations"].as_array().unwrap();
    for wanted in [
        "transform, forward",
        "transform, inverse",
        "encode slots",
        "encrypt",
        "decrypt and decode, degree 1",
        "decrypt and decode, degree 2",
        "square",
        "modulus switch, degree 2",
        "word check, two rows",
        "write request",
        "write reply",
        "read request",
        "read reply",
        "seed expansion",
    ] {
        assert!(operations.iter().any(|o| o["operation"] == wanted), "{wanted}");
    }
    // People read the same on the other stream.
    assert!(finished.stderr.contains("dense 800 → 256"), "{}", finished.stderr);
}

#[test]
fn one_backend_can_be_chosen_and_tables_can_be_pasted() {
    let arguments = ["bench", "kernels", "--backend", "scalar", "--seconds-per-case", "0.001"];
    let finished = succeed(&[&arguments[..], &["--markdown"]].concat());
    assert!(finished.stdout.contains("\n|---|---|---|--:|"), "{}", finished.stdout);
    assert!(finished.stdout.contains("| scalar |") && !finished.stdout.contains("| avx2 |"));
}

#[test]
fn a_backend_that_does_not_exist_is_named() {
    let finished = run(&["bench", "kernels", "--backend", "abacus"]);
    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("there is no backend `abacus`"), "{}", finished.stderr);
    assert!(finished.stderr.contains("scalar"), "{}", finished.stderr);
}

#[test]
fn absurd_settings_are_refused() {
    for wrong in [
        &["kernels", "--seconds-per-case", "0"] as &[&str],
        &["kernels", "--seconds-per-case", "soon"],
        &["network"],
        &["network", "--network", "cryptonets", "--model", "m", "--data", "d"],
        &["network", "--model", "m"],
        &["network", "--network", "cryptonets", "--samples", "0"],
        &["network", "--network", "cryptonets", "--threads", "0"],
        &["network", "--network", "cryptonets", "--transport", "pigeon"],
        &["peers", "--part", "0"],
    ] {
        let finished = run(&[&["bench"], wrong].concat());
        assert_eq!(finished.code, Some(2), "{wrong:?}: {}", finished.stderr);
    }
}

#[test]
fn a_random_network_is_measured_from_end_to_end() {
    let common = ["bench", "network", "--network", "cryptonets", "--activation", "client"];
    let tiny = ["--samples", "32", "--threads", "1", "--repeat", "2", "--json", "-"];
    let report = report(&succeed(&[&common[..], &tiny].concat()));
    assert_eq!(report["matches_integer_network"], true);
    assert_eq!(report["one_image"]["matches_integer_network"], true);
    assert_eq!((&report["samples"], &report["threads"]), (&32.into(), &1.into()));
    assert_eq!(report["rounds"], 3);
    for path in [
        "/seconds/total",
        "/seconds/encode",
        "/seconds/encrypt",
        "/seconds/evaluate",
        "/seconds/check",
        "/seconds/decrypt",
        "/server_seconds/receive",
        "/server_seconds/evaluate",
        "/images_per_second",
        "/bytes_up_per_image",
        "/bytes_down_per_image",
        "/one_image/seconds",
        "/floor/transform_seconds",
        "/floor/expansion_seconds",
        "/floor/memory_seconds",
        "/floor/work/multiply_accumulates/2",
        "/segments/0/block_seconds/evaluate",
        "/segments/2/occupancy",
    ] {
        positive(&report, path);
    }
    #[cfg(target_os = "linux")]
    for path in ["/peak_memory_bytes", "/cpu_seconds"] {
        positive(&report, path);
    }
    // Bytes are those of the plan, block by block.
    let of_segments: u64 = report["segments"]
        .as_array()
        .unwrap()
        .iter()
        .map(|segment| segment["bytes_up"].as_u64().unwrap())
        .sum();
    assert_eq!(report["bytes_up"].as_u64(), Some(of_segments));
}

#[test]
fn a_trained_model_is_measured_over_tls_with_squares_at_the_server() {
    let fixture = fixture();
    let file = folder("bench-model").join("report.json");
    let (model, data) = (text(&fixture.model), text(&fixture.data));
    let common = ["bench", "network", "--model", model, "--data", data, "--repeat", "1"];
    let rest = ["--samples", "24", "--transport", "tls", "--json", text(&file)];
    let finished = succeed(&[&common[..], &rest].concat());
    assert!(finished.stdout.contains("activation at the server"), "{}", finished.stdout);
    let report: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(report["matches_integer_network"], true);
    assert_eq!(report["transport"], "tls");
    assert_eq!(report["segments"][0]["packing"], "Slots");
    let finished = run(&[&common[..], &["--samples", "10000"]].concat());
    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("lower --samples"), "{}", finished.stderr);
}

#[test]
#[cfg(not(feature = "peers"))]
fn without_the_peer_the_command_says_how_to_get_it() {
    let finished = run(&["bench", "peers"]);
    assert_eq!(finished.code, Some(2));
    let how = "cargo run --release --features peers -- bench peers";
    assert!(finished.stderr.contains(how), "{}", finished.stderr);
}

#[test]
#[cfg(feature = "peers")]
fn the_peer_stands_beside_ours() {
    let arguments = ["bench", "peers", "--part", "1", "--samples", "8"];
    let report = report(&succeed(&[&arguments[..], &["--repeat", "1", "--json", "-"]].concat()));
    for path in ["/peer/encryption_seconds", "/peer/evaluation_seconds", "/peer/bytes_up"] {
        positive(&report, path);
    }
    assert_eq!(report["peer"]["steps"].as_array().unwrap().len(), 7);
    assert!(report["peer"]["steps"][1]["scaled_from"].as_str().unwrap().contains("1 of 845"));
    for ours in report["ours"].as_array().unwrap() {
        assert_eq!(ours["matches_integer_network"], true);
    }
}
