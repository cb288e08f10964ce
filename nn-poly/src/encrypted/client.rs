//! The key holder's side: encrypt a block, check a reply, decrypt it, locate what was changed.
//!
//! Each step exists as a stream, to overlap it with the network, and as one call on whole payloads.

mod decryption;
mod encryption;
mod mismatch;
mod reply_check;
mod stream;

use std::time::{Duration, Instant};

use he_core::{LinearMap, WordCheck};
use rand::CryptoRng;

use super::{
    context::{SegmentContext, SegmentKey},
    error::{Error, Result},
};

pub use decryption::ReplyDecryption;
pub use encryption::BlockEncryption;
pub use mismatch::{RowMismatch, locate_mismatches};
pub use reply_check::ReplyCheckStream;

/// Busy time by phase: wall time of each parallel region times the threads it may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClientTimes {
    /// Writing the integers to encrypt: what the caller's `fill` does, canaries and layout included.
    pub encode: Duration,
    /// Encoding, encryption, the request's part of the word check, packing: one pass.
    pub encrypt: Duration,
    /// Word checks: their preparation, and replies.
    pub check: Duration,
    /// Decryption and decoding.
    pub decrypt: Duration,
}

impl ClientTimes {
    /// Adds another measurement.
    pub fn add(&mut self, other: &Self) {
        self.encode += other.encode;
        self.encrypt += other.encrypt;
        self.check += other.check;
        self.decrypt += other.decrypt;
    }
}

/// An encrypted request: what is sent, and what is kept to check the reply.
#[derive(Debug)]
pub struct EncryptedBlock {
    /// Public seed of the `c_1` polynomials.
    pub seed: [u8; 32],
    /// Packed `c_0` polynomials of all inputs, after the relinearization key if there is one.
    pub payload: Vec<u8>,
    /// The prepared word check, for linear segments.
    pub check: Option<WordCheck>,
    /// Time spent.
    pub times: ClientTimes,
}

/// Encrypts one block at once: [`BlockEncryption`] from its first to its last chunk.
///
/// A retry must send the same bytes: keep the payload.
///
/// # Errors
/// As [`BlockEncryption::new`] and [`BlockEncryption::next_chunk`].
pub fn encrypt_block<E: From<Error> + Send>(
    context: &SegmentContext,
    key: &SegmentKey,
    check: Option<(&LinearMap, usize)>,
    fill: impl Fn(usize, &mut [i64]) -> core::result::Result<(), E> + Sync,
    rng: &mut (impl CryptoRng + ?Sized),
) -> core::result::Result<EncryptedBlock, E> {
    let mut block = BlockEncryption::new(context, key, check, rng)?;
    let n_bytes = usize::try_from(context.request_bytes()).unwrap_or(0);
    let mut payload = Vec::with_capacity(n_bytes);
    while block.append_chunk(&fill, &mut payload)? {}
    let seed = block.seed();
    let (check, times) = block.finish()?;
    Ok(EncryptedBlock { seed, payload, check, times })
}

/// Checks every word of a linear reply, before anything is decrypted. Returns whether it passed.
///
/// # Errors
/// - [`Error::ByteCount`] when the reply has another length.
/// - [`Error::Arithmetic`] when a residue is not below its modulus.
pub fn check_reply(
    context: &SegmentContext,
    check: WordCheck,
    reply: &[u8],
    times: &mut ClientTimes,
) -> Result<bool> {
    check_length("reply payload", context.reply_bytes(), reply.len())?;
    let mut stream = ReplyCheckStream::new(context, check);
    stream.push(reply)?;
    times.check += stream.busy();
    stream.finish()
}

/// Decrypts a reply and hands every output neuron's values to `visit`, in order.
///
/// Values are reduced into the segment's window; there are [`SegmentContext::capacity`] of them.
/// Linear replies must have passed [`check_reply`] first.
///
/// # Errors
/// - [`Error::ByteCount`] when the reply has another length.
/// - [`Error::Arithmetic`] when a residue is not below its modulus.
/// - whatever `visit` returns.
pub fn decrypt_reply<E: From<Error>>(
    context: &SegmentContext,
    key: &SegmentKey,
    reply: &[u8],
    times: &mut ClientTimes,
    visit: impl FnMut(usize, &[i64]) -> core::result::Result<(), E>,
) -> core::result::Result<(), E> {
    check_length("reply payload", context.reply_bytes(), reply.len())?;
    let mut stream = ReplyDecryption::new(context, key);
    let outcome = stream.push(reply, visit);
    times.decrypt += stream.busy();
    outcome?;
    Ok(stream.finish()?)
}

fn check_length(what: &'static str, expected: u64, actual: usize) -> Result<()> {
    if expected == actual as u64 {
        return Ok(());
    }
    Err(Error::ByteCount { what, expected, actual: actual as u64 })
}

/// Wall time since `started`, for every thread of the pool.
fn busy(started: Instant) -> Duration {
    let threads = u32::try_from(rayon::current_num_threads()).unwrap_or(1);
    started.elapsed() * threads
}
