//! Steps without a refresh in between: exact integers, residues, encrypted.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

#[path = "generators/random_chain.rs"]
mod random_chain;
#[path = "chains/relinearized.rs"]
mod relinearized;
#[path = "support/segments.rs"]
mod segments;

use std::ops::ControlFlow;

use ndarray::Array2;
use nn_poly::encrypted::{
    ClientTimes, Error, SegmentContext, SegmentEvaluator, decrypt_reply, encrypt_block,
    request_memory_bytes,
};
use nn_poly::import::{Preprocessing, SplitSpec};
use nn_poly::integer::chain::{Chain, Exponents};
use nn_poly::integer::{
    ActivationKind, CrtWindow, IntegerMatrix, IntegerNetwork, StageOutput, StageStructure,
};
use nn_poly::plan::planner::{PlanGoal, ReferenceRates, Subject, search};
use nn_poly::plan::{
    ActivationSide, Evidence, ModelFacts, Plan, PlanOptions, PublicPlan, RangePolicy,
    Relinearization, RingSpec, RunSize, compile,
};
use nn_poly::{Error as PlanError, Shape};
use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};
use random_chain::{ChainSketch, chain_sketches};
use segments::{evaluate, rows_of};

fn facts(network: &IntegerNetwork) -> ModelFacts {
    ModelFacts {
        name: "chain".into(),
        input_shape: Shape::vector(network.n_inputs()).unwrap(),
        preprocessing: Preprocessing::UnitRange,
        split: SplitSpec::default(),
        class_names: (0..network.n_scores()).map(|c| c.to_string()).collect(),
        score_step: 1.0,
    }
}

fn side(sketch: &ChainSketch) -> ActivationSide {
    match sketch.ends {
        StageOutput::Pooled => ActivationSide::Server,
        StageOutput::Linear => ActivationSide::Client,
    }
}

fn plan(sketch: &ChainSketch) -> Plan {
    plan_with(sketch, Relinearization::Never)
}

fn plan_with(sketch: &ChainSketch, relinearization: Relinearization) -> Plan {
    let network = sketch.network().unwrap();
    let options = PlanOptions {
        activation_side: side(sketch),
        expected_samples: 1000,
        relinearization,
        ..PlanOptions::default()
    };
    let plan = compile(&network, &[], facts(&network), &options).unwrap();
    let relinearizes = relinearization == Relinearization::Always;
    for segment in plan.public().segments.iter().filter(|segment| segment.chain.is_some()) {
        assert_eq!(segment.relinearizes(), relinearizes);
    }
    plan
}

/// Ciphertexts that grow, and such that are relinearized.
fn either_way() -> impl Strategy<Value = Relinearization> {
    prop_oneof![Just(Relinearization::Never), Just(Relinearization::Always)]
}

/// Samples with every grid value, the extremes first.
fn samples(network: &IntegerNetwork, n: usize, seed: u64) -> IntegerMatrix {
    let mut rng = StdRng::seed_from_u64(seed);
    let (low, high) = (network.input().min(), network.input().max());
    Array2::from_shape_fn((network.n_inputs(), n), |(_, sample)| match sample {
        0 => high,
        1 => low,
        _ => rng.random_range(low..=high),
    })
}

