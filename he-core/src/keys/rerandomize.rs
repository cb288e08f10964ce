//! Ciphertexts that show the holder of the key nothing but what they decrypt to.

use rayon::prelude::*;
use zeroize::Zeroizing;

use super::{PublicKey, lift_errors, lift_ternary};
use crate::{
    CiphertextBlock, Error, Result,
    noise::MAX_FLOOD_BITS,
    ring::Ring,
    sampling::{self, ErrorSeed, StreamRng},
    scratch::written_zeros,
    simd::vectorize,
};

impl CiphertextBlock {
    /// Adds a fresh encryption of zero to every ciphertext, with noise that drowns what is there.
    ///
    /// What a server computes depends on its weights in every polynomial, not only in the plaintext:
    /// the holder of the key, who knows the polynomials it sent, could solve for them. At degree `d`
    /// the polynomials of
    ///
    /// ```text
    /// (b + a·s)·Σ_{i<d} u_i s^i + t·Σ_{i<=d} e_i s^i + t·f
    /// ```
    ///
    /// are added, with the public key `(b, a)`, ternary `u_i`, centred binomial `e_i`, and `f` uniform
    /// in `[-2^flood_bits, 2^flood_bits)` per coefficient. Afterwards the plaintext and the public key
    /// determine the distribution of a ciphertext up to a statistical distance of
    /// `|noise|/(t·2^flood_bits)` per coefficient and ring-LWE: [`crate::noise::Phase::flood_bits`]
    /// gives the bits for a wanted distance, [`crate::noise::Phase::rerandomized`] the noise.
    ///
    /// `seeds` holds one secret seed per ciphertext; the result is a function of block, key and seeds,
    /// and a seed must never serve two different ciphertexts. Switch moduli before, not after: the
    /// noise that must be drowned is smaller then. Cost per ciphertext and modulus: `2d + 1`
    /// transforms.
    ///
    /// # Errors
    /// - [`Error::ParamsMismatch`] when the key belongs to other parameters.
    /// - [`Error::Form`] when the parameters have special moduli.
    /// - [`Error::Length`] unless there is one seed per ciphertext.
    /// - [`Error::Value`] unless `flood_bits` is 1 to 61.
    ///
    /// # Security
    /// Holds for a key that was made as [`PublicKey::generate`] makes it. Whoever makes one of another
    /// form gets ciphertexts that may show more.
    ///
    /// # Source
    /// Flooding: C. Gentry, "A fully homomorphic encryption scheme", 2009, section 5.2; degrees above
    /// 1: own derivation, docs/noise.md.
    pub fn rerandomize(
        &mut self,
        key: &PublicKey,
        flood_bits: u32,
        seeds: &[[u8; 32]],
    ) -> Result<()> {
        self.params().check_same(key.params())?;
        if !key.params().special_rings().is_empty() {
            return Err(Error::Form {
                operation: "rerandomization",
                requirement: "parameters without special moduli",
                degree: self.degree(),
                n_moduli: self.n_moduli(),
            });
        }
        if seeds.len() != self.count() {
            let (expected, actual) = (self.count(), seeds.len());
            return Err(Error::Length { what: "seeds of ciphertexts", expected, actual });
        }
        if !(1..=MAX_FLOOD_BITS).contains(&flood_bits) {
            let value = flood_bits.into();
            return Err(Error::Value {
                what: "flooding bits",
                value,
                min: 1,
                max: MAX_FLOOD_BITS.into(),
            });
        }
        let degree = self.degree();
        let rows = self.rows_mut().into_par_iter().zip(seeds);
        rows.for_each(|(mut rows, seed)| {
            Fresh::draw(key, degree, flood_bits, *seed).add_to(key, &mut rows);
        });
        Ok(())
    }
}

/// The randomness of one ciphertext.
struct Fresh {
    /// `u_0, …, u_(d-1)`.
    ternary: Vec<Zeroizing<Vec<i8>>>,
    /// `e_0, …, e_d`.
    errors: Vec<Zeroizing<Vec<i8>>>,
    /// `f`.
    flood: Zeroizing<Vec<i64>>,
}

impl Fresh {
    fn draw(key: &PublicKey, degree: usize, flood_bits: u32, seed: [u8; 32]) -> Self {
        let n = key.params().ring_degree();
        let seed = Zeroizing::new(seed);
        let ternary = (0..)
            .take(degree)
            .map(|i| sampling::sample_ternary(n, &mut StreamRng::ternary(&seed, i)))
            .collect();
        let error_seed = ErrorSeed::from_secret(*seed);
        let mut stream = Zeroizing::new(Vec::new());
        let errors = (0..=degree)
            .zip(0..)
            .map(|(_, i)| {
                let mut errors = Zeroizing::new(written_zeros(n));
                error_seed.sample(i, &mut errors, &mut stream);
                errors
            })
            .collect();
        let mut flood = Zeroizing::new(written_zeros(n));
        sampling::sample_flood(&seed, flood_bits, &mut flood);
        Self { ternary, errors, flood }
    }

    /// Adds the encryption of zero to a ciphertext: one slice per modulus.
    fn add_to(&self, key: &PublicKey, rows: &mut [&mut [u64]]) {
        let params = key.params();
        let n = params.ring_degree();
        let mut sum = Zeroizing::new(written_zeros(n));
        let mut units = Zeroizing::new(written_zeros(self.ternary.len() * n));
        for ((ring, pair), row) in params.rings().iter().zip(key.limbs()).zip(rows) {
            let t = params.plaintext_residue(ring);
            for (u, ternary) in units.chunks_exact_mut(n).zip(&self.ternary) {
                lift_ternary(ternary, ring, u);
                ring.forward(u);
            }
            let (b, a) = pair.split_at(n);
            let unit = |i: usize| units.get(i * n..(i + 1) * n);
            let polynomials = row.chunks_exact_mut(n).zip(&self.errors);
            for (k, (polynomial, errors)) in polynomials.enumerate() {
                lift_errors(errors, t, ring, &mut sum);
                if k == 0 {
                    add_flood(ring, &self.flood, t, &mut sum);
                }
                ring.forward(&mut sum);
                if let Some(u) = unit(k) {
                    ring.multiply_accumulate(&mut sum, b, u);
                }
                if let Some(u) = k.checked_sub(1).and_then(unit) {
                    ring.multiply_accumulate(&mut sum, a, u);
                }
                let reducer = ring.reducer();
                let sum: &[u64] = &sum;
                vectorize(
                    #[inline(always)]
                    || {
                        for (x, &y) in polynomial.iter_mut().zip(sum) {
                            *x = reducer.add(*x, y);
                        }
                    },
                );
            }
        }
    }
}

/// `out += t·flood mod q`, without branching on it.
fn add_flood(ring: &Ring, flood: &[i64], t: u64, out: &mut [u64]) {
    let reducer = ring.reducer();
    let t = reducer.factor(t);
    vectorize(
        #[inline(always)]
        || {
            for (x, &f) in out.iter_mut().zip(flood) {
                let reduced = reducer.reduce(f);
                *x = reducer.add(*x, reducer.multiply(reduced.cast_signed(), t));
            }
        },
    );
}
