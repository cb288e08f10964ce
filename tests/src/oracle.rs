//! The slow, obvious reference: big integers, one neuron and one sample at a time, schoolbook
//! products.
//!
//! Shares no code with what it judges: only the public description of a plan (structures, weights,
//! windows) is read. Loops follow the definitions in the documentation word for word, and nothing
//! can overflow or be rounded.

use nn_poly::integer::chain::Exponents;
use nn_poly::integer::{
    ActivationKind, ConvGeometry, Grouping, IntegerMatrix, LinearGeometry, Pool, Reduction,
    Refresh, ScoreMatrix, StageOutput, StageStructure, StageWeights, ValueRef, Window,
};
use nn_poly::plan::{Plan, Segment};
use num_bigint::BigInt;

/// Every value of one stage for one sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OracleStage {
    /// After the linear map; reduced, if the segment ends here.
    pub linear: Vec<BigInt>,
    /// After activation and pool; reduced, if the segment ends here.
    pub pooled: Vec<BigInt>,
    /// What later stages read; empty on the last stage.
    pub refreshed: Vec<BigInt>,
}

/// Runs one sample through a plan as the protocol does: segment by segment, windows included.
#[must_use]
pub fn run(plan: &Plan, sample: &[i32]) -> Vec<OracleStage> {
    let public = plan.public();
    let segments_of = |stage| &public.segments[public.segments_of(stage).expect("a stage")];
    let ends: Vec<&[Segment]> = (0..public.stages.len()).map(segments_of).collect();
    run_stages(&public.stages, plan.network().weights(), &ends, sample)
}

/// Runs one sample through a network without any reduction.
#[must_use]
pub fn run_unreduced(
    structure: &[StageStructure],
    weights: &[StageWeights],
    sample: &[i32],
) -> Vec<OracleStage> {
    run_stages(structure, weights, &vec![&[][..]; structure.len()], sample)
}

/// The scores of every sample (column) under a plan.
#[must_use]
pub fn scores(plan: &Plan, inputs: &IntegerMatrix) -> ScoreMatrix {
    let columns: Vec<Vec<i64>> = inputs
        .columns()
        .into_iter()
        .map(|column| {
            let stages = run(plan, &column.to_vec());
            narrow(&stages.last().expect("a plan has stages").pooled)
        })
        .collect();
    ScoreMatrix::from_shape_fn((plan.network().n_scores(), inputs.ncols()), |(row, column)| {
        columns[column][row]
    })
}

/// Big integers that are known to fit.
#[must_use]
pub fn narrow(values: &[BigInt]) -> Vec<i64> {
    values.iter().map(|v| i64::try_from(v).expect("scores fit 64 bits")).collect()
}

/// One segment of a plan at one point of `Z_t^n`: residues in `[0, t)`.
#[must_use]
pub fn segment_modular(
    structure: &StageStructure,
    weights: &StageWeights,
    segment: &Segment,
    point: &[u64],
) -> Vec<BigInt> {
    let inputs: Vec<BigInt> = point.iter().map(|&x| BigInt::from(x)).collect();
    let linear = linear_end(structure, weights, inputs);
    let values = if segment.evaluates_activation {
        pooled(structure, &activate(structure, weights, exponents_of(structure), &linear))
    } else {
        linear
    };
    let t = BigInt::from(segment.window.modulus);
    values.iter().map(|v| modulo(v, &t)).collect()
}

fn run_stages(
    structure: &[StageStructure],
    weights: &[StageWeights],
    segments: &[&[Segment]],
    sample: &[i32],
) -> Vec<OracleStage> {
    let sample: Vec<BigInt> = sample.iter().map(|&x| BigInt::from(x)).collect();
    let mut stages: Vec<OracleStage> = Vec::new();
    for ((structure, weights), segments) in structure.iter().zip(weights).zip(segments) {
        let mut inputs = Vec::new();
        for source in &structure.sources {
            match *source {
                ValueRef::Input => inputs.extend(sample.iter().cloned()),
                ValueRef::Stage(earlier) => {
                    inputs.extend(stages[earlier as usize].refreshed.iter().cloned());
                }
            }
        }
        let ends_linear = match (segments.first(), &structure.chain) {
            (Some(segment), _) => !segment.evaluates_activation,
            (None, Some(chain)) => chain.ends == StageOutput::Linear,
            (None, None) => false,
        };
        let mut linear = linear_end(structure, weights, inputs);
        let mut exponents = exponents_of(structure);
        if ends_linear {
            linear = segment_end(structure, segments, &linear);
            // Values are 64-bit integers again, and so are the constants.
            exponents = Exponents::default();
        }
        let mut pooled = pooled(structure, &activate(structure, weights, exponents, &linear));
        if !ends_linear {
            pooled = segment_end(structure, segments, &pooled);
        }
        let refreshed = match &structure.refresh {
            Some(rule) => refresh(rule, structure.linear.n_channels(), &pooled),
            None => Vec::new(),
        };
        stages.push(OracleStage { linear, pooled, refreshed });
    }
    stages
}

