//! Loading data sets from folders and files, good and bad, and real ones where they are present.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stderr, reason = "tests")]

#[path = "support/real_data.rs"]
mod real_data;

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::{Compression, write::GzEncoder};
use ndarray::{Array1, Array2};
use ndarray_npy::{WriteNpyExt, write_npy};
use nn_poly::import::{DataOptions, Dataset, PreprocessingKind, Split, SplitSpec};
use nn_poly::{Error, Shape};
use proptest::prelude::*;
use real_data::real_data;

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

/// A label column by name, with text; classes are matched with those of a model by name.
#[test]
fn classes_of_tables_can_be_names() {
    let mut text = String::from("x,kind,y\n");
    for i in 0..30 {
        text += &format!("{i},{},{}\n", ["setosa", "Iris", "virginica"][i % 3], i * i);
    }
    let folder = folder_with(&[("iris.csv", text.into_bytes()), ("f.npy", vec![])]);
    let path = folder.path().join("iris.csv");
    let options = DataOptions { label_column: Some("kind".into()) };
    let with =
        |path: &Path, split| Dataset::load_with(path, split, &SplitSpec::default(), &options);
    let test = with(&path, Split::Test).unwrap();
    assert_eq!(test.class_names(), ["Iris", "setosa", "virginica"]);
    assert_eq!((test.n_samples(), test.shape().len()), (6, 2));
    let all = with(&path, Split::All).unwrap();
    assert_eq!(all.labels().unwrap()[..4], [1, 0, 2, 1]);
    let names = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
    let of_model = names(&["virginica", "other", "setosa", "Iris"]);
    let moved = all.take(3).unwrap().with_classes(&of_model).unwrap();
    assert_eq!((moved.labels().unwrap(), moved.n_classes()), ([2, 3, 0].as_slice(), 4));
    let error = all.with_classes(&names(&["0", "1", "2"])).unwrap_err().to_string();
    assert_eq!(error, "class `setosa` of the data is none of the model's classes: 0, 1, 2");

    let message = message(&path, Split::All);
    assert!(
        message.ends_with("line 2, column `kind`: `setosa` is not a finite number"),
        "{message}"
    );
    let error = with(&folder.path().join("f.npy"), Split::All).unwrap_err().to_string();
    assert!(error.contains("a label column is named, but this is no table"), "{error}");
}

#[test]
fn archives_hold_one_or_two_parts() {
    let folder = tempfile::tempdir().unwrap();
    let images = |n: usize| ndarray::Array3::<u8>::from_elem((n, 4, 5), 51);
    let labels = |n: u8| Array1::from_iter(0..n).mapv(|i| i % 2);
    let write = |name: &str, arrays: &[(&str, usize)]| {
        let path = folder.path().join(name);
        let mut archive = zip::ZipWriter::new(fs::File::create(&path).unwrap());
        for &(array, n) in arrays {
            let options = zip::write::SimpleFileOptions::default();
            archive.start_file(format!("{array}.npy"), options).unwrap();
            let mut bytes = Vec::new();
            if array.starts_with('x') || array == "features" {
                images(n).write_npy(&mut bytes).unwrap();
            } else {
                // As Keras stores CIFAR: a second axis of length 1.
                let column = labels(u8::try_from(n).unwrap()).insert_axis(ndarray::Axis(1));
                column.write_npy(&mut bytes).unwrap();
            }
            archive.write_all(&bytes).unwrap();
        }
        archive.finish().unwrap();
        path
    };
    let parts = [("x_train", 9), ("y_train", 9), ("x_test", 3), ("y_test", 3)];
    let path = write("two.npz", &parts);
    let train = load(&path, Split::Train).unwrap();
    assert_eq!((train.n_samples(), train.shape()), (9, &Shape::image(4, 5, 1).unwrap()));
    assert!(train.features().iter().all(|&v| v == 0.2));
    let test = load(&path, Split::Test).unwrap();
    assert_eq!((test.n_samples(), test.labels().unwrap()), (3, [0, 1, 0].as_slice()));
    assert_eq!(load(&path, Split::All).unwrap().n_samples(), 12);
    let whole = write("one.npz", &[("features", 20), ("labels", 20)]);
    assert_eq!(load(&whole, Split::Test).unwrap().n_samples(), 4);
    let unlabeled = write("unlabeled.npz", &[("x", 20)]);
    assert_eq!(load(&unlabeled, Split::All).unwrap().labels(), None);

    let wrong = write("lengths.npz", &[("x", 20), ("y", 19)]);
    assert!(message(&wrong, Split::All).contains("number of labels is 19"));
    let strange = write("strange.npz", &[("weights", 3)]);
    let error = message(&strange, Split::All);
    assert!(error.contains("list of NPZ arrays is weights.npy, expected `features`"), "{error}");
    fs::write(&strange, b"PK\x03\x04 and no more").unwrap();
    assert!(matches!(load(&strange, Split::All), Err(Error::InFile { .. })));

    let bytes = fs::read(&path).unwrap();
    for position in (0..bytes.len()).step_by(3) {
        let mut bytes = bytes.clone();
        bytes[position] ^= 0x55;
        fs::write(&strange, &bytes).unwrap();
        let _ = load(&strange, Split::All);
        bytes.truncate(position);
        fs::write(&strange, &bytes).unwrap();
        assert!(load(&strange, Split::All).is_err(), "cut at {position}");
    }
}

