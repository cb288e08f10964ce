//! What a receipt vouches for: hashes over everything sent and everything received.
//!
//! ```text
//! request hash = BLAKE3_derive_key("securedl protocol 1 request",
//!                  version u16 ‖ plan 32 ‖ segment u32 ‖ request id 16 ‖ seed 32
//!                  ‖ ciphertexts u32 ‖ payload bytes u64 ‖ payload)
//! reply hash   = BLAKE3_derive_key("securedl protocol 1 reply",
//!                  request hash 32 ‖ ciphertexts u32 ‖ payload bytes u64 ‖ payload)
//! signed text  = BLAKE3_derive_key("securedl protocol 1 receipt",
//!                  request id 16 ‖ request hash 32 ‖ reply hash 32 ‖ plan 32 ‖ segment u32
//!                  ‖ busy microseconds u64)
//! ```
//! Integers are little-endian; every field but the payload has a fixed width and the payload's
//! length stands before it, so two different requests never hash the same text. The three contexts
//! keep a hash of one kind from being taken for another.

use std::fmt;

use crate::error::{PeerFault, Result};
use crate::identifiers::{Digest, RequestId};
use crate::identity::{Identity, PublicIdentity, Signature};
use crate::message::{EvaluateHeader, PROTOCOL_VERSION, Receipt};

const REQUEST_CONTEXT: &str = "securedl protocol 1 request";
const REPLY_CONTEXT: &str = "securedl protocol 1 reply";
const RECEIPT_CONTEXT: &str = "securedl protocol 1 receipt";

/// Hash of a request, fed chunk by chunk in any division.
#[derive(Clone)]
pub struct RequestTranscript {
    hasher: blake3::Hasher,
}

impl RequestTranscript {
    /// Start with the header.
    #[must_use]
    pub fn new(header: &EvaluateHeader) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(REQUEST_CONTEXT);
        hasher.update(&PROTOCOL_VERSION.to_le_bytes());
        hasher.update(header.plan.as_bytes());
        hasher.update(&header.segment.to_le_bytes());
        hasher.update(&header.request_id.0);
        hasher.update(&header.seed);
        hasher.update(&header.n_ciphertexts.to_le_bytes());
        hasher.update(&header.payload_bytes.to_le_bytes());
        Self { hasher }
    }

    /// Add the next payload bytes.
    pub fn update(&mut self, chunk: &[u8]) {
        self.hasher.update(chunk);
    }

    /// The hash of everything so far.
    #[must_use]
    pub fn finish(&self) -> Digest {
        Digest(*self.hasher.finalize().as_bytes())
    }
}

impl fmt::Debug for RequestTranscript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestTranscript").finish_non_exhaustive()
    }
}

/// Hash of a reply, bound to the request it answers.
#[derive(Clone)]
pub struct ReplyTranscript {
    hasher: blake3::Hasher,
}

impl ReplyTranscript {
    /// Start with the request's hash and the size of the reply.
    #[must_use]
    pub fn new(request_hash: &Digest, shape: &ReplyShape) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(REPLY_CONTEXT);
        hasher.update(request_hash.as_bytes());
        hasher.update(&shape.n_ciphertexts.to_le_bytes());
        hasher.update(&shape.payload_bytes.to_le_bytes());
        Self { hasher }
    }

    /// Add the next payload bytes.
    pub fn update(&mut self, chunk: &[u8]) {
        self.hasher.update(chunk);
    }

    /// The hash of everything so far.
    #[must_use]
    pub fn finish(&self) -> Digest {
        Digest(*self.hasher.finalize().as_bytes())
    }
}

impl fmt::Debug for ReplyTranscript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplyTranscript").finish_non_exhaustive()
    }
}

/// The size of a reply. The plan fixes it, so the client knows it before the server says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyShape {
    /// Ciphertexts in the reply.
    pub n_ciphertexts: u32,
    /// Payload bytes of the reply.
    pub payload_bytes: u64,
}

/// What a receipt says, before it is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statement {
    /// The request.
    pub request_id: RequestId,
    /// Hash of the request.
    pub request_hash: Digest,
    /// Hash of the reply.
    pub reply_hash: Digest,
    /// The plan that was evaluated.
    pub plan: Digest,
    /// The segment that was evaluated.
    pub segment: u32,
    /// Busy CPU time of the evaluation in microseconds, as the server claims it.
    pub evaluate_micros: u64,
}

impl Statement {
    /// Sign.
    #[must_use]
    pub fn sign(&self, identity: &Identity) -> Receipt {
        Receipt {
            request_id: self.request_id,
            request_hash: self.request_hash,
            reply_hash: self.reply_hash,
            plan: self.plan,
            segment: self.segment,
            evaluate_micros: self.evaluate_micros,
            signature: identity.sign(&self.signed_text()),
        }
    }

    /// Whether this signature of `identity` is under this statement.
    pub(crate) fn is_signed_by(&self, identity: &PublicIdentity, signature: &Signature) -> bool {
        identity.verifies(&self.signed_text(), signature)
    }

    fn signed_text(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key(RECEIPT_CONTEXT);
        hasher.update(&self.request_id.0);
        hasher.update(self.request_hash.as_bytes());
        hasher.update(self.reply_hash.as_bytes());
        hasher.update(self.plan.as_bytes());
        hasher.update(&self.segment.to_le_bytes());
        hasher.update(&self.evaluate_micros.to_le_bytes());
        *hasher.finalize().as_bytes()
    }
}

/// A receipt whose fields equal what this client sent and received, signed by the server.
///
/// It proves to a third party *what* the server answered, not that the answer is right: that is
/// for the checks on the reply itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedReceipt {
    receipt: Receipt,
    identity: PublicIdentity,
}

