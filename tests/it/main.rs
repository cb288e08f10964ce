//! End-to-end tests: real client, real server, real ciphertexts.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]

mod chains;
mod evidence;
mod failover;
mod fingerprint;
mod forwarded;
mod golden_wire;
mod http;
mod kernels;
mod layering;
mod masked;
mod messages;
mod oracle;
mod owners;
mod pipeline;
mod promises;
mod properties;
mod reaction;
mod real_data;
mod reload;
mod retry;
mod rounds;
mod tamper;
