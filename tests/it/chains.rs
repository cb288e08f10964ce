//! Chains through the whole protocol: several residues in one round, honest and not.

use std::sync::Arc;

use fingerprint::Verdict;
use nn_poly::plan::{Plan, RunSize, forecast};
use protocol::hosting::PlanShelf;
use protocol::identifiers::Digest;
use protocol::message::{ModelCard, Refusal};
use protocol::runner::{RunOptions, RunOutcome, RunProgress, Silent, run};
use protocol::server::service::{PlanHost, SegmentService};
use protocol::session::SessionOptions;
use securedl_tests::chains::{plan, relinearized_plan};
use securedl_tests::loopback::{in_process, runtime, server, shelf};
use securedl_tests::models::{client_plan, samples, session_options};

/// A run of `n` samples on this host, with a few canaries.
pub(crate) fn outcome(plan: &Plan, host: Arc<dyn PlanHost>, n: usize) -> RunOutcome {
    let owner = client_plan(plan, session_options(3, 1));
    let inputs = samples(plan, n, 7);
    let silent: Arc<dyn RunProgress> = Arc::new(Silent);
    let options = RunOptions { samples_per_batch: 1 << 20, connections: 2, batches_in_flight: 1 };
    runtime().block_on(async {
        let remote = in_process(server(host));
        run(&owner, &inputs, &remote, &options, &silent).await.unwrap()
    })
}

#[test]
fn a_chain_takes_one_round_whatever_its_residues() {
    for plan in both() {
        takes_one_round(&plan);
    }
}

/// Ciphertexts that grow, and such that are relinearized.
fn both() -> [Plan; 2] {
    [plan(), relinearized_plan()]
}

fn takes_one_round(plan: &Plan) {
    let capacity = usize::try_from(plan.public().segments[0].capacity()).unwrap();
    for n in [1, 40, capacity + 5] {
        let RunOutcome::Verified(result) = outcome(plan, shelf(plan), n) else {
            panic!("rejected")
        };
        let inputs = samples(plan, n, 7);
        assert_eq!(result.scores, plan.simulate(&inputs).unwrap().scores);
        let size = RunSize { n_samples: n as u64, canaries_per_block: 5, replicas: 1 };
        let cost = forecast(plan.public(), &size).unwrap();
        assert_eq!((result.tally.rounds, cost.rounds), (2, 2));
        assert_eq!(result.tally.bytes_up, cost.bytes_up);
        assert_eq!(result.tally.bytes_down, cost.bytes_down);
        let blocks: u64 = cost.segments.iter().map(|segment| segment.blocks).sum();
        assert_eq!(result.tally.blocks, blocks);
    }
}

/// Honest but for one segment, which another model answers.
struct OneWrongResidue {
    honest: Arc<PlanShelf>,
    other: Arc<PlanShelf>,
    segment: u32,
}

impl PlanHost for OneWrongResidue {
    fn models(&self) -> Vec<ModelCard> {
        self.honest.models()
    }

    fn public_plan(&self, plan: &Digest) -> Option<Arc<[u8]>> {
        self.honest.public_plan(plan)
    }

    fn segment(&self, plan: &Digest, segment: u32) -> Result<Arc<dyn SegmentService>, Refusal> {
        let host = if segment == self.segment { &self.other } else { &self.honest };
        host.segment(plan, segment)
    }
}

#[test]
fn another_model_for_one_residue_is_noticed_and_named() {
    for plan in both() {
        notices_and_names(&plan);
    }
}

fn notices_and_names(plan: &Plan) {
    let (structure, weights) = plan.network().stage(0).unwrap();
    assert!(structure.chain.is_some());
    let mut weights = weights.clone();
    // One weight of the first of two linear maps.
    weights.chain[0].weights[2] += 1;
    let changed = plan.network().with_stage_weights(0, weights).unwrap();
    let other = Plan::new(plan.public().clone(), changed.weights().to_vec());
    // A range that is proven may not be that of the changed weights: only the arithmetic matters.
    let Ok(other) = other else { panic!("choose a weight that narrows the range: {other:?}") };
    for segment in plan.public().segments_of(0).unwrap() {
        let mut impostor = PlanShelf::default();
        impostor.insert_as(&other, Digest(plan.digest().0)).unwrap();
        let host = OneWrongResidue {
            honest: shelf(plan),
            other: Arc::new(impostor),
            segment: u32::try_from(segment).unwrap(),
        };
        let RunOutcome::Rejected { verdict, .. } = outcome(plan, Arc::new(host), 30) else {
            panic!("segment {segment} was not noticed")
        };
        assert!(!verdict.is_intact());
        assert!(
            matches!(&verdict, Verdict::ModelModified { segment: named, .. } if *named as usize == segment),
            "{verdict:?}"
        );
    }
}

/// Blocks of all residues carry the same samples, more points where the server has a key, and two of the
/// settings' points show as much as they would if it had none.
#[test]
fn a_key_at_the_server_costs_points_not_soundness() {
    let plan = relinearized_plan();
    let segments = &plan.public().segments[plan.public().segments_of(0).unwrap()];
    assert!(segments.iter().all(|segment| segment.n_further_points() > 0));
    let owner = client_plan(&plan, SessionOptions::default());
    let per_block = &owner.samples_per_block()[..segments.len()];
    assert!(per_block.iter().all(|n| *n == per_block[0]), "{per_block:?}");
    let options = SessionOptions::default().layout;
    let further = usize::try_from(segments[0].n_further_points()).unwrap();
    let n_checked = options.network_canaries + options.random_points + further;
    assert_eq!(per_block[0] + n_checked, segments[0].ring.ring_degree as usize);
    let found = owner.soundness(per_block[0]).unwrap().every_slot_change_bits.unwrap();
    let without_key = segments
        .iter()
        .map(|segment| segment.ring.log2_plaintext_modulus() - f64::from(segment.n_squares()))
        .fold(f64::MAX, f64::min);
    assert!(found >= 2.0 * without_key, "{found} bits beside {}", 2.0 * without_key);
    // With replicas, and more samples than a block holds.
    for (n, replicas) in [(per_block[0] + 1, 1), (per_block[0] / 2 + 1, 2)] {
        let size = RunSize { n_samples: n as u64, canaries_per_block: 5, replicas };
        let cost = forecast(plan.public(), &size).unwrap();
        let blocks: Vec<u64> = cost.segments.iter().map(|segment| segment.blocks).collect();
        assert!(blocks[..segments.len()].iter().all(|n| *n == blocks[0]), "{blocks:?}");
    }
}
