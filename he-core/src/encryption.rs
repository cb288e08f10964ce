//! Seeded symmetric encryption of blocks, and decryption of any degree.

use rand_core::CryptoRng;
use rayon::prelude::*;
use zeroize::Zeroizing;

use crate::{
    CiphertextBlock, Error, Plaintext, Result, SecretKey,
    ring::Ring,
    sampling::{ErrorSeed, MAX_CIPHERTEXTS_PER_SEED, PublicSeed},
    simd::vectorize,
};

/// Encrypts one block of ciphertexts under one public seed.
///
/// A (key, seed) pair must never encrypt two plaintexts at one index: an encryptor draws its seed
/// itself and hands out each index once. To send the same ciphertexts again, keep their bytes.
///
/// Ciphertext `i` is `c_1` expanded from the seed and `c_0 = m + t·e - c_1·s`, with `e` centred
/// binomial (η = 21). Noise: deviation `t·3.24`.
#[derive(Debug)]
pub struct BlockEncryptor<'k> {
    key: &'k SecretKey,
    seed: PublicSeed,
    errors: RedactedErrorSeed,
    next: u32,
}

struct RedactedErrorSeed(ErrorSeed);

impl core::fmt::Debug for RedactedErrorSeed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("[secret]")
    }
}

impl<'k> BlockEncryptor<'k> {
    /// Draws fresh seeds for one block.
    pub fn new(key: &'k SecretKey, rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        Self {
            key,
            seed: PublicSeed::generate(rng),
            errors: RedactedErrorSeed(ErrorSeed::generate(rng)),
            next: 0,
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
    ///
    /// # Errors
    /// - [`Error::ParamsMismatch`] when a plaintext belongs to other parameters.
    /// - [`Error::SeedExhausted`] after 2^24 ciphertexts.
    pub fn encrypt_next(&mut self, plaintexts: &[Plaintext]) -> Result<CiphertextBlock> {
        let params = self.key.params();
        for plaintext in plaintexts {
            params.check_same(plaintext.params())?;
        }
        let first = self.next;
        self.next = u32::try_from(plaintexts.len())
            .ok()
            .and_then(|n| first.checked_add(n))
            .filter(|&n| n <= MAX_CIPHERTEXTS_PER_SEED)
            .ok_or(Error::SeedExhausted { max: MAX_CIPHERTEXTS_PER_SEED })?;

        let n = params.ring_degree();
        let mut block = CiphertextBlock::zeros(params, plaintexts.len(), 1, params.moduli().len())?;
        let tasks = block.rows_mut().into_par_iter().zip(plaintexts).zip(first..self.next);
        let scratch = || (Zeroizing::new(vec![0_i8; n]), Zeroizing::new(Vec::new()));
        tasks.for_each_init(scratch, |(errors, buffer), ((rows, plaintext), index)| {
            self.errors.0.sample(index, errors, buffer);
            for (((limb, limb_index), ring), row) in (0..).zip(0..).zip(params.rings()).zip(rows) {
                let (c0, c1) = row.split_at_mut(n);
                self.seed.expand(index, limb_index, ring, c1, buffer);
                let t = params.plaintext_modulus();
                add_error(c0, plaintext.limb(limb), errors, t, ring);
                ring.forward(c0);
                ring.multiply_accumulate(c0, c1, self.key.negated(limb));
            }
        });
        Ok(block)
    }
}

/// `out = m + t·e mod q`, without branching on either.
fn add_error(out: &mut [u64], message: &[u64], errors: &[i8], t: u128, ring: &Ring) {
    let reducer = ring.reducer();
    let q = u128::from(ring.value());
    // t mod q < 2^47 and |e| <= 21, so the sum is far below 2^63.
    let t = i64::try_from(t % q).unwrap_or_default();
    vectorize(|| {
        for ((x, &m), &e) in out.iter_mut().zip(message).zip(errors) {
            *x = reducer.reduce(m.cast_signed() + t * i64::from(e));
        }
    });
}

/// Decrypts ciphertexts of any degree.
#[derive(Debug)]
pub struct Decryptor<'k> {
    key: &'k SecretKey,
}

/// A decrypted polynomial, still in the form `m + t·e` (centred): encoders turn it into integers.
pub struct Message {
    pub(crate) phase: Phase,
    pub(crate) correction: u128,
    pub(crate) plaintext_modulus: u128,
}

/// Centred coefficients of `c_0 + c_1 s + …`, zeroized on drop.
pub(crate) enum Phase {
    /// One modulus: below 2^46 in magnitude.
    Narrow(Zeroizing<Vec<i64>>),
    /// Two moduli: `low + base·high` with `0 <= low < base`, below 2^93 in magnitude.
    Wide {
        /// Residues modulo the first modulus.
        low: Zeroizing<Vec<u64>>,
        /// Signed multiples of it.
        high: Zeroizing<Vec<i64>>,
        /// The first modulus.
        base: u64,
    },
}

impl Phase {
    /// Number of coefficients.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Narrow(x) => x.len(),
            Self::Wide { low, .. } => low.len(),
        }
    }

    /// One coefficient; zero beyond the end.
    pub(crate) fn coefficient(&self, index: usize) -> i128 {
        match self {
            Self::Narrow(x) => x.get(index).copied().unwrap_or_default().into(),
            Self::Wide { low, high, base } => {
                let low = low.get(index).copied().unwrap_or_default();
                let high = high.get(index).copied().unwrap_or_default();
                i128::from(low) + i128::from(high) * i128::from(*base)
            }
        }
    }
}

impl core::fmt::Debug for Message {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Message").finish_non_exhaustive()
    }
}

