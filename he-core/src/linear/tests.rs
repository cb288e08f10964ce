//! The tile kernel on emulated registers: everything but six instructions, on any machine.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "tests"
)]

use super::*;
use crate::{
    Backend,
    ring::largest_prime,
    simd::amx::{Emulated, multiply},
};

const COLUMNS: usize = 32;

/// The largest primes of both widths in bytes, and of both digit counts.
fn rings() -> [Ring; 4] {
    let below = [0x7FFF_7FFF + 1, 1 << 32, crate::MAX_MODULUS + 1, 1 << 14];
    below.map(|below: u64| {
        let bits = u64::BITS - (below - 1).leading_zeros();
        Ring::new(COLUMNS, largest_prime(COLUMNS, bits, below).unwrap()).unwrap()
    })
}

/// A small deterministic generator (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// Often a boundary of the modulus.
    fn residue(&mut self, q: u64) -> u64 {
        match self.below(8) {
            i @ 0..=2 => i as u64,
            i @ 3..=5 => q - (i as u64 - 2),
            _ => self.next() % q,
        }
    }

    /// Weights up to `largest`, mostly saturated.
    fn weights(&mut self, count: usize, largest: i32) -> Vec<i32> {
        let weight = |r: &mut Self| match r.below(4) {
            0 | 1 => largest,
            2 => -largest,
            _ => r.below(2 * largest as usize + 1) as i32 - largest,
        };
        (0..count).map(|_| weight(self)).collect()
    }
}

fn placement(inputs: Vec<u32>, first_output: usize) -> Placement {
    Placement { inputs, first_output: first_output as u32, output_stride: 1 }
}

/// Compares the words of a map, wide groups on emulated tiles, with sums over 128-bit integers.
fn check(name: &str, n_inputs: usize, groups: Vec<Group>, expected_wide: usize) {
    let n_outputs = groups.iter().map(|g| g.n_rows * g.placements.len()).sum();
    let map = LinearMap::new(n_inputs, n_outputs, groups, vec![0; n_outputs]).unwrap();
    let work = Work::for_backend(&map, &(0..n_outputs), Backend::Amx).unwrap();
    assert_eq!(work.tiles.iter().filter(|t| t.wide.is_some()).count(), expected_wide, "{name}");
    for (seed, ring) in (0..).zip(rings()) {
        let (mut random, q) = (Random(seed), ring.value());
        let words: Vec<u64> = (0..n_inputs * COLUMNS).map(|_| random.residue(q)).collect();
        let mut out = vec![u64::MAX; n_outputs * COLUMNS];
        // Slabs of one and of two groups; a scratch that an earlier slab left full.
        for width in [16, 32] {
            simd::for_each_slab(&mut out, COLUMNS, width, Packed::default, |packed, mut slab| {
                work.pack(packed, &words, COLUMNS, &ring, &slab);
                for tile in &work.tiles {
                    match &tile.wide {
                        Some(wide) => multiply::<Emulated>(
                            tile,
                            wide,
                            &packed.bytes,
                            ring.reducer(),
                            &mut slab,
                        ),
                        None => {
                            let reducer = ring.reducer();
                            simd::multiply(Backend::Scalar, tile, packed, reducer, &mut slab);
                        }
                    }
                }
            });
            for (output, row) in expected(&map, &words, q).iter().zip(out.chunks_exact(COLUMNS)) {
                assert_eq!(output, row, "{name} modulo {q}, slabs of {width} columns");
            }
        }
    }
}

fn expected(map: &LinearMap, words: &[u64], q: u64) -> Vec<Vec<u64>> {
    let mut outputs = vec![Vec::new(); map.n_outputs()];
    for CompiledGroup { group, .. } in &map.groups {
        for placement in &group.placements {
            for (row, weights) in group.weights.chunks_exact(group.n_taps).enumerate() {
                let output = placement.first_output + row as u32 * placement.output_stride;
                outputs[output as usize] = (0..COLUMNS)
                    .map(|column| {
                        let products = weights.iter().zip(&placement.inputs).map(|(&w, &input)| {
                            let word = words.get(input as usize * COLUMNS + column);
                            i128::from(w) * i128::from(word.copied().unwrap_or(0))
                        });
                        products.sum::<i128>().rem_euclid(q.into()) as u64
                    })
                    .collect();
            }
        }
    }
    outputs
}

