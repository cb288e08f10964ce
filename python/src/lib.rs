#![deny(unsafe_code)]
//! The Python package `securedl`: glue between NumPy and the crates below, without an algorithm of its own.
//!
//! ```text
//!  Model ─► compile ─► Plan ─► Client ─────► protocol::client::Classifier   a server, or this process
//!                        ├───► KeyHolder ─► Batch: requests out, replies in  whoever moves the bytes
//!                        └───► SegmentEvaluator: request ─► reply            whoever evaluates them
//! ```
//! The Python side of it (`python/securedl/`) adds names, types and Ray.
//!
//! | module | content |
//! |---|---|
//! | `model`, `compiling`, `plan` | from a network trained elsewhere to a plan |
//! | `client`, `results` | runs against servers, and what comes of them |
//! | `key_holder`, `batch`, `journal` | the same, for whoever moves the bytes in another way |
//! | `evaluator`, `gateway` | the server's side: one segment, or a server whose segments are evaluated elsewhere |
//! | `verification` | fingerprints |
//! | `arrays`, `failure`, `process`, `waiting`, `watching` | NumPy, exceptions, forks, signals, progress |
//!
//! # Security
//! Objects that hold a key (`Batch`) or what a server must not know (`KeyHolder`,
//! `Client`) print none of it, refuse to be pickled, and refuse to work after a fork. Work is done without the interpreter's
//! lock: an array must not be changed by another thread while a call reads it.

mod arrays;
mod batch;
mod client;
mod compiling;
mod evaluator;
mod failure;
mod gateway;
mod journal;
mod key_holder;
mod model;
mod plan;
mod process;
mod results;
mod samples;
mod verification;
mod waiting;
mod watching;

use pyo3::prelude::pymodule;

/// What the package is made of; see `securedl`.
#[pymodule]
mod _native {
    #[pymodule_export]
    use super::batch::Batch;
    #[pymodule_export]
    use super::client::Client;
    #[pymodule_export]
    use super::compiling::compile;
    #[pymodule_export]
    use super::evaluator::SegmentEvaluator;
    #[pymodule_export]
    use super::failure::{Error, RefusedError, VerdictError};
    #[pymodule_export]
    use super::gateway::{Gateway, init_tls};
    #[pymodule_export]
    use super::journal::Journal;
    #[pymodule_export]
    use super::key_holder::KeyHolder;
    #[pymodule_export]
    use super::model::Model;
    #[pymodule_export]
    use super::plan::{Forecast, Plan, Segment};
    #[pymodule_export]
    use super::results::{Receipt, RunResult, Simulation, Soundness, Verdict};
    #[pymodule_export]
    use super::samples::Samples;
    #[pymodule_export]
    use super::verification::{Audit, Fingerprint};
    #[pymodule_export]
    use super::watching::Progress;
}
