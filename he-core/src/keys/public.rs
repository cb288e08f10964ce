//! Public keys: whoever has one encrypts.

use rand_core::CryptoRng;
use rayon::prelude::*;
use zeroize::Zeroizing;

use super::{SecretKey, lift_errors, lift_ternary};
use crate::{
    CiphertextBlock, Params, Plaintext, PublicSeed, Result,
    key_switching::Division,
    ring::Ring,
    sampling::{self, ErrorSeed},
    scratch::written_zeros,
    simd::vectorize,
};

/// An encryption of zero that others encrypt with: `(b, a)` with `b = t·e - a·s`, modulo the
/// ciphertext moduli and the special ones.
///
/// A ciphertext is `(b·u + t·e_0, a·u + t·e_1)` with a ternary `u`, divided by the special moduli,
/// plus the message. Without special moduli its noise is about `t·σ·sqrt(4N/3)`, with them that of a
/// modulus switch: [`crate::noise::Phase::public`].
pub struct PublicKey {
    params: Params,
    seed: PublicSeed,
    /// `[limb][b, a][N]`, evaluation form.
    words: Vec<u64>,
}

impl PublicKey {
    /// Draws a public key of `key`. Cost: one expansion and one transform per modulus.
    pub fn generate(key: &SecretKey, rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        let params = key.params();
        let n = params.ring_degree();
        let mut public = Self::from_seed(params, PublicSeed::generate(rng));
        let error_seed = ErrorSeed::generate(rng);
        let mut errors = Zeroizing::new(vec![0; n]);
        error_seed.sample(0, &mut errors, &mut Zeroizing::new(Vec::new()));
        let limbs = params.key_rings().zip(public.words.chunks_exact_mut(2 * n));
        for (limb, (ring, pair)) in limbs.enumerate() {
            let (b, a) = pair.split_at_mut(n);
            lift_errors(&errors, params.plaintext_residue(ring), ring, b);
            ring.forward(b);
            ring.multiply_accumulate(b, a, key.negated(limb));
        }
        public
    }

    /// A key whose polynomial `b` is still to be written.
    pub(super) fn from_seed(params: &Params, seed: PublicSeed) -> Self {
        let n = params.ring_degree();
        let mut words = vec![0; params.n_key_rings() * 2 * n];
        for ((limb, ring), pair) in (0..).zip(params.key_rings()).zip(words.chunks_exact_mut(2 * n))
        {
            seed.expand_key(0, limb, ring, pair.get_mut(n..).unwrap_or_default());
        }
        Self { params: params.clone(), seed, words }
    }

    /// The parameters the key belongs to.
    #[must_use]
    pub fn params(&self) -> &Params {
        &self.params
    }

    pub(super) fn seed(&self) -> PublicSeed {
        self.seed
    }

    /// `(b, a)` of every limb, `2N` words each.
    pub(super) fn limbs(&self) -> impl Iterator<Item = &[u64]> {
        self.words.chunks_exact(2 * self.params.ring_degree())
    }

    pub(super) fn limbs_mut(&mut self) -> impl Iterator<Item = &mut [u64]> {
        self.words.chunks_exact_mut(2 * self.params.ring_degree())
    }

    /// Encrypts plaintexts, in parallel. Fresh randomness is drawn from `rng` for each.
    ///
    /// Cost per plaintext: three transforms and two products per modulus, the message's transform
    /// and, with special moduli, a division as in key switching.
    ///
    /// # Errors
    /// [`crate::Error::ParamsMismatch`] when a plaintext belongs to other parameters.
    pub fn encrypt(
        &self,
        plaintexts: &[Plaintext],
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<CiphertextBlock> {
        let params = &self.params;
        for plaintext in plaintexts {
            params.check_same(plaintext.params())?;
        }
        let (n, count) = (params.ring_degree(), plaintexts.len());
        let draws: Vec<(Zeroizing<Vec<i8>>, ErrorSeed)> = (0..count)
            .map(|_| (sampling::sample_ternary(n, rng), ErrorSeed::generate(rng)))
            .collect();
        let mut block = CiphertextBlock::zeros(params, count, 1, params.moduli().len())?;
        let rows = block.rows_mut().into_par_iter().zip(plaintexts).zip(draws);
        rows.for_each(|((mut rows, plaintext), (ternary, seed))| {
            Zeros { public: self, ternary, seed }.write(&mut rows);
            let mut message = Zeroizing::new(written_zeros(n));
            for (limb, (ring, row)) in params.rings().iter().zip(rows).enumerate() {
                message.copy_from_slice(plaintext.limb(limb));
                ring.forward(&mut message);
                let reducer = ring.reducer();
                vectorize(
                    #[inline(always)]
                    || {
                        for (x, &m) in row.iter_mut().zip(message.iter()) {
                            *x = reducer.add(*x, m);
                        }
                    },
                );
            }
        });
        Ok(block)
    }
}

impl core::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("PublicKey")
            .field("params", &self.params)
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}

/// One encryption of zero in the making.
struct Zeros<'a> {
    public: &'a PublicKey,
    ternary: Zeroizing<Vec<i8>>,
    seed: ErrorSeed,
}

impl Zeros<'_> {
    /// Writes both polynomials into rows of zeros, one per ciphertext modulus.
    fn write(&self, rows: &mut [&mut [u64]]) {
        let params = &self.public.params;
        let n = params.ring_degree();
        let mut errors = Zeroizing::new(vec![0; 2 * n]);
        let mut stream = Zeroizing::new(Vec::new());
        for (index, errors) in (0..).zip(errors.chunks_exact_mut(n)) {
            self.seed.sample(index, errors, &mut stream);
        }
        // Secret until they are divided: roundings, sums and what they are made of.
        let n_special = params.special_rings().len();
        let mut roundings = Zeroizing::new(written_zeros(n_special * 2 * n));
        let mut spare = Zeroizing::new(written_zeros(n));
        let first_special = params.rings().len();
        let limbs = params.special_rings().iter().zip(roundings.chunks_exact_mut(2 * n));
        for (k, (ring, place)) in limbs.enumerate() {
            self.limb(ring, first_special + k, &errors, &mut spare, place);
        }
        let division = Division::new(params);
        division.roundings(&mut roundings, &mut spare);
        let mut sums = Zeroizing::new(written_zeros(2 * n));
        for (limb, (ring, row)) in params.rings().iter().zip(rows).enumerate() {
            if n_special == 0 {
                self.limb(ring, limb, &errors, &mut spare, row);
                continue;
            }
            self.limb(ring, limb, &errors, &mut spare, &mut sums);
            let pairs = row.chunks_exact_mut(n).zip(sums.chunks_exact(n));
            for (polynomial, (out, sum)) in pairs.enumerate() {
                division.add(limb, polynomial, sum, &roundings, &mut spare, out);
            }
        }
    }

    /// `(b·u + t·e_0, a·u + t·e_1)` modulo one limb.
    fn limb(&self, ring: &Ring, limb: usize, errors: &[i8], u: &mut [u64], out: &mut [u64]) {
        let params = &self.public.params;
        let n = params.ring_degree();
        lift_ternary(&self.ternary, ring, u);
        ring.forward(u);
        let pair = self.public.words.get(limb * 2 * n..(limb + 1) * 2 * n).unwrap_or_default();
        let t = params.plaintext_residue(ring);
        let polynomials = out.chunks_exact_mut(n).zip(pair.chunks_exact(n));
        for ((out, key), errors) in polynomials.zip(errors.chunks_exact(n)) {
            lift_errors(errors, t, ring, out);
            ring.forward(out);
            ring.multiply_accumulate(out, key, u);
        }
    }
}
