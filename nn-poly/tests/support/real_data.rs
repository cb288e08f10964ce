//! Data sets that are not in the repository.

use std::io::Write as _;
use std::path::PathBuf;

use nn_poly::import::{DEFAULT_DATA_FOLDER, resolve_data_path};

/// The path of a data set, or a note that a test goes without it.
///
/// The note goes to standard error itself: what is printed in a test that passes is not shown.
pub(crate) fn real_data(name: &str) -> Option<PathBuf> {
    // Tests run in the folder of the package, the default is relative to the repository.
    let beside = format!("{}/../{DEFAULT_DATA_FOLDER}/{name}", env!("CARGO_MANIFEST_DIR"));
    match resolve_data_path(name).or_else(|error| resolve_data_path(&beside).map_err(|_| error)) {
        Ok(path) => Some(path),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "SKIPPED on real data: {error}");
            None
        }
    }
}
