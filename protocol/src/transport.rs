//! Frames over any byte stream: TLS over TCP, or a pipe inside the process.
//!
//! [`split`] turns a stream into a [`FrameReader`] and a [`FrameWriter`]. Both are safe to use in
//! `select!`: a future that is dropped halfway loses nothing, because all progress is kept in the
//! reader and the writer. Nothing here knows what the frames mean.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::buf::Chain;
use bytes::{Buf, Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::codec::FramedRead;
use tokio_util::io::poll_write_buf;

use crate::client::Stage;
use crate::error::{Error, LinkError, Malformed, TrustError};
use crate::frame::{Frame, FrameCodec, FrameError};

/// Any two-way byte stream.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> ByteStream for T {}

/// A two-way byte stream of any kind.
pub type BoxedStream = Box<dyn ByteStream>;

/// Bytes a pipe inside the process holds before its writer waits.
const PIPE_BYTES: usize = 256 << 10;

/// Two ends of a pipe inside the process.
#[must_use]
pub fn pipe() -> (BoxedStream, BoxedStream) {
    let (a, b) = tokio::io::duplex(PIPE_BYTES);
    (Box::new(a), Box::new(b))
}

/// Split a stream into frames read and frames written.
///
/// `limit` is the longest frame body accepted at first; `stall` how long the peer may take to
/// accept one frame.
#[must_use]
pub fn split(stream: BoxedStream, limit: usize, stall: Duration) -> (FrameReader, FrameWriter) {
    let (read, write) = tokio::io::split(stream);
    let reader =
        FrameReader { frames: FramedRead::new(read, FrameCodec::new(limit)), received_bytes: 0 };
    let writer = FrameWriter {
        stream: write,
        at_hand: None,
        queue: VecDeque::new(),
        queued_bytes: 0,
        unflushed: false,
        stall,
        deadline: None,
        sent_bytes: 0,
    };
    (reader, writer)
}

/// Why frames stopped flowing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The bytes are not frames.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The connection is gone.
    #[error("the connection was lost")]
    Lost {
        /// The system's reason, if it gave one.
        source: Option<io::Error>,
    },
    /// The peer did not take a frame in time.
    #[error("the peer took nothing for {after:?}")]
    Stalled {
        /// How long we waited.
        after: Duration,
    },
}

impl TransportError {
    /// The client's error for a failure during `stage`.
    pub(crate) fn during(self, stage: Stage) -> Error {
        match self {
            Self::Malformed(malformed) => malformed.into(),
            Self::Lost { source: Some(source) } if crate::tls::client_was_refused(&source) => {
                TrustError::ClientRefused { source }.into()
            }
            Self::Lost { source } => LinkError::Lost { stage, source }.into(),
            Self::Stalled { after } => LinkError::TimedOut { stage, after }.into(),
        }
    }
}

impl From<FrameError> for TransportError {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Malformed(malformed) => Self::Malformed(malformed),
            FrameError::Truncated => Self::Lost { source: None },
            FrameError::Io(source) => Self::Lost { source: Some(source) },
        }
    }
}

/// Reads frames.
pub struct FrameReader {
    frames: FramedRead<ReadHalf<BoxedStream>, FrameCodec>,
    received_bytes: u64,
}

impl FrameReader {
    /// The next frame, or `None` at the end of the stream. May be dropped and called again.
    ///
    /// # Errors
    /// - [`TransportError::Malformed`]: not a frame, or above the limit.
    /// - [`TransportError::Lost`]: the stream failed, or ended inside a frame.
    pub async fn next(&mut self) -> Result<Option<Frame>, TransportError> {
        match self.frames.next().await {
            Some(frame) => {
                let frame = frame?;
                self.received_bytes += frame.wire_bytes();
                Ok(Some(frame))
            }
            None => Ok(None),
        }
    }

    /// Change the longest frame body accepted, from the next frame on. When it falls, the memory of
    /// the longer frames is given back: an empty buffer would keep the allocation of the last one.
    pub fn set_limit(&mut self, limit: usize) {
        let falls = limit < self.frames.decoder().limit();
        self.frames.decoder_mut().set_limit(limit);
        if falls {
            let buffer = self.frames.read_buffer_mut();
            let rest = buffer.split();
            *buffer = BytesMut::from(&rest[..]);
        }
    }

