//! Batch normalization per channel.

use ndarray::Array1;
use serde::{Deserialize, Serialize};

use super::parallel::{for_each_chunk, map_chunks2, sum_chunks, sum_chunks2, sum_rows};
use super::{FINITE, Fault, NON_NEGATIVE, POSITIVE, cast_array, check_parameter};
use crate::tensor::{Scalar, Shape};

/// `γ (x − μ)/√(σ² + ε) + β` for each channel (last axis).
///
/// In training `μ` and `σ²` are the mean and the biased variance of the batch over samples and
/// positions; otherwise they are the running averages.
///
/// # Source
/// Ioffe and Szegedy 2015.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound = "A: Scalar")]
pub struct BatchNorm<A> {
    /// `γ`.
    pub gamma: Array1<A>,
    /// `β`.
    pub beta: Array1<A>,
    /// Running average of `μ`.
    pub running_mean: Array1<A>,
    /// Running average of the unbiased variance. Not negative.
    pub running_variance: Array1<A>,
    /// `ε`, positive.
    pub epsilon: A,
    /// Weight of the newest batch in the running averages, between 0 and 1.
    pub momentum: A,
}

impl<A: Scalar> BatchNorm<A> {
    /// A fresh layer with constant `γ` and `β`, `ε = 10⁻⁵` and momentum 0.1.
    #[must_use]
    pub fn new(n_channels: usize, gamma: f64, beta: f64) -> Self {
        Self {
            gamma: Array1::from_elem(n_channels, A::from_f64(gamma)),
            beta: Array1::from_elem(n_channels, A::from_f64(beta)),
            running_mean: Array1::zeros(n_channels),
            running_variance: Array1::ones(n_channels),
            epsilon: A::from_f64(1e-5),
            momentum: A::from_f64(0.1),
        }
    }

    /// The layer outside training as `scale · x + offset`, per channel.
    #[must_use]
    pub fn affine(&self) -> (Array1<A>, Array1<A>) {
        let scale: Array1<A> = self
            .gamma
            .iter()
            .zip(&self.running_variance)
            .map(|(&gamma, &variance)| gamma / (variance + self.epsilon).sqrt())
            .collect();
        let offset = &self.beta - &(&self.running_mean * &scale);
        (scale, offset)
    }

    pub(super) fn check(&self, input: &Shape) -> Result<(), Fault> {
        let expected = [input.channels()];
        for (field, values, requirement) in [
            ("gamma", &self.gamma, FINITE),
            ("beta", &self.beta, FINITE),
            ("running_mean", &self.running_mean, FINITE),
            ("running_variance", &self.running_variance, NON_NEGATIVE),
        ] {
            check_parameter(field, (&expected, values.shape()), values, requirement)?;
        }
        check_parameter("epsilon", (&[], &[]), [&self.epsilon], POSITIVE)?;
        let unit: (&str, fn(f64) -> bool) = ("between 0 and 1", |m| (0.0..=1.0).contains(&m));
        check_parameter("momentum", (&[], &[]), [&self.momentum], unit)
    }

    pub(super) fn cast<B: Scalar>(&self) -> BatchNorm<B> {
        BatchNorm {
            gamma: cast_array(&self.gamma),
            beta: cast_array(&self.beta),
            running_mean: cast_array(&self.running_mean),
            running_variance: cast_array(&self.running_variance),
            epsilon: B::from_f64(self.epsilon.as_f64()),
            momentum: B::from_f64(self.momentum.as_f64()),
        }
    }

    /// Move the running averages toward the statistics of one training batch.
    pub(crate) fn absorb(&mut self, statistics: &BatchStatistics<A>) {
        let unbias = statistics.n_rows / (statistics.n_rows - 1.0).max(1.0);
        let momentum = self.momentum;
        let toward = |average: &mut A, value: A| *average += momentum * (value - *average);
        self.running_mean.zip_mut_with(&statistics.mean, |average, &mean| toward(average, mean));
        self.running_variance.zip_mut_with(&statistics.variance, |average, &variance| {
            toward(average, variance * A::from_f64(unbias));
        });
    }

