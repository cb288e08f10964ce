//! The papers' experiments: train, fingerprint, attack, count what is missed.
//!
//! ```text
//!  data ─► network ─┬─► bags, one per generator ─► draws, one per selection rule
//!                   └─► attacks × instances ─► detected samples per rule ─► MissingRates
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use fingerprint::attack::{AttackData, AttackKind, AttackOptions, attack};
use fingerprint::endpoint::{Answers, Endpoint as _, LocalEndpoint};
use fingerprint::experiment::{DrawSpec, Draws, Instances, MissingRates, float_variants};
use fingerprint::generate::{NoProgress, generate};
use fingerprint::select::{SelectionFeatures, select};
use fingerprint::{
    ComparisonRule, GenerateSpec, GeneratorKind, InputGrid, SampleBag, SelectionRule,
};
use nn_poly::Network;
use nn_poly::import::{Dataset, Split, SplitSpec};
use nn_poly::network::{ActivationChoice, NetworkKind};
use nn_poly::train::LabeledSamples;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::attacking::{self, OWN_SAMPLES};
use super::fingerprinting::SampleBar;
use super::training::{self, TrainingData, TrainingSettings};
use crate::options::BitsChoice;
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

/// How large a study is.
#[derive(Debug, Clone)]
pub(crate) struct Scale {
    /// Networks trained per data set and activation.
    pub(crate) networks: u64,
    /// Instances of each attack per network.
    pub(crate) instances: u64,
    /// Samples per bag.
    pub(crate) bag: usize,
    /// Choices drawn.
    pub(crate) draws: DrawSpec,
    /// Activations.
    pub(crate) activations: Vec<ActivationChoice>,
    /// Training samples at most, and epochs if not the recipe's.
    pub(crate) training: (usize, Option<u32>),
    /// Samples the attacker has, and samples attacks are measured on.
    pub(crate) attack_samples: (usize, usize),
    /// The small network, where a study may choose.
    pub(crate) small: bool,
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
                training: (4000, Some(4)),
                attack_samples: (1500, 600),
                small: true,
            }
        } else {
            Self {
                networks: 3,
                instances: 5,
                bag: 500,
                draws: DrawSpec { seed, ..DrawSpec::default() },
                activations: vec![Relu, Square],
                training: (usize::MAX, None),
                attack_samples: (8000, 4000),
                small: false,
            }
        }
    }

    /// The same with other sizes, where they are given.
    pub(crate) fn resized(
        mut self,
        samples: Option<u32>,
        bag: Option<u32>,
        draws: Option<u32>,
    ) -> Self {
        if let Some(samples) = samples.map(|n| n as usize) {
            self.training.0 = samples;
            self.attack_samples.0 = samples;
        }
        if let Some(bag) = bag {
            self.bag = bag as usize;
            // Natural samples are not used twice.
            self.attack_samples.1 = self.attack_samples.1.max(self.bag);
        }
        if let Some(draws) = draws {
            self.draws.draws = draws;
        }
        self
    }
}

/// Attacks on networks of one data set.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    /// Name of the data set.
    pub(crate) data: &'static str,
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
    /// Share of the bag that detects, per attacked network.
    pub(crate) detecting: Vec<f64>,
    /// The same as counts: samples that detect, and all.
    pub(crate) counts: Vec<(u64, u64)>,
    /// Accuracy left after the attack, per attacked network.
    pub(crate) accuracy: Vec<f64>,
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
    /// Per generator: labels compared on other honest float stacks, and how many flipped.
    pub(crate) false_alarms: BTreeMap<String, (u64, u64)>,
    /// Per generator: seconds per sample.
    pub(crate) seconds: BTreeMap<String, Vec<f64>>,
}

/// A bag and its choices.
struct Prepared {
    bag: SampleBag,
    reference: Answers,
    draws: Vec<(SelectionRule, Draws)>,
}

/// Labeled samples of one data set.
struct Samples {
    data: TrainingData,
    attack_train: LabeledSamples,
    attack_test: LabeledSamples,
    /// Sensitive samples an adaptive attacker makes.
    n_own: usize,
}

