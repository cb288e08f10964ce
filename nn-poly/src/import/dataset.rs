//! A data set in memory, and loading one from any supported format.

use std::path::Path;

use ndarray::{Array2, Axis};

use super::idx::IdxFiles;
use super::npy::NpyFiles;
use super::{MAX_FEATURE_VALUES, Preprocessing, Split, SplitSpec, records, table};
use crate::artifact;
use crate::error::{Error, Result};
use crate::tensor::{Shape, check_finite};
use crate::train::LabeledSamples;

/// Most classes a data set may have.
pub const MAX_CLASSES: usize = 4096;

/// Samples with raw features and, where known, labels.
///
/// Pixels are scaled to `[0, 1]` by their reader; table cells are as in the file. Samples are images
/// `[h, w, c]` or vectors `[n]`, one row of `features` each.
///
/// Invariants: at least one sample; all features finite; one label per sample, each below the number
/// of classes.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    shape: Shape,
    features: Array2<f32>,
    labels: Option<Vec<u32>>,
    class_names: Vec<String>,
    source: String,
}

/// What one reader found.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) shape: Shape,
    pub(super) features: Array2<f32>,
    pub(super) labels: Option<Vec<u32>>,
}

impl Dataset {
    /// Check the parts and make them a data set.
    ///
    /// An empty `class_names` stands for the numbers from 0 to the largest label.
    ///
    /// # Errors
    /// - [`Error::NoSamples`] if there is no row.
    /// - [`Error::ShapeMismatch`] if the rows do not have the shape, or the labels not one per row.
    /// - [`Error::NonFiniteInput`] if a feature is NaN or infinite.
    /// - [`Error::InvalidLabel`] if a label names no class.
    /// - [`Error::TooLarge`] if there are more than [`MAX_FEATURE_VALUES`] values.
    pub fn new(
        shape: Shape,
        features: Array2<f32>,
        labels: Option<Vec<u32>>,
        class_names: Vec<String>,
        source: String,
    ) -> Result<Self> {
        if features.nrows() == 0 {
            return Err(Error::NoSamples { what: "the data set" });
        }
        if features.len() > MAX_FEATURE_VALUES {
            let (actual, limit) = (features.len() as u64, MAX_FEATURE_VALUES as u64);
            return Err(Error::TooLarge { what: "number of feature values", actual, limit });
        }
        let mismatch = |what, expected: &[usize], actual: usize| Error::ShapeMismatch {
            what,
            expected: expected.to_vec(),
            actual: vec![actual],
        };
        if features.ncols() != shape.len() {
            return Err(mismatch("a row of features", shape.dims(), features.ncols()));
        }
        check_finite("features", features.view())?;
        let n_labels = labels.as_ref().map_or(features.nrows(), Vec::len);
        if n_labels != features.nrows() {
            return Err(mismatch("labels", &[features.nrows()], n_labels));
        }
        let largest = labels.iter().flatten().max().copied();
        let class_names = match (class_names.is_empty(), largest) {
            (true, Some(largest)) if (largest as usize) < MAX_CLASSES => {
                (0..=largest).map(|class| class.to_string()).collect()
            }
            _ => class_names,
        };
        check_labels(labels.as_deref().unwrap_or_default(), class_names.len())?;
        let features = if features.is_standard_layout() {
            features
        } else {
            features.as_standard_layout().into_owned()
        };
        Ok(Self { shape, features, labels, class_names, source })
    }

    /// Load one part of a data set; see the [module](super) for formats and names.
    ///
    /// If the source has files for training and for testing, `split` chooses between them. Otherwise
    /// the samples are cut by `split_spec`. A source with only a test part has no training part.
    ///
    /// # Errors
    /// - [`Error::Io`] if a file cannot be read.
    /// - [`Error::UnknownFormat`] if the path is in none of the formats, or lacks the wanted part.
    /// - [`Error::InFile`] naming the file, around what is wrong with it.
    /// - [`Error::NoSamples`] if the part is empty.
    pub fn load(path: &Path, split: Split, split_spec: &SplitSpec) -> Result<Self> {
        let files = Files::find(path)?;
        let class_names = read_class_names(path)?;
        let (part, is_cut) = files.read(path, split)?;
        let source = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let whole = Self::new(part.shape, part.features, part.labels, class_names, source)
            .map_err(|error| error.in_file(path))?;
        if !is_cut {
            return Ok(whole);
        }
        let strata = match &whole.labels {
            Some(labels) => labels.clone(),
            None => vec![0; whole.n_samples()],
        };
        let positions = split_spec.positions(&strata, split)?;
        whole.select(&positions).map_err(|error| error.in_file(path))
    }

    /// Shape of one sample.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Raw features, one row per sample.
    #[must_use]
    pub fn features(&self) -> &Array2<f32> {
        &self.features
    }

    /// One label per sample, if known.
    #[must_use]
    pub fn labels(&self) -> Option<&[u32]> {
        self.labels.as_deref()
    }

