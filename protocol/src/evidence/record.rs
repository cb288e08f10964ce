//! Writes a block's evidence while its reply arrives; most of it is thrown away.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{CONTEXT, EVIDENCE_EXTENSION, Head, Trailer};
use crate::client::PreparedRequest;
use crate::transcript::VerifiedReceipt;

/// Bytes of a request that are written together.
const PIECE_BYTES: usize = 1 << 20;

/// Numbers the files of this process.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// The evidence of one block, while its reply arrives. Removed when dropped.
///
/// A failure to write ends the recording and nothing else; [`Recorder::finish`] tells it.
#[derive(Debug)]
pub struct Recorder {
    head: Head,
    file: Result<Growing, io::Error>,
}

#[derive(Debug)]
struct Growing {
    file: File,
    path: Removed,
    hasher: blake3::Hasher,
    /// State and length after the request, for a reply that starts again.
    at_reply: (blake3::Hasher, u64),
}

/// A file that is removed when dropped.
#[derive(Debug)]
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Recorder {
    /// Begin with a request whose payload is complete, in a folder that is created if it does not
    /// exist. The file is for its owner only (mode 0600).
    #[must_use]
    pub fn new(folder: &Path, request: &PreparedRequest) -> Self {
        let head = Head { request: *request.header(), reply: *request.reply_shape() };
        Self { head, file: begin(folder, &head, request) }
    }

    /// The next bytes of the reply.
    pub fn piece(&mut self, bytes: &[u8]) {
        self.attempt(|growing| growing.write(bytes));
    }

    /// The reply begins again.
    pub fn restart(&mut self) {
        self.attempt(|growing| {
            let (hasher, length) = growing.at_reply.clone();
            growing.hasher = hasher;
            growing.file.set_len(length)?;
            growing.file.seek(SeekFrom::Start(length)).map(drop)
        });
    }

    /// The reply is complete and signed.
    ///
    /// # Errors
    /// Why it could not be recorded.
    pub fn finish(self, receipt: &VerifiedReceipt) -> io::Result<Recorded> {
        let mut growing = self.file?;
        let said = receipt.receipt();
        let trailer = Trailer {
            identity: *receipt.identity(),
            request_hash: said.request_hash,
            reply_hash: said.reply_hash,
            evaluate_micros: said.evaluate_micros,
            signature: said.signature,
        };
        growing.write(&trailer.to_bytes())?;
        let digest = growing.hasher.finalize();
        growing.file.write_all(digest.as_bytes())?;
        growing.file.sync_data()?;
        let request = &self.head.request;
        let id: String = request.request_id.to_string().chars().take(12).collect();
        let name = format!(
            "{}-segment{}-{id}.{EVIDENCE_EXTENSION}",
            request.plan.short(),
            request.segment
        );
        Ok(Recorded { path: growing.path, name })
    }

    fn attempt(&mut self, work: impl FnOnce(&mut Growing) -> io::Result<()>) {
        if let Ok(growing) = &mut self.file
            && let Err(error) = work(growing)
        {
            self.file = Err(error);
        }
    }
}

impl Growing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.file.write_all(bytes)
    }
}

fn begin(folder: &Path, head: &Head, request: &PreparedRequest) -> io::Result<Growing> {
    let (file, path) = new_file(folder)?;
    let hasher = blake3::Hasher::new_derive_key(CONTEXT);
    let mut growing = Growing { file, path: Removed(path), at_reply: (hasher.clone(), 0), hasher };
    growing.write(&head.to_bytes())?;
    let total = request.payload().total_bytes();
    let mut position = 0;
    while position < total {
        let length = usize::try_from(total - position).unwrap_or(usize::MAX).min(PIECE_BYTES);
        let piece = request.payload().piece(position, length).map_err(io::Error::other)?;
        let piece = piece.ok_or_else(|| io::Error::other("the request is not complete"))?;
        growing.write(&piece)?;
        position += length as u64;
    }
    let length = growing.file.stream_position()?;
    growing.at_reply = (growing.hasher.clone(), length);
    Ok(growing)
}

/// Times a folder is made again that another run has removed as empty.
const MAX_REMOVALS: usize = 8;

/// A file under a name that nobody has, in a folder that is made if it does not exist. Names of a
/// run that was killed may be in the way: process numbers come again, in containers every time.
fn new_file(folder: &Path) -> io::Result<(File, PathBuf)> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    fs::create_dir_all(folder)?;
    let mut n_removals = 0;
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!(".{}-{number}.part", std::process::id()));
        match options.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound && n_removals < MAX_REMOVALS => {
                n_removals += 1;
                fs::create_dir_all(folder)?;
            }
            opened => return Ok((opened?, path)),
        }
    }
}

/// A complete piece of evidence that nobody has decided to keep. Removed when dropped.
#[derive(Debug)]
pub struct Recorded {
    path: Removed,
    name: String,
}

impl Recorded {
    /// Keep it: gives the file its name and returns its path.
    ///
    /// # Errors
    /// The system's reason.
    pub fn keep(self) -> io::Result<PathBuf> {
        let target = self.path.0.with_file_name(&self.name);
        fs::rename(&self.path.0, &target)?;
        Ok(target)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn what_a_killed_run_has_left_is_in_nobodys_way() {
        let folder = tempfile::tempdir().unwrap();
        let (_, first) = new_file(folder.path()).unwrap();
        let next = NEXT.load(Ordering::Relaxed);
        for number in next..next + 20 {
            let name = format!(".{}-{number}.part", std::process::id());
            fs::write(folder.path().join(name), "left").unwrap();
        }
        let (mut file, second) = new_file(folder.path()).unwrap();
        assert_ne!(first, second);
        file.write_all(b"ours").unwrap();
        assert_eq!(fs::read(second).unwrap(), b"ours");
    }
}
