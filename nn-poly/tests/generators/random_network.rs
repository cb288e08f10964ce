//! Small random integer networks: graphs of stages with padding, strides, pools, all activations,
//! per-channel refreshes and saturated numbers.
//!
//! A network is a function of one 64-bit seed, so a failing case shrinks to a seed and reproduces.

#![allow(unreachable_pub, reason = "included as a module by several tests")]

use ndarray::Array2;
use nn_poly::integer::{
    ActivationKind, ConvGeometry, Grouping, InputGrid, IntegerMatrix, IntegerNetwork,
    LinearGeometry, LookupTable, Pool, Quadratic, Reduction, Refresh, StageStructure, StageWeights,
    StepFunction, SumGeometry, SumTerm, ValueRef, Volume,
};
use nn_poly::layer::Padding;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// What a generated network may contain.
#[derive(Clone, Copy, Debug)]
pub struct Choices {
    /// ReLU, tables and maximum pools next to what a server evaluates.
    pub client: bool,
    /// Stages that read several earlier ones.
    pub graph: bool,
    /// Weights of at most this magnitude; `i16::MAX` for the widest.
    pub max_weight: i16,
    /// Fewest and most stages.
    pub stages: (usize, usize),
}

impl Choices {
    /// Everything, with 4-bit weights.
    pub const ALL: Self = Self { client: true, graph: true, max_weight: 7, stages: (1, 4) };
}

/// A network and a batch of inputs with values at the ends of the grid.
pub fn random_network(seed: u64, choices: Choices) -> (IntegerNetwork, IntegerMatrix) {
    let mut rng = StdRng::seed_from_u64(seed);
    let rng = &mut rng;
    let bits = rng.random_range(2..=5);
    let input = InputGrid { bits, signed: rng.random(), step: 0.5 };
    let shape = volume(rng);
    let n_stages = rng.random_range(choices.stages.0..=choices.stages.1);
    let (mut structure, mut weights) = (Vec::<StageStructure>::new(), Vec::new());
    for stage in 0..n_stages {
        let is_last = stage + 1 == n_stages;
        let (sources, linear) = if choices.graph && rng.random_bool(0.4) {
            sum(rng, shape, &structure, is_last)
        } else {
            let (sources, read) = sources(rng, choices, shape, &structure);
            (sources, linear(rng, read, is_last))
        };
        let out = linear.output();
        let activation = activation(rng, choices, is_last, out.channels);
        let pool = (rng.random_bool(0.4) && !is_last).then(|| pool(rng, choices, out));
        let refresh = (!is_last).then(|| refresh(rng, out.channels));
        weights.push(stage_weights(rng, &linear, &activation, choices.max_weight));
        structure.push(StageStructure { sources, linear, activation, pool, refresh, chain: None });
    }
    let network = IntegerNetwork::new(input, shape.len(), structure, weights).unwrap();
    let n_samples = rng.random_range(1..=5);
    let inputs = random_inputs(rng, &network, n_samples);
    (network, inputs)
}

/// Inputs of the grid, a third of them at its ends.
pub fn random_inputs(rng: &mut StdRng, network: &IntegerNetwork, n: usize) -> IntegerMatrix {
    let (min, max) = (network.input().min(), network.input().max());
    Array2::from_shape_simple_fn((network.n_inputs(), n), || match rng.random_range(0..6) {
        0 => min,
        1 => max,
        _ => rng.random_range(min..=max),
    })
}

fn volume(rng: &mut StdRng) -> Volume {
    Volume {
        height: rng.random_range(1..=6),
        width: rng.random_range(1..=6),
        channels: rng.random_range(1..=3),
    }
}

