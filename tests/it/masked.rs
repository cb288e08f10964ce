//! The trust setting masked, end to end: real messages between a client without weights and a server
//! with masks.

use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use fingerprint::{CanaryPack, MaskedVerdict};
use nn_poly::encrypted::masked::{BlockMasks, MaskKey, RequestHash};
use nn_poly::integer::{IntegerMatrix, MaskedEvaluation, NoMasks, StageWeights};
use nn_poly::plan::{ActivationSide, Plan, PublicPlan};
use protocol::client::PreparedRequest;
use protocol::error::{Error, PeerFault};
use protocol::hosting::{HostingError, PlanShelf};
use protocol::identifiers::Digest;
use protocol::masked::{
    BlockOutcome, DECOYS, MaskedCosts, MaskedOptions, MaskedPlan, MaskedResult, MaskedRound,
    MaskedSession, run,
};
use protocol::message::{EvaluateHeader, RefusalCode};
use protocol::runner::{RunProgress, Silent};
use protocol::server::service::{PlanHost, ServiceError};
use protocol::session::{ClientPlan, SessionError};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use securedl_tests::batch::answer;
use securedl_tests::loopback::{in_process, masked_shelf, runtime, server, shelf};
use securedl_tests::models::{TinyModel, samples, session_options};

/// Canaries of a pack, and of a block.
const N_PACKED: usize = 12;
const N_CANARIES: usize = 8;
const KEY: u8 = 5;

static PLAN: LazyLock<Plan> = LazyLock::new(|| TinyModel::dense_quadratic().masked_plan());

/// What the model's owner hands out: the public part as bytes, and a pack.
fn handed_out(plan: &Plan) -> (PublicPlan, CanaryPack) {
    let public = PublicPlan::from_bytes(&plan.public().to_bytes().unwrap()).unwrap();
    let pack = CanaryPack::make(plan, &samples(plan, N_PACKED, 77)).unwrap();
    (public, CanaryPack::from_bytes(&pack.to_bytes().unwrap()).unwrap())
}

fn client(plan: &Plan) -> Arc<MaskedPlan> {
    let (public, pack) = handed_out(plan);
    MaskedPlan::new(public, pack, N_CANARIES).unwrap()
}

fn session(plan: &Arc<MaskedPlan>, inputs: &IntegerMatrix, seed: u64) -> MaskedSession {
    MaskedSession::with_generator(plan, inputs, ChaCha20Rng::seed_from_u64(seed)).unwrap()
}

/// One block on a host, without a server in between; also the hashes of its requests.
fn run_block(mut session: MaskedSession, host: &dyn PlanHost) -> (BlockOutcome, Vec<RequestHash>) {
    let mut hashes = Vec::new();
    loop {
        let request = session.prepare().unwrap();
        hashes.extend(session.request_hash());
        if let MaskedRound::Finished(outcome) = session.open(&answer(host, &request)).unwrap() {
            return (outcome, hashes);
        }
    }
}

/// What the exact network gives for every slot of a session, with the server's masks.
fn expected(plan: &Plan, slots: &[i32], hashes: &[RequestHash]) -> MaskedEvaluation {
    let n_inputs = plan.network().n_inputs();
    let shape = (n_inputs, slots.len() / n_inputs);
    let inputs = IntegerMatrix::from_shape_vec(shape, slots.to_vec()).unwrap();
    let masks = BlockMasks::new(&MaskKey::from_bytes(&[KEY; 32]), plan, hashes);
    plan.simulate_masked(&inputs, &masks).unwrap()
}

