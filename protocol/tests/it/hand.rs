//! A client that says what it is told to, and nothing by itself.

use bytes::Bytes;
use protocol::client::PreparedRequest;
use protocol::frame::{Frame, PayloadFrame};
use protocol::limits::MAX_FRAME_BYTES;
use protocol::message::{ClientMessage, Refusal, RefusalCode, ServerMessage};
use protocol::server::Server;
use protocol::transport::{BoxedStream, FrameReader, FrameWriter, split};
use tokio::time::timeout;

use crate::support::{PATIENCE, label};

/// A client by hand.
pub struct Hand {
    pub reader: FrameReader,
    pub writer: FrameWriter,
}

impl Hand {
    pub fn of(stream: BoxedStream) -> Self {
        let (reader, writer) = split(stream, MAX_FRAME_BYTES, PATIENCE);
        Self { reader, writer }
    }

    pub async fn say(&mut self, message: &ClientMessage) {
        self.writer.push(Frame::Control(message.encode().unwrap()));
        self.writer.flush().await.unwrap();
    }

    pub async fn hear(&mut self) -> Option<ServerMessage> {
        let frame = timeout(PATIENCE, self.reader.next()).await.expect("silence");
        match frame {
            Ok(Some(Frame::Control(bytes))) => Some(ServerMessage::decode(&bytes).unwrap()),
            Ok(Some(Frame::Payload(_))) => panic!("unexpected payload"),
            Ok(None) | Err(_) => None,
        }
    }

    pub async fn greeted(server: &Server) -> Self {
        let mut hand = Self::of(server.connect());
        hand.say(&ClientMessage::Hello { client_name: label("hand"), token: None }).await;
        assert!(matches!(hand.hear().await, Some(ServerMessage::Welcome(_))));
        hand
    }

    pub async fn expect_refusal(&mut self, expected: RefusalCode) {
        let heard = self.hear().await;
        let Some(ServerMessage::Refused(Refusal { code, .. })) = heard else {
            panic!("{heard:?}");
        };
        assert_eq!(code, expected);
        assert_eq!(self.hear().await, None, "and the connection ends");
    }

    /// Announce a request and wait for its admission.
    pub async fn admitted(&mut self, request: &PreparedRequest) {
        self.say(&ClientMessage::Evaluate(*request.header())).await;
        let heard = self.hear().await;
        assert!(matches!(heard, Some(ServerMessage::Admitted { .. })), "{heard:?}");
    }

    /// Send payload bytes of a request.
    pub async fn upload(&mut self, request: &PreparedRequest, range: std::ops::Range<usize>) {
        let payload = request.payload().to_bytes().unwrap();
        for start in range.clone().step_by(CHUNK) {
            let data: Bytes = payload.slice(start..(start + CHUNK).min(range.end));
            let tag = request.header().request_id.tag();
            let frame = PayloadFrame { tag, offset: start as u64, data };
            self.writer.push(Frame::Payload(frame));
        }
        self.writer.flush().await.unwrap();
    }
}

/// Payload bytes per frame; what the test server takes.
const CHUNK: usize = 4096;
