//! A server that follows the protocol, signs its replies, and changes their bytes: for
//! demonstrations and benchmarks of what a client notices.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::BytesMut;
use protocol::server::service::{
    Evaluated, ReplySink, RequestReceiver, SegmentService, ServiceError,
};

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
