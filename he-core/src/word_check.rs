//! Random linear check of every word of a linear reply, before anything is decrypted.
//!
//! A linear segment is `Y = W·X + b` over `Z_q`, column by column. With a secret uniform row `r`, the
//! client accumulates `(rᵀW)·X` while it encrypts and `rᵀY` while the reply arrives, and compares
//! `rᵀY = (rᵀW)·X + rᵀb` in every column (Freivalds 1977). A reply that differs in any word of a
//! column passes in that column with probability at most `1/q` per row of `r`, whatever the server
//! does: the check uses no key and no assumption.

use rand_core::CryptoRng;
use rayon::prelude::*;

use zeroize::ZeroizeOnDrop;

use crate::{
    CiphertextBlock, Error, LinearMap, Params, Result, linear::Unit, sampling, simd::vectorize,
};

/// Columns that one task accumulates: three 64-bit sums per column stay in level-1 cache.
const COLUMNS: usize = 512;
/// Products added to a 64-bit sum between reductions: `2·(2^24)²·2^13 = 2^62`, and below `2^50·q`
/// for every q since the products are also below `q²`.
const MAX_TERMS: usize = 1 << 13;

/// The secret state of one check: random rows, their combination with the map, running sums.
///
/// Feed every request ciphertext ([`WordCheck::absorb_input`]) and every reply ciphertext
/// ([`WordCheck::absorb_reply`]) once, in any order of blocks, then [`WordCheck::finish`].
///
/// # Security
/// One instance serves one block: reusing `r` would let a server learn from earlier verdicts.
/// Handing a prepared instance to somebody who must not know the model reveals one random
/// combination of its rows.
pub struct WordCheck {
    params: Params,
    rows: Vec<Row>,
    unit: Unit,
    inputs_seen: Vec<bool>,
    replies_seen: Vec<bool>,
}

/// One random row modulo one prime.
#[derive(ZeroizeOnDrop)]
struct Row {
    #[zeroize(skip)]
    limb: usize,
    /// `rᵀW`, one residue per input.
    inputs: Vec<u64>,
    /// `-r`, one residue per output.
    outputs: Vec<u64>,
    /// `rᵀb`.
    constant: u64,
    /// `Σ` so far, reduced: `(rᵀW)·X - rᵀY` per column of `2N` words.
    sums: Vec<u64>,
}

impl WordCheck {
    /// Draws `n_rows` secret rows per modulus for one block.
    ///
    /// Cost: one pass over the weights per row.
    ///
    /// # Errors
    /// [`Error::Length`] when `n_rows` is zero.
    pub fn new(
        map: &LinearMap,
        params: &Params,
        n_rows: usize,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<Self> {
        if n_rows == 0 {
            return Err(Error::Length { what: "check rows", expected: 1, actual: 0 });
        }
        let mut rows = Vec::with_capacity(n_rows * params.moduli().len());
        for (limb, ring) in params.rings().iter().enumerate() {
            for _ in 0..n_rows {
                let r = sampling::sample_residues(ring, map.n_outputs(), rng);
                let (inputs, constant) = map.combine_rows(&r, ring);
                let outputs = r.iter().map(|&x| ring.negate(x)).collect();
                let sums = vec![0; 2 * params.ring_degree()];
                rows.push(Row { limb, inputs, outputs, constant, sums });
            }
        }
        Ok(Self {
            params: params.clone(),
            rows,
            unit: map.unit().clone(),
            inputs_seen: vec![false; map.n_inputs()],
            replies_seen: vec![false; map.n_outputs()],
        })
    }

    /// log2 of the probability that one altered column passes: the sum over rows of one modulus.
    #[must_use]
    pub fn soundness_bits(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "moduli are below 2^47")]
        let bits = |q: u64| (q as f64).log2();
        (0..self.params.moduli().len())
            .map(|limb| {
                let q = self.params.moduli().get(limb).copied().unwrap_or(1);
                self.rows.iter().filter(|r| r.limb == limb).map(|_| bits(q)).sum()
            })
            .fold(f64::INFINITY, f64::min)
    }

    /// Adds request ciphertexts `first, first + 1, …` (fresh: degree 1, all moduli).
    ///
    /// # Errors
    /// - [`Error::ParamsMismatch`], [`Error::Form`] or [`Error::Index`] when the block does not fit.
    /// - [`Error::Length`] when one of them was absorbed before.
    pub fn absorb_input(&mut self, first: usize, block: &CiphertextBlock) -> Result<()> {
        check_block(&self.params, first, block, &mut self.inputs_seen, "request ciphertext")?;
        for row in &mut self.rows {
            let factors = row.inputs.get(first..first + block.count()).unwrap_or_default();
            accumulate(&self.params, block, row.limb, factors, &mut row.sums);
        }
        Ok(())
    }

    /// Adds reply ciphertexts `first, first + 1, …`.
    ///
    /// # Errors
    /// As [`WordCheck::absorb_input`].
    pub fn absorb_reply(&mut self, first: usize, block: &CiphertextBlock) -> Result<()> {
        check_block(&self.params, first, block, &mut self.replies_seen, "reply ciphertext")?;
        for row in &mut self.rows {
            let factors = row.outputs.get(first..first + block.count()).unwrap_or_default();
            accumulate(&self.params, block, row.limb, factors, &mut row.sums);
        }
        Ok(())
    }

    /// Compares, consuming the secret.
    ///
    /// # Errors
    /// - [`Error::Length`] unless every request and reply ciphertext was absorbed.
    /// - [`Error::WordCheckFailed`] when any column differs.
    pub fn finish(mut self) -> Result<()> {
        for (what, seen) in [
            ("request ciphertexts in the word check", &self.inputs_seen),
            ("reply ciphertexts in the word check", &self.replies_seen),
        ] {
            let actual = seen.iter().filter(|&&s| s).count();
            if actual != seen.len() {
                return Err(Error::Length { what, expected: seen.len(), actual });
            }
        }
        let n = self.params.ring_degree();
        let mut failed = vec![false; 2 * n * self.params.moduli().len()];
        for row in &mut self.rows {
            let Some(ring) = self.params.rings().get(row.limb) else { continue };
            // The bias stands in c0 only.
            let c0 = row.sums.get_mut(..n).unwrap_or_default();
            self.unit.add(row.constant, row.limb, ring, 0, c0);
            let flags = failed.iter_mut().skip(row.limb * 2 * n);
            for (&sum, flag) in row.sums.iter().zip(flags) {
                *flag |= sum != 0;
            }
        }
        let n_columns = failed.iter().filter(|&&f| f).count();
        if n_columns == 0 {
            return Ok(());
        }
        Err(Error::WordCheckFailed { n_columns, n_total: failed.len() })
    }
}

