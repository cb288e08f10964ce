//! Recomputes what a server signed.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use nn_poly::encrypted::{self, SegmentEvaluator};
use nn_poly::plan::{Plan, Trust};

use super::{
    CONTEXT, DIGEST_BYTES, EVIDENCE_MAGIC, EVIDENCE_VERSION, HEAD_BYTES, Head, MAX_PAYLOAD_BYTES,
    TRAILER_BYTES, Trailer, array, read_request,
};
use crate::identifiers::{Digest, RequestId};
use crate::identity::PublicIdentity;
use crate::message::PROTOCOL_VERSION;
use crate::transcript::{ReplyTranscript, RequestTranscript};

/// Bytes read together.
const PIECE_BYTES: usize = 1 << 20;

/// What a file of evidence shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// The server signed a reply that is not the plan's.
    ProvenFault {
        /// First byte of the reply that differs.
        first_byte: u64,
        /// Ciphertexts of the reply that differ.
        n_ciphertexts: u64,
    },
    /// The receipt is not of this request and reply, or not signed by this identity: nothing is
    /// shown about the server.
    ReceiptMismatch {
        /// What differs.
        field: &'static str,
    },
    /// The reply is the plan's.
    ServerWasRight,
    /// The file is not as it was written.
    Altered,
}

/// What was found, and about what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// What the file shows.
    pub finding: Finding,
    /// Who signed the reply, as the file says; proven by the signature unless the receipt does not
    /// match or the file was altered.
    pub identity: PublicIdentity,
    /// The plan.
    pub plan: Digest,
    /// The segment.
    pub segment: u32,
    /// The request.
    pub request_id: RequestId,
}

/// Why evidence cannot be judged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvidenceError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Not evidence.
    #[error("{} is no evidence", path.display())]
    NotEvidence {
        /// The file.
        path: PathBuf,
    },
    /// Of another version.
    #[error(
        "the evidence has format {format} of protocol {protocol}; this program reads format {EVIDENCE_VERSION} of protocol {PROTOCOL_VERSION}"
    )]
    Version {
        /// Format version in the file.
        format: u16,
        /// Protocol version in the file.
        protocol: u16,
    },
    /// Another plan was given.
    #[error("the evidence is about plan {expected}, not about {actual}")]
    OtherPlan {
        /// The plan in the file.
        expected: Digest,
        /// The plan that was given.
        actual: Digest,
    },
    /// The plan has no such segment, or of another shape: an honest server refuses such a request.
    #[error("the request does not fit the plan: {what} differs")]
    OtherShape {
        /// What differs.
        what: &'static str,
    },
    /// The request's ciphertexts are none of this plan: an honest server refuses them.
    #[error("the request cannot be evaluated")]
    Request {
        /// What is wrong with it.
        source: encrypted::Error,
    },
    /// The plan cannot be evaluated.
    #[error("the plan cannot be evaluated")]
    Plan {
        /// What is wrong with it.
        source: nn_poly::Error,
    },
}

