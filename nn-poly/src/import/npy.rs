//! NumPy arrays: `features.npy` and `labels.npy`.
//!
//! The reading is done by `ndarray-npy`; it allocates what a header claims, so the claim is checked
//! against the length of the file first.

use std::path::{Path, PathBuf};

use ndarray::{Array2, ArrayD, Axis};
use ndarray_npy::{ReadNpyExt, ReadableElement};

use super::classes::Labels;
use super::files::Part;
use super::{MAX_CLASSES, MAX_FEATURE_VALUES, MAX_FILE_BYTES, excerpt, gzip};
use crate::error::{Error, Result};
use crate::tensor::{Shape, check_finite};

/// The files of one part.
#[derive(Clone, Debug)]
pub(super) struct NpyFiles {
    features: PathBuf,
    labels: Option<PathBuf>,
}

impl NpyFiles {
    /// Find `{prefix}features.npy` and `{prefix}labels.npy` in a folder.
    pub(super) fn find(folder: &Path, prefix: &str) -> Option<Self> {
        let file = |name: &str| {
            Some(folder.join(format!("{prefix}{name}.npy"))).filter(|path| path.is_file())
        };
        Some(Self { features: file("features")?, labels: file("labels") })
    }

    /// A features file named directly; its labels are beside it, under the same name with `features`
    /// replaced by `labels`.
    pub(super) fn beside(features: &Path) -> Self {
        let name = features.file_name().unwrap_or_default().to_string_lossy();
        let labels = Some(name.replace("features", "labels"))
            .filter(|labels| *labels != name)
            .map(|labels| features.with_file_name(labels))
            .filter(|path| path.is_file());
        Self { features: features.to_path_buf(), labels }
    }

    pub(super) fn read(&self) -> Result<Part> {
        let read = |path: &Path| gzip::read(path, MAX_FILE_BYTES);
        let (shape, features) = read(&self.features).and_then(|bytes| {
            parse_features(&bytes).map_err(|error| error.in_file(&self.features))
        })?;
        let Some(path) = &self.labels else {
            return Ok(Part { shape, features, labels: None });
        };
        let labels = read(path)
            .and_then(|bytes| parse_labels(&bytes).map_err(|error| error.in_file(path)))?;
        if labels.len() != features.nrows() {
            let (expected, actual) = (features.nrows(), labels.len());
            let what = "number of labels";
            return Err(Error::InconsistentParts { what, expected, actual }.in_file(path));
        }
        Ok(Part { shape, features, labels: Some(Labels::Numbers(labels)) })
    }
}

/// Decode features: the first axis counts samples, one to three more axes are the sample
/// (`h×w` gets one channel). Bytes become `v/255`; numbers stay as they are.
pub(super) fn parse_features(bytes: &[u8]) -> Result<(Shape, Array2<f32>)> {
    #[expect(clippy::cast_possible_truncation, reason = "rounds to nearest")]
    let single = |value: f64| value as f32;
    let values: ArrayD<f32> = match check_header(bytes)?.as_str() {
        "<f4" | ">f4" => array::<f32>(bytes)?,
        "<f8" | ">f8" => array::<f64>(bytes)?.mapv(single),
        "|u1" => array::<u8>(bytes)?.mapv(|byte| f32::from(byte) / 255.0),
        other => return Err(unexpected_type(other, "<f4, <f8 or |u1")),
    };
    let &[n_samples, ref sample @ ..] = values.shape() else {
        return Err(unexpected_rank(values.ndim(), "2 to 4"));
    };
    let shape = match *sample {
        [n] => Shape::vector(n)?,
        [height, width] => Shape::image(height, width, 1)?,
        [height, width, channels] => Shape::image(height, width, channels)?,
        _ => return Err(unexpected_rank(values.ndim(), "2 to 4")),
    };
    // Row-major whatever the file's order; `to_shape` reads logical order.
    let features = values
        .to_shape((n_samples, shape.len()))
        .expect("invariant: the shape has as many values as the sample axes")
        .into_owned();
    let features = if features.is_standard_layout() {
        features
    } else {
        features.as_standard_layout().into_owned()
    };
    check_finite("features", features.view())?;
    Ok((shape, features))
}

