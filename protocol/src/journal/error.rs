//! What can be wrong with a journal.

use std::io;
use std::path::PathBuf;

/// A journal that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// It cannot be read or written.
    #[error("the journal {} cannot be read or written", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// There is one already.
    #[error(
        "{} is the journal of a run that was interrupted: go on with it, or remove it to start over",
        path.display()
    )]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Another process has it open.
    #[error("another run writes to the journal {}; wait for its end", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// Another kind of file.
    #[error("{} is no journal", path.display())]
    NotAJournal {
        /// The file.
        path: PathBuf,
    },
    /// Another version.
    #[error(
        "the journal {} has format version {actual}, this program reads version {}; finish the run with the program that began it, or remove the file to start over",
        path.display(), super::JOURNAL_VERSION
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        actual: u16,
    },
    /// Altered or cut off where it says what it is of.
    #[error("the journal {} is damaged; remove it to start over", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// Of another run.
    #[error(
        "the journal {} is of another run ({difference}); repeat that run, or remove the file to start over",
        path.display()
    )]
    OtherTask {
        /// The file.
        path: PathBuf,
        /// The first lines of the descriptions that differ.
        difference: String,
    },
    /// The data have changed.
    #[error(
        "batch {} of the journal {} was of other samples: the data have changed; remove the file to start over",
        batch + 1, path.display()
    )]
    OtherInputs {
        /// The file.
        path: PathBuf,
        /// The batch, counted from 0.
        batch: usize,
    },
    /// What the caller asked for cannot be kept.
    #[error("a journal cannot hold {reason}")]
    Task {
        /// What it is.
        reason: &'static str,
    },
}

/// The first line in which two descriptions differ, in words without control characters.
pub(super) fn difference(theirs: &str, ours: &str) -> String {
    let mut lines = (theirs.lines(), ours.lines());
    loop {
        match (lines.0.next(), lines.1.next()) {
            (Some(a), Some(b)) if a == b => {}
            (Some(a), Some(b)) => return format!("`{}`, now `{}`", shown(a), shown(b)),
            (Some(a), None) => return format!("`{}`, now nothing of the kind", shown(a)),
            (None, Some(b)) => return format!("nothing like `{}`", shown(b)),
            (None, None) => return "batches are cut in another way".to_owned(),
        }
    }
}

fn shown(line: &str) -> String {
    let shown = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    line.chars().take(160).map(shown).collect()
}
