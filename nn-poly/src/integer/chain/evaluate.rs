//! A chain on many samples at once: 128-bit integers, and matrix products in `f64` where those are exact.

#![expect(clippy::indexing_slicing, reason = "indices come from checked geometry")]

use ndarray::{Array2, ArrayView2};

use super::{Chain, StepWeights};
use crate::integer::StageOutput;
use crate::integer::geometry::LinearGeometry;
use crate::integer::linear::{Exact, apply, weight_matrix};
use crate::integer::structure::{Pool, StageStructure};
use crate::integer::weights::StageWeights;

/// The weights of all linear maps of a stage with a chain, as the evaluation multiplies with them.
#[derive(Clone)]
pub(in crate::integer) struct ChainValues {
    /// One matrix per step, then that of the stage itself: channels × taps.
    matrices: Vec<Matrix>,
}

#[derive(Clone)]
enum Matrix {
    /// No partial sum reaches `2^53`.
    Double(Array2<f64>),
    Wide(Array2<i128>),
}

impl Matrix {
    fn new(linear: &LinearGeometry, weights: &[i16], reach: i128) -> Self {
        if reach < i128::from(<f64 as Exact>::EXACT_BELOW) {
            return Self::Double(weight_matrix(linear, weights));
        }
        let taps = linear.taps();
        Self::Wide(Array2::from_shape_fn((linear.n_channels(), taps), |(channel, tap)| {
            i128::from(weights[channel * taps + tap])
        }))
    }

    fn apply(&self, linear: &LinearGeometry, values: &Array2<i128>) -> Array2<i128> {
        match self {
            Self::Double(matrix) => {
                #[expect(clippy::cast_precision_loss, reason = "inputs of a sum below 2^53")]
                let inputs = values.mapv(|v| v as f64);
                apply(linear, matrix, inputs.view()).mapv(|v| i128::from(v.to_integer()))
            }
            Self::Wide(matrix) => apply(linear, matrix, values.view()),
        }
    }
}

impl ChainValues {
    pub(in crate::integer) fn new(
        chain: &Chain,
        structure: &StageStructure,
        weights: &StageWeights,
        reaches: &[i128],
    ) -> Self {
        let steps = chain.steps.iter().zip(&weights.chain);
        let steps = steps.map(|(step, numbers)| (&step.linear, &numbers.weights));
        let all = steps.chain(std::iter::once((&structure.linear, &weights.weights)));
        let matrices = all
            .zip(reaches)
            .map(|((linear, weights), &reach)| Matrix::new(linear, weights, reach))
            .collect();
        Self { matrices }
    }

    /// All values where the segment ends, before the division: one row per output, one column per
    /// sample.
    ///
    /// The construction of the network proved that nothing leaves `±2^120`.
    pub(in crate::integer) fn values(
        &self,
        chain: &Chain,
        structure: &StageStructure,
        weights: &StageWeights,
        inputs: ArrayView2<'_, i32>,
    ) -> Array2<i128> {
        let mut values = inputs.mapv(i128::from);
        for ((step, numbers), matrix) in chain.steps.iter().zip(&weights.chain).zip(&self.matrices)
        {
            let mut z = matrix.apply(&step.linear, &values);
            add_bias(&mut z, |output| numbers.bias_of(step, output));
            let n_channels = step.linear.n_channels();
            square(&mut z, |output| numbers.coefficients(step, output % n_channels));
            values = pooled(step.pool.as_ref(), z);
        }
        let Some(matrix) = self.matrices.last() else { return values };
        let mut z = matrix.apply(&structure.linear, &values);
        add_bias(&mut z, |output| weights.wide_bias_of(structure, output));
        if chain.ends == StageOutput::Linear {
            return z;
        }
        if weights.quadratic.is_some() {
            let n_channels = structure.n_channels();
            square(&mut z, |output| weights.wide_coefficients(structure, output % n_channels));
        }
        pooled(structure.pool.as_ref(), z)
    }
}

fn add_bias(z: &mut Array2<i128>, bias_of: impl Fn(usize) -> i128) {
    for (output, mut row) in z.outer_iter_mut().enumerate() {
        let bias = bias_of(output);
        row.mapv_inplace(|v| v + bias);
    }
}

fn square(z: &mut Array2<i128>, coefficients: impl Fn(usize) -> (i32, i64, i128)) {
    for (output, mut row) in z.outer_iter_mut().enumerate() {
        let (a, b, c) = coefficients(output);
        let (a, b) = (i128::from(a), i128::from(b));
        row.mapv_inplace(|z| (a * z + b) * z + c);
    }
}

fn pooled(pool: Option<&Pool>, values: Array2<i128>) -> Array2<i128> {
    let Some(pool) = pool else { return values };
    let mut sums = Array2::zeros((pool.output().len(), values.ncols()));
    for (output, mut sum) in sums.outer_iter_mut().enumerate() {
        pool.for_each_term(output, |term| sum += &values.row(term));
    }
    sums
}

impl StepWeights {
    /// Largest row norms, for noise bounds.
    #[expect(clippy::cast_precision_loss, reason = "rounded to nearest")]
    pub(crate) fn max_l2(&self, taps: usize) -> f64 {
        let of_row = |row: &[i16]| row.iter().map(|w| u64::from(w.unsigned_abs()).pow(2)).sum();
        let squares: u64 = self.weights.chunks(taps.max(1)).map(of_row).max().unwrap_or(0);
        (squares as f64).sqrt()
    }
}
