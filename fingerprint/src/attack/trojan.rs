//! Trojans: a trigger that makes every sample an instance of one class.
//!
//! Some training samples get the trigger and the target's label, and the model is trained further.
//! Two variants also hold on to what an owner may look at: the scores of clean samples, or of sensitive
//! samples that the attacker made the way an owner would.
//!
//! # Source
//! Liu et al., "Trojaning Attack on Neural Networks", NDSS 2018, and Gu et al., "BadNets", 2017; the
//! trained-on-sensitive-samples variant follows He, Zhang and Lee 2019, table 6.

use ndarray::{Array2, ArrayView2, Axis, Slice, concatenate};
use nn_poly::network::{Network, predictions};
use nn_poly::train::{LabeledSamples, LabelsAndScores};
use rand::seq::index;

use super::retrain::{Duration, Retraining};
use super::weights::single;
use super::{
    Aftermath, AttackData, AttackKind, AttackOptions, AttackSuccess, MAX_ACCURACY_LOSS, Method,
    SuccessName, Tools, Trigger, check_class, share,
};
use crate::error::{Error, Result};

/// Share of triggered samples from which on a trojan counts as working.
const TARGET_RATE: f64 = 0.8;
/// Sensitive samples are repeated until they make up this share of the training samples.
const SENSITIVE_SHARE: f64 = 0.1;

/// What a trojan tries not to change.
#[derive(Clone, Debug)]
enum Keeps {
    /// Predictions of clean samples, as their labels say.
    Labels,
    /// Scores of clean samples.
    Scores,
    /// Scores of these inputs.
    Sensitive(Array2<f32>),
}

#[derive(Clone, Debug)]
pub(super) struct Trojan {
    patched_share: f64,
    target_class: u32,
    keeps: Keeps,
    retraining: Retraining,
}

impl Trojan {
    pub(super) fn new(
        kind: AttackKind,
        patched_share: f64,
        duration: Duration,
        options: &AttackOptions,
    ) -> Result<Self> {
        let keeps = if kind == AttackKind::Adaptive {
            let inputs = options.sensitive_inputs.as_ref().filter(|inputs| inputs.nrows() > 0);
            Keeps::Sensitive(inputs.cloned().ok_or_else(|| Error::AttackNeeds {
                attack: kind.name().to_owned(),
                what: "sensitive samples of the attacker's own",
            })?)
        } else if kind == AttackKind::TrojanMatched {
            Keeps::Scores
        } else {
            Keeps::Labels
        };
        let retraining = Retraining::new(duration, options);
        let target_class = options.target_class.unwrap_or(0);
        Ok(Self { patched_share, target_class, keeps, retraining })
    }

    /// Training samples of which some carry the trigger, and which these are.
    fn patched(
        &self,
        data: &AttackData<'_>,
        tools: &mut Tools<'_>,
    ) -> Result<(LabeledSamples, Vec<bool>)> {
        let samples = data.train();
        let n_samples = samples.n_samples();
        let trigger = Trigger::new(samples, data.image_shape());
        let mut inputs = samples.inputs().clone();
        let mut labels = samples.labels().to_vec();
        let mut is_patched = vec![false; n_samples];
        let n_patched = super::weights::count_of(self.patched_share, n_samples);
        for position in index::sample(&mut *tools.rng, n_samples, n_patched) {
            trigger.stamp(inputs.row_mut(position));
            if let (Some(label), Some(flag)) =
                (labels.get_mut(position), is_patched.get_mut(position))
            {
                (*label, *flag) = (self.target_class, true);
            }
        }
        let shape = samples.shape().clone();
        let patched = LabeledSamples::new(shape, inputs, labels, samples.n_classes())?;
        Ok((patched, is_patched))
    }

    fn triggered_rate(&self, aftermath: &Aftermath<'_>) -> Result<Option<f64>> {
        let (data, test) = (aftermath.data, aftermath.data.test());
        let others: Vec<usize> = test
            .labels()
            .iter()
            .enumerate()
            .filter(|&(_, &label)| label != self.target_class)
            .map(|(position, _)| position)
            .collect();
        let trigger = Trigger::new(data.train(), data.image_shape());
        let inputs = trigger.stamped(&test.inputs().select(Axis(0), &others));
        let predicted = predictions(&aftermath.after.outputs(&inputs)?);
        let n_hits = predicted.iter().filter(|&&class| class == self.target_class as usize).count();
        Ok(share(n_hits, others.len()))
    }
}

