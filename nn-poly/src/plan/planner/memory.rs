//! What a run keeps in memory at either side.

use super::cost::IN_FLIGHT;
use crate::encrypted::request_memory_bytes;
use crate::error::Result;
use crate::integer::{IntegerNetwork, ValueRef};
use crate::plan::Segment;

/// Pieces of a reply that wait to be decrypted, each a megabyte: see the runner of the protocol.
const WAITING_BYTES: u64 = 5 << 20;

/// Bytes of one value at the client, and of one score.
const VALUE_BYTES: u64 = 4;
const SCORE_BYTES: u64 = 8;

/// The client during the round of stage `idx`, for a batch of `n_samples` in `blocks` blocks.
///
/// Values that this and later stages read; what the round gives, once in blocks and once together;
/// of every block in flight the request, which is kept for another attempt, and the reply, of which
/// segments with a square keep a few pieces only.
pub(super) fn client_bytes(
    network: &IntegerNetwork,
    idx: usize,
    segment: &Segment,
    n_samples: u64,
    blocks: u64,
) -> Result<u64> {
    let later = network.structure().get(idx..).unwrap_or_default();
    let is_read = |value| later.iter().any(|stage| stage.sources.contains(&value));
    let mut kept = if is_read(ValueRef::Input) { network.n_inputs() } else { 0 };
    for (number, stage) in (0..).zip(network.structure().iter().take(idx)) {
        kept += if is_read(ValueRef::Stage(number)) { stage.n_outputs() } else { 0 };
    }
    let kept = (wide(kept) * VALUE_BYTES).saturating_mul(n_samples);
    Ok(kept.saturating_add(new_client_bytes(network, idx, segment, n_samples, blocks)?))
}

/// What the client takes for the round of stage `idx` alone: all but the values of earlier stages.
pub(super) fn new_client_bytes(
    network: &IntegerNetwork,
    idx: usize,
    segment: &Segment,
    n_samples: u64,
    blocks: u64,
) -> Result<u64> {
    let (stage, _) = network.stage(idx)?;
    let value_bytes = if stage.refresh.is_some() { VALUE_BYTES } else { SCORE_BYTES };
    let values = (2 * wide(stage.n_outputs()) * value_bytes).saturating_mul(n_samples);
    let reply = segment.reply_bytes();
    let reply = if segment.n_squares() > 0 { reply.min(WAITING_BYTES) } else { reply };
    let block = segment.request_bytes() + reply;
    // Residues of the whole batch wait until all have come.
    let residues = segment.chain.as_ref().map_or(0, |part| u64::from(part.n_residues));
    let residues = residues * u64::from(segment.n_outputs) * SCORE_BYTES;
    let values = values.saturating_add(residues.saturating_mul(n_samples));
    // Keys of all residues wait to be sent with every block.
    let n_residues = u64::from(segment.n_residues());
    let values = values.saturating_add(n_residues * segment.relinearization_key_bytes());
    Ok(values.saturating_add(block.saturating_mul(in_flight(blocks))))
}

/// The server while it evaluates the blocks in flight of one client.
pub(super) fn server_bytes(
    network: &IntegerNetwork,
    segment: &Segment,
    blocks: u64,
) -> Result<u64> {
    let (stage, _) = network.stage(segment.stage as usize)?;
    Ok(request_memory_bytes(segment, stage).saturating_mul(in_flight(blocks)))
}

fn in_flight(blocks: u64) -> u64 {
    blocks.min(IN_FLIGHT as u64)
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
