//! Known answers of the tile kernel: what tests ask the emulated registers, and what the machine's
//! own must answer before they are used.

use super::{INPUTS, PackedBytes, Reducer, SlabRows, Tile, Tiles, WideTile, WideWeights, multiply};

const COLUMNS: usize = 32;

/// One product of a weight matrix with residues.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub(super) n_rows: usize,
    pub(super) n_taps: usize,
    pub(super) modulus: u64,
    /// Largest weight magnitude; every third weight has it.
    pub(super) max_weight: i32,
    /// Whether the packed lines are scattered, so that they must be gathered.
    pub(super) scattered: bool,
}

impl Case {
    fn weight(&self, index: usize) -> i32 {
        let mixed = (index * 7919 + 13) % (2 * self.max_weight.unsigned_abs() as usize + 1);
        #[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "small")]
        match index % 6 {
            0 => self.max_weight,
            3 => -self.max_weight,
            _ => mixed as i32 - self.max_weight,
        }
    }

    fn residue(&self, tap: usize, column: usize) -> u64 {
        let q = self.modulus;
        let mixed = (tap * COLUMNS + column) as u64;
        match (tap + column) % 5 {
            0 => q - 1,
            1 => q - 2,
            2 => mixed % 3,
            _ => mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15) % q,
        }
    }

    /// Whether the tile kernel gives what exact integers give; `None` when the case is not one for
    /// tiles.
    pub(super) fn agrees<T: Tiles>(&self) -> Option<bool> {
        let &Self { n_rows, n_taps, modulus, .. } = self;
        let weights: Vec<i32> = (0..n_rows * n_taps).map(|i| self.weight(i)).collect();
        let inputs: Vec<u32> = (0..).take(n_taps).collect();
        let wide = WideWeights::new(&weights, n_rows, &inputs)?;
        let n_quads = n_taps.div_ceil(INPUTS);
        // Seven steps on, modulo the count: neighbours are not neighbours any more.
        let place = |quad: usize| if self.scattered { quad * 7 % n_quads } else { quad };
        let mut packed = PackedBytes::default();
        packed.reset(modulus, n_quads, COLUMNS);
        for quad in 0..n_quads {
            let rows: [Option<Vec<u64>>; INPUTS] = core::array::from_fn(|i| {
                let tap = quad * INPUTS + i;
                (tap < n_taps).then(|| (0..COLUMNS).map(|c| self.residue(tap, c)).collect())
            });
            packed.pack(place(quad), COLUMNS, rows.each_ref().map(Option::as_deref));
        }
        let quads = (0..n_quads).map(|quad| u32::try_from(place(quad)).unwrap_or(0)).collect();
        let tile = Tile {
            pairs: Vec::new(),
            weights: &[],
            n_rows,
            first_output: 0,
            output_stride: 1,
            chunks: &[],
            wide: None,
        };
        let mut out = vec![u64::MAX; n_rows * COLUMNS];
        let mut slab = SlabRows::whole(&mut out, COLUMNS);
        let wide = WideTile::new(&wide, quads);
        multiply::<T>(&tile, &wide, &packed, Reducer::new(modulus), &mut slab);
        let expected = |row: usize, column: usize| {
            let products = (0..n_taps).map(|tap| {
                i128::from(self.weight(row * n_taps + tap)) * i128::from(self.residue(tap, column))
            });
            products.sum::<i128>().rem_euclid(modulus.into())
        };
        let agrees =
            |(i, &actual): (usize, &u64)| i128::from(actual) == expected(i / COLUMNS, i % COLUMNS);
        Some(out.iter().enumerate().all(agrees))
    }
}

/// Whether the machine's tiles give exact results: asked once, before they are used for anything.
#[cfg(target_arch = "x86_64")]
pub(super) fn hardware_agrees() -> bool {
    let wide = Case {
        n_rows: 50,
        n_taps: 150,
        modulus: crate::MAX_MODULUS,
        max_weight: 127,
        scattered: false,
    };
    let cases = [
        wide,
        Case { scattered: true, n_rows: 17, ..wide },
        Case { modulus: (1 << 30) - 35, max_weight: 32_639, n_taps: 601, ..wide },
    ];
    cases.iter().all(|case| case.agrees::<super::Hardware>() == Some(true))
}

#[cfg(test)]
mod tests {
    use super::{super::Emulated, *};

    #[test]
    fn emulated_tiles_give_what_integers_give() {
        for (n_rows, n_taps) in [(16, 64), (17, 65), (50, 500), (33, 127), (256, 80)] {
            // Both prime classes at their ends; one plane, the edge of two planes, saturated.
            for modulus in [(1 << 32) - 5, (1 << 32) + 15, crate::MAX_MODULUS] {
                for max_weight in [1, 127, 128, 32_639] {
                    for scattered in [false, true] {
                        let case = Case { n_rows, n_taps, modulus, max_weight, scattered };
                        assert_eq!(case.agrees::<Emulated>(), Some(true), "{case:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn narrow_layers_and_too_large_weights_are_left_to_digits() {
        let case = Case {
            n_rows: 16,
            n_taps: 64,
            modulus: (1 << 30) - 35,
            max_weight: 7,
            scattered: false,
        };
        for other in [
            Case { n_rows: 15, ..case },
            Case { n_taps: 63, ..case },
            Case { max_weight: 32_640, ..case },
        ] {
            assert_eq!(other.agrees::<Emulated>(), None, "{other:?}");
        }
        assert_eq!(case.agrees::<Emulated>(), Some(true));
    }
}
