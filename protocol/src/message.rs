//! Every control message, and the only code that turns one into bytes or back.
//!
//! A control message is the protocol version (u16) followed by the message in bincode with fixed
//! little-endian integers, so that each message has exactly one encoding. Decoding is bounded by a
//! byte limit per direction, never allocates more than the bytes at hand justify, and rejects
//! bytes after the end. Payloads never pass through here: they travel in raw
//! [payload frames](crate::frame::PayloadFrame). `docs/protocol.md` lists the bytes.

mod refusal;

use std::fmt;

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bytes::{BufMut, Bytes};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

pub use self::refusal::{Refusal, RefusalCode};
use crate::access::Token;
use crate::error::{InternalError, Malformed, Misuse, Result};
use crate::identifiers::{Digest, Label, RequestId};
use crate::identity::{PublicIdentity, Signature};
use crate::limits::{MAX_CLIENT_MESSAGE_BYTES, MAX_MODELS, MAX_SERVER_MESSAGE_BYTES};
use crate::signature::OwnerSignature;
use crate::transcript::ReplyShape;

/// Version of everything on the wire. It changes whenever a byte changes its meaning.
pub const PROTOCOL_VERSION: u16 = 2;

type Wire<const LIMIT: usize> = Configuration<LittleEndian, Fixint, Limit<LIMIT>>;

/// What a client may say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientMessage {
    /// First message of a connection.
    Hello {
        /// The client program, for the server's log. Means nothing for access.
        client_name: Label,
        /// What lets the client in, unless its certificate does.
        token: Option<Token>,
    },
    /// Ask for the list of models.
    ListModels,
    /// Ask for the public part of a plan.
    FetchPlan {
        /// The plan.
        plan: Digest,
    },
    /// Ask to evaluate one segment. The payload follows once the server admits it.
    Evaluate(EvaluateHeader),
    /// Stop a request.
    Cancel {
        /// The request.
        request_id: RequestId,
    },
    /// Last message of a connection.
    Goodbye,
}

/// What a server may say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServerMessage {
    /// Answer to `Hello`.
    Welcome(Welcome),
    /// Answer to `ListModels`.
    Models(#[serde(deserialize_with = "model_list")] Vec<ModelCard>),
    /// Answer to `FetchPlan`: the public part of the plan, as the plan format encodes it.
    Plan(PublicPart),
    /// Answer to `Evaluate`: the payload may come.
    Admitted {
        /// The request.
        request_id: RequestId,
    },
    /// Sign of life while a request is evaluated.
    Progress(Progress),
    /// The reply's payload follows.
    ReplyHeader(ReplyHeader),
    /// Last message of a successful request.
    Receipt(Receipt),
    /// Last message of a cancelled request.
    Cancelled {
        /// The request.
        request_id: RequestId,
    },
    /// Last message of a request that failed, or of the connection.
    Refused(Refusal),
}

/// One request: evaluate a segment of a plan on a block of ciphertexts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvaluateHeader {
    /// The plan (public and private part together).
    pub plan: Digest,
    /// Index of the segment in the plan.
    pub segment: u32,
    /// Number of the request.
    pub request_id: RequestId,
    /// Public seed that expands to the uniform half of every ciphertext.
    pub seed: [u8; 32],
    /// Ciphertexts in the payload.
    pub n_ciphertexts: u32,
    /// Bytes of the payload.
    pub payload_bytes: u64,
}

/// Who the server is and what it takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The server's name, for people.
    pub server_name: Label,
    /// The key that will sign receipts.
    pub identity: PublicIdentity,
    /// Limits the client has to keep.
    pub limits: AnnouncedLimits,
}

/// The server's limits, as far as a client must know them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnouncedLimits {
    /// Data bytes accepted per payload frame.
    pub max_chunk_bytes: u32,
    /// Payload bytes accepted per request.
    pub max_request_bytes: u64,
    /// Payload bytes a reply may have.
    pub max_reply_bytes: u64,
}

