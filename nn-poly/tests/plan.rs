//! Plans: the planner's choices, simulation against the definition, forecasts, and hostile bytes.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "tests"
)]

#[path = "plan/files.rs"]
mod files;
#[path = "generators/random_network.rs"]
mod random_network;

use ndarray::{Array2, array};
use nn_poly::import::{Preprocessing, SplitSpec};
use nn_poly::integer::{
    ActivationKind, ConvGeometry, CrtWindow, Grouping, InputGrid, IntegerNetwork, LinearGeometry,
    LookupTable, NonPolynomial, Pool, Quadratic, Reduction, Refresh, StageStructure, StageWeights,
    StepFunction, ValueRef, Volume, Window,
};
use nn_poly::layer::Padding;
use nn_poly::plan::{
    ActivationSide, ChosenParameters, Evidence, ModelFacts, NoiseForecast, Packing, Plan,
    PlanOptions, PublicPlan, PublicPlanSpec, RangePolicy, RingSpec, RunSize, SegmentDemand, Trust,
    compile_with, forecast,
};
use nn_poly::{Error, Shape};
use proptest::prelude::*;
use random_network::{Choices, random_network};

/// Primes congruent to 1 modulo 8192, for a ring of degree 4096.
const KEPT: u64 = 0x3FFF_FFF8_4001;
const DROPPED: u64 = 0x7FFF_7FFD_6001;
/// A prime congruent to 1 modulo 4096, for a ring of degree 2048.
const SINGLE: u64 = 0x3FFF_4001;

#[derive(Debug, thiserror::Error)]
#[error("too wide")]
struct TooWide;

/// Parameters of the right form that promise nothing about noise.
fn choose(demand: &SegmentDemand) -> Result<ChosenParameters, TooWide> {
    let low = demand.low.min(0);
    let width = u64::try_from(i128::from(demand.high.max(0)) - i128::from(low) + 1).unwrap();
    let noise = NoiseForecast { log2_noise_bound: 27.5, log2_capacity: 29.0 };
    if demand.activation.is_some() {
        // The planner checks that t is the window, not that it is prime.
        let modulus = (width | 1).max(3);
        let moduli = vec![KEPT, DROPPED];
        let plaintext_modulus = u128::from(modulus);
        let ring = RingSpec {
            ring_degree: 4096,
            moduli,
            plaintext_modulus,
            reply_moduli: 1,
            special_modulus: None,
            params_digest: [7; 32],
        };
        let window = Window { low, modulus };
        return Ok(ChosenParameters {
            ring,
            packing: Packing::Slots,
            window,
            noise,
            security_bits: 128,
        });
    }
    let radix_bits = (64 - (width - 1).leading_zeros()).max(1);
    let samples_per_coefficient =
        if demand.evidence == Evidence::Proven && demand.expected_samples > 2048 { 2 } else { 1 };
    let ring = RingSpec {
        ring_degree: 2048,
        moduli: vec![SINGLE],
        plaintext_modulus: 1 << (radix_bits * samples_per_coefficient),
        reply_moduli: 1,
        special_modulus: None,
        params_digest: [7; 32],
    };
    let packing = Packing::Coefficients { radix_bits, samples_per_coefficient };
    let window = Window { low, modulus: 1 << radix_bits };
    Ok(ChosenParameters { ring, packing, window, noise, security_bits: 130 })
}

fn facts(network: &IntegerNetwork) -> ModelFacts {
    ModelFacts {
        name: "test".into(),
        input_shape: Shape::vector(network.n_inputs()).unwrap(),
        preprocessing: Preprocessing::UnitRange,
        split: SplitSpec { seed: 1, test_fraction: 0.25 },
        class_names: (0..network.n_scores()).map(|class| format!("class {class}")).collect(),
        score_step: 0.125,
    }
}

fn compiled(network: &IntegerNetwork, activation_side: ActivationSide) -> Plan {
    let options = PlanOptions { activation_side, ..PlanOptions::default() };
    compile_with(network, &[], facts(network), &options, choose).unwrap()
}

