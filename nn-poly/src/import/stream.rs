//! Samples of a data set that need not fit in memory: read as they are needed.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use ndarray::{Array2, Axis, Slice};

use super::classes::{LabelColumn, Labels, check_labels, read_class_names, translate};
use super::files::{FileSet, Files};
use super::image_folder::ImageFolder;
use super::table::Rows;
use super::{DataOptions, Dataset, Split, SplitSpec, gzip};
use crate::error::{Error, Result};
use crate::tensor::Shape;

/// The samples of one part of a data set, in their order, a few at a time.
///
/// Tables (CSV, perhaps gzip) are read twice: once for labels and their number, when the stream is
/// opened, and again as samples are taken. Folders of images are listed, and decoded as samples are
/// taken. All other formats are read into memory, within their limits.
///
/// Memory: up to 12 bytes per sample for labels and positions (a path per image), and the samples that
/// were taken last.
///
/// What is read is what [`Dataset::load_with`] reads, with one difference: of images it is the shape
/// wanted that says whether gray ones are taken for colored.
pub struct SampleStream {
    shape: Shape,
    labels: Option<Vec<u32>>,
    class_names: Vec<String>,
    has_named_classes: bool,
    /// Rows of the source that are wanted, ascending; `None` for all.
    positions: Option<Vec<usize>>,
    n_samples: usize,
    path: PathBuf,
    source: Source,
    /// Samples taken.
    taken: usize,
}

enum Source {
    Table { label_column: Option<String>, reader: Option<TableReader> },
    Images(ImageFolder),
    Memory(Array2<f32>),
}

/// A table that is being read, and how many of its rows were.
struct TableReader {
    rows: Rows<Box<dyn Read + Send>>,
    n_read: usize,
}

impl SampleStream {
    /// Open one part of a data set whose samples should have this shape.
    ///
    /// # Errors
    /// - Those of [`Dataset::load_with`]; of images only those of their names, as their content is read
    ///   later.
    /// - [`Error::ShapeMismatch`] if samples have another shape.
    pub fn open(
        path: &Path,
        split: Split,
        split_spec: &SplitSpec,
        options: &DataOptions,
        shape: &Shape,
    ) -> Result<Self> {
        let opened = match Files::find(path, options)?.into_single(split) {
            Some((FileSet::Table { path: table, label_column }, is_cut)) => {
                Self::open_table(path, &table, label_column, is_cut.then_some((split_spec, split)))
            }
            Some((FileSet::Images(folder), is_cut)) if shape.dims().len() == 3 => {
                let (n, labels) = (folder.n_images(), folder.labels());
                let parts = Parts { shape: shape.clone(), n, labels };
                Self::new(
                    path,
                    Source::Images(folder),
                    parts,
                    is_cut.then_some((split_spec, split)),
                )
            }
            _ => {
                let data = Dataset::load_with(path, split, split_spec, options)?;
                return Self::of_dataset(path, &data, shape);
            }
        };
        opened.and_then(|stream| stream.of_shape(shape)).map_err(|error| named(error, path))
    }

    fn open_table(
        path: &Path,
        table: &Path,
        label_column: Option<String>,
        cut: Option<(&SplitSpec, Split)>,
    ) -> Result<Self> {
        let mut rows = Rows::new(gzip::open(table)?, label_column.as_deref())?;
        let mut labels = LabelColumn::default();
        let (mut values, mut n) = (Vec::new(), 0);
        // Every cell is checked now: a fault in the last row must not end hours of work.
        while rows.next(&mut values, Some(&mut labels))? {
            values.clear();
            n += 1;
        }
        let labels = rows.has_labels().then(|| labels.finish());
        let source = Source::Table { label_column, reader: None };
        let parts = Parts { shape: rows.shape()?, n, labels };
        Self::new(path, source, parts, cut)
    }

    fn new(
        path: &Path,
        source: Source,
        parts: Parts,
        cut: Option<(&SplitSpec, Split)>,
    ) -> Result<Self> {
        let Parts { shape, n, labels } = parts;
        if n == 0 {
            return Err(Error::NoSamples { what: "the data set" });
        }
        let (labels, class_names, has_named_classes) = resolve(labels, read_class_names(path)?)?;
        let mut stream = Self {
            shape,
            labels,
            class_names,
            has_named_classes,
            positions: None,
            n_samples: n,
            path: path.to_owned(),
            source,
            taken: 0,
        };
        if let Some((spec, split)) = cut.filter(|&(_, split)| split != Split::All) {
            let positions = match &stream.labels {
                Some(labels) => spec.positions(labels, split)?,
                None => spec.positions(&vec![0; n], split)?,
            };
            stream.keep(positions)?;
        }
        Ok(stream)
    }

