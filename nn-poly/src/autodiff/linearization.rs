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
//! Where a value is read by several layers, what comes back from them is added.
//!
//! For a dense layer `Ẇ = ȳ xᵀ` has rank one: `Ẇx = ȳ ‖x‖²` and `Ẇᵀȳ = x ‖ȳ‖²`.
//!
//! ReLU, clamp, maxima and rounding are differentiated piecewise (rounding straight through).

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis};

use super::step::{self, Cache, Site};
use super::{Mode, Pending, Tape};
use crate::error::{Error, Result};
use crate::layer::{Conv2d, Dense, Layer, convolution};
use crate::network::{Network, Source};
use crate::tensor::{Scalar, Tensor};

mod direction;
mod local;
mod rows;
mod selection;

use direction::Direction;
use local::{Local, local_slope};
use rows::{checked_rows, row, scale_rows, scatter_rows, slice};
pub use selection::ParameterSelection;

/// A network at one input, outside training.
///
/// Memory: the values between the layers and the slopes of the activations.
#[derive(Debug)]
pub struct Linearization<'a, A: Scalar> {
    tape: Tape<'a, A>,
    local: Vec<Local<A>>,
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

    /// The values that enter layer `layer_idx`, the first of them if it joins several; for the number
    /// of layers, the outputs.
    ///
    /// # Errors
    /// - [`Error::OutOfRange`] if there is no such layer.
    pub fn layer_input(&self, layer_idx: usize) -> Result<ArrayView1<'_, A>> {
        self.check_layer(layer_idx)?;
        Ok(self.value(self.entering(layer_idx)))
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
        let from = self.entering(layer_idx);
        let rows = checked_rows(rows, self.value(from).len())?;
        let mut pending = Pending::none(self.n_layers());
        let n_functions = rows.nrows();
        pending.add(from, rows);
        self.pull_down(&mut pending, 0..from.value_idx());
        Ok(self.taken(&mut pending, Source::Input, n_functions))
    }

    /// Gradients of several functions with respect to what enters layer `layer_idx`, given their
    /// gradients with respect to the outputs; all ways from there to the outputs count, whichever layers
    /// they pass.
    ///
    /// # Errors
    /// - [`Error::OutOfRange`] if there is no such layer.
    /// - [`Error::ShapeMismatch`] if a row has not one value per output.
    pub fn layer_gradients(&self, layer_idx: usize, rows: Array2<A>) -> Result<Array2<A>> {
        self.check_layer(layer_idx)?;
        let to = self.entering(layer_idx);
        let rows = checked_rows(rows, self.output().len())?;
        let n_functions = rows.nrows();
        let mut pending = Pending::at_output(self.n_layers(), rows);
        self.pull_down(&mut pending, to.value_idx()..self.n_layers());
        Ok(self.taken(&mut pending, to, n_functions))
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
        let n_layers = self.n_layers();
        let mut pending = Pending::at_output(n_layers, bent.as_standard_layout().into_owned());
        for layer_idx in (lowest..n_layers).rev() {
            if let Some(tangent) = pending.take(Source::Layer(layer_idx)) {
                self.pull_tangent(layer_idx, &first, &tangents, tangent, &mut pending);
            }
        }
        // Nothing below moves with the parameters, so one row for all functions is enough.
        for value_idx in 0..=lowest {
            let at = Source::of_value(value_idx);
            if let Some(tangent) = pending.take(at) {
                pending.add(at, tangent.sum_axis(Axis(0)).insert_axis(Axis(0)));
            }
        }
        self.pull_down(&mut pending, 0..lowest);
        let sum = self.taken(&mut pending, Source::Input, 1);
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
                    let x = self.value(self.entering(layer_idx));
                    direction.unit_norms(x, upstream.view(), selection)
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

    /// What layer `layer_idx` reads first; for the number of layers, the output.
    fn entering(&self, layer_idx: usize) -> Source {
        let sources = self.tape.network.sources(layer_idx);
        sources.first().copied().unwrap_or_else(|| Source::of_value(self.n_layers()))
    }

    fn value(&self, source: Source) -> ArrayView1<'_, A> {
        row(self.tape.value(source).view())
    }

    /// Bring what waits at the outputs of `layers` down to the values they read.
    fn pull_down(&self, pending: &mut Pending<A>, layers: std::ops::Range<usize>) {
        for layer_idx in layers.rev() {
            let Some(upstream) = pending.take(Source::Layer(layer_idx)) else { continue };
            self.pull_into(layer_idx, upstream, pending);
        }
    }

    /// As [`Self::pull`] for any layer, to all values it reads.
    fn pull_into(&self, layer_idx: usize, upstream: Array2<A>, pending: &mut Pending<A>) {
        let network = self.tape.network;
        match step::split(network, layer_idx, &upstream) {
            Some(parts) => {
                for (&source, part) in network.sources(layer_idx).iter().zip(parts) {
                    pending.add(source, part);
                }
            }
            None => pending.add(self.entering(layer_idx), self.pull(layer_idx, upstream)),
        }
    }

    /// What waits at a value; zeros if the functions do not depend on it.
    fn taken(&self, pending: &mut Pending<A>, at: Source, n_functions: usize) -> Array2<A> {
        pending.take(at).unwrap_or_else(|| Array2::zeros((n_functions, self.value(at).len())))
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
            | Layer::Flatten
            | Layer::Add
            | Layer::Concat => {
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
            | Layer::Flatten
            | Layer::Add
            | Layer::Concat => {
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
        let rows = checked_rows(rows, self.output().len())?;
        let (n_layers, n_functions) = (self.n_layers(), rows.nrows());
        let mut pass = FirstPass {
            upstream: vec![Array2::zeros((0, 0)); n_layers],
            directions: (0..n_layers).map(|_| None).collect(),
        };
        let lowest = selection.first();
        let mut pending = Pending::at_output(n_layers, rows);
        let records = pass.upstream.iter_mut().zip(&mut pass.directions).enumerate();
        for (layer_idx, (kept, direction)) in records.skip(lowest).rev() {
            let upstream = self.taken(&mut pending, Source::Layer(layer_idx), n_functions);
            if selection.contains(layer_idx) {
                let Site { layer, input_shape, .. } = self.site(layer_idx);
                let x = self.value(self.entering(layer_idx));
                *direction =
                    Some(Direction::new(layer, input_shape, x, upstream.view(), selection));
            }
            // What lies below the lowest selected layer needs no gradients of its own.
            let sources = self.tape.network.sources(layer_idx);
            if sources.iter().any(|source| source.value_idx() > lowest) {
                self.pull_into(layer_idx, upstream.clone(), &mut pending);
            }
            *kept = upstream;
        }
        Ok(pass)
    }

    /// Tangents of every value (`None`: zero, which it is below layer `lowest`), and at the output.
    fn push_tangents(
        &self,
        first: &FirstPass<'_, A>,
        lowest: usize,
        n_functions: usize,
    ) -> (Vec<Option<Array2<A>>>, Array2<A>) {
        let network = self.tape.network;
        let zeros = |source: Source| Array2::zeros((n_functions, self.value(source).len()));
        let mut tangents: Vec<Option<Array2<A>>> = vec![None; lowest + 1];
        for layer_idx in lowest..self.n_layers() {
            let inputs: Vec<Array2<A>> = network
                .sources(layer_idx)
                .iter()
                .map(|&s| {
                    tangents.get(s.value_idx()).cloned().flatten().unwrap_or_else(|| zeros(s))
                })
                .collect();
            let views: Vec<_> = inputs.iter().map(|input| input.view()).collect();
            let mut above = match step::merge(network, layer_idx, &views) {
                Some(joined) => joined,
                None => {
                    let input = inputs.into_iter().next();
                    self.push(layer_idx, input.expect("invariant: every layer reads something"))
                }
            };
            if let Some((upstream, direction)) = first.at(layer_idx) {
                let input_shape = self.site(layer_idx).input_shape;
                let x = self.value(self.entering(layer_idx));
                direction.push(input_shape, x, upstream.view(), &mut above);
            }
            tangents.push(Some(above));
        }
        let output = Source::of_value(self.n_layers());
        let last = tangents.last().cloned().flatten().unwrap_or_else(|| zeros(output));
        (tangents, last)
    }

    /// From the tangent of the gradients at a layer's output to those at the values it reads.
    fn pull_tangent(
        &self,
        layer_idx: usize,
        first: &FirstPass<'_, A>,
        tangents: &[Option<Array2<A>>],
        tangent: Array2<A>,
        pending: &mut Pending<A>,
    ) {
        let network = self.tape.network;
        if matches!(network.layers().get(layer_idx), Some(Layer::Add | Layer::Concat)) {
            self.pull_into(layer_idx, tangent, pending);
            return;
        }
        let source = self.entering(layer_idx);
        let mut below = self.pull(layer_idx, tangent);
        let upstream = first.upstream.get(layer_idx);
        let input_tangent = tangents.get(source.value_idx()).and_then(Option::as_ref);
        if let (Some(upstream), Some(input_tangent), Some(Local::Elementwise { curvature, .. })) =
            (upstream, input_tangent, self.local.get(layer_idx))
            && let Some(curvature) = curvature
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
            direction.pull(input_shape, self.value(source), upstream.view(), &mut below);
        }
        pending.add(source, below);
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
                let x = point.value(point.entering(layer_idx));
                direction.add_squared_norms(x, upstream.view(), selection, &mut norms);
            }
        }
        norms
    }
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
