//! Products of encrypted slots and plaintext slots, as integers through four plaintext primes.
//!
//! The asker encrypts `a_0` modulo each prime `t_j`, one word per slot. The other server multiplies
//! by its `a_1` and adds a uniform integer `r < 2^168`.
//!
//! # Bounds
//! Words are centred: `|a_0·a_1| <= 2^126`. So `0 <= a_0·a_1 + 2^127 + r < 2^168 + 2^128`, below the
//! product of the primes (each above `2^42.9`, which [`SquareScheme::new`] checks): the residues
//! determine the integer, and modulo `2^64` the term `2^127` vanishes. `r` hides the product within
//! statistical distance `2^(126+1-168) = 2^-41`.
//!
//! The phase before blinding is `x + t·e'` with `|e'| <= N·(t/2)·(21 + 1/2) + 1 < 2^59.5`. It is hidden
//! by a multiple `t·f`, `f = f_0 + t·f_1 + t²·f_2` uniform among `t³ > 2^128` integers: statistical
//! distance below `2^-68`.

use he_core::{
    BlockEncryptor, CiphertextBlock, Decryptor, Params, ParamsSpec, PublicKey, PublicSeed,
    RequestDecoder, SecretKey, SlotEncoder, Storage, bytes,
};
use rand::CryptoRng;
use rayon::prelude::*;
use zeroize::Zeroizing;

use super::RING_DEGREE;
use super::linear::split_seed;
use super::residues::{Composition, LIMB_BITS, Limbs, MASK_BITS, N_PRIMES, PRIME_BITS, Residues};
use crate::error::{Error, Result, check_length};

/// Sizes of the ciphertext moduli: `t^4/2` and a little must stay below half of their product.
const MODULI_BITS: [u32; 4] = [44; 4];

/// Moduli a reply is switched down to.
const REPLY_MODULI: usize = 2;

/// Plaintexts that hide the noise: `f_0`, `f_1`, `f_2`.
const N_FLOODS: usize = 3;

/// Ring and encoder for one plaintext prime.
#[derive(Debug, Clone)]
struct Prime {
    params: Params,
    encoder: SlotEncoder,
    residues: Residues,
}

/// Parameters and encodings of products of slots.
#[derive(Debug, Clone)]
pub struct SquareScheme {
    primes: Vec<Prime>,
    composition: Composition,
}

impl SquareScheme {
    /// Chooses the primes.
    ///
    /// # Errors
    /// [`Error::Encryption`] when parameters are refused, [`Error::Overflow`] when a bound of the module
    /// does not hold (neither happens).
    pub fn new() -> Result<Self> {
        let none =
            ParamsSpec { ring_degree: RING_DEGREE, plaintext_modulus: 2, moduli: Vec::new() };
        let mut primes = Vec::with_capacity(N_PRIMES);
        for t in none.further_primes(&[PRIME_BITS; N_PRIMES])? {
            let spec = ParamsSpec::with_bits(RING_DEGREE, t.into(), &MODULI_BITS)?;
            let params = Params::new(spec)?;
            let encoder = SlotEncoder::new(&params)?;
            primes.push(Prime { params, encoder, residues: Residues::new(t) });
        }
        let log2 = |prime: &Prime| {
            #[expect(clippy::cast_precision_loss, reason = "compared with a wide margin")]
            let t = prime.residues.modulus() as f64;
            t.log2()
        };
        let product: f64 = primes.iter().map(log2).sum();
        let smallest_modulus = primes.iter().map(|p| p.params.log2_modulus() - 4.0 * log2(p));
        // The integer fits the primes; a phase of t^4/2·(1 + 2^-40) fits half of the modulus.
        let fits = product > f64::from(MASK_BITS + 1);
        if !fits || smallest_modulus.fold(f64::INFINITY, f64::min) < 0.5 {
            return Err(Error::Overflow { bits: MASK_BITS + 1, max: MASK_BITS });
        }
        let residues: Vec<Residues> = primes.iter().map(|p| p.residues).collect();
        Ok(Self { composition: Composition::new(&residues), primes })
    }

    /// The parameters, one set per prime.
    pub fn params(&self) -> impl Iterator<Item = &Params> {
        self.primes.iter().map(|prime| &prime.params)
    }

    /// Bytes of encryptions of `n_values` words.
    #[must_use]
    pub fn query_bytes(&self, n_values: usize) -> usize {
        let per_prime =
            |p| size_of::<PublicSeed>() + n_values.div_ceil(RING_DEGREE) * bytes::request_bytes(p);
        self.params().map(per_prime).sum()
    }

    /// Bytes of `n_values` blinded products.
    #[must_use]
    pub fn reply_bytes(&self, n_values: usize) -> usize {
        let size = |p| bytes::reply_bytes(p, 1, REPLY_MODULI);
        n_values.div_ceil(RING_DEGREE) * self.params().map(size).sum::<usize>()
    }

