#![forbid(unsafe_code)]
//! Client and server of verified private inference.
//!
//! A client sends *evaluate segment k of plan P on this block of ciphertexts*; a server answers
//! with a block and a signed receipt. Requests are stateless and idempotent: an identical request
//! gets an identical reply, so a client may repeat it on another connection or another server.
//!
//! ```text
//!  client                                                          server
//!  RemoteEvaluator ─ retries, pool                                 Server ─ admission, time limits
//!        │                                                            │
//!     Exchange ─ state machine, no I/O    ServerConnection ─ state machine, no I/O
//!        │                                                            │        └─ SegmentService
//!        └────────── frames over TLS 1.3 or a pipe in the process ────┘
//! ```
//!
//! | module | what it decides |
//! |---|---|
//! | [`message`] | control messages and their bytes |
//! | [`frame`] | how the byte stream is cut |
//! | [`transcript`] | what is hashed and signed |
//! | [`limits`] | sizes and times |
//! | [`client`], [`server`] | who may say what when |
//! | [`session`], [`runner`], [`journal`] | batches, rounds, and what an interrupted run has finished |
//! | [`access`], [`audit`] | who may enter and ask for what; who did |
//! | [`signature`], [`evidence`] | what an owner vouches for; what a client can prove |
//! | [`masked`] | runs of clients that must not learn the model |
//! | [`endpoint`] | fingerprints against HTTP services and encrypted servers |
//! | [`transport`], [`tls`] | how bytes get there, and who is at the other end |
//!
//! The bytes on the wire are described in `docs/protocol.md`, included below.
//!
//! # Security
//! The transport is authenticated: a client trusts exactly one `ca.pem`, and nothing switches that
//! off. A receipt says *what* the server answered, not that the answer is right; that is checked on
//! the reply itself by the layers above.
//!
//! Invariant: state machines do no I/O and read no clock; only `message` knows how control
//! messages are encoded; payloads are never touched by it.
#![cfg_attr(doc, doc = include_str!("../../docs/protocol.md"))]

pub mod access;
pub mod audit;
pub mod client;
pub mod endpoint;
pub mod error;
pub mod evidence;
pub mod frame;
pub mod hosting;
pub mod identifiers;
pub mod identity;
pub mod journal;
pub mod limits;
pub mod masked;
pub mod message;
pub mod runner;
pub mod server;
pub mod session;
pub mod signature;
pub mod tls;
pub mod transcript;
pub mod transport;

mod calendar;
mod socket;

pub use error::{Error, Result};