/// Decode an array of floating-point numbers of any rank.
#[cfg(feature = "weight-files")]
pub(super) fn parse_array(bytes: &[u8]) -> Result<ArrayD<f32>> {
    #[expect(clippy::cast_possible_truncation, reason = "rounds to nearest")]
    let single = |value: f64| value as f32;
    let values = match check_header(bytes)?.as_str() {
        "<f4" | ">f4" => array::<f32>(bytes)?,
        "<f8" | ">f8" => array::<f64>(bytes)?.mapv(single),
        other => return Err(unexpected_type(other, "<f4 or <f8")),
    };
    Ok(values.as_standard_layout().into_owned())
}

/// Decode labels: one axis of whole numbers, perhaps with a second axis of length 1.
pub(super) fn parse_labels(bytes: &[u8]) -> Result<Vec<u32>> {
    let labels: ArrayD<i64> = match check_header(bytes)?.as_str() {
        "|u1" => array::<u8>(bytes)?.mapv(i64::from),
        "<i4" | ">i4" => array::<i32>(bytes)?.mapv(i64::from),
        "<u4" | ">u4" => array::<u32>(bytes)?.mapv(i64::from),
        "<i8" | ">i8" => array::<i64>(bytes)?,
        other => return Err(unexpected_type(other, "|u1, <i4, <u4 or <i8")),
    };
    if !matches!(*labels.shape(), [_] | [_, 1]) {
        return Err(unexpected_rank(labels.ndim(), "1"));
    }
    let max = u32::try_from(MAX_CLASSES - 1).unwrap_or(u32::MAX);
    let check = |(position, &label): (usize, &i64)| {
        u32::try_from(label).ok().filter(|&label| label <= max).ok_or_else(|| Error::InvalidLabel {
            position,
            value: label.to_string(),
            max,
        })
    };
    labels
        .axis_iter(Axis(0))
        .flat_map(|v| v.iter().copied().collect::<Vec<_>>())
        .collect::<Vec<_>>()
        .iter()
        .enumerate()
        .map(check)
        .collect()
}

fn unexpected_type(actual: &str, expected: &str) -> Error {
    Error::UnexpectedHeader {
        field: "NPY element type",
        expected: expected.into(),
        actual: excerpt(actual),
    }
}

fn unexpected_rank(actual: usize, expected: &str) -> Error {
    Error::UnexpectedHeader {
        field: "number of NPY axes",
        expected: expected.into(),
        actual: actual.to_string(),
    }
}

fn array<T: ReadableElement>(bytes: &[u8]) -> Result<ArrayD<T>> {
    ArrayD::<T>::read_npy(bytes).map_err(|cause| Error::Decode { cause: Box::new(cause) })
}

/// Check what the header claims against the bytes that are there; return the element type.
fn check_header(bytes: &[u8]) -> Result<String> {
    let truncated = |expected: usize| Error::Truncated {
        what: "NPY file",
        expected: expected as u64,
        actual: bytes.len() as u64,
    };
    let rest = bytes.strip_prefix(b"\x93NUMPY").ok_or_else(|| Error::UnexpectedHeader {
        field: "NPY magic string",
        expected: "\\x93NUMPY".into(),
        actual: bytes.iter().take(6).copied().collect::<Vec<u8>>().escape_ascii().to_string(),
    })?;
    let (header, data) = split_header(rest).ok_or_else(|| truncated(128))?;
    let header = Header::parse(header)?;
    let element_bytes =
        header.element_bytes().ok_or_else(|| unexpected_type(&header.descriptor, "a number"))?;
    let n_values = header.shape.iter().try_fold(1_usize, |n, &dim| n.checked_mul(dim));
    let n_values = n_values.unwrap_or(usize::MAX);
    if n_values > MAX_FEATURE_VALUES {
        let (actual, limit) = (n_values as u64, MAX_FEATURE_VALUES as u64);
        return Err(Error::TooLarge { what: "number of NPY values", actual, limit });
    }
    let expected = n_values * element_bytes;
    if data.len() < expected {
        return Err(truncated(bytes.len() - data.len() + expected));
    }
    if data.len() > expected {
        return Err(Error::TrailingBytes { what: "NPY file", n_bytes: data.len() - expected });
    }
    Ok(header.descriptor)
}

