//! One small request with its honest reply, and a server connection in any phase.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use protocol::client::exchange::Step;
use protocol::client::{Exchange, PreparedRequest, Reply};
use protocol::error::{PeerFault, Result};
use protocol::frame::{Frame, FrameCodec, PayloadFrame};
use protocol::identifiers::{Digest, Label, RequestId};
use protocol::identity::Identity;
use protocol::limits::MAX_FRAME_BYTES;
use protocol::message::{
    AnnouncedLimits, ClientMessage, EvaluateHeader, Progress, RefusalCode, ReplyHeader,
    ServerMessage, Welcome,
};
use protocol::server::connection::ServerConnection;
use protocol::server::event::{Finished, Greeting, Phase, ServerAction, ServerEvent};
use protocol::transcript::{ReplyShape, ReplyTranscript, Statement};
use tokio_util::codec::Encoder;

pub(crate) const REQUEST_BYTES: usize = 1000;
pub(crate) const REPLY_BYTES: usize = 700;
pub(crate) const CHUNK: usize = 256;
pub(crate) const SHAPE: ReplyShape =
    ReplyShape { n_ciphertexts: 3, payload_bytes: REPLY_BYTES as u64 };
pub(crate) const ID: RequestId = RequestId([3; 16]);

pub(crate) fn identity() -> Arc<Identity> {
    Arc::new(Identity::from_seed(&[8; 32]))
}

pub(crate) fn header() -> EvaluateHeader {
    EvaluateHeader {
        plan: Digest([1; 32]),
        segment: 2,
        request_id: ID,
        seed: [4; 32],
        n_ciphertexts: 5,
        payload_bytes: REQUEST_BYTES as u64,
    }
}

pub(crate) fn request() -> PreparedRequest {
    let payload: Vec<u8> = (0..REQUEST_BYTES).map(|i| (i * 31) as u8).collect();
    PreparedRequest::new(header(), payload.into(), SHAPE).unwrap()
}

pub(crate) fn reply() -> Vec<u8> {
    (0..REPLY_BYTES).map(|i| (i * 7) as u8).collect()
}

pub(crate) fn finished() -> Finished {
    let request_hash = request().hash().unwrap();
    let mut transcript = ReplyTranscript::new(&request_hash, &SHAPE);
    transcript.update(&reply());
    Finished { request_hash, reply_hash: transcript.finish(), busy: Duration::from_micros(77) }
}

pub(crate) fn control(message: &ServerMessage) -> Frame {
    Frame::Control(message.encode().unwrap())
}

pub(crate) fn chunk(offset: usize, data: &[u8]) -> Frame {
    let data = Bytes::copy_from_slice(data);
    Frame::Payload(PayloadFrame { tag: ID.tag(), offset: offset as u64, data })
}

pub(crate) fn progress(done: usize) -> Frame {
    let total = (REQUEST_BYTES + REPLY_BYTES) as u64;
    control(&ServerMessage::Progress(Progress { request_id: ID, done: done as u64, total }))
}

pub(crate) fn receipt() -> ServerMessage {
    let finished = finished();
    let statement = Statement {
        request_id: ID,
        request_hash: finished.request_hash,
        reply_hash: finished.reply_hash,
        plan: header().plan,
        segment: header().segment,
        evaluate_micros: 77,
    };
    ServerMessage::Receipt(statement.sign(&identity()))
}

/// What an honest server sends for [`request`].
pub(crate) fn honest_reply() -> Vec<Frame> {
    let mut frames = vec![
        control(&ServerMessage::Admitted { request_id: ID }),
        progress(10),
        control(&ServerMessage::ReplyHeader(ReplyHeader {
            request_id: ID,
            n_ciphertexts: SHAPE.n_ciphertexts,
            payload_bytes: SHAPE.payload_bytes,
        })),
    ];
    let bytes = reply();
    frames.extend(bytes.chunks(CHUNK).enumerate().map(|(i, data)| chunk(i * CHUNK, data)));
    frames.push(progress(REQUEST_BYTES + REPLY_BYTES));
    frames.push(control(&receipt()));
    frames
}

pub(crate) fn is_progress(frame: &Frame) -> bool {
    matches!(frame, Frame::Control(bytes)
        if matches!(ServerMessage::decode(bytes), Ok(ServerMessage::Progress(_))))
}

