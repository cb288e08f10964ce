//! Hybrid key switching: a polynomial under one secret becomes a pair under another.
//!
//! The polynomial is cut into digits (its residues modulo groups of moduli), each digit is lifted to
//! all moduli and multiplied by its part of the key, and the sum is divided by the special moduli
//! with BGV's rounding, which leaves the plaintext alone: `Σ_j d_j·(b_j + a_j·s) = P·c·s' + t·E`,
//! and after the division `c·s' + t·E/P`.
//!
//! # Source
//! Gentry, Halevi, Smart, "Homomorphic evaluation of the AES circuit" (2012), section 3; in residue
//! number system form with grouped digits, Han, Ki, "Better bootstrapping for approximate homomorphic
//! encryption" (2020), section 3.2.

use crate::{
    Params,
    keys::SwitchingKey,
    keys::switching::{digit_len, n_digits},
    ring::Ring,
    simd::{Factor, vectorize},
};

/// Buffers of one key switch: public words only.
#[derive(Default)]
pub(crate) struct Scratch {
    /// Centred residues of the digits' coefficients, in two's complement, `[limb][N]`.
    coefficients: Vec<u64>,
    /// The digits lifted to one limb, `[digit][N]`.
    lifted: Vec<u64>,
    /// Sums of products in one limb, two polynomials.
    sums: Vec<u64>,
    /// Sums modulo the special moduli, then their roundings, `[special][polynomial][N]`.
    roundings: Vec<u64>,
    spare: Vec<u64>,
}

impl Scratch {
    fn fit(&mut self, n: usize, n_moduli: usize, n_special: usize) {
        // Contents are overwritten before they are read.
        self.coefficients.resize(n_moduli * n, 0);
        self.lifted.resize(n_moduli * n, 0);
        self.sums.resize(2 * n, 0);
        self.roundings.resize(n_special * 2 * n, 0);
        self.spare.resize(n, 0);
    }
}

/// Switches `input` (its words in every limb, evaluation form) and adds the resulting pair to the
/// first `2N` words of every limb of `out`.
///
/// `input` and `out` have one slice per limb: as many moduli as the ciphertext has.
///
/// Cost for `l` moduli, `k` special ones and `d` digits: `l` inverse and about `d·(l + k) - l` forward
/// transforms, `2d(l + k)` products, then `2k` inverse and `2l` forward transforms.
pub(crate) fn switch_polynomial(
    params: &Params,
    key: &SwitchingKey,
    input: &[&[u64]],
    out: &mut [&mut [u64]],
    scratch: &mut Scratch,
) {
    let n = params.ring_degree();
    let (n_moduli, n_special) = (input.len(), params.special_moduli().len());
    scratch.fit(n, n_moduli, n_special);
    let digits: Vec<Digit<'_>> =
        (0..n_digits(params, n_moduli)).map(|digit| Digit::new(params, digit, n_moduli)).collect();
    for (digit, input) in digits.iter().zip(input.chunks(digit_len(params))) {
        digit.coefficients(input, &mut scratch.coefficients);
    }
    let first_special = params.moduli().len();
    for (k, ring) in params.special_rings().iter().enumerate() {
        lift_all(&digits, ring, None, &scratch.coefficients, &mut scratch.lifted);
        let products = Products { n, key: key.limb(params, first_special + k), input: None };
        let place = scratch.roundings.get_mut(k * 2 * n..(k + 1) * 2 * n).unwrap_or_default();
        products.sum(ring, &digits, &scratch.lifted, place);
    }
    let division = Division::new(params);
    division.roundings(&mut scratch.roundings, &mut scratch.spare);
    for (limb, ((ring, out), &words)) in
        params.rings().iter().zip(out.iter_mut()).zip(input).enumerate()
    {
        lift_all(&digits, ring, Some(limb), &scratch.coefficients, &mut scratch.lifted);
        let products = Products { n, key: key.limb(params, limb), input: Some((limb, words)) };
        products.sum(ring, &digits, &scratch.lifted, &mut scratch.sums);
        let pairs = out.chunks_exact_mut(n).zip(scratch.sums.chunks_exact(n)).take(2);
        for (polynomial, (out, sum)) in pairs.enumerate() {
            division.add(limb, polynomial, sum, &scratch.roundings, &mut scratch.spare, out);
        }
    }
}

/// The moduli of one digit and what lifts it.
struct Digit<'a> {
    first: usize,
    rings: &'a [Ring],
    /// `(Q_j/q_i)^-1·N^-1 mod q_i` for every modulus of the digit.
    scales: Vec<Factor>,
}

impl<'a> Digit<'a> {
    fn new(params: &'a Params, digit: usize, n_moduli: usize) -> Self {
        let first = digit * digit_len(params);
        let end = (first + digit_len(params)).min(n_moduli);
        let rings = params.rings().get(first..end).unwrap_or_default();
        let scales = rings.iter().map(|ring| {
            let hat = complement(rings, ring, ring);
            let inverse = ring.invert(hat).expect("invariant: the moduli are distinct primes");
            ring.reducer().factor(ring.multiply(inverse, ring.scale_value()))
        });
        Self { first, rings, scales: scales.collect() }
    }

