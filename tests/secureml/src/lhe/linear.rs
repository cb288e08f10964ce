//! Encrypted masks times plaintext matrices, modulo `2^64` exactly.
//!
//! The plaintext modulus is `t = 2^64` itself: a coefficient holds one word, a ciphertext the words
//! of one neuron for 8192 samples, and a matrix of integers acts on the ciphertexts. Weights of 64
//! bits are cut into five balanced digits of 13 bits (the kernels take 16), whose products are joined
//! by Horner's rule.
//!
//! # Bounds
//! With centred words `|m| <= 2^63`, errors `|e| <= 21` and `|v| <= 2^63`, the phase of a product of
//! `D` taps is `x + t·e'` with `|e'| <= B = D·2^63·(21 + 1/2) + 1`. A multiple `t·f` with `f` uniform
//! among `2^F >= B·2^40` integers hides it: the distributions for two values of `e'` differ by at most
//! `2B/2^F` in total, half of that in statistical distance. The modulus `Q` exceeds twice the sum of
//! all terms, which [`LinearScheme::new`] checks.

use he_core::{
    BlockEncryptor, CiphertextBlock, CoefficientEncoder, Decryptor, Group, LinearMap, Params,
    ParamsSpec, Placement, Plaintext, PublicKey, PublicSeed, RequestDecoder, SecretKey, Storage,
    bytes,
};
use rand::CryptoRng;
use rayon::prelude::*;
use zeroize::Zeroizing;

use super::{RING_DEGREE, STATISTICAL_BITS};
use crate::error::{Error, Result};
use crate::fixed::random_words;
use crate::gather::{Band, Gather};

/// Bits of a digit of a weight.
const DIGIT_BITS: u32 = 13;

/// Digits of a weight: 65 bits, so that a carry out of 64 bits has a place.
const N_DIGITS: usize = 5;

/// Ciphertexts that exist at once on either side, besides a query being answered.
const BAND: usize = 64;

/// Moduli a reply is switched down to.
const REPLY_MODULI: usize = 2;

/// Smallest size of a modulus: two of them exceed four times `2^64·(N + 1)/2 < 2^77`.
const MIN_MODULUS_BITS: u32 = 41;

/// Taps from here on would need more flooding than two words hold.
const MAX_TAPS: usize = 1 << 19;

/// Parameters and encodings of the matrix products of one network.
#[derive(Debug, Clone)]
pub struct LinearScheme {
    params: Params,
    encoder: CoefficientEncoder,
    /// `F`: bits of the multiple that hides the noise.
    flood_bits: u32,
}

impl LinearScheme {
    /// Chooses parameters for sums of at most `n_taps` products.
    ///
    /// # Errors
    /// - [`Error::Index`] unless there are 1 to `2^19 - 1` taps.
    /// - [`Error::Encryption`] when he-core refuses the parameters (it does not).
    pub fn new(n_taps: usize) -> Result<Self> {
        let taps_bits = usize::BITS - n_taps.leading_zeros();
        // B < 2^taps_bits · 2^63 · 2^5.
        let flood_bits = taps_bits + 63 + 5 + STATISTICAL_BITS;
        if n_taps == 0 || flood_bits >= 128 {
            return Err(Error::Index { what: "tap", index: n_taps, count: MAX_TAPS });
        }
        // |phase| <= 2^64·(2^(F-1) + B + public key + 1) < 2^(64 + F), and Q > 2·|phase|.
        let needed = 64 + flood_bits + 1;
        let n_moduli = needed.div_ceil(46);
        // Rounding when switching adds up to 2^64·(N + 1)/2, which two moduli must hold.
        let bits = (needed + 1).div_ceil(n_moduli).clamp(MIN_MODULUS_BITS, 47);
        let spec = ParamsSpec::with_bits(RING_DEGREE, 1 << 64, &vec![bits; n_moduli as usize])?;
        let params = Params::new(spec)?;
        if params.log2_modulus() <= f64::from(needed) {
            return Err(Error::Overflow { bits: needed, max: bits * n_moduli });
        }
        let encoder = CoefficientEncoder::new(&params, 32, 2)?;
        Ok(Self { params, encoder, flood_bits })
    }

    /// The parameters.
    #[must_use]
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Bits of the multiple of `2^64` that hides the noise of a reply.
    #[must_use]
    pub fn flood_bits(&self) -> u32 {
        self.flood_bits
    }

    /// Bytes of encryptions of `n_inputs` neurons for up to 8192 samples.
    #[must_use]
    pub fn query_bytes(&self, n_inputs: usize) -> usize {
        size_of::<PublicSeed>() + n_inputs * bytes::request_bytes(&self.params)
    }

