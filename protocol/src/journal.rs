//! What a long run has finished, in a file: an interrupted run goes on where it was.
//!
//! ```text
//!   0  magic "SDLJRNL\0" 8 ‖ format version u16 ‖ zero u16
//!  12  scores per sample u32 ‖ samples per batch u64 ‖ length of the description u32
//!  28  description ‖ BLAKE3_derive_key("securedl journal 1", everything before) 32
//!      then for every finished batch, in order:
//!      batch u64 ‖ samples u32 ‖ BLAKE3 of its inputs 32 ‖ soundness 4 × f64 (NaN: not checked)
//!      ‖ rounds u32 ‖ blocks u64 ‖ bytes up u64 ‖ bytes down u64 ‖ clamped values u64
//!      ‖ per sample one byte (1: out of calibration) ‖ per sample its scores i64
//!      ‖ BLAKE3_derive_key("securedl journal 1", the digest before ‖ the record) 32
//! ```
//! Integers are little-endian. A journal belongs to one task: the description says which (plan, data,
//! options, line by line), and a run with another description is refused. Every batch carries a digest of
//! its inputs, so that data which changed meanwhile are noticed before a result is mistaken for theirs.
//!
//! A batch is in the journal if its verdict was intact and its record is complete. A record that was cut
//! off or damaged ends the journal: it and what follows are run again, under new keys. The chain of
//! digests finds accidents, not forgery; whoever can write the file can also write the predictions.
//!
//! # Security
//! The file holds scores in the clear, like the predictions they become (mode 0600). It holds no key: keys
//! of a finished batch are gone, and an unfinished one gets others.

mod error;
mod record;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use fingerprint::Soundness;
use nn_poly::integer::{IntegerMatrix, ScoreMatrix};

pub use self::error::JournalError;
use self::record::{Record, RecordHead};
use crate::session::{BatchResult, Tally};

/// First bytes of a journal.
pub const JOURNAL_MAGIC: [u8; 8] = *b"SDLJRNL\0";
/// Version of the file's format.
pub const JOURNAL_VERSION: u16 = 1;
/// File name extension of journals.
pub const JOURNAL_EXTENSION: &str = "journal";

const CONTEXT: &str = "securedl journal 1";
const FIXED_BYTES: usize = 8 + 2 + 2 + 4 + 8 + 4;
const DIGEST_BYTES: usize = 32;
/// Longest description.
const MAX_DESCRIPTION_BYTES: usize = 1 << 16;

/// Which run a journal is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Scores per sample, above 0.
    pub n_scores: u32,
    /// Samples of every batch but the last, above 0.
    pub samples_per_batch: u64,
    /// Everything that results depend on, as lines `name: value`: at most 64 KiB.
    pub description: String,
}

/// What an earlier run left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovered {
    /// Batches that are finished.
    pub batches: usize,
    /// Samples of these batches.
    pub samples: u64,
    /// Bytes at the end that were no whole record, and are gone.
    pub dropped_bytes: u64,
}

/// One finished batch.
#[derive(Debug, Clone, PartialEq)]
pub struct FinishedBatch {
    /// One row per class, one column per sample.
    pub scores: ScoreMatrix,
    /// Per sample, whether a value left the range its segment expects.
    pub out_of_calibration: Vec<bool>,
    /// What the intact verdict was worth.
    pub soundness: Soundness,
    /// Counts (times are not kept).
    pub tally: Tally,
}

/// The journal of a run. Locked against other runs while it is open.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    task: Task,
    /// Where each finished batch stands, and the digest of its inputs.
    batches: Vec<Entry>,
    /// Where the next record goes.
    end: u64,
    chain: [u8; DIGEST_BYTES],
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    offset: u64,
    n_samples: u32,
    inputs: [u8; DIGEST_BYTES],
}

