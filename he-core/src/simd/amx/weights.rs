//! Weights and inputs in the order of tiles.

use super::super::{GROUP, packed::columns, vectorize};

/// Inputs in a 32-bit lane.
pub(crate) const INPUTS: usize = 4;
/// Rows of a tile: lines of inputs, or rows of weights and sums.
pub(super) const TILE_ROWS: usize = 16;
/// 32-bit lanes of a tile.
pub(super) const TILE_LANES: usize = TILE_ROWS * GROUP;
/// `Σ|w|` of a chunk stays below this in every row and plane: recombined sums are below `q·2^16`.
const MAX_CHUNK_L1: u32 = 1 << 16;
/// Weights beyond have no two signed bytes.
const MAX_WEIGHT: u32 = 32_639;
/// Shorter runs of neighbouring inputs are not worth a step of their own.
const MIN_RUN: usize = 8;

/// Consecutive lines multiplied by one tile of weights: quads `[first, first + len)`, 16 at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) first: usize,
    pub(super) len: usize,
}

/// A weight matrix as signed bytes, in tiles.
///
/// `w = w_0 + 256·w_1` with both in `[-128, 127]`; one plane when every weight fits one byte.
#[derive(Debug, Clone)]
pub(crate) struct WideWeights {
    /// `[row tile][plane][step][row of the tile][16 lanes]`, four inputs to a lane.
    pub(super) lanes: Vec<u32>,
    pub(super) n_rows: usize,
    pub(super) planes: usize,
    /// Rows of a row tile: 16 at most, the same in all (the last is padded with zeros).
    pub(super) tile_rows: usize,
    pub(super) n_quads: usize,
    pub(super) steps: Vec<Step>,
    /// Ranges of steps in which no row's `Σ|w_plane|` reaches 2^16.
    pub(super) chunks: Vec<(usize, usize)>,
}

impl WideWeights {
    /// Fewest taps and rows for which tiles pay.
    pub(crate) const MIN_TAPS: usize = 64;
    /// As [`WideWeights::MIN_TAPS`].
    pub(crate) const MIN_ROWS: usize = 16;

    /// Arranges weights (row-major `n_rows × n_taps`), or `None` for a narrow matrix and for weights
    /// beyond two signed bytes.
    ///
    /// `inputs` are those of a typical placement: steps end where its runs of neighbouring inputs
    /// end, so that a step's lines can be loaded without gathering them.
    pub(crate) fn new(weights: &[i32], n_rows: usize, inputs: &[u32]) -> Option<Self> {
        let n_taps = inputs.len();
        let largest = weights.iter().map(|w| w.unsigned_abs()).max()?;
        if n_taps < Self::MIN_TAPS || n_rows < Self::MIN_ROWS || largest > MAX_WEIGHT {
            return None;
        }
        let planes = if largest <= 127 { 1 } else { 2 };
        let tile_rows = n_rows.div_ceil(n_rows.div_ceil(TILE_ROWS));
        let steps = steps(inputs);
        let mut wide = Self {
            lanes: Vec::new(),
            n_rows,
            planes,
            tile_rows,
            n_quads: n_taps.div_ceil(INPUTS),
            chunks: Vec::new(),
            steps,
        };
        wide.chunks = wide.cut_chunks(weights, n_taps);
        wide.lanes
            .reserve_exact(wide.n_row_tiles() * planes * wide.steps.len() * tile_rows * GROUP);
        for row_tile in 0..wide.n_row_tiles() {
            for plane in 0..planes {
                for &step in &wide.steps {
                    for row in row_tile * tile_rows..(row_tile + 1) * tile_rows {
                        let row = weights.get(row * n_taps..(row + 1) * n_taps).unwrap_or_default();
                        wide.lanes.extend((0..GROUP).map(|i| weight_lane(row, plane, step, i)));
                    }
                }
            }
        }
        Some(wide)
    }

    pub(super) fn n_row_tiles(&self) -> usize {
        self.n_rows.div_ceil(self.tile_rows)
    }

    /// First lane of a tile of weights.
    pub(super) fn tile(&self, row_tile: usize, plane: usize, step: usize) -> usize {
        ((row_tile * self.planes + plane) * self.steps.len() + step) * self.tile_rows * GROUP
    }

    /// Cuts the steps into ranges in which `Σ|w_plane|` of every row stays below 2^16.
    fn cut_chunks(&self, weights: &[i32], n_taps: usize) -> Vec<(usize, usize)> {
        let (mut chunks, mut start) = (Vec::new(), 0);
        let mut sums = vec![0_u32; self.n_rows * self.planes];
        for (index, step) in self.steps.iter().enumerate() {
            let taps = INPUTS * step.first..(INPUTS * (step.first + step.len)).min(n_taps);
            let of_step: Vec<u32> = (0..self.planes)
                .flat_map(|plane| {
                    let taps = taps.clone();
                    weights.chunks_exact(n_taps).map(move |row| {
                        let row = row.get(taps.clone()).unwrap_or_default();
                        row.iter().map(|&w| u32::from(byte(w, plane).unsigned_abs())).sum()
                    })
                })
                .collect();
            if sums.iter().zip(&of_step).any(|(s, p)| s + p >= MAX_CHUNK_L1) {
                chunks.push((start, index));
                start = index;
                sums.fill(0);
            }
            sums.iter_mut().zip(&of_step).for_each(|(s, p)| *s += p);
        }
        chunks.push((start, self.steps.len()));
        chunks
    }
}

