//! A small HTTP server on a loopback port, whose answers a closure decides.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longest request body.
const MAX_BODY_BYTES: usize = 64 << 20;

/// A request as the server got it.
#[derive(Debug, Clone)]
pub struct HttpRequest {
    /// Requests before this one.
    pub number: usize,
    /// Method and path, such as `POST /classify`.
    pub target: String,
    /// Headers with names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// What the server answers.
#[derive(Debug, Clone)]
pub struct HttpReply {
    /// Status code.
    pub status: u16,
    /// Headers besides the length.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// Length announced; the body's own if `None`.
    pub announced: Option<usize>,
    /// Time before the first byte.
    pub delay: Duration,
}

impl HttpReply {
    /// Status 200 with this body.
    #[must_use]
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::status(200, body)
    }

    /// Any status with this body.
    #[must_use]
    pub fn status(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let delay = Duration::ZERO;
        Self { status, headers: Vec::new(), body: body.into(), announced: None, delay }
    }
}

/// A running server; stops when dropped.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    requests: Arc<Mutex<Vec<HttpRequest>>>,
    thread: Option<JoinHandle<()>>,
}

impl HttpServer {
    /// Serve `answer` on a free loopback port, each connection on a thread of its own.
    ///
    /// # Panics
    /// If no port is free.
    #[must_use]
    pub fn start(answer: impl Fn(&HttpRequest) -> HttpReply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound port");
        let stop = Arc::new(AtomicBool::new(false));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (stopping, log) = (Arc::clone(&stop), Arc::clone(&requests));
        let (answer, count) = (Arc::new(answer), Arc::new(AtomicUsize::new(0)));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopping.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let (answer, log, count) =
                    (Arc::clone(&answer), Arc::clone(&log), Arc::clone(&count));
                std::thread::spawn(move || {
                    // A client that goes away is its own business.
                    let _ = serve(stream, answer.as_ref(), &log, &count);
                });
            }
        });
        Self { address, stop, requests, thread: Some(thread) }
    }

    /// The URL of `path`, which begins with a slash.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// All requests so far.
    #[must_use]
    pub fn requests(&self) -> Vec<HttpRequest> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // The listener notices with the next connection.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(
    mut stream: TcpStream,
    answer: &(dyn Fn(&HttpRequest) -> HttpReply + Send + Sync),
    log: &Mutex<Vec<HttpRequest>>,
    count: &AtomicUsize,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let target = line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.and_then(|(_, value)| value.parse().ok()).unwrap_or(0_usize);
    let mut body = vec![0; length.min(MAX_BODY_BYTES)];
    reader.read_exact(&mut body)?;
    let request =
        HttpRequest { number: count.fetch_add(1, Ordering::SeqCst), target, headers, body };
    log.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
    let reply = answer(&request);
    std::thread::sleep(reply.delay);
    let length = reply.announced.unwrap_or(reply.body.len());
    let mut head = format!("HTTP/1.1 {} Reply\r\nContent-Length: {length}\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "Connection: close\r\n\r\n";
    stream.write_all(head.as_bytes())?;
    stream.write_all(&reply.body)?;
    stream.flush()
}
