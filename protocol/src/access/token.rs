//! Bearer tokens, and the hashes of them that a server keeps.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use rand::CryptoRng;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use subtle::{Choice, ConstantTimeEq};
use zeroize::Zeroizing;

use crate::error::{ConfigError, Error, Result};
use crate::identifiers::{parse_hex, write_hex};

/// What every token starts with, so that people and scanners recognise one.
pub const TOKEN_PREFIX: &str = "sdltoken1_";

/// Largest token file read: a token and some white space.
const MAX_TOKEN_FILE_BYTES: u64 = 256;

const TOKEN_CONTEXT: &str = "securedl access token 1";
const HASH_PREFIX: &str = "blake3:";
const SALT_BYTES: usize = 16;

/// 256 random bits that let a client in.
///
/// # Security
/// Never printed by `Debug`; compared in constant time; wiped from memory when dropped. Buffers of
/// the TLS library and of the receiving frame decoder are not wiped.
#[derive(Clone)]
pub struct Token(Zeroizing<[u8; 32]>);

impl Token {
    /// Draw a token.
    pub fn generate(rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        rng.fill_bytes(bytes.as_mut_slice());
        Self(bytes)
    }

    /// The token with these bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(Zeroizing::new(*bytes))
    }

    /// The text to hand to the client: [`TOKEN_PREFIX`] and 64 hexadecimal digits.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        // Reserved in full, so that no copy stays behind in a smaller allocation.
        let mut text = Zeroizing::new(String::with_capacity(TOKEN_PREFIX.len() + 65));
        text.push_str(TOKEN_PREFIX);
        // Writing to a string does not fail.
        let _ = write_hex(&mut *text, &*self.0);
        text
    }

    /// Read a file that holds a token's text and nothing else but white space around it.
    ///
    /// # Errors
    /// - [`ConfigError::UnreadableToken`]: the file cannot be read.
    /// - [`ConfigError::InvalidToken`]: it holds something else.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = crate::tls::read_small(path, MAX_TOKEN_FILE_BYTES)
            .map_err(|source| ConfigError::UnreadableToken { path: path.to_owned(), source })?;
        let bytes = Zeroizing::new(bytes);
        crate::tls::warn_if_readable_by_others(path);
        std::str::from_utf8(&bytes).map_err(|_| ConfigError::InvalidToken)?.trim().parse()
    }
}

impl FromStr for Token {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // Says nothing about the text: it may be a secret.
        let digits = text.strip_prefix(TOKEN_PREFIX).ok_or(ConfigError::InvalidToken)?;
        let bytes = parse_hex::<32>(digits).map_err(|_| ConfigError::InvalidToken)?;
        Ok(Self(Zeroizing::new(bytes)))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").finish_non_exhaustive()
    }
}

impl PartialEq for Token {
    /// In constant time.
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&*other.0).into()
    }
}

impl Eq for Token {}

impl Serialize for Token {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        <[u8; 32]>::deserialize(deserializer).map(|bytes| Self(Zeroizing::new(bytes)))
    }
}

/// A token as a server keeps it: a salt, and BLAKE3 of salt and token.
///
/// ```text
/// blake3:<salt, 32 digits>:<BLAKE3_derive_key("securedl access token 1", salt 16 ‖ token 32)>
/// ```
/// A password hash would add nothing: it slows down guessing, and 256 random bits are not guessed.
/// The salt keeps equal tokens of two lists from looking equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TokenHash {
    salt: [u8; SALT_BYTES],
    hash: [u8; 32],
}

impl TokenHash {
    /// Hash a token under a fresh salt.
    pub fn new(token: &Token, rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        let mut salt = [0; SALT_BYTES];
        rng.fill_bytes(&mut salt);
        Self { hash: hash(&salt, token), salt }
    }

    /// Whether this is the hash of `token`, in constant time.
    pub(super) fn matches(&self, token: &Token) -> Choice {
        hash(&self.salt, token).ct_eq(&self.hash)
    }
}

