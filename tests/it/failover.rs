//! Batches on several servers, and the client behind one call.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ndarray::{Array2, Axis};
use nn_poly::integer::IntegerMatrix;
use nn_poly::plan::{ActivationSide, Plan};
use protocol::client::endpoint::{Connect, Connecting};
use protocol::client::{BlockingClassifier, Classifier, Endpoint, RemoteEvaluator};
use protocol::error::{LinkError, Source};
use protocol::runner::{
    BatchRun, Batches, BatchesOutcome, RunOptions, RunOutcome, RunProgress, Silent, run,
    run_batches,
};
use protocol::server::Server;
use protocol::session::BatchResult;
use protocol::transport::pipe;
use securedl_tests::loopback::{impatient, in_process, patient, runtime, server, shelf};
use securedl_tests::models::{TinyModel, client_plan, samples, session_options};
use securedl_tests::relay::{Relay, Toward};
use tokio::io::AsyncReadExt;

/// A server that dies for good after so many bytes of replies, over all connections.
struct Dying {
    server: Server,
    left: AtomicUsize,
}

impl Connect for Dying {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async {
            // What a connection may carry is taken from what is left of the server's life.
            let left = self.left.swap(0, Ordering::SeqCst);
            if left == 0 {
                let stage = protocol::client::Stage::Connecting;
                return Err(LinkError::Lost { stage, source: None }.into());
            }
            let (theirs, ours) = pipe();
            let server = self.server.connect();
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = tokio::io::split(ours);
                let (from_server, mut to_server) = tokio::io::split(server);
                let mut from_server = from_server.take(left as u64);
                tokio::select! {
                    _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
                    _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
                }
            });
            Ok(theirs)
        })
    }
}

#[test]
fn a_batch_whose_servers_die_one_after_the_other_ends_as_if_nothing_had_happened() {
    for side in [ActivationSide::Server, ActivationSide::Client] {
        let plan = TinyModel::dense_quadratic().plan(side, 100);
        let owner = client_plan(&plan, session_options(3, 1));
        let inputs = samples(&plan, 5000, 9);
        let silent: Arc<dyn RunProgress> = Arc::new(Silent);
        let options = RunOptions { samples_per_batch: 1500, connections: 3, batches_in_flight: 2 };
        let outcome = runtime().block_on(async {
            let mut endpoints: Vec<Endpoint> = [200, 9_000, 150_000, 900_000]
                .into_iter()
                .map(|bytes| {
                    let (server, left) = (server(shelf(&plan)), AtomicUsize::new(bytes));
                    Endpoint::custom_named(Arc::new(Dying { server, left }), "dying")
                })
                .collect();
            endpoints.push(Endpoint::in_process(server(shelf(&plan))));
            let remote = Arc::new(RemoteEvaluator::new(endpoints, patient()).unwrap());
            run(&owner, &inputs, &remote, &options, &silent).await.unwrap()
        });
        let RunOutcome::Verified(result) = outcome else { panic!("{outcome:?}") };
        let simulated = plan.simulate(&inputs).unwrap();
        assert_eq!(result.scores, simulated.scores);
        assert_eq!(result.out_of_calibration, simulated.out_of_range);
    }
}

/// Batches of a run, and what came of them.
#[derive(Default)]
struct Recorded {
    waiting: VecDeque<IntegerMatrix>,
    n_batches: usize,
    results: Vec<(usize, BatchResult)>,
}

impl Recorded {
    fn of(inputs: &IntegerMatrix, per_batch: usize) -> Self {
        let chunks = inputs.axis_chunks_iter(Axis(1), per_batch);
        let waiting: VecDeque<_> = chunks.map(|chunk| chunk.to_owned()).collect();
        Self { n_batches: waiting.len(), waiting, results: Vec::new() }
    }
}

impl Batches for Recorded {
    fn next_batch(&mut self, max_samples: usize) -> Result<Option<IntegerMatrix>, Source> {
        let next = self.waiting.pop_front();
        assert!(next.as_ref().is_none_or(|batch| batch.ncols() <= max_samples));
        Ok(next)
    }

    fn batch_finished(&mut self, batch: usize, result: BatchResult) -> Result<(), Source> {
        self.results.push((batch, result));
        Ok(())
    }