/// Split what follows the magic string into header text and data.
fn split_header(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let ([major, _minor], rest) = rest.split_first_chunk::<2>()?;
    let (len, rest) = if *major == 1 {
        let (len, rest) = rest.split_first_chunk::<2>()?;
        (usize::from(u16::from_le_bytes(*len)), rest)
    } else {
        let (len, rest) = rest.split_first_chunk::<4>()?;
        (usize::try_from(u32::from_le_bytes(*len)).ok()?, rest)
    };
    rest.split_at_checked(len)
}

/// The three entries of a header dictionary.
struct Header {
    descriptor: String,
    shape: Vec<usize>,
}

impl Header {
    /// Longest header text that is read.
    const MAX_BYTES: usize = 4096;

    /// Parse `{'descr': '<f4', 'fortran_order': False, 'shape': (60, 4), }` and nothing more general:
    /// one level of brackets, each key once.
    fn parse(text: &[u8]) -> Result<Self> {
        let malformed = || Error::UnexpectedHeader {
            field: "NPY header",
            expected: "{'descr': …, 'fortran_order': …, 'shape': (…)}".into(),
            actual: excerpt(
                &text.iter().take(40).copied().collect::<Vec<u8>>().escape_ascii().to_string(),
            ),
        };
        if text.len() > Self::MAX_BYTES || !text.is_ascii() {
            return Err(malformed());
        }
        let text = std::str::from_utf8(text).map_err(|_| malformed())?;
        let compact: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        let body = compact.strip_prefix('{').and_then(|body| body.strip_suffix('}'));
        let mut rest = body.ok_or_else(malformed)?;
        let (mut descriptor, mut order, mut shape) = (None, None, None);
        while !rest.is_empty() {
            let (key, tail) = quoted(rest).ok_or_else(malformed)?;
            let tail = tail.strip_prefix(':').ok_or_else(malformed)?;
            let (value, tail) = value(tail).ok_or_else(malformed)?;
            let entry = match key {
                "descr" => &mut descriptor,
                "fortran_order" => &mut order,
                "shape" => &mut shape,
                _ => return Err(malformed()),
            };
            if entry.replace(value).is_some() {
                return Err(malformed());
            }
            rest = match tail.strip_prefix(',') {
                Some(tail) => tail,
                None if tail.is_empty() => tail,
                None => return Err(malformed()),
            };
        }
        let (Some(descriptor), Some("True" | "False"), Some(shape)) = (descriptor, order, shape)
        else {
            return Err(malformed());
        };
        let (descriptor, "") = quoted(descriptor).ok_or_else(malformed)? else {
            return Err(malformed());
        };
        let shape = dims(shape).ok_or_else(malformed)?;
        Ok(Self { descriptor: descriptor.into(), shape })
    }

    fn element_bytes(&self) -> Option<usize> {
        let digits = self.descriptor.get(2..)?;
        digits.parse().ok().filter(|bytes| [1, 2, 4, 8].contains(bytes))
    }
}

/// Split off a quoted word.
fn quoted(text: &str) -> Option<(&str, &str)> {
    text.strip_prefix('\'')
        .and_then(|tail| tail.split_once('\''))
        .or_else(|| text.strip_prefix('"').and_then(|tail| tail.split_once('"')))
}

/// Split off a quoted word with its quotes, a tuple, or a bare word.
fn value(text: &str) -> Option<(&str, &str)> {
    if text.starts_with('(') {
        return text.find(')').and_then(|end| text.split_at_checked(end + 1));
    }
    if let Some((_, tail)) = quoted(text) {
        return text.split_at_checked(text.len() - tail.len());
    }
    text.split_at_checked(text.find(',').unwrap_or(text.len()))
}

