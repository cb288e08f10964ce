//! Small integer networks of every kind of stage, and plans for them.
//!
//! Numbers come from a seed, so a model is a function of its name and seed. Refresh multipliers are
//! taken from the proven ranges such that refreshed values use the whole grid, with some clamped at
//! its upper end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use fingerprint::LayoutOptions;
use nn_poly::Shape;
use nn_poly::import::{Preprocessing, SplitSpec};
use nn_poly::integer::{
    ActivationKind, ConvGeometry, Grouping, InputGrid, IntegerMatrix, IntegerNetwork,
    LinearGeometry, LookupTable, Pool, Quadratic, Reduction, Refresh, StageOutput, StageStructure,
    StageWeights, StepFunction, SumGeometry, SumTerm, ValueRef, Volume,
};
use nn_poly::layer::Padding;
use nn_poly::plan::{ActivationSide, ModelFacts, Plan, PlanOptions, Trust, compile};
use protocol::session::{ClientPlan, SessionOptions};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Largest refreshed value, unless a model says otherwise.
const GRID_MAX: i32 = 15;

/// One stage of a [`TinyModel`].
#[derive(Debug, Clone)]
pub struct TinyStage {
    /// What it reads.
    pub sources: Vec<ValueRef>,
    /// Its linear map.
    pub linear: LinearGeometry,
    /// Its activation.
    pub activation: Activation,
    /// Window and stride of its pool.
    pub pool: Option<(usize, usize)>,
    /// Whether the pool takes maxima, with padding, instead of sums: at the client only.
    pub maxima: bool,
}

/// An activation with the numbers that go with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// None.
    Identity,
    /// `z²`.
    Square,
    /// `a z² + b z + c` with coefficients per channel, some negative.
    Quadratic,
    /// `max(z, 0)`: at the client only.
    Relu,
    /// A table per channel that rises and falls: at the client only.
    Table,
}

impl Activation {
    fn kind(self, n_channels: usize) -> ActivationKind {
        match self {
            Self::Identity => ActivationKind::Identity,
            Self::Square | Self::Quadratic => ActivationKind::Quadratic,
            Self::Relu => ActivationKind::Relu,
            Self::Table => ActivationKind::Table(table(n_channels)),
        }
    }

    fn coefficients(self, n_channels: usize) -> Option<Quadratic> {
        match self {
            Self::Identity | Self::Relu | Self::Table => None,
            Self::Square => Some(Quadratic::square()),
            Self::Quadratic => Some(Quadratic {
                a: (0..n_channels).map(|c| if c % 3 == 1 { -2 } else { 1 }).collect(),
                b: (0..n_channels).map(|c| c as i64 - 1).collect(),
                c: (0..n_channels).map(|c| 11 - 5 * c as i64).collect(),
            }),
        }
    }
}

/// A network of a few neurons.
#[derive(Debug, Clone)]
pub struct TinyModel {
    /// For messages.
    pub name: String,
    /// Shape of one sample.
    pub input: Volume,
    /// The stages.
    pub stages: Vec<TinyStage>,
    /// Largest weight magnitude.
    pub max_weight: i16,
    /// Largest refreshed value.
    pub grid_max: i32,
    /// Seed of all numbers.
    pub seed: u64,
}

fn dense(n_in: usize, n_out: usize) -> LinearGeometry {
    LinearGeometry::Dense { n_in, n_out }
}

fn stage(linear: LinearGeometry, activation: Activation, sources: Vec<ValueRef>) -> TinyStage {
    TinyStage { sources, linear, activation, pool: None, maxima: false }
}

fn previous(stage: u32) -> Vec<ValueRef> {
    vec![if stage == 0 { ValueRef::Input } else { ValueRef::Stage(stage - 1) }]
}

impl TinyModel {
    /// A padded convolution, square, sum pool, then a dense layer.
    #[must_use]
    pub fn conv_pool_square() -> Self {
        let input = Volume { height: 6, width: 6, channels: 1 };
        let conv = ConvGeometry {
            input,
            kernel: (3, 3),
            stride: (1, 1),
            padding: Padding { top: 1, bottom: 0, left: 1, right: 0 },
            out_channels: 3,
            grouping: Grouping::Full,
        };
        let first = TinyStage {
            pool: Some((2, 2)),
            ..stage(LinearGeometry::Conv2d(conv), Activation::Square, previous(0))
        };
        let pooled = pool_of(conv.output(), (2, 2), false).output().len();
        let second = stage(dense(pooled, 4), Activation::Identity, previous(1));
        Self::new("conv-pool-square", input, vec![first, second], 7, 1)
    }

