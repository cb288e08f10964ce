//! The CryptoNets shape under BFV of the crate `fhe`, step by step, on a part of each layer.
//!
//! One sample per slot and no refresh: the whole network runs on the server, so the plaintext modulus
//! must hold its last value. That takes several plaintext moduli, each a run of its own with its own
//! keys (CRT). Weights are constants; a row is two dot products, of the positive and of the negative
//! weights, because the library multiplies by residues and a negative weight would be a large one.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail};
use fhe::bfv::{
    BfvParameters, BfvParametersBuilder, Ciphertext, Encoding, Multiplicator, Plaintext,
    RelinearizationKey, SecretKey, dot_product_scalar,
};
use fhe_traits::{FheDecoder, FheDecrypter, FheEncoder, FheEncrypter, Serialize as _};
use he_core::ParamsSpec;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Ring degree: 8,192 slots, and 128-bit security up to 218 bits of modulus.
pub(super) const RING_DEGREE: usize = 8192;
/// Sizes of the ciphertext primes: 165 bits, which two squares and three layers fill to about 151.
const MODULI_BITS: [usize; 3] = [55, 55, 55];
/// Bits of the smallest plaintext modulus; three of them hold 2·1.2·10^24, the largest value of the
/// last layer with 4-bit inputs and weights.
const PLAINTEXT_BITS: u32 = 28;
/// How many plaintext moduli that takes.
pub(super) const N_PLAINTEXT_MODULI: usize = 3;
/// Largest weight magnitude and input: 4 bits.
const MAX_WEIGHT: u32 = 7;
const MAX_INPUT: u32 = 15;

/// Taps of one measured row of a dense layer. The part's ciphertexts take turns: rows as short as the
/// part would count each row's fixed cost too often.
pub(super) const DENSE_TAPS: usize = 100;
/// Taps of one output of the convolution.
pub(super) const CONVOLUTION_TAPS: usize = 25;

/// Seconds of each step, for one plaintext modulus, and what they were measured on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Steps {
    /// Encoding and encrypting one ciphertext.
    pub(super) encrypt: f64,
    /// One product of a ciphertext and a constant, and its sum, in a row of 25.
    pub(super) convolution_product: f64,
    /// The same in a row of [`DENSE_TAPS`].
    pub(super) dense_product: f64,
    /// One square with relinearization.
    pub(super) square: f64,
    /// Decrypting and decoding one ciphertext.
    pub(super) decrypt: f64,
    /// Bytes of a fresh ciphertext, and of one of the reply.
    pub(super) request_bytes: usize,
    pub(super) reply_bytes: usize,
}

/// The plaintext moduli: the smallest with 28 bits that have slots.
pub(super) fn plaintext_moduli() -> Result<Vec<u64>> {
    let mut moduli = Vec::with_capacity(N_PLAINTEXT_MODULI);
    let mut at_least = 1 << PLAINTEXT_BITS;
    for _ in 0..N_PLAINTEXT_MODULI {
        let modulus = ParamsSpec::smallest_slot_modulus(RING_DEGREE, at_least)?;
        moduli.push(modulus);
        at_least = modulus + 1;
    }
    Ok(moduli)
}

/// A layer's weights, row by row.
type Rows = Vec<Vec<i64>>;

/// Everything drawn from one seed.
struct Problem {
    inputs: Vec<Vec<u64>>,
    convolution: Rows,
    dense: Rows,
    last: Rows,
}

