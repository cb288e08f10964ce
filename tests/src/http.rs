//! A small HTTP server on a loopback port, over TLS or not, whose answers a closure decides.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ndarray::Array2;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

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

impl HttpRequest {
    /// The rows of numbers in this field of a JSON body.
    ///
    /// # Panics
    /// Panics if the body holds no such rows, or rows of several lengths.
    #[must_use]
    pub fn rows(&self, field: &str) -> Array2<f32> {
        let body: Value = serde_json::from_slice(&self.body).expect("JSON");
        let rows: Vec<Vec<f32>> =
            serde_json::from_value(body[field].clone()).expect("rows of numbers");
        let shape = (rows.len(), rows.first().map_or(0, Vec::len));
        Array2::from_shape_vec(shape, rows.concat()).expect("rows of one length")
    }
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

    /// Status 200 with these rows of numbers in a field of a JSON body.
    #[must_use]
    pub fn rows(field: &str, rows: &Array2<f64>) -> Self {
        let rows: Vec<Vec<f64>> = rows.rows().into_iter().map(|row| row.to_vec()).collect();
        Self::ok(json!({ field: rows }).to_string())
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
    scheme: &'static str,
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
        Self::listen(None, answer)
    }

    /// The same over TLS, as `localhost`, with the certificate and key that `tls init` left in
    /// `directory`.
    ///
    /// # Panics
    /// If no port is free, or the files are not there.
    #[must_use]
    pub fn start_tls(
        directory: &Path,
        answer: impl Fn(&HttpRequest) -> HttpReply + Send + Sync + 'static,
    ) -> Self {
        let chain = CertificateDer::pem_file_iter(directory.join("server.pem"))
            .and_then(Iterator::collect)
            .expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(directory.join("server.key")).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key))
            .expect("a certificate and its key");
        Self::listen(Some(Arc::new(config)), answer)
    }

    fn listen(
        tls: Option<Arc<ServerConfig>>,
        answer: impl Fn(&HttpRequest) -> HttpReply + Send + Sync + 'static,
    ) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
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
                let tls = tls.clone();
                std::thread::spawn(move || {
                    // A client that goes away, or does not trust the server, is its own business.
                    let _ = accept(stream, tls, answer.as_ref(), &log, &count);
                });
            }
        });
        Self { address, scheme, stop, requests, thread: Some(thread) }
    }

    /// The URL of `path`, which begins with a slash.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        match self.scheme {
            // Certificates are for names.
            "https" => format!("https://localhost:{}{path}", self.address.port()),
            scheme => format!("{scheme}://{}{path}", self.address),
        }
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

fn accept(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    answer: &(dyn Fn(&HttpRequest) -> HttpReply + Send + Sync),
    log: &Mutex<Vec<HttpRequest>>,
    count: &AtomicUsize,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    match tls {
        None => serve(stream, answer, log, count).map(drop),
        Some(config) => {
            let session = ServerConnection::new(config).map_err(std::io::Error::other)?;
            let mut stream = serve(StreamOwned::new(session, stream), answer, log, count)?;
            stream.conn.send_close_notify();
            stream.flush()
        }
    }
}

/// One request and its reply; gives the stream back.
fn serve<S: Read + Write>(
    stream: S,
    answer: &(dyn Fn(&HttpRequest) -> HttpReply + Send + Sync),
    log: &Mutex<Vec<HttpRequest>>,
    count: &AtomicUsize,
) -> std::io::Result<S> {
    let mut reader = BufReader::new(stream);
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
    let mut stream = reader.into_inner();
    stream.write_all(head.as_bytes())?;
    stream.write_all(&reply.body)?;
    stream.flush()?;
    Ok(stream)
}
