//! CIFAR-style records: one label byte, then three planes of 32×32 bytes, without a header.

use std::path::{Path, PathBuf};

use ndarray::Array2;

use super::classes::Labels;
use super::files::Part;
use super::{MAX_FEATURE_VALUES, MAX_FILE_BYTES, gzip};
use crate::error::{Error, Result};
use crate::tensor::Shape;

const HEIGHT: usize = 32;
const WIDTH: usize = 32;
const CHANNELS: usize = 3;
const PLANE: usize = HEIGHT * WIDTH;
/// Bytes of one record.
const RECORD_BYTES: usize = 1 + CHANNELS * PLANE;

/// Whether a file name ends like a record file.
pub(super) fn is_record_file(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with(".bin") || name.ends_with(".bin.gz")
}

/// The record files of one part in a folder: `*_train.bin[.gz]` or `data_batch_*.bin[.gz]` for
/// training, `*_test.bin[.gz]` or `test_batch.bin[.gz]` for testing; in the order of their names.
pub(super) fn find(folder: &Path, part: &str) -> Result<Vec<PathBuf>> {
    let io = |cause| Error::Io { action: "list", path: folder.to_path_buf(), cause };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let stem = name.strip_suffix(".gz").unwrap_or(&name).strip_suffix(".bin");
        let belongs = stem.is_some_and(|stem| {
            stem.ends_with(&format!("_{part}"))
                || (part == "train" && stem.starts_with("data_batch"))
                || (part == "test" && stem == "test_batch")
        });
        if belongs && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Read the files of one part, one after the other.
pub(super) fn read(paths: &[PathBuf]) -> Result<Part> {
    let mut values = Vec::new();
    let mut labels = Vec::new();
    for path in paths {
        let bytes = gzip::read(path, MAX_FILE_BYTES)?;
        append(&bytes, &mut values, &mut labels).map_err(|error| error.in_file(path))?;
    }
    let shape = Shape::image(HEIGHT, WIDTH, CHANNELS)?;
    let features = Array2::from_shape_vec((labels.len(), shape.len()), values)
        .expect("invariant: every record adds one label and one image");
    Ok(Part { shape, features, labels: Some(Labels::Numbers(labels)) })
}

/// Decode records: planes become channel-last pixels, bytes become `v/255`.
fn append(bytes: &[u8], values: &mut Vec<f32>, labels: &mut Vec<u32>) -> Result<()> {
    let surplus = bytes.len() % RECORD_BYTES;
    if surplus != 0 {
        let whole = bytes.len() - surplus;
        return Err(Error::Truncated {
            what: "the last record of 3073 bytes",
            expected: (whole + RECORD_BYTES) as u64,
            actual: bytes.len() as u64,
        });
    }
    let total = values.len() + bytes.len();
    if total > MAX_FEATURE_VALUES {
        return Err(Error::TooLarge {
            what: "number of pixel values",
            actual: total as u64,
            limit: MAX_FEATURE_VALUES as u64,
        });
    }
    values.reserve(bytes.len());
    for record in bytes.chunks_exact(RECORD_BYTES) {
        let Some((&label, planes)) = record.split_first() else { continue };
        labels.push(u32::from(label));
        let (red, rest) = planes.split_at(PLANE);
        let (green, blue) = rest.split_at(PLANE);
        for ((&red, &green), &blue) in red.iter().zip(green).zip(blue) {
            values.extend([red, green, blue].map(|byte| f32::from(byte) / 255.0));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn planes_become_pixels() {
        let mut record = vec![0_u8; RECORD_BYTES];
        record[0] = 7;
        record[1 + 33] = 255; // red of row 1, column 1
        record[1 + PLANE + 33] = 51; // green
        let (mut values, mut labels) = (Vec::new(), Vec::new());
        append(&record, &mut values, &mut labels).unwrap();
        assert_eq!(labels, [7]);
        assert_eq!(values[33 * 3..34 * 3], [1.0, 0.2, 0.0]);
        let sum: f32 = values.iter().sum();
        assert!((sum - 1.2).abs() < 1e-6);
    }

    #[test]
    fn an_incomplete_record_is_refused() {
        let mut targets = (Vec::new(), Vec::new());
        let result = append(&[0; RECORD_BYTES + 9], &mut targets.0, &mut targets.1);
        assert!(matches!(result, Err(Error::Truncated { expected: 6146, actual: 3082, .. })));
    }

    #[test]
    fn the_original_batch_names_are_known_too() {
        let folder = tempfile::tempdir().unwrap();
        for name in
            ["data_batch_2.bin", "data_batch_1.bin", "test_batch.bin", "x_test.bin.gz", "notes"]
        {
            std::fs::write(folder.path().join(name), []).unwrap();
        }
        let names = |part| -> Vec<String> {
            let paths = find(folder.path(), part).unwrap();
            paths.iter().map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect()
        };
        assert_eq!(names("train"), ["data_batch_1.bin", "data_batch_2.bin"]);
        assert_eq!(names("test"), ["test_batch.bin", "x_test.bin.gz"]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(len in 0_usize..7000, value in any::<u8>()) {
            let (mut values, mut labels) = (Vec::new(), Vec::new());
            let result = append(&vec![value; len], &mut values, &mut labels);
            prop_assert_eq!(result.is_ok(), len % RECORD_BYTES == 0);
        }
    }
}
