//! The same network and batch on two servers with additive shares: the SecureML baseline, in builds with
//! the feature `secureml`.

#[cfg(feature = "secureml")]
mod two_servers;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{Measured, Subject};
use crate::failure::Hint;
use crate::pipeline::keeping::Kept;

/// Check that this build can measure the baseline.
///
/// # Errors
/// It cannot; says how to get one that can.
pub(crate) fn check_built_in() -> Result<()> {
    const ADVICE: &str = "cargo run --release --features secureml -- paper table3 …, or leave it out: \
                          --without-secureml";
    if cfg!(feature = "secureml") {
        return Ok(());
    }
    Err(anyhow::anyhow!("this build does not hold the SecureML baseline")).hint(|| ADVICE)
}

/// What a batch took on two servers. Scores were within the proven error of plain fixed point, and the
/// bytes of every phase those of its formula.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SharesRecord {
    format: u32,
    version: String,
    machine: String,
    /// Architecture.
    pub(crate) network: String,
    /// Data set.
    pub(crate) data: String,
    /// Samples of the batch.
    pub(crate) samples: u64,
    /// Samples that were computed together, one part after the other.
    pub(crate) samples_at_once: u64,
    /// Share of the batch that is classified right.
    pub(crate) accuracy: f64,
    /// Opening the masked weights, once per model.
    pub(crate) weights: PhaseRecord,
    /// Making triples and square pairs by homomorphic encryption.
    pub(crate) offline: PhaseRecord,
    /// From shared inputs to shared scores.
    pub(crate) online: PhaseRecord,
}

/// One phase; wall time of both servers on one machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PhaseRecord {
    pub(crate) seconds: f64,
    /// Payload bytes between the servers, both directions together.
    pub(crate) bytes: u64,
    /// The same with the header of every message.
    pub(crate) bytes_with_headers: u64,
    /// What the formula says.
    pub(crate) formula_bytes: u64,
    /// Rounds of one part of the batch.
    pub(crate) rounds: u64,
}

impl Kept for SharesRecord {
    const FORMAT: u32 = 1;
    const WHAT: &'static str = "record of a batch on shares";

    fn origin(&self) -> (u32, &str) {
        (self.format, &self.version)
    }
}

impl Measured for SharesRecord {
    fn machine(&self) -> &str {
        &self.machine
    }
}

impl Subject<'_> {
    /// Measure one batch of the test part, repeated until it has `n_samples`, on two servers, or read
    /// what was measured before.
    ///
    /// # Errors
    /// A build without the baseline; a network that has more than linear layers, squares and average
    /// pools; scores beyond the proven error; kept files that cannot be read or written.
    pub(crate) fn measure_shares(&self, n_samples: u64) -> Result<SharesRecord> {
        check_built_in()?;
        self.kept(&format!("secureml-batch{n_samples}"), || self.run_shares(n_samples))
    }

    #[cfg(not(feature = "secureml"))]
    fn run_shares(&self, n_samples: u64) -> Result<SharesRecord> {
        anyhow::bail!("a batch of {n_samples} needs the SecureML baseline");
    }
}
