//! Operations on whole blocks besides linear maps: squares, quadratics, sums, modulus switching.

mod arithmetic;
mod plaintext;
mod product;
mod switch;
mod switching;

use rayon::prelude::*;

use crate::{
    CiphertextBlock, Error, Result,
    correction::{divide_centred, multiply_modulo},
    ring::Ring,
    simd::vectorize,
};

pub(crate) use product::MAX_DEGREE;
use product::{on_messages, square_row};

/// Coefficients of `a·z² + b·z + c`, one triple per ciphertext.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quadratic {
    /// Factor of the square.
    pub a: i64,
    /// Factor of the linear term.
    pub b: i64,
    /// Constant, added to every slot.
    pub c: i64,
}

impl Quadratic {
    /// The plain square.
    pub const SQUARE: Self = Self { a: 1, b: 0, c: 0 };
}

impl CiphertextBlock {
    /// Squares every ciphertext: degree `d` in, `2d` out, `(c0², 2·c0·c1, c1²)` for `d = 1`; slots
    /// are squared.
    ///
    /// Needs no evaluation key. Cost: `(d + 1)(d + 2)/2` products per modulus. Noise:
    /// `docs/noise.md`.
    ///
    /// # Errors
    /// [`Error::Form`] when the degree is above 7.
    pub fn square(&self) -> Result<Self> {
        self.quadratic(&vec![Quadratic::SQUARE; self.count()])
    }

    /// Squares and sums in one pass: output `i` is the sum of the squares of `members[i]`.
    ///
    /// The same words as [`CiphertextBlock::square`] followed by [`CiphertextBlock::sums`], without
    /// the squares ever being stored. In parallel over outputs.
    ///
    /// # Errors
    /// - [`Error::Form`] unless the degree is 1 and no modulus has been dropped yet.
    /// - [`Error::Index`] when a member does not exist.
    pub fn sums_of_squares(&self, members: &[Vec<usize>]) -> Result<Self> {
        self.check_fresh("a square")?;
        if let Some(&index) = members.iter().flatten().find(|&&i| i >= self.count()) {
            return Err(Error::Index { what: "ciphertext", index, count: self.count() });
        }
        let n = self.params().ring_degree();
        let mut out = self.like(members.len(), 2, 1);
        for (limb, ring) in self.rings().iter().enumerate() {
            let reducer = ring.reducer();
            out.limb_mut(limb).par_chunks_mut(3 * n).zip(members).for_each(|(row, members)| {
                let (d0, rest) = row.split_at_mut(n);
                let (d1, d2) = rest.split_at_mut(n);
                for &index in members {
                    let (c0, c1) = self.row(limb, index).split_at(n);
                    ring.multiply_accumulate(d0, c0, c0);
                    ring.multiply_accumulate(d1, c0, c1);
                    ring.multiply_accumulate(d2, c1, c1);
                }
                vectorize(|| d1.iter_mut().for_each(|x| *x = reducer.add(*x, *x)));
            });
        }
        Ok(out)
    }

    /// Evaluates `a·z² + b·z + c` on every ciphertext, with its own coefficients: degree `d` in, `2d`
    /// out.
    ///
    /// After a modulus switch `b` and `c` act on messages divided by
    /// [`CiphertextBlock::correction`]: they are then of the size of `t`, which the noise bound must
    /// allow for ([`crate::noise::Phase::quadratic`] with `b = c = t/2`).
    ///
    /// # Errors
    /// - [`Error::Form`] when the degree is above 7.
    /// - [`Error::Length`] unless there is one triple per ciphertext.
    pub fn quadratic(&self, coefficients: &[Quadratic]) -> Result<Self> {
        if coefficients.len() != self.count() {
            return Err(Error::Length {
                what: "quadratics",
                expected: self.count(),
                actual: coefficients.len(),
            });
        }
        let degree = self.product_degree(self.degree())?;
        let (n, t) = (self.params().ring_degree(), self.params().plaintext_modulus());
        let correction = multiply_modulo(self.correction(), self.correction(), t);
        let coefficients: Vec<[i128; 3]> =
            coefficients.iter().map(|q| on_messages(q, self.correction(), t)).collect();
        let mut out = self.like(self.count(), degree, correction);
        let (in_len, out_len) = (self.row_len(), out.row_len());
        for (limb, ring) in self.rings().iter().enumerate() {
            out.limb_mut(limb)
                .par_chunks_mut(out_len)
                .zip(self.limb(limb).par_chunks(in_len))
                .zip(&coefficients)
                .for_each(|((row, input), quadratic)| {
                    quadratic_row(ring, n, input, row, *quadratic)
                });
        }
        Ok(out)
    }

    pub(crate) fn check_fresh(&self, operation: &'static str) -> Result<()> {
        if self.degree() == 1 && self.correction() == 1 {
            return Ok(());
        }
        Err(Error::Form {
            operation,
            requirement: "degree 1 before any modulus switch",
            degree: self.degree(),
            n_moduli: self.n_moduli(),
        })
    }

