//! Which rows of a linear reply differ from the map, once a check has failed.

use he_core::{CiphertextBlock, LinearMap, PublicSeed, bytes};

use super::check_length;
use crate::encrypted::{context::SegmentContext, error::Result};

/// Ciphertexts compared together, so that memory stays small.
const CHUNK: usize = 64;

/// One output row of a linear reply that is not what the map gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowMismatch {
    /// The output neuron.
    pub row: u32,
    /// Words that differ in each polynomial, over all limbs, `c_0` first.
    pub differing: Vec<usize>,
    /// Words of one polynomial over all limbs.
    pub words: usize,
    /// Whether `c_0` differs by one multiple (or not at all) of the encoding of 1: what another
    /// bias does, and an addition to some samples only does not. Taken modulus by modulus.
    pub is_constant: bool,
}

/// Recomputes the linear map on the ciphertexts that were sent and compares word by word.
///
/// Uses nothing secret (the weights, the request, the reply), so it can run after a failed check
/// without telling anything about the key. Cost: what the server spends on the block, and memory
/// for all of its outputs at once.
///
/// # Errors
/// - [`Error::ByteCount`](crate::encrypted::Error::ByteCount) when request or reply have another length.
/// - [`Error::Arithmetic`](crate::encrypted::Error::Arithmetic) when a residue is not below its modulus.
pub fn locate_mismatches(
    context: &SegmentContext,
    map: &LinearMap,
    seed: [u8; 32],
    payload: &[u8],
    reply: &[u8],
) -> Result<Vec<RowMismatch>> {
    check_length("request payload", context.request_bytes(), payload.len())?;
    let params = context.params();
    let mut request = CiphertextBlock::zeros(params, context.n_inputs(), 1, params.moduli().len())?;
    bytes::read_request_into(&mut request, 0, PublicSeed(seed), payload)?;
    let expected = map.apply(&request)?;
    drop(request);
    // What a bias of 1 adds to c_0.
    let unit = context
        .with_unit(LinearMap::dense(1, 1, &[0], &[1])?)
        .apply(&CiphertextBlock::zeros(params, 1, 1, params.moduli().len())?)?;
    let n = params.ring_degree();
    let mut mismatches = Vec::new();
    for_each_chunk(context, reply, |first, block| {
        for i in 0..block.count() {
            let mut differing = vec![0_usize; block.degree() + 1];
            let mut is_constant = true;
            for (limb, &q) in params.moduli().iter().enumerate() {
                let row = |b: &CiphertextBlock, i: usize| -> Vec<u64> {
                    b.limb(limb).chunks_exact(b.row_len()).nth(i).unwrap_or_default().to_vec()
                };
                let (want, have) = (row(&expected, first + i), row(block, i));
                let polynomials = want.chunks_exact(n).zip(have.chunks_exact(n));
                for (count, (want, have)) in differing.iter_mut().zip(polynomials) {
                    *count += want.iter().zip(have).filter(|(a, b)| a != b).count();
                }
                let unit = unit.limb(limb).get(..n).unwrap_or_default();
                is_constant &= is_multiple(unit, &want, &have, q);
            }
            if differing.iter().any(|&n| n > 0) {
                let row = u32::try_from(first + i).unwrap_or(u32::MAX);
                let words = n * block.n_moduli();
                mismatches.push(RowMismatch { row, differing, words, is_constant });
            }
        }
        Ok(())
    })?;
    Ok(mismatches)
}

/// Whether `have - want` is one multiple of `unit` modulo `q`, over the length of `unit`.
fn is_multiple(unit: &[u64], want: &[u64], have: &[u64], q: u64) -> bool {
    let difference = |(&a, &b): (&u64, &u64)| u128::from((b + (q - a)) % q);
    let mut differences = want.iter().zip(have).map(difference);
    let (Some(first), Some(&unit_first)) = (differences.next(), unit.first()) else { return true };
    differences.zip(unit.iter().skip(1)).all(|(d, &u)| {
        d * u128::from(unit_first) % u128::from(q) == first * u128::from(u) % u128::from(q)
    })
}

/// Decodes a reply chunk by chunk.
fn for_each_chunk(
    context: &SegmentContext,
    reply: &[u8],
    mut work: impl FnMut(usize, &CiphertextBlock) -> Result<()>,
) -> Result<()> {
    check_length("reply payload", context.reply_bytes(), reply.len())?;
    let size = context.reply_ciphertext_bytes();
    for (chunk, bytes) in reply.chunks(CHUNK * size).enumerate() {
        let mut block = CiphertextBlock::zeros(
            context.params(),
            bytes.len() / size,
            context.reply_degree(),
            context.reply_moduli(),
        )?;
        bytes::read_reply_into(&mut block, 0, bytes)?;
        work(chunk * CHUNK, &block)?;
    }
    Ok(())
}
