//! Which files of a path hold samples together, and which part of a data set they are.

use std::path::{Path, PathBuf};

use ndarray::Axis;

use super::classes::Labels;
use super::idx::IdxFiles;
use super::image_folder::ImageFolder;
use super::npy::NpyFiles;
use super::npz::NpzPart;
use super::{DataOptions, Split, records, table};
use crate::error::{Error, Result};
use crate::tensor::Shape;

/// What one reader found.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) shape: Shape,
    pub(super) features: ndarray::Array2<f32>,
    pub(super) labels: Option<Labels>,
}

/// One set of files that hold samples together.
#[derive(Debug)]
pub(super) enum FileSet {
    Idx(IdxFiles),
    Records(Vec<PathBuf>),
    Npy(NpyFiles),
    Npz(NpzPart),
    Images(ImageFolder),
    Table { path: PathBuf, label_column: Option<String> },
}

impl FileSet {
    fn read(&self) -> Result<Part> {
        match self {
            Self::Idx(files) => files.read(),
            Self::Records(paths) => records::read(paths),
            Self::Npy(files) => files.read(),
            Self::Npz(part) => part.read(),
            Self::Images(folder) => folder.read(),
            Self::Table { path, label_column } => table::read(path, label_column.as_deref()),
        }
    }
}

/// What a path holds: parts made by its author, or one set to be cut.
#[derive(Debug)]
pub(super) enum Files {
    Parts { train: FileSet, test: FileSet },
    Whole(FileSet),
    TestOnly(FileSet),
}

impl Files {
    /// Recognize the format of `path` by names.
    pub(super) fn find(path: &Path, options: &DataOptions) -> Result<Self> {
        let found = Self::recognize(path, options)?;
        if options.label_column.is_some() && !matches!(found, Self::Whole(FileSet::Table { .. })) {
            let reason = "a label column is named, but this is no table in a CSV file";
            return Err(Error::UnknownFormat { path: path.to_path_buf(), reason });
        }
        Ok(found)
    }

    fn recognize(path: &Path, options: &DataOptions) -> Result<Self> {
        let unknown = |reason| Error::UnknownFormat { path: path.to_path_buf(), reason };
        if path.is_dir() {
            return Self::find_in_folder(path)?.ok_or_else(|| {
                unknown(
                    "no IDX files (train-images-idx3-ubyte), records (*_train.bin), features.npy, or \
                     PNG or JPEG files, perhaps in folders named by class, in this folder",
                )
            });
        }
        if !path.exists() {
            let cause = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(Error::Io { action: "read", path: path.to_path_buf(), cause });
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(".csv") || name.ends_with(".csv.gz") {
            let (path, label_column) = (path.to_path_buf(), options.label_column.clone());
            Ok(Self::Whole(FileSet::Table { path, label_column }))
        } else if name.ends_with(".npy") {
            Ok(Self::Whole(FileSet::Npy(NpyFiles::beside(path))))
        } else if name.ends_with(".npz") {
            NpzPart::find(path)
        } else if let Some(files) = IdxFiles::beside(path) {
            Ok(Self::Whole(FileSet::Idx(files)))
        } else if records::is_record_file(path) {
            Ok(Self::Whole(FileSet::Records(vec![path.to_path_buf()])))
        } else {
            Err(unknown(
                "the name ends in none of .csv, .csv.gz, .npy, .npz, .bin, .bin.gz, images-idx3-ubyte[.gz]",
            ))
        }
    }

    fn find_in_folder(folder: &Path) -> Result<Option<Self>> {
        let idx = |prefix| IdxFiles::find(folder, prefix).map(FileSet::Idx);
        let npy = |prefix| NpyFiles::find(folder, prefix).map(FileSet::Npy);
        let records = |part| -> Result<Option<FileSet>> {
            let paths = records::find(folder, part)?;
            Ok((!paths.is_empty()).then_some(FileSet::Records(paths)))
        };
        let images = |name: &str| ImageFolder::find(&folder.join(name));
        let candidates = [
            (idx("train"), idx("t10k").or_else(|| idx("test"))),
            (records("train")?, records("test")?),
            (npy("train_").or_else(|| npy("")), npy("test_")),
        ];
        if let Some(found) = candidates.into_iter().find_map(|(train, test)| Self::of(train, test))
        {
            return Ok(Some(found));
        }
        // Listing folders of images takes longer than asking for names.
        let (train, test) = (images("train")?, images("test")?);
        if train.is_some() || test.is_some() {
            return Ok(Self::of(train.map(FileSet::Images), test.map(FileSet::Images)));
        }
        Ok(images("")?.map(|found| {
            // Without labels there is nothing to learn from: nothing is cut off for training.
            let has_classes = found.has_classes();
            let found = FileSet::Images(found);
            if has_classes { Self::Whole(found) } else { Self::TestOnly(found) }
        }))
    }

    fn of(train: Option<FileSet>, test: Option<FileSet>) -> Option<Self> {
        match (train, test) {
            (Some(train), Some(test)) => Some(Self::Parts { train, test }),
            (Some(whole), None) => Some(Self::Whole(whole)),
            (None, Some(test)) => Some(Self::TestOnly(test)),
            (None, None) => None,
        }
    }

    /// The one set of files to choose `split` from, and whether its samples still have to be cut;
    /// `None` if there are two, or none.
    pub(super) fn into_single(self, split: Split) -> Option<(FileSet, bool)> {
        match (self, split) {
            (Self::Parts { train, .. }, Split::Train) => Some((train, false)),
            (Self::Parts { test, .. }, Split::Test)
            | (Self::TestOnly(test), Split::Test | Split::All) => Some((test, false)),
            (Self::Parts { .. }, Split::All) | (Self::TestOnly(_), Split::Train) => None,
            (Self::Whole(whole), _) => Some((whole, true)),
        }
    }

    /// The samples to choose `split` from, and whether they still have to be cut.
    pub(super) fn read(&self, path: &Path, split: Split) -> Result<(Part, bool)> {
        match (self, split) {
            (Self::Parts { train, .. }, Split::Train) => Ok((train.read()?, false)),
            (Self::Parts { test, .. }, Split::Test) => Ok((test.read()?, false)),
            (Self::Parts { train, test }, Split::All) => {
                Ok((join(train.read()?, test.read()?).map_err(|e| e.in_file(path))?, false))
            }
            (Self::TestOnly(test), Split::Test | Split::All) => Ok((test.read()?, false)),
            (Self::TestOnly(_), Split::Train) => Err(Error::UnknownFormat {
                path: path.to_path_buf(),
                reason: "the folder holds a test part but no training part",
            }),
            (Self::Whole(whole), _) => Ok((whole.read()?, true)),
        }
    }
}

/// Put the test part behind the training part.
fn join(train: Part, test: Part) -> Result<Part> {
    if train.shape != test.shape {
        return Err(Error::ShapeMismatch {
            what: "a sample of the test part",
            expected: train.shape.dims().to_vec(),
            actual: test.shape.dims().to_vec(),
        });
    }
    let mut features = train.features;
    features
        .append(Axis(0), test.features.view())
        .expect("invariant: rows of one shape are equally long");
    let labels = match (train.labels, test.labels) {
        (Some(train), Some(test)) => {
            let joined = train.join(test).ok_or_else(|| Error::UnexpectedHeader {
                field: "kind of class labels of the test part",
                expected: "numbers or names, as in the training part".into(),
                actual: "the other".into(),
            })?;
            Some(joined)
        }
        _ => None,
    };
    Ok(Part { shape: train.shape, features, labels })
}