    /// Bytes that the buffer of this reader occupies.
    #[cfg(test)]
    fn buffer_bytes(&self) -> usize {
        self.frames.read_buffer().capacity()
    }

    /// Bytes received in whole frames so far.
    #[must_use]
    pub const fn received_bytes(&self) -> u64 {
        self.received_bytes
    }
}

impl fmt::Debug for FrameReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameReader")
            .field("received_bytes", &self.received_bytes)
            .finish_non_exhaustive()
    }
}

/// Writes frames from a queue.
pub struct FrameWriter {
    stream: WriteHalf<BoxedStream>,
    /// What is left of a frame of which something may have been sent. Its data is handed to the
    /// stream where it is, without a copy.
    at_hand: Option<Chain<Bytes, Bytes>>,
    queue: VecDeque<Frame>,
    /// Bytes of the frames in the queue.
    queued_bytes: u64,
    /// Whether anything pushed is not yet in the hands of the operating system.
    unflushed: bool,
    stall: Duration,
    /// When the peer must have taken the frame at hand.
    deadline: Option<Instant>,
    sent_bytes: u64,
}

enum Step {
    FrameTaken,
    Flushed,
}

impl FrameWriter {
    /// Queue a frame. Nothing is sent before [`flush`](Self::flush).
    pub fn push(&mut self, frame: Frame) {
        self.queued_bytes += frame.wire_bytes();
        self.queue.push_back(frame);
        self.unflushed = true;
    }

    /// Whether everything pushed has been handed to the operating system.
    #[must_use]
    pub const fn is_flushed(&self) -> bool {
        !self.unflushed
    }

    /// Frames that wait in the queue.
    #[must_use]
    pub fn n_queued(&self) -> usize {
        self.queue.len()
    }

    /// Bytes that wait: those of the queue, and what is left of the frame that is being sent.
    #[must_use]
    pub fn queued_bytes(&self) -> u64 {
        self.queued_bytes + self.at_hand.as_ref().map_or(0, |frame| frame.remaining() as u64)
    }

    /// Bytes of the frames handed to the stream so far.
    #[must_use]
    pub const fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// Send the queue. May be dropped and called again.
    ///
    /// # Errors
    /// - [`TransportError::Lost`]: the stream failed.
    /// - [`TransportError::Stalled`]: the peer took no whole frame for the time allowed.
    /// - [`TransportError::Malformed`]: a frame longer than a frame may be.
    pub async fn flush(&mut self) -> Result<(), TransportError> {
        while self.unflushed {
            let stall = self.stall;
            let deadline = *self.deadline.get_or_insert_with(|| Instant::now() + stall);
            let step = timeout_at(deadline, poll_fn(|context| self.poll_step(context)))
                .await
                .map_err(|_| TransportError::Stalled { after: stall })??;
            self.deadline = None;
            match step {
                Step::FrameTaken => {}
                Step::Flushed => self.unflushed = false,
            }
        }
        Ok(())
    }

    /// Send the queue and the end of the stream, within `limit`.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub async fn close(&mut self, limit: Duration) -> Result<(), TransportError> {
        let close = async {
            self.flush().await?;
            poll_fn(|context| Pin::new(&mut self.stream).poll_shutdown(context))
                .await
                .map_err(FrameError::from)?;
            Ok(())
        };
        timeout(limit, close).await.unwrap_or(Err(TransportError::Stalled { after: limit }))
    }

    fn poll_step(&mut self, context: &mut Context<'_>) -> Poll<Result<Step, TransportError>> {
        let mut stream = Pin::new(&mut self.stream);
        let frame = match &mut self.at_hand {
            Some(frame) => frame,
            none => {
                let Some(frame) = self.queue.pop_front() else {
                    ready!(stream.poll_flush(context)).map_err(FrameError::from)?;
                    return Poll::Ready(Ok(Step::Flushed));
                };
                self.sent_bytes += frame.wire_bytes();
                self.queued_bytes -= frame.wire_bytes();
                let (head, data) = frame.into_wire()?;
                none.insert(head.chain(data))
            }
        };
        while frame.has_remaining() {
            let written = ready!(poll_write_buf(stream.as_mut(), context, frame));
            if written.map_err(FrameError::from)? == 0 {
                return Poll::Ready(Err(TransportError::Lost { source: None }));
            }
        }
        self.at_hand = None;
        Poll::Ready(Ok(Step::FrameTaken))
    }
}