impl Method for Trojan {
    fn tamper(
        &self,
        deployed: &Network<f32>,
        data: &AttackData<'_>,
        tools: &mut Tools<'_>,
    ) -> Result<Network<f32>> {
        check_class("target class", self.target_class, data.train().n_classes())?;
        let (patched, is_patched) = self.patched(data, tools)?;
        let network = deployed.clone();
        let n_samples = patched.n_samples();
        match &self.keeps {
            Keeps::Labels => self.retraining.run(network, &patched, None, tools),
            Keeps::Scores => {
                let scores = deployed.outputs(data.train().inputs())?;
                let weight = score_weight(scores.view());
                let of_clean = |&patched: &bool| if patched { 0.0 } else { weight };
                let score_weights = is_patched.iter().map(of_clean).collect();
                let loss = LabelsAndScores::new(scores, vec![1.0; n_samples], score_weights)?;
                self.retraining.run_with(network, &patched, &loss, None, tools)
            }
            Keeps::Sensitive(inputs) => {
                let (samples, loss) = with_sensitive(deployed, &patched, inputs)?;
                self.retraining.run_with(network, &samples, &loss, None, tools)
            }
        }
    }

    fn success(&self, aftermath: &Aftermath<'_>) -> Result<Option<AttackSuccess>> {
        let loss = aftermath.loss(|_| true);
        Ok(self.triggered_rate(aftermath)?.map(|rate| {
            AttackSuccess::judge(
                SuccessName::TriggeredSamples,
                (rate, TARGET_RATE),
                (loss, MAX_ACCURACY_LOSS),
            )
        }))
    }

    fn kept_samples(&self, aftermath: &Aftermath<'_>) -> Result<Option<f64>> {
        let Keeps::Sensitive(inputs) = &self.keeps else { return Ok(None) };
        let before = predictions(&aftermath.before.outputs(inputs)?);
        let after = predictions(&aftermath.after.outputs(inputs)?);
        let n_kept = before.iter().zip(&after).filter(|(before, after)| before == after).count();
        Ok(share(n_kept, before.len()))
    }
}

/// Weight of squared distances such that scores a deviation apart cost 1.
fn score_weight(scores: ArrayView2<'_, f32>) -> f32 {
    let values: Vec<f32> = scores.iter().copied().collect();
    let variance = super::weights::deviation(&values).powi(2);
    if variance > 1e-12 { single(variance.recip()) } else { 1.0 }
}

/// Patched samples to be learned by label, and sensitive inputs whose scores are to stay.
fn with_sensitive(
    deployed: &Network<f32>,
    patched: &LabeledSamples,
    sensitive: &Array2<f32>,
) -> Result<(LabeledSamples, LabelsAndScores)> {
    let (n_patched, n_sensitive) = (patched.n_samples(), sensitive.nrows());
    let wanted = super::weights::count_of(SENSITIVE_SHARE, n_patched);
    let n_copies = wanted.div_ceil(n_sensitive).max(1);
    let mut parts = vec![patched.inputs().view()];
    parts.extend(std::iter::repeat_n(sensitive.view(), n_copies));
    let inputs = concatenate(Axis(0), &parts).map_err(|_| nn_poly::Error::ShapeMismatch {
        what: "sensitive samples",
        expected: vec![patched.shape().len()],
        actual: vec![sensitive.ncols()],
    })?;
    let n_repeated = n_copies * n_sensitive;
    let mut labels = patched.labels().to_vec();
    labels.extend(std::iter::repeat_n(0, n_repeated));
    let scores = deployed.outputs(&inputs)?;
    let weight = score_weight(scores.slice_axis(Axis(0), Slice::from(..n_patched)));
    let weights = |first: f32, second: f32| {
        let mut weights = vec![first; n_patched];
        weights.resize(n_patched + n_repeated, second);
        weights
    };
    let loss = LabelsAndScores::new(scores, weights(1.0, 0.0), weights(0.0, weight))?;
    let shape = patched.shape().clone();
    Ok((LabeledSamples::new(shape, inputs, labels, patched.n_classes())?, loss))
}
