//! The definition of the integer network, one sample at a time, written to be read.
//!
//! Nothing here is shared with the fast path but the geometry of [`super::structure`]; all
//! arithmetic is 128-bit and checked.

#![expect(clippy::indexing_slicing, reason = "indices come from checked geometry")]

use super::check::require;
use super::structure::{ActivationKind, Reduction, ValueRef};
use super::window::Window;
use super::{IntegerNetwork, StageOutput};
use crate::error::{Error, Result};

/// Every value of one stage for one sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferenceStage {
    /// Outputs of the linear map; reduced, if a window applies here.
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
        windows: &[(StageOutput, Window)],
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
            stages.push(self.reference_stage(stage, &inputs, windows.get(stage).copied())?);
        }
        Ok(stages)
    }

    fn reference_stage(
        &self,
        stage: usize,
        inputs: &[i32],
        window: Option<(StageOutput, Window)>,
    ) -> Result<ReferenceStage> {
        let (structure, weights) = (&self.structure[stage], &self.weights[stage]);
        let n_channels = structure.n_channels();
        let reduce = |output, values: &mut [i64]| {
            if let Some((place, window)) = window
                && place == output
            {
                values.iter_mut().for_each(|v| *v = window.reduce(*v));
            }
        };
        let narrow = |step, wide: i128| {
            i64::try_from(wide).map_err(|_| Error::Accumulator {
                stage,
                step,
                magnitude: wide.abs(),
            })
        };

        let mut linear = Vec::with_capacity(structure.linear.n_outputs());
        for output in 0..structure.linear.n_outputs() {
            let mut sum = i128::from(weights.bias_of(output, n_channels));
            structure.linear.for_each_tap(output, |input, weight| {
                sum += i128::from(weights.weights[weight]) * i128::from(inputs[input]);
            });
            linear.push(narrow("linear map", sum)?);
        }
        reduce(StageOutput::Linear, &mut linear);

        let mut activated = Vec::with_capacity(linear.len());
        for (output, &z) in linear.iter().enumerate() {
            let z = i128::from(z);
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
                    i128::from(a) * z * z + i128::from(b) * z + i128::from(c)
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
            pooled.push(narrow("pool", value)?);
        }
        reduce(StageOutput::Pooled, &mut pooled);

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