/// Run every scenario.
///
/// # Errors
/// Data that are missing, trainings or attacks that diverge, settings that do not fit.
pub(crate) fn run(
    folder: &Path,
    scenarios: &[Scenario],
    rules: &[ComparisonRule],
    scale: &Scale,
    seed: u64,
    progress: &Progress,
) -> Result<Study> {
    let mut study = Study::default();
    for scenario in scenarios {
        let samples = load(folder, scenario.data, scale, seed)?;
        for &activation in &scale.activations {
            for number in 0..scale.networks {
                let seed = seed.wrapping_add(number);
                let network =
                    train(&mut study, &samples, scenario, activation, scale, seed, progress)?;
                let bags = prepare(&mut study, &network, &samples, scale, seed, progress)?;
                for &(kind, strength) in &scenario.attacks {
                    for instance in 0..scale.instances {
                        let seed = seed.wrapping_mul(1000).wrapping_add(instance);
                        let target = Target { kind, strength, seed, data: scenario.data };
                        measure(&mut study, &network, &samples, &bags, rules, &target, progress)?;
                    }
                }
            }
        }
    }
    Ok(study)
}

fn load(folder: &Path, name: &'static str, scale: &Scale, seed: u64) -> Result<Samples> {
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
    let train = part(Split::Train, scale.training.0)?;
    let test = part(Split::Test, usize::MAX)?.with_classes(train.class_names())?;
    if test.n_samples() < scale.bag {
        bail!(
            "a bag of {} natural samples needs as many test samples, `{name}` has {}",
            scale.bag,
            test.n_samples(),
        );
    }
    // Fitted like the model's own: all three data sets are images.
    let preprocessing = nn_poly::import::Preprocessing::UnitRange;
    let (n_train, n_test) = scale.attack_samples;
    Ok(Samples {
        attack_train: train.take(n_train)?.labeled(&preprocessing)?,
        attack_test: test.take(n_test)?.labeled(&preprocessing)?,
        data: TrainingData { train, test, split },
        n_own: scale.bag.min(OWN_SAMPLES),
    })
}

fn train(
    study: &mut Study,
    samples: &Samples,
    scenario: &Scenario,
    activation: ActivationChoice,
    scale: &Scale,
    seed: u64,
    progress: &Progress,
) -> Result<Network<f32>> {
    let kind = if scale.small && scenario.data == "mnist" {
        NetworkKind::Cryptonets
    } else {
        NetworkKind::Securedl
    };
    let settings = TrainingSettings {
        kind,
        activation,
        bits: BitsChoice::None,
        epochs: scale.training.1,
        seed,
        checkpoint: None,
        resume: false,
    };
    let name = format!("{kind} on {}, {activation}, seed {seed}", scenario.data);
    let bar = progress.spinner(format!("training {name}"));
    let recipe = training::recipe(&settings, samples.data.train.n_samples());
    let trained = training::train(&samples.data, &settings, &recipe, &mut (), &Progress::silent())?;
    bar.finish(format!("trained {name}"));
    study.networks.push((name, trained.float.accuracy()));
    Ok(trained.model.network().clone())
}

fn prepare(
    study: &mut Study,
    network: &Network<f32>,
    samples: &Samples,
    scale: &Scale,
    seed: u64,
    progress: &Progress,
) -> Result<Vec<(GeneratorKind, Prepared)>> {
    let starts = samples.attack_test.inputs();
    let mut bags = Vec::new();
    for kind in GENERATORS {
        let spec = GenerateSpec::new(kind, scale.bag, seed, InputGrid::bytes());
        let bar = SampleBar(progress.bar(format!("generating, {kind}"), scale.bag as u64));
        let bag = generate(network, starts, &spec.check()?, &bar)?;
        #[expect(clippy::cast_precision_loss, reason = "a few hundred samples")]
        let seconds = bar.0.elapsed().as_secs_f64() / bag.len().max(1) as f64;
        bar.0.finish(format!("generated {} samples by {kind}", bag.len()));
        study.seconds.entry(kind.to_string()).or_default().push(seconds);
        let reference = answers(network, &bag)?;
        for (_, other) in float_variants(network, &bag.inputs)? {
            let flips = ComparisonRule::Top1.differs(&reference, &other)?;
            let entry = study.false_alarms.entry(kind.to_string()).or_default();
            entry.0 += flips.len() as u64;
            entry.1 += flips.iter().filter(|&&flip| flip).count() as u64;
        }
        let features = SelectionFeatures::new(network, &bag)?;
        let draws = SELECTIONS
            .into_iter()
            .map(|rule| {
                let most = scale.draws.most;
                let draws = if rule == SelectionRule::Random {
                    Draws::random(bag.len(), &scale.draws)
                } else {
                    Draws::chosen_by(bag.len(), &scale.draws, |pool, rng| {
                        Ok(select(rule, &features, most, Some(pool), rng))
                    })
                };
                Ok((rule, draws?))
            })
            .collect::<Result<Vec<_>>>()?;
        bags.push((kind, Prepared { bag, reference, draws }));
    }
    Ok(bags)
}

