//! A third party's classifier behind an HTTP API that takes and gives JSON.

use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use fingerprint::InputGrid;
use fingerprint::endpoint::{Answers, Endpoint, EndpointError, check_width};
use ndarray::{Array2, ArrayView2, Axis};
use nn_poly::Shape;
use serde_json::Value;
use ureq::http::{HeaderName, HeaderValue, header::RETRY_AFTER};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Proxy, Timeout};

use super::address::{Secrecy, secrecy, shown_url};
use super::template::{
    AnswerForm, ClassNumbers, ImageLayout, InputUnits, RequestTemplate, ResponsePattern, malformed,
};

/// Bytes of a reply per score, with room for spaces and digits, and of everything else in it.
const REPLY_BYTES_PER_SCORE: u64 = 64;
const REPLY_BYTES: u64 = 1 << 20;

/// Characters of a refusal that are shown.
const EXCERPT_CHARS: usize = 200;

/// What is known of a service (unchecked; [`HttpEndpoint::new`] checks it).
///
/// # Security
/// `Debug` shows addresses as [`shown_url`] does, and names of headers without their values.
#[derive(Clone)]
pub struct HttpSpec {
    /// Where requests are posted. Without a user and password: those belong into a header.
    pub url: String,
    /// Further headers, such as `Authorization`. Secret.
    pub headers: Vec<(String, String)>,
    /// Whether headers may go over plain HTTP to another host, where everybody on the way reads them.
    /// Default no.
    pub insecure_headers_over_http: bool,
    /// The proxy to go through, `http://[user:password@]host:port`. Default none, whatever the
    /// environment says.
    pub proxy: Option<String>,
    /// The body of a request: JSON with one placeholder, the string `"{{inputs}}"` (all samples, flat)
    /// or `"{{images}}"` (all, nested by shape), or `"{{input}}"`, `"{{image}}"` (one per request).
    /// Default `{"inputs": "{{inputs}}"}`.
    pub request: String,
    /// Where the reply holds the answers: a JSON pointer (RFC 6901) to the list of samples, or with
    /// `*` for the index of the sample, such as `/predictions/*/label`. Default `/outputs`.
    pub response: String,
    /// What the answer of each sample is.
    pub answers: AnswerForm,
    /// What the service takes.
    pub units: InputUnits,
    /// In which order it takes the axes of images. Default that of the network: channels last.
    pub layout: ImageLayout,
    /// The number of the first class in its answers, 0 or 1. Default 0.
    pub first_label: u32,
    /// Certificate authorities to trust instead of the public ones, PEM; at least one.
    pub ca_pem: Option<Vec<u8>>,
    /// Longest time for one request, from connecting to the last byte. Default 30 s.
    pub timeout: Duration,
    /// Most attempts per request while the service answers 429 or 503. Default 6.
    pub attempts: u32,
    /// Wait before the second attempt; doubled for each further one. Default 0.5 s.
    pub first_backoff: Duration,
    /// Longest wait, also where the service asks for more (`Retry-After`). Default 60 s.
    pub longest_backoff: Duration,
    /// Most samples per request, where a request carries many. Default 64.
    pub samples_per_request: usize,
}

impl HttpSpec {
    /// The defaults for a service at `url` that answers in this form.
    #[must_use]
    pub fn new(url: impl Into<String>, answers: AnswerForm) -> Self {
        Self {
            url: url.into(),
            headers: Vec::new(),
            insecure_headers_over_http: false,
            proxy: None,
            request: r#"{"inputs": "{{inputs}}"}"#.to_owned(),
            response: "/outputs".to_owned(),
            answers,
            units: InputUnits::Levels,
            layout: ImageLayout::ChannelsLast,
            first_label: 0,
            ca_pem: None,
            timeout: Duration::from_secs(30),
            attempts: 6,
            first_backoff: Duration::from_millis(500),
            longest_backoff: Duration::from_secs(60),
            samples_per_request: 64,
        }
    }
}

impl fmt::Debug for HttpSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("HttpSpec")
            .field("url", &shown_url(&self.url))
            .field("headers", &names)
            .field("proxy", &self.proxy.as_deref().map(shown_url))
            .field("request", &self.request)
            .field("response", &self.response)
            .field("answers", &self.answers)
            .field("units", &self.units)
            .field("layout", &self.layout)
            .field("first_label", &self.first_label)
            .finish_non_exhaustive()
    }
}

/// A service over HTTP. Blocks its thread; follows no redirects; uses no proxy but the one
/// it is told; trusts the public certificate authorities unless told otherwise.
pub struct HttpEndpoint {
    spec: HttpSpec,
    agent: Agent,
    request: RequestTemplate,
    response: ResponsePattern,
    shape: Shape,
    grid: InputGrid,
    n_classes: usize,
}

