//! An access file that is read again when it changes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::list::{AccessList, AccessProblem, MAX_ACCESS_FILE_BYTES};
use crate::error::{ConfigError, Result};

/// Remembers which state of an access file is in force.
#[derive(Debug)]
pub struct AccessFile {
    path: PathBuf,
    /// Time and length when it was last looked at.
    stamp: Option<(SystemTime, u64)>,
    /// Digest of what was last read.
    digest: [u8; 32],
}

impl AccessFile {
    /// Read a file for the first time.
    ///
    /// # Errors
    /// - [`ConfigError::UnreadableAccessFile`]: it cannot be read.
    /// - [`ConfigError::AccessFile`]: it is not an access file; names the line.
    pub fn open(path: &Path) -> Result<(Self, AccessList)> {
        // Before the content: a change between the two is seen the next time.
        let stamp = stamp(path);
        let text = read(path)?;
        let list = parse(path, &text)?;
        let digest = *blake3::hash(text.as_bytes()).as_bytes();
        Ok((Self { path: path.to_owned(), stamp, digest }, list))
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Read the file again if it seems to have changed, by time or length; with `Look::Always`
    /// regardless of that. `None`: the content is the same.
    ///
    /// A change that is not readable is reported once; the next one is reported again.
    ///
    /// # Errors
    /// As [`open`](Self::open). The list in force should then stay in force.
    pub fn refresh(&mut self, look: Look) -> Result<Option<AccessList>> {
        let stamp = stamp(&self.path);
        if look == Look::IfTouched && stamp == self.stamp {
            return Ok(None);
        }
        self.stamp = stamp;
        let text = read(&self.path)?;
        let digest = *blake3::hash(text.as_bytes()).as_bytes();
        if digest == self.digest {
            return Ok(None);
        }
        let list = parse(&self.path, &text)?;
        self.digest = digest;
        Ok(Some(list))
    }
}

/// When to read a file again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// If its time or length differs.
    IfTouched,
    /// In any case.
    Always,
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn read(path: &Path) -> Result<String> {
    let limit = MAX_ACCESS_FILE_BYTES as u64 + 1;
    let bytes = crate::tls::read_small(path, limit)
        .map_err(|source| ConfigError::UnreadableAccessFile { path: path.to_owned(), source })?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes().iter().take(valid).filter(|&&byte| byte == b'\n').count();
        let source = AccessProblem::Syntax { message: "the file is not UTF-8 text".to_owned() };
        ConfigError::AccessFile { path: path.to_owned(), line, source }.into()
    })
}

fn parse(path: &Path, text: &str) -> Result<AccessList> {
    AccessList::parse(text).map_err(|(line, source)| {
        ConfigError::AccessFile { path: path.to_owned(), line, source }.into()
    })
}
