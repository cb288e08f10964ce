//! Who asked for what: one JSON line per request, in a file that rotates by size.
//!
//! ```json
//! {"time":"2026-11-22T03:00:00.123Z","event":"evaluate","client":"ward-7","peer":"10.0.0.8:40112",
//!  "request":"d0d1…","plan":"00ab…","segment":1,"bytes_in":41943040,"bytes_out":20971520,
//!  "seconds":1.284,"outcome":"evaluated"}
//! ```
//! No inputs, no ciphertexts, no tokens. Records are written by a thread of their own: a disk that is
//! full or slow loses records, which are counted and warned of, and holds up nobody.

use std::collections::VecDeque;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;
use tracing::warn;

use crate::access::clock::unix_time;
use crate::calendar::time_text;
use crate::error::{ConfigError, Result};
use crate::identifiers::{Digest, RequestId};

/// Records that wait to be written; further ones are lost.
const QUEUED_RECORDS: usize = 4096;
/// Between two warnings about lost records.
const WARNING_PAUSE: Duration = Duration::from_secs(60);
/// Records of strangers that are kept in one minute: so that they cannot push out everything else.
const STRANGERS_PER_MINUTE: usize = 60;
const MINUTE: Duration = Duration::from_secs(60);

/// How much an audit log keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditLimits {
    /// Bytes after which the file is put aside. Default 64 MiB.
    pub max_file_bytes: u64,
    /// Files put aside that are kept, as `NAME.1` (the newest) to `NAME.N`. Default 8.
    pub max_old_files: u32,
}

impl Default for AuditLimits {
    fn default() -> Self {
        Self { max_file_bytes: 64 << 20, max_old_files: 8 }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What was asked for.
    pub event: Event,
    /// The client's name in the access list; `None` for anonymous ones and strangers.
    pub client: Option<String>,
    /// Where it came from; `None` from inside the process.
    pub peer: Option<SocketAddr>,
    /// The client's number of the request.
    pub request: Option<RequestId>,
    /// The plan asked for.
    pub plan: Option<Digest>,
    /// The segment asked for.
    pub segment: Option<u32>,
    /// Payload bytes received.
    pub bytes_in: u64,
    /// Payload bytes sent.
    pub bytes_out: u64,
    /// From the question to the end of the answer.
    pub duration: Duration,
    /// How it ended.
    pub outcome: &'static str,
}

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// Somebody who was not let in.
    Enter,
    /// The list of models.
    ListModels,
    /// The public part of a plan.
    FetchPlan,
    /// One segment of a plan on a block.
    Evaluate,
}

impl Event {
    /// The event as the log and the metrics name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enter => "enter",
            Self::ListModels => "list_models",
            Self::FetchPlan => "fetch_plan",
            Self::Evaluate => "evaluate",
        }
    }
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    event: Event,
    client: Option<&'a str>,
    peer: Option<SocketAddr>,
    request: Option<String>,
    plan: Option<String>,
    segment: Option<u32>,
    bytes_in: u64,
    bytes_out: u64,
    seconds: f64,
    outcome: &'a str,
}

impl Record {
    /// The line of this record, with its end.
    fn line(&self, unix_millis: u64) -> String {
        let line = Line {
            time: time_text(unix_millis),
            event: self.event,
            client: self.client.as_deref(),
            peer: self.peer,
            request: self.request.map(|id| id.to_string()),
            plan: self.plan.map(|plan| plan.to_string()),
            segment: self.segment,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            seconds: self.duration.as_secs_f64(),
            outcome: self.outcome,
        };
        let mut text =
            serde_json::to_string(&line).expect("invariant: a record of plain values encodes");
        text.push('\n');
        text
    }
}

/// A log that records are sent to. Cheap to clone; clones are one. The last one to be dropped waits
/// until everything is written.
#[derive(Clone)]
pub struct AuditLog {
    shared: Arc<Shared>,
}

