//! Named arrays in a safetensors or NPZ file.

use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use ndarray::{ArrayD, IxDyn};
use safetensors::tensor::Metadata;
use safetensors::{Dtype, SafeTensors};
use zip::ZipArchive;

use super::assemble::{Budget, single};
use super::fault::ImportError;
use super::floats::{brain_half, half, raw_values};
use super::locate::file_below;
use super::printable;
use super::{MAX_FILE_BYTES, npy};
use crate::artifact;
use crate::error::{Error, Result};

/// Most arrays of a file.
const MAX_ARRAYS: usize = 1 << 14;
/// Longest header of a safetensors file: it lists names and axes.
const MAX_HEADER_BYTES: u64 = 1 << 22;
/// Bytes before the header, which hold its length.
const HEADER_LENGTH_BYTES: usize = 8;

/// A file of named arrays, read on demand.
pub(super) struct WeightFile {
    path: PathBuf,
    content: Content,
    n_bytes: usize,
}

enum Content {
    /// The header, the bytes of the file, and where the arrays begin in them.
    SafeTensors {
        metadata: Metadata,
        bytes: Vec<u8>,
        start: usize,
    },
    Npz(ZipArchive<Cursor<Vec<u8>>>),
}

impl WeightFile {
    /// Open `location` in `folder` or below.
    pub(super) fn open(folder: &Path, location: &str) -> Result<Self> {
        let path = file_below(folder, Path::new(location))?.ok_or_else(|| {
            let location = printable(location, 200);
            ImportError::OutsideFolder { name: "weights".into(), location }
        })?;
        let bytes = artifact::read_file(&path, MAX_FILE_BYTES)?;
        Self::parse(path.clone(), bytes).map_err(|error| error.in_file(&path))
    }

    fn parse(path: PathBuf, bytes: Vec<u8>) -> Result<Self> {
        let n_bytes = bytes.len();
        let content = if bytes.starts_with(b"PK") {
            let archive = ZipArchive::new(Cursor::new(bytes)).map_err(damaged)?;
            let n_arrays = archive.len();
            if n_arrays > MAX_ARRAYS {
                let (actual, limit) = (n_arrays as u64, MAX_ARRAYS as u64);
                return Err(Error::TooLarge { what: "number of arrays", actual, limit });
            }
            Content::Npz(archive)
        } else {
            let n =
                bytes.first_chunk::<HEADER_LENGTH_BYTES>().map_or(0, |n| u64::from_le_bytes(*n));
            if n > MAX_HEADER_BYTES {
                let (actual, limit) = (n, MAX_HEADER_BYTES);
                return Err(Error::TooLarge { what: "safetensors header", actual, limit });
            }
            let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(damaged)?;
            let start = header + HEADER_LENGTH_BYTES;
            Content::SafeTensors { metadata, bytes, start }
        };
        Ok(Self { path, content, n_bytes })
    }

    /// Size of the file.
    pub(super) fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    /// The array `name`, which layer `layer` needs.
    pub(super) fn array(
        &mut self,
        layer: usize,
        name: &str,
        budget: &mut Budget,
    ) -> Result<ArrayD<f32>> {
        let array = match &mut self.content {
            Content::SafeTensors { metadata, bytes, start } => {
                safetensor((metadata, bytes.get(*start..)), layer, name, budget)
            }
            Content::Npz(archive) => npz_entry(archive, layer, name, budget),
        };
        let array = array.map_err(|error| error.in_file(&self.path))?;
        if let Some((position, &value)) = array.iter().enumerate().find(|(_, v)| !v.is_finite()) {
            let (name, value) = (name.to_owned(), f64::from(value));
            let error = Error::from(ImportError::NonFinite { name, position, value });
            return Err(error.in_file(&self.path));
        }
        Ok(array)
    }
}

fn damaged(cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    ImportError::WeightFile { cause: Box::new(cause) }.into()
}

fn missing<'a>(layer: usize, name: &str, names: impl Iterator<Item = &'a str>) -> Error {
    let mut available: Vec<String> = names.map(str::to_owned).collect();
    available.sort_unstable();
    ImportError::MissingArray { layer, name: name.to_owned(), available }.into()
}

/// An array of a safetensors file: its header, and the bytes after that.
fn safetensor(
    (metadata, bytes): (&Metadata, Option<&[u8]>),
    layer: usize,
    name: &str,
    budget: &mut Budget,
) -> Result<ArrayD<f32>> {
    let Some(tensor) = metadata.info(name) else {
        let names = metadata.offset_keys();
        return Err(missing(layer, name, names.iter().map(String::as_str)));
    };
    let (first, end) = tensor.data_offsets;
    let data = bytes.and_then(|bytes| bytes.get(first..end)).unwrap_or_default();
    let n_values: usize = tensor.shape.iter().product();
    budget.take(|| format!("`{name}`"), n_values)?;
    #[expect(clippy::wildcard_enum_match_arm, reason = "the list of element types grows")]
    let values = match tensor.dtype {
        Dtype::F32 => raw_values(data, f32::from_le_bytes),
        Dtype::F64 => raw_values(data, |b| single(f64::from_le_bytes(b))),
        Dtype::F16 => raw_values(data, |b| half(u16::from_le_bytes(b))),
        Dtype::BF16 => raw_values(data, |b| brain_half(u16::from_le_bytes(b))),
        other => {
            let (name, element_type) = (name.to_owned(), format!("{other:?}"));
            let expected = "F32, F64, F16 or BF16";
            return Err(ImportError::ElementType { name, element_type, expected }.into());
        }
    };
    let actual = values.len();
    ArrayD::from_shape_vec(IxDyn(&tensor.shape), values).map_err(|_| {
        ImportError::ArrayLength { name: name.to_owned(), expected: n_values, actual }.into()
    })
}

fn npz_entry(
    archive: &mut ZipArchive<Cursor<Vec<u8>>>,
    layer: usize,
    name: &str,
    budget: &mut Budget,
) -> Result<ArrayD<f32>> {
    let file_name = format!("{name}.npy");
    let Some(index) = archive.index_for_name(&file_name) else {
        let names = archive.file_names().map(|name| name.strip_suffix(".npy").unwrap_or(name));
        return Err(missing(layer, name, names));
    };
    let entry = archive.by_index(index).map_err(damaged)?;
    // What the archive claims is charged first, and no more is unpacked.
    let claimed = entry.size();
    let n_values = usize::try_from(claimed / 4).unwrap_or(usize::MAX);
    budget.take(|| format!("`{name}`"), n_values)?;
    let mut bytes = Vec::new();
    entry.take(claimed).read_to_end(&mut bytes).map_err(damaged)?;
    npy::parse_array(&bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn bytes_of_no_known_format_are_refused() {
        for bytes in [&b""[..], b"PK", b"PK\x03\x04rest", b"\xff\xff\xff\xff\0\0\0\0{}", b"{}"] {
            assert!(WeightFile::parse("x".into(), bytes.to_vec()).is_err(), "{bytes:?}");
        }
    }
}
