//! The plan without encryption: what every encrypted run must equal, bit for bit.

use ndarray::Array2;

use super::check::{arrivals, segment_output};
use super::compile::recompute_noise;
use super::{NoiseForecast, Plan, PublicPlan, Segment};
use crate::error::Result;
use crate::integer::{
    Evaluation, IntegerMatrix, Keep, Refresher, ScoreMatrix, StageOutput, StageRule, require,
};

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
    pub fn simulate(&self, inputs: &IntegerMatrix) -> Result<Evaluation> {
        self.network().run(inputs, &self.rules(), Keep::Scores)
    }

    /// As [`Self::simulate`], keeping the refreshed values of every stage.
    ///
    /// # Errors
    /// As for [`Self::simulate`].
    pub fn simulate_trace(&self, inputs: &IntegerMatrix) -> Result<Evaluation> {
        self.network().run(inputs, &self.rules(), Keep::Everything)
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
        let segment = self.public().segment(segment_idx)?;
        let output = segment_output(segment);
        let mut values = self.network().evaluate_stage(segment_idx, inputs, output)?;
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
        self.network().evaluate_stage_modular(segment_idx, points, t, output)
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

    /// The key holder's tail of segment `segment_idx` for `n_samples` samples.
    ///
    /// # Errors
    /// - [`crate::Error::OutOfRange`] if there is no such segment.
    pub fn refresher(&self, segment_idx: usize, n_samples: usize) -> Result<Refresher> {
        let segment = self.public().segment(segment_idx)?;
        let (stage, weights) = self.network().stage(segment_idx)?;
        let quadratic = weights.quadratic.as_ref();
        Refresher::new(segment_idx, stage, quadratic, arrivals(segment), n_samples)
    }

    /// Windows and ranges as the evaluation applies them.
    fn rules(&self) -> Vec<StageRule> {
        self.public()
            .segments
            .iter()
            .map(|segment| StageRule { arrivals: arrivals(segment), window: segment.window })
            .collect()
    }
}
