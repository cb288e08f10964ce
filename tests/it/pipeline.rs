//! The whole path, honest: encrypted equals simulated, and costs exactly what was forecast.

use std::sync::Arc;

use nn_poly::plan::{ActivationSide, Packing, Plan, RunSize, forecast};
use protocol::client::RemoteEvaluator;
use protocol::runner::{RunOptions, RunOutcome, RunProgress, Silent, run};
use protocol::session::SessionOptions;
use securedl_tests::batch::{answer, seeded_session};
use securedl_tests::loopback::{Loopback, client, impatient, in_process, runtime, server, shelf};
use securedl_tests::models::{TinyModel, client_plan, samples, session_options};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    InProcess,
    Tls,
}

/// How many samples, relative to what one block of the first segment carries.
#[derive(Debug, Clone, Copy)]
enum Size {
    Samples(usize),
    /// So many full blocks and so many samples more.
    Blocks(usize, usize),
}

#[derive(Debug, Clone)]
struct Case {
    model: TinyModel,
    side: ActivationSide,
    expected_samples: u64,
    size: Size,
    samples_per_batch: usize,
    batches_in_flight: usize,
    canaries: usize,
    replicas: usize,
    link: Link,
}

impl Case {
    fn new(model: TinyModel, side: ActivationSide, size: Size) -> Self {
        Self {
            model,
            side,
            expected_samples: 100,
            size,
            samples_per_batch: 1 << 20,
            batches_in_flight: 1,
            canaries: 3,
            replicas: 1,
            link: Link::InProcess,
        }
    }
}

/// What all batches of a run cost by the forecast: blocks, bytes up, bytes down.
fn forecast_run(plan: &Plan, n: usize, case: &Case, options: &SessionOptions) -> (u64, u64, u64) {
    let mut total = (0, 0, 0);
    for first in (0..n).step_by(case.samples_per_batch) {
        let size = RunSize {
            n_samples: (n - first).min(case.samples_per_batch) as u64,
            canaries_per_block: (case.canaries + options.layout.random_points) as u64,
            replicas: case.replicas as u64,
        };
        let cost = forecast(plan.public(), &size).unwrap();
        total.0 += cost.segments.iter().map(|segment| segment.blocks).sum::<u64>();
        total.1 += cost.bytes_up;
        total.2 += cost.bytes_down;
    }
    total
}

fn check(case: &Case) {
    println!("{case:?}");
    let plan = case.model.plan(case.side, case.expected_samples);
    let options = session_options(case.canaries, case.replicas);
    let owner = client_plan(&plan, options);
    let n = match case.size {
        Size::Samples(n) => n,
        Size::Blocks(blocks, more) => owner.samples_per_block()[0] * blocks + more,
    };
    let inputs = samples(&plan, n, 77);
    let run_options = RunOptions {
        samples_per_batch: case.samples_per_batch,
        connections: 2,
        batches_in_flight: case.batches_in_flight,
    };
    let silent: Arc<dyn RunProgress> = Arc::new(Silent);
    let go = async |remote: &Arc<RemoteEvaluator>| {
        run(&owner, &inputs, remote, &run_options, &silent).await.unwrap()
    };
    let (outcome, traffic) = runtime().block_on(async {
        let server = server(shelf(&plan));
        match case.link {
            Link::InProcess => {
                let remote = in_process(server);
                (go(&remote).await, remote.traffic())
            }
            Link::Tls => {
                let loopback = Loopback::start(server).await;
                let remote = client(loopback.endpoint(), impatient());
                let outcome = go(&remote).await;
                remote.close().await;
                loopback.shut_down().await;
                (outcome, remote.traffic())
            }
        }
    });

    let RunOutcome::Verified(result) = outcome else { panic!("{outcome:?}") };
    let simulated = plan.simulate(&inputs).unwrap();
    assert_eq!(result.scores, simulated.scores);
    assert!(result.verdict.is_intact());
    assert_eq!(result.out_of_calibration, simulated.out_of_range);
    let clamped: u64 = simulated.counts.iter().map(|count| count.n_clamped).sum();
    assert_eq!(result.tally.n_clamped, clamped);

    let n_batches = n.div_ceil(case.samples_per_batch);
    assert_eq!(result.batches, n_batches);
    assert_eq!(result.tally.rounds as usize, n_batches * plan.public().segments.len());
    let (blocks, up, down) = forecast_run(&plan, n, case, &options);
    assert_eq!(result.tally.blocks, blocks);
    assert_eq!(result.tally.bytes_up, up);
    assert_eq!(result.tally.bytes_down, down);
    assert!(traffic.sent_bytes > up && traffic.received_bytes > down, "{traffic:?}");
    assert!(traffic.sent_bytes < up + 1000 * blocks + 1000, "frames are cheap: {traffic:?}");
}

