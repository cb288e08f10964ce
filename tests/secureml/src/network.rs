//! Networks in the form the two servers evaluate: public structure, and weights.

use std::sync::Arc;

use ndarray::ArrayView2;

use crate::error::{Error, Result, check_length};
use crate::fixed::{FRACTION_BITS, encode};
use crate::gather::{Convolution, Gather};

/// One step of a network, without weights: both servers and the client know it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// `W·x + b`, then truncation: one opening, of the inputs.
    Linear(Gather),
    /// `x²`, then truncation: one opening.
    Square {
        /// Number of neurons.
        n_neurons: usize,
    },
    /// Sums over windows; with a factor, times that public constant, then truncation. Local.
    Pool {
        /// Number of inputs.
        n_inputs: usize,
        /// Inputs of each output, equally many.
        windows: Vec<Vec<u32>>,
        /// Fixed-point constant the sums are multiplied by.
        factor: Option<u64>,
    },
}

impl Step {
    /// Number of inputs.
    #[must_use]
    pub fn n_inputs(&self) -> usize {
        match self {
            Self::Linear(gather) => gather.n_inputs(),
            Self::Square { n_neurons } => *n_neurons,
            Self::Pool { n_inputs, .. } => *n_inputs,
        }
    }

    /// Number of outputs.
    #[must_use]
    pub fn n_outputs(&self) -> usize {
        match self {
            Self::Linear(gather) => gather.n_outputs(),
            Self::Square { n_neurons } => *n_neurons,
            Self::Pool { windows, .. } => windows.len(),
        }
    }
}

/// The steps of a network: public.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Structure {
    n_inputs: usize,
    steps: Vec<Step>,
}

impl Structure {
    /// Number of inputs of the network.
    #[must_use]
    pub fn n_inputs(&self) -> usize {
        self.n_inputs
    }

    /// Number of outputs of the network.
    #[must_use]
    pub fn n_outputs(&self) -> usize {
        self.steps.last().map_or(self.n_inputs, Step::n_outputs)
    }

    /// The steps, in order.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Bytes that cross between the servers per batch, both directions together: 16 for every value
    /// that enters a linear layer or a square.
    ///
    /// # Source
    /// `2·8·N·D` per product of an `N × D` with a `D × M` matrix whose second mask is open already.
    #[must_use]
    pub fn online_bytes(&self, n_samples: usize) -> u64 {
        let interactive = |step: &&Step| !matches!(step, Step::Pool { .. });
        let opened: usize = self.steps.iter().filter(interactive).map(Step::n_inputs).sum();
        16 * opened as u64 * n_samples as u64
    }

    /// Bytes that cross once per model, both directions together: 16 for every weight (`2·8·D·M`).
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        16 * self.n_weights() as u64
    }

    /// Number of rounds per batch: one for every linear layer and every square.
    #[must_use]
    pub fn online_rounds(&self) -> u64 {
        self.steps.iter().filter(|step| !matches!(step, Step::Pool { .. })).count() as u64
    }

    /// Number of weights, biases not counted.
    #[must_use]
    pub fn n_weights(&self) -> usize {
        let weights = |step: &Step| match step {
            Step::Linear(gather) => gather.n_weights(),
            Step::Square { .. } | Step::Pool { .. } => 0,
        };
        self.steps.iter().map(weights).sum()
    }
}

/// Weights of a linear layer in fixed point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Weights {
    /// `n_rows × n_taps`, [`FRACTION_BITS`].
    pub(crate) matrix: Vec<u64>,
    /// One per row, twice [`FRACTION_BITS`].
    pub(crate) bias: Vec<u64>,
}

/// A network with its weights, as its owner holds it.
///
/// Built step by step; a network without steps is the identity.
///
/// ```
/// use ndarray::array;
/// use secureml::Network;
///
/// # fn main() -> Result<(), secureml::Error> {
/// let weights = array![[0.5, -1.0], [2.0, 0.25]];
/// let network = Network::new(2)?.dense(weights.view(), &[0.0, 1.0])?.square()?;
/// assert_eq!(network.structure().online_bytes(100), 16 * (2 + 2) * 100);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    structure: Arc<Structure>,
    /// One per step; `None` for steps without weights.
    weights: Vec<Option<Weights>>,
}