/// All steps before the stage's own linear map, and that map.
fn linear_end(
    structure: &StageStructure,
    weights: &StageWeights,
    inputs: Vec<BigInt>,
) -> Vec<BigInt> {
    let mut values = inputs;
    let steps = structure.chain.iter().flat_map(|chain| &chain.steps);
    for (step, numbers) in steps.zip(&weights.chain) {
        let as_stage = StageStructure {
            sources: Vec::new(),
            linear: step.linear.clone(),
            activation: ActivationKind::Quadratic,
            pool: step.pool,
            refresh: None,
            chain: None,
        };
        let numbers = StageWeights {
            weights: numbers.weights.clone(),
            bias: numbers.bias.clone(),
            quadratic: Some(numbers.quadratic.clone()),
            chain: Vec::new(),
        };
        let linear = scaled_linear_map(&as_stage, &numbers, step.exponents, &values);
        values = pooled(&as_stage, &activate(&as_stage, &numbers, step.exponents, &linear));
    }
    scaled_linear_map(structure, weights, exponents_of(structure), &values)
}

fn exponents_of(structure: &StageStructure) -> Exponents {
    structure.chain.as_ref().map_or_else(Exponents::default, |chain| chain.exponents)
}

/// The linear map with biases that count `2^exponents.bias`.
fn scaled_linear_map(
    structure: &StageStructure,
    weights: &StageWeights,
    exponents: Exponents,
    inputs: &[BigInt],
) -> Vec<BigInt> {
    let n_channels = structure.linear.n_channels();
    let unbiased = StageWeights { bias: vec![0; weights.bias.len()], ..weights.clone() };
    let mut outputs = linear_map(structure, &unbiased, inputs);
    for (position, output) in outputs.iter_mut().enumerate() {
        *output += bias(weights, n_channels, position % n_channels, position) << exponents.bias;
    }
    outputs
}

/// What the key holder reads at the end of a segment: reduced, and divided after a chain.
fn segment_end(structure: &StageStructure, segments: &[Segment], values: &[BigInt]) -> Vec<BigInt> {
    let Some(chain) = &structure.chain else {
        let reduced =
            |v| segments.first().map_or_else(|| BigInt::clone(v), |s| reduce(v, &s.window));
        return values.iter().map(reduced).collect();
    };
    let divisor = BigInt::from(1) << chain.descale;
    let half: BigInt = &divisor / 2;
    let modulus: BigInt = segments.iter().map(|s| BigInt::from(s.window.modulus)).product();
    let low = segments.first().and_then(|s| s.chain.as_ref()).map(|part| part.low * &divisor);
    values
        .iter()
        .map(|v| match &low {
            Some(low) => modulo(&(v - low), &modulus) + low,
            None => v.clone(),
        })
        .map(|v| floor_divide(&(v + &half), &divisor))
        .collect()
}

/// `Σ weight · input + bias` for every output neuron.
fn linear_map(
    structure: &StageStructure,
    weights: &StageWeights,
    inputs: &[BigInt],
) -> Vec<BigInt> {
    match &structure.linear {
        LinearGeometry::Dense { n_in, n_out } => (0..*n_out)
            .map(|row| {
                assert_eq!(inputs.len(), *n_in);
                let row_weights = &weights.weights[row * n_in..(row + 1) * n_in];
                let products = row_weights.iter().zip(inputs).map(|(&w, x)| BigInt::from(w) * x);
                products.sum::<BigInt>() + bias(weights, *n_out, row, row)
            })
            .collect(),
        LinearGeometry::Conv2d(conv) => convolution(conv, weights, inputs),
        LinearGeometry::Sum(sum) => {
            // Each term as a convolution of its own with its columns of the weights, and bias once.
            let taps = |conv: &ConvGeometry| conv.kernel.0 * conv.kernel.1 * read_channels(conv);
            let row_len: usize = sum.terms.iter().map(|term| taps(&term.conv)).sum();
            let n_channels = sum.terms[0].conv.out_channels;
            let mut outputs: Vec<BigInt> = Vec::new();
            let mut first = 0;
            for term in &sum.terms {
                let columns = first..first + taps(&term.conv);
                first = columns.end;
                let rows = weights.weights.chunks(row_len);
                let own = StageWeights {
                    weights: rows.flat_map(|row| row[columns.clone()].iter().copied()).collect(),
                    bias: vec![0; n_channels],
                    quadratic: None,
                    chain: Vec::new(),
                };
                let read = &inputs[term.first_input..term.first_input + term.conv.input.len()];
                let part = convolution(&term.conv, &own, read);
                outputs.resize(part.len(), BigInt::ZERO);
                outputs.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
            }
            for (position, output) in outputs.iter_mut().enumerate() {
                *output += bias(weights, n_channels, position % n_channels, position);
            }
            outputs
        }
    }
}