    /// Appends encryptions of words: for every prime a seed and the ciphertexts.
    ///
    /// # Errors
    /// [`Error::Encryption`] or [`Error::Length`] when the keys are not one per prime.
    pub fn query(
        &self,
        keys: &[SecretKey],
        words: &[u64],
        rng: &mut (impl CryptoRng + ?Sized),
        out: &mut Vec<u8>,
    ) -> Result<()> {
        check_length("keys", N_PRIMES, keys.len())?;
        for (prime, key) in self.primes.iter().zip(keys) {
            let plaintexts = words
                .par_chunks(RING_DEGREE)
                .map(|words| prime.encoder.encode(&padded(words, |x| x.cast_signed())))
                .collect::<core::result::Result<Vec<_>, _>>()?;
            let mut encryptor = BlockEncryptor::new(key, rng);
            out.extend_from_slice(&encryptor.seed().0);
            bytes::write_request(&encryptor.encrypt_next(&plaintexts)?, out);
        }
        Ok(())
    }

    /// Multiplies a query by this server's words, blinds the products and appends them. Returns the
    /// blinding integers modulo `2^64`, one per word.
    ///
    /// # Errors
    /// [`Error::Encryption`] or [`Error::MessageLength`] when the query is malformed.
    pub fn reply(
        &self,
        peers: &[PublicKey],
        words: &[u64],
        query: &[u8],
        rng: &mut (impl CryptoRng + ?Sized),
        out: &mut Vec<u8>,
    ) -> Result<Zeroizing<Vec<u64>>> {
        check_length("keys", N_PRIMES, peers.len())?;
        let n_ciphertexts = words.len().div_ceil(RING_DEGREE);
        // Slots without a word are blinded like the others.
        let mut limbs: Zeroizing<Vec<Limbs>> =
            Zeroizing::new(vec![[0; 4]; n_ciphertexts * RING_DEGREE]);
        for limb in limbs.iter_mut().flatten() {
            *limb = rng.next_u64() >> (64 - LIMB_BITS);
        }
        let mut rest = query;
        for (prime, peer) in self.primes.iter().zip(peers) {
            let size = bytes::request_bytes(&prime.params);
            let wanted = size_of::<PublicSeed>() + n_ciphertexts * size;
            let (part, after) = rest.split_at_checked(wanted).ok_or(Error::MessageLength {
                expected: wanted as u64,
                actual: rest.len() as u64,
            })?;
            rest = after;
            let (seed, ciphertexts) = split_seed(part)?;
            let storage = Storage::default();
            let mut decoder = RequestDecoder::new(&prime.params, n_ciphertexts, seed, storage)?;
            decoder.push(ciphertexts)?;
            let products = prime.multiply(&decoder.finish()?, words)?;
            let blinded = prime.blind(products, peer, &limbs, rng)?;
            bytes::write_reply(&blinded.mod_switch_to(REPLY_MODULI)?, out);
        }
        let low = |&[r0, r1, _, _]: &Limbs| r0.wrapping_add(r1 << LIMB_BITS);
        Ok(Zeroizing::new(limbs.iter().take(words.len()).map(low).collect()))
    }

    /// Decrypts a reply: `n_values` blinded products modulo `2^64`.
    ///
    /// # Errors
    /// [`Error::Encryption`] or [`Error::MessageLength`] when it is malformed.
    pub fn open(
        &self,
        keys: &[SecretKey],
        reply: &[u8],
        n_values: usize,
    ) -> Result<Zeroizing<Vec<u64>>> {
        check_length("keys", N_PRIMES, keys.len())?;
        let n_ciphertexts = n_values.div_ceil(RING_DEGREE);
        let mut residues = Zeroizing::new(vec![[0_u64; N_PRIMES]; n_ciphertexts * RING_DEGREE]);
        let mut rest = reply;
        for (j, (prime, key)) in self.primes.iter().zip(keys).enumerate() {
            let wanted = n_ciphertexts * bytes::reply_bytes(&prime.params, 1, REPLY_MODULI);
            let (part, after) = rest.split_at_checked(wanted).ok_or(Error::MessageLength {
                expected: wanted as u64,
                actual: rest.len() as u64,
            })?;
            rest = after;
            let mut block = CiphertextBlock::zeros(&prime.params, n_ciphertexts, 1, REPLY_MODULI)?;
            bytes::read_reply_into(&mut block, 0, part)?;
            let decryptor = Decryptor::new(key);
            residues.par_chunks_mut(RING_DEGREE).enumerate().try_for_each(|(i, residues)| {
                let slots = prime.encoder.decode_from(&decryptor.decrypt(&block, i)?, 0)?;
                for (residues, slot) in residues.iter_mut().zip(slots.iter()) {
                    if let Some(place) = residues.get_mut(j) {
                        *place = slot.cast_unsigned();
                    }
                }
                Ok::<_, Error>(())
            })?;
        }
        let values = residues.par_iter().take(n_values).map(|r| self.composition.compose(r));
        Ok(Zeroizing::new(values.collect()))
    }
}