/// One entry of the list of models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelCard {
    /// The plan to ask for.
    pub plan: Digest,
    /// The model's name, for people.
    pub name: Label,
    /// Values per sample.
    pub n_inputs: u32,
    /// Classes the model tells apart.
    pub n_classes: u32,
    /// Segments of the plan: rounds of one batch.
    pub n_segments: u32,
    /// Bytes of the public part of the plan.
    pub public_plan_bytes: u32,
    /// The owner's signature, if the server was given one. Who has the public part can check it.
    pub signature: Option<OwnerSignature>,
}

/// The public part of a plan and what its owner says about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicPart {
    /// The encoded public part.
    pub plan: PlanBytes,
    /// The owner's signature, if the server was given one.
    pub signature: Option<OwnerSignature>,
}

/// How far a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The request.
    pub request_id: RequestId,
    /// Payload bytes decoded plus payload bytes produced so far.
    pub done: u64,
    /// Payload bytes of the request and of the reply.
    pub total: u64,
}

/// What follows: the reply's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplyHeader {
    /// The request.
    pub request_id: RequestId,
    /// Ciphertexts in the payload.
    pub n_ciphertexts: u32,
    /// Bytes of the payload.
    pub payload_bytes: u64,
}

impl ReplyHeader {
    /// The reply's size.
    #[must_use]
    pub const fn shape(&self) -> ReplyShape {
        ReplyShape { n_ciphertexts: self.n_ciphertexts, payload_bytes: self.payload_bytes }
    }
}

/// The server's signed statement of what it answered. See [`transcript`](crate::transcript) for the
/// hashes and the signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The request.
    pub request_id: RequestId,
    /// Hash of the request, payload included.
    pub request_hash: Digest,
    /// Hash of the reply, bound to the request.
    pub reply_hash: Digest,
    /// The plan that was evaluated.
    pub plan: Digest,
    /// The segment that was evaluated.
    pub segment: u32,
    /// Busy CPU time of the evaluation in microseconds, as the server claims it.
    pub evaluate_micros: u64,
    /// Signature by the identity in [`Welcome`].
    pub signature: Signature,
}

/// The encoded public part of a plan, opaque to this module.
#[derive(Clone, PartialEq, Eq)]
pub struct PlanBytes(pub Bytes);

impl fmt::Debug for PlanBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PlanBytes({} bytes)", self.0.len())
    }
}

impl Serialize for PlanBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for PlanBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct PlanVisitor;
        impl Visitor<'_> for PlanVisitor {
            type Value = PlanBytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the bytes of a plan")
            }

            // Borrowed from the message, so that a false length allocates nothing.
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> std::result::Result<PlanBytes, E> {
                Ok(PlanBytes(Bytes::copy_from_slice(bytes)))
            }
        }
        deserializer.deserialize_bytes(PlanVisitor)
    }
}

impl ClientMessage {
    /// The message's name in errors and logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Hello { .. } => "Hello",
            Self::ListModels => "ListModels",
            Self::FetchPlan { .. } => "FetchPlan",
            Self::Evaluate(_) => "Evaluate",
            Self::Cancel { .. } => "Cancel",
            Self::Goodbye => "Goodbye",
        }
    }

    /// The bytes of a control frame's body: version, then message.
    ///
    /// # Errors
    /// - [`Misuse::MessageTooLong`]: above [`MAX_CLIENT_MESSAGE_BYTES`].
    /// - [`InternalError::Encode`]: the encoder failed.
    pub fn encode(&self) -> Result<Bytes> {
        if let Self::Hello { token: Some(_), .. } = self {
            return encode_secret(self, self.name());
        }
        encode::<_, MAX_CLIENT_MESSAGE_BYTES>(self, self.name())
    }

    /// Read the body of a control frame.
    ///
    /// # Errors
    /// - [`Malformed::Version`]: another protocol version.
    /// - [`Malformed::Message`], [`Malformed::TrailingBytes`], [`Malformed::FrameTooShort`],
    ///   [`Malformed::FrameTooLong`]: not a message of ours.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        decode::<_, MAX_CLIENT_MESSAGE_BYTES>(bytes)
    }
}

