//! Finding data from a short name.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Where data are looked for if `SECUREDL_DATA` is not set, relative to the working directory.
pub const DEFAULT_DATA_FOLDER: &str = "../shared/data";

/// The path of a data set named on a command line.
///
/// The first that exists of: `argument` itself; `argument` in the folder named by the environment
/// variable `SECUREDL_DATA`, or in [`DEFAULT_DATA_FOLDER`] if that is not set; the same in its
/// subfolder `tabular`; each also with `.csv` appended.
///
/// # Errors
/// - [`Error::DataNotFound`] listing the places that were tried.
pub fn resolve_data_path(argument: &str) -> Result<PathBuf> {
    let folder = std::env::var_os("SECUREDL_DATA")
        .map_or_else(|| PathBuf::from(DEFAULT_DATA_FOLDER), PathBuf::from);
    resolve_in(&folder, argument)
}

fn resolve_in(folder: &Path, argument: &str) -> Result<PathBuf> {
    let with_suffix = format!("{argument}.csv");
    let places = [
        PathBuf::from(argument),
        folder.join(argument),
        folder.join(&with_suffix),
        folder.join("tabular").join(argument),
        folder.join("tabular").join(&with_suffix),
    ];
    let found = places.iter().find(|place| !argument.is_empty() && place.exists());
    if let Some(found) = found {
        return Ok(found.clone());
    }
    let tried: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
    Err(Error::DataNotFound { argument: argument.into(), tried: tried.join(", ") })
}

/// `folder/relative` with links resolved, or `None` unless that is a file in `folder` or below.
///
/// Names in files are hostile: absolute paths, `..`, control characters and links that lead out of the
/// folder are refused.
#[cfg(any(feature = "onnx", feature = "weight-files"))]
pub(super) fn file_below(folder: &Path, relative: &Path) -> Result<Option<PathBuf>> {
    let mut parts = relative.components().peekable();
    let is_plain =
        parts.peek().is_some() && parts.all(|part| matches!(part, std::path::Component::Normal(_)));
    if !is_plain || relative.to_string_lossy().chars().any(char::is_control) {
        return Ok(None);
    }
    let path = folder.join(relative);
    let io = |cause| Error::Io { action: "read", path: path.clone(), cause };
    let resolved = path.canonicalize().map_err(io)?;
    let folder = folder.canonicalize().map_err(io)?;
    Ok(Some(resolved).filter(|resolved| resolved.starts_with(&folder) && resolved.is_file()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn names_resolve_in_the_data_folder_and_its_tables() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("tabular")).unwrap();
        std::fs::create_dir_all(folder.path().join("digits")).unwrap();
        let table = folder.path().join("tabular/wine.csv");
        std::fs::write(&table, "a,label\n").unwrap();
        assert_eq!(resolve_in(folder.path(), "digits").unwrap(), folder.path().join("digits"));
        assert_eq!(resolve_in(folder.path(), "wine").unwrap(), table);
        assert_eq!(resolve_in(folder.path(), table.to_str().unwrap()).unwrap(), table);
        let error = resolve_in(folder.path(), "beer").unwrap_err().to_string();
        assert!(error.contains("beer.csv") && error.contains("SECUREDL_DATA"), "{error}");
        assert!(resolve_in(folder.path(), "").is_err());
    }
}
