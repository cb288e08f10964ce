//! What gave a cheat away: the finding of evidence, in words.

use std::path::Path;

use nn_poly::plan::Plan;
use protocol::evidence::{self, Finding};

use crate::report::units;

/// One block whose reply was not the plan's, recomputed without any key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FaultView {
    /// Ciphertexts of the reply, and those of them that differ.
    pub(crate) n_outputs: u32,
    pub(crate) n_different: u64,
    pub(crate) text: String,
    /// Where the evidence is kept, unless it is only of the moment.
    pub(crate) file: Option<String>,
}

impl FaultView {
    /// Judge a file of evidence; nothing if it does not show a fault.
    ///
    /// Costs an evaluation of the block.
    ///
    /// # Errors
    /// A file that cannot be read.
    fn of(path: &Path, plan: &Plan) -> Result<Option<Self>, evidence::EvidenceError> {
        let report = evidence::verify(path, plan)?;
        let Finding::ProvenFault { first_byte, n_ciphertexts } = report.finding else {
            return Ok(None);
        };
        let Some(segment) = plan.public().segments.get(report.segment as usize) else {
            return Ok(None);
        };
        let ring = &segment.ring;
        let words_each = u64::from(ring.ring_degree)
            * u64::from(ring.reply_moduli)
            * (u64::from(segment.reply_degree()) + 1);
        let bytes_each = segment.reply_bytes() / u64::from(segment.n_outputs.max(1));
        let first_neuron = first_byte / bytes_each.max(1);
        let text = format!(
            "Segment {}: {} of {} differ from what the plan gives, in up to {} words each. The first is \
             that of output neuron {first_neuron}, from byte {} of the reply on.",
            report.segment,
            units::count(n_ciphertexts),
            units::counted(segment.n_outputs, "ciphertext"),
            units::count(words_each),
            units::count(first_byte),
        );
        Ok(Some(Self {
            n_outputs: segment.n_outputs,
            n_different: n_ciphertexts,
            text,
            file: None,
        }))
    }

    /// As [`of`](Self::of), for runs whose verdict stands: an error goes to the log.
    pub(crate) fn or_warning(path: &Path, plan: &Plan) -> Option<Self> {
        Self::of(path, plan).unwrap_or_else(|error| {
            tracing::warn!(%error, "evidence cannot be judged");
            None
        })
    }
}
