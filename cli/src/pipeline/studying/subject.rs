//! One trained network with its bags of samples.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use fingerprint::endpoint::{Answers, Endpoint as _, LocalEndpoint};
use fingerprint::experiment::float_variants;
use fingerprint::fingerprint::model_digest;
use fingerprint::generate::resume;
use fingerprint::{ComparisonRule, GenerateSpec, GeneratorKind, InputGrid, SampleBag};
use nn_poly::import::{Dataset, PreprocessingKind, Split, SplitSpec};
use nn_poly::model::Model;
use nn_poly::network::{ActivationChoice, NetworkKind};
use nn_poly::train::LabeledSamples;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::record::{Files, GeneratorRecord, NetworkRecord};
use super::{GENERATORS, RULES, Scale};
use crate::options::BitsChoice;
use crate::pipeline::attacking::OWN_SAMPLES;
use crate::pipeline::fingerprinting::{BagFile, SampleBar, complete_bag};
use crate::pipeline::keeping;
use crate::pipeline::training::{self, TrainingData, TrainingRun, TrainingSettings};
use crate::report::process::cpu_seconds;
use crate::report::progress::Progress;

/// Labeled samples of one data set.
pub(super) struct Samples {
    name: &'static str,
    /// Seed of the order of all samples: it decides which are learned from, and where samples start.
    order_seed: u64,
    data: TrainingData,
    pub(super) attack_train: LabeledSamples,
    pub(super) attack_test: LabeledSamples,
    /// Sensitive samples an adaptive attacker makes.
    pub(super) n_own: usize,
}

impl Samples {
    /// # Errors
    /// Data that are missing, damaged, or too few for the bag.
    pub(super) fn load(
        folder: &Path,
        name: &'static str,
        scale: &Scale,
        seed: u64,
    ) -> Result<Self> {
        let path = folder.join(name);
        let split = SplitSpec::default();
        let part = |split_part, n: usize| -> Result<Dataset> {
            let data = Dataset::load(&path, split_part, &split)
                .with_context(|| format!("the study needs the data set `{name}`"))?;
            // Files may be sorted by class.
            let mut order: Vec<usize> = (0..data.n_samples()).collect();
            order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
            order.truncate(n);
            Ok(data.select(&order)?)
        };
        let train = part(Split::Train, scale.training_samples)?;
        let test = part(Split::Test, usize::MAX)?.with_classes(train.class_names())?;
        if test.n_samples() < scale.bag {
            bail!(
                "a bag of {} natural samples needs as many test samples, `{name}` has {}",
                scale.bag,
                test.n_samples(),
            );
        }
        // Fitted like the model's own: all data sets are images.
        let preprocessing = nn_poly::import::Preprocessing::UnitRange;
        let (n_train, n_test) = scale.attack_samples;
        Ok(Self {
            name,
            order_seed: seed,
            attack_train: train.take(n_train)?.labeled(&preprocessing)?,
            attack_test: test.take(n_test)?.labeled(&preprocessing)?,
            data: TrainingData { train, test, split },
            n_own: scale.bag.min(OWN_SAMPLES),
        })
    }
}

/// A network under study.
pub(super) struct Subject {
    pub(super) data: &'static str,
    pub(super) seed: u64,
    pub(super) model: Model,
    pub(super) record: NetworkRecord,
    /// Samples and the network's answers to them.
    pub(super) bags: Vec<(GeneratorKind, SampleBag, Answers)>,
    files: Files,
}

impl Subject {
    /// Train a network, or read the one that was trained before.
    ///
    /// # Errors
    /// A training that diverges, kept files that cannot be read or written.
    pub(super) fn train(
        kept: &Path,
        samples: &Samples,
        (kind, activation, seed): (NetworkKind, ActivationChoice, u64),
        scale: &Scale,
        progress: &Progress,
    ) -> Result<Self> {
        let n_samples = samples.data.train.n_samples();
        let epochs = scale.epochs(n_samples);
        let (n_attack, n_test) =
            (samples.attack_train.n_samples(), samples.attack_test.n_samples());
        let stem = format!(
            "{}-{kind}-{activation}-seed{seed}-order{}-train{n_samples}x{epochs}-bag{}-attack{n_attack}-test{n_test}",
            samples.name, samples.order_seed, scale.bag,
        );
        std::fs::create_dir_all(kept)
            .with_context(|| format!("cannot create {}", kept.display()))?;
        let files = Files::new(kept, stem);
        if let Some(record) = keeping::load::<NetworkRecord>(&files.record())? {
            let model = Model::load(&files.model())?;
            return Ok(Self { data: samples.name, seed, model, record, bags: Vec::new(), files });
        }
        let settings = TrainingSettings {
            kind,
            activation,
            bits: BitsChoice::None,
            epochs: Some(epochs),
            run: TrainingRun::seeded(seed),
        };
        let name = format!("{kind} on {}, {activation}, seed {seed}", samples.name);
        let bar = progress.spinner(format!("training {name}"));
        let mut recipe = training::recipe(&settings, n_samples);
        recipe.preprocessing = PreprocessingKind::UnitRange;
        let trained =
            training::train(&samples.data, &settings, &recipe, &mut (), &Progress::silent())?;
        let record = NetworkRecord::new(trained.float.accuracy());
        trained.model.save(&files.model())?;
        keeping::save(&record, &files.record())?;
        bar.finish(format!("trained {name}"));
        let model = trained.model;
        Ok(Self { data: samples.name, seed, model, record, bags: Vec::new(), files })
    }

