//! Plans: what a model owner compiles, a server hosts and a client follows.
//!
//! ```text
//!  IntegerNetwork ── compile ──► Plan ┬─ public part: shapes, grids, segments, parameters ─► anyone
//!    + observations                   └─ private part: weights ─► owner and server
//!                                     │
//!                         forecast ◄──┴──► simulate (== every encrypted run, bit for bit)
//! ```
//!
//! A plan has one *segment* per stage: one round trip, with its own ring, packing and window; a stage
//! with a chain of steps may need several, one for each prime modulo which it is computed, in the same
//! round trip. Where the server evaluates activations, a segment ends after activation and pool; where
//! the client does, after the linear map. The two parts have separate digests; the digest of the plan binds both, and
//! equal digests mean equal results.
//!
//! | module | what |
//! |---|---|
//! | `segment` | ring, packing, range, noise of one segment; what the planner asks for |
//! | `public` | the public part, checked and encoded |
//! | `chained` | segments of stages with a chain |
//! | `masked` | segments of plans for clients that must not learn the model |
//! | `compile` | one plan: the parameters that move the fewest bytes |
//! | [`planner`] | every plan worth comparing, ranked by time, bytes or rounds |
//! | `simulate` | the plan without encryption |
//! | `forecast` | bytes, blocks, rounds |

mod chained;
mod check;
mod compile;
mod digest;
mod forecast;
mod masked;
pub mod planner;
mod public;
mod segment;
mod simulate;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use crate::integer::Window;
pub use compile::{
    CALIBRATION_MARGIN, ModelFacts, PlanOptions, RangePolicy, compile, compile_with,
};
pub use digest::Digest;
pub use forecast::{
    Forecast, MAX_BATCH_SAMPLES, RunSize, SEED_BYTES, SegmentForecast, batch_samples, forecast,
    forecast_run,
};
pub use masked::token_stages;
pub use public::{
    ActivationSide, MAX_PUBLIC_PLAN_BYTES, PLAN_VERSION, PUBLIC_PLAN_MAGIC, PublicPlan,
    PublicPlanSpec, Trust,
};
pub use segment::{
    ChainDemand, ChainPart, ChosenMasked, ChosenParameters, ChosenResidue, Evidence,
    MASK_TOKEN_BYTES, MIN_POINT_BITS, MaskPart, MaskedDemand, NoiseForecast, Packing, PooledSquare,
    Relinearization, RingSpec, Segment, SegmentDemand, StepDemand, ValueRange,
};

use crate::artifact;
use crate::error::{Error, Result};
use crate::integer::{IntegerNetwork, Interval, Refresher, StageWeights};

/// Opens a plan file.
pub const PLAN_MAGIC: artifact::Magic = *b"SDLPLAN\0";
/// Largest plan file: 1 GiB.
pub const MAX_PLAN_BYTES: usize = 1 << 30;

const PRIVATE_MAGIC: artifact::Magic = *b"SDLPRVPL";
const PRIVATE_CONTEXT: &str = "SecureDL plan 4 private part";
const PLAN_CONTEXT: &str = "SecureDL plan 4";

/// A compiled model: the public part and the weights, checked against each other.
///
/// Immutable. `Debug` shows no weights.
#[derive(Clone)]
pub struct Plan {
    public: PublicPlan,
    network: IntegerNetwork,
    private_digest: Digest,
    digest: Digest,
}

/// The content of a plan file, before any check.
#[derive(Serialize, Deserialize)]
struct PlanFile {
    public: PublicPlanSpec,
    weights: Vec<StageWeights>,
}

