#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

fn table(n: usize, named: bool) -> String {
    let mut text = String::from("x,label,y\n");
    for i in 0..n {
        let class =
            if named { ["ant", "bee", "cat"][i % 3].to_owned() } else { (i % 3).to_string() };
        writeln!(text, "{i},{class},{}.5", n - i).unwrap();
    }
    text
}

fn written(text: &str, name: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    if name.ends_with(".gz") {
        let mut packed = GzEncoder::new(fs::File::create(&path).unwrap(), Compression::fast());
        packed.write_all(text.as_bytes()).unwrap();
        packed.finish().unwrap();
    } else {
        fs::write(&path, text).unwrap();
    }
    (folder, path)
}

fn open(path: &Path, split: Split, n_features: usize) -> Result<SampleStream> {
    let shape = Shape::vector(n_features).unwrap();
    SampleStream::open(path, split, &SplitSpec::default(), &DataOptions::default(), &shape)
}

fn drain(stream: &mut SampleStream, step: usize) -> Array2<f32> {
    let mut all = Array2::zeros((0, stream.shape().len()));
    while let Some(part) = stream.next_features(step).unwrap() {
        assert!(part.nrows() <= step && part.nrows() > 0);
        all.append(Axis(0), part.view()).unwrap();
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_stream_holds_what_loading_gives(
        n in 1_usize..90,
        step in 1_usize..40,
        split in prop::sample::select(vec![Split::Train, Split::Test, Split::All]),
        named in any::<bool>(),
        packed in any::<bool>(),
        limit in prop::option::of(1_usize..40),
    ) {
        let name = if packed { "t.csv.gz" } else { "t.csv" };
        let (_folder, path) = written(&table(n, named), name);
        let loaded = Dataset::load(&path, split, &SplitSpec::default());
        let stream = open(&path, split, 2);
        let Ok(loaded) = loaded else {
            prop_assert!(stream.is_err(), "both refuse an empty part");
            return Ok(());
        };
        let loaded = loaded.take(limit.unwrap_or(usize::MAX)).unwrap();
        let mut stream = stream.unwrap().take(limit.unwrap_or(usize::MAX)).unwrap();
        prop_assert_eq!(stream.n_samples(), loaded.n_samples());
        prop_assert_eq!(stream.labels(), loaded.labels());
        let numbers: Vec<usize> = (0..stream.n_samples()).rev().step_by(3).collect();
        prop_assert_eq!(stream.select(&numbers).unwrap(), loaded.features().select(Axis(0), &numbers));
        prop_assert_eq!(&drain(&mut stream, step), loaded.features());
        prop_assert!(stream.next_features(step).unwrap().is_none());
        prop_assert!(stream.select(&[stream.n_samples()]).is_err());
    }

    #[test]
    fn classes_are_matched_as_loading_matches_them(n in 3_usize..30, shift in 0_usize..3) {
        let (_folder, path) = written(&table(n, true), "t.csv");
        let mut classes: Vec<String> = ["ant", "bee", "cat"].map(str::to_owned).to_vec();
        classes.rotate_left(shift);
        let loaded = Dataset::load(&path, Split::All, &SplitSpec::default()).unwrap();
        let stream = open(&path, Split::All, 2).unwrap().with_classes(&classes).unwrap();
        let loaded = loaded.with_classes(&classes).unwrap();
        prop_assert_eq!(stream.labels(), loaded.labels());
        classes.pop();
        prop_assert!(open(&path, Split::All, 2).unwrap().with_classes(&classes).is_err());
    }
}

#[test]
fn a_fault_in_the_last_row_is_found_when_the_stream_is_opened() {
    let (_folder, path) = written(&(table(500, false) + "1,0,x\n"), "t.csv");
    let error = open(&path, Split::All, 2).unwrap_err().to_string();
    assert!(error.contains("line 502, column `y`: `x` is not a finite number"), "{error}");
    assert!(error.contains("t.csv"), "{error}");
}

#[test]
fn samples_of_another_shape_are_refused() {
    let (_folder, path) = written(&table(5, false), "t.csv");
    let error = open(&path, Split::All, 3).unwrap_err();
    let Error::InFile { error, .. } = error else { panic!("{error}") };
    assert!(matches!(*error, Error::ShapeMismatch { .. }), "{error}");
}

#[test]
fn a_file_that_shrinks_while_it_is_read_is_an_error() {
    let (_folder, path) = written(&table(20_000, false), "t.csv");
    let mut stream = open(&path, Split::All, 2).unwrap();
    fs::write(&path, table(3, false)).unwrap();
    let error = stream.next_features(100).unwrap_err().to_string();
    assert!(error.contains("the file was changed while it was read"), "{error}");
}

#[test]
fn a_row_without_end_stops_at_the_limit() {
    // 100 MB of one cell, in a few KB of gzip.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.csv.gz");
    let mut packed = GzEncoder::new(fs::File::create(&path).unwrap(), Compression::best());
    packed.write_all(b"x,y\n1,\"").unwrap();
    let ones = vec![b'1'; 1 << 20];
    for _ in 0..100 {
        packed.write_all(&ones).unwrap();
    }
    packed.finish().unwrap();
    let error = open(&path, Split::All, 2).unwrap_err().to_string();
    assert!(error.contains("a row is longer than 64 MiB"), "{error}");
}

#[test]
fn other_formats_are_read_from_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("features.npy");
    let values =
        Array2::from_shape_fn((7, 2), |(i, j)| f32::from(u8::try_from(i * 2 + j).unwrap()));
    ndarray_npy::write_npy(&path, &values).unwrap();
    let mut stream = open(&path, Split::All, 2).unwrap();
    assert_eq!(stream.select(&[6, 0]).unwrap(), values.select(Axis(0), &[6, 0]));
    assert_eq!(drain(&mut stream, 3), values);
}

