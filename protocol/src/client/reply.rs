//! A reply on its way from a connection to whoever opens it.
//!
//! ```text
//!  Connection ─► ReplySender ═ bounded queue ═► ReplyStream ─► worker thread
//!                  Piece, Piece, Restart, Piece, Piece, Piece, Verified
//! ```
//! A full queue holds back the connection, and through it the server. Nothing that was taken from the
//! stream counts before [`ReplyEvent::Verified`].

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::error::{ResourceError, Result};
use crate::transcript::VerifiedReceipt;

/// What comes out of a [`ReplyStream`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplyEvent {
    /// The next bytes of the reply, in order; never empty.
    Piece(Bytes),
    /// The attempt has failed and another one begins: forget the pieces so far. An honest server
    /// sends the same bytes again, a dishonest one need not.
    Restart,
    /// The pieces since the last restart are the whole reply, and the server has signed them.
    Verified(VerifiedReceipt),
}

/// A queue of at most `capacity` events (at least 1): that many frames' bytes wait in it, and one
/// more at its entrance.
#[must_use]
pub fn reply_queue(capacity: usize) -> (ReplySender, ReplyStream) {
    let (events, queue) = mpsc::channel(capacity.max(1));
    (ReplySender { events, parked: None, is_dirty: false }, ReplyStream { queue })
}

/// The connection's end of a queue.
///
/// Once the other end is gone everything is accepted and dropped: the conversation with the server
/// goes on as if somebody listened.
#[derive(Debug)]
pub struct ReplySender {
    events: mpsc::Sender<ReplyEvent>,
    /// An event there was no room for; nothing is read from the server meanwhile.
    parked: Option<ReplyEvent>,
    /// Whether the other end may have seen a piece of this attempt.
    is_dirty: bool,
}

impl ReplySender {
    /// An attempt begins: take back what an earlier one delivered.
    pub(crate) fn begin_attempt(&mut self) {
        let parked = self.parked.take();
        // A restart that still waits for room must not get lost with its attempt.
        let is_due = self.is_dirty || parked == Some(ReplyEvent::Restart);
        self.is_dirty = false;
        if is_due {
            self.offer(ReplyEvent::Restart);
        }
    }

    /// Hand over the next bytes. Only while not [`is_full`](Self::is_full).
    pub(crate) fn piece(&mut self, bytes: Bytes) {
        self.is_dirty = true;
        self.offer(ReplyEvent::Piece(bytes));
    }

    /// Whether an event waits for room.
    pub(crate) const fn is_full(&self) -> bool {
        self.parked.is_some()
    }

    /// Wait for room for the event that waits. May be dropped and called again.
    pub(crate) async fn room(&mut self) {
        // Closed: nobody wants it.
        let permit = self.events.reserve().await.ok();
        if let (Some(permit), Some(event)) = (permit, self.parked.take()) {
            permit.send(event);
        }
        self.parked = None;
    }

    /// Drop what waits: nobody will look at this attempt.
    pub(crate) fn discard(&mut self) {
        self.parked = None;
    }

    /// The reply is complete.
    pub(crate) async fn finish(&mut self, receipt: VerifiedReceipt) {
        if self.is_full() {
            self.room().await;
        }
        let _ = self.events.send(ReplyEvent::Verified(receipt)).await;
    }

    fn offer(&mut self, event: ReplyEvent) {
        match self.events.try_send(event) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
            Err(mpsc::error::TrySendError::Full(event)) => self.parked = Some(event),
        }
    }
}

/// The taker's end of a queue.
#[derive(Debug)]
pub struct ReplyStream {
    queue: mpsc::Receiver<ReplyEvent>,
}

impl ReplyStream {
    /// The next event; `None` when the request has failed, or after
    /// [`Verified`](ReplyEvent::Verified).
    pub async fn next(&mut self) -> Option<ReplyEvent> {
        self.queue.recv().await
    }