    fn contains(&self, limb: usize) -> bool {
        (self.first..self.first + self.rings.len()).contains(&limb)
    }

    /// `y_i = c·(Q_j/q_i)^-1 mod q_i`, centred coefficients.
    fn coefficients(&self, input: &[&[u64]], coefficients: &mut [u64]) {
        let limbs = self.rings.iter().zip(&self.scales).zip(input);
        for (i, ((ring, &scale), input)) in limbs.enumerate() {
            let n = input.len();
            let start = (self.first + i) * n;
            let words = coefficients.get_mut(start..start + n).unwrap_or_default();
            words.copy_from_slice(input);
            ring.inverse_unscaled(words);
            let reducer = ring.reducer();
            vectorize(
                #[inline(always)]
                || {
                    for x in words.iter_mut() {
                        let y = reducer.multiply(x.cast_signed(), scale);
                        *x = reducer.centre(y).cast_unsigned();
                    }
                },
            );
        }
    }

    /// The digit `Σ_i y_i·(Q_j/q_i)` modulo `ring`, evaluation form.
    fn lift(&self, ring: &Ring, coefficients: &[u64], out: &mut [u64]) {
        let n = out.len();
        let reducer = ring.reducer();
        let q = ring.value().cast_signed();
        for (i, own) in self.rings.iter().enumerate() {
            let start = (self.first + i) * n;
            let words = coefficients.get(start..start + n).unwrap_or_default();
            if self.rings.len() == 1 && own.value() / 2 < ring.value() {
                // One modulus, and a centred residue is below q: lifting takes an addition.
                vectorize(
                    #[inline(always)]
                    || {
                        for (x, &y) in out.iter_mut().zip(words) {
                            let y = y.cast_signed();
                            *x = (y + ((y >> 63) & q)).cast_unsigned();
                        }
                    },
                );
                break;
            }
            let hat = reducer.factor(complement(self.rings, own, ring));
            vectorize(
                #[inline(always)]
                || {
                    for (x, &y) in out.iter_mut().zip(words) {
                        let term = reducer.multiply(y.cast_signed(), hat);
                        let sum = reducer.add(*x, term);
                        *x = if i == 0 { term } else { sum };
                    }
                },
            );
        }
        ring.forward(out);
    }
}

/// The product of all moduli of `rings` but that of `own`, modulo `target`.
fn complement(rings: &[Ring], own: &Ring, target: &Ring) -> u64 {
    rings
        .iter()
        .filter(|ring| ring.value() != own.value())
        .fold(1 % target.value(), |product, ring| {
            target.multiply(product, ring.value() % target.value())
        })
}

/// Lifts every digit to one ring, but for the digit that holds the ring's own limb: modulo that, a
/// digit is the polynomial itself.
fn lift_all(
    digits: &[Digit<'_>],
    ring: &Ring,
    limb: Option<usize>,
    coefficients: &[u64],
    lifted: &mut [u64],
) {
    let n = ring.degree();
    for (digit, out) in digits.iter().zip(lifted.chunks_exact_mut(n)) {
        if !limb.is_some_and(|limb| digit.contains(limb)) {
            digit.lift(ring, coefficients, out);
        }
    }
}

/// Sums of products in one limb.
struct Products<'a> {
    n: usize,
    /// `[digit][b, a][N]`
    key: &'a [u64],
    /// The limb's number and the polynomial itself, for a ciphertext modulus.
    input: Option<(usize, &'a [u64])>,
}

impl Products<'_> {
    /// `Σ_j d_j·b_j` and `Σ_j d_j·a_j`, one after the other.
    fn sum(&self, ring: &Ring, digits: &[Digit<'_>], lifted: &[u64], out: &mut [u64]) {
        let n = self.n;
        for (polynomial, out) in out.chunks_exact_mut(n).enumerate() {
            let keys = self.key.chunks_exact(n).skip(polynomial).step_by(2);
            let terms: Vec<(&[u64], &[u64])> = digits
                .iter()
                .zip(lifted.chunks_exact(n))
                .zip(keys)
                .map(|((digit, lifted), key)| match self.input {
                    Some((limb, words)) if digit.contains(limb) => (words, key),
                    _ => (lifted, key),
                })
                .collect();
            ring.sum_products(&terms, out);
        }
    }
}

/// Division by the product of the special moduli: the last one first.
///
/// Dropping `p_k` turns a sum `x` into `(x + t·u_k)/p_k` with `u_k = -x·t^-1 mod p_k`, centred. Over
/// all of them, `x/P + Σ_k t·u_k/(p_0·…·p_k)`, which takes one transform per ciphertext modulus.
pub(crate) struct Division<'a> {
    params: &'a Params,
}

