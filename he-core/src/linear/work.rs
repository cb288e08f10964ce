//! Preparation of one output range: which inputs are packed, in what order, for which tiles.

use core::ops::Range;
use std::collections::HashMap;

use super::{LinearMap, PADDING, Placement, index};
use crate::{
    Backend, Error, Result,
    ring::Ring,
    simd::{
        Packed, SlabRows, Tile,
        amx::{INPUTS, PackedBytes, WideTile},
    },
};

/// Bytes of packed digits per slab. Somewhat beyond a core's level-2 cache: wide slabs read more of
/// each input row per visit, which matters more (measured, `docs/kernels.md`).
const PACKED_BYTES: usize = 2 << 20;
/// Slabs per thread that keep all threads busy to the end.
const SLABS_PER_THREAD: usize = 4;

/// The part of a map that one output range needs.
pub(super) struct Work<'a> {
    pub(super) tiles: Vec<Tile<'a>>,
    /// Distinct groups of inputs, in packing order: pairs for digits, quads for bytes.
    pairs: Vec<[u32; 2]>,
    quads: Vec<[u32; INPUTS]>,
}

/// Pair indices live as long as the map's work; tiles borrow them.
impl<'a> Work<'a> {
    /// Prepares for the kernels on digits, which every backend has.
    pub(super) fn new(map: &'a LinearMap, outputs: &Range<usize>) -> Result<Self> {
        Self::for_backend(map, outputs, Backend::Scalar)
    }

    /// Prepares for the kernels of `backend`: with [`Backend::Amx`], wide groups go to tiles.
    ///
    /// # Errors
    /// [`Error::Index`] when the range cuts a placement in two.
    pub(super) fn for_backend(
        map: &'a LinearMap,
        outputs: &Range<usize>,
        backend: Backend,
    ) -> Result<Self> {
        let (mut pairs, mut quads) = (Numbering::default(), Numbering::default());
        let mut tiles = Vec::new();
        for compiled in &map.groups {
            let wide = compiled.wide.as_ref().filter(|_| backend == Backend::Amx);
            for placement in &compiled.group.placements {
                let stride = placement.output_stride as usize;
                let Some(first) = within(compiled.group.n_rows, placement, outputs, map)? else {
                    continue;
                };
                let inputs = &placement.inputs;
                tiles.push(Tile {
                    pairs: match wide {
                        None => pairs.number(&compiled.paired_inputs(inputs))?,
                        Some(_) => Vec::new(),
                    },
                    weights: &compiled.packed_weights,
                    n_rows: compiled.group.n_rows,
                    first_output: first - outputs.start,
                    output_stride: stride,
                    chunks: &compiled.chunks,
                    wide: match wide {
                        Some(weights) => Some(WideTile::new(weights, quads.number(inputs)?)),
                        None => None,
                    },
                });
            }
        }
        // Neighbouring inputs get neighbouring lines, whatever the order of placements.
        let new_index = quads.sort();
        for wide in tiles.iter_mut().filter_map(|tile| tile.wide.as_mut()) {
            wide.renumber(&new_index);
        }
        Ok(Self { tiles, pairs: pairs.groups, quads: quads.groups })
    }

    /// Columns per slab: a power of two from 16 that divides N, leaves slabs for every thread and
    /// keeps the packed digits small. The words of the result do not depend on it.
    pub(super) fn slab_width(&self, ring: &Ring, n: usize, row_len: usize) -> usize {
        let digits = self.pairs.len() * Packed::digits_of(ring.value());
        let bytes = self.quads.len() * PackedBytes::bytes_of(ring.value());
        let per_column = ((digits + bytes) * 4).max(1);
        let shared = row_len / (SLABS_PER_THREAD * rayon::current_num_threads());
        let fitting = (PACKED_BYTES / per_column).min(shared.max(64)).clamp(16, 512);
        (1 << fitting.ilog2()).min(n)
    }

    /// Packs the slab's columns of every input that a tile needs.
    pub(super) fn pack(
        &self,
        packed: &mut Packed,
        words: &[u64],
        row_len: usize,
        ring: &Ring,
        slab: &SlabRows<'_>,
    ) {
        self.pack_columns(packed, words, row_len, ring, slab.start(), slab.width());
    }

    /// Packs the columns `[first, first + width)` of every input that a tile needs.
    pub(super) fn pack_columns(
        &self,
        packed: &mut Packed,
        words: &[u64],
        row_len: usize,
        ring: &Ring,
        first: usize,
        width: usize,
    ) {
        packed.reset(ring.value(), self.pairs.len(), width);
        let row = |input: u32| {
            let start = input as usize * row_len + first;
            if input == PADDING { None } else { words.get(start..start + width) }
        };
        for (i, &[a, b]) in self.pairs.iter().enumerate() {
            packed.pack(i, row(a), row(b));
        }
        packed.bytes.reset(ring.value(), self.quads.len(), width);
        for (i, quad) in self.quads.iter().enumerate() {
            packed.bytes.pack(i, width, quad.map(row));
        }
    }
}

/// The first output of a placement inside the range, `None` for one outside.
///
/// # Errors
/// [`Error::Index`] when the range cuts it in two.
fn within(
    n_rows: usize,
    placement: &Placement,
    outputs: &Range<usize>,
    map: &LinearMap,
) -> Result<Option<usize>> {
    let first = placement.first_output as usize;
    let last = first + (n_rows - 1) * placement.output_stride as usize;
    if outputs.contains(&first) && outputs.contains(&last) {
        return Ok(Some(first));
    }
    if last < outputs.start || first >= outputs.end {
        return Ok(None);
    }
    Err(Error::Index {
        what: "output range cuts a placement at output",
        index: if outputs.contains(&first) { outputs.end } else { outputs.start },
        count: map.n_outputs,
    })
}

/// Numbers distinct groups of `K` inputs in the order in which they appear.
struct Numbering<const K: usize> {
    known: HashMap<[u32; K], u32>,
    groups: Vec<[u32; K]>,
}

impl<const K: usize> Default for Numbering<K> {
    fn default() -> Self {
        Self { known: HashMap::new(), groups: Vec::new() }
    }
}

impl<const K: usize> Numbering<K> {
    /// The numbers of the groups of a placement; the last one is padded.
    fn number(&mut self, inputs: &[u32]) -> Result<Vec<u32>> {
        let numbers = inputs.chunks(K).map(|inputs| {
            let mut group = [PADDING; K];
            group.iter_mut().zip(inputs).for_each(|(g, &input)| *g = input);
            let next = index(self.groups.len())?;
            Ok(*self.known.entry(group).or_insert_with(|| {
                self.groups.push(group);
                next
            }))
        });
        numbers.collect()
    }

    /// Sorts the groups; returns the new number of each.
    fn sort(&mut self) -> Vec<u32> {
        self.groups.sort_unstable();
        let mut new_index = vec![0; self.groups.len()];
        for (new, group) in (0..).zip(&self.groups) {
            let old = self.known.get(group).map_or(0, |&old| old as usize);
            if let Some(slot) = new_index.get_mut(old) {
                *slot = new;
            }
        }
        new_index
    }
}
