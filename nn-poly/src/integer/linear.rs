//! The linear map of a stage on many columns at once.
//!
//! A matrix product in `f32` or `f64` is exact when every partial sum of products is an integer below
//! `2^24` or `2^53`, in any order and with or without fused multiply-add: nothing is ever rounded.
//! The construction of a network proves that bound per stage ([`super::StageRanges::max_products`]),
//! so the fast path uses the floating-point matrix kernels, several times faster than integer
//! code on a baseline processor. The limits of a stage keep every network below `2^53`. A
//! convolution is a sum of such products over the kernel rows, on slices of the input: with channels
//! last, the values under one kernel row are consecutive rows of the matrix, so nothing is gathered.

#![expect(clippy::indexing_slicing, reason = "slices follow checked geometry")]

use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, LinalgScalar};

use super::chain::ChainValues;
use super::geometry::{ConvGeometry, Grouping, LinearGeometry, SumTerm};
use super::ranges::StageRanges;
use super::refresh::MAX_REFRESHED;
use super::structure::{MAX_STAGE_VALUES, StageStructure};
use super::weights::{MAX_WEIGHT, StageWeights};

/// The largest sum of products the limits of a stage allow is exact in `f64`.
const _: () = assert!(
    (MAX_STAGE_VALUES as u128) * (MAX_WEIGHT as u128) * (MAX_REFRESHED as u128)
        < f64::EXACT_BELOW as u128
);

/// A number type in which sums of products below [`Self::EXACT_BELOW`] are exact.
pub(super) trait Exact: LinalgScalar + Send + Sync {
    /// Integers of smaller magnitude, and their sums below it, are exact.
    const EXACT_BELOW: u64;
    fn from_small(v: i32) -> Self;
    fn to_integer(self) -> i64;
}

impl Exact for f32 {
    const EXACT_BELOW: u64 = 1 << 24;
    #[expect(clippy::cast_precision_loss, reason = "operands are below 2^24")]
    fn from_small(v: i32) -> Self {
        v as Self
    }
    #[expect(clippy::cast_possible_truncation, reason = "an integer below 2^24")]
    fn to_integer(self) -> i64 {
        i64::from(self as i32)
    }
}

impl Exact for f64 {
    const EXACT_BELOW: u64 = 1 << 53;
    fn from_small(v: i32) -> Self {
        Self::from(v)
    }
    #[expect(clippy::cast_possible_truncation, reason = "an integer below 2^53")]
    fn to_integer(self) -> i64 {
        self as i64
    }
}

/// The weights, one row per channel, in the fastest type that is exact for the stage.
#[derive(Clone)]
pub(super) enum PreparedWeights {
    Single(Array2<f32>),
    Double(Array2<f64>),
    /// Of a stage with a chain.
    Chain(ChainValues),
}

impl PreparedWeights {
    pub(super) fn new(
        structure: &StageStructure,
        weights: &StageWeights,
        proven: &StageRanges,
    ) -> Self {
        let linear = &structure.linear;
        if let Some(chain) = &structure.chain {
            Self::Chain(ChainValues::new(chain, structure, weights, &proven.chain_products))
        } else if proven.max_products < f32::EXACT_BELOW {
            Self::Single(weight_matrix(linear, &weights.weights))
        } else {
            Self::Double(weight_matrix(linear, &weights.weights))
        }
    }
}

/// The weights as a matrix of channels × taps.
pub(super) fn weight_matrix<A: Exact>(linear: &LinearGeometry, weights: &[i16]) -> Array2<A> {
    let taps = linear.taps();
    Array2::from_shape_fn((linear.n_channels(), taps), |(channel, tap)| {
        A::from_small(i32::from(weights[channel * taps + tap]))
    })
}

