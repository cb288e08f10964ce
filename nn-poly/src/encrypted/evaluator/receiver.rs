//! A request on its way in.

use core::mem;

use he_core::{CiphertextBlock, EvaluationKeys, Params, PublicSeed, RequestDecoder, Storage};

use super::DECODED_BYTES;
use crate::encrypted::context::SegmentContext;
use crate::encrypted::error::{Error, Result};

/// Decodes the relinearization key, if the segment has one, and whole ciphertexts as their bytes arrive.
#[derive(Debug)]
pub struct RequestReceiver {
    key: Key,
    decoder: RequestDecoder,
    pending: Vec<u8>,
    received: u64,
    expected: u64,
    ciphertext_bytes: usize,
}

/// What a request begins with.
#[derive(Debug)]
enum Key {
    /// Its ciphertexts: there is no key, or all of it was read.
    Done(Option<EvaluationKeys>),
    /// So many bytes of it, of which these have arrived.
    Arriving { params: Params, expected: usize, bytes: Vec<u8> },
}

/// A complete request: what [`super::SegmentEvaluator::evaluate`] computes on.
#[derive(Debug)]
pub struct ReceivedRequest {
    ciphertexts: CiphertextBlock,
    keys: Option<EvaluationKeys>,
}

impl ReceivedRequest {
    /// The ciphertexts: one for every input of the segment.
    #[must_use]
    pub fn ciphertexts(&self) -> &CiphertextBlock {
        &self.ciphertexts
    }

    pub(in crate::encrypted) fn ciphertexts_mut(&mut self) -> &mut CiphertextBlock {
        &mut self.ciphertexts
    }

    pub(in crate::encrypted) fn into_ciphertexts(self) -> CiphertextBlock {
        self.ciphertexts
    }

    pub(super) fn keys(&self) -> Option<&EvaluationKeys> {
        self.keys.as_ref()
    }
}

impl RequestReceiver {
    pub(super) fn new(context: &SegmentContext, seed: [u8; 32], storage: Storage) -> Result<Self> {
        let (params, count) = (context.params(), context.n_inputs());
        let key = match context.relinearization_key_bytes() {
            0 => Key::Done(None),
            expected => Key::Arriving { params: params.clone(), expected, bytes: Vec::new() },
        };
        Ok(Self {
            key,
            decoder: RequestDecoder::new(params, count, PublicSeed(seed), storage)?,
            pending: Vec::new(),
            received: 0,
            expected: context.request_bytes(),
            ciphertext_bytes: context.request_ciphertext_bytes(),
        })
    }

    /// Takes the next bytes of the payload, in any cut.
    ///
    /// # Errors
    /// - [`Error::ByteCount`] when more bytes arrive than the segment's requests have.
    /// - [`Error::Arithmetic`] when the key is malformed, or a residue not below its modulus.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.received += bytes.len() as u64;
        if self.received > self.expected {
            return Err(Error::ByteCount {
                what: "request payload",
                expected: self.expected,
                actual: self.received,
            });
        }
        let bytes = self.key.take(bytes)?;
        self.pending.extend_from_slice(bytes);
        let is_last = self.received == self.expected;
        if self.pending.len() < DECODED_BYTES && !is_last {
            return Ok(());
        }
        let whole = self.pending.len() / self.ciphertext_bytes * self.ciphertext_bytes;
        self.decoder.push(self.pending.get(..whole).unwrap_or_default())?;
        self.pending.drain(..whole);
        Ok(())
    }

    /// The complete request.
    ///
    /// # Errors
    /// [`Error::ByteCount`] when bytes are missing.
    pub fn finish(self) -> Result<ReceivedRequest> {
        match self.key {
            Key::Done(keys) if self.received == self.expected && self.pending.is_empty() => {
                Ok(ReceivedRequest { ciphertexts: self.decoder.finish()?, keys })
            }
            Key::Done(_) | Key::Arriving { .. } => Err(Error::ByteCount {
                what: "request payload",
                expected: self.expected,
                actual: self.received,
            }),
        }
    }
}

impl Key {
    /// Takes what belongs to the key; returns the rest.
    fn take<'b>(&mut self, payload: &'b [u8]) -> Result<&'b [u8]> {
        let Self::Arriving { params, expected, bytes } = self else { return Ok(payload) };
        // At once: a vector that grows holds more than its content.
        bytes.reserve_exact(*expected - bytes.len());
        let missing = (*expected - bytes.len()).min(payload.len());
        let (ours, rest) = payload.split_at(missing);
        bytes.extend_from_slice(ours);
        if bytes.len() < *expected {
            return Ok(rest);
        }
        // Of so many bytes with one key at most, it is the relinearization key.
        let keys = EvaluationKeys::from_bytes(params, 1, &mem::take(bytes))?;
        *self = Self::Done(Some(keys));
        Ok(rest)
    }
}
