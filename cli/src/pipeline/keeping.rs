//! Files in which long experiments keep what they found, so that an interrupted one goes on.

use std::path::Path;

use anyhow::{Context, Result};
use nn_poly::artifact;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::failure::Hint;
use crate::output::OutputFile;

/// Largest file read.
const MAX_BYTES: usize = 1 << 28;
/// What to do about a file that cannot be used.
pub(crate) const ADVICE: &str = "remove the file to start again, or give another --out";

/// Something kept in a file that people can read.
pub(crate) trait Kept: Serialize + DeserializeOwned {
    /// Format that this program writes.
    const FORMAT: u32;
    /// What the file is, such as `record of a study`.
    const WHAT: &'static str;

    /// Format and version of the program that wrote it: another one may compute otherwise.
    fn origin(&self) -> (u32, &str);
}

/// Read a file; `None` if there is none.
///
/// # Errors
/// A file of something else, or of another version.
pub(crate) fn load<T: Kept>(path: &Path) -> Result<Option<T>> {
    if !path.exists() {
        return Ok(None);
    }
    let bytes = artifact::read_file(path, MAX_BYTES)?;
    let kept: T = serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is no {}", path.display(), T::WHAT))
        .hint(|| ADVICE)?;
    let (format, version) = kept.origin();
    if format != T::FORMAT || version != env!("CARGO_PKG_VERSION") {
        let error = anyhow::anyhow!(
            "{} was made by version {version} (format {format}), this is version {} (format {})",
            path.display(),
            env!("CARGO_PKG_VERSION"),
            T::FORMAT,
        );
        return Err(error).hint(|| ADVICE);
    }
    Ok(Some(kept))
}

/// Write the file, whole or not at all.
///
/// # Errors
/// A folder that cannot be written.
pub(crate) fn save<T: Kept>(kept: &T, path: &Path) -> Result<()> {
    OutputFile::check(path)?.write(&serde_json::to_vec(kept)?)
}