impl VerifiedReceipt {
    /// The receipt.
    #[must_use]
    pub const fn receipt(&self) -> &Receipt {
        &self.receipt
    }

    /// The identity that signed it.
    #[must_use]
    pub const fn identity(&self) -> &PublicIdentity {
        &self.identity
    }

    /// Hash of the request this receipt belongs to.
    #[must_use]
    pub const fn request_hash(&self) -> &Digest {
        &self.receipt.request_hash
    }
}

impl Receipt {
    /// Check this receipt against what was sent and received.
    ///
    /// The fields are compared before the signature, so that the error names what differs.
    ///
    /// # Errors
    /// - [`PeerFault::ReceiptMismatch`]: a field differs.
    /// - [`PeerFault::ReceiptSignature`]: `identity` did not sign these fields.
    pub fn verify(
        &self,
        header: &EvaluateHeader,
        request_hash: &Digest,
        reply_hash: &Digest,
        identity: &PublicIdentity,
    ) -> Result<VerifiedReceipt> {
        let fields = [
            ("request id", self.request_id == header.request_id),
            ("plan", self.plan == header.plan),
            ("segment", self.segment == header.segment),
            ("request hash", self.request_hash == *request_hash),
            ("reply hash", self.reply_hash == *reply_hash),
        ];
        if let Some((field, _)) = fields.into_iter().find(|(_, equal)| !equal) {
            return Err(PeerFault::ReceiptMismatch { field }.into());
        }
        if !identity.verifies(&self.statement().signed_text(), &self.signature) {
            return Err(PeerFault::ReceiptSignature.into());
        }
        Ok(VerifiedReceipt { receipt: self.clone(), identity: *identity })
    }

    fn statement(&self) -> Statement {
        Statement {
            request_id: self.request_id,
            request_hash: self.request_hash,
            reply_hash: self.reply_hash,
            plan: self.plan,
            segment: self.segment,
            evaluate_micros: self.evaluate_micros,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::error::Error;

    fn header() -> EvaluateHeader {
        EvaluateHeader {
            plan: Digest([1; 32]),
            segment: 2,
            request_id: RequestId([3; 16]),
            seed: [4; 32],
            n_ciphertexts: 5,
            payload_bytes: 6,
        }
    }

    fn request_hash(header: &EvaluateHeader, chunks: &[&[u8]]) -> Digest {
        let mut transcript = RequestTranscript::new(header);
        chunks.iter().for_each(|chunk| transcript.update(chunk));
        transcript.finish()
    }

    #[test]
    fn the_division_into_chunks_does_not_matter_but_every_field_does() {
        let whole = request_hash(&header(), &[b"abcdef"]);
        assert_eq!(whole, request_hash(&header(), &[b"a", b"", b"bcde", b"f"]));
        assert_ne!(whole, request_hash(&header(), &[b"abcdeg"]));
        let alterations: [fn(&mut EvaluateHeader); 6] = [
            |h| h.plan.0 = [9; 32],
            |h| h.segment ^= 1,
            |h| h.request_id.0 = [9; 16],
            |h| h.seed = [9; 32],
            |h| h.n_ciphertexts ^= 1,
            |h| h.payload_bytes ^= 1,
        ];
        for alter in alterations {
            let mut other = header();
            alter(&mut other);
            assert_ne!(whole, request_hash(&other, &[b"abcdef"]), "{other:?}");
        }
    }

    #[test]
    fn a_reply_hash_is_bound_to_its_request_and_its_size() {
        let shape = ReplyShape { n_ciphertexts: 1, payload_bytes: 2 };
        let hash =
            |request: u8, shape| ReplyTranscript::new(&Digest([request; 32]), &shape).finish();
        assert_eq!(hash(1, shape), hash(1, shape));
        assert_ne!(hash(1, shape), hash(2, shape));
        assert_ne!(hash(1, shape), hash(1, ReplyShape { n_ciphertexts: 2, ..shape }));
        assert_ne!(hash(1, shape), hash(1, ReplyShape { payload_bytes: 3, ..shape }));
    }

    #[test]
    fn every_altered_field_of_a_receipt_is_noticed_and_named() {
        let identity = Identity::from_seed(&[8; 32]);
        let (request, reply) = (Digest([5; 32]), Digest([6; 32]));
        let honest = Statement {
            request_id: header().request_id,
            request_hash: request,
            reply_hash: reply,
            plan: header().plan,
            segment: header().segment,
            evaluate_micros: 77,
        }
        .sign(&identity);
        let check = |receipt: &Receipt, identity: &Identity| {
            receipt.verify(&header(), &request, &reply, &identity.public())
        };
        assert_eq!(check(&honest, &identity).unwrap().receipt(), &honest);

        type Alter = fn(&mut Receipt);
        let named: [(&str, Alter); 5] = [
            ("request id", |r| r.request_id.0 = [0; 16]),
            ("plan", |r| r.plan.0 = [0; 32]),
            ("segment", |r| r.segment = 0),
            ("request hash", |r| r.request_hash.0 = [0; 32]),
            ("reply hash", |r| r.reply_hash.0 = [0; 32]),
        ];
        for (expected, alter) in named {
            let mut altered = honest.clone();
            alter(&mut altered);
            let error = check(&altered, &identity).unwrap_err();
            assert!(
                matches!(error, Error::Peer(PeerFault::ReceiptMismatch { field }) if field == expected),
                "{error}"
            );
        }
        let mut altered = honest.clone();
        altered.evaluate_micros += 1;
        for (receipt, identity) in
            [(&altered, &identity), (&honest, &Identity::from_seed(&[9; 32]))]
        {
            let error = check(receipt, identity).unwrap_err();
            assert!(matches!(error, Error::Peer(PeerFault::ReceiptSignature)), "{error}");
        }
    }
}
