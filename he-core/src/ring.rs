//! Residue rings `Z_q[X]/(X^N + 1)`: moduli, primes, the number-theoretic transform.
//!
//! The only file that names `fhe_math` and `tfhe_ntt`. `tfhe-ntt` transforms and multiplies in
//! evaluation form (IFMA on CPUs that have it); `fhe-math` finds primes, reduces, inverts and is the
//! reference the transform is tested against.
//!
//! # Canonical evaluation order
//!
//! `forward` maps coefficients to values at the odd powers of a primitive 2N-th root of unity `ψ`:
//! output `i` is the value at `ψ^(2·bitrev(i) + 1)`, where `bitrev` reverses `log2 N` bits. `ψ` is
//! therefore output 0 of the transform of `X`. It is part of [`crate::Params::digest`], so two
//! builds that order points differently cannot talk to each other by accident.

#![expect(
    clippy::indexing_slicing,
    reason = "slices have the ring degree, asserted by the transform itself"
)]

use crate::simd;

/// One residue ring with its transform.
#[derive(Clone)]
pub(crate) struct Ring {
    modulus: fhe_math::zq::Modulus,
    plan: tfhe_ntt::prime64::Plan,
    psi: u64,
    reducer: simd::Reducer,
    /// `1/N`, which [`Ring::inverse_unscaled`] leaves out.
    scale: simd::Factor,
    /// `2^52`: the weight of the upper halves of lazy sums.
    radix: simd::Factor,
}

impl core::fmt::Debug for Ring {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Ring")
            .field("modulus", &self.value())
            .field("degree", &self.plan.ntt_size())
            .finish_non_exhaustive()
    }
}

impl Ring {
    /// Builds the ring of degree `degree` modulo the prime `q`, or `None` when `q` is not a prime
    /// congruent to 1 modulo `2·degree` or is too large.
    pub(crate) fn new(degree: usize, q: u64) -> Option<Self> {
        if q >> 50 != 0 {
            return None;
        }
        let modulus = fhe_math::zq::Modulus::new(q).ok()?;
        let plan = tfhe_ntt::prime64::Plan::try_new(degree, q)?;
        let mut x = vec![0; degree];
        x[1] = 1;
        plan.fwd(&mut x);
        let psi = x[0];
        let reducer = simd::Reducer::new(q);
        // N is a power of two below q or equal to its residue: invertible modulo an odd prime.
        let scale = reducer.factor(modulus.pow(degree as u64 % q, q - 2));
        let radix = reducer.factor((1 << 52) % q);
        Some(Self { modulus, plan, psi, reducer, scale, radix })
    }

    /// The modulus q.
    pub(crate) fn value(&self) -> u64 {
        *self.modulus
    }

    /// The ring degree N.
    pub(crate) fn degree(&self) -> usize {
        self.plan.ntt_size()
    }

    /// Number of bits of a residue: `ceil(log2 q)`.
    pub(crate) fn bits(&self) -> u32 {
        u64::BITS - self.value().leading_zeros()
    }

    /// The primitive 2N-th root of unity that fixes the evaluation order.
    pub(crate) fn psi(&self) -> u64 {
        self.psi
    }

    /// Constants for vectorised reduction.
    pub(crate) fn reducer(&self) -> simd::Reducer {
        self.reducer
    }

    /// Coefficients to evaluations, in place; input and output below q.
    pub(crate) fn forward(&self, values: &mut [u64]) {
        self.plan.fwd(values);
    }

    /// Evaluations to coefficients, in place and normalised; input and output below q.
    pub(crate) fn inverse(&self, values: &mut [u64]) {
        self.plan.inv(values);
        self.plan.normalize(values);
    }

    /// As [`Ring::inverse`] but N times too large: for callers that multiply by [`Ring::scale`] in
    /// their next pass.
    pub(crate) fn inverse_unscaled(&self, values: &mut [u64]) {
        self.plan.inv(values);
    }

    /// `1/N mod q`.
    pub(crate) fn scale(&self) -> simd::Factor {
        self.scale
    }

    /// As [`Ring::scale`], as a number.
    pub(crate) fn scale_value(&self) -> u64 {
        self.scale.value()
    }

    /// `accumulator += a ∘ b`, point by point; all below q.
    pub(crate) fn multiply_accumulate(&self, accumulator: &mut [u64], a: &[u64], b: &[u64]) {
        self.plan.mul_accumulate(accumulator, a, b);
    }

    /// `out = Σ a ∘ b`, point by point; all below q. At most 64 terms.
    pub(crate) fn sum_products(&self, terms: &[(&[u64], &[u64])], out: &mut [u64]) {
        simd::sum_products(self.reducer, self.radix, terms, out);
    }

    /// `a·b mod q`.
    pub(crate) fn multiply(&self, a: u64, b: u64) -> u64 {
        self.modulus.mul(a, b)
    }

    /// `-a mod q`.
    pub(crate) fn negate(&self, a: u64) -> u64 {
        self.modulus.neg(a)
    }

    /// Inverse of `a` modulo q; `None` for zero.
    pub(crate) fn invert(&self, a: u64) -> Option<u64> {
        // The modulus is a prime: no need to prove it again, as `Modulus::inv` does.
        (a != 0).then(|| self.modulus.pow(a, self.value() - 2))
    }

