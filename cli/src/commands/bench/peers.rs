//! `securedl bench peers`: another library on the same network, beside ours.

#[cfg(feature = "peers")]
mod bfv;
#[cfg(feature = "peers")]
mod comparison;

use anyhow::Result;

use crate::args::PeersArguments;
use crate::failure::Outcome;

/// Measure and print.
#[cfg(feature = "peers")]
pub(super) fn run(arguments: &PeersArguments) -> Result<Outcome> {
    comparison::run(arguments)
}

/// Say how to get a build that can.
#[cfg(not(feature = "peers"))]
pub(super) fn run(arguments: &PeersArguments) -> Result<Outcome> {
    use crate::failure::Hint;

    let PeersArguments { part, batch, .. } = arguments;
    let samples = batch.samples;
    Err(anyhow::anyhow!("this build holds no other library to compare with")).hint(|| {
        format!(
            "cargo run --release --features peers -- bench peers --part {part} --samples {samples}"
        )
    })
}
