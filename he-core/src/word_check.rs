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
    CiphertextBlock, Error, LinearMap, Params, Result, linear::Unit, ring::Ring, sampling,
    simd::vectorize,
};

/// Columns that one task accumulates: the lazy sums of two rows stay in level-1 cache.
const COLUMNS: usize = 512;
/// Lazy 64-bit sums per column and row.
const PARTS: usize = 3;
/// Products added to a lazy sum between reductions: `2·(2^24)²·2^13 = 2^62` and
/// `2^32·2^16·2^13 = 2^61`, and below `2^50·q` for every q since the products are also below `q²`.
const MAX_TERMS: usize = 1 << 13;
const _: () = assert!((MAX_TERMS as u64) << 49 < 1 << 63);

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
    limbs: Vec<Limb>,
    unit: Unit,
    inputs_seen: Vec<bool>,
    replies_seen: Vec<bool>,
}

/// The random rows of one prime.
#[derive(ZeroizeOnDrop)]
struct Limb {
    rows: Vec<Row>,
    /// `(rᵀW)·X - rᵀY` so far, reduced: `[chunk of columns][row][column]`.
    sums: Vec<u64>,
}

/// One random row modulo one prime.
#[derive(ZeroizeOnDrop)]
struct Row {
    /// `rᵀW`, one residue per input.
    inputs: Vec<u64>,
    /// `-r`, one residue per output.
    outputs: Vec<u64>,
    /// `rᵀb`.
    constant: u64,
}

