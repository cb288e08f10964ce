//! The container of every file this crate writes, and the only module that names `bincode`.
//!
//! ```text
//!  offset  size  field
//!       0     8  magic (kind of artifact, ASCII)
//!       8     4  format version, u32 little-endian
//!      12     8  length of the payload in bytes, u64 little-endian
//!      20     n  payload: bincode, little-endian, integers of fixed width
//!    20+n    32  BLAKE3 digest of everything before it
//! ```
//!
//! The digest finds accidents, not forgery: whoever can write the file can recompute it. Decoding
//! therefore also survives a hostile payload with a matching digest. Integers have a fixed width, so
//! that a value has exactly one encoding and a payload of `n` bytes never claims more than `n` bytes
//! of strings; sequences grow as their elements are read.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bincode::config::{Configuration, Fixint, Limit, LittleEndian, NoLimit};
use serde::{Serialize, de::DeserializeOwned};

use crate::error::{Error, Result};

/// Eight ASCII bytes which open a file and name its kind.
pub type Magic = [u8; 8];

const HEADER_BYTES: usize = 8 + 4 + 8;
const DIGEST_BYTES: usize = blake3::OUT_LEN;

/// Encode `value` as an artifact of kind `magic` and format version `version`.
///
/// Cost: one copy of the payload.
///
/// # Errors
/// - [`Error::Encode`] if the type cannot be represented (not for types of this crate).
pub fn encode<T: Serialize>(magic: Magic, version: u32, value: &T) -> Result<Vec<u8>> {
    let configuration: Configuration<LittleEndian, Fixint, NoLimit> =
        bincode::config::standard().with_fixed_int_encoding();
    let payload = bincode::serde::encode_to_vec(value, configuration)
        .map_err(|cause| Error::Encode { cause: Box::new(cause) })?;
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len() + DIGEST_BYTES);
    bytes.extend_from_slice(&magic);
    bytes.extend_from_slice(&version.to_le_bytes());
    bytes.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&payload);
    let digest = blake3::hash(&bytes);
    bytes.extend_from_slice(digest.as_bytes());
    Ok(bytes)
}

/// Decode an artifact of kind `magic` and format version `version` of at most `limit_bytes` bytes.
///
/// Memory: proportional to `bytes.len()`, whatever the bytes say.
///
/// # Errors
/// - [`Error::TooLarge`] if there are more than `limit_bytes` bytes.
/// - [`Error::WrongMagic`] if it is another kind of file.
/// - [`Error::UnsupportedVersion`] if it was written by another format version.
/// - [`Error::Truncated`] or [`Error::TrailingBytes`] if the length is not the one announced.
/// - [`Error::DigestMismatch`] if the content was altered.
/// - [`Error::Decode`] if the payload is not a `T`, or its own checks reject it.
pub fn decode<T: DeserializeOwned>(
    magic: Magic,
    version: u32,
    bytes: &[u8],
    limit_bytes: usize,
) -> Result<T> {
    if bytes.len() > limit_bytes {
        return Err(Error::TooLarge {
            what: "artifact",
            actual: bytes.len() as u64,
            limit: limit_bytes as u64,
        });
    }
    let payload = open(magic, version, bytes)?;
    let (value, consumed) = decode_payload(payload)?;
    if consumed != payload.len() {
        return Err(Error::TrailingBytes {
            what: "artifact payload",
            n_bytes: payload.len() - consumed,
        });
    }
    Ok(value)
}

/// The kind of artifact `bytes` claim to be, or `None` if there are too few bytes to tell.
#[must_use]
pub fn peek_magic(bytes: &[u8]) -> Option<Magic> {
    bytes.first_chunk::<8>().copied()
}

/// The format version `bytes` claim to have, or `None` if there are too few bytes to tell.
#[must_use]
pub fn peek_version(bytes: &[u8]) -> Option<u32> {
    let (_, rest) = bytes.split_first_chunk::<8>()?;
    rest.first_chunk::<4>().map(|version| u32::from_le_bytes(*version))
}

