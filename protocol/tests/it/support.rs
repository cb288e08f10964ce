//! A fake plan host, servers on loopback, and clients of them.

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use protocol::access::AccessControl;
use protocol::client::{
    ClientOptions, Connection, Endpoint, PreparedRequest, RemoteEvaluator, RequestProgress,
};
use protocol::identifiers::{Digest, Label, RequestId};
use protocol::identity::Identity;
use protocol::limits::{ClientTimeouts, ServerLimits, ServerTimeouts};
use protocol::message::{EvaluateHeader, ModelCard, Refusal, RefusalCode};
use protocol::server::service::{
    Evaluated, PlanHost, ReplySink, RequestReceiver, SegmentService, ServiceError,
};
use protocol::server::{Server, ServerOptions};
use protocol::tls::{self, ClientTls, ServerTls};
use protocol::transcript::ReplyShape;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub const PLAN: Digest = Digest([0xab; 32]);
/// Payload bytes per ciphertext of a request and of a reply.
const INPUT_BYTES: usize = 1000;
const OUTPUT_BYTES: usize = 1500;

/// How a fake segment behaves.
#[derive(Clone)]
pub enum Mood {
    Honest,
    /// Rejects its payload at this byte.
    RejectsAt(usize),
    Panics,
    /// Produces so many bytes more (or fewer) than it declared.
    WrongLength(isize),
    /// Declares so much memory.
    Needs(u64),
    /// Waits at its start until the gate is open.
    Held(Arc<Gate>),
    /// Waits so long before each piece.
    Slow(Duration),
}

/// Opened once, by the test.
#[derive(Default)]
pub struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    pub fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.changed.notify_all();
    }

    pub fn wait(&self) {
        let open = self.open.lock().unwrap();
        drop(self.changed.wait_while(open, |open| !*open).unwrap());
    }
}

/// A fake host: one plan whose segments are transformations of bytes.
pub struct FakeHost {
    pub segments: Vec<FakeSegment>,
    pub public_plan: Arc<[u8]>,
}

#[derive(Clone)]
pub struct FakeSegment {
    pub n_inputs: u32,
    pub n_outputs: u32,
    pub mood: Mood,
    /// Bytes handed to the sink at once.
    pub piece: usize,
    pub running: Arc<AtomicUsize>,
    pub begun: Arc<AtomicUsize>,
    /// Bytes handed to sinks.
    pub produced: Arc<AtomicUsize>,
}

impl FakeSegment {
    pub fn new(n_inputs: u32, n_outputs: u32, mood: Mood) -> Self {
        let running = Arc::new(AtomicUsize::new(0));
        let begun = Arc::new(AtomicUsize::new(0));
        let produced = Arc::new(AtomicUsize::new(0));
        Self { n_inputs, n_outputs, mood, piece: 777, running, begun, produced }
    }

    pub fn n_running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }

    /// Wait until so many requests run.
    pub async fn until_running(&self, n: usize) {
        let running = Arc::clone(&self.running);
        eventually(move || running.load(Ordering::SeqCst) == n).await;
    }
}

/// How long anything may take that takes no time by itself: for a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub async fn eventually(condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "it never happened");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A figure of a server, as Prometheus reads it.
pub fn figure(server: &Server, name: &str) -> f64 {
    let text = server.metrics().render(&server.status());
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0.0, |number| number.parse().unwrap())
}

impl PlanHost for FakeHost {
    fn models(&self) -> Vec<ModelCard> {
        vec![ModelCard {
            plan: PLAN,
            name: Label::new("fake").unwrap(),
            n_inputs: 784,
            n_classes: 10,
            n_segments: self.segments.len() as u32,
            public_plan_bytes: self.public_plan.len() as u32,
            signature: None,
        }]
    }

    fn public_plan(&self, plan: &Digest) -> Option<Arc<[u8]>> {
        (*plan == PLAN).then(|| Arc::clone(&self.public_plan))
    }