    fn n_batches(&self) -> usize {
        self.n_batches
    }
}

#[test]
fn batches_in_flight_over_connections_that_are_cut_end_as_if_nothing_had_happened() {
    for side in [ActivationSide::Server, ActivationSide::Client] {
        let plan = TinyModel::dense_quadratic().plan(side, 100);
        let owner = client_plan(&plan, session_options(3, 1));
        let inputs = samples(&plan, 900, 9);
        let silent: Arc<dyn RunProgress> = Arc::new(Silent);
        let options = RunOptions { samples_per_batch: 100, connections: 4, batches_in_flight: 4 };
        let run = |remote: Arc<RemoteEvaluator>| {
            let mut batches = Recorded::of(&inputs, options.samples_per_batch);
            let run = BatchRun {
                plan: &owner,
                remote: &remote,
                options: &options,
                progress: &silent,
                evidence: None,
                first_batch: 0,
            };
            let outcome = runtime().block_on(async {
                // The connections of the remote live on this runtime.
                run_batches(&run, &mut batches).await.unwrap()
            });
            assert!(matches!(outcome, BatchesOutcome::Verified { .. }), "{outcome:?}");
            let of = |(batch, result): (usize, BatchResult)| (batch, result.scores);
            batches.results.into_iter().map(of).collect::<Vec<_>>()
        };
        let undisturbed = run(in_process(server(shelf(&plan))));

        // Every eleventh frame one way and every thirteenth the other way, of any message, up to a number.
        let n_cuts = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&n_cuts);
        let relay = Relay::cutting(server(shelf(&plan)), move |passing| {
            let period = if passing.toward == Toward::Client { 11 } else { 13 };
            let is_due = passing.index % period == period - 1;
            is_due && counted.fetch_add(1, Ordering::SeqCst) < MOST_CUTS
        });
        let cut = run(relay.client(patient()));
        assert!(n_cuts.load(Ordering::SeqCst) >= LEAST_CUTS, "{n_cuts:?} cuts");
        assert_eq!(cut, undisturbed, "batch by batch, in their order");
        let columns = |i: usize| (i * 100).min(900)..((i + 1) * 100).min(900);
        for (batch, scores) in &undisturbed {
            let inputs = inputs.slice_axis(Axis(1), columns(*batch).into()).to_owned();
            assert_eq!(*scores, plan.simulate(&inputs).unwrap().scores, "batch {batch}");
        }
    }
}

/// Connections that the relay cuts in a run at most; then it lets everything through. How many it comes to
/// depends on how requests share the connections.
const MOST_CUTS: usize = 30;
/// With fewer cuts the run was hardly disturbed.
const LEAST_CUTS: usize = 8;

/// Raw features that the plan's quantization gives these integers for.
fn features(plan: &Plan, n: usize) -> Array2<f32> {
    let width = plan.network().n_inputs();
    Array2::from_shape_fn((n, width), |(i, j)| (((i * 7 + j * 3) % 11) as f32) / 10.0)
}

#[test]
fn a_classifier_gives_the_integer_networks_scores_in_both_forms() {
    let plan = TinyModel::dense_quadratic().plan(ActivationSide::Server, 100);
    let samples = features(&plan, 70);
    let expected = plan.simulate(&plan.public().quantize(&samples).unwrap()).unwrap().scores;
    let servers = || vec![Endpoint::in_process(server(shelf(&plan)))];
    let scores = |outcome| match outcome {
        RunOutcome::Verified(result) => result.scores,
        RunOutcome::Rejected { verdict, .. } => panic!("{verdict}"),
    };
    let asynchronous = runtime().block_on(async {
        let classifier = Classifier::new(plan.clone(), &samples, servers(), impatient()).unwrap();
        let outcome = classifier.classify(&samples).await.unwrap();
        classifier.close().await;
        outcome
    });
    assert_eq!(scores(asynchronous), expected);
    let classifier =
        BlockingClassifier::new(plan.clone(), &samples, servers(), impatient()).unwrap();
    assert_eq!(scores(classifier.classify(&samples).unwrap()), expected);
    let narrow = Array2::zeros((3, 1));
    assert!(classifier.classify(&narrow).is_err(), "samples of another model");
}