    /// Three dense layers with a square and a general quadratic between them.
    #[must_use]
    pub fn dense_quadratic() -> Self {
        let stages = vec![
            stage(dense(12, 7), Activation::Square, previous(0)),
            stage(dense(7, 5), Activation::Quadratic, previous(1)),
            stage(dense(5, 3), Activation::Identity, previous(2)),
        ];
        Self::new("dense-quadratic", Volume::vector(12), stages, 7, 2)
    }

    /// Two dense layers with a square and a fine grid between them: one unit more or less of a refreshed
    /// value moves no label.
    #[must_use]
    pub fn fine_grid() -> Self {
        let stages = vec![
            stage(dense(12, 7), Activation::Square, previous(0)),
            stage(dense(7, 3), Activation::Identity, previous(1)),
        ];
        let model = Self::new("fine-grid", Volume::vector(12), stages, 7, 2);
        Self { grid_max: 4095, ..model }
    }

    /// Two dense layers with a square between them, of so many neurons.
    #[must_use]
    pub fn wide_dense(n_in: usize, n_hidden: usize) -> Self {
        let stages = vec![
            stage(dense(n_in, n_hidden), Activation::Square, previous(0)),
            stage(dense(n_hidden, 3), Activation::Identity, previous(1)),
        ];
        Self::new("wide-dense", Volume::vector(n_in), stages, 1, 2)
    }

    /// A single linear layer: one segment, the same for both activation sides.
    #[must_use]
    pub fn dense_only() -> Self {
        let stages = vec![stage(dense(10, 6), Activation::Identity, previous(0))];
        Self::new("dense-only", Volume::vector(10), stages, 7, 3)
    }

    /// A strided convolution of two channels, ReLU, then a dense layer: activation at the client.
    #[must_use]
    pub fn conv_relu() -> Self {
        let input = Volume { height: 5, width: 5, channels: 2 };
        let conv = ConvGeometry {
            input,
            kernel: (3, 2),
            stride: (2, 2),
            padding: Padding { top: 0, bottom: 1, left: 0, right: 1 },
            out_channels: 4,
            grouping: Grouping::Full,
        };
        let n_hidden = conv.output().len();
        let stages = vec![
            stage(LinearGeometry::Conv2d(conv), Activation::Relu, previous(0)),
            stage(dense(n_hidden, 3), Activation::Identity, previous(1)),
        ];
        Self::new("conv-relu", input, stages, 15, 4)
    }

    /// A convolution, a table per channel, maxima of padded windows, then a dense layer with a table and
    /// another one: what only a client evaluates.
    #[must_use]
    pub fn conv_table_maxima() -> Self {
        let input = Volume { height: 5, width: 4, channels: 1 };
        let conv = ConvGeometry {
            input,
            kernel: (2, 2),
            stride: (1, 1),
            padding: Padding { top: 0, bottom: 1, left: 1, right: 0 },
            out_channels: 3,
            grouping: Grouping::Full,
        };
        let first = TinyStage {
            pool: Some((3, 2)),
            maxima: true,
            ..stage(LinearGeometry::Conv2d(conv), Activation::Table, previous(0))
        };
        let pooled = pool_of(conv.output(), (3, 2), true).output().len();
        let stages = vec![
            first,
            stage(dense(pooled, 6), Activation::Table, previous(1)),
            stage(dense(6, 3), Activation::Identity, previous(2)),
        ];
        Self::new("conv-table-maxima", input, stages, 7, 7)
    }

    /// A depthwise convolution, a linear stage, and a last stage that reads the input again: slots
    /// and coefficients in one plan, and a segment with two sources.
    #[must_use]
    pub fn depthwise_residual() -> Self {
        let input = Volume { height: 4, width: 4, channels: 2 };
        let conv = |kernel, padding, grouping| ConvGeometry {
            input,
            kernel: (kernel, kernel),
            stride: (1, 1),
            padding: Padding { top: padding, bottom: padding, left: padding, right: padding },
            out_channels: 2,
            grouping,
        };
        let stages = vec![
            stage(
                LinearGeometry::Conv2d(conv(3, 1, Grouping::Depthwise)),
                Activation::Quadratic,
                previous(0),
            ),
            stage(
                LinearGeometry::Conv2d(conv(1, 0, Grouping::Full)),
                Activation::Identity,
                previous(1),
            ),
            stage(dense(64, 3), Activation::Identity, vec![ValueRef::Stage(1), ValueRef::Input]),
        ];
        Self::new("depthwise-residual", input, stages, 3, 5)
    }

