//! What a data owner prepares once per plan, from its public part and a pack of canaries.

use std::sync::Arc;

use fingerprint::{CanaryPack, CanarySet, LayoutOptions, LayoutSpec, MaskedSoundness};
use nn_poly::encrypted::masked::MaskedStage;
use nn_poly::integer::IntegerMatrix;
use nn_poly::plan::{PublicPlan, Trust};
use rand::CryptoRng;

use crate::identifiers::Digest;
use crate::session::{Result, SessionError};

/// Fewest slots of a block that hold inputs drawn at random from the grid, whose results nobody looks
/// at. They keep the encoded polynomials of different inputs independent, which the noise bounds assume,
/// and stand in for samples where a block is not full.
pub const DECOYS: usize = 64;

/// A masked plan as a data owner uses it: everything that sessions share. Immutable and `Sync`.
#[derive(Debug)]
pub struct MaskedPlan {
    public: PublicPlan,
    digest: nn_poly::plan::Digest,
    stages: Vec<MaskedStage>,
    layout: LayoutSpec,
    pack: CanaryPack,
}

impl MaskedPlan {
    /// Prepares a plan: rebuilds parameters and checks their security, and that the pack is of this
    /// plan. Every block carries `n_canaries` canaries of the pack.
    ///
    /// # Errors
    /// - [`SessionError::Network`] when the plan has another trust setting, or its parameters are not
    ///   secure or inconsistent.
    /// - [`SessionError::Fingerprint`] when the pack is of another plan, or canaries leave no room for
    ///   samples.
    /// - [`SessionError::CanaryCount`] when the pack has fewer canaries, [`SessionError::Setting`] when
    ///   there are to be none.
    pub fn new(public: PublicPlan, pack: CanaryPack, n_canaries: usize) -> Result<Arc<Self>> {
        public.expect_trust(Trust::Masked, "a run of a data owner")?;
        pack.check_plan(&public)?;
        let (min, max) = (1, pack.n_canaries());
        if n_canaries == 0 {
            return Err(SessionError::Setting { name: "number of canaries", actual: 0, min, max });
        }
        if n_canaries > max {
            return Err(SessionError::CanaryCount { expected: n_canaries, actual: max });
        }
        let stages = (0..public.stages.len())
            .map(|stage| MaskedStage::new(&public, stage))
            .collect::<nn_poly::Result<Vec<_>>>()?;
        let n_slots = stages.first().map_or(0, MaskedStage::capacity);
        let options = LayoutOptions {
            replicas: 1,
            network_canaries: n_canaries,
            random_points: DECOYS,
            max_random_points: DECOYS,
        };
        let layout = LayoutSpec::new(n_slots, options)?;
        Ok(Arc::new(Self { digest: pack.plan(), public, stages, layout, pack }))
    }

    /// The public part.
    #[must_use]
    pub fn public(&self) -> &PublicPlan {
        &self.public
    }

    /// Digest of the whole plan, as requests name it: by the word of the pack, whose parts' digests
    /// make it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest(self.digest.0)
    }

    /// Samples one block carries.
    #[must_use]
    pub fn samples_per_block(&self) -> usize {
        self.layout.samples_per_block()
    }

    /// Rounds of a block.
    #[must_use]
    pub fn n_stages(&self) -> usize {
        self.stages.len()
    }

    /// What tolerated canaries are worth in a run of `n_samples` samples. The last block may be the
    /// smallest: figures are those of a full one, which hides single samples best.
    #[must_use]
    pub fn soundness(&self, n_samples: usize) -> MaskedSoundness {
        let full = self.samples_per_block();
        let n_canaries = self.layout.options().network_canaries;
        let blocks = n_samples.div_ceil(full.max(1)).max(1);
        #[expect(clippy::cast_precision_loss, reason = "a logarithm of a count")]
        let bits = (self.pack.false_alarm_bits() - (blocks as f64).log2()).max(0.0);
        MaskedSoundness::new(n_samples.min(full), n_canaries, self.pack.sharpness(), bits)
    }

    pub(super) fn inner_digest(&self) -> &nn_poly::plan::Digest {
        &self.digest
    }

    pub(super) fn stage(&self, stage: usize) -> Result<&MaskedStage> {
        let count = self.stages.len();
        self.stages.get(stage).ok_or(SessionError::NoSuchSegment { index: stage, count })
    }

    pub(super) fn layout(&self) -> &LayoutSpec {
        &self.layout
    }

    /// The canaries and their tolerances.
    #[must_use]
    pub fn pack(&self) -> &CanaryPack {
        &self.pack
    }

    /// Canaries of the pack for one block, drawn at random.
    pub(super) fn draw_canaries(&self, rng: &mut (impl CryptoRng + ?Sized)) -> Result<Vec<usize>> {
        let wanted = self.layout.options().network_canaries;
        Ok(CanarySet::draw_from(self.pack.n_canaries(), wanted, rng)?)
    }

    pub(super) fn check_inputs(&self, inputs: &IntegerMatrix) -> Result<()> {
        let expected = self.public.input_shape.len();
        if inputs.nrows() != expected {
            return Err(SessionError::BatchShape { expected, actual: inputs.nrows() });
        }
        if inputs.ncols() == 0 {
            return Err(SessionError::EmptyBatch);
        }
        let grid = self.public.input.interval();
        match inputs.iter().find(|&&x| !grid.contains(i64::from(x))) {
            None => Ok(()),
            Some(&value) => Err(SessionError::InputRange { value, low: grid.low, high: grid.high }),
        }
    }
}
