//! Between client and server above TLS: passes frames on, and meddles with one.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use protocol::client::Endpoint;
use protocol::client::endpoint::{Connect, Connecting};
use protocol::frame::{Frame, PayloadFrame};
use protocol::limits::MAX_FRAME_BYTES;
use protocol::transport::{BoxedStream, pipe, split};

/// Patience with either side, and for a connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// Data bytes of a frame that is too large.
const OVERSIZE: usize = 2 << 20;

/// What is done to a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meddling {
    /// It comes after the next one.
    Reorder,
    /// It comes twice.
    Repeat,
    /// It has more data than anybody announced.
    Oversize,
    /// It belongs to another client's request.
    WrongClient,
    /// One bit of its data is another.
    Alter,
}

impl Meddling {
    pub(super) const ALL: [Self; 5] =
        [Self::Reorder, Self::Repeat, Self::Oversize, Self::WrongClient, Self::Alter];
}

/// Where a frame is going.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Toward {
    Server,
    Client,
}

/// A way to a server on which one frame is meddled with. Cheap to clone; clones are one.
#[derive(Clone)]
pub(super) struct Meddler {
    inner: Arc<Inner>,
}

struct Inner {
    server: Endpoint,
    kind: Meddling,
    toward: Toward,
    /// Which of the frames that are full, counted over all connections.
    at: usize,
    full: usize,
    seen: AtomicUsize,
    happened: AtomicBool,
}

impl Meddler {
    /// Meddle with the payload frame number `at`, of those with `full` data bytes.
    pub(super) fn new(
        server: Endpoint,
        kind: Meddling,
        toward: Toward,
        at: usize,
        full: usize,
    ) -> Self {
        let (seen, happened) = (AtomicUsize::new(0), AtomicBool::new(false));
        Self { inner: Arc::new(Inner { server, kind, toward, at, full, seen, happened }) }
    }

    /// Whether it was done.
    pub(super) fn happened(&self) -> bool {
        self.inner.happened.load(Ordering::Relaxed)
    }

    async fn forward(self, client: BoxedStream, server: BoxedStream) {
        let (mut from_client, mut to_client) = split(client, MAX_FRAME_BYTES, PATIENCE);
        let (mut from_server, mut to_server) = split(server, MAX_FRAME_BYTES, PATIENCE);
        // A frame that comes after the next one.
        let mut held = None;
        loop {
            let (toward, frame) = tokio::select! {
                frame = from_client.next() => (Toward::Server, frame),
                frame = from_server.next() => (Toward::Client, frame),
            };
            // Either side is gone: both connections end with this task.
            let Ok(Some(frame)) = frame else { break };
            let writer = match toward {
                Toward::Server => &mut to_server,
                Toward::Client => &mut to_client,
            };
            if toward == self.inner.toward {
                self.pass(frame, &mut held).into_iter().for_each(|frame| writer.push(frame));
            } else {
                writer.push(frame);
            }
            if writer.flush().await.is_err() {
                break;
            }
        }
        let _ = to_client.flush().await;
    }

    fn pass(&self, frame: Frame, held: &mut Option<Frame>) -> Vec<Frame> {
        let payload = match frame {
            Frame::Payload(payload) if payload.data.len() == self.inner.full => payload,
            other @ (Frame::Control(_) | Frame::Payload(_)) => {
                return std::iter::once(other).chain(held.take()).collect();
            }
        };
        if self.inner.seen.fetch_add(1, Ordering::Relaxed) != self.inner.at {
            return std::iter::once(Frame::Payload(payload)).chain(held.take()).collect();
        }
        self.inner.happened.store(true, Ordering::Relaxed);
        let altered = |alter: &dyn Fn(&mut PayloadFrame)| {
            let mut frame = payload.clone();
            alter(&mut frame);
            vec![Frame::Payload(frame)]
        };
        match self.inner.kind {
            Meddling::Reorder => {
                *held = Some(Frame::Payload(payload));
                Vec::new()
            }
            Meddling::Repeat => {
                vec![Frame::Payload(payload.clone()), Frame::Payload(payload)]
            }
            Meddling::Oversize => altered(&|frame| frame.data = Bytes::from(vec![0; OVERSIZE])),
            Meddling::WrongClient => altered(&|frame| frame.tag.0[0] ^= 0xff),
            Meddling::Alter => altered(&|frame| {
                let mut data = BytesMut::from(&frame.data[..]);
                if let Some(byte) = data.first_mut() {
                    *byte ^= 1;
                }
                frame.data = data.freeze();
            }),
        }
    }
}

impl Connect for Meddler {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async move {
            let server = self.inner.server.connect(PATIENCE).await?;
            let (theirs, ours) = pipe();
            tokio::spawn(self.clone().forward(ours, server));
            Ok(theirs)
        })
    }
}

impl fmt::Debug for Meddler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meddler").field("kind", &self.inner.kind).finish_non_exhaustive()
    }
}