/// 2×2 image → 1×1 conv, 2 channels, square, 2×2 sum pool → dense to 3 classes.
fn tiny() -> IntegerNetwork {
    let input = Volume { height: 2, width: 2, channels: 1 };
    let conv = ConvGeometry {
        input,
        kernel: (1, 1),
        stride: (1, 1),
        padding: Padding { top: 0, bottom: 0, left: 0, right: 0 },
        out_channels: 2,
        grouping: Grouping::Full,
    };
    let plane = Volume { channels: 2, ..input };
    let structure = vec![
        StageStructure {
            sources: vec![ValueRef::Input],
            linear: LinearGeometry::Conv2d(conv),
            activation: ActivationKind::Quadratic,
            pool: Some(Pool {
                reduction: Reduction::Sum,
                input: plane,
                window: (2, 2),
                stride: (2, 2),
                padding: Padding::NONE,
            }),
            refresh: Some(Refresh { multipliers: vec![3, 200], shift: 8, min: 0, max: 15 }),
            chain: None,
        },
        StageStructure {
            sources: vec![ValueRef::Stage(0)],
            linear: LinearGeometry::Dense { n_in: 2, n_out: 3 },
            activation: ActivationKind::Identity,
            pool: None,
            refresh: None,
            chain: None,
        },
    ];
    let weights = vec![
        StageWeights {
            weights: vec![3, -2],
            bias: vec![1, 5],
            quadratic: Some(Quadratic::square()),
            chain: Vec::new(),
        },
        StageWeights {
            weights: vec![1, 2, -3, 4, 0, -7],
            bias: vec![0, 9, -9],
            quadratic: None,
            chain: Vec::new(),
        },
    ];
    let grid = InputGrid { bits: 4, signed: false, step: 0.0625 };
    IntegerNetwork::new(grid, 4, structure, weights).unwrap()
}

#[test]
fn the_planner_follows_the_proven_ranges() {
    let server = compiled(&tiny(), ActivationSide::Server);
    let [square, last] = server.public().segments.as_slice() else { panic!("two segments") };
    // Channel 0: z = 3x + 1 in 1..=46, z² in 1..=2116; channel 1: −2x + 5 in −25..=5, z² in 0..=625
    // (no x gives 0: the interval is wider than the values). Four terms.
    assert_eq!((square.range.low, square.range.high), (0, 4 * 2116));
    assert_eq!(square.range.evidence, Evidence::Proven);
    assert_eq!((square.window.low, square.window.modulus), (0, 4 * 2116 + 1));
    assert_eq!((square.n_inputs, square.n_outputs, square.reply_degree()), (4, 2, 2));
    assert_eq!((last.range.low, last.range.high), (-9 - 7 * 15, 9 + 4 * 15));
    assert_eq!((last.n_inputs, last.n_outputs, last.reply_degree()), (2, 3, 1));
    assert_eq!(server.public().security_bits, 128);

    let client = compiled(&tiny(), ActivationSide::Client);
    let first = &client.public().segments[0];
    assert_eq!((first.range.low, first.range.high, first.n_outputs), (-25, 46, 8));
    assert!(!first.evaluates_activation);
    assert_ne!(client.digest(), server.digest());
    assert_eq!(client.private_digest(), server.private_digest());
}

/// The network with another activation and another kind of pool in its first stage.
fn altered(activation: ActivationKind, reduction: Reduction) -> IntegerNetwork {
    let mut structure = tiny().structure().to_vec();
    let mut weights = tiny().weights().to_vec();
    if activation != ActivationKind::Quadratic {
        weights[0].quadratic = None;
    }
    structure[0].activation = activation;
    if let Some(pool) = &mut structure[0].pool {
        pool.reduction = reduction;
    }
    IntegerNetwork::new(*tiny().input(), 4, structure, weights).unwrap()
}

/// A table with another step function for each of two channels.
fn table() -> ActivationKind {
    let first = StepFunction::new(vec![-3, 0, 9], vec![0, -2, 5, 3]).unwrap();
    let second = StepFunction::new(vec![1], vec![4, 11]).unwrap();
    ActivationKind::Table(LookupTable::new(vec![first, second]).unwrap())
}

