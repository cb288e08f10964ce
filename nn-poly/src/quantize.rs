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
//! pool whose divisor is part of it. Any other function becomes a table that the key holder looks up: from
//! `z` to the nearest point of the next grid, so that nothing is rounded twice, or before a sum pool of one
//! 16 times finer. Maximum pools are maxima of integers; functions that never fall may stand on either side
//! of them.
//!
//! **Branches.** An addition is one stage that reads all its branches: `z = Σ k (W x)`, each branch
//! with an integer multiplier `k` that brings its unit to the common one, so that the sum is exact. A
//! convolution or dense layer that only the addition reads is part of that stage; anything else is
//! refreshed first and added as it is. A layer that reads joined channels reads each value on its own.
//!
//! **Without a refresh.** Stages may run into each other ([`quantize_joined`]): values then stay exact and
//! grow, weights are rounded as before, and where the segment ends the lowest bits are dropped.
//!
//! **How many bits.** [`accuracy_report`] tells what rounding costs in accuracy, what the clamps of the
//! refreshes cut off, and which bits of windows, grids and weights nothing uses; [`search_bits`] finds
//! the bits that move the fewest bytes at a given loss of accuracy, for all layers and then one by one.

mod blocks;
mod calibrate;
mod clip;
mod common_unit;
mod joined;
mod lower;
mod quadratic;
mod report;
mod search;
mod tabulate;
mod terms;
mod weight_scales;

use ndarray::{Array1, Array2};

pub use calibrate::{CALIBRATION_SAMPLES, calibrate};
pub use joined::{joinable, quantize_joined};
pub use lower::{Quantized, quantize};
pub use report::{AccuracyReport, GridUse, StageUse, Waste, WeightUse, accuracy_report};
pub use search::{
    HELD_OUT_SAMPLES, LayerSearchOutcome, LayerTrial, SearchOutcome, SearchSpec, Trial,
    TrialResult, search_bits, search_layer_bits,
};

use blocks::Blocks;

use crate::error::{Error, Result};
use crate::integer::InputGrid;
use crate::layer::{Activation, Clamp, Layer, Quantize, WeightQuantizer};
use crate::model::{LayerBits, Model};
use crate::network::{Network, Rewriter, Source};

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

/// Scales of the linear layers of one stage and of the values after it.
#[derive(Clone, Debug, PartialEq)]
pub struct StageScales {
    /// For every summand of the stage, in the order of the addition: one scale per output channel, or
    /// a single one; empty for a pool or a branch that is added as it is.
    pub weight_scales: Vec<Vec<f32>>,
    /// Grid of what the next stage reads; `None` on the last stage, and where a chain goes on.
    pub output: Option<OutputGrid>,
}

/// Every grid of a network: what calibration finds.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizationSpec {
    /// Bits it was found for.
    pub bits: LayerBits,
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
    Ok(insert_quantizers(&network.fold_batch_norm()?, spec)?.0)
}

/// Insert quantizers into a folded network; `spec` may describe only its first stages. Also where the
/// values of every stage are, before their quantizer.
fn insert_quantizers(
    folded: &Network<f32>,
    spec: &QuantizationSpec,
) -> Result<(Network<f32>, Vec<Source>)> {
    let parsed = Blocks::new(folded)?;
    let n_stages = parsed.blocks.len();
    crate::integer::require("network", 0, "number of stages", spec.stages.len(), 0, n_stages)?;
    let grid = |step: f32, min, max| Quantize { steps: Array1::from_elem(1, step), min, max };
    let mut rewriter = Rewriter::new(folded.input_shape().clone());
    let input = grid(spec.input.step, spec.input.min(), spec.input.max());
    rewriter.insert(Layer::Quantize(input))?;
    let mut ends = vec![Source::Input; n_stages];
    for (idx, layer) in folded.layers().iter().enumerate() {
        let quantizer = weight_quantizer(&parsed, spec, idx);
        let sources = folded.sources(idx);
        match (layer, sources) {
            (Layer::Clamp(_) | Layer::Quantize(_), &[source]) => rewriter.skip(source),
            (layer, sources) => {
                let mut layer = layer.clone();
                if let Layer::Dense(dense) = &mut layer {
                    dense.weight_quantizer = quantizer;
                } else if let Layer::Conv2d(conv) = &mut layer {
                    conv.weight_quantizer = quantizer;
                }
                rewriter.keep(layer, sources)?;
            }
        }
        let ended = parsed.blocks.iter().enumerate().find(|(_, block)| block.value_idx == idx);
        let Some((stage_idx, _)) = ended else { continue };
        if let Some(end) = ends.get_mut(stage_idx) {
            *end = rewriter.place(Source::Layer(idx));
        }
        let output = spec.stages.get(stage_idx).and_then(|scales| scales.output);
        if let Some(OutputGrid { step, min, max }) = output {
            rewriter.insert(Layer::Quantize(grid(step, min, max)))?;
        }
    }
    Ok((rewriter.finish()?, ends))
}

