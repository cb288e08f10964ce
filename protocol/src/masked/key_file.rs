//! The mask key of a server, in a file of its own.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use nn_poly::encrypted::masked::{MASK_KEY_BYTES, MaskKey};
use rand::{TryRngCore, rngs::OsRng};
use zeroize::Zeroizing;

use crate::error::{ConfigError, Result};
use crate::identifiers::{parse_hex, write_hex};

/// Longest file that is read: the digits and a line end.
const MAX_FILE_BYTES: u64 = 256;

/// Reads the mask key in the file at `path`; makes one if there is no such file, for its owner's eyes
/// only.
///
/// Servers that stand in for one another need copies of one file. Whoever has it can take the masks off
/// everything that was sent under it.
///
/// # Errors
/// - [`ConfigError::UnreadableFile`], [`ConfigError::UnusableFile`] for the file.
/// - [`ConfigError::UnwritableFile`] when it cannot be made.
pub fn load_or_create_mask_key(path: &Path) -> Result<MaskKey> {
    if path.exists() {
        return load(path);
    }
    let unwritable = |source| ConfigError::UnwritableFile { path: path.to_owned(), source };
    let mut key = Zeroizing::new([0_u8; MASK_KEY_BYTES]);
    let drawn = OsRng.try_fill_bytes(key.as_mut_slice());
    drawn.map_err(|error| unwritable(io::Error::other(error)))?;
    // Reserved in full, so that no copy stays behind in a smaller allocation.
    let mut text = Zeroizing::new(String::with_capacity(2 * MASK_KEY_BYTES + 1));
    write_hex(&mut *text, key.as_slice()).map_err(|error| unwritable(io::Error::other(error)))?;
    text.push('\n');
    write_private(path, text.as_bytes()).map_err(unwritable)?;
    Ok(MaskKey::from_bytes(&key))
}

fn load(path: &Path) -> Result<MaskKey> {
    let text = Zeroizing::new(crate::tls::read_file(path, MAX_FILE_BYTES)?);
    let unusable = || ConfigError::UnusableFile {
        path: path.to_owned(),
        expected: "mask key (64 hexadecimal digits)",
        source: None,
    };
    let text = std::str::from_utf8(&text).map_err(|_| unusable())?;
    let key: Zeroizing<[u8; MASK_KEY_BYTES]> =
        Zeroizing::new(parse_hex(text.trim()).map_err(|_| unusable())?);
    Ok(MaskKey::from_bytes(&key))
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use nn_poly::encrypted::masked::RequestHash;
    use nn_poly::plan::Digest;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mask.key");
        let token = |key: &MaskKey| key.token(&Digest([1; 32]), 0, RequestHash([2; 32]));
        let made = load_or_create_mask_key(&path).unwrap();
        let read = load_or_create_mask_key(&path).unwrap();
        assert_eq!(token(&made), token(&read));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        let other = load_or_create_mask_key(&folder.path().join("other.key")).unwrap();
        assert_ne!(token(&made), token(&other));
        for text in ["", "00", "not a key", &"g".repeat(64), &"0".repeat(300)] {
            std::fs::write(&path, text).unwrap();
            assert!(load_or_create_mask_key(&path).is_err(), "{text}");
        }
        assert!(load_or_create_mask_key(&folder.path().join("no/such.key")).is_err());
    }
}
