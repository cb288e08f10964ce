//! Constants of a graph: decoded on first use, from the file or from files beside it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ndarray::{ArrayD, IxDyn};
use prost::bytes::Bytes;

use super::super::assemble::{Budget, single};
use super::super::floats::{brain_half, half, raw_values};
use super::super::locate::file_below;
use super::super::{ImportError, printable};
use super::node::Outcome;
use super::proto::{EXTERNAL, TensorProto, element};
use crate::artifact;
use crate::error::Result;

/// Largest file with external data: 1 GiB.
const MAX_EXTERNAL_BYTES: usize = 1 << 30;
/// Most files with external data.
const MAX_EXTERNAL_FILES: usize = 64;

/// Where the bytes of constants come from.
#[derive(Debug)]
pub(super) struct Store {
    /// Folder of the importing file, with links resolved.
    folder: Option<PathBuf>,
    files: BTreeMap<String, Bytes>,
}

impl Store {
    /// With external data below `folder`, or without any.
    pub(super) fn new(folder: Option<PathBuf>) -> Self {
        Self { folder, files: BTreeMap::new() }
    }

    /// Decode floating-point numbers.
    pub(super) fn floats(
        &mut self,
        name: &str,
        tensor: &TensorProto,
        budget: &mut Budget,
    ) -> Result<ArrayD<f32>> {
        let bytes_each = element_bytes(name, tensor.data_type)?;
        let raw = self.raw(name, tensor, budget)?;
        let (dims, n_values) = dims(name, &tensor.dims)?;
        let unpacked = match tensor.data_type {
            element::FLOAT => tensor.float_data.len(),
            element::DOUBLE => tensor.double_data.len(),
            _ => tensor.int32_data.len(),
        };
        // A file has one of the two; packed fields are empty beside raw bytes.
        let n_present = if raw.is_empty() { unpacked } else { raw.len() / bytes_each };
        if n_present != n_values || raw.len() % bytes_each != 0 {
            let (name, expected, actual) = (name.to_owned(), n_values, n_present);
            return Err(ImportError::ArrayLength { name, expected, actual }.into());
        }
        budget.take(|| format!("`{name}`"), n_values)?;
        let values: Vec<f32> = match (tensor.data_type, raw.is_empty()) {
            (element::FLOAT, false) => raw_values(&raw, f32::from_le_bytes),
            (element::DOUBLE, false) => raw_values(&raw, |b| single(f64::from_le_bytes(b))),
            (element::FLOAT16, false) => raw_values(&raw, |b| half(u16::from_le_bytes(b))),
            (_, false) => raw_values(&raw, |b| brain_half(u16::from_le_bytes(b))),
            (element::FLOAT, true) => tensor.float_data.clone(),
            (element::DOUBLE, true) => tensor.double_data.iter().map(|&v| single(v)).collect(),
            (element::FLOAT16, true) => tensor.int32_data.iter().map(|&v| half(low(v))).collect(),
            (_, true) => tensor.int32_data.iter().map(|&v| brain_half(low(v))).collect(),
        };
        if let Some((position, &value)) = values.iter().enumerate().find(|(_, v)| !v.is_finite()) {
            let (name, value) = (name.to_owned(), f64::from(value));
            return Err(ImportError::NonFinite { name, position, value }.into());
        }
        let n_present = values.len();
        ArrayD::from_shape_vec(IxDyn(&dims), values).map_err(|_| {
            let name = name.to_owned();
            ImportError::ArrayLength { name, expected: n_values, actual: n_present }.into()
        })
    }

    /// Decode whole numbers: axes, paddings and shapes; truth values as 0 and 1.
    pub(super) fn integers(
        &mut self,
        name: &str,
        tensor: &TensorProto,
        budget: &mut Budget,
    ) -> Result<Vec<i64>> {
        let raw = self.raw(name, tensor, budget)?;
        let (_, n_values) = dims(name, &tensor.dims)?;
        let present = if tensor.data_type == element::INT64 {
            if raw.is_empty() {
                tensor.int64_data.clone()
            } else {
                raw_values(&raw, i64::from_le_bytes)
            }
        } else if tensor.data_type == element::BOOL && !raw.is_empty() {
            raw.iter().copied().map(i64::from).collect()
        } else if raw.is_empty() {
            tensor.int32_data.iter().copied().map(i64::from).collect()
        } else {
            raw_values(&raw, |b| i64::from(i32::from_le_bytes(b)))
        };
        if present.len() != n_values {
            let (name, expected, actual) = (name.to_owned(), n_values, present.len());
            return Err(ImportError::ArrayLength { name, expected, actual }.into());
        }
        Ok(present)
    }

