//! Attacks on a subject, and which samples notice them.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use fingerprint::attack::{AttackData, AttackKind, AttackOptions, attack};
use fingerprint::endpoint::{Endpoint as _, LocalEndpoint};
use fingerprint::experiment::{DrawSpec, Draws};
use fingerprint::generate::NoProgress;
use fingerprint::select::{SelectionFeatures, select};
use fingerprint::{ComparisonRule, GeneratorKind, InputGrid, SelectionRule};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::record::AttackRecord;
use super::subject::{Samples, Subject};
use super::{RULES, SELECTIONS};
use crate::pipeline::attacking;
use crate::report::progress::Progress;

/// Choices from the bags of one network.
pub(super) struct Choices(pub(super) Vec<(GeneratorKind, Vec<(SelectionRule, Draws)>)>);

impl Choices {
    /// # Errors
    /// Bags that are too small.
    pub(super) fn draw(subject: &Subject, spec: &DrawSpec) -> Result<Self> {
        let of_bag = |(kind, bag, _): &(GeneratorKind, _, _)| {
            let features = SelectionFeatures::new(subject.model.network(), bag)?;
            let of_rule = |rule| {
                let draws = if rule == SelectionRule::Random {
                    Draws::random(bag.len(), spec)
                } else {
                    Draws::chosen_by(bag.len(), spec, |pool, rng| {
                        Ok(select(rule, &features, spec.most, Some(pool), rng))
                    })
                };
                Ok((rule, draws?))
            };
            Ok((*kind, SELECTIONS.into_iter().map(of_rule).collect::<Result<_>>()?))
        };
        Ok(Self(subject.bags.iter().map(of_bag).collect::<Result<_>>()?))
    }
}

/// One attack to measure.
pub(super) struct Target {
    pub(super) kind: AttackKind,
    pub(super) strength: Option<f64>,
    pub(super) seed: u64,
}

/// What an attack did and who noticed; from the record, if it is known.
///
/// # Errors
/// A training that diverges, a record that cannot be written.
pub(super) fn attack_record(
    subject: &mut Subject,
    samples: &Samples,
    target: &Target,
    progress: &Progress,
) -> Result<AttackRecord> {
    let kind = target.kind;
    let strength = kind.dial().check(target.strength)?.to_string();
    if let Some(known) = subject.record.find(&kind.to_string(), &strength, target.seed) {
        return Ok(known.clone());
    }
    let bar = progress.spinner(format!("attacking, {kind} {strength}"));
    let mut record = AttackRecord {
        attack: kind.to_string(),
        strength,
        seed: target.seed,
        accuracy_after: 0.0,
        failure: None,
        kept_samples: None,
        detected: BTreeMap::new(),
    };
    // An instance that fails is a result, too: hours of others must not end with it.
    if let Err(error) = apply(subject, samples, target, &mut record) {
        record.failure = Some(format!("{error:#}"));
    }
    bar.finish(format!("attacked by {}", record.name()));
    subject.record.attacks.push(record.clone());
    subject.save()?;
    Ok(record)
}

/// Attack, and see who notices.
fn apply(
    subject: &Subject,
    samples: &Samples,
    target: &Target,
    record: &mut AttackRecord,
) -> Result<()> {
    let options = options(subject, samples, target)?;
    let attack = attack(target.kind, target.strength, &options)?;
    let data = AttackData::new(&samples.attack_train, &samples.attack_test)?;
    let mut rng = ChaCha8Rng::seed_from_u64(target.seed);
    let attacked = attack.apply(subject.model.network(), &data, &mut rng, &mut ())?;
    let report = &attacked.report;
    record.accuracy_after = report.clean_accuracy_after;
    record.kept_samples = report.kept_samples;
    match &report.success {
        Some(success) if success.worked => {}
        Some(success) => bail!(
            "reached {:.3} of {:.3}, lost {:.3} of accuracy, changed {} parameters",
            success.rate,
            success.target_rate,
            success.accuracy_loss,
            report.changed_weights,
        ),
        None => bail!("there is nothing to measure its success on"),
    }
    let mut endpoint = LocalEndpoint::new(&attacked.network, None)?;
    for (generator, bag, reference) in &subject.bags {
        let answers = endpoint.query(&bag.inputs)?;
        for rule in RULES {
            let rule: ComparisonRule = rule.parse()?;
            record.set_detected(*generator, rule, &rule.differs(reference, &answers)?);
        }
    }
    Ok(())
}

/// The papers' settings; the adaptive attacker uses the owner's generator on samples of their own.
fn options(subject: &Subject, samples: &Samples, target: &Target) -> Result<AttackOptions> {
    let mut options = AttackOptions::default();
    if target.kind == AttackKind::Adaptive {
        let recipe =
            (GeneratorKind::default(), samples.n_own, attacking::attackers_seed(target.seed));
        let (starts, grid) = (&samples.attack_train, InputGrid::bytes());
        let network = subject.model.network();
        let inputs = attacking::sensitive_of(network, starts, &grid, recipe, &NoProgress)?;
        options.sensitive_inputs = Some(inputs);
    }
    Ok(options)
}
