//! A network at one input: many gradients at once, and the sensitivity to its parameters.
//!
//! With `z = f(W, x)` and functions `φ_c` of the outputs, the squared norms `‖∂φ_c/∂W‖²` say how far
//! the `φ_c` move when the parameters do. Their gradient with respect to the input is exact, by
//! forward-over-reverse: for `g_c = ∂φ_c/∂W` held fixed,
//!
//! ```text
//!  ∂/∂x ‖∂φ_c/∂W‖² = 2 · d/dτ ∂φ_c/∂x (W + τ·g_c, x)   at τ = 0
//! ```
//!
//! so one backward pass gives `g_c`, a forward pass carries the tangent `g_c` of the weights to the
//! outputs, and a second backward pass carries it to the input. Nothing is differenced.
//!
//! ```text
//!  layer       forward tangent ẏ            tangent ẋ̄ of the input's gradient (ȳ: upstream)
//!  linear      Wẋ + Ẇx + ḃ                  Wᵀ ẏ̄ + Ẇᵀ ȳ
//!  activation  a′(x) ẋ (+ ∂a/∂θ θ̇)          a′(x) ẏ̄ + a″(x) ẋ ȳ (+ ∂a′/∂θ θ̇ ȳ)
//!  normalize   γ s ẋ + γ̇ x̂ + β̇              γ s ẏ̄ + γ̇ s ȳ
//! ```
//!
//! For a dense layer `Ẇ = ȳ xᵀ` has rank one: `Ẇx = ȳ ‖x‖²` and `Ẇᵀȳ = x ‖ȳ‖²`.
//!
//! ReLU, clamp, maxima and rounding are differentiated piecewise (rounding straight through).

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis};

use super::step::{self, Cache, Site};
use super::{Mode, Tape};
use crate::error::{Error, Result};
use crate::layer::{Activation, BatchNorm, BatchStatistics, Conv2d, Dense, Layer, convolution};
use crate::network::Network;
use crate::tensor::{Scalar, Tensor};

mod direction;
mod selection;

use direction::Direction;
pub use selection::ParameterSelection;

/// A network at one input, outside training.
///
/// Memory: the values between the layers and the slopes of the activations.
#[derive(Debug)]
pub struct Linearization<'a, A: Scalar> {
    tape: Tape<'a, A>,
    local: Vec<Local<A>>,
}

/// What the derivatives of a layer without a matrix need, value by value.
#[derive(Debug)]
enum Local<A> {
    /// Nothing: linear maps, pools, identities.
    None,
    /// The layer multiplies tangents and gradients by `slope`.
    Elementwise { slope: Vec<A>, curvature: Option<Vec<A>> },
    /// Output `i` is a copy of input `winners[i]`: maximum pooling.
    Selection { winners: Vec<usize> },
}

/// Everything the first backward pass leaves for the second.
struct FirstPass<'a, A: Scalar> {
    /// Gradient at the output of layer `i`, one row per function; empty below the first selected.
    upstream: Vec<Array2<A>>,
    directions: Vec<Option<Direction<'a, A>>>,
}

impl<'a, A: Scalar> Linearization<'a, A> {
    /// Evaluate `network` at `input` and remember what derivatives need.
    ///
    /// Cost: one forward pass.
    ///
    /// # Errors
    /// - [`Error::ShapeMismatch`] if `input` has not as many values as the network takes.
    /// - [`Error::NonFiniteInput`] if a value is NaN or infinite.
    pub fn new(network: &'a Network<A>, input: ArrayView1<'_, A>) -> Result<Self> {
        let values = input.to_owned().insert_axis(Axis(0));
        let batch = Tensor::new(network.input_shape().clone(), values)?;
        batch.check_finite("network input")?;
        let tape = Tape::forward(network, batch, Mode::Inference)?;
        let local = (0..network.layers().len()).map(|idx| local_slope(&tape, idx)).collect();
        Ok(Self { tape, local })
    }

