//! The plan without encryption: what every encrypted run must equal, bit for bit.

use std::ops::Range;

use ndarray::Array2;

use super::check::{arrivals, crt_window, segment_output};
use super::compile::recompute_noise;
use super::{NoiseForecast, Plan, PublicPlan, Segment, Trust, Window};
use crate::error::Result;
use crate::integer::{
    Arrivals, CrtWindow, Evaluation, IntegerMatrix, Interval, Keep, Refresher, ScoreMatrix,
    StageOutput, StageRule, StageStructure, require,
};

/// What plans of the other setting have no meaning for.
const SIMULATION: &str = "the simulation of an owner's run";

impl PublicPlan {
    /// Segment `segment_idx`.
    ///
    /// # Errors
    /// - [`crate::Error::OutOfRange`] if there is no such segment.
    pub fn segment(&self, segment_idx: usize) -> Result<&Segment> {
        require("plan", 0, "segment index", segment_idx, 0, self.segments.len() - 1)?;
        #[expect(clippy::indexing_slicing, reason = "checked just above")]
        Ok(&self.segments[segment_idx])
    }

    /// The segments of stage `stage_idx`: one, or with a chain one per residue. A round is one stage.
    ///
    /// # Errors
    /// - [`crate::Error::OutOfRange`] if there is no such stage.
    pub fn segments_of(&self, stage_idx: usize) -> Result<Range<usize>> {
        require("plan", 0, "stage index", stage_idx, 0, self.stages.len() - 1)?;
        let is_of = |segment: &Segment| segment.stage as usize == stage_idx;
        let first = self.segments.iter().position(is_of).unwrap_or(0);
        let n = self.segments.iter().filter(|segment| is_of(segment)).count();
        Ok(first..first + n)
    }

    /// The first segment of stage `stage_idx`.
    ///
    /// # Errors
    /// - [`crate::Error::OutOfRange`] if there is no such stage.
    pub fn first_segment(&self, stage_idx: usize) -> Result<&Segment> {
        self.segment(self.segments_of(stage_idx)?.start)
    }

    /// What the key holder receives from stage `stage_idx`.
    pub(crate) fn arrivals(&self, stage_idx: usize) -> Result<Arrivals> {
        let (stage, segments) = self.stage_and_segments(stage_idx)?;
        arrivals(stage, segments)
    }

    /// How the residues of stage `stage_idx` are put together; `None` without a chain.
    ///
    /// # Errors
    /// - [`crate::Error::OutOfRange`] if there is no such stage.
    pub fn crt_window(&self, stage_idx: usize) -> Result<Option<CrtWindow>> {
        let (stage, segments) = self.stage_and_segments(stage_idx)?;
        crt_window(stage, segments)
    }

    fn stage_and_segments(&self, stage_idx: usize) -> Result<(&StageStructure, &[Segment])> {
        let range = self.segments_of(stage_idx)?;
        #[expect(clippy::indexing_slicing, reason = "checked just above")]
        Ok((&self.stages[stage_idx], &self.segments[range]))
    }

    /// Where segment `segment_idx` ends.
    ///
    /// # Errors
    /// - [`crate::Error::OutOfRange`] if there is no such segment.
    pub fn segment_output(&self, segment_idx: usize) -> Result<StageOutput> {
        self.segment(segment_idx).map(segment_output)
    }

    /// Preprocess and quantize raw features, `samples × features`, to `features × samples`.
    ///
    /// # Errors
    /// - [`crate::Error::ShapeMismatch`] if the number of features is not the plan's.
    /// - [`crate::Error::NonFiniteInput`] if a feature is NaN or infinite.
    pub fn quantize(&self, raw_features: &Array2<f32>) -> Result<IntegerMatrix> {
        let n_features = self.input_shape.len();
        if raw_features.ncols() != n_features {
            return Err(crate::Error::ShapeMismatch {
                what: "a row of features",
                expected: self.input_shape.dims().to_vec(),
                actual: vec![raw_features.ncols()],
            });
        }
        self.input.quantize(self.preprocessing.apply(raw_features)?.view())
    }
}

