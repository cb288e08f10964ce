//! What a server sees of a client depends on public counts and on one verdict per round, on nothing else:
//! not on values, clamps and wraps, not on which block failed, not on an earlier batch.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use nn_poly::integer::IntegerMatrix;
use nn_poly::plan::{ActivationSide, Plan};
use protocol::frame::Frame;
use protocol::message::ClientMessage;
use protocol::runner::{RunOptions, RunOutcome, RunProgress, Silent, run};
use protocol::server::service::PlanHost;
use protocol::session::{BatchSession, ClientPlan, Tally};
use securedl_tests::batch::{Outcome, run_on};
use securedl_tests::dishonest::{Cheat, DishonestHost, Victims};
use securedl_tests::loopback::{impatient, runtime, server, shelf};
use securedl_tests::models::{TinyModel, client_plan, samples, session_options};
use securedl_tests::relay::{Relay, Toward};

/// A frame from the client: what it is, and its bytes.
type Sent = (&'static str, Bytes);

/// Everything the client of a batch sends to this host, in order, and how the batch ends.
fn traffic(
    owner: &Arc<ClientPlan>,
    inputs: &IntegerMatrix,
    host: Arc<dyn PlanHost>,
    seed: u64,
) -> (Vec<Sent>, Outcome) {
    let sent: Arc<Mutex<Vec<Sent>>> = Arc::default();
    let outcome = runtime().block_on(async {
        let seen = Arc::clone(&sent);
        let relay = Relay::new(server(host), move |passing| {
            if passing.toward == Toward::Server {
                let bytes = match &passing.frame {
                    Frame::Control(bytes) => bytes.clone(),
                    Frame::Payload(payload) => payload.data.clone(),
                };
                seen.lock().unwrap().push((passing.name(), bytes));
            }
            vec![passing.frame]
        });
        run_on(owner, inputs, &relay.client(impatient()), seed).await.unwrap()
    });
    let sent = sent.lock().unwrap().clone();
    (sent, outcome)
}

/// Kinds and sizes.
fn outline(sent: &[Sent]) -> Vec<(&'static str, usize)> {
    sent.iter().map(|(name, bytes)| (*name, bytes.len())).collect()
}

/// Requests among the frames, by segment.
fn segments(sent: &[Sent]) -> Vec<u32> {
    sent.iter()
        .filter(|(name, _)| *name != "payload")
        .filter_map(|(_, bytes)| match ClientMessage::decode(bytes).unwrap() {
            ClientMessage::Evaluate(header) => Some(header.segment),
            _ => None,
        })
        .collect()
}

fn tally(outcome: &Outcome) -> &Tally {
    match outcome {
        Outcome::Verified(result) => &result.tally,
        Outcome::Rejected { tally, .. } => tally,
    }
}

fn settings() -> Vec<(Plan, Arc<ClientPlan>)> {
    let sides = [ActivationSide::Server, ActivationSide::Client];
    sides
        .into_iter()
        .map(|side| {
            let plan = TinyModel::dense_quadratic().plan(side, 100);
            let owner = client_plan(&plan, session_options(3, 1));
            (plan, owner)
        })
        .collect()
}

/// A cheat that the checks of this segment notice.
fn noticed(plan: &Plan, segment: usize) -> Cheat {
    if plan.public().segments[segment].evaluates_activation {
        Cheat::DroppedNeuron { output: 0 }
    } else {
        Cheat::FlippedWord { output: 0, word: 3 }
    }
}

#[test]
fn until_the_verdict_nothing_depends_on_which_block_failed_or_whether_one_did() {
    for (plan, owner) in settings() {
        for segment in 0..plan.public().segments.len() {
            let per_block = owner.samples_per_block()[segment];
            let inputs = samples(&plan, 2 * per_block + 1, 31);
            let (honest, ended) = traffic(&owner, &inputs, shelf(&plan), 9);
            assert!(matches!(ended, Outcome::Verified(_)));
            let all = segments(&honest);
            let mut cheated = Vec::new();
            for victim in [Victims::Only(0), Victims::Only(1), Victims::Only(2), Victims::All] {
                let cheat = noticed(&plan, segment);
                let host = DishonestHost::new(&plan, segment, cheat, victim);
                let (sent, ended) = traffic(&owner, &inputs, host, 9);
                assert!(matches!(ended, Outcome::Rejected { .. }), "{victim:?}: {ended:?}");
                // Every block of the round is sent whatever the first ones showed, and then nothing.
                let of_round = all.iter().filter(|&&s| s <= segment as u32).count();
                assert_eq!(segments(&sent), all[..of_round], "{victim:?}");
                assert!(honest.starts_with(&sent), "{victim:?}: byte for byte the honest run's");
                cheated.push(sent);
            }
            assert!(cheated.windows(2).all(|pair| pair[0] == pair[1]), "segment {segment}");
        }
    }
}

#[test]
fn clamps_and_values_out_of_range_never_change_traffic() {
    let (mut n_compared, mut n_clamped) = (0, 0);
    for model in TinyModel::zoo() {
        for side in [ActivationSide::Server, ActivationSide::Client] {
            if !model.suits(side) {
                continue;
            }
            let plan = model.plan(side, 100);
            let owner = client_plan(&plan, session_options(3, 1));
            let ordinary = samples(&plan, 40, 31);
            let input = &plan.public().input;
            let zero = 0.clamp(input.min(), input.max());
            let extremes = [
                IntegerMatrix::from_elem(ordinary.dim(), input.max()),
                IntegerMatrix::from_elem(ordinary.dim(), zero),
                ordinary.mapv(|x| if x % 2 == 0 { input.min() } else { input.max() }),
            ];
            let (expected, ended) = traffic(&owner, &ordinary, shelf(&plan), 9);
            let usual = tally(&ended).n_clamped;
            for inputs in &extremes {
                let (sent, ended) = traffic(&owner, inputs, shelf(&plan), 9);
                assert!(matches!(ended, Outcome::Verified(_)), "{ended:?}");
                assert_eq!(outline(&sent), outline(&expected));
                n_compared += 1;
                n_clamped += u32::from(tally(&ended).n_clamped != usual);
            }
        }
    }
    assert!(n_compared >= 15 && n_clamped > 0, "{n_clamped} of {n_compared} differ in clamps");
}

/// Seeds, numbers and first bytes of the requests of a batch's first round.
fn marks(owner: &Arc<ClientPlan>, inputs: &IntegerMatrix) -> Vec<Vec<u8>> {
    let session = BatchSession::new(owner, inputs.clone()).unwrap();
    let mut marks = Vec::new();
    for index in 0..session.n_blocks() {
        let block = session.prepare(index).unwrap();
        let header = block.request().header();
        marks.push(header.seed.to_vec());
        marks.push(header.request_id.0.to_vec());
        let payload = block.request().payload().to_bytes().unwrap();
        marks.extend(payload.chunks(4096).map(|piece| piece[..64].to_vec()));
    }
    marks
}

#[test]
fn the_next_batch_shares_no_seed_number_or_ciphertext_with_a_failed_one() {
    for (plan, owner) in settings() {
        let inputs = samples(&plan, 9, 31);
        let mut seen = BTreeSet::new();
        for _ in 0..4 {
            // The same samples, again and again, as after a failure.
            for mark in marks(&owner, &inputs) {
                assert!(seen.insert(mark), "something was used twice");
            }
            let host = DishonestHost::new(&plan, 0, noticed(&plan, 0), Victims::All);
            let (_, ended) = traffic(&owner, &inputs, host, 9);
            assert!(matches!(ended, Outcome::Rejected { .. }));
        }
    }
}

#[test]
fn a_rejected_round_ends_the_run_and_its_batch_is_not_sent_again() {
    for (plan, owner) in settings() {
        let inputs = samples(&plan, 2 * owner.samples_per_block()[0] + 1, 31);
        let host = DishonestHost::new(&plan, 0, noticed(&plan, 0), Victims::Only(0));
        let silent: Arc<dyn RunProgress> = Arc::new(Silent);
        let remote = securedl_tests::loopback::in_process(server(host.clone()));
        let options = RunOptions::for_plan(&owner);
        let outcome = runtime().block_on(run(&owner, &inputs, &remote, &options, &silent));
        let RunOutcome::Rejected { batch: 0, tally, .. } = outcome.unwrap() else {
            panic!("the cheat is noticed")
        };
        assert_eq!(tally.rounds, 1);
        assert_eq!(host.n_requests() as u64, tally.blocks, "each block was sent once");
    }
}
