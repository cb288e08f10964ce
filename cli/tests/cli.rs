//! The command as people run it: separate processes, real files, TLS on loopback.
//!
//! Everything runs on small generated data. Each test uses a folder of its own below Cargo's
//! temporary folder; the model, the plans and the certificates are made once.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "tests"
)]

#[path = "cli/access.rs"]
mod access;
#[path = "cli/attacks.rs"]
mod attacks;
#[path = "cli/bad_input.rs"]
mod bad_input;
#[path = "cli/bench.rs"]
mod bench;
#[path = "cli/cheating.rs"]
mod cheating;
#[path = "cli/cross_validation.rs"]
mod cross_validation;
#[path = "cli/evidence.rs"]
mod evidence;
#[path = "cli/fingerprint.rs"]
mod fingerprint;
#[path = "cli/fixture.rs"]
mod fixture;
#[path = "cli/importing.rs"]
mod importing;
#[path = "cli/masked.rs"]
mod masked;
#[path = "cli/operation.rs"]
mod operation;
#[path = "cli/page.rs"]
mod page;
#[path = "cli/paper.rs"]
mod paper;
#[path = "cli/paper_tables.rs"]
mod paper_tables;
#[path = "cli/planning.rs"]
mod planning;
#[path = "cli/polynomials.rs"]
mod polynomials;
#[path = "cli/resuming.rs"]
mod resuming;
#[path = "cli/runs.rs"]
mod runs;
#[path = "cli/server.rs"]
mod server;
#[path = "cli/signatures.rs"]
mod signatures;
