//! Every step of a segment besides the linear map, per ciphertext.

use anyhow::Result;
use he_core::{
    Backend, BlockEncryptor, CiphertextBlock, CoefficientEncoder, Decryptor, LinearMap, Params,
    ParamsSpec, Plaintext, PublicSeed, SecretKey, SlotEncoder, WordCheck, bytes,
};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::Serialize;

use super::clock;
use super::kernels::PLAINTEXT_MODULUS;
use super::layer::{block, weights};
use crate::report::figures::{Figures, or_dash};
use crate::report::progress::Progress;
use crate::report::units;

/// Ciphertexts of one measured block.
const N_CIPHERTEXTS: usize = 32;
/// Secret rows of the word check.
const CHECK_ROWS: usize = 2;
/// Bits of one packed digit.
const RADIX_BITS: u32 = 16;

/// The rings: of linear segments, and of segments with a square.
const RINGS: [RingSize; 2] = [
    RingSize { name: "N = 2048, 30 bit", degree: 2048, bits: &[30], samples: 1 },
    RingSize { name: "N = 4096, 46 + 47 bit", degree: 4096, bits: &[46, 47], samples: 5 },
];

/// What the table does not say by itself.
pub(super) const NOTES: [&str; 2] = [
    "Transforms are of one polynomial modulo the first prime, all others of one ciphertext over all \
     primes, from blocks of 32. Degree 2 is what a square leaves; it is decrypted after the switch.",
    "Seed expansion is reading a request less unpacking one polynomial, both measured.",
];

#[derive(Debug, Clone, Copy)]
struct RingSize {
    name: &'static str,
    degree: usize,
    bits: &'static [u32],
    /// Samples per coefficient of the packed encoding.
    samples: usize,
}

/// One step, measured.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Operation {
    operation: &'static str,
    ring: &'static str,
    nanoseconds: f64,
    runs: usize,
}

/// Measures steps of one ring.
struct Bench {
    ring: RingSize,
    seconds: f64,
    found: Vec<Operation>,
}

impl Bench {
    /// Time `work`, which does the step `count` times; returns nanoseconds of one.
    #[expect(clippy::cast_precision_loss, reason = "small counts")]
    fn step(
        &mut self,
        operation: &'static str,
        count: usize,
        work: impl FnMut() -> he_core::Result<()>,
    ) -> Result<f64> {
        let timing = clock::measure(self.seconds, work)?;
        let nanoseconds = timing.seconds * 1e9 / count as f64;
        self.push(operation, nanoseconds, timing.runs);
        Ok(nanoseconds)
    }

    fn push(&mut self, operation: &'static str, nanoseconds: f64, runs: usize) {
        self.found.push(Operation { operation, ring: self.ring.name, nanoseconds, runs });
    }
}

/// Measure every step with this backend; call it where one thread computes.
pub(super) fn measure(
    backend: Backend,
    seconds: f64,
    progress: &Progress,
) -> Result<Vec<Operation>> {
    let bar = progress.bar("other steps", RINGS.len() as u64);
    let mut found = Vec::new();
    for ring in RINGS {
        bar.message(ring.name);
        let spec = ParamsSpec::with_bits(ring.degree, PLAINTEXT_MODULUS.into(), ring.bits)?;
        let params = Params::new(spec)?.with_backend(backend)?;
        let mut bench = Bench { ring, seconds, found: Vec::new() };
        transforms(&mut bench, &params)?;
        key_operations(&mut bench, &params)?;
        packed_coefficients(&mut bench)?;
        block_operations(&mut bench, &params)?;
        word_check(&mut bench, &params)?;
        found.append(&mut bench.found);
        bar.advance(1);
    }
    bar.finish("other steps");
    Ok(found)
}

fn transforms(bench: &mut Bench, params: &Params) -> Result<()> {
    let mut words: Vec<u64> = (0..params.ring_degree() as u64).collect();
    bench.step("transform, forward", 1, || params.forward_transform(0, &mut words))?;
    bench.step("transform, inverse", 1, || params.inverse_transform(0, &mut words))?;
    Ok(())
}

/// Keys and ciphertexts of a measurement protect nothing: a fixed seed will do.
fn generator() -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(2)
}