impl Network {
    /// The identity on `n_inputs` values.
    ///
    /// # Errors
    /// [`Error::Length`] for zero.
    pub fn new(n_inputs: usize) -> Result<Self> {
        if n_inputs == 0 {
            return Err(Error::Length { what: "inputs", expected: 1, actual: 0 });
        }
        let structure = Arc::new(Structure { n_inputs, steps: Vec::new() });
        Ok(Self { structure, weights: Vec::new() })
    }

    /// Appends a dense layer; `weights` is `n_outputs × n_inputs`.
    ///
    /// # Errors
    /// [`Error::Length`] when a shape differs, [`Error::Value`] when a number does not fit.
    pub fn dense(self, weights: ArrayView2<'_, f64>, bias: &[f64]) -> Result<Self> {
        let gather = Gather::dense(weights.nrows(), weights.ncols())?;
        self.linear(gather, weights, bias)
    }

    /// Appends a convolution; `weights` is `n_channels × (height·width·channels of the kernel)`,
    /// outputs are channel-last.
    ///
    /// # Errors
    /// As [`Network::dense`].
    pub fn convolution(
        self,
        shape: &Convolution,
        weights: ArrayView2<'_, f64>,
        bias: &[f64],
    ) -> Result<Self> {
        let gather = Gather::convolution(shape, weights.nrows())?;
        self.linear(gather, weights, bias)
    }

    /// Appends any linear layer with shared weights; `weights` is `n_rows × n_taps`.
    ///
    /// # Errors
    /// As [`Network::dense`].
    pub fn linear(
        self,
        gather: Gather,
        weights: ArrayView2<'_, f64>,
        bias: &[f64],
    ) -> Result<Self> {
        check_length("rows of weights", gather.n_rows(), weights.nrows())?;
        check_length("columns of weights", gather.n_taps(), weights.ncols())?;
        check_length("biases", gather.n_rows(), bias.len())?;
        let fixed = |bits| move |x: &f64| encode(*x, bits);
        let matrix = weights.iter().map(fixed(FRACTION_BITS)).collect::<Result<_>>()?;
        let bias = bias.iter().map(fixed(2 * FRACTION_BITS)).collect::<Result<_>>()?;
        self.push(Step::Linear(gather), Some(Weights { matrix, bias }))
    }

    /// Appends the activation `x²`.
    ///
    /// # Errors
    /// None at present.
    pub fn square(self) -> Result<Self> {
        let n_neurons = self.structure.n_outputs();
        self.push(Step::Square { n_neurons }, None)
    }

    /// Appends sums over windows of equal size.
    ///
    /// # Errors
    /// [`Error::Length`] when windows are missing, empty or of different sizes, [`Error::Index`] when
    /// an input does not exist.
    pub fn sum_pool(self, windows: Vec<Vec<u32>>) -> Result<Self> {
        self.pool(windows, None)
    }

    /// Appends means over windows of equal size: sums times `1/size` rounded to fixed point.
    ///
    /// # Errors
    /// As [`Network::sum_pool`].
    pub fn mean_pool(self, windows: Vec<Vec<u32>>) -> Result<Self> {
        let size = windows.first().map_or(0, Vec::len);
        let size = u32::try_from(size).unwrap_or(u32::MAX).max(1);
        let factor = encode(1.0 / f64::from(size), FRACTION_BITS)?;
        self.pool(windows, Some(factor))
    }

    fn pool(self, windows: Vec<Vec<u32>>, factor: Option<u64>) -> Result<Self> {
        let n_inputs = self.structure.n_outputs();
        let size = windows.first().map_or(0, Vec::len);
        if size == 0 {
            return Err(Error::Length { what: "values in a window", expected: 1, actual: 0 });
        }
        for window in &windows {
            check_length("values in a window", size, window.len())?;
            if let Some(&input) = window.iter().find(|i| **i as usize >= n_inputs) {
                return Err(Error::Index { what: "input", index: input as usize, count: n_inputs });
            }
        }
        self.push(Step::Pool { n_inputs, windows, factor }, None)
    }

    fn push(mut self, step: Step, weights: Option<Weights>) -> Result<Self> {
        check_length("inputs of the next step", self.structure.n_outputs(), step.n_inputs())?;
        Arc::make_mut(&mut self.structure).steps.push(step);
        self.weights.push(weights);
        Ok(self)
    }

    /// The public part.
    #[must_use]
    pub fn structure(&self) -> &Arc<Structure> {
        &self.structure
    }

    pub(crate) fn weights(&self) -> &[Option<Weights>] {
        &self.weights
    }
}