struct Shared {
    /// `None` only while it is being dropped.
    queue: Option<SyncSender<String>>,
    writer: Option<JoinHandle<()>>,
    lost: Arc<AtomicU64>,
    /// When strangers were last recorded.
    strangers: Mutex<VecDeque<Instant>>,
}

impl AuditLog {
    /// Open a log, or go on with one. The file is made for its owner only (mode 0600).
    ///
    /// # Errors
    /// [`ConfigError::UnwritableAuditLog`]: the file cannot be written, or the thread not started.
    pub fn open(path: &Path, limits: AuditLimits) -> Result<Self> {
        let unwritable = |source| ConfigError::UnwritableAuditLog { path: path.to_owned(), source };
        let files = Files::open(path, limits).map_err(unwritable)?;
        let (queue, inbox) = sync_channel(QUEUED_RECORDS);
        let lost = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&lost);
        let writer = std::thread::Builder::new()
            .name("securedl-audit".to_owned())
            .spawn(move || write_all(files, &inbox, &counter))
            .map_err(unwritable)?;
        let shared =
            Shared { queue: Some(queue), writer: Some(writer), lost, strangers: Mutex::default() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Send a record to the log. Never waits: without room it is lost.
    pub fn record(&self, record: &Record) {
        if record.event == Event::Enter && !self.admits_stranger(Instant::now()) {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let millis = u64::try_from(unix_time().as_millis()).unwrap_or(u64::MAX);
        let Some(queue) = &self.shared.queue else { return };
        match queue.try_send(record.line(millis)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.shared.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Records that are not in the file: the disk was full or slow, or there were too many strangers.
    #[must_use]
    pub fn n_lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    fn admits_stranger(&self, now: Instant) -> bool {
        let mut times = self.shared.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        while times.front().is_some_and(|&time| now.saturating_duration_since(time) >= MINUTE) {
            times.pop_front();
        }
        let has_room = times.len() < STRANGERS_PER_MINUTE;
        if has_room {
            times.push_back(now);
        }
        has_room
    }
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditLog").field("n_lost", &self.n_lost()).finish_non_exhaustive()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

fn write_all(mut files: Files, inbox: &Receiver<String>, lost: &AtomicU64) {
    let mut warned: Option<(Instant, u64)> = None;
    while let Ok(line) = inbox.recv() {
        let failure = files.append(line.as_bytes()).err();
        if failure.is_some() {
            lost.fetch_add(1, Ordering::Relaxed);
        }
        let n_lost = lost.load(Ordering::Relaxed);
        let is_due = match warned {
            None => n_lost > 0,
            Some((when, told)) => n_lost > told && when.elapsed() >= WARNING_PAUSE,
        };
        if is_due {
            warned = Some((Instant::now(), n_lost));
            warn!(n_lost, error = failure.map(tracing::field::display), "audit records were lost");
        }
    }
}

/// The file in use and those put aside.
struct Files {
    path: PathBuf,
    limits: AuditLimits,
    file: File,
    length: u64,
    /// The last line was written in part: the next one begins a line of its own.
    torn: bool,
}

impl Files {
    fn open(path: &Path, limits: AuditLimits) -> io::Result<Self> {
        let (file, length) = open_file(path)?;
        // Whatever stopped the process may have cut a line.
        Ok(Self {
            path: path.to_owned(),
            limits,
            file,
            length,
            torn: length > 0 && !ends_line(path),
        })
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        let n_bytes = line.len() as u64;
        if self.length > 0 && self.length.saturating_add(n_bytes) > self.limits.max_file_bytes {
            self.rotate()?;
        }
        if self.torn {
            self.file.write_all(b"\n")?;
            self.length += 1;
        }
        self.torn = true;
        self.file.write_all(line)?;
        self.torn = false;
        self.length = self.length.saturating_add(n_bytes);
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let last = self.limits.max_old_files;
        if last == 0 {
            fs::remove_file(&self.path)?;
        } else {
            for number in (1..last).rev() {
                let (from, to) = (self.old(number), self.old(number + 1));
                match fs::rename(from, to) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    Ok(()) | Err(_) => {}
                }
            }
            fs::rename(&self.path, self.old(1))?;
        }
        (self.file, self.length) = open_file(&self.path)?;
        self.torn = false;
        Ok(())
    }

    fn old(&self, number: u32) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        name.into()
    }
}

fn open_file(path: &Path) -> io::Result<(File, u64)> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let file = options.open(path)?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

fn ends_line(path: &Path) -> bool {
    use std::io::{Read, Seek, SeekFrom};
    let mut last = [0];
    let read = || {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)
    };
    let outcome: io::Result<()> = {
        let mut read = read;
        read()
    };
    outcome.is_ok() && last == *b"\n"
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use serde_json::Value;

    use super::*;

    fn record() -> Record {
        Record {
            event: Event::Evaluate,
            client: Some("the \"seventh\" ward".to_owned()),
            peer: Some("10.0.0.8:40112".parse().unwrap()),
            request: Some(RequestId([0xd0; 16])),
            plan: Some(Digest([0xab; 32])),
            segment: Some(1),
            bytes_in: 10,
            bytes_out: 20,
            duration: Duration::from_millis(1500),
            outcome: "evaluated",
        }
    }

    #[test]
    fn a_record_has_its_published_form() {
        let expected = format!(
            "{{\"time\":\"1970-01-01T00:00:01.500Z\",\"event\":\"evaluate\",\
             \"client\":\"the \\\"seventh\\\" ward\",\"peer\":\"10.0.0.8:40112\",\
             \"request\":\"{}\",\"plan\":\"{}\",\"segment\":1,\"bytes_in\":10,\"bytes_out\":20,\
             \"seconds\":1.5,\"outcome\":\"evaluated\"}}\n",
            "d0".repeat(16),
            "ab".repeat(32),
        );
        assert_eq!(record().line(1500), expected);
    }

    fn lines(path: &Path) -> Vec<Value> {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn files_rotate_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let per_file = 3 * record().line(0).len() as u64 + 10;
        let limits = AuditLimits { max_file_bytes: per_file, max_old_files: 2 };
        for _ in 0..5 {
            // Opened again and again: it goes on where it was.
            let log = AuditLog::open(&path, limits).unwrap();
            (0..2).for_each(|_| log.record(&record()));
            drop(log);
        }
        let old = |n: u32| folder.path().join(format!("audit.jsonl.{n}"));
        assert_eq!([lines(&path).len(), lines(&old(1)).len(), lines(&old(2)).len()], [1, 3, 3]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_torn_line_does_not_spoil_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        fs::write(&path, "{\"time\":").unwrap();
        AuditLog::open(&path, AuditLimits::default()).unwrap().record(&record());
        let text = fs::read_to_string(&path).unwrap();
        let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(last["outcome"], "evaluated");
    }

    #[test]
    fn strangers_cannot_flood_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let log = AuditLog::open(&path, AuditLimits::default()).unwrap();
        let stranger = Record { event: Event::Enter, client: None, ..record() };
        (0..500).for_each(|_| log.record(&stranger));
        log.record(&record());
        assert_eq!(log.n_lost(), 500 - STRANGERS_PER_MINUTE as u64);
        drop(log);
        assert_eq!(lines(&path).len(), STRANGERS_PER_MINUTE + 1);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_loses_records_and_nothing_else() {
        let log = AuditLog::open(Path::new("/dev/full"), AuditLimits::default()).unwrap();
        log.record(&record());
        let lost = Arc::clone(&log.shared.lost);
        drop(log);
        assert_eq!(lost.load(Ordering::Relaxed), 1);
        assert!(AuditLog::open(Path::new("/no/such/folder/x"), AuditLimits::default()).is_err());
    }
}
