//! What a client can prove: a request, the signed reply to it, and a recomputation that differs.
//!
//! ```text
//!   0  magic "SDLEVID\0"   8 ‖ format version u16 ‖ protocol version u16
//!  12  plan 32 ‖ segment u32 ‖ request id 16 ‖ seed 32 ‖ request: ciphertexts u32, bytes u64
//!      ‖ reply: ciphertexts u32, bytes u64
//! 120  request payload ‖ reply payload
//!      receipt: identity 32 ‖ request hash 32 ‖ reply hash 32 ‖ busy microseconds u64 ‖ signature 64
//!      BLAKE3_derive_key("securedl evidence 1", everything before) 32
//! ```
//! A segment is a pure function of plan and request: any build gives the same bytes. So whoever has
//! the plan can recompute the reply without any key. If the server signed another one, it computed
//! another function; and nobody but the server could have signed it.
//!
//! # Security
//! The file holds ciphertexts under a key that was destroyed with its round, the public seed, and
//! what the server signed; no key, no plan, no sample in the clear. It shows which plan and segment
//! was asked for, when the file was made, and what kind of reply the server gave. It proves a fault
//! of the *identity* in it: that this is the operator's identity, the reader must know.

mod record;
mod verify;

use std::io::{self, Read};

pub use self::record::{Recorded, Recorder};
pub use self::verify::{EvidenceError, Finding, Report, verify};

use crate::identifiers::{Digest, RequestId};
use crate::identity::{PublicIdentity, Signature};
use crate::message::{EvaluateHeader, PROTOCOL_VERSION};
use crate::transcript::{ReplyShape, Statement};

/// First bytes of an evidence file.
pub const EVIDENCE_MAGIC: [u8; 8] = *b"SDLEVID\0";
/// Version of the file's format.
pub const EVIDENCE_VERSION: u16 = 1;
/// File name extension of evidence.
pub const EVIDENCE_EXTENSION: &str = "evidence";

const CONTEXT: &str = "securedl evidence 1";
const HEAD_BYTES: usize = 8 + 2 + 2 + 32 + 4 + 16 + 32 + (4 + 8) + (4 + 8);
const TRAILER_BYTES: usize = 32 + 32 + 32 + 8 + 64;
const DIGEST_BYTES: usize = 32;
/// Largest payload in a file, either way.
const MAX_PAYLOAD_BYTES: u64 = 1 << 40;

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    request: EvaluateHeader,
    reply: ReplyShape,
}

/// What was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Trailer {
    identity: PublicIdentity,
    request_hash: Digest,
    reply_hash: Digest,
    evaluate_micros: u64,
    signature: Signature,
}

impl Head {
    fn to_bytes(self) -> Vec<u8> {
        let Self { request, reply } = self;
        let mut bytes = Vec::with_capacity(HEAD_BYTES);
        bytes.extend_from_slice(&EVIDENCE_MAGIC);
        bytes.extend_from_slice(&EVIDENCE_VERSION.to_le_bytes());
        bytes.extend_from_slice(&PROTOCOL_VERSION.to_le_bytes());
        bytes.extend_from_slice(request.plan.as_bytes());
        bytes.extend_from_slice(&request.segment.to_le_bytes());
        bytes.extend_from_slice(&request.request_id.0);
        bytes.extend_from_slice(&request.seed);
        bytes.extend_from_slice(&request.n_ciphertexts.to_le_bytes());
        bytes.extend_from_slice(&request.payload_bytes.to_le_bytes());
        bytes.extend_from_slice(&reply.n_ciphertexts.to_le_bytes());
        bytes.extend_from_slice(&reply.payload_bytes.to_le_bytes());
        bytes
    }

    /// Length of the whole file.
    fn file_bytes(&self) -> u64 {
        let ends = HEAD_BYTES + TRAILER_BYTES + DIGEST_BYTES;
        self.request.payload_bytes + self.reply.payload_bytes + ends as u64
    }
}

impl Trailer {
    fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(TRAILER_BYTES);
        bytes.extend_from_slice(&self.identity.0);
        bytes.extend_from_slice(self.request_hash.as_bytes());
        bytes.extend_from_slice(self.reply_hash.as_bytes());
        bytes.extend_from_slice(&self.evaluate_micros.to_le_bytes());
        bytes.extend_from_slice(&self.signature.to_bytes());
        bytes
    }

    fn read(source: &mut impl Read) -> io::Result<Self> {
        Ok(Self {
            identity: PublicIdentity(array(source)?),
            request_hash: Digest(array(source)?),
            reply_hash: Digest(array(source)?),
            evaluate_micros: u64::from_le_bytes(array(source)?),
            signature: Signature::from_bytes(&array(source)?),
        })
    }

    fn statement(&self, head: &Head) -> Statement {
        Statement {
            request_id: head.request.request_id,
            request_hash: self.request_hash,
            reply_hash: self.reply_hash,
            plan: head.request.plan,
            segment: head.request.segment,
            evaluate_micros: self.evaluate_micros,
        }
    }
}

/// The fields after the two versions.
fn read_request(source: &mut impl Read) -> io::Result<Head> {
    let request = EvaluateHeader {
        plan: Digest(array(source)?),
        segment: u32::from_le_bytes(array(source)?),
        request_id: RequestId(array(source)?),
        seed: array(source)?,
        n_ciphertexts: u32::from_le_bytes(array(source)?),
        payload_bytes: u64::from_le_bytes(array(source)?),
    };
    let reply = ReplyShape {
        n_ciphertexts: u32::from_le_bytes(array(source)?),
        payload_bytes: u64::from_le_bytes(array(source)?),
    };
    Ok(Head { request, reply })
}

fn array<const N: usize>(source: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    source.read_exact(&mut bytes)?;
    Ok(bytes)
}
