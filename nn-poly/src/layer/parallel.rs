//! Data parallelism over sample chunks with results that do not depend on the thread count.
//!
//! A batch is one contiguous slice with `sample_len` values per sample. Chunks have a fixed number
//! of samples; whatever is summed over chunks is summed in chunk order after the parallel part.

use rayon::prelude::*;

use crate::tensor::Scalar;

/// Samples per chunk. Ten equal chunks of the usual batch of 100 share out evenly on 2, 5 or 10
/// threads, and one chunk of a convolution is enough rows for the matrix product to run at speed.
pub(crate) const CHUNK_SAMPLES: usize = 10;

/// Call `kernel(input_chunk, output_chunk)` for every chunk, in parallel.
///
/// `input` and `output` hold the same number of samples of `input_len` and `output_len` values.
pub(crate) fn for_each_chunk<A: Scalar>(
    (input, input_len): (&[A], usize),
    (output, output_len): (&mut [A], usize),
    kernel: impl Fn(&[A], &mut [A]) + Sync,
) {
    output
        .par_chunks_mut(CHUNK_SAMPLES * output_len)
        .zip(input.par_chunks(CHUNK_SAMPLES * input_len))
        .for_each(|(output, input)| kernel(input, output));
}

/// Call `kernel(left_chunk, right_chunk, output_chunk)` for every chunk, in parallel, and return the
/// kernels' results in chunk order.
pub(crate) fn map_chunks2<A: Scalar, R: Send>(
    (left, left_len): (&[A], usize),
    (right, right_len): (&[A], usize),
    (output, output_len): (&mut [A], usize),
    kernel: impl Fn(&[A], &[A], &mut [A]) -> R + Sync,
) -> Vec<R> {
    output
        .par_chunks_mut(CHUNK_SAMPLES * output_len)
        .zip(left.par_chunks(CHUNK_SAMPLES * left_len))
        .zip(right.par_chunks(CHUNK_SAMPLES * right_len))
        .map(|((output, left), right)| kernel(left, right, output))
        .collect()
}

/// Sum `kernel(input_sample_chunk)` over all chunks of one batch: parallel map, ordered sum in f64.
pub(crate) fn sum_chunks<A: Scalar>(
    (input, input_len): (&[A], usize),
    n_sums: usize,
    kernel: impl Fn(&[A], &mut [f64]) + Sync,
) -> Vec<f64> {
    let partial: Vec<Vec<f64>> = input
        .par_chunks(CHUNK_SAMPLES * input_len)
        .map(|chunk| {
            let mut sums = vec![0.0; n_sums];
            kernel(chunk, &mut sums);
            sums
        })
        .collect();
    add_in_order(n_sums, partial)
}

/// As [`sum_chunks`] for kernels of two operands with equally long samples.
pub(crate) fn sum_chunks2<A: Scalar>(
    left: &[A],
    right: &[A],
    sample_len: usize,
    n_sums: usize,
    kernel: impl Fn(&[A], &[A], &mut [f64]) + Sync,
) -> Vec<f64> {
    let partial: Vec<Vec<f64>> = left
        .par_chunks(CHUNK_SAMPLES * sample_len)
        .zip(right.par_chunks(CHUNK_SAMPLES * sample_len))
        .map(|(left, right)| {
            let mut sums = vec![0.0; n_sums];
            kernel(left, right, &mut sums);
            sums
        })
        .collect();
    add_in_order(n_sums, partial)
}

fn add_in_order(n_sums: usize, partial: Vec<Vec<f64>>) -> Vec<f64> {
    let mut total = vec![0.0; n_sums];
    for sums in partial {
        for (total, sum) in total.iter_mut().zip(sums) {
            *total += sum;
        }
    }
    total
}

/// Sum over the rows of `rows` (each `n_channels` long) of `term(row, accumulator)`, in `A` within one
/// block of rows and in f64 across blocks: fast, and accurate for any number of rows.
pub(crate) fn sum_rows<A: Scalar>(n_channels: usize, rows: &[A], sums: &mut [f64]) {
    const BLOCK_ROWS: usize = 64;
    let mut block_sums = vec![A::zero(); n_channels];
    for block in rows.chunks(BLOCK_ROWS * n_channels) {
        block_sums.fill(A::zero());
        for row in block.chunks_exact(n_channels) {
            for (sum, &value) in block_sums.iter_mut().zip(row) {
                *sum += value;
            }
        }
        for (sum, &block_sum) in sums.iter_mut().zip(&block_sums) {
            *sum += block_sum.as_f64();
        }
    }
}
