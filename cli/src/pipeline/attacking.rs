//! From a model and data to a tampered model.

use std::ops::ControlFlow;

use anyhow::Result;
use fingerprint::attack::{Attack, AttackData, Attacked};
use fingerprint::generate::generate;
use fingerprint::{GenerateProgress, GenerateSpec, GeneratorKind, InputGrid};
use ndarray::Array2;
use nn_poly::import::{Dataset, Split, resolve_data_path};
use nn_poly::layer::Layer;
use nn_poly::model::{Bits, Model, ModelSpec};
use nn_poly::network::Network;
use nn_poly::train::{BatchReport, EpochReport, LabeledSamples, Progress as Watcher};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::fingerprinting::SampleBar;
use super::source::{DataSource, check_shape};
use crate::failure::Hint;
use crate::report::progress::{Bar, Progress};

/// Sensitive samples an adaptive attacker makes.
pub(crate) const OWN_SAMPLES: usize = 200;

/// What an attacker has besides the model.
#[derive(Debug)]
pub(crate) struct AttackSamples {
    /// Name of the data.
    pub(crate) source: String,
    /// To retrain with.
    pub(crate) train: LabeledSamples,
    /// To measure on.
    pub(crate) test: LabeledSamples,
}

/// Load both parts of the data, as the model reads them; of the training part `n_samples` at most.
///
/// # Errors
/// Data that are missing, damaged, without labels, or of another shape or with other classes than the
/// model's.
pub(crate) fn load(
    model: &Model,
    source: &DataSource<'_>,
    n_samples: Option<u64>,
) -> Result<AttackSamples> {
    let train = load_part(model, source, Split::Train)?;
    let test = load_part(model, source, Split::Test)?;
    let limit = n_samples.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
    let preprocessing = &model.spec().preprocessing;
    Ok(AttackSamples {
        source: train.source().to_owned(),
        train: train.take(limit)?.labeled(preprocessing)?,
        test: test.labeled(preprocessing)?,
    })
}

fn load_part(model: &Model, source: &DataSource<'_>, split: Split) -> Result<Dataset> {
    let spec = model.spec();
    let (_, data) = source.load_for(split, spec)?;
    data.with_classes(&spec.class_names)
        .hint(|| format!("attack `{}` with the data it was trained on", spec.name))
}

/// The inputs of sensitive samples, as the model reads them.
///
/// # Errors
/// Data that are missing, damaged or of another shape.
pub(crate) fn load_sensitive(model: &Model, argument: &str) -> Result<Array2<f32>> {
    let path = resolve_data_path(argument)?;
    let spec = model.spec();
    let data = Dataset::load(&path, Split::All, &spec.split)?;
    check_shape(&data, "sensitive samples", &path, spec)?;
    Ok(spec.preprocessing.apply(data.features())?)
}

/// Sensitive samples that an attacker who knows the method makes for themselves: by the owner's
/// generator, on the owner's 8-bit grid, from training samples.
///
/// The owner's differ: theirs start from other samples and another seed.
///
/// # Errors
/// A generator that finds no samples of this network.
pub(crate) fn own_sensitive(
    model: &Model,
    samples: &AttackSamples,
    generator: GeneratorKind,
    seed: u64,
    progress: &Progress,
) -> Result<Array2<f32>> {
    let grid = InputGrid::of_preprocessing(&model.spec().preprocessing, 8)?;
    let name = format!("generating own samples, {generator}");
    let bar = SampleBar(progress.bar(name, OWN_SAMPLES as u64));
    let recipe = (generator, OWN_SAMPLES, attackers_seed(seed));
    let inputs = sensitive_of(model.network(), &samples.train, &grid, recipe, &bar)?;
    bar.0.finish(format!("generated {} own samples by {generator}", inputs.nrows()));
    Ok(inputs)
}

/// Samples by a generator (its kind, how many, seed), from natural ones.
///
/// # Errors
/// Those of [`generate`].
pub(crate) fn sensitive_of(
    network: &Network<f32>,
    starts: &LabeledSamples,
    grid: &InputGrid,
    (generator, count, seed): (GeneratorKind, usize, u64),
    progress: &dyn GenerateProgress,
) -> Result<Array2<f32>> {
    let spec = GenerateSpec::new(generator, count, seed, grid.clone());
    Ok(generate(network, starts.inputs(), &spec.check()?, progress)?.inputs)
}

/// A seed no owner of a fingerprint with the same `--seed` uses.
pub(crate) fn attackers_seed(seed: u64) -> u64 {
    seed ^ u64::from_le_bytes(*b"attacker")
}

/// A class by its name or its number.
///
/// # Errors
/// A word that is neither.
pub(crate) fn class(model: &Model, word: &str) -> Result<u32> {
    let names = &model.spec().class_names;
    let position = names.iter().position(|name| name == word).or_else(|| word.parse().ok());
    match position.filter(|&position| position < names.len()) {
        Some(position) => Ok(u32::try_from(position)?),
        None => Err(anyhow::anyhow!("the model has no class `{word}`")).hint(|| {
            format!("give a name or a number from 0 to {}", names.len().saturating_sub(1))
        }),
    }
}

/// Attack, showing every epoch.
///
/// # Errors
/// Samples that do not fit, missing classes, or a training that diverges.
pub(crate) fn apply(
    attack: &dyn Attack,
    model: &Model,
    samples: &AttackSamples,
    seed: u64,
    progress: &Progress,
) -> Result<Attacked> {
    let data = AttackData::new(&samples.train, &samples.test)?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut watcher = Epochs { progress, bar: None };
    Ok(attack.apply(model.network(), &data, &mut rng, &mut watcher)?)
}

/// The model with a tampered network; everything else stays, except the accuracy that is known of it.
///
/// # Errors
/// Never for the network of [`apply`] on this model.
pub(crate) fn tampered_model(model: &Model, attacked: Attacked) -> Result<Model> {
    let original = model.spec().clone();
    let mut training = original.training.clone();
    training.accuracy = Some(attacked.report.clean_accuracy_after);
    training.float_accuracy = None;
    let network = attacked.network;
    let bits = original.bits.map(|bits| Bits { weight: weight_bits(&network, bits), ..bits });
    Ok(Model::new(ModelSpec { network, training, bits, ..original })?)
}

/// Bits of the coarsest grid that the layers round their weights to.
#[expect(clippy::wildcard_enum_match_arm, reason = "only layers with weights matter")]
fn weight_bits(network: &Network<f32>, bits: Bits) -> u32 {
    let of_layer = |layer: &Layer<f32>| match layer {
        Layer::Dense(dense) => dense.weight_quantizer.as_ref().map(|quantizer| quantizer.bits),
        Layer::Conv2d(conv) => conv.weight_quantizer.as_ref().map(|quantizer| quantizer.bits),
        _ => None,
    };
    network.layers().iter().filter_map(of_layer).min().unwrap_or(bits.weight)
}

/// A bar per epoch of retraining.
struct Epochs<'a> {
    progress: &'a Progress,
    bar: Option<Bar>,
}

impl Watcher for Epochs<'_> {
    fn batch(&mut self, report: &BatchReport) -> ControlFlow<()> {
        let bar = self.bar.get_or_insert_with(|| {
            let name = format!("retraining, epoch {}/{}", report.epoch, report.n_epochs);
            self.progress.bar(name, report.n_batches)
        });
        bar.advance(1);
        bar.message(format!("loss {:.4}", report.loss));
        ControlFlow::Continue(())
    }

    fn epoch(&mut self, _: &EpochReport) {
        self.bar = None;
    }
}