impl Journal {
    /// Begin a journal in a new file, for its owner only (mode 0600).
    ///
    /// # Errors
    /// - [`JournalError::Exists`]: there is a file already.
    /// - [`JournalError::Io`]: it cannot be written; nothing is left behind.
    /// - [`JournalError::Task`]: a description that is too long, or counts of 0.
    pub fn create(path: &Path, task: Task) -> Result<Self, JournalError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(path).map_err(|source| {
            let path = path.to_owned();
            if source.kind() == io::ErrorKind::AlreadyExists {
                JournalError::Exists { path }
            } else {
                JournalError::Io { path, source }
            }
        })?;
        let begun = Self::in_file(file, path, task);
        if begun.is_err() {
            let _ = std::fs::remove_file(path);
        }
        begun
    }

    /// Begin a journal in an empty file that was opened for reading and writing; `name` is for messages.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn in_file(mut file: File, name: &Path, task: Task) -> Result<Self, JournalError> {
        let io = |source| JournalError::Io { path: name.to_owned(), source };
        lock(&file, name)?;
        let (head, chain) = head_bytes(&task)?;
        file.write_all(&head).and_then(|()| file.sync_data()).map_err(io)?;
        let end = head.len() as u64;
        Ok(Self { file, path: name.to_owned(), task, batches: Vec::new(), end, chain })
    }

    /// Go on with a journal: read and check all of it, and cut off a record that is not whole.
    ///
    /// # Errors
    /// - [`JournalError::Io`]: it cannot be read or written.
    /// - [`JournalError::InUse`]: another run writes to it.
    /// - [`JournalError::NotAJournal`], [`JournalError::Version`]: another kind of file.
    /// - [`JournalError::Damaged`]: its beginning is cut off or altered.
    /// - [`JournalError::OtherTask`]: it is of another run; says what differs.
    pub fn open(path: &Path, task: Task) -> Result<(Self, Recovered), JournalError> {
        let io = |source| JournalError::Io { path: path.to_owned(), source };
        let mut file = OpenOptions::new().read(true).write(true).open(path).map_err(io)?;
        lock(&file, path)?;
        let length = file.metadata().map_err(io)?.len();
        let (expected, chain) = head_bytes(&task)?;
        check_head(&mut file, length, &task, &expected, path)?;
        let end = expected.len() as u64;
        let mut journal =
            Self { file, path: path.to_owned(), task, batches: Vec::new(), end, chain };
        while journal.take_record(length).map_err(io)? {}
        let recovered = Recovered {
            batches: journal.batches.len(),
            samples: journal.batches.iter().map(|entry| u64::from(entry.n_samples)).sum(),
            dropped_bytes: length - journal.end,
        };
        if recovered.dropped_bytes > 0 {
            journal.file.set_len(journal.end).map_err(io)?;
        }
        Ok((journal, recovered))
    }

    /// Read one more record; false if what follows is none.
    fn take_record(&mut self, length: u64) -> io::Result<bool> {
        let Some(head) = self.read_record_head(self.end, length)? else { return Ok(false) };
        // All batches are full but the last.
        let is_behind_last = self
            .batches
            .last()
            .is_some_and(|entry| u64::from(entry.n_samples) != self.task.samples_per_batch);
        if head.batch != self.batches.len() as u64 || is_behind_last {
            return Ok(false);
        }
        let Some((bytes, chain)) = self.read_checked(self.end, &head)? else { return Ok(false) };
        if Record::parse(&bytes, self.task.n_scores).is_none() {
            return Ok(false);
        }
        let (offset, n_samples, inputs) = (self.end, head.n_samples, head.inputs);
        self.batches.push(Entry { offset, n_samples, inputs });
        self.end += bytes.len() as u64 + DIGEST_BYTES as u64;
        self.chain = chain;
        Ok(true)
    }

    /// The head of the record at `offset`, if a whole record of an acceptable size can follow.
    fn read_record_head(&mut self, offset: u64, length: u64) -> io::Result<Option<RecordHead>> {
        let left = length.saturating_sub(offset);
        if left < (RecordHead::BYTES + DIGEST_BYTES) as u64 {
            return Ok(None);
        }
        let mut bytes = [0; RecordHead::BYTES];
        self.file.seek(SeekFrom::Start(offset))?;
        self.file.read_exact(&mut bytes)?;
        let head = RecordHead::parse(&bytes);
        let fits = (1..=self.task.samples_per_batch).contains(&u64::from(head.n_samples))
            && head.record_bytes(self.task.n_scores) + DIGEST_BYTES as u64 <= left;
        Ok(fits.then_some(head))
    }

    /// The record at `offset` and its digest, if that is right.
    fn read_checked(
        &mut self,
        offset: u64,
        head: &RecordHead,
    ) -> io::Result<Option<(Vec<u8>, [u8; DIGEST_BYTES])>> {
        let n_bytes = usize::try_from(head.record_bytes(self.task.n_scores)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; n_bytes];
        let mut digest = [0; DIGEST_BYTES];
        self.file.seek(SeekFrom::Start(offset))?;
        self.file.read_exact(&mut bytes)?;
        self.file.read_exact(&mut digest)?;
        Ok((digest == chained(&self.chain, &bytes)).then_some((bytes, digest)))
    }

    /// Batches that are finished.
    #[must_use]
    pub fn n_batches(&self) -> usize {
        self.batches.len()
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Append a finished batch, flushed to the disk when this returns.
    ///
    /// # Errors
    /// - [`JournalError::Io`]: it cannot be written (a full disk, say); what was there before stays.
    /// - [`JournalError::Task`]: a result of another shape than the task says.
    pub fn append(
        &mut self,
        inputs: &IntegerMatrix,
        result: &BatchResult,
    ) -> Result<(), JournalError> {
        let batch = self.batches.len() as u64;
        let n_samples = u32::try_from(result.out_of_calibration.len()).unwrap_or(u32::MAX);
        let is_right = inputs.ncols() == n_samples as usize
            && result.scores.dim() == (self.task.n_scores as usize, n_samples as usize)
            && (1..=self.task.samples_per_batch).contains(&u64::from(n_samples));
        if !is_right {
            return Err(JournalError::Task { reason: "a result of another shape" });
        }
        let digest = inputs_digest(inputs);
        let bytes = Record::bytes(batch, &digest, result);
        let chain = chained(&self.chain, &bytes);
        let offset = self.end;
        let written = self
            .file
            .seek(SeekFrom::Start(offset))
            .and_then(|_| self.file.write_all(&bytes))
            .and_then(|()| self.file.write_all(&chain))
            .and_then(|()| self.file.sync_data());
        if let Err(source) = written {
            // Cut off again if possible; the digest would tell a half record anyway.
            let _ = self.file.set_len(offset);
            return Err(JournalError::Io { path: self.path.clone(), source });
        }
        self.batches.push(Entry { offset, n_samples, inputs: digest });
        self.end += (bytes.len() + DIGEST_BYTES) as u64;
        self.chain = chain;
        Ok(())
    }

    /// Make sure that a finished batch was of these inputs.
    ///
    /// # Errors
    /// [`JournalError::OtherInputs`]: it was of others.
    pub fn check_inputs(&self, batch: usize, inputs: &IntegerMatrix) -> Result<(), JournalError> {
        match self.batches.get(batch) {
            Some(entry) if entry.inputs == inputs_digest(inputs) => Ok(()),
            _ => Err(JournalError::OtherInputs { path: self.path.clone(), batch }),
        }
    }

    /// Read a finished batch.
    ///
    /// # Errors
    /// - [`JournalError::Io`]: it cannot be read.
    /// - [`JournalError::Damaged`]: there is no such batch, or the file was altered meanwhile.
    pub fn read(&mut self, batch: usize) -> Result<FinishedBatch, JournalError> {
        let damaged = || JournalError::Damaged { path: self.path.clone() };
        let entry = self.batches.get(batch).copied().ok_or_else(damaged)?;
        let head =
            RecordHead { batch: batch as u64, n_samples: entry.n_samples, inputs: entry.inputs };
        let mut bytes =
            vec![0; usize::try_from(head.record_bytes(self.task.n_scores)).unwrap_or(usize::MAX)];
        self.file
            .seek(SeekFrom::Start(entry.offset))
            .and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(|source| JournalError::Io { path: self.path.clone(), source })?;
        let record = Record::parse(&bytes, self.task.n_scores)
            .ok_or_else(|| JournalError::Damaged { path: self.path.clone() })?;
        Ok(record.into_batch())
    }

    /// Remove the file: the run is complete and its results are elsewhere.
    ///
    /// # Errors
    /// [`JournalError::Io`]: it cannot be removed.
    pub fn remove(self) -> Result<(), JournalError> {
        let Self { path, file, .. } = self;
        drop(file);
        std::fs::remove_file(&path).map_err(|source| JournalError::Io { path, source })
    }
}