    fn of_dataset(path: &Path, data: &Dataset, shape: &Shape) -> Result<Self> {
        Self {
            shape: data.shape().clone(),
            labels: data.labels().map(<[u32]>::to_vec),
            class_names: data.class_names().to_vec(),
            has_named_classes: data.has_named_classes(),
            positions: None,
            n_samples: data.n_samples(),
            path: path.to_owned(),
            source: Source::Memory(data.features().clone()),
            taken: 0,
        }
        .of_shape(shape)
    }

    fn of_shape(self, shape: &Shape) -> Result<Self> {
        if self.shape == *shape {
            return Ok(self);
        }
        let (expected, actual) = (shape.dims().to_vec(), self.shape.dims().to_vec());
        Err(Error::ShapeMismatch { what: "a sample", expected, actual })
    }

    /// The same stream of the samples at `positions`.
    fn keep(&mut self, positions: Vec<usize>) -> Result<()> {
        if positions.is_empty() {
            return Err(Error::NoSamples { what: "the data set" });
        }
        if let Some(labels) = &self.labels {
            let chosen = positions.iter().filter_map(|&p| labels.get(p).copied()).collect();
            self.labels = Some(chosen);
        }
        self.n_samples = positions.len();
        self.positions = Some(positions);
        Ok(())
    }

    /// Only the first `n_samples`, or all if there are fewer.
    ///
    /// # Errors
    /// - [`Error::NoSamples`] if `n_samples` is 0.
    pub fn take(mut self, n_samples: usize) -> Result<Self> {
        if n_samples == 0 {
            return Err(Error::NoSamples { what: "the data set" });
        }
        self.n_samples = self.n_samples.min(n_samples);
        if let Some(labels) = &mut self.labels {
            labels.truncate(n_samples);
        }
        Ok(self)
    }

    /// As [`Dataset::with_classes`].
    ///
    /// # Errors
    /// As [`Dataset::with_classes`].
    pub fn with_classes(mut self, class_names: &[String]) -> Result<Self> {
        if let (true, Some(labels)) = (self.has_named_classes, &mut self.labels) {
            *labels = translate(labels, &self.class_names, class_names)?;
        }
        check_labels(self.labels.as_deref().unwrap_or_default(), class_names.len())?;
        self.class_names = class_names.to_vec();
        Ok(self)
    }

    /// Shape of one sample.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Samples in all.
    #[must_use]
    pub fn n_samples(&self) -> usize {
        self.n_samples
    }

    /// One label per sample, if known.
    #[must_use]
    pub fn labels(&self) -> Option<&[u32]> {
        self.labels.as_deref()
    }

    /// Name of the file or folder.
    #[must_use]
    pub fn source(&self) -> String {
        self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned()
    }

    /// The next samples, at most `max_samples` of them, one row of raw features each; `None` at the end.
    ///
    /// # Errors
    /// - [`Error::InFile`] naming the file that cannot be read, or has changed since it was opened.
    pub fn next_features(&mut self, max_samples: usize) -> Result<Option<Array2<f32>>> {
        let end = self.n_samples.min(self.taken.saturating_add(max_samples));
        if end <= self.taken {
            return Ok(None);
        }
        let range = self.taken..end;
        let wanted: Vec<usize> = match &self.positions {
            Some(positions) => positions.get(range).unwrap_or_default().to_vec(),
            None => range.collect(),
        };
        let features = self.read(&wanted).map_err(|error| named(error, &self.path))?;
        self.taken = end;
        Ok(Some(features))
    }

