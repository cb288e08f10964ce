//! A server that follows the protocol, signs its replies, and changes their bytes: for
//! demonstrations and benchmarks of what a client notices.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use bytes::BytesMut;
use protocol::identifiers::Digest;
use protocol::message::{ModelCard, Refusal};
use protocol::server::service::{
    Evaluated, PlanHost, ReplySink, RequestReceiver, SegmentService, ServiceError,
};

/// An honest host, but that its segments pass through a function, which may alter or replace them.
///
/// The function gets the plan's digest, the segment's number and the honest segment, whenever one is
/// asked for; what the honest host refuses it does not see.
pub(crate) struct AlteredHost<F> {
    honest: Arc<dyn PlanHost>,
    segment: F,
}

impl<F> AlteredHost<F>
where
    F: Fn(&Digest, u32, Arc<dyn SegmentService>) -> Result<Arc<dyn SegmentService>, Refusal>
        + Send
        + Sync,
{
    pub(crate) fn new(honest: Arc<dyn PlanHost>, segment: F) -> Arc<Self> {
        Arc::new(Self { honest, segment })
    }
}

impl<F> PlanHost for AlteredHost<F>
where
    F: Fn(&Digest, u32, Arc<dyn SegmentService>) -> Result<Arc<dyn SegmentService>, Refusal>
        + Send
        + Sync,
{
    fn models(&self) -> Vec<ModelCard> {
        self.honest.models()
    }

    fn public_plan(&self, plan: &Digest) -> Option<Arc<[u8]>> {
        self.honest.public_plan(plan)
    }

    fn segment(&self, plan: &Digest, segment: u32) -> Result<Arc<dyn SegmentService>, Refusal> {
        (self.segment)(plan, segment, self.honest.segment(plan, segment)?)
    }

    fn limit_spare_memory(&self, max_bytes: u64) -> u64 {
        self.honest.limit_spare_memory(max_bytes)
    }
}

/// Changes a piece of a reply in place, given where in the reply it begins.
pub(crate) type Alter = Arc<dyn Fn(u64, &mut [u8]) + Send + Sync>;

/// A segment whose honest replies are changed.
pub(crate) struct AlteredSegment {
    honest: Arc<dyn SegmentService>,
    alter: Alter,
}

impl AlteredSegment {
    pub(crate) fn new(honest: Arc<dyn SegmentService>, alter: Alter) -> Arc<Self> {
        Arc::new(Self { honest, alter })
    }
}

/// Bytes of one ciphertext of a segment's replies.
pub(crate) fn ciphertext_bytes(segment: &dyn SegmentService) -> u64 {
    segment.reply_bytes() / u64::from(segment.n_outputs().max(1))
}

/// Change the bytes of a piece that lie in `range` of the reply; how many there are.
pub(crate) fn change(
    piece_start: u64,
    piece: &mut [u8],
    range: Range<u64>,
    change: impl Fn(&mut u8),
) -> usize {
    let within = |position: u64| {
        let offset = position.saturating_sub(piece_start);
        usize::try_from(offset).unwrap_or(usize::MAX).min(piece.len())
    };
    let (from, to) = (within(range.start), within(range.end));
    let found = piece.get_mut(from..to).unwrap_or_default();
    found.iter_mut().for_each(change);
    found.len()
}

impl SegmentService for AlteredSegment {
    fn request_bytes(&self) -> u64 {
        self.honest.request_bytes()
    }

    fn reply_bytes(&self) -> u64 {
        self.honest.reply_bytes()
    }

    fn n_inputs(&self) -> u32 {
        self.honest.n_inputs()
    }

    fn n_outputs(&self) -> u32 {
        self.honest.n_outputs()
    }

    fn memory_bytes(&self) -> u64 {
        self.honest.memory_bytes()
    }

    fn begin(&self, seed: [u8; 32]) -> Result<Box<dyn RequestReceiver>, ServiceError> {
        let (honest, alter) = (self.honest.begin(seed)?, Arc::clone(&self.alter));
        Ok(Box::new(AlteredRequest { honest, alter }))
    }
}

struct AlteredRequest {
    honest: Box<dyn RequestReceiver>,
    alter: Alter,
}

impl RequestReceiver for AlteredRequest {
    fn push(&mut self, bytes: &[u8]) -> Result<(), ServiceError> {
        self.honest.push(bytes)
    }

    fn evaluate(self: Box<Self>, sink: &mut ReplySink<'_>) -> Result<Evaluated, ServiceError> {
        let Self { honest, alter } = *self;
        let mut sent = 0_u64;
        honest.evaluate(&mut |piece| -> ControlFlow<()> {
            let mut altered = BytesMut::from(&piece[..]);
            alter(sent, &mut altered);
            sent += piece.len() as u64;
            sink(altered.freeze())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_changed_wherever_pieces_are_cut() {
        for cut in 1..8 {
            let mut bytes = [1_u8; 10];
            let (mut start, mut n_changed) = (0, 0);
            for piece in bytes.chunks_mut(cut) {
                let length = piece.len() as u64;
                n_changed += change(start, piece, 3..7, |byte| *byte = 0);
                start += length;
            }
            assert_eq!(bytes, [1, 1, 1, 0, 0, 0, 0, 1, 1, 1], "pieces of {cut}");
            assert_eq!(n_changed, 4, "pieces of {cut}");
        }
    }
}
