//! A server that follows the protocol, signs its replies, and alters one word of each.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use protocol::hosting::PlanShelf;
use protocol::identifiers::Digest;
use protocol::message::{ModelCard, Refusal};
use protocol::server::service::{
    Evaluated, PlanHost, ReplySink, RequestReceiver, SegmentService, ServiceError,
};

/// An honest host, and what is done to its replies.
pub(super) struct Tampering {
    honest: PlanShelf,
    /// Which ciphertext, modulo their number.
    at: u32,
    happened: Arc<AtomicBool>,
}

impl Tampering {
    /// Alter the lowest bit of the first word of ciphertext number `at`, modulo their number.
    pub(super) fn new(honest: PlanShelf, at: u32) -> Self {
        Self { honest, at, happened: Arc::default() }
    }

    /// Whether it was done.
    pub(super) fn happened(&self) -> bool {
        self.happened.load(Ordering::Relaxed)
    }
}

impl PlanHost for Tampering {
    fn models(&self) -> Vec<ModelCard> {
        self.honest.models()
    }

    fn public_plan(&self, plan: &Digest) -> Option<Arc<[u8]>> {
        self.honest.public_plan(plan)
    }

    fn segment(&self, plan: &Digest, segment: u32) -> Result<Arc<dyn SegmentService>, Refusal> {
        let honest = self.honest.segment(plan, segment)?;
        let outputs = honest.n_outputs().max(1);
        let size = honest.reply_bytes() / u64::from(outputs);
        let position = u64::from(self.at % outputs) * size;
        let happened = Arc::clone(&self.happened);
        Ok(Arc::new(TamperingSegment { honest, position, happened }))
    }
}

struct TamperingSegment {
    honest: Arc<dyn SegmentService>,
    /// Which byte of the reply is altered.
    position: u64,
    happened: Arc<AtomicBool>,
}

impl SegmentService for TamperingSegment {
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
        let (honest, happened) = (self.honest.begin(seed)?, Arc::clone(&self.happened));
        Ok(Box::new(TamperingRequest { honest, position: self.position, happened }))
    }
}

struct TamperingRequest {
    honest: Box<dyn RequestReceiver>,
    position: u64,
    happened: Arc<AtomicBool>,
}

impl RequestReceiver for TamperingRequest {
    fn push(&mut self, bytes: &[u8]) -> Result<(), ServiceError> {
        self.honest.push(bytes)
    }

    fn evaluate(self: Box<Self>, sink: &mut ReplySink<'_>) -> Result<Evaluated, ServiceError> {
        let Self { honest, position, happened } = *self;
        let mut sent = 0_u64;
        honest.evaluate(&mut |piece| -> ControlFlow<()> {
            let offset = usize::try_from(position.wrapping_sub(sent)).unwrap_or(usize::MAX);
            sent += piece.len() as u64;
            if offset >= piece.len() {
                return sink(piece);
            }
            let mut altered = BytesMut::from(&piece[..]);
            if let Some(byte) = altered.get_mut(offset) {
                *byte ^= 1;
                happened.store(true, Ordering::Relaxed);
            }
            sink(Bytes::from(altered))
        })
    }
}