impl fmt::Debug for FrameWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameWriter")
            .field("n_queued", &self.queue.len())
            .field("sent_bytes", &self.sent_bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::limits::MAX_FRAME_BYTES;

    fn frame(n: usize) -> Frame {
        Frame::Control(Bytes::from(vec![1; n]))
    }

    #[tokio::test]
    async fn frames_arrive_in_order_and_the_end_is_clean() {
        let (a, b) = pipe();
        let (_, mut writer) = split(a, 10, Duration::from_secs(5));
        let (mut reader, _keep) = split(b, MAX_FRAME_BYTES, Duration::from_secs(5));
        let sizes = [1, PIPE_BYTES * 2, 3];
        let send = async {
            sizes.iter().for_each(|&n| writer.push(frame(n)));
            assert!(!writer.is_flushed());
            let n_bytes: u64 = sizes.iter().map(|&n| frame(n).wire_bytes()).sum();
            assert_eq!(writer.queued_bytes(), n_bytes);
            writer.close(Duration::from_secs(5)).await.unwrap();
        };
        let receive = async {
            for n in sizes {
                assert_eq!(reader.next().await.unwrap(), Some(frame(n)));
            }
            assert_eq!(reader.next().await.unwrap(), None);
        };
        tokio::join!(send, receive);
        assert_eq!(writer.sent_bytes(), reader.received_bytes());
        assert_eq!(writer.queued_bytes(), 0);
    }

    #[tokio::test]
    async fn a_buffer_shrinks_with_the_limit_and_loses_nothing() {
        let (a, b) = pipe();
        let (_, mut writer) = split(a, 10, Duration::from_secs(5));
        let (mut reader, _keep) = split(b, MAX_FRAME_BYTES, Duration::from_secs(5));
        [1 << 20, 7, 1 << 20, 9].into_iter().for_each(|n| writer.push(frame(n)));
        let receive = async {
            assert_eq!(reader.next().await.unwrap(), Some(frame(1 << 20)));
            // With what may have arrived of the next ones inside.
            reader.set_limit(100);
            assert!(reader.buffer_bytes() <= 8 << 10, "{}", reader.buffer_bytes());
            assert_eq!(reader.next().await.unwrap(), Some(frame(7)));
            reader.set_limit(MAX_FRAME_BYTES);
            assert_eq!(reader.next().await.unwrap(), Some(frame(1 << 20)));
            assert_eq!(reader.next().await.unwrap(), Some(frame(9)));
        };
        let (flushed, ()) = tokio::join!(writer.flush(), receive);
        flushed.unwrap();
    }

    #[tokio::test]
    async fn a_dropped_flush_loses_no_frame() {
        let (a, b) = pipe();
        let (_, mut writer) = split(a, 10, Duration::from_secs(5));
        let (mut reader, _keep) = split(b, MAX_FRAME_BYTES, Duration::from_secs(5));
        let sizes = [PIPE_BYTES, PIPE_BYTES, PIPE_BYTES];
        sizes.iter().for_each(|&n| writer.push(frame(n)));
        for _ in 0..4 {
            let _ = timeout(Duration::from_millis(1), writer.flush()).await;
        }
        let receive = async {
            for n in sizes {
                assert_eq!(reader.next().await.unwrap(), Some(frame(n)));
            }
        };
        let (flushed, ()) = tokio::join!(writer.flush(), receive);
        flushed.unwrap();
        assert!(writer.is_flushed());
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_given_up_even_across_dropped_flushes() {
        let (a, _b) = pipe();
        let (_, mut writer) = split(a, 10, Duration::from_millis(40));
        writer.push(frame(PIPE_BYTES * 2));
        let mut result = Ok(());
        let started = Instant::now();
        while result.is_ok() && started.elapsed() < Duration::from_secs(5) {
            if let Ok(finished) = timeout(Duration::from_millis(5), writer.flush()).await {
                result = finished;
            }
        }
        assert!(matches!(result, Err(TransportError::Stalled { .. })), "{result:?}");
    }
}