    fn segment(&self, plan: &Digest, segment: u32) -> Result<Arc<dyn SegmentService>, Refusal> {
        if *plan != PLAN {
            return Err(Refusal::new(RefusalCode::UnknownPlan));
        }
        match self.segments.get(segment as usize) {
            Some(segment) => Ok(Arc::new(segment.clone())),
            None => Err(Refusal::new(RefusalCode::UnknownSegment)),
        }
    }
}

impl SegmentService for FakeSegment {
    fn request_bytes(&self) -> u64 {
        u64::from(self.n_inputs) * INPUT_BYTES as u64
    }

    fn reply_bytes(&self) -> u64 {
        u64::from(self.n_outputs) * OUTPUT_BYTES as u64
    }

    fn n_inputs(&self) -> u32 {
        self.n_inputs
    }

    fn n_outputs(&self) -> u32 {
        self.n_outputs
    }

    fn memory_bytes(&self) -> u64 {
        if let Mood::Needs(bytes) = self.mood { bytes } else { 1 << 20 }
    }

    fn begin(&self, seed: [u8; 32]) -> Result<Box<dyn RequestReceiver>, ServiceError> {
        self.running.fetch_add(1, Ordering::SeqCst);
        self.begun.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(FakeReceiver { segment: self.clone(), seed, input: Vec::new() }))
    }
}

struct FakeReceiver {
    segment: FakeSegment,
    seed: [u8; 32],
    input: Vec<u8>,
}