impl<'a> Division<'a> {
    pub(crate) fn new(params: &'a Params) -> Self {
        Self { params }
    }

    /// Turns sums modulo the special moduli, `[special][polynomial][N]` in evaluation form, into
    /// their roundings `u_k`: centred coefficients, in two's complement.
    pub(crate) fn roundings(&self, sums: &mut [u64], spare: &mut [u64]) {
        let rings = self.params.special_rings();
        let n = self.params.ring_degree();
        for (k, last) in rings.iter().enumerate().rev() {
            let t_inverse = last
                .invert(self.params.plaintext_residue(last))
                .expect("invariant: the plaintext modulus is prime to every modulus");
            let factor = last.multiply(last.negate(t_inverse), last.scale_value());
            let (reducer, factor) = (last.reducer(), last.reducer().factor(factor));
            let (lower, upper) = sums.split_at_mut(k * 2 * n);
            for (polynomial, words) in upper.chunks_exact_mut(n).take(2).enumerate() {
                last.inverse_unscaled(words);
                vectorize(
                    #[inline(always)]
                    || {
                        for x in words.iter_mut() {
                            let u = reducer.multiply(x.cast_signed(), factor);
                            *x = reducer.centre(u).cast_unsigned();
                        }
                    },
                );
                // The special moduli that are left are divided by this one at once.
                for (ring, sums) in rings.iter().zip(lower.chunks_exact_mut(2 * n)) {
                    let sums = sums.get_mut(polynomial * n..(polynomial + 1) * n);
                    self.drop_from(ring, last, words, sums.unwrap_or_default(), spare);
                }
            }
        }
    }

    /// `x = (x + t·u)/p` modulo one ring.
    fn drop_from(&self, ring: &Ring, last: &Ring, u: &[u64], x: &mut [u64], spare: &mut [u64]) {
        let inverse = inverse_of(ring, &[last]);
        let scale = ring.multiply(self.params.plaintext_residue(ring), inverse);
        lift_sum(ring, &[(u, scale)], spare);
        combine(ring, inverse, spare, x);
    }

    /// Adds `(x + t·…)/P` modulo a ciphertext modulus to `out`, given the roundings.
    pub(crate) fn add(
        &self,
        limb: usize,
        polynomial: usize,
        x: &[u64],
        roundings: &[u64],
        spare: &mut [u64],
        out: &mut [u64],
    ) {
        let Some(ring) = self.params.rings().get(limb) else { return };
        let n = x.len();
        let t = self.params.plaintext_residue(ring);
        let mut inverse = 1;
        let mut terms: Vec<(&[u64], u64)> = Vec::new();
        for (special, words) in
            self.params.special_rings().iter().zip(roundings.chunks_exact(2 * n))
        {
            inverse = ring.multiply(inverse, inverse_of(ring, &[special]));
            let words = words.get(polynomial * n..(polynomial + 1) * n).unwrap_or_default();
            terms.push((words, ring.multiply(t, inverse)));
        }
        lift_sum(ring, &terms, spare);
        let (reducer, factor) = (ring.reducer(), ring.reducer().factor(inverse));
        vectorize(
            #[inline(always)]
            || {
                for ((out, &x), &u) in out.iter_mut().zip(x).zip(spare.iter()) {
                    let divided = reducer.add(reducer.multiply(x.cast_signed(), factor), u);
                    *out = reducer.add(*out, divided);
                }
            },
        );
    }
}

/// The inverse of a product of moduli.
fn inverse_of(ring: &Ring, moduli: &[&Ring]) -> u64 {
    let product =
        moduli.iter().fold(1, |product, m| ring.multiply(product, m.value() % ring.value()));
    ring.invert(product).expect("invariant: the moduli are distinct primes")
}

/// `Σ u·scale`, transformed.
fn lift_sum(ring: &Ring, terms: &[(&[u64], u64)], out: &mut [u64]) {
    let reducer = ring.reducer();
    for (i, &(u, scale)) in terms.iter().enumerate() {
        let scale = reducer.factor(scale);
        vectorize(
            #[inline(always)]
            || {
                for (x, &u) in out.iter_mut().zip(u) {
                    let term = reducer.multiply(u.cast_signed(), scale);
                    let sum = reducer.add(*x, term);
                    *x = if i == 0 { term } else { sum };
                }
            },
        );
    }
    ring.forward(out);
}

/// `x = x·factor + u`.
fn combine(ring: &Ring, factor: u64, u: &[u64], x: &mut [u64]) {
    let (reducer, factor) = (ring.reducer(), ring.reducer().factor(factor));
    vectorize(
        #[inline(always)]
        || {
            for (x, &u) in x.iter_mut().zip(u) {
                *x = reducer.add(reducer.multiply(x.cast_signed(), factor), u);
            }
        },
    );
}
