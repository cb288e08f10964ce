//! From comparisons to a verdict.
//!
//! ```text
//!  slot segments    BlockObservation of every block ──► judge ───────┐
//!  linear segments  WordCheckFinding of every block ──► judge_words ─┴─► Verdict
//! ```
//!
//! Honest segments are exact integers, so a single difference is proof that something else was
//! computed; there are no false alarms and no tolerance. What the verdict adds is the cause. A
//! server that runs a modified model gives itself away in the same neurons of every slot of every
//! block; whatever does not fit that picture is tampering with the computation. Replies that are
//! missing, short or malformed never come here: they are errors of the protocol.
//!
//! Only [`Verdict::Intact`] releases predictions. Call either function once per round, after *all*
//! blocks have arrived: a decision taken earlier would tell the server which block betrayed it.

use core::fmt;
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub use self::observation::{BlockObservation, NeuronComparison};
use crate::error::{Error, Result};
use crate::soundness::Soundness;
use crate::word_check::{RowDifference, RowExtent, WordCheckFinding};

mod observation;

/// One in this many failing neurons may agree at a random point by chance before a failure no
/// longer counts as a modified model, see [`judge`].
pub const COINCIDENCES: usize = 8;

/// What the client may believe about one round or one batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Verdict {
    /// Every check passed.
    Intact {
        /// How likely cheating of each kind would have stayed unnoticed.
        soundness: Soundness,
    },
    /// The server evaluates another model, alike on every slot.
    ModelModified {
        /// The segment whose replies differ.
        segment: u32,
        /// The output neurons of that segment that differ, ascending.
        neurons: Vec<u32>,
    },
    /// The server computed something that is no model at all: other slots, other words.
    ComputationTampered {
        /// The segment whose replies differ.
        segment: u32,
        /// The blocks whose replies differ, ascending.
        blocks: Vec<u32>,
    },
    /// Nothing is known.
    Unverified {
        /// Why.
        reason: UnverifiedReason,
    },
}

/// Why a result carries no evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum UnverifiedReason {
    /// No server took part (a simulation).
    NoServer,
    /// The caller switched the checks off.
    ChecksDisabled,
    /// The batch ended before this segment was checked.
    SegmentNotChecked {
        /// The first segment without a check.
        segment: u32,
    },
}

impl Verdict {
    /// Exit code of a program that ends with this verdict: 0 intact, 1 modified or tampered,
    /// 2 unverified (the same as for an error).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Intact { .. } => 0,
            Self::ModelModified { .. } | Self::ComputationTampered { .. } => 1,
            Self::Unverified { .. } => 2,
        }
    }

    /// The verdict's name without its details, for tables and reports: `Intact`, `ModelModified`,
    /// `ComputationTampered` or `Unverified`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Intact { .. } => "Intact",
            Self::ModelModified { .. } => "ModelModified",
            Self::ComputationTampered { .. } => "ComputationTampered",
            Self::Unverified { .. } => "Unverified",
        }
    }

    /// Whether predictions may be released.
    pub fn is_intact(&self) -> bool {
        matches!(self, Self::Intact { .. })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Intact { soundness } => {
                write!(f, "intact: every check of every block passed; {soundness}")
            }
            Self::ModelModified { segment, neurons } => write!(
                f,
                "model modified: segment {segment} of the server's model differs from the plan in \
                 {} of its outputs ({}), alike in every block",
                neurons.len(),
                Listed(neurons)
            ),
            Self::ComputationTampered { segment, blocks } => write!(
                f,
                "computation tampered: in segment {segment} the replies to {} block(s) ({}) are not \
                 what any unmodified or modified model gives",
                blocks.len(),
                Listed(blocks)
            ),
            Self::Unverified { reason } => write!(f, "unverified: {reason}"),
        }
    }
}

impl fmt::Display for UnverifiedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoServer => write!(f, "no server took part in this simulation"),
            Self::ChecksDisabled => write!(f, "the checks were switched off"),
            Self::SegmentNotChecked { segment } => {
                write!(f, "the batch ended before segment {segment} was checked")
            }
        }
    }
}

/// The first few of many indices.
struct Listed<'a>(&'a [u32]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        for (i, index) in self.0.iter().take(SHOWN).enumerate() {
            write!(f, "{}{index}", if i == 0 { "" } else { ", " })?;
        }
        if self.0.len() > SHOWN { write!(f, ", …") } else { Ok(()) }
    }
}

