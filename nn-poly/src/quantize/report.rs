//! What a plan makes of a model: accuracy of its forms, clamps, and how much of each range is used.

use ndarray::{Axis, Slice};

use super::unrounded;
use crate::error::Result;
use crate::integer::{
    InputGrid, IntegerMatrix, Interval, StageObservation, StageOutput, StageStructure,
    StageWeights, Window,
};
use crate::model::{LayerBits, Model};
use crate::network::predictions;
use crate::plan::{Plan, ValueRange};
use crate::train::{Evaluation, LabeledSamples};

/// Samples evaluated at once: bounds the memory for values between stages.
const CHUNK: usize = 512;

/// How a grid of integers is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GridUse {
    /// The grid.
    pub grid: Interval,
    /// The values that occurred on it.
    pub observed: Interval,
    /// Values looked at.
    pub n_values: u64,
    /// Values that lay beyond the grid and were moved to its nearest end.
    pub n_clamped: u64,
}

impl GridUse {
    /// Whole bits of the grid that the occurring values would not need: the grid with so many bits
    /// fewer, from the same position of zero on, still holds all of them.
    #[must_use]
    pub fn unused_bits(&self) -> u32 {
        let holds = |bits: &u32| {
            let (low, high) = (self.grid.low >> bits, self.grid.high >> bits);
            self.observed.low >= low && self.observed.high <= high
        };
        // A grid keeps one bit at least.
        (1..self.grid.width().max(2).ilog2()).take_while(holds).last().unwrap_or(0)
    }

    /// Share of the values that were clamped.
    #[must_use]
    pub fn clamped_share(&self) -> f64 {
        share(self.n_clamped, self.n_values)
    }
}

/// How the bits of a stage's weights are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightUse {
    /// Bits that a weight may have, sign included.
    pub bits: u32,
    /// Largest magnitude of a weight.
    pub largest: u32,
    /// Output channels.
    pub n_channels: usize,
    /// Output channels whose weights all fit one bit less: they share their scale with larger ones.
    pub n_narrow_channels: usize,
    /// Weights.
    pub n_weights: usize,
    /// Weights that are 0.
    pub n_zero: usize,
}

impl WeightUse {
    /// Bits, sign included, that the largest weight needs.
    #[must_use]
    pub const fn needed_bits(&self) -> u32 {
        u32::BITS - self.largest.leading_zeros() + 1
    }
}

/// One stage of a plan on real samples.
#[derive(Clone, Debug, PartialEq)]
pub struct StageUse {
    /// Which stage, from 0.
    pub stage: usize,
    /// Where its segment ends.
    pub output: StageOutput,
    /// Into which values are reduced; its width is what `t` (of one digit) has to hold.
    pub window: Window,
    /// What the plan expects, and why.
    pub expected: ValueRange,
    /// What no input whatever can leave.
    pub proven: Interval,
    /// What occurred, before any reduction.
    pub observed: Interval,
    /// Values that the window changed.
    pub n_wrapped: u64,
    /// Weights; `None` if all are 1, as in a sum pool that is a stage of its own.
    pub weights: Option<WeightUse>,
    /// The grid after the refresh; `None` on the last stage.
    pub refreshed: Option<GridUse>,
}

impl StageUse {
    /// Share of the window that the occurring values span, 0 to 1 (more if some wrapped).
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    pub fn window_share(&self) -> f64 {
        self.observed.width() as f64 / self.window.modulus as f64
    }

    /// Bits of the window.
    #[must_use]
    pub fn window_bits(&self) -> f64 {
        log2(self.window.modulus)
    }

    /// Bits of the range the plan expects.
    #[must_use]
    pub fn expected_bits(&self) -> f64 {
        log2(Interval { low: self.expected.low, high: self.expected.high }.width())
    }

    /// Bits of the range that is proven.
    #[must_use]
    pub fn proven_bits(&self) -> f64 {
        log2(self.proven.width())
    }

    /// Bits of the range that occurred.
    #[must_use]
    pub fn observed_bits(&self) -> f64 {
        log2(self.observed.width())
    }

    /// Whole bits by which the window could be narrower and still hold what occurred.
    #[must_use]
    pub fn spare_bits(&self) -> u32 {
        (self.window.modulus / self.observed.width().max(1)).checked_ilog2().unwrap_or(0)
    }

    /// Bits of the window beyond what the plan expects: primes and powers of two are not any number.
    #[must_use]
    pub fn rounding_bits(&self) -> f64 {
        self.window_bits() - self.expected_bits()
    }

    /// Bits of the expected range that nothing used: the price of a proof for inputs that do not
    /// occur, or of the margin of a calibrated range.
    #[must_use]
    pub fn caution_bits(&self) -> f64 {
        self.expected_bits() - self.observed_bits()
    }
}

