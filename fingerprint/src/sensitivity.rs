//! How far a network's outputs move when its weights do: `S(x) = Σ_c ‖∂f_c(W, x)/∂W‖²`.
//!
//! A weight change `ΔW` moves output `c` by `⟨∂f_c/∂W, ΔW⟩` to first order; inputs of large `S`
//! therefore reveal changes of unknown direction. `f` are logits, probabilities or log-probabilities,
//! `W` the parameters of chosen layers.
//!
//! Everything is computed as `log S`. At an ordinary input the softmax is saturated: with a margin of
//! `m` between the two largest scores, `S` of the probabilities is about `e^(−2m)` and vanishes in
//! floating point together with its gradient, while `log S` and its gradient stay exact.
//! `1 − p_max` is summed from the other classes.
//!
//! **Closed form.** If `W` is the last layer `z = W h + b` and `φ` are functions of `z`,
//! `S = (‖h‖² + 1) · Σ_c ‖∂φ_c/∂z‖²` (without the 1 if biases are left out), which needs one backward
//! pass. For probabilities the second factor is `Σp² − 2Σp³ + (Σp²)²`, here in a form without
//! cancellation. All other layers go through [`Linearization`].
//!
//! # Source
//! He, Zhang and Lee, "Sensitive-Sample Fingerprinting of Deep Neural Networks", CVPR 2019, equation 6;
//! closed form and logarithmic evaluation: own derivation.

use ndarray::{Array1, Array2, ArrayView1, Axis};
use nn_poly::autodiff::{Linearization, ParameterSelection};
use nn_poly::layer::Layer;
use nn_poly::{Network, Scalar};

use crate::error::{Error, Result};

mod outputs;

use outputs::Head;
pub use outputs::SensitivityOutputs;
pub(crate) use outputs::top_classes;

/// The parameters `W` a sensitivity is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayerSelection {
    /// Weights and biases of the last dense layer or convolution.
    #[default]
    Last,
    /// The same without biases.
    LastWeights,
    /// Everything trainable.
    All,
    /// Everything trainable in the layers at these positions.
    Only(Vec<usize>),
}

/// `S` of one network, ready to be evaluated.
#[derive(Clone, Debug)]
pub struct Sensitivity<'a, A: Scalar = f64> {
    network: &'a Network<A>,
    selection: ParameterSelection,
    outputs: SensitivityOutputs,
    /// Position of the dense layer after which only reshapes follow, if it is all of `W`.
    closed_form: Option<usize>,
}

impl<'a, A: Scalar> Sensitivity<'a, A> {
    /// The sensitivity of `outputs` to the selected parameters of `network`, outside training.
    ///
    /// The closed form is used where it applies.
    ///
    /// # Errors
    /// - [`Error::UnsuitableNetwork`] if it has fewer than two outputs.
    /// - [`Error::CountOutOfRange`] if top-0 log-probabilities are asked for.
    /// - [`Error::Network`] if a selected layer does not exist or has no parameters.
    pub fn new(
        network: &'a Network<A>,
        layers: &LayerSelection,
        outputs: SensitivityOutputs,
    ) -> Result<Self> {
        outputs.check()?;
        if network.output_shape().len() < 2 {
            return Err(Error::UnsuitableNetwork { reason: "it has fewer than two outputs" });
        }
        let selection = match layers {
            LayerSelection::Last => ParameterSelection::last(network)?,
            LayerSelection::LastWeights => ParameterSelection::last(network)?.weights_only(),
            LayerSelection::All => ParameterSelection::all(network),
            LayerSelection::Only(positions) => ParameterSelection::only(network, positions)?,
        };
        if selection.layers().is_empty() {
            return Err(Error::UnsuitableNetwork { reason: "it has no trainable parameters" });
        }
        let closed_form = closed_form_layer(network, &selection);
        Ok(Self { network, selection, outputs, closed_form })
    }

    /// The same by differentiation, even where the closed form applies.
    #[must_use]
    pub fn without_closed_form(mut self) -> Self {
        self.closed_form = None;
        self
    }

    /// `S(x)`; 0 where it is below the smallest double.
    ///
    /// # Errors
    /// - [`Error::Network`] if `x` does not fit the network or is not finite.
    pub fn value(&self, x: ArrayView1<'_, A>) -> Result<f64> {
        Ok(self.log_value(x)?.exp())
    }

    /// `S(x)` and its gradient with respect to `x`.
    ///
    /// # Errors
    /// - [`Error::Network`] if `x` does not fit the network or is not finite.
    pub fn value_and_gradient(&self, x: ArrayView1<'_, A>) -> Result<(f64, Array1<f64>)> {
        let (log_value, gradient) = self.log_value_and_gradient(x)?;
        let value = log_value.exp();
        Ok((value, gradient * value))
    }

