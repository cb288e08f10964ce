//! Servers that die in the middle of a batch: the batch goes on where it was, with the same bytes.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use nn_poly::plan::{ActivationSide, Plan};
use protocol::hosting::PlanShelf;
use protocol::identifiers::Digest;
use protocol::message::{ModelCard, Refusal};
use protocol::runner::{RunOptions, RunOutcome, RunProgress, Silent, run};
use protocol::server::service::{
    Evaluated, PlanHost, ReplySink, RequestReceiver, SegmentService, ServiceError,
};
use securedl_tests::batch::{Outcome, run_batch, run_on};
use securedl_tests::loopback::{Loopback, client, patient, runtime, server, shelf};
use securedl_tests::models::{TinyModel, client_plan, samples, session_options};

/// What a [`WatchedHost`] does with a request after it was received.
trait Fate: Send + Sync {
    /// Called with the segment; an error fails the request.
    fn decide(&self, segment: u32, seed: [u8; 32], payload: &[u8]) -> Result<(), ServiceError>;

    /// What is sent of a reply; if it is not all of it, the request fails afterwards.
    fn alter(&self, _seed: [u8; 32], reply: Bytes) -> Bytes {
        reply
    }
}

/// An honest host that shows every request to someone first.
struct WatchedHost {
    shelf: Arc<PlanShelf>,
    fate: Arc<dyn Fate>,
}

struct Watched {
    segment: u32,
    service: Arc<dyn SegmentService>,
    fate: Arc<dyn Fate>,
}

struct WatchedRequest {
    segment: u32,
    seed: [u8; 32],
    payload: Vec<u8>,
    receiver: Box<dyn RequestReceiver>,
    fate: Arc<dyn Fate>,
}

impl PlanHost for WatchedHost {
    fn models(&self) -> Vec<ModelCard> {
        self.shelf.models()
    }

    fn public_plan(&self, plan: &Digest) -> Option<Arc<[u8]>> {
        self.shelf.public_plan(plan)
    }

    fn segment(&self, plan: &Digest, segment: u32) -> Result<Arc<dyn SegmentService>, Refusal> {
        let service = self.shelf.segment(plan, segment)?;
        Ok(Arc::new(Watched { segment, service, fate: Arc::clone(&self.fate) }))
    }
}

impl SegmentService for Watched {
    fn request_bytes(&self) -> u64 {
        self.service.request_bytes()
    }

    fn reply_bytes(&self) -> u64 {
        self.service.reply_bytes()
    }

    fn n_inputs(&self) -> u32 {
        self.service.n_inputs()
    }

    fn n_outputs(&self) -> u32 {
        self.service.n_outputs()
    }

    fn memory_bytes(&self) -> u64 {
        self.service.memory_bytes()
    }

    fn begin(&self, seed: [u8; 32]) -> Result<Box<dyn RequestReceiver>, ServiceError> {
        Ok(Box::new(WatchedRequest {
            segment: self.segment,
            seed,
            payload: Vec::new(),
            receiver: self.service.begin(seed)?,
            fate: Arc::clone(&self.fate),
        }))
    }
}

impl RequestReceiver for WatchedRequest {
    fn push(&mut self, bytes: &[u8]) -> Result<(), ServiceError> {
        self.payload.extend_from_slice(bytes);
        self.receiver.push(bytes)
    }

    fn evaluate(self: Box<Self>, sink: &mut ReplySink<'_>) -> Result<Evaluated, ServiceError> {
        let Self { segment, seed, payload, receiver, fate } = *self;
        fate.decide(segment, seed, &payload)?;
        let mut reply = Vec::new();
        let evaluated = receiver.evaluate(&mut |piece| {
            reply.extend_from_slice(&piece);
            ControlFlow::Continue(())
        })?;
        let expected = reply.len();
        let reply = fate.alter(seed, reply.into());
        let n_bytes = reply.len();
        if sink(reply).is_break() {
            return Err(ServiceError::Stopped);
        }
        if n_bytes < expected {
            return Err(ServiceError::Failed { source: "only a part of the reply".into() });
        }
        Ok(evaluated)
    }
}