/// The sources of the next stage, and the volume they form.
fn sources(
    rng: &mut StdRng,
    choices: Choices,
    input: Volume,
    earlier: &[StageStructure],
) -> (Vec<ValueRef>, Volume) {
    let all = (0..earlier.len())
        .map(|k| (ValueRef::Stage(u32::try_from(k).unwrap()), earlier[k].output()))
        .chain([(ValueRef::Input, input)])
        .collect::<Vec<_>>();
    if choices.graph && rng.random_bool(0.3) {
        let n = rng.random_range(1..=3);
        let picked = (0..n).map(|_| all[rng.random_range(0..all.len())]).collect::<Vec<_>>();
        let n_values = picked.iter().map(|(_, volume)| volume.len()).sum();
        return (picked.iter().map(|&(source, _)| source).collect(), Volume::vector(n_values));
    }
    let (source, volume) = earlier.last().map_or((ValueRef::Input, input), |last| {
        (ValueRef::Stage(u32::try_from(earlier.len() - 1).unwrap()), last.output())
    });
    (vec![source], volume)
}

fn linear(rng: &mut StdRng, input: Volume, is_last: bool) -> LinearGeometry {
    if is_last || rng.random_bool(0.3) {
        return LinearGeometry::Dense { n_in: input.len(), n_out: rng.random_range(1..=4) };
    }
    let kernel =
        (rng.random_range(1..=input.height.min(3)), rng.random_range(1..=input.width.min(3)));
    let mut zeros = |kernel: usize| rng.random_range(0..kernel);
    let padding = Padding {
        top: zeros(kernel.0),
        bottom: zeros(kernel.0),
        left: zeros(kernel.1),
        right: zeros(kernel.1),
    };
    let grouping = match rng.random_range(0..10) {
        0..3 => Grouping::Depthwise,
        3 | 4 => Grouping::Groups(input.channels),
        _ => Grouping::Full,
    };
    let out_channels = match grouping {
        Grouping::Full => rng.random_range(1..=3),
        Grouping::Depthwise => input.channels,
        Grouping::Groups(n) => n * rng.random_range(1..=2),
    };
    let stride = (rng.random_range(1..=3), rng.random_range(1..=3));
    LinearGeometry::Conv2d(ConvGeometry { input, kernel, stride, padding, out_channels, grouping })
}

/// A stage that adds what 1 to 4 convolutions make of the input and of earlier stages: kernels that
/// bring planes of different sizes to one, identities, joined channels, the same value twice.
fn sum(
    rng: &mut StdRng,
    input: Volume,
    earlier: &[StageStructure],
    is_last: bool,
) -> (Vec<ValueRef>, LinearGeometry) {
    let all = (0..earlier.len())
        .map(|k| (ValueRef::Stage(u32::try_from(k).unwrap()), earlier[k].output()))
        .chain([(ValueRef::Input, input)])
        .collect::<Vec<_>>();
    let picked = (0..rng.random_range(1..=4))
        .map(|_| all[rng.random_range(0..all.len())])
        .collect::<Vec<_>>();
    // The smallest plane all can be brought to; a last stage makes scores of whole values.
    let least = |extent: fn(&Volume) -> usize| picked.iter().map(|(_, v)| extent(v)).min().unwrap();
    let (height, width) = if is_last { (1, 1) } else { (least(|v| v.height), least(|v| v.width)) };
    let out_channels = if rng.random() { picked[0].1.channels } else { rng.random_range(1..=4) };
    let mut sources = Vec::<(ValueRef, usize)>::new();
    let mut n_in = 0;
    let mut terms = Vec::new();
    for (source, volume) in picked {
        let known = sources.iter().find(|(known, _)| *known == source).map(|&(_, first)| first);
        let first_input = known.unwrap_or(n_in);
        if known.is_none() {
            sources.push((source, n_in));
            n_in += volume.len();
        }
        let kernel = (volume.height - height + 1, volume.width - width + 1);
        let grouping = match rng.random_range(0..4) {
            0 | 1 if volume.channels == out_channels => Grouping::Depthwise,
            2 if out_channels.is_multiple_of(volume.channels) => Grouping::Groups(volume.channels),
            _ => Grouping::Full,
        };
        // One more row above and kernel row below see the same positions.
        let grown = usize::from(rng.random_bool(0.5));
        let conv = ConvGeometry {
            input: volume,
            kernel: (kernel.0 + grown, kernel.1),
            stride: (1, 1),
            padding: Padding { top: grown, bottom: 0, left: 0, right: 0 },
            out_channels,
            grouping,
        };
        terms.push(SumTerm { first_input, conv });
    }
    let sources = sources.into_iter().map(|(source, _)| source).collect();
    (sources, LinearGeometry::Sum(SumGeometry { n_in, terms }))
}

