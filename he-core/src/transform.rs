//! The number-theoretic transform of one limb: for measuring it, and for looking into ciphertexts.

use crate::{Error, Params, Result, ring::Ring};

impl Params {
    /// Transforms the coefficients of one polynomial modulo `moduli()[limb]` into evaluations, in
    /// place.
    ///
    /// `words` holds N residues. Afterwards word `i` is the polynomial at evaluation point `i` of the
    /// canonical order, which every block and the wire format use. Cost: `N/2·log2 N` butterflies.
    ///
    /// # Errors
    /// - [`Error::Index`] when there is no such limb.
    /// - [`Error::Length`] unless there are exactly N words.
    /// - [`Error::Value`] when a word is not below the modulus.
    pub fn forward_transform(&self, limb: usize, words: &mut [u64]) -> Result<()> {
        self.checked_ring(limb, words)?.forward(words);
        Ok(())
    }

    /// The inverse of [`Params::forward_transform`], normalised.
    ///
    /// # Errors
    /// As [`Params::forward_transform`].
    pub fn inverse_transform(&self, limb: usize, words: &mut [u64]) -> Result<()> {
        self.checked_ring(limb, words)?.inverse(words);
        Ok(())
    }

    fn checked_ring(&self, limb: usize, words: &[u64]) -> Result<&Ring> {
        let count = self.moduli().len();
        let ring =
            self.rings().get(limb).ok_or(Error::Index { what: "limb", index: limb, count })?;
        let (expected, actual) = (self.ring_degree(), words.len());
        if expected != actual {
            return Err(Error::Length { what: "words of a polynomial", expected, actual });
        }
        // One pass without branches; the offender is looked up only if there is one.
        let largest = words.iter().fold(0, |largest, &word| word.max(largest));
        if largest >= ring.value() {
            let max = i128::from(ring.value()) - 1;
            return Err(Error::Value { what: "residue", value: largest.into(), min: 0, max });
        }
        Ok(ring)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::ParamsSpec;

    fn toy() -> Params {
        // INSECURE toy parameters
        Params::insecure_new(ParamsSpec::with_bits(32, 2, &[30, 47]).unwrap()).unwrap()
    }

    /// `X` evaluated at the points of the order gives the points; so every other polynomial must be
    /// the same combination of their powers.
    #[test]
    fn words_are_the_values_at_the_canonical_points() {
        let params = toy();
        for (limb, &q) in params.moduli().iter().enumerate() {
            let mut points = vec![0; 32];
            points[1] = 1;
            params.forward_transform(limb, &mut points).unwrap();
            let coefficients: Vec<u64> = (0..32).map(|i| (q - 1) / (i + 1)).collect();
            let mut words = coefficients.clone();
            params.forward_transform(limb, &mut words).unwrap();
            for (&x, &word) in points.iter().zip(&words) {
                let horner =
                    |sum: u128, &c: &u64| (sum * u128::from(x) + u128::from(c)) % u128::from(q);
                assert_eq!(u128::from(word), coefficients.iter().rev().fold(0, horner));
            }
            params.inverse_transform(limb, &mut words).unwrap();
            assert_eq!(words, coefficients);
        }
    }

    #[test]
    fn misfits_are_refused() {
        let params = toy();
        let q = params.moduli()[0];
        assert!(matches!(
            params.forward_transform(2, &mut [0; 32]),
            Err(Error::Index { what: "limb", index: 2, count: 2 })
        ));
        assert!(matches!(
            params.inverse_transform(0, &mut [0; 31]),
            Err(Error::Length { expected: 32, actual: 31, .. })
        ));
        let mut words = [q - 1; 32];
        params.forward_transform(0, &mut words).unwrap();
        words[7] = q;
        assert!(matches!(params.forward_transform(0, &mut words), Err(Error::Value { .. })));
    }
}
