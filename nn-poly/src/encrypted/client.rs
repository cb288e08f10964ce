//! The key holder's side: encrypt a block, check a reply, decrypt it, locate what was changed.

use std::time::{Duration, Instant};

use he_core::{
    BlockEncryptor, CiphertextBlock, Decryptor, LinearMap, Plaintext, PublicSeed, WordCheck, bytes,
};
use rand::CryptoRng;
use rayon::prelude::*;
use zeroize::Zeroizing;

use super::{
    context::{SegmentContext, SegmentKey},
    error::{Error, Result},
};

/// Ciphertexts handled together, so that buffers stay small.
const CHUNK: usize = 64;

/// Busy time by phase: wall time of each parallel region times the threads it may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClientTimes {
    /// Integers to plaintexts, canaries and layout included.
    pub encode: Duration,
    /// Encryption and packing.
    pub encrypt: Duration,
    /// Word checks, on requests and replies.
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
    /// Packed `c_0` polynomials of all inputs.
    pub payload: Vec<u8>,
    /// The prepared word check, for linear segments.
    pub check: Option<WordCheck>,
    /// Time spent.
    pub times: ClientTimes,
}

/// Encrypts one block: input neuron `i` is the row that `fill(i, row)` writes.
///
/// `fill` gets a zeroed row of [`SegmentContext::capacity`] values. With a `map` (linear segments),
/// `check_rows` secret rows per modulus are drawn and the check is fed with every ciphertext as it
/// is made. A retry must send the same bytes: keep the payload.
///
/// # Errors
/// - [`Error::Arithmetic`] when a value does not fit the packing.
/// - whatever `fill` returns.
pub fn encrypt_block<E: From<Error> + Send>(
    context: &SegmentContext,
    key: &SegmentKey,
    check: Option<(&LinearMap, usize)>,
    fill: impl Fn(usize, &mut [i64]) -> core::result::Result<(), E> + Sync,
    rng: &mut (impl CryptoRng + ?Sized),
) -> core::result::Result<EncryptedBlock, E> {
    let mut times = ClientTimes::default();
    let started = Instant::now();
    let mut check = check
        .map(|(map, rows)| WordCheck::new(map, context.params(), rows, rng))
        .transpose()
        .map_err(Error::from)?;
    times.check += busy(started);
    let mut encryptor = BlockEncryptor::new(key.secret(), rng);
    let mut payload = Vec::with_capacity(context.n_inputs() * context.request_ciphertext_bytes());
    for first in (0..context.n_inputs()).step_by(CHUNK) {
        let started = Instant::now();
        let plaintexts = (first..(first + CHUNK).min(context.n_inputs()))
            .into_par_iter()
            .map(|input| {
                let mut row = Zeroizing::new(vec![0_i64; context.capacity()]);
                fill(input, &mut row)?;
                Ok(context.encode(&row)?)
            })
            .collect::<core::result::Result<Vec<Plaintext>, E>>()?;
        times.encode += busy(started);
        let started = Instant::now();
        let block = encryptor.encrypt_next(&plaintexts).map_err(Error::from)?;
        bytes::write_request(&block, &mut payload);
        times.encrypt += busy(started);
        if let Some(check) = &mut check {
            let started = Instant::now();
            check.absorb_input(first, &block).map_err(Error::from)?;
            times.check += busy(started);
        }
    }
    Ok(EncryptedBlock { seed: encryptor.seed().0, payload, check, times })
}

/// Checks every word of a linear reply, before anything is decrypted. Returns whether it passed.
///
/// # Errors
/// - [`Error::ByteCount`] when the reply has another length.
/// - [`Error::Arithmetic`] when a residue is not below its modulus.
pub fn check_reply(
    context: &SegmentContext,
    mut check: WordCheck,
    reply: &[u8],
    times: &mut ClientTimes,
) -> Result<bool> {
    let started = Instant::now();
    for_each_chunk(context, reply, |first, block| {
        check.absorb_reply(first, block)?;
        Ok(())
    })?;
    times.check += busy(started);
    match check.finish() {
        Ok(()) => Ok(true),
        Err(he_core::Error::WordCheckFailed { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
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
    mut visit: impl FnMut(usize, &[i64]) -> core::result::Result<(), E>,
) -> core::result::Result<(), E> {
    let decryptor = Decryptor::new(key.secret());
    let mut outcome = Ok(());
    for_each_chunk(context, reply, |first, block| {
        if outcome.is_err() {
            return Ok(());
        }
        let started = Instant::now();
        let rows = (0..block.count())
            .into_par_iter()
            .map(|i| context.decode(&decryptor.decrypt(block, i)?))
            .collect::<Result<Vec<_>>>()?;
        times.decrypt += busy(started);
        outcome = rows.iter().enumerate().try_for_each(|(i, row)| visit(first + i, row));
        Ok(())
    })?;
    outcome
}

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
/// without telling anything about the key. Cost: what the server spends on the block.
///
/// # Errors
/// - [`Error::ByteCount`] when request or reply have another length.
/// - [`Error::Arithmetic`] when a residue is not below its modulus.
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
