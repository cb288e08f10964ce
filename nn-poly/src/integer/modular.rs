//! One stage over `Z_t`, at points that are not small: what a random-point canary must yield.
//!
//! Points are cut into limbs so small that the linear map of each limb is exact in `f64`; the limbs
//! of all points are columns of one matrix product, and are put together modulo `t` afterwards.

#![expect(clippy::indexing_slicing, reason = "indices come from checked geometry")]

use ndarray::{Array2, Axis};
use rayon::prelude::*;

use super::check::require;
use super::geometry::LinearGeometry;
use super::linear::{apply, weight_matrix};
use super::ranges::max_l1;
use super::structure::{Pool, StageStructure};
use super::weights::StageWeights;
use super::{IntegerNetwork, StageOutput};
use crate::error::{Error, Result};

/// Moduli of modular evaluation are at least 2 and below `2^62`.
const MODULUS_BITS: u32 = 62;
/// Points evaluated together by one thread.
const GROUP: usize = 16;
/// Bits of a limb, fewer where the weights are large.
const MAX_LIMB_BITS: u32 = 31;

impl IntegerNetwork {
    /// Evaluate stage `stage_idx` over `Z_t` at several points, up to `output`, without refresh.
    ///
    /// Each point has one residue per value the stage reads; each result one residue in `[0, t)` per
    /// value at `output`. On points that are small integers this equals [`Self::evaluate_stage`]
    /// modulo `t`.
    ///
    /// Cost: per point two to three products in `f64` per product of the stage.
    ///
    /// # Errors
    /// - [`Error::OutOfRange`] if there is no such stage, `t` is not in `2 .. 2^62`, a point has the
    ///   wrong length, or a coordinate is not below `t`.
    /// - [`Error::NotPolynomial`] if a ReLU, a table or a maximum lies before `output`.
    pub fn evaluate_stage_modular(
        &self,
        stage_idx: usize,
        points: &[Vec<u64>],
        t: u64,
        output: StageOutput,
    ) -> Result<Vec<Vec<u64>>> {
        let (structure, weights) = self.stage(stage_idx)?;
        require("stage", stage_idx, "modulus", t, 2, (1 << MODULUS_BITS) - 1)?;
        let n_inputs = structure.n_inputs();
        for (idx, point) in points.iter().enumerate() {
            require("point", idx, "number of coordinates", point.len(), n_inputs, n_inputs)?;
            let largest = point.iter().copied().max().unwrap_or(0);
            require("point", idx, "largest coordinate", largest, 0, t - 1)?;
        }
        if output == StageOutput::Pooled
            && let Some(step) = structure.non_polynomial()
        {
            return Err(Error::NotPolynomial { stage: stage_idx, step });
        }
        let steps = modular_steps(structure, weights, output);
        let groups = points
            .par_chunks(GROUP)
            .map(|points| {
                let first = steps.first().map_or_else(Vec::new, |step| step.apply(points, t));
                steps.iter().skip(1).fold(first, |values, step| step.apply(&values, t))
            })
            .collect::<Vec<_>>();
        Ok(groups.into_iter().flatten().collect())
    }
}

/// `(a, b, c)` of every channel.
type Coefficients<'a> = Box<dyn Fn(usize) -> (i32, i64, i128) + Sync + 'a>;

/// One linear map with what follows it, over `Z_t`.
struct ModularStep<'a> {
    linear: &'a LinearGeometry,
    matrix: Array2<f64>,
    limb_bits: u32,
    bias: Box<dyn Fn(usize) -> i128 + Sync + 'a>,
    /// Where a quadratic follows.
    quadratic: Option<Coefficients<'a>>,
    pool: Option<&'a Pool>,
}

/// The steps of a stage up to `output`, those of its chain first.
fn modular_steps<'a>(
    structure: &'a StageStructure,
    weights: &'a StageWeights,
    output: StageOutput,
) -> Vec<ModularStep<'a>> {
    let chain = structure.chain.as_ref().map_or(&[][..], |chain| &chain.steps);
    let mut steps: Vec<ModularStep<'a>> = chain
        .iter()
        .zip(&weights.chain)
        .map(|(step, numbers)| ModularStep {
            linear: &step.linear,
            matrix: weight_matrix(&step.linear, &numbers.weights),
            limb_bits: limb_bits(max_l1(&step.linear, &numbers.weights)),
            bias: Box::new(|output| numbers.bias_of(step, output)),
            quadratic: Some(Box::new(|channel| numbers.coefficients(step, channel))),
            pool: step.pool.as_ref(),
        })
        .collect();
    let is_pooled = output == StageOutput::Pooled;
    let has_quadratic = is_pooled && weights.quadratic.is_some();
    steps.push(ModularStep {
        linear: &structure.linear,
        matrix: weight_matrix(&structure.linear, &weights.weights),
        limb_bits: limb_bits(max_l1(&structure.linear, &weights.weights)),
        bias: Box::new(|output| weights.wide_bias_of(structure, output)),
        quadratic: if has_quadratic {
            Some(Box::new(|channel| weights.wide_coefficients(structure, channel)))
        } else {
            None
        },
        pool: structure.pool.as_ref().filter(|_| is_pooled),
    });
    steps
}

