//! Decoders of bytes, and samples for them.

use std::sync::{Arc, LazyLock};

use bytes::{Bytes, BytesMut};
use fingerprint::{CanaryPack, Fingerprint};
use he_core::{CiphertextBlock, EvaluationKeys, KeySet, Params, ParamsSpec, PublicKey, SecretKey};
use nn_poly::model::Model;
use nn_poly::plan::{ActivationSide, Plan, PublicPlan};
use protocol::access::{AccessList, Token, TokenHash};
use protocol::frame::{Frame, FrameCodec, PayloadFrame};
use protocol::hosting::PlanShelf;
use protocol::identifiers::{Digest, Label, RequestId};
use protocol::identity::{Identity, PublicIdentity, Signature};
use protocol::limits::MAX_FRAME_BYTES;
use protocol::message::{
    AnnouncedLimits, ClientMessage, EvaluateHeader, ModelCard, PlanBytes, Progress, PublicPart,
    Receipt, Refusal, RefusalCode, ReplyHeader, ServerMessage, Welcome,
};
use protocol::server::service::PlanHost;
use protocol::signature::{OwnerKey, OwnerSignature, Subject};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use tokio_util::codec::{Decoder as _, Encoder as _};

use crate::batch::{answer, seeded_session};
use crate::fingerprints::fingerprint_of;
use crate::loopback::shelf;
use crate::models::{TinyModel, client_plan, samples, session_options};

pub(super) static PLAN: LazyLock<Plan> =
    LazyLock::new(|| TinyModel::dense_quadratic().plan(ActivationSide::Server, 100));
static SHELF: LazyLock<Arc<PlanShelf>> = LazyLock::new(|| shelf(&PLAN));
const ID: RequestId = RequestId([3; 16]);

fn digest() -> Digest {
    Digest(PLAN.digest().0)
}

// ---- wire ---------------------------------------------------------------------------------------

fn client() -> Vec<ClientMessage> {
    let name = Label::new("client").expect("plain text");
    vec![
        ClientMessage::Hello { client_name: name.clone(), token: None },
        ClientMessage::Hello { client_name: name, token: Some(Token::from_bytes(&[7; 32])) },
        ClientMessage::ListModels,
        ClientMessage::FetchPlan { plan: digest() },
        ClientMessage::Evaluate(EvaluateHeader {
            plan: digest(),
            segment: 1,
            request_id: ID,
            seed: [5; 32],
            n_ciphertexts: 4,
            payload_bytes: 4096,
        }),
        ClientMessage::Cancel { request_id: ID },
        ClientMessage::Goodbye,
    ]
}

fn server() -> Vec<ServerMessage> {
    let identity = Identity::from_seed(&[9; 32]).public();
    let limits = AnnouncedLimits {
        max_chunk_bytes: 1 << 20,
        max_request_bytes: 1 << 30,
        max_reply_bytes: 9,
    };
    let name = Label::new("server").expect("plain text");
    let card = ModelCard {
        plan: digest(),
        name: name.clone(),
        n_inputs: 4,
        n_classes: 3,
        n_segments: 2,
        public_plan_bytes: 500,
        signature: Some(OwnerKey::from_seed(&[1; 32]).sign(&Subject::of_plan(&PLAN))),
    };
    let receipt = Receipt {
        request_id: ID,
        request_hash: digest(),
        reply_hash: digest(),
        plan: digest(),
        segment: 1,
        evaluate_micros: 77,
        signature: Signature::from_bytes(&[2; 64]),
    };
    vec![
        ServerMessage::Welcome(Welcome { server_name: name, identity, limits }),
        ServerMessage::Models(vec![card.clone(), ModelCard { signature: None, ..card }]),
        ServerMessage::Plan(PublicPart {
            plan: PlanBytes(Bytes::from(vec![8; 300])),
            signature: None,
        }),
        ServerMessage::Admitted { request_id: ID },
        ServerMessage::Progress(Progress { request_id: ID, done: 3, total: 9 }),
        ServerMessage::ReplyHeader(ReplyHeader {
            request_id: ID,
            n_ciphertexts: 3,
            payload_bytes: 900,
        }),
        ServerMessage::Receipt(receipt),
        ServerMessage::Refused(Refusal::new(RefusalCode::Busy)),
        ServerMessage::Cancelled { request_id: ID },
    ]
}

pub(super) fn client_messages() -> Vec<Vec<u8>> {
    client().iter().map(|m| m.encode().expect("it encodes").to_vec()).collect()
}

pub(super) fn server_messages() -> Vec<Vec<u8>> {
    server().iter().map(|m| m.encode().expect("it encodes").to_vec()).collect()
}

pub(super) fn decode_client_message(bytes: &[u8]) {
    if let Ok(message) = ClientMessage::decode(bytes) {
        assert_eq!(message.encode().expect("it encodes"), bytes, "one message, one encoding");
    }
}

pub(super) fn decode_server_message(bytes: &[u8]) {
    if let Ok(message) = ServerMessage::decode(bytes) {
        assert_eq!(message.encode().expect("it encodes"), bytes, "one message, one encoding");
    }
}

