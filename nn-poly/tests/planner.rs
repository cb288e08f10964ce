//! The planner: best among its alternatives, within its limits, exact in bytes and rounds.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    missing_docs,
    reason = "tests"
)]

#[path = "generators/random_network.rs"]
mod random_network;

use std::time::Duration;

use nn_poly::encrypted::{SegmentEvaluator, SelfTest, parameters, request_memory_bytes};
use nn_poly::import::{Preprocessing, SplitSpec};
use nn_poly::integer::{
    ActivationKind, InputGrid, IntegerNetwork, LinearGeometry, Quadratic, Refresh, StageStructure,
    StageWeights, ValueRef,
};
use nn_poly::plan::planner::{
    Alternative, BlockSeconds, CostSource, Link, Objective, PlanGoal, ReferenceRates, Subject,
    assess, search,
};
use nn_poly::plan::{
    ActivationSide, Evidence, ModelFacts, Packing, PlanOptions, RangePolicy, RunSize, Segment,
    batch_samples, compile, forecast, forecast_run,
};
use nn_poly::{Error, Result, Shape};
use proptest::prelude::*;
use random_network::{Choices, random_network};

fn facts(network: &IntegerNetwork) -> ModelFacts {
    ModelFacts {
        name: "test".into(),
        input_shape: Shape::vector(network.n_inputs()).unwrap(),
        preprocessing: Preprocessing::UnitRange,
        split: SplitSpec::default(),
        class_names: (0..network.n_scores()).map(|class| class.to_string()).collect(),
        score_step: 1.0,
    }
}

fn goal(n_samples: u64) -> PlanGoal {
    PlanGoal::new(RunSize { n_samples, canaries_per_block: 18, replicas: 1 })
}

fn rates() -> ReferenceRates {
    ReferenceRates::new(2)
}

fn found(network: &IntegerNetwork, goal: &PlanGoal) -> Result<Vec<Alternative>> {
    search(&[Subject { network, observed: &[] }], goal, &mut rates())
}

/// Dense layers of these widths, squares between them, weights and activations of four bits.
fn dense_network(widths: &[usize]) -> IntegerNetwork {
    let n_stages = widths.len() - 1;
    let mut structure = Vec::new();
    let mut weights = Vec::new();
    for (stage, pair) in widths.windows(2).enumerate() {
        let is_last = stage + 1 == n_stages;
        let before = stage.checked_sub(1).map(|k| ValueRef::Stage(u32::try_from(k).unwrap()));
        let kind = if is_last { ActivationKind::Identity } else { ActivationKind::Quadratic };
        let refresh = Refresh { multipliers: vec![1], shift: 8, min: 0, max: 15 };
        structure.push(StageStructure {
            sources: vec![before.unwrap_or(ValueRef::Input)],
            linear: LinearGeometry::Dense { n_in: pair[0], n_out: pair[1] },
            activation: kind,
            pool: None,
            refresh: (!is_last).then_some(refresh),
            chain: None,
        });
        let pattern = [3, -7, 1, 0, 5, -2];
        weights.push(StageWeights {
            weights: pattern.into_iter().cycle().take(pair[0] * pair[1]).collect(),
            bias: vec![9; pair[1]],
            quadratic: (!is_last).then(Quadratic::square),
            chain: Vec::new(),
        });
    }
    let grid = InputGrid { bits: 4, signed: false, step: 0.0625 };
    IntegerNetwork::new(grid, widths[0], structure, weights).unwrap()
}

/// What an objective compares.
fn figure(alternative: &Alternative, objective: Objective) -> f64 {
    match objective {
        Objective::Time => alternative.time.total,
        Objective::Bytes => alternative.bytes() as f64,
        Objective::Rounds => f64::from(alternative.forecast.rounds),
    }
}

const OBJECTIVES: [Objective; 3] = [Objective::Time, Objective::Bytes, Objective::Rounds];

#[test]
fn the_first_alternative_is_the_best_for_every_objective() {
    let network = dense_network(&[60, 40, 30, 5]);
    for objective in OBJECTIVES {
        for n_samples in [1, 64, 5000, 40_000] {
            let goal = PlanGoal { objective, ..goal(n_samples) };
            let alternatives = found(&network, &goal).unwrap();
            let figures: Vec<f64> = alternatives.iter().map(|a| figure(a, objective)).collect();
            assert!(figures.is_sorted(), "{objective:?}: {figures:?}");
            let sides: Vec<_> = alternatives.iter().map(|a| a.activation_side).collect();
            assert!(sides.contains(&ActivationSide::Server), "both sides compete");
            assert!(sides.contains(&ActivationSide::Client), "both sides compete");
        }
    }
}

