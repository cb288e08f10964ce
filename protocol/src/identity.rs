//! The server's long-term Ed25519 identity: it signs receipts and outlives certificates.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use rand::CryptoRng;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::error::{ConfigError, Error, Malformed, Result};
use crate::identifiers::{parse_hex, write_hex};

/// What the text of a secret key begins with: every other seed would pass for a public key.
const SECRET_PREFIX: &str = "ed25519-secret-";
/// Largest identity file read: a key and some white space.
const MAX_IDENTITY_FILE_BYTES: u64 = 256;

/// A server's secret signing key.
///
/// # Security
/// Never printed; wiped from memory when dropped.
pub struct Identity {
    key: SigningKey,
}

impl Identity {
    /// Draw a new identity.
    pub fn generate(rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(seed.as_mut_slice());
        Self::from_seed(&seed)
    }

    /// The identity of a 32-byte secret seed (RFC 8032 private key).
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self { key: SigningKey::from_bytes(seed) }
    }

    /// Read an identity file: `ed25519-secret-` and the seed as 64 hexadecimal digits, or the digits
    /// alone; white space around them is ignored.
    ///
    /// # Errors
    /// - [`ConfigError::UnreadableFile`]: the file cannot be read.
    /// - [`ConfigError::UnusableFile`]: it holds something else.
    pub fn load(path: &Path) -> Result<Self> {
        let text = Zeroizing::new(crate::tls::read_file(path, MAX_IDENTITY_FILE_BYTES)?);
        let unusable = || ConfigError::UnusableFile {
            path: path.to_owned(),
            expected: "secret Ed25519 key (ed25519-secret- and 64 hexadecimal digits)",
            source: None,
        };
        let text = std::str::from_utf8(&text).map_err(|_| unusable())?.trim();
        let digits = text.strip_prefix(SECRET_PREFIX).unwrap_or(text);
        let seed: Zeroizing<[u8; 32]> = Zeroizing::new(parse_hex(digits).map_err(|_| unusable())?);
        Ok(Self::from_seed(&seed))
    }

    /// The text of an identity file, for [`load`](Self::load).
    pub(crate) fn to_file_text(&self) -> Zeroizing<String> {
        // Reserved in full, so that no copy stays behind in a smaller allocation.
        let mut text = Zeroizing::new(String::with_capacity(SECRET_PREFIX.len() + 65));
        text.push_str(SECRET_PREFIX);
        write_hex(&mut *text, &*Zeroizing::new(self.key.to_bytes()))
            .expect("invariant: writing to a string succeeds");
        text.push('\n');
        text
    }

    /// The public key of this identity.
    #[must_use]
    pub fn public(&self) -> PublicIdentity {
        PublicIdentity(self.key.verifying_key().to_bytes())
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Signature {
        Signature::from_bytes(&self.key.sign(message).to_bytes())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("public", &self.public()).finish_non_exhaustive()
    }
}

/// A server's public key: 32 bytes, shown as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PublicIdentity(pub [u8; 32]);

impl PublicIdentity {
    /// The key as a point of the curve.
    pub(crate) fn verifying_key(&self) -> Result<VerifyingKey> {
        let key = VerifyingKey::from_bytes(&self.0).map_err(|_| Malformed::IdentityKey)?;
        // A point of small order verifies signatures on any message.
        if key.is_weak() { Err(Malformed::IdentityKey.into()) } else { Ok(key) }
    }

    /// Whether `signature` is this identity's signature of `message`.
    pub(crate) fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        let signature = ed25519_dalek::Signature::from_bytes(&signature.to_bytes());
        self.verifying_key().is_ok_and(|key| key.verify_strict(message, &signature).is_ok())
    }
}

impl fmt::Display for PublicIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for PublicIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicIdentity({self})")
    }
}

impl FromStr for PublicIdentity {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse_hex(text).map(Self)
    }
}

/// An Ed25519 signature: 64 bytes on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature([[u8; 32]; 2]);

impl Signature {
    /// The signature with these 64 bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 64]) -> Self {
        let mut halves = [[0; 32]; 2];
        halves.as_flattened_mut().copy_from_slice(bytes);
        Self(halves)
    }

    /// The 64 bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes.copy_from_slice(self.0.as_flattened());
        bytes
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signature(")?;
        write_hex(f, self.0.as_flattened())?;
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    /// RFC 8032, section 7.1, test 1.
    #[test]
    fn signature_equals_the_published_vector() {
        let seed = parse_hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
        let identity = Identity::from_seed(&seed.unwrap());
        assert_eq!(
            identity.public().to_string(),
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
        );
        let signature = identity.sign(b"");
        assert_eq!(signature.to_bytes()[..4], [0xe5, 0x56, 0x43, 0x00]);
        assert!(identity.public().verifies(b"", &signature));
        assert!(!identity.public().verifies(b"x", &signature));
    }

    #[test]
    fn a_point_of_small_order_or_off_the_curve_is_no_identity() {
        let mut identity_point = [0; 32];
        identity_point[0] = 1;
        assert!(PublicIdentity(identity_point).verifying_key().is_err());
        let mut off_the_curve = [0; 32];
        off_the_curve[0] = 2;
        assert!(PublicIdentity(off_the_curve).verifying_key().is_err());
    }

    #[test]
    fn file_text_round_trips_and_debug_hides_the_seed() {
        let identity = Identity::from_seed(&[7; 32]);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("identity.key");
        std::fs::write(&path, identity.to_file_text().as_bytes()).unwrap();
        assert_eq!(Identity::load(&path).unwrap().public(), identity.public());
        assert!(!format!("{identity:?}").contains("0707"));
        std::fs::write(&path, format!(" {}\n", "07".repeat(32))).unwrap();
        assert_eq!(Identity::load(&path).unwrap().public(), identity.public());
        for text in ["", "07", "ed25519-secret-", &"zz".repeat(32)] {
            std::fs::write(&path, text).unwrap();
            assert!(Identity::load(&path).is_err(), "{text}");
        }
    }
}
