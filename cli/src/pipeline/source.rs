//! Where samples come from: `--data` and how to read it.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use nn_poly::Error;
use nn_poly::import::{DataOptions, Dataset, SampleStream, Split, SplitSpec, resolve_data_path};
use nn_poly::model::ModelSpec;
use nn_poly::tensor::Shape;

use crate::args::ReadingArguments;
use crate::failure::Hint;

/// A data set named on the command line.
#[derive(Debug, Clone)]
pub(crate) struct DataSource<'a> {
    /// A path, or a name in the data folder.
    name: &'a str,
    options: DataOptions,
}

impl<'a> DataSource<'a> {
    pub(crate) fn new(name: &'a str, reading: &ReadingArguments) -> Self {
        Self { name, options: DataOptions { label_column: reading.label_column.clone() } }
    }

    /// Open one part whose samples have this shape; they are read later. Also the path it was found at.
    ///
    /// # Errors
    /// Data that are missing or damaged.
    pub(crate) fn open(
        &self,
        split: Split,
        spec: &SplitSpec,
        shape: &Shape,
    ) -> Result<(PathBuf, SampleStream)> {
        let path = resolve_data_path(self.name)?;
        let opened = SampleStream::open(&path, split, spec, &self.options, shape);
        Ok((path, self.advise(opened)?))
    }

    /// Read one part; also the path it was found at.
    ///
    /// # Errors
    /// Data that are missing or damaged.
    pub(crate) fn load(&self, split: Split, spec: &SplitSpec) -> Result<(PathBuf, Dataset)> {
        let path = resolve_data_path(self.name)?;
        let loaded = Dataset::load_with(&path, split, spec, &self.options);
        Ok((path, self.advise(loaded)?))
    }

    /// Read one part for a model; also the path it was found at.
    ///
    /// # Errors
    /// As [`load`](Self::load), or data of another shape than the model's.
    pub(crate) fn load_for(&self, split: Split, model: &ModelSpec) -> Result<(PathBuf, Dataset)> {
        let (path, data) = self.load(split, &model.split)?;
        check_shape(&data, "samples", &path, model)?;
        Ok((path, data))
    }

    fn advise<T>(&self, read: nn_poly::Result<T>) -> Result<T> {
        let has_text = matches!(
            &read,
            Err(Error::InFile { error, .. }) if matches!(**error, Error::InvalidCell { .. })
        );
        if has_text && self.options.label_column.is_none() {
            read.hint(|| "if this column holds the classes, name it: --label-column COLUMN")
        } else {
            Ok(read?)
        }
    }
}

/// The path or name as it was typed.
impl fmt::Display for DataSource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Whether a model reads samples of this shape.
///
/// # Errors
/// It does not: the text begins with `what` and names the file.
pub(crate) fn check_shape(
    data: &Dataset,
    what: &str,
    path: &Path,
    model: &ModelSpec,
) -> Result<()> {
    let (actual, expected) = (data.shape(), model.network.input_shape());
    if actual == expected {
        return Ok(());
    }
    bail!(
        "{what} in {} have shape {actual}, the model `{}` reads {expected}: use the data it was trained on",
        path.display(),
        model.name,
    );
}
