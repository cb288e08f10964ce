//! Records of a round's blocks: kept of those that failed, if the round was rejected.

use std::path::PathBuf;

use fingerprint::Verdict;

use super::MAX_EVIDENCE_FILES;
use crate::evidence::Recorded;
use crate::session::OpenedBlock;

/// What was recorded of the blocks of a round, by number.
pub(super) fn records(blocks: &mut [OpenedBlock]) -> Vec<(usize, Recorded)> {
    let mut records: Vec<_> =
        blocks.iter_mut().filter_map(|block| Some((block.index(), block.take_record()?))).collect();
    records.sort_by_key(|(index, _)| *index);
    records
}

/// Keeps the records of failing blocks and removes the others.
pub(super) fn keep(records: Vec<(usize, Recorded)>, verdict: &Verdict) -> Vec<PathBuf> {
    let has_failed = |index: usize| match verdict {
        // Every block looks like the other model.
        Verdict::ModelModified { .. } => true,
        Verdict::ComputationTampered { blocks, .. } => {
            blocks.iter().any(|&block| block as usize == index)
        }
        Verdict::Intact { .. } | Verdict::Unverified { .. } => false,
    };
    records
        .into_iter()
        .filter(|(index, _)| has_failed(*index))
        .take(MAX_EVIDENCE_FILES)
        .filter_map(|(_, record)| {
            record.keep().inspect_err(|error| tracing::warn!(%error, "no evidence is kept")).ok()
        })
        .collect()
}
