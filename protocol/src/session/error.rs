//! Errors of sessions and runs.

use crate::error::{Error as ProtocolError, Source};

/// What can go wrong in a session besides a verdict.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The exact network refused its inputs or parameters.
    #[error(transparent)]
    Network(#[from] nn_poly::Error),
    /// Encryption, decryption or the bytes of a reply.
    #[error(transparent)]
    Encrypted(#[from] nn_poly::encrypted::Error),
    /// Options of the checks that cannot be met.
    #[error(transparent)]
    Fingerprint(#[from] fingerprint::Error),
    /// Connection, server or certificate.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// A plan whose replies would not decrypt.
    #[error(
        "segment {segment} of the plan has no room for its noise ({missing_bits:.1} bits too few): compile the model again"
    )]
    Noise {
        /// The segment.
        segment: usize,
        /// Bits missing.
        missing_bits: f64,
    },
    /// A batch without samples.
    #[error("the batch holds no samples: give at least one")]
    EmptyBatch,
    /// Samples of another model.
    #[error(
        "samples have {actual} values, but the plan reads {expected}: are they of another model?"
    )]
    BatchShape {
        /// Values the plan reads.
        expected: usize,
        /// Values found.
        actual: usize,
    },
    /// An input off the plan's grid.
    #[error(
        "input value {value} lies outside the plan's grid {low} to {high}: quantize the samples first"
    )]
    InputRange {
        /// The offending value.
        value: i32,
        /// Smallest grid value.
        low: i64,
        /// Largest grid value.
        high: i64,
    },
    /// Fewer canaries than the options ask for.
    #[error("{expected} network canaries are asked for, but only {actual} are given")]
    CanaryCount {
        /// Canaries wanted.
        expected: usize,
        /// Canaries given.
        actual: usize,
    },
    /// A segment that the plan does not have.
    #[error("there is no segment {index}: the plan has {count}")]
    NoSuchSegment {
        /// The number asked for.
        index: usize,
        /// Segments of the plan.
        count: usize,
    },
    /// A block that the round does not have.
    #[error("there is no block {index}: the round has {count}")]
    NoSuchBlock {
        /// The number asked for.
        index: usize,
        /// Blocks of the round.
        count: usize,
    },
    /// A round was ended with other blocks than its own.
    #[error(
        "segment {segment} takes {expected} blocks, each once: {actual} of this round were given"
    )]
    BlocksOfRound {
        /// The segment in progress.
        segment: usize,
        /// Blocks of the round.
        expected: usize,
        /// Blocks given.
        actual: usize,
    },
    /// The operating system gave no random bytes.
    #[error(
        "the operating system's random number generator failed: nothing can be encrypted safely"
    )]
    Randomness,
    /// A setting outside its range.
    #[error("{name} is {actual}: choose {min} to {max}")]
    Setting {
        /// The setting's name.
        name: &'static str,
        /// What was asked for.
        actual: usize,
        /// Smallest accepted value.
        min: usize,
        /// Largest accepted value.
        max: usize,
    },
    /// The samples of a batch could not be read.
    #[error("the samples of batch {} cannot be read", batch + 1)]
    Samples {
        /// The batch, counted from 0.
        batch: usize,
        /// Why.
        source: Source,
    },
    /// The result of a batch could not be stored.
    #[error("the result of batch {} cannot be stored", batch + 1)]
    Keep {
        /// The batch, counted from 0.
        batch: usize,
        /// Why.
        source: Source,
    },
    /// A broken invariant of this crate.
    #[error("internal error, please report: {what}")]
    Internal {
        /// The invariant.
        what: &'static str,
    },
}

/// Result of sessions and runs.
pub type Result<T, E = SessionError> = core::result::Result<T, E>;

/// What only a mistake in this crate can cause.
pub(super) const INVARIANT: SessionError =
    SessionError::Internal { what: "values of an earlier round are missing" };