/// One attack to measure.
struct Target {
    kind: AttackKind,
    strength: Option<f64>,
    seed: u64,
    data: &'static str,
}

fn measure(
    study: &mut Study,
    network: &Network<f32>,
    samples: &Samples,
    bags: &[(GeneratorKind, Prepared)],
    rules: &[ComparisonRule],
    target: &Target,
    progress: &Progress,
) -> Result<()> {
    let strength = target.kind.dial().check(target.strength)?.to_string();
    let bar = progress.spinner(format!("attacking, {} {strength}", target.kind));
    let options = options(network, samples, target)?;
    let attack = attack(target.kind, target.strength, &options)?;
    let data = AttackData::new(&samples.attack_train, &samples.attack_test)?;
    let mut rng = ChaCha8Rng::seed_from_u64(target.seed);
    let attacked = attack.apply(network, &data, &mut rng, &mut ())?;
    bar.finish(format!("attacked by {} {strength}", target.kind));
    let report = &attacked.report;
    if let Some(success) = report.success.as_ref().filter(|success| !success.worked) {
        study.failed.push(format!(
            "{} {strength} on {} (seed {}): reached {:.3} of {:.3}, lost {:.3} of accuracy",
            target.kind,
            target.data,
            target.seed,
            success.rate,
            success.target_rate,
            success.accuracy_loss,
        ));
        return Ok(());
    }
    for (generator, prepared) in bags {
        let answers = answers(&attacked.network, &prepared.bag)?;
        for &rule in rules {
            let detected = rule.differs(&prepared.reference, &answers)?;
            let n = detected.iter().filter(|&&detects| detects).count();
            for (selection, draws) in &prepared.draws {
                let cell = Cell {
                    data: target.data,
                    attack: target.kind.to_string(),
                    strength: strength.clone(),
                    generator: generator.to_string(),
                    selection: selection.to_string(),
                    rule: rule.to_string(),
                };
                let missing: MissingRates = draws.missing(&detected)?;
                let measured = study.cells.entry(cell).or_default();
                measured.instances.push(missing);
                measured.counts.push((n as u64, detected.len() as u64));
                measured.detecting.push(crate::report::units::share(n, detected.len()));
                measured.accuracy.push(report.clean_accuracy_after);
            }
        }
    }
    Ok(())
}

/// The papers' settings; the adaptive attacker uses the owner's generator on samples of their own.
fn options(network: &Network<f32>, samples: &Samples, target: &Target) -> Result<AttackOptions> {
    let mut options = AttackOptions::default();
    if target.kind == AttackKind::Adaptive {
        let recipe =
            (GeneratorKind::default(), samples.n_own, attacking::attackers_seed(target.seed));
        let (starts, grid) = (&samples.attack_train, InputGrid::bytes());
        let inputs = attacking::sensitive_of(network, starts, &grid, recipe, &NoProgress)?;
        options.sensitive_inputs = Some(inputs);
    }
    Ok(options)
}

fn answers(network: &Network<f32>, bag: &SampleBag) -> Result<Answers> {
    Ok(LocalEndpoint::new(network, None)?.query(&bag.inputs)?)
}