#[test]
fn scores_are_those_of_the_network_with_the_servers_masks() {
    let models = [TinyModel::dense_quadratic(), TinyModel::conv_pool_square()];
    for (seed, model) in (0..).zip(models) {
        let plan = model.masked_plan();
        let client = client(&plan);
        let inputs = samples(&plan, 40, seed);
        let session = session(&client, &inputs, seed);
        let (slots, places) =
            (session.slot_inputs().to_vec(), session.sample_slots().unwrap().to_vec());
        let (outcome, hashes) = run_block(session, &*masked_shelf(&plan, KEY));
        let exact = expected(&plan, &slots, &hashes);
        for (sample, &slot) in places.iter().enumerate() {
            let (found, exact) =
                (outcome.scores.column(sample), exact.scores.column(slot as usize));
            assert_eq!(found, exact, "sample {sample}");
        }
        assert_eq!((outcome.n_canaries, outcome.n_failed), (N_CANARIES as u64, 0));
        let plain = plan.simulate_masked(&inputs, &NoMasks).unwrap().scores;
        assert!(exact.n_raised > 0 && plain.dim() == outcome.scores.dim());
    }
}

fn run_on(plan: &Arc<MaskedPlan>, inputs: &IntegerMatrix, host: Arc<dyn PlanHost>) -> MaskedResult {
    try_on(plan, inputs, host).unwrap()
}

fn try_on(
    plan: &Arc<MaskedPlan>,
    inputs: &IntegerMatrix,
    host: Arc<dyn PlanHost>,
) -> Result<MaskedResult, SessionError> {
    let progress: Arc<dyn RunProgress> = Arc::new(Silent);
    runtime().block_on(async {
        let remote = in_process(server(host));
        run(plan, inputs, &remote, MaskedOptions { connections: 2 }, &progress).await
    })
}

#[test]
fn an_honest_server_is_tolerated() {
    let client = client(&PLAN);
    let inputs = samples(&PLAN, client.samples_per_block() + 5, 3);
    let honest = run_on(&client, &inputs, masked_shelf(&PLAN, KEY));
    // Refreshed values are 0 or 1 here, so that no label is decided: nobody is accused, and nothing is
    // verified. The tolerances of a finer grid tell answers apart: see `a_server_that_…`.
    let MaskedVerdict::Unverified { soundness } = honest.verdict else { panic!("{honest:?}") };
    assert_eq!(soundness.n_canaries, N_CANARIES);
    assert!(soundness.false_alarm_bits > 40.0, "{soundness:?}");
    assert!(!soundness.vouches() && soundness.one_percent_bits < 1.0, "{soundness:?}");
    let scores = honest.scores.unwrap();
    assert_eq!(scores.dim(), (3, inputs.ncols()));
    assert_eq!(honest.costs.blocks, 2);
    let of_plan = PLAN.public().segments.iter();
    let up: u64 = of_plan.clone().map(nn_poly::plan::Segment::request_bytes).sum();
    let down: u64 = of_plan.map(nn_poly::plan::Segment::reply_bytes).sum();
    let seeds = 32 * PLAN.public().stages.len() as u64;
    assert_eq!((honest.costs.bytes_up, honest.costs.bytes_down), (2 * (up + seeds), 2 * down));
    // Every score is what some masks give: within the tolerance of the sample itself.
    let tolerated = PLAN.network().masked_scores(&inputs).unwrap();
    for (&score, range) in scores.iter().zip(&tolerated.ranges) {
        assert!(range.contains(score), "{score} outside {range:?}");
    }
}

/// Weights that fit the public part of a plan but compute something else: noticed if it lies beyond the
/// tolerance of a canary.
#[test]
fn altered_weights_are_refuted_as_far_as_they_move_scores() {
    let (public, pack) = handed_out(&PLAN);
    let client = MaskedPlan::new(public.clone(), pack.clone(), N_CANARIES).unwrap();
    let inputs = samples(&PLAN, 6, 1);
    let host = |alter: &dyn Fn(usize, &mut StageWeights)| impostor(&PLAN, alter);
    // Every score is the largest that is proven: still a plan with this public part.
    let highest = public.first_segment(2).unwrap().range.high;
    let is_beyond = |canary| pack.ranges(canary).any(|range| range.high < highest);
    assert!((0..N_PACKED).all(is_beyond), "no tolerance reaches the end of the proven range");
    let constant = host(&|i, numbers| {
        if i == 2 {
            numbers.weights.fill(0);
            numbers.bias.fill(highest);
        }
    });
    let result = run_on(&client, &inputs, constant);
    let MaskedVerdict::Refuted { blocks, n_failed, n_canaries } = result.verdict else {
        panic!("{:?}", result.verdict)
    };
    assert_eq!((blocks, n_failed, n_canaries), (vec![0], N_CANARIES as u64, N_CANARIES as u64));
    assert!(result.scores.is_none());
    assert!(run_on(&client, &inputs, host(&|_, _| ())).scores.is_some());
    // So few inputs on so coarse a grid leave a wide tolerance, and the pack says so.
    assert!(pack.sharpness().width_share > 1.0, "{:?}", pack.sharpness());
}