    /// The network's outputs `z`.
    #[must_use]
    pub fn output(&self) -> ArrayView1<'_, A> {
        row(self.tape.output())
    }

    /// The values that enter layer `layer_idx`; for the number of layers, the outputs.
    ///
    /// # Errors
    /// - [`Error::OutOfRange`] if there is no such layer.
    pub fn layer_input(&self, layer_idx: usize) -> Result<ArrayView1<'_, A>> {
        self.check_layer(layer_idx)?;
        Ok(self.value(layer_idx))
    }

    /// Gradients of several functions with respect to the network's input.
    ///
    /// Shapes: `rows (n_functions, n_outputs)`, the functions' gradients with respect to the outputs;
    /// result `(n_functions, n_inputs)`.
    ///
    /// # Errors
    /// - [`Error::ShapeMismatch`] if a row has not one value per output.
    pub fn input_gradients(&self, rows: Array2<A>) -> Result<Array2<A>> {
        self.input_gradients_from(self.n_layers(), rows)
    }

    /// Gradients of several functions with respect to the network's input, given their gradients with
    /// respect to what enters layer `layer_idx`.
    ///
    /// # Errors
    /// - [`Error::OutOfRange`] if there is no such layer.
    /// - [`Error::ShapeMismatch`] if a row has not one value per input of that layer.
    pub fn input_gradients_from(&self, layer_idx: usize, rows: Array2<A>) -> Result<Array2<A>> {
        self.check_layer(layer_idx)?;
        let rows = checked_rows(rows, self.value(layer_idx).len())?;
        Ok((0..layer_idx).rev().fold(rows, |rows, idx| self.pull(idx, rows)))
    }

    /// Gradients of several functions with respect to what enters layer `layer_idx`, given their
    /// gradients with respect to the outputs.
    ///
    /// # Errors
    /// - [`Error::OutOfRange`] if there is no such layer.
    /// - [`Error::ShapeMismatch`] if a row has not one value per output.
    pub fn layer_gradients(&self, layer_idx: usize, rows: Array2<A>) -> Result<Array2<A>> {
        self.check_layer(layer_idx)?;
        let rows = checked_rows(rows, self.output().len())?;
        Ok((layer_idx..self.n_layers()).rev().fold(rows, |rows, idx| self.pull(idx, rows)))
    }

    /// `‖∂φ_c/∂W‖²` of several functions `φ_c` of the outputs, over the selected parameters.
    ///
    /// Shapes: `rows (n_functions, n_outputs)`, the `∂φ_c/∂z`; result one number per function.
    /// Cost: one backward pass per function, down to the first selected layer.
    ///
    /// # Errors
    /// - [`Error::ShapeMismatch`] if a row has not one value per output.
    pub fn squared_norms(
        &self,
        rows: Array2<A>,
        selection: &ParameterSelection,
    ) -> Result<Array1<f64>> {
        let n_functions = rows.nrows();
        let first = self.first_pass(rows, selection)?;
        Ok(first.squared_norms(self, n_functions, selection))
    }

    /// The squared norms as for [`Self::squared_norms`], and the exact gradient of their sum with
    /// respect to the input.
    ///
    /// `curvature` maps the tangents `ż_c` of the outputs, one row per function, to the rows
    /// `∂²φ_c/∂z² · ż_c`; zeros if the functions are linear.
    /// Cost: about five backward passes per function.
    ///
    /// # Errors
    /// - [`Error::ShapeMismatch`] if `rows` or the result of `curvature` has not one value per
    ///   output and one row per function.
    pub fn squared_norms_and_gradient(
        &self,
        rows: Array2<A>,
        selection: &ParameterSelection,
        curvature: impl FnOnce(&Array2<A>) -> Array2<A>,
    ) -> Result<(Array1<f64>, Array1<A>)> {
        let dim = rows.dim();
        let first = self.first_pass(rows, selection)?;
        let norms = first.squared_norms(self, dim.0, selection);
        let lowest = selection.first();
        let (tangents, output_tangent) = self.push_tangents(&first, lowest, dim.0);
        let bent = curvature(&output_tangent);
        if bent.dim() != dim {
            return Err(Error::ShapeMismatch {
                what: "the curvature of the functions",
                expected: vec![dim.0, dim.1],
                actual: bent.shape().to_vec(),
            });
        }
        let mut tangent = bent.as_standard_layout().into_owned();
        for layer_idx in (lowest..self.n_layers()).rev() {
            tangent = self.pull_tangent(layer_idx, &first, tangents.get(layer_idx), tangent);
        }
        let sum = tangent.sum_axis(Axis(0)).insert_axis(Axis(0));
        let sum = (0..lowest).rev().fold(sum, |sum, idx| self.pull(idx, sum));
        let two = A::one() + A::one();
        Ok((norms, sum.index_axis_move(Axis(0), 0).mapv(|g| two * g)))
    }

    /// How much of the squared norms falls on each unit of each selected layer: output neurons of
    /// dense layers, output channels of everything else. Summed over the functions.
    ///
    /// One array per layer of the network, empty where nothing is selected.
    ///
    /// # Errors
    /// - [`Error::ShapeMismatch`] if a row has not one value per output.
    pub fn unit_norms(
        &self,
        rows: Array2<A>,
        selection: &ParameterSelection,
    ) -> Result<Vec<Array1<f64>>> {
        let first = self.first_pass(rows, selection)?;
        Ok((0..self.n_layers())
            .map(|layer_idx| match first.at(layer_idx) {
                Some((upstream, direction)) => {
                    direction.unit_norms(self.value(layer_idx), upstream.view(), selection)
                }
                None => Array1::zeros(0),
            })
            .collect())
    }

    fn n_layers(&self) -> usize {
        self.local.len()
    }

    fn check_layer(&self, layer_idx: usize) -> Result<()> {
        crate::integer::require("network", 0, "layer index", layer_idx, 0, self.n_layers())
    }

    fn site(&self, layer_idx: usize) -> Site<'a, A> {
        step::site(self.tape.network, layer_idx)
    }

    /// What enters layer `layer_idx`.
    fn value(&self, layer_idx: usize) -> ArrayView1<'_, A> {
        let position = self.tape.positions.get(layer_idx);
        let position = *position.expect("invariant: one more position than layers");
        row(self.tape.value(position).view())
    }

    /// The matrix of a dense layer or convolution as the forward pass used it.
    fn weights(&self, layer_idx: usize) -> ArrayView2<'_, A> {
        match (self.tape.caches.get(layer_idx), self.site(layer_idx).layer) {
            (Some(Cache::Weights(rounded)), _) => rounded.view(),
            (_, Layer::Dense(dense)) => dense.weights.view(),
            (_, Layer::Conv2d(conv)) => step::kernel_matrix(&conv.weights),
            _ => unreachable!("invariant: only called for layers with a matrix"),
        }
    }

    /// From gradients at a layer's output to gradients at its input, with fixed parameters.
    fn pull(&self, layer_idx: usize, mut upstream: Array2<A>) -> Array2<A> {
        let Site { layer, input_shape, .. } = self.site(layer_idx);
        match layer {
            Layer::Dense(_) => Dense::input_gradient(self.weights(layer_idx), upstream.view()),
            Layer::Conv2d(conv) => {
                let weights = self.weights(layer_idx);
                pull_convolution(conv, input_shape, weights, &upstream)
            }
            Layer::Pool2d(pool) => {
                let mut below = Array2::zeros((upstream.nrows(), input_shape.len()));
                if let Some(Local::Selection { winners }) = self.local.get(layer_idx) {
                    scatter_rows(&upstream, winners, &mut below);
                } else {
                    pool.spread(input_shape, slice(&upstream), step::slice_mut(&mut below));
                }
                below
            }
            Layer::BatchNorm(_)
            | Layer::Activation(_)
            | Layer::Clamp(_)
            | Layer::Quantize(_)
            | Layer::Dropout(_)
            | Layer::Flatten => {
                if let Some(Local::Elementwise { slope, .. }) = self.local.get(layer_idx) {
                    scale_rows(&mut upstream, slope);
                }
                upstream
            }
        }
    }

    /// From tangents at a layer's input to tangents at its output, with fixed parameters.
    fn push(&self, layer_idx: usize, mut tangent: Array2<A>) -> Array2<A> {
        let Site { layer, input_shape, output_len } = self.site(layer_idx);
        match layer {
            Layer::Dense(_) => Dense::product(self.weights(layer_idx), tangent.view()),
            Layer::Conv2d(conv) => {
                let shape = step::conv_shape(input_shape, conv);
                let mut above = Array2::zeros((tangent.nrows(), output_len));
                let bias = Array1::zeros(conv.out_channels());
                let target = step::slice_mut(&mut above);
                let weights = self.weights(layer_idx);
                convolution::forward(&shape, weights, &bias, slice(&tangent), target);
                above
            }
            Layer::Pool2d(pool) => {
                if let Some(Local::Selection { winners }) = self.local.get(layer_idx) {
                    let above = tangent.select(Axis(1), winners);
                    return above.as_standard_layout().into_owned();
                }
                let mut above = Array2::zeros((tangent.nrows(), output_len));
                pool.forward(input_shape, slice(&tangent), step::slice_mut(&mut above));
                above
            }
            Layer::BatchNorm(_)
            | Layer::Activation(_)
            | Layer::Clamp(_)
            | Layer::Quantize(_)
            | Layer::Dropout(_)
            | Layer::Flatten => {
                if let Some(Local::Elementwise { slope, .. }) = self.local.get(layer_idx) {
                    scale_rows(&mut tangent, slope);
                }
                tangent
            }
        }
    }

    /// Gradients at every layer's output, and the selected parameters' gradients.
    fn first_pass(
        &self,
        rows: Array2<A>,
        selection: &ParameterSelection,
    ) -> Result<FirstPass<'a, A>> {
        let mut upstream = checked_rows(rows, self.output().len())?;
        let n_layers = self.n_layers();
        let mut pass = FirstPass {
            upstream: vec![Array2::zeros((0, 0)); n_layers],
            directions: (0..n_layers).map(|_| None).collect(),
        };
        let records = pass.upstream.iter_mut().zip(&mut pass.directions).enumerate();
        for (layer_idx, (kept, direction)) in records.skip(selection.first()).rev() {
            if selection.contains(layer_idx) {
                let Site { layer, input_shape, .. } = self.site(layer_idx);
                let x = self.value(layer_idx);
                *direction =
                    Some(Direction::new(layer, input_shape, x, upstream.view(), selection));
            }
            let below = if layer_idx > selection.first() {
                self.pull(layer_idx, upstream.clone())
            } else {
                Array2::zeros((0, 0))
            };
            *kept = std::mem::replace(&mut upstream, below);
        }
        Ok(pass)
    }

    /// Tangents at the input of every layer from `lowest` on, and at the output.
    fn push_tangents(
        &self,
        first: &FirstPass<'_, A>,
        lowest: usize,
        n_functions: usize,
    ) -> (Vec<Array2<A>>, Array2<A>) {
        let n_in = if lowest < self.n_layers() { self.value(lowest).len() } else { 0 };
        let mut tangent = Array2::zeros((n_functions, n_in));
        let mut kept = vec![Array2::zeros((0, 0)); lowest];
        for layer_idx in lowest..self.n_layers() {
            let mut above = self.push(layer_idx, tangent.clone());
            kept.push(tangent);
            if let Some((upstream, direction)) = first.at(layer_idx) {
                let input_shape = self.site(layer_idx).input_shape;
                direction.push(input_shape, self.value(layer_idx), upstream.view(), &mut above);
            }
            tangent = above;
        }
        (kept, tangent)
    }

    /// From the tangent of the gradients at a layer's output to that at its input.
    fn pull_tangent(
        &self,
        layer_idx: usize,
        first: &FirstPass<'_, A>,
        input_tangent: Option<&Array2<A>>,
        tangent: Array2<A>,
    ) -> Array2<A> {
        let mut below = self.pull(layer_idx, tangent);
        let upstream = first.upstream.get(layer_idx);
        let (Some(upstream), Some(input_tangent)) = (upstream, input_tangent) else { return below };
        if let Some(Local::Elementwise { curvature: Some(curvature), .. }) =
            self.local.get(layer_idx)
        {
            let rows = below.rows_mut().into_iter().zip(upstream.rows()).zip(input_tangent.rows());
            for ((mut below, upstream), tangent) in rows {
                let values = below.iter_mut().zip(upstream).zip(tangent).zip(curvature);
                for (((below, &y), &x), &bend) in values {
                    *below += bend * x * y;
                }
            }
        }
        if let Some((upstream, direction)) = first.at(layer_idx) {
            let input_shape = self.site(layer_idx).input_shape;
            direction.pull(input_shape, self.value(layer_idx), upstream.view(), &mut below);
        }
        below
    }
}