fn hash(salt: &[u8; SALT_BYTES], token: &Token) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(TOKEN_CONTEXT);
    hasher.update(salt);
    hasher.update(&*token.0);
    *hasher.finalize().as_bytes()
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HASH_PREFIX)?;
        write_hex(f, &self.salt)?;
        f.write_str(":")?;
        write_hex(f, &self.hash)
    }
}

impl FromStr for TokenHash {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = text.strip_prefix(HASH_PREFIX).and_then(|rest| rest.split_once(':'));
        let (salt, hash) = parts.ok_or(ConfigError::InvalidTokenHash)?;
        let invalid = |_| ConfigError::InvalidTokenHash;
        Ok(Self {
            salt: parse_hex(salt).map_err(invalid)?,
            hash: parse_hex(hash).map_err(invalid)?,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    use super::*;

    #[test]
    fn tokens_and_hashes_have_their_published_text() {
        let token = Token::from_bytes(&std::array::from_fn(|i| u8::try_from(i).unwrap()));
        let text = "sdltoken1_000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
        assert_eq!(*token.to_text(), text);
        assert!(text.parse::<Token>().unwrap() == token);
        let salt = [7; 16];
        let expected = blake3::derive_key(TOKEN_CONTEXT, &[&salt[..], &*token.0].concat());
        let hash = TokenHash { salt, hash: hash(&salt, &token) };
        assert_eq!(hash.hash, expected);
        assert_eq!(hash.to_string().parse::<TokenHash>().unwrap(), hash);
        for wrong in ["", "sdltoken1_", "sdltoken1_00", &text.to_uppercase(), &text[10..]] {
            assert!(wrong.parse::<Token>().is_err(), "{wrong}");
        }
        for wrong in ["", "blake3:", "blake3:00:00", &hash.to_string().replace("blake3", "sha2")] {
            assert!(wrong.parse::<TokenHash>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_hash_matches_its_token_only_and_salts_differ() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let (token, other) = (Token::generate(&mut rng), Token::generate(&mut rng));
        let (one, two) = (TokenHash::new(&token, &mut rng), TokenHash::new(&token, &mut rng));
        assert_ne!(one, two);
        for hash in [&one, &two] {
            assert!(bool::from(hash.matches(&token)));
            assert!(!bool::from(hash.matches(&other)));
        }
    }

    #[test]
    fn no_token_is_printed() {
        let token = Token::from_bytes(&[0xab; 32]);
        let shown = format!("{token:?} {:?}", Some(&token));
        assert!(!shown.contains("ab") && !shown.contains("171"), "{shown}");
    }

    #[test]
    fn a_token_file_holds_a_token_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        assert!(Token::load(&path).is_err());
        let token = Token::from_bytes(&[3; 32]);
        std::fs::write(&path, format!("\n {}\r\n", *token.to_text())).unwrap();
        assert!(Token::load(&path).unwrap() == token);
        let secret = "hunter2";
        std::fs::write(&path, secret).unwrap();
        assert!(!Token::load(&path).unwrap_err().to_string().contains(secret));
    }

    proptest! {
        /// Altered text is refused, or is another token's or another hash's.
        #[test]
        fn altered_text_is_refused_or_means_something_else(
            at in any::<prop::sample::Index>(),
            character in any::<char>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let token = Token::from_bytes(&[0x5a; 32]);
            let hash = TokenHash::new(&token, &mut ChaCha20Rng::seed_from_u64(3));
            for text in [(*token.to_text()).clone(), hash.to_string()] {
                let mut altered: Vec<char> = text.chars().collect();
                let length = altered.len();
                if let Some(target) = altered.get_mut(at.index(length)) { *target = character; }
                let altered: String = altered.into_iter().collect();
                let short = text.get(..cut.index(length)).unwrap_or_default();
                prop_assert!(short.parse::<Token>().is_err() && short.parse::<TokenHash>().is_err());
                if altered.to_lowercase() == text.to_lowercase() { continue; }
                prop_assert!(altered.parse::<Token>().map_or(true, |read| read != token));
                prop_assert!(altered.parse::<TokenHash>().map_or(true, |read| read != hash));
            }
        }
    }
}
