//! The linear map of a stage as the kernels want it.

use he_core::{Group, LinearMap, PADDING, Placement};

use super::context::SegmentContext;
use super::error::Result;
use crate::integer::chain::{ChainStep, StepWeights};
use crate::integer::{
    ConvGeometry, Grouping, LinearGeometry, StageStructure, StageWeights, SumTerm,
};

/// Rows of a dense layer that are evaluated together: bounds the memory of a band.
const DENSE_ROWS: usize = 160;

/// Builds the ciphertext map of a stage: weights, gathered inputs, bias per output position in the
/// packing of the segment.
///
/// # Errors
/// [`super::Error::Arithmetic`] when weights or sizes do not fit (a checked plan's always do).
pub fn linear_map(
    context: &SegmentContext,
    structure: &StageStructure,
    weights: &StageWeights,
) -> Result<LinearMap> {
    let bias = |output| weights.wide_bias_of(structure, output);
    map_of(context, &structure.linear, &weights.weights, bias)
}

/// As [`linear_map`], of a step of a chain.
pub(super) fn step_map(
    context: &SegmentContext,
    step: &ChainStep,
    weights: &StepWeights,
) -> Result<LinearMap> {
    map_of(context, &step.linear, &weights.weights, |output| weights.bias_of(step, output))
}

fn map_of(
    context: &SegmentContext,
    linear: &LinearGeometry,
    weights: &[i16],
    bias_of: impl Fn(usize) -> i128,
) -> Result<LinearMap> {
    let (n_in, n_out) = (linear.n_inputs(), linear.n_outputs());
    let bias = (0..n_out).map(|i| context.reduce_constant(bias_of(i))).collect();
    let all: Vec<i32> = weights.iter().map(|&w| i32::from(w)).collect();
    let groups = match linear {
        LinearGeometry::Dense { n_in, .. } => dense_groups(*n_in, &all),
        LinearGeometry::Conv2d(conv) => {
            grouped(&[SumTerm { first_input: 0, conv: *conv }], conv.n_groups(), &all)
        }
        LinearGeometry::Sum(sum) => match sum.common_groups() {
            Some(n_groups) => grouped(&sum.terms, n_groups, &all),
            None => {
                let (terms, weights) = expanded(&sum.terms, &all, sum.taps());
                grouped(&terms, 1, &weights)
            }
        },
    };
    Ok(context.with_unit(LinearMap::new(n_in, n_out, groups, bias)?))
}

/// Consecutive outputs that are evaluated together or not at all, from a multiple of their number on:
/// those of one position; where there is one position only, of one matrix.
pub(super) fn band_unit(linear: &LinearGeometry) -> usize {
    let out = linear.output();
    let n_groups = match linear {
        LinearGeometry::Dense { .. } => 1,
        LinearGeometry::Conv2d(conv) => conv.n_groups(),
        LinearGeometry::Sum(sum) => sum.common_groups().unwrap_or(1),
    };
    match (out.height * out.width, n_groups) {
        (1, 1) => DENSE_ROWS,
        (1, _) => out.channels / n_groups,
        _ => out.channels,
    }
}

fn dense_groups(n_in: usize, weights: &[i32]) -> Vec<Group> {
    let inputs: Vec<u32> = (0..).take(n_in).collect();
    weights
        .chunks(DENSE_ROWS * n_in)
        .zip((0_u32..).step_by(DENSE_ROWS))
        .map(|(rows, first_output)| Group {
            weights: rows.to_vec(),
            n_rows: rows.len() / n_in,
            n_taps: n_in,
            placements: vec![Placement { inputs: inputs.clone(), first_output, output_stride: 1 }],
        })
        .collect()
}

