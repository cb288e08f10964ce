//! The primitives a segment is made of, at the sizes of `docs/kernels.md`.
//!
//! `cargo bench -p securedl-he-core` measures; `-- --test` runs everything once. Figures are wall
//! time: set `RAYON_NUM_THREADS=1` for one core.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "benchmarks"
)]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use he_core::{
    Backend, BlockEncryptor, CiphertextBlock, CoefficientEncoder, Decryptor, Group, LinearMap,
    PADDING, Params, ParamsSpec, Placement, Plaintext, SecretKey, SlotEncoder, WordCheck, bytes,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

const T: u64 = 65_537;

fn params(ring_degree: usize, t: u128, bits: &[u32]) -> Params {
    Params::new(ParamsSpec::with_bits(ring_degree, t, bits).unwrap()).unwrap()
}

/// The two shapes of the protocol: a linear segment and a segment with a square.
fn shapes() -> [(&'static str, Params); 2] {
    [("2048x30", params(2048, T.into(), &[30])), ("4096x46+47", params(4096, T.into(), &[46, 47]))]
}

/// A block of pseudo-random ciphertexts: expansions of a seed, so that it costs no encryption.
fn block(params: &Params, count: usize) -> CiphertextBlock {
    let mut block = CiphertextBlock::zeros(params, count, 1, params.moduli().len()).unwrap();
    let zeros = vec![0; count * bytes::request_bytes(params)];
    bytes::read_request_into(&mut block, 0, he_core::PublicSeed([1; 32]), &zeros).unwrap();
    // Both polynomials random: a dense map of the expansions.
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let seeds: Vec<_> = (0..count).map(|_| rng.random::<u32>() as usize % count).collect();
    let mut mixed = block.select(&seeds).unwrap();
    mixed.add_assign(&block).unwrap();
    mixed
}

fn key_operations(c: &mut Criterion) {
    let mut group = c.benchmark_group("key");
    for (name, params) in shapes() {
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let key = SecretKey::generate(&params, &mut rng);
        let encoder = SlotEncoder::new(&params).unwrap();
        let values: Vec<i64> = (0..params.ring_degree() as i64).collect();
        let plaintexts: Vec<Plaintext> =
            (0..32).map(|_| encoder.encode(&values).unwrap()).collect();
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("generate", name), |b| {
            b.iter(|| SecretKey::generate(&params, &mut rng));
        });
        group.bench_function(BenchmarkId::new("encode", name), |b| {
            b.iter(|| encoder.encode(black_box(&values)).unwrap());
        });
        let mut rng = ChaCha20Rng::seed_from_u64(3);
        let mut encrypted = None;
        group.throughput(Throughput::Elements(32));
        group.bench_function(BenchmarkId::new("encrypt 32", name), |b| {
            b.iter(|| {
                let mut encryptor = BlockEncryptor::new(&key, &mut rng);
                encrypted = Some(encryptor.encrypt_next(&plaintexts).unwrap());
            });
        });
        let encrypted = encrypted.unwrap();
        let decryptor = Decryptor::new(&key);
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("decrypt and decode", name), |b| {
            b.iter(|| encoder.decode(&decryptor.decrypt(&encrypted, 0).unwrap()).unwrap());
        });
    }
    let params = params(4096, 1 << 80, &[47, 47]);
    let encoder = CoefficientEncoder::new(&params, 16, 5).unwrap();
    let key = SecretKey::generate(&params, &mut ChaCha20Rng::seed_from_u64(2));
    let values: Vec<i64> = (0..5 * 4096).map(|i| i % 16).collect();
    group.bench_function("encode/5 samples per coefficient", |b| {
        b.iter(|| encoder.encode(black_box(&values)).unwrap());
    });
    let mut rng = ChaCha20Rng::seed_from_u64(3);
    let plaintext = encoder.encode(&values).unwrap();
    let encrypted = BlockEncryptor::new(&key, &mut rng).encrypt_next(&[plaintext]).unwrap();
    let decryptor = Decryptor::new(&key);
    group.bench_function("decrypt and decode/5 samples per coefficient", |b| {
        b.iter(|| {
            encoder.decode_from(&decryptor.decrypt(&encrypted, 0).unwrap(), -32_768).unwrap()
        });
    });
    group.finish();
}

/// Weights in `[-7, 7]`: 4-bit.
fn weights(count: usize) -> Vec<i32> {
    let mut rng = ChaCha20Rng::seed_from_u64(4);
    (0..count).map(|_| rng.random_range(-7..=7)).collect()
}

/// 5 maps of 5×5 taps at stride 2 over 28×28 inputs, padded to 13×13 outputs.
fn convolution() -> LinearMap {
    let tap = |y: i64, x: i64| {
        if (0..28).contains(&y) && (0..28).contains(&x) { (28 * y + x) as u32 } else { PADDING }
    };
    let placements = (0..169)
        .map(|p| {
            let (y, x) = (2 * (p / 13) - 1, 2 * (p % 13) - 1);
            let inputs = (0..25).map(|k| tap(y + k / 5, x + k % 5)).collect();
            Placement { inputs, first_output: 5 * p as u32, output_stride: 1 }
        })
        .collect();
    let group = Group { weights: weights(5 * 25), n_rows: 5, n_taps: 25, placements };
    LinearMap::new(784, 845, vec![group], vec![1; 845]).unwrap()
}

