//! Additive arithmetic of whole blocks.

use crate::{
    CiphertextBlock, Error, Result,
    correction::{Balance, multiply_modulo},
    evaluator::MAX_DEGREE,
    ring::Ring,
    simd::{Reducer, vectorize},
};

impl CiphertextBlock {
    /// Subtracts another block ciphertext by ciphertext.
    ///
    /// # Errors
    /// [`Error::ParamsMismatch`], [`Error::Form`] or [`Error::Length`] when the blocks differ.
    pub fn subtract_assign(&mut self, other: &Self) -> Result<()> {
        self.check_same_form(other, "subtraction")?;
        if self.count() != other.count() {
            return Err(Error::Length {
                what: "ciphertexts to subtract",
                expected: self.count(),
                actual: other.count(),
            });
        }
        self.for_each_limb(|limb, ring, words| {
            subtract_words(ring.reducer(), words, other.limb(limb));
        });
        Ok(())
    }

    /// Negates every ciphertext.
    pub fn negate(&mut self) {
        self.for_each_limb(|_, ring, words| negate_words(ring, words));
    }

    /// Multiplies every slot of every ciphertext by one integer. Noise: times its magnitude.
    pub fn scale(&mut self, factor: i64) {
        self.multiply_words(factor.into());
    }

    /// The same ciphertexts with polynomials of zeros up to `degree`, so that blocks of different
    /// degrees can be added.
    ///
    /// # Errors
    /// [`Error::Form`] when `degree` is below the present one or above 15.
    pub fn with_degree(&self, degree: usize) -> Result<Self> {
        if !(self.degree()..=MAX_DEGREE).contains(&degree) {
            return Err(Error::Form {
                operation: "a higher degree",
                requirement: "a target between the present degree and 15",
                degree: self.degree(),
                n_moduli: self.n_moduli(),
            });
        }
        let mut out = self.like(self.count(), degree, self.correction());
        let (from, to) = (self.row_len(), out.row_len());
        for limb in 0..self.n_moduli() {
            let rows = out.limb_mut(limb).chunks_exact_mut(to);
            for (row, source) in rows.zip(self.limb(limb).chunks_exact(from)) {
                row.get_mut(..from).unwrap_or_default().copy_from_slice(source);
            }
        }
        Ok(out)
    }

    /// Brings two blocks of one level to one degree and one correction, so that they can be added or
    /// subtracted.
    ///
    /// Corrections are brought together by multiplying both blocks by small integers (about
    /// `sqrt(t)` at most, which multiplies the noise); blocks of equal correction are left alone.
    ///
    /// # Errors
    /// [`Error::ParamsMismatch`], or [`Error::Form`] when the numbers of moduli differ.
    pub fn aligned(&self, other: &Self) -> Result<(Self, Self)> {
        self.params().check_same(other.params())?;
        if self.n_moduli() != other.n_moduli() {
            return Err(Error::Form {
                operation: "alignment",
                requirement: "one number of moduli: switch the block with more of them down",
                degree: other.degree(),
                n_moduli: other.n_moduli(),
            });
        }
        let degree = self.degree().max(other.degree());
        let (mut a, mut b) = (self.with_degree(degree)?, other.with_degree(degree)?);
        let t = self.params().plaintext_modulus();
        let balance = Balance::new(a.correction(), b.correction(), t);
        a.rescale(balance.first, balance.correction);
        b.rescale(balance.second, balance.correction);
        Ok((a, b))
    }

    /// Multiplies messages by an integer that the new correction undoes.
    fn rescale(&mut self, factor: i128, correction: u128) {
        debug_assert_eq!(
            multiply_modulo(
                correction,
                factor.rem_euclid(self.params().plaintext_modulus().cast_signed()).cast_unsigned(),
                self.params().plaintext_modulus()
            ),
            self.correction() % self.params().plaintext_modulus()
        );
        if factor != 1 {
            self.multiply_words(factor);
        }
        self.set_correction(correction);
    }

    fn multiply_words(&mut self, factor: i128) {
        self.for_each_limb(|_, ring, words| {
            let (reducer, factor) = (ring.reducer(), ring.residue_vartime(factor));
            let factor = reducer.factor(factor);
            vectorize(
                #[inline(always)]
                || {
                    for x in words.iter_mut() {
                        *x = reducer.multiply(x.cast_signed(), factor);
                    }
                },
            );
        });
    }

    fn for_each_limb(&mut self, mut work: impl FnMut(usize, &Ring, &mut [u64])) {
        let params = self.params().clone();
        for (limb, ring) in params.rings().iter().take(self.n_moduli()).enumerate() {
            work(limb, ring, self.limb_mut(limb));
        }
    }
}

/// `x -= y mod q`.
pub(crate) fn subtract_words(reducer: Reducer, x: &mut [u64], y: &[u64]) {
    let q = reducer.modulus();
    vectorize(
        #[inline(always)]
        || {
            for (x, &y) in x.iter_mut().zip(y) {
                let difference = x.wrapping_sub(y);
                *x = difference.min(difference.wrapping_add(q));
            }
        },
    );
}

/// `x = -x mod q`, without branching on it.
pub(crate) fn negate_words(ring: &Ring, x: &mut [u64]) {
    let q = ring.value();
    vectorize(
        #[inline(always)]
        || {
            for x in x.iter_mut() {
                let negated = q - *x;
                *x = negated.min(negated.wrapping_sub(q));
            }
        },
    );
}