/// Judge a file of evidence, with nothing but the plan.
///
/// Reads the file twice, in pieces. Time: one evaluation of the block; memory: what the evaluation
/// takes.
///
/// # Errors
/// [`EvidenceError`]: there is nothing to judge.
pub fn verify(path: &Path, plan: &Plan) -> Result<Report, EvidenceError> {
    let unreadable = |source| EvidenceError::Unreadable { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    let mut source = BufReader::with_capacity(PIECE_BYTES, file);
    let head = read_head(&mut source, path)?;
    let report = |identity, finding| Report {
        finding,
        identity,
        plan: head.request.plan,
        segment: head.request.segment,
        request_id: head.request.request_id,
    };
    let too_long = [head.request.payload_bytes, head.reply.payload_bytes]
        .iter()
        .any(|&bytes| bytes == 0 || bytes > MAX_PAYLOAD_BYTES);
    if too_long || head.file_bytes() != length {
        return Ok(report(PublicIdentity([0; 32]), Finding::Altered));
    }
    let read = read_all(&mut source, &head).map_err(unreadable)?;
    let trailer = read.trailer;
    let report = |finding| report(trailer.identity, finding);
    if !read.is_unaltered {
        return Ok(report(Finding::Altered));
    }
    if let Some(field) = mismatch(&head, &read) {
        return Ok(report(Finding::ReceiptMismatch { field }));
    }
    let actual = Digest(plan.digest().0);
    if actual != head.request.plan {
        return Err(EvidenceError::OtherPlan { expected: head.request.plan, actual });
    }
    let evaluator = evaluator(plan, &head)?;
    recompute(source, &head, &trailer, &evaluator, path).map(report)
}

fn read_head(source: &mut impl Read, path: &Path) -> Result<Head, EvidenceError> {
    let none = |_| EvidenceError::NotEvidence { path: path.to_owned() };
    if array::<8>(source).map_err(none)? != EVIDENCE_MAGIC {
        return Err(EvidenceError::NotEvidence { path: path.to_owned() });
    }
    let format = u16::from_le_bytes(array(source).map_err(none)?);
    let protocol = u16::from_le_bytes(array(source).map_err(none)?);
    if (format, protocol) != (EVIDENCE_VERSION, PROTOCOL_VERSION) {
        return Err(EvidenceError::Version { format, protocol });
    }
    read_request(source).map_err(none)
}

struct Contents {
    trailer: Trailer,
    is_unaltered: bool,
    request_hash: Digest,
    reply_hash: Digest,
}

/// Reads everything after the head once.
fn read_all(source: &mut impl Read, head: &Head) -> io::Result<Contents> {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hasher.update(&head.to_bytes());
    let mut request = RequestTranscript::new(&head.request);
    pieces(source, head.request.payload_bytes, |bytes| {
        hasher.update(bytes);
        request.update(bytes);
    })?;
    let request_hash = request.finish();
    // Bound to the request as it is here.
    let mut reply = ReplyTranscript::new(&request_hash, &head.reply);
    pieces(source, head.reply.payload_bytes, |bytes| {
        hasher.update(bytes);
        reply.update(bytes);
    })?;
    let trailer = array::<TRAILER_BYTES>(source)?;
    hasher.update(&trailer);
    let digest: [u8; DIGEST_BYTES] = array(source)?;
    Ok(Contents {
        trailer: Trailer::read(&mut &trailer[..])?,
        is_unaltered: hasher.finalize() == blake3::Hash::from_bytes(digest),
        request_hash,
        reply_hash: reply.finish(),
    })
}

/// What of the receipt is not about this request and reply.
fn mismatch(head: &Head, read: &Contents) -> Option<&'static str> {
    let trailer = &read.trailer;
    if trailer.request_hash != read.request_hash {
        return Some("request hash");
    }
    if trailer.reply_hash != read.reply_hash {
        return Some("reply hash");
    }
    let is_signed = trailer.statement(head).is_signed_by(&trailer.identity, &trailer.signature);
    (!is_signed).then_some("signature")
}

fn evaluator(plan: &Plan, head: &Head) -> Result<SegmentEvaluator, EvidenceError> {
    // A masked reply is a function of a key that the reader does not have.
    plan.public()
        .expect_trust(Trust::Owner, "judging evidence")
        .map_err(|source| EvidenceError::Plan { source })?;
    let index = head.request.segment as usize;
    let segment = plan
        .public()
        .segments
        .get(index)
        .ok_or(EvidenceError::OtherShape { what: "the number of segments" })?;
    let (structure, weights) = plan
        .network()
        .stage(segment.stage as usize)
        .map_err(|source| EvidenceError::Plan { source })?;
    let evaluator = SegmentEvaluator::new(index, segment, structure, weights)
        .map_err(|source| EvidenceError::Request { source })?;
    let context = evaluator.context();
    let shapes = [
        (
            "the number of ciphertexts",
            u64::from(head.request.n_ciphertexts),
            context.n_inputs() as u64,
        ),
        ("the length of the request", head.request.payload_bytes, context.request_bytes()),
        (
            "the number of ciphertexts of the reply",
            u64::from(head.reply.n_ciphertexts),
            context.n_outputs() as u64,
        ),
        ("the length of the reply", head.reply.payload_bytes, context.reply_bytes()),
    ];
    match shapes.into_iter().find(|(_, claimed, actual)| claimed != actual) {
        Some((what, _, _)) => Err(EvidenceError::OtherShape { what }),
        None => Ok(evaluator),
    }
}