#[test]
fn picking_segment_by_segment_loses_nothing() {
    // Every combination of candidates of two segments, as plans of their own.
    let network = dense_network(&[50, 40, 5]);
    for n_samples in [1, 3000, 30_000] {
        for side in [ActivationSide::Client, ActivationSide::Server] {
            let goal = PlanGoal { activation_side: Some(side), ..goal(n_samples) };
            let best = |objective| {
                let goal = PlanGoal { objective, ..goal };
                figure(&found(&network, &goal).unwrap()[0], objective)
            };
            let (seconds, bytes) = (best(Objective::Time), best(Objective::Bytes));
            let options = PlanOptions {
                activation_side: side,
                expected_samples: n_samples,
                ..PlanOptions::default()
            };
            for numbers in (0..16).map(|number| [number / 4, number % 4]) {
                let segment = std::cell::Cell::new(0);
                let choose = |demand: &nn_poly::plan::SegmentDemand| {
                    let candidates = parameters::candidates(demand)?;
                    let number = numbers[segment.replace(segment.get() + 1)];
                    Ok::<_, nn_poly::encrypted::Error>(
                        candidates[number.min(candidates.len() - 1)].clone(),
                    )
                };
                let plan =
                    nn_poly::plan::compile_with(&network, &[], facts(&network), &options, choose)
                        .unwrap();
                let other = assess(&plan, &goal, &mut rates()).unwrap();
                assert!(seconds <= other.time.total + 1e-12, "{side} {n_samples} {numbers:?}");
                assert!(bytes <= other.bytes() as f64, "{side} {n_samples} {numbers:?}");
            }
        }
    }
}

#[test]
fn the_fewest_bytes_are_those_of_the_plain_compiler() {
    let network = dense_network(&[60, 40, 30, 5]);
    for side in [ActivationSide::Client, ActivationSide::Server] {
        for n_samples in [10, 8192, 100_000] {
            let goal = PlanGoal {
                objective: Objective::Bytes,
                activation_side: Some(side),
                ..goal(n_samples)
            };
            let options = PlanOptions {
                activation_side: side,
                expected_samples: n_samples,
                ..PlanOptions::default()
            };
            let plan = compile(&network, &[], facts(&network), &options).unwrap();
            let best = &found(&network, &goal).unwrap()[0];
            let plain = forecast(plan.public(), &goal.size).unwrap();
            // Which counts no seeds.
            let bytes = plain.bytes_up + plain.bytes_down;
            let seeds = plain.segments.iter().map(|s| s.seed_bytes).sum::<u64>();
            assert!((bytes - seeds..=bytes).contains(&best.bytes()), "{side} {n_samples}");
        }
    }
}

#[test]
fn an_alternative_and_the_plan_made_of_it_cost_the_same() {
    let network = dense_network(&[30, 20, 4]);
    for n_samples in [1, 9000] {
        let goal = goal(n_samples);
        for alternative in found(&network, &goal).unwrap() {
            let plan = alternative.compile(&network, facts(&network)).unwrap();
            assert_eq!(forecast_run(plan.public(), &goal.size).unwrap(), alternative.forecast);
            assert_eq!(assess(&plan, &goal, &mut rates()).unwrap().time, alternative.time);
        }
    }
}

#[test]
fn rounds_are_the_stages_and_fewer_are_refused_with_their_number() {
    let network = dense_network(&[20, 10, 10, 3]);
    for most in [3, 4, 100] {
        let goal = PlanGoal { max_rounds: Some(most), ..goal(100) };
        assert_eq!(found(&network, &goal).unwrap()[0].forecast.rounds, 3);
    }
    for most in [0, 1, 2] {
        let goal = PlanGoal { max_rounds: Some(most), ..goal(100) };
        let error = found(&network, &goal).unwrap_err();
        assert!(matches!(error, Error::RoundLimit { needed: 3, allowed } if allowed == most));
        let allowed =
            if most == 1 { "1 is allowed".to_owned() } else { format!("{most} are allowed") };
        assert!(error.to_string().contains(&format!("3 rounds, and {allowed}")), "{error}");
    }
    let single = dense_network(&[20, 3]);
    let error = found(&single, &PlanGoal { max_rounds: Some(0), ..goal(100) }).unwrap_err();
    assert!(error.to_string().contains("1 round, and 0 are allowed"), "{error}");
}