/// Feed frames to a client that sends whenever it may. `None`: it still waits.
pub(crate) fn converse(frames: impl IntoIterator<Item = Frame>) -> Result<Option<Reply>> {
    let mut exchange = Exchange::new(request(), identity().public(), CHUNK);
    let mut bytes = Vec::new();
    for frame in frames {
        while exchange.next_frame().unwrap().is_some() {}
        match exchange.receive(frame)? {
            Step::Continue => {}
            Step::Piece(piece) => bytes.extend_from_slice(&piece),
            Step::Finished(receipt) => {
                return Ok(Some(Reply { bytes, receipt: *receipt, attempts: 1 }));
            }
            Step::Refused(refusal) => {
                let retry_after = refusal.retry_after();
                return Err(PeerFault::Refused { code: refusal.code, retry_after }.into());
            }
            Step::Cancelled => panic!("nothing was cancelled"),
        }
    }
    Ok(None)
}

pub(crate) fn body(frame: &Frame) -> BytesMut {
    let mut bytes = BytesMut::new();
    FrameCodec::new(MAX_FRAME_BYTES).encode(frame.clone(), &mut bytes).unwrap();
    bytes.split_off(4)
}

pub(crate) fn welcome() -> Welcome {
    Welcome {
        server_name: Label::new("test").unwrap(),
        identity: identity().public(),
        limits: AnnouncedLimits {
            max_chunk_bytes: CHUNK as u32,
            max_request_bytes: 1 << 20,
            max_reply_bytes: 1 << 20,
        },
    }
}

pub(crate) fn server() -> ServerConnection {
    ServerConnection::new(Greeting::Welcome(welcome()), identity())
}

pub(crate) fn says(message: &ClientMessage) -> ServerEvent {
    ServerEvent::Frame(Frame::Control(message.encode().unwrap()))
}

pub(crate) fn hello() -> ClientMessage {
    ClientMessage::Hello { client_name: Label::new("test").unwrap(), token: None }
}

/// The request's payload from `offset` on, in a frame.
pub(crate) fn upload(offset: usize, length: usize) -> ServerEvent {
    let data = request().payload().piece(offset as u64, length).unwrap().unwrap();
    ServerEvent::Frame(Frame::Payload(PayloadFrame { tag: ID.tag(), offset: offset as u64, data }))
}

/// A server connection in the given phase, reached by honest events.
pub(crate) fn server_in(phase: Phase) -> ServerConnection {
    let path = match phase {
        Phase::Greeting => vec![],
        Phase::Entering => vec![says(&hello())],
        Phase::Idle => vec![says(&hello()), ServerEvent::Entered],
        Phase::Answering => {
            vec![says(&hello()), ServerEvent::Entered, says(&ClientMessage::ListModels)]
        }
        Phase::Admitting => {
            vec![says(&hello()), ServerEvent::Entered, says(&ClientMessage::Evaluate(header()))]
        }
        Phase::Receiving { .. } => vec![
            says(&hello()),
            ServerEvent::Entered,
            says(&ClientMessage::Evaluate(header())),
            ServerEvent::Admitted(SHAPE),
            upload(0, 400),
        ],
        Phase::Evaluating => vec![
            says(&hello()),
            ServerEvent::Entered,
            says(&ClientMessage::Evaluate(header())),
            ServerEvent::Admitted(SHAPE),
            upload(0, REQUEST_BYTES),
        ],
        Phase::Stopping => vec![
            says(&hello()),
            ServerEvent::Entered,
            says(&ClientMessage::Evaluate(header())),
            ServerEvent::Admitted(SHAPE),
            says(&ClientMessage::Cancel { request_id: ID }),
        ],
        Phase::Closed => vec![says(&ClientMessage::Goodbye)],
    };
    let mut server = server();
    for event in path {
        let _ = server.handle(event);
    }
    assert_eq!(server.phase(), phase);
    server
}

pub(crate) const RECEIVING: Phase = Phase::Receiving { payload_bytes: REQUEST_BYTES as u64 };

pub(crate) const PHASES: [Phase; 8] = [
    Phase::Greeting,
    Phase::Entering,
    Phase::Idle,
    Phase::Answering,
    Phase::Admitting,
    RECEIVING,
    Phase::Evaluating,
    Phase::Stopping,
];

pub(crate) fn refusal(actions: &[ServerAction]) -> Option<RefusalCode> {
    actions.iter().find_map(|action| match action {
        ServerAction::Send(ServerMessage::Refused(refusal)) => Some(refusal.code),
        _ => None,
    })
}
