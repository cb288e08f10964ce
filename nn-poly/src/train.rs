//! Training: data in mini-batches, loss, optimizers, schedules, and the loop around them.
//!
//! ```no_run
//! use nn_poly::import::{Dataset, PreprocessingKind, Split, SplitSpec};
//! use nn_poly::network::{ActivationChoice, NetworkKind};
//! use nn_poly::train::{TrainRecipe, Trainer, evaluate};
//!
//! # fn main() -> nn_poly::Result<()> {
//! let spec = SplitSpec::default();
//! let data = Dataset::load("wine.csv".as_ref(), Split::Train, &spec)?;
//! let recipe = TrainRecipe::for_network(NetworkKind::Mlp, ActivationChoice::Square, data.n_samples());
//! let preprocessing = recipe.preprocessing.fit(data.features())?;
//! let samples = data.labeled(&preprocessing)?;
//! let network = recipe.architecture.build(data.shape(), data.n_classes(), 7)?;
//! let mut trainer = Trainer::new(network, recipe.float.with_seed(7).check()?)?;
//! trainer.run(&samples, &mut ())?;
//! println!("{}", evaluate(trainer.network(), &samples)?.accuracy());
//! # Ok(())
//! # }
//! ```
//!
//! Quantization-aware training is ordinary training of a network that contains quantizers; use
//! [`TrainRecipe::fine_tune`] for it.
//!
//! A trained ReLU network becomes polynomial in three steps: [`polynomialize()`] replaces each ReLU by a
//! blend with a fitted polynomial, a run of the trainer moves the blend over, and [`finish_blending`]
//! leaves the polynomials alone.
//!
//! **Variations.** [`Trainer::restricted_to`] freezes layers or single values (a pruned weight stays
//! zero); [`Trainer::run_with`] replaces cross-entropy, for instance by agreement with a teacher.
//!
//! **Reproducibility.** Order, augmentation and dropout of step `k` depend on the seed and on `k` alone,
//! so that a run resumed from a checkpoint continues exactly as if it had never stopped.

mod augment;
mod checkpoint;
mod config;
mod evaluate;
mod loss;
mod optimizer;
mod polynomialize;
mod recipe;
mod samples;
mod trainable;
mod trainer;

pub use augment::Augmentation;
pub use checkpoint::Checkpoint;
pub use config::{BlendSpec, Optimizer, Schedule, TrainConfig, TrainSpec};
pub use evaluate::{Evaluation, evaluate};
pub use loss::{
    CrossEntropy, Distillation, FunctionMatching, LabelsAndScores, Loss, LossBatch,
    softmax_cross_entropy,
};
pub use polynomialize::{
    FitChoice, Limit, Polynomialization, Polynomialized, ReplacedLayer, finish_blending,
    polynomialize,
};
pub use recipe::TrainRecipe;
pub use samples::LabeledSamples;
pub use trainable::{Trainable, TrainableParameters};
pub use trainer::{BatchReport, EpochReport, Outcome, Progress, Trainer};