#[test]
fn memory_is_kept_by_smaller_batches_and_blocks_or_refused() {
    let network = dense_network(&[400, 300, 5]);
    let free = found(&network, &goal(200_000)).unwrap();
    let used = free[0].memory_bytes();
    let mut rounds = free[0].forecast.rounds;
    for share in [2, 5, 10] {
        let limit = used / share;
        let goal = PlanGoal { memory_bytes: Some(limit), ..goal(200_000) };
        let limited = found(&network, &goal).unwrap();
        let best = &limited[0];
        assert!(!best.exceeds_memory && best.memory_bytes() <= limit, "{share}");
        assert!(best.forecast.rounds >= rounds, "smaller batches, more rounds");
        rounds = best.forecast.rounds;
        let plan = best.compile(&network, facts(&network)).unwrap();
        assert_eq!(forecast_run(plan.public(), &goal.size).unwrap(), best.forecast);
    }
    let goal = PlanGoal { memory_bytes: Some(1 << 20), ..goal(200_000) };
    let error = found(&network, &goal).unwrap_err();
    let Error::MemoryLimit { needed, allowed } = error else { panic!("{error}") };
    assert!(allowed == 1 << 20 && needed > allowed);
    // What the error says is needed suffices.
    let enough = PlanGoal { memory_bytes: Some(needed), ..goal };
    assert!(found(&network, &enough).is_ok());
}

#[test]
fn more_memory_never_makes_the_best_worse() {
    let network = dense_network(&[400, 300, 5]);
    for (objective, n_samples) in OBJECTIVES.into_iter().flat_map(|o| [(o, 9000), (o, 50_000)]) {
        let base = PlanGoal { objective, ..goal(n_samples) };
        let used = found(&network, &base).unwrap()[0].memory_bytes();
        let mut last = f64::MAX;
        for twentieths in 1..=21 {
            let goal = PlanGoal { memory_bytes: Some(used / 20 * twentieths), ..base };
            let best = match found(&network, &goal) {
                Err(Error::MemoryLimit { .. }) if last == f64::MAX => continue,
                alternatives => figure(&alternatives.unwrap()[0], objective),
            };
            assert!(best <= last, "{objective:?}, {n_samples}, {twentieths}/20: {best} > {last}");
            last = best;
        }
        assert!(last < f64::MAX);
    }
}

#[test]
fn proven_ranges_are_demanded_preferred_or_given_up() {
    let network = dense_network(&[200, 100, 5]);
    let inputs = ndarray::Array2::from_shape_fn((200, 50), |(i, j)| i32::from((i + j) % 7 == 0));
    let observed = network.evaluate(&inputs).unwrap().observed;
    let subject = Subject { network: &network, observed: &observed };
    let best = |ranges| {
        let goal = PlanGoal {
            ranges,
            objective: Objective::Bytes,
            activation_side: Some(ActivationSide::Server),
            ..goal(5000)
        };
        search(&[subject], &goal, &mut rates()).unwrap().remove(0)
    };
    let (proven, preferred) = (best(RangePolicy::RequireProven), best(RangePolicy::PreferProven));
    assert!(proven.forecast.all_proven && preferred.forecast.all_proven);
    let cheapest = best(RangePolicy::Cheapest);
    assert!(!cheapest.forecast.all_proven && cheapest.bytes() < proven.bytes());
    let options = PlanOptions {
        ranges: RangePolicy::Cheapest,
        expected_samples: 5000,
        ..PlanOptions::default()
    };
    let plan = compile(&network, &observed, facts(&network), &options).unwrap();
    assert_eq!(plan.public().segments, cheapest.segments());
    assert_eq!(plan.public().segments[0].range.evidence, Evidence::Calibrated);
}

#[test]
fn several_subjects_compete() {
    let (large, small) = (dense_network(&[40, 60, 5]), dense_network(&[40, 20, 5]));
    let subjects = [&large, &small].map(|network| Subject { network, observed: &[] });
    let alternatives = search(&subjects, &goal(1000), &mut rates()).unwrap();
    assert_eq!(alternatives[0].subject, 1);
    assert!(alternatives.iter().any(|alternative| alternative.subject == 0));
}