/// The exact network behind the public part of another, with a mask key.
fn impostor(plan: &Plan, alter: &dyn Fn(usize, &mut StageWeights)) -> Arc<PlanShelf> {
    let mut weights = plan.network().weights().to_vec();
    weights.iter_mut().enumerate().for_each(|(i, numbers)| alter(i, numbers));
    let altered = Plan::new(plan.public().clone(), weights).unwrap();
    let mut shelf = PlanShelf::new().with_mask_key(MaskKey::from_bytes(&[KEY; 32]));
    shelf.insert_as(&altered, Digest(plan.digest().0)).unwrap();
    Arc::new(shelf)
}

/// What the figures of a sharp pack say is noticed, is: answers that ignore the inputs, and wrong labels.
#[test]
fn a_server_that_ignores_inputs_or_mixes_up_labels_is_refuted_by_a_sharp_pack() {
    let plan = TinyModel::fine_grid().masked_plan();
    let client = client(&plan);
    let inputs = samples(&plan, 30, 3);
    let sharpness = client.pack().sharpness();
    assert!(sharpness.width_share < 0.5 && 2 * sharpness.n_decided > N_PACKED, "{sharpness:?}");
    let honest = run_on(&client, &inputs, masked_shelf(&plan, KEY));
    let MaskedVerdict::Tolerated { soundness } = honest.verdict else { panic!("{honest:?}") };
    assert!(soundness.vouches() && soundness.one_sample_bits > 0.0, "{soundness:?}");
    // Scores of whatever inputs, the same for all: without the last layer's weights only its bias is left.
    let ignorant = impostor(&plan, &|i, numbers| {
        if i == 1 {
            numbers.weights.fill(0);
        }
    });
    // The scores of the classes in another order.
    let mixed_up = impostor(&plan, &|i, numbers| {
        if i == 1 {
            let n_hidden = numbers.weights.len() / 3;
            numbers.weights.rotate_left(n_hidden);
            numbers.bias.rotate_left(1);
        }
    });
    for (what, host) in [("ignorant", ignorant), ("mixed up", mixed_up)] {
        let result = run_on(&client, &inputs, host);
        assert!(matches!(result.verdict, MaskedVerdict::Refuted { .. }), "{what}: {result:?}");
        assert!(result.scores.is_none());
        // What was sent does not tell: as much as to an honest server, to the last request.
        let sent = |costs: &MaskedCosts| (costs.blocks, costs.bytes_up, costs.bytes_down);
        assert_eq!(sent(&result.costs), sent(&honest.costs), "{what}");
    }
}

/// The same request again, to the same or another server with the key: the same reply, so that a retry
/// shows nothing new. Another one has other masks.
#[test]
fn a_retry_gets_the_same_bytes_from_any_server_with_the_key() {
    let client = client(&PLAN);
    let inputs = samples(&PLAN, 9, 1);
    let mut first = session(&client, &inputs, 8);
    let request = first.prepare().unwrap();
    let reply = answer(&*masked_shelf(&PLAN, KEY), &request);
    assert_eq!(reply, answer(&*masked_shelf(&PLAN, KEY), &request));
    assert_ne!(reply, answer(&*masked_shelf(&PLAN, KEY + 1), &request));
    // The same generator sends the same bytes.
    let again = session(&client, &inputs, 8).prepare().unwrap();
    assert_eq!(again.payload().to_bytes(), request.payload().to_bytes());
    let other = session(&client, &inputs, 9).prepare().unwrap();
    assert_ne!(other.payload().to_bytes(), request.payload().to_bytes());
    // Opened, the reply goes on with a token that only servers with this key accept.
    first.open(&reply).unwrap();
    let next = first.prepare().unwrap();
    assert_eq!(refusal(&*masked_shelf(&PLAN, KEY + 1), next.header(), payload(&next)), MALFORMED);
    let mut third = session(&client, &inputs, 10);
    third.prepare().unwrap();
    assert!(third.open(&reply).is_err(), "the reply to another request");
}

