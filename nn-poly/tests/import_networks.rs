//! Damaged files of networks end in an error, never in a panic or a large allocation.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::path::Path;

use nn_poly::import::onnx::parse_onnx;
use nn_poly::import::{ReadOptions, read_network};
use proptest::prelude::*;

const FIXTURES: [&str; 8] = [
    "depthwise_squares",
    "flat_digits",
    "keras_cnn",
    "polynomial",
    "sklearn_logistic",
    "sklearn_binary",
    "residual",
    "joined",
];

fn fixture(idx: usize) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/onnx");
    let name = FIXTURES[idx % FIXTURES.len()];
    std::fs::read(folder.join(name).with_extension("onnx")).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn altered_graphs_never_panic(
        which in 0_usize..8,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = fixture(which);
        for (position, value) in changes {
            let position = position.index(bytes.len());
            bytes[position] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Err(error) = parse_onnx(&bytes, None) {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(parse_onnx(&bytes, None).is_err());
    }
}

#[test]
fn every_prefix_of_a_graph_is_an_error_or_a_network() {
    let bytes = fixture(0);
    for end in 0..bytes.len() {
        let _ = parse_onnx(&bytes[..end], None);
    }
}

#[test]
fn files_of_other_kinds_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for (name, expected) in [
        ("model.h5", "neither ONNX (.onnx) nor a description (.toml)"),
        ("model.safetensors", "named by a description"),
        ("model.onnx", "not an ONNX model"),
        ("model.toml", "missing field"),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, b"# nothing\n").unwrap();
        let message = read_network(&path, &ReadOptions::default()).unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains(name), "{message}");
    }
    let absent =
        read_network(&folder.path().join("absent.onnx"), &ReadOptions::default()).unwrap_err();
    assert!(absent.to_string().contains("cannot read"), "{absent}");
}