    /// `scale · x + offset` with the given statistics.
    fn normalizer(&self, statistics: &BatchStatistics<A>) -> (Vec<A>, Vec<A>) {
        let scale: Vec<A> = self
            .gamma
            .iter()
            .zip(&statistics.inverse_deviation)
            .map(|(&gamma, &inverse)| gamma * inverse)
            .collect();
        let offset = self
            .beta
            .iter()
            .zip(&statistics.mean)
            .zip(&scale)
            .map(|((&beta, &mean), &scale)| beta - mean * scale)
            .collect();
        (scale, offset)
    }

    pub(crate) fn forward(
        &self,
        statistics: &BatchStatistics<A>,
        input: &[A],
        output: &mut [A],
        sample_len: usize,
    ) {
        let (scale, offset) = self.normalizer(statistics);
        let n_channels = scale.len();
        for_each_chunk((input, sample_len), (output, sample_len), |input, output| {
            let rows = input.chunks_exact(n_channels).zip(output.chunks_exact_mut(n_channels));
            for (input, output) in rows {
                let coefficients = scale.iter().zip(&offset);
                for ((&x, y), (&scale, &offset)) in input.iter().zip(output).zip(coefficients) {
                    *y = x * scale + offset;
                }
            }
        });
    }

    /// Gradients of `gamma` and `beta`, and of the input into `input_gradient`.
    ///
    /// With `x̂ = (x − μ)/√(σ² + ε)`: `dγ = Σ dy·x̂`, `dβ = Σ dy`, and
    /// `dx = γ/√(σ² + ε) · (dy − dβ/n − x̂·dγ/n)` if the statistics are the batch's own, else
    /// `dx = γ/√(σ² + ε) · dy`.
    pub(crate) fn backward(
        &self,
        statistics: &BatchStatistics<A>,
        input: &[A],
        output_gradient: &[A],
        input_gradient: &mut [A],
        sample_len: usize,
    ) -> (Array1<A>, Array1<A>) {
        let n_channels = self.gamma.len();
        let sums = statistics.gradient_sums(input, output_gradient, sample_len);
        let (gamma_sums, beta_sums) = sums.split_at(n_channels);
        let reach = if statistics.depends_on_batch { 1.0 / statistics.n_rows } else { 0.0 };
        // dx = s·dy + u·x + v, with the terms of the formula collected per channel.
        let mut coefficients = Vec::with_capacity(n_channels);
        for (channel, (&gamma_sum, &beta_sum)) in gamma_sums.iter().zip(beta_sums).enumerate() {
            let at = |values: &Array1<A>| values.get(channel).map_or(0.0, |v| v.as_f64());
            let inverse = at(&statistics.inverse_deviation);
            let scale = at(&self.gamma) * inverse;
            let slope = -scale * gamma_sum * reach * inverse;
            let constant = -scale * beta_sum * reach - slope * at(&statistics.mean);
            coefficients.push([scale, slope, constant].map(A::from_f64));
        }
        let len = sample_len;
        map_chunks2(
            (input, len),
            (output_gradient, len),
            (input_gradient, len),
            |input, upstream, gradient| {
                let rows = input
                    .chunks_exact(n_channels)
                    .zip(upstream.chunks_exact(n_channels))
                    .zip(gradient.chunks_exact_mut(n_channels));
                for ((input, upstream), gradient) in rows {
                    let values = input.iter().zip(upstream).zip(gradient).zip(&coefficients);
                    for (((&x, &dy), dx), &[scale, slope, constant]) in values {
                        *dx = scale * dy + slope * x + constant;
                    }
                }
            },
        );
        let to_array = |sums: &[f64]| sums.iter().map(|&sum| A::from_f64(sum)).collect();
        (to_array(gamma_sums), to_array(beta_sums))
    }
}

/// The mean and deviation by which one forward pass normalizes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BatchStatistics<A> {
    mean: Array1<A>,
    /// Biased variance.
    variance: Array1<A>,
    /// `1/√(σ² + ε)`.
    inverse_deviation: Array1<A>,
    /// Number of values per channel.
    n_rows: f64,
    /// Whether mean and deviation are functions of the batch, and so carry gradients.
    depends_on_batch: bool,
}

