//! Disjoint column ranges ("slabs") of a row-major matrix, for parallel tasks.

use core::marker::PhantomData;
use core::ops::ControlFlow;

use rayon::prelude::*;

use crate::Wanted;

/// Slabs that a thread computes between two questions whether the rest is wanted: enough to keep all
/// threads busy, and a fraction of a second for the widest layers.
const SLABS_PER_THREAD_AND_QUESTION: usize = 8;

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
    // Nobody is asked: the slabs are one group.
    let _ = for_each_group(matrix, row_len, width, usize::MAX, scratch, work, &mut || {
        ControlFlow::Continue(())
    });
}

/// As [`for_each_slab`], a few slabs per thread at a time, and asks before each such group whether the rest
/// is wanted. After `Break` some columns have not been visited.
///
/// # Panics
/// As [`for_each_slab`].
pub(crate) fn for_each_slab_while<S: Send>(
    matrix: &mut [u64],
    row_len: usize,
    width: usize,
    scratch: impl Fn() -> S + Sync + Send,
    work: impl Fn(&mut S, SlabRows<'_>) + Sync + Send,
    wanted: &mut Wanted<'_>,
) -> ControlFlow<()> {
    let group = SLABS_PER_THREAD_AND_QUESTION * rayon::current_num_threads();
    for_each_group(matrix, row_len, width, group, scratch, work, wanted)
}

fn for_each_group<S: Send>(
    matrix: &mut [u64],
    row_len: usize,
    width: usize,
    group: usize,
    scratch: impl Fn() -> S + Sync + Send,
    work: impl Fn(&mut S, SlabRows<'_>) + Sync + Send,
    wanted: &mut Wanted<'_>,
) -> ControlFlow<()> {
    if matrix.is_empty() {
        return ControlFlow::Continue(());
    }
    assert!(width > 0 && row_len > 0 && matrix.len().is_multiple_of(row_len));
    let n_rows = matrix.len() / row_len;
    let base = Base(matrix.as_mut_ptr());
    let visit = |scratch: &mut S, index: usize| {
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
    };
    let n_slabs = row_len.div_ceil(width);
    for first in (0..n_slabs).step_by(group) {
        wanted()?;
        let last = first.saturating_add(group).min(n_slabs);
        (first..last).into_par_iter().for_each_init(&scratch, visit);
    }
    ControlFlow::Continue(())
}

struct Base(*mut u64);

impl Base {
    fn pointer(&self) -> *mut u64 {
        self.0
    }
}

// SAFETY: the pointer is only turned into slices of disjoint columns, one slab per index, while
// `for_each_group` holds the matrix mutably.
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

    #[test]
    fn what_is_not_wanted_any_more_is_not_computed() {
        let row_len = 1000 * SLABS_PER_THREAD_AND_QUESTION * rayon::current_num_threads();
        let visit = |wanted: &mut Wanted<'_>| {
            let mut matrix = vec![0; row_len];
            let mark = |(): &mut (), mut slab: SlabRows<'_>| slab.row_mut(0).fill(1);
            let flow = for_each_slab_while(&mut matrix, row_len, 100, || (), mark, wanted);
            (flow.is_continue(), matrix.iter().filter(|&&word| word == 1).count())
        };
        assert_eq!(visit(&mut || ControlFlow::Continue(())), (true, row_len));
        assert_eq!(visit(&mut || ControlFlow::Break(())), (false, 0));
        let mut n_asked = 0;
        let mut third = || {
            n_asked += 1;
            if n_asked < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        assert_eq!(visit(&mut third), (false, row_len / 5), "two groups of ten");
    }
}
