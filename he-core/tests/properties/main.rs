//! Laws of the crate over random parameters, values, maps and bytes.
//!
//! Toy rings keep a case below a millisecond; the larger ones are at the end of each file. Every
//! failure prints its input, and proptest stores the shrunk case under `proptest-regressions`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::needless_range_loop,
    reason = "tests"
)]

mod blocks;
mod coefficients;
mod degrees;
mod encryption;
mod keys;
mod leveled;
mod levels;
mod linear;
mod packed;
mod pooled;
mod reference;
mod rerandomize;
mod slots;
mod switching;
mod wire;
mod word_check;

use he_core::{Params, ParamsSpec};
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

/// INSECURE toy parameters with the largest primes of the given sizes.
fn toy(ring_degree: usize, plaintext_modulus: u128, bits: &[u32]) -> Params {
    let spec = ParamsSpec::with_bits(ring_degree, plaintext_modulus, bits).unwrap();
    Params::insecure_new(spec).unwrap()
}

/// A seeded generator: the seed is part of the printed case.
fn generator(seed: u64) -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(seed)
}

/// Ring degrees 32 to 256.
fn ring_degrees() -> impl Strategy<Value = usize> {
    (5_u32..=8).prop_map(|log2| 1 << log2)
}

fn cases(count: u32) -> ProptestConfig {
    ProptestConfig { cases: count, ..ProptestConfig::default() }
}