impl<'a, A: Scalar> FirstPass<'a, A> {
    fn at(&self, layer_idx: usize) -> Option<(&Array2<A>, &Direction<'a, A>)> {
        let direction = self.directions.get(layer_idx)?.as_ref()?;
        Some((self.upstream.get(layer_idx)?, direction))
    }

    fn squared_norms(
        &self,
        point: &Linearization<'_, A>,
        n_functions: usize,
        selection: &ParameterSelection,
    ) -> Array1<f64> {
        let mut norms = Array1::zeros(n_functions);
        for layer_idx in 0..self.directions.len() {
            if let Some((upstream, direction)) = self.at(layer_idx) {
                let x = point.value(layer_idx);
                direction.add_squared_norms(x, upstream.view(), selection, &mut norms);
            }
        }
        norms
    }
}

/// Slopes of the layers that act value by value, and choices of those that choose.
fn local_slope<A: Scalar>(tape: &Tape<'_, A>, layer_idx: usize) -> Local<A> {
    let Site { layer, input_shape, .. } = step::site(tape.network, layer_idx);
    let position = tape.positions.get(layer_idx).copied().unwrap_or_default();
    let input = row(tape.value(position).view());
    let x = input.as_slice().expect("invariant: batches are in standard layout");
    let by_backward = |backward: &dyn Fn(&[A], &mut [A])| {
        let mut slope = vec![A::zero(); x.len()];
        backward(&vec![A::one(); x.len()], &mut slope);
        Local::Elementwise { slope, curvature: None }
    };
    match layer {
        Layer::Activation(activation) => {
            let (slope, curvature) = activation.derivatives(x);
            let is_bent = !matches!(activation, Activation::Relu);
            Local::Elementwise { slope, curvature: is_bent.then_some(curvature) }
        }
        Layer::BatchNorm(norm) => {
            let scale = inference_scale(norm);
            let slope = scale.iter().copied().cycle().take(x.len()).collect();
            Local::Elementwise { slope, curvature: None }
        }
        Layer::Clamp(clamp) => by_backward(&|one, slope| clamp.backward(x, one, slope, x.len())),
        Layer::Quantize(quantize) => {
            by_backward(&|one, slope| quantize.backward(x, one, slope, x.len()))
        }
        Layer::Pool2d(pool) => match pool.winners(input_shape, x) {
            Some(winners) => Local::Selection { winners },
            None => Local::None,
        },
        Layer::Dense(_) | Layer::Conv2d(_) | Layer::Flatten | Layer::Dropout(_) => Local::None,
    }
}

