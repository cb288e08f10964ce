//! A linear map whose outputs are squared and summed where they arise.
//!
//! A wide convolution's outputs outweigh its inputs and results many times over, and memory is what
//! it waits for. Here a task computes a few rows of a few hundred columns, squares them and adds
//! them to the results they belong to, all in cache; the linear outputs never exist as a block.

use core::ops::{ControlFlow, Range};
use std::collections::HashMap;

use super::{LinearMap, Wanted, check_length, slabs, work::Work};
use crate::{
    CiphertextBlock, Error, Quadratic, Result,
    ring::Ring,
    simd::{
        self, Factor, Packed, Reducer, SQUARE_SUMS, SlabRows, TERMS_BEFORE_CARRY, Tile,
        add_squares, carry, row_blocks, vectorize,
    },
};

/// Most columns of a task: its sums and rows then fit a level-2 cache beside the packed inputs.
const MAX_COLUMNS: usize = 128;

/// Most members of a result: the sums of their outputs stay below 2^62.
const MAX_MEMBERS: usize = 1 << 15;

/// One result of an activation and a sum pool: `Σ_{i in members} (a·z_i² + b·z_i + c)` over outputs
/// `z_i` of a linear map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PooledQuadratic {
    /// The linear outputs it sums, one to 2^15 of them.
    pub members: Vec<u32>,
    /// Coefficients, the same for all members.
    pub quadratic: Quadratic,
}

impl LinearMap {
    /// Linear map, quadratic activation and sum pool in one pass: `results.len()` ciphertexts of
    /// degree 2, word for word what [`LinearMap::apply`], [`CiphertextBlock::quadratic`] and
    /// [`CiphertextBlock::sums`] give one after the other.
    ///
    /// `outputs` are the linear outputs that exist while this runs: it must hold every member and
    /// cut no placement. `out` is reshaped and overwritten; its allocation is reused.
    /// In parallel over columns. Cost: the map on `outputs`, and three products per member.
    ///
    /// # Errors
    /// - [`Error::Length`] when the block does not hold `n_inputs` ciphertexts, or a result has no
    ///   member or more than 2^15.
    /// - [`Error::Form`] unless the block has degree 1 and no modulus has been dropped.
    /// - [`Error::Index`] when a member lies outside `outputs`, or `outputs` ends beyond the map's
    ///   or cuts a placement in two.
    /// - [`Error::ParamsMismatch`] when [`LinearMap::with_unit`] was given other parameters.
    pub fn apply_pooled_into(
        &self,
        input: &CiphertextBlock,
        outputs: Range<usize>,
        results: &[PooledQuadratic],
        out: &mut CiphertextBlock,
    ) -> Result<()> {
        // Nobody is asked, so nobody says `Break`.
        self.apply_pooled_asking(input, outputs, results, out, None).map(|_| ())
    }

    /// As [`LinearMap::apply_pooled_into`], and asks every fraction of a second or so whether the rest is
    /// wanted. After `Break`, `out` holds nothing of use.
    ///
    /// # Errors
    /// As [`LinearMap::apply_pooled_into`].
    pub fn apply_pooled_while(
        &self,
        input: &CiphertextBlock,
        outputs: Range<usize>,
        results: &[PooledQuadratic],
        out: &mut CiphertextBlock,
        wanted: &mut Wanted<'_>,
    ) -> Result<ControlFlow<()>> {
        self.apply_pooled_asking(input, outputs, results, out, Some(wanted))
    }