    /// A residual block: `square(conv(h) + h + 3·projection(input))`, with an addition in one segment
    /// that reads two values, then a dense layer over joined channels.
    #[must_use]
    pub fn residual_sum() -> Self {
        let input = Volume { height: 4, width: 4, channels: 2 };
        let conv = |kernel, padding, grouping| ConvGeometry {
            input,
            kernel: (kernel, kernel),
            stride: (1, 1),
            padding: Padding { top: padding, bottom: padding, left: padding, right: padding },
            out_channels: 2,
            grouping,
        };
        let n = input.len();
        let term = |first_input, conv| SumTerm { first_input, conv };
        let sum = LinearGeometry::Sum(SumGeometry {
            n_in: 2 * n,
            terms: vec![
                term(0, conv(3, 1, Grouping::Full)),
                term(0, conv(1, 0, Grouping::Depthwise)),
                term(n, conv(1, 0, Grouping::Full)),
            ],
        });
        let on_vector = |first_input| {
            let conv = ConvGeometry {
                input: Volume::vector(n),
                kernel: (1, 1),
                stride: (1, 1),
                padding: Padding::NONE,
                out_channels: 3,
                grouping: Grouping::Full,
            };
            term(first_input, conv)
        };
        let joined = LinearGeometry::Sum(SumGeometry {
            n_in: 2 * n,
            terms: vec![on_vector(0), on_vector(n)],
        });
        let first = LinearGeometry::Conv2d(conv(3, 1, Grouping::Groups(2)));
        let stages = vec![
            stage(first, Activation::Square, previous(0)),
            stage(sum, Activation::Square, vec![ValueRef::Stage(0), ValueRef::Input]),
            stage(joined, Activation::Identity, vec![ValueRef::Stage(1), ValueRef::Stage(0)]),
        ];
        Self::new("residual-sum", input, stages, 3, 6)
    }

    /// Every model above.
    #[must_use]
    pub fn zoo() -> Vec<Self> {
        vec![
            Self::conv_pool_square(),
            Self::dense_quadratic(),
            Self::dense_only(),
            Self::conv_relu(),
            Self::conv_table_maxima(),
            Self::depthwise_residual(),
            Self::residual_sum(),
        ]
    }