impl Plan {
    /// Run all samples (columns of `inputs`) as the encrypted protocol would, windows included.
    ///
    /// `out_of_range` marks the samples with a value outside the range of its segment: never where
    /// ranges are proven. Cost: as [`crate::integer::IntegerNetwork::evaluate`].
    ///
    /// # Errors
    /// - [`crate::Error::ShapeMismatch`] or [`crate::Error::OutOfRange`] for inputs that are not the
    ///   plan's.
    /// - [`crate::Error::TrustSetting`] if the plan is masked: [`Self::simulate_masked`] runs those.
    pub fn simulate(&self, inputs: &IntegerMatrix) -> Result<Evaluation> {
        self.public().expect_trust(Trust::Owner, SIMULATION)?;
        self.network().run(inputs, &self.rules()?, Keep::Scores)
    }

    /// As [`Self::simulate`], keeping the refreshed values of every stage.
    ///
    /// # Errors
    /// As for [`Self::simulate`].
    pub fn simulate_trace(&self, inputs: &IntegerMatrix) -> Result<Evaluation> {
        self.public().expect_trust(Trust::Owner, SIMULATION)?;
        self.network().run(inputs, &self.rules()?, Keep::Everything)
    }

    /// What decryption of segment `segment_idx` must yield: its outputs, reduced into its window.
    ///
    /// `inputs` are the concatenated sources of the segment, one row per uploaded value.
    ///
    /// # Errors
    /// - [`crate::Error::OutOfRange`] if there is no such segment or an input is off its grid.
    /// - [`crate::Error::ShapeMismatch`] if the number of rows is not the segment's.
    pub fn evaluate_segment(
        &self,
        segment_idx: usize,
        inputs: &IntegerMatrix,
    ) -> Result<ScoreMatrix> {
        self.public().expect_trust(Trust::Owner, SIMULATION)?;
        let segment = self.public().segment(segment_idx)?;
        let (stage_idx, output) = (segment.stage as usize, segment_output(segment));
        if segment.chain.is_some() {
            let values = self.network().evaluate_chain(stage_idx, inputs)?;
            return Ok(values.mapv(|v| segment.window.reduce_wide(v)));
        }
        let mut values = self.network().evaluate_stage(stage_idx, inputs, output)?;
        values.mapv_inplace(|v| segment.window.reduce(v));
        Ok(values)
    }

    /// What segment `segment_idx` must yield at random points of `Z_t`, `t` its plaintext modulus:
    /// residues in `[0, t)`.
    ///
    /// # Errors
    /// - [`crate::Error::OutOfRange`] if there is no such segment, or a point does not fit it.
    pub fn evaluate_segment_modular(
        &self,
        segment_idx: usize,
        points: &[Vec<u64>],
    ) -> Result<Vec<Vec<u64>>> {
        let segment = self.public().segment(segment_idx)?;
        let output = segment_output(segment);
        let t = segment.window.modulus;
        self.network().evaluate_stage_modular(segment.stage as usize, points, t, output)
    }

    /// The noise of segment `segment_idx`, computed anew from weights and ring.
    ///
    /// A key holder that did not compile the plan itself checks that the margin is not negative:
    /// otherwise an honest server's replies decrypt to noise.
    ///
    /// # Errors
    /// - [`crate::Error::OutOfRange`] if there is no such segment.
    pub fn recompute_noise(&self, segment_idx: usize) -> Result<NoiseForecast> {
        recompute_noise(self.network(), self.public().segment(segment_idx)?)
    }

    /// The key holder's tail of stage `stage_idx` for `n_samples` samples: it takes what the stage's
    /// segment yields, or with a chain what its residues are put together to, divided.
    ///
    /// # Errors
    /// - [`crate::Error::OutOfRange`] if there is no such stage.
    pub fn refresher(&self, stage_idx: usize, n_samples: usize) -> Result<Refresher> {
        self.public().expect_trust(Trust::Owner, "a refresh in the clear")?;
        let (stage, weights) = self.network().stage(stage_idx)?;
        let quadratic = weights.quadratic.as_ref();
        Refresher::new(stage_idx, stage, quadratic, self.public().arrivals(stage_idx)?, n_samples)
    }

    /// Windows and ranges as the evaluation applies them.
    fn rules(&self) -> Result<Vec<StageRule>> {
        (0..self.public().stages.len())
            .map(|stage_idx| {
                let arrivals = self.public().arrivals(stage_idx)?;
                let undivided = self.public().crt_window(stage_idx)?;
                let Interval { low, .. } = arrivals.domain;
                let window = Window { low, modulus: arrivals.domain.width() };
                Ok(StageRule { arrivals, window, undivided })
            })
            .collect()
    }
}