const MALFORMED: RefusalCode = RefusalCode::MalformedPayload;

fn payload(request: &PreparedRequest) -> Vec<u8> {
    request.payload().to_bytes().unwrap().to_vec()
}

/// The code a client is told, or a panic if the request is answered.
fn refusal(host: &dyn PlanHost, header: &EvaluateHeader, payload: Vec<u8>) -> RefusalCode {
    let service = match host.segment(&header.plan, header.segment) {
        Ok(service) => service,
        Err(refusal) => return refusal.code,
    };
    let mut receiver = service.begin(header.seed).unwrap();
    let code = |error| match error {
        ServiceError::Malformed { .. } => MALFORMED,
        other => panic!("{other}"),
    };
    if let Err(error) = receiver.push(&payload) {
        return code(error);
    }
    let outcome = receiver.evaluate(&mut |_: Bytes| ControlFlow::Continue(()));
    code(outcome.expect_err("a request that should be refused is answered"))
}

/// Requests that carry what they should not, each refused for what it is.
#[test]
fn replayed_reordered_and_altered_requests_are_refused() {
    let client = client(&PLAN);
    let inputs = samples(&PLAN, 9, 1);
    let host = masked_shelf(&PLAN, KEY);
    let mut first = session(&client, &inputs, 1);
    let opening = first.prepare().unwrap();
    first.open(&answer(&*host, &opening)).unwrap();
    let next = first.prepare().unwrap();
    assert!(!answer(&*host, &next).is_empty());
    let header = *next.header();
    // A token altered in its hash, or in its MAC.
    for byte in [0, 63] {
        let mut altered = payload(&next);
        altered[byte] ^= 0x40;
        assert_eq!(refusal(&*host, &header, altered), MALFORMED);
    }
    // The request of one stage to another.
    let other_stage = EvaluateHeader { segment: 2, ..header };
    assert_eq!(refusal(&*host, &other_stage, payload(&next)), MALFORMED);
    // On a plan that differs in its name only, of a server with the same key.
    let renamed = TinyModel { name: "renamed".to_owned(), ..TinyModel::dense_quadratic() };
    let other = renamed.masked_plan();
    assert_eq!(other.private_digest(), PLAN.private_digest());
    let digest = Digest(other.digest().0);
    let replayed = EvaluateHeader { plan: digest, ..header };
    assert_eq!(refusal(&*masked_shelf(&other, KEY), &replayed, payload(&next)), MALFORMED);
    // Stages beyond the last: a request names stages, not residues.
    let beyond = EvaluateHeader { segment: 3, ..header };
    assert_eq!(refusal(&*host, &beyond, payload(&next)), RefusalCode::UnknownSegment);
    assert_eq!(host.models()[0].n_segments, 3);
}

