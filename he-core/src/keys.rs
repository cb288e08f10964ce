//! Keys: the secret one, and in the files of this folder the public ones made from it.

use rand_core::CryptoRng;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::{Params, ring::Ring, sampling, scratch::written_zeros, simd::vectorize};

mod bytes;
mod evaluation;
mod public;
mod rerandomize;
pub(crate) mod switching;

pub use evaluation::{EvaluationKeys, KeySet};
pub(crate) use evaluation::{check_special, slot_sum_steps};
pub use public::PublicKey;
pub(crate) use switching::SwitchingKey;

/// A uniform ternary secret in evaluation form, zeroized on drop.
///
/// # Security
/// Never printed, never serialised, compared in constant time only.
pub struct SecretKey {
    params: Params,
    /// `s`, then `-s`: what decryption and encryption multiply by, each `[limb][N]` over the
    /// ciphertext moduli and the special ones.
    secret: Zeroizing<Vec<u64>>,
    negated: Zeroizing<Vec<u64>>,
}

impl SecretKey {
    /// Draws a fresh key. Cost: one transform per modulus, and about as much for the ternary draws.
    pub fn generate(params: &Params, rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        let n = params.ring_degree();
        let coefficients = sampling::sample_ternary(n, rng);
        let mut secret = Zeroizing::new(written_zeros(n * params.n_key_rings()));
        let mut negated = Zeroizing::new(written_zeros(n * params.n_key_rings()));
        let limbs = secret.chunks_exact_mut(n).zip(negated.chunks_exact_mut(n));
        for (ring, (secret, negated)) in params.key_rings().zip(limbs) {
            lift_ternary(&coefficients, ring, secret);
            ring.forward(secret);
            negate(ring, secret, negated);
        }
        Self { params: params.clone(), secret, negated }
    }

    /// The parameters the key belongs to.
    #[must_use]
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// `-s` modulo one limb.
    pub(crate) fn negated(&self, limb: usize) -> &[u64] {
        limb_of(&self.negated, limb, self.params.ring_degree())
    }

    /// `s` modulo one limb.
    pub(crate) fn secret(&self, limb: usize) -> &[u64] {
        limb_of(&self.secret, limb, self.params.ring_degree())
    }
}

impl PartialEq for SecretKey {
    fn eq(&self, other: &Self) -> bool {
        let same = self
            .negated
            .iter()
            .zip(other.negated.iter())
            .fold(subtle::Choice::from(1), |same, (a, b)| same & a.ct_eq(b));
        self.params == other.params && bool::from(same)
    }
}

impl core::fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("SecretKey").field("params", &self.params).finish_non_exhaustive()
    }
}

fn limb_of(words: &[u64], limb: usize, n: usize) -> &[u64] {
    words.get(limb * n..(limb + 1) * n).unwrap_or_default()
}

/// Residues of a ternary polynomial, without branching on it.
pub(crate) fn lift_ternary(coefficients: &[i8], ring: &Ring, out: &mut [u64]) {
    let q = ring.value().cast_signed();
    vectorize(
        #[inline(always)]
        || {
            for (x, &c) in out.iter_mut().zip(coefficients) {
                let c = i64::from(c);
                *x = (c + ((c >> 63) & q)).cast_unsigned();
            }
        },
    );
}

/// `out = -x mod q`, without branching on it.
fn negate(ring: &Ring, x: &[u64], out: &mut [u64]) {
    let q = ring.value();
    vectorize(
        #[inline(always)]
        || {
            for (y, &x) in out.iter_mut().zip(x) {
                // q itself becomes zero; anything smaller wraps to a larger number.
                let negated = q - x;
                *y = negated.min(negated.wrapping_sub(q));
            }
        },
    );
}

/// Residues of `factor·errors`, without branching on them.
pub(crate) fn lift_errors(errors: &[i8], factor: u64, ring: &Ring, out: &mut [u64]) {
    let reducer = ring.reducer();
    // Below 2^47·21, which every supported prime reduces in one step.
    let factor = factor.cast_signed();
    vectorize(
        #[inline(always)]
        || {
            for (x, &e) in out.iter_mut().zip(errors) {
                *x = reducer.reduce(factor * i64::from(e));
            }
        },
    );
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use rand::SeedableRng;
    use zeroize::{Zeroize, ZeroizeOnDrop};

    use super::*;
    use crate::ParamsSpec;

    fn wiped_on_drop<T: ZeroizeOnDrop>(_: &T) {}

    /// Every place that keeps the secret is wiped when it is dropped, and can be wiped before.
    #[test]
    fn secrets_are_wiped() {
        let spec = ParamsSpec::with_bits(32, 12_289, &[41, 41]).unwrap();
        let special = spec.further_primes(&[47]).unwrap();
        let params = Params::insecure_with_special_moduli(spec, special).unwrap();
        let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(1);
        let mut key = SecretKey::generate(&params, &mut rng);
        wiped_on_drop(&key.secret);
        wiped_on_drop(&key.negated);
        wiped_on_drop(&sampling::sample_ternary(32, &mut rng));
        wiped_on_drop(&sampling::ErrorSeed::generate(&mut rng));
        assert_eq!(key.secret.len(), 3 * 32);
        key.secret.zeroize();
        assert!(key.secret.is_empty());
    }
}