fn activation(
    rng: &mut StdRng,
    choices: Choices,
    is_last: bool,
    n_channels: usize,
) -> ActivationKind {
    match rng.random_range(0..5) {
        0 => ActivationKind::Identity,
        1 if choices.client => ActivationKind::Relu,
        2 if choices.client => ActivationKind::Table(table(rng, n_channels)),
        _ if is_last => ActivationKind::Identity,
        _ => ActivationKind::Quadratic,
    }
}

/// Step functions that change near 0 and far from it, once per channel or once for all.
fn table(rng: &mut StdRng, n_channels: usize) -> LookupTable {
    let n = if rng.random() { 1 } else { n_channels };
    let functions = (0..n).map(|_| {
        let reach = 1_i64 << rng.random_range(1..=16);
        let mut starts: Vec<i64> =
            (0..rng.random_range(0..40)).map(|_| rng.random_range(-reach..=reach)).collect();
        starts.sort_unstable();
        starts.dedup();
        let mut value = rng.random_range(-40..=40);
        let mut values = vec![value];
        for _ in &starts {
            value += if rng.random() { rng.random_range(1..=9) } else { -rng.random_range(1..=9) };
            values.push(value);
        }
        StepFunction::new(starts, values).unwrap()
    });
    LookupTable::new(functions.collect()).unwrap()
}

fn pool(rng: &mut StdRng, choices: Choices, input: Volume) -> Pool {
    let reduction =
        if choices.client && rng.random_bool(0.4) { Reduction::Max } else { Reduction::Sum };
    let window =
        (rng.random_range(1..=input.height.min(3)), rng.random_range(1..=input.width.min(3)));
    let stride = (rng.random_range(1..=3), rng.random_range(1..=3));
    let mut side = |window: usize| match reduction {
        Reduction::Sum => 0,
        Reduction::Max => rng.random_range(0..window),
    };
    let (top, bottom) = (side(window.0), side(window.0));
    let padding = Padding { top, bottom, left: side(window.1), right: side(window.1) };
    Pool { reduction, input, window, stride, padding }
}

fn refresh(rng: &mut StdRng, n_channels: usize) -> Refresh {
    let n = if rng.random() { 1 } else { n_channels };
    let multipliers = (0..n).map(|_| rng.random_range(-40_000..=40_000)).collect();
    let (min, max) =
        *[(0, 15), (-7, 7), (-31, 31), (3, 5), (0, 1)].get(rng.random_range(0..5)).unwrap();
    Refresh { multipliers, shift: rng.random_range(0..=26), min, max }
}

fn stage_weights(
    rng: &mut StdRng,
    linear: &LinearGeometry,
    activation: &ActivationKind,
    max_weight: i16,
) -> StageWeights {
    let weights = (0..linear.n_weights())
        .map(|_| match rng.random_range(0..6) {
            0 => max_weight,
            1 => -max_weight,
            _ => rng.random_range(-max_weight..=max_weight),
        })
        .collect();
    let n_biases = if rng.random() { linear.n_channels() } else { linear.n_outputs() };
    let bias = (0..n_biases).map(|_| rng.random_range(-500..=500)).collect();
    let n = if rng.random() { 1 } else { linear.n_channels() };
    let quadratic = (*activation == ActivationKind::Quadratic).then(|| {
        if rng.random_bool(0.4) {
            return Quadratic::square();
        }
        Quadratic {
            a: (0..n).map(|_| rng.random_range(-2..=3)).collect(),
            b: (0..n).map(|_| rng.random_range(-60..=60)).collect(),
            c: (0..n).map(|_| rng.random_range(-900..=900)).collect(),
        }
    });
    StageWeights { weights, bias, quadratic, chain: Vec::new() }
}