#[test]
fn without_a_network_there_is_no_plan() {
    let error = search(&[], &goal(10), &mut rates()).unwrap_err();
    assert!(matches!(error, Error::NoSamples { what: "the list of networks" }), "{error}");
}

#[test]
fn goals_without_sense_are_refused() {
    let network = dense_network(&[4, 3, 2]);
    let link =
        |bits_per_second, round_trip_seconds| Link::Network { bits_per_second, round_trip_seconds };
    let base = goal(10);
    for wrong in [
        goal(0),
        PlanGoal { link: link(0.0, 0.0), ..base },
        PlanGoal { link: link(f64::NAN, 0.0), ..base },
        PlanGoal { link: link(1e9, -1.0), ..base },
        PlanGoal { link: link(1e9, f64::INFINITY), ..base },
        PlanGoal { server_speed: 0.0, ..base },
    ] {
        let error = found(&network, &wrong).unwrap_err();
        assert!(matches!(error, Error::InvalidSetting { .. } | Error::OutOfRange { .. }));
    }
}

#[test]
fn the_slowest_link_leaves_the_choice_to_the_bytes() {
    let network = dense_network(&[100, 80, 5]);
    for n_samples in [100, 9000] {
        let best = |goal: PlanGoal| found(&network, &goal).unwrap()[0].bytes();
        let fewest = best(PlanGoal { objective: Objective::Bytes, ..goal(n_samples) });
        let mut last = u64::MAX;
        for bits_per_second in [1e13, 1e9, 1e6, 1e3] {
            let link = Link::Network { bits_per_second, round_trip_seconds: 0.0 };
            let bytes = best(PlanGoal { link, ..goal(n_samples) });
            assert!(bytes <= last, "{bits_per_second} bit/s");
            last = bytes;
        }
        assert_eq!(last, fewest);
    }
}

#[test]
fn a_faster_server_and_a_faster_link_take_no_longer() {
    let network = dense_network(&[100, 50, 5]);
    let total = |goal: PlanGoal| found(&network, &goal).unwrap()[0].time.total;
    let base = goal(20_000);
    assert!(total(PlanGoal { server_speed: 4.0, ..base }) <= total(base));
    let link = Link::Network { bits_per_second: 1e7, round_trip_seconds: 0.05 };
    assert!(total(base) < total(PlanGoal { link, ..base }));
}

#[test]
fn batches_are_whole_blocks_and_hold_what_is_expected() {
    for (expected, block, samples) in [
        (8192, 4078, 12_234),
        (8192, 4096, 8192),
        (1, 2048, 2048),
        (0, 2048, 2048),
        (u64::MAX, 4096, 1 << 20),
        (10, 0, 10),
    ] {
        assert_eq!(batch_samples(expected, block), samples, "{expected} in blocks of {block}");
    }
}

/// What the self-test finds is of the size of what the same work takes.
#[test]
fn the_self_test_answers_for_every_kind_of_segment() {
    let mut test = SelfTest::new(Duration::ZERO);
    for seed in 0..12 {
        let (network, _) = random_network(seed, Choices::ALL);
        let alternatives =
            search(&[Subject { network: &network, observed: &[] }], &goal(100), &mut test);
        let alternatives = match alternatives {
            Ok(alternatives) => alternatives,
            Err(Error::NoSegmentParameters { .. } | Error::Accumulator { .. }) => continue,
            Err(error) => panic!("{error}"),
        };
        for segment in alternatives[0].segments() {
            let seconds = test.block_seconds(&network, segment).unwrap();
            let BlockSeconds { encrypt, receive, evaluate, check, decrypt } = seconds;
            for time in [encrypt, receive, evaluate, decrypt] {
                assert!(time.is_finite() && time > 0.0, "{seconds:?}");
            }
            assert_eq!(check > 0.0, !segment.evaluates_activation, "{seconds:?}");
        }
    }
    assert!(test.spent() > Duration::ZERO && test.byte_seconds().unwrap().payload > 0.0);
    assert!(test.byte_seconds().unwrap().memory > 0.0);
}

fn server_memory(network: &IntegerNetwork, number: usize, segment: &Segment) -> [u64; 2] {
    let (structure, weights) = network.stage(segment.stage as usize).unwrap();
    let server = SegmentEvaluator::new(number, segment, structure, weights).unwrap();
    [server.memory_bytes(), request_memory_bytes(segment, structure)]
}

