//! Errors of the other side: bytes that are not of this protocol, and messages that it forbids.

use std::time::Duration;

use super::Source;
use crate::identifiers::{Digest, RequestId};
use crate::message::RefusalCode;

/// Bytes that are not of this protocol.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// A frame above the limit in force.
    #[error(
        "a frame announces {actual} bytes but at most {limit} are accepted here; the peer speaks another protocol or is hostile"
    )]
    FrameTooLong {
        /// Bytes announced.
        actual: u64,
        /// Bytes accepted.
        limit: usize,
    },
    /// A frame too short for its kind.
    #[error("a frame of {actual} bytes is shorter than its header")]
    FrameTooShort {
        /// Bytes in the frame.
        actual: usize,
    },
    /// A frame kind that does not exist.
    #[error("frame kind {kind} does not exist")]
    UnknownFrameKind {
        /// The first byte of the frame.
        kind: u8,
    },
    /// A payload frame without data.
    #[error("a payload frame holds no data")]
    EmptyChunk,
    /// Another protocol version.
    #[error(
        "the peer speaks protocol version {theirs}, this program version {ours}; update the older of the two"
    )]
    Version {
        /// Our version.
        ours: u16,
        /// The peer's version.
        theirs: u16,
    },
    /// A message that does not decode.
    #[error("a control message does not decode; the peer runs another build or is hostile")]
    Message {
        /// The decoder's reason.
        source: Source,
    },
    /// Bytes after the end of a message.
    #[error("a control message is followed by {extra} more bytes")]
    TrailingBytes {
        /// Bytes left over.
        extra: usize,
    },
    /// A public key that is not a point of the curve.
    #[error("the server's identity is not a usable public key")]
    IdentityKey,
}

/// Well-formed messages that the sender's role forbids, and refusals.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerFault {
    /// A message at the wrong time.
    #[error("the peer sent {message} while {state}; its program does not follow the protocol")]
    Unexpected {
        /// The message.
        message: &'static str,
        /// What we were doing.
        state: &'static str,
    },
    /// A message about another request.
    #[error("the peer answered request {actual} instead of {expected}")]
    WrongRequest {
        /// The request we sent.
        expected: RequestId,
        /// The request in the message.
        actual: RequestId,
    },
    /// A payload frame of another request.
    #[error("a payload frame belongs to another request than {expected}")]
    WrongTag {
        /// The request under way.
        expected: RequestId,
    },
    /// Payload bytes missing, repeated, or out of order.
    #[error("a payload frame starts at byte {actual}; byte {expected} is next")]
    WrongOffset {
        /// Offset of the next byte.
        expected: u64,
        /// Offset in the frame.
        actual: u64,
    },
    /// More payload bytes than announced.
    #[error("the payload passes its announced length of {announced} bytes")]
    PayloadTooLong {
        /// Bytes announced.
        announced: u64,
    },
    /// A reply of another size than the plan says.
    #[error(
        "the reply announces {actual_ciphertexts} ciphertexts in {actual_bytes} bytes; \
         the plan says {expected_ciphertexts} in {expected_bytes}"
    )]
    WrongReplySize {
        /// Ciphertexts by the plan.
        expected_ciphertexts: u32,
        /// Ciphertexts announced.
        actual_ciphertexts: u32,
        /// Bytes by the plan.
        expected_bytes: u64,
        /// Bytes announced.
        actual_bytes: u64,
    },
    /// Progress that runs backwards or past its end.
    #[error("the server reports impossible progress: {done} of {total}")]
    ImpossibleProgress {
        /// Units done.
        done: u64,
        /// Units in all.
        total: u64,
    },
    /// A receipt for something else than was sent and received.
    #[error(
        "the receipt names another {field} than this request: the server answered something else"
    )]
    ReceiptMismatch {
        /// The field that differs.
        field: &'static str,
    },
    /// A receipt that the server's identity did not sign.
    #[error("the receipt's signature is not of the server's identity")]
    ReceiptSignature,
    /// A server with another identity than the one pinned.
    #[error(
        "the server identifies itself as {actual}, not as {expected}; check the address, or the pinned identity"
    )]
    IdentityChanged {
        /// The pinned identity.
        expected: Digest,
        /// The server's identity.
        actual: Digest,
    },
    /// The other side said no.
    #[error("the server refused: {code}")]
    Refused {
        /// Why.
        code: RefusalCode,
        /// When to try again, if the server said so.
        retry_after: Option<Duration>,
    },
}
