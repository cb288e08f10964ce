//! The exact bytes of every message, of a frame, of the hashes, and of a receipt. A difference is a
//! new protocol version and an entry in the change log.

use bytes::{Bytes, BytesMut};
use ed25519_dalek::{Signer, SigningKey};
use protocol::access::Token;
use protocol::frame::{Frame, FrameCodec, PayloadFrame};
use protocol::identifiers::{Digest, RequestId};
use protocol::identity::{Identity, PublicIdentity, Signature};
use protocol::limits::MAX_FRAME_BYTES;
use protocol::message::{
    AnnouncedLimits, ClientMessage, EvaluateHeader, ModelCard, PlanBytes, Progress, PublicPart,
    Receipt, Refusal, RefusalCode, ReplyHeader, ServerMessage, Welcome,
};
use protocol::signature::{OwnerPublic, OwnerSignature};
use protocol::transcript::{ReplyShape, ReplyTranscript, RequestTranscript, Statement};
use tokio_util::codec::Encoder;

use crate::support::label;

fn bytes<const N: usize>(first: u8) -> [u8; N] {
    std::array::from_fn(|i| first.wrapping_add(i as u8))
}

fn request_id() -> RequestId {
    RequestId(bytes(0xd0))
}

fn header() -> EvaluateHeader {
    EvaluateHeader {
        plan: Digest(bytes(0x00)),
        segment: 0x0102_0304,
        request_id: request_id(),
        seed: bytes(0x40),
        n_ciphertexts: 0x1112_1314,
        payload_bytes: 0x2122_2324_2526_2728,
    }
}

const ID: &str = "d0d1d2d3d4d5d6d7d8d9dadbdcdddedf";
const DIGEST_00: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const DIGEST_40: &str = "404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f";
const DIGEST_60: &str = "606162636465666768696a6b6c6d6e6f707172737475767778797a7b7c7d7e7f";
const SIGNATURE_80: &str = "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f\
                            a0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebf";

const REQUEST_HASH: &str = "4a99e923874304eac7f38864276fad815412bd23d6562ea06dcd77a68f34ede3";
const REPLY_HASH: &str = "d41d13cfef1f302ce1155fb53f2043632d7a7c42501e8f0c985b53cf271a5e69";
const SIGNATURE: &str = "9c67a9f4bcf69afc46987f38220b97bae42e8df6e7de54062f2414f96500140349225658503e75da285f61ef584a10f08a12b86f3a32a593fdee1afc673a4808";

/// Every client message with its bytes: version, variant, fields.
pub fn client_messages() -> Vec<(ClientMessage, String)> {
    vec![
        (
            ClientMessage::Hello { client_name: label("ab"), token: None },
            "0200 00000000 0200000000000000 6162 00".into(),
        ),
        (
            ClientMessage::Hello {
                client_name: label("ab"),
                token: Some(Token::from_bytes(&bytes(0x40))),
            },
            format!("0200 00000000 0200000000000000 6162 01 {DIGEST_40}"),
        ),
        (ClientMessage::ListModels, "0200 01000000".into()),
        (
            ClientMessage::FetchPlan { plan: Digest(bytes(0x40)) },
            format!("0200 02000000 {DIGEST_40}"),
        ),
        (
            ClientMessage::Evaluate(header()),
            format!(
                "0200 03000000 {DIGEST_00} 04030201 {ID} {DIGEST_40} 14131211 2827262524232221"
            ),
        ),
        (ClientMessage::Cancel { request_id: request_id() }, format!("0200 04000000 {ID}")),
        (ClientMessage::Goodbye, "0200 05000000".into()),
    ]
}

