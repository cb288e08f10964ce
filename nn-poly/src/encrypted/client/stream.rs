//! Cutting a reply into whole ciphertexts, however its bytes arrive.

use crate::encrypted::error::{Error, Result};

/// A reply of known length, taken a few whole ciphertexts at a time.
///
/// Bytes are copied only where a push ends inside a batch.
#[derive(Debug)]
pub(super) struct ReplyBytes {
    /// Bytes of one ciphertext.
    size: usize,
    /// Ciphertexts in all, and those handed out.
    total: usize,
    taken: usize,
    /// Ciphertexts handed out together, except at the end.
    batch: usize,
    /// Bytes that arrived and were not handed out: less than a batch.
    pending: Vec<u8>,
}

impl ReplyBytes {
    pub(super) fn new(size: usize, total: usize, batch: usize) -> Self {
        Self { size, total, taken: 0, batch, pending: Vec::new() }
    }

    /// Takes the next bytes; passes whole ciphertexts to `work` with the index of the first.
    ///
    /// # Errors
    /// - [`Error::ByteCount`] when the reply becomes too long.
    /// - whatever `work` returns: the ciphertexts it was given count as taken.
    pub(super) fn push<E: From<Error>>(
        &mut self,
        mut bytes: &[u8],
        mut work: impl FnMut(usize, &[u8]) -> core::result::Result<(), E>,
    ) -> core::result::Result<(), E> {
        let arrived = self.arrived() + bytes.len() as u64;
        if arrived > self.expected() {
            return Err(self.wrong_length(arrived).into());
        }
        while !bytes.is_empty() {
            let left = (self.total - self.taken) * self.size;
            let batch = (self.batch * self.size).min(left);
            if self.pending.is_empty() && bytes.len() >= batch {
                // Whole batches straight from the caller, all at once.
                let whole = if bytes.len() == left { left } else { bytes.len() / batch * batch };
                let (ready, rest) = bytes.split_at(whole);
                let first = self.advance(whole);
                work(first, ready)?;
                bytes = rest;
                continue;
            }
            let (some, rest) = bytes.split_at((batch - self.pending.len()).min(bytes.len()));
            self.pending.extend_from_slice(some);
            bytes = rest;
            if self.pending.len() == batch {
                let mut ready = core::mem::take(&mut self.pending);
                let first = self.advance(batch);
                let outcome = work(first, &ready);
                ready.clear();
                self.pending = ready;
                outcome?;
            }
        }
        Ok(())
    }

    /// Back to the start.
    pub(super) fn restart(&mut self) {
        self.taken = 0;
        self.pending.clear();
    }

    /// # Errors
    /// [`Error::ByteCount`] unless every ciphertext was handed out.
    pub(super) fn finish(&self) -> Result<()> {
        if self.taken == self.total {
            return Ok(());
        }
        Err(self.wrong_length(self.arrived()))
    }

    fn advance(&mut self, bytes: usize) -> usize {
        let first = self.taken;
        self.taken += bytes / self.size;
        first
    }

    fn arrived(&self) -> u64 {
        self.taken as u64 * self.size as u64 + self.pending.len() as u64
    }

    fn expected(&self) -> u64 {
        self.total as u64 * self.size as u64
    }

    fn wrong_length(&self, actual: u64) -> Error {
        Error::ByteCount { what: "reply payload", expected: self.expected(), actual }
    }
}