    /// Bytes of `n_outputs` blinded products.
    #[must_use]
    pub fn reply_bytes(&self, n_outputs: usize) -> usize {
        n_outputs * bytes::reply_bytes(&self.params, 1, REPLY_MODULI)
    }

    /// One centred word per coefficient, as two digits of 32 bits; missing words are zero.
    fn encode(&self, words: &[u64]) -> Result<Plaintext> {
        let mut digits = Zeroizing::new(vec![0_i64; 2 * RING_DEGREE]);
        let (low, high) = digits.split_at_mut(RING_DEGREE);
        for ((low, high), &word) in low.iter_mut().zip(high).zip(words) {
            let word = word.cast_signed();
            // Sign-extends the lower half; the rest is a multiple of 2^32, at most 2^63.
            *low = (word << 32) >> 32;
            *high = (word >> 32) + ((*low >> 63) & 1);
        }
        Ok(self.encoder.encode(&digits)?)
    }

    /// Appends encryptions of rows of at most 8192 words: a seed and the ciphertexts.
    ///
    /// # Errors
    /// [`Error::Encryption`] when the key belongs to other parameters.
    pub fn query<'w>(
        &self,
        key: &SecretKey,
        rows: impl Iterator<Item = &'w [u64]>,
        rng: &mut (impl CryptoRng + ?Sized),
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let mut encryptor = BlockEncryptor::new(key, rng);
        out.extend_from_slice(&encryptor.seed().0);
        let mut rows = rows.peekable();
        while rows.peek().is_some() {
            let plaintexts: Vec<Plaintext> =
                rows.by_ref().take(BAND).map(|row| self.encode(row)).collect::<Result<_>>()?;
            bytes::write_request(&encryptor.encrypt_next(&plaintexts)?, out);
        }
        Ok(())
    }

    /// Multiplies a query by this server's matrix, blinds the products and appends them; hands the
    /// blinding words of every output (8192 each) to `keep(output, words)`.
    ///
    /// # Errors
    /// [`Error::Encryption`] when the query is malformed.
    #[expect(clippy::too_many_arguments, reason = "keys, operands and two outputs of one formula")]
    pub fn reply(
        &self,
        peer: &PublicKey,
        gather: &Gather,
        matrix: &[u64],
        query: &[u8],
        rng: &mut (impl CryptoRng + ?Sized),
        mut keep: impl FnMut(usize, &[u64]),
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let (seed, ciphertexts) = split_seed(query)?;
        let storage = Storage::default();
        let mut decoder = RequestDecoder::new(&self.params, gather.n_inputs(), seed, storage)?;
        decoder.push(ciphertexts)?;
        let query = decoder.finish()?;
        let digits = balanced_digits(matrix);
        for band in gather.bands(BAND) {
            let mut products = self.multiply(gather, &band, &digits, &query)?;
            let n_outputs = products.count();
            let masks = random_words(n_outputs * RING_DEGREE, rng);
            products.add_assign(&self.blinding(peer, &masks, rng)?)?;
            bytes::write_reply(&products.mod_switch_to(REPLY_MODULI)?, out);
            for (output, masks) in gather.outputs_of(&band).zip(masks.chunks_exact(RING_DEGREE)) {
                keep(output, masks);
            }
        }
        Ok(())
    }

    /// Products of one band: Horner's rule over the digits of the weights, highest first.
    fn multiply(
        &self,
        gather: &Gather,
        band: &Band,
        digits: &[Zeroizing<Vec<i32>>],
        query: &CiphertextBlock,
    ) -> Result<CiphertextBlock> {
        let n_rows = band.rows.len();
        let n_outputs = n_rows * band.placements.len();
        let (first, last) = (band.rows.start * gather.n_taps(), band.rows.end * gather.n_taps());
        let mut sum: Option<CiphertextBlock> = None;
        for digits in digits.iter().rev() {
            let placements = band.placements.clone().enumerate().map(|(i, placement)| Placement {
                inputs: gather.placement(placement).to_vec(),
                first_output: u32::try_from(i * n_rows).unwrap_or(u32::MAX),
                output_stride: 1,
            });
            let group = Group {
                weights: digits.get(first..last).unwrap_or_default().to_vec(),
                n_rows,
                n_taps: gather.n_taps(),
                placements: placements.collect(),
            };
            let bias = vec![0; n_outputs];
            let product =
                LinearMap::new(gather.n_inputs(), n_outputs, vec![group], bias)?.apply(query)?;
            sum = Some(match sum {
                None => product,
                Some(mut sum) => {
                    sum.scale(1 << DIGIT_BITS);
                    sum.add_assign(&product)?;
                    sum
                }
            });
        }
        sum.ok_or(Error::Length { what: "digits", expected: N_DIGITS, actual: 0 })
    }

    /// Fresh encryptions of the masks under the asker's key, with flooded noise.
    fn blinding(
        &self,
        peer: &PublicKey,
        masks: &[u64],
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<CiphertextBlock> {
        let plaintexts = masks.par_chunks_exact(RING_DEGREE).map(|words| self.encode(words));
        let plaintexts: Vec<Plaintext> = plaintexts.collect::<Result<_>>()?;
        let mut block = peer.encrypt(&plaintexts, rng)?;
        let floods = random_words(2 * masks.len(), rng);
        let floods = floods.par_chunks_exact(2 * RING_DEGREE).map(|words| self.flood(words));
        let floods: Vec<CiphertextBlock> = floods.collect::<Result<_>>()?;
        block.add_assign(&CiphertextBlock::concatenate(&floods)?)?;
        Ok(block)
    }

    /// `2^64·f` as a ciphertext without key: `f = f_0 + 2^64·f_1` uniform, from `2·8192` uniform
    /// words.
    fn flood(&self, words: &[u64]) -> Result<CiphertextBlock> {
        let (low, high) = words.split_at(RING_DEGREE);
        // The upper word has the bits beyond 64, centred.
        let shift = 128 - self.flood_bits;
        let centred = |x: &u64| (x.cast_signed() >> shift).cast_unsigned();
        let high: Zeroizing<Vec<u64>> = Zeroizing::new(high.iter().map(centred).collect());
        let mut block = CiphertextBlock::zeros(&self.params, 1, 1, self.params.moduli().len())?;
        for words in [high.as_slice(), low] {
            block.add_plaintext(&self.encode(words)?)?;
            block.scale(1 << 32);
            block.scale(1 << 32);
        }
        Ok(block)
    }

    /// Decrypts a reply and hands the words of every output (8192 each) to `keep(output, words)`.
    ///
    /// # Errors
    /// [`Error::Encryption`] when it is malformed.
    pub fn open(
        &self,
        key: &SecretKey,
        gather: &Gather,
        reply: &[u8],
        mut keep: impl FnMut(usize, &[u64]),
    ) -> Result<()> {
        let size = bytes::reply_bytes(&self.params, 1, REPLY_MODULI);
        let decryptor = Decryptor::new(key);
        let mut rest = reply;
        for band in gather.bands(BAND) {
            let outputs: Vec<usize> = gather.outputs_of(&band).collect();
            let wanted = outputs.len() * size;
            let (ciphertexts, after) =
                rest.split_at_checked(wanted).ok_or(Error::MessageLength {
                    expected: wanted as u64,
                    actual: rest.len() as u64,
                })?;
            rest = after;
            let mut block = CiphertextBlock::zeros(&self.params, outputs.len(), 1, REPLY_MODULI)?;
            bytes::read_reply_into(&mut block, 0, ciphertexts)?;
            let decrypt = |index| {
                let message = decryptor.decrypt(&block, index)?;
                let digits = self.encoder.decode_from(&message, 0)?;
                let (low, high) = digits.split_at(RING_DEGREE);
                let join = |(l, h): (&i64, &i64)| l.cast_unsigned() | (h.cast_unsigned() << 32);
                Ok::<_, Error>(Zeroizing::new(low.iter().zip(high).map(join).collect::<Vec<u64>>()))
            };
            let words: Vec<Zeroizing<Vec<u64>>> =
                (0..outputs.len()).into_par_iter().map(decrypt).collect::<Result<_>>()?;
            for (output, words) in outputs.into_iter().zip(&words) {
                keep(output, words);
            }
        }
        Ok(())
    }
}