    /// The raw bytes of a tensor, from whichever file; empty if its values are in packed fields.
    fn raw(&mut self, name: &str, tensor: &TensorProto, budget: &mut Budget) -> Result<Bytes> {
        if tensor.data_location != EXTERNAL {
            return Ok(tensor.raw_data.clone());
        }
        let entry = |key: &str| {
            tensor.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str())
        };
        let location = entry("location").unwrap_or_default();
        let file = match self.files.get(location) {
            Some(file) => file.clone(),
            None => self.open(name, location, budget)?,
        };
        let offset = entry("offset").map_or(Some(0), |text| text.parse::<u64>().ok());
        let length = entry("length").map_or_else(
            || offset.map(|offset| (file.len() as u64).saturating_sub(offset)),
            |text| text.parse().ok(),
        );
        let range = offset.zip(length).and_then(|(offset, length)| {
            let start = usize::try_from(offset).ok()?;
            let end = start.checked_add(usize::try_from(length).ok()?)?;
            (end <= file.len()).then_some(start..end)
        });
        let range = range.ok_or_else(|| ImportError::ExternalRange {
            name: name.to_owned(),
            location: short(location),
            offset: offset.unwrap_or(u64::MAX),
            length: length.unwrap_or(u64::MAX),
            file_bytes: file.len() as u64,
        })?;
        Ok(file.slice(range))
    }

    /// Read a file below the folder; neither `..` nor absolute paths nor links lead out of it.
    fn open(&mut self, name: &str, location: &str, budget: &mut Budget) -> Result<Bytes> {
        let Some(folder) = &self.folder else {
            return Err(ImportError::NoFolder { name: name.to_owned() }.into());
        };
        let outside =
            || ImportError::OutsideFolder { name: name.to_owned(), location: short(location) };
        let relative = Path::new(location);
        if self.files.len() >= MAX_EXTERNAL_FILES {
            return Err(outside().into());
        }
        let path = file_below(folder, relative)?.ok_or_else(outside)?;
        let bytes = Bytes::from(artifact::read_file(&path, MAX_EXTERNAL_BYTES)?);
        budget.add_file_of(bytes.len());
        self.files.insert(location.to_owned(), bytes.clone());
        Ok(bytes)
    }
}

/// Text of a file, fit for a message.
fn short(text: &str) -> String {
    printable(text, 200)
}

/// The axes of a tensor and their product, which fits the memory of no machine if it overflows.
fn dims(name: &str, dims: &[i64]) -> Outcome<(Vec<usize>, usize)> {
    let checked = dims
        .iter()
        .map(|&dim| usize::try_from(dim).ok())
        .collect::<Option<Vec<_>>>()
        .filter(|dims| dims.len() <= 8);
    let n = checked.as_ref().and_then(|dims| {
        dims.iter().try_fold(1_usize, |n, &dim| n.checked_mul(dim)).filter(|&n| n <= 1 << 40)
    });
    checked.zip(n).ok_or_else(|| ImportError::ArrayAxes {
        name: name.to_owned(),
        dims: dims.iter().copied().take(16).collect(),
    })
}

/// Whether a tensor holds whole numbers that describe shapes, or truth values.
pub(super) fn is_integer(tensor: &TensorProto) -> bool {
    matches!(tensor.data_type, element::INT32 | element::INT64 | element::BOOL)
}

fn element_bytes(name: &str, data_type: i32) -> Outcome<usize> {
    Ok(match data_type {
        element::FLOAT => 4,
        element::DOUBLE => 8,
        element::FLOAT16 | element::BFLOAT16 => 2,
        other => {
            return Err(ImportError::ElementType {
                name: name.to_owned(),
                element_type: format!("number {other}"),
                expected: "float, double, float16 or bfloat16 (quantized models: export the float \
                           one, bits are chosen here)",
            });
        }
    })
}

/// The 16 bits that a 16-bit number occupies in an integer field.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "only the low bits")]
fn low(value: i32) -> u16 {
    value as u16
}

#[cfg(test)]
mod tests;
