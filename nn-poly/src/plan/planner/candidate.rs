//! What one segment may be, with its cost in a batch, and how one of them is picked.

use super::BlockSeconds;
use crate::plan::{SEED_BYTES, Segment};

/// Bytes of one request, its seed included.
pub(super) fn bytes_up(segment: &Segment) -> u64 {
    segment.request_bytes() + SEED_BYTES
}

/// One candidate of one segment with its cost in a batch.
#[derive(Clone)]
pub(super) struct CostedSegment {
    pub(super) segment: Segment,
    pub(super) security_bits: u32,
    pub(super) seconds: BlockSeconds,
    pub(super) time: f64,
    pub(super) bytes: u64,
    pub(super) client_memory: u64,
    pub(super) server_memory: u64,
}

/// By what a segment's candidate is picked.
#[derive(Clone, Copy)]
pub(super) enum Pick {
    Time,
    Bytes,
    Memory,
}

impl Pick {
    pub(super) const ALL: [Self; 3] = [Self::Time, Self::Bytes, Self::Memory];

    #[expect(clippy::cast_precision_loss, reason = "ranks: bytes of a run are below 2^53")]
    fn rank(self, costed: &CostedSegment) -> (f64, f64) {
        let memory = costed.client_memory.max(costed.server_memory) as f64;
        match self {
            Self::Time => (costed.time, costed.bytes as f64),
            Self::Bytes => (costed.bytes as f64, costed.time),
            Self::Memory => (memory, costed.time),
        }
    }

    pub(super) fn best(self, candidates: &[CostedSegment]) -> Option<&CostedSegment> {
        candidates.iter().min_by(|a, b| {
            let (a, b) = (self.rank(a), self.rank(b));
            a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1))
        })
    }
}