impl ServerMessage {
    /// The message's name in errors and logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Welcome(_) => "Welcome",
            Self::Models(_) => "Models",
            Self::Plan(_) => "Plan",
            Self::Admitted { .. } => "Admitted",
            Self::Progress(_) => "Progress",
            Self::ReplyHeader(_) => "ReplyHeader",
            Self::Receipt(_) => "Receipt",
            Self::Cancelled { .. } => "Cancelled",
            Self::Refused(_) => "Refused",
        }
    }

    /// The bytes of a control frame's body: version, then message.
    ///
    /// # Errors
    /// - [`Misuse::MessageTooLong`]: above [`MAX_SERVER_MESSAGE_BYTES`].
    /// - [`Misuse::TooManyModels`]: more than [`MAX_MODELS`] models.
    /// - [`InternalError::Encode`]: the encoder failed.
    pub fn encode(&self) -> Result<Bytes> {
        if let Self::Models(cards) = self
            && cards.len() > MAX_MODELS
        {
            return Err(Misuse::TooManyModels { actual: cards.len(), limit: MAX_MODELS }.into());
        }
        encode::<_, MAX_SERVER_MESSAGE_BYTES>(self, self.name())
    }

    /// Read the body of a control frame.
    ///
    /// # Errors
    /// - [`Malformed::Version`]: another protocol version.
    /// - [`Malformed::Message`], [`Malformed::TrailingBytes`], [`Malformed::FrameTooShort`],
    ///   [`Malformed::FrameTooLong`]: not a message of ours.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        decode::<_, MAX_SERVER_MESSAGE_BYTES>(bytes)
    }
}

/// Read a list of models. The count in the message is not believed: nothing is reserved for it.
fn model_list<'de, D>(deserializer: D) -> std::result::Result<Vec<ModelCard>, D::Error>
where
    D: Deserializer<'de>,
{
    struct ListVisitor;
    impl<'de> Visitor<'de> for ListVisitor {
        type Value = Vec<ModelCard>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {MAX_MODELS} models")
        }

        fn visit_seq<A>(self, mut cards: A) -> std::result::Result<Vec<ModelCard>, A::Error>
        where
            A: de::SeqAccess<'de>,
        {
            let mut list = Vec::new();
            while let Some(card) = cards.next_element()? {
                if list.len() == MAX_MODELS {
                    return Err(de::Error::invalid_length(MAX_MODELS + 1, &self));
                }
                list.push(card);
            }
            Ok(list)
        }
    }
    deserializer.deserialize_seq(ListVisitor)
}

const fn wire<const LIMIT: usize>() -> Wire<LIMIT> {
    bincode::config::standard().with_little_endian().with_fixed_int_encoding().with_limit::<LIMIT>()
}

fn encode<T: Serialize, const LIMIT: usize>(message: &T, name: &'static str) -> Result<Bytes> {
    let body = bincode::serde::encode_to_vec(message, wire::<LIMIT>())
        .map_err(|source| InternalError::Encode { source: source.into() })?;
    if body.len() > LIMIT {
        let (actual, limit) = (body.len(), LIMIT);
        return Err(Misuse::MessageTooLong { message: name, actual, limit }.into());
    }
    let mut bytes = Vec::with_capacity(2 + body.len());
    bytes.put_u16_le(PROTOCOL_VERSION);
    bytes.extend_from_slice(&body);
    Ok(bytes.into())
}

/// As [`encode`], leaving no copy behind: the bytes are wiped when the last handle is gone.
fn encode_secret<T: Serialize>(message: &T, name: &'static str) -> Result<Bytes> {
    const LIMIT: usize = MAX_CLIENT_MESSAGE_BYTES;
    let mut body = Zeroizing::new([0; LIMIT]);
    let length = bincode::serde::encode_into_slice(message, &mut body[..], wire::<LIMIT>())
        .map_err(|_| Misuse::MessageTooLong { message: name, actual: LIMIT + 1, limit: LIMIT })?;
    // Reserved in full: growing would leave a copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(2 + length));
    bytes.put_u16_le(PROTOCOL_VERSION);
    bytes.extend_from_slice(body.get(..length).unwrap_or_default());
    Ok(Bytes::from_owner(bytes))
}

