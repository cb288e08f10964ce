//! Segments under encryption: parameter choice, slot layout, evaluation, opening of replies.
//!
//! The only code of this crate that imports `he_core`.
//!
//! ```text
//!  client                                             server
//!  BlockEncryption ── seed + request bytes ─► RequestReceiver ─► ReceivedRequest
//!    └ WordCheck (linear segments)                                  │ SegmentEvaluator
//!  ReplyCheckStream ◄─── reply bytes ◄── write ◄── switch ◄── pool ◄┘ band by band
//!  ReplyDecryption ─► one vector of values per output neuron
//! ```
//!
//! Plans whose client must not learn the model add masks and noise: [`masked`].
//!
//! A ciphertext holds one neuron for all samples of a block, so nothing here rotates. An evaluation key is
//! sent only where several squares in a row are relinearized. What a segment computes is exactly what
//! [`crate::plan::Plan`] simulates.

mod client;
mod context;
mod error;
mod evaluator;
mod map;
pub mod masked;
pub mod parameters;
mod pool;
mod probe;

pub use client::{
    BlockEncryption, ClientTimes, EncryptedBlock, ReplyCheckStream, ReplyDecryption, RowMismatch,
    check_reply, decrypt_reply, encrypt_block, locate_mismatches,
};
pub use context::{SegmentContext, SegmentKey};
pub use error::{Error, Result};
pub use evaluator::{ReceivedRequest, RequestReceiver, SegmentEvaluator, request_memory_bytes};
pub use map::linear_map;
pub use pool::StoragePool;
pub use probe::SelfTest;

/// The linear map of a stage on ciphertexts.
pub use he_core::LinearMap;
/// The secret state of a word check.
pub use he_core::WordCheck as ReplyCheck;

/// The kernel sets of the arithmetic below, fastest last, and which one is in use: for reports.
#[must_use]
pub fn backends() -> Vec<&'static str> {
    he_core::Backend::available().into_iter().map(he_core::Backend::name).collect()
}