    /// Architecture and activation.
    pub(super) fn design(&self) -> String {
        let spec = self.model.spec();
        format!("{} {}", spec.kind, spec.activation)
    }

    /// Name for people.
    pub(super) fn name(&self) -> String {
        format!("{} on {}, seed {}", self.design(), self.data, self.seed)
    }

    /// Keep the record.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub(super) fn save(&self) -> Result<()> {
        keeping::save(&self.record, &self.files.record())
    }

    /// Make the bags, or what is left of them.
    ///
    /// # Errors
    /// Samples that keep no margin, kept files that cannot be read or written.
    pub(super) fn generate(
        &mut self,
        samples: &Samples,
        scale: &Scale,
        progress: &Progress,
    ) -> Result<()> {
        for kind in GENERATORS {
            let bag = self.bag(kind, samples, scale, progress)?;
            let answers = self.answers(&bag)?;
            self.bags.push((kind, bag, answers));
        }
        Ok(())
    }

    fn bag(
        &mut self,
        kind: GeneratorKind,
        samples: &Samples,
        scale: &Scale,
        progress: &Progress,
    ) -> Result<SampleBag> {
        let network = self.model.network();
        let starts = samples.attack_test.inputs();
        let config = GenerateSpec::new(kind, scale.bag, self.seed, InputGrid::bytes()).check()?;
        let file = BagFile {
            path: self.files.bag(kind),
            subjects: vec![model_digest(&self.model)?],
            resume: true,
        };
        let bar = SampleBar(progress.bar(format!("generating, {kind}"), scale.bag as u64));
        let mut begun = None;
        let before = cpu_seconds();
        let bag = complete_bag(Some(&file), starts, &config, &bar, |bag, progress| {
            begun.get_or_insert(bag.len());
            Ok(resume(bag, network, starts, &config, progress)?)
        })?;
        let wall = bar.0.elapsed().as_secs_f64();
        // Other work on the machine does not count; where the system does not say, it does.
        let seconds = match (before, cpu_seconds()) {
            (Some(before), Some(now)) => now - before,
            #[expect(clippy::cast_precision_loss, reason = "a few threads")]
            (None, _) | (_, None) => wall * rayon::current_num_threads() as f64,
        };
        let name = kind.to_string();
        if !self.record.generators.contains_key(&name) {
            // Of those made in this run.
            let n_made = bag.len() - begun.unwrap_or(bag.len());
            #[expect(clippy::cast_precision_loss, reason = "a few hundred samples")]
            let core_seconds_per_sample = (n_made > 0).then(|| seconds / n_made as f64);
            let record = GeneratorRecord { core_seconds_per_sample, ..GeneratorRecord::default() };
            self.record.generators.insert(name.clone(), record);
        }
        let known = self.record.generators.get(&name).map(|record| &record.false_alarms);
        if known.is_none_or(|known| RULES.iter().any(|rule| !known.contains_key(*rule))) {
            let false_alarms = self.false_alarms(&bag)?;
            self.record.generators.entry(name).or_default().false_alarms = false_alarms;
            self.save()?;
        }
        bar.0.finish(format!("{} samples by {kind}", bag.len()));
        Ok(bag)
    }

    /// Answers of other honest float stacks compared, and how many differ, by rule.
    fn false_alarms(&self, bag: &SampleBag) -> Result<BTreeMap<String, (u64, u64)>> {
        let reference = self.answers(bag)?;
        let mut false_alarms: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for (_, other) in float_variants(self.model.network(), &bag.inputs)? {
            for name in RULES {
                let rule: ComparisonRule = name.parse()?;
                let flips = rule.differs(&reference, &other)?;
                let entry = false_alarms.entry(name.to_owned()).or_default();
                entry.0 += flips.len() as u64;
                entry.1 += flips.iter().filter(|&&flip| flip).count() as u64;
            }
        }
        Ok(false_alarms)
    }

    fn answers(&self, bag: &SampleBag) -> Result<Answers> {
        Ok(LocalEndpoint::new(self.model.network(), None)?.query(&bag.inputs)?)
    }
}