/// Read a whole file of at most `limit_bytes` bytes.
///
/// # Errors
/// - [`Error::Io`] if the file cannot be opened or read.
/// - [`Error::TooLarge`] if it holds more than `limit_bytes` bytes (checked before allocation, and
///   again while reading for sources that do not know their length).
pub fn read_file(path: &Path, limit_bytes: usize) -> Result<Vec<u8>> {
    let io = |cause| Error::Io { action: "read", path: path.to_path_buf(), cause };
    let file = fs::File::open(path).map_err(io)?;
    let announced = file.metadata().map_err(io)?.len();
    let limit = limit_bytes as u64;
    if announced > limit {
        return Err(Error::TooLarge { what: "file", actual: announced, limit });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(announced).unwrap_or(0));
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() > limit_bytes {
        return Err(Error::TooLarge { what: "file", actual: bytes.len() as u64, limit });
    }
    Ok(bytes)
}

/// Write `bytes` to `path` completely or not at all.
///
/// The bytes go to a new file beside `path`, are flushed to the disk, and the file is then renamed;
/// an earlier file of that name stays untouched until the rename. On failure the new file is removed.
///
/// # Errors
/// - [`Error::Io`] if the folder is missing or not writable, or the disk is full.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let io = |cause| Error::Io { action: "write", path: path.to_path_buf(), cause };
    let temporary = temporary_beside(path);
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        // The first error is the one worth reporting; a leftover is harmless.
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(io)
}

fn temporary_beside(path: &Path) -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let serial = COUNTER.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}-{serial}.partial", std::process::id()))
}

/// Check everything around the payload and return the payload.
fn open(magic: Magic, version: u32, bytes: &[u8]) -> Result<&[u8]> {
    let truncated =
        |expected: u64| Error::Truncated { what: "artifact", expected, actual: bytes.len() as u64 };
    let (actual_magic, rest) =
        bytes.split_first_chunk::<8>().ok_or_else(|| truncated(HEADER_BYTES as u64))?;
    if *actual_magic != magic {
        return Err(Error::WrongMagic { expected: magic, actual: *actual_magic });
    }
    let (actual_version, rest) =
        rest.split_first_chunk::<4>().ok_or_else(|| truncated(HEADER_BYTES as u64))?;
    let actual_version = u32::from_le_bytes(*actual_version);
    if actual_version != version {
        return Err(Error::UnsupportedVersion { supported: version, actual: actual_version });
    }
    let (announced, rest) =
        rest.split_first_chunk::<8>().ok_or_else(|| truncated(HEADER_BYTES as u64))?;
    let announced = u64::from_le_bytes(*announced);
    let (content, digest) = rest
        .split_last_chunk::<DIGEST_BYTES>()
        .ok_or_else(|| truncated((HEADER_BYTES + DIGEST_BYTES) as u64))?;
    let actual = content.len() as u64;
    if actual < announced {
        return Err(truncated(announced.saturating_add((HEADER_BYTES + DIGEST_BYTES) as u64)));
    }
    if actual > announced {
        let surplus = usize::try_from(actual - announced).unwrap_or(usize::MAX);
        return Err(Error::TrailingBytes { what: "artifact", n_bytes: surplus });
    }
    let hashed = bytes.get(..HEADER_BYTES + content.len()).unwrap_or_default();
    if blake3::hash(hashed) != blake3::Hash::from_bytes(*digest) {
        return Err(Error::DigestMismatch { what: "artifact" });
    }
    Ok(content)
}

/// Decode with the smallest of a few compile-time limits that covers the payload.
fn decode_payload<T: DeserializeOwned>(payload: &[u8]) -> Result<(T, usize)> {
    fn run<T: DeserializeOwned, const LIMIT: usize>(payload: &[u8]) -> Result<(T, usize)> {
        let configuration: Configuration<LittleEndian, Fixint, Limit<LIMIT>> =
            bincode::config::standard().with_fixed_int_encoding().with_limit::<LIMIT>();
        bincode::serde::decode_from_slice(payload, configuration)
            .map_err(|cause| Error::Decode { cause: in_words(cause) })
    }
    match payload.len() {
        0..=0x1_0000 => run::<T, 0x1_0000>(payload),
        0x1_0001..=0x10_0000 => run::<T, 0x10_0000>(payload),
        0x10_0001..=0x100_0000 => run::<T, 0x100_0000>(payload),
        0x100_0001..=0x1000_0000 => run::<T, 0x1000_0000>(payload),
        0x1000_0001..=0x4000_0000 => run::<T, 0x4000_0000>(payload),
        actual => Err(Error::TooLarge {
            what: "artifact payload",
            actual: actual as u64,
            limit: 0x4000_0000,
        }),
    }
}

