//! Encrypted segments equal the integer network, bit for bit.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    missing_docs,
    reason = "tests"
)]

#[path = "generators/random_network.rs"]
mod random_network;
#[path = "support/segments.rs"]
mod segments;
#[path = "encrypted/streams.rs"]
mod streams;

use ndarray::Array2;
use nn_poly::encrypted::{
    ClientTimes, Error, SegmentContext, SegmentEvaluator, check_reply, decrypt_reply,
    encrypt_block, linear_map, locate_mismatches,
};
use nn_poly::import::{Preprocessing, SplitSpec};
use nn_poly::integer::{
    ActivationKind, ConvGeometry, Grouping, InputGrid, IntegerMatrix, IntegerNetwork,
    LinearGeometry, LookupTable, Pool, Quadratic, Reduction, Refresh, StageStructure, StageWeights,
    StepFunction, ValueRef, Volume,
};
use nn_poly::layer::Padding;
use nn_poly::plan::planner::{PlanGoal, ReferenceRates, Subject, search};
use nn_poly::plan::{
    ActivationSide, Evidence, ModelFacts, Packing, Plan, PlanOptions, RunSize, Trust, compile,
};
use nn_poly::{Shape, encrypted};
use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};
use random_network::{Choices, random_network};
use segments::{evaluate, rows_of};

/// A network of one convolution (optionally depthwise, padded, strided, pooled) and a dense layer.
#[derive(Debug, Clone)]
struct Sketch {
    size: usize,
    channels: usize,
    maps: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
    depthwise: bool,
    pool: Option<Reduction>,
    activation: ActivationKind,
    weight_bits: u32,
    classes: usize,
    seed: u64,
}

impl Sketch {
    fn network(&self) -> IntegerNetwork {
        let mut rng = StdRng::seed_from_u64(self.seed);
        let padding =
            Padding { top: self.padding, bottom: 0, left: self.padding, right: self.padding };
        let conv = ConvGeometry {
            input: Volume { height: self.size, width: self.size, channels: self.channels },
            kernel: (self.kernel, self.kernel),
            stride: (self.stride, self.stride),
            padding,
            out_channels: if self.depthwise { self.channels } else { self.maps },
            grouping: if self.depthwise { Grouping::Depthwise } else { Grouping::Full },
        };
        let out = conv.output();
        let fits = out.height >= 2 && out.width >= 2;
        let (window, stride) = ((2, 2), (2, 2));
        let pool = self.pool.filter(|_| fits);
        let pool = pool.map(|reduction| {
            let padding = match reduction {
                Reduction::Sum => Padding::NONE,
                Reduction::Max => Padding { top: 1, right: 1, ..Padding::NONE },
            };
            Pool { reduction, input: out, window, stride, padding }
        });
        let first = StageStructure {
            sources: vec![ValueRef::Input],
            linear: LinearGeometry::Conv2d(conv),
            activation: self.activation.clone(),
            pool,
            refresh: Some(Refresh { multipliers: vec![37], shift: 11, min: 0, max: 15 }),
            chain: None,
        };
        let n_hidden = first.n_outputs();
        let second = StageStructure {
            sources: vec![ValueRef::Stage(0)],
            linear: LinearGeometry::Dense { n_in: n_hidden, n_out: self.classes },
            activation: ActivationKind::Identity,
            pool: None,
            refresh: None,
            chain: None,
        };
        let limit = (1_i16 << (self.weight_bits - 1)) - 1;
        let mut draw = |structure: &StageStructure, quadratic: Option<Quadratic>| StageWeights {
            weights: (0..structure.linear.n_weights())
                .map(|i| if i % 7 == 0 { limit } else { rng.random_range(-limit..=limit) })
                .collect(),
            bias: (0..structure.linear.n_channels()).map(|_| rng.random_range(-50..=50)).collect(),
            quadratic,
            chain: Vec::new(),
        };
        let channels = first.n_channels();
        let quadratic = (self.activation == ActivationKind::Quadratic).then(|| {
            if self.seed.is_multiple_of(2) {
                Quadratic::square()
            } else {
                Quadratic {
                    a: (0..channels).map(|c| if c % 2 == 0 { 1 } else { -2 }).collect(),
                    b: (0..channels).map(|c| c as i64 - 1).collect(),
                    c: vec![11; channels],
                }
            }
        });
        let weights = vec![draw(&first, quadratic), draw(&second, None)];
        let grid = InputGrid { bits: 4, signed: false, step: 1.0 / 15.0 };
        let n_inputs = self.size * self.size * self.channels;
        IntegerNetwork::new(grid, n_inputs, vec![first, second], weights).unwrap()
    }