#[test]
fn what_a_server_cannot_evaluate_is_refused_with_a_reason() {
    let cases = [
        (ActivationKind::Relu, Reduction::Sum, NonPolynomial::Relu, "securedl polynomialize"),
        (table(), Reduction::Sum, NonPolynomial::Table, "securedl polynomialize"),
        (table(), Reduction::Max, NonPolynomial::Table, "securedl polynomialize"),
        (ActivationKind::Quadratic, Reduction::Max, NonPolynomial::MaxPool, "average pools"),
        (ActivationKind::Identity, Reduction::Max, NonPolynomial::MaxPool, "average pools"),
    ];
    for (activation, reduction, expected, advice) in cases {
        let network = altered(activation, reduction);
        let options = PlanOptions::default();
        let error = compile_with(&network, &[], facts(&network), &options, choose).unwrap_err();
        assert!(matches!(error, Error::NotAtServer { stage: 0, step } if step == expected));
        let message = error.to_string();
        for part in ["stage 0", expected.to_string().as_str(), "`--activation client`", advice] {
            assert!(message.contains(part), "{part}: {message}");
        }
        let plan = compiled(&network, ActivationSide::Client);
        assert!(plan.public().segments.iter().all(|segment| !segment.evaluates_activation));
        // Nor does a plan that somebody altered afterwards pass.
        let mut spec = plan.public().spec().clone();
        spec.activation_side = ActivationSide::Server;
        assert!(matches!(PublicPlan::new(spec), Err(Error::NotAtServer { .. })));
    }
}

#[test]
fn calibrated_ranges_are_a_last_resort() {
    let network = tiny();
    let inputs = array![[1, 2], [0, 3], [2, 1], [1, 0]];
    let observed = network.evaluate(&inputs).unwrap().observed;
    // Refuse the proven first segment; 2 × the observed maximum fits.
    let narrow = |demand: &SegmentDemand| match demand.high - demand.low {
        0..4000 => choose(demand),
        _ => Err(TooWide),
    };
    let options = PlanOptions::default();
    let plan = compile_with(&network, &observed, facts(&network), &options, narrow).unwrap();
    let ranges = plan.public().segments.iter().map(|segment| segment.range).collect::<Vec<_>>();
    assert_eq!(ranges[0].evidence, Evidence::Calibrated);
    assert_eq!((ranges[0].low, ranges[0].high), (0, 2 * observed[0].pooled.high));
    assert_eq!(ranges[1].evidence, Evidence::Proven);

    let proven = PlanOptions { ranges: RangePolicy::RequireProven, ..options };
    for (observed, options) in [(observed.as_slice(), proven), (&[], options)] {
        let error =
            compile_with(&network, observed, facts(&network), &options, narrow).unwrap_err();
        let expected = Evidence::Proven;
        assert!(matches!(
            error,
            Error::NoSegmentParameters { segment: 0, evidence, .. } if evidence == expected
        ));
    }
}

#[test]
fn forecasts_are_exact() {
    let plan = compiled(&tiny(), ActivationSide::Server);
    let size = RunSize { n_samples: 8000, canaries_per_block: 96, replicas: 1 };
    let forecast_of = |size| forecast(plan.public(), &size).unwrap();
    let run = forecast_of(size);
    let [square, last] = run.segments.as_slice() else { panic!("two segments") };
    // 46- and 47-bit primes; replies keep the first, three polynomials.
    assert_eq!((square.blocks, square.capacity), (2, 4096));
    assert_eq!(square.bytes_up, 2 * 4 * 4096 * (46 + 47) / 8);
    assert_eq!(square.bytes_down, 2 * 2 * 3 * 4096 * 46 / 8);
    assert_eq!(square.seed_bytes, 2 * 32);
    assert!((square.occupancy - (8000.0 + 192.0) / 8192.0).abs() < 1e-12);
    // 30 bits, two samples per coefficient: 4,096 per block, no canaries.
    assert_eq!((last.blocks, last.capacity), (2, 4096));
    assert_eq!(last.bytes_up, 2 * 2 * 2048 * 30 / 8);
    assert_eq!(last.bytes_down, 2 * 3 * 2 * 2048 * 30 / 8);
    assert_eq!(run.bytes_up, square.bytes_up + last.bytes_up + 4 * 32);
    assert_eq!((run.rounds, run.security_bits, run.all_proven), (2, 128, true));

    let replicated = forecast_of(RunSize { replicas: 3, ..size });
    // 1,333 samples with all three replicas fit into the 4,000 free slots of a block.
    assert_eq!(replicated.segments[0].blocks, 7);
    assert_eq!(replicated.segments[1].blocks, 2);
    let one_more = forecast_of(RunSize { n_samples: 8001, ..size });
    assert_eq!(one_more.segments[0].blocks, 3);
    for impossible in [
        RunSize { n_samples: 0, ..size },
        RunSize { canaries_per_block: 4096, ..size },
        RunSize { replicas: 4001, ..size },
    ] {
        assert!(matches!(forecast(plan.public(), &impossible), Err(Error::OutOfRange { .. })));
    }
}

