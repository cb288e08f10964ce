//! Finding the grids of a network from its weights and from data.

use ndarray::{Array2, Axis};

use super::blocks::{Block, Blocks, Opening, Part, Read, Ready};
use super::clip::{Fit, Levels, best_step};
use super::common_unit::commensurable;
use super::weight_scales::{InputLevels, weight_scales};
use super::{OutputGrid, QuantizationSpec, StageScales, input_grid, insert_quantizers};
use crate::error::{Error, Result};
use crate::import::Preprocessing;
use crate::integer::require;
use crate::model::LayerBits;
use crate::network::{Network, Source};
use crate::tensor::{Tensor, check_finite, spread};

/// Samples used at most, spread over the data: sorted ones are as good as shuffled ones.
pub const CALIBRATION_SAMPLES: usize = 1500;
/// Values of one stage used at most, spread evenly over samples and neurons.
const VALUES: usize = 1 << 18;

/// Find the grids of `network` (folded inside) for `bits`, from preprocessed `inputs`.
///
/// Stages are calibrated in order, each on what the quantized stages before it produce.
/// Values that meet, in an addition or under one layer that reads joined channels, get steps with a
/// common unit. Deterministic. Cost: one forward pass per stage over at most [`CALIBRATION_SAMPLES`] samples, and some
/// sixty error sums per scale.
///
/// # Errors
/// - [`Error::NoSamples`] or [`Error::ShapeMismatch`] for unusable data,
///   [`Error::NonFiniteInput`] if a value is not finite.
/// - [`Error::InvalidSetting`] or [`Error::OutOfRange`] for bits out of range, or listed for another
///   number of stages.
/// - [`Error::CannotFold`] or [`Error::CannotQuantize`] for a network without an integer form.
pub fn calibrate(
    network: &Network<f32>,
    preprocessing: &Preprocessing,
    inputs: &Array2<f32>,
    bits: impl Into<LayerBits>,
) -> Result<QuantizationSpec> {
    calibrate_joined(network, preprocessing, inputs, &bits.into(), &[])
}

/// As [`calibrate`], with no grid after the stages marked in `joins`: their channels count one unit.
pub(super) fn calibrate_joined(
    network: &Network<f32>,
    preprocessing: &Preprocessing,
    inputs: &Array2<f32>,
    bits: &LayerBits,
    joins: &[bool],
) -> Result<QuantizationSpec> {
    if inputs.nrows() == 0 {
        return Err(Error::NoSamples { what: "the calibration data" });
    }
    let inputs = inputs.select(Axis(0), &spread(inputs.nrows(), CALIBRATION_SAMPLES));
    check_finite("calibration data", inputs.view())?;
    let batch = Tensor::new(network.input_shape().clone(), inputs)?;

    let folded = network.fold_batch_norm()?;
    let parsed = Blocks::new(&folded)?;
    let n_blocks = parsed.blocks.len();
    bits.check(n_blocks)?;
    let input = input_grid(preprocessing, bits.input())?;
    let meeting = Meeting::new(&parsed);
    let stages = Vec::with_capacity(n_blocks);
    let mut spec = QuantizationSpec { bits: bits.clone(), input, stages };
    // The grid of every ready value so far.
    let mut levels = vec![InputLevels { step: input.step, min: input.min(), max: input.max() }];
    for (idx, block) in parsed.blocks.iter().enumerate() {
        let is_last = idx + 1 == n_blocks;
        let of = |read: &Read| *levels.get(read.ready.position()).unwrap_or(&UNKNOWN);
        let is_joined = joins.get(idx) == Some(&true);
        let weight_scales = weight_scales(block, bits.weight(idx), &of, is_last || is_joined);
        if is_joined {
            // Of what follows only proportions matter, not how far integers reach.
            let scale = weight_scales.iter().flatten().next().copied().unwrap_or(1.0);
            let read = block.parts.iter().flat_map(|part| &part.reads).next();
            let unit = scale * read.map_or(1.0, |read| of(read).step);
            levels.push(InputLevels { step: unit * unit, min: 0, max: i32::MAX });
            spec.stages.push(StageScales { weight_scales, output: None });
            continue;
        }
        spec.stages.push(StageScales { weight_scales, output: None });
        if is_last {
            break;
        }
        let values = block_values(&folded, &spec, &batch, block)?;
        let partner = meeting.first_of(Ready::Block(idx));
        let base = levels.get(partner.position()).map(|grid| grid.step);
        let output = output_grid(block, &values, bits.activation(idx), base);
        levels.push(InputLevels { step: output.step, min: output.min, max: output.max });
        if let Some(stage) = spec.stages.last_mut() {
            stage.output = Some(output);
        }
    }
    Ok(spec)
}

/// Blocks read earlier ones only, so this is never met.
const UNKNOWN: InputLevels = InputLevels { step: 1.0, min: 0, max: 1 };

/// Which ready values must have a common unit: those added as they are, and those whose channels one
/// linear layer reads together.
struct Meeting {
    /// For each ready value an earlier one that it meets, or itself.
    earlier: Vec<usize>,
}

