//! One batch through real messages, reproducible from a seed.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use fingerprint::Verdict;
use nn_poly::integer::IntegerMatrix;
use protocol::client::{PreparedRequest, RemoteEvaluator, reply_queue};
use protocol::server::service::PlanHost;
use protocol::session::{
    BatchResult, BatchSession, ClientPlan, Lane, OpenedBlock, Result, Round, Tally,
};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use crate::loopback::{in_process, runtime, server};

/// How a batch ended, if not with an error.
#[derive(Debug)]
pub enum Outcome {
    /// Every round was intact; scores are released.
    Verified(BatchResult),
    /// A round was not; there are no scores.
    Rejected {
        /// What was found.
        verdict: Verdict,
        /// Counts up to then.
        tally: Tally,
    },
}

/// Runs one batch in this process against any host, through server, frames and client, with the
/// client's generator taken from `seed` and no second attempts.
///
/// # Errors
/// As [`run_on`].
pub fn run_batch(
    plan: &Arc<ClientPlan>,
    inputs: &IntegerMatrix,
    host: Arc<dyn PlanHost>,
    seed: u64,
) -> Result<Outcome> {
    runtime().block_on(async { run_on(plan, inputs, &in_process(server(host)), seed).await })
}

/// Runs one batch on a remote evaluator, block after block, with the client's generator taken from
/// `seed`: the same seed sends the same bytes.
///
/// # Errors
/// [`protocol::session::SessionError`] of the session or the protocol.
pub async fn run_on(
    plan: &Arc<ClientPlan>,
    inputs: &IntegerMatrix,
    remote: &RemoteEvaluator,
    seed: u64,
) -> Result<Outcome> {
    let mut session = seeded_session(plan, inputs, seed)?;
    loop {
        let round = Arc::new(session);
        let mut blocks = Vec::with_capacity(round.n_blocks());
        for index in 0..round.n_blocks() {
            blocks.push(run_block(&round, index, remote).await?);
        }
        session = Arc::into_inner(round).expect("no block is under way");
        match session.finish_round(blocks)? {
            Round::Continue(next) => session = *next,
            Round::Finished(result) => return Ok(Outcome::Verified(result)),
            Round::Rejected { verdict, tally } => return Ok(Outcome::Rejected { verdict, tally }),
        }
    }
}

/// Encrypts one block, and opens its reply while it arrives.
async fn run_block(
    session: &Arc<BatchSession>,
    index: usize,
    remote: &RemoteEvaluator,
) -> Result<OpenedBlock> {
    let block = session.prepare(index)?;
    let request = block.request().clone();
    let (sink, stream) = reply_queue(1);
    let opening = {
        let session = Arc::clone(session);
        tokio::task::spawn_blocking(move || session.open_stream(block, stream, &Lane::default()))
    };
    let mut ignore = |_: &_| ControlFlow::Continue(());
    let delivery = remote.evaluate_streaming(&request, sink, &mut ignore).await;
    let opened = opening.await.expect("nothing panics");
    delivery?;
    Ok(opened?.expect("a delivered reply is opened"))
}

/// A session whose generator is a function of `seed`.
///
/// # Errors
/// As [`BatchSession::with_generator`].
pub fn seeded_session(
    plan: &Arc<ClientPlan>,
    inputs: &IntegerMatrix,
    seed: u64,
) -> Result<BatchSession> {
    BatchSession::with_generator(plan, inputs.clone(), ChaCha20Rng::seed_from_u64(seed))
}

/// What a host answers to a request, without a server in between.
#[must_use]
pub fn answer(host: &dyn PlanHost, request: &PreparedRequest) -> Vec<u8> {
    let header = request.header();
    let service = host.segment(&header.plan, header.segment).expect("the host has the segment");
    let mut receiver = service.begin(header.seed).expect("the request can be started");
    let payload = request.payload().to_bytes().expect("the payload is complete");
    receiver.push(&payload).expect("the payload is a block of the plan");
    let mut reply = Vec::new();
    let mut sink = |piece: Bytes| {
        reply.extend_from_slice(&piece);
        ControlFlow::Continue(())
    };
    receiver.evaluate(&mut sink).expect("the host answers");
    reply
}