pub(super) fn frames() -> Vec<Vec<u8>> {
    let chunk = PayloadFrame { tag: ID.tag(), offset: 0, data: Bytes::from_static(&[6; 90]) };
    let client = client_messages().into_iter().map(|bytes| Frame::Control(bytes.into()));
    let server = server_messages().into_iter().map(|bytes| Frame::Control(bytes.into()));
    let all: Vec<Frame> = client.chain(server).chain([Frame::Payload(chunk)]).collect();
    all.chunks(3)
        .map(|frames| {
            let mut stream = BytesMut::new();
            let mut codec = FrameCodec::new(MAX_FRAME_BYTES);
            for frame in frames {
                codec.encode(frame.clone(), &mut stream).expect("it encodes");
            }
            stream.to_vec()
        })
        .collect()
}

pub(super) fn decode_frames(bytes: &[u8]) {
    for limit in [1 << 10, MAX_FRAME_BYTES] {
        let mut stream = BytesMut::from(bytes);
        let mut codec = FrameCodec::new(limit);
        while let Ok(Some(frame)) = codec.decode(&mut stream) {
            assert!(frame.body_bytes() <= limit);
            if let Frame::Control(message) = frame {
                decode_client_message(&message);
                decode_server_message(&message);
            }
        }
        let _ = codec.decode_eof(&mut stream);
    }
}

/// An honest request to the first segment, and the reply.
fn exchange() -> (Vec<u8>, Vec<u8>) {
    let owner = client_plan(&PLAN, session_options(3, 1));
    let session = seeded_session(&owner, &samples(&PLAN, 9, 1), 5).expect("a session");
    let block = session.prepare(0).expect("a block");
    let request = block.request();
    let payload = request.payload().to_bytes().expect("it is complete").to_vec();
    (payload, answer(SHELF.as_ref(), request))
}

pub(super) fn requests() -> Vec<Vec<u8>> {
    vec![exchange().0]
}

pub(super) fn replies() -> Vec<Vec<u8>> {
    vec![exchange().1]
}

pub(super) fn decode_request(bytes: &[u8]) {
    let service = SHELF.segment(&digest(), 0).expect("the first segment");
    let mut receiver = service.begin([5; 32]).expect("it begins");
    // As frames would cut it.
    for piece in bytes.chunks(10_000) {
        if receiver.push(piece).is_err() {
            return;
        }
    }
}

/// The parameters of the keys and replies here: small, and insecure.
static PARAMS: LazyLock<Params> = LazyLock::new(|| {
    let spec = ParamsSpec::with_bits(64, 65537, &[40, 41]).expect("primes");
    let special = ParamsSpec::with_bits(64, 65537, &[42]).expect("primes").moduli;
    Params::insecure_with_special_moduli(spec, special).expect("parameters")
});

pub(super) fn decode_reply(bytes: &[u8]) {
    let mut block = CiphertextBlock::zeros(&PARAMS, 4, 2, 2).expect("a block");
    let _ = he_core::bytes::read_reply_into(&mut block, 0, bytes);
    let one = he_core::bytes::reply_bytes(&PARAMS, 2, 2);
    if let Some(bytes) = bytes.get(..one) {
        let _ = he_core::bytes::read_reply_into(&mut block, 3, bytes);
    }
}

fn key() -> (SecretKey, ChaCha20Rng) {
    let mut rng = ChaCha20Rng::seed_from_u64(4);
    (SecretKey::generate(&PARAMS, &mut rng), rng)
}

pub(super) fn public_keys() -> Vec<Vec<u8>> {
    let (secret, mut rng) = key();
    vec![PublicKey::generate(&secret, &mut rng).to_bytes()]
}

pub(super) fn decode_public_key(bytes: &[u8]) {
    if let Ok(key) = PublicKey::from_bytes(&PARAMS, bytes) {
        assert_eq!(key.to_bytes(), bytes, "one key, one encoding");
    }
}

pub(super) fn evaluation_keys() -> Vec<Vec<u8>> {
    let (secret, mut rng) = key();
    let set = KeySet::new().with_relinearization().with_rotation(1).with_rotation(2);
    vec![EvaluationKeys::generate(&secret, &set, &mut rng).expect("keys").to_bytes()]
}

pub(super) fn decode_evaluation_keys(bytes: &[u8]) {
    if let Ok(keys) = EvaluationKeys::from_bytes(&PARAMS, 8, bytes) {
        assert_eq!(keys.to_bytes(), bytes, "one set, one encoding");
    }
}

// ---- files --------------------------------------------------------------------------------------

/// Make length and digest of an artifact right.
pub(super) fn seal_artifact(bytes: &mut [u8]) {
    const HEADER: usize = 20;
    if bytes.len() < HEADER + 32 {
        return;
    }
    let end = bytes.len() - 32;
    bytes[12..HEADER].copy_from_slice(&((end - HEADER) as u64).to_le_bytes());
    let digest = blake3::hash(&bytes[..end]);
    bytes[end..].copy_from_slice(digest.as_bytes());
}

