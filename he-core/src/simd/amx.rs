//! Linear kernel on tiles: `tdpbsud` multiplies 16 rows of 64 signed weight bytes by 64 lines of 16
//! unsigned residue bytes and adds the products to 16 × 16 sums.
//!
//! Residues are cut into 4 or 6 bytes, weights into one or two signed bytes (planes). Everything but
//! the instructions themselves is generic over [`Tiles`], whose second implementation follows the
//! instruction set reference in plain Rust; tests compare it with big integers on any machine.
//!
//! Bounds: a chunk's `Σ|w|` of one plane is below 2^16, so a sum of byte products is below
//! `255·2^16 < 2^24` and the recombined sum below `q·2^16 < 2^63`. Planes are reduced one by one:
//! `r_0 + 256·r_1 < 2^8·q + q` is reduced again.

#[cfg(any(test, target_arch = "x86_64"))]
mod check;
#[cfg(test)]
mod emulated;
#[cfg(target_arch = "x86_64")]
mod hardware;
mod weights;

#[cfg(test)]
pub(crate) use emulated::Emulated;
#[cfg(target_arch = "x86_64")]
pub(crate) use hardware::Hardware;
pub(crate) use weights::{INPUTS, PackedBytes, WideWeights};

use super::{GROUP, Reducer, SlabRows, Tile, vectorize};
use weights::{TILE_LANES, TILE_ROWS};

/// Whether this process may use tiles, and they give exact results.
#[cfg(target_arch = "x86_64")]
pub(crate) fn is_usable() -> bool {
    static USABLE: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *USABLE.get_or_init(|| hardware::is_granted() && check::hardware_agrees())
}

/// Weights of one row tile.
const A: usize = 6;
/// One byte of 16 lines of inputs.
const B: usize = 7;

/// The tile registers of one thread: sums in 0 to 5, weights in [`A`], inputs in [`B`].
///
/// A and sums have the configured number of rows, B has 16; all rows are 16 lanes of 32 bits.
pub(crate) trait Tiles {
    /// Makes the registers usable, with `rows` (1 to 16) rows of weights and sums.
    fn configure(rows: usize) -> Self;

    /// Sets sums `index` to zero.
    fn zero(&mut self, index: usize);

    /// Loads the rows of register [`A`] from consecutive lanes.
    ///
    /// # Panics
    /// When `lanes` holds fewer than `rows` rows.
    fn load_weights(&mut self, lanes: &[u32]);

    /// Loads the 16 rows of register [`B`], `stride` lanes apart.
    ///
    /// # Panics
    /// When `lanes` ends before the last row.
    fn load_inputs(&mut self, lanes: &[u32], stride: usize);

    /// Adds the products of [`A`] and [`B`] to sums `index`, modulo 2^32.
    fn dot(&mut self, index: usize);

    /// Stores the rows of sums `index` one after another; the remaining lanes stay as they are.
    fn store(&mut self, index: usize, sums: &mut [i32; TILE_LANES]);
}

/// One weight matrix applied to one gather of inputs.
#[derive(Debug, Clone)]
pub(crate) struct WideTile<'a> {
    weights: &'a WideWeights,
    /// Packed line of each quad of inputs (index into [`PackedBytes`]).
    quads: Vec<u32>,
}

impl<'a> WideTile<'a> {
    /// Pairs weights with the packed lines of their inputs.
    ///
    /// # Panics
    /// When there is not a line for every four inputs.
    pub(crate) fn new(weights: &'a WideWeights, quads: Vec<u32>) -> Self {
        assert_eq!(quads.len(), weights.n_quads, "invariant: a line for every quad");
        Self { weights, quads }
    }

    /// Renumbers the packed lines.
    pub(crate) fn renumber(&mut self, new_index: &[u32]) {
        for quad in &mut self.quads {
            *quad = new_index.get(*quad as usize).copied().unwrap_or(*quad);
        }
    }
}

/// As [`super::multiply`], for a tile with wide weights.
///
/// # Panics
/// When a line or an output row of the tile does not exist.
pub(crate) fn multiply<T: Tiles>(
    tile: &Tile<'_>,
    wide: &WideTile<'_>,
    packed: &PackedBytes,
    reducer: Reducer,
    out: &mut SlabRows<'_>,
) {
    match packed.n_bytes {
        4 => Job::<T, 4>::new(tile, wide, packed, reducer).run(out),
        _ => Job::<T, 6>::new(tile, wide, packed, reducer).run(out),
    }
}

/// Where the lines of a step are.
#[derive(Clone, Copy)]
enum Source {
    /// Consecutive in the packed inputs, from this quad on.
    Run(usize),
    /// Copied to the scratch, from this lane on.
    Gathered(usize),
}

/// Residues of one row tile on one column group.
type Residues = [[u64; GROUP]; TILE_ROWS];

struct Job<'a, T, const BYTES: usize> {
    tile: &'a Tile<'a>,
    wide: &'a WideTile<'a>,
    packed: &'a PackedBytes,
    reducer: Reducer,
    tiles: T,
    sources: Vec<Source>,
    /// Lines of the steps that are no runs, on the current column group.
    scratch: Vec<u32>,
    sums: Box<[[i32; TILE_LANES]; BYTES]>,
}

