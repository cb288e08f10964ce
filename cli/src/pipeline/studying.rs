//! The papers' experiments: train, fingerprint, attack, count what is missed.
//!
//! ```text
//!  data ─► network ─┬─► bags, one per generator ─► draws, one per selection rule
//!                   └─► attacks × instances ─► detected samples per rule ─► MissingRates
//! ```
//!
//! Hours of work at full size: everything found is kept in a folder (`record.rs`), so that a study that
//! was interrupted, or another study of the same networks, goes on from there.

mod measure;
mod record;
mod subject;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use fingerprint::attack::AttackKind;
use fingerprint::experiment::{DrawSpec, Instances, MissingRates};
use fingerprint::{ComparisonRule, GeneratorKind, SelectionRule};
use nn_poly::network::{ActivationChoice, NetworkKind};

use self::measure::{Choices, Target, attack_record};
use self::subject::{Samples, Subject};
use crate::report::progress::Progress;

/// Generators compared, the baseline first and ours last.
pub(crate) const GENERATORS: [GeneratorKind; 4] = [
    GeneratorKind::NonSensitive,
    GeneratorKind::Ssf,
    GeneratorKind::BoundaryEntropy,
    GeneratorKind::Tie,
];

/// Ways to choose from a bag that are compared.
pub(crate) const SELECTIONS: [SelectionRule; 3] =
    [SelectionRule::Random, SelectionRule::Manc, SelectionRule::ClassCover];

/// Ways to compare answers.
pub(crate) const RULES: [&str; 6] =
    ["top-1", "top-3", "top-5", "decimals-1", "decimals-2", "tolerance-1e-4"];

/// How large a study is.
#[derive(Debug, Clone)]
pub(crate) struct Scale {
    /// Networks trained per data set, kind and activation.
    pub(crate) networks: u64,
    /// Instances of each attack per network.
    pub(crate) instances: u64,
    /// Samples per bag.
    pub(crate) bag: usize,
    /// Choices drawn.
    pub(crate) draws: DrawSpec,
    /// Activations.
    pub(crate) activations: Vec<ActivationChoice>,
    /// Training samples at most.
    pub(crate) training_samples: usize,
    /// Visits of training samples in training, which decide about the epochs, and most epochs.
    pub(crate) visits: (usize, u32),
    /// Samples the attacker has, and samples attacks are measured on.
    pub(crate) attack_samples: (usize, usize),
}

/// Sizes that are asked for instead of the usual ones.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sizes {
    pub(crate) samples: Option<u32>,
    pub(crate) bag: Option<u32>,
    pub(crate) draws: Option<u32>,
    pub(crate) networks: Option<u32>,
    pub(crate) instances: Option<u32>,
}

impl Scale {
    /// The papers' sizes, or sizes for minutes.
    pub(crate) fn new(is_quick: bool, seed: u64) -> Self {
        use ActivationChoice::{Relu, Square};
        if is_quick {
            let draws = DrawSpec { draws: 2000, pool: 30, most: 10, seed };
            Self {
                networks: 1,
                instances: 1,
                bag: 60,
                draws,
                activations: vec![Relu],
                training_samples: 4000,
                visits: (16_000, 4),
                attack_samples: (1500, 600),
            }
        } else {
            Self {
                networks: 3,
                instances: 5,
                bag: 500,
                draws: DrawSpec { seed, ..DrawSpec::default() },
                activations: vec![Relu, Square],
                training_samples: usize::MAX,
                visits: (240_000, 30),
                attack_samples: (4000, 3000),
            }
        }
    }

    /// The same with other sizes, where they are given.
    pub(crate) fn resized(mut self, sizes: &Sizes) -> Self {
        if let Some(samples) = sizes.samples.map(|n| n as usize) {
            self.training_samples = samples;
            self.attack_samples.0 = samples;
        }
        if let Some(bag) = sizes.bag {
            self.bag = bag as usize;
            // Natural samples are not used twice.
            self.attack_samples.1 = self.attack_samples.1.max(self.bag);
        }
        if let Some(draws) = sizes.draws {
            self.draws.draws = draws;
        }
        self.networks = sizes.networks.map_or(self.networks, u64::from);
        self.instances = sizes.instances.map_or(self.instances, u64::from);
        self
    }