    fn facts(&self) -> ModelFacts {
        ModelFacts {
            name: "sketch".into(),
            input_shape: Shape::image(self.size, self.size, self.channels).unwrap(),
            preprocessing: Preprocessing::UnitRange,
            split: SplitSpec::default(),
            class_names: (0..self.classes).map(|c| c.to_string()).collect(),
            score_step: 1.0,
        }
    }

    fn plan(&self, side: ActivationSide, expected_samples: u64) -> Plan {
        let options = PlanOptions {
            activation_side: side,
            trust: Trust::Owner,
            expected_samples,
            ..PlanOptions::default()
        };
        compile(&self.network(), &[], self.facts(), &options).unwrap()
    }

    /// Every plan that the planner compares for a run of so many samples.
    fn alternatives(&self, n_samples: u64) -> Vec<Plan> {
        let network = self.network();
        let subject = Subject { network: &network, observed: &[] };
        let goal = PlanGoal::new(RunSize { n_samples, canaries_per_block: 18, replicas: 1 });
        let found = search(&[subject], &goal, &mut ReferenceRates::new(1)).unwrap();
        found.iter().map(|found| found.compile(&network, self.facts()).unwrap()).collect()
    }
}

/// Samples with every grid value, the extremes first.
fn samples(plan: &Plan, n: usize, seed: u64) -> IntegerMatrix {
    let mut rng = StdRng::seed_from_u64(seed);
    let interval = plan.public().input.interval();
    Array2::from_shape_fn((plan.network().n_inputs(), n), |(_, sample)| match sample {
        0 => interval.high as i32,
        1 => interval.low as i32,
        _ => rng.random_range(interval.low as i32..=interval.high as i32),
    })
}

/// Runs every segment encrypted and compares each decrypted value with the plan's own evaluation.
fn check(plan: &Plan, n_samples: usize, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x5EED);
    let inputs = samples(plan, n_samples, seed);
    let trace = plan.simulate_trace(&inputs).unwrap();
    for (index, segment) in plan.public().segments.iter().enumerate() {
        let stage = segment.stage as usize;
        let (structure, weights) = plan.network().stage(stage).unwrap();
        let stage_inputs = plan.network().gather_inputs(stage, &inputs, &trace.refreshed).unwrap();
        let expected = plan.evaluate_segment(index, &stage_inputs).unwrap();

        let server = SegmentEvaluator::new(index, segment, structure, weights).unwrap();
        let client = SegmentContext::new(index, segment).unwrap();
        let key = client.generate_key(&mut rng).unwrap();
        let map = linear_map(&client, structure, weights).unwrap();
        let check = client.is_linear().then_some((&map, 2));
        let fill = rows_of(&stage_inputs);
        let request = encrypt_block(&client, &key, check, fill, &mut rng).unwrap();
        assert_eq!(request.payload.len() as u64, segment.request_bytes());

        let reply = evaluate(&server, request.seed, &request.payload);
        assert_eq!(reply.len() as u64, segment.reply_bytes());
        let mut times = ClientTimes::default();
        if let Some(check) = request.check {
            assert!(check_reply(&client, check, &reply, &mut times).unwrap());
            let found =
                locate_mismatches(&client, &map, request.seed, &request.payload, &reply).unwrap();
            assert!(found.is_empty());
        }
        decrypt_reply(&client, &key, &reply, &mut times, |output, values| {
            assert_eq!(values[..n_samples], expected.row(output).to_vec()[..], "output {output}");
            Ok::<(), Error>(())
        })
        .unwrap();
    }
}

/// A table that rises and falls, for all channels.
fn wave() -> LookupTable {
    let starts = (-30..30).map(|i| i * 11).collect();
    let values = (0..61).map(|i: i32| (i * 17) % 61 * 7 - 200).collect();
    LookupTable::new(vec![StepFunction::new(starts, values).unwrap()]).unwrap()
}