/// Bits that nothing used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waste {
    /// The window of a stage is whole bits wider than what occurred.
    Window {
        /// Which stage.
        stage: usize,
        /// How many bits.
        bits: u32,
    },
    /// No weight of a stage is as large as its bits allow.
    Weights {
        /// Which stage.
        stage: usize,
        /// How many bits.
        bits: u32,
    },
    /// The grid after a stage reaches beyond everything that occurred.
    Activations {
        /// Which stage.
        stage: usize,
        /// How many bits.
        bits: u32,
    },
    /// The grid of the inputs reaches beyond everything that occurred.
    Inputs {
        /// How many bits.
        bits: u32,
    },
}

impl Waste {
    /// How many bits.
    #[must_use]
    pub const fn bits(&self) -> u32 {
        match *self {
            Self::Window { bits, .. }
            | Self::Weights { bits, .. }
            | Self::Activations { bits, .. }
            | Self::Inputs { bits } => bits,
        }
    }
}

/// The forms of a model on the same labeled samples, and what its plan's numbers are used for.
#[derive(Clone, Debug, PartialEq)]
pub struct AccuracyReport {
    /// Bits of the integer network.
    pub bits: LayerBits,
    /// The model's network without any rounding.
    pub float: Evaluation,
    /// The integer network.
    pub integer: Evaluation,
    /// The plan: the integer network with its windows, which is what an encrypted run computes.
    pub plan: Evaluation,
    /// Samples to which the plan and the network without rounding give the same class.
    pub n_agreeing: usize,
    /// Samples with a value outside a calibrated range.
    pub n_out_of_range: usize,
    /// The grid of the inputs.
    pub input: GridUse,
    /// One entry per stage.
    pub stages: Vec<StageUse>,
}

impl AccuracyReport {
    /// Share of samples lost by rounding, clamping and windows: accuracy without rounding minus that of
    /// the plan. Negative if rounding helps.
    #[must_use]
    pub fn drop(&self) -> f64 {
        self.float.accuracy() - self.plan.accuracy()
    }

    /// Where whole bits are wasted, most of them first.
    #[must_use]
    pub fn wastes(&self) -> Vec<Waste> {
        let mut wastes = vec![Waste::Inputs { bits: self.input.unused_bits() }];
        for of in &self.stages {
            let stage = of.stage;
            wastes.push(Waste::Window { stage, bits: of.spare_bits() });
            if let Some(weights) = &of.weights {
                let bits = weights.bits.saturating_sub(weights.needed_bits());
                wastes.push(Waste::Weights { stage, bits });
            }
            if let Some(grid) = &of.refreshed {
                wastes.push(Waste::Activations { stage, bits: grid.unused_bits() });
            }
        }
        wastes.retain(|waste| waste.bits() > 0);
        wastes.sort_by_key(|waste| std::cmp::Reverse(waste.bits()));
        wastes
    }
}

/// Evaluate `model` and the plan compiled from it at `bits` on preprocessed `samples`.
///
/// Cost: one float and two integer evaluations of all samples; memory for the values of 512 samples.
///
/// # Errors
/// - [`crate::Error::ShapeMismatch`] or [`crate::Error::OutOfRange`] if samples, model and plan do not
///   belong together.
pub fn accuracy_report(
    model: &Model,
    bits: impl Into<LayerBits>,
    plan: &Plan,
    samples: &LabeledSamples,
) -> Result<AccuracyReport> {
    let bits = bits.into();
    let float_network = unrounded(model.network())?;
    let grid = plan.network().input();
    let mut run = Run::new(plan);
    for start in (0..samples.n_samples()).step_by(CHUNK) {
        let rows = Slice::from(start..(start + CHUNK).min(samples.n_samples()));
        let features = samples.inputs().slice_axis(Axis(0), rows).to_owned();
        let inputs = grid.quantize(features.view())?;
        run.input_clamps += clamped_inputs(grid, features.iter());
        run.float.extend(predictions(&float_network.outputs(&features)?.mapv(f64::from)));
        run.absorb(plan, &inputs)?;
    }
    let n_classes = plan.network().n_scores();
    let told = |predicted: &[usize]| Evaluation::of(predicted, samples.labels(), n_classes);
    let agreeing = run.float.iter().zip(&run.plan).filter(|(float, plan)| float == plan);
    let n_inputs = (samples.n_samples() * plan.network().n_inputs()) as u64;
    let stages = run.stages(plan, &bits)?;
    Ok(AccuracyReport {
        bits,
        float: told(&run.float),
        integer: told(&run.integer),
        plan: told(&run.plan),
        n_agreeing: agreeing.count(),
        n_out_of_range: run.n_out_of_range,
        input: GridUse {
            grid: grid.interval(),
            observed: run.inputs,
            n_values: n_inputs,
            n_clamped: run.input_clamps,
        },
        stages,
    })
}

/// What a pass over the samples gathers.
struct Run {
    float: Vec<usize>,
    integer: Vec<usize>,
    plan: Vec<usize>,
    n_samples: usize,
    n_out_of_range: usize,
    inputs: Interval,
    input_clamps: u64,
    observed: Vec<Option<StageObservation>>,
    refreshed: Vec<Interval>,
    n_clamped: Vec<u64>,
    n_wrapped: Vec<u64>,
}