fn lock(file: &File, path: &Path) -> Result<(), JournalError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(JournalError::InUse { path: path.to_owned() }),
        // Some file systems have no locks; a journal works without.
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
        Err(TryLockError::Error(source)) => Err(JournalError::Io { path: path.to_owned(), source }),
    }
}

fn head_bytes(task: &Task) -> Result<(Vec<u8>, [u8; DIGEST_BYTES]), JournalError> {
    let Task { n_scores, samples_per_batch, description } = task;
    if *n_scores == 0 || *samples_per_batch == 0 || *samples_per_batch > u64::from(u32::MAX) {
        return Err(JournalError::Task { reason: "counts that no run has" });
    }
    let n_bytes = u32::try_from(description.len())
        .ok()
        .filter(|&n| n as usize <= MAX_DESCRIPTION_BYTES)
        .ok_or(JournalError::Task { reason: "a description of more than 64 KiB" })?;
    let mut bytes = Vec::with_capacity(FIXED_BYTES + description.len() + DIGEST_BYTES);
    bytes.extend_from_slice(&JOURNAL_MAGIC);
    bytes.extend_from_slice(&JOURNAL_VERSION.to_le_bytes());
    bytes.extend_from_slice(&0_u16.to_le_bytes());
    bytes.extend_from_slice(&n_scores.to_le_bytes());
    bytes.extend_from_slice(&samples_per_batch.to_le_bytes());
    bytes.extend_from_slice(&n_bytes.to_le_bytes());
    bytes.extend_from_slice(description.as_bytes());
    let chain = chained(&[], &bytes);
    bytes.extend_from_slice(&chain);
    Ok((bytes, chain))
}

