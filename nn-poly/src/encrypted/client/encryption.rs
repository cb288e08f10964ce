//! A request, encrypted chunk by chunk.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use he_core::{BlockEncryptor, LinearMap, WordCheck};
use rand::CryptoRng;

use super::{ClientTimes, busy};
use crate::encrypted::{
    context::{SegmentContext, SegmentKey},
    error::{Error, Result},
};

/// Ciphertexts of a chunk: enough to keep every core busy, few enough to be sent early.
const CHUNK: usize = 64;

/// Encrypts one block, a few ciphertexts at a time: input neuron `i` is ciphertext `i`.
///
/// Draws its seed, its errors and the rows of its check once, in [`BlockEncryption::new`]; the
/// chunks, one after the other, are the payload [`super::encrypt_block`] makes of the same
/// generator, byte for byte. A retry must send the same bytes: keep them.
#[derive(Debug)]
pub struct BlockEncryption<'a> {
    context: &'a SegmentContext,
    encryptor: BlockEncryptor<'a>,
    check: Option<WordCheck>,
    /// What is sent before the ciphertexts, until it is.
    relinearization: &'a [u8],
    next: usize,
    times: ClientTimes,
}

impl<'a> BlockEncryption<'a> {
    /// Draws seeds and, with a `check` (the map of a linear segment and a number of rows), that many
    /// secret rows per modulus; the check is fed with every ciphertext as it is made.
    ///
    /// # Errors
    /// [`Error::Arithmetic`] when the check has no rows, or the map belongs to another context.
    pub fn new(
        context: &'a SegmentContext,
        key: &'a SegmentKey,
        check: Option<(&LinearMap, usize)>,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<Self> {
        let started = Instant::now();
        let check = check
            .map(|(map, rows)| WordCheck::new(map, context.params(), rows, rng))
            .transpose()?;
        let times = ClientTimes { check: busy(started), ..ClientTimes::default() };
        let encryptor = BlockEncryptor::new(key.secret(), rng);
        let relinearization = key.relinearization();
        Ok(Self { context, encryptor, check, relinearization, next: 0, times })
    }

    /// Public seed of the `c_1` polynomials: sent with the payload.
    #[must_use]
    pub fn seed(&self) -> [u8; 32] {
        self.encryptor.seed().0
    }

    /// Ciphertexts still to come.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.context.n_inputs() - self.next
    }

    /// Encrypts the next few ciphertexts, in parallel, and returns their packed bytes, the first time after
    /// the relinearization key if there is one: `None` after the last.
    ///
    /// `fill(i, row)` writes the values of input neuron `i` into a zeroed row of
    /// [`SegmentContext::capacity`] values.
    ///
    /// # Errors
    /// - [`Error::Arithmetic`] when a value does not fit the packing.
    /// - whatever `fill` returns.
    ///
    /// The block is lost after an error.
    pub fn next_chunk<E: From<Error> + Send>(
        &mut self,
        fill: &(impl Fn(usize, &mut [i64]) -> core::result::Result<(), E> + Sync),
    ) -> core::result::Result<Option<Vec<u8>>, E> {
        let mut chunk = Vec::new();
        Ok(self.append_chunk(fill, &mut chunk)?.then_some(chunk))
    }

    /// As [`BlockEncryption::next_chunk`], appending to `out`. Returns whether there was a chunk.
    pub(super) fn append_chunk<E: From<Error> + Send>(
        &mut self,
        fill: &(impl Fn(usize, &mut [i64]) -> core::result::Result<(), E> + Sync),
        out: &mut Vec<u8>,
    ) -> core::result::Result<bool, E> {
        let count = self.remaining().min(CHUNK);
        if count == 0 {
            return Ok(false);
        }
        out.extend_from_slice(core::mem::take(&mut self.relinearization));
        let start = out.len();
        out.resize(start + count * self.context.request_ciphertext_bytes(), 0);
        let chunk = out.get_mut(start..).unwrap_or_default();
        let started = Instant::now();
        let filling = AtomicU64::new(0);
        let timed_fill = |input: usize, row: &mut [i64]| {
            let started = Instant::now();
            let outcome = fill(input, row).map_err(Failure::Fill);
            let nanoseconds = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
            filling.fetch_add(nanoseconds, Ordering::Relaxed);
            outcome
        };
        let (encoder, check) = (self.context.encoder(), self.check.as_mut());
        let outcome = self.encryptor.encrypt_packed(encoder, check, timed_fill, chunk);
        outcome.map_err(|failure| match failure {
            Failure::Arithmetic(error) => Error::from(error).into(),
            Failure::Fill(error) => error,
        })?;
        let filling = Duration::from_nanos(filling.into_inner());
        self.times.encode += filling;
        self.times.encrypt += busy(started).saturating_sub(filling);
        self.next += count;
        Ok(true)
    }

    /// The prepared check of a linear segment, and the time spent.
    ///
    /// # Errors
    /// [`Error::ByteCount`] when ciphertexts are still to come.
    pub fn finish(self) -> Result<(Option<WordCheck>, ClientTimes)> {
        super::check_length(
            "request payload",
            self.context.request_bytes(),
            self.context.relinearization_key_bytes()
                + self.next * self.context.request_ciphertext_bytes(),
        )?;
        Ok((self.check, self.times))
    }
}

/// Why a chunk could not be made.
enum Failure<E> {
    Arithmetic(he_core::Error),
    Fill(E),
}

impl<E> From<he_core::Error> for Failure<E> {
    fn from(error: he_core::Error) -> Self {
        Self::Arithmetic(error)
    }
}
