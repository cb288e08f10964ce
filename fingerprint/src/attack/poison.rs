//! Poisoned training data: one class is forgotten or taken for another.
//!
//! # Source
//! He, Zhang and Lee 2019, section 5.1: error-generic ("stop" misclassified) and error-specific ("stop"
//! as a speed limit) poisoning; Xu et al. 2020, section 5.2.2, takes the limit of 50 km/h.

use nn_poly::network::Network;
use nn_poly::train::LabeledSamples;
use rand::Rng;
use rand::seq::index;

use super::retrain::{Duration, Retraining};
use super::{
    Aftermath, AttackData, AttackKind, AttackOptions, AttackSuccess, MAX_ACCURACY_LOSS, Method,
    SuccessName, Tools, check_class,
};
use crate::error::{Error, Result};

/// Share of the source class from which on poisoning counts as working.
const TARGET_RATE: f64 = 0.8;
/// The German traffic signs: number of classes, stop, and the limit of 50 km/h.
const TRAFFIC_SIGNS: (usize, u32, u32) = (43, 14, 2);
/// The class that is damaged in other data, if there is one of this number.
const SOURCE_CLASS: u32 = 7;

#[derive(Clone, Debug)]
pub(super) struct Poison {
    is_specific: bool,
    share: f64,
    source_class: Option<u32>,
    target_class: Option<u32>,
    retraining: Retraining,
}

impl Poison {
    pub(super) fn new(
        kind: AttackKind,
        share: f64,
        duration: Duration,
        options: &AttackOptions,
    ) -> Self {
        Self {
            is_specific: kind == AttackKind::ErrorSpecific,
            share,
            source_class: options.source_class,
            target_class: options.target_class,
            retraining: Retraining::new(duration, options),
        }
    }

    /// Source and target among `n_classes`; the target counts for error-specific poisoning only.
    fn classes(&self, n_classes: usize) -> Result<(u32, u32)> {
        let (n_signs, stop, limit) = TRAFFIC_SIGNS;
        let last = u32::try_from(n_classes.saturating_sub(1)).unwrap_or(u32::MAX);
        let default_source = if n_classes == n_signs { stop } else { SOURCE_CLASS.min(last) };
        let source = self.source_class.unwrap_or(default_source);
        let source = check_class("source class", source, n_classes)?;
        let default_target = match (n_classes == n_signs, source) {
            (true, source) if source != limit => limit,
            (_, 1) => 0,
            _ => 1,
        };
        let target = self.target_class.unwrap_or(default_target);
        let target = check_class("target class", target, n_classes)?;
        if source == target && self.is_specific {
            let (setting, requirement) = ("target class", "another class than the source");
            return Err(Error::InvalidSetting { setting, value: f64::from(target), requirement });
        }
        Ok((source, target))
    }

    fn poisoned(&self, samples: &LabeledSamples, tools: &mut Tools<'_>) -> Result<LabeledSamples> {
        let n_classes = samples.n_classes();
        let (source, target) = self.classes(n_classes)?;
        let of_source: Vec<usize> = samples
            .labels()
            .iter()
            .enumerate()
            .filter(|&(_, &label)| label == source)
            .map(|(position, _)| position)
            .collect();
        if of_source.is_empty() {
            let what = "training samples of the source class";
            let kind =
                if self.is_specific { AttackKind::ErrorSpecific } else { AttackKind::ErrorGeneric };
            return Err(Error::AttackNeeds { attack: kind.name().to_owned(), what });
        }
        let mut labels = samples.labels().to_vec();
        let n_poisoned = super::weights::count_of(self.share, of_source.len());
        // Sorted, so that the labels drawn belong to the same samples however `sample` works inside.
        let mut chosen = index::sample(&mut *tools.rng, of_source.len(), n_poisoned).into_vec();
        chosen.sort_unstable();
        for position in chosen.into_iter().filter_map(|chosen| of_source.get(chosen)) {
            let wrong =
                if self.is_specific { target } else { other_class(source, n_classes, tools) };
            if let Some(label) = labels.get_mut(*position) {
                *label = wrong;
            }
        }
        let (shape, inputs) = (samples.shape().clone(), samples.inputs().clone());
        Ok(LabeledSamples::new(shape, inputs, labels, n_classes)?)
    }
}

/// Any class but `source`, all equally likely.
fn other_class(source: u32, n_classes: usize, tools: &mut Tools<'_>) -> u32 {
    let last = u32::try_from(n_classes.saturating_sub(1)).unwrap_or(u32::MAX).max(1);
    let drawn = tools.rng.random_range(0..last);
    if drawn >= source { drawn + 1 } else { drawn }
}

impl Method for Poison {
    fn tamper(
        &self,
        deployed: &Network<f32>,
        data: &AttackData<'_>,
        tools: &mut Tools<'_>,
    ) -> Result<Network<f32>> {
        let poisoned = self.poisoned(data.train(), tools)?;
        self.retraining.run(deployed.clone(), &poisoned, None, tools)
    }

    fn success(&self, aftermath: &Aftermath<'_>) -> Result<Option<AttackSuccess>> {
        let (source, target) = self.classes(aftermath.data.test().n_classes())?;
        let (name, rate) = if self.is_specific {
            let rate = aftermath.share_of_class(source, |class| class == target as usize);
            (SuccessName::RedirectedSamples, rate)
        } else {
            let rate = aftermath.share_of_class(source, |class| class != source as usize);
            (SuccessName::MisledSamples, rate)
        };
        let loss = aftermath.loss(|label| label != source);
        Ok(rate
            .map(|rate| AttackSuccess::judge(name, (rate, TARGET_RATE), (loss, MAX_ACCURACY_LOSS))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes(n_classes: usize, options: &AttackOptions) -> Result<(u32, u32)> {
        Poison::new(AttackKind::ErrorSpecific, 1.0, Duration::Epochs(1), options).classes(n_classes)
    }

    #[test]
    fn defaults_follow_the_papers_and_any_number_of_classes_has_some() {
        let default = AttackOptions::default();
        for (n_classes, expected) in [(43, (14, 2)), (10, (7, 1)), (2, (1, 0)), (3, (2, 1))] {
            assert_eq!(classes(n_classes, &default), Ok(expected));
        }
        let chosen = |source, target| AttackOptions {
            source_class: source,
            target_class: target,
            ..AttackOptions::default()
        };
        assert_eq!(classes(43, &chosen(Some(2), None)), Ok((2, 1)));
        assert_eq!(classes(10, &chosen(Some(1), None)), Ok((1, 0)));
        assert_eq!(classes(10, &chosen(None, Some(3))), Ok((7, 3)));
        assert!(classes(10, &chosen(Some(10), None)).is_err());
        assert!(classes(10, &chosen(None, Some(7))).is_err());
    }
}
