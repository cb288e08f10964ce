//! Receiving a request: ciphertexts decoded as their bytes arrive, into memory that is reused.

use crate::{
    CiphertextBlock, Error, Params, PublicSeed, Result, block::Storage, bytes::read_request_into,
};

/// Decodes the ciphertexts of one request in order and hands out the block when all have come.
///
/// ```
/// use he_core::{Params, ParamsSpec, PublicSeed, RequestDecoder, bytes};
///
/// # fn main() -> Result<(), he_core::Error> {
/// let params = Params::new(ParamsSpec::with_bits(2048, 65537, &[30])?)?;
/// let mut decoder = RequestDecoder::new(&params, 2, PublicSeed([1; 32]), Default::default())?;
/// decoder.push(&vec![0; bytes::request_bytes(&params)])?;
/// decoder.push(&vec![0; bytes::request_bytes(&params)])?;
/// assert_eq!(decoder.finish()?.count(), 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct RequestDecoder {
    /// Words beyond the first `next` ciphertexts are stale: the block is private until all are read.
    block: CiphertextBlock,
    seed: PublicSeed,
    next: usize,
}

impl RequestDecoder {
    /// Starts a request of `count` ciphertexts over all moduli whose `c_1` expand from `seed`.
    ///
    /// `storage` is memory of an earlier block ([`CiphertextBlock::into_storage`]) or the default.
    /// Occupies `16·moduli·count·N` bytes: limit counts from outside first.
    ///
    /// # Errors
    /// [`Error::Index`] when the block cannot be addressed in memory.
    pub fn new(params: &Params, count: usize, seed: PublicSeed, storage: Storage) -> Result<Self> {
        let block = CiphertextBlock::stale(params, count, 1, params.moduli().len(), storage)?;
        Ok(Self { block, seed, next: 0 })
    }

    /// Decodes the next whole ciphertexts, in parallel.
    ///
    /// # Errors
    /// As [`read_request_into`]; the request is then of no use.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        read_request_into(&mut self.block, self.next, self.seed, bytes)?;
        self.next += bytes.len() / crate::bytes::request_bytes(self.block.params());
        Ok(())
    }

    /// The block.
    ///
    /// # Errors
    /// [`Error::Length`] when ciphertexts are missing.
    pub fn finish(self) -> Result<CiphertextBlock> {
        if self.next == self.block.count() {
            return Ok(self.block);
        }
        let (expected, actual) = (self.block.count(), self.next);
        Err(Error::Length { what: "ciphertexts of the request", expected, actual })
    }

    /// Gives the memory of an unfinished request back.
    #[must_use]
    pub fn into_storage(self) -> Storage {
        self.block.into_storage()
    }
}
