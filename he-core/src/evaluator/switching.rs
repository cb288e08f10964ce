//! Operations that need evaluation keys: relinearisation, rotations, sums over slots.

use rayon::prelude::*;

use super::product::product_row;
use crate::{
    CiphertextBlock, Error, EvaluationKeys, Result,
    correction::multiply_modulo,
    galois::{permute, rotation_element, swap_element},
    key_switching::{Scratch, switch_polynomial},
    keys::slot_sum_steps,
};

impl CiphertextBlock {
    /// Brings products of degree 2 back to degree 1, in parallel over ciphertexts.
    ///
    /// Cost: one key switch per ciphertext (for `l` moduli and one special one, `l² + 3l + 2`
    /// transforms). Noise: [`crate::noise::Phase::key_switched`].
    ///
    /// # Errors
    /// - [`Error::Form`] unless the degree is 2.
    /// - [`Error::MissingKey`] without a relinearisation key.
    /// - [`Error::ParamsMismatch`] when the keys belong to other parameters.
    pub fn relinearize(&self, keys: &EvaluationKeys) -> Result<Self> {
        self.params().check_same(keys.params())?;
        self.check_degree(2, "relinearisation", "degree 2")?;
        let key = keys.relinearization()?;
        let n = self.params().ring_degree();
        let mut out = self.like(self.count(), 1, self.correction());
        for_each_ciphertext(&mut out, |index, mut rows| {
            for (limb, row) in rows.iter_mut().enumerate() {
                row.copy_from_slice(self.row(limb, index).get(..2 * n).unwrap_or_default());
            }
            let polynomial = |limb| self.row(limb, index).get(2 * n..).unwrap_or_default();
            let input: Vec<&[u64]> = (0..self.n_moduli()).map(polynomial).collect();
            keys.scratch.with(Scratch::default, |scratch| {
                switch_polynomial(self.params(), key, &input, &mut rows, scratch);
            });
        });
        Ok(out)
    }

    /// A block without ciphertexts, of the form that [`CiphertextBlock::relinearize`] gives: so that
    /// whoever awaits results knows their form without having the keys.
    ///
    /// # Errors
    /// [`Error::Form`] unless the degree is 2.
    pub fn relinearized_form(&self) -> Result<Self> {
        self.check_degree(2, "relinearisation", "degree 2")?;
        Ok(self.like(0, 1, self.correction()))
    }

    /// Multiplies two blocks of degree 1 ciphertext by ciphertext and relinearises: degree 1 out.
    ///
    /// The same ciphertexts as [`CiphertextBlock::multiply`] and [`CiphertextBlock::relinearize`]. In
    /// parallel over ciphertexts.
    ///
    /// # Errors
    /// As these two.
    pub fn multiply_relinearized(&self, other: &Self, keys: &EvaluationKeys) -> Result<Self> {
        self.params().check_same(keys.params())?;
        let key = keys.relinearization()?;
        self.check_factors(other)?;
        self.check_degree(1, "a relinearised product", "degree 1")?;
        other.check_degree(1, "a relinearised product", "degree 1")?;
        let (n, n_moduli) = (self.params().ring_degree(), self.n_moduli());
        let t = self.params().plaintext_modulus();
        let correction = multiply_modulo(self.correction(), other.correction(), t);
        let mut out = self.like(self.count(), 1, correction);
        for_each_ciphertext(&mut out, |index, mut rows| {
            keys.products.with(Vec::new, |square: &mut Vec<u64>| {
                square.resize(n_moduli * n, 0);
                let places = rows.iter_mut().zip(square.chunks_exact_mut(n));
                for ((limb, ring), (row, square)) in self.rings().iter().enumerate().zip(places) {
                    let (a, b) = (self.row(limb, index), other.row(limb, index));
                    product_row(ring, n, a, b, row);
                    let (a, b) = (a.get(n..).unwrap_or_default(), b.get(n..).unwrap_or_default());
                    ring.sum_products(&[(a, b)], square);
                }
                let input: Vec<&[u64]> = square.chunks_exact(n).collect();
                keys.scratch.with(Scratch::default, |scratch| {
                    switch_polynomial(self.params(), key, &input, &mut rows, scratch);
                });
            });
        });
        Ok(out)
    }

