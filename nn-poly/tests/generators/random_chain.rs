//! Random networks whose first stage is a chain.

use nn_poly::integer::chain::{Chain, ChainStep, Exponents, StepWeights};
use nn_poly::integer::{
    ActivationKind, ConvGeometry, Grouping, InputGrid, IntegerNetwork, LinearGeometry, Pool,
    Quadratic, Reduction, Refresh, StageOutput, StageStructure, StageWeights, ValueRef, Volume,
};
use nn_poly::layer::Padding;
use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};

/// A convolution, further dense steps, the stage's own map, and perhaps a second stage.
#[derive(Debug, Clone)]
pub struct ChainSketch {
    pub size: usize,
    pub channels: usize,
    pub maps: usize,
    pub kernel: usize,
    pub pooled: bool,
    /// Dense steps after the convolution.
    pub more_steps: usize,
    pub hidden: usize,
    pub weight_bits: u32,
    pub ends: StageOutput,
    pub activation: ActivationKind,
    pub is_last: bool,
    pub explicit: bool,
    pub seed: u64,
}

impl ChainSketch {
    /// The network; `None` where its values need more than 120 bits.
    pub fn network(&self) -> Option<IntegerNetwork> {
        let mut rng = StdRng::seed_from_u64(self.seed);
        let conv = ConvGeometry {
            input: Volume { height: self.size, width: self.size, channels: self.channels },
            kernel: (self.kernel, self.kernel),
            stride: (1, 1),
            padding: Padding { top: self.kernel / 2, ..Padding::NONE },
            out_channels: self.maps,
            grouping: Grouping::Full,
        };
        let out = conv.output();
        let pool = (self.pooled && out.height >= 2 && out.width >= 2).then_some(Pool {
            reduction: Reduction::Sum,
            input: out,
            window: (2, 2),
            stride: (1, 1),
            padding: Padding::NONE,
        });
        let exponents = |bias, constant| Exponents { bias, constant };
        let mut steps = vec![ChainStep {
            linear: LinearGeometry::Conv2d(conv),
            pool,
            exponents: exponents(0, 3),
        }];
        for _ in 0..self.more_steps {
            let n_in = steps.last().map_or(0, ChainStep::n_outputs);
            let linear = LinearGeometry::Dense { n_in, n_out: self.hidden };
            steps.push(ChainStep { linear, pool: None, exponents: exponents(5, 9) });
        }
        let n_in = steps.last().map_or(0, ChainStep::n_outputs);
        let refresh = Refresh { multipliers: vec![9], shift: 10, min: -15, max: 15 };
        let mut stage = StageStructure {
            sources: vec![ValueRef::Input],
            linear: LinearGeometry::Dense { n_in, n_out: 3 },
            activation: self.activation.clone(),
            pool: None,
            refresh: (!self.is_last).then_some(refresh),
            chain: Some(Chain { steps, exponents: exponents(6, 0), ends: self.ends, descale: 0 }),
        };
        let limit = (1_i16 << (self.weight_bits - 1)) - 1;
        let linear = |linear: &LinearGeometry, rng: &mut StdRng| -> (Vec<i16>, Vec<i64>) {
            let weight = |i: usize, rng: &mut StdRng| {
                if i.is_multiple_of(7) { limit } else { rng.random_range(-limit..=limit) }
            };
            let weights = (0..linear.n_weights()).map(|i| weight(i, rng)).collect();
            (weights, (0..linear.n_channels()).map(|_| rng.random_range(-50..=50)).collect())
        };
        let quadratic = |n_channels: usize| {
            if self.explicit {
                Quadratic {
                    a: (0..n_channels).map(|c| if c % 2 == 0 { 1 } else { -2 }).collect(),
                    b: (0..n_channels).map(|c| c as i64 - 1).collect(),
                    c: vec![11; n_channels],
                }
            } else {
                Quadratic::square()
            }
        };
        let chain = stage.chain.as_ref().map_or(&[][..], |chain| &chain.steps);
        let of_steps = chain
            .iter()
            .map(|step| {
                let (weights, bias) = linear(&step.linear, &mut rng);
                let quadratic = quadratic(step.linear.n_channels());
                StepWeights { weights, bias, quadratic }
            })
            .collect();
        let (weights, bias) = linear(&stage.linear, &mut rng);
        let has_quadratic = stage.activation == ActivationKind::Quadratic;
        let own = StageWeights {
            weights,
            bias,
            quadratic: has_quadratic.then(|| quadratic(3)),
            chain: of_steps,
        };
        let grid = InputGrid { bits: 3, signed: false, step: 1.0 / 7.0 };
        let n_inputs = self.size * self.size * self.channels;
        // Drop what 40 bits do not hold.
        let undivided = IntegerNetwork::new(
            grid,
            n_inputs,
            vec![StageStructure { refresh: None, ..divided(&stage, 100) }],
            vec![own.clone()],
        );
        let range = undivided.ok()?.stage_ranges(0).unwrap().undivided.unwrap();
        let bits = 128 - range.magnitude().leading_zeros();
        stage = divided(&stage, bits.saturating_sub(30));
        let (mut structure, mut all) = (vec![stage], vec![own]);
        if !self.is_last {
            structure.push(StageStructure {
                sources: vec![ValueRef::Stage(0)],
                linear: LinearGeometry::Dense { n_in: 3, n_out: 2 },
                activation: ActivationKind::Identity,
                pool: None,
                refresh: None,
                chain: None,
            });
            all.push(StageWeights {
                weights: vec![1, -2, 3, -1, 2, 1],
                bias: vec![4, -4],
                quadratic: None,
                chain: Vec::new(),
            });
        }
        Some(IntegerNetwork::new(grid, n_inputs, structure, all).unwrap())
    }
}

/// The stage with another division.
fn divided(stage: &StageStructure, descale: u32) -> StageStructure {
    let chain = stage.chain.clone().map(|chain| Chain { descale, ..chain });
    StageStructure { chain, ..stage.clone() }
}

/// Sketches with at most so many squares in a row at the server.
pub fn chain_sketches(most_squares: usize) -> impl Strategy<Value = ChainSketch> {
    let ending = prop_oneof![
        Just((StageOutput::Pooled, ActivationKind::Quadratic)),
        Just((StageOutput::Linear, ActivationKind::Quadratic)),
        Just((StageOutput::Linear, ActivationKind::Relu)),
        Just((StageOutput::Linear, ActivationKind::Identity)),
    ];
    (
        (2_usize..5, 1_usize..3, 1_usize..4, 1_usize..3, any::<bool>(), 1..=most_squares.min(3)),
        (1_usize..5, 2_u32..5, ending, any::<bool>(), any::<bool>(), any::<u64>()),
    )
        .prop_filter_map(
            "too wide",
            move |((size, channels, maps, kernel, pooled, steps), rest)| {
                let (hidden, weight_bits, (ends, activation), is_last, explicit, seed) = rest;
                let sketch = ChainSketch {
                    size,
                    channels,
                    maps,
                    kernel,
                    pooled,
                    more_steps: steps - 1,
                    hidden,
                    weight_bits,
                    ends,
                    activation,
                    is_last,
                    explicit,
                    seed,
                };
                let n_squares = steps + usize::from(ends == StageOutput::Pooled);
                (n_squares <= most_squares && sketch.network().is_some()).then_some(sketch)
            },
        )
}