    /// Names of the classes, by label; empty if nothing is known about them.
    #[must_use]
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// Number of classes; 0 if nothing is known about them.
    #[must_use]
    pub fn n_classes(&self) -> usize {
        self.class_names.len()
    }

    /// Name of the file or folder the samples came from.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Number of samples.
    #[must_use]
    pub fn n_samples(&self) -> usize {
        self.features.nrows()
    }

    /// The samples at `positions`, in that order.
    ///
    /// # Errors
    /// - [`Error::NoSamples`] if `positions` is empty.
    /// - [`Error::ShapeMismatch`] if a position is not below the number of samples.
    pub fn select(&self, positions: &[usize]) -> Result<Self> {
        if let Some(&position) = positions.iter().find(|&&p| p >= self.n_samples()) {
            let (expected, actual) = (vec![self.n_samples()], vec![position]);
            return Err(Error::ShapeMismatch { what: "a selected position", expected, actual });
        }
        let labels = self.labels.as_ref().map(|labels| {
            positions.iter().filter_map(|&position| labels.get(position).copied()).collect()
        });
        Self::new(
            self.shape.clone(),
            self.features.select(Axis(0), positions),
            labels,
            self.class_names.clone(),
            self.source.clone(),
        )
    }

    /// The first `n_samples` samples, or all if there are fewer.
    ///
    /// # Errors
    /// - [`Error::NoSamples`] if `n_samples` is 0.
    pub fn take(&self, n_samples: usize) -> Result<Self> {
        let positions: Vec<usize> = (0..n_samples.min(self.n_samples())).collect();
        self.select(&positions)
    }

    /// The same samples with the class names of a model.
    ///
    /// # Errors
    /// - [`Error::InvalidLabel`] if a label is not among these classes.
    pub fn with_classes(mut self, class_names: &[String]) -> Result<Self> {
        check_labels(self.labels.as_deref().unwrap_or_default(), class_names.len())?;
        self.class_names = class_names.to_vec();
        Ok(self)
    }

    /// Preprocessed inputs with labels, for training and for measuring accuracy.
    ///
    /// # Errors
    /// - [`Error::MissingLabels`] if the samples are unlabeled.
    /// - [`Error::ShapeMismatch`] if the preprocessing was fitted to other features.
    pub fn labeled(&self, preprocessing: &Preprocessing) -> Result<LabeledSamples> {
        let labels = self
            .labels
            .clone()
            .ok_or_else(|| Error::MissingLabels { source_name: self.source.clone() })?;
        let inputs = preprocessing.apply(&self.features)?;
        LabeledSamples::new(self.shape.clone(), inputs, labels, self.n_classes())
    }
}

/// Check that every label is below `n_classes`.
pub(crate) fn check_labels(labels: &[u32], n_classes: usize) -> Result<()> {
    let n_classes = n_classes.min(MAX_CLASSES);
    match labels.iter().enumerate().find(|&(_, &label)| label as usize >= n_classes) {
        None => Ok(()),
        Some((position, label)) => Err(Error::InvalidLabel {
            position,
            value: label.to_string(),
            max: u32::try_from(n_classes).unwrap_or(u32::MAX).saturating_sub(1),
        }),
    }
}

/// One set of files that hold samples together.
enum FileSet {
    Idx(IdxFiles),
    Records(Vec<std::path::PathBuf>),
    Npy(NpyFiles),
    Table(std::path::PathBuf),
}

impl FileSet {
    fn read(&self) -> Result<Part> {
        match self {
            Self::Idx(files) => files.read(),
            Self::Records(paths) => records::read(paths),
            Self::Npy(files) => files.read(),
            Self::Table(path) => table::read(path),
        }
    }
}

/// What a path holds: parts made by its author, or one set to be cut.
enum Files {
    Parts { train: FileSet, test: FileSet },
    Whole(FileSet),
    TestOnly(FileSet),
}

