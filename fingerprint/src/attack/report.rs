//! What an attack reports about itself.

use serde::{Deserialize, Serialize};

use super::AttackKind;

/// What an attack did, and whether it worked.
///
/// Accuracies are shares from 0 to 1 of the test samples. Weights are compared as the network uses
/// them: after the rounding of its own weight quantizers, if it has any.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttackReport {
    /// Which attack.
    pub kind: AttackKind,
    /// Where its dial stood; see [`AttackKind::dial`].
    pub strength: f64,
    /// Accuracy of the model before.
    pub clean_accuracy_before: f64,
    /// Accuracy of the model after.
    pub clean_accuracy_after: f64,
    /// Whether the attack reached its goal. `None` if there is nothing to measure it on, such as no
    /// test sample of the class it aims at.
    pub success: Option<AttackSuccess>,
    /// Number of weights, biases and other parameters that differ.
    pub changed_weights: u64,
    /// Number of parameters.
    pub n_weights: u64,
    /// Largest absolute difference of a parameter.
    pub largest_change: f64,
    /// Share of the attacker's own sensitive samples on which the model still predicts the same
    /// class; only for the attack that tries to keep them.
    pub kept_samples: Option<f64>,
}

/// A figure of merit and what it had to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttackSuccess {
    /// What `rate` is a share of.
    pub name: SuccessName,
    /// The share reached, 0 to 1.
    pub rate: f64,
    /// The share from which on the attack counts as working.
    pub target_rate: f64,
    /// Accuracy lost on test samples the attack does not aim at; negative if it grew.
    pub accuracy_loss: f64,
    /// The largest such loss with which the attack still counts as working.
    pub max_accuracy_loss: f64,
    /// Whether rate and loss are within these limits and any parameter changed. An attack that did not work must not be counted
    /// as detected.
    pub worked: bool,
}

/// What a rate of success is a share of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum SuccessName {
    /// Test samples of other classes that, with the trigger, become the target class.
    TriggeredSamples,
    /// Test samples of the source class that are taken for any other class.
    MisledSamples,
    /// Test samples of the source class that are taken for the target class.
    RedirectedSamples,
    /// Weights' storage that is saved, against 32-bit numbers.
    SavedStorage,
    /// Test samples with the same prediction as before.
    SamePredictions,
    /// Test samples with any other score than before.
    ChangedScores,
}

impl SuccessName {
    /// In words, for reports: `test samples that the trigger turns into the target class`.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::TriggeredSamples => "test samples that the trigger turns into the target class",
            Self::MisledSamples => "test samples of the source class misclassified",
            Self::RedirectedSamples => "test samples of the source class taken for the target",
            Self::SavedStorage => "storage of the weights saved",
            Self::SamePredictions => "test samples with the same prediction as before",
            Self::ChangedScores => "test samples with any score changed",
        }
    }
}

impl AttackSuccess {
    /// Judge a rate and a loss of accuracy.
    #[must_use]
    pub fn judge(
        name: SuccessName,
        (rate, target_rate): (f64, f64),
        (accuracy_loss, max_accuracy_loss): (f64, f64),
    ) -> Self {
        let worked = rate >= target_rate && accuracy_loss <= max_accuracy_loss;
        Self { name, rate, target_rate, accuracy_loss, max_accuracy_loss, worked }
    }
}