#[cfg(feature = "image-files")]
#[test]
fn folders_of_images_are_classes() {
    use image::{GrayImage, ImageFormat, Luma, Rgb, RgbImage};
    let folder = tempfile::tempdir().unwrap();
    let save = |name: &str, value: u8| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let image = GrayImage::from_pixel(3, 2, Luma([value]));
        image.save_with_format(path, ImageFormat::Png).unwrap();
    };
    for i in 0..5 {
        save(&format!("dog/{i}.png"), 51);
        save(&format!("ant/{i}.PNG"), 102);
    }
    fs::write(folder.path().join("README"), "notes").unwrap();
    fs::write(folder.path().join("ant/.hidden"), "").unwrap();
    let all = load(folder.path(), Split::All).unwrap();
    assert_eq!((all.n_samples(), all.shape()), (10, &Shape::image(2, 3, 1).unwrap()));
    assert_eq!(all.class_names(), ["ant", "dog"]);
    assert_eq!((all.labels().unwrap()[0], all.features()[[0, 0]]), (0, 0.4));
    assert_eq!(load(folder.path(), Split::Test).unwrap().n_samples(), 2);
    fs::write(folder.path().join("classes.txt"), "0 dog\n1 cat\n2 ant\n").unwrap();
    let ordered = load(folder.path(), Split::All).unwrap();
    assert_eq!(ordered.class_names(), ["dog", "cat", "ant"]);
    assert_eq!(ordered.labels().unwrap()[0], 2);

    fs::write(folder.path().join("classes.txt"), "0 dog\n1 cat\n").unwrap();
    assert!(message(folder.path(), Split::All).contains("class `ant` of the data is none"));
    fs::remove_file(folder.path().join("classes.txt")).unwrap();
    RgbImage::from_pixel(3, 2, Rgb([0, 255, 0])).save(folder.path().join("dog/9.png")).unwrap();
    assert_eq!(load(folder.path(), Split::All).unwrap().shape(), &Shape::image(2, 3, 3).unwrap());
    GrayImage::new(3, 3).save(folder.path().join("dog/8.png")).unwrap();
    let error = message(folder.path(), Split::All);
    assert!(error.contains("8.png: the image has 3 by 3 pixels, others"), "{error}");
    fs::write(folder.path().join("dog/8.png"), b"no image").unwrap();
    assert!(message(folder.path(), Split::All).contains("neither PNG nor JPEG"));
    fs::write(folder.path().join("dog/8.webp"), b"").unwrap();
    assert!(message(folder.path(), Split::All).contains("8.webp: the image is not named .png"));
}

#[cfg(feature = "image-files")]
#[test]
fn images_can_have_their_own_test_part_and_numbers_for_names() {
    let folder = tempfile::tempdir().unwrap();
    for (class, n_train, n_test) in [(0, 3, 1), (2, 1, 2), (10, 1, 1)] {
        for (part, n) in [("train", n_train), ("test", n_test)] {
            let class = folder.path().join(part).join(class.to_string());
            fs::create_dir_all(&class).unwrap();
            for i in 0..n {
                image::GrayImage::new(2, 2).save(class.join(format!("{i}.jpg"))).unwrap();
            }
        }
    }
    let train = load(folder.path(), Split::Train).unwrap();
    assert_eq!(train.labels().unwrap(), [0, 0, 0, 10, 2], "files in the order of their names");
    assert_eq!((train.n_samples(), train.n_classes()), (5, 11));
    assert_eq!(load(folder.path(), Split::Test).unwrap().labels().unwrap(), [0, 10, 2, 2]);
}

#[test]
fn a_file_of_idx_images_finds_its_labels() {
    let folder = folder_with(&[
        ("my-images-idx3-ubyte.gz", gzip(&idx_images(3))),
        ("my-labels-idx1-ubyte", idx_labels(&[0, 1, 2])),
    ]);
    let all = load(&folder.path().join("my-images-idx3-ubyte.gz"), Split::All).unwrap();
    assert_eq!(all.labels().unwrap(), [0, 1, 2]);
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
