//! The word check of a reply, while it arrives.

use std::time::{Duration, Instant};

use he_core::WordCheck;

use super::{busy, stream::ReplyBytes};
use crate::encrypted::{context::SegmentContext, error::Result};

/// Ciphertexts added together.
const BATCH: usize = 32;

/// Checks every word of a linear reply as its bytes arrive, in any cut, before anything is decrypted.
///
/// Owns what it needs. Keeps less than one batch of bytes.
#[derive(Debug)]
pub struct ReplyCheckStream {
    check: WordCheck,
    bytes: ReplyBytes,
    busy: Duration,
}

impl ReplyCheckStream {
    /// Starts with the check that [`super::BlockEncryption::finish`] returned for the request.
    #[must_use]
    pub fn new(context: &SegmentContext, check: WordCheck) -> Self {
        let bytes = ReplyBytes::new(context.reply_ciphertext_bytes(), context.n_outputs(), BATCH);
        Self { check, bytes, busy: Duration::ZERO }
    }

    /// Takes the next bytes of the reply. In parallel over ciphertexts.
    ///
    /// # Errors
    /// - [`Error::ByteCount`] when the reply becomes too long.
    /// - [`Error::Arithmetic`] when a residue is not below its modulus.
    ///
    /// Nothing but [`ReplyCheckStream::restart`] makes sense after an error.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        let started = Instant::now();
        let check = &mut self.check;
        let outcome =
            self.bytes.push(bytes, |first, whole| Ok(check.absorb_reply_bytes(first, whole)?));
        self.busy += busy(started);
        outcome
    }

    /// Back to the state before the first byte: for a reply that is received again, to the same
    /// request, after the connection was lost.
    pub fn restart(&mut self) {
        self.check.restart_replies();
        self.bytes.restart();
    }

    /// Busy time so far.
    #[must_use]
    pub fn busy(&self) -> Duration {
        self.busy
    }

    /// Whether the reply is what the map gives, in every word.
    ///
    /// # Errors
    /// - [`Error::ByteCount`] when the reply is incomplete.
    /// - [`Error::Arithmetic`] when the request was.
    pub fn finish(self) -> Result<bool> {
        self.bytes.finish()?;
        match self.check.finish() {
            Ok(()) => Ok(true),
            Err(he_core::Error::WordCheckFailed { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
