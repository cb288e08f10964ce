//! Requests take the memory that their evaluators declare, and not much less.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

use fingerprint::CanaryPack;
use nn_poly::encrypted::StoragePool;
use nn_poly::encrypted::masked::{MaskKey, MaskedEvaluator};
use protocol::masked::{MaskedPlan, MaskedSession};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use securedl_tests::models::{TinyModel, samples};

use crate::allocator::peak_of;
use crate::turn;

/// Pieces of a reply that a server keeps while the next one is made.
const ON_THEIR_WAY: usize = 3;

/// Answer a request as a server does whose client reads slowly; gives the last pieces of the reply.
fn answer(
    evaluator: &MaskedEvaluator,
    seed: [u8; 32],
    payload: &[u8],
    n_waiting: usize,
) -> VecDeque<Vec<u8>> {
    let mut receiver = evaluator.receive(seed);
    for frame in payload.chunks(1 << 20) {
        receiver.push(frame).unwrap();
    }
    let request = evaluator.open(receiver).unwrap();
    let mut waiting = VecDeque::new();
    let flow = evaluator.evaluate(&request, &mut |piece: Vec<u8>| {
        waiting.push_back(piece);
        if waiting.len() > n_waiting {
            waiting.pop_front();
        }
        ControlFlow::Continue(())
    });
    assert!(flow.unwrap().is_continue());
    waiting
}

/// Everything that a request occupies is declared beforehand, and admission keeps others out for little
/// that is not used. What is declared and what is taken depend on the number of threads: on two here,
/// whatever the machine has.
#[test]
fn masked_requests_take_what_they_declare() {
    let _turn = turn();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    pool.install(requests_take_what_they_declare);
}

fn requests_take_what_they_declare() {
    for model in [TinyModel::dense_quadratic(), TinyModel::wide_dense(24, 70)] {
        let plan = model.masked_plan();
        let pack = CanaryPack::make(&plan, &samples(&plan, 2, 1)).unwrap();
        let client = MaskedPlan::new(plan.public().clone(), pack, 2).unwrap();
        let inputs = samples(&plan, 9, 2);
        let rng = ChaCha20Rng::seed_from_u64(1);
        let mut session = MaskedSession::with_generator(&client, &inputs, rng).unwrap();
        let key = Arc::new(MaskKey::from_bytes(&[1; 32]));
        for stage in 0..plan.public().stages.len() {
            let evaluator = MaskedEvaluator::new(&plan, stage, Arc::clone(&key)).unwrap();
            let request = session.prepare().unwrap();
            let (seed, payload) = (request.header().seed, request.payload().to_bytes().unwrap());
            // Once on each thread before anything is counted: buffers that they keep or share are made.
            let mut replies = rayon::broadcast(|_| answer(&evaluator, seed, &payload, usize::MAX));
            let reply = replies.pop().unwrap();
            // Another evaluator: without spare memory of the first one's, and with a pool that its residues
            // share, as on a server.
            let fresh = MaskedEvaluator::new(&plan, stage, Arc::clone(&key)).unwrap();
            let fresh = fresh.with_pool(&Arc::new(StoragePool::default()));
            let peak = peak_of(|| drop(answer(&fresh, seed, &payload, ON_THEIR_WAY)));
            let declared = usize::try_from(fresh.memory_bytes()).unwrap();
            eprintln!("{} stage {stage}: {peak} bytes of {declared} declared", model.name);
            assert!(peak <= declared, "{} stage {stage}: {peak} > {declared}", model.name);
            assert!(
                2 * declared <= 3 * peak,
                "{} stage {stage}: {declared} for {peak}",
                model.name
            );
            session.open(&reply.into_iter().flatten().collect::<Vec<u8>>()).unwrap();
        }
    }
}
