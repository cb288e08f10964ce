//! Sums and products with plaintexts.

use rayon::prelude::*;
use zeroize::Zeroizing;

use crate::{
    CiphertextBlock, Error, Plaintext, Result,
    correction::{invert_modulo, multiply_modulo},
    ring::Ring,
    scratch::written_zeros,
    simd::{Reducer, vectorize},
};

impl CiphertextBlock {
    /// Adds a plaintext to every ciphertext.
    ///
    /// After a modulus switch it is divided by [`CiphertextBlock::correction`] first, coefficient by
    /// coefficient modulo t, and still adds at most `t/2` to the noise. Cost: one transform per
    /// modulus.
    ///
    /// # Errors
    /// - [`Error::ParamsMismatch`] when the plaintext belongs to other parameters.
    /// - [`Error::PlaintextModulus`] when a correction must be applied and t is not below the first
    ///   modulus.
    pub fn add_plaintext(&mut self, plaintext: &Plaintext) -> Result<()> {
        self.params().check_same(plaintext.params())?;
        let params = self.params().clone();
        let (n, row_len) = (params.ring_degree(), self.row_len());
        let corrected = match self.correction() {
            1 => None,
            correction => Some(divided(plaintext, correction)?),
        };
        let mut message = Zeroizing::new(written_zeros(n));
        for (limb, ring) in params.rings().iter().take(self.n_moduli()).enumerate() {
            match &corrected {
                None => message.copy_from_slice(plaintext.limb(limb)),
                Some(centred) => lift(ring, centred, &mut message),
            }
            ring.forward(&mut message);
            let reducer = ring.reducer();
            for row in self.limb_mut(limb).chunks_exact_mut(row_len) {
                vectorize(
                    #[inline(always)]
                    || {
                        for (x, &m) in row.iter_mut().zip(message.iter()) {
                            *x = reducer.add(*x, m);
                        }
                    },
                );
            }
        }
        Ok(())
    }

    /// Adds plaintexts, one to each ciphertext from number `first` on; in parallel.
    ///
    /// As [`CiphertextBlock::add_plaintext`] for each.
    ///
    /// # Errors
    /// - As [`CiphertextBlock::add_plaintext`].
    /// - [`Error::Index`] when there are more plaintexts than ciphertexts. Nothing was added then.
    pub fn add_plaintexts(&mut self, first: usize, plaintexts: &[Plaintext]) -> Result<()> {
        let end = first.saturating_add(plaintexts.len());
        if end > self.count() {
            return Err(Error::Index { what: "ciphertext", index: end, count: self.count() });
        }
        let params = self.params().clone();
        let n = params.ring_degree();
        let correction = self.correction();
        for plaintext in plaintexts {
            params.check_same(plaintext.params())?;
        }
        let rows = self.rows_mut().into_par_iter().skip(first).zip(plaintexts);
        rows.try_for_each(|(rows, plaintext)| {
            let corrected = match correction {
                1 => None,
                correction => Some(divided(plaintext, correction)?),
            };
            let mut message = Zeroizing::new(written_zeros(n));
            for ((limb, ring), row) in params.rings().iter().enumerate().zip(rows) {
                match &corrected {
                    None => message.copy_from_slice(plaintext.limb(limb)),
                    Some(centred) => lift(ring, centred, &mut message),
                }
                ring.forward(&mut message);
                let (reducer, message): (_, &[u64]) = (ring.reducer(), &message);
                vectorize(
                    #[inline(always)]
                    || {
                        for (x, &m) in row.iter_mut().zip(message) {
                            *x = reducer.add(*x, m);
                        }
                    },
                );
            }
            Ok(())
        })
    }

    /// Multiplies every ciphertext by a plaintext: slots by slots. In parallel over ciphertexts.
    ///
    /// Cost: one transform per modulus, and a product per polynomial. Noise:
    /// [`crate::noise::Phase::plaintext_product`].
    ///
    /// # Errors
    /// [`Error::ParamsMismatch`] when the plaintext belongs to other parameters.
    pub fn multiply_plaintext(&mut self, plaintext: &Plaintext) -> Result<()> {
        self.params().check_same(plaintext.params())?;
        let params = self.params().clone();
        let n = params.ring_degree();
        let mut factor = Zeroizing::new(written_zeros(n));
        for (limb, ring) in params.rings().iter().take(self.n_moduli()).enumerate() {
            factor.copy_from_slice(plaintext.limb(limb));
            ring.forward(&mut factor);
            let factor: &[u64] = &factor;
            self.limb_mut(limb).par_chunks_exact_mut(n).for_each_init(
                || vec![0; n],
                |product, polynomial| {
                    ring.sum_products(&[(polynomial, factor)], product);
                    polynomial.copy_from_slice(product);
                },
            );
        }
        Ok(())
    }
}

/// Centred coefficients of `plaintext/correction mod t`, in two's complement, without branching on
/// them.
fn divided(plaintext: &Plaintext, correction: u128) -> Result<Zeroizing<Vec<u64>>> {
    let params = plaintext.params();
    let t = params.plaintext_modulus();
    let first = params.rings().first().filter(|ring| t < u128::from(ring.value()));
    let (Some(first), Ok(modulus)) = (first, u64::try_from(t)) else {
        return Err(Error::PlaintextModulus {
            modulus: t,
            requirement: "adding a plaintext after a switch needs one below the first modulus",
        });
    };
    // Coefficients are centred modulo t, so the first modulus determines them.
    let (source, target) = (first.reducer(), Reducer::new(modulus));
    let inverse = multiply_modulo(invert_modulo(correction, t), 1, t);
    let factor = target.factor(u64::try_from(inverse).unwrap_or_default());
    let mut out = Zeroizing::new(written_zeros(params.ring_degree()));
    vectorize(
        #[inline(always)]
        || {
            for (x, &word) in out.iter_mut().zip(plaintext.limb(0)) {
                let divided = target.multiply(source.centre(word), factor);
                *x = target.centre(divided).cast_unsigned();
            }
        },
    );
    Ok(out)
}

/// Residues of centred coefficients.
fn lift(ring: &Ring, centred: &[u64], out: &mut [u64]) {
    let reducer = ring.reducer();
    vectorize(
        #[inline(always)]
        || {
            for (x, &c) in out.iter_mut().zip(centred) {
                *x = reducer.reduce(c.cast_signed());
            }
        },
    );
}