/// The message of a decoder or a checked constructor, without the decoder's wrapping.
fn in_words(cause: bincode::error::DecodeError) -> crate::error::Cause {
    use bincode::error::DecodeError;
    #[expect(clippy::wildcard_enum_match_arm, reason = "the others have only their own words")]
    match cause {
        DecodeError::OtherString(message) => message.into(),
        DecodeError::Other(message) => message.into(),
        other => Box::new(other),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    const MAGIC: Magic = *b"SDLTEST\0";
    const LIMIT_BYTES: usize = 1 << 16;

    type Sample = (String, Vec<i16>, Option<f64>);

    fn sample() -> Sample {
        ("name".into(), vec![-3, 0, 7], Some(0.5))
    }

    #[test]
    fn a_value_survives_the_round_trip() {
        let bytes = encode(MAGIC, 3, &sample()).unwrap();
        assert_eq!(decode::<Sample>(MAGIC, 3, &bytes, LIMIT_BYTES).unwrap(), sample());
        assert_eq!(peek_magic(&bytes), Some(MAGIC));
    }

    #[test]
    fn each_kind_of_damage_has_its_own_error() {
        let bytes = encode(MAGIC, 3, &sample()).unwrap();
        let decode = |bytes: &[u8], version| decode::<Sample>(MAGIC, version, bytes, LIMIT_BYTES);
        let mut other_kind = bytes.clone();
        other_kind[0] ^= 1;
        assert!(matches!(decode(&other_kind, 3), Err(Error::WrongMagic { .. })));
        let error = decode(&bytes, 4);
        assert!(matches!(error, Err(Error::UnsupportedVersion { supported: 4, actual: 3 })));
        let cut = &bytes[..bytes.len() - 1];
        assert!(matches!(decode(cut, 3), Err(Error::Truncated { .. })));
        let longer = [bytes.as_slice(), &[0]].concat();
        assert!(matches!(decode(&longer, 3), Err(Error::TrailingBytes { n_bytes: 1, .. })));
        let mut flipped = bytes.clone();
        flipped[HEADER_BYTES + 9] ^= 4;
        assert!(matches!(decode(&flipped, 3), Err(Error::DigestMismatch { .. })));
        let error = super::decode::<Sample>(MAGIC, 3, &bytes, bytes.len() - 1);
        assert!(matches!(error, Err(Error::TooLarge { .. })));
    }

    #[test]
    fn a_payload_longer_than_its_value_is_refused() {
        let bytes = encode(MAGIC, 3, &(sample(), 1_u8)).unwrap();
        let error = decode::<Sample>(MAGIC, 3, &bytes, LIMIT_BYTES);
        assert!(matches!(error, Err(Error::TrailingBytes { n_bytes: 1, .. })));
    }

    #[test]
    fn writing_replaces_the_file_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        write_file(&path, b"one").unwrap();
        write_file(&path, b"two").unwrap();
        assert_eq!(read_file(&path, 3).unwrap(), b"two");
        assert!(matches!(read_file(&path, 2), Err(Error::TooLarge { actual: 3, limit: 2, .. })));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let missing = folder.path().join("no/such/folder.bin");
        assert!(matches!(write_file(&missing, b"x"), Err(Error::Io { action: "write", .. })));
    }

    proptest! {
        #[test]
        fn hostile_payloads_with_a_valid_digest_never_panic(payload in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = MAGIC.to_vec();
            bytes.extend_from_slice(&3_u32.to_le_bytes());
            bytes.extend_from_slice(&(payload.len() as u64).to_le_bytes());
            bytes.extend_from_slice(&payload);
            let digest = blake3::hash(&bytes);
            bytes.extend_from_slice(digest.as_bytes());
            let _ = decode::<Sample>(MAGIC, 3, &bytes, LIMIT_BYTES);
            let _ = decode::<Vec<String>>(MAGIC, 3, &bytes, LIMIT_BYTES);
            let _ = decode::<ndarray::Array2<f32>>(MAGIC, 3, &bytes, LIMIT_BYTES);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decode::<Sample>(MAGIC, 3, &bytes, LIMIT_BYTES).is_err());
        }
    }
}