/// `(3,)` or `(3,4)`.
fn dims(tuple: &str) -> Option<Vec<usize>> {
    let body = tuple.strip_prefix('(')?.strip_suffix(')')?;
    let body = body.strip_suffix(',').unwrap_or(body);
    body.split(',').map(|dim| dim.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use ndarray::{Array, Array1, Array4, Dimension, ShapeBuilder, array};
    use ndarray_npy::{WritableElement, WriteNpyExt};
    use proptest::prelude::*;

    use super::*;

    fn bytes<A: WritableElement, D: Dimension>(values: &Array<A, D>) -> Vec<u8> {
        let mut bytes = Vec::new();
        values.write_npy(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn common_element_types_and_ranks_are_read() {
        let (shape, features) = parse_features(&bytes(&array![[1.5_f64, -2.0]])).unwrap();
        assert_eq!((shape, features), (Shape::vector(2).unwrap(), array![[1.5, -2.0]]));
        let images = Array4::from_elem((2, 3, 4, 1), 51_u8);
        let (shape, features) = parse_features(&bytes(&images)).unwrap();
        assert_eq!(shape, Shape::image(3, 4, 1).unwrap());
        assert!(features.iter().all(|&v| v == 0.2));
        assert_eq!(parse_labels(&bytes(&array![3_i64, 0])).unwrap(), [3, 0]);
        assert_eq!(parse_labels(&bytes(&array![3_u8, 0])).unwrap(), [3, 0]);
    }

    #[test]
    fn column_major_files_are_transposed() {
        let mut values = Array2::<f32>::zeros((2, 3).f());
        for (i, value) in values.iter_mut().enumerate() {
            *value = f32::from(u8::try_from(i).unwrap());
        }
        let (_, features) = parse_features(&bytes(&values)).unwrap();
        assert!(features.is_standard_layout());
        assert_eq!(features, array![[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]);
    }

    #[test]
    fn faults_are_named() {
        let labels = |values: Array1<i64>| parse_labels(&bytes(&values));
        assert!(matches!(labels(array![0, -1]), Err(Error::InvalidLabel { position: 1, .. })));
        assert!(matches!(labels(array![4096]), Err(Error::InvalidLabel { position: 0, .. })));
        let nan = parse_features(&bytes(&array![[0.0_f32], [f32::NAN]]));
        assert!(matches!(nan, Err(Error::NonFiniteInput { sample_idx: 1, .. })));
        let floats = parse_labels(&bytes(&array![1.0_f32]));
        assert!(matches!(floats, Err(Error::UnexpectedHeader { .. })));
        let mut file = bytes(&array![[1.0_f32, 2.0]]);
        file.push(0);
        assert!(matches!(parse_features(&file), Err(Error::TrailingBytes { .. })));
        file.truncate(file.len() - 2);
        assert!(matches!(parse_features(&file), Err(Error::Truncated { .. })));
        assert!(matches!(parse_features(b"PK"), Err(Error::UnexpectedHeader { .. })));
    }

    /// A header alone may claim anything; nothing may be allocated for it.
    #[test]
    fn huge_claims_and_nested_headers_are_refused_before_reading() {
        let file = |header: &str| {
            let mut file = b"\x93NUMPY\x01\x00".to_vec();
            file.extend_from_slice(&u16::try_from(header.len()).unwrap().to_le_bytes());
            file.extend_from_slice(header.as_bytes());
            file
        };
        for header in [
            "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 9), }".to_owned(),
            "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 18446744073709551615, 9), }"
                .to_owned(),
            "{'descr': '<f4', 'shape': (1,), 'fortran_order': False, 'shape': (9, 9), }".to_owned(),
            format!("{{'descr': {}, 'fortran_order': False, 'shape': (1,)}}", "[".repeat(3000)),
        ] {
            assert!(parse_features(&file(&header)).is_err(), "{header}");
        }
        let mut version_2 = b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec();
        version_2.extend_from_slice(b"{}");
        assert!(matches!(parse_features(&version_2), Err(Error::Truncated { .. })));
    }

    proptest! {
        #[test]
        fn mutated_bytes_never_panic(position in 0_usize..152, value in any::<u8>(), cut in 0_usize..160) {
            let mut file = bytes(&array![[1.0_f32, 2.0], [3.0, 4.0], [5.0, 6.0]]);
            prop_assume!(position < file.len());
            file[position] = value;
            let _ = parse_features(&file);
            let _ = parse_labels(&file);
            file.truncate(cut);
            let _ = parse_features(&file);
        }
    }
}