    /// Rotates both rows of slots by `steps` columns to the left (negative: to the right), in the
    /// order of [`crate::RowEncoder`]. By zero steps: a copy.
    ///
    /// In parallel over ciphertexts. Cost and noise as [`CiphertextBlock::relinearize`].
    ///
    /// # Errors
    /// - [`Error::Form`] unless the degree is 1.
    /// - [`Error::MissingKey`] without the key of this rotation: it names it.
    /// - [`Error::ParamsMismatch`] when the keys belong to other parameters.
    pub fn rotate_rows(&self, steps: i64, keys: &EvaluationKeys) -> Result<Self> {
        self.apply_automorphism(rotation_element(self.params().ring_degree(), steps), keys)
    }

    /// Swaps the two rows of slots.
    ///
    /// # Errors
    /// As [`CiphertextBlock::rotate_rows`].
    pub fn swap_rows(&self, keys: &EvaluationKeys) -> Result<Self> {
        self.apply_automorphism(swap_element(self.params().ring_degree()), keys)
    }

    /// Puts the sum over all slots into every slot. Cost: `log2 N` rotations.
    ///
    /// # Errors
    /// As [`CiphertextBlock::rotate_rows`], for the keys of [`crate::KeySet::with_slot_sum`].
    pub fn sum_slots(&self, keys: &EvaluationKeys) -> Result<Self> {
        let mut sum = self.clone();
        for steps in slot_sum_steps(self.params().ring_degree()) {
            let rotated = sum.rotate_rows(steps, keys)?;
            sum.add_assign(&rotated)?;
        }
        let swapped = sum.swap_rows(keys)?;
        sum.add_assign(&swapped)?;
        Ok(sum)
    }

    /// `c(X) → c(X^g)`, back under the same key.
    fn apply_automorphism(&self, g: u32, keys: &EvaluationKeys) -> Result<Self> {
        self.params().check_same(keys.params())?;
        self.check_degree(1, "a rotation", "degree 1: relinearise products first")?;
        if g == 1 {
            return Ok(self.clone());
        }
        let galois = keys.galois(g)?;
        let (n, n_moduli) = (self.params().ring_degree(), self.n_moduli());
        let mut out = self.like(self.count(), 1, self.correction());
        for_each_ciphertext(&mut out, |index, mut rows| {
            keys.products.with(Vec::new, |rotated: &mut Vec<u64>| {
                rotated.resize(n_moduli * n, 0);
                let places = rows.iter_mut().zip(rotated.chunks_exact_mut(n));
                for (limb, (row, rotated)) in places.enumerate() {
                    let (c0, c1) = self.row(limb, index).split_at(n);
                    permute(&galois.permutation, c0, row.get_mut(..n).unwrap_or_default());
                    permute(&galois.permutation, c1, rotated);
                }
                let input: Vec<&[u64]> = rotated.chunks_exact(n).collect();
                keys.scratch.with(Scratch::default, |scratch| {
                    switch_polynomial(self.params(), &galois.key, &input, &mut rows, scratch);
                });
            });
        });
        Ok(out)
    }

    fn check_degree(
        &self,
        degree: usize,
        operation: &'static str,
        requirement: &'static str,
    ) -> Result<()> {
        if self.degree() == degree {
            return Ok(());
        }
        let (degree, n_moduli) = (self.degree(), self.n_moduli());
        Err(Error::Form { operation, requirement, degree, n_moduli })
    }
}

/// Works on every ciphertext, given its number and its words in every limb: in parallel, but for a
/// single one on the calling thread, since waking another costs more than it saves.
fn for_each_ciphertext(
    block: &mut CiphertextBlock,
    work: impl Fn(usize, Vec<&mut [u64]>) + Sync + Send,
) {
    let rows = block.rows_mut();
    if rows.len() <= 1 {
        rows.into_iter().enumerate().for_each(|(index, rows)| work(index, rows));
    } else {
        rows.into_par_iter().enumerate().for_each(|(index, rows)| work(index, rows));
    }
}
