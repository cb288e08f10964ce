//! Who may use the page: requests to this address by whoever has the token.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, HeaderName, ORIGIN,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::TryRngCore;
use rand::rngs::OsRng;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Random bytes of a token.
const TOKEN_BYTES: usize = 32;

/// What a browser is told with every answer.
const HEADERS: [(HeaderName, &str); 6] = [
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (REFERRER_POLICY, "no-referrer"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Compares requests with the address of the page and the token of this start.
pub(super) struct Gate {
    /// Values of `Host` that mean this page.
    hosts: Vec<String>,
    token: Zeroizing<String>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

impl Gate {
    /// A gate with a new token.
    ///
    /// # Errors
    /// The operating system gives no random numbers.
    pub(super) fn new(address: SocketAddr) -> Result<Self> {
        let mut bytes = Zeroizing::new([0_u8; TOKEN_BYTES]);
        OsRng
            .try_fill_bytes(bytes.as_mut_slice())
            .context("the operating system gives no random numbers")?;
        let token = Zeroizing::new(URL_SAFE_NO_PAD.encode(bytes.as_slice()));
        let mut hosts = vec![address.to_string(), format!("localhost:{}", address.port())];
        // Browsers leave out the port that HTTP has anyway.
        let short = |host: &String| host.strip_suffix(":80").map(str::to_owned);
        let short: Vec<String> = hosts.iter().filter_map(short).collect();
        hosts.extend(short);
        Ok(Self { hosts, token })
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// Whether the request was meant for this page, and not for a name that leads here.
    fn is_addressed(&self, headers: &HeaderMap) -> bool {
        let mut hosts = headers.get_all(HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
        let is_here = |text: &[u8]| self.hosts.iter().any(|known| known.as_bytes() == text);
        let is_own =
            |origin: &HeaderValue| origin.as_bytes().strip_prefix(b"http://").is_some_and(is_here);
        is_here(host.as_bytes()) && headers.get_all(ORIGIN).iter().all(is_own)
    }

    /// Whether the request has the token; compared in constant time.
    fn has_token(&self, headers: &HeaderMap) -> bool {
        let shown = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let shown = shown.and_then(|value| value.strip_prefix(b"Bearer ")).unwrap_or_default();
        shown.ct_eq(self.token.as_bytes()).into()
    }
}

/// Refuse what was not meant for this page, and tell browsers to be careful with the answers.
pub(super) async fn guard(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let mut response = if gate.is_addressed(request.headers()) {
        next.run(request).await
    } else {
        let text = "this page answers to the address it was started with only\n";
        (StatusCode::MISDIRECTED_REQUEST, text).into_response()
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Refuse whoever lacks the token.
pub(super) async fn authorize(
    State(gate): State<Arc<Gate>>,
    request: Request,
    next: Next,
) -> Response {
    if gate.has_token(request.headers()) {
        return next.run(request).await;
    }
    let text = "the token is missing or of another start: open the address that securedl printed\n";
    (StatusCode::UNAUTHORIZED, text).into_response()
}
