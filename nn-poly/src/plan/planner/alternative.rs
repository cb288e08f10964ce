//! A whole plan with what a run under it costs.

use std::cmp::Ordering;

use super::{Objective, TimeForecast};
use crate::error::Result;
use crate::integer::IntegerNetwork;
use crate::plan::compile::finish;
use crate::plan::{ActivationSide, Forecast, ModelFacts, Plan, PlanOptions, Segment};

/// One plan a network can have, and what a run under it costs.
#[derive(Clone, Debug, PartialEq)]
pub struct Alternative {
    /// Which of the subjects, from 0.
    pub subject: usize,
    /// Who evaluates activations.
    pub activation_side: ActivationSide,
    /// Most samples of a batch.
    pub batch_samples: u64,
    /// Exact bytes and rounds of the whole run.
    pub forecast: Forecast,
    /// Forecast seconds of the whole run.
    pub time: TimeForecast,
    /// Forecast memory of the client, bytes: values of a batch, requests and replies in flight.
    pub client_memory_bytes: u64,
    /// Forecast memory of the server for this client's requests in flight, bytes.
    pub server_memory_bytes: u64,
    /// Whether one side takes more memory than the goal allows.
    pub exceeds_memory: bool,
    pub(super) options: PlanOptions,
    pub(super) segments: Vec<Segment>,
}

impl Alternative {
    /// Payload bytes of both directions, seeds included.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.forecast.bytes_up.saturating_add(self.forecast.bytes_down)
    }

    /// The larger of both sides' memory.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.client_memory_bytes.max(self.server_memory_bytes)
    }

    /// Ring, packing and range of every segment.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The plan itself. `network` is that of the alternative's subject.
    ///
    /// # Errors
    /// - As for [`crate::plan::compile()`]; where it is another network, whatever does not fit.
    pub fn compile(&self, network: &IntegerNetwork, facts: ModelFacts) -> Result<Plan> {
        let security_bits = self.forecast.security_bits;
        finish(network, facts, &self.options, self.segments.clone(), security_bits)
    }

    /// Whether ciphertexts of joined stages are relinearized.
    #[must_use]
    pub fn relinearizes(&self) -> bool {
        self.segments.iter().any(Segment::relinearizes)
    }

    /// What the objective compares, the smaller the better.
    #[expect(clippy::cast_precision_loss, reason = "ranks: bytes of a run are below 2^53")]
    fn rank(&self, objective: Objective) -> [f64; 3] {
        let (bytes, seconds) = (self.bytes() as f64, self.time.total);
        match objective {
            Objective::Time => [seconds, bytes, f64::from(self.forecast.rounds)],
            Objective::Bytes => [bytes, seconds, f64::from(self.forecast.rounds)],
            Objective::Rounds => [f64::from(self.forecast.rounds), seconds, bytes],
        }
    }

    /// The better one by an objective comes first; what exceeds the memory comes last.
    pub(super) fn compare(&self, other: &Self, objective: Objective) -> Ordering {
        let (ours, theirs) = (self.rank(objective), other.rank(objective));
        let mut orders = ours.iter().zip(&theirs).map(|(a, b)| a.total_cmp(b));
        let by_rank = orders.find(|order| order.is_ne()).unwrap_or(Ordering::Equal);
        self.exceeds_memory.cmp(&other.exceeds_memory).then(by_rank)
    }

    /// Whether both run the same segments in the same batches.
    pub(super) fn equals(&self, other: &Self) -> bool {
        self.subject == other.subject
            && self.batch_samples == other.batch_samples
            && self.segments == other.segments
    }
}

/// Of one side's alternatives those that are best by an objective or take least memory, each once.
pub(super) fn best_of_each_kind(found: &[Alternative]) -> Vec<Alternative> {
    let by = |objective| found.iter().min_by(|a, b| a.compare(b, objective));
    let least_memory = found.iter().min_by_key(|alternative| alternative.memory_bytes());
    let best = [by(Objective::Time), by(Objective::Bytes), by(Objective::Rounds), least_memory];
    let mut kept: Vec<Alternative> = Vec::new();
    for alternative in best.into_iter().flatten() {
        if !kept.iter().any(|other| alternative.equals(other)) {
            kept.push(alternative.clone());
        }
    }
    kept
}