/// `W·X` without bias: `inputs` is `n_in × columns`, the result `n_out × columns`.
pub(super) fn apply<A: LinalgScalar>(
    linear: &LinearGeometry,
    weights: &Array2<A>,
    inputs: ArrayView2<'_, A>,
) -> Array2<A> {
    let mut out = Array2::zeros((linear.n_outputs(), inputs.ncols()));
    match linear {
        LinearGeometry::Dense { .. } => {
            general_mat_mul(A::one(), weights, &inputs, A::zero(), &mut out);
        }
        LinearGeometry::Conv2d(conv) => convolve(conv, weights.view(), inputs, out.view_mut()),
        LinearGeometry::Sum(sum) => {
            let mut first_tap = 0;
            for SumTerm { first_input, conv } in &sum.terms {
                let taps = first_tap..first_tap + conv.taps();
                first_tap = taps.end;
                let read = *first_input..first_input + conv.input.len();
                let weights = weights.slice_axis(Axis(1), taps.into());
                let inputs = inputs.slice_axis(Axis(0), read.into());
                convolve(conv, weights, inputs, out.view_mut());
            }
        }
    }
    out
}

/// Add `W·X` of a convolution to `out`.
fn convolve<A: LinalgScalar>(
    conv: &ConvGeometry,
    weights: ArrayView2<'_, A>,
    inputs: ArrayView2<'_, A>,
    mut out: ArrayViewMut2<'_, A>,
) {
    let shape = conv.output();
    let per_group = conv.channels_per_group();
    for row in 0..shape.height {
        let (ky0, ky1, y0) = conv.rows_inside(row);
        for column in 0..shape.width {
            let (kx0, kx1, x0) = conv.columns_inside(column);
            let first = shape.index(row, column, 0);
            let mut out = out.slice_axis_mut(Axis(0), (first..first + shape.channels).into());
            for (y, ky) in (y0..).zip(ky0..ky1) {
                let tap = (ky * conv.kernel.1 + kx0) * per_group;
                let n_taps = (kx1 - kx0) * per_group;
                let weights = weights.slice_axis(Axis(1), (tap..tap + n_taps).into());
                let start = conv.input.index(y, x0, 0);
                let n = (kx1 - kx0) * conv.input.channels;
                let inputs = inputs.slice_axis(Axis(0), (start..start + n).into());
                match conv.grouping {
                    Grouping::Full => {
                        general_mat_mul(A::one(), &weights, &inputs, A::one(), &mut out);
                    }
                    Grouping::Depthwise => multiply_depthwise(weights, inputs, &mut out),
                    Grouping::Groups(_) => multiply_groups(conv, weights, inputs, &mut out),
                }
            }
        }
    }
}

/// Add the product of every group's weights with its channels, kernel column by kernel column.
///
/// `weights` are those of one kernel row, `inputs` the values under it.
fn multiply_groups<A: LinalgScalar>(
    conv: &ConvGeometry,
    weights: ArrayView2<'_, A>,
    inputs: ArrayView2<'_, A>,
    out: &mut ArrayViewMut2<'_, A>,
) {
    let (n_groups, per_group) = (conv.n_groups(), conv.channels_per_group());
    let n_rows = out.nrows() / n_groups;
    for group in 0..n_groups {
        let rows = group * n_rows..(group + 1) * n_rows;
        let weights = weights.slice_axis(Axis(0), rows.clone().into());
        let mut out = out.slice_axis_mut(Axis(0), rows.into());
        for column in 0..weights.ncols() / per_group {
            let taps = column * per_group..(column + 1) * per_group;
            let first = column * conv.input.channels + group * per_group;
            let weights = weights.slice_axis(Axis(1), taps.into());
            let inputs = inputs.slice_axis(Axis(0), (first..first + per_group).into());
            general_mat_mul(A::one(), &weights, &inputs, A::one(), &mut out);
        }
    }
}

/// Add `w[channel, k] · x[k·channels + channel]` to each output channel.
fn multiply_depthwise<A: LinalgScalar>(
    weights: ArrayView2<'_, A>,
    inputs: ArrayView2<'_, A>,
    out: &mut ArrayViewMut2<'_, A>,
) {
    let n_channels = out.nrows();
    for (idx, input) in inputs.outer_iter().enumerate() {
        let (tap, channel) = (idx / n_channels, idx % n_channels);
        out.row_mut(channel).scaled_add(weights[[channel, tap]], &input);
    }
}