/// Input channels that one output channel reads.
fn read_channels(conv: &ConvGeometry) -> usize {
    match conv.grouping {
        Grouping::Full => conv.input.channels,
        Grouping::Depthwise => 1,
        Grouping::Groups(n) => conv.input.channels / n,
    }
}

/// Every output row, column and channel; every kernel row, column and channel; zero outside.
fn convolution(conv: &ConvGeometry, weights: &StageWeights, inputs: &[BigInt]) -> Vec<BigInt> {
    let (height, width, depth) = (conv.input.height, conv.input.width, conv.input.channels);
    let (kernel_height, kernel_width) = conv.kernel;
    let padding = &conv.padding;
    let out_height = (height + padding.top + padding.bottom - kernel_height) / conv.stride.0 + 1;
    let out_width = (width + padding.left + padding.right - kernel_width) / conv.stride.1 + 1;
    let read_channels = read_channels(conv);
    let mut outputs = Vec::new();
    for row in 0..out_height {
        for column in 0..out_width {
            for channel in 0..conv.out_channels {
                let position = outputs.len();
                let mut sum = bias(weights, conv.out_channels, channel, position);
                for ky in 0..kernel_height {
                    for kx in 0..kernel_width {
                        for c in 0..read_channels {
                            let y = (row * conv.stride.0 + ky) as i64 - padding.top as i64;
                            let x = (column * conv.stride.1 + kx) as i64 - padding.left as i64;
                            if y < 0 || y >= height as i64 || x < 0 || x >= width as i64 {
                                continue;
                            }
                            let read = match conv.grouping {
                                Grouping::Full => c,
                                Grouping::Depthwise => channel,
                                Grouping::Groups(n) => {
                                    channel / (conv.out_channels / n) * read_channels + c
                                }
                            };
                            let input = (y as usize * width + x as usize) * depth + read;
                            let weight = ((channel * kernel_height + ky) * kernel_width + kx)
                                * read_channels
                                + c;
                            sum += BigInt::from(weights.weights[weight]) * &inputs[input];
                        }
                    }
                }
                outputs.push(sum);
            }
        }
    }
    outputs
}

fn bias(weights: &StageWeights, n_channels: usize, channel: usize, position: usize) -> BigInt {
    let index = if weights.bias.len() == n_channels { channel } else { position };
    BigInt::from(weights.bias[index])
}

/// Constants of quadratics count `2^exponents.constant`.
fn activate(
    structure: &StageStructure,
    weights: &StageWeights,
    exponents: Exponents,
    linear: &[BigInt],
) -> Vec<BigInt> {
    let n_channels = structure.linear.n_channels();
    linear
        .iter()
        .enumerate()
        .map(|(position, z)| match &structure.activation {
            ActivationKind::Identity => z.clone(),
            ActivationKind::Relu => z.clone().max(BigInt::ZERO),
            ActivationKind::Quadratic => {
                let numbers = weights.quadratic.as_ref().expect("a quadratic has coefficients");
                let channel = position % n_channels;
                let a = BigInt::from(per_channel(&numbers.a, channel));
                let b = BigInt::from(per_channel(&numbers.b, channel));
                let c = BigInt::from(per_channel(&numbers.c, channel)) << exponents.constant;
                a * z * z + b * z + c
            }
            ActivationKind::Table(table) => {
                let function = match table.channels() {
                    [one] => one,
                    channels => &channels[position % n_channels],
                };
                let begun = function.starts().iter().filter(|start| BigInt::from(**start) <= *z);
                BigInt::from(function.values()[begun.count()])
            }
        })
        .collect()
}