impl Plan {
    /// Put the two parts together and check them against each other: the weights fit the structure,
    /// no accumulator can overflow, every range called proven is, and the key holder's arithmetic is
    /// exact on every value a window lets through.
    ///
    /// # Errors
    /// - Those of [`IntegerNetwork::new`].
    /// - [`Error::RangeNotProven`] if the weights do not prove a range that is called proven.
    /// - [`Error::Accumulator`] if a window is too wide for an activation at the key holder.
    /// - [`Error::OutOfRange`], [`Error::NoiseMargin`] if the noise of a masked plan does not hide how its
    ///   replies are computed, or does not fit.
    pub fn new(public: PublicPlan, weights: Vec<StageWeights>) -> Result<Self> {
        let bytes = artifact::encode(PRIVATE_MAGIC, PLAN_VERSION, &weights)?;
        let private_digest = Digest::of(PRIVATE_CONTEXT, &[&bytes]);
        let n_inputs = public.input_shape.len();
        let network = IntegerNetwork::new(public.input, n_inputs, public.stages.clone(), weights)?;
        if public.trust == Trust::Masked {
            masked::check_claims(&public, &network)?;
        }
        let owned = if public.trust == Trust::Owner { public.stages.len() } else { 0 };
        for idx in 0..owned {
            let segment = public.first_segment(idx)?;
            let arrivals = public.arrivals(idx)?;
            let ranges = network.stage_ranges(idx)?;
            let Interval { low, high } = ranges.bounds(arrivals.takes);
            let claimed = arrivals.expected;
            let is_proven = segment.range.evidence == Evidence::Proven;
            // The division hides up to half a unit at the ends of a window.
            let window = public.crt_window(idx)?.map(|window| window.interval());
            let leaves_window = window
                .zip(ranges.undivided)
                .is_some_and(|(window, range)| range.low < window.low || range.high > window.high);
            if is_proven && (leaves_window || !claimed.covers(&Interval { low, high })) {
                let (claimed_low, claimed_high) = (claimed.low, claimed.high);
                return Err(Error::RangeNotProven {
                    segment: idx,
                    claimed_low,
                    claimed_high,
                    low,
                    high,
                });
            }
            let (stage, numbers) = network.stage(idx)?;
            Refresher::check(idx, stage, numbers.quadratic.as_ref(), arrivals)?;
        }
        let digest = Self::digest_of_parts(public.digest(), private_digest);
        Ok(Self { public, network, private_digest, digest })
    }

    /// The public part.
    #[must_use]
    pub const fn public(&self) -> &PublicPlan {
        &self.public
    }

    /// The integer network, with weights.
    #[must_use]
    pub const fn network(&self) -> &IntegerNetwork {
        &self.network
    }

    /// Digest of the public part.
    #[must_use]
    pub const fn public_digest(&self) -> Digest {
        self.public.digest()
    }

    /// Digest of the private part.
    #[must_use]
    pub const fn private_digest(&self) -> Digest {
        self.private_digest
    }

    /// The name of this plan: a digest of both parts.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The digest of a plan, from those of its two parts.
    #[must_use]
    pub fn digest_of_parts(public: Digest, private: Digest) -> Digest {
        Digest::of(PLAN_CONTEXT, &[&public.0, &private.0])
    }

    /// The canonical encoding of both parts.
    ///
    /// # Errors
    /// - [`Error::Encode`] never for a checked plan.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let weights = self.network.weights().to_vec();
        let file = PlanFile { public: self.public.spec().clone(), weights };
        artifact::encode(PLAN_MAGIC, PLAN_VERSION, &file)
    }

    /// Decode and check bytes from anywhere.
    ///
    /// # Errors
    /// - Those of [`artifact::decode`] for damaged, foreign or oversized bytes.
    /// - Those of [`PublicPlan::new`] and [`Self::new`] for inconsistent content.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let file: PlanFile = artifact::decode(PLAN_MAGIC, PLAN_VERSION, bytes, MAX_PLAN_BYTES)?;
        Self::new(PublicPlan::new(file.public)?, file.weights)
    }

    /// Write the plan to `path`, completely or not at all.
    ///
    /// # Errors
    /// - [`Error::Io`] if the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        artifact::write_file(path, &self.to_bytes()?)
    }

    /// Read and check the plan at `path`.
    ///
    /// # Errors
    /// - [`Error::Io`] or [`Error::TooLarge`] if the file cannot be read.
    /// - [`Error::InFile`] with the cause of [`Self::from_bytes`] otherwise.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = artifact::read_file(path, MAX_PLAN_BYTES)?;
        Self::from_bytes(&bytes).map_err(|error| error.in_file(path))
    }
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan")
            .field("name", &self.public.name)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}