#[expect(clippy::indexing_slicing, reason = "a panic here is a broken invariant of the caller")]
impl<'a, T: Tiles, const BYTES: usize> Job<'a, T, BYTES> {
    fn new(
        tile: &'a Tile<'a>,
        wide: &'a WideTile<'a>,
        packed: &'a PackedBytes,
        reducer: Reducer,
    ) -> Self {
        let mut n_gathered = 0;
        let sources: Vec<Source> = wide
            .weights
            .steps
            .iter()
            .map(|step| {
                let quads = &wide.quads[step.first..step.first + step.len];
                if quads.windows(2).all(|q| q[0] + 1 == q[1]) {
                    Source::Run(quads[0] as usize)
                } else {
                    n_gathered += 1;
                    Source::Gathered((n_gathered - 1) * TILE_ROWS * packed.line())
                }
            })
            .collect();
        Self {
            tile,
            wide,
            packed,
            reducer,
            tiles: T::configure(wide.weights.tile_rows),
            sources,
            scratch: vec![0; n_gathered * TILE_ROWS * packed.line()],
            sums: Box::new([[0; TILE_LANES]; BYTES]),
        }
    }

    fn run(&mut self, out: &mut SlabRows<'_>) {
        for group in 0..out.width() / GROUP {
            self.gather(group);
            for row_tile in 0..self.wide.weights.n_row_tiles() {
                for chunk in 0..self.wide.weights.chunks.len() {
                    let residues = self.row_tile(group, row_tile, chunk);
                    self.write(group, row_tile, chunk == 0, &residues, out);
                }
            }
        }
    }

    /// Copies the lines of every step that is not a run; lines beyond a step's end keep old values,
    /// which zero weights multiply.
    fn gather(&mut self, group: usize) {
        let line = self.packed.line();
        let lanes = &self.packed.lanes[group * self.packed.group_len()..];
        for (step, source) in self.wide.weights.steps.iter().zip(&self.sources) {
            if let Source::Gathered(start) = *source {
                let quads = &self.wide.quads[step.first..step.first + step.len];
                for (target, &quad) in self.scratch[start..].chunks_exact_mut(line).zip(quads) {
                    target.copy_from_slice(&lanes[quad as usize * line..][..line]);
                }
            }
        }
    }

    /// The residues of one chunk: all planes, recombined and reduced.
    fn row_tile(&mut self, group: usize, row_tile: usize, chunk: usize) -> Residues {
        let mut residues = [[0; GROUP]; TILE_ROWS];
        // The highest plane first, as in Horner's scheme.
        for plane in (0..self.wide.weights.planes).rev() {
            self.sum(group, row_tile, plane, chunk);
            let (sums, reducer, rows) = (&*self.sums, self.reducer, self.wide.weights.tile_rows);
            let residues = &mut residues[..rows];
            vectorize(
                #[inline(always)]
                || recombine(sums, reducer, residues),
            );
        }
        residues
    }

    /// Sums the byte products of one plane over the steps of a chunk.
    fn sum(&mut self, group: usize, row_tile: usize, plane: usize, chunk: usize) {
        let weights = self.wide.weights;
        let (first, last) = weights.chunks[chunk];
        let line = self.packed.line();
        let lanes = &self.packed.lanes[group * self.packed.group_len()..];
        for byte in 0..BYTES {
            self.tiles.zero(byte);
        }
        for step in first..last {
            self.tiles.load_weights(&weights.lanes[weights.tile(row_tile, plane, step)..]);
            let inputs = match self.sources[step] {
                Source::Run(quad) => &lanes[quad * line..],
                Source::Gathered(start) => &self.scratch[start..],
            };
            for byte in 0..BYTES {
                self.tiles.load_inputs(&inputs[byte * GROUP..], line);
                self.tiles.dot(byte);
            }
        }
        for (byte, sums) in self.sums.iter_mut().enumerate() {
            self.tiles.store(byte, sums);
        }
    }

    /// Writes residues to the output rows, or adds them to those of the chunks before.
    fn write(
        &self,
        group: usize,
        row_tile: usize,
        first: bool,
        residues: &Residues,
        out: &mut SlabRows<'_>,
    ) {
        let rows = self.wide.weights.tile_rows;
        for (row, residues) in (row_tile * rows..self.tile.n_rows).zip(&residues[..rows]) {
            let target = out.row_mut(self.tile.first_output + row * self.tile.output_stride);
            let target = &mut target[group * GROUP..(group + 1) * GROUP];
            if first {
                target.copy_from_slice(residues);
            } else {
                for (cell, &value) in target.iter_mut().zip(residues) {
                    *cell = self.reducer.add(*cell, value);
                }
            }
        }
    }
}

/// `256·residues + Σ_byte 256^byte·sums[byte]` modulo q.
#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "rows and columns of a tile")]
fn recombine<const BYTES: usize>(
    sums: &[[i32; TILE_LANES]; BYTES],
    reducer: Reducer,
    residues: &mut [[u64; GROUP]],
) {
    for (row, residues) in residues.iter_mut().enumerate() {
        for (column, cell) in residues.iter_mut().enumerate() {
            let mut total = 0_i64;
            for (byte, sums) in sums.iter().enumerate() {
                // The exact sum is below 2^63, its parts may wrap.
                let sum = i64::from(sums[row * GROUP + column]);
                total = total.wrapping_add(sum << (8 * byte));
            }
            let higher = (*cell << 8).cast_signed();
            *cell = reducer.reduce(reducer.reduce(total).cast_signed() + higher);
        }
    }
}
