//! A request's payload that may still be growing while it is sent.
//!
//! ```text
//!  worker thread                                       connection
//!  PayloadWriter::append ─► [chunk][chunk][chunk]… ◄── RequestPayload::piece, when_available
//!       │ hashes                  kept for retries
//!       └─ finish ─► request hash
//! ```
//! The chunks stay until the last handle is gone, so an attempt that starts late, or again, sends
//! the bytes of the first one. The hash is taken by the writer's thread, before a chunk is shown:
//! whoever has seen the last byte can rely on it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::sync::watch;

use crate::error::{Misuse, ResourceError, Result};
use crate::identifiers::Digest;
use crate::message::EvaluateHeader;
use crate::transcript::RequestTranscript;

/// The bytes of a request, as far as they exist. Cheap to clone; clones are one payload.
#[derive(Clone)]
pub struct RequestPayload {
    shared: Arc<Shared>,
}

struct Shared {
    total: u64,
    chunks: Mutex<Chunks>,
    extent: watch::Sender<Extent>,
}

/// Append-only.
#[derive(Default)]
struct Chunks {
    /// Position of the first byte, and the bytes; never empty.
    list: Vec<(u64, Bytes)>,
    hash: Option<Digest>,
}

/// How far a payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extent {
    available: u64,
    /// The writer is gone and bytes are missing.
    abandoned: bool,
}

impl RequestPayload {
    /// A payload of `header.payload_bytes` bytes, none of which exists yet, and its only writer.
    #[must_use]
    pub fn growing(header: &EvaluateHeader) -> (Self, PayloadWriter) {
        let shared = Arc::new(Shared {
            total: header.payload_bytes,
            chunks: Mutex::default(),
            extent: watch::Sender::new(Extent { available: 0, abandoned: false }),
        });
        let transcript = RequestTranscript::new(header);
        (Self { shared: Arc::clone(&shared) }, PayloadWriter { shared, transcript })
    }

    /// Length when it is complete, in bytes.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.shared.total
    }

    /// Bytes that exist.
    #[must_use]
    pub fn available_bytes(&self) -> u64 {
        self.shared.extent.borrow().available
    }

    /// Whether every byte exists.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.available_bytes() == self.shared.total
    }

    /// Hash of header and payload; `None` until the payload is complete.
    #[must_use]
    pub fn hash(&self) -> Option<Digest> {
        self.chunks().hash
    }

    /// The `length` bytes from `start` on; `None` while one of them does not exist.
    ///
    /// Copies nothing where the bytes lie in one appended chunk.
    ///
    /// # Errors
    /// [`ResourceError::PayloadAbandoned`]: they will never exist.
    pub fn piece(&self, start: u64, length: usize) -> Result<Option<Bytes>> {
        let end = start.saturating_add(length as u64);
        let extent = *self.shared.extent.borrow();
        if end > extent.available {
            let Extent { available, abandoned } = extent;
            let expected = self.shared.total;
            return match abandoned || end > expected {
                true => Err(ResourceError::PayloadAbandoned { expected, available }.into()),
                false => Ok(None),
            };
        }
        Ok(Some(self.chunks().range(start, length)))
    }

    /// Wait until at least `position` bytes exist, or no more ever will; [`piece`](Self::piece)
    /// tells which. May be dropped and called again.
    pub async fn when_available(&self, position: u64) {
        let mut extent = self.shared.extent.subscribe();
        // The sender lives as long as `self`.
        let _ = extent.wait_for(|now| now.available >= position || now.abandoned).await;
    }

    /// Everything in one buffer; `None` until the payload is complete.
    #[must_use]
    pub fn to_bytes(&self) -> Option<Bytes> {
        let total = usize::try_from(self.shared.total).ok()?;
        self.is_complete().then(|| self.chunks().range(0, total))
    }

    /// A panic while the list was held leaves it intact: it is only pushed to.
    fn chunks(&self) -> MutexGuard<'_, Chunks> {
        self.shared.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Chunks {
    /// Bytes that exist, in one piece.
    fn range(&self, start: u64, length: usize) -> Bytes {
        let first = self.list.partition_point(|(position, _)| *position <= start).saturating_sub(1);
        let rest = self.list.get(first..).unwrap_or_default();
        let skipped = rest.first().map_or(0, |(position, _)| start.saturating_sub(*position));
        let mut skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
        let mut joined = BytesMut::new();
        for (_, chunk) in rest {
            let from = skipped.min(chunk.len());
            let to = chunk.len().min(from.saturating_add(length - joined.len()));
            if joined.is_empty() && to - from == length {
                return chunk.slice(from..to);
            }
            if joined.capacity() == 0 {
                joined.reserve(length);
            }
            joined.extend_from_slice(chunk.get(from..to).unwrap_or_default());
            if joined.len() == length {
                break;
            }
            skipped = 0;
        }
        joined.freeze()
    }
}

impl fmt::Debug for RequestPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestPayload")
            .field("total_bytes", &self.total_bytes())
            .field("available_bytes", &self.available_bytes())
            .finish_non_exhaustive()
    }
}

/// Makes a payload grow. Dropped before the payload is complete, it ends the request with
/// [`ResourceError::PayloadAbandoned`].
pub struct PayloadWriter {
    shared: Arc<Shared>,
    transcript: RequestTranscript,
}

