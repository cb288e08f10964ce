//! From float networks to integer ones.
//!
//! ```text
//!  Network ── calibrate ──► QuantizationSpec ── prepare_qat ──► Network with quantizers
//!     (float, folded inside)   (steps, scales)                     │ fine-tuning (or none)
//!                                                                  ▼
//!                                  IntegerNetwork ◄── quantize ────┘
//! ```
//!
//! **Grids.** Inputs: unsigned, step `1/(2^bits − 1)`, for images in `[0, 1]`; signed, step
//! `clip/(2^(bits−1) − 1)`, for standardized tables. Weights: `±(2^(bits−1) − 1)`, one scale per output
//! channel, a single one on the last layer (scores must be comparable). Values between stages: one
//! step per stage, `0 ..= 2^bits − 1` after squares and ReLU, otherwise the position of zero is chosen
//! with the step. Weight scales and steps minimize the mean squared error; a clamp of the network
//! limits its grid, and a channel whose integers would reach far beyond all others is coarsened.
//!
//! **Folding into integers.** A stage with input step `s`, weight scale `w` and bias `β` becomes
//! `z = W x + round(β/(s w))` in units of `s w`; a square is then exact in units of `(s w)²`; a general
//! `a u² + b u + c` has its leading coefficient in the unit too (`|a| (s w)²`), and its linear term in
//! the bias or, where that would widen the range, in an integer coefficient. The refresh divides by the
//! next step, per channel, with a multiplier of at least 11 significant bits; an average pool is a sum
//! pool whose divisor is part of it.
//!
//! **How many bits.** [`accuracy_report`] tells what rounding costs in accuracy, what the clamps of the
//! refreshes cut off, and which bits of windows, grids and weights nothing uses; [`search_bits`] finds
//! the bits that move the fewest bytes at a given loss of accuracy.

mod blocks;
mod calibrate;
mod clip;
mod lower;
mod quadratic;
mod report;
mod search;
mod weight_scales;

use ndarray::{Array1, Array2};

pub use calibrate::{CALIBRATION_SAMPLES, calibrate};
pub use lower::{Quantized, quantize};
pub use report::{AccuracyReport, GridUse, StageUse, Waste, WeightUse, accuracy_report};
pub use search::{HELD_OUT_SAMPLES, SearchOutcome, SearchSpec, Trial, TrialResult, search_bits};

use blocks::Blocks;

use crate::error::{Error, Result};
use crate::integer::InputGrid;
use crate::layer::{Clamp, Layer, Quantize, WeightQuantizer};
use crate::model::{Bits, Model};
use crate::network::Network;

/// The grid between two stages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OutputGrid {
    /// What one unit stands for.
    pub step: f32,
    /// Smallest integer; at most 0.
    pub min: i32,
    /// Largest integer; above `min`.
    pub max: i32,
}

/// Scales of one linear layer and of the values after its stage.
#[derive(Clone, Debug, PartialEq)]
pub struct StageScales {
    /// One per output channel, or a single one; empty for a pool that is its own stage.
    pub weight_scales: Vec<f32>,
    /// Grid of what the next stage reads; `None` on the last stage.
    pub output: Option<OutputGrid>,
}

/// Every grid of a network: what calibration finds.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizationSpec {
    /// Bits it was found for.
    pub bits: Bits,
    /// Grid of the inputs.
    pub input: InputGrid,
    /// One entry per stage.
    pub stages: Vec<StageScales>,
}

/// The folded network with quantizers on inputs, weights and the values between stages.
///
/// Its forward pass computes what the integer network computes, up to the rounding of biases and of
/// refresh multipliers; its gradient passes straight through. Batch normalization is folded, dropout
/// removed, clamps become the upper end of a grid, quantizers already present are replaced.
///
/// # Errors
/// - [`Error::CannotFold`] or [`Error::CannotQuantize`] for a network without an integer form.
/// - [`Error::OutOfRange`] if `spec` belongs to a network with another number of stages.
/// - [`Error::ParameterShape`] or [`Error::ParameterValue`] if a scale does not fit its layer.
pub fn prepare_qat(network: &Network<f32>, spec: &QuantizationSpec) -> Result<Network<f32>> {
    insert_quantizers(&network.fold_batch_norm()?, spec)
}

