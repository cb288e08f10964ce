//! Decryption of a reply, while it arrives.

use std::time::{Duration, Instant};

use he_core::Decryptor;
use zeroize::Zeroizing;

use super::{busy, stream::ReplyBytes};
use crate::encrypted::{
    context::{SegmentContext, SegmentKey},
    error::{Error, Result},
};

/// Ciphertexts decrypted together.
const BATCH: usize = 16;

/// Decrypts whole ciphertexts as their bytes arrive, in any cut.
///
/// Linear replies must have passed their [`super::ReplyCheckStream`] first.
#[derive(Debug)]
pub struct ReplyDecryption<'a> {
    context: &'a SegmentContext,
    decryptor: Decryptor<'a>,
    bytes: ReplyBytes,
    /// Decrypted rows of one batch.
    rows: Zeroizing<Vec<i64>>,
    busy: Duration,
}

impl<'a> ReplyDecryption<'a> {
    /// Decrypts replies to requests made with `key`.
    #[must_use]
    pub fn new(context: &'a SegmentContext, key: &'a SegmentKey) -> Self {
        let bytes = ReplyBytes::new(context.reply_ciphertext_bytes(), context.n_outputs(), BATCH);
        let decryptor = Decryptor::new(key.secret());
        Self { context, decryptor, bytes, rows: Zeroizing::default(), busy: Duration::ZERO }
    }

    /// Takes the next bytes; hands the values of each output neuron to `visit`, in order.
    ///
    /// # Errors
    /// - [`Error::ByteCount`] when the reply becomes too long.
    /// - [`Error::Arithmetic`] when a residue is not below its modulus.
    /// - whatever `visit` returns.
    ///
    /// The reply is lost after an error.
    pub fn push<E: From<Error>>(
        &mut self,
        bytes: &[u8],
        mut visit: impl FnMut(usize, &[i64]) -> core::result::Result<(), E>,
    ) -> core::result::Result<(), E> {
        let capacity = self.context.capacity();
        self.push_rows(bytes, |first, rows| {
            let mut rows = rows.chunks_exact(capacity).enumerate();
            rows.try_for_each(|(i, row)| visit(first + i, row))
        })
    }

    /// As [`ReplyDecryption::push`], several output neurons at a time: `visit(first, rows)` gets the
    /// rows of outputs `first, first + 1, …`, one after the other,
    /// [`SegmentContext::capacity`] values each.
    ///
    /// # Errors
    /// As [`ReplyDecryption::push`].
    pub fn push_rows<E: From<Error>>(
        &mut self,
        bytes: &[u8],
        mut visit: impl FnMut(usize, &[i64]) -> core::result::Result<(), E>,
    ) -> core::result::Result<(), E> {
        let Self { context, decryptor, bytes: reply, rows, busy: total } = self;
        let size = context.reply_ciphertext_bytes();
        let (form, window) = (context.reply_form(), context.window());
        reply.push(bytes, |first, whole| {
            for (first, whole) in (first..).step_by(BATCH).zip(whole.chunks(BATCH * size)) {
                let started = Instant::now();
                rows.resize(whole.len() / size * context.capacity(), 0);
                let outcome =
                    decryptor.decrypt_packed(context.encoder(), form, window.low, whole, rows);
                *total += busy(started);
                outcome.map_err(|error| Error::from(error.offset_by(first)))?;
                visit(first, rows)?;
            }
            Ok(())
        })
    }

    /// Busy time of decryption and decoding so far, `visit` excluded.
    #[must_use]
    pub fn busy(&self) -> Duration {
        self.busy
    }

    /// Ends the reply.
    ///
    /// # Errors
    /// [`Error::ByteCount`] when it is incomplete.
    pub fn finish(self) -> Result<()> {
        self.bytes.finish()
    }
}