    fn apply_pooled_asking(
        &self,
        input: &CiphertextBlock,
        outputs: Range<usize>,
        results: &[PooledQuadratic],
        out: &mut CiphertextBlock,
        mut wanted: Option<&mut Wanted<'_>>,
    ) -> Result<ControlFlow<()>> {
        input.check_fresh("a pooled quadratic")?;
        check_length("ciphertexts in the block", self.n_inputs, input.count())?;
        if outputs.start > outputs.end || outputs.end > self.n_outputs {
            return Err(Error::Index { what: "output", index: outputs.end, count: self.n_outputs });
        }
        self.unit.check_params(input.params())?;
        let work = Work::new(self, &outputs)?;
        let units = units(&work, &outputs, results)?;
        // Every result belongs to exactly one unit, so every word is overwritten.
        out.reshape(input, results.len(), 2);
        let n = input.params().ring_degree();
        for (limb, ring) in input.rings().iter().enumerate() {
            let pass = Pass {
                map: self,
                input,
                limb,
                ring,
                first_output: outputs.start,
                finishes: results.iter().map(|result| Finish::new(ring, result)).collect(),
                linear: results.iter().any(|result| result.quadratic.b != 0),
            };
            let width = work.slab_width(ring, n, n).div_ceil(2).clamp(16, MAX_COLUMNS).min(n);
            // Rows of `out` here are single polynomials.
            let matrix = out.limb_mut(limb);
            let compute = |scratch: &mut Scratch, mut slab: SlabRows<'_>| {
                pass.run(&work, &units, scratch, &mut slab);
            };
            let flow = slabs(matrix, n, width, Scratch::default, compute, &mut wanted);
            if flow.is_break() {
                return Ok(flow);
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// Some rows of some tiles, and the results they add up to.
struct Unit<'a> {
    tiles: Vec<UnitTile<'a>>,
    results: Vec<u32>,
}

/// Consecutive rows of one tile.
struct UnitTile<'a> {
    /// Number of the tile it is cut from, and its first row there.
    number: u32,
    first_row: u32,
    tile: Tile<'a>,
    /// Linear output of the first row, counted from the range's start, and the distance between
    /// rows.
    first_output: usize,
    output_stride: usize,
    /// Row of this tile, and which of the unit's results it adds to.
    additions: Vec<(usize, usize)>,
}

/// Where a linear output is computed: number of the tile, row in it.
type Place = (u32, u32);

/// Groups the results by the tile rows they need, so that rows are computed once per unit.
///
/// Pools leave the row of a tile (the channel of a convolution) alone, so the results of a few rows
/// of one set of tiles make a unit; a result that mixes row blocks gets the whole tiles.
fn units<'a>(
    work: &Work<'a>,
    outputs: &Range<usize>,
    results: &[PooledQuadratic],
) -> Result<Vec<Unit<'a>>> {
    let mut places: Vec<Place> = vec![(0, 0); outputs.len()];
    for (number, tile) in (0_u32..).zip(&work.tiles) {
        let rows = (tile.first_output..).step_by(tile.output_stride);
        for (row, output) in (0_u32..).zip(rows).take(tile.n_rows) {
            if let Some(place) = places.get_mut(output) {
                *place = (number, row);
            }
        }
    }
    let mut known: HashMap<(Vec<u32>, Option<Range<usize>>), usize> = HashMap::new();
    let mut units: Vec<Unit<'a>> = Vec::new();
    for (number, result) in (0_u32..).zip(results) {
        let places = places_of(&places, outputs, result)?;
        let mut tiles: Vec<u32> = places.iter().map(|&(tile, _)| tile).collect();
        tiles.sort_unstable();
        tiles.dedup();
        let mut blocks = places.iter().map(|&place| block_of(work, place));
        let first = blocks.next().flatten();
        let block = first.filter(|first| blocks.all(|block| block.as_ref() == Some(first)));
        let index = *known.entry((tiles, block)).or_insert_with_key(|(tiles, block)| {
            units.push(Unit::new(work, tiles, block.as_ref()));
            units.len() - 1
        });
        if let Some(unit) = units.get_mut(index) {
            unit.add(number, &places);
        }
    }
    Ok(units)
}

/// The row block a place belongs to.
fn block_of(work: &Work<'_>, (tile, row): Place) -> Option<Range<usize>> {
    let n_rows = work.tiles.get(tile as usize)?.n_rows;
    row_blocks(n_rows).find(|block| block.contains(&(row as usize)))
}

fn places_of(
    places: &[Place],
    outputs: &Range<usize>,
    result: &PooledQuadratic,
) -> Result<Vec<Place>> {
    let n_members = result.members.len();
    if n_members == 0 || n_members > MAX_MEMBERS {
        let expected = n_members.clamp(1, MAX_MEMBERS);
        return Err(Error::Length { what: "members of a result", expected, actual: n_members });
    }
    let place = |&member: &u32| {
        let index = member as usize;
        let relative = index.checked_sub(outputs.start);
        relative.and_then(|i| places.get(i)).copied().ok_or(Error::Index {
            what: "member",
            index,
            count: outputs.end,
        })
    };
    result.members.iter().map(place).collect()
}