fn sides(model: &TinyModel) -> Vec<ActivationSide> {
    let both = [ActivationSide::Server, ActivationSide::Client];
    both.into_iter().filter(|&side| model.suits(side)).collect()
}

#[test]
fn every_model_on_both_sides() {
    for model in TinyModel::zoo() {
        for side in sides(&model) {
            for n in [1, 50] {
                check(&Case::new(model.clone(), side, Size::Samples(n)));
            }
        }
    }
}

#[test]
fn blocks_may_be_full_to_the_last_slot_or_one_sample_over() {
    for side in [ActivationSide::Server, ActivationSide::Client] {
        for size in [Size::Blocks(1, 0), Size::Blocks(1, 1), Size::Blocks(2, 5)] {
            let model = TinyModel::dense_quadratic();
            check(&Case { expected_samples: 8192, ..Case::new(model, side, size) });
        }
    }
}

#[test]
fn packed_coefficients_carry_many_samples() {
    let model = TinyModel::conv_relu();
    let plan = model.plan(ActivationSide::Client, 8192);
    let Packing::Coefficients { samples_per_coefficient, .. } = plan.public().segments[0].packing
    else {
        panic!("linear segments use coefficients");
    };
    assert!(samples_per_coefficient > 1);
    for size in [Size::Samples(9), Size::Blocks(1, 1)] {
        let case = Case::new(model.clone(), ActivationSide::Client, size);
        check(&Case { expected_samples: 8192, ..case });
    }
}

#[test]
fn any_number_of_samples_is_cut_into_batches() {
    for side in [ActivationSide::Server, ActivationSide::Client] {
        for batches_in_flight in [1, 2, 5] {
            let case = Case::new(TinyModel::dense_quadratic(), side, Size::Blocks(1, 900));
            check(&Case { samples_per_batch: 2000, batches_in_flight, ..case });
        }
    }
}

#[test]
fn replicas_and_canaries_change_the_cost_but_not_the_result() {
    for (canaries, replicas) in [(0, 1), (0, 2), (3, 2), (16, 1), (16, 2), (16, 3)] {
        for size in [Size::Samples(30), Size::Blocks(2, 1)] {
            let case = Case::new(TinyModel::dense_quadratic(), ActivationSide::Server, size);
            check(&Case { canaries, replicas, ..case });
        }
    }
}

#[test]
fn over_tls_it_is_the_same() {
    for model in [TinyModel::conv_pool_square(), TinyModel::depthwise_residual()] {
        for side in [ActivationSide::Server, ActivationSide::Client] {
            for (size, replicas) in [(Size::Samples(20), 2), (Size::Blocks(1, 1), 1)] {
                let case = Case::new(model.clone(), side, size);
                check(&Case { link: Link::Tls, replicas, ..case });
            }
        }
    }
}

/// Every request of a session, and what an honest host answers to the first segment's.
fn requests(plan: &Plan, seed: u64) -> Vec<(Vec<u8>, Vec<u8>)> {
    let owner = client_plan(plan, session_options(3, 1));
    let host = shelf(plan);
    let session = seeded_session(&owner, &samples(plan, 5000, 1), seed).unwrap();
    (0..session.n_blocks())
        .map(|index| {
            let block = session.prepare(index).unwrap();
            let request = block.request();
            let header = request.header();
            let mut sent = header.seed.to_vec();
            sent.extend_from_slice(&header.request_id.0);
            sent.extend_from_slice(&request.payload().to_bytes().unwrap());
            (sent, answer(&*host, request))
        })
        .collect()
}

#[test]
fn the_same_generator_sends_the_same_bytes_and_gets_the_same_reply() {
    for side in [ActivationSide::Server, ActivationSide::Client] {
        let plan = TinyModel::dense_quadratic().plan(side, 100);
        let once = requests(&plan, 5);
        assert!(once.len() > 1);
        assert_eq!(once, requests(&plan, 5));
        for ((sent, _), (other, _)) in once.iter().zip(requests(&plan, 6)) {
            assert_ne!(*sent, other);
        }
        let [(first, _), (second, _), ..] = &once[..] else { panic!("two blocks") };
        assert_ne!(first[..32], second[..32], "every block has a seed of its own");
    }
}