    /// A random model of one to three stages: a convolution or a dense layer first, dense layers
    /// after it, any activation (with `client` also those a server has not), perhaps a pool, perhaps a second source.
    #[must_use]
    pub fn random(seed: u64, client: bool) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let rng = &mut rng;
        let input = if rng.random_bool(0.6) {
            let side = rng.random_range(3..=5);
            Volume { height: side, width: side, channels: rng.random_range(1..=2) }
        } else {
            Volume::vector(rng.random_range(1..=16))
        };
        let activation = |rng: &mut StdRng| match rng.random_range(0..if client { 7 } else { 5 }) {
            0 => Activation::Identity,
            1 | 2 => Activation::Square,
            3 | 4 => Activation::Quadratic,
            5 => Activation::Relu,
            _ => Activation::Table,
        };
        let mut stages = Vec::new();
        let mut width = input.len();
        if input.height > 1 {
            let linear = LinearGeometry::Conv2d(random_conv(input, rng));
            let pool = (linear.output().height >= 2 && linear.output().width >= 2)
                .then_some((2, rng.random_range(1..=2)))
                .filter(|_| rng.random());
            let maxima = client && rng.random();
            width = pool.map_or_else(
                || linear.n_outputs(),
                |pool| pool_of(linear.output(), pool, maxima).output().len(),
            );
            stages.push(TinyStage { pool, maxima, ..stage(linear, activation(rng), previous(0)) });
        }
        for position in stages.len() as u32..rng.random_range(stages.len() as u32..=2) {
            let n_out = rng.random_range(1..=6);
            let mut sources = previous(position);
            let mut n_in = width;
            if position > 0 && rng.random_bool(0.3) {
                sources.push(ValueRef::Input);
                n_in += input.len();
            }
            stages.push(stage(dense(n_in, n_out), activation(rng), sources));
            width = n_out;
        }
        let position = stages.len() as u32;
        let last = dense(width, rng.random_range(2..=4));
        stages.push(stage(last, Activation::Identity, previous(position)));
        let max_weight = [1, 7, 31][rng.random_range(0..3)];
        Self::new(&format!("random-{seed}"), input, stages, max_weight, seed)
    }

    fn new(name: &str, input: Volume, stages: Vec<TinyStage>, max_weight: i16, seed: u64) -> Self {
        Self { name: name.to_owned(), input, stages, max_weight, grid_max: GRID_MAX, seed }
    }

    /// The same structure with other numbers.
    #[must_use]
    pub fn with_seed(&self, seed: u64) -> Self {
        Self { seed, ..self.clone() }
    }

    /// Whether the server could evaluate every activation.
    #[must_use]
    pub fn suits(&self, side: ActivationSide) -> bool {
        side == ActivationSide::Client
            || !self.stages.iter().any(|stage| {
                matches!(stage.activation, Activation::Relu | Activation::Table)
                    || (stage.maxima && stage.pool.is_some())
            })
    }

    /// The checked network.
    #[must_use]
    pub fn network(&self) -> IntegerNetwork {
        let mut rng = StdRng::seed_from_u64(self.seed);
        let grid = InputGrid { bits: 4, signed: false, step: 1.0 / 15.0 };
        let n_inputs = self.input.len();
        let (mut structure, mut weights) = (Vec::new(), Vec::new());
        for (position, tiny) in self.stages.iter().enumerate() {
            let out = tiny.linear.output();
            structure.push(StageStructure {
                sources: tiny.sources.clone(),
                linear: tiny.linear.clone(),
                activation: tiny.activation.kind(out.channels),
                pool: tiny.pool.map(|pool| pool_of(out, pool, tiny.maxima)),
                refresh: None,
                chain: None,
            });
            weights.push(self.stage_weights(tiny, &mut rng));
            if position + 1 < self.stages.len() {
                // The prefix is a network of its own: its proven range scales the refresh.
                let prefix =
                    IntegerNetwork::new(grid, n_inputs, structure.clone(), weights.clone())
                        .expect("a tiny model is a network");
                let high = prefix.stage_ranges(position).unwrap().bounds(StageOutput::Pooled).high;
                structure[position].refresh = Some(refresh(high, out.channels, self.grid_max));
            }
        }
        IntegerNetwork::new(grid, n_inputs, structure, weights).expect("a tiny model is a network")
    }

    /// A compiled plan; the more `expected_samples`, the more of them share a coefficient.
    ///
    /// Cost: a search for parameters, once per process for the same arguments.
    #[must_use]
    pub fn plan(&self, side: ActivationSide, expected_samples: u64) -> Plan {
        static COMPILED: Mutex<BTreeMap<String, Plan>> = Mutex::new(BTreeMap::new());
        let key = format!("{self:?}, {side}, {expected_samples}");
        let compiled = || COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plan) = compiled().get(&key) {
            return plan.clone();
        }
        let plan = self.compile(side, expected_samples);
        compiled().insert(key, plan.clone());
        plan
    }

    /// The plan for a client that must not learn the model.
    #[must_use]
    pub fn masked_plan(&self) -> Plan {
        let trust = Trust::Masked;
        self.compile_with(PlanOptions { trust, expected_samples: 100, ..PlanOptions::default() })
    }

    fn compile(&self, side: ActivationSide, expected_samples: u64) -> Plan {
        let activation_side = side;
        self.compile_with(PlanOptions {
            activation_side,
            expected_samples,
            ..PlanOptions::default()
        })
    }

    fn compile_with(&self, options: PlanOptions) -> Plan {
        let network = self.network();
        let Volume { height, width, channels } = self.input;
        let facts = ModelFacts {
            name: self.name.clone(),
            input_shape: Shape::image(height, width, channels).unwrap(),
            preprocessing: Preprocessing::UnitRange,
            split: SplitSpec::default(),
            class_names: (0..network.n_scores()).map(|class| class.to_string()).collect(),
            score_step: 1.0,
        };
        compile(&network, &[], facts, &options).expect("a tiny model has parameters")
    }

    fn stage_weights(&self, tiny: &TinyStage, rng: &mut StdRng) -> StageWeights {
        let max = self.max_weight;
        let n_channels = tiny.linear.n_channels();
        StageWeights {
            weights: (0..tiny.linear.n_weights())
                .map(|i| match i % 11 {
                    0 => max,
                    5 => -max,
                    _ => rng.random_range(-max..=max),
                })
                .collect(),
            bias: (0..n_channels).map(|_| rng.random_range(-40..=40)).collect(),
            quadratic: tiny.activation.coefficients(n_channels),
            chain: Vec::new(),
        }
    }
}

