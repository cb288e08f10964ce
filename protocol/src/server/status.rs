//! How a server is at this moment.

use std::fs;

/// Levels of a server: connections, requests, memory. Read without stopping anything, so that the
/// numbers need not fit each other exactly.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ServerStatus {
    /// Open connections.
    pub connections: usize,
    /// Most connections.
    pub max_connections: usize,
    /// Requests that hold memory: uploading, waiting for the processors, evaluating, replying.
    pub requests_admitted: usize,
    /// Requests that wait for memory.
    pub requests_waiting: usize,
    /// Evaluations begun and not finished.
    pub evaluations_running: usize,
    /// Uploaded requests that wait for the processors.
    pub evaluations_waiting: usize,
    /// Memory that the admitted requests declared, in bytes.
    pub memory_declared_bytes: u64,
    /// Memory that requests may declare together, in bytes: the limit without what is reserved for
    /// connections and kept between requests.
    pub memory_limit_bytes: u64,
    /// Memory of the whole process in bytes, where the system tells.
    pub resident_bytes: Option<u64>,
    /// Plans served.
    pub plans: usize,
    /// Whether the server finishes its last requests and takes no new ones.
    pub draining: bool,
}

/// Why a server should not be sent requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// It is about to stop.
    #[error("the server is about to stop")]
    Draining,
    /// It has nothing to serve.
    #[error("no plan is loaded")]
    NoPlans,
}

impl ServerStatus {
    /// Whether requests should be sent here. A full server is ready: it says when to come back.
    ///
    /// # Errors
    /// Why they should not.
    pub const fn check_ready(&self) -> Result<(), NotReady> {
        match (self.draining, self.plans) {
            (true, _) => Err(NotReady::Draining),
            (false, 0) => Err(NotReady::NoPlans),
            (false, _) => Ok(()),
        }
    }
}

/// Memory of this process, where `/proc` tells it.
pub(super) fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}