impl WordCheck {
    /// Draws `n_rows` secret rows per modulus for one block.
    ///
    /// Cost: one pass over the weights per row.
    ///
    /// # Errors
    /// - [`Error::Length`] when `n_rows` is zero.
    /// - [`Error::ParamsMismatch`] when the map's unit belongs to other parameters.
    pub fn new(
        map: &LinearMap,
        params: &Params,
        n_rows: usize,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<Self> {
        if n_rows == 0 {
            return Err(Error::Length { what: "check rows", expected: 1, actual: 0 });
        }
        map.unit().check_params(params)?;
        let mut limbs = Vec::with_capacity(params.moduli().len());
        for ring in params.rings() {
            let mut rows = Vec::with_capacity(n_rows);
            for _ in 0..n_rows {
                let r = sampling::sample_residues(ring, map.n_outputs(), rng);
                let (inputs, constant) = map.combine_rows(&r, ring);
                let outputs = r.iter().map(|&x| ring.negate(x)).collect();
                rows.push(Row { inputs, outputs, constant });
            }
            let sums = vec![0; n_rows * 2 * params.ring_degree()];
            limbs.push(Limb { rows, sums });
        }
        Ok(Self {
            params: params.clone(),
            limbs,
            unit: map.unit().clone(),
            inputs_seen: vec![false; map.n_inputs()],
            replies_seen: vec![false; map.n_outputs()],
        })
    }

    /// log2 of the probability that one altered column passes: the sum over rows of one modulus.
    #[must_use]
    pub fn soundness_bits(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "moduli are below 2^47, rows few")]
        let bits = |(&q, limb): (&u64, &Limb)| (q as f64).log2() * limb.rows.len() as f64;
        self.params.moduli().iter().zip(&self.limbs).map(bits).fold(f64::INFINITY, f64::min)
    }

    /// Adds request ciphertexts `first, first + 1, …` (fresh: degree 1, all moduli).
    ///
    /// # Errors
    /// - [`Error::ParamsMismatch`], [`Error::Form`] or [`Error::Index`] when the block does not fit.
    /// - [`Error::Length`] when one of them was absorbed before.
    pub fn absorb_input(&mut self, first: usize, block: &CiphertextBlock) -> Result<()> {
        check_block(&self.params, first, block, &mut self.inputs_seen, "request ciphertext")?;
        let range = first..first + block.count();
        for ((index, limb), ring) in self.limbs.iter_mut().enumerate().zip(self.params.rings()) {
            let factors = limb.rows.iter().map(|r| r.inputs.get(range.clone()).unwrap_or_default());
            let factors: Vec<&[u64]> = factors.collect();
            accumulate(ring, block, index, &factors, &mut limb.sums);
        }
        Ok(())
    }

    /// Adds reply ciphertexts `first, first + 1, …`.
    ///
    /// # Errors
    /// As [`WordCheck::absorb_input`].
    pub fn absorb_reply(&mut self, first: usize, block: &CiphertextBlock) -> Result<()> {
        check_block(&self.params, first, block, &mut self.replies_seen, "reply ciphertext")?;
        let range = first..first + block.count();
        for ((index, limb), ring) in self.limbs.iter_mut().enumerate().zip(self.params.rings()) {
            let factors =
                limb.rows.iter().map(|r| r.outputs.get(range.clone()).unwrap_or_default());
            let factors: Vec<&[u64]> = factors.collect();
            accumulate(ring, block, index, &factors, &mut limb.sums);
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
        let columns = columns(n);
        let mut failed = vec![false; 2 * n * self.limbs.len()];
        let flags = failed.chunks_exact_mut(2 * n);
        for (((index, limb), ring), flags) in
            self.limbs.iter_mut().enumerate().zip(self.params.rings()).zip(flags)
        {
            let chunks = limb.sums.chunks_exact_mut(columns * limb.rows.len());
            for ((chunk, sums), flags) in chunks.enumerate().zip(flags.chunks_exact_mut(columns)) {
                let start = chunk * columns;
                for (row, sums) in limb.rows.iter().zip(sums.chunks_exact_mut(columns)) {
                    // The bias stands in c0 only.
                    if start < n {
                        self.unit.add(row.constant, index, ring, start, sums);
                    }
                    for (&sum, flag) in sums.iter().zip(flags.iter_mut()) {
                        *flag |= sum != 0;
                    }
                }
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

/// Columns per chunk: no chunk straddles two polynomials.
fn columns(ring_degree: usize) -> usize {
    COLUMNS.min(ring_degree)
}

/// Adds `Σ factor_i · row_i` for every check row, in one pass over the block.
///
/// Residues and factors are split so that 32-bit multiplications do the work; 64-bit sums collect
/// the products by weight and are reduced at the end.
fn accumulate(
    ring: &Ring,
    block: &CiphertextBlock,
    limb: usize,
    factors: &[&[u64]],
    sums: &mut [u64],
) {
    let (words, row_len) = (block.limb(limb), block.row_len());
    let columns = columns(block.params().ring_degree());
    let len = columns * factors.len();
    let scratch = || vec![0_u64; PARTS * len];
    let chunks = sums.par_chunks_exact_mut(len).enumerate();
    chunks.for_each_init(scratch, |parts, (chunk, sums)| {
        for (number, rows) in words.chunks(row_len * MAX_TERMS).enumerate() {
            parts.fill(0);
            vectorize(
                #[inline(always)]
                || {
                    for (i, row) in rows.chunks_exact(row_len).enumerate() {
                        let x = row.get(chunk * columns..(chunk + 1) * columns).unwrap_or_default();
                        for (parts, factors) in parts.chunks_exact_mut(PARTS * columns).zip(factors)
                        {
                            let factor = factors.get(number * MAX_TERMS + i).copied();
                            add_products(ring, x, factor.unwrap_or_default(), parts);
                        }
                    }
                },
            );
            for (parts, sums) in parts.chunks_exact(PARTS * columns).zip(sums.chunks_mut(columns)) {
                reduce_parts(ring, parts, sums);
            }
        }
    });
}

/// Whether residues fit 32 bits: then a factor alone is split.
fn is_narrow(ring: &Ring) -> bool {
    ring.bits() <= 32
}

/// Bits of the lower part of a factor, and of a wide residue.
fn split_bits(ring: &Ring) -> u32 {
    if is_narrow(ring) { 16 } else { 24 }
}

/// Words handled together: whole arrays vectorise although the compiler cannot see that the slices
/// do not overlap.
const LANES: usize = 8;

/// Adds `factor·x` to lazy sums of weight `1`, `2^s` and (wide residues only) `2^2s`.
#[inline(always)]
fn add_products(ring: &Ring, x: &[u64], factor: u64, parts: &mut [u64]) {
    const WORD: u64 = 0xFFFF_FFFF;
    const HALF: u64 = (1 << 24) - 1;
    let (low, rest) = parts.split_at_mut(x.len());
    let (middle, high) = rest.split_at_mut(x.len());
    let (x, _) = x.as_chunks::<LANES>();
    let [low, middle, high] = [low, middle, high].map(|part| part.as_chunks_mut::<LANES>().0);
    if is_narrow(ring) {
        let (f0, f1) = (factor & 0xFFFF, (factor >> 16) & 0xFFFF);
        for ((x, l), m) in x.iter().zip(low).zip(middle) {
            *l = sum(*l, x.map(|x| (x & WORD) * f0));
            *m = sum(*m, x.map(|x| (x & WORD) * f1));
        }
    } else {
        let (f0, f1) = (factor & HALF, (factor >> 24) & HALF);
        for (((x, l), m), h) in x.iter().zip(low).zip(middle).zip(high) {
            let (x0, x1) = (x.map(|x| x & HALF), x.map(|x| (x >> 24) & HALF));
            *l = sum(*l, x0.map(|x| x * f0));
            *m = sum(*m, sum(x0.map(|x| x * f1), x1.map(|x| x * f0)));
            *h = sum(*h, x1.map(|x| x * f1));
        }
    }
}

#[inline(always)]
fn sum(a: [u64; LANES], b: [u64; LANES]) -> [u64; LANES] {
    let mut out = a;
    for (out, b) in out.iter_mut().zip(b) {
        *out += b;
    }
    out
}

/// Adds the lazy sums, weighted and reduced, to the running sums.
fn reduce_parts(ring: &Ring, parts: &[u64], sums: &mut [u64]) {
    let reducer = ring.reducer();
    let [middle_weight, high_weight] =
        [1, 2].map(|i| reducer.factor(ring.residue_vartime(1 << (i * split_bits(ring)))));
    let (low, rest) = parts.split_at(sums.len());
    let (middle, high) = rest.split_at(sums.len());
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
