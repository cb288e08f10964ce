//! Disjoint column ranges ("slabs") of a row-major matrix, for parallel tasks.

use core::marker::PhantomData;

use rayon::prelude::*;

/// The columns `[start, start + width)` of every row of a row-major matrix.
#[derive(Debug)]
pub(crate) struct SlabRows<'a> {
    base: *mut u64,
    n_rows: usize,
    row_len: usize,
    start: usize,
    width: usize,
    matrix: PhantomData<&'a mut [u64]>,
}

// SAFETY: a slab is the only owner of its columns (see `for_each_slab`), like a `&mut [u64]`.
unsafe impl Send for SlabRows<'_> {}

impl<'a> SlabRows<'a> {
    /// One slab of all columns of a matrix with `row_len` columns.
    ///
    /// # Panics
    /// When `matrix` is not a whole number of rows.
    pub(crate) fn whole(matrix: &'a mut [u64], row_len: usize) -> Self {
        assert!(row_len > 0 && matrix.len().is_multiple_of(row_len));
        let n_rows = matrix.len() / row_len;
        let base = matrix.as_mut_ptr();
        Self { base, n_rows, row_len, start: 0, width: row_len, matrix: PhantomData }
    }

    /// This slab's part of one row.
    ///
    /// # Panics
    /// When the row does not exist.
    pub(crate) fn row_mut(&mut self, row: usize) -> &mut [u64] {
        assert!(row < self.n_rows, "row {row} of {}", self.n_rows);
        // SAFETY: row < n_rows and start + width <= row_len, so the range lies inside the matrix;
        // slabs handed out together cover disjoint columns, and `&mut self` makes this the only
        // live slice of this slab.
        unsafe {
            let first = self.base.add(row * self.row_len + self.start);
            core::slice::from_raw_parts_mut(first, self.width)
        }
    }

    /// Number of columns.
    pub(crate) const fn width(&self) -> usize {
        self.width
    }

    /// First column.
    pub(crate) const fn start(&self) -> usize {
        self.start
    }
}

/// Runs `work` on every slab of `width` columns (the last may be narrower), in parallel, with one
/// scratch value per worker.
///
/// # Panics
/// When `matrix` is not a whole number of rows or `width` is zero.
pub(crate) fn for_each_slab<S: Send>(
    matrix: &mut [u64],
    row_len: usize,
    width: usize,
    scratch: impl Fn() -> S + Sync + Send,
    work: impl Fn(&mut S, SlabRows<'_>) + Sync + Send,
) {
    if matrix.is_empty() {
        return;
    }
    assert!(width > 0 && row_len > 0 && matrix.len().is_multiple_of(row_len));
    let n_rows = matrix.len() / row_len;
    let base = Base(matrix.as_mut_ptr());
    (0..row_len.div_ceil(width)).into_par_iter().for_each_init(scratch, |scratch, index| {
        let start = index * width;
        let slab = SlabRows {
            base: base.pointer(),
            n_rows,
            row_len,
            start,
            width: width.min(row_len - start),
            matrix: PhantomData,
        };
        work(scratch, slab);
    });
}

struct Base(*mut u64);

impl Base {
    fn pointer(&self) -> *mut u64 {
        self.0
    }
}

// SAFETY: the pointer is only turned into slices of disjoint columns, one slab per index, while
// `for_each_slab` holds the matrix mutably.
unsafe impl Sync for Base {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_is_visited_once() {
        let (rows, row_len) = (7, 50);
        let mut matrix = vec![0; rows * row_len];
        for_each_slab(
            &mut matrix,
            row_len,
            16,
            || (),
            |(), mut slab| {
                for row in 0..rows {
                    let start = slab.start();
                    for (c, cell) in slab.row_mut(row).iter_mut().enumerate() {
                        *cell += (row * row_len + start + c) as u64 + 1;
                    }
                }
            },
        );
        assert!(matrix.iter().enumerate().all(|(i, &x)| x == i as u64 + 1));
    }
}
