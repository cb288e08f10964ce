//! What a server serves: the seam between the protocol and the thing that evaluates.
//!
//! The protocol moves bytes; a [`PlanHost`] knows plans, a [`SegmentService`] one segment of one
//! plan, a [`RequestReceiver`] one request. All three are object-safe, so that a test can put a
//! dishonest evaluator behind an honest protocol.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::error::Source;
use crate::identifiers::{Digest, Label};
use crate::message::{ModelCard, Refusal, RefusalCode};
use crate::signature::OwnerSignature;

/// Where a reply's bytes go, in order. `Break` means: nobody wants them any more, stop. An empty piece
/// is not sent: it asks for that answer, and a service that waits for something should ask now and then.
///
/// Returns as soon as the piece is queued, so that the service can go on while it is hashed and
/// sent; waits only while the piece before last is still there. Pieces of some megabytes cost least.
pub type ReplySink<'a> = dyn FnMut(Bytes) -> ControlFlow<()> + 'a;

/// The plans of a server. Called from blocking threads, so it may read files, but for
/// [`plan_name`](Self::plan_name).
pub trait PlanHost: Send + Sync {
    /// The models to announce.
    fn models(&self) -> Vec<ModelCard>;

    /// Number of models.
    fn n_plans(&self) -> usize {
        self.models().len()
    }

    /// The encoded public part of a plan, if the host has that plan.
    fn public_plan(&self, plan: &Digest) -> Option<Arc<[u8]>>;

    /// The name of the model of a plan; `None` if the host does not have that plan, which is then refused.
    /// Access rules may go by it. Asked before anything else about a request and on the threads of the
    /// network: it must answer from memory, at once.
    fn plan_name(&self, plan: &Digest) -> Option<Label> {
        self.models().into_iter().find(|card| card.plan == *plan).map(|card| card.name)
    }

    /// The owner's signature of a plan, if the host was given one.
    fn signature(&self, plan: &Digest) -> Option<OwnerSignature> {
        self.models().into_iter().find(|card| card.plan == *plan)?.signature
    }

    /// The evaluator of one segment.
    ///
    /// # Errors
    /// The refusal to send, usually [`RefusalCode::UnknownPlan`] or [`RefusalCode::UnknownSegment`].
    fn segment(&self, plan: &Digest, segment: u32) -> Result<Arc<dyn SegmentService>, Refusal>;

    /// Limits the memory that the host keeps between requests, beyond what they declare, to
    /// `max_bytes`; returns how much it may be, so that admission can count it. A server asks once,
    /// at its start. The default is for hosts that keep nothing.
    fn limit_spare_memory(&self, max_bytes: u64) -> u64 {
        let _ = max_bytes;
        0
    }
}

/// Evaluates one segment of one plan. Holds no state of any client.
pub trait SegmentService: Send + Sync {
    /// Exact payload bytes of a request.
    fn request_bytes(&self) -> u64;

    /// Exact payload bytes of a reply.
    fn reply_bytes(&self) -> u64;

    /// Ciphertexts of a request.
    fn n_inputs(&self) -> u32;

    /// Ciphertexts of a reply.
    fn n_outputs(&self) -> u32;

    /// Peak memory of one request in bytes, from its first payload byte to its last reply byte,
    /// with three pieces of the reply that wait to be sent. Admission counts with it.
    fn memory_bytes(&self) -> u64;

    /// Start one request. `seed` expands to the uniform half of its ciphertexts.
    ///
    /// # Errors
    /// [`ServiceError`], if the request cannot be started.
    fn begin(&self, seed: [u8; 32]) -> Result<Box<dyn RequestReceiver>, ServiceError>;
}

/// One request: takes its payload piece by piece, then evaluates it. Each call runs on a blocking
/// thread, not always on the same; between two calls the request has none.
pub trait RequestReceiver: Send {
    /// Take the next payload bytes, in order and in pieces of any length. Together they are exactly
    /// [`SegmentService::request_bytes`].
    ///
    /// # Errors
    /// [`ServiceError::Malformed`], if the bytes are no block of this plan.
    fn push(&mut self, bytes: &[u8]) -> Result<(), ServiceError>;

    /// Evaluate and hand over the reply in order, in pieces of any length: exactly
    /// [`SegmentService::reply_bytes`] in all. The sink waits while the client is slow.
    ///
    /// # Errors
    /// - [`ServiceError::Stopped`]: the sink said `Break`.
    /// - Any other [`ServiceError`]: no complete reply.
    fn evaluate(self: Box<Self>, sink: &mut ReplySink<'_>) -> Result<Evaluated, ServiceError>;
}

/// The account of a finished evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evaluated {
    /// Busy CPU time over all threads, decoding included.
    pub busy: Duration,
}

/// Why a request failed in its service. The text stays in the server's log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// The payload is not a block of this plan.
    #[error("the payload is not a block of this plan")]
    Malformed {
        /// What is wrong with it.
        source: Source,
    },
    /// The sink said `Break`.
    #[error("the evaluation was stopped")]
    Stopped,
    /// The service failed.
    #[error("the evaluation failed")]
    Failed {
        /// Why.
        source: Source,
    },
    /// The service produced another number of bytes than it declared.
    #[error("the service declared a reply of {declared} bytes but produced {produced}")]
    WrongReplyLength {
        /// Bytes declared.
        declared: u64,
        /// Bytes produced, at least.
        produced: u64,
    },
}

impl ServiceError {
    /// What the client is told.
    pub(crate) const fn code(&self) -> RefusalCode {
        match self {
            Self::Malformed { .. } => RefusalCode::MalformedPayload,
            Self::Stopped | Self::Failed { .. } | Self::WrongReplyLength { .. } => {
                RefusalCode::Internal
            }
        }
    }
}