impl Drop for FakeReceiver {
    fn drop(&mut self) {
        self.segment.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl RequestReceiver for FakeReceiver {
    fn push(&mut self, bytes: &[u8]) -> Result<(), ServiceError> {
        self.input.extend_from_slice(bytes);
        match self.segment.mood {
            Mood::RejectsAt(limit) if self.input.len() > limit => {
                Err(ServiceError::Malformed { source: "residue out of range".into() })
            }
            _ => Ok(()),
        }
    }

    fn evaluate(self: Box<Self>, sink: &mut ReplySink<'_>) -> Result<Evaluated, ServiceError> {
        assert_eq!(self.input.len() as u64, self.segment.request_bytes());
        let mut output = expected_reply(&self.input, &self.seed, self.segment.n_outputs);
        match &self.segment.mood {
            Mood::Panics => panic!("a fake segment that panics"),
            Mood::Held(gate) => gate.wait(),
            Mood::WrongLength(by) => {
                let length = output.len().checked_add_signed(*by).unwrap();
                output.resize(length, 0);
            }
            _ => {}
        }
        for piece in output.chunks(self.segment.piece) {
            if let Mood::Slow(pause) = self.segment.mood {
                std::thread::sleep(pause);
            }
            self.segment.produced.fetch_add(piece.len(), Ordering::SeqCst);
            if let ControlFlow::Break(()) = sink(Bytes::copy_from_slice(piece)) {
                return Err(ServiceError::Stopped);
            }
        }
        Ok(Evaluated { busy: Duration::from_micros(1234) })
    }
}

/// What an honest fake segment answers.
pub fn expected_reply(input: &[u8], seed: &[u8; 32], n_outputs: u32) -> Vec<u8> {
    let length = n_outputs as usize * OUTPUT_BYTES;
    (0..length).map(|i| input[(i * 7) % input.len()] ^ seed[i % 32] ^ (i as u8)).collect()
}

/// A request for a segment, different for each `number`.
pub fn request_for(segment: &FakeSegment, index: u32, number: u32) -> PreparedRequest {
    let number_bytes = number.to_le_bytes();
    let n_bytes = segment.n_inputs as usize * INPUT_BYTES;
    let payload: Vec<u8> =
        (0..n_bytes).map(|i| (i as u8).wrapping_mul(13) ^ number_bytes[i % 4]).collect();
    let header = EvaluateHeader {
        plan: PLAN,
        segment: index,
        request_id: RequestId(std::array::from_fn(|i| number_bytes[i % 4] ^ i as u8)),
        seed: [number as u8; 32],
        n_ciphertexts: segment.n_inputs,
        payload_bytes: n_bytes as u64,
    };
    let reply =
        ReplyShape { n_ciphertexts: segment.n_outputs, payload_bytes: segment.reply_bytes() };
    PreparedRequest::new(header, Bytes::from(payload), reply).unwrap()
}

/// Whether a reply is the honest one.
pub fn is_right(request: &PreparedRequest, reply: &[u8]) -> bool {
    let header = request.header();
    let n_outputs = request.reply_shape().n_ciphertexts;
    let payload = request.payload().to_bytes().unwrap();
    reply == expected_reply(&payload, &header.seed, n_outputs)
}

pub fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

pub fn host(segments: &[FakeSegment]) -> Arc<FakeHost> {
    Arc::new(FakeHost { segments: segments.to_vec(), public_plan: vec![5; 3000].into() })
}

pub fn server_options() -> ServerOptions {
    ServerOptions {
        limits: ServerLimits { chunk_bytes: 4096, ..ServerLimits::default() },
        timeouts: ServerTimeouts {
            admission: Duration::from_millis(50),
            progress: Duration::from_millis(20),
            drain: Duration::from_secs(5),
            ..ServerTimeouts::default()
        },
        access: AccessControl::open(),
        ..ServerOptions::new(label("test server"))
    }
}

pub fn server_with(segments: &[FakeSegment], options: ServerOptions) -> Server {
    Server::new(host(segments), Identity::from_seed(&[9; 32]), options).unwrap()
}

pub fn client_options() -> ClientOptions {
    let mut options = ClientOptions::new(label("test client"));
    options.retry.first_backoff = Duration::from_millis(10);
    options.retry.longest_backoff = Duration::from_millis(100);
    options.retry.outage = PATIENCE;
    options.timeouts.silence = PATIENCE;
    options
}

pub fn in_process(server: &Server) -> RemoteEvaluator {
    let endpoint = Endpoint::in_process(server.clone());
    RemoteEvaluator::new(vec![endpoint], client_options()).unwrap()
}

pub async fn connection(server: &Server) -> Connection {
    Connection::open(server.connect(), &label("test client"), ClientTimeouts::default())
        .await
        .unwrap()
}

/// Progress nobody looks at.
pub fn ignore(_: &RequestProgress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// A server over TLS on a loopback port.
pub struct Loopback {
    pub address: SocketAddr,
    pub directory: Arc<tempfile::TempDir>,
    task: JoinHandle<()>,
    shutdown: Option<oneshot::Sender<()>>,
}

impl Loopback {
    pub async fn start(server: Server) -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        tls::init(directory.path(), &[]).unwrap();
        Self::start_at(server, "127.0.0.1:0".parse().unwrap(), directory).await
    }

    pub async fn start_at(
        server: Server,
        address: SocketAddr,
        directory: Arc<tempfile::TempDir>,
    ) -> Self {
        let listener = Server::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let tls = ServerTls::load(directory.path()).unwrap();
        let (shutdown, wait) = oneshot::channel();
        let task = tokio::spawn(async move {
            let stop = async {
                let _ = wait.await;
            };
            server.serve(listener, tls, stop).await;
        });
        Self { address, directory, task, shutdown: Some(shutdown) }
    }

    pub fn endpoint(&self) -> Endpoint {
        let trust = ClientTls::load_directory(self.directory.path()).unwrap();
        Endpoint::tls(&self.address.to_string(), trust, None).unwrap()
    }

    pub fn client(&self) -> RemoteEvaluator {
        RemoteEvaluator::new(vec![self.endpoint()], client_options()).unwrap()
    }

    /// End every connection without a word, as a killed process does.
    pub async fn kill(self) -> (SocketAddr, Arc<tempfile::TempDir>) {
        // Kept, so that the server does not take it for a shutdown.
        let _shutdown = self.shutdown;
        self.task.abort();
        let _ = self.task.await;
        (self.address, self.directory)
    }

    /// Shut down as on a signal, and wait for the end.
    pub async fn shut_down(mut self) {
        self.shutdown.take().unwrap().send(()).unwrap();
        self.task.await.unwrap();
    }
}