/// Every server message with its bytes.
pub fn server_messages() -> Vec<(ServerMessage, String)> {
    let limits = AnnouncedLimits {
        max_chunk_bytes: 0x0010_0000,
        max_request_bytes: 0x0a0b,
        max_reply_bytes: 0x0c0d,
    };
    let welcome =
        Welcome { server_name: label("é"), identity: PublicIdentity(bytes(0x40)), limits };
    let card = ModelCard {
        plan: Digest(bytes(0x60)),
        name: label("m"),
        n_inputs: 784,
        n_classes: 10,
        n_segments: 3,
        public_plan_bytes: 0x1234,
        signature: None,
    };
    let owner = OwnerSignature {
        key: OwnerPublic(PublicIdentity(bytes(0x40))),
        signature: Signature::from_bytes(&bytes(0x80)),
    };
    let signed = ModelCard { signature: Some(owner), ..card.clone() };
    let receipt = Receipt {
        request_id: request_id(),
        request_hash: Digest(bytes(0x00)),
        reply_hash: Digest(bytes(0x40)),
        plan: Digest(bytes(0x60)),
        segment: 7,
        evaluate_micros: 0x0102,
        signature: Signature::from_bytes(&bytes(0x80)),
    };
    let id = request_id();
    let reply = ReplyHeader { request_id: id, n_ciphertexts: 5, payload_bytes: 6 };
    let progress = Progress { request_id: id, done: 1, total: 2 };
    let refusal = Refusal { code: RefusalCode::Busy, retry_after_ms: 1500 };
    vec![
        (
            ServerMessage::Welcome(welcome),
            format!(
                "0200 00000000 0200000000000000 c3a9 {DIGEST_40} \
                 00001000 0b0a000000000000 0d0c000000000000"
            ),
        ),
        (
            ServerMessage::Models(vec![card]),
            format!(
                "0200 01000000 0100000000000000 {DIGEST_60} 0100000000000000 6d \
                 10030000 0a000000 03000000 34120000 00"
            ),
        ),
        (
            ServerMessage::Models(vec![signed]),
            format!(
                "0200 01000000 0100000000000000 {DIGEST_60} 0100000000000000 6d \
                 10030000 0a000000 03000000 34120000 01 {DIGEST_40} {SIGNATURE_80}"
            ),
        ),
        (
            ServerMessage::Plan(PublicPart {
                plan: PlanBytes(Bytes::from_static(&[9, 8, 7])),
                signature: None,
            }),
            "0200 02000000 0300000000000000 090807 00".into(),
        ),
        (
            ServerMessage::Plan(PublicPart {
                plan: PlanBytes(Bytes::from_static(&[9, 8, 7])),
                signature: Some(owner),
            }),
            format!("0200 02000000 0300000000000000 090807 01 {DIGEST_40} {SIGNATURE_80}"),
        ),
        (ServerMessage::Admitted { request_id: id }, format!("0200 03000000 {ID}")),
        (
            ServerMessage::Progress(progress),
            format!("0200 04000000 {ID} 0100000000000000 0200000000000000"),
        ),
        (
            ServerMessage::ReplyHeader(reply),
            format!("0200 05000000 {ID} 05000000 0600000000000000"),
        ),
        (
            ServerMessage::Receipt(receipt),
            format!(
                "0200 06000000 {ID} {DIGEST_00} {DIGEST_40} {DIGEST_60} 07000000 \
                 0201000000000000 {SIGNATURE_80}"
            ),
        ),
        (ServerMessage::Cancelled { request_id: id }, format!("0200 07000000 {ID}")),
        (ServerMessage::Refused(refusal), "0200 08000000 08000000 dc050000".into()),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hex_bytes(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn without_spaces(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

#[test]
fn every_message_has_its_published_bytes() {
    for (message, golden) in client_messages() {
        let encoded = message.encode().unwrap();
        assert_eq!(hex(&encoded), without_spaces(&golden), "{}", message.name());
        assert_eq!(ClientMessage::decode(&encoded).unwrap(), message);
    }
    for (message, golden) in server_messages() {
        let encoded = message.encode().unwrap();
        assert_eq!(hex(&encoded), without_spaces(&golden), "{}", message.name());
        assert_eq!(ServerMessage::decode(&encoded).unwrap(), message);
    }
}

#[test]
fn frames_have_their_published_bytes() {
    let control = Frame::Control(ClientMessage::Goodbye.encode().unwrap());
    let payload = Frame::Payload(PayloadFrame {
        tag: request_id().tag(),
        offset: 0x0102_0304,
        data: Bytes::from_static(b"xyz"),
    });
    let cases = [
        (control, "07000000 01 0200 05000000"),
        (payload, "14000000 02 d0d1d2d3d4d5d6d7 0403020100000000 78797a"),
    ];
    for (frame, golden) in cases {
        let mut encoded = BytesMut::new();
        FrameCodec::new(MAX_FRAME_BYTES).encode(frame, &mut encoded).unwrap();
        assert_eq!(hex(&encoded), without_spaces(golden));
    }
}

#[test]
fn hashes_and_receipts_have_their_published_values() {
    let mut request = RequestTranscript::new(&header());
    request.update(b"payload");
    let request_hash = request.finish();
    let plan = hex_bytes(DIGEST_00);
    let text = [
        &[2, 0][..],
        &plan,
        &[4, 3, 2, 1],
        &hex_bytes(ID),
        &hex_bytes(DIGEST_40),
        &[0x14, 0x13, 0x12, 0x11],
        &[0x28, 0x27, 0x26, 0x25, 0x24, 0x23, 0x22, 0x21],
        b"payload",
    ];
    assert_eq!(request_hash.0, blake3::derive_key("securedl protocol 1 request", &text.concat()));
    let shape = ReplyShape { n_ciphertexts: 3, payload_bytes: 5 };
    let mut reply = ReplyTranscript::new(&request_hash, &shape);
    reply.update(b"reply");
    let reply_hash = reply.finish();
    let text = [&request_hash.0[..], &[3, 0, 0, 0], &[5, 0, 0, 0, 0, 0, 0, 0], b"reply"].concat();
    assert_eq!(reply_hash.0, blake3::derive_key("securedl protocol 1 reply", &text));
    let statement = Statement {
        request_id: request_id(),
        request_hash,
        reply_hash,
        plan: header().plan,
        segment: header().segment,
        evaluate_micros: 77,
    };
    let receipt = statement.sign(&Identity::from_seed(&bytes(0x01)));
    let text = [
        &hex_bytes(ID),
        &request_hash.0[..],
        &reply_hash.0,
        &plan,
        &[4, 3, 2, 1],
        &[77, 0, 0, 0, 0, 0, 0, 0],
    ];
    let signed = blake3::derive_key("securedl protocol 1 receipt", &text.concat());
    let signature = SigningKey::from_bytes(&bytes(0x01)).sign(&signed);
    assert_eq!(receipt.signature.to_bytes(), signature.to_bytes());
    assert_eq!(
        [request_hash.to_string(), reply_hash.to_string(), hex(&receipt.signature.to_bytes())],
        [REQUEST_HASH, REPLY_HASH, SIGNATURE].map(without_spaces)
    );
}
