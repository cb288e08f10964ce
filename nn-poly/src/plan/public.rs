//! The public part of a plan: everything but the weights.

use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Serialize};

use super::check::check_public;
use super::digest::Digest;
use super::segment::Segment;
use crate::artifact;
use crate::error::Result;
use crate::import::{Preprocessing, SplitSpec};
use crate::integer::{InputGrid, StageStructure};
use crate::tensor::Shape;

/// Opens the file or message that holds a public part.
pub const PUBLIC_PLAN_MAGIC: artifact::Magic = *b"SDLPUBPL";
/// Version of the public and private parts and of the plan file.
pub const PLAN_VERSION: u32 = 5;
/// Largest encoding of a public part.
pub const MAX_PUBLIC_PLAN_BYTES: usize = 1 << 26;

const PUBLIC_CONTEXT: &str = "SecureDL plan 4 public part";

/// Who evaluates the activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ActivationSide {
    /// The server, homomorphically; quadratic activations only.
    Server,
    /// The key holder while refreshing; every segment is linear. Any activation and pool.
    Client,
}

impl fmt::Display for ActivationSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "server",
            Self::Client => "client",
        })
    }
}

/// Who may see intermediate values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Trust {
    /// The client owns the model and may see them.
    Owner,
    /// The client owns the data only: it sees masked values, and no weights.
    Masked,
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Owner => "owner",
            Self::Masked => "masked",
        })
    }
}

/// The fields of a public part, not yet checked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PublicPlanSpec {
    /// Name of the model.
    pub name: String,
    /// Shape of one sample.
    pub input_shape: Shape,
    /// What is done to raw features before quantization.
    pub preprocessing: Preprocessing,
    /// How the training data were split, so that `--split test` means the same samples.
    pub split: SplitSpec,
    /// One name per score.
    pub class_names: Vec<String>,
    /// Grid of the inputs.
    pub input: InputGrid,
    /// What one unit of a score stands for in the float network's outputs: for confidences.
    pub score_step: f32,
    /// Who may see intermediate values.
    pub trust: Trust,
    /// Who evaluates activations.
    pub activation_side: ActivationSide,
    /// Every stage, without weights.
    pub stages: Vec<StageStructure>,
    /// The segments of every stage, in the order of the stages: one, or with a chain one per residue.
    pub segments: Vec<Segment>,
    /// Samples of a typical batch, for which packing was chosen.
    pub expected_samples: u64,
    /// Classical security of the weakest ring, bits; a statement that the code which instantiates
    /// the rings verifies.
    pub security_bits: u32,
}

/// A checked public part. Reads like its [`PublicPlanSpec`]; immutable.
#[derive(Clone, Debug, PartialEq)]
pub struct PublicPlan {
    spec: PublicPlanSpec,
    digest: Digest,
}

impl PublicPlan {
    /// Check every field and compute the digest.
    ///
    /// What is checked: names and counts; all of the network's structure; for each segment that it
    /// evaluates what the activation side says, that ring, packing and window fit each other and
    /// the range, and that the noise forecast leaves a margin.
    ///
    /// # Errors
    /// - [`crate::Error::OutOfRange`] or [`crate::Error::InvalidSetting`] naming segment or stage,
    ///   field and limits.
    /// - [`crate::Error::NotAtServer`] if the server would have to evaluate a ReLU, a table or a maximum.
    pub fn new(spec: PublicPlanSpec) -> Result<Self> {
        check_public(&spec)?;
        let bytes = artifact::encode(PUBLIC_PLAN_MAGIC, PLAN_VERSION, &spec)?;
        Ok(Self { digest: Digest::of(PUBLIC_CONTEXT, &[&bytes]), spec })
    }

    /// Digest of the public part alone.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The fields.
    #[must_use]
    pub const fn spec(&self) -> &PublicPlanSpec {
        &self.spec
    }

    /// The canonical encoding; the digest is a function of these bytes.
    ///
    /// # Errors
    /// - [`crate::Error::Encode`] never for a checked plan.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        artifact::encode(PUBLIC_PLAN_MAGIC, PLAN_VERSION, &self.spec)
    }

    /// Decode and check bytes from anywhere.
    ///
    /// # Errors
    /// - Those of [`artifact::decode`] for damaged, foreign or oversized bytes.
    /// - Those of [`Self::new`] for inconsistent content.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let spec = artifact::decode(PUBLIC_PLAN_MAGIC, PLAN_VERSION, bytes, MAX_PUBLIC_PLAN_BYTES)?;
        Self::new(spec)
    }
}

/// Read access to the fields.
impl Deref for PublicPlan {
    type Target = PublicPlanSpec;

    fn deref(&self) -> &PublicPlanSpec {
        &self.spec
    }
}