impl<'a> Unit<'a> {
    /// A unit of one row block, or of whole tiles.
    fn new(work: &Work<'a>, tiles: &[u32], block: Option<&Range<usize>>) -> Self {
        let cut = |&number: &u32| {
            let tile = work.tiles.get(number as usize)?;
            let rows = block.cloned().unwrap_or(0..tile.n_rows);
            let n_pairs = tile.pairs.len();
            Some(UnitTile {
                number,
                first_row: u32::try_from(rows.start).ok()?,
                tile: Tile {
                    pairs: tile.pairs.clone(),
                    weights: tile.weights.get(rows.start * n_pairs..rows.end * n_pairs)?,
                    n_rows: rows.len(),
                    first_output: 0,
                    output_stride: 1,
                    chunks: tile.chunks,
                    wide: None,
                },
                first_output: tile.first_output + rows.start * tile.output_stride,
                output_stride: tile.output_stride,
                additions: Vec::new(),
            })
        };
        Self { tiles: tiles.iter().filter_map(cut).collect(), results: Vec::new() }
    }

    /// Adds a result that sums the outputs at these places.
    fn add(&mut self, result: u32, places: &[Place]) {
        let slot = self.results.len();
        self.results.push(result);
        for &(number, row) in places {
            if let Some(tile) = self.tiles.iter_mut().find(|tile| tile.number == number) {
                tile.additions.push(((row - tile.first_row) as usize, slot));
            }
        }
    }
}

/// Buffers of one worker.
#[derive(Default)]
struct Scratch {
    packed: [Packed; 2],
    /// Linear outputs of one unit tile: `[row][columns]` of `c_0` and of `c_1`.
    rows: [Vec<u64>; 2],
    /// `[result of the unit][SQUARE_SUMS][columns]`.
    squares: Vec<u64>,
    /// `[result of the unit][2][columns]`: sums of the outputs themselves, for `b`.
    values: Vec<u64>,
}

/// What all columns of one limb share.
struct Pass<'a> {
    map: &'a LinearMap,
    input: &'a CiphertextBlock,
    limb: usize,
    ring: &'a Ring,
    first_output: usize,
    finishes: Vec<Finish>,
    /// Whether some result needs the sums of the outputs themselves.
    linear: bool,
}

impl Pass<'_> {
    fn run(&self, work: &Work<'_>, units: &[Unit<'_>], scratch: &mut Scratch, out: &mut SlabRows) {
        let n = self.input.params().ring_degree();
        let (words, row_len) = (self.input.limb(self.limb), self.input.row_len());
        for (packed, polynomial) in scratch.packed.iter_mut().zip(0..) {
            let start = polynomial * n + out.start();
            work.pack_columns(packed, words, row_len, self.ring, start, out.width());
        }
        for unit in units {
            self.sum_unit(unit, scratch, out.start(), out.width());
            self.finish_unit(unit, scratch, out);
        }
    }

    /// Computes the unit's rows and adds them to its sums.
    fn sum_unit(&self, unit: &Unit<'_>, scratch: &mut Scratch, start: usize, width: usize) {
        let Scratch { packed, rows, squares, values } = scratch;
        clear(squares, unit.results.len() * SQUARE_SUMS * width);
        if self.linear {
            clear(values, unit.results.len() * 2 * width);
        }
        let mut terms = vec![0_usize; unit.results.len()];
        for tile in &unit.tiles {
            for (rows, packed) in rows.iter_mut().zip(&*packed) {
                rows.resize(tile.tile.n_rows * width, 0);
                let backend = self.input.params().backend();
                let mut target = SlabRows::whole(rows, width);
                simd::multiply(backend, &tile.tile, packed, self.ring.reducer(), &mut target);
            }
            let [z0, z1] = rows;
            self.add_bias(tile, start, width, z0);
            for &(row, slot) in &tile.additions {
                let [z0, z1] = [&*z0, &*z1].map(|rows| part(rows, row, width));
                let sums = part_mut(squares, slot, SQUARE_SUMS * width);
                add_squares(sums, z0, z1);
                if let Some(terms) = terms.get_mut(slot) {
                    *terms += 1;
                    if terms.is_multiple_of(TERMS_BEFORE_CARRY) {
                        carry(sums, width);
                    }
                }
                if self.linear {
                    let (sum0, sum1) = part_mut(values, slot, 2 * width).split_at_mut(width);
                    add(sum0, z0);
                    add(sum1, z1);
                }
            }
        }
    }

    fn add_bias(&self, tile: &UnitTile<'_>, start: usize, width: usize, z0: &mut [u64]) {
        let outputs = (self.first_output + tile.first_output..).step_by(tile.output_stride);
        for (output, row) in outputs.zip(z0.chunks_exact_mut(width)) {
            let bias = self.map.bias.get(output).copied().unwrap_or_default();
            let bias = self.ring.residue_vartime(bias.into());
            self.map.unit.add(bias, self.limb, self.ring, start, row);
        }
    }

    /// Reduces the unit's sums and writes its results.
    fn finish_unit(&self, unit: &Unit<'_>, scratch: &Scratch, out: &mut SlabRows) {
        let width = out.width();
        for (slot, &result) in unit.results.iter().enumerate() {
            let Some(finish) = self.finishes.get(result as usize) else { continue };
            let squares = part(&scratch.squares, slot, SQUARE_SUMS * width);
            let values = part(&scratch.values, slot, 2 * width);
            for (polynomial, sums) in squares.chunks_exact(2 * width).enumerate() {
                let row = out.row_mut(3 * result as usize + polynomial);
                let values = values.get(polynomial * width..(polynomial + 1) * width);
                finish.write(polynomial, sums, values.unwrap_or_default(), row);
            }
        }
    }
}