/// Judges one round of a slot segment from the observations of all its blocks, in block order.
///
/// - Nothing failed anywhere: `Intact`, with the `soundness` given.
/// - In every block the random points fail at exactly the same neurons, every point alike and in
///   every slot that carries it, network canaries fail nowhere else, and all replicas agree:
///   `ModelModified` at those neurons.
/// - Anything else that failed: `ComputationTampered` in the blocks where something failed.
///
/// "Every point alike" leaves room for chance: a point agrees with a modified map at a given
/// neuron with probability up to `D/t`, which adds up when hundreds of neurons are modified. A
/// point may therefore agree at one in [`COINCIDENCES`] of the failing neurons (none if fewer
/// fail). This decides only which of the two names a failure gets, never whether it is one.
///
/// # Errors
/// - [`Error::NothingToJudge`]: no blocks.
/// - [`Error::LengthMismatch`]: the blocks differ in their number of neurons.
/// - [`Error::IncompleteObservation`]: some neuron of some block was not compared.
pub fn judge(segment: u32, blocks: &[BlockObservation], soundness: &Soundness) -> Result<Verdict> {
    let first = blocks.first().ok_or(Error::NothingToJudge { what: "a round without blocks" })?;
    for (block, observation) in blocks.iter().enumerate() {
        if observation.n_neurons() != first.n_neurons() {
            return Err(Error::LengthMismatch {
                what: "the observation of a block",
                expected: first.n_neurons(),
                actual: observation.n_neurons(),
            });
        }
        if !observation.is_complete() {
            return Err(Error::IncompleteObservation {
                block,
                compared: observation.n_compared(),
                expected: observation.n_neurons(),
            });
        }
    }
    if blocks.iter().all(BlockObservation::is_clean) {
        return Ok(Verdict::Intact { soundness: *soundness });
    }
    Ok(match agreed(blocks.iter().map(modified_neurons)) {
        Some(neurons) => Verdict::ModelModified { segment, neurons },
        None => Verdict::ComputationTampered {
            segment,
            blocks: indices_where(blocks, |block| !block.is_clean()),
        },
    })
}

/// Judges one round of a linear segment from the word checks of all its blocks, in block order.
///
/// - All passed: `Intact`, with the `soundness` given.
/// - Every block failed, was localized, and shows the same differing rows, each throughout (see
///   [`RowExtent`]): `ModelModified` at those rows.
/// - Anything else: `ComputationTampered` in the blocks that failed.
///
/// # Errors
/// - [`Error::NothingToJudge`]: no blocks.
/// - [`Error::CheckContradiction`]: a block failed its check, but no row differs.
pub fn judge_words(
    segment: u32,
    blocks: &[WordCheckFinding],
    soundness: &Soundness,
) -> Result<Verdict> {
    if blocks.is_empty() {
        return Err(Error::NothingToJudge { what: "a round without blocks" });
    }
    for (block, finding) in blocks.iter().enumerate() {
        if matches!(finding, WordCheckFinding::FailedAt { rows } if rows.is_empty()) {
            return Err(Error::CheckContradiction { block });
        }
    }
    if blocks.iter().all(|block| *block == WordCheckFinding::Passed) {
        return Ok(Verdict::Intact { soundness: *soundness });
    }
    Ok(match agreed(blocks.iter().map(modified_rows)) {
        Some(rows) => Verdict::ModelModified {
            segment,
            neurons: rows.into_iter().map(|difference| difference.row).collect(),
        },
        None => Verdict::ComputationTampered {
            segment,
            blocks: indices_where(blocks, |block| *block != WordCheckFinding::Passed),
        },
    })
}

/// The neurons at which a block looks like another model's; `None` if it does not.
fn modified_neurons(block: &BlockObservation) -> Option<Vec<u32>> {
    let mut neurons = Vec::new();
    for (neuron, comparison) in block.failed_neurons() {
        let NeuronComparison { points_failed, points_split, replicas_differing, .. } = comparison;
        if points_failed == 0 || points_split > 0 || replicas_differing > 0 {
            return None;
        }
        neurons.push(u32::try_from(neuron).ok()?);
    }
    let tolerated = neurons.len() / COINCIDENCES;
    let every_point_noticed = block
        .failures_of_point()
        .iter()
        .all(|&failures| neurons.len() - failures as usize <= tolerated);
    (every_point_noticed && !neurons.is_empty()).then_some(neurons)
}

/// The rows at which a block looks like another model's; `None` if it does not.
fn modified_rows(block: &WordCheckFinding) -> Option<Vec<RowDifference>> {
    match block {
        WordCheckFinding::FailedAt { rows } => rows
            .iter()
            .all(|difference| difference.extent != RowExtent::Scattered)
            .then(|| rows.iter().copied().collect::<BTreeSet<_>>().into_iter().collect()),
        WordCheckFinding::Passed | WordCheckFinding::Failed => None,
    }
}

/// What all blocks say, if they all say the same.
fn agreed<T: PartialEq>(mut claims: impl Iterator<Item = Option<T>>) -> Option<T> {
    let first = claims.next()??;
    claims.all(|claim| claim.as_ref() == Some(&first)).then_some(first)
}

fn indices_where<T>(blocks: &[T], holds: impl Fn(&T) -> bool) -> Vec<u32> {
    (0..).zip(blocks).filter(|(_, block)| holds(block)).map(|(index, _)| index).collect()
}

#[cfg(test)]
mod tests;
