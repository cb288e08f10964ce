//! Seeded symmetric encryption of blocks.

use rand_core::CryptoRng;
use rayon::prelude::*;
use zeroize::{Zeroize, Zeroizing};

use crate::{
    CiphertextBlock, Encoder, Error, Plaintext, Result, SecretKey, WordCheck, bytes,
    encoding::{Errors, write_residues},
    ring::Ring,
    sampling::{ErrorSeed, MAX_CIPHERTEXTS_PER_SEED, PublicSeed},
    scratch::{Pool, reserve_secret},
    simd::vectorize,
    word_check::group_len,
};

/// Encrypts one block of ciphertexts under one public seed.
///
/// A (key, seed) pair must never encrypt two plaintexts at one index: an encryptor draws its seed
/// itself and hands out each index once. To send the same ciphertexts again, keep their bytes.
///
/// Ciphertext `i` is `c_1` expanded from the seed and `c_0 = m + t·e - c_1·s`, with `e` centred
/// binomial (η = 21). Noise: deviation `t·3.24`.
pub struct BlockEncryptor<'k> {
    key: &'k SecretKey,
    seed: PublicSeed,
    errors: ErrorSeed,
    next: u32,
    /// `t mod q` for every modulus.
    factors: Vec<i64>,
    scratch: Pool<Scratch>,
}

/// What one task keeps between ciphertexts. A group of ciphertexts is worked on limb by limb, so
/// that its words are still in cache when they enter the word check.
struct Scratch {
    /// Values of one ciphertext.
    values: Vec<i64>,
    /// Digits of the plaintext polynomials, see [`Encoder::digits_into`].
    digits: Vec<u64>,
    /// Error polynomials.
    errors: Vec<i8>,
    /// `c_0` and `c_1` in one limb.
    words: Vec<u64>,
    /// Key stream.
    stream: Vec<u8>,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.values.zeroize();
        self.digits.zeroize();
        self.errors.zeroize();
        // c_1 is public, c_0 is sent; what was in its place before is not.
        self.words.zeroize();
        self.stream.zeroize();
    }
}

impl Scratch {
    const EMPTY: Self = Self {
        values: Vec::new(),
        digits: Vec::new(),
        errors: Vec::new(),
        words: Vec::new(),
        stream: Vec::new(),
    };

    /// Takes the size of `group` ciphertexts of an encoder.
    fn fit(&mut self, n: usize, group: usize, encoder: &Encoder) {
        let (n_values, n_digits) = (encoder.value_count(), group * encoder.digits_len());
        reserve_secret(&mut self.values, n_values);
        reserve_secret(&mut self.digits, n_digits);
        reserve_secret(&mut self.errors, group * n);
        reserve_secret(&mut self.words, group * 2 * n);
        self.values.resize(n_values, 0);
        self.digits.resize(n_digits, 0);
        self.errors.resize(group * n, 0);
        self.words.resize(group * 2 * n, 0);
    }
}

impl core::fmt::Debug for BlockEncryptor<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("BlockEncryptor")
            .field("key", self.key)
            .field("seed", &self.seed)
            .field("errors", &"[secret]")
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

impl<'k> BlockEncryptor<'k> {
    /// Draws fresh seeds for one block.
    pub fn new(key: &'k SecretKey, rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        let t = key.params().plaintext_modulus();
        let factor = |ring: &Ring| i64::try_from(t % u128::from(ring.value())).unwrap_or_default();
        Self {
            key,
            seed: PublicSeed::generate(rng),
            errors: ErrorSeed::generate(rng),
            next: 0,
            // Below 2^47, and |e| <= 21: products are far below 2^63.
            factors: key.params().rings().iter().map(factor).collect(),
            scratch: Pool::new(),
        }
    }

    /// The public seed the receiver expands.
    #[must_use]
    pub fn seed(&self) -> PublicSeed {
        self.seed
    }