/// Reads the payloads once more and compares; they are hashed again, so that nobody can exchange
/// them between the readings.
fn recompute(
    mut source: BufReader<File>,
    head: &Head,
    trailer: &Trailer,
    evaluator: &SegmentEvaluator,
    path: &Path,
) -> Result<Finding, EvidenceError> {
    let unreadable = |source| EvidenceError::Unreadable { path: path.to_owned(), source };
    let invalid = |source| EvidenceError::Request { source };
    source.seek(SeekFrom::Start(HEAD_BYTES as u64)).map_err(unreadable)?;
    let mut receiver = evaluator.receive(head.request.seed).map_err(invalid)?;
    let mut request = RequestTranscript::new(&head.request);
    let mut outcome = Ok(());
    pieces(&mut source, head.request.payload_bytes, |bytes| {
        request.update(bytes);
        if outcome.is_ok() {
            outcome = receiver.push(bytes);
        }
    })
    .map_err(unreadable)?;
    let request_hash = request.finish();
    if request_hash != trailer.request_hash {
        return Ok(Finding::Altered);
    }
    outcome.map_err(invalid)?;
    let mut reply = ReplyTranscript::new(&request_hash, &head.reply);
    let block = receiver.finish().map_err(invalid)?;
    let mut comparison = Comparison {
        ciphertext_bytes: evaluator.context().reply_ciphertext_bytes().max(1) as u64,
        position: 0,
        first: None,
        last_ciphertext: None,
        n_ciphertexts: 0,
    };
    let mut failure = None;
    let _ = evaluator
        .evaluate(&block, &mut |piece| {
            let mut signed = vec![0; piece.len()];
            if let Err(error) = source.read_exact(&mut signed) {
                failure = Some(error);
                return ControlFlow::Break(());
            }
            reply.update(&signed);
            comparison.compare(&piece, &signed);
            ControlFlow::Continue(())
        })
        .map_err(invalid)?;
    if let Some(error) = failure {
        return Err(unreadable(error));
    }
    if reply.finish() != trailer.reply_hash {
        return Ok(Finding::Altered);
    }
    Ok(match comparison.first {
        None => Finding::ServerWasRight,
        Some(first_byte) => {
            Finding::ProvenFault { first_byte, n_ciphertexts: comparison.n_ciphertexts }
        }
    })
}

struct Comparison {
    ciphertext_bytes: u64,
    position: u64,
    first: Option<u64>,
    last_ciphertext: Option<u64>,
    n_ciphertexts: u64,
}

impl Comparison {
    fn compare(&mut self, right: &[u8], signed: &[u8]) {
        if right != signed {
            let differing = right.iter().zip(signed).enumerate().filter(|(_, (a, b))| a != b);
            for (index, _) in differing {
                let byte = self.position + index as u64;
                self.first.get_or_insert(byte);
                let ciphertext = byte / self.ciphertext_bytes;
                if self.last_ciphertext != Some(ciphertext) {
                    self.last_ciphertext = Some(ciphertext);
                    self.n_ciphertexts += 1;
                }
            }
        }
        self.position += right.len() as u64;
    }
}

fn pieces(source: &mut impl Read, total: u64, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0; PIECE_BYTES];
    let mut missing = total;
    while missing > 0 {
        let length = usize::try_from(missing).unwrap_or(usize::MAX).min(PIECE_BYTES);
        let piece = buffer.get_mut(..length).unwrap_or_default();
        source.read_exact(piece)?;
        take(piece);
        missing -= length as u64;
    }
    Ok(())
}