/// The same plan with windows and ranges so narrow that values wrap.
fn with_narrow_windows(plan: &Plan, bits: u32) -> Result<Plan, Error> {
    let mut spec = plan.public().spec().clone();
    for segment in &mut spec.segments {
        let modulus = 1 << bits;
        segment.window = if segment.window.low < 0 {
            Window::centered(modulus)
        } else {
            Window::from_zero(modulus)
        };
        (segment.range.low, segment.range.high) =
            (segment.window.low / 2, segment.window.high() / 2);
        segment.range.evidence = Evidence::Calibrated;
        segment.ring.plaintext_modulus = u128::from(modulus);
        if let Packing::Coefficients { .. } = segment.packing {
            segment.packing =
                Packing::Coefficients { radix_bits: bits, samples_per_coefficient: 1 };
        }
    }
    Plan::new(PublicPlan::new(spec)?, plan.network().weights().to_vec())
}

fn check_simulation(plan: &Plan, inputs: &Array2<i32>) {
    let simulated = plan.simulate_trace(inputs).unwrap();
    let n_segments = plan.public().segments.len();
    let windows = (0..n_segments)
        .map(|idx| {
            let window = plan.public().segments[idx].window;
            (plan.public().segment_output(idx).unwrap(), CrtWindow::from(window))
        })
        .collect::<Vec<_>>();
    let mut flags = vec![false; inputs.ncols()];
    for (sample, flag) in flags.iter_mut().enumerate() {
        let stages = plan.network().reference(&inputs.column(sample).to_vec(), &windows).unwrap();
        assert_eq!(simulated.scores.column(sample).to_vec(), stages[n_segments - 1].pooled);
        for (idx, stage) in stages.iter().enumerate() {
            let segment = &plan.public().segments[idx];
            let wire = if segment.evaluates_activation { &stage.pooled } else { &stage.linear };
            assert_eq!(wire.len(), segment.n_outputs as usize);
            assert!(wire.iter().all(|&v| segment.window.contains(v)));
            let range = segment.range;
            *flag |= wire.iter().any(|&v| v < range.low || v > range.high);
        }
    }
    assert_eq!(simulated.out_of_range, flags);
    assert_eq!(plan.simulate(inputs).unwrap().scores, simulated.scores);

    // What the key holder does with decrypted values, segment by segment.
    let mut flags = vec![false; inputs.ncols()];
    for idx in 0..n_segments {
        let sources = plan.network().gather_inputs(idx, inputs, &simulated.refreshed).unwrap();
        let wire = plan.evaluate_segment(idx, &sources).unwrap();
        let mut refresher = plan.refresher(idx, inputs.ncols()).unwrap();
        for (output, row) in wire.outer_iter().enumerate() {
            refresher.absorb(output, &row.to_vec()).unwrap();
        }
        let out_of_range = if idx + 1 == n_segments {
            let finished = refresher.finish_scores().unwrap();
            assert_eq!(finished.scores, simulated.scores);
            finished.out_of_range
        } else {
            let finished = refresher.finish().unwrap();
            assert_eq!(finished.values, simulated.refreshed[idx]);
            assert_eq!(finished.n_clamped, simulated.counts[idx].n_clamped);
            finished.out_of_range
        };
        flags.iter_mut().zip(out_of_range).for_each(|(all, one)| *all |= one);
    }
    assert_eq!(simulated.out_of_range, flags);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn simulation_equals_the_definition(seed in any::<u64>(), at_server in any::<bool>()) {
        let choices = Choices { client: !at_server, ..Choices::ALL };
        let (network, inputs) = random_network(seed, choices);
        let side = if at_server { ActivationSide::Server } else { ActivationSide::Client };
        let plan = compiled(&network, side);
        let simulated = plan.simulate(&inputs).unwrap();
        prop_assert_eq!(&simulated.scores, &network.evaluate(&inputs).unwrap().scores);
        prop_assert!(simulated.out_of_range.iter().all(|flag| !flag), "proven ranges hold");
        check_simulation(&plan, &inputs);
        // Windows that are too narrow change the values, and identically everywhere.
        for bits in [3, 6, 10] {
            check_simulation(&with_narrow_windows(&plan, bits).unwrap(), &inputs);
        }
    }

    #[test]
    fn plans_survive_their_encoding(seed in any::<u64>(), at_client in any::<bool>()) {
        let (network, _) = random_network(seed, Choices { client: at_client, ..Choices::ALL });
        let side = if at_client { ActivationSide::Client } else { ActivationSide::Server };
        let plan = compiled(&network, side);
        let bytes = plan.to_bytes().unwrap();
        let decoded = Plan::from_bytes(&bytes).unwrap();
        prop_assert_eq!(decoded.digest(), plan.digest());
        prop_assert_eq!(decoded.to_bytes().unwrap(), bytes);
        let public = PublicPlan::from_bytes(&plan.public().to_bytes().unwrap()).unwrap();
        prop_assert_eq!(&public, plan.public());
        prop_assert_eq!(public.digest(), plan.public_digest());
    }

    #[test]
    fn hostile_plans_never_panic(
        seed in 0_u64..50, at_client in any::<bool>(), edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let (network, _) = random_network(seed, Choices { client: at_client, ..Choices::ALL });
        let side = if at_client { ActivationSide::Client } else { ActivationSide::Server };
        let plan = compiled(&network, side);
        let mut bytes = plan.to_bytes().unwrap();
        for (at, byte) in edits {
            let n = bytes.len() - 32 - 20;
            bytes[20 + at.index(n)] = byte;
        }
        let n = bytes.len() - 32;
        let digest = blake3::hash(&bytes[..n]);
        bytes[n..].copy_from_slice(digest.as_bytes());
        // Accepted or refused, but if accepted it is a plan like any other.
        if let Ok(altered) = Plan::from_bytes(&bytes) {
            let inputs = Array2::from_elem((altered.network().n_inputs(), 1), altered.public().input.min());
            altered.simulate(&inputs).unwrap();
            prop_assert_eq!(altered.to_bytes().unwrap(), bytes);
        }
    }
}

