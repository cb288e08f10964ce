//! Where samples come from: `--data` and how to read it.

use std::fmt;
use std::path::PathBuf;

use anyhow::Result;
use nn_poly::Error;
use nn_poly::import::{DataOptions, Dataset, Split, SplitSpec, resolve_data_path};

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

    /// Read one part; also the path it was found at.
    ///
    /// # Errors
    /// Data that are missing or damaged.
    pub(crate) fn load(&self, split: Split, spec: &SplitSpec) -> Result<(PathBuf, Dataset)> {
        let path = resolve_data_path(self.name)?;
        let loaded = Dataset::load_with(&path, split, spec, &self.options);
        let has_text = matches!(
            &loaded,
            Err(Error::InFile { error, .. }) if matches!(**error, Error::InvalidCell { .. })
        );
        let data = if has_text && self.options.label_column.is_none() {
            loaded.hint(|| "if this column holds the classes, name it: --label-column COLUMN")?
        } else {
            loaded?
        };
        Ok((path, data))
    }
}

/// The path or name as it was typed.
impl fmt::Display for DataSource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
