//! Both state machines without I/O: every message out of order, repeated, altered, and cut short.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]

mod both;
mod client;
mod fixture;
mod server;
