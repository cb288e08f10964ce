//! What a study found about one network, in a file that people can read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use fingerprint::{ComparisonRule, GeneratorKind};
use serde::{Deserialize, Serialize};

use crate::pipeline::keeping::{ADVICE, Kept};

/// Format of the file.
const FORMAT: u32 = 1;

/// Everything found so far.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NetworkRecord {
    format: u32,
    /// Version of this program: another one may train or generate otherwise.
    version: String,
    /// Test accuracy of the network.
    pub(crate) accuracy: f64,
    /// By name of the generator.
    pub(crate) generators: BTreeMap<String, GeneratorRecord>,
    /// In the order of the work.
    pub(crate) attacks: Vec<AttackRecord>,
}

/// What making a bag took, and how its labels fare on other honest stacks.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GeneratorRecord {
    /// Processor time over samples; not known of a bag whose making was interrupted at its very end.
    pub(crate) core_seconds_per_sample: Option<f64>,
    /// By rule: answers of other honest stacks that were compared, and how many differed.
    pub(crate) false_alarms: BTreeMap<String, (u64, u64)>,
}

/// One instance of an attack.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AttackRecord {
    pub(crate) attack: String,
    pub(crate) strength: String,
    pub(crate) seed: u64,
    pub(crate) accuracy_after: f64,
    /// Why the instance does not count, if so.
    pub(crate) failure: Option<String>,
    /// Share of the attacker's own sensitive samples that still get their class, where they tried.
    #[serde(default)]
    pub(crate) kept_samples: Option<f64>,
    /// By generator and rule: a digit per sample of the bag, `1` if it detects.
    pub(crate) detected: BTreeMap<String, BTreeMap<String, String>>,
}

impl NetworkRecord {
    /// Nothing but a trained network.
    pub(crate) fn new(accuracy: f64) -> Self {
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            accuracy,
            generators: BTreeMap::new(),
            attacks: Vec::new(),
        }
    }

    /// The instance of an attack, if it is known.
    pub(crate) fn find(&self, attack: &str, strength: &str, seed: u64) -> Option<&AttackRecord> {
        self.attacks.iter().find(|known| {
            known.attack == attack && known.strength == strength && known.seed == seed
        })
    }
}

impl Kept for NetworkRecord {
    const FORMAT: u32 = FORMAT;
    const WHAT: &'static str = "record of a study";

    fn origin(&self) -> (u32, &str) {
        (self.format, &self.version)
    }
}

impl AttackRecord {
    /// Name for people.
    pub(crate) fn name(&self) -> String {
        format!("{} {} (seed {})", self.attack, self.strength, self.seed)
    }

    /// Keep which samples of a bag detect.
    pub(crate) fn set_detected(
        &mut self,
        generator: GeneratorKind,
        rule: ComparisonRule,
        detected: &[bool],
    ) {
        let digits = detected.iter().map(|&detects| if detects { '1' } else { '0' }).collect();
        self.detected.entry(generator.to_string()).or_default().insert(rule.to_string(), digits);
    }

    /// Which samples of a bag detect.
    ///
    /// # Errors
    /// A record that does not say.
    pub(crate) fn detected(
        &self,
        generator: GeneratorKind,
        rule: ComparisonRule,
    ) -> Result<Vec<bool>> {
        let digits = self
            .detected
            .get(&generator.to_string())
            .and_then(|rules| rules.get(&rule.to_string()));
        let Some(digits) = digits else {
            bail!(
                "the record of {} lacks samples by {generator} under {rule}: {ADVICE}",
                self.name()
            )
        };
        Ok(digits.chars().map(|digit| digit == '1').collect())
    }
}

/// The files of one network.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    folder: PathBuf,
    stem: String,
}

impl Files {
    /// `stem` says everything that decides about the results.
    pub(crate) fn new(folder: &Path, stem: String) -> Self {
        Self { folder: folder.to_owned(), stem }
    }

    /// The trained network.
    pub(crate) fn model(&self) -> PathBuf {
        self.folder.join(format!("{}.model", self.stem))
    }

    /// Samples by one generator, maybe unfinished.
    pub(crate) fn bag(&self, generator: GeneratorKind) -> PathBuf {
        self.folder.join(format!("{}.{generator}.bag", self.stem))
    }

    /// The rest.
    pub(crate) fn record(&self) -> PathBuf {
        self.folder.join(format!("{}.json", self.stem))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::pipeline::keeping;

    fn attack() -> AttackRecord {
        AttackRecord {
            attack: "trojan".to_owned(),
            strength: "0.17".to_owned(),
            seed: 3,
            accuracy_after: 0.5,
            failure: None,
            kept_samples: None,
            detected: BTreeMap::new(),
        }
    }

    #[test]
    fn a_record_survives_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("network.json");
        assert!(keeping::load::<NetworkRecord>(&path).unwrap().is_none());
        let mut record = NetworkRecord::new(0.75);
        let mut attack = attack();
        let detected = [true, false, true];
        attack.set_detected(GeneratorKind::Tie, ComparisonRule::Top1, &detected);
        record.attacks.push(attack);
        keeping::save(&record, &path).unwrap();
        let read = keeping::load::<NetworkRecord>(&path).unwrap().unwrap();
        assert_eq!(read.accuracy.to_bits(), 0.75_f64.to_bits());
        let found = read.find("trojan", "0.17", 3).unwrap();
        assert_eq!(found.detected(GeneratorKind::Tie, ComparisonRule::Top1).unwrap(), detected);
        assert!(found.detected(GeneratorKind::Ssf, ComparisonRule::Top1).is_err());
        assert!(read.find("trojan", "0.17", 4).is_none() && read.find("trojan", "1", 3).is_none());
    }

    #[test]
    fn files_of_others_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("network.json");
        let good = serde_json::to_string(&NetworkRecord::new(0.5)).unwrap();
        for (bad, expected) in [
            ("{".to_owned(), "no record of a study"),
            (good.replace("\"format\":1", "\"format\":2"), "format 2"),
            (good.replace(env!("CARGO_PKG_VERSION"), "0.0.0-none"), "0.0.0-none"),
            (good.replace("accuracy", "acuracy"), "no record of a study"),
        ] {
            std::fs::write(&path, bad).unwrap();
            let error = keeping::load::<NetworkRecord>(&path).unwrap_err();
            assert!(format!("{error:#}").contains(expected), "`{expected}` in {error:#}");
        }
    }
}
