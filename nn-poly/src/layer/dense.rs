//! The fully connected layer.

use ndarray::{Array1, Array2, ArrayView2, ArrayViewMut2, Axis, linalg::general_mat_mul};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{FINITE, Fault, WeightQuantizer, cast_array, check_parameter};
use crate::tensor::{Scalar, Shape};

/// `y = W x + b` on vectors.
///
/// Shapes: `weights (n_out, n_in)`, `bias (n_out)`; input `[n_in]`, output `[n_out]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound = "A: Scalar")]
pub struct Dense<A> {
    /// `W`, one row per output.
    pub weights: Array2<A>,
    /// `b`, one entry per output.
    pub bias: Array1<A>,
    /// Grid to which the forward pass rounds the weights, for quantization-aware training.
    pub weight_quantizer: Option<WeightQuantizer<A>>,
}

/// Samples per matrix product: large enough to amortize packing the weights.
const CHUNK_SAMPLES: usize = 25;
/// Rows of the weight gradient per matrix product; its value does not depend on the thread count.
const CHUNK_OUTPUTS: usize = 64;

impl<A: Scalar> Dense<A> {
    /// A layer with the given parameters and unrestricted weights.
    #[must_use]
    pub fn new(weights: Array2<A>, bias: Array1<A>) -> Self {
        Self { weights, bias, weight_quantizer: None }
    }

    /// Number of inputs.
    #[must_use]
    pub fn n_inputs(&self) -> usize {
        self.weights.ncols()
    }

    /// Number of outputs.
    #[must_use]
    pub fn n_outputs(&self) -> usize {
        self.weights.nrows()
    }

    pub(super) fn output_shape(&self, input: &Shape) -> Result<Shape, Fault> {
        let &[n_in] = input.dims() else {
            return Err(Fault::Input(
                "a dense layer takes a vector; put a flatten layer before it",
            ));
        };
        let n_out = self.weights.nrows();
        let expected = [n_out, n_in];
        check_parameter("weights", (&expected, self.weights.shape()), &self.weights, FINITE)?;
        check_parameter("bias", (&[n_out], self.bias.shape()), &self.bias, FINITE)?;
        if let Some(quantizer) = &self.weight_quantizer {
            quantizer.check(n_out)?;
        }
        Shape::vector(n_out).map_err(|_| Fault::Input("the number of outputs is zero or too large"))
    }

    pub(super) fn cast<B: Scalar>(&self) -> Dense<B> {
        Dense {
            weights: cast_array(&self.weights),
            bias: cast_array(&self.bias),
            weight_quantizer: self.weight_quantizer.as_ref().map(WeightQuantizer::cast),
        }
    }

    /// `input (samples, n_in)` times `weights` (as used, perhaps rounded) plus bias.
    pub(crate) fn forward(
        &self,
        weights: ArrayView2<'_, A>,
        input: ArrayView2<'_, A>,
    ) -> Array2<A> {
        let mut output = Self::product(weights, input);
        for mut row in output.rows_mut() {
            row += &self.bias;
        }
        output
    }

    /// `input (samples, n_in)` times `weights`, without the bias.
    pub(crate) fn product(weights: ArrayView2<'_, A>, input: ArrayView2<'_, A>) -> Array2<A> {
        let mut output = Array2::zeros((input.nrows(), weights.nrows()));
        multiply_by_rows(input, weights.t(), &mut output, CHUNK_SAMPLES);
        output
    }

    /// Gradients of the weights and of the bias.
    pub(crate) fn parameter_gradient(
        input: ArrayView2<'_, A>,
        output_gradient: ArrayView2<'_, A>,
    ) -> (Array2<A>, Array1<A>) {
        let mut weights = Array2::zeros((output_gradient.ncols(), input.ncols()));
        multiply_by_rows(output_gradient.t(), input, &mut weights, CHUNK_OUTPUTS);
        (weights, output_gradient.sum_axis(Axis(0)))
    }

    /// Gradient of the input.
    pub(crate) fn input_gradient(
        weights: ArrayView2<'_, A>,
        output_gradient: ArrayView2<'_, A>,
    ) -> Array2<A> {
        let mut gradient = Array2::zeros((output_gradient.nrows(), weights.ncols()));
        multiply_by_rows(output_gradient, weights, &mut gradient, CHUNK_SAMPLES);
        gradient
    }
}

/// `output = left · right`, in parallel over blocks of `chunk_rows` rows of `left`.
fn multiply_by_rows<A: Scalar>(
    left: ArrayView2<'_, A>,
    right: ArrayView2<'_, A>,
    output: &mut Array2<A>,
    chunk_rows: usize,
) {
    output
        .axis_chunks_iter_mut(Axis(0), chunk_rows)
        .into_par_iter()
        .zip(left.axis_chunks_iter(Axis(0), chunk_rows))
        .for_each(|(mut output, left): (ArrayViewMut2<'_, A>, ArrayView2<'_, A>)| {
            general_mat_mul(A::one(), &left, &right, A::zero(), &mut output);
        });
}