proptest! {
    #[test]
    fn the_fast_path_equals_the_definition(sketch in chain_sketches(4)) {
        let network = sketch.network().unwrap();
        let inputs = samples(&network, 9, sketch.seed);
        let found = network.evaluate(&inputs).unwrap();
        let ranges = network.stage_ranges(0).unwrap();
        let undivided = network.evaluate_chain(0, &inputs).unwrap();
        let bounds = ranges.undivided.unwrap();
        prop_assert!(undivided.iter().all(|v| (bounds.low..=bounds.high).contains(v)));
        for sample in 0..inputs.ncols() {
            let stages = network.reference(&inputs.column(sample).to_vec(), &[]).unwrap();
            let scores = &stages.last().unwrap().pooled;
            prop_assert_eq!(found.scores.column(sample).to_vec(), scores.clone());
            for (range, value) in ranges.pooled.iter().zip(&stages[0].pooled) {
                prop_assert!(range.contains(*value));
            }
        }
    }

    #[test]
    fn points_modulo_a_prime_are_the_integers_modulo_it(
        sketch in chain_sketches(4), t in prop::sample::select(vec![2_u64, 65_537, (1 << 61) - 1]),
    ) {
        let network = sketch.network().unwrap();
        let inputs = samples(&network, 5, sketch.seed);
        let exact = network.evaluate_chain(0, &inputs).unwrap();
        let points: Vec<Vec<u64>> = inputs
            .columns()
            .into_iter()
            .map(|column| column.iter().map(|&x| i64::from(x).rem_euclid(t as i64) as u64).collect())
            .collect();
        let found = network.evaluate_stage_modular(0, &points, t, sketch.ends).unwrap();
        for (column, found) in exact.columns().into_iter().zip(found) {
            let expected: Vec<u64> =
                column.iter().map(|v| v.rem_euclid(i128::from(t)) as u64).collect();
            prop_assert_eq!(found, expected);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn residues_of_an_encrypted_run_are_those_of_the_integers(
        sketch in chain_sketches(2), relinearization in either_way(),
    ) {
        check(&plan_with(&sketch, relinearization), 30, sketch.seed);
    }

    #[test]
    fn plans_survive_their_file(sketch in chain_sketches(2), relinearization in either_way()) {
        let plan = plan_with(&sketch, relinearization);
        let again = Plan::from_bytes(&plan.to_bytes().unwrap()).unwrap();
        prop_assert_eq!(again.digest(), plan.digest());
        prop_assert_eq!(again.network().weights(), plan.network().weights());
        for idx in 0..plan.public().segments.len() {
            prop_assert_eq!(plan.recompute_noise(idx).unwrap(), plan.public().segments[idx].noise);
        }
    }
}

/// Three squares in a row, the deepest chain there is.
#[test]
fn the_deepest_chain_equals_the_integers() {
    let sketch = ChainSketch {
        size: 2,
        channels: 1,
        maps: 2,
        kernel: 2,
        pooled: false,
        more_steps: 2,
        hidden: 2,
        weight_bits: 2,
        ends: StageOutput::Linear,
        activation: ActivationKind::Identity,
        is_last: true,
        explicit: false,
        seed: 5,
    };
    for (relinearization, degree) in [(Relinearization::Never, 8), (Relinearization::Always, 1)] {
        let plan = plan_with(&sketch, relinearization);
        let segment = &plan.public().segments[0];
        assert_eq!((segment.n_squares(), segment.reply_degree()), (3, degree));
        check(&plan, 10, 3);
    }
}

/// Runs every segment encrypted; compares each residue with the integers, and what the residues of a
/// stage are put together to with the simulation.
fn check(plan: &Plan, n_samples: usize, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x5EED);
    let network = plan.network();
    let inputs = samples(network, n_samples, seed);
    let trace = plan.simulate_trace(&inputs).unwrap();
    for stage in 0..network.structure().len() {
        let (structure, weights) = network.stage(stage).unwrap();
        let stage_inputs = network.gather_inputs(stage, &inputs, &trace.refreshed).unwrap();
        let mut residues = Vec::new();
        for index in plan.public().segments_of(stage).unwrap() {
            let segment = plan.public().segment(index).unwrap();
            let expected = plan.evaluate_segment(index, &stage_inputs).unwrap();
            let server = SegmentEvaluator::new(index, segment, structure, weights).unwrap();
            assert_eq!(server.memory_bytes(), request_memory_bytes(segment, structure));
            let client = SegmentContext::new(index, segment).unwrap();
            let key = client.generate_key(&mut rng).unwrap();
            let fill = rows_of(&stage_inputs);
            let request = encrypt_block(&client, &key, None, fill, &mut rng).unwrap();
            assert_eq!(request.payload.len() as u64, segment.request_bytes());
            let reply = evaluate(&server, request.seed, &request.payload);
            assert_eq!(reply.len() as u64, segment.reply_bytes());
            let mut times = ClientTimes::default();
            let mut rows = Array2::zeros((segment.n_outputs as usize, n_samples));
            decrypt_reply(&client, &key, &reply, &mut times, |output, values| {
                rows.row_mut(output).assign(&ndarray::aview1(&values[..n_samples]));
                Ok::<(), Error>(())
            })
            .unwrap();
            assert_eq!(rows, expected, "segment {index}");
            residues.push(rows);
        }
        let (Some(window), Some(chain)) =
            (plan.public().crt_window(stage).unwrap(), &structure.chain)
        else {
            continue;
        };
        let mut refresher = plan.refresher(stage, n_samples).unwrap();
        for output in 0..residues[0].nrows() {
            let values: Vec<i64> = (0..n_samples)
                .map(|sample| {
                    let of = residues.iter().map(|rows| rows[[output, sample]] as u64);
                    chain.descaled(window.combine(of))
                })
                .collect();
            refresher.absorb(output, &values).unwrap();
        }
        if structure.refresh.is_some() {
            assert_eq!(refresher.finish().unwrap().values, trace.refreshed[stage]);
        } else {
            assert_eq!(refresher.finish_scores().unwrap().scores, trace.scores);
        }
    }
}

/// Nothing of a reply exists before the last step; until then whoever wants it is asked.
#[test]
fn a_chain_asks_within_every_step_and_stops_where_it_is_told() {
    for relinearization in [Relinearization::Never, Relinearization::Always] {
        stops_where_it_is_told(&plan_with(&sketch(StageOutput::Pooled), relinearization));
    }
}

fn stops_where_it_is_told(plan: &Plan) {
    let segment = &plan.public().segments[0];
    let (structure, weights) = plan.network().stage(segment.stage as usize).unwrap();
    let n_steps = structure.chain.as_ref().unwrap().steps.len();
    let server = SegmentEvaluator::new(0, segment, structure, weights).unwrap();
    let key = server.context().generate_key(&mut StdRng::seed_from_u64(1)).unwrap();
    let fill = |_: usize, _: &mut [i64]| Ok::<(), Error>(());
    let request =
        encrypt_block(server.context(), &key, None, fill, &mut StdRng::seed_from_u64(2)).unwrap();
    // Whether it was evaluated to its end, the questions asked, and the bytes that came.
    let run = |limit: usize| {
        let mut receiver = server.receive(request.seed).unwrap();
        receiver.push(&request.payload).unwrap();
        let block = receiver.finish().unwrap();
        let (mut n_asked, mut n_bytes) = (0, 0);
        let mut sink = |piece: Vec<u8>| {
            n_bytes += piece.len();
            n_asked += usize::from(piece.is_empty());
            if n_asked < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let flow = server.evaluate(&block, &mut sink).unwrap();
        (flow.is_continue(), n_asked, n_bytes)
    };
    let (is_complete, n_questions, n_reply) = run(usize::MAX);
    assert!(is_complete && n_reply as u64 == server.context().reply_bytes());
    let n_moduli = segment.ring.moduli.len();
    assert!(n_questions >= n_moduli + 2 * n_steps, "{n_questions} questions");
    for limit in (1..=n_questions).step_by(n_questions.div_ceil(8)) {
        let (is_complete, n_asked, n_bytes) = run(limit);
        assert!(!is_complete && n_asked == limit && n_bytes < n_reply, "told at question {limit}");
    }
}

fn sketch(ends: StageOutput) -> ChainSketch {
    ChainSketch {
        size: 4,
        channels: 1,
        maps: 2,
        kernel: 2,
        pooled: true,
        more_steps: 1,
        hidden: 4,
        weight_bits: 4,
        ends,
        activation: ActivationKind::Quadratic,
        is_last: false,
        explicit: true,
        seed: 11,
    }
}

/// Values that leave a calibrated window wrap as the simulation says, and are marked.
#[test]
fn calibrated_windows_wrap_like_the_simulation() {
    let sketch = sketch(StageOutput::Pooled);
    let network = sketch.network().unwrap();
    let n = network.n_inputs();
    // Seen: small inputs only.
    let seen = network.evaluate(&IntegerMatrix::ones((n, 1))).unwrap();
    let options = PlanOptions {
        expected_samples: 100,
        ranges: RangePolicy::Cheapest,
        ..PlanOptions::default()
    };
    let plan = compile(&network, &seen.observed, facts(&network), &options).unwrap();
    let segment = &plan.public().segments[0];
    assert_eq!(segment.range.evidence, Evidence::Calibrated);
    let inputs = samples(&network, 20, 1);
    let found = plan.simulate(&inputs).unwrap();
    assert!(found.counts[0].n_wrapped > 0 && found.out_of_range[0]);
    check(&plan, 20, 1);
    for sample in 0..20 {
        let window = plan.public().crt_window(0).unwrap().unwrap();
        let second = plan.public().segments.last().unwrap().window;
        let windows = [(StageOutput::Pooled, window), (StageOutput::Linear, second.into())];
        let stages = network.reference(&inputs.column(sample).to_vec(), &windows).unwrap();
        assert_eq!(found.scores.column(sample).to_vec(), stages[1].pooled);
    }
}

#[test]
fn a_chain_saves_a_round_in_the_forecast_and_the_planner_plans_it() {
    let network = sketch(StageOutput::Pooled).network().unwrap();
    let subject = Subject { network: &network, observed: &[] };
    let size = RunSize { n_samples: 5000, canaries_per_block: 18, replicas: 1 };
    let goal = PlanGoal {
        activation_side: Some(ActivationSide::Server),
        max_rounds: Some(2),
        ..PlanGoal::new(size)
    };
    let found = search(&[subject], &goal, &mut ReferenceRates::new(2)).unwrap();
    assert_eq!(found[0].forecast.rounds, 2);
    let plan = found[0].compile(&network, facts(&network)).unwrap();
    assert!(plan.public().segments.len() > 2, "a chain of this width needs several residues");
    check(&plan, 10, 2);
}

/// What the planner says of a network whose chain ends where the settled side does not need it.
#[test]
fn a_chain_of_the_other_side_is_refused_as_such_however_many_rounds_are_allowed() {
    let size = RunSize { n_samples: 100, canaries_per_block: 18, replicas: 1 };
    for (ends, other) in [
        (StageOutput::Pooled, ActivationSide::Client),
        (StageOutput::Linear, ActivationSide::Server),
    ] {
        let network = sketch(ends).network().unwrap();
        let subject = Subject { network: &network, observed: &[] };
        for max_rounds in [None, Some(1), Some(2)] {
            let goal = PlanGoal { activation_side: Some(other), max_rounds, ..PlanGoal::new(size) };
            let error = search(&[subject], &goal, &mut ReferenceRates::new(2)).unwrap_err();
            assert!(
                matches!(error, PlanError::NoSuitableSide { settled } if settled == Some(other)),
                "{error}"
            );
            assert!(error.to_string().contains(&format!("where a {other} that")), "{error}");
        }
        let open = PlanGoal { activation_side: None, ..PlanGoal::new(size) };
        let found = search(&[subject], &open, &mut ReferenceRates::new(2)).unwrap();
        assert!(found.iter().all(|alternative| alternative.activation_side != other));
    }
}

/// One field of a plan changed at a time: each is refused.
#[test]
fn inconsistent_chains_are_refused() {
    let plan = plan(&sketch(StageOutput::Pooled));
    let spec = plan.public().spec();
    let refused = |change: &dyn Fn(&mut nn_poly::plan::PublicPlanSpec)| {
        let mut spec = spec.clone();
        change(&mut spec);
        PublicPlan::new(spec).map(|public| Plan::new(public, plan.network().weights().to_vec()))
    };
    let is_refused =
        |change: &dyn Fn(&mut nn_poly::plan::PublicPlanSpec)| !matches!(refused(change), Ok(Ok(_)));
    assert!(!is_refused(&|_| ()));
    let part = |spec: &mut nn_poly::plan::PublicPlanSpec, idx: usize| {
        spec.segments[idx].chain.clone().unwrap()
    };
    assert!(is_refused(&|spec| {
        spec.segments.remove(0);
    }));
    assert!(is_refused(&|spec| spec.segments.swap(0, 1)));
    assert!(is_refused(&|spec| {
        let again = spec.segments[0].clone();
        spec.segments[1].ring = again.ring;
        spec.segments[1].window = again.window;
    }));
    assert!(is_refused(&|spec| spec.segments[0].chain = None));
    assert!(is_refused(&|spec| {
        let mut part = part(spec, 0);
        part.step_moduli.pop();
        spec.segments[0].chain = Some(part);
    }));
    assert!(is_refused(&|spec| {
        let mut part = part(spec, 0);
        part.step_moduli[0] = 99;
        spec.segments[0].chain = Some(part);
    }));
    assert!(is_refused(&|spec| {
        let mut part = part(spec, 1);
        part.low -= 1;
        spec.segments[1].chain = Some(part);
    }));
    assert!(is_refused(&|spec| spec.segments[0].evaluates_activation = false));
    assert!(is_refused(&|spec| spec.segments[0].range.high /= 2));
    let chain = |change: &dyn Fn(&mut Chain)| {
        is_refused(&|spec| {
            let mut chain = spec.stages[0].chain.clone().unwrap();
            change(&mut chain);
            spec.stages[0].chain = Some(chain);
        })
    };
    let relinearized = plan_with(&sketch(StageOutput::Pooled), Relinearization::Always);
    let special = |change: &dyn Fn(&mut RingSpec)| {
        let mut spec = relinearized.public().spec().clone();
        change(&mut spec.segments[0].ring);
        PublicPlan::new(spec).map(|public| SegmentContext::new(0, public.segment(0).unwrap()))
    };
    assert!(matches!(special(&|_| ()), Ok(Ok(_))));
    for wrong in [0, 2, relinearized.public().segments[0].ring.moduli[0], u64::MAX] {
        assert!(special(&|ring| ring.special_modulus = Some(wrong)).is_err(), "{wrong}");
    }
    let further = |n_points: u32| {
        let mut spec = relinearized.public().spec().clone();
        for segment in &mut spec.segments {
            if let Some(part) = &mut segment.chain {
                part.further_points = n_points;
            }
        }
        PublicPlan::new(spec)
    };
    let n_points = u32::try_from(relinearized.public().segments[0].n_further_points()).unwrap();
    assert!(n_points > 0 && further(n_points).is_ok() && further(n_points + 1).is_ok());
    for wrong in [0, n_points - 1, 65, u32::MAX] {
        assert!(further(wrong).is_err(), "{wrong} points");
    }
    // One that is no prime: the digest of the parameters says what it was.
    let step = 2 * u64::from(relinearized.public().segments[0].ring.ring_degree);
    let found = special(&|ring| ring.special_modulus = Some(step * step + 1));
    assert!(matches!(found, Ok(Err(_))), "{found:?}");
    // Points without a key make up for nothing.
    assert!(special(&|ring| ring.special_modulus = None).is_err());
    assert!(is_refused(&|spec| {
        for part in spec.segments.iter_mut().filter_map(|segment| segment.chain.as_mut()) {
            part.further_points = 1;
        }
    }));
    // Without a chain there is nothing to relinearize.
    assert!(is_refused(&|spec| {
        let special = relinearized.public().segments[0].ring.special_modulus;
        spec.segments.last_mut().unwrap().ring.special_modulus = special;
    }));
    assert!(chain(&|chain| chain.descale = 200));
    assert!(chain(&|chain| chain.descale = 0), "the division is what makes the values fit");
    assert!(chain(&|chain| chain.ends = StageOutput::Linear));
    assert!(chain(&|chain| chain.steps.clear()));
    assert!(chain(&|chain| chain.exponents = Exponents { bias: 100, constant: 0 }));
    assert!(chain(&|chain| {
        let step = chain.steps[0].clone();
        chain.steps = vec![step; 9];
    }));
}

#[test]
fn a_chain_that_outgrows_its_arithmetic_is_refused_with_advice() {
    let network = sketch(StageOutput::Pooled).network().unwrap();
    let (structure, mut weights) = {
        let (structure, weights) = network.stage(0).unwrap();
        (structure.clone(), weights.clone())
    };
    weights.weights.iter_mut().for_each(|w| *w = 32_767);
    weights.chain.iter_mut().for_each(|step| step.weights.iter_mut().for_each(|w| *w = 32_767));
    let structure = StageStructure { refresh: None, ..structure };
    let refused =
        IntegerNetwork::new(*network.input(), network.n_inputs(), vec![structure], vec![weights]);
    let Err(PlanError::ChainTooWide { stage: 0, .. }) = refused else { panic!("{refused:?}") };
    assert!(refused.unwrap_err().to_string().contains("more rounds"));
}

#[test]
fn windows_and_residues_agree() {
    let window = CrtWindow::new(-1000, &[65_537, 114_689]).unwrap();
    for v in [-1000_i128, -1, 0, 1, 1 << 32] {
        let residues = [65_537_i128, 114_689].map(|t| v.rem_euclid(t) as u64);
        assert_eq!(window.combine(residues), window.reduce(v));
    }
}
