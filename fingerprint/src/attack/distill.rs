//! A student in the model's place.
//!
//! The student has the model's layers with other weights, and learns from the model's own answers to
//! the training samples. Random weights are scaled layer by layer until every channel has the mean
//! and deviation that it has in the model, without which networks of squares do not train.
//!
//! # Source
//! Hinton, Vinyals and Dean 2015 (distillation); Mishkin and Matas 2016, "All You Need is a Good Init"
//! (scaling layer by layer), with the model's own statistics instead of unit variance.

use ndarray::{Array1, Array2, Axis, Slice};
use nn_poly::Tensor;
use nn_poly::layer::{Layer, WeightQuantizer};
use nn_poly::network::{Network, Source};
use nn_poly::train::{Distillation, Optimizer, Schedule};

use super::retrain::{Duration, Retraining};
use super::weights::{self, deviation, single, standard_normal};
use super::{
    Aftermath, AttackData, AttackOptions, AttackSuccess, MAX_ACCURACY_LOSS, Method, SuccessName,
    Tools, share,
};
use crate::error::Result;

/// Share of the same predictions from which on a student counts as a copy.
const TARGET_RATE: f64 = 0.9;
/// Softness of the model's answers.
const TEMPERATURE: f32 = 2.0;
/// Peak learning rate of a student.
const LEARNING_RATE: f64 = 3e-3;
/// Samples on which the statistics of channels are compared.
const CALIBRATION_SAMPLES: usize = 256;

#[derive(Clone, Debug)]
pub(super) struct Distill {
    random_share: f64,
    retraining: Retraining,
}

impl Distill {
    pub(super) fn new(random_share: f64, duration: Duration, options: &AttackOptions) -> Self {
        let retraining = Retraining {
            duration,
            optimizer: Optimizer::Adam,
            schedule: Schedule::OneCycle { warm_up: 0.2 },
            learning_rate: options.learning_rate.unwrap_or(LEARNING_RATE),
        };
        Self { random_share, retraining }
    }

    /// The model with weights of which a share is random, channels like the model's.
    fn student(
        &self,
        model: &Network<f32>,
        data: &AttackData<'_>,
        tools: &mut Tools<'_>,
    ) -> Result<Network<f32>> {
        let share = self.random_share;
        let mixed = weights::edit(model, |tensors| {
            for tensor in tensors {
                let row_len = tensor.row_len().max(1);
                for row in tensor.values.chunks_mut(row_len) {
                    let spread = deviation(row);
                    for weight in row {
                        let random = spread * standard_normal(tools.rng);
                        *weight = single((1.0 - share) * f64::from(*weight) + share * random);
                    }
                }
            }
        })?;
        let inputs = data.train().inputs();
        let n_samples = inputs.nrows().min(CALIBRATION_SAMPLES);
        let inputs = inputs.slice_axis(Axis(0), Slice::from(..n_samples)).to_owned();
        let batch = Tensor::new(model.input_shape().clone(), inputs)?;
        let wanted = model.forward_all(&batch)?;
        let mut student = mixed;
        for (layer_idx, wanted) in wanted.iter().enumerate() {
            student = match_channels(student, layer_idx, &batch, wanted)?;
        }
        Ok(student)
    }
}

