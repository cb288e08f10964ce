//! From a trained network with ReLU and the like to one that trains toward polynomials.

use ndarray::{Array1, Array2, Axis};

use crate::approximate::{
    Approximation, FitProblem, Function, Interval, Method, ObservedLayer, observe,
};
use crate::error::{Error, Result};
use crate::layer::{Activation, BatchNorm, Blend, Clamp, Layer, PoolKind};
use crate::network::{Network, Rewriter, Source};
use crate::tensor::{Scalar, spread};

/// How the polynomials are found that a training starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FitChoice {
    /// Least squares on the observed pre-activations.
    Observed,
    /// A method that looks at the interval only.
    Method(Method),
}

/// Whether values after a replaced activation are limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// They may grow as polynomials do.
    None,
    /// A clamp after activation and pool, at the largest value that the replaced function has in the
    /// interval: what the refresh of an encrypted run does anyway.
    Interval,
}

/// What replaces the activations of a network that are no polynomials.
#[derive(Clone, Debug, PartialEq)]
pub struct Polynomialization {
    /// Degree, 1 or 2. Default: 2.
    pub degree: usize,
    /// Share of the observed pre-activations that a layer's interval `[−l, l]` holds, above 0 and at most
    /// 1. Default: 0.999.
    pub coverage: f64,
    /// Default: observed.
    pub fit: FitChoice,
    /// Default: interval.
    pub limit: Limit,
    /// What the polynomials are fitted to. Default: to the function that each replaces.
    pub function: Option<Function>,
}

impl Default for Polynomialization {
    fn default() -> Self {
        Self {
            degree: 2,
            coverage: 0.999,
            fit: FitChoice::Observed,
            limit: Limit::Interval,
            function: None,
        }
    }
}

/// One activation that was replaced.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplacedLayer {
    /// Position of the activation in the new network.
    pub layer_idx: usize,
    /// What reached it.
    pub observed: ObservedLayer,
    /// What was replaced.
    pub replaced: Function,
    /// Where it was fitted.
    pub interval: Interval,
    /// The polynomial that training starts from.
    pub fit: Approximation,
}

/// A network ready for blending.
#[derive(Clone, Debug, PartialEq)]
pub struct Polynomialized {
    /// The network; it still computes what the other computes (limits apart).
    pub network: Network<f32>,
    /// Its replaced activations, in order.
    pub layers: Vec<ReplacedLayer>,
}

/// Samples used at most, spread over the data.
const SAMPLES: usize = 1500;

/// Replace every activation of `network` that is no polynomial by a [`Blend`] of share 0 with a fitted
/// one.
///
/// Quantizers are removed. A batch normalization that changes nothing is inserted between a dense or
/// convolution layer and such an activation that follows it directly, so that training can keep
/// pre-activations where they are. Maximum pools stay; they are no polynomials either. `inputs` are
/// preprocessed, one row per sample; at most 1500, spread over all of
/// them, are used.
///
/// # Errors
/// - [`Error::InvalidSetting`] for a degree other than 1 or 2, a coverage out of range, or a layer whose
///   pre-activations are all 0.
/// - [`Error::NoActivation`] if all activations are polynomials.
/// - [`Error::CannotApproximate`] if the fit does not exist.
/// - Those of [`observe`].
pub fn polynomialize(
    network: &Network<f32>,
    inputs: &Array2<f32>,
    choice: &Polynomialization,
) -> Result<Polynomialized> {
    if !(1..=2).contains(&choice.degree) {
        #[expect(clippy::cast_precision_loss, reason = "only shown in a message")]
        let value = choice.degree as f64;
        return Err(Error::InvalidSetting {
            setting: "degree of the polynomial activations",
            value,
            requirement: "1 or 2: integer networks evaluate quadratics; instead of a higher degree, \
                          leave the activations to the client",
        });
    }
    let inputs = inputs.select(Axis(0), &spread(inputs.nrows(), SAMPLES));
    let prepared = normalized(&without_quantizers(network)?, &inputs)?;
    let observed = observe(&prepared, &inputs)?;
    let mut observed = observed.into_iter().filter(|observed| {
        prepared.layers().get(observed.layer_idx()).and_then(replaceable).is_some()
    });
    let mut replaced = Vec::new();
    let mut rewriter = Rewriter::new(prepared.input_shape().clone());
    // Limits that wait at a value for the pools behind it, as in an encrypted run.
    let mut waiting: Vec<Option<f64>> = vec![None; prepared.layers().len() + 1];
    let taken = |waiting: &mut Vec<Option<f64>>, source: Source| {
        waiting.get_mut(source.value_idx()).and_then(Option::take)
    };
    for (idx, layer) in prepared.layers().iter().enumerate() {
        let sources = prepared.sources(idx);
        let mut limit = None;
        let function = replaceable(layer);
        if function.is_none() {
            rewriter.keep(layer.clone(), sources)?;
            limit = sources.iter().find_map(|&source| taken(&mut waiting, source));
        } else if let (Some(function), Some(observed)) = (function, observed.next()) {
            let channels = prepared.layer_input_shape(idx)?.channels();
            let place = (rewriter.n_layers(), channels);
            let (blend, entry) = replace(function, observed, place, choice)?;
            limit = (choice.limit == Limit::Interval)
                .then(|| entry.replaced.largest_on(entry.interval));
            rewriter.keep(Layer::Activation(Activation::Blend(blend)), sources)?;
            replaced.push(entry);
        }
        let Some(limit) = limit else { continue };
        match prepared.sole_reader(Source::Layer(idx)) {
            Some(Layer::Clamp(_)) => {}
            Some(Layer::Pool2d(_)) => {
                if let Some(slot) = waiting.get_mut(idx + 1) {
                    *slot = Some(limit);
                }
            }
            _ => rewriter
                .insert(Layer::Clamp(Clamp { limit: f32::from_f64(limit * gain(layer)) }))?,
        }
    }
    if replaced.is_empty() {
        return Err(Error::NoActivation { what: "activation but polynomials" });
    }
    Ok(Polynomialized { network: rewriter.finish()?, layers: replaced })
}

