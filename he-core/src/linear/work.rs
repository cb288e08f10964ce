//! Preparation of one output range: which inputs are packed, in what order, for which tiles.

use core::ops::Range;
use std::collections::HashMap;

use super::{LinearMap, PADDING, index};
use crate::{
    Error, Result,
    ring::Ring,
    simd::{Packed, SlabRows, Tile},
};

/// Bytes of packed digits per slab. Somewhat beyond a core's level-2 cache: wide slabs read more of
/// each input row per visit, which matters more (measured, `docs/kernels.md`).
const PACKED_BYTES: usize = 2 << 20;
/// Slabs per thread that keep all threads busy to the end.
const SLABS_PER_THREAD: usize = 4;

/// The part of a map that one output range needs.
pub(super) struct Work<'a> {
    pub(super) tiles: Vec<Tile<'a>>,
    /// Distinct input pairs, in packing order.
    pairs: Vec<(u32, u32)>,
}

/// Pair indices live as long as the map's work; tiles borrow them.
impl<'a> Work<'a> {
    pub(super) fn new(map: &'a LinearMap, outputs: &Range<usize>) -> Result<Self> {
        let mut known: HashMap<(u32, u32), u32> = HashMap::new();
        let mut pairs = Vec::new();
        let mut tiles = Vec::new();
        for compiled in &map.groups {
            for placement in &compiled.group.placements {
                let first = placement.first_output as usize;
                let stride = placement.output_stride as usize;
                let last = first + (compiled.group.n_rows - 1) * stride;
                let inside = outputs.contains(&first) && outputs.contains(&last);
                if !inside && (last < outputs.start || first >= outputs.end) {
                    continue;
                }
                if !inside {
                    return Err(Error::Index {
                        what: "output range cuts a placement at output",
                        index: if outputs.contains(&first) { outputs.end } else { outputs.start },
                        count: map.n_outputs,
                    });
                }
                let mut indices = Vec::with_capacity(placement.inputs.len().div_ceil(2));
                for pair in placement.inputs.chunks(2) {
                    let pair = match *pair {
                        [a, b] => (a, b),
                        [a] => (a, PADDING),
                        _ => (PADDING, PADDING),
                    };
                    let next = index(pairs.len())?;
                    indices.push(*known.entry(pair).or_insert_with(|| {
                        pairs.push(pair);
                        next
                    }));
                }
                tiles.push(Tile {
                    pairs: indices,
                    weights: &compiled.packed_weights,
                    n_rows: compiled.group.n_rows,
                    first_output: first - outputs.start,
                    output_stride: stride,
                    chunks: &compiled.chunks,
                });
            }
        }
        Ok(Self { tiles, pairs })
    }

    /// Columns per slab: a power of two from 16 that divides N, leaves slabs for every thread and
    /// keeps the packed digits small. The words of the result do not depend on it.
    pub(super) fn slab_width(&self, ring: &Ring, n: usize, row_len: usize) -> usize {
        let per_column = (self.pairs.len() * Packed::digits_of(ring.value()) * 4).max(1);
        let shared = row_len / (SLABS_PER_THREAD * rayon::current_num_threads());
        let fitting = (PACKED_BYTES / per_column).min(shared.max(64)).clamp(16, 512);
        (1 << fitting.ilog2()).min(n)
    }

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

    /// Packs the columns `[first, first + width)` of all input pairs.
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
        for (i, &(a, b)) in self.pairs.iter().enumerate() {
            packed.pack(i, row(a), row(b));
        }
    }
}