impl ModularStep<'_> {
    fn apply(&self, points: &[Vec<u64>], t: u64) -> Vec<Vec<u64>> {
        let mut values = self.linear(points, t);
        for point in &mut values {
            self.finish(point, t);
        }
        values
    }

    /// `W·x + b mod t` for a few points.
    fn linear(&self, points: &[Vec<u64>], t: u64) -> Vec<Vec<u64>> {
        let (linear, limb_bits) = (self.linear, self.limb_bits);
        let n_limbs = (u64::BITS - (t - 1).leading_zeros()).div_ceil(limb_bits) as usize;
        let mask = (1_u64 << limb_bits) - 1;
        let limbs =
            Array2::from_shape_fn((linear.n_inputs(), points.len() * n_limbs), |(row, column)| {
                let (point, limb) = (column / n_limbs, column % n_limbs);
                #[expect(clippy::cast_precision_loss, reason = "a limb has at most 31 bits")]
                let limb = ((points[point][row] >> (limb_bits as usize * limb)) & mask) as f64;
                limb
            });
        let products = apply(linear, &self.matrix, limbs.view());
        let modulus = i128::from(t);
        let combine = |(output, limbs): (usize, &[f64])| {
            // The bias of a chain may need all 128 bits; reduced first, no sum can overflow.
            let mut sum = (self.bias)(output).rem_euclid(modulus);
            for (position, &limb) in limbs.iter().enumerate() {
                #[expect(clippy::cast_possible_truncation, reason = "an integer below 2^53")]
                let limb = limb as i64;
                // |limb| < 2^53, and the shift is below 62: no sum of limbs leaves 116 bits.
                sum += i128::from(limb) << (limb_bits as usize * position);
            }
            residue(sum, modulus)
        };
        (0..points.len())
            .map(|point| {
                let columns = point * n_limbs..(point + 1) * n_limbs;
                let columns = products.slice_axis(Axis(1), columns.into());
                let mut row = vec![0.0; n_limbs];
                columns
                    .outer_iter()
                    .enumerate()
                    .map(|(output, limbs)| {
                        row.iter_mut().zip(limbs).for_each(|(row, &limb)| *row = limb);
                        combine((output, &row))
                    })
                    .collect()
            })
            .collect()
    }

    /// Activation and sum pool modulo `t`, in place.
    fn finish(&self, values: &mut Vec<u64>, t: u64) {
        let n_channels = self.linear.n_channels();
        let modulus = i128::from(t);
        if let Some(quadratic) = &self.quadratic {
            for (idx, v) in values.iter_mut().enumerate() {
                let (a, b, c) = quadratic(idx % n_channels);
                // Every factor is below 2^62 in magnitude, so every product fits in 125 bits.
                let z = i128::from(*v);
                let slope = (i128::from(a) * z + i128::from(b)).rem_euclid(modulus);
                *v = residue(slope * z + c.rem_euclid(modulus), modulus);
            }
        }
        if let Some(pool) = self.pool {
            *values = (0..pool.output().len())
                .map(|output| {
                    let mut sum = 0_i128;
                    pool.for_each_term(output, |term| sum += i128::from(values[term]));
                    residue(sum, modulus)
                })
                .collect();
        }
    }
}

/// The largest limb for which `max_l1 · 2^bits` stays below `2^53`.
fn limb_bits(max_l1: u64) -> u32 {
    let l1_bits = u64::BITS - max_l1.leading_zeros();
    (f64::MANTISSA_DIGITS.saturating_sub(l1_bits)).clamp(1, MAX_LIMB_BITS)
}

/// The representative of `v` in `[0, modulus)`.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the remainder lies in [0, modulus) and modulus < 2^62"
)]
fn residue(v: i128, modulus: i128) -> u64 {
    v.rem_euclid(modulus) as u64
}
