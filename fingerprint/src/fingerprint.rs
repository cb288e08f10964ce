//! Fingerprints: a few samples, what the true model answers to them, and which model that is.
//!
//! ```text
//!  Model or Plan ─┐
//!  SampleBag ─────┴─► Fingerprint ─► bytes (versioned, with a digest)
//!                        │
//!                        ├─ inputs, reference, rule ─► audit of a black box
//!                        └─ expected integers of every segment ─► network canaries of a batch
//! ```
//! A fingerprint is bound to one model by digests. That of a [`Plan`] also holds the integers a client
//! must decrypt for each sample at every refresh, bit-packed, so that its samples can ride as
//! canaries in encrypted batches.
//!
//! **Secrecy.** Whoever knows the samples can serve the true answers to them and a modified model to
//! everything else. Encrypted queries show a server nothing. Every query in the clear may be logged:
//! [`Fingerprint::record_use`] counts them, and a fingerprint that an untrusted endpoint has seen is
//! burnt.

use ndarray::{Array2, ArrayView1, Axis};
use nn_poly::Shape;
use nn_poly::artifact::{self, Magic};
use nn_poly::import::Preprocessing;
use nn_poly::integer::IntegerMatrix;
use nn_poly::model::Model;
use nn_poly::plan::{Digest, Plan};

pub use self::make::{FingerprintParts, model_digest};
pub use self::steady::{Sifted, sift_for_integer, sift_for_model};

use self::content::{Content, check_dim};
use self::packed::Packed;
use crate::canary::{CanarySet, NetworkCanary, SegmentValues};
use crate::endpoint::Answers;
use crate::error::{Error, Result};
use crate::generate::GeneratorKind;
use crate::rule::ComparisonRule;
use crate::sample::{InputGrid, SampleInfo};
use crate::select::SelectionRule;

mod content;
mod make;
mod packed;
mod steady;

/// First bytes of a fingerprint file.
pub const FINGERPRINT_MAGIC: Magic = *b"SDLFPRNT";
/// Format version written and read by this build.
///
/// Version 1 had neither labels of the natural samples nor the margin.
pub const FINGERPRINT_VERSION: u32 = 2;
/// Largest fingerprint file: 256 MiB.
pub const MAX_FINGERPRINT_BYTES: usize = 1 << 28;
/// Most samples of a fingerprint.
pub const MAX_FINGERPRINT_SAMPLES: usize = 1 << 16;

const IDENTITY_CONTEXT: &str = "SecureDL fingerprint 1 identity";
const MAX_NAME_BYTES: usize = 200;

/// Samples with known answers, bound to a model. See the [module](self).
#[derive(Clone, Debug, PartialEq)]
pub struct Fingerprint {
    content: Content,
    uses: u64,
}