/// Neither setting stands in for the other.
#[test]
fn settings_do_not_mix() {
    let owned = TinyModel::dense_quadratic().plan(ActivationSide::Server, 100);
    let inputs = samples(&PLAN, 20, 1);
    let session_of_owner = ClientPlan::new(PLAN.clone(), session_options(2, 1), &inputs);
    let Err(SessionError::Network(error)) = session_of_owner else { panic!("a masked plan") };
    assert!(error.to_string().contains("masked"), "{error}");
    let (public, pack) = handed_out(&PLAN);
    let of_owner = MaskedPlan::new(owned.public().clone(), pack.clone(), N_CANARIES);
    assert!(matches!(of_owner, Err(SessionError::Network(_))));
    assert!(CanaryPack::make(&owned, &inputs).is_err());
    let other = TinyModel::dense_quadratic().with_seed(4).masked_plan();
    let foreign = MaskedPlan::new(other.public().clone(), pack.clone(), N_CANARIES);
    assert!(matches!(foreign, Err(SessionError::Fingerprint(fingerprint::Error::OtherPlan))));
    for n in [0, N_PACKED + 1] {
        assert!(MaskedPlan::new(public.clone(), pack.clone(), n).is_err(), "{n} canaries");
    }
    let mut keyless = PlanShelf::new();
    assert!(matches!(keyless.insert(&PLAN), Err(HostingError::NoMaskKey { .. })));
    // Of an owner's plan the server has no stages with masks, so the client's request fits nothing.
    let client = MaskedPlan::new(public, pack, N_CANARIES).unwrap();
    let few = samples(&PLAN, 3, 1);
    let mut unmasked = PlanShelf::new();
    unmasked.insert_as(&owned, client.digest()).unwrap();
    let outcome = try_on(&client, &few, Arc::new(unmasked));
    let Err(SessionError::Protocol(Error::Peer(PeerFault::Refused { .. }))) = outcome else {
        panic!("{outcome:?}")
    };
    assert!(shelf(&owned).models().len() == 1);
}

#[test]
fn every_slot_is_a_samples_a_canarys_or_a_decoys() {
    let client = client(&PLAN);
    let n_slots = PLAN.public().segments[0].ring.ring_degree as usize;
    assert_eq!(client.samples_per_block(), n_slots - N_CANARIES - DECOYS);
    let session = session(&client, &samples(&PLAN, 3, 1), 2);
    let grid = PLAN.public().input.interval();
    let slots = session.slot_inputs();
    assert!(slots.iter().all(|&x| grid.contains(x.into())));
    // Three samples: everything else differs from slot to slot, like samples.
    let n_zero = slots[..n_slots].iter().filter(|&&x| x == 0).count();
    assert!(n_zero < n_slots / 4, "{n_zero} zeros in a row");
    assert!(MaskedSession::new(&client, &samples(&PLAN, 0, 1)).is_err());
}

/// The bytes of a pack, and what its owner signs. Another value is another version of packs, or of the plans whose
/// digests are in them.
#[test]
fn golden_bytes_of_a_pack() {
    let (_, pack) = handed_out(&PLAN);
    let hash = blake3::hash(&pack.to_bytes().unwrap()).to_hex().to_string();
    let identity = pack.identity().unwrap().to_string();
    assert_eq!((&hash[..16], &identity[..16]), ("7e6ff4de5669dafc", "287c4f010e9868e8"));
}

#[test]
fn packs_are_checked_when_they_are_read() {
    let (public, pack) = handed_out(&PLAN);
    assert_eq!(pack.n_canaries(), N_PACKED);
    pack.check_plan(&public).unwrap();
    assert!(pack.false_alarm_bits() > 50.0);
    let bytes = pack.to_bytes().unwrap();
    let mut refused = 0;
    for position in 0..bytes.len() {
        let mut altered = bytes.clone();
        altered[position] ^= 1;
        refused += usize::from(CanaryPack::from_bytes(&altered).is_err());
    }
    assert_eq!(refused, bytes.len());
    for length in [0, 10, bytes.len() - 1] {
        assert!(CanaryPack::from_bytes(&bytes[..length]).is_err());
    }
    // Altered under a valid digest: refused or of no plan, and never a panic.
    for position in 20..bytes.len() - 32 {
        let mut altered = bytes.clone();
        altered[position] ^= 0x80;
        let n = altered.len() - 32;
        let digest = blake3::hash(&altered[..n]);
        altered[n..].copy_from_slice(digest.as_bytes());
        if let Ok(read) = CanaryPack::from_bytes(&altered) {
            let _ = (read.check_plan(&public), read.sharpness(), read.is_tolerated(0, &[0, 0, 0]));
        }
    }
}