impl<'k> Decryptor<'k> {
    /// Decrypts with `key`.
    #[must_use]
    pub fn new(key: &'k SecretKey) -> Self {
        Self { key }
    }

    /// Decrypts one ciphertext of a block.
    ///
    /// Ciphertexts over more than two moduli are switched down to two first. Cost: `degree`
    /// products and one inverse transform per modulus.
    ///
    /// # Errors
    /// - [`Error::ParamsMismatch`] when the block belongs to other parameters.
    /// - [`Error::Index`] when there is no such ciphertext.
    ///
    /// # Security
    /// No branch or address depends on the key or the message. The caller must have checked the
    /// reply first: see the crate docs.
    pub fn decrypt(&self, block: &CiphertextBlock, index: usize) -> Result<Message> {
        self.key.params().check_same(block.params())?;
        if index >= block.count() {
            return Err(Error::Index { what: "ciphertext", index, count: block.count() });
        }
        if block.n_moduli() > 2 {
            let mut one = block.select(&[index])?;
            while one.n_moduli() > 2 {
                one = one.mod_switch_down()?;
            }
            return self.decrypt(&one, 0);
        }
        let extended =
            if block.degree() > 2 { self.key.extend(block.degree()) } else { Vec::new() };
        let n = block.params().ring_degree();
        let mut limbs = Vec::with_capacity(2);
        for (limb, ring) in block.rings().iter().enumerate() {
            let row = block.row(limb, index);
            let mut polynomials = row.chunks_exact(n);
            let mut sum = Zeroizing::new(polynomials.next().unwrap_or_default().to_vec());
            for (power, polynomial) in (1..).zip(polynomials) {
                let s = match extended.get(power - 1) {
                    Some(words) => words.get(limb * n..(limb + 1) * n).unwrap_or_default(),
                    None => self.key.power(power, limb),
                };
                ring.multiply_accumulate(&mut sum, polynomial, s);
            }
            ring.inverse(&mut sum);
            limbs.push(sum);
        }
        Ok(Message {
            phase: compose(block.rings(), limbs),
            correction: block.correction(),
            plaintext_modulus: block.params().plaintext_modulus(),
        })
    }
}

/// Lifts residues to centred integers.
fn compose(rings: &[Ring], mut limbs: Vec<Zeroizing<Vec<u64>>>) -> Phase {
    let second = if limbs.len() > 1 { limbs.pop() } else { None };
    let first = limbs.pop().unwrap_or_default();
    match (rings, second) {
        ([r0, r1, ..], Some(second)) => compose_two(r0, r1, first, &second),
        ([r0, ..], _) => Phase::Narrow(centre(r0, &first)),
        ([], _) => Phase::Narrow(Zeroizing::default()),
    }
}

fn centre(ring: &Ring, x: &[u64]) -> Zeroizing<Vec<i64>> {
    let reducer = ring.reducer();
    let mut out = Zeroizing::new(vec![0_i64; x.len()]);
    vectorize(|| {
        for (y, &x) in out.iter_mut().zip(x) {
            *y = reducer.centre(x);
        }
    });
    out
}

/// Garner's mixed-radix composition: `x = x0 + q0·((x1 - x0)·q0^-1 mod q1)`, then centred.
///
/// With `h_i = (q_i - 1)/2`, `x` exceeds `(q0·q1 - 1)/2 = h0 + q0·h1` exactly when its upper digit,
/// plus one if `x0 > h0`, exceeds `h1`; then `q1` is taken from that digit.
fn compose_two(r0: &Ring, r1: &Ring, low: Zeroizing<Vec<u64>>, second: &[u64]) -> Phase {
    let base = r0.value();
    let inverse = r1.invert(base % r1.value()).expect("invariant: the moduli are distinct primes");
    let reducer = r1.reducer();
    let inverse = reducer.factor(inverse);
    let q1 = r1.value().cast_signed();
    let (h0, h1) = (base.cast_signed() / 2, q1 / 2);
    let mut high = Zeroizing::new(vec![0_i64; low.len()]);
    vectorize(|| {
        for ((y, &a), &b) in high.iter_mut().zip(low.iter()).zip(second) {
            let (a, b) = (a.cast_signed(), b.cast_signed());
            let digit = reducer.multiply(b - a, inverse).cast_signed();
            let carry = (h0 - a) >> 63;
            *y = digit - (((h1 - (digit - carry)) >> 63) & q1);
        }
    });
    Phase::Wide { low, high, base }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::ring::largest_prime;

    /// The lift is exact where the halves of both primes meet, which random words never reach.
    #[test]
    fn composition_is_centred_at_every_edge() {
        for (bits0, bits1) in [(11, 12), (30, 47), (47, 46)] {
            let prime = |bits| largest_prime(32, bits, (1 << bits).min(crate::MAX_MODULUS + 1));
            let [r0, r1] = [bits0, bits1].map(|b| Ring::new(32, prime(b).unwrap()).unwrap());
            let (q0, q1) = (i128::from(r0.value()), i128::from(r1.value()));
            let half = (q0 * q1 - 1) / 2;
            let edges = [0, half, half - q0, half - q0 / 2, q0 / 2, q0, q0 * (q1 / 2), q1 - 1];
            for edge in edges {
                for x in edge - 2..=edge + 2 {
                    for x in [x, -x].into_iter().filter(|x| x.abs() <= half) {
                        let residue = |q: i128| vec![u64::try_from(x.rem_euclid(q)).unwrap()];
                        let low = Zeroizing::new(residue(q0));
                        let phase = compose_two(&r0, &r1, low, &residue(q1));
                        assert_eq!(phase.coefficient(0), x, "{q0}·{q1}");
                    }
                }
            }
        }
    }
}
