//! Hashes what an evaluation produces and cuts it into chunks, on a thread of its own: the evaluation
//! goes on meanwhile.
//!
//! ```text
//!  evaluation ══ one piece ══► scribe ══ two chunks ══► driver
//!                               hashes, cuts
//! ```
//! A slow client holds back the scribe and, through the queue, the evaluation; for how long, see
//! [`outbox`](super::outbox).

use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::{Bytes, BytesMut};

use super::outbox::Outbox;
use crate::identifiers::Digest;
use crate::transcript::{ReplyShape, ReplyTranscript};

/// Pieces between the evaluation and its scribe, besides one at hand on each side.
const QUEUED_PIECES: usize = 1;

/// A queue to a scribe; dropping the sender ends the reply.
pub(super) fn pieces() -> (SyncSender<Bytes>, Receiver<Bytes>) {
    sync_channel(QUEUED_PIECES)
}

/// Turns the pieces of a reply into chunks of equal size and a hash.
pub(super) struct Scribe<'a> {
    /// Hash of the request.
    pub(super) request: &'a Digest,
    pub(super) shape: &'a ReplyShape,
    pub(super) chunk_bytes: usize,
    pub(super) outbox: &'a Outbox,
}

impl Scribe<'_> {
    /// Work until the pieces end; the hash of the reply. `None`: it was not complete, or nobody takes
    /// it any more.
    pub(super) fn run(self, pieces: Receiver<Bytes>) -> Option<Digest> {
        let mut reply = ReplyTranscript::new(self.request, self.shape);
        let mut cutter = Cutter {
            open: BytesMut::new(),
            chunk_bytes: self.chunk_bytes,
            missing: self.shape.payload_bytes,
            outbox: self.outbox,
        };
        for piece in pieces {
            reply.update(&piece);
            if cutter.take(piece).is_break() {
                return None;
            }
        }
        (cutter.missing == 0).then(|| reply.finish())
    }
}

/// Cuts the reply into chunks of equal size, whatever pieces it comes in. Copies only where a chunk
/// has bytes of several pieces.
struct Cutter<'a> {
    /// The beginning of a chunk whose end has not come yet.
    open: BytesMut,
    chunk_bytes: usize,
    /// Bytes of the reply that have not come yet.
    missing: u64,
    outbox: &'a Outbox,
}

impl Cutter<'_> {
    fn take(&mut self, mut piece: Bytes) -> ControlFlow<()> {
        while !piece.is_empty() {
            // The last chunk of a reply may be short.
            let left = usize::try_from(self.missing).unwrap_or(usize::MAX);
            let chunk = self.chunk_bytes.min(self.open.len().saturating_add(left));
            let wanted = chunk - self.open.len();
            if wanted == 0 {
                return ControlFlow::Break(());
            }
            let part = piece.split_to(wanted.min(piece.len()));
            self.missing = self.missing.saturating_sub(part.len() as u64);
            if part.len() == chunk {
                self.send(part)?;
                continue;
            }
            if self.open.is_empty() {
                self.open.reserve(chunk);
            }
            self.open.extend_from_slice(&part);
            if self.open.len() == chunk {
                let whole = std::mem::take(&mut self.open).freeze();
                self.send(whole)?;
            }
        }
        ControlFlow::Continue(())
    }

    fn send(&self, chunk: Bytes) -> ControlFlow<()> {
        match self.outbox.send(chunk, self.missing) {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::server::job::JobEvent;
    use crate::server::outbox::{Events, outbox};

    /// The chunks that wait; the last sender must be gone.
    fn chunks(mut events: Events) -> Vec<Bytes> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut chunks = Vec::new();
        while let Some(event) = runtime.block_on(events.next()) {
            let JobEvent::Chunk(chunk) = event else { panic!("{event:?}") };
            chunks.push(chunk);
        }
        chunks
    }

    /// The chunks and the hash of a reply that comes in pieces of these lengths.
    fn cut(lengths: &[usize], declared: usize) -> (Vec<Bytes>, Option<Digest>) {
        let reply: Bytes = (0..=u8::MAX).cycle().take(lengths.iter().sum()).collect();
        let shape = ReplyShape { n_ciphertexts: 1, payload_bytes: declared as u64 };
        let (outbox, events) = outbox(1000, Box::new(|_| false));
        let (pieces, inbox) = pieces();
        let hash = std::thread::scope(|scope| {
            let (request, shape, outbox) = (Digest([1; 32]), shape, outbox);
            let scribe = scope.spawn(move || {
                Scribe { request: &request, shape: &shape, chunk_bytes: 10, outbox: &outbox }
                    .run(inbox)
            });
            let mut rest = reply.clone();
            for &length in lengths {
                let _ = pieces.send(rest.split_to(length));
            }
            drop(pieces);
            scribe.join().unwrap()
        });
        let chunks = chunks(events);
        let sent: Vec<u8> = chunks.iter().flatten().copied().collect();
        assert_eq!(sent, reply[..sent.len()]);
        (chunks, hash)
    }

    #[test]
    fn chunks_and_hash_do_not_depend_on_the_pieces() {
        let (chunks, hash) = cut(&[35], 35);
        assert_eq!(chunks.iter().map(Bytes::len).collect::<Vec<_>>(), [10, 10, 10, 5]);
        assert!(hash.is_some());
        for lengths in [&[1; 35][..], &[34, 1], &[9, 2, 24], &[10, 10, 10, 5], &[15, 0, 20]] {
            assert_eq!(cut(lengths, 35), (chunks.clone(), hash), "{lengths:?}");
        }
    }

    #[test]
    fn an_incomplete_or_overlong_reply_has_no_hash() {
        assert_eq!(cut(&[20, 14], 35).1, None);
        assert_eq!(cut(&[20, 16], 35).1, None);
        assert_eq!(cut(&[], 35).1, None);
    }

    #[test]
    fn whole_chunks_are_not_copied() {
        let (outbox, events) = outbox(100, Box::new(|_| false));
        let mut cutter =
            Cutter { open: BytesMut::new(), chunk_bytes: 10, missing: 25, outbox: &outbox };
        let piece = Bytes::from(vec![7; 25]);
        let start = piece.as_ptr();
        assert!(cutter.take(piece).is_continue());
        drop(outbox);
        for (i, chunk) in chunks(events).into_iter().enumerate() {
            assert_eq!(chunk.as_ptr(), start.wrapping_add(10 * i));
        }
    }
}