impl fmt::Debug for HttpEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpEndpoint").field("spec", &self.spec).finish_non_exhaustive()
    }
}

fn setting(setting: &'static str, problem: impl Into<String>) -> EndpointError {
    EndpointError::Setting { setting, problem: problem.into() }
}

impl HttpEndpoint {
    /// A service that classifies inputs of `shape` on `grid` into `class_names`.
    ///
    /// # Errors
    /// [`EndpointError::Setting`]: an address, header, template, pointer, certificate or number that
    /// cannot be used. Nothing is sent.
    pub fn new(
        spec: HttpSpec,
        shape: Shape,
        grid: InputGrid,
        class_names: &[String],
    ) -> Result<Self, EndpointError> {
        check_address(&spec)?;
        check_headers(&spec)?;
        if spec.timeout.is_zero() || spec.attempts == 0 || spec.samples_per_request == 0 {
            let problem = "must be above zero";
            return Err(setting("time limit, attempts and samples per request", problem));
        }
        grid.check(shape.len()).map_err(|error| setting("the input grid", error.to_string()))?;
        let request = RequestTemplate::new(&spec.request)?;
        spec.layout.check(&shape)?;
        let classes = ClassNumbers::new(class_names, spec.first_label)?;
        let response =
            ResponsePattern::new(&spec.response, spec.answers, classes, request.is_batch())?;
        let roots = match &spec.ca_pem {
            Some(pem) => RootCerts::Specific(Arc::new(authorities(pem)?)),
            None => RootCerts::WebPki,
        };
        let proxy = match &spec.proxy {
            Some(address) => Some(proxy(address)?),
            None => None,
        };
        let config = Agent::config_builder()
            .proxy(proxy)
            .timeout_global(Some(spec.timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("securedl/", env!("CARGO_PKG_VERSION")))
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .build();
        let n_classes = class_names.len();
        Ok(Self { agent: config.into(), spec, request, response, shape, grid, n_classes })
    }

    /// One request and its reply, again and again while the service is busy.
    fn post(&self, body: &Value, n_samples: usize) -> Result<Value, EndpointError> {
        let limit =
            REPLY_BYTES + REPLY_BYTES_PER_SCORE * (n_samples as u64) * (self.n_classes as u64);
        let bytes = body.to_string();
        let mut backoff = self.spec.first_backoff;
        for attempt in 1..=self.spec.attempts {
            let (status, asked, reply) = self.post_once(&bytes, limit)?;
            match status {
                200..=299 => {
                    return serde_json::from_slice(&reply)
                        .map_err(|error| malformed(format!("it is not JSON: {error}")));
                }
                429 | 503 if attempt < self.spec.attempts => {
                    let wait = asked.unwrap_or_default().max(backoff);
                    thread::sleep(wait.min(self.spec.longest_backoff));
                    backoff = backoff.saturating_mul(2);
                }
                429 | 503 => {
                    return Err(EndpointError::RateLimited { status, attempts: attempt });
                }
                _ => return Err(EndpointError::Refused { status, excerpt: excerpt(&reply) }),
            }
        }
        Err(EndpointError::RateLimited { status: 503, attempts: self.spec.attempts })
    }

    /// Status, how long the service asks to wait, and the body of one reply.
    fn post_once(
        &self,
        body: &str,
        limit: u64,
    ) -> Result<(u16, Option<Duration>, Vec<u8>), EndpointError> {
        let failed = |error| self.failure(error);
        let mut request = self.agent.post(&self.spec.url).content_type("application/json");
        for (name, value) in &self.spec.headers {
            request = request.header(name, value);
        }
        let mut response = request.send(body).map_err(failed)?;
        let asked = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .map(Duration::from_secs);
        let status = response.status().as_u16();
        let reply = response.body_mut().with_config().limit(limit).read_to_vec().map_err(failed)?;
        Ok((status, asked, reply))
    }

    fn failure(&self, error: ureq::Error) -> EndpointError {
        use std::io::ErrorKind::{
            ConnectionReset, InvalidData, TimedOut, UnexpectedEof, WouldBlock,
        };
        let late = || EndpointError::TimedOut { limit: self.spec.timeout };
        #[expect(clippy::wildcard_enum_match_arm, reason = "foreign and growing")]
        match error {
            ureq::Error::Io(error) if is_distrust(&error) => {
                EndpointError::Untrusted { cause: Box::new(error) }
            }
            ureq::Error::Rustls(error) => EndpointError::Untrusted { cause: Box::new(error) },
            ureq::Error::Timeout(Timeout::Resolve) => {
                EndpointError::Unreachable { cause: "its name was not resolved in time".into() }
            }
            ureq::Error::Timeout(_) => late(),
            ureq::Error::Io(error) if matches!(error.kind(), TimedOut | WouldBlock) => late(),
            ureq::Error::Io(error)
                if matches!(error.kind(), UnexpectedEof | InvalidData | ConnectionReset) =>
            {
                malformed(format!("it ends early: {error}"))
            }
            ureq::Error::Protocol(error) => malformed(format!("it is not HTTP: {error}")),
            ureq::Error::BodyExceedsLimit(limit) => {
                malformed(format!("it is longer than {limit} bytes"))
            }
            other => EndpointError::Unreachable { cause: Box::new(other) },
        }
    }

    fn ask(&self, samples: ArrayView2<'_, f32>) -> Result<Vec<Value>, EndpointError> {
        let body = self.request.fill(samples, &self.shape, &self.grid, &self.spec);
        let reply = self.post(&body, samples.nrows())?;
        let items = self.response.items(&reply, samples.nrows(), self.request.is_batch())?;
        Ok(items.into_iter().cloned().collect())
    }
}

impl Endpoint for HttpEndpoint {
    fn n_classes(&self) -> usize {
        self.n_classes
    }