    /// Epochs that visit about as many samples as wanted, at least 4.
    fn epochs(&self, n_samples: usize) -> u32 {
        let (visits, most) = self.visits;
        u32::try_from(visits / n_samples.max(1)).unwrap_or(u32::MAX).clamp(4, most)
    }
}

/// Attacks on networks of one data set.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    /// Name of the data set.
    pub(crate) data: &'static str,
    /// Architecture.
    pub(crate) kind: NetworkKind,
    /// Attacks with their strength, `None` for the paper's.
    pub(crate) attacks: Vec<(AttackKind, Option<f64>)>,
}

/// What one figure is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cell {
    /// Data set.
    pub(crate) data: &'static str,
    /// Attack.
    pub(crate) attack: String,
    /// Its strength, as text.
    pub(crate) strength: String,
    /// Architecture and activation, such as `securedl relu`.
    pub(crate) network: String,
    /// Generator.
    pub(crate) generator: String,
    /// Selection.
    pub(crate) selection: String,
    /// Comparison rule.
    pub(crate) rule: String,
}

/// Everything measured about one cell.
#[derive(Debug, Clone, Default)]
pub(crate) struct Measured {
    /// Missing rates, one entry per attacked network.
    pub(crate) instances: Instances,
    /// Samples of the bag that detect, and all, per attacked network.
    pub(crate) counts: Vec<(u64, u64)>,
    /// Accuracy left after the attack, per attacked network.
    pub(crate) accuracy: Vec<f64>,
    /// Share of their own sensitive samples that attackers kept, where they tried.
    pub(crate) kept: Vec<f64>,
}

impl Measured {
    /// The same attack on more networks.
    pub(crate) fn extend(&mut self, other: &Self) {
        for (network, rates) in other.instances.as_slice() {
            self.instances.push(*network, rates.clone());
        }
        self.counts.extend_from_slice(&other.counts);
        self.accuracy.extend_from_slice(&other.accuracy);
        self.kept.extend_from_slice(&other.kept);
    }
}

/// The results of a study.
#[derive(Debug, Default)]
pub(crate) struct Study {
    /// Figures by cell.
    pub(crate) cells: BTreeMap<Cell, Measured>,
    /// Attacks that did not work and so do not count, as sentences.
    pub(crate) failed: Vec<String>,
    /// Networks: name and accuracy.
    pub(crate) networks: Vec<(String, f64)>,
    /// Per generator and rule: answers of other honest float stacks compared, and how many differed.
    pub(crate) false_alarms: BTreeMap<(String, String), (u64, u64)>,
    /// Per generator: seconds of one processor core per sample.
    pub(crate) seconds: BTreeMap<String, Vec<f64>>,
}

impl Study {
    /// Everything about one attack (of any strength, if none is given), generator, selection and rule,
    /// on networks of all kinds. `None` if nothing was measured.
    pub(crate) fn merged(
        &self,
        (data, attack, strength): (Option<&str>, &str, Option<&str>),
        generator: &str,
        selection: &str,
        rule: &str,
    ) -> Option<Measured> {
        let mut merged = Measured::default();
        for (cell, measured) in &self.cells {
            let is_meant = data.is_none_or(|data| cell.data == data)
                && cell.attack == attack
                && strength.is_none_or(|strength| cell.strength == strength)
                && cell.generator == generator
                && cell.selection == selection
                && cell.rule == rule;
            if is_meant {
                merged.extend(measured);
            }
        }
        (!merged.instances.is_empty()).then_some(merged)
    }