fn pool_of(input: Volume, (window, stride): (usize, usize), maxima: bool) -> Pool {
    let (reduction, padding) = match maxima {
        false => (Reduction::Sum, Padding::NONE),
        true => (Reduction::Max, Padding { top: window - 1, right: 1, ..Padding::NONE }),
    };
    let (window, stride) = ((window, window), (stride, stride));
    Pool { reduction, input, window, stride, padding }
}

/// Values on both sides of the grid, that change next to 0 and far from it.
fn table(n_channels: usize) -> LookupTable {
    let of_channel = |channel: i32| {
        let wide = i64::from(channel);
        let starts = vec![-900, -200 - wide, -60, -5, 0, 1, 30 + wide, 90, 400];
        let values = vec![3, -7, 0, 5 + channel, 2, 40, -11, 25, 60, 31];
        StepFunction::new(starts, values).expect("starts ascend and neighbors differ")
    };
    let n_channels = i32::try_from(n_channels).expect("a tiny model has few channels");
    LookupTable::new((0..n_channels).map(of_channel).collect()).expect("a short table")
}

fn random_conv(input: Volume, rng: &mut StdRng) -> ConvGeometry {
    let kernel = rng.random_range(1..=3);
    let padding = rng.random_range(0..kernel);
    let grouping = if rng.random_bool(0.3) { Grouping::Depthwise } else { Grouping::Full };
    ConvGeometry {
        input,
        kernel: (kernel, rng.random_range(1..=kernel)),
        stride: (rng.random_range(1..=2), rng.random_range(1..=2)),
        padding: Padding { top: padding, bottom: 0, left: 0, right: 0 },
        out_channels: match grouping {
            Grouping::Depthwise | Grouping::Groups(_) => input.channels,
            Grouping::Full => rng.random_range(1..=3),
        },
        grouping,
    }
}

/// Multipliers that take a third of the proven range to the upper end of the grid: some clamping,
/// and different steps per channel.
fn refresh(high: i64, n_channels: usize, grid_max: i32) -> Refresh {
    let shift = 24;
    let full = ((3 * i64::from(grid_max)) << shift) / high.max(1);
    let multipliers = (0..n_channels as i64).map(|c| (full + full * c / 7).max(1)).collect();
    Refresh { multipliers, shift, min: 0, max: grid_max }
}

/// Samples on the plan's grid, one column each: all at the upper end, all at the lower end, then
/// random ones.
#[must_use]
pub fn samples(plan: &Plan, n: usize, seed: u64) -> IntegerMatrix {
    let mut rng = StdRng::seed_from_u64(seed);
    let (min, max) = (plan.public().input.min(), plan.public().input.max());
    IntegerMatrix::from_shape_fn((plan.network().n_inputs(), n), |(_, sample)| match sample {
        0 => max,
        1 => min,
        _ => rng.random_range(min..=max),
    })
}

/// Slot options with so many network canaries, replicas, and at least two random points.
#[must_use]
pub fn session_options(network_canaries: usize, replicas: usize) -> SessionOptions {
    let layout = LayoutOptions { replicas, network_canaries, ..LayoutOptions::default() };
    SessionOptions { layout, ..SessionOptions::default() }
}

/// A plan as its owner uses it, with canaries drawn from random samples.
#[must_use]
pub fn client_plan(plan: &Plan, options: SessionOptions) -> Arc<ClientPlan> {
    let canaries = samples(plan, options.layout.network_canaries, 0xCA7A);
    ClientPlan::new(plan.clone(), options, &canaries).expect("a tiny plan can be used")
}
