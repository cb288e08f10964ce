//! A man in the middle: sees every frame between client and server, and may alter, drop, repeat or
//! reorder it, or cut the connection.
//!
//! It plays a server whose *program* is dishonest (wrong receipts, missing chunks), and a broken
//! network that TLS would not let through.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::client::endpoint::{Connect, Connecting};
use protocol::client::{ClientOptions, Endpoint, RemoteEvaluator};
use protocol::frame::Frame;
use protocol::limits::MAX_FRAME_BYTES;
use protocol::message::{ClientMessage, ServerMessage};
use protocol::server::Server;
use protocol::transport::{BoxedStream, pipe, split};

use crate::loopback::client;

/// Patience of the relay with either side.
const STALL: Duration = Duration::from_secs(5);

/// Where a frame is going.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Toward {
    /// From the client to the server.
    Server,
    /// From the server to the client.
    Client,
}

/// A frame on its way: what is known about it without changing it.
#[derive(Debug, Clone)]
pub struct Passing {
    /// Where it is going.
    pub toward: Toward,
    /// How many frames went the same way before it, over all connections.
    pub index: usize,
    /// The frame.
    pub frame: Frame,
}

impl Passing {
    /// The name of the message, or `payload`.
    ///
    /// # Panics
    /// If the frame is not of this protocol.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match (&self.frame, self.toward) {
            (Frame::Payload(_), _) => "payload",
            (Frame::Control(bytes), Toward::Client) => {
                ServerMessage::decode(bytes).expect("the server's message").name()
            }
            (Frame::Control(bytes), Toward::Server) => {
                ClientMessage::decode(bytes).expect("the client's message").name()
            }
        }
    }
}

/// What the relay does to a frame: the frames to pass on in its place.
pub type Meddle = dyn FnMut(Passing) -> Vec<Frame> + Send;

/// A way to a server through a meddler.
#[derive(Clone)]
pub struct Relay {
    server: Server,
    state: Arc<Mutex<State>>,
}

/// As [`Meddle`]; `None` cuts the connection.
type MeddleOrCut = dyn FnMut(Passing) -> Option<Vec<Frame>> + Send;

struct State {
    meddle: Box<MeddleOrCut>,
    to_server: usize,
    to_client: usize,
}

impl Relay {
    /// A relay to this server.
    pub fn new(
        server: Server,
        mut meddle: impl FnMut(Passing) -> Vec<Frame> + Send + 'static,
    ) -> Self {
        Self::of(server, Box::new(move |passing| Some(meddle(passing))))
    }

    /// A relay that passes frames on as they are, and cuts a connection instead of passing those on for
    /// which `cuts` says so.
    pub fn cutting(
        server: Server,
        mut cuts: impl FnMut(&Passing) -> bool + Send + 'static,
    ) -> Self {
        Self::of(server, Box::new(move |passing| (!cuts(&passing)).then(|| vec![passing.frame])))
    }

    fn of(server: Server, meddle: Box<MeddleOrCut>) -> Self {
        let state = State { meddle, to_server: 0, to_client: 0 };
        Self { server, state: Arc::new(Mutex::new(state)) }
    }

    /// A client that reaches the server through the relay only.
    #[must_use]
    pub fn client(&self, options: ClientOptions) -> Arc<RemoteEvaluator> {
        client(Endpoint::custom(Arc::new(self.clone())), options)
    }

    fn pass(&self, toward: Toward, frame: Frame) -> Option<Vec<Frame>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let count = match toward {
            Toward::Server => &mut state.to_server,
            Toward::Client => &mut state.to_client,
        };
        let index = *count;
        *count += 1;
        (state.meddle)(Passing { toward, index, frame })
    }

    async fn forward(self, client: BoxedStream, server: BoxedStream) {
        let (mut from_client, mut to_client) = split(client, MAX_FRAME_BYTES, STALL);
        let (mut from_server, mut to_server) = split(server, MAX_FRAME_BYTES, STALL);
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
            let Some(frames) = self.pass(toward, frame) else { break };
            frames.into_iter().for_each(|frame| writer.push(frame));
            if writer.flush().await.is_err() {
                break;
            }
        }
        let _ = to_client.flush().await;
    }
}

impl Connect for Relay {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async move {
            let (theirs, ours) = pipe();
            tokio::spawn(self.clone().forward(ours, self.server.connect()));
            Ok(theirs)
        })
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").field("server", &self.server).finish_non_exhaustive()
    }
}
