//! What is classified: drawn digits with a random network, or real data with a trained model.

use std::path::Path;

use anyhow::{Result, bail};
use ndarray::Array2;
use nn_poly::Shape;
use nn_poly::import::synthetic_digits::{N_CLASSES, SIDE, synthetic_digits};
use nn_poly::import::{Split, SplitSpec};
use nn_poly::model::{Model, ModelSpec, TrainingRecord};
use nn_poly::network::{ActivationChoice, NetworkKind};
use nn_poly::plan::{ActivationSide, Plan, PlanOptions};
use nn_poly::train::TrainRecipe;

use crate::kind::FileKind;
use crate::options::BitsChoice;
use crate::pipeline::compiling;
use crate::pipeline::source::DataSource;

/// Samples the ranges of a random network are calibrated on.
const CALIBRATION_SAMPLES: usize = 1000;

/// A model and raw samples for it.
#[derive(Debug)]
pub(in crate::commands) struct Workload {
    model: Model,
    calibration: Array2<f32>,
    /// Raw features, one row per sample.
    pub(in crate::commands) samples: Array2<f32>,
    /// What it is, in a few words.
    pub(in crate::commands) description: String,
}

impl Workload {
    /// A network that was never trained, with weights from `seed`, and `n_samples` drawn digits.
    ///
    /// # Errors
    /// Only broken invariants: the networks fit the digits.
    pub(in crate::commands) fn random(
        kind: NetworkKind,
        n_samples: usize,
        seed: u64,
    ) -> Result<Self> {
        let recipe = TrainRecipe::for_network(kind, ActivationChoice::Square, n_samples);
        let shape = Shape::image(SIDE, SIDE, 1)?;
        let (images, _) = synthetic_digits(CALIBRATION_SAMPLES + n_samples, seed);
        let (calibration, samples) = images.view().split_at(ndarray::Axis(0), CALIBRATION_SAMPLES);
        let (calibration, samples) = (calibration.to_owned(), samples.to_owned());
        let model = Model::new(ModelSpec {
            name: format!("{kind}-random"),
            kind,
            activation: ActivationChoice::Square,
            network: recipe.architecture.build(&shape, N_CLASSES, seed)?,
            preprocessing: recipe.preprocessing.fit(&calibration)?,
            split: SplitSpec::default(),
            class_names: (0..N_CLASSES).map(|digit| digit.to_string()).collect(),
            bits: None,
            training: TrainingRecord { seed, ..TrainingRecord::default() },
            data_source: "drawn digits".to_owned(),
        })?;
        let bits = compiling::bits(&model, BitsChoice::Default);
        let description =
            format!("{kind} with random weights ({bits} bits, seed {seed}) on drawn digits");
        Ok(Self { model, calibration, samples, description })
    }

    /// A trained model and the first `n_samples` samples of the test part of its data.
    ///
    /// # Errors
    /// A model or data that cannot be read or do not fit each other, or too few samples.
    pub(in crate::commands) fn trained(
        model: &Path,
        data: &DataSource<'_>,
        n_samples: usize,
    ) -> Result<Self> {
        FileKind::Model.expect_of(model)?;
        let model = Model::load(model)?;
        let spec = model.spec();
        let (_, calibration) = data.load_for(Split::Train, spec)?;
        let (source, samples) = data.load_for(Split::Test, spec)?;
        if samples.n_samples() < n_samples {
            bail!(
                "the test part of {} has {} samples, not {n_samples}: lower --samples",
                source.display(),
                samples.n_samples()
            );
        }
        let bits = compiling::bits(&model, BitsChoice::Default);
        let description = format!("{} ({bits} bits) on {data}", spec.name);
        let (calibration, samples) =
            (calibration.features().clone(), samples.take(n_samples)?.features().clone());
        Ok(Self { model, calibration, samples, description })
    }

    /// A plan for batches of `expected_samples`.
    ///
    /// # Errors
    /// No parameters for the network.
    pub(in crate::commands) fn compile(
        &self,
        side: ActivationSide,
        expected_samples: u64,
    ) -> Result<Plan> {
        let options =
            PlanOptions { activation_side: side, expected_samples, ..PlanOptions::default() };
        let bits = compiling::bits(&self.model, BitsChoice::Default);
        Ok(compiling::compile_model(&self.model, bits, &self.calibration, &options)?.plan)
    }
}
