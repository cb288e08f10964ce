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
    CiphertextBlock, Error, LinearMap, Params, Result, bytes,
    linear::Unit,
    sampling,
    scratch::{Pool, written_zeros},
};

mod products;

pub(crate) use products::group_len;

/// The secret state of one check: random rows, their combination with the map, running sums.
///
/// Feed every request ciphertext ([`WordCheck::absorb_input`], or as they are made:
/// [`crate::BlockEncryptor::encrypt_packed`]) and every reply ciphertext
/// ([`WordCheck::absorb_reply`], [`WordCheck::absorb_reply_bytes`]) once, in any order of blocks,
/// then [`WordCheck::finish`].
///
/// # Security
/// One instance serves one block: reusing `r` would let a server learn from earlier verdicts.
/// Handing a prepared instance to somebody who must not know the model reveals one random
/// combination of its rows.
pub struct WordCheck {
    params: Params,
    /// `[limb][check row]`.
    rows: Vec<Vec<Row>>,
    unit: Unit,
    requests: Side,
    replies: Side,
    /// Words of a few reply ciphertexts in one limb: scratch of tasks, public.
    words: Pool<Vec<u64>>,
}

/// What was added on one side.
struct Side {
    seen: Vec<bool>,
    /// Sums of the tasks that were at work at the same time: together `(rᵀW)·X`, or `-rᵀY`.
    sums: Pool<Sums>,
}

