//! Stages of masked plans behind the protocol's interface: a request is one stage, all its residues.

use std::sync::Arc;
use std::time::Duration;

use nn_poly::encrypted::{
    self,
    masked::{MaskedEvaluator, MaskedReceiver},
};

use super::lane::Lane;
use super::{failed, in_turns, narrow};
use crate::server::service::{Evaluated, ReplySink, RequestReceiver, SegmentService, ServiceError};

/// One stage: the evaluator behind the protocol's interface.
#[derive(Debug)]
pub(super) struct HostedStage {
    pub(super) evaluator: Arc<MaskedEvaluator>,
    pub(super) lane: Arc<Lane>,
}

impl SegmentService for HostedStage {
    fn request_bytes(&self) -> u64 {
        self.evaluator.request_bytes()
    }

    fn reply_bytes(&self) -> u64 {
        self.evaluator.reply_bytes()
    }

    fn n_inputs(&self) -> u32 {
        narrow(self.evaluator.n_inputs())
    }

    fn n_outputs(&self) -> u32 {
        narrow(self.evaluator.n_outputs())
    }

    fn memory_bytes(&self) -> u64 {
        self.evaluator.memory_bytes()
    }

    fn begin(&self, seed: [u8; 32]) -> Result<Box<dyn RequestReceiver>, ServiceError> {
        Ok(Box::new(HostedRequest {
            receiver: self.evaluator.receive(seed),
            evaluator: Arc::clone(&self.evaluator),
            lane: Arc::clone(&self.lane),
            busy: Duration::ZERO,
        }))
    }
}

/// One request on its way through a stage.
struct HostedRequest {
    evaluator: Arc<MaskedEvaluator>,
    lane: Arc<Lane>,
    receiver: MaskedReceiver,
    busy: Duration,
}

impl RequestReceiver for HostedRequest {
    fn push(&mut self, bytes: &[u8]) -> Result<(), ServiceError> {
        let turn = self.lane.upload();
        let outcome = self.receiver.push(bytes);
        self.busy += turn.end();
        outcome.map_err(malformed)
    }

    fn evaluate(self: Box<Self>, sink: &mut ReplySink<'_>) -> Result<Evaluated, ServiceError> {
        let Self { evaluator, lane, receiver, busy } = *self;
        let request = evaluator.open(receiver).map_err(malformed)?;
        in_turns(&lane, busy, sink, |emit| evaluator.evaluate(&request, emit).map_err(blamed))
    }
}

/// A checked plan's arithmetic does not fail: what does not fit it is in the request.
fn blamed(source: encrypted::Error) -> ServiceError {
    let is_requests =
        matches!(source, encrypted::Error::Arithmetic(_) | encrypted::Error::ByteCount { .. });
    if is_requests { malformed(source) } else { failed(source) }
}

fn malformed(source: encrypted::Error) -> ServiceError {
    ServiceError::Malformed { source: Box::new(source) }
}