/// The values of one neuron that a stage's refresh takes: what its segment yields, or what the residues
/// of all its segments are put together to.
fn stage_values(plan: &Plan, stage: usize, rows: &[ArrayView1<'_, i64>]) -> Result<Vec<i64>> {
    let (structure, _) = plan.network().stage(stage)?;
    let window = plan.public().crt_window(stage)?;
    let (Some(chain), Some(window)) = (&structure.chain, window) else {
        return Ok(rows.first().map_or_else(Vec::new, |row| row.to_vec()));
    };
    let n = rows.first().map_or(0, ArrayView1::len);
    let value = |sample: usize| {
        let residues = rows.iter().filter_map(|row| row.get(sample));
        chain.descaled(window.combine(residues.map(|residue| residue.cast_unsigned())))
    };
    Ok((0..n).map(value).collect())
}

impl Fingerprint {
    /// Name of the model, for people.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.content.name
    }

    /// Digest of the float model it is bound to, see [`model_digest`].
    #[must_use]
    pub fn model(&self) -> Option<Digest> {
        self.content.model
    }

    /// Digest of the plan it is bound to.
    #[must_use]
    pub fn plan(&self) -> Option<Digest> {
        self.content.plan
    }

    /// Shape of one sample.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        &self.content.shape
    }

    /// One name per class.
    #[must_use]
    pub fn class_names(&self) -> &[String] {
        &self.content.class_names
    }

    /// From raw features to what the network sees.
    #[must_use]
    pub fn preprocessing(&self) -> &Preprocessing {
        &self.content.preprocessing
    }

    /// What generated the samples.
    #[must_use]
    pub fn generator(&self) -> GeneratorKind {
        self.content.generator
    }

    /// How they were chosen from a bag.
    #[must_use]
    pub fn selection(&self) -> SelectionRule {
        self.content.selection
    }

    /// Seed of the generator.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.content.seed
    }

    /// The grid the samples lie on.
    #[must_use]
    pub fn grid(&self) -> &InputGrid {
        &self.content.grid
    }

    /// How answers are compared unless the auditor says otherwise.
    #[must_use]
    pub fn rule(&self) -> ComparisonRule {
        self.content.rule
    }

    /// What is known of each sample.
    #[must_use]
    pub fn samples(&self) -> &[SampleInfo] {
        &self.content.samples
    }

    /// Number of samples, at least 1.
    #[must_use]
    pub fn n_samples(&self) -> usize {
        self.content.samples.len()
    }

    /// Number of segments with expected integers; 0 for fingerprints of float models.
    #[must_use]
    pub fn n_segments(&self) -> usize {
        self.content.segments.len()
    }

    /// `(samples, features)`: levels on the grid.
    #[must_use]
    pub fn levels(&self) -> Array2<u32> {
        unpack_levels(&self.content.levels)
    }

    /// `(samples, features)`: levels of the natural samples the others started from, if stored.
    #[must_use]
    pub fn original_levels(&self) -> Option<Array2<u32>> {
        self.content.originals.as_ref().map(|originals| unpack_levels(&originals.levels))
    }

    /// `(samples, features)`: the natural samples in preprocessed units, if stored.
    #[must_use]
    pub fn originals(&self) -> Option<Array2<f32>> {
        Some(self.content.grid.values(self.original_levels()?.view()))
    }

    /// What the true model makes of the natural samples, if stored: the control of an audit.
    #[must_use]
    pub fn original_labels(&self) -> Option<&[u32]> {
        self.content.originals.as_ref().map(|originals| originals.labels.as_slice())
    }

    /// The tolerance it declares: in the reference, the largest score of every sample is ahead of the
    /// second by at least this share of the largest magnitude. Checked when made and when read.
    #[must_use]
    pub fn margin(&self) -> f64 {
        self.content.margin
    }

    /// `(samples, features)`: the samples in preprocessed units.
    #[must_use]
    pub fn inputs(&self) -> Array2<f32> {
        self.content.grid.values(self.levels().view())
    }

    /// The true model's answers; of float models in double precision.
    #[must_use]
    pub fn reference(&self) -> Answers {
        self.content.reference.answers()
    }

    /// How often its samples were shown to an endpoint in the clear.
    #[must_use]
    pub fn uses(&self) -> u64 {
        self.uses
    }

    /// Count one use in the clear.
    pub fn record_use(&mut self) {
        self.uses = self.uses.saturating_add(1);
    }

    /// A digest of everything but the count of uses.
    ///
    /// # Errors
    /// - [`Error::Network`] never for a checked fingerprint.
    pub fn identity(&self) -> Result<Digest> {
        let bytes = artifact::encode(FINGERPRINT_MAGIC, FINGERPRINT_VERSION, &self.content)?;
        Ok(Digest(blake3::derive_key(IDENTITY_CONTEXT, &bytes)))
    }

    /// Refuse a plan that this is no fingerprint of.
    ///
    /// # Errors
    /// - [`Error::ForeignFingerprint`].
    pub fn check_plan(&self, plan: &Plan) -> Result<()> {
        if self.content.plan == Some(plan.digest()) {
            return Ok(());
        }
        Err(Error::ForeignFingerprint {
            what: "plan",
            expected: self.content.plan.or(self.content.model).map(|digest| digest.short()),
            actual: plan.digest().short(),
        })
    }

    /// Refuse a model that this is no fingerprint of.
    ///
    /// # Errors
    /// - [`Error::ForeignFingerprint`].
    pub fn check_model(&self, model: &Model) -> Result<()> {
        let actual = model_digest(model)?;
        if self.content.model == Some(actual) {
            return Ok(());
        }
        Err(Error::ForeignFingerprint {
            what: "model",
            expected: self.content.model.or(self.content.plan).map(|digest| digest.short()),
            actual: actual.short(),
        })
    }

    /// The samples as columns of the plan's integers.
    ///
    /// # Errors
    /// - [`Error::ForeignFingerprint`] if it is of another plan.
    pub fn plan_inputs(&self, plan: &Plan) -> Result<IntegerMatrix> {
        self.check_plan(plan)?;
        Ok(plan_inputs(plan, &self.levels()))
    }

    /// The samples at `positions` as canaries, with the stored integers as what must come back.
    ///
    /// What enters each segment follows from the stored integers by the client's own refresh, so no
    /// linear map is evaluated. Positions may repeat.
    ///
    /// # Errors
    /// - [`Error::ForeignFingerprint`] if it is of another plan, or has other segments.
    /// - [`Error::IndexOutOfRange`] if there is no such sample.
    /// - [`Error::Network`] if a stored integer lies outside the window of its segment.
    pub fn canaries(&self, plan: &Plan, positions: &[usize]) -> Result<CanarySet> {
        let inputs = self.plan_inputs(plan)?;
        let len = self.n_samples();
        if let Some(&index) = positions.iter().find(|&&position| position >= len) {
            return Err(Error::IndexOutOfRange { what: "sample", index, len });
        }
        if positions.is_empty() {
            return CanarySet::new(&[]);
        }
        let inputs = inputs.select(Axis(1), positions);
        let n = positions.len();
        let mut canaries = vec![NetworkCanary { segments: Vec::new() }; n];
        let mut refreshed = Vec::new();
        let n_stages = plan.public().stages.len();
        for stage in 0..n_stages {
            let arriving = plan.network().gather_inputs(stage, &inputs, &refreshed)?;
            let mut refresher = plan.refresher(stage, n)?;
            let expected = (refresher.n_outputs(), n);
            let mut of_segments = Vec::new();
            for index in plan.public().segments_of(stage)? {
                let packed = self.content.segments.get(index);
                let packed =
                    packed.ok_or(Error::MalformedFingerprint { what: "number of segments" })?;
                let outputs = packed.unpack().select(Axis(1), positions);
                check_dim("stored integers of a segment", expected, outputs.dim())?;
                let columns = arriving.columns().into_iter().zip(outputs.columns());
                for (canary, (inputs, outputs)) in canaries.iter_mut().zip(columns) {
                    let (inputs, outputs) = (inputs.to_vec(), outputs.to_vec());
                    canary.segments.push(SegmentValues { inputs, outputs });
                }
                of_segments.push(outputs);
            }
            for neuron in 0..expected.0 {
                let rows: Vec<_> = of_segments.iter().map(|outputs| outputs.row(neuron)).collect();
                refresher.absorb(neuron, &stage_values(plan, stage, &rows)?)?;
            }
            if stage + 1 < n_stages {
                refreshed.push(refresher.finish()?.values);
            }
        }
        CanarySet::new(&canaries)
    }

    /// The file.
    ///
    /// # Errors
    /// - [`Error::Network`] never for a checked fingerprint.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let file = (&self.content, self.uses);
        Ok(artifact::encode(FINGERPRINT_MAGIC, FINGERPRINT_VERSION, &file)?)
    }

    /// Decode and check bytes from anywhere. Memory: proportional to the bytes.
    ///
    /// # Errors
    /// - [`Error::Network`] around what is wrong with the file: too long, of another kind or version,
    ///   damaged.
    /// - [`Error::MalformedFingerprint`], [`Error::LengthMismatch`], [`Error::CountOutOfRange`] if its
    ///   parts do not fit together.
    /// - [`Error::WrongLabel`], [`Error::MarginMissed`], [`Error::RuleTooFine`] if an honest service
    ///   could fail an audit by it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let (content, uses): (Content, u64) =
            artifact::decode(FINGERPRINT_MAGIC, FINGERPRINT_VERSION, bytes, MAX_FINGERPRINT_BYTES)?;
        content.check()?;
        Ok(Self { content, uses })
    }
}

/// Level 0 is the smallest integer of the plan's grid.
fn plan_inputs(plan: &Plan, levels: &Array2<u32>) -> IntegerMatrix {
    let lowest = plan.public().input.min();
    levels.t().mapv(|level| lowest.saturating_add_unsigned(level)).as_standard_layout().into_owned()
}

/// Levels were checked to lie on the grid.
fn unpack_levels(packed: &Packed) -> Array2<u32> {
    packed.unpack().mapv(|level| u32::try_from(level).unwrap_or(0))
}

#[cfg(test)]
pub(crate) mod tests;