/// Insert quantizers into a folded network; `spec` may describe only its first stages.
fn insert_quantizers(folded: &Network<f32>, spec: &QuantizationSpec) -> Result<Network<f32>> {
    let parsed = Blocks::new(folded)?;
    let n_stages = parsed.blocks.len();
    crate::integer::require("network", 0, "number of stages", spec.stages.len(), 0, n_stages)?;
    let grid = |step: f32, min, max| Quantize { steps: Array1::from_elem(1, step), min, max };
    let input = grid(spec.input.step, spec.input.min(), spec.input.max());
    let mut layers = vec![Layer::Quantize(input)];
    for (idx, layer) in folded.layers().iter().enumerate() {
        let block =
            parsed.blocks.iter().zip(&spec.stages).find(|(block, _)| block.first_idx == idx);
        let quantizer =
            block.filter(|(_, scales)| !scales.weight_scales.is_empty()).map(|(_, scales)| {
                WeightQuantizer {
                    scales: Array1::from(scales.weight_scales.clone()),
                    bits: spec.bits.weight,
                }
            });
        match layer.clone() {
            Layer::Dense(mut dense) => {
                dense.weight_quantizer = quantizer;
                layers.push(Layer::Dense(dense));
            }
            Layer::Conv2d(mut conv) => {
                conv.weight_quantizer = quantizer;
                layers.push(Layer::Conv2d(conv));
            }
            Layer::Clamp(_) | Layer::Quantize(_) => {}
            other @ (Layer::BatchNorm(_)
            | Layer::Activation(_)
            | Layer::Pool2d(_)
            | Layer::Flatten
            | Layer::Dropout(_)) => layers.push(other),
        }
        let ended =
            parsed.blocks.iter().zip(&spec.stages).find(|(block, _)| block.value_idx == idx);
        if let Some(OutputGrid { step, min, max }) = ended.and_then(|(_, scales)| scales.output) {
            layers.push(Layer::Quantize(grid(step, min, max)));
        }
    }
    Network::new(folded.input_shape().clone(), layers)
}

/// The integer network of a model at `bits`: its own quantizers if it was fine-tuned for exactly
/// these bits, otherwise calibration of the [`unrounded`] network on `inputs` (preprocessed, from the
/// training part).
///
/// # Errors
/// Those of [`calibrate()`], [`prepare_qat`] and [`quantize`].
pub fn quantize_model(model: &Model, bits: Bits, inputs: &Array2<f32>) -> Result<Quantized> {
    if model.spec().bits == Some(bits) {
        return quantize(model.network());
    }
    let network = unrounded(model.network())?;
    let spec = calibrate(&network, &model.spec().preprocessing, inputs, bits)?;
    quantize(&prepare_qat(&network, &spec)?)
}

/// The network without any rounding: what it would compute with grids of infinitely many points.
///
/// Weights keep their values, the quantization of the inputs goes, and every other one becomes a
/// [`Clamp`] at the upper end of its grid, since training relied on that end.
/// (Their lower ends are dropped: grids that reach below zero are fitted to hold what occurs.) A
/// network without quantizers stays as it is.
///
/// # Errors
/// - [`Error::ParameterValue`] never for a checked network; it is passed on from the checks.
pub fn unrounded(network: &Network<f32>) -> Result<Network<f32>> {
    let mut is_past_input = false;
    let mut layers = Vec::with_capacity(network.layers().len());
    for layer in network.layers() {
        match layer.clone() {
            Layer::Quantize(grid) => {
                #[expect(clippy::cast_precision_loss, reason = "at most 2^16")]
                let max = grid.max as f32;
                let step = grid.steps.iter().copied().fold(0.0, f32::max);
                if is_past_input {
                    layers.push(Layer::Clamp(Clamp { limit: max * step }));
                }
            }
            Layer::Dense(mut dense) => {
                dense.weight_quantizer = None;
                layers.push(Layer::Dense(dense));
            }
            Layer::Conv2d(mut conv) => {
                conv.weight_quantizer = None;
                layers.push(Layer::Conv2d(conv));
            }
            other @ (Layer::BatchNorm(_)
            | Layer::Activation(_)
            | Layer::Pool2d(_)
            | Layer::Flatten
            | Layer::Clamp(_)
            | Layer::Dropout(_)) => layers.push(other),
        }
        is_past_input |= !matches!(layer, Layer::Quantize(_) | Layer::Flatten);
    }
    Network::new(network.input_shape().clone(), layers)
}

/// The grid of inputs at `bits` for a preprocessing.
///
/// # Errors
/// - [`Error::OutOfRange`] if there are too few bits for a sign.
pub fn input_grid(preprocessing: &crate::import::Preprocessing, bits: u32) -> Result<InputGrid> {
    let mut grid = InputGrid { bits, signed: preprocessing.is_signed(), step: 1.0 };
    grid.check()?;
    #[expect(clippy::cast_precision_loss, reason = "at most 2^16")]
    let n_steps = grid.max() as f32;
    grid.step = preprocessing.max_magnitude() / n_steps;
    grid.check()?;
    Ok(grid)
}

/// Refuse a network, naming the layer that has no integer form.
fn refuse(layer_idx: usize, layer: &'static str, reason: &'static str) -> Error {
    Error::CannotQuantize { layer_idx, layer, reason }
}