/// Fails the first attempt of every request and remembers what it saw.
#[derive(Default)]
struct FailsOnce {
    seen: Mutex<BTreeMap<[u8; 32], Vec<Vec<u8>>>>,
}

impl Fate for FailsOnce {
    fn decide(&self, _: u32, seed: [u8; 32], payload: &[u8]) -> Result<(), ServiceError> {
        let mut seen = self.seen.lock().unwrap();
        let attempts = seen.entry(seed).or_default();
        attempts.push(payload.to_vec());
        if attempts.len() == 1 {
            return Err(ServiceError::Failed { source: "the first attempt fails".into() });
        }
        Ok(())
    }
}

#[test]
fn a_second_attempt_sends_the_same_bytes() {
    for side in [ActivationSide::Server, ActivationSide::Client] {
        let plan = TinyModel::dense_quadratic().plan(side, 100);
        let owner = client_plan(&plan, session_options(3, 1));
        let inputs = samples(&plan, 5000, 6);
        let fate = Arc::new(FailsOnce::default());
        let host = Arc::new(WatchedHost { shelf: shelf(&plan), fate: fate.clone() });
        let outcome = runtime().block_on(async {
            let endpoint = protocol::client::Endpoint::in_process(server(host));
            run_on(&owner, &inputs, &client(endpoint, patient()), 3).await.unwrap()
        });
        let Outcome::Verified(result) = outcome else { panic!("{outcome:?}") };
        assert_eq!(result.scores, plan.simulate(&inputs).unwrap().scores);
        let seen = fate.seen.lock().unwrap();
        assert_eq!(seen.len() as u64, result.tally.blocks);
        for attempts in seen.values() {
            let [first, second] = &attempts[..] else { panic!("{} attempts", attempts.len()) };
            assert_eq!(first, second);
        }
        // Counted once, whatever the transport needed.
        let Outcome::Verified(smooth) = run_batch(&owner, &inputs, shelf(&plan), 3).unwrap() else {
            panic!("an honest run");
        };
        assert_eq!(smooth.scores, result.scores);
        assert_eq!(smooth.tally.bytes_up, result.tally.bytes_up);
        assert_eq!(smooth.tally.bytes_down, result.tally.bytes_down);
    }
}

/// Begins the first replies to every request with bytes of its own and breaks off.
struct LiesThenBreaksOff {
    attempts: Mutex<BTreeMap<[u8; 32], usize>>,
    /// What every byte is, attempt by attempt; then replies are honest.
    lies: Vec<u8>,
}

impl Fate for LiesThenBreaksOff {
    fn decide(&self, _: u32, _: [u8; 32], _: &[u8]) -> Result<(), ServiceError> {
        Ok(())
    }

    fn alter(&self, seed: [u8; 32], reply: Bytes) -> Bytes {
        let mut attempts = self.attempts.lock().unwrap();
        let attempt = attempts.entry(seed).or_default();
        *attempt += 1;
        match self.lies.get(*attempt - 1) {
            // Far enough for whole frames and whole ciphertexts, and not the end.
            Some(&lie) => vec![lie; reply.len() * 2 / 3].into(),
            None => reply,
        }
    }
}