/// Constants that turn the lazy sums of one result into residues.
struct Finish {
    reducer: Reducer,
    /// Factors of the parts of the sums, `[weight 1, weight 2^52]`, for the squares and the cross
    /// product (which counts twice).
    square: [Factor; 2],
    cross: [Factor; 2],
    /// `b`, unless it is zero.
    linear: Option<Factor>,
    /// `c` times the number of members.
    constant: u64,
}

impl Finish {
    fn new(ring: &Ring, result: &PooledQuadratic) -> Self {
        let Quadratic { a, b, c } = result.quadratic;
        let reducer = ring.reducer();
        let factor = |value: i128| reducer.factor(ring.residue_vartime(value));
        let weights = |a: i128| [factor(a), factor(a << 52)];
        let (a, n_members) = (i128::from(a), result.members.len() as i128);
        Self {
            reducer,
            square: weights(a),
            cross: weights(2 * a),
            linear: (b != 0).then(|| factor(b.into())),
            constant: ring.residue_vartime(i128::from(c) * n_members),
        }
    }

    /// One polynomial of the result: from the low and the high parts of its products, `[2][columns]`,
    /// and the sums of the outputs' polynomial of the same number.
    fn write(&self, polynomial: usize, sums: &[u64], values: &[u64], out: &mut [u64]) {
        let reducer = self.reducer;
        let [one, wrap] = if polynomial == 1 { self.cross } else { self.square };
        let (low, high) = sums.split_at(out.len());
        vectorize(
            #[inline(always)]
            || {
                for ((out, &low), &high) in out.iter_mut().zip(low).zip(high) {
                    let [low, high] = [low, high].map(|x| reducer.reduce(x.cast_signed()));
                    let low = reducer.multiply(low.cast_signed(), one);
                    *out = reducer.add(low, reducer.multiply(high.cast_signed(), wrap));
                }
            },
        );
        if let Some(b) = self.linear {
            vectorize(|| {
                for (out, &value) in out.iter_mut().zip(values) {
                    let value = reducer.reduce(value.cast_signed()).cast_signed();
                    *out = reducer.add(*out, reducer.multiply(value, b));
                }
            });
        }
        if polynomial == 0 && self.constant != 0 {
            vectorize(|| out.iter_mut().for_each(|x| *x = reducer.add(*x, self.constant)));
        }
    }
}

fn clear(sums: &mut Vec<u64>, len: usize) {
    sums.clear();
    sums.resize(len, 0);
}

fn part(words: &[u64], index: usize, len: usize) -> &[u64] {
    words.get(index * len..(index + 1) * len).unwrap_or_default()
}

fn part_mut(words: &mut [u64], index: usize, len: usize) -> &mut [u64] {
    words.get_mut(index * len..(index + 1) * len).unwrap_or_default()
}

fn add(sums: &mut [u64], values: &[u64]) {
    vectorize(|| sums.iter_mut().zip(values).for_each(|(sum, &value)| *sum += value));
}
