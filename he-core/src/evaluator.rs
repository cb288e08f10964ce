//! Operations on whole blocks besides linear maps: squares, quadratics, sums, modulus switching.

use rayon::prelude::*;

use crate::{
    CiphertextBlock, Error, Result,
    block::pieces_mut,
    encoding::next_correction,
    ring::Ring,
    simd::{Factor, vectorize},
};

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
    /// Squares every ciphertext: degree 1 in, `(c0², 2·c0·c1, c1²)` out; slots are squared.
    ///
    /// Needs no evaluation key. Cost: three products per modulus. Noise: `docs/noise.md`.
    ///
    /// # Errors
    /// [`Error::Form`] unless the degree is 1 and no modulus has been dropped yet.
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

    /// Evaluates `a·z² + b·z + c` on every ciphertext, with its own coefficients.
    ///
    /// # Errors
    /// - [`Error::Form`] unless the degree is 1 and no modulus has been dropped yet.
    /// - [`Error::Length`] unless there is one triple per ciphertext.
    pub fn quadratic(&self, coefficients: &[Quadratic]) -> Result<Self> {
        self.check_fresh("a quadratic")?;
        if coefficients.len() != self.count() {
            return Err(Error::Length {
                what: "quadratics",
                expected: self.count(),
                actual: coefficients.len(),
            });
        }
        let n = self.params().ring_degree();
        let mut out = self.like(self.count(), 2, 1);
        for (limb, ring) in self.rings().iter().enumerate() {
            out.limb_mut(limb)
                .par_chunks_mut(3 * n)
                .zip(self.limb(limb).par_chunks(2 * n))
                .zip(coefficients)
                .for_each(|((row, input), quadratic)| {
                    quadratic_row(ring, n, input, row, quadratic)
                });
        }
        Ok(out)
    }

    fn check_fresh(&self, operation: &'static str) -> Result<()> {
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
    /// # Errors
    /// - [`Error::Length`] unless there is one constant per ciphertext.
    /// - [`Error::Form`] after a modulus switch.
    pub fn add_constants(&mut self, constants: &[i64]) -> Result<()> {
        if self.correction() != 1 {
            return Err(Error::Form {
                operation: "adding constants",
                requirement: "no dropped modulus",
                degree: self.degree(),
                n_moduli: self.n_moduli(),
            });
        }
        if constants.len() != self.count() {
            return Err(Error::Length {
                what: "constants",
                expected: self.count(),
                actual: constants.len(),
            });
        }
        let (n, row_len) = (self.params().ring_degree(), self.row_len());
        let params = self.params().clone();
        for (limb, ring) in params.rings().iter().take(self.n_moduli()).enumerate() {
            for (row, &c) in self.limb_mut(limb).chunks_exact_mut(row_len).zip(constants) {
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

    /// Drops the last modulus and divides the noise by it, exactly preserving the plaintext.
    ///
    /// With `u` the centred residue of `-c·t^-1` modulo the dropped prime `q`, the new ciphertext is
    /// `(c + t·u)/q`; the plaintext gains the factor `q^-1 mod t`, recorded in
    /// [`CiphertextBlock::correction`]. Added noise at degree 2: deviation
    /// `t·sqrt((1 + 2N/3 + 8N²/9)/12)`. Cost per polynomial: one inverse transform and one forward
    /// transform per remaining modulus.
    ///
    /// # Errors
    /// [`Error::Form`] when only one modulus is left.
    ///
    /// # Source
    /// Brakerski, Gentry, Vaikuntanathan 2012, section 3.2, in residue number system form.
    pub fn mod_switch_down(&self) -> Result<Self> {
        let (Some((last, kept)), true) = (self.rings().split_last(), self.n_moduli() > 1) else {
            return Err(Error::Form {
                operation: "modulus switching",
                requirement: "at least two moduli",
                degree: self.degree(),
                n_moduli: self.n_moduli(),
            });
        };
        let t = self.params().plaintext_modulus();
        let n = self.params().ring_degree();
        let switch = Switch::new(t, last, kept);
        let len = self.count() * self.row_len();
        let mut words = vec![0_u64; kept.len() * len];
        // One task per polynomial: its places in every kept limb.
        let outputs = pieces_mut(&mut words, kept.len(), n);
        let dropped = self.limb(self.n_moduli() - 1).par_chunks(n);
        outputs.into_par_iter().zip(dropped).enumerate().for_each_init(
            || (vec![0; n], vec![0; n]),
            |(u, lifted), (index, (places, dropped))| {
                switch.rounding(dropped, lifted, u);
                for (limb, out) in places.into_iter().enumerate() {
                    let input = self.limb(limb).get(index * n..(index + 1) * n).unwrap_or_default();
                    switch.apply(limb, input, u, lifted, out);
                }
            },
        );
        let correction = next_correction(self.correction(), last.value(), t);
        Ok(Self::from_parts(self, kept.len(), correction, words))
    }

    /// Switches down until `n_moduli` moduli are left.
    ///
    /// # Errors
    /// [`Error::Form`] when fewer are left already or `n_moduli` is zero.
    pub fn mod_switch_to(&self, n_moduli: usize) -> Result<Self> {
        if n_moduli == 0 || n_moduli > self.n_moduli() {
            return Err(Error::Form {
                operation: "modulus switching",
                requirement: "between one and the present number of moduli as its target",
                degree: self.degree(),
                n_moduli: self.n_moduli(),
            });
        }
        if n_moduli == self.n_moduli() {
            return Ok(self.clone());
        }
        let mut block = self.mod_switch_down()?;
        while block.n_moduli() > n_moduli {
            block = block.mod_switch_down()?;
        }
        Ok(block)
    }
}

fn residue(t: u128, ring: &Ring) -> u64 {
    u64::try_from(t % u128::from(ring.value())).unwrap_or_default()
}

fn quadratic_row(ring: &Ring, n: usize, input: &[u64], row: &mut [u64], quadratic: &Quadratic) {
    let (c0, c1) = input.split_at(n);
    let (d0, rest) = row.split_at_mut(n);
    let (d1, d2) = rest.split_at_mut(n);
    let reducer = ring.reducer();
    ring.multiply_accumulate(d0, c0, c0);
    ring.multiply_accumulate(d1, c0, c1);
    vectorize(|| d1.iter_mut().for_each(|x| *x = reducer.add(*x, *x)));
    ring.multiply_accumulate(d2, c1, c1);
    let Quadratic { a, b, c } = *quadratic;
    if a != 1 {
        let a = reducer.factor(ring.residue_vartime(a.into()));
        vectorize(|| row.iter_mut().for_each(|x| *x = reducer.multiply(x.cast_signed(), a)));
    }
    if b != 0 {
        let b = reducer.factor(ring.residue_vartime(b.into()));
        vectorize(|| {
            for (x, &z) in row.iter_mut().zip(input) {
                *x = reducer.add(*x, reducer.multiply(z.cast_signed(), b));
            }
        });
    }
    add_constant(ring, row.get_mut(..n).unwrap_or_default(), c);
}

fn add_constant(ring: &Ring, words: &mut [u64], constant: i64) {
    if constant == 0 {
        return;
    }
    let c = ring.residue_vartime(constant.into());
    let reducer = ring.reducer();
    vectorize(|| words.iter_mut().for_each(|x| *x = reducer.add(*x, c)));
}

/// Constants of one modulus switch: which prime goes, which stay.
struct Switch<'a> {
    last: &'a Ring,
    /// `-t^-1` modulo the dropped prime.
    factor: Factor,
    kept: Vec<Kept<'a>>,
}

struct Kept<'a> {
    ring: &'a Ring,
    /// `q^-1` and `t·q^-1` for the dropped prime q.
    inverse: Factor,
    scale: Factor,
}

impl<'a> Switch<'a> {
    fn new(t: u128, last: &'a Ring, kept: &'a [Ring]) -> Self {
        let t_inverse = last
            .invert(residue(t, last))
            .expect("invariant: the plaintext modulus is prime to every modulus");
        let kept = kept.iter().map(|ring| {
            let inverse = ring
                .invert(last.value() % ring.value())
                .expect("invariant: the moduli are distinct primes");
            let reducer = ring.reducer();
            let scale = ring.multiply(residue(t, ring), inverse);
            Kept { ring, inverse: reducer.factor(inverse), scale: reducer.factor(scale) }
        });
        let factor = last.reducer().factor(last.negate(t_inverse));
        Self { last, factor, kept: kept.collect() }
    }

    /// `u`, centred coefficients: what makes `c + t·u` divisible by the dropped prime.
    fn rounding(&self, dropped: &[u64], scratch: &mut [u64], u: &mut [i64]) {
        let reducer = self.last.reducer();
        scratch.copy_from_slice(dropped);
        self.last.inverse(scratch);
        vectorize(|| {
            for (u, &c) in u.iter_mut().zip(scratch.iter()) {
                *u = reducer.centre(reducer.multiply(c.cast_signed(), self.factor));
            }
        });
    }

    /// `out = (c + t·u)/q` modulo one kept prime.
    fn apply(&self, limb: usize, c: &[u64], u: &[i64], lifted: &mut [u64], out: &mut [u64]) {
        let Some(Kept { ring, inverse, scale }) = self.kept.get(limb) else { return };
        let reducer = ring.reducer();
        vectorize(|| {
            for (x, &u) in lifted.iter_mut().zip(u) {
                *x = reducer.multiply(u, *scale);
            }
        });
        ring.forward(lifted);
        vectorize(|| {
            for ((o, &c), &u) in out.iter_mut().zip(c).zip(lifted.iter()) {
                *o = reducer.add(reducer.multiply(c.cast_signed(), *inverse), u);
            }
        });
    }
}
