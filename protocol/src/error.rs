//! What can go wrong, grouped by who has to act.
//!
//! | group | who acts |
//! |---|---|
//! | [`ConfigError`] | the person who wrote the configuration or the command line |
//! | [`Misuse`] | the programmer who called this crate |
//! | [`Malformed`] | nobody here: the bytes are not of this protocol |
//! | [`PeerFault`] | the other side: well-formed messages that its role forbids, or a refusal |
//! | [`TrustError`] | whoever manages certificates |
//! | [`LinkError`] | the network, or time; worth another attempt |
//! | [`ResourceError`] | a budget (time, attempts) is used up |
//! | [`InternalError`] | us: please report |
//!
//! The other side never sees any of this text, only a
//! [`RefusalCode`](crate::message::RefusalCode).

mod config;
mod peer;

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub use self::config::ConfigError;
pub use self::peer::{Malformed, PeerFault};
use crate::client::{ServerFailure, Stage};

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The cause of a failure, as reported by another library.
pub type Source = Box<dyn StdError + Send + Sync>;

/// Everything that can fail in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration, command line, or file the caller supplied.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A call that the documentation forbids.
    #[error(transparent)]
    Misuse(#[from] Misuse),
    /// Bytes that are not of this protocol.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The other side did something its role forbids, or refused.
    #[error(transparent)]
    Peer(#[from] PeerFault),
    /// The server could not prove who it is.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The connection failed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A budget is used up.
    #[error(transparent)]
    Resource(#[from] ResourceError),
    /// A broken invariant of this crate.
    #[error(transparent)]
    Internal(#[from] InternalError),
}

impl Error {
    /// Whether another attempt with identical bytes may succeed.
    ///
    /// True for lost, silent, or unreachable connections and for the refusals that pass (busy,
    /// shutting down, too slow, failed inside the server). Everything else stays wrong however
    /// often it is tried: versions, plans, certificates, malformed bytes, false receipts.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Link(_) => true,
            Self::Peer(PeerFault::Refused { code, .. }) => code.is_passing(),
            Self::Peer(_)
            | Self::Config(_)
            | Self::Misuse(_)
            | Self::Malformed(_)
            | Self::Trust(_)
            | Self::Resource(_)
            | Self::Internal(_) => false,
        }
    }
}

/// A call that the documentation forbids.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Misuse {
    /// A header that announces another payload than the one given.
    #[error("the header announces {announced} payload bytes but {actual} were given")]
    PayloadLength {
        /// Bytes in the header.
        announced: u64,
        /// Bytes given.
        actual: u64,
    },
    /// A request without ciphertexts or bytes, or a reply without them.
    #[error("a request and its reply hold at least one ciphertext and one byte")]
    EmptyBlock,
    /// A message too long to send.
    #[error("a {message} message of {actual} bytes exceeds the limit of {limit} bytes")]
    MessageTooLong {
        /// The message.
        message: &'static str,
        /// Its length.
        actual: usize,
        /// The limit.
        limit: usize,
    },
    /// More models than a list may have.
    #[error("{actual} models are too many for one list; at most {limit} fit")]
    TooManyModels {
        /// Models given.
        actual: usize,
        /// Models accepted.
        limit: usize,
    },
    /// A request larger than the server announced to take.
    #[error(
        "the request has {actual} {what}; this server takes at most {limit}: use smaller blocks or another server"
    )]
    AboveServerLimit {
        /// What was counted.
        what: &'static str,
        /// How many there are.
        actual: u64,
        /// The server's limit.
        limit: u64,
    },
    /// A method called in a state that does not allow it.
    #[error("{call} is not possible while {state}")]
    WrongState {
        /// The method.
        call: &'static str,
        /// The state.
        state: &'static str,
    },
}

/// The server could not prove who it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// A certificate authority past its time.
    #[error("the certificate authority in {} expired on {expired}; ask the operator for the current ca.pem", path.display())]
    AuthorityExpired {
        /// The authority's file.
        path: PathBuf,
        /// Day of expiry, `YYYY-MM-DD` (UTC).
        expired: String,
    },
    /// A certificate signed by somebody else.
    #[error("the certificate of {server} was not issued by the authority in {}; use the ca.pem of that server", authority.display())]
    UnknownAuthority {
        /// The server's name.
        server: String,
        /// The authority's file.
        authority: PathBuf,
    },
    /// A server certificate past its time.
    #[error(
        "the certificate of {server} expired on {expired}; the operator must make a new one (`securedl tls init DIR`)"
    )]
    CertificateExpired {
        /// The server's name.
        server: String,
        /// Day of expiry, `YYYY-MM-DD` (UTC).
        expired: String,
    },
    /// A certificate from the future.
    #[error(
        "the certificate of {server} is valid from {valid_from} only; check the clock of this machine"
    )]
    NotYetValid {
        /// The certificate's owner.
        server: String,
        /// First day of validity, `YYYY-MM-DD` (UTC).
        valid_from: String,
    },
    /// A certificate for other names.
    #[error(
        "the certificate is for {presented}, not for {expected}; connect by one of those names"
    )]
    WrongName {
        /// The name we asked for.
        expected: String,
        /// The names in the certificate.
        presented: String,
    },
    /// The other end does not speak TLS 1.3, or not this protocol.
    #[error(
        "{server} does not answer as a SecureDL server over TLS 1.3; check the address and the port"
    )]
    NotSecureDl {
        /// The server's name.
        server: String,
        /// The TLS library's reason.
        source: Source,
    },
    /// The server did not accept this client's certificate, or asked for one in vain.
    #[error(
        "the server does not accept this client's certificate, or wants one; name the folder the operator gave you with --client-cert DIR"
    )]
    ClientRefused {
        /// The TLS library's reason.
        source: io::Error,
    },
    /// Any other certificate problem.
    #[error("the certificate of {server} is not acceptable")]
    Certificate {
        /// The server's name.
        server: String,
        /// The TLS library's reason.
        source: Source,
    },
}

