//! A group of placements in the order in which the kernels read it.

use std::collections::HashSet;

use super::{Group, PADDING};
use crate::{
    Backend,
    simd::{self, amx::WideWeights},
};

/// 32-bit digit sums stay exact while `Σ|w|` of every row is below this.
const MAX_CHUNK_L1: i64 = 1 << 16;
/// Packing one pair of inputs costs as much as multiplying a pair by this many rows (measured).
const PACKING_COST: usize = 13;

/// A checked group with its weights as the kernels read them.
#[derive(Debug, Clone)]
pub(super) struct CompiledGroup {
    pub(super) group: Group,
    /// See [`simd::pack_weights`]; its columns are those of `pairing`.
    pub(super) packed_weights: Vec<i32>,
    /// Pair ranges whose `Σ|w|` stays below 2^16 in every row.
    pub(super) chunks: Vec<(usize, usize)>,
    /// The weights as tiles, on machines that have them.
    pub(super) wide: Option<WideWeights>,
    pairing: Pairing,
}

impl CompiledGroup {
    pub(super) fn new(group: Group, n_inputs: usize) -> Self {
        let pairing = Pairing::cheapest(&group, n_inputs);
        let weights = pairing.weights(&group);
        let packed_weights = simd::pack_weights(&weights, group.n_rows, pairing.columns.len());
        let chunks = chunks(&weights, pairing.columns.len(), group.n_rows);
        let wide = typical(&group)
            .filter(|_| Backend::Amx.is_available() || cfg!(test))
            .and_then(|inputs| WideWeights::new(&group.weights, group.n_rows, inputs));
        Self { group, packed_weights, chunks, wide, pairing }
    }

    /// Inputs of a placement in the order of the columns of `packed_weights`.
    pub(super) fn paired_inputs(&self, inputs: &[u32]) -> Vec<u32> {
        self.pairing.inputs(inputs)
    }
}

/// The middle placement: the least likely to touch the padding.
fn typical(group: &Group) -> Option<&[u32]> {
    group.placements.get(group.placements.len() / 2).map(|p| p.inputs.as_slice())
}

/// Which taps share a lane. A column without a tap has the weight zero.
///
/// Taps in their order make the fewest pairs. But where a convolution's kernel row has an odd length,
/// pairs reach into the next row, placements share few of them, and the same inputs are packed again
/// and again. Then it pays to end a pair at the end of each run of neighbouring inputs and to fill it
/// with the input that follows: placements two inputs apart then share all inner pairs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pairing {
    columns: Vec<Option<usize>>,
    n_inputs: usize,
}

impl Pairing {
    /// The cheaper of the two.
    fn cheapest(group: &Group, n_inputs: usize) -> Self {
        let in_order = Self { columns: (0..group.n_taps).map(Some).collect(), n_inputs };
        let by_runs = Self { columns: columns_by_runs(typical(group).unwrap_or(&[])), n_inputs };
        if by_runs.columns.len() == in_order.columns.len() || group.placements.len() < 2 {
            return in_order;
        }
        if by_runs.cost(group) < in_order.cost(group) { by_runs } else { in_order }
    }

    /// Cost of packing and multiplying all placements, in pairs times rows.
    fn cost(&self, group: &Group) -> usize {
        let mut pairs = HashSet::new();
        for placement in &group.placements {
            let inputs = self.inputs(&placement.inputs);
            let (whole, last) = inputs.as_chunks::<2>();
            pairs.extend(whole);
            pairs.extend(last.iter().map(|&input| [input, PADDING]));
        }
        let products = group.placements.len() * self.columns.len().div_ceil(2) * group.n_rows;
        pairs.len() * PACKING_COST + products
    }

    fn inputs(&self, inputs: &[u32]) -> Vec<u32> {
        let mut paired: Vec<u32> = Vec::with_capacity(self.columns.len());
        for column in &self.columns {
            let next = || {
                let next = paired.last().and_then(|last| last.checked_add(1))?;
                ((next as usize) < self.n_inputs).then_some(next)
            };
            let input = match column {
                Some(tap) => inputs.get(*tap).copied(),
                None => next(),
            };
            paired.push(input.unwrap_or(PADDING));
        }
        paired
    }

