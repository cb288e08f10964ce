//! Refusals: the only thing a client learns about a failure of the server.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// No, and when to ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Why.
    pub code: RefusalCode,
    /// Milliseconds to wait before another attempt; 0 = as the client likes.
    pub retry_after_ms: u32,
}

impl Refusal {
    /// A refusal without advice when to try again.
    #[must_use]
    pub const fn new(code: RefusalCode) -> Self {
        Self { code, retry_after_ms: 0 }
    }

    /// A refusal that passes after about `retry_after`.
    #[must_use]
    pub fn later(code: RefusalCode, retry_after: Duration) -> Self {
        let retry_after_ms = u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX);
        Self { code, retry_after_ms }
    }

    /// The time to wait, if the server named one.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        (self.retry_after_ms > 0).then(|| Duration::from_millis(self.retry_after_ms.into()))
    }
}

/// Why a server refuses: the only thing a client learns about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RefusalCode {
    /// Another protocol version.
    UnsupportedVersion,
    /// Bytes that are not of this protocol.
    MalformedMessage,
    /// A message at the wrong time.
    UnexpectedMessage,
    /// The server does not hold this plan.
    UnknownPlan,
    /// The plan has no such segment.
    UnknownSegment,
    /// Ciphertexts or bytes in another number than the plan says.
    WrongShape,
    /// Payload that is not a block of this plan (a residue out of range, say).
    MalformedPayload,
    /// More than this server ever takes.
    TooLarge,
    /// No room at the moment.
    Busy,
    /// The server is about to stop.
    ShuttingDown,
    /// The client sent or took its bytes too slowly, or the evaluation took too long.
    TooSlow,
    /// The server failed.
    Internal,
    /// The client is not known here, or no longer. Says nothing about why.
    Unauthorized,
    /// The client has used up what it may ask for at the moment.
    RateLimited,
}

impl RefusalCode {
    /// Every code, in the order of its number on the wire.
    pub const ALL: [Self; 14] = [
        Self::UnsupportedVersion,
        Self::MalformedMessage,
        Self::UnexpectedMessage,
        Self::UnknownPlan,
        Self::UnknownSegment,
        Self::WrongShape,
        Self::MalformedPayload,
        Self::TooLarge,
        Self::Busy,
        Self::ShuttingDown,
        Self::TooSlow,
        Self::Internal,
        Self::Unauthorized,
        Self::RateLimited,
    ];

    /// Whether the same request may succeed later.
    #[must_use]
    pub const fn is_passing(self) -> bool {
        match self {
            Self::Busy
            | Self::ShuttingDown
            | Self::TooSlow
            | Self::Internal
            | Self::RateLimited => true,
            Self::UnsupportedVersion
            | Self::MalformedMessage
            | Self::UnexpectedMessage
            | Self::UnknownPlan
            | Self::UnknownSegment
            | Self::WrongShape
            | Self::MalformedPayload
            | Self::TooLarge
            | Self::Unauthorized => false,
        }
    }
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnsupportedVersion => {
                "it speaks another protocol version; update the older program"
            }
            Self::MalformedMessage => "it could not read our message; the builds may differ",
            Self::UnexpectedMessage => "it did not expect our message; the builds may differ",
            Self::UnknownPlan => "it does not hold this plan; copy the .plan file to the server",
            Self::UnknownSegment => "the plan has no such segment; the plans may differ",
            Self::WrongShape => "the request has another size than its plan says; the plans may differ",
            Self::MalformedPayload => "the ciphertexts do not fit the plan; the plans may differ",
            Self::TooLarge => {
                "the request needs more memory than the server has; use smaller blocks or a larger server"
            }
            Self::Busy => "it is busy; try again later",
            Self::ShuttingDown => "it is shutting down; try again later or use another server",
            Self::TooSlow => "the exchange took too long; use a faster link or a longer time limit",
            Self::Internal => "it failed; its log says why",
            Self::Unauthorized => {
                "it does not let us in; check --token-file or --client-cert, or ask its operator"
            }
            Self::RateLimited => "we have asked for as much as it allows us; try again later",
        })
    }
}
