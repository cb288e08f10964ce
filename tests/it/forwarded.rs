//! A server whose segments are evaluated elsewhere: a server like any other, to its clients.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use nn_poly::encrypted::SegmentEvaluator;
use nn_poly::plan::{ActivationSide, Plan};
use protocol::client::PreparedRequest;
use protocol::error::{Error as ProtocolError, PeerFault, Source};
use protocol::hosting::{Forward, ForwardedRequest, PlanShelf};
use protocol::message::RefusalCode;
use protocol::runner::{RunOptions, RunOutcome, RunProgress, run};
use protocol::session::SessionError;
use protocol::transcript::VerifiedReceipt;
use securedl_tests::batch::{Outcome, run_batch};
use securedl_tests::loopback::{in_process, runtime, server};
use securedl_tests::models::{TinyModel, client_plan, samples, session_options};

/// What an evaluator elsewhere does with a reply.
type Alter = fn(usize, Vec<u8>) -> Result<Vec<u8>, Source>;

struct Elsewhere {
    segments: Vec<SegmentEvaluator>,
    alter: Alter,
}

impl Forward for Elsewhere {
    fn evaluate(
        &self,
        request: ForwardedRequest,
        wanted: &mut dyn FnMut() -> bool,
    ) -> Result<Bytes, Source> {
        assert!(wanted(), "somebody waits");
        let ForwardedRequest { segment, bytes } = request;
        let evaluator = &self.segments[segment];
        let (seed, payload) = bytes.split_first_chunk().expect("a seed");
        let mut receiver = evaluator.receive(*seed)?;
        receiver.push(payload)?;
        let mut reply = Vec::new();
        let _ = evaluator.evaluate(&receiver.finish()?, &mut |piece| {
            reply.extend(piece);
            ControlFlow::Continue(())
        })?;
        Ok((self.alter)(segment, reply)?.into())
    }
}

fn host(plan: &Plan, alter: Alter) -> Arc<PlanShelf> {
    let public = plan.public();
    let segments = public.segments.iter().enumerate().map(|(number, segment)| {
        let (structure, weights) = plan.network().stage(segment.stage as usize).unwrap();
        SegmentEvaluator::new(number, segment, structure, weights).unwrap()
    });
    let forward: Arc<dyn Forward> = Arc::new(Elsewhere { segments: segments.collect(), alter });
    let mut shelf = PlanShelf::new();
    let digest = shelf.insert_forwarded(plan, &forward).unwrap();
    assert_eq!(digest.0, plan.digest().0);
    Arc::new(shelf)
}

#[derive(Default)]
struct Receipts(Mutex<Vec<VerifiedReceipt>>);

impl RunProgress for Receipts {
    fn round_started(&self, _: usize, _: usize, _: usize, _: usize, _: usize) {}
    fn block_finished(&self) {}
    fn round_finished(&self) {}
    fn request_answered(&self, _: &PreparedRequest, receipt: &VerifiedReceipt) {
        self.0.lock().unwrap().push(receipt.clone());
    }
}

#[test]
fn a_forwarded_plan_gives_the_scores_and_a_receipt_for_every_block() {
    for side in [ActivationSide::Server, ActivationSide::Client] {
        let plan = TinyModel::dense_quadratic().plan(side, 100);
        let owner = client_plan(&plan, session_options(3, 1));
        let inputs = samples(&plan, owner.samples_per_block()[0] + 5, 78);
        let receipts = Arc::new(Receipts::default());
        let outcome = runtime().block_on(async {
            let remote = in_process(server(host(&plan, |_, reply| Ok(reply))));
            let progress: Arc<dyn RunProgress> = Arc::clone(&receipts) as Arc<dyn RunProgress>;
            run(&owner, &inputs, &remote, &RunOptions::default(), &progress).await.unwrap()
        });
        let RunOutcome::Verified(result) = outcome else { panic!("{outcome:?}") };
        assert_eq!(result.scores, plan.simulate(&inputs).unwrap().scores);
        let receipts = receipts.0.lock().unwrap();
        assert_eq!(receipts.len() as u64, result.tally.blocks);
        assert!(receipts.iter().all(|receipt| receipt.receipt().plan == owner.digest()));
    }
}

#[test]
fn replies_of_another_length_or_none_are_refused_and_altered_ones_are_caught() {
    let plan = TinyModel::dense_quadratic().plan(ActivationSide::Client, 100);
    let owner = client_plan(&plan, session_options(3, 1));
    let inputs = samples(&plan, 4, 79);
    let too_short: Alter = |_, mut reply| {
        reply.pop();
        Ok(reply)
    };
    let too_long: Alter = |_, mut reply| {
        reply.push(0);
        Ok(reply)
    };
    let none: Alter = |_, _| Err("nobody is there".into());
    for alter in [too_short, too_long, none] {
        let error = run_batch(&owner, &inputs, host(&plan, alter), 1).unwrap_err();
        let SessionError::Protocol(ProtocolError::Resource(_) | ProtocolError::Peer(_)) = &error
        else {
            panic!("{error:?}")
        };
        let told = refusal(&error);
        assert_eq!(told, Some(RefusalCode::Internal), "{error}");
    }
    let altered: Alter = |segment, mut reply| {
        if segment == 1 {
            reply[7] ^= 1;
        }
        Ok(reply)
    };
    match run_batch(&owner, &inputs, host(&plan, altered), 1).unwrap() {
        Outcome::Rejected { verdict, .. } => assert!(!verdict.is_intact()),
        Outcome::Verified(_) => panic!("an altered word passed"),
    }
}

fn refusal(error: &SessionError) -> Option<RefusalCode> {
    let SessionError::Protocol(error) = error else { return None };
    let error = match error {
        ProtocolError::Resource(protocol::error::ResourceError::GaveUp { last, .. }) => last,
        other => other,
    };
    match error {
        ProtocolError::Peer(PeerFault::Refused { code, .. }) => Some(*code),
        _ => None,
    }
}
