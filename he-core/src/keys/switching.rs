//! One key-switching key: from another secret to the key's own, hybrid, seeded.

use rand_core::CryptoRng;
use rayon::prelude::*;
use zeroize::Zeroizing;

use super::{SecretKey, lift_errors};
use crate::{Params, PublicSeed, ring::Ring, sampling::ErrorSeed, simd::vectorize};

/// Encrypts `P·g_j·s'` for every digit `j`, under `s`, modulo all ciphertext and special moduli.
///
/// `P` is the product of the special moduli and `g_j` is 1 modulo the moduli of digit `j` and 0 modulo
/// the others, so that `Σ_j d_j·g_j = c` when `d_j = c` modulo the moduli of digit `j`: at every level.
pub(crate) struct SwitchingKey {
    seed: PublicSeed,
    /// `[limb][digit][b, a][N]`, evaluation form: what the products of one limb read is contiguous.
    words: Vec<u64>,
}

/// Moduli per digit: as many as there are special ones, whose product must outweigh a digit.
pub(crate) fn digit_len(params: &Params) -> usize {
    params.special_moduli().len().max(1)
}

/// Number of digits of a polynomial over the first `n_moduli` moduli.
pub(crate) fn n_digits(params: &Params, n_moduli: usize) -> usize {
    n_moduli.div_ceil(digit_len(params))
}

impl SwitchingKey {
    /// Encrypts `source`, the other secret: `source(limb)` are its words modulo one limb of the key,
    /// which may be secret.
    pub(crate) fn generate(
        key: &SecretKey,
        source: &(impl Fn(usize) -> Zeroizing<Vec<u64>> + Sync),
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Self {
        let params = key.params();
        let n = params.ring_degree();
        let digits = n_digits(params, params.moduli().len());
        let (seed, error_seed) = (PublicSeed::generate(rng), ErrorSeed::generate(rng));
        let mut errors = Zeroizing::new(vec![0_i8; digits * n]);
        let mut stream = Zeroizing::new(Vec::new());
        for (digit, errors) in (0..).zip(errors.chunks_exact_mut(n)) {
            error_seed.sample(digit, errors, &mut stream);
        }
        let mut words = vec![0; params.n_key_rings() * digits * 2 * n];
        let rings: Vec<&Ring> = params.key_rings().collect();
        words.par_chunks_exact_mut(digits * 2 * n).zip(rings).enumerate().for_each(
            |(limb, (row, ring))| {
                let source = source(limb);
                let special = special_residue(params, ring);
                let t = params.plaintext_residue(ring);
                let pairs = row.chunks_exact_mut(2 * n).zip(errors.chunks_exact(n));
                for (digit, (pair, errors)) in pairs.enumerate() {
                    let (b, a) = pair.split_at_mut(n);
                    expand(seed, digit, limb, ring, a);
                    lift_errors(errors, t, ring, b);
                    ring.forward(b);
                    ring.multiply_accumulate(b, a, key.negated(limb));
                    if limb < params.moduli().len() && limb / digit_len(params) == digit {
                        add_multiple(ring, special, &source, b);
                    }
                }
            },
        );
        Self { seed, words }
    }

    /// A key whose polynomials `b` are still to be written; those of the seed are expanded.
    pub(crate) fn from_seed(params: &Params, seed: PublicSeed) -> Self {
        let n = params.ring_degree();
        let digits = n_digits(params, params.moduli().len());
        let mut words = vec![0; params.n_key_rings() * digits * 2 * n];
        let rings: Vec<&Ring> = params.key_rings().collect();
        words.par_chunks_exact_mut(digits * 2 * n).zip(rings).enumerate().for_each(
            |(limb, (row, ring))| {
                for (digit, pair) in row.chunks_exact_mut(2 * n).enumerate() {
                    expand(seed, digit, limb, ring, pair.get_mut(n..).unwrap_or_default());
                }
            },
        );
        Self { seed, words }
    }

    pub(crate) fn seed(&self) -> PublicSeed {
        self.seed
    }

    /// The pairs `(b, a)` of all digits in one limb: `2N` words each.
    pub(crate) fn limb(&self, params: &Params, limb: usize) -> &[u64] {
        let len = n_digits(params, params.moduli().len()) * 2 * params.ring_degree();
        self.words.get(limb * len..(limb + 1) * len).unwrap_or_default()
    }

    pub(crate) fn limb_mut(&mut self, params: &Params, limb: usize) -> &mut [u64] {
        let len = n_digits(params, params.moduli().len()) * 2 * params.ring_degree();
        self.words.get_mut(limb * len..(limb + 1) * len).unwrap_or_default()
    }
}

fn expand(seed: PublicSeed, digit: usize, limb: usize, ring: &Ring, out: &mut [u64]) {
    let number = |x: usize| u32::try_from(x).unwrap_or(u32::MAX);
    seed.expand_key(number(digit), number(limb), ring, out);
}

/// The product of the special moduli, modulo one limb.
pub(crate) fn special_residue(params: &Params, ring: &Ring) -> u64 {
    params.special_moduli().iter().fold(1, |product, &p| ring.multiply(product, p % ring.value()))
}

/// `out += factor·x mod q`, without branching on `x`.
fn add_multiple(ring: &Ring, factor: u64, x: &[u64], out: &mut [u64]) {
    let reducer = ring.reducer();
    let factor = reducer.factor(factor);
    vectorize(
        #[inline(always)]
        || {
            for (y, &x) in out.iter_mut().zip(x) {
                *y = reducer.add(*y, reducer.multiply(x.cast_signed(), factor));
            }
        },
    );
}