fn decode<'de, T: Deserialize<'de>, const LIMIT: usize>(bytes: &'de [u8]) -> Result<T> {
    let Some((version, body)) = bytes.split_first_chunk::<2>() else {
        return Err(Malformed::FrameTooShort { actual: bytes.len() }.into());
    };
    let theirs = u16::from_le_bytes(*version);
    if theirs != PROTOCOL_VERSION {
        return Err(Malformed::Version { ours: PROTOCOL_VERSION, theirs }.into());
    }
    if body.len() > LIMIT {
        return Err(Malformed::FrameTooLong { actual: body.len() as u64, limit: LIMIT }.into());
    }
    let (message, used) = bincode::serde::borrow_decode_from_slice(body, wire::<LIMIT>())
        .map_err(|source| Malformed::Message { source: source.into() })?;
    match body.len() - used {
        0 => Ok(message),
        extra => Err(Malformed::TrailingBytes { extra }.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::time::Duration;

    use super::*;
    use crate::error::Error;
    use crate::limits::MAX_PUBLIC_PLAN_BYTES;

    #[test]
    fn the_largest_plan_fits_and_one_byte_more_does_not() {
        let plan = |n| {
            let plan = PlanBytes(vec![7; n].into());
            ServerMessage::Plan(PublicPart { plan, signature: Some(OwnerSignature::for_tests()) })
        };
        let bytes = plan(MAX_PUBLIC_PLAN_BYTES).encode().unwrap();
        assert_eq!(bytes.len(), 2 + MAX_SERVER_MESSAGE_BYTES);
        assert_eq!(ServerMessage::decode(&bytes).unwrap(), plan(MAX_PUBLIC_PLAN_BYTES));
        let error = plan(MAX_PUBLIC_PLAN_BYTES + 1).encode().unwrap_err();
        assert!(matches!(error, Error::Misuse(Misuse::MessageTooLong { .. })), "{error}");
    }

    #[test]
    fn a_list_may_be_full_but_not_longer() {
        let card = ModelCard {
            plan: Digest([1; 32]),
            name: Label::new("x").unwrap(),
            n_inputs: 1,
            n_classes: 2,
            n_segments: 3,
            public_plan_bytes: 4,
            signature: Some(OwnerSignature::for_tests()),
        };
        let mut cards = vec![card.clone(); MAX_MODELS];
        let full = ServerMessage::Models(cards.clone());
        assert_eq!(ServerMessage::decode(&full.encode().unwrap()).unwrap(), full);
        cards.push(card);
        let error = ServerMessage::Models(cards.clone()).encode().unwrap_err();
        assert!(matches!(error, Error::Misuse(Misuse::TooManyModels { .. })), "{error}");
        let bytes = encode::<_, MAX_SERVER_MESSAGE_BYTES>(&ServerMessage::Models(cards), "Models");
        assert!(ServerMessage::decode(&bytes.unwrap()).is_err());
    }

    #[test]
    fn refusal_codes_keep_their_numbers() {
        for (number, code) in RefusalCode::ALL.into_iter().enumerate() {
            let bytes = ServerMessage::Refused(Refusal::new(code)).encode().unwrap();
            let expected = u32::try_from(number).unwrap().to_le_bytes();
            assert_eq!(bytes.get(6..10).unwrap(), expected, "{code:?}");
        }
    }

    #[test]
    fn a_long_retry_time_saturates() {
        let refusal = Refusal::later(RefusalCode::Busy, Duration::MAX);
        assert_eq!(refusal.retry_after_ms, u32::MAX);
        assert_eq!(Refusal::new(RefusalCode::Busy).retry_after(), None);
    }
}