/// 50 maps of 5×5 taps over 20 channels of 12×12: the second convolution of `securedl`.
fn wide_convolution() -> LinearMap {
    let placements = (0..64)
        .map(|p| {
            let (y, x) = (p / 8, p % 8);
            let tap = |k: u32| 20 * (12 * (y + k / 100) + x + k / 20 % 5) + k % 20;
            let inputs = (0..500).map(tap).collect();
            Placement { inputs, first_output: 50 * p, output_stride: 1 }
        })
        .collect();
    let group = Group { weights: weights(50 * 500), n_rows: 50, n_taps: 500, placements };
    LinearMap::new(2880, 3200, vec![group], vec![1; 3200]).unwrap()
}

/// Throughput counts residue multiply-adds: `G elem/s` is G residue-MAC/s.
fn linear_maps(c: &mut Criterion) {
    let mut group = c.benchmark_group("linear");
    group.sample_size(10);
    let dense = |n_out: usize, n_in: usize| {
        LinearMap::dense(n_out, n_in, &weights(n_out * n_in), &vec![1; n_out]).unwrap()
    };
    let one = params(2048, T.into(), &[30]);
    let two = params(4096, T.into(), &[47]);
    for (name, map, params, macs) in [
        ("dense 800-64 30 bit", dense(64, 800), &one, 64 * 800),
        ("dense 845-100 30 bit", dense(100, 845), &one, 100 * 845),
        ("convolution 5x25x169 30 bit", convolution(), &one, 845 * 25),
        ("dense 800-64 47 bit", dense(64, 800), &two, 64 * 800),
        ("dense 845-100 47 bit", dense(100, 845), &two, 100 * 845),
        ("convolution 5x25x169 47 bit", convolution(), &two, 845 * 25),
        ("convolution 50x500x64 30 bit", wide_convolution(), &one, 3200 * 500),
    ] {
        let input = block(params, map.n_inputs());
        group.throughput(Throughput::Elements(macs * 2 * params.ring_degree() as u64));
        for backend in Backend::available() {
            if backend == Backend::Scalar && macs > 100_000 {
                continue;
            }
            // The words do not depend on the kernel: read them under another one.
            let params = params.with_backend(backend).unwrap();
            let mut raw = Vec::new();
            bytes::write_reply(&input, &mut raw);
            let mut input = CiphertextBlock::zeros(&params, input.count(), 1, 1).unwrap();
            bytes::read_reply_into(&mut input, 0, &raw).unwrap();
            group.bench_function(BenchmarkId::new(name, backend.name()), |b| {
                b.iter(|| map.apply(black_box(&input)).unwrap());
            });
        }
    }
    group.finish();
}

fn block_operations(c: &mut Criterion) {
    let mut group = c.benchmark_group("block of 32");
    for (name, params) in shapes() {
        let input = block(&params, 32);
        group.throughput(Throughput::Elements(32));
        if params.moduli().len() > 1 {
            group.bench_function(BenchmarkId::new("square", name), |b| {
                b.iter(|| black_box(&input).square().unwrap());
            });
            let square = input.square().unwrap();
            group.bench_function(BenchmarkId::new("modulus switch", name), |b| {
                b.iter(|| black_box(&square).mod_switch_down().unwrap());
            });
        }
        let mut out = Vec::new();
        group.bench_function(BenchmarkId::new("write reply", name), |b| {
            b.iter(|| {
                out.clear();
                bytes::write_reply(black_box(&input), &mut out);
            });
        });
        let mut read = CiphertextBlock::zeros(&params, 32, 1, params.moduli().len()).unwrap();
        group.bench_function(BenchmarkId::new("read reply", name), |b| {
            b.iter(|| bytes::read_reply_into(&mut read, 0, black_box(&out)).unwrap());
        });
        let mut request = Vec::new();
        bytes::write_request(&input, &mut request);
        let seed = he_core::PublicSeed([1; 32]);
        group.bench_function(BenchmarkId::new("read request", name), |b| {
            b.iter(|| bytes::read_request_into(&mut read, 0, seed, black_box(&request)).unwrap());
        });
    }
    group.finish();
}

fn word_checks(c: &mut Criterion) {
    let mut group = c.benchmark_group("word check");
    for (name, params) in shapes() {
        let map = LinearMap::dense(64, 800, &weights(64 * 800), &[1; 64]).unwrap();
        let wide = wide_convolution();
        let mut rng = ChaCha20Rng::seed_from_u64(5);
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("prepare 800-64", name), |b| {
            b.iter(|| WordCheck::new(&map, &params, 2, &mut rng).unwrap());
        });
        group.bench_function(BenchmarkId::new("prepare 50x500x64", name), |b| {
            b.iter(|| WordCheck::new(&wide, &params, 2, &mut rng).unwrap());
        });
        let input = block(&params, 800);
        for piece in [8, 800] {
            let part = input.select(&(0..piece).collect::<Vec<_>>()).unwrap();
            group.throughput(Throughput::Elements(piece as u64));
            group.bench_function(BenchmarkId::new(format!("absorb {piece}"), name), |b| {
                b.iter_batched_ref(
                    || WordCheck::new(&map, &params, 2, &mut rng).unwrap(),
                    |check| check.absorb_input(0, black_box(&part)).unwrap(),
                    criterion::BatchSize::LargeInput,
                );
            });
        }
    }
    group.finish();
}

criterion_group!(benches, key_operations, linear_maps, block_operations, word_checks);
criterion_main!(benches);