/// Compare the beginning of a file with what it should be, and say what differs.
fn check_head(
    file: &mut File,
    length: u64,
    task: &Task,
    expected: &[u8],
    path: &Path,
) -> Result<(), JournalError> {
    let io = |source| JournalError::Io { path: path.to_owned(), source };
    let damaged = || JournalError::Damaged { path: path.to_owned() };
    let wanted = length.min((FIXED_BYTES + MAX_DESCRIPTION_BYTES + DIGEST_BYTES) as u64);
    let mut bytes = vec![0; usize::try_from(wanted).unwrap_or(0)];
    file.seek(SeekFrom::Start(0)).and_then(|_| file.read_exact(&mut bytes)).map_err(io)?;
    if bytes.starts_with(expected) {
        return Ok(());
    }
    if !bytes.starts_with(&JOURNAL_MAGIC) {
        return Err(JournalError::NotAJournal { path: path.to_owned() });
    }
    let version = bytes.get(8..10).and_then(|b| b.try_into().ok()).map(u16::from_le_bytes);
    match version {
        Some(JOURNAL_VERSION) => {}
        Some(actual) => return Err(JournalError::Version { path: path.to_owned(), actual }),
        None => return Err(damaged()),
    }
    let n_text = bytes
        .get(FIXED_BYTES - 4..FIXED_BYTES)
        .and_then(|b| b.try_into().ok())
        .map_or(0, |b| u32::from_le_bytes(b) as usize);
    let n_head = FIXED_BYTES.saturating_add(n_text);
    let head = bytes.get(..n_head).ok_or_else(damaged)?;
    let digest = bytes.get(n_head..n_head + DIGEST_BYTES).ok_or_else(damaged)?;
    if digest != chained(&[], head) {
        return Err(damaged());
    }
    let text = head.get(FIXED_BYTES..).map(String::from_utf8_lossy).unwrap_or_default();
    Err(JournalError::OtherTask {
        path: path.to_owned(),
        difference: error::difference(&text, &task.description),
    })
}

fn chained(before: &[u8], bytes: &[u8]) -> [u8; DIGEST_BYTES] {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hasher.update(before).update(bytes);
    *hasher.finalize().as_bytes()
}

/// BLAKE3 of the shape and the values, sample by sample.
fn inputs_digest(inputs: &IntegerMatrix) -> [u8; DIGEST_BYTES] {
    let mut hasher = blake3::Hasher::new();
    for n in [inputs.nrows(), inputs.ncols()] {
        hasher.update(&(n as u64).to_le_bytes());
    }
    let mut bytes = Vec::with_capacity(inputs.nrows() * 4);
    for sample in inputs.columns() {
        bytes.clear();
        bytes.extend(sample.iter().flat_map(|value| value.to_le_bytes()));
        hasher.update(&bytes);
    }
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests;
