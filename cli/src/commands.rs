//! One module per command: read the flags, do the work, print what came of it.

pub(crate) mod access;
pub(crate) mod approximate;
pub(crate) mod attack;
pub(crate) mod bench;
pub(crate) mod compile;
pub(crate) mod cross_validate;
pub(crate) mod demo;
pub(crate) mod evidence;
pub(crate) mod fine_tune;
pub(crate) mod fingerprint;
pub(crate) mod import;
pub(crate) mod infer;
pub(crate) mod inspect;
pub(crate) mod paper;
pub(crate) mod polynomialize;
mod reaching;
pub(crate) mod serve;
pub(crate) mod sign;
pub(crate) mod tls;
pub(crate) mod train;
pub(crate) mod ui;
pub(crate) mod verify;

use anyhow::{Context, Result};
use tokio::runtime::{Builder, Runtime};

/// Threads for the network; arithmetic has its own.
const NETWORK_THREADS: usize = 2;

/// A runtime for the network.
fn runtime() -> Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(NETWORK_THREADS)
        .thread_name("securedl-network")
        .enable_all()
        .build()
        .context("the network threads cannot be started")
}
