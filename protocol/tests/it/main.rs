//! Client and server against each other, over pipes and over TLS on loopback, with fake segments.

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    clippy::disallowed_methods,
    reason = "tests"
)]

mod access;
mod admin;
mod client_certificates;
mod failover;
mod golden_wire;
mod greedy;
mod hand;
mod happy;
mod hostile_bytes;
mod hostile_peers;
mod load;
mod outages;
mod pressure;
mod streaming;
mod support;
mod trust;