/// `γ/√(σ² + ε)` per channel, rounded as the forward pass rounds it.
fn inference_scale<A: Scalar>(norm: &BatchNorm<A>) -> Array1<A> {
    &norm.gamma * BatchStatistics::running(norm).inverse_deviation()
}

fn pull_convolution<A: Scalar>(
    conv: &Conv2d<A>,
    input_shape: &crate::tensor::Shape,
    weights: ArrayView2<'_, A>,
    upstream: &Array2<A>,
) -> Array2<A> {
    let shape = step::conv_shape(input_shape, conv);
    let mut below = Array2::zeros((upstream.nrows(), input_shape.len()));
    convolution::input_gradient(&shape, weights, slice(upstream), step::slice_mut(&mut below));
    below
}

/// Rows of the expected length in standard layout.
fn checked_rows<A: Scalar>(rows: Array2<A>, n_columns: usize) -> Result<Array2<A>> {
    if rows.ncols() != n_columns {
        return Err(Error::ShapeMismatch {
            what: "gradients of functions",
            expected: vec![rows.nrows(), n_columns],
            actual: rows.shape().to_vec(),
        });
    }
    Ok(rows.as_standard_layout().into_owned())
}

fn scale_rows<A: Scalar>(rows: &mut Array2<A>, factors: &[A]) {
    for mut row in rows.rows_mut() {
        for (value, &factor) in row.iter_mut().zip(factors) {
            *value *= factor;
        }
    }
}

/// Add every value of `rows` to column `winners[i]` of `target`.
fn scatter_rows<A: Scalar>(rows: &Array2<A>, winners: &[usize], target: &mut Array2<A>) {
    for (row, mut target) in rows.rows().into_iter().zip(target.rows_mut()) {
        for (&value, &winner) in row.iter().zip(winners) {
            if let Some(slot) = target.get_mut(winner) {
                *slot += value;
            }
        }
    }
}

fn row<A>(rows: ArrayView2<'_, A>) -> ArrayView1<'_, A> {
    rows.index_axis_move(Axis(0), 0)
}

fn slice<A>(rows: &Array2<A>) -> &[A] {
    rows.as_slice().expect("invariant: rows are in standard layout")
}
