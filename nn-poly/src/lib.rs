//! Polynomial neural networks: float, exact integer, and encrypted.
//!
//! ```text
//!  import ──► Dataset ──► train ──► Network (float) ──► quantize ──► IntegerNetwork
//!                                      ▲  autodiff                        │
//!                                      └── layer, tensor                  ▼
//!                                                                plan ──► encrypted
//! ```
//!
//! The float side ([`network`], [`autodiff`], [`train`], [`import`], [`model`]) is generic over
//! [`tensor::Scalar`] (`f32` for work, `f64` for checks) and knows nothing of encryption.
//!
//! **Axis order.** Everything is channel-last: a sample is `[height, width, channels]` or `[n]`, a
//! batch adds a leading axis, and flattening is a pure reshape.
//!
//! **Reproducibility.** Every randomized function takes a seed or a generator. For one build on one
//! kind of processor results are bit-identical for any number of threads: work is cut into chunks
//! whose size does not depend on the thread count, and partial sums are added in chunk order.
#![forbid(unsafe_code)]

pub mod approximate;
pub mod artifact;
pub mod autodiff;
pub mod compiler;
pub mod encrypted;
pub mod error;
pub mod import;
pub mod integer;
pub mod layer;
pub mod model;
pub mod network;
pub mod plan;
pub mod quantize;
pub mod tensor;
pub mod train;

pub use error::{Error, Result};
pub use network::{Network, Predictor};
pub use tensor::{Scalar, Shape, Tensor};