#[test]
fn what_a_broken_off_reply_began_with_does_not_count() {
    // Words of 0 are residues, words of ones are none.
    for lies in [vec![0x00], vec![0xff], vec![0x00, 0xff, 0x00]] {
        for side in [ActivationSide::Server, ActivationSide::Client] {
            let plan = TinyModel::dense_quadratic().plan(side, 100);
            let owner = client_plan(&plan, session_options(3, 1));
            let inputs = samples(&plan, 5000, 6);
            let (attempts, lies) = (Mutex::default(), lies.clone());
            let n_attempts = lies.len() + 1;
            let fate = Arc::new(LiesThenBreaksOff { attempts, lies });
            let host = Arc::new(WatchedHost { shelf: shelf(&plan), fate: fate.clone() });
            let silent: Arc<dyn RunProgress> = Arc::new(Silent);
            let outcome = runtime().block_on(async {
                let endpoint = protocol::client::Endpoint::in_process(server(host));
                let remote = client(endpoint, patient());
                run(&owner, &inputs, &remote, &RunOptions::default(), &silent).await.unwrap()
            });
            let RunOutcome::Verified(result) = outcome else { panic!("{outcome:?}") };
            assert_eq!(result.scores, plan.simulate(&inputs).unwrap().scores);
            let attempts = fate.attempts.lock().unwrap();
            assert_eq!(attempts.len() as u64, result.tally.blocks);
            assert!(attempts.values().all(|&n| n == n_attempts), "{attempts:?}");
        }
    }
}

/// Holds the requests to one segment until opened, and counts all of them.
struct Gate {
    held_segment: u32,
    open: Mutex<bool>,
    changed: Condvar,
    is_reached: AtomicBool,
    requests: [AtomicUsize; 8],
}

impl Gate {
    fn new(held_segment: u32, open: bool) -> Arc<Self> {
        Arc::new(Self {
            held_segment,
            open: Mutex::new(open),
            changed: Condvar::new(),
            is_reached: AtomicBool::new(false),
            requests: Default::default(),
        })
    }

    fn counts(&self) -> Vec<usize> {
        self.requests.iter().map(|n| n.load(Ordering::SeqCst)).collect()
    }

    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

impl Fate for Gate {
    fn decide(&self, segment: u32, _: [u8; 32], _: &[u8]) -> Result<(), ServiceError> {
        self.requests[segment as usize].fetch_add(1, Ordering::SeqCst);
        if segment == self.held_segment {
            self.is_reached.store(true, Ordering::SeqCst);
            let open = self.open.lock().unwrap();
            drop(self.changed.wait_while(open, |open| !*open).unwrap());
        }
        Ok(())
    }
}

fn host(plan: &Plan, gate: &Arc<Gate>) -> Arc<WatchedHost> {
    Arc::new(WatchedHost { shelf: shelf(plan), fate: gate.clone() })
}

#[test]
fn a_server_killed_in_the_second_round_and_restarted_lets_the_batch_finish() {
    for side in [ActivationSide::Server, ActivationSide::Client] {
        let plan = TinyModel::dense_quadratic().plan(side, 100);
        let owner = client_plan(&plan, session_options(3, 1));
        let inputs = samples(&plan, 5000, 9);
        let (doomed, reborn) = (Gate::new(1, false), Gate::new(1, true));
        let outcome = runtime().block_on(async {
            let loopback = Loopback::start(server(host(&plan, &doomed))).await;
            let remote = client(loopback.endpoint(), patient());
            let batch = {
                let (owner, inputs) = (Arc::clone(&owner), inputs.clone());
                tokio::spawn(async move {
                    let silent: Arc<dyn RunProgress> = Arc::new(Silent);
                    run(&owner, &inputs, &remote, &RunOptions::default(), &silent).await
                })
            };
            while !doomed.is_reached.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            let (address, directory) = loopback.kill().await;
            doomed.open();
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(!batch.is_finished(), "the client waits for the server");
            let loopback =
                Loopback::start_at(server(host(&plan, &reborn)), address, directory).await;
            let outcome = batch.await.unwrap().unwrap();
            loopback.shut_down().await;
            outcome
        });
        let RunOutcome::Verified(result) = outcome else { panic!("{outcome:?}") };
        let simulated = plan.simulate(&inputs).unwrap();
        assert_eq!(result.scores, simulated.scores);
        assert_eq!(result.tally.rounds, 3);
        // Finished rounds are not repeated.
        let n_blocks = inputs.ncols().div_ceil(owner.samples_per_block()[0]);
        assert_eq!(doomed.counts()[0], n_blocks);
        assert_eq!(reborn.counts()[0], 0, "the first round was over");
        assert!(reborn.counts()[1] > 0 && reborn.counts()[2] > 0);
    }
}
