//! The linear map of a stage as the kernels want it.

use he_core::{Group, LinearMap, PADDING, Placement};

use super::context::SegmentContext;
use super::error::Result;
use crate::integer::{ConvGeometry, Grouping, LinearGeometry, StageStructure, StageWeights};

/// Rows of a dense layer that are evaluated together: bounds the memory of a band.
pub(super) const DENSE_ROWS: usize = 160;

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
    let linear = &structure.linear;
    let (n_in, n_out) = (linear.n_inputs(), linear.n_outputs());
    let bias = (0..n_out)
        .map(|i| context.reduce_constant(weights.bias_of(i, linear.n_channels())))
        .collect();
    let all: Vec<i32> = weights.weights.iter().map(|&w| i32::from(w)).collect();
    let groups = match linear {
        LinearGeometry::Dense { n_in, .. } => dense_groups(*n_in, &all),
        LinearGeometry::Conv2d(conv) => match conv.grouping {
            Grouping::Full => vec![full_group(conv, all)],
            Grouping::Depthwise => depthwise_groups(conv, &all),
        },
    };
    Ok(context.with_unit(LinearMap::new(n_in, n_out, groups, bias)?))
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

fn full_group(conv: &ConvGeometry, weights: Vec<i32>) -> Group {
    let out = conv.output();
    let placements = (0_u32..)
        .take(out.height * out.width)
        .map(|position| Placement {
            inputs: window_inputs(conv, position as usize, 0, conv.input.channels),
            first_output: position * truncate(out.channels),
            output_stride: 1,
        })
        .collect();
    Group { weights, n_rows: conv.out_channels, n_taps: conv.taps(), placements }
}

fn depthwise_groups(conv: &ConvGeometry, weights: &[i32]) -> Vec<Group> {
    let out = conv.output();
    weights
        .chunks(conv.taps())
        .zip(0_u32..)
        .map(|(weights, channel)| Group {
            weights: weights.to_vec(),
            n_rows: 1,
            n_taps: conv.taps(),
            placements: (0_u32..)
                .take(out.height * out.width)
                .map(|position| Placement {
                    inputs: window_inputs(conv, position as usize, channel as usize, 1),
                    first_output: position * truncate(out.channels) + channel,
                    output_stride: 1,
                })
                .collect(),
        })
        .collect()
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
