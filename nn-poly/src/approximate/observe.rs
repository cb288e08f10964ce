//! What reaches the activations of a network.

use ndarray::{Array2, ArrayView2, Axis};

use super::Interval;
use crate::autodiff::{self, Mode};
use crate::error::{Error, Result};
use crate::layer::Layer;
use crate::network::Network;
use crate::tensor::{Tensor, check_finite};

/// Samples evaluated at a time.
const BATCH_SAMPLES: usize = 100;
/// Values of one layer kept at most.
const MAX_VALUES: usize = 1 << 17;

/// The values before one activation, over many samples.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservedLayer {
    layer_idx: usize,
    activation: &'static str,
    /// Invariant: finite, ascending, not empty.
    values: Vec<f32>,
    min: f64,
    max: f64,
    mean: f64,
    deviation: f64,
}

/// Watch the pre-activations of every activation of `network` on `inputs` (preprocessed, one row per
/// sample), outside training.
///
/// Keeps up to 131,072 values per layer, spread evenly over samples and neurons; extrema, means and
/// deviations are those of all. Deterministic. Cost: one forward pass.
///
/// # Errors
/// - [`Error::NoSamples`] without rows, [`Error::ShapeMismatch`] for rows of another length.
/// - [`Error::NonFiniteInput`] if an input is not finite.
/// - [`Error::CannotApproximate`] if a pre-activation is not finite.
pub fn observe(network: &Network<f32>, inputs: &Array2<f32>) -> Result<Vec<ObservedLayer>> {
    if inputs.nrows() == 0 {
        return Err(Error::NoSamples { what: "the data to observe activations on" });
    }
    check_finite("network input", inputs.view())?;
    let activations = network.layers().iter().enumerate().filter_map(|(idx, layer)| match layer {
        Layer::Activation(activation) => Some((idx, activation.name())),
        Layer::Dense(_)
        | Layer::Conv2d(_)
        | Layer::BatchNorm(_)
        | Layer::Pool2d(_)
        | Layer::Flatten
        | Layer::Clamp(_)
        | Layer::Quantize(_)
        | Layer::Dropout(_)
        | Layer::Add
        | Layer::Concat => None,
    });
    let mut collectors: Vec<Collector> = activations
        .map(|(idx, name)| {
            let len = network.layer_input_shape(idx)?.len();
            Ok(Collector::new(idx, name, len.saturating_mul(inputs.nrows())))
        })
        .collect::<Result<_>>()?;
    for rows in inputs.axis_chunks_iter(Axis(0), BATCH_SAMPLES) {
        let batch = Tensor::new(network.input_shape().clone(), rows.to_owned())?;
        autodiff::evaluate_watched(network, batch.values(), Mode::Inference, |idx, values| {
            if let Some(found) = collectors.iter_mut().find(|c| c.layer_idx == idx) {
                found.collect(values);
            }
        });
    }
    collectors.into_iter().map(Collector::finish).collect()
}

/// Gathers the values of one layer.
struct Collector {
    layer_idx: usize,
    activation: &'static str,
    /// Every value is kept whose running number, times the golden ratio, has a fractional part below
    /// this: no period of channels or positions is favored.
    share: f64,
    n_seen: u64,
    values: Vec<f32>,
    min: f64,
    max: f64,
    sum: f64,
    squares: f64,
}

impl Collector {
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    fn new(layer_idx: usize, activation: &'static str, n_values: usize) -> Self {
        Self {
            layer_idx,
            activation,
            share: MAX_VALUES as f64 / n_values.max(1) as f64,
            n_seen: 0,
            values: Vec::new(),
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            sum: 0.0,
            squares: 0.0,
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    fn collect(&mut self, values: ArrayView2<'_, f32>) {
        const GOLDEN: f64 = 0.618_033_988_749_894_9;
        for &value in values {
            let wide = f64::from(value);
            self.min = self.min.min(wide);
            self.max = self.max.max(wide);
            self.sum += wide;
            self.squares += wide * wide;
            if (self.n_seen as f64 * GOLDEN).fract() < self.share {
                self.values.push(value);
            }
            self.n_seen += 1;
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    fn finish(self) -> Result<ObservedLayer> {
        let n = self.n_seen as f64;
        let mean = self.sum / n;
        let mut values = self.values;
        values.sort_by(f32::total_cmp);
        if !self.squares.is_finite() || values.is_empty() {
            return Err(Error::CannotApproximate {
                function: format!("{} of layer {}", self.activation, self.layer_idx),
                method: super::Method::OBSERVED.to_owned(),
                reason: "values that reach it are not finite",
            });
        }
        Ok(ObservedLayer {
            layer_idx: self.layer_idx,
            activation: self.activation,
            values,
            min: self.min,
            max: self.max,
            mean,
            deviation: (self.squares / n - mean * mean).max(0.0).sqrt(),
        })
    }
}

impl ObservedLayer {
    /// Position of the activation in the network.
    #[must_use]
    pub fn layer_idx(&self) -> usize {
        self.layer_idx
    }

    /// Name of the activation, such as `relu`.
    #[must_use]
    pub fn activation(&self) -> &'static str {
        self.activation
    }

    /// The values that were kept, ascending.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Smallest and largest value seen.
    #[must_use]
    pub fn range(&self) -> (f64, f64) {
        (self.min, self.max)
    }

    /// Mean of all values.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// Standard deviation of all values.
    #[must_use]
    pub fn deviation(&self) -> f64 {
        self.deviation
    }

    /// The smallest `[−l, l]` with at least the share `coverage` of the values.
    ///
    /// # Errors
    /// - [`Error::InvalidSetting`] unless `coverage` is above 0 and at most 1, or if the values do not
    ///   span an interval.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a position below the number of values"
    )]
    pub fn symmetric_interval(&self, coverage: f64) -> Result<Interval> {
        if !(coverage > 0.0 && coverage <= 1.0) {
            return Err(Error::InvalidSetting {
                setting: "coverage",
                value: coverage,
                requirement: "above 0 and at most 1",
            });
        }
        if coverage == 1.0 {
            return Interval::symmetric(self.max.abs().max(self.min.abs()));
        }
        let mut magnitudes: Vec<f32> = self.values.iter().map(|v| v.abs()).collect();
        let position = (coverage * magnitudes.len() as f64).ceil() as usize;
        let position = position.clamp(1, magnitudes.len()) - 1;
        let (_, l, _) = magnitudes.select_nth_unstable_by(position, f32::total_cmp);
        Interval::symmetric(f64::from(*l))
    }
}