    /// `log S(x)`; negative infinity if no output depends on the parameters.
    ///
    /// Cost: one forward pass in closed form, else one more backward pass per output.
    ///
    /// # Errors
    /// - [`Error::Network`] if `x` does not fit the network or is not finite.
    pub fn log_value(&self, x: ArrayView1<'_, A>) -> Result<f64> {
        let point = Linearization::new(self.network, x)?;
        let head = self.head(&point);
        if let Some(layer_idx) = self.closed_form {
            let norm = self.squared_input(point.layer_input(layer_idx)?);
            return Ok(2.0 * head.log_scale() + norm.ln() + head.squared_rows().ln());
        }
        let norms = point.squared_norms(cast(head.rows()), &self.selection)?;
        Ok(2.0 * head.log_scale() + norms.sum().ln())
    }

    /// `log S(x)` and its gradient with respect to `x`; zeros where `S` is zero.
    ///
    /// Cost: one forward and one backward pass in closed form, else about five backward passes per
    /// output that matters (with saturated probabilities: two).
    ///
    /// # Errors
    /// - [`Error::Network`] if `x` does not fit the network or is not finite.
    pub fn log_value_and_gradient(&self, x: ArrayView1<'_, A>) -> Result<(f64, Array1<f64>)> {
        let point = Linearization::new(self.network, x)?;
        let head = self.head(&point);
        if let Some(layer_idx) = self.closed_form {
            return self.closed_form_gradient(&point, &head, layer_idx);
        }
        let (norms, gradient) =
            point.squared_norms_and_gradient(cast(head.rows()), &self.selection, |tangents| {
                cast(&head.curvature(&tangents.mapv(A::as_f64)))
            })?;
        let sum = norms.sum();
        let value = 2.0 * head.log_scale() + sum.ln();
        Ok((value, gradient.mapv(|g| if sum > 0.0 { g.as_f64() / sum } else { 0.0 })))
    }

    /// How much of `S`, up to a common factor, falls on each unit of each selected layer: output
    /// neurons of dense layers, output channels otherwise. One array per layer of the network.
    ///
    /// # Errors
    /// - [`Error::Network`] if `x` does not fit the network or is not finite.
    pub fn unit_shares(&self, x: ArrayView1<'_, A>) -> Result<Vec<Array1<f64>>> {
        let point = Linearization::new(self.network, x)?;
        let head = self.head(&point);
        Ok(point.unit_norms(cast(head.rows()), &self.selection)?)
    }

    fn head(&self, point: &Linearization<'_, A>) -> Head {
        let scores: Vec<f64> = point.output().iter().map(|z| z.as_f64()).collect();
        Head::new(self.outputs, &scores)
    }

    /// `‖h‖² + 1`, without the 1 if biases are left out.
    fn squared_input(&self, h: ArrayView1<'_, A>) -> f64 {
        let bias = f64::from(u8::from(self.selection.includes_offsets()));
        h.iter().map(|h| h.as_f64() * h.as_f64()).sum::<f64>() + bias
    }

    fn closed_form_gradient(
        &self,
        point: &Linearization<'_, A>,
        head: &Head,
        layer_idx: usize,
    ) -> Result<(f64, Array1<f64>)> {
        let h = point.layer_input(layer_idx)?;
        let (norm, squares) = (self.squared_input(h), head.squared_rows());
        let value = 2.0 * head.log_scale() + norm.ln() + squares.ln();
        if norm * squares <= 0.0 {
            return Ok((value, Array1::zeros(self.network.input_shape().len())));
        }
        // ∂/∂z Σ‖∂φ_c/∂z‖² = 2 Σ ∂²φ_c/∂z² · ∂φ_c/∂z, then through W; and ∂/∂h of the other factor.
        let bent = head.curvature(head.rows()).sum_axis(Axis(0)) * (2.0 / squares);
        let mut below = point.layer_gradients(layer_idx, cast(&bent.insert_axis(Axis(0))))?;
        for (below, h) in below.iter_mut().zip(h) {
            *below += A::from_f64(2.0 * h.as_f64() / norm);
        }
        let gradient = point.input_gradients_from(layer_idx, below)?;
        Ok((value, gradient.iter().map(|g| g.as_f64()).collect()))
    }
}

/// The dense layer that is all of the selection and is followed by reshapes only.
fn closed_form_layer<A: Scalar>(
    network: &Network<A>,
    selection: &ParameterSelection,
) -> Option<usize> {
    let &[layer_idx] = selection.layers().as_slice() else { return None };
    let mut layers = network.layers().iter().skip(layer_idx);
    let is_dense = matches!(layers.next(), Some(Layer::Dense(_)));
    (is_dense && layers.all(|l| matches!(l, Layer::Flatten | Layer::Dropout(_))))
        .then_some(layer_idx)
}

fn cast<A: Scalar>(rows: &Array2<f64>) -> Array2<A> {
    rows.mapv(A::from_f64)
}