/// The network with every blend replaced by its polynomial, whatever its share.
///
/// # Errors
/// - [`Error::ParameterValue`] never for a network that was trained; it is passed on from the checks.
pub fn finish_blending(network: &Network<f32>) -> Result<Network<f32>> {
    network.filter_map_layers(|_, layer| {
        Some(if let Layer::Activation(Activation::Blend(Blend { a, b, c, .. })) = layer {
            let (a, b, c) = (a.clone(), b.clone(), c.clone());
            Layer::Activation(Activation::Polynomial { a, b, c })
        } else {
            layer.clone()
        })
    })
}

/// The function of an activation that is no polynomial.
fn replaceable(layer: &Layer<f32>) -> Option<Function> {
    let Layer::Activation(activation) = layer else { return None };
    activation.as_function()
}

/// The blend for one activation.
fn replace(
    function: Function,
    observed: ObservedLayer,
    (layer_idx, n_channels): (usize, usize),
    choice: &Polynomialization,
) -> Result<(Blend<f32>, ReplacedLayer)> {
    let interval = observed.symmetric_interval(choice.coverage)?;
    let fitted = choice.function.as_ref().unwrap_or(&function).clone();
    let problem = FitProblem::new(fitted, interval, choice.degree)?;
    let fit = match choice.fit {
        FitChoice::Observed => problem.solve_observed(observed.values())?,
        FitChoice::Method(method) => problem.solve(method)?,
    };
    let powers = fit.polynomial.monomials();
    let constant = |power: usize| {
        let value = powers.get(power).copied().unwrap_or(0.0);
        Array1::from_elem(n_channels, f32::from_f64(value))
    };
    let blend = Blend {
        share: 0.0,
        low: f32::from_f64(interval.low()),
        high: f32::from_f64(interval.high()),
        a: constant(2),
        b: constant(1),
        c: constant(0),
        function: function.clone(),
    };
    Ok((blend, ReplacedLayer { layer_idx, observed, replaced: function, interval, fit }))
}

/// How much a sum pool multiplies the largest value.
#[expect(clippy::cast_precision_loss, reason = "a window size")]
fn gain(layer: &Layer<f32>) -> f64 {
    if let Layer::Pool2d(pool) = layer
        && pool.kind == PoolKind::Sum
    {
        return (pool.window.0 * pool.window.1) as f64;
    }
    1.0
}

fn without_quantizers(network: &Network<f32>) -> Result<Network<f32>> {
    network.filter_map_layers(|_, layer| {
        let mut layer = layer.clone();
        if let Layer::Dense(dense) = &mut layer {
            dense.weight_quantizer = None;
        } else if let Layer::Conv2d(conv) = &mut layer {
            conv.weight_quantizer = None;
        }
        (!matches!(layer, Layer::Quantize(_))).then_some(layer)
    })
}

/// Insert a batch normalization wherever an activation to be replaced directly follows a linear layer,
/// or a sum of such, that nothing else reads: there it can be folded.
fn normalized(network: &Network<f32>, inputs: &Array2<f32>) -> Result<Network<f32>> {
    let mut rewriter = Rewriter::new(network.input_shape().clone());
    for (idx, layer) in network.layers().iter().enumerate() {
        let sources = network.sources(idx);
        let is_replaced = replaceable(layer).is_some();
        if let Some(&source) = sources.first().filter(|_| is_replaced)
            && network.is_sum_of_linear(source)
        {
            let so_far = rewriter.upto(source)?;
            let values = so_far.outputs(inputs)?;
            let norm = identity(so_far.output_shape().channels(), &values);
            rewriter.insert_at(source, Layer::BatchNorm(norm))?;
        }
        rewriter.keep(layer.clone(), sources)?;
    }
    rewriter.finish()
}

/// The batch normalization with the statistics of `values` that changes nothing outside training:
/// `γ = √(σ² + ε)`, `β = μ`.
fn identity(n_channels: usize, values: &Array2<f32>) -> BatchNorm<f32> {
    let mut norm = BatchNorm::new(n_channels, 1.0, 0.0);
    let n_rows = (values.len() / n_channels.max(1)).max(1);
    let mean_of = |term: &dyn Fn(usize, f64) -> f64| -> Vec<f64> {
        let mut sums = vec![0.0; n_channels];
        for (&value, channel) in values.iter().zip((0..n_channels).cycle()) {
            if let Some(sum) = sums.get_mut(channel) {
                *sum += term(channel, f64::from(value));
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a count")]
        let n_rows = n_rows as f64;
        sums.into_iter().map(|sum| sum / n_rows).collect()
    };
    let means = mean_of(&|_, value| value);
    let mean = |channel: usize| means.get(channel).copied().unwrap_or(0.0);
    let variances = mean_of(&|channel, value| (value - mean(channel)).powi(2));
    let epsilon = f64::from(norm.epsilon);
    norm.gamma = variances.iter().map(|v| f32::from_f64((v + epsilon).sqrt())).collect();
    norm.beta = means.iter().map(|&mean| f32::from_f64(mean)).collect();
    norm.running_mean = norm.beta.clone();
    norm.running_variance = variances.iter().map(|&v| f32::from_f64(v)).collect();
    norm
}
