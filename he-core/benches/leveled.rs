//! Products, rotations and keys at N = 8192, four moduli of 41 bits and a special one of 47, beside the
//! crate `fhe` (BFV) at the same ring degree and ciphertext modulus in the same run.
//!
//! `RAYON_NUM_THREADS=1 cargo bench -p securedl-he-core --bench leveled` measures on one core; `--
//! --test` runs everything once.

#![allow(missing_docs, clippy::unwrap_used, reason = "benchmarks")]

use std::{hint::black_box, sync::Arc};

use criterion::{Criterion, criterion_group, criterion_main};
use fhe::bfv::{
    BfvParameters, BfvParametersBuilder, Encoding, EvaluationKeyBuilder, Multiplicator,
    RelinearizationKey,
};
use fhe_traits::{FheEncoder, FheEncrypter};
use he_core::{
    BlockEncryptor, CiphertextBlock, EvaluationKeys, KeySet, Params, ParamsSpec, PublicKey,
    RowEncoder, SecretKey,
};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

const N: usize = 8192;
const T: u64 = 65_537;
const BITS: [u32; 4] = [41; 4];

/// This crate: BGV with a special modulus.
fn bgv(c: &mut Criterion) {
    let spec = ParamsSpec::with_bits(N, T.into(), &BITS).unwrap();
    let special = spec.further_primes(&[47]).unwrap();
    let params = Params::with_special_moduli(spec, special).unwrap();
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let key = SecretKey::generate(&params, &mut rng);
    let set = KeySet::new().with_relinearization().with_rotation(1);
    let keys = EvaluationKeys::generate(&key, &set, &mut rng).unwrap();
    let public = PublicKey::generate(&key, &mut rng);
    let encoder = RowEncoder::new(&params).unwrap();
    let values: Vec<i64> = (0..8192).collect();
    let plaintext = encoder.encode(&values).unwrap();
    let encrypt = |rng: &mut ChaCha20Rng| -> CiphertextBlock {
        let plaintext = encoder.encode(&values).unwrap();
        BlockEncryptor::new(&key, rng).encrypt_next(&[plaintext]).unwrap()
    };
    let (x, y) = (encrypt(&mut rng), encrypt(&mut rng));
    let product = x.multiply(&y).unwrap();

    let mut group = c.benchmark_group("8192x4x41+47");
    group.bench_function("multiply and relinearize", |b| {
        b.iter(|| black_box(&x).multiply_relinearized(&y, &keys).unwrap());
    });
    group.bench_function("multiply, relinearize and switch", |b| {
        b.iter(|| {
            let product = black_box(&x).multiply_relinearized(&y, &keys).unwrap();
            product.mod_switch_down().unwrap()
        });
    });
    group.bench_function("multiply", |b| b.iter(|| black_box(&x).multiply(&y).unwrap()));
    group.bench_function("relinearize", |b| {
        b.iter(|| black_box(&product).relinearize(&keys).unwrap());
    });
    group.bench_function("rotate rows", |b| {
        b.iter(|| black_box(&x).rotate_rows(1, &keys).unwrap());
    });
    group.bench_function("multiply by a plaintext", |b| {
        b.iter(|| {
            let mut out = black_box(&x).clone();
            out.multiply_plaintext(&plaintext).unwrap();
            out
        });
    });
    group.bench_function("encrypt with a public key", |b| {
        b.iter(|| public.encrypt(std::slice::from_ref(black_box(&plaintext)), &mut rng).unwrap());
    });
    let bytes = keys.to_bytes();
    group.bench_function("read two keys", |b| {
        b.iter(|| EvaluationKeys::from_bytes(&params, 2, black_box(&bytes)).unwrap());
    });
    group.finish();
}

/// The crate `fhe`: BFV over four moduli of 41 bits, whose keys need no special one.
fn bfv(c: &mut Criterion) {
    let mut builder = BfvParametersBuilder::new();
    builder.set_degree(N).set_plaintext_modulus(T).set_moduli_sizes(&[41; 4]);
    let params: Arc<BfvParameters> = builder.build_arc().unwrap();
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let key = fhe::bfv::SecretKey::random(&params, &mut rng);
    let relinearization = RelinearizationKey::new(&key, &mut rng).unwrap();
    let evaluation = EvaluationKeyBuilder::new(&key)
        .unwrap()
        .enable_column_rotation(1)
        .unwrap()
        .build(&mut rng)
        .unwrap();
    let values: Vec<u64> = (0..8192).collect();
    let plaintext = fhe::bfv::Plaintext::try_encode(&values, Encoding::simd(), &params).unwrap();
    let x: fhe::bfv::Ciphertext = key.try_encrypt(&plaintext, &mut rng).unwrap();
    let y: fhe::bfv::Ciphertext = key.try_encrypt(&plaintext, &mut rng).unwrap();
    let multiplicator = Multiplicator::default(&relinearization).unwrap();

    let mut group = c.benchmark_group("crate fhe 8192x4x41");
    group.bench_function("multiply and relinearize", |b| {
        b.iter(|| multiplicator.multiply(black_box(&x), &y).unwrap());
    });
    group.bench_function("rotate columns", |b| {
        b.iter(|| evaluation.rotates_columns_by(black_box(&x), 1).unwrap());
    });
    group.finish();
}

criterion_group!(benches, bgv, bfv);
criterion_main!(benches);