impl Problem {
    fn draw(part: usize) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let mut input = || u64::from(rng.next_u32() % (MAX_INPUT + 1));
        let inputs =
            (0..CONVOLUTION_TAPS).map(|_| (0..RING_DEGREE).map(|_| input()).collect()).collect();
        let mut weight = || {
            let magnitude = i64::from(1 + rng.next_u32() % MAX_WEIGHT);
            if rng.next_u32() % 2 == 0 { magnitude } else { -magnitude }
        };
        let mut rows = |n_rows: usize, n_taps: usize| -> Rows {
            (0..n_rows).map(|_| (0..n_taps).map(|_| weight()).collect()).collect()
        };
        let convolution = rows(part, CONVOLUTION_TAPS);
        let dense = rows(part, DENSE_TAPS);
        let last = rows(part, DENSE_TAPS);
        Self { inputs, convolution, dense, last }
    }

    /// What must come out in `slot`, modulo `t`.
    fn expected(&self, slot: usize, t: u64) -> Vec<u64> {
        let t = i128::from(t);
        let apply = |rows: &Rows, x: &[i128]| -> Vec<i128> {
            let dot = |row: &Vec<i64>| {
                let products = row.iter().zip(x.iter().cycle()).map(|(&w, &x)| i128::from(w) * x);
                products.sum::<i128>().rem_euclid(t)
            };
            rows.iter().map(dot).collect()
        };
        let square = |x: Vec<i128>| -> Vec<i128> { x.iter().map(|x| x * x % t).collect() };
        let at_slot = |row: &Vec<u64>| i128::from(row.get(slot).copied().unwrap_or_default());
        let inputs: Vec<i128> = self.inputs.iter().map(at_slot).collect();
        let hidden = square(apply(&self.convolution, &inputs));
        let hidden = square(apply(&self.dense, &hidden));
        let last = apply(&self.last, &hidden);
        last.into_iter().map(|x| u64::try_from(x).unwrap_or_default()).collect()
    }
}

/// Keys and constants for one plaintext modulus.
struct Machine {
    params: Arc<BfvParameters>,
    key: SecretKey,
    squares: Multiplicator,
    /// The constants 1 to 7.
    constants: Vec<Plaintext>,
    rng: ChaCha20Rng,
}

impl Machine {
    fn new(t: u64) -> Result<Self> {
        let params = BfvParametersBuilder::new()
            .set_degree(RING_DEGREE)
            .set_plaintext_modulus(t)
            .set_moduli_sizes(&MODULI_BITS)
            .build_arc()?;
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let key = SecretKey::random(&params, &mut rng);
        let squares = Multiplicator::default(&RelinearizationKey::new(&key, &mut rng)?)?;
        let constants = (1..=u64::from(MAX_WEIGHT))
            .map(|w| Ok(Plaintext::try_encode(&vec![w; RING_DEGREE], Encoding::simd(), &params)?))
            .collect::<Result<_>>()?;
        Ok(Self { params, key, squares, constants, rng })
    }

    fn encrypt(&mut self, values: &Vec<u64>) -> Result<Ciphertext> {
        let plaintext = Plaintext::try_encode(values, Encoding::simd(), &self.params)?;
        Ok(self.key.try_encrypt(&plaintext, &mut self.rng)?)
    }

    /// `Σ w·x` for every row; inputs take turns.
    fn apply(&self, rows: &Rows, inputs: &[Ciphertext]) -> Result<Vec<Ciphertext>> {
        rows.iter().map(|row| self.dot(row, inputs)).collect()
    }

    fn dot(&self, row: &[i64], inputs: &[Ciphertext]) -> Result<Ciphertext> {
        let side = |sign: i64| -> Result<Option<Ciphertext>> {
            let mut factors = Vec::with_capacity(row.len());
            for (&weight, input) in row.iter().zip(inputs.iter().cycle()) {
                let constant =
                    usize::try_from(sign * weight - 1).ok().and_then(|i| self.constants.get(i));
                factors.extend(constant.map(|constant| (input, constant)));
            }
            if factors.is_empty() {
                return Ok(None);
            }
            let (inputs, constants) = (factors.iter().map(|f| f.0), factors.iter().map(|f| f.1));
            Ok(Some(dot_product_scalar(inputs, constants)?))
        };
        Ok(match (side(1)?, side(-1)?) {
            (Some(plus), Some(minus)) => &plus - &minus,
            (Some(plus), None) => plus,
            (None, Some(minus)) => -minus,
            (None, None) => Ciphertext::zero(&self.params),
        })
    }

