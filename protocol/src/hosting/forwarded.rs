//! Plans whose segments are evaluated elsewhere: a server as the gateway of a pool.
//!
//! ```text
//!  client ═ TLS ═► Server ─ admission, receipts ─► ForwardedSegment ─► Forward ─► whoever evaluates
//! ```
//! A segment evaluation is a pure function, so it does not matter where it happens. The gateway receives a
//! request whole, hands it on, and signs what comes back; the checks of the client hold for whoever answered.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nn_poly::encrypted::SegmentContext;
use nn_poly::plan::{Plan, Trust};

use super::{HostingError, PlanShelf, hosted, narrow};
use crate::error::Source;
use crate::identifiers::Digest;
use crate::server::service::{Evaluated, ReplySink, RequestReceiver, SegmentService, ServiceError};

/// Bytes of a reply that are handed over together.
const PIECE_BYTES: usize = 2 << 20;

/// One request, complete.
#[derive(Debug)]
pub struct ForwardedRequest {
    /// The segment to evaluate.
    pub segment: usize,
    /// Seed and payload in one piece: the first 32 bytes are the seed.
    pub bytes: Vec<u8>,
}

/// Whoever evaluates segments. Called from blocking threads, several at a time.
pub trait Forward: Send + Sync {
    /// The payload of the reply.
    ///
    /// `wanted` says whether somebody still waits for it: not once the client cancelled, left, or took too
    /// long. Ask a few times a second, and give up with any error if not: until then the request holds its
    /// place among those that are evaluated.
    ///
    /// # Errors
    /// Why there is none. The text stays in the server's log.
    fn evaluate(
        &self,
        request: ForwardedRequest,
        wanted: &mut dyn FnMut() -> bool,
    ) -> Result<Bytes, Source>;
}

impl PlanShelf {
    /// Adds a plan under its digest whose segments `forward` evaluates; returns the digest.
    ///
    /// # Errors
    /// - [`HostingError::Plan`] for a masked plan: its masks need the server's key.
    /// - [`HostingError::Evaluator`] when a segment's parameters are not usable.
    pub fn insert_forwarded(
        &mut self,
        plan: &Plan,
        forward: &Arc<dyn Forward>,
    ) -> Result<Digest, HostingError> {
        let (public, digest) = (plan.public(), Digest(plan.digest().0));
        public
            .expect_trust(Trust::Owner, "a plan whose segments are evaluated elsewhere")
            .map_err(|source| HostingError::Plan { path: public.name.clone().into(), source })?;
        let segments = public.segments.iter().enumerate().map(|(number, segment)| {
            let context = SegmentContext::new(number, segment)
                .map_err(|source| HostingError::Evaluator { name: public.name.clone(), source })?;
            let shape = Shape {
                segment: number,
                request_bytes: context.request_bytes(),
                reply_bytes: context.reply_bytes(),
                n_inputs: narrow(context.n_inputs()),
                n_outputs: narrow(context.n_outputs()),
            };
            let forward = Arc::clone(forward);
            Ok(Arc::new(ForwardedSegment { shape, forward }) as Arc<dyn SegmentService>)
        });
        let segments = segments.collect::<Result<Vec<_>, HostingError>>()?;
        self.place(hosted(plan, digest, segments)?);
        Ok(digest)
    }
}

/// What is known of a segment here.
#[derive(Debug, Clone, Copy)]
struct Shape {
    segment: usize,
    request_bytes: u64,
    reply_bytes: u64,
    n_inputs: u32,
    n_outputs: u32,
}

struct ForwardedSegment {
    shape: Shape,
    forward: Arc<dyn Forward>,
}

impl SegmentService for ForwardedSegment {
    fn request_bytes(&self) -> u64 {
        self.shape.request_bytes
    }

    fn reply_bytes(&self) -> u64 {
        self.shape.reply_bytes
    }

    fn n_inputs(&self) -> u32 {
        self.shape.n_inputs
    }

    fn n_outputs(&self) -> u32 {
        self.shape.n_outputs
    }

    /// Request and reply, each here and once more on its way.
    fn memory_bytes(&self) -> u64 {
        2 * (self.shape.request_bytes + self.shape.reply_bytes)
    }

    fn begin(&self, seed: [u8; 32]) -> Result<Box<dyn RequestReceiver>, ServiceError> {
        let (shape, forward) = (self.shape, Arc::clone(&self.forward));
        // Whole at once: a vector that grows holds up to three times its content.
        let size = usize::try_from(shape.request_bytes).unwrap_or(usize::MAX);
        let mut bytes = Vec::new();
        bytes
            .try_reserve_exact(size.saturating_add(seed.len()))
            .map_err(|source| ServiceError::Failed { source: source.into() })?;
        bytes.extend_from_slice(&seed);
        Ok(Box::new(Forwarding { shape, forward, bytes }))
    }
}

/// One request on its way.
struct Forwarding {
    shape: Shape,
    forward: Arc<dyn Forward>,
    /// Seed and payload so far; its length is the server's to check.
    bytes: Vec<u8>,
}

impl RequestReceiver for Forwarding {
    fn push(&mut self, bytes: &[u8]) -> Result<(), ServiceError> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn evaluate(self: Box<Self>, sink: &mut ReplySink<'_>) -> Result<Evaluated, ServiceError> {
        let Self { shape, forward, bytes } = *self;
        let began = Instant::now();
        let request = ForwardedRequest { segment: shape.segment, bytes };
        let evaluated = forward.evaluate(request, &mut || sink(Bytes::new()).is_continue());
        let mut reply = match evaluated {
            Ok(reply) => reply,
            // Given up because nobody waits: not a failure of whoever evaluates.
            Err(_) if sink(Bytes::new()).is_break() => return Err(ServiceError::Stopped),
            Err(source) => return Err(ServiceError::Failed { source }),
        };
        // Elsewhere: all that is known here is how long it took.
        let busy: Duration = began.elapsed();
        let produced = reply.len() as u64;
        if produced != shape.reply_bytes {
            return Err(ServiceError::WrongReplyLength { declared: shape.reply_bytes, produced });
        }
        while !reply.is_empty() {
            let piece = reply.split_to(PIECE_BYTES.min(reply.len()));
            if let ControlFlow::Break(()) = sink(piece) {
                return Err(ServiceError::Stopped);
            }
        }
        Ok(Evaluated { busy })
    }
}