impl Prime {
    /// Slot by slot.
    fn multiply(&self, query: &CiphertextBlock, words: &[u64]) -> Result<CiphertextBlock> {
        let products = words.par_chunks(RING_DEGREE).enumerate().map(|(i, words)| {
            let mut product = query.select(&[i])?;
            let factor = self.encoder.encode(&padded(words, |x| x.cast_signed()))?;
            product.multiply_plaintext(&factor)?;
            Ok::<_, Error>(product)
        });
        Ok(CiphertextBlock::concatenate(&products.collect::<Result<Vec<_>>>()?)?)
    }

    /// Adds `2^127 + r` under the asker's public key, and floods the noise.
    fn blind(
        &self,
        mut products: CiphertextBlock,
        peer: &PublicKey,
        limbs: &[Limbs],
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<CiphertextBlock> {
        let masks = limbs.par_chunks(RING_DEGREE).map(|limbs| {
            self.encoder.encode(&padded(limbs, |r| self.residues.shifted_mask(r).cast_signed()))
        });
        let masks = masks.collect::<core::result::Result<Vec<_>, _>>()?;
        products.add_assign(&peer.encrypt(&masks, rng)?)?;
        let slots = self.uniform(N_FLOODS * limbs.len(), rng);
        let t = self.residues.modulus().cast_signed();
        let floods = slots.par_chunks_exact(N_FLOODS * RING_DEGREE).map(|slots| {
            let n_moduli = self.params.moduli().len();
            let mut flood = CiphertextBlock::zeros(&self.params, 1, 1, n_moduli)?;
            for slots in slots.chunks_exact(RING_DEGREE) {
                // Uniform slots are uniform coefficients: encoding is a bijection modulo t.
                flood.add_plaintext(&self.encoder.encode(slots)?)?;
                flood.scale(t);
            }
            Ok::<_, Error>(flood)
        });
        let floods = CiphertextBlock::concatenate(&floods.collect::<Result<Vec<_>>>()?)?;
        products.add_assign(&floods)?;
        Ok(products)
    }

    /// Uniform residues; only discarded draws decide how many are drawn.
    fn uniform(&self, count: usize, rng: &mut (impl CryptoRng + ?Sized)) -> Zeroizing<Vec<i64>> {
        let mut slots = Zeroizing::new(Vec::with_capacity(count));
        while slots.len() < count {
            let draw = rng.next_u64() >> (64 - PRIME_BITS);
            if draw < self.residues.modulus() {
                slots.push(draw.cast_signed());
            }
        }
        slots
    }
}

/// One value per slot; slots beyond the last word are zero.
fn padded<T>(words: &[T], value: impl Fn(&T) -> i64) -> Zeroizing<Vec<i64>> {
    let mut slots = Zeroizing::new(vec![0; RING_DEGREE]);
    for (slot, word) in slots.iter_mut().zip(words) {
        *slot = value(word);
    }
    slots
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    #[test]
    fn products_of_edges_and_random_words_are_exact_modulo_2_64() {
        let mut rng = StdRng::seed_from_u64(11);
        let scheme = SquareScheme::new().unwrap();
        let keys: Vec<SecretKey> =
            scheme.params().map(|p| SecretKey::generate(p, &mut rng)).collect();
        let public: Vec<PublicKey> =
            keys.iter().map(|k| PublicKey::generate(k, &mut rng)).collect();
        let half = 1_u64 << 63;
        let edges = [0, 1, half - 1, half, half + 1, u64::MAX];
        let mut pairs: Vec<(u64, u64)> =
            edges.iter().flat_map(|&a| edges.map(|b| (a, b))).collect();
        // One value more than a ciphertext holds.
        pairs.resize_with(RING_DEGREE + 1, || (rng.random(), rng.random()));
        // All slots at the end of the range make the largest coefficients.
        for pairs in [pairs, vec![(half, half); RING_DEGREE]] {
            let (a, b): (Vec<u64>, Vec<u64>) = pairs.iter().copied().unzip();
            let (mut query, mut reply) = (Vec::new(), Vec::new());
            scheme.query(&keys, &a, &mut rng, &mut query).unwrap();
            assert_eq!(query.len(), scheme.query_bytes(a.len()));
            let masks = scheme.reply(&public, &b, &query, &mut rng, &mut reply).unwrap();
            assert_eq!(reply.len(), scheme.reply_bytes(a.len()));
            let products = scheme.open(&keys, &reply, a.len()).unwrap();
            for (i, (a, b)) in pairs.into_iter().enumerate() {
                assert_eq!(products[i].wrapping_sub(masks[i]), a.wrapping_mul(b), "{a} {b}");
            }
        }
    }
}