/// Part of the sums of one side: `[limb][check row][2N]`.
#[derive(ZeroizeOnDrop)]
pub(crate) struct Sums {
    words: Vec<i64>,
    #[zeroize(skip)]
    n_terms: usize,
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

/// Which ciphertexts are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Reply,
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
            limbs.push(rows);
        }
        Ok(Self {
            params: params.clone(),
            rows: limbs,
            unit: map.unit().clone(),
            requests: Side::new(map.n_inputs()),
            replies: Side::new(map.n_outputs()),
            words: Pool::new(),
        })
    }

    /// log2 of the probability that one altered column passes: the sum over rows of one modulus.
    #[must_use]
    pub fn soundness_bits(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "moduli are below 2^47, rows few")]
        let bits = |(&q, rows): (&u64, &Vec<Row>)| (q as f64).log2() * rows.len() as f64;
        self.params.moduli().iter().zip(&self.rows).map(bits).fold(f64::INFINITY, f64::min)
    }

    /// Adds request ciphertexts `first, first + 1, …` (fresh: degree 1, all moduli).
    ///
    /// # Errors
    /// - [`Error::ParamsMismatch`], [`Error::Form`] or [`Error::Index`] when the block does not fit.
    /// - [`Error::Length`] when one of them was absorbed before.
    pub fn absorb_input(&mut self, first: usize, block: &CiphertextBlock) -> Result<()> {
        self.check_form(block)?;
        self.claim_inputs(first, block.count())?;
        self.absorb(Direction::Request, first, block);
        Ok(())
    }

    /// Adds reply ciphertexts `first, first + 1, …`.
    ///
    /// # Errors
    /// As [`WordCheck::absorb_input`].
    pub fn absorb_reply(&mut self, first: usize, block: &CiphertextBlock) -> Result<()> {
        self.check_form(block)?;
        self.replies.claim(first, block.count(), "reply ciphertext")?;
        self.absorb(Direction::Reply, first, block);
        Ok(())
    }

    /// Adds reply ciphertexts `first, first + 1, …` from their bytes, in parallel: as
    /// [`crate::bytes::read_reply_into`] and [`WordCheck::absorb_reply`], without a block in between.
    ///
    /// # Errors
    /// - [`Error::Malformed`] unless the bytes are whole ciphertexts of degree 1 over all moduli.
    /// - [`Error::Index`] or [`Error::Length`] as [`WordCheck::absorb_input`].
    /// - [`Error::Residue`] when a residue is not below its modulus: only
    ///   [`WordCheck::restart_replies`] makes sense then.
    pub fn absorb_reply_bytes(&mut self, first: usize, bytes: &[u8]) -> Result<()> {
        let params = &self.params;
        let n_moduli = params.moduli().len();
        let size = bytes::reply_bytes(params, 1, n_moduli);
        let count = bytes.len() / size;
        if !bytes.len().is_multiple_of(size) {
            let (expected, actual) = ((count * size) as u64, bytes.len() as u64);
            return Err(Error::Malformed { what: "bytes of whole ciphertexts", expected, actual });
        }
        self.replies.claim(first, count, "reply ciphertext")?;
        let row_len = 2 * params.ring_degree();
        let group = group_len(row_len);
        let this = &*self;
        bytes.par_chunks(group * size).enumerate().try_for_each(|(number, bytes)| {
            let start = number * group;
            this.replies.sums.with(
                || Sums::new(params, &this.rows),
                |sums| {
                    let make = || written_zeros(group * row_len);
                    this.words.with(make, |words: &mut Vec<u64>| {
                        let words = words.get_mut(..bytes.len() / size * row_len);
                        let words = words.unwrap_or_default();
                        for limb in 0..n_moduli {
                            bytes::read_limb(params, limb, bytes, words)
                                .map_err(|e| e.offset_by(start))?;
                            this.add(Direction::Reply, sums, limb, first + start, words);
                        }
                        Ok(())
                    })
                },
            )
        })
    }

    /// Forgets every reply ciphertext: back to the state before the first of them, for a reply that
    /// is received again from its start.
    ///
    /// # Security
    /// Says nothing about the part that is forgotten. The reply must answer the same request, and
    /// whoever sends it must not have learnt a verdict.
    pub fn restart_replies(&mut self) {
        self.replies.seen.fill(false);
        for sums in self.replies.sums.values_mut() {
            sums.words.fill(0);
            sums.n_terms = 0;
        }
    }

    /// Compares, consuming the secret.
    ///
    /// # Errors
    /// - [`Error::Length`] unless every request and reply ciphertext was absorbed.
    /// - [`Error::WordCheckFailed`] when any column differs.
    pub fn finish(mut self) -> Result<()> {
        for (what, seen) in [
            ("request ciphertexts in the word check", &self.requests.seen),
            ("reply ciphertexts in the word check", &self.replies.seen),
        ] {
            let actual = seen.iter().filter(|&&s| s).count();
            if actual != seen.len() {
                return Err(Error::Length { what, expected: seen.len(), actual });
            }
        }
        let mut sums = Sums::new(&self.params, &self.rows);
        for side in [&mut self.requests, &mut self.replies] {
            for part in side.sums.values_mut() {
                part.reduce(&self.params, &self.rows);
                sums.merge(part, &self.params, &self.rows);
            }
        }
        let failed = self.failed_columns(&sums);
        let n_columns = failed.iter().filter(|&&f| f).count();
        if n_columns == 0 {
            return Ok(());
        }
        Err(Error::WordCheckFailed { n_columns, n_total: failed.len() })
    }

    /// Per limb and column, whether the total and the bias do not cancel in every check row.
    fn failed_columns(&self, sums: &Sums) -> Vec<bool> {
        let n = self.params.ring_degree();
        let mut failed = vec![false; 2 * n * self.rows.len()];
        let mut column = vec![0_u64; 2 * n];
        let mut words = sums.words.chunks_exact(2 * n);
        let limbs = self.rows.iter().zip(self.params.rings()).zip(failed.chunks_exact_mut(2 * n));
        for (limb, ((rows, ring), flags)) in limbs.enumerate() {
            for (row, sums) in rows.iter().zip(&mut words) {
                for (x, &sum) in column.iter_mut().zip(sums) {
                    *x = sum.cast_unsigned();
                }
                // The bias stands in c0 only.
                let c0 = column.get_mut(..n).unwrap_or_default();
                self.unit.add(row.constant, limb, ring, 0, c0);
                for (&x, flag) in column.iter().zip(flags.iter_mut()) {
                    *flag |= x != 0;
                }
            }
        }
        failed
    }

    /// Marks `count` request ciphertexts as added: the caller adds them with
    /// [`WordCheck::add_inputs`].
    pub(crate) fn claim_inputs(&mut self, first: usize, count: usize) -> Result<()> {
        self.requests.claim(first, count, "request ciphertext")
    }

    pub(crate) fn check_params(&self, params: &Params) -> Result<()> {
        self.params.check_same(params)
    }

    /// Lends sums of the request side to a task.
    pub(crate) fn with_input_sums<R>(&self, work: impl FnOnce(&mut Sums) -> R) -> R {
        self.requests.sums.with(|| Sums::new(&self.params, &self.rows), work)
    }

    /// Adds at most [`group_len`] request ciphertexts `first, first + 1, …`: their words in one limb.
    pub(crate) fn add_inputs(&self, sums: &mut Sums, limb: usize, first: usize, words: &[u64]) {
        self.add(Direction::Request, sums, limb, first, words);
    }

    fn add(&self, direction: Direction, sums: &mut Sums, limb: usize, first: usize, words: &[u64]) {
        let row_len = 2 * self.params.ring_degree();
        let count = words.len() / row_len;
        let (Some(rows), Some(ring)) = (self.rows.get(limb), self.params.rings().get(limb)) else {
            return;
        };
        sums.make_room(count, &self.params, &self.rows);
        let start = self.rows.iter().take(limb).map(Vec::len).sum::<usize>();
        let targets = sums.words.chunks_exact_mut(row_len).skip(start);
        for (row, sums) in rows.iter().zip(targets) {
            let factors = match direction {
                Direction::Request => &row.inputs,
                Direction::Reply => &row.outputs,
            };
            let factors = factors.get(first..first + count).unwrap_or_default();
            products::add_products(ring, words, factors, sums);
        }
    }

    fn absorb(&self, direction: Direction, first: usize, block: &CiphertextBlock) {
        let row_len = block.row_len();
        let group = group_len(row_len);
        let side = match direction {
            Direction::Request => &self.requests,
            Direction::Reply => &self.replies,
        };
        (0..block.count().div_ceil(group)).into_par_iter().for_each(|number| {
            side.sums.with(
                || Sums::new(&self.params, &self.rows),
                |sums| {
                    for limb in 0..block.n_moduli() {
                        let mut groups = block.limb(limb).chunks(group * row_len);
                        let words = groups.nth(number).unwrap_or_default();
                        self.add(direction, sums, limb, first + number * group, words);
                    }
                },
            );
        });
    }

    /// Refuses blocks of another form.
    fn check_form(&self, block: &CiphertextBlock) -> Result<()> {
        self.params.check_same(block.params())?;
        if block.degree() != 1 || block.n_moduli() != self.params.moduli().len() {
            return Err(Error::Form {
                operation: "the word check",
                requirement: "degree 1 and all moduli",
                degree: block.degree(),
                n_moduli: block.n_moduli(),
            });
        }
        Ok(())
    }
}

