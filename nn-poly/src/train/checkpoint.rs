//! A stopped training run in a file.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::TrainConfig;
use super::optimizer::Moments;
use crate::artifact::{self, Magic};
use crate::error::{Error, Result};
use crate::network::Network;

/// Everything that the rest of a training run depends on, except the data.
///
/// Obtained from [`Trainer::checkpoint`](super::Trainer::checkpoint), continued by
/// [`Trainer::resume`](super::Trainer::resume) with bit-identical results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "State", into = "State")]
pub struct Checkpoint(State);

/// The mutable state of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) config: TrainConfig,
    pub(super) network: Network<f32>,
    pub(super) moments: Moments,
    /// Steps completed.
    pub(super) n_steps_done: u64,
    /// Sum and number of the losses of the current epoch so far.
    pub(super) epoch_loss: (f64, u64),
    /// Digest of the data, once the run has started.
    pub(super) data_digest: Option<[u8; 32]>,
}

impl TryFrom<State> for Checkpoint {
    type Error = Error;

    fn try_from(state: State) -> Result<Self> {
        let optimizer = state.config.spec().optimizer;
        if !state.moments.fits(state.network.layers(), optimizer) {
            return Err(Error::CheckpointMismatch { field: "shape of the optimizer state" });
        }
        if !state.epoch_loss.0.is_finite() {
            return Err(Error::CheckpointMismatch { field: "loss so far" });
        }
        Ok(Self(state))
    }
}

impl From<Checkpoint> for State {
    fn from(checkpoint: Checkpoint) -> Self {
        checkpoint.0
    }
}

impl Checkpoint {
    /// First bytes of a checkpoint file.
    pub const MAGIC: Magic = *b"SDLCHKPT";
    /// Format version written and read by this build.
    pub const FORMAT_VERSION: u32 = 5;
    /// Largest checkpoint file that is read: 1 GiB.
    pub const MAX_BYTES: usize = 1 << 30;

    pub(super) fn new(state: State) -> Self {
        Self(state)
    }

    pub(super) fn into_state(self) -> State {
        self.0
    }

    /// Steps completed.
    #[must_use]
    pub fn n_steps_done(&self) -> u64 {
        self.0.n_steps_done
    }

    /// Write to a file, completely or not at all.
    ///
    /// # Errors
    /// - [`Error::Io`] if the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        artifact::write_file(path, &artifact::encode(Self::MAGIC, Self::FORMAT_VERSION, self)?)
    }

    /// Read from a file.
    ///
    /// # Errors
    /// - [`Error::Io`] if the file cannot be read.
    /// - [`Error::InFile`] around what is wrong with its content.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = artifact::read_file(path, Self::MAX_BYTES)?;
        artifact::decode(Self::MAGIC, Self::FORMAT_VERSION, &bytes, Self::MAX_BYTES)
            .map_err(|error| error.in_file(path))
    }
}
