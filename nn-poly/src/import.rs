//! Data sets: readers for common formats, splits, and preprocessing.
//!
//! | format | path | sample |
//! |---|---|---|
//! | IDX, perhaps gzip | folder with `{train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]` | `h×w×1`, bytes/255 |
//! | CIFAR records, perhaps gzip | folder with `*_train.bin[.gz]`, `*_test.bin[.gz]`, or one such file | `32×32×3`, bytes/255 |
//! | NPY | folder with `features.npy`, `labels.npy` (also `train_…`, `test_…`), or the features file | as stored |
//! | CSV | a file with a header line; the column `label` holds classes | `[n]`, raw numbers |
//!
//! A file `classes.txt` in the folder (lines `number name`) names the classes.
//!
//! Every reader treats its bytes as hostile: sizes are limited before anything is allocated, lengths
//! must match exactly, and each fault has its own message with file, place and value.

pub mod synthetic_digits;

mod dataset;
mod gzip;
mod idx;
mod locate;
mod npy;
mod preprocessing;
mod records;
mod split;
mod table;

pub(crate) use dataset::check_labels;
pub use dataset::{Dataset, MAX_CLASSES};
pub use locate::{DEFAULT_DATA_FOLDER, resolve_data_path};
pub use preprocessing::{Preprocessing, PreprocessingKind};
pub use split::{Split, SplitSpec};

/// Largest data file, and largest unpacked gzip content, in bytes: 1 GiB.
pub const MAX_FILE_BYTES: usize = 1 << 30;

/// Largest number of feature values a data set may hold: 2^29 (2 GiB of `f32`).
pub const MAX_FEATURE_VALUES: usize = 1 << 29;

/// At most 40 characters of `text`, for messages.
fn excerpt(text: &str) -> String {
    text.chars().take(40).collect()
}