fn pooled(structure: &StageStructure, values: &[BigInt]) -> Vec<BigInt> {
    let Some(Pool { reduction, input, window, stride, padding }) = structure.pool else {
        return values.to_vec();
    };
    let out_height = (input.height + padding.top + padding.bottom - window.0) / stride.0 + 1;
    let out_width = (input.width + padding.left + padding.right - window.1) / stride.1 + 1;
    let mut results = Vec::new();
    for row in 0..out_height {
        for column in 0..out_width {
            for channel in 0..input.channels {
                let mut members = Vec::new();
                for dy in 0..window.0 {
                    for dx in 0..window.1 {
                        let (y, x) = (row * stride.0 + dy, column * stride.1 + dx);
                        let inside = |at: usize, before: usize, n: usize| {
                            at.checked_sub(before).filter(|&at| at < n)
                        };
                        let (Some(y), Some(x)) = (
                            inside(y, padding.top, input.height),
                            inside(x, padding.left, input.width),
                        ) else {
                            continue;
                        };
                        members
                            .push(values[(y * input.width + x) * input.channels + channel].clone());
                    }
                }
                results.push(match reduction {
                    Reduction::Sum => members.into_iter().sum(),
                    Reduction::Max => members.into_iter().max().expect("a window is not empty"),
                });
            }
        }
    }
    results
}

/// `clamp(floor((v·m + 2^(s−1)) / 2^s), min, max)`; nothing is added when `s` is zero.
fn refresh(rule: &Refresh, n_channels: usize, values: &[BigInt]) -> Vec<BigInt> {
    let divisor = BigInt::from(1) << rule.shift;
    // Zero when nothing is dropped.
    let half: BigInt = &divisor / 2;
    values
        .iter()
        .enumerate()
        .map(|(position, v)| {
            let multiplier = per_channel(&rule.multipliers, position % n_channels);
            let scaled: BigInt = v * BigInt::from(multiplier) + &half;
            floor_divide(&scaled, &divisor).clamp(rule.min.into(), rule.max.into())
        })
        .collect()
}

fn per_channel<T: Copy>(values: &[T], channel: usize) -> T {
    if values.len() == 1 { values[0] } else { values[channel] }
}

/// The number congruent to `v` modulo the window's modulus in `[low, low + modulus)`.
fn reduce(v: &BigInt, window: &Window) -> BigInt {
    let low = BigInt::from(window.low);
    modulo(&(v - &low), &BigInt::from(window.modulus)) + low
}

/// `v mod m` in `[0, m)`.
#[must_use]
pub fn modulo(v: &BigInt, m: &BigInt) -> BigInt {
    let remainder = v % m;
    if remainder < BigInt::ZERO { remainder + m } else { remainder }
}

fn floor_divide(v: &BigInt, divisor: &BigInt) -> BigInt {
    (v - modulo(v, divisor)) / divisor
}

/// The product of two polynomials modulo `X^N + 1` and `q`, term by term.
#[must_use]
pub fn negacyclic_product(a: &[BigInt], b: &[BigInt], q: &BigInt) -> Vec<BigInt> {
    assert_eq!(a.len(), b.len());
    let n = a.len();
    let mut product = vec![BigInt::ZERO; n];
    for (i, x) in a.iter().enumerate() {
        for (j, y) in b.iter().enumerate() {
            if i + j < n {
                product[i + j] += x * y;
            } else {
                product[i + j - n] -= x * y;
            }
        }
    }
    product.iter().map(|v| modulo(v, q)).collect()
}

/// The points of the canonical evaluation order: `ψ^(2·bitrev(i) + 1)`, `bitrev` reversing `log2 N`
/// bits.
#[must_use]
pub fn canonical_points(psi: &BigInt, n: usize, q: &BigInt) -> Vec<BigInt> {
    let bits = n.trailing_zeros();
    (0..n as u64)
        .map(|i| {
            let reversed = i.reverse_bits() >> (u64::BITS - bits);
            psi.modpow(&BigInt::from(2 * reversed + 1), q)
        })
        .collect()
}

/// The values of a polynomial at given points, by Horner's rule.
#[must_use]
pub fn evaluate(coefficients: &[BigInt], points: &[BigInt], q: &BigInt) -> Vec<BigInt> {
    points
        .iter()
        .map(|point| {
            coefficients.iter().rev().fold(BigInt::ZERO, |sum, c| modulo(&(sum * point + c), q))
        })
        .collect()
}

/// The coefficients of the polynomial with these values at the canonical points:
/// `N^-1 · Σ_i value_i · point_i^-j`.
#[must_use]
pub fn interpolate(values: &[BigInt], points: &[BigInt], q: &BigInt) -> Vec<BigInt> {
    let invert = |x: &BigInt| x.modinv(q).expect("a unit modulo a prime");
    let n_inverse = invert(&BigInt::from(values.len()));
    let inverses: Vec<BigInt> = points.iter().map(invert).collect();
    (0..values.len())
        .map(|j| {
            let terms = values.iter().zip(&inverses);
            let sum: BigInt =
                terms.map(|(value, point)| value * point.modpow(&BigInt::from(j), q)).sum();
            modulo(&(sum * &n_inverse), q)
        })
        .collect()
}