/// The seed at the beginning of a query, and the rest.
pub(super) fn split_seed(query: &[u8]) -> Result<(PublicSeed, &[u8])> {
    let (seed, rest) = query.split_first_chunk().ok_or(Error::MessageLength {
        expected: size_of::<PublicSeed>() as u64,
        actual: query.len() as u64,
    })?;
    Ok((PublicSeed(*seed), rest))
}

/// Digits of centred words in base `2^13`, each in `[-2^12, 2^12]`, lowest first: `[digit][word]`.
fn balanced_digits(words: &[u64]) -> Vec<Zeroizing<Vec<i32>>> {
    let mut rest: Zeroizing<Vec<i64>> =
        Zeroizing::new(words.iter().map(|word| word.cast_signed()).collect());
    let mut next = |is_last| {
        let digit = |x: &mut i64| {
            let digit = if is_last { *x } else { (*x << (64 - DIGIT_BITS)) >> (64 - DIGIT_BITS) };
            // The difference may leave 64 bits by a carry that the shift would lose.
            *x = (*x >> DIGIT_BITS) + ((digit >> 63) & 1);
            #[expect(clippy::cast_possible_truncation, reason = "at most 2^12 in magnitude")]
            let digit = digit as i32;
            digit
        };
        Zeroizing::new(rest.iter_mut().map(digit).collect())
    };
    (1..=N_DIGITS).map(|i| next(i == N_DIGITS)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::cast_precision_loss,
        reason = "tests"
    )]
    use super::*;
    use he_core::security::ERROR_BOUND;
    use rand::{SeedableRng, rngs::StdRng};

    /// Masks and matrices at the ends of their range, and rows that use every tap.
    #[test]
    fn saturated_products_are_exact_modulo_2_64() {
        let mut rng = StdRng::seed_from_u64(7);
        let gather = Gather::dense(3, 40).unwrap();
        let scheme = LinearScheme::new(40).unwrap();
        let key = SecretKey::generate(scheme.params(), &mut rng);
        let public = PublicKey::generate(&key, &mut rng);
        let half = 1_u64 << 63;
        for (x, w) in [(half, half), (half - 1, half), (u64::MAX, half + 1), (half, 0)] {
            let rows = vec![vec![x; RING_DEGREE]; 40];
            let matrix = vec![w; 120];
            let mut query = Vec::new();
            let inputs = rows.iter().map(Vec::as_slice);
            scheme.query(&key, inputs, &mut rng, &mut query).unwrap();
            assert_eq!(query.len(), scheme.query_bytes(40));
            let (mut reply, mut masks) = (Vec::new(), vec![0; 3 * RING_DEGREE]);
            let keep = |output: usize, words: &[u64]| {
                masks[output * RING_DEGREE..][..RING_DEGREE].copy_from_slice(words);
            };
            scheme.reply(&public, &gather, &matrix, &query, &mut rng, keep, &mut reply).unwrap();
            assert_eq!(reply.len(), scheme.reply_bytes(3));
            let expected = 40_u64.wrapping_mul(x).wrapping_mul(w);
            let mut seen = 0;
            let check = |output: usize, words: &[u64]| {
                let masks = &masks[output * RING_DEGREE..];
                assert!(words.iter().zip(masks).all(|(x, &r)| x.wrapping_sub(r) == expected));
                seen += 1;
            };
            scheme.open(&key, &gather, &reply, check).unwrap();
            assert_eq!(seen, 3);
        }
    }

    #[test]
    fn digits_of_edges_give_the_word_back() {
        let half = 1_u64 << 63;
        let words = [0, 1, half - 1, half, half + 1, u64::MAX, 4095, 4096, 0x0AAA_AAAA_AAAA_AAAA];
        let digits = balanced_digits(&words);
        for (i, word) in words.into_iter().enumerate() {
            let value: i128 =
                digits.iter().rev().fold(0, |x, d| (x << DIGIT_BITS) + i128::from(d[i]));
            assert_eq!(value, i128::from(word.cast_signed()));
            assert!(digits.iter().all(|d| d[i].abs() <= 1 << 12), "{word:#x}");
        }
    }

    #[test]
    fn parameters_hold_their_bounds_for_every_width() {
        for n_taps in [1, 25, 845, 1 << 14, MAX_TAPS - 1] {
            let scheme = LinearScheme::new(n_taps).unwrap();
            assert_eq!(scheme.params().security_bits(), 128);
            let taps = n_taps as f64;
            let noise = taps * 63_f64.exp2() * (ERROR_BOUND as f64 + 0.5) + 1.0;
            assert!(f64::from(scheme.flood_bits()) >= noise.log2() + f64::from(STATISTICAL_BITS));
            // The errors of a public key: (2N + 1)·21.
            let public = 19_f64.exp2();
            let flood = f64::from(scheme.flood_bits() - 1).exp2();
            let phase = 64_f64.exp2() * (flood + noise + public + 1.0);
            assert!(phase.log2() + 1.0 < scheme.params().log2_modulus(), "{n_taps}");
            let reply: f64 =
                scheme.params().moduli()[..2].iter().map(|&q| f64::log2(q as f64)).sum();
            assert!(reply > 64.0 + 13.0 + 2.0, "{n_taps}");
        }
        assert!(matches!(LinearScheme::new(MAX_TAPS), Err(Error::Index { .. })));
        assert!(matches!(LinearScheme::new(0), Err(Error::Index { .. })));
    }
}
