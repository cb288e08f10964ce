//! Data sets: readers for common formats, splits, and preprocessing.
//!
//! | format | path | sample |
//! |---|---|---|
//! | IDX, perhaps gzip | folder with `{train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]`, or one file of images | `h×w×1`, bytes/255 |
//! | CIFAR records, perhaps gzip | folder with `*_train.bin[.gz]`, `*_test.bin[.gz]`, or one such file | `32×32×3`, bytes/255 |
//! | NPY | folder with `features.npy`, `labels.npy` (also `train_…`, `test_…`), or the features file | bytes/255, numbers as stored |
//! | NPZ | a file with arrays `features`, `labels` (or `x`, `y`), or `x_train`, `y_train`, `x_test`, `y_test` | bytes/255, numbers as stored |
//! | PNG, JPEG (feature `image-files`) | folder with one folder per class, perhaps below `train` and `test`, or with images to be classified | `h×w×1` or `h×w×3`, bytes/255 |
//! | CSV, perhaps gzip | a file with a header line; the column `label` or [`DataOptions::label_column`] holds classes | `[n]`, raw numbers |
//!
//! A file `classes.txt` in the folder (lines `number name`) names the classes. Where the data have names
//! themselves (text in a label column, folders of images), classes are the sorted names, unless
//! `classes.txt` gives another order; [`Dataset::with_classes`] matches them with a model by name.
//!
//! Scaling beyond that is learned on the training part and stored in the model: [`Preprocessing`].
//!
//! [`Dataset`] is a part in memory; [`SampleStream`] reads tables and folders of images of any length as
//! they are needed.
//!
//! Every reader treats its bytes as hostile: sizes are limited before anything is allocated, lengths
//! must match exactly, and each fault has its own message with file, place and value.
//!
//! # Trained networks
//!
//! [`read_network`] reads a network that was trained elsewhere, from ONNX (feature `onnx`) or from a
//! description and a file of arrays (feature `weight-files`); [`ImportedNetwork::into_model`] makes a
//! model of it.

#[cfg(feature = "onnx")]
pub mod onnx;
pub mod synthetic_digits;

#[cfg_attr(
    all(not(test), not(any(feature = "onnx", feature = "weight-files"))),
    expect(dead_code, reason = "readers of networks are features")
)]
mod assemble;
mod classes;
mod dataset;
#[cfg(feature = "weight-files")]
mod description;
mod fault;
mod files;
#[cfg(any(feature = "onnx", feature = "weight-files"))]
mod floats;
mod gzip;
mod idx;
#[cfg_attr(not(feature = "image-files"), path = "import/no_images.rs")]
mod image_folder;
mod input_scale;
mod locate;
mod npy;
mod npz;
mod preprocessing;
mod records;
mod split;
mod stream;
mod table;
mod trained;
#[cfg(feature = "weight-files")]
mod weights;

pub(crate) use classes::check_labels;
pub use classes::{MAX_CLASSES, read_labels};
pub use dataset::{DataOptions, Dataset};
#[cfg(feature = "weight-files")]
pub use description::read_description;
pub use fault::{ImportError, NodeSite};
pub use input_scale::InputScale;
pub use locate::{DEFAULT_DATA_FOLDER, resolve_data_path};
pub use preprocessing::{Preprocessing, PreprocessingKind};
pub use split::{Split, SplitSpec, stratified_folds};
pub use stream::SampleStream;
pub use trained::{
    Ending, ImportedNetwork, ImportedNode, InputAffine, ModelOptions, ReadOptions, Treatment,
    read_network,
};

/// Largest data file, and largest unpacked gzip content, in bytes: 1 GiB.
pub const MAX_FILE_BYTES: usize = 1 << 30;

/// Largest number of feature values a data set may hold: 2^29 (2 GiB of `f32`).
pub const MAX_FEATURE_VALUES: usize = 1 << 29;

/// At most 40 characters of `text`, for messages.
fn excerpt(text: &str) -> String {
    printable(text, 40)
}

/// At most `n` characters of `text`, without those that control a terminal.
fn printable(text: &str, n: usize) -> String {
    let shown = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().take(n).map(shown).collect()
}