pub(super) fn plans() -> Vec<Vec<u8>> {
    let models = [
        TinyModel::dense_quadratic(),
        TinyModel::conv_table_maxima(),
        TinyModel::depthwise_residual(),
    ];
    models
        .iter()
        .flat_map(|model| {
            let sides = [ActivationSide::Server, ActivationSide::Client];
            sides.into_iter().filter(|&side| model.suits(side)).map(|side| model.plan(side, 100))
        })
        .chain([masked_plan()])
        .map(|plan| plan.to_bytes().expect("it encodes"))
        .collect()
}

pub(super) fn decode_plan(bytes: &[u8]) {
    if let Ok(plan) = Plan::from_bytes(bytes) {
        assert_eq!(plan.to_bytes().expect("it encodes"), bytes, "one plan, one encoding");
    }
}

/// A plan of the trust setting masked.
fn masked_plan() -> Plan {
    TinyModel::dense_quadratic().masked_plan()
}

pub(super) fn canary_packs() -> Vec<Vec<u8>> {
    let plan = masked_plan();
    let pack = CanaryPack::make(&plan, &samples(&plan, 5, 4)).expect("a masked plan");
    vec![pack.to_bytes().expect("it encodes")]
}

pub(super) fn decode_canary_pack(bytes: &[u8]) {
    if let Ok(pack) = CanaryPack::from_bytes(bytes) {
        assert_eq!(pack.to_bytes().expect("it encodes"), bytes, "one pack, one encoding");
    }
}

pub(super) fn public_plans() -> Vec<Vec<u8>> {
    let decoded = plans().into_iter().map(|bytes| Plan::from_bytes(&bytes).expect("a plan"));
    decoded.map(|plan| plan.public().to_bytes().expect("it encodes")).collect()
}

pub(super) fn decode_public_plan(bytes: &[u8]) {
    if let Ok(public) = PublicPlan::from_bytes(bytes) {
        assert_eq!(public.to_bytes().expect("it encodes"), bytes, "one plan, one encoding");
    }
}

pub(super) fn models() -> Vec<Vec<u8>> {
    let old = include_bytes!("../../../nn-poly/tests/fixtures/model_v1.sdl").to_vec();
    let new = Model::from_bytes(&old).expect("a model").to_bytes().expect("it encodes");
    vec![old, new]
}

pub(super) fn decode_model(bytes: &[u8]) {
    if let Ok(model) = Model::from_bytes(bytes) {
        assert!(model.to_bytes().is_ok(), "what was read can be written");
    }
}

pub(super) fn fingerprints() -> Vec<Vec<u8>> {
    let made = fingerprint_of(&PLAN, &samples(&PLAN, 6, 2), 1);
    vec![made.to_bytes().expect("it encodes")]
}

pub(super) fn decode_fingerprint(bytes: &[u8]) {
    if let Ok(fingerprint) = Fingerprint::from_bytes(bytes) {
        assert!(fingerprint.to_bytes().is_ok(), "what was read can be written");
    }
}

pub(super) fn signatures() -> Vec<Vec<u8>> {
    let key = OwnerKey::from_seed(&[1; 32]);
    let pack = Subject::Pack { pack: digest(), plan: digest() };
    [Subject::of_plan(&PLAN), Subject::Fingerprint(digest()), pack]
        .iter()
        .map(|subject| key.sign(subject).to_text(subject).into_bytes())
        .collect()
}

pub(super) fn decode_signature(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Some((signature, subject)) = OwnerSignature::from_text(&text) {
        assert_eq!(signature.to_text(&subject), text, "one signature, one text");
    }
}

pub(super) fn access_lists() -> Vec<Vec<u8>> {
    let hash = TokenHash::new(&Token::from_bytes(&[1; 32]), &mut ChaCha20Rng::seed_from_u64(1));
    let text = format!(
        "version = 1\n[[client]]\nname = \"a\"\nplans = [\"*\", \"{}\"]\nrequests_per_minute = 2\n\
         bytes_per_hour = 1000\nconcurrent_requests = 1\n\
         [[token]]\nclient = \"a\"\nhash = \"{hash}\"\nexpires = 1970-01-02\n",
        digest()
    );
    vec![text.into_bytes()]
}

pub(super) fn decode_access_list(bytes: &[u8]) {
    let _ = AccessList::parse(&String::from_utf8_lossy(bytes));
}

pub(super) fn tokens() -> Vec<Vec<u8>> {
    let token = Token::from_bytes(&[1; 32]);
    let hash = TokenHash::new(&token, &mut ChaCha20Rng::seed_from_u64(1));
    let identity = Identity::from_seed(&[9; 32]).public();
    vec![
        token.to_text().as_bytes().to_vec(),
        hash.to_string().into_bytes(),
        identity.to_string().into_bytes(),
    ]
}

pub(super) fn decode_token(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = text.parse::<Token>();
    let _ = text.parse::<TokenHash>();
    let _ = text.parse::<PublicIdentity>();
    let _ = text.parse::<Digest>();
}

pub(super) fn evidence() -> Vec<Vec<u8>> {
    super::files::honest_evidence()
}

pub(super) fn journals() -> Vec<Vec<u8>> {
    super::files::honest_journal()
}