    /// Attacks with their strength and data set, once each.
    pub(crate) fn attacks(&self) -> Vec<(&'static str, &str, &str)> {
        let mut keys: Vec<(&'static str, &str, &str)> = self
            .cells
            .keys()
            .map(|cell| (cell.data, cell.attack.as_str(), cell.strength.as_str()))
            .collect();
        keys.dedup();
        keys
    }
}

/// Where data are, and where a study keeps what it found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Folders<'a> {
    pub(crate) data: &'a Path,
    pub(crate) kept: &'a Path,
}

/// Run every scenario, or what is left of it.
///
/// # Errors
/// Data that are missing, trainings or attacks that diverge, settings that do not fit, kept results
/// that cannot be read or written.
pub(crate) fn run(
    folders: Folders<'_>,
    scenarios: &[Scenario],
    rules: &[ComparisonRule],
    scale: &Scale,
    seed: u64,
    progress: &Progress,
) -> Result<Study> {
    let mut study = Study::default();
    for scenario in scenarios {
        let samples = Samples::load(folders.data, scenario.data, scale, seed)?;
        for &activation in &scale.activations {
            for number in 0..scale.networks {
                let seed = seed.wrapping_add(number);
                let design = (scenario.kind, activation, seed);
                let mut subject = Subject::train(folders.kept, &samples, design, scale, progress)?;
                subject.generate(&samples, scale, progress)?;
                add_network(&mut study, &subject);
                let choices = Choices::draw(&subject, &scale.draws)?;
                for &(kind, strength) in &scenario.attacks {
                    for instance in 0..scale.instances {
                        let seed = seed.wrapping_mul(1000).wrapping_add(instance);
                        let target = Target { kind, strength, seed };
                        let record = attack_record(&mut subject, &samples, &target, progress)?;
                        add_attack(&mut study, &subject, (&choices, rules), &record)?;
                    }
                }
            }
        }
    }
    Ok(study)
}

fn add_network(study: &mut Study, subject: &Subject) {
    study.networks.push((subject.name(), subject.record.accuracy));
    for (generator, record) in &subject.record.generators {
        for (rule, (compared, flipped)) in &record.false_alarms {
            let key = (generator.clone(), rule.clone());
            let entry = study.false_alarms.entry(key).or_default();
            entry.0 += compared;
            entry.1 += flipped;
        }
        study.seconds.entry(generator.clone()).or_default().extend(record.core_seconds_per_sample);
    }
}

fn add_attack(
    study: &mut Study,
    subject: &Subject,
    (choices, rules): (&Choices, &[ComparisonRule]),
    attack: &record::AttackRecord,
) -> Result<()> {
    if let Some(failure) = &attack.failure {
        study.failed.push(format!("{} on {}: {failure}", attack.name(), subject.name()));
        return Ok(());
    }
    for (generator, draws) in &choices.0 {
        for rule in rules {
            let detected = attack.detected(*generator, *rule)?;
            let n = detected.iter().filter(|&&detects| detects).count();
            for (selection, draws) in draws {
                let cell = Cell {
                    data: subject.data,
                    attack: attack.attack.clone(),
                    strength: attack.strength.clone(),
                    network: subject.design(),
                    generator: generator.to_string(),
                    selection: selection.to_string(),
                    rule: rule.to_string(),
                };
                let missing: MissingRates = draws.missing(&detected)?;
                let measured = study.cells.entry(cell).or_default();
                // Networks are numbered in the order of the study.
                measured.instances.push(study.networks.len() as u64, missing);
                measured.counts.push((n as u64, detected.len() as u64));
                measured.accuracy.push(attack.accuracy_after);
                measured.kept.extend(attack.kept_samples);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_follow_from_visits() {
        let scale = Scale::new(false, 0);
        assert_eq!([60_000, 20_000, 10_000, 100].map(|n| scale.epochs(n)), [4, 12, 24, 30]);
        assert_eq!([4000, 60].map(|n| Scale::new(true, 0).epochs(n)), [4, 4]);
    }
}