fn sketches() -> impl Strategy<Value = Sketch> {
    let activation = prop_oneof![
        Just(ActivationKind::Quadratic),
        Just(ActivationKind::Quadratic),
        Just(ActivationKind::Relu),
        Just(ActivationKind::Identity),
        Just(ActivationKind::Table(wave())),
        Just(ActivationKind::Table(wave())),
    ];
    let pool = prop_oneof![
        Just(None),
        Just(Some(Reduction::Sum)),
        Just(Some(Reduction::Sum)),
        Just(Some(Reduction::Max)),
    ];
    (
        (3_usize..7, 1_usize..3, 1_usize..5, 1_usize..4, 1_usize..3, 0_usize..2),
        (any::<bool>(), pool, activation, 2_u32..6, 1_usize..6, any::<u64>()),
    )
        .prop_map(|((size, channels, maps, kernel, stride, padding), rest)| {
            let (depthwise, pool, activation, weight_bits, classes, seed) = rest;
            Sketch {
                size,
                channels,
                maps,
                kernel,
                stride,
                padding: padding.min(kernel - 1),
                depthwise,
                pool,
                activation,
                weight_bits,
                classes,
                seed,
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn random_networks_with_the_activation_at_the_client(sketch in sketches(), many in any::<bool>()) {
        let plan = sketch.plan(ActivationSide::Client, if many { 8192 } else { 100 });
        check(&plan, if many { 2500 } else { 40 }, sketch.seed);
    }

    #[test]
    fn random_networks_with_the_activation_at_the_server(sketch in sketches()) {
        let activation = if sketch.seed.is_multiple_of(3) {
            ActivationKind::Identity
        } else {
            ActivationKind::Quadratic
        };
        let pool = sketch.pool.map(|_| Reduction::Sum);
        let sketch = Sketch { activation, pool, ..sketch };
        let plan = sketch.plan(ActivationSide::Server, 1000);
        check(&plan, 70, sketch.seed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    #[test]
    fn every_alternative_of_the_planner_equals_the_network(
        sketch in sketches(),
        many in any::<bool>(),
    ) {
        let plans = sketch.alternatives(if many { 30_000 } else { 100 });
        let segments = |plan: &Plan| plan.public().segments.clone();
        for (number, plan) in plans.iter().enumerate() {
            check(plan, 20, sketch.seed);
            let earlier = &plans[..number];
            prop_assert!(earlier.iter().all(|other| segments(other) != segments(plan)));
        }
    }
}

/// A plan of a random network with branches; `None` where no parameters prove its ranges.
fn random_plan(seed: u64, side: ActivationSide) -> Option<Plan> {
    let client = side == ActivationSide::Client;
    let choices = Choices { client, max_weight: 5, stages: (3, 6), ..Choices::ALL };
    let (network, _) = random_network(seed, choices);
    let facts = ModelFacts {
        name: "graph".into(),
        input_shape: Shape::vector(network.n_inputs()).unwrap(),
        preprocessing: Preprocessing::UnitRange,
        split: SplitSpec::default(),
        class_names: (0..network.n_scores()).map(|c| c.to_string()).collect(),
        score_step: 1.0,
    };
    let options = PlanOptions {
        activation_side: side,
        trust: Trust::Owner,
        expected_samples: 500,
        ..PlanOptions::default()
    };
    compile(&network, &[], facts, &options).ok()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, ..ProptestConfig::default() })]

    #[test]
    fn random_graphs_with_the_activation_at_the_client(seed in any::<u64>()) {
        let plan = random_plan(seed, ActivationSide::Client).expect("linear segments are narrow");
        check(&plan, 30, seed);
    }

    #[test]
    fn random_graphs_with_the_activation_at_the_server(seed in any::<u64>()) {
        let plan = random_plan(seed, ActivationSide::Server);
        prop_assume!(plan.is_some());
        check(&plan.unwrap(), 30, seed);
    }
}

fn example() -> Sketch {
    Sketch {
        size: 6,
        channels: 1,
        maps: 3,
        kernel: 3,
        stride: 1,
        padding: 1,
        depthwise: false,
        pool: Some(Reduction::Sum),
        activation: ActivationKind::Quadratic,
        weight_bits: 4,
        classes: 4,
        seed: 4,
    }
}

#[test]
fn a_server_refuses_what_it_cannot_evaluate() {
    let sketch = Sketch { pool: Some(Reduction::Max), ..example() };
    let server = example().plan(ActivationSide::Server, 100);
    let network = sketch.network();
    let (structure, weights) = network.stage(0).unwrap();
    let refused = SegmentEvaluator::new(0, &server.public().segments[0], structure, weights);
    let message = refused.unwrap_err().to_string();
    assert!(message.contains("steps that are no polynomials"), "{message}");
}

#[test]
fn many_samples_share_coefficients_and_few_do_not() {
    let packed = |samples| {
        let plan = example().plan(ActivationSide::Client, samples);
        assert!(plan.public().segments.iter().all(|s| s.range.evidence == Evidence::Proven));
        plan.public().segments[0].packing
    };
    let Packing::Coefficients { samples_per_coefficient: one, .. } = packed(10) else { panic!() };
    let Packing::Coefficients { samples_per_coefficient: many, .. } = packed(8192) else {
        panic!()
    };
    assert_eq!(one, 1);
    assert!(many >= 2, "{many}");
}

#[test]
fn any_altered_reply_word_is_noticed_and_located() {
    let plan = example().plan(ActivationSide::Client, 8192);
    let mut rng = StdRng::seed_from_u64(3);
    let segment = &plan.public().segments[0];
    let (structure, weights) = plan.network().stage(0).unwrap();
    let server = SegmentEvaluator::new(0, segment, structure, weights).unwrap();
    let client = SegmentContext::new(0, segment).unwrap();
    let key = client.generate_key(&mut rng).unwrap();
    let map = linear_map(&client, structure, weights).unwrap();
    for case in 0..6_usize {
        let fill = |input: usize, row: &mut [i64]| -> Result<(), Error> {
            row[0] = input as i64 % 16;
            Ok(())
        };
        let request = encrypt_block(&client, &key, Some((&map, 1)), fill, &mut rng).unwrap();
        let mut reply = evaluate(&server, request.seed, &request.payload);
        // A low bit of some byte: stays a residue with overwhelming probability.
        let position = case * (reply.len() / 7);
        reply[position] ^= 1;
        let mut times = ClientTimes::default();
        let Ok(passed) = check_reply(&client, request.check.unwrap(), &reply, &mut times) else {
            continue;
        };
        assert!(!passed, "byte {position}");
        let found =
            locate_mismatches(&client, &map, request.seed, &request.payload, &reply).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].row as usize, position / client.reply_ciphertext_bytes());
        assert_eq!(found[0].differing.iter().sum::<usize>(), 1);
        assert!(found[0].differing[0] == 0 || !found[0].is_constant);
    }
}