    /// The samples with these numbers, which count those of the stream, in that order; the stream itself
    /// does not move. Of a table the rows before the last of them are read again.
    ///
    /// # Errors
    /// - [`Error::ShapeMismatch`] if a number is not below [`n_samples`](Self::n_samples).
    /// - As [`next_features`](Self::next_features).
    pub fn select(&self, numbers: &[usize]) -> Result<Array2<f32>> {
        if let Some(&number) = numbers.iter().find(|&&number| number >= self.n_samples) {
            let (expected, actual) = (vec![self.n_samples], vec![number]);
            return Err(Error::ShapeMismatch { what: "a selected position", expected, actual });
        }
        let place = |&number: &usize| match &self.positions {
            Some(positions) => positions.get(number).copied().unwrap_or(number),
            None => number,
        };
        let places: Vec<usize> = numbers.iter().map(place).collect();
        match &self.source {
            Source::Table { label_column, .. } => {
                let mut sorted = places.clone();
                sorted.sort_unstable();
                sorted.dedup();
                let rows = TableReader::open(&self.path, label_column.as_deref())
                    .and_then(|mut reader| reader.read(&sorted))
                    .and_then(|values| matrix(values, sorted.len(), &self.shape))
                    .map_err(|error| named(error, &self.path))?;
                let order: Vec<usize> =
                    places.iter().filter_map(|place| sorted.binary_search(place).ok()).collect();
                Ok(rows.select(Axis(0), &order))
            }
            Source::Images(folder) => matrix(
                folder.decode_as(&places, &self.shape).map_err(|error| named(error, &self.path))?,
                places.len(),
                &self.shape,
            ),
            Source::Memory(features) => Ok(features.select(Axis(0), &places)),
        }
    }

    /// Rows of the source, ascending and behind those read before.
    fn read(&mut self, wanted: &[usize]) -> Result<Array2<f32>> {
        let values = match &mut self.source {
            Source::Table { label_column, reader } => {
                let reader = match reader {
                    Some(reader) => reader,
                    None => reader.insert(TableReader::open(&self.path, label_column.as_deref())?),
                };
                reader.read(wanted)?
            }
            Source::Images(folder) => folder.decode_as(wanted, &self.shape)?,
            Source::Memory(features) => {
                let is_run = wanted.windows(2).all(|pair| matches!(pair, [a, b] if a + 1 == *b));
                return Ok(match (is_run, wanted.first(), wanted.last()) {
                    (true, Some(&first), Some(&last)) => {
                        features.slice_axis(Axis(0), Slice::from(first..=last)).to_owned()
                    }
                    _ => features.select(Axis(0), wanted),
                });
            }
        };
        matrix(values, wanted.len(), &self.shape)
    }
}

impl fmt::Debug for SampleStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SampleStream")
            .field("path", &self.path)
            .field("shape", &self.shape)
            .field("n_samples", &self.n_samples)
            .field("taken", &self.taken)
            .finish_non_exhaustive()
    }
}

/// What the first look at a source tells.
struct Parts {
    shape: Shape,
    n: usize,
    labels: Option<Labels>,
}

impl TableReader {
    fn open(path: &Path, label_column: Option<&str>) -> Result<Self> {
        Ok(Self { rows: Rows::new(gzip::open(path)?, label_column)?, n_read: 0 })
    }

    /// The values of these rows, which ascend and lie behind those read before.
    fn read(&mut self, wanted: &[usize]) -> Result<Vec<f32>> {
        let mut values = Vec::with_capacity(wanted.len() * self.rows.n_features);
        for &row in wanted {
            let mut is_there = true;
            while is_there && self.n_read < row {
                is_there = self.rows.skip()?;
                self.n_read += 1;
            }
            if !is_there || !self.rows.next(&mut values, None)? {
                let reason = "the table ends here: the file was changed while it was read".into();
                return Err(Error::InvalidTable { line: self.n_read as u64 + 1, reason });
            }
            self.n_read += 1;
        }
        Ok(values)
    }
}

/// An error with the file it is about, unless it says that itself.
fn named(error: Error, path: &Path) -> Error {
    let names_file = matches!(error, Error::InFile { .. } | Error::Io { .. });
    if names_file { error } else { error.in_file(path) }
}

fn matrix(values: Vec<f32>, n_samples: usize, shape: &Shape) -> Result<Array2<f32>> {
    let actual = values.len();
    Array2::from_shape_vec((n_samples, shape.len()), values).map_err(|_| {
        let expected = n_samples * shape.len();
        Error::InconsistentParts { what: "number of values read", expected, actual }
    })
}

/// Labels as numbers, the names of classes, and whether the files gave them by name.
fn resolve(
    labels: Option<Labels>,
    class_names: Vec<String>,
) -> Result<(Option<Vec<u32>>, Vec<String>, bool)> {
    Ok(match labels {
        Some(Labels::Names { positions, names }) if class_names.is_empty() => {
            (Some(positions), names, true)
        }
        Some(Labels::Names { positions, names }) => {
            (Some(translate(&positions, &names, &class_names)?), class_names, true)
        }
        Some(Labels::Numbers(labels)) => {
            if !class_names.is_empty() {
                check_labels(&labels, class_names.len())?;
            }
            (Some(labels), class_names, false)
        }
        None => (None, class_names, false),
    })
}

#[cfg(test)]
mod tests;