    /// Encrypts the next ciphertexts of the block, in parallel.
    ///
    /// Cost per ciphertext and modulus: one expansion, one forward transform, one product.
    /// [`BlockEncryptor::encrypt_packed`] makes the same ciphertexts without keeping them.
    ///
    /// # Errors
    /// - [`Error::ParamsMismatch`] when a plaintext belongs to other parameters.
    /// - [`Error::SeedExhausted`] after 2^24 ciphertexts.
    pub fn encrypt_next(&mut self, plaintexts: &[Plaintext]) -> Result<CiphertextBlock> {
        let params = self.key.params();
        for plaintext in plaintexts {
            params.check_same(plaintext.params())?;
        }
        let indices = self.claim(plaintexts.len())?;
        let n = params.ring_degree();
        let mut block = CiphertextBlock::zeros(params, plaintexts.len(), 1, params.moduli().len())?;
        let tasks = block.rows_mut().into_par_iter().zip(plaintexts).zip(indices);
        let scratch = || (Zeroizing::new(vec![0_i8; n]), Zeroizing::new(Vec::new()));
        tasks.for_each_init(scratch, |(errors, stream), ((rows, plaintext), index)| {
            self.errors.sample(index, errors, stream);
            for ((limb, row), &factor) in rows.into_iter().enumerate().zip(&self.factors) {
                let errors = Errors { values: errors, factor };
                self.encrypt_limb(index, limb, row, stream, |ring, c0| {
                    add_error(c0, plaintext.limb(limb), &errors, ring);
                });
            }
        });
        Ok(block)
    }

    /// Encodes, encrypts and packs the next ciphertexts of the block in one pass, in parallel, and
    /// adds them to a word check as inputs of the same numbers.
    ///
    /// Ciphertext `i` of the block holds the values that `fill(i, values)` writes into a zeroed row
    /// of [`Encoder::value_count`] integers. `out` receives what [`bytes::write_request`] writes for
    /// the block that [`BlockEncryptor::encrypt_next`] returns for the encoded values: as many
    /// ciphertexts as it holds.
    ///
    /// Cost: as the separate steps, without memory traffic between them; no allocation per
    /// ciphertext.
    ///
    /// # Errors
    /// - [`Error::ParamsMismatch`] when encoder or check belong to other parameters.
    /// - [`Error::Malformed`] unless `out` is a whole number of [`bytes::request_bytes`].
    /// - [`Error::SeedExhausted`] after 2^24 ciphertexts.
    /// - [`Error::Index`] or [`Error::Length`] when the check does not expect these inputs.
    /// - [`Error::PlaintextRange`] when a value does not fit the encoder.
    /// - whatever `fill` returns.
    ///
    /// After an error `out` is of no meaning; the numbers are used up.
    pub fn encrypt_packed<E: From<Error> + Send>(
        &mut self,
        encoder: &Encoder,
        check: Option<&mut WordCheck>,
        fill: impl Fn(usize, &mut [i64]) -> core::result::Result<(), E> + Sync,
        out: &mut [u8],
    ) -> core::result::Result<(), E> {
        let params = self.key.params();
        params.check_same(encoder.params())?;
        let size = bytes::request_bytes(params);
        let count = out.len() / size;
        if !out.len().is_multiple_of(size) {
            let (expected, actual) = ((count * size) as u64, out.len() as u64);
            let what = "bytes of whole ciphertexts";
            return Err(Error::Malformed { what, expected, actual }.into());
        }
        let first = self.next as usize;
        let check = match check {
            None => None,
            Some(check) => {
                check.check_params(params)?;
                check.claim_inputs(first, count)?;
                Some(&*check)
            }
        };
        let indices = self.claim(count)?;
        let n = params.ring_degree();
        let group = if check.is_some() { group_len(2 * n) } else { 1 };
        let starts = indices.step_by(group).collect::<Vec<_>>();
        let this = &*self;
        out.par_chunks_mut(group * size).zip(starts).try_for_each(|(out, first)| {
            this.scratch.with(
                || Scratch::EMPTY,
                |scratch| {
                    scratch.fit(n, group, encoder);
                    this.encode_group(encoder, &fill, first, out.len() / size, scratch)
                        .map(|shift| this.encrypt_group(shift, check, first, scratch, out))
                },
            )
        })
    }