/// The signed byte of a weight in a plane.
#[expect(clippy::cast_possible_truncation, reason = "the low byte, and a quotient below 2^7")]
fn byte(weight: i32, plane: usize) -> i8 {
    let low = weight as i8;
    if plane == 0 { low } else { ((weight - i32::from(low)) >> 8) as i8 }
}

/// Four weights of one row: those of lane `index` of a step; zero beyond its end.
fn weight_lane(row: &[i32], plane: usize, step: Step, index: usize) -> u32 {
    let first = INPUTS * (step.first + index);
    let weights = if index < step.len { row.get(first..) } else { None };
    let mut bytes = [0; INPUTS];
    for (target, &w) in bytes.iter_mut().zip(weights.unwrap_or_default()) {
        *target = byte(w, plane).cast_unsigned();
    }
    u32::from_le_bytes(bytes)
}

/// Cuts the quads of a placement into steps, preferably where its inputs jump.
fn steps(inputs: &[u32]) -> Vec<Step> {
    let mut runs = vec![1];
    for pair in inputs.chunks(INPUTS).collect::<Vec<_>>().windows(2) {
        let neighbours =
            matches!(pair, [a, b] if a.last().and_then(|x| x.checked_add(1)) == b.first().copied());
        match runs.last_mut() {
            Some(run) if neighbours => *run += 1,
            _ => runs.push(1),
        }
    }
    let n_quads: usize = runs.iter().sum();
    if n_quads / runs.len() < MIN_RUN {
        runs = vec![n_quads];
    }
    let (mut steps, mut first) = (Vec::new(), 0);
    for run in runs {
        let n_steps = run.div_ceil(TILE_ROWS);
        for i in 0..n_steps {
            let (start, end) = (i * run / n_steps, (i + 1) * run / n_steps);
            steps.push(Step { first: first + start, len: end - start });
        }
        first += run;
    }
    steps
}

/// Inputs of one slab as bytes: `[column group][quad][byte][16 columns]`, four inputs to a lane.
#[derive(Debug, Default)]
pub(crate) struct PackedBytes {
    /// Ends with a tile of padding: a tile is always loaded whole.
    pub(super) lanes: Vec<u32>,
    pub(super) n_bytes: usize,
    pub(super) n_quads: usize,
}

impl PackedBytes {
    /// Number of bytes a residue modulo `q` is packed in: four or six.
    pub(crate) const fn bytes_of(modulus: u64) -> usize {
        if modulus >> 32 == 0 { 4 } else { 6 }
    }

    /// Prepares for `n_quads` quads of `columns` columns modulo `modulus`.
    ///
    /// # Panics
    /// When `columns` is not a multiple of [`GROUP`].
    pub(crate) fn reset(&mut self, modulus: u64, n_quads: usize, columns: usize) {
        assert!(columns.is_multiple_of(GROUP), "invariant: slabs are whole column groups");
        self.n_bytes = Self::bytes_of(modulus);
        self.n_quads = n_quads;
        let padding = if n_quads == 0 { 0 } else { TILE_ROWS * self.line() };
        self.lanes.resize(n_quads * self.n_bytes * columns + padding, 0);
    }

    /// Lanes of one quad in one group.
    pub(super) const fn line(&self) -> usize {
        self.n_bytes * GROUP
    }

    /// Lanes of one group.
    pub(super) const fn group_len(&self) -> usize {
        self.n_quads * self.line()
    }

    /// Stores four input rows of `columns` columns as quad `index`; a missing row is zero.
    pub(crate) fn pack(&mut self, index: usize, columns: usize, rows: [Option<&[u64]>; INPUTS]) {
        let (n_bytes, line, group_len) = (self.n_bytes, self.line(), self.group_len());
        let Some(lanes) = self.lanes.get_mut(index * line..) else { return };
        let groups = lanes.chunks_mut(group_len).take(columns / GROUP);
        vectorize(
            #[inline(always)]
            || match n_bytes {
                4 => pack_groups::<4>(groups, rows),
                _ => pack_groups::<6>(groups, rows),
            },
        );
    }
}

#[inline(always)]
fn pack_groups<'a, const BYTES: usize>(
    groups: impl Iterator<Item = &'a mut [u32]>,
    rows: [Option<&[u64]>; INPUTS],
) {
    for (group, lanes) in groups.enumerate() {
        let [a, b, c, d] = rows.map(|row| columns(row, group));
        for (byte, lanes) in lanes.chunks_exact_mut(GROUP).take(BYTES).enumerate() {
            let of = |x: u64| x >> (8 * byte) & 0xFF;
            for ((((lane, a), b), c), d) in lanes.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                let word = of(a) | of(b) << 8 | of(c) << 16 | of(d) << 24;
                #[expect(clippy::cast_possible_truncation, reason = "four bytes")]
                {
                    *lane = word as u32;
                }
            }
        }
    }
}