    /// Adds one integer constant to every slot of each ciphertext.
    ///
    /// After a modulus switch the constant is divided by [`CiphertextBlock::correction`] first, and
    /// adds up to `t/2` to every message.
    ///
    /// # Errors
    /// [`Error::Length`] unless there is one constant per ciphertext.
    pub fn add_constants(&mut self, constants: &[i64]) -> Result<()> {
        if constants.len() != self.count() {
            return Err(Error::Length {
                what: "constants",
                expected: self.count(),
                actual: constants.len(),
            });
        }
        let (n, row_len) = (self.params().ring_degree(), self.row_len());
        let params = self.params().clone();
        let (correction, t) = (self.correction(), params.plaintext_modulus());
        let constants: Vec<i128> =
            constants.iter().map(|&c| divide_centred(c, correction, t)).collect();
        for (limb, ring) in params.rings().iter().take(self.n_moduli()).enumerate() {
            for (row, &c) in self.limb_mut(limb).chunks_exact_mut(row_len).zip(&constants) {
                add_constant(ring, row.get_mut(..n).unwrap_or_default(), c);
            }
        }
        Ok(())
    }

    /// Adds another block ciphertext by ciphertext.
    ///
    /// # Errors
    /// [`Error::ParamsMismatch`], [`Error::Form`] or [`Error::Length`] when the blocks differ.
    pub fn add_assign(&mut self, other: &Self) -> Result<()> {
        self.check_same_form(other, "addition")?;
        if self.count() != other.count() {
            return Err(Error::Length {
                what: "ciphertexts to add",
                expected: self.count(),
                actual: other.count(),
            });
        }
        let params = self.params().clone();
        for (limb, ring) in params.rings().iter().take(self.n_moduli()).enumerate() {
            let reducer = ring.reducer();
            let words = self.limb_mut(limb);
            vectorize(|| {
                for (x, &y) in words.iter_mut().zip(other.limb(limb)) {
                    *x = reducer.add(*x, y);
                }
            });
        }
        Ok(())
    }

    /// Sums ciphertexts into a new block: output `i` is the sum of the ciphertexts `members[i]`.
    ///
    /// In parallel over outputs. Works at any degree and level.
    ///
    /// # Errors
    /// [`Error::Index`] when a member does not exist.
    pub fn sums(&self, members: &[Vec<usize>]) -> Result<Self> {
        if let Some(&index) = members.iter().flatten().find(|&&i| i >= self.count()) {
            return Err(Error::Index { what: "ciphertext", index, count: self.count() });
        }
        let mut out = self.like(members.len(), self.degree(), self.correction());
        let row_len = self.row_len();
        for (limb, ring) in self.rings().iter().enumerate() {
            let reducer = ring.reducer();
            out.limb_mut(limb).par_chunks_mut(row_len).zip(members).for_each(|(sum, members)| {
                for &index in members {
                    let row = self.row(limb, index);
                    vectorize(|| {
                        for (x, &y) in sum.iter_mut().zip(row) {
                            *x = reducer.add(*x, y);
                        }
                    });
                }
            });
        }
        Ok(out)
    }

    /// Copies some ciphertexts into a new block, in the given order.
    ///
    /// # Errors
    /// [`Error::Index`] when one does not exist.
    pub fn select(&self, indices: &[usize]) -> Result<Self> {
        if let Some(&index) = indices.iter().find(|&&i| i >= self.count()) {
            return Err(Error::Index { what: "ciphertext", index, count: self.count() });
        }
        let mut out = self.like(indices.len(), self.degree(), self.correction());
        let row_len = self.row_len();
        for limb in 0..self.n_moduli() {
            for (row, &index) in out.limb_mut(limb).chunks_exact_mut(row_len).zip(indices) {
                row.copy_from_slice(self.row(limb, index));
            }
        }
        Ok(out)
    }
}

fn quadratic_row(ring: &Ring, n: usize, input: &[u64], row: &mut [u64], [a, b, c]: [i128; 3]) {
    let reducer = ring.reducer();
    if input.len() == 2 * n {
        fresh_square_row(ring, n, input, row);
    } else {
        square_row(ring, n, input, row);
    }
    if a != 1 {
        let a = reducer.factor(ring.residue_vartime(a));
        vectorize(|| row.iter_mut().for_each(|x| *x = reducer.multiply(x.cast_signed(), a)));
    }
    if b != 0 {
        let b = reducer.factor(ring.residue_vartime(b));
        vectorize(|| {
            for (x, &z) in row.iter_mut().zip(input) {
                *x = reducer.add(*x, reducer.multiply(z.cast_signed(), b));
            }
        });
    }
    add_constant(ring, row.get_mut(..n).unwrap_or_default(), c);
}

/// The square of a ciphertext of degree 1; `row` holds zeros.
fn fresh_square_row(ring: &Ring, n: usize, input: &[u64], row: &mut [u64]) {
    let (c0, c1) = input.split_at(n);
    let (d0, rest) = row.split_at_mut(n);
    let (d1, d2) = rest.split_at_mut(n);
    let reducer = ring.reducer();
    ring.multiply_accumulate(d0, c0, c0);
    ring.multiply_accumulate(d1, c0, c1);
    vectorize(|| d1.iter_mut().for_each(|x| *x = reducer.add(*x, *x)));
    ring.multiply_accumulate(d2, c1, c1);
}

pub(crate) fn add_constant(ring: &Ring, words: &mut [u64], constant: i128) {
    if constant == 0 {
        return;
    }
    let c = ring.residue_vartime(constant);
    let reducer = ring.reducer();
    vectorize(|| words.iter_mut().for_each(|x| *x = reducer.add(*x, c)));
}