/// Refuses blocks of another form or place, and marks the ciphertexts as seen.
fn check_block(
    params: &Params,
    first: usize,
    block: &CiphertextBlock,
    seen: &mut [bool],
    what: &'static str,
) -> Result<()> {
    params.check_same(block.params())?;
    if block.degree() != 1 || block.n_moduli() != params.moduli().len() {
        return Err(Error::Form {
            operation: "the word check",
            requirement: "degree 1 and all moduli",
            degree: block.degree(),
            n_moduli: block.n_moduli(),
        });
    }
    let (index, count) = (first.saturating_add(block.count()), seen.len());
    let seen = seen.get_mut(first..index).ok_or(Error::Index { what, index, count })?;
    if seen.iter().any(|&s| s) {
        let what = "times a ciphertext entered the word check";
        return Err(Error::Length { what, expected: 1, actual: 2 });
    }
    seen.fill(true);
    Ok(())
}

impl core::fmt::Debug for WordCheck {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("WordCheck")
            .field("n_inputs", &self.inputs_seen.len())
            .field("n_outputs", &self.replies_seen.len())
            .finish_non_exhaustive()
    }
}

/// `sums += Σ factor_i · row_i`, column block by column block.
///
/// Residues and factors are split into 24-bit halves so that 32-bit multiplications do the work;
/// three 64-bit sums collect the products by weight and are reduced at the end.
fn accumulate(
    params: &Params,
    block: &CiphertextBlock,
    limb: usize,
    factors: &[u64],
    sums: &mut [u64],
) {
    const MASK: u64 = (1 << 24) - 1;
    let Some(ring) = params.rings().get(limb) else {
        return;
    };
    let row_len = block.row_len();
    let words = block.limb(limb);
    let reducer = ring.reducer();
    let [middle_weight, high_weight] =
        [24, 48].map(|bits| reducer.factor(ring.residue_vartime(1 << bits)));
    sums.par_chunks_mut(COLUMNS).enumerate().for_each(|(chunk, sums)| {
        let start = chunk * COLUMNS;
        let mut parts = [[0_u64; COLUMNS]; 3];
        for (rows, factors) in words.chunks(row_len * MAX_TERMS).zip(factors.chunks(MAX_TERMS)) {
            parts.iter_mut().for_each(|p| p.fill(0));
            for (row, &factor) in rows.chunks_exact(row_len).zip(factors) {
                let x = row.get(start..start + sums.len()).unwrap_or_default();
                let (f0, f1) = (factor & MASK, factor >> 24);
                let [low, middle, high] = &mut parts;
                vectorize(
                    #[inline(always)]
                    || {
                        for (((x, l), m), h) in x.iter().zip(low).zip(middle).zip(high) {
                            let (x0, x1) = (x & MASK, (x >> 24) & MASK);
                            *l += x0 * f0;
                            *m += x0 * f1 + x1 * f0;
                            *h += x1 * f1;
                        }
                    },
                );
            }
            let [low, middle, high] = &parts;
            vectorize(
                #[inline(always)]
                || {
                    for (((sum, &l), &m), &h) in sums.iter_mut().zip(low).zip(middle).zip(high) {
                        let [l, m, h] = [l, m, h].map(|x| reducer.reduce(x.cast_signed()));
                        let m = reducer.multiply(m.cast_signed(), middle_weight);
                        let h = reducer.multiply(h.cast_signed(), high_weight);
                        *sum = reducer.add(*sum, reducer.add(l, reducer.add(m, h)));
                    }
                },
            );
        }
    });
}