    /// Fills and encodes `count` plaintexts and draws their errors; returns the digits' shift.
    fn encode_group<E: From<Error>>(
        &self,
        encoder: &Encoder,
        fill: &impl Fn(usize, &mut [i64]) -> core::result::Result<(), E>,
        first: u32,
        count: usize,
        scratch: &mut Scratch,
    ) -> core::result::Result<usize, E> {
        let n = self.key.params().ring_degree();
        let Scratch { values, digits, errors, stream, .. } = scratch;
        let places = digits.chunks_exact_mut(encoder.digits_len()).zip(errors.chunks_exact_mut(n));
        let mut shift = 0;
        for (index, (digits, errors)) in (first..).zip(places).take(count) {
            values.fill(0);
            fill(index as usize, values)?;
            shift = encoder.digits_into(values, digits)?;
            self.errors.sample(index, errors, stream);
        }
        Ok(shift)
    }

    /// Encrypts and packs what [`BlockEncryptor::encode_group`] left, limb by limb.
    fn encrypt_group(
        &self,
        shift: usize,
        check: Option<&WordCheck>,
        first: u32,
        scratch: &mut Scratch,
        out: &mut [u8],
    ) {
        let params = self.key.params();
        let n = params.ring_degree();
        let size = bytes::request_bytes(params);
        let count = out.len() / size;
        let Scratch { digits, errors, words, stream, .. } = scratch;
        let digits_len = digits.len() / (errors.len() / n);
        let mut offset = 0;
        for ((limb, ring), &factor) in params.rings().iter().enumerate().zip(&self.factors) {
            let len = bytes::limb_bytes(n, ring);
            let plaintexts = digits.chunks_exact(digits_len).zip(errors.chunks_exact(n));
            let rows = words.chunks_exact_mut(2 * n).zip(out.chunks_exact_mut(size));
            for (index, ((digits, errors), (row, out))) in (first..).zip(plaintexts.zip(rows)) {
                let errors = Errors { values: errors, factor };
                self.encrypt_limb(index, limb, row, stream, |ring, c0| {
                    write_residues(ring, digits, shift, &errors, c0);
                });
                let out = out.get_mut(offset..offset + len).unwrap_or_default();
                bytes::pack(row.get(..n).unwrap_or_default(), ring.bits(), out);
            }
            if let Some(check) = check {
                let words = words.get(..count * 2 * n).unwrap_or_default();
                check.with_input_sums(|sums| check.add_inputs(sums, limb, first as usize, words));
            }
            offset += len;
        }
    }

    /// Writes `c_0` and `c_1` of ciphertext `index` in one limb; `message` writes the coefficients
    /// of `m + t·e` into its argument.
    fn encrypt_limb(
        &self,
        index: u32,
        limb: usize,
        row: &mut [u64],
        stream: &mut Vec<u8>,
        message: impl FnOnce(&Ring, &mut [u64]),
    ) {
        let params = self.key.params();
        let Some(ring) = params.rings().get(limb) else { return };
        let (c0, c1) = row.split_at_mut(params.ring_degree());
        message(ring, c0);
        ring.forward(c0);
        let number = u32::try_from(limb).unwrap_or_default();
        self.seed.expand(index, number, ring, c1, stream);
        ring.multiply_accumulate(c0, c1, self.key.negated(limb));
    }

    /// Hands out the next `count` indices.
    fn claim(&mut self, count: usize) -> Result<core::ops::Range<u32>> {
        let first = self.next;
        self.next = u32::try_from(count)
            .ok()
            .and_then(|n| first.checked_add(n))
            .filter(|&n| n <= MAX_CIPHERTEXTS_PER_SEED)
            .ok_or(Error::SeedExhausted { max: MAX_CIPHERTEXTS_PER_SEED })?;
        Ok(first..self.next)
    }
}

/// `out = m + t·e mod q`, without branching on either.
fn add_error(out: &mut [u64], message: &[u64], errors: &Errors<'_>, ring: &Ring) {
    let reducer = ring.reducer();
    let Errors { values, factor } = *errors;
    vectorize(
        #[inline(always)]
        || {
            for ((x, &m), &e) in out.iter_mut().zip(message).zip(values) {
                *x = reducer.reduce(m.cast_signed() + factor * i64::from(e));
            }
        },
    );
}