    /// `x mod q` for any signed integer. Not for secrets: variable time.
    pub(crate) fn residue_vartime(&self, x: i128) -> u64 {
        let q = i128::from(self.value());
        u64::try_from(x.rem_euclid(q)).expect("invariant: a residue fits 64 bits")
    }
}

/// Finds the largest prime below `below` with exactly `bits` bits, congruent to 1 modulo `2N`.
pub(crate) fn largest_prime(degree: usize, bits: u32, below: u64) -> Option<u64> {
    let upper = below.min(1_u64.checked_shl(bits)?);
    fhe_math::zq::primes::generate_prime(bits as usize, 2 * degree as u64, upper)
}

/// As [`largest_prime`], congruent to 1 modulo `step`, a multiple of 2N.
pub(crate) fn largest_prime_congruent(
    degree: usize,
    step: u64,
    bits: u32,
    below: u64,
) -> Option<u64> {
    let upper = below.min(1_u64.checked_shl(bits)?);
    let mut candidate = upper.checked_sub(2)? / step * step + 1;
    while candidate >> (bits - 1) == 1 {
        if is_prime(degree, candidate) {
            return Some(candidate);
        }
        candidate = candidate.checked_sub(step)?;
    }
    None
}

/// Whether `candidate`, congruent to 1 modulo 2N, is a prime.
pub(crate) fn is_prime(degree: usize, candidate: u64) -> bool {
    let bits = u64::BITS - candidate.leading_zeros();
    largest_prime(degree, bits, candidate + 1) == Some(candidate)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]
    use super::*;

    fn check_against_fhe_math(degree: usize, q: u64) {
        let ring = Ring::new(degree, q).unwrap();
        let modulus = fhe_math::zq::Modulus::new(q).unwrap();
        let reference = fhe_math::ntt::NttOperator::new(&modulus, degree).unwrap();
        let a: Vec<u64> = (0..degree as u64).map(|i| (i * i * 7919 + 13) % q).collect();
        let b: Vec<u64> = (0..degree as u64).map(|i| q - 1 - (i * 104_729) % q).collect();
        // The product of two polynomials does not depend on the order of points.
        let (mut a1, mut b1, mut c1) = (a.clone(), b.clone(), vec![0; degree]);
        ring.forward(&mut a1);
        ring.forward(&mut b1);
        ring.multiply_accumulate(&mut c1, &a1, &b1);
        ring.inverse(&mut c1);
        let (mut a2, mut b2) = (a, b);
        reference.forward(&mut a2);
        reference.forward(&mut b2);
        modulus.mul_vec(&mut a2, &b2);
        reference.backward(&mut a2);
        assert_eq!(c1, a2);
    }

    #[test]
    fn products_agree_with_fhe_math() {
        for (degree, bits) in [(1024, 26), (2048, 30), (2048, 47), (4096, 46), (8192, 41)] {
            let q = largest_prime(degree, bits, 1 << bits).unwrap();
            check_against_fhe_math(degree, q);
        }
    }

    #[test]
    fn products_and_transforms_are_exact_for_every_size() {
        let degree = 64;
        for bits in 11..=47 {
            let below = (1_u64 << bits).min(crate::MAX_MODULUS + 1);
            let Some(q) = largest_prime(degree, bits, below) else { continue };
            let ring = Ring::new(degree, q).unwrap();
            let word =
                |i: u64| [0, 1, q - 1, q / 2, q / 2 + 1, i * 0x9E37_79B9 % q][i as usize % 6];
            let a: Vec<u64> = (0..64).map(word).collect();
            let b: Vec<u64> = (0..64).map(|i| word(i / 6)).collect();
            let start: Vec<u64> = (0..64).map(|i| word(63 - i)).collect();
            let mut sum = start.clone();
            ring.multiply_accumulate(&mut sum, &a, &b);
            for (i, &sum) in sum.iter().enumerate() {
                let expected = u128::from(start[i]) + u128::from(a[i]) * u128::from(b[i]);
                assert_eq!(u128::from(sum), expected % u128::from(q), "{bits} bits");
                assert_eq!(ring.invert(a[i]).is_none(), a[i] == 0);
                let unit = ring.invert(a[i]).map(|x| ring.multiply(x, a[i]));
                assert_eq!(unit.unwrap_or(1), 1, "{bits} bits");
            }
            let mut transformed = a.clone();
            ring.forward(&mut transformed);
            assert!(transformed.iter().all(|&x| x < q));
            ring.inverse(&mut transformed);
            assert_eq!(transformed, a, "{bits} bits");
        }
    }

    #[test]
    fn evaluation_order_is_bit_reversed_odd_powers_of_psi() {
        let degree = 64;
        let q = largest_prime(degree, 30, 1 << 30).unwrap();
        let ring = Ring::new(degree, q).unwrap();
        let mut x = vec![0; degree];
        x[1] = 1;
        ring.forward(&mut x);
        for (i, &value) in x.iter().enumerate() {
            let reversed = (i as u64).reverse_bits() >> (64 - 6);
            assert_eq!(value, ring.modulus.pow(ring.psi(), 2 * reversed + 1));
        }
        assert_eq!(ring.modulus.pow(ring.psi(), degree as u64), q - 1);
    }

    #[test]
    fn composite_and_misfit_moduli_are_refused() {
        assert!(Ring::new(1024, 2048 * 3 + 1).is_none());
        assert!(Ring::new(1024, 65539).is_none());
        assert!(Ring::new(1024, 0).is_none());
    }
}