/// The connection failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// No connection.
    #[error("cannot reach {address}; check that the server runs and that the address is right")]
    Unreachable {
        /// Where we tried to connect.
        address: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The connection ended too early.
    #[error("the connection was lost while {stage}")]
    Lost {
        /// What we were doing.
        stage: Stage,
        /// The system's reason, if it gave one.
        source: Option<io::Error>,
    },
    /// Nothing happened for too long.
    #[error("nothing happened for {after:?} while {stage}")]
    TimedOut {
        /// What we were waiting for.
        stage: Stage,
        /// How long we waited.
        after: Duration,
    },
}

/// A budget is used up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResourceError {
    /// Every attempt failed.
    #[error("gave up after {attempts} attempts in {elapsed:.1?}; the last one failed")]
    GaveUp {
        /// Attempts made.
        attempts: u32,
        /// Time since the first failure.
        elapsed: Duration,
        /// Why the last one failed.
        #[source]
        last: Box<Error>,
    },
    /// None of several servers answered: all are left out, patience is used up, or time is over.
    #[error("{ended}; {}", listed(failures))]
    NoServerLeft {
        /// Why it ended.
        ended: Ended,
        /// What each server last did, in the order they were given.
        failures: Vec<ServerFailure>,
    },
    /// The caller's deadline passed.
    #[error("the request was not answered within its deadline of {deadline:?}")]
    DeadlineExceeded {
        /// The deadline.
        deadline: Duration,
    },
    /// A buffer that does not fit in memory.
    #[error("a reply of {n_bytes} bytes does not fit in memory; use smaller blocks")]
    Memory {
        /// Bytes asked for.
        n_bytes: u64,
    },
    /// Whoever makes the request's payload stopped before the end.
    #[error(
        "the request's payload ended after {available} of {expected} bytes: what produces it has failed"
    )]
    PayloadAbandoned {
        /// Bytes of the whole payload.
        expected: u64,
        /// Bytes that exist.
        available: u64,
    },
    /// The caller stopped the request.
    #[error("the request was cancelled")]
    Cancelled,
}

/// Why a client of several servers stopped trying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// No server is left that could answer.
    AllLeftOut,
    /// The patience of the [`RetryPolicy`](crate::client::RetryPolicy) is used up.
    GaveUp {
        /// Attempts made.
        attempts: u32,
        /// Time since the first failure.
        elapsed: Duration,
    },
    /// The caller's deadline passed.
    DeadlineExceeded {
        /// The deadline.
        deadline: Duration,
    },
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AllLeftOut => f.write_str("no server can answer"),
            Self::GaveUp { attempts, elapsed } => {
                write!(f, "gave up after {attempts} attempts in {elapsed:.1?}")
            }
            Self::DeadlineExceeded { deadline } => {
                write!(f, "the request was not answered within its deadline of {deadline:?}")
            }
        }
    }
}

fn listed(failures: &[ServerFailure]) -> String {
    failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// A broken invariant of this crate: please report it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InternalError {
    /// A message of ours that does not encode.
    #[error("a message does not encode (please report)")]
    Encode {
        /// The encoder's reason.
        source: Source,
    },
    /// The TLS library rejected our fixed settings.
    #[error("the TLS library rejects its settings (please report)")]
    Tls {
        /// The library's reason.
        source: Source,
    },
    /// The certificate library failed.
    #[error("a certificate could not be made (please report)")]
    Certificate {
        /// The library's reason.
        source: Source,
    },
    /// The operating system has no random numbers.
    #[error("the operating system gives no random numbers")]
    Randomness {
        /// The system's reason.
        source: Source,
    },
    /// Something that was complete is gone.
    #[error("{what} was complete and is gone (please report)")]
    Lost {
        /// What is gone.
        what: &'static str,
    },
    /// The runtime could not be started.
    #[error("the network threads cannot be started")]
    Runtime {
        /// The system's reason.
        source: io::Error,
    },
}
