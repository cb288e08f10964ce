//! NumPy archives: features and labels of one or two parts in one file.
//!
//! | | features | labels |
//! |---|---|---|
//! | one part | `features`, `x`, `X`, `images` or `data` | `labels`, `y` or `target` |
//! | two parts | `x_train`, `train_features` or `train_images`, and the same with `test` | `y_train` or `train_labels`, and the same with `test` |

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use zip::ZipArchive;

use super::classes::Labels;
use super::files::{FileSet, Files, Part};
use super::{MAX_FILE_BYTES, excerpt, npy};
use crate::error::{Error, Result};

/// Most entries of an archive.
const MAX_ENTRIES: usize = 1 << 14;

const WHOLE_FEATURES: [&str; 5] = ["features", "x", "X", "images", "data"];
const WHOLE_LABELS: [&str; 3] = ["labels", "y", "target"];
const TRAIN_FEATURES: [&str; 3] = ["x_train", "train_features", "train_images"];
const TRAIN_LABELS: [&str; 2] = ["y_train", "train_labels"];
const TEST_FEATURES: [&str; 3] = ["x_test", "test_features", "test_images"];
const TEST_LABELS: [&str; 2] = ["y_test", "test_labels"];

/// The arrays of one part in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NpzPart {
    path: PathBuf,
    features: &'static str,
    labels: Option<&'static str>,
}

impl NpzPart {
    /// Find the parts of an archive by the names of its arrays.
    pub(super) fn find(path: &Path) -> Result<Files> {
        let archive = open(path)?;
        let find = |names: &[&'static str]| {
            names.iter().copied().find(|name| archive.index_for_name(&entry_name(name)).is_some())
        };
        let part = |features: &[&'static str], labels: &[&'static str]| {
            let (features, labels) = (find(features)?, find(labels));
            Some(FileSet::Npz(Self { path: path.to_owned(), features, labels }))
        };
        let train = part(&TRAIN_FEATURES, &TRAIN_LABELS);
        let test = part(&TEST_FEATURES, &TEST_LABELS);
        let whole = part(&WHOLE_FEATURES, &WHOLE_LABELS);
        Ok(match (train, test, whole) {
            (Some(train), Some(test), _) => Files::Parts { train, test },
            (_, _, Some(whole)) | (Some(whole), None, None) => Files::Whole(whole),
            (None, Some(test), None) => Files::TestOnly(test),
            (None, None, None) => {
                let names = archive.file_names().take(8).collect::<Vec<_>>().join(", ");
                let error = Error::UnexpectedHeader {
                    field: "list of NPZ arrays",
                    expected:
                        "`features` and `labels`, or `x_train`, `y_train`, `x_test`, `y_test`"
                            .into(),
                    actual: excerpt(&names),
                };
                return Err(error.in_file(path));
            }
        })
    }

    pub(super) fn read(&self) -> Result<Part> {
        let mut archive = open(&self.path)?;
        self.part(&mut archive).map_err(|error| error.in_file(&self.path))
    }

    fn part(&self, archive: &mut ZipArchive<BufReader<File>>) -> Result<Part> {
        let (shape, features) = npy::parse_features(&unpack(archive, self.features)?)?;
        let Some(name) = self.labels else { return Ok(Part { shape, features, labels: None }) };
        let labels = npy::parse_labels(&unpack(archive, name)?)?;
        if labels.len() != features.nrows() {
            let (expected, actual) = (features.nrows(), labels.len());
            return Err(Error::InconsistentParts { what: "number of labels", expected, actual });
        }
        Ok(Part { shape, features, labels: Some(Labels::Numbers(labels)) })
    }
}

/// Read the directory of an archive; its entries stay packed.
fn open(path: &Path) -> Result<ZipArchive<BufReader<File>>> {
    let io = |cause| Error::Io { action: "read", path: path.to_path_buf(), cause };
    let file = File::open(path).map_err(io)?;
    let n_bytes = file.metadata().map_err(io)?.len();
    let too_large = |what, actual, limit| Error::TooLarge { what, actual, limit }.in_file(path);
    if n_bytes > MAX_FILE_BYTES as u64 {
        return Err(too_large("NPZ file (bytes)", n_bytes, MAX_FILE_BYTES as u64));
    }
    let archive = ZipArchive::new(BufReader::new(file))
        .map_err(|cause| Error::Decode { cause: Box::new(cause) }.in_file(path))?;
    if archive.len() > MAX_ENTRIES {
        return Err(too_large("number of NPZ arrays", archive.len() as u64, MAX_ENTRIES as u64));
    }
    Ok(archive)
}

fn entry_name(array: &str) -> String {
    format!("{array}.npy")
}

/// The bytes of one array: no more than its entry claims, which is at most [`MAX_FILE_BYTES`].
fn unpack(archive: &mut ZipArchive<BufReader<File>>, array: &str) -> Result<Vec<u8>> {
    let damaged = |cause| Error::Decode { cause };
    let entry = archive.by_name(&entry_name(array)).map_err(|cause| damaged(Box::new(cause)))?;
    let (actual, limit) = (entry.size(), MAX_FILE_BYTES as u64);
    if actual > limit {
        return Err(Error::TooLarge { what: "unpacked NPZ array (bytes)", actual, limit });
    }
    let mut bytes = Vec::new();
    entry.take(actual).read_to_end(&mut bytes).map_err(|cause| damaged(Box::new(cause)))?;
    Ok(bytes)
}