impl Run {
    fn new(plan: &Plan) -> Self {
        let n_stages = plan.network().structure().len();
        Self {
            float: Vec::new(),
            integer: Vec::new(),
            plan: Vec::new(),
            n_samples: 0,
            n_out_of_range: 0,
            inputs: Interval::EMPTY,
            input_clamps: 0,
            observed: vec![None; n_stages],
            refreshed: vec![Interval::EMPTY; n_stages],
            n_clamped: vec![0; n_stages],
            n_wrapped: vec![0; n_stages],
        }
    }

    fn absorb(&mut self, plan: &Plan, inputs: &IntegerMatrix) -> Result<()> {
        self.n_samples += inputs.ncols();
        self.inputs = self.inputs.hull(span(inputs));
        let exact = plan.network().trace(inputs)?;
        self.integer.extend(exact.predictions());
        for (hull, seen) in self.observed.iter_mut().zip(&exact.observed) {
            *hull = Some(hull.map_or(*seen, |hull| StageObservation {
                linear: hull.linear.hull(seen.linear),
                pooled: hull.pooled.hull(seen.pooled),
            }));
        }
        for (hull, values) in self.refreshed.iter_mut().zip(&exact.refreshed) {
            *hull = hull.hull(span(values));
        }
        for (sum, counts) in self.n_clamped.iter_mut().zip(&exact.counts) {
            *sum += counts.n_clamped;
        }
        let reduced = plan.simulate(inputs)?;
        self.plan.extend(reduced.predictions());
        self.n_out_of_range += reduced.out_of_range.iter().filter(|&&outside| outside).count();
        for (sum, counts) in self.n_wrapped.iter_mut().zip(&reduced.counts) {
            *sum += counts.n_wrapped;
        }
        Ok(())
    }

    fn stages(&self, plan: &Plan, bits: &LayerBits) -> Result<Vec<StageUse>> {
        let per_stage = self.observed.iter().zip(&self.refreshed);
        let counts = self.n_clamped.iter().zip(&self.n_wrapped);
        let mut stages = Vec::with_capacity(self.observed.len());
        for (stage, ((seen, &refreshed), (&n_clamped, &n_wrapped))) in
            per_stage.zip(counts).enumerate()
        {
            let segment = plan.public().first_segment(stage)?;
            let arrivals = plan.public().arrivals(stage)?;
            let (output, domain) = (arrivals.takes, arrivals.domain);
            let (structure, weights) = plan.network().stage(stage)?;
            let grid = structure.refresh.as_ref().map(|refresh| GridUse {
                grid: refresh.interval(),
                observed: refreshed,
                n_values: (self.n_samples * structure.n_outputs()) as u64,
                n_clamped,
            });
            stages.push(StageUse {
                stage,
                output,
                window: Window { low: domain.low, modulus: domain.width() },
                expected: segment.range,
                proven: plan.network().stage_ranges(stage)?.bounds(output),
                observed: seen.map_or(Interval::point(0), |seen| seen.at(output)),
                n_wrapped,
                weights: weight_use(structure, weights, bits.weight(stage)),
                refreshed: grid,
            });
        }
        Ok(stages)
    }
}

fn weight_use(structure: &StageStructure, weights: &StageWeights, bits: u32) -> Option<WeightUse> {
    let values = &weights.weights;
    if values.iter().all(|&w| w == 1) {
        return None;
    }
    let n_channels = structure.n_channels().max(1);
    let per_channel = (values.len() / n_channels).max(1);
    let largest = |values: &[i16]| -> u32 {
        values.iter().map(|w| w.unsigned_abs()).max().unwrap_or(0).into()
    };
    // The largest weight that fits one bit less.
    let narrow = (1_u32 << bits.clamp(2, 15).saturating_sub(2)) - 1;
    Some(WeightUse {
        bits,
        largest: largest(values),
        n_channels,
        n_narrow_channels: values.chunks(per_channel).filter(|row| largest(row) <= narrow).count(),
        n_weights: values.len(),
        n_zero: values.iter().filter(|&&w| w == 0).count(),
    })
}

/// Features that lie beyond the ends of the input grid by more than the rounding to its last point.
fn clamped_inputs<'a>(grid: &InputGrid, features: impl Iterator<Item = &'a f32>) -> u64 {
    let low = (f64::from(grid.min()) - 0.5) * f64::from(grid.step);
    let high = (f64::from(grid.max()) + 0.5) * f64::from(grid.step);
    let is_outside = |&&x: &&f32| f64::from(x) < low || f64::from(x) >= high;
    features.filter(is_outside).count() as u64
}

fn span(values: &IntegerMatrix) -> Interval {
    values.iter().fold(Interval::EMPTY, |hull, &v| hull.hull(Interval::point(i64::from(v))))
}

#[expect(clippy::cast_precision_loss, reason = "a logarithm")]
fn log2(width: u64) -> f64 {
    (width.max(1) as f64).log2()
}

#[expect(clippy::cast_precision_loss, reason = "a share")]
fn share(part: u64, whole: u64) -> f64 {
    part as f64 / (whole as f64).max(1.0)
}
