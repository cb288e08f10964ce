//! A data set in memory, and loading one from any supported format.

use std::path::Path;

use ndarray::{Array2, Axis};

use super::classes::{Labels, MAX_CLASSES, check_labels, read_class_names, translate};
use super::files::Files;
use super::{MAX_FEATURE_VALUES, Preprocessing, Split, SplitSpec};
use crate::error::{Error, Result};
use crate::tensor::{Shape, check_finite, spread};
use crate::train::LabeledSamples;

/// How to read a data set, as far as its files do not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataOptions {
    /// Column of a table that holds the classes, as numbers or names. Without it, that is the column
    /// `label`; a table without that column is unlabeled.
    pub label_column: Option<String>,
}

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
    /// Whether the files give classes by name: the numbers then mean nothing but positions in
    /// `class_names`.
    has_named_classes: bool,
    source: String,
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
        Ok(Self { shape, features, labels, class_names, has_named_classes: false, source })
    }

    /// Load one part of a data set with the default [`DataOptions`].
    ///
    /// # Errors
    /// Those of [`Self::load_with`].
    pub fn load(path: &Path, split: Split, split_spec: &SplitSpec) -> Result<Self> {
        Self::load_with(path, split, split_spec, &DataOptions::default())
    }

    /// Load one part of a data set; see the [module](super) for formats and names.
    ///
    /// If the source has files for training and for testing, `split` chooses between them. Otherwise
    /// the samples are cut by `split_spec`. A source with only a test part has no training part.
    ///
    /// # Errors
    /// - [`Error::Io`] if a file cannot be read.
    /// - [`Error::UnknownFormat`] if the path is in none of the formats, or lacks the wanted part, or if
    ///   `options` name the column of something that is no table.
    /// - [`Error::InFile`] naming the file, around what is wrong with it.
    /// - [`Error::NoSamples`] if the part is empty.
    pub fn load_with(
        path: &Path,
        split: Split,
        split_spec: &SplitSpec,
        options: &DataOptions,
    ) -> Result<Self> {
        let files = Files::find(path, options)?;
        let class_names = read_class_names(path)?;
        let (part, is_cut) = files.read(path, split)?;
        let source = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let whole = match part.labels {
            Some(Labels::Names { positions, names }) => {
                let whole = Self::new(part.shape, part.features, Some(positions), names, source);
                let whole = whole.map(|whole| Self { has_named_classes: true, ..whole });
                whole.and_then(|whole| match class_names.as_slice() {
                    [] => Ok(whole),
                    ordered => whole.with_classes(ordered),
                })
            }
            Some(Labels::Numbers(labels)) => {
                Self::new(part.shape, part.features, Some(labels), class_names, source)
            }
            None => Self::new(part.shape, part.features, None, class_names, source),
        };
        let whole = whole.map_err(|error| error.in_file(path))?;
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

    /// Whether classes are known by name, not by number.
    pub(super) fn has_named_classes(&self) -> bool {
        self.has_named_classes
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
        let chosen = Self::new(
            self.shape.clone(),
            self.features.select(Axis(0), positions),
            labels,
            self.class_names.clone(),
            self.source.clone(),
        )?;
        Ok(Self { has_named_classes: self.has_named_classes, ..chosen })
    }

    /// The first `n_samples` samples, or all if there are fewer.
    ///
    /// # Errors
    /// - [`Error::NoSamples`] if `n_samples` is 0.
    pub fn take(&self, n_samples: usize) -> Result<Self> {
        let positions: Vec<usize> = (0..n_samples.min(self.n_samples())).collect();
        self.select(&positions)
    }

    /// `n_samples` samples spread over all of them in their order, or all if there are fewer: of sorted
    /// samples every class keeps its share.
    ///
    /// # Errors
    /// - [`Error::NoSamples`] if `n_samples` is 0.
    pub fn thinned(&self, n_samples: usize) -> Result<Self> {
        self.select(&spread(self.n_samples(), n_samples))
    }

    /// The same samples with the classes of a model.
    ///
    /// Files that give classes by name (text in a label column, folders of images) are matched by name;
    /// the numbers of all others stay as they are.
    ///
    /// # Errors
    /// - [`Error::InvalidLabel`] if a label is not among these classes.
    /// - [`Error::UnknownClass`] if a name is not.
    pub fn with_classes(mut self, class_names: &[String]) -> Result<Self> {
        if let (true, Some(labels)) = (self.has_named_classes, &mut self.labels) {
            *labels = translate(labels, &self.class_names, class_names)?;
        }
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
        assert_eq!(data.thinned(99).unwrap(), data);
        assert_eq!(data.thinned(2).unwrap(), data.select(&[0, 2]).unwrap());
        assert!(matches!(data.take(0), Err(Error::NoSamples { .. })));
        assert!(matches!(data.thinned(0), Err(Error::NoSamples { .. })));
        assert!(matches!(data.select(&[3]), Err(Error::ShapeMismatch { .. })));
    }
}