impl Files {
    fn find(path: &Path) -> Result<Self> {
        let unknown = |reason| Error::UnknownFormat { path: path.to_path_buf(), reason };
        if path.is_dir() {
            return Self::find_in_folder(path)?.ok_or_else(|| {
                unknown("no IDX files (train-images-idx3-ubyte), records (*_train.bin) or features.npy in this folder")
            });
        }
        if !path.exists() {
            let cause = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(Error::Io { action: "read", path: path.to_path_buf(), cause });
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(".csv") || name.ends_with(".csv.gz") {
            Ok(Self::Whole(FileSet::Table(path.to_path_buf())))
        } else if name.ends_with(".npy") {
            Ok(Self::Whole(FileSet::Npy(NpyFiles::beside(path))))
        } else if records::is_record_file(path) {
            Ok(Self::Whole(FileSet::Records(vec![path.to_path_buf()])))
        } else {
            Err(unknown("the name ends in none of .csv, .csv.gz, .npy, .bin, .bin.gz"))
        }
    }

    fn find_in_folder(folder: &Path) -> Result<Option<Self>> {
        let idx = |prefix| IdxFiles::find(folder, prefix).map(FileSet::Idx);
        let npy = |prefix| NpyFiles::find(folder, prefix).map(FileSet::Npy);
        let records = |part| -> Result<Option<FileSet>> {
            let paths = records::find(folder, part)?;
            Ok((!paths.is_empty()).then_some(FileSet::Records(paths)))
        };
        let candidates = [
            (idx("train"), idx("t10k").or_else(|| idx("test"))),
            (records("train")?, records("test")?),
            (npy("train_").or_else(|| npy("")), npy("test_")),
        ];
        Ok(candidates.into_iter().find_map(|(train, test)| match (train, test) {
            (Some(train), Some(test)) => Some(Self::Parts { train, test }),
            (Some(whole), None) => Some(Self::Whole(whole)),
            (None, Some(test)) => Some(Self::TestOnly(test)),
            (None, None) => None,
        }))
    }

    /// The samples to choose `split` from, and whether they still have to be cut.
    fn read(&self, path: &Path, split: Split) -> Result<(Part, bool)> {
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
        (Some(train), Some(test)) => Some([train, test].concat()),
        _ => None,
    };
    Ok(Part { shape: train.shape, features, labels })
}

/// Read `classes.txt` of a folder: one line `number name` per class, in order.
fn read_class_names(folder: &Path) -> Result<Vec<String>> {
    const MAX_BYTES: usize = 1 << 20;
    let path = folder.join("classes.txt");
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let bytes = artifact::read_file(&path, MAX_BYTES)?;
    parse_class_names(&bytes).map_err(|error| error.in_file(&path))
}

fn parse_class_names(bytes: &[u8]) -> Result<Vec<String>> {
    let invalid = |line: usize, reason: &str| Error::InvalidTable {
        line: line as u64,
        reason: reason.into(),
    };
    let text = std::str::from_utf8(bytes).map_err(|_| invalid(1, "the text is not UTF-8"))?;
    let mut names = Vec::new();
    for (line_idx, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let (number, name) = line
            .trim()
            .split_once(char::is_whitespace)
            .ok_or_else(|| invalid(line_idx + 1, "expected a class number, a space and a name"))?;
        if number.parse() != Ok(names.len()) {
            return Err(invalid(line_idx + 1, "classes must be numbered from 0 without gaps"));
        }
        if names.len() >= MAX_CLASSES {
            return Err(invalid(line_idx + 1, "at most 4096 classes are supported"));
        }
        names.push(name.trim().to_owned());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use ndarray::array;

    use super::*;

    fn dataset(labels: Option<Vec<u32>>, names: &[&str]) -> Result<Dataset> {
        let features = array![[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]];
        let names = names.iter().map(|&name| name.to_owned()).collect();
        Dataset::new(Shape::vector(2).unwrap(), features, labels, names, "test".into())
    }

    #[test]
    fn classes_are_counted_from_labels_or_names() {
        assert_eq!(dataset(Some(vec![0, 2, 0]), &[]).unwrap().class_names(), ["0", "1", "2"]);
        assert_eq!(dataset(Some(vec![0, 1, 0]), &["a", "b", "c"]).unwrap().n_classes(), 3);
        assert_eq!(dataset(None, &[]).unwrap().n_classes(), 0);
        let error = dataset(Some(vec![0, 2, 0]), &["a", "b"]).unwrap_err();
        assert_eq!(error.to_string(), "label 1 is `2`, expected a whole number from 0 to 1");
        assert!(matches!(dataset(Some(vec![5000, 0, 0]), &[]), Err(Error::InvalidLabel { .. })));
        assert!(matches!(dataset(Some(vec![0]), &[]), Err(Error::ShapeMismatch { .. })));
    }

    #[test]
    fn selections_keep_rows_and_labels_together() {
        let data = dataset(Some(vec![0, 2, 1]), &[]).unwrap();
        let chosen = data.select(&[2, 0]).unwrap();
        assert_eq!(chosen.features(), array![[5.0, 6.0], [1.0, 2.0]]);
        assert_eq!(chosen.labels(), Some([1, 0].as_slice()));
        assert_eq!(chosen.n_classes(), 3, "the classes stay those of the whole");
        assert_eq!(data.take(99).unwrap(), data);
        assert!(matches!(data.take(0), Err(Error::NoSamples { .. })));
        assert!(matches!(data.select(&[3]), Err(Error::ShapeMismatch { .. })));
    }

    #[test]
    fn class_names_are_numbered_lines() {
        assert_eq!(parse_class_names(b"0 T-shirt/top\n1 a b\n").unwrap(), ["T-shirt/top", "a b"]);
        for text in ["0 a\n2 b", "x a", "0"] {
            assert!(matches!(parse_class_names(text.as_bytes()), Err(Error::InvalidTable { .. })));
        }
    }
}
