//! Rows of gradients and tangents, one per function.

use ndarray::{Array2, ArrayView1, ArrayView2, Axis};

use crate::error::{Error, Result};
use crate::tensor::Scalar;

/// Rows of the expected length in standard layout.
pub(super) fn checked_rows<A: Scalar>(rows: Array2<A>, n_columns: usize) -> Result<Array2<A>> {
    if rows.ncols() != n_columns {
        return Err(Error::ShapeMismatch {
            what: "gradients of functions",
            expected: vec![rows.nrows(), n_columns],
            actual: rows.shape().to_vec(),
        });
    }
    Ok(rows.as_standard_layout().into_owned())
}

pub(super) fn scale_rows<A: Scalar>(rows: &mut Array2<A>, factors: &[A]) {
    for mut row in rows.rows_mut() {
        for (value, &factor) in row.iter_mut().zip(factors) {
            *value *= factor;
        }
    }
}

/// Add every value of `rows` to column `winners[i]` of `target`.
pub(super) fn scatter_rows<A: Scalar>(rows: &Array2<A>, winners: &[usize], target: &mut Array2<A>) {
    for (row, mut target) in rows.rows().into_iter().zip(target.rows_mut()) {
        for (&value, &winner) in row.iter().zip(winners) {
            if let Some(slot) = target.get_mut(winner) {
                *slot += value;
            }
        }
    }
}

pub(super) fn row<A>(rows: ArrayView2<'_, A>) -> ArrayView1<'_, A> {
    rows.index_axis_move(Axis(0), 0)
}

pub(super) fn slice<A>(rows: &Array2<A>) -> &[A] {
    rows.as_slice().expect("invariant: rows are in standard layout")
}