/// The quantizer of the weights of a layer, if `spec` describes its stage.
fn weight_quantizer(
    parsed: &Blocks<'_>,
    spec: &QuantizationSpec,
    layer_idx: usize,
) -> Option<WeightQuantizer<f32>> {
    let mut scales = parsed.blocks.iter().zip(&spec.stages).enumerate().flat_map(
        |(stage_idx, (block, stage))| {
            block
                .parts
                .iter()
                .zip(&stage.weight_scales)
                .map(move |(part, of)| (stage_idx, part, of))
        },
    );
    let (stage_idx, _, scales) = scales.find(|(_, part, _)| part.layer_idx == layer_idx)?;
    let scales = Array1::from(scales.clone());
    let bits = spec.bits.weight(stage_idx);
    (!scales.is_empty()).then_some(WeightQuantizer { scales, bits })
}

/// The integer network of a model at `bits`: its own quantizers if it was fine-tuned for exactly
/// these bits, otherwise calibration of the [`unrounded`] network on `inputs` (preprocessed, from the
/// training part).
///
/// # Errors
/// Those of [`calibrate()`], [`prepare_qat`] and [`quantize`].
pub fn quantize_model(
    model: &Model,
    bits: impl Into<LayerBits>,
    inputs: &Array2<f32>,
) -> Result<Quantized> {
    let bits = bits.into();
    if model.spec().bits.is_some() && model.spec().bits == bits.uniform() {
        return quantize(model.network());
    }
    let network = unrounded(model.network())?;
    let spec = calibrate(&network, &model.spec().preprocessing, inputs, bits)?;
    quantize(&prepare_qat(&network, &spec)?)
}

/// Whether `network` has an integer form, as far as its layers and their order tell: what no choice of
/// bits could mend.
///
/// # Errors
/// - [`Error::CannotFold`] or [`Error::CannotQuantize`] naming the layer without one.
pub fn check_form(network: &Network<f32>) -> Result<()> {
    let folded = network.fold_batch_norm()?;
    let parsed = Blocks::new(&folded)?;
    let Some(last) = parsed.blocks.last() else { return Ok(()) };
    match last.activation {
        Some(Activation::Function(function)) => {
            Err(refuse(last.value_idx, function.kind(), lower::SCORED))
        }
        Some(Activation::Polynomial { a, .. }) if a.iter().any(|v| Some(v) != a.first()) => {
            Err(refuse(last.value_idx, "polynomial", lower::APART))
        }
        Some(_) | None => Ok(()),
    }
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
    let mut is_input = vec![true];
    let holds_input =
        |is_input: &[bool], source: Source| is_input.get(source.value_idx()) == Some(&true);
    network.filter_map_layers(|layer_idx, layer| {
        let reads_input =
            network.sources(layer_idx).iter().all(|&source| holds_input(&is_input, source));
        is_input.push(reads_input && matches!(layer, Layer::Quantize(_) | Layer::Flatten));
        let mut layer = layer.clone();
        match &mut layer {
            Layer::Quantize(grid) => {
                #[expect(clippy::cast_precision_loss, reason = "at most 2^16")]
                let max = grid.max as f32;
                let step = grid.steps.iter().copied().fold(0.0, f32::max);
                return (!reads_input).then_some(Layer::Clamp(Clamp { limit: max * step }));
            }
            Layer::Dense(dense) => dense.weight_quantizer = None,
            Layer::Conv2d(conv) => conv.weight_quantizer = None,
            Layer::BatchNorm(_)
            | Layer::Activation(_)
            | Layer::Pool2d(_)
            | Layer::Flatten
            | Layer::Clamp(_)
            | Layer::Dropout(_)
            | Layer::Add
            | Layer::Concat => {}
        }
        Some(layer)
    })
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