/// A sum of convolutions of `n_groups` groups each; weights are row-major, one row per channel.
///
/// Each group of channels is one matrix, placed at every position on what all terms read there. A
/// plane of one position with many channels is cut into bands of rows, as a dense layer is.
fn grouped(terms: &[SumTerm], n_groups: usize, weights: &[i32]) -> Vec<Group> {
    let Some(first) = terms.first() else { return Vec::new() };
    let out = first.conv.output();
    let n_taps: usize = terms.iter().map(|term| term.conv.taps()).sum();
    let n_positions = out.height * out.width;
    let per_group = out.channels / n_groups;
    let is_dense = n_positions == 1 && n_groups == 1;
    let n_rows = if is_dense { per_group.min(DENSE_ROWS) } else { per_group };
    let mut groups = Vec::new();
    for group in 0..n_groups {
        let channels = group * per_group..(group + 1) * per_group;
        let rows = weights.get(channels.start * n_taps..channels.end * n_taps);
        let bands = rows.unwrap_or_default().chunks(n_rows * n_taps);
        for (weights, first_channel) in bands.zip(channels.step_by(n_rows)) {
            let placements = (0..n_positions)
                .map(|position| Placement {
                    inputs: gathered(terms, position, first_channel),
                    first_output: truncate(position * out.channels + first_channel),
                    output_stride: 1,
                })
                .collect();
            let n_rows = weights.len() / n_taps;
            groups.push(Group { weights: weights.to_vec(), n_rows, n_taps, placements });
        }
    }
    groups
}

/// What all terms read at one position for one output channel, term by term.
fn gathered(terms: &[SumTerm], position: usize, channel: usize) -> Vec<u32> {
    let mut inputs = Vec::new();
    for SumTerm { first_input, conv } in terms {
        let first_channel = conv.first_channel(channel);
        let window = window_inputs(conv, position, first_channel, conv.channels_per_group());
        let offset = truncate(*first_input);
        inputs.extend(window.into_iter().map(|i| if i == PADDING { i } else { i + offset }));
    }
    inputs
}

/// The same terms with every output channel reading all input channels of each: zeros where it does
/// not. `taps` is the length of a row of `weights`.
fn expanded(terms: &[SumTerm], weights: &[i32], taps: usize) -> (Vec<SumTerm>, Vec<i32>) {
    let full = |term: &SumTerm| SumTerm {
        conv: ConvGeometry { grouping: Grouping::Full, ..term.conv },
        ..*term
    };
    let wide: Vec<SumTerm> = terms.iter().map(full).collect();
    let mut rows = Vec::new();
    for (channel, row) in weights.chunks(taps).enumerate() {
        let mut rest = row;
        for SumTerm { conv, .. } in terms {
            let (own, others) = rest.split_at(conv.taps().min(rest.len()));
            rest = others;
            let (first, n) = (conv.first_channel(channel), conv.channels_per_group());
            for weights in own.chunks(n.max(1)) {
                rows.resize(rows.len() + first, 0);
                rows.extend_from_slice(weights);
                rows.resize(rows.len() + conv.input.channels - first - n, 0);
            }
        }
    }
    (wide, rows)
}

/// Inputs under the kernel at one output position, kernel row by row, channels fastest.
fn window_inputs(conv: &ConvGeometry, position: usize, channel: usize, n: usize) -> Vec<u32> {
    let out = conv.output();
    let (row, column) = (position / out.width, position % out.width);
    let mut inputs = Vec::with_capacity(conv.taps());
    for ky in 0..conv.kernel.0 {
        let y = (row * conv.stride.0 + ky).checked_sub(conv.padding.top);
        for kx in 0..conv.kernel.1 {
            let x = (column * conv.stride.1 + kx).checked_sub(conv.padding.left);
            let inside = y.zip(x).filter(|&(y, x)| y < conv.input.height && x < conv.input.width);
            for c in channel..channel + n {
                inputs.push(inside.map_or(PADDING, |(y, x)| truncate(conv.input.index(y, x, c))));
            }
        }
    }
    inputs
}

/// Stage sizes are checked to stay below 2^22.
fn truncate(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(PADDING)
}
