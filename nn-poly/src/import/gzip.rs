//! Reading data files that may be compressed.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use crate::artifact;
use crate::error::{Error, Result};

/// Read a file and unpack it if it is gzip (by its first two bytes, not by its name).
pub(super) fn read(path: &Path, limit_bytes: usize) -> Result<Vec<u8>> {
    let bytes = artifact::read_file(path, limit_bytes)?;
    unpack(bytes, limit_bytes).map_err(|error| error.in_file(path))
}

/// The bytes of a file from its beginning, unpacked if it is gzip.
pub(super) fn open(path: &Path) -> Result<Box<dyn Read + Send>> {
    let io = |cause| Error::Io { action: "read", path: path.to_path_buf(), cause };
    let mut file = BufReader::with_capacity(1 << 16, File::open(path).map_err(io)?);
    let is_packed = file.fill_buf().map_err(io)?.starts_with(&[0x1f, 0x8b]);
    Ok(if is_packed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) })
}

/// Unpack gzip content of at most `limit_bytes` bytes; other content is returned as it is.
pub(super) fn unpack(bytes: Vec<u8>, limit_bytes: usize) -> Result<Vec<u8>> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes);
    }
    let limit = limit_bytes as u64;
    let mut unpacked = Vec::new();
    MultiGzDecoder::new(bytes.as_slice())
        .take(limit.saturating_add(1))
        .read_to_end(&mut unpacked)
        .map_err(|cause| Error::InvalidGzip { cause })?;
    if unpacked.len() > limit_bytes {
        let actual = unpacked.len() as u64;
        return Err(Error::TooLarge { what: "unpacked gzip content (bytes)", actual, limit });
    }
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};
    use proptest::prelude::*;

    use super::*;

    fn pack(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let bomb = pack(&vec![0; 1 << 20]);
        assert!(bomb.len() < 1 << 14);
        assert!(matches!(unpack(bomb.clone(), 1 << 16), Err(Error::TooLarge { .. })));
        assert_eq!(unpack(bomb, 1 << 20).unwrap().len(), 1 << 20);
    }

    #[test]
    fn truncated_or_trailing_content_is_an_error() {
        let packed = pack(b"hello");
        let cut = packed.split_last().unwrap().1.to_vec();
        assert!(matches!(unpack(cut, 99), Err(Error::InvalidGzip { .. })));
        let trailing = [packed.as_slice(), b"x"].concat();
        assert!(matches!(unpack(trailing, 99), Err(Error::InvalidGzip { .. })));
    }

    proptest! {
        #[test]
        fn mutated_bytes_never_panic(position in 2_usize..40, value in any::<u8>()) {
            let mut packed = pack(b"some bytes that compress: aaaaaaaaaaaaaaaaaaaa");
            if let Some(byte) = packed.get_mut(position) {
                *byte = value;
            }
            let _ = unpack(packed, 1 << 12);
        }
    }
}