#[cfg(feature = "image-files")]
mod images {
    use image::{GrayImage, Luma, Rgb, RgbImage};

    use super::*;

    fn gray(path: &Path, value: u8) {
        GrayImage::from_pixel(3, 2, Luma([value])).save(path).unwrap();
    }

    fn stream(path: &Path, channels: usize) -> Result<SampleStream> {
        let shape = Shape::image(2, 3, channels).unwrap();
        let (spec, options) = (SplitSpec::default(), DataOptions::default());
        SampleStream::open(path, Split::Test, &spec, &options, &shape)
    }

    #[test]
    fn a_folder_of_images_without_classes_is_read_in_the_order_of_names() {
        let folder = tempfile::tempdir().unwrap();
        for (i, value) in [51, 102, 204].into_iter().enumerate() {
            gray(&folder.path().join(format!("{i}.png")), value);
        }
        fs::write(folder.path().join("notes.txt"), "not an image").unwrap();
        let mut samples = stream(folder.path(), 1).unwrap();
        assert_eq!((samples.n_samples(), samples.labels()), (3, None));
        let whole = Dataset::load(folder.path(), Split::Test, &SplitSpec::default()).unwrap();
        assert_eq!(&drain(&mut samples, 2), whole.features());
        assert!((samples.select(&[1]).unwrap()[[0, 0]] - 0.4).abs() < 1e-6);
        assert!(Dataset::load(folder.path(), Split::Train, &SplitSpec::default()).is_err());
        // The model says how many channels there are.
        assert_eq!(drain(&mut stream(folder.path(), 3).unwrap(), 9).ncols(), 18);
        RgbImage::from_pixel(3, 2, Rgb([1, 2, 3])).save(folder.path().join("3.png")).unwrap();
        let mut samples = stream(folder.path(), 1).unwrap();
        let error = samples.next_features(9).unwrap_err().to_string();
        assert!(error.contains("3.png"), "{error}");
    }

    #[test]
    fn folders_of_classes_stream_as_they_load() {
        let folder = tempfile::tempdir().unwrap();
        for class in ["a", "b"] {
            fs::create_dir(folder.path().join(class)).unwrap();
            for i in 0..9 {
                gray(
                    &folder.path().join(class).join(format!("{i}.png")),
                    i * 10 + class.as_bytes()[0],
                );
            }
        }
        let whole = Dataset::load(folder.path(), Split::Test, &SplitSpec::default()).unwrap();
        let mut samples = stream(folder.path(), 1).unwrap();
        assert_eq!(samples.labels(), whole.labels());
        assert_eq!(&drain(&mut samples, 2), whole.features());
    }
}