#[test]
fn dense_maps_on_tiles_equal_exact_integers() {
    // Fewest and odd taps, padded row tiles, several steps and chunks, one plane and two.
    for (n_rows, n_taps, largest) in [
        (16, 64, 127),
        (17, 65, 127),
        (33, 131, 7),
        (50, 500, 127),
        (16, 1100, 127),
        (16, 64, 128),
        (20, 129, 511),
        (16, 67, 32_639),
        (17, 1030, 32_639),
    ] {
        let weights = Random(n_taps as u64).weights(n_rows * n_taps, largest);
        let placements = vec![placement((0..n_taps as u32).collect(), 0)];
        let group = Group { weights, n_rows, n_taps, placements };
        check(&format!("{n_rows} rows, {n_taps} taps up to {largest}"), n_taps, vec![group], 1);
    }
}

#[test]
fn saturated_sums_on_tiles_do_not_overflow() {
    for weight in [127, -127, -128, 32_639, -32_639] {
        let (n_rows, n_taps) = (16, 1200);
        let placements = vec![placement(vec![0; n_taps], 0)];
        let group = Group { weights: vec![weight; n_rows * n_taps], n_rows, n_taps, placements };
        check(&format!("1200 taps of {weight}"), 1, vec![group], 1);
    }
}

#[test]
fn convolutions_on_tiles_equal_exact_integers() {
    let mut random = Random(1);
    // 3×3 taps over 20 channels of a 5×5 image with a border of zeros: runs of 15 quads, and quads
    // that a border cuts.
    let (side, channels, n_rows, n_taps) = (5, 20, 18, 180);
    let tap = |p: i64, k: i64| {
        let (y, x) = (p / side + k / 60 - 1, p % side + k / 20 % 3 - 1);
        let inside = (0..side).contains(&y) && (0..side).contains(&x);
        if inside { ((y * side + x) * channels + k % channels) as u32 } else { PADDING }
    };
    let placements = (0..side * side)
        .map(|p| placement((0..n_taps as i64).map(|k| tap(p, k)).collect(), n_rows * p as usize));
    let placements: Vec<_> = placements.collect();
    let weights = random.weights(n_rows * n_taps, 300);
    let wide = Group { weights, n_rows, n_taps, placements };
    check("a convolution", 500, vec![wide.clone()], 25);

    // Scattered inputs, and narrow and too heavy groups beside them: nothing is loaded directly.
    let scattered = |random: &mut Random| (0..100).map(|_| random.below(500) as u32).collect();
    let placements =
        vec![placement(scattered(&mut random), 450), placement(scattered(&mut random), 466)];
    let gathered =
        Group { weights: random.weights(1600, 127), n_rows: 16, n_taps: 100, placements };
    let placements = vec![placement(scattered(&mut random), 482)];
    let heavy = Group { weights: vec![32_640; 1600], n_rows: 16, n_taps: 100, placements };
    let placements = vec![placement(vec![3, PADDING, 499], 498)];
    let narrow = Group { weights: random.weights(60, 127), n_rows: 20, n_taps: 3, placements };
    check("four groups", 500, vec![wide, gathered, heavy, narrow], 27);
}

#[test]
fn other_backends_ignore_tiles() {
    let map = LinearMap::dense(16, 64, &[1; 1024], &[0; 16]).unwrap();
    for backend in Backend::ALL {
        let work = Work::for_backend(&map, &(0..16), backend).unwrap();
        assert_eq!(work.tiles[0].wide.is_some(), backend == Backend::Amx);
    }
    assert!(Work::new(&map, &(0..16)).unwrap().tiles[0].wide.is_none());
}
