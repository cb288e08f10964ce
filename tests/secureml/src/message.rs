//! Bytes between the servers: a header of five bytes, then words or ciphertexts.
//!
//! A message is its kind (one byte), its number within the phase (u32, little-endian) and a payload
//! whose length both sides know from public shapes. Nothing is read before kind, number and length
//! are right.

use crate::error::{Error, Result};

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 5;

/// What a message carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Masked weights `W_i - V_i` of every linear layer, once per model.
    WeightOpening,
    /// Masked values entering a product or a square.
    Opening,
    /// Public encryption keys.
    Keys,
    /// Encrypted masks.
    Query,
    /// Encrypted products of masks, blinded.
    Reply,
}

impl Kind {
    const fn byte(self) -> u8 {
        match self {
            Self::WeightOpening => 1,
            Self::Opening => 2,
            Self::Keys => 3,
            Self::Query => 4,
            Self::Reply => 5,
        }
    }
}

/// The message a machine waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Its kind.
    pub kind: Kind,
    /// Its number.
    pub step: u32,
    /// Bytes of its payload.
    pub payload_bytes: usize,
}

impl Expected {
    /// Bytes of the whole message: the most a transport needs to accept.
    #[must_use]
    pub fn message_bytes(&self) -> usize {
        self.payload_bytes.saturating_add(HEADER_BYTES)
    }

    /// Checks a message and returns its payload.
    ///
    /// # Errors
    /// [`Error::MessageLength`] or [`Error::Order`].
    pub fn open<'m>(&self, message: &'m [u8]) -> Result<&'m [u8]> {
        let wrong_length = || Error::MessageLength {
            expected: self.message_bytes() as u64,
            actual: message.len() as u64,
        };
        let Some((&[kind, a, b, c, d], payload)) = message.split_first_chunk::<HEADER_BYTES>()
        else {
            return Err(wrong_length());
        };
        let step = u32::from_le_bytes([a, b, c, d]);
        if (kind, step) != (self.kind.byte(), self.step) {
            return Err(Error::Order {
                expected: self.kind,
                expected_step: self.step,
                actual: kind,
                step,
            });
        }
        if payload.len() == self.payload_bytes { Ok(payload) } else { Err(wrong_length()) }
    }
}

/// Starts a message.
pub(crate) fn begin(kind: Kind, step: u32, payload_bytes: usize) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER_BYTES + payload_bytes);
    message.push(kind.byte());
    message.extend_from_slice(&step.to_le_bytes());
    message
}

/// Appends words, little-endian.
pub(crate) fn put_words(message: &mut Vec<u8>, words: &[u64]) {
    for word in words {
        message.extend_from_slice(&word.to_le_bytes());
    }
}

/// The words of a payload.
pub(crate) fn words(payload: &[u8]) -> impl Iterator<Item = u64> {
    let (words, _) = payload.as_chunks::<8>();
    words.iter().map(|&word| u64::from_le_bytes(word))
}

/// One server's side of a phase, without I/O: bytes in, bytes out.
pub trait Machine {
    /// The messages to send before anything was received; call once.
    ///
    /// # Errors
    /// [`Error::Encryption`] when keys or queries cannot be made.
    fn begin(&mut self) -> Result<Vec<Vec<u8>>>;

    /// The message that is due, or `None` when the phase has ended for this server.
    fn expected(&self) -> Option<Expected>;

    /// Takes the message that is due and returns those to send.
    ///
    /// # Errors
    /// - [`Error::Order`] and [`Error::MessageLength`] when it is another one.
    /// - [`Error::Encryption`] when its ciphertexts are malformed.
    /// - [`Error::State`] when none is due.
    ///
    /// After an error the machine is of no use.
    fn receive(&mut self, message: &[u8]) -> Result<Vec<Vec<u8>>>;
}