fn key_operations(bench: &mut Bench, params: &Params) -> Result<()> {
    let mut rng = generator();
    bench.step("key generation", 1, || {
        SecretKey::generate(params, &mut rng);
        Ok(())
    })?;
    let key = SecretKey::generate(params, &mut rng);
    let encoder = SlotEncoder::new(params)?;
    let values: Vec<i64> = (0..).take(params.ring_degree()).collect();
    bench.step("encode slots", 1, || encoder.encode(&values).map(drop))?;
    let plaintexts = (0..N_CIPHERTEXTS)
        .map(|_| encoder.encode(&values))
        .collect::<he_core::Result<Vec<Plaintext>>>()?;
    bench.step("encrypt", N_CIPHERTEXTS, || {
        BlockEncryptor::new(&key, &mut rng).encrypt_next(&plaintexts).map(drop)
    })?;
    let fresh = BlockEncryptor::new(&key, &mut generator()).encrypt_next(&plaintexts)?;
    let decryptor = Decryptor::new(&key);
    let mut decrypt = |name, block: &CiphertextBlock| {
        bench.step(name, N_CIPHERTEXTS, || {
            (0..N_CIPHERTEXTS)
                .try_for_each(|index| encoder.decode(&decryptor.decrypt(block, index)?).map(drop))
        })
    };
    decrypt("decrypt and decode, degree 1", &fresh)?;
    if params.moduli().len() > 1 {
        let switched = fresh.square()?.mod_switch_down()?;
        decrypt("decrypt and decode, degree 2", &switched)?;
    }
    Ok(())
}

/// Several samples per coefficient, as linear segments pack them.
fn packed_coefficients(bench: &mut Bench) -> Result<()> {
    let RingSize { degree, bits, samples, .. } = bench.ring;
    let radix_bits = if samples == 1 { RADIX_BITS / 2 } else { RADIX_BITS };
    let t = 1_u128 << (u64::from(radix_bits) * samples as u64);
    let params = Params::new(ParamsSpec::with_bits(degree, t, bits)?)?;
    let encoder = CoefficientEncoder::new(&params, radix_bits, samples)?;
    let values: Vec<i64> = (0..16).cycle().take(encoder.value_count()).collect();
    bench.step("encode coefficients", 1, || encoder.encode(&values).map(drop))?;
    let key = SecretKey::generate(&params, &mut generator());
    let plaintext = encoder.encode(&values)?;
    let fresh = BlockEncryptor::new(&key, &mut generator()).encrypt_next(&[plaintext])?;
    let message = Decryptor::new(&key).decrypt(&fresh, 0)?;
    bench.step("decode coefficients", 1, || encoder.decode_from(&message, 0).map(drop))?;
    Ok(())
}

fn block_operations(bench: &mut Bench, params: &Params) -> Result<()> {
    let count = N_CIPHERTEXTS;
    let input = block(params, count)?;
    let n_moduli = params.moduli().len();
    if n_moduli > 1 {
        let each: Vec<Vec<usize>> = (0..count).map(|index| vec![index]).collect();
        bench.step("square", count, || input.sums_of_squares(&each).map(drop))?;
        let square = input.square()?;
        bench.step("modulus switch, degree 2", count, || square.mod_switch_down().map(drop))?;
    }
    let (mut request, mut reply) = (Vec::new(), Vec::new());
    bench.step("write request", count, || {
        request.clear();
        bytes::write_request(&input, &mut request);
        Ok(())
    })?;
    bench.step("write reply", count, || {
        reply.clear();
        bytes::write_reply(&input, &mut reply);
        Ok(())
    })?;
    let mut read = CiphertextBlock::zeros(params, count, 1, n_moduli)?;
    let seed = PublicSeed([1; 32]);
    let of_request = bench
        .step("read request", count, || bytes::read_request_into(&mut read, 0, seed, &request))?;
    let of_reply =
        bench.step("read reply", count, || bytes::read_reply_into(&mut read, 0, &reply))?;
    bench.push("seed expansion", (of_request - of_reply / 2.0).max(0.0), 0);
    Ok(())
}

fn word_check(bench: &mut Bench, params: &Params) -> Result<()> {
    let count = N_CIPHERTEXTS;
    let map = LinearMap::dense(count, count, &weights(count * count), &vec![1; count])?;
    let input = block(params, count)?;
    let mut rng = generator();
    // A check takes every ciphertext once: making a new one is part of the time, and small.
    bench.step("word check, two rows", count, || {
        WordCheck::new(&map, params, CHECK_ROWS, &mut rng)?.absorb_input(0, &input)
    })?;
    Ok(())
}

/// One line per step, one column per ring, microseconds.
pub(super) fn figures(operations: &[Operation]) -> Figures {
    let mut columns = vec!["ns per ciphertext"];
    columns.extend(RINGS.map(|ring| ring.name));
    let mut figures = Figures::new(&columns, 1);
    let mut names: Vec<&'static str> = Vec::new();
    for operation in operations {
        if !names.contains(&operation.operation) {
            names.push(operation.operation);
        }
    }
    for name in names {
        let cells = RINGS.map(|ring| {
            let found = operations.iter().find(|o| o.operation == name && o.ring == ring.name);
            or_dash(found.map(|o| nanoseconds(o.nanoseconds)))
        });
        figures.row([name.to_owned()].into_iter().chain(cells));
    }
    figures
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a time for people, never negative"
)]
fn nanoseconds(value: f64) -> String {
    units::count(value.round() as u64)
}
