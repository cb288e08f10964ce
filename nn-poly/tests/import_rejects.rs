//! Loading data sets from folders and files, good and bad, and real ones where they are present.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stderr, reason = "tests")]

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::{Compression, write::GzEncoder};
use ndarray::{Array1, Array2};
use ndarray_npy::write_npy;
use nn_poly::import::{
    DEFAULT_DATA_FOLDER, Dataset, PreprocessingKind, Split, SplitSpec, resolve_data_path,
};
use nn_poly::{Error, Shape};
use proptest::prelude::*;

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

fn idx_images(n: u32) -> Vec<u8> {
    let mut bytes = words(&[0x803, n, 2, 2]);
    bytes.extend((0..n * 4).map(|i| u8::try_from(i % 256).unwrap()));
    bytes
}

fn idx_labels(labels: &[u8]) -> Vec<u8> {
    [words(&[0x801, u32::try_from(labels.len()).unwrap()]), labels.to_vec()].concat()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn folder_with(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

fn load(path: &Path, split: Split) -> Result<Dataset, Error> {
    Dataset::load(path, split, &SplitSpec::default())
}

fn message(path: &Path, split: Split) -> String {
    load(path, split).unwrap_err().to_string()
}

#[test]
fn idx_folders_have_their_own_test_part() {
    let folder = folder_with(&[
        ("train-images-idx3-ubyte.gz", gzip(&idx_images(3))),
        ("train-labels-idx1-ubyte.gz", gzip(&idx_labels(&[0, 1, 2]))),
        ("t10k-images-idx3-ubyte", idx_images(2)),
        ("t10k-labels-idx1-ubyte", idx_labels(&[1, 0])),
        ("classes.txt", b"0 zero\n1 one\n2 two\n".to_vec()),
    ]);
    let train = load(folder.path(), Split::Train).unwrap();
    assert_eq!((train.n_samples(), train.shape()), (3, &Shape::image(2, 2, 1).unwrap()));
    assert_eq!(train.class_names(), ["zero", "one", "two"]);
    let test = load(folder.path(), Split::Test).unwrap();
    assert_eq!((test.labels().unwrap(), test.n_classes()), ([1, 0].as_slice(), 3));
    let all = load(folder.path(), Split::All).unwrap();
    assert_eq!(all.labels().unwrap(), [0, 1, 2, 1, 0]);
}

#[test]
fn each_fault_of_a_folder_has_its_own_message() {
    type Files = Vec<(&'static str, Vec<u8>)>;
    let cases: Vec<(Files, &str)> = vec![
        (vec![], "no IDX files"),
        (
            vec![
                ("train-images-idx3-ubyte", idx_images(3)),
                ("train-labels-idx1-ubyte", idx_labels(&[0, 1])),
            ],
            "number of labels is 2, but its companion file says 3",
        ),
        (
            vec![("train-images-idx3-ubyte", idx_images(3)[..20].to_vec())],
            "IDX images is truncated: 4 bytes, expected at least 12",
        ),
        (
            vec![("train-images-idx3-ubyte.gz", gzip(&idx_images(3))[..20].to_vec())],
            "damaged gzip data",
        ),
        (vec![("train-images-idx3-ubyte", idx_images(0))], "the data set holds no samples"),
        (vec![("t10k-images-idx3-ubyte", idx_images(3))], "holds a test part but no training part"),
        (
            vec![
                ("train-images-idx3-ubyte", idx_images(3)),
                ("train-labels-idx1-ubyte", idx_labels(&[0, 1, 2])),
                ("classes.txt", b"0 a\n1 b\n".to_vec()),
            ],
            "label 2 is `2`, expected a whole number from 0 to 1",
        ),
        (
            vec![("x_train.bin", vec![0; 3072])],
            "the last record of 3073 bytes is truncated: 3072 bytes, expected at least 3073",
        ),
        (vec![("x_train.bin", vec![])], "the data set holds no samples"),
    ];
    for (files, expected) in cases {
        let folder = folder_with(&files);
        let actual = message(folder.path(), Split::Train);
        assert!(actual.contains(expected), "{actual:?} lacks {expected:?}");
        assert!(actual.contains(folder.path().to_str().unwrap()), "{actual:?} names no path");
    }
}

#[test]
fn records_are_read_plain_and_packed() {
    let record = |label: u8, value: u8| [vec![label], vec![value; 3072]].concat();
    let folder = folder_with(&[
        ("x_train.bin", [record(0, 0), record(1, 255)].concat()),
        ("x_test.bin.gz", gzip(&record(1, 51))),
    ]);
    let train = load(folder.path(), Split::Train).unwrap();
    assert_eq!(train.shape(), &Shape::image(32, 32, 3).unwrap());
    assert_eq!(train.features()[[1, 3071]], 1.0);
    let test = load(folder.path(), Split::Test).unwrap();
    assert_eq!((test.features()[[0, 0]], test.labels().unwrap()), (0.2, [1].as_slice()));
    let single = load(&folder.path().join("x_train.bin"), Split::All).unwrap();
    assert_eq!(single.n_samples(), 2);
}

#[test]
fn arrays_are_read_from_a_folder_or_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let features =
        Array2::from_shape_fn((20, 3), |(i, j)| f64::from(u32::try_from(i * 3 + j).unwrap()));
    write_npy(folder.path().join("features.npy"), &features).unwrap();
    let labels: Array1<i64> = (0..20).map(|i| i % 2).collect();
    write_npy(folder.path().join("labels.npy"), &labels).unwrap();
    let (train, test) =
        (load(folder.path(), Split::Train).unwrap(), load(folder.path(), Split::Test).unwrap());
    assert_eq!((train.n_samples(), test.n_samples()), (16, 4));
    let file = load(&folder.path().join("features.npy"), Split::All).unwrap();
    assert_eq!((file.n_samples(), file.n_classes()), (20, 2));
    write_npy(folder.path().join("labels.npy"), &Array1::<i64>::from_elem(19, 0)).unwrap();
    assert!(message(folder.path(), Split::All).contains("number of labels is 19"));
}

#[test]
fn tables_are_cut_by_the_seed() {
    let mut text = String::from("a,b,label\n");
    for i in 0..50 {
        text += &format!("{i},{},{}\n", i * 2, u8::from(i >= 40));
    }
    let folder =
        folder_with(&[("t.csv", text.clone().into_bytes()), ("t2.csv.gz", gzip(text.as_bytes()))]);
    let path = folder.path().join("t.csv");
    let test = load(&path, Split::Test).unwrap();
    assert_eq!(test.n_samples(), 10);
    assert_eq!(test.labels().unwrap().iter().filter(|&&label| label == 1).count(), 2);
    assert_eq!(test, load(&path, Split::Test).unwrap());
    let other = SplitSpec { seed: 5, test_fraction: 0.2 };
    assert_ne!(test.features(), Dataset::load(&path, Split::Test, &other).unwrap().features());
    assert_eq!(load(&folder.path().join("t2.csv.gz"), Split::All).unwrap().n_samples(), 50);

    fs::write(&path, "a,b,label\n1,2,0\n1,oops,1\n").unwrap();
    let expected = "line 3, column `b`: `oops` is not a finite number";
    assert!(message(&path, Split::All).ends_with(expected));
    fs::write(&path, "a,b,label\n").unwrap();
    assert!(message(&path, Split::All).ends_with("the data set holds no samples"));
}

#[test]
fn unlabeled_data_can_be_read_but_not_trained_on() {
    let folder = folder_with(&[("t.csv", b"a,b\n1,2\n3,4\n".to_vec())]);
    let data = load(&folder.path().join("t.csv"), Split::All).unwrap();
    assert_eq!((data.n_samples(), data.labels()), (2, None));
    let preprocessing = PreprocessingKind::Standardize.fit(data.features()).unwrap();
    let error = data.labeled(&preprocessing).unwrap_err();
    assert_eq!(error.to_string(), "t.csv has no labels; training and accuracy need labeled data");
}

#[test]
fn missing_and_unknown_files_are_told_apart() {
    let folder = folder_with(&[("notes.pdf", vec![])]);
    let error = load(&folder.path().join("none.csv"), Split::All).unwrap_err();
    assert!(matches!(error, Error::Io { action: "read", .. }));
    let error = load(&folder.path().join("notes.pdf"), Split::All).unwrap_err();
    assert!(matches!(error, Error::UnknownFormat { .. }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn mutated_packed_folders_never_panic(position in 0_usize..60, value in any::<u8>(), cut in 0_usize..80) {
        let mut bytes = gzip(&idx_images(9));
        if let Some(byte) = bytes.get_mut(position) {
            *byte = value;
        }
        bytes.truncate(cut);
        let folder = folder_with(&[("train-images-idx3-ubyte.gz", bytes)]);
        let _ = load(folder.path(), Split::All);
    }
}

/// The path of a data set, or a loud note that the test is skipped.
fn real_data(name: &str) -> Option<std::path::PathBuf> {
    // Tests run in the folder of the package, the default is relative to the repository.
    let beside = format!("{}/../{DEFAULT_DATA_FOLDER}/{name}", env!("CARGO_MANIFEST_DIR"));
    match resolve_data_path(name).or_else(|error| resolve_data_path(&beside).map_err(|_| error)) {
        Ok(path) => Some(path),
        Err(error) => {
            eprintln!("SKIPPED on real data: {error}");
            None
        }
    }
}

/// The sizes in the data's own description; skipped aloud where the data are absent.
#[test]
fn real_data_have_their_documented_sizes() {
    let cases = [
        ("mnist", Split::Test, 10_000, "28×28×1", 10),
        ("fashion_mnist", Split::Test, 10_000, "28×28×1", 10),
        ("cifar10", Split::Test, 4_000, "32×32×3", 10),
        ("gtsrb", Split::Test, 3_000, "32×32×3", 43),
        ("tabular/breast_tissue.csv", Split::All, 106, "9", 6),
        ("tabular/crabs.csv", Split::All, 200, "6", 2),
        ("tabular/ovarian.csv", Split::All, 216, "100", 2),
        ("tabular/wine.csv", Split::All, 178, "13", 3),
        ("tabular/climate.csv", Split::All, 540, "18", 2),
        ("tabular/fertility.csv", Split::All, 100, "9", 2),
    ];
    for (name, split, n_samples, shape, n_classes) in cases {
        let Some(path) = real_data(name) else { continue };
        let data = load(&path, split).unwrap();
        let actual = (data.n_samples(), data.shape().to_string(), data.n_classes());
        assert_eq!(actual, (n_samples, shape.to_owned(), n_classes), "{name}");
    }
}