impl PayloadWriter {
    /// Add the next bytes. With the last one the payload is complete and has its hash.
    ///
    /// Hashes the bytes on the calling thread: about a millisecond per few megabytes.
    ///
    /// # Errors
    /// [`Misuse::PayloadLength`]: more bytes than the header announces; they are not added.
    pub fn append(&mut self, chunk: impl Into<Bytes>) -> Result<()> {
        let chunk = chunk.into();
        let start = self.shared.extent.borrow().available;
        let end = start.saturating_add(chunk.len() as u64);
        let announced = self.shared.total;
        if end > announced {
            return Err(Misuse::PayloadLength { announced, actual: end }.into());
        }
        if chunk.is_empty() {
            return Ok(());
        }
        self.transcript.update(&chunk);
        {
            let mut chunks = self.shared.chunks.lock().unwrap_or_else(PoisonError::into_inner);
            chunks.list.push((start, chunk));
            chunks.hash = (end == announced).then(|| self.transcript.finish());
        }
        self.shared.extent.send_replace(Extent { available: end, abandoned: false });
        Ok(())
    }

    /// Bytes that are still to come.
    #[must_use]
    pub fn missing_bytes(&self) -> u64 {
        self.shared.total - self.shared.extent.borrow().available
    }

    /// Say that the payload is complete.
    ///
    /// # Errors
    /// [`Misuse::PayloadLength`]: bytes are missing.
    pub fn finish(self) -> Result<()> {
        match self.missing_bytes() {
            0 => Ok(()),
            missing => {
                let announced = self.shared.total;
                Err(Misuse::PayloadLength { announced, actual: announced - missing }.into())
            }
        }
    }
}

impl Drop for PayloadWriter {
    fn drop(&mut self) {
        self.shared.extent.send_modify(|extent| {
            extent.abandoned = extent.available < self.shared.total;
        });
    }
}

impl fmt::Debug for PayloadWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PayloadWriter")
            .field("missing_bytes", &self.missing_bytes())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;
    use crate::error::Error;
    use crate::identifiers::RequestId;

    fn header(payload_bytes: u64) -> EvaluateHeader {
        EvaluateHeader {
            plan: Digest([1; 32]),
            segment: 2,
            request_id: RequestId([3; 16]),
            seed: [4; 32],
            n_ciphertexts: 5,
            payload_bytes,
        }
    }

    fn text(n: usize) -> Bytes {
        (0..=250).cycle().take(n).collect()
    }

    fn is_abandoned(result: &Result<Option<Bytes>>) -> bool {
        matches!(result, Err(Error::Resource(ResourceError::PayloadAbandoned { .. })))
    }

    proptest! {
        /// However a payload is appended: every range of what exists is right, nothing else is
        /// given out, and the hash is that of the whole.
        #[test]
        fn every_cut_gives_the_same_payload(
            lengths in prop::collection::vec(0..40_usize, 1..12),
            start in 0..400_u64,
            length in 1..60_usize,
        ) {
            let whole = text(lengths.iter().sum::<usize>().max(1));
            let (payload, mut writer) = RequestPayload::growing(&header(whole.len() as u64));
            let mut rest = whole.clone();
            let cuts = lengths.iter().copied().chain([usize::MAX]);
            for cut in cuts {
                prop_assert_eq!(payload.hash(), None);
                writer.append(rest.split_to(cut.min(rest.len()))).unwrap();
                let available = whole.len() - rest.len();
                prop_assert_eq!(payload.available_bytes(), available as u64);
                let end = start + length as u64;
                let piece = payload.piece(start, length);
                match usize::try_from(end).unwrap() {
                    end if end <= available => {
                        prop_assert_eq!(piece.unwrap().unwrap(), &whole[end - length..end]);
                    }
                    end if end <= whole.len() => prop_assert_eq!(piece.unwrap(), None),
                    _ => prop_assert!(is_abandoned(&piece)),
                }
                if rest.is_empty() {
                    break;
                }
            }
            writer.finish().unwrap();
            let mut transcript = RequestTranscript::new(&header(whole.len() as u64));
            transcript.update(&whole);
            prop_assert_eq!(payload.hash(), Some(transcript.finish()));
            prop_assert_eq!(payload.to_bytes(), Some(whole));
        }
    }

    #[test]
    fn more_than_was_announced_is_refused_and_less_is_abandoned() {
        let (payload, mut writer) = RequestPayload::growing(&header(10));
        writer.append(text(8)).unwrap();
        assert!(writer.append(text(3)).is_err());
        assert_eq!((payload.available_bytes(), writer.missing_bytes()), (8, 2));
        assert!(writer.finish().is_err());
        assert_eq!(payload.piece(0, 8).unwrap(), Some(text(8)), "what exists can be sent");
        assert!(is_abandoned(&payload.piece(0, 9)));
        assert_eq!((payload.to_bytes(), payload.hash()), (None, None));
    }

    #[test]
    fn a_waiter_is_woken_by_the_bytes_it_waits_for_and_by_the_end() {
        let (payload, mut writer) = RequestPayload::growing(&header(10));
        let mut wait = Box::pin(payload.when_available(5));
        assert!(wait.as_mut().now_or_never().is_none());
        writer.append(text(4)).unwrap();
        assert!(wait.as_mut().now_or_never().is_none());
        // Dropped and asked again: nothing is lost.
        let mut wait = Box::pin(payload.when_available(5));
        writer.append(text(1)).unwrap();
        assert!(wait.as_mut().now_or_never().is_some());
        let mut wait = Box::pin(payload.when_available(10));
        assert!(wait.as_mut().now_or_never().is_none());
        drop(writer);
        assert!(wait.as_mut().now_or_never().is_some());
    }

    #[test]
    fn what_lies_in_one_chunk_is_not_copied() {
        let (payload, mut writer) = RequestPayload::growing(&header(30));
        let chunk = text(20);
        writer.append(chunk.clone()).unwrap();
        writer.append(text(10)).unwrap();
        let piece = payload.piece(5, 15).unwrap().unwrap();
        assert_eq!(piece.as_ptr(), chunk.as_ptr().wrapping_add(5));
    }
}