impl Meeting {
    fn new(parsed: &Blocks<'_>) -> Self {
        let mut meeting = Self { earlier: (0..=parsed.blocks.len()).collect() };
        for block in &parsed.blocks {
            let is_fixed =
                |part: &&Part<'_>| matches!(part.opening, Opening::Identity | Opening::Pool2d(_));
            let fixed = block.parts.iter().filter(is_fixed).flat_map(|part| &part.reads);
            meeting.unite(fixed);
            for part in &block.parts {
                meeting.unite(part.reads.iter());
            }
        }
        meeting
    }

    /// The first of all values that meet `ready`, directly or not.
    fn first_of(&self, ready: Ready) -> Ready {
        match self.root(ready.position()).checked_sub(1) {
            None => Ready::Input,
            Some(idx) => Ready::Block(idx),
        }
    }

    fn root(&self, mut position: usize) -> usize {
        while let Some(&earlier) = self.earlier.get(position)
            && earlier != position
        {
            position = earlier;
        }
        position
    }

    fn unite<'a>(&mut self, reads: impl Iterator<Item = &'a Read>) {
        let roots: Vec<usize> = reads.map(|read| self.root(read.ready.position())).collect();
        let Some(&first) = roots.iter().min() else { return };
        for root in roots {
            if let Some(earlier) = self.earlier.get_mut(root) {
                *earlier = first;
            }
        }
    }
}

/// What `block` produces before clamp and quantization, all stages up to its weights quantized.
fn block_values(
    folded: &Network<f32>,
    spec: &QuantizationSpec,
    batch: &Tensor<f32>,
    block: &Block<'_>,
) -> Result<Vec<f32>> {
    let (quantized, ends) = insert_quantizers(folded, spec)?;
    let position = spec.stages.len() - 1;
    let n = ends.len();
    require("network", 0, "stage index", position, 0, n - 1)?;
    let end = ends.get(position).copied().unwrap_or(Source::Input);
    let outputs = quantized.upto(end)?.outputs(&batch.values().to_owned())?;
    let limit = block.clamp.unwrap_or(f32::INFINITY);
    let values = outputs.iter().map(|&v| v.min(limit));
    Ok(thin_out(&values.collect::<Vec<_>>()))
}

/// At most [`VALUES`] of the values, at multiples of an irrational step, so that no period of
/// channels or positions is favored.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a position below the number of values"
)]
fn thin_out(values: &[f32]) -> Vec<f32> {
    if values.len() <= VALUES {
        return values.to_vec();
    }
    let golden = 0.618_033_988_749_894_9_f64;
    (0..VALUES)
        .filter_map(|i| {
            let share = (i as f64 * golden).fract();
            values.get((share * values.len() as f64) as usize).copied()
        })
        .collect()
}

/// The best grid for the values after a stage.
///
/// Non-negative values get `0 ..= 2^bits − 1`. Others get the best of three positions of zero: at the
/// lower end, in the middle, or where the observed range puts it. With a `base`, the step is a whole
/// multiple or a whole fraction of it.
fn output_grid(block: &Block<'_>, values: &[f32], bits: u32, base: Option<f32>) -> OutputGrid {
    let span = (1_i32 << bits) - 1;
    let mut candidates = vec![Levels { min: 0, max: span }];
    if !block.is_non_negative() {
        let half = (span / 2).max(1);
        candidates.push(Levels { min: -half, max: half });
        let (low, high) =
            values.iter().fold((0.0_f32, 0.0_f32), |(low, high), &v| (low.min(v), high.max(v)));
        if low < 0.0 {
            #[expect(clippy::cast_possible_truncation, reason = "between 0 and the span")]
            let below = (f64::from(span) * f64::from(-low) / f64::from(high - low)).round() as i32;
            let below = below.clamp(0, span);
            candidates.push(Levels { min: -below, max: span - below });
        }
    }
    let mut best: Option<(Levels, Fit)> = None;
    for levels in candidates {
        if let Some(fit) = best_step(values, levels)
            && best.is_none_or(|(_, least)| fit.error < least.error)
        {
            best = Some((levels, fit));
        }
    }
    // Without any usable value the stage is constant zero, and any grid represents it.
    let (levels, step) =
        best.map_or((Levels { min: 0, max: span }, 1.0), |(levels, fit)| (levels, fit.step));
    #[expect(clippy::cast_possible_truncation, reason = "rounds to nearest")]
    let step = base.map_or(step, |base| commensurable(step.into(), base.into()) as f32);
    let max = block.clamp.map_or(levels.max, |limit| clamped(limit, step).min(levels.max));
    OutputGrid { step, min: levels.min, max: max.max(levels.min + 1) }
}

/// The grid point to which a clamp takes everything above it.
#[expect(clippy::cast_possible_truncation, reason = "saturates, and a minimum follows")]
fn clamped(limit: f32, step: f32) -> i32 {
    crate::layer::round_half_up(limit / step) as i32
}