/// What the plans chosen for ever slower links move, for a random network; nothing if it has none.
fn bytes_over_slower_links(seed: u64, n_samples: u64, side: ActivationSide) -> Vec<u64> {
    let (network, _) = random_network(seed, Choices { client: false, ..Choices::ALL });
    let over = |bits_per_second| {
        let link = Link::Network { bits_per_second, round_trip_seconds: 1e-3 };
        let goal = PlanGoal { link, activation_side: Some(side), ..goal(n_samples) };
        match found(&network, &goal) {
            Err(Error::NoSegmentParameters { .. } | Error::Accumulator { .. }) => None,
            alternatives => Some(alternatives.unwrap()[0].bytes()),
        }
    };
    [1e12, 1e10, 1e9, 1e8, 1e6].into_iter().filter_map(over).collect()
}

/// More bytes with less memory: memory is first used beside the link, like all that is computed.
#[test]
fn memory_does_not_make_a_slower_link_choose_more_bytes() {
    let bytes = bytes_over_slower_links(16_850_644_788_401_512_059, 40_961, ActivationSide::Client);
    assert!(bytes.len() == 5 && bytes.is_sorted_by(|a, b| a >= b), "{bytes:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn random_networks_get_valid_plans_for_every_objective(
        seed: u64,
        n_samples in 1_u64..100_000,
        megabits in 1_u32..10_000,
    ) {
        let (network, _) = random_network(seed, Choices::ALL);
        let bits_per_second = f64::from(megabits) * 1e6;
        for objective in OBJECTIVES {
            let link = Link::Network { bits_per_second, round_trip_seconds: 1e-3 };
            let goal = PlanGoal { objective, link, ..goal(n_samples) };
            let alternatives = match found(&network, &goal) {
                Err(Error::NoSegmentParameters { .. } | Error::Accumulator { .. }) => continue,
                alternatives => alternatives.unwrap(),
            };
            let figures: Vec<f64> = alternatives.iter().map(|a| figure(a, objective)).collect();
            prop_assert!(figures.is_sorted());
            for alternative in alternatives {
                let plan = alternative.compile(&network, facts(&network)).unwrap();
                let public = plan.public();
                prop_assert_eq!(&forecast_run(public, &goal.size).unwrap(), &alternative.forecast);
                for (number, segment) in public.segments.iter().enumerate() {
                    let [real, foretold] = server_memory(&network, number, segment);
                    prop_assert_eq!(real, foretold);
                }
            }
        }
    }

    #[test]
    fn a_slower_link_never_chooses_more_bytes(
        seed: u64,
        n_samples in 1_u64..60_000,
        at_server: bool,
    ) {
        let side = if at_server { ActivationSide::Server } else { ActivationSide::Client };
        let bytes = bytes_over_slower_links(seed, n_samples, side);
        prop_assert!(bytes.is_sorted_by(|a, b| a >= b), "{bytes:?}");
    }

    #[test]
    fn candidates_begin_with_the_fewest_bytes_and_none_beats_another(
        value_bits in 4_u32..30,
        squares: bool,
        n_inputs in 1_u32..1000,
        n_outputs in 1_u32..1000,
        expected_samples in 1_u64..50_000,
    ) {
        let activation = squares.then_some(nn_poly::plan::PooledSquare {
            pool_terms: 1,
            max_abs_a: 1,
            max_abs_b: 0,
        });
        let demand = nn_poly::plan::SegmentDemand {
            activation,
            max_abs_input: 15,
            max_abs_bias: 100,
            max_l1: 700.0,
            max_l2: 80.0,
            low: 0,
            high: (1 << value_bits) - 1,
            evidence: Evidence::Proven,
            n_inputs,
            n_outputs,
            expected_samples,
        };
        let candidates = parameters::candidates(&demand).unwrap();
        prop_assert!(!candidates.is_empty() && candidates.len() <= parameters::MAX_CANDIDATES);
        let chosen = parameters::choose(&demand).unwrap();
        prop_assert!(candidates.contains(&chosen));
        for candidate in &candidates {
            prop_assert!(candidate.noise.margin_bits() >= 0.0);
            prop_assert!(candidate.security_bits >= 128);
            let is_packed = matches!(candidate.packing, Packing::Coefficients { .. });
            prop_assert_eq!(is_packed, !squares);
        }
    }
}
