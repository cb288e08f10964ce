//! The secret key.

use rand_core::CryptoRng;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::{Params, ring::Ring, sampling};

/// Highest degree whose powers of the secret are precomputed.
const PRECOMPUTED_POWERS: usize = 2;

/// A uniform ternary secret in evaluation form, zeroized on drop.
///
/// # Security
/// Never printed, never serialised, compared in constant time only.
pub struct SecretKey {
    params: Params,
    /// `-s`, then `s`, `s²`, each `[limb][N]`.
    negated: Zeroizing<Vec<u64>>,
    powers: Vec<Zeroizing<Vec<u64>>>,
}

impl SecretKey {
    /// Draws a fresh key. Cost: about as much as encrypting two ciphertexts.
    pub fn generate(params: &Params, rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        let coefficients = sampling::sample_ternary(params.ring_degree(), rng);
        let n = params.ring_degree();
        let mut first = Zeroizing::new(Vec::with_capacity(n * params.moduli().len()));
        let mut negated = Zeroizing::new(Vec::with_capacity(n * params.moduli().len()));
        for ring in params.rings() {
            let mut s = Zeroizing::new(lift_ternary(&coefficients, ring));
            ring.forward(&mut s);
            negated.extend(s.iter().map(|&x| ring.negate(x)));
            first.extend_from_slice(&s);
        }
        let mut powers = vec![first];
        for _ in 1..PRECOMPUTED_POWERS {
            let next = multiply_last(params, &powers);
            powers.push(next);
        }
        Self { params: params.clone(), negated, powers }
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

    /// `s^power` modulo one limb; powers beyond the precomputed ones come from [`Self::extend`].
    pub(crate) fn power(&self, power: usize, limb: usize) -> &[u64] {
        let powers = self.powers.get(power - 1).map_or(&[][..], |p| p.as_slice());
        limb_of(powers, limb, self.params.ring_degree())
    }

    /// A copy with powers of the secret up to `degree`.
    pub(crate) fn extend(&self, degree: usize) -> Vec<Zeroizing<Vec<u64>>> {
        let mut powers = self.powers.clone();
        while powers.len() < degree {
            let next = multiply_last(&self.params, &powers);
            powers.push(next);
        }
        powers
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

impl Drop for SecretKey {
    fn drop(&mut self) {
        self.negated.zeroize();
        self.powers.iter_mut().for_each(Zeroize::zeroize);
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
fn lift_ternary(coefficients: &[i8], ring: &Ring) -> Vec<u64> {
    let q = ring.value();
    coefficients
        .iter()
        .map(|&c| {
            let c = i64::from(c);
            (c + ((c >> 63) & q.cast_signed())).cast_unsigned()
        })
        .collect()
}

fn multiply_last(params: &Params, powers: &[Zeroizing<Vec<u64>>]) -> Zeroizing<Vec<u64>> {
    let n = params.ring_degree();
    let mut next = Zeroizing::new(vec![0; n * params.moduli().len()]);
    if let (Some(first), Some(last)) = (powers.first(), powers.last()) {
        for (limb, (ring, out)) in params.rings().iter().zip(next.chunks_exact_mut(n)).enumerate() {
            ring.multiply_accumulate(out, limb_of(first, limb, n), limb_of(last, limb, n));
        }
    }
    next
}
