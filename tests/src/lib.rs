//! Test kit of the workspace: small models, servers on loopback, dishonest servers, and a slow
//! reference for all arithmetic.
//!
//! | module | what |
//! |---|---|
//! | [`models`] | integer networks small enough to run encrypted in milliseconds |
//! | [`loopback`] | servers in the process and over TLS, and clients of them |
//! | [`batch`] | one batch through real messages, with a generator from a seed |
//! | [`chains`] | a plan with steps joined without a refresh |
//! | [`decoders`], [`mutation`] | every decoder with samples of its bytes; bytes nobody honest wrote |
//! | [`dishonest`] | every kind of cheating server, behind the honest protocol |
//! | [`fingerprints`] | fingerprints of plans without a search |
//! | [`http`] | a small HTTP server that answers as a closure says |
//! | [`relay`] | a man in the middle who may alter, drop, repeat and reorder messages |
//! | [`oracle`] | big integers and schoolbook loops: what everything else must equal |
//!
//! All randomness comes from seeds that the caller names. Nothing here touches the network beyond
//! the loopback interface.
//!
//! # Panics
//! A test kit has nobody to report errors to: whatever a test takes for granted is unwrapped, with
//! the reason in the panic message.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "a test kit: a broken expectation must end the test, and sizes are tiny"
)]

pub mod batch;
pub mod chains;
pub mod decoders;
pub mod dishonest;
pub mod fingerprints;
pub mod http;
pub mod loopback;
pub mod models;
pub mod mutation;
pub mod oracle;
pub mod relay;