#[test]
fn damaged_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.plan");
    let plan = compiled(&tiny(), ActivationSide::Server);
    plan.save(&path).unwrap();
    assert_eq!(Plan::load(&path).unwrap().digest(), plan.digest());
    let bytes = plan.to_bytes().unwrap();
    for position in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[position] ^= 1;
        assert!(Plan::from_bytes(&flipped).is_err(), "byte {position}");
        assert!(Plan::from_bytes(&bytes[..position]).is_err(), "cut at {position}");
    }
    assert!(PublicPlan::from_bytes(&bytes).is_err(), "another kind of file");
}

type Alteration = fn(&mut PublicPlanSpec);

#[test]
fn inconsistent_public_parts_are_refused() {
    let plan = compiled(&tiny(), ActivationSide::Server);
    let alterations: [(&str, Alteration); 28] = [
        ("no name", |s| s.name.clear()),
        ("class names", |s| drop(s.class_names.pop())),
        ("empty class name", |s| s.class_names[0].clear()),
        ("shape", |s| s.input_shape = Shape::vector(5).unwrap()),
        ("means", |s| {
            let (mean, deviation) = (vec![0.0; 3], vec![1.0; 3]);
            s.preprocessing = Preprocessing::Standardize { mean, deviation, clip: 3.0 };
        }),
        ("split", |s| s.split.test_fraction = f64::NAN),
        ("step", |s| s.input.step = 0.0),
        ("score step", |s| s.score_step = f32::INFINITY),
        ("stage order", |s| s.segments.swap(0, 1)),
        ("segments", |s| drop(s.segments.pop())),
        ("activation", |s| s.segments[0].evaluates_activation = false),
        ("side", |s| s.activation_side = ActivationSide::Client),
        ("inputs", |s| s.segments[0].n_inputs = 5),
        ("outputs", |s| s.segments[1].n_outputs = 2),
        ("degree", |s| s.segments[0].ring.ring_degree = 4095),
        ("no moduli", |s| s.segments[0].ring.moduli.clear()),
        ("equal moduli", |s| s.segments[0].ring.moduli = vec![KEPT, KEPT]),
        ("modulus", |s| s.segments[0].ring.moduli[0] += 1),
        ("reply moduli", |s| s.segments[0].ring.reply_moduli = 3),
        ("plaintext modulus", |s| s.segments[0].ring.plaintext_modulus += 2),
        ("radix", |s| {
            s.segments[1].packing =
                Packing::Coefficients { radix_bits: 9, samples_per_coefficient: 2 };
        }),
        ("no samples", |s| {
            s.segments[1].packing =
                Packing::Coefficients { radix_bits: 8, samples_per_coefficient: 0 };
        }),
        ("shared but calibrated", |s| s.segments[1].range.evidence = Evidence::Calibrated),
        ("coefficients under a square", |s| s.segments[0].packing = s.segments[1].packing),
        ("range outside the window", |s| s.segments[0].range.high = 8465),
        ("window", |s| s.segments[1].window = Window { low: i64::MIN, modulus: u64::MAX }),
        ("noise", |s| s.segments[0].noise.log2_noise_bound = 30.0),
        ("noise is not a number", |s| s.segments[0].noise.log2_capacity = f64::NAN),
    ];
    for (what, alter) in alterations {
        let mut spec = plan.public().spec().clone();
        alter(&mut spec);
        assert!(PublicPlan::new(spec).is_err(), "{what}");
    }
}

