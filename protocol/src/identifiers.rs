//! The names things have on the wire: digests, request numbers, and short labels.

use std::fmt;
use std::str::FromStr;

use rand::CryptoRng;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{ConfigError, Error, Result};
use crate::limits::MAX_LABEL_BYTES;

/// A BLAKE3 digest: of a plan, of a request, or of a reply.
///
/// Shown and parsed as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 12 hexadecimal digits, for logs and tables.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string().chars().take(12).collect()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse_hex(text).map(Self)
    }
}

/// The number of one request, drawn at random by the client.
///
/// It only tells the requests of one client apart: a retry repeats it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RequestId(pub [u8; 16]);

impl RequestId {
    /// Draw a request number.
    pub fn random(rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        let mut bytes = [0; 16];
        rng.fill_bytes(&mut bytes);
        Self(bytes)
    }

    /// The short form carried by every payload frame: the first eight bytes.
    #[must_use]
    pub const fn tag(&self) -> RequestTag {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        RequestTag([a, b, c, d, e, f, g, h])
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestId({self})")
    }
}

/// The first eight bytes of a [`RequestId`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestTag(pub [u8; 8]);

impl fmt::Debug for RequestTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RequestTag(")?;
        write_hex(f, &self.0)?;
        f.write_str(")")
    }
}

/// A short name to show to people: at most 256 bytes of UTF-8 without control characters.
///
/// The peer chooses it and the other side prints it, so it must not be able to move a cursor.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(String);

impl Label {
    /// Check a name.
    ///
    /// # Errors
    /// - [`ConfigError::InvalidLabel`]: longer than [`MAX_LABEL_BYTES`], or with a control character.
    pub fn new(text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        if Self::is_valid(&text) {
            Ok(Self(text))
        } else {
            Err(ConfigError::InvalidLabel { actual_bytes: text.len() }.into())
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn is_valid(text: &str) -> bool {
        text.len() <= MAX_LABEL_BYTES && !text.chars().any(char::is_control)
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Label({:?})", self.0)
    }
}

impl FromStr for Label {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

impl Serialize for Label {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Label {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct LabelVisitor;
        impl Visitor<'_> for LabelVisitor {
            type Value = Label;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {MAX_LABEL_BYTES} bytes of text without control characters")
            }

            // Borrowed from the message, so that a false length allocates nothing.
            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Label, E> {
                if Label::is_valid(text) {
                    Ok(Label(text.to_owned()))
                } else {
                    Err(E::invalid_value(de::Unexpected::Other("text"), &self))
                }
            }
        }
        deserializer.deserialize_str(LabelVisitor)
    }
}

pub(crate) fn write_hex(f: &mut impl fmt::Write, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// Parse exactly `2 * N` hexadecimal digits of either case.
pub(crate) fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N]> {
    let invalid = || ConfigError::InvalidHex { expected_digits: 2 * N, actual_digits: text.len() };
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return Err(invalid().into());
    }
    let mut bytes = [0u8; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        for &digit in pair {
            let value = char::from(digit).to_digit(16).ok_or_else(invalid)?;
            *byte = (*byte << 4) | u8::try_from(value).map_err(|_| invalid())?;
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn digest_text_round_trips_and_rejects_what_is_not_hex() {
        let digest = Digest(std::array::from_fn(|i| u8::try_from(i * 7).unwrap()));
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        assert_eq!(digest.to_string().to_uppercase().parse::<Digest>().unwrap(), digest);
        assert_eq!(digest.short(), "00070e151c23");
        for text in ["", "00", &"g".repeat(64), &"0".repeat(65), &"é".repeat(32)] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    #[test]
    fn labels_reject_control_characters_and_excess() {
        assert!(Label::new("digits, trained twice").is_ok());
        assert!(Label::new("a".repeat(MAX_LABEL_BYTES)).is_ok());
        for text in ["a\nb", "\u{1b}[2J", "\u{85}", &"a".repeat(MAX_LABEL_BYTES + 1)] {
            assert!(Label::new(text).is_err(), "{text:?}");
        }
    }
}
