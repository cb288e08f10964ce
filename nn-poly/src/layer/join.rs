//! The layers that read several values: sums and concatenations.

use ndarray::{Array2, ArrayView2, Axis, Slice};

use super::Fault;
use crate::tensor::{Scalar, Shape};

/// Most values one layer joins.
pub(crate) const MAX_SOURCES: usize = 256;

/// The shape of a sum: that of every summand.
pub(super) fn added_shape(inputs: &[&Shape]) -> Result<Shape, Fault> {
    let reason = "an addition takes values of one shape";
    let Some((first, rest)) = inputs.split_first() else { return Err(Fault::Input(reason)) };
    match rest.iter().position(|other| other != first) {
        Some(position) => Err(Fault::Inputs { first: 0, other: position + 1, reason }),
        None => Ok(Shape::clone(first)),
    }
}

/// The shape of a concatenation along the channels.
pub(super) fn concatenated_shape(inputs: &[&Shape]) -> Result<Shape, Fault> {
    let reason = "a concatenation takes vectors, or images of one height and width";
    let Some((first, rest)) = inputs.split_first() else { return Err(Fault::Input(reason)) };
    let plane = |shape: &Shape| shape.dims().split_last().map(|(_, plane)| plane.to_vec());
    if let Some(position) = rest.iter().position(|other| plane(other) != plane(first)) {
        return Err(Fault::Inputs { first: 0, other: position + 1, reason });
    }
    let n_channels = inputs.iter().map(|shape| shape.channels()).sum::<usize>();
    let mut dims = first.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = n_channels;
    }
    Shape::new(dims).map_err(|_| Fault::Input("the concatenation is too large"))
}

/// Sum of rows of equal length, in the order of the operands.
pub(crate) fn add<A: Scalar>(inputs: &[ArrayView2<'_, A>]) -> Array2<A> {
    let Some((first, rest)) = inputs.split_first() else { return Array2::zeros((0, 0)) };
    let mut sum = first.as_standard_layout().into_owned();
    for other in rest {
        sum += other;
    }
    sum
}

/// Rows whose channels are those of all inputs, position by position.
///
/// `channels` has one entry per input; row lengths are the same multiple of each.
pub(crate) fn concatenate<A: Scalar>(
    inputs: &[ArrayView2<'_, A>],
    channels: &[usize],
) -> Array2<A> {
    let n_samples = inputs.first().map_or(0, |input| input.nrows());
    let total = channels.iter().sum::<usize>();
    let n_values = inputs.iter().map(|input| input.ncols()).sum::<usize>();
    let mut output = Array2::zeros((n_samples, n_values));
    for_each_part(channels, total, |part, first, n| {
        let Some(input) = inputs.get(part) else { return };
        for (mut row, input) in output.rows_mut().into_iter().zip(input.rows()) {
            for (mut position, values) in
                row.exact_chunks_mut(total).into_iter().zip(input.exact_chunks(n))
            {
                position.slice_axis_mut(Axis(0), Slice::from(first..first + n)).assign(&values);
            }
        }
    });
    output
}

/// The inverse of [`concatenate`].
pub(crate) fn split<A: Scalar>(rows: ArrayView2<'_, A>, channels: &[usize]) -> Vec<Array2<A>> {
    let total = channels.iter().sum::<usize>();
    let n_positions = rows.ncols() / total.max(1);
    let mut parts = Vec::with_capacity(channels.len());
    for_each_part(channels, total, |_, first, n| {
        let mut part = Array2::zeros((rows.nrows(), n_positions * n));
        for (mut part, row) in part.rows_mut().into_iter().zip(rows.rows()) {
            for (mut values, position) in
                part.exact_chunks_mut(n).into_iter().zip(row.exact_chunks(total))
            {
                values.assign(&position.slice_axis(Axis(0), Slice::from(first..first + n)));
            }
        }
        parts.push(part);
    });
    parts
}

/// Visit each part with its first channel and number of channels.
fn for_each_part(channels: &[usize], total: usize, mut visit: impl FnMut(usize, usize, usize)) {
    let mut first = 0;
    for (part, &n) in channels.iter().enumerate().filter(|_| total > 0) {
        visit(part, first, n);
        first += n;
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn channels_are_joined_position_by_position_and_taken_apart_again() {
        let (one, two) = (array![[1.0, 2.0]], array![[3.0, 4.0, 5.0, 6.0]]);
        let joined = concatenate(&[one.view(), two.view()], &[1, 2]);
        assert_eq!(joined, array![[1.0, 3.0, 4.0, 2.0, 5.0, 6.0]]);
        assert_eq!(split(joined.view(), &[1, 2]), [one, two]);
    }

    #[test]
    fn sums_take_any_number_of_operands() {
        let x = array![[1.0, -2.0]];
        assert_eq!(add(&[x.view(), x.view(), x.view()]), array![[3.0, -6.0]]);
    }
}
