//! What kind of file something is, from its first bytes.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use fingerprint::fingerprint::FINGERPRINT_MAGIC;
use fingerprint::generate::UNFINISHED_BAG_MAGIC;
use fingerprint::pack::PACK_MAGIC;
use nn_poly::artifact::peek_magic;
use nn_poly::model::Model;
use nn_poly::plan::{PLAN_MAGIC, PUBLIC_PLAN_MAGIC};
use nn_poly::train::Checkpoint;

use crate::failure::Hint;

/// Kinds of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    /// A trained model.
    Model,
    /// A compiled plan with its weights.
    Plan,
    /// The public part of a plan.
    PublicPlan,
    /// A training that can be continued.
    Checkpoint,
    /// Samples with known answers.
    Fingerprint,
    /// Samples of a fingerprint that is not finished.
    UnfinishedBag,
    /// Canaries for a client without weights.
    Pack,
    /// Anything else.
    Unknown,
}

impl FileKind {
    /// Look at the first bytes of a file.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub(crate) fn of(path: &Path) -> Result<Self> {
        let mut start = Vec::with_capacity(8);
        File::open(path)
            .and_then(|file| file.take(8).read_to_end(&mut start))
            .with_context(|| format!("cannot read {}", path.display()))?;
        Ok(match peek_magic(&start) {
            Some(Model::MAGIC) => Self::Model,
            Some(PLAN_MAGIC) => Self::Plan,
            Some(PUBLIC_PLAN_MAGIC) => Self::PublicPlan,
            Some(Checkpoint::MAGIC) => Self::Checkpoint,
            Some(FINGERPRINT_MAGIC) => Self::Fingerprint,
            Some(UNFINISHED_BAG_MAGIC) => Self::UnfinishedBag,
            Some(PACK_MAGIC) => Self::Pack,
            Some(_) | None => Self::Unknown,
        })
    }

    /// Make sure that `path` is of this kind, at least by its first bytes.
    ///
    /// # Errors
    /// A file that cannot be read, or of another kind.
    pub(crate) fn expect_of(self, path: &Path) -> Result<()> {
        let found = Self::of(path)?;
        if found == self {
            return Ok(());
        }
        let error = anyhow::anyhow!("{} is {found}, not {self}", path.display());
        Err(error).hint(|| self.origin())
    }

    /// Where files of this kind come from, or what they are for.
    pub(crate) const fn origin(self) -> &'static str {
        match self {
            Self::Model => {
                "models come from `securedl train --out MODEL` or `securedl import FILE --out MODEL`"
            }
            Self::Plan => "plans come from `securedl compile MODEL --out PLAN`",
            Self::PublicPlan => {
                "it is for data owners: `securedl infer --plan PLAN.public --pack PLAN.pack …`; the whole plan \
                 is with its owner"
            }
            Self::Pack => "packs come from `securedl compile MODEL --trust masked --out PLAN`",
            Self::Checkpoint => "go on with it: `securedl train … --checkpoint FILE --resume`",
            Self::Fingerprint => "fingerprints come from `securedl fingerprint generate`",
            Self::UnfinishedBag => {
                "go on with it: `securedl fingerprint generate … --checkpoint FILE --resume`"
            }
            Self::Unknown => {
                "models come from `securedl train` or `securedl import`, plans from `securedl compile`"
            }
        }
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Model => "a model",
            Self::Plan => "a plan",
            Self::PublicPlan => "the public part of a plan",
            Self::Checkpoint => "the checkpoint of a training",
            Self::Fingerprint => "a fingerprint",
            Self::UnfinishedBag => "the checkpoint of a fingerprint",
            Self::Pack => "a pack of canaries",
            Self::Unknown => "no file of SecureDL",
        })
    }
}