#[test]
fn requests_of_the_wrong_length_or_with_large_residues_are_refused() {
    let plan = example().plan(ActivationSide::Server, 100);
    let segment = &plan.public().segments[0];
    let (structure, weights) = plan.network().stage(0).unwrap();
    let server = SegmentEvaluator::new(0, segment, structure, weights).unwrap();
    let n = usize::try_from(segment.request_bytes()).unwrap();
    let receive = |bytes: &[u8]| -> Result<(), Error> {
        let mut receiver = server.receive([1; 32])?;
        receiver.push(bytes)?;
        receiver.finish().map(drop)
    };
    assert!(receive(&vec![0; n]).is_ok());
    assert!(matches!(receive(&vec![0; n - 1]), Err(Error::ByteCount { .. })));
    assert!(matches!(receive(&vec![0; n + 1]), Err(Error::ByteCount { .. })));
    let message = receive(&vec![0xFF; n]).unwrap_err().to_string();
    assert!(message.contains("not below its modulus"), "{message}");
}

#[test]
fn a_plan_with_a_ring_below_128_bits_is_refused() {
    let plan = example().plan(ActivationSide::Client, 100);
    let mut segment = plan.public().segments[0].clone();
    // Two primes congruent to 1 modulo 4096, 77 bits in all: 24 too many for N = 2048.
    segment.ring.ring_degree = 2048;
    segment.ring.moduli = vec![0x3FFF_4001, 0x7FFF_7FFD_6001];
    segment.ring.reply_moduli = 2;
    let message = SegmentContext::new(0, &segment).unwrap_err().to_string();
    assert!(message.contains("at most 53 bits"), "{message}");
    let mut segment = plan.public().segments[0].clone();
    segment.window.modulus *= 2;
    let message = SegmentContext::new(0, &segment).unwrap_err().to_string();
    assert!(message.contains("window"), "{message}");
}

