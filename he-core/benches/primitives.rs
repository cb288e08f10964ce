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

/// `maps` maps of 5×5 taps at stride 1 over `side × side` planes of `channels` channels.
fn wide_convolution(side: u32, channels: u32, maps: usize) -> LinearMap {
    let out = side - 4;
    let n_taps = 25 * channels;
    let placements = (0..out * out)
        .map(|p| {
            let (y, x) = (p / out, p % out);
            let tap = |k: u32| {
                let (kernel, channel) = (k / channels, k % channels);
                channels * (side * (y + kernel / 5) + x + kernel % 5) + channel
            };
            let inputs = (0..n_taps).map(tap).collect();
            Placement { inputs, first_output: maps as u32 * p, output_stride: 1 }
        })
        .collect();
    let n_taps = n_taps as usize;
    let group = Group { weights: weights(maps * n_taps), n_rows: maps, n_taps, placements };
    let (n_inputs, n_outputs) = ((side * side * channels) as usize, maps * (out * out) as usize);
    LinearMap::new(n_inputs, n_outputs, vec![group], vec![1; n_outputs]).unwrap()
}

/// Outputs written over and over: no more of a layer than this is computed at a time, as the server
/// does.
const OUTPUT_BYTES: usize = 64 << 20;

/// A layer and how many of its outputs come together: those of one place.
struct Layer {
    name: &'static str,
    map: LinearMap,
    step: usize,
    /// Multiply-accumulates of one output.
    taps: u64,
}

fn layers() -> [Layer; 6] {
    let dense = |name, n_out: usize, n_in: usize| {
        let map = LinearMap::dense(n_out, n_in, &weights(n_out * n_in), &vec![1; n_out]).unwrap();
        Layer { name, map, step: n_out, taps: n_in as u64 }
    };
    let wide = wide_convolution(12, 20, 50);
    [
        Layer { name: "conv1 20x25x576", map: wide_convolution(28, 1, 20), step: 20, taps: 25 },
        Layer { name: "conv2 50x500x64", map: wide, step: 50, taps: 500 },
        dense("dense 800-256", 256, 800),
        dense("dense 845-100", 100, 845),
        dense("dense 100-10", 10, 100),
        Layer { name: "conv 5x25x169", map: convolution(), step: 5, taps: 25 },
    ]
}

/// Throughput counts residue multiply-adds, padding included: `G elem/s` is G residue-MAC/s.
fn linear_maps(c: &mut Criterion) {
    let mut group = c.benchmark_group("linear");
    group.sample_size(10);
    for (prime, params) in
        [("30 bit", params(2048, T.into(), &[30])), ("47 bit", params(4096, T.into(), &[47]))]
    {
        let row_words = 2 * params.ring_degree();
        for Layer { name, map, step, taps } in layers() {
            let fitting = OUTPUT_BYTES / (8 * row_words);
            for backend in Backend::available() {
                let words = row_words as u64 * taps;
                let mut outputs = (fitting / step).max(1) * step;
                if backend == Backend::Scalar {
                    // The specification is some thirty times slower: one place is enough.
                    outputs = step;
                }
                let outputs = outputs.min(map.n_outputs());
                // The words do not depend on the kernel, but a block carries its choice.
                let params = params.with_backend(backend).unwrap();
                let input = block(&params, map.n_inputs());
                let mut out = CiphertextBlock::zeros(&params, 0, 1, 1).unwrap();
                group.throughput(Throughput::Elements(words * outputs as u64));
                let id = format!("{name} {prime}");
                group.bench_function(BenchmarkId::new(id, backend.name()), |b| {
                    b.iter(|| {
                        map.apply_range_into(black_box(&input), 0..outputs, &mut out).unwrap();
                    });
                });
            }
        }
    }
    group.finish();
}

/// One polynomial modulo the first prime.
fn transforms(c: &mut Criterion) {
    let mut group = c.benchmark_group("transform");
    for (name, params) in shapes() {
        let mut words: Vec<u64> = (0..params.ring_degree() as u64).collect();
        group.bench_function(BenchmarkId::new("forward", name), |b| {
            b.iter(|| params.forward_transform(0, black_box(&mut words)).unwrap());
        });
        group.bench_function(BenchmarkId::new("inverse", name), |b| {
            b.iter(|| params.inverse_transform(0, black_box(&mut words)).unwrap());
        });
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
        let wide = wide_convolution(12, 20, 50);
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

criterion_group!(benches, transforms, key_operations, linear_maps, block_operations, word_checks);
criterion_main!(benches);