#[test]
fn the_two_parts_must_agree() {
    let plan = compiled(&tiny(), ActivationSide::Server);
    let with = |public: &PublicPlan, alter: fn(&mut Vec<StageWeights>)| {
        let mut weights = plan.network().weights().to_vec();
        alter(&mut weights);
        Plan::new(public.clone(), weights)
    };
    let same = with(plan.public(), |_| ()).unwrap();
    assert_eq!(same.digest(), plan.digest());
    // One unit on one weight: another plan, and here one the range no longer covers.
    let smaller = with(plan.public(), |weights| weights[0].weights[0] = 2).unwrap();
    assert_ne!(smaller.digest(), plan.digest());
    assert_eq!(smaller.public_digest(), plan.public_digest());
    let larger = with(plan.public(), |weights| weights[0].weights[0] = 4);
    assert!(matches!(larger, Err(Error::RangeNotProven { segment: 0, .. })));
    let missing = with(plan.public(), |weights| drop(weights.pop()));
    assert!(matches!(missing, Err(Error::OutOfRange { .. })));
    // A window so wide that a square at the client could overflow.
    let client = compiled(&tiny(), ActivationSide::Client);
    let mut spec = client.public().spec().clone();
    let segment = &mut spec.segments[0];
    segment.packing = Packing::Coefficients { radix_bits: 40, samples_per_coefficient: 1 };
    segment.window = Window::centered(1 << 40);
    segment.ring.plaintext_modulus = 1 << 40;
    let public = PublicPlan::new(spec).unwrap();
    assert!(matches!(with(&public, |_| ()), Err(Error::Accumulator { stage: 0, .. })));
}

#[test]
fn raw_features_reach_the_grid() {
    let plan = compiled(&tiny(), ActivationSide::Server);
    let inputs = plan.public().quantize(&array![[0.0, 0.0625, 0.09, 7.0]]).unwrap();
    assert_eq!(inputs, array![[0], [1], [1], [15]]);
    let error = plan.public().quantize(&array![[0.0]]).unwrap_err();
    assert!(matches!(error, Error::ShapeMismatch { .. }));
    assert_eq!(plan.public().trust, Trust::Owner);
}
