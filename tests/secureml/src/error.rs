//! Everything that can go wrong, grouped by who is to blame.

use crate::message::Kind;

/// Errors of this crate: configuration and misuse (the caller's), malformed messages (the peer's),
/// resources.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A count or length does not fit.
    #[error("{what}: expected {expected}, found {actual}")]
    Length {
        /// What was counted.
        what: &'static str,
        /// The number required.
        expected: usize,
        /// The number found.
        actual: usize,
    },
    /// An index lies outside its range.
    #[error("{what} {index} is out of range: there are {count}")]
    Index {
        /// What was indexed.
        what: &'static str,
        /// The offending index.
        index: usize,
        /// The number of valid values.
        count: usize,
    },
    /// A number is not finite or too large for fixed point.
    #[error("{value} does not fit fixed point: its magnitude must stay below {max}")]
    Value {
        /// The offending number.
        value: f64,
        /// The bound on its magnitude.
        max: f64,
    },
    /// A plain evaluation left the range in which truncation of shares works.
    #[error(
        "a value needs {bits} bits before truncation, but at most {max} leave room for sharing"
    )]
    Overflow {
        /// Bits of the magnitude.
        bits: u32,
        /// Largest number of bits allowed.
        max: u32,
    },
    /// Objects of the two servers were mixed up, or both belong to one server.
    #[error("{what} belongs to the other server")]
    Party {
        /// The object.
        what: &'static str,
    },
    /// A machine that has its result was given a message, or one that has none was asked for it.
    #[error("the machine is {actual}, but this call needs one that is {needed}")]
    State {
        /// What the call needs.
        needed: &'static str,
        /// What was found.
        actual: &'static str,
    },
    /// A message came at the wrong moment.
    #[error("expected {expected:?} number {expected_step}, received kind {actual} number {step}")]
    Order {
        /// The kind of message due.
        expected: Kind,
        /// Its number.
        expected_step: u32,
        /// The byte that names the kind received.
        actual: u8,
        /// Its number.
        step: u32,
    },
    /// A message has the wrong length.
    #[error("a message of {expected} bytes is due, but {actual} came")]
    MessageLength {
        /// Bytes expected, header included.
        expected: u64,
        /// Bytes received or announced.
        actual: u64,
    },
    /// The other server is gone, or the stream broke.
    #[error("the connection to the other server is closed")]
    Closed {
        /// What the operating system said, for streams.
        #[source]
        source: Option<std::io::Error>,
    },
    /// Homomorphic encryption refused: a hostile message, or no parameters for this network.
    #[error("homomorphic encryption: {0}")]
    Encryption(#[from] he_core::Error),
}

/// Results of this crate.
pub type Result<T> = core::result::Result<T, Error>;

pub(crate) fn check_length(what: &'static str, expected: usize, actual: usize) -> Result<()> {
    if expected == actual { Ok(()) } else { Err(Error::Length { what, expected, actual }) }
}