impl Side {
    fn new(count: usize) -> Self {
        Self { seen: vec![false; count], sums: Pool::new() }
    }

    /// Marks ciphertexts as seen; refuses those that do not exist or were seen before.
    fn claim(&mut self, first: usize, count: usize, what: &'static str) -> Result<()> {
        let (index, total) = (first.saturating_add(count), self.seen.len());
        let seen = self.seen.get_mut(first..index);
        let seen = seen.ok_or(Error::Index { what, index, count: total })?;
        if seen.iter().any(|&s| s) {
            let what = "times a ciphertext entered the word check";
            return Err(Error::Length { what, expected: 1, actual: 2 });
        }
        seen.fill(true);
        Ok(())
    }
}

impl Sums {
    fn new(params: &Params, rows: &[Vec<Row>]) -> Self {
        let len = rows.iter().map(Vec::len).sum::<usize>() * 2 * params.ring_degree();
        Self { words: written_zeros(len), n_terms: 0 }
    }

    /// Reduces if `count` more terms might not fit.
    fn make_room(&mut self, count: usize, params: &Params, rows: &[Vec<Row>]) {
        self.n_terms += count;
        if self.n_terms >= products::MAX_TERMS {
            self.reduce(params, rows);
            self.n_terms = 1 + count;
        }
    }

    fn reduce(&mut self, params: &Params, rows: &[Vec<Row>]) {
        let mut words = self.words.chunks_exact_mut(2 * params.ring_degree());
        for (rows, ring) in rows.iter().zip(params.rings()) {
            words.by_ref().take(rows.len()).for_each(|words| products::reduce(ring, words));
        }
    }

    /// Adds reduced sums to these, reduced as well.
    fn merge(&mut self, other: &Self, params: &Params, rows: &[Vec<Row>]) {
        let len = 2 * params.ring_degree();
        let mut words = self.words.chunks_exact_mut(len).zip(other.words.chunks_exact(len));
        for (rows, ring) in rows.iter().zip(params.rings()) {
            let pairs = words.by_ref().take(rows.len());
            pairs.for_each(|(words, others)| products::merge(ring, words, others));
        }
    }
}

impl core::fmt::Debug for WordCheck {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("WordCheck")
            .field("n_inputs", &self.requests.seen.len())
            .field("n_outputs", &self.replies.seen.len())
            .finish_non_exhaustive()
    }
}