#[test]
fn published_operating_points_get_the_expected_rings() {
    use nn_poly::plan::{PooledSquare, SegmentDemand};
    let demand = SegmentDemand {
        activation: None,
        max_abs_input: 15,
        max_abs_bias: 1116,
        max_l1: 2025.0,
        max_l2: 87.3,
        low: -16291,
        high: 16291,
        evidence: Evidence::Proven,
        n_inputs: 845,
        n_outputs: 100,
        expected_samples: 8192,
    };
    let linear = encrypted::parameters::choose(&demand).unwrap();
    println!("linear: {linear:?}");
    assert_eq!(linear.security_bits, 128);
    let Packing::Coefficients { radix_bits, samples_per_coefficient } = linear.packing else {
        panic!("{:?}", linear.packing)
    };
    assert_eq!(radix_bits, 15);
    assert!(samples_per_coefficient >= 2);
    assert!(linear.noise.margin_bits() >= 0.0);

    let square = SegmentDemand {
        activation: Some(PooledSquare { pool_terms: 1, max_abs_a: 1, max_abs_b: 0 }),
        max_l2: 91.8,
        low: 0,
        high: 330_000_000,
        ..demand
    };
    let square = encrypted::parameters::choose(&square).unwrap();
    println!("square: {square:?}");
    assert_eq!(square.ring.ring_degree, 4096);
    assert!(square.ring.plaintext_modulus >= 330_000_001);
    assert!(square.ring.log2_ciphertext_modulus() < 96.0);
}

#[test]
fn the_noise_of_a_plan_is_recomputed_from_its_weights_and_ring() {
    for side in [ActivationSide::Client, ActivationSide::Server] {
        let plan = example().plan(side, 8192);
        for (index, segment) in plan.public().segments.iter().enumerate() {
            let noise = plan.recompute_noise(index).unwrap();
            assert!(noise.margin_bits() >= 0.0, "{side}, segment {index}: {noise:?}");
            assert!((noise.margin_bits() - segment.noise.margin_bits()).abs() < 1e-9);
        }
    }
}

#[test]
fn a_smaller_modulus_than_the_planner_chose_leaves_no_room_for_the_noise() {
    use nn_poly::plan::{PooledSquare, RingSpec, SegmentDemand};
    let demand = SegmentDemand {
        activation: Some(PooledSquare { pool_terms: 4, max_abs_a: 1, max_abs_b: 0 }),
        max_abs_input: 15,
        max_abs_bias: 1000,
        max_l1: 1304.0,
        max_l2: 73.6,
        low: 0,
        high: 540_000_000,
        evidence: Evidence::Proven,
        n_inputs: 2880,
        n_outputs: 800,
        expected_samples: 8192,
    };
    let chosen = encrypted::parameters::choose(&demand).unwrap();
    let margin = |ring: &RingSpec| {
        encrypted::parameters::forecast_noise(&demand, ring, chosen.packing).margin_bits()
    };
    assert!((margin(&chosen.ring) - chosen.noise.margin_bits()).abs() < 1e-9);
    for limb in 0..chosen.ring.moduli.len() {
        let mut ring = chosen.ring.clone();
        ring.moduli[limb] >>= 2;
        assert!(margin(&ring) < 0.0, "limb {limb}");
    }
}

#[test]
fn plans_of_a_build_with_another_order_of_points_are_refused() {
    let plan = example().plan(ActivationSide::Client, 100);
    let mut segment = plan.public().segments[0].clone();
    segment.ring.params_digest[0] ^= 1;
    let message = SegmentContext::new(0, &segment).unwrap_err().to_string();
    assert!(message.contains("another digest"), "{message}");
}

#[test]
fn convolutions_that_gather_absurdly_many_inputs_are_refused() {
    let plane = Volume { height: 2048, width: 2048, channels: 1 };
    let half = Padding { top: 31, bottom: 32, left: 31, right: 32 };
    let conv = ConvGeometry {
        input: plane,
        kernel: (64, 64),
        stride: (1, 1),
        padding: half,
        out_channels: 1,
        grouping: Grouping::Full,
    };
    let message = LinearGeometry::Conv2d(conv).check(0).unwrap_err().to_string();
    assert!(message.contains("gathered inputs"), "{message}");
}