    /// Weights, row-major `n_rows × columns`.
    fn weights(&self, group: &Group) -> Vec<i16> {
        let rows = group.weights.chunks_exact(group.n_taps);
        rows.flat_map(|row| {
            self.columns.iter().map(|column| {
                let weight = column.and_then(|tap| row.get(tap).copied()).unwrap_or(0);
                #[expect(clippy::cast_possible_truncation, reason = "checked to fit 16 bits")]
                {
                    weight as i16
                }
            })
        })
        .collect()
    }
}

/// The taps of a placement, with an empty column after every run of neighbours of odd length.
fn columns_by_runs(inputs: &[u32]) -> Vec<Option<usize>> {
    let mut columns = Vec::with_capacity(inputs.len());
    for (tap, input) in inputs.iter().enumerate() {
        columns.push(Some(tap));
        let continues = inputs.get(tap + 1).is_none_or(|next| input.checked_add(1) == Some(*next));
        if !continues && columns.len() % 2 == 1 {
            columns.push(None);
        }
    }
    if columns.len() % 2 == 1 {
        columns.push(None);
    }
    columns
}

/// Cuts the pairs into ranges in which every row's `Σ|w|` stays below 2^16.
fn chunks(weights: &[i16], n_columns: usize, n_rows: usize) -> Vec<(usize, usize)> {
    let n_pairs = n_columns.div_ceil(2);
    let mut chunks = Vec::new();
    let mut start = 0;
    let mut sums = vec![0_i64; n_rows];
    for pair in 0..n_pairs {
        let columns = 2 * pair..(2 * pair + 2).min(n_columns);
        let of_pair: Vec<i64> = weights
            .chunks_exact(n_columns)
            .map(|row| {
                let weights = row.get(columns.clone()).unwrap_or_default();
                weights.iter().map(|&w| i64::from(w).abs()).sum()
            })
            .collect();
        if sums.iter().zip(&of_pair).any(|(s, p)| s + p >= MAX_CHUNK_L1) {
            chunks.push((start, pair));
            start = pair;
            sums.fill(0);
        }
        sums.iter_mut().zip(&of_pair).for_each(|(s, p)| *s += p);
    }
    chunks.push((start, n_pairs));
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Placement;

    fn convolution(side: u32, size: u32, stride: u32, channels: u32, n_rows: u32) -> Group {
        let out = (side - size) / stride + 1;
        let placements = (0..out * out).map(|p| {
            let (y, x) = (stride * (p / out), stride * (p % out));
            let tap = |k: u32| {
                let (place, channel) = (k / channels, k % channels);
                channels * (side * (y + place / size) + x + place % size) + channel
            };
            let inputs = (0..size * size * channels).map(tap).collect();
            Placement { inputs, first_output: p * n_rows, output_stride: 1 }
        });
        let (placements, n_taps) = (placements.collect(), (size * size * channels) as usize);
        let n_rows = n_rows as usize;
        Group { weights: vec![1; n_rows * n_taps], n_rows, n_taps, placements }
    }

    #[test]
    fn odd_rows_at_stride_two_are_paired_by_runs() {
        let pairing = Pairing::cheapest(&convolution(28, 5, 2, 1, 5), 784);
        assert_eq!(pairing.columns.len(), 30);
        assert_eq!(pairing.columns.get(4..8), Some(&[Some(4), None, Some(5), Some(6)][..]));
        // The filling is the input that follows: the same pair as in the placement beside.
        let inputs: Vec<u32> = (0..25).map(|k| 28 * (k / 5) + k % 5).collect();
        assert_eq!(pairing.inputs(&inputs).get(..6), Some(&[0, 1, 2, 3, 4, 5][..]));
        let last: Vec<u32> = inputs.iter().map(|input| input + 784 - 28 * 4 - 5).collect();
        assert_eq!(pairing.inputs(&last).last(), Some(&PADDING), "no input follows the last");
    }

    #[test]
    fn taps_stay_in_order_where_that_is_cheaper() {
        for group in [convolution(12, 5, 1, 20, 50), convolution(28, 5, 1, 1, 20)] {
            let pairing = Pairing::cheapest(&group, 2880);
            assert_eq!(pairing.columns, (0..group.n_taps).map(Some).collect::<Vec<_>>());
        }
    }
}
