//! The definition of the integer network, one sample at a time, written to be read.
//!
//! Nothing here is shared with the fast path but the geometry of [`super::structure`]; all
//! arithmetic is 128-bit and checked.

#![expect(clippy::indexing_slicing, reason = "indices come from checked geometry")]

use super::chain::{Chain, Exponents};
use super::check::require;
use super::crt::CrtWindow;
use super::structure::{ActivationKind, Reduction, ValueRef};
use super::weights::StageWeights;
use super::{IntegerNetwork, StageOutput};
use crate::error::{Error, Result};

/// Every value of one stage for one sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferenceStage {
    /// Outputs of the linear map; reduced, if a window applies here. Empty if a chain ends later.
    pub linear: Vec<i64>,
    /// Values after activation and pool; reduced, if a window applies here.
    pub pooled: Vec<i64>,
    /// Values later stages read; empty for the last stage.
    pub refreshed: Vec<i32>,
}

impl IntegerNetwork {
    /// Evaluate one sample by the definition; `windows` says for each stage where its segment ends
    /// and into which window values are reduced there (empty: no reduction anywhere).
    ///
    /// The scores are the `pooled` values of the last stage. Slow; for checks and for single
    /// samples.
    ///
    /// # Errors
    /// - [`Error::OutOfRange`] if an input is missing or outside the grid.
    /// - [`Error::Accumulator`] if a value leaves `i64`, which checked networks exclude.
    pub fn reference(
        &self,
        sample: &[i32],
        windows: &[(StageOutput, CrtWindow)],
    ) -> Result<Vec<ReferenceStage>> {
        require("sample", 0, "number of inputs", sample.len(), self.n_inputs, self.n_inputs)?;
        for (idx, &x) in sample.iter().enumerate() {
            require("input", idx, "value", x, self.input.min(), self.input.max())?;
        }
        let mut stages: Vec<ReferenceStage> = Vec::with_capacity(self.structure.len());
        for stage in 0..self.structure.len() {
            let mut inputs = Vec::new();
            for source in &self.structure[stage].sources {
                match *source {
                    ValueRef::Input => inputs.extend_from_slice(sample),
                    ValueRef::Stage(earlier) => {
                        inputs.extend_from_slice(&stages[earlier as usize].refreshed);
                    }
                }
            }
            stages.push(self.reference_stage(stage, &inputs, windows.get(stage))?);
        }
        Ok(stages)
    }

    fn reference_stage(
        &self,
        stage: usize,
        inputs: &[i32],
        window: Option<&(StageOutput, CrtWindow)>,
    ) -> Result<ReferenceStage> {
        let (structure, weights) = (&self.structure[stage], &self.weights[stage]);
        let n_channels = structure.n_channels();
        let reduce = |output, v: i128| match window {
            Some((place, window)) if *place == output => window.reduce(v),
            _ => v,
        };
        let narrow = |step, wide: i128| {
            i64::try_from(wide).map_err(|_| Error::Accumulator {
                stage,
                step,
                magnitude: wide.abs(),
            })
        };

        let (inputs, bias_exponent, c_exponent) = match &structure.chain {
            None => (inputs.iter().map(|&x| i128::from(x)).collect(), 0, 0),
            Some(chain) => {
                let Exponents { bias, constant } = chain.exponents;
                (reference_steps(chain, weights, inputs), bias, constant)
            }
        };
        let divide = |output, v| match &structure.chain {
            Some(chain) if chain.ends == output => divide_half_up(v, chain.descale),
            _ => v,
        };

        let mut linear = Vec::with_capacity(structure.linear.n_outputs());
        for output in 0..structure.linear.n_outputs() {
            let mut sum = i128::from(weights.bias_of(output, n_channels)) << bias_exponent;
            structure.linear.for_each_tap(output, |input, weight| {
                sum += i128::from(weights.weights[weight]) * inputs[input];
            });
            linear.push(reduce(StageOutput::Linear, sum));
        }
        let linear: Vec<i128> =
            linear.into_iter().map(|v| divide(StageOutput::Linear, v)).collect();

        let mut activated = Vec::with_capacity(linear.len());
        for (output, &z) in linear.iter().enumerate() {
            activated.push(match (&structure.activation, &weights.quadratic) {
                (ActivationKind::Relu, _) => z.max(0),
                (ActivationKind::Table(table), _) => {
                    // The value of the last run that has begun.
                    let function = table.channel(output % n_channels);
                    let has_begun = |start: &&i64| i128::from(**start) <= z;
                    let run = function.starts().iter().filter(has_begun).count();
                    i128::from(function.values()[run])
                }
                (ActivationKind::Quadratic, Some(quadratic)) => {
                    let (a, b, c) = quadratic.coefficients(output % n_channels);
                    i128::from(a) * z * z + i128::from(b) * z + (i128::from(c) << c_exponent)
                }
                (ActivationKind::Identity | ActivationKind::Quadratic, _) => z,
            });
        }

        let mut pooled = Vec::with_capacity(structure.n_outputs());
        for output in 0..structure.n_outputs() {
            let value = match &structure.pool {
                Some(pool) => {
                    let mut window = Vec::new();
                    pool.for_each_term(output, |term| window.push(activated[term]));
                    match pool.reduction {
                        Reduction::Sum => window.iter().sum(),
                        Reduction::Max => window.into_iter().fold(i128::MIN, i128::max),
                    }
                }
                None => activated[output],
            };
            let value = divide(StageOutput::Pooled, reduce(StageOutput::Pooled, value));
            pooled.push(narrow("pool", value)?);
        }
        let is_chained = structure.chain.as_ref().is_some_and(|c| c.ends == StageOutput::Pooled);
        let linear = if is_chained {
            Vec::new()
        } else {
            linear.into_iter().map(|v| narrow("linear map", v)).collect::<Result<_>>()?
        };

        let refreshed = match &structure.refresh {
            Some(refresh) => pooled
                .iter()
                .enumerate()
                .map(|(output, &v)| refresh.apply(output % n_channels, v))
                .collect(),
            None => Vec::new(),
        };
        Ok(ReferenceStage { linear, pooled, refreshed })
    }
}

/// The steps of a chain on one sample.
fn reference_steps(chain: &Chain, weights: &StageWeights, inputs: &[i32]) -> Vec<i128> {
    let mut values: Vec<i128> = inputs.iter().map(|&x| i128::from(x)).collect();
    for (step, numbers) in chain.steps.iter().zip(&weights.chain) {
        let n_channels = step.linear.n_channels();
        let mut squared = Vec::new();
        for output in 0..step.linear.n_outputs() {
            let position =
                if numbers.bias.len() == n_channels { output % n_channels } else { output };
            let mut z = i128::from(numbers.bias[position]) << step.exponents.bias;
            step.linear.for_each_tap(output, |input, weight| {
                z += i128::from(numbers.weights[weight]) * values[input];
            });
            let (a, b, c) = numbers.quadratic.coefficients(output % n_channels);
            let constant = i128::from(c) << step.exponents.constant;
            squared.push(i128::from(a) * z * z + i128::from(b) * z + constant);
        }
        values = match &step.pool {
            None => squared,
            Some(pool) => (0..step.n_outputs())
                .map(|output| {
                    let mut sum = 0;
                    pool.for_each_term(output, |term| sum += squared[term]);
                    sum
                })
                .collect(),
        };
    }
    values
}

/// The nearest multiple of `2^exponent`, halves upward, in those units.
fn divide_half_up(v: i128, exponent: u32) -> i128 {
    let unit = 1_i128 << exponent;
    (2 * v + unit).div_euclid(2 * unit)
}
