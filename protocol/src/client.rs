//! The client: one request's life, connections, retries.
//!
//! ```text
//! Classifier ─ samples in, verified scores out  (async; `BlockingClassifier` wraps it)
//!      │ batches and rounds: `runner`
//! RemoteEvaluator ─ pool, retries, failover      (async; `BlockingEvaluator` wraps it)
//!      │ one request at a time per connection
//!      ▼
//!  Connection ─ frames, time limits              over TLS or a pipe
//!      │
//!      ▼
//!  Exchange ─ what may be sent and received when (no I/O)
//! ```
//! A request may be sent while it is still being encrypted ([`payload`]), and its reply taken while
//! it arrives ([`reply`]).
//! A request is stateless and idempotent: every attempt sends the bytes of the first one, to the
//! same server or to another.

pub mod blocking;
mod classifier;
pub mod connection;
pub mod endpoint;
pub mod evaluator;
pub mod exchange;
pub mod payload;
pub mod reply;
pub mod retry;
mod roster;

use std::fmt;

pub use self::blocking::BlockingEvaluator;
pub use self::classifier::{BlockingClassifier, Classifier};
pub use self::connection::Connection;
pub use self::endpoint::{Connect, Endpoint};
pub use self::evaluator::{ClientOptions, RemoteEvaluator, Traffic};
pub use self::exchange::{Delivery, Exchange, PreparedRequest, Reply, RequestProgress};
pub use self::payload::{PayloadWriter, RequestPayload};
pub use self::reply::{ReplyEvent, ReplySender, ReplyStream, reply_queue};
pub use self::retry::RetryPolicy;
pub use self::roster::ServerFailure;

/// What a client is doing, in progress reports and errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Setting up the connection.
    Connecting,
    /// Exchanging the first messages.
    Greeting,
    /// Asking for models or plans.
    Asking,
    /// Waiting for a place on the server.
    AwaitingAdmission,
    /// Sending the request.
    Uploading,
    /// Waiting for the first byte of the reply.
    Evaluating,
    /// Receiving the reply.
    Downloading,
    /// Waiting for the receipt.
    AwaitingReceipt,
    /// Waiting for the server to stop.
    Cancelling,
    /// Nothing any more.
    Done,
}

impl Stage {
    /// The stage in words that fit after "while".
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Greeting => "greeting the server",
            Self::Asking => "asking the server",
            Self::AwaitingAdmission => "waiting for admission",
            Self::Uploading => "uploading the request",
            Self::Evaluating => "waiting for the evaluation",
            Self::Downloading => "downloading the reply",
            Self::AwaitingReceipt => "waiting for the receipt",
            Self::Cancelling => "cancelling the request",
            Self::Done => "expecting nothing",
        }
    }

    /// Whether the server has given the request a place.
    pub(crate) const fn is_admitted(self) -> bool {
        match self {
            Self::Connecting
            | Self::Greeting
            | Self::Asking
            | Self::AwaitingAdmission
            | Self::Cancelling => false,
            Self::Uploading
            | Self::Evaluating
            | Self::Downloading
            | Self::AwaitingReceipt
            | Self::Done => true,
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