    fn n_features(&self) -> usize {
        self.shape.len()
    }

    fn grid(&self) -> Option<&InputGrid> {
        Some(&self.grid)
    }

    fn query(&mut self, inputs: &Array2<f32>) -> Result<Answers, EndpointError> {
        check_width(inputs, self.n_features())?;
        let per_request = if self.request.is_batch() { self.spec.samples_per_request } else { 1 };
        let mut items = Vec::with_capacity(inputs.nrows());
        for samples in inputs.axis_chunks_iter(Axis(0), per_request) {
            items.extend(self.ask(samples)?);
        }
        self.response.answers(&items)
    }
}

/// An address that can be used and holds no credentials.
fn check_address(spec: &HttpSpec) -> Result<(), EndpointError> {
    const NAME: &str = "the endpoint's address";
    let secrecy = secrecy(&spec.url, NAME)?;
    let goes_in_the_clear = secrecy == Secrecy::Readable
        // Whoever runs the proxy reads what goes through it without TLS.
        || secrecy == Secrecy::Loopback && spec.proxy.is_some();
    if goes_in_the_clear && !spec.headers.is_empty() && !spec.insecure_headers_over_http {
        let problem = "is plain http to another host: everybody on the way could read the headers; \
                       use https, or allow it (--insecure-headers-over-http)";
        return Err(setting(NAME, problem));
    }
    Ok(())
}

fn check_headers(spec: &HttpSpec) -> Result<(), EndpointError> {
    for (name, value) in &spec.headers {
        let is_usable = HeaderName::try_from(name.as_str()).is_ok()
            && HeaderValue::try_from(value.as_str()).is_ok();
        if !is_usable {
            return Err(setting("a header", "has characters that HTTP does not allow"));
        }
    }
    Ok(())
}

/// The error of the library repeats the address, password and all: it is not shown.
fn proxy(address: &str) -> Result<Proxy, EndpointError> {
    const NAME: &str = "the proxy's address";
    let is_http = ["http://", "https://"].iter().any(|scheme| address.starts_with(scheme));
    match Proxy::new(address) {
        Ok(proxy) if is_http => Ok(proxy),
        Ok(_) | Err(_) => Err(setting(NAME, "must be http://[user:password@]host:port")),
    }
}

/// All certificates of a PEM file.
fn authorities(pem: &[u8]) -> Result<Vec<Certificate<'static>>, EndpointError> {
    const NAME: &str = "the certificate authority";
    let mut certificates = Vec::new();
    for item in parse_pem(pem) {
        let item = item.map_err(|error| setting(NAME, format!("cannot be used: {error}")))?;
        if let PemItem::Certificate(certificate) = item {
            certificates.push(certificate);
        }
    }
    if certificates.is_empty() {
        return Err(setting(NAME, "cannot be used: the file holds no certificate"));
    }
    Ok(certificates)
}

/// Whether TLS refused the other side: its certificate, or that it speaks no TLS.
fn is_distrust(error: &std::io::Error) -> bool {
    error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>)
}

/// The start of a foreign text, without control characters.
fn excerpt(reply: &[u8]) -> String {
    let text = String::from_utf8_lossy(reply);
    let shown: String =
        text.chars().take(EXCERPT_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if shown.trim().is_empty() { "(no text)".to_owned() } else { shown }
}