/// Rescale a layer with weights until its channels have the statistics of `wanted`.
fn match_channels(
    network: Network<f32>,
    layer_idx: usize,
    batch: &Tensor<f32>,
    wanted: &Tensor<f32>,
) -> Result<Network<f32>> {
    let is_linear =
        |layer: Option<&Layer<f32>>| matches!(layer, Some(Layer::Dense(_) | Layer::Conv2d(_)));
    if !is_linear(network.layers().get(layer_idx)) {
        return Ok(network);
    }
    let found = network.upto(Source::Layer(layer_idx))?.forward(batch)?;
    let (found, wanted) = (channel_statistics(&found), channel_statistics(wanted));
    let corrections: Vec<(f32, f32)> = found
        .iter()
        .zip(&wanted)
        .map(|(found, wanted)| {
            let scale = if found.1 > 1e-9 { wanted.1 / found.1 } else { 1.0 };
            (single(scale), single(wanted.0 - found.0 * scale))
        })
        .collect();
    let mut layers = network.layers().to_vec();
    match layers.get_mut(layer_idx) {
        Some(Layer::Dense(dense)) => {
            let rows = dense.weights.outer_iter_mut().zip(&mut dense.bias).zip(&corrections);
            for ((mut row, bias), &(scale, offset)) in rows {
                row.mapv_inplace(|weight| weight * scale);
                *bias = *bias * scale + offset;
            }
            let maxima = dense.weights.outer_iter().map(|row| largest(row.iter())).collect();
            refit(dense.weight_quantizer.as_mut(), &maxima);
        }
        Some(Layer::Conv2d(conv)) => {
            let rows = conv.weights.outer_iter_mut().zip(&mut conv.bias).zip(&corrections);
            for ((mut row, bias), &(scale, offset)) in rows {
                row.mapv_inplace(|weight| weight * scale);
                *bias = *bias * scale + offset;
            }
            let maxima = conv.weights.outer_iter().map(|row| largest(row.iter())).collect();
            refit(conv.weight_quantizer.as_mut(), &maxima);
        }
        _ => {}
    }
    Ok(network.with_layers(layers)?)
}

fn largest<'a>(values: impl Iterator<Item = &'a f32>) -> f32 {
    values.fold(0.0, |max, weight| max.max(weight.abs()))
}

/// Let a layer's grid reach its new weights.
fn refit(quantizer: Option<&mut WeightQuantizer<f32>>, maxima: &Array1<f32>) {
    let Some(quantizer) = quantizer else { return };
    let bits = quantizer.bits;
    quantizer.scales = if quantizer.scales.len() == 1 {
        Array1::from_elem(1, weights::grid_step(largest(maxima.iter()), bits))
    } else {
        maxima.mapv(|max| weights::grid_step(max, bits))
    };
}

/// Mean and deviation of every channel over samples and positions.
fn channel_statistics(values: &Tensor<f32>) -> Vec<(f64, f64)> {
    let n_channels = values.shape().channels();
    let rows = values.values();
    let n_rows = rows.len() / n_channels.max(1);
    let by_channel: Array2<f64> =
        Array2::from_shape_vec((n_rows, n_channels), rows.iter().map(|&v| f64::from(v)).collect())
            .expect("invariant: channels divide the values of a sample");
    let by_channel = by_channel.view();
    by_channel
        .axis_iter(Axis(1))
        .map(|channel| (channel.mean().unwrap_or(0.0), channel.std(0.0)))
        .collect()
}

impl Method for Distill {
    fn tamper(
        &self,
        deployed: &Network<f32>,
        data: &AttackData<'_>,
        tools: &mut Tools<'_>,
    ) -> Result<Network<f32>> {
        let student = self.student(deployed, data, tools)?;
        let answers = deployed.outputs(data.train().inputs())?;
        let loss = Distillation::new(&answers, TEMPERATURE)?;
        self.retraining.run_with(student, data.train(), &loss, None, tools)
    }

    fn success(&self, aftermath: &Aftermath<'_>) -> Result<Option<AttackSuccess>> {
        let pairs = aftermath.predicted_before.iter().zip(&aftermath.predicted_after);
        let n_same = pairs.filter(|(before, after)| before == after).count();
        let loss = aftermath.loss(|_| true);
        Ok(share(n_same, aftermath.predicted_before.len()).map(|rate| {
            AttackSuccess::judge(
                SuccessName::SamePredictions,
                (rate, TARGET_RATE),
                (loss, MAX_ACCURACY_LOSS),
            )
        }))
    }
}
