//! Tests that watch the memory of the process: what decoders take for bytes of strangers, what requests
//! take beside what they declare, and what is left of secrets when it is given back.
//!
//! The allocator counts for the whole process, so tests here take turns.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod allocator;
mod declared;
mod mutants;
mod wiping;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// One test at a time.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
