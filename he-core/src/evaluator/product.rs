//! Products of whole blocks, whose degrees add: no evaluation key, growing ciphertexts.

use rayon::prelude::*;

use super::Quadratic;
use crate::{
    CiphertextBlock, Error, Result,
    correction::{divide_centred, multiply_modulo},
    ring::Ring,
    simd::vectorize,
};

/// Largest degree of a ciphertext in the secret key.
pub(crate) const MAX_DEGREE: usize = 15;

impl CiphertextBlock {
    /// Multiplies two blocks ciphertext by ciphertext: degrees `d` and `e` in, `d + e` out; slots
    /// are multiplied.
    ///
    /// Needs no evaluation key: `out_k = Σ_{i+j=k} a_i·b_j`. The blocks may differ in degree and in
    /// [`CiphertextBlock::correction`]; corrections multiply. In parallel over ciphertexts. Cost:
    /// `(d + 1)(e + 1)` products per modulus. Noise: [`crate::noise::Phase::product`].
    ///
    /// # Errors
    /// - [`Error::ParamsMismatch`] when the blocks belong to other parameters.
    /// - [`Error::Form`] when the numbers of moduli differ or the degrees add up to more than 15.
    /// - [`Error::Length`] when the numbers of ciphertexts differ.
    pub fn multiply(&self, other: &Self) -> Result<Self> {
        self.check_factors(other)?;
        let degree = self.product_degree(other.degree())?;
        let t = self.params().plaintext_modulus();
        let correction = multiply_modulo(self.correction(), other.correction(), t);
        let n = self.params().ring_degree();
        let mut out = self.like(self.count(), degree, correction);
        let (a_len, b_len, out_len) = (self.row_len(), other.row_len(), out.row_len());
        for (limb, ring) in self.rings().iter().enumerate() {
            out.limb_mut(limb)
                .par_chunks_mut(out_len)
                .zip(self.limb(limb).par_chunks(a_len).zip(other.limb(limb).par_chunks(b_len)))
                .for_each(|(row, (a, b))| product_row(ring, n, a, b, row));
        }
        Ok(out)
    }

    /// Checks that both factors have the same shape but for their degrees.
    pub(super) fn check_factors(&self, other: &Self) -> Result<()> {
        self.params().check_same(other.params())?;
        if self.n_moduli() != other.n_moduli() {
            return Err(Error::Form {
                operation: "a product",
                requirement: "one number of moduli: switch the block with more of them down",
                degree: other.degree(),
                n_moduli: other.n_moduli(),
            });
        }
        if self.count() != other.count() {
            return Err(Error::Length {
                what: "ciphertexts to multiply",
                expected: self.count(),
                actual: other.count(),
            });
        }
        Ok(())
    }

    /// The degree of a product with a factor of degree `other`.
    pub(super) fn product_degree(&self, other: usize) -> Result<usize> {
        let degree = self.degree() + other;
        if degree <= MAX_DEGREE {
            return Ok(degree);
        }
        Err(Error::Form {
            operation: "a product",
            requirement: "degrees that add up to at most 15",
            degree: self.degree(),
            n_moduli: self.n_moduli(),
        })
    }
}

/// `out_k = Σ_{i+j=k} a_i·b_j` for as many polynomials of `N` words as `out` holds, every word written.
pub(super) fn product_row(ring: &Ring, n: usize, a: &[u64], b: &[u64], out: &mut [u64]) {
    let mut terms: Vec<(&[u64], &[u64])> = Vec::with_capacity(MAX_DEGREE + 1);
    for (k, out) in out.chunks_exact_mut(n).enumerate() {
        terms.clear();
        for (i, a) in a.chunks_exact(n).enumerate().take(k + 1) {
            if let Some(b) = b.get((k - i) * n..(k - i + 1) * n) {
                terms.push((a, b));
            }
        }
        ring.sum_products(&terms, out);
    }
}

/// The square of one ciphertext: as [`product_row`] with itself, about half the products.
pub(super) fn square_row(ring: &Ring, n: usize, a: &[u64], out: &mut [u64]) {
    let reducer = ring.reducer();
    let mut terms: Vec<(&[u64], &[u64])> = Vec::with_capacity(MAX_DEGREE + 1);
    for (k, out) in out.chunks_exact_mut(n).enumerate() {
        terms.clear();
        for (i, low) in a.chunks_exact(n).enumerate().take(k.div_ceil(2)) {
            if let Some(high) = a.get((k - i) * n..(k - i + 1) * n) {
                terms.push((low, high));
            }
        }
        ring.sum_products(&terms, out);
        vectorize(
            #[inline(always)]
            || {
                for x in out.iter_mut() {
                    *x = reducer.add(*x, *x);
                }
            },
        );
        if k.is_multiple_of(2) {
            let middle = a.get(k / 2 * n..(k / 2 + 1) * n).unwrap_or_default();
            ring.multiply_accumulate(out, middle, middle);
        }
    }
}

/// Coefficients of a quadratic on messages, when plaintexts are messages times `correction`.
///
/// `a·(m·f)² + b·(m·f) + c = f²·(a·m² + (b/f)·m + c/f²)`: the result has correction `f²`.
pub(super) fn on_messages(quadratic: &Quadratic, correction: u128, t: u128) -> [i128; 3] {
    let Quadratic { a, b, c } = *quadratic;
    let square = multiply_modulo(correction, correction, t);
    [a.into(), divide_centred(b, correction, t), divide_centred(c, square, t)]
}
