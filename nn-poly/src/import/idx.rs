//! The IDX format of MNIST: big-endian header, then bytes.

use std::path::{Path, PathBuf};

use ndarray::Array2;

use super::MAX_CLASSES;
use super::classes::Labels;
use super::files::Part;
use super::{MAX_FEATURE_VALUES, MAX_FILE_BYTES, gzip};
use crate::error::{Error, Result};
use crate::tensor::Shape;

/// Unsigned bytes in three dimensions.
const IMAGES_MAGIC: u32 = 0x0000_0803;
/// Unsigned bytes in one dimension.
const LABELS_MAGIC: u32 = 0x0000_0801;

/// The files of one part of an IDX folder.
#[derive(Clone, Debug)]
pub(super) struct IdxFiles {
    images: PathBuf,
    labels: Option<PathBuf>,
}

impl IdxFiles {
    /// Find `{prefix}-images-idx3-ubyte[.gz]` and its labels.
    pub(super) fn find(folder: &Path, prefix: &str) -> Option<Self> {
        let find = |stem: &str| {
            let plain = folder.join(format!("{prefix}-{stem}-ubyte"));
            let packed = folder.join(format!("{prefix}-{stem}-ubyte.gz"));
            [plain, packed].into_iter().find(|path| path.is_file())
        };
        let images = find("images-idx3")?;
        Some(Self { images, labels: find("labels-idx1") })
    }

    /// A file of images named directly (`…images-idx3-ubyte[.gz]`); its labels are beside it.
    pub(super) fn beside(images: &Path) -> Option<Self> {
        let name = images.file_name()?.to_string_lossy();
        let stem = name.strip_suffix(".gz").unwrap_or(&name).strip_suffix("images-idx3-ubyte")?;
        let labels = ["", ".gz"]
            .map(|ending| images.with_file_name(format!("{stem}labels-idx1-ubyte{ending}")))
            .into_iter()
            .find(|path| path.is_file());
        Some(Self { images: images.to_path_buf(), labels })
    }

    pub(super) fn read(&self) -> Result<Part> {
        let bytes = gzip::read(&self.images, MAX_FILE_BYTES)?;
        let (shape, features) = images(&bytes).map_err(|error| error.in_file(&self.images))?;
        let labels = match &self.labels {
            None => None,
            Some(path) => {
                let labels = gzip::read(path, MAX_FILE_BYTES)
                    .and_then(|bytes| labels(&bytes).map_err(|error| error.in_file(path)))?;
                if labels.len() != features.nrows() {
                    let (expected, actual) = (features.nrows(), labels.len());
                    let what = "number of labels";
                    let error = Error::InconsistentParts { what, expected, actual };
                    return Err(error.in_file(path));
                }
                Some(labels)
            }
        };
        Ok(Part { shape, features, labels: labels.map(Labels::Numbers) })
    }
}

/// Decode images; bytes become `v/255`.
pub(super) fn images(bytes: &[u8]) -> Result<(Shape, Array2<f32>)> {
    let (header, pixels) = header::<4>(bytes, IMAGES_MAGIC, "IDX images")?;
    let [_, n_samples, height, width] = header;
    let shape = Shape::image(height, width, 1)?;
    let total = check_total(n_samples, shape.len(), pixels.len(), "IDX images")?;
    if total > MAX_FEATURE_VALUES {
        return Err(Error::TooLarge {
            what: "number of pixels",
            actual: total as u64,
            limit: MAX_FEATURE_VALUES as u64,
        });
    }
    let values = pixels.iter().map(|&pixel| f32::from(pixel) / 255.0).collect();
    let features = Array2::from_shape_vec((n_samples, shape.len()), values)
        .expect("invariant: the length was checked");
    Ok((shape, features))
}

/// Decode labels.
pub(super) fn labels(bytes: &[u8]) -> Result<Vec<u32>> {
    let ([_, n_samples], labels) = header::<2>(bytes, LABELS_MAGIC, "IDX labels")?;
    check_total(n_samples, 1, labels.len(), "IDX labels")?;
    debug_assert!(usize::from(u8::MAX) < MAX_CLASSES, "every byte is an acceptable class");
    Ok(labels.iter().map(|&label| u32::from(label)).collect())
}

/// Split off `N` big-endian words, of which the first must be `magic`.
fn header<'a, const N: usize>(
    bytes: &'a [u8],
    magic: u32,
    what: &'static str,
) -> Result<([usize; N], &'a [u8])> {
    let truncated =
        || Error::Truncated { what, expected: 4 * N as u64, actual: bytes.len() as u64 };
    let mut words = [0; N];
    let mut rest = bytes;
    for (position, word) in words.iter_mut().enumerate() {
        let (head, tail) = rest.split_first_chunk::<4>().ok_or_else(truncated)?;
        let value = u32::from_be_bytes(*head);
        if position == 0 && value != magic {
            return Err(Error::UnexpectedHeader {
                field: "IDX magic number",
                expected: format!("{magic:#010x}"),
                actual: format!("{value:#010x}"),
            });
        }
        *word = value as usize;
        rest = tail;
    }
    Ok((words, rest))
}

fn check_total(n: usize, len: usize, actual: usize, what: &'static str) -> Result<usize> {
    let total = n.saturating_mul(len);
    if actual < total {
        return Err(Error::Truncated { what, expected: total as u64, actual: actual as u64 });
    }
    if actual > total {
        return Err(Error::TrailingBytes { what, n_bytes: actual - total });
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    fn image_file() -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [IMAGES_MAGIC, 2, 2, 3] {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        bytes.extend_from_slice(&[0, 51, 102, 153, 204, 255, 1, 2, 3, 4, 5, 6]);
        bytes
    }

    #[test]
    fn pixels_are_scaled_to_the_unit_interval() {
        let (shape, features) = images(&image_file()).unwrap();
        assert_eq!(shape, Shape::image(2, 3, 1).unwrap());
        assert_eq!(features.row(0).to_vec(), [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]);
    }

    #[test]
    fn wrong_kinds_and_lengths_are_named() {
        let bytes = image_file();
        assert!(matches!(labels(&bytes), Err(Error::UnexpectedHeader { .. })));
        assert!(matches!(
            images(&bytes[..27]),
            Err(Error::Truncated { expected: 12, actual: 11, .. })
        ));
        assert!(matches!(images(&bytes[..5]), Err(Error::Truncated { expected: 16, .. })));
        let longer = [bytes.as_slice(), &[0]].concat();
        assert!(matches!(images(&longer), Err(Error::TrailingBytes { n_bytes: 1, .. })));
        let mut huge = bytes;
        huge[4..16].fill(0xff);
        assert!(matches!(images(&huge), Err(Error::InvalidShape { .. })));
    }

    proptest! {
        #[test]
        fn mutated_bytes_never_panic(position in 0_usize..28, value in any::<u8>(), cut in 0_usize..29) {
            let mut bytes = image_file();
            bytes[position] = value;
            bytes.truncate(cut);
            let _ = images(&bytes);
            let _ = labels(&bytes);
        }
    }
}