impl<A: Scalar> BatchStatistics<A> {
    /// The running averages: what is used outside training.
    pub(crate) fn running(norm: &BatchNorm<A>) -> Self {
        let mean = norm.running_mean.clone();
        Self::finish(mean, norm.running_variance.clone(), norm.epsilon, 1.0, false)
    }

    /// `x̂ = (x − μ)/√(σ² + ε)` of one sample.
    pub(crate) fn normalized(&self, input: &[A]) -> Vec<A> {
        let channels = self.mean.iter().zip(&self.inverse_deviation).cycle();
        input.iter().zip(channels).map(|(&x, (&mean, &inverse))| (x - mean) * inverse).collect()
    }

    /// `1/√(σ² + ε)` per channel.
    pub(crate) fn inverse_deviation(&self) -> &Array1<A> {
        &self.inverse_deviation
    }

    /// Statistics of a training batch, in two passes (mean, then centered squares).
    #[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
    pub(crate) fn of_batch(norm: &BatchNorm<A>, input: &[A], sample_len: usize) -> Self {
        let n_channels = norm.gamma.len();
        let n_rows = (input.len() / n_channels) as f64;
        let sums = sum_chunks((input, sample_len), n_channels, |chunk, sums| {
            sum_rows(n_channels, chunk, sums);
        });
        let mean: Array1<A> = sums.iter().map(|sum| A::from_f64(sum / n_rows)).collect();
        let means = mean.to_vec();
        let sums = sum_chunks((input, sample_len), n_channels, |chunk, sums| {
            let mut centered = vec![A::zero(); sample_len];
            for sample in chunk.chunks_exact(sample_len) {
                let rows = sample.chunks_exact(n_channels);
                for (row, squares) in rows.zip(centered.chunks_exact_mut(n_channels)) {
                    for ((&x, square), &mean) in row.iter().zip(squares).zip(&means) {
                        *square = (x - mean) * (x - mean);
                    }
                }
                sum_rows(n_channels, &centered, sums);
            }
        });
        let variance: Array1<A> = sums.iter().map(|sum| A::from_f64(sum / n_rows)).collect();
        Self::finish(mean, variance, norm.epsilon, n_rows, true)
    }

    fn finish(
        mean: Array1<A>,
        variance: Array1<A>,
        epsilon: A,
        n_rows: f64,
        depends_on_batch: bool,
    ) -> Self {
        let inverse_deviation = variance.mapv(|v| (v + epsilon).sqrt().recip());
        Self { mean, variance, inverse_deviation, n_rows, depends_on_batch }
    }

    /// `[Σ dy·x̂ …, Σ dy …]`, one entry per channel each.
    fn gradient_sums(&self, input: &[A], output_gradient: &[A], sample_len: usize) -> Vec<f64> {
        let n_channels = self.mean.len();
        let (mean, inverse) = (self.mean.to_vec(), self.inverse_deviation.to_vec());
        sum_chunks2(input, output_gradient, sample_len, 2 * n_channels, |input, upstream, sums| {
            let (gamma_sums, beta_sums) = sums.split_at_mut(n_channels);
            let mut products = vec![A::zero(); sample_len];
            let samples = input.chunks_exact(sample_len).zip(upstream.chunks_exact(sample_len));
            for (input, upstream) in samples {
                let rows = input
                    .chunks_exact(n_channels)
                    .zip(upstream.chunks_exact(n_channels))
                    .zip(products.chunks_exact_mut(n_channels));
                for ((input, upstream), products) in rows {
                    let values = input.iter().zip(upstream).zip(products);
                    for (((&x, &dy), product), (&mean, &inverse)) in
                        values.zip(mean.iter().zip(&inverse))
                    {
                        *product = dy * (x - mean) * inverse;
                    }
                }
                sum_rows(n_channels, &products, gamma_sums);
                sum_rows(n_channels, upstream, beta_sums);
            }
        })
    }
}