    fn square(&self, inputs: &[Ciphertext]) -> Result<Vec<Ciphertext>> {
        inputs.iter().map(|x| Ok(self.squares.multiply(x, x)?)).collect()
    }
}

/// Measure every step with plaintext modulus `t` on `part` outputs of each layer, and check every
/// slot of the result.
///
/// # Errors
/// The library refuses the parameters, or its result is wrong.
#[expect(clippy::cast_precision_loss, reason = "small counts")]
pub(super) fn measure(t: u64, part: usize) -> Result<Steps> {
    let problem = Problem::draw(part);
    let mut machine = Machine::new(t)?;
    let started = Instant::now();
    let inputs =
        problem.inputs.iter().map(|values| machine.encrypt(values)).collect::<Result<Vec<_>>>()?;
    let encrypt = started.elapsed().as_secs_f64() / inputs.len() as f64;
    let request_bytes = inputs.first().map_or(0, |input| input.to_bytes().len());

    let started = Instant::now();
    let hidden = machine.apply(&problem.convolution, &inputs)?;
    let convolution_product = started.elapsed().as_secs_f64() / (part * CONVOLUTION_TAPS) as f64;

    let started = Instant::now();
    let hidden = machine.square(&hidden)?;
    let first_squares = started.elapsed().as_secs_f64();

    let started = Instant::now();
    let hidden = machine.apply(&problem.dense, &hidden)?;
    let dense_product = started.elapsed().as_secs_f64() / (part * DENSE_TAPS) as f64;

    let started = Instant::now();
    let hidden = machine.square(&hidden)?;
    let square = (first_squares + started.elapsed().as_secs_f64()) / (2 * part) as f64;

    let outputs = machine.apply(&problem.last, &hidden)?;
    let reply_bytes = outputs.first().map_or(0, |output| output.to_bytes().len());
    let started = Instant::now();
    let decoded = outputs
        .iter()
        .map(|output| {
            let plaintext = machine.key.try_decrypt(output)?;
            Ok(Vec::<u64>::try_decode(&plaintext, Encoding::simd())?)
        })
        .collect::<Result<Vec<_>>>()?;
    let decrypt = started.elapsed().as_secs_f64() / part as f64;
    check(&problem, &decoded, t)?;
    Ok(Steps {
        encrypt,
        convolution_product,
        dense_product,
        square,
        decrypt,
        request_bytes,
        reply_bytes,
    })
}

fn check(problem: &Problem, decoded: &[Vec<u64>], t: u64) -> Result<()> {
    for slot in 0..RING_DEGREE {
        let expected = problem.expected(slot, t);
        let found = decoded.iter().map(|row| row.get(slot).copied().unwrap_or_default());
        if !expected.iter().copied().eq(found) {
            bail!("slot {slot} of the peer is wrong: its noise outgrew {MODULI_BITS:?} bits");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::cast_precision_loss, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    #[test]
    fn the_plaintext_moduli_hold_the_last_layer() {
        // Inputs to 15, weights to 7: through both squares and all three layers.
        let (x, w) = (f64::from(MAX_INPUT), f64::from(MAX_WEIGHT));
        let first = (25.0 * w * x).powi(2);
        let second = (845.0 * w * first).powi(2);
        let range = 2.0 * 100.0 * w * second;
        let moduli = plaintext_moduli().unwrap();
        assert!(moduli.iter().map(|&t| t as f64).product::<f64>() > range);
        assert!(moduli.iter().take(2).map(|&t| t as f64).product::<f64>() < range);
        assert!(moduli.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn a_small_part_is_computed_right_and_takes_time() {
        let t = plaintext_moduli().unwrap()[0];
        let steps = measure(t, 2).unwrap();
        for seconds in [steps.encrypt, steps.convolution_product, steps.square, steps.decrypt] {
            assert!(seconds > 0.0, "{steps:?}");
        }
        assert!(
            steps.request_bytes < steps.reply_bytes,
            "a fresh half comes from a seed: {steps:?}"
        );
    }
}