    /// As [`next`](Self::next), for threads.
    ///
    /// # Panics
    /// On a thread that runs asynchronous tasks.
    pub fn blocking_next(&mut self) -> Option<ReplyEvent> {
        self.queue.blocking_recv()
    }

    /// The whole reply; `None` when the request has failed.
    ///
    /// # Errors
    /// [`ResourceError::Memory`]: `n_bytes`, the length by the plan, does not fit in memory.
    pub(crate) async fn collect(mut self, n_bytes: u64) -> Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        while let Some(event) = self.next().await {
            match event {
                ReplyEvent::Piece(piece) => {
                    if bytes.capacity() == 0 {
                        // The size is the plan's, not the server's; still no reason to abort.
                        let length = usize::try_from(n_bytes).unwrap_or(usize::MAX);
                        bytes
                            .try_reserve_exact(length)
                            .map_err(|_| ResourceError::Memory { n_bytes })?;
                    }
                    bytes.extend_from_slice(&piece);
                }
                ReplyEvent::Restart => bytes.clear(),
                ReplyEvent::Verified(_) => return Ok(Some(bytes)),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use futures_util::FutureExt;

    use super::*;

    fn piece(byte: u8) -> Bytes {
        Bytes::from(vec![byte; 3])
    }

    fn taken(stream: &mut ReplyStream) -> Option<ReplyEvent> {
        stream.next().now_or_never().unwrap()
    }

    #[test]
    fn a_queue_holds_its_capacity_and_one_more() {
        let (mut sender, mut stream) = reply_queue(2);
        for byte in 0..2 {
            sender.piece(piece(byte));
            assert!(!sender.is_full());
        }
        sender.piece(piece(2));
        assert!(sender.is_full());
        assert!(sender.room().now_or_never().is_none());
        assert!(sender.is_full(), "a dropped wait loses nothing");
        for byte in 0..2 {
            assert_eq!(taken(&mut stream), Some(ReplyEvent::Piece(piece(byte))));
        }
        assert!(sender.room().now_or_never().is_some());
        assert_eq!(taken(&mut stream), Some(ReplyEvent::Piece(piece(2))));
        drop(sender);
        assert_eq!(taken(&mut stream), None);
    }

    #[test]
    fn a_restart_comes_once_and_only_after_pieces() {
        let (mut sender, mut stream) = reply_queue(4);
        sender.begin_attempt();
        sender.begin_attempt();
        sender.piece(piece(1));
        sender.begin_attempt();
        sender.begin_attempt();
        sender.piece(piece(2));
        drop(sender);
        for expected in
            [ReplyEvent::Piece(piece(1)), ReplyEvent::Restart, ReplyEvent::Piece(piece(2))]
        {
            assert_eq!(taken(&mut stream), Some(expected));
        }
        assert_eq!(taken(&mut stream), None);
    }

    #[test]
    fn a_restart_survives_a_full_queue_and_another_failed_attempt() {
        let (mut sender, mut stream) = reply_queue(1);
        sender.piece(piece(1));
        sender.piece(piece(2));
        sender.begin_attempt();
        assert!(sender.is_full());
        sender.begin_attempt();
        assert_eq!(taken(&mut stream), Some(ReplyEvent::Piece(piece(1))));
        assert!(sender.room().now_or_never().is_some());
        assert_eq!(taken(&mut stream), Some(ReplyEvent::Restart), "and piece 2 is gone");
        drop(sender);
        assert_eq!(taken(&mut stream), None);
    }

    #[test]
    fn without_a_taker_everything_is_accepted() {
        let (mut sender, stream) = reply_queue(1);
        drop(stream);
        for byte in 0..5 {
            sender.piece(piece(byte));
            assert!(!sender.is_full());
        }
        let (mut sender, stream) = reply_queue(1);
        sender.piece(piece(0));
        sender.piece(piece(1));
        assert!(sender.is_full());
        drop(stream);
        assert!(sender.room().now_or_never().is_some());
        assert!(!sender.is_full());
    }
}
